"""
A report: what each meter counted in the periods of a span, as values for every view of the history.

Owns what the numbers of a row mean: energy, mean and peak power, and for how long nothing was counted. Knows no text.
"""

import bisect
import functools
import itertools
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from powermeter import periods
from powermeter.journal.history import Energy, Gap, History, Peak
from powermeter.journal.readings import Reading
from powermeter.journal.tables import is_damage
from powermeter.meter import NS_PER_S
from powermeter.periods import Period, Span
from powermeter.settings.values import ShownAs

#: The longest span whose peaks are looked for, in days: two months.
MAX_PEAK_DAYS = 62

#: How many days and readings the overview has.
OVERVIEW_DAYS, OVERVIEW_READINGS = 14, 10

#: One kWh, in W x ns.
WATT_NS_PER_KWH = 3.6e6 * NS_PER_S

T = TypeVar("T")


# Not dataclasses: making these takes ms of a command that should take 80.


class Row(NamedTuple):
    """
    What a meter counted in *period*; *name*: "today" or the like, "" where the period says it all.

    *kwh* is None where damage keeps it from being read, and *approximate* where pulses once thinned to one per hour lie
    at its ends. *mean_w* is over *covered_s*, in which it was counted; None where that is 0. *peak_w* is the highest
    mean over a quarter of an hour by the clock, which began at *peak_from_ns* (UTC, ns); None in a long span. For
    *uncovered_s* nothing could be counted; None where that was not recorded yet. What is still to come of the period is
    neither covered nor uncovered.
    """

    name: str
    period: Period
    kwh: float | None
    mean_w: float | None
    peak_w: float | None
    peak_from_ns: int | None
    covered_s: float
    uncovered_s: float | None
    approximate: bool

    @property
    def is_to_come(self) -> bool:
        """Whether all of the period is still to come."""
        return self.covered_s == 0 and self.uncovered_s == 0 and not self.kwh


class MeterReport(NamedTuple):
    """
    One meter: its *rows*, and their *total*; the overview has no total, and the last *days* follow.

    *in_settings* is None where the settings are not known.
    """

    name: str
    label: str | None
    direction: str
    in_settings: bool | None
    rows: tuple[Row, ...]
    total: Row | None
    days: tuple[Row, ...]


class Report(NamedTuple):
    """
    All of it; *span* is as it was written, "" for the overview. Only that has *readings*, the newest first.

    *zone* is the machine's. *damage* is what SQLite says where a damaged journal kept something from being read.
    """

    span: str
    zone: str
    simulated: bool
    meters: tuple[MeterReport, ...]
    readings: tuple[Reading, ...]
    damage: str


def build(
    history: History,
    span: Span | None,
    shown_as: Mapping[str, ShownAs] | None,
    *,
    now_ns: int,
    running: bool,
    simulated: bool = False,
) -> Report:
    """
    The report of *span*, or with None the overview, from *history*.

    *shown_as* are the meters of the settings, None where these are not known; *now_ns* is in UTC; *running*: whether a
    program counts. Raises :exc:`~powermeter.periods.SpanError`, and :exc:`sqlite3.Error` where nothing can be read.
    """
    asked = _Asked(history, now_ns, running=running)
    meters = []
    for name in history.meters():
        known = (shown_as or {}).get(name, ShownAs(None, "import"))
        rows, days = (asked.rows(name, span), []) if span else _of_overview(asked, name)
        meters.append(
            MeterReport(
                name=name,
                label=known.label,
                direction=known.direction,
                in_settings=None if shown_as is None else name in shown_as,
                rows=tuple(rows),
                total=_total(rows) if span and rows else None,
                days=tuple(days),
            )
        )
    return Report(
        span=span.text if span else "",
        zone=periods.zone(),
        simulated=simulated,
        meters=tuple(meters),
        readings=() if span else tuple(asked.or_else((), lambda: history.readings(OVERVIEW_READINGS))),
        damage=asked.damage,
    )


def without_peaks(
    history: History, found: Sequence[Period], *, now_ns: int, running: bool
) -> tuple[dict[str, list[Row]], str]:
    """
    The rows of each meter in the periods *found*, of any length, each of which begins where the one before ends.

    They have no peaks, for which all quarters of an hour would be looked up. Also returns what SQLite says of damage,
    "" without any. *now_ns*, *running* and what is raised are as for :func:`build`.
    """
    asked = _Asked(history, now_ns, running=running)
    rows = {name: asked.rows_of(name, found, with_peaks=False) for name in history.meters()}
    return rows, asked.damage


def _of_overview(asked: "_Asked", meter: str) -> tuple[list[Row], list[Row]]:
    pairs, days = periods.overview(asked.now_ns, OVERVIEW_DAYS)
    names = [("yesterday", "today"), ("last month", "this month"), ("last year", "this year")]
    rows = [
        row for pair, of_pair in zip(pairs, names, strict=True) for row in reversed(asked.rows(meter, pair, of_pair))
    ]
    return rows, asked.rows(meter, days)


class _Asked:
    """The *history*, asked for all rows at once; where damage is met, for each by itself."""

    def __init__(self, history: History, now_ns: int, *, running: bool) -> None:
        self._history, self.now_ns, self._running = history, now_ns, running
        self.damage = ""

    def rows(self, meter: str, span: Span, names: Sequence[str] = ()) -> list[Row]:
        """The rows of *span*, called *names*."""
        begins_ns = self._begins_ns(meter)
        found = span.beginning(self.now_ns if begins_ns is None else begins_ns).periods()
        return self.rows_of(meter, found, names, with_peaks=span.days <= MAX_PEAK_DAYS)

    def rows_of(self, meter: str, found: Sequence[Period], names: Sequence[str] = (), *, with_peaks: bool) -> list[Row]:
        """The rows of the periods *found*, each of which begins where the one before ends."""
        if not found:
            return []
        history, now_ns, begins_ns = self._history, self.now_ns, self._begins_ns(meter)
        times_ns = [found[0].from_ns, *(period.to_ns for period in found)]
        energies = self._each(times_ns, lambda times: history.energy(meter, times))
        peaks: Sequence[Peak | None] = [None] * len(found)
        if with_peaks:
            peaks = self._each(times_ns, lambda times: history.peaks(meter, times))
        no_gaps: tuple[int | None, list[Gap]] = None, []
        since_ns, gaps = self.or_else(
            no_gaps,
            lambda: history.gaps(meter, times_ns[0], min(times_ns[-1], now_ns), now_ns, self._running),
        )
        return [
            _row(name, period, energy, peak, _coverage(period, begins_ns, since_ns, gaps, now_ns))
            for name, period, energy, peak in zip(names or [""] * len(found), found, energies, peaks, strict=True)
        ]

    def _begins_ns(self, meter: str) -> int | None:
        return self.or_else(None, lambda: self._history.begins_ns(meter))

    def or_else(self, otherwise: T, read: Callable[[], T]) -> T:
        """What *read* gives, *otherwise* where damage is met."""
        try:
            return read()
        except sqlite3.Error as error:
            if not is_damage(error):
                raise
            self.damage = self.damage or str(error)
            return otherwise

    def _each(self, times_ns: list[int], read: Callable[[list[int]], Sequence[T]]) -> list[T | None]:
        """What *read* gives between each of *times_ns* and the next; None for those in which damage is met."""
        if (found := self.or_else(None, lambda: read(times_ns))) is not None:
            return list(found)

        def read_one(pair: tuple[int, int]) -> T:
            return read(list(pair))[0]

        return [self.or_else(None, functools.partial(read_one, pair)) for pair in itertools.pairwise(times_ns)]


def _coverage(
    period: Period, begins_ns: int | None, since_ns: int | None, gaps: Sequence[Gap], now_ns: int
) -> tuple[int, int | None]:
    """
    For how long it was counted in *period*, and for how long not (ns); the latter is None where nobody knows.

    The *gaps* are known since *since_ns*. Before the meter's record *begins_ns* nothing was counted; None of it: never.
    """
    end_ns = max(period.from_ns, min(period.to_ns, now_ns))
    begins_ns = end_ns if begins_ns is None else min(max(begins_ns, period.from_ns), end_ns)
    # They are in order, and none overlaps another.
    first = bisect.bisect_right(gaps, begins_ns, key=lambda gap: gap.to_ns)
    end = bisect.bisect_left(gaps, end_ns, key=lambda gap: gap.from_ns)
    inside = sum(min(gap.to_ns, end_ns) - max(gap.from_ns, begins_ns) for gap in gaps[first:end])
    covered_ns = end_ns - begins_ns - inside
    is_known = begins_ns == end_ns or (since_ns is not None and since_ns <= begins_ns)
    return covered_ns, end_ns - period.from_ns - covered_ns if is_known else None


def _row(name: str, period: Period, energy: Energy | None, peak: Peak | None, coverage: tuple[int, int | None]) -> Row:
    covered_ns, uncovered_ns = coverage
    kwh = None if energy is None else energy.kwh
    return Row(
        name=name,
        period=period,
        kwh=kwh,
        mean_w=_mean_w(kwh, covered_ns),
        peak_w=None if peak is None else peak.watts,
        peak_from_ns=None if peak is None else peak.from_ns,
        covered_s=covered_ns / NS_PER_S,
        uncovered_s=None if uncovered_ns is None else uncovered_ns / NS_PER_S,
        approximate=energy is not None and energy.approximate,
    )


def _mean_w(kwh: float | None, covered_ns: float) -> float | None:
    return kwh * WATT_NS_PER_KWH / covered_ns if kwh is not None and covered_ns > 0 else None


def _total(rows: Sequence[Row]) -> Row:
    """All *rows* as one; what is not known of one of them is not known of all."""
    energies = [row.kwh for row in rows]
    uncovered = [row.uncovered_s for row in rows]
    covered_s = sum(row.covered_s for row in rows)
    kwh = None if None in energies else sum(filter(None, energies))
    peak = max((row for row in rows if row.peak_w is not None), key=lambda row: row.peak_w or 0.0, default=None)
    return Row(
        name="total",
        period=Period(rows[0].period.unit, rows[0].period.from_ns, rows[-1].period.to_ns),
        kwh=kwh,
        mean_w=_mean_w(kwh, covered_s * NS_PER_S),
        peak_w=peak and peak.peak_w,
        peak_from_ns=peak and peak.peak_from_ns,
        covered_s=covered_s,
        uncovered_s=None if None in uncovered else sum(filter(None, uncovered)),
        approximate=rows[0].approximate or rows[-1].approximate,
    )
