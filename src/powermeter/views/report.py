"""A report for a terminal, for spreadsheets and for programs."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from powermeter.errors import printable
from powermeter.journal.readings import Reading
from powermeter.meter import NS_PER_S
from powermeter.periods import local_date, local_time
from powermeter.report import MeterReport, Report, Row
from powermeter.views import duration

#: The columns of CSV, and the names in JSON. Cost and currency stay empty until there are tariffs.
NAMES = ("from", "to", "meter", "kwh", "cost", "currency", "mean_w", "peak_w", "peak_from", "uncovered_s")

#: At the beginning of a cell a spreadsheet takes these for a formula (OWASP, "CSV Injection").
FORMULA = ("=", "+", "-", "@", "\t", "\r")

#: The longest bar, in columns; what it is drawn with, and what where the encoding lacks that.
MAX_BAR, BLOCK, PLAIN_BLOCK = 40, "\u2588", "#"

#: A local day may have more than 24 hours.
LONGEST_DAY_NS = 30 * 3600 * NS_PER_S

#: In a terminal: bold, and no longer so (ECMA-48, SGR).
BOLD, NORMAL = "\x1b[1m", "\x1b[0m"


# --- Programs and spreadsheets


def as_csv(report: Report) -> str:
    """
    *report* as CSV (RFC 4180, but for the end of a line): :data:`NAMES`, and one line per meter and period.

    Times are local, with their offset; whole days and longer have plain dates. *to* is the first moment, or day, behind
    the period.
    """
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\r\n")
    lines.writerow(NAMES)
    for meter in report.meters:
        name = printable(meter.name).replace("\n", " ")
        # Today is among the last days too.
        rows = {(row.period.from_ns, row.period.to_ns): row for row in (*meter.days, *meter.rows)}
        for row in rows.values():
            values = _values(row) | {"meter": f"'{name}" if name.startswith(FORMULA) else name}
            lines.writerow(_cell(values[key]) for key in NAMES)
    return out.getvalue()


def _cell(value: float | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return "" if value is None else str(value)


def as_json(report: Report) -> str:
    """*report* as one object of JSON on one line."""
    return json.dumps(as_dict(report)) + "\n"


def as_dict(report: Report) -> dict[str, Any]:
    """*report* as JSON can hold it."""
    return {
        "span": report.span,
        "zone": report.zone,
        "simulated": report.simulated,
        "damage": report.damage,
        "meters": [
            {
                "meter": meter.name,
                "label": meter.label,
                "direction": meter.direction,
                "in_settings": meter.in_settings,
                "rows": [_named(row) for row in meter.rows],
                "days": [_named(row) for row in meter.days],
                "total": meter.total and _named(meter.total),
            }
            for meter in report.meters
        ],
        "readings": [
            {
                "meter": reading.meter,
                "time": local_time(reading.time_ns),
                "face_kwh": reading.face_kwh,
                "decimals": reading.decimals,
                "register_kwh": _rounded(reading.register_kwh, 6),
                "base": reading.base,
            }
            for reading in report.readings
        ],
    }


def _named(row: Row) -> dict[str, Any]:
    return {"name": row.name or None} | _values(row) | {"approximate": row.approximate}


def _values(row: Row) -> dict[str, Any]:
    """What a program gets of *row*, to the digits that mean something: a flash is 1 mWh at the very least."""
    shown = local_time if row.period.unit == "hour" else local_date
    return {
        "from": shown(row.period.from_ns),
        "to": shown(row.period.to_ns),
        "kwh": None if row.is_to_come else _rounded(row.kwh, 6),
        "cost": None,
        "currency": None,
        "mean_w": _rounded(row.mean_w, 1),
        "peak_w": _rounded(row.peak_w, 1),
        "peak_from": None if row.peak_from_ns is None else local_time(row.peak_from_ns),
        "uncovered_s": None if row.uncovered_s is None or row.is_to_come else round(row.uncovered_s),
    }


def _rounded(number: float | None, digits: int) -> float | None:
    return None if number is None else round(number, digits)


# --- People


def as_text(report: Report, *, columns: int, encoding: str, bold: bool) -> str:
    """
    *report* as tables, one per meter, at most *columns* wide where that is possible.

    Bars are blocks where *encoding* has them; headings are *bold* on a terminal that can show it.
    """
    set_text = _Typesetter(columns, _block(encoding), bold=bold)
    set_text.add(f"Energy{_when(report)}, in local time ({printable(report.zone)})")
    if report.simulated:
        set_text.add("SIMULATED: no real meter counted this")
    if not report.meters:
        set_text.add("no meter has been counted yet")
    for meter in report.meters:
        _add_meter(set_text, meter)
    if report.readings:
        _add_readings(set_text, report.readings)
    set_text.add_notes()
    return set_text.text()


def _when(report: Report) -> str:
    rows = [row for meter in report.meters for row in meter.rows]
    if report.span in ("today", "yesterday") and rows:
        return f" of {report.span}, {local_date(rows[0].period.from_ns)}"
    return {"": "", "all": " of all years"}.get(report.span, f" of {report.span}")


class _Typesetter:
    """Lines of text for a terminal, and the notes below them."""

    def __init__(self, columns: int, block: str, *, bold: bool) -> None:
        self.columns = columns
        self.block = block
        self._bold = bold
        self._lines: list[str] = []
        #: What is explained below; each once, in the order of need.
        self.notes: dict[str, None] = {}

    def add(self, line: str = "") -> None:
        """Add *line*, folded where it is too long."""
        words, now = line.split(" "), ""
        for word in words:
            if now and _cells(now) + 1 + _cells(word) > self.columns:
                self._lines.append(now)
                now = word
            else:
                now = f"{now} {word}" if now else word
        self._lines.append(now)

    def add_heading(self, line: str) -> None:
        """Add *line* as a heading, behind an empty line."""
        self._lines.append("")
        begin = len(self._lines)
        self.add(line)
        if self._bold:
            self._lines[begin:] = [f"{BOLD}{part}{NORMAL}" for part in self._lines[begin:]]

    def add_table(self, heads: Sequence[str], rows: Sequence[Sequence[str]], left: Iterable[int] = (0,)) -> int:
        """
        Add a table, whose columns but *left* are set to the right; those that have no room are left out from the end.

        Columns that are empty in every row are left out too. Returns how wide the table is.
        """
        left = set(left)
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        filled = [index for index, _ in enumerate(heads) if index == 0 or any(row[index] for row in rows)]
        shown = list(filled)
        while len(shown) > 2 and sum(widths[i] + 2 for i in shown) - 2 > self.columns:
            shown.pop()
        if missing := [heads[i] for i in filled if i not in shown]:
            self.notes[f"No room for: {', '.join(missing)}; a wider terminal has all."] = None
        for line in (heads, *rows):
            cells = (line[i].ljust(widths[i]) if i in left else line[i].rjust(widths[i]) for i in shown)
            self._lines.append("  ".join(cells).rstrip())
        return sum(widths[i] + 2 for i in shown) - 2

    def add_notes(self) -> None:
        """Add what is to be explained."""
        if self.notes:
            self._lines.append("")
        for note in self.notes:
            self.add(note)

    def text(self) -> str:
        return "\n".join(self._lines) + "\n"


def _block(encoding: str) -> str:
    try:
        BLOCK.encode(encoding)
    except (UnicodeError, LookupError):
        return PLAIN_BLOCK
    return BLOCK


def _cells(text: str) -> int:
    """How many columns of a terminal *text* takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


#: The columns of a table of rows, behind their names.
HEADS = ("kWh", "mean W", "peak W", "peak from", "not counted")


def _add_meter(set_text: _Typesetter, meter: MeterReport) -> None:
    set_text.add_heading(title(meter))
    rows = [*meter.rows, *([meter.total] if meter.total and len(meter.rows) > 1 else [])]
    if not rows:
        set_text.add("nothing in this span")
        return
    table = [[name, *cells(row)] for name, row in zip(names(rows), rows, strict=True)]
    set_text.notes |= dict.fromkeys(notes(rows))
    set_text.add_table(["", *HEADS], table)
    if meter.days:
        set_text.add()
        _add_bars(set_text, meter.days)


def title(meter: MeterReport) -> str:
    """The label and the name of *meter*, and what else tells it from others."""
    title = f"{printable(meter.label)} ({printable(meter.name)})" if meter.label else printable(meter.name)
    remarks = ["export"] if meter.direction == "export" else []
    remarks += ["no longer in the settings"] if meter.in_settings is False else []
    return ", ".join([title, *remarks])


def names(rows: Sequence[Row]) -> list[str]:
    """The name of each row; hours have their offset too, where the clocks change among them."""
    hours = [local_time(row.period.from_ns) for row in rows if row.period.unit == "hour"]
    change = len({hour[19:] for hour in hours}) > 1
    found = []
    for row in rows:
        at = local_time(row.period.from_ns)
        length = {"day": 10, "month": 7, "year": 4}.get(row.period.unit, 10)
        hour = f"{at[11:16]} {at[19:]}" if change else at[11:16]
        found.append(row.name or (hour if row.period.unit == "hour" else at[:length]))
    return found


def cells(row: Row) -> list[str]:
    """What a table says of *row* below :data:`HEADS`."""
    peak_from = ""
    if row.peak_from_ns is not None:
        at = local_time(row.peak_from_ns).replace("T", " ")
        peak_from = at[11:16] if row.period.to_ns - row.period.from_ns <= LONGEST_DAY_NS else at[:16]
    uncovered = "not known" if row.uncovered_s is None else ""
    if row.uncovered_s is not None and round(row.uncovered_s):
        uncovered = duration(row.uncovered_s)
    return [kwh(row), _watts(row.mean_w), _watts(row.peak_w), peak_from, uncovered]


def kwh(row: Row) -> str:
    """The energy of *row*; "" where all of it is still to come."""
    if row.is_to_come:
        return ""
    if row.kwh is None:
        return "unreadable"
    return f"{'~' if row.approximate else ''}{row.kwh:,.3f}"


def notes(rows: Iterable[Row]) -> list[str]:
    """What is to be explained of a table of *rows*."""
    found: dict[str, None] = {}
    for row in rows:
        if row.uncovered_s is None:
            found["not known: when nothing could be counted was not recorded yet."] = None
        if (words := kwh(row)) == "unreadable":
            found["unreadable: the journal is damaged there."] = None
        if words.startswith("~"):
            found["~: not exact, as only one pulse per hour was kept of the time at its ends."] = None
    return list(found)


def _watts(watts: float | None) -> str:
    return "" if watts is None else f"{watts:,.0f}"


def _add_bars(set_text: _Typesetter, days: Sequence[Row]) -> None:
    """The energy of each day, with a bar in proportion."""
    most = max((row.kwh or 0.0 for row in days), default=0.0)
    energies = [kwh(row) for row in days]
    wide = max(map(len, energies))
    room = max(0, min(MAX_BAR, set_text.columns - 10 - 2 - wide - 2))
    table = []
    for row, energy in zip(days, energies, strict=True):
        length = round(room * (row.kwh or 0.0) / most) if most > 0 else 0
        table.append([local_date(row.period.from_ns), energy, set_text.block * length])
    set_text.notes |= dict.fromkeys(notes(row for row in days if row.kwh is None or row.approximate))
    set_text.add_table(["", "kWh", ""], table, left=(0, 2))


def _add_readings(set_text: _Typesetter, readings: Sequence[Reading]) -> None:
    set_text.add_heading("Readings")
    several = len({reading.meter for reading in readings}) > 1
    table = []
    for reading in readings:
        drift = reading.register_kwh - reading.face_kwh
        table.append(
            [
                local_time(reading.time_ns)[:16].replace("T", " "),
                printable(reading.meter) if several else "",
                f"{reading.face_kwh:.{reading.decimals}f}",
                "new base" if reading.base else f"{drift:+.3f}",
                f"{reading.register_kwh:.3f}",
            ]
        )
    set_text.add_table(["", "meter", "face kWh", "drift kWh", "register before"], table, left=(0, 1))
