"""
The page as a WSGI application: which address shows what, and how errors are answered.

Owns the addresses and the templates. It reads the journal and asks for the
status; it knows nothing of sockets, passwords and processes. All links are relative, so that it works below any path
of a proxy.
"""

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import bottle

from powermeter import periods, report
from powermeter.errors import JournalError, printable
from powermeter.journal.history import History
from powermeter.periods import SpanError
from powermeter.settings.values import ShownAs
from powermeter.status import Status
from powermeter.views import report as words
from powermeter.views import text
from powermeter.views.page import metrics, pages

HERE = os.path.dirname(os.path.abspath(__file__))
TEMPLATES = [os.path.join(HERE, "templates")]

#: The files that a page needs beside itself, and their types.
STATIC = {"style.css": "text/css; charset=utf-8", "page.js": "text/javascript; charset=utf-8"}

#: No parameter is longer, in characters.
MAX_PARAMETER = 100

#: What the start page shows of the history is read again after this time, in s; the status is new with each request.
ENERGIES_S = 30

#: All time: no pulse is earlier or later (UTC, ns).
ALL_NS = (-(2**62), 2**62)


def make_app(ask: Callable[[], dict[str, Any]], journal_path: str, shown_as: Mapping[str, ShownAs]) -> bottle.Bottle:
    """
    A WSGI application (PEP 3333), for any number of threads.

    *ask* returns the status as :meth:`Status.as_dict() <powermeter.status.Status.as_dict>` gives it, and raises
    :exc:`OSError` where the program is gone; *shown_as* are the meters of the settings.
    """
    site = _Site(ask, journal_path, shown_as)
    app = bottle.Bottle()
    for path, show in (
        ("/", site.start),
        ("/live", site.live),
        ("/bars", site.bars),
        ("/history.csv", site.history_csv),
        ("/api/now", site.api_now),
        ("/api/history", site.api_history),
        ("/metrics", site.metrics),
        ("/healthz", site.healthz),
        *((f"/{name}", site.static(name)) for name in STATIC),
    ):
        app.route(path, "GET", _reported(show))
    app.default_error_handler = site.error

    # Unexpected errors go to the caller of the application, which reports them.
    app.catchall = False
    return app


def _reported(show: Callable[[], str]) -> Callable[[], str]:
    """*show*, with expected errors turned into answers."""

    def shown() -> str:
        try:
            return show()
        except SpanError as error:
            raise bottle.HTTPError(400, str(error)) from error
        except (sqlite3.Error, JournalError) as error:
            raise bottle.HTTPError(503, f"The history can't be read: {error}") from error
        except (OSError, TypeError) as error:
            raise bottle.HTTPError(
                503, "The program does not answer: it has ended, or has just been upgraded."
            ) from error

    return shown


class _Site:
    """What each address shows."""

    def __init__(self, ask: Callable[[], dict[str, Any]], journal_path: str, shown_as: Mapping[str, ShownAs]) -> None:
        self._ask, self._journal_path, self._shown_as = ask, journal_path, shown_as
        self._files = {}
        for name in STATIC:
            with open(os.path.join(HERE, "static", name), "rb") as file:
                self._files[name] = file.read()
        #: Changes with the files, so that a browser may keep them as long as it likes.
        self._version = hashlib.sha256(b"".join(self._files.values())).hexdigest()[:12]
        self._reading = threading.Lock()
        self._energies: pages.Energies | None = None
        self._read_s = 0.0

    # --- Pages

    def start(self) -> str:
        status = Status.of(self._ask())
        energies = self._energies_of(status)
        shown = self._parts(status, energies)
        return self._page(
            "start",
            "",
            **shown,
            days=energies.days,
            legend=pages.legend({name: (of.label, of.direction) for name, of in status.meters.items()}),
            notes=energies.notes,
            hours=pages.RECENT_HOURS,
            simulated=status.simulate is not None,
        )

    def live(self) -> str:
        """The parts of the start page that change: HTML by the id of each."""
        status = Status.of(self._ask())
        shown = self._parts(status, self._energies_of(status))
        found = {name: _rendered(name, **shown) for name in ("alert", "now", "recent", "state")}
        bottle.response.content_type = "application/json"
        return json.dumps(found | {"title": shown["title"]})

    def bars(self) -> str:
        status, now_ns = Status.of(self._ask()), time.time_ns()
        span = pages.bounded(_parameter("span") or "today", now_ns)
        with History(self._journal_path) as history:
            found = pages.bars(history, span, self._shown_as, now_ns)
        here = f"bars?span={span.text}"
        heading = found.pop("title")
        simulated = status.simulate is not None
        return self._page("bars", here, **found, title=f"{heading} · power", heading=heading, simulated=simulated)

    def error(self, found: bottle.HTTPError) -> str:
        """The page of an error, or one line of text for programs."""
        words = {404: "There is nothing here.", 405: "This can only be read."}.get(found.status_code, "")
        words = words or str(found.body)
        path = bottle.request.path
        if path.startswith("/api/") or path in ("/history.csv", "/live", "/metrics", "/healthz"):
            bottle.response.content_type = "text/plain; charset=utf-8"
            return f"{printable(words)}\n"
        # An address that does not exist may be some directories deep: the links lead up from there.
        heading = {400: "That can't be shown", 404: "Nothing here", 503: "Not now"}.get(found.status_code, "An error")
        return self._page("error", None, path.count("/") - 1, title=f"{heading} · power", heading=heading, words=words)

    def static(self, name: str) -> Callable[[], str]:
        def show() -> Any:
            bottle.response.content_type = STATIC[name]
            bottle.response.set_header("Cache-Control", "private, max-age=31536000, immutable")
            return self._files[name]

        return show

    # --- Programs

    def history_csv(self) -> str:
        built = self._report()
        bottle.response.content_type = "text/csv; charset=utf-8"
        name = f"power-{built.span or 'overview'}.csv"
        bottle.response.set_header("Content-Disposition", f'attachment; filename="{name}"')
        return words.as_csv(built)

    def api_now(self) -> str:
        bottle.response.content_type = "application/json"
        return json.dumps(self._ask())

    def api_history(self) -> str:
        built = self._report()
        if meter := _parameter("meter"):
            meters = tuple(of for of in built.meters if of.name == meter)
            if not meters:
                raise bottle.HTTPError(404, "There is no such meter.")
            readings = tuple(reading for reading in built.readings if reading.meter == meter)
            built = built._replace(meters=meters, readings=readings)
        bottle.response.content_type = "application/json"
        return words.as_json(built)

    def metrics(self) -> str:
        status = Status.of(self._ask())
        with History(self._journal_path) as history:
            known = history.meters()
            energies = {name: history.span(name, *ALL_NS).kwh for name in status.meters if name in known}
        bottle.response.content_type = metrics.CONTENT_TYPE
        return metrics.text(status, energies)

    def healthz(self) -> str:
        """Whether lamp L2 is steady, with the reason where it is not."""
        bottle.response.content_type = "text/plain; charset=utf-8"
        if wrong := [part for part in text.parts(Status.of(self._ask())) if part.is_wrong]:
            bottle.response.status = 503
            return "".join(f"{part.name}: {part.words}\n" for part in wrong)
        return "ok\n"

    # --- What they are made of

    def _report(self) -> report.Report:
        now_ns = time.time_ns()
        given = _parameter("span")
        span = pages.bounded(given, now_ns) if given else None
        simulated = Status.of(self._ask()).simulate is not None
        with History(self._journal_path) as history:
            return report.build(history, span, self._shown_as, now_ns=now_ns, running=True, simulated=simulated)

    def _energies_of(self, status: Status) -> pages.Energies:
        """What the start page shows of the history; of several concurrent requests, only one reads it."""
        with self._reading:
            now_s = time.monotonic()
            if self._energies is None or now_s - self._read_s > ENERGIES_S:
                self._energies = pages.energies(self._journal_path, status, time.time_ns())
                self._read_s = time.monotonic()
            return self._energies

    def _parts(self, status: Status, energies: pages.Energies) -> dict[str, Any]:
        """What the parts of the start page that change are made of."""
        return pages.now(status, energies) | pages.state(status, energies.problem) | {"recent": energies.recent}

    def _page(self, template: str, here: str | None, depth: int = 0, **shown: Any) -> str:
        """A whole page; *here*: its link in the navigation; *depth*: how many directories deep it lies."""
        month = periods.local_date(time.time_ns())[:7]
        root = "../" * depth or "./"
        return _rendered(template, here=here, root=root, month=month, version=self._version, **shown)


def _rendered(template: str, **shown: Any) -> str:
    # The templates escape what they are given, except for what charts.py has made and escaped itself.
    return str(bottle.template(template, template_lookup=TEMPLATES, **shown))


def _parameter(name: str) -> str:
    """The parameter *name* of the request, "" without one."""
    given = bottle.request.query.getall(name)
    text = bottle.request.query.getunicode(name, default=None) if given else ""
    if text is None or len(given) > 1 or len(text) > MAX_PARAMETER:
        raise bottle.HTTPError(400, f"{name}: one value of at most {MAX_PARAMETER} characters is allowed")
    return str(text)
