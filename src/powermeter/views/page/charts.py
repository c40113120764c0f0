"""
Charts as SVG: values in, text out.

Owns how they are drawn; colours and fonts are the stylesheet's. There is no style and no script in them, so that a strict
Content-Security-Policy and a dark screen do no harm. Widths are per cent and heights are pixels, so that a chart takes
the width that there is, and its text keeps its size.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

#: The height of a chart, and what is left free above and below for text, in pixels.
HEIGHT, TOP, BOTTOM = 220, 14, 26
FLOOR = HEIGHT - BOTTOM

#: So many labels fit below a chart on a telephone, and on a wide screen.
NARROW_LABELS, WIDE_LABELS = 6, 16

#: A label nearer to an end than that, in per cent of the width, would be cut off.
EDGE = 4

#: Stripes for the times in which nothing could be counted. One per page is enough, but each chart must do by itself.
HATCH = (
    '<defs><pattern id="{0}-hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<path class="stripe" d="M0 0V6"/></pattern></defs>'
)


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

    *ident* is unique on the page. *summary* says for a screen reader what the chart is of. Only one link of the chart is
    a stop for the Tab key: that of the last bar with a value. The script lets the arrow keys go on from there.
    """
    end, step = scale(max((value for row in rows for value in row.values if value is not None), default=0.0))
    wide = 100 / max(1, len(rows))
    stop = max((i for i, row in enumerate(rows) if row.link and any(row.values)), default=0)
    drawn, labels = [], []
    for index, row in enumerate(rows):
        inside = _group(ident, index * wide, wide, row, series, end)
        if row.link:
            reach = "0" if index == stop else "-1"
            words = escape(row.words)
            drawn.append(
                f'<a href="{escape(row.link)}" tabindex="{reach}" aria-label="{words}"><title>{words}</title>{inside}</a>'
            )
        else:
            drawn.append(f"<g><title>{escape(row.words)}</title>{inside}</g>")
        labels.append(_label((index + 0.5) * wide, row.label, index, len(rows)))
    role = "group" if any(row.link for row in rows) else "img"
    body = f'{_grid(end, step)}{"".join(drawn)}<g aria-hidden="true">{"".join(labels)}</g>'
    return _chart(ident, role, summary, end, step, body)


def _group(ident: str, x: float, wide: float, row: Bar, series: Sequence[str], end: float) -> str:
    parts = [f'<rect class="hit" x="{x:.2f}%" y="0" width="{wide:.2f}%" height="{HEIGHT}"/>']
    if row.has_gap:
        parts.append(_gap(ident, x, wide))
    each = wide * 0.76 / max(1, len(series))
    for number, (kind, value) in enumerate(zip(series, row.values, strict=True)):
        if value:
            # What is there is seen, however little it is.
            high = max(1.5, (FLOOR - TOP) * value / end)
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
    end, step = scale(max((value for _, values in series for value in values if value is not None), default=0.0))
    wide = 100 / max(1, len(gaps))
    hatched = "".join(_gap(ident, index * wide, wide) for index, is_gap in enumerate(gaps) if is_gap)
    lines = []
    for kind, values in series:
        line, area = _line(values, end)
        if len(series) == 1:
            lines.append(f'<path class="area {kind}" d="{area}"/>')
        lines.append(f'<path class="line {kind}" d="{line}"/>')
    plot = (
        f'<svg x="0" y="0" width="100%" height="{HEIGHT}" viewBox="0 0 {max(1, len(gaps))} {HEIGHT}"'
        f' preserveAspectRatio="none">{"".join(lines)}</svg>'
    )
    shown = [tick for tick in ticks if EDGE <= tick.at <= 100 - EDGE]
    labels = "".join(_label(tick.at, tick.label, index, len(shown)) for index, tick in enumerate(shown))
    body = f'{_grid(end, step)}{hatched}{plot}<g aria-hidden="true">{labels}</g>'
    return _chart(ident, "img", summary, end, step, body)


def _line(values: Sequence[float | None], end: float) -> tuple[str, str]:
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
        y = f"{FLOOR - (FLOOR - TOP) * value / end:.1f}"
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


def scale(most: float) -> tuple[float, float]:
    """
    Where an axis for values up to *most* ends, and the distance of its marks: 3 to 5 of them, at round numbers.

    >>> scale(17.2), scale(2300), scale(0)
    ((20.0, 5.0), (3000.0, 1000.0), (1.0, 0.5))
    """
    if most <= 0:
        return 1.0, 0.5
    size = 10.0 ** math.floor(math.log10(most))
    step = next(size * part for part in (0.25, 0.5, 1, 2, 2.5) if most <= 4 * size * part)
    return step * math.ceil(most / step - 1e-9), step


def _grid(end: float, step: float) -> str:
    marks = round(end / step)
    heights = (FLOOR - (FLOOR - TOP) * mark / marks for mark in range(marks + 1))
    lines = "".join(f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>' for y in heights)
    return f'<g aria-hidden="true">{lines}</g>'


def _chart(ident: str, role: str, summary: str, end: float, step: float, body: str) -> str:
    marks = round(end / step)
    digits = len(f"{step:.6f}".rstrip("0").partition(".")[2])
    heights = [(mark, FLOOR - (FLOOR - TOP) * mark / marks + 4) for mark in range(marks + 1)]
    numbers = "".join(
        f'<text class="mark" x="100%" y="{y:.1f}">{mark * step:,.{digits}f}</text>' for mark, y in heights
    )
    return (
        f'<div class="chart"><svg class="axis" height="{HEIGHT}" aria-hidden="true">{numbers}</svg>'
        f'<svg class="plot" height="{HEIGHT}" role="{role}" aria-label="{escape(summary)}">'
        f"{HATCH.format(ident)}{body}</svg></div>"
    )


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
