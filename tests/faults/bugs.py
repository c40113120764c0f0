"""
A real daemon with file, InfluxDB and Librato, in which one of the program's methods is made to raise at a chosen
moment.

A bug in a writer, whatever it raises, affects only that writer: it is shown as failing with the name of the bug, is
opened again after longer and longer pauses, and continues where it was once the bug is gone. The others deliver
meanwhile, and each pulse arrives once. A bug on any other thread, be it ours or one of the GPIO library's, ends the
program with status 1, so that init starts it again: with the reason in the log, and with everything that was counted in
the journal. No thread is left out: those that the program starts are compared with a table of what was tried.
"""

import ctypes
import itertools
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

from delivered import in_file, in_influxdb, in_librato
from librato_server import LibratoServer
from pins import STANDIN, Pins
from program import PATIENCE_S, SOURCE, Program, wait_until
from records import journal_rows
from rig import HERE, Row, times

from powermeter.errors import PowerError
from powermeter.process.control import ask

TITLE = "Bugs"
PROMISE = "A bug in a writer stops neither the counting nor the other writers"
MEASURED = "bugs in a writer, each shown, retried after growing pauses, and overcome"

PER_S = 20
WATTS = PER_S * 3600
PERIOD_S = 2

SETTINGS = """
GPIO_LIBRARY = "RPi.GPIO"
COMMIT_INTERVAL = 0.5
METERS = {{"house": {{"pin": 18, "impulses_per_kwh": 1000, "max_watts": {most_watts}}}}}
WRITERS = {{
    "file": {{"type": "file"}},
    "influxdb": {{"type": "influxdb", "host": "127.0.0.1", "port": {port}, "database": {database!r},
                  "update_period": 0.5}},
    "librato": {{"type": "librato", "user": {librato.user!r}, "token": {librato.token!r}, "protocol": "http",
                 "hostname": {librato.hostname!r}, "source": {database!r}, "period": {period_s}}},
}}
"""

#: By writer: the class.
WRITERS = {
    "file": "powermeter.writers.file:FileWriter",
    "influxdb": "powermeter.writers.influxdb:InfluxdbWriter",
    "librato": "powermeter.writers.librato:LibratoWriter",
}
#: What a library may raise: the common, the nasty, and what is not even an Exception.
RAISED = ("RuntimeError", "SystemExit", "MemoryError", "KeyError", "RecursionError", "OSError", "BaseException")

#: Every thread of the program but the writers': what raises on it, and with which board it runs.
THREADS = {
    "MainThread": ("powermeter.process.control:Control._answer_one", "simulated"),
    "recorder": ("powermeter.recorder:Recorder._take", "simulated"),
    "journal": ("powermeter.keeper:Keeper._commit", "simulated"),
    "lookup": ("powermeter.lookup:Lookup._look", "simulated"),
    "simulated meter": ("powermeter.boards:EdgeQueue.put", "simulated"),
    "GPIO edges": ("powermeter.boards:EdgeQueue.put", "RPi.GPIO"),
    "stalls": ("powermeter.boards.rpi_gpio:_Witness.is_late", "RPi.GPIO"),
}
#: A writer's own thread, where not the writer but what drives it has the bug.
DRIVEN = "powermeter.delivery:Delivery._deliver_next"

PR_SET_CHILD_SUBREAPER = 36

#: Programs at a time: they mostly sleep.
AT_ONCE = 3


class Buggy:
    """A daemon with bugs on demand, in a directory of its own; a context manager."""

    def __init__(self, rig, name, methods, librato, board="simulated"):
        directory = rig.directory / name
        self.bugs = directory / "bugs"
        self.bugs.mkdir(parents=True)
        (self.bugs / "methods").write_text("\n".join(methods))
        self.log = self.bugs / "log"
        self.log.touch()
        self.board = board
        self.pins = Pins(directory) if board != "simulated" else None
        self.influxd, self.database = rig.influxd, name
        rig.influxd.query(f"CREATE DATABASE {name}")
        self.librato = librato
        settings = SETTINGS.format(
            most_watts=2 * WATTS, port=rig.influxd.port, database=name, librato=librato, period_s=PERIOD_S
        )
        env = {"POWER_BUGS": str(self.bugs)} | (self.pins.env if self.pins else {})
        env["PYTHONPATH"] = os.pathsep.join(map(str, (HERE / "bug", SOURCE, STANDIN)))
        self.program = Program(directory, settings, env=env)
        self.data = self.program.data_dir / ("" if self.pins else "simulated")

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, kind, error, trace):
        self.program.end()
        if self.pins:
            self.pins.close()

    def start(self):
        done = self.program.run(*(() if self.pins else ("--simulate", str(WATTS))))
        assert done.returncode == 0, done.stderr
        # Not the pidfile's: it may have ended already.
        self.pid = int(done.stdout.split()[-1])

    def status(self):
        """Its status; None if it no longer answers."""
        if self.pins:
            self.pins.flash(18)
        try:
            return json.loads(ask(str(self.program.pidfile), "json"))
        except PowerError:
            return None

    def begin(self, method, raised, thread=""):
        """Let *method* raise from now on."""
        new = self.bugs / "new"
        new.write_text(f"{raised} {thread}".strip())
        new.rename(self.bugs / method)

    def end(self, method):
        """No longer let it raise."""
        (self.bugs / method).unlink()

    def noted(self, what, method=""):
        """The rest of the log's lines that begin with *what* and *method*."""
        begins = f"{what} {method}".rstrip() + " "
        return [line.removeprefix(begins) for line in self.log.read_text().splitlines() if line.startswith(begins)]

    def said(self):
        return (self.data / "power.log").read_text()

    def ended(self):
        """Its exit status in a tuple once it has ended, None before that."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return (os.waitstatus_to_exitcode(status),) if pid else None

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)
        assert wait_until(self.ended) == (0,), self.said()[-3000:]


def writer_raises(rig, librato, number, writer, place, raised):
    """One writer raises *raised* in *place* from the start on, until it is made healthy."""
    opened, deliver, close = (f"{WRITERS[writer]}.{name}" for name in ("__init__", "deliver", "close"))
    buggy = Buggy(rig, f"writer{number}", {opened, deliver, close}, librato)
    # It is closed once it has had a bug.
    method = opened if place == "__init__" else deliver
    buggy.begin(method, raised)
    if place == "close":
        buggy.begin(close, raised)
    with buggy:
        what = f"{writer}: {raised} in {place}"
        times_s = wait_until(lambda: (found := buggy.noted("raised", method))[2:] and [float(at) for at in found])
        now = buggy.status()
        assert now is not None, f"{what}: it ended: {buggy.said()[-3000:]}"
        assert now["writers"][writer]["state"] == "failing", f"{what}: {now['writers']}"
        assert raised in now["writers"][writer]["reason"], f"{what}: {now['writers']}"
        others = [now["writers"][name]["state"] for name in WRITERS if name != writer]
        assert "failing" not in others, f"{what}: {now['writers']}"
        # Pauses of 2 s and 4 s, less a half of it by chance.
        assert times_s[1] - times_s[0] >= 1, f"{what}: not backing off: {times_s}"
        assert times_s[2] - times_s[1] >= 2, f"{what}: not backing off: {times_s}"
        before = now["meters"]["house"]["pulses"]
        for each in (method, close) if place == "close" else (method,):
            buggy.end(each)
        wait_until(lambda: buggy.status()["writers"][writer]["state"] != "failing")
        if place != "__init__":
            again = len(buggy.noted("called", opened))
            assert again >= 2, f"{what}: it was not opened again"
        after = wait_until(lambda: (now := buggy.status()["meters"]["house"]["pulses"]) > before + PER_S and now)
        assert f"{writer}: failing, pulses are kept: a bug: {raised}" in buggy.said()
        buggy.stop()
        found = [
            *in_file(buggy.data),
            *in_influxdb(buggy.data, buggy.influxd, buggy.database),
            *in_librato(buggy.data, librato, buggy.database, PERIOD_S, last=False),
        ]
        assert not found, f"{what}: {found[:5]}"
        assert len(journal_rows(buggy.data)) >= after
    return len(journal_rows(buggy.data))


def thread_dies(rig, librato, number, thread, method, board, raised):
    """*method* raises on *thread*; returns the threads that there were."""
    buggy = Buggy(rig, f"thread{number}", {method}, librato, board)
    what = f"{thread} ({method}): {raised}"
    with buggy:
        now = wait_until(lambda: (found := buggy.status()) and found["meters"]["house"]["pulses"] >= 5 and found)
        counted, left = now["meters"]["house"]["pulses"], now["journal"]["uncommitted"]
        buggy.begin(method, raised, thread)
        # Asked on and on, as main wakes for nothing else.
        code = until(lambda: (buggy.status(), buggy.ended())[1])
        assert buggy.noted("raised", method), f"{what}: it did not come to it"
        assert code, f"{what}: the program goes on without that thread: {buggy.said()[-2000:]}"
        assert code == (1,), f"{what}: ended with {code[0]}: {buggy.said()[-2000:]}"
        names = ("ended by a bug",) if thread == "MainThread" else (f"{thread}: ", f"{thread} ")
        assert any(f"CRITICAL {name}" in buggy.said() for name in names), f"{what}: not named: {buggy.said()[-2000:]}"
        assert raised in buggy.said()
        rows = journal_rows(buggy.data)
        assert len(rows) >= counted, (
            f"{what}: {len(rows)} of {counted} saved, {left} were not before: {buggy.said()[-900:]}"
        )
        # What the init does then.
        buggy.end(method)
        buggy.start()
        wait_until(lambda: (found := buggy.status()) and found["meters"]["house"]["pulses"] > len(rows))
        buggy.stop()
        assert journal_rows(buggy.data)[: len(rows)] == rows
    return set(buggy.noted("thread"))


def driver_dies(rig, librato, number, writer):
    """What drives a writer raises from the start on: that ends the program as above, or is shown and got over."""
    thread, raised = f"writer {writer}", "RuntimeError"
    buggy = Buggy(rig, f"driver{number}", {DRIVEN}, librato)
    buggy.begin(DRIVEN, raised, thread)

    def shown():
        now = buggy.status()
        return now and raised in now["writers"][writer]["reason"] and now["writers"][writer]["state"] == "failing"

    with buggy:
        code = until(lambda: buggy.ended() or shown())
        assert code, f"{thread}: it is as if nothing was: {buggy.said()[-2000:]}"
        if code is True:
            buggy.end(DRIVEN)
            wait_until(lambda: buggy.status()["writers"][writer]["state"] == "ok")
            buggy.stop()
        else:
            assert code == (1,), f"{thread}: ended with {code[0]}"
            assert f"CRITICAL {thread}: ended by a bug" in buggy.said()
    return set(buggy.noted("thread"))


def until(condition):
    """Its first true answer; None if there was none within a third of the patience."""
    try:
        return wait_until(condition, PATIENCE_S / 3)
    except AssertionError:
        return None


def run(part, rig):
    libc = ctypes.CDLL(None, use_errno=True)
    # So that a daemon's exit status comes to us when it has ended.
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    failures = []

    def tried(what, *arguments):
        """All are tried before the first failure ends it."""
        try:
            return what(rig, librato, *arguments)
        except AssertionError as error:
            failures.append(f"{what.__name__} {arguments}: {error}")
            return None

    always = [("deliver", "RuntimeError", "file"), ("deliver", "SystemExit", "influxdb")]
    cases = list(itertools.product(("deliver", "__init__", "close"), RAISED, WRITERS))
    others = [case for case in cases if case not in always]
    chosen = always + rig.random.sample(others, times(len(cases), part, 3) - len(always))
    rig.influxd.query("SHOW DATABASES")  # up before they share it
    try:
        with LibratoServer() as librato, ThreadPoolExecutor(AT_ONCE) as pool:
            writers = [
                pool.submit(tried, writer_raises, number, writer, place, raised)
                for number, (place, raised, writer) in enumerate(chosen)
            ]
            threads = [
                pool.submit(tried, thread_dies, number, thread, method, board, "RuntimeError")
                for number, (thread, (method, board)) in enumerate(THREADS.items())
            ]
            drivers = [pool.submit(tried, driver_dies, number, writer) for number, writer in enumerate(WRITERS)]
            tried_pulses = sum(future.result() or 0 for future in writers)
            there = {"MainThread"}.union(*(future.result() or () for future in (*threads, *drivers)))
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    assert not failures, "\n\n".join(failures)
    assert there == {*THREADS, *(f"writer {name}" for name in WRITERS)}, f"not all threads were tried: {there}"
    kinds = sorted({raised for _, raised, _ in chosen})
    return [
        Row("bugs in a writer, each shown, retried after growing pauses, and overcome", str(len(chosen)), "all"),
        Row("of these kinds", ", ".join(kinds)),
        Row("pulses meanwhile, each delivered once", f"{tried_pulses:,}", "all"),
        Row("threads whose bug ended the program with status 1, all counted saved", ", ".join(THREADS)),
        Row("threads whose bug did that, or was shown and overcome", ", ".join(sorted(there - set(THREADS)))),
    ]
