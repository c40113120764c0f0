"""
The daemon's side of the page: it listens, and starts the page as a separate process when somebody connects.

Owns the listening socket, the process and one end of the socket pair to it. It reads nothing that visitors send,
and only a few short lines from the process, which gets at most one status per second. While nobody is looking, there is
no process, and the thread sleeps without a timeout.
"""

import contextlib
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from powermeter.errors import printable, why
from powermeter.settings.schema import is_loopback
from powermeter.settings.values import PageSettings, ShownAs
from powermeter.status import ViewStatus
from powermeter.views.page import url

log = logging.getLogger(__name__)

#: The first and the longest pause, in s, each twice as long as the one before: until it tries again to listen at an
#: address that is taken or missing, and until it starts a process again that crashed or ended too soon.
LISTEN_S = 1.0, 30.0
START_S = 1.0, 60.0

#: A process that ends before this, in s, ended too soon.
SOON_S = 10.0

#: How long it may take until it serves, in s: the slowest Pi needs a tenth of this.
READY_S = 60.0

#: It gets the status once in this time, in s.
STATUS_S = 1.0

#: How many connections may wait while it starts. With fewer, those of a crowd would be retried only after a second.
BACKLOG = 1024

#: The longest line that it may send, in bytes, and how many of its complaints are logged.
MAX_LINE = 1024
MAX_COMPLAINTS = 10

#: How long it may take to end, and to read the answer to a question, in s.
END_S = 0.2

#: What it runs. Python is isolated: neither the environment nor the directory decides what it imports.
CODE = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from powermeter.views.page.child import main; main(*map(int, sys.argv[2:]))"
)

#: Where this program's modules are.
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

#: All that it gets of the environment: the time zone, and where a Python other than the system's has its libraries.
ENVIRONMENT = ("TZ", "TZDIR", "LD_LIBRARY_PATH")


def listening(settings: PageSettings) -> socket.socket:
    """A socket that listens where *settings* say. Raises :exc:`OSError`, also if the address does not exist yet."""
    ((family, kind, protocol, _, address), *_) = socket.getaddrinfo(
        settings.address, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
    )
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" is for IPv4 too.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class PageServer:
    """
    The page of *settings* over the journal at *journal*, its meters shown as *shown_as* says.

    *status* gives the status as :meth:`~powermeter.status.Status.as_dict` has it. *on_state* is called when
    :attr:`status` changes. :meth:`run` is for a thread of its own, and :meth:`stop` for any other.
    """

    def __init__(
        self,
        settings: PageSettings,
        journal: str,
        shown_as: Mapping[str, ShownAs],
        *,
        status: Callable[[], dict[str, Any]],
        on_state: Callable[[], None],
    ) -> None:
        #: The state that --status shows.
        self.status = ViewStatus("ok", "")
        self._settings = settings
        self._journal = journal
        self._shown_as = shown_as
        self._ask = status
        self._on_state = on_state
        self._stopping = False
        self._wake, self._waker = socket.socketpair()
        self._listener: socket.socket | None = None
        #: When to try again to listen, and to start the process (monotonic, s); and how often in a row each failed.
        self._listen_at_s = 0.0
        self._start_at_s = 0.0
        self._unheard = 0
        self._failed = 0
        self._process: _Process | None = None

    def stop(self) -> None:
        """Make :meth:`run` return, and end the process."""
        self._stopping = True
        with contextlib.suppress(OSError):  # it has ended
            self._waker.send(b"\0")

    def run(self) -> None:
        """Serve until stopped. Whatever fails here affects only the page, and never the counting."""
        with self._wake, self._waker:
            try:
                while not self._stopping:
                    self._listen()
                    self._wait()
            except Exception:
                log.critical("view page: ended by a bug: there is no page until a restart", exc_info=True)
                self._set_state("ended by a bug: there is no page until a restart")
            finally:
                if self._process is not None:
                    self._process.end()
                if self._listener is not None:
                    self._listener.close()

    def _set_state(self, failing: str) -> None:
        before = self.status
        self.status = ViewStatus("failing" if failing else "ok", failing)
        if self.status != before:
            self._on_state()

    # --- Listening

    def _listen(self) -> None:
        if self._listener is not None or time.monotonic() < self._listen_at_s:
            return
        address, port = self._settings.address, self._settings.port
        try:
            self._listener = listening(self._settings)
        except OSError as error:
            self._listen_at_s = time.monotonic() + _pause_s(LISTEN_S, self._unheard)
            self._unheard += 1
            if (reason := f"{address} port {port}: {why(error)}") != self.status.reason:
                log.warning(
                    "view page: can't listen at %s port %d: %s: trying again until it works", address, port, why(error)
                )
            self._set_state(reason)
        else:
            self._unheard = 0
            log.info("view page: %s", url(self._settings))
            self._set_state("")

    # --- The loop

    def _wait(self) -> None:
        """Sleep until there is something to do, and do it."""
        now_s = time.monotonic()
        polled = select.poll()
        polled.register(self._wake, select.POLLIN)
        due_s = None
        process = self._process
        if self._listener is None:
            due_s = self._listen_at_s
        elif process is not None:
            due_s = process.register(polled, now_s)
            if process.serves and self.status.reason:
                lasts_s = process.since_s + SOON_S
                due_s = lasts_s if due_s is None else min(due_s, lasts_s)
        elif now_s < self._start_at_s:
            due_s = self._start_at_s
        else:
            polled.register(self._listener, select.POLLIN)
        # Rounded up: a poll that ended slightly too soon would only be repeated.
        found = dict(polled.poll(None if due_s is None else max(0.0, due_s - now_s) * 1000 + 1))
        if self._stopping or self._listener is None:
            return
        if process is not None:
            self._look_after(process, found)
        elif self._listener.fileno() in found:
            self._start(self._listener)

    def _start(self, listener: socket.socket) -> None:
        try:
            self._process = _Process(listener, self._answer)
        except OSError as error:
            self._fail(f"can't be started: {why(error)}")

    def _look_after(self, process: "_Process", found: Mapping[int, int]) -> None:
        process.serve(found)
        lasted_s = time.monotonic() - process.since_s
        if (ended := process.ended(lasted_s)) is None:
            if process.serves and lasted_s >= SOON_S:
                self._failed = 0
                if self.status.reason:
                    log.info("view page: serving again")
                self._set_state("")
            return
        process.end()
        self._process = None
        if lasted_s < SOON_S or not process.serves:
            self._fail(ended or "ended too soon")
        elif ended:
            log.warning("view page: %s: it is started again when somebody connects", ended)
            self._start_at_s = time.monotonic() + START_S[0]

    def _fail(self, reason: str) -> None:
        self._start_at_s = time.monotonic() + _pause_s(START_S, self._failed)
        self._failed += 1
        if reason != self.status.reason:
            log.error("view page: failing: %s", reason)
        self._set_state(reason)

    def _answer(self, question: str) -> dict[str, Any] | None:
        """The answer to the *question* of the process; None for one that it may not ask."""
        if question == "status":
            return self._ask()
        if question != "settings":
            return None
        settings = self._settings
        return {
            "port": settings.port,
            "password": settings.password and settings.password.reveal(),
            "loopback": is_loopback(settings.address),
            "journal": self._journal,
            "shown_as": self._shown_as,
        }


def _pause_s(shortest_longest: tuple[float, float], failed: int) -> float:
    shortest, longest = shortest_longest
    return float(min(longest, shortest * 2 ** min(failed, 30)))


class _Process:
    """
    The page's process, which serves connections to *listener*; *answer* gives what it asks for.

    All that it sends is one of the lines "settings", "status", "ready" and "failed REASON".
    """

    def __init__(self, listener: socket.socket, answer: Callable[[str], dict[str, Any] | None]) -> None:
        # It takes 1 MiB, which is not needed while nobody looks at the page.
        import subprocess

        self._expired = subprocess.TimeoutExpired
        self._answer = answer
        self.since_s = time.monotonic()
        #: Whether it has reported that it is ready.
        self.serves = False
        #: Why it must be ended, and its last complaint.
        self._wrong = ""
        self._complaint = ""
        self._complaints = 0
        self._received = b""
        self._status_s = 0.0
        self._pidfd: int | None = None
        with contextlib.ExitStack() as stack:
            self._pair, theirs = map(stack.enter_context, socket.socketpair())
            words = [sys.executable, "-I", "-c", CODE, SOURCE, str(listener.fileno()), str(theirs.fileno())]
            self._popen = subprocess.Popen(  # noqa: S603 - all of it is our own
                words,
                pass_fds=(listener.fileno(), theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ} | {"LANG": "C.UTF-8"},
                # A signal from the terminal goes to the daemon only.
                start_new_session=True,
            )
            stack.callback(self.end)
            self._pidfd = os.pidfd_open(self._popen.pid)
            theirs.close()
            self._pair.settimeout(END_S)
            stack.pop_all()

    def register(self, polled: select.poll, now_s: float) -> float | None:
        """Make *polled* wait for it; return when to check on it at the latest (monotonic, s)."""
        if self._pidfd is not None:
            polled.register(self._pidfd, select.POLLIN)
        pause_end_s = self._status_s + STATUS_S
        if now_s >= pause_end_s:
            polled.register(self._pair, select.POLLIN)
        due_s = [self.since_s + READY_S] * (not self.serves) + [pause_end_s] * (now_s < pause_end_s)
        return min(due_s, default=None)

    def serve(self, found: Mapping[int, int]) -> None:
        """Answer what it asks, where its end of the pair is among the *found*."""
        if self._pair.fileno() not in found:
            return
        try:
            part = self._pair.recv(MAX_LINE)
        except OSError:
            part = b""
        if not part:
            # A process that ends closes its socket a moment before it counts as ended.
            with contextlib.suppress(self._expired):
                self._popen.wait(END_S)
            self._wrong = "closed its socket"
        *lines, self._received = (self._received + part).split(b"\n")
        if len(self._received) > MAX_LINE:
            self._wrong = "sent a line without an end"
        for line in lines:
            self._obey(line.decode(errors="replace"))

    def _obey(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "ready" and not self.serves:
            self.serves = True
        elif word == "failed":
            self._complaint = printable(rest)
            self._complaints += 1
            self._status_s = time.monotonic()
            if self._complaints <= MAX_COMPLAINTS:
                log.error("view page: %s", self._complaint)
        elif (answer := self._answer(line)) is not None:
            if word == "status":
                self._status_s = time.monotonic()
            try:
                self._pair.sendall(json.dumps(answer).encode() + b"\n")
            except OSError:
                self._wrong = "does not read what it has asked for"
        else:
            self._wrong = "asked for what it may not have"

    def ended(self, lasted_s: float) -> str | None:
        """Why it has ended, or has to be; "" if it was idle, None while all is as it should be after *lasted_s*."""
        if (status := self._popen.poll()) is None:
            return self._wrong or ("did not begin to serve" if not self.serves and lasted_s > READY_S else None)
        if status == 0:
            return ""
        self.serve({self._pair.fileno(): select.POLLIN})  # its last words
        complaint = f": {self._complaint}" if self._complaint and status > 0 else ""
        return f"ended with {_words(status)}{complaint}"

    def end(self) -> None:
        """End it; may be called twice. It has nothing to save."""
        self._popen.kill()
        # A process that hangs while reading a disk ends when the read returns.
        with contextlib.suppress(self._expired):
            self._popen.wait(END_S)
        self._pair.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None


def _words(status: int) -> str:
    """What the exit *status* of :class:`subprocess.Popen` means."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
