"""
Edges to pulses, pulses to watts and watt-hours. Pure: no clock, no file, no thread.

The count of pulses, an ``int``, is the truth; power, energy and register are
derived from it and never summed up, so no rounding error can grow.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: A pulse is 3.6 MJ / (impulses per kWh), as 1 kWh = 3.6 MJ.
JOULES_PER_KWH = 3.6e6
NS_PER_S = 1_000_000_000

#: The part of the shortest spacing of pulses in which an edge is bounce.
#: Below 1, so that a load at the fuse's limit with jitter loses nothing.
HOLD_OFF = 0.7

#: A flash is over once the input has been dark for this part of the hold-off, at most this long (ns): an edge before
#: that is bounce of its end, which may come later than any hold-off. Light that fades slowly through the input's
#: threshold crosses it many times (tests/kernel/traces/slow_ramp.trace).
SETTLE = 0.1
LONGEST_SETTLE_NS = 5_000_000

#: A flash that has not settled for this long, in ns, is none: other light flickers on the sensor, and hides flashes.
FLICKER_NS = 60 * NS_PER_S

#: Longer than any time, in ns.
LONG_NS = 2**63


class Edge(NamedTuple):
    """
    A change of the light on one input, as a board gives it.

    *meter* is its place in the settings, *at_ns* its monotonic time; it is
    *falling* where the light came. *lost* edges of this meter just before it
    were dropped for want of room. It is *late* where the board can't tell when
    between a stall of the program and now it came.
    """

    meter: int
    at_ns: int
    falling: bool = True
    lost: int = 0
    late: bool = False


class Counted(NamedTuple):
    """A pulse as the meter counts it: its running number, monotonic time, and time since the one before, if known."""

    number: int
    at_ns: int
    interval_ns: int | None


class Pulse(NamedTuple):
    """
    One counted pulse, as every writer gets it.

    *number* is the meter's running count with it; *time_ns* UTC, in ns since 1970; *watts* the mean power since the
    meter's previous pulse, None if that is not known; *watt_hours* the energy
    of this pulse; *register_kwh* the running energy with this pulse.
    """

    # Not a dataclass: a tuple is made in a third of the time, once a pulse and writer.
    meter: str
    number: int
    time_ns: int
    watts: float | None
    watt_hours: float
    register_kwh: float


@dataclass(frozen=True, slots=True)
class Constant:
    """
    A meter constant and the stretch of the count it holds for.

    It is in force from pulse number *from_count* + 1 on; *register_kwh* is the
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
    The energy of the pulses behind *after* up to *last*, in kWh; *constants* are the meter's, by their counts.

    It is the count times what a pulse is worth, and never a difference of registers: these are set to the meter's face.

    >>> kwh_of([Constant(1000), Constant(500, from_count=10, register_kwh=12345.6)], after=5, last=20)
    0.025
    """
    if len(constants) == 1:  # as nearly always: a peak asks thousands of times
        return (last - after) / constants[0].impulses_per_kwh
    kwh = 0.0
    for index, constant in enumerate(constants):
        end = constants[index + 1].from_count if index + 1 < len(constants) else last
        # What comes before the first one is worth the same.
        begin = constant.from_count if index else min(after, constant.from_count)
        kwh += max(0, min(end, last) - max(begin, after)) / constant.impulses_per_kwh
    return kwh


def hold_off_ns(impulses_per_kwh: float, max_watts: float) -> int:
    """
    The time after a pulse in which further edges are bounce, in ns.

    It is :data:`HOLD_OFF` of the shortest spacing that *max_watts*, the limit
    of the main fuse, allows. At 24 kW and 1,000 impulses per kWh:

    >>> hold_off_ns(impulses_per_kwh=1000, max_watts=24000)
    105000000
    """
    return round(HOLD_OFF * NS_PER_S * JOULES_PER_KWH / (impulses_per_kwh * max_watts))


@dataclass(slots=True)
class Flash:
    """
    What the light of one LED does: edges to flashes, of any length and with bounce.

    A flash is light from a falling edge on until the input has settled in the
    dark. It is a pulse where it begins no sooner than the hold-off after the
    last one and, with *min_flash_ns*, has shone that long. The counts of edges
    and flashes are since the start.
    """

    hold_off_ns: int
    min_flash_ns: int | None = None
    #: The last edge's time, None before the first; for how long the last flash has shone without a break, None if not
    #: known; and whether it has gone on for too long to be one.
    edge_ns: int | None = None
    length_ns: int | None = None
    flickers: bool = False
    #: Falling edges taken for bounce; those of them after a stall that the board can't place; flashes shorter than
    #: min_flash_ns.
    rejected: int = 0
    rejected_late: int = 0
    too_short: int = 0
    #: When the last pulse came; when the flash under way, or the last one, began; since when it is lit, None in the
    #: dark; since when it is dark, None if not known; and how long the flash before has shone.
    _pulse_ns: int | None = None
    _began_ns: int = 0
    _lit_ns: int | None = None
    _dark_ns: int | None = None
    _length_before_ns: int = 0
    #: Whether ends of flashes are seen at all; whether the flash waits to have shone min_flash_ns; and when a falling
    #: edge came while it was lit, which may be bounce or, where its end was not seen, the next flash.
    _sees_ends: bool = False
    _waits: bool = False
    _again_ns: int | None = None

    def take(self, edge: Edge) -> Sequence[int]:
        """
        Take *edge*, the next one in time; return the times of the flashes that are known to be pulses now.

        Not the library's bouncetime: it drops a flash shorter than itself.
        The hold-off runs from the last pulse, not from the last edge. A line
        that never settles in the dark holds it up all the same: it flickers.
        """
        times = self._decided(edge.at_ns)
        if edge.falling:
            time = self._light(edge)
        elif self._dark_ns is None:
            time = self._dark(edge.at_ns)
        else:
            # Dark already: the light came and went before the kernel looked which it was, or its coming was not seen.
            time = self._light(edge._replace(at_ns=self._unseen_ns(edge.at_ns)))
            ended = self._dark(edge.at_ns)
            time = ended if time is None else time
            self._lit_ns, self._dark_ns = None, edge.at_ns
        self.edge_ns = edge.at_ns
        return times if time is None else (*times, time)

    def lose(self, edge: Edge) -> int:
        """How many flashes began among the edges that were lost before *edge*; what was under way is forgotten."""
        # Edges fall and rise by turns; and a flash that waited to be judged is not seen to end.
        flashes = (edge.lost + (self._lit_ns is None)) // 2 + (self.waits_since_ns is not None)
        self._lit_ns = self._dark_ns = self.length_ns = self._again_ns = None
        self._waits = False
        return flashes

    def hold_off_from(self, at_ns: int) -> None:
        """Let the hold-off begin at *at_ns*: a flash whose edges were lost is counted there."""
        self._pulse_ns = at_ns

    @property
    def waits_since_ns(self) -> int | None:
        """When the flash began that is not judged yet, None without one: it may become a pulse of that time."""
        if self._waits and self._lit_ns is not None:
            return self._began_ns
        return self._again_ns

    def _light(self, edge: Edge) -> int | None:
        at_ns, dark_ns = edge.at_ns, self._dark_ns
        if self._sees_ends and self._lit_ns is not None and at_ns - self._began_ns <= self._longest_ns():
            # Lit already: the dark in between was too short for the kernel to see, as bounce is, or was not seen.
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
        """When a flash began that ended at *at_ns* and was not seen to begin: as long before as the last one shone."""
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
        """How long one flash may shine by what the one before did; without one before, as long as it likes."""
        return 2 * self._length_before_ns + self.hold_off_ns if self._length_before_ns else LONG_NS

    def _decided(self, at_ns: int) -> Sequence[int]:
        """
        What the falling edge was that came while it was lit, now that it is known how long it was lit after it.

        Light that goes out does so with bounce, which is shorter than it takes
        to settle; a flash is as long as the others, by and large.
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
        # At a stretch: neither from the first edge to the last nor in all, or much short interference were a flash.
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
    One meter while the program runs: its count, and the power by the spacing of its pulses.

    *watched_ns* is the monotonic time from which no flash was missed, None if not known.
    """

    name: str
    constant: Constant
    flash: Flash
    count: int = 0
    watched_ns: int | None = None
    #: The last pulse's time, None before the first since the start; the time from the pulse before to it, if known.
    last_ns: int | None = None
    interval_ns: int | None = None
    #: Flashes that were counted in place of lost edges, since the start.
    made_up: int = 0
    #: Whether last_ns is when the last pulse came; and the edge behind the last lost ones.
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
        The flashes among the edges lost before *edge*, spread over the time in which they came.

        No more than fit into it at the limit of the main fuse, so that a burst
        of noise makes no energy.
        """
        from_ns = self._known_ns()
        lost = self.flash.lose(edge)
        self._lost_ns = edge.at_ns
        if from_ns is None:
            return ()
        gap_ns, hold_off_ns = edge.at_ns - from_ns, self.flash.hold_off_ns
        # A falling edge may be a flash itself, and needs its own time.
        if not lost or gap_ns < (1 + edge.falling) * hold_off_ns:
            return ()
        # From here on it is not known when the last flash was.
        self._placed = False
        # What is added is less than a clock's jitter.
        room = int(gap_ns * HOLD_OFF / hold_off_ns + 1e-6) - edge.falling
        flashes = max(0, min(lost, room))
        self.made_up += flashes
        places = [from_ns + turn * gap_ns // (flashes + 1) for turn in range(1, flashes + 1)]
        if places:
            self.flash.hold_off_from(places[-1])
        return [self._count(at_ns, placed=False) for at_ns in places]

    def _known_ns(self) -> int | None:
        """The time since which no flash came, None if not known: of the last pulse, of a loss, or of the beginning."""
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
        Power shown at *now_ns*, monotonic, in watts (W), and whether it is but a bound; None if not known.

        It is the mean since the previous pulse; but never more than the
        silence since the last one allows, or a load switched off would be
        shown for ever. Such a bound is no measurement and is never stored.
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
