"""
What a year of pulses costs on the servers: bytes, and how long the dashboard's slowest panels take.

    make servers
    python docs/grafana/a_year.py

4 million pulses, a household of 4,000 kWh at 1,000 impulses per kWh, are delivered by the writer to an InfluxDB and a
VictoriaMetrics on loopback, with data in a directory under /var/tmp. Then the months' panels are asked for, five times
each, and the files of the data are counted.
"""

import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "src"), str(TOP / "tools")]

from influxd import Influxd  # noqa: E402 - found by the line before
from victoriametrics import VictoriaMetrics  # noqa: E402

from powermeter.meter import NS_PER_S, Constant, Pulse  # noqa: E402
from powermeter.settings.schema import REQUIRED  # noqa: E402
from powermeter.settings.values import WriterSettings  # noqa: E402
from powermeter.writers import open_writer, writer_type  # noqa: E402

PULSES = 4_000_000
BEGIN_NS = 1_735_689_600 * NS_PER_S  # 2025-01-01
END_NS = BEGIN_NS + 365 * 86400 * NS_PER_S
BATCH = 5000
TIMES = 5


def deliver(port: int) -> None:
    """The year's pulses, by the writer of the settings."""
    options = {name: key.default for name, key in writer_type("influxdb").keys.items() if key.default is not REQUIRED}
    writer = open_writer(WriterSettings("a", "influxdb", {**options, "host": "127.0.0.1", "port": port, "timeout": 60}))
    chance, constant, time_ns = random.Random(1), Constant(1000), BEGIN_NS
    spacing_ns = (END_NS - BEGIN_NS) // PULSES
    batch = []
    for number in range(1, PULSES + 1):
        interval_ns = round(spacing_ns * chance.uniform(0.2, 1.8))
        time_ns += interval_ns
        watts = constant.mean_watts(1, interval_ns / NS_PER_S)
        batch.append(Pulse("house", number, time_ns, watts, 1.0, constant.register_at(number)))
        if len(batch) == BATCH:
            writer.deliver(batch, "")
            batch.clear()
    writer.close()


def size(directory: Path) -> int:
    """The bytes of the files in *directory*."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def query(source: str, title: str) -> str:
    """The query of a panel of the dashboard of *source*, for the meter house."""
    for panel in json.loads((Path(__file__).parent / f"{source}.json").read_text())["panels"]:
        if panel["title"] == title:
            (target,) = panel["targets"]
            text: str = target.get("query") or target["expr"]
            return re.sub(r"\$\{\w+:regex\}", "house", text)
    raise LookupError(title)


def seconds(ask: object) -> str:
    """The median of how long *ask* takes, in s, and the slowest."""
    taken = []
    for _ in range(TIMES):
        begin_s = time.perf_counter()
        ask()  # type: ignore[operator]
        taken.append(time.perf_counter() - begin_s)
    return f"{statistics.median(taken):.1f} s, the slowest {max(taken):.1f} s"


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory(prefix="power-year.", dir="/var/tmp") as name:
        # What it otherwise does after minutes and hours without a point: pack what was written.
        os.environ["INFLUXDB_DATA_CACHE_SNAPSHOT_WRITE_COLD_DURATION"] = "1s"
        os.environ["INFLUXDB_DATA_COMPACT_FULL_WRITE_COLD_DURATION"] = "1s"
        place = Path(name) / "influxdb"
        with Influxd(place) as influx:
            influx.query("CREATE DATABASE power")
            deliver(influx.port)
            end_s = time.monotonic() + 300
            while size(place / "wal") > PULSES and time.monotonic() < end_s:
                time.sleep(1)
            when = f"time >= {BEGIN_NS // 1_000_000}ms and time <= {END_NS // 1_000_000}ms"
            for title in ("Energy per month", "Peak per month"):
                asked = query("influxdb", title).replace("$timeFilter", when)
                print(f"InfluxDB, {title}: {seconds(lambda asked=asked: influx.query(asked))}", flush=True)
            print(f"InfluxDB: {(size(place / 'data') + size(place / 'wal')) / PULSES:.1f} bytes per pulse", flush=True)
        with VictoriaMetrics(
            Path(name) / "victoria", "-search.disableCache", "-dedup.minScrapeInterval=1ms"
        ) as victoria:
            deliver(victoria.port)
            victoria.flush()
            for title in ("Energy per month", "Peak per month"):
                asked = {
                    "query": query("victoriametrics", title),
                    "start": BEGIN_NS / NS_PER_S,
                    "end": END_NS / NS_PER_S,
                    "step": 3600,
                }
                took = seconds(lambda asked=asked: victoria.ask("/api/v1/query_range", **asked))
                print(f"VictoriaMetrics, {title}: {took}", flush=True)
            print(f"VictoriaMetrics: {size(Path(name) / 'victoria' / 'data') / PULSES:.1f} bytes per pulse")


if __name__ == "__main__":
    main()
