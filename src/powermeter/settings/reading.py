"""
The user's settings.py, read into frozen values, or all of its mistakes at once.

This module owns the keys and their defaults, except for those of a type of
writer, which are in the writer's module; the checks of several keys at once;
and the wording of a mistake. A value that may be a secret is never shown. The
network is never used.
"""

import contextlib
import dataclasses
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, Literal

from powermeter.errors import SettingsError, UnsafePathError
from powermeter.safe_path import read_code
from powermeter.settings.schema import (
    REQUIRED,
    Key,
    Mistake,
    absolute_path,
    choice,
    file_path,
    flag,
    in_home,
    is_loopback,
    label,
    number,
    optional,
    pin_number,
)
from powermeter.settings.values import (
    BOARD_TO_BCM,
    JOURNAL,
    OWN_FILES,
    MeterSettings,
    MqttSettings,
    Outline,
    PageSettings,
    Secret,
    Settings,
    ShownAs,
    Values,
    WriterSettings,
)
from powermeter.views import mqtt as mqtt_view
from powermeter.views import page as page_view
from powermeter.writers import WRITERS, writer_type

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

#: The keys that every writer has in addition to those of its type.
WRITER_COMMON: dict[str, Key] = {
    "type": Key(REQUIRED, choice(*WRITERS)),
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
DICTS = ("METERS", "WRITERS", "PAGE", "MQTT")

BOARD_PINS = frozenset(BOARD_TO_BCM)
BCM_PINS = frozenset(range(28))

#: Fewer impulses per kWh than any household meter has (40 or more): Wh per impulse may be what was entered.
FEW_IMPULSES = 10

METER_NAME = re.compile(r"[a-zA-Z0-9_-]{1,32}")

#: The largest settings file that is read, in bytes: the example has less than 4,000.
MAX_SOURCE = 1_000_000


def show(found: Any, *, secret: bool = False) -> str:
    """How a value is shown in a mistake: shortened, and never a secret."""
    if found is REQUIRED:
        return "nothing"
    # An address may hold a user and password, before an @ or in a query.
    secret = secret or (isinstance(found, str) and any(c in found for c in "@?="))
    if secret or not isinstance(found, str | int | float | None):
        size = f" of {len(found)}" if isinstance(found, str | dict | list | tuple | set) else ""
        return f"a {_short(type(found).__name__)}{size}"
    try:
        return _short(repr(found))
    except ValueError:  # an int with more digits than Python is willing to print
        return "a very large number"


def _short(name: str) -> str:
    """*name*, which may be any text, in a form that fits into a line."""
    shown = name if name.isprintable() else repr(name)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name among *known* that is most like *name*, ignoring case; None if no name is like it."""
    import difflib  # only for a name that is not known

    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def _place(where: str, name: str) -> str:
    """The key *name* of the dict *where* in the file, as the user would write it."""
    if not where:
        return _short(name)
    return f'{where}["{_short(name)}"]' if name.isprintable() else f"{where}[{_short(name)}]"


class _Reading:
    """The reading of one settings file: the values found in it, and the mistakes in them."""

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

    def keys(self, where: str, found: Values, schema: Mapping[str, Key]) -> Values:
        """The values in *found* for the keys of *schema*, with defaults filled in; mistakes are left out."""
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
        """The entries of the setting *name*, a dict, that are dicts with a valid name: where, name, entry."""
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
                # Text instead of a dict may be a password in an entry whose writer has no name.
                self.mistake(where, show(entry, secret=isinstance(entry, str)), "a dict, as in settings.py.example")
            else:
                good.append((where, key, {k if isinstance(k, str) else show(k): v for k, v in entry.items()}))
        return good


def find(*directories: str) -> str | None:
    """The settings.py to use if none is named: $POWER_SETTINGS, else in one of *directories*; None if there is none."""
    if os.environ.get("POWER_SETTINGS"):
        return os.path.abspath(os.environ["POWER_SETTINGS"])
    paths = (os.path.join(directory, "settings.py") for directory in directories)
    return next((path for path in paths if os.path.exists(path)), None)


def read(path: str, *, simulated: Literal["file", "all", None] = None) -> Settings:
    """
    The settings in the Python file *path*.

    *simulated*: for invented watts, whose data is kept apart in
    DATA_DIR/simulated, and goes only to writers of type "file", or to "all".
    Raises :exc:`SettingsError` with every mistake.
    """
    as_root = os.geteuid() == 0
    found = _executed(path)
    with _blamed(path):
        return _checked(path, found, simulated, as_root=as_root)


def _checked(path: str, found: Values, simulated: Literal["file", "all", None], *, as_root: bool) -> Settings:
    reading = _Reading(found)
    reading.unknown("", found, [*TOP, *DICTS])
    top = reading.keys("", found, TOP)
    # Any directory will do in place of a mistake: the paths in it are checked all the same.
    data_dir = "/" if "DATA_DIR" not in top else top["DATA_DIR"] or default_data_dir(as_root=as_root)
    real_dir = data_dir
    if simulated:
        data_dir = os.path.join(data_dir, "simulated")
    # With "all", a writer of invented watts may name a file in the real directory.
    journals = tuple(_placed(JOURNAL, directory, inside=False) for directory in (real_dir, data_dir))

    def is_own(path: str) -> bool:
        return os.path.basename(path) in OWN_FILES or path.startswith(journals)

    meters = _meters(reading)
    writers = _writers(reading, lambda path: _placed(path, data_dir, inside=simulated == "file"), is_own)
    page = _page(reading)
    mqtt = _mqtt(reading, [name for name, _ in meters])
    log_file = _placed(top["LOG_FILE"], data_dir, inside=simulated == "file") if top.get("LOG_FILE") else None
    if log_file and os.path.basename(log_file) != "power.log" and is_own(log_file):
        reading.mistake("LOG_FILE", show(log_file), "another name, the program uses this one itself")
    if log_file in [path for writer in writers for path in _files(writer.type, writer.options).values()]:
        reading.mistake("LOG_FILE", show(log_file), "a file of its own, a writer has this one")
    _check_pins(reading, top, meters)
    _check_gpio(reading, top, meters)
    if reading.mistakes:
        raise SettingsError(path, reading.mistakes)
    kept = [writer for writer in writers if simulated != "file" or writer.type == "file"]
    left_out = [f"writer {writer.name}" for writer in writers if writer not in kept]
    if simulated == "file" and page is not None:
        left_out.append("view page")
    if simulated == "file" and mqtt is not None:
        left_out.append("view mqtt")
    elif simulated and mqtt is not None:
        mqtt = dataclasses.replace(mqtt, topic=mqtt.topic + mqtt_view.SIMULATED)
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
        writers=tuple(kept),
        page=None if simulated == "file" else page,
        mqtt=None if simulated == "file" else mqtt,
        left_out=tuple(left_out),
        warnings=tuple(_warnings(path, found, meters, writers, page=page, mqtt=mqtt)),
    )


def default_data_dir(*, as_root: bool) -> str:
    """Where the journal is kept unless DATA_DIR says otherwise; for a service, systemd names the directory."""
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0]
    if os.path.isabs(state):
        return state
    if as_root:
        return "/var/lib/power"
    try:
        return in_home("~/.local/state/power")
    except ValueError:
        raise SettingsError(
            "DATA_DIR",
            ["None means a directory in the user's home, which is unknown: set HOME, or a path that begins with /"],
        ) from None


def data_dir_of(path: str) -> str:
    """
    DATA_DIR in the file *path*, without checking the other settings.

    For the commands that must find the running program even while its settings
    contain a mistake. Raises :exc:`SettingsError`.
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
    DATA_DIR and how the meters are shown, in the file *path*; the other settings are not checked.

    A wrong label or direction of a meter is left out. Raises :exc:`SettingsError` if DATA_DIR is wrong.
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
    """*path* as the user means it: relative to DATA_DIR; *inside* moves an absolute one into it, too."""
    path = os.path.expanduser(path)
    return os.path.normpath(os.path.join(data_dir, os.path.normpath("/" + path).lstrip("/") if inside else path))


def _executed(path: str) -> Values:
    """The public names that the Python file *path* sets."""
    try:
        source = read_code(path, MAX_SOURCE + 1)
    except UnsafePathError as error:
        raise SettingsError(path, [f"is not run: {error}"]) from None
    except OSError as error:
        raise SettingsError(path, [f"can't be read: {error.strerror}"]) from None
    if len(source) > MAX_SOURCE:
        raise SettingsError(path, [f"is larger than {MAX_SOURCE:,} bytes"])
    if b"\0" in source:
        raise SettingsError(path, ["contains bytes that are not text: copy the example again"])
    names: Values = {"__file__": path, "__name__": "settings"}
    try:
        with warnings.catch_warnings():
            # Python's own warnings, about a strange escape or call, would show the line.
            warnings.simplefilter("ignore")
            exec(compile(source, path, "exec"), names)  # noqa: S102 - a Python file is what the user is promised
    except KeyboardInterrupt:
        raise
    except SyntaxError as error:
        line = f"line {error.lineno}: " if error.lineno else ""
        raise SettingsError(path, [f"{line}not Python: {error.msg}"]) from None
    except BaseException as error:  # noqa: BLE001 - SystemExit too: a settings file may not end the program
        # Only the type: the text of a NameError would contain a password that lacks its quotes.
        line = _line_in(error, path)
        hint = " (text needs quotes; True, False and None have a capital)" if isinstance(error, NameError) else ""
        raise SettingsError(path, [f"{line}{_short(type(error).__name__)} while it was read{hint}"]) from None
    return {
        name: value
        for name, value in names.items()
        if isinstance(name, str)  # globals() takes any
        and not name.startswith("_")
        and not issubclass(type(value), ModuleType)
        # A name that the user has made up is in small letters, and not similar to a key of the program.
        and (name.isupper() or _nearest(name, [*TOP, *DICTS], cutoff=0.8))
    }


@contextlib.contextmanager
def _blamed(path: str) -> Iterator[None]:
    """If a class in the file *path* raises an error while its values are checked, that is a mistake in the file."""
    try:
        yield
    except SettingsError:
        raise
    except Exception as error:
        if not (line := _line_in(error, path)):
            raise  # a bug in the program
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
    """The enabled writers; in other entries only "type" and the names of the keys are checked."""
    writers = []
    written_by: dict[str, str] = {}
    for where, name, entry in reading.entries("WRITERS", {"file": {"type": "file"}}):
        before = len(reading.mistakes)
        common = reading.keys(where, entry, WRITER_COMMON)
        if "type" not in common:
            continue
        kind = writer_type(common["type"])
        reading.unknown(where, entry, {**WRITER_COMMON, **kind.keys})
        if not common.get("enabled", True):
            continue
        options = reading.keys(where, entry, kind.keys)
        for key, found, allowed in kind.mistakes(options):
            reading.mistake(_place(where, key), found, allowed)
        for key, named in _files(common["type"], options).items():
            path = options[key] = placed(named)
            if is_own(path):
                reading.mistake(_place(where, key), show(path), "another name, the program uses this one itself")
            if path in written_by:
                reading.mistake(_place(where, key), show(path), f"a file of its own, {written_by[path]} has this one")
            written_by[path] = where
        if len(reading.mistakes) == before:
            writers.append(WriterSettings(name, common["type"], options))
    return writers


def _page(reading: _Reading) -> PageSettings | None:
    """PAGE; None if it is not set, or wrong."""
    values = _view(reading, "PAGE", page_view.KEYS)
    return None if values is None else PageSettings(**values)


def _mqtt(reading: _Reading, meters: Iterable[str]) -> MqttSettings | None:
    """MQTT, for *meters*; None if it is not set, or wrong."""
    values = _view(reading, "MQTT", mqtt_view.KEYS, mqtt_view.mistakes)
    if values is None:
        return None
    before = len(reading.mistakes)
    for name, found, allowed in mqtt_view.mistakes_of_meters(values, meters):
        reading.mistake(_place("METERS", name), found, allowed)
    return MqttSettings(**values) if len(reading.mistakes) == before else None


def _view(
    reading: _Reading,
    name: str,
    keys: Mapping[str, Key],
    mistakes: Callable[[Values], Iterable[Mistake]] = lambda _: (),
) -> Values | None:
    """The values of the setting *name*, a dict with *keys* or None; None if it is not set, or wrong."""
    entry = reading.found.get(name)
    if entry is None:
        return None
    if not isinstance(entry, dict):
        # Text instead of a dict may be the password.
        reading.mistake(name, show(entry, secret=isinstance(entry, str)), "a dict, as in settings.py.example, or None")
        return None
    entry = {key if isinstance(key, str) else show(key): value for key, value in entry.items()}
    before = len(reading.mistakes)
    reading.unknown(name, entry, keys)
    values = reading.keys(name, entry, keys)
    for key, found, allowed in mistakes(values):
        reading.mistake(_place(name, key), found, allowed)
    return values if len(reading.mistakes) == before else None


def _files(kind: str, options: Values) -> dict[str, str]:
    """By key, the paths in *options* of the files that a writer of the type *kind* writes to."""
    return {name: options[name] for name, key in writer_type(kind).keys.items() if key.file and options.get(name)}


def _check_pins(reading: _Reading, top: Values, meters: list[tuple[str, Values]]) -> None:
    """Each pin is a GPIO of the header, and has one use."""
    numbering = top.get("PIN_NUMBERING")
    # On another board's chip, the lines have that chip's own numbers.
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


def _warnings(
    path: str,
    found: Values,
    meters: list[tuple[str, Values]],
    writers: list[WriterSettings],
    *,
    page: PageSettings | None,
    mqtt: MqttSettings | None,
) -> list[str]:
    warned = [
        f'{path}: METERS["{name}"]: {values["impulses_per_kwh"]:g} impulses per kWh is one flash in '
        f"{1 / values['impulses_per_kwh']:g} kWh: if that number on the meter is Wh per impulse, set "
        f"{1000 / values['impulses_per_kwh']:g}"
        for name, values in meters
        if values["impulses_per_kwh"] < FEW_IMPULSES
    ]
    entries = found.get("WRITERS", {}).values()
    secret = any(_has_secret(entry) for entry in entries) or any(view and view.password for view in (page, mqtt))
    if secret and os.stat(path).st_mode & stat.S_IROTH:
        warned.append(f"{path}: others may read it, and it contains a password or token: chmod o-r {path}")
    for writer in writers:
        where = _place("WRITERS", writer.name)
        remarks = writer_type(writer.type).warnings(writer.options)
        warned.extend(f"{path}: {_place(where, key) if key else where}: {text}" for text, key in remarks)
    if mqtt is not None:
        remarks = mqtt_view.warnings(dataclasses.asdict(mqtt))
        warned.extend(f"{path}: {_place('MQTT', key) if key else 'MQTT'}: {text}" for text, key in remarks)
    if page is not None and not is_loopback(page.address):
        if page.password is None:
            warned.append(
                f'{path}: PAGE["password"]: None lets everyone on the network open the page, '
                "which shows when nobody is at home: set one"
            )
        else:
            warned.append(
                f'{path}: PAGE["password"]: it is sent unencrypted, so anyone on the network can read it: '
                'put a proxy with TLS before the page, and set "address" to "127.0.0.1"'
            )
    return warned


def _has_secret(entry: Values) -> bool:
    """Whether the *entry* of a writer, enabled or not, contains a password or token."""
    kind = writer_type(WRITER_COMMON["type"].check(entry["type"]))
    return any(key.secret and entry.get(name) for name, key in kind.keys.items())
