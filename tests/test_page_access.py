"""Who may see the page, and the headers that every answer has."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powermeter.views.page.access import FREE_TRIES, LONGEST_PAUSE_S, MAX_ADDRESSES, Access

PASSWORD = "grünes Haus: 7"


class Visitor:
    """One that asks an application which answers *status* and *body*; *options* are those of :class:`Access`."""

    def __init__(self, *, status="200 OK", body=b"the page", **options):
        self.now_s = 1000.0
        self.bugs = []
        self.reached = 0
        self._status, self._body = status, body
        given = {"port": 8080, "loopback": True, "password": None} | options
        self.access = Access(self._app, on_bug=self.bugs.append, clock=lambda: self.now_s, **given)

    def _app(self, environ, start):
        self.reached += 1
        start(self._status, [("Content-Type", "text/html")])
        return [self._body]

    def ask(self, path="/", *, host="localhost:8080", method="GET", target=None, **more):
        environ = {
            "REQUEST_METHOD": method,
            "REQUEST_URI": path if target is None else target,
            "PATH_INFO": path,
            "REMOTE_ADDR": "127.0.0.1",
        }
        if host is not None:
            environ["HTTP_HOST"] = host
        found = []
        body = b"".join(self.access(environ | more, lambda status, headers, *_: found.append((status, dict(headers)))))
        ((status, headers),) = found
        return int(status.split()[0]), headers, body

    def status(self, *args, **options):
        return self.ask(*args, **options)[0]


def basic(password, user="me"):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("host", ["localhost:8080", "LOCALHOST:8080", "127.0.0.1:8080", "127.1.2.3:8080", "[::1]:8080"])
def test_this_machine_by_its_names(host):
    """On loopback without a password, a request that names this machine and the page's port is answered."""
    assert Visitor().status(host=host) == 200


@pytest.mark.parametrize(
    "host",
    ["example.org:8080", "127.0.0.1.example.org:8080", "localhost", "localhost:80", "10.0.0.1:8080", "[::2]:8080"],
)
def test_another_name_is_refused_on_loopback(host):
    """Any other name is refused: a foreign page may have led the browser here by a name of its own."""
    visitor = Visitor()
    assert visitor.status(host=host) == 421
    assert visitor.reached == 0


def test_port_80_needs_no_port():
    """At port 80 browsers leave the port out."""
    assert Visitor(port=80).status(host="localhost") == 200


@pytest.mark.parametrize(
    "host", [None, "", "a, b", "a b", "a/b", "a:b", "a:", "[", "a@b", "localhost:8080, localhost:8080"]
)
@pytest.mark.parametrize("options", [{}, {"loopback": False}, {"password": PASSWORD}])
def test_no_host_or_two_are_refused(host, options):
    """A request names exactly one host, whatever else is asked for."""
    visitor = Visitor(**options)
    assert visitor.status(host=host, HTTP_AUTHORIZATION=basic(PASSWORD)) == 400
    assert visitor.reached == 0


@pytest.mark.parametrize("options", [{"loopback": False}, {"password": PASSWORD}])
def test_any_name_elsewhere(options):
    """On the network, or with a password, any name is accepted, such as one that a proxy passes."""
    assert Visitor(**options).status(host="power.example.org", HTTP_AUTHORIZATION=basic(PASSWORD)) == 200


@pytest.mark.parametrize("target", ["http://localhost:8080/", "*", "", "localhost:8080", "evil"])
def test_an_absolute_target_is_refused(target):
    """What is asked for is a path."""
    assert Visitor().status(target=target) == 400


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "X"])
def test_only_reading(method):
    """Nothing but GET and HEAD."""
    status, headers, _ = Visitor().ask(method=method)
    assert status == 405
    assert headers["Allow"] == "GET, HEAD"


def test_no_body():
    """A question with a body is refused."""
    assert Visitor().status(CONTENT_LENGTH="1") == 400
    assert Visitor().status(CONTENT_LENGTH="0") == 200


def test_the_password():
    """With a password nothing is done without it; any user name is accepted, and the scheme in upper or lower case."""
    visitor = Visitor(password=PASSWORD)
    for authorization in (
        "",
        basic("wrong"),
        basic(""),
        f"Bearer {PASSWORD}",
        "Basic",
        "Basic ?",
        "Basic bm9jb2xvbg==",
    ):
        visitor.now_s += LONGEST_PAUSE_S
        status, headers, _ = visitor.ask(HTTP_AUTHORIZATION=authorization)
        assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="power", charset="UTF-8"')
    assert visitor.status() == 401
    assert visitor.reached == 0
    visitor.now_s += LONGEST_PAUSE_S
    for user in ("", "me", "grün"):
        assert visitor.status(HTTP_AUTHORIZATION=basic(PASSWORD, user)) == 200
    assert visitor.status(HTTP_AUTHORIZATION=basic(PASSWORD).replace("Basic", "bASIC")) == 200


def test_guessing_has_to_pause():
    """From some wrong passwords on an address has to wait, longer and longer, and no other address has to."""
    visitor = Visitor(password=PASSWORD)
    for _ in range(FREE_TRIES):
        assert visitor.status(HTTP_AUTHORIZATION=basic("wrong")) == 401
    status, headers, _ = visitor.ask(HTTP_AUTHORIZATION=basic(PASSWORD))
    assert (status, headers["Retry-After"]) == (429, "1")
    assert visitor.status(HTTP_AUTHORIZATION=basic(PASSWORD), REMOTE_ADDR="10.0.0.2") == 200
    pauses = []
    for _ in range(8):
        visitor.now_s += float(visitor.ask(HTTP_AUTHORIZATION=basic("wrong"))[1]["Retry-After"])
        assert visitor.status(HTTP_AUTHORIZATION=basic("wrong")) == 401
        pauses.append(int(visitor.ask(HTTP_AUTHORIZATION=basic("wrong"))[1]["Retry-After"]))
    assert pauses == [2, 4, 8, 16, 30, 30, 30, 30]
    visitor.now_s += LONGEST_PAUSE_S
    assert visitor.status(HTTP_AUTHORIZATION=basic(PASSWORD)) == 200
    assert visitor.status(HTTP_AUTHORIZATION=basic("wrong")) == 401, (
        "after the right one, counting starts from the beginning"
    )
    assert visitor.status(HTTP_AUTHORIZATION=basic(PASSWORD)) == 200


def test_guessing_from_many_addresses_takes_no_memory():
    """However many addresses guess, a bounded number is remembered; one IPv6 network is one of them."""
    visitor = Visitor(password=PASSWORD)
    for number in range(2 * MAX_ADDRESSES):
        visitor.status(HTTP_AUTHORIZATION=basic("wrong"), REMOTE_ADDR=f"10.0.{number // 256}.{number % 256}")
    assert len(visitor.access._wrong) == MAX_ADDRESSES
    for number in range(FREE_TRIES):
        assert visitor.status(HTTP_AUTHORIZATION=basic("wrong"), REMOTE_ADDR=f"2001:db8::{number}") == 401
    assert visitor.status(HTTP_AUTHORIZATION=basic("wrong"), REMOTE_ADDR="2001:db8::1:2:3:4") == 429


@pytest.mark.parametrize(("status", "word"), [("200 OK", b"ok\n"), ("503 Service Unavailable", b"failing\n")])
def test_health_without_the_password_is_a_word(status, word):
    """Without the password, /healthz answers only whether all is well, not why not; and tries no passwords."""
    visitor = Visitor(password=PASSWORD, status=status, body=b"writer influxdb: 10.0.0.5 refused")
    for authorization in ("", basic("wrong"), basic(PASSWORD)):
        found, _, body = visitor.ask("/healthz", HTTP_AUTHORIZATION=authorization)
        assert (found, body) == (int(status[:3]), word)


def test_health_without_a_password_has_the_reason():
    """Where there is no password, there is nobody who must not know."""
    assert Visitor(status="503 x", body=b"writer influxdb").ask("/healthz")[::2] == (503, b"writer influxdb")


def test_headers_of_every_answer():
    """A browser may show an answer, and neither keep it, nor frame it, nor send its address or content elsewhere."""
    visitor = Visitor(password=PASSWORD)
    found = [
        visitor.ask(HTTP_AUTHORIZATION=basic(PASSWORD)),
        visitor.ask(),
        visitor.ask("/healthz"),
        visitor.ask(host="a b"),
        visitor.ask(method="POST"),
    ]
    assert [status for status, _, _ in found] == [200, 401, 200, 400, 405]
    for _, headers, _ in found:
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cache-Control"] == "no-store"
        assert "Access-Control-Allow-Origin" not in headers


def test_a_bug_is_the_log_s():
    """What goes wrong in the application is reported to the daemon; the visitor sees that something did."""
    visitor = Visitor(body=None)
    access = Access(
        lambda _environ, _start: {}["the secret"], port=8080, loopback=True, password=None, on_bug=visitor.bugs.append
    )
    visitor.access = access
    status, _, body = visitor.ask()
    assert status == 500
    assert b"secret" not in body
    (bug,) = visitor.bugs
    assert "KeyError: 'the secret'" in bug
    assert "test_page_access.py" in bug


def test_a_head_has_no_body():
    """An answer to HEAD that is not the application's has no body either."""
    assert Visitor(password=PASSWORD).ask(method="HEAD")[2] == b""


@given(st.text(), st.text(), st.text(max_size=80), st.text())
def test_nothing_gets_past(host, target, authorization, path):
    """Whatever is sent, without the password the application is not reached."""
    visitor = Visitor(password=PASSWORD)
    status = visitor.status(f"/{path}", host=host, target=target, HTTP_AUTHORIZATION=authorization)
    assert status in (400, 401, 429) or path == "healthz"
    assert visitor.reached == 0 or path == "healthz"
