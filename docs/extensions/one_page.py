"""
Corrects the whole handbook on one page, which Sphinx's builder singlehtml makes.

Sphinx 9.0 leaves two anchors in a link of that page to a place in another
document, "#document-reference/files#csv", of which the page has only the
second; and two documents may each have a place of the same name. A single page
has neither an index nor a search.
"""

from collections.abc import Iterator
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx


def _one_anchor(app: Sphinx, tree: nodes.document, _docname: str) -> None:
    if app.builder.name != "singlehtml":
        return
    renamed = _each_its_own(tree)
    for link in tree.findall(nodes.reference):
        document, hash_sign, place = link.get("refuri", "").rpartition("#")
        if hash_sign and document.startswith("#document-"):
            link["refuri"] = f"#{renamed.get((document.removeprefix('#document-'), place), place)}"


def _by_document(node: nodes.Element, own: str = "") -> Iterator[tuple[nodes.Element, str]]:
    """*node* and all below it, each with its document. Not by its parent, which may be in another tree."""
    own = node["docname"] if isinstance(node, addnodes.start_of_file) else own
    yield node, own
    for child in node.children:
        if isinstance(child, nodes.Element):
            yield from _by_document(child, own)


def _each_its_own(tree: nodes.document) -> dict[tuple[str, str], str]:
    """Rename places whose name an earlier document has; return the new names, by document and name."""
    first: dict[str, str] = {}
    renamed: dict[tuple[str, str], str] = {}
    for node, own in _by_document(tree):
        for place in node["ids"]:
            if first.setdefault(place, own) != own:
                renamed[own, place] = f"{own}-{place}"
    for node, own in _by_document(tree):
        for key in ("ids", "backrefs"):
            node[key] = [renamed.get((own, place), place) for place in node.get(key, [])]
        if "refid" in node:
            node["refid"] = renamed.get((own, node["refid"]), node["refid"])
    return renamed


def _sidebar(app: Sphinx) -> None:
    if app.builder.name == "singlehtml":
        parts = ("brand", "scroll-start", "navigation", "scroll-end")
        app.config.html_sidebars = {"**": [f"sidebar/{part}.html" for part in parts]}


def _other_pages(
    app: Sphinx, _page: str, _template: str, context: dict[str, Any], _tree: nodes.document | None
) -> None:
    if app.builder.name == "singlehtml":
        context["hasdoc"] = lambda name: name in app.env.all_docs


def setup(app: Sphinx) -> dict[str, Any]:
    """Correct links, sidebar and head of the one page."""
    app.connect("builder-inited", _sidebar, priority=900)
    app.connect("doctree-resolved", _one_anchor)
    app.connect("html-page-context", _other_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
