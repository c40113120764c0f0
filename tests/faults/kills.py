"""
The program counts 20 pulses per second and delivers them to a file and to a real InfluxDB, while SIGKILL ends it again
and again: at random moments, from the very beginning of its start, and at the hardest moments, when the CSV file or the
journal has just been written.

Each start after a kill must succeed. A kill may cost no more than the pulses of one COMMIT_INTERVAL, of the commits at
both ends of it, and of the 0.1 s for which edges may wait for L1. The journal never loses what it had before a kill, so
the register never goes back. In the end the CSV file and InfluxDB agree with the journal: nothing is missing, doubled,
torn or changed.
"""

import contextlib
import json
import math
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

from program import PATIENCE_S, Program, wait_until
from records import csv_rows, expected, journal_rows
from rig import Row, differences, times

from powermeter.errors import PowerError
from powermeter.meter import NS_PER_S
from powermeter.process.control import ask

TITLE = "SIGKILL"
PROMISE = "A SIGKILL costs at most the pulses since the last commit"
MEASURED = "pulses lost by one kill, at most"

KILLS, AIMED_KILLS = 200, 25

PER_S = 20
WATTS = PER_S * 3600  # at 1,000 impulses per kWh
COMMIT_S = 0.5
#: How long edges may wait while L1 can't show them.
L1_S = 0.1
#: A run is killed within this after its start, in s; it counts after a good half of one.
LONGEST_S = 3.0

SETTINGS = """
COMMIT_INTERVAL = {commit_s}
METERS = {{"house": {{"pin": 18, "impulses_per_kwh": 1000, "max_watts": {most_watts}}}}}
WRITERS = {{
    "file": {{"type": "file"}},
    "influxdb": {{"type": "influxdb", "host": "127.0.0.1", "port": {port}, "update_period": 0.5}},
}}
"""


class Yardstick:
    """
    How long a commit takes here and now, as a context manager.

    A thread commits a row to a database of its own, made as the journal is, 20 times a second. *longest_s*: from when
    one was due until it was on the disk.
    """

    def __init__(self, path):
        self._path = path
        self.longest_s = 0.0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        with contextlib.closing(sqlite3.connect(self._path, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("CREATE TABLE rows (at REAL)")
            due_s = time.monotonic()
            while not self._ending.wait(max(0, due_s - time.monotonic())):
                connection.execute("INSERT INTO rows VALUES (?)", (due_s,))
                now_s = time.monotonic()
                self.longest_s = max(self.longest_s, now_s - due_s)
                due_s = max(due_s + 1 / PER_S, now_s)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join()


class Killed:
    """The program that is started and killed, and what its journal was seen to hold."""

    def __init__(self, rig):
        rig.influxd.query("CREATE DATABASE power")
        settings = SETTINGS.format(commit_s=COMMIT_S, most_watts=2 * WATTS, port=rig.influxd.port)
        self.program = Program(rig.directory / "killed", settings)
        self.data = self.program.data_dir / "simulated"
        self.influxd = rig.influxd
        self._copy = rig.directory / "copy"
        #: What the journal held after the last kill; and what each kill cost in pulses.
        self.rows = []
        self.losses = []
        self.before_counting = 0

    @contextlib.contextmanager
    def started(self):
        """A run in the foreground, as a Popen, from its first moment."""
        line = self.program.line("--nodaemon", "--simulate", str(WATTS))
        with self.program.out.open("ab") as out:
            popen = subprocess.Popen(
                line, cwd=self.program.directory, env=self.program.env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        try:
            yield popen
        finally:
            popen.kill()
            popen.wait()

    def said(self):
        """The end of its output."""
        return self.program.out.read_text()[-3000:]

    def counted(self):
        """The pulses in its status; None while it does not answer."""
        try:
            return json.loads(ask(str(self.program.pidfile), "json"))["meters"]["house"]["pulses"]
        except PowerError:
            return None

    def kill(self, moment):
        """Start it, kill it when *moment* returns, and look at what that left."""
        started_ns = time.time_ns()
        with self.started() as popen:
            moment(popen)
            counted = self.counted()
            assert popen.poll() is None, f"it ended by itself, {popen.returncode}: {self.said()}"
            killed_ns = time.time_ns()
            popen.send_signal(signal.SIGKILL)
            popen.wait()
        assert counted is None or counted >= len(self.rows), f"{counted} after {len(self.rows)}: the register went back"
        self._look(started_ns, killed_ns)

    def _look(self, started_ns, killed_ns):
        # At a copy: who opens a journal mends it, and that is the next start's work.
        shutil.rmtree(self._copy, ignore_errors=True)
        self._copy.mkdir()
        for name in ("journal.db", "journal.db-wal"):
            if (self.data / name).exists():
                shutil.copy(self.data / name, self._copy)
        rows = self._rows()
        assert rows[: len(self.rows)] == self.rows, "what the journal had before the kill it has not now"
        assert [row[1] for row in rows] == list(range(1, len(rows) + 1)), "a count is missing, or twice"
        last_ns = rows[-1][2] if rows else 0
        if last_ns > started_ns:
            # The simulated flashes are evenly spaced: those since the last pulse that was kept.
            self.losses.append(max(0, (killed_ns - last_ns) * PER_S // NS_PER_S))
        else:
            self.before_counting += 1
        self.rows = rows
        # A pulse is in the journal before a writer has it.
        for one in self.influxd.query("SELECT count(energy), max(register) FROM electricity_power"):
            _, points, register = one["values"][0]
            assert points <= len(rows)
            assert round(register * 1000) <= len(rows), "InfluxDB has what the journal has not"

    def _rows(self):
        if not (self._copy / "journal.db").exists():
            return []
        with contextlib.closing(sqlite3.connect(self._copy / "journal.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                return []  # killed before the tables were made
        return journal_rows(self._copy)

    def at_random(self, rig):
        """Within LONGEST_S of the start."""
        wait_s = rig.random.uniform(0, LONGEST_S)
        return lambda _popen: time.sleep(wait_s)

    def csv_written(self, rig):
        """When the CSV file has grown: at once for the first pulses of a run, the next would be 30 s later."""
        return self._when_written("power.csv", 0)

    def journal_written(self, rig):
        """When the journal has been written, some time after the start."""
        return self._when_written("journal.db-wal", rig.random.uniform(0, 2))

    def _when_written(self, name, wait_s):
        path = self.data / name

        def stamp():
            try:
                there = os.stat(path)
            except FileNotFoundError:
                return None
            return there.st_size, there.st_mtime_ns

        def moment(popen):
            time.sleep(wait_s)
            before, end_s = stamp(), time.monotonic() + PATIENCE_S
            # Without a pause: the moment is over sooner.
            while stamp() == before:
                assert time.monotonic() < end_s, f"{name} is not written"
                assert popen.poll() is None, self.said()

        return moment

    def end(self):
        """A last run, which is stopped as it should be; the journal's rows then."""
        with self.started() as popen:
            wait_until(lambda: (self.counted() or 0) > len(self.rows) + PER_S)
            popen.send_signal(signal.SIGTERM)
            assert popen.wait(15) == 0, self.said()
        return journal_rows(self.data)


def run(part, rig):
    killed = Killed(rig)
    kinds = [killed.at_random] * times(KILLS, part)
    aimed = times(AIMED_KILLS, part)
    kinds += [killed.csv_written, killed.journal_written] * aimed
    rig.random.shuffle(kinds)
    with Yardstick(rig.directory / "yardstick.db") as yardstick:
        for kind in kinds:
            killed.kill(kind(rig))
    rows = killed.end()
    assert rows[: len(killed.rows)] == killed.rows
    assert len(killed.losses) > len(kinds) / 2, "most kills came before it counted, and say nothing"
    most = max(killed.losses)
    bound = math.ceil(PER_S * (COMMIT_S + L1_S + 2 * yardstick.longest_s))
    assert most <= bound, f"a kill cost {most} pulses, at most {bound} may be: {sorted(killed.losses)}"

    wanted = expected(rows)
    found = csv_rows(killed.data / "power.csv")
    points = [
        (point["meter"], point["time"], point.get("power"), point["energy"], point["register"])
        for point in rig.influxd.points()
    ]
    in_file, in_influxdb = differences(found, wanted), differences(points, wanted)
    assert not in_file, f"the CSV file has not what the journal has: {in_file[:5]}"
    assert not in_influxdb, f"InfluxDB has not what the journal has: {in_influxdb[:5]}"
    return [
        Row("kills at random moments", str(kinds.count(killed.at_random))),
        Row("kills when the CSV file had grown", str(kinds.count(killed.csv_written))),
        Row("kills when the journal had been written", str(kinds.count(killed.journal_written))),
        Row("of these, before the first pulse was saved", str(killed.before_counting)),
        Row("starts that succeeded", str(len(kinds) + 1), "all"),
        Row(
            "pulses lost by one kill, at most",
            str(most),
            f"<= {bound}: {PER_S}/s x ({COMMIT_S} + {L1_S} s + two commits)",
        ),
        Row("pulses lost by one kill, on average", f"{sum(killed.losses) / len(killed.losses):.1f}"),
        Row("the longest commit of another process meanwhile", f"{yardstick.longest_s * 1000:.0f} ms"),
        Row("pulses in the journal", f"{len(rows):,}"),
        Row("lines missing, doubled, torn or out of order in the CSV file", str(len(in_file)), "0"),
        Row("points missing in InfluxDB, or different from the journal's", str(len(in_influxdb)), "0"),
    ]
