"""
One point per pulse in InfluxDB 1, 2 or 3, or in another server that supports their ``/write``.

This module overrides the client's defaults. Otherwise it would wait for ever,
try three times without a pause, follow redirects with a GET, not verify TLS,
take a password from ``~/.netrc``, use proxies, read an answer of any size,
unpack msgpack that nobody asked for, lose the status of a 5xx, and import
pandas if that is installed.

The client, and Python's own modules for HTTP and TLS, are imported when a writer is opened.
"""

import json
import os
import re
import sys
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from powermeter.certificates import context, verify_ssl
from powermeter.errors import AnsweredError, LocalError, MisdirectedError, UnreachableError
from powermeter.meter import Pulse
from powermeter.settings.schema import (
    Key,
    Mistake,
    Remark,
    exposed,
    flag,
    host,
    number,
    optional,
    tags,
    text,
    url_prefix,
    visible_ascii,
    whole,
    words,
)
from powermeter.settings.values import Secret, Values
from powermeter.writers import Pace, Receipt
from powermeter.writers.answers import MAX_LISTED, Verdict, complains, is_page, judge, listed, message, worst
from powermeter.writers.blotter import Blotter, one_line

if TYPE_CHECKING:
    from powermeter.writers.http import Connection

#: The library that it needs: the module, and its name on PyPI.
LIBRARY = ("influxdb", "influxdb")


_TAGS = tags(
    # VictoriaMetrics reserves names that begin with __ for itself.
    r"(?!__)[^\x00-\x1f\x7f\\]+",
    # A backslash before a separator would escape it, and change the meaning of the line.
    r"[^\x00-\x1f\x7f\\]+",
    'a dict of 0 to 49 names to texts without \\, "meter" and "time" not among them, such as {"home": "yes"}',
    # The fields of our points: InfluxDB 3 refuses them as tags, and InfluxQL could not tell them apart. And the columns
    # that InfluxDB 2 adds to every row.
    taken=(
        "meter",
        "time",
        "energy",
        "power",
        "register",
        "_field",
        "_measurement",
        "_time",
        "_value",
        "_start",
        "_stop",
    ),
)
# A line of the line protocol that begins with # is a comment.
_MEASUREMENT = text(
    r"(?! *#)[^\x00-\x1f\x7f\\]+", "text on one line without \\, which is not empty and does not begin with #"
)

#: Its keys in the settings.
KEYS = {
    "host": Key("localhost", host),
    "port": Key(8086, whole(1, 65535)),
    "path": Key("", url_prefix),
    "username": Key(None, optional(words)),
    "password": Key(None, optional(words), secret=True),
    "token": Key(None, optional(visible_ascii), secret=True),
    "database": Key("power", words),
    "retention_policy": Key(None, optional(words)),
    "ssl": Key(False, flag),
    "verify_ssl": Key(True, verify_ssl),
    "measurement": Key("electricity_power", _MEASUREMENT),
    "tags": Key({}, _TAGS),
    "timeout": Key(10, number(0.1, 600)),
    "batch_size": Key(5000, whole(1, 50_000)),
    "update_period": Key(10, number(0, 86400)),
}


def mistakes(options: Values) -> Iterator[Mistake]:
    """Mistakes that a single key does not show: conflicting logins."""
    if options.get("token") and (options.get("username") or options.get("password")):
        yield Mistake("token", "a token beside a username or password", "one of the two")
    if options.get("password") and not options.get("username", True):
        yield Mistake("username", "None", "text, as there is a password")


def warnings(options: Values) -> Iterator[Remark]:
    """Warn if the CA file is missing, and if others can get the password or token."""
    file = options["verify_ssl"]
    if isinstance(file, str) and not os.path.exists(file):
        yield Remark(f"{file} is not there: the writer waits for it", "verify_ssl")
    yield from exposed(
        KEYS, options, options["host"], encrypted=options["ssl"], encrypt='"ssl": True', verified=file is not False
    )


#: What to do, by what an answer is about: see :mod:`powermeter.writers.answers`.
ADVICE = {
    "tls": 'this port speaks TLS: set "ssl": True',
    "no tls": 'set "ssl": False, or check port',
    "certificate": 'set "verify_ssl" to the file of its CA',
    "name": "set host to a name that is in the certificate",
    "measurement": "set another measurement, or remove that one",
    "tags": "rename that tag in tags",
    "limit": "it is a limit of the server: raise it there",
    "path": "check host, port and path (VictoriaMetrics as a cluster: /insert/0/influx)",
    "any": "if it refuses every pulse: check host, port and path",
    "page": "that is a web page from a proxy or another server: check host, port and path",
    "database": "check database and retention_policy, or create them",
    "login": "check username and password, or token",
}

#: The fields of a point.
FIELDS = ("energy", "power", "register")

#: What InfluxDB 3 answers to a body without a point, such as that of a check, and InfluxDB 2 to an empty one.
NOTHING_TO_WRITE = re.compile("incoming write was empty|writing requires points")

#: How many points of a partial write were not stored: InfluxDB 1 and 2; the cloud of InfluxDB 2.
DROPPED = re.compile(r"dropped=(\d{1,9})\b|(\d{1,9})/\d+ points rejected", re.ASCII)


class _Answer:
    """What the client needs from a response of requests; no headers, because they could make it unpack msgpack."""

    headers: Mapping[str, str] = {}

    def __init__(self, status_code: int, content: bytes, content_type: str, retry_after_s: float) -> None:
        self.status_code, self.content = status_code, content
        self.is_page = is_page(content_type, content)
        self.retry_after_s = retry_after_s


#: An answer that the client treats as a success, so that it leaves all judging to us.
_SUCCESS = _Answer(204, b"", "", 0.0)


class _Session:
    """
    One persistent connection instead of the client's session of requests.

    It sends its own *authorization*, because version 5.2.3 of the client replaces
    any token by an empty user. A request costs a third of the CPU that it costs
    with requests. *path* is put before the client's own.
    """

    def __init__(self, connection: "Connection", authorization: Secret | None, path: str) -> None:
        from powermeter.writers.http import USER_AGENT

        self._connection = connection
        self._authorization = authorization
        self._path = path
        # Not msgpack: people have to be able to read an error.
        self._headers = {
            "Accept": "application/json",
            "Content-Type": "text/plain; charset=utf-8",
            "User-Agent": USER_AGENT,
        }
        #: The last answer.
        self.answer = _SUCCESS

    def request(self, *, method: str, url: str, params: Mapping[str, str], data: bytes, **_: Any) -> _Answer:
        """Send the client's request by our rules; :attr:`answer` is then what came back."""
        self.answer = self.ask(method, urllib.parse.urlsplit(url).path, params, data)
        return _SUCCESS

    def ask(self, method: str, path: str, params: Mapping[str, str], data: bytes | None = None) -> _Answer:
        """Send one request and return the answer, whatever it is."""
        from powermeter.writers.http import MAX_READ, retry_after_s

        connection = self._connection
        if connection.has_ended():
            connection.close()
        headers = dict(self._headers)
        if self._authorization:
            headers["Authorization"] = self._authorization.reveal()
        try:
            connection.request(method, f"{self._path}{path}?{urllib.parse.urlencode(params)}", data, headers)
            with connection.getresponse() as answer:  # one that ends with the connection has taken it over
                content = answer.read(MAX_READ)
                if not answer.isclosed():
                    connection.close()  # there is more, or the answer was cut off
        except BaseException:
            connection.close()
            raise
        return _Answer(answer.status, content, answer.getheader("Content-Type") or "", retry_after_s(answer))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class InfluxdbWriter:
    """Writes to one database of one server; its arguments are the settings' keys."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        path: str,
        username: str | None,
        password: Secret | None,
        token: Secret | None,
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
        self._place = f"{f'[{host}]' if ':' in host else host}:{port}{path}"
        self._timeout = timeout
        self._database = database
        self._retention_policy = retention_policy
        self._measurement = measurement
        self._series = _escaped(measurement, ", ") + "".join(
            f",{_escaped(key, ',= ')}={_escaped(value, ',= ')}" for key, value in sorted(tags.items())
        )
        authorization = _authorization(username, password, token)
        self._blotter = Blotter(username, password, token)
        self._client = _client(host, port, database=database, ssl=ssl, retries=1)
        self._session = _Session(_connection(host, port, timeout, ssl=ssl, verify_ssl=verify_ssl), authorization, path)
        self._client._session = self._session  # noqa: SLF001 - 5.2.3 does not accept another one

    def deliver(self, pulses: Sequence[Pulse], _place: str, /) -> Receipt:
        """Write *pulses* in one request."""
        return self._write([self._line(pulse) for pulse in pulses])

    def check(self, pulses: Sequence[Pulse] = (), /) -> str:
        """
        Write *pulses*, which changes nothing if they are already stored; without any, a comment, which stores nothing.

        This checks the address, the database and the rights. With pulses, it shows
        any other reason for which the server refuses our points; without pulses,
        the types of existing fields are checked.
        """
        try:
            self._write([self._line(pulse) for pulse in pulses] or ["# power: a check"])
        except AnsweredError as error:
            expired = error.verdict is Verdict.EXPIRED  # only these pulses are too old
            if not expired and (pulses or not NOTHING_TO_WRITE.search(str(error))):
                raise
        if not pulses:
            self._check_field_types()
        return self._place

    def close(self) -> None:
        """Close the connection; may be called twice."""
        self._session.close()

    def _line(self, p: Pulse) -> str:
        power = "" if p.watts is None else f"power={p.watts!r},"
        return f"{self._series},meter={p.meter} energy={p.watt_hours!r},{power}register={p.register_kwh!r} {p.time_ns}"

    def _write(self, lines: list[str]) -> Receipt:
        import http.client

        from powermeter.writers.http import cause

        try:
            self._client.write_points(lines, protocol="line", retention_policy=self._retention_policy)
        # ValueError: a chunk of -5, or a host that is not a valid name (UnicodeError).
        except (http.client.HTTPException, OSError, ValueError) as error:
            why = cause(error, self._timeout)
            raise UnreachableError(f"{self._place}: {self._reason(why.text, why.advice)}") from error
        return self._judged(self._session.answer, len(lines))

    def _judged(self, answer: _Answer, points: int) -> Receipt:
        """What became of this number of *points*, judging by the server's *answer*. Raises :exc:`DeliveryError`."""
        status = answer.status_code
        if 300 <= status < 400:
            raise MisdirectedError(f"{self._place} answered with a redirect: check host, port, path and ssl")
        if status < 300 and answer.is_page:
            raise MisdirectedError(
                f"{self._place} answered with a web page, so it is not InfluxDB: check host and port"
            )
        if status < 300 and not complains(answer.content):
            return Receipt(points)  # stored, whatever the number
        # A complaint in a successful answer is about points, like that of a 400.
        judged_as = 400 if status < 300 else status
        answered, refused = message(answer.content), listed(answer.content, points)
        judged = judge(
            judged_as, answer.content.decode(errors="replace") if answer.is_page else answered, answer.is_page
        )
        if refused:
            judged = worst(judge(judged_as, one.reason) for one in refused)
        words = self._reason(f"{answered}: {refused[0].reason}" if refused else answered, judged.advice)
        if judged.verdict in (Verdict.REFUSED, Verdict.EXPIRED):
            dropped = self._dropped(answered, points)
            if refused and len(refused) < MAX_LISTED and (status < 300 or "partial write" in answered):
                dropped = len(refused)
            # If all were refused, and not for their age, it may not be about the points at all.
            if dropped and (dropped < points or judged.verdict is Verdict.EXPIRED):
                return Receipt(points, "", dropped, f"answered {status}: {words}")
        raise AnsweredError(
            status,
            words,
            answer.retry_after_s,
            verdict=judged.verdict,
            refused=(one.place for one in refused),
        )

    @staticmethod
    def _dropped(text: str, points: int) -> int:
        """How many of the *points* a partial write did not store, as its *text* says; 0 if it does not say."""
        if "partial write" not in text:
            return 0
        if (found := DROPPED.search(text)) and (dropped := int(found[1] or found[2])):
            return min(dropped, points)
        # For lines that it could not read, InfluxDB 1 reports dropped=0, but quotes each of them.
        return min(text.count("unable to parse"), points)

    def _check_field_types(self) -> None:
        """
        Check whether our fields have another type there, because the server would then refuse every point.

        If the server does not answer InfluxDB 1's query, or not for this user, the types are not known.
        """
        import http.client

        name = self._measurement.replace('"', r"\"")
        query = {"db": self._database, "q": f'SHOW FIELD KEYS FROM "{name}"'}
        try:
            answer = self._session.ask("GET", "/query", query)
            series = json.loads(answer.content)["results"][0].get("series", [])
            types = {field: kind for one in series for field, kind in one["values"]}
        except (http.client.HTTPException, OSError, ValueError, LookupError, TypeError, AttributeError):
            return
        if wrong := [f"{name} is {types[name]}" for name in FIELDS if types.get(name, "float") != "float"]:
            raise MisdirectedError(
                f"{self._place}: field type conflict: in {self._measurement} {', '.join(wrong)}, not float: "
                f"{ADVICE['measurement']}"
            )

    def _reason(self, text: str, advice: str) -> str:
        found = one_line(text, self._blotter)
        return ": ".join(filter(None, (found.rstrip("."), ADVICE[advice]))) if advice else found


def _client(host: str, port: int, **options: Any) -> Any:
    """The library's client, with its session closed."""
    if "pandas" not in sys.modules:
        # influxdb would import it for a client that we don't use: half a second and 80 MiB. With None it seems missing.
        sys.modules["pandas"] = None  # type: ignore[assignment]
    import influxdb

    client = influxdb.InfluxDBClient(host, port, **options)
    client.close()
    return client


def _connection(host: str, port: int, timeout: float, *, ssl: bool, verify_ssl: bool | str) -> "Connection":
    """
    A connection that is not open yet; with *ssl* verified by the system's certificates, or the CA file *verify_ssl*.

    Raises :exc:`LocalError` if that file is missing, or others may write it.
    """
    from powermeter.writers.http import Connection

    if not ssl:
        return Connection(host, port, timeout=timeout)
    try:
        trusted = context(verify_ssl)
    except OSError as error:
        raise LocalError(f"{verify_ssl}: no CA certificates: {error.strerror or error}: check verify_ssl") from error
    return Connection(host, port, timeout=timeout, context=trusted)


def _authorization(username: str | None, password: Secret | None, token: Secret | None) -> Secret | None:
    """The Authorization header, None if there is no login."""
    if token:
        return Secret(f"Token {token.reveal()}")
    if username:
        from powermeter.writers.http import basic

        return basic(username, password or Secret(""))
    return None


def _escaped(text: str, characters: str) -> str:
    r"""
    *text* for the line protocol, with a backslash before each of *characters*.

    >>> _escaped("my home", ",= ")
    'my\\ home'
    """
    return re.sub(f"[{characters}]", r"\\\g<0>", text)
