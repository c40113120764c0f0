"""
One process of many: detaching, the lock of the pidfile, stopping, asking, signals.

Who holds the record lock on the pidfile is the running one; the kernel tells
its process id and lets go of the lock when it ends, however it ends. The
number in the file is for people. A stop goes by a pidfd, so that it can't hit
a process that came to the number later.

Light to import: ``--status`` and ``--kill`` need no more than this.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import resource
import select
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

import lockfile
from lockfile.pidlockfile import PIDLockFile

from powermeter.errors import AlreadyRunningError, ForbiddenError, PowerError, ProcessError, UnsafePathError, printable
from powermeter.safe_path import open_file, open_to_ask, ours, socket_to_ask, user_name

#: struct flock as Python's fcntl passes it, with 64-bit offsets on 32-bit machines too:
#: l_type, l_whence, l_start, l_len, l_pid.
FLOCK = "hhqqi"

#: The process id that the kernel names for a lock that belongs to an open file, not to a process (F_OFD_SETLK).
NO_PROCESS = -1

#: How long a stop may take, in s: the program gives itself 10.
STOP_S = 15.0

#: How long the running one may take to answer, and it to be asked, in s.
ANSWER_S = 2.0
ASKED_S = 0.3

#: The largest answer that is read, in bytes.
MOST_ANSWER = 1_000_000

#: How many may wait to ask it.
MOST_WAITING = 128

#: What a file system answers that knows no sockets: FAT and exFAT, some of the network.
NO_SOCKETS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)

#: How often it is tried to make the socket, where that can't be made, in s.
LISTEN_S = 30.0

#: linux/prctl.h.
PR_SET_DUMPABLE = 4

#: What the program makes is its user's to write and its group's to read.
UMASK = 0o027

#: What the daemon writes to its caller once it counts.
READY = b"ready"


def holder(path: str) -> int | None:
    """
    The process id that holds the lock of the pidfile *path*; None if there is none.

    Not to be called by the holder: closing the file would drop its lock.
    Raises :exc:`ForbiddenError` where the file can't be read.
    """
    held = _held(path)
    return None if held is None else held[0]


def _held(path: str) -> tuple[int, int] | None:
    """The process that holds the pidfile *path*, and the file's owner."""
    try:
        fd, owner = open_to_ask(path)
    except FileNotFoundError:
        return None
    except UnsafePathError as error:
        raise ProcessError(f"{path}: no pidfile: {error}") from error
    except PermissionError as error:
        raise ForbiddenError(f"{path}: the pidfile can't be read: {error.strerror}") from error
    except OSError as error:
        raise ProcessError(f"{path}: no pidfile: {error.strerror}") from error
    try:
        pid = _holder_of(fd)
    finally:
        os.close(fd)
    if pid == NO_PROCESS:
        raise ProcessError(
            f"{path}: another program holds a lock on it, no power: see who has it open: fuser -v {path}"
        )
    return None if pid is None else (pid, owner)


def _holder_of(fd: int) -> int | None:
    # As for reading: a reader's lock, which anybody who may read the file can hold, is not the running one's.
    asked = struct.pack(FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked)[: struct.calcsize(FLOCK)])
    return None if kind == fcntl.F_UNLCK else pid


def _user_of(pid: int) -> int | None:
    """The user whom the process *pid* runs as; None where it has ended, or can't be seen."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            # Not the owner of the directory: root has that of a process that leaves no core.
            return next(int(line.split()[2]) for line in file if line.startswith(b"Uid:"))
    except (OSError, StopIteration):
        return None


class PidFile(PIDLockFile):  # type: ignore[misc]
    """
    A pidfile that is locked while its process lives.

    python-daemon enters it once detached: a record lock does not outlive a
    fork. The library's own truth, that the file is there, would keep a stale
    file's program from ever starting again.
    """

    def __init__(self, path: str, mode: int = 0o644) -> None:
        super().__init__(path)
        self._mode = mode
        self._fd: int | None = None

    def acquire(self, timeout: float | None = None) -> None:  # noqa: ARG002 - the library's signature
        """Lock the file and write the process id. Raises :exc:`AlreadyRunningError`; never waits."""
        while self._fd is None:
            try:
                fd = open_file(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, self._mode)
            except OSError as error:
                raise ProcessError(
                    f"{self.path}: can't be written: {_why(error)}: name another with --pidfile"
                ) from error
            if self._locked(fd):
                self._fd = fd
            else:
                os.close(fd)
        try:
            os.fchmod(self._fd, self._mode)
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.release()
            raise ProcessError(f"{self.path}: can't be written: {_why(error)}") from error

    def _locked(self, fd: int) -> bool:
        """Whether the lock was had on the file that the path names still."""
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ProcessError(f"{self.path}: is not a file: name another with --pidfile")
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = _holder_of(fd)
            if error.errno not in (errno.EACCES, errno.EAGAIN) or pid == NO_PROCESS:
                os.close(fd)
                reason = "another program holds a lock on it" if pid == NO_PROCESS else error.strerror
                raise ProcessError(f"{self.path}: can't be locked: {reason}") from error
            if pid is not None:
                os.close(fd)
                raise AlreadyRunningError(pid) from error
            # Readers hold locks on a file that a crash left, or that was just let go: another file takes its place.
            self._remove(fd)
            return False
        # Between the two calls the one before may have ended, and removed it.
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _remove(self, fd: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            # It may have been removed, and be another's now.
            if os.path.samestat(os.fstat(fd), os.lstat(self.path)):
                os.unlink(self.path)

    def release(self) -> None:
        """Remove the file, then let go of it; may be called twice."""
        if self._fd is not None:
            try:
                self._remove(self._fd)
            except OSError as error:
                print(f"{self.path}: can't be removed: {error.strerror}", file=sys.stderr)
            os.close(self._fd)
            self._fd = None

    def is_locked(self) -> bool:
        """Whether a process holds it."""
        return self._fd is not None or holder(self.path) is not None

    def i_am_locking(self) -> bool:
        """Whether this process holds it."""
        return self._fd is not None

    def break_lock(self) -> None:
        """Refused: the lock ends with its process and needs no breaking."""
        raise lockfile.NotMyLock(f"{self.path} is locked as long as its process lives")


def stop(path: str) -> int | None:
    """
    Stop the holder of the pidfile *path* with SIGTERM and wait until it has ended.

    Returns its process id; None if nothing ran. Raises :exc:`ForbiddenError`,
    and :exc:`ProcessError` where it is still there after :data:`STOP_S`.
    """
    held = _held(path)
    if held is None:
        return None
    pid, owner = held
    if pid == 0:
        raise ProcessError(f"{path}: its holder runs in another container: stop it there")
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return pid  # it ended this moment
    try:
        # Asked again with the pidfd in hand: from here on it is this process or none.
        if _held(path) != held:
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
    Raise :exc:`ProcessError` where *pid* is not the pidfile's own process; *owner*: the file's.

    A lock may outlive the process that took it, in another that shares its descriptors (clone(2), CLONE_FILES); the
    number is then free for anybody's process. So it counts only for one of the file's owner, that listens beside it.
    """
    user = _user_of(pid)
    if user is not None and user != owner:
        raise ProcessError(
            f"pid {pid} belongs to {user_name(user)}, and {path} to {user_name(owner)}: nothing is stopped"
        )
    # Nothing may listen: it could not make the socket, or its directory has gone. A third user's process, which may
    # have taken the place there, counts as nothing.
    with contextlib.suppress(OSError), _connected(path) as asking:
        peer, peer_user, _ = _peer(asking)
        if peer != pid and peer_user in (0, owner):
            raise ProcessError(f"pid {pid} holds {path}, but pid {peer} answers for it: nothing is stopped")


# --- Asking the running one, over a socket beside its pidfile


def _socket_of(pidfile: str) -> tuple[int, str]:
    """The directory, open, and the address in it of the socket beside *pidfile*."""
    # Through /proc, as an address has 107 bytes at most and a path may be longer.
    directory, name = os.path.split(os.path.abspath(pidfile))
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return fd, f"/proc/self/fd/{fd}/{name}.sock"


def _abstract(pidfile: str) -> str:
    """
    The address of the socket of a running one whose file system knows no sockets, as exFAT.

    It has no mode and anybody may take the name: both sides ask the kernel who the other is.
    """
    return "\0power:" + hashlib.blake2b(os.path.abspath(pidfile).encode(errors="surrogateescape")).hexdigest()[:64]


def ask(pidfile: str, question: str) -> str:
    """
    What the running one with *pidfile* answers to *question*.

    Raises :exc:`ForbiddenError` where it is not this user's, and
    :exc:`ProcessError` where no answer came.
    """
    try:
        with _connected(pidfile) as asking:
            # First, as it does not wait long for it.
            asking.sendall(question.encode() + b"\n")
            # Anybody may have taken its place there.
            if _peer(asking)[0] != holder(pidfile):
                raise ProcessError("another process answers in its place")
            answer = _whole_answer(asking)
    except UnsafePathError as error:
        raise ProcessError(str(error)) from error
    except PermissionError as error:
        raise ForbiddenError("only its own user and root may ask how it does") from error
    except OSError as error:
        raise ProcessError(f"it does not answer, it may be stopped: {_why(error)}") from error
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
            except BlockingIOError:  # as many ask as may wait
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
    """The process, user and group at the other end, by the kernel (unix(7), SO_PEERCRED)."""
    pid, user, group = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, user, group


def _whole_answer(asking: socket.socket) -> bytes:
    end_s = time.monotonic() + ANSWER_S
    answer = b""
    while part := asking.recv(65536):
        answer += part
        if len(answer) > MOST_ANSWER or time.monotonic() > end_s:
            raise ProcessError("its answer has no end")
    return answer


def no_core_dump() -> None:
    """Let this process leave no core, and no other process of its user look into it: a password stands in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core that goes to a program, as systemd-coredump, has no limit (core(5)). Inherited by a fork.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


class Control:
    """
    What the running one hears: signals to stop or to reload, and questions how it does.

    A context manager, entered by the main thread before any other is started.
    :meth:`stop` may be called from any thread. SIGHUP reloads, or stops where
    *hangup_stops*: it comes from a terminal that is gone. Where it is ignored
    already that stays so, unless *detached*.
    """

    def __init__(self, pidfile: str, *, hangup_stops: bool, detached: bool = False) -> None:
        self._pidfile = pidfile
        self._hangup = self._stop_signal if hangup_stops else self._reload_signal
        self._detached = detached
        #: Whether it is to end.
        self.stopping = False
        #: Whether it is to read its settings again; who does so takes it back.
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
        # What nohup has set stays; a daemon has left the terminal that it was set for.
        if self._detached or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._hangup)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listener is None:
            return
        self._listener.close()
        # Its directory may be gone: /run/user/UID goes at the last logout. Where it can't be removed the pidfile beside
        # it can't either, which is said; one that is left is in nobody's way.
        with contextlib.suppress(OSError):
            directory, address = _socket_of(self._pidfile)
            try:
                os.unlink(address)
            finally:
                os.close(directory)
        # The pair that wakes stays open: a thread left behind may still call stop().

    def stop(self) -> None:
        """Let :meth:`serve` end."""
        self.stopping = True
        self._wake_up()

    def _wake_up(self) -> None:
        # Where so many wake-ups wait that the pipe is full, one more changes nothing.
        with contextlib.suppress(BlockingIOError):
            self._waker.send(b"\0")

    def serve(
        self, answer: Callable[[str], str], every_s: float | None = None, tick: Callable[[], bool] | None = None
    ) -> bool:
        """
        Answer questions by *answer* until stopped or asked to reload; false where it is to end.

        *tick*, if given, is called every *every_s*, and ends it by being false.
        Sleeps without an end otherwise.
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
        """Make the socket, where there is none and it is time to try: without it nobody can ask, and all else works."""
        if self._listener is not None or time.monotonic() < self._listen_s:
            return
        import logging  # not needed to ask or to stop

        log = logging.getLogger(__name__)
        try:
            self._listener = self._listening()
        except OSError as error:
            self._listen_s = time.monotonic() + LISTEN_S
            reason = _why(error)
            if reason != self._unheard:
                log.warning("%s: no socket can be made beside it: %s: --status can't ask", self._pidfile, reason)
            self._unheard = reason
        else:
            if self._unheard:
                log.info("%s: there is a socket beside it now: --status can ask", self._pidfile)
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
        listener.listen(MOST_WAITING)
        listener.setblocking(False)
        return listener

    def _bind_beside(self, listener: socket.socket) -> None:
        directory, address = _socket_of(self._pidfile)
        before = os.umask(0o177)
        try:
            # One that a crash left: the pidfile's lock says that it is nobody's.
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
            return  # who asked has gone
        with asked:
            _, user, _ = _peer(asked)
            if user not in (0, os.geteuid()):
                return
            asked.settimeout(ASKED_S)
            try:
                question = asked.recv(64).decode(errors="replace").strip()
                asked.sendall(answer(question).encode())
            except OSError:
                return  # who asked has gone, or does not read


# --- Telling systemd


def notify(*lines: str) -> None:
    """Tell the service manager *lines*, such as READY=1 (sd_notify(3)); nothing where none of this user's listens."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    message = "\n".join(lines).encode()
    # A manager that does not read is none of our trouble, and never in the way of counting.
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
        telling.setblocking(False)
        if path.startswith("@"):  # an abstract name, which has no owner
            telling.sendto(message, "\0" + path[1:])
            return
        with socket_to_ask(path) as (address, owner):
            if owner in ours():  # su keeps the variable of the user before
                telling.sendto(message, address)


def watchdog_s() -> float | None:
    """How often the service manager wants to hear WATCHDOG=1, in s; None for not at all (sd_watchdog_enabled(3))."""
    try:
        asked_us = int(os.environ.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    ours = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return asked_us / 1e6 if ours and asked_us > 0 else None


# --- Detaching


def daemonize(pidfile: PidFile, working_directory: str, work: Callable[[Callable[[], None]], int]) -> int:
    """
    Run *work* in a daemon that holds *pidfile*, and return once it is ready or has failed.

    *work* gets the function to call when it is ready, and returns the daemon's
    exit status. Returns the caller's exit status: in the caller 0 or 1, with
    the reason on stderr; in the daemon, where this returns too, that of *work*.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        return _daemon(pidfile, working_directory, work, writing)
    os.close(writing)
    with open(reading, "rb") as from_daemon:
        said = printable(from_daemon.read().decode(errors="replace")).strip()
    os.waitpid(child, 0)
    ready, _, rest = said.partition(" ")
    if ready == READY.decode():
        print(f"power: counting, pid {rest}")
        return 0
    print(f"power: {said or 'the daemon ended before it was counting: its log says why'}", file=sys.stderr)
    return 1


def _daemon(pidfile: PidFile, working_directory: str, work: Callable[[Callable[[], None]], int], writing: int) -> int:
    import daemon  # not needed to stop or ask one

    told = False

    def tell(message: bytes) -> None:
        nonlocal told
        if not told:
            told = True
            with contextlib.suppress(BrokenPipeError):  # the caller was interrupted; the daemon goes on
                os.write(writing, message)
            os.close(writing)

    # No signal_map: Control sets what is heard. No core dump: a password would stand in it.
    context = daemon.DaemonContext(
        working_directory=working_directory,
        umask=UMASK,
        detach_process=True,
        files_preserve=[writing],
        pidfile=pidfile,
        signal_map={},
    )
    try:
        with context:
            return work(lambda: tell(READY + b" %d" % os.getpid()))
    except (PowerError, daemon.daemon.DaemonError) as error:
        tell(str(error).encode())
        return 1
    except BaseException as error:
        tell(f"ended by a bug: {type(error).__name__}: {error}".encode())
        raise


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
