"""
What is measured: the program and its yardsticks, fed by FIFOs, beside a real InfluxDB.

Each runs in a process of its own with files of its own. What it costs is asked
from the kernel, so that the measured code is the shipped one, untouched.
"""

import fcntl
import json
import os
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOP / "src"), str(TOP / "tools")]

from hardware import machine  # noqa: E402, F401
from influxd import Influxd  # noqa: E402, F401 - for run.py, as what follows
from mosquitto import Mosquitto  # noqa: E402, F401
from results import list_table, sections_of, summary  # noqa: E402, F401
from server import free_port  # noqa: E402, F401

from powermeter.process.control import ask  # noqa: E402
from powermeter.process.pidfile import holder  # noqa: E402

POWER = str(TOP / "src" / "power.py")

#: The program's own intervals, in s; the yardstick "sketch" gets the same.
COMMIT_S, POST_S = 5, 10

#: At these the hold-off is 25 ns, so that it rejects nothing and all sides do the same work. A thread that wakes
#: late takes several edges at once, and their stamps, made as they are taken, are a microsecond apart.
IMPULSES_PER_KWH, MAX_WATTS = 1_000_000, 100_000_000

WAIT_S = 120


def wait_until(true, what, seconds=WAIT_S, every=0.2):
    """Ask *true* until it says so."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(every)


def cpu_s(pid):
    """CPU time of all threads there were: the process's clock (clock_getcpuclockid), exact where stat has ticks."""
    return time.clock_gettime(~pid << 3 | 2)


def switches(pid):
    """By thread that is there now, how often it was put on a CPU after it had been off."""
    found = {}
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        found[status.parent.name] = int(fields["voluntary_ctxt_switches"]) + int(fields["nonvoluntary_ctxt_switches"])
    return found


class Fifo:
    """
    A FIFO of flashes, each as the two events that the kernel gives for it (struct gpio_v2_line_event, 48 bytes).

    It is open at both ends: the events wait in it for a later reader.
    """

    #: GPIO24, pin 18 of the header; and how long a flash is, in ns.
    LINE, FLASH_NS = 24, 1000

    def __init__(self, path):
        self.path = str(path)
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)
        fcntl.fcntl(self._fd, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._number = 0
        #: When each flash began, by time.monotonic_ns().
        self.times_ns = []

    def edge(self):
        at_ns, number = time.monotonic_ns(), self._number + 1
        self.times_ns.append(at_ns)
        self._number += 2
        os.write(
            self._fd,
            struct.pack(
                "=QIIII24xQIIII24x",
                *(at_ns, 2, self.LINE, number, number),
                *(at_ns + self.FLASH_NS, 1, self.LINE, number + 1, number + 1),
            ),
        )

    def close(self):
        os.close(self._fd)


def feed(fifos, pulses, per_s):
    """
    Put *pulses* edges into each of *fifos* at the same times, evenly spaced; return the seconds it took.

    What a late wake-up made late is caught up at 0.8 of the spacing at the least: closer edges would be
    bounce by the hold-off of a meter that is just as fast as this.
    """
    start = last = time.monotonic()
    for number in range(1, pulses + 1):
        at = max(start + number / per_s, last + 0.8 / per_s)
        while (ahead := at - time.monotonic()) > 0:
            time.sleep(ahead)
        for fifo in fifos:
            fifo.edge()
        last = time.monotonic()
    return last - start


class Measured:
    """A process that is fed by a FIFO and posts to a database of its own; a context manager."""

    #: The name in the tables.
    name = ""

    def __init__(self, directory, influxd=None):
        self.directory = directory
        directory.mkdir(parents=True)
        self.fifo = Fifo(directory / "edges")
        self.influxd = influxd
        self.database = directory.name.replace("-", "_")
        self.pid = None
        if influxd:
            influxd.query(f"CREATE DATABASE {self.database}")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.stop()
        self.fifo.close()

    def environment(self):
        return {
            **os.environ,
            "PYTHONPATH": str(TOP / "bench" / "standin"),
            "GPIO_FIFO": self.fifo.path,
            "INFLUXDB_PORT": str(self.influxd.port if self.influxd else 0),
            "INFLUXDB_DATABASE": self.database,
        }

    def command(self):
        raise NotImplementedError

    def start(self):
        with open(self.directory / "output", "ab") as output:
            self._process = subprocess.Popen(
                self.command(), env=self.environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        self.pid = self._process.pid

    def stop(self):
        if self.pid is not None:
            os.kill(self.pid, signal.SIGTERM)
            self._process.wait()
            self.pid = None

    def points(self):
        """How many points its database holds."""
        found = self.influxd.query("SELECT count(*) FROM /.*/", self.database)
        return max((count for one in found for count in one["values"][0][1:]), default=0)

    # --- What the kernel counts for the process

    def cpu_s(self):
        """CPU time of all threads there were."""
        return cpu_s(self.pid)

    def wakeups(self):
        """How often a thread that is there now was put on a CPU after it had been off."""
        return sum(switches(self.pid).values())

    def memory_mib(self, field="VmRSS", pid=None):
        for line in Path(f"/proc/{pid or self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
        raise KeyError(field)

    def written(self):
        """Bytes that it caused to be written to a disk; the file system's own journal is not among them."""
        fields = dict(line.split(": ") for line in Path(f"/proc/{self.pid}/io").read_text().splitlines())
        return int(fields["write_bytes"])


class Program(Measured):
    """
    The program itself, with a settings file. Without *influxd* the file is its only writer.

    It uses the board for gpiod, what "auto" takes on a Pi of today.
    """

    name = "program"
    library = "gpiod"

    def __init__(self, directory, influxd=None, *, daemon=False, meters=("house",)):
        super().__init__(directory, influxd)
        self.daemon = daemon
        self.data = directory / "data"
        self.csv = self.data / "power.csv"
        self.journal = self.data / "journal.db"
        self.pidfile = str(directory / "power.pid")
        self._settings = directory / "settings.py"
        self.meters = {
            name: {"pin": pin, "impulses_per_kwh": IMPULSES_PER_KWH, "max_watts": MAX_WATTS}
            for name, pin in zip(meters, (18, 22), strict=False)
        }
        #: How long it collects pulses until it commits and until it posts them, in s.
        self.commit_s, self.post_s = COMMIT_S, POST_S
        #: The port of its page; None for no page.
        self.page_port = None
        #: The port of its broker; None for no MQTT.
        self.mqtt_port = None
        #: By name, as in the settings.
        self.writers = {"file": {"type": "file"}}
        if influxd:
            self.writers["influxdb"] = {
                "type": "influxdb",
                "host": "127.0.0.1",
                "port": influxd.port,
                "database": self.database,
            }

    def command(self, *flags):
        flags = flags or (() if self.daemon else ("--nodaemon",))
        return [sys.executable, POWER, "--settings", str(self._settings), "--pidfile", self.pidfile, *flags]

    def start(self):
        if "influxdb" in self.writers:
            self.writers["influxdb"]["update_period"] = self.post_s
        self._settings.write_text(
            f"METERS = {self.meters!r}\nWRITERS = {self.writers!r}\n"
            f"DATA_DIR = {str(self.data)!r}\nCOMMIT_INTERVAL = {self.commit_s}\nCLOCK_WAIT = 0\n"
            f"GPIO_LIBRARY = {self.library!r}\nGPIO_CHIP = {self.fifo.path!r}\n"
            f"PAGE = {self.page_port and {'port': self.page_port}!r}\n"
            f"MQTT = {self.mqtt_port and {'port': self.mqtt_port}!r}\n"
        )
        super().start()
        if self.daemon:
            if self._process.wait():
                raise RuntimeError((self.directory / "output").read_text())
            self.pid = holder(self.pidfile)
        else:
            wait_until(self._counts, f"{self.directory}: counting")

    def _counts(self):
        if self._process.poll() is not None:
            raise RuntimeError((self.directory / "output").read_text())
        return os.path.exists(self.pidfile + ".sock") and self.status()["meters"]

    def stop(self):
        if self.daemon and self.pid is not None:
            subprocess.run(self.command("--kill"), check=True, stdout=subprocess.DEVNULL)
            self.pid = None
        else:
            super().stop()

    def status(self):
        return json.loads(ask(self.pidfile, "json"))

    def waiting(self, writer):
        return self.status()["writers"][writer]["waiting"]

    def page_pid(self):
        """The process id of its page, which is its only child; None while it does not run."""
        listed = [path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/children")]
        found = [int(child) for line in listed for child in line.split()]
        return found[0] if found else None

    def lines(self):
        """Pulses in the file."""
        with open(self.csv, "rb") as file:
            return sum(1 for _ in file) - 1

    def rows(self):
        """Pulses in the journal."""
        with sqlite3.connect(self.journal) as db:
            rows = db.execute("SELECT count(*) FROM pulses").fetchone()[0]
        db.close()
        return rows


class ProgramByCallback(Program):
    """The program over RPi.GPIO, whose thread calls back for each edge."""

    name = "program_rpi_gpio"
    library = "RPi.GPIO"


class Naive(Measured):
    name = "naive"

    def environment(self):
        return super().environment() | {"NAIVE_CSV": str(self.directory / "naive.csv")}

    def command(self):
        return [sys.executable, str(TOP / "bench" / "naive.py")]


class Sketch(Measured):
    name = "sketch"

    def environment(self):
        return super().environment() | {
            "SKETCH_DB": str(self.directory / "sketch.db"),
            "SKETCH_COMMIT_S": str(COMMIT_S),
            "SKETCH_POST_S": str(POST_S),
        }

    def command(self):
        return [sys.executable, str(TOP / "bench" / "sketch.py")]
