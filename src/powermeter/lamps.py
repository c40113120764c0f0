"""
The two lamps: L1 flashes with the pulses, L2 shows the state.

Has no thread: the recorder also steps the lamps, since a pulse wakes it anyway.
"""

import enum
import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

#: L1 is lit for FLASH_S for a pulse, in s; when pulses follow each other closely it is lit and dark for TRAIN_S each.
FLASH_S = 0.1
TRAIN_S = 0.05

#: A phase that ends within this time, in s, ends now: no eye sees the difference, and it saves a wake-up.
SLACK_S = 0.01


class Condition(enum.Enum):
    """What L2 shows; the value is half the period of its blinking, in s, None for steady light."""

    WELL = None
    FAILING = 0.5
    INPUT_FAULT = 0.1


class Lamp(enum.Enum):
    """The lamps, by their names in the circuit diagram."""

    L1 = "L1"
    L2 = "L2"


class Lamps:
    """
    Switches L1 and L2 with *light*; used by one thread, except for :meth:`show`.

    *light* may do nothing for a lamp that is not fitted.
    """

    def __init__(self, light: Callable[[Lamp, bool], None]) -> None:
        self._set = light
        self._failed: set[Lamp] = set()
        #: Whether there is a pulse that L1 has not shown yet.
        self._flash = False
        #: Whether L1 is lit, or dark with a pulse waiting: its phase then ends at _l1_end_s.
        self._l1_busy = False
        self._l1_lit = False
        self._l1_end_s = 0.0
        self._condition = Condition.WELL
        self._l2_shown: Condition | None = None
        self._l2_lit = False
        self._l2_half_s: float | None = None
        self._l2_end_s = 0.0

    def flash(self) -> None:
        """Have L1 show, with the next step, that pulses came."""
        self._flash = True

    def show(self, condition: Condition) -> None:
        """Have L2 show *condition* with the next step; from any thread."""
        self._condition = condition

    @property
    def flashing(self) -> bool:
        """Whether L1 is in a phase that no pulse can change."""
        return self._l1_busy

    def step(self, now_s: float) -> float | None:
        """Set both lamps for the time *now_s*; return when to step next, None if only after the next change."""
        if self._flash or self._l1_busy:
            self._step_l1(now_s)
        if self._l2_half_s is not None or self._condition is not self._l2_shown:
            self._step_l2(now_s)
        if self._l1_busy:
            return self._l1_end_s if self._l2_half_s is None else min(self._l1_end_s, self._l2_end_s)
        return None if self._l2_half_s is None else self._l2_end_s

    def dark(self) -> None:
        """Make both dark."""
        self._light(Lamp.L1, False)
        self._light(Lamp.L2, False)

    def _light(self, lamp: Lamp, lit: bool) -> None:
        try:
            self._set(lamp, lit)
        except Exception as error:  # noqa: BLE001 - any error of a library: a lamp is no reason to stop counting
            if lamp not in self._failed:
                log.error("%s can't be lit: %s", lamp.value, error)
                self._failed.add(lamp)

    def _step_l1(self, now_s: float) -> None:
        """Light L1 for a pulse, then keep it dark for at least TRAIN_S; a pulse that waited for that is in a train."""
        ended = now_s >= self._l1_end_s - SLACK_S
        if self._l1_lit:
            if ended:
                self._light(Lamp.L1, False)
                self._l1_lit, self._l1_busy, self._l1_end_s = False, self._flash, now_s + TRAIN_S
        elif self._flash and not ended:
            self._l1_busy = True
        elif self._flash:
            self._light(Lamp.L1, True)
            self._flash, self._l1_lit = False, True
            self._l1_end_s = now_s + (TRAIN_S if self._l1_busy else FLASH_S)
            self._l1_busy = True

    def _step_l2(self, now_s: float) -> None:
        """Light L2 steadily, or let it blink."""
        condition = self._condition
        changed = condition is not self._l2_shown
        if not changed and now_s < self._l2_end_s - SLACK_S:
            return
        half_s = self._l2_half_s = condition.value
        lit = changed or not self._l2_lit
        self._light(Lamp.L2, lit)
        self._l2_shown, self._l2_lit, self._l2_end_s = condition, lit, now_s + (half_s or 0.0)
