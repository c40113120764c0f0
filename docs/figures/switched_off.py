"""The power shown after a load is switched off: the last mean, then no more than the silence allows."""

import look
import matplotlib.pyplot as plt

from powermeter.boards.simulated import flashes
from powermeter.meter import NS_PER_S, Constant, Edge, Flash, Meter, hold_off_ns

IMPULSES_PER_KWH = 1000
#: The load, for how long, in s, and in W: a kettle over a base load, then only the base load.
LOAD = ((30.0, 2100.0), (100.0, 100.0))
STEP_S = 0.25
#: Where the picture begins, in s: the first flashes are past.
FROM_S = 10


def shown() -> list[tuple[float, float | None, bool]]:
    """When, in s, what power is shown then, and whether it is a bound."""
    meter = Meter("house", Constant(IMPULSES_PER_KWH), Flash(hold_off_ns(IMPULSES_PER_KWH, 24_000)), watched_ns=0)
    edges = [Edge(0, at_ns) for at_ns in flashes(iter(LOAD), IMPULSES_PER_KWH, 0)]
    rows = []
    for turn in range(round(sum(duration_s for duration_s, _ in LOAD) / STEP_S)):
        while edges and edges[0].at_ns <= turn * STEP_S * NS_PER_S:
            meter.take(edges.pop(0))
        rows.append((turn * STEP_S, *meter.watts_at(round(turn * STEP_S * NS_PER_S))))
    return rows


def draw(path: str) -> None:
    """Draw it into *path*."""
    rows = [row for row in shown() if row[0] >= FROM_S]
    off_s = LOAD[0][0]
    with look.style():
        figure, axes = plt.subplots(figsize=(look.WIDTH, 3.6), layout="constrained")
        edges = [-off_s, 0.0, LOAD[1][0]]
        axes.stairs([watts for _, watts in LOAD], edges, color=look.GREY, linestyle=":", linewidth=2, label="the load")
        for bound, colour, dashes, label in (
            (False, look.BLUE, "-", "shown: mean between two flashes"),
            (True, look.ORANGE, "--", "shown: at most (a bound)"),
        ):
            # A gap where the other one is shown.
            watts = [row[1] if row[2] == bound else float("nan") for row in rows]
            axes.plot([row[0] - off_s for row in rows], watts, color=colour, linestyle=dashes, label=label)
        axes.set(
            xlabel="time since the load was switched off",
            ylabel="power",
            xlim=(FROM_S - off_s, edges[-1]),
            ylim=(50, 10_000),
            yscale="log",
        )
        axes.set_xticks([0, 20, 40, 60, 80, 100], ["0 s", "20 s", "40 s", "60 s", "80 s", "100 s"])
        axes.set_yticks([100, 1000, 10_000], ["100 W", "1 kW", "10 kW"])
        axes.grid(True)
        axes.legend(loc="upper right", frameon=True, framealpha=1, edgecolor=look.PALE, fontsize=9)
        look.save(figure, path)
