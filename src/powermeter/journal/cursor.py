"""A writer's cursor: how far it has delivered the journal, and the pulses from there on."""

import heapq
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import NamedTuple

from powermeter.journal.tables import MAX_COUNT, connect, constants_of, pulses_of, transaction
from powermeter.meter import Constant, Pulse


class Position(NamedTuple):
    """How far a writer has got: its count of each meter, by name; and its *place*, which only the writer interprets."""

    counts: Mapping[str, int]
    place: str


class Cursor:
    """
    How far one writer has delivered the journal, and the pulses from there on; it outlives any file.

    :meth:`attach` and :meth:`detach` are for the keeper, the rest for the
    writer's thread; but :attr:`position` is replaced whole, so that any thread
    may read it. While it is detached, it gives no pulses.
    """

    def __init__(self, writer: str) -> None:
        self.writer = writer
        self.position = self.saved = Position({}, "")
        #: Held while the position is read and replaced; never during a disk access.
        self._moving = threading.Lock()
        #: The path of the file, None while detached, and how many times it has changed.
        self._file: tuple[str | None, int] = None, 0
        self._connection: sqlite3.Connection | None = None
        self._connected_to = 0
        self._meters: dict[str, tuple[int, list[Constant]]] = {}

    def attach(self, path: str, found: Position) -> None:
        """
        Read the file at *path* from now on, which has the writer at *found*.

        If this cursor is further already, it stays there, as those pulses were delivered.
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
                self._connection = connect(path)
                self._connected_to = generation
        return self._connection

    def read(self, limit: int) -> list[Pulse]:
        """
        The next pulses after the cursor, at most *limit*; fewer only if there are no more.

        Pulses of one meter come in the order of their count; between meters the
        earlier time comes first.
        """
        connection = self._connect()
        if connection is None:
            return []
        self._meters = _known_meters(connection)
        streams = [pulses for name in self._meters if (pulses := self._read_meter(connection, name, limit))]
        if len(streams) == 1:
            return streams[0]
        # merge() keeps the order within each stream, whatever its times are.
        return [pulse for pulse, _ in zip(heapq.merge(*streams, key=attrgetter("time_ns")), range(limit), strict=False)]

    def _read_meter(self, connection: sqlite3.Connection, name: str, limit: int) -> list[Pulse]:
        meter, constants = self._meters[name]
        after = self.position.counts.get(name, 0)
        rows = connection.execute(
            "SELECT count, time_ns, interval_ns FROM read_pulses WHERE meter = ?1 AND count > ?2 "
            "AND count <= coalesce((SELECT after_count FROM unsettled WHERE meter = ?1), ?3) ORDER BY count LIMIT ?4",
            (meter, after, MAX_COUNT, limit),
        ).fetchall()
        # A writer gets no pulse from before this journal knew the meter.
        return pulses_of(name, max(after, constants[0].from_count), rows, constants)

    def advance(self, delivered: Iterable[Pulse], place: str) -> int:
        """
        Move past *delivered*; durable with the keeper's next commit.

        Returns how many pulses this skipped because they no longer exist: they
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
        """Set the *place*, durable when this returns. On an error the position is unchanged."""
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
        with transaction(connection):
            position = self.save(connection)
        with self._moving:
            if self.saved is saved:  # else it has another file now, to which this is not saved yet
                self.saved = position

    @property
    def moved(self) -> bool:
        """Whether the position differs from the durable one."""
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
    # Without a meter that lost its constants by damage: its energy per pulse is unknown.
    return {name: (meter, of) for meter, name in known if (of := constants_of(connection, meter))}
