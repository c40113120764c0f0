"""README, and the pages that it links to, read well on a code host: they are plain reStructuredText."""

import io
import re
from pathlib import Path

import pytest
from docutils import nodes
from docutils.core import publish_doctree

TOP = Path(__file__).resolve().parents[1]


def parsed(path):
    """What docutils, without Sphinx, makes of the file *path*, and its complaints."""
    complaints = io.StringIO()
    # As code hosts have it: nothing is included, nothing is raw.
    options = {
        "report_level": 2,
        "halt_level": 5,
        "warning_stream": complaints,
        "file_insertion_enabled": False,
        "raw_enabled": False,
    }
    tree = publish_doctree(path.read_text(), source_path=str(path), settings_overrides=options)
    return tree, complaints.getvalue()


def targets(path):
    """The files of the repository that the file *path* links to or shows."""
    tree, _ = parsed(path)
    found = [node["refuri"] for node in tree.findall(nodes.reference) if "refuri" in node]
    found += [node["uri"] for node in tree.findall(nodes.image)]
    return [path.parent / target.partition("#")[0] for target in found if not re.match("[a-z]+:", target)]


README = TOP / "README.rst"
SHOWN = [README, *sorted({target for target in targets(README) if target.suffix == ".rst"})]


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path.name)
def test_a_page_reads_well_on_a_code_host(path):
    """Nothing in it needs Sphinx, and each of its links and pictures leads to a file."""
    assert parsed(path)[1] == ""
    assert [target for target in targets(path) if not target.exists()] == []


def test_the_pages_are_those_a_newcomer_needs():
    """README leads to the tutorial, the detector, the installation and the page."""
    names = {path.name for path in SHOWN}
    assert {"laptop.rst", "pi.rst", "build.rst", "mount.rst", "install.rst", "page.rst", "home-assistant.rst"} < names


def test_what_needs_sphinx_is_found(tmp_path):
    """A role or a directive of Sphinx, and a broken link, do not pass."""
    page = tmp_path / "page.rst"
    for text in ("See :doc:`other`.\n", ".. toctree::\n\n   other\n", "See `other`_.\n"):
        page.write_text(text)
        assert parsed(page)[1] != "", text
    page.write_text("`Other <other.rst#there>`_ and `a site <https://example.org>`_.\n")
    assert targets(page) == [tmp_path / "other.rst"]
