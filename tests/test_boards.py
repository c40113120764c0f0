"""The boards: one contract for all of them, and what each has of its own."""

import bisect
import dataclasses
import importlib
import itertools
import os
import queue
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import Program, wait_until

from powermeter import settings
from powermeter.boards import open_board
from powermeter.boards.rpi_gpio import RPiGPIOBoard
from powermeter.boards.simulated import DAY_S, SimulatedBoard, constant, flashes, household, simulated_load
from powermeter.errors import BoardError
from powermeter.lamps import Lamp
from powermeter.meter import NS_PER_S

STANDIN = Path(__file__).parent / "standin"

#: The settings of two meters on the header; the lamps are on pins 12 and 16.
TWO_METERS = """
METERS = {
    "house": {"pin": 18, "impulses_per_kwh": 1000},
    "heat": {"pin": 22, "impulses_per_kwh": 1000},
}
"""
PINS = (18, 22)

PATIENCE_S = 20

#: A flash of 1/1000 kWh in a step whose product with its time is exact.
STEP_S = 2**-9
FLASH_WATTS = 3600 / STEP_S


@pytest.fixture
def two_meters(tmp_path):
    path = tmp_path / "settings.py"
    path.write_text(TWO_METERS)
    path.chmod(0o600)
    return settings.read(str(path))


@pytest.fixture
def gpio(tmp_path, monkeypatch):
    """The stand-in for RPi.GPIO, as the board will import it, new and with a FIFO and a log of its own."""
    os.mkfifo(tmp_path / "edges")
    monkeypatch.setenv("STANDIN_GPIO_FIFO", str(tmp_path / "edges"))
    monkeypatch.setenv("STANDIN_GPIO_LOG", str(tmp_path / "pins.log"))
    monkeypatch.delenv("STANDIN_GPIO_FAIL", raising=False)
    monkeypatch.syspath_prepend(str(STANDIN))
    forget_gpio()
    yield importlib.import_module("RPi.GPIO")
    forget_gpio()


def forget_gpio():
    sys.modules.pop("RPi.GPIO", None)
    sys.modules.pop("RPi", None)


class Header:
    """The pins, by the stand-in, and a board on them; edges come when the test plays them."""

    def __init__(self, two_meters, order, tmp_path, gpio):
        self._gpio, self._order = gpio, iter(order)
        self._fifo, self._log = tmp_path / "edges", tmp_path / "pins.log"
        self.board = RPiGPIOBoard(two_meters)

    def play(self, flashes):
        with self._fifo.open("w") as fifo:
            fifo.writelines(f"{PINS[meter]}\n" for meter in itertools.islice(self._order, flashes))

    def go_on(self):
        """Let both meters flash, and return once the library has taken that: it takes edges in their order."""
        taken = threading.Event()
        self._gpio.setup(40, self._gpio.IN)
        self._gpio.add_event_detect(40, self._gpio.FALLING, callback=lambda _pin: taken.set())
        with self._fifo.open("w") as fifo:
            fifo.write("18\n22\n40\n")
        assert taken.wait(PATIENCE_S)
        self._gpio.remove_event_detect(40)

    def lit(self, lamp):
        return bool(self._gpio.input(12 if lamp is Lamp.L1 else 16))

    def given_back(self):
        in_use = [pin for pin in (*PINS, 12, 16) if pin in self._gpio._directions or pin in self._gpio._watched]
        return self._log.read_text().splitlines()[-1] == "cleanup 18 22 12 16" and not in_use


class Simulation:
    """A simulated board whose meters flash in turn, 2 ms apart, from its making on."""

    def __init__(self, two_meters, order, tmp_path, gpio):
        self._two_meters = two_meters
        orders = dict(zip(("house", "heat"), itertools.tee(order), strict=True))
        self.board = SimulatedBoard(
            two_meters,
            lambda name: (
                (STEP_S, FLASH_WATTS if two_meters.meters[meter].name == name else 0.0) for meter in orders[name]
            ),
        )

    def play(self, flashes):
        """They come by themselves."""

    def go_on(self):
        """Return once another board of this pace has flashed twenty times."""
        other = Simulation(self._two_meters, itertools.cycle([0, 1]), None, None)
        seen = queue.SimpleQueue()
        other.board.watch(seen.put)
        for _ in range(20):
            seen.get(timeout=PATIENCE_S)
        other.board.close()

    def lit(self, lamp):
        return self.board.lit[lamp]

    def given_back(self):
        return "simulated meter" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture(params=[Header, Simulation])
def made(request, two_meters, tmp_path, gpio):
    """Makes the board under test for meters that flash in the order given; closes it at the end."""
    rigs = []

    def make(order):
        rigs.append(request.param(two_meters, order, tmp_path, gpio))
        return rigs[0]

    yield make
    for rig in rigs:
        rig.board.close()


class TestContract:
    """What the rest of the program may rely on, whatever the board."""

    def test_edges_come_in_order_with_their_meter_and_time(self, made):
        """Every edge comes once, in order, as the meter's place in the settings and its monotonic time in ns."""
        order = [0, 1, 1, 0, 0, 0, 1, 0, 1, 1] * 5
        before_ns = time.monotonic_ns()
        rig, seen = made(order), queue.SimpleQueue()
        rig.board.watch(seen.put)
        rig.play(len(order))
        edges = [seen.get(timeout=PATIENCE_S) for _ in order]
        assert [meter for meter, _ in edges] == order
        times_ns = [at_ns for _, at_ns in edges]
        assert all(isinstance(at_ns, int) for at_ns in times_ns)
        assert times_ns == sorted(times_ns)
        assert before_ns <= times_ns[0]
        assert times_ns[-1] <= time.monotonic_ns()
        rig.board.unwatch()
        assert seen.empty()

    def test_no_edge_after_unwatch(self, made):
        """Once unwatch has returned no edge comes, though the meters flash on."""
        rig, seen = made(itertools.cycle([0, 1])), queue.SimpleQueue()
        rig.board.watch(seen.put)
        rig.play(6)
        for _ in range(6):
            seen.get(timeout=PATIENCE_S)
        rig.board.unwatch()
        left = seen.qsize()
        rig.go_on()
        assert seen.qsize() == left

    def test_unwatch_and_close_may_be_called_twice(self, made):
        """The ends may be called twice, in the order in which a stop calls them, and without a watch before."""
        rig = made([0])
        rig.board.unwatch()
        rig.board.watch(lambda _edge: None)
        for end in (rig.board.unwatch, rig.board.unwatch, rig.board.close, rig.board.close, rig.board.unwatch):
            end()
        assert rig.given_back()

    def test_lamps_are_lit_one_by_one(self, made):
        """Each lamp shows what it was last told, and starts dark."""
        rig = made([])
        shown = [(rig.lit(Lamp.L1), rig.lit(Lamp.L2))]
        for lamp, lit in ((Lamp.L1, True), (Lamp.L2, True), (Lamp.L1, False), (Lamp.L1, False), (Lamp.L2, False)):
            rig.board.light(lamp, lit)
            shown.append((rig.lit(Lamp.L1), rig.lit(Lamp.L2)))
        assert shown == [
            (False, False),
            (True, False),
            (True, True),
            (False, True),
            (False, True),
            (False, False),
        ]

    def test_close_gives_the_pins_back(self, made):
        """Closing a watched board ends its edges and leaves nothing behind; a lamp told later is no error."""
        rig = made(itertools.cycle([0, 1]))
        rig.board.watch(lambda _edge: None)
        assert not rig.given_back()
        rig.board.close()
        assert rig.given_back()
        rig.board.light(Lamp.L1, True)


class TestRPiGPIO:
    """The board over RPi.GPIO."""

    def test_edges_close_together_all_come(self, two_meters, tmp_path, gpio):
        """A thousand edges in one go all arrive: no bouncetime of the library's takes any."""
        rig, seen = Header(two_meters, itertools.repeat(0), tmp_path, gpio), queue.SimpleQueue()
        rig.board.watch(seen.put)
        rig.play(1000)
        edges = [seen.get(timeout=PATIENCE_S) for _ in range(1000)]
        assert len(set(edges)) == 1000
        rig.board.close()

    def test_pins_are_set_up_without_a_pull(self, two_meters, tmp_path, gpio):
        """The inputs have no internal pull, the outputs start dark, and nothing else is touched."""
        RPiGPIOBoard(two_meters).close()
        assert (tmp_path / "pins.log").read_text().splitlines() == [
            "setup 18 IN",
            "setup 22 IN",
            "setup 12 OUT",
            "output 12 0",
            "setup 16 OUT",
            "output 16 0",
            "cleanup 18 22 12 16",
        ]

    def test_pins_by_their_bcm_numbers(self, two_meters, tmp_path, gpio):
        """PIN_NUMBERING = "BCM" reaches the library."""
        RPiGPIOBoard(dataclasses.replace(two_meters, pin_numbering="BCM", l1_pin=0)).close()
        assert gpio.getmode() == gpio.BCM

    def test_a_lamp_that_is_not_fitted(self, two_meters, tmp_path, gpio):
        """A lamp set to None has no pin, and lighting it does nothing."""
        board = RPiGPIOBoard(dataclasses.replace(two_meters, l1_pin=None))
        board.light(Lamp.L1, True)
        board.light(Lamp.L2, True)
        board.close()
        log = (tmp_path / "pins.log").read_text().splitlines()
        assert log[2:] == ["setup 16 OUT", "output 16 0", "output 16 1", "cleanup 18 22 16"]

    def test_auto_opens_it(self, two_meters, gpio):
        """GPIO_LIBRARY "auto" and "RPi.GPIO" both give this board."""
        for name in ("auto", "RPi.GPIO"):
            board = open_board(dataclasses.replace(two_meters, gpio_library=name))
            assert isinstance(board, RPiGPIOBoard)
            board.close()

    def test_library_missing(self, two_meters, monkeypatch):
        """Without the library: one line that says so, what to install, from Debian too, and --simulate."""
        forget_gpio()
        monkeypatch.setitem(sys.modules, "RPi", None)
        assert_names_the_way_out(raised_by(two_meters), "RPi.GPIO is missing")

    def test_off_a_pi(self, two_meters, gpio, monkeypatch):
        """Where this is no Pi: one line with the library's own words, what to install, and --simulate."""
        monkeypatch.setenv("STANDIN_GPIO_FAIL", "import")
        forget_gpio()
        assert_names_the_way_out(raised_by(two_meters), "This module can only be run on a Raspberry Pi!")

    def test_a_pin_that_this_pi_has_not(self, two_meters, tmp_path, gpio):
        """A pin that the library does not know (a Pi with 26 pins): one line, no other error from giving pins back."""
        house, heat = two_meters.meters
        short = dataclasses.replace(two_meters, meters=(house, dataclasses.replace(heat, pin=27)))
        text = raised_by(short)
        assert "The channel sent is invalid on a Raspberry Pi" in text
        assert "\n" not in text
        assert not gpio._directions, "the first meter's pin was not given back"

    def test_edge_detection_failing(self, two_meters, tmp_path, gpio, monkeypatch):
        """Where the library can't watch (RPi.GPIO with Linux 6.6): one line, the library that can, and --simulate."""
        monkeypatch.setenv("STANDIN_GPIO_FAIL", "edges")
        board = RPiGPIOBoard(two_meters)
        with pytest.raises(BoardError) as error:
            board.watch(lambda _edge: None)
        assert_names_the_way_out(str(error.value), "Failed to add edge detection")
        assert "pin 18" in str(error.value)
        board.close()
        assert (tmp_path / "pins.log").read_text().splitlines()[-1] == "cleanup 18 22 12 16"

    @pytest.mark.parametrize("fail", ["import", "edges"])
    @pytest.mark.parametrize("how", ["--nodaemon", "daemon"])
    def test_the_program_ends_where_it_could_not_count(self, tmp_path, fail, how):
        """Without working pins no program is left that counts nothing: exit 1, and the reason in one line."""
        env = {"PYTHONPATH": str(STANDIN), "STANDIN_GPIO_FAIL": fail}
        with Program(tmp_path, env=env) as program:
            done = program.run(*([] if how == "daemon" else [how]))
            assert done.returncode == 1
            reasons = [line for line in done.stderr.splitlines() if line.startswith("power: ")]
            assert len(reasons) == 1, done.stderr
            assert_names_the_way_out(
                reasons[0], "Raspberry Pi!" if fail == "import" else "Failed to add edge detection"
            )
            assert program.pid is None


def raised_by(two_meters):
    with pytest.raises(BoardError) as error:
        RPiGPIOBoard(two_meters)
    return str(error.value)


def assert_names_the_way_out(text, reason):
    for words in (reason, "rpi-lgpio", "apt install python3-rpi-lgpio", "--simulate"):
        assert words in text
    assert "\n" not in text


class TestStandin:
    """The stand-in is as strict as the library: else the tests through it would let misuse pass."""

    @pytest.mark.parametrize(
        ("misuse", "error", "words"),
        [
            (lambda gpio: gpio.setup(18, gpio.IN), RuntimeError, "set pin numbering mode"),
            (lambda gpio: gpio.setmode(12), ValueError, "invalid mode"),
            (lambda gpio: (gpio.setmode(gpio.BCM), gpio.setmode(gpio.BOARD)), ValueError, "different mode"),
            (lambda gpio: (gpio.setmode(gpio.BOARD), gpio.setup(1, gpio.IN)), ValueError, "channel sent is invalid"),
            (lambda gpio: (gpio.setmode(gpio.BOARD), gpio.setup(18, 2)), ValueError, "invalid direction"),
            (lambda gpio: (gpio.setmode(gpio.BOARD), gpio.output(12, 1)), RuntimeError, "not been set up as an OUTPUT"),
            (lambda gpio: (gpio.setmode(gpio.BOARD), gpio.input(12)), RuntimeError, "must setup"),
            (
                lambda gpio: (gpio.setmode(gpio.BOARD), gpio.add_event_detect(18, gpio.FALLING)),
                RuntimeError,
                "as an input first",
            ),
            (lambda gpio: watching(gpio, gpio.FALLING, callback=1), TypeError, "callable"),
            (lambda gpio: watching(gpio, 30), ValueError, "RISING, FALLING or BOTH"),
            (lambda gpio: watching(gpio, gpio.FALLING, bouncetime=0), ValueError, "greater than 0"),
            (
                lambda gpio: (watching(gpio, gpio.FALLING), gpio.add_event_detect(18, gpio.FALLING)),
                RuntimeError,
                "Conflicting edge detection",
            ),
            (lambda gpio: gpio.cleanup(), RuntimeWarning, "nothing to clean up"),
        ],
    )
    def test_misuse_is_refused(self, gpio, misuse, error, words):
        """What RPi.GPIO refuses, the stand-in refuses, with the same error."""
        with pytest.raises(error, match=words):
            misuse(gpio)
        gpio.setwarnings(False)
        gpio.cleanup()

    def test_a_bouncetime_takes_edges(self, gpio, tmp_path):
        """A bouncetime holds edges back, as the library's does: that none is used can be seen."""
        seen = queue.SimpleQueue()
        watching(gpio, gpio.FALLING, callback=seen.put, bouncetime=3_600_000)
        gpio.setup(40, gpio.IN)
        gpio.add_event_detect(40, gpio.FALLING, callback=seen.put)
        with (tmp_path / "edges").open("w") as fifo:
            fifo.write("18\n18\n18\n40\n")
        assert [seen.get(timeout=PATIENCE_S) for _ in range(2)] == [18, 40]
        gpio.cleanup()


def watching(gpio, edge, **options):
    gpio.setmode(gpio.BOARD)
    gpio.setup(18, gpio.IN)
    gpio.add_event_detect(18, edge, **options)


def joules(steps):
    return sum(seconds * watts for seconds, watts in steps)


def first_day(load):
    """The steps of a load's first 24 hours."""
    left_s, steps = DAY_S, []
    for seconds, watts in load:
        steps.append((min(seconds, left_s), watts))
        left_s -= seconds
        if left_s <= 1e-6:
            return steps
    return steps


class TestSimulated:
    """The simulated meter."""

    @pytest.mark.parametrize("seed", ["house", "heat", "x"])
    @pytest.mark.parametrize("impulses_per_kwh", [75, 800, 1000, 3200])
    def test_a_household_day_to_one_pulse(self, seed, impulses_per_kwh):
        """A household's day flashes as often as its energy is worth, to one pulse."""
        expected = joules(first_day(household(0, seed))) / 3.6e6 * impulses_per_kwh
        day_ns = DAY_S * NS_PER_S
        times_ns = itertools.takewhile(lambda at_ns: at_ns <= day_ns, flashes(household(0, seed), impulses_per_kwh, 0))
        assert abs(sum(1 for _ in times_ns) - expected) <= 1

    @pytest.mark.parametrize("watts", [0.1, 230.0, 1234.5, 24_000.0])
    def test_a_constant_day_to_one_pulse(self, watts):
        """A constant load's day flashes as often as its energy is worth, to one pulse, and evenly."""
        times_ns = list(itertools.takewhile(lambda at_ns: at_ns <= DAY_S * NS_PER_S, flashes(constant(watts), 1000, 0)))
        assert abs(len(times_ns) - watts * DAY_S / 3600) <= 1
        assert {later - at_ns - round(3600e9 / watts) for at_ns, later in itertools.pairwise(times_ns)} <= {-1, 0, 1}

    def test_a_household_is_a_plausible_one(self):
        """A household's day has a household's energy, 3 to 12 kWh, and its power is never below the base load."""
        for seed in ("house", "heat", "x"):
            steps = first_day(household(0, seed))
            assert 3 < joules(steps) / 3.6e6 < 12
            assert sum(seconds for seconds, _ in steps) == pytest.approx(DAY_S)
            assert min(watts for _, watts in steps) >= 90

    @given(
        st.lists(st.tuples(st.floats(0, 600), st.just(0.0) | st.floats(0.1, 10_000)), max_size=6),
        st.sampled_from([75, 800, 1000, 3200]),
        st.integers(0, 2**40),
    )
    def test_any_load_to_one_pulse(self, steps, impulses_per_kwh, start_ns):
        """Whatever the steps of a load, it flashes as often as its energy is worth, in order, and within its time."""
        times_ns = list(flashes(iter(steps), impulses_per_kwh, start_ns))
        assert abs(len(times_ns) - joules(steps) / 3.6e6 * impulses_per_kwh) <= 1
        end_ns = start_ns + round(sum(seconds for seconds, _ in steps) * NS_PER_S) + len(steps)
        assert [start_ns, *times_ns, end_ns] == sorted([start_ns, *times_ns, end_ns])

    @given(st.floats(0.1, 10_000), st.lists(st.floats(0.01, 100), min_size=1, max_size=30))
    def test_steps_of_one_power_are_one_step(self, watts, durations_s):
        """A load that is cut into steps flashes when the uncut one does: nothing is lost where steps meet."""
        cut = list(flashes(((seconds, watts) for seconds in durations_s), 1000, 0))
        whole = flashes(iter([(sum(durations_s) + 1, watts)]), 1000, 0)
        for at_ns, uncut_ns in zip(cut, whole, strict=False):
            assert abs(at_ns - uncut_ns) <= 1000

    def test_a_seed_gives_the_same_days(self):
        """The same seed gives the same days, another one others; and no two days are alike."""
        house, again, other = (list(itertools.islice(household(0, seed), 500)) for seed in ("a", "a", "b"))
        assert house == again
        assert house != other
        day = len(first_day(household(0, "a")))
        assert house[:day] != house[day : 2 * day]

    @given(st.integers(0, DAY_S - 1))
    def test_a_day_begun_later_is_the_rest_of_that_day(self, from_s):
        """A household begun in the middle of a day has the rest of that day before it, and then the same next day."""
        whole = flashes(household(0, "a"), 1000, 0)
        later = flashes(itertools.chain([(from_s, 0.0)], household(from_s, "a")), 1000, 0)
        # Pulses do not fall together, as each begins with a full one; powers between them do.
        of_day = list(itertools.takewhile(lambda at_ns: at_ns < 2 * DAY_S * NS_PER_S, whole))
        of_rest = list(itertools.takewhile(lambda at_ns: at_ns < 2 * DAY_S * NS_PER_S, later))
        skipped = bisect.bisect(of_day, from_s * NS_PER_S)
        for at_ns, early_ns, late_ns in zip(of_rest, of_day[skipped:], of_day[skipped + 1 :], strict=False):
            assert early_ns - 1000 <= at_ns <= late_ns + 1000

    def test_a_start_in_the_past_comes_at_once(self, two_meters):
        """Begun an hour ago, the hour's flashes come at once and in order, each with the time it had."""
        start_ns = time.monotonic_ns() - 3600 * NS_PER_S
        loads = {"house": 1000.0, "heat": 500.0}
        board = SimulatedBoard(two_meters, lambda name: constant(loads[name]), start_ns)
        seen = queue.SimpleQueue()
        board.watch(seen.put)
        edges = [seen.get(timeout=PATIENCE_S) for _ in range(1500)]
        board.close()
        for meter, spacing_ns, pulses in ((0, 3_600_000_000, 1000), (1, 7_200_000_000, 500)):
            times_ns = [at_ns - start_ns for index, at_ns in edges if index == meter]
            # A nanosecond or so of rounding, after an hour.
            assert times_ns == pytest.approx([spacing_ns * pulse for pulse in range(1, pulses + 1)], rel=0, abs=10)
        assert edges == sorted(edges, key=lambda edge: edge[1])

    def test_what_simulate_asks_for(self):
        """--simulate WATTS is that load for every meter; without WATTS each meter has a household of its own."""
        load = simulated_load(1234.5)
        assert [next(load(name))[1] for name in ("house", "heat")] == [1234.5, 1234.5]
        household_of = simulated_load(None)
        days = [list(itertools.islice(household_of(name), 200)) for name in ("house", "heat")]
        assert days[0] != days[1]

    def test_waiting_for_a_flash_ends_at_once(self, two_meters):
        """A board whose next flash is hours away can be closed: its thread does not sleep that long."""
        board = SimulatedBoard(two_meters, lambda _name: constant(0.1))
        board.watch(lambda _edge: None)
        wait_until(lambda: "simulated meter" in [thread.name for thread in threading.enumerate()])
        board.close()
        assert "simulated meter" not in [thread.name for thread in threading.enumerate()]
