"""
What breaks or changes is exchanged underneath: the threads that count, keep and deliver stay.

Over a board by hand, with real files and threads: whatever happens to the journal's file, and other settings, while
it counts.
"""

import contextlib
import csv
import dataclasses
import itertools
import shutil
import sqlite3
import threading
import time

import pytest
from clocks import UnsynchronisedClock
from counting import hung_disk
from hand_board import HandBoard
from program import PATIENCE_S, wait_until

from powermeter import keeper, lookup
from powermeter.errors import BoardError, PowerError
from powermeter.journal import journal, salvage
from powermeter.journal.cursor import Cursor, Position
from powermeter.journal.history import History
from powermeter.journal.tables import SQLITE_IOERR
from powermeter.lamps import Condition
from powermeter.meter import NS_PER_S, Edge
from powermeter.monitor import Monitor
from powermeter.settings import reading
from powermeter.views import text
from powermeter.writers import Pace, file

HOUSE = "'house': {'pin': 18, 'impulses_per_kwh': 1000}"

FILE = "'file': {'type': 'file'}"


class Rig:
    """A monitor whose boards are made by hand; a context manager."""

    def __init__(self, directory, clock_wait_s=0):
        self.path = directory / "settings.py"
        self.data_dir = directory / "data"
        self.journal = self.data_dir / "journal.db"
        self.boards = []
        self.refused = 0
        self.crashed = threading.Event()
        journal.prepare_dir(str(self.data_dir))
        self.monitor = Monitor(
            dataclasses.replace(self.settings(), clock_wait_s=clock_wait_s),
            self.open_board,
            simulate=None,
            on_crash=self.crashed.set,
            clock=UnsynchronisedClock(),
        )

    def settings(self, meters=HOUSE, writers=FILE, more=""):
        self.path.write_text(
            f"DATA_DIR = {str(self.data_dir)!r}\nCOMMIT_INTERVAL = 0.1\nCLOCK_WAIT = 0\n"
            f"METERS = {{{meters}}}\nWRITERS = {{{writers}}}\n{more}"
        )
        self.path.chmod(0o600)
        return reading.read(str(self.path))

    def open_board(self, _settings):
        if self.refused:
            self.refused -= 1
            raise BoardError("no such pins")
        self.boards.append(HandBoard())
        return self.boards[-1]

    @property
    def board(self):
        return self.boards[-1]

    def meter(self, name="house"):
        return self.monitor.status().as_dict()["meters"][name]

    def counts(self, name="house"):
        """The counts in the journal's file, read with SQLite only."""
        sql = "SELECT count FROM pulses NATURAL JOIN meters WHERE name = ? ORDER BY count"
        with contextlib.closing(sqlite3.connect(self.journal)) as connection:
            return [count for (count,) in connection.execute(sql, (name,))]

    def keeps(self, count, name="house"):
        """Wait until pulse *count* is in the file."""

        def is_there():
            with contextlib.suppress(sqlite3.DatabaseError):  # it is damaged still
                return self.journal.exists() and self.counts(name)[-1:] == [count]

        wait_until(is_there)

    def lines(self):
        return list(csv.DictReader((self.data_dir / "power.csv").read_text().splitlines()))

    def deliver(self, pulses):
        """Flash until *pulses* are in all, kept, and delivered to the file."""
        self.board.flash(pulses - (self.meter()["pulses"] or 0))
        self.keeps(pulses)
        self.delivered(pulses)

    def delivered(self, pulses):
        """Wait until the file's newest line is pulse *pulses*; no line is there twice."""

        def is_there():
            return (self.data_dir / "power.csv").exists() and [
                float(line["register_kwh"]) for line in self.lines()[-1:]
            ] == [pytest.approx(pulses / 1000)]

        wait_until(is_there)
        registers = [float(line["register_kwh"]) for line in self.lines()]
        assert registers == sorted(set(registers))

    def threads(self):
        """Those that count, keep and deliver: by their names their numbers."""
        names = ("journal", "recorder", "writer ")
        return {one.name: one.ident for one in threading.enumerate() if one.name.startswith(names)}

    def __enter__(self):
        self.monitor.__enter__()
        return self

    def __exit__(self, *error):
        self.monitor.__exit__(*error)


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nobody waits half a minute here: for a file that can't be opened, or for the writer's next line."""
    monkeypatch.setattr(keeper, "TRY_S", 0.1)
    monkeypatch.setattr(file.FileWriter, "pace", Pace(batch_size=5000, interval_s=0.05))


@pytest.fixture
def rig(tmp_path):
    with Rig(tmp_path) as one:
        yield one


# --- Whatever happens to the file


def damage_a_page(rig):
    with contextlib.closing(sqlite3.connect(rig.journal)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = bytearray(rig.journal.read_bytes())
    content[4096 * 2 : 4096 * 3] = b"\xa5" * 4096
    rig.journal.write_bytes(content)
    rig.monitor._keeper.suspect("a page was damaged")


def delete(rig):
    rig.journal.unlink()


def put_another_in_its_place(rig):
    """A copy from some pulses ago, as a restore by hand puts it there under the running program."""
    copy = rig.data_dir.parent / "copy.db"
    with contextlib.closing(sqlite3.connect(rig.journal)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    with contextlib.closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("DELETE FROM pulses WHERE count > 25")
    shutil.move(copy, rig.journal)


@pytest.mark.parametrize("event", [damage_a_page, delete, put_another_in_its_place])
def test_whatever_happens_to_the_file_the_threads_stay(rig, event):
    """The same recorder, keeper and delivery go on; the file is opened once; no pulse is lost, and no line twice."""
    rig.deliver(30)
    threads, opened = rig.threads(), rig.monitor._keeper.opened
    event(rig)
    rig.board.flash(10)
    wait_until(lambda: rig.monitor._keeper.opened == opened + 1)
    rig.board.flash(10)
    rig.keeps(50)
    rig.delivered(50)
    assert rig.counts()[-20:] == list(range(31, 51))
    assert rig.threads() == threads
    assert rig.monitor._keeper.opened == opened + 1
    assert not rig.monitor._keeper.failing
    assert rig.meter()["register_kwh"] == pytest.approx(0.05)
    assert sum(float(line["energy_wh"]) for line in rig.lines()) == pytest.approx(50)
    assert not rig.crashed.is_set()


def test_a_disk_that_hangs(rig):
    """While a commit hangs it counts; then all is written by the same threads, to the same file."""
    rig.deliver(5)
    threads, opened = rig.threads(), rig.monitor._keeper.opened
    with hung_disk(rig.journal):
        rig.board.flash(20)
        wait_until(lambda: rig.meter()["pulses"] == 25)
        assert len(rig.counts()) == 5
    rig.keeps(25)
    assert (rig.threads(), rig.monitor._keeper.opened) == (threads, opened)


def test_a_commit_that_was_made_though_it_failed(rig, monkeypatch):
    """A disk that says that it failed, and has written all the same: no pulse is there twice, and none is missing."""
    rig.deliver(5)
    append, failed = journal.Journal.append, threading.Event()

    def made_but_failed(self, entries, *args, **options):
        append(self, entries, *args, **options)
        if entries and not failed.is_set():
            failed.set()
            error = sqlite3.OperationalError("disk I/O error")
            error.sqlite_errorcode = SQLITE_IOERR
            raise error

    monkeypatch.setattr(journal.Journal, "append", made_but_failed)
    rig.board.flash(3)
    assert failed.wait(PATIENCE_S)
    rig.board.flash(3)
    rig.keeps(11)
    assert rig.counts() == list(range(1, 12))
    rig.delivered(11)


def test_a_file_that_is_further_than_ours(rig):
    """Another's journal, with more pulses, is gone on with: what waits comes behind its last pulse."""
    rig.deliver(5)
    other = rig.data_dir.parent / "other.db"
    with journal.Journal(str(other)) as made:
        name = made.enter("house", 1000).name
        made.append([journal.Row(name, number, number * NS_PER_S, 2 * NS_PER_S) for number in range(1, 101)])
    opened = rig.monitor._keeper.opened
    shutil.move(other, rig.journal)
    rig.board.flash(3)
    # Not before: who opens it now has SQLite read the log beside it, which is the other file's.
    wait_until(lambda: rig.monitor._keeper.opened == opened + 1)
    rig.keeps(103)
    wait_until(lambda: rig.meter()["register_kwh"] == pytest.approx(0.103))


def test_a_file_that_can_not_be_saved(rig, caplog):
    """A damaged one that can't be replaced: counting goes on and it is tried again, until every pulse is in another."""
    rig.deliver(3)
    threads = rig.threads()
    in_the_way = rig.data_dir / "journal.db.making"
    in_the_way.mkdir()
    damage_a_page(rig)
    rig.board.flash(6)
    wait_until(lambda: "a new one can't be made" in rig.monitor._keeper.failing)
    wait_until(lambda: rig.monitor.status().as_dict()["journal"]["uncommitted"] == 6)
    now = rig.monitor.status().as_dict()
    assert now["meters"]["house"]["register_kwh"] == pytest.approx(0.009)
    assert now["meters"]["house"]["kwh_today"] is None
    assert now["writers"]["file"]["waiting"] is None
    assert "not known" in text.text(rig.monitor.status())
    wait_until(lambda: rig.monitor._lamps._l2_shown is Condition.FAILING)
    assert len([line for line in caplog.messages if "pulses are kept in memory" in line]) == 1
    in_the_way.rmdir()
    rig.keeps(9)
    rig.board.flash()
    rig.keeps(10)
    rig.delivered(10)
    assert rig.threads() == threads
    assert sum(float(line["energy_wh"]) for line in rig.lines()) == pytest.approx(10)


# --- A journal that is saved while it counts


@pytest.fixture
def slow_saving(monkeypatch):
    """The saving of a damaged journal begins, and goes on when it is let."""
    begun, going = threading.Semaphore(0), threading.Event()
    replace = salvage._replace

    def slow(path, meters, error, goes_on):
        begun.release()
        while not going.wait(0.01):
            goes_on.on()
        return replace(path, meters, error, goes_on)

    monkeypatch.setattr(salvage, "_replace", slow)
    yield begun, going
    going.set()


def test_a_start_with_a_damaged_journal_counts_at_once(tmp_path, slow_saving):
    """It counts in memory while the journal is saved; what only that knows is not known until then."""
    begun, going = slow_saving
    with Rig(tmp_path) as first:
        first.deliver(40)
        damage_a_page(first)
        first.monitor._keeper._damaged = False
    with Rig(tmp_path) as rig:
        if not rig.monitor._keeper.opened:
            assert begun.acquire(timeout=PATIENCE_S)
        rig.board.flash(7)
        wait_until(lambda: rig.monitor.status().as_dict()["journal"]["uncommitted"] == 7 or rig.monitor._keeper.opened)
        begun_s = time.monotonic()
        now = rig.monitor.status().as_dict()
        assert time.monotonic() - begun_s < 1
        assert list(now["writers"]) == ["file"]
        assert (now["meters"]["house"]["pulses"], now["meters"]["house"]["register_kwh"]) == (None, None)
        assert "not known" in text.text(rig.monitor.status())
        assert now["journal"]["failing"]
        going.set()
        wait_until(lambda: rig.monitor._keeper.opened)
        wait_until(lambda: not rig.monitor.status().as_dict()["journal"]["uncommitted"])
        base = rig.meter()["pulses"] - 7
        assert rig.counts()[-7:] == list(range(base + 1, base + 8))


@pytest.mark.parametrize("waits", [True, False])
def test_a_stop_while_it_is_saved(rig, slow_saving, caplog, waits):
    """It ends in time; what was counted meanwhile is written where the saving ends in time, else its loss is logged."""
    begun, going = slow_saving
    rig.deliver(5)
    damage_a_page(rig)
    assert begun.acquire(timeout=PATIENCE_S)
    rig.board.flash(3)
    wait_until(lambda: rig.monitor.status().as_dict()["journal"]["uncommitted"] == 3)
    if waits:
        threading.Timer(0.5, going.set).start()
    begun_s = time.monotonic()
    rig.monitor.__exit__(None, None, None)
    assert time.monotonic() - begun_s < 10
    assert rig.monitor.crashed == (not waits)
    assert ("journal: 3 pulses could not be written and are lost" in caplog.messages) == (not waits)
    if waits:
        assert rig.counts()[-3:] == [6, 7, 8]


def test_a_status_while_the_disk_hangs_in_reading(rig, monkeypatch):
    """The status comes within its time, and names all; when the disk answers again it is whole again."""
    rig.deliver(5)
    going = threading.Event()
    span = History.span
    monkeypatch.setattr(History, "span", lambda *args: going.wait(PATIENCE_S) and span(*args))
    for _ in range(3):
        begun_s = time.monotonic()
        now = rig.monitor.status().as_dict()
        assert time.monotonic() - begun_s < lookup.ANSWER_S + 0.5
        assert now["meters"]["house"]["pulses"] == 5
        assert now["meters"]["house"]["kwh_today"] is None
        assert list(now["writers"]) == ["file"]
    going.set()
    wait_until(lambda: rig.meter()["kwh_today"] is not None)


# --- Other settings


def test_where_the_pins_stay_the_recorder_does(rig):
    """Another constant is in force from the next pulse on; no edge is missed, and the interval is known."""
    threads = rig.threads()
    rig.board.flash(3)
    wait_until(lambda: rig.meter()["pulses"] == 3)
    rig.monitor.change(rig.settings("'house': {'pin': 18, 'impulses_per_kwh': 2000}"))
    rig.board.flash(2)
    rig.keeps(5)
    assert rig.meter()["register_kwh"] == pytest.approx(0.004)
    assert len(rig.boards) == 1
    assert rig.threads() == threads
    with contextlib.closing(sqlite3.connect(rig.journal)) as connection:
        assert connection.execute("SELECT interval_ns FROM pulses ORDER BY count").fetchall() == [
            (None,),
            *[(NS_PER_S,)] * 4,
        ]
        assert connection.execute("SELECT from_count, impulses_per_kwh, register_kwh FROM constants").fetchall() == [
            (0, 1000.0, 0.0),
            (3, 2000.0, pytest.approx(0.003)),
        ]


CHANGES = {
    "a constant": {"meters": "'house': {'pin': 18, 'impulses_per_kwh': 2000}"},
    "max_watts": {"meters": "'house': {'pin': 18, 'impulses_per_kwh': 1000, 'max_watts': 500000}"},
    "a writer's option": {"writers": "'file': {'type': 'file', 'path': 'other.csv'}"},
    "another writer": {"writers": "'file': {'type': 'file'}, 'two': {'type': 'file', 'path': 'two.csv'}"},
    "no writer": {"writers": ""},
    "CLOCK_WAIT": {"more": "CLOCK_WAIT = 5"},
    "KEEP_DAYS": {"more": "KEEP_DAYS = 3"},
    "all at once": {
        "meters": "'house': {'pin': 18, 'impulses_per_kwh': 800, 'max_watts': 500000, 'silence_minutes': 5}",
        "writers": "'two': {'type': 'file', 'path': 'two.csv'}",
        "more": "CLOCK_WAIT = 5\nKEEP_DAYS = 3",
    },
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_settings_while_it_counts(rig, name):
    """Whatever changes and back again, at 50 pulses per second: each is counted once, with the constant of its time."""
    ended = threading.Event()
    flashed = itertools.count(1)

    def flash():
        while not ended.wait(0.02):
            rig.board.flash()
            next(flashed)

    flashing = threading.Thread(target=flash)
    threads = {key: ident for key, ident in rig.threads().items() if not key.startswith("writer")}
    flashing.start()
    try:
        for turn in range(6):
            new = rig.settings(**(CHANGES[name] if turn % 2 == 0 else {}))
            begun_s = time.monotonic()
            rig.monitor.change(new)
            assert time.monotonic() - begun_s < 1
            seen = rig.meter()["pulses"]
            wait_until(lambda seen=seen: rig.meter()["pulses"] > seen + 3)
    finally:
        ended.set()
        flashing.join()
    flashes = next(flashed) - 1
    rig.keeps(flashes)
    assert rig.counts() == list(range(1, flashes + 1))
    assert {key: ident for key, ident in rig.threads().items() if not key.startswith("writer")} == threads
    with contextlib.closing(sqlite3.connect(rig.journal)) as connection:
        constants = connection.execute(
            "SELECT from_count, impulses_per_kwh, register_kwh FROM constants ORDER BY from_count"
        ).fetchall()
    kwh = 0.0
    for (count, impulses, register), (behind, _, _) in itertools.pairwise([*constants, (flashes, 0, 0)]):
        assert register == pytest.approx(kwh)
        kwh += (behind - count) / impulses
    assert rig.meter()["register_kwh"] == pytest.approx(kwh)


def test_other_pins_are_another_board(rig):
    """If a pin changes, a new board is made; the register continues, and the next pulse has no predecessor."""
    rig.board.flash(3)
    wait_until(lambda: rig.meter()["pulses"] == 3)
    keeping = rig.threads()["journal"]
    rig.monitor.change(rig.settings("'house': {'pin': 22, 'impulses_per_kwh': 1000}"))
    assert rig.boards[0].closed
    rig.board.put(Edge(0, rig.boards[0]._start_ns + 10 * NS_PER_S))
    wait_until(lambda: rig.meter()["pulses"] == 4)
    assert rig.meter()["register_kwh"] == pytest.approx(0.004)
    assert rig.monitor._recorder.meters[0].meter.interval_ns is None
    assert rig.threads()["journal"] == keeping


def test_pins_that_are_not_available(rig, caplog):
    """The old pins are kept, and counting goes on with them all the time; the error names the pins."""
    (board,) = rig.boards
    rig.refused = 1
    with pytest.raises(BoardError, match="no such pins"):
        rig.monitor.change(rig.settings("'house': {'pin': 22, 'impulses_per_kwh': 1000}"))
    assert rig.monitor.settings.meters[0].pin == 18
    assert rig.board is board
    assert board.watched
    board.flash()
    wait_until(lambda: rig.meter()["pulses"] == 1)


def test_pins_that_can_be_had_no_more(rig):
    """Where neither the new nor the old pins can be opened there is nothing to count with: the program ends."""
    open_board = rig.monitor._open_board

    def refuse_after_the_trial(settings):
        rig.refused = 2
        rig.monitor._open_board = open_board
        return HandBoard()

    rig.monitor._open_board = refuse_after_the_trial
    with pytest.raises(BoardError, match="no such pins"):
        rig.monitor.change(rig.settings("'house': {'pin': 22, 'impulses_per_kwh': 1000}"))
    assert rig.crashed.is_set()


def test_a_meter_that_comes_and_goes(rig):
    """One that was taken out of the settings goes on from its count when it is back, and no pulse of it is lost."""
    rig.board.flash(3)
    wait_until(lambda: rig.meter()["pulses"] == 3)
    rig.monitor.change(rig.settings("'flat': {'pin': 18, 'impulses_per_kwh': 500}"))
    rig.board.flash(2)
    wait_until(lambda: rig.meter("flat")["pulses"] == 2)
    assert rig.meter("flat")["register_kwh"] == pytest.approx(0.004)
    rig.monitor.change(rig.settings())
    rig.board.flash(1)
    rig.keeps(4)
    assert rig.counts() == [1, 2, 3, 4]
    assert rig.counts("flat") == [1, 2]
    assert rig.meter()["register_kwh"] == pytest.approx(0.004)


def test_a_name_that_moves_is_another_meter(rig):
    """Two meters that change their places on the same pins keep their registers, and no interval spans the change."""
    two = f"{HOUSE}, 'heat': {{'pin': 22, 'impulses_per_kwh': 1000}}"
    rig.monitor.change(rig.settings(two))
    rig.board.flash(2, 0)
    rig.board.flash(5, 1)
    wait_until(lambda: (rig.meter("house")["pulses"], rig.meter("heat")["pulses"]) == (2, 5))
    board = rig.board
    moved = "'heat': {'pin': 18, 'impulses_per_kwh': 1000}, 'house': {'pin': 22, 'impulses_per_kwh': 1000}"
    rig.monitor.change(rig.settings(moved))
    assert rig.board is board
    board.flash(1, 0)
    wait_until(lambda: (rig.meter("heat")["pulses"], rig.meter("house")["pulses"]) == (6, 2))
    assert [watched.meter.interval_ns for watched in rig.monitor._recorder.meters] == [None, None]


def test_other_pins_while_the_disk_fails(rig, monkeypatch):
    """What could not be written stays where it is: the register goes on, and nothing is lost."""
    rig.deliver(5)

    def full(*_args, **_options):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "append", full)
        rig.board.flash(3)
        wait_until(lambda: rig.meter()["pulses"] == 8)
        rig.monitor.change(rig.settings("'house': {'pin': 22, 'impulses_per_kwh': 500}"))
        rig.board.flash()
        wait_until(lambda: rig.meter()["pulses"] == 9)
    rig.keeps(9)
    assert rig.counts() == list(range(1, 10))
    assert rig.meter()["register_kwh"] == pytest.approx(0.010)


def test_a_length_that_the_board_can_not_tell(rig):
    """min_flash_ms is refused where the board that stays does not see the ends of flashes."""
    with pytest.raises(PowerError, match="min_flash_ms of house"):
        rig.monitor.change(rig.settings("'house': {'pin': 18, 'impulses_per_kwh': 1000, 'min_flash_ms': 2}"))


#: Longer than any machine is up, in s.
FOR_EVER_S = 1e12


def test_a_shorter_wait_for_the_clock(tmp_path):
    """CLOCK_WAIT that is changed is in force at once: where it is over, what waited for the clock is delivered."""
    with Rig(tmp_path, clock_wait_s=FOR_EVER_S) as rig:
        rig.board.flash(3)
        rig.keeps(3)
        assert rig.monitor.status().clock.waiting
        rig.monitor.change(rig.settings())
        rig.delivered(3)
        assert not rig.monitor.status().clock.waiting


def test_a_clock_that_was_believed_stays_so(rig):
    """Reading the settings again does not start another wait for the clock."""
    assert not rig.monitor.status().clock.waiting
    for pin in (18, 22):
        new = rig.settings(f"'house': {{'pin': {pin}, 'impulses_per_kwh': 1000}}")
        rig.monitor.change(dataclasses.replace(new, clock_wait_s=FOR_EVER_S))
        assert not rig.monitor.status().clock.waiting


# --- A start that fails


def test_a_board_that_can_not_be_opened(tmp_path):
    """Where the board can't be opened the start fails with its error."""
    one = Rig(tmp_path)
    one.refused = 1
    with pytest.raises(BoardError, match="no such pins"), one:
        pytest.fail("it counts without a board")


def test_a_board_that_can_not_be_watched(tmp_path):
    """Where its pins can be set up but not watched it is closed again, and no lamp was ever lit."""
    one = Rig(tmp_path)

    def deaf():
        raise BoardError("no edges")

    board = HandBoard()
    board.watch = deaf
    one.monitor._open_board = lambda _settings: board
    with pytest.raises(BoardError, match="no edges"), one:
        pytest.fail("it counts without edges")
    assert board.closed
    assert board.seen == []


def test_a_journal_that_can_not_be_had(tmp_path):
    """Where the journal can't be opened the board is given back."""
    one = Rig(tmp_path)
    one.journal.mkdir()
    with pytest.raises(PowerError, match=r"journal\.db"), one:
        pytest.fail("it counts without a journal")
    assert one.boards[0].closed


def test_no_reader_takes_the_place_of_a_deleted_file(tmp_path):
    """A cursor that connects while the file is gone creates none: it would be taken for a new file put there."""
    with Rig(tmp_path) as rig:
        rig.deliver(3)
        rig.journal.unlink()
        cursor = Cursor("late")
        cursor.attach(str(rig.journal), Position({}, ""))
        with pytest.raises(sqlite3.OperationalError, match="unable to open"):
            cursor.read(1)
        assert not rig.journal.exists()
        rig.deliver(4)
        assert rig.counts() == [1, 2, 3, 4]
