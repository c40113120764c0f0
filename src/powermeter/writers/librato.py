"""
One gauge per meter and period at Librato, or at another service that supports its API.

This module overrides the library's behaviour. Otherwise it would take a redirect
or a web page for a success, retry a 503 for ever, fail on a 4xx whose body it
does not know, and log every body.

The library, and Python's own modules for HTTP and TLS, are imported when a writer is opened.
"""

import itertools
import logging
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from powermeter.errors import AnsweredError, DeliveryError, MisdirectedError, UnreachableError
from powermeter.meter import NS_PER_S, Pulse
from powermeter.settings.schema import (
    REQUIRED,
    Key,
    Remark,
    choice,
    exposed,
    host_and_port,
    optional,
    tags,
    text,
    visible_ascii,
    whole,
)
from powermeter.settings.values import Secret, Values
from powermeter.writers import Pace, Receipt
from powermeter.writers.answers import Judgement, Verdict, is_page, judge, message, parameters
from powermeter.writers.blotter import Blotter, one_line

if TYPE_CHECKING:
    import http.client

    from powermeter.writers.http import Connection

#: The library that it needs: the module, and its name on PyPI.
LIBRARY = ("librato", "librato-metrics")

#: Librato's own host. It no longer resolves; the default shows where the API came from.
HOST = "metrics-api.librato.com"

# Names, sources and tags: the limits of the Librato API documentation.
_NAME_1_255 = text(r"[A-Za-z0-9.:\-_]{1,255}", "1 to 255 characters of A-Z a-z 0-9 . : - _")
# "<source>.<meter>" is sent, and a meter's name has up to 32 characters.
_SOURCE = text(r"[A-Za-z0-9.:\-_]{1,222}", "1 to 222 characters of A-Z a-z 0-9 . : - _")
_TAGS = tags(
    r"[-.:_\w]{1,64}",
    r"[-.:_?\\/\w ]{1,255}",
    'a dict of 0 to 49 names to texts, "meter" and "time" not among them, such as {"home": "yes"}',
    lower=True,
)

#: Its keys in the settings.
KEYS = {
    "user": Key(REQUIRED, visible_ascii),
    "token": Key(REQUIRED, visible_ascii, secret=True),
    "metric": Key("power", _NAME_1_255),
    "hostname": Key(HOST, host_and_port),
    "protocol": Key("https", choice("https", "http")),
    "base_path": Key("/v1/", text(r"/([!-~]*/)?", 'a path that begins and ends with /, such as "/v1/"')),
    "source": Key(None, optional(_SOURCE)),
    "tags": Key(None, optional(_TAGS)),
    "period": Key(60, whole(1, 86400)),
}

#: How long a request may take as a whole, in s.
TIMEOUT_S = 10

#: What to do, by what an answer is about: see :mod:`powermeter.writers.answers`.
ADVICE = {
    "tls": 'this port speaks TLS: set "protocol": "https"',
    "no tls": 'set "protocol": "http", or check hostname',
    "certificate": "its CA must be one that the system trusts",
    "name": "set hostname to a name that is in the certificate",
    "limit": "it is a limit of the service, or of the account",
    "path": "check hostname and base_path",
    "any": "if it refuses every pulse: check hostname and base_path",
    "page": "that is a web page from a proxy or another server: check hostname and base_path",
    "login": "check user and token",
}


def warnings(options: Values) -> Iterator[Remark]:
    """Warn that nothing answers at Librato's own host any more, and if others can get the token."""
    hostname = options["hostname"]
    if hostname == HOST:
        yield Remark(
            f"Librato was shut down on 2026-01-31, nothing answers at {HOST}: set another hostname or disable it"
        )
    encrypted = options["protocol"] == "https"
    yield from exposed(KEYS, options, hostname.partition(":")[0], encrypted=encrypted, encrypt='"protocol": "https"')


class _Service:
    """The service behind the library's connection: we connect to it, send the headers and judge its answers."""

    def __init__(self, hostname: str, user: str, token: Secret, *, protocol: str) -> None:
        from powermeter.writers.http import basic

        self.hostname = hostname
        self._protocol = protocol
        self._authorization = basic(user, token)
        self._blotter = Blotter(user, token)
        self._open: Connection | None = None

    def connection(self, base_path: str) -> Any:
        """A connection of the library to this service, without the user and the token."""
        import librato

        connection = librato.LibratoConnection("", "", hostname=self.hostname, base_path=base_path)
        connection._setup_connection = self._connected  # noqa: SLF001 - the library has no public way to set it
        connection._set_headers = self._headers  # noqa: SLF001
        connection._process_response = self._taken  # noqa: SLF001
        return connection

    def clean(self, text: str) -> str:
        """The *text* of an answer, without the token."""
        return one_line(text, self._blotter)

    def close(self) -> None:
        """Close what is open; may be called twice."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _connected(self) -> "Connection":
        import ssl

        from powermeter.writers.http import Connection

        context = ssl.create_default_context() if self._protocol == "https" else None
        self._open = Connection(self.hostname, timeout=TIMEOUT_S, context=context)
        return self._open

    def _headers(self, headers: dict[str, str] | None) -> dict[str, str]:
        from powermeter.writers.http import USER_AGENT

        return {**(headers or {}), "Authorization": self._authorization.reveal(), "User-Agent": USER_AGENT}

    def _taken(self, resp: "http.client.HTTPResponse", backoff: int) -> tuple[dict[str, Any], bool, int]:
        """What the library wants to know about an answer: its content, whether it is final, and the next pause."""
        from powermeter.writers.http import MAX_READ, retry_after_s

        with resp:  # one that ends with the connection has taken it over
            content = resp.read(MAX_READ)
        page = is_page(resp.getheader("Content-Type") or "", content)
        if 300 <= resp.status < 400:
            raise MisdirectedError(f"{self.hostname} answered {resp.status}, a redirect: check hostname and protocol")
        if not 200 <= resp.status < 300:
            judged = _judged(resp.status, content, page=page)
            words = self.clean(message(content))
            if advice := ADVICE.get(judged.advice):
                words = ": ".join(filter(None, (words.rstrip("."), advice)))
            raise AnsweredError(resp.status, words, retry_after_s(resp), verdict=judged.verdict)
        if page:
            raise MisdirectedError(f"{self.hostname} answered with a web page: check hostname and base_path")
        return {}, True, backoff


def _judged(status: int, content: bytes, *, page: bool) -> Judgement:
    """What an answer means; errors that are not about parameters ("request", "system") are not about gauges."""
    judged = judge(status, content.decode(errors="replace"), page)
    if judged.verdict is Verdict.REFUSED and parameters(content) is False:
        return Judgement(Verdict.MISCONFIGURED)
    return judged


class LibratoWriter:
    """Sends to one account of one service; its arguments are the settings' keys."""

    def __init__(
        self,
        *,
        user: str,
        token: Secret,
        metric: str,
        hostname: str,
        protocol: str,
        base_path: str,
        source: str | None,
        tags: dict[str, str] | None,
        period: int,
    ) -> None:
        logging.getLogger("librato").setLevel(logging.WARNING)
        self.pace = Pace.aggregated(period, batch_size=5000)
        self._period_ns = self.pace.period_ns
        self._metric = metric
        self._source = source or socket.gethostname()
        self._tags = tags
        self._service = _Service(hostname, user, token, protocol=protocol)
        self._connection = self._service.connection(base_path)

    def deliver(self, pulses: Sequence[Pulse], _place: str, /) -> Receipt:
        """Send the periods of *pulses*, as many as one POST may contain."""
        from librato.queue import Queue

        queue = Queue(self._connection)
        taken = gauges = 0
        for period, in_period in itertools.groupby(pulses, key=lambda pulse: pulse.time_ns // self._period_ns):
            of_period = list(in_period)
            meters = {pulse.meter for pulse in of_period if pulse.watts is not None}
            if taken and gauges + len(meters) > Queue.MAX_MEASUREMENTS_PER_CHUNK:
                break
            for meter in sorted(meters):
                queue.add_aggregator(self._aggregated(period, meter, of_period))
            gauges += len(meters)
            taken += len(of_period)
        # If no pulse has a power, the queue is empty and sends nothing.
        self._ask(queue.submit)
        return Receipt(taken)

    def check(self, pulses: Sequence[Pulse] = (), /) -> str:  # noqa: ARG002 - a gauge covers all pulses of its period
        """List one metric, which checks the address, the user and the token."""
        self._ask(lambda: self._connection.list_metrics(length=1))
        return self._service.hostname

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._service.close()

    def _ask(self, request: Callable[[], object]) -> None:
        import http.client

        from powermeter.writers.http import cause

        try:
            request()
        except DeliveryError:
            raise
        # ValueError: a chunk of -5, or a host that is not a valid name (UnicodeError).
        except (OSError, http.client.HTTPException, ValueError) as error:
            why = cause(error, TIMEOUT_S)
            words = ": ".join(filter(None, (self._service.clean(why.text), ADVICE.get(why.advice))))
            raise UnreachableError(f"{self._service.hostname}: {words}") from error
        finally:
            self._service.close()

    def _aggregated(self, period: int, meter: str, pulses: Iterable[Pulse]) -> Any:
        """The library's aggregate of the powers of *meter*, at the period's start."""
        from librato.aggregator import Aggregator

        at_s = period * self._period_ns // NS_PER_S
        if self._tags is None:
            aggregate = Aggregator(self._connection, source=f"{self._source}.{meter}", measure_time=at_s)
            add = aggregate.add
        else:
            # The service keeps the values of tags in lower case.
            aggregate = Aggregator(self._connection, tags={**self._tags, "meter": meter.lower()}, measure_time=at_s)
            add = aggregate.add_tagged
        for pulse in pulses:
            if pulse.meter == meter and pulse.watts is not None:
                add(self._metric, pulse.watts)
        return aggregate
