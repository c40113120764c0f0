import itertools
import json
import statistics
import threading
import time

import pytest
from http_server import BEHAVIOURS, HANG, Answering, http_answer
from influxd import free_port

from powermeter.errors import AnsweredError, DeliveryError, MisdirectedError, UnreachableError
from powermeter.meter import NS_PER_S
from powermeter.writers import Receipt

PERIOD_NS = 60 * NS_PER_S


@pytest.fixture
def writer(librato_server, writer_of):
    """A writer to the server with the rules; its options may be changed."""

    def make(**options):
        server = librato_server
        given = {"user": server.user, "token": server.token, "hostname": server.hostname, "protocol": "http"}
        return writer_of("librato", **{**given, "source": "cellar", **options})

    return make


@pytest.fixture
def writer_to(writer_of):
    """A writer to the scriptable server."""

    def make(answering, **options):
        given = {"user": "me@example.org", "token": "T0p-secret", "hostname": f"127.0.0.1:{answering.port}"}
        return writer_of("librato", **{**given, "protocol": "http", **options})

    return make


def aggregates(pulses, period_ns=PERIOD_NS):
    """What Librato should have of *pulses*: by meter and the start of the period in s, from their powers."""
    powers = {}
    for pulse in pulses:
        if pulse.watts is not None:
            start_s = pulse.time_ns // period_ns * period_ns // NS_PER_S
            powers.setdefault((pulse.meter, start_s), []).append(pulse.watts)
    return {
        key: {"count": len(watts), "sum": pytest.approx(statistics.fsum(watts)), "min": min(watts), "max": max(watts)}
        for key, watts in powers.items()
    }


def by_source(gauges):
    """The server's *gauges* of the metric "power" by meter and time."""
    assert all(name == "power" and source.startswith("cellar.") for name, source, _ in gauges)
    return {(source.removeprefix("cellar."), time_s): numbers for (_, source, time_s), numbers in gauges.items()}


# --- What is stored


def test_gauges_by_source(librato_server, writer, pulses):
    """One gauge per meter and period, at the period's start, with count, sum, min and max of the powers."""
    sent = sorted(pulses(150, "house") + pulses(40, "flat-2", spacing_ns=13 * NS_PER_S), key=lambda p: p.time_ns)
    assert writer().deliver(sent, "") == Receipt(190)
    assert by_source(librato_server.gauges) == aggregates(sent)
    assert librato_server.requests == [("POST", "/v1/metrics")]


def test_gauges_by_tags(librato_server, writer, pulses):
    """With tags set a gauge is a tagged measurement, the meter among its tags."""
    sent = sorted(pulses(150, "House") + pulses(40, "flat-2", spacing_ns=13 * NS_PER_S), key=lambda p: p.time_ns)
    writer(tags={"home": "by the lake", "floor": "2"}).deliver(sent, "")
    found = {}
    for (name, tags, time_s), numbers in librato_server.gauges.items():
        assert name == "power"
        assert dict(tags) == {"home": "by the lake", "floor": "2", "meter": dict(tags)["meter"]}
        found[dict(tags)["meter"], time_s] = numbers
    assert found == {(meter.lower(), time_s): numbers for (meter, time_s), numbers in aggregates(sent).items()}
    assert librato_server.requests == [("POST", "/v1/measurements")]


def test_empty_tags_are_tags(librato_server, writer, pulses):
    """With an empty dict of tags the meter is the only one."""
    writer(tags={}).deliver(pulses(20), "")
    assert {tags for _, tags, _ in librato_server.gauges} == {(("meter", "house"),)}


@pytest.mark.parametrize("period", [1, 7, 3600])
def test_period(librato_server, writer, pulses, period):
    """A gauge's period is a multiple of the set one since 1970."""
    sent = pulses(100)
    writer(period=period, metric="house.watts").deliver(sent, "")
    found = {("house", time_s): numbers for (_, _, time_s), numbers in librato_server.gauges.items()}
    assert {name for name, _, _ in librato_server.gauges} == {"house.watts"}
    assert found == aggregates(sent, period * NS_PER_S)


def test_source_is_the_host_where_none_is_set(librato_server, writer, pulses, monkeypatch):
    """Without a source the host's name stands for it."""
    monkeypatch.setattr("socket.gethostname", lambda: "pi-4.home")
    writer(source=None).deliver(pulses(5), "")
    assert {source for _, source, _ in librato_server.gauges} == {"pi-4.home.house"}


@pytest.mark.parametrize("tags", [None, {"home": "yes"}])
def test_sending_again_changes_nothing(librato_server, writer, pulses, tags):
    """The same whole periods a second time leave the gauges as they were."""
    sent = pulses(100)
    writer(tags=tags).deliver(sent, "")
    before = dict(librato_server.gauges)
    again = writer(tags=tags)
    again.deliver(sent, "")
    assert librato_server.gauges == before


@pytest.mark.parametrize("tags", [None, {"home": "yes"}])
def test_no_power_sends_nothing(librato_server, writer, pulses, tags):
    """Pulses without a power are taken and make no gauge and no request."""
    sent = [pulse._replace(watts=None) for pulse in pulses(50)]
    assert writer(tags=tags).deliver(sent, "") == Receipt(50)
    assert librato_server.requests == []


def test_period_of_one_meter_without_power(librato_server, writer, pulses):
    """A meter without a power in a period has no gauge there; the other has."""
    house = pulses(3, "house", spacing_ns=NS_PER_S)
    flat = [pulse._replace(watts=None) for pulse in pulses(3, "flat", spacing_ns=NS_PER_S)]
    assert writer().deliver([*house, *flat], "") == Receipt(6)
    assert {source for _, source, _ in librato_server.gauges} == {"cellar.house"}


def test_one_post_holds_300(librato_server, writer, pulses):
    """Of more than 300 gauges as many whole periods are taken as one POST holds; the rest follows."""
    meters = ("house", "flat-2", "cellar", "attic")
    sent = sorted((p for m in meters for p in pulses(400, m, spacing_ns=20 * NS_PER_S)), key=lambda p: p.time_ns)
    one = writer()
    waiting = sent
    while waiting:
        posts = len(librato_server.requests)
        receipt = one.deliver(waiting, "")
        assert len(librato_server.requests) == posts + 1
        taken, waiting = waiting[: receipt.taken], waiting[receipt.taken :]
        # No period is split: what one delivery took is never replaced by a part.
        assert not waiting or taken[-1].time_ns // PERIOD_NS < waiting[0].time_ns // PERIOD_NS
        assert len(aggregates(taken)) > 300 - len(meters) or not waiting
    assert len(librato_server.requests) > 1
    assert by_source(librato_server.gauges) == aggregates(sent)


@pytest.mark.parametrize("name", ["hung", "reset", "500"])
def test_sending_after_a_failure_is_whole(librato_server, writer, pulses, answering, name, monkeypatch):
    """A delivery that failed leaves nothing in the writer: the next sends its own gauges and no others."""
    monkeypatch.setattr("powermeter.writers.librato.TIMEOUT_S", 0.2)
    answering.script = BEHAVIOURS[name]
    one = writer(hostname=f"127.0.0.1:{answering.port}")
    with pytest.raises(DeliveryError):
        one.deliver(pulses(20), "")
    answering.script = http_answer(200)
    later = pulses(20, first=500, start_ns=pulses(1)[0].time_ns + 86400 * NS_PER_S)
    one.deliver(later, "")
    gauges = json.loads(answering.requests[-1].body)["gauges"]
    assert {(g["source"], g["measure_time"]) for g in gauges} == {(f"cellar.{m}", t) for m, t in aggregates(later)}


# --- What the server refuses


def test_wrong_token(writer, pulses):
    """A wrong token is a 401, and the error does not contain it."""
    with pytest.raises(AnsweredError) as caught:
        writer(token="hunter2").deliver(pulses(5), "")
    assert caught.value.status == 401
    assert "hunter2" not in str(caught.value)


def test_too_far_in_the_past(librato_server, writer, pulses):
    """A time that Librato does not take any more is a 400 with its reason, and nothing is stored."""
    librato_server.oldest_s = pulses(20)[-1].time_ns // NS_PER_S + 1
    with pytest.raises(AnsweredError, match="too far in the past") as caught:
        writer().deliver(pulses(20), "")
    assert caught.value.status == 400
    assert librato_server.gauges == {}


def test_wrong_base_path(writer, pulses):
    """A path that the service does not have is a 404."""
    with pytest.raises(AnsweredError) as caught:
        writer(base_path="/api/").deliver(pulses(5), "")
    assert caught.value.status == 404


# --- What answers


@pytest.mark.parametrize("status", [301, 302, 307])
def test_redirect_is_no_success(writer_to, answering, pulses, status):
    """A redirect is reported as one, and not followed."""
    with Answering(http_answer(200)) as elsewhere:
        answering.script = http_answer(status, Location=f"http://127.0.0.1:{elsewhere.port}/v1/metrics")
        with pytest.raises(MisdirectedError, match=f"127.0.0.1:{answering.port} answered {status}, a redirect"):
            writer_to(answering).deliver(pulses(5), "")
        assert elsewhere.connections == 0
    assert len(answering.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        BEHAVIOURS["200 HTML"],
        http_answer(200, b"\n\n<HTML><body>Welcome!</body></HTML>", content_type="application/octet-stream"),
        http_answer(200, b"Welcome!", content_type="text/html; charset=utf-8"),
    ],
)
def test_web_page_is_no_success(writer_to, answering, pulses, answer):
    """A web page with status 200 is no Librato."""
    answering.script = answer
    with pytest.raises(MisdirectedError, match="web page"):
        writer_to(answering).deliver(pulses(5), "")


STATUSES = ["400", "401", "403", "404", "413", "422", "429", "500", "503 keep-alive", "503 close"]


@pytest.mark.parametrize("name", STATUSES)
def test_status_is_kept(writer_to, answering, pulses, name):
    """Every failure is an error with its status after a single request: the library would try a 503 for ever."""
    answering.script = BEHAVIOURS[name]
    writer = writer_to(answering)
    with pytest.raises(AnsweredError) as caught:
        writer.deliver(pulses(5), "")
    assert caught.value.status == int(name[:3])
    assert len(answering.requests) == 1
    answering.script = http_answer(202)
    assert writer.deliver(pulses(5), "") == Receipt(5)
    assert len(answering.requests) == 2


ODD_BODIES = [b"", b"not JSON", b"[1, 2]", b'"text"', b"{}", b'{"errors": []}', b"\xff\xfe", b"null"]


@pytest.mark.parametrize("body", ODD_BODIES)
@pytest.mark.parametrize("status", [400, 401, 422])
def test_odd_bodies(writer_to, answering, pulses, status, body):
    """A failure whose body the library does not know is an error with its status all the same."""
    answering.script = http_answer(status, body)
    with pytest.raises(AnsweredError) as caught:
        writer_to(answering).deliver(pulses(5), "")
    assert caught.value.status == status


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_success(writer_to, answering, pulses, status):
    """The four statuses of success, whatever their body is."""
    for body in [b""] if status == 204 else ODD_BODIES:
        answering.script = http_answer(status, body)
        assert writer_to(answering).deliver(pulses(5), "") == Receipt(5)


def test_hung(writer_to, answering, pulses, monkeypatch):
    """A server that never answers is given up after the timeout, and asked once."""
    monkeypatch.setattr("powermeter.writers.librato.TIMEOUT_S", 0.2)
    answering.script = HANG
    with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s"):
        writer_to(answering).deliver(pulses(5), "")
    assert len(answering.requests) == 1


def test_refused(writer_of, pulses):
    """A closed port is reported with its address and in words."""
    hostname = f"127.0.0.1:{free_port()}"
    writer = writer_of("librato", user="me", token="T0p-secret", hostname=hostname, protocol="http")
    with pytest.raises(UnreachableError, match=f"{hostname}: Connection refused"):
        writer.deliver(pulses(5), "")


@pytest.mark.parametrize("answer", [BEHAVIOURS["reset"], b"SSH-2.0-OpenSSH_9.2\r\n\r\n"])
def test_broken_answer(writer_to, answering, pulses, answer):
    """An answer that breaks off, or is no HTTP, is an error of delivery."""
    answering.script = answer
    with pytest.raises(UnreachableError):
        writer_to(answering).deliver(pulses(5), "")


CHUNKED = b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize("size", [b"-1", b"-5", b"0"])
def test_answer_without_an_end(writer_to, answering, pulses, size):
    """A chunk of -1 bytes or trailers without an end, which Python's library would read, are broken off."""
    answering.script = itertools.chain([CHUNKED + size + b"\r\n"], itertools.repeat(b"X: x\r\n" * 1000))
    with pytest.raises(UnreachableError):
        writer_to(answering).deliver(pulses(5), "")


def test_timeout_is_the_whole_request_s(writer_to, answering, pulses, monkeypatch):
    """A byte now and then does not keep a writer waiting: the timeout is that of the whole request."""
    monkeypatch.setattr("powermeter.writers.librato.TIMEOUT_S", 0.3)
    ended = threading.Event()

    def slowly(_request):
        yield b"HTTP/1.1 200 OK\r\nX: "
        while not ended.wait(0.02):
            yield b"x"

    answering.script = slowly
    begun_s = time.monotonic()
    with pytest.raises(UnreachableError, match=r"no answer within 0\.3 s"):
        writer_to(answering).deliver(pulses(5), "")
    took_s = time.monotonic() - begun_s
    ended.set()
    assert 0.3 <= took_s < 5


def test_secrets_stay_out_of_what_is_no_answer(writer_to, answering, pulses):
    """An invalid status line that repeats what was sent is shown without the token."""
    answering.script = lambda request: request.headers["authorization"].encode() + b" T0p-secret \x1b[2J\r\n\r\n"
    with pytest.raises(UnreachableError) as caught:
        writer_to(answering).deliver(pulses(5), "")
    assert "***" in str(caught.value)
    assert "T0p-secret" not in str(caught.value)
    assert answering.requests[0].headers["authorization"].split()[1] not in str(caught.value)
    assert str(caught.value).isprintable()


def test_no_tls_where_https_is_set(writer_to, answering, pulses):
    """A server that does not speak TLS is an error of delivery, and gets no token."""
    with pytest.raises(UnreachableError):
        writer_to(answering, protocol="https").deliver(pulses(5), "")
    assert answering.requests == []


# --- Secrets, and check()


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_secrets_stay_out_of_errors_and_log(writer_to, answering, pulses, caplog, status):
    """Neither an error nor the log, the library's at its most talkative too, holds the token or its header."""
    caplog.set_level("DEBUG")
    caplog.set_level("DEBUG", "librato")

    def echo(request):
        return http_answer(status, f"{request.headers['authorization']} T0p-secret {request.path}".encode())

    answering.script = echo
    texts = []
    try:
        writer_to(answering).deliver(pulses(5), "")
    except AnsweredError as error:
        texts.append(str(error))
    assert bool(texts) == (status != 200)
    header = answering.requests[0].headers["authorization"]
    for text in (*texts, caplog.text):
        assert "T0p-secret" not in text
        assert header not in text


def test_bodies_stay_out_of_the_log(writer, pulses, caplog):
    """The library's log of every body is off."""
    caplog.set_level("DEBUG")
    caplog.set_level("DEBUG", "librato")
    writer().deliver(pulses(5), "")
    assert "measure_time" not in caplog.text


def test_check_asks_and_leaves_nothing(librato_server, writer):
    """A check asks once, with the user and the token, and sends no gauge."""
    assert writer().check() == librato_server.hostname
    assert [(method, path.partition("?")[0]) for method, path in librato_server.requests] == [("GET", "/v1/metrics")]
    assert librato_server.gauges == {}


def test_check_judges_token_and_path(writer):
    """A check fails where a delivery would: a wrong token, a wrong path."""
    for options, status in (({"token": "wrong"}, 401), ({"base_path": "/"}, 404)):
        with pytest.raises(AnsweredError) as caught:
            writer(**options).check()
        assert caught.value.status == status
