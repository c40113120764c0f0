"""
Who runs: the process that holds the record lock on a pidfile.

The kernel tells its process id, and lets go of the lock when it ends, however
it ends. Light to import: all that acts on the running one needs it.
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

#: struct flock as Python's fcntl passes it, with 64-bit offsets on 32-bit machines too:
#: l_type, l_whence, l_start, l_len, l_pid.
FLOCK = "hhqqi"

#: The process id that the kernel names for a lock that belongs to an open file, not to a process (F_OFD_SETLK).
NO_PROCESS = -1


def holder(path: str) -> int | None:
    """
    The process id that holds the lock of the pidfile *path*; None if there is none.

    Not to be called by the holder: closing the file would drop its lock.
    Raises :exc:`ForbiddenError` where the file can't be read.
    """
    found = held(path)
    return None if found is None else found[0]


def held(path: str) -> tuple[int, int] | None:
    """The process that holds the pidfile *path*, and the file's owner; None where nobody holds it."""
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
        raise ProcessError(
            f"{path}: another program holds a lock on it, no power: see who has it open: fuser -v {path}"
        )
    return None if pid is None else (pid, owner)


def holder_of(fd: int) -> int | None:
    """The process that holds the lock of the open file *fd*, :data:`NO_PROCESS` for none that has a number."""
    # As for reading: a reader's lock, which anybody who may read the file can hold, is not the running one's.
    asked = struct.pack(FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, asked)[: struct.calcsize(FLOCK)])
    return None if kind == fcntl.F_UNLCK else pid
