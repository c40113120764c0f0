"""
Charts as SVG: values in, text out.

Owns how they are drawn; colours and fonts are in the stylesheet. They contain no style and no script, so that they work
with a strict Content-Security-Policy and in the dark. Widths are per cent and heights are pixels, so that a chart takes
the available width, and its text keeps its size.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

#: Less than this counts as nothing, in kWh: one flash of any meter is a thousand times more.
LEAST = 1e-9

#: The height of a chart, and what is left free above and below for text, in pixels.
HEIGHT, TOP, BOTTOM = 220, 14, 26
FLOOR = HEIGHT - BOTTOM

#: How many labels fit below a chart on a telephone, and on a wide screen.
NARROW_LABELS, WIDE_LABELS = 6, 16

#: A label closer to an end than this, in per cent of the width, would be cut off.
EDGE = 4

#: Stripes for the times in which nothing could be counted. One per page is enough, but each chart must work on its own.
HATCH = (
    '<defs><pattern id="{0}-hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path class="stripe" d="M0 0V6"/></pattern></defs>'
)


class Axis(NamedTuple):
    """The axis of values: its *end*, and the distance of its marks, 3 to 5 of them at round numbers."""

    end: float
    step: float

    @classmethod
    def up_to(cls, most: float) -> "Axis":
        """
        The axis for values up to *most*.

        >>> Axis.up_to(17.2), Axis.up_to(2300)
        (Axis(end=20.0, step=5.0), Axis(end=3000.0, step=1000.0))
        """
        if most < LEAST:
            return cls(1.0, 0.5)
        size = 10.0 ** math.floor(math.log10(most))
        step = next(size * part for part in (0.25, 0.5, 1, 2, 2.5) if most <= 4 * size * part)
        return cls(step * math.ceil(most / step - 1e-9), step)

    def y(self, value: float) -> float:
        """How far below the top *value* is, in pixels."""
        return FLOOR - (FLOOR - TOP) * value / self.end

    def marks(self) -> list[tuple[float, str]]:
        """Each mark's y, and its number."""
        digits = len(f"{self.step:.6f}".rstrip("0").partition(".")[2])
        values = [mark * self.step for mark in range(round(self.end / self.step) + 1)]
        return [(self.y(value), f"{value:,.{digits}f}") for value in values]


class Bar(NamedTuple):
    """
    One period: its *label* on the axis, the *values* of each series, and all of it in *words*.

    A value of None is not known, or still to come. *link* leads to the period, "" for none. *has_gap*: nothing could be
    counted in some of it; *is_now*: it is not over yet.
    """

    label: str
    values: Sequence[float | None]
    words: str
    link: str
    has_gap: bool
    is_now: bool


class Tick(NamedTuple):
    """A label below a line, *at* so many per cent of the width."""

    at: float
    label: str


def bars(ident: str, summary: str, series: Sequence[str], rows: Sequence[Bar]) -> str:
    """
    A group of bars for each of *rows*, one bar for each of *series*, which are classes of the stylesheet.

    *ident* is unique on the page. *summary* tells a screen reader what the chart shows. Only one link of the chart
    is a stop for the Tab key: that of the last bar with a value. The script lets the arrow keys go on from there.
    """
    axis = Axis.up_to(max((value for row in rows for value in row.values if value is not None), default=0.0))
    wide = 100 / max(1, len(rows))
    stop = max((i for i, row in enumerate(rows) if row.link and any(row.values)), default=0)
    drawn, labels = [], []
    for index, row in enumerate(rows):
        title = f"<title>{escape(row.words)}</title>"
        inside = _column(ident, index * wide, wide, has_gap=row.has_gap) + _group(index * wide, wide, row, series, axis)
        if row.link:
            reach = f'tabindex="{0 if index == stop else -1}" aria-label="{escape(row.words)}"'
            drawn.append(f'<a href="{escape(row.link)}" {reach}>{title}{inside}</a>')
        else:
            drawn.append(f"<g>{title}{inside}</g>")
        labels.append(_label((index + 0.5) * wide, row.label, index, len(rows)))
    role = "group" if any(row.link for row in rows) else "img"
    return _chart(ident, role, summary, axis, "".join(drawn) + _hidden(labels))


def _column(ident: str, x: float, wide: float, *, has_gap: bool) -> str:
    """The area of a bar that reacts to the pointer: its whole column, however low the bar is."""
    hit = f'<rect class="hit" x="{x:.2f}%" y="0" width="{wide:.2f}%" height="{HEIGHT}"/>'
    return hit + _gap(ident, x, wide) if has_gap else hit


def _group(x: float, wide: float, row: Bar, series: Sequence[str], axis: Axis) -> str:
    parts = []
    each = wide * 0.76 / max(1, len(series))
    for number, (kind, value) in enumerate(zip(series, row.values, strict=True)):
        if value:
            # Even the smallest energy is visible.
            high = max(1.5, FLOOR - axis.y(value))
            at = x + wide * 0.12 + number * each
            now = " now" if row.is_now else ""
            parts.append(
                f'<rect class="bar {kind}{now}" x="{at:.2f}%" y="{FLOOR - high:.1f}" width="{each * 0.94:.2f}%"'
                f' height="{high:.1f}" rx="2"/>'
            )
    return "".join(parts)


def steps(
    ident: str,
    summary: str,
    series: Sequence[tuple[str, Sequence[float | None]]],
    gaps: Sequence[bool],
    ticks: Sequence[Tick],
) -> str:
    """
    A line for each of *series*, a class and its values, each of which lasts for the same time; None is not known.

    *gaps* says of each of these times whether nothing could be counted then. The rest is as for :func:`bars`.
    """
    axis = Axis.up_to(max((value for _, values in series for value in values if value is not None), default=0.0))
    wide = 100 / max(1, len(gaps))
    hatched = "".join(_gap(ident, index * wide, wide) for index, is_gap in enumerate(gaps) if is_gap)
    lines = []
    for kind, values in series:
        line, area = _line(values, axis)
        if len(series) == 1:
            lines.append(f'<path class="area {kind}" d="{area}"/>')
        lines.append(f'<path class="line {kind}" d="{line}"/>')
    plot = (
        f'<svg x="0" y="0" width="100%" height="{HEIGHT}" viewBox="0 0 {max(1, len(gaps))} {HEIGHT}"'
        f' preserveAspectRatio="none">{"".join(lines)}</svg>'
    )
    shown = [tick for tick in ticks if EDGE <= tick.at <= 100 - EDGE]
    labels = [_label(tick.at, tick.label, index, len(shown)) for index, tick in enumerate(shown)]
    return _chart(ident, "img", summary, axis, hatched + plot + _hidden(labels))


def _line(values: Sequence[float | None], axis: Axis) -> tuple[str, str]:
    """The path of a line of steps, and that of the area below it; one step is 1 wide."""
    line: list[str] = []
    area: list[str] = []
    last: str | None = None
    for index, value in enumerate(values):
        if value is None:
            if last is not None:
                line.append(f"H{index}")
                area.append(f"H{index}V{FLOOR}Z")
            last = None
            continue
        y = f"{axis.y(value):.1f}"
        if last is None:
            line.append(f"M{index} {y}")
            area.append(f"M{index} {FLOOR}V{y}")
        elif y != last:
            line.append(f"H{index}V{y}")
            area.append(f"H{index}V{y}")
        last = y
    if last is not None:
        line.append(f"H{len(values)}")
        area.append(f"H{len(values)}V{FLOOR}Z")
    return "".join(line), "".join(area)


def _chart(ident: str, role: str, summary: str, axis: Axis, body: str) -> str:
    marks = axis.marks()
    lines = _hidden([f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>' for y, _ in marks])
    numbers = "".join(f'<text class="mark" x="100%" y="{y + 4:.1f}">{number}</text>' for y, number in marks)
    return (
        f'<div class="chart"><svg class="axis" height="{HEIGHT}" aria-hidden="true">{numbers}</svg>'
        f'<svg class="plot" height="{HEIGHT}" role="{role}" aria-label="{escape(summary)}">'
        f"{HATCH.format(ident)}{lines}{body}</svg></div>"
    )


def _hidden(parts: Sequence[str]) -> str:
    """The *parts*, hidden from a screen reader: it reads the summary and the words of the bars."""
    return f'<g aria-hidden="true">{"".join(parts)}</g>'


def _gap(ident: str, x: float, wide: float) -> str:
    return (
        f'<rect x="{x:.2f}%" y="{TOP}" width="{wide:.2f}%" height="{FLOOR - TOP}" fill="url(#{ident}-hatch)"'
        ' class="gap"/>'
    )


def _label(at: float, label: str, index: int, count: int) -> str:
    """A label below the chart; where there are many, some are shown on a wide screen only, and some never."""
    if index % -(-count // WIDE_LABELS):
        return ""
    narrow = -(-count // NARROW_LABELS)
    # Those of a telephone are among those of a wide screen.
    narrow = -(-narrow // -(-count // WIDE_LABELS)) * -(-count // WIDE_LABELS)
    kind = "label wide" if index % narrow else "label"
    return f'<text class="{kind}" x="{at:.2f}%" y="{HEIGHT - 8}">{escape(label)}</text>'
