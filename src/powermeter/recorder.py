"""
Edges to pulses, on one thread, which never waits for a disk or a network.

Owns the meters and the lamps. A board gives edges to :meth:`Recorder.put`
from any thread; nothing else is shared with it.
"""

import collections
import logging
import os
import select
import time
from collections.abc import Callable

from powermeter.journal import Row
from powermeter.keeper import Keeper
from powermeter.lamps import Lamps
from powermeter.meter import NS_PER_S, Meter

log = logging.getLogger(__name__)

#: Two readings of clocks within this, in ns, are of one moment.
NEAR_NS = 100_000

#: What a board puts on the queue: the meter's place in the settings and the edge's monotonic time in ns.
Edge = tuple[int, int]


class WatchedMeter:
    """A meter with what the recorder needs to know of it: its key in the journal and its limit of silence."""

    __slots__ = ("key", "meter", "silence_ns", "silent")

    def __init__(self, meter: Meter, key: int, silence_minutes: float | None) -> None:
        self.meter = meter
        self.key = key
        self.silence_ns = None if silence_minutes is None else round(silence_minutes * 60 * NS_PER_S)
        self.silent = False


class Recorder:
    """
    Takes edges until :meth:`stop`, gives the pulses among them to *keeper*, and steps *lamps*.

    *on_state* is called on its thread when :attr:`silent` changes.
    """

    def __init__(
        self, meters: list[WatchedMeter], keeper: Keeper, lamps: Lamps, *, on_state: Callable[[], None]
    ) -> None:
        self.meters = meters
        self._keeper = keeper
        self._lamps = lamps
        self._on_state = on_state
        self._judged = [watched for watched in meters if watched.silence_ns is not None]
        self._started_ns = time.monotonic_ns()
        self._stopping = False
        self._edges: collections.deque[Edge] = collections.deque()
        # Not a queue of the library: its put() wakes the reader while it holds the interpreter, for which the reader
        # then waits a second time; and an edge while nobody sleeps should cost no system call at all.
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._sleeps = False
        self._sleep = select.poll()
        self._sleep.register(self._wake, select.POLLIN)

    def close(self) -> None:
        """Give back the file descriptor, once :meth:`run` has ended and no edge comes; may be called twice."""
        if self._wake >= 0:
            os.close(self._wake)
            self._wake = -1

    @property
    def silent(self) -> bool:
        """Whether a meter has been silent for longer than its settings allow."""
        return any(watched.silent for watched in self._judged)

    def put(self, edge: Edge) -> None:
        """Take *edge*; from any thread, and never in its way."""
        self._edges.append(edge)
        if self._sleeps:
            os.eventfd_write(self._wake, 1)

    def look(self) -> None:
        """Have the lamps stepped at once; from any thread."""
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def stop(self) -> None:
        """Let :meth:`run` end once it has taken the edges there are."""
        self._stopping = True
        self.look()

    def run(self) -> None:
        """Count until stopped; the lamps are dark then."""
        due_s = self._lamps.step(time.monotonic())
        while not self._stopping:
            if self._lamps.flashing:
                # L1 could not show another pulse. Until it can, edges wait, stamped, and cost no wake-up: at 1,000 a
                # second there are 20 instead of 1,000.
                time.sleep(max(0.0, (due_s or 0.0) - time.monotonic()))
            else:
                self._sleep_until(due_s)
            if self._edges:
                self._take_all()
            if self._judged:
                self._judge_silence()
            due_s = self._lamps.step(time.monotonic())
        self._take_all()
        self._lamps.dark()

    def _sleep_until(self, due_s: float | None) -> None:
        """Sleep until an edge comes, the lamps or a judgement of silence are due, or someone calls."""
        if self._judged:
            silent_s = [self._silent_from_ns(watched) / NS_PER_S for watched in self._judged if not watched.silent]
            due_s = min([*silent_s, *([] if due_s is None else [due_s])], default=None)
        self._sleeps = True
        # An edge put before the line above has woken nobody.
        if not self._edges and (due_s is None or self._poll(due_s)):
            os.eventfd_read(self._wake)
        self._sleeps = False

    def _poll(self, due_s: float) -> bool:
        # At most a day at a time: poll() takes no more than 24.8 of them.
        return bool(self._sleep.poll(min(max(0.0, due_s - time.monotonic()), 86400.0) * 1000))

    def _take_all(self) -> None:
        """Take the edges there are."""
        # One reading of the wall clock serves all: it is a label, the stamps are monotonic.
        wall_ns = _wall_less_monotonic_ns()
        edges, uncommitted, pulse = self._edges, self._keeper.uncommitted, False
        while edges:
            index, at_ns = edges.popleft()
            watched = self.meters[index]
            meter = watched.meter
            if meter.edge(at_ns):
                uncommitted.append(Row(watched.key, meter.count, at_ns + wall_ns, meter.interval_ns))
                pulse = True
        if pulse:
            self._lamps.flash()
            self._keeper.wake()

    def _silent_from_ns(self, watched: WatchedMeter) -> int:
        last_ns = self._started_ns if watched.meter.last_ns is None else watched.meter.last_ns
        return last_ns + (watched.silence_ns or 0)

    def _judge_silence(self) -> None:
        for watched in self._judged:
            silent = time.monotonic_ns() >= self._silent_from_ns(watched)
            if silent != watched.silent:
                watched.silent = silent
                if silent:
                    minutes = (watched.silence_ns or 0) / NS_PER_S / 60
                    log.warning("%s: no flash for %g minutes", watched.meter.name, minutes)
                else:
                    log.info("%s: flashes again", watched.meter.name)
                self._on_state()


def _wall_less_monotonic_ns() -> int:
    """How far the wall clock is ahead of the monotonic one, in ns."""
    for _ in range(5):
        before_ns = time.monotonic_ns()
        wall_ns = time.time_ns()
        # Where the thread was set aside between the two readings they are not of one moment.
        if time.monotonic_ns() - before_ns < NEAR_NS:
            break
    return wall_ns - before_ns
