"""
A point a pulse in an InfluxDB: 1, 2, 3, or what speaks their ``/write``.

The library's defaults are cured here: it would wait for ever, try thrice
without a pause, follow redirects with a GET, not verify TLS, take a password
from ``~/.netrc``, obey proxies, and import pandas where that is installed.
"""

import base64
import re
import sys
from collections.abc import Sequence
from typing import Any

if "pandas" not in sys.modules:
    # influxdb would import it for a client we don't use: half a second and 80 MiB. None: as if it were missing.
    sys.modules["pandas"] = None  # type: ignore[assignment]

import influxdb
import requests
from influxdb.exceptions import InfluxDBClientError, InfluxDBServerError

from powermeter.errors import AnsweredError, MisdirectedError, UnreachableError
from powermeter.meter import Pulse
from powermeter.writers import Pace, Receipt, one_line


class _Adapter(requests.adapters.HTTPAdapter):
    """
    Sends requests with *authorization* and no other, and keeps the status of the last answer.

    Here and not in the client's arguments: 5.2.3 has none for headers and
    sends an empty user over any token; and a 5xx loses its status.
    """

    def __init__(self, authorization: str | None) -> None:
        super().__init__(pool_connections=1, pool_maxsize=1)
        self.authorization = authorization
        self.status = 0

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        request.headers.pop("Authorization", None)
        if self.authorization is not None:
            request.headers["Authorization"] = self.authorization
        # Not msgpack: an error is to be read by a person.
        request.headers["Accept"] = "application/json"
        response = super().send(request, *args, **kwargs)
        self.status = response.status_code
        return response


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
        self._client = influxdb.InfluxDBClient(
            host, port, database=database, ssl=ssl, verify_ssl=verify_ssl, timeout=timeout, retries=1
        )
        authorization = _authorization(username, password, token)
        # A service may say back what it was sent.
        self._secrets = [secret for secret in (password, token, *(authorization or "").split()[1:]) if secret]
        self._adapter = _Adapter(authorization)
        session = self._client._session  # noqa: SLF001 - 5.2.3 does not take one of ours
        session.mount("http://", self._adapter)
        session.mount("https://", self._adapter)
        session.trust_env = False  # no netrc, no proxies
        session.max_redirects = 0

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
        except AnsweredError as error:
            if error.status != 400 or "partial write" not in str(error):
                raise
            # The good points are stored: the batch is never sent again. Without a number, at least one was bad.
            dropped = re.search(r"dropped=(\d+)", str(error))
            return Receipt(len(pulses), "", int(dropped[1]) if dropped else 1, str(error))
        return Receipt(len(pulses))

    def check(self) -> str:
        """Write a comment: the address, the database and the rights are judged, and nothing is stored."""
        self._write(["# power: a check"])
        return self._place

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._client.close()

    def _write(self, lines: list[str]) -> None:
        try:
            self._client.write_points(lines, protocol="line", retention_policy=self._retention_policy)
        except InfluxDBServerError as error:
            raise AnsweredError(self._adapter.status, self._clean(error.args[0])) from error
        except InfluxDBClientError as error:
            if error.code == 200:
                raise MisdirectedError(f"{self._place} answered, but is no InfluxDB: check host and port") from error
            raise AnsweredError(error.code, self._clean(error.content)) from error
        except requests.TooManyRedirects as error:
            raise MisdirectedError(f"{self._place} answered with a redirect: check host, port and ssl") from error
        except requests.Timeout as error:
            raise UnreachableError(f"{self._place}: no answer within {self._timeout:g} s") from error
        except requests.RequestException as error:
            raise UnreachableError(f"{self._place}: {self._clean(_innermost(error))}") from error

    def _clean(self, said: str | bytes) -> str:
        return one_line(said.decode(errors="replace") if isinstance(said, bytes) else str(said), *self._secrets)


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


def _innermost(error: BaseException) -> str:
    """What went wrong at the bottom of requests' chain of errors, in words."""
    while error.__context__ is not None:
        error = error.__context__
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
