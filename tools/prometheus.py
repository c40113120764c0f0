"""A real Prometheus on loopback, with a port and data of its own, that scrapes one address; for tests."""

import json
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from server import Server, free_port, unpacked

#: What is scraped, and how often. VictoriaMetrics reads the same.
CONFIG = """
global: {{scrape_interval: 1s}}
scrape_configs:
  - job_name: power
    static_configs: [{{targets: ["{target}"]}}]
"""


def prometheus_path() -> Path:
    """The prometheus that ``make servers`` has unpacked."""
    return unpacked("prometheus", "prometheus")


def promtool_path() -> Path:
    """The promtool that comes with it."""
    return unpacked("prometheus", "promtool")


def scrape_config(directory: Path, target: str) -> Path:
    """A file in *directory* that has *target*, such as localhost:8080, scraped every second."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "scrape.yml"
    path.write_text(CONFIG.format(target=target))
    return path


class Prometheus(Server):
    """A Prometheus with its data in *directory* that scrapes *target*."""

    def __init__(self, directory: Path, target: str) -> None:
        config, port = scrape_config(directory, target), free_port()
        command = [
            str(prometheus_path()),
            f"--config.file={config}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        super().__init__(port, command, directory / "prometheus.log", "/-/ready")


def series(port: int, query: str) -> dict[tuple[tuple[str, str], ...], float]:
    """The value of each series that *query* gives now, by its labels; at a Prometheus or a VictoriaMetrics."""
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        found: Any = json.load(answer)
    return {
        tuple(sorted((name, text) for name, text in one["metric"].items() if name not in ("instance", "job"))): float(
            one["value"][1]
        )
        for one in found["data"]["result"]
    }
