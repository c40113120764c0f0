"""The past of a simulated household: what its new journal begins with, and that counting goes on behind it."""

import contextlib
import datetime as dt
import functools
import itertools
import json
import sqlite3
import subprocess
import threading
import time
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import Program, kill, wait_until
from records import journal_rows

from powermeter import past
from powermeter.boards.simulated import household
from powermeter.boards.simulated import past as past_load
from powermeter.clock import REAL_CLOCK
from powermeter.errors import JournalError, StoppedError
from powermeter.journal.cursor import Cursor
from powermeter.journal.journal import Journal, Row
from powermeter.keeper import Keeper
from powermeter.meter import NS_PER_S

#: Impulses per kWh with which making the past takes minutes, so that something can happen meanwhile.
SLOW = 1_000_000
AN_EVENING_S = dt.datetime(2026, 3, 31, 20, 15, tzinfo=dt.UTC).timestamp()


def open_file(path, meters, until_s=AN_EVENING_S, stopped=lambda: False):
    return past.open_journal(until_s, str(path), meters, stopped=stopped, suspect=False)


def counts_of(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return dict(connection.execute("SELECT name, max(count) FROM pulses JOIN meters USING (meter) GROUP BY name"))


# --- The load


@pytest.mark.parametrize(
    ("zone", "until"),
    [
        ("Europe/Berlin", dt.datetime(2026, 3, 29, 18, 0)),  # the clock went forward in the night before
        ("Europe/Berlin", dt.datetime(2026, 11, 3, 7, 30)),  # it went back nine days ago
        ("Australia/Lord_Howe", dt.datetime(2026, 4, 6, 0, 0)),  # by half an hour
        ("UTC", dt.datetime(2026, 1, 1, 23, 59, 59)),
    ],
)
def test_a_past_of_local_days(in_zone, zone, until):
    """The load begins at the midnight 35 local days ago and ends now, whatever lengths the days between have."""
    in_zone(zone)
    until_s = until.replace(tzinfo=ZoneInfo(zone)).timestamp()
    begin_s, load = past_load(until_s, "house")
    begin = dt.datetime.fromtimestamp(begin_s, ZoneInfo(zone))
    assert (begin.date(), begin.hour, begin.minute) == ((until - dt.timedelta(35)).date(), 0, 0)
    assert sum(seconds for seconds, _ in load) == pytest.approx(until_s - begin_s, abs=1e-3)


@given(st.integers(1, 86399))
def test_the_past_and_the_live_load_are_one_day(second):
    """Today's part of the past is the beginning of the day that the live load goes on with."""
    until_s = time.mktime((2026, 3, 10, 0, 0, 0, 0, 0, -1)) + second
    begin_s, load = past_load(until_s, "house")

    def watts_at(steps, at_s):
        ends = itertools.accumulate(seconds for seconds, _ in steps)
        return next(watts for end_s, (_, watts) in zip(ends, steps, strict=True) if end_s > at_s)

    steps = list(load)
    live = list(itertools.islice(household(0, "house"), 400))
    at_s = second / 2 + 0.25  # no step begins there
    assert watts_at(steps, until_s - second + at_s - begin_s) == watts_at(live, at_s)


# --- The journal


def test_a_new_journal_has_35_days(tmp_path):
    """Each meter's flashes since the midnight 35 days ago are in it, as many as its energy, each with its interval."""
    path, meters = tmp_path / "journal.db", {"house": 1000.0, "heating": 800.0}
    open_file(path, meters).close()
    rows = journal_rows(tmp_path)
    for name, impulses in meters.items():
        begin_s, load = past_load(AN_EVENING_S, name)
        joules = sum(seconds * watts for seconds, watts in load)
        of_meter = [row for row in rows if row[0] == name]
        assert len(of_meter) == pytest.approx(joules / 3.6e6 * impulses, abs=1)
        assert [number for _, number, _, _ in of_meter] == list(range(1, len(of_meter) + 1))
        times = [time_ns for _, _, time_ns, _ in of_meter]
        assert [interval for _, _, _, interval in of_meter] == [None, *(b - a for a, b in itertools.pairwise(times))]
        assert begin_s * NS_PER_S < times[0] < (begin_s + 600) * NS_PER_S
        assert (AN_EVENING_S - 600) * NS_PER_S < times[-1] <= AN_EVENING_S * NS_PER_S
    with contextlib.closing(sqlite3.connect(path)) as connection:
        covered = connection.execute(
            "SELECT name, since_ns, until_ns FROM covered JOIN meters USING (meter)"
        ).fetchall()
        assert connection.execute("SELECT count(*) FROM steps").fetchone() == (0,)
    assert covered == [(name, begin_s * NS_PER_S, AN_EVENING_S * NS_PER_S) for name in meters]
    assert counts_of(path)["house"] > 200_000


def test_a_journal_that_is_there_gets_no_past(tmp_path):
    """What was counted stays as it is: a past is for a new journal only."""
    path = tmp_path / "journal.db"
    with Journal(str(path)) as journal:
        journal.enter("house", 1000)
        journal.append([Row("house", 1, 10**18, None)])
    open_file(path, {"house": 1000.0}).close()
    assert journal_rows(tmp_path) == [("house", 1, 10**18, None)]


def test_a_stop_leaves_nothing(tmp_path):
    """A stop ends the making, and no file is left; the next try makes all of it, as one after a kill does."""
    path, asked = tmp_path / "journal.db", []

    def stopped():
        asked.append(counts_of(f"{path}.making").get("house", 0))
        return asked[-1] > 50_000

    with pytest.raises(StoppedError, match="the next start makes it again"):
        open_file(path, {"house": 1000.0}, stopped=stopped)
    assert list(tmp_path.iterdir()) == []
    path.with_name("journal.db.making").write_bytes(b"half a page")
    open_file(path, {"house": 1000.0}).close()
    assert counts_of(path)["house"] > 200_000
    assert [left.name for left in tmp_path.iterdir() if ".making" in left.name] == []


def test_where_it_can_not_be_made(tmp_path):
    """A directory that can't be written is an error of the journal, which the keeper shows and tries again."""
    (tmp_path / "journal.db.making").mkdir()
    with pytest.raises(JournalError, match="the journal can't be opened"):
        open_file(tmp_path / "journal.db", {"house": 1000.0})
    assert not (tmp_path / "journal.db").exists()


def test_counting_goes_on_behind_it(tmp_path):
    """A pulse that came while the past was made is the next one behind it, and the first that a new writer gets."""
    path, cursor = tmp_path / "journal.db", Cursor("file")
    keeper = Keeper(
        str(path),
        0.01,
        clock=REAL_CLOCK,
        clock_wait_s=0,
        keep_days=400,
        on_commit=lambda: None,
        on_state=lambda: None,
        on_judged=lambda _judged: None,
        open_file=functools.partial(past.open_journal, time.time()),
    )
    keeper.enter("house", 1000)
    keeper.follow(cursor)
    at_ns = time.monotonic_ns()
    keeper.keep(Row("house", 1, at_ns, None))
    thread = threading.Thread(target=keeper.run)
    thread.start()
    assert wait_until(lambda: keeper.opened and not keeper.uncommitted)
    keeper.stop()
    thread.join()
    (pulse,) = cursor.read(10)
    assert pulse.time_ns == pytest.approx(at_ns + REAL_CLOCK.ahead_ns(), abs=10**9)
    assert pulse.number == counts_of(path)["house"] > 200_000
    assert pulse.register_kwh == pytest.approx(pulse.number / 1000)
    cursor.close()
    keeper.close()


# --- The program


def made(program):
    """The journal of *program*, once it is in its place; and how far its file is."""
    data = program.data_dir / "simulated"
    wait_until((data / "journal.db").exists)
    wait_until(lambda: program.status()["writers"]["file"]["waiting"] is not None)
    return data / "journal.db"


def test_the_first_start_and_the_second(tmp_path):
    """The first start makes the past, which no writer gets; the second goes on from what was counted."""
    with Program(tmp_path) as program:
        began_ns = time.time_ns()
        program.start("--simulate")
        journal = made(program)
        first = program.status()
        rows = journal_rows(journal.parent)
        assert sum(time_ns < began_ns for _, _, time_ns, _ in rows) > 200_000
        assert rows[0][2] < began_ns - 35 * 86400 * NS_PER_S
        assert program.run("--kill").returncode == 0
        csv = journal.parent / "power.csv"
        times = [line.split(",")[0] for line in csv.read_text().splitlines()[1:]] if csv.exists() else []
        began = dt.datetime.fromtimestamp(began_ns / NS_PER_S, dt.UTC).isoformat()
        assert [at for at in times if at < began[:19]] == []
        log = journal.parent / "power.log"
        assert log.read_text().count("it begins with 35 days of an invented household") == 1
        program.start("--simulate")
        again = program.status()
        pulses = [status["meters"]["house"]["pulses"] for status in (first, again)]
        assert 200_000 < pulses[0] <= pulses[1] < pulses[0] + 1000
        assert log.read_text().count("it begins with 35 days of an invented household") == 1


def test_a_constant_load_has_no_past(tmp_path):
    """With WATTS the journal begins with the first flash, as a journal of the real pins does."""
    with Program(tmp_path) as program:
        program.start("--simulate", "20000")
        wait_until(lambda: program.status()["meters"]["house"]["pulses"])
        assert program.status()["meters"]["house"]["pulses"] < 1000


def slow(impulses_per_kwh=SLOW):
    return f'METERS = {{"house": {{"pin": 18, "impulses_per_kwh": {impulses_per_kwh}}}}}'


def test_a_kill_while_it_is_made(tmp_path):
    """It counts while the past is made. A kill then leaves no journal, and the next start makes all of it."""
    with Program(tmp_path, slow()) as program:
        pid = program.start("--simulate")
        data = program.data_dir / "simulated"
        wait_until(lambda: program.status()["journal"]["uncommitted"] > 20)
        kill(pid)
        assert (data / "journal.db.making").exists()
        assert not (data / "journal.db").exists()
        program.set(slow(1000))
        program.start("--simulate")
        assert counts_of(made(program))["house"] > 200_000


def test_a_stop_while_it_is_made(tmp_path):
    """A stop then ends it in order, within what a stop may take, and leaves no journal; nothing is called lost."""
    with Program(tmp_path, slow()) as program:
        program.start("--simulate")
        data = program.data_dir / "simulated"
        wait_until(lambda: program.status()["journal"]["uncommitted"] > 20)
        assert program.run("--kill").returncode == 0
        log = (data / "power.log").read_text()
        assert "stopped before it was complete: the next start makes it again" in log
        assert [line for line in log.splitlines() if " CRITICAL " in line or " ERROR " in line] == []
        assert sorted(path.name for path in data.iterdir() if path.name.startswith("journal")) == []


def test_the_writers_that_are_left_out(tmp_path):
    """Without --settings, start and status name the writers that invented watts do not go to."""
    writers = 'WRITERS = {"file": {"type": "file"}, "db": {"type": "influxdb", "port": 9}}'
    with Program(tmp_path, writers, env={"POWER_SETTINGS": str(tmp_path / "settings.py")}) as program:
        for way, left_out in (([], ["writer db"]), (["--settings", str(program.settings)], [])):
            line = [*program.start_of_line, "--pidfile", str(program.pidfile), *way, "--simulate", "3000"]
            done = subprocess.run(line, env=program.env, capture_output=True, text=True, check=True)
            assert ("power: left out by --simulate: writer db; --settings PATH includes all\n" in done.stderr) == (
                not way
            )
            ask = [*program.start_of_line, "--pidfile", str(program.pidfile), "--status"]
            text, as_json = (
                subprocess.run([*ask, *more], env=program.env, capture_output=True, text=True, check=True).stdout
                for more in ([], ["--json"])
            )
            assert ("\nleft out by --simulate: writer db\n" in text) == (not way)
            assert json.loads(as_json)["left_out"] == left_out
            assert program.run("--kill").returncode == 0
