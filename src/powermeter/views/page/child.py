"""
The page's own process: it gives up what it does not need, then serves the application by waitress until nobody asks.

The listening socket is the daemon's, and so is the other end of the socket pair, by which it learns its settings and
the status. Whatever a client sends, or does not send or take, costs it a connection at most: a request has a deadline
for coming in and one for being answered and taken, and of too many connections the one that waits longest is ended.
"""

import contextlib
import json
import os
import select
import socket
import threading
import time
from collections import Counter
from typing import Any

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher

from powermeter.process import confined
from powermeter.settings.values import ShownAs
from powermeter.views.page.access import HEADERS, Access, network_of

#: It ends when nobody has asked for anything for so long, in s.
IDLE_S = 300.0

#: So long a request may take to come in, and so long until its answer is made and taken, in s. Ten years of hours on
#: the slowest Pi, and a slow telephone, take less than half of the latter.
HEAD_S, ANSWER_S = 10.0, 60.0

#: Behind ANSWER_S, in s: an answer that is still being made then is never made, and its thread is lost.
STUCK_S = 10.0

#: So many connections are kept, and so many requests are worked on at once.
MAX_CONNECTIONS = 32
THREADS = 4

#: The longest head of a request, in bytes. The server wants to allow a body; one that has any is refused.
MAX_HEAD = 8192
MAX_BODY = 1024

#: What a client does not take of its answers is kept in memory up to this, in bytes: no file is written.
MAX_WAITING = 16 << 20

#: The most memory that it may write to, in bytes: twice what it needs. And descriptors: those of its connections,
#: files and threads.
MEMORY, FILES = 48 << 20, 128

#: How far it stands back behind the counting, and all else, where the processors are busy (nice(2)).
NICENESS = 10

#: The stack of a thread, in bytes, in place of 8 MiB.
STACK = 512 << 10

#: The status is asked for once in so many s, however many want it; and the daemon answers within this.
STATUS_S, DAEMON_S = 1.0, 10.0

#: The longest complaint that the daemon takes, in bytes.
MAX_COMPLAINT = 500


def main(listening: int, asking: int) -> None:
    """Serve connections to the socket of the descriptor *listening* until nobody asks; *asking*: to ask the daemon."""
    confined.give_way(NICENESS)
    confined.give_up_rights()
    daemon = _Daemon(socket.socket(fileno=asking))
    try:
        confined.limit(MEMORY, FILES)
        threading.stack_size(STACK)
        settings = json.loads(daemon.ask("settings"))

        from powermeter.views.page.app import make_app

        shown_as = {name: ShownAs(*shown) for name, shown in settings["shown_as"].items()}
        app = Access(
            make_app(daemon.status, settings["journal"], shown_as),
            port=settings["port"],
            loopback=settings["loopback"],
            password=settings["password"],
            on_bug=daemon.complain,
        )
        # After the imports, whose bytecode may be kept for the next start, and before the first thread.
        confined.change_nothing()
        server = _server(app, socket.socket(fileno=listening))
        threading.Thread(target=daemon.wait_for_its_end, name="daemon", daemon=True).start()
        confined.start_and_write_nothing_more()
        daemon.tell("ready")
        server.run()
    except BaseException as error:  # noqa: BLE001 - there is no other place where it could be seen
        daemon.complain(f"{type(error).__name__}: {error}")
        os._exit(1)


class _Daemon:
    """The daemon, at the other end of *pair*; for any thread."""

    def __init__(self, pair: socket.socket) -> None:
        self._pair = pair
        self._pair.settimeout(DAEMON_S)
        self._asking = threading.Lock()
        self._telling = threading.Lock()
        self._status: dict[str, Any] = {}
        self._status_s = -STATUS_S

    def ask(self, question: str) -> bytes:
        """What it answers to *question*: a line. Raises :exc:`OSError` where it has gone."""
        self.tell(question)
        answer = b""
        while not answer.endswith(b"\n"):
            part = self._pair.recv(65536)
            if not part:
                raise ConnectionError("the daemon has gone")
            answer += part
        return answer

    def tell(self, line: str) -> None:
        """Send it *line*. Raises :exc:`OSError` where it has gone."""
        with self._telling:
            self._pair.sendall(line.encode("utf-8", "backslashreplace") + b"\n")

    def complain(self, text: str) -> None:
        """Have it log *text*."""
        with contextlib.suppress(OSError):
            self.tell(f"failed {' '.join(text.split())[:MAX_COMPLAINT]}")

    def status(self) -> dict[str, Any]:
        """How all is doing, at most :data:`STATUS_S` old. Raises :exc:`OSError` where it has gone."""
        with self._asking:
            if time.monotonic() - self._status_s >= STATUS_S:
                try:
                    self._status = json.loads(self.ask("status"))
                except TimeoutError:
                    # An answer that came later would be taken for that to another question.
                    self.complain("the daemon did not answer")
                    os._exit(1)
                self._status_s = time.monotonic()
            return self._status

    def wait_for_its_end(self) -> None:
        """End this process with it; a thread."""
        waiting = select.poll()
        waiting.register(self._pair, 0)  # only that it was closed
        waiting.poll()
        os._exit(0)


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """What is answered to what is no request."""

    def execute(self) -> None:
        """Answer it."""
        self.response_headers.extend(HEADERS)
        super().execute()


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that knows how long it has been waiting for."""

    error_task_class = _ErrorTask

    def __init__(self, *args: Any, **options: Any) -> None:
        #: Since when it has been waited for a request, or for one to be answered (monotonic, s).
        self.since_s = time.monotonic()
        super().__init__(*args, **options)
        self.network = network_of(self.addr[0])

    def service(self) -> None:
        """Answer the request that has come in."""
        self.since_s = self.server.asked_s = time.monotonic()
        super().service()
        self.since_s = time.monotonic()

    @property
    def waits_for_client(self) -> bool:
        """Whether nothing is being done for it."""
        return not self.requests

    @property
    def overdue_s(self) -> float:
        """How long it has been over its time, in s; not positive while it is not."""
        being_answered = self.requests or self.total_outbufs_len
        return time.monotonic() - self.since_s - (ANSWER_S if being_answered else HEAD_S)


class _Server(TcpWSGIServer):  # type: ignore[misc]
    """waitress, with an end to everything."""

    channel_class = _Channel

    def __init__(self, *args: Any, **options: Any) -> None:
        #: When something was asked for last (monotonic, s).
        self.asked_s = time.monotonic()
        super().__init__(*args, **options)

    def maintenance(self, _now: float) -> None:
        """End what is over its time; called once a second."""
        if time.monotonic() - self.asked_s > IDLE_S:
            os._exit(0)
        for channel in list(self.active_channels.values()):
            if channel.overdue_s > STUCK_S and not channel.waits_for_client:
                os._exit(2)
            if channel.overdue_s > 0:
                _end(channel)

    def handle_accept(self) -> None:
        """Accept one connection, and end another where these are too many."""
        super().handle_accept()
        channels = [channel for channel in self.active_channels.values() if not channel.will_close]
        if len(channels) <= MAX_CONNECTIONS:
            return
        # Of those who have the most: who has one connection keeps it, however many others have.
        ((network, _),) = Counter(channel.network for channel in channels).most_common(1)
        crowd = [channel for channel in channels if channel.network == network]
        waiting = [channel for channel in crowd if channel.waits_for_client]
        _end(min(waiting, key=_since_s) if waiting else max(crowd, key=_since_s))


def _since_s(channel: _Channel) -> float:
    return channel.since_s


def _end(channel: _Channel) -> None:
    # Shut down, not closed: the number of a descriptor that was just polled may not become another connection's.
    channel.will_close = True
    with contextlib.suppress(OSError):
        channel.socket.shutdown(socket.SHUT_RDWR)


def _server(app: Access, listener: socket.socket) -> _Server:
    adjustments = Adjustments(
        sockets=[listener],
        threads=THREADS,
        # Never reached: at its own limit it would accept nobody.
        connection_limit=FILES,
        channel_timeout=2 * round(HEAD_S + ANSWER_S),
        cleanup_interval=1,
        max_request_header_size=MAX_HEAD,
        max_request_body_size=MAX_BODY,
        outbuf_high_watermark=MAX_WAITING,
        outbuf_overflow=2 * MAX_WAITING,
        inbuf_overflow=2 * MAX_HEAD,
        asyncore_use_poll=True,
        ident=None,
        log_socket_errors=False,
    )
    dispatcher = ThreadedTaskDispatcher()
    dispatcher.set_thread_count(adjustments.threads)
    name = listener.getsockname()
    return _Server(
        app,
        {},
        True,
        listener,
        dispatcher=dispatcher,
        adj=adjustments,
        bind_socket=False,
        sockinfo=(listener.family, listener.type, listener.proto, name),
    )
