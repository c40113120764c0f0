"""A real server on loopback, with a port and data of its own; for tests and measurements."""

import contextlib
import os
import random
import socket
import ssl
import subprocess
import time
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

START_S = 60


def cache() -> Path:
    """Where make keeps what it has downloaded for the tests."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "power"


def unpacked(package: str, program: str) -> Path:
    """The *program* of Debian's *package* that ``make servers`` has unpacked."""
    places = [cache() / package / directory / program for directory in ("usr/bin", "usr/sbin", "sbin")]
    return next((place for place in places if place.exists()), places[0])


def free_port() -> int:
    """
    A port on loopback that is free now, below the range from which the kernel takes the ports of connections.

    One of that range could be taken by any connection before its server listens.
    """
    end = max(20_000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]))
    while True:
        port = random.randrange(10_000, end)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Server:
    """
    The process of *command*, which answers HTTP on :attr:`port` of loopback; a context manager.

    It can be stopped and started again on the same port, so that a program
    sees it go away and come back. What it prints goes to the file *log*; it is
    up once *path* answers, with *tls* by HTTPS.
    """

    def __init__(self, port: int, command: list[str], log: Path, path: str, *, tls: bool = False) -> None:
        self.port = port
        self._tls = tls
        self._command = command
        self._log = log
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None
        #: None: this process's.
        self._environment: dict[str, str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environment
            )
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            try:
                self._reach()
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"{self._command[0]} did not start: see {self._log}")

    def _reach(self) -> None:
        """Have it answer. Raises :exc:`OSError` while it does not."""
        url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}{self._path}"
        anyone = ssl._create_unverified_context() if self._tls else None  # noqa: SLF001 - only whether it answers
        urllib.request.urlopen(url, timeout=5, context=anyone).close()

    def stop(self) -> None:
        """End it and wait; may be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
