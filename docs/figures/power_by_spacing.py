"""Power against the time between two flashes, for usual meters: the program's own arithmetic."""

import look
import matplotlib.pyplot as plt
import numpy as np

from powermeter.meter import HOLD_OFF, NS_PER_S, Constant, hold_off_ns

#: Impulses per kWh, and the line's look.
CONSTANTS = {500: (look.GREEN, "-."), 1000: (look.BLUE, "-"), 3200: (look.ORANGE, "--")}
MAX_WATTS = 24_000


def draw(path: str) -> None:
    """Draw it into *path*."""
    spacings_s = np.geomspace(0.01, 200, 200)
    with look.style():
        figure, axes = plt.subplots(figsize=(look.WIDTH, 3.8), layout="constrained")
        for impulses, (colour, dashes) in CONSTANTS.items():
            watts = [Constant(impulses).mean_watts(1, spacing_s) for spacing_s in spacings_s]
            axes.loglog(spacings_s, watts, color=colour, linestyle=dashes, label=f"{impulses:,} imp/kWh")
            shortest_s = hold_off_ns(impulses, MAX_WATTS) / HOLD_OFF / NS_PER_S
            axes.plot(shortest_s, MAX_WATTS, "o", color=colour, markersize=5)
        axes.axhline(MAX_WATTS, color=look.GREY, linewidth=1, linestyle=":")
        axes.text(200, MAX_WATTS * 1.12, "max_watts, 24 kW", ha="right", va="bottom", color=look.GREY, fontsize=9)
        axes.set(xlabel="time between two flashes", ylabel="mean power", xlim=(0.01, 200), ylim=(10, 100_000))
        axes.set_xticks([0.01, 0.1, 1, 10, 100], ["10 ms", "0.1 s", "1 s", "10 s", "100 s"])
        axes.set_yticks([10, 100, 1000, 10_000, 100_000], ["10 W", "100 W", "1 kW", "10 kW", "100 kW"])
        axes.grid(True)
        axes.legend(loc="lower left", frameon=True, framealpha=1, edgecolor=look.PALE, fontsize=9)
        look.save(figure, path)
