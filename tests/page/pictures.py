"""Takes the handbook's pictures of the page, of a simulated household, as small PNGs: pictures.py DIRECTORY."""

import io
import sys
import tempfile
from datetime import date
from pathlib import Path

from browser import Browser
from PIL import Image
from program import Program, wait_until
from records import journal_rows
from server import free_port

SETTINGS = """
METERS = {{
    "house": {{"pin": 18, "impulses_per_kwh": 4000, "label": "House"}},
    "roof": {{"pin": 22, "impulses_per_kwh": 4000, "label": "Roof", "direction": "export"}},
}}
WRITERS = {{"file": {{"type": "file"}}}}
PAGE = {{"port": {port}}}
"""

#: Each picture: its window's width in pixels, the colour scheme, and what is looked at.
PICTURES = {
    "page_start": (1100, False, ""),
    "page_telephone": (360, True, ""),
    "page_month": (1100, False, f"bars?span={date.today():%Y-%m}"),
}


def take(browser, directory):
    """Write the pictures that *browser* shows into *directory*."""
    port = free_port()
    with tempfile.TemporaryDirectory() as own, Program(own, SETTINGS.format(port=port)) as program:
        program.start("--simulate")
        journal = program.data_dir / "simulated"
        wait_until((journal / "journal.db").exists)
        wait_until(lambda: {meter for meter, *_ in journal_rows(journal)} == {"house", "roof"})
        # Flashes come at their own pace again after the start.
        wait_until(lambda: not any(meter["watts_is_bound"] for meter in program.status()["meters"].values()))
        for name, (width, dark, path) in PICTURES.items():
            with browser.view(f"http://127.0.0.1:{port}/", width=width, dark=dark) as view:
                view.go(path)
                picture = Image.open(io.BytesIO(view.page.screenshot(full_page=True)))
            # Few colours are enough for it, in a fraction of the size.
            picture.convert("RGB").quantize(64).save(directory / f"{name}.png", optimize=True)


if __name__ == "__main__":
    with Browser() as opened:
        take(opened, Path(sys.argv[1]))
