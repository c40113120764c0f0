"""
The measurements of docs/benchmarks.rst: what the program costs, beside two yardsticks.

    python bench/run.py [--write] [part ...]        (make bench: all parts, nothing written)

--write puts the tables of the parts into docs/benchmarks.rst, where they replace the
previous ones.

Everything runs on loopback, with its data in a temporary directory (under
$TMPDIR, else /var/tmp, which is a disk). Compare times only within one
run: on another machine they differ, their ratios hardly do.
"""

import argparse
import concurrent.futures
import contextlib
import datetime as dt
import functools
import http.client
import http.server
import importlib.util
import io
import os
import random
import re
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import timeit
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from rig import (
    COMMIT_S,
    IMPULSES_PER_KWH,
    POST_S,
    POWER,
    TOP,
    WAIT_S,
    Influxd,
    Mosquitto,
    Naive,
    Program,
    ProgramByCallback,
    Sketch,
    cpu_s,
    feed,
    free_port,
    list_table,
    machine,
    sections_of,
    summary,
    wait_until,
)

from powermeter import past
from powermeter.boards.simulated import household
from powermeter.journal.history import History
from powermeter.journal.journal import Journal, Row, prepare_dir
from powermeter.meter import NS_PER_S
from powermeter.settings.values import ShownAs
from powermeter.views.page.app import make_app

#: The goals: the most CPU a pulse, as a part of a yardstick's; the latter by pulses a second.
OF_NAIVE = 0.6
OF_SKETCH = {1: 2.5, 10: 2.5, 100: 1.6, 1000: 1.6}
#: Pulses a second, and how long they come, in s.
RATES = {1: 60, 10: 40, 100: 30, 1000: 30}
WARM_UP = 20

IDLE_S = 60
IDLE_WAKEUPS = 1.0

RSS_BOTH_MIB, RSS_FILE_MIB, RSS_WAITING_MIB = 40, 24, 10
BACKLOG, WAITING = 10_000, 1_000_000

BACKFILL, BACKFILL_BATCH, BACKFILL_RATE = 100_000, 5000, 0.6
BACKFILL_RUNS = 3

COMMAND_RUNS, COMMAND_RATIO = 25, 5.0

#: For a report; in MiB: the most that it may hold.
REPORT_RATIO, RSS_REPORT_MIB = 8.0, 40

#: A household of 4,000 kWh a year at 1,000 imp/kWh; and one at 3.6 kW.
DISK_RATES = (0.127, 1)
DISK_S = 240
JOURNAL_PULSES, JOURNAL_BYTES = 1_000_000, 30

#: Ten years of a household, thinned but for the last 400 days; and how long energy and peaks may take to be read (s).
HISTORY_DAYS, KEPT_DAYS, PEAK_DAYS, HISTORY_S = 3652, 400, 62, 0.1
#: Times at which the clock is set back.
HISTORY_STEPS = 1000
HISTORY_IMPULSES = 1000
DAY_NS, QUARTER_NS = 86400 * NS_PER_S, 900 * NS_PER_S

#: The page: CPU of its cold start until the first answer, as a multiple of that of `python3 -c pass`; in MiB, the most
#: that it may hold once it has shown everything; what a first visit may load, in requests and KB; and what the view of
#: a year may take, as a multiple of its SQL statements.
PAGE_RUNS, PAGE_START_RATIO, RSS_PAGE_MIB = 9, 15.0, 45
FIRST_REQUESTS, FIRST_KB = 3, 100
PAGE_YEAR, YEAR_RUNS, YEAR_RATIO = 1978, 20, 10.0

#: How much later the load may make the 99th percentile of a stamp and of a delivery, as a ratio. Flashes come at this
#: rate, for so many seconds without and with the load, so many times, of which the lowest counts. While deliveries are
#: measured, the program commits and posts this often, in s: a pulse spends nearly all of the usual intervals waiting.
PAGE_LATER_RATIO, PAGE_RATE, PAGE_S, PAGE_TURNS = 3.0, 100, 10, 4
PROMPT_S, CREDIBLE = (0.1, 0), 0.8

#: MQTT: what its view may add to the memory, in MiB, beside an InfluxDB and beside only a file. Flashes come for so
#: long at that rate, without and with it.
MQTT_MIB = {"file and InfluxDB": 2, "only a file": 9}
MQTT_S, MQTT_RATE = 30, 1

#: In the guest, whose processor is slow: how long it is idle, in s; and pulses a second, and for how long they come.
GUEST_IDLE_S = 30
GUEST_RATES = {10: 60, 100: 30}
MINUTE = 60_000

#: Titles of tables that the summary names.
MINUTE_TITLE, RATIOS_TITLE = "A minute at 1,000/s on a real kernel", "CPU per pulse, as ratios"

#: How often each machine is booted.
BOOTS = 5

#: The flashes of a stall: when, how long (ns), and the max_watts of a meter that may flash so fast. The stall begins
#: after 1 s; the burst falls into it.
MS = 1_000_000
STALL_FLASHES = {
    "10/s": ([n * 100 * MS for n in range(150)], 20 * MS, 72_000),
    "1,000/s": ([n * MS for n in range(7000)], MS // 2, 9_000_000),
    "a burst, 1,667/s": (
        [0, *(1200 * MS + n * MS * 6 // 10 for n in range(1000)), 9000 * MS],
        MS * 3 // 10,
        9_000_000,
    ),
}
#: What the program does meanwhile: how (kernel_jobs.stalled), for how long (s), and whether by the jumping clock.
#: That one stands still beside a thread that computes.
STALLS = {
    "idle": (None, 0, True),
    "asleep 1 s": ("stop", 1, True),
    "asleep 5 s": ("stop", 5, True),
    "interpreter held 5 s": ("hold", 5, True),
    "a busy thread beside it": ("busy", 10, False),
}


@dataclass
class Table:
    """One table of results; a cell with a goal says whether it was met."""

    title: str
    text: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    missed: int = 0
    #: The part of this program that it comes from.
    part: str = ""

    def add(self, *cells):
        self.rows.append([str(cell) for cell in cells])

    def judge(self, what, found, goal, shown="{:.2f}", *, least=False):
        """A row of four cells: *found* is to be at most *goal*, or at *least* as much."""
        met = found >= goal if least else found <= goal
        self.missed += not met
        sign = ">=" if least else "<="
        self.add(what, shown.format(found), f"{sign} {shown.format(goal)}", "ok" if met else "MISSED")

    def print(self):
        widths = [max(len(row[i]) for row in [self.columns, *self.rows]) for i in range(len(self.columns))]
        print(f"\n{self.title}\n{self.text}")
        for row in [self.columns, ["-" * width for width in widths], *self.rows]:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        sys.stdout.flush()

    def rst(self):
        lines = [self.title, "-" * len(self.title), "", self.text, "", *list_table([self.columns, *self.rows])]
        today = dt.datetime.now(dt.UTC).date()
        lines += ["", f"Made on {today} by ``.venv-test/bin/python bench/run.py --write {self.part}`` on: {machine()}."]
        return "\n".join(lines) + "\n"


GOALS = ["what", "found", "goal", ""]


# --- CPU per pulse


def cpu(place, influxd):
    """From quiet to quiet: all that the pulses of a rate cause is in it, start and imports are not."""
    table = Table(
        "CPU per pulse",
        "User and system time of the whole process in ms per 1,000 pulses, side by side, with file, lamps and InfluxDB "
        "(the sketch has only InfluxDB). From the first pulse of a rate until InfluxDB has the last. The program reads "
        "both edges of a flash with gpiod, without a thread of the library, or is called by RPi.GPIO's thread.",
        ["pulses/s", "program", "program with RPi.GPIO", "naive", "sketch"],
    )
    goals = Table(RATIOS_TITLE, "The same figures against each other.", GOALS)
    kinds = (Program, ProgramByCallback, Naive, Sketch)
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(kind(place / f"cpu_{kind.name}", influxd)) for kind in kinds]
        sent = 0
        sent += _fed(sides, sent, WARM_UP, 10)
        for per_s, seconds in RATES.items():
            before = [side.cpu_s() for side in sides]
            pulses = _fed(sides, sent, per_s * seconds, per_s)
            sent += pulses
            *programs, naive, sketch = (
                (side.cpu_s() - cpu_s) * 1e6 / pulses for side, cpu_s in zip(sides, before, strict=True)
            )
            table.add(per_s, *(f"{ms:.0f}" for ms in (*programs, naive, sketch)))
            for name, program in zip(("program", "program with RPi.GPIO"), programs, strict=True):
                goals.judge(f"{name} / naive at {per_s}/s", program / naive, OF_NAIVE)
                goals.judge(f"{name} / sketch at {per_s}/s", program / sketch, OF_SKETCH[per_s])
    return [table, goals]


def _fed(sides, sent, pulses, per_s):
    """Feed *pulses* to all *sides* and wait until their databases have them, beside the *sent* ones."""
    feed([side.fifo for side in sides], pulses, per_s)
    for side in sides:
        wait_until(lambda side=side: side.points() >= sent + pulses, f"{side.name}: {sent + pulses} points", every=0.5)
    return pulses


# --- Every pulse


def complete(place, influxd):
    table = Table(
        "Every pulse",
        "Pulses fed to the program, and how many are in the file, in the journal and in InfluxDB: with a hold-off "
        "that rejects nothing (25 ns), and with that of a meter of 1,000 imp/kWh whose max_watts is just this rate: "
        "an edge that the library's thread hands over late is then too close to the next, and is rejected.",
        ["fed", "hold-off", "took", "file", "journal", "InfluxDB", "rejected", ""],
    )
    for pulses, per_s in ((60_000, 1000), (10_000, 5000)):
        for name, meter in (
            ("25 ns", {}),
            (f"{700_000 / per_s:.0f} us", {"impulses_per_kwh": 1000, "max_watts": 3600 * per_s}),
        ):
            program = Program(place / f"complete_{per_s}_{len(meter)}", influxd)
            program.meters["house"] |= meter
            with program:
                seconds = feed([program.fifo], pulses, per_s)
                _settled(program, pulses)
                found = program.lines(), program.rows(), program.points()
                rejected = program.status()["meters"]["house"]["rejected"]
            met = (
                found == (pulses - rejected,) * 3 and (not meter or rejected < pulses / 100) and (meter or not rejected)
            )
            table.missed += not met
            verdict = "MISSED" if not met else "all but the rejected" if rejected else "ok"
            cells = [f"{seconds:.1f} s", *(f"{n:,}" for n in found), rejected, verdict]
            table.add(f"{pulses:,} at {per_s:,}/s", name, *cells)
    return [table]


def _all_in(program, pulses):
    status = program.status()
    if status["meters"]["house"]["pulses"] + status["meters"]["house"]["rejected"] < pulses:
        return False
    return not any(writer["waiting"] for writer in status["writers"].values())


# --- Idle


class _Accepts(http.server.BaseHTTPRequestHandler):
    """As much of Librato as a healthy writer needs: every POST is accepted."""

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args):
        pass


def idle(place, influxd):
    table = Table(
        "Idle",
        f"A daemon with file, InfluxDB and Librato, both lamps and no pulses for {IDLE_S} s, after each writer has "
        "delivered some: context switches of all its threads, and its CPU time.",
        GOALS,
    )
    librato = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Accepts)
    threading.Thread(target=librato.serve_forever, daemon=True).start()
    program = Program(place / "idle", influxd, daemon=True)
    program.writers["librato"] = {
        "type": "librato",
        "user": "user",
        "token": "token",
        "protocol": "http",
        "hostname": f"127.0.0.1:{librato.server_port}",
        "period": 2,
    }
    with program:
        feed([program.fifo], 20, 5)
        _settled(program, 20)
        time.sleep(2 * POST_S)  # the writers' pauses after their last batches are over
        wakeups, cpu_s, start = program.wakeups(), program.cpu_s(), time.monotonic()
        time.sleep(IDLE_S)
        seconds = time.monotonic() - start
        table.judge("wake-ups per second", (program.wakeups() - wakeups) / seconds, IDLE_WAKEUPS)
        table.add("CPU, us per second", f"{(program.cpu_s() - cpu_s) * 1e6 / seconds:.1f}", "", "")
    librato.shutdown()
    librato.server_close()
    return [table]


# --- Memory


def fill(program, pulses, waiting_for, *, group=1000):
    """Write a journal with *pulses* pulses, 7.9 s apart as in a household, that wait only for the named writers."""
    program.data.mkdir()
    with Journal(str(program.journal)) as journal:
        records = [journal.enter(name, IMPULSES_PER_KWH) for name in program.meters]
        cursors = [journal.add_cursor(name) for name in waiting_for]
        time_ns = time.time_ns() - 8 * NS_PER_S * pulses // len(records)
        for first in range(0, pulses // len(records), group):
            rows = []
            for number in range(first + 1, min(first + group, pulses // len(records)) + 1):
                interval_ns = random.randrange(7_000_000_000, 8_800_000_000)
                time_ns += interval_ns
                rows += [Row(of.name, number, time_ns + at, interval_ns) for at, of in enumerate(records, 1)]
            journal.append(rows)
        cursors += [journal.add_cursor(name) for name in program.writers if name not in waiting_for]
        for cursor in cursors:
            cursor.close()


def memory(place, influxd):
    table = Table(
        "Memory",
        f"Resident set of the daemon in MiB, after a backlog of {BACKLOG:,} pulses was delivered and 100 more came; "
        f"and with {WAITING:,} pulses waiting for an InfluxDB that refuses connections, compared with none.",
        GOALS,
    )
    for title, server, goal in (("file and InfluxDB", influxd, RSS_BOTH_MIB), ("only a file", None, RSS_FILE_MIB)):
        program = Program(place / f"memory_{'both' if server else 'file'}", server, daemon=True)
        fill(program, BACKLOG, program.writers)
        with program:
            feed([program.fifo], 100, 100)
            _settled(program, 100)
            table.judge(f"{title}, MiB", program.memory_mib(), goal, "{:.1f}")
            table.add(f"{title}, at most until then, MiB", f"{program.memory_mib('VmHWM'):.1f}", "", "")
    found = []
    for waiting in (0, WAITING):
        with Influxd(place / f"away_{waiting}") as away:
            program = Program(place / f"memory_{waiting}", away, daemon=True)
        fill(program, waiting, ["influxdb"])
        with program:
            feed([program.fifo], 100, 100)
            wait_until(lambda program=program: program.status()["writers"]["influxdb"]["state"] == "failing", "failing")
            wait_until(lambda program=program: _file_has(program, 100), "all in the file")
            time.sleep(2 * POST_S)
            if program.waiting("influxdb") != waiting + 100:
                raise RuntimeError(f"{program.waiting('influxdb')} wait, not {waiting + 100}")
            found.append(program.memory_mib())
            table.add(f"{waiting:,} waiting pulses, MiB", f"{found[-1]:.1f}", "", "")
    table.judge(f"{WAITING:,} waiting pulses add, MiB", found[1] - found[0], RSS_WAITING_MIB, "{:.1f}")
    return [table]


def _settled(program, pulses):
    wait_until(lambda: _all_in(program, pulses), "all delivered")
    wait_until(lambda: all(w["state"] == "ok" for w in program.status()["writers"].values()), "all healthy")


def _file_has(program, pulses):
    return program.status()["meters"]["house"]["pulses"] >= pulses and not program.waiting("file")


# --- Backfill


def backfill(place, influxd):
    table = Table(
        "Backfill",
        f"{BACKFILL:,} waiting pulses to InfluxDB in batches of {BACKFILL_BATCH:,}: the program as a daemon, against a "
        "loop that reads the same rows, formats the same lines and posts them with http.client to another database. "
        f"From the end of the first batch to the end of the last; medians of {BACKFILL_RUNS} turns.",
        GOALS,
    )
    ours, loops = [], []
    for turn in range(BACKFILL_RUNS):
        program = Program(place / f"backfill_{turn}", influxd, daemon=True)
        fill(program, BACKFILL, ["influxdb"])
        shutil.copy(program.journal, place / "backfill.db")
        with program:
            ours.append(_program_rate(program))
        if program.points() != BACKFILL:
            raise RuntimeError(f"{program.points()} points, not {BACKFILL}")
        influxd.query(f"CREATE DATABASE loop_{turn}")
        loops.append(_loop_rate(place / "backfill.db", influxd.port, f"loop_{turn}"))
    table.add("program, pulses per second", f"{statistics.median(ours):,.0f}", "", "")
    table.add("loop, pulses per second", f"{statistics.median(loops):,.0f}", "", "")
    table.judge("program / loop", statistics.median(ours) / statistics.median(loops), BACKFILL_RATE, least=True)
    return [table]


def _program_rate(program):
    """Pulses per second, by the number of waiting ones in --status."""
    before = first_s = None
    while True:
        waiting, now_s = program.waiting("influxdb"), time.monotonic()
        if before is None and waiting < BACKFILL:
            before, first_s = waiting, now_s
        if waiting == 0:
            return before / (now_s - first_s)
        time.sleep(0.005)


def _loop_rate(path, port, database):
    db = sqlite3.connect(path)
    connection = http.client.HTTPConnection("127.0.0.1", port)
    after, first_s = 0, None
    watt_hours = 1000 / IMPULSES_PER_KWH
    while rows := db.execute(
        "SELECT count, time_ns, interval_ns FROM pulses WHERE count > ? ORDER BY count LIMIT ?", (after, BACKFILL_BATCH)
    ).fetchall():
        lines = [
            f"electricity_power,meter=house energy={watt_hours!r},"
            f"power={3.6e15 / (IMPULSES_PER_KWH * interval_ns)!r},register={count / IMPULSES_PER_KWH!r} {time_ns}"
            for count, time_ns, interval_ns in rows
        ]
        connection.request("POST", f"/write?db={database}", "\n".join(lines))
        answer = connection.getresponse()
        answer.read()
        if answer.status != 204:
            raise RuntimeError(f"answered {answer.status}")
        after = rows[-1][0]
        if first_s is None:
            first_s, first = time.monotonic(), after
    seconds = time.monotonic() - first_s
    connection.close()
    db.close()
    return (BACKFILL - first) / seconds


# --- Commands


def commands(place, influxd):
    table = Table(
        "Commands",
        f"Wall time from start to end, medians of {COMMAND_RUNS} turns in which each ran once; --status of a running "
        "daemon with file and InfluxDB.",
        GOALS,
    )
    with Program(place / "commands", influxd, daemon=True) as program:
        feed([program.fifo], 20, 20)
        timed = {
            "python3 -c pass": [sys.executable, "-c", "pass"],
            "--help": [sys.executable, POWER, "--help"],
            "--status": program.command("--status"),
        }
        took = {name: [] for name in timed}
        for _ in range(COMMAND_RUNS + 1):
            for name, command in timed.items():
                start = time.monotonic()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                took[name].append(time.monotonic() - start)
    # Without the first turn: it may have compiled modules.
    medians = {name: statistics.median(seconds[1:]) for name, seconds in took.items()}
    for name, seconds in medians.items():
        table.add(f"{name}, ms", f"{seconds * 1000:.1f}", "", "")
    for name in ("--help", "--status"):
        table.judge(f"{name} / python3 -c pass", medians[name] / medians["python3 -c pass"], COMMAND_RATIO)
    return [table]


# --- Reports


def reports(place, influxd):  # noqa: ARG001 - what every part gets
    table = Table(
        "Reports",
        f"Wall time from start to end, medians of {COMMAND_RUNS} turns in which each ran once, and the most memory, "
        "by the journal of a simulated household's last 35 days. The month is this one.",
        GOALS,
    )
    program = Program(place / "reports")
    prepare_dir(str(program.data))
    path, meters = str(program.data / "journal.db"), {"house": 1000.0}
    past.open_journal(time.time(), path, meters, stopped=lambda: False, suspect=False).close()
    settings = place / "reports.py"
    settings.write_text(f"DATA_DIR = {str(program.data)!r}\n")
    month = dt.date.today().isoformat()[:7]
    report = [sys.executable, POWER, "--settings", str(settings), "--report"]
    timed = {"python3 -c pass": [sys.executable, "-c", "pass"], "a month": [*report, month], "the overview": report}
    took = {name: [] for name in timed}
    for _ in range(COMMAND_RUNS + 1):
        for name, command in timed.items():
            start = time.monotonic()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            took[name].append(time.monotonic() - start)
    # Without the first turn: it may have compiled modules.
    medians = {name: statistics.median(seconds[1:]) for name, seconds in took.items()}
    for name, seconds in medians.items():
        table.add(f"{name}, ms", f"{seconds * 1000:.1f}", "", "")
    table.judge("a month / python3 -c pass", medians["a month"] / medians["python3 -c pass"], REPORT_RATIO)
    for name in ("a month", "the overview"):
        table.judge(f"{name}, MiB", _most_mib(timed[name]), RSS_REPORT_MIB, "{:.1f}")
    return [table]


#: Runs a command and prints how much memory it had, in KiB. A process of its own, as a child begins with its parent's:
#: that of this one is more than what is measured.
PEAK_MEMORY = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _most_mib(command):
    """The most memory that *command* has until its end, in MiB."""
    done = subprocess.run([sys.executable, "-c", PEAK_MEMORY, *command], check=True, stdout=subprocess.PIPE)
    return int(done.stdout) / 1024


# --- The page


#: What visitors do to the page at the port of its argument: ten ask for it as fast as they can, two hundred never
#: finish their request. In a process of its own, until it is ended.
VISITORS = """
import http.client, os, socket, sys, threading, time
port = int(sys.argv[1])
os.nice(19)

def ask():
    while True:
        try:
            visitor = http.client.HTTPConnection("127.0.0.1", port)
            while True:
                visitor.request("GET", "/")
                visitor.getresponse().read()
        except (OSError, http.client.HTTPException):
            pass

def drip():
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port)) as visitor:
                while True:
                    visitor.send(b"G")
                    time.sleep(0.5)
        except OSError:
            pass

for number in range(210):
    threading.Thread(target=ask if number < 10 else drip).start()
"""


def page(place, influxd):
    """The page's process: what it costs to start and to have, and what its visitors cost the counting."""
    table = Table(
        "The page",
        f"CPU time of the page's process until its first answer, the median of {PAGE_RUNS} starts; "
        "the most memory that it had until it had shown everything; and what a first visit loads, uncompressed. The "
        f"view of a year in a journal of ten, as the process makes it, against nothing but the SQL statements that it "
        f"runs; the best of {YEAR_RUNS}.",
        GOALS,
    )
    starts = []
    # One program each: one whose page was ended pauses before it starts another.
    for number in range(PAGE_RUNS):
        program = ProgramByCallback(place / f"page_start_{number}")
        program.page_port = free_port()
        with program:
            _shown(program, "/")
            starts.append(cpu_s(program.page_pid()))
    plain = []
    for _ in range(PAGE_RUNS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-I", "-c", "pass"], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        plain.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    table.add("its start, CPU ms", f"{statistics.median(starts) * 1000:.0f}", "", "")
    ratio = statistics.median(starts) / statistics.median(plain)
    table.judge("its start / python3 -c pass", ratio, PAGE_START_RATIO, "{:.1f}")
    program = ProgramByCallback(place / "page")
    program.page_port = free_port()
    with program:
        feed([program.fifo], 100, 50)
        first = _first_view(program)
        for path in ("/bars?span=all", "/history.csv", "/metrics", "/api/now"):
            _shown(program, path)
        table.judge("its memory, MiB", program.memory_mib("VmHWM", program.page_pid()), RSS_PAGE_MIB, "{:.1f}")
        table.judge("first visit, requests", len(first), FIRST_REQUESTS, "{:.0f}")
        table.judge("first visit, KB", sum(map(len, first)) / 1000, FIRST_KB, "{:.1f}")
        view_s, queries_s = _year_view(place, program.status())
        table.add("a year, ms", f"{view_s * 1000:.1f}", "", "")
        table.add("its queries, ms", f"{queries_s * 1000:.2f}", "", "")
        table.judge("a year / its queries", view_s / queries_s, YEAR_RATIO, "{:.1f}")
    return [table, _beside_visitors(place, influxd)]


def _first_view(program):
    """What a browser loads for its first sight of the start page: the page, and all that it names."""
    start = _shown(program, "/")
    named = re.findall(r"<(?:link|script|img)\b[^>]*?(?:href|src)=\"(?!data:)([^\"]+)", start.decode())
    return [start, *(_shown(program, "/" + path.removeprefix("./")) for path in named)]


def _year_view(place, status):
    """How long the page of a year takes with a journal of ten years, and how long only its SQL statements, in s."""
    path = place / "history_0.db"
    _ten_years(path, 0)
    app = make_app(lambda: status, str(path), {"house": ShownAs(None, "import")})
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/bars", "QUERY_STRING": f"span={PAGE_YEAR}"}

    def view():
        found = []
        body = b"".join(app({**environ, "wsgi.input": io.BytesIO()}, lambda status, *_: found.append(status)))
        if not found[0].startswith("200"):
            raise RuntimeError(f"{found}: {body}")

    statements = []
    connect = sqlite3.connect

    def traced(*args, **options):
        connection = connect(*args, **options)
        if str(path) in str(args[0]):  # not one in memory, with the tables that are expected
            connection.set_trace_callback(statements.append)
        return connection

    sqlite3.connect = traced
    try:
        view()
    finally:
        sqlite3.connect = connect
    asked = [statement for statement in statements if statement.startswith(("SELECT", "WITH"))]
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        # What the others make for the connection is there once.
        for statement in statements:
            db.execute(statement).fetchall()

        def queries():
            for statement in asked:
                db.execute(statement).fetchall()

        return [min(timeit.repeat(ask, number=1, repeat=YEAR_RUNS)) for ask in (view, queries)]


def _beside_visitors(place, influxd):
    """What the visitors of a page cost the counting and the deliveries."""
    table = Table(
        "The counting beside the page",
        f"With {PAGE_RATE} flashes per second, how much later than its flash a pulse is stamped, and is in InfluxDB, "
        "without and with a load of ten visitors that request pages as fast as they can and 200 that never finish a "
        f"request: the lowest 99th percentile of {PAGE_TURNS} turns of {PAGE_S} s, as "
        "other programs of the machine can only add to it. With RPi.GPIO, which stamps in a callback: with gpiod the "
        "kernel does, and no load changes that. Stamps are those of a program with its file; deliveries those of "
        f"another one, with InfluxDB too, that commits every {PROMPT_S[0]} s and posts at once. In a home visitors use "
        "processors of their own, so here they run at the lowest priority.",
        GOALS,
    )
    stamping = ProgramByCallback(place / "page_stamping")
    delivering = ProgramByCallback(place / "page_delivering", influxd)
    delivering.commit_s, delivering.post_s = PROMPT_S
    for what, program, look in (("stamped", stamping, _stamps), ("in InfluxDB", delivering, _arrivals)):
        program.page_port = free_port()
        late_ms = {"without": [], "with": []}
        with program:
            feed([program.fifo], PAGE_RATE, PAGE_RATE)
            for _ in range(PAGE_TURNS):
                for load, found in late_ms.items():
                    with contextlib.ExitStack() as stack:
                        if load == "with":
                            visitors = subprocess.Popen([sys.executable, "-c", VISITORS, str(program.page_port)])
                            stack.callback(visitors.wait)
                            stack.callback(visitors.kill)
                            wait_until(lambda program=program: program.page_pid() is not None, "the page runs")
                        found.append(statistics.quantiles(look(program), n=100)[98])
        p99_ms = {load: min(found) for load, found in late_ms.items()}
        for load, least in p99_ms.items():
            table.add(f"{what}, 99th percentile, {load} load, ms", f"{least:.2f}", "", "")
        title, ratio = f"{what}, with / without", p99_ms["with"] / p99_ms["without"]
        if ratio < CREDIBLE:
            # A load makes nothing quicker: what was measured without it is other programs' doing, and shows nothing.
            table.missed += 1
            table.add(title, f"{ratio:.2f}", f"<= {PAGE_LATER_RATIO:.2f}", "MISSED: disturbed by other programs")
        else:
            table.judge(title, ratio, PAGE_LATER_RATIO)
    return table


def mqtt(place, influxd):
    """The view that publishes to a broker: what it adds to memory and CPU."""
    table = Table(
        "MQTT",
        "What publishing to a mosquitto adds to the daemon: its resident set after 100 pulses, and the CPU time "
        f"while {MQTT_RATE} flash a second comes for {MQTT_S} s, with a message of the meter every 10 s.",
        GOALS,
    )
    for title, server in (("file and InfluxDB", influxd), ("only a file", None)):
        name = "both" if server else "file"
        held, spent = [], []
        # One broker each: a view publishes nothing to a broker with another's id.
        with Mosquitto(place / f"mosquitto_{name}") as broker:
            for port in (None, broker.port):
                program = Program(place / f"mqtt_{name}_{port}", server, daemon=True)
                program.mqtt_port = port
                with program:
                    feed([program.fifo], 100, 100)
                    _settled(program, 100)
                    wait_until(lambda program=program: _published(program), "all published")
                    began_s = cpu_s(program.pid)
                    feed([program.fifo], MQTT_RATE * MQTT_S, MQTT_RATE)
                    spent.append(cpu_s(program.pid) - began_s)
                    held.append(program.memory_mib())
        table.add(f"{title}, without, MiB", f"{held[0]:.1f}", "", "")
        table.judge(f"{title}, added, MiB", held[1] - held[0], MQTT_MIB[title], "{:.1f}")
        table.add(f"{title}, added, CPU ms per minute", f"{(spent[1] - spent[0]) * 1000 * 60 / MQTT_S:.0f}", "", "")
    return [table]


def _published(program):
    return all(view["state"] == "ok" for view in program.status()["views"].values())


def _shown(program, path):
    """Ask for *path* until there is an answer, and return it."""
    found = []

    def answered():
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://localhost:{program.page_port}{path}") as answer,
        ):
            found.append(answer.read())
        return found

    wait_until(answered, path, every=0.01)
    return found[0]


#: Prints how many points a database of the InfluxDB at a port has, and when, whenever there are more, until there are
#: as many as its last argument says. A process of its own: a thread here would hold up the flashes.
ARRIVALS = """
import json, sys, time, urllib.parse, urllib.request
port, database, count, end = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
query = urllib.parse.urlencode({"db": database, "q": "SELECT count(energy) FROM electricity_power"})
while count < end:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/query?{query}") as answer:
        (result,) = json.load(answer)["results"]
    found, now_ns = result["series"][0]["values"][0][1], time.monotonic_ns()
    if found > count:
        print(found - count, now_ns, flush=True)
        count = found
    time.sleep(0.02)
"""


def _stamps(program):
    """How much later than its flash each pulse is stamped, in ms."""
    before = len(program.fifo.times_ns)
    feed([program.fifo], PAGE_RATE * PAGE_S, PAGE_RATE)
    flashes = program.fifo.times_ns[before:]
    wait_until(lambda: program.rows() == before + len(flashes), "all of them in the journal")
    with contextlib.closing(sqlite3.connect(program.journal)) as db:
        stamped = [at for (at,) in db.execute("SELECT time_ns FROM pulses ORDER BY count LIMIT -1 OFFSET ?", (before,))]
    # The journal has the wall clock's time.
    ahead_ns = time.time_ns() - time.monotonic_ns()
    return [(at - ahead_ns - flash) / MS for at, flash in zip(stamped, flashes, strict=True)]


def _arrivals(program):
    """How much later than its flash each pulse is in InfluxDB, in ms."""
    before = len(program.fifo.times_ns)
    wait_until(lambda: program.points() == before, "all of them in InfluxDB")
    pulses = PAGE_RATE * PAGE_S
    arguments = map(str, (program.influxd.port, program.database, before, before + pulses))
    with subprocess.Popen([sys.executable, "-c", ARRIVALS, *arguments], stdout=subprocess.PIPE, text=True) as watching:
        feed([program.fifo], pulses, PAGE_RATE)
        printed, _ = watching.communicate(timeout=WAIT_S)
    arrived = [int(at) for count, at in map(str.split, printed.splitlines()) for _ in range(int(count))]
    return [(at - flash) / MS for at, flash in zip(arrived, program.fifo.times_ns[before:], strict=True)]


# --- Disk


def disk(place, influxd):
    written = Table(
        "Bytes to the disk",
        f"Bytes per pulse that the process caused to be written (write_bytes of /proc/PID/io) over {DISK_S} s, with "
        "file and InfluxDB; what the file system writes for its own journal is not included. "
        f"Data on {_file_system(place)}.",
        ["pulses/s", "pulses", "program", "naive", "sketch"],
    )
    with contextlib.ExitStack() as stack:
        feeds = []
        for per_s in DISK_RATES:
            sides = [
                stack.enter_context(kind(place / f"disk_{kind.name}_{per_s * 1000:g}", influxd))
                for kind in (Program, Naive, Sketch)
            ]
            feeds.append((per_s, sides))
        for _, sides in feeds:
            feed([side.fifo for side in sides], 5, 10)
        time.sleep(2 * POST_S)
        before = [[side.written() for side in sides] for _, sides in feeds]
        threads = [
            threading.Thread(target=feed, args=([side.fifo for side in sides], round(per_s * DISK_S), per_s))
            for per_s, sides in feeds
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        time.sleep(2 * POST_S)
        for (per_s, sides), wrote in zip(feeds, before, strict=True):
            pulses = round(per_s * DISK_S)
            each = [(side.written() - were) / pulses for side, were in zip(sides, wrote, strict=True)]
            cells = [f"{b:,.0f}" if b else "not counted by this file system" for b in each]
            written.add(per_s, pulses, *cells)
    size = Table(
        "Bytes of the journal",
        f"Size of the journal after {JOURNAL_PULSES:,} pulses, committed 100 at a time, and a checkpoint, per pulse.",
        GOALS,
    )
    for meters in (("house",), ("house", "heat_pump")):
        program = Program(place / f"journal_{len(meters)}", meters=meters)
        fill(program, JOURNAL_PULSES, [], group=100 // len(meters))
        bytes_a_pulse = os.path.getsize(program.journal) / JOURNAL_PULSES
        size.judge(
            f"{len(meters)} meter{'s' * (len(meters) > 1)}, bytes per pulse", bytes_a_pulse, JOURNAL_BYTES, "{:.1f}"
        )
    return [written, size]


def _file_system(place):
    """The type of the file system that *place* is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    return max((m for m in mounts if f"{place}/".startswith(m[0].rstrip("/") + "/")), key=lambda m: len(m[0]))[1]


# --- On a real kernel's GPIO device


def kernel(place, influxd):  # noqa: ARG001 - what every part gets: a guest has a place of its own, and no network
    """The whole program in a User Mode Linux guest, with gpiod and, where lgpio is available, with rpi-lgpio."""
    return [_guest_idle(), _guest_cpu(), _guest_minute(), _guest_stalls()]


def _boards():
    return ["gpiod", *(["RPi.GPIO"] if importlib.util.find_spec("lgpio") else [])]


def _in_guests(name, jobs, at_once=2):
    """
    Run kernel_jobs.*name* in a guest for each of *jobs*, its arguments and whether the clock jumps; return the answers.

    *at_once*: so many guests at a time.
    """
    sys.path.append(str(TOP / "tests" / "kernel"))
    import guest

    if not (path := guest.kernel_path()).exists():
        raise SystemExit(f"no {path}: it is built by tests/kernel/build.sh {path.parents[1]}")

    def answer(job):
        arguments, jumping = job
        return guest.run(path, f"kernel_jobs.{name}", arguments, jumping=jumping, timeout=600)

    # What a job prints is shown where it fails.
    with contextlib.redirect_stdout(io.StringIO()), concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(answer, jobs))


def _guest_idle():
    table = Table(
        "Idle on a real kernel",
        f"A daemon with only its file and no pulses for {GUEST_IDLE_S} s, in the guest at the host's pace: context "
        "switches of all its threads, those of the one that has most, and CPU by the guest's ticks of 10 ms.",
        GOALS,
    )
    jobs = [({"library": library, "seconds": GUEST_IDLE_S}, False) for library in _boards()]
    for library, found in zip(_boards(), _in_guests("idle", jobs), strict=True):
        for what, per_s in (("all threads", found["all"]), ("busiest thread", found["most"])):
            title = f"{library}: wake-ups per second, {what}"
            if library == "gpiod":
                table.judge(title, per_s, IDLE_WAKEUPS)
            else:
                table.add(title, f"{per_s:.2f}", "", "")
        table.add(f"{library}: threads", found["threads"], "", "")
        table.add(f"{library}: CPU, us per second", f"{found['cpu_us']:.0f}", "", "")
    return table


def _guest_cpu():
    table = Table(
        "CPU per pulse on a real kernel",
        "User and system time in ms per 1,000 pulses of 2 ms, from the kernel's event until the journal has it, in the "
        "guest at the host's pace: the program with lamps and file, and beside it, given the same flashes, a bare loop "
        "that waits for a request's edges and reads them with the library gpiod. The guest's clock for it is made of "
        "ticks of 10 ms, which count what else the host does too: on a quiet machine a figure is good to a tenth, "
        "the loop's at 10/s to a quarter.",
        ["board", "pulses/s", "fed", "counted", "program", "loop", "program / loop"],
    )
    jobs = [({"library": library, "rates": list(GUEST_RATES.items())}, False) for library in _boards()]
    # One at a time: a tick counts the time too in which the host ran something else.
    for library, rates in zip(_boards(), _in_guests("cpu", jobs, at_once=1), strict=True):
        for found in rates:
            ours, loops = found["ms"]
            ratio = f"{ours / loops:.2f}" if loops else "-"
            cells = [f"{found['fed']:,}", f"{found['counted']:,}", f"{ours:.0f}", f"{loops:.0f}", ratio]
            table.add(library, found["per_s"], *cells)
    return table


def _guest_minute():
    table = Table(
        MINUTE_TITLE,
        "Flashes fed to the program with gpiod, by the guest's own clock. Nothing can know of edges that the guest "
        "merged: its kernel's thread did not run between them, and its numbers have no gap.",
        GOALS,
    )
    flashes = {"starts_ns": [n * MS for n in range(MINUTE)], "length_ns": MS // 2, "max_watts": 9_000_000}
    (found,) = _in_guests("stalled", [({"library": "gpiod", **flashes}, True)])
    table.add("fed", f"{found['fed']:,} in {found['took_s']:.1f} s", "", "")
    for what in ("counted", "journal", "file"):
        table.add(what, f"{found[what]:,}", "", "")
    table.add("of those counted, not seen", found["unseen"], "", "")
    table.add("edges that the guest merged", found["merged"], "", "")
    table.judge("lost, rejected or counted twice, apart from those", _unexplained(found), 0, "{:.0f}")
    return table


def _guest_stalls():
    table = Table(
        "Flashes of a stall on a real kernel",
        "Where the flashes go that come while the program stands still: asleep is the whole process by SIGSTOP. Not "
        "seen: counted though the kernel had no room for them. Rejected: by the hold-off, and with gpiod no more than "
        "a busy host let come that close. Merged: edges that the guest made one of, which only their count reveals; "
        "RPi.GPIO has no such count. Lost: neither counted nor rejected; it must be no more than was merged. The "
        "guest's clock jumps, but not beside a busy "
        "thread, where the guest is too slow for the pace.",
        [
            "board",
            "flashes",
            "program",
            "fed",
            "counted",
            "not seen",
            "rejected",
            "after a stall",
            "merged",
            "lost",
            "",
        ],
    )
    turns = [(board, rate, stall) for board in _boards() for rate in STALL_FLASHES for stall in STALLS]
    jobs = [_stall_job(*turn) for turn in turns]
    for (board, rate, stall), found in zip(turns, _in_guests("stalled", jobs), strict=True):
        verdict = ""
        if board == "gpiod":
            missed = _unexplained(found) > 0
            table.missed += missed
            verdict = "MISSED" if missed else "ok"
        numbers = [found[key] for key in ("counted", "unseen", "rejected", "late")]
        merged = "-" if found["merged"] is None else found["merged"]
        fed = f"{found['fed']:,} in {found['took_s']:.1f} s"
        table.add(board, rate, stall, fed, *(f"{number:,}" for number in numbers), merged, _lost(found), verdict)
    return table


def _stall_job(board, rate, stall):
    starts_ns, length_ns, max_watts = STALL_FLASHES[rate]
    how, seconds, jumping = STALLS[stall]
    arguments = {
        "library": board,
        "starts_ns": starts_ns,
        "length_ns": length_ns,
        "max_watts": max_watts,
        "how": how,
        "seconds": seconds,
    }
    return arguments, jumping


def _lost(found):
    """Flashes that were neither counted, kept and written, nor rejected."""
    return found["fed"] - min(found[key] for key in ("counted", "journal", "file")) - found["rejected"] - found["late"]


def _unexplained(found):
    """Flashes lost beside those that the guest merged, or counted beside those fed, or rejected though well apart."""
    lost = _lost(found)
    return max(0, lost - found["merged"], -lost) + max(0, found["rejected"] - found["close"])


# --- From power-on


def boot(place, _influxd):
    """Debian machines that boot in the guest: from power-on to the first flash that is counted."""
    sys.path.append(str(TOP / "tests" / "boot"))
    import counting
    import machine as booted

    kernel = booted.guest.kernel_path()
    table = Table(
        "From power-on to the first counted flash",
        f"A Debian 12 in the guest at the host's pace, with the program as its service; its input flashes every 50 ms "
        f"from early in the boot on. Seconds from the start of the kernel, in {BOOTS} boots.",
        ["process 1", "least", "median", "most"],
    )
    project = place / "power.tar"
    booted.pack_project(project)
    for flavour in booted.FLAVOURS:
        if not booted.image_path(flavour).exists():
            raise SystemExit(f"no image of {flavour}: make test-boot makes it")
        changes = place / flavour
        counting.install(kernel, flavour, project, changes)
        took = sorted(counting.time_to_first_flash(kernel, flavour, changes) for _ in range(BOOTS))
        table.add(flavour, f"{took[0]:.1f}", f"{statistics.median(took):.1f}", f"{took[-1]:.1f}")
    return [table]


# --- History


def history(place, _):
    table = Table(
        "History",
        f"Ten years of a household's pulses at {HISTORY_IMPULSES:,} imp/kWh, all but the last {KEPT_DAYS} days thinned "
        f"to one per quarter of an hour: the energy of each day, and the peaks of {PEAK_DAYS} days, in ms with all of "
        "the journal in memory; the best of 5.",
        GOALS,
    )
    for name, steps in (("", 0), (f", clock set back {HISTORY_STEPS:,} times", HISTORY_STEPS)):
        path, days = place / f"history_{steps}.db", range(HISTORY_DAYS + 1)
        pulses = _ten_years(path, steps)
        times_ns = [day * DAY_NS for day in days]
        with History(str(path)) as of:
            if sum(energy.pulses for energy in of.energy("house", times_ns)) != pulses:
                raise RuntimeError("not all pulses are in a day")
            questions = {
                "ten years of days": lambda of=of, times_ns=times_ns: of.energy("house", times_ns),
                f"peaks of {PEAK_DAYS} days": lambda of=of, times_ns=times_ns: of.peaks(
                    "house", times_ns[-PEAK_DAYS - 1 :]
                ),
            }
            for question, ask in questions.items():
                took_s = min(timeit.repeat(ask, number=1, repeat=5))
                table.judge(f"{question}{name}, ms", 1000 * took_s, 1000 * HISTORY_S, "{:.0f}")
    return [table]


@functools.cache
def _ten_years(path, steps):
    """Fill the journal *path*, and return how many pulses there were; those that would be thinned are left out."""
    chance, old_s, end_s = random.Random(1), (HISTORY_DAYS - KEPT_DAYS) * 86400, HISTORY_DAYS * 86400
    back = sorted(chance.randrange(end_s) for _ in range(steps))
    at_s, wh, number, rows = 0.0, 0.0, 0, []
    with Journal(str(path)) as journal:
        journal.enter("house", HISTORY_IMPULSES)
        for seconds, watts in household(0, "1"):
            before, begin_s, begin_wh = number, at_s, wh
            at_s, wh = at_s + seconds, wh + watts * seconds / 3600
            if at_s >= end_s:
                break
            number = int(wh * HISTORY_IMPULSES / 1000)
            for n in range(before + 1, number + 1) if at_s > old_s else range(number, number + (number > before)):
                time_s = begin_s + (n * 1000 / HISTORY_IMPULSES - begin_wh) * 3600 / watts
                if back and back[0] < time_s:
                    back.pop(0)
                    time_s = rows[-1].at_ns / NS_PER_S - 1
                elif rows and time_s < old_s and rows[-1].at_ns // QUARTER_NS == time_s * NS_PER_S // QUARTER_NS:
                    rows.pop()
                rows.append(Row("house", n, round(time_s * NS_PER_S), None))
            if len(rows) > 20_000:
                journal.append(rows[:-1])
                del rows[:-1]
        journal.append(rows)
        while journal.thin(old_s * NS_PER_S):
            pass
        return number


# --- The command line

PARTS = {
    "cpu": cpu,
    "complete": complete,
    "idle": idle,
    "memory": memory,
    "backfill": backfill,
    "commands": commands,
    "reports": reports,
    "history": history,
    "page": page,
    "mqtt": mqtt,
    "disk": disk,
    "kernel": kernel,
    "boot": boot,
}


#: For the summary: what users are promised, the table that shows it, and the beginning of its row there.
PROMISES = (
    ("No flash is lost, counted twice or rejected: a minute at 1,000 per second", MINUTE_TITLE, "lost, rejected or"),
    ("Less CPU time per pulse than a naive script, at 1 pulse per second", RATIOS_TITLE, "program / naive at 1/s"),
    ("CPU time per pulse close to a minimal loop's, at 1 pulse per second", RATIOS_TITLE, "program / sketch at 1/s"),
    ("It sleeps until a flash comes: wake-ups per second while idle", "Idle", "wake-ups per second"),
    ("Memory with a file and InfluxDB, MiB", "Memory", "file and InfluxDB, MiB"),
    ("Memory with only a file, MiB", "Memory", "only a file, MiB"),
    ("A million waiting pulses take little memory, MiB added", "Memory", "1,000,000 waiting pulses add"),
    ("A backlog is delivered nearly as fast as by a bare loop", "Backfill", "program / loop"),
    ("``--status`` answers at once: its time as a multiple of Python's own start", "Commands", "--status / python3"),
    ("A report of a month, as a multiple of Python's own start", "Reports", "a month / python3"),
    ("Ten years of days are read in 0.1 s, ms", "History", "ten years of days, ms"),
    ("The page: memory while somebody looks, MiB", "The page", "its memory"),
    ("The page: CPU time of its start, as a multiple of Python's own", "The page", "its start / python3"),
    ("MQTT: memory it adds beside only a file, MiB", "MQTT", "only a file, added, MiB"),
    ("The journal: bytes per pulse", "Bytes of the journal", "1 meter"),
)

HEAD = f"""\
Measurements
============

.. Written by ``python bench/run.py --write``: do not edit.

What the program costs, compared with two yardsticks in ``bench/``: *naive* is the way such a script is usually
written, with one thread per pulse for the lamp, a file that is opened and closed for each pulse, and dicts that are
posted every 5 s; *sketch* is one poll loop with SQLite and ``http.client``, a lower limit without a design. It uses the
program's own intervals, {COMMIT_S} s between commits and {POST_S} s between posts. All are fed the same pulses, each
through a FIFO. InfluxDB is real, on the same machine.

Compare times only within one run: they depend on the machine, their ratios hardly do.

A goal is a limit that the program is held to. One that is marked MISSED is not met, and stays here until it is. At 1
and 10 pulses per second each pulse wakes the program separately, for its edges and for both ends of L1's flash; the
sketch has neither lamps nor a file, and costs less there.

"""


def document(tables, before):
    """docs/benchmarks.rst with *tables* in place of those that the text *before* has of them."""
    sections = sections_of(before) | {table.title: table.rst() for table in tables}
    return HEAD + summary(PROMISES, sections, goal=2) + "\n".join(sections.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0].strip())
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; none: all")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.rst")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}")
    tables = []
    # A user's Python compiles a module once.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    print(machine())
    directory = os.environ.get("TMPDIR", "/var/tmp")
    with (
        tempfile.TemporaryDirectory(prefix="power-bench-", dir=directory) as name,
        Influxd(Path(name) / "influxd") as influxd,
    ):
        for part in args.parts or PARTS:
            for table in PARTS[part](Path(name), influxd):
                table.part = part
                table.print()
                tables.append(table)
    missed = sum(table.missed for table in tables)
    print(f"\n{missed} goals missed" if missed else "\nall goals met")
    if args.write:
        page = TOP / "docs" / "benchmarks.rst"
        page.write_text(document(tables, page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
