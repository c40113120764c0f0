"""
The disks that paths are on: which are mounted, and which should be.

A directory whose disk is not mounted looks like any other, but what is written
there is hidden once the disk is mounted.
"""

import os
import re

#: What should be mounted where, fstab(5), and what is mounted, proc_pid_mountinfo(5).
FSTAB = "/etc/fstab"
MOUNTED = "/proc/self/mountinfo"

#: File systems that are empty after a reboot.
IN_MEMORY = ("tmpfs", "ramfs")


def not_mounted(path: str) -> str | None:
    """
    The mount point above *path* that /etc/fstab names, if nothing is mounted there; None otherwise.

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


def file_system(path: str) -> str:
    """The type of the file system that *path*, absolute and without links, is on; "" if that is not known."""
    return _mounted(path)[0]


def volatile(path: str) -> str | None:
    """
    The type of the file system that *path* is on, if everything in it is lost at a reboot; otherwise None.

    That includes an overlay whose changes are kept in memory, like that of raspi-config, or in an unknown place: in a
    container they last only as long as the container.
    """
    kind, options = _mounted(os.path.realpath(path))
    if kind == "overlay":
        upper = next((_unescaped(o.removeprefix("upperdir=")) for o in options if o.startswith("upperdir=")), "")
        return None if os.path.isdir(upper) and volatile(upper) is None else kind
    return kind if kind in IN_MEMORY else None


def _mounted(path: str) -> tuple[str, list[str]]:
    """The type and the options of the file system that *path* is on, by the longest mount point above it."""
    best, found = "", ("", [""])
    for row in _rows(MOUNTED):
        point, of_disk = _unescaped(row[4]), row[row.index("-") + 1 :]
        # Of two mounts at the same place, the later one hides the other.
        if _is_below(path, point.rstrip("/")) and len(point) >= len(best):
            best, found = point, (of_disk[0], of_disk[2].split(","))
    return found


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
    """One field of every line of *table*, with its escapes (getmntent(3)) undone; empty if it can't be read."""
    return [_unescaped(row[index]) for row in _rows(table) if len(row) > index]


def _rows(table: str) -> list[list[str]]:
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as file:
            return [line.split() for line in file if line.strip() and not line.startswith("#")]
    except OSError:
        return []


def _unescaped(text: str) -> str:
    r"""
    *text* as it was before getmntent(3) escaped it.

    >>> _unescaped(r"/mnt/a\040disk")
    '/mnt/a disk'
    """
    found = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
    return os.fsdecode(found.encode("latin-1", "surrogateescape")) if found != text and found.isascii() else found
