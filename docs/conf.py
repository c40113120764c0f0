"""Sphinx: how docs/ is built."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from powermeter import __version__

project = "power"
author = "the power developers"
copyright = "2026, the power developers"  # noqa: A001 - Sphinx's name for it
release = version = __version__
extensions = ["sphinx.ext.autodoc"]
nitpicky = True
html_theme = "alabaster"
html_theme_options = {"description": "A home electricity monitor that people trust"}
exclude_patterns = ["_build"]
