"""
What a service's answer means for the pulses that it was sent.

One table serves all services, and whatever is in front of them. An answer is
judged by its text and only then by its number: the same 400 may be about one
point, about the whole database, or about a port that expects TLS. The texts are
those of InfluxDB 1.6 to 1.8, 2 and 3 and its cloud services, of VictoriaMetrics,
of QuestDB, of Librato's API, and of the servers and proxies that answer in
their place: a comment names the source of each row.
"""

import enum
import html
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple


class Verdict(enum.Enum):
    """What becomes of a batch that was not delivered."""

    #: Kept and sent again, at growing intervals: the service will recover.
    KEPT = "kept"
    #: Kept and sent again, and reported as an error: someone has to change the settings or the service.
    MISCONFIGURED = "misconfigured"
    #: Something in the batch may be bad. It is split until the offending pulse is isolated; that pulse is given up only
    #: once the service has accepted another one; otherwise everything is kept.
    REFUSED = "refused"
    #: Too old for the service, as its answer says: given up, together with everything older in the batch.
    EXPIRED = "expired"
    #: Too much at once: split, but a single pulse is kept.
    TOO_LARGE = "too large"


class Row(NamedTuple):
    """One row of the table: a *pattern* of an answer's text, in lower case; what that means; and which advice helps."""

    pattern: str
    verdict: Verdict
    advice: str = ""


#: Read from the top down; the first row that matches decides.
ROWS = (
    # Go's net/http, nginx, Apache, Tomcat: plain HTTP was sent to a port that expects TLS.
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
    # InfluxDB 1: its disk is full, its memory is short, or it is shutting down; there is nothing wrong with the points.
    Row("no space left|disk quota|read-only file system|input/output error", Verdict.KEPT),
    Row("cache-max-memory-size|too many open files|out of memory", Verdict.KEPT),
    Row("engine is closed|shutting down|shard is disabled|timeout|timed out|try again", Verdict.KEPT),
    # InfluxDB 1 (max-series-per-database, max-values-per-tag); InfluxDB 3 (columns, tables, databases); the clouds.
    Row("max-series-per-database|max-values-per-tag", Verdict.MISCONFIGURED, "limit"),
    Row("limit exceeded|exceed.* (limit|number|maximum|quota)", Verdict.MISCONFIGURED, "limit"),
    Row("(number|limit) of (columns|tables|databases|series|tags)|quota|plan\\b", Verdict.MISCONFIGURED, "limit"),
    # VictoriaMetrics' cluster, vmauth, and any other server without such a path.
    Row("unsupported path|missing route|no route|no such path|page not found", Verdict.MISCONFIGURED, "path"),
    # InfluxDB 1, 2 and 3.
    Row("database (name )?(is |was )?(required|not found)|missing .*\\bdb\\b", Verdict.MISCONFIGURED, "database"),
    Row("dbrp|bucket .*not found|bucket not found|retention policy not found", Verdict.MISCONFIGURED, "database"),
    Row("unauthori[sz]ed|authorization|authentication|not authorized|forbidden", Verdict.MISCONFIGURED, "login"),
    # A point that the server can't read; also if a proxy cut it off.
    Row("unable to parse|error parsing|could not parse|cannot parse|can't parse|parsing failed", Verdict.REFUSED),
)

_QUOTED_LINE = re.compile("unable to parse '.*?'(?=:|$)", re.IGNORECASE)
_COMPILED = tuple((re.compile(row.pattern), row) for row in ROWS)

#: By HTTP status, if the text says nothing. A status that is not here says nothing about the pulses: they are kept.
BY_STATUS = {
    400: Verdict.REFUSED,
    401: Verdict.MISCONFIGURED,
    403: Verdict.MISCONFIGURED,  # Librato's rate limit, too: kept either way
    404: Verdict.MISCONFIGURED,  # InfluxDB: no such database
    405: Verdict.MISCONFIGURED,
    410: Verdict.MISCONFIGURED,
    411: Verdict.MISCONFIGURED,
    413: Verdict.TOO_LARGE,
    415: Verdict.MISCONFIGURED,
    422: Verdict.REFUSED,
}

#: Statuses whose meaning does not depend on the text: the service is busy, or a proxy in front can't reach it.
ALWAYS = {413: Verdict.TOO_LARGE, **dict.fromkeys((408, 429, 502, 503, 504), Verdict.KEPT)}

#: Which advice goes with a status if the text suggests none.
ADVICE_BY_STATUS = {400: "any", 401: "login", 403: "login", 404: "path", 405: "path", 422: "any"}

#: The title of a web page.
_TITLE = re.compile(r"<title>\s*([^<]{1,200}?)\s*</title>", re.IGNORECASE)

#: How many lines an answer lists: InfluxDB's cloud services list at most 100, and refuse others without listing them.
MAX_LISTED = 100

#: A line in a list of refused points: InfluxDB's cloud services ("error parsing line 2 (1-based): ..."), QuestDB.
_LISTED = re.compile(r"\bline (\d{1,6})(?: \(1-based\))?[:,](?!\d) *(.*)")


class Judgement(NamedTuple):
    """A verdict, and which entry of a writer's ``ADVICE`` helps; "" for none."""

    verdict: Verdict
    advice: str = ""


class Listed(NamedTuple):
    """One point that an answer names as refused: its place in the batch, from 0 on, and why."""

    place: int
    reason: str


def judge(status: int, text: str, is_page: bool = False) -> Judgement:
    """
    What an answer with the HTTP *status* and this *text* means; *is_page*: whether it is a web page.

    >>> judge(400, "Client sent an HTTP request to an HTTPS server.")
    Judgement(verdict=<Verdict.MISCONFIGURED: 'misconfigured'>, advice='tls')
    >>> judge(400, "").verdict
    <Verdict.REFUSED: 'refused'>
    """
    if status in ALWAYS:
        return Judgement(ALWAYS[status])
    by_status = BY_STATUS.get(status, Verdict.KEPT)
    # A quoted line contains the user's own names: a measurement may be called by any of these words.
    lower = _QUOTED_LINE.sub("unable to parse", text).lower()
    row = next((row for pattern, row in _COMPILED if pattern.search(lower)), None)
    if row is not None and not (by_status is Verdict.MISCONFIGURED and row.verdict is not Verdict.MISCONFIGURED):
        return Judgement(row.verdict, row.advice)
    if is_page and by_status is Verdict.REFUSED:
        # None of these services answers with a web page: it is a proxy, a load balancer or a router.
        return Judgement(Verdict.MISCONFIGURED, "page")
    return Judgement(by_status, ADVICE_BY_STATUS.get(status, ""))


def worst(judgements: Iterable[Judgement]) -> Judgement:
    """The most cautious of *judgements*: if one point of a batch must be kept, the whole batch is kept."""
    order = (Verdict.MISCONFIGURED, Verdict.KEPT, Verdict.REFUSED, Verdict.EXPIRED)
    return min(judgements, key=lambda judgement: order.index(judgement.verdict))


def is_page(content_type: str, body: bytes) -> bool:
    """Whether an answer is a web page, by its type or by how it begins."""
    begin = body[:200].lstrip().lower()
    return "html" in content_type.lower() or begin.startswith((b"<!doctype html", b"<html", b"<head", b"<body"))


def message(body: bytes) -> str:
    """
    The message in the answer *body*: the one in its JSON, or the title of a web page, or else all of it.

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
    """Whether the errors in the answer *body* of Librato's API are about what was sent; None if it has no errors."""
    found = _json(body.decode(errors="replace"))
    errors = found.get("errors") if isinstance(found, dict) else None
    return "params" in errors if isinstance(errors, dict) and errors else None


def listed(body: bytes, points: int) -> list[Listed]:
    """
    The points that the answer *body* lists as refused, of a batch with this number of *points*; empty if it lists none.

    InfluxDB 3 sends a list (or a single entry if it stored nothing) with line numbers; its cloud services and QuestDB
    send one sentence per line.
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
