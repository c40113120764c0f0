"""A real Node-RED on loopback, which runs one flow without an editor; for tests."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from server import Server, cache, free_port

#: What ``make test-home-assistant`` has unpacked.
NODE_RED = cache() / "node-red" / "node_modules" / "node-red" / "red.js"

SETTINGS = """
module.exports = {{ uiHost: '127.0.0.1', uiPort: {port}, flowFile: 'flow.json', httpAdminRoot: false,
                    telemetry: {{ enabled: false }} }}
"""


class NodeRed(Server):
    """A Node-RED with its files in *directory*, which runs *flow*: a list of nodes, as its editor exports them."""

    def __init__(self, directory: Path, flow: list[dict[str, Any]]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        (directory / "settings.js").write_text(SETTINGS.format(port=port))
        (directory / "flow.json").write_text(json.dumps(flow))
        command = ["node", str(NODE_RED), "--userDir", str(directory), "--settings", str(directory / "settings.js")]
        super().__init__(port, command, directory / "node-red.log", "/")

    def _reach(self) -> None:
        # Without an editor it has no page.
        try:
            super()._reach()
        except urllib.error.HTTPError as error:
            error.close()
