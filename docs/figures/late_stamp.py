"""The error in a pulse's power if its time is taken late: the program's own arithmetic."""

import look
import matplotlib.pyplot as plt
import numpy as np

from powermeter.meter import JOULES_PER_KWH, Constant

METER = Constant(1000)
#: How late, in s, and the line's look.
DELAYS_S = {0.1: (look.ORANGE, "--"), 0.01: (look.BLUE, "-"), 0.001: (look.GREEN, "-.")}


def error_percent(watts: float, late_s: float) -> float:
    """
    How far off the power of a pulse is at a load of *watts* if its time is taken *late_s* after the flash.

    >>> round(error_percent(3600, 0.1), 2)
    -9.09
    """
    spacing_s = JOULES_PER_KWH / (METER.impulses_per_kwh * watts)
    return 100 * (METER.mean_watts(1, spacing_s + late_s) / watts - 1)


def draw(path: str) -> None:
    """Draw it into *path*."""
    loads = np.geomspace(100, 24_000, 100)
    with look.style():
        figure, axes = plt.subplots(figsize=(look.WIDTH, 3.8), layout="constrained")
        for late_s, (colour, dashes) in DELAYS_S.items():
            errors = [-error_percent(watts, late_s) for watts in loads]
            axes.loglog(loads, errors, color=colour, linestyle=dashes, label=f"{late_s * 1000:.0f} ms late")
        axes.set(
            xlabel="load, at 1,000 imp/kWh", ylabel="power shown too low by", xlim=(100, 24_000), ylim=(0.001, 100)
        )
        axes.set_xticks([100, 1000, 10_000], ["100 W", "1 kW", "10 kW"])
        axes.set_yticks([0.001, 0.01, 0.1, 1, 10, 100], ["0.001 %", "0.01 %", "0.1 %", "1 %", "10 %", "100 %"])
        axes.grid(True)
        axes.legend(loc="lower right", frameon=True, framealpha=1, edgecolor=look.PALE, fontsize=9)
        look.save(figure, path)
