"""
The reference of the settings: defaults and what is allowed from the schema of powermeter.settings and of the writers.

A page has one directive ``setting`` per key, with its meaning as content; the
default and what is allowed are added from the schema, in the words of the
program's own errors. A key without its directive fails the build, as does a
directive without its key. The role ``setting`` links to one.
"""

from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.directives import ObjectDescription
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.nodes import make_id

from powermeter.settings.reading import METER, TOP, WRITER_COMMON
from powermeter.settings.schema import REQUIRED, Key
from powermeter.views import mqtt, page
from powermeter.writers import WRITERS, writer_type

log = logging.getLogger(__name__)

#: Every key by its name on the page: on its own at the top level, else after the place that it belongs to.
KEYS: dict[str, Key] = {
    **TOP,
    **{f"METERS.{name}": key for name, key in METER.items()},
    **{f"WRITERS.{name}": key for name, key in WRITER_COMMON.items()},
    **{f"PAGE.{name}": key for name, key in page.KEYS.items()},
    **{f"MQTT.{name}": key for name, key in mqtt.KEYS.items()},
    **{f"{kind}.{name}": key for kind in WRITERS for name, key in writer_type(kind).keys.items()},
}


def allowed(key: Key) -> str:
    """
    What *key* allows, in the words of the error.

    >>> allowed(TOP["COMMIT_INTERVAL"])
    'a number from 0.1 to 3,600'
    """
    try:
        key.check(REQUIRED)
    except ValueError as error:
        return str(error)
    raise AssertionError("no key allows REQUIRED")


def default(key: Key) -> str:
    """
    The default of *key* as one would write it in the settings; "" if it has no default.

    >>> default(TOP["GPIO_LIBRARY"])
    '"auto"'
    """
    if key.default is REQUIRED:
        return ""
    return f'"{key.default}"' if isinstance(key.default, str) else repr(key.default)


class Setting(ObjectDescription[str]):
    """One key of the settings."""

    def handle_signature(self, sig: str, signode: addnodes.desc_signature) -> str:
        """Show the key's own name, without the place that it belongs to."""
        if sig not in KEYS:
            raise self.error(f"no such setting: {sig}; known are {', '.join(KEYS)}")
        _, _, name = sig.rpartition(".")
        signode += addnodes.desc_name(name, name)
        signode["fullname"] = sig
        return sig

    def add_target_and_index(self, name: str, sig: str, signode: addnodes.desc_signature) -> None:
        """Make it a target of the role, and an entry of the index."""
        node_id = make_id(self.env, self.state.document, "setting", name.replace("_", "-"))
        signode["ids"].append(node_id)
        self.state.document.note_explicit_target(signode)
        self.env.domains.standard_domain.note_object("setting", name, node_id, location=signode)
        self.indexnode["entries"].append(("single", f"{sig.rpartition('.')[2]} (setting)", node_id, "", None))

    def transform_content(self, content_node: addnodes.desc_content) -> None:
        """Put default and what is allowed before the meaning."""
        if not self.names:
            return
        name = self.names[0]
        if not content_node.children:
            log.warning("the setting %s has no meaning", name, location=content_node)
        key = KEYS[name]
        given = default(key)
        line = nodes.paragraph(classes=["schema"])
        line += nodes.strong("", "Default: " if given else "Required")
        if given:
            line += nodes.literal(given, given)
        line += nodes.Text(". ")
        line += nodes.strong("", "Allowed: ")
        line += nodes.Text(f"{allowed(key)}.{' Never shown in a message.' if key.secret else ''}")
        content_node.insert(0, line)


def _check_all(_app: Sphinx, env: BuildEnvironment) -> None:
    documented = {name for kind, name in env.domains.standard_domain.objects if kind == "setting"}
    for name in KEYS:
        if name not in documented:
            log.warning("the setting %s is not in the reference", name)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive and the role ``setting``."""
    app.add_object_type("setting", "setting", objname="setting")
    app.add_directive_to_domain("std", "setting", Setting, override=True)
    app.connect("env-check-consistency", _check_all)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
