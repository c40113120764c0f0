"""The header with 40 pins, and what is connected to which."""

import look
import matplotlib.pyplot as plt

#: Each pin's name in Raspberry Pi's documentation, in the board's order; a bare number is that of a GPIO.
_COLUMNS = (
    "3V3 2 3 4 GND 17 27 22 3V3 10 9 11 GND 0 5 6 13 19 26 GND",
    "5V 5V GND 14 15 18 GND 23 24 GND 25 8 7 1 GND 12 GND 16 20 21",
)
NAMES = [name for row in zip(*map(str.split, _COLUMNS), strict=True) for name in row]

#: What goes there, and its colour.
USED = {
    12: ("L1, by R2", look.ORANGE),
    16: ("L2, by R4", look.ORANGE),
    17: ("to R1", look.BLUE),
    18: ("collector, by R3", look.BLUE),
    20: ("emitter, L1, L2", look.BLUE),
}

#: The last pin of the Pi 1 A and B.
SHORT = 26


def pin_name(board: int) -> str:
    """
    The name of pin *board*.

    >>> [pin_name(board) for board in (12, 16, 17, 18, 20)]
    ['GPIO 18', 'GPIO 23', '3V3', 'GPIO 24', 'GND']
    """
    name = NAMES[board - 1]
    return f"GPIO {name}" if name.isdigit() else name


def draw(path: str) -> None:
    """Draw it into *path*."""
    with look.style():
        figure, axes = plt.subplots(figsize=(look.WIDTH, 7.6))
        axes.set(xlim=(-2.7, 4.6), ylim=(20.5, -1.9), aspect="auto")
        axes.axis("off")
        axes.add_patch(plt.Rectangle((-0.5, -0.6), 2, 20.2, fill=False, edgecolor=look.INK, linewidth=1.5))
        for board in range(1, len(NAMES) + 1):
            _pin(axes, board)
        axes.plot((-2.6, 4.5), (SHORT / 2 - 0.5,) * 2, color=look.GREY, linestyle=":", linewidth=1.2)
        axes.text(-2.6, 20.15, "At the dotted line the Pi 1 A and B end.", fontsize=8.5, va="center")
        above = "From above, pin 1 in the corner of the board.\nIn circles: the board's numbers. GPIO: BCM's."
        axes.text(-2.6, -1.5, above, fontsize=8.5, va="center")
        look.save(figure, path)


def _pin(axes, board: int) -> None:
    row, right = divmod(board - 1, 2)
    what, colour = USED.get(board, ("", None))
    face, ink = (colour, "white") if colour else ("white", look.INK)
    marker = "s" if board == 1 else "o"
    axes.plot(right, row, marker=marker, markersize=16, markerfacecolor=face, markeredgecolor=colour or look.GREY)
    axes.text(right, row, str(board), color=ink, ha="center", va="center", fontsize=8.5, weight="bold")
    name = pin_name(board)
    if what:
        name = f"{name}: {what}" if right else f"{what}: {name}"
    axes.text(
        1.65 if right else -0.65,
        row,
        name,
        ha="left" if right else "right",
        va="center",
        color=colour or look.GREY,
        weight="bold" if what else "normal",
        fontsize=9.5 if what else 8.5,
    )
