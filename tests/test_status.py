"""What --status and the live line say of every state the program can be in."""

import time

import pytest
from program import wait_until
from statuses import status

from powermeter.boards.simulated import SimulatedBoard, constant
from powermeter.journal.journal import prepare_dir
from powermeter.meter import NS_PER_S
from powermeter.monitor import Monitor
from powermeter.settings import reading
from powermeter.status import Status
from powermeter.views import text as view

#: What one meter of these tests shows.
METER = {"watts": 1234.5, "pulses_today": 12345, "kwh_today": 12.345, "rejected": 1017}


def made(*, meters=None, **changes):
    """The status of a healthy program without a view, except for *changes*; *meters*: changes of each by name."""
    of_meters = {name: METER | change for name, change in (meters or {"house": {}}).items()}
    return Status.of(status(meters=of_meters, **{"views": {}} | changes))


def line_of(text, start):
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return found


def shape(value):
    """The keys of a status, of its one meter and its one writer."""
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else ...


def test_text_of_a_program_that_is_well():
    """--status: pid, uptime, power, today, register and rejected edges; each writer's state; a line each."""
    assert view.text(made()) == (
        "power 1.2.3: running, pid 4242, for 1 d 2 h\n"
        "meter house: 1,234 W; today 12,345 pulses, 12.345 kWh; register 98,765.432 kWh; 1,017 edges rejected\n"
        "writer file: ok; nothing is waiting\n"
    )


def test_line_of_a_program_that_is_well():
    """The live line: power now, energy today and the writers, on one line."""
    assert view.line(made()) == "1,234 W, today 12.345 kWh | file ok"


@pytest.mark.parametrize(
    ("simulate", "words"), [(True, ", simulated household"), (1500.0, ", simulated 1500 W"), (0.5, ", simulated 0.5 W")]
)
def test_invented_watts_are_called_so(simulate, words):
    """A simulated meter is never taken for a real one: the first line says it, with its load."""
    assert view.text(made(simulate=simulate)).splitlines()[0].endswith(words)
    assert "simulated" not in view.text(made())


def test_what_is_not_known_is_shown_as_unknown():
    """Power before the second pulse, and counts while the journal can't be read, are "not known", never 0 or None."""
    unknown = made(
        meters={"house": {"watts": None, "pulses_today": None, "kwh_today": None}},
        writers={"file": {"waiting": None, "oldest_s": None}},
    )
    text = view.text(unknown)
    assert line_of(text, "meter house").startswith("meter house: waiting for two flashes; today not known; register ")
    assert line_of(text, "writer file") == "writer file: ok; how many pulses wait is not known"
    assert view.line(unknown) == "waiting for two flashes, today not known | file ok"
    assert "None" not in text


def test_a_register_that_only_the_file_knows():
    """While a damaged journal is read, count and register are shown as not known."""
    unknown = made(meters={"house": {"pulses": None, "register_kwh": None}})
    assert "; register not known; " in line_of(view.text(unknown), "meter house")


def test_nothing_counted_is_zero():
    """No pulse today is shown as zero, not as unknown."""
    text = view.text(made(meters={"house": {"watts": 0.4, "pulses_today": 0, "kwh_today": 0.0}}))
    assert "0 W; today 0 pulses, 0.000 kWh" in text


def test_a_failing_writer_says_why_and_how_much_waits():
    """A failing writer's line says why, how many pulses wait and how old the oldest is; the others' lines don't."""
    failing = {"state": "failing", "reason": "answered 503", "waiting": 1234567, "oldest_s": 7322.4}
    both = made(writers={"file": {}, "cloud": failing})
    text = view.text(both)
    assert line_of(text, "writer cloud") == (
        "writer cloud: failing: answered 503; 1,234,567 pulses wait, the oldest for 2 h 2 min"
    )
    assert line_of(text, "writer file") == "writer file: ok; nothing is waiting"
    assert view.line(both) == "cloud failing: answered 503 | 1,234 W, today 12.345 kWh | file ok"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"waiting": 66, "oldest_s": 28.4}, "ok; 66 pulses in the next batch, within 35 s"),
        ({"waiting": 1, "oldest_s": 36.0}, "ok; 1 pulse in the next batch, within 35 s"),
        ({"waiting": 66, "oldest_s": 36.1}, "ok; 66 pulses wait, the oldest for 36 s"),
        ({"waiting": 66, "oldest_s": 1.0, "batch_s": 10.5}, "ok; 66 pulses in the next batch, within 11 s"),
        ({"waiting": 66, "oldest_s": 1.0, "batch_s": 305.0}, "ok; 66 pulses in the next batch, within 6 min"),
        ({"waiting": 66, "oldest_s": 1.0, "state": "failing"}, "failing; 66 pulses wait, the oldest for 1 s"),
    ],
)
def test_pulses_that_wait_for_their_batch_are_no_trouble(changes, words):
    """What waits in a healthy writer comes with the next batch, and by when; what is overdue or failing waits."""
    assert line_of(view.text(made(writers={"db": changes})), "writer db") == f"writer db: {words}"


@pytest.mark.parametrize(
    "changes",
    [
        {"clock": {"waiting": True, "waits_s": 480}},
        {"journal": {"failing": "disk I/O error", "uncommitted": 66, "dropped": 0}},
    ],
)
def test_no_batch_is_promised_of_pulses_that_are_held_back(changes):
    """While clock or journal hold pulses back, no writer's line says when they come."""
    text = view.text(made(writers={"db": {"waiting": 66, "oldest_s": 12.0}}, **changes))
    assert line_of(text, "writer db") == "writer db: ok; 66 pulses wait, the oldest for 12 s"


def test_numbers_for_programs_have_the_digits_that_mean_something():
    """In JSON power has one decimal, energy six, a flash's length three; what is not known stays so."""
    exact = {"watts": 1234.56789, "kwh_today": 0.1 + 0.2, "register_kwh": 98765.43210987, "flash_ms": 2.50049}
    meters = made(meters={"house": exact, "heat": dict.fromkeys(exact)}).as_dict()["meters"]
    assert {key: meters["house"][key] for key in exact} == {
        "watts": 1234.6,
        "kwh_today": 0.3,
        "register_kwh": 98765.43211,
        "flash_ms": 2.5,
    }
    assert {key: meters["heat"][key] for key in exact} == dict.fromkeys(exact)


def test_a_writer_that_catches_up():
    """A writer that has more to do than a batch is catching up."""
    text = view.text(made(writers={"db": {"state": "waiting", "waiting": 60_000, "oldest_s": 3.2}}))
    assert line_of(text, "writer db") == "writer db: catching up; 60,000 pulses wait, the oldest for 3 s"


def test_a_clock_that_is_waited_for_is_shown():
    """While the clock is not known to be right, both texts say so, and for how long at the most."""
    waiting = made(clock={"waiting": True, "waits_s": 480})
    assert line_of(view.text(waiting), "clock: ") == (
        "clock: not known to be right yet: pulses are kept, and delivered with their right time in at most 8 min"
    )
    assert view.line(waiting).endswith(" | waiting for the clock")


def test_pulses_that_are_no_more_are_counted_aloud():
    """Pulses that a writer can't get any more, and those that found no room in memory, are shown."""
    text = view.text(made(writers={"db": {"skipped": 1200}}))
    assert (
        line_of(text, "writer db")
        == "writer db: ok; nothing is waiting; 1,200 pulses no longer exist, it has their energy"
    )
    full = made(journal={"failing": "disk I/O error", "uncommitted": 100_000, "dropped": 2500})
    assert line_of(view.text(full), "journal: ") == (
        "journal: failing: disk I/O error; 100,000 pulses kept in memory; 2,500 more only counted"
    )


def test_refused_pulses_are_counted_aloud():
    """Pulses that a service refused, and that are gone for it, are on its line."""
    text = view.text(made(writers={"db": {"refused": 1200}}))
    assert line_of(text, "writer db") == "writer db: ok; nothing is waiting; 1,200 pulses refused"


def test_a_silent_meter_is_asked_about():
    """A meter that has been silent for too long is named with where to look; the other meters are not."""
    two = made(meters={"house": {"silent": True}, "heat": {}})
    text = view.text(two)
    assert line_of(text, "meter house").endswith("; no flashes: is the sensor in its place?")
    assert line_of(text, "meter heat").endswith("edges rejected")
    assert view.line(two) == "house 1,234 W, today 12.345 kWh, no flashes | heat 1,234 W, today 12.345 kWh | file ok"


def test_a_stuck_led_is_asked_about():
    """A meter whose input stays lit is named with what that can be; the other meters are not."""
    two = made(meters={"house": {"stuck": True}, "heat": {}})
    text = view.text(two)
    assert line_of(text, "meter house").endswith(
        '; the LED is stuck on, or other light falls on the sensor, or "lit" is the other way round'
    )
    assert line_of(text, "meter heat").endswith("edges rejected")
    assert view.line(two) == (
        "house 1,234 W, today 12.345 kWh, the LED is stuck on | heat 1,234 W, today 12.345 kWh | file ok"
    )


def test_a_meter_that_is_silent_and_stuck():
    """A meter that is both says both."""
    both = made(meters={"house": {"silent": True, "stuck": True}})
    assert line_of(view.text(both), "meter house").endswith(
        "; no flashes: is the sensor in its place?; the LED is stuck on, or other light falls on the sensor, or "
        '"lit" is the other way round'
    )
    assert "today 12.345 kWh, no flashes, the LED is stuck on |" in view.line(both)


def test_a_bound_is_no_power():
    """Power that is known only from the silence is "at most" so much, in both texts; a measured one never is."""
    bound = made(meters={"house": {"watts": 1234.5, "watts_is_bound": True}})
    assert line_of(view.text(bound), "meter house").startswith(
        "meter house: at most 1,234 W until the next flash; today "
    )
    assert view.line(bound).startswith("at most 1,234 W until the next flash, today ")
    assert "at most" not in view.text(made()) + view.line(made())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rejected_after_stall": 1234}, "; 1,234 rejected after a stall"),
        ({"too_short": 1234}, "; 1,234 flashes too short"),
        ({"counted_without_being_seen": 1234}, "; 1,234 flashes counted without being seen"),
        ({"flash_ms": 2.5004}, "; last flash 2.5 ms"),
        ({"flash_ms": 0.01234}, "; last flash 0.0123 ms"),
        (
            {"rejected_after_stall": 2, "too_short": 3, "counted_without_being_seen": 4, "flash_ms": 50.0},
            "; 2 rejected after a stall; 3 flashes too short; 4 flashes counted without being seen; last flash 50 ms",
        ),
    ],
)
def test_what_an_input_does_is_shown(changes, words):
    """What became of the edges, and how long the last flash was, are on the meter's line where there is such."""
    assert line_of(view.text(made(meters={"house": changes})), "meter house").endswith(f"1,017 edges rejected{words}")
    assert line_of(view.text(made()), "meter house").endswith("1,017 edges rejected")


@pytest.mark.parametrize(("flash_ms", "words"), [(999.6, "1,000 ms"), (12_345.6, "12,346 ms")])
def test_a_long_flash_is_shown_in_plain_digits(flash_ms, words):
    """The length of a flash of a second and more, as of a meter with little load, is shown without an exponent."""
    assert line_of(view.text(made(meters={"house": {"flash_ms": flash_ms}})), "meter house").endswith(
        f"; last flash {words}"
    )


def test_a_failing_journal_has_a_line():
    """Where the disk fails, the reason and how many pulses are only in memory are shown; and only then."""
    failing = made(journal={"failing": "disk I/O error", "uncommitted": 1500, "dropped": 0})
    assert view.text(failing).splitlines()[-1] == ("journal: failing: disk I/O error; 1,500 pulses kept in memory")
    assert view.line(failing).startswith("journal failing | ")
    assert "journal" not in view.text(made()) + view.line(made())


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (119, "1 min"),
        (3599.4, "59 min"),
        (3599.6, "1 h 0 min"),
        (86_399.4, "23 h 59 min"),
        (86_399.6, "1 d 0 h"),
        (400 * 86_400.0, "400 d 0 h"),
    ],
)
def test_spans_of_time(seconds, words):
    """A span is shown in its two largest units, and rounding never gives 60 s or 60 min."""
    assert view.text(made(uptime_s=seconds)).splitlines()[0].endswith(f", for {words}")


def test_the_program_gives_what_is_shown_here(tmp_path):
    """The running program's own status has these keys and no others, and can be shown."""
    path = tmp_path / "settings.py"
    path.write_text(f"DATA_DIR = {str(tmp_path / 'data')!r}; COMMIT_INTERVAL = 0.1; CLOCK_WAIT = 0")
    path.chmod(0o600)
    found = reading.read(str(path))
    prepare_dir(found.data_dir)
    start_ns = time.monotonic_ns() - 100 * NS_PER_S  # 27 pulses at 1,000 W, and the next in 0.8 s
    crashes = []

    def open_board(of_settings):
        return SimulatedBoard(of_settings, lambda _name: constant(1000.0), start_ns)

    with Monitor(found, open_board, simulate=1000.0, on_crash=lambda: crashes.append(1)) as monitor:
        wait_until(lambda: monitor.status().meters["house"].pulses >= 27)
        now = monitor.status()
    assert shape(now.as_dict()) == shape(status(views={}))
    assert now.writers["file"].batch_s == 30.1
    pulses = now.meters["house"].pulses
    text = view.text(now)
    assert line_of(text, "meter house").startswith("meter house: 1,000 W; today ")
    assert f"; register {pulses / 1000:.3f} kWh; 0 edges rejected" in text
    assert view.line(now).startswith("1,000 W, today ")
    assert crashes == []


def test_the_live_line_fits():
    """It has room in any number of columns, and what fails is what is left of it."""
    failing = made(
        writers={"file": {}, "cloud": {"state": "failing", "reason": "answered 503: " + "a long story " * 20}},
        meters={"house": {}, "heat": {"stuck": True}},
    )
    whole = view.line(failing)
    assert whole.startswith("heat 1,234 W, today 12.345 kWh, the LED is stuck on | cloud failing: answered 503: a long")
    assert whole.count("a long story") < 5
    for columns in range(1, 500):
        line = view.line(failing, columns)
        assert len(line) == min(columns, len(whole))
        assert line == whole or columns < 4 or line == whole[: columns - 3] + "..."
