"""
What servers answer, in their own words, and what each answer means for the pulses.

Each text is one that the named server gives, by its source or its documentation. What InfluxDB 1, nginx and vmauth say
is also asked of the real ones: test_influxdb.py, test_proxies.py.
"""

import json
import urllib.request

import pytest
from http_server import http_answer

from powermeter.errors import AnsweredError, DeliveryError, MisdirectedError
from powermeter.writers import Receipt
from powermeter.writers import librato as librato_module
from powermeter.writers.answers import Judgement, Verdict, complains, judge, listed, message
from powermeter.writers.influxdb import ADVICE

KEPT, MISCONFIGURED = Verdict.KEPT, Verdict.MISCONFIGURED
REFUSED, EXPIRED, TOO_LARGE = Verdict.REFUSED, Verdict.EXPIRED, Verdict.TOO_LARGE

APACHE = (
    '<!DOCTYPE HTML PUBLIC "-//IETF//DTD HTML 2.0//EN">\n<html><head>\n<title>400 Bad Request</title>\n</head><body>\n'
    "<h1>Bad Request</h1>\n<p>Your browser sent a request that this server could not understand.<br />\n"
    "Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />\n Instead use the HTTPS scheme to access "
    "this URL, please.<br />\n</p>\n</body></html>\n"
)


def error(text):
    return json.dumps({"error": text})


def v2(text):
    return json.dumps({"code": "unprocessable entity", "message": text})


def librato_error(kind, **errors):
    return json.dumps({"errors": {kind: errors}})


def nginx(title):
    """A page of nginx's."""
    body = f"<center><h1>400 Bad Request</h1></center>\r\n<center>{title}</center>\r\n<hr><center>nginx</center>"
    return f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n{body}\r\n</body>\r\n</html>\r\n"


#: What both versions of InfluxDB say where a batch was stored but for some points.
TYPE_CONFLICT = (
    'partial write: field type conflict: input field "power" on measurement "electricity_power" is type float, already '
    "exists as type integer dropped=1"
)
OLD = "partial write: points beyond retention policy dropped=4"
#: What VictoriaMetrics' servers put before each error.
VM = 'remoteAddr: "127.0.0.1:50000"; requestURI: /write?db=power; '

#: By server: the status, the body, the verdict, and what the advice is about.
ANSWERS = {
    "Go, TLS port": (400, "Client sent an HTTP request to an HTTPS server.\n", MISCONFIGURED, "tls"),
    "nginx, TLS port": (400, nginx("400 The plain HTTP request was sent to HTTPS port"), MISCONFIGURED, "tls"),
    "Apache, TLS port": (400, APACHE, MISCONFIGURED, "tls"),
    "Tomcat, TLS port": (400, "This combination of host and port requires TLS.\n", MISCONFIGURED, "tls"),
    "a balancer's page": (400, nginx("400 Bad Request"), MISCONFIGURED, "page"),
    "a balancer's page of 422": (422, nginx("422"), MISCONFIGURED, "page"),
    "a balancer's page of 502": (502, nginx("502 Bad Gateway"), KEPT, ""),
    "a proxy that does not trust": (400, "400: Bad Request", REFUSED, "any"),
    "an empty 400": (400, "", REFUSED, "any"),
    "an empty 422": (422, "", REFUSED, "any"),
    "InfluxDB 1, type": (400, error(TYPE_CONFLICT), MISCONFIGURED, "measurement"),
    "InfluxDB 1, age": (400, error(OLD), EXPIRED, ""),
    "InfluxDB 1, series": (
        400,
        error("partial write: max-series-per-database limit exceeded: (2) dropped=4"),
        MISCONFIGURED,
        "limit",
    ),
    "InfluxDB 1, values": (
        400,
        error('partial write: max-values-per-tag limit exceeded (2/2): measurement="m" tag="meter" dropped=1'),
        MISCONFIGURED,
        "limit",
    ),
    "InfluxDB 1, its disk": (
        400,
        error("partial write: write /var/lib/influxdb/data/p/_series/06/0002: no space left on device dropped=1"),
        KEPT,
        "",
    ),
    "InfluxDB 1, its memory": (500, error("engine: cache-max-memory-size exceeded: (1074/1073)"), KEPT, ""),
    "InfluxDB 1, timeout": (500, error("timeout"), KEPT, ""),
    "InfluxDB 1, line": (400, error("unable to parse 'a b': missing fields"), REFUSED, ""),
    "InfluxDB 1, a line with our words": (
        400,
        error("unable to parse 'timeout,a=quota b': missing fields"),
        REFUSED,
        "",
    ),
    "InfluxDB 1, tag": (
        400,
        error('partial write: invalid tag key: input tag "time" on measurement "a" is invalid dropped=1'),
        MISCONFIGURED,
        "tags",
    ),
    "InfluxDB 1, database": (404, error('database not found: "power"'), MISCONFIGURED, "database"),
    "InfluxDB 1, no database": (400, error("database is required"), MISCONFIGURED, "database"),
    "InfluxDB 1, policy": (500, error("retention policy not found: long"), MISCONFIGURED, "database"),
    "InfluxDB 1, login": (401, error("authorization failed"), MISCONFIGURED, "login"),
    "InfluxDB 1, rights": (403, error('"me" user is not authorized to write to database'), MISCONFIGURED, "login"),
    "InfluxDB 2, type": (422, v2(f"failure writing points to database: {TYPE_CONFLICT}"), MISCONFIGURED, "measurement"),
    "InfluxDB 2, age": (422, v2(f"failure writing points to database: {OLD}"), EXPIRED, ""),
    "InfluxDB 2.0.0, age": (500, v2(f"unexpected error writing points to database: {OLD}"), EXPIRED, ""),
    "InfluxDB 2, mapping": (404, v2("no dbrp mapping found"), MISCONFIGURED, "database"),
    "InfluxDB 2, bucket": (404, v2('bucket "power" not found'), MISCONFIGURED, "database"),
    "InfluxDB 2, token": (401, v2("unauthorized access"), MISCONFIGURED, "login"),
    "InfluxDB 2, line": (400, v2("unable to parse 'a b': missing fields"), REFUSED, ""),
    "InfluxDB 2, size": (413, v2("cannot read data: points in batch is too large"), TOO_LARGE, ""),
    "InfluxDB 2, many": (429, v2("limit exceeded"), KEPT, ""),
    "InfluxDB 3, tables": (
        422,
        error("Update to schema would exceed number of tables limit of 2000 tables"),
        MISCONFIGURED,
        "limit",
    ),
    "InfluxDB 3, columns": (
        422,
        error("Update to schema would exceed number of columns per table limit of 500 columns"),
        MISCONFIGURED,
        "limit",
    ),
    "InfluxDB 3, databases": (
        422,
        error("Adding a new database would exceed limit of 5 databases"),
        MISCONFIGURED,
        "limit",
    ),
    "VictoriaMetrics as a cluster": (400, f'{VM}unsupported path requested: "/write"', MISCONFIGURED, "path"),
    "vmauth": (400, f'{VM}missing route for "/write"', MISCONFIGURED, "path"),
    "Go, path": (404, "404 page not found\n", MISCONFIGURED, "path"),
    "Librato, time": (400, librato_error("params", measure_time=["is too far in the past"]), EXPIRED, ""),
    "Librato, name": (400, librato_error("params", name=["is not present"]), REFUSED, "any"),
    "Librato, TLS": (
        400,
        '{"errors":{"request":["Please use secured connection through https!"]}}',
        MISCONFIGURED,
        "tls",
    ),
    "Librato, plan": (422, '{"errors":{"request":["Your plan does not include this"]}}', MISCONFIGURED, "limit"),
    "Librato, account": (401, '{"errors":{"request":["Authorization Required"]}}', MISCONFIGURED, "login"),
}


@pytest.mark.parametrize(("status", "body", "verdict", "advice"), ANSWERS.values(), ids=ANSWERS)
def test_what_servers_answer(status, body, verdict, advice):
    """Each answer is judged by what it says: what is no matter of single pulses keeps them all."""
    page = "<html" in body.lower()
    assert judge(status, body, page) == Judgement(verdict, advice)


@pytest.mark.parametrize(("status", "body", "verdict", "advice"), ANSWERS.values(), ids=ANSWERS)
def test_through_both_writers(writer_of, answering, pulses, status, body, verdict, advice):
    """Both writers keep what the table keeps, show the server's text, and advise with a key of their settings."""
    page = "<html" in body.lower()
    answering.script = http_answer(status, body.encode(), content_type="text/html" if page else "application/json")
    port = answering.port
    influxdb = writer_of("influxdb", host="127.0.0.1", port=port)
    librato = writer_of("librato", user="me", token="T0p-secret", hostname=f"127.0.0.1:{port}", protocol="http")
    for writer, known in ((influxdb, ADVICE), (librato, librato_module.ADVICE)):
        if (found := outcome(writer, pulses(20), known.get(advice, ""))) is not verdict:
            # A text of another service, with errors that are not Librato's "params".
            assert (writer, found) == (librato, MISCONFIGURED)


def outcome(writer, sent, advice):
    """What *writer* makes of the answer; where it keeps the pulses, its error says what the *advice* is."""
    try:
        receipt = writer.deliver(sent, "")
    except DeliveryError as caught:
        failure = caught
    else:
        assert receipt.taken == 20
        assert receipt.refused == 4, "as InfluxDB says"
        return EXPIRED
    assert advice in str(failure)
    return failure.verdict


V3_LINE = {"original_line": "m,meter=house power=1 1", "line_number": 1, "error_message": "No fields were provided"}


def v3_partial(*numbers, why="No fields were provided"):
    entries = [{"original_line": "m ...", "line_number": n, "error_message": why} for n in numbers]
    return json.dumps({"error": "partial write of line protocol occurred", "data": entries}).encode()


def cloud(*numbers, why="Unable to parse timestamp value '1234'"):
    lines = [f"error parsing line {n} (1-based): {why}" for n in numbers]
    said = "\n".join(["failed to parse line protocol:", "errors encountered on line(s):", *lines])
    return json.dumps({"code": "invalid", "line": numbers[0], "message": said}).encode()


TYPE = "invalid column type for column 'power', expected iox::column_type::field::integer, got iox::column_type::field"


def influx(writer_of, answering):
    return writer_of("influxdb", host="127.0.0.1", port=answering.port)


def test_influxdb_3_names_two_of_ten(writer_of, answering, pulses):
    """InfluxDB 3's list of refused lines: those are counted, the others are stored."""
    answering.script = http_answer(400, v3_partial(3, 7))
    receipt = influx(writer_of, answering).deliver(pulses(10), "")
    assert (receipt.taken, receipt.refused) == (10, 2)
    assert "No fields were provided" in receipt.reason


@pytest.mark.parametrize("numbers", [range(1, 11), [2, 3, 4]])
def test_influxdb_3_of_another_type(writer_of, answering, pulses, numbers):
    """A column of another type is not a fault of the points: all are kept, and the reason names the way out."""
    answering.script = http_answer(400, v3_partial(*numbers, why=TYPE))
    with pytest.raises(AnsweredError, match=r"invalid column type.*set another measurement") as caught:
        influx(writer_of, answering).deliver(pulses(10), "")
    assert caught.value.verdict is MISCONFIGURED


def test_influxdb_3_refuses_all(writer_of, answering, pulses):
    """If every line is refused, it may not be about the points: none is given up just for that."""
    answering.script = http_answer(400, v3_partial(*range(1, 11)))
    with pytest.raises(AnsweredError) as caught:
        influx(writer_of, answering).deliver(pulses(10), "")
    assert caught.value.verdict is REFUSED
    assert caught.value.refused == set(range(10))


def test_influxdb_3_that_stores_all_or_nothing(writer_of, answering, pulses):
    """An answer that names one line and does not say that the others are stored: these come again without it."""
    body = json.dumps({"error": "parsing failed for write_lp endpoint", "data": {**V3_LINE, "line_number": 4}}).encode()
    answering.script = http_answer(400, body)
    with pytest.raises(AnsweredError) as caught:
        influx(writer_of, answering).deliver(pulses(10), "")
    assert (caught.value.verdict, caught.value.refused) == (REFUSED, {3})


def test_clouds_of_influxdb(writer_of, answering, pulses):
    """A sentence per refused line in a 400: whether the others are stored depends on the cluster: they come again."""
    answering.script = http_answer(400, cloud(2, 4))
    with pytest.raises(AnsweredError) as caught:
        influx(writer_of, answering).deliver(pulses(10), "")
    assert (caught.value.verdict, caught.value.refused) == (REFUSED, {1, 3})


def test_clouds_of_influxdb_with_201(writer_of, answering, pulses):
    """The refused lines in the body of a 201: these are counted, the others stored."""
    answering.script = http_answer(201, cloud(2, 4))
    receipt = influx(writer_of, answering).deliver(pulses(10), "")
    assert (receipt.taken, receipt.refused) == (10, 2)


def test_a_list_that_may_have_been_cut_off(writer_of, answering, pulses):
    """100 lines are the most that the clouds list: of the others nothing is known, and they come again."""
    answering.script = http_answer(201, cloud(*range(1, 101)))
    with pytest.raises(AnsweredError) as caught:
        influx(writer_of, answering).deliver(pulses(150), "")
    assert caught.value.refused == set(range(100))


def test_points_rejected(writer_of, answering, pulses):
    """The cloud of InfluxDB 2 says how many of how many it did not take."""
    said = "partial write error (1 accepted): 2/3 points rejected; first error: at line 3:13: expected tag key"
    answering.script = http_answer(400, v2(said).encode())
    receipt = influx(writer_of, answering).deliver(pulses(3), "")
    assert (receipt.taken, receipt.refused) == (3, 2)


def test_lines_outside_the_batch():
    """A list of lines that are not in the batch, or are no numbers, names nobody."""
    assert [one.place for one in listed(v3_partial(0, 1, 3, 4, 10**30), 3)] == [0, 2]
    assert listed(b'{"data": [{"line_number": "2"}, {}, 7], "error": "x"}', 3) == []
    assert listed(b'{"data": 5, "message": "no line here"}', 3) == []
    assert listed(b"[" * 50_000, 3) == []


@pytest.mark.parametrize("status", [200, 201, 202, 203, 204, 206])
@pytest.mark.parametrize(
    "body", [b"", b"{}", b"OK", b'{"results":[]}', b'{"code":0,"message":"ok"}', b'{"message":"ok"}']
)
def test_any_success_is_one(writer_of, answering, pulses, status, body):
    """Whatever number a success has, the pulses are delivered: some gateways answer 200, 201 or 202."""
    answering.script = http_answer(status, b"" if status == 204 else body)
    assert influx(writer_of, answering).deliver(pulses(5), "") == Receipt(5)


@pytest.mark.parametrize("status", [200, 202])
@pytest.mark.parametrize(
    "page", [b"<!DOCTYPE html><html>Sign in</html>", b"\n<HTML><body>Welcome</body></HTML>", b"<head><title>x</title>"]
)
def test_a_web_page_is_none(writer_of, answering, pulses, status, page):
    """A web page with a success, as a router's or a portal's, has stored nothing."""
    answering.script = http_answer(status, page, content_type="text/plain")
    with pytest.raises(MisdirectedError, match="web page"):
        influx(writer_of, answering).deliver(pulses(5), "")


def test_an_error_in_a_success(writer_of, answering, pulses):
    """A 200 with an error in it, as InfluxDB's before 1.0 gave it, has stored nothing."""
    answering.script = http_answer(200, b'{"error":"field type conflict"}')
    with pytest.raises(AnsweredError, match="field type conflict"):
        influx(writer_of, answering).deliver(pulses(5), "")


def test_complaints():
    """Which answers are errors whatever their status, and which are not."""
    assert complains(b'{"error":"x"}')
    assert complains(b'{"code":"invalid","line":2,"message":"x"}')
    assert not any(map(complains, (b"", b"{}", b'{"error":null}', b'{"code":0}', b"not JSON", b"[1]")))


def test_words():
    """The words of an answer are those that a person wants to read."""
    assert message(error("no").encode()) == "no"
    assert message(nginx("400 The &quot;plain&quot;").encode()) == '400 The "plain"'
    assert message(b'{"error":5,"message":""}') == '{"error":5,"message":""}'


def test_check_of_influxdb_3(writer_of, answering):
    """A check sends only a comment, which InfluxDB 3 calls an empty write: that is a success."""
    answering.script = http_answer(400, error("incoming write was empty").encode())
    assert influx(writer_of, answering).check() == f"127.0.0.1:{answering.port}"


def test_an_empty_write_of_pulses_is_none(writer_of, answering, pulses):
    """Where pulses were sent and the server saw none, something in between took them: they are kept."""
    answering.script = http_answer(400, error("incoming write was empty").encode())
    with pytest.raises(AnsweredError):
        influx(writer_of, answering).deliver(pulses(5), "")


def test_check_finds_a_field_of_another_type(influxd, influx_db, writer_of):
    """Before the first pulse a check already sees that the measurement has our fields with another type."""
    writer = writer_of("influxdb", host="127.0.0.1", port=influxd.port, database=influx_db)
    assert writer.check()
    url = f"http://127.0.0.1:{influxd.port}/write?db={influx_db}"
    with urllib.request.urlopen(url, data=b"electricity_power,meter=x power=5i,energy=1 1", timeout=30):
        pass
    with pytest.raises(MisdirectedError, match=r"power is integer, not float: set another measurement"):
        writer.check()
