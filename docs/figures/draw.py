"""
Draws the handbook's pictures: ``python docs/figures/draw.py docs/img``.

A picture that exists and looks the same is not changed, so that a build on
another machine changes no file for the sake of a pixel's shade.
"""

import os
import sys
import tempfile
from collections.abc import Callable

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "..", "src")]

import look  # noqa: E402 - found by the line before

#: Each picture's file, and the module that draws it, by its function ``draw``.
PICTURES = {
    "metrology_monitor.png": "schematic",
    "header.png": "header",
    "breadboard.png": "breadboard",
    "soldered.png": "soldered",
    "hood.png": "hood",
    "a_day.png": "a_day",
    "power_by_spacing.png": "power_by_spacing",
    "late_stamp.png": "late_stamp",
    "counting_or_integrating.png": "counting_or_integrating",
    "switched_off.png": "switched_off",
    "way_of_data.png": "way_of_data",
}


def drawing(module: str) -> Callable[[str], None]:
    """The function that draws *module*'s picture into the file it is given."""
    return __import__(module).draw


def draw_all(directory: str) -> list[str]:
    """Draw into *directory* each picture that is missing or out of date there; return their names."""
    drawn = []
    for name, module in PICTURES.items():
        path = os.path.join(directory, name)
        with tempfile.TemporaryDirectory() as scratch:
            fresh = os.path.join(scratch, name)
            drawing(module)(fresh)
            if os.path.exists(path) and look.difference(fresh, path) <= look.SAME:
                continue
            os.makedirs(directory, exist_ok=True)
            with open(fresh, "rb") as source, open(path, "wb") as target:
                target.write(source.read())
        drawn.append(name)
    return drawn


if __name__ == "__main__":
    for drawn_name in draw_all(sys.argv[1]):
        sys.stdout.write(f"drawn: {drawn_name}\n")
