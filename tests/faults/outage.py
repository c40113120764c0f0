"""
A real InfluxDB and a Librato were away for a week with one pulse per second: that many pulses are waiting in the
journal when the program starts, and both services are still away. Meanwhile the program counts 20 pulses per second,
which go to a file and to another, healthy InfluxDB. Then the first InfluxDB comes back, and once it has caught up,
Librato.

Every pulse arrives once, in order, with its own time. The backlog is delivered at the rate that ``make bench`` demands:
0.6 of what a bare loop over such rows reaches in the same minute. No request is larger than a batch, and memory does
not grow with the number of waiting pulses. Live pulses do not starve: none is missed, and the healthy services receive
them as fast as before.
"""

import contextlib
import itertools
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from pathlib import Path

from delivered import gauges, in_file
from influxd import Influxd
from librato_server import LibratoServer
from program import Program, wait_until
from records import expected, journal_rows
from rig import TOP, Row, differences, fill
from servers import WATTS, Influxdb, Librato, judged

from powermeter.delivery import LONGEST_PAUSE_S
from powermeter.errors import ProcessError
from powermeter.meter import NS_PER_S
from powermeter.process.control import ask

TITLE = "An outage of a week"
PROMISE = "After a week's outage every pulse arrives, once and in order"
MEASURED = "pulses missing, doubled, out of order or with another time, in any service"

WEEK = 7 * 86400
PER_S = 20
PERIOD_S = 10
BATCH = 5000
#: How long it is looked at with the services away, in s.
AWAY_S, LEAST_AWAY_S = 60, 8
#: The bounds: of the bare loop's rate, of the bytes a request, of what the backlog may add to the memory in MiB.
RATE, BODY_BYTES, MEMORY_MIB = 0.6, 1 << 20, 10
#: Points that are compared at a time.
COMPARED = 50_000

SETTINGS = """
COMMIT_INTERVAL = 0.5
METERS = {{"house": {{"pin": 18, "impulses_per_kwh": 1000, "max_watts": {most_watts}}}}}
WRITERS = {{
    "file": {{"type": "file"}},
    "near": {{"type": "influxdb", "host": "127.0.0.1", "port": {near}, "update_period": 1}},
    "influxdb": {{"type": "influxdb", "host": "127.0.0.1", "port": {far}, "update_period": 1}},
    "librato": {{"type": "librato", "user": {user!r}, "token": {token!r}, "protocol": "http", "source": "here",
                 "hostname": "127.0.0.1:{librato}", "period": {period_s}}},
}}
"""

#: The bare loop over a journal, to a port, in a process of its own.
LOOP = """
import run, sys
journal, port, database = sys.argv[1:]
run._loop_rate(journal, int(port), database)
"""


class Measured:
    """A service that is away until it is let back, and what its requests were like."""

    def __init__(self, service):
        self.service = service
        #: Of each request that was taken: when it was, how much that was, its size in bytes.
        self.requests = []
        self.away()

    def away(self):
        self.service.front.stop_listening()

    def back(self):
        self.service.front.script = self._taken
        self.service.front.listen()

    def _taken(self, request):
        before = len(self.service.got)
        answer = self.service.well(request)
        self.requests.append((time.monotonic(), len(self.service.got) - before, len(request.body)))
        # A week of bodies would fill the memory.
        self.service.front.requests.clear()
        return answer

    def rate(self):
        """Pulses a second, by the median time from one full request to the next: a busy machine is no defect."""
        full = [at_s for at_s, count, _ in self.requests if count == BATCH]
        return BATCH / statistics.median(after - before for before, after in itertools.pairwise(full))


def loop_rate(rig, pulses, name):
    """What a bare loop manages: bench/run.py's, over as many rows, to the same server the same way."""
    directory = rig.directory / name
    fill(directory, [], pulses, 1)
    with contextlib.closing(sqlite3.connect(directory / "journal.db", isolation_level=None)) as connection:
        # It knows no first pulse, which has no power.
        connection.execute("UPDATE pulses SET interval_ns = 1000000000 WHERE interval_ns IS NULL")
    rig.influxd.query(f"CREATE DATABASE {name}")
    service = Influxdb(rig.influxd.port)
    with service.front:
        measured = Measured(service)
        measured.back()
        done = subprocess.run(
            [sys.executable, "-c", LOOP, str(directory / "journal.db"), str(service.front.port), name],
            env={**os.environ, "PYTHONPATH": str(TOP / "bench")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    rig.influxd.query(f"DROP DATABASE {name}")
    shutil.rmtree(directory)
    return measured.rate()


def memory_mib(pid, field="VmRSS"):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise KeyError(field)


def points_differ(influxd, rows):
    """Where what the database holds differs from the journal's *rows*."""
    found = []
    for part in (rows[at : at + COMPARED] for at in range(0, len(rows), COMPARED)):
        query = f"SELECT * FROM electricity_power WHERE time >= {part[0][1]} AND time <= {part[-1][1]}"
        points = [
            dict(zip(series["columns"], values, strict=True))
            for series in influxd.query(query)
            for values in series["values"]
        ]
        found += differences(
            [(p["meter"], p["time"], p.get("power"), p["energy"], p["register"]) for p in points], part
        )
    (series,) = influxd.query("SELECT count(energy) FROM electricity_power")
    count = series["values"][0][1]
    return found if count == len(rows) else [*found, ("points", count, len(rows))]


class Away:
    """The program with its services; a context manager."""

    def __init__(self, rig, backlog):
        self.rig, self.backlog = rig, backlog
        self.near_influxd = Influxd(rig.directory / "near")
        self.librato_server = LibratoServer()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        self._stack.close()

    def _open(self, stack):
        stack.enter_context(self.near_influxd)
        stack.enter_context(self.librato_server)
        for server in (self.near_influxd, self.rig.influxd):
            server.query("CREATE DATABASE power")
        self.near, self.far = Influxdb(self.near_influxd.port), Influxdb(self.rig.influxd.port)
        self.librato = Librato(self.librato_server.port, period_s=PERIOD_S)
        for service in (self.near, self.far, self.librato):
            stack.callback(service.front.close)
        self.influxdb_requests, self.librato_requests = Measured(self.far), Measured(self.librato)
        settings = SETTINGS.format(
            most_watts=2 * WATTS,
            near=self.near.front.port,
            far=self.far.front.port,
            user=LibratoServer.user,
            token=LibratoServer.token,
            librato=self.librato.front.port,
            period_s=PERIOD_S,
        )
        self.program = Program(self.rig.directory / "program", settings)
        stack.callback(self.program.end)
        self.data = self.program.data_dir / "simulated"
        fill(self.data, ["influxdb", "librato"], self.backlog, 1)
        self.program.start("--simulate", str(WATTS))
        self.pid = self.program.pid

    def status(self):
        """Its status, asked for at most 10 times per second, and again if a busy machine answers too late."""
        while True:
            time.sleep(0.1)
            with contextlib.suppress(ProcessError):
                return json.loads(ask(str(self.program.pidfile), "json"))
            assert self.program.pid == self.pid, "it has ended"

    def caught_up(self, name):
        """Whether the writer *name* has had what had waited; what comes now may wait for the end of its period."""
        writer = self.status()["writers"][name]
        return writer["state"] == "ok" and writer["waiting"] <= PER_S * (PERIOD_S + 5)

    def let_back(self, requests, name):
        """Let a service back; the memory before and at its most, in MiB, and the delays where all is well meanwhile."""
        before_mib, begun = memory_mib(self.pid), len(self.near.delays_s)
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")  # resets VmHWM
        requests.back()
        wait_until(lambda: self.caught_up(name), 2 * LONGEST_PAUSE_S)
        # Until what was counted last while it caught up is there.
        now = len(self.near.delays_s)
        wait_until(lambda: len(self.near.delays_s) > now)
        return (before_mib, memory_mib(self.pid, "VmHWM")), self.near.delays_s[begun:]


def run(part, rig):
    backlog = round(WEEK * part)
    before = loop_rate(rig, backlog, "before")
    with Away(rig, backlog) as away:
        wait_until(lambda: all(away.status()["writers"][n]["state"] == "failing" for n in ("influxdb", "librato")))
        wait_until(lambda: away.near.delays_s)
        begun = len(away.near.delays_s)
        time.sleep(max(LEAST_AWAY_S, AWAY_S * part))
        undisturbed = away.near.delays_s[begun:]
        memory = {}
        memory["InfluxDB"], during_influxdb = away.let_back(away.influxdb_requests, "influxdb")
        memory["Librato"], during_librato = away.let_back(away.librato_requests, "librato")
        status = away.status()
        assert away.program.run("--kill").returncode == 0
        # With no more pulses: what had to wait for the end of its period.
        away.program.start("--simulate", "1")
        wait_until(lambda: not any(one["waiting"] for one in away.status()["writers"].values()), 2 * PERIOD_S)
        assert away.program.run("--kill").returncode == 0
        # What the machine manages differs from one minute to the next: the better of two.
        away.loop_rate = max(before, loop_rate(rig, backlog, "after"))
        return judge(away, status, memory, undisturbed, during_influxdb, during_librato)


def judge(away, status, memory, undisturbed, during_influxdb, during_librato):
    backlog, rows = away.backlog, journal_rows(away.data)
    live = rows[backlog:]
    house = status["meters"]["house"]
    # The flashes are 50 ms apart, and the first has no predecessor.
    late = [row for row in live[1:] if row[3] is not None and abs(row[3] - NS_PER_S // PER_S) > 1000]
    assert not late, f"live pulses were missed: {late[:5]}"
    assert (house["rejected"], house["counted_without_being_seen"]) == (0, 0), house

    found = {
        "InfluxDB, in order": differences(away.far.got, [row[2] for row in rows]),
        "InfluxDB": points_differ(away.rig.influxd, expected(rows)),
        "near": points_differ(away.near_influxd, expected(live)),
        "Librato": differences(
            away.librato.got, [(at_s, count) for (_, at_s), (count, _, _) in sorted(gauges(rows, PERIOD_S).items())]
        ),
        "file": in_file(away.data, rows=live),
    }
    wrong = {name: differ[:3] for name, differ in found.items() if differ}
    assert not wrong, wrong

    points = max(count for _, count, _ in away.influxdb_requests.requests)
    sizes = [size for requests in (away.influxdb_requests, away.librato_requests) for _, _, size in requests.requests]
    assert points <= BATCH, f"{points} points in a request"
    assert max(sizes) <= BODY_BYTES, f"{max(sizes)} bytes in a request"
    rate = away.influxdb_requests.rate()
    assert rate >= RATE * away.loop_rate, f"{rate:,.0f} pulses/s, a bare loop {away.loop_rate:,.0f}"
    grew = {name: most - before for name, (before, most) in memory.items()}
    assert max(grew.values()) <= MEMORY_MIB, f"memory grew: {memory}"
    return [
        Row("pulses waiting; counted meanwhile", f"{backlog:,}; {len(live):,}"),
        Row("live pulses missed", str(len(late)), "0"),
        Row(
            "pulses missing, doubled, out of order or with another time, in any service",
            str(sum(map(len, found.values()))),
            "0",
        ),
        Row(
            "backlog to InfluxDB, pulses/s",
            f"{rate:,.0f}, {rate / away.loop_rate:.2f} of a bare loop's {away.loop_rate:,.0f}",
            f">= {RATE} of it",
        ),
        Row("points of the largest request", f"{points:,}", f"<= {BATCH:,}"),
        Row("bytes of the largest request", f"{max(sizes):,}", f"<= {BODY_BYTES:,}"),
        *(
            Row(
                f"memory before {name} came back; added at most by catching up, MiB",
                f"{before:.1f}; {most - before:.1f}",
                f"<= {MEMORY_MIB} more",
            )
            for name, (before, most) in memory.items()
        ),
        *(
            judged("the healthy InfluxDB", undisturbed, during, f"while {name} catches up")
            for name, during in (("InfluxDB", during_influxdb), ("Librato", during_librato))
        ),
    ]
