"""
Energy of a day: flashes counted, against power read now and then and added up.

The load is the simulated household, the flashes are those the simulated meter gives for it, and both the count and
the power shown are the program's own.
"""

import functools
import itertools
from typing import NamedTuple

import look
import matplotlib.pyplot as plt

from powermeter.boards.simulated import DAY_S, flashes, household
from powermeter.meter import NS_PER_S, Constant, Edge, Flash, Meter, hold_off_ns

IMPULSES_PER_KWH = 1000
DAYS = 30
SEED = "house"
#: How often the power is read, in s.
PERIODS_S = (10, 60, 300, 900)


class Day(NamedTuple):
    """A day's energies in Wh: used, counted, and added up from power read each so many s."""

    used: float
    counted: float
    integrated: dict[int, float]


@functools.cache
def steps() -> list[tuple[float, float]]:
    """The household's load over all days: how long, in s, and how many watts."""
    taken, left_s = [], DAYS * DAY_S
    for duration_s, watts in household(0, SEED):
        taken.append((min(duration_s, left_s), watts))
        left_s -= duration_s
        if left_s <= 1e-6:
            return taken
    raise AssertionError("a household's load never ends")


def used_by_day() -> list[float]:
    """The energy used, in Wh."""
    used, at_s = [0.0] * (DAYS + 1), 0.0
    for duration_s, watts in steps():
        used[int((at_s + 1e-6) // DAY_S)] += watts * duration_s / 3600
        at_s += duration_s
    return used[:DAYS]


@functools.cache
def days() -> list[Day]:
    """
    Every day's energies.

    >>> abs(sum(day.counted - day.used for day in days())) <= 1
    True
    """
    meter = Meter("house", Constant(IMPULSES_PER_KWH), Flash(hold_off_ns(IMPULSES_PER_KWH, 24_000)), watched_ns=0)
    reads = [[0.0] * DAYS for _ in PERIODS_S]
    counts = []
    coming = flashes(iter(steps()), IMPULSES_PER_KWH, 0)
    next_ns = next(coming)
    for at_s in range(0, DAYS * DAY_S + 1, min(PERIODS_S)):
        while next_ns is not None and next_ns <= at_s * NS_PER_S:
            meter.take(Edge(0, next_ns))
            next_ns = next(coming, None)
        if at_s % DAY_S == 0:
            counts.append(meter.count)
        if at_s == DAYS * DAY_S:
            break
        watts = meter.watts_at(at_s * NS_PER_S)[0] or 0.0
        for read, period_s in zip(reads, PERIODS_S, strict=True):
            if at_s % period_s == 0:
                read[at_s // DAY_S] += watts * period_s / 3600
    counted = [(after - before) * meter.constant.watt_hours for before, after in itertools.pairwise(counts)]
    integrated = [dict(zip(PERIODS_S, day, strict=True)) for day in zip(*reads, strict=True)]
    return [Day(*day) for day in zip(used_by_day(), counted, integrated, strict=True)]


def errors_percent() -> dict[str, list[float]]:
    """Each way's error of every day, in percent of the energy used."""
    every = {"counted": [100 * (day.counted / day.used - 1) for day in days()]}
    for period_s in PERIODS_S:
        name = f"every\n{period_s} s" if period_s < 60 else f"every\n{period_s // 60} min"
        every[name] = [100 * (day.integrated[period_s] / day.used - 1) for day in days()]
    return every


def draw(path: str) -> None:
    """Draw it into *path*: a day's load above, every day's errors below."""
    with look.style():
        figure, (load, errors) = plt.subplots(
            2, 1, figsize=(look.WIDTH, 5.6), layout="constrained", height_ratios=(2, 3)
        )
        _draw_load(load)
        for place, each in enumerate(errors_percent().values()):
            shift = [place + (turn - (DAYS - 1) / 2) * 0.6 / DAYS for turn in range(DAYS)]
            colour, marker = (look.BLUE, "o") if place == 0 else (look.ORANGE, "x")
            errors.plot(shift, each, marker, color=colour, markersize=3.5)
        errors.axhline(0, color=look.INK, linewidth=0.8)
        errors.set_xticks(range(len(PERIODS_S) + 1), list(errors_percent()))
        errors.set(ylabel="error, % of the day's energy", title=f"{DAYS} days: counted, or power read and added up")
        errors.grid(True, axis="y")
        look.save(figure, path)


def _draw_load(axes) -> None:
    """The first day's load."""
    starts = [0.0, *itertools.accumulate(duration_s for duration_s, _ in steps())]
    shown = sum(start < DAY_S - 1e-6 for start in starts)
    hours = [start / 3600 for start in starts[: shown + 1]]
    axes.stairs([watts / 1000 for _, watts in steps()[:shown]], hours, color=look.INK, linewidth=0.9)
    axes.set(xlim=(0, 24), ylim=(0, None), ylabel="load, kW", title="The first day of a simulated household")
    axes.set_xticks([0, 6, 12, 18, 24], ["0 h", "6 h", "12 h", "18 h", "24 h"])
    axes.grid(True)
