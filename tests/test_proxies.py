"""
What stands before a server, or in its place, as real software: nginx, vmauth, an InfluxDB that speaks TLS.

In each case pulses wait, the writer's settings or the proxy are wrong, and nothing may be lost; with the settings that
the reason asks for, all arrive.
"""

import functools

import pytest
from deliveries import add_pulses, delivered_all, driven
from influxd import Influxd
from nginx import Nginx, nginx_path
from victoriametrics import VictoriaMetrics, Vmauth

from powermeter.delivery import State
from powermeter.errors import DeliveryError
from powermeter.journal.journal import Journal


@pytest.fixture(autouse=True)
def _unpacked():
    if not nginx_path().exists():
        pytest.fail("run: make servers", pytrace=False)


@pytest.fixture
def waiting(tmp_path):
    """A journal with 30 pulses that a writer has not got yet, and its cursor."""
    with Journal(str(tmp_path / "journal.db")) as journal:
        journal.enter("house", 1000)
        cursor = journal.add_cursor("it")
        add_pulses(journal, 30)
        yield journal, cursor
        cursor.close()


def refused(waiting, open_writer, reason):
    """Deliver as long as it takes to find out that nothing is accepted: all is kept, and a check fails for it too."""
    journal, cursor = waiting
    before, writer = cursor.position, open_writer()
    delivery = driven(open_writer, cursor)
    for _ in range(40):
        delivery._deliver_next(writer)
    add_pulses(journal, 3)  # later ones are refused like those before
    for _ in range(40):
        delivery._deliver_next(writer)
    assert (cursor.position, delivery.refused, delivery.state) == (before, 0, State.FAILING)
    assert reason in delivery.reason
    with pytest.raises(DeliveryError) as caught:
        writer.check()
    assert reason in str(caught.value)


def accepted(waiting, open_writer):
    """Deliver all that waits; a check says so before."""
    _, cursor = waiting
    sent, writer = cursor.read(100), open_writer()
    assert writer.check()
    delivery = driven(open_writer, cursor)
    for _ in range(40):
        delivery._deliver_next(writer)
    assert delivered_all(delivery, sent)
    assert (delivery.refused, delivery.state) == (0, State.OK)
    return sent


@pytest.fixture
def to(writer_of):
    """How a writer to a server's port is opened."""

    def make(port, **options):
        return functools.partial(writer_of, "influxdb", host="127.0.0.1", port=port, **options)

    return make


@pytest.fixture
def librato_to(writer_of, librato_server):
    """The same of a Librato writer."""

    def make(port, **options):
        account = {"user": librato_server.user, "token": librato_server.token, "hostname": f"127.0.0.1:{port}"}
        return functools.partial(writer_of, "librato", **account, **options)

    return make


def test_http_to_influxdb_s_tls_port(tmp_path, waiting, to, certificate):
    """A real InfluxDB that speaks TLS answers http with 400: the reason says to set ssl, and then all arrive."""
    lines = f'https-enabled = true\nhttps-certificate = "{certificate[0]}"\nhttps-private-key = "{certificate[1]}"'
    with Influxd(tmp_path / "influxd", tls=lines) as server:
        refused(waiting, to(server.port), 'this port speaks TLS: set "ssl": True')
        with pytest.raises(DeliveryError, match=r'certificate.*set "verify_ssl" to the file of its CA'):
            to(server.port, ssl=True)().check()
        with pytest.raises(DeliveryError, match="database not found"):
            to(server.port, ssl=True, verify_ssl=certificate[0])().check()


def test_http_to_nginx_s_tls_port(tmp_path, influxd, influx_db, waiting, to, certificate):
    """nginx answers http on its TLS port with a page of 400; with ssl all arrive."""
    lines = f"location / {{ proxy_pass http://127.0.0.1:{influxd.port}; }}"
    with Nginx(tmp_path / "nginx", lines, certificate=certificate) as proxy:
        refused(waiting, to(proxy.port, database=influx_db), 'this port speaks TLS: set "ssl": True')
        sent = accepted(waiting, to(proxy.port, database=influx_db, ssl=True, verify_ssl=certificate[0]))
    assert [point["time"] for point in influxd.points(database=influx_db)] == [pulse.time_ns for pulse in sent]


def test_librato_s_http_to_a_tls_port(tmp_path, waiting, librato_server, librato_to, certificate):
    """The same of Librato's writer."""
    lines = f"location / {{ proxy_pass http://127.0.0.1:{librato_server.port}; }}"
    with Nginx(tmp_path / "nginx", lines, certificate=certificate) as proxy:
        refused(waiting, librato_to(proxy.port, protocol="http"), 'this port speaks TLS: set "protocol": "https"')
    with Nginx(tmp_path / "plain", lines) as proxy:
        with pytest.raises(DeliveryError, match='does not speak TLS: set "protocol": "http"'):
            librato_to(proxy.port, protocol="https")().check()
        accepted(waiting, librato_to(proxy.port, protocol="http"))


def test_tls_to_a_plain_port(influxd, to):
    """The other way round: the reason says that this port has no TLS."""
    with pytest.raises(DeliveryError, match='does not speak TLS: set "ssl": False'):
        to(influxd.port, ssl=True)().check()


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("location / { return 400; }", "a web page from a proxy or another server"),
        ("error_page 422 /422; location /422 { internal; return 422 ''; } location / { return 422 ''; }", "422"),
        (
            "location / { default_type text/plain; return 400 '400: Bad Request'; }",
            "if it refuses every pulse: check host, port and path",
        ),
        ("location / { default_type text/html; return 200 '<html>A NAS</html>'; }", "web page"),
        ("location / { return 301 https://127.0.0.1/write; }", "redirect"),
        ("location / { return 403; }", "check username and password"),
        ("location / { return 404; }", "check host, port and path"),
        ("location / { return 502; }", "502"),
        ("location / { proxy_pass http://127.0.0.1:9; }", "502"),
    ],
)
def test_nginx_in_the_way(tmp_path, waiting, to, lines, reason):
    """Whatever a proxy answers in its own name, no pulse is lost."""
    with Nginx(tmp_path / "nginx", lines) as proxy:
        refused(waiting, to(proxy.port), reason)


def test_nginx_with_a_small_limit(tmp_path, influxd, influx_db, waiting, to):
    """A proxy that lets only small requests pass gets smaller ones."""
    lines = f"client_max_body_size 500; location / {{ proxy_pass http://127.0.0.1:{influxd.port}; }}"
    with Nginx(tmp_path / "nginx", lines) as proxy:
        sent = accepted(waiting, to(proxy.port, database=influx_db))
    assert [point["time"] for point in influxd.points(database=influx_db)] == [pulse.time_ns for pulse in sent]


def test_vmauth(tmp_path, waiting, to):
    """A proxy that has a route for /influx/write only: the reason asks for the path, and with it all arrive."""
    login = {"username": "me", "password": "x"}
    with (
        VictoriaMetrics(tmp_path / "vm") as server,
        Vmauth(tmp_path / "vmauth", server.port, **login, paths=["/influx/write"]) as proxy,
    ):
        refused(waiting, to(proxy.port, **login), "check host, port and path")
        refused(waiting, to(proxy.port, path="/influx"), "check username and password, or token")
        sent = accepted(waiting, to(proxy.port, path="/influx", **login))
        server.flush()
        stored = server.ask("/api/v1/export", **{"match[]": '{__name__="electricity_power_energy"}'})
    assert stored["timestamps"] == [pulse.time_ns // 1_000_000 for pulse in sent]
