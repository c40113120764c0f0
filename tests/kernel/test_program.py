"""The whole program on a real kernel's GPIO device, by its command line: every flash counted, in its time."""

import datetime as dt
import itertools
import os
import re
import sys
from pathlib import Path

import pytest

from powermeter.meter import NS_PER_S

TRACES = Path(__file__).parent / "traces"

#: On a busy machine who plays a trace may itself be late. Then another one was played, which may have another count:
#: only one that was played as it stands, to this, is judged.
LATE_MS = 2
TRIES = 8

BOTH = ["gpiod", pytest.param("RPi.GPIO", marks=pytest.mark.skipif(sys.version_info >= (3, 12), reason="no lgpio"))]

#: A meter of 1,000 imp/kWh that may flash 2,500 times a second.
FAST = {"max_watts": 9_000_000}

#: One that may flash 20 times a second; 24 kW is 6.7.
TEN = {"max_watts": 72_000}

MS = 1_000_000


def program(run, job, /, timeout=300, **arguments):
    return run(f"program_jobs.{job}", arguments, jumping=True, timeout=timeout)


def spacings(times):
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def off_by(kept, written):
    """How far the journal's times and spacings are from those that were written, in ns, sorted."""
    assert [count for count, _, _ in kept] == list(range(1, len(written) + 1))
    late = sorted(abs(row[1] - at_ns) for row, at_ns in zip(kept, written, strict=True))
    apart = sorted(abs(row[2] - s) for row, s in zip(kept[1:], spacings(written), strict=True))
    return late, apart


def p99(values):
    return values[len(values) * 99 // 100]


def assert_all_of(kept, *, late_ns=MS, apart_ns=MS // 5):
    """Every flash that was made is in the journal and in the file, with its time, spacing and power."""
    for name, written in kept["written"].items():
        late, apart = off_by(kept["journal"][name], written)
        assert late[-1] < late_ns
        assert p99(apart) < apart_ns
        assert kept["status"]["meters"][name]["pulses"] == len(written)
        lines = kept["file"][name]
        assert len(lines) == len(written)
        assert lines[0][1] == ""
        assert float(lines[-1][3]) == len(written) / 1000
        for (_, _, interval_ns), (_, watts, _, _) in zip(kept["journal"][name][1:], lines[1:], strict=True):
            assert float(watts) == pytest.approx(3.6e12 / interval_ns, rel=1e-12)


RATES = {
    "10/s": ([n * 100 * MS for n in range(2000)], 20 * MS, TEN),
    "1,000/s": ([n * MS for n in range(1000)], MS // 2, FAST),
    "a burst": ([0, *(NS_PER_S + n * 600_000 for n in range(1000))], 300_000, FAST),
}


@pytest.mark.parametrize("rate", RATES)
def test_every_flash(run, rate):
    """2,000 flashes at 10/s, 1,000 at 1 kHz and a burst of 1,000 are all counted, within 1 ms and 0.2 ms (p99)."""
    starts, length_ns, options = RATES[rate]
    assert_all_of(program(run, "count", starts_ns=starts, length_ns=length_ns, options=options))


@pytest.mark.parametrize("meter_count", [2, 8])
def test_several_meters(run, meter_count):
    """Two and eight meters at once: each has its own flashes, all of them."""
    starts = [n * 100 * MS for n in range(300)]
    assert_all_of(
        program(run, "count", starts_ns=starts, length_ns=20 * MS, meter_count=meter_count, options=TEN, daemon=True)
    )


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="no lgpio")
def test_every_flash_by_rpi_lgpio(run):
    """With rpi-lgpio, 1,000 flashes at 10/s are all counted; its edges are as late as its two threads, some ms."""
    kept = program(
        run, "count", starts_ns=[n * 100 * MS for n in range(1000)], length_ns=20 * MS, library="RPi.GPIO", options=TEN
    )
    assert_all_of(kept, late_ns=50 * MS, apart_ns=10 * MS)


@pytest.mark.parametrize("how", ["stop", "hold"])
@pytest.mark.parametrize("seconds", [1, 5, 30])
def test_a_stall(run, seconds, how):
    """While the process is stopped, or its interpreter held, nothing is lost, and every power is right to 1 %."""
    kept = program(run, "stalled", seconds=seconds, per_s=10, how=how, options=TEN)
    late, _ = off_by(kept["journal"]["meter0"], kept["written"])
    assert late[-1] < 1.5 * MS
    watts = [float(line[1]) for line in kept["file"]["meter0"][1:]]
    assert len(watts) == (seconds + 6) * 10 - 1
    for found, spacing_ns in zip(watts, spacings(kept["written"]), strict=True):
        assert found == pytest.approx(3.6e12 / spacing_ns, rel=0.01)


def test_a_stall_too_long_for_the_kernels_buffer(run):
    """Edges dropped by the kernel are counted without power, spread over the gap, and reported by log and --status."""
    kept = program(run, "stalled", seconds=5, per_s=1000, options=FAST, timeout=600)
    written, rows, meter = kept["written"], kept["journal"]["meter0"], kept["status"]["meters"]["meter0"]
    made_up = meter["counted_without_being_seen"]
    assert 4000 < made_up < 5000
    assert len(written) == 11_000
    # Where the host is busy for some ms the guest merges flashes that are less than that apart: nobody can tell them.
    assert len(written) - 55 <= meter["pulses"] == len(rows) <= len(written)
    assert float(kept["file"]["meter0"][-1][3]) == len(rows) / 1000
    without = [n for n, (_, _, interval_ns) in enumerate(rows) if interval_ns is None]
    assert without == [0, *range(without[1], without[1] + made_up + 1)]
    gap = [rows[n][1] for n in range(without[1] - 1, without[-1] + 1)]
    assert max(spacings(gap)) - min(spacings(gap)) < 2 * MS
    assert gap[-1] - gap[0] == pytest.approx((made_up + 1) * MS, rel=0.05)
    assert "edges came too fast and were lost" in kept["log"]


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="no lgpio")
@pytest.mark.parametrize(("how", "kept_edges"), [("hold", 25), ("stop", 16)])
def test_a_stall_by_rpi_lgpio(run, how, kept_edges):
    """
    By rpi-lgpio the edges of a stall come at once: what the hold-off then costs is counted apart.

    Where the whole process stood still, its thread too, the kernel has kept the last 16: of others nobody knows.
    """
    kept = program(run, "stalled", seconds=5, per_s=5, how=how, library="RPi.GPIO")
    meter = kept["status"]["meters"]["meter0"]
    assert len(kept["written"]) == 55
    assert meter["pulses"] + meter["rejected_after_stall"] == pytest.approx(30 + kept_edges, abs=1)
    assert meter["rejected_after_stall"] == pytest.approx(kept_edges, abs=2)
    assert meter["rejected"] == 0


@pytest.mark.parametrize(
    ("watts", "impulses_per_kwh", "pulses"),
    [(493, 1000, 60), (1200, 1000, 60), (1333, 1000, 60), (20_000, 3200, 200), (10, 1000, 20)],
)
def test_steady_load(run, watts, impulses_per_kwh, pulses):
    """A load that never changes is shown to 0.5 % by every pulse."""
    kept = program(run, "steady", watts=watts, impulses_per_kwh=impulses_per_kwh, pulses=pulses)
    first, *lines = kept["file"]["meter0"]
    assert first[1] == ""
    assert len(lines) == pulses - 1
    for _, found, energy_wh, _ in lines:
        assert float(found) == pytest.approx(watts, rel=0.005)
        assert float(energy_wh) == 1000 / impulses_per_kwh


#: Fresh starts of each board; POWER_STARTS=200 is the proof that rpi-lgpio's 2 deaf ones of 100 are cured.
STARTS = int(os.environ.get("POWER_STARTS", "20"))


@pytest.mark.parametrize("library", BOTH)
def test_no_start_is_deaf(run, library):
    """Fresh starts all see the first flash, and leave none of the library's files behind."""
    assert program(run, "start_again", timeout=60 + 10 * STARTS, starts=STARTS, library=library) == {
        "seen": STARTS,
        "left": [],
    }


def traces():
    """Each trace, with and without the options in its header: name, options, pulses."""
    for path in sorted(TRACES.glob("*.trace")):
        head = path.read_text()
        for pulses in re.findall("^# pulses: (.*)", head, re.MULTILINE):
            yield pytest.param(path.name, {}, int(pulses), id=path.stem)
        for key, value, pulses in re.findall(r"^# pulses with (\w+) (\S+): (.*)", head, re.MULTILINE):
            option = value if value.isalpha() else float(value)
            yield pytest.param(path.name, {key: option}, int(pulses), id=f"{path.stem} {key} {value}")


@pytest.mark.parametrize(("name", "options", "pulses"), list(traces()))
def test_trace(run, name, options, pulses):
    """A trace like a recorded one, replayed through the program: as many pulses as its header says, none twice."""
    for _ in range(TRIES):
        kept = program(run, "replay", path=str(TRACES / name), options=options)
        if len(kept["journal"]["meter0"]) == pulses or late_ms(TRACES / name, kept["written"]) < LATE_MS:
            break
    assert len(kept["journal"]["meter0"]) == len(kept["file"]["meter0"]) == pulses


@pytest.mark.parametrize("library", BOTH)
def test_an_inverted_sensor(run, library):
    """With lit high every flash counts and has its true length, and the input is not stuck while it is dark."""
    kept = program(run, "replay", path=str(TRACES / "inverted_long.trace"), library=library,
                   options={"lit": "high"}, wait_s=700 if library == "gpiod" else 0)  # fmt: skip
    meter = kept["status"]["meters"]["meter0"]
    assert (meter["pulses"], meter["stuck"], meter["flickers"]) == (20, False, False)
    if library == "gpiod":
        assert meter["flash_ms"] == pytest.approx(29.1, abs=1)


@pytest.mark.parametrize(("sensor", "hours"), [("contact", 7), ("led", 0.2)])
def test_a_contact_that_rests_closed(run, sensor, hours):
    """A contact may rest closed for hours, which is not a fault; an LED that stays lit for ten minutes is one."""
    kept = program(run, "contact", library="gpiod", sensor=sensor, rest_s=hours * 3600)
    assert kept["pulses"] == 40
    assert kept["closed"] == [sensor == "led", [1] if sensor == "contact" else kept["closed"][1]]
    assert len(kept["closed"][1]) > (10 if sensor == "led" else 0)


@pytest.mark.parametrize("library", BOTH)
@pytest.mark.parametrize(("pull", "level"), [("up", 1), ("down", 0), (None, None)])
def test_the_pi_s_own_resistor(run, library, pull, level):
    """The input is pulled as the settings say, for a wire straight on the pin; by default it is left to the circuit."""
    seen = program(run, "pulled", library=library, pull=pull)
    assert seen["before"] == [0, 1]
    assert seen["while it runs"] == ([level, level] if pull else seen["before"])


def test_a_port_that_sends_data(run):
    """Telegrams of 250 edges are not flashes: far more edges than pulses are reported, and lamp L2 shows it."""
    seen = program(run, "telegrams")
    assert seen["noisy"] == [False, True, False]
    assert len(seen["lamp"]) > 10
    assert "edges rejected in a minute, far more than pulses" in seen["log"]


def late_ms(path, written):
    """The largest excess, in ms, of the spacing of two successive edges over that in the trace *path*."""
    offsets_us = [int(line.split()[0]) for line in path.read_text().splitlines() if line and line[0] != "#"]
    return max(
        (later[0] - earlier[0]) / 1e6 - (later_us - earlier_us) / 1e3
        for (earlier, later), (earlier_us, later_us) in zip(
            itertools.pairwise(written), itertools.pairwise(offsets_us), strict=True
        )
    )


def test_lengths_of_flashes(run):
    """The length of the last flash is shown, and those that min_flash_ms rejects are counted apart."""
    kept = program(run, "replay", path=str(TRACES / "widths.trace"), options={"min_flash_ms": 4})
    meter = kept["status"]["meters"]["meter0"]
    assert meter["flash_ms"] == pytest.approx(120, abs=1)
    assert meter["too_short"] == 6
    assert meter["rejected"] == 0


def assert_blinks(levels, half_s):
    """Assert that *levels* are those of blinking; the first and the last may be cut off."""
    inner = levels[1:-1]
    assert len(inner) >= 3
    for (level, seconds), (other, _) in itertools.pairwise(inner):
        assert level != other
        assert seconds == pytest.approx(half_s, abs=0.03)


@pytest.mark.parametrize("library", BOTH)
def test_lamps(run, library):
    """L1 and L2 as the device sees them: steady, 1 Hz, 5 Hz; 100 ms per flash, 50 ms on and off in a train."""
    seen = program(run, "lamps", library=library)
    assert [level for level, _ in seen["well"]] == [1]
    assert [level for level, _ in seen["flash"]][-2:] == [1, 0]
    assert seen["flash"][-2][1] == pytest.approx(0.1, abs=0.03)
    assert_blinks(seen["train"][2:], 0.05)
    assert_blinks(seen["failing"], 0.5)
    assert_blinks(seen["silent"], 0.1)
    assert [level for level, _ in seen["flashes again"]] == [1]


def test_a_led_that_stays_on(run):
    """An LED lit for hours: power is a falling bound, never stored; it is reported; L2 blinks until the next flash."""
    kept = program(run, "stuck")
    minute, quarter, hours, after = kept["seen"]
    assert minute[0] is False
    assert [quarter[0], hours[0], after[0]] == [True, True, False]
    assert minute[2]
    assert quarter[2]
    assert hours[2]
    # Since the LED came on, by seconds of the job; the status has one decimal.
    assert minute[1] == pytest.approx(3.6e3 / 60, rel=0.1)
    assert hours[1] == round(3.6e3 / 8166, 1)
    assert [level for level, _ in minute[4]] == [1]
    assert_blinks(quarter[4], 0.1)
    assert [level for level, _ in after[4]] == [1]
    powers = [line[1] for line in kept["file"]["meter0"]]
    assert powers[0] == ""
    assert [float(watts) for watts in powers[1:]] == [
        pytest.approx(3.6e12 / interval_ns) for _, _, interval_ns in kept["journal"]["meter0"][1:]
    ]
    assert len(powers) == 4
    assert "lit for 10 minutes" in kept["log"]


def ns_of(*when):
    return round(dt.datetime(*when, tzinfo=dt.UTC).timestamp()) * NS_PER_S


@pytest.mark.parametrize(
    ("start", "offset_h"), [((2026, 3, 28, 21), 1), ((2026, 10, 24, 20), 2)], ids=["summer time comes", "it goes"]
)
def test_a_day_of_a_household(run, start, offset_h):
    """A day with midnight and a change of summer time in it: kWh exact to the pulse, "today" is the local day."""
    kept = run(
        "program_jobs.day",
        {"seed": "house", "zone": "Europe/Berlin"},
        jumping=True,
        start_ns=ns_of(*start),
        timeout=600,
    )
    rows, written = kept["journal"]["meter0"], kept["written"]
    late, apart = off_by(rows, written)
    assert late[-1] < MS
    assert p99(apart) < MS // 5
    assert len(written) > 3000
    assert float(kept["file"]["meter0"][-1][3]) == len(written) / 1000
    end_of_first_day = ns_of(*start[:3]) + (24 - offset_h) * 3600 * NS_PER_S
    for local, meter in kept["status_at"]:
        before = [at_ns for at_ns in written if at_ns < end_of_first_day]
        of_today = meter["pulses"] - (len(before) if local[2] != start[2] else 0)
        assert meter["pulses_today"] == of_today
        assert meter["kwh_today"] == pytest.approx(of_today / 1000)
    assert kept["status_at"][-1][0][2] != start[2]


@pytest.mark.parametrize(("label", "other"), [("pinctrl-rp1", "gpio-brcmstb"), ("pinctrl-bcm2835", None)])
def test_the_chip_is_found_by_its_label(run, label, other):
    """A Pi 5's chip is found whatever the order of the chips, and so is an older Pi's."""
    arguments = {"starts_ns": [n * 200 * MS for n in range(5)], "length_ns": 5 * MS}
    kept = run("program_jobs.count", arguments, jumping=True, chip=label, other_chip=other)
    assert len(kept["journal"]["meter0"]) == 5


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("busy", "/dev/gpiochip0: in use: GPIO24 by another"),
        ("missing", "/dev/gpiochip7: no GPIO chip: No such file or directory"),
        ("no chip", "/dev/null: no GPIO chip"),
        ("forbidden", "/dev/gpiochip0: no permission: add the user to its group"),
    ],
)
def test_what_can_not_be(run, how, words):
    """A chip that is missing, no chip, busy or forbidden: one clear line, exit 1, as daemon and in the foreground."""
    for status, out, err in program(run, "refused", how=how):
        assert status == 1
        assert out == ""
        (line,) = [line for line in err.splitlines() if line.startswith("power: ")]
        assert words in line


def test_a_user_of_the_group(run):
    """A user who is not root and in the chip's group counts."""
    user, status = program(run, "ordinary", group=997)
    assert user != 0
    assert status == 0
