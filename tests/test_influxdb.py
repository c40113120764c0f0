import html
import itertools
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from guarded_influxd import ADMIN, GuardedInfluxd
from http_server import BEHAVIOURS, HANG, Answering, forward_to, http_answer, tls_context
from influxd import Influxd, free_port, influxd_path
from program import wait_until

from powermeter.errors import AnsweredError, DeliveryError, LocalError, MisdirectedError, UnreachableError
from powermeter.meter import NS_PER_S
from powermeter.writers import Receipt, writer_type
from powermeter.writers.answers import Verdict

SRC = Path(__file__).parent.parent / "src"


@pytest.fixture
def writer(influxd, influx_db, writer_of):
    """A writer to the test's database; its options may be changed."""

    def make(**options):
        return writer_of("influxdb", **{"host": "127.0.0.1", "port": influxd.port, "database": influx_db, **options})

    return make


@pytest.fixture
def writer_to(writer_of):
    """A writer to the scriptable server."""

    def make(answering, **options):
        return writer_of("influxdb", **{"host": "127.0.0.1", "port": answering.port, "timeout": 20, **options})

    return make


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A real InfluxDB that asks for a password, with the database power."""
    if not influxd_path().exists():
        pytest.fail("run: make servers", pytrace=False)
    with GuardedInfluxd(tmp_path_factory.mktemp("guarded")) as server:
        yield server


def write_lines(influxd, database, *lines):
    """Write by hand what our writers never would."""
    url = f"http://127.0.0.1:{influxd.port}/write?" + urllib.parse.urlencode({"db": database})
    with urllib.request.urlopen(url, data="\n".join(lines).encode(), timeout=30):
        pass


def as_points(pulses):
    """What InfluxDB gives back of *pulses*, without tags of the settings."""
    return [
        {"time": p.time_ns, "energy": p.watt_hours, "meter": p.meter, "power": p.watts, "register": p.register_kwh}
        for p in pulses
    ]


# --- What is stored


def test_points_read_back_exactly(influxd, influx_db, writer, pulses):
    """Times come back to the ns and numbers to the last bit; a pulse without power has no field for it."""
    sent = pulses(200)
    assert sent[0].watts is None
    assert writer().deliver(sent, "") == Receipt(200)
    assert influxd.points(database=influx_db) == as_points(sent)


def test_no_power_makes_no_field(influxd, influx_db, writer, pulses):
    """Where no pulse has a power, the measurement has no field of that name."""
    writer().deliver(pulses(1), "")
    (series,) = influxd.query("SHOW FIELD KEYS", influx_db)
    assert [name for name, _ in series["values"]] == ["energy", "register"]


def test_every_field_is_a_float(influxd, influx_db, writer, pulses):
    """Whole numbers are sent as floats too: a field's type is fixed by its first write."""
    sent = [p._replace(watts=1000.0, watt_hours=1.0, register_kwh=3.0) for p in pulses(2)]
    writer().deliver(sent, "")
    (series,) = influxd.query("SHOW FIELD KEYS", influx_db)
    assert series["values"] == [["energy", "float"], ["power", "float"], ["register", "float"]]


@pytest.mark.parametrize("watts", [5e-324, 0.1 + 0.2, 1e22, 123456.78901234567, 1.7976931348623157e308])
def test_every_float_survives(influxd, influx_db, writer, pulses, watts):
    """The shortest text of any float reads back to that float."""
    writer().deliver([pulses(1)[0]._replace(watts=watts)], "")
    (point,) = influxd.points(database=influx_db)
    assert point["power"] == watts


def test_sending_again_changes_nothing(influxd, influx_db, writer, pulses):
    """The same pulses a second time, by another writer and in other batches, leave the points as they were."""
    sent = pulses(20)
    writer().deliver(sent, "")
    again = writer()
    again.deliver(sent[:7], "")
    again.deliver(sent[5:], "")
    assert influxd.points(database=influx_db) == as_points(sent)


def test_two_meters_at_the_same_time(influxd, influx_db, writer, pulses):
    """Pulses of two meters with the very same time are two points."""
    house, flat = pulses(5, "house"), pulses(5, "flat-2")
    assert [p.time_ns for p in house] == [p.time_ns for p in flat]
    writer().deliver([p for pair in zip(house, flat, strict=True) for p in pair], "")
    found = influxd.points(database=influx_db)
    assert [p for p in found if p["meter"] == "house"] == as_points(house)
    assert [p for p in found if p["meter"] == "flat-2"] == as_points(flat)


@pytest.mark.parametrize(
    ("measurement", "tags"),
    [
        ("my power, at = home", {"my home, no = 1": "a, b = c d"}),
        ("électricité ⚡", {"pièce": "küche 🏠"}),
        ('a "quoted" one', {'"q"': '"w"'}),
        ("a#b", {"#k": "#v"}),
    ],
)
def test_measurement_and_tags_are_escaped(influxd, influx_db, writer, pulses, measurement, tags):
    """Spaces, commas, equals signs, quotes and any letter come back as they were set."""
    writer(measurement=measurement, tags=tags).deliver(pulses(3), "")
    # Not in a query: there the name would need another escape.
    (series,) = influxd.query("SELECT * FROM /.*/", influx_db)
    assert series["name"] == measurement
    assert [dict(zip(series["columns"], row, strict=True)) for row in series["values"]] == [
        {**point, **tags} for point in as_points(pulses(3))
    ]


@pytest.mark.parametrize("measurement", ["#power", " #power"])
def test_no_measurement_is_a_comment(influxd, influx_db, writer, pulses, measurement):
    """A measurement that the settings allow never makes a comment of a line: the server would drop it in silence."""
    try:
        writer_type("influxdb").keys["measurement"].check(measurement)
    except ValueError:
        return
    writer(measurement=measurement).deliver(pulses(3), "")
    (series,) = influxd.query("SELECT * FROM /.*/", influx_db) or [{"values": []}]
    assert len(series["values"]) == 3


def test_no_tag_has_a_name_that_the_server_refuses(writer, pulses):
    """A tag that the settings allow is taken: with one named time every point would be refused."""
    tags = {"time": "now"}
    try:
        writer_type("influxdb").keys["tags"].check(tags)
    except ValueError:
        return
    assert writer(tags=tags).deliver(pulses(3), "") == Receipt(3)


def test_retention_policy(influxd, influx_db, writer, pulses):
    """Points go to the retention policy that is set."""
    influxd.query(f"CREATE RETENTION POLICY long ON {influx_db} DURATION INF REPLICATION 1")
    writer(retention_policy="long").deliver(pulses(3), "")
    assert influxd.points(database=influx_db) == []
    (series,) = influxd.query(f"SELECT count(energy) FROM {influx_db}.long.electricity_power")
    assert series["values"][0][1] == 3


# --- What the server does not want


def test_retention_policy_missing(influxd, influx_db, writer, pulses):
    """The server's 500 for a missing retention policy keeps its status and says which one."""
    with pytest.raises(AnsweredError, match=r"retention policy not found.*nowhere") as caught:
        writer(retention_policy="nowhere").deliver(pulses(3), "")
    assert caught.value.status == 500
    assert "b'" not in str(caught.value)
    assert influxd.points(database=influx_db) == []


def test_database_missing(writer, pulses):
    """A database that is not there is a 404 that names it."""
    with pytest.raises(AnsweredError, match=r'database not found: .*"nowhere') as caught:
        writer(database="nowhere").deliver(pulses(3), "")
    assert caught.value.status == 404


def test_password(guarded, writer, pulses):
    """With the right password, spaces and letters beyond ASCII in it, the points are stored."""
    assert writer(port=guarded.port, database="power", **ADMIN).deliver(pulses(3), "") == Receipt(3)
    (series,) = guarded.query_as_admin('SELECT * FROM "electricity_power"')
    assert len(series["values"]) == 3


@pytest.mark.parametrize("login", [{}, {"username": "admin", "password": "hunter2"}, {"username": "stranger"}])
def test_wrong_password(guarded, writer, pulses, login):
    """A wrong password, or none, is a 401; the error does not contain the password."""
    with pytest.raises(AnsweredError) as caught:
        writer(port=guarded.port, database="power", **login).deliver(pulses(3), "")
    assert caught.value.status == 401
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("measurement", ["electricity_power", "power_of_a_house_" * 12])
def test_partial_write_by_field_type(influxd, influx_db, writer, pulses, measurement):
    """Points whose field has another type: the good ones are stored, and all are kept until someone has chosen."""
    sent = pulses(4)
    write_lines(influxd, influx_db, f'{measurement},meter=house power="much" {sent[0].time_ns - 1}')
    with pytest.raises(AnsweredError, match=r"field type conflict.*: set another measurement, or remove") as caught:
        writer(measurement=measurement).deliver(sent, "")
    assert caught.value.verdict is Verdict.MISCONFIGURED
    # The first has no power.
    (series,) = influxd.query(f'SELECT energy FROM "{measurement}" WHERE energy > 0', influx_db)
    assert series["values"] == [[sent[0].time_ns, sent[0].watt_hours]]


def test_partial_write_by_age(influxd, influx_db, writer, pulses):
    """Points older than the retention policy are refused and counted, the young ones of the batch stored."""
    influxd.query(f"CREATE RETENTION POLICY short ON {influx_db} DURATION 1h REPLICATION 1 DEFAULT")
    now_ns = time.time_ns()
    old = pulses(5, start_ns=now_ns - 86400 * NS_PER_S)
    young = pulses(4, first=6, start_ns=now_ns - 60 * NS_PER_S)
    receipt = writer().deliver(old + young, "")
    assert (receipt.taken, receipt.refused) == (9, 5)
    assert "points beyond retention policy" in receipt.reason
    assert influxd.points(database=influx_db) == as_points(young)


def test_line_that_is_none(writer_to, answering, pulses):
    """A 400 that is no partial write is an error: nothing of the batch is known to be stored."""
    answering.script = http_answer(400, b'{"error":"unable to parse"}')
    with pytest.raises(AnsweredError, match="unable to parse") as caught:
        writer_to(answering).deliver(pulses(3), "")
    assert caught.value.status == 400


def test_partial_write_by_limit(tmp_path, writer_of, pulses):
    """A server at its limit of series is at fault, not the pulses: all are kept, also those of a known series."""
    with Influxd(tmp_path, data="max-series-per-database = 1") as server:
        server.query("CREATE DATABASE power")
        writer = writer_of("influxdb", host="127.0.0.1", port=server.port)
        writer.deliver(pulses(1), "")  # several at once would count as so many series
        with pytest.raises(AnsweredError, match=r"max-series-per-database.*: it is a limit of the server") as caught:
            writer.deliver([*pulses(3, first=4), *pulses(3, "flat")], "")
        assert caught.value.verdict is Verdict.MISCONFIGURED
        writer.check(pulses(1))
        with pytest.raises(AnsweredError, match="max-series-per-database"):
            writer.check([*pulses(1), *pulses(1, "flat")])


def test_lines_that_are_none(writer_to, answering, pulses):
    """InfluxDB 1 quotes each line that it could not read; the others are stored."""
    said = b"partial write: unable to parse 'x': missing fields\\nunable to parse 'y': missing fields dropped=0"
    answering.script = http_answer(400, b'{"error":"' + said + b'"}')
    receipt = writer_to(answering).deliver(pulses(3), "")
    assert (receipt.taken, receipt.refused) == (3, 2)


def test_partial_write_without_a_number(writer_to, answering, pulses):
    """A partial write that does not tell how many were dropped says nothing of the others: none is believed stored."""
    for error in (b"partial write: something", b"partial write: something dropped=0"):
        answering.script = http_answer(400, b'{"error":"' + error + b'"}')
        with pytest.raises(AnsweredError) as caught:
            writer_to(answering).deliver(pulses(3), "")
        assert caught.value.verdict is Verdict.REFUSED


# --- What is sent, and what answers


def test_one_request_a_batch(writer_to, answering, pulses):
    """A batch is one POST to /write with the database, times in ns, and lines that end in the time."""
    writer_to(answering, retention_policy="long").deliver(pulses(100), "")
    (request,) = answering.requests
    assert request.method == "POST"
    path, _, query = request.path.partition("?")
    assert path == "/write"
    assert urllib.parse.parse_qs(query) == {"db": ["power"], "rp": ["long"]}
    lines = request.body.decode().splitlines()
    assert [int(line.split()[-1]) for line in lines] == [p.time_ns for p in pulses(100)]


@pytest.mark.parametrize(
    ("login", "header"),
    [
        ({}, None),
        ({"username": "", "password": ""}, None),
        ({"token": "T0p-secret=="}, "Token T0p-secret=="),
        ({"username": "me", "password": "x"}, "Basic bWU6eA=="),
        ({"username": "me"}, "Basic bWU6"),
    ],
)
def test_authorization(writer_to, answering, pulses, monkeypatch, tmp_path, login, header):
    """A token or a user goes into the header, else nothing: neither what ~/.netrc has nor the library's own root."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login stranger password stranger\ndefault login other password other\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    writer_to(answering, **login).deliver(pulses(3), "")
    (request,) = answering.requests
    assert request.headers.get("authorization") == header
    assert "u=" not in request.path
    assert "p=" not in request.path


def test_no_proxy(writer, pulses, monkeypatch):
    """A proxy of the environment is not asked."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert writer().deliver(pulses(3), "") == Receipt(3)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirect_is_not_followed(writer_to, answering, pulses, status):
    """A redirect is reported as one, and not followed."""
    with Answering(http_answer(204)) as elsewhere:
        answering.script = http_answer(status, Location=f"http://127.0.0.1:{elsewhere.port}/write")
        with pytest.raises(MisdirectedError, match=f"127.0.0.1:{answering.port} answered with a redirect"):
            writer_to(answering).deliver(pulses(3), "")
        assert elsewhere.connections == 0
    assert len(answering.requests) == 1


def test_web_page_is_no_success(writer_to, answering, pulses):
    """A web page with status 200 is not InfluxDB."""
    answering.script = BEHAVIOURS["200 HTML"]
    with pytest.raises(MisdirectedError, match="is not InfluxDB"):
        writer_to(answering).deliver(pulses(3), "")


@pytest.mark.parametrize(
    "name", ["400", "401", "403", "404", "413", "422", "429", "500", "503 keep-alive", "503 close"]
)
def test_status_is_kept(writer_to, answering, pulses, name):
    """Every failure is an error with its status after a single request; the next batch is not affected."""
    answering.script = BEHAVIOURS[name]
    writer = writer_to(answering)
    with pytest.raises(AnsweredError) as caught:
        writer.deliver(pulses(3), "")
    assert caught.value.status == int(name[:3])
    assert len(answering.requests) == 1
    answering.script = http_answer(204)
    assert writer.deliver(pulses(3), "") == Receipt(3)


def test_hung(writer_to, answering, pulses):
    """A server that never answers is given up after the timeout, and asked once."""
    answering.script = HANG
    with pytest.raises(UnreachableError, match=r"no answer within 0\.2 s"):
        writer_to(answering, timeout=0.2).deliver(pulses(3), "")
    assert len(answering.requests) == 1


def test_refused(writer_of, pulses):
    """A closed port is reported with its address and in words."""
    port = free_port()
    with pytest.raises(UnreachableError, match=f"127.0.0.1:{port}: Connection refused"):
        writer_of("influxdb", host="127.0.0.1", port=port).deliver(pulses(3), "")


def test_unknown_host(writer_of, pulses):
    """A name that does not resolve is an error of delivery."""
    with pytest.raises(UnreachableError, match=r"nowhere\.invalid:8086"):
        writer_of("influxdb", host="nowhere.invalid").deliver(pulses(3), "")


@pytest.mark.parametrize("answer", [BEHAVIOURS["reset"], b"SSH-2.0-OpenSSH_9.2\r\n\r\n"])
def test_broken_answer(writer_to, answering, pulses, answer):
    """An answer that breaks off, or is no HTTP, is an error of delivery."""
    answering.script = answer
    with pytest.raises(DeliveryError):
        writer_to(answering).deliver(pulses(3), "")


CHUNKED = b"HTTP/1.1 400 Bad Request\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        (CHUNKED + b"-1\r\n", b"x" * 65536),
        (CHUNKED + b"0\r\n", b"X: x\r\n" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    ],
    ids=["a chunk of -1", "trailers", "100 Continue"],
)
def test_answer_without_an_end(writer_to, answering, pulses, begin, piece):
    """An answer of which Python's library would read without an end is broken off at its bound."""
    answering.script = itertools.chain([begin], itertools.repeat(piece))
    with pytest.raises(UnreachableError, match="an answer of more than 131,072 bytes"):
        writer_to(answering).deliver(pulses(3), "")


def test_chunk_of_a_wrong_size(writer_to, answering, pulses):
    """A chunk of -5 bytes, at which Python's library raises what it never does else, is an error of delivery."""
    answering.script = CHUNKED + b"-5\r\n"
    with pytest.raises(UnreachableError):
        writer_to(answering).deliver(pulses(3), "")


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 400 X\r\nContent-Length: 900\r\n\r\n"])
def test_timeout_is_the_whole_request_s(writer_to, answering, pulses, begin):
    """A byte now and then does not keep a writer waiting: the timeout is that of the whole request."""
    ended = threading.Event()

    def slowly(_request):
        yield begin
        while not ended.wait(0.02):
            yield b"x"

    answering.script = slowly
    begun_s = time.monotonic()
    with pytest.raises(UnreachableError, match=r"no answer within 0\.3 s"):
        writer_to(answering, timeout=0.3).deliver(pulses(3), "")
    took_s = time.monotonic() - begun_s
    ended.set()
    assert 0.3 <= took_s < 5


@pytest.mark.parametrize("begin", [b"HTTP/1.1 400 X\r\n\r\n{", b"HTTP/1.1 400 X\r\nContent-Length: 900\r\n\r\n{"])
def test_given_up_is_closed(writer_to, answering, pulses, begin):
    """A connection given up in the middle of an answer is closed at once, without a length of it too."""
    answering.script = begin
    with pytest.raises(UnreachableError) as kept:  # and with it what its frames refer to
        writer_to(answering, timeout=0.2).deliver(pulses(3), "")
    wait_until(lambda: not answering.open)
    assert len(answering.requests) == 1, kept


@pytest.mark.parametrize("ssl", [False, True])
def test_timeout_of_a_server_that_does_not_read(writer_of, pulses, ssl):
    """A server that takes the connection and reads nothing, as one that is stopped, costs the timeout and no more."""
    with socket.create_server(("127.0.0.1", 0)) as stopped:
        options = {"measurement": "m" * 1000, "timeout": 0.3, "ssl": ssl}
        writer = writer_of("influxdb", host="127.0.0.1", port=stopped.getsockname()[1], **options)
        begun_s = time.monotonic()
        # More than the kernel takes for it.
        with pytest.raises(UnreachableError, match=r"timed out|no answer within"):
            writer.deliver(pulses(10_000), "")
        assert 0.3 <= time.monotonic() - begun_s < 5


@pytest.mark.parametrize("said", [b"dropped=-1", b"dropped=3", b"dropped=1000000000", b"dropped=" + b"9" * 5000])
def test_partial_write_of_a_wrong_number(writer_to, answering, pulses, said):
    """Where a server says that it dropped all there was, or a number that can't be, no point is known to be bad."""
    answering.script = http_answer(400, b'{"error":"partial write: x ' + said + b'"}')
    with pytest.raises(AnsweredError) as caught:
        writer_to(answering).deliver(pulses(3), "")
    assert caught.value.verdict is Verdict.REFUSED


def test_msgpack_is_not_unpacked(writer_to, answering, pulses):
    """An answer that calls itself msgpack, which nobody asked for, is shown as it is."""
    answering.script = http_answer(401, b"\xc1 wrong", content_type="application/x-msgpack")
    with pytest.raises(AnsweredError, match="wrong"):
        writer_to(answering).deliver(pulses(3), "")


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example"])
def test_host_that_is_no_name(writer_of, pulses, host):
    """A host that can't be a name is an error of delivery."""
    with pytest.raises(UnreachableError, match=host):
        writer_of("influxdb", host=host).deliver(pulses(3), "")


SECRET = 'T0p&se/cret "x"'


@pytest.mark.parametrize("login", [{"token": SECRET}, {"username": "me", "password": SECRET}])
@pytest.mark.parametrize("status", [400, 401, 500])
@pytest.mark.parametrize("write", [str, json.dumps, urllib.parse.quote_plus, html.escape, repr])
def test_secrets_stay_out_of_errors(writer_to, answering, pulses, caplog, login, status, write):
    """A server that says back what it was sent, headers too, in any form, brings no secret into an error or the log."""
    caplog.set_level("DEBUG")

    def echo(request):
        return http_answer(status, write(f"{request.headers['authorization']} {SECRET} {request.path}").encode())

    answering.script = echo
    with pytest.raises(AnsweredError) as caught:
        writer_to(answering, **login).deliver(pulses(3), "")
    header = answering.requests[0].headers["authorization"]
    for text in (str(caught.value), caplog.text):
        for secret in (SECRET, write(SECRET).strip("\"'"), header, write(header.split()[1])):
            assert secret not in text


# --- TLS


def test_certificate_unknown(writer_to, certificate, pulses):
    """A certificate that nobody vouches for ends the delivery, before anything is sent, and is named as the reason."""
    with Answering(http_answer(204), tls_context(*certificate)) as server:
        with pytest.raises(UnreachableError, match="certificate"):
            writer_to(server, ssl=True, token="T0p-secret").deliver(pulses(3), "")
        assert server.requests == []


def test_certificate_in_a_ca_file(writer_to, influxd, influx_db, certificate, pulses):
    """With the CA file named, points go over TLS to the database."""
    with Answering(forward_to(influxd.port), tls_context(*certificate)) as server:
        writer = writer_to(server, ssl=True, verify_ssl=certificate[0], database=influx_db)
        assert writer.deliver(pulses(3), "") == Receipt(3)
    assert influxd.points(database=influx_db) == as_points(pulses(3))


def test_certificate_of_another_host(writer_to, certificate, pulses):
    """A trusted certificate for another name ends the delivery."""
    with Answering(http_answer(204), tls_context(*certificate)) as server:
        with pytest.raises(UnreachableError, match="certificate"):
            writer_to(server, host="localhost", ssl=True, verify_ssl=certificate[0]).deliver(pulses(3), "")
        assert server.requests == []


def test_environment_names_no_ca(writer_to, certificate, pulses, monkeypatch):
    """A CA file of the environment is not trusted: only the settings decide."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate[0])
    with (
        Answering(http_answer(204), tls_context(*certificate)) as server,
        pytest.raises(UnreachableError, match="certificate"),
    ):
        writer_to(server, ssl=True).deliver(pulses(3), "")


# --- check() and the library


def test_check_leaves_nothing(influxd, influx_db, writer):
    """A check stores no point, no measurement and no series."""
    assert writer().check() == f"127.0.0.1:{influxd.port}"
    assert influxd.query("SHOW MEASUREMENTS", influx_db) == []
    assert influxd.query("SHOW SERIES", influx_db) == []


def test_check_judges_database_and_password(guarded, writer):
    """A check fails where a delivery would: no such database, a wrong password."""
    with pytest.raises(AnsweredError) as caught:
        writer(database="nowhere").check()
    assert caught.value.status == 404
    with pytest.raises(AnsweredError) as caught:
        writer(port=guarded.port, username="admin", password="wrong").check()
    assert caught.value.status == 401


def test_pandas_is_not_imported(tmp_path):
    """A writer does not import pandas, even if it is installed: it would cost 80 MiB."""
    (tmp_path / "pandas.py").write_text("raise SystemExit('pandas was imported')\n")
    paths = [str(tmp_path), str(SRC), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # First that the trap works.
    trap = subprocess.run([sys.executable, "-c", "import pandas"], env=environment, capture_output=True, check=False)
    assert b"pandas was imported" in trap.stderr
    opened = """
import sys
from powermeter.settings.values import WriterSettings
from powermeter.writers import open_writer, writer_type
options = {name: key.default for name, key in writer_type("influxdb").keys.items()}
open_writer(WriterSettings("db", "influxdb", options)).close()
assert "influxdb" in sys.modules
"""
    subprocess.run([sys.executable, "-c", opened], env=environment, check=True)


def test_certificates_that_have_gone(writer, tmp_path):
    """If the CA file disappears after the settings were read, the error names it, and the pulses are kept."""
    with pytest.raises(LocalError, match=f"{tmp_path}/ca.pem: no CA certificates: No such file.*check verify_ssl"):
        writer(ssl=True, verify_ssl=f"{tmp_path}/ca.pem")


@pytest.mark.parametrize(("text", "reason"), [("-----BEGIN", "everyone may write it"), ("", "the file contains none")])
def test_certificates_that_are_not_to_be_trusted(writer, tmp_path, text, reason):
    """A CA file that others may write since the settings were read, or an empty one: the system's are not taken."""
    (tmp_path / "ca.pem").write_text(text)
    (tmp_path / "ca.pem").chmod(0o666 if text else 0o644)
    with pytest.raises(LocalError, match=f"{tmp_path}/ca.pem: no CA certificates: .*{reason}.*check verify_ssl"):
        writer(ssl=True, verify_ssl=f"{tmp_path}/ca.pem")
