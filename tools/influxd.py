"""A real InfluxDB on loopback, with ports and data of its own; for tests and measurements."""

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from server import Server, free_port, unpacked

CONFIG = """
reporting-disabled = true
bind-address = "127.0.0.1:{rpc}"
[meta]
dir = "{data}/meta"
[data]
dir = "{data}/data"
wal-dir = "{data}/wal"
query-log-enabled = false
{data_lines}
[http]
bind-address = "127.0.0.1:{http}"
log-enabled = false
auth-enabled = {auth}
{http_lines}
[monitor]
store-enabled = false
"""


def influxd_path() -> Path:
    """The influxd that ``make servers`` has unpacked."""
    return unpacked("influxdb", "influxd")


class Influxd(Server):
    """
    An influxd with its data in *directory*.

    With *auth* it asks for user and password; *tls*, lines of its
    configuration, makes it answer only HTTPS; *data* are lines of its
    configuration too, such as its limits.
    """

    def __init__(self, directory: Path, *, auth: bool = False, tls: str = "", data: str = "") -> None:
        config = directory / "influxdb.conf"
        directory.mkdir(parents=True, exist_ok=True)
        port = free_port()
        config.write_text(
            CONFIG.format(
                rpc=free_port(),
                http=port,
                data=directory,
                auth="true" if auth else "false",
                http_lines=tls,
                data_lines=data,
            )
        )
        command = [str(influxd_path()), "-config", str(config)]
        super().__init__(port, command, directory / "influxd.log", "/ping", tls=bool(tls))

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
