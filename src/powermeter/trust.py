"""
Whose links and files are followed on the way to one that the program writes.

In /tmp, and wherever else all may write, anybody can lay a link under the name
of a file that is to come. Root's program would write where it points.
"""

import errno
import os
import stat

#: As many links as Linux follows in a path (path_resolution(7)).
MOST_LINKS = 40


def trusted(path: str) -> str:
    """
    *path* without its links; what is not there yet is taken as it stands.

    Raises :exc:`PermissionError` for a link that is neither the program's
    user's nor root's. And, where all may write, for a file or directory that
    is not theirs either, nor the directory's owner's, as all is on a stick
    that is mounted for everyone, or that has a second name elsewhere.
    """
    # In a container root may be seen as another: who owns / is root.
    ours = {0, os.geteuid(), os.stat("/").st_uid}
    place, parts, links = "/", _parts(path), 0
    while parts:
        name = parts.pop()
        if name == "..":
            place = os.path.dirname(place)
            continue
        there = os.path.join(place, name)
        if there == "/proc":  # its links lead where the kernel says, not where they point
            return os.path.join(there, *reversed(parts))
        directory = os.stat(place)
        try:
            found = os.lstat(there)
        except FileNotFoundError:
            return os.path.join(there, *reversed(parts))
        is_link = stat.S_ISLNK(found.st_mode)
        open_to_all = directory.st_mode & stat.S_IWOTH
        owners = ours | {directory.st_uid} if open_to_all and not is_link else ours
        if (is_link or open_to_all) and found.st_uid not in owners:
            raise PermissionError(errno.EPERM, f"{there} is another user's, and is not followed")
        if open_to_all and stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            raise PermissionError(errno.EPERM, f"{there} is a file of another name too, and is not written")
        if not is_link:
            place = there
            continue
        links += 1
        if links > MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = os.readlink(there)
        place = "/" if target.startswith("/") else place
        parts += _parts(target)
    return place


def _parts(path: str) -> list[str]:
    """The names in *path*, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]
