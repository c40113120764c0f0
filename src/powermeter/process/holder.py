"""
Finds the running program: the process that holds the record lock on a pidfile.

The kernel tells its process id, and releases the lock when it ends, however it
ends. Light to import, as every command for the running program needs it.
"""

import fcntl
import os
import struct

from powermeter.errors import (
    ForbiddenError,
    ProcessError,
    UnsafePathError,
)
from powermeter.safe_path import open_to_ask

#: struct flock as Python's fcntl passes it, with 64-bit offsets even on 32-bit machines:
#: l_type, l_whence, l_start, l_len, l_pid.
FLOCK = "hhqqi"

#: The process id that the kernel gives for a lock that belongs to an open file, not to a process (F_OFD_SETLK).
NO_PROCESS = -1


def holder(path: str) -> int | None:
    """
    The process id that holds the lock of the pidfile *path*; None if there is none.

    The holder must not call this: closing the file would drop its lock.
    Raises :exc:`ForbiddenError` if the file can't be read.
    """
    found = held(path)
    return None if found is None else found[0]


def held(path: str) -> tuple[int, int] | None:
    """The process that holds the lock of the pidfile *path*, and the file's owner; None if no process holds it."""
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
        pid = holder_of(fd)
    finally:
        os.close(fd)
    if pid == NO_PROCESS:
        raise ProcessError(f"{path}: another program, not power, holds a lock on it: see which one: fuser -v {path}")
    return None if pid is None else (pid, owner)


def holder_of(fd: int) -> int | None:
    """The process that holds the lock of the open file *fd*; :data:`NO_PROCESS` if the lock belongs to none."""
    # Asked for a read lock, which only a write lock blocks: anybody who may read the file can hold a read lock.
    asked = struct.pack(FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked)[: struct.calcsize(FLOCK)])
    return None if kind == fcntl.F_UNLCK else pid
