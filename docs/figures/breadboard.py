"""The circuit on a breadboard, with the cable to the phototransistor and its two legs."""

import look
import parts
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
from schematic import R1, R2, R3, R4

WIDTH, HEIGHT = 25.0, 31.2
#: Where column 1 is, how high each row of holes, and the rail for ground.
LEFT = 4.0
ROWS = {name: 25.0 - place for name, place in zip("abcdefghij", (0, 1, 2, 3, 4, 6, 7, 8, 9, 10), strict=True)}
RAIL = 11.4
COLUMNS = 20
#: The columns of the detector, the lamps and the wire to ground.
C_AT, PIN_18_AT, L1_AT, L2_AT, GROUND_AT = 3, 7, 11, 15, 19
#: Where the sockets of the jumper wires are.
PINS = 28.6


def draw(path: str) -> None:
    """Draw it into *path*."""
    with look.style():
        figure, axes = parts.sheet(WIDTH, HEIGHT)
        _board(axes)
        _detector(axes)
        for column, pin, value, names in ((L1_AT, 12, R2, ("R2", "L1")), (L2_AT, 16, R4, ("R4", "L2"))):
            _lamp(axes, column, pin, value, names)
        _from_pi(axes, GROUND_AT, 20, look.INK, RAIL)
        parts.label(axes, (_x(1) - 0.4, PINS + 0.75), "to the\nPi's pins", ha="right")
        _cable(axes)
        _q1(axes)
        look.save(figure, path)


def _x(column: int) -> float:
    return LEFT + column


def _board(axes) -> None:
    left, right = _x(1) - 0.9, _x(COLUMNS) + 0.9
    box = {"facecolor": "#fafafa", "edgecolor": look.GREY, "linewidth": 1.2, "zorder": 1}
    low = RAIL - 0.9
    axes.add_patch(
        FancyBboxPatch((left, low), right - left, 26.2 - low, boxstyle="round,pad=0,rounding_size=0.3", **box)
    )
    gap = (ROWS["e"] + ROWS["f"]) / 2
    axes.add_patch(Rectangle((left, gap - 0.25), right - left, 0.5, facecolor=look.PALE, edgecolor="none", zorder=1.5))
    axes.plot((left + 0.5, right - 0.5), (RAIL + 0.62,) * 2, color=look.INK, linewidth=1.2, zorder=2)
    parts.label(axes, (right + 0.5, RAIL), "-", fontsize=13, weight="bold")
    for column in range(1, COLUMNS + 1):
        # The five holes of a column's half are joined inside the board.
        for half in ("ae", "fj"):
            top, bottom = (ROWS[name] for name in half)
            axes.plot(
                (_x(column),) * 2, (top, bottom), color="#e9e9e9", linewidth=6, zorder=1.8, solid_capstyle="round"
            )
        for height in (*ROWS.values(), RAIL):
            axes.add_patch(Circle((_x(column), height), 0.15, facecolor="#a8a8a8", edgecolor="none", zorder=2))
    for name, height in ROWS.items():
        parts.label(axes, (right + 0.5, height), name, fontsize=7.5, color=look.GREY)


def _from_pi(axes, column: int, pin: int, colour: str, height: float) -> None:
    parts.from_pi(axes, (_x(column), PINS), pin, colour, (_x(column), height))


def _on_board(axes, at, text: str, **more) -> None:
    # Holes behind a word would make it hard to read.
    parts.label(axes, at, text, bbox={"facecolor": "#fafafa", "edgecolor": "none", "pad": 0.8}, zorder=3, **more)


def _detector(axes) -> None:
    _from_pi(axes, C_AT, 17, look.ORANGE, ROWS["a"])
    parts.resistor(axes, (_x(C_AT), ROWS["c"]), (_x(C_AT), ROWS["g"]), R1)
    _on_board(axes, (_x(C_AT) + 0.75, ROWS["d"] + 0.1), f"R1\n{R1}", ha="left")
    _from_pi(axes, PIN_18_AT, 18, look.BLUE, ROWS["f"])
    parts.resistor(axes, (_x(C_AT), ROWS["h"]), (_x(PIN_18_AT), ROWS["h"]), R3)
    _on_board(axes, ((_x(C_AT) + _x(PIN_18_AT)) / 2 + 0.2, ROWS["i"] - 0.1), f"R3, {R3}")


def _lamp(axes, column: int, pin: int, value: str, names: tuple[str, str]) -> None:
    x = _x(column)
    _from_pi(axes, column, pin, look.GREEN, ROWS["a"])
    parts.resistor(axes, (x, ROWS["c"]), (x, ROWS["g"]), value)
    _on_board(axes, (x + 0.75, ROWS["d"] + 0.1), f"{names[0]}\n{value}", ha="left")
    parts.lamp(axes, (x, ROWS["i"]), (x, RAIL), names[1])
    _on_board(axes, (x + 0.4, ROWS["i"]), "long leg", fontsize=8, ha="left")
    parts.label(axes, (x + 0.65, RAIL + 1.15), "short leg", fontsize=8, ha="left")


def _cable(axes) -> None:
    collector, ground = (_x(C_AT), ROWS["j"]), (_x(1), RAIL)
    parts.wire(axes, (collector, (1.9, ROWS["j"]), (1.9, 3.9), (8.6, 3.9), (9.6, 3.1)), look.BLUE)
    parts.end(axes, collector, look.BLUE)
    parts.wire(axes, (ground, (2.6, RAIL), (2.6, 4.6), (8.6, 4.6), (9.6, 5.4)))
    parts.end(axes, ground)
    for corner, size in (((1.5, 3.5), (1.5, 6.2)), ((1.5, 3.5), (7.0, 1.5))):
        axes.add_patch(Rectangle(corner, *size, facecolor="#bdbdbd", edgecolor="none", zorder=5))
    parts.label(axes, (3.4, 7.4), "cable, its screen\nat ground", ha="left")


def _q1(axes) -> None:
    short_leg, long_leg = parts.phototransistor(axes, 15.5, 4.25, 1)
    for height, start, colour in ((long_leg, 9.6, look.BLUE), (short_leg, 11.2, look.INK)):
        axes.plot((start, 15.2), (height, height), color=parts.METAL, linewidth=2.6, zorder=5)
        parts.wire(axes, ((9.6, height), (start, height)), colour)
        parts.end(axes, (start, height), colour)
    parts.label(axes, (11.6, long_leg - 0.9), "long leg: C, collector", color=look.BLUE, fontsize=8.5)
    parts.label(axes, (11.6, short_leg + 0.9), "short leg: E, emitter", fontsize=8.5)
    for height in (3.6, 4.9):
        arrow = {"arrowstyle": "-|>", "color": look.INK, "linewidth": 1.3}
        axes.annotate("", xy=(20.2, height), xytext=(22.6, height), arrowprops=arrow)
    parts.label(axes, (21.8, 6.5), "light of the\nmeter's LED")
