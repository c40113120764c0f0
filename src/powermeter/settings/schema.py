"""
What a setting may be: a key with its default, and the kinds of check that say what is allowed.

A check returns the value to use, or raises ValueError with what is allowed, in
words that fit behind "allowed:". The network is never asked.
"""

import contextlib
import errno
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from powermeter.errors import UnsafePathError
from powermeter.safe_path import read_code

Check = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the schema. A *secret* value is not shown in a mistake, and becomes a :class:`Secret`."""

    default: Any
    check: Check
    secret: bool = False


#: Stands for "no default": the key must be given.
REQUIRED = object()


def number(low: float, high: float) -> Check:
    """An int or float from *low* to *high*."""

    def check(found: Any) -> float:
        # bool is an int, and NaN passes every comparison that is turned round.
        if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= high:
            raise ValueError(f"a number from {low:,} to {high:,}")
        return found

    return check


def whole(low: int, high: int) -> Check:
    """An int from *low* to *high*."""

    def check(found: Any) -> int:
        if isinstance(found, bool) or not isinstance(found, int) or not low <= found <= high:
            raise ValueError(f"a whole number from {low:,} to {high:,}")
        return found

    return check


def choice(*allowed: str) -> Check:
    """One of some words."""

    def check(found: Any) -> str:
        if not isinstance(found, str) or found not in allowed:
            raise ValueError(" or ".join(f'"{word}"' for word in allowed))
        return str(found)

    return check


def flag(found: Any) -> bool:
    """True or False."""
    if not isinstance(found, bool):
        raise ValueError("True or False")
    return found


#: Half a character of UTF-16: Python's text may hold one, no file's name and no request can.
_HALF = re.compile("[\ud800-\udfff]")


def text(pattern: str, allowed: str) -> Check:
    """Text that matches *pattern* as a whole; *allowed* says so in words."""
    compiled = re.compile(pattern)

    def check(found: Any) -> str:
        if not isinstance(found, str) or not compiled.fullmatch(found) or _HALF.search(found):
            raise ValueError(allowed)
        return found

    return check


def optional(check: Check) -> Check:
    """None, or what *check* allows."""

    def check_optional(found: Any) -> Any:
        if found is None:
            return None
        try:
            return check(found)
        except ValueError as error:
            raise ValueError(f"{error}, or None") from None

    return check_optional


def tags(
    key_pattern: str, value_pattern: str, allowed: str, *, lower: bool = False, taken: Iterable[str] = ("meter", "time")
) -> Check:
    """A dict of text to text; the name ``meter`` is the program's own, what else is *taken* a service's."""

    def check(found: Any) -> dict[str, str]:
        if isinstance(found, dict) and (wrong := [name for name in taken if name in map(_lower, found)]):
            raise ValueError(f'{allowed} ("{wrong[0]}" has a meaning of its own)')
        if (
            not isinstance(found, dict)
            or len(found) > MOST_TAGS
            or not all(isinstance(part, str) for item in found.items() for part in item)
            or not all(re.fullmatch(key_pattern, key) for key in found)
            or not all(re.fullmatch(value_pattern, value) for value in found.values())
            or any(_HALF.search(part) for item in found.items() for part in item)
        ):
            raise ValueError(allowed)
        return {k.lower(): v.lower() for k, v in found.items()} if lower else dict(found)

    return check


def _lower(found: Any) -> Any:
    return found.lower() if isinstance(found, str) else found


def verify_ssl(found: Any) -> bool | str:
    """
    True, False, or a file of CA certificates; by no relative path, as a daemon leaves its caller's directory.

    A file that is not there may be on a disk that is not mounted yet: the writer waits for it.
    """
    if isinstance(found, bool):
        return found
    allowed = "True, False or the absolute path of a file of CA certificates (PEM)"
    path = os.path.expanduser(found) if isinstance(found, str) else ""
    if not os.path.isabs(path):
        raise ValueError(allowed)
    try:
        import ssl

        with contextlib.suppress(FileNotFoundError):
            ssl.create_default_context(cadata=certificates(path))
    except UnsafePathError as error:
        raise ValueError(f"{allowed} that nobody else may write: {error}") from None
    except (OSError, ValueError):
        raise ValueError(allowed) from None
    return path


def certificates(path: str) -> str:
    """
    The CA certificates (PEM) in the file *path*, which is judged as code is: it says whom a password may be sent to.

    Raises :exc:`OSError`, also where there are none.
    """
    text = read_code(path, MAX_CERTIFICATES).decode("ascii", "ignore")  # what is not ASCII is a comment
    if "-----BEGIN" not in text:
        raise OSError(errno.EINVAL, "there is none in it")
    return text


#: The most that is read of a file of CA certificates, in bytes: Debian's own bundle has 230,000.
MAX_CERTIFICATES = 5_000_000

#: Of a path: Linux takes up to 4,095 bytes (PATH_MAX), and each is said on one line.
_PATH = r"[^\x00-\x1f\x7f]{1,4095}"


def in_home(path: str) -> str:
    """*path* with its ~ replaced by the home that it stands for."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError("a path without ~, as no such home is known")
    return expanded


def absolute_path(found: Any) -> str:
    """A path that does not depend on where the program was started."""
    allowed = "a path that begins with / or ~"
    path = in_home(text(_PATH, allowed)(found))
    if not os.path.isabs(path):
        raise ValueError(allowed)
    return os.path.normpath(path)


def file_path(found: Any) -> str:
    """The path of a file, as the user has it: where it begins is known later."""
    path: str = text(_PATH + r"(?<!/)", "the path of a file")(found)
    in_home(path)
    return path


#: Librato's limit of tags a measurement is 50, and ``meter`` is one of them.
MOST_TAGS = 49

visible_ascii = text(r"[!-~]+", "text of visible ASCII characters, not empty")
words = text(r"[^\x00-\x1f\x7f]+", "text on one line, not empty")

_NAME_OR_IPV4 = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,126}\.?"
# The zone is the name of an interface, which a link-local address needs (RFC 4007, 11).
_IPV6 = r"(?=[^:]*:)[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9_.~-]{1,15})?"
_HOST = text(rf"{_NAME_OR_IPV4}|{_IPV6}|\[{_IPV6}\]", 'a host name or address alone, such as "192.168.1.5"')
host_and_port = text(
    _NAME_OR_IPV4 + r"(:([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5]))?",
    'a host name or address, with or without a port: "10.0.0.5:8080"',
)


def host(found: Any) -> str:
    """A host name or address; an IPv6 one may stand in brackets, as in a URL."""
    return str(_HOST(found)).strip("[]")


def pin_number(found: Any) -> int:
    """A pin of the header, or a line of another board's chip; which of them there are is known later."""
    if isinstance(found, int) and 40 < found <= MOST_LINES:
        return found
    return int(whole(0, 40)(found))


def url_prefix(found: Any) -> str:
    """What stands before a path in a URL: "" or, without its last slash, one that begins with a slash."""
    path = text(r"|(/[A-Za-z0-9_.~!$&'()*+,;=:@%-]*)+", 'text that begins with /, such as "/influx", or ""')(found)
    return str(path).rstrip("/")


#: No chip has more lines: 54 on a Pi, some hundred on other boards.
MOST_LINES = 1023
