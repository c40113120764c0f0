"""
The periods of a report: spans of local time as people name them, cut into hours, days, months and years.

Owns how a span is written and when a local hour, day, month or year begins, by the machine's zone; hides how the clocks
change: days of 23 and 25 hours, days without a midnight, and changes by half an hour.
"""

import calendar
import datetime as dt
import itertools
import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple

from powermeter.errors import PowerError
from powermeter.meter import NS_PER_S

#: The years that nanoseconds since 1970 in SQLite's integers have as a whole, in any zone.
FIRST_YEAR, LAST_YEAR = 1970, 2261

#: What a span may be, in words.
ALLOWED = (
    "today, yesterday, all, a date, month or year such as 2026-11-23, 2026-11 or 2026, "
    f"or two dates such as 2026-10-15..2026-11-14, from {FIRST_YEAR} to {LAST_YEAR}"
)

#: No zone is further than that from UTC, in s.
MAX_OFFSET_S = 26 * 3600


class SpanError(PowerError, ValueError):
    """A text is no span of time."""


class Period(NamedTuple):
    """One *unit* of local time, or what a span has of it: [*from_ns*, *to_ns*) in UTC, ns."""

    unit: str  # "minutes", "hour", "day", "month", "year"
    from_ns: int
    to_ns: int


class Span(NamedTuple):
    """
    The days from *first* up to, but not with, *end*, to be shown by a *unit*.

    *text* is how it was written. *is_open*: "all", which begins with the first year that has data.
    """

    text: str
    unit: str
    first: dt.date
    end: dt.date
    is_open: bool = False

    @property
    def days(self) -> int:
        """How many days it has by the calendar."""
        return (self.end - self.first).days

    def beginning(self, since_ns: int) -> "Span":
        """The same, but where it is open it begins with the year of *since_ns* (UTC, ns)."""
        if not self.is_open:
            return self
        first = max(dt.date(local_day(since_ns).year, 1, 1), self.first)
        return Span(self.text, self.unit, min(first, self.end), self.end)

    def periods(self) -> list[Period]:
        """Its periods in order, without a gap between two. Raises :exc:`SpanError`."""
        try:
            if self.unit == "hour":
                starts = _hours(_start_s(self.first), _start_s(self.end))
            else:
                starts = [_start_s(day) for day in _begins(self.unit, self.first, self.end)]
        except (OverflowError, OSError) as error:  # 32-bit systems end in 2038
            raise SpanError(f"{self.text}: this machine's clock does not reach that far") from error
        pairs = itertools.pairwise(starts)
        # A day that a zone has skipped has no length: Samoa's 2011-12-30.
        return [Period(self.unit, a * NS_PER_S, b * NS_PER_S) for a, b in pairs if a < b]


def parse(text: str, now_ns: int) -> Span:
    """
    The span that *text* names; *now_ns* (UTC, ns) is when today is.

    Raises :exc:`SpanError`.
    """
    today = local_day(now_ns)
    if text in ("today", "yesterday"):
        first = today if text == "today" else today - dt.timedelta(days=1)
        return Span(text, "hour", first, first + dt.timedelta(days=1))
    if text == "all":
        return Span(text, "year", dt.date(FIRST_YEAR, 1, 1), dt.date(today.year + 1, 1, 1), is_open=True)
    if match := re.fullmatch(r"([0-9]{4})(?:-([0-9]{2}))?(?:-([0-9]{2}))?", text):
        year, month, day = match.groups()
        first = _date(text, year, month or "1", day or "1")
        if day:
            return Span(text, "hour", first, first + dt.timedelta(days=1))
        if month:
            return Span(text, "day", first, next_month(first))
        return Span(text, "month", first, dt.date(first.year + 1, 1, 1))
    if match := re.fullmatch(r"([0-9]{4})-([0-9]{2})-([0-9]{2})\.\.([0-9]{4})-([0-9]{2})-([0-9]{2})", text):
        first, last = _date(text, *match.groups()[:3]), _date(text, *match.groups()[3:])
        if last < first:
            raise SpanError(f"{text} ends before it begins: write the earlier date first")
        return Span(text, "day", first, last + dt.timedelta(days=1))
    raise _unknown(text)


def _date(text: str, year: str, month: str, day: str) -> dt.date:
    if not FIRST_YEAR <= int(year) <= LAST_YEAR:
        raise _unknown(text)
    try:
        return dt.date(int(year), int(month), int(day))
    except ValueError:
        raise _unknown(text) from None


def _unknown(text: str) -> SpanError:
    return SpanError(f"found {text[:60]!r}, allowed: {ALLOWED}")


def overview(now_ns: int, days: int) -> tuple[list[Span], Span]:
    """
    What is shown where no span is named: pairs of periods, and the last *days* up to today.

    The pairs are yesterday and today, last month and this, last year and this.
    """
    today = local_day(now_ns)
    tomorrow = today + dt.timedelta(days=1)
    month, year = today.replace(day=1), today.replace(month=1, day=1)
    last_month = (month - dt.timedelta(days=1)).replace(day=1)
    pairs = [
        Span("", "day", today - dt.timedelta(days=1), tomorrow),
        Span("", "month", last_month, next_month(month)),
        Span("", "year", year.replace(year=year.year - 1), year.replace(year=year.year + 1)),
    ]
    return pairs, Span("", "day", tomorrow - dt.timedelta(days=days), tomorrow)


def recent(now_ns: int, hours: int, minutes: int) -> list[Period]:
    """The last *hours* up to *now_ns* (UTC, ns) in steps of so many *minutes*, the last of which is not over yet."""
    step_ns = 60 * minutes * NS_PER_S
    end_ns = (now_ns // step_ns + 1) * step_ns
    return [Period("minutes", at, at + step_ns) for at in range(end_ns - hours * 3600 * NS_PER_S, end_ns, step_ns)]


def next_month(day: dt.date) -> dt.date:
    """The first of the month behind that of *day*."""
    return dt.date(day.year + day.month // 12, day.month % 12 + 1, 1)


def local_day(time_ns: int) -> dt.date:
    """The local day of *time_ns* (UTC, ns)."""
    return dt.date(*time.localtime(time_ns // NS_PER_S)[:3])


def local_date(time_ns: int) -> str:
    """The local date of *time_ns* (UTC, ns), as 2026-11-23."""
    return local_day(time_ns).isoformat()


def local_time(time_ns: int) -> str:
    """The local time of *time_ns* (UTC, ns) to the second, with its offset, as 2026-11-23T07:15:00+01:00."""
    found = time.localtime(time_ns // NS_PER_S)
    zone = dt.timezone(dt.timedelta(seconds=found.tm_gmtoff))
    return dt.datetime(*found[:5], min(found.tm_sec, 59), tzinfo=zone).isoformat()


def zone() -> str:
    """The name of the machine's zone, as Europe/Berlin; its abbreviation where it has no name."""
    if (unknown := unknown_zone()) is not None:
        return f"UTC, as {unknown!r} is no time zone"
    name = os.environ.get("TZ", "").removeprefix(":")
    if "TZ" not in os.environ:
        _, _, name = os.path.realpath("/etc/localtime").partition("/zoneinfo/")
    return name if name and name.isprintable() else time.tzname[0]


def unknown_zone() -> str | None:
    """What TZ names, where the system knows no such zone and silently uses UTC (tzset(3)); None without a mistake."""
    name = os.environ.get("TZ", "").removeprefix(":")
    # An offset, as "CET-1CEST", and "<+03>-3", needs no file (POSIX, "TZ").
    if name in ("", "UTC") or re.match(r"([A-Za-z]{3,}|<[A-Za-z0-9+-]{3,}>)[+-]?[0-9]", name):
        return None
    known = os.path.isfile(os.path.join("/usr/share/zoneinfo", name))
    return None if known else name


# --- When it begins


def _begins(unit: str, first: dt.date, end: dt.date) -> list[dt.date]:
    """The first day of each *unit* from *first* on, and *end*."""
    days = []
    day = first
    while day < end:
        days.append(day)
        if unit == "day":
            day += dt.timedelta(days=1)
        else:
            day = next_month(day) if unit == "month" else dt.date(day.year + 1, 1, 1)
    return [*days, end]


def _start_s(day: dt.date) -> int:
    """The first second of the local *day* (UTC, s)."""
    midnight = (day.year, day.month, day.day)
    guess = int(time.mktime((*midnight, 0, 0, 0, 0, 0, -1)))
    if time.localtime(guess)[:6] == (*midnight, 0, 0, 0) and time.localtime(guess - 1)[:3] < midnight:
        return guess
    # There is no midnight where the clocks are set forward at it, and two where they are set back to it.
    utc = calendar.timegm((*midnight, 0, 0, 0))
    return _first(utc - MAX_OFFSET_S, utc + MAX_OFFSET_S, lambda s: time.localtime(s)[:3] >= midnight)


def _hours(start_s: int, end_s: int) -> list[int]:
    """
    Where each hour begins from *start_s* to *end_s* (UTC, s), and *end_s*.

    An hour lasts as long as the clock shows the same one, by the same offset from UTC: so the hour that comes twice in
    autumn is two, and where the clocks change by half an hour there is one of half an hour.
    """
    starts = []
    now_s = start_s
    while now_s < end_s:
        starts.append(now_s)
        now = time.localtime(now_s)
        next_s = min(now_s + 3600 - 60 * now.tm_min - now.tm_sec, end_s)
        shown = (now.tm_hour, now.tm_gmtoff)

        def is_another(second: int, shown: tuple[int, int] = shown) -> bool:
            found = time.localtime(second)
            return (found.tm_hour, found.tm_gmtoff) != shown

        now_s = _first(now_s, next_s, is_another) if is_another(next_s - 1) else next_s
    return [*starts, end_s]


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The first number behind *low* for which *holds* is true; it is for *high*, and for all between."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high
