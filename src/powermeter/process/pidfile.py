"""The pidfile, which is locked while its process lives. The number in it is only for people."""

import contextlib
import errno
import fcntl
import os
import stat
import sys

import lockfile
from lockfile.pidlockfile import PIDLockFile

from powermeter.errors import (
    AlreadyRunningError,
    ProcessError,
    why,
)
from powermeter.process.holder import NO_PROCESS, holder, holder_of
from powermeter.safe_path import open_file


class PidFile(PIDLockFile):  # type: ignore[misc]
    """
    A pidfile that is locked while its process lives.

    python-daemon enters it after detaching: a record lock does not survive a
    fork. The library itself goes by the file's existence, so a stale file would
    keep the program from ever starting again.
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
                    f"{self.path}: can't be written: {why(error)}: name another with --pidfile"
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
            raise ProcessError(f"{self.path}: can't be written: {why(error)}") from error

    def _locked(self, fd: int) -> bool:
        """Lock the file; return whether that succeeded and the path still leads to this file."""
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise ProcessError(f"{self.path}: is not a file: name another with --pidfile")
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = holder_of(fd)
            if error.errno not in (errno.EACCES, errno.EAGAIN) or pid == NO_PROCESS:
                os.close(fd)
                reason = "another program holds a lock on it" if pid == NO_PROCESS else error.strerror
                raise ProcessError(f"{self.path}: can't be locked: {reason}") from error
            if pid is not None:
                os.close(fd)
                raise AlreadyRunningError(pid) from error
            # Only readers hold locks on it, after a crash or a stop just now: a new file replaces it.
            self._remove(fd)
            return False
        # Between the two calls the previous holder may have ended and removed it.
        try:
            return os.path.samestat(os.fstat(fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _remove(self, fd: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            # It may have been removed, and replaced by another process's file.
            if os.path.samestat(os.fstat(fd), os.lstat(self.path)):
                os.unlink(self.path)

    def release(self) -> None:
        """Remove the file, then release its lock; may be called twice."""
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
