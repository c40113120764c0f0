"""Laws of the journal, on real files."""

import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from program import PATIENCE_S, SOURCE, root_alone

from powermeter.errors import DamagedError, JournalError, StoppedError
from powermeter.journal import journal as journal_module
from powermeter.journal import tables
from powermeter.journal.cursor import Position
from powermeter.journal.history import Energy, History, about
from powermeter.journal.journal import Change, Face, Journal, MeterRecord, Row, prepare_dir
from powermeter.journal.tables import SCHEMA, SCHEMAS, make_private
from powermeter.meter import NS_PER_S, Constant, Pulse

#: 2026-11-23T07:13:20Z, as ns.
START_NS = 1_795_418_000 * NS_PER_S

#: Times as a wrong clock may give them: any, near each other, so that they step back, stand still and repeat.
times = st.integers(START_NS - 50, START_NS + 50)


@contextlib.contextmanager
def new_journal():
    """A new journal; for laws, of which each example needs its own."""
    with tempfile.TemporaryDirectory() as directory, Journal(os.path.join(directory, "journal.db")) as journal:
        yield journal


def rows_of(meter, times_ns, first=1):
    """Rows of *meter* at *times_ns*; the first without an interval."""
    return [
        Row(meter, number, time_ns, None if number == 1 else number * 1000)
        for number, time_ns in enumerate(times_ns, first)
    ]


def pulse_of(name, row, impulses_per_kwh=1000):
    """The pulse that *row* is read as, under a constant that never changed."""
    constant = Constant(impulses_per_kwh)
    watts = None if row.interval_ns is None else constant.mean_watts(1, row.interval_ns / NS_PER_S)
    return Pulse(name, row.number, row.at_ns, watts, constant.watt_hours, constant.register_at(row.number))


def read_all(cursor, limit=1000):
    """All pulses after *cursor*, read and moved past *limit* at a time."""
    pulses = []
    while batch := cursor.read(limit):
        assert len(batch) <= limit
        cursor.advance(batch, "")
        pulses += batch
    return pulses


@contextlib.contextmanager
def from_the_beginning(journal):
    """The cursor of the writer "reader"; it is before the first pulse if it was made before the meters."""
    with contextlib.closing(journal.add_cursor("reader")) as cursor:
        yield cursor


def counts(path):
    """The counts of the pulses in the file *path*, by the meter's name, read with SQLite only."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = connection.execute("SELECT name, count FROM pulses NATURAL JOIN meters ORDER BY name, count").fetchall()
    return {meter: [count for _, count in group] for meter, group in itertools.groupby(rows, lambda row: row[0])}


# --- Pulses


@given(
    st.lists(
        st.tuples(st.integers(-(2**63), 2**63 - 1), st.none() | st.integers(1, 2**63 - 1)), min_size=1, max_size=40
    )
)
@settings(max_examples=50)
def test_append_reads_back(labels):
    """Pulses read back as they were appended, in the order of their count whatever their times are."""
    with new_journal() as journal:
        journal.add_cursor("reader").close()
        meter = journal.enter("house", 1000).name
        rows = [Row(meter, number, time_ns, interval) for number, (time_ns, interval) in enumerate(labels, 1)]
        journal.append(rows)
        with from_the_beginning(journal) as cursor:
            assert cursor.read(1000) == [pulse_of("house", row) for row in rows]


def test_order_is_the_count(tmp_path):
    """The clock set back in the middle changes no order and loses no pulse."""
    with Journal(str(tmp_path / "journal.db")) as journal:
        journal.add_cursor("reader").close()
        key = journal.enter("house", 1000).name
        times_ns = [START_NS, START_NS + 10, START_NS - NS_PER_S, START_NS - NS_PER_S, START_NS + 20]
        journal.append(rows_of(key, times_ns))
        with from_the_beginning(journal) as cursor:
            pulses = read_all(cursor, limit=2)
        assert [pulse.number for pulse in pulses] == [1, 2, 3, 4, 5]
        assert [pulse.time_ns for pulse in pulses] == times_ns


@given(st.lists(st.lists(times, max_size=25), min_size=2, max_size=4), st.integers(1, 60))
@settings(max_examples=60)
def test_meters_merge(times_of_meters, limit):
    """Whatever the batches, each pulse of each meter is read once and in its meter's order; clocks that go merge."""
    with new_journal() as journal:
        journal.add_cursor("reader").close()
        names = [f"meter{index}" for index in range(len(times_of_meters))]
        keys = [journal.enter(name, 1000).name for name in names]
        rows = {name: rows_of(key, ns) for name, key, ns in zip(names, keys, times_of_meters, strict=True)}
        journal.append([row for meter_rows in rows.values() for row in meter_rows])
        with from_the_beginning(journal) as cursor:
            pulses = read_all(cursor, limit)
        for name in names:
            assert [pulse for pulse in pulses if pulse.meter == name] == [pulse_of(name, row) for row in rows[name]]
        assert len(pulses) == sum(map(len, times_of_meters))
        if all(ns == sorted(ns) for ns in times_of_meters):
            assert [pulse.time_ns for pulse in pulses] == sorted(itertools.chain(*times_of_meters))


def test_earlier_meter_goes_first(tmp_path):
    """Of two meters the earlier pulse is read first, also over the end of a batch."""
    with Journal(str(tmp_path / "journal.db")) as journal:
        journal.add_cursor("reader").close()
        house, pump = (journal.enter(name, 1000).name for name in ("house", "pump"))
        journal.append(rows_of(house, [START_NS + n for n in (0, 30, 40)]))
        journal.append(rows_of(pump, [START_NS + n for n in (10, 20, 50)]))
        with from_the_beginning(journal) as cursor:
            assert [pulse.time_ns - START_NS for pulse in read_all(cursor, limit=2)] == [0, 10, 20, 30, 40, 50]


def test_append_is_whole_or_nothing(tmp_path):
    """If one row of an append can't be stored, none is, and the next append works."""
    path = tmp_path / "journal.db"
    with Journal(str(path)) as journal:
        key = journal.enter("house", 1000).name
        journal.append(rows_of(key, [START_NS]))
        with pytest.raises(OverflowError):
            journal.append([Row(key, 2, START_NS + 1, 5), Row(key, 2**63, START_NS, None)])
        assert counts(path) == {key: [1]}
        journal.append([Row(key, 2, START_NS + 1, 5)])
    assert counts(path) == {key: [1, 2]}


def test_append_of_what_is_there(tmp_path):
    """A commit that was given up may have been made after all: its rows stay as they are, and new ones are kept."""
    path = tmp_path / "journal.db"
    with Journal(str(path)) as journal:
        key = journal.enter("house", 1000).name
        rows = rows_of(key, [START_NS, START_NS + 5, START_NS + 2])
        journal.append(rows)
        journal.append([*rows[1:], Row(key, 4, START_NS + 9, 7)])
    assert counts(path) == {key: [1, 2, 3, 4]}


# --- Constants


@given(
    st.lists(st.tuples(st.sampled_from([100, 800, 1000, 1600, 3200.5]), st.integers(0, 5), st.booleans()), max_size=12)
)
@settings(max_examples=60)
def test_constants(changes):
    """Through any changes of the constant a pulse keeps its energy; the register is their sum and never goes back."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "journal.db")
        journal = Journal(path)
        try:
            journal.add_cursor("reader").close()
            journal.enter("house", 1000)
            impulses, count = [], 0
            for constant, pulses, reopen in changes:
                if reopen:
                    journal.close()
                    journal = Journal(path)
                known = journal.enter("house", constant)
                assert known.count == count
                assert known.constant.impulses_per_kwh == constant
                assert known.constant.register_at(count) == pytest.approx(sum(1 / n for n in impulses), abs=1e-9)
                journal.append(rows_of(known.name, [START_NS + count + n for n in range(1, pulses + 1)], count + 1))
                impulses += [constant] * pulses
                count += pulses
            with from_the_beginning(journal) as cursor:
                pulses = cursor.read(1000)
            assert [pulse.watt_hours for pulse in pulses] == [1000 / n for n in impulses]
            sums = itertools.accumulate(1 / n for n in impulses)
            assert [pulse.register_kwh for pulse in pulses] == pytest.approx(list(sums), abs=1e-9)
            assert all(one.register_kwh < next_one.register_kwh for one, next_one in itertools.pairwise(pulses))
        finally:
            journal.close()


def test_constant_changed_and_back(tmp_path):
    """A constant changed by mistake and back, with no pulse between, leaves the register as exact as before."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        known = journal.enter("house", 1000)
        journal.append(rows_of(known.name, [START_NS, START_NS + 1, START_NS + 2]))
    for constant in (3200, 1000):
        with Journal(path) as journal:
            known = journal.enter("house", constant)
            assert known.constant.register_at(known.count) == 0.003
    assert known.constant.register_at(1003) == pytest.approx(1.003)


def test_watts_follow_the_constant_at_the_count(tmp_path):
    """The power of a past pulse is by the constant that was in force then."""
    with Journal(str(tmp_path / "journal.db")) as journal:
        journal.add_cursor("reader").close()
        for number, constant in ((1, 1000), (2, 1000), (3, 500)):
            key = journal.enter("house", constant).name
            journal.append([Row(key, number, START_NS + number, 3_600_000_000)])
        with from_the_beginning(journal) as cursor:
            assert [pulse.watts for pulse in cursor.read(9)] == [1000, 1000, 2000]


# --- Spans of time


@given(
    st.lists(st.tuples(times, st.sampled_from(["go on", "commit", "reopen", "other constant"])), max_size=40),
    st.lists(st.tuples(times, times), min_size=1, max_size=10),
)
@settings(max_examples=100)
def test_span_equals_counting(history, spans):
    """A span has the pulses, and their energy, that counting one by one gives; however the clock was set back."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "journal.db")
        journal = Journal(path)
        try:
            key, constant, rows, kept = journal.enter("house", 1000).name, 1000, [], []
            for number, (time_ns, then) in enumerate(history, 1):
                rows.append(Row(key, number, time_ns, 7))
                kept.append((time_ns, constant))
                if then != "go on":
                    journal.append(rows)
                    rows = []
                if then == "reopen":
                    journal.close()
                    journal = Journal(path)
                    journal.enter("house", constant)
                elif then == "other constant":
                    constant = 2600 - constant
                    journal.enter("house", constant)
            journal.append(rows)
            with History(journal.path) as reader:
                for from_ns, to_ns in map(sorted, spans):
                    counted = [1 / constant for time_ns, constant in kept if from_ns <= time_ns < to_ns]
                    energy = reader.span("house", from_ns, to_ns)
                    assert (energy.pulses, energy.approximate) == (len(counted), False)
                    assert energy.kwh == pytest.approx(sum(counted), abs=1e-9)
        finally:
            journal.close()


def test_span_of_an_unknown_meter(tmp_path):
    """A meter that the journal does not know, or that has no pulse, has no energy."""
    with Journal(str(tmp_path / "journal.db")) as journal, History(journal.path) as reader:
        journal.enter("pump", 1000)
        assert reader.span("house", 0, 2**63 - 1) == Energy(0, 0.0, False)
        assert reader.span("pump", 0, 2**63 - 1) == Energy(0, 0.0, False)


def test_span_seeks(tmp_path):
    """A span among 100,000 pulses takes SQLite hardly more steps than one among 1,000: it seeks, it scans nothing."""
    steps = {}
    for size in (1_000, 100_000):
        with Journal(str(tmp_path / f"{size}.db")) as journal, History(journal.path) as reader:
            key = journal.enter("house", 1000).name
            journal.append(rows_of(key, range(START_NS, START_NS + size)))
            taken = itertools.count()
            reader._connection.set_progress_handler(lambda taken=taken: next(taken) and None, 1)
            assert reader.span("house", START_NS + size // 3, START_NS + size // 2).pulses == size // 2 - size // 3
            steps[size] = next(taken)
    # The bisection of 100 times as many pulses takes log2(100) = 7 more questions at each end.
    assert steps[100_000] < 3 * steps[1_000]
    assert steps[100_000] < 2_000


def test_waiting_seeks(tmp_path):
    """How many pulses wait, and since when, is found without counting them."""
    with (
        Journal(str(tmp_path / "journal.db")) as journal,
        History(journal.path) as reader,
        contextlib.closing(journal.add_cursor("reader")) as cursor,
    ):
        assert reader.waiting(cursor.position) == (0, None)
        house, pump = (journal.enter(name, 1000).name for name in ("house", "pump"))
        journal.append(rows_of(house, range(START_NS + 5, START_NS + 50_005)))
        journal.append(rows_of(pump, range(START_NS, START_NS + 10)))
        taken = itertools.count()
        reader._connection.set_progress_handler(lambda: next(taken) and None, 1)
        assert reader.waiting(cursor.position) == (50_010, START_NS)
        assert next(taken) < 1_000


# --- Cursors


def test_new_writer_starts_at_now(tmp_path):
    """A writer that is new gets the pulses from then on; of a meter without one, all."""
    with Journal(str(tmp_path / "journal.db")) as journal:
        house, pump = (journal.enter(name, 1000).name for name in ("house", "pump"))
        journal.append(rows_of(house, [START_NS, START_NS + 1]))
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            assert cursor.read(9) == []
            journal.append([Row(house, 3, START_NS + 2, 7), Row(pump, 1, START_NS + 3, None)])
            assert [(pulse.meter, pulse.number) for pulse in cursor.read(9)] == [("house", 3), ("pump", 1)]


def test_writer_that_comes_back(tmp_path):
    """A writer that comes back goes on where it stopped, however long it was away, and whoever came meanwhile."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        key = journal.enter("house", 1000).name
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            journal.append(rows_of(key, [START_NS, START_NS + 1]))
            cursor.advance(cursor.read(1), "here")
            cursor.commit()
    with Journal(path) as journal, contextlib.closing(journal.add_cursor("influxdb")) as other:
        journal.enter("house", 1000)
        journal.append([Row(key, 3, START_NS + 2, 7)])
        assert [pulse.number for pulse in other.read(9)] == [3]
    with Journal(path) as journal, contextlib.closing(journal.add_cursor("file")) as cursor:
        assert cursor.position.place == "here"
        assert [pulse.number for pulse in cursor.read(9)] == [2, 3]


def test_new_meter_for_an_old_writer(tmp_path):
    """An old writer gets a meter that is new from its first pulse on."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        house = journal.enter("house", 1000).name
        journal.append(rows_of(house, [START_NS]))
        journal.add_cursor("file").close()
    with Journal(path) as journal:
        pump = journal.enter("pump", 800).name
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            journal.append(rows_of(pump, [START_NS + 5, START_NS + 6]))
            assert [(pulse.meter, pulse.number) for pulse in cursor.read(9)] == [("pump", 1), ("pump", 2)]


def durable_position(path, writer):
    """The cursor of *writer* as a program that opens the journal now would find it."""
    with Journal(path) as journal, contextlib.closing(journal.add_cursor(writer)) as cursor:
        return cursor.position


def test_cursors_ride_along(tmp_path):
    """A cursor's move costs no write: it is durable with the next append, or by commit(), and not before."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        key = journal.enter("house", 1000).name
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            journal.append(rows_of(key, [START_NS, START_NS + 1]))
            cursor.advance(cursor.read(1), "first")
            assert cursor.moved
            assert durable_position(path, "file") == ({key: 0}, "")
            journal.append([Row(key, 3, START_NS + 2, 7)])
            assert not cursor.moved
            assert durable_position(path, "file") == ({key: 1}, "first")
            cursor.advance(cursor.read(2), "second")
            assert durable_position(path, "file") == ({key: 1}, "first")
            cursor.commit()
            assert not cursor.moved
            assert durable_position(path, "file") == ({key: 3}, "second")


def test_cursors_move_beside_the_recorder(tmp_path):
    """Two writers' threads, beside a recorder that appends, get each pulse once, and their cursors are kept."""
    path = str(tmp_path / "journal.db")
    size, read = 400, {"one": [], "two": []}

    def deliver(cursor):
        while len(read[cursor.writer]) < size:
            batch = cursor.read(7)
            read[cursor.writer] += [pulse.number for pulse in batch]
            cursor.advance(batch, str(len(read[cursor.writer])))
            if len(batch) == 7:
                cursor.commit()

    with Journal(path) as journal, contextlib.ExitStack() as stack:
        key = journal.enter("house", 1000).name
        cursors = [stack.enter_context(contextlib.closing(journal.add_cursor(writer))) for writer in read]
        threads = [threading.Thread(target=deliver, args=(cursor,)) for cursor in cursors]
        for thread in threads:
            thread.start()
        for first in range(1, size + 1, 5):
            journal.append(rows_of(key, range(START_NS, START_NS + 5), first))
        for thread in threads:
            thread.join(PATIENCE_S)
        journal.append([Row(key, size + 1, START_NS, 7)])
    for writer, numbers in read.items():
        assert numbers == list(range(1, size + 1))
        assert durable_position(path, writer) == ({key: size}, str(size))


def test_place_alone_moves(tmp_path):
    """The writer's place is kept as it is, text of any kind, also where no pulse was taken."""
    path = str(tmp_path / "journal.db")
    place = 'file 1:2 "☀"\n'
    with Journal(path) as journal, contextlib.closing(journal.add_cursor("file")) as cursor:
        journal.enter("house", 1000)
        cursor.advance([], place)
        cursor.commit()
    assert durable_position(path, "file").place == place


def test_place_that_can_not_be_kept(tmp_path, monkeypatch):
    """A place whose commit fails is not taken: the position is as before, on the disk too; the next one is kept."""
    monkeypatch.setattr(tables, "BUSY_TIMEOUT_S", 0)
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        key = journal.enter("house", 1000).name
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            journal.append(rows_of(key, [START_NS, START_NS + 1]))
            cursor.advance(cursor.read(1), "first")
            cursor.commit()
            cursor.advance(cursor.read(1), "second")
            with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as busy:
                busy.execute("BEGIN IMMEDIATE")
                with pytest.raises(sqlite3.OperationalError, match="locked"):
                    cursor.move("third")
            assert cursor.position == ({key: 2}, "second")
            assert cursor.moved
            assert durable_position(path, "file") == ({key: 1}, "first")
            cursor.move("third")
            assert not cursor.moved
            assert durable_position(path, "file") == ({key: 2}, "third")


def test_append_that_fails_leaves_cursors_moved(tmp_path):
    """A move that should have gone with an append that failed goes with the next one."""
    path = str(tmp_path / "journal.db")
    with Journal(path) as journal:
        key = journal.enter("house", 1000).name
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            journal.append(rows_of(key, [START_NS]))
            cursor.advance(cursor.read(1), "moved")
            with pytest.raises(OverflowError):
                journal.append([Row(key, 2**63, START_NS, None)])
            assert cursor.moved
            assert durable_position(path, "file") == ({key: 0}, "")
            journal.append([Row(key, 2, START_NS + 1, 7)])
            assert durable_position(path, "file") == ({key: 1}, "moved")


# --- Crashes

APPENDING = """
import contextlib, itertools, sys
sys.path.insert(0, {source!r})
from powermeter.journal.journal import Journal, Row
with Journal(sys.argv[1]) as journal, contextlib.closing(journal.add_cursor("file")) as cursor:
    known = journal.enter("house", 1000)
    for first in itertools.count(known.count + 1, 7):
        journal.append([Row(known.name, number, number, 5) for number in range(first, first + 7)])
        cursor.advance([], str(first + 6))
        print(first + 6, flush=True)
"""


def test_sigkill_loses_nothing_committed(tmp_path):
    """A program killed at any moment loses no committed pulse, keeps no half append, and its journal is sound."""
    path = tmp_path / "journal.db"
    chance = random.Random(1)
    for _ in range(12):
        line = [sys.executable, "-c", APPENDING.format(source=str(SOURCE)), str(path)]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as appending:
            told = [appending.stdout.readline() for _ in range(chance.randrange(2, 40))]
            appending.kill()
            told += [line for line in appending.stdout if line.endswith("\n")]
            assert appending.wait(PATIENCE_S) == -signal.SIGKILL
        ((_, kept),) = counts(path).items()
        assert kept == list(range(1, len(kept) + 1))
        assert len(kept) % 7 == 0
        assert len(kept) >= int(told[-1])
        with Journal(str(path)) as journal:
            assert journal.enter("house", 1000).count == len(kept)
        # The place that was set after an append is kept with the one that follows it.
        assert durable_position(str(path), "file").place == str(len(kept) - 7)


class Cut:
    """A journal that was copied while it was open, and what each commit had made of it."""

    def __init__(self, directory, *, checkpointed):
        self.database = directory / "copy.db"
        #: After each commit: the pulses by meter, and the place of the cursor.
        self.states = [({}, None), ({}, "")]
        with Journal(str(directory / "journal.db")) as journal:
            house, pump = journal.enter("house", 1000).name, journal.enter("pump", 800).name
            counts = {house: 0, pump: 0}
            with contextlib.closing(journal.add_cursor("file")) as cursor:
                chance = random.Random(2)
                for commit in range(25):
                    rows = []
                    for _ in range(chance.randrange(1, 60)):
                        key = chance.choice([house, pump])
                        counts[key] += 1
                        rows.append(Row(key, counts[key], START_NS + chance.randrange(10**12), 9))
                    cursor.advance([], str(commit))
                    journal.append(rows)
                    self.states.append(({key: count for key, count in counts.items() if count}, str(commit)))
                    if checkpointed and commit == 12:
                        journal._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                        del self.states[:-1]
                for suffix in ("", "-wal"):
                    shutil.copy(f"{journal.path}{suffix}", f"{self.database}{suffix}")
        self.wal = Path(f"{self.database}-wal").read_bytes()

    def opened(self, wal):
        """The state that the journal opens with, if its log is *wal*."""
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "journal.db")
            shutil.copy(self.database, path)
            Path(f"{path}-wal").write_bytes(wal)
            Journal(path).close()
            kept = counts(path)
            assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in kept.values())
            with contextlib.closing(sqlite3.connect(path)) as connection:
                place = connection.execute("SELECT place FROM writers WHERE name = 'file'").fetchone()
            return {meter: len(numbers) for meter, numbers in kept.items()}, place and place[0]


@pytest.fixture(scope="module", params=[False, True], ids=["all in the log", "half in the database"])
def cut(request, tmp_path_factory):
    return Cut(tmp_path_factory.mktemp("cut"), checkpointed=request.param)


@given(st.floats(0, 1))
@example(0.0)
@example(1.0)
@settings(max_examples=60)
def test_journal_cut_anywhere(cut, at):
    """A journal whose log is cut off at any byte opens with a prefix: all up to some commit, and nothing after it."""
    end = round(at * len(cut.wal))
    state = cut.opened(cut.wal[:end])
    assert state in cut.states
    assert state == cut.states[-1] or end < len(cut.wal)


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@settings(max_examples=40)
def test_journal_spoilt_anywhere(cut, at, change):
    """A journal with a spoilt byte in its log opens with a prefix too."""
    wal = bytearray(cut.wal)
    wal[int(at * len(wal))] ^= change
    assert cut.opened(bytes(wal)) in cut.states


# --- What is no journal


def assert_no_journal(path, said):
    """*path* is refused in one line that names it, and not kept open."""
    with pytest.raises(JournalError, match=said) as raised:
        Journal(str(path))
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)
    # Asked while the error still holds on to all that was made before it.
    assert str(path) not in [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]


def test_file_that_is_no_journal(tmp_path):
    """A file of another kind is called damaged, and left as it is; what becomes of it: test_salvage.py."""
    path = tmp_path / "journal.db"
    path.write_bytes(b"time,meter,power_w\n" * 1000)
    assert_no_journal(path, "the journal is damaged: file is not a database")
    assert path.read_bytes() == b"time,meter,power_w\n" * 1000


@pytest.mark.parametrize("version", [0, len(SCHEMAS) + 1, 99])
def test_database_that_is_no_journal(tmp_path, version):
    """A database of another program or of another version is refused with what to do, and left as it is."""
    path = tmp_path / "journal.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE pulses (something)")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    before = path.read_bytes()
    assert_no_journal(path, rf"not a journal of this version of power \(version {version}\): move it away")
    assert path.read_bytes() == before


#: A view that has rows without an end, each longer than the one before.
ENDLESS = """AS WITH RECURSIVE rows(meter, name) AS (SELECT 1, 'x' UNION ALL SELECT meter + 1, name || 'x' FROM rows)
             SELECT * FROM rows"""
#: What makes something else of a journal.
CHANGES = {
    "a view without an end": ["DROP TABLE meters", f"CREATE VIEW meters {ENDLESS}"],
    "another view": ["CREATE VIEW other AS SELECT * FROM pulses"],
    "a trigger": ["CREATE TRIGGER other AFTER INSERT ON pulses BEGIN DELETE FROM pulses; END"],
    "another table": ["CREATE TABLE other (something)"],
    "an index": ["CREATE INDEX other ON pulses (time_ns)"],
    "another column": ["ALTER TABLE writers ADD COLUMN other AS (hex(zeroblob(1000000)))"],
    "a table less": ["DROP TABLE steps"],
}


#: What each version has added, as statements that take it back.
ADDED = {2: ("unsettled", "thinned"), 3: ("covered", "gaps", "readings", "hourly")}


def made_of_version(path, version):
    """A journal at *path* as *version* made it, which has no pulse."""
    Journal(str(path)).close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in [table for later, tables in ADDED.items() if later > version for table in tables]:
            connection.execute(f"DROP TABLE {table}")
        connection.execute(f"PRAGMA user_version = {version}")


@pytest.mark.parametrize("version", range(1, len(SCHEMAS) + 1))
@pytest.mark.parametrize("change", CHANGES)
def test_a_journal_with_another_schema(tmp_path, version, change):
    """A journal whose schema is not exactly that of its version is refused and left as it is; nothing of it is run."""
    path = tmp_path / "journal.db"
    made_of_version(path, version)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in CHANGES[change]:
            connection.execute(statement)
    before = path.read_bytes()
    code = f"""
import resource, sys; sys.path.insert(0, {str(SOURCE)!r})
from powermeter.errors import JournalError
from powermeter.journal.history import delivered_pulses
from powermeter.journal.journal import Journal
resource.setrlimit(resource.RLIMIT_AS, (400_000_000, 400_000_000))
print(delivered_pulses({str(path)!r}, "file"))
try:
    Journal({str(path)!r})
except JournalError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    refused = f"{path}: not a journal of power: its tables are not those of version {version}: move it away"
    assert done.stdout == f"[]\n{refused}\n", done
    assert path.read_bytes() == before


def test_a_journal_of_the_first_version(tmp_path):
    """It is brought up to date; white space in its schema makes no difference."""
    path = tmp_path / "journal.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCHEMA.replace(" ", "  "))
        connection.execute("PRAGMA user_version = 1")
    for _ in range(2):
        with Journal(str(path)) as journal:
            assert journal.enter("house", 1000).count == 0
            assert journal._connection.execute("PRAGMA user_version").fetchone() == (len(SCHEMAS),)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE writers SET place = CAST(zeroblob(100000) AS TEXT)", "string or blob too big"),
        ("UPDATE meters SET name = CAST(x'70ff' AS TEXT)", "Could not decode to UTF-8"),
        ("UPDATE pulses SET interval_ns = zeroblob(100000)", "string or blob too big"),
        (
            "WITH r AS (SELECT 2 n UNION ALL SELECT n + 1 FROM r LIMIT 20000) INSERT INTO meters SELECT n, n FROM r",
            "meters has more than 10,000 rows",
        ),
    ],
)
def test_what_is_too_large_is_damage(tmp_path, change, said):
    """Texts or rows that are too long, too many rows, and bytes that are not text are damage, and not read whole."""
    path = tmp_path / "journal.db"
    with Journal(str(path)) as journal:
        journal.append(rows_of(journal.enter("house", 1000).name, [START_NS]))
        journal.add_cursor("file").close()
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)
    assert_no_journal(path, f"the journal is damaged: {said}")


def test_no_connection_trusts_the_file(tmp_path):
    """The connections of journal, cursor and reader run no function of a schema, check pages, and map no memory."""
    with Journal(str(tmp_path / "journal.db")) as journal:
        parts = [journal, journal.add_cursor("file"), History(journal.path)]
        assert parts[1].read(1) == []
        for part in parts:
            names = ("trusted_schema", "cell_size_check", "mmap_size")
            found = [part._connection.execute(f"PRAGMA {name}").fetchone() for name in names]
            assert found == [(0,), (1,), (0,)]
            assert part._connection.getlimit(sqlite3.SQLITE_LIMIT_LENGTH) == tables.MAX_LENGTH
        for part in parts[1:]:
            part.close()


@pytest.mark.parametrize("suspect", [False, True])
def test_a_stop_ends_the_opening(tmp_path, monkeypatch, suspect):
    """What reads long while a journal is opened ends when the program is to stop, and leaves nothing open."""
    path = tmp_path / "journal.db"
    with Journal(str(path)) as journal:
        key = journal.enter("house", 1000).name
        journal.append(rows_of(key, range(START_NS, START_NS - 20_000, -1)))
    asked = []
    with pytest.raises(StoppedError, match="stopped before the journal was open") as raised:
        Journal(str(path), suspect=suspect, stopped=lambda: asked.append(1) or len(asked) == 3)
    assert len(asked) == 3
    assert str(path) not in [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
    del raised
    # Once it is open nobody is asked: appending has no share in it.
    asked.clear()
    with Journal(str(path), stopped=lambda: asked.append(1) and False) as journal:
        assert asked
        asked.clear()
        journal.append(rows_of(key, range(START_NS, START_NS + 20_000), first=20_001))
    assert not asked


# --- Closed to others


def modes(path):
    """The modes of a journal and of the files beside it."""
    return {
        name.name.removeprefix(path.name): name.stat().st_mode & 0o777 for name in path.parent.glob(f"{path.name}*")
    }


@pytest.fixture
def open_umask():
    """A umask that takes nothing away."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("open_umask")
def test_a_journal_is_closed_to_others(tmp_path):
    """All its files have mode 600: when they are made, and those with another mode when they are opened."""
    path = tmp_path / "journal.db"
    private = {"": 0o600, "-wal": 0o600, "-shm": 0o600}
    with Journal(str(path)) as journal:
        journal.append(rows_of(journal.enter("house", 1000).name, [START_NS]))
        assert modes(path) == private
        # As a crash leaves them, and an older version has made them.
        copy = tmp_path / "copy" / "journal.db"
        copy.parent.mkdir()
        for suffix in private:
            shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
            os.chmod(f"{copy}{suffix}", 0o644)
        path.unlink()
        journal.write_again()
        assert modes(path)[""] == 0o600
    with Journal(str(copy)):
        assert modes(copy) == private


@given(st.lists(st.sampled_from([500, 800, 1000, 3200, None]) | st.floats(0, 1e6), max_size=30), st.integers(1, 7))
@settings(max_examples=50)
def test_a_change_is_in_force_behind_the_pulses_before_it(happened, at_once):
    """Pulses and changes of constant or register in any order, and in any commits: the register is their sum."""
    with new_journal() as journal:
        journal.enter("house", 1000)
        entries, number, impulses, kwh = [], 0, 1000, 0.0
        for one in happened:
            if one is None:
                number, kwh = number + 1, kwh + 1 / impulses
                entries.append(Row("house", number, START_NS + number, 7))
            elif isinstance(one, int):
                impulses = one
                entries.append(Change("house", number, impulses))
            else:
                kwh = one
                entries.append(Face("house", number, START_NS + len(entries), one, 3, max_watts=0, force=True))
        for begin in range(0, len(entries), at_once):
            journal.append(entries[begin : begin + at_once])
        record = journal.enter("house", impulses)
        assert record.count == number
        assert record.constant.register_at(number) == pytest.approx(kwh)


def test_a_journal_that_the_version_before_made(tmp_path):
    """A file from before the program kept the meters' names in rows opens with all registers and positions."""
    path = tmp_path / "journal.db"
    shutil.copy(Path(__file__).with_name("made_before.db"), path)
    with Journal(str(path)) as journal:
        assert journal.enter("house", 500) == MeterRecord("house", 10, Constant(500, 7, 0.007))
        assert journal.enter("flat", 800) == MeterRecord("flat", 3, Constant(800))
        with contextlib.closing(journal.add_cursor("file")) as cursor:
            assert cursor.position == Position({"house": 4, "flat": 2}, "a place of the file's")
            assert [(pulse.meter, pulse.number) for pulse in cursor.read(99)] == [
                ("house", 5), ("house", 6), ("flat", 3), *(("house", number) for number in range(7, 11))
            ]  # fmt: skip
        with contextlib.closing(journal.add_cursor("influxdb")) as cursor:
            assert cursor.position == Position({"house": 2, "flat": 1}, "")


def test_what_a_journal_knows_of_itself(tmp_path):
    """Each journal has an id of its own for good; what is noted replaces what was, and is read by others."""
    ids = []
    for name in ("one.db", "two.db"):
        path = str(tmp_path / name)
        with Journal(path) as journal:
            ids.append(journal.about()["id"])
            journal.note({"mqtt topics": "[]"})
            journal.note({"mqtt topics": '["power/house"]'})
        with Journal(path) as journal:
            assert journal.about() == {"id": ids[-1], "mqtt topics": '["power/house"]'}
        assert about(path) == {"id": ids[-1], "mqtt topics": '["power/house"]'}
    assert len(set(ids)) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", one) for one in ids)
    assert about(str(tmp_path / "missing.db")) == {}


def test_a_journal_from_before_gets_an_id(tmp_path):
    """What an older version made has an id from the first start on."""
    path = tmp_path / "journal.db"
    shutil.copy(Path(__file__).with_name("made_before.db"), path)
    with Journal(str(path)) as journal:
        own_id = journal.about()["id"]
    with Journal(str(path)) as journal:
        assert journal.about() == {"id": own_id}


def test_the_log_of_a_file_that_was_replaced_is_taken_away(tmp_path):
    """Whoever opens the other file then does not read the log as that one's; a log that came with it stays."""
    path, other = tmp_path / "journal.db", tmp_path / "other.db"
    with Journal(str(path)) as journal, Journal(str(other)) as made:
        made.append(rows_of(made.enter("house", 1000).name, [START_NS, START_NS + 1]))
        other.rename(path)
        journal.take_log_away()
        assert not path.with_name("journal.db-wal").exists()
        other.with_name("other.db-wal").rename(f"{path}-wal")
        journal.take_log_away()
        assert path.with_name("journal.db-wal").exists()
        assert counts(path) == {"house": [1, 2]}


def test_a_copy_that_was_made_to_be_stored(tmp_path):
    """One without a write-ahead log, with statistics of SQLite's own, is a journal to go on with."""
    path = tmp_path / "journal.db"
    with Journal(str(path)) as journal:
        journal.append(rows_of(journal.enter("house", 1000).name, [START_NS]))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode = DELETE; ANALYZE")
    with Journal(str(path)) as journal:
        assert journal._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert journal.enter("house", 1000).count == 1


@pytest.mark.usefixtures("open_umask")
@pytest.mark.parametrize("there", [True, False])
def test_a_journal_behind_a_link_is_closed_to_others(tmp_path, there):
    """The files are those that the link leads to."""
    path, target = tmp_path / "journal.db", tmp_path / "disk" / "kept.db"
    target.parent.mkdir()
    path.symlink_to(target)
    if there:
        with contextlib.closing(sqlite3.connect(target)) as connection:
            connection.executescript(SCHEMA + "; PRAGMA user_version = 1; PRAGMA journal_mode = WAL")
        assert modes(target) == {"": 0o644}
    with Journal(str(path)) as journal:
        journal.append(rows_of(journal.enter("house", 1000).name, [START_NS]))
        assert modes(target) == {"": 0o600, "-wal": 0o600, "-shm": 0o600}


def test_closing_a_journal_to_others_keeps_its_locks(tmp_path):
    """In the midst of a transaction of this process, no other can begin one after the files' modes were set."""
    path = tmp_path / "journal.db"
    begin = (
        f"import sqlite3; sqlite3.connect({str(path)!r}, timeout=0, isolation_level=None).execute('BEGIN IMMEDIATE')"
    )
    with Journal(str(path)) as journal, tables.transaction(journal._connection):
        os.chmod(f"{path}-shm", 0o640)
        make_private(str(path))
        assert modes(path)["-shm"] == 0o600
        done = subprocess.run([sys.executable, "-c", begin], capture_output=True, text=True, check=False)
        assert "database is locked" in done.stderr


@root_alone
def test_the_group_can_not_lock_a_journal(tmp_path):
    """Another user in the group can open none of its files, and so can't hold a lock that commits would wait for."""
    directory = tmp_path / "data"
    prepare_dir(str(directory))
    before = os.umask(0o027)
    try:
        with Journal(str(directory / "journal.db")) as journal:
            journal.append(rows_of(journal.enter("house", 1000).name, [START_NS]))
            there = os.open(directory, os.O_PATH)
            code = f"""
import os
os.setgroups([]); os.setgid({os.getegid()}); os.setuid(65534)
for name in sorted(os.listdir("/proc/self/fd/{there}/")):
    try:
        print(name, os.open(name, os.O_RDONLY, dir_fd={there}))
    except PermissionError:
        print(name, "closed")
"""
            done = subprocess.run(
                [sys.executable, "-c", code], pass_fds=[there], capture_output=True, text=True, check=False
            )
            os.close(there)
    finally:
        os.umask(before)
    assert done.stdout == "journal.db closed\njournal.db-shm closed\njournal.db-wal closed\n", done


# --- Other things in its place


def test_directory_that_is_no_journal(tmp_path):
    """A directory in place of the journal is refused, and so is a journal in no directory."""
    assert_no_journal(tmp_path, "can't be opened: unable to open database file")
    assert_no_journal(tmp_path / "nowhere" / "journal.db", "can't be opened: No such file or directory")


def test_a_file_system_without_shared_memory(tmp_path, monkeypatch):
    """Where SQLite can't make a write-ahead log, as on some disks of the network, that is reported with the disk's."""
    connect = sqlite3.connect
    # SQLite's own layer for disks without locks: it has no shared memory either.
    monkeypatch.setattr(
        sqlite3, "connect", lambda path, **options: connect(path + "&vfs=unix-dotfile" * ("?" in path), **options)
    )
    assert_no_journal(
        tmp_path / "journal.db",
        r"can't be used: no write-ahead log on \w+: if that is not a local disk, set a DATA_DIR on one",
    )


def test_a_file_system_whose_locks_do_not_work(tmp_path):
    """A lock that another holds and that nobody answers for, as NFS may leave it, is reported with the disk's kind."""
    path = tmp_path / "journal.db"
    Journal(str(path)).close()
    with (tmp_path / "journal.db-shm").open("wb+") as shared:
        # The lock of a writer (https://sqlite.org/walformat.html, 2.3), held by another process.
        holding = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import fcntl, time; fcntl.lockf(0, fcntl.LOCK_EX, 1, 120); print(flush=True); time.sleep(600)",
            ],
            stdin=shared,
            stdout=subprocess.PIPE,
        )
        try:
            assert holding.stdout.readline()
            assert_no_journal(path, r"can't be used: locking protocol on \w+: if that is not a local disk")
        finally:
            holding.kill()
            holding.wait()
            holding.stdout.close()


def test_empty_file_becomes_a_journal(tmp_path):
    """An empty file, as a crash in the first moment leaves it, becomes a journal."""
    path = tmp_path / "journal.db"
    path.touch()
    with Journal(str(path)) as journal:
        assert journal.enter("house", 1000).count == 0


def test_close_twice(tmp_path):
    """A journal, a cursor and a reader may be closed twice."""
    with Journal(str(tmp_path / "journal.db")) as journal:
        for part in (journal.add_cursor("file"), History(journal.path), journal):
            part.close()
            part.close()


def test_prepare_dir(tmp_path):
    """The journal's directory is created with its parents, and private; an error says why if it can't be."""
    directory = tmp_path / "some" / "where"
    prepare_dir(str(directory))
    prepare_dir(str(directory))
    assert directory.stat().st_mode & 0o777 == 0o750
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="file/data: DATA_DIR can't be made: Not a directory"):
        prepare_dir(str(tmp_path / "file" / "data"))


# --- Size


@pytest.mark.parametrize("meters", [1, 2])
def test_bytes_a_pulse(tmp_path, meters):
    """200,000 pulses, appended as they come, take at most 30 bytes each."""
    path = tmp_path / "journal.db"
    size = 200_000
    chance = random.Random(3)
    with Journal(str(path)) as journal:
        # Only for speed: what is written does not depend on when it is synced.
        journal._connection.execute("PRAGMA synchronous = OFF")
        keys = [journal.enter(f"meter{index}", 1000).name for index in range(meters)]
        at_ns = START_NS
        rows = []
        for number in range(1, size // meters + 1):
            at_ns += chance.randrange(NS_PER_S, 16 * NS_PER_S)
            rows += [Row(key, number, at_ns + index, 8 * NS_PER_S + number) for index, key in enumerate(keys)]
            if len(rows) >= 20:
                journal.append(rows)
                rows = []
        journal.append(rows)
    assert sum(map(len, counts(path).values())) == size
    assert path.stat().st_size / size <= 30


# --- Thinning

QUARTER_NS = 900 * NS_PER_S


def pulses_of(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT meter, count, time_ns FROM pulses ORDER BY meter, count").fetchall()


@given(
    spacings=st.lists(st.sampled_from([1, 150, 450, 900, 2250, 3600, -1250]), min_size=1, max_size=60),
    cut=st.integers(0, 60),
    at_once=st.sampled_from([3, 7, 1000]),
)
@example(spacings=[150] * 40, cut=40, at_once=3)
@example(spacings=[150] * 10 + [-1250] + [150] * 20, cut=31, at_once=1000)
@settings(max_examples=60)
def test_thinning_keeps_one_per_quarter_and_all_energy(spacings, cut, at_once):
    """
    Of old pulses the last of a quarter of an hour stays, and of a stretch between two steps of the clock the last.

    Energy between full quarters is what it was, whatever the spacing, the steps of the clock and how many rows are
    looked at at once; younger pulses are left alone, and a second thinning finds nothing.
    """
    times = list(
        itertools.accumulate((spacing * NS_PER_S for spacing in spacings), initial=START_NS // QUARTER_NS * QUARTER_NS)
    )
    before_ns = times[min(cut, len(times) - 1)]
    quarters = range(min(times) // QUARTER_NS - 1, max(times) // QUARTER_NS + 3)
    with (
        new_journal() as journal,
        History(journal.path) as reader,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(journal_module, "THINNED_AT_ONCE", at_once)
        key = journal.enter("house", 800).name
        with contextlib.closing(journal.add_cursor("away")) as away:
            journal.append(rows_of(key, times))
            spans = [reader.span("house", quarter * QUARTER_NS, (quarter + 1) * QUARTER_NS) for quarter in quarters]
            for _ in range(200):
                if not journal.thin(before_ns):
                    break
            kept = pulses_of(journal.path)
            while journal.thin(before_ns):
                pass
            assert pulses_of(journal.path) == kept
            assert {count for _, count, _ in kept} >= {n for n, time_ns in enumerate(times, 1) if time_ns >= before_ns}
            steps = {n for n in range(2, len(times) + 1) if times[n - 1] < times[n - 2]}
            for (_, count, time_ns), (_, _, next_ns) in itertools.pairwise(kept):
                same_quarter = time_ns // QUARTER_NS == next_ns // QUARTER_NS
                assert not same_quarter or time_ns >= before_ns or next_ns >= before_ns or steps & {count, count + 1}
            assert [reader.span("house", quarter * QUARTER_NS, (quarter + 1) * QUARTER_NS) for quarter in quarters] == [
                Energy(span.pulses, pytest.approx(span.kwh), False) for span in spans
            ]
            # A writer that was away gets what is left, with the energy of the others, and knows how many they were.
            assert reader.waiting(away.position)[0] == len(kept)
            read = away.read(1000)
            assert [pulse.number for pulse in read] == [count for _, count, _ in kept]
            assert sum(pulse.watt_hours for pulse in read) == pytest.approx(1.25 * len(times))
            assert read[-1].register_kwh == pytest.approx(0.00125 * len(times))
            numbers = [0, *(pulse.number for pulse in read)]
            alone = [after == before + 1 for before, after in itertools.pairwise(numbers)]
            assert [pulse.watts is not None for pulse in read[1:]] == alone[1:]
            assert away.advance(read, "") == len(times) - len(kept)


def test_a_pulse_is_thinned_under_the_constant_it_had(tmp_path):
    """A thinned pulse has the energy of all that it stands for, by the constants that were in force."""
    with Journal(str(tmp_path / "journal.db")) as journal:
        key = journal.enter("house", 1000).name
        journal.add_cursor("away").close()
        journal.append(rows_of(key, [START_NS + n for n in range(3)]))
        journal.enter("house", 500)
        journal.append(rows_of(key, [START_NS + n for n in range(3, 5)], first=4))
        while journal.thin(START_NS + QUARTER_NS):
            pass
        with contextlib.closing(journal.add_cursor("away")) as away:
            (pulse,) = away.read(10)
    assert (pulse.number, pulse.watts) == (5, None)
    assert (pulse.watt_hours, pulse.register_kwh) == (pytest.approx(3 * 1 + 2 * 2), pytest.approx(0.007))


def test_a_bit_that_flipped(tmp_path):
    """Wherever it is: the journal is read all the same, or SQLite's own error tells that it is damaged."""
    whole, path = str(tmp_path / "whole.db"), str(tmp_path / "journal.db")
    with Journal(whole) as journal:
        key = journal.enter("house", 1000).name
        journal.add_cursor("it").close()
        rows = rows_of(key, [START_NS + n * NS_PER_S for n in range(1500)])
        for begin in range(0, 1500, 500):
            journal.append(rows[begin : begin + 500])
    content = Path(whole).read_bytes()
    choose, damaged = random.Random(1), 0
    for _ in range(500):
        flipped = bytearray(content)
        flipped[choose.randrange(4096, len(content))] ^= 1 << choose.randrange(8)
        Path(path).write_bytes(flipped)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + "-wal")
        try:
            with Journal(path) as journal, contextlib.closing(journal.add_cursor("it")) as cursor:
                with History(journal.path) as reader:
                    reader.waiting(cursor.position)
                    reader.span("house", START_NS + 700 * NS_PER_S, 2**62)
                pulses = cursor.read(2000)
                assert all(pulse.watts is None or pulse.watts > 0 for pulse in pulses)
                journal.thin(START_NS + 2 * QUARTER_NS)
        except DamagedError:
            damaged += 1
        except sqlite3.DatabaseError as error:
            if not tables.is_damage(error):
                raise
            damaged += 1
    assert 0 < damaged < 250
