"""
How all pictures look, and whether two look the same.

Dark lines on a white card of their own: it reads on paper and, as a card, on a dark screen. The font comes
with matplotlib; the machine's own fonts and settings are not used, and no file names a date or a version.
"""

import atexit
import contextlib
import os
import tempfile

# matplotlib keeps a list of fonts, and would complain where the user has no home to keep it in.
if "MPLCONFIGDIR" not in os.environ:
    _home = tempfile.TemporaryDirectory(prefix="power.")
    os.environ["MPLCONFIGDIR"] = _home.name
    atexit.register(_home.cleanup)

import matplotlib as mpl
import numpy as np
from PIL import Image

mpl.use("Agg")

import matplotlib.pyplot as plt

#: Dark colours that differ in lightness too (Okabe and Ito's, which most colour-blind people tell apart).
INK, BLUE, ORANGE, GREEN = "#1a1a1a", "#0072b2", "#c44e00", "#00714f"
GREY, PALE = "#6b6b6b", "#d9d9d9"

#: Width in inches: at 10 points a letter is still 8 points high on a phone of 390 points.
WIDTH = 4.8
DPI = 200

#: Pictures that differ by no more than this look the same. What other builds of the libraries do to a letter's rim
#: stays below it, another digit does not (tests/test_figures.py).
SAME = 24.0
#: The side of the squares that are compared, in pixels: about half of a letter.
SQUARE = 12


@contextlib.contextmanager
def style():
    """The settings for a picture, whatever the user's own are."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(
            {
                "font.family": "DejaVu Sans",
                "font.size": 10,
                "axes.titlesize": 11,
                "axes.edgecolor": INK,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "grid.color": PALE,
                "text.color": INK,
                "figure.facecolor": "white",
                "savefig.facecolor": "white",
                "savefig.dpi": DPI,
            }
        )
        yield
    plt.close("all")


def save(figure, path: str) -> None:
    """Write *figure* to *path* with a rim of white, and nothing in the file that changes from day to day."""
    figure.savefig(path, format="png", bbox_inches="tight", pad_inches=0.15, metadata={"Software": None})


def difference(path: str, other: str) -> float:
    """
    How much two pictures differ where they differ most: the mean over a small square, of 255.

    255 where their sizes differ by more than 2 pixels: less is the rounding of a letter's width.
    """
    one, two = (np.asarray(Image.open(each).convert("RGB"), dtype=float) for each in (path, other))
    if max(abs(a - b) for a, b in zip(one.shape, two.shape, strict=True)) > 2:
        return 255.0
    height, width = (min(a, b) // SQUARE * SQUARE for a, b in zip(one.shape[:2], two.shape[:2], strict=True))
    apart = np.abs(one[:height, :width] - two[:height, :width]).max(axis=2)
    squares = apart.reshape(height // SQUARE, SQUARE, width // SQUARE, SQUARE).mean(axis=(1, 3))
    return float(squares.max())
