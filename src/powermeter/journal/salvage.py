"""
A damaged journal: it is set aside, never overwritten, and a new one continues from what can be read of it.

Saving all of a large file would take too long. The new journal gets the meters
and their registers, the cursors, the pulses that a writer does not have yet, and
the latest ones; the others stay in the file that was set aside. This takes as
long as reading the file twice, many minutes on a slow card. The progress is
noted in the new file: if the program is killed, the next start continues from
there.
"""

import contextlib
import functools
import json
import logging
import os
import shutil
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any

from powermeter.errors import DamagedError, JournalError, StoppedError
from powermeter.journal.journal import LOOKED_OVER, Journal, stopped_error
from powermeter.journal.tables import (
    MAX_LENGTH,
    SCHEMA_VERSION,
    SCHEMAS,
    STEPS,
    Stopped,
    harden,
    is_interrupt,
    open_private,
    schema_of,
    schema_of_version,
)
from powermeter.meter import Constant

log = logging.getLogger(__name__)

#: The suffix of a new journal that is complete but not in its place yet.
NEW = ".new"

#: The suffix of a copy that is made for reading.
COPY = ".copy"

#: No table that is read whole may have more rows: 30 years with a reading every quarter of an hour.
MAX_SAVED = 1_000_000

#: The tables that are copied as they are.
WHOLE = ("unsettled", "covered", "gaps", "readings", "hourly", "about")

#: How many of a meter's latest pulses are saved even if all writers have them: some days' worth for a household.
LATEST = 50_000

# SQLite's file format (https://sqlite.org/fileformat.html).
#: The size of a page; and the offsets in the first page of the number of pages, the list of free pages, and the two
#: copies of the change counter.
PAGE = 4096
SIZE, FREE, CHANGES, CHANGES_AGAIN = slice(28, 32), slice(32, 40), slice(24, 28), slice(92, 96)
#: By the first byte of a page of an index tree, for leaves and inner pages: where the list of cells begins, and the
#: number of bytes before the row in each cell.
LEAF = 0x0A
CELLS = {LEAF: (8, 0), 0x02: (12, 4)}
#: The number of bytes before each page in the log, and before the first frame there.
FRAME = 24
LOG = 32
#: The number of bytes of an integer, by its serial type; types 8 and 9 are the values 0 and 1.
INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}

#: No meter has flashed this often: 30 years at 1,000 per second.
MAX_PULSES = 10**12

#: After how many pages the progress is noted: some 8 MB.
NOTED_PAGES = 2048

#: How many bytes are copied at a time: even a slow card does that within a second.
COPIED = 1 << 20

#: A row of the table pulses: meter, count, time and interval.
Saved = tuple[int, int, int, int | None]

#: The notes of the progress, as JSON; the longest has everything that was found except the pulses.
NOTES = "CREATE TABLE salvage (key TEXT PRIMARY KEY, value TEXT)"
MAX_NOTE = 64 * 1024 * 1024


def open_journal(
    path: str,
    meters: Mapping[str, float],
    *,
    suspect: bool = False,
    save: bool = True,
    stopped: Stopped = lambda: False,
) -> Journal:
    """
    The journal in the file *path*; if it is damaged, a new one in its place with what can be read of it.

    That may take minutes: unless *save*, :exc:`DamagedError` is raised instead.
    *meters* has the impulses per kWh of the settings' meters, by name, in case
    these can't be read from the file. While a damaged file is read, *stopped* is
    called at least once per page; if it returns true, :exc:`StoppedError` is
    raised, and the next call continues from there. Raises :exc:`JournalError`.
    """
    try:
        _finish(path)
    except OSError as error:
        raise JournalError(f"{path}: the new one can't be put in its place: {error}") from error
    try:
        return Journal(path, suspect=suspect, stopped=stopped)
    except DamagedError as error:
        if not save:
            raise
        going = _Going(path, stopped)
        try:
            _replace(path, meters, error, going)
        except StoppedError:
            raise
        except (OSError, sqlite3.Error) as failed:
            going.raise_if_interrupted(failed)
            raise JournalError(f"{error}; a new one can't be made: {failed}: move it away") from failed
    return Journal(path, stopped=stopped)


@dataclass(frozen=True, slots=True)
class _Going:
    """Whether the saving of the journal *path* may go on."""

    path: str
    stopped: Stopped

    def on(self) -> None:
        """Raise :exc:`StoppedError` if it must end."""
        if self.stopped():
            raise stopped_error(self.path)

    def raise_if_interrupted(self, error: Exception) -> None:
        """Raise :exc:`StoppedError` if *error* was caused by a stop."""
        if isinstance(error, sqlite3.Error) and is_interrupt(error):
            raise stopped_error(self.path) from error

    def connect(self, path: str, *, uri: bool = False, max_length: int = MAX_LENGTH) -> sqlite3.Connection:
        """A connection that distrusts its file, and whose calls a stop interrupts."""
        connection = sqlite3.connect(path, isolation_level=None, uri=uri)
        connection.set_progress_handler(self.stopped, STEPS)
        harden(connection, max_length)
        return connection


def _replace(path: str, meters: Mapping[str, float], error: DamagedError, going: _Going) -> None:
    making = path + ".making"
    if not _is_begun(making, path, going):
        for name in (making, making + "-journal", making + "-wal", making + "-shm", path + COPY):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        Journal(making).close()
    with contextlib.closing(going.connect(making, max_length=MAX_NOTE)) as new:
        notes = _Notes(new, path, going)
        if (found := notes.found()) is None:
            with _readable(path, going) as old:
                found = _Found.of(old, path, meters, notes)
            notes.found_is(found)
        messages = found.write(new, path, notes)
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    os.rename(making, path + NEW)
    aside = _finish(path)
    # Logged only once it is done, as it may be tried again and again.
    log.error("journal: %s", error)
    for line in messages:
        log.error("journal: %s; older ones stay in %s", line, aside)
    for writer in found.lost:
        log.error("journal: the position of %s can't be read: it gets only pulses from now on", writer)
    if not messages:
        log.error("journal: nothing in it could be read, counting starts again from 0; it was set aside as %s", aside)


# --- The progress, so that the next start can continue if the program is killed


def _identity(path: str) -> str:
    """What identifies the file at *path* and its state."""
    states = []
    for name in (path, path + "-wal"):
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(name)
            states.append([found.st_size, found.st_mtime_ns])
    return json.dumps(states)


def _is_begun(making: str, path: str, going: _Going) -> bool:
    """Whether the file *making* is a new journal that was begun from the file that is at *path* now."""
    if not os.path.exists(making):
        return False
    try:
        with contextlib.closing(going.connect(making, max_length=MAX_NOTE)) as new:
            if schema_of(new) != schema_of_version(SCHEMA_VERSION, NOTES):
                return False
            row = new.execute("SELECT value FROM salvage WHERE key = 'source'").fetchone()
    except sqlite3.Error as error:
        going.raise_if_interrupted(error)
        return False
    return bool(row == (_identity(path),))


class _Notes:
    """
    The progress, in a table of the new journal that is removed at the end; and whether saving may go on.

    Everything between two notes is in one transaction with the second note.
    """

    def __init__(self, new: sqlite3.Connection, path: str, going: _Going) -> None:
        self._new = new
        self.going = going
        if schema_of(new) == schema_of_version(SCHEMA_VERSION):
            new.execute(NOTES)
        new.execute("INSERT OR IGNORE INTO salvage VALUES ('source', ?)", (_identity(path),))
        new.execute("BEGIN")

    def note(self, key: str, value: Any) -> None:
        self._new.execute("INSERT OR REPLACE INTO salvage VALUES (?, ?)", (key, json.dumps(value)))
        self._new.execute("COMMIT")
        self._new.execute("BEGIN")

    def get(self, key: str, default: Any) -> Any:
        row = self._new.execute("SELECT value FROM salvage WHERE key = ?", (key,)).fetchone()
        return default if row is None else json.loads(row[0])

    def pages(self, path: str, key: str, state: Callable[[], Any] = lambda: None) -> Iterator["_Page"]:
        """The pages of *path* after those that *key* notes as done; the note is kept up to date, with *state*."""
        begin, _ = self.get(key, (0, None))
        for number, page in enumerate(_pages(path, begin), begin):
            self.going.on()
            if page:
                yield page
            if (number + 1) % NOTED_PAGES == 0:
                self.note(key, (number + 1, state()))

    def found(self) -> "_Found | None":
        return None if (noted := self.get("found", None)) is None else _Found.noted(noted)

    def found_is(self, found: "_Found") -> None:
        self.note("found", asdict(found))

    def end(self) -> None:
        """Commit the rest, and remove the notes."""
        self._new.execute("DROP TABLE salvage")
        self._new.execute("COMMIT")


def _finish(path: str) -> str | None:
    """Set the damaged journal aside if a new one is complete, and put that in its place; return the old one's name."""
    if not os.path.exists(path + NEW):
        return None
    aside = f"{path}.damaged-{time.strftime('%Y-%m-%dT%H-%M-%S')}"
    number = 1
    while os.path.exists(aside):
        number += 1
        aside = f"{path}.damaged-{time.strftime('%Y-%m-%dT%H-%M-%S')}-{number}"
    # The log belongs to the old file, and would be taken for the new one's; SQLite makes its index again.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path + "-shm")
    with contextlib.suppress(FileNotFoundError):
        if not os.path.getsize(path + "-wal"):
            os.unlink(path + "-wal")
    for suffix in ("-wal", ""):
        with contextlib.suppress(FileNotFoundError):
            os.rename(path + suffix, aside + suffix)
    os.rename(path + NEW, path)
    fd = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return aside


@contextlib.contextmanager
def _readable(path: str, going: _Going) -> Iterator[sqlite3.Connection]:
    """The damaged file, for reading; if its first page is damaged, a copy with the first page of a new journal."""
    copy = path + COPY
    try:
        connection = _read_only(path, going)
        if not _is_ours(connection, going):
            connection.close()
            _graft(path, copy, going)
            connection = _read_only(copy, going)
        with contextlib.closing(connection):
            yield connection
    except StoppedError:
        raise  # the next start continues with the copy
    except BaseException:
        _remove_copy(copy)
        raise
    _remove_copy(copy)


def _remove_copy(copy: str) -> None:
    for name in (copy, copy + "-wal", copy + "-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _read_only(path: str, going: _Going) -> sqlite3.Connection:
    from urllib.request import pathname2url

    return going.connect(f"file:{pathname2url(path)}?mode=ro", uri=True)


def _is_ours(connection: sqlite3.Connection, going: _Going) -> bool:
    """Whether the schema can be read and is a journal's: nothing is read from another one."""
    try:
        found = schema_of(connection)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        going.raise_if_interrupted(error)
        return False
    return any(found == schema_of_version(version) for version in range(1, len(SCHEMAS) + 1))


def _graft(path: str, copy: str, going: _Going) -> None:
    with (
        contextlib.suppress(FileNotFoundError),
        open(path + "-wal", "rb") as old,
        open(copy + "-wal", "wb", opener=open_private) as file,
    ):
        shutil.copyfileobj(old, file)
    # An earlier start may have copied a part of it.
    with open(path, "rb") as old, open(copy, "ab", opener=open_private) as file:
        old.seek(file.tell())
        while content := old.read(COPIED):
            file.write(content)
            going.on()
    fresh = copy + ".fresh"
    try:
        Journal(fresh).close()
        with open(fresh, "rb") as file:
            first = bytearray(file.read(PAGE))
    finally:
        for name in (fresh, fresh + "-wal", fresh + "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
    with open(copy, "r+b") as file:
        pages = os.path.getsize(copy) // PAGE
        first[SIZE] = pages.to_bytes(4)
        first[FREE] = bytes(8)
        first[CHANGES_AGAIN] = first[CHANGES]
        file.write(first)


@dataclass(slots=True)
class _Found:
    """What could be read of a damaged journal, except its pulses."""

    #: By the meter's key: its name, its constants, the count of its last pulse.
    names: dict[int, str]
    constants: dict[int, list[Constant]]
    lasts: dict[int, int]
    #: By the writer's name: its place, and its counts by the meter's key.
    places: dict[str, str]
    counts: dict[str, dict[int, int]]
    #: By the name of a table: its rows, which are copied as they are.
    whole: dict[str, list[tuple[Any, ...]]]

    @classmethod
    def noted(cls, noted: dict[str, Any]) -> "_Found":
        """Restore one from what :func:`dataclasses.asdict` and JSON have made of it."""
        return cls(
            {int(meter): name for meter, name in noted["names"].items()},
            {int(meter): [Constant(**of) for of in constants] for meter, constants in noted["constants"].items()},
            {int(meter): last for meter, last in noted["lasts"].items()},
            noted["places"],
            {name: {int(meter): n for meter, n in of.items()} for name, of in noted["counts"].items()},
            {table: [tuple(row) for row in rows] for table, rows in noted["whole"].items()},
        )

    @classmethod
    def of(cls, old: sqlite3.Connection, path: str, meters: Mapping[str, float], notes: _Notes) -> "_Found":
        # Keys are given in the order in which the settings name the meters.
        rows = functools.partial(_rows, old, notes.going)
        names = dict(rows("SELECT meter, name FROM meters", int, str)) or dict(enumerate(meters, 1))
        constants: dict[int, list[Constant]] = {}
        for meter, count, impulses, register in rows(
            "SELECT meter, from_count, impulses_per_kwh, register_kwh FROM constants WHERE impulses_per_kwh > 0"
            " ORDER BY meter, from_count",
            *(int, int, float, float),
        ):
            constants.setdefault(meter, []).append(Constant(impulses, count, register))
        counts: dict[str, dict[int, int]] = {}
        for writer, meter, count in rows("SELECT writer, meter, count FROM cursors", str, int, int):
            counts.setdefault(writer, {})[meter] = count
        # A table that an older version's file does not have can't be read, and counts as empty.
        whole = {table: rows(f"SELECT * FROM {table}", *LOOKED_OVER[table]) for table in WHOLE}  # noqa: S608 - our own
        if not whole["covered"]:  # an older version's file, thinned to one pulse per hour
            whole["hourly"] = rows("SELECT meter, to_count FROM thinned", int, int)
        _, known_lasts = notes.get("lasts", (0, None))
        lasts = dict.fromkeys(names, 0) | {int(meter): last for meter, last in (known_lasts or {}).items()}
        for page in notes.pages(path, "lasts", lambda: lasts):
            for meter, last in lasts.items():
                lasts[meter] = max(last, page.last_of(meter))
        for meter, name in names.items():
            if name in meters:
                constants.setdefault(meter, [Constant(meters[name])])
            known = [of_writer.get(meter, 0) for of_writer in counts.values()]
            known += [constant.from_count for constant in constants.get(meter, [])]
            known += [count for key, count, *_ in whole["unsettled"] if key == meter]
            lasts[meter] = max([lasts[meter], *known])
        return cls(names, constants, lasts, dict(rows("SELECT name, place FROM writers", str, str)), counts, whole)

    @property
    def lost(self) -> list[str]:
        """The writers whose positions are lost."""
        return [writer for writer in self.places if writer not in self.counts]

    def write(self, new: sqlite3.Connection, path: str, notes: _Notes) -> list[str]:
        """Write it to *new*, with the wanted pulses from the file *path*; return a message for each meter."""
        wanted: dict[int, tuple[int, int]] = {}
        for meter, name in self.names.items():
            # If nothing is known about a meter, the running program may know more.
            if meter not in self.constants or not self.lasts[meter]:
                continue
            new.execute("INSERT OR IGNORE INTO meters VALUES (?, ?)", (meter, name))
            last = self.lasts[meter]
            waiting = [of_writer[meter] for of_writer in self.counts.values() if meter in of_writer]
            after = max(min([*waiting, last - LATEST]), self.constants[meter][0].from_count)
            for constant in _from(self.constants[meter], after):
                new.execute(
                    "INSERT OR IGNORE INTO constants VALUES (?, ?, ?, ?)",
                    (meter, constant.from_count, constant.impulses_per_kwh, constant.register_kwh),
                )
            wanted[meter] = after, last
        for page in notes.pages(path, "saved"):
            for meter, (after, last) in wanted.items():
                # A later version of a page, in the log, comes after the earlier one.
                new.executemany(
                    "INSERT OR REPLACE INTO pulses VALUES (?, ?, ?, ?)",
                    [pulse for pulse in page.pulses(meter, after) if pulse[1] <= last],
                )
        messages = []
        for meter, (after, last) in wanted.items():
            saved = _mark_steps(new, meter)
            in_force = _in_force(self.constants[meter], last)
            register = in_force.register_at(last)
            if not new.execute("SELECT 1 FROM pulses WHERE meter = ? AND count = ?", (meter, last)).fetchone():
                # The count continues from here, though the pulse itself is lost.
                new.execute(
                    "INSERT OR REPLACE INTO constants VALUES (?, ?, ?, ?)",
                    (meter, last, in_force.impulses_per_kwh, register),
                )
            name = self.names[meter]
            messages.append(
                f"{name} goes on from {register:.3f} kWh; of its last {last - after:,} pulses {saved:,} could be saved"
            )
        # Other writers begin as new ones do, after the last pulse: from 0 they would get every saved pulse again.
        for writer, of_writer in self.counts.items():
            new.execute("INSERT INTO writers VALUES (?, ?)", (writer, self.places.get(writer, "")))
            new.executemany("INSERT INTO cursors VALUES (?, ?, ?)", [(writer, *count) for count in of_writer.items()])
        for table, rows in self.whole.items():
            places = ", ".join("?" * len(LOOKED_OVER[table]))
            # The old journal's id replaces the one that the new journal was created with.
            new.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({places})", rows)  # noqa: S608 - our own
        notes.end()
        return messages


def _rows(connection: sqlite3.Connection, going: _Going, query: str, *types: type | UnionType) -> list[tuple[Any, ...]]:
    """The rows of *query* whose columns have *types*, up to the first row that can't be read, at most MAX_SAVED."""
    rows: list[tuple[Any, ...]] = []
    try:
        for row in connection.execute(f"{query} LIMIT {MAX_SAVED}"):
            if all(map(isinstance, row, types)):
                rows.append(row)  # noqa: PERF401 - those before the damage are kept
    except (sqlite3.Error, UnicodeDecodeError) as error:
        going.raise_if_interrupted(error)
        log.debug("journal: %s: %s", query, error)
    return rows


def _from(constants: list[Constant], after: int) -> list[Constant]:
    """Those of *constants* that apply after the count *after*, the first beginning there."""
    in_force = _in_force(constants, after)
    begin = Constant(in_force.impulses_per_kwh, after, in_force.register_at(after))
    return [begin, *(constant for constant in constants if constant.from_count > after)]


def _in_force(constants: list[Constant], count: int) -> Constant:
    return [constants[0], *(constant for constant in constants[1:] if constant.from_count <= count)][-1]


def _mark_steps(new: sqlite3.Connection, meter: int) -> int:
    """Record where time steps back between the pulses of a meter; return how many pulses there are."""
    saved, time_before = 0, None
    for count, time_ns in new.execute("SELECT count, time_ns FROM pulses WHERE meter = ? ORDER BY count", (meter,)):
        if time_before is not None and time_ns < time_before:
            new.execute("INSERT INTO steps VALUES (?, ?)", (meter, count))
        saved, time_before = saved + 1, time_ns
    return saved


# --- Pulses read directly from their pages, even if the pages that lead there are damaged


@dataclass(frozen=True, slots=True)
class _Page:
    """A page of pulses: where each pulse begins, and the keys (meter, count) of the first and the last."""

    content: bytes
    cells: tuple[int, ...]
    first: tuple[int, int]
    last: tuple[int, int]

    def pulses(self, meter: int, after: int) -> Iterator[Saved]:
        """The pulses of a meter after the count *after*, except those that are out of order."""
        if self.last < (meter, after) or meter < self.first[0]:
            return
        before = (0, 0)
        for cell in self.cells:
            pulse = _pulse(self.content, cell)
            if pulse and pulse[:2] > before:
                before = pulse[:2]
                if pulse[0] == meter and pulse[1] > after:
                    yield pulse

    def last_of(self, meter: int) -> int:
        """The last count of a meter in the page; 0 if it has none."""
        if self.last[0] == meter:
            return self.last[1]
        counts = [pulse[1] for pulse in self.pulses(meter, 0)]
        # Not trusted, as in _page().
        if self.content[0] == LEAF and len(counts) > 1 and counts[-1] != counts[-2] + 1:
            counts.pop()
        return max(counts, default=0)


def _pages(path: str, begin: int = 0) -> Iterator[_Page | None]:
    """
    The pages in the file *path*, and then those in its log, from number *begin* on; None for a page without pulses.

    Read each time, as a large file would not fit into the memory of a small Pi.
    """
    with open(path, "rb") as file:
        pages = os.fstat(file.fileno()).st_size // PAGE
        file.seek(begin * PAGE)
        while len(content := file.read(PAGE)) == PAGE:
            yield _page(content)
    with contextlib.suppress(FileNotFoundError), open(path + "-wal", "rb") as file:
        salts = file.read(LOG)[16:24]
        file.seek(LOG + max(0, begin - pages) * (FRAME + PAGE))
        while len(frame := file.read(FRAME + PAGE)) == FRAME + PAGE:
            # After the frames of this log there may be frames of an earlier one.
            yield _page(frame[FRAME:]) if frame[8:16] == salts else None


def _page(content: bytes) -> _Page | None:
    if content[0] not in CELLS:
        return None
    begin, skip = CELLS[content[0]]
    number = min(int.from_bytes(content[3:5]), (PAGE - begin) // 2)
    cells = tuple(cell + skip for cell in struct.unpack_from(f">{number}H", content, begin))
    keys = [pulse[:2] for cell in (*cells[:1], *cells[-2:]) if (pulse := _pulse(content, cell))]
    if not keys:
        return None
    last = keys[-1]
    # If the last count does not follow the one before it, it may be damaged: the one before is trusted instead.
    if content[0] == LEAF and len(keys) > 1 and keys[-2] < last != (keys[-2][0], keys[-2][1] + 1):
        last = keys[-2]
    return _Page(content, cells, keys[0], last)


def _pulse(content: bytes, cell: int) -> Saved | None:
    """The pulse in the cell of a page that begins at *cell*; None if there is none."""
    try:
        # The size of the payload, the size of its header, and four serial types: one byte each, as all are small.
        if content[cell + 1] != 5:
            return None
        at, values = cell + 6, []
        for kind in content[cell + 2 : cell + 6]:
            size = INTEGERS.get(kind, -1)
            if kind and (size < 0 or at + size > PAGE):
                return None
            values.append(
                None if not kind else kind - 8 if not size else int.from_bytes(content[at : at + size], signed=True)
            )
            at += max(size, 0)
    except IndexError:
        return None
    meter, count, time_ns, interval_ns = values
    if meter is None or count is None or time_ns is None or not (0 < meter < 2**16 and 0 < count < MAX_PULSES):
        return None
    return meter, count, time_ns, interval_ns if interval_ns is None or interval_ns > 0 else None
