"""
The settings as frozen values, and the names that they share with the rest of the program.

Code that uses the settings knows only this module, not how they are read.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

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
    """The part of the settings that reports need: DATA_DIR, None if it is not set, and how each meter is shown."""

    data_dir: str | None
    meters: dict[str, ShownAs]


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """One enabled entry of WRITERS; *options* has all keys of its type, a secret one as a :class:`Secret`."""

    name: str
    type: str
    options: Values


@dataclass(frozen=True, slots=True)
class PageSettings:
    """PAGE: the *address* and *port* on which the page listens; *password*: None for no password."""

    address: str
    port: int
    password: Secret | None


@dataclass(frozen=True, slots=True)
class MqttSettings:
    """
    MQTT: the broker, the user for it, and the *topic* below which everything is published.

    *discovery* is Home Assistant's prefix, None if the meters are not announced
    to it. A meter is published at most once per *update_period* (s).
    """

    host: str
    port: int
    username: str | None
    password: Secret | None
    ssl: bool
    verify_ssl: bool | str
    topic: str
    discovery: str | None
    update_period: float


@dataclass(frozen=True, slots=True)
class Settings:
    """
    What the user has set, checked, with the defaults filled in.

    *data_dir* is absolute, and so is *log_file* if it is set. *page* and *mqtt*
    are None if there is no such view. *left_out* names the writers and views
    that invented watts do not go to, such as "writer influxdb". *warnings* are
    lines for the user that do not prevent a start.
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
    page: PageSettings | None
    mqtt: MqttSettings | None
    left_out: tuple[str, ...]
    warnings: tuple[str, ...]


#: Header pins that are a GPIO, by board number, and the GPIO's own; the others are power, ground or the HAT's EEPROM
#: (Raspberry Pi documentation, "GPIO and the 40-pin header").
# fmt: off
BOARD_TO_BCM = {
    3: 2, 5: 3, 7: 4, 8: 14, 10: 15, 11: 17, 12: 18, 13: 27, 15: 22, 16: 23, 18: 24, 19: 10, 21: 9, 22: 25, 23: 11,
    24: 8, 26: 7, 29: 5, 31: 6, 32: 12, 33: 13, 35: 19, 36: 16, 37: 26, 38: 20, 40: 21,
}
# fmt: on

#: The names of the program's own files in DATA_DIR, and of a log. No file named in the settings may have one of these
#: names: lines in the journal would destroy it, and closing it or the lock file would release the lock.
OWN_FILES = frozenset(
    {"journal.db", "journal.db-wal", "journal.db-shm", "lock", "power.pid", "power.pid.sock", "power.log"}
)

#: Any name in DATA_DIR that begins like this belongs to the journal, too, such as the files that a salvage makes.
JOURNAL = "journal.db"
