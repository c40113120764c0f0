"""
Links between pages in plain reStructuredText, which a code host's page of the source follows too.

```Parts <../reference/parts.rst>`__`` leads to that file where the source is shown, and to its page in the handbook;
so does one with a place in it, ``parts.rst#rest``. A link to a page that does not exist fails the build.
"""

import posixpath
from typing import Any
from urllib.parse import urlsplit

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

log = logging.getLogger(__name__)

SOURCE = ".rst"


def _find(app: Sphinx, tree: nodes.document) -> None:
    """Put in place of each link to a source what is resolved once all pages were read."""
    for link in list(tree.findall(nodes.reference)):
        parts = urlsplit(link.get("refuri", ""))
        if parts.scheme or parts.netloc or not parts.path.endswith(SOURCE):
            continue
        own = app.env.docname
        target = posixpath.normpath(posixpath.join(posixpath.dirname(own), parts.path.removesuffix(SOURCE)))
        waiting = addnodes.pending_xref(
            "", refdomain="", reftype="source", refdoc=own, reftarget=target, place=parts.fragment, refexplicit=True
        )
        waiting.source, waiting.line = link.source, link.line
        waiting += nodes.inline("", "", *link.children)
        link.replace_self(waiting)


def _resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.Node | None:
    if node["reftype"] != "source":
        return None
    target = node["reftarget"]
    if target not in env.found_docs:
        log.warning("there is no page %s", target, location=node)
        return content
    place = f"#{node['place']}" if node["place"] else ""
    address = app.builder.get_relative_uri(node["refdoc"], target) + place
    return nodes.reference("", "", content, internal=True, refuri=address)


def setup(app: Sphinx) -> dict[str, Any]:
    """Follow links to sources."""
    app.connect("doctree-read", _find)
    app.connect("missing-reference", _resolve)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
