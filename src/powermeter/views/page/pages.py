"""
What the pages show: status and history in; texts, tables and charts for the templates out.

Owns the words, the links from one span to the next and the colours of the meters. Knows neither HTTP nor templates.
Energies, notes and states are in the words of ``--report`` and ``--status``.
"""

import calendar
import datetime as dt
import itertools
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from powermeter import periods, report
from powermeter.errors import JournalError, printable
from powermeter.journal.history import History
from powermeter.meter import NS_PER_S
from powermeter.periods import Period, Span, SpanError
from powermeter.report import MeterReport, Row
from powermeter.settings.values import ShownAs
from powermeter.status import MeterStatus, Status
from powermeter.views import report as words
from powermeter.views import text
from powermeter.views.page import charts

#: How far back the line of the power goes, in hours, and its steps, in minutes: of a base load of 90 W and 1000
#: impulses per kWh a step has seven flashes.
RECENT_HOURS, STEP_MINUTES = 12, 5

#: A page has at most this many rows, so that no request takes long: a little more than a year of days.
MAX_ROWS = 400

#: Classes of the stylesheet for meters of each direction, in the order of the settings; then again from the first.
COLOURS = {"import": ("m1", "m2", "m3", "m4"), "export": ("x1", "x2")}

Context = dict[str, Any]


class Entry(NamedTuple):
    """An energy of a meter: which period's, as text, and where to read more of it."""

    name: str
    kwh: str
    link: str


@dataclass(frozen=True, slots=True)
class Energies:
    """
    What the start page shows of the history, by meter: *today*, the other *entries*, and the chart of the last *days*.

    *recent* is the chart of the last hours. *problem* is why some of it can't be read, "" if all can.
    """

    today: Mapping[str, str]
    entries: Mapping[str, Sequence[Entry]]
    days: str
    recent: str
    notes: Sequence[str]
    problem: str


def colours(shown_as: Mapping[str, str]) -> dict[str, str]:
    """
    The class of each meter; *shown_as* gives their directions.

    >>> colours({"house": "import", "roof": "export", "flat": "import"})
    {'house': 'm1', 'roof': 'x1', 'flat': 'm2'}
    """
    free = {direction: itertools.cycle(kinds) for direction, kinds in COLOURS.items()}
    return {name: next(free[direction]) for name, direction in shown_as.items()}


def legend(meters: Mapping[str, tuple[str | None, str]]) -> list[tuple[str, str]]:
    """The name and class of each of *meters*, of which the label and direction are given."""
    kinds = colours({name: direction for name, (_, direction) in meters.items()})
    return [(printable(label or name), kinds[name]) for name, (label, _) in meters.items()]


def bounded(text: str, now_ns: int) -> Span:
    """
    The span that *text* names, as :func:`powermeter.periods.parse` has it.

    Raises :exc:`~powermeter.periods.SpanError` also where it has more than :data:`MAX_ROWS` days as rows.
    """
    span = periods.parse(text, now_ns)
    if span.unit == "day" and span.days > MAX_ROWS:
        raise SpanError(f"{text} has {span.days} days, {MAX_ROWS} are allowed here: choose years, or fewer days")
    return span


# --- The start page


def now(status: Status, energies: Energies) -> Context:
    """The meters as they are now."""
    kinds = colours({name: meter.direction for name, meter in status.meters.items()})
    return {
        "meters": [
            {
                "label": printable(meter.label or name),
                "kind": kinds[name],
                "direction": meter.direction,
                "bound": "at most" if meter.watts_is_bound else "",
                "watts": "" if meter.watts is None else f"{meter.watts:,.0f}",
                "unknown": text.watts(meter) if meter.watts is None else "",
                "today": _today(meter, energies.today.get(name, "")),
                "entries": energies.entries.get(name, ()),
            }
            for name, meter in status.meters.items()
        ],
        "title": _title(status),
    }


def _title(status: Status) -> str:
    """The title in the browser's tab."""
    powers = [f"{meter.watts:,.0f} W" for meter in status.meters.values() if meter.watts is not None]
    return " · ".join([*powers, "power"])


def _today(meter: MeterStatus, recorded: str) -> str:
    """Today's energy: the program's own figure, which includes what is not on the disk yet."""
    return recorded if meter.kwh_today is None else f"{meter.kwh_today:,.3f}"


def state(status: Status, problem: str) -> Context:
    """How each part is doing, and separately those that are wrong."""
    found = text.parts(status)
    if problem:
        advice = "Counting goes on. power.py --check shows more."
        found.append(text.Part("history", f"can't be read: {problem}", is_wrong=True, advice=advice))
    return {
        "headline": text.headline(status),
        "parts": found,
        "wrong": [part for part in found if part.is_wrong],
        "left_out": ", ".join(status.left_out),
    }


def energies(journal_path: str, status: Status, now_ns: int) -> Energies:
    """What the start page shows of the history at *now_ns* (UTC, ns); an error of the journal is shown, not raised."""
    try:
        with History(journal_path) as history:
            return _energies(history, status, now_ns)
    except (sqlite3.Error, JournalError) as error:
        return Energies({}, {}, "", "", (), printable(str(error)))


def _energies(history: History, status: Status, now_ns: int) -> Energies:
    problems = []

    def rows_of(found: Sequence[Period]) -> dict[str, list[Row]]:
        rows, damage = report.without_peaks(history, found, now_ns=now_ns, running=True)
        problems.append(damage)
        return {name: rows[name] for name in status.meters if name in rows}

    (_, months, _), fortnight = periods.overview(now_ns, report.OVERVIEW_DAYS)
    this_month = months.periods()[1]
    last_year = _year_before(periods.local_day(this_month.from_ns))
    of_days, of_months = rows_of(fortnight.periods()), rows_of([this_month])
    of_last_year, recent = rows_of(last_year.periods()), periods.recent(now_ns, RECENT_HOURS, STEP_MINUTES)
    entries = {
        name: [
            _entry("yesterday", days[-2]),
            _entry("this month", of_months[name][0]),
            _entry(_month_name(last_year.first), of_last_year[name][0]),
        ]
        for name, days in of_days.items()
    }
    kinds = colours({name: meter.direction for name, meter in status.meters.items() if name in of_days})
    shown = [row for rows in of_days.values() for row in rows]
    return Energies(
        today={name: words.kwh(days[-1]) for name, days in of_days.items()},
        entries=entries,
        days=_bars("days", "Energy of the last 14 days, in kWh per day", of_days, kinds, now_ns),
        recent=_line(rows_of(recent), kinds),
        notes=[*words.notes(row for row in shown if row.kwh is None or row.approximate), *_gap_note(shown)],
        problem=printable(next(filter(None, problems), "")),
    )


def _entry(name: str, row: Row) -> Entry:
    # Without any record, the energy is unknown, and not 0.
    energy = words.kwh(row) if row.covered_s or row.kwh or row.kwh is None else ""
    return Entry(name, energy, _link_of(row.period))


def _year_before(first: dt.date) -> Span:
    """The same month of the year before, as one period."""
    before = dt.date(first.year - 1, first.month, 1)
    return Span("", "month", before, periods.next_month(before))


# --- The pages with bars


def bars(history: History, span: Span, shown_as: Mapping[str, ShownAs], now_ns: int) -> Context:
    """
    The page of *span* at *now_ns* (UTC, ns).

    Raises what :func:`powermeter.report.build` does.
    """
    built = report.build(history, span, shown_as, now_ns=now_ns, running=True)
    # A meter that has left the settings is shown where it counted something.
    meters = [meter for meter in built.meters if meter.in_settings or any(row.kwh for row in meter.rows)]
    kinds = colours({meter.name: meter.direction for meter in meters})
    rows = {meter.name: meter.rows for meter in meters if meter.rows}
    title, above = _heading(span)
    every = [row for found in rows.values() for row in found]
    return {
        "title": title,
        "above": above,
        "before": _beside(span, -1, now_ns),
        "after": _beside(span, 1, now_ns),
        "span": span.text,
        "chart": _bars("bars", f"Energy of {title}, in kWh per {span.unit}", rows, kinds, now_ns),
        "legend": legend({meter.name: (meter.label, meter.direction) for meter in meters}),
        "unit": span.unit,
        "meters": [_of_meter(meter, kinds[meter.name]) for meter in meters],
        "heads": words.HEADS,
        "notes": [*words.notes(every), *_gap_note(every)],
        "zone": printable(built.zone),
        "damage": printable(built.damage),
    }


def _of_meter(meter: MeterReport, kind: str) -> Context:
    links = [_link_of(row.period) if row.period.unit != "hour" else "" for row in meter.rows]
    rows = [
        (name, link, words.cells(row))
        for name, link, row in zip(words.names(meter.rows), links, meter.rows, strict=True)
    ]
    total = words.cells(meter.total) if meter.total else None
    return {"title": words.title(meter), "kind": kind, "direction": meter.direction, "rows": rows, "total": total}


def _heading(span: Span) -> tuple[str, list[tuple[str, str]]]:
    """What *span* is called, and the spans that it is part of, the longest first, each with its link."""
    every, first = ("all years", "bars?span=all"), span.first
    year = (str(first.year), f"bars?span={first.year}")
    if span.is_open:
        return "All years", []
    if span.unit == "month":
        return year[0], [every]
    if span.unit == "hour":
        month = (_month_name(first), f"bars?span={first:%Y-%m}")
        return f"{_weekday(first)}, {first.day} {_month_name(first)}", [every, year, month]
    if _is_month(span):
        return _month_name(first), [every, year]
    return f"{first} to {span.end - dt.timedelta(days=1)}", [every]


def _beside(span: Span, step: int, now_ns: int) -> tuple[str, str] | None:
    """The span of the same kind before (-1) or after (1) *span*, and its link; None if that is in the future."""
    first = span.first
    if span.is_open or not (span.unit in ("hour", "month") or _is_month(span)):
        return None
    if span.unit == "hour":
        beside = first + dt.timedelta(days=step)
        name, link = f"{beside.day} {_month_name(beside)}", beside.isoformat()
    elif span.unit == "month":
        beside = dt.date(first.year + step, 1, 1)
        name = link = str(beside.year)
    else:
        beside = periods.next_month(first) if step > 0 else (first - dt.timedelta(days=1)).replace(day=1)
        name, link = _month_name(beside), f"{beside:%Y-%m}"
    if beside.year < periods.FIRST_YEAR or (step > 0 and beside > periods.local_day(now_ns)):
        return None
    return name, f"bars?span={link}"


def _is_month(span: Span) -> bool:
    return span.unit == "day" and span.first.day == 1 and span.end == periods.next_month(span.first)


def _month_name(day: dt.date) -> str:
    return f"{calendar.month_name[day.month]} {day.year}"


def _weekday(day: dt.date) -> str:
    return str(calendar.day_name[day.weekday()])


def _link_of(period: Period) -> str:
    """The page of *period*, which begins with a day, month or year."""
    length = {"day": 10, "month": 7, "year": 4}[period.unit]
    return f"bars?span={periods.local_date(period.from_ns)[:length]}"


# --- Charts


def _bars(ident: str, summary: str, rows: Mapping[str, Sequence[Row]], kinds: Mapping[str, str], now_ns: int) -> str:
    """The chart of the *rows* of each meter; "" without any."""
    # Only "all" begins with another year for each meter: a period that one lacks is a gap in its bars.
    found = {name: {row.period: row for row in of} for name, of in rows.items()}
    every = sorted({period for of in found.values() for period in of}, key=lambda period: period.from_ns)
    if not every:
        return ""
    shown = []
    for period in every:
        group = [of.get(period) for of in found.values()]
        known = [row for row in group if row is not None]
        (name,) = words.names(known[:1]) or [""]
        energies = [
            f"{words.kwh(row) or 'nothing yet'}{' kWh' if words.kwh(row)[-1:].isdigit() else ''}" for row in known
        ]
        if len(found) > 1:
            meters = [meter for meter, of in found.items() if period in of]
            energies = [f"{printable(meter)} {energy}" for meter, energy in zip(meters, energies, strict=True)]
        has_gap = any(_has_gap(row) for row in known)
        sentence = f"{name}: {', '.join(energies)}{'; not counted for some of it' if has_gap else ''}"
        shown.append(
            charts.Bar(
                label=_short(period, len(every)),
                values=[None if row is None else row.kwh for row in group],
                words=sentence,
                link="" if period.unit == "hour" else _link_of(period),
                has_gap=has_gap,
                is_now=period.from_ns <= now_ns < period.to_ns,
            )
        )
    return charts.bars(ident, summary, [kinds[name] for name in found], shown)


def _short(period: Period, count: int) -> str:
    """The label of *period* on an axis with *count* of them."""
    date = periods.local_date(period.from_ns)
    if period.unit == "hour":
        return periods.local_time(period.from_ns)[11:13]
    if period.unit == "day":
        return str(int(date[8:])) if count <= 31 else date[5:]
    return calendar.month_abbr[int(date[5:7])] if period.unit == "month" else date[:4]


def _has_gap(row: Row) -> bool:
    """Whether nothing could be counted in some of *row*, so that it is to be seen: a hundredth, and a minute."""
    length_s = (row.period.to_ns - row.period.from_ns) / NS_PER_S
    return row.uncovered_s is not None and row.uncovered_s >= max(60.0, length_s / 100)


def _gap_note(rows: Sequence[Row]) -> list[str]:
    return ["Striped: nothing could be counted in some of that time."] if any(map(_has_gap, rows)) else []


def _line(rows: Mapping[str, Sequence[Row]], kinds: Mapping[str, str]) -> str:
    """The chart of the power of the last hours; "" without any."""
    if not rows:
        return ""
    found = next(iter(rows.values()))
    begin_ns, end_ns = found[0].period.from_ns, found[-1].period.to_ns
    gaps = [any(_has_gap(row) for row in at) for at in zip(*rows.values(), strict=True)]
    ticks = []
    for row in found:
        at_ns = row.period.from_ns
        time = periods.local_time(at_ns)[11:16]
        if time.endswith("00") and int(time[:2]) % 2 == 0:
            ticks.append(charts.Tick(100 * (at_ns - begin_ns) / (end_ns - begin_ns), time))
    series = [(kinds[name], [row.mean_w for row in of]) for name, of in rows.items()]
    highest = [
        f"{printable(name)} at most {max((row.mean_w or 0.0 for row in of), default=0.0):,.0f} W, "
        f"{sum(row.kwh or 0.0 for row in of):,.3f} kWh"
        for name, of in rows.items()
    ]
    summary = f"Power of the last {RECENT_HOURS} hours, in W: {'; '.join(highest)}"
    return charts.steps("recent", summary, series, gaps, ticks)
