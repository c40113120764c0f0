"""The journal for the keeper, which appends to it: pulses, their times, their thinning, and a file that disappears."""

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType, UnionType
from typing import NamedTuple

from powermeter.clock import boot_id
from powermeter.errors import DamagedError, JournalError, StoppedError, UnsafePathError
from powermeter.journal.cursor import Cursor, Position
from powermeter.journal.readings import Drift, Reading, refusal
from powermeter.journal.tables import (
    MAX_COUNT,
    SCHEMA_VERSION,
    SCHEMAS,
    THINNED_TO_NS,
    UNFIT,
    Schema,
    Stopped,
    connect,
    constants_of,
    is_damage,
    is_interrupt,
    make_private,
    schema_of,
    schema_of_version,
    transaction,
)
from powermeter.meter import NS_PER_S, Constant, kwh_of
from powermeter.mounts import file_system
from powermeter.safe_path import make_directory

#: The small tables, which are checked at each start, and the types of their columns.
LOOKED_OVER: Mapping[str, tuple[type | UnionType, ...]] = {
    "meters": (int, str),
    "constants": (int, int, float, float),
    "steps": (int, int),
    "writers": (str, str),
    "cursors": (str, int, int),
    "unsettled": (int, int, int, str),
    "thinned": (int, int),
    "covered": (int, int, int | None),
    "gaps": (int, int, int, str),
    "readings": (int, int, int, float, int, float, int),
    "hourly": (int, int),
    "about": (str, str),
}

#: Those of them that may have any number of rows: somebody may type in a reading every minute.
UNBOUNDED = ("steps", "constants", "gaps", "readings")

#: How many rows of a meter one transaction of thinning examines.
THINNED_AT_ONCE = 5000

#: For entries whose numbers are counts already.
NO_BEGINS: Mapping[str, int] = {}

#: No other table has more rows than this.
MAX_ROWS = 10_000


class Row(NamedTuple):
    """A pulse to keep: its meter's name, its running number, when it came (monotonic, ns), and its interval (ns)."""

    meter: str
    number: int
    at_ns: int
    interval_ns: int | None


class Change(NamedTuple):
    """From the pulse after *number* on, a pulse of *meter* is worth 1 / *impulses_per_kwh* kWh."""

    meter: str
    number: int
    impulses_per_kwh: float


class Face(NamedTuple):
    """
    A reading as it was typed: the face of *meter* showed *kwh* after the pulse *number*, at *time_ns* (UTC, ns).

    It becomes the register, unless it contradicts the previous reading or
    *max_watts* (W). With *force* it is accepted even then, and begins a new base.
    """

    meter: str
    number: int
    time_ns: int
    kwh: float
    decimals: int
    max_watts: float
    force: bool


#: What can be appended, in the order in which it happened.
Entry = Row | Change | Face


@dataclass(frozen=True, slots=True)
class Judged:
    """The result of a *face*: its *reading*, why it was *refused* ("" if not), and the drift since the last one."""

    face: Face
    reading: Reading
    refused: str
    drift: Drift | None


def stopped_error(path: str) -> StoppedError:
    """The error for a stop while the journal at *path* is opened or saved."""
    return StoppedError(f"{path}: stopped before the journal was open: the next start continues there")


def _unfit(path: str, reason: str) -> JournalError:
    kind = file_system(os.path.realpath(path)) or "this file system"
    return JournalError(
        f"{path}: the journal can't be used: {reason} on {kind}: if that is not a local disk, set a DATA_DIR on one"
    )


@dataclass(frozen=True, slots=True)
class MeterRecord:
    """What the journal knows about the meter *name*: the count of its last pulse, and its constant in force."""

    name: str
    count: int
    constant: Constant


def _has_flipped(found: Schema, ours: Schema) -> bool:
    """Whether *found* may be *ours* with damaged bytes, which leave every length unchanged."""
    lengths = [sorted([*map(len, entry)] for entry in schema) for schema in (found, ours)]
    return lengths[0] == lengths[1]


class Journal:
    """
    The journal in the file *path*, which is created if it does not exist.

    A context manager; :meth:`close` may be called twice. *suspect*: damage was
    found in it, so the whole file is checked, which takes as long as reading it;
    *stopped* is called in between, and ends the check if it returns true.
    Raises :exc:`DamagedError` if the file is damaged, :exc:`StoppedError` if
    *stopped* returned true, and :exc:`JournalError` if the file can't be opened
    or belongs to another program.
    """

    def __init__(self, path: str, *, suspect: bool = False, stopped: Stopped | None = None) -> None:
        self.path = path
        self._cursors: list[Cursor] = []
        self._last_times: dict[int, int] = {}
        #: By a meter's key, its constant in force.
        self._constants: dict[int, Constant] = {}
        make_private(path)
        try:
            self._connection = connect(path, stopped)
            try:
                self._prepare()
                self._look_over(whole=suspect)
                self._write_ahead()
                # From here on no call takes long, so none has to be interrupted.
                self._connection.set_progress_handler(None, 0)
            except BaseException:
                self._connection.close()
                raise
        except UnicodeDecodeError as error:  # a table's name that is not text
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
        #: By a meter's name, its key, which differs from file to file.
        self._keys: dict[str, int] = dict(self._connection.execute("SELECT name, meter FROM meters"))
        # It exists since the tables were read.
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
            with transaction(self._connection):
                for schema in SCHEMAS[version:]:
                    for statement in schema.split(";"):
                        self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _write_ahead(self) -> None:
        """Use a write-ahead log from now on; the file records that mode, and a copy for storage may lack it."""
        mode = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise _unfit(self.path, "no write-ahead log")

    def _look_over(self, *, whole: bool) -> None:
        """Read everything but the pulses, and of these the first and the last, so that damage there is found now."""
        for table, types in LOOKED_OVER.items():
            rows = self._connection.execute(f"SELECT * FROM {table}")  # noqa: S608 - our own names
            with contextlib.closing(rows):
                for number, row in enumerate(rows, 1):
                    found = ""
                    if not all(map(isinstance, row, types)) or (table == "constants" and row[2] <= 0):
                        found = f"a row of {table} is {row!r:.200}"
                    elif number > MAX_ROWS and table not in UNBOUNDED:
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

    def enter(self, name: str, impulses_per_kwh: float | None, begin: Constant | None = None) -> MeterRecord:
        """
        Prepare to take pulses of the meter *name*, new or known, with *impulses_per_kwh* from its next pulse on.

        A changed constant gets a new row, so that past pulses keep their energy
        and the register continues from its value. A meter that is new here
        continues from *begin*, if that is given: it was in a journal that is
        lost. If *impulses_per_kwh* is None, the constant stays as it is. Returns
        what is known about the meter. Raises :exc:`sqlite3.Error` if the disk fails.
        """
        with transaction(self._connection):
            self._connection.execute("INSERT OR IGNORE INTO meters (name) VALUES (?)", (name,))
            meter: int = self._connection.execute("SELECT meter FROM meters WHERE name = ?", (name,)).fetchone()[0]
            count, time_ns = self._connection.execute(
                "SELECT count, time_ns FROM read_pulses WHERE meter = ? ORDER BY count DESC LIMIT 1",
                (meter,),
            ).fetchone() or (0, None)
            constants = constants_of(self._connection, meter)
            if not constants and begin is not None:
                constants = [begin]
                self._connection.execute(
                    "INSERT INTO constants VALUES (?, ?, ?, ?)",
                    (meter, begin.from_count, begin.impulses_per_kwh, begin.register_kwh),
                )
            # Even after thinning and losses the last row has the count; if there is no row, a constant has it.
            count = max(count, constants[-1].from_count if constants else 0)
            if impulses_per_kwh is not None and (not constants or constants[-1].impulses_per_kwh != impulses_per_kwh):
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

    def go_back(self, name: str, constant: Constant) -> None:
        """Have the next :meth:`append` begin with *constant* in force, as it repeats an earlier one."""
        self._constants[self._keys[name]] = constant

    def append(
        self,
        entries: Sequence[Entry],
        ahead_ns: int = 0,
        *,
        settled: bool = True,
        begins: Mapping[str, int] = NO_BEGINS,
    ) -> list[Judged]:
        """
        Make *entries*, and every move of a cursor so far, durable in one transaction.

        Each meter's entries come in the order of its count; *begins* has, by the
        meter's name, the count to add to their numbers, if any. *ahead_ns* is how
        far the wall clock is ahead of their clock. Unless *settled*, the wall clock
        is not trusted yet: :meth:`settle` may still shift their times, and no
        writer sees them before. Returns the result of each face among *entries*.
        Raises :exc:`sqlite3.Error` if the disk fails; then all of *entries* must be
        appended again, as nobody knows whether they were saved.
        """
        last_times, unsettled = dict(self._last_times), {} if settled else self._unsettled()
        worth = _Worth(self._connection, dict(self._constants))
        kept, steps, begun = [], [], []
        for entry in entries:
            meter, ahead = self._keys[entry.meter], ahead_ns
            count = begins.get(entry.meter, 0) + entry.number
            if not isinstance(entry, Row):
                worth.take(entry, meter, count)
                continue
            if not settled:
                if meter not in unsettled:
                    unsettled[meter] = ahead_ns
                    begun.append((meter, count - 1, ahead_ns, boot_id()))
                # All use one reading of the clock, so that one shift is right for all.
                ahead = unsettled[meter]
            time_ns = entry.at_ns + ahead
            if time_ns < last_times.get(meter, time_ns):
                steps.append((meter, count))
            last_times[meter] = time_ns
            kept.append((meter, count, time_ns, entry.interval_ns))
        with transaction(self._connection):
            # A commit that failed because the disk hung may have been made after all.
            self._connection.executemany("INSERT INTO pulses VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", kept)
            worth.write()
            if steps:
                self._connection.executemany("INSERT INTO steps VALUES (?, ?) ON CONFLICT DO NOTHING", steps)
            if begun:
                # They replace those of an earlier boot, whose times stay as they are.
                self._connection.executemany("INSERT OR REPLACE INTO unsettled VALUES (?, ?, ?, ?)", begun)
            # Read inside the transaction: a cursor's own commit comes completely before or after it.
            moves = [(cursor, cursor.saved, cursor.save(self._connection)) for cursor in self._cursors]
        self._last_times, self._constants = last_times, worth.constants
        for cursor, saved, position in moves:
            if cursor.saved is saved:
                cursor.saved = position
        return worth.judged

    def begin_cover(self, name: str, count: int | None, since_ns: int) -> None:
        """
        Record that the meter *name* is counted from *since_ns* (UTC, ns) on.

        The time since it was last counted is a gap: it begins at the stop or,
        after a crash, when the meter was last known to be counted, which its pulse
        *count* or its last gap tells. *count* is None if it was counted meanwhile,
        in another file.
        """
        meter = self._keys[name]
        with transaction(self._connection):
            known = self._connection.execute(
                "SELECT since_ns, until_ns, (SELECT max(to_ns) FROM gaps WHERE gaps.meter = covered.meter)"
                " FROM covered WHERE meter = ?",
                (meter,),
            ).fetchone()
            if known is not None:
                begun_ns, stopped_ns, gap_ns = known
                pulse_ns = None if count is None else self._time_of(meter, count)
                if stopped_ns is not None and (pulse_ns is None or pulse_ns <= stopped_ns):
                    self._add_gap(meter, stopped_ns, since_ns, "not running")
                elif count is not None:
                    self._add_gap(meter, max(begun_ns, pulse_ns or 0, gap_ns or 0), since_ns, "crashed")
            self._connection.execute(
                "INSERT INTO covered VALUES (?1, ?2, NULL) ON CONFLICT (meter) DO UPDATE SET until_ns = NULL",
                (meter, since_ns),
            )

    def end_cover(self, name: str, until_ns: int) -> None:
        """Record that the meter *name* was counted until *until_ns* (UTC, ns)."""
        with transaction(self._connection):
            self._connection.execute("UPDATE covered SET until_ns = ? WHERE meter = ?", (until_ns, self._keys[name]))

    def add_gap(self, name: str, from_ns: int, to_ns: int, why: str) -> None:
        """Record that the meter *name* could not be counted from *from_ns* to *to_ns* (UTC, ns), and why."""
        with transaction(self._connection):
            self._add_gap(self._keys[name], from_ns, to_ns, why)

    def _add_gap(self, meter: int, from_ns: int, to_ns: int, why: str) -> None:
        if to_ns > from_ns:  # else the clock was set back
            self._connection.execute("INSERT OR REPLACE INTO gaps VALUES (?, ?, ?, ?)", (meter, from_ns, to_ns, why))

    def about(self) -> dict[str, str]:
        """What the journal knows about itself: its "id", and what was noted with :meth:`note`."""
        return dict(self._connection.execute("SELECT key, value FROM about"))

    def note(self, about: Mapping[str, str]) -> None:
        """Make *about* durable, replacing the values of the same keys. Raises :exc:`sqlite3.Error`."""
        with transaction(self._connection):
            self._connection.executemany("INSERT OR REPLACE INTO about VALUES (?, ?)", about.items())

    def _unsettled(self) -> dict[int, int]:
        of_boot = (boot_id(),)
        return dict(self._connection.execute("SELECT meter, ahead_ns FROM unsettled WHERE boot = ?", of_boot))

    def settle(self, ahead_ns: int) -> int:
        """
        Give pulses that are not settled their times, now that the wall clock is known to be *ahead_ns* ahead.

        Those of an earlier boot of the machine keep theirs: nobody knows how
        far the clock was wrong then. Returns how many pulses were not settled.
        Raises :exc:`sqlite3.Error`; nothing is changed then.
        """
        boot, settled = boot_id(), 0
        with transaction(self._connection):
            for meter, after, was_ns, of_boot in self._connection.execute("SELECT * FROM unsettled").fetchall():
                shift_ns = ahead_ns - was_ns if of_boot == boot else 0
                settled += self._connection.execute(
                    "UPDATE pulses SET time_ns = time_ns + ? WHERE meter = ? AND count > ?", (shift_ns, meter, after)
                ).rowcount
                self._mark_step(meter, after)
            self._connection.execute("DELETE FROM unsettled")
            last_times = {meter: self._time_of(meter, MAX_COUNT) for meter in self._last_times}
        self._last_times = {meter: time_ns for meter, time_ns in last_times.items() if time_ns is not None}
        return settled

    def _mark_step(self, meter: int, after: int) -> None:
        """Record whether time steps back after the pulse *after*, now that later times have changed."""
        pulses = "SELECT count, time_ns FROM read_pulses WHERE meter = ? AND count"
        before = self._connection.execute(f"{pulses} <= ? ORDER BY count DESC LIMIT 1", (meter, after)).fetchone()
        behind = self._connection.execute(f"{pulses} > ? ORDER BY count LIMIT 1", (meter, after)).fetchone()
        if before and behind:
            self._connection.execute("DELETE FROM steps WHERE meter = ? AND count = ?", (meter, behind[0]))
            if behind[1] < before[1]:
                self._connection.execute("INSERT INTO steps VALUES (?, ?)", (meter, behind[0]))

    def _time_of(self, meter: int, count: int) -> int | None:
        """The time of the pulse *count* of *meter*, or of the last stored one before it."""
        row = self._connection.execute(
            "SELECT time_ns FROM read_pulses WHERE meter = ? AND count <= ? ORDER BY count DESC LIMIT 1", (meter, count)
        ).fetchone()
        return None if row is None else int(row[0])

    def thin(self, before_ns: int) -> bool:
        """
        Thin pulses with times before *before_ns* (UTC, ns) to the last one of each quarter of an hour.

        It then stands for the others too, so that energy stays exact. Examines
        at most :data:`THINNED_AT_ONCE` rows of each meter, and returns whether
        there may be more. Raises :exc:`sqlite3.Error`; nothing is changed then.
        """
        more = False
        with transaction(self._connection):
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
        if old < 2:  # the last row that was kept, and nothing old after it
            return self._pass_by(meter, [step for step in sorted(steps) if rows and step > rows[0][0]], before_ns)
        thinned = [
            (meter, count)
            for (count, time_ns), (next_count, next_ns) in itertools.pairwise(rows[:old])
            # The last row before the clock was set back stays: it ends a stretch in which time rises.
            if time_ns // THINNED_TO_NS == next_ns // THINNED_TO_NS and next_count not in steps and time_ns < before_ns
        ]
        self._connection.executemany("DELETE FROM pulses WHERE meter = ? AND count = ?", thinned)
        # The last one is examined again: the next may be in the same quarter.
        self._mark_thinned(meter, rows[old - 1][0] - 1)
        return True

    def _pass_by(self, meter: int, steps: list[int], before_ns: int) -> bool:
        """Skip pulses that a wrong clock put into the future, if old ones come after them."""
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

    def last(self, name: str) -> int:
        """The count of the last pulse of the meter *name*; 0 if it has none."""
        (count,) = self._connection.execute(
            "SELECT max(count) FROM pulses WHERE meter = ?", (self._keys.get(name),)
        ).fetchone()
        return int(count or 0)

    def has_reading(self, face: Face) -> bool:
        """Whether *face* is stored as a reading: a commit that failed may have been made."""
        found = self._connection.execute(
            "SELECT 1 FROM readings WHERE meter = ? AND time_ns = ?", (self._keys.get(face.meter), face.time_ns)
        ).fetchone()
        return found is not None

    def has(self, row: Row, count: int) -> bool:
        """Whether *row* is stored as the pulse *count* of its meter: a commit that failed may have been made."""
        found = self._connection.execute(
            "SELECT interval_ns FROM read_pulses WHERE meter = ? AND count = ?", (self._keys[row.meter], count)
        ).fetchone()
        return bool(found == (row.interval_ns,))

    # --- A file that disappeared while it was used

    @property
    def is_in_place(self) -> bool:
        """Whether the open file is still the one at its path."""
        return _file_at(self.path) == self._file

    @property
    def is_read_only(self) -> bool:
        """Whether its disk is read-only: ext4 then still seems to write to open files, and saves nothing."""
        try:
            return bool(os.statvfs(self.path).f_flag & os.ST_RDONLY)
        except OSError:
            return False

    def can_be_read(self) -> bool:
        """Whether the file at its path can be read: SQLite also calls it damaged if the disk fails."""
        if not self.is_in_place:
            return False
        try:
            for suffix in ("", "-wal"):
                # Opened again, because open files are dead on a disk that disappeared and came back. Closing it drops
                # SQLite's locks on the file, so the caller must open the journal again afterwards.
                with contextlib.suppress(FileNotFoundError), open(self.path + suffix, "rb", buffering=0) as file:
                    while file.read(1 << 20):
                        pass
        except OSError:
            return False
        return True

    def can_be_written_anew(self) -> bool:
        """Whether a new connection can write, as after the disk has recovered."""
        try:
            with contextlib.closing(connect(self.path)) as connection, transaction(connection):
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        except sqlite3.Error:
            return False
        return True

    @property
    def is_deleted(self) -> bool:
        """Whether its path has no file any more, though the directory is still there."""
        return _file_at(self.path) is None and not self.is_elsewhere

    @property
    def is_elsewhere(self) -> bool:
        """Whether its path has no file because another disk is there now."""
        return _file_at(self.path) is None and _device_of(self.path) != (self._file or (None,))[0]

    def take_log_away(self) -> None:
        """
        Remove the files beside it if another file has replaced it: the log would be taken for that file's.

        Those who have them open can still use them.
        """
        if self._log_file is not None and _file_at(self.path + "-wal") == self._log_file:
            for suffix in ("-wal", "-shm"):
                with contextlib.suppress(OSError):
                    os.unlink(self.path + suffix)

    def write_again(self) -> None:
        """
        Write all of it to its path again after it was deleted: it can be read as long as it is open.

        Raises :exc:`sqlite3.Error` or :exc:`OSError`.
        """
        making = self.path + ".making"
        # The files beside the deleted one would be taken for the new one's; others may be left from a crash.
        for name in (self.path + "-wal", self.path + "-shm", making, making + "-journal"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        try:
            make_private(making)
            with contextlib.closing(sqlite3.connect(making)) as copy:
                self._connection.backup(copy)
            # Only now that it is whole and, as SQLite ensures, on the disk.
            os.rename(making, self.path)
        except BaseException:
            for name in (making, making + "-journal"):
                with contextlib.suppress(OSError):
                    os.unlink(name)
            raise

    # --- The writers' side

    def follow(self, cursor: Cursor) -> None:
        """
        Have *cursor* read this file, and make its moves durable with each append.

        A writer that is new to the file begins after the last pulse of each meter.
        """
        with transaction(self._connection):
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

    def forget(self, cursor: Cursor) -> None:
        """No longer save *cursor*'s moves with each append."""
        if cursor in self._cursors:
            self._cursors.remove(cursor)

    def add_cursor(self, writer: str) -> Cursor:
        """Make a cursor for the writer called *writer* that follows this file, and return it."""
        cursor = Cursor(writer)
        self.follow(cursor)
        return cursor


def _file_at(path: str) -> tuple[int, int] | None:
    """The device and inode of the file that the path leads to; None if there is none."""
    try:
        there = os.stat(path)
    except OSError:
        return None
    return there.st_dev, there.st_ino


def _device_of(path: str) -> int | None:
    """The device of the directory of *path*; None if there is none."""
    try:
        return os.stat(os.path.dirname(path)).st_dev
    except OSError:
        return None


class _Worth:
    """The constants in force, by a meter's key, and what one append changes about them."""

    def __init__(self, connection: sqlite3.Connection, constants: dict[int, Constant]) -> None:
        self.constants = constants
        self.judged: list[Judged] = []
        self._connection = connection
        self._changed: list[tuple[int, Constant]] = []
        self._readings: list[tuple[int, Reading]] = []

    def take(self, entry: Change | Face, meter: int, count: int) -> None:
        """Take *entry*, which comes after the pulse *count* of *meter*."""
        in_force = self.constants[meter]
        register_kwh = in_force.register_at(count)
        if isinstance(entry, Change):
            self._change(meter, Constant(entry.impulses_per_kwh, count, register_kwh))
            return
        judged = self._judge(entry, meter, count, register_kwh)
        self.judged.append(judged)
        if not judged.refused:
            self._change(meter, Constant(in_force.impulses_per_kwh, count, entry.kwh))
            self._readings.append((meter, judged.reading))

    def _change(self, meter: int, constant: Constant) -> None:
        self.constants[meter] = constant
        self._changed.append((meter, constant))

    def _judge(self, face: Face, meter: int, count: int, register_kwh: float) -> Judged:
        refused, drift = "", None
        if (before := self._reading_before(face, meter)) is not None:
            refused = refusal(face.kwh, face.decimals, before, face.time_ns, face.max_watts)
            if not refused:
                constants = constants_of(self._connection, meter, since=before.count)
                constants += [of for key, of in self._changed if key == meter]
                drift = Drift(
                    since=before,
                    moved_kwh=face.kwh - before.face_kwh,
                    counted_kwh=kwh_of(constants, before.count, count),
                    impulses_per_kwh=constants[-1].impulses_per_kwh,
                    decimals=face.decimals,
                    uncovered_s=self._uncovered_s(meter, before.time_ns, face.time_ns),
                )
        base = drift is None
        reading = Reading(face.meter, face.time_ns, count, face.kwh, face.decimals, register_kwh, base)
        return Judged(face, reading, "" if face.force else refused, drift)

    def _uncovered_s(self, meter: int, from_ns: int, to_ns: int) -> float:
        """For how long the meter was not counted between the two times, as far as recorded."""
        uncovered_ns, end_ns = 0, from_ns
        for gap in self._connection.execute(
            "SELECT from_ns, to_ns FROM gaps WHERE meter = ?1 AND to_ns > ?2 AND from_ns < ?3 ORDER BY from_ns",
            (meter, from_ns, to_ns),
        ):
            # Gaps may overlap.
            begin_ns, gap_end_ns = max(gap[0], end_ns), min(gap[1], to_ns)
            if gap_end_ns > begin_ns:
                uncovered_ns, end_ns = uncovered_ns + gap_end_ns - begin_ns, gap_end_ns
        return uncovered_ns / NS_PER_S

    def _reading_before(self, face: Face, meter: int) -> Reading | None:
        row = self._connection.execute(
            # By the count, as the clock may have been set back. A reading with the same time is this one: a commit that
            # failed may have been made.
            "SELECT time_ns, count, face_kwh, decimals, register_kwh, base <> 0 FROM readings"
            " WHERE meter = ? AND time_ns <> ? ORDER BY count DESC, time_ns DESC LIMIT 1",
            (meter, face.time_ns),
        ).fetchone()
        before = [Reading(face.meter, *row)] if row else []
        before += [reading for key, reading in self._readings if key == meter]
        return before[-1] if before else None

    def write(self) -> None:
        """Write the changes, within the current transaction."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO constants VALUES (?, ?, ?, ?)",
            [(meter, of.from_count, of.impulses_per_kwh, of.register_kwh) for meter, of in self._changed],
        )
        self._connection.executemany(
            "INSERT OR REPLACE INTO readings VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (meter, of.time_ns, of.count, of.face_kwh, of.decimals, of.register_kwh, of.base)
                for meter, of in self._readings
            ],
        )


def prepare_dir(path: str) -> None:
    """Make the directory *path* for the journal, writable only by this user. Raises :exc:`JournalError`."""
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
