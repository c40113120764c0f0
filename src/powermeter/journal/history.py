"""Answers questions about time spans from the journal, with index seeks on a read-only connection."""

import bisect
import contextlib
import functools
import itertools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, TypeVar

from powermeter.errors import JournalError
from powermeter.journal.cursor import Position
from powermeter.journal.readings import Reading
from powermeter.journal.tables import (
    MAX_COUNT,
    SCHEMA_VERSION,
    SQLITE_CORRUPT,
    THINNED_TO_NS,
    VIEW,
    address_of,
    constants_of,
    harden,
    is_damage,
    pulses_of,
    schema_of,
    schema_of_version,
)
from powermeter.meter import NS_PER_S, Constant, Pulse, kwh_of

#: Older versions thinned old pulses to one per this time, in ns.
HOUR_NS = 3600 * NS_PER_S

#: How long an answer waits for a lock, in s. A commit needs no lock that a reader holds.
BUSY_TIMEOUT_S = 2

#: How many times an answer is tried if the file changes meanwhile, which means that a program started or stopped.
TRIES = 5

#: How many rows may be read one after another instead of one more seek.
ROWS_AT_ONCE = 200

#: How many spans are answered in one read: with days, that takes half a second on the slowest Pi.
SPANS_AT_ONCE = 2000

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Energy:
    """
    What was counted in a span: its pulses, and their energy in kWh.

    It is *approximate* if an end of the span lies among pulses that are no
    longer stored one by one, so that their times are estimates.
    """

    pulses: int
    kwh: float
    approximate: bool


@dataclass(frozen=True, slots=True)
class Peak:
    """The highest mean power (W) over a quarter of an hour by the clock, and when that began (UTC, ns)."""

    watts: float
    from_ns: int


@dataclass(frozen=True, slots=True)
class Gap:
    """A time [*from_ns*, *to_ns*) (UTC) in which nothing was counted: "not running", "crashed", "input at fault"."""

    from_ns: int
    to_ns: int
    why: str


class _Row(NamedTuple):
    """A row of the table pulses: its count and time (UTC, ns)."""

    number: int
    time_ns: int


class _Run(NamedTuple):
    """Rows from *first* to *last*, within which time rises; they stand for the pulses after the count *after*."""

    after: int
    first: _Row
    last: _Row


class _Meter(NamedTuple):
    """A meter's key, its constants, and up to which counts its pulses were thinned: at all, and to one per hour."""

    key: int
    constants: list[Constant]
    thinned: int
    hourly: int


class _State(NamedTuple):
    """
    The state of the file at a journal's path: which file it is, and what changes with its content.

    *shared*: a program has it open, or has left its log behind.
    """

    file: tuple[int, int]
    content: tuple[int, int, int]
    shared: bool

    @classmethod
    def of(cls, path: str) -> "_State | None":
        """The state of the journal at *path*; None if there is no file."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        try:
            log = os.stat(path + "-wal").st_size
        except OSError:
            log = -1
        shared = log > 0 or (log == 0 and os.path.exists(path + "-shm"))
        return cls((found.st_dev, found.st_ino), (found.st_size, found.st_mtime_ns, log), shared)


class History:
    """
    Answers questions about time spans from the journal at *path*, whether or not a program is running. For one thread.

    Every method gives one answer as of one moment, except for very many spans.
    Between the calls no lock is held, and nothing is ever written. A context
    manager; :meth:`close` may be called twice. Raises :exc:`JournalError` if the
    file is not a journal of this version and, as every method does,
    :exc:`sqlite3.Error` if it can't be read.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        #: The state of the file when it was opened.
        self._state: _State | None = None
        self._in_snapshot = False
        with self.snapshot():
            pass

    def __enter__(self) -> "History":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; may be called twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- The connection

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[None]:
        """
        Everything that is read within is as of one moment.

        Within it no answer is tried again: if a program opens a closed journal
        meanwhile, this raises :exc:`sqlite3.OperationalError`.
        """
        connection = self._connected()
        connection.execute("BEGIN")
        self._in_snapshot = True
        try:
            yield
        finally:
            self._in_snapshot = False
            with contextlib.suppress(sqlite3.Error):  # a read that failed may have ended it
                connection.execute("COMMIT")
        if self._is_outdated():
            raise sqlite3.OperationalError("the journal changed while it was read")

    def _answer(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """The result of *question*, all of it as of one moment."""
        if self._in_snapshot:
            return question(self._connected())
        for _ in range(TRIES - 1):
            try:
                with self.snapshot():
                    return question(self._connected())
            except (sqlite3.Error, JournalError):
                # Whatever is read from a file while it changes is meaningless, even an error for damage.
                if not self._is_outdated():
                    raise
        with self.snapshot():
            return question(self._connected())

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None or (not self._in_snapshot and self._is_outdated()):
            self.close()
            self._state = _State.of(self._path)
            self._connection = _connect(self._path, shared=self._state is not None and self._state.shared)
        return self._connection

    def _is_outdated(self) -> bool:
        """Whether another file is at the path, or the file, which no program had open, has changed since."""
        if self._state is None:
            return True
        if (now := _State.of(self._path)) is None:
            return not self._state.shared
        return now.file != self._state.file if self._state.shared else now != self._state

    # --- Meters

    def meters(self) -> list[str]:
        """The names of all meters that ever counted here, in the order of their keys."""
        return self._answer(
            lambda connection: [name for (name,) in connection.execute("SELECT name FROM meters ORDER BY meter")]
        )

    def last(self, meter: str) -> int:
        """The count of the last pulse of *meter*; 0 if it has none."""

        def find(connection: sqlite3.Connection) -> int:
            (count,) = connection.execute(
                "SELECT max(count) FROM pulses WHERE meter = (SELECT meter FROM meters WHERE name = ?)", (meter,)
            ).fetchone()
            return int(count or 0)

        return self._answer(find)

    def constants(self, meter: str) -> list[Constant]:
        """The constants of *meter*, in the order of their counts; empty if not known."""
        found = self._answer(lambda connection: _meter(connection, meter))
        return found.constants if found else []

    def about(self) -> dict[str, str]:
        """What the journal knows about itself: its "id", and what was noted in it."""
        return self._answer(lambda connection: dict(connection.execute("SELECT key, value FROM about")))

    def begins_ns(self, meter: str) -> int | None:
        """When the record of *meter* begins (UTC, ns): with its first pulse, or before it; None if there is none."""

        def find(connection: sqlite3.Connection) -> int | None:
            key = _key_of(connection, meter)
            found = connection.execute("SELECT since_ns FROM covered WHERE meter = ?", (key,)).fetchall()
            found += connection.execute(
                "SELECT time_ns FROM read_pulses WHERE meter = ? ORDER BY count LIMIT 1", (key,)
            ).fetchall()
            return min((int(time_ns) for (time_ns,) in found), default=None)

        return self._answer(find)

    def readings(self, limit: int) -> list[Reading]:
        """The last readings of all meters, at most *limit*, the newest first."""
        return self._answer(
            lambda connection: [
                Reading(meter, time_ns, count, face_kwh, decimals, register_kwh, bool(base))
                for meter, time_ns, count, face_kwh, decimals, register_kwh, base in connection.execute(
                    "SELECT name, time_ns, count, face_kwh, decimals, register_kwh, base"
                    " FROM readings NATURAL JOIN meters ORDER BY time_ns DESC, meter LIMIT ?",
                    (limit,),
                )
            ]
        )

    # --- Spans

    def span(self, meter: str, from_ns: int, to_ns: int) -> Energy:
        """What *meter* counted with times in [*from_ns*, *to_ns*) (UTC)."""
        return self.energy(meter, [from_ns, to_ns])[0]

    def energy(self, meter: str, times_ns: Sequence[int]) -> list[Energy]:
        """
        What *meter* counted between each of *times_ns* (UTC), which rise, and the next.

        It seeks and does not scan: time rises with the count between two steps
        of the clock, so each such run is searched for those times that lie in
        it. The energy is that of the pulses, by the constant in force at each; a
        reading sets the register and adds no energy.
        """
        found: list[Energy] = []
        # A slow machine takes seconds for all days of some years, and no single read may take that long.
        for begin in range(0, max(1, len(times_ns) - 1), SPANS_AT_ONCE):
            some = times_ns[begin : begin + SPANS_AT_ONCE + 1]
            found += self._answer(functools.partial(_energy, name=meter, times_ns=some))
        return found

    def peaks(self, meter: str, times_ns: Sequence[int]) -> list[Peak | None]:
        """
        The highest mean power of *meter* between each of *times_ns* (UTC), which rise, and the next.

        Over quarters of an hour by the clock that lie completely within: UTC's,
        as every time zone differs from it by whole quarters. None if none of them
        has a pulse. Pulses that were thinned to one per hour count as spread
        evenly over the hour.
        """
        spans = [(-(-begin // THINNED_TO_NS), end // THINNED_TO_NS) for begin, end in itertools.pairwise(times_ns)]
        # An hour has between one and four times the energy of its best quarter, so most hours need no closer search.
        hours = [[(hour, min(hour + 4, end)) for hour in range(begin, end, 4)] for begin, end in spans]
        of_hours = self._energy_between(meter, itertools.chain(*hours))
        best = [max((of_hours[hour].kwh for hour, _ in of_span), default=0.0) for of_span in hours]
        quarters = [
            [
                (quarter, quarter + 1)
                for hour, end in of_span
                if of_hours[hour].pulses and of_hours[hour].kwh >= most_kwh / 4
                for quarter in range(hour, end)
            ]
            for of_span, most_kwh in zip(hours, best, strict=True)
        ]
        of_quarters = self._energy_between(meter, itertools.chain(*quarters))
        peaks: list[Peak | None] = []
        for of_span in quarters:
            quarter = max((begin for begin, _ in of_span), key=lambda begin: of_quarters[begin].kwh, default=None)
            if quarter is None or not of_quarters[quarter].pulses:
                peaks.append(None)
            else:
                watts = 1000 * of_quarters[quarter].kwh * HOUR_NS / THINNED_TO_NS
                peaks.append(Peak(watts, quarter * THINNED_TO_NS))
        return peaks

    def _energy_between(self, meter: str, spans: Iterable[tuple[int, int]]) -> dict[int, Energy]:
        """What *meter* counted in each of *spans*, by its begin; they rise, in quarters of an hour since 1970."""
        edges = list(dict.fromkeys(itertools.chain(*spans)))
        found = self.energy(meter, [edge * THINNED_TO_NS for edge in edges])
        return dict(zip(edges, found, strict=False))

    def gaps(self, meter: str, from_ns: int, to_ns: int, now_ns: int, running: bool) -> tuple[int | None, list[Gap]]:
        """
        Since when the gaps of *meter* are known (UTC, ns; None: never), and those in [*from_ns*, *to_ns*), in order.

        They don't overlap. The last may be open: if the program is not *running*,
        it lasts from the end of counting, or after a crash from the last pulse,
        until *now_ns*. A call reads all gaps before *to_ns*: for many adjacent
        spans, call it once and divide the result.
        """

        def find(connection: sqlite3.Connection) -> tuple[int | None, list[Gap]]:
            key = _key_of(connection, meter)
            covered = connection.execute("SELECT since_ns, until_ns FROM covered WHERE meter = ?", (key,)).fetchone()
            if covered is None:
                return None, []
            since_ns, until_ns = covered
            found = [
                Gap(*row)
                for row in connection.execute(
                    "SELECT from_ns, to_ns, why FROM gaps WHERE meter = ? AND from_ns < ? AND to_ns > ?",
                    (key, to_ns, from_ns),
                )
            ]
            if until_ns is not None:
                found.append(Gap(until_ns, now_ns, "not running"))
            elif not running:
                last = connection.execute(
                    "SELECT time_ns FROM read_pulses WHERE meter = ? ORDER BY count DESC LIMIT 1", (key,)
                ).fetchone()
                found.append(Gap(max(since_ns, last[0] if last else since_ns), now_ns, "crashed"))
            return since_ns, _apart(found, from_ns, to_ns)

        return self._answer(find)

    # --- Writers

    def waiting(self, position: Position) -> tuple[int, int | None]:
        """How many pulses come after *position*, and the time of the oldest (UTC, ns), None if there is none."""

        def find(connection: sqlite3.Connection) -> tuple[int, int | None]:
            waiting, oldest = 0, []
            # max() over a prefix of the key is one seek; pulses are not counted one by one.
            for meter, name, last in connection.execute(
                "SELECT meter, name, (SELECT max(count) FROM pulses WHERE meter = meters.meter) FROM meters"
            ).fetchall():
                delivered = position.counts.get(name, 0)
                if last is not None and last > delivered:
                    waiting += _rows_in(connection, meter, delivered, last)
                    oldest.append(_row_for(connection, meter, delivered + 1).time_ns)
            return waiting, min(oldest, default=None)

        return self._answer(find)

    def delivered(self, writer: str) -> list[Pulse]:
        """
        Pulses that may be delivered to *writer* again: for each meter the last one that it has.

        If it has none of a meter, the last one that exists. A pulse whose time or
        energy may still change is left out.
        """

        def find(connection: sqlite3.Connection) -> list[Pulse]:
            found: list[Pulse] = []
            reached = dict(connection.execute("SELECT meter, count FROM cursors WHERE writer = ?", (writer,)))
            for meter, name in connection.execute("SELECT meter, name FROM meters").fetchall():
                rows = connection.execute(
                    "SELECT count, time_ns, interval_ns FROM read_pulses WHERE meter = ?1 AND count <= ?2 "
                    "AND count <= coalesce((SELECT after_count FROM unsettled WHERE meter = ?1), ?3) "
                    "ORDER BY count DESC LIMIT 2",
                    (meter, reached.get(meter) or MAX_COUNT, MAX_COUNT),
                ).fetchall()
                constants = constants_of(connection, meter)
                # A pulse without its predecessor may stand for others that were thinned.
                if rows and constants and rows[0][0] - 1 in (rows[-1][0], constants[0].from_count):
                    found += pulses_of(name, rows[0][0] - 1, rows[:1], constants)
            return found

        return self._answer(find)


def delivered_pulses(path: str, writer: str) -> list[Pulse]:
    """The result of :meth:`History.delivered` for the journal at *path*; empty if it can't be read."""
    try:
        with History(path) as history:
            return history.delivered(writer)
    except (sqlite3.Error, JournalError, UnicodeDecodeError):  # whatever is wrong with it, a start tells
        return []


def about(path: str) -> dict[str, str]:
    """The result of :meth:`History.about` for the journal at *path*; empty if it can't be read."""
    try:
        with History(path) as history:
            return history.about()
    except (sqlite3.Error, JournalError, UnicodeDecodeError):  # whatever is wrong with it, a start tells
        return {}


def _connect(path: str, *, shared: bool) -> sqlite3.Connection:
    """
    A connection that creates and writes no file.

    A *shared* journal is read with its log. For a journal that was closed
    properly, SQLite would then create both files beside it and leave them there.
    As "immutable", SQLite reads only the file itself, but does not notice changes.
    """
    mode = "mode=ro" if shared else "mode=ro&immutable=1"
    connection = sqlite3.connect(f"{address_of(path)}?{mode}", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    try:
        harden(connection)
        connection.execute(VIEW)
        known = schema_of(connection) == schema_of_version(SCHEMA_VERSION)
    except (sqlite3.Error, UnicodeDecodeError):
        connection.close()
        raise
    if not known:
        connection.close()
        raise JournalError(f"{path}: not a journal of this version of power; one of an older version: start power once")
    return connection


def _key_of(connection: sqlite3.Connection, name: str) -> int | None:
    row = connection.execute("SELECT meter FROM meters WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def _meter(connection: sqlite3.Connection, name: str) -> _Meter | None:
    """The meter *name*; None if it is not known or has lost its constants."""
    key = _key_of(connection, name)
    if key is None or not (constants := constants_of(connection, key)):
        return None
    thinned, hourly = connection.execute(
        "SELECT coalesce((SELECT to_count FROM thinned WHERE meter = ?1), 0),"
        " coalesce((SELECT to_count FROM hourly WHERE meter = ?1), 0)",
        (key,),
    ).fetchone()
    # A reading repeats the constant: the energy per pulse does not change.
    worth = [constants[0]]
    worth += [after for before, after in itertools.pairwise(constants) if after.watt_hours != before.watt_hours]
    return _Meter(key, worth, thinned, hourly)


def _apart(gaps: list[Gap], from_ns: int, to_ns: int) -> list[Gap]:
    """*gaps* within [*from_ns*, *to_ns*), in order; one that begins within another begins where that ends."""
    apart: list[Gap] = []
    end_ns = from_ns
    for gap in sorted(gaps, key=lambda gap: gap.from_ns):
        begin_ns, end_of_gap_ns = max(gap.from_ns, end_ns), min(gap.to_ns, to_ns)
        if begin_ns < end_of_gap_ns:
            if apart and (apart[-1].to_ns, apart[-1].why) == (begin_ns, gap.why):
                begin_ns = apart.pop().from_ns
            apart.append(Gap(begin_ns, end_of_gap_ns, gap.why))
            end_ns = end_of_gap_ns
    return apart


def _energy(connection: sqlite3.Connection, name: str, times_ns: Sequence[int]) -> list[Energy]:
    spans = max(0, len(times_ns) - 1)
    pulses, kwh, approximate = [0] * spans, [0.0] * spans, [False] * spans
    meter = _meter(connection, name)
    if meter is None:
        return [Energy(0, 0.0, False)] * spans
    for run in _runs(connection, meter):
        search = _Search(connection, meter, run)
        # The times that lie in the run; pulses before the first time and after the last are in no span.
        begin, end = bisect.bisect_right(times_ns, search.begin_ns), bisect.bisect_right(times_ns, run.last.time_ns)
        if end == 0 or begin == len(times_ns):
            continue
        ends = [search.before(time_ns) for time_ns in times_ns[begin:end]]
        ends = [*[(run.after, False)] * (begin > 0), *ends, *[(run.last.number, False)] * (end <= spans)]
        for index, ((low, from_about), (high, to_about)) in enumerate(itertools.pairwise(ends), max(0, begin - 1)):
            if high > low:
                pulses[index] += high - low
                kwh[index] += kwh_of(meter.constants, low, high)
            approximate[index] |= from_about or to_about
    return [Energy(*of) for of in zip(pulses, kwh, approximate, strict=True)]


def _runs(connection: sqlite3.Connection, meter: _Meter) -> Iterator[_Run]:
    """The runs of the meter's rows within which time rises, in the order of their counts."""
    after = meter.constants[0].from_count
    steps = connection.execute(
        "SELECT count FROM steps WHERE meter = ? AND count > ? ORDER BY count", (meter.key, after + 1)
    )
    begin = after + 1
    for (step,) in itertools.chain(steps, [(MAX_COUNT,)]):
        last = connection.execute(
            "SELECT count, time_ns FROM read_pulses WHERE meter = ? AND count >= ? AND count < ?"
            " ORDER BY count DESC LIMIT 1",
            (meter.key, begin, step),
        ).fetchone()
        if last is not None:
            yield _Run(after, _row_for(connection, meter.key, begin), _Row(*last))
            after = last[0]
        begin = step


class _Search:
    """Finds pulses of a run by rising times, which lie after *begin_ns* and not after the end of the run."""

    def __init__(self, connection: sqlite3.Connection, meter: _Meter, run: _Run) -> None:
        self._connection, self._meter, self._run = connection, meter, run
        #: The row that was found last, and the count of the row before it; initially the run's first row.
        self._found, self._before = run.first, run.after
        #: When the run's first pulse came, or the first of those that its first row stands for.
        self.begin_ns = self._spread_from_ns()
        #: How many pulses came per ns: between the last two times, and around the last one.
        mean = (run.last.number - run.first.number) / max(1, run.last.time_ns - run.first.time_ns)
        self._rate = self._rate_here = mean

    def before(self, time_ns: int) -> tuple[int, bool]:
        """The count of the last pulse before *time_ns*, and whether it is an estimate."""
        if self._found.time_ns < time_ns:
            self._find(time_ns)
        pulses = self._found.number - self._before
        if pulses == 1 or (from_ns := self._spread_from_ns()) >= time_ns:
            return self._before, False
        # They are taken as evenly spaced, with the last one at the row's time.
        return self._before + (pulses * (time_ns - from_ns) - 1) // (self._found.time_ns - from_ns), True

    def _spread_from_ns(self) -> int:
        """The time after which the pulses came that the found row stands for."""
        row, before = self._found, self._before
        if row.number == before + 1:
            return row.time_ns
        # About lost pulses it is only known that they came after the row before.
        begins = []
        if before < self._meter.thinned:
            step_ns = HOUR_NS if before < self._meter.hourly else THINNED_TO_NS
            begins.append(row.time_ns // step_ns * step_ns)
        if before > self._run.after:
            begins.append(_row_for(self._connection, self._meter.key, before).time_ns)
        return max(begins, default=row.time_ns)

    def _find(self, time_ns: int) -> None:
        """
        Move to the first row that is not before *time_ns*.

        Guesses where it is from how fast pulses came: first from one of the times
        to the next, then between the last two rows that were read.
        """
        start = last = low = self._found
        high, spacing = self._run.last, start.number - self._before
        #: The latest count after which to begin reading.
        most_after = high.number - 1
        away = round((time_ns - start.time_ns) * self._rate)
        guess, narrowed = start.number + away, [False, False]
        if start.number < self._meter.thinned:
            spacing = max(spacing, away * THINNED_TO_NS // (time_ns - start.time_ns))
        for tries in itertools.count(1):
            # If the guess is good enough, rows are read one after another, which costs little for each.
            width = abs(away) if tries == 1 and away <= ROWS_AT_ONCE * spacing else max(8 * spacing, abs(away) // 4)
            if width > ROWS_AT_ONCE * spacing:
                width = 0
            after = max(low.number, min(guess - width - 1, most_after))
            try:
                row, before = self._first_row(after, time_ns, max(after + 1, min(guess + width, high.number)))
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                low, high = self._beside_damage(low, high, after + 1, time_ns, error)
                most_after, narrowed = high.number - 1, [True, True]
                guess, away = (low.number + high.number) // 2, 0
                continue
            if row.time_ns < time_ns:
                low, narrowed[0] = row, True
            elif before > after or before <= low.number:
                break
            else:
                high, most_after, narrowed[1] = row, before - 1, True
            if row.time_ns != last.time_ns:
                self._rate_here = abs((row.number - last.number) / (row.time_ns - last.time_ns))
            last, away = row, round((time_ns - row.time_ns) * self._rate_here)
            if not all(narrowed):
                # Rather a little too far, so that it lies between two rows; and further each time if that fails.
                guess = row.number + away * (tries + 4) // 4
            elif tries % 4:
                guess = max(low.number, min(row.number + away, high.number))
            else:
                guess = (low.number + high.number) // 2
        self._rate = (row.number - start.number) / (row.time_ns - start.time_ns)
        self._found, self._before = row, before

    def _first_row(self, after: int, time_ns: int, most: int) -> tuple[_Row, int]:
        """The first row after *after* that is not before *time_ns*, or reaches *most*; and the count before it."""
        found = self._connection.execute(
            "SELECT count, time_ns, (SELECT max(count) FROM pulses WHERE meter = ?1 AND count < found.count)"
            " FROM read_pulses AS found WHERE meter = ?1 AND count > ?2 AND (time_ns >= ?3 OR count >= ?4)"
            " ORDER BY count LIMIT 1",
            (self._meter.key, after, time_ns, most),
        ).fetchone()
        if found is None:
            raise _lost(after + 1)
        count, found_ns, before = found
        return _Row(count, found_ns), max(before or 0, self._run.after)

    def _beside_damage(
        self, low: _Row, high: _Row, damaged: int, time_ns: int, error: sqlite3.DatabaseError
    ) -> tuple[_Row, _Row]:
        """Two rows on the same side of the unreadable count *damaged*, of which the first is before *time_ns*."""
        near, bad = low, damaged
        while bad - near.number > 1:
            middle = (near.number + bad) // 2
            if (row := self._readable(middle)) is None:
                bad = middle
            elif row.time_ns >= time_ns:
                return near, row
            else:
                near = row
        near, bad = high, damaged
        while near.number - bad > 1:
            middle = (near.number + bad) // 2
            if (row := self._readable(middle)) is None:
                bad = middle
            elif row.time_ns < time_ns:
                return row, near
            elif row.number < near.number:
                near = row
            else:
                near = _Row(middle, near.time_ns)
        raise error

    def _readable(self, count: int) -> _Row | None:
        try:
            return _row_for(self._connection, self._meter.key, count)
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            return None


def _row_for(connection: sqlite3.Connection, meter: int, count: int) -> _Row:
    """The row of a pulse, or the row that stands for it."""
    row = connection.execute(
        "SELECT count, time_ns FROM read_pulses WHERE meter = ? AND count >= ? ORDER BY count LIMIT 1", (meter, count)
    ).fetchone()
    if row is None:
        raise _lost(count)
    return _Row(*row)


def _lost(count: int) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(f"pulse {count} is missing, and so is every later one")
    error.sqlite_errorcode = SQLITE_CORRUPT
    return error


def _rows_in(connection: sqlite3.Connection, meter: int, after: int, last: int) -> int:
    """How many rows there are after *after* up to *last*; they are counted only where pulses were thinned."""
    (thinned,) = connection.execute(
        "SELECT coalesce((SELECT to_count FROM thinned WHERE meter = ?), 0)", (meter,)
    ).fetchone()
    if thinned <= after:
        return last - after
    (rows,) = connection.execute(
        "SELECT count(*) FROM pulses WHERE meter = ? AND count > ? AND count <= ?", (meter, after, thinned)
    ).fetchone()
    return int(rows + last - thinned)
