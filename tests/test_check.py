"""``--check``: what it tries and says, by the command line; nothing is started, and nothing is left behind."""

import os
import shutil
import socket
import sqlite3
import stat
import time
from pathlib import Path

import pytest
from influxd import Influxd
from program import UNPRIVILEGED, Program, readable_to_all

from powermeter.journal.history import History, delivered_pulses
from powermeter.journal.journal import Journal, Row

METERS_OF_TWO = "METERS = {n: {'pin': p, 'impulses_per_kwh': 1000} for n, p in (('house', 18), ('flat', 22))}"

#: gpiod as far as --check goes with it: all its lines are taken, by the consumer that a test puts in.
TAKEN = """
import enum, errno, sys, types
class LineSettings:
    def __init__(self, **options): pass
class Chip:
    def __init__(self, path): pass
    def get_info(self): return types.SimpleNamespace(label="pinctrl-bcm2711")
    def get_line_info(self, line): return types.SimpleNamespace(offset=line, used=True, consumer={consumer!r})
    def request_lines(self, *lines, **options): raise OSError(errno.EBUSY, "Device or resource busy")
    def close(self): pass
line = types.ModuleType("gpiod.line")
line.Value = enum.Enum("Value", "ACTIVE INACTIVE")
line.Direction = enum.Enum("Direction", "INPUT OUTPUT")
line.Edge, line.Bias = enum.Enum("Edge", "BOTH"), enum.Enum("Bias", "DISABLED PULL_UP PULL_DOWN")
line.Clock = enum.Enum("Clock", "MONOTONIC")
sys.modules["gpiod.line"] = line
"""

#: Imported before the privileges are gone: what only --check needs.
LOADED = "import powermeter.check, powermeter.boards.gpiod, powermeter.boards.rpi_gpio, powermeter.writers.file\n"

#: RPi.GPIO as far as --check goes with it.
STANDIN = """
BOARD, BCM, IN, OUT, PUD_OFF, FALLING, LOW, HIGH = range(8)
setwarnings = setmode = cleanup = remove_event_detect = lambda _: None
setup = add_event_detect = output = lambda *_args, **_options: None
"""


@pytest.fixture
def program(tmp_path):
    """A program with pins that are free."""
    (tmp_path / "RPi").mkdir()
    (tmp_path / "RPi" / "__init__.py").touch()
    (tmp_path / "RPi" / "GPIO.py").write_text(STANDIN)
    with Program(tmp_path / "program", 'GPIO_LIBRARY = "RPi.GPIO"', env={"PYTHONPATH": str(tmp_path)}) as program:
        yield program


def set_more(program, text):
    program.set(f'GPIO_LIBRARY = "RPi.GPIO"\n{text}')


def files_of(program):
    return sorted(str(path.relative_to(program.directory)) for path in program.directory.rglob("*"))


def test_all_is_well(program):
    """Each thing that was tried has its line; what a start would make is not left behind."""
    log = program.data_dir / "mine.log"
    set_more(program, 'LOG_FILE = "mine.log"')
    program.env["TZ"] = "Europe/Berlin"
    before = files_of(program)
    done = program.run("--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"settings: ok, {program.settings}",
        f"data: ok, {program.data_dir}",
        f"log: ok, {log}",
        "time zone: ok, Europe/Berlin",
        "pins: ok, house on 18, 1000 imp/kWh",
        f"writer file: ok, {program.data_dir}/power.csv",
    ]
    assert files_of(program) == before


def test_an_unknown_time_zone(program):
    """A mistake in TZ, which the C library takes for UTC in silence, has a line and is a failure."""
    set_more(program, "")
    program.env["TZ"] = "Europe/Berln"
    done = program.run("--check")
    assert (done.returncode, done.stderr) == (1, "")
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("time zone")]
    assert line.startswith("time zone: TZ=Europe/Berln: there is no such zone, so that days begin by UTC: ")


def test_a_data_dir_in_memory(program):
    """A DATA_DIR that is gone after a reboot is reported by a check and in the log of a start; both go on."""
    directory = f"/dev/shm/power-{os.getpid()}"
    set_more(program, f'DATA_DIR = "{directory}"')
    done = program.run("--check")
    assert (done.returncode, done.stderr) == (0, "")
    words = "on tmpfs: pulses and register are gone after a reboot"
    assert f"data: ok, {directory}, but it is {words}" in done.stdout.splitlines()
    try:
        program.start()
        program.end()
        assert (
            f"{directory}: DATA_DIR is {words}: set a DATA_DIR on a disk\n" in Path(directory, "power.log").read_text()
        )
    finally:
        shutil.rmtree(directory)


def test_what_is_there_stays(program):
    """A DATA_DIR and a log that were there stay as they are."""
    program.data_dir.mkdir(mode=0o700)
    log = program.data_dir / "power.log"
    log.write_text("a line\n")
    set_more(program, 'LOG_FILE = "power.log"')
    assert program.run("--check").returncode == 0
    assert log.read_text() == "a line\n"
    assert stat.S_IMODE(program.data_dir.stat().st_mode) == 0o700


def test_a_log_that_is_syslogs(program):
    """A socket is taken as it is, as a start takes it: syslog may come up later."""
    path = program.directory / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
    set_more(program, f"LOG_FILE = {str(path)!r}")
    assert f"\nlog: ok, {path}\n" in program.run("--check").stdout
    assert path.is_socket()


def test_constants_are_said(program):
    """What each meter's flash is worth is shown: 1.000 is one, not a thousand."""
    set_more(
        program,
        'METERS = {"house": {"pin": 18, "impulses_per_kwh": 1.000}, "pump": {"pin": 22, "impulses_per_kwh": 1000000}}',
    )
    assert "pins: ok, house on 18, 1 imp/kWh; pump on 22, 1000000 imp/kWh\n" in program.run("--check").stdout


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("DATA_DIR = '/dev/null/data'", "data: /dev/null/data: DATA_DIR can't be made: Not a directory"),
        ("DATA_DIR = '/proc/data'", "data: /proc/data: DATA_DIR can't be made: No such file or directory"),
    ],
)
def test_what_a_start_would_fail_at(program, text, line):
    """A DATA_DIR or a log that can't be used is reported as at a start; the others are tried all the same."""
    set_more(program, text)
    done = program.run("--check")
    assert (done.returncode, done.stderr) == (1, "")
    assert line in done.stdout.splitlines()
    assert "pins: ok, house on 18, 1000 imp/kWh" in done.stdout.splitlines()
    assert "\nwriter file: " in done.stdout
    assert (
        program.run("--nodaemon", "--settings", str(program.settings)).stderr == f"power: {line.partition(': ')[2]}\n"
    )


@pytest.mark.parametrize(
    ("path", "why"), [("/nowhere/power.log", "No such file or directory"), ("/etc", "Is a directory")]
)
def test_a_log_that_can_not_be_written(program, path, why):
    """A log is no condition of a start; a check fails for it all the same."""
    set_more(program, f"LOG_FILE = {path!r}")
    done = program.run("--check")
    assert (done.returncode, done.stderr) == (1, "")
    assert f"log: {path}: the log can't be written: {why}: set another LOG_FILE" in done.stdout.splitlines()
    assert "\nwriter file: ok" in done.stdout


def test_data_of_another_user():
    """A DATA_DIR that this user may not open is reported in the line of the data; the others are tried too."""
    with readable_to_all() as directory, Program(directory) as program:
        program.settings.chmod(0o644)
        (program.data_dir / "lock").parent.mkdir()
        (program.data_dir / "lock").touch()
        program.data_dir.chmod(0)
        try:
            done = program.run_after(LOADED + UNPRIVILEGED, "--check")
        finally:
            program.data_dir.chmod(0o755)
    assert (done.returncode, done.stderr) == (1, "")
    assert f"\ndata: {program.data_dir}: DATA_DIR can't be written by this user: " in done.stdout
    assert "\npins: " in done.stdout
    assert "\nwriter file: " in done.stdout


def test_a_journal_that_goes_is_not_made_anew(tmp_path):
    """A check makes no file, also where the journal goes away between the look and the use."""
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        History(str(tmp_path / "journal.db"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lamps", ["", "L1_PIN = L2_PIN = None"])
def test_pins_that_a_power_has(tmp_path, lamps):
    """Pins that a power with another DATA_DIR has, as the service's, are no fault; those of another program are."""
    for consumer, status, words in (
        ("power", 0, "pins: ok, in use by a running power, and so not tried"),
        ("another", 1, "pins: /dev/null: in use: GPIO"),
    ):
        (tmp_path / "gpiod.py").write_text(TAKEN.format(consumer=consumer))
        program = Program(tmp_path / consumer, f'GPIO_CHIP = "/dev/null"\n{lamps}', env={"PYTHONPATH": str(tmp_path)})
        done = program.run("--check")
        assert (done.returncode, done.stderr) == (status, "")
        assert f"\n{words}" in done.stdout
        # A start has to have them.
        assert program.run("--nodaemon").returncode == 1


def influx(server):
    """The settings of a writer to *server*."""
    return {"type": "influxdb", "host": "127.0.0.1", "port": server.port}


def test_a_writer_is_tried_with_a_pulse_that_was_counted(program, tmp_path):
    """Where pulses would not be stored --check fails, though the server, at its limit, accepts an empty request."""
    with Influxd(tmp_path / "influxd", data="max-series-per-database = 1") as server:
        server.query("CREATE DATABASE power")
        text = f"{METERS_OF_TWO}; WRITERS = {{'db': {influx(server)!r}}}"
        set_more(program, text)
        assert "\nwriter db: ok" in program.run("--check").stdout  # nothing was counted yet
        program.data_dir.mkdir()
        with Journal(str(program.data_dir / "journal.db")) as journal:
            keys = [journal.enter(name, 1000).name for name in ("house", "flat")]
            journal.add_cursor("db").close()
            now_ns = time.time_ns()
            journal.append([Row(key, n, now_ns + n, None) for key in keys for n in (1, 2)])
        before = files_of(program)
        done = program.run("--check")
        assert "writer db: answered 400: partial write: max-series-per-database limit exceeded" in done.stdout
        assert done.returncode == 1
        assert files_of(program) == before
    with Influxd(tmp_path / "other") as server:
        server.query("CREATE DATABASE power")
        set_more(program, f"{METERS_OF_TWO}; WRITERS = {{'db': {influx(server)!r}}}")
        assert program.run("--check").returncode == 0
        points = server.points()
        assert sorted(point["time"] for point in points) == [now_ns + 2, now_ns + 2]
        assert program.run("--check").returncode == 0
        assert server.points() == points


def test_a_pulse_whose_time_may_change_is_not_sent(tmp_path):
    """A pulse that waits for the clock, or stands for others that were thinned, is not one to try a writer with."""
    path = str(tmp_path / "journal.db")
    assert delivered_pulses(path, "db") == []
    with Journal(path) as journal:
        key = journal.enter("house", 1000).name
        cursor = journal.add_cursor("db")
        journal.append([Row(key, 1, 10**18, None), Row(key, 2, 10**18 + 10**9, 10**9)])
        journal.append([Row(key, 3, 10**18 + 2 * 10**9, 10**9)], settled=False)
        assert [pulse.number for pulse in delivered_pulses(path, "db")] == [2]
        cursor.advance(cursor.read(1), "")
        cursor.commit()
        assert [(pulse.number, pulse.watt_hours) for pulse in delivered_pulses(path, "db")] == [(1, 1.0)]
        assert [pulse.number for pulse in delivered_pulses(path, "another")] == [2]
        journal.settle(0)
        while journal.thin(2 * 10**18):
            pass
        assert delivered_pulses(path, "another") == []
        cursor.close()
    (tmp_path / "journal.db").write_bytes(b"no database" * 1000)
    assert delivered_pulses(path, "db") == []
