"""
Who may see the page: the checks between a request and the application.

First it refuses whatever is not a plain request for this page, and anybody who does not know the password. Owns the
headers that keep a browser from doing more with an answer than showing it.
"""

import base64
import binascii
import hashlib
import hmac
import re
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

#: Headers of every answer, unless the application has its own: nothing from elsewhere, no frames, nothing kept.
HEADERS = (
    (
        "Content-Security-Policy",
        # The icon is within the page, as data: it costs no request.
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)

#: A host and, perhaps, a port (RFC 9110, 7.2).
HOST = re.compile(r"([A-Za-z0-9._~-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")

#: The names that mean this machine only, whoever resolves them.
LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|\[::1\]", re.IGNORECASE)

#: After how many wrong passwords in a row an address has to wait; the first and the longest wait, in s.
FREE_TRIES, PAUSE_S, LONGEST_PAUSE_S = 3, 1.0, 30.0

#: For how many addresses wrong passwords are remembered.
MAX_ADDRESSES = 256


class Refusal(NamedTuple):
    """The answer in place of the application's: the *status*, one line of *text* and further *headers*."""

    status: str
    text: str
    headers: Sequence[tuple[str, str]] = ()


class Access:
    """
    The WSGI application *app*, for those who may see it.

    It is reached at *port*. On *loopback*, without a *password*, a request must name this machine itself, so that no
    other site's page can have the browser ask for it (DNS rebinding). With a password, any host is accepted, as a
    proxy may pass its own. *on_bug* gets what went wrong in *app*, as one line; *clock* gives monotonic seconds.
    """

    def __init__(
        self,
        app: Application,
        *,
        port: int,
        loopback: bool,
        password: str | None,
        on_bug: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app = app
        self._port = port
        self._only_here = loopback and password is None
        self._password = None if password is None else _hash(password.encode())
        self._on_bug = on_bug
        self._clock = clock
        #: By address: how many passwords in a row were wrong, and when the next one is accepted.
        self._wrong: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request."""

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            given = {name.lower() for name, _ in headers}
            return start_response(status, headers + [one for one in HEADERS if one[0].lower() not in given], *rest)

        if (refused := self._refusal(environ)) is not None:
            return _answered(environ, start, refused)
        try:
            if self._password is not None and environ["PATH_INFO"] == "/healthz":
                return self._health(environ, start)
            return self._app(environ, start)
        except Exception as error:  # noqa: BLE001 - the daemon logs it; visitors learn nothing of it
            self._on_bug(_where(error))
            return _answered(environ, start, Refusal("500 Internal Server Error", "a bug: see the log of power"))

    def _refusal(self, environ: Environ) -> Refusal | None:
        """The answer in place of the application's; None if the request may pass."""
        return self._no_question(environ) or self._wrong_password(environ)

    def _no_question(self, environ: Environ) -> Refusal | None:
        if not environ.get("REQUEST_URI", "").startswith("/"):
            return Refusal("400 Bad Request", "this is not a request for a page")
        # The server joins two hosts into one, "a, b".
        if (host := HOST.fullmatch(environ.get("HTTP_HOST", ""))) is None:
            return Refusal("400 Bad Request", "the request does not name one host")
        if self._only_here and not (LOOPBACK.fullmatch(host[1]) and int(host[2] or 80) == self._port):
            return Refusal(
                "421 Misdirected Request",
                f"open http://localhost:{self._port}/ instead, or set a password for the page: then any name works",
            )
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return Refusal("405 Method Not Allowed", "nothing can be changed here", [("Allow", "GET, HEAD")])
        if environ.get("CONTENT_LENGTH", "0") not in ("", "0"):
            return Refusal("400 Bad Request", "a request for a page has no body")
        return None

    def _wrong_password(self, environ: Environ) -> Refusal | None:
        if self._password is None or environ["PATH_INFO"] == "/healthz":
            return None
        unknown = Refusal(
            "401 Unauthorized",
            "a password is needed; any user name is accepted",
            [("WWW-Authenticate", 'Basic realm="power", charset="UTF-8"')],
        )
        if (given := _password_in(environ.get("HTTP_AUTHORIZATION", ""))) is None:
            return unknown
        network = network_of(environ.get("REMOTE_ADDR", ""))
        with self._lock:
            times, pause_end_s = self._wrong.get(network, (0, 0.0))
            if (left_s := pause_end_s - self._clock()) > 0:
                return Refusal(
                    "429 Too Many Requests",
                    f"too many wrong passwords: try again in {left_s:.0f} s",
                    [("Retry-After", f"{left_s:.0f}")],
                )
            self._wrong.pop(network, None)
            if hmac.compare_digest(_hash(given), self._password):
                return None
            times += 1
            pause_s = min(LONGEST_PAUSE_S, PAUSE_S * 2.0 ** (times - FREE_TRIES)) if times >= FREE_TRIES else 0.0
            self._wrong[network] = times, self._clock() + pause_s
            if len(self._wrong) > MAX_ADDRESSES:
                del self._wrong[next(iter(self._wrong))]
        return unknown

    def _health(self, environ: Environ, start: Callable[..., Any]) -> Iterable[bytes]:
        """One word: the reason is only for those who know the password."""
        found: list[str] = []
        answer = self._app(environ, lambda status, *_: found.append(status))
        if (close := getattr(answer, "close", None)) is not None:
            close()
        status = found[0] if found else "500 Internal Server Error"
        return _answered(environ, start, Refusal(status, "ok" if status.startswith("200") else "failing"))


def network_of(address: str) -> str:
    """
    What counts as one visitor: an IPv4 *address*, or the network of an IPv6 one, where everybody has many addresses.

    >>> network_of("10.0.0.7"), network_of("::ffff:10.0.0.7"), network_of("fe80::7:8%eth0") == network_of("fe80::9")
    ('10.0.0.7', '10.0.0.7', True)
    """
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except (OSError, ValueError):
        return address
    # IPv4 mapped to IPv6 (RFC 4291, 2.5.5.2).
    return socket.inet_ntoa(packed[12:]) if packed[:12] == bytes(10) + b"\xff\xff" else packed[:8].hex()


def _hash(password: bytes) -> bytes:
    # Always of the same length, so that the time of a comparison reveals nothing.
    return hashlib.sha256(password).digest()


def _password_in(header: str) -> bytes | None:
    """The password in an Authorization *header* (RFC 7617); None without one."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        _, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return password if colon else None


def _answered(environ: Environ, start: Callable[..., Any], refusal: Refusal) -> list[bytes]:
    body = f"{refusal.text}\n".encode()
    headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
    start(refusal.status, [*headers, *refusal.headers])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _where(error: Exception) -> str:
    """What went wrong, and where, on one line."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"a bug: {type(error).__name__}: {error} ({place.filename}, line {place.lineno})"
