"""One run of the program: what it tells systemd, and settings that are read again while it counts."""

import contextlib
import csv
import os
import signal
import socket
import sqlite3
import time

import pytest
from program import PATIENCE_S, Program, wait_until

from powermeter.settings import reading

# --- Read again, by the command line


def logged(program, words):
    return words in (program.data_dir / "simulated" / "power.log").read_text()


def powers(path):
    return [row["power_w"] for row in csv.DictReader(path.read_text().splitlines())]


def test_a_reload_takes_effect_without_missing_a_flash(tmp_path):
    """SIGHUP: a writer that was added delivers, and no pulse but the first is without its power."""
    with Program(tmp_path, "COMMIT_INTERVAL = 0.1") as program:
        pid = program.start("--simulate", "20000")
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= 5)
        program.set(
            'COMMIT_INTERVAL = 0.2\nWRITERS = {"file": {"type": "file"}, "two": {"type": "file", "path": "b.csv"}}'
        )
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: set(program.status()["writers"]) == {"file", "two"})
        seen = program.status()["meters"]["house"]["pulses"]
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= seen + 5)
        assert program.pid == pid
        pulses = program.status()["meters"]["house"]["pulses"]
        assert program.run("--kill").returncode == 0
        first, *others = powers(program.data_dir / "simulated" / "power.csv")
        assert first == ""
        assert len(others) >= pulses - 1
        assert [float(watts) for watts in others] == pytest.approx([20_000] * len(others), rel=1e-6)
        assert len(powers(program.data_dir / "simulated" / "b.csv")) >= 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("COMMIT_INTERVAL = 'soon'", "COMMIT_INTERVAL: found 'soon'"),
        ("COMMIT_INTERVAL = (", "not Python"),
        ("DATA_DIR = '/nowhere/else'", "DATA_DIR: was "),
        ("LOG_FILE = 'other.log'", "LOG_FILE: was None, is "),
        ("PIN_NUMBERING = 'BCM'", "PIN_NUMBERING: was BOARD, is BCM: restart to change it"),
    ],
)
def test_a_reload_of_wrong_settings_changes_nothing(tmp_path, text, reason):
    """SIGHUP with wrong settings, or with what needs a restart: the log says why, and the old ones stay in force."""
    with Program(tmp_path, "COMMIT_INTERVAL = 0.1") as program:
        pid = program.start("--simulate", "20000")
        program.set(text)
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: logged(program, "reload: the settings from before stay in force: "))
        *_, last = (program.data_dir / "simulated" / "power.log").read_text().splitlines()
        assert "reload: the settings from before stay in force: " in last
        assert reason in last
        seen = program.status()["meters"]["house"]["pulses"]
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= seen + 3)
        assert list(program.status()["writers"]) == ["file"]


@contextlib.contextmanager
def hung_writer(directory, **options):
    """A program, its pid, its writers as a setting, and the connection on which the one writer waits for an answer."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        hung.settimeout(PATIENCE_S)
        writer = {"type": "influxdb", "host": "127.0.0.1", "port": hung.getsockname()[1], **options}
        writers = f"WRITERS = {{'influxdb': {writer!r}}}"
        with Program(directory, f"COMMIT_INTERVAL = 0.1\n{writers}") as program:
            pid = program.start("--simulate", "20000")
            with hung.accept()[0] as connection:
                yield program, pid, writers, connection


def test_a_reload_beside_a_hung_writer(tmp_path):
    """While one writer hangs in a request, all else takes effect at once: another writer, the file's, a constant."""
    with hung_writer(tmp_path, timeout=600) as (program, pid, writers, _):
        more = writers[:-1] + ", 'file': {'type': 'file', 'path': 'a.csv'}}"
        program.set(f'COMMIT_INTERVAL = 0.1\n{more}\nMETERS = {{"house": {{"pin": 11, "impulses_per_kwh": 2000}}}}')
        begun_s = time.monotonic()
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: set(program.status()["writers"]) == {"influxdb", "file"})
        assert time.monotonic() - begun_s < PATIENCE_S / 4
        wait_until((program.data_dir / "simulated" / "a.csv").exists)
        program.set(f"COMMIT_INTERVAL = 0.1\n{more.replace('a.csv', 'b.csv')}")
        os.kill(pid, signal.SIGHUP)
        wait_until((program.data_dir / "simulated" / "b.csv").exists)
        wait_until(lambda: program.status()["writers"]["influxdb"]["waiting"] > 5)
        assert program.run("--kill").returncode == 0


def test_an_entry_that_changed_waits_for_its_own_request(tmp_path):
    """A writer whose entry changed finishes its request first; one that is removed meanwhile is no longer shown."""
    with hung_writer(tmp_path, timeout=600) as (program, pid, writers, connection):
        program.set(f"COMMIT_INTERVAL = 0.1\n{writers.replace('600', '0.1')}")
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: logged(program, "is in force"))
        seen = program.status()["meters"]["house"]["pulses"]
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= seen + 5)
        assert program.status()["writers"]["influxdb"]["state"] == "ok"
        connection.close()
        wait_until(lambda: program.status()["writers"]["influxdb"]["state"] == "failing")
        program.set('COMMIT_INTERVAL = 0.1\nWRITERS = {"second": {"type": "file", "path": "second.csv"}}')
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: list(program.status()["writers"]) == ["second"])


def test_a_stop_while_the_journal_has_to_be_opened_anew(tmp_path):
    """What was counted meanwhile is written before it ends."""
    with hung_writer(tmp_path) as (program, _, _, _):
        path = program.data_dir / "simulated" / "journal.db"
        path.unlink()
        wait_until(lambda: logged(program, "opened it again"))
        seen = program.status()["meters"]["house"]["pulses"]
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= seen + 3)
        assert program.run("--kill").returncode == 0
        assert not logged(program, "are lost")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (kept,) = connection.execute("SELECT count(*) FROM pulses").fetchone()
    assert kept >= seen + 3


# --- What systemd is notified of


def test_systemd_is_told(tmp_path):
    """READY once it counts, WATCHDOG at least twice in the time asked for, RELOADING and READY, STOPPING."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(PATIENCE_S)
        env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
        with Program(tmp_path / "power", "COMMIT_INTERVAL = 0.1", env=env) as program:
            popen = program.foreground("--simulate", "100")
            told = [manager.recv(4096).decode()]
            while told.count("WATCHDOG=1") < 5:
                told.append(manager.recv(4096).decode())
            assert "READY=1" in told[:2]
            popen.send_signal(signal.SIGHUP)
            after = []
            while "READY=1" not in after:
                after.append(manager.recv(4096).decode())
            (reloading,) = [text for text in after if text.startswith("RELOADING=1\nMONOTONIC_USEC=")]
            assert after.index(reloading) < after.index("READY=1")
            popen.send_signal(signal.SIGTERM)
            last = ""
            while last != "STOPPING=1":
                last = manager.recv(4096).decode()
            assert popen.wait(PATIENCE_S) == 0


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("COMMIT_INTERVAL = 0", 6, "COMMIT_INTERVAL: found 0, allowed: a number from 0.1 to 3,600"),
        ("DATA_DIR = '/dev/null/data'", 1, "/dev/null/data/simulated: DATA_DIR can't be made"),
    ],
)
def test_systemd_is_told_why_it_failed(tmp_path, text, status, reason):
    """Under systemd wrong settings end it with their own status, as another try can't help; systemd gets the reason."""
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(PATIENCE_S)
        with Program(tmp_path / "power", text, env={"NOTIFY_SOCKET": address}) as program:
            assert program.run("--nodaemon", "--simulate").returncode == status
            told = manager.recv(4096).decode()
            assert told.startswith("STATUS=")
            assert reason in told
        with Program(tmp_path / "power", text) as program:
            assert program.run("--nodaemon", "--simulate").returncode == 1


def test_a_manager_that_is_gone(tmp_path):
    """A notify socket that nobody reads, or that is not there, changes nothing."""
    env = {"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "50000"}
    with Program(tmp_path / "power", env=env) as program:
        popen = program.foreground("--simulate", "20000")
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= 3)
        popen.send_signal(signal.SIGTERM)
        assert popen.wait(PATIENCE_S) == 0


def test_where_a_service_keeps_its_state(monkeypatch):
    """$STATE_DIRECTORY, as systemd sets it, is the default of DATA_DIR; the first of several."""
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/power:/var/lib/other")
    assert reading.default_data_dir(as_root=False) == "/var/lib/power"
    monkeypatch.setenv("STATE_DIRECTORY", "relative")
    assert reading.default_data_dir(as_root=True) == "/var/lib/power"


# --- Syslog


def test_a_log_to_syslog(tmp_path):
    """LOG_FILE that is a socket: each line is a message of the facility "daemon", with the program's name and pid."""
    path = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(str(path))
        syslog.settimeout(PATIENCE_S)
        with Program(tmp_path, f"LOG_FILE = {str(path)!r}") as program:
            pid = program.start("--settings", str(program.settings), "--simulate", "1000")
            said = syslog.recv(4096)
            daemon, info = 3, 6
            assert said.startswith(f"<{daemon * 8 + info}>power[{pid}]: INFO counting: house".encode())
            # A syslog that has gone takes nothing with it.
            syslog.close()
            path.unlink()
            assert program.run("--kill").returncode == 0
