"""A simulated household's day through the whole program, from the queue of edges on the same code as on a Pi."""

import itertools
import time

from program import wait_until
from records import csv_rows

from powermeter.boards.simulated import SimulatedBoard, household
from powermeter.journal.history import History
from powermeter.journal.journal import Journal
from powermeter.meter import NS_PER_S
from powermeter.monitor import Monitor
from powermeter.settings import reading

DAY_NS = 86400 * NS_PER_S
FAR_NS = 2**62

SETTINGS = """
DATA_DIR = {directory!r}
METERS = {{
    "house": {{"pin": 18, "impulses_per_kwh": 1000}},
    "heating": {{"pin": 22, "impulses_per_kwh": 3200}},
}}
WRITERS = {{
    "file": {{"type": "file"}},
    "influxdb": {{"type": "influxdb", "host": "127.0.0.1", "port": {port}, "database": {database!r},
                  "update_period": 0}},
}}
"""


def integral_kwh(load, seconds):
    """The energy of the steps of *load* within *seconds*."""
    joules = 0.0
    for duration_s, watts in load:
        joules += watts * min(duration_s, seconds)
        seconds -= duration_s
        if seconds <= 0:
            return joules / 3.6e6
    raise AssertionError("a load has no end")


def test_energy_of_a_day(tmp_path, influxd, influx_db):
    """After a household's day, kWh in file, journal and InfluxDB equal the load's integral to one pulse."""
    path = tmp_path / "settings.py"
    path.write_text(SETTINGS.format(directory=str(tmp_path), port=influxd.port, database=influx_db))
    read = reading.read(str(path))
    # The day begins a day ago: its flashes come at once, each with its own time.
    start_ns = time.monotonic_ns() - DAY_NS
    board = SimulatedBoard(read, lambda meter: household(0, seed=meter), start_ns)

    with Monitor(read, lambda _: board, simulate=True, on_crash=lambda: None) as monitor:
        expected = {m.name: integral_kwh(household(0, seed=m.name), 86400) for m in read.meters}

        def counted():
            status = monitor.status().as_dict()
            return (
                all(
                    status["meters"][m.name]["register_kwh"] > expected[m.name] - 1 / m.impulses_per_kwh
                    for m in read.meters
                )
                and status["writers"]["influxdb"]["waiting"] == 0
            )

        wait_until(counted)
        board.unwatch()
        elapsed_s = (time.monotonic_ns() - start_ns) / NS_PER_S
    assert not monitor.crashed

    lines = csv_rows(tmp_path / "power.csv")
    points = influxd.points(database=influx_db)
    with Journal(str(tmp_path / "journal.db")) as journal:
        history = History(journal.path)
        for meter in read.meters:
            kwh = integral_kwh(household(0, seed=meter.name), elapsed_s)
            in_journal = history.span(meter.name, 0, FAR_NS)
            in_file = [line for line in lines if line[0] == meter.name]
            in_influxdb = [point for point in points if point["meter"] == meter.name]
            assert in_journal.pulses == len(in_file) == len(in_influxdb)
            for found in (
                in_journal.kwh,
                in_file[-1][4],
                sum(line[3] for line in in_file) / 1000,
                in_influxdb[-1]["register"],
                sum(point["energy"] for point in in_influxdb) / 1000,
            ):
                assert abs(found - kwh) <= 1.001 / meter.impulses_per_kwh  # a thousandth for the sums' rounding
            # Power times time is energy: between two flashes, just one pulse's.
            for before, after in itertools.pairwise(in_file):
                joules = after[2] * (after[1] - before[1]) / NS_PER_S
                assert abs(joules - 3.6e6 / meter.impulses_per_kwh) < 0.1
        history.close()
