import functools
import json
import random
import tempfile
import time
from pathlib import Path

import pytest
from deliveries import FAR_NS, START_NS, add_pulses, begun, delivered_all, driven, end
from http_server import BEHAVIOURS, HANG, forward_to, http_answer
from hypothesis import given, settings
from hypothesis import strategies as st

from powermeter.delivery import SHORTEST_PAUSE_S, State, Verdict, verdict
from powermeter.errors import AnsweredError, MisdirectedError, UnreachableError
from powermeter.journal.journal import Journal, Row
from powermeter.meter import NS_PER_S
from powermeter.writers import Pace, Receipt
from powermeter.writers.answers import BY_STATUS
from powermeter.writers.file import FileWriter

#: The beginning of a minute.
PERIOD_START_NS = START_NS // (60 * NS_PER_S) * 60 * NS_PER_S


@pytest.fixture
def journal(tmp_path):
    """An empty journal that knows its meter, as it does before there are cursors."""
    with Journal(str(tmp_path / "journal.db")) as journal:
        journal.enter("house", 1000)
        yield journal


@pytest.fixture
def quick(monkeypatch):
    """Pauses of ms after failures."""
    monkeypatch.setattr("powermeter.delivery.SHORTEST_PAUSE_S", 0.004)
    monkeypatch.setattr("powermeter.delivery.LONGEST_PAUSE_S", 0.03)


@pytest.fixture
def started(journal, answering, writer_of):
    """Starts a delivery on a thread, which is stopped after the test at the latest, before its service and writer."""
    running = []

    def start(name, open_writer, cursor):
        running.append(begun(name, open_writer, cursor))
        return running[-1]

    yield start
    answering.stop_listening()
    for delivery in running:
        end(delivery)


def failures(caplog, level):
    """The lines of the log at *level* and above that tell of a failing service."""
    return [r for r in caplog.records if r.levelname == level and "failing, pulses are kept" in r.message]


class Influxdb:
    """A real InfluxDB behind the scriptable server, and what that let through to it."""

    def __init__(self, request, answering):
        self.server, self.database = request.getfixturevalue("influxd"), request.getfixturevalue("influx_db")
        self.open = functools.partial(
            request.getfixturevalue("writer_of"),
            "influxdb",
            host="127.0.0.1",
            port=answering.port,
            database=self.database,
            timeout=1,
            update_period=0,
        )
        self._forward = forward_to(self.server.port)
        self.lines = []

    def good(self, request):
        answer = self._forward(request)
        assert answer.startswith(b"HTTP/1.1 204"), answer
        self.lines += request.body.decode().splitlines()
        return answer

    def assert_has(self, pulses):
        """Each of *pulses* came once, in order, and is stored."""
        assert [int(line.split()[-1]) for line in self.lines] == [p.time_ns for p in pulses]
        assert [p["time"] for p in self.server.points(database=self.database)] == [p.time_ns for p in pulses]


class Librato:
    """The server with Librato's rules behind the scriptable one, and what that let through to it."""

    def __init__(self, request, answering):
        request.getfixturevalue("monkeypatch").setattr("powermeter.writers.librato.TIMEOUT_S", 1)
        self.server = request.getfixturevalue("librato_server")
        self.open = functools.partial(
            request.getfixturevalue("writer_of"),
            "librato",
            user=self.server.user,
            token=self.server.token,
            hostname=f"127.0.0.1:{answering.port}",
            protocol="http",
        )
        self._forward = forward_to(self.server.port)
        self.times_s = []

    def good(self, request):
        answer = self._forward(request)
        assert answer.startswith(b"HTTP/1.1 200"), answer
        self.times_s += [gauge["measure_time"] for gauge in json.loads(request.body)["gauges"]]
        return answer

    def assert_has(self, pulses):
        """Each period of *pulses* came once, in order, and is stored with all of its pulses."""
        counts = {}
        for pulse in pulses:
            if pulse.watts is not None:
                start_s = pulse.time_ns // (60 * NS_PER_S) * 60
                counts[start_s] = counts.get(start_s, 0) + 1
        assert self.times_s == list(counts)
        assert {key[2]: gauge["count"] for key, gauge in self.server.gauges.items()} == counts


@pytest.fixture(params=[Influxdb, Librato], ids=["influxdb", "librato"])
def service(request, answering):
    """Each service in turn, behind *answering*."""
    return request.param(request, answering)


# --- The table

#: What each behaviour means, said once more: how it is logged, the first time and then no more.
KEPT = {
    "refused": "WARNING",
    "hung": "WARNING",
    "reset": "WARNING",
    "429": "WARNING",
    "500": "WARNING",
    "503 keep-alive": "WARNING",
    "503 close": "WARNING",
    "301": "ERROR",
    "200 HTML": "ERROR",
    "401": "ERROR",
    "403": "ERROR",
    "404": "ERROR",
    "413": "ERROR",
    "400": "ERROR",
    "422": "ERROR",
}


def test_every_behaviour_is_judged():
    """No behaviour of the scriptable server is without its test here."""
    assert set(KEPT) == {*BEHAVIOURS, "refused"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", KEPT)
def test_kept(journal, started, service, answering, caplog, until, name):
    """Pulses are kept, which is logged once at its level; when the service works again all arrive once, in order."""
    caplog.set_level("INFO", "powermeter")
    cursor = journal.add_cursor("it")
    add_pulses(journal, 40, start_ns=PERIOD_START_NS - 20 * NS_PER_S)
    sent = cursor.read(1000)
    before = cursor.position
    if name == "refused":
        answering.stop_listening()
    else:
        answering.script = BEHAVIOURS[name]
    delivery = started("it", service.open, cursor)
    until(lambda: delivery._failures >= 3)
    assert delivery.state is State.FAILING
    assert delivery.reason
    assert cursor.position == before
    answering.script = service.good
    if name == "refused":
        answering.listen()
    until(lambda: delivered_all(delivery, sent))
    until(lambda: delivery.state is State.OK)
    assert (delivery.refused, delivery.reason) == (0, "")
    end(delivery)
    service.assert_has(sent)
    assert len(failures(caplog, KEPT[name])) == 1
    assert len(failures(caplog, "WARNING") + failures(caplog, "ERROR")) == 1
    assert [r.message for r in caplog.records if r.levelname == "INFO"] == ["it: delivers again"]


def test_verdicts():
    """The table is as documented; for an answer that is not in it, pulses are kept."""
    for status in (401, 403, 404, 405, 410, 411, 415):
        assert verdict(AnsweredError(status, "")) is Verdict.MISCONFIGURED
    for status in (400, 422):
        assert verdict(AnsweredError(status, "")) is Verdict.REFUSED
    assert verdict(AnsweredError(413, "")) is Verdict.TOO_LARGE
    for status in set(range(100, 600)) - set(BY_STATUS):
        assert verdict(AnsweredError(status, "")) is Verdict.KEPT
    assert verdict(MisdirectedError("")) is Verdict.MISCONFIGURED
    assert verdict(UnreachableError("")) is Verdict.KEPT


# --- Searching for what is refused


@pytest.mark.usefixtures("quick")
def test_one_bad_pulse_in_5000(request, journal, started, answering, caplog, until):
    """Of 6,000 pulses with a bad one among them, only that one is dropped; it is found by halving, not one by one."""
    service = Influxdb(request, answering)
    cursor = journal.add_cursor("it")
    add_pulses(journal, 6000)
    sent = cursor.read(10_000)
    bad = sent.pop(3210)

    def script(asked):
        if f" {bad.time_ns}".encode() in asked.body:
            return http_answer(400, b'{"error":"unable to parse"}')
        return service.good(asked)

    answering.script = script
    delivery = started("it", service.open, cursor)
    until(lambda: delivered_all(delivery, sent))
    end(delivery)
    assert delivery.refused == 1
    service.assert_has(sent)
    assert len(answering.requests) < 60
    assert [r.levelname for r in caplog.records if r.levelno > 20] == ["ERROR"]


@pytest.mark.usefixtures("quick")
def test_one_bad_period(request, journal, started, answering, until):
    """Of 40 periods with one that Librato does not take, only that one's pulses are dropped."""
    service = Librato(request, answering)
    cursor = journal.add_cursor("it")
    add_pulses(journal, 120)
    sent = cursor.read(1000)
    bad_s = sent[70].time_ns // NS_PER_S // 60 * 60

    def script(asked):
        times = [gauge["measure_time"] for gauge in json.loads(asked.body)["gauges"]]
        return http_answer(400, b"{}") if bad_s in times else service.good(asked)

    answering.script = script
    delivery = started("it", service.open, cursor)
    until(lambda: delivered_all(delivery, sent))
    end(delivery)
    assert delivery.refused == 3
    service.assert_has([p for p in sent if p.time_ns // NS_PER_S // 60 * 60 != bad_s])


@pytest.mark.usefixtures("quick")
def test_too_large(request, journal, started, answering, caplog, until):
    """A server that takes up to 100 lines gets all of them, in smaller batches, and nobody is alarmed."""
    service = Influxdb(request, answering)
    cursor = journal.add_cursor("it")
    add_pulses(journal, 2000)
    sent = cursor.read(10_000)
    answering.script = lambda asked: http_answer(413) if asked.body.count(b"\n") > 100 else service.good(asked)
    delivery = started("it", service.open, cursor)
    until(lambda: delivered_all(delivery, sent))
    end(delivery)
    assert delivery.refused == 0
    service.assert_has(sent)
    assert [r for r in caplog.records if r.levelno > 20] == []


@pytest.mark.usefixtures("quick")
def test_partial_write(request, journal, started, influxd, answering, caplog, until):
    """What a real InfluxDB refuses of a batch is counted, and the batch is not sent again."""
    service = Influxdb(request, answering)
    influxd.query(f"CREATE RETENTION POLICY short ON {service.database} DURATION 1h REPLICATION 1 DEFAULT")
    cursor = journal.add_cursor("it")
    add_pulses(journal, 7, start_ns=START_NS - 10**18)
    answering.script = forward_to(influxd.port)
    sent = cursor.read(1000)
    delivery = started("it", service.open, cursor)
    until(lambda: delivered_all(delivery, sent))
    end(delivery)
    assert delivery.refused == 7
    assert len(answering.requests) == 1
    assert len([r for r in caplog.records if r.levelname == "ERROR"]) == 1


@pytest.mark.parametrize(("names", "most"), [("each", 9), ("none", 40)])
def test_a_backlog_that_is_too_old(request, journal, started, influxd, answering, until, names, most):
    """
    40,000 pulses that a server takes no more are worked off in full batches: soon it has the first that it takes.

    Each batch is answered by a real InfluxDB, which counts them; or as by a server that names none of them.
    """
    service = Influxdb(request, answering)
    influxd.query(f"CREATE RETENTION POLICY short ON {service.database} DURATION 1h REPLICATION 1 DEFAULT")
    cursor = journal.add_cursor("it")
    now_ns = time.time_ns()
    add_pulses(journal, 40_000, start_ns=now_ns - 10**15, spacing_ns=NS_PER_S)
    add_pulses(journal, 1, start_ns=now_ns - 40_001 * NS_PER_S, spacing_ns=NS_PER_S)
    forward = forward_to(influxd.port)

    def script(asked):
        oldest_ns = min(int(line.split()[-1]) for line in asked.body.decode().splitlines())
        if names == "none" and oldest_ns < now_ns - 3600 * NS_PER_S:
            return http_answer(422, b'{"code":"unprocessable entity","message":"points are older than the retention"}')
        return forward(asked)

    answering.script = script
    delivery = started("it", service.open, cursor)
    until(lambda: delivery.cursor.position.counts == {"house": 40_001})
    end(delivery)
    assert delivery.refused == 40_000
    assert len(service.server.points(database=service.database)) == 1
    assert len(answering.requests) <= most


# --- Failing, and the others


class Taking:
    """A writer into a list, for tests of the delivery itself."""

    def __init__(self, pace=None, fails=()):
        self.pace = pace or Pace(5)
        self.taken = []
        self.batches = []
        self.closed = 0
        self._fails = list(fails)

    def deliver(self, pulses, place):
        if self._fails:
            raise self._fails.pop(0)
        self.taken += pulses
        self.batches.append(len(pulses))
        return Receipt(len(pulses))

    def check(self):
        return "memory"

    def close(self):
        self.closed += 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("boom"), MemoryError(), OSError(5, "disk"), Exception()])
def test_a_writer_that_raises_anything(journal, started, caplog, until, error):
    """A writer's bug is logged once with its traceback; it fails, is opened again each time, and loses nothing."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 12)
    sent = cursor.read(1000)
    writer, opened = Taking(fails=[error] * 3), []
    delivery = started("it", lambda: opened.append(1) or writer, cursor)
    until(lambda: len(writer.taken) == 12)
    end(delivery)
    assert writer.taken == sent
    assert (len(opened), writer.closed) == (4, 4)
    assert len([r for r in caplog.records if r.exc_info]) == 1
    assert len(failures(caplog, "ERROR")) == 1


@pytest.mark.usefixtures("quick")
def test_a_writer_that_can_not_be_opened(journal, started, caplog, until):
    """A writer whose opening fails, as its library is missing, is failing and opened again."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 3)
    writer = Taking()
    tries = []

    def open_writer():
        tries.append(1)
        if len(tries) < 4:
            raise ImportError("no module named influxdb")
        return writer

    delivery = started("it", open_writer, cursor)
    until(lambda: len(writer.taken) == 3)
    assert len(failures(caplog, "ERROR")) == 1
    until(lambda: delivery.state is State.OK)


def test_the_second_writer_never_waits(journal, started, answering, writer_of, tmp_path, until, monkeypatch):
    """While a request of the first hangs, the second writer delivers all, and what comes meanwhile too."""
    monkeypatch.setattr(FileWriter, "pace", Pace(5000))  # the file's own pace is not what is tried here
    answering.script = HANG
    first, second = journal.add_cursor("first"), journal.add_cursor("second")
    add_pulses(journal, 3000)
    open_first = functools.partial(writer_of, "influxdb", host="127.0.0.1", port=answering.port, timeout=300)
    hung = started("first", open_first, first)
    until(lambda: answering.requests)
    path = tmp_path / "power.csv"
    delivery = started("second", functools.partial(writer_of, "file", path=str(path)), second)
    until(lambda: path.exists() and path.read_bytes().count(b"\n") == 3001)
    add_pulses(journal, 100)
    delivery.wake()
    until(lambda: path.read_bytes().count(b"\n") == 3101)
    assert len(answering.requests) == 1
    assert set(hung.cursor.position.counts.values()) <= {0}
    answering.close()


def test_back_off_grows_to_its_limit_with_jitter(journal):
    """Pauses double from 1 s to 5 min, each shortened at random by up to half; a success begins again at 1 s."""
    cursor = journal.add_cursor("it")
    delivery = driven(Taking, cursor)
    random.seed(7)
    parts = set()
    for n in range(1, 60):
        longest_s = min(300, 2**n)
        pause_s = delivery._fail("no answer", loud=False)
        assert longest_s / 2 <= pause_s <= longest_s
        parts.add(pause_s / longest_s)
    assert max(parts) - min(parts) > 0.4
    delivery._succeeded(State.OK)
    assert 1 <= delivery._fail("no answer", loud=False) <= 2
    cursor.close()


@pytest.mark.parametrize(
    ("said", "least_s", "most_s"),
    [("100", 100, 100), ("1000", 300, 300), ("Wed, 21 Oct 2026 07:28:00 GMT", 1, 2), ("-5", 1, 2), ("0.5", 1, 2)],
)
@pytest.mark.parametrize("status", [429, 503])
def test_a_service_that_asks_to_be_left_alone(journal, service, answering, status, said, least_s, most_s):
    """It is for as long as it says in seconds, up to 5 min, and never for less than by ourselves."""
    answering.script = http_answer(status, b"{}", Retry_After=said)
    cursor, writer = journal.add_cursor("it"), service.open()
    add_pulses(journal, 10)
    delivery = driven(service.open, cursor)
    assert least_s <= delivery._deliver_next(writer) <= most_s
    assert delivery.state is State.FAILING
    writer.close()
    cursor.close()


def test_a_stop_in_a_backlog_ends_in_time(journal, monkeypatch):
    """It goes on for a while, and not until all is delivered."""
    monkeypatch.setattr("powermeter.delivery.LAST_S", 0.0)
    cursor, writer = journal.add_cursor("it"), Taking(Pace(5))
    add_pulses(journal, 1000)
    delivery = driven(lambda: writer, cursor)
    delivery.stop()
    assert delivery._deliver_until_stopped(writer)
    assert len(writer.taken) == 5
    assert cursor.position.counts.popitem()[1] == 5
    cursor.close()


def test_a_backlog_is_noted_as_it_shrinks(journal, monkeypatch):
    """With no commit of the keeper's meanwhile the cursor is durable never more than so many pulses behind."""
    monkeypatch.setattr("powermeter.delivery.MAX_UNSAVED", 20)
    cursor, behind = journal.add_cursor("it"), []

    class Watching(Taking):
        def deliver(self, pulses, place):
            behind.append(cursor.unsaved)
            return super().deliver(pulses, place)

    writer = Watching(Pace(5))
    add_pulses(journal, 200)
    delivery = driven(lambda: writer, cursor)
    delivery.stop()
    delivery._deliver_until_stopped(writer)
    assert len(writer.taken) == 200
    assert max(behind) == 15
    assert cursor.unsaved == 0
    cursor.close()


def test_state_is_told_when_it_changes(journal):
    """*on_state* is called when the delivery begins to fail and when it works again, and not in between."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 3)
    states = []
    delivery = driven(Taking, cursor, on_state=lambda: states.append(delivery.state))
    writer = Taking(fails=[UnreachableError("away"), UnreachableError("still away"), AnsweredError(401, "")])
    for _ in range(6):
        delivery._deliver_next(writer)
    assert states == [State.FAILING, State.OK]
    cursor.close()


# --- When


def test_batches_and_pauses(journal):
    """Full batches follow one another at once; behind one that was not full comes the writer's interval."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 12)
    writer = Taking(Pace(5, interval_s=10.0))
    delivery = driven(Taking, cursor)
    assert [delivery._deliver_next(writer) for _ in range(3)] == [0.0, 0.0, 10.0]
    assert writer.batches == [5, 5, 2]
    assert delivery._deliver_next(writer) is None
    cursor.close()


def test_a_period_is_sent_once_it_is_over(journal):
    """A period goes out whole, when it is over; until then the delivery knows how long to wait."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 8, start_ns=PERIOD_START_NS, spacing_ns=10 * NS_PER_S)  # five in this minute, three in the next
    now = [PERIOD_START_NS + 59 * NS_PER_S]
    writer = Taking(Pace.aggregated(60, 5000))
    delivery = driven(Taking, cursor, complete_ns=lambda: now[0])
    assert delivery._deliver_next(writer) == 1.0
    assert writer.batches == []
    now[0] += NS_PER_S
    assert delivery._deliver_next(writer) == 0.0
    assert writer.batches == [5]
    assert delivery._deliver_next(writer) == 60.0
    now[0] += 60 * NS_PER_S
    assert delivery._deliver_next(writer) == 0.0
    assert writer.batches == [5, 3]
    assert delivery._deliver_next(writer) is None
    cursor.close()


def test_a_pulse_kept_while_it_is_asked_what_is_complete(journal):
    """What is complete is asked before reading: a pulse that is kept in between goes out with its period, sent once."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 4, start_ns=PERIOD_START_NS, spacing_ns=10 * NS_PER_S)

    def complete_ns():
        if journal.enter("house", 1000).count == 4:
            add_pulses(journal, 1, start_ns=PERIOD_START_NS, spacing_ns=10 * NS_PER_S)
        return PERIOD_START_NS + 60 * NS_PER_S

    writer = Scripted(Pace.aggregated(60, 5000), [])
    run_dry(driven(Taking, cursor, complete_ns=complete_ns), writer)
    assert writer.batches == [5]
    cursor.close()


@pytest.mark.parametrize(("pace", "asks"), [(Pace(5), False), (Pace.aggregated(60, 5), True)], ids=["each", "periods"])
def test_what_is_complete_is_asked_for_periods_alone(journal, pace, asks):
    """What is complete is asked for a writer with periods, and never for one that takes pulse by pulse."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 12)
    asked = []

    def complete_ns():
        asked.append(1)
        return FAR_NS

    writer = Taking(pace)
    run_dry(driven(Taking, cursor, complete_ns=complete_ns), writer)
    assert len(writer.taken) == 12
    assert bool(asked) == asks
    cursor.close()


def test_a_period_larger_than_a_batch_is_whole(journal):
    """A period with more pulses than a batch wants is delivered in one."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 200, start_ns=PERIOD_START_NS, spacing_ns=NS_PER_S)
    writer = Taking(Pace.aggregated(60, 7))
    delivery = driven(Taking, cursor)
    run_dry(delivery, writer)
    assert len(writer.taken) == 200
    ends = [writer.taken[sum(writer.batches[:n]) - 1].time_ns for n in range(1, len(writer.batches))]
    assert ends
    assert {end_ns // NS_PER_S % 60 for end_ns in ends} == {59}
    cursor.close()


def test_a_time_in_the_future_holds_up_nothing(journal):
    """Pulses that a wrong clock put years ahead do not keep back the periods after it was set right."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 3, start_ns=START_NS + 10**17)
    add_pulses(journal, 30)
    now_ns = START_NS + 86400 * NS_PER_S
    writer = Taking(Pace.aggregated(60, 5000))
    delivery = driven(Taking, cursor, complete_ns=lambda: now_ns)
    for _ in range(30):
        delivery._deliver_next(writer)
    assert [p.number for p in writer.taken] == list(range(1, 34))
    cursor.close()


def test_news_wake_the_delivery(journal, started, until):
    """A delivery at rest takes what it is woken for."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 3)
    writer = Taking()
    delivery = started("it", lambda: writer, cursor)
    until(lambda: len(writer.taken) == 3)
    add_pulses(journal, 4)
    delivery.wake()
    until(lambda: len(writer.taken) == 7)


# --- Stopping


def test_stop_delivers_what_there_is(journal, started, until):
    """What was kept just before the stop is delivered, though the writer's interval is not over."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 3)
    writer = Taking(Pace(5, interval_s=3600.0))
    delivery = started("it", lambda: writer, cursor)
    until(lambda: len(writer.taken) == 3)
    add_pulses(journal, 12)
    end(delivery)
    assert len(writer.taken) == 15
    assert writer.closed == 1


def test_stop_before_it_has_begun(journal):
    """A delivery that is stopped before its thread came to run delivers what there is all the same."""
    cursor, writer = journal.add_cursor("it"), Taking(Pace(5))
    add_pulses(journal, 12)
    delivery = driven(lambda: writer, cursor)
    delivery.stop()
    delivery.run()
    assert len(writer.taken) == 12
    assert writer.closed == 1


def test_stop_during_a_request_that_hangs(request, journal, started, answering, until):
    """A stop returns at once; the delivery ends with the request's timeout, tries no more, and nothing is lost."""
    service = Influxdb(request, answering)
    answering.script = HANG
    cursor = journal.add_cursor("it")
    add_pulses(journal, 3)
    before = cursor.position
    delivery = started("it", service.open, cursor)
    until(lambda: answering.requests)
    delivery.stop()
    assert delivery.thread.is_alive()
    end(delivery)
    assert len(answering.requests) == 1
    assert cursor.position == before


def test_stop_with_a_failing_service_does_not_try_again(request, journal, started, answering, until, monkeypatch):
    """A stop ends the pause after a failure, and asks the service no more."""
    monkeypatch.setattr("powermeter.delivery.SHORTEST_PAUSE_S", 200.0)
    service = Influxdb(request, answering)
    answering.script = BEHAVIOURS["500"]
    cursor = journal.add_cursor("it")
    add_pulses(journal, 3)
    delivery = started("it", service.open, cursor)
    until(lambda: delivery.state is State.FAILING)
    end(delivery)
    assert len(answering.requests) == 1


def test_stop_before_the_writer_could_be_opened(journal, started, until, monkeypatch):
    """A delivery whose writer can't be opened stops too."""
    monkeypatch.setattr("powermeter.delivery.SHORTEST_PAUSE_S", 200.0)

    def open_writer():
        raise ImportError("no module named influxdb")

    delivery = started("it", open_writer, journal.add_cursor("it"))
    until(lambda: delivery.state is State.FAILING)
    end(delivery)


# --- The cursor


def test_a_new_writer_starts_at_now(journal, started, until):
    """A writer that is new gets what is counted from now on, nothing older."""
    add_pulses(journal, 5)
    cursor = journal.add_cursor("new")
    writer = Taking()
    delivery = started("new", lambda: writer, cursor)
    add_pulses(journal, 3)
    delivery.wake()
    until(lambda: len(writer.taken) == 3)
    assert [p.number for p in writer.taken] == [6, 7, 8]


def test_a_writer_that_comes_back_goes_on(tmp_path):
    """A writer that was away, for a restart or out of the settings, goes on where it stopped."""
    numbers = []
    for count in (5, 3, 4):
        with Journal(str(tmp_path / "journal.db")) as journal:
            journal.enter("house", 1000)
            cursor = journal.add_cursor("it")
            add_pulses(journal, count)
            writer = Taking()
            run_dry(driven(Taking, cursor), writer)
            numbers += [p.number for p in writer.taken]
            add_pulses(journal, 2)  # while it is away, and with it the cursor is kept
            cursor.close()
    assert numbers == list(range(1, 17))


@pytest.mark.usefixtures("quick")
def test_the_cursor_is_durable_at_the_end(journal, started, until):
    """When a delivery ends, how far it is is on the disk, though no pulse came after."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 5)
    writer = Taking()
    delivery = started("it", lambda: writer, cursor)
    until(lambda: len(writer.taken) == 5)
    end(delivery)
    again = journal.add_cursor("it")
    assert again.read(10) == []
    again.close()


# --- The law


class Scripted(Taking):
    """A writer that does as its list of outcomes says, and takes all once that is empty."""

    def __init__(self, pace, outcomes):
        super().__init__(pace)
        self.outcomes = outcomes
        self.place = ""

    def deliver(self, pulses, place):
        assert place == self.place, "the place of the last receipt comes back"
        outcome = self.outcomes.pop(0) if self.outcomes else "all"
        if isinstance(outcome, Exception):
            raise outcome
        if outcome == "took, then failed":
            self.taken += pulses
            raise UnreachableError("reset")
        if self.pace.period_ns:
            periods = self._periods(pulses)
            taken = [p for period in (periods if outcome == "all" else periods[:1]) for p in period]
        else:
            taken = pulses if outcome == "all" else pulses[: outcome % (len(pulses) + 1)]
        self.taken += taken
        self.batches.append(len(taken))
        self.place = str(len(self.taken))
        return Receipt(len(taken), self.place)

    def _periods(self, pulses):
        periods = {}
        for pulse in pulses:
            periods.setdefault(pulse.time_ns // self.pace.period_ns, []).append(pulse)
        assert not set(periods) & {p.time_ns // self.pace.period_ns for p in self.taken}, "a period is sent in one part"
        return list(periods.values())


def run_dry(delivery, writer):
    """Make the steps of *delivery* until nothing waits, without the pauses."""
    for _ in range(2000):
        if delivery._deliver_next(writer) is None:
            return
    raise AssertionError("the delivery does not come to an end")


FAILURES = [UnreachableError("away"), *(AnsweredError(status, "") for status in (401, 404, 413, 429, 500, 503))]
FAILURES += [MisdirectedError("page"), RuntimeError("bug")]
PACES = st.builds(Pace, batch_size=st.integers(1, 9), period_ns=st.sampled_from([0, 0, 3 * NS_PER_S]))
ADDED = st.lists(st.tuples(st.sampled_from(["house", "flat"]), st.integers(1, 12)), min_size=1, max_size=5)


def add_in_turn(journal, meter, count, clock):
    """Append *count* pulses of *meter*, each a second or so later than all before it."""
    known = journal.enter(meter, 1000)
    rows = []
    for number in range(known.count + 1, known.count + count + 1):
        clock[0] += NS_PER_S + number * 1_000_003
        rows.append(Row(known.name, number, clock[0], NS_PER_S))
    journal.append(rows)


@settings(max_examples=100)
@given(pace=PACES, outcomes=st.lists(st.sampled_from(["all", 0, 1, 2, 5, *FAILURES]), max_size=30), added=ADDED)
def test_whatever_the_outages_every_pulse_arrives_once_in_order(pace, outcomes, added):
    """Failures of every kind, and batches taken in part: each pulse arrives once, in the order counted."""
    with tempfile.TemporaryDirectory() as directory, Journal(str(Path(directory) / "journal.db")) as journal:
        clock = [START_NS]
        for meter in ("house", "flat"):
            journal.enter(meter, 1000)
        cursor, other = journal.add_cursor("it"), journal.add_cursor("other")
        writer = Scripted(pace, outcomes)
        # A period that more pulses may fall into is not over.
        delivery = driven(Taking, cursor, complete_ns=lambda: FAR_NS if not added else clock[0])
        added = list(added)
        while added:
            add_in_turn(journal, *added.pop(0), clock)
            for _ in range(3):
                delivery._deliver_next(writer)
        run_dry(delivery, writer)
        assert writer.taken == other.read(10_000)
        assert delivery.refused == 0
        cursor.close()
        other.close()


@settings(max_examples=100)
@given(
    batch_size=st.integers(1, 9),
    outcomes=st.lists(st.sampled_from(["all", "took, then failed", 0, 1, 3, *FAILURES]), max_size=20),
    added=ADDED,
    steps=st.lists(st.integers(0, 6), max_size=5),
)
def test_whatever_crashes_no_pulse_is_missing_and_none_out_of_order(batch_size, outcomes, added, steps):
    """After crashes, and answers that were lost, pulses may come again; each came first in the order counted."""
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "journal.db")
        with Journal(path) as journal:
            for meter in ("house", "flat"):
                journal.enter(meter, 1000)
            journal.add_cursor("it").close()
            clock = [START_NS]
            for meter, count in added:
                add_in_turn(journal, meter, count, clock)
            cursor = journal.add_cursor("it")
            counted = cursor.read(10_000)
            cursor.close()
        arrived = {}
        for count in [*steps, None]:
            # Each turn is a run of the program that ends without a word: what was not durable is forgotten.
            with Journal(path) as journal:
                cursor = journal.add_cursor("it")
                writer = Scripted(Pace(batch_size), outcomes)
                writer.place = cursor.position.place
                delivery = driven(Taking, cursor)
                if count is None:
                    run_dry(delivery, writer)
                for _ in range(count or 0):
                    delivery._deliver_next(writer)
                cursor.close()
            arrived.update(dict.fromkeys(writer.taken))
        assert list(arrived) == counted


class Refusing(Taking):
    """A service that takes batches, and stores nothing of the first *times*."""

    def __init__(self, times, pace):
        super().__init__(pace)
        self.times = times

    def deliver(self, pulses, place):
        super().deliver(pulses, place)
        self.times -= 1
        return Receipt(len(pulses), "", len(pulses) if self.times >= 0 else 0, "all of them")


def test_a_service_that_stores_nothing_of_a_batch(journal):
    """Single pulses are not the reason: it fails and pauses, so that a backlog is not given up while all seems well."""
    cursor = journal.add_cursor("it")
    add_pulses(journal, 20)
    writer = Refusing(2, Pace(5))
    delivery = driven(lambda: writer, cursor)
    for refused in (5, 10):
        assert delivery._deliver_next(writer) == SHORTEST_PAUSE_S
        assert (delivery.state, delivery.reason, delivery.refused) == (State.FAILING, "all of them", refused)
    assert delivery._deliver_next(writer) == 0
    assert (delivery.state, delivery.refused) == (State.WAITING, 10)
    cursor.close()
