"""
A point a pulse in an InfluxDB: 1, 2, 3, or what speaks their ``/write``.

The client's defaults are cured here: it would wait for ever, try thrice
without a pause, follow redirects with a GET, not verify TLS, take a password
from ``~/.netrc``, obey proxies, read an answer of any size, unpack msgpack that
nobody asked for, lose the status of a 5xx, and import pandas where that is
installed.
"""

import base64
import http.client
import re
import select
import ssl as tls
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

if "pandas" not in sys.modules:
    # influxdb would import it for a client we don't use: half a second and 80 MiB. None: as if it were missing.
    sys.modules["pandas"] = None  # type: ignore[assignment]

import influxdb
from influxdb.exceptions import InfluxDBClientError, InfluxDBServerError

from powermeter.errors import AnsweredError, MisdirectedError, UnreachableError
from powermeter.meter import Pulse
from powermeter.writers import Pace, Receipt, one_line
from powermeter.writers.connection import MOST_READ, Connection, retry_after_s


class _Answer:
    """What the client needs of a response of requests; no headers, which would have it unpack msgpack."""

    headers: Mapping[str, str] = {}

    def __init__(self, status_code: int, content: bytes) -> None:
        self.status_code, self.content = status_code, content


class _Session:
    """
    One kept connection in place of the client's session of requests.

    With *authorization* and no other: the client's 5.2.3 sends an empty user
    over any token. A request costs a third of the CPU of requests' own.
    """

    def __init__(self, connection: Connection, authorization: str | None) -> None:
        self._connection = connection
        # Not msgpack: an error is to be read by a person.
        self._headers = {"Accept": "application/json", "Content-Type": "text/plain; charset=utf-8"}
        if authorization is not None:
            self._headers["Authorization"] = authorization
        #: The status of the last answer, and how long it asked to be left alone, in s.
        self.status = 0
        self.retry_after_s = 0.0

    def request(self, *, method: str, url: str, params: Mapping[str, str], data: bytes, **_: Any) -> _Answer:
        """Send what the client asks for, by our rules."""
        connection = self._connection
        # What can be read before anything was asked is the end: a server or router closed it meanwhile.
        if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            connection.close()
        target = f"{urllib.parse.urlsplit(url).path}?{urllib.parse.urlencode(params)}"
        try:
            connection.request(method, target, data, self._headers)
            answer = connection.getresponse()
            content = answer.read(MOST_READ)
            if not answer.isclosed():
                connection.close()  # there is more, or the answer was cut off
        except BaseException:
            connection.close()
            raise
        self.status, self.retry_after_s = answer.status, retry_after_s(answer)
        return _Answer(answer.status, content)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class _PartialWriteError(AnsweredError):
    """The good points of a batch were stored, *dropped* were not."""

    def __init__(self, reason: str, dropped: int) -> None:
        self.dropped = dropped
        super().__init__(400, reason)


class InfluxdbWriter:
    """Writes to one database of one server; its arguments are the settings' keys."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        username: str | None,
        password: str | None,
        token: str | None,
        database: str,
        retention_policy: str | None,
        ssl: bool,
        verify_ssl: bool | str,
        measurement: str,
        tags: dict[str, str],
        timeout: float,
        batch_size: int,
        update_period: float,
    ) -> None:
        self.pace = Pace(batch_size, update_period)
        self._place = f"{host}:{port}"
        self._timeout = timeout
        self._retention_policy = retention_policy
        self._series = _escaped(measurement, ", ") + "".join(
            f",{_escaped(key, ',= ')}={_escaped(value, ',= ')}" for key, value in sorted(tags.items())
        )
        authorization = _authorization(username, password, token)
        # A service may say back what it was sent.
        self._secrets = [secret for secret in (password, token, *(authorization or "").split()[1:]) if secret]
        self._client = influxdb.InfluxDBClient(host, port, database=database, ssl=ssl, retries=1)
        self._client.close()
        self._session = _Session(_connection(host, port, timeout, ssl=ssl, verify_ssl=verify_ssl), authorization)
        self._client._session = self._session  # noqa: SLF001 - 5.2.3 does not take one of ours

    def deliver(self, pulses: Sequence[Pulse], _place: str, /) -> Receipt:
        """Write *pulses* in one request."""
        series = self._series
        lines = [
            f"{series},meter={p.meter} energy={p.watt_hours!r},"
            f"{'' if p.watts is None else f'power={p.watts!r},'}register={p.register_kwh!r} {p.time_ns}"
            for p in pulses
        ]
        try:
            self._write(lines)
        except _PartialWriteError as error:
            # The good points are stored: the batch is never sent again.
            return Receipt(len(pulses), "", min(error.dropped, len(pulses)), str(error))
        return Receipt(len(pulses))

    def check(self) -> str:
        """Write a comment: the address, the database and the rights are judged, and nothing is stored."""
        self._write(["# power: a check"])
        return self._place

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._session.close()

    def _write(self, lines: list[str]) -> None:
        try:
            self._client.write_points(lines, protocol="line", retention_policy=self._retention_policy)
        except InfluxDBServerError as error:
            session = self._session
            raise AnsweredError(session.status, self._clean(error.args[0]), session.retry_after_s) from error
        except InfluxDBClientError as error:
            if error.code == 200:
                raise MisdirectedError(f"{self._place} answered, but is no InfluxDB: check host and port") from error
            if 300 <= error.code < 400:
                raise MisdirectedError(f"{self._place} answered with a redirect: check host, port and ssl") from error
            reason = self._clean(error.content)
            if error.code == 400 and "field type conflict" in error.content:
                # All that comes will be refused until someone has chosen. What was stored may come again.
                raise MisdirectedError(
                    f"answered 400: {reason}: name another measurement, or remove that one"
                ) from error
            if error.code == 400 and "partial write" in error.content:
                # Without a number, or with the 0 of a line that was not understood, at least one was bad.
                dropped = re.search(r"dropped=([0-9]{1,9})", error.content)
                raise _PartialWriteError(reason, max(1, int(dropped[1]) if dropped else 1)) from error
            raise AnsweredError(error.code, reason, self._session.retry_after_s) from error
        # ValueError: a chunk of -5, or a host that is no name (UnicodeError).
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise UnreachableError(f"{self._place}: {self._clean(self._why(error))}") from error

    def _why(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._timeout:g} s"
        return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__

    def _clean(self, said: str | bytes) -> str:
        return one_line(said.decode(errors="replace") if isinstance(said, bytes) else str(said), *self._secrets)


def _connection(host: str, port: int, timeout: float, *, ssl: bool, verify_ssl: bool | str) -> Connection:
    """
    A connection not yet made; with *ssl* verified by the system's certificates, or the CA file *verify_ssl*.

    Raises :exc:`MisdirectedError` where that file has gone.
    """
    if not ssl:
        return Connection(host, port, timeout=timeout)
    file = verify_ssl if isinstance(verify_ssl, str) else None
    try:
        context = tls.create_default_context(cafile=file)
    except OSError as error:
        raise MisdirectedError(f"{file}: no CA certificates: {error.strerror}: check verify_ssl") from error
    if not verify_ssl:
        context.check_hostname = False
        context.verify_mode = tls.CERT_NONE
    return Connection(host, port, timeout=timeout, context=context)


def _authorization(username: str | None, password: str | None, token: str | None) -> str | None:
    if token:
        return f"Token {token}"
    if username:
        return "Basic " + base64.b64encode(f"{username}:{password or ''}".encode()).decode()
    return None


def _escaped(text: str, characters: str) -> str:
    r"""
    *text* for the line protocol, with a backslash before each of *characters*.

    >>> _escaped("my home", ",= ")
    'my\\ home'
    """
    return re.sub(f"[{characters}]", r"\\\g<0>", text)
