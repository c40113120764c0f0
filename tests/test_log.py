"""The log: where it goes, and what becomes of it while that is missing."""

import logging
import os
import shutil

import pytest
from program import Program, wait_until

from powermeter import log as log_module
from powermeter.log import Log


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    """What fails is tried again after ms."""
    monkeypatch.setattr(log_module, "RETRY_S", 0.02)


@pytest.fixture
def logger():
    logger = logging.getLogger("powermeter.test_log")
    logging.getLogger("powermeter").setLevel(logging.INFO)
    return logger


def texts(path):
    """The lines of a log without their times."""
    return [line.split(" ", 2)[2] for line in path.read_text().splitlines()]


def test_a_directory_that_is_not_there_yet(tmp_path, logger):
    """While it is missing the stand-in gets the log; once it is there, it is used without a restart."""
    path, stand_in = tmp_path / "nas" / "my.log", tmp_path / "power.log"
    states = []
    with Log(str(path), stand_in=str(stand_in)) as log:
        log.on_state = lambda: states.append(log.failing)
        logger.info("one")
        assert log.failing == f"{path}: No such file or directory"
        path.parent.mkdir()
        wait_until(lambda: not log.failing)
        logger.info("two")
    assert texts(stand_in) == [
        f"ERROR log: {path}: No such file or directory: will try again, until then messages go here",
        "INFO one",
    ]
    assert texts(path) == [
        f"INFO log: can be written again; before, it could not: {path}: No such file or directory",
        "INFO two",
    ]
    assert states == [f"{path}: No such file or directory", ""]


def test_a_directory_that_goes_and_comes_back(tmp_path, logger):
    """No line is lost between the two logs, whenever the directory goes."""
    path, stand_in = tmp_path / "nas" / "my.log", tmp_path / "power.log"
    path.parent.mkdir()
    with Log(str(path), stand_in=str(stand_in)) as log:
        logger.info("one")
        shutil.rmtree(path.parent)
        logger.info("two")
        assert log.failing
        path.parent.mkdir()
        wait_until(lambda: not log.failing)
        logger.info("three")
    assert texts(stand_in)[-1] == "INFO two"
    assert texts(path)[-1] == "INFO three"


def test_rotated(tmp_path, logger):
    """A log that was renamed goes on in a new file."""
    path = tmp_path / "my.log"
    with Log(str(path)) as log:
        logger.info("one")
        path.rename(tmp_path / "my.log.1")
        logger.info("two")
        assert log.failing == ""
    assert (texts(tmp_path / "my.log.1"), texts(path)) == (["INFO one"], ["INFO two"])


def test_nowhere(tmp_path, logger):
    """If the stand-in fails too, or is not set, lines are lost, and the program goes on."""
    for stand_in in (str(tmp_path / "nowhere" / "power.log"), ""):
        with Log(str(tmp_path / "nas" / "my.log"), stand_in=stand_in) as log:
            logger.info("one")
            assert log.failing


def test_a_log_that_nobody_reads(tmp_path, logger):
    """A FIFO that nobody reads is no log: it is reported, and not waited for."""
    os.mkfifo(tmp_path / "my.log")
    with Log(str(tmp_path / "my.log"), stand_in="") as log:
        logger.info("one")
        assert "No such device or address" in log.failing


def test_syslog_that_does_not_run_yet(tmp_path, logger, capsys):
    """Nothing is made in the place of a socket that is to come: syslog could not start."""
    with Log("/dev/power-test-log") as log:
        logger.info("one")
        assert log.failing.endswith(": syslog does not run, its socket is missing")
    assert not os.path.lexists("/dev/power-test-log")
    assert "INFO one" in capsys.readouterr().err


def test_any_text(tmp_path, logger):
    """A path with bytes that are no letters does not cost its line."""
    with Log(str(tmp_path / "my.log")):
        logger.info("%s", os.fsdecode(b"/mnt/k\xfcche"))
    assert texts(tmp_path / "my.log") == [r"INFO /mnt/k\udcfcche"]


def test_a_log_is_no_condition_of_counting(tmp_path):
    """With its log's disk missing the program counts all the same; the start, --status and lamp L2's state say so."""
    path = tmp_path / "nas" / "my.log"
    with Program(tmp_path / "power", f"LOG_FILE = {str(path)!r}") as program:
        done = program.run("--simulate", "20000", "--settings", str(program.settings))
        assert (done.returncode, done.stderr.count("\n")) == (0, 1)
        assert f"{path}: the log can't be written: No such file or directory" in done.stderr
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] > 3)
        assert program.status()["log"] == {"failing": f"{path}: No such file or directory"}
        assert f"log: failing: {path}: No such file or directory\n" in program.run("--status").stdout
        stand_in = program.data_dir / "simulated" / "power.log"
        assert "INFO counting: house" in stand_in.read_text()
        assert program.run("--kill").returncode == 0
        assert stand_in.read_text().endswith("INFO stopped\n")


def test_a_daemon_s_own_log_that_can_not_be_written(tmp_path):
    """Nor is the log in DATA_DIR."""
    with Program(tmp_path / "power") as program:
        log = program.data_dir / "simulated" / "power.log"
        log.mkdir(parents=True)
        done = program.run("--simulate", "20000")
        assert (done.returncode, done.stderr.count("\n")) == (0, 1)
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] > 3)
        assert program.status()["log"]["failing"] == f"{log}: Is a directory"
