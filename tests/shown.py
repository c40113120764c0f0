"""The page's application asked directly, without a server; by the rules of WSGI, which wsgiref holds it to."""

import contextlib
import copy
import html
import re
import sys
import threading
import time
import wsgiref.simple_server
import wsgiref.util
import wsgiref.validate
from typing import NamedTuple

from statuses import status

from powermeter.past import open_journal
from powermeter.settings.values import ShownAs
from powermeter.views.page.app import make_app


def household(path, *meters):
    """The journal at *path* with the 35 days of a simulated household until now, counted by each of *meters*."""
    impulses = dict.fromkeys(meters, 1000.0)
    open_journal(time.time(), str(path), impulses, stopped=lambda: False, suspect=False).close()
    return path


class Answer(NamedTuple):
    """What was answered."""

    status: int
    headers: dict
    text: str

    @property
    def words(self):
        """The text of a page without its tags, each run of space as one."""
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", self.text)).split())


class Site:
    """The application over the journal at *path*; *now* is the status, or an error that is raised for it."""

    def __init__(self, path, now=None, **shown_as):
        self.now = status() if now is None else now
        self.app = make_app(self._ask, str(path), shown_as or {"house": ShownAs(None, "import")})

    def _ask(self):
        if isinstance(self.now, Exception):
            raise self.now
        return copy.deepcopy(self.now)

    def get(self, path, query="", method="GET"):
        """The answer to a question; *path* and *query* as they are in a URL."""
        environ = {"REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": query}
        wsgiref.util.setup_testing_defaults(environ)
        environ["wsgi.errors"] = sys.stderr
        started = []

        def start(status, headers, exc_info=None):
            started.append((status, headers))
            return lambda _: None

        answer = wsgiref.validate.validator(self.app)(environ, start)
        try:
            body = b"".join(answer)
        finally:
            answer.close()
        ((line, headers),) = started
        return Answer(int(line[:3]), dict(headers), body.decode())


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(site):
    """The port of loopback at which *site* is served."""
    with wsgiref.simple_server.make_server("127.0.0.1", 0, site.app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
