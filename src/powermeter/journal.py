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
import heapq
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from types import TracebackType
from typing import NamedTuple

from powermeter.errors import JournalError
from powermeter.meter import NS_PER_S, Constant, Pulse

#: A row a pulse, 28 bytes of the file with its share of the tree.
#: *constants*: what a meter's pulses are worth from a count on (:class:`Constant`).
#: *steps*: pulses whose time is before their predecessor's, as the clock was set
#: back; between two of them time rises with the count, so that it can be searched.
#: *writers* and *cursors*: :class:`Cursor`.
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
SCHEMA_VERSION = 1

#: How long one connection waits for another's commit, in s: a card may take its time.
BUSY_TIMEOUT_S = 60

#: The page cache of a connection, in KiB. Appending and reading in order touch few
#: pages; SQLite's own 2 MiB would be held once a connection.
CACHE_KIB = 256


class Row(NamedTuple):
    """A pulse as it is kept: its meter and the meter's running count with it, its time (UTC, ns), its interval (ns)."""

    meter: int
    number: int
    time_ns: int
    interval_ns: int | None


@dataclass(frozen=True, slots=True)
class MeterRecord:
    """What the journal knows of a meter: its key, the count of its last pulse, its constant in force."""

    key: int
    count: int
    constant: Constant


def _connect(path: str) -> sqlite3.Connection:
    # Handed from the thread that opens to the one that uses it, never used by two at once.
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        # FULL: a commit is on the disk when it returns. NORMAL loses up to 40 s of them in a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
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

    A context manager; :meth:`close` may be called twice. Raises
    :exc:`JournalError` where the file can't be opened or is none of ours.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._cursors: list[Cursor] = []
        self._last_times: dict[int, int] = {}
        try:
            self._connection = _connect(path)
            try:
                self._prepare()
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            raise JournalError(f"{path}: the journal can't be opened: {error}") from error

    def _prepare(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not self._connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            self._connection.execute("PRAGMA journal_mode = WAL")
            with _transaction(self._connection):
                for statement in SCHEMA.split(";"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            version = SCHEMA_VERSION
        if version != SCHEMA_VERSION:
            raise JournalError(f"{self.path}: not a journal of this version of power (version {version}): move it away")

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

    def meter(self, name: str, impulses_per_kwh: float) -> MeterRecord:
        """
        The meter *name*, new or known, with *impulses_per_kwh* in force from its next pulse on.

        A change of the constant begins a new row, so that past pulses keep
        their energy and the register goes on from where it is.
        """
        with _transaction(self._connection):
            self._connection.execute("INSERT OR IGNORE INTO meters (name) VALUES (?)", (name,))
            meter = self._connection.execute("SELECT meter FROM meters WHERE name = ?", (name,)).fetchone()[0]
            count, time_ns = self._connection.execute(
                "SELECT count, time_ns FROM pulses WHERE meter = ? ORDER BY count DESC LIMIT 1", (meter,)
            ).fetchone() or (0, None)
            constants = _constants(self._connection, meter)
            if not constants or constants[-1].impulses_per_kwh != impulses_per_kwh:
                register_kwh = constants[-1].register_at(count) if constants else 0.0
                constants.append(Constant(impulses_per_kwh, count, register_kwh))
                self._connection.execute(
                    "INSERT OR REPLACE INTO constants VALUES (?, ?, ?, ?)",
                    (meter, count, impulses_per_kwh, register_kwh),
                )
        if time_ns is not None:
            self._last_times[meter] = time_ns
        return MeterRecord(meter, count, constants[-1])

    def append(self, rows: list[Row]) -> None:
        """
        Make *rows*, and every move of a cursor so far, durable in one transaction.

        Each meter's rows come in the order of its count. Raises
        :exc:`sqlite3.Error` where the disk fails; nothing is kept then.
        """
        last_times = dict(self._last_times)
        steps = []
        for row in rows:
            if row.time_ns < last_times.get(row.meter, row.time_ns):
                steps.append((row.meter, row.number))
            last_times[row.meter] = row.time_ns
        with _transaction(self._connection):
            self._connection.executemany("INSERT INTO pulses VALUES (?, ?, ?, ?)", rows)
            if steps:
                self._connection.executemany("INSERT INTO steps VALUES (?, ?)", steps)
            # Read inside the transaction: a cursor that commits by itself comes before it or after it, whole.
            moves = [(cursor, cursor.saved, cursor.save(self._connection)) for cursor in self._cursors]
        self._last_times = last_times
        for cursor, before, position in moves:
            if cursor.saved is before:
                cursor.saved = position

    # --- The writers' side

    def cursor(self, writer: str) -> "Cursor":
        """
        The cursor of the writer *writer*; a new one stands after the last pulse of each meter.

        It knows the meters that :meth:`meter` was asked for before.
        """
        with _transaction(self._connection):
            if not self._connection.execute("SELECT 1 FROM writers WHERE name = ?", (writer,)).fetchone():
                self._connection.execute("INSERT INTO writers VALUES (?, '')", (writer,))
                self._connection.execute(
                    "INSERT INTO cursors SELECT ?, meter, coalesce("
                    "(SELECT max(count) FROM pulses WHERE pulses.meter = meters.meter), 0) FROM meters",
                    (writer,),
                )
        cursor = Cursor(self.path, writer)
        self._cursors.append(cursor)
        return cursor

    def reader(self) -> "Reader":
        """A connection that reads only, for a thread that asks about spans of time."""
        return Reader(self.path)


def _constants(connection: sqlite3.Connection, meter: int) -> list[Constant]:
    return [
        Constant(impulses, count, register)
        for impulses, count, register in connection.execute(
            "SELECT impulses_per_kwh, from_count, register_kwh FROM constants WHERE meter = ? ORDER BY from_count",
            (meter,),
        )
    ]


class Position(NamedTuple):
    """How far a writer is: by meter's key the count it has; and its *place*, which only the writer can read."""

    counts: dict[int, int]
    place: str


class Cursor:
    """
    How far one writer has delivered the journal, and the pulses from there on.

    Used by that writer's thread; but :attr:`position` is replaced whole, so
    that any thread may read it.
    """

    def __init__(self, path: str, writer: str) -> None:
        self.writer = writer
        self._connection = _connect(path)
        (place,) = self._connection.execute("SELECT place FROM writers WHERE name = ?", (writer,)).fetchone()
        counts = dict(self._connection.execute("SELECT meter, count FROM cursors WHERE writer = ?", (writer,)))
        self.position = self.saved = Position(counts, place)
        self._meters = self._known_meters()

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._connection.close()

    def _known_meters(self) -> dict[str, tuple[int, list[Constant]]]:
        return {
            name: (meter, _constants(self._connection, meter))
            for meter, name in self._connection.execute("SELECT meter, name FROM meters").fetchall()
        }

    def read(self, limit: int) -> list[Pulse]:
        """
        The next pulses after the cursor, at most *limit*; fewer only where there are no more.

        Those of one meter come in the order of their count; between meters
        the earlier time goes first.
        """
        streams = [pulses for name in self._meters if (pulses := self._read_meter(name, limit))]
        if len(streams) == 1:
            return streams[0]
        # merge() keeps the order within a stream, whatever its times are.
        return [pulse for pulse, _ in zip(heapq.merge(*streams, key=attrgetter("time_ns")), range(limit), strict=False)]

    def _read_meter(self, name: str, limit: int) -> list[Pulse]:
        meter, constants = self._meters[name]
        after = self.position.counts.get(meter, 0)
        rows = self._connection.execute(
            "SELECT count, time_ns, interval_ns FROM pulses WHERE meter = ? AND count > ? ORDER BY count LIMIT ?",
            (meter, after, limit),
        ).fetchall()
        return _pulses(name, rows, constants)

    def advance(self, delivered: Iterable[Pulse], place: str) -> None:
        """Move past *delivered*; durable with the keeper's next commit."""
        counts = dict(self.position.counts)
        for pulse in delivered:
            counts[self._meters[pulse.meter][0]] = pulse.number
        self.position = Position(counts, place)

    def move(self, place: str) -> None:
        """Note another *place*, durable when this returns. On an error the position is as before."""
        before = self.position
        self.position = Position(before.counts, place)
        try:
            self.commit()
        except sqlite3.Error:
            self.position = before
            raise

    def commit(self) -> None:
        """Make the position durable now."""
        with _transaction(self._connection):
            position = self.save(self._connection)
        self.saved = position

    @property
    def moved(self) -> bool:
        """Whether the position is another than the durable one."""
        return self.position is not self.saved

    def save(self, connection: sqlite3.Connection) -> Position:
        """Write the position in the transaction that *connection* has begun."""
        position, saved = self.position, self.saved
        if position is saved:
            return position
        if position.place != saved.place:
            connection.execute("UPDATE writers SET place = ? WHERE name = ?", (position.place, self.writer))
        connection.executemany(
            "INSERT OR REPLACE INTO cursors VALUES (?, ?, ?)",
            [
                (self.writer, meter, count)
                for meter, count in position.counts.items()
                if saved.counts.get(meter) != count
            ],
        )
        return position


def _pulses(name: str, rows: list[tuple[int, int, int | None]], constants: list[Constant]) -> list[Pulse]:
    """*rows* (count, time, interval) of one meter as pulses, each by the constant in force at its count."""
    pulses: list[Pulse] = []
    ahead = list(constants)
    end = 0  # the last count that *constant* holds for
    for count, time_ns, interval_ns in rows:
        if count > end:
            while len(ahead) > 1 and ahead[1].from_count < count:
                ahead.pop(0)
            constant = ahead[0]
            end = ahead[1].from_count if len(ahead) > 1 else sys.maxsize
            energy_wh = constant.watt_hours
        watts = None if interval_ns is None else constant.mean_watts(1, interval_ns / NS_PER_S)
        pulses.append(Pulse(name, count, time_ns, watts, energy_wh, constant.register_at(count)))
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
            self._connection.execute("COMMIT")

    def last(self, meter: int) -> int:
        """The count of the last pulse of a meter by its key; 0 without one."""
        row = self._connection.execute("SELECT max(count) FROM pulses WHERE meter = ?", (meter,)).fetchone()
        return row[0] or 0

    def span(self, meter: str, from_ns: int, to_ns: int) -> tuple[int, float]:
        """
        Pulses and energy (kWh) of *meter* with times in [*from_ns*, *to_ns*).

        Seeks, no scan: time rises with the count between two steps of the
        clock, so each such run is bisected at both ends.
        """
        row = self._connection.execute("SELECT meter FROM meters WHERE name = ?", (meter,)).fetchone()
        if row is None:
            return 0, 0.0
        (key,) = row
        constants = _constants(self._connection, key)
        pulses, kwh = 0, 0.0
        for first, last in self._runs(key):
            low = self._before(key, first, last, from_ns)
            high = self._before(key, first, last, to_ns)
            if high > low:
                pulses += high - low
                kwh += _register(constants, high) - _register(constants, low)
        return pulses, kwh

    def waiting(self, position: Position) -> tuple[int, int | None]:
        """How many pulses stand after *position*, and the time of the oldest (UTC, ns), None without one."""
        waiting, oldest = 0, []
        # max() over a keyed prefix is one seek; the pulses are not counted one by one.
        for meter, last in self._connection.execute(
            "SELECT meter, (SELECT max(count) FROM pulses WHERE meter = meters.meter) FROM meters"
        ).fetchall():
            delivered = position.counts.get(meter, 0)
            if last is not None and last > delivered:
                waiting += last - delivered
                oldest += self._connection.execute(
                    "SELECT time_ns FROM pulses WHERE meter = ? AND count > ? ORDER BY count LIMIT 1",
                    (meter, delivered),
                ).fetchone()
        return waiting, min(oldest, default=None)

    def _time_of(self, meter: int, count: int) -> int | None:
        """The time (UTC, ns) of a pulse by its meter's key; None if the journal does not have it."""
        row = self._connection.execute(
            "SELECT time_ns FROM pulses WHERE meter = ? AND count = ?", (meter, count)
        ).fetchone()
        return None if row is None else int(row[0])

    def _runs(self, meter: int) -> list[tuple[int, int]]:
        """The stretches of the count, both ends in, within which time rises."""
        first, last = self._connection.execute(
            "SELECT (SELECT min(count) FROM pulses WHERE meter = ?1), (SELECT max(count) FROM pulses WHERE meter = ?1)",
            (meter,),
        ).fetchone()
        if first is None:
            return []
        steps = [
            n
            for (n,) in self._connection.execute(
                "SELECT count FROM steps WHERE meter = ? AND count > ? ORDER BY count", (meter, first)
            )
        ]
        return list(zip([first, *steps], [*(step - 1 for step in steps), last], strict=True))

    def _before(self, meter: int, first: int, last: int, time_ns: int) -> int:
        """The count of the last pulse of the run *first* to *last* before *time_ns*; *first* - 1 if there is none."""
        low, high = first - 1, last
        while low < high:
            middle = (low + high + 1) // 2
            found = self._time_of(meter, middle)
            if found is not None and found < time_ns:
                low = middle
            else:
                high = middle - 1
        return low


def _register(constants: list[Constant], count: int) -> float:
    """The register after pulse *count*, by the constant in force there."""
    in_force = constants[0]
    for constant in constants:
        if constant.from_count <= count:
            in_force = constant
    return in_force.register_at(count)


def prepare_dir(path: str) -> None:
    """Make the directory *path* for the journal, closed to others. Raises :exc:`JournalError`."""
    try:
        os.makedirs(path, mode=0o750, exist_ok=True)
    except OSError as error:
        raise JournalError(f"{path}: DATA_DIR can't be made: {error.strerror}") from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise JournalError(
            f"{path}: DATA_DIR can't be written by this user: give it to the user, or set another DATA_DIR"
        )
