"""
Edges to pulses, on one thread, which never waits for a disk or a network.

Owns the meters and the lamps. A board puts edges on :attr:`Recorder.edges`
from any thread; nothing else is shared with it.
"""

import contextlib
import logging
import queue
import time
from collections.abc import Callable

from powermeter.journal import Row
from powermeter.keeper import Keeper
from powermeter.lamps import Lamps
from powermeter.meter import NS_PER_S, Meter

log = logging.getLogger(__name__)

#: While edges come closer than this, in s, they are taken in groups this far apart: at
#: 1,000 a second that is 20 wake-ups instead of 1,000. Their stamps are made before.
GATHER_S = 0.05

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
        #: What a board puts edges on. None wakes the thread, to look at its lamps or to end.
        self.edges: queue.SimpleQueue[Edge | None] = queue.SimpleQueue()
        self.meters = meters
        self._keeper = keeper
        self._lamps = lamps
        self._on_state = on_state
        self._judged = [watched for watched in meters if watched.silence_ns is not None]
        self._started_ns = time.monotonic_ns()
        self._stopping = False

    @property
    def silent(self) -> bool:
        """Whether a meter has been silent for longer than its settings allow."""
        return any(watched.silent for watched in self._judged)

    def look(self) -> None:
        """Have the lamps stepped at once; from any thread."""
        self.edges.put(None)

    def stop(self) -> None:
        """Let :meth:`run` end once it has taken the edges there are."""
        self._stopping = True
        self.edges.put(None)

    def run(self) -> None:
        """Count until stopped; the lamps are dark then."""
        taken_s = 0.0
        step_s = self._lamps.step(time.monotonic())
        while not self._stopping:
            taken = self._take_waiting(self._patience_s(step_s))
            self._judge_silence()
            now_s = time.monotonic()
            step_s = self._lamps.step(now_s)
            if taken:
                if now_s - taken_s < GATHER_S:
                    time.sleep(GATHER_S)
                taken_s = time.monotonic()
        self._take_waiting(0.0)
        self._lamps.dark()

    def _take_waiting(self, patience_s: float | None) -> bool:
        """Wait *patience_s* for an edge, None for ever, and take all there are; tell whether there was one."""
        edges, pulse, taken = self.edges, False, False
        with contextlib.suppress(queue.Empty):
            edge = edges.get(timeout=patience_s)
            # One reading of the wall clock serves all: it is a label, the stamps are monotonic.
            wall_ns = time.time_ns() - time.monotonic_ns()
            while True:
                if edge is not None:
                    taken = True
                    pulse |= self._take(*edge, wall_ns)
                edge = edges.get_nowait()
        if pulse:
            self._lamps.flash()
            self._keeper.wake()
        return taken

    def _take(self, index: int, at_ns: int, wall_ns: int) -> bool:
        watched = self.meters[index]
        meter = watched.meter
        if not meter.edge(at_ns):
            return False
        self._keeper.uncommitted.append(Row(watched.key, meter.count, at_ns + wall_ns, meter.interval_ns))
        return True

    def _patience_s(self, step_s: float | None) -> float | None:
        """How long to wait for an edge before the lamps or a judgement of silence are due; None: for ever."""
        due_s = [] if step_s is None else [step_s]
        due_s += [self._silent_from_ns(watched) / NS_PER_S for watched in self._judged if not watched.silent]
        return max(0.0, min(due_s) - time.monotonic()) if due_s else None

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
