"""What the journal says about spans of time, by index seeks over a connection that reads only."""

import contextlib
import itertools
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from powermeter.journal.cursor import Position
from powermeter.journal.tables import (
    MOST_COUNT,
    SCHEMA_VERSION,
    SQLITE_CORRUPT,
    connect,
    connect_read_only,
    constants_of,
    pulses_of,
    register_at,
    schema_of,
    schema_of_version,
)
from powermeter.meter import Constant, Pulse


class Reader:
    """Answers about spans of time, by index seeks. For one thread."""

    def __init__(self, path: str) -> None:
        self._connection = connect(path)
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
        constants = constants_of(self._connection, key)
        for first, last in self._runs(key, constants):
            ends = self._ends(key, first, last, times_ns)
            for index, (low, high) in enumerate(itertools.pairwise(ends)):
                if high > low:
                    pulses, kwh = spans[index]
                    kwh += register_at(constants, high) - register_at(constants, low)
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
        with contextlib.closing(connect_read_only(path)) as connection:
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
                constants = constants_of(connection, meter)
                # One without its predecessor may stand for others that were thinned.
                if rows and constants and rows[0][0] - 1 in (rows[-1][0], constants[0].from_count):
                    found += pulses_of(name, rows[0][0] - 1, rows[:1], constants)
    except (sqlite3.Error, UnicodeDecodeError):  # whatever is wrong with it, a start tells
        return []
    return found
