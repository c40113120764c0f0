"""
The user's settings.py, read into frozen values, or every mistake in it at once.

Owns the schema: each key's default, what is allowed, and how a mistake reads.
The network is never asked. A value that may be a secret is never shown.
"""

import contextlib
import errno
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, NamedTuple

from powermeter.errors import SettingsError, UnsafePathError
from powermeter.safe_path import read_code

Values = dict[str, Any]


class Secret:
    """
    A password or token, shown as ``***`` wherever it is printed, formatted, logged or pickled.

    >>> secret = Secret("hunter2")
    >>> f"{secret} {secret!r} {[secret]}", secret.reveal()
    ('*** *** [***]', 'hunter2')
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for a header that is sent."""
        return self._text

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, _memo: object) -> "Secret":
        return self

    def __reduce__(self) -> tuple[type["Secret"], tuple[str]]:
        return Secret, ("***",)


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """One entry of METERS."""

    name: str
    pin: int
    impulses_per_kwh: float
    min_flash_ms: float | None
    silence_minutes: float | None
    max_watts: float
    pull: str | None = None
    lit: str = "low"
    sensor: str = "led"
    label: str | None = None
    direction: str = "import"


class ShownAs(NamedTuple):
    """How a meter is shown: by its *label*, if it has one; *direction*: "import" or "export"."""

    label: str | None
    direction: str


class Outline(NamedTuple):
    """Of the settings only DATA_DIR, None where it is not set, and how each meter is shown."""

    data_dir: str | None
    meters: dict[str, ShownAs]


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """One enabled entry of WRITERS; *options* holds its type's keys, all set, a secret one as a :class:`Secret`."""

    name: str
    type: str
    options: Values


@dataclass(frozen=True, slots=True)
class Settings:
    """
    What the user has set, checked, with the defaults filled in.

    *data_dir* is absolute; *log_file* is, where it is set. *warnings* are
    lines for the user that stop nothing.
    """

    path: str
    gpio_library: str
    gpio_chip: str | None
    pin_numbering: str
    meters: tuple[MeterSettings, ...]
    l1_pin: int | None
    l2_pin: int | None
    data_dir: str
    commit_interval_s: float
    clock_wait_s: float
    keep_days: float
    log_file: str | None
    writers: tuple[WriterSettings, ...]
    warnings: tuple[str, ...]


# --- What is allowed: a check returns the value to use or raises ValueError(what is allowed)

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

    def check(found: Any) -> str:
        # Compiled when it is needed: all of them take as long as the rest of this module.
        if not isinstance(found, str) or not re.fullmatch(pattern, found) or _HALF.search(found):
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


def _in_home(path: str) -> str:
    """*path* with its ~ replaced by the home that it stands for."""
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError("a path without ~, as no such home is known")
    return expanded


def absolute_path(found: Any) -> str:
    """A path that does not depend on where the program was started."""
    allowed = "a path that begins with / or ~"
    path = _in_home(text(_PATH, allowed)(found))
    if not os.path.isabs(path):
        raise ValueError(allowed)
    return os.path.normpath(path)


def file_path(found: Any) -> str:
    """The path of a file, as the user has it: where it begins is known later."""
    path: str = text(_PATH + r"(?<!/)", "the path of a file")(found)
    _in_home(path)
    return path


#: Librato's own host. It no longer resolves; the default tells where the API came from.
LIBRATO_HOST = "metrics-api.librato.com"
#: Librato's limit of tags a measurement is 50, and ``meter`` is one of them.
MOST_TAGS = 49
_ASCII = text(r"[!-~]+", "text of visible ASCII characters, not empty")
_WORDS = text(r"[^\x00-\x1f\x7f]+", "text on one line, not empty")
_NAME_OR_IPV4 = r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63}){0,126}\.?"
# The zone is the name of an interface, which a link-local address needs (RFC 4007, 11).
_IPV6 = r"(?=[^:]*:)[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9_.~-]{1,15})?"
_HOST = text(rf"{_NAME_OR_IPV4}|{_IPV6}|\[{_IPV6}\]", 'a host name or address alone, such as "192.168.1.5"')
# Names, sources and tags: the limits of the Librato API documentation.
_NAME_1_255 = text(r"[A-Za-z0-9.:\-_]{1,255}", "1 to 255 characters of A-Z a-z 0-9 . : - _")
# "<source>.<meter>" is sent, a meter's name has up to 32 characters.
_SOURCE = text(r"[A-Za-z0-9.:\-_]{1,222}", "1 to 222 characters of A-Z a-z 0-9 . : - _")
_LIBRATO_TAGS = tags(
    r"[-.:_\w]{1,64}",
    r"[-.:_?\\/\w ]{1,255}",
    'a dict of 0 to 49 names to texts, "meter" and "time" not among them, such as {"home": "yes"}',
    lower=True,
)
_INFLUX_TAGS = tags(
    # VictoriaMetrics keeps names that begin with __ for itself.
    r"(?!__)[^\x00-\x1f\x7f\\]+",
    # A backslash before a separator would escape it: the line would be read as another one.
    r"[^\x00-\x1f\x7f\\]+",
    'a dict of 0 to 49 names to texts without \\, "meter" and "time" not among them, such as {"home": "yes"}',
    # The fields of our points, which InfluxDB 3 refuses as tags and InfluxQL then can't tell apart; the columns that
    # InfluxDB 2 adds to every row.
    taken=(
        "meter",
        "time",
        "energy",
        "power",
        "register",
        "_field",
        "_measurement",
        "_time",
        "_value",
        "_start",
        "_stop",
    ),
)
# A line of the line protocol that begins with # is a comment.
_MEASUREMENT = text(r"(?! *#)[^\x00-\x1f\x7f\\]+", "text on one line without \\, not empty and not begun with #")
_HOST_AND_PORT = text(
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


def label(found: Any) -> str:
    """A name for people, in any script, on one line."""
    if not isinstance(found, str) or not 0 < len(found) <= 64 or not found.isprintable():
        raise ValueError("1 to 64 printable characters")
    return found


#: No chip has more lines: 54 on a Pi, some hundred on other boards.
MOST_LINES = 1023

METER: dict[str, Key] = {
    "pin": Key(REQUIRED, pin_number),
    "impulses_per_kwh": Key(REQUIRED, number(0.001, 1_000_000)),
    "min_flash_ms": Key(None, optional(number(0.1, 1000))),
    "silence_minutes": Key(None, optional(number(0.1, 100_000))),
    "max_watts": Key(24000, number(1, 100_000_000)),
    "pull": Key(None, optional(choice("up", "down"))),
    "lit": Key("low", choice("low", "high")),
    "sensor": Key("led", choice("led", "contact")),
    "label": Key(None, optional(label)),
    "direction": Key("import", choice("import", "export")),
}

WRITER_TYPES: dict[str, dict[str, Key]] = {
    "file": {"path": Key("power.csv", file_path)},
    "librato": {
        "user": Key(REQUIRED, _ASCII),
        "token": Key(REQUIRED, _ASCII, secret=True),
        "metric": Key("power", _NAME_1_255),
        "hostname": Key(LIBRATO_HOST, _HOST_AND_PORT),
        "protocol": Key("https", choice("https", "http")),
        "base_path": Key("/v1/", text(r"/([!-~]*/)?", 'a path that begins and ends with /, such as "/v1/"')),
        "source": Key(None, optional(_SOURCE)),
        "tags": Key(None, optional(_LIBRATO_TAGS)),
        "period": Key(60, whole(1, 86400)),
    },
    "influxdb": {
        "host": Key("localhost", host),
        "port": Key(8086, whole(1, 65535)),
        "path": Key("", url_prefix),
        "username": Key(None, optional(_WORDS)),
        "password": Key(None, optional(_WORDS), secret=True),
        "token": Key(None, optional(_ASCII), secret=True),
        "database": Key("power", _WORDS),
        "retention_policy": Key(None, optional(_WORDS)),
        "ssl": Key(False, flag),
        "verify_ssl": Key(True, verify_ssl),
        "measurement": Key("electricity_power", _MEASUREMENT),
        "tags": Key({}, _INFLUX_TAGS),
        "timeout": Key(10, number(0.1, 600)),
        "batch_size": Key(5000, whole(1, 50_000)),
        "update_period": Key(10, number(0, 86400)),
    },
}

#: The keys that every writer has beside its type's own.
WRITER_COMMON: dict[str, Key] = {
    "type": Key(REQUIRED, choice(*WRITER_TYPES)),
    "enabled": Key(True, flag),
}

TOP: dict[str, Key] = {
    "GPIO_LIBRARY": Key("auto", choice("auto", "gpiod", "RPi.GPIO")),
    "GPIO_CHIP": Key(None, optional(absolute_path)),
    "PIN_NUMBERING": Key("BOARD", choice("BOARD", "BCM")),
    "L1_PIN": Key(12, optional(pin_number)),
    "L2_PIN": Key(16, optional(pin_number)),
    "DATA_DIR": Key(None, optional(absolute_path)),
    "COMMIT_INTERVAL": Key(5, number(0.1, 3600)),
    "CLOCK_WAIT": Key(600, number(0, 86400)),
    "KEEP_DAYS": Key(400, number(1, 36500)),
    "LOG_FILE": Key(None, optional(file_path)),
}
DICTS = ("METERS", "WRITERS")

#: Header pins that are a GPIO, by board number, and the GPIO's own; the others are power, ground or the HAT's EEPROM
#: (Raspberry Pi documentation, "GPIO and the 40-pin header").
# fmt: off
BOARD_TO_BCM = {
    3: 2, 5: 3, 7: 4, 8: 14, 10: 15, 11: 17, 12: 18, 13: 27, 15: 22, 16: 23, 18: 24, 19: 10, 21: 9, 22: 25, 23: 11,
    24: 8, 26: 7, 29: 5, 31: 6, 32: 12, 33: 13, 35: 19, 36: 16, 37: 26, 38: 20, 40: 21,
}
# fmt: on
BOARD_PINS = frozenset(BOARD_TO_BCM)
BCM_PINS = frozenset(range(28))

#: The names of the program's own files in DATA_DIR, and of a log. No file of the settings' may have one: lines in the
#: journal would destroy it, and closing it or the lock would drop the lock.
OWN_FILES = frozenset(
    {"journal.db", "journal.db-wal", "journal.db-shm", "lock", "power.pid", "power.pid.sock", "power.log"}
)

#: What begins so in DATA_DIR is the journal's too: what is made where it is damaged (salvage), and taken for it then.
JOURNAL = "journal.db"

#: Fewer impulses per kWh than any household meter has (40 and more): Wh per impulse may have been meant.
FEW_IMPULSES = 10

METER_NAME = re.compile(r"[a-zA-Z0-9_-]{1,32}")

#: The largest settings file that is read, in bytes: the example has less than 4,000.
MOST_SOURCE = 1_000_000


def show(found: Any, *, secret: bool = False) -> str:
    """How a found value stands in a mistake: short, and never a secret."""
    if found is REQUIRED:
        return "nothing"
    # An address may hold a user and password, before an @ or in a query.
    secret = secret or (isinstance(found, str) and any(c in found for c in "@?="))
    if secret or not isinstance(found, str | int | float | None):
        size = f" of {len(found)}" if isinstance(found, str | dict | list | tuple | set) else ""
        return f"a {_short(type(found).__name__)}{size}"
    try:
        return _short(repr(found))
    except ValueError:  # an int of more digits than Python is willing to print
        return "a very large number"


def _short(name: str) -> str:
    """*name*, which may be any text, fit for a place in a line."""
    shown = name if name.isprintable() else repr(name)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name of *known* most like *name*, whatever the case; None if none is."""
    import difflib  # only for a name that is not known

    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def _place(where: str, name: str) -> str:
    """The key *name* of *where*, a dict's place in the file, as the user would write it."""
    if not where:
        return _short(name)
    return f'{where}["{_short(name)}"]' if name.isprintable() else f"{where}[{_short(name)}]"


class _Reading:
    """One reading of a settings file: its values on the way in, the mistakes on the way out."""

    def __init__(self, found: Values) -> None:
        self.found = found
        self.mistakes: list[str] = []

    def mistake(self, where: str, found: str, allowed: str) -> None:
        self.mistakes.append(f"{where}: found {found}, allowed: {allowed}")

    def unknown(self, where: str, found: Values, known: Iterable[str]) -> None:
        known = sorted(known)
        for name in [name for name in found if name not in known]:
            near = _nearest(name, known)
            hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
            self.mistakes.append(f"{_place(where, name)}: unknown, {hint}")

    def keys(self, where: str, found: Values, schema: dict[str, Key]) -> Values:
        """The values of *schema* in *found*, defaults filled in; a mistaken one is left out."""
        values: Values = {}
        for name, key in schema.items():
            value = found.get(name, key.default)
            place = _place(where, name)
            if value is REQUIRED:
                self.mistake(place, "nothing", self._allowed(key))
                continue
            try:
                checked = key.check(value)
                values[name] = Secret(checked) if key.secret and checked is not None else checked
            except ValueError as error:
                self.mistake(place, show(value, secret=key.secret), str(error))
        return values

    @staticmethod
    def _allowed(key: Key) -> str:
        try:
            key.check(REQUIRED)
        except ValueError as error:
            return str(error)
        raise AssertionError("no key allows REQUIRED")

    def entries(self, name: str, default: Values) -> list[tuple[str, str, Values]]:
        """The entries of the dict setting *name* that are dicts with a good name: where, name, entry."""
        found = self.found.get(name, default)
        if not isinstance(found, dict):
            self.mistake(name, show(found), "a dict of names to dicts, as in settings.py.example")
            return []
        good = []
        for key, entry in found.items():
            where = f"{name}[{show(key)}]".replace("'", '"')
            if not isinstance(key, str) or not METER_NAME.fullmatch(key):
                self.mistake(where, show(key), "a name of 1 to 32 characters of a-z A-Z 0-9 _ -")
            elif not isinstance(entry, dict):
                # Text in place of a dict may be a password whose writer has no name.
                self.mistake(where, show(entry, secret=isinstance(entry, str)), "a dict, as in settings.py.example")
            else:
                good.append((where, key, {k if isinstance(k, str) else show(k): v for k, v in entry.items()}))
        return good


def find(*directories: str) -> str | None:
    """The settings.py to use where none is named: $POWER_SETTINGS, else in one of *directories*; None without one."""
    if os.environ.get("POWER_SETTINGS"):
        return os.path.abspath(os.environ["POWER_SETTINGS"])
    paths = (os.path.join(directory, "settings.py") for directory in directories)
    return next((path for path in paths if os.path.exists(path)), None)


def read(path: str, *, simulated: Literal["file", "all", None] = None) -> Settings:
    """
    The settings in the Python file *path*.

    *simulated*: for invented watts, whose data stand apart in
    DATA_DIR/simulated and go to the writers of type "file" alone, or to
    "all". Raises :exc:`SettingsError` with every mistake.
    """
    as_root = os.geteuid() == 0
    found = _executed(path)
    with _blamed(path):
        return _checked(path, found, simulated, as_root=as_root)


def _checked(path: str, found: Values, simulated: Literal["file", "all", None], *, as_root: bool) -> Settings:
    reading = _Reading(found)
    reading.unknown("", found, [*TOP, *DICTS])
    top = reading.keys("", found, TOP)
    # In place of a mistaken one any will do: what is within it is checked all the same.
    data_dir = "/" if "DATA_DIR" not in top else top["DATA_DIR"] or default_data_dir(as_root=as_root)
    real_dir = data_dir
    if simulated:
        data_dir = os.path.join(data_dir, "simulated")
    # Invented watts for all may name a file in the real one.
    journals = tuple(_placed(JOURNAL, directory, inside=False) for directory in (real_dir, data_dir))

    def is_own(path: str) -> bool:
        return os.path.basename(path) in OWN_FILES or path.startswith(journals)

    meters = _meters(reading)
    writers = _writers(reading, lambda path: _placed(path, data_dir, inside=simulated == "file"), is_own)
    log_file = _placed(top["LOG_FILE"], data_dir, inside=simulated == "file") if top.get("LOG_FILE") else None
    if log_file and os.path.basename(log_file) != "power.log" and is_own(log_file):
        reading.mistake("LOG_FILE", show(log_file), "another name, this one the program uses itself")
    if log_file in [writer.options["path"] for writer in writers if writer.type == "file"]:
        reading.mistake("LOG_FILE", show(log_file), "a file of its own, a writer has this one")
    _check_pins(reading, top, meters)
    _check_gpio(reading, top, meters)
    if reading.mistakes:
        raise SettingsError(path, reading.mistakes)
    return Settings(
        path=path,
        gpio_library=top["GPIO_LIBRARY"],
        gpio_chip=top["GPIO_CHIP"],
        pin_numbering=top["PIN_NUMBERING"],
        meters=tuple(MeterSettings(name=name, **values) for name, values in meters),
        l1_pin=top["L1_PIN"],
        l2_pin=top["L2_PIN"],
        data_dir=data_dir,
        commit_interval_s=top["COMMIT_INTERVAL"],
        clock_wait_s=top["CLOCK_WAIT"],
        keep_days=top["KEEP_DAYS"],
        log_file=log_file,
        writers=tuple(w for w in writers if simulated != "file" or w.type == "file"),
        warnings=tuple(_warnings(path, found, meters, writers)),
    )


def default_data_dir(*, as_root: bool) -> str:
    """Where the journal is kept unless DATA_DIR says otherwise; a service is told by systemd where its state is."""
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(state):
        return state
    if as_root:
        return "/var/lib/power"
    try:
        return _in_home("~/.local/state/power")
    except ValueError:
        raise SettingsError(
            "DATA_DIR",
            ["None is in the user's home, and there is none: set HOME, or DATA_DIR to a path that begins with /"],
        ) from None


def data_dir_of(path: str) -> str:
    """
    DATA_DIR in the file *path*, the other settings unchecked.

    For the commands that must find the running program even while a mistake
    stands in its settings. Raises :exc:`SettingsError`.
    """
    as_root = os.geteuid() == 0
    reading = _Reading(_executed(path))
    with _blamed(path):
        values = reading.keys("", reading.found, {"DATA_DIR": TOP["DATA_DIR"]})
    if reading.mistakes:
        raise SettingsError(path, reading.mistakes)
    return values["DATA_DIR"] or default_data_dir(as_root=as_root)


def outline_of(path: str) -> Outline:
    """
    DATA_DIR and how the meters are shown, in the file *path*; the other settings are unchecked.

    A mistake in a meter's label or direction leaves that out. Raises :exc:`SettingsError` where DATA_DIR is one.
    """
    reading = _Reading(_executed(path))
    with _blamed(path):
        values = reading.keys("", reading.found, {"DATA_DIR": TOP["DATA_DIR"]})
        if reading.mistakes:
            raise SettingsError(path, reading.mistakes)
        shown = {key: METER[key] for key in ("label", "direction")}
        default = {key: METER[key].default for key in shown}
        meters = {
            name: ShownAs(**default | reading.keys(where, entry, shown))
            for where, name, entry in reading.entries("METERS", {"house": {}})
        }
    return Outline(values["DATA_DIR"], meters)


def _placed(path: str, data_dir: str, *, inside: bool) -> str:
    """*path* as the user means it: from DATA_DIR on; *inside* keeps an absolute one within it too."""
    path = os.path.expanduser(path)
    return os.path.normpath(os.path.join(data_dir, os.path.normpath("/" + path).lstrip("/") if inside else path))


def _executed(path: str) -> Values:
    """The public names that the Python file *path* sets."""
    try:
        source = read_code(path, MOST_SOURCE + 1)
    except UnsafePathError as error:
        raise SettingsError(path, [f"is not run: {error}"]) from None
    except OSError as error:
        raise SettingsError(path, [f"can't be read: {error.strerror}"]) from None
    if len(source) > MOST_SOURCE:
        raise SettingsError(path, [f"is larger than {MOST_SOURCE:,} bytes"])
    if b"\0" in source:
        raise SettingsError(path, ["holds bytes that are no text: copy the example again"])
    names: Values = {"__file__": path, "__name__": "settings"}
    try:
        with warnings.catch_warnings():
            # Python's own, of a strange escape or call, show the line they stand in.
            warnings.simplefilter("ignore")
            exec(compile(source, path, "exec"), names)  # noqa: S102 - a Python file is what the user is promised
    except KeyboardInterrupt:
        raise
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise SettingsError(path, [f"{line}not Python: {error.msg}"]) from None
    except BaseException as error:  # noqa: BLE001 - SystemExit too: a settings file may not end the program
        # The type alone: a password without quotes would stand in the text of a NameError.
        line = _line_in(error, path)
        hint = " (text needs quotes; True, False and None have a capital)" if isinstance(error, NameError) else ""
        raise SettingsError(path, [f"{line}{_short(type(error).__name__)} while it was read{hint}"]) from None
    return {
        name: value
        for name, value in names.items()
        if isinstance(name, str)  # globals() takes any
        and not name.startswith("_")
        and not issubclass(type(value), ModuleType)
        # A name of the user's own is in small letters, and not like one of ours.
        and (name.isupper() or _nearest(name, [*TOP, *DICTS], cutoff=0.8))
    }


@contextlib.contextmanager
def _blamed(path: str) -> Iterator[None]:
    """An error that the file *path* raises while its values are looked at, by a class of its own, is its mistake."""
    try:
        yield
    except SettingsError:
        raise
    except Exception as error:
        if not (line := _line_in(error, path)):
            raise  # a bug of ours
        raise SettingsError(path, [f"{line}{_short(type(error).__name__)} while its values were checked"]) from None


def _line_in(error: BaseException, path: str) -> str:
    trace, line = error.__traceback__, ""
    while trace:
        if trace.tb_frame.f_code.co_filename == path:
            line = f"line {trace.tb_lineno}: "
        trace = trace.tb_next
    return line


def _meters(reading: _Reading) -> list[tuple[str, Values]]:
    if "METERS" in reading.found and not reading.found["METERS"]:
        reading.mistake("METERS", show(reading.found["METERS"]), "at least one meter")
        return []
    meters = []
    for where, name, entry in reading.entries("METERS", {"house": {"pin": 18, "impulses_per_kwh": 1000}}):
        reading.unknown(where, entry, METER)
        meters.append((name, reading.keys(where, entry, METER)))
    return meters


def _writers(reading: _Reading, placed: Callable[[str], str], is_own: Callable[[str], bool]) -> list[WriterSettings]:
    """The enabled writers; of the others only the names of their keys, and "type", are checked."""
    writers = []
    paths: dict[str, str] = {}
    for where, name, entry in reading.entries("WRITERS", {"file": {"type": "file"}}):
        before = len(reading.mistakes)
        common = reading.keys(where, entry, WRITER_COMMON)
        if "type" not in common:
            continue
        schema = WRITER_TYPES[common["type"]]
        reading.unknown(where, entry, {**WRITER_COMMON, **schema})
        if not common.get("enabled", True):
            continue
        options = reading.keys(where, entry, schema)
        _check_writer(reading, where, common["type"], options)
        if common["type"] == "file" and "path" in options:
            options["path"] = placed(options["path"])
            if is_own(options["path"]):
                reading.mistake(
                    f'{where}["path"]', show(options["path"]), "another name, this one the program uses itself"
                )
            if options["path"] in paths:
                reading.mistake(
                    f'{where}["path"]',
                    show(options["path"]),
                    f"a file of its own, {paths[options['path']]} has this one",
                )
            paths[options["path"]] = where
        if len(reading.mistakes) == before:
            writers.append(WriterSettings(name, common["type"], options))
    return writers


def _check_writer(reading: _Reading, where: str, kind: str, options: Values) -> None:
    if kind != "influxdb":
        return
    if options.get("token") and (options.get("username") or options.get("password")):
        reading.mistake(f'{where}["token"]', "a token beside a username or password", "one of the two")
    if options.get("password") and not options.get("username", True):
        reading.mistake(f'{where}["username"]', "None", "text, as there is a password")


def _check_pins(reading: _Reading, top: Values, meters: list[tuple[str, Values]]) -> None:
    """Each pin is a GPIO of the header, and has one use."""
    numbering = top.get("PIN_NUMBERING")
    # The lines of another board's chip have the numbers that it gives them.
    other_chip = top.get("GPIO_CHIP") is not None and top.get("GPIO_LIBRARY") != "RPi.GPIO"
    used: dict[int, str] = {}
    pins = [(f'METERS["{name}"]["pin"]', values.get("pin")) for name, values in meters]
    for where, pin in [*pins, ("L1_PIN", top.get("L1_PIN")), ("L2_PIN", top.get("L2_PIN"))]:
        if pin is None or numbering is None:
            continue
        if numbering == "BOARD" and pin not in BOARD_PINS:
            reading.mistake(where, str(pin), f"a GPIO by its number on the header: {_listed(BOARD_PINS)}")
        elif numbering == "BCM" and pin not in BCM_PINS and not other_chip:
            reading.mistake(where, str(pin), "a GPIO by its BCM number: 0 to 27, others only with GPIO_CHIP")
        elif pin in used:
            reading.mistake(where, str(pin), f"a pin of its own, {used[pin]} has this one")
        used.setdefault(pin, where)


def _check_gpio(reading: _Reading, top: Values, meters: list[tuple[str, Values]]) -> None:
    if top.get("GPIO_LIBRARY") != "RPi.GPIO":
        return
    for name, values in meters:
        if values.get("min_flash_ms") is not None:
            reading.mistake(
                f'METERS["{name}"]["min_flash_ms"]',
                show(values["min_flash_ms"]),
                'None: RPi.GPIO does not tell how long a flash is, GPIO_LIBRARY = "gpiod" does',
            )


def _listed(pins: frozenset[int]) -> str:
    return ", ".join(str(pin) for pin in sorted(pins))


def _warnings(path: str, found: Values, meters: list[tuple[str, Values]], writers: list[WriterSettings]) -> list[str]:
    said = [
        f'{path}: METERS["{name}"]: {values["impulses_per_kwh"]:g} impulses per kWh is one flash in '
        f"{1 / values['impulses_per_kwh']:g} kWh: where the meter's face says so many Wh per impulse, set "
        f"{1000 / values['impulses_per_kwh']:g}"
        for name, values in meters
        if values["impulses_per_kwh"] < FEW_IMPULSES
    ]
    entries = found.get("WRITERS", {}).values()
    secrets = any(entry.get(key) for entry in entries for key in ("password", "token"))
    if secrets and os.stat(path).st_mode & stat.S_IROTH:
        said.append(f"{path}: others may read it, and a password or token stands in it: chmod o-r {path}")
    said += [
        f'{path}: WRITERS["{writer.name}"]["verify_ssl"]: {file} is not there: the writer waits for it'
        for writer in writers
        if isinstance(file := writer.options.get("verify_ssl"), str) and not os.path.exists(file)
    ]
    said += [
        f'{path}: WRITERS["{writer.name}"]: Librato ended on 2026-01-31, nothing answers at {LIBRATO_HOST}: '
        "name another host or disable it"
        for writer in writers
        if writer.type == "librato" and writer.options["hostname"] == LIBRATO_HOST
    ]
    ways = [(writer.name, way) for writer in writers if (way := _way_out(writer)) and not is_loopback(way.host)]
    said += [
        f'{path}: WRITERS["{name}"]: the {way.secret} is sent to {way.host} unencrypted, so anyone on the network '
        f"can read it: set {way.encrypt}"
        for name, way in ways
        if not way.encrypted
    ]
    said += [
        f'{path}: WRITERS["{name}"]: the {way.secret} is sent to whoever answers as {way.host}, because its '
        'certificate is not checked: set "verify_ssl" to True or to the file of its CA'
        for name, way in ways
        if way.encrypted and not way.verified
    ]
    return said


class _WayOut(NamedTuple):
    """How the *secret* of that name is sent, and which setting would encrypt it."""

    secret: str
    host: str
    encrypted: bool
    verified: bool
    encrypt: str


def _way_out(writer: WriterSettings) -> _WayOut | None:
    """How the password or token of *writer* is sent; None if it has none, or is of a type that is not known here."""
    options = writer.options
    secret = next((name for name, key in WRITER_TYPES[writer.type].items() if key.secret and options[name]), None)
    if secret is None:
        return None
    if writer.type == "librato":
        host = options["hostname"].partition(":")[0]
        return _WayOut(secret, host, options["protocol"] == "https", True, '"protocol": "https"')
    if writer.type == "influxdb":
        return _WayOut(secret, options["host"], options["ssl"], options["verify_ssl"] is not False, '"ssl": True')
    return None


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
