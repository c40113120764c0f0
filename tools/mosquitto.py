"""A real mosquitto on loopback, with a port and files of its own; for tests and measurements."""

import os
import socket
import subprocess
from pathlib import Path

from server import Server, cache, free_port, unpacked

CONFIG = """
listener {port} 127.0.0.1
allow_anonymous {anonymous}
persistence false
{lines}
"""


def mosquitto_path() -> Path:
    """The mosquitto that ``make servers`` has unpacked."""
    return unpacked("mosquitto", "mosquitto")


def _environment() -> dict[str, str]:
    """What it finds the libraries with that were unpacked beside it."""
    libraries = [str(path) for path in (cache() / "mosquitto").glob("**/lib/*-linux-*")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}


class Mosquitto(Server):
    """
    A mosquitto that forgets all when it ends; with its files in *directory*.

    *users*: passwords by name; without any, everybody may connect. *acl* is its
    file of rights, and *lines* are more of its configuration. With the
    *certificate* and *key* it accepts only TLS.
    """

    def __init__(
        self,
        directory: Path,
        *,
        users: dict[str, str] | None = None,
        acl: str = "",
        lines: str = "",
        certificate: tuple[str, str] | None = None,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        config, port = directory / "mosquitto.conf", free_port()
        # As root it would become a user of its own, who may not read what is here.
        lines = f"user {os.environ.get('USER') or 'root'}\n{lines}" if os.geteuid() == 0 else lines
        if users:
            passwords = directory / "passwords"
            passwords.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
            tool = unpacked("mosquitto", "mosquitto_passwd")
            subprocess.run([tool, "-U", passwords], check=True, env=_environment())
            lines += f"\npassword_file {passwords}"
        #: May be rewritten: it is read again after a SIGHUP, and at a start.
        self.acl = directory / "acl"
        if acl:
            self.acl.write_text(acl)
            self.acl.chmod(0o600)
            lines += f"\nacl_file {self.acl}"
        if certificate:
            lines += f"\ncertfile {certificate[0]}\nkeyfile {certificate[1]}"
        config.write_text(CONFIG.format(port=port, anonymous="false" if users else "true", lines=lines))
        super().__init__(port, [str(mosquitto_path()), "-c", str(config)], directory / "mosquitto.log", "")
        self._environment = _environment()

    def _reach(self) -> None:
        socket.create_connection(("127.0.0.1", self.port), 5).close()
