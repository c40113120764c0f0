"""
Names in docstrings as the code has them: without their module, or of something without an entry of its own.

A name such as :exc:`JournalError` leads to the one object whose full name ends
with it. A constant of the module, or an attribute of the class, gets no link;
if nothing has that name, the build fails as for any other.
"""

import importlib
import inspect
import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode


def _found(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement) -> nodes.Node | None:
    if node.get("refdomain") != "py":
        return None
    domain = env.domains.python_domain
    ending = [name for name in domain.objects if name.endswith(f".{node['reftarget']}")]
    if len(ending) != 1:
        return content if _is_there(node) else None
    entry = domain.objects[ending[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, ending[0])


def _is_there(node: pending_xref) -> bool:
    """Whether the name is that of a constant of the module, or of an attribute that the class sets on itself."""
    module, class_name, name = node.get("py:module"), node.get("py:class"), node["reftarget"]
    if not module:
        return False
    if node["reftype"] == "data":
        return hasattr(importlib.import_module(module), name)
    if node["reftype"] != "attr" or not class_name:
        return False
    source = inspect.getsource(getattr(importlib.import_module(module), class_name))
    return re.search(rf"self\.{re.escape(name)}\b[^=\n]*=[^=]", source) is not None


def _without_a_word(_app: Sphinx, _what: str, _name: str, member: object, _skip: bool, _options: Any) -> bool | None:
    """Leave out the fields of a tuple that Python itself describes: the tuple's docstring explains them."""
    return True if (inspect.getdoc(member) or "").startswith("Alias for field number") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Resolve names that Sphinx itself does not know, and choose what is worth an entry."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-skip-member", _without_a_word)
    app.connect("missing-reference", _found)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
