"""Detector and lamps without a breadboard: the cable with Q1 at one end, and what is soldered at the other."""

import look
import parts
from matplotlib.patches import Rectangle
from schematic import R1, R2, R3, R4

WIDTH, HEIGHT = 34.5, 25.0
#: Where the sockets of the jumper wires are, and how high the collector's wire and the ground's.
PINS = 21.4
COLLECTOR, GROUND = 6.4, 3.6
#: Beside one another: where the collector's wire ends, the wires to pin 18 and to ground, the lamps.
JOINT, PIN_18, PIN_20, L1, L2 = 15.4, 19.3, 23.5, 27.7, 32.4
#: The ends of the cable's jacket.
CABLE = (8.6, 13.2)


def draw(path: str) -> None:
    """Draw it into *path*."""
    with look.style():
        figure, axes = parts.sheet(WIDTH, HEIGHT)
        _cable(axes)
        _pi_end(axes)
        for x, pin, value, names in ((L1, 12, R2, ("R2", "L1")), (L2, 16, R4, ("R4", "L2"))):
            _lamp(axes, x, pin, value, names)
        parts.label(axes, (5.0, PINS + 0.75), "to the Pi's pins", ha="left")
        look.save(figure, path)


def _cable(axes) -> None:
    middle = (COLLECTOR + GROUND) / 2
    upper, lower = parts.phototransistor(axes, 4.9, middle, -1)
    left, right = CABLE
    for leg, height, colour in ((upper, COLLECTOR, look.BLUE), (lower, GROUND, look.INK)):
        parts.wire(axes, ((5.2, leg), (left - 1, leg)), parts.METAL)
        axes.plot((6.3, left - 0.9), (leg, leg), color=parts.SHRINK, linewidth=5.5, zorder=5, solid_capstyle="butt")
        inside = middle + (0.4 if leg > middle else -0.4)
        parts.wire(axes, ((left - 1, leg), (left + 0.3, inside), (right - 0.3, inside), (right + 1, height)), colour)
    axes.add_patch(
        Rectangle(
            (left, middle - 0.9), right - left, 1.8, facecolor="#bdbdbd", edgecolor=look.INK, linewidth=1, zorder=6
        )
    )
    # The screen, joined to the emitter's wire at both ends.
    for jacket, joint in (
        ((left + 0.5, middle - 0.9), (left - 0.6, lower)),
        ((right - 0.5, middle - 0.9), (JOINT, GROUND)),
    ):
        axes.plot(
            *zip(jacket, (jacket[0], GROUND - 0.4), (joint[0], GROUND - 0.4), joint, strict=True),
            color=look.INK,
            linewidth=1.3,
            linestyle=(0, (3, 1.5)),
            zorder=4.5,
        )
    parts.end(axes, (JOINT, GROUND))
    parts.pointer(axes, "heat shrink\non each leg", (5.4, 10.6), (7.2, upper + 0.25))
    parts.label(axes, ((left + right) / 2, middle), "up to 5 m", zorder=8)
    parts.label(axes, (12, 1.4), "dashed: the cable's screen,\njoined to the emitter at both ends")
    parts.label(axes, (5.9, upper + 0.7), "C", color=look.BLUE, weight="bold")
    parts.label(axes, (5.9, lower - 0.7), "E", weight="bold")


def _pi_end(axes) -> None:
    parts.wire(axes, ((CABLE[1] + 1, COLLECTOR), (JOINT, COLLECTOR)), look.BLUE)
    parts.resistor(axes, (JOINT, 15.0), (JOINT, COLLECTOR), R1)
    parts.label(axes, (JOINT - 0.75, (15.0 + COLLECTOR) / 2), f"R1\n{R1}", ha="right")
    parts.from_pi(axes, (JOINT, PINS), 17, look.ORANGE, (JOINT, 15.0))
    parts.resistor(axes, (JOINT, COLLECTOR), (PIN_18, COLLECTOR), R3)
    parts.end(axes, (JOINT, COLLECTOR), look.BLUE)
    parts.label(axes, ((JOINT + PIN_18) / 2, COLLECTOR + 1.1), f"R3\n{R3}", va="bottom")
    parts.from_pi(axes, (PIN_18, PINS), 18, look.BLUE, (PIN_18, COLLECTOR))
    parts.wire(axes, ((CABLE[1] + 1, GROUND), (L2, GROUND)))
    parts.from_pi(axes, (PIN_20, PINS), 20, look.INK, (PIN_20, GROUND))


def _lamp(axes, x: float, pin: int, value: str, names: tuple[str, str]) -> None:
    parts.from_pi(axes, (x, PINS), pin, look.GREEN, (x, 18.0))
    parts.resistor(axes, (x, 18.0), (x, 12.0), value)
    parts.label(axes, (x - 0.75, 15.0), f"{names[0]}\n{value}", ha="right")
    parts.lamp(axes, (x, 12.0), (x, 6.4), names[1])
    parts.label(axes, (x - 0.4, 11.1), "long\nleg", fontsize=8, ha="right")
    parts.label(axes, (x - 0.4, 6.9), "short\nleg", fontsize=8, ha="right")
    parts.wire(axes, ((x, 6.4), (x, GROUND)))
    parts.end(axes, (x, GROUND))
