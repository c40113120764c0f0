"""
What only the journal's file knows about how the program is doing, in bounded time: a disk may hang.

Owns a thread, and on it a connection to the file; both are made for the first question.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from powermeter.journal.cursor import Position
from powermeter.journal.history import History
from powermeter.journal.tables import is_damage
from powermeter.meter import NS_PER_S, Constant

#: How long the file is waited for, in s.
ANSWER_S = 0.5

#: After every time there will be (UTC, ns): the largest int of SQLite.
FAR_NS = 2**63 - 1


@dataclass(slots=True)
class Found:
    """
    What the file says; names that are missing are not known.

    By a meter's name the count of its last pulse, what its pulses are worth, and
    pulses and energy (kWh) since *midnight_ns* (UTC, ns), when the local day
    began; by a writer's name
    how many pulses wait, and the time of the oldest (UTC, ns). *damage* is
    what SQLite says where damage was met.
    """

    midnight_ns: int
    lasts: dict[str, int]
    constants: dict[str, list[Constant]]
    today: dict[str, tuple[int, float]]
    waiting: dict[str, tuple[int | None, int | None]]
    damage: str

    @classmethod
    def nothing(cls) -> "Found":
        """What is known before anything was read."""
        return cls(_local_midnight_ns(), {}, {}, {}, {}, "")


class Lookup:
    """Asks the journal at *path*; for one thread."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._asked = threading.Semaphore(0)
        self._answered = threading.Event()
        self._answered.set()
        self._question: tuple[int, Sequence[str], Mapping[str, Position]] | None = None
        self._found = Found.nothing()
        self._thread: threading.Thread | None = None
        self._history: History | None = None
        self._opened = 0

    def ask(self, opened: int, meters: Sequence[str], positions: Mapping[str, Position]) -> Found:
        """
        What the file knows of *meters* and of writers at *positions*; nothing where it does not answer in time.

        *opened* is another number for each time that the file was opened, 0 while it is not open.
        """
        if not opened or not self._answered.is_set():
            return Found.nothing()
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="lookup", daemon=True)
            self._thread.start()
        self._question = opened, meters, positions
        self._answered.clear()
        self._asked.release()
        return self._found if self._answered.wait(ANSWER_S) else Found.nothing()

    def close(self) -> None:
        """End the thread, and close the file unless it hangs."""
        if self._thread is not None:
            self._question = None
            self._asked.release()
            self._thread.join(ANSWER_S)
            self._thread = None

    def _run(self) -> None:
        try:
            while self._asked.acquire() and self._question is not None:
                self._found = self._look(*self._question)
                self._answered.set()
        finally:
            self._close_history()

    def _close_history(self) -> None:
        if self._history is not None:
            self._history.close()
            self._history = None

    def _look(self, opened: int, meters: Sequence[str], positions: Mapping[str, Position]) -> Found:
        found = Found.nothing()
        with _noted(found):
            if self._history is None or opened != self._opened:
                self._close_history()
                self._history, self._opened = History(self._path), opened
            with self._history.snapshot():
                for name in meters:
                    with _noted(found):
                        found.lasts[name] = self._history.last(name)
                        found.constants[name] = self._history.constants(name)
                        today = self._history.span(name, found.midnight_ns, FAR_NS)
                        found.today[name] = today.pulses, today.kwh
                for name, position in positions.items():
                    with _noted(found):
                        found.waiting[name] = self._history.waiting(position)
        return found


@contextlib.contextmanager
def _noted(found: Found) -> Iterator[None]:
    """Whatever the file does not answer stays unknown; damage that is met is noted."""
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            found.damage = str(error)


def _local_midnight_ns() -> int:
    """When the local day began (UTC, ns)."""
    now = time.localtime()
    return round(time.mktime((now.tm_year, now.tm_mon, now.tm_mday, 0, 0, 0, 0, 0, -1))) * NS_PER_S
