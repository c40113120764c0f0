"""
A server on loopback that keeps the documented rules of the Librato API, as far as a sender of gauges meets them.

Librato itself has ended; the rules are those of its API documentation: https://github.com/librato/api-docs.
"""

import base64
import json
import math
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MAX_MEASUREMENTS = 300
MAX_TAGS = 50
NAME = re.compile(r"[A-Za-z0-9.:\-_]{1,255}")
TAG_NAME = re.compile(r"[-.:_\w]{1,64}", re.ASCII)
TAG_VALUE = re.compile(r"[-.:_?\\/\w ]{1,255}", re.ASCII)
GAUGE_KEYS = {"name", "source", "measure_time", "period", "value", "count", "sum", "min", "max", "sum_squares"}
MEASUREMENT_KEYS = {"name", "tags", "time", "period", "value", "count", "sum", "min", "max", "stddev"}


class RefusedError(Exception):
    """The answer to a request that breaks a rule: its status, and what is wrong by parameter."""

    def __init__(self, status, **params):
        self.status = status
        self.params = params


def _numbers(found):
    """The aggregate that *found*, a gauge or measurement, gives: count, sum, min and max."""
    given = {key: found[key] for key in ("value", "count", "sum", "min", "max") if key in found}
    if any(isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) for n in given.values()):
        raise RefusedError(400, value=["is not a number"])
    if "value" in given:
        if len(given) > 1:
            raise RefusedError(400, value=["is given beside count and sum"])
        value = given["value"]
        return {"count": 1, "sum": value, "min": value, "max": value}
    if not {"count", "sum"} <= set(given):
        raise RefusedError(400, value=["is missing"])
    if not isinstance(given["count"], int) or given["count"] < 1:
        raise RefusedError(400, count=["is not a whole number above 0"])
    if given.get("min", -math.inf) > given.get("max", math.inf):
        raise RefusedError(400, min=["is above max"])
    return given


def _whole_seconds(found, key):
    if isinstance(found, bool) or not isinstance(found, int) or found < 1:
        raise RefusedError(400, **{key: ["is not in whole seconds since 1970"]})
    return found


def _named(found, keys):
    if not isinstance(found, dict) or set(found) - keys:
        raise RefusedError(400, gauge=["has an unknown parameter"])
    if not isinstance(found.get("name"), str) or not NAME.fullmatch(found["name"]):
        raise RefusedError(400, name=["is invalid"])
    return found["name"]


def gauge(found):
    """The key and the aggregate of a gauge with a source."""
    name = _named(found, GAUGE_KEYS)
    source = found.get("source")
    if not isinstance(source, str) or not NAME.fullmatch(source):
        raise RefusedError(400, source=["is invalid"])
    return (name, source, _whole_seconds(found.get("measure_time"), "measure_time")), _numbers(found)


def measurement(found):
    """The key and the aggregate of a tagged measurement; its tags as sorted pairs."""
    name = _named(found, MEASUREMENT_KEYS)
    tags = found.get("tags")
    if not isinstance(tags, dict) or not 1 <= len(tags) <= MAX_TAGS:
        raise RefusedError(400, tags=["are not 1 to 50"])
    for tag, value in tags.items():
        if not TAG_NAME.fullmatch(tag) or not isinstance(value, str) or not TAG_VALUE.fullmatch(value):
            raise RefusedError(400, tags=[f"{tag} is invalid"])
    lower = tuple(sorted((tag.lower(), value.lower()) for tag, value in tags.items()))
    return (name, lower, _whole_seconds(found.get("time"), "time")), _numbers(found)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(self.server.librato.get)

    def do_POST(self):
        self._answer(self.server.librato.post)

    def _answer(self, by):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            status, answer = by(self.path, self.headers, body)
        except RefusedError as error:
            status, answer = error.status, {"errors": {"params": error.params}}
        content = json.dumps(answer).encode() if answer is not None else b""
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


class LibratoServer:
    """
    A service with one account, a context manager.

    *gauges* holds what was sent: by (name, source or sorted pairs of tags, time in s) a dict of count, sum, min
    and max. *requests* are the methods and paths asked for. Times before *oldest_s* are refused.
    """

    user = "me@example.org"
    token = "s3cret-t0ken"

    def __init__(self):
        self.gauges = {}
        self.requests = []
        self.oldest_s = 0
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.librato = self
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def hostname(self):
        """As the settings want it."""
        return f"127.0.0.1:{self.port}"

    def get(self, path, headers, body):
        """List the metrics."""
        self._let_in("GET", path, headers)
        if path.partition("?")[0] != "/v1/metrics":
            raise RefusedError(404, request=["Not Found"])
        with self._lock:
            names = sorted({name for name, _, _ in self.gauges})
        metrics = [{"name": name, "type": "gauge"} for name in names]
        return 200, {"query": {"found": len(names), "total": len(names)}, "metrics": metrics}

    def post(self, path, headers, body):
        """Take gauges or tagged measurements: all of them, or none."""
        self._let_in("POST", path, headers)
        if path not in ("/v1/metrics", "/v1/measurements"):
            raise RefusedError(404, request=["Not Found"])
        if headers.get_content_type() != "application/json":
            raise RefusedError(415, request=["Content-Type is not application/json"])
        tagged = path == "/v1/measurements"
        found = self._listed(body, "measurements" if tagged else "gauges")
        if not 1 <= len(found) <= MAX_MEASUREMENTS:
            raise RefusedError(400, measurements=["are not 1 to 300"])
        taken = [(measurement if tagged else gauge)(one) for one in found]
        if any(time_s < self.oldest_s for (_, _, time_s), _ in taken):
            raise RefusedError(400, measure_time=["is too far in the past"])
        with self._lock:
            self.gauges.update(taken)
        return (202 if tagged else 200), None

    def _let_in(self, method, path, headers):
        with self._lock:
            self.requests.append((method, path))
        credentials = base64.b64encode(f"{self.user}:{self.token}".encode()).decode()
        if headers.get("Authorization") != f"Basic {credentials}":
            raise RefusedError(401, request=["Authorization Required"])

    @staticmethod
    def _listed(body, key):
        def no_constant(name):
            raise ValueError(name)

        try:
            found = json.loads(body, parse_constant=no_constant)
        except ValueError:
            raise RefusedError(400, request=["is not JSON"]) from None
        if not isinstance(found, dict) or not isinstance(found.get(key), list):
            raise RefusedError(400, request=[f"has no list of {key}"])
        if found.get("counters"):
            raise RefusedError(400, counters=["are not taken by this server"])
        return found[key]
