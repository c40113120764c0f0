"""The way of the data: from an edge to the writers, with the module that does each step and the thread it runs on."""

import look
import matplotlib.pyplot as plt

#: The writers there are, from the left, and where each takes the pulses.
WRITERS = (("file", "CSV file"), ("influxdb", "database"), ("librato", "service"))

#: Each step: where its box begins, its height, what it is, what it does, and whether it is a port.
STEPS = (
    (9.0, 0.9, "boards/", "edges of the pins, with their times", True),
    (7.3, 0.9, "recorder.py, meter.py", "which edges are pulses", False),
    (5.6, 0.9, "keeper.py", "together, in one transaction", False),
    (3.9, 0.9, "journal.py: journal.db", "every pulse, how far each writer is", False),
)
LEFT, RIGHT = 0.0, 4.6
MIDDLE = (LEFT + RIGHT) / 2


def draw(path: str) -> None:
    """Draw it into *path*."""
    with look.style():
        figure, axes = plt.subplots(figsize=(look.WIDTH, 6.6))
        axes.set(xlim=(-0.1, 7.1), ylim=(-0.7, 11.3), aspect="auto")
        axes.axis("off")
        axes.text(MIDDLE, 10.95, "phototransistor at the meter's LED", ha="center", va="center")
        _arrow(axes, (MIDDLE, 10.7), (MIDDLE, 9.9), "a pin goes low")
        for bottom, height, name, what, port in STEPS:
            _box(axes, (LEFT, bottom, RIGHT - LEFT, height), name, what, port=port)
        for start, end, what in ((9.0, 8.2, "edges"), (7.3, 6.5, "pulses"), (5.6, 4.8, "on the disk")):
            _arrow(axes, (MIDDLE, start), (MIDDLE, end), what)
        _box(axes, (5.3, 7.3, 1.7, 0.9), "lamps.py", "L1, L2")
        _arrow(axes, (RIGHT, 7.75), (5.3, 7.75))
        _arrow(axes, (6.15, 8.2), (RIGHT, 9.45))
        for turn, (writer, place) in enumerate(WRITERS):
            left = turn * 2.4
            middle = left + 1.1
            _arrow(axes, (0.8 + turn * 1.5, 3.9), (middle, 3.1))
            _box(axes, (left, 2.2, 2.2, 0.9), "delivery.py", "batches, pauses")
            _arrow(axes, (middle, 2.2), (middle, 1.5))
            _box(axes, (left, 0.6, 2.2, 0.9), "writers/", f"{writer}.py", port=True)
            _arrow(axes, (middle, 0.6), (middle, 0.0))
            axes.text(middle, -0.3, place, ha="center", va="center")
        for height, thread in ((7.0, "thread: recorder"), (6.05, "thread: journal"), (3.95, "one thread each")):
            axes.text(7.0, height, thread, ha="right", va="center", fontsize=9, style="italic", color=look.GREEN)
        look.save(figure, path)


def _box(axes, place: tuple[float, float, float, float], name: str, what: str, *, port: bool = False) -> None:
    left, bottom, width, height = place
    colour = look.BLUE if port else look.INK
    axes.add_patch(
        plt.Rectangle((left, bottom), width, height, fill=False, edgecolor=colour, linewidth=2 if port else 1)
    )
    middle = left + width / 2
    up = 0.2 if what else 0
    small = 9 if width > 3 else 8.2
    axes.text(
        middle, bottom + height / 2 + up, name, ha="center", va="center", weight="bold", color=colour, fontsize=small
    )
    axes.text(middle, bottom + height / 2 - 0.22, what, ha="center", va="center", fontsize=small)


def _arrow(axes, start: tuple[float, float], end: tuple[float, float], what: str = "") -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": look.INK, "shrinkA": 0, "shrinkB": 0})
    axes.text(start[0] + 0.15, (start[1] + end[1]) / 2, what, ha="left", va="center", fontsize=9)
