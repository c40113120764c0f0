"""Readings of a meter's face, and gaps in which nothing could be counted: in a journal, and in a running monitor."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from counting import NEVER_S, Recording, Running, hung_disk, in_a_row, seen
from hypothesis import given, settings
from hypothesis import strategies as st
from program import SOURCE, Program, wait_until

from powermeter import inputs, keeper
from powermeter.errors import PowerError
from powermeter.journal.cursor import Cursor, Position
from powermeter.journal.journal import Change, Face, Journal, Row
from powermeter.journal.readings import Reading, parse, refusal
from powermeter.journal.salvage import open_journal
from powermeter.journal.tables import SQLITE_IOERR
from powermeter.lamps import Condition
from powermeter.meter import NS_PER_S, Edge

#: 2026-11-23, in ns.
START_NS = 1_795_418_000 * NS_PER_S
HOUR_NS = 3600 * NS_PER_S


@pytest.fixture
def journal(tmp_path):
    with Journal(str(tmp_path / "journal.db")) as journal:
        journal.enter("house", 1000)
        yield journal


def pulses(first, last, spacing_ns=NS_PER_S):
    return [Row("house", number, START_NS + number * spacing_ns, spacing_ns) for number in range(first, last + 1)]


def face(number, kwh, *, after_ns=0, decimals=1, max_watts=24000, force=False):
    return Face("house", number, START_NS + after_ns, kwh, decimals, max_watts, force)


def register(journal):
    record = journal.enter("house", 1000)
    return record.constant.register_at(record.count)


def rows(path, table):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


# --- As it is typed


@pytest.mark.parametrize(("typed", "read"), [("0", (0.0, 0)), ("12345.6", (12345.6, 1)), ("00012.340", (12.34, 3))])
def test_a_reading_as_it_is_typed(typed, read):
    """It has the decimals that were typed; leading zeros are those of the face."""
    assert parse(typed) == read


@pytest.mark.parametrize("typed", ["", ".5", "5.", "12,345.6", "12345,6", "-1", "1e3", "nan", "1 2", "٣", "1.1234567"])
def test_no_reading(typed):
    """What is no number as a face shows it is refused, with what is allowed."""
    with pytest.raises(ValueError, match="allowed: kWh as the meter shows them"):
        parse(typed)


# --- What becomes of it


def test_the_first_reading_is_a_base(journal):
    """It sets the register from the next pulse on, and energy stays what was counted."""
    (judged,) = journal.append([*pulses(1, 10), face(10, 12345.6), *pulses(11, 12)])
    assert (judged.refused, judged.drift) == ("", None)
    assert judged.reading.base
    assert judged.reading.register_kwh == pytest.approx(0.010)
    assert register(journal) == pytest.approx(12345.602)
    with contextlib.closing(Cursor("all")) as cursor:
        cursor.attach(journal.path, Position({"house": 0}, ""))
        read = cursor.read(99)
    assert [pulse.watt_hours for pulse in read] == [1.0] * 12
    assert [round(pulse.register_kwh, 3) for pulse in read[8:]] == [0.009, 0.010, 12345.601, 12345.602]


def test_drift(journal):
    """From the second reading on there is a drift: how far the face moved, what was counted, and what explains it."""
    journal.append([*pulses(1, 100), face(100, 500.0, after_ns=HOUR_NS)])
    journal.add_gap("house", START_NS + 2 * HOUR_NS, START_NS + 2 * HOUR_NS + 90 * NS_PER_S, "not running")
    (judged,) = journal.append([*pulses(101, 9_700), face(9_700, 510.0, after_ns=4 * HOUR_NS)])
    drift = judged.drift
    assert (judged.reading.base, drift.since.face_kwh) == (False, 500.0)
    assert (drift.moved_kwh, drift.counted_kwh) == (pytest.approx(10), pytest.approx(9.6))
    assert (drift.difference_kwh, drift.flashes) == (pytest.approx(-0.4), pytest.approx(-400))
    assert drift.per_cent == pytest.approx(-4)
    assert (drift.explained_kwh, drift.is_explained) == (pytest.approx(0.1), False)
    assert drift.uncovered_s == 90


@pytest.mark.parametrize(
    ("kwh", "after_h", "reason"),
    [
        (499.9, 1, "it is lower than the last reading, 500.0 kWh"),
        (524.2, 1, "it is 24.2 kWh more than the last reading, and max_watts allows 24.1 kWh since"),
        (524.0, 1, ""),
        (500.0, 0, ""),
    ],
)
def test_a_reading_that_can_not_be(journal, kwh, after_h, reason):
    """Lower than the last one, or higher than the fuse allows: it changes nothing, unless it is forced: then a base."""
    journal.append([face(0, 500.0)])
    after_ns = after_h * HOUR_NS + 1
    (judged,) = journal.append([face(0, kwh, after_ns=after_ns)])
    assert judged.refused == reason
    assert register(journal) == (500.0 if reason else kwh)
    assert len(rows(journal.path, "readings")) == (1 if reason else 2)
    (judged,) = journal.append([face(0, kwh - 400, after_ns=2 * after_ns, force=True)])
    assert (judged.refused, judged.drift, judged.reading.base) == ("", None, True)
    assert register(journal) == kwh - 400


def test_readings_in_one_commit(journal):
    """Two that are written together are compared with each other."""
    first, second = journal.append([face(0, 10.0), *pulses(1, 50), face(50, 10.0, after_ns=HOUR_NS)])
    assert first.drift is None
    assert second.drift.counted_kwh == pytest.approx(0.05)
    assert second.drift.per_cent is None
    assert second.drift.is_explained


def test_a_commit_that_was_made_after_all(journal):
    """A face that is written again is the same reading."""
    entries = [*pulses(1, 10), face(10, 500.0)]
    journal.append(entries)
    (judged,) = journal.append(entries)
    assert judged.drift is None
    assert len(rows(journal.path, "readings")) == 1
    assert register(journal) == 500.0


def test_a_change_of_the_constant_between_two_readings(journal):
    """What was counted is each flash by what it was worth."""
    journal.append([face(0, 10.0), *pulses(1, 1000), Change("house", 1000, 500), *pulses(1001, 1500)])
    (judged,) = journal.append([face(1500, 12.0, after_ns=HOUR_NS)])
    assert judged.drift.counted_kwh == pytest.approx(2.0)
    assert judged.drift.impulses_per_kwh == 500


@given(st.lists(st.tuples(st.integers(0, 3600), st.floats(0, 1), st.integers(0, 3)), min_size=1, max_size=8))
@settings(max_examples=200)
def test_no_reading_is_refused_that_the_meter_can_show(moves):
    """A face that moves no faster than the fuse allows is taken, however many of its decimals are typed each time."""
    kwh, now_ns, before = 100.0, START_NS, None
    for seconds, load, decimals in moves:
        now_ns += seconds * NS_PER_S
        kwh += 24000 * seconds / 3.6e6 * load
        typed = int(kwh * 10**decimals) / 10**decimals
        if before is not None and typed >= before.face_kwh:
            assert refusal(typed, decimals, before, now_ns, 24000) == ""
        before = Reading("house", now_ns, 0, typed, decimals, 0.0, base=False)


def test_any_number_of_readings(tmp_path):
    """A script may type a reading every minute: each start knows them all, and a salvage too."""
    path = tmp_path / "journal.db"
    with Journal(str(path)) as journal:
        journal.enter("house", 1000)
        for first in range(1, 12_001, 1000):
            entries = [
                (*pulses(n, n), face(n, 10.0 + n / 1000, after_ns=n * NS_PER_S)) for n in range(first, first + 1000)
            ]
            journal.append([entry for pair in entries for entry in pair])
    with Journal(str(path)) as journal:
        assert register(journal) == pytest.approx(22.0)
        (judged,) = journal.append([face(12_000, 22.1, after_ns=20 * HOUR_NS)])
        assert judged.drift.moved_kwh == pytest.approx(0.1)
    content = bytearray(path.read_bytes())
    content[-8192:-4096] = bytes(4096)
    path.write_bytes(content)
    with open_journal(str(path), {"house": 1000}, suspect=True) as journal:
        assert register(journal) == pytest.approx(22.1)
        assert len(rows(path, "readings")) > 11_000


def test_a_clock_that_was_set_back_hides_no_reading(journal):
    """The reading before is the one of the last count, whatever its time: a lower one is refused as ever."""
    journal.append([*pulses(1, 10), face(10, 100.0, after_ns=HOUR_NS)])
    (judged,) = journal.append([*pulses(11, 12), face(12, 5.0)])
    assert judged.refused == "it is lower than the last reading, 100.0 kWh"


@pytest.mark.parametrize(
    ("before", "decimals", "typed", "typed_decimals", "refused"),
    [
        (5000.25, 2, 5000.2, 1, False),
        (5000.25, 2, 5000.1, 1, True),
        (12.0, 0, 12.0, 3, False),
        (12.9, 1, 12.0, 0, False),
    ],
)
def test_a_reading_with_other_decimals(journal, before, decimals, typed, typed_decimals, refused):
    """With fewer digits than before the face may show more than was typed."""
    journal.append([face(0, before, decimals=decimals)])
    (judged,) = journal.append([face(0, typed, decimals=typed_decimals, after_ns=HOUR_NS)])
    assert bool(judged.refused) is refused


# --- Gaps, in the journal


def gaps(path):
    return [row[1:] for row in rows(path, "gaps")]


def test_a_stop_and_a_start(journal):
    """From the stop to the start nothing was counted."""
    journal.begin_cover("house", 0, START_NS)
    journal.append(pulses(1, 10))
    journal.end_cover("house", START_NS + 20 * NS_PER_S)
    assert gaps(journal.path) == []
    journal.begin_cover("house", 10, START_NS + 60 * NS_PER_S)
    assert gaps(journal.path) == [(START_NS + 20 * NS_PER_S, START_NS + 60 * NS_PER_S, "not running")]
    assert rows(journal.path, "covered") == [(1, START_NS, None)]


def test_a_crash(journal):
    """Nobody knows when it ended: the gap begins at the last pulse, also where an earlier stop is known."""
    journal.begin_cover("house", 0, START_NS)
    journal.append(pulses(1, 10))
    journal.begin_cover("house", 10, START_NS + 60 * NS_PER_S)
    crashed = (START_NS + 10 * NS_PER_S, START_NS + 60 * NS_PER_S, "crashed")
    assert gaps(journal.path) == [crashed]
    journal.end_cover("house", START_NS + 61 * NS_PER_S)
    # A run whose clock was never known to be right.
    journal.append(pulses(70, 72))
    journal.begin_cover("house", 72, START_NS + 80 * NS_PER_S)
    assert gaps(journal.path) == [crashed, (START_NS + 72 * NS_PER_S, START_NS + 80 * NS_PER_S, "crashed")]


def test_a_crash_without_a_pulse(journal):
    """The gap begins where the last one ended, or where the record does."""
    journal.begin_cover("house", 0, START_NS)
    journal.begin_cover("house", 0, START_NS + 60 * NS_PER_S)
    assert gaps(journal.path) == [(START_NS, START_NS + 60 * NS_PER_S, "crashed")]
    journal.begin_cover("house", 0, START_NS + 90 * NS_PER_S)
    assert gaps(journal.path)[1:] == [(START_NS + 60 * NS_PER_S, START_NS + 90 * NS_PER_S, "crashed")]


def test_what_could_not_be_counted_between_two_readings(journal):
    """Gaps that overlap count once."""
    journal.append([face(0, 10.0)])
    for from_s, to_s in ((10, 20), (12, 15), (15, 30), (90, 200)):
        journal.add_gap("house", START_NS + from_s * NS_PER_S, START_NS + to_s * NS_PER_S, "input at fault")
    (judged,) = journal.append([face(0, 10.0, after_ns=100 * NS_PER_S)])
    assert judged.drift.uncovered_s == 30


def test_a_clock_that_was_set_back_makes_no_gap(journal):
    """A start that seems to be before the stop."""
    journal.begin_cover("house", 0, START_NS)
    journal.end_cover("house", START_NS + 60 * NS_PER_S)
    journal.begin_cover("house", 0, START_NS + 30 * NS_PER_S)
    assert gaps(journal.path) == []


def test_another_file_in_use_meanwhile(journal):
    """A file that is gone on with is no new start; one that was put there has a gap since it was stopped."""
    journal.begin_cover("house", 0, START_NS)
    journal.begin_cover("house", None, START_NS + 60 * NS_PER_S)
    assert gaps(journal.path) == []
    journal.end_cover("house", START_NS + 61 * NS_PER_S)
    journal.begin_cover("house", None, START_NS + 70 * NS_PER_S)
    assert gaps(journal.path) == [(START_NS + 61 * NS_PER_S, START_NS + 70 * NS_PER_S, "not running")]


def test_salvage_carries_readings_and_gaps(tmp_path):
    """A damaged journal's readings and gaps are in the one that takes its place, and so is its register."""
    path = tmp_path / "journal.db"
    with Journal(str(path)) as journal:
        journal.enter("house", 1000)
        journal.begin_cover("house", 0, START_NS)
        journal.add_gap("house", START_NS, START_NS + 5, "input at fault")
        journal.append([*pulses(1, 5000), face(5000, 12345.6), *pulses(5001, 5002)])
        kept = {table: rows(path, table) for table in ("covered", "gaps", "readings")}
    content = bytearray(path.read_bytes())
    content[-8192:-4096] = bytes(4096)
    path.write_bytes(content)
    with open_journal(str(path), {"house": 1000}, suspect=True) as journal:
        assert {table: rows(path, table) for table in kept} == kept
        assert register(journal) == pytest.approx(12345.602)


# --- A running program


def test_an_input_at_fault_is_a_gap(tmp_path, monkeypatch):
    """From the last flash to the next one; one row when it has ended, or at the stop."""
    monkeypatch.setattr(inputs, "STUCK_NS", NS_PER_S // 20)
    with Recording(tmp_path, 0.05, lit=[0]) as recording:
        wait_until(lambda: recording.recorder.meters[0].stuck)
        assert gaps(recording.path) == []
        recording.board.put(Edge(0, time.monotonic_ns() + HOUR_NS, falling=False))
        wait_until(lambda: gaps(recording.path))
        recording.board.put(Edge(0, time.monotonic_ns()))
        wait_until(lambda: recording.recorder.meters[0].stuck)
    assert [why for *_, why in gaps(recording.path)] == ["input at fault"] * 2
    assert [(until_ns is not None) for _, _, until_ns in rows(recording.path, "covered")] == [True]


def test_the_night_of_an_export_meter_is_no_gap(tmp_path):
    """Silence of what is fed in is reported, where there is a limit, and is no gap; that of the other meter is one."""
    limit = 0.1 / 60
    with Recording(tmp_path, 0.05, meters={"house": limit, "pv": limit}) as recording:
        recording.recorder.change(lambda: recording.recorder.meters[1].change(limit, is_contact=False, is_export=True))
        wait_until(lambda: all(watched.silent for watched in recording.recorder.meters))
        for index in (0, 1):
            recording.board.put(Edge(index, time.monotonic_ns()))
        wait_until(lambda: gaps(recording.path))
    assert {meter for meter, *_ in rows(recording.path, "gaps")} == {1}


def test_gaps_wait_for_the_clock(tmp_path):
    """Nothing is noted of when it was counted before the time is known."""
    with Running(tmp_path) as running:
        wait_until(lambda: rows(running.data_dir / "journal.db", "covered"))
        assert rows(running.data_dir / "journal.db", "gaps") == []
    with Running(tmp_path) as running:
        wait_until(lambda: rows(running.data_dir / "journal.db", "gaps"))
    ((_, from_ns, to_ns, why),) = rows(running.data_dir / "journal.db", "gaps")
    assert why == "not running"
    assert 0 < to_ns - from_ns < 60 * NS_PER_S


def test_a_meter_that_leaves_the_settings(tmp_path):
    """While it is not in the settings it is not counted."""
    path = tmp_path / "data" / "journal.db"
    with Running(tmp_path) as running:
        wait_until(lambda: rows(path, "covered"))
        house = running.settings
        other = dataclasses.replace(house, meters=(dataclasses.replace(house.meters[0], name="pump"),))
        running.monitor.change(other)
        wait_until(lambda: rows(path, "covered")[0][2] is not None)
        running.monitor.change(house)
        wait_until(lambda: [until_ns is None for _, _, until_ns in rows(path, "covered")] == [True, False])
    assert [(meter, why) for meter, _, _, why in rows(path, "gaps")] == [(1, "not running")]


def test_a_meter_that_is_back_before_that_is_noted(tmp_path):
    """It was away for a moment, and nothing else is a gap."""
    path = tmp_path / "data" / "journal.db"
    with Running(tmp_path) as running:
        wait_until(lambda: rows(path, "covered"))
    with Running(tmp_path) as running:
        wait_until(lambda: rows(path, "gaps"))
        house = running.settings
        other = dataclasses.replace(house, meters=(dataclasses.replace(house.meters[0], name="pump"),))
        with hung_disk(str(path)):
            running.monitor.change(other)
            running.monitor.change(house)
            away_ns = time.time_ns()
        wait_until(lambda: len(rows(path, "gaps")) > 1)
        assert rows(path, "covered")[0][2] is None
    by_meter = [row for row in rows(path, "gaps") if row[0] == 1]
    assert [why for *_, why in by_meter] == ["not running"] * 2
    assert away_ns - 10 * NS_PER_S < by_meter[1][1] < by_meter[1][2] <= away_ns


def test_a_commit_that_was_made_is_repeated_into_a_new_file(tmp_path, monkeypatch):
    """A change and a face whose commit failed but was made, and a file that is opened again: each is stored once."""
    tries = []
    append = Journal.append

    def made_but_failed(self, entries, *args, **options):
        if not any(isinstance(entry, Face) for entry in entries) or len(tries) == 2:
            return append(self, entries, *args, **options)
        tries.append(entries)
        if len(tries) == 1:
            before = self._constants, self._last_times
            append(self, entries, *args, **options)
            # As it is where COMMIT fails.
            self._constants, self._last_times = before
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = SQLITE_IOERR
        raise error

    monkeypatch.setattr(Journal, "append", made_but_failed)
    monkeypatch.setattr(keeper, "TRY_S", 0.0)
    with Running(tmp_path) as running:
        path = running.data_dir / "journal.db"
        for edge in in_a_row(20):
            running.board.put(edge)
        wait_until(lambda: len(rows(path, "pulses")) == 20)
        with hung_disk(str(path)):
            meter = dataclasses.replace(running.settings.meters[0], impulses_per_kwh=500)
            running.monitor.change(dataclasses.replace(running.settings, meters=(meter,)))
            now_ns = time.monotonic_ns()
            for number in range(1, 11):
                running.board.put(Edge(0, now_ns + number * NS_PER_S))
            wait_until(lambda: running.monitor._meters["house"].count == 30)
            asked = running.monitor.read_face("house", 500.0, 1, force=False)
            again = dataclasses.replace(meter, impulses_per_kwh=800)
            running.monitor.change(dataclasses.replace(running.settings, meters=(again,)))
        judged = wait_until(lambda: running.monitor.judged(asked))
        assert len(tries) == 2
        assert judged.reading.register_kwh == pytest.approx(20 / 1000 + 10 / 500)
        for number in range(11, 21):
            running.board.put(Edge(0, now_ns + number * NS_PER_S))
        wait_until(lambda: running.monitor.status().meters["house"].pulses == 40)
        assert running.monitor.status().meters["house"].register_kwh == pytest.approx(500 + 10 / 800)
        wait_until(lambda: len(rows(path, "pulses")) == 40)
        found = [(count, impulses, round(kwh, 6)) for _, count, impulses, kwh in rows(path, "constants")]
    assert found == [(0, 1000, 0.0), (20, 500, 0.02), (30, 800, 500.0)]


def test_a_reading_does_not_wait_for_the_next_commit(tmp_path):
    """Somebody waits for it: it is written at once, however seldom the pulses are."""
    with Recording(tmp_path, NEVER_S) as recording:
        for edge in in_a_row(3):
            recording.board.put(edge)
        seen(recording.commits)
        recording.keeper.change(face(3, 500.0))
        wait_until(lambda: recording.judged)


def taken(monitor, kwh, *, force=False, decimals=1):
    """What became of a face that *monitor* was given."""
    asked = monitor.read_face("house", kwh, decimals, force=force)
    return wait_until(lambda: monitor.judged(asked))


def test_a_reading_while_it_counts(tmp_path):
    """It is exact to the flash at 50 a second: the register goes on from the face, and no energy is lost or added."""
    with Running(tmp_path, max_watts=1_000_000) as running:
        begin_ns = time.monotonic_ns()
        for number in range(200):
            running.board.put(Edge(0, begin_ns + number * NS_PER_S // 50))
            if number == 100:
                judged = taken(running.monitor, 12345.6)
        wait_until(lambda: len(rows(running.data_dir / "journal.db", "pulses")) == 200)
        meter = running.monitor.status().meters["house"]
        after = 200 - judged.reading.count
        assert meter.register_kwh == pytest.approx(12345.6 + after / 1000)
        assert (meter.pulses, meter.kwh_today) == (200, pytest.approx(0.2))
    lines = [line.split(",") for line in running.csv.read_text().splitlines()[1:]]
    assert sum(float(line[3]) for line in lines) == pytest.approx(200)
    registers = [float(line[4]) for line in lines]
    assert registers[judged.reading.count - 1] == pytest.approx(judged.reading.count / 1000)
    assert registers[judged.reading.count :] == pytest.approx([12345.6 + n / 1000 for n in range(1, after + 1)])
    with Running(tmp_path) as again:
        assert again.monitor.status().meters["house"].register_kwh == pytest.approx(12345.6 + after / 1000)


def test_a_reading_and_a_change_of_the_constant(tmp_path):
    """Both at once: the register goes on from the face by the new constant."""
    with Running(tmp_path) as running:
        for edge in in_a_row(10):
            running.board.put(edge)
        asked = running.monitor.read_face("house", 500.0, 1, force=False)
        running.monitor.change(
            dataclasses.replace(
                running.settings, meters=(dataclasses.replace(running.settings.meters[0], impulses_per_kwh=500),)
            )
        )
        judged = wait_until(lambda: running.monitor.judged(asked))
        now_ns = time.monotonic_ns()
        for number in range(1, 11):
            running.board.put(Edge(0, now_ns + number * NS_PER_S))
        after = 10 - judged.reading.count
        wait_until(lambda: running.monitor.status().meters["house"].pulses == 20)
        register_kwh = running.monitor.status().meters["house"].register_kwh
        assert register_kwh == pytest.approx(500 + after / 1000 + 10 / 500)


def test_a_reading_that_is_refused_changes_nothing(tmp_path):
    """Neither the register that is shown nor the file's."""
    with Running(tmp_path) as running:
        taken(running.monitor, 500.0)
        assert taken(running.monitor, 499.0).refused
        assert running.monitor.status().meters["house"].register_kwh == 500.0
        with pytest.raises(PowerError, match="pump: no such meter: house"):
            running.monitor.read_face("pump", 1.0, 0, force=False)


def test_a_reading_outlives_the_file(tmp_path):
    """A journal that is deleted and one that is damaged behind a reading go on from it."""
    with Running(tmp_path) as running:
        taken(running.monitor, 500.0)
        path = running.data_dir / "journal.db"
        shutil.copy(path, tmp_path / "kept.db")
        path.unlink()
        for edge in in_a_row(5):
            running.board.put(edge)
        wait_until(lambda: path.exists() and len(rows(path, "pulses")) == 5)
        assert running.monitor.status().meters["house"].register_kwh == pytest.approx(500.005)
        assert len(rows(path, "readings")) == 1
    with Running(tmp_path) as running:
        assert running.monitor.status().meters["house"].register_kwh == pytest.approx(500.005)


def test_no_reading_while_the_journal_fails(tmp_path):
    """The reading could not be saved; that is reported immediately."""
    with Running(tmp_path) as running:
        path = running.data_dir / "journal.db"
        wait_until(lambda: rows(path, "covered"))
        path.unlink()
        path.with_name("journal.db.making").mkdir()
        running.board.put(Edge(0, time.monotonic_ns()))
        running.wait_for_condition(Condition.FAILING)
        with pytest.raises(PowerError, match="the reading can't be saved now"):
            running.monitor.read_face("house", 1.0, 0, force=False)
        path.with_name("journal.db.making").rmdir()


# --- The command


@pytest.fixture
def program(tmp_path):
    with Program(tmp_path) as program:
        yield program


def read(program, *args):
    done = program.run("--reading", *args)
    return done.returncode, done.stdout, done.stderr


def test_the_command_while_it_runs_and_while_it_does_not(program):
    """It is durable when the command returns: a kill and a start later the register is what was typed."""
    program.start("--simulate", "3000")
    status, said, _ = read(program, "12345.6")
    assert status == 0
    assert said.startswith("SIMULATED: no real meter counted this\nmeter house: the register is 12345.6 kWh from ")
    assert said.endswith("the next reading shows how far face and count drift apart\n")
    os.kill(program.pid, signal.SIGKILL)
    wait_until(lambda: program.pid is None)
    status, said, _ = read(program, "house=12345.7")
    assert status == 0
    assert re.search(
        r"^since \d{4}-\d\d-\d\d \d\d:\d\d the face moved by 0.1 kWh, and 0.\d{3} kWh were counted$", said, re.MULTILINE
    )
    assert re.search(
        r"^drift: -0.\d{3} kWh, -\d+.\d\d %, -\d+ flashes; the last digit can explain 0.1 kWh$", said, re.MULTILINE
    )
    program.start("--simulate", "3000")
    assert program.status()["meters"]["house"]["register_kwh"] >= 12345.7
    report = json.loads(program.run("--report", "--json").stdout)
    assert [one["face_kwh"] for one in report["readings"]] == [12345.7, 12345.6]


def test_a_command_that_is_refused(program):
    """It says why, and what takes it all the same; and that takes it."""
    for args in ([], ["--simulate", "3000"]):
        if args:
            program.start(*args)
            assert read(program, "500.0")[0] == 0
            status, said, error = read(program, "499.9")
            assert (status, said) == (1, "")
            assert error == (
                "power: meter house: 499.9 kWh is not taken: it is lower than the last reading, 500.0 kWh: "
                "--force takes it, after a typing error or with a new meter\n"
            )
            assert read(program, "499.9", "--force")[0] == 0
        else:
            status, _, error = read(program, "1")
            assert status == 1
            assert error.startswith("power: no journal in ")
        program.run("--kill")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["pump=5"], "power: --reading: pump: no such meter: --reading house=KWH\n"),
        (["12,5"], "allowed: kWh as the meter shows them"),
        (["house=x"], "allowed: kWh as the meter shows them"),
        ([], "expected one argument"),
        (["5", "--json"], "--json goes with --status and --report"),
    ],
)
def test_a_wrong_command(program, args, said):
    """One line that says what is allowed, with status 2; nothing is changed."""
    program.start("--simulate", "3000")
    status, _, error = read(program, *args)
    assert status == 2
    assert said in error.splitlines(keepends=True)[-1]
    assert rows(program.data_dir / "simulated" / "journal.db", "readings") == []


def test_several_meters(program):
    """With several meters, the command must name one."""
    with program.settings.open("a") as file:
        file.write(
            'METERS = {name: {"pin": pin, "impulses_per_kwh": 1000} for name, pin in (("flat", 11), ("pump", 13))}\n'
        )
    program.start("--simulate", "3000", "--settings", str(program.settings))
    status, _, error = read(program, "5")
    assert (status, error) == (2, "power: --reading: which meter?: --reading flat=KWH, --reading pump=KWH\n")
    assert read(program, "pump=5")[0] == 0


def test_a_daemon_that_another_user_runs_is_not_asked(program):
    """Force and a meter without a program: no start is hindered by a command that is under way."""
    program.start("--simulate", "3000")
    program.run("--kill")
    path = program.data_dir / "simulated" / "lock"
    with holding(path):
        status, _, error = read(program, "5")
    assert status == 1
    assert "running" in error


@contextlib.contextmanager
def holding(path):
    """Another process that has the lock of DATA_DIR."""
    code = (
        f"import sys; sys.path.insert(0, {str(SOURCE)!r})\n"
        "from powermeter.process.pidfile import PidFile\n"
        f"with PidFile({str(path)!r}, 0o600):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as held:
        assert held.stdout.readline() == "held\n"
        yield
        held.stdin.close()
