"""Whatever strangers send to the page, the program counts every flash, and honest visitors get an answer."""

import concurrent.futures
import contextlib
import itertools
import os
import random
import resource
import signal
import socket
import threading
import time

import pytest
from page_client import field, get, page_of, page_settings, sent
from program import Program, wait_until
from records import csv_rows, expected, journal_rows
from server import free_port

#: 100 flashes a second, each 10 ms after the one before it.
SETTINGS = """
METERS = {"house": {"pin": 18, "impulses_per_kwh": 1000, "max_watts": 1_000_000}}
"""
WATTS, SPACING_NS = "360000", 10_000_000

#: The most memory that the page has ever had at once, in KiB: Python's own, and what it may write to.
MAX_MEMORY_KIB = 64 * 1024

MALFORMED = 10_000
CROWD = 1_000
SLOW = 300

#: The longest time that a visitor waits for a small page amid all this, in s. A bound for a hang, not a measurement.
PATIENCE_S = 20

GOOD = b"GET /healthz HTTP/1.1\r\nHost: localhost:%d\r\nConnection: close\r\n\r\n"

MILLION = "x" * 1_000_000


@pytest.fixture(scope="module")
def under_attack(tmp_path_factory):
    """A program that counts 100 flashes a second while its page is attacked; in the end everything was counted."""
    # A crowd of connections is as many open files here.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard > 0 else soft, hard))
    port = free_port()
    with Program(tmp_path_factory.mktemp("attacked"), SETTINGS + page_settings(port)) as program:
        program.port = port
        program.start("--simulate", WATTS)
        assert get(port).status == 200
        program.page = page_of(program.pid)
        yield program
        data_dir = program.data_dir / "simulated"
        log = (data_dir / "power.log").read_text()
        assert program.run("--kill").returncode == 0
        rows = journal_rows(data_dir)
        assert [number for _, number, _, _ in rows] == list(range(1, len(rows) + 1))
        # The simulated meter's times are whole nanoseconds. Those of the wall clock may be slewed meanwhile.
        spacings = {interval_ns for _, number, _, interval_ns in rows if number > 1}
        assert spacings <= {SPACING_NS - 1, SPACING_NS, SPACING_NS + 1}
        assert csv_rows(data_dir / "power.csv") == expected(rows)
        # But for the one that a test kills.
        lines = [line for line in log.splitlines() if "ended with SIGKILL" not in line]
        assert [line for line in lines if " INFO " not in line] == []
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def program(under_attack):
    """The attacked program: whatever a test does, the same process answers a visitor, and its memory stays limited."""
    before = under_attack.status()["meters"]["house"]["pulses"]
    yield under_attack
    assert visited(under_attack).status == 200
    assert page_of(under_attack.pid) == under_attack.page, "it was ended, and another one was started"
    assert int(field(under_attack.page, "VmHWM").split()[0]) < MAX_MEMORY_KIB
    status = under_attack.status()
    assert status["views"]["page"]["state"] == "ok"
    assert status["meters"]["house"]["rejected"] == 0
    wait_until(lambda: under_attack.status()["meters"]["house"]["pulses"] > before)


def visited(program, path="/healthz"):
    """The answer to a visitor, who tries again if the connection was closed, as a browser does."""
    begun_s = time.monotonic()
    while True:
        try:
            found = get(program.port, path)
        except OSError:
            assert time.monotonic() < begun_s + PATIENCE_S, "nobody is answered any more"
        else:
            assert time.monotonic() < begun_s + PATIENCE_S
            return found


def malformed(chance, port):  # noqa: PLR0911 - a kind each
    """A request that no browser would send."""
    good = bytearray(GOOD % port)
    kind = chance.randrange(10)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 300)) + b"\r\n\r\n"
    if kind == 1:  # some bytes are others
        for _ in range(chance.randrange(1, 8)):
            good[chance.randrange(len(good))] = chance.randrange(256)
        return bytes(good)
    if kind == 2:  # its end is missing
        return bytes(good[: chance.randrange(1, len(good))])
    if kind == 3:
        path = "".join(chance.choice("/.%\\?&=#;:[]<>'\"{}\0\n ~^`|é") for _ in range(chance.randrange(1, 60)))
        return b"GET /" + path.encode() + good[12:]
    if kind == 4:
        method = chance.choice(
            [b"POST", b"PUT", b"BREW", b"CONNECT", b"TRACE", b"get", b"", b"G\0T", b"PRI * HTTP/2.0"]
        )
        return method + good[3:]
    if kind == 5:
        length = chance.choice([b"-1", b"1e9", b"0x10", b"9" * 40, b"5", b"1, 1", b" "])
        return bytes(good[:-2]) + b"Content-Length: " + length + b"\r\n\r\nxxxxx"
    if kind == 6:
        coding = chance.choice([b"chunked", b"gzip, chunked", b"chunked, chunked", b"xchunked", b"identity"])
        size = chance.choice([b"5", b"ffffffffffffffff", b"-1", b"zz", b""])
        return bytes(good[:-2]) + b"Transfer-Encoding: " + coding + b"\r\n\r\n" + size + b"\r\nxxxxx\r\n0\r\n\r\n"
    if kind == 7:
        header = chance.choice(
            [
                b"Host: other",
                b"Host : x",
                b" folded",
                b"Expect: 100-continue",
                b"Authorization: Basic \xff",
                b":",
                b"a\0b: c",
            ]
        )
        return bytes(good[:-2]) + header + b"\r\n\r\n"
    if kind == 8:
        return bytes(good).replace(b"\r\n", chance.choice([b"\n", b"\r", b"\r\r\n", b"\0\r\n"]))
    return bytes(good).replace(b"HTTP/1.1", chance.choice([b"HTTP/9.9", b"HTTP/1.1 x", b"FTP/1.1", b"HTTP/", b""]))


def test_malformed_requests(program):
    """10,000 malformed requests: each gets an HTTP answer or its connection is closed, and none reveals internals."""
    chance = random.Random(15)
    requests = [malformed(chance, program.port) for _ in range(MALFORMED)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda raw: sent(program.port, raw, end=True), requests))
    assert len(answers) == MALFORMED
    for raw, answer in zip(requests, answers, strict=True):
        assert b"Traceback" not in answer, raw
        assert b"/src/powermeter" not in answer, raw
        assert not answer or answer.startswith(b"HTTP/1."), raw
        assert not answer.startswith(b"HTTP/1.1 500"), raw
    assert sum(answer.startswith(b"HTTP/1.1 400") for answer in answers) > MALFORMED / 10, "hardly any came through"


def test_a_huge_head(program):
    """A head of 10 MB, in one line or in many, is refused long before its end."""
    for head in (b"GET /" + b"x" * 10_000_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 2_000_000):
        answer = sent(program.port, head)
        assert not answer or answer.startswith((b"HTTP/1.1 431", b"HTTP/1.0 431", b"HTTP/1.1 400", b"HTTP/1.0 400"))


def test_pipelined_requests(program):
    """Requests that are sent before the answers are read are all answered, in order."""
    one = b"GET /%s HTTP/1.1\r\nHost: localhost:%d\r\n%s\r\n"
    many = [one % (b"healthz" if number % 2 else b"nothing", program.port, b"") for number in range(200)]
    found = sent(program.port, b"".join(many) + one % (b"healthz", program.port, b"Connection: close\r\n"))
    statuses = [line.split()[1] for line in found.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
    # One begins behind the body of the one before it.
    statuses = [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200" if number % 2 else b"404" for number in range(200)] + [b"200"]


def test_half_closed(program):
    """A client that closes its sending half, before or after a whole request, gets an answer or is closed."""
    for raw in (b"", b"GET", GOOD % program.port, (GOOD % program.port) * 3):
        answer = sent(program.port, raw, end=True)
        assert not answer or answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "path", ["/", "/bars", "/history.csv", "/api/history", "/api/now", "/live", "/metrics", "/healthz"]
)
@pytest.mark.parametrize(
    "query",
    [
        "span=0001", "span=9999-12", "span=0000-00-00", "span=1970-01-01..9999-12-31", "span=2026-13", "span=-1",
        "span=%00", "span=%ff%fe", "span=<script>", "span=2026&span=2025", "meter=%27;--", "meter=../../etc/passwd",
        "meter=a&span=all", "span", "=", "&&&", f"{'a=b&' * 1500}", f"span={'9' * 6000}",
    ],
)  # fmt: skip
def test_parameters_out_of_range(program, path, query):
    """Whatever is asked for, the answer is a page or a reason."""
    found = visited(program, f"{path}?{query}")
    assert found.status in (200, 400, 404)
    assert "Traceback" not in found.text
    assert "<script>" not in found.text or found.headers["content-type"].startswith("text/plain")


def test_parameters_of_a_megabyte(program):
    """A parameter of a megabyte is refused for its length."""
    for path in (f"/bars?span={MILLION}", f"/{MILLION}", f"/?{MILLION}"):
        answer = sent(program.port, f"GET {path} HTTP/1.1\r\nHost: localhost:{program.port}\r\n\r\n".encode())
        assert not answer or b" 431 " in answer.partition(b"\r\n")[0] or b" 400 " in answer.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "path",
    ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/static/../app.py", "/style.css/../../app.py", "//etc/passwd",
     "/..%2f..%2fapp.py", "/page.js%00", "/app.py", "/templates/base.html", "/journal.db", "//[", "/http://[::1"],
)  # fmt: skip
def test_other_files(program, path):
    """There is nothing but the page: no file beside its own, whatever the path says."""
    answer = sent(program.port, f"GET {path} HTTP/1.0\r\nHost: localhost:{program.port}\r\n\r\n".encode())
    assert answer.split()[1] in (b"400", b"404")
    for inner in (b"root:", b"bottle", b"SQLite", b"Traceback"):
        assert inner not in answer


def test_a_crowd(program):
    """1,000 simultaneous connections that send nothing block nobody else."""
    with contextlib.ExitStack() as stack:
        for _ in range(CROWD):
            stack.enter_context(socket.create_connection(("127.0.0.1", program.port), timeout=PATIENCE_S))
        for _ in range(10):
            assert visited(program).status == 200
            assert visited(program, "/").status == 200


def test_slow_clients(program):
    """Hundreds of clients that send a byte now and then, but never a whole request, block nobody else."""
    stop = threading.Event()

    def drip(connection):
        for byte in itertools.cycle(b"GET / HTTP/1.1\r\nX: "):
            if stop.wait(0.3):
                return
            try:
                connection.send(bytes([byte]))
            except OSError:  # it was ended; there is another at once
                return

    def keep_dripping():
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", program.port)) as connection:
                drip(connection)

    threads = [threading.Thread(target=keep_dripping) for _ in range(SLOW)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            assert visited(program).status == 200
            time.sleep(0.2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_clients_that_do_not_read(program):
    """Clients that request a lot and read nothing block nobody else, and the memory stays within its limit."""
    raw = b"GET /bars?span=all HTTP/1.1\r\nHost: localhost:%d\r\n\r\n" % program.port
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            connection.settimeout(PATIENCE_S)
            connection.connect(("127.0.0.1", program.port))
            with contextlib.suppress(OSError):
                connection.sendall(raw * 100)
        for _ in range(10):
            assert visited(program).status == 200


def test_many_ask_at_once(program):
    """A crowd that requests pages as fast as it can costs the program one status per second."""
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda _: visited(program, "/api/now").status, range(2000)))
    assert set(found) == {200}


def test_one_that_is_killed(under_attack):
    """Even under attack, a process that is killed is followed by another."""
    os.kill(under_attack.page, signal.SIGKILL)
    wait_until(lambda: page_of(under_attack.pid) != under_attack.page)
    assert visited(under_attack).status in (200, 503)
    assert under_attack.status()["meters"]["house"]["rejected"] == 0
