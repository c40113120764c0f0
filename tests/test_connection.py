"""Reaching a server: its addresses, what it is called, how a failure reads."""

import contextlib
import re
import socket
import ssl
import struct
import threading
import time

import pytest
from http_server import Answering, http_answer, tls_context
from influxd import free_port
from program import wait_until

from powermeter import __version__
from powermeter.errors import AnsweredError, UnreachableError
from powermeter.writers import Receipt, writer_type

#: A family of addresses that no kernel here supports, like IPv6 on a kernel that was built without it.
AF_DECNET = 12


@pytest.fixture
def names(monkeypatch):
    """What names mean: the addresses of ``nas.home``, by family, address and port."""
    known = []
    real = socket.getaddrinfo

    def look_up(host, port, **options):
        if host.rstrip(".") != "nas.home":
            return real(host, port, **options)
        return [(family, socket.SOCK_STREAM, 6, "", (address, at)) for family, address, at in known]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return known


@pytest.fixture
def writer(writer_of, names, answering):
    """A writer to ``nas.home``."""

    def make(**options):
        return writer_of("influxdb", **{"host": "nas.home", "port": answering.port, "timeout": 20, **options})

    return make


def test_an_address_that_the_kernel_does_not_have(writer, names, answering, pulses):
    """A name with an address of a family that this kernel lacks: the other one is tried, in either order."""
    there = [(AF_DECNET, "::1", 1), (socket.AF_INET, "127.0.0.1", answering.port)]
    for order in (there, there[::-1]):
        names[:] = order
        assert writer().deliver(pulses(3), "") == Receipt(3)


def test_a_dead_address_and_a_living_one(writer, names, answering, pulses):
    """Of several addresses, the one that answers is used, wherever it is in the list."""
    dead, living = (socket.AF_INET, "127.0.0.1", free_port()), (socket.AF_INET, "127.0.0.1", answering.port)
    for order in ([dead, living], [living, dead], [dead, dead, living, dead]):
        names[:] = order
        assert writer().deliver(pulses(3), "") == Receipt(3)


def test_every_address_has_its_reason(writer, names, pulses):
    """If none answers, the reason for each is shown: a later one does not hide an earlier one."""
    names[:] = [(socket.AF_INET, "127.0.0.1", free_port()), (AF_DECNET, "::1", 1)]
    with pytest.raises(UnreachableError) as caught:
        writer().deliver(pulses(3), "")
    assert re.search(
        "127.0.0.1: Connection refused; ::1: Address family not supported by protocol", str(caught.value)
    ), caught.value


def test_one_reason_for_all_addresses_is_shown_once(writer, names, pulses):
    """If all addresses fail in the same way, the reason is given once."""
    names[:] = [(socket.AF_INET, "127.0.0.1", free_port())] * 3
    with pytest.raises(UnreachableError, match=r"nas\.home:\d+: Connection refused$"):
        writer().deliver(pulses(3), "")


def test_one_address_hangs(writer, names, answering, pulses):
    """An address that does not answer leaves the other one its share of the time."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        # Fill its queue, so that the next connection is not even refused.
        held = [socket.socket() for _ in range(4)]
        for one in held:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        names[:] = [(socket.AF_INET, "127.0.0.1", full.getsockname()[1]), (socket.AF_INET, "127.0.0.1", answering.port)]
        assert writer(timeout=1).deliver(pulses(3), "") == Receipt(3)
        for one in held:
            one.close()


def test_a_name_with_a_last_dot(writer, names, answering, pulses, certificate, monkeypatch):
    """``nas.home.`` is looked up as it is, and called ``nas.home`` to the server and in its certificate."""
    names[:] = [(socket.AF_INET, "127.0.0.1", answering.port)]
    writer(host="nas.home.").deliver(pulses(3), "")
    assert answering.requests[0].headers["host"] == f"nas.home:{answering.port}"
    with Answering(http_answer(204), tls_context(*certificate)) as server:
        names[:] = [(socket.AF_INET, "127.0.0.1", server.port)]
        asked = []
        server._context.sni_callback = lambda _sock, name, _context: asked.append(name)
        with pytest.raises(UnreachableError, match=r"not valid for 'nas\.home'.*set host to a name"):
            writer(host="nas.home.", port=server.port, ssl=True, verify_ssl=certificate[0]).deliver(pulses(3), "")
        assert asked == ["nas.home"]


@pytest.mark.parametrize("host", ["fe80::1%eth0", "[fe80::1%wlan0.7]"])
def test_an_address_with_a_zone(host):
    """A link-local address needs the interface that it is on."""
    assert writer_type("influxdb").keys["host"].check(host) == host.strip("[]")
    for wrong in ("fe80::1%", "nas%eth0", "fe80::1%a b", "1.2.3.4%eth0", "fe80::1%eth0/"):
        with pytest.raises(ValueError, match="a host name or address"):
            writer_type("influxdb").keys["host"].check(wrong)


def test_a_zone_is_for_the_kernel_alone(writer_of, pulses, monkeypatch):
    """An address with its zone reaches the server, which does not hear of the zone."""
    with Answering(http_answer(204)) as server:
        # ::1 has no zone; what matters is what is asked for and what is sent.
        asked = []

        def look_up(host, port, **_options):
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        writer_of("influxdb", host="fe80::1%eth0", port=server.port).deliver(pulses(3), "")
        assert asked == ["fe80::1%eth0"]
        assert server.requests[0].headers["host"] == f"[fe80::1]:{server.port}"


def test_both_writers_say_what_they_are(writer_of, answering, pulses):
    """Each request has one User-Agent, ours: some firewalls refuse a client that has none."""
    account = {"user": "me", "token": "T0p-secret", "hostname": f"127.0.0.1:{answering.port}", "protocol": "http"}
    for writer in (writer_of("influxdb", host="127.0.0.1", port=answering.port), writer_of("librato", **account)):
        writer.check()
        answering.script = http_answer(200)
    found = [request.headers["user-agent"] for request in answering.requests]
    assert set(found) == {f"power/{__version__}"}


# --- TLS: what its records cost is within the bounds of a request


@pytest.fixture
def over_tls(writer_of, certificate, monkeypatch):
    """A writer of a type over TLS to a port here, whose certificate it trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])  # Librato's has no file of its own

    def make(port, kind="influxdb", **options):
        influxdb = {"host": "127.0.0.1", "port": port, "ssl": True, "timeout": 20}
        librato = {"user": "me", "token": "T0p-secret", "hostname": f"127.0.0.1:{port}"}
        return writer_of(kind, **{"influxdb": influxdb, "librato": librato}[kind], **options)

    return make


@contextlib.contextmanager
def sending(pieces):
    """A loopback port that sends *pieces* to every client, whatever that sends."""

    def serve():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


#: A whole record of TLS with one message: HelloRequest, which a client passes over (RFC 5246, 7.4.1.1).
HELLO_REQUEST = b"\x16\x03\x03\0\4\0\0\0\0"


def test_a_handshake_without_an_end(writer_of, pulses):
    """A server that sends useless messages faster than they can be read does not block a writer for ever."""
    begun_s = time.monotonic()

    def pieces():
        while time.monotonic() < begun_s + 10:
            yield HELLO_REQUEST * 20_000

    with sending(pieces()) as port:
        writer = writer_of("influxdb", host="127.0.0.1", port=port, ssl=True, timeout=1)
        with pytest.raises(UnreachableError, match="an answer of more than 131,072 bytes"):
            writer.deliver(pulses(3), "")
        took_s = time.monotonic() - begun_s
    assert took_s < 5


@pytest.mark.parametrize("piece", [b"\0", HELLO_REQUEST])
def test_a_slow_handshake(writer_of, pulses, piece):
    """Occasional bytes of a record, or occasional records, do not keep a writer waiting."""
    ended = threading.Event()

    def pieces():
        yield b"\x16\x03\x03\x40\0" if piece == b"\0" else b""
        while not ended.wait(0.02):
            yield piece

    with sending(pieces()) as port:
        writer = writer_of("influxdb", host="127.0.0.1", port=port, ssl=True, timeout=0.3)
        begun_s = time.monotonic()
        try:
            with pytest.raises(UnreachableError, match=r"no answer within 0\.3 s"):
                writer.deliver(pulses(3), "")
        finally:
            ended.set()
        assert 0.3 <= time.monotonic() - begun_s < 5


@pytest.mark.parametrize("kind", ["influxdb", "librato"])
def test_session_tickets_without_an_end(over_tls, certificate, pulses, kind):
    """Records without any part of the answer count as bytes of it."""
    context = tls_context(*certificate)
    context.num_tickets = 5000
    with Answering(http_answer(200, b"{}"), context) as server:
        writer = over_tls(server.port, kind)
        for _ in range(2):
            with pytest.raises(UnreachableError, match="an answer of more than 131,072 bytes"):
                writer.deliver(pulses(3), "")
        assert server.connections == 2


def test_the_bound_is_that_of_each_answer(over_tls, certificate, pulses):
    """On a kept connection each answer may have as much as the first."""
    with Answering(http_answer(200, b"{}" + b" " * 60_000), tls_context(*certificate)) as server:
        writer = over_tls(server.port)
        for _ in range(5):
            assert writer.deliver(pulses(3), "") == Receipt(3)
        assert server.connections == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_connection_with_tls_is_kept(over_tls, certificate, pulses, version):
    """A second request needs no second handshake, in spite of the tickets that come after the first one."""
    context = tls_context(*certificate)
    context.maximum_version = version
    with Answering(http_answer(204), context) as server:
        writer = over_tls(server.port)
        for _ in range(3):
            assert writer.deliver(pulses(500), "") == Receipt(500)
        assert server.connections == 1


def test_what_was_not_asked_for_is_not_taken_for_the_answer(over_tls, certificate, pulses):
    """Two answers to one request, received at once below TLS: the second is not that to the next request."""

    def twice(_request):
        for value in (1, 0):
            for connection in server.open:
                with contextlib.suppress(OSError):  # the one that TLS took over
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, value)
            yield from [http_answer(204), http_answer(400)] * value

    with Answering(twice, tls_context(*certificate)) as server:
        writer = over_tls(server.port)
        assert writer.deliver(pulses(3), "") == Receipt(3)
        wait_until(writer._session._connection.has_ended)
        assert writer.deliver(pulses(3), "") == Receipt(3)
        assert server.connections == 2


@pytest.mark.parametrize("reset", [False, True])
def test_an_error_that_ends_with_the_connection(over_tls, certificate, pulses, reset):
    """An error of no known length ends where the connection does, closed without a word of TLS, or reset."""

    def error(_request):
        yield b'HTTP/1.1 400 Bad Request\r\n\r\n{"error":"a bad point"}'
        time.sleep(0.1)  # until it was read: a reset may overtake it
        for connection in server.open if reset else ():
            with contextlib.suppress(OSError):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionAbortedError

    with (
        Answering(error, tls_context(*certificate)) as server,
        pytest.raises(AnsweredError, match="answered 400: a bad point"),
    ):
        over_tls(server.port).deliver(pulses(3), "")
