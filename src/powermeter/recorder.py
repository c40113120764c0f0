"""
Edges to pulses to the journal, on one thread.

Owns the meters and the tail of the journal. A board puts edges on
:attr:`Recorder.edges` from any thread; nothing else is shared with it.
"""

import logging
import queue
import sqlite3
import time
from collections.abc import Callable

from powermeter.journal import Journal, Row
from powermeter.meter import NS_PER_S, Meter

log = logging.getLogger(__name__)

#: While edges come closer than this, in s, they are taken in groups this far apart: at
#: 1,000 a second that is 50 wake-ups instead of 1,000. Their stamps are made before.
GATHER_S = 0.02

#: What a board puts on the queue: the meter's place in the settings and the edge's
#: monotonic time in ns. None ends the recorder once all before it is taken.
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
    Takes edges until :meth:`stop`, and keeps the pulses among them.

    A pulse is in the journal at most *commit_interval_s* after it came: a
    commit is due when a pulse waits and the last commit is that long ago.
    *on_pulses* is called after pulses were counted, *on_commit* after a
    commit, *on_state* when :attr:`failing` or a meter's silence changes; all
    on the recorder's thread, and none may block.
    """

    def __init__(
        self,
        journal: Journal,
        meters: list[WatchedMeter],
        commit_interval_s: float,
        *,
        on_pulses: Callable[[], None],
        on_commit: Callable[[], None],
        on_state: Callable[[], None],
    ) -> None:
        self.edges: queue.SimpleQueue[Edge | None] = queue.SimpleQueue()
        self.meters = meters
        #: Why the journal can't be written; None while it can.
        self.failing: str | None = None
        #: Pulses that are not in the journal yet. Replaced, not cleared, so that a thread that reads it sees it whole.
        self.uncommitted: list[Row] = []
        self._journal = journal
        self._commit_interval_s = commit_interval_s
        self._on_pulses, self._on_commit, self._on_state = on_pulses, on_commit, on_state
        self._next_commit_s = time.monotonic()
        self._started_ns = time.monotonic_ns()

    @property
    def silent(self) -> bool:
        """Whether a meter has been silent for longer than its settings allow."""
        return any(watched.silent for watched in self.meters)

    def stop(self) -> None:
        """Let :meth:`run` end once it has taken the edges there are."""
        self.edges.put(None)

    def run(self) -> None:
        """Count until stopped; the last commit is done when this returns, unless :attr:`failing` says otherwise."""
        gathered_s = 0.0
        while self._gather():
            self._judge_silence()
            if self.uncommitted and time.monotonic() >= self._next_commit_s:
                self._commit()
            if time.monotonic() - gathered_s < GATHER_S:
                time.sleep(GATHER_S)
            gathered_s = time.monotonic()
        if self.uncommitted:
            self._commit()

    def _gather(self) -> bool:
        """Wait for edges, until a commit or a judgement of silence is due, and take all there are; False at the end."""
        pulses = len(self.uncommitted)
        edges = self.edges
        try:
            edge = edges.get(timeout=self._patience_s())
            # One reading of the wall clock serves all: it is a label, the stamps are monotonic.
            wall_ns = time.time_ns() - time.monotonic_ns()
            while edge is not None:
                self._take(*edge, wall_ns)
                edge = edges.get_nowait()
        except queue.Empty:
            return True
        finally:
            if len(self.uncommitted) > pulses:
                self._on_pulses()
        return False

    def _take(self, index: int, at_ns: int, wall_ns: int) -> None:
        watched = self.meters[index]
        meter = watched.meter
        if meter.edge(at_ns):
            self.uncommitted.append(Row(watched.key, meter.count, at_ns + wall_ns, meter.interval_ns))

    def _patience_s(self) -> float | None:
        """How long to wait for an edge before something else is due; None: for ever."""
        due_s = [self._next_commit_s] if self.uncommitted else []
        due_s += [self._silent_from_ns(w) / NS_PER_S for w in self.meters if w.silence_ns is not None and not w.silent]
        return max(0.0, min(due_s) - time.monotonic()) if due_s else None

    def _silent_from_ns(self, watched: WatchedMeter) -> int:
        last_ns = self._started_ns if watched.meter.last_ns is None else watched.meter.last_ns
        return last_ns + (watched.silence_ns or 0)

    def _judge_silence(self) -> None:
        for watched in self.meters:
            if watched.silence_ns is None:
                continue
            silent = time.monotonic_ns() >= self._silent_from_ns(watched)
            if silent != watched.silent:
                watched.silent = silent
                if silent:
                    log.warning("%s: no flash for %g minutes", watched.meter.name, watched.silence_ns / NS_PER_S / 60)
                else:
                    log.info("%s: flashes again", watched.meter.name)
                self._on_state()

    def _commit(self) -> None:
        """Write what is uncommitted; where the disk fails it stays, and is tried again after the interval."""
        rows = self.uncommitted
        try:
            self._journal.append(rows)
        except sqlite3.Error as error:
            if self.failing is None:
                log.error("journal: %s: counting goes on, pulses are kept in memory", error)
            self._set_failing(str(error))
        else:
            self.uncommitted = []
            if self.failing is not None:
                log.info("journal: written again, %d pulses were kept in memory", len(rows))
            self._set_failing(None)
            self._on_commit()
        self._next_commit_s = time.monotonic() + self._commit_interval_s

    def _set_failing(self, reason: str | None) -> None:
        changed = (reason is None) != (self.failing is None)
        self.failing = reason
        if changed:
            self._on_state()
