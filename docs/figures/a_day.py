"""A day as the program sees it: the mean power between each two flashes of a simulated household."""

import itertools

import look
import matplotlib.pyplot as plt
from counting_or_integrating import IMPULSES_PER_KWH, SEED

from powermeter.boards.simulated import DAY_S, flashes, household
from powermeter.meter import NS_PER_S, Constant

#: What is named: text, where it is, in h and kW, and where its line ends.
NAMED = (
    ("night", (3.2, 0.75), (3.2, 0.2)),
    ("kettle", (7.2, 2.6), (7.2, 2.2)),
    ("fridge, on and off", (13.4, 1.0), (13.4, 0.37)),
    ("oven", (19.4, 1.55), (18.5, 1.3)),
)


def means() -> tuple[list[float], list[float]]:
    """
    When flashes come, in h, and the mean power between each two of them, in kW.

    >>> hours, kilowatts = means()
    >>> (len(hours), len(kilowatts), round(max(kilowatts), 1))
    (6917, 6916, 2.7)
    """
    coming = flashes(household(0, SEED), IMPULSES_PER_KWH, 0)
    at_ns = list(itertools.takewhile(lambda at_ns: at_ns <= DAY_S * NS_PER_S, coming))
    constant = Constant(IMPULSES_PER_KWH)
    kilowatts = [
        constant.mean_watts(pulses=1, seconds=(after - before) / NS_PER_S) / 1000
        for before, after in itertools.pairwise(at_ns)
    ]
    return [each / NS_PER_S / 3600 for each in at_ns], kilowatts


def draw(path: str) -> None:
    """Draw it into *path*."""
    hours, kilowatts = means()
    with look.style():
        figure, axes = plt.subplots(figsize=(1.5 * look.WIDTH, 2.9), layout="constrained")
        axes.stairs(kilowatts, hours, color=look.BLUE, linewidth=1.1, fill=False)
        axes.stairs(kilowatts, hours, color=look.BLUE, alpha=0.15, fill=True)
        for text, at, to in NAMED:
            line = {"arrowstyle": "-", "color": look.INK, "linewidth": 0.8}
            axes.annotate(text, xy=to, xytext=at, arrowprops=line, ha="center", va="bottom", fontsize=9)
        axes.set(xlim=(0, 24), ylim=(0, 3.0), ylabel="power, kW")
        title = f"A simulated day: {len(hours):,} flashes, {len(hours) / IMPULSES_PER_KWH:.1f} kWh"
        axes.set_title(title)
        axes.set_xticks(range(0, 25, 3), [f"{hour} h" for hour in range(0, 25, 3)])
        axes.set_axisbelow(True)
        axes.grid(True, axis="y")
        look.save(figure, path)
