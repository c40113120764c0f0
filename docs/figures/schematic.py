"""The circuit: the detector on the meter's LED, and the two lamps."""

import look
import schemdraw
import schemdraw.elements as elm

#: What is soldered, by the names on the picture; docs/explanation/circuit.rst explains these values.
R1, R2, R3, R4 = "180 kΩ", "470 Ω", "100 kΩ", "470 Ω"

#: How high the supply, the collector and the ground are drawn.
TOP, MIDDLE, BOTTOM = 6.0, 3.2, 0.4


def draw(path: str) -> None:
    """Draw it into *path*."""
    with look.style():
        drawing = schemdraw.Drawing(show=False, canvas="matplotlib")
        drawing.config(font="DejaVu Sans", fontsize=13, lw=1.6, color=look.INK)
        _detector(drawing)
        _lamp(drawing, 5.9, "pin 12\nGPIO 18", f"R2\n{R2}", "L1\npulse")
        _lamp(drawing, 8.3, "pin 16\nGPIO 23", f"R4\n{R4}", "L2\nstate")
        look.save(drawing.draw(show=False).fig, path)


def _text(drawing: schemdraw.Drawing, at: tuple[float, float], text: str, side: str = "left", **more: str) -> None:
    drawing += elm.Label().at(at).label(text, halign=side, valign="center", **more)


def _detector(drawing: schemdraw.Drawing) -> None:
    drawing += elm.Vdd().at((0, TOP))
    _text(drawing, (0, TOP + 0.75), "3V3\npin 17", "center")
    drawing += elm.Resistor().endpoints((0, TOP), (0, MIDDLE))
    _text(drawing, (0.4, (TOP + MIDDLE) / 2), f"R1\n{R1}")
    drawing += elm.Dot().at((0, MIDDLE))
    drawing += elm.Resistor().endpoints((0, MIDDLE), (2.8, MIDDLE))
    _text(drawing, (1.4, MIDDLE - 0.6), f"R3, {R3}", "center")
    drawing += elm.Dot(open=True).at((2.8, MIDDLE))
    _text(drawing, (3.05, MIDDLE), "pin 18\nGPIO 24")
    drawing += (eye := elm.NpnPhoto().right().anchor("collector").at((0, MIDDLE - 0.7)))
    drawing += elm.Line().endpoints((0, MIDDLE), eye.collector)
    drawing += elm.Line().endpoints(eye.emitter, (0, BOTTOM))
    drawing += elm.Ground().at((0, BOTTOM))
    _text(drawing, (0, BOTTOM - 1.05), "ground\npin 20", "center")
    _text(drawing, (0.3, (eye.collector[1] + eye.emitter[1]) / 2), "Q1\nTEPT5700")
    _text(drawing, (-0.2, MIDDLE - 0.35), "C", "right", color=look.BLUE)
    _text(drawing, (-0.2, eye.emitter[1] - 0.3), "E", "right", color=look.BLUE)


def _lamp(drawing: schemdraw.Drawing, x: float, pin: str, resistor: str, lamp: str) -> None:
    drawing += elm.Dot(open=True).at((x, TOP))
    _text(drawing, (x, TOP + 0.75), pin, "center")
    drawing += elm.Resistor().endpoints((x, TOP), (x, MIDDLE))
    _text(drawing, (x + 0.4, (TOP + MIDDLE) / 2), resistor)
    drawing += elm.LED().endpoints((x, MIDDLE), (x, BOTTOM))
    _text(drawing, (x + 0.85, (MIDDLE + BOTTOM) / 2 - 0.1), lamp)
    drawing += elm.Ground().at((x, BOTTOM))
