"""A real VictoriaMetrics on loopback, with a port and data of its own, and the proxy that belongs to it; for tests."""

import json
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server import Server, free_port, unpacked


def victoriametrics_path() -> Path:
    """The victoria-metrics that ``make servers`` has unpacked."""
    return unpacked("victoria-metrics", "victoria-metrics")


#: Points of any age are kept, and shown at once: by default for a month, and but those of the last 30 s.
DEFAULTS = ("-retentionPeriod=100y", "-search.latencyOffset=0s")


class VictoriaMetrics(Server):
    """A VictoriaMetrics with its data in *directory*, started with *defaults* and *options*."""

    def __init__(self, directory: Path, *options: str, defaults: Sequence[str] = DEFAULTS) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        own = [f"-httpListenAddr=127.0.0.1:{port}", f"-storageDataPath={directory / 'data'}"]
        command = [str(victoriametrics_path()), *own, *defaults, *options]
        super().__init__(port, command, directory / "victoria-metrics.log", "/health")

    def ask(self, path: str, **fields: str | float) -> Any:
        """What the server answers on *path*, from JSON; raises on its error."""
        data = urllib.parse.urlencode(fields).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", data=data, timeout=60) as answer:
            return json.load(answer)

    def flush(self) -> None:
        """Make what was written visible now: by itself it is after a second."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/internal/force_flush", timeout=60):
            pass


class Vmauth(Server):
    """A vmauth that lets the user *username* pass to *paths* of the server at *port*, and nowhere else."""

    def __init__(self, directory: Path, port: int, *, username: str, password: str, paths: Sequence[str]) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        own = free_port()
        config = directory / "vmauth.json"  # JSON is YAML too
        route = {"src_paths": list(paths), "url_prefix": f"http://127.0.0.1:{port}"}
        config.write_text(json.dumps({"users": [{"username": username, "password": password, "url_map": [route]}]}))
        command = [str(unpacked("victoria-metrics", "vmauth"))]
        command += [f"-httpListenAddr=127.0.0.1:{own}", f"-auth.config={config}"]
        super().__init__(own, command, directory / "vmauth.log", "/health")
