"""When the wall clock is believed, and the time that pulses get from it; steps of a real clock: tests/faults."""

import contextlib
import time

import pytest

from powermeter import clock
from powermeter.clock import Clock
from powermeter.journal.history import Energy, History
from powermeter.journal.journal import Journal, Row
from powermeter.meter import NS_PER_S

#: 2020-01-01 and 2026-11-23, as ns: what a Pi without a clock chip boots with, and what it is.
WRONG_NS, RIGHT_NS = 1_577_836_800 * NS_PER_S, 1_795_418_000 * NS_PER_S


@pytest.fixture
def machine(monkeypatch):
    """A machine whose clock is as it says; booted a minute ago, in the year 2026, and synchronised by nobody."""
    state = {"synchronised": False, "hardware": False, "now_s": RIGHT_NS / NS_PER_S, "boot_s": 60.0}
    monkeypatch.setattr(clock, "synchronised", lambda: state["synchronised"])
    monkeypatch.setattr(clock, "set_by_hardware", lambda: state["hardware"])
    monkeypatch.setattr(clock.time, "time", lambda: state["now_s"])
    monkeypatch.setattr(clock.time, "clock_gettime", lambda _: state["boot_s"])
    return state


def test_the_kernel_is_asked():
    """The real kernel says whether its clock is synchronised, or may not be asked; and has a name for this boot."""
    assert clock.synchronised() in (True, False, None)
    assert clock.set_by_hardware() in (True, False)
    assert len(clock.boot_id()) == 36
    assert abs(clock.ahead_ns() + time.monotonic_ns() - time.time_ns()) < NS_PER_S


@pytest.fixture
def hardware_clock(tmp_path, monkeypatch):
    """Makes up what the kernel tells of a hardware clock: its time *since_epoch*, and if it has set the system's."""
    monkeypatch.setattr(clock, "HARDWARE_CLOCKS", str(tmp_path / "*" / "hctosys"))

    def make(since_epoch, hctosys="1", name="rtc0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hctosys").write_text(f"{hctosys}\n")
        if since_epoch is not None:
            (tmp_path / name / "since_epoch").write_text(f"{since_epoch}\n")

    return make


def test_a_hardware_clock_is_told_by_the_kernels_file(hardware_clock, monkeypatch):
    """Of several hardware clocks one that has set the time is enough; none is none."""
    monkeypatch.setattr(clock.time, "time", lambda: RIGHT_NS / NS_PER_S)
    assert not clock.set_by_hardware()
    hardware_clock(RIGHT_NS // NS_PER_S, "0", "rtc0")
    assert not clock.set_by_hardware()
    hardware_clock(RIGHT_NS // NS_PER_S, "1", "rtc1")
    assert clock.set_by_hardware()


@pytest.mark.parametrize(
    ("behind_s", "boot_s", "believed"),
    [
        (1, 60.0, True),  # it tells whole seconds
        (-2, 60.0, True),
        (60, 60.0, False),
        (-60, 60.0, False),
        (60, 30 * 86_400.0, True),  # apart after a month without a network
        (RIGHT_NS // NS_PER_S - 65, 60.0, False),  # without a battery it began at 1970
        (None, 60.0, False),  # it can't be read
    ],
)
def test_a_hardware_clock_is_believed_by_its_own_time(hardware_clock, monkeypatch, behind_s, boot_s, believed):
    """One that has set the time and does not have it, as timesyncd moved the time on to its last stop, is nobody's."""
    now_s = RIGHT_NS // NS_PER_S
    monkeypatch.setattr(clock, "synchronised", lambda: False)
    monkeypatch.setattr(clock.time, "time", lambda: now_s + 0.9)
    monkeypatch.setattr(clock.time, "clock_gettime", lambda _: boot_s)
    hardware_clock(None if behind_s is None else now_s - behind_s)
    assert Clock(86_400).right == believed


@pytest.mark.parametrize(
    ("found", "waits_s"),
    [
        ({}, 540),
        ({"synchronised": None}, 540),  # it may not be asked: not known to be right
        ({"synchronised": True}, 0),
        ({"hardware": True}, 0),
        ({"hardware": True, "now_s": 0.0}, 540),  # a hardware clock without a battery
        ({"synchronised": True, "now_s": WRONG_NS / NS_PER_S}, 540),
        ({"boot_s": 600.0}, 0),
        ({"boot_s": 86_400.0}, 0),
    ],
)
def test_how_long_it_is_waited_for(machine, found, waits_s):
    """A clock that nobody has set is waited for until CLOCK_WAIT after the boot; one that is right is not."""
    machine.update(found)
    assert Clock(600).waits_s == waits_s
    assert Clock(0).waits_s == 0


def test_once_believed_it_stays_so(machine):
    """A clock that was set is believed, also where the network is away again and nobody synchronises it."""
    waited = Clock(600)
    assert waited.waits_s == 540
    machine["synchronised"] = True
    assert waited.waits_s == 0
    machine["synchronised"] = False
    assert waited.waits_s == 0
    assert not waited.right


# --- The time of pulses from before


@pytest.fixture
def journal(tmp_path):
    with Journal(str(tmp_path / "journal.db")) as journal:
        yield journal


def rows(key, numbers, at_s=lambda number: 100 + number):
    return [Row(key, number, at_s(number) * NS_PER_S, NS_PER_S if number > 1 else None) for number in numbers]


def times_s(journal, name):
    """The times of a meter's pulses, in s since RIGHT_NS."""
    sql = "SELECT time_ns FROM pulses NATURAL JOIN meters WHERE name = ? ORDER BY count"
    found = journal._connection.execute(sql, (name,))
    return [(time_ns - RIGHT_NS) / NS_PER_S for (time_ns,) in found]


def steps(journal):
    return journal._connection.execute("SELECT name, count FROM steps NATURAL JOIN meters").fetchall()


def test_pulses_get_their_right_time_and_are_delivered_then(journal):
    """What was counted before the clock was right is seen by no writer; then all of it, in order, once, at its time."""
    key = journal.meter("house", 1000).name
    journal.append(rows(key, [1, 2]), RIGHT_NS)
    with contextlib.closing(journal.cursor("new")) as new:
        journal.append(rows(key, [3, 4]), WRONG_NS, settled=False)
        # The clock was set by hand meanwhile: the wait goes on by the first reading.
        journal.append(rows(key, [5]), WRONG_NS + 5000 * NS_PER_S, settled=False)
        assert new.read(10) == []
        assert steps(journal) == [(key, 3)]
        assert journal.settle(RIGHT_NS) == 3
        assert [pulse.number for pulse in new.read(10)] == [3, 4, 5]
        journal.append(rows(key, [6]), RIGHT_NS)
        assert [pulse.number for pulse in new.read(10)] == [3, 4, 5, 6]
    assert times_s(journal, key) == [101, 102, 103, 104, 105, 106]
    assert steps(journal) == []
    with History(journal.path) as history:
        span = history.span("house", RIGHT_NS + 103 * NS_PER_S, RIGHT_NS + 105 * NS_PER_S)
        assert span == Energy(2, pytest.approx(0.002), False)


def test_a_restart_does_not_end_the_wait(tmp_path):
    """The program is started again while the clock is waited for: the pulses before and after get one shift."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        key = journal.meter("house", 1000).name
        journal.append(rows(key, [1, 2]), WRONG_NS, settled=False)
    with Journal(path) as journal:
        journal.append(rows(key, [3]), WRONG_NS + 7 * NS_PER_S, settled=False)
        assert journal.settle(RIGHT_NS) == 3
        assert journal.settle(RIGHT_NS + NS_PER_S) == 0
        assert times_s(journal, key) == [101, 102, 103]


def test_pulses_of_an_earlier_boot_keep_the_time_they_have(journal, monkeypatch):
    """The machine went down while the clock was waited for: how far it was wrong nobody knows."""
    key = journal.meter("house", 1000).name
    journal.append(rows(key, [1]), WRONG_NS, settled=False)
    monkeypatch.setattr("powermeter.journal.journal.boot_id", lambda: "another")
    assert journal.settle(RIGHT_NS) == 1
    journal.append(rows(key, [2]), RIGHT_NS)
    assert times_s(journal, key) == [(WRONG_NS - RIGHT_NS) / NS_PER_S + 101, 102]


def test_a_boot_that_ended_before_the_clock_was_right_takes_nothing_from_the_next(journal, monkeypatch):
    """Power that comes and goes: the pulses of the boot that gets a right clock get their right times."""
    key = journal.meter("house", 1000).name
    journal.append(rows(key, [1, 2]), WRONG_NS, settled=False)
    monkeypatch.setattr("powermeter.journal.journal.boot_id", lambda: "another")
    journal.append(rows(key, [3, 4]), WRONG_NS + 7 * NS_PER_S, settled=False)
    assert journal.settle(RIGHT_NS) == 2
    wrong_s = (WRONG_NS - RIGHT_NS) / NS_PER_S
    assert times_s(journal, key) == [wrong_s + 101, wrong_s + 102, 103, 104]


def test_meters_are_settled_each_from_its_own_count(journal):
    """Of several meters each has its own pulses shifted; a clock that was ahead leaves a step back where it belongs."""
    house, pump = journal.meter("house", 1000).name, journal.meter("pump", 800).name
    journal.append(rows(house, [1]), RIGHT_NS + 500 * NS_PER_S)
    journal.append(rows(house, [2]) + rows(pump, [1]), RIGHT_NS + 9000 * NS_PER_S, settled=False)
    assert steps(journal) == []
    assert journal.settle(RIGHT_NS) == 2
    assert (times_s(journal, house), times_s(journal, pump)) == ([601, 102], [101])
    assert steps(journal) == [(house, 2)]
