"""
Readings: what a meter's display (its face) showed at one moment, and how well that agrees with what was counted.

Pure: no clock and no file.
"""

import re
from dataclasses import dataclass

from powermeter.meter import JOULES_PER_KWH

#: A reading as it is typed: digits, and after a point the decimals of the face, if any.
TYPED = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,6}))?")


@dataclass(frozen=True, slots=True)
class Reading:
    """
    The face of *meter* showed *face_kwh* after the pulse *count*, at *time_ns* (UTC, ns).

    It was typed with *decimals* decimals; the register was *register_kwh*
    before. A *base* is not compared with earlier readings.
    """

    meter: str
    time_ns: int
    count: int
    face_kwh: float
    decimals: int
    register_kwh: float
    base: bool

    @property
    def last_digit_kwh(self) -> float:
        """The value of one step of the last digit: a face shows nothing smaller."""
        return float(10.0**-self.decimals)


@dataclass(frozen=True, slots=True)
class Drift:
    """
    How far the face of a meter moved since the reading *since*, and how much was counted meanwhile, in kWh.

    Nothing could be counted for *uncovered_s* of that time.

    >>> since = Reading("house", 0, 1000, 12345.6, 1, 1.0, True)
    >>> drift = Drift(since, 10.0, 9.95, 1000, 1, 0.0)
    >>> round(drift.difference_kwh, 6), round(drift.flashes), round(drift.per_cent, 6), drift.is_explained
    (-0.05, -50, -0.5, True)
    """

    since: Reading
    moved_kwh: float
    counted_kwh: float
    impulses_per_kwh: float
    decimals: int
    uncovered_s: float

    @property
    def difference_kwh(self) -> float:
        """How much more was counted than the face moved; negative if it was less."""
        return self.counted_kwh - self.moved_kwh

    @property
    def flashes(self) -> float:
        """The difference in flashes."""
        return self.difference_kwh * self.impulses_per_kwh

    @property
    def per_cent(self) -> float | None:
        """The difference in per cent of what the face moved; None if it did not move."""
        return 100 * self.difference_kwh / self.moved_kwh if self.moved_kwh else None

    @property
    def explained_kwh(self) -> float:
        """
        How large a difference the last digits can explain.

        The part that the face hides in this reading makes it move less than was
        counted; the part that it hid in the last one makes it move more.
        """
        return float(10.0**-self.decimals) if self.difference_kwh > 0 else self.since.last_digit_kwh

    @property
    def is_explained(self) -> bool:
        """Whether the last digits, and one flash that was not complete yet, can explain the difference."""
        return abs(self.difference_kwh) < self.explained_kwh + 1 / self.impulses_per_kwh


def parse(typed: str) -> tuple[float, int]:
    """
    The kWh of a reading as it was typed, and how many decimals it has. Raises :exc:`ValueError`.

    >>> parse("12345.60")
    (12345.6, 2)
    """
    found = TYPED.fullmatch(typed)
    if found is None:
        raise ValueError(
            f"found {typed!r}, allowed: kWh as the meter shows them, with a point before the decimals, as 12345.6"
        )
    return float(typed), len(found[2] or "")


def refusal(face_kwh: float, decimals: int, before: Reading, now_ns: int, max_watts: float) -> str:
    """
    Why a face of *face_kwh* can't follow the reading *before*; "" if it can.

    *max_watts* is the highest power that the meter can measure, in W; *now_ns* is when the face was read (UTC, ns).
    """
    # In units of the last digit: with fewer digits than before, the face may have shown more than was typed.
    units = 10 ** max(decimals, before.decimals)
    if round(face_kwh * units) + units // 10**decimals <= round(before.face_kwh * units):
        return f"it is lower than the last reading, {shown(before.face_kwh, before.decimals)} kWh"
    seconds = max(0.0, (now_ns - before.time_ns) / 1e9)
    most_kwh = max_watts * seconds / JOULES_PER_KWH + before.last_digit_kwh
    if face_kwh - before.face_kwh > most_kwh:
        moved = shown(face_kwh - before.face_kwh, max(decimals, before.decimals))
        return f"it is {moved} kWh more than the last reading, and max_watts allows {most_kwh:.1f} kWh since"
    return ""


def shown(kwh: float, decimals: int) -> str:
    """
    *kwh* with *decimals* decimals, as it may be typed.

    >>> shown(12345.6, 1)
    '12345.6'
    """
    return f"{kwh:.{decimals}f}"
