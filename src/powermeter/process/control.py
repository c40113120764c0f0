"""
How the running program is queried and stopped, from both sides.

It is queried over a socket beside its pidfile. A stop uses a pidfd, so that it can't hit another process that got the
same number later.
"""

import contextlib
import errno
import hashlib
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

from powermeter.errors import (
    ForbiddenError,
    ProcessError,
    UnsafePathError,
    printable,
    why,
)
from powermeter.process.holder import held, holder
from powermeter.safe_path import socket_to_ask, user_name

#: How long a stop may take, in s: the program itself takes at most 10.
STOP_S = 15.0

#: How long the running program may take to answer, and how long it waits for a question, in s.
ANSWER_S = 2.0

ASKED_S = 0.3

#: The largest answer that is read, in bytes.
MAX_ANSWER = 1_000_000

#: The longest question, in bytes.
MAX_QUESTION = 1024

#: How many clients may wait to be answered.
MAX_WAITING = 128

#: The errors of a file system without sockets: FAT and exFAT, some network file systems.
NO_SOCKETS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

#: How often to try to create the socket after that has failed, in s.
LISTEN_S = 30.0


def _user_of(pid: int) -> int | None:
    """The user that the process *pid* runs as; None if it has ended or can't be seen."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            # Not the owner of the directory: for a process without core dumps that is root.
            return next(int(line.split()[2]) for line in file if line.startswith(b"Uid:"))
    except (OSError, StopIteration):
        return None


def stop(path: str) -> int | None:
    """
    Stop the holder of the pidfile *path* with SIGTERM and wait until it has ended.

    Returns its process id; None if nothing was running. Raises :exc:`ForbiddenError`,
    and :exc:`ProcessError` if it is still running after :data:`STOP_S`.
    """
    found = held(path)
    if found is None:
        return None
    pid, owner = found
    if pid == 0:
        raise ProcessError(f"{path}: its holder runs in another container: stop it there")
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return pid  # it has just ended
    try:
        # Checked again with the pidfd open: from here on it is this process or none.
        if held(path) != found:
            return pid
        _judge(path, pid, owner)
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        waiting = select.poll()
        waiting.register(pidfd, select.POLLIN)
        if not waiting.poll(STOP_S * 1000):
            raise ProcessError(f"pid {pid} is still there {STOP_S:g} s after SIGTERM: kill -KILL {pid} ends it")
    except PermissionError as error:
        raise ForbiddenError(f"pid {pid} belongs to another user: no permission to stop it") from error
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
    return pid


def _judge(path: str, pid: int, owner: int) -> None:
    """
    Raise :exc:`ProcessError` if *pid* is not the pidfile's own process; *owner* is the file's owner.

    A lock may outlive the process that took it, in another one that shares its descriptors (clone(2), CLONE_FILES); any
    process may then get the number. So the process must belong to the file's owner and listen beside the file.
    """
    user = _user_of(pid)
    if user is not None and user != owner:
        raise ProcessError(
            f"pid {pid} belongs to {user_name(user)}, and {path} to {user_name(owner)}: nothing is stopped"
        )
    # Perhaps nothing listens: it could not create the socket, or its directory is gone. A third user's process that
    # listens there instead is ignored.
    with contextlib.suppress(OSError), _connected(path) as asking:
        peer, peer_user, _ = _peer(asking)
        if peer != pid and peer_user in (0, owner):
            raise ProcessError(f"pid {pid} holds {path}, but pid {peer} answers for it: nothing is stopped")


def _socket_of(pidfile: str) -> tuple[int, str]:
    """The open directory of the socket beside *pidfile*, and the socket's address in it."""
    # By way of /proc, as an address has at most 107 bytes and a path may be longer.
    directory, name = os.path.split(os.path.abspath(pidfile))
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return fd, f"/proc/self/fd/{fd}/{name}.sock"


def _abstract(pidfile: str) -> str:
    """
    The address of the socket if the pidfile's file system has no sockets, as with exFAT.

    It has no mode, and anybody may take the name: both sides ask the kernel who the other is.
    """
    return "\0power:" + hashlib.blake2b(os.path.abspath(pidfile).encode(errors="surrogateescape")).hexdigest()[:64]


def ask(pidfile: str, question: str) -> str:
    """
    The answer of the running program with *pidfile* to *question*.

    Raises :exc:`ForbiddenError` if the program is another user's, and
    :exc:`ProcessError` if no answer came.
    """
    try:
        with _connected(pidfile) as asking:
            # Sent first, as the program does not wait long for it.
            asking.sendall(question.encode() + b"\n")
            # Another process may be listening in its place.
            if _peer(asking)[0] != holder(pidfile):
                raise ProcessError("another process answers in its place")
            answer = _whole_answer(asking)
    except UnsafePathError as error:
        raise ProcessError(str(error)) from error
    except PermissionError as error:
        raise ForbiddenError("only its own user and root may ask how it does") from error
    except OSError as error:
        raise ProcessError(f"it does not answer, it may be stopped: {why(error)}") from error
    if not answer:
        raise ProcessError("it does not answer: it closed the connection")
    return printable(answer.decode(errors="replace"))


@contextlib.contextmanager
def _connected(pidfile: str) -> Iterator[socket.socket]:
    """A connection to the socket beside *pidfile*."""
    end_s = time.monotonic() + ANSWER_S
    with socket.socket(socket.AF_UNIX) as asking, _address_beside(pidfile) as address:
        asking.settimeout(ANSWER_S)
        while True:
            try:
                asking.connect(address)
                break
            except BlockingIOError:  # as many clients are waiting as may wait
                if time.monotonic() > end_s:
                    raise
                time.sleep(0.01)
        yield asking


@contextlib.contextmanager
def _address_beside(pidfile: str) -> Iterator[str]:
    with contextlib.ExitStack() as stack:
        try:
            address, _ = stack.enter_context(socket_to_ask(f"{pidfile}.sock"))
        except FileNotFoundError:
            address = _abstract(pidfile)
        yield address


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    """The process, user and group at the other end, according to the kernel (unix(7), SO_PEERCRED)."""
    pid, user, group = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, user, group


def _whole_answer(asking: socket.socket) -> bytes:
    end_s = time.monotonic() + ANSWER_S
    answer = b""
    while part := asking.recv(65536):
        answer += part
        if len(answer) > MAX_ANSWER or time.monotonic() > end_s:
            raise ProcessError("its answer has no end")
    return answer


class Control:
    """
    What the running program receives: signals to stop or to reload, and questions about its status.

    A context manager, entered by the main thread before any other is started.
    :meth:`stop` may be called from any thread. SIGHUP reloads, or stops if
    *hangup_stops*, as it then comes from a closed terminal. If SIGHUP was ignored
    at the start it stays ignored, unless *detached*.
    """

    def __init__(self, pidfile: str, *, hangup_stops: bool, detached: bool = False) -> None:
        self._pidfile = pidfile
        self._hangup = self._stop_signal if hangup_stops else self._reload_signal
        self._detached = detached
        #: Whether the program is to end.
        self.stopping = False
        #: Whether the program is to read its settings again; whoever does so resets this.
        self.reload = False

    def __enter__(self) -> "Control":
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._listener: socket.socket | None = None
        self._listen_s = time.monotonic()
        self._unheard = ""
        self._listen()
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._stop_signal)
        signal.signal(signal.SIGINT, self._stop_signal)
        # What nohup has set stays; but a daemon no longer has the terminal for which it was set.
        if self._detached or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._hangup)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener is None:
            return
        self._listener.close()
        # Its directory may be gone: /run/user/UID is removed at the last logout. If the socket can't be removed,
        # neither can the pidfile beside it, which is reported; a socket that is left does no harm.
        with contextlib.suppress(OSError):
            directory, address = _socket_of(self._pidfile)
            try:
                os.unlink(address)
            finally:
                os.close(directory)
        # The socket pair stays open: a thread left behind may still call stop().

    def stop(self) -> None:
        """Have :meth:`serve` end."""
        self.stopping = True
        self._wake_up()

    def _wake_up(self) -> None:
        # If the pair is full of wake-ups, one more changes nothing.
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"\0")

    def serve(
        self, answer: Callable[[str], str], every_s: float | None = None, tick: Callable[[], bool] | None = None
    ) -> bool:
        """
        Answer questions with *answer* until stopped or asked to reload; return false if the program is to end.

        *tick*, if given, is called every *every_s*, and ends this by returning
        false. Otherwise it sleeps until something comes.
        """
        tick_s = time.monotonic()
        while not (self.stopping or self.reload):
            if tick is not None and every_s is not None and time.monotonic() >= tick_s:
                if not tick():
                    return False
                tick_s = time.monotonic() + every_s
            self._listen()
            due_s = [tick_s] * (every_s is not None) + [self._listen_s] * (self._listener is None)
            wait_ms = max(0.0, min(due_s) - time.monotonic()) * 1000 if due_s else None
            for fd, _ in self._poll().poll(wait_ms):
                if fd == self._wake.fileno():
                    self._wake.recv(4096)
                elif self._listener is not None:
                    self._answer_one(self._listener, answer)
        return not self.stopping

    def _stop_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stopping = True

    def _reload_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.reload = True

    def _poll(self) -> select.poll:
        waiting = select.poll()
        waiting.register(self._wake, select.POLLIN)
        if self._listener is not None:
            waiting.register(self._listener, select.POLLIN)
        return waiting

    def _listen(self) -> None:
        """Create the socket if it is missing and a try is due: only questions need it, all else works without."""
        if self._listener is not None or time.monotonic() < self._listen_s:
            return
        import logging  # not needed for --status and --kill

        log = logging.getLogger(__name__)
        try:
            self._listener = self._listening()
        except OSError as error:
            self._listen_s = time.monotonic() + LISTEN_S
            reason = why(error)
            if reason != self._unheard:
                log.warning("%s: can't create the socket beside it: %s: --status won't work", self._pidfile, reason)
            self._unheard = reason
        else:
            if self._unheard:
                log.info("%s: created the socket beside it: --status works again", self._pidfile)
            self._unheard = ""

    def _listening(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        try:
            try:
                self._bind_beside(listener)
            except OSError as error:
                if error.errno not in NO_SOCKETS:
                    raise
                listener.bind(_abstract(self._pidfile))
        except OSError:
            listener.close()
            raise
        listener.listen(MAX_WAITING)
        listener.setblocking(False)
        return listener

    def _bind_beside(self, listener: socket.socket) -> None:
        directory, address = _socket_of(self._pidfile)
        before = os.umask(0o177)
        try:
            # Left by a crash: this process holds the pidfile's lock, so no other uses the socket.
            if os.path.lexists(address):
                os.unlink(address)
            listener.bind(address)
        finally:
            os.umask(before)
            os.close(directory)

    def _answer_one(self, listener: socket.socket, answer: Callable[[str], str]) -> None:
        try:
            asked, _ = listener.accept()
        except OSError:
            return  # the client disconnected
        with asked:
            _, user, _ = _peer(asked)
            if user not in (0, os.geteuid()):
                return
            asked.settimeout(ASKED_S)
            try:
                question = asked.recv(MAX_QUESTION).decode(errors="replace").strip()
                asked.sendall(answer(question).encode())
            except OSError:
                return  # the client disconnected, or does not read
