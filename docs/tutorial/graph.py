#!/usr/bin/env python3
"""
Draws the power of the last day from power.csv, as an SVG picture that any browser shows.

    python3 graph.py power.csv > power.svg          the last 24 hours in the file
    python3 graph.py power.csv 6 > power.svg        the last 6

Needs only Python.
"""

import argparse
import csv
import itertools
import sys
from collections.abc import Callable
from datetime import UTC, datetime

#: The picture, and within it the frame of the graph, in pixels.
WIDTH, HEIGHT = 960, 400
LEFT, RIGHT, TOP, BOTTOM = 80, 910, 50, 350

#: Readable on a bright and on a dark page, and different to those who are blind to red and green.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")

#: A line of the file: time (s since 1970), power (W, None where it is not known), energy (Wh).
Line = tuple[float, float | None, float]

#: From a time or a power to a place in the picture.
Scale = Callable[[float], float]


def read(path: str) -> dict[str, list[Line]]:
    """The lines of the file *path*, by meter."""
    meters: dict[str, list[Line]] = {}
    with open(path, encoding="ascii", newline="") as file:
        for row in csv.DictReader(file):
            # Python reads microseconds, the file has nanoseconds.
            time = datetime.strptime(row["time"][:26], "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=UTC).timestamp()
            watts = float(row["power_w"]) if row["power_w"] else None
            meters.setdefault(row["meter"], []).append((time, watts, float(row["energy_wh"])))
    return meters


def between_marks(most: float) -> float:
    """The distance of the marks of an axis that ends at *most*: 1, 2 or 5 times a power of ten, six of them at most."""
    sizes = (factor * 10.0**power for power in itertools.count(-3) for factor in (1, 2, 5))
    return next(size for size in sizes if most / size <= 6)


def drawn(meters: dict[str, list[Line]], hours: float) -> str:
    """The picture of the last *hours* of *meters*."""
    end = max(lines[-1][0] for lines in meters.values())
    begin = max(min(lines[0][0] for lines in meters.values()), end - hours * 3600)
    shown = {name: [line for line in lines if line[0] >= begin] for name, lines in meters.items()}
    most = max((watts or 0.0 for lines in shown.values() for _, watts, _ in lines), default=0.0) * 1.05 or 1.0
    span = end - begin or 1.0

    def x(time: float) -> float:
        return LEFT + (RIGHT - LEFT) * (time - begin) / span

    def y(watts: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * watts / most

    totals = [f"{name} {sum(line[2] for line in lines) / 1000:.3f} kWh" for name, lines in shown.items()]
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="14"'
    picture = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>',
        f"<title>Power in W: {', '.join(totals)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    mark = between_marks(most)
    for number in range(int(most / mark) + 1):
        at = y(number * mark)
        picture.append(f'<path d="M{LEFT} {at:.1f}H{RIGHT}" stroke="#ccc"/>')
        picture.append(f'<text x="{LEFT - 8}" y="{at + 5:.1f}" text-anchor="end">{number * mark:,.10g} W</text>')
    for number in range(5):
        time = begin + span * number / 4
        clock = datetime.fromtimestamp(time).astimezone().strftime("%H:%M:%S" if span < 3600 else "%a %H:%M")
        picture.append(f'<text x="{x(time):.1f}" y="{BOTTOM + 24}" text-anchor="middle">{clock}</text>')
    for number, lines in enumerate(shown.values()):
        colour = COLOURS[number % len(COLOURS)]
        picture.append(f'<path d="{steps(lines, x, y)}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        picture.append(f'<text x="{LEFT + 220 * number}" y="30" fill="{colour}">{totals[number]}</text>')
    return "\n".join([*picture, "</svg>", ""])


def steps(lines: list[Line], x: Scale, y: Scale) -> str:
    """The way of the pen: a line's power is the mean since the line before; where none is known there is a gap."""
    drawn = []
    down = False
    for (before, _, _), (time, watts, _) in itertools.pairwise(lines):
        if watts is not None:
            drawn.append(f"{'' if down else f'M{x(before):.1f} {y(watts):.1f}'}V{y(watts):.1f}H{x(time):.1f}")
        down = watts is not None
    return "".join(drawn)


def main() -> int:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description="Draw the power of the last day from power.csv, as SVG.")
    parser.add_argument("file", help="power.csv")
    parser.add_argument("hours", nargs="?", type=float, default=24.0, help="how many of the last hours; 24")
    args = parser.parse_args()
    try:
        meters = read(args.file)
    except OSError as error:
        print(f"graph: {args.file}: {error.strerror}", file=sys.stderr)
        return 1
    except (KeyError, TypeError, ValueError):
        print(f"graph: {args.file}: not a power.csv", file=sys.stderr)
        return 1
    if not meters:
        print(f"graph: {args.file}: no pulse in it yet", file=sys.stderr)
        return 1
    sys.stdout.write(drawn(meters, args.hours))
    return 0


if __name__ == "__main__":
    sys.exit(main())
