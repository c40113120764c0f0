"""How the running program is doing, as values: built in one place, the monitor, and read by every view."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

#: How many decimals of a meter's numbers mean something. A flash is 1 mWh at the very least, and its length is measured
#: to about a microsecond.
DIGITS = {"watts": 1, "kwh_today": 6, "register_kwh": 6, "energy_kwh": 6, "flash_ms": 3}


@dataclass(frozen=True, slots=True)
class MeterStatus:
    """
    One meter; None is "not known".

    *watts* is a bound if *watts_is_bound*: the power is at most that. *kwh_today*
    and *pulses_today* are of the local day, *pulses* and *register_kwh* of all
    time, *energy_kwh* of what the journal's file has of all time, whatever the
    register was set to. The counts below are of the time since the program's start. *flash_ms* is
    the length of the last flash. *label* is the name that is shown, None for the
    meter's own; *direction* is "import" or "export".
    """

    label: str | None
    direction: str
    watts: float | None
    watts_is_bound: bool
    pulses_today: int | None
    kwh_today: float | None
    pulses: int | None
    register_kwh: float | None
    energy_kwh: float | None
    rejected: int
    rejected_after_stall: int
    too_short: int
    counted_without_being_seen: int
    flash_ms: float | None
    silent: bool
    stuck: bool
    flickers: bool
    noisy: bool

    @property
    def faulty(self) -> bool:
        """Whether its input does not do what it should."""
        return self.silent or self.stuck or self.flickers or self.noisy


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """
    One writer: its *state* ("ok", "waiting", "failing") and why, how many pulses wait; None is "not known".

    *batch_s* is how long a pulse may wait for its batch while the writer is ok.
    """

    state: str
    reason: str
    waiting: int | None
    oldest_s: float | None
    batch_s: float
    refused: int
    skipped: int


@dataclass(frozen=True, slots=True)
class ViewStatus:
    """One view that other programs or people are served by: its *state* ("ok", "waiting", "failing"), and why."""

    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClockStatus:
    """Whether the clock is *waiting* to be right, and for how much longer it is waited for at the most, in s."""

    waiting: bool
    waits_s: int


@dataclass(frozen=True, slots=True)
class JournalStatus:
    """Why it can't be written, "" while it can; the pulses in memory, and those that found no place there."""

    failing: str
    uncommitted: int
    dropped: int


@dataclass(frozen=True, slots=True)
class LogStatus:
    """Why it can't be written, "" while it can."""

    failing: str


@dataclass(frozen=True, slots=True)
class Status:
    """
    All of it, at one moment; meters, writers and views by their names, in the order of the settings.

    *simulate* is the load in W, True for a household, None for the real pins;
    *left_out* names what the invented watts do not go to, as "writer influxdb".
    *settings* is the path of its settings, *data_dir* where its journal is.
    """

    version: str
    pid: int
    uptime_s: float
    running: bool
    simulate: float | bool | None
    left_out: Sequence[str]
    settings: str
    data_dir: str
    clock: ClockStatus
    journal: JournalStatus
    log: LogStatus
    meters: Mapping[str, MeterStatus]
    writers: Mapping[str, WriterStatus]
    views: Mapping[str, ViewStatus]

    def as_dict(self) -> dict[str, Any]:
        """The same, as JSON can hold it; each number has only the digits that mean something."""
        found = dataclasses.asdict(self)
        for meter in found["meters"].values():
            meter |= {key: round(meter[key], digits) for key, digits in DIGITS.items() if meter[key] is not None}
        return found

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> "Status":
        """
        The status that :meth:`as_dict` gave *found* of.

        What this version does not know is passed over. Raises :exc:`TypeError` where something is missing: another
        version of the program wrote it.
        """
        parts = {"clock": ClockStatus, "journal": JournalStatus, "log": LogStatus}
        several = {"meters": MeterStatus, "writers": WriterStatus, "views": ViewStatus}
        values = dict(found)
        values |= {name: _known(kind, values.get(name, {})) for name, kind in parts.items()}
        for name, kind in several.items():
            values[name] = {key: _known(kind, of) for key, of in values.get(name, {}).items()}
        return _known(cls, values)


def _known(kind: type[T], values: Mapping[str, Any]) -> T:
    """A *kind* of those of the *values* that it has."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # all of them are dataclasses
    return kind(**{name: value for name, value in values.items() if name in names})
