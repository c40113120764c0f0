#!/usr/bin/python3 -IS
"""
The command "power": the installed program, which finds the installed service.

When root calls it, it first becomes the service's user, and passes on nothing of root's: no terminal, no descriptor, no
directory, no key and no variable. The service's user may write to the program, so root never runs any of it.
"""
# @MARK@

import codecs
import errno
import os
import pwd
import select
import signal
import sys
import time

SERVICE_USER = "@QUOTED_USER@"
PYTHON = "@RPIENV@/bin/python"
PROGRAM = "@RPIENV@/rpienv/power.py"
DEFAULT = "@DEFAULT@"
PIDFILE = "@RUN@/power.pid"
STATE = "@STATE@"

PATH = "/usr/local/bin:/usr/bin:/bin"

#: Options that choose another program than the installed service, and those of them that take a path.
OTHERS, PATHS = ("--pidfile", "--settings", "--simulate"), ("--pidfile", "--settings")

#: An option for the init script: makes the running program read its settings again.
HANG_UP = "--hangup"

#: An environment variable that the init script sets: how long the command may take, in s.
WITHIN = "POWER_WITHIN_S"

#: The time from SIGTERM to SIGKILL, and from there until this command no longer waits, in s.
GRACE_S = 5.0

#: A signal this soon after the first one is the same again: a closing terminal sends it in several ways. In s.
AGAIN_S = 0.2

#: Signals that end the command. They are passed on, because Ctrl-C does not reach the other session.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: In bytes: how much is read at a time, written at a time, read after the end, and kept of an answer.
READ, WRITE, MAX_REST, MAX_ANSWER = 65536, 512, 1 << 20, 65536

#: Control characters: those of ASCII, except for the tab and the line feed, and C1.
CONTROLS = dict.fromkeys([*range(9), *range(11, 32), *range(127, 160)])

#: The number of keyctl(2), by machine, for 32 and 64 bits; a 64-bit kernel may run 32-bit programs.
KEYCTL = {"x86_64": (288, 250), "i686": (288, 250), "aarch64": (311, 219), "arm": (311, 219), "riscv64": (0, 219)}
KEYCTL_JOIN_SESSION_KEYRING = 1
PR_SET_NO_NEW_PRIVS = 38

#: Exit statuses (LSB, "Init Script Actions"); the second one is for --status.
FAILED, UNKNOWN, MISSING, NOT_RUNNING = 1, 4, 5, 7


class CommandError(Exception):
    """The command ends with *status*, and says why."""

    def __init__(self, status, text):
        self.status = status
        super().__init__(text)


def main(args):
    """Run the program with *args* and return its exit status."""
    if not os.access(PYTHON, os.X_OK) or not os.path.exists(PROGRAM):
        text = f"{PYTHON} or {PROGRAM} is missing, or closed to this user: run install_init_script.py again"
        raise CommandError(MISSING, text)
    if not any(arg.startswith(OTHERS) for arg in args):
        args = ["--pidfile", PIDFILE, *args]
    user = os.geteuid()
    try:
        service = pwd.getpwnam(SERVICE_USER)
    except KeyError:
        service = None
    if user != 0 and (service is None or user != service.pw_uid):
        execute(args, os.environ)
    if service is None:
        raise CommandError(1, f"there is no user {SERVICE_USER}: run install_init_script.py again")
    if HANG_UP in args:
        return hang_up(service)
    if user != 0:
        execute(args, {**os.environ, **of_service()})
    return Run([PYTHON, PROGRAM, *absolute(args)], service).status()


def execute(args, environment):
    """Become the program."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python has ignored
        signal.signal(number, signal.SIG_DFL)
    os.execve(PYTHON, [PYTHON, PROGRAM, *args], environment)


def absolute(args):
    """*args* with absolute paths, because the working directory is about to change."""
    found = []
    for before, arg in zip(["", *args], args, strict=False):
        name, mark, path = arg.partition("=")
        if before in PATHS and not arg.startswith("-"):
            found.append(os.path.abspath(arg))
        elif mark and path and name in PATHS:
            found.append(f"{name}={os.path.abspath(path)}")
        else:
            found.append(arg)
    return found


def of_service():
    """The variables of the service's own environment."""
    return {"STATE_DIRECTORY": STATE, "POWER_SETTINGS": power_settings()}


def power_settings():
    """The value of POWER_SETTINGS in the administrator's file."""
    try:
        with open(DEFAULT, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line for line in file if "POWER_SETTINGS" in line and not line.lstrip().startswith("#")]
    except OSError:
        return ""
    if not lines:
        return ""
    import shlex

    found = ""
    for line in lines:
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        for word in words:
            name, _, value = word.partition("=")
            found = value if name == "POWER_SETTINGS" else found
    return found


def hang_up(service):
    """Make the running program read its settings: the process that it names, if that belongs to the service's user."""
    asked = Run([PYTHON, PROGRAM, "--pidfile", PIDFILE, "--status", "--json"], service, answer=True)
    status = asked.status()
    if status in (1, 3):
        raise CommandError(NOT_RUNNING, "not running: start it first")
    if status:
        return FAILED  # it has printed the reason
    import json

    try:
        pid = int(json.loads(asked.answer)["pid"])
    except (ValueError, LookupError, TypeError, OverflowError, RecursionError):
        raise CommandError(1, "its answer has no pid") from None
    try:
        # From here on, the descriptor means this process or none.
        process = os.pidfd_open(pid)
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            users = next(line.split()[1:] for line in file if line.startswith("Uid:"))
        if users != [str(service.pw_uid)] * 4:
            raise CommandError(1, f"pid {pid}, which it names, is not {SERVICE_USER}'s")
        signal.pidfd_send_signal(process, signal.SIGHUP)
    except (OSError, OverflowError, StopIteration) as error:
        why = getattr(error, "strerror", "") or "no such process"
        raise CommandError(1, f"pid {pid}, which it names: {why}") from None
    os.write(1, f"power: pid {pid} reads its settings again, its log says how that went\n".encode())
    return 0


# --- Another user's process


class Copy:
    """Copies from the pipe *source* to the descriptor *target*, without control characters."""

    def __init__(self, source, target):
        self.source, self.target = source, target
        self.rest = MAX_REST
        self.error = 0
        self.waiting = b""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        os.set_blocking(source, False)

    def read(self):
        """Read once; close a pipe that has ended."""
        try:
            found = os.read(self.source, READ)
        except BlockingIOError:
            return False
        self.rest -= len(found)
        self.waiting += self._decoder.decode(found, not found).translate(CONTROLS).encode()
        if not found:
            self.close()
        return True

    def read_rest(self):
        """Read what is in the pipe now: anything later comes from another process. Whether some waits to be written."""
        while self.source is not None and not self.waiting:
            if not self.read() or self.rest < 0:
                self.close()
        return bool(self.waiting)

    def write(self):
        """Write a piece that fits into a terminal's or a pipe's buffer."""
        try:
            self.waiting = self.waiting[os.write(self.target, self.waiting[:WRITE]) :]
        except BlockingIOError:
            pass
        except OSError as error:
            self.error, self.waiting = error.errno, b""
            self.close()

    def close(self):
        """Stop reading."""
        if self.source is not None:
            os.close(self.source)
            self.source = None


class Answer(Copy):
    """Keeps what comes from *source*, up to MAX_ANSWER bytes."""

    def __init__(self, source):
        super().__init__(source, None)
        self.kept = b""

    def read(self):
        """Read once."""
        read = super().read()
        self.kept = (self.kept + self.waiting)[:MAX_ANSWER]
        self.waiting = b""
        return read


class Run:
    """The command *line* as the user *service*, in a session of its own; its output is copied, or kept as *answer*."""

    def __init__(self, line, service, *, answer=False):
        self._line, self._service = line, service
        self._environment = {
            "PATH": PATH,
            "HOME": service.pw_dir,
            "USER": service.pw_name,
            "LOGNAME": service.pw_name,
            "SHELL": service.pw_shell or "/bin/sh",
            "PYTHONNOUSERSITE": "1",
            **of_service(),
        }
        if "TERM" in os.environ:
            self._environment["TERM"] = os.environ["TERM"]
        within = os.environ.get(WITHIN, "")
        self._within_s = float(within) if within.isdecimal() else None
        self._keeps = answer
        self._asked = 0
        self._asked_s = 0.0

    @property
    def answer(self):
        """The output that was kept."""
        return self._copies[0].kept

    def status(self):
        """Run it, and return its exit status."""
        self._end_s = None if self._within_s is None else time.monotonic() + self._within_s
        self._wake, waking = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        heard = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
        for number in (*heard, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*heard, signal.SIGCHLD])
        (out, child_out), (err, child_err) = os.pipe(), os.pipe()
        self._child = os.fork()
        if self._child == 0:
            try:
                signal.set_wakeup_fd(-1)
                for number in (*heard, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
                    signal.signal(number, signal.SIG_DFL)
                become(self._service, child_out, child_err)
                os.execve(self._line[0], self._line, self._environment)
            except OSError as error:
                os.write(2, f"power: {self._line[0]} can't be run as {SERVICE_USER}: {error.strerror}\n".encode())
            finally:
                os._exit(1)
        os.close(child_out)
        os.close(child_err)
        self._copies = [Answer(out) if self._keeps else Copy(out, 1), Copy(err, 2)]
        status = self._attend()
        for copy in self._copies:
            if copy.error not in (0, errno.EPIPE):
                say(f"standard {['output', 'error'][copy.target - 1]} can't be written: {os.strerror(copy.error)}")
                status = status or 1
        return status

    def _attend(self):
        """Copy its output until it has ended, even if other processes still have its pipes open."""
        ended = None
        late = False
        while True:
            if ended is None:
                pid, found = os.waitpid(self._child, os.WNOHANG)
                if pid:
                    ended = found
                    for copy in self._copies:
                        copy.rest = MAX_REST
            if ended is not None and not any(copy.read_rest() for copy in self._copies):
                break
            left_s = None if self._end_s is None else self._end_s - time.monotonic()
            if left_s is not None and left_s <= 0:
                if not late:
                    say(f"not finished after {self._within_s:g} s: it is stopped")
                late = True
                self._end_s += GRACE_S
                if not self._end(by_force=self._asked > 0, done=ended is not None):
                    break
                continue
            if self._asked > 2 or (self._asked > 1 and ended is not None):
                break
            self._wait(left_s, ended is not None)
        if late or ended is None:
            return UNKNOWN if "--status" in self._line else FAILED
        return os.WEXITSTATUS(ended) if os.WIFEXITED(ended) else 128 + os.WTERMSIG(ended)

    def _wait(self, left_s, done):
        """Wait until there is something to do, and do it."""
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        for copy in self._copies:
            if copy.waiting:
                poll.register(copy.target, select.POLLOUT)
            elif copy.source is not None:
                poll.register(copy.source, select.POLLIN)
        ready = dict(poll.poll(None if left_s is None else left_s * 1000 + 1))
        for copy in self._copies:
            if copy.waiting and copy.target in ready:
                copy.write()
            elif copy.source in ready:
                copy.read()
        if self._wake in ready:
            for number in os.read(self._wake, 256):
                if number in ENDING and not (self._asked and time.monotonic() < self._asked_s + AGAIN_S):
                    self._end(by_force=self._asked > 0, done=done)

    def _end(self, *, by_force, done):
        """Try to end it; false once everything was tried."""
        self._asked += 1
        self._asked_s = time.monotonic()
        if not done:  # it has not been waited for, so its number has not been reused
            try:
                if by_force:
                    os.killpg(self._child, signal.SIGKILL)
                else:
                    os.kill(self._child, signal.SIGTERM)
            except ProcessLookupError:  # it has no session yet
                os.kill(self._child, signal.SIGKILL)
        return self._asked <= 2


def become(service, out, err):
    """Give up everything of the caller's, and become the user *service*."""
    os.setsid()
    root = os.geteuid() == 0
    if root:
        import ctypes

        libc = ctypes.CDLL(None, use_errno=True)

        def call(function, *words):
            if function(*map(ctypes.c_long, words)) < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))

        # If there are no keys, or this process may not ask for any, it has none of root's either.
        machine = os.uname().machine
        number = KEYCTL.get("arm" if machine.startswith("arm") else machine, (0, 0))[sys.maxsize > 2**32]
        if number:
            try:
                call(libc.syscall, number, KEYCTL_JOIN_SESSION_KEYRING, 0)
            except OSError as error:
                if error.errno not in (errno.ENOSYS, errno.EPERM):
                    raise
        os.initgroups(service.pw_name, service.pw_gid)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    try:
        last = max(map(int, os.listdir("/proc/self/fd")))
    except OSError:
        last = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, last + 1)
    os.chdir("/")
    os.umask(0o022)
    if root:
        os.setresgid(service.pw_gid, service.pw_gid, service.pw_gid)
        os.setresuid(service.pw_uid, service.pw_uid, service.pw_uid)
        call(libc.prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def say(text):
    """Print *text* to standard error."""
    try:  # noqa: SIM105 - contextlib takes as long to import as all the rest, before the first flash at boot
        os.write(2, f"power: {text}\n".encode(errors="replace"))
    except OSError:
        pass


if __name__ == "__main__":
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    # If the caller has closed 0, 1 or 2, no pipe may get that number.
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(opened)
    try:
        sys.exit(main(sys.argv[1:]))
    except CommandError as failure:
        say(failure)
        sys.exit(failure.status)
    except OSError as error:
        say(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        sys.exit(1)
