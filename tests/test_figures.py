"""The handbook's pictures are those that the code draws today."""

import doctest
import importlib
import pathlib
import re
import subprocess
import sys

import pytest
from PIL import Image, ImageFilter

DOCS = pathlib.Path(__file__).parent.parent / "docs"
sys.path.append(str(DOCS / "figures"))

import breadboard  # noqa: E402 - found by the line before
import look  # noqa: E402
import parts  # noqa: E402
import schematic  # noqa: E402
from draw import PICTURES, draw_all  # noqa: E402
from header import NAMES, pin_name  # noqa: E402

IMAGES = DOCS / "img"

#: Pictures that a browser takes: of the page (tests/page/pictures.py), and of Home Assistant (tests/home_assistant).
TAKEN = {
    *(f"page_{name}.png" for name in ("start", "telephone", "month")),
    *(f"home_assistant_{name}.png" for name in ("device", "energy", "outage")),
}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory):
    """All pictures, drawn again by the command that ``make docs`` runs."""
    directory = tmp_path_factory.mktemp("drawn")
    subprocess.run([sys.executable, DOCS / "figures" / "draw.py", directory], check=True, timeout=120)
    return directory


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_code_draws(drawn, name):
    """Each picture in docs/img looks as it does when it is drawn afresh."""
    assert look.difference(drawn / name, IMAGES / name) <= look.SAME, "run: make docs"


def test_every_picture_is_drawn():
    """There is no picture in docs/img that no code draws or takes."""
    assert {path.name for path in IMAGES.iterdir()} == set(PICTURES) | TAKEN


def test_every_picture_is_shown_in_the_handbook_with_its_text():
    """Each picture is shown on some page, and everywhere with a text that says what it shows."""
    shown = set()
    for page in [DOCS.parent / "README.rst", *DOCS.glob("*.rst"), *DOCS.glob("*/*.rst")]:
        for name, options in re.findall(
            r"^\.\. (?:image|figure):: \S*/(\S+\.png)\n((?: +.*\n)*)", page.read_text(), re.MULTILINE
        ):
            shown.add(name)
            assert len(options.partition(":alt:")[2]) > 150, f"{page.name}: {name} has no text, or little"
    assert shown == set(PICTURES) | TAKEN


def test_a_picture_with_one_other_digit_is_stale(tmp_path, monkeypatch):
    """One other digit makes a picture stale; drawing corrects it, and a second time changes nothing."""
    monkeypatch.setattr(schematic, "R1", "150 kΩ")
    schematic.draw(str(tmp_path / "metrology_monitor.png"))
    monkeypatch.undo()
    assert look.difference(tmp_path / "metrology_monitor.png", IMAGES / "metrology_monitor.png") > 2 * look.SAME
    assert "metrology_monitor.png" in draw_all(str(tmp_path))
    assert draw_all(str(tmp_path)) == []


def test_a_shade_of_a_pixel_is_no_difference(tmp_path):
    """What another build of the libraries does to the rims of letters does not make a picture stale."""
    soft = Image.open(IMAGES / "metrology_monitor.png").filter(ImageFilter.GaussianBlur(0.4))
    soft.save(tmp_path / "soft.png")
    assert 0 < look.difference(tmp_path / "soft.png", IMAGES / "metrology_monitor.png") <= look.SAME


def test_the_pins_are_the_settings():
    """The pins of the picture are those that the example of the settings names, in both numberings."""
    example = (DOCS.parent / "settings.py.example").read_text()
    names = [re.search(pattern, example)[1] for pattern in (r'"pin": (\d+)', r"L1_PIN = (\d+)", r"L2_PIN = (\d+)")]
    assert [pin_name(int(name)) for name in names] == ["GPIO 24", "GPIO 18", "GPIO 23"]
    assert (len(NAMES), sorted(int(name) for name in NAMES if name.isdigit())) == (40, list(range(28)))


def test_the_breadboard_is_the_circuit(tmp_path, monkeypatch):
    """What the board joins, by its columns and its rail, is what the schematic joins."""
    found = {}

    def at(name, point):
        column = round(point[0] - breadboard.LEFT)
        rows = {height: "ae" if row < "f" else "fj" for row, height in breadboard.ROWS.items()}
        strip = "rail" if point[1] == breadboard.RAIL else (column, rows[point[1]])
        found.setdefault(strip, set()).add(name)

    values = iter(("R1", "R3", "R2", "R4"))

    def resistor(_axes, one, other, value):
        name = next(values)
        assert value == getattr(schematic, name)
        at(f"{name} from", one)
        at(f"{name} to", other)

    def lamp(_axes, long_leg, short_leg, name):
        at(f"{name} long", long_leg)
        at(f"{name} short", short_leg)

    def wire(_axes, points, colour=look.INK):
        if points[0][1] in (*breadboard.ROWS.values(), breadboard.RAIL):
            at("C" if colour == look.BLUE else "E", points[0])

    monkeypatch.setattr(parts, "resistor", resistor)
    monkeypatch.setattr(parts, "lamp", lamp)
    monkeypatch.setattr(parts, "wire", wire)
    monkeypatch.setattr(parts, "from_pi", lambda _axes, _at, pin, _colour, *points: at(f"pin {pin}", points[-1]))
    breadboard.draw(str(tmp_path / "breadboard.png"))
    assert sorted(map(sorted, found.values())) == [
        ["C", "R1 to", "R3 from"],
        ["E", "L1 short", "L2 short", "pin 20"],
        ["L1 long", "R2 to"],
        ["L2 long", "R4 to"],
        ["R1 from", "pin 17"],
        ["R2 from", "pin 12"],
        ["R3 to", "pin 18"],
        ["R4 from", "pin 16"],
    ]


@pytest.mark.parametrize("module", ["parts", *sorted(PICTURES.values())])
def test_the_examples_in_the_code_that_draws(module):
    """What the docstrings of the pictures' modules show is so."""
    assert doctest.testmod(importlib.import_module(module)).failed == 0
