#!/usr/bin/env python3
"""
Install power as a service that starts with the machine: an init script, and on a systemd machine also a unit.

Run it from the source directory: sudo python3 install_init_script.py

Everything it does is one list of steps. --dry-run prints the list, an install
does whatever is not done already, and --uninstall undoes it, last step first.
All checks come before the first change; if a step fails, those before it are
undone.

Root never runs a file of the virtual environment or of src here, because other
users may write them. They are only run as the service's user, in a session of
their own, and their answers are treated as hostile.
"""

# ruff: noqa: D102 - the methods of a step are described once, in Step

import argparse
import contextlib
import ctypes
import errno
import fcntl
import functools
import glob
import grp
import io
import json
import os
import pwd
import re
import select
import shlex
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TextIO

TOP = os.path.dirname(os.path.realpath(__file__))

#: Every installed file contains this: a file without it belongs to somebody else.
MARK = "installed by install_init_script.py of power"

#: The service's user, unless the virtual environment or the source is in somebody's home.
DEFAULT_USER = "power"

#: The group that owns the pins; on Raspberry Pi OS a udev rule sets it.
GROUP = "gpio"

#: The init script's exit status if the program is gone (LSB).
NOT_INSTALLED = 5

#: The user ids of people (Debian Policy 9.2.2).
PEOPLE = range(1000, 60000)

#: How long a process of the service's user may take to answer, and a system command to finish, in s.
ANSWER_S, COMMAND_S = 60.0, 120.0

#: How much of their output is read at most, in bytes.
MAX_OUTPUT = 65536

#: How many lines of an error are shown at most, and how many letters of each.
MAX_LINES, MAX_LINE = 100, 1000

#: The longest path (linux/limits.h), and how many paths the settings may name here.
MAX_PATH, MAX_PATHS = 4096, 64

#: How deep directories may be nested.
MAX_DEPTH = 64

#: The maximum size of the settings, the same as in the program, in bytes.
MAX_SETTINGS = 1_000_000

#: Characters, in addition to unprintable ones, that are not allowed in a path that is written into configuration files
#: of other programs: quotation marks and what escapes them, and the braces of logrotate's blocks.
NOT_IN_PATHS = "\"'`\\{}"

#: What logrotate treats as a pattern (glob(7)).
PATTERN = re.compile(r"[*?\[\]]")

#: Where the system keeps its configuration and programs: no message advises creating another user's directory there.
SYSTEM = re.compile(r"/(bin|boot|dev|etc|lib[^/]*|proc|root|run|sbin|sys|usr|var)(/|$)")

#: The number of keyctl(2), by machine, for 32 and 64 bits; a 64-bit kernel may run 32-bit programs.
KEYCTL = {"x86_64": (288, 250), "i686": (288, 250), "aarch64": (311, 219), "arm": (311, 219), "riscv64": (0, 219)}
KEYCTL_JOIN_SESSION_KEYRING = 1

#: What should be mounted where, fstab(5), and what is mounted, proc_pid_mountinfo(5).
FSTAB = "/etc/fstab"
MOUNTED = "/proc/self/mountinfo"

UDEV_RULE = f'SUBSYSTEM=="gpio", KERNEL=="gpiochip*", GROUP="{GROUP}", MODE="0660"'


class InstallError(Exception):
    """Nothing was changed; each line says what is wrong, where, and what to do."""


class CommandError(InstallError):
    """A command failed, with *status*."""

    def __init__(self, text: str, status: int) -> None:
        self.status = status
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are on the machine."""

    rpienv: str = "/usr/local/rpienv"
    init_script: str = "/etc/init.d/power"
    command: str = "/usr/local/bin/power"
    unit: str = "/etc/systemd/system/power.service"
    default: str = "/etc/default/power"
    logrotate: str = "/etc/logrotate.d/power"
    #: The list of what was made but can't contain the mark: links, the group, the user.
    record: str = "/etc/power.installed"
    state: str = "/var/lib/power"
    run: str = "/run/power"


@dataclass(frozen=True, slots=True)
class Person:
    """The service's user, who may still have to be created."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    exists: bool = True


def say(text: str, file: TextIO | None = None) -> None:
    """Print *text*, which may come from another user, as one line that can't control a terminal."""
    print("".join(letter if letter.isprintable() else "?" for letter in text[:MAX_LINE]), file=file)


# --- The steps


class Record:
    """The file that lists what was made but can't contain the mark, one thing per line."""

    def __init__(self, path: str) -> None:
        self.path = path

    def lines(self) -> list[str]:
        """The lines of the list."""
        if not os.path.exists(self.path):
            return []
        with open(self.path, encoding="utf-8") as file:
            return [line for line in file.read().splitlines() if line and not line.startswith("#")]

    def add(self, line: str) -> None:
        """Add *line* to the list."""
        self._write([*self.lines(), line])

    def remove(self, line: str) -> None:
        """Remove *line* from the list, and the file with its last line."""
        self._write([other for other in self.lines() if other != line])

    def _write(self, lines: list[str]) -> None:
        if lines:
            text = "\n".join([f"# {MARK}, which reads it to uninstall", *lines, ""])
            _replace(self.path, text.encode(), 0o644)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)


class Step:
    """One thing that an install does, and how it is undone."""

    def __str__(self) -> str:
        raise NotImplementedError

    def is_done(self) -> bool:
        """Whether there is nothing to do."""
        raise NotImplementedError

    def problem(self) -> str | None:
        """Why it can't be done: what is wrong, and what to do about it."""
        return None

    def do(self) -> None:
        """Do it."""
        raise NotImplementedError

    def undo(self, *, dry: bool = False) -> str | None:
        """Undo it, if an install did it, and return a description; *dry*: only describe it."""
        raise NotImplementedError


class Link(Step):
    """A symbolic link *path* to *target*."""

    def __init__(self, path: str, target: str, record: Record) -> None:
        self.path, self.target, self.record = path, target, record

    def __str__(self) -> str:
        return f"link {self.path} -> {self.target}"

    def is_done(self) -> bool:
        return os.path.realpath(self.path) == os.path.realpath(self.target)

    def _as_owner(self, work: Callable[[], None]) -> None:
        """Do *work* as the directory's owner, who decides where it leads: the environment may be in somebody's home."""
        directory = os.path.dirname(self.path)
        owner = _owner(directory)
        if owner == "root" or os.geteuid() != 0:
            work()
        elif _entry(owner) is None:
            raise InstallError(
                f"{directory} belongs to {owner}, which is not a user here: remove it, and create it again"
            )
        else:
            _as(person(owner), work)

    def do(self) -> None:
        self._as_owner(lambda: os.symlink(self.target, self.path))
        self.record.add(f"link {self.path}")

    def undo(self, *, dry: bool = False) -> str | None:
        if f"link {self.path}" not in self.record.lines():
            return None
        if not dry:
            if os.path.islink(self.path):
                self._as_owner(lambda: os.unlink(self.path))
            self.record.remove(f"link {self.path}")
        return f"remove {self.path}"


class Group(Step):
    """The group *name*."""

    def __init__(self, name: str, record: Record) -> None:
        self.name, self.record = name, record

    def __str__(self) -> str:
        return f"make the group {self.name}: {shlex.join(self._line())}"

    def _line(self) -> list[str]:
        return ["groupadd", "--system", self.name]

    def is_done(self) -> bool:
        return _group(self.name) is not None

    def do(self) -> None:
        _run(*self._line())
        self.record.add(f"group {self.name}")

    def undo(self, *, dry: bool = False) -> str | None:
        if f"group {self.name}" not in self.record.lines():
            return None
        if not dry:
            # If it has other members by now, they need it.
            found = _group(self.name)
            if found and not found.gr_mem and all(entry.pw_gid != found.gr_gid for entry in pwd.getpwall()):
                _run("groupdel", self.name)
            self.record.remove(f"group {self.name}")
        return f"remove the group {self.name}, if nobody else is in it"


class User(Step):
    """
    The system user *name*, with *home*.

    Once the user is gone, its number may be given to another user; and its files are never given to root, who might run
    them. So the user stays as long as it owns one of the paths *left*.
    """

    def __init__(self, name: str, home: str, left: Iterable[str], record: Record) -> None:
        self.name, self.home, self.left, self.record = name, home, tuple(left), record

    def __str__(self) -> str:
        return f"make the system user {self.name}: {shlex.join(self.line())}"

    def line(self) -> list[str]:
        """The command that creates the user."""
        group = ["--gid", self.name] if _group(self.name) else ["--user-group"]
        words = ["--system", *group, "--no-create-home", "--home-dir", self.home, "--shell", "/usr/sbin/nologin"]
        return ["useradd", *words, "--comment", "counts the flashes of the electricity meter", self.name]

    def is_done(self) -> bool:
        return _entry(self.name) is not None

    def do(self) -> None:
        _run(*self.line())
        self.record.add(f"user {self.name}")

    def undo(self, *, dry: bool = False) -> str | None:
        if f"user {self.name}" not in self.record.lines():
            return None
        entry = _entry(self.name)
        if entry and (own := [p for p in self.left if os.path.lexists(p) and os.lstat(p).st_uid == entry.pw_uid]):
            return f"keep the user {self.name}, who owns {' and '.join(own)}: --uninstall removes it once they are gone"
        if entry and (pids := _processes(entry.pw_uid)):
            return (
                f"keep the user {self.name}, whose process {' '.join(map(str, pids[:9]))} runs: "
                f"sudo pkill -KILL -U {shlex.quote(self.name)}, then --uninstall removes the user"
            )
        if not dry:
            if entry:
                _run("userdel", self.name)
            self.record.remove(f"user {self.name}")
        return f"remove the user {self.name}"


class Member(Step):
    """The membership of the user *name* in *group*; it ends with the user."""

    def __init__(self, name: str, group: str) -> None:
        self.name, self.group = name, group

    def __str__(self) -> str:
        return f"put {self.name} in the group {self.group}: {shlex.join(self._line())}"

    def _line(self) -> list[str]:
        return ["usermod", "--append", "--groups", self.group, self.name]

    def is_done(self) -> bool:
        entry, group = _entry(self.name), _group(self.group)
        return bool(entry and group and group.gr_gid in os.getgrouplist(self.name, entry.pw_gid))

    def do(self) -> None:
        _run(*self._line())

    def undo(self, *, dry: bool = False) -> str | None:  # noqa: ARG002
        return None


class Directory(Step):
    """The directory *path* for the data, which *name* owns with all its contents; an uninstall removes it if empty."""

    def __init__(self, path: str, name: str) -> None:
        self.path, self.name = path, name
        self._was_there = False

    def __str__(self) -> str:
        return f"make the directory {self.path} (mode 750, with what is in it {self.name}'s)"

    def is_done(self) -> bool:
        return os.path.isdir(self.path) and stat.S_IMODE(os.stat(self.path).st_mode) == 0o750 and not self._foreign()

    def _foreign(self) -> list[str]:
        """What the user does not own: data of a service that ran as another user, or was started by hand as root."""
        entry = _entry(self.name)
        return (
            [self.path] if entry is None else [path for path, fd in _tree(self.path) if _is_foreign(fd, entry.pw_uid)]
        )

    def problem(self) -> str | None:
        if os.path.lexists(self.path) and (os.path.islink(self.path) or not os.path.isdir(self.path)):
            return f"{self.path} is in the way and is not a directory: move it away"
        return None

    def do(self) -> None:
        entry = pwd.getpwnam(self.name)
        self._was_there = os.path.isdir(self.path)
        os.makedirs(self.path, exist_ok=True)
        for path, fd in _tree(self.path):
            if path == self.path:
                os.fchmod(fd, 0o750)
            if _is_foreign(fd, entry.pw_uid):
                os.fchown(fd, entry.pw_uid, entry.pw_gid)

    def undo(self, *, dry: bool = False) -> str | None:
        if not os.path.isdir(self.path):
            return None
        if self._was_there:  # an install that failed is being undone
            return f"keep {self.path}: it belongs to {self.name} now"
        try:
            if os.listdir(self.path):
                return f"keep {self.path}: the data"
        except PermissionError:  # in a dry run by another user than root
            return f"keep {self.path} if there is data in it"
        if not dry:
            os.rmdir(self.path)
        return f"remove {self.path}, which is empty"


class Private(Step):
    """
    The settings *path*, for *name* and nobody else. Settings of a third user are not taken over.

    They are run as *name*. So they may belong to *name*, or to root. Root's become a new file, so a process that has
    the old one open can't write to the new one. If others may have moved one of root's files there, it is only used if
    everybody may read it.
    """

    def __init__(self, path: str, name: str) -> None:
        self.path, self.name = path, name

    def __str__(self) -> str:
        return f"give {self.path} to {self.name}, closed to others (mode 600)"

    def is_done(self) -> bool:
        entry, found = _entry(self.name), os.lstat(self.path)
        return entry is not None and found.st_uid == entry.pw_uid and not stat.S_IMODE(found.st_mode) & 0o077

    def problem(self) -> str | None:
        found, entry = os.lstat(self.path), _entry(self.name)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            return f"{self.path} is a link or not a file: put the settings there, or name them in POWER_SETTINGS"
        if entry is not None and found.st_uid == entry.pw_uid:
            return None
        path, owner = shlex.quote(self.path), _name_of(found.st_uid)
        making = User(self.name, Places().state, [], Record("")).line()
        first = "" if entry else f"{shlex.join(making)} && sudo "
        mend = f"sudo {first}chown -h {shlex.quote(self.name)} {path} && sudo chmod 600 {path}"
        if found.st_uid != 0:
            other = "" if entry else f", or --user {shlex.quote(owner)}"
            look = f" (look at it first: it is code that {self.name} will run)"
            return f"{self.path} belongs to {owner}, the service runs as {self.name}: {mend}{other}{look}"
        if not found.st_mode & stat.S_IROTH and (others := _not_roots(os.path.dirname(self.path))) is not None:
            return (
                f"{self.path} belongs to root, but others may change {others}, and may have moved any file of root's "
                f"there: look at it, and if these are the settings: {mend}"
            )
        return None

    @contextlib.contextmanager
    def _opened(self) -> Iterator["Opened"]:
        """The open file, if the user may be given its contents."""
        entry = _entry(self.name)
        with _own_file(self.path) as opened:
            found = os.fstat(opened.fd)
            of_root = found.st_uid == 0 and (opened.only_roots or found.st_mode & stat.S_IROTH)
            if not of_root and (entry is None or found.st_uid != entry.pw_uid):
                raise InstallError(f"{self.path} was changed while this ran: run it again")
            yield opened

    def _content(self, opened: "Opened") -> bytes:
        with open(opened.fd, "rb", closefd=False) as file:
            content = file.read(MAX_SETTINGS + 1)
        if len(content) > MAX_SETTINGS:
            raise InstallError(f"{self.path} is larger than {MAX_SETTINGS:,} bytes: these are not settings")
        return content

    def content(self) -> bytes:
        """The contents, to pass to the user."""
        with self._opened() as opened:
            return self._content(opened)

    def do(self) -> None:
        entry = pwd.getpwnam(self.name)
        with self._opened() as opened:
            if os.fstat(opened.fd).st_uid == entry.pw_uid:
                os.fchmod(opened.fd, 0o600)
                return
            content = self._content(opened)
            new = f".power-{os.getpid()}"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(new, flags, 0o600, dir_fd=opened.directory)
            try:
                with open(fd, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fchown(fd, entry.pw_uid, entry.pw_gid)
                    os.fsync(fd)
                # An undo never gives it back to root: the user may have changed it.
                os.rename(new, opened.name, src_dir_fd=opened.directory, dst_dir_fd=opened.directory)
            except BaseException:
                os.unlink(new, dir_fd=opened.directory)
                raise

    def undo(self, *, dry: bool = False) -> str | None:  # noqa: ARG002
        return None


class File(Step):
    """
    The file *path* with *content*; another file that an install wrote is replaced.

    A file that is *yours* to change is not replaced, and is only removed if it is unchanged.
    """

    def __init__(self, path: str, content: str, mode: int = 0o644, *, yours: bool = False) -> None:
        self.path, self.content, self.mode, self.yours = path, content.encode(), mode, yours
        self._before: bytes | None = None

    def __str__(self) -> str:
        return f"write {self.path} (mode {self.mode:o})"

    def _found(self) -> bytes | None:
        try:
            with open(self.path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def is_ours(self) -> bool:
        """Whether an install wrote what is there."""
        found = self._found()
        return found is not None and MARK.encode() in found and not os.path.islink(self.path)

    def is_done(self) -> bool:
        if not self.is_ours():
            return False
        return self.yours or (self._found() == self.content and os.stat(self.path).st_mode & 0o777 == self.mode)

    def problem(self) -> str | None:
        if os.path.lexists(self.path) and not (os.path.isfile(self.path) and self.is_ours()):
            return f"{self.path} was not written by this installer: look at it, then move it away"
        return None

    def do(self) -> None:
        self._before = self._found()
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        _replace(self.path, self.content, self.mode)

    def undo(self, *, dry: bool = False) -> str | None:
        if not os.path.isfile(self.path):
            return None
        if self._before is not None:  # an install that failed is being undone
            _replace(self.path, self._before, self.mode)
            return f"put back {self.path}"
        if not self.is_ours():
            return f"keep {self.path}: it was not written by this installer"
        if self.yours and self._found() != self.content:
            return f"keep {self.path}: it was changed"
        if not dry:
            os.unlink(self.path)
        return f"remove {self.path}"


class Command(Step):
    """A command, which is not needed if *is_done* says so; *back*, if given, is the command that undoes it."""

    def __init__(self, *line: str, is_done: Callable[[], bool], back: tuple[str, ...] = ()) -> None:
        self.line, self._is_done, self.back = line, is_done, back

    def __str__(self) -> str:
        return f"run {shlex.join(self.line)}"

    def is_done(self) -> bool:
        return self._is_done()

    def do(self) -> None:
        _run(*self.line)

    def undo(self, *, dry: bool = False) -> str | None:
        if not self.back or not self.is_done():
            return None
        if not dry:
            _run(*self.back)
        return f"run {shlex.join(self.back)}"


# --- What the steps are made of


def _replace(path: str, content: bytes, mode: int) -> None:
    """Write *path* completely, or not at all."""
    fd, new = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".power-")
    try:
        with open(fd, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file: *name* in the open *directory*; *only_roots*: nobody but root may change a directory above it."""

    fd: int
    directory: int
    name: str
    only_roots: bool


@contextlib.contextmanager
def _own_file(path: str) -> Iterator[Opened]:
    """
    The file *path*, open.

    The owner of its directory may want root to open a different file: so on the way only root's own links are followed,
    and a file with a second name is refused.
    """
    parts = [name for name in reversed(path.split("/")) if name]
    flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    with contextlib.ExitStack() as stack:

        def opened(name: str, flags: int, above: int | None = None) -> int:
            fd = os.open(name, flags, dir_fd=above)
            stack.callback(os.close, fd)
            return fd

        directory = opened("/", flags)
        only_roots = True
        for _ in range(MAX_DEPTH):
            only_roots = only_roots and _is_roots(os.fstat(directory))
            name = parts.pop()
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if not parts:
                break
            if stat.S_ISLNK(found.st_mode) and found.st_uid == 0:
                target = os.readlink(name, dir_fd=directory)
                parts += [name for name in reversed(target.split("/")) if name]
                directory = opened("/" if target.startswith("/") else ".", flags, directory)
            else:
                directory = opened(name, flags | os.O_NOFOLLOW, directory)
        # Its kind is checked before it is opened: opening a device may have effects.
        if parts or not stat.S_ISREG(found.st_mode):
            raise InstallError(f"{path} is a link or not a file: put the settings themselves there")
        fd = opened(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, directory)
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            raise InstallError(f"{path} is a link or not a file: put the settings themselves there")
        yield Opened(fd, directory, name, only_roots)


def _is_roots(found: os.stat_result) -> bool:
    """Whether only root may change it; an access control list shows in the group's bits."""
    return found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _not_roots(path: str) -> str | None:
    """The highest directory on the way to *path*, including *path*, that users other than root may change."""
    real = os.path.realpath(path)
    for end in [1, *(end for end, letter in enumerate(real) if letter == "/" and end), len(real)]:
        if os.path.lexists(real[:end]) and not _is_roots(os.lstat(real[:end])):
            return real[:end]
    return None


def _run(*line: str) -> None:
    done = _output(line, COMMAND_S)
    if done.returncode:
        reason = _last(done.stderr.strip() or done.stdout)
        raise CommandError(f"{shlex.join(line)} failed with status {done.returncode}: {reason}", done.returncode)


def _output(
    line: Iterable[str], seconds: float, *, given: bytes = b"", who: "Person | None" = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """
    The exit status and the output of the command *line*, which is run as *who*, if given.

    It gets *given* as its input, a session of its own, and at most *seconds*.

    Raises :exc:`InstallError` if it is missing, takes longer or prints more than MAX_OUTPUT bytes.
    """
    line = list(line)
    with tempfile.TemporaryFile() as stdin:
        stdin.write(given)
        stdin.seek(0)
        try:
            process = subprocess.Popen(  # noqa: S603
                line,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                preexec_fn=functools.partial(_become, who) if who else None,  # noqa: PLW1509 - this process has one thread
                **options,
            )
        except subprocess.SubprocessError as error:
            raise InstallError(f"{line[0]} can't be run as {who and who.name}") from error
        except FileNotFoundError as error:
            raise InstallError(f"{line[0]} is missing: install the Debian package that contains it") from error
        with process:
            try:
                stdout, stderr = _read_all([process.stdout.fileno(), process.stderr.fileno()], seconds)  # type: ignore[union-attr]
                return subprocess.CompletedProcess(line, process.wait(seconds), stdout, stderr)
            except (TimeoutError, subprocess.TimeoutExpired):
                raise InstallError(f"{shlex.join(line)} does not end within {seconds:g} s") from None
            except OverflowError:
                raise InstallError(f"{shlex.join(line)} prints without end") from None
            finally:
                # Its session is also its process group; a process that has left it has none of our files open.
                with contextlib.suppress(ProcessLookupError):
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGKILL)


def _read_all(fds: Iterable[int], seconds: float) -> list[bytes]:
    """All that comes from each of *fds*. Raises :exc:`TimeoutError` and :exc:`OverflowError`."""
    read = dict.fromkeys(fds, b"")
    ended: set[int] = set()
    end_s = time.monotonic() + seconds
    while len(ended) < len(read):
        left_s = end_s - time.monotonic()
        ready, _, _ = select.select([fd for fd in read if fd not in ended], [], [], max(left_s, 0))
        if not ready:
            raise TimeoutError
        for fd in ready:
            part = os.read(fd, MAX_OUTPUT)
            read[fd] += part
            if not part:
                ended.add(fd)
            if len(read[fd]) > MAX_OUTPUT:
                raise OverflowError
    return list(read.values())


def _entry(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _group(name: str) -> grp.struct_group | None:
    try:
        return grp.getgrnam(name)
    except KeyError:
        return None


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _tree(path: str, above: int | None = None) -> Iterator[tuple[str, int]]:
    """
    The directory *path*, in the open directory *above*, and the files and directories in it, each with a descriptor.

    Anybody who may write there may swap names at any time, so only what was opened counts. No link is followed, and no
    other file system entered. Raises :exc:`InstallError` for directories that are nested without end.
    """
    if path.count("/") > MAX_DEPTH:
        raise InstallError(f"{path[:200]}... is nested too deeply: remove what nobody needs there")
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fd = os.open(path if above is None else os.path.basename(path), flags | os.O_DIRECTORY, dir_fd=above)
    try:
        yield path, fd
        device = os.fstat(fd).st_dev
        for name in os.listdir(fd):
            there = os.path.join(path, name)
            with contextlib.suppress(FileNotFoundError):  # its owner has just removed it
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISDIR(found.st_mode) and found.st_dev == device:
                    yield from _tree(there, fd)
                elif stat.S_ISREG(found.st_mode):
                    file = os.open(name, flags, dir_fd=fd)
                    try:
                        yield there, file
                    finally:
                        os.close(file)
    finally:
        os.close(fd)


def _is_foreign(fd: int, uid: int) -> bool:
    """Whether *uid* does not own the directory or file *fd*; not files with a second name, which may be in /etc."""
    found = os.fstat(fd)
    one_name = stat.S_ISREG(found.st_mode) and found.st_nlink == 1
    return found.st_uid != uid and (stat.S_ISDIR(found.st_mode) or one_name)


def _remove_tree(path: str) -> None:
    """
    Remove the directory *path* and all its contents, as its owner: swapped names could lead root elsewhere.

    Raises :exc:`InstallError` if somebody fills it again meanwhile.
    """
    found = os.lstat(path)
    owner = Person(_name_of(found.st_uid), found.st_uid, found.st_gid, (found.st_gid,))
    # This leaves the directory itself, because root owns the one above it.
    asked = _output(["rm", "-rf", "--one-file-system", path], COMMAND_S, who=owner if found.st_uid else None, cwd="/")
    if asked.returncode or os.path.lexists(path):
        try:
            os.rmdir(path)
        except OSError as error:
            raise InstallError(f"{path} can't be removed: {error.strerror}: sudo rm -rf {path}") from error


def _processes(uid: int) -> list[int]:
    """The processes of the user *uid*."""
    found = []
    for number in sorted(int(name) for name in os.listdir("/proc") if name.isdecimal()):
        with contextlib.suppress(OSError), open(f"/proc/{number}/status", encoding="utf-8", errors="replace") as file:
            users = next((line.split()[1:] for line in file if line.startswith("Uid:")), [])
            if str(uid) in users:
                found.append(number)
    return found


def _not_mounted(path: str) -> str | None:
    """The mount point above *path*, which has no links, that /etc/fstab names, if nothing is mounted there."""
    points = [point.rstrip("/") for point in _fields(FSTAB, 1) if point.startswith("/") and point != "/"]
    below = max((point for point in points if _is_under(path, point)), key=len, default=None)
    return None if below is None or below in _fields(MOUNTED, 4) else below


def _fields(table: str, index: int) -> list[str]:
    """One field of every line of *table*, with its escapes (getmntent(3)) undone; empty if it can't be read."""
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.split() for line in file if not line.startswith("#")]
    except OSError:
        return []
    return [
        re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), row[index]) for row in rows if len(row) > index
    ]


def _is_under(path: str, directory: str) -> bool:
    return os.path.commonpath([path, directory]) == directory


def _systemd_runs() -> bool:
    return os.path.isdir("/run/systemd/system")  # sd_booted(3)


def running_as(places: Places) -> int | None:
    """The user id of the running service, found by the pidfile's lock, as in the program; None if it is not running."""
    try:
        fd = os.open(os.path.join(places.run, "power.pid"), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        asked = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi", fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
        kind, _, _, _, pid = struct.unpack("hhqqi", asked[: struct.calcsize("hhqqi")])
        if kind == fcntl.F_UNLCK:
            return None
        with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as file:
            return next(int(line.split()[2]) for line in file if line.startswith("Uid:"))
    except (OSError, StopIteration):
        return None
    finally:
        os.close(fd)


# --- The service's user, and what that user may do


def person(name: str) -> Person:
    """The user *name*, as it is or as it will be created."""
    entry, group = _entry(name), _group(GROUP)
    if entry is not None:
        return Person(name, entry.pw_uid, entry.pw_gid, tuple(os.getgrouplist(name, entry.pw_gid)))
    taken = {other.pw_uid for other in pwd.getpwall()} | {other.gr_gid for other in grp.getgrall()}
    free = next(number for number in range(999, 0, -1) if number not in taken)
    return Person(name, free, free, (free, *([group.gr_gid] if group else [])), exists=False)


def owners_of_homes(paths: Iterable[str]) -> list[str]:
    """The people, or root, in whose homes *paths* are."""
    homes = {os.path.realpath(e.pw_dir): e.pw_name for e in pwd.getpwall() if e.pw_uid == 0 or e.pw_uid in PEOPLE}
    return sorted({name for path in paths for home, name in homes.items() if home != "/" and _is_under(path, home)})


def chosen_user(named: str | None, paths: Iterable[str]) -> tuple[str, str | None]:
    """The service's user, which is never root, and a problem with that user, if there is one."""
    if named:
        entry = _entry(named)
        if named == "root" or (entry is not None and entry.pw_uid == 0):
            raise InstallError(f"--user {named}: the service never runs as root: name another user, or none")
        missing = f"--user {named}: there is no such user: sudo adduser {named}"
        return named, None if entry is not None or named == DEFAULT_USER else missing
    owners = owners_of_homes(paths)
    if not owners:
        return DEFAULT_USER, None
    if len(owners) > 1:
        return owners[
            0
        ], f"source and virtual environment are in the homes of {' and '.join(owners)}: choose with --user"
    if owners == ["root"]:
        return DEFAULT_USER, f"{TOP} or its virtual environment is in root's home: move both, for example to /opt/power"
    return owners[0], None


def _become(who: Person) -> None:
    """Give up root's keys, and become *who*."""
    machine = os.uname().machine
    number = KEYCTL.get("arm" if machine.startswith("arm") else machine, (0, 0))[sys.maxsize > 2**32]
    libc = ctypes.CDLL(None, use_errno=True)
    if number and libc.syscall(*map(ctypes.c_long, (number, KEYCTL_JOIN_SESSION_KEYRING, 0))) < 0:
        # If there are no keys, or this process may not ask for any, it has none of root's either.
        failed = ctypes.get_errno()
        if failed not in (errno.ENOSYS, errno.EPERM):
            raise OSError(failed, os.strerror(failed))
    os.setgroups(who.groups)
    os.setresgid(who.gid, who.gid, who.gid)
    os.setresuid(who.uid, who.uid, who.uid)


def _as(who: Person, work: Callable[[], Any]) -> Any:
    """
    What *work* returns in a child process with the ids of *who*; None if this process may not have them.

    This gets the kernel's own answer: the modes do not show access control lists, mounts and parent directories.
    """
    if os.geteuid() not in (0, who.uid):
        return None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            if os.geteuid() == 0:
                _become(who)
            os.write(writing, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    try:
        (answer,) = _read_all([reading], ANSWER_S)
        return json.loads(answer)
    except (TimeoutError, OverflowError, ValueError):
        raise InstallError(f"a process as {who.name} could not be started, or was stopped") from None
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)  # it has not been waited for, so its number has not been reused
        os.waitpid(child, 0)


def _closed(paths: Iterable[tuple[str, int]]) -> list[str]:
    """For each of *paths* that this process can't use (os.R_OK ...), what stops it: a parent, or the path itself."""
    stops = []
    for path, use in paths:
        real = os.path.realpath(path)
        parents = ["/", *(real[:end] for end, letter in enumerate(real) if letter == "/" and end)]
        stop = next((p for p in parents if not os.access(p, os.X_OK)), None)
        if stop is None and not os.access(real, use):
            stop = real
        if stop:
            stops.append(stop)
    return stops


def _closed_in(directory: str) -> list[str]:
    """The first file or directory in *directory* that this process can't read, if any."""
    for where, directories, files in os.walk(directory):
        if "__pycache__" in directories:  # Python does not need it
            directories.remove("__pycache__")
        for path in (os.path.join(where, name) for name in [*directories, *files]):
            if not os.access(path, os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK):
                return [path]
    return []


def _opens_a_chip() -> bool:
    """Whether this process can open one of the GPIO chips."""
    for chip in glob.glob("/dev/gpiochip*"):
        with contextlib.suppress(OSError):
            os.close(os.open(chip, os.O_RDWR | os.O_CLOEXEC))
            return True
    return False


def _python(who: Person, places: Places, *line: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """The virtual environment's Python run as *who*, as the service will."""
    # It must not write __pycache__ either: nothing is changed.
    # fmt: off
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": places.state, "STATE_DIRECTORY": places.state,
           "PYTHONDONTWRITEBYTECODE": "1", "PYTHONNOUSERSITE": "1"}
    # fmt: on
    return _output(line, ANSWER_S, given=given, who=who if os.geteuid() == 0 else None, cwd="/", env=env)


#: Run by the virtual environment's Python as the service's user: prints where the program writes, as the settings say.
#: If that user can't read the settings yet, their text comes on stdin, and becomes a file of the child's own.
READ_SETTINGS = """
import json, os, sys
source, named, given = sys.argv[1:]
sys.path.insert(0, source)
from powermeter import errors
from powermeter.settings import reading
path = named
if given == "given":
    fd = os.memfd_create("settings")
    os.write(fd, sys.stdin.buffer.read())
    path = f"/proc/self/fd/{fd}"
try:
    read = reading.read(path)
except errors.PowerError as error:
    sys.exit(str(error).replace(path, named))
def plain(path):
    return path and "/" + os.path.normpath(path).lstrip("/")
files = [plain(writer.options["path"]) for writer in read.writers if writer.type == "file"]
print(json.dumps({"data_dir": plain(read.data_dir), "log_file": plain(read.log_file), "files": files}))
"""


@dataclass(frozen=True, slots=True)
class Files:
    """What the program writes, as the settings say."""

    data_dir: str
    log_file: str
    directories: tuple[str, ...]


def understood(answer: bytes) -> dict[str, Any]:
    """
    The answer of READ_SETTINGS, whose paths are treated as hostile, because they go into root's files.

    Raises :exc:`InstallError` for anything that is not such an answer, and for paths that those files can't contain.
    """
    try:
        read = json.loads(answer.decode())
        paths = [read["data_dir"], *([] if read["log_file"] is None else [read["log_file"]]), *read["files"]]
        known = isinstance(read["files"], list) and len(paths) <= MAX_PATHS
        known = known and all(isinstance(path, str) and _is_plain(path) for path in paths)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        known = False
    if not known:
        raise InstallError("the program's answer about the settings is not understood: look at the file")
    for path in paths:
        if not path.isprintable() or set(path) & set(NOT_IN_PATHS) or len(path.encode()) >= MAX_PATH:
            raise InstallError(
                f"the settings name {path[:200]!r}: quotation marks, braces, backslashes and control characters can't "
                "be written into the files of the service: choose another path"
            )
    return {name: read[name] for name in ("data_dir", "log_file", "files")}


def _is_plain(path: str) -> bool:
    """Whether *path* is absolute and normal, so that its text shows which directories it is below."""
    return path.startswith("/") and not path.startswith("//") and os.path.normpath(path) == path


# --- The plan


class Plan:
    """What an install would do here: its steps, and the problems that prevent it."""

    def __init__(self, args: argparse.Namespace, places: Places) -> None:
        self.places = places
        self.problems: list[str] = []
        self.notes: list[str] = []
        self.kind = _kind(args)
        self.source = os.path.join(TOP, "src")
        self.venv = os.path.realpath(places.rpienv) if os.path.exists(places.rpienv) else self._venv_here()
        self.python = os.path.join(self.venv, "bin", "python")
        self.links = self._links(make=args.link)
        self.user, hindrance = chosen_user(args.user, [self.venv, self.source])
        self.problems += [hindrance] if hindrance else []
        self.settings = self._settings()
        self.who = person(self.user)
        self._check_before()
        self.files = self._check_user()
        self.steps = self._steps()
        self.problems += [problem for step in self.steps if (problem := step.problem())]

    @staticmethod
    def _venv_here() -> str:
        found = [path for path in ("venv", ".venv") if os.path.exists(os.path.join(TOP, path, "bin", "python"))]
        return os.path.join(TOP, *found[:1] or ["venv"])

    def _links(self, *, make: bool) -> list[Link]:
        """The two links, if they are missing and *make* is set; otherwise a problem for each, with the command."""
        record = Record(self.places.record)
        inner = os.path.join(self.places.rpienv, "rpienv")
        outer_link, inner_link = Link(self.places.rpienv, self.venv, record), Link(inner, self.source, record)
        if not os.path.exists(self.python):
            self.problems.append(
                f"no virtual environment in {self.venv}: python3 -m venv --system-site-packages {self.venv} && "
                f"{self.venv}/bin/pip install -r {TOP}/requirements.txt"
            )
        missing = []
        for link, place in ((outer_link, self.places.rpienv), (inner_link, os.path.join(self.venv, "rpienv"))):
            if os.path.exists(place):
                if os.path.realpath(place) != os.path.realpath(link.target):
                    self.problems.append(
                        f"{link.path} leads to {os.path.realpath(place)}, not to {link.target}: "
                        f"install from there, or remove it: sudo rm {link.path}"
                    )
            elif os.path.lexists(place):
                self.problems.append(f"{link.path} is a link that leads nowhere: sudo rm {link.path}")
            else:
                missing.append(link)
        if not make:
            self.problems += [
                f"{link.path} is missing: sudo ln -s {shlex.quote(link.target)} {link.path} (or --link makes both)"
                for link in missing
            ]
        # Links that an earlier install made are also in the list, because an uninstall uses it.
        made = [link for link in (outer_link, inner_link) if f"link {link.path}" in record.lines()]
        return [link for link in (outer_link, inner_link) if (link in missing and make) or link in made]

    def _settings(self) -> str | None:
        named = _power_settings(self.places.default)
        beside = [os.path.join(TOP, "settings.py"), os.path.join(self.source, "settings.py")]
        if named and not os.path.isabs(named):
            self.problems.append(f"{self.places.default}: POWER_SETTINGS={named}: must be a full path")
            return None
        found = [path for path in ([os.path.normpath(named)] if named else beside) if os.path.lexists(path)]
        if found:
            return found[0]
        wanted = named or beside[0]
        self.problems.append(f"no {wanted}: cp {TOP}/settings.py.example {wanted}, and set your meter in it")
        return None

    def _check_before(self) -> None:
        """Find what an earlier install left that conflicts with this one."""
        if self.kind == "sysv" and File(self.places.unit, "").is_ours():
            self.problems.append(f"{self.places.unit} was installed, but --sysv installs none: --uninstall first")
        running = running_as(self.places)
        if running not in (None, self.who.uid):
            # The new user could not stop it any more, and would take over its data.
            self.problems.append(f"power runs as {_name_of(running or 0)}: sudo service power stop, then try again")

    def _check_user(self) -> Files:
        """Add a problem for everything that the user could not read, run or write; return what it will write."""
        fallback = Files(self.places.state, os.path.join(self.places.state, "power.log"), (self.places.state,))
        if os.geteuid() not in (0, self.who.uid):
            self.notes.append(
                f"what {self.user} may read and write: only root can find that out, with sudo or at the install"
            )
            return fallback
        before = len(self.problems)
        self._check_reading()
        if glob.glob("/dev/gpiochip*") and not _as(self.who, _opens_a_chip):
            self.problems.append(f"{self.user} can't open the GPIO chip: {self._mend_chip()}")
        if len(self.problems) > before or not os.path.exists(self.python):
            return fallback
        return self._check_program() or fallback

    def _check_reading(self) -> None:
        uses = [(self.python, os.X_OK), (self.source, os.R_OK | os.X_OK)] if os.path.exists(self.python) else []
        if self.settings:
            uses.append((os.path.dirname(self.settings), os.X_OK))
        for stop in dict.fromkeys(_as(self.who, lambda: _closed(uses))):
            owner = _owner(stop)
            other = "" if owner in ("root", self.user) else f", or --user {shlex.quote(owner)}"
            self.problems.append(f"{self.user} can't pass {stop}: sudo chmod o+x {shlex.quote(stop)}{other}")
        if not self.problems:
            for stop in _as(self.who, lambda: _closed_in(self.source)):
                self.problems.append(f"{self.user} can't read {stop}: sudo chmod -R o+rX {shlex.quote(self.source)}")

    def _mend_chip(self) -> str:
        chips = sorted(glob.glob("/dev/gpiochip*"))
        group = _group(GROUP)
        theirs = [chip for chip in chips if group and os.stat(chip).st_gid == group.gr_gid]
        if group and theirs and group.gr_gid not in self.who.groups:
            return f"sudo usermod -aG {GROUP} {shlex.quote(self.user)}"
        first = "" if group else f"sudo groupadd --system {GROUP} && "
        if not os.path.isdir("/run/udev"):
            return f"{first}sudo chgrp {GROUP} {' '.join(chips)} && sudo chmod g+rw {' '.join(chips)}, at each boot"
        rule = "/etc/udev/rules.d/60-gpio.rules"
        return (
            f"{first}echo {shlex.quote(UDEV_RULE)} | sudo tee {rule} && "
            "sudo udevadm control --reload && sudo udevadm trigger --settle --subsystem-match=gpio"
        )

    def _check_program(self) -> Files | None:
        """Ask the program itself whether it runs, and where the settings make it write."""
        program = os.path.join(self.source, "power.py")
        asked = _python(self.who, self.places, self.python, program, "--pidfile", "/nonexistent", "--status")
        if asked.returncode != 3:  # LSB: not running
            self.problems.append(f"{program} does not run as {self.user}: {_last(asked.stderr)}")
            return None
        if self.settings is None:
            return None
        try:
            given = self._given(self.settings)
        except InstallError as error:
            self.problems += str(error).splitlines()
            return None
        words = (self.source, self.settings, "" if given is None else "given")
        asked = _python(self.who, self.places, self.python, "-c", READ_SETTINGS, *words, given=given or b"")
        if asked.returncode:
            printed = asked.stderr.decode(errors="replace").strip()
            # A bug's traceback is not a list of mistakes.
            self.problems += [f"{program}: {_last(asked.stderr)}"] if "Traceback" in printed else printed.splitlines()
            return None
        try:
            return self._check_writing(understood(asked.stdout))
        except InstallError as error:
            self.problems.append(f"{self.settings}: {error}")
            return None

    def _given(self, settings: str) -> bytes | None:
        """The content of *settings*, if the user can't read them yet. Raises :exc:`InstallError` as the step does."""
        if not _as(self.who, lambda: _closed([(settings, os.R_OK)])):
            return None
        private = Private(settings, self.user)
        if private.problem():  # reported with those of the steps
            raise InstallError
        return private.content()

    def _check_writing(self, read: dict[str, Any]) -> Files:
        log_file = read["log_file"]
        # A socket: syslog has its own rotation.
        if log_file is None or (os.path.exists(log_file) and stat.S_ISSOCK(os.stat(log_file).st_mode)):
            log_file = os.path.join(read["data_dir"], "power.log")
        wanted = [read["data_dir"], *(os.path.dirname(path) for path in [log_file, *read["files"]])]
        directories = [path for path in dict.fromkeys(wanted) if not _is_under(path, self.places.state)]
        for path in directories:
            if away := _not_mounted(os.path.realpath(path)):
                self.notes.append(f"{path}, as its disk is not mounted at {away}")
                continue
            # The program creates DATA_DIR itself, if it may.
            parent = path
            while path == read["data_dir"] and not os.path.exists(parent):
                parent = os.path.dirname(parent)
            if _as(self.who, functools.partial(_closed, [(parent, os.W_OK | os.X_OK)])):
                make = f"sudo install -d -m 750 -o {shlex.quote(self.user)} {shlex.quote(path)}"
                self.problems.append(
                    f"{self.user} can't write {path}, which {self.settings} names: "
                    f"{make if _may_be_made(path) else 'choose another place in it'}"
                )
        return Files(read["data_dir"], log_file, tuple(directories))

    def _steps(self) -> list[Step]:
        places, record = self.places, Record(self.places.record)
        left = [places.state, *([self.settings] if self.settings else [])]
        steps: list[Step] = [*self.links]
        # Other users exist already, and it is not for us to change their groups.
        if self.user == DEFAULT_USER:
            steps += [Group(GROUP, record), User(self.user, places.state, left, record), Member(self.user, GROUP)]
        steps.append(File(places.default, self._render("power.default"), yours=True))
        steps.append(File(places.logrotate, self._render("power.logrotate")))
        steps.append(File(places.command, self._render("power.command"), 0o755))
        script = File(places.init_script, self._render("power.init"), 0o755)
        steps += [script, _rc_links()] if self.kind == "sysv" or shutil.which("update-rc.d") else [script]
        if self.kind == "systemd":
            unit = File(places.unit, self._render("power.service"))
            steps += [unit, _reload_systemd(unit), _enable(places)]
        # These come last: what was given to the user could not be taken back if a later step failed.
        steps.append(Directory(places.state, self.user))
        if self.settings:
            steps.append(Private(self.settings, self.user))
        return steps

    def _render(self, name: str) -> str:
        return rendered(
            name,
            self.places,
            user=self.user,
            files=self.files,
            reads=[self.venv, self.python, self.source, self.settings],
        )


def _may_be_made(path: str) -> bool:
    """Whether root may create *path* for another user: it is new, in no system directory, and only below root's."""
    return not (os.path.lexists(path) or SYSTEM.match(path) or SYSTEM.match(os.path.realpath(path)) or _not_roots(path))


def _owner(path: str) -> str:
    return _name_of(os.stat(path).st_uid)


def _last(output: bytes) -> str:
    return (output.decode(errors="replace").strip() or "it printed nothing").splitlines()[-1].removeprefix("power: ")


def _kind(args: argparse.Namespace) -> str:
    """Which kind of init: ``sysv`` or ``systemd``."""
    if args.kind:
        return str(args.kind)
    if _systemd_runs():
        return "systemd"
    with contextlib.suppress(OSError), open("/proc/1/comm", encoding="utf-8") as file:
        if file.read().strip() == "init" and os.path.exists("/etc/inittab"):
            return "sysv"
    raise InstallError("this machine's init is neither systemd nor sysvinit: choose with --systemd or --sysv")


def _power_settings(path: str) -> str | None:
    """The value of POWER_SETTINGS in /etc/default/power."""
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        for word in shlex.split(file.read(), comments=True):
            name, _, value = word.partition("=")
            if name == "POWER_SETTINGS" and value:
                return value
    return None


def rendered(name: str, places: Places, *, user: str, files: Files, reads: Iterable[str | None] = ()) -> str:
    """The template *name* of init/ with its words filled in; *reads* are paths that the service reads."""
    entry = _entry(user)
    # Links are resolved: a virtual environment's interpreter is a link.
    read = [os.path.realpath(path) for path in reads if path]
    closed = ("/home", "/root", "/run/user")  # by ProtectHome=yes
    homes = any(_is_under(path, home) for path in [*read, *files.directories] for home in closed)
    # Other files that are written may be on a disk that is not mounted yet: counting does not need them.
    mounts = [places.state, files.data_dir, *(os.path.dirname(path) for path in read)]
    words = {
        "MARK": MARK,
        "TOP": urllib.parse.quote(TOP).replace("%", "%%"),
        "USER": _plain(user, entry and entry.pw_uid),
        "GROUP": _plain(grp.getgrgid(entry.pw_gid).gr_name, entry.pw_gid) if entry else user,
        "SHELL_USER": shlex.quote(user),
        "QUOTED_USER": json.dumps(user, ensure_ascii=False)[1:-1],
        "RPIENV": places.rpienv,
        "DEFAULT": places.default,
        "COMMAND": places.command,
        "UNIT": places.unit,
        "STATE": places.state,
        "RUN": places.run,
        "LOG": PATTERN.sub(r"\\\g<0>", files.log_file),
        "WRITABLE": _unit_paths((path for path in files.directories if path != places.state), mark="-"),
        "MOUNTS": _unit_paths(mounts),
        "PROTECT_HOME": "read-only" if homes else "yes",
    }
    with open(os.path.join(TOP, "init", name), encoding="utf-8") as file:
        text = file.read()
    for value in words.values():
        # A path may come from another user, who could use it to add lines to a file that root obeys.
        if not value.isprintable():
            raise InstallError(f"{value[:200]!r} has control characters, and can't be written into a file: rename it")
    return re.sub("@([A-Z_]+)@", lambda word: words[word[1]], text)


def _plain(name: str, number: int | None) -> str:
    """*name*, or its *number* if logrotate or systemd may not read the name as one word, as with names of a domain."""
    return name if number is None or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name) else str(number)


def _unit_paths(paths: Iterable[str], mark: str = "") -> str:
    """*paths* as a list for a unit, with *mark* before each."""
    words = (mark + path for path in dict.fromkeys(paths))
    quoted = (word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") for word in words)
    return " ".join(f'"{path}"' if set(path) & set(' "\\') else path for path in quoted)


def _rc_links() -> Command:
    def there() -> bool:
        return bool(glob.glob("/etc/rc[0-6S].d/[SK][0-9][0-9]power"))

    return Command("update-rc.d", "power", "defaults", is_done=there, back=("update-rc.d", "-f", "power", "remove"))


def _reload_systemd(unit: File) -> Command:
    return Command("systemctl", "daemon-reload", is_done=lambda: unit.is_done() or not _systemd_runs())


def _enable(places: Places) -> Command:
    wanted = os.path.join(os.path.dirname(places.unit), "multi-user.target.wants", os.path.basename(places.unit))
    line = ("systemctl", "--quiet", "enable", "power.service")
    back = ("systemctl", "--quiet", "disable", "power.service")
    return Command(*line, is_done=lambda: os.path.lexists(wanted), back=back)


# --- The commands


def install(args: argparse.Namespace, places: Places) -> None:
    """Do what is not done already: either all of it, or nothing."""
    _need_root(places)
    plan = Plan(args, places)
    for tool in ("update-rc.d",) if plan.kind == "sysv" else ("systemctl",):
        if not shutil.which(tool):
            plan.problems.append(f"{tool} is missing: without it this machine can't start an init script or unit")
    if plan.problems:
        raise InstallError("\n".join(plan.problems))
    for note in plan.notes:
        say(f"not checked: {note}")
    done: list[Step] = []
    # Determined before the first step: a daemon-reload is needed if the unit was a different one.
    due = [step for step in plan.steps if not step.is_done()]
    try:
        for step in plan.steps:
            text = str(step)
            if step in due:
                done.append(step)
                step.do()
            say(f"{'done' if step in due else 'already done'}: {text}")
    except (InstallError, OSError) as error:
        kept = _take_back(done)
        rest = "; ".join(["everything else is as it was before", *kept]) if kept else "everything is as it was before"
        raise InstallError(f"{error}; {rest}") from error
    verb = "start" if running_as(places) is None else "restart"
    say(f"power runs as {plan.user}, from the next boot on; at once: sudo service power {verb}")


def _take_back(done: list[Step]) -> list[str]:
    """Undo the steps *done*; return descriptions of what stays as it is now."""
    kept = []
    for step in reversed(done):
        # A step that can't be undone must not hide the original reason.
        with contextlib.suppress(InstallError, OSError):
            line = step.undo()
            kept += [line] if line and line.startswith("keep") else []
    # systemd may have read a unit that has now been removed.
    if any(isinstance(step, Command) and "daemon-reload" in step.line for step in done):
        with contextlib.suppress(InstallError, OSError):
            _run("systemctl", "daemon-reload")
    return kept


def dry_run(args: argparse.Namespace, places: Places) -> None:
    """Print what an install would do."""
    plan = Plan(args, places)
    for problem in plan.problems:
        say(f"to be fixed first: {problem}")
    for note in plan.notes:
        say(f"not checked: {note}")
    for step in plan.steps:
        with contextlib.suppress(OSError):
            say(f"{'already done' if step.is_done() else 'would'}: {step}")
            continue
        say(f"would, unless already done: {step}")


def uninstall(places: Places, *, dry: bool) -> None:
    """Undo what an install of either kind did; data and settings stay."""
    if not dry:
        _need_root(places)
    record = Record(places.record)
    beside = [os.path.join(TOP, "settings.py"), os.path.join(TOP, "src", "settings.py")]
    settings = [path for path in [_power_settings(places.default), *beside] if path]
    default = rendered("power.default", places, user=DEFAULT_USER, files=Files(places.state, "", ()))
    unit = File(places.unit, "")
    steps: list[Step] = [
        *(Link(line.removeprefix("link "), "", record) for line in record.lines() if line.startswith("link ")),
        Group(GROUP, record),
        User(DEFAULT_USER, places.state, [places.state, *settings], record),
        Directory(places.state, ""),
        File(places.default, default, yours=True),
        File(places.logrotate, ""),
        File(places.command, ""),
        File(places.init_script, ""),
        _rc_links(),
        unit,
        _enable(places),
    ]
    had_unit = os.path.exists(places.unit)
    works: list[Callable[[], str | None]] = [
        functools.partial(_stop, places, dry=dry),
        functools.partial(_remove_run, places, dry=dry),
        *(functools.partial(step.undo, dry=dry) for step in reversed(steps)),
    ]
    done: list[str] = []
    failed: list[str] = []
    for work in works:
        # If one thing can't be undone, the rest is undone all the same.
        try:
            done += [line] if (line := work()) else []
        except (InstallError, OSError) as error:
            failed.append(str(error))
    if had_unit and _systemd_runs() and not dry:
        _run("systemctl", "daemon-reload")
    for line in done:
        say(f"{'would' if dry else 'done'}: {line}")
    if failed:
        raise InstallError("\n".join([*failed, "everything else was removed: fix this, then run --uninstall again"]))
    if all(line.startswith("keep") for line in done):
        say("nothing is installed")


def _remove_run(places: Places, *, dry: bool) -> str | None:
    """Remove the directory with pidfile and socket, as the service's user."""
    if not os.path.isdir(places.run):
        return None
    if not dry:
        _remove_tree(places.run)
    return f"remove {places.run}"


def _stop(places: Places, *, dry: bool) -> str | None:
    """Stop the service, before anything is removed; return a description."""
    if os.path.exists(places.unit) and _systemd_runs():
        line = ["systemctl", "stop", "power.service"]
    elif File(places.init_script, "").is_ours():
        line = [places.init_script, "stop"]
    else:
        return None
    try:
        if not dry:
            _run(*line)
    except CommandError as error:
        if error.status != NOT_INSTALLED:  # a program that is gone can't stop anything
            raise
    return f"run {shlex.join(line)}"


def _need_root(places: Places) -> None:
    if os.geteuid() != 0:
        raise InstallError(f"only root may change {os.path.dirname(places.init_script)}: sudo, or try --dry-run")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Install power as a service that starts with the machine.", allow_abbrev=False
    )
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--sysv", dest="kind", action="store_const", const="sysv", help="install only an init script")
    kind.add_argument(
        "--systemd", dest="kind", action="store_const", const="systemd", help="install a unit and an init script"
    )
    parser.add_argument(
        "--user", metavar="NAME", help="the service's user; default: power, or the owner of the home that it is in"
    )
    parser.add_argument("--link", action="store_true", help="also make the links in /usr/local")
    parser.add_argument("--dry-run", action="store_true", help="print each step and change nothing")
    parser.add_argument("--uninstall", action="store_true", help="remove everything but data and settings")
    return parser


def main(argv: list[str] | None = None, places: Places | None = None) -> int:
    """Do what *argv* says and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a letter that the terminal lacks must not end it half-way
            stream.reconfigure(errors="replace")
    args = parser().parse_args(argv)
    places = places or Places()
    os.umask(0o022)  # nobody else may change what is made for the system
    try:
        if args.uninstall:
            uninstall(places, dry=args.dry_run)
        elif args.dry_run:
            dry_run(args, places)
        else:
            install(args, places)
    except (InstallError, OSError) as error:
        for line in str(error).splitlines()[:MAX_LINES]:
            say(f"install_init_script: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
