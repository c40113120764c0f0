"""Parts as they look on the table: resistors with their rings, LEDs, the phototransistor, wires and jumpers."""

import look
import matplotlib.pyplot as plt
from header import pin_name
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

#: The colours of the rings, by their digit.
RINGS = (
    "black",
    "saddlebrown",
    "red",
    "darkorange",
    "gold",
    "green",
    "blue",
    "darkviolet",
    "grey",
    "white",
)
GOLD = "goldenrod"
BODY = "#f2e3c6"
METAL = "#8a8a8a"
#: Heat shrink.
SHRINK = "#3a3a3a"


def rings(value: str) -> tuple[str, str, str, str]:
    """
    The colours of the four rings of a resistor of *value*, ±5 %: two digits, the zeros behind them, gold.

    >>> rings("180 kΩ")
    ('saddlebrown', 'grey', 'gold', 'goldenrod')
    >>> rings("470 Ω")
    ('gold', 'darkviolet', 'saddlebrown', 'goldenrod')
    """
    number, unit = value.split()
    digits = str(int(number) * (1000 if unit == "kΩ" else 1))
    return RINGS[int(digits[0])], RINGS[int(digits[1])], RINGS[len(digits) - 2], GOLD


def sheet(width: float, height: float):
    """An empty picture and its axes, *width* by *height* units and as wide as all pictures."""
    figure, axes = plt.subplots(figsize=(look.WIDTH, look.WIDTH * height / width))
    axes.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axes.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    return figure, axes


def wire(axes, points, colour=look.INK, width=2.2, **more) -> None:
    """A wire through *points*, over what it crosses."""
    across, up = zip(*points, strict=True)
    axes.plot(across, up, color="white", linewidth=width + 1.6, zorder=4, solid_capstyle="butt")
    axes.plot(across, up, color=colour, linewidth=width, zorder=4, solid_joinstyle="round", **more)


def end(axes, at, colour=look.INK) -> None:
    """The end of a wire or a leg, in its hole."""
    axes.plot(*at, marker="o", markersize=4.5, color=colour, zorder=7)


def resistor(axes, one, other, value: str) -> None:
    """A resistor whose legs end at *one* and *other*, which lie beside or above one another."""
    axes.plot(*zip(one, other, strict=True), color=METAL, linewidth=2, zorder=5)
    for leg in (one, other):
        end(axes, leg, METAL)
    upright = one[0] == other[0]
    length, thick = 2.3, 0.85
    x, y = (one[0] + other[0]) / 2, (one[1] + other[1]) / 2
    across, up = (thick, length) if upright else (length, thick)
    axes.add_patch(
        FancyBboxPatch(
            (x - across / 2, y - up / 2),
            across,
            up,
            boxstyle="round,pad=0,rounding_size=0.25",
            facecolor=BODY,
            edgecolor=look.INK,
            linewidth=1.1,
            zorder=6,
        )
    )
    # From the first end on; the gold one stands apart from the others.
    forward = other > one
    for place, colour in zip((-0.75, -0.35, 0.05, 0.75), rings(value), strict=True):
        at = place if forward else -place
        corner = (x - thick / 2, y + at - 0.1) if upright else (x + at - 0.1, y - thick / 2)
        size = (thick, 0.2) if upright else (0.2, thick)
        axes.add_patch(Rectangle(corner, *size, facecolor=colour, edgecolor=look.INK, linewidth=0.4, zorder=6.5))


def lamp(axes, long_leg, short_leg, name: str) -> None:
    """An LED from above, between the end of its *long_leg* and, below that, of its *short_leg*."""
    x, y = long_leg[0], (long_leg[1] + short_leg[1]) / 2
    for leg in (long_leg, short_leg):
        axes.plot(*zip(leg, (x, y), strict=True), color=METAL, linewidth=2, zorder=5)
        end(axes, leg, METAL)
    axes.add_patch(Circle((x, y), 0.85, facecolor="white", edgecolor=look.INK, linewidth=1.6, zorder=6))
    # The rim is flat on the side of the short leg.
    axes.plot((x - 0.55, x + 0.55), (y - 0.64, y - 0.64), color=look.INK, linewidth=2.6, zorder=6.5)
    axes.text(x, y + 0.03, name, ha="center", va="center", fontsize=9, weight="bold", zorder=7)


def phototransistor(axes, rim: float, middle: float, towards: int) -> tuple[float, float]:
    """
    Q1 from the side, its rim at *rim*, its round end *towards* the right (1) or the left (-1).

    Returns the heights of its legs: the upper and the lower one.
    """
    far = rim + towards * 4.3
    outline = {"facecolor": "white", "edgecolor": look.INK, "linewidth": 1.4}
    dome = {"boxstyle": "round,pad=0,rounding_size=1.6", "zorder": 5.5}
    axes.add_patch(FancyBboxPatch((min(rim, far), middle - 1.65), 4.3, 3.3, **outline, **dome))
    back = rim if towards > 0 else rim - 2.4
    axes.add_patch(Rectangle((back, middle - 1.65), 2.4, 3.3, facecolor="white", edgecolor="none", zorder=5.6))
    for height in (middle - 1.65, middle + 1.65):
        axes.plot((rim, rim + towards * 2.5), (height, height), color=look.INK, linewidth=1.4, zorder=5.7)
    axes.add_patch(Rectangle((rim - 0.35, middle - 1.95), 0.7, 3.9, zorder=6, **outline))
    label(axes, (rim + towards * 2, middle), "Q1", weight="bold")
    return middle + 1.15, middle - 1.15


def jumper(axes, at, text: str, colour) -> None:
    """The socket of a jumper wire, for the header's pin that *text* names; its wire leaves at *at*, downwards."""
    x, y = at
    axes.add_patch(Rectangle((x - 0.7, y), 1.4, 1.5, facecolor=colour, edgecolor=look.INK, linewidth=1, zorder=6))
    axes.text(x, y + 0.75, text, ha="center", va="center", color="white", fontsize=9, weight="bold", zorder=7)


def from_pi(axes, at, pin: int, colour: str, *points) -> None:
    """A jumper wire from the header's *pin*, its socket *at*, through *points* to the last of them."""
    jumper(axes, at, str(pin), colour)
    name = pin_name(pin)
    label(axes, (at[0], at[1] + 2.1), "ground" if name == "GND" else name, fontsize=8.5)
    wire(axes, (at, *points), colour)
    end(axes, points[-1], colour)


def label(axes, at, text: str, **more) -> None:
    """*text* beside what it is about."""
    more = {"fontsize": 9, "ha": "center", "va": "center", "zorder": 8} | more
    axes.text(*at, text, **more)


def pointer(axes, text: str, at, to, **more) -> None:
    """*text* at *at*, with a thin line to what it names."""
    more = {"fontsize": 9, "ha": "center", "va": "center", "zorder": 9} | more
    line = {"arrowstyle": "-", "color": look.INK, "linewidth": 0.9, "shrinkA": 2, "shrinkB": 0}
    axes.annotate(text, xy=to, xytext=at, arrowprops=line, **more)
