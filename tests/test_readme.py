"""README, and the pages that it links to, read well on a code host: they are plain reStructuredText."""

import io
import re
import subprocess
import sys
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


def test_a_link_to_a_source_leads_to_its_page(tmp_path):
    """In the handbook such a link leads to the page, and to the place in it; one that leads nowhere fails the build."""
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(TOP / 'docs' / 'extensions')!r})\nextensions = ['plain_links']\n"
    )
    (tmp_path / "kind").mkdir()
    (tmp_path / "kind" / "other.rst").write_text(":orphan:\n\nOther\n=====\n\n`Back <../index.rst>`__\n")
    line = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "-b", "html", str(tmp_path), str(tmp_path / "built")]
    (tmp_path / "index.rst").write_text("First\n=====\n\n`There <kind/other.rst#other>`__\n")
    subprocess.run(line, check=True)
    assert 'href="kind/other.html#other"' in (tmp_path / "built" / "index.html").read_text()
    assert 'href="../index.html"' in (tmp_path / "built" / "kind" / "other.html").read_text()
    (tmp_path / "index.rst").write_text("First\n=====\n\n`There <kind/none.rst>`__\n")
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "there is no page kind/none" in done.stderr
