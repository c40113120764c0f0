"""When the wall clock is believed, and the time that pulses get from it; steps of a real clock: tests/faults."""

import contextlib
import sqlite3
import time

import pytest
from clocks import RIGHT_NS, SetClock

from powermeter.clock import REAL_CLOCK, boot_id
from powermeter.journal.history import Energy, History
from powermeter.journal.journal import Journal, Row
from powermeter.meter import NS_PER_S

#: 2020-01-01, in ns: what a Pi without a clock chip boots with.
WRONG_NS = 1_577_836_800 * NS_PER_S


def test_the_kernel_is_asked():
    """The real kernel says whether its clock is synchronised, or may not be asked; and has a name for this boot."""
    assert REAL_CLOCK.synchronised() in (True, False, None)
    assert REAL_CLOCK.set_by_hardware() in (True, False)
    assert len(boot_id()) == 36
    assert abs(REAL_CLOCK.ahead_ns() + time.monotonic_ns() - time.time_ns()) < NS_PER_S
    assert REAL_CLOCK.boot_s() > 0


@pytest.fixture
def clock(tmp_path):
    """The clock of a machine that :func:`add_hardware_clock` adds to."""
    return SetClock(str(tmp_path / "*" / "hctosys"))


@pytest.fixture
def add_hardware_clock(tmp_path):
    """Makes up what the kernel tells of a hardware clock: its time *since_epoch*, and if it has set the system's."""

    def add(since_epoch, hctosys="1", name="rtc0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "hctosys").write_text(f"{hctosys}\n")
        if since_epoch is not None:
            (tmp_path / name / "since_epoch").write_text(f"{since_epoch}\n")

    return add


def test_a_hardware_clock_is_told_by_the_kernels_file(clock, add_hardware_clock):
    """Of several hardware clocks, one that has set the time is enough; without any, none has."""
    assert not clock.set_by_hardware()
    add_hardware_clock(RIGHT_NS // NS_PER_S, "0", "rtc0")
    assert not clock.set_by_hardware()
    add_hardware_clock(RIGHT_NS // NS_PER_S, "1", "rtc1")
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
def test_a_hardware_clock_is_believed_by_its_own_time(clock, add_hardware_clock, behind_s, boot_s, believed):
    """One that has set the time and does not have it, as timesyncd moved the time on to its last stop, is nobody's."""
    clock.now_ns, clock.up_s = RIGHT_NS + 9 * NS_PER_S // 10, boot_s
    add_hardware_clock(None if behind_s is None else RIGHT_NS // NS_PER_S - behind_s)
    assert clock.right == believed


@pytest.mark.parametrize(
    ("found", "hardware_s", "left_s"),
    [
        ({}, None, 540),
        ({"is_synchronised": None}, None, 540),  # it may not be asked: not known to be right
        ({"is_synchronised": True}, None, 0),
        ({}, RIGHT_NS // NS_PER_S, 0),
        ({"now_ns": 0}, 0, 540),  # a hardware clock without a battery
        ({"is_synchronised": True, "now_ns": WRONG_NS}, None, 540),
        ({"up_s": 600.0}, None, 0),
        ({"up_s": 86_400.0}, None, 0),
    ],
)
def test_how_long_it_is_waited_for(clock, add_hardware_clock, found, hardware_s, left_s):
    """A clock that nobody has set is waited for until CLOCK_WAIT after the boot; one that is right is not."""
    for name, reading in found.items():
        setattr(clock, name, reading)
    add_hardware_clock(hardware_s)
    assert clock.wait_left_s(600) == left_s
    assert clock.wait_left_s(0) == 0


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


def boot_again(journal):
    """Leave what is not settled to an earlier boot: the machine has booted again since."""
    with contextlib.closing(sqlite3.connect(journal.path)) as connection, connection:
        connection.execute("UPDATE unsettled SET boot = 'another'")


def test_pulses_get_their_right_time_and_are_delivered_then(journal):
    """What was counted before the clock was right is seen by no writer; then all of it, in order, once, at its time."""
    key = journal.enter("house", 1000).name
    journal.append(rows(key, [1, 2]), RIGHT_NS)
    with contextlib.closing(journal.add_cursor("new")) as new:
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
        key = journal.enter("house", 1000).name
        journal.append(rows(key, [1, 2]), WRONG_NS, settled=False)
    with Journal(path) as journal:
        journal.append(rows(key, [3]), WRONG_NS + 7 * NS_PER_S, settled=False)
        assert journal.settle(RIGHT_NS) == 3
        assert journal.settle(RIGHT_NS + NS_PER_S) == 0
        assert times_s(journal, key) == [101, 102, 103]


def test_pulses_of_an_earlier_boot_keep_the_time_they_have(journal):
    """The machine went down while the clock was waited for: how far it was wrong nobody knows."""
    key = journal.enter("house", 1000).name
    journal.append(rows(key, [1]), WRONG_NS, settled=False)
    boot_again(journal)
    assert journal.settle(RIGHT_NS) == 1
    journal.append(rows(key, [2]), RIGHT_NS)
    assert times_s(journal, key) == [(WRONG_NS - RIGHT_NS) / NS_PER_S + 101, 102]


def test_a_boot_that_ended_before_the_clock_was_right_takes_nothing_from_the_next(journal):
    """Power that comes and goes: the pulses of the boot that gets a right clock get their right times."""
    key = journal.enter("house", 1000).name
    journal.append(rows(key, [1, 2]), WRONG_NS, settled=False)
    boot_again(journal)
    journal.append(rows(key, [3, 4]), WRONG_NS + 7 * NS_PER_S, settled=False)
    assert journal.settle(RIGHT_NS) == 2
    wrong_s = (WRONG_NS - RIGHT_NS) / NS_PER_S
    assert times_s(journal, key) == [wrong_s + 101, wrong_s + 102, 103, 104]


def test_meters_are_settled_each_from_its_own_count(journal):
    """Of several meters each has its own pulses shifted; a clock that was ahead leaves a step back where it belongs."""
    house, pump = journal.enter("house", 1000).name, journal.enter("pump", 800).name
    journal.append(rows(house, [1]), RIGHT_NS + 500 * NS_PER_S)
    journal.append(rows(house, [2]) + rows(pump, [1]), RIGHT_NS + 9000 * NS_PER_S, settled=False)
    assert steps(journal) == []
    assert journal.settle(RIGHT_NS) == 2
    assert (times_s(journal, house), times_s(journal, pump)) == ([601, 102], [101])
    assert steps(journal) == [(house, 2)]
