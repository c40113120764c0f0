"""Sphinx: how docs/ is built. `make docs` draws the pictures, builds the pages and tries their snippets."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE.parent), str(HERE / "extensions"), str(HERE / "figures")]

from powermeter import __version__  # noqa: E402 - found by the line before

project = "power"
author = "the power developers"
copyright = "2026, the power developers"  # noqa: A001 - Sphinx's name for it
release = version = __version__
extensions = [
    "one_page",
    "plain_links",
    "settings_reference",
    "short_names",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx_argparse_cli",
]
nitpicky = True
# Python's own names and those of libraries: a build asks no network where they are described.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(argparse|bottle|collections\.abc|contextlib|datetime|enum|logging|socket|sqlite3|ssl|threading|types)\..*",
    ),
]
# Quotation marks and dashes are parts of commands and messages: they are not changed.
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
html_theme = "furo"
html_title = "power"
html_theme_options = {"source_repository": "", "top_of_page_buttons": []}
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["handbook.css"]
html_js_files = ["copy_button.js"]
html_copy_source = False
html_show_sourcelink = False
exclude_patterns = ["_build", "figures", "extensions", "grafana", "examples"]
toc_object_entries = False
