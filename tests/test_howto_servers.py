"""
The how-to pages of the servers: their settings, statements and configuration, and what the program says of each fault.

Real servers are on loopback, on ports of their own: the pages' ``nas.home`` is ``localhost`` here, and numbers in what
is shown stand for any number.
"""

import base64
import contextlib
import json
import re
import sqlite3
import subprocess
import textwrap
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from http_server import HANG, Answering, http_answer
from influxd import Influxd, free_port, influxd_path
from program import Program, wait_until
from victoriametrics import VictoriaMetrics, victoriametrics_path

from powermeter.errors import AnsweredError
from powermeter.meter import NS_PER_S, Pulse
from powermeter.settings import reading
from powermeter.writers import Receipt

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = {
    name: (DOCS / kind / f"{name}.rst").read_text()
    for kind, names in (("howto", ("influxdb", "victoriametrics", "librato")), ("reference", ("delivered",)))
    for name in names
}


def texts(page, language):
    """The code blocks of *language* on a page, each as one text without its options."""
    found = re.findall(rf"^( *)\.\. code-block:: {language}\n((?:\1   .*\n|\n)*)", PAGES[page], re.MULTILINE)
    return [re.sub(r"\A(:.*\n)*\n*", "", textwrap.dedent(body)).rstrip() for _, body in found]


def plain(words, port=None):
    """*words* with each number as 0, and the server by the pages' name for it."""
    if port is not None:
        words = re.sub(rf"(localhost|127\.0\.0\.1):{port}\b", "nas.home:0", words)
    return re.sub(r"\d+", "0", words)


def on_page(page, words, port=None):
    """Whether the page says this: *words* may go on where the page has an ellipsis, and begin before."""
    shown = [plain(line) for line in re.findall(r"``([^`]+)``", PAGES[page])]
    shown += [plain(line) for text in texts(page, "text") for line in text.splitlines()]
    words = plain(words, port)
    return any(re.fullmatch(".*?" + re.escape(line).replace(r"\.\.\.", ".*"), words) for line in shown if len(line) > 8)


@pytest.fixture(scope="module")
def servers():
    """Fails where one of the servers was not unpacked."""
    if not influxd_path().exists() or not victoriametrics_path().exists():
        pytest.fail("run: make servers", pytrace=False)


def snippet(page, number, **replaced):
    """The *number*-th settings of a page, for the machine here: the values of the writers' keys *replaced*."""
    found = {}
    exec(texts(page, "python")[number], found)
    for writer in found["WRITERS"].values():
        if writer["type"] != "file":
            for key, value in replaced.items():
                assert key in writer or key in {"port", "timeout", "update_period"}, f"the page does not set {key}"
                writer[key] = value
    return f"WRITERS = {found['WRITERS']!r}"


def checked(tmp_path, text):
    """What ``--check`` says of the settings *text* about the writer that is no file's."""
    done = Program(tmp_path / f"program{time.monotonic_ns()}", text).run("--check")
    (words,) = [line for line in done.stdout.splitlines() if line.startswith("writer ") and " file:" not in line]
    return words


# --- Settings


@pytest.mark.parametrize(("page", "number"), [(page, n) for page in PAGES for n in range(len(texts(page, "python")))])
def test_settings(page, number, tmp_path, own_ca):
    """Each example of settings has no mistake; the only warning is of a password sent unencrypted, as the pages say."""
    path = tmp_path / "settings.py"
    path.write_text(texts(page, "python")[number].replace("/etc/ssl", str(own_ca)))
    path.chmod(0o600)
    read = reading.read(str(path))
    sends = '"password"' in path.read_text() or '"token"' in path.read_text()
    switched_off = '"enabled": False' in path.read_text()
    warned = sends and not switched_off and '"ssl": True' not in path.read_text()
    assert len(read.warnings) == warned, read.warnings
    assert all("unencrypted" in warning for warning in read.warnings)
    assert (page, number) != ("influxdb", 0) or on_page(page, read.warnings[0])
    assert [writer.type for writer in read.writers][0:1] == ["file"]
    assert len(read.writers) == (1 if switched_off else 2)


# --- InfluxDB


def ask(server, query, user, password):
    """What an InfluxDB that asks for a password gives for *query* on power."""
    credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
    fields = urllib.parse.urlencode({"q": query, "db": "power"}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/query", fields)
    request.add_header("Authorization", f"Basic {credentials}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        (result,) = json.load(answer)["results"]
    assert "error" not in result, result
    return result.get("series", [])


@pytest.fixture(scope="module")
def guarded(servers, tmp_path_factory):
    """An InfluxDB with the page's configuration, on which the page's statements were given, one after the other."""
    (auth,) = [text for text in texts("influxdb", "ini") if text.startswith("auth")]
    assert auth == "auth-enabled = true"
    (statements,) = texts("influxdb", "sql")
    first, *others = statements.splitlines()
    password = re.search("PASSWORD '(.*)' WITH ALL", first)[1]
    with Influxd(tmp_path_factory.mktemp("guarded"), auth=True) as server:
        server.query(first)
        for statement in others:
            ask(server, statement, "admin", password)
        yield server


@pytest.fixture
def of_influxdb(guarded, tmp_path):
    """Settings of the page for the InfluxDB here."""

    def make(**replaced):
        return snippet("influxdb", 0, **{"host": "localhost", "port": guarded.port, **replaced})

    return make


def test_check(guarded, of_influxdb, tmp_path):
    """Followed as it stands, the page leads to a writer that is ok; its user may write and no more, Grafana's read."""
    words = checked(tmp_path, of_influxdb())
    assert words == f"writer influxdb: ok, localhost:{guarded.port}"
    assert on_page("influxdb", words, guarded.port)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        ask(guarded, "SELECT * FROM electricity_power", "power", "another password")
    ask(guarded, "SELECT * FROM electricity_power", "grafana", "a third password")


@pytest.mark.parametrize(
    "replaced",
    [
        {"password": "a mistyped one"},
        {"username": None, "password": None},
        {"username": "grafana", "password": "a third password"},
        {"database": "pwoer"},
        {"port": "closed"},
        {"host": "nas.invalid"},
    ],
    ids=str,
)
def test_faults(guarded, of_influxdb, tmp_path, replaced):
    """What ``--check`` says of a fault is on the page."""
    port = free_port() if replaced.get("port") == "closed" else guarded.port
    text = of_influxdb(**{**replaced, "port": port})
    words = checked(tmp_path, text).replace("nas.invalid", "localhost").replace("pwoer", "power")
    assert on_page("influxdb", words, port), words


def test_retention_policy_that_is_not_there(guarded, of_influxdb, tmp_path):
    """A retention policy that was not made is a 500 that names it."""
    text = of_influxdb().replace("'type': 'influxdb'", "'type': 'influxdb', 'retention_policy': 'long'")
    assert on_page("influxdb", checked(tmp_path, text))


def test_no_answer(of_influxdb, tmp_path):
    """A server that does not answer is given up after the timeout."""
    with Answering(HANG) as server:
        words = checked(tmp_path, of_influxdb(port=server.port, timeout=0.2))
        assert on_page("influxdb", words.replace("0.2 s", "10 s"), server.port), words


def test_pulses_older_than_is_kept(guarded, writer_of, pulses):
    """What a policy with an end has no room for is refused, and counted."""
    ask(guarded, "CREATE DATABASE short WITH DURATION 1h", "admin", "a password")
    options = {"host": "localhost", "port": guarded.port, "username": "admin", "password": "a password"}
    old = pulses(5, start_ns=time.time_ns() - 86400 * NS_PER_S)
    receipt = writer_of("influxdb", **options, database="short").deliver(old, "")
    assert (receipt.taken, receipt.refused) == (5, 5)


def writer_said(program):
    """What ``--status`` says of the InfluxDB."""
    (words,) = [line for line in program.run("--status").stdout.splitlines() if "writer influxdb" in line]
    return words


def test_refused_pulses(influxd, tmp_path):
    """After a long outage: how many pulses the retention policy refused is shown by ``--status`` as on the page."""
    options = {"host": "localhost", "port": influxd.port, "username": None, "password": None, "update_period": 0.2}
    text = "COMMIT_INTERVAL = 0.1\n" + snippet("influxdb", 0, **options, database="short")
    with Program(tmp_path / "program", text) as program:
        program.foreground("--simulate", "20000")
        wait_until(lambda: 6 <= (program.status()["writers"]["influxdb"]["waiting"] or 0) <= 50)
        program.run("--kill")
        with contextlib.closing(sqlite3.connect(program.data_dir / "simulated" / "journal.db")) as journal, journal:
            journal.execute("UPDATE pulses SET time_ns = time_ns - ?", (86400 * NS_PER_S,))
        influxd.query("CREATE DATABASE short WITH DURATION 1h REPLICATION 1 NAME brief")
        program.foreground("--simulate", "8000")
        wait_until(lambda: re.search(r": ok; .* pulses refused", writer_said(program)))
        wait_until(lambda: on_page("influxdb", writer_said(program)))


def test_a_measurement_of_another_type(influxd, influx_db, writer_of, tmp_path):
    """All is kept, and ``--status`` says why as on the page, until it is removed as the page says."""
    line = b'electricity_power,meter=house energy="much",power="much",register="much"'
    with urllib.request.urlopen(f"http://127.0.0.1:{influxd.port}/write?db={influx_db}", data=line, timeout=30):
        pass
    options = {"host": "localhost", "port": influxd.port, "username": None, "password": None, "update_period": 0.2}
    text = "COMMIT_INTERVAL = 0.1\n" + snippet("influxdb", 0, **options, database=influx_db)
    with Program(tmp_path / "program", text) as program:
        program.foreground("--simulate", "20000")
        wait_until(lambda: "field type conflict" in writer_said(program))
        (words,) = re.findall(r"answered 400: .*: set another measurement, or remove that one", writer_said(program))
        assert on_page("influxdb", words)
        influxd.query("DROP MEASUREMENT electricity_power", influx_db)
        wait_until(lambda: program.status()["writers"]["influxdb"]["state"] == "ok")
        assert program.status()["writers"]["influxdb"]["refused"] == 0


def test_away_and_back(servers, tmp_path):
    """A server that goes away and comes back: the page shows what ``--status`` and the log say, and nothing is lost."""
    with Influxd(tmp_path / "influxd") as server:
        server.query("CREATE DATABASE power")
        options = {"host": "localhost", "port": server.port, "username": None, "password": None, "update_period": 0.2}
        text = "COMMIT_INTERVAL = 0.1\n" + snippet("influxdb", 0, **options)
        with Program(tmp_path / "program", text) as program:
            program.foreground("--simulate", "20000")
            wait_until(lambda: server.query("SELECT * FROM electricity_power"))
            server.stop()
            wait_until(lambda: program.status()["writers"]["influxdb"]["state"] == "failing")
            # The first try may be the one that the server broke off.
            wait_until(lambda: program.status()["writers"]["influxdb"]["reason"].endswith("refused"))
            wait_until(lambda: program.status()["writers"]["influxdb"]["waiting"] > 1)
            (words,) = [line for line in program.run("--status").stdout.splitlines() if "writer influxdb" in line]
            assert on_page("influxdb", words, server.port), words
            server.start()
            wait_until(lambda: "delivers again" in program.err.read_text())
            lines = [line for line in program.err.read_text().splitlines() if " influxdb: " in line]
            for line in lines[-2:]:
                assert on_page("influxdb", line, server.port), line
            assert all("failing, pulses are kept: " in line for line in lines[:-1])
            program.run("--kill")
            counted = (program.data_dir / "simulated" / "power.csv").read_text().count("\n") - 1
        (series,) = server.query("SELECT count(energy) FROM electricity_power")
        assert counted <= series["values"][0][1] <= counted + 1  # the file may have had its last batch before the last


@pytest.fixture(scope="module")
def own_ca(tmp_path_factory):
    """A directory in which the page's lines of openssl were run, for a server localhost."""
    directory = tmp_path_factory.mktemp("ca")
    (block,) = [text for text in texts("influxdb", "console") if "openssl" in text]
    lines = re.findall(r"^\$ (.*(?:\n> .*)*)", block, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        here = line.replace("\n> ", "\n").replace("nas.home", "localhost")
        subprocess.run(here, shell=True, check=True, cwd=directory, capture_output=True)
    return directory


@pytest.fixture(scope="module")
def over_tls(servers, own_ca, tmp_path_factory):
    """An InfluxDB with the page's lines for TLS."""
    (lines,) = [text for text in texts("influxdb", "ini") if text.startswith("https")]
    with Influxd(tmp_path_factory.mktemp("tls"), tls=lines.replace("/etc/ssl", str(own_ca))) as server:
        yield server


def test_tls(over_tls, own_ca, tmp_path):
    """With the page's certificate, its configuration and its settings the writer reaches the server."""
    there = {"host": "localhost", "port": over_tls.port, "verify_ssl": str(own_ca / "ca.pem")}
    words = checked(tmp_path, snippet("influxdb", 1, **there))
    # It has no database yet: what matters is that it answers, over TLS.
    assert on_page("influxdb", words), words
    assert "404" in words


def test_tls_is_kept(over_tls, own_ca, writer_of, pulses):
    """One connection, and so one handshake, is enough for all requests to a real server."""
    there = {"host": "localhost", "port": over_tls.port, "ssl": True, "verify_ssl": str(own_ca / "ca.pem")}
    writer = writer_of("influxdb", **there)
    kept = set()
    for first in (1, 101, 201):
        with pytest.raises(AnsweredError, match="database not found"):
            writer.deliver(pulses(100, first=first), "")
        kept.add(writer._session._connection.sock)
    assert len(kept) == 1
    assert None not in kept


@pytest.mark.parametrize("fault", ["another authority", "another name", "no TLS", "TLS"])
def test_faults_of_tls(over_tls, own_ca, guarded, tmp_path, fault):
    """What ``--check`` says where the certificate or its absence is at fault is on the page."""
    there = {"host": "localhost", "port": over_tls.port, "verify_ssl": str(own_ca / "ca.pem")}
    if fault == "another authority":
        there["verify_ssl"] = True
    elif fault == "another name":
        there["host"] = "127.0.0.1"
    elif fault == "no TLS":
        there["port"] = guarded.port
    else:
        words = checked(tmp_path, snippet("influxdb", 0, host="localhost", port=over_tls.port))
        assert on_page("influxdb", words), words
        return
    words = checked(tmp_path, snippet("influxdb", 1, **there))
    assert on_page("influxdb", words, there["port"]), words


@pytest.mark.parametrize("number", [3, 4])
def test_token(tmp_path, answering, number):
    """The settings for InfluxDB 2 and 3 send the token in the header and the database in the address."""
    text = snippet("influxdb", number, host="localhost", port=answering.port)
    assert f"ok, localhost:{answering.port}" in checked(tmp_path, text)
    (request,) = [request for request in answering.requests if request.method == "POST"]
    assert request.path == "/write?db=power"
    token = re.search("'token': '(.*?)'", text)[1]
    assert request.headers["authorization"] == f"Token {token}"


# --- VictoriaMetrics


def now_and_before(seconds):
    """Two pulses, *seconds* ago and a ms later."""
    at_ns = time.time_ns() - round(seconds * NS_PER_S)
    return [Pulse("house", n, at_ns + n * 1_000_000, 500.0, 1.0, n / 1000) for n in (1, 2)]


def registers(server, *, seconds_ago=0.0):
    """How many points of the register the server shows of the second before."""
    at_s = time.time() - seconds_ago + 1
    query = "count_over_time(electricity_power_register[10s])"
    found = server.ask("/api/v1/query", query=query, time=at_s)["data"]["result"]
    return int(found[0]["value"][1]) if found else 0


@pytest.fixture
def victoria(servers, tmp_path):
    """Starts a VictoriaMetrics as Debian does, with the page's ARGS or other ones."""
    started = []
    (line,) = texts("victoriametrics", "sh")
    args = re.fullmatch('ARGS="(.*)"', line)[1].split()
    assert args[0] == "-storageDataPath=/var/lib/victoria-metrics"

    def start(*options, as_on_the_page=True):
        server = VictoriaMetrics(tmp_path / f"victoria{len(started)}", *options, defaults=args[1:] * as_on_the_page)
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def to(writer_of):
    """A writer to a server."""

    def make(server, **options):
        return writer_of("influxdb", host="127.0.0.1", port=server.port, **options)

    return make


def test_check_of_victoriametrics(victoria, tmp_path):
    """With the page's settings and ARGS the writer is ok."""
    server = victoria()
    words = checked(tmp_path, snippet("victoriametrics", 0, host="localhost", port=server.port))
    assert words.startswith("writer victoriametrics: ok")
    assert on_page("victoriametrics", words, server.port)


def test_password_of_victoriametrics(victoria, tmp_path):
    """With the page's options it takes the page's password, and says 401 to another one."""
    options = re.findall(r"-httpAuth\.\w+=[\w.]+", PAGES["victoriametrics"])
    assert options == ["-httpAuth.username=power", "-httpAuth.password=..."]
    server = victoria(options[0], options[1].replace("...", "another password"))
    there = {"host": "localhost", "port": server.port}
    assert ": ok" in checked(tmp_path, snippet("victoriametrics", 1, **there))
    words = checked(tmp_path, snippet("victoriametrics", 1, **there, password="mistyped"))
    assert words == "writer victoriametrics: answered 401: check username and password, or token"
    assert on_page("victoriametrics", words.partition(": ")[2])
    assert on_page("victoriametrics", words)


@pytest.mark.parametrize(("as_on_the_page", "kept"), [(True, 2), (False, 0)])
def test_old_pulses(victoria, to, as_on_the_page, kept):
    """By default what is older than a month is dropped, though it is answered 204; with the page's ARGS it is kept."""
    server = victoria("-search.latencyOffset=0s", as_on_the_page=as_on_the_page)
    long_ago = 70 * 86400
    assert to(server).deliver(now_and_before(long_ago), "") == Receipt(2)
    server.flush()
    assert registers(server, seconds_ago=long_ago) == kept


@pytest.mark.parametrize(("as_on_the_page", "shown"), [(True, 2), (False, 0)])
def test_young_pulses(victoria, to, as_on_the_page, shown):
    """By default the last 30 s are not shown; with the page's ARGS they are."""
    server = victoria(as_on_the_page=as_on_the_page)
    to(server).deliver(now_and_before(1), "")
    server.flush()
    assert registers(server) == shown


def test_anything_is_answered_204(victoria):
    """It answers 204 also to what it does not understand."""
    server = victoria()
    url = f"http://127.0.0.1:{server.port}/write?db=power"
    with urllib.request.urlopen(url, data=b"nothing of the kind", timeout=30) as answer:
        assert answer.status == 204


def test_metrics_and_labels(victoria, to):
    """The metrics are those of the page's table, with the labels that it names; times are cut to ms."""
    server = victoria()
    sent = [pulse._replace(time_ns=pulse.time_ns // 1_000_000 * 1_000_000 + 999_999) for pulse in now_and_before(5)]
    to(server, tags={"home": "yes"}).deliver(sent, "")
    server.flush()
    names = server.ask("/api/v1/label/__name__/values")["data"]
    named = re.findall(r"\* - ``(electricity_\w+)``", PAGES["delivered"])
    assert sorted(name for name in names if name.startswith("electricity")) == sorted(named)
    url = f"http://127.0.0.1:{server.port}/api/v1/export?match[]=electricity_power_register"
    with urllib.request.urlopen(url, timeout=30) as answer:
        (series,) = map(json.loads, answer)
    assert series["metric"] == {
        "__name__": "electricity_power_register",
        "db": "power",
        "home": "yes",
        "meter": "house",
    }
    assert series["timestamps"] == [pulse.time_ns // 1_000_000 for pulse in sent]


@pytest.mark.parametrize(("as_on_the_page", "times"), [(True, 1), (False, 2)])
def test_points_that_come_twice(victoria, to, as_on_the_page, times):
    """With the page's ARGS the page's sum of energies counts a point once that came twice; by default twice."""
    server = victoria("-search.latencyOffset=0s", as_on_the_page=as_on_the_page)
    pulses = now_and_before(5)
    for _ in range(2):
        assert to(server).deliver(pulses, "") == Receipt(2)
    server.flush()
    (energy,) = [text for text in texts("victoriametrics", "text") if text.startswith("sum_over_time")]
    (found,) = server.ask("/api/v1/query", query=energy)["data"]["result"]
    assert float(found["value"][1]) == pytest.approx(0.002 * times)


def test_ask_victoriametrics(victoria, to):
    """The page's question shows the register; of Debian's build there is no page to ask in, as the handbook has it."""
    server = victoria()
    to(server).deliver(now_and_before(1), "")
    server.flush()
    (query,) = re.findall(
        r"curl http://nas\.home:8428/api/v1/query --data-urlencode 'query=(.*)'", PAGES["victoriametrics"]
    )
    (found,) = server.ask("/api/v1/query", query=query)["data"]["result"]
    assert (found["metric"]["meter"], found["value"][1]) == ("house", "0.002")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"http://127.0.0.1:{server.port}/vmui", timeout=30)


# --- Librato


@pytest.fixture
def of_librato(tmp_path):
    """Settings of the page for a server here."""

    def make(server, **replaced):
        there = {"hostname": server.hostname, "user": server.user, "token": server.token}
        return snippet("librato", 1, **{**there, **replaced})

    return make


def test_check_of_librato(of_librato, librato_server, tmp_path):
    """The page's settings reach a server that keeps the API's rules, by the request that the page names."""
    words = checked(tmp_path, of_librato(librato_server))
    assert words == f"writer librato: ok, {librato_server.hostname}"
    assert on_page("librato", words.replace(librato_server.hostname, "metrics.home:0"))
    ((method, path),) = librato_server.requests
    assert f"``{method} {path}``" in PAGES["librato"]


@pytest.mark.parametrize(("number", "path", "to"), [(0, "/v1/metrics", {"source": "pi"}), (1, "/v1/measurements", {})])
def test_what_librato_is_sent(writer_of, answering, number, path, to):
    """What is sent of five pulses of a minute is what the page shows."""
    answering.script = http_answer(200, b"{}")
    given = to or {"tags": {"home": "yes"}}
    writer = writer_of("librato", user="u", token="t", hostname=f"127.0.0.1:{answering.port}", protocol="http", **given)
    at_ns = 1_795_418_040 * NS_PER_S
    writer.deliver([Pulse("house", n, at_ns + n * 10 * NS_PER_S, 1200.0 + n, 1.0, n / 1000) for n in range(5)], "")
    (request,) = answering.requests
    assert request.path == path
    sent = json.loads(request.body)
    sent.pop("counters", None)  # an empty list that the library adds
    assert sent == json.loads(texts("delivered", "json")[number])


def test_where_librato_was(tmp_path):
    """With the host that has ended each reading of the settings warns, as the page says."""
    path = tmp_path / "settings.py"
    path.write_text('WRITERS = {"librato": {"type": "librato", "user": "me", "token": "t"}}')
    path.chmod(0o600)
    (warning,) = reading.read(str(path)).warnings
    assert "Librato was shut down on 2026-01-31" in warning
