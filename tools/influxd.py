"""A real InfluxDB on loopback, with ports and data of its own; for tests and measurements."""

import json
import os
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

CONFIG = """
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
dir = "{data}/meta"
[data]
dir = "{data}/data"
wal-dir = "{data}/wal"
query-log-enabled = false
[http]
bind-address = "127.0.0.1:{http}"
log-enabled = false
auth-enabled = {auth}
[monitor]
store-enabled = false
"""

START_S = 60


def influxd_path() -> Path:
    """The influxd that ``make`` has unpacked."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "power" / "influxdb" / "usr" / "bin" / "influxd"


def free_port() -> int:
    """A port on loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Influxd:
    """
    An influxd with its data in *directory*; a context manager.

    It can be stopped and started again on the same port, so that a program
    sees it go away and come back. With *auth* it asks for user and password.
    """

    def __init__(self, directory: Path, *, auth: bool = False) -> None:
        self.port = free_port()
        self._config = directory / "influxdb.conf"
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        text = CONFIG.format(rpc=free_port(), http=self.port, data=directory, auth="true" if auth else "false")
        self._config.write_text(text)

    def __enter__(self) -> "Influxd":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [str(influxd_path()), "-config", str(self._config)]
        with self._config.with_name("influxd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5):
                    return
            except OSError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.05)
        raise RuntimeError(f"influxd did not start: see {self._config.with_name('influxd.log')}")

    def stop(self) -> None:
        """End it and wait; may be called twice."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def query(self, query: str, database: str = "power", user: str = "", password: str = "") -> list[dict[str, Any]]:
        """The series that *query* gives, times as integers in ns; raises on the server's error."""
        fields = {"q": query, "db": database, "epoch": "ns"}
        if user:
            fields |= {"u": user, "p": password}
        data = urllib.parse.urlencode(fields).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/query", data=data, timeout=60) as answer:
            (result,) = json.load(answer)["results"]
        if "error" in result:
            raise RuntimeError(result["error"])
        series: list[dict[str, Any]] = result.get("series", [])
        return series

    def points(self, measurement: str = "electricity_power", database: str = "power") -> list[dict[str, Any]]:
        """Every point of *measurement* as a dict of its columns, in order of time."""
        found = self.query(f'SELECT * FROM "{measurement}"', database)
        return [dict(zip(one["columns"], values, strict=True)) for one in found for values in one["values"]]
