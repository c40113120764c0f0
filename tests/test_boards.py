"""The boards: one contract for all of them, and what each has of its own; gpiod's on a real kernel: tests/kernel."""

import bisect
import dataclasses
import importlib
import importlib.util
import itertools
import os
import queue
import subprocess
import sys
import threading
import time
import types

import pytest
from contracts import BoardContract, readable, taken
from hypothesis import given
from hypothesis import strategies as st
from pins import STANDIN
from program import PATIENCE_S, SOURCE, Program, wait_until

from powermeter.boards import EdgeQueue, gpiod, open_board, rpi_gpio
from powermeter.boards.gpiod import GpiodBoard
from powermeter.boards.rpi_gpio import SETTLE_S, STALL_S, WITNESS_S, RPiGPIOBoard, _Witness
from powermeter.boards.simulated import DAY_S, SimulatedBoard, constant, flashes, household, simulated_load
from powermeter.errors import BoardError, NoBoardError
from powermeter.lamps import Lamp
from powermeter.meter import NS_PER_S, Edge
from powermeter.settings import reading

#: The settings of two meters on the header; the lamps are on pins 12 and 16.
TWO_METERS = """
METERS = {
    "house": {"pin": 18, "impulses_per_kwh": 1000},
    "heat": {"pin": 22, "impulses_per_kwh": 1000},
}
"""
PINS = (18, 22)

#: A flash of 1/1000 kWh in a step whose product with its time is exact.
STEP_S = 2**-9
FLASH_WATTS = 3600 / STEP_S


@pytest.fixture
def two_meters(tmp_path):
    path = tmp_path / "settings.py"
    path.write_text(TWO_METERS)
    path.chmod(0o600)
    return reading.read(str(path))


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
        other.board.watch()
        taken(other.board, 20)
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


class TestContract(BoardContract):
    """What every board must do, of those of the program that need no kernel."""


class TestEdgeQueue:
    """The way from a library's thread to the recorder's."""

    def test_readable_exactly_while_an_edge_waits(self):
        """The descriptor is readable from an edge on until all are taken, however many came."""
        edges = EdgeQueue()
        assert not readable(edges)
        assert edges.take() == []
        for number in range(3):
            edges.put(Edge(0, number))
            assert readable(edges)
        assert edges.take() == [Edge(0, 0), Edge(0, 1), Edge(0, 2)]
        assert not readable(edges)
        edges.put(Edge(1, 3))
        assert readable(edges)
        assert edges.take() == [Edge(1, 3)]
        assert not readable(edges)
        edges.close()

    def test_a_wake_up_for_nothing_does_not_spin(self):
        """If an edge is taken before its thread has sent the wake-up, there is one more wake-up, without an edge."""
        edges = EdgeQueue()
        edges.put(Edge(0, 1))
        assert edges.take() == [Edge(0, 1)]
        os.eventfd_write(edges.fileno(), 1)
        assert readable(edges)
        assert edges.take() == []
        assert not readable(edges)
        edges.close()

    def test_edges_of_several_threads(self):
        """Edges that several threads put while another takes all come once, those of a thread in its order."""
        edges, threads_of, each = EdgeQueue(), 6, 2000
        together = threading.Barrier(threads_of)

        def put(index):
            together.wait()
            for number in range(each):
                edges.put(Edge(index, number))

        threads = [threading.Thread(target=put, args=(index,)) for index in range(threads_of)]
        for thread in threads:
            thread.start()
        found = taken(edges, threads_of * each)
        for thread in threads:
            thread.join(PATIENCE_S)
        assert edges.take() == []
        assert not readable(edges)
        assert len(found) == threads_of * each
        for index in range(threads_of):
            assert [edge.at_ns for edge in found if edge.meter == index] == list(range(each))
        edges.close()

    def test_closing_gives_the_descriptor_back(self):
        """close() may be called twice, and closes no descriptor that another has got since."""
        edges = EdgeQueue()
        edges.close()
        other = EdgeQueue()
        edges.close()
        other.put(Edge(0, 1))
        assert other.take() == [Edge(0, 1)]
        other.close()


class TestRPiGPIO:
    """The board over RPi.GPIO."""

    def test_edges_close_together_all_come(self, two_meters, tmp_path, gpio):
        """A thousand edges in one go all arrive: no bouncetime of the library's takes any."""
        rig = Header(two_meters, itertools.repeat(0), tmp_path, gpio)
        rig.board.watch()
        rig.play(1000)
        edges = taken(rig.board, 1000)
        assert len(edges) == len(set(edges)) == 1000
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

    def test_its_name_opens_it(self, two_meters, gpio):
        """GPIO_LIBRARY "RPi.GPIO" gives this board, whatever else there is."""
        board = open_board(dataclasses.replace(two_meters, gpio_library="RPi.GPIO"))
        assert isinstance(board, RPiGPIOBoard)
        board.close()

    def test_an_input_is_lit_while_its_collector_is_low(self, two_meters, tmp_path, gpio):
        """Each meter's own input tells whether it is lit: low is light, as the circuit has it."""
        board = RPiGPIOBoard(two_meters)
        board.watch()
        for levels in ((gpio.LOW, gpio.HIGH), (gpio.HIGH, gpio.LOW), (gpio.LOW, gpio.LOW), (gpio.HIGH, gpio.HIGH)):
            gpio._levels.update(zip(PINS, levels, strict=True))
            assert [board.sees_light(meter) for meter in (0, 1)] == [level == gpio.LOW for level in levels]
        board.close()

    def test_an_input_that_is_lit_while_it_is_high(self, two_meters, tmp_path, gpio):
        """With lit "high" a flash begins with the rising edge, only for that meter, and high means light."""
        house, heat = two_meters.meters
        board = RPiGPIOBoard(dataclasses.replace(two_meters, meters=(house, dataclasses.replace(heat, lit="high"))))
        board.watch()
        with (tmp_path / "edges").open("w") as fifo:
            fifo.write("18 rising\n22\n22 rising\n18\n")
        assert [(edge.meter, edge.falling) for edge in taken(board, 2)] == [(1, True), (0, True)]
        gpio._levels.update({18: gpio.LOW, 22: gpio.LOW})
        assert [board.sees_light(meter) for meter in (0, 1)] == [True, False]
        gpio._levels.update({18: gpio.HIGH, 22: gpio.HIGH})
        assert [board.sees_light(meter) for meter in (0, 1)] == [False, True]
        board.close()

    def test_the_pi_s_own_resistors(self, two_meters, tmp_path, gpio):
        """Each input is pulled as its meter's settings say."""
        house, heat = two_meters.meters
        pulled = (dataclasses.replace(house, pull="up"), dataclasses.replace(heat, pull="down"))
        RPiGPIOBoard(dataclasses.replace(two_meters, meters=pulled)).close()
        assert (tmp_path / "pins.log").read_text().splitlines()[:2] == ["setup 18 IN PUD_UP", "setup 22 IN PUD_DOWN"]

    def test_edges_are_asked_for_once_the_library_has_settled(self, two_meters, gpio, monkeypatch):
        """Between setmode() and the first asking for edges lies the time without which rpi-lgpio may stay deaf."""
        called_s = {}

        def noting(name):
            function = getattr(gpio, name)

            def note(*args, **options):
                called_s.setdefault(name, time.monotonic())
                return function(*args, **options)

            monkeypatch.setattr(gpio, name, note)

        noting("setmode")
        noting("add_event_detect")
        board = RPiGPIOBoard(two_meters)
        board.watch()
        board.close()
        assert called_s["add_event_detect"] - called_s["setmode"] >= SETTLE_S > 0

    def test_the_length_of_a_flash_is_not_judged(self, two_meters, tmp_path, gpio):
        """A meter with min_flash_ms is refused by its name, with the library that can; no pin is touched."""
        house, heat = two_meters.meters
        judging = dataclasses.replace(two_meters, meters=(house, dataclasses.replace(heat, min_flash_ms=2.0)))
        text = raised_by(judging)
        assert text == "min_flash_ms of heat: RPi.GPIO does not tell how long a flash is, gpiod does"
        assert not (tmp_path / "pins.log").exists()

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
            board.watch()
        assert_names_the_way_out(str(error.value), "Failed to add edge detection")
        assert "pin 18" in str(error.value)
        board.close()
        assert (tmp_path / "pins.log").read_text().splitlines()[-1] == "cleanup 18 22 12 16"

    @pytest.mark.parametrize("fail", ["import", "edges"])
    @pytest.mark.parametrize("how", ["--nodaemon", "daemon"])
    def test_the_program_ends_where_it_could_not_count(self, tmp_path, fail, how):
        """Without working pins no program is left that counts nothing: exit 1, and the reason in one line."""
        env = {"PYTHONPATH": str(STANDIN), "STANDIN_GPIO_FAIL": fail}
        with Program(tmp_path, 'GPIO_LIBRARY = "RPi.GPIO"', env=env) as program:
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


class TestWitness:
    """Which edges of RPi.GPIO's were held up by a stall of the program."""

    OVERDUE_NS = round((WITNESS_S + STALL_S) * NS_PER_S)
    GRACE_NS = round(STALL_S * NS_PER_S)

    def test_an_edge_while_it_is_overdue_is_late(self):
        """An edge is late if the witness should have come round before it, and not before that."""
        witness = _Witness()
        assert not witness.is_late(0)
        assert not witness.is_late(self.OVERDUE_NS)
        assert witness.is_late(self.OVERDUE_NS + 1)

    def test_edges_just_after_a_stall_are_late(self):
        """Once it has come round, edges are late for as long as those that waited may take, and no longer."""
        witness = _Witness()
        stalled_ns = self.OVERDUE_NS + 1
        assert witness.is_late(stalled_ns)
        witness._alive_ns = stalled_ns  # it came round
        assert witness.is_late(stalled_ns + self.GRACE_NS - 1)
        assert not witness.is_late(stalled_ns + self.GRACE_NS)
        assert not witness.is_late(stalled_ns + self.OVERDUE_NS)

    def test_a_stall_that_it_sees_first_counts_for_the_edges_after(self, monkeypatch):
        """Whoever comes first after a stall, the witness or an edge, the edges after it are late."""
        monkeypatch.setattr(rpi_gpio, "WITNESS_S", 0.001)
        monkeypatch.setattr(rpi_gpio, "STALL_S", 3600.0)
        witness = _Witness()
        # Two hours before the machine's clock began, be that just now.
        witness._alive_ns = -2 * 3600 * NS_PER_S
        thread = threading.Thread(target=witness._run)
        thread.start()
        wait_until(lambda: witness._alive_ns > 0)
        witness._ending.set()
        thread.join(PATIENCE_S)
        assert witness.is_late(time.monotonic_ns())

    def test_it_comes_round_while_the_board_is_watched(self, two_meters, gpio, monkeypatch):
        """It wakes up again and again from watch() to unwatch(): no edge of a program that runs is ever late."""
        monkeypatch.setattr(rpi_gpio, "WITNESS_S", 0.001)
        board = RPiGPIOBoard(two_meters)
        assert "stalls" not in [thread.name for thread in threading.enumerate()]
        board.watch()
        for _ in range(3):
            alive_ns = board._witness._alive_ns
            wait_until(lambda alive_ns=alive_ns: board._witness._alive_ns > alive_ns)
        board.unwatch()
        assert "stalls" not in [thread.name for thread in threading.enumerate()]
        board.close()

    def test_an_edge_tells_that_it_is_late(self, two_meters, tmp_path, gpio):
        """What the witness says of an edge is what the edge says."""
        rig = Header(two_meters, itertools.repeat(0), tmp_path, gpio)
        rig.board.watch()
        rig.play(1)
        assert [edge.late for edge in taken(rig.board, 1)] == [False]
        rig.board._witness._alive_ns -= self.OVERDUE_NS + 1
        rig.play(1)
        assert [edge.late for edge in taken(rig.board, 1)] == [True]
        rig.board.close()


#: rpi-lgpio on a machine that is no Pi: as on a Pi 4, up to the first pin.
AS_A_PI = {"RPI_LGPIO_REVISION": "c03114", "RPI_LGPIO_CHIP": "0"}


@pytest.mark.skipif(importlib.util.find_spec("lgpio") is None, reason="there is no wheel of lgpio for this Python")
class TestRPiLGPIO:
    """The library that most will have as RPi.GPIO, as far as it goes without a Pi."""

    @staticmethod
    def python(directory, code):
        """What *code* prints, in *directory* and with a place of its own for temporary files."""
        (directory / "tmp").mkdir()
        env = os.environ | AS_A_PI | {"PYTHONPATH": str(SOURCE), "TMPDIR": str(directory / "tmp")}
        env.pop("LG_WD", None)
        (directory / "here").mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=directory / "here",
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def test_it_leaves_nothing_behind(self, tmp_path):
        """Importing it leaves no file, neither where the program is nor for temporary files, and no other directory."""
        code = """
import os, sys
from powermeter.boards import rpi_gpio
gpio = rpi_gpio._imported()
assert "lgpio" in sys.modules, gpio
print(os.getcwd(), os.listdir("."))
"""
        assert self.python(tmp_path, code) == f"{tmp_path / 'here'} []\n"
        assert os.listdir(tmp_path / "here") == []
        assert os.listdir(tmp_path / "tmp") == []

    def test_it_would_leave_a_file(self, tmp_path):
        """By itself it does: what the test above looks for is there to be seen."""
        assert ".lgd-nfy" in self.python(tmp_path, "import os, RPi.GPIO; print(os.listdir('.'))")

    def test_it_has_what_the_board_uses(self, tmp_path):
        """Every name of RPi.GPIO's that the board uses is one of its too."""
        names = {"setwarnings", "setmode", "setup", "input", "output", "cleanup", "add_event_detect"}
        names |= {"remove_event_detect", "BOARD", "BCM", "IN", "OUT", "PUD_OFF", "FALLING", "LOW", "HIGH"}
        code = f"""
from powermeter.boards import rpi_gpio
print(sorted({names} - set(dir(rpi_gpio._imported()))))
"""
        assert self.python(tmp_path, code) == "[]\n"


@pytest.fixture
def put_gpiod(monkeypatch):
    """
    Puts a gpiod in place of the machine's whose chips have these labels, by path, or can't be used, by an error.

    It serves to find the chip, no more: a kernel shows what is done with one, in tests/kernel.
    """

    def put(labels):
        opened = []

        class Chip:
            def __init__(self, path):
                if labels[path] is FORBIDDEN:
                    raise FORBIDDEN
                self.path = path
                opened.append(path)

            def get_info(self):
                if labels[self.path] is GONE:
                    raise GONE
                return types.SimpleNamespace(label=labels[self.path])

            def close(self):
                opened.remove(self.path)

        library = types.ModuleType("gpiod")
        library.Chip, library.LineSettings, library.line = Chip, object, types.ModuleType("gpiod.line")
        monkeypatch.setitem(sys.modules, "gpiod", library)
        monkeypatch.setitem(sys.modules, "gpiod.line", library.line)
        monkeypatch.setattr(gpiod, "glob", types.SimpleNamespace(glob=lambda _pattern: [*reversed(labels)]))
        return opened

    return put


@pytest.fixture
def put_no_gpiod(monkeypatch):
    """Makes this a machine without gpiod."""

    def put():
        monkeypatch.setitem(sys.modules, "gpiod", None)

    return put


FORBIDDEN = PermissionError(13, "Permission denied")
#: Of a chip that goes between its opening and the question for its label.
GONE = OSError(19, "No such device")


class TestGpiod:
    """The board over gpiod, as far as it goes without a kernel that has pins."""

    @pytest.fixture
    def no_lamps(self, two_meters):
        """The settings without a lamp: no pin is asked for before it is watched."""
        return dataclasses.replace(two_meters, l1_pin=None, l2_pin=None, gpio_library="gpiod")

    def test_library_missing(self, no_lamps, put_no_gpiod):
        """Without the library: one line that says so, and what to install, from Debian too."""
        put_no_gpiod()
        with pytest.raises(NoBoardError) as error:
            GpiodBoard(no_lamps)
        assert str(error.value) == (
            "the library gpiod is missing: venv/bin/pip install gpiod, or on Debian 13 and newer "
            "apt install python3-libgpiod and a virtual environment made with --system-site-packages"
        )
        with pytest.raises(BoardError, match=r"gpiod is missing: .*; without a Raspberry Pi: --simulate$"):
            open_board(no_lamps)

    def test_library_too_old(self, no_lamps, monkeypatch):
        """With libgpiod 1's library, a single module with a different interface, one line says that it is too old."""
        old = types.ModuleType("gpiod")
        old.chip, old.line_request = object, object
        monkeypatch.setitem(sys.modules, "gpiod", old)
        monkeypatch.delitem(sys.modules, "gpiod.line", raising=False)
        with pytest.raises(NoBoardError) as error:
            GpiodBoard(no_lamps)
        assert str(error.value) == (
            "the library gpiod is too old, 2.1 is needed: "
            "venv/bin/pip install gpiod, or on Debian 13 and newer apt install python3-libgpiod "
            "and a virtual environment made with --system-site-packages"
        )

    @pytest.mark.parametrize("labels", [{}, {"/dev/gpiochip0": "INT33FC:00", "/dev/gpiochip1": "raspberrypi-exp-gpio"}])
    def test_no_chip(self, no_lamps, put_gpiod, labels):
        """If no chip is the header's, one line says what was looked for, and no chip is left open."""
        opened = put_gpiod(labels)
        with pytest.raises(NoBoardError, match=r"^gpiod: no GPIO chip is labelled pinctrl-bcm\.\.\. or pinctrl-rp1$"):
            GpiodBoard(no_lamps)
        assert opened == []

    @pytest.mark.parametrize("label", ["pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1"])
    def test_the_headers_chip_is_found_by_its_label(self, no_lamps, put_gpiod, label):
        """Of several chips the header's is taken, whatever its number; also beside those that can't be used."""
        opened = put_gpiod(
            {
                "/dev/gpiochip0": FORBIDDEN,
                "/dev/gpiochip1": "brcmvirt-gpio",
                "/dev/gpiochip2": GONE,
                "/dev/gpiochip4": label,
            }
        )
        board = GpiodBoard(no_lamps)
        assert opened == ["/dev/gpiochip4"]
        assert board.sees_ends
        board.close()
        assert opened == []

    def test_a_chip_that_may_not_be_opened(self, no_lamps, put_gpiod):
        """Where the only chip may not be opened: one line with the group to join. No other library would do better."""
        put_gpiod({"/dev/gpiochip0": FORBIDDEN})
        with pytest.raises(BoardError) as error:
            open_board(dataclasses.replace(no_lamps, gpio_library="auto"))
        assert str(error.value) == (
            "/dev/gpiochip0: no permission: add the user to its group (sudo adduser USER gpio) and log in again"
        )

    def test_a_chip_that_is_none(self, no_lamps, tmp_path):
        """A GPIO_CHIP that is not there, or no chip: one line with its path, and where to look; by the real library."""
        if not os.environ.get("CI"):
            pytest.importorskip("gpiod")
        for path, reason in ((str(tmp_path / "none"), "No such file or directory"), ("/dev/null", "")):
            with pytest.raises(BoardError) as error:
                open_board(dataclasses.replace(no_lamps, gpio_chip=path))
            assert str(error.value).startswith(f"{path}: no GPIO chip: {reason}")
            assert str(error.value).endswith(": check GPIO_CHIP")


class TestAuto:
    """Which board GPIO_LIBRARY = "auto" takes."""

    def opened(self, two_meters):
        board = open_board(dataclasses.replace(two_meters, l1_pin=None, l2_pin=None, gpio_library="auto"))
        board.close()
        return type(board)

    def test_gpiod_where_it_and_a_chip_are_there(self, two_meters, gpio, put_gpiod):
        """gpiod is taken where it is there with the header's chip, though RPi.GPIO is there too."""
        put_gpiod({"/dev/gpiochip0": "pinctrl-bcm2711"})
        assert self.opened(two_meters) is GpiodBoard

    def test_rpi_gpio_without_gpiod(self, two_meters, gpio, put_no_gpiod):
        """RPi.GPIO is taken where gpiod is missing."""
        put_no_gpiod()
        assert self.opened(two_meters) is RPiGPIOBoard

    def test_rpi_gpio_where_gpiod_is_too_old(self, two_meters, gpio, monkeypatch):
        """RPi.GPIO is taken where gpiod is libgpiod 1's, as on Debian 12."""
        monkeypatch.setitem(sys.modules, "gpiod", types.ModuleType("gpiod"))
        monkeypatch.delitem(sys.modules, "gpiod.line", raising=False)
        assert self.opened(two_meters) is RPiGPIOBoard

    def test_rpi_gpio_where_gpiod_has_no_chip(self, two_meters, gpio, put_gpiod):
        """RPi.GPIO is taken where gpiod finds no chip of the header's."""
        put_gpiod({"/dev/gpiochip0": "INT33FC:00"})
        assert self.opened(two_meters) is RPiGPIOBoard

    def test_neither_library(self, two_meters, put_no_gpiod, monkeypatch):
        """Where neither is there: one line with what to install for each, and --simulate."""
        put_no_gpiod()
        forget_gpio()
        monkeypatch.setitem(sys.modules, "RPi", None)
        with pytest.raises(BoardError) as error:
            self.opened(two_meters)
        text = str(error.value)
        assert text.startswith("the library gpiod is missing: venv/bin/pip install gpiod, or ")
        assert_names_the_way_out(text, "; the library RPi.GPIO is missing: ")

    def test_what_is_wrong_with_the_first_is_said_too(self, two_meters, gpio, put_no_gpiod):
        """Where the second board fails, the line begins with why it was not the first: min_flash_ms needs that."""
        put_no_gpiod()
        judging = tuple(dataclasses.replace(meter, min_flash_ms=2.0) for meter in two_meters.meters)
        with pytest.raises(BoardError) as error:
            self.opened(dataclasses.replace(two_meters, meters=judging))
        said = str(error.value).split("; ")
        assert said[0].startswith("the library gpiod is missing: ")
        assert said[1] == "min_flash_ms of house: RPi.GPIO does not tell how long a flash is, gpiod does"


class TestStandin:
    """The stand-in is as strict as the library: otherwise tests that use it would miss wrong calls."""

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
        """A bouncetime holds edges back, as the library's does, so a test would notice its use."""
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
        board.watch()
        edges = taken(board, 1500)[:1500]
        board.close()
        for meter, spacing_ns, pulses in ((0, 3_600_000_000, 1000), (1, 7_200_000_000, 500)):
            times_ns = [edge.at_ns - start_ns for edge in edges if edge.meter == meter]
            # A nanosecond or so of rounding, after an hour.
            assert times_ns == pytest.approx([spacing_ns * pulse for pulse in range(1, pulses + 1)], rel=0, abs=10)
        assert edges == sorted(edges, key=lambda edge: edge.at_ns)

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
        board.watch()
        wait_until(lambda: "simulated meter" in [thread.name for thread in threading.enumerate()])
        board.close()
        assert "simulated meter" not in [thread.name for thread in threading.enumerate()]
