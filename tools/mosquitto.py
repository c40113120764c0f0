"""A real mosquitto on loopback, with a port and files of its own; for tests and measurements."""

import os
import signal
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
    return {**os.environ, "LD_LIBRARY_PATH": _libraries("mosquitto")}


def _libraries(package: str) -> str:
    return ":".join(str(path) for path in (cache() / package).glob("**/lib/*-linux-*"))


def clients_environment() -> dict[str, str]:
    """What a shell finds mosquitto_sub and mosquitto_pub with."""
    programs = unpacked("mosquitto-clients", "mosquitto_sub").parent
    paths = {"PATH": f"{programs}:{os.environ['PATH']}", "LD_LIBRARY_PATH": _libraries("mosquitto-clients")}
    return {**os.environ, **paths}


class Mosquitto(Server):
    """
    A mosquitto that forgets everything when it ends; with its files in *directory*.

    *users*: passwords by name; without any, everybody may connect. *acl* is its
    file of rights, and *lines* are more of its configuration. With a
    *certificate* and its key it speaks only TLS.
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
        self._passwords = directory / "passwords"
        if users:
            self._write_passwords(users)
            lines += f"\npassword_file {self._passwords}"
        self._acl = directory / "acl"
        if acl:
            self._acl.write_text(acl)
            self._acl.chmod(0o600)
            lines += f"\nacl_file {self._acl}"
        if certificate:
            lines += f"\ncertfile {certificate[0]}\nkeyfile {certificate[1]}"
        config.write_text(CONFIG.format(port=port, anonymous="false" if users else "true", lines=lines))
        super().__init__(port, [str(mosquitto_path()), "-c", str(config)], directory / "mosquitto.log", "")
        self._environment = _environment()

    def _write_passwords(self, users: dict[str, str]) -> None:
        self._passwords.write_text("".join(f"{name}:{password}\n" for name, password in users.items()))
        tool = unpacked("mosquitto", "mosquitto_passwd")
        subprocess.run([tool, "-U", self._passwords], check=True, env=_environment())

    def change(self, *, users: dict[str, str] | None = None, acl: str | None = None) -> None:
        """Give it other *users* or another *acl*, which it takes while it runs."""
        if users is not None:
            self._write_passwords(users)
        if acl is not None:
            self._acl.write_text(acl)
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def _reach(self) -> None:
        socket.create_connection(("127.0.0.1", self.port), 5).close()
