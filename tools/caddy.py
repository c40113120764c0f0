"""A real Caddy on loopback, with a port and files of its own; for tests."""

import os
from pathlib import Path

from server import Server, free_port, unpacked

#: Without TLS, as no name is given to it, and without the administrator's port.
CADDYFILE = """
{{
    admin off
    auto_https off
    storage file_system {directory}/data
}}
http://:{port} {{
    bind 127.0.0.1
    respond /is-up 204
{lines}
}}
"""


def caddy_path() -> Path:
    """The Caddy that ``make servers`` has unpacked."""
    return unpacked("caddy", "caddy")


class Caddy(Server):
    """A Caddy with the *lines* in its block of a site."""

    def __init__(self, directory: Path, lines: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        port, config = free_port(), directory / "Caddyfile"
        config.write_text(CADDYFILE.format(directory=directory, port=port, lines=lines))
        command = [str(caddy_path()), "run", "--adapter", "caddyfile", "--config", str(config)]
        super().__init__(port, command, directory / "caddy.log", "/is-up")
        self._environment = {**os.environ, "HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}
