"""
Edges to pulses, on one thread, which never waits for a disk or a network.

Owns the board's inputs, the meters and the lamps. Others may look at the meters
and ask up to when they are complete; the pulses go to the keeper's list.
"""

import contextlib
import logging
import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from powermeter.boards import Board
from powermeter.journal import Row
from powermeter.keeper import Keeper
from powermeter.lamps import Lamps
from powermeter.meter import FLICKER_NS, NS_PER_S, Edge, Meter

log = logging.getLogger(__name__)

#: As long as fewer edges than this came at once, the recorder may sleep through a phase of L1 (100 ms at the most): a
#: quarter of what the kernel keeps. Interference of more than 10,000 edges a second may overflow it from rest.
BURST = 256

#: An input lit for longer than this, in ns, with no edge, is stuck. Many meters light their LED while there is no load;
#: one whose LED is lit half the time flashes this slowly at 3 W (1,000 impulses per kWh).
STUCK_NS = 600 * NS_PER_S

#: While edges are lost that is said this often, in ns.
LOST_AGAIN_NS = 60 * NS_PER_S


class Watchdog(NamedTuple):
    """Who wants to be told at least every *every_ns* that the recorder is alive."""

    every_ns: int
    feed: Callable[[], None]


#: So many edges rejected for each pulse, and so many in all, within a minute are noise: of a real flash, light that
#: comes and goes slowly has 16 (tests/kernel/traces/slow_ramp.trace); a port that sends data has hundreds.
NOISY_EDGES, NOISY_EDGES_A_PULSE = 500, 50
NOISE_NS = 60 * NS_PER_S


class WatchedMeter:
    """
    A meter with what the recorder needs to know of it: its limit of silence, and how its input is.

    *is_contact*: a contact, which may rest closed for hours, in place of a LED.
    """

    __slots__ = ("flickers", "is_contact", "meter", "noise", "noisy", "said_ns", "silence_ns", "silent", "stuck")

    def __init__(self, meter: Meter, silence_minutes: float | None, *, is_contact: bool = False) -> None:
        self.meter = meter
        self.change(silence_minutes, is_contact=is_contact)
        #: No flash for longer than the settings allow; lit for longer than a flash can be; never dark; far more edges
        #: than pulses.
        self.silent = False
        self.stuck = False
        self.flickers = False
        self.noisy = False
        #: When the minute began in which the edges are compared with the pulses, and how many there were of each then;
        #: None while no edge was rejected.
        self.noise: tuple[int, int, int] | None = None
        #: When lost edges were said last.
        self.said_ns: int | None = None

    def change(self, silence_minutes: float | None, *, is_contact: bool) -> None:
        """Judge by another limit of silence, or another kind of input."""
        self.is_contact = is_contact
        self.silence_ns = None if silence_minutes is None else round(silence_minutes * 60 * NS_PER_S)

    @property
    def faulty(self) -> bool:
        """Whether its input does not do what it should."""
        return self.silent or self.stuck or self.flickers or self.noisy


class Recorder:
    """
    Takes the edges of *board* until :meth:`stop`, gives the pulses among them to *keeper*, and steps *lamps*.

    *board* is watched when :meth:`run` begins. *on_state* is called on its
    thread when :attr:`faulty` changes, and *watchdog* is fed there.
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
        #: What to do between two edges.
        self._changes: deque[Callable[[], None]] = deque()
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._sleep = select.poll()

    def close(self) -> None:
        """Give back the file descriptor, once :meth:`run` has ended; may be called twice."""
        if self._wake >= 0:
            # In this order: a thread left behind must not write to whatever gets the number next.
            wake, self._wake = self._wake, -1
            os.close(wake)

    @property
    def faulty(self) -> bool:
        """Whether the input of a meter does not do what it should."""
        return any(watched.faulty for watched in self.meters)

    def complete_ns(self) -> int:
        """
        The monotonic time before which every pulse has been given to the keeper; from any thread.

        But for those that a loss of edges hides, which are counted once it is seen.
        """
        taken_ns = self.taken_ns()
        since_ns = [watched.meter.flash.waits_since_ns for watched in self.meters]
        return min([taken_ns, *(at_ns for at_ns in since_ns if at_ns is not None)])

    def taken_ns(self) -> int:
        """The monotonic time before which every edge has been taken; from any thread."""
        now_ns = time.monotonic_ns()
        # In this order: what the board has no more is being taken, or has been.
        if self._ended or (not self._board_has_edges() and not self._taking):
            self._taken_ns = now_ns
        return self._taken_ns

    def _board_has_edges(self) -> bool:
        if self._taking:
            return True
        waiting = select.poll()
        waiting.register(self._board.fileno(), select.POLLIN)
        return bool(waiting.poll(0))

    def look(self) -> None:
        """Have the lamps stepped at once; from any thread."""
        wake = self._wake
        if wake >= 0:
            with contextlib.suppress(OSError):  # closed this moment: there is nothing more to step
                os.eventfd_write(wake, 1)

    def change(self, work: Callable[[], None]) -> None:
        """Have *work* done between two edges, on the thread that counts, before any that come from now on."""
        self._changes.append(work)
        self.look()

    def stop(self) -> None:
        """Let :meth:`run` end once it has taken the edges there are."""
        self._stopping = True
        self.look()

    def run(self) -> None:
        """Count until stopped; the lamps are dark then."""
        self._sleep.register(self._board.fileno(), select.POLLIN)
        self._sleep.register(self._wake, select.POLLIN)
        for watched in self.meters:
            if watched.meter.watched_ns is None:
                watched.meter.watched_ns = self._started_ns
        burst = False
        try:
            due_s = self._lamps.step(time.monotonic())
            while not self._stopping:
                if self._lamps.flashing and not burst:
                    # L1 could not show another pulse. Until it can, edges wait, stamped, and cost no wake-up: at 1,000
                    # a second there are 20 instead of 1,000.
                    time.sleep(max(0.0, (due_s or 0.0) - time.monotonic()))
                    due_s = 0.0
                burst = self._edges_by(due_s) and self._take() > BURST
                while self._changes:
                    self._changes.popleft()()
                    self._judge_at_ns = 0
                now_ns = time.monotonic_ns()
                if now_ns >= self._judge_at_ns:
                    self._judge(now_ns)
                due_s = self._lamps.step(now_ns / NS_PER_S)
            # From here on the board has no descriptor to ask.
            self._taking = True
            self._board.unwatch()
            self._take()
            self._ended = True
        finally:
            self._lamps.dark()

    def _edges_by(self, due_s: float | None) -> bool:
        """Sleep until edges wait, the lamps or a judgement of the inputs are due, or someone calls; whether they do."""
        wait_ms = 0.0
        if due_s != 0.0:
            judge_s = self._judge_at_ns / NS_PER_S
            due_s = judge_s if due_s is None else min(due_s, judge_s)
            # At most a day at a time: poll() takes no more than 24.8 of them.
            wait_ms = min(max(0.0, due_s - time.monotonic()), 86400.0) * 1000
        edges = False
        for fd, _ in self._sleep.poll(wait_ms):
            if fd != self._wake:
                edges = True
            else:
                os.eventfd_read(self._wake)
        return edges

    def _take(self) -> int:
        """Take in the edges that the board has; return how many they are."""
        self._taking = True
        # Noted here, not when it is asked alone: at 10 a second and more, edges nearly always wait for L1.
        taken_ns = time.monotonic_ns()
        edges = self._board.take()
        keep, pulse = self._keeper.keep, False
        for edge in edges:
            watched = self.meters[edge.meter]
            for number, at_ns, interval_ns in watched.meter.take(edge):
                pulse = True
                keep(Row(watched.meter.name, number, at_ns, interval_ns))
            if edge.lost:
                self._say_lost(watched, edge)
            if watched.faulty or watched.meter.flash.flickers:
                self._judge_at_ns = 0
            elif watched.noise is None and watched.meter.flash.rejected:
                watched.noise = (taken_ns, watched.meter.flash.rejected, watched.meter.count)
                self._judge_at_ns = min(self._judge_at_ns, taken_ns + NOISE_NS)
        self._taken_ns = taken_ns
        self._taking = False
        if pulse:
            self._lamps.flash()
            self._keeper.wake()
        return len(edges)

    def _say_lost(self, watched: WatchedMeter, edge: Edge) -> None:
        if watched.said_ns is None or edge.at_ns - watched.said_ns > LOST_AGAIN_NS:
            watched.said_ns = edge.at_ns
            log.warning(
                "%s: %d edges came faster than they could be taken and were lost, what flashes they can have been is "
                "counted without power: %d so far",
                watched.meter.name,
                edge.lost,
                watched.meter.made_up,
            )

    # --- Inputs that do not do what they should

    def _judge(self, now_ns: int) -> None:
        """Judge all inputs as they are now, and note when to do so again."""
        before = self.faulty
        due_ns = []
        if self._watchdog is not None:
            self._watchdog.feed()
            due_ns.append(now_ns + self._watchdog.every_ns)
        for index, watched in enumerate(self.meters):
            meter = watched.meter
            if watched.silence_ns is not None:
                silent_ns = (meter.last_ns or self._started_ns) + watched.silence_ns
                self._set_silent(watched, silent=now_ns >= silent_ns)
                due_ns.append(silent_ns)
            if watched.noise is not None:
                due_ns.append(self._judge_noise(watched, now_ns))
            if watched.is_contact:
                continue
            stuck_ns = (meter.flash.edge_ns or self._started_ns) + STUCK_NS
            self._set_stuck(watched, stuck=now_ns >= stuck_ns and self._board.sees_light(index))
            due_ns.append(stuck_ns)
            calm_ns = (meter.flash.edge_ns or self._started_ns) + FLICKER_NS
            self._set_flickers(watched, flickers=meter.flash.flickers and now_ns < calm_ns)
            if watched.flickers:
                due_ns.append(calm_ns)
        # What is due already has been judged, and is judged again: it may be dark now and lit then.
        self._judge_at_ns = min(
            (due if due > now_ns else now_ns + STUCK_NS for due in due_ns), default=now_ns + STUCK_NS
        )
        if self.faulty != before:
            self._on_state()

    def _judge_noise(self, watched: WatchedMeter, now_ns: int) -> int:
        """Judge whether far more edges came than pulses, once a minute is over; return when the next one is."""
        begun_ns, rejected, count = watched.noise or (now_ns, 0, 0)
        if now_ns < begun_ns + NOISE_NS:
            return begun_ns + NOISE_NS
        edges, pulses = watched.meter.flash.rejected - rejected, watched.meter.count - count
        self._set_noisy(watched, noisy=edges >= max(NOISY_EDGES, NOISY_EDGES_A_PULSE * pulses), edges=edges)
        # Calm: the next rejected edge begins another minute.
        watched.noise = (now_ns, rejected + edges, count + pulses) if edges else None
        return now_ns + NOISE_NS

    def _set_noisy(self, watched: WatchedMeter, *, noisy: bool, edges: int) -> None:
        if noisy != watched.noisy:
            watched.noisy = noisy
            if noisy:
                log.warning("%s: %d edges rejected in a minute, far more than pulses", watched.meter.name, edges)
            else:
                log.info("%s: few edges are rejected again", watched.meter.name)

    def _set_silent(self, watched: WatchedMeter, *, silent: bool) -> None:
        if silent != watched.silent:
            watched.silent = silent
            if silent:
                minutes = (watched.silence_ns or 0) / NS_PER_S / 60
                log.warning("%s: no flash for %g minutes", watched.meter.name, minutes)
            else:
                log.info("%s: flashes again", watched.meter.name)

    def _set_stuck(self, watched: WatchedMeter, *, stuck: bool) -> None:
        if stuck != watched.stuck:
            watched.stuck = stuck
            if stuck:
                log.warning("%s: lit for %g minutes without a flash", watched.meter.name, STUCK_NS / NS_PER_S / 60)
            else:
                log.info("%s: lit no more", watched.meter.name)

    def _set_flickers(self, watched: WatchedMeter, *, flickers: bool) -> None:
        if flickers != watched.flickers:
            watched.flickers = flickers
            if flickers:
                log.warning("%s: never dark for %g s, flashes can't be told", watched.meter.name, FLICKER_NS / NS_PER_S)
            else:
                log.info("%s: flickers no more", watched.meter.name)
