"""
The journal: the durable, ordered record of pulses, and how far each writer has it.

Owns the SQLite file; hides its tables. A pulse is keyed by its meter and its
running count and ordered by count, never by time: its time is a label that a
wrong clock can put anywhere. Each row has the interval since the meter's pulse
before, which no clock can change.

The keeper's thread alone appends. A writer's thread reads and moves its own
:class:`Cursor`, over a connection of its own; the keeper's next commit makes
the move durable, so that a delivery costs no write of its own. A cursor that a
crash sets back delivers again what it delivered, which every writer bears.
"""

import contextlib
import functools
import heapq
import itertools
import os
import sqlite3
import stat
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from types import TracebackType
from typing import NamedTuple

from powermeter.clock import boot_id
from powermeter.errors import DamagedError, JournalError, StoppedError, UnsafePathError
from powermeter.meter import NS_PER_S, Constant, Pulse
from powermeter.mounts import file_system
from powermeter.safe_path import make_directory

#: A row a pulse, 28 bytes of the file with its share of the tree.
#: *constants*: what a meter's pulses are worth from a count on (:class:`Constant`).
#: *steps*: pulses whose time is before their predecessor's, as the clock was set
#: back; between two of them time rises with the count, so that it can be searched.
#: *writers* and *cursors*: :class:`Cursor`.
#: *unsettled*: a meter's pulses after a count, whose times are of a clock that was not believed yet: so far it was
#: ahead of the monotonic one then, in that boot of the machine. Writers do not see them.
#: *thinned*: up to which count a meter's pulses are thinned. A row stands for all pulses since the row before it.
SCHEMA = """
    CREATE TABLE meters (
        meter INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE
    );
    CREATE TABLE constants (
        meter INTEGER NOT NULL, from_count INTEGER NOT NULL,
        impulses_per_kwh REAL NOT NULL, register_kwh REAL NOT NULL,
        PRIMARY KEY (meter, from_count)
    ) WITHOUT ROWID;
    CREATE TABLE pulses (
        meter INTEGER NOT NULL, count INTEGER NOT NULL,
        time_ns INTEGER NOT NULL, interval_ns INTEGER,
        PRIMARY KEY (meter, count)
    ) WITHOUT ROWID;
    CREATE TABLE steps (
        meter INTEGER NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (meter, count)
    ) WITHOUT ROWID;
    CREATE TABLE writers (
        name TEXT PRIMARY KEY, place TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE cursors (
        writer TEXT NOT NULL, meter INTEGER NOT NULL, count INTEGER NOT NULL,
        PRIMARY KEY (writer, meter)
    ) WITHOUT ROWID;
"""
SCHEMA_2 = """
    CREATE TABLE unsettled (
        meter INTEGER PRIMARY KEY, after_count INTEGER NOT NULL, ahead_ns INTEGER NOT NULL, boot TEXT NOT NULL
    );
    CREATE TABLE thinned (
        meter INTEGER PRIMARY KEY, to_count INTEGER NOT NULL
    );
"""
#: What each version of the journal adds to the one before.
SCHEMAS = (SCHEMA, SCHEMA_2)
SCHEMA_VERSION = len(SCHEMAS)

#: The small tables, which are looked over at each start, and what their columns are.
LOOKED_OVER: Mapping[str, tuple[type, ...]] = {
    "meters": (int, str),
    "constants": (int, int, float, float),
    "steps": (int, int),
    "writers": (str, str),
    "cursors": (str, int, int),
    "unsettled": (int, int, int, str),
    "thinned": (int, int),
}

#: The pulses as they are read, by every connection. A bit that flipped on a card can have made anything of a time or an
#: interval, which SQLite takes as it is: here they are an integer, and a length of time or NULL, all the same.
VIEW = """
    CREATE TEMP VIEW read_pulses AS SELECT meter, count, CAST(time_ns AS INTEGER) AS time_ns,
    CASE WHEN typeof(interval_ns) = 'integer' AND interval_ns > 0 THEN interval_ns END AS interval_ns FROM pulses
"""

#: Old pulses are thinned to one in this time, in ns; so many rows are looked at in one transaction.
THINNED_TO_NS = 3600 * NS_PER_S
THINNED_AT_ONCE = 5000

#: Numbers that are counts already.
NO_BEGINS: Mapping[str, int] = {}

#: More than any count.
MOST_COUNT = 2**63 - 1

#: What SQLite adds to the name of a database for the files beside it.
BESIDE = ("-wal", "-shm", "-journal")

#: No text, blob or row of a journal is longer, in bytes: the longest of ours is a writer's place, which has a path.
MAX_LENGTH = 65_536

#: No small table has more rows, except steps, which is never read into memory as a whole. A schema has fewer entries.
MAX_ROWS = 10_000
MAX_SCHEMA_ENTRIES = 100

#: While a journal is opened or saved, whether to stop is asked after this many steps of SQLite's machine: some ms.
STEPS = 20_000

#: SQLite's results for a call that was interrupted; for a disk that fails, and for a file that is damaged, or no
#: database any more; for locks that do not work; for a text, blob or row longer than MAX_LENGTH; and, extended, for
#: files that can't be locked or shared as memory, as on a disk of the network (https://sqlite.org/rescode.html).
SQLITE_INTERRUPT = 9
SQLITE_IOERR = 10
SQLITE_CORRUPT = 11
SQLITE_PROTOCOL = 15
SQLITE_TOOBIG = 18
SQLITE_NOTADB = 26
UNFIT = (SQLITE_PROTOCOL, *(SQLITE_IOERR | kind << 8 for kind in (15, 20, 21)))  # LOCK, SHMLOCK, SHMMAP

#: How long one connection waits for another's commit, in s: a card may take its time.
BUSY_TIMEOUT_S = 60

#: The page cache of a connection, in KiB. Appending and reading in order touch few
#: pages; SQLite's own 2 MiB would be held once a connection.
CACHE_KIB = 256


#: Whether the program was told to stop, so that opening a journal must end.
Stopped = Callable[[], bool]


class Row(NamedTuple):
    """A pulse to keep: its meter's name, the meter's count with it, when it came (monotonic, ns), its interval (ns)."""

    meter: str
    number: int
    at_ns: int
    interval_ns: int | None


class Change(NamedTuple):
    """
    From the pulse after *number* on, a pulse of *meter* is worth 1 / *impulses_per_kwh* kWh.

    *register_kwh* is the register after pulse *number*; None: whatever the pulses up to there make it.
    """

    meter: str
    number: int
    impulses_per_kwh: float
    register_kwh: float | None = None


#: What is appended: both in the order in which they happened.
Entry = Row | Change


def is_damage(error: sqlite3.Error) -> bool:
    """Whether *error* says that the file itself is damaged."""
    return _code(error) in (SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_TOOBIG)


def is_interrupt(error: sqlite3.Error) -> bool:
    """Whether *error* says that a progress handler ended the call."""
    return _code(error) == SQLITE_INTERRUPT


def stopped_error(path: str) -> StoppedError:
    """The error for a stop while the journal at *path* is opened or saved."""
    return StoppedError(f"{path}: a stop came before the journal was open: the next start goes on there")


def is_of_the_disk(error: sqlite3.Error) -> bool:
    """Whether *error* says that the disk does not do what it is told, as one that has gone; not that it is full."""
    return _code(error) == SQLITE_IOERR


def _code(error: sqlite3.Error) -> int:
    # Extended codes have the plain one in their lowest byte.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _unfit(path: str, reason: str) -> JournalError:
    kind = file_system(os.path.realpath(path)) or "this file system"
    return JournalError(
        f"{path}: the journal can't be used: {reason} on {kind}: if that is not a local disk, set a DATA_DIR on one"
    )


@dataclass(frozen=True, slots=True)
class MeterRecord:
    """What the journal knows of the meter *name*: the count of its last pulse, and its constant in force."""

    name: str
    count: int
    constant: Constant


# --- A file that may be anybody's: closed to others, and not believed


def open_private(path: str, flags: int) -> int:
    """Open *path* as :func:`os.open` does; a file that is made is closed to all but its user. Usable as an opener."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def make_private(path: str) -> None:
    """
    Make the database *path* where it is missing, and close it, and the files beside it, to all but its user.

    SQLite gives the files beside it the mode that it has. Whoever can read them can lock them, and hold up every
    commit. A file that exists is never opened here: closing it would drop the locks that a connection of this process
    has on it. Raises :exc:`JournalError` where it can't be made.
    """
    real = os.path.realpath(path)  # SQLite puts its files beside what a link leads to
    try:
        os.close(open_private(real, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    except OSError as error:
        raise JournalError(f"{path}: the journal can't be opened: {error.strerror}") from error
    for name in (real, *(real + suffix for suffix in BESIDE)):
        # Some file systems have no modes; what is wrong apart from that, SQLite reports.
        with contextlib.suppress(OSError):
            if stat.S_ISREG(found := os.lstat(name).st_mode) and stat.S_IMODE(found) != 0o600:
                os.chmod(name, 0o600)


def harden(connection: sqlite3.Connection, max_length: int = MAX_LENGTH) -> None:
    """Let *connection* trust nothing in its file, which anybody may have made. To be called before anything is read."""
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max_length)
    # No function with side effects is called from a schema, each page is checked when it is read, and a disk that fails
    # is an error: with mapped memory it would end the program.
    for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
        connection.execute(f"PRAGMA {pragma}")


#: What a database consists of: type, name, table and SQL of each entry of its schema, in order.
Schema = list[tuple[bytes, ...]]


def schema_of(connection: sqlite3.Connection) -> Schema:
    """The schema of the database; nothing of it is executed. Raises :exc:`sqlite3.Error`."""
    rows = connection.execute(
        # As blobs: damage can have made anything of a text.
        # What ANALYZE makes is SQLite's own.
        "SELECT CAST(type AS BLOB), CAST(name AS BLOB), CAST(tbl_name AS BLOB), CAST(sql AS BLOB) FROM sqlite_schema"
        " WHERE NOT (type = 'table' AND name IN ('sqlite_stat1', 'sqlite_stat4')) LIMIT ?",
        (MAX_SCHEMA_ENTRIES,),
    ).fetchall()
    return sorted(
        (kind or b"", name or b"", of or b"", b" ".join((sql or b"").split())) for kind, name, of, sql in rows
    )


@functools.cache
def schema_of_version(version: int, more: str = "") -> Schema:
    """The schema of a journal of *version*, with what the statements in *more* add."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript("".join(SCHEMAS[:version]) + more)
        return schema_of(connection)


def _has_flipped(found: Schema, ours: Schema) -> bool:
    """Whether *found* can be *ours* with bytes that flipped: these leave every length as it is."""
    lengths = [sorted([*map(len, entry)] for entry in schema) for schema in (found, ours)]
    return lengths[0] == lengths[1]


def _connect(path: str, stopped: Stopped | None = None) -> sqlite3.Connection:
    # Handed from the thread that opens to the one that uses it, never used by two at once.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        if stopped:
            connection.set_progress_handler(stopped, STEPS)
        harden(connection)
        # FULL: a commit is on the disk when it returns. NORMAL loses up to 40 s of them in a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        connection.execute(VIEW)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction that has the write lock from its beginning on; rolled back on any error."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A failed COMMIT on a full disk leaves the transaction open; SQLite may have rolled back by itself.
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("ROLLBACK")
        raise


class Journal:
    """
    The journal in the file *path*, made where there is none.

    A context manager; :meth:`close` may be called twice. *suspect*: damage was
    met in it, so all of it is looked over, which takes as long as reading it;
    *stopped* is asked meanwhile whether to end that.
    Raises :exc:`DamagedError` where the file is damaged, :exc:`StoppedError`
    when *stopped* says so, and :exc:`JournalError` where it can't be opened or
    is another's.
    """

    def __init__(self, path: str, *, suspect: bool = False, stopped: Stopped | None = None) -> None:
        self.path = path
        self._cursors: list[Cursor] = []
        self._last_times: dict[int, int] = {}
        #: By a meter's key its constant in force.
        self._constants: dict[int, Constant] = {}
        make_private(path)
        try:
            self._connection = _connect(path, stopped)
            try:
                self._prepare()
                self._look_over(whole=suspect)
                self._write_ahead()
                # From here on it takes no time: it is opened, and all calls are short.
                self._connection.set_progress_handler(None, 0)
            except BaseException:
                self._connection.close()
                raise
        except UnicodeDecodeError as error:  # a name of a table that is no text
            raise DamagedError(f"{path}: the journal is damaged: {error}") from error
        except sqlite3.Error as error:
            if is_interrupt(error):
                raise stopped_error(path) from error
            if is_damage(error):
                raise DamagedError(f"{path}: the journal is damaged: {error}") from error
            if getattr(error, "sqlite_errorcode", 0) in UNFIT:
                raise _unfit(path, str(error)) from error
            raise JournalError(f"{path}: the journal can't be opened: {error}") from error
        self._file = _file_at(path)
        #: By a meter's name its key, which is this file's own.
        self._keys: dict[str, int] = dict(self._connection.execute("SELECT name, meter FROM meters"))
        # There since that reading.
        self._log_file = _file_at(path + "-wal")

    def _prepare(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        found = schema_of(self._connection)
        if not 0 < version <= SCHEMA_VERSION and (version or found):
            raise JournalError(f"{self.path}: not a journal of this version of power (version {version}): move it away")
        if found != (ours := schema_of_version(version)):
            if _has_flipped(found, ours):
                damage = "bytes of its schema have changed"
                raise DamagedError(f"{self.path}: the journal is damaged: {damage}")
            raise JournalError(
                f"{self.path}: not a journal of power: its tables are not those of version {version}: move it away"
            )
        if version < SCHEMA_VERSION:
            with _transaction(self._connection):
                for schema in SCHEMAS[version:]:
                    for statement in schema.split(";"):
                        self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _write_ahead(self) -> None:
        """Write by a log from now on; that is kept in the file, and a copy made to be stored may have none."""
        mode = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise _unfit(self.path, "no write-ahead log")

    def _look_over(self, *, whole: bool) -> None:
        """Read all but the pulses, and of these the first and the last, so that damage there shows now."""
        for table, types in LOOKED_OVER.items():
            rows = self._connection.execute(f"SELECT * FROM {table}")  # noqa: S608 - our own names
            with contextlib.closing(rows):
                for number, row in enumerate(rows, 1):
                    found = ""
                    if not all(map(isinstance, row, types)) or (table == "constants" and row[2] <= 0):
                        found = f"a row of {table} is {row!r:.200}"
                    elif number > MAX_ROWS and table != "steps":
                        found = f"{table} has more than {MAX_ROWS:,} rows"
                    if found:
                        raise DamagedError(f"{self.path}: the journal is damaged: {found}")
        for (meter,) in self._connection.execute("SELECT meter FROM meters").fetchall():
            for order in ("ASC", "DESC"):
                self._connection.execute(
                    f"SELECT * FROM pulses WHERE meter = ? ORDER BY count {order} LIMIT 1",  # noqa: S608 - the same
                    (meter,),
                ).fetchall()
        if whole and (found := self._connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
            raise DamagedError(f"{self.path}: the journal is damaged: {found.splitlines()[-1]}")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. Every cursor must have been closed before."""
        self._connection.close()

    # --- The keeper's side

    def enter(self, name: str, impulses_per_kwh: float, begin: Constant | None = None) -> MeterRecord:
        """
        Take pulses of the meter *name*, new or known, with *impulses_per_kwh* in force from its next pulse on.

        A change of the constant begins a new row, so that past pulses keep
        their energy and the register goes on from where it is. A meter that
        is new here goes on from *begin*, if given: it was in a journal that is lost.
        Returns what is known of it. Raises :exc:`sqlite3.Error` where the disk fails.
        """
        with _transaction(self._connection):
            self._connection.execute("INSERT OR IGNORE INTO meters (name) VALUES (?)", (name,))
            meter: int = self._connection.execute("SELECT meter FROM meters WHERE name = ?", (name,)).fetchone()[0]
            count, time_ns = self._connection.execute(
                "SELECT count, time_ns FROM read_pulses WHERE meter = ? ORDER BY count DESC LIMIT 1",
                (meter,),
            ).fetchone() or (0, None)
            constants = _constants(self._connection, meter)
            if not constants and begin is not None:
                constants = [begin]
                self._connection.execute(
                    "INSERT INTO constants VALUES (?, ?, ?, ?)",
                    (meter, begin.from_count, begin.impulses_per_kwh, begin.register_kwh),
                )
            # After thinning and losses the last row tells the count still; without a row a constant does.
            count = max(count, constants[-1].from_count if constants else 0)
            if not constants or constants[-1].impulses_per_kwh != impulses_per_kwh:
                register_kwh = constants[-1].register_at(count) if constants else 0.0
                constants.append(Constant(impulses_per_kwh, count, register_kwh))
                self._connection.execute(
                    "INSERT OR REPLACE INTO constants VALUES (?, ?, ?, ?)",
                    (meter, count, impulses_per_kwh, register_kwh),
                )
        self._keys[name] = meter
        self._constants[meter] = constants[-1]
        if time_ns is not None:
            self._last_times[meter] = time_ns
        return MeterRecord(name, count, constants[-1])

    def append(
        self,
        entries: Sequence[Entry],
        ahead_ns: int = 0,
        *,
        settled: bool = True,
        begins: Mapping[str, int] = NO_BEGINS,
    ) -> None:
        """
        Make *entries*, and every move of a cursor so far, durable in one transaction.

        Each meter's come in the order of its count; the numbers in them are
        from *begins* on, by the meter's name, if it is there. *ahead_ns* is how
        far the wall clock is ahead of theirs; unless *settled* it is not believed
        yet: their times may still be shifted by :meth:`settle`, and no writer
        sees them before. Raises :exc:`sqlite3.Error` where the disk fails;
        nothing is kept then.
        """
        last_times, unsettled = dict(self._last_times), {} if settled else self._unsettled()
        constants = dict(self._constants)
        kept, steps, begun, changed = [], [], [], []
        for entry in entries:
            meter, ahead = self._keys[entry.meter], ahead_ns
            count = begins.get(entry.meter, 0) + entry.number
            if isinstance(entry, Change):
                constants[meter] = constant = _changed(constants[meter], entry, count)
                changed.append((meter, count, constant.impulses_per_kwh, constant.register_kwh))
                continue
            if not settled:
                if meter not in unsettled:
                    unsettled[meter] = ahead_ns
                    begun.append((meter, count - 1, ahead_ns, boot_id()))
                # By one reading of the clock for all of them, so that one shift is right for all.
                ahead = unsettled[meter]
            time_ns = entry.at_ns + ahead
            if time_ns < last_times.get(meter, time_ns):
                steps.append((meter, count))
            last_times[meter] = time_ns
            kept.append((meter, count, time_ns, entry.interval_ns))
        with _transaction(self._connection):
            # A commit that was given up for a disk that hung may have been made after all.
            self._connection.executemany("INSERT INTO pulses VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", kept)
            if changed:
                self._connection.executemany("INSERT OR REPLACE INTO constants VALUES (?, ?, ?, ?)", changed)
            if steps:
                self._connection.executemany("INSERT INTO steps VALUES (?, ?) ON CONFLICT DO NOTHING", steps)
            if begun:
                # Instead of those of an earlier boot: their times stay as they are.
                self._connection.executemany("INSERT OR REPLACE INTO unsettled VALUES (?, ?, ?, ?)", begun)
            # Read inside the transaction: a cursor that commits by itself comes before it or after it, whole.
            moves = [(cursor, cursor.saved, cursor.save(self._connection)) for cursor in self._cursors]
        self._last_times, self._constants = last_times, constants
        for cursor, before, position in moves:
            if cursor.saved is before:
                cursor.saved = position

    def _unsettled(self) -> dict[int, int]:
        of_boot = (boot_id(),)
        return dict(self._connection.execute("SELECT meter, ahead_ns FROM unsettled WHERE boot = ?", of_boot))

    def settle(self, ahead_ns: int) -> int:
        """
        Give the pulses that are not settled their time, now that the wall clock is known to be *ahead_ns* ahead.

        Those of an earlier boot of the machine keep what they have: how far
        the clock was wrong then nobody knows. Returns how many pulses were
        not settled. Raises :exc:`sqlite3.Error`; nothing is changed then.
        """
        boot, settled = boot_id(), 0
        with _transaction(self._connection):
            for meter, after, was_ns, of_boot in self._connection.execute("SELECT * FROM unsettled").fetchall():
                shift_ns = ahead_ns - was_ns if of_boot == boot else 0
                settled += self._connection.execute(
                    "UPDATE pulses SET time_ns = time_ns + ? WHERE meter = ? AND count > ?", (shift_ns, meter, after)
                ).rowcount
                self._mark_step(meter, after)
            self._connection.execute("DELETE FROM unsettled")
            last_times = {meter: self._last_time(meter) for meter in self._last_times}
        self._last_times = {meter: time_ns for meter, time_ns in last_times.items() if time_ns is not None}
        return settled

    def _mark_step(self, meter: int, after: int) -> None:
        """Note whether time steps back behind the pulse *after*, now that the times behind it are others."""
        pulses = "SELECT count, time_ns FROM read_pulses WHERE meter = ? AND count"
        before = self._connection.execute(f"{pulses} <= ? ORDER BY count DESC LIMIT 1", (meter, after)).fetchone()
        behind = self._connection.execute(f"{pulses} > ? ORDER BY count LIMIT 1", (meter, after)).fetchone()
        if before and behind:
            self._connection.execute("DELETE FROM steps WHERE meter = ? AND count = ?", (meter, behind[0]))
            if behind[1] < before[1]:
                self._connection.execute("INSERT INTO steps VALUES (?, ?)", (meter, behind[0]))

    def _last_time(self, meter: int) -> int | None:
        row = self._connection.execute(
            "SELECT time_ns FROM read_pulses WHERE meter = ? ORDER BY count DESC LIMIT 1", (meter,)
        ).fetchone()
        return None if row is None else int(row[0])

    def thin(self, before_ns: int) -> bool:
        """
        Thin the pulses with times before *before_ns* (UTC, ns) to the last one of an hour.

        It then stands for the others too, so that energy stays exact. Looks at
        :data:`THINNED_AT_ONCE` rows of a meter at most; returns whether there
        may be more. Raises :exc:`sqlite3.Error`; nothing is changed then.
        """
        more = False
        with _transaction(self._connection):
            for (meter,) in self._connection.execute("SELECT meter FROM meters").fetchall():
                more |= self._thin_meter(meter, before_ns)
        return more

    def _thin_meter(self, meter: int, before_ns: int) -> bool:
        (done,) = self._connection.execute(
            "SELECT coalesce((SELECT to_count FROM thinned WHERE meter = ?), 0)", (meter,)
        ).fetchone()
        steps = {count for (count,) in self._connection.execute("SELECT count FROM steps WHERE meter = ?", (meter,))}
        rows = self._connection.execute(
            "SELECT count, time_ns FROM read_pulses WHERE meter = ? AND count > ? ORDER BY count LIMIT ?",
            (meter, done, THINNED_AT_ONCE),
        ).fetchall()
        old = len(rows)
        while old and rows[old - 1][1] >= before_ns:
            old -= 1
        if old < 2:  # the last row that was kept, and nothing behind it
            return self._pass_by(meter, [step for step in sorted(steps) if rows and step > rows[0][0]], before_ns)
        thinned = [
            (meter, count)
            for (count, time_ns), (next_count, next_ns) in itertools.pairwise(rows[:old])
            # The last before the clock was set back stays: it ends a stretch in which time rises.
            if time_ns // THINNED_TO_NS == next_ns // THINNED_TO_NS and next_count not in steps and time_ns < before_ns
        ]
        self._connection.executemany("DELETE FROM pulses WHERE meter = ? AND count = ?", thinned)
        # The last one is looked at again: the next may be of the same hour.
        self._mark_thinned(meter, rows[old - 1][0] - 1)
        return True

    def _pass_by(self, meter: int, steps: list[int], before_ns: int) -> bool:
        """Go on behind pulses that a clock, wrong then, put into the future, where old ones stand behind them."""
        for step in steps:
            (time_ns,) = self._connection.execute(
                "SELECT time_ns FROM read_pulses WHERE meter = ? AND count >= ? ORDER BY count LIMIT 1", (meter, step)
            ).fetchone()
            if time_ns < before_ns:
                self._mark_thinned(meter, step - 1)
                return True
        return False

    def _mark_thinned(self, meter: int, to_count: int) -> None:
        self._connection.execute("INSERT OR REPLACE INTO thinned VALUES (?, ?)", (meter, to_count))

    def has(self, row: Row, count: int) -> bool:
        """Whether *row* is there as the pulse *count* of its meter: a commit that failed may have been made."""
        found = self._connection.execute(
            "SELECT interval_ns FROM read_pulses WHERE meter = ? AND count = ?", (self._keys[row.meter], count)
        ).fetchone()
        return bool(found == (row.interval_ns,))

    # --- A file that went away while it was used

    @property
    def is_in_place(self) -> bool:
        """Whether the file that is used is still the one at its path."""
        return _file_at(self.path) == self._file

    @property
    def is_read_only(self) -> bool:
        """Whether nobody can write to its disk: to files that are open ext4 seems to then, and nothing is kept."""
        try:
            return bool(os.statvfs(self.path).f_flag & os.ST_RDONLY)
        except OSError:
            return False

    def can_be_read(self) -> bool:
        """Whether the file at its path can be read: SQLite calls it damaged too where the disk fails."""
        if not self.is_in_place:
            return False
        try:
            for suffix in ("", "-wal"):
                # Opened anew: on a disk that went and came back what is open is dead. This drops SQLite's locks of the
                # file, so it is for who opens the journal anew after it.
                with contextlib.suppress(FileNotFoundError), open(self.path + suffix, "rb", buffering=0) as file:
                    while file.read(1 << 20):
                        pass
        except OSError:
            return False
        return True

    def can_be_written_anew(self) -> bool:
        """Whether another connection can write, as where the disk failed and does so no more."""
        try:
            with contextlib.closing(_connect(self.path)) as connection, _transaction(connection):
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.Error:
            return False
        return True

    @property
    def is_deleted(self) -> bool:
        """Whether there is no file at its path, in the directory that it was in."""
        return _file_at(self.path) is None and not self.is_elsewhere

    @property
    def is_elsewhere(self) -> bool:
        """Whether its path leads to nothing, on another disk than the one that it was on."""
        return _file_at(self.path) is None and _device_of(self.path) != (self._file or (None,))[0]

    def take_log_away(self) -> None:
        """
        Remove the files beside it, where another file has taken its place: the log would be read as that one's.

        They are as they were for those who have them open.
        """
        if self._log_file is not None and _file_at(self.path + "-wal") == self._log_file:
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(OSError):
                    os.unlink(self.path + suffix)

    def write_again(self) -> None:
        """
        Write all of it to its path again, where it was deleted: it can be read as long as it is open.

        Raises :exc:`sqlite3.Error` or :exc:`OSError`.
        """
        making = self.path + ".making"
        # Those of a file that is no more would be taken for the new one's; and what a crash left of another try.
        for name in (self.path + "-wal", self.path + "-shm", making, making + "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        try:
            make_private(making)
            with contextlib.closing(sqlite3.connect(making)) as copy:
                self._connection.backup(copy)
            # Not before it is whole and, as SQLite sees to, on the disk.
            os.rename(making, self.path)
        except BaseException:
            for name in (making, making + "-journal"):
                with contextlib.suppress(OSError):
                    os.unlink(name)
            raise

    # --- The writers' side

    def follow(self, cursor: "Cursor") -> None:
        """
        Have *cursor* read this file, and make its moves durable with each append.

        A writer that is new to the file begins after the last pulse of each meter that was entered.
        """
        with _transaction(self._connection):
            if not self._connection.execute("SELECT 1 FROM writers WHERE name = ?", (cursor.writer,)).fetchone():
                self._connection.execute("INSERT INTO writers VALUES (?, '')", (cursor.writer,))
                self._connection.execute(
                    "INSERT INTO cursors SELECT ?, meter, coalesce("
                    "(SELECT max(count) FROM pulses WHERE pulses.meter = meters.meter), 0) FROM meters",
                    (cursor.writer,),
                )
            (place,) = self._connection.execute("SELECT place FROM writers WHERE name = ?", (cursor.writer,)).fetchone()
            reached = "SELECT name, count FROM cursors NATURAL JOIN meters WHERE writer = ?"
            counts = dict(self._connection.execute(reached, (cursor.writer,)))
        cursor.attach(self.path, Position(counts, place))
        if cursor not in self._cursors:
            self._cursors.append(cursor)

    def forget(self, cursor: "Cursor") -> None:
        """Leave *cursor*'s moves to itself from now on."""
        if cursor in self._cursors:
            self._cursors.remove(cursor)

    def add_cursor(self, writer: str) -> "Cursor":
        """Make a cursor for the writer called *writer* that follows this file, and return it."""
        cursor = Cursor(writer)
        self.follow(cursor)
        return cursor

    def reader(self) -> "Reader":
        """A connection that reads only, for a thread that asks about spans of time."""
        return Reader(self.path)


def _file_at(path: str) -> tuple[int, int] | None:
    """Which file the path leads to: its device and inode; None without one."""
    try:
        there = os.stat(path)
    except OSError:
        return None
    return there.st_dev, there.st_ino


def _device_of(path: str) -> int | None:
    """The device that the directory of *path* is on; None without one."""
    try:
        return os.stat(os.path.dirname(path)).st_dev
    except OSError:
        return None


def _constants(connection: sqlite3.Connection, meter: int) -> list[Constant]:
    return [
        Constant(impulses, count, register)
        for impulses, count, register in connection.execute(
            "SELECT impulses_per_kwh, from_count, register_kwh FROM constants WHERE meter = ? ORDER BY from_count",
            (meter,),
        )
    ]


class Position(NamedTuple):
    """How far a writer is: the count that it has of each meter, by name; and its *place*, which only it can read."""

    counts: Mapping[str, int]
    place: str


class Cursor:
    """
    How far one writer has delivered the journal, and the pulses from there on; it outlives any file.

    :meth:`attach` and :meth:`detach` are for the keeper, the rest for that
    writer's thread; but :attr:`position` is replaced whole, so that any thread
    may read it. While it is detached there are no pulses.
    """

    def __init__(self, writer: str) -> None:
        self.writer = writer
        self.position = self.saved = Position({}, "")
        #: Held for a step that reads the position and replaces it; never while a disk is asked.
        self._moving = threading.Lock()
        #: The path of the file, None while there is none, and how often it was another.
        self._file: tuple[str | None, int] = None, 0
        self._connection: sqlite3.Connection | None = None
        self._connected_to = 0
        self._meters: dict[str, tuple[int, list[Constant]]] = {}

    def attach(self, path: str, found: Position) -> None:
        """
        Read the file at *path* from now on, in which the writer stands at *found*.

        Where it was further before, by memory or by another file, it stays there: that was delivered.
        """
        with self._moving:
            (counts, place), (_, generation) = self.position, self._file
            position = found
            if generation:
                further = {name: max(count, found.counts.get(name, 0)) for name, count in counts.items()}
                position = Position({**found.counts, **further}, place)
            self.saved = found
            self.position = found if position == found else position
            self._file = path, generation + 1

    def detach(self) -> None:
        """Read no file from now on."""
        with self._moving:
            self._file = None, self._file[1] + 1

    def close(self) -> None:
        """Close the connection; may be called twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._connected_to = 0

    def _connect(self) -> sqlite3.Connection | None:
        path, generation = self._file
        if generation != self._connected_to or self._connection is None:
            self.close()
            if path is not None:
                self._connection = _connect(path)
                self._connected_to = generation
        return self._connection

    def read(self, limit: int) -> list[Pulse]:
        """
        The next pulses after the cursor, at most *limit*; fewer only where there are no more.

        Those of one meter come in the order of their count; between meters
        the earlier time goes first.
        """
        connection = self._connect()
        if connection is None:
            return []
        self._meters = _known_meters(connection)
        streams = [pulses for name in self._meters if (pulses := self._read_meter(connection, name, limit))]
        if len(streams) == 1:
            return streams[0]
        # merge() keeps the order within a stream, whatever its times are.
        return [pulse for pulse, _ in zip(heapq.merge(*streams, key=attrgetter("time_ns")), range(limit), strict=False)]

    def _read_meter(self, connection: sqlite3.Connection, name: str, limit: int) -> list[Pulse]:
        meter, constants = self._meters[name]
        after = self.position.counts.get(name, 0)
        rows = connection.execute(
            "SELECT count, time_ns, interval_ns FROM read_pulses WHERE meter = ?1 AND count > ?2 "
            "AND count <= coalesce((SELECT after_count FROM unsettled WHERE meter = ?1), ?3) ORDER BY count LIMIT ?4",
            (meter, after, MOST_COUNT, limit),
        ).fetchall()
        # A writer begins with no pulse from before its meter was known to this journal.
        return _pulses(name, max(after, constants[0].from_count), rows, constants)

    def advance(self, delivered: Iterable[Pulse], place: str) -> int:
        """
        Move past *delivered*; durable with the keeper's next commit.

        Returns how many pulses were skipped by that, as they are no more: they
        were thinned, or lost with a journal.
        """
        with self._moving:
            counts, skipped = dict(self.position.counts), 0
            for pulse in delivered:
                _, constants = self._meters[pulse.meter]
                skipped += max(0, pulse.number - max(counts.get(pulse.meter, 0), constants[0].from_count) - 1)
                counts[pulse.meter] = max(pulse.number, counts.get(pulse.meter, 0))
            self.position = Position(counts, place)
        return skipped

    def move(self, place: str) -> None:
        """Note another *place*, durable when this returns. On an error the position is as before."""
        with self._moving:
            before = self.position
            moved = self.position = Position(before.counts, place)
        try:
            if self._file[0] is None:
                raise sqlite3.OperationalError("the journal is not open")
            self.commit()
        except sqlite3.Error:
            with self._moving:
                if self.position is moved:
                    self.position = before
            raise

    def commit(self) -> None:
        """Make the position durable now, if it has a file."""
        connection, saved = self._connect(), self.saved
        if connection is None:
            return
        with _transaction(connection):
            position = self.save(connection)
        with self._moving:
            if self.saved is saved:  # else it has another file now, where this is to be saved yet
                self.saved = position

    @property
    def moved(self) -> bool:
        """Whether the position is another than the durable one."""
        return self.position is not self.saved

    @property
    def unsaved(self) -> int:
        """How many pulses lie between the durable position and this one."""
        position, saved = self.position, self.saved
        return sum(count - saved.counts.get(name, 0) for name, count in position.counts.items())

    def save(self, connection: sqlite3.Connection) -> Position:
        """Write the position in the transaction that *connection* has begun."""
        position, saved = self.position, self.saved
        if position is saved:
            return position
        if position.place != saved.place:
            connection.execute("UPDATE writers SET place = ? WHERE name = ?", (position.place, self.writer))
        connection.executemany(
            "INSERT OR REPLACE INTO cursors SELECT ?, meter, ? FROM meters WHERE name = ?",
            [(self.writer, count, name) for name, count in position.counts.items() if saved.counts.get(name) != count],
        )
        return position


def _known_meters(connection: sqlite3.Connection) -> dict[str, tuple[int, list[Constant]]]:
    known = connection.execute("SELECT meter, name FROM meters").fetchall()
    # Of one that lost its constants by damage nobody knows what a pulse is worth.
    return {name: (meter, of) for meter, name in known if (of := _constants(connection, meter))}


def _changed(constant: Constant, change: Change, count: int) -> Constant:
    """The constant behind *change*, which is behind the pulse *count*."""
    register_kwh = constant.register_at(count) if change.register_kwh is None else change.register_kwh
    return Constant(change.impulses_per_kwh, count, register_kwh)


def _pulses(name: str, after: int, rows: list[tuple[int, int, int | None]], constants: list[Constant]) -> list[Pulse]:
    """
    *rows* (count, time, interval) of one meter behind the count *after* as pulses, by the constant in force at each.

    One that stands for others too, which were thinned, has the energy of all and no power.
    """
    pulses: list[Pulse] = []
    ahead = list(constants)
    end = 0  # the last count that *constant* holds for
    for count, time_ns, interval_ns in rows:
        if count > end:
            while len(ahead) > 1 and ahead[1].from_count < count:
                ahead.pop(0)
            constant = ahead[0]
            end = ahead[1].from_count if len(ahead) > 1 else sys.maxsize
        watts, energy_wh = None, constant.watt_hours
        if count > after + 1:
            energy_wh = 1000 * (constant.register_at(count) - _register(constants, after))
        elif interval_ns is not None:
            watts = constant.mean_watts(1, interval_ns / NS_PER_S)
        pulses.append(Pulse(name, count, time_ns, watts, energy_wh, constant.register_at(count)))
        after = count
    return pulses


class Reader:
    """Answers about spans of time, by index seeks. For one thread."""

    def __init__(self, path: str) -> None:
        self._connection = _connect(path)
        self._connection.execute("PRAGMA query_only = 1")

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._connection.close()

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read within is as of one moment."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.Error):  # a read that failed may have ended it
                self._connection.execute("COMMIT")

    def last(self, meter: str) -> int:
        """The count of the last pulse of *meter*; 0 without one."""
        row = self._connection.execute("SELECT meter FROM meters WHERE name = ?", (meter,)).fetchone()
        return 0 if row is None else self._last(row[0])

    def _last(self, meter: int) -> int:
        row = self._connection.execute("SELECT max(count) FROM pulses WHERE meter = ?", (meter,)).fetchone()
        return int(row[0] or 0)

    def span(self, meter: str, from_ns: int, to_ns: int) -> tuple[int, float]:
        """Pulses and energy (kWh) of *meter* with times in [*from_ns*, *to_ns*)."""
        return self.spans(meter, [from_ns, to_ns])[0]

    def spans(self, meter: str, times_ns: Sequence[int]) -> list[tuple[int, float]]:
        """
        Pulses and energy (kWh) of *meter* between each of *times_ns* (UTC, ns), which rise, and the next.

        Seeks, no scan: time rises with the count between two steps of the
        clock, so each such run is searched at each of the times.
        """
        spans = [(0, 0.0) for _ in times_ns[1:]]
        row = self._connection.execute("SELECT meter FROM meters WHERE name = ?", (meter,)).fetchone()
        if row is None:
            return spans
        (key,) = row
        constants = _constants(self._connection, key)
        for first, last in self._runs(key, constants):
            ends = self._ends(key, first, last, times_ns)
            for index, (low, high) in enumerate(itertools.pairwise(ends)):
                if high > low:
                    pulses, kwh = spans[index]
                    kwh += _register(constants, high) - _register(constants, low)
                    spans[index] = pulses + high - low, kwh
        return spans

    def waiting(self, position: Position) -> tuple[int, int | None]:
        """How many pulses stand after *position*, and the time of the oldest (UTC, ns), None without one."""
        waiting, oldest = 0, []
        # max() over a keyed prefix is one seek; the pulses are not counted one by one.
        for meter, name, last in self._connection.execute(
            "SELECT meter, name, (SELECT max(count) FROM pulses WHERE meter = meters.meter) FROM meters"
        ).fetchall():
            delivered = position.counts.get(name, 0)
            if last is not None and last > delivered:
                waiting += self._rows_in(meter, delivered, last)
                oldest.append(self._row_for(meter, delivered + 1)[1])
        return waiting, min(oldest, default=None)

    def _rows_in(self, meter: int, after: int, last: int) -> int:
        """How many pulses there are behind *after* up to *last*: only where they were thinned are they counted."""
        (thinned,) = self._connection.execute(
            "SELECT coalesce((SELECT to_count FROM thinned WHERE meter = ?), 0)", (meter,)
        ).fetchone()
        if thinned <= after:
            return last - after
        (rows,) = self._connection.execute(
            "SELECT count(*) FROM pulses WHERE meter = ? AND count > ? AND count <= ?", (meter, after, thinned)
        ).fetchone()
        return int(rows + last - thinned)

    def _runs(self, meter: int, constants: list[Constant]) -> list[tuple[int, int]]:
        """The stretches of the count, both ends in, within which time rises."""
        last = self._last(meter)
        if not last:
            return []
        first = constants[0].from_count + 1
        steps = [
            n
            for (n,) in self._connection.execute(
                "SELECT count FROM steps WHERE meter = ? AND count > ? ORDER BY count", (meter, first)
            )
        ]
        return list(zip([first, *steps], [*(step - 1 for step in steps), last], strict=True))

    def _ends(self, meter: int, first: int, last: int, times_ns: Iterable[int]) -> list[int]:
        """For each time the count of the last pulse of the run *first* to *last* before it; *first* - 1 without one."""
        ends: list[int] = []
        low, before_ns = first - 1, 0
        # The last probe, and how many pulses came a ns between the last two times.
        at_count, rate = low, 0.0
        at_ns: int | None = None
        for time_ns in times_ns:
            before, high, probes = low, last, 0
            while low < high:
                probes += 1
                middle = (low + high + 1) // 2
                if at_ns is not None and probes % 3:
                    # Where it would be if pulses came as they did: one time is mostly a day after another.
                    middle = min(max(at_count + round((time_ns - at_ns) * rate), low + 1), high)
                at_count, at_ns = self._row_for(meter, middle)
                if at_ns < time_ns:
                    low = min(at_count, last)
                else:
                    high = middle - 1
                    at_count = middle
            if ends and low > before:
                rate = (low - before) / max(time_ns - before_ns, 1)
            before_ns = time_ns
            ends.append(low)
        return ends

    def _row_for(self, meter: int, count: int) -> tuple[int, int]:
        """The row of a pulse, or the one that stands for it: its count, and its time (UTC, ns)."""
        row: tuple[int, int] | None = self._connection.execute(
            "SELECT count, time_ns FROM read_pulses WHERE meter = ? AND count >= ? ORDER BY count LIMIT 1",
            (meter, count),
        ).fetchone()
        if row is None:
            error = sqlite3.DatabaseError(f"pulse {count} is not there, nor one behind it")
            error.sqlite_errorcode = SQLITE_CORRUPT
            raise error
        return row


def delivered_pulses(path: str, writer: str) -> list[Pulse]:
    """
    Pulses in the journal at *path* that may be delivered to *writer* again: the last one that it has of each meter.

    Of a meter that it has none of, the last one there is. None whose time or
    energy may still be another, and none where the journal can't be read.
    Nothing is written.
    """
    found: list[Pulse] = []
    if not os.path.exists(path):
        return found
    try:
        with contextlib.closing(_read_only(path)) as connection:
            if schema_of(connection) != schema_of_version(SCHEMA_VERSION):
                return []
            reached = dict(connection.execute("SELECT meter, count FROM cursors WHERE writer = ?", (writer,)))
            for meter, name in connection.execute("SELECT meter, name FROM meters").fetchall():
                rows = connection.execute(
                    "SELECT count, time_ns, interval_ns FROM read_pulses WHERE meter = ?1 AND count <= ?2 "
                    "AND count <= coalesce((SELECT after_count FROM unsettled WHERE meter = ?1), ?3) "
                    "ORDER BY count DESC LIMIT 2",
                    (meter, reached.get(meter) or MOST_COUNT, MOST_COUNT),
                ).fetchall()
                constants = _constants(connection, meter)
                # One without its predecessor may stand for others that were thinned.
                if rows and constants and rows[0][0] - 1 in (rows[-1][0], constants[0].from_count):
                    found += _pulses(name, rows[0][0] - 1, rows[:1], constants)
    except (sqlite3.Error, UnicodeDecodeError):  # whatever is wrong with it, a start tells
        return []
    return found


def _read_only(path: str) -> sqlite3.Connection:
    """A connection that writes nothing: of a journal that no program has open, not even the files beside it."""
    from urllib.parse import quote

    # SQLite makes both files beside a journal that was closed in order, to read it, and leaves them.
    closed = not os.path.exists(path + "-wal") or not os.path.getsize(path + "-wal")
    connection = sqlite3.connect(f"file:{quote(path)}?{'mode=ro&immutable=1' if closed else 'mode=ro'}", uri=True)
    try:
        harden(connection)
        connection.execute(VIEW)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _register(constants: list[Constant], count: int) -> float:
    """The register after pulse *count*, by the constant in force there."""
    in_force = constants[0]
    for constant in constants:
        if constant.from_count <= count:
            in_force = constant
    return in_force.register_at(count)


def prepare_dir(path: str) -> None:
    """Make the directory *path* for the journal, in which nobody else may write. Raises :exc:`JournalError`."""
    try:
        make_directory(path, private=True)
    except UnsafePathError as error:
        raise JournalError(f"{path}: DATA_DIR can't be used: {error}") from error
    except OSError as error:
        raise JournalError(f"{path}: DATA_DIR can't be made: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise JournalError(
            f"{path}: DATA_DIR can't be written by this user: give it to the user, or set another DATA_DIR"
        )
