"""
Hides passwords and tokens in what a service answers.

A service may repeat what it was sent, and often in another form: in JSON, a
URL, HTML or a quoted string, or as the header of Basic authentication. This
module knows these forms. It undoes the escapes and looks for the secret
itself, so it does not matter which characters a service escapes, and the time
it takes depends only on the length of the text.
"""

import base64
import html
import re
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from powermeter.settings.values import Secret

#: A secret of fewer characters is hidden only where it is a word of its own, since many other words contain it.
SHORT_SECRET = 4

#: Only this many characters of a text are kept.
MAX_BLOTTED = 4096

#: Escapes can make a secret longer by this factor: ``\\U0000002f`` is one character.
MAX_ESCAPED = 12

#: Escapes may be nested, such as JSON within JSON: this many levels are undone.
MAX_NESTED = 2


class _Form(NamedTuple):
    """One way to escape characters: a pattern of an escaped character, and how to undo it."""

    escaped: re.Pattern[str]
    unescape: Callable[[str], str]


class _Read(NamedTuple):
    """A text with its escapes undone, and where each of its characters begins and ends in the original."""

    text: str
    begins: list[int]
    ends: list[int]


#: A hexadecimal digit, and a backslash.
_HEX, _BACKSLASH = "[0-9a-fA-F]", r"\\"


def _of_bytes(mark: str) -> str:
    """A pattern of one character, written as the bytes of its UTF-8, or of one byte; each in hex after *mark*."""
    tail = f"{mark}[89abAB]{_HEX}"
    return f"{mark}[cdCD]{_HEX}{tail}|{mark}[eE]{_HEX}(?:{tail}){{2}}|{mark}[fF][0-7](?:{tail}){{3}}|{mark}{_HEX}{{2}}"


def _from_bytes(escaped: str) -> str:
    found = bytes.fromhex(re.sub(r"%|\\x", "", escaped))
    try:
        return found.decode()
    except UnicodeDecodeError:
        return found.decode("latin-1")


def _from_url(escaped: str) -> str:
    return " " if escaped == "+" else _from_bytes(escaped)


def _from_text(escaped: str) -> str:
    if len(escaped) == 2:  # a backslash before any character
        return escaped[1]
    codes = [int(code, 16) for code in re.split(r"\\[uUx]", escaped)[1:]]
    if len(codes) == 2:
        return b"".join(code.to_bytes(2) for code in codes).decode("utf-16-be")
    return chr(codes[0]) if codes[0] <= sys.maxunicode else "?"


def _from_quoted_bytes(escaped: str) -> str:
    return escaped[1] if len(escaped) == 2 else _from_bytes(escaped)


FORMS = (
    # URLs, with a space as %20 or as + (RFC 3986, 2.1; HTML, "application/x-www-form-urlencoded").
    _Form(re.compile(_of_bytes("%")), _from_url),
    _Form(re.compile(rf"\+|{_of_bytes('%')}"), _from_url),
    # HTML and XML: decimal, hexadecimal, named.
    _Form(re.compile(rf"&(?:#[0-9]{{1,10}}|#[xX]{_HEX}{{1,8}}|[a-zA-Z][a-zA-Z0-9]{{1,30}});?"), html.unescape),
    # JSON (RFC 8259, 7), and the quoted strings of many languages.
    _Form(
        re.compile(
            rf"\\u[dD][89abAB]{_HEX}{{2}}\\u[dD][c-fC-F]{_HEX}{{2}}|\\u{_HEX}{{4}}|\\U{_HEX}{{8}}|\\x{_HEX}{{2}}|\\."
        ),
        _from_text,
    ),
    # Quoted bytes.
    _Form(re.compile(rf"{_of_bytes(_BACKSLASH + 'x')}|\\."), _from_quoted_bytes),
)


class Blotter:
    """Replaces *secrets* with ``***``; *user* is the user name that Basic authentication sends with them."""

    def __init__(self, user: str | None, *secrets: Secret | None) -> None:
        sent = {form for secret in secrets if secret for form in _sent(user or "", secret.reveal())}
        in_order = sorted(sent, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(_as_pattern, in_order))) if sent else None
        self._margin = MAX_ESCAPED * len(in_order[0]) if sent else 0

    def __call__(self, text: str) -> str:
        r"""
        Return the beginning of *text* without the secrets.

        >>> blot = Blotter("me", Secret("a&b c"))
        >>> blot("a&b c, a%26b+c, a&amp;b c, a\\u0026b c, bWU6YSZiIGM=")
        '***, ***, ***, ***, ***='
        """
        if self._pattern is None:
            return text[:MAX_BLOTTED]
        # Look further than what is kept, to recognise a secret that is cut off there.
        text = text[: MAX_BLOTTED + self._margin]
        parts, at = [], 0
        for begin, end in sorted(_found(self._pattern, text)):
            if begin >= at:
                parts += [text[at:begin], "***"]
            at = max(at, end)
        parts.append(text[at:MAX_BLOTTED])
        return "".join(parts)


def one_line(text: str, blotter: Blotter) -> str:
    r"""
    The beginning of what a service answered, fit for a line of the log; *blotter* knows the secrets it was sent.

    >>> one_line("unknown token\n  hunter2", Blotter("me", Secret("hunter2")))
    'unknown token ***'
    >>> one_line("a database of a", Blotter("me", Secret("a")))
    '*** database of ***'
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in blotter(text)[:1000]).split())
    return blotter(line)[:200]  # a secret may have been broken into lines


def _found(pattern: re.Pattern[str], text: str) -> set[tuple[int, int]]:
    """Where each match of *pattern* begins and ends in *text*, read as it is and with its escapes undone."""
    readings = [_Read(text, list(range(len(text))), list(range(1, len(text) + 1)))]
    found = set()
    for nested in range(MAX_NESTED + 1):
        if nested:
            undone = [_undone(read, form) for read in readings for form in FORMS]
            readings = [read for read in undone if read is not None]
        for read in readings:
            found |= {(read.begins[match.start()], read.ends[match.end() - 1]) for match in pattern.finditer(read.text)}
    return found


def _undone(read: _Read, form: _Form) -> _Read | None:
    """*read* with the escapes of one *form* undone; None if it has none."""
    parts: list[str] = []
    begins: list[int] = []
    ends: list[int] = []
    at = 0
    for match in form.escaped.finditer(read.text):
        start, end = match.span()
        plain = form.unescape(match[0])
        parts += [read.text[at:start], plain]
        begins += read.begins[at:start] + [read.begins[start]] * len(plain)
        ends += read.ends[at:start] + [read.ends[end - 1]] * len(plain)
        at = end
    if not parts:
        return None
    return _Read("".join([*parts, read.text[at:]]), begins + read.begins[at:], ends + read.ends[at:])


def _sent(user: str, secret: str) -> Iterator[str]:
    """The *secret* as it is, and in base64 (RFC 4648, 4 and 5), both by itself and with *user*, as in Basic auth."""
    yield secret
    for text in (secret, f"{user}:{secret}"):
        encoded = base64.b64encode(text.encode()).decode().rstrip("=")
        yield encoded
        yield encoded.translate({ord("+"): "-", ord("/"): "_"})


def _as_pattern(secret: str) -> str:
    pattern = re.escape(secret)
    return pattern if len(secret) >= SHORT_SECRET else rf"(?<!\w){pattern}(?!\w)"
