"""The whole program by its command line: pins, flashes and bounce in; file, journal, InfluxDB and Librato out."""

import math
import os
import re
import signal
import sys
import threading
import time

import pytest
from pins import Pins
from program import Program, wait_until
from records import csv_rows, expected, journal_rows

from powermeter.boards.rpi_gpio import STALL_S, WITNESS_S
from powermeter.meter import NS_PER_S
from powermeter.run import PLAIN_S

HOUSE, HEATING = 18, 22
FLASHES_EACH = 100
SPACING_S = 0.25
BOUNCES = 3

#: A hold-off of 70 ms for both: far from the spacing of the flashes and from that of the bounce, so that a busy machine
#: may call back 180 ms late.
SETTINGS = """
GPIO_LIBRARY = "RPi.GPIO"
METERS = {{
    "house": {{"pin": 18, "impulses_per_kwh": 1000, "max_watts": 36000}},
    "heating": {{"pin": 22, "impulses_per_kwh": 800, "max_watts": 45000}},
}}
COMMIT_INTERVAL = 0.5
WRITERS = {{
    "file": {{"type": "file", "path": "out/power.csv"}},
    "librato": {{"type": "librato", "user": {user!r}, "token": {token!r}, "hostname": {hostname!r},
                 "protocol": "http", "source": "here", "period": 2}},
    "influxdb": {{"type": "influxdb", "host": "127.0.0.1", "port": {port}, "database": {database!r},
                  "update_period": 1, "tags": {{"home": "yes"}}}},
}}
"""


@pytest.fixture
def pins(tmp_path):
    made = Pins(tmp_path)
    yield made
    made.close()


@pytest.fixture
def program(tmp_path, pins, influxd, influx_db, librato_server):
    settings = SETTINGS.format(
        user=librato_server.user,
        token=librato_server.token,
        hostname=librato_server.hostname,
        port=influxd.port,
        database=influx_db,
    )
    with Program(tmp_path, settings, env=pins.env) as made:
        yield made


def flash_both(pins):
    """FLASHES_EACH flashes of each meter, bounce behind every one; returns the wall time of each in ns, by pin."""
    sent = {HOUSE: [], HEATING: []}
    start_s = time.monotonic()
    never = threading.Event()
    for turn in range(FLASHES_EACH):
        for part, pin in enumerate((HOUSE, HEATING)):
            never.wait(start_s + (turn + part / 2) * SPACING_S - time.monotonic())  # the rhythm, not a result
            sent[pin].append(time.time_ns())
            pins.flash(pin, BOUNCES)
    return sent


def assert_all_have(program, influxd, influx_db, librato_server, sent):
    """The journal has each flash once, at its time; the file, InfluxDB and Librato have what the journal has."""
    rows = journal_rows(program.data_dir)
    for meter, pin in (("house", HOUSE), ("heating", HEATING)):
        of_meter = [row for row in rows if row[0] == meter]
        assert [row[1] for row in of_meter] == list(range(1, FLASHES_EACH + 1))
        assert all(0 <= row[2] - at_ns < 2 * NS_PER_S for row, at_ns in zip(of_meter, sent[pin], strict=True))
    wanted = expected(rows)

    assert sorted(csv_rows(program.data_dir / "out" / "power.csv")) == sorted(wanted, key=lambda row: row[:2])

    points = influxd.points(database=influx_db)
    assert {point["home"] for point in points} == {"yes"}
    found = [(p["meter"], p["time"], p.get("power"), p["energy"], p["register"]) for p in points]
    assert sorted(found, key=lambda row: row[:2]) == sorted(wanted, key=lambda row: row[:2])

    periods = {}
    for meter, time_ns, watts, _, _ in wanted:
        if watts is not None:
            periods.setdefault(("power", f"here.{meter}", time_ns // (2 * NS_PER_S) * 2), []).append(watts)
    assert librato_server.gauges.keys() == periods.keys()
    for key, watts in periods.items():
        gauge = librato_server.gauges[key]
        assert (gauge["count"], gauge["min"], gauge["max"]) == (len(watts), min(watts), max(watts))
        assert math.isclose(gauge["sum"], math.fsum(watts), rel_tol=1e-12)


def delivered(program):
    """Whether every pulse is counted and the services have each; the file gets the last of them at the stop."""
    status = program.status()
    counted = [meter["pulses"] for meter in status["meters"].values()] == [FLASHES_EACH, FLASHES_EACH]
    return counted and all(status["writers"][name]["waiting"] == 0 for name in ("librato", "influxdb"))


def assert_lamps_shown(pins):
    """Both lamps were set up and lit, and dark before the pins were given back."""
    lines = pins.lines()
    assert [line for line in lines if "setup" in line] == ["setup 18 IN", "setup 22 IN", "setup 12 OUT", "setup 16 OUT"]
    l1 = [line for line in lines if line.startswith("output 12")]
    l2 = [line for line in lines if line.startswith("output 16")]
    assert l1.count("output 12 1") >= FLASHES_EACH  # of 2 x FLASHES_EACH pulses, those that came apart
    assert "output 16 1" in l2
    assert (l1[-1], l2[-1]) == ("output 12 0", "output 16 0")
    assert lines[-1] == "cleanup 18 22 12 16"


def test_foreground(program, pins, influxd, influx_db, librato_server):
    """In the foreground: 200 flashes of two meters, bounce between, are in file, journal, InfluxDB and Librato."""
    begun_s = time.monotonic()
    popen = program.foreground()
    assert program.run("--check").returncode == 0
    sent = flash_both(pins)
    wait_until(lambda: delivered(program))
    status = program.status()
    assert [meter["rejected"] for meter in status["meters"].values()] == [BOUNCES * FLASHES_EACH] * 2
    assert [meter["pulses_today"] for meter in status["meters"].values()] == [FLASHES_EACH, FLASHES_EACH]
    assert {writer["state"] for writer in status["writers"].values()} == {"ok"}
    popen.send_signal(signal.SIGINT)
    assert popen.wait(15) == 0
    assert_all_have(program, influxd, influx_db, librato_server, sent)
    assert_lamps_shown(pins)
    # On a busy machine its start takes longer than a flash at max_watts: then the silence is a bound already.
    first = r"house (waiting for two flashes|at most [\d,]+ W until the next flash), today 0\.000 kWh \| heating "
    assert re.match(first, program.out.read_text())
    assert program.out.read_text().count("\n") <= 1 + (time.monotonic() - begun_s) / PLAIN_S
    assert program.run("--status").returncode == 3


def test_daemon(program, pins, influxd, influx_db, librato_server):
    """The same as a daemon, stopped and started in between: the register goes on, the first pulse has no power."""
    assert program.run().returncode == 0
    assert program.run("--status").returncode == 0
    sent = flash_both(pins)
    wait_until(lambda: delivered(program))
    assert program.run("--kill").returncode == 0
    assert_all_have(program, influxd, influx_db, librato_server, sent)
    assert_lamps_shown(pins)

    assert program.run("--restart").returncode == 0
    pins.flash(HOUSE)
    wait_until(lambda: program.status()["meters"]["house"]["pulses"] == FLASHES_EACH + 1)
    assert program.run("--kill").returncode == 0
    meter, _, watts, energy_wh, register_kwh = csv_rows(program.data_dir / "out" / "power.csv")[-1]
    assert (meter, watts, energy_wh, register_kwh) == ("house", None, 1.0, (FLASHES_EACH + 1) / 1000)
    assert program.run("--status").returncode == 3


def test_without_a_network(tmp_path, pins, influxd, influx_db):
    """Flashes while InfluxDB is away are kept over a restart, and arrive once it is there."""
    settings = f"""
GPIO_LIBRARY = "RPi.GPIO"
METERS = {{{{"house": {{{{"pin": 18, "impulses_per_kwh": 1000, "max_watts": 360000}}}}}}}}
COMMIT_INTERVAL = 0.2
WRITERS = {{{{"influxdb": {{{{"type": "influxdb", "host": "127.0.0.1", "port": {{port}}, "database": {influx_db!r},
                             "update_period": 0.1}}}}}}}}
"""
    with Program(tmp_path, settings.format(port=1), env=pins.env) as program:
        program.start()
        for turn in range(20):
            pins.flash(HOUSE)
            wait_until(lambda turn=turn: program.status()["meters"]["house"]["pulses"] == turn + 1)
        failing = wait_until(lambda: [w for w in program.status()["writers"].values() if w["state"] == "failing"])
        assert failing[0]["reason"] == "127.0.0.1:1: Connection refused"
        assert program.run("--kill").returncode == 0
        assert "output 16 0" in pins.lines()  # L2 blinked

        program.set(settings.format(port=influxd.port))
        program.start()
        wait_until(lambda: len(influxd.points(database=influx_db)) == 20)
        wait_until(lambda: program.status()["writers"]["influxdb"]["waiting"] == 0)
        wanted = expected(journal_rows(program.data_dir))
        found = [
            (p["meter"], p["time"], p.get("power"), p["energy"], p["register"])
            for p in influxd.points(database=influx_db)
        ]
        assert found == wanted


def test_a_stalled_program_says_what_it_lost(tmp_path, pins):
    """Flashes while the program is stopped come at once when it continues: one counts, the others are listed apart."""
    settings = 'GPIO_LIBRARY = "RPi.GPIO"; METERS = {"house": {"pin": 18, "impulses_per_kwh": 1000}}'
    with Program(tmp_path, settings, env=pins.env) as program:
        popen = program.foreground()
        pins.flash(HOUSE, bounces=2)
        wait_until(lambda: house_of(program)["rejected"] == 2)
        popen.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, popen.pid, os.WSTOPPED)
        for _ in range(20):
            pins.flash(HOUSE)
            threading.Event().wait((WITNESS_S + 2 * STALL_S) / 20)  # the stall's length, not a result
        popen.send_signal(signal.SIGCONT)
        wait_until(lambda: house_of(program)["pulses"] == 2)
        found = wait_until(lambda: (house := house_of(program))["rejected_after_stall"] >= 19 and house)
        assert (found["pulses"], found["rejected"], found["rejected_after_stall"]) == (2, 2, 19)
        assert "; 2 edges rejected; 19 rejected after a stall\n" in program.run("--status").stdout
        popen.send_signal(signal.SIGINT)
        assert popen.wait(15) == 0


def house_of(program):
    return program.status()["meters"]["house"]


def test_the_library_is_missing(tmp_path):
    """Without a library of pins nothing runs that counts nothing: one line says what to install, in both ways."""
    (tmp_path / "RPi").mkdir()
    (tmp_path / "RPi" / "__init__.py").write_text("")
    (tmp_path / "gpiod.py").write_text("raise ImportError")
    words = (
        "gpiod",
        "venv/bin/pip install gpiod",
        "RPi.GPIO",
        "venv/bin/pip install rpi-lgpio",
        "apt install",
        "--simulate",
    )
    with Program(tmp_path, "", python=sys.executable, env={"PYTHONPATH": str(tmp_path)}) as program:
        for way in ([], ["--nodaemon"]):
            done = program.run(*way)
            assert done.returncode == 1
            lines = [line for line in done.stderr.splitlines() if line.startswith("power: ")]
            assert len(lines) == 1
            assert all(word in lines[0] for word in words)
            assert program.run("--status").returncode == 3
