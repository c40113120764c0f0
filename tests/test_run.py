"""One run of the program: what it tells systemd, and settings that are read again while it counts."""

import contextlib
import csv
import dataclasses
import os
import signal
import socket
import sqlite3
import threading

import pytest
from hand_board import HandBoard
from program import PATIENCE_S, Program, wait_until
from test_keeper import hung_disk

from powermeter import journal, keeper, monitor, process, run, salvage, settings, status
from powermeter.errors import BoardError, JournalError, PowerError
from powermeter.lamps import Condition
from powermeter.meter import NS_PER_S, Edge

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
        ("PIN_NUMBERING = 'BCM'", "PIN_NUMBERING: was BOARD, is BCM: a change of it needs a restart"),
    ],
)
def test_a_reload_of_wrong_settings_changes_nothing(tmp_path, text, reason):
    """SIGHUP with wrong settings, or with what needs a restart: the log says why, and the old ones stay in force."""
    with Program(tmp_path, "COMMIT_INTERVAL = 0.1") as program:
        pid = program.start("--simulate", "20000")
        program.set(text)
        os.kill(pid, signal.SIGHUP)
        wait_until(lambda: logged(program, "reload: the settings from before stay in force"))
        assert logged(program, reason)
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


def test_a_reload_does_not_wait_for_a_hung_server_to_count_and_to_answer(tmp_path):
    """While a writer hangs in a request, a reload waits for it; counting and --status do not, and a stop ends it."""
    with hung_writer(tmp_path, timeout=600) as (program, pid, _, _):
        program.set("COMMIT_INTERVAL = 0.2")
        os.kill(pid, signal.SIGHUP)
        seen = program.status()["meters"]["house"]["pulses"]
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= seen + 5)
        assert list(program.status()["writers"]) == ["influxdb"]
        wait_until(lambda: logged(program, "reload: waits for influxdb to end what it is at, and so do the other"))
        assert program.run("--kill").returncode == 0


def test_a_reload_that_is_asked_for_during_another(tmp_path):
    """SIGHUP again, while the first waits for a writer that hangs: the settings as they are then take effect."""
    with hung_writer(tmp_path) as (program, pid, _, connection):
        program.set('WRITERS = {"first": {"type": "file", "path": "first.csv"}}')
        os.kill(pid, signal.SIGHUP)
        seen = program.status()["meters"]["house"]["pulses"]
        program.set('WRITERS = {"second": {"type": "file", "path": "second.csv"}}')
        os.kill(pid, signal.SIGHUP)
        # As long as a writer is at it the next monitor does not begin.
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= seen + 3)
        assert list(program.status()["writers"]) == ["influxdb"]
        connection.close()
        wait_until(lambda: list(program.status()["writers"]) == ["second"])


# --- Read again, over a board by hand


class Rig:
    """A :class:`run._Counting` whose boards are made by hand; a context manager."""

    def __init__(self, directory, monkeypatch):
        self.path = directory / "settings.py"
        self.data_dir = directory / "data"
        self.boards = []
        self.refused = False
        journal.prepare_dir(str(self.data_dir))
        monkeypatch.setattr(run, "open_board", self.open_board)
        self.losses = threading.Semaphore(0)
        self.counting = run._Counting(
            self.settings(), None, on_crash=lambda: pytest.fail("it crashed"), on_lost=self.losses.release
        )

    def settings(self, meters="'house': {'pin': 18, 'impulses_per_kwh': 1000}"):
        self.path.write_text(
            f"DATA_DIR = {str(self.data_dir)!r}\nCOMMIT_INTERVAL = 0.1\nCLOCK_WAIT = 0\nMETERS = {{{meters}}}\n"
        )
        self.path.chmod(0o600)
        return settings.read(str(self.path))

    def open_board(self, _settings):
        if self.refused:
            self.refused = False
            raise BoardError("no such pins")
        self.boards.append(HandBoard())
        return self.boards[-1]

    def change(self, new):
        self.counting.monitor.end_deliveries()
        wait_until(lambda: not self.counting.monitor.delivering)
        self.counting.change(new)

    def pulses(self, name="house"):
        return self.counting.monitor.status()["meters"][name]["pulses"]

    def keeps(self, count):
        """Whether the first meter's pulse *count* is in the journal."""
        monitor = self.counting.monitor
        return monitor._reader.last(monitor._recorder.meters[0].meter.name) == count

    def __enter__(self):
        self.counting.__enter__()
        return self

    def __exit__(self, *error):
        self.counting.__exit__(*error)


@pytest.fixture
def rig(tmp_path, monkeypatch):
    with Rig(tmp_path, monkeypatch) as one:
        yield one


def test_where_the_pins_stay_the_board_does(rig):
    """Another constant is in force from the next pulse on: edges in between are counted, and the interval is known."""
    board = rig.boards[0]
    board.flash(3)
    wait_until(lambda: rig.pulses() == 3)
    before = rig.counting.monitor.status()["meters"]["house"]
    new = rig.settings("'house': {'pin': 18, 'impulses_per_kwh': 2000}")
    rig.counting.monitor.end_deliveries()
    wait_until(lambda: not rig.counting.monitor.delivering)
    monitor = rig.counting.monitor
    board.flash()  # the old one takes it, or leaves it on the board
    rig.counting.change(new)
    assert rig.counting.monitor is not monitor
    board.flash()
    wait_until(lambda: rig.pulses() == 5)
    assert rig.boards == [board]
    assert board.watched
    now = rig.counting.monitor.status()["meters"]["house"]
    assert before["register_kwh"] == 0.003
    assert now["register_kwh"] in (pytest.approx(0.004), pytest.approx(0.0045))
    wait_until(lambda: rig.keeps(5))
    rows = rig.counting.monitor._reader._connection.execute("SELECT interval_ns FROM pulses ORDER BY count").fetchall()
    assert rows == [(None,), *[(NS_PER_S,)] * 4]


def test_other_pins_are_another_board(rig):
    """Where a pin changes the board is made anew; the register goes on, and the next pulse has no predecessor."""
    rig.boards[0].flash(3)
    wait_until(lambda: rig.pulses() == 3)
    rig.change(rig.settings("'house': {'pin': 22, 'impulses_per_kwh': 1000}"))
    assert rig.boards[0].closed
    rig.boards[1].put(Edge(0, rig.boards[0]._start_ns + 10 * NS_PER_S))
    wait_until(lambda: rig.pulses() == 4)
    assert rig.counting.monitor.status()["meters"]["house"]["register_kwh"] == 0.004
    assert rig.counting.monitor._recorder.meters[0].meter.interval_ns is None


def test_other_pins_while_the_disk_fails(rig, monkeypatch):
    """What the last commit could not write is handed over: the register goes on, and nothing is lost."""
    deliver(rig, 5)

    def full(*_args, **_options):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(journal.Journal, "append", full)
        rig.boards[0].flash(3)
        wait_until(lambda: rig.pulses() == 8)
        assert rig.counting.change(rig.settings("'house': {'pin': 22, 'impulses_per_kwh': 1000}"))
    assert rig.boards[0].closed
    wait_until(lambda: rig.keeps(8))
    assert not rig.counting.crashed
    with contextlib.closing(sqlite3.connect(rig.data_dir / "journal.db")) as connection:
        assert connection.execute("SELECT count FROM pulses").fetchall() == [(n,) for n in range(1, 9)]


def test_the_uptime_is_the_program_s(rig):
    """Settings that are read again don't begin it anew."""
    wait_until(lambda: rig.counting.monitor.status()["uptime_s"] >= 0.3)
    before = rig.counting.monitor.status()["uptime_s"]
    rig.change(rig.counting.settings)
    assert rig.counting.monitor.status()["uptime_s"] >= before


def test_a_name_that_moves_is_another_meter(rig):
    """Two meters that change their places on the same pins keep their registers, and no interval spans the change."""
    two = "'house': {'pin': 18, 'impulses_per_kwh': 1000}, 'heat': {'pin': 22, 'impulses_per_kwh': 1000}"
    rig.change(rig.settings(two))
    board = rig.boards[-1]
    board.flash(2, 0)
    board.flash(5, 1)
    wait_until(lambda: (rig.pulses("house"), rig.pulses("heat")) == (2, 5))
    moved = "'heat': {'pin': 18, 'impulses_per_kwh': 1000}, 'house': {'pin': 22, 'impulses_per_kwh': 1000}"
    rig.change(rig.settings(moved))
    assert rig.boards[-1] is board
    board.flash(1, 0)
    wait_until(lambda: (rig.pulses("heat"), rig.pulses("house")) == (6, 2))
    assert [watched.meter.interval_ns for watched in rig.counting.monitor._recorder.meters] == [None, None]


def test_pins_that_can_not_be_had(rig, caplog):
    """Where the new pins can't be had the old ones are taken again, and the log says why."""
    rig.refused = True
    rig.change(rig.settings("'house': {'pin': 22, 'impulses_per_kwh': 1000}"))
    assert rig.counting.settings.meters[0].pin == 18
    assert "reload: no such pins: the settings from before stay in force" in caplog.messages
    rig.refused = True
    assert not rig.counting.change(rig.settings("'house': {'pin': 22, 'impulses_per_kwh': 1000}"))
    rig.boards[-1].flash()
    wait_until(lambda: rig.pulses() == 1)


def test_a_length_that_the_board_can_not_tell(rig):
    """min_flash_ms is refused where the board that stays does not see the ends of flashes."""
    new = rig.settings("'house': {'pin': 18, 'impulses_per_kwh': 1000, 'min_flash_ms': 2}")
    with pytest.raises(PowerError, match="min_flash_ms of house"):
        rig.counting.acceptable(new)


# --- A journal that has to be opened anew


def damage(path):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(b"\xa5" * path.stat().st_size)


def lines(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def deliver(rig, pulses):
    """Have the file get *pulses*, at once."""
    rig.boards[-1].flash(pulses)
    wait_until(lambda: rig.keeps(pulses))
    rig.change(rig.counting.settings)
    assert len(lines(rig.data_dir / "power.csv")) == pulses


def test_a_journal_that_can_not_be_opened_anew(rig, monkeypatch, caplog):
    """A damaged one that can't be replaced: counting goes on and it is tried again, until every pulse is in another."""
    monkeypatch.setattr(keeper, "TRY_S", 0.1)
    (board,) = rig.boards
    deliver(rig, 3)
    in_the_way = rig.data_dir / "journal.db.making"
    in_the_way.mkdir()
    damage(rig.data_dir / "journal.db")
    board.flash(2)
    assert rig.losses.acquire(timeout=PATIENCE_S)
    rig.change(rig.counting.settings)

    wait_until(lambda: "a new one can't be made" in rig.counting.monitor.failing)
    board.flash(4)
    # A pulse is counted before it is kept.
    wait_until(lambda: rig.counting.monitor.status()["journal"]["uncommitted"] >= 6)
    now = rig.counting.monitor.status()
    assert now["meters"]["house"]["register_kwh"] == pytest.approx(0.009)
    assert now["meters"]["house"]["kwh_today"] is None
    assert now["writers"] == {}
    assert "not known" in status.text(now)
    wait_until(lambda: rig.counting.monitor._lamps._l2_shown is Condition.FAILING)
    assert len([line for line in caplog.messages if "pulses are kept in memory" in line]) == 1

    in_the_way.rmdir()
    assert rig.losses.acquire(timeout=PATIENCE_S)
    rig.change(rig.counting.settings)
    board.flash()
    wait_until(lambda: rig.keeps(10))
    assert not rig.counting.monitor.failing
    assert rig.boards == [board]
    # What was delivered before and is in no journal any more is in the file once; its energy comes once too.
    rig.change(rig.counting.settings)
    registers = [float(line["register_kwh"]) for line in lines(rig.data_dir / "power.csv")]
    assert registers == sorted(set(registers))
    assert registers[-1] == 0.010
    assert sum(float(line["energy_wh"]) for line in lines(rig.data_dir / "power.csv")) == pytest.approx(10)


def test_a_stop_while_the_journal_is_lost_by_damage(rig):
    """What was counted since is in the journal that is made anew, before it ends."""
    (board,) = rig.boards
    deliver(rig, 5)
    rig.counting.monitor._keeper.suspect("damage")
    assert rig.losses.acquire(timeout=PATIENCE_S)
    board.flash(7)
    wait_until(lambda: rig.pulses() == 12)
    rig.counting.finish()
    rig.counting.__exit__(None, None, None)
    assert not rig.counting.crashed
    with contextlib.closing(sqlite3.connect(rig.data_dir / "journal.db")) as connection:
        assert connection.execute("SELECT count FROM pulses").fetchall() == [(n,) for n in range(1, 13)]
    # Writers have their turn at the next start.
    assert len(lines(rig.data_dir / "power.csv")) == 5


@contextlib.contextmanager
def looked_over(rig, monkeypatch):
    """While the journal of *rig*, with 5 pulses, is looked over and 3 wait: what lets it end, and each beginning."""
    begun, going = threading.Semaphore(0), threading.Event()
    (board,) = rig.boards
    deliver(rig, 5)

    def slow(*args, **options):
        begun.release()
        if options["suspect"]:
            assert going.wait(PATIENCE_S)
        return salvage.open_journal(*args, **options)

    monkeypatch.setattr(monitor, "open_journal", slow)
    rig.counting.monitor._keeper.suspect("damage")
    assert rig.losses.acquire(timeout=PATIENCE_S)
    rig.change(rig.counting.settings)
    assert begun.acquire(timeout=PATIENCE_S)
    board.flash(3)
    wait_until(lambda: rig.pulses() == 8)
    try:
        yield going, begun
    finally:
        going.set()


def test_a_stop_while_a_damaged_journal_is_looked_over(rig, monkeypatch):
    """It is waited for, and what was counted meanwhile is written to it."""
    monkeypatch.setattr(monitor, "KEEPER_STOP_S", PATIENCE_S)
    with looked_over(rig, monkeypatch) as (going, _):
        stop = keeper.Keeper.stop
        monkeypatch.setattr(keeper.Keeper, "stop", lambda self: (stop(self), going.set()))
        rig.counting.finish()
        rig.counting.__exit__(None, None, None)
    assert not rig.counting.crashed
    with contextlib.closing(sqlite3.connect(rig.data_dir / "journal.db")) as connection:
        assert connection.execute("SELECT count FROM pulses").fetchall() == [(n,) for n in range(1, 9)]


def test_a_stop_while_a_damaged_journal_is_looked_over_for_long(rig, monkeypatch, caplog):
    """The stop does not wait for ever, nobody else looks it over, and what is lost is said."""
    monkeypatch.setattr(monitor, "KEEPER_STOP_S", 1.0)
    with looked_over(rig, monkeypatch) as (going, begun):
        left = rig.counting.monitor
        rig.counting.finish()
        rig.counting.__exit__(None, None, None)
        assert left._keeping.is_alive()
        assert not begun.acquire(blocking=False)
        assert rig.counting.crashed
        assert "journal: 3 pulses could not be written and are lost" in caplog.text
        going.set()
        left._keeping.join(PATIENCE_S)
        left._journal.close()
    with contextlib.closing(sqlite3.connect(rig.data_dir / "journal.db")) as connection:
        assert connection.execute("SELECT count FROM pulses").fetchall() == [(n,) for n in range(1, 6)]


def test_a_stop_in_the_moment_in_which_damage_was_met(rig, monkeypatch):
    """Also where the keeper has not looked at it yet."""
    monkeypatch.setattr(monitor, "KEEPER_STOP_S", PATIENCE_S)
    looking, going = threading.Event(), threading.Event()
    stop = keeper.Keeper.stop

    def slow(_journal):
        looking.set()
        assert going.wait(PATIENCE_S)
        return True

    deliver(rig, 5)
    monkeypatch.setattr(journal.Journal, "can_be_read", slow)
    monkeypatch.setattr(keeper.Keeper, "stop", lambda self: (stop(self), going.set()))
    rig.counting.monitor._keeper.suspect("damage")
    assert looking.wait(PATIENCE_S)
    rig.boards[0].flash(3)
    wait_until(lambda: rig.pulses() == 8)
    rig.counting.finish()
    rig.counting.__exit__(None, None, None)
    assert not rig.counting.crashed
    with contextlib.closing(sqlite3.connect(rig.data_dir / "journal.db")) as connection:
        assert connection.execute("SELECT count FROM pulses").fetchall() == [(n,) for n in range(1, 9)]


@pytest.mark.parametrize("pulses", [0, 3])
def test_a_stop_opens_a_journal_for_so_long_and_for_what_waits_alone(rig, monkeypatch, caplog, pulses):
    """It ends in time where the journal, lost, can't be opened for a dead disk; where nothing waits nobody opens it."""
    deliver(rig, 5)
    rig.counting.monitor._keeper.suspect("damage")
    assert rig.losses.acquire(timeout=PATIENCE_S)
    rig.boards[0].flash(pulses)
    wait_until(lambda: rig.pulses() == 5 + pulses)
    begun, going = threading.Semaphore(0), threading.Event()

    def dead(*_args, **_options):
        begun.release()
        assert going.wait(PATIENCE_S)
        raise JournalError("the disk is gone")

    monkeypatch.setattr(monitor, "open_journal", dead)
    rig.counting.finish()
    rig.counting.__exit__(None, None, None)
    going.set()
    assert begun.acquire(blocking=False) == rig.counting.crashed == bool(pulses)
    assert ("journal: 3 pulses could not be written and are lost" in caplog.text) == bool(pulses)


def test_no_reload_while_a_damaged_journal_is_looked_over(rig, monkeypatch):
    """Another monitor would write to the file that is being set aside."""
    with looked_over(rig, monkeypatch) as (going, _):
        with pytest.raises(PowerError, match="it is damaged, and looked over: mend that first"):
            rig.counting.acceptable(rig.counting.settings)
        going.set()
        assert rig.losses.acquire(timeout=PATIENCE_S)
        rig.change(rig.counting.settings)
        wait_until(lambda: rig.keeps(8))
        with contextlib.closing(sqlite3.connect(rig.data_dir / "journal.db")) as connection:
            assert connection.execute("SELECT count FROM pulses").fetchall() == [(n,) for n in range(1, 9)]


def test_a_journal_that_is_lost_while_a_reload_waits(tmp_path):
    """The wait for a writer that hangs has an end then: nothing is kept meanwhile."""
    with hung_writer(tmp_path, timeout=600) as (program, pid, writers, _):
        program.set(f"COMMIT_INTERVAL = 0.2\n{writers}")
        os.kill(pid, signal.SIGHUP)
        (program.data_dir / "simulated" / "journal.db").unlink()
        wait_until(lambda: logged(program, "it is opened anew"))
        wait_until(lambda: logged(program, "is in force"))
        wait_until(lambda: program.status()["journal"]["uncommitted"] <= 5)
        assert program.run("--kill").returncode == 0


@pytest.fixture
def control(tmp_path):
    """What hears signals; all that it sets in this process is given back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    with process.Control(str(tmp_path / "pid"), hangup_stops=False, detached=True) as one:
        yield one
    signal.set_wakeup_fd(-1)
    for number, heard in before.items():
        signal.signal(number, heard)
    one._wake.close()
    one._waker.close()


def test_a_hang_up_in_the_moment_in_which_the_journal_is_lost(rig, control):
    """The journal is opened anew first, and then the settings are read again."""
    (board,) = rig.boards
    deliver(rig, 2)
    (rig.data_dir / "journal.db").unlink()
    board.flash()
    assert rig.losses.acquire(timeout=PATIENCE_S)
    control.call()
    os.kill(os.getpid(), signal.SIGHUP)
    new = rig.settings("'house': {'pin': 18, 'impulses_per_kwh': 500}")
    while control.serve(rig.counting.answer, 0.0, lambda: control.reload):
        run._heed(rig.counting, control, lambda: new)
    assert rig.counting.settings is new
    board.flash()
    wait_until(lambda: rig.keeps(4))
    assert rig.counting.monitor.status()["meters"]["house"]["register_kwh"] == pytest.approx(0.005)


def test_a_commit_that_takes_longer_than_is_waited_for(rig, monkeypatch):
    """What the keeper before writes after all, and what it has not written yet, is written once."""
    monkeypatch.setattr(monitor, "KEEPER_STOP_S", 0.2)
    (board,) = rig.boards
    left, before = rig.counting.monitor, rig.counting.monitor._keeper
    with hung_disk(rig.data_dir / "journal.db"):
        board.flash(3)
        board.flash(2)
        wait_until(lambda: rig.pulses() == 5)
        changing = threading.Thread(target=rig.counting.change, args=(rig.counting.settings,))
        changing.start()
        wait_until(lambda: before.lost)
    changing.join(PATIENCE_S)
    left._keeping.join(PATIENCE_S)
    left._journal.close()
    board.flash()
    wait_until(lambda: rig.keeps(6))
    assert not rig.counting.monitor.failing
    with contextlib.closing(sqlite3.connect(rig.data_dir / "journal.db")) as connection:
        assert connection.execute("SELECT count FROM pulses").fetchall() == [(n,) for n in range(1, 7)]


def test_a_stop_while_the_journal_has_to_be_opened_anew(tmp_path):
    """What was counted meanwhile is written before it ends."""
    with hung_writer(tmp_path) as (program, _, _, _):
        path = program.data_dir / "simulated" / "journal.db"
        path.unlink()
        wait_until(lambda: logged(program, "it is opened anew"))
        seen = program.status()["meters"]["house"]["pulses"]
        wait_until(lambda: program.status()["meters"]["house"]["pulses"] >= seen + 3)
        assert program.run("--kill").returncode == 0
        assert not logged(program, "are lost")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (kept,) = connection.execute("SELECT count(*) FROM pulses").fetchone()
    assert kept >= seen + 3


def test_a_clock_that_was_believed_stays_so(rig, monkeypatch):
    """Settings that are read again don't have it waited for anew."""
    assert rig.counting.monitor.settled
    monkeypatch.setattr("powermeter.clock.Clock.right", False)
    for pin in (18, 22):
        new = rig.settings(f"'house': {{'pin': {pin}, 'impulses_per_kwh': 1000}}")
        # Longer than any machine is up.
        rig.change(dataclasses.replace(new, clock_wait_s=1e12))
        assert rig.counting.monitor.settled


@pytest.mark.parametrize("known", [2, 5, 6])
def test_what_a_writer_has_is_known_whatever_the_journal_knows(rig, known):
    """After damage a writer goes on behind what it has: in what was saved of the journal it may stand elsewhere."""
    deliver(rig, 5)
    with contextlib.closing(sqlite3.connect(rig.data_dir / "journal.db")) as connection, connection:
        connection.execute("UPDATE cursors SET count = ?", (known,))
        connection.execute("DELETE FROM pulses WHERE count IN (3, 4)")
    rig.change(rig.counting.settings)
    rig.boards[-1].flash()
    wait_until(lambda: rig.keeps(6))
    rig.change(rig.counting.settings)
    assert [float(line["energy_wh"]) for line in lines(rig.data_dir / "power.csv")] == [1.0] * 6


# --- A start that fails


def test_a_board_that_can_not_be_opened(tmp_path, monkeypatch):
    """Where the board can't be opened the start fails with its error."""
    one = Rig(tmp_path, monkeypatch)
    one.refused = True
    with pytest.raises(BoardError, match="no such pins"), one:
        pytest.fail("it counts without a board")


def test_a_board_that_can_not_be_watched(tmp_path, monkeypatch):
    """Where its pins can be set up but not watched it is closed again, and no lamp was ever lit."""
    one = Rig(tmp_path, monkeypatch)

    def deaf():
        raise BoardError("no edges")

    board = HandBoard()
    board.watch = deaf
    monkeypatch.setattr(run, "open_board", lambda _settings: board)
    with pytest.raises(BoardError, match="no edges"), one:
        pytest.fail("it counts without edges")
    assert board.closed
    assert board.seen == []


def test_a_journal_that_can_not_be_had(tmp_path, monkeypatch):
    """Where the journal can't be opened the board is given back."""
    one = Rig(tmp_path, monkeypatch)
    (one.data_dir / "journal.db").mkdir()
    with pytest.raises(PowerError, match=r"journal\.db"), one:
        pytest.fail("it counts without a journal")
    assert one.boards[0].closed


# --- What systemd is told


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


def test_systemd_gives_time_to_read_a_damaged_journal(tmp_path, monkeypatch):
    """While a start reads what is left of a damaged journal it asks for time, again and again; then it is READY."""
    monkeypatch.setattr(run, "EXTEND_S", 0)
    monkeypatch.setattr(salvage, "NOTED_PAGES", 1)
    one = Rig(tmp_path, monkeypatch)
    with journal.Journal(str(one.data_dir / "journal.db")) as made:
        key = made.meter("house", 1000).name
        made.append([journal.Row(key, number, number * NS_PER_S, NS_PER_S) for number in range(1, 3000)])
    content = (one.data_dir / "journal.db").read_bytes()
    (one.data_dir / "journal.db").write_bytes(bytes(4096) + content[4096:])
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        with one:
            manager.settimeout(0)
            told = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    told.append(manager.recv(4096).decode())
    assert len(told) > 10
    assert all(text.startswith("EXTEND_TIMEOUT_USEC=0\n") for text in told)


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("COMMIT_INTERVAL = 0", 6, "COMMIT_INTERVAL: found 0, allowed: a number from 0.1 to 3,600"),
        ("DATA_DIR = '/dev/null/data'", 1, "/dev/null/data/simulated: DATA_DIR can't be made"),
    ],
)
def test_systemd_is_told_why_it_failed(tmp_path, text, status, reason):
    """Under systemd wrong settings end with a status of their own, as no second try mends them; the reason is told."""
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
    assert settings.default_data_dir(as_root=False) == "/var/lib/power"
    monkeypatch.setenv("STATE_DIRECTORY", "relative")
    assert settings.default_data_dir(as_root=True) == "/var/lib/power"


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
