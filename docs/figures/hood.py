"""The hood on the meter's LED: a cut through hood, phototransistor and the meter's window."""

import look
import parts
from matplotlib.patches import Circle, FancyBboxPatch, Polygon, Rectangle

#: In mm, as all lengths here.
WIDTH, HEIGHT = 62.0, 44.0
#: The window's outer face, and how high the middle of LED and hood is.
FACE, MIDDLE = 14.0, 21.0
#: Of the hood: its length, its bore (that of Q1's rim) and its wall.
LONG, BORE, WALL = 16.0, 5.9, 1.3
#: How far Q1 stands back from the window.
BACK = 2.0


def draw(path: str) -> None:
    """Draw it into *path*."""
    with look.style():
        figure, axes = parts.sheet(WIDTH, HEIGHT)
        _meter(axes)
        _q1(axes)
        _hood(axes)
        _words(axes)
        look.save(figure, path)


def _meter(axes) -> None:
    axes.add_patch(Rectangle((0, 3), FACE - 1.6, 36, facecolor="#f4f4f4", edgecolor="none", zorder=1))
    for height in (3, 39):
        axes.plot((0, FACE), (height, height), color=look.INK, linewidth=1.3, zorder=2)
    window = {"facecolor": "white", "edgecolor": look.INK, "linewidth": 1.2, "hatch": "////", "zorder": 2}
    axes.add_patch(Rectangle((FACE - 1.6, 3), 1.6, 36, **window))
    # The LED: 3 mm wide, its round end at the window.
    left = FACE - 7.2
    led = {"facecolor": look.ORANGE, "edgecolor": look.INK, "linewidth": 1.2, "zorder": 3}
    axes.add_patch(FancyBboxPatch((left, MIDDLE - 1.5), 5, 3, boxstyle="round,pad=0,rounding_size=1.3", **led))
    for off in (-0.7, 0.7):
        axes.plot((left - 4, left), (MIDDLE + off,) * 2, color=parts.METAL, linewidth=1.8, zorder=2)


def _q1(axes) -> None:
    front = FACE + BACK
    body = {"facecolor": "white", "edgecolor": look.INK, "linewidth": 1.4, "zorder": 6}
    axes.add_patch(Circle((front + 2.5, MIDDLE), 2.5, **body))
    axes.add_patch(Rectangle((front + 2.5, MIDDLE - 2.5), 5.2, 5, **body))
    axes.add_patch(Rectangle((front + 1.9, MIDDLE - 2.37), 2, 4.74, facecolor="white", edgecolor="none", zorder=6.5))
    axes.add_patch(Rectangle((front + 7.7, MIDDLE - 2.9), 1, 5.8, **body))
    parts.label(axes, (front + 4.6, MIDDLE), "Q1", weight="bold")
    for off, colour in ((1.27, look.BLUE), (-1.27, look.INK)):
        height = MIDDLE + off
        axes.plot((front + 8.7, FACE + LONG + 5), (height, height), color=parts.METAL, linewidth=2, zorder=5)
        axes.plot(
            (front + 10.2, FACE + LONG + 6),
            (height, height),
            color=parts.SHRINK,
            linewidth=5,
            zorder=5.5,
            solid_capstyle="butt",
        )
        axes.plot((FACE + LONG + 6, 41), (height, height), color=colour, linewidth=2.2, zorder=5)
    axes.add_patch(
        Rectangle((40, MIDDLE - 2.6), WIDTH - 40, 5.2, facecolor="#bdbdbd", edgecolor=look.INK, linewidth=1.1, zorder=6)
    )
    # Light goes from the LED to Q1 and nowhere else.
    for off in (-1.0, 0, 1.0):
        arrow = {"arrowstyle": "-|>", "color": look.ORANGE, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
        axes.annotate(
            "",
            xy=(front + 0.2 + 0.25 * off * off, MIDDLE + off),
            xytext=(FACE - 2.1, MIDDLE + off * 0.8),
            arrowprops=arrow,
            zorder=7,
        )


def _hood(axes) -> None:
    for low in (MIDDLE + BORE / 2, MIDDLE - BORE / 2 - WALL):
        axes.add_patch(Rectangle((FACE, low), LONG, WALL, facecolor=look.INK, edgecolor=look.INK, zorder=7))
    # Tape: a plug at the back, and strips from the hood to the meter's face.
    back = FACE + LONG
    tape = {"facecolor": "#707070", "edgecolor": look.INK, "linewidth": 0.8, "zorder": 6.2}
    axes.add_patch(Rectangle((back - 1.2, MIDDLE - BORE / 2 - WALL), 3.2, BORE + 2 * WALL, **tape))
    for sign in (1, -1):
        rim = MIDDLE + sign * (BORE / 2 + WALL)
        corners = (
            (FACE, rim + sign * 6),
            (FACE, rim),
            (FACE + 9, rim),
            (FACE + 9, rim + sign * 0.7),
            (FACE + 0.9, rim + sign * 0.7),
            (FACE + 0.7, rim + sign * 6),
        )
        axes.add_patch(Polygon(corners, **tape))


def _words(axes) -> None:
    edge = MIDDLE + BORE / 2 + WALL
    parts.pointer(axes, "black tape, also all round\nwhere hood and meter meet", (34, 39), (FACE + 0.4, edge + 4.5))
    parts.pointer(axes, "hood: a black tube,\n10 mm to 20 mm long", (40, 31.5), (FACE + 12, edge - WALL / 2))
    parts.pointer(axes, "back closed with\nblack tape", (46.5, 11.5), (FACE + LONG + 1.4, MIDDLE - BORE / 2 + 0.2))
    parts.pointer(axes, "heat shrink\non each leg", (31, 6.5), (FACE + LONG - 3, MIDDLE - 1.9))
    parts.label(axes, (51, MIDDLE), "cable")
    parts.label(axes, (6.3, 35.5), "the meter")
    parts.label(axes, (6.0, 27.5), "its LED,\nimp/kWh")
    parts.pointer(axes, "window", (5.5, 12), (FACE - 0.8, 9.5))
    # How far Q1 stands back: from its tip down through the hood.
    low, rim = MIDDLE - BORE / 2 - WALL - 7.5, MIDDLE - BORE / 2 - WALL
    axes.plot((FACE + BACK,) * 2, (rim, MIDDLE - BORE / 2), color="white", linewidth=0.9, zorder=9)
    for x in (FACE, FACE + BACK):
        axes.plot((x, x), (low - 1, rim), color=look.INK, linewidth=0.9, zorder=6.1)
    arrow = {
        "arrowstyle": "<|-|>",
        "color": look.INK,
        "linewidth": 0.8,
        "mutation_scale": 5,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", xy=(FACE, low - 0.2), xytext=(FACE + BACK, low - 0.2), arrowprops=arrow)
    parts.label(axes, (FACE + BACK + 0.7, low - 0.2), "2 mm", ha="left", fontsize=8.5)
