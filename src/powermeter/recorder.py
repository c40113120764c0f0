"""
Turns edges into pulses, on one thread that never waits for a disk or a network.

Owns the board's inputs, the meters and the lamps. Other threads may read the
meters and ask up to which time they are complete. The pulses go to the keeper's list.
"""

import contextlib
import functools
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from powermeter.boards import Board
from powermeter.inputs import WatchedMeter
from powermeter.journal.journal import Row
from powermeter.keeper import Keeper
from powermeter.lamps import Lamps
from powermeter.meter import NS_PER_S

#: If no more edges than this came at once, the recorder may sleep through a phase of L1 (100 ms at most). It is a
#: quarter of what the kernel keeps. Interference of more than 10,000 edges per second that begins in such a sleep may
#: overflow it.
BURST = 256


class Watchdog(NamedTuple):
    """Expects *feed* to be called at least every *every_ns* while the recorder is alive."""

    every_ns: int
    feed: Callable[[], None]


class Recorder:
    """
    Takes the edges of *board* until :meth:`stop`, gives the pulses among them to *keeper*, and steps *lamps*.

    *board* must be watched before :meth:`run` begins. On the recorder's thread,
    *on_state* is called when :attr:`faulty` changes, and *watchdog* is fed.
    """

    def __init__(
        self,
        meters: list[WatchedMeter],
        board: Board,
        keeper: Keeper,
        lamps: Lamps,
        *,
        on_state: Callable[[], None],
        watchdog: Watchdog | None = None,
    ) -> None:
        self.meters = meters
        self._board = board
        self._keeper = keeper
        self._lamps = lamps
        self._on_state = on_state
        self._watchdog = watchdog
        self._started_ns = time.monotonic_ns()
        self._judge_at_ns = self._started_ns
        self._stopping = False
        self._ended = False
        self._taking = False
        self._taken_ns = self._started_ns
        #: Work to do between two edges.
        self._changes: deque[Callable[[], None]] = deque()
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._sleep = select.poll()

    def close(self) -> None:
        """Give back the file descriptor, once :meth:`run` has ended; may be called twice."""
        if self._wake_fd >= 0:
            # In this order: a thread left behind must not write to whatever gets this descriptor's number next.
            wake_fd, self._wake_fd = self._wake_fd, -1
            os.close(wake_fd)

    @property
    def faulty(self) -> bool:
        """Whether any meter's input is at fault."""
        return any(watched.faulty for watched in self.meters)

    def complete_ns(self) -> int:
        """
        The monotonic time before which every pulse has been given to the keeper; from any thread.

        Except pulses whose edges were lost: these are counted once the loss is noticed.
        """
        taken_ns = self.taken_ns()
        since_ns = [watched.meter.flash.waits_since_ns for watched in self.meters]
        return min([taken_ns, *(at_ns for at_ns in since_ns if at_ns is not None)])

    def taken_ns(self) -> int:
        """The monotonic time before which every edge has been taken; from any thread."""
        now_ns = time.monotonic_ns()
        # In this order: an edge that the board no longer has is being taken, or has been.
        if self._ended or (not self._board_has_edges() and not self._taking):
            self._taken_ns = now_ns
        return self._taken_ns

    def _board_has_edges(self) -> bool:
        if self._taking:
            return True
        waiting = select.poll()
        waiting.register(self._board.fileno(), select.POLLIN)
        return bool(waiting.poll(0))

    def wake(self) -> None:
        """Have the recorder step the lamps and do waiting work now; from any thread."""
        wake_fd = self._wake_fd
        if wake_fd >= 0:
            with contextlib.suppress(OSError):  # just closed: there is nothing left to do
                os.eventfd_write(wake_fd, 1)

    def change(self, work: Callable[[], None]) -> None:
        """
        Have *work* done between two edges, on the recorder's thread, before any edge that comes from now on.

        Once that thread has ended, *work* is done immediately.
        """
        self._changes.append(work)
        if self._ended:
            self._work_off()
        else:
            self.wake()

    def _work_off(self) -> None:
        while self._changes:
            try:
                work = self._changes.popleft()
            except IndexError:  # another thread took it
                return
            work()
            self._judge_at_ns = 0

    def stop(self) -> None:
        """Have :meth:`run` end once it has taken the edges that are waiting."""
        self._stopping = True
        self.wake()

    def run(self) -> None:
        """Count until stopped, then make the lamps dark."""
        self._sleep.register(self._board.fileno(), select.POLLIN)
        self._sleep.register(self._wake_fd, select.POLLIN)
        for watched in self.meters:
            if watched.meter.watched_ns is None:
                watched.meter.watched_ns = self._started_ns
        burst = False
        try:
            due_s = self._lamps.step(time.monotonic())
            while not self._stopping:
                if self._lamps.flashing and not burst:
                    # L1 could not show another pulse. Until it can, edges wait with their timestamps and cost no
                    # wake-up: at 1,000 per second there are 20 wake-ups instead of 1,000.
                    time.sleep(max(0.0, (due_s or 0.0) - time.monotonic()))
                    due_s = 0.0
                burst = self._edges_by(due_s) and self._take() > BURST
                self._work_off()
                now_ns = time.monotonic_ns()
                if now_ns >= self._judge_at_ns:
                    self._judge(now_ns)
                due_s = self._lamps.step(now_ns / NS_PER_S)
            # From here on the board has no descriptor to poll.
            self._taking = True
            self._board.unwatch()
            self._take()
            self._note_missed(time.monotonic_ns(), ends=True)
            self._ended = True
            self._work_off()
        finally:
            self._lamps.dark()

    def _edges_by(self, due_s: float | None) -> bool:
        """Sleep until edges wait, lamps or inputs are due, or :meth:`wake` is called; return whether edges wait."""
        wait_ms = 0.0
        if due_s != 0.0:
            judge_s = self._judge_at_ns / NS_PER_S
            due_s = judge_s if due_s is None else min(due_s, judge_s)
            # At most a day at a time: poll() accepts no more than 24.8 days.
            wait_ms = min(max(0.0, due_s - time.monotonic()), 86400.0) * 1000
        edges = False
        for fd, _ in self._sleep.poll(wait_ms):
            if fd != self._wake_fd:
                edges = True
            else:
                os.eventfd_read(self._wake_fd)
        return edges

    def _take(self) -> int:
        """Take the edges that the board has; return how many there were."""
        self._taking = True
        # Noted here, not only in taken_ns(): at 10 per second and more, edges nearly always wait for L1.
        taken_ns = time.monotonic_ns()
        edges = self._board.take()
        keep, pulse = self._keeper.keep, False
        for edge in edges:
            watched = self.meters[edge.meter]
            for number, at_ns, interval_ns in watched.meter.take(edge):
                pulse = True
                keep(Row(watched.meter.name, number, at_ns, interval_ns))
            if edge.lost:
                watched.lose(edge)
            self._judge_at_ns = min(self._judge_at_ns, watched.note_edge(taken_ns))
        self._taken_ns = taken_ns
        self._taking = False
        if pulse:
            self._lamps.flash()
            self._keeper.wake()
        return len(edges)

    def _judge(self, now_ns: int) -> None:
        """Judge all inputs as they are now, and note when to do so again."""
        before = self.faulty
        self._judge_at_ns = min(
            watched.judge(now_ns, self._started_ns, functools.partial(self._board.sees_light, index))
            for index, watched in enumerate(self.meters)
        )
        self._note_missed(now_ns)
        if self._watchdog is not None:
            self._watchdog.feed()
            self._judge_at_ns = min(self._judge_at_ns, now_ns + self._watchdog.every_ns)
        if self.faulty != before:
            self._on_state()

    def _note_missed(self, now_ns: int, *, ends: bool = False) -> None:
        for watched in self.meters:
            if (since_ns := watched.missed(ends=ends)) is not None:
                self._keeper.miss(watched.meter.name, since_ns, now_ns)
