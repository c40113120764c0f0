"""
What a setting may be: a key with its default, and the kinds of check that say what is allowed.

Also what a check of several keys of a writer yields: :class:`Mistake` and
:class:`Remark`.

A check returns the value to use, or raises ValueError with what is allowed, in
words that fit after "allowed:". The network is never used.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from powermeter.settings.values import Values

Check = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Key:
    """
    One key of the schema.

    A *secret* value is not shown in a mistake, and becomes a :class:`Secret`. A
    *file* is the path of a file that only this writer writes to: a relative one
    begins at DATA_DIR, and neither another writer nor the log nor one of the
    program's own files may have the same path.
    """

    default: Any
    check: Check
    secret: bool = False
    file: bool = False


#: The longest label, in letters.
MAX_LABEL = 64

#: Stands for "no default": the key must be given.
REQUIRED = object()


def number(low: float, high: float) -> Check:
    """An int or float from *low* to *high*."""

    def check(found: Any) -> float:
        # bool is an int, and NaN would pass the negated comparisons.
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
    """One of a few words."""

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


#: Half a character of UTF-16: Python's text may contain one, but no file name and no request can.
_HALF = re.compile("[\ud800-\udfff]")


def text(pattern: str, allowed: str) -> Check:
    """Text that matches *pattern* as a whole; *allowed* says so in words."""

    def check(found: Any) -> str:
        # Compiled only when needed: compiling all of them takes as long as the rest of this module.
        if not isinstance(found, str) or not re.fullmatch(pattern, found) or _HALF.search(found):
            raise ValueError(allowed)
        return found

    return check


def label(found: Any) -> str:
    """A name for people: any letters, on one line."""
    if not isinstance(found, str) or not found.strip() or len(found) > MAX_LABEL or not found.isprintable():
        raise ValueError(f"a name of 1 to {MAX_LABEL} letters that can be printed")
    return found.strip()


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
    """A dict of text to text, without the names *taken*: the program itself uses ``meter``, services use others."""

    def check(found: Any) -> dict[str, str]:
        if isinstance(found, dict) and (wrong := [name for name in taken if name in map(_lower, found)]):
            raise ValueError(f'{allowed} ("{wrong[0]}" has a meaning of its own)')
        if (
            not isinstance(found, dict)
            or len(found) > MAX_TAGS
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


#: A path: Linux accepts up to 4,095 bytes (PATH_MAX), and it has to fit on one line of a message.
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
    """The path of a file, as the user wrote it: what a relative one is relative to is known only later."""
    path: str = text(_PATH + r"(?<!/)", "the path of a file")(found)
    in_home(path)
    return path


#: Librato allows 50 tags per measurement, and ``meter`` is one of them.
MAX_TAGS = 49

visible_ascii = text(r"[!-~]+", "text of visible ASCII characters, not empty")
words = text(r"[^\x00-\x1f\x7f]+", "text on one line, not empty")

_NAME_OR_IPV4 = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,126}\.?"
# The zone is the name of an interface, which a link-local address needs (RFC 4007, 11).
_IPV6 = r"(?=[^:]*:)[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9_.~-]{1,15})?"
_HOST = text(rf"{_NAME_OR_IPV4}|{_IPV6}|\[{_IPV6}\]", 'just a host name or address, such as "192.168.1.5"')
host_and_port = text(
    _NAME_OR_IPV4 + r"(:([1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5]))?",
    'a host name or address, with or without a port: "10.0.0.5:8080"',
)


def host(found: Any) -> str:
    """A host name or address; an IPv6 address may be in brackets, as in a URL."""
    return str(_HOST(found)).strip("[]")


def ip_address(found: Any) -> str:
    """An address of this machine, or the one that means all of them."""
    import ipaddress  # only a page needs it

    allowed = 'an address of this machine, such as "127.0.0.1", or "0.0.0.0" or "::" for all that it has'
    if not isinstance(found, str):
        raise ValueError(allowed)
    try:
        return str(ipaddress.ip_address(found.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise ValueError(allowed) from None


def pin_number(found: Any) -> int:
    """A pin of the header, or a line of another board's chip; which of them exist is known only later."""
    if isinstance(found, int) and 40 < found <= MAX_LINES:
        return found
    return int(whole(0, 40)(found))


def url_prefix(found: Any) -> str:
    """What comes before a path in a URL: "", or text that begins with a slash, without a slash at its end."""
    path = text(r"|(/[A-Za-z0-9_.~!$&'()*+,;=:@%-]*)+", 'text that begins with /, such as "/influx", or ""')(found)
    return str(path).rstrip("/")


#: No chip has more lines: a Pi's has 54, those of other boards a few hundred.
MAX_LINES = 1023


class Mistake(NamedTuple):
    """A mistake that only several keys together show: at the key *name*, what was *found*, and what is *allowed*."""

    name: str
    found: str
    allowed: str


class Remark(NamedTuple):
    """A warning about a writer, or about its key *name*; the writer is started all the same."""

    text: str
    name: str = ""


def exposed(
    keys: Mapping[str, Key], options: Values, host: str, *, encrypted: bool, encrypt: str, verified: bool = True
) -> Iterator[Remark]:
    """
    Warn if others can read or receive the password or token that is sent to *host*.

    *encrypt* is the setting that would encrypt it; *verified*: whether the host's
    certificate is checked.
    """
    secret = next((name for name, key in keys.items() if key.secret and options[name]), None)
    if secret is None or is_loopback(host):
        return
    if not encrypted:
        yield Remark(f"the {secret} is sent to {host} unencrypted, so anyone on the network can read it: set {encrypt}")
    elif not verified:
        yield Remark(
            f"the {secret} is sent to whoever answers as {host}, because its certificate is not checked: "
            'set "verify_ssl" to True or to the file of its CA'
        )


def is_loopback(host: str) -> bool:
    """Whether *host* is this machine itself, by its name (RFC 6761, 6.3) or address."""
    name = host.lower().removesuffix(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    import ipaddress

    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
