"""Parts of the program put together for tests: a recorder over a keeper, a whole monitor, and a disk that hangs."""

import contextlib
import dataclasses
import os
import sqlite3
import threading
import time

from hand_board import HandBoard
from program import PATIENCE_S, wait_until

from powermeter.clock import REAL_CLOCK
from powermeter.inputs import WatchedMeter
from powermeter.journal.journal import Journal, prepare_dir
from powermeter.keeper import Keeper
from powermeter.lamps import Condition, Lamp, Lamps
from powermeter.meter import NS_PER_S, Constant, Edge, Flash, Meter, hold_off_ns
from powermeter.monitor import Monitor
from powermeter.recorder import Recorder
from powermeter.settings import reading

#: At 24 kW and 1,000 impulses per kWh, as in the settings' defaults: 105 ms.
HOLD_OFF_NS = hold_off_ns(1000, 24000)

#: A commit interval that no test waits for.
NEVER_S = 3600


class DiskFullJournal(Journal):
    """A journal whose disk can be full: SQLite itself fails, because the file is not allowed to grow."""

    def __init__(self, path, *, full):
        super().__init__(path)
        self.full = full
        self.tries = 0

    def append(self, entries, ahead_ns, **options):
        self.tries += 1
        self._connection.execute(f"PRAGMA max_page_count = {1 if self.full else 2**30}")
        return super().append(entries, ahead_ns, **options)


class Recording:
    """
    A recorder and a keeper that run over the journal in *directory*, and what they called; a context manager.

    *meters*: the names, each with its limit of silence in minutes; *waiting*:
    edges that are there before it runs; *lit*: the meters whose input is;
    *full*: whether the disk is, at first; *contacts*: the meters that are one.
    """

    def __init__(self, directory, commit_interval_s, *, meters=None, waiting=(), lit=(), full=False, contacts=()):
        self.path = str(directory / "journal.db")
        self.journal = DiskFullJournal(self.path, full=full)
        watched = []
        for name, silence_minutes in (meters or {"house": None}).items():
            meter = Meter(name, Constant(1000), Flash(HOLD_OFF_NS))
            watched.append(WatchedMeter(meter, silence_minutes, is_contact=name in contacts))
        #: Released for each commit, change of the disk's state and change of the inputs' faults; and by which threads.
        self.commits, self.disk_states, self.faults = (threading.Semaphore(0) for _ in range(3))
        self.threads = {self.commits: set(), self.disk_states: set(), self.faults: set()}
        self.board = HandBoard()
        self.board.lit.update(lit)
        self.lamps = Lamps(self.board.light)
        #: The results of the readings.
        self.judged = []
        self.keeper = Keeper(
            self.path,
            commit_interval_s,
            clock=REAL_CLOCK,
            clock_wait_s=0,
            keep_days=400,
            on_commit=self._noting(self.commits),
            on_state=self._noting(self.disk_states),
            on_judged=self.judged.append,
            open_file=lambda *_args, **_options: self.journal,
        )
        for name in meters or {"house": None}:
            self.keeper.enter(name, 1000)
        self.keeper.open()
        self.recorder = Recorder(watched, self.board, self.keeper, self.lamps, on_state=self._noting(self.faults))
        self.recording = threading.Thread(target=self.recorder.run)
        self.keeping = threading.Thread(target=self.keeper.run)
        for edge in waiting:
            self.board.put(edge)

    def _noting(self, called):
        def note():
            self.threads[called].add(threading.current_thread())
            called.release()

        return note

    @property
    def meter(self):
        return self.recorder.meters[0].meter

    def kept(self, name="house"):
        """The journal's pulses of *name*: count, time, interval; read with a separate connection."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(
                "SELECT count, time_ns, interval_ns FROM pulses NATURAL JOIN meters WHERE name = ? ORDER BY count",
                (name,),
            ).fetchall()

    def counts(self):
        """The counts of the journal's pulses."""
        return [count for count, _, _ in self.kept()]

    def stop(self):
        """Stop as the program does; may be called twice."""
        for part, thread in ((self.recorder, self.recording), (self.keeper, self.keeping)):
            part.stop()
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def __enter__(self):
        begun_ns = time.monotonic_ns()
        self.board.watch()
        self.recording.start()
        # So that the first commit has everything that waits: it would be chance whether a full disk takes a part of it.
        wait_until(lambda: self.recorder.complete_ns() > begun_ns)
        self.keeping.start()
        # What a test does to the disk is done to the pulses.
        wait_until(lambda: self.keeper.failing or all(tally.cover_is_noted for tally in self.keeper.tallies.values()))
        return self

    def __exit__(self, kind, error, trace):
        self.stop()
        self.recorder.close()
        self.board.close()
        self.journal.close()


def seen(called, times=1):
    """Wait until *called* has been released *times* more times."""
    for _ in range(times):
        assert called.acquire(timeout=PATIENCE_S)


def in_a_row(count, index=0, spacing_ns=NS_PER_S):
    """Edges that came one after another until now."""
    now_ns = time.monotonic_ns()
    return [Edge(index, now_ns - (count - n) * spacing_ns) for n in range(1, count + 1)]


@contextlib.contextmanager
def hung_disk(path):
    """Hold the journal's write lock, so that SQLite waits in the middle of a commit."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


SETTINGS = """
DATA_DIR = {data_dir!r}
METERS = {{"house": {{"pin": 18, "impulses_per_kwh": 1000}}}}
COMMIT_INTERVAL = 0.1
CLOCK_WAIT = 0
"""

#: A tenth of a second, in minutes.
SOON = 0.1 / 60


class Running:
    """
    A monitor over a :class:`HandBoard` or *board*, with its data in *directory*; a context manager.

    *writers* in place of the file's; *page* and *mqtt*: their settings; *meter_settings*: what the meter has besides
    its pin and its constant.
    """

    def __init__(self, directory, *, board=None, writers=None, page=None, mqtt=None, **meter_settings):
        path = directory / "settings.py"
        self.data_dir = directory / "data"
        path.write_text(SETTINGS.format(data_dir=str(self.data_dir)))
        path.chmod(0o600)
        read = reading.read(str(path))
        prepare_dir(read.data_dir)
        meters = tuple(dataclasses.replace(meter, **meter_settings) for meter in read.meters)
        self.csv = self.data_dir / "power.csv"
        self.board = board or HandBoard()
        self.crashes = threading.Semaphore(0)
        self.settings = dataclasses.replace(read, meters=meters, writers=writers or read.writers, page=page, mqtt=mqtt)
        self.monitor = Monitor(self.settings, lambda _: self.board, simulate=None, on_crash=self.crashes.release)
        self._before = set(threading.enumerate())

    def threads(self):
        """The names of the threads that did not exist before."""
        return sorted(thread.name for thread in set(threading.enumerate()) - self._before)

    def open_files(self):
        """The files that this process has open in DATA_DIR."""
        found = []
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the descriptor of the listing itself
                found.append(os.readlink(f"/proc/self/fd/{fd}"))
        return [path for path in found if path.startswith(str(self.data_dir))]

    def wait_for_condition(self, condition):
        """Wait until L2 shows *condition*, blinking or steady; its speed is for the tests of the lamps."""
        wait_until(lambda: self.monitor._lamps._l2_shown is condition)
        seen = self.board.seen
        if condition is Condition.WELL:
            assert [lit for lamp, lit in seen if lamp is Lamp.L2][-1]
        else:
            for lit in (True, False):
                self.board.wait_for(Lamp.L2, lit, times=seen.count((Lamp.L2, lit)) + 1)

    def lines(self):
        """The number of pulses in the file."""
        return len(self.csv.read_text().splitlines()) - 1 if self.csv.is_file() else 0

    def __enter__(self):
        self.monitor.__enter__()
        return self

    def __exit__(self, kind, error, trace):
        self.monitor.__exit__(kind, error, trace)
