"""
The disks that paths are on: what is mounted, and what should be.

A directory whose disk is not mounted looks like any other; what is written
there is hidden once the disk is there.
"""

import os
import re

#: What is to be mounted where, fstab(5), and what is, proc_pid_mountinfo(5).
FSTAB = "/etc/fstab"
MOUNTED = "/proc/self/mountinfo"


def not_mounted(path: str) -> str | None:
    """
    The mount point that *path* is below, where /etc/fstab names one and nothing is mounted there; None without one.

    *path* is absolute and without links.
    """
    points = [point for point in _fields(FSTAB, 1) if point.startswith("/") and point != "/"]
    below = max((point.rstrip("/") for point in points if _is_below(path, point.rstrip("/"))), key=len, default=None)
    return None if below is None or below in _fields(MOUNTED, 4) else below


def mount_of(path: str) -> str:
    """The highest directory above *path*, which need not exist, that is on the same disk: "/", or a mount point."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    device = os.stat(path).st_dev
    while path != "/" and os.stat(os.path.dirname(path)).st_dev == device:
        path = os.path.dirname(path)
    return path


def has_gone(point: str) -> bool:
    """Whether the mount point *point* is missing or an empty directory, as it is while its disk is away."""
    try:
        with os.scandir(point) as entries:
            return next(entries, None) is None
    except FileNotFoundError:
        return True


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory + "/")


def _fields(table: str, index: int) -> list[str]:
    """A field of every line of *table*, with its escapes (getmntent(3)) undone; none where it can't be read."""
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as file:
            rows = [line.split() for line in file if line.strip() and not line.startswith("#")]
    except OSError:
        return []
    return [_unescaped(row[index]) for row in rows if len(row) > index]


def _unescaped(text: str) -> str:
    r"""
    *text* as it was before getmntent(3) escaped it.

    >>> _unescaped(r"/mnt/a\040disk")
    '/mnt/a disk'
    """
    found = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
    return os.fsdecode(found.encode("latin-1", "surrogateescape")) if found != text and found.isascii() else found
