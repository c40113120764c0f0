"""
What a service's answer means for the pulses that it was sent.

One table for every service and for whatever stands in front of it, judged by
what the answer says and only then by its number: the same 400 may be about one
point, about the whole database, or about a port that expects TLS. The texts are
those of InfluxDB 1.6 to 1.8, 2 and 3 and its clouds, of VictoriaMetrics, of
QuestDB, of Librato's API, and of the servers and proxies that answer in their
place: each row says whose it is.
"""

import enum
import html
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple


class Verdict(enum.Enum):
    """What becomes of a batch that was not delivered."""

    #: Kept and tried again, later and later: the service will get over it.
    KEPT = "kept"
    #: Kept and tried again, and reported as an error: someone has to change the settings or the service.
    MISCONFIGURED = "misconfigured"
    #: Something in the batch may be bad. It is split until the offending pulse is isolated; that pulse is given up only
    #: once the service has taken another one, and else everything is kept.
    REFUSED = "refused"
    #: Too old for the service, by its own words: given up, and so is everything older in the batch.
    EXPIRED = "expired"
    #: Too much at once: split, but a single pulse is kept.
    TOO_LARGE = "too large"


class Row(NamedTuple):
    """One row of the table: what an answer says (a pattern, in lower case), what that means, and which advice helps."""

    said: str
    verdict: Verdict
    advice: str = ""


#: From the top down; the first row that fits decides.
ROWS = (
    # Go's net/http, nginx, Apache, Tomcat: http was spoken to a port that expects TLS.
    Row("http request to an https server", Verdict.MISCONFIGURED, "tls"),
    Row("plain http request was sent to https port", Verdict.MISCONFIGURED, "tls"),
    Row("speaking plain http to an ssl-enabled", Verdict.MISCONFIGURED, "tls"),
    Row("combination of host and port requires tls", Verdict.MISCONFIGURED, "tls"),
    Row("use secured connection|https is required|requires https|use https", Verdict.MISCONFIGURED, "tls"),
    # InfluxDB 1 and 2; InfluxDB 3; its clouds; QuestDB.
    Row("field type conflict|invalid column type|column type mismatch", Verdict.MISCONFIGURED, "measurement"),
    Row("conflicts with an existing|schema conflict|cast error", Verdict.MISCONFIGURED, "measurement"),
    Row("invalid tag key|invalid field name|multiple instances of|duplicate tag", Verdict.MISCONFIGURED, "tags"),
    Row("reserved (tag|column|key)|tag .* is reserved|both a tag and a field", Verdict.MISCONFIGURED, "tags"),
    # InfluxDB 1 and 2, with "dropped="; Librato's API.
    Row("beyond retention|outside retention|outside of retention", Verdict.EXPIRED),
    Row("too far in the past|too old|older than", Verdict.EXPIRED),
    # InfluxDB 1: its disk, its memory, its end; the points are as good as any.
    Row("no space left|disk quota|read-only file system|input/output error", Verdict.KEPT),
    Row("cache-max-memory-size|too many open files|out of memory", Verdict.KEPT),
    Row("engine is closed|shutting down|shard is disabled|timeout|timed out|try again", Verdict.KEPT),
    # InfluxDB 1 (max-series-per-database, max-values-per-tag); InfluxDB 3 (columns, tables, databases); the clouds.
    Row("max-series-per-database|max-values-per-tag", Verdict.MISCONFIGURED, "limit"),
    Row("limit exceeded|exceed.* (limit|number|maximum|quota)", Verdict.MISCONFIGURED, "limit"),
    Row("(number|limit) of (columns|tables|databases|series|tags)|quota|plan\\b", Verdict.MISCONFIGURED, "limit"),
    # VictoriaMetrics' cluster, vmauth, and whatever has no such path.
    Row("unsupported path|missing route|no route|no such path|page not found", Verdict.MISCONFIGURED, "path"),
    # InfluxDB 1, 2 and 3.
    Row("database (name )?(is |was )?(required|not found)|missing .*\\bdb\\b", Verdict.MISCONFIGURED, "database"),
    Row("dbrp|bucket .*not found|bucket not found|retention policy not found", Verdict.MISCONFIGURED, "database"),
    Row("unauthori[sz]ed|authorization|authentication|not authorized|forbidden", Verdict.MISCONFIGURED, "login"),
    # A point that can't be read, by its words; also where a proxy cut it off.
    Row("unable to parse|error parsing|could not parse|cannot parse|can't parse|parsing failed", Verdict.REFUSED),
)

_QUOTED_LINE = re.compile("unable to parse '.*?'(?=:|$)", re.IGNORECASE)
_COMPILED = tuple((re.compile(row.said), row) for row in ROWS)

#: By HTTP status, where the words say nothing. A status that is not here says nothing about the pulses: they are kept.
BY_STATUS = {
    400: Verdict.REFUSED,
    401: Verdict.MISCONFIGURED,
    403: Verdict.MISCONFIGURED,  # Librato's limit of rates too: kept either way
    404: Verdict.MISCONFIGURED,  # InfluxDB: no such database
    405: Verdict.MISCONFIGURED,
    410: Verdict.MISCONFIGURED,
    411: Verdict.MISCONFIGURED,
    413: Verdict.TOO_LARGE,
    415: Verdict.MISCONFIGURED,
    422: Verdict.REFUSED,
}

#: The statuses whose meaning no words change: the service is busy, or what stands before it can't reach it.
ALWAYS = {413: Verdict.TOO_LARGE, **dict.fromkeys((408, 429, 502, 503, 504), Verdict.KEPT)}

#: Which advice a status stands for where the words give none.
ADVICE_BY_STATUS = {400: "any", 401: "login", 403: "login", 404: "path", 405: "path", 422: "any"}

#: A page's title.
_TITLE = re.compile(r"<title>\s*([^<]{1,200}?)\s*</title>", re.IGNORECASE)

#: A limit on the lines that an answer lists: InfluxDB's clouds list 100 at most, the others are refused unnamed.
MAX_LISTED = 100

#: A line of a list of refused points: InfluxDB's clouds ("error parsing line 2 (1-based): ..."), QuestDB.
_LISTED = re.compile(r"\bline (\d{1,6})(?: \(1-based\))?[:,](?!\d) *(.*)")


class Judgement(NamedTuple):
    """A verdict, and which of the advice of a writer helps; "" for none."""

    verdict: Verdict
    advice: str = ""


class Listed(NamedTuple):
    """One point that an answer names as refused: its place in the batch, from 0 on, and why."""

    place: int
    reason: str


def judge(status: int, said: str, is_page: bool = False) -> Judgement:
    """
    What an answer with the HTTP *status* that says *said* means; *is_page*: it is a web page.

    >>> judge(400, "Client sent an HTTP request to an HTTPS server.")
    Judgement(verdict=<Verdict.MISCONFIGURED: 'misconfigured'>, advice='tls')
    >>> judge(400, "").verdict
    <Verdict.REFUSED: 'refused'>
    """
    if status in ALWAYS:
        return Judgement(ALWAYS[status])
    by_status = BY_STATUS.get(status, Verdict.KEPT)
    # What it quotes of a line is the user's: a measurement may be named after any of these words.
    lower = _QUOTED_LINE.sub("unable to parse", said).lower()
    row = next((row for pattern, row in _COMPILED if pattern.search(lower)), None)
    if row is not None and not (by_status is Verdict.MISCONFIGURED and row.verdict is not Verdict.MISCONFIGURED):
        return Judgement(row.verdict, row.advice)
    if is_page and by_status is Verdict.REFUSED:
        # No service of these answers with a page: it is a proxy, a balancer, a router.
        return Judgement(Verdict.MISCONFIGURED, "page")
    return Judgement(by_status, ADVICE_BY_STATUS.get(status, ""))


def worst(judgements: Iterable[Judgement]) -> Judgement:
    """The one of *judgements* that keeps most: a batch in which one point must be kept is kept."""
    order = (Verdict.MISCONFIGURED, Verdict.KEPT, Verdict.REFUSED, Verdict.EXPIRED)
    return min(judgements, key=lambda judgement: order.index(judgement.verdict))


def is_page(content_type: str, body: bytes) -> bool:
    """Whether an answer is a web page, by its type or by how it begins."""
    begin = body[:200].lstrip().lower()
    return "html" in content_type.lower() or begin.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def message(body: bytes) -> str:
    """
    The words of the answer *body*: those in its JSON, or a page's title, else all of it.

    >>> message(b'{"code":"invalid","message":"no such bucket"}')
    'no such bucket'
    >>> message(b"<html><head><title>400 Bad Request</title></head>...")
    '400 Bad Request'
    """
    text = body.decode(errors="replace")
    found = _json(text)
    if isinstance(found, dict):
        for key in ("error", "message"):
            if isinstance(found.get(key), str) and found[key]:
                return str(found[key])
    if title := _TITLE.search(text):
        return html.unescape(title[1])
    return text


def complains(body: bytes) -> bool:
    """Whether the answer *body* is an error, whatever its status: InfluxDB's clouds list refused points in a 201."""
    found = _json(body.decode(errors="replace"))
    if not isinstance(found, dict):
        return False
    return bool(found.get("error")) or str(found.get("code", "ok")) in ("invalid", "unprocessable entity")


def parameters(body: bytes) -> bool | None:
    """Whether the errors in the answer *body* of Librato's API are about what was sent; None where it has none."""
    found = _json(body.decode(errors="replace"))
    errors = found.get("errors") if isinstance(found, dict) else None
    return "params" in errors if isinstance(errors, dict) and errors else None


def listed(body: bytes, points: int) -> list[Listed]:
    """
    The points that the answer *body* lists as refused, of a batch of so many *points*; empty where it lists none.

    InfluxDB 3 gives a list (or, where it stored nothing, one entry) with line numbers, its clouds and QuestDB a
    sentence per line.
    """
    found = _json(body.decode(errors="replace"))
    if not isinstance(found, dict):
        return []
    entries = found.get("data")
    if isinstance(entries, dict):
        entries = [entries]
    lines: dict[int, str] = {}
    if isinstance(entries, list):
        for entry in entries:
            if isinstance(entry, dict) and isinstance(number := entry.get("line_number"), int):
                lines.setdefault(number, str(entry.get("error_message", "")))
    else:
        for sentence in str(found.get("message", "")).splitlines():
            if match := _LISTED.search(sentence):
                lines.setdefault(int(match[1]), match[2] or sentence)
    return [Listed(number - 1, reason) for number, reason in sorted(lines.items()) if 1 <= number <= points]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
