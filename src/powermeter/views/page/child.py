"""
The page's own process: it gives up all rights that it does not need, then serves the application with waitress.

It inherits the listening socket from the daemon, and asks it for the settings and the status through a socket pair.
Whatever a client sends, or fails to send or to read, costs that client its connection at most: there is a deadline for
receiving a request, and one for sending the answer; if there are too many connections, the one that has waited longest
is closed. When there have been no requests for a while, the process ends.
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

#: It ends after this time without a request, in s.
IDLE_S = 300.0

#: How long a request may take to arrive, and then its answer until the client has it, in s. Ten years of hours on the
#: slowest Pi, read by a slow telephone, take less than half of that.
HEAD_S, ANSWER_S = 10.0, 60.0

#: An answer that is not ready this long after ANSWER_S, in s, never will be: its thread is lost.
STUCK_S = 10.0

#: How many connections are kept, and how many requests are answered at the same time.
MAX_CONNECTIONS = 32
THREADS = 4

#: The longest head of a request, in bytes. The library insists on allowing a body; a request with one is refused.
MAX_HEAD = 8192
MAX_BODY = 1024

#: How much of an answer that a client does not read is kept in memory, in bytes: no file is written.
MAX_WAITING = 16 << 20

#: Limits: memory that it may write to, in bytes, twice what it needs; and descriptors, for connections, files and
#: threads.
MEMORY, FILES = 48 << 20, 128

#: How far it gives way to the counting, and everything else, when the processors are busy (nice(2)).
NICENESS = 10

#: The stack of a thread, in bytes, in place of 8 MiB.
STACK = 512 << 10

#: How old a status may be before the daemon is asked again, and how long the daemon may take to answer, in s.
STATUS_S, DAEMON_S = 1.0, 10.0

#: The longest complaint that the daemon takes, in bytes.
MAX_COMPLAINT = 500


def main(listening: int, asking: int) -> None:
    """Serve connections to the socket of the descriptor *listening*; *asking* is that of the way to the daemon."""
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
    except BaseException as error:  # noqa: BLE001 - it could be seen nowhere else
        daemon.complain(f"{type(error).__name__}: {error}")
        os._exit(1)


class _Daemon:
    """The daemon, at the other end of *pair*; threads may share it."""

    def __init__(self, pair: socket.socket) -> None:
        self._pair = pair
        self._pair.settimeout(DAEMON_S)
        self._asking = threading.Lock()
        self._telling = threading.Lock()
        self._status: dict[str, Any] = {}
        self._status_s = -STATUS_S

    def ask(self, question: str) -> bytes:
        """Its answer to *question*: one line. Raises :exc:`OSError` if it has ended."""
        self.tell(question)
        answer = b""
        while not answer.endswith(b"\n"):
            part = self._pair.recv(65536)
            if not part:
                raise ConnectionError("the daemon has ended")
            answer += part
        return answer

    def tell(self, line: str) -> None:
        """Send it *line*. Raises :exc:`OSError` if it has ended."""
        with self._telling:
            self._pair.sendall(line.encode("utf-8", "backslashreplace") + b"\n")

    def complain(self, text: str) -> None:
        """Let it log *text*."""
        with contextlib.suppress(OSError):
            self.tell(f"failed {' '.join(text.split())[:MAX_COMPLAINT]}")

    def status(self) -> dict[str, Any]:
        """The status, at most :data:`STATUS_S` old. Raises :exc:`OSError` if the daemon has ended."""
        with self._asking:
            if time.monotonic() - self._status_s >= STATUS_S:
                try:
                    self._status = json.loads(self.ask("status"))
                except TimeoutError:
                    # An answer that arrives later would be mistaken for that to another question.
                    self.complain("the daemon did not answer")
                    os._exit(1)
                self._status_s = time.monotonic()
            return self._status

    def wait_for_its_end(self) -> None:
        """End this process when the daemon ends; for a thread of its own."""
        waiting = select.poll()
        waiting.register(self._pair, 0)  # only for its end
        waiting.poll()
        os._exit(0)


class _ErrorTask(ErrorTask):  # type: ignore[misc]
    """The answer to something that is not a request."""

    def execute(self) -> None:
        """Send the answer, with our headers."""
        self.response_headers.extend(HEADERS)
        super().execute()


class _Channel(HTTPChannel):  # type: ignore[misc]
    """A connection that knows how long it has kept the server waiting."""

    error_task_class = _ErrorTask

    def __init__(self, *args: Any, **options: Any) -> None:
        #: When the wait for a request, or for its answer, began (monotonic, s).
        self.since_s = time.monotonic()
        super().__init__(*args, **options)
        self.network = network_of(self.addr[0])

    def service(self) -> None:
        """Answer the request that has arrived."""
        self.since_s = self.server.asked_s = time.monotonic()
        super().service()
        self.since_s = time.monotonic()

    @property
    def waits_for_client(self) -> bool:
        """Whether it has no request that is being answered."""
        return not self.requests

    @property
    def overdue_s(self) -> float:
        """By how much it exceeds its deadline, in s; not positive while there is time left."""
        being_answered = self.requests or self.total_outbufs_len
        return time.monotonic() - self.since_s - (ANSWER_S if being_answered else HEAD_S)


class _Server(TcpWSGIServer):  # type: ignore[misc]
    """waitress, with a limit to everything."""

    channel_class = _Channel

    def __init__(self, *args: Any, **options: Any) -> None:
        #: When the last request came (monotonic, s).
        self.asked_s = time.monotonic()
        super().__init__(*args, **options)

    def maintenance(self, _now: float) -> None:
        """Close what has exceeded its deadline; called once per second."""
        if time.monotonic() - self.asked_s > IDLE_S:
            os._exit(0)
        for channel in list(self.active_channels.values()):
            if channel.overdue_s > STUCK_S and not channel.waits_for_client:
                os._exit(2)
            if channel.overdue_s > 0:
                _end(channel)

    def handle_accept(self) -> None:
        """Accept one connection, and close another if there are too many."""
        super().handle_accept()
        channels = [channel for channel in self.active_channels.values() if not channel.will_close]
        if len(channels) <= MAX_CONNECTIONS:
            return
        # One of the address that has most: a visitor with one connection keeps it, however many others have.
        ((network, _),) = Counter(channel.network for channel in channels).most_common(1)
        crowd = [channel for channel in channels if channel.network == network]
        waiting = [channel for channel in crowd if channel.waits_for_client]
        _end(min(waiting, key=_since_s) if waiting else max(crowd, key=_since_s))


def _since_s(channel: _Channel) -> float:
    return channel.since_s


def _end(channel: _Channel) -> None:
    # Shut down, not closed: otherwise a new connection could get the number of a descriptor that was just polled.
    channel.will_close = True
    with contextlib.suppress(OSError):
        channel.socket.shutdown(socket.SHUT_RDWR)


def _server(app: Access, listener: socket.socket) -> _Server:
    adjustments = Adjustments(
        sockets=[listener],
        threads=THREADS,
        # Never reached: at its own limit, waitress accepts nobody.
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
