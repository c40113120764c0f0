"""
Turns edges into pulses, and pulses into watts and watt-hours. Pure: no clock, no file, no thread.

The count of pulses, an ``int``, is the truth. Power, energy and register are
derived from it and never accumulated, so no rounding error can grow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: A pulse is 3.6 MJ / (impulses per kWh), as 1 kWh = 3.6 MJ.
JOULES_PER_KWH = 3.6e6
NS_PER_S = 1_000_000_000

#: The hold-off, as a fraction of the shortest possible spacing of pulses: an edge within it is bounce.
#: It is below 1, so that a load at the fuse's limit loses no pulse to jitter.
HOLD_OFF = 0.7

#: A flash is over once the input has been dark for this fraction of the hold-off, or for LONGEST_SETTLE_NS if that is
#: shorter. An edge before that is bounce at the end of the flash, which may come later than any hold-off. Light that
#: fades slowly through the input's threshold crosses it many times (tests/kernel/traces/slow_ramp.trace).
SETTLE = 0.1
LONGEST_SETTLE_NS = 5_000_000

#: If the input has not settled for this long, in ns, it is not a flash: other light flickers on the sensor and hides
#: the flashes.
FLICKER_NS = 60 * NS_PER_S

#: Longer than any time span that occurs, in ns.
LONG_NS = 2**63


class Edge(NamedTuple):
    """
    A change of the light on one input, as a board reports it.

    *meter* is the meter's position in the settings and *at_ns* the monotonic
    time. The edge is *falling* if the LED lit up. *lost* is how many edges of
    this meter just before it were dropped for lack of space. The edge is *late*
    if the program was stalled and the board can't tell when it really came.
    """

    meter: int
    at_ns: int
    falling: bool = True
    lost: int = 0
    late: bool = False


class Counted(NamedTuple):
    """A pulse as the meter counts it: its running number, monotonic time, and interval since the last one if known."""

    number: int
    at_ns: int
    interval_ns: int | None


class Pulse(NamedTuple):
    """
    One counted pulse, as every writer receives it.

    *number* is the meter's running count including this pulse; *time_ns* is
    UTC, in ns since 1970; *watts* is the mean power since the meter's previous
    pulse, None if that is not known; *watt_hours* is the energy of this pulse;
    *register_kwh* is the running energy including this pulse.
    """

    # Not a dataclass: a tuple takes a third of the time to create, and each writer creates one per pulse.
    meter: str
    number: int
    time_ns: int
    watts: float | None
    watt_hours: float
    register_kwh: float


@dataclass(frozen=True, slots=True)
class Constant:
    """
    A meter constant, and the count from which it applies.

    It applies from pulse number *from_count* + 1 on; *register_kwh* is the
    register after pulse number *from_count*.
    """

    impulses_per_kwh: float
    from_count: int = 0
    register_kwh: float = 0.0

    @property
    def watt_hours(self) -> float:
        """
        The energy of one pulse, in watt-hours (Wh).

        >>> Constant(impulses_per_kwh=800).watt_hours
        1.25
        """
        return 1000 / self.impulses_per_kwh

    def mean_watts(self, pulses: int, seconds: float) -> float:
        """
        Mean power over *seconds* of monotonic time, in watts (W).

        One pulse is 3.6 MJ / *impulses_per_kwh*, since 1 kWh = 3.6 MJ:

        >>> Constant(impulses_per_kwh=1000).mean_watts(pulses=1, seconds=3.6)
        1000.0

        Raises :exc:`ValueError` if *seconds* is not positive.
        """
        if seconds <= 0:
            raise ValueError(f"seconds: found {seconds}, allowed: more than 0")
        return pulses * JOULES_PER_KWH / (self.impulses_per_kwh * seconds)

    def register_at(self, count: int) -> float:
        """
        The register after pulse number *count*, in kWh.

        >>> Constant(impulses_per_kwh=800, from_count=1000, register_kwh=1.0).register_at(1080)
        1.1
        """
        return self.register_kwh + (count - self.from_count) / self.impulses_per_kwh


def kwh_of(constants: Sequence[Constant], after: int, last: int) -> float:
    """
    The energy of the pulses from *after* (exclusive) to *last* (inclusive), in kWh.

    *constants* are the meter's, ordered by count. The energy is the count times
    the energy per pulse, and never a difference of registers: a reading sets
    the register to the meter's face.

    >>> kwh_of([Constant(1000), Constant(500, from_count=10, register_kwh=12345.6)], after=5, last=20)
    0.025
    """
    if len(constants) == 1:  # nearly always; finding a peak calls this thousands of times
        return (last - after) / constants[0].impulses_per_kwh
    kwh = 0.0
    for index, constant in enumerate(constants):
        end = constants[index + 1].from_count if index + 1 < len(constants) else last
        # The first constant also applies to the pulses before it.
        begin = constant.from_count if index else min(after, constant.from_count)
        kwh += max(0, min(end, last) - max(begin, after)) / constant.impulses_per_kwh
    return kwh


def hold_off_ns(impulses_per_kwh: float, max_watts: float) -> int:
    """
    The hold-off, in ns: the time after a pulse in which further edges are bounce.

    It is :data:`HOLD_OFF` times the shortest spacing that *max_watts*, the limit
    of the main fuse, allows. At 24 kW and 1,000 impulses per kWh:

    >>> hold_off_ns(impulses_per_kwh=1000, max_watts=24000)
    105000000
    """
    return round(HOLD_OFF * NS_PER_S * JOULES_PER_KWH / (impulses_per_kwh * max_watts))


@dataclass(slots=True)
class Flash:
    """
    The light of one LED: turns its edges into flashes, of any length and with bounce.

    A flash lasts from a falling edge until the input has settled in the dark.
    It is a pulse if it begins no sooner than the hold-off after the last pulse
    and, if *min_flash_ns* is set, is lit for at least that long. Edges and
    flashes are counted since the start.
    """

    hold_off_ns: int
    min_flash_ns: int | None = None
    #: The time of the last edge, None before the first; the longest time that the last flash was lit without a break,
    #: None if not known; and whether it has gone on for too long to be a flash.
    edge_ns: int | None = None
    length_ns: int | None = None
    flickers: bool = False
    #: Falling edges rejected as bounce; falling edges rejected after a stall, whose time the board can't tell; flashes
    #: shorter than min_flash_ns.
    rejected: int = 0
    rejected_late: int = 0
    too_short: int = 0
    #: When the last pulse came; when the current or last flash began; since when the input has been lit, None if it is
    #: dark; since when it has been dark, None if not known; and the length of the flash before.
    _pulse_ns: int | None = None
    _began_ns: int = 0
    _lit_ns: int | None = None
    _dark_ns: int | None = None
    _length_before_ns: int = 0
    #: Whether the board reports the ends of flashes at all; whether the flash has yet to reach min_flash_ns; and when a
    #: falling edge came while the input was lit: bounce, or the next flash if the end of this one was not seen.
    _sees_ends: bool = False
    _waits: bool = False
    _again_ns: int | None = None

    def take(self, edge: Edge) -> Sequence[int]:
        """
        Take *edge*, the next one in time; return the times of the flashes that are now known to be pulses.

        Not the library's bouncetime: it drops a flash shorter than itself.
        The hold-off runs from the last pulse, not from the last edge. Even so,
        an input that never settles in the dark gives no more pulses: it flickers.
        """
        times = self._decided(edge.at_ns)
        if edge.falling:
            time = self._light(edge)
        elif self._dark_ns is None:
            time = self._dark(edge.at_ns)
        else:
            # It was dark already: the flash began and ended before the kernel read the level, or its beginning was
            # not seen.
            time = self._light(edge._replace(at_ns=self._unseen_ns(edge.at_ns)))
            ended = self._dark(edge.at_ns)
            time = ended if time is None else time
            self._lit_ns, self._dark_ns = None, edge.at_ns
        self.edge_ns = edge.at_ns
        return times if time is None else (*times, time)

    def lose(self, edge: Edge) -> int:
        """How many flashes began among the edges that were lost before *edge*; the current flash is forgotten."""
        # Falling and rising edges alternate. A flash that was still to be judged counts: its end was lost.
        flashes = (edge.lost + (self._lit_ns is None)) // 2 + (self.waits_since_ns is not None)
        self._lit_ns = self._dark_ns = self.length_ns = self._again_ns = None
        self._waits = False
        return flashes

    def hold_off_from(self, at_ns: int) -> None:
        """Start the hold-off at *at_ns*, where a flash whose edges were lost is counted."""
        self._pulse_ns = at_ns

    @property
    def waits_since_ns(self) -> int | None:
        """When the flash began that is not judged yet: it may become a pulse with this time. None if there is none."""
        if self._waits and self._lit_ns is not None:
            return self._began_ns
        return self._again_ns

    def _light(self, edge: Edge) -> int | None:
        at_ns, dark_ns = edge.at_ns, self._dark_ns
        if self._sees_ends and self._lit_ns is not None and at_ns - self._began_ns <= self._longest_ns():
            # It was lit already: the dark in between was too short for the kernel to see, as with bounce, or was
            # missed.
            if self._again_ns is None and not self._waits and not self._holds_off(at_ns):
                self._again_ns = at_ns
            else:
                self.rejected += 1
            return None
        self._lit_ns, self._dark_ns = at_ns, None
        if dark_ns is not None and at_ns - dark_ns < self._settle_ns():
            self.rejected += 1
            self.flickers = at_ns - self._began_ns > FLICKER_NS
            return None
        return self._begin(at_ns, late=edge.late)

    def _unseen_ns(self, at_ns: int) -> int:
        """When the flash that ended at *at_ns* began, if that was not seen: it is taken to be as long as the last."""
        length_ns = self.length_ns or self._length_before_ns
        if self.min_flash_ns is not None or length_ns <= self._settle_ns():
            return at_ns
        earliest_ns = [at_ns - length_ns, self._dark_ns or 0]
        if self._pulse_ns is not None:
            earliest_ns.append(self._pulse_ns + self.hold_off_ns)
        return min(max(earliest_ns), at_ns)

    def _begin(self, at_ns: int, *, late: bool = False) -> int | None:
        self._length_before_ns = self.length_ns or self._length_before_ns
        self._began_ns, self.length_ns, self._waits, self.flickers = at_ns, None, False, False
        if self._holds_off(at_ns):
            if late:
                self.rejected_late += 1
            else:
                self.rejected += 1
            return None
        if self.min_flash_ns is not None:
            self._waits = True
            return None
        self._pulse_ns = at_ns
        return at_ns

    def _holds_off(self, at_ns: int) -> bool:
        return self._pulse_ns is not None and at_ns - self._pulse_ns < self.hold_off_ns

    def _settle_ns(self) -> float:
        return min(SETTLE * self.hold_off_ns, LONGEST_SETTLE_NS)

    def _longest_ns(self) -> int:
        """How long a flash may last, judging by the one before; without one before there is no limit."""
        return 2 * self._length_before_ns + self.hold_off_ns if self._length_before_ns else LONG_NS

    def _decided(self, at_ns: int) -> Sequence[int]:
        """
        Decide what a falling edge was that came while the input was lit, now that the light after it has ended.

        Bounce when the light goes out is shorter than the time to settle; a
        flash is about as long as the others.
        """
        again_ns, self._again_ns = self._again_ns, None
        if again_ns is None:
            return ()
        if at_ns - again_ns < min(self._settle_ns(), self._length_before_ns / 2):
            self.rejected += 1
            return ()
        self._lit_ns = again_ns
        time = self._begin(again_ns)
        return () if time is None else (time,)

    def _dark(self, at_ns: int) -> int | None:
        lit_ns = self._lit_ns
        self._lit_ns, self._dark_ns, self._sees_ends = None, at_ns, True
        if lit_ns is None:
            return None
        # The longest unbroken light: from the first edge to the last, or in total, a burst of short interference would
        # pass for a flash.
        short = self.length_ns is not None
        self.length_ns = max(self.length_ns or 0, at_ns - lit_ns)
        if not self._waits or self.min_flash_ns is None:
            return None
        if self.length_ns < self.min_flash_ns:
            self.too_short += not short
            return None
        self._waits = False
        self.too_short -= short
        self._pulse_ns = self._began_ns
        return self._began_ns


@dataclass(slots=True)
class Meter:
    """
    One meter while the program runs: its count, and its power from the spacing of its pulses.

    *watched_ns* is the monotonic time since which no flash has been missed, None if not known.
    """

    name: str
    constant: Constant
    flash: Flash
    count: int = 0
    watched_ns: int | None = None
    #: The time of the last pulse, None before the first since the start; and its interval since the one before, if
    #: known.
    last_ns: int | None = None
    interval_ns: int | None = None
    #: Flashes counted in place of lost edges, since the start.
    made_up: int = 0
    #: Whether last_ns is when the last pulse really came; and the time of the first edge after the last lost ones.
    _placed: bool = True
    _lost_ns: int | None = None

    def take(self, edge: Edge) -> Sequence[Counted]:
        """Take *edge*, the next one in time; return the pulses that it completes."""
        made_up = self._make_up(edge) if edge.lost else ()
        times = self.flash.take(edge)
        if not times:
            return made_up
        return (*made_up, *(self._count(at_ns) for at_ns in times))

    def _make_up(self, edge: Edge) -> Sequence[Counted]:
        """
        The flashes among the edges lost before *edge*, spread over the time in which they were lost.

        Never more than fit into that time at the limit of the main fuse, so
        that a burst of noise adds no energy.
        """
        from_ns = self._known_ns()
        lost = self.flash.lose(edge)
        self._lost_ns = edge.at_ns
        if from_ns is None:
            return ()
        gap_ns, hold_off_ns = edge.at_ns - from_ns, self.flash.hold_off_ns
        # A falling edge may itself begin a flash, which needs its share of the time.
        if not lost or gap_ns < (1 + edge.falling) * hold_off_ns:
            return ()
        # From here on it is not known when the last flash came.
        self._placed = False
        # The small addition makes up for rounding; it is less than a clock's jitter.
        room = int(gap_ns * HOLD_OFF / hold_off_ns + 1e-6) - edge.falling
        flashes = max(0, min(lost, room))
        self.made_up += flashes
        places = [from_ns + turn * gap_ns // (flashes + 1) for turn in range(1, flashes + 1)]
        if places:
            self.flash.hold_off_from(places[-1])
        return [self._count(at_ns, placed=False) for at_ns in places]

    def _known_ns(self) -> int | None:
        """The time since which no flash came, None if not known: that of the last pulse, a loss, or the beginning."""
        if not self._placed:
            return self._lost_ns
        return self.last_ns if self.last_ns is not None else self.watched_ns

    def _count(self, at_ns: int, *, placed: bool = True) -> Counted:
        self.interval_ns = None
        if self.last_ns is not None and self._placed and placed:
            self.interval_ns = at_ns - self.last_ns
        self._placed = placed
        self.last_ns = at_ns
        self.count += 1
        return Counted(self.count, at_ns, self.interval_ns)

    @property
    def register_kwh(self) -> float:
        """The running energy, in kWh."""
        return self.constant.register_at(self.count)

    def watts_at(self, now_ns: int) -> tuple[float | None, bool]:
        """
        The power to show at *now_ns* (monotonic), in watts (W), None if not known; and whether it is only a bound.

        It is the mean between the last two pulses, but never more than the
        silence since the last one allows: otherwise a load that was switched off
        would be shown for ever. Such a bound is not a measurement and is never stored.
        """
        since_ns = self._known_ns()
        if since_ns is None:
            return None, False
        known_ns = self.interval_ns or self.flash.hold_off_ns / HOLD_OFF
        silence_ns = now_ns - since_ns
        if silence_ns > known_ns:
            return self.constant.mean_watts(1, silence_ns / NS_PER_S), True
        if self.interval_ns is None:
            return None, False
        return self.constant.mean_watts(1, self.interval_ns / NS_PER_S), False
