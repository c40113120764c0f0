"""
Judges whether a meter's input works: it may be silent, stuck, flickering, noisy, or losing edges.

Pure: times are passed in, and faults are logged.
"""

import logging
from collections.abc import Callable

from powermeter.meter import FLICKER_NS, LONG_NS, NS_PER_S, Edge, Meter

log = logging.getLogger(__name__)

#: An input that is lit for longer than this without an edge, in ns, is stuck. Many meters keep their LED lit while
#: there is no load. A meter whose LED is lit half the time flashes this slowly at 3 W (1,000 impulses per kWh).
STUCK_NS = 600 * NS_PER_S

#: How often lost edges are logged while more are lost, in ns.
LOST_AGAIN_NS = 60 * NS_PER_S

#: An input is noisy if at least this many edges are rejected in a minute, in all and per pulse. A real flash whose
#: light comes and goes slowly has 16 (tests/kernel/traces/slow_ramp.trace); a port that sends data has hundreds.
NOISY_EDGES, NOISY_EDGES_PER_PULSE = 500, 50
NOISE_NS = 60 * NS_PER_S


class WatchedMeter:
    """
    A meter, and what the recorder knows about its input: how long it may be silent, and whether it works.

    *is_contact*: the sensor is a contact, which may rest closed for hours, and not an LED.
    *is_export*: the meter counts what the house feeds in, and does not flash at night.
    """

    __slots__ = (
        *("flickers", "is_contact", "is_export", "meter", "misses_since_ns", "noise", "noisy", "logged_ns"),
        *("silence_ns", "silent", "stuck"),
    )

    def __init__(
        self, meter: Meter, silence_minutes: float | None, *, is_contact: bool = False, is_export: bool = False
    ) -> None:
        self.meter = meter
        self.change(silence_minutes, is_contact=is_contact, is_export=is_export)
        #: No flash for longer than the settings allow; lit for longer than any flash; never dark; far more edges than
        #: pulses.
        self.silent = False
        self.stuck = False
        self.flickers = False
        self.noisy = False
        #: When the minute began in which rejected edges are compared with pulses, and the counts of both at that time;
        #: None while no edge is rejected.
        self.noise: tuple[int, int, int] | None = None
        #: When lost edges were last logged; and since when no flash can be seen, None while flashes can.
        self.logged_ns: int | None = None
        self.misses_since_ns: int | None = None

    def change(self, silence_minutes: float | None, *, is_contact: bool, is_export: bool) -> None:
        """Judge by another limit of silence or another kind of input from now on."""
        self.is_contact, self.is_export = is_contact, is_export
        self.silence_ns = None if silence_minutes is None else round(silence_minutes * 60 * NS_PER_S)

    @property
    def faulty(self) -> bool:
        """Whether its input is at fault."""
        return self.silent or self.stuck or self.flickers or self.noisy

    @property
    def misses(self) -> bool:
        """Whether its flashes can't be seen. On a noisy input they can; an export meter is silent at night."""
        return self.stuck or self.flickers or (self.silent and not self.is_export)

    def missed(self, *, ends: bool = False) -> int | None:
        """Since when its flashes were not seen (monotonic, ns), if that is over or the watching *ends*; else None."""
        if self.misses and not ends:
            return None
        since_ns, self.misses_since_ns = self.misses_since_ns, None
        return since_ns

    def lose(self, edge: Edge) -> None:
        """Log that edges were lost before *edge*, at most once in :data:`LOST_AGAIN_NS`."""
        if self.logged_ns is None or edge.at_ns - self.logged_ns > LOST_AGAIN_NS:
            self.logged_ns = edge.at_ns
            log.warning(
                "%s: %d edges came too fast and were lost; the flashes that they may have been are counted without "
                "power, %d so far",
                self.meter.name,
                edge.lost,
                self.meter.made_up,
            )

    def note_edge(self, now_ns: int) -> int:
        """Note that an edge was taken at *now_ns* (monotonic); return when the input is to be judged because of it."""
        if self.faulty or self.meter.flash.flickers:
            return 0
        if self.noise is None and self.meter.flash.rejected:
            self.noise = (now_ns, self.meter.flash.rejected, self.meter.count)
            return now_ns + NOISE_NS
        return LONG_NS

    def judge(self, now_ns: int, started_ns: int, sees_light: Callable[[], bool]) -> int:
        """
        Judge the input at *now_ns*; return the latest time at which to judge it again (monotonic, ns).

        It has been watched since *started_ns*; *sees_light* returns whether it is lit now.
        """
        due_ns = []
        if self.silence_ns is not None:
            silent_ns = (self.meter.last_ns or started_ns) + self.silence_ns
            self._set_silent(silent=now_ns >= silent_ns)
            due_ns.append(silent_ns)
        if self.noise is not None:
            due_ns.append(self._judge_noise(now_ns))
        if not self.is_contact:
            edge_ns = self.meter.flash.edge_ns or started_ns
            self._set_stuck(stuck=now_ns >= edge_ns + STUCK_NS and sees_light())
            due_ns.append(edge_ns + STUCK_NS)
            self._set_flickers(flickers=self.meter.flash.flickers and now_ns < edge_ns + FLICKER_NS)
            if self.flickers:
                due_ns.append(edge_ns + FLICKER_NS)
        if self.misses and self.misses_since_ns is None:
            # Light that is stuck or flickers began with the last flash.
            self.misses_since_ns = self.meter.last_ns or started_ns
        # What was due already is judged again later: it may be dark now and lit then.
        again_ns = now_ns + STUCK_NS
        return min((due if due > now_ns else again_ns for due in due_ns), default=again_ns)

    def _judge_noise(self, now_ns: int) -> int:
        """Judge at the end of each minute whether far more edges than pulses came; return when the minute ends."""
        begun_ns, rejected, count = self.noise or (now_ns, 0, 0)
        if now_ns < begun_ns + NOISE_NS:
            return begun_ns + NOISE_NS
        edges, pulses = self.meter.flash.rejected - rejected, self.meter.count - count
        self._set_noisy(noisy=edges >= max(NOISY_EDGES, NOISY_EDGES_PER_PULSE * pulses), edges=edges)
        # With no rejected edges, the next one begins another minute.
        self.noise = (now_ns, rejected + edges, count + pulses) if edges else None
        return now_ns + NOISE_NS

    def _set_noisy(self, *, noisy: bool, edges: int) -> None:
        if noisy != self.noisy:
            self.noisy = noisy
            if noisy:
                log.warning("%s: %d edges rejected in a minute, far more than pulses", self.meter.name, edges)
            else:
                log.info("%s: no longer noisy: few edges are rejected", self.meter.name)

    def _set_silent(self, *, silent: bool) -> None:
        if silent != self.silent:
            self.silent = silent
            if silent:
                minutes = (self.silence_ns or 0) / NS_PER_S / 60
                log.warning("%s: no flash for %g minutes", self.meter.name, minutes)
            else:
                log.info("%s: flashes again", self.meter.name)

    def _set_stuck(self, *, stuck: bool) -> None:
        if stuck != self.stuck:
            self.stuck = stuck
            if stuck:
                log.warning("%s: lit for %g minutes without a flash", self.meter.name, STUCK_NS / NS_PER_S / 60)
            else:
                log.info("%s: no longer lit", self.meter.name)

    def _set_flickers(self, *, flickers: bool) -> None:
        if flickers != self.flickers:
            self.flickers = flickers
            if flickers:
                log.warning(
                    "%s: never dark for %g s: flashes can't be recognised", self.meter.name, FLICKER_NS / NS_PER_S
                )
            else:
                log.info("%s: no longer flickers", self.meter.name)
