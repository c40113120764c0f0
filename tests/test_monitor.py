"""The running program put together: what L2 shows, its threads, and how it ends when something in it breaks."""

import contextlib
import dataclasses
import sqlite3
import threading
import time

import pytest
from counting import SOON, Running, hung_disk
from hand_board import HandBoard
from program import PATIENCE_S, wait_until

from powermeter import inputs, monitor
from powermeter.delivery import Delivery
from powermeter.errors import JournalError
from powermeter.journal.journal import Journal
from powermeter.lamps import Condition, Lamp, Lamps
from powermeter.meter import NS_PER_S, Edge
from powermeter.settings import values
from powermeter.writers import writer_type

# --- The lamps


def test_lamps_of_a_program_that_is_well(tmp_path):
    """L2 is lit from the start and never dark before the end; L1 shows a pulse; both are dark in the end."""
    with Running(tmp_path) as running:
        running.board.wait_for(Lamp.L2, True)
        running.board.flash()
        running.board.wait_for(Lamp.L1, True)
        running.board.wait_for(Lamp.L1, False)
        wait_until(lambda: running.lines() == 1)
        assert running.board.seen == [(Lamp.L2, True), (Lamp.L1, True), (Lamp.L1, False)]
    assert running.board.seen[3:] == [(Lamp.L1, False), (Lamp.L2, False)]
    assert not running.monitor.crashed


def test_a_failing_writer_blinks_slowly(tmp_path):
    """L2 blinks slowly while a writer fails, here the file's as its name is a directory's, and is steady afterwards."""
    with Running(tmp_path) as running:
        running.csv.mkdir()
        # The writer gets the pulse when nothing else wakes the recorder any more.
        with hung_disk(running.data_dir / "journal.db"):
            running.board.flash()
            running.board.wait_for(Lamp.L1, True)
            running.board.wait_for(Lamp.L1, False)
        running.wait_for_condition(Condition.FAILING)
        assert running.monitor.status().as_dict()["writers"]["file"]["state"] == "failing"
        running.csv.rmdir()
        running.wait_for_condition(Condition.WELL)
        wait_until(lambda: running.lines() == 1)
    assert not running.monitor.crashed


def test_a_failing_disk_blinks_slowly(tmp_path):
    """L2 blinks slowly while the journal's disk is full, all is counted, and it is steady when all is written."""
    with Running(tmp_path) as running:
        connection = running.monitor._keeper._journal._connection
        connection.execute("PRAGMA max_page_count = 1")
        running.board.flash(1000)
        running.wait_for_condition(Condition.FAILING)
        now = running.monitor.status().as_dict()
        assert now["journal"]["failing"] == "database or disk is full"
        assert now["meters"]["house"]["pulses"] == 1000
        connection.execute(f"PRAGMA max_page_count = {2**30}")
        running.wait_for_condition(Condition.WELL)
        wait_until(lambda: running.lines() == 1000)
    assert not running.monitor.crashed


def test_a_silent_meter_blinks_fast(tmp_path):
    """L2 blinks fast while a meter is silent, also where a writer fails; each ends as it began."""
    with Running(tmp_path, silence_minutes=SOON) as running:
        running.wait_for_condition(Condition.INPUT_FAULT)
        running.csv.mkdir()
        running.board.flash()
        wait_until(lambda: running.monitor.status().as_dict()["writers"]["file"]["state"] == "failing")
        running.wait_for_condition(Condition.INPUT_FAULT)
        # Ahead of the clock, so that a busy machine does not let it be silent again at once.
        running.board.flashed += 100_000
        running.board.flash()
        running.wait_for_condition(Condition.FAILING)
        running.csv.rmdir()
        running.wait_for_condition(Condition.WELL)
    assert not running.monitor.crashed


def test_a_stuck_input_blinks_fast(tmp_path, monkeypatch):
    """L2 blinks fast while an input is stuck, and the status says so; both end with its next edge."""
    monkeypatch.setattr(inputs, "STUCK_NS", NS_PER_S // 10)
    with Running(tmp_path) as running:
        running.board.lit.add(0)
        running.wait_for_condition(Condition.INPUT_FAULT)
        assert house_of(running)["stuck"]
        assert not house_of(running)["silent"]
        # Ahead of the clock, so that a busy machine does not let it be stuck again at once.
        running.board.flashed += 100_000
        running.board.flash()
        running.wait_for_condition(Condition.WELL)
        assert not house_of(running)["stuck"]
    assert not running.monitor.crashed


# --- The status


def house_of(running):
    # Not as_dict(), which rounds.
    return dataclasses.asdict(running.monitor.status().meters["house"])


def test_status_of_the_edges(tmp_path):
    """The status tells what became of every edge: a pulse, bounce, rejected after a stall, or made up for lost ones."""
    ms = NS_PER_S // 1000
    began_ns = time.monotonic_ns() - 100 * NS_PER_S
    edges = [
        Edge(0, began_ns),
        Edge(0, began_ns + ms),
        Edge(0, began_ns + 2 * ms, late=True),
        Edge(0, began_ns + 3 * ms, late=True),
        Edge(0, began_ns + 40 * ms, falling=False),
        Edge(0, began_ns + 10 * NS_PER_S, lost=6),
    ]
    with Running(tmp_path, board=HandBoard(sees_ends=True)) as running:
        assert house_of(running)["flash_ms"] is None
        running.board.put_at_once(edges[:5])
        wait_until(lambda: house_of(running)["flash_ms"] is not None)
        assert house_of(running)["flash_ms"] == pytest.approx(37)
        running.board.put_at_once(edges[5:])
        wait_until(lambda: house_of(running)["pulses"] == 5)
        found = house_of(running)
    assert (found["rejected"], found["rejected_after_stall"], found["counted_without_being_seen"]) == (1, 2, 3)
    assert (found["too_short"], found["flash_ms"]) == (0, None)
    assert not running.monitor.crashed


def test_status_of_power(tmp_path):
    """The status marks the power as a bound when it is one: in a silence longer than the last interval."""
    now_ns = time.monotonic_ns()
    with Running(tmp_path) as running:
        running.board.put(Edge(0, now_ns - 3600 * NS_PER_S))
        running.board.put(Edge(0, now_ns - 1800 * NS_PER_S))
        wait_until(lambda: house_of(running)["pulses"] == 2)
        # At one pulse in half an hour, of which at most a minute of this test is missing: the mean, 2 W.
        bound = house_of(running)
        running.board.put(Edge(0, now_ns))
        wait_until(lambda: house_of(running)["pulses"] == 3)
        exact = house_of(running)
    assert bound["watts_is_bound"]
    assert 1.9 < bound["watts"] < 2
    assert not exact["watts_is_bound"]
    assert exact["watts"] == pytest.approx(2)


def test_power_while_edges_wait_for_l1(tmp_path):
    """An edge that the recorder leaves on the board while L1 is lit is no silence."""
    with Running(tmp_path) as running:
        began_ns = time.monotonic_ns()
        # What is up to now is taken, and then the recorder is kept from taking more.
        running.board.put(Edge(0, began_ns - NS_PER_S))
        running.board.put(Edge(0, began_ns))
        wait_until(lambda: house_of(running)["pulses"] == 2)
        with running.board._at_once:
            running.board._edges.put(Edge(0, began_ns + NS_PER_S))
            time.sleep(1.5)
            waiting = house_of(running)
        wait_until(lambda: house_of(running)["pulses"] == 3)
    assert (waiting["pulses"], waiting["watts"], waiting["watts_is_bound"]) == (2, pytest.approx(3600), False)


def test_power_while_the_led_stays_on(tmp_path):
    """Light that waits to be judged by its length, and never ends, does not hold up the bound: it falls on."""
    ms, now_ns = NS_PER_S // 1000, time.monotonic_ns()
    with Running(tmp_path, board=HandBoard(sees_ends=True), min_flash_ms=2) as running:
        for at_ns in (now_ns - 7200 * NS_PER_S, now_ns - 5400 * NS_PER_S):
            running.board.put(Edge(0, at_ns))
            running.board.put(Edge(0, at_ns + 3 * ms, falling=False))
        lit_ns = now_ns - 3600 * NS_PER_S
        running.board.put(Edge(0, lit_ns))
        # From now on nothing later counts as complete.
        wait_until(lambda: running.monitor._recorder.complete_ns() == lit_ns)
        found = house_of(running)
    # Half an hour from pulse to pulse is 2 W; an hour and a half since, and at most a minute of this test, 0.67 W.
    assert (found["pulses"], found["watts_is_bound"]) == (2, True)
    assert 0.65 < found["watts"] < 0.67


@pytest.mark.parametrize(("sees_ends", "counts"), [(True, (1, 1)), (False, (2, 0))])
def test_a_flash_is_judged_where_its_end_is_seen(tmp_path, sees_ends, counts):
    """min_flash_ms reaches the meter where the board sees ends; where it does not, no flash waits for its end."""
    ms = NS_PER_S // 1000
    began_ns = time.monotonic_ns() - 100 * NS_PER_S
    edges = [(began_ns, 1.9), (began_ns + NS_PER_S, 2.1)]
    with Running(tmp_path, board=HandBoard(sees_ends=sees_ends), min_flash_ms=2) as running:
        for at_ns, length_ms in edges:
            running.board.put(Edge(0, at_ns))
            if sees_ends:
                running.board.put(Edge(0, at_ns + round(length_ms * ms), falling=False))
        wait_until(lambda: house_of(running)["pulses"] == counts[0])
        assert house_of(running)["too_short"] == counts[1]
    assert not running.monitor.crashed


# --- The threads


def test_no_thread_a_pulse(tmp_path):
    """A recorder, a journal and one thread per writer: 1,000 pulses start no others, and none is left at the end."""
    with Running(tmp_path) as running:
        names = ["journal", "recorder", "writer file"]
        assert running.threads() == names
        for _ in range(1000):
            running.board.flash()
            assert running.threads() == names
        wait_until(lambda: running.lines() == 1000)
        assert running.threads() == names
    assert running.threads() == []
    assert running.open_files() == []
    assert running.board.closed
    assert not running.monitor.crashed


def test_a_stop_counts_keeps_and_delivers_what_was_seen(tmp_path):
    """Flashes up to the moment of the stop are in the journal, and in the file of a healthy writer."""
    with Running(tmp_path) as running:
        running.board.flash(500)
    assert running.lines() == 500
    with contextlib.closing(sqlite3.connect(running.data_dir / "journal.db")) as connection:
        assert connection.execute("SELECT count(*), max(count) FROM pulses").fetchone() == (500, 500)
    assert not running.monitor.crashed


def test_a_stop_under_a_hung_disk(tmp_path, monkeypatch, caplog):
    """A stop while the disk hangs ends all the same; what is lost is counted aloud, and the program has failed."""
    monkeypatch.setattr(monitor, "KEEPER_STOP_S", 0.2)
    monkeypatch.setattr(monitor, "WRITERS_STOP_S", 0.2)
    running = Running(tmp_path)
    with contextlib.ExitStack() as hung:
        with running:
            hung.enter_context(hung_disk(running.data_dir / "journal.db"))
            running.board.flash(7)
            wait_until(lambda: running.monitor.status().as_dict()["meters"]["house"]["pulses"] == 7)
        assert running.monitor.crashed
        assert "journal: 7 pulses could not be written and are lost" in caplog.messages
        assert running.board.seen[-2:] == [(Lamp.L1, False), (Lamp.L2, False)]
        assert running.board.closed
    wait_until(lambda: running.threads() == [])
    running.monitor._keeper.close()


# --- A stall


class StallingBoard(HandBoard):
    """A board whose last edge waits, and who takes it too until *going*: as where the program was stopped."""

    def __init__(self):
        super().__init__()
        self.going = threading.Event()
        self._stalls = False

    def take(self):
        if self._stalls:
            assert self.going.wait(PATIENCE_S)
            return super().take()
        edges = super().take()
        self._stalls = True
        self.put(edges.pop())
        return edges


PERIOD_S = 2


def test_a_stall_at_the_end_of_a_period(tmp_path, librato_server):
    """A period whose last edge waits untaken when it is over goes to Librato once that is counted: once, and whole."""
    token = values.Secret(librato_server.token)
    needed = {"user": librato_server.user, "token": token, "hostname": librato_server.hostname}
    defaults = {name: key.default for name, key in writer_type("librato").keys.items()}
    options = {**defaults, **needed, "protocol": "http", "period": PERIOD_S}
    librato = values.WriterSettings("librato", "librato", options)
    running = Running(tmp_path, board=StallingBoard(), writers=(librato,))
    asked_ns = []
    complete_ns = running.monitor._complete_ns

    def asked():
        asked_ns.append(time.time_ns())
        return complete_ns()

    running.monitor._complete_ns = asked
    with running:
        try:
            # All of the edges in one period, with a second of it left.
            wait_until(lambda: 0.5 < time.time() % PERIOD_S < 1)
            now_ns, start_s = time.monotonic_ns(), int(time.time() // PERIOD_S * PERIOD_S)
            running.board.put_at_once([Edge(0, now_ns - ago * NS_PER_S // 5) for ago in (2, 1, 0)])
            over_ns = (start_s + PERIOD_S + round(monitor.EDGE_DELAY_S)) * NS_PER_S
            # The one asks for a pause, the next decides, the one behind tells that it has decided.
            wait_until(lambda: librato_server.requests or sum(at_ns > over_ns for at_ns in asked_ns) >= 3)
            assert house_of(running)["pulses"] == 2
            assert librato_server.requests == []
        finally:
            running.board.going.set()
        wait_until(lambda: librato_server.requests)
    assert librato_server.requests == [("POST", "/v1/metrics")]
    # The first pulse has no power.
    assert {key[2]: gauge["count"] for key, gauge in librato_server.gauges.items()} == {start_s: 2}
    assert not running.monitor.crashed


# --- A bug


def broken(*_args, **_options):
    raise RuntimeError("a bug")


@pytest.mark.parametrize("name", ["recorder", "journal", "writer file"])
def test_a_bug_in_a_thread_ends_the_program(tmp_path, monkeypatch, caplog, name):
    """A bug that ends a thread is reported and logged with its traceback, never silent; the rest ends in order."""
    running = Running(tmp_path)
    if name == "recorder":
        monkeypatch.setattr(Lamps, "flash", broken)
    if name == "journal":
        monkeypatch.setattr(Journal, "append", broken)
    if name == "writer file":
        monkeypatch.setattr(Delivery, "_deliver_next", broken)
    with running:
        if name != "writer file":  # which looks for pulses before there are any
            assert not running.monitor.crashed
        running.board.flash()
        assert running.crashes.acquire(timeout=60)
        assert running.monitor.crashed
        wait_until(lambda: name not in running.threads())
    assert not running.crashes.acquire(blocking=False)
    text = f"{name}: ended by a bug, the program ends"
    (record,) = [record for record in caplog.records if record.getMessage() == text]
    assert record.levelname == "CRITICAL"
    assert str(record.exc_info[1]) == "a bug"
    lost = "journal: 1 pulses could not be written and are lost" in caplog.messages
    assert lost == (name == "journal")
    assert running.threads() == []
    assert running.open_files() == []
    assert running.board.closed


# --- A start that fails


@pytest.mark.parametrize("broken_at", ["enter", "follow", "settle"])
def test_a_journal_that_fails_while_it_starts(tmp_path, monkeypatch, broken_at):
    """The same where the journal fails in between, whatever was opened till then."""
    running = Running(tmp_path)

    def fail(*_args):
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Journal, broken_at, fail)
    with pytest.raises(JournalError, match="disk I/O error"), running:
        pytest.fail("it counts without a journal")
    assert running.threads() == []
    assert running.open_files() == []
