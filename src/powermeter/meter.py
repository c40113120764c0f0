"""
Pulses to watts and watt-hours, and the hold-off. Pure: no clock, no file, no thread.

The count of pulses, an ``int``, is the truth; power, energy and register are
derived from it and never summed up, so no rounding error can grow.
"""

from dataclasses import dataclass
from typing import NamedTuple

#: A pulse is 3.6 MJ / (impulses per kWh), as 1 kWh = 3.6 MJ.
JOULES_PER_KWH = 3.6e6
NS_PER_S = 1_000_000_000

#: The part of the shortest spacing of pulses in which an edge is bounce.
#: Below 1, so that a load at the fuse's limit with jitter loses nothing.
HOLD_OFF = 0.7


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
class Meter:
    """
    One meter while the program runs: its count, and which edges are pulses.

    *count* is the number of its last pulse, *last_ns* that pulse's monotonic
    time, None before the first since the start, *interval_ns* the time from
    the pulse before to the last, None where that is not known. *rejected*
    counts the edges taken for bounce since the start.
    """

    name: str
    constant: Constant
    hold_off_ns: int
    count: int = 0
    last_ns: int | None = None
    interval_ns: int | None = None
    rejected: int = 0

    def edge(self, at_ns: int) -> bool:
        """
        Take a falling edge at *at_ns*, monotonic; tell whether it is a pulse.

        Not the library's bouncetime: it drops a flash shorter than itself.
        The hold-off runs from the last pulse, not from the last edge, so that
        a noisy line can't hold it up for ever.
        """
        if self.last_ns is not None:
            since_ns = at_ns - self.last_ns
            if since_ns < self.hold_off_ns:
                self.rejected += 1
                return False
            self.interval_ns = since_ns
        self.last_ns = at_ns
        self.count += 1
        return True

    @property
    def register_kwh(self) -> float:
        """The running energy, in kWh."""
        return self.constant.register_at(self.count)

    def watts_at(self, now_ns: int) -> float | None:
        """
        Power shown at *now_ns*, monotonic, in watts (W); None if not known.

        It is the mean since the previous pulse; but never more than the
        silence since the last one allows, or a load switched off would be
        shown for ever.
        """
        if self.interval_ns is None or self.last_ns is None:
            return None
        watts = self.constant.mean_watts(1, self.interval_ns / NS_PER_S)
        silence_s = (now_ns - self.last_ns) / NS_PER_S
        return min(watts, self.constant.mean_watts(1, silence_s)) if silence_s > 0 else watts
