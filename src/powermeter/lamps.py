"""
The two lamps: L1 flashes with the pulses, L2 shows the state.

Owns one thread, asleep while nothing changes; a pulse costs no thread and, in
a train of pulses, no wake-up either.
"""

import contextlib
import enum
import queue
import time
from collections.abc import Callable

#: L1 is lit this long for a pulse, in s; in a train it is lit and dark by turns, this long each.
FLASH_S = 0.1
TRAIN_S = 0.05


class Condition(enum.Enum):
    """What L2 shows; the value is half the period of its blinking in s, None for steady."""

    WELL = None
    FAILING = 0.5
    INPUT_FAULT = 0.1


class Lamp(enum.Enum):
    """The lamps, by their names on the circuit."""

    L1 = "L1"
    L2 = "L2"


class Lamps:
    """
    Lights L1 and L2 by *light*, from :meth:`run`'s thread alone.

    Both are dark when that has ended. *light* may do nothing for a lamp that
    is not fitted.
    """

    def __init__(self, light: Callable[[Lamp, bool], None]) -> None:
        self._light = light
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stopping = False
        #: A pulse that L1 has not shown.
        self._flash = False
        #: The thread looks at _flash by itself when L1's present phase ends: a pulse need not wake it.
        self._l1_busy = False
        self._l1_lit = False
        self._l1_end_s = 0.0
        self._condition = Condition.WELL
        self._l2_shown: Condition | None = None
        self._l2_lit = False
        self._l2_end_s = 0.0

    def flash(self) -> None:
        """Show that pulses came, on L1; from any thread."""
        # This order, and the reverse in _step_l1: a pulse between the two is seen by one of them.
        self._flash = True
        if not self._l1_busy:
            self._wake.put(None)

    def show(self, condition: Condition) -> None:
        """Show *condition* on L2; from any thread."""
        self._condition = condition
        self._wake.put(None)

    def stop(self) -> None:
        """Let :meth:`run` end; from any thread."""
        self._stopping = True
        self._wake.put(None)

    def run(self) -> None:
        """Keep the lamps until stopped."""
        while not self._stopping:
            now_s = time.monotonic()
            self._step_l1(now_s)
            self._step_l2(now_s)
            ends_s = [self._l1_end_s] if self._l1_busy else []
            ends_s += [self._l2_end_s] if self._condition.value else []
            with contextlib.suppress(queue.Empty):
                self._wake.get(timeout=max(0.0, min(ends_s) - now_s) if ends_s else None)
        self._light(Lamp.L1, False)
        self._light(Lamp.L2, False)

    def _step_l1(self, now_s: float) -> None:
        """Lit for a pulse, then dark for TRAIN_S at least; a pulse that waited through that is part of a train."""
        if now_s < self._l1_end_s and self._l1_busy:
            return
        if self._l1_lit:
            self._light(Lamp.L1, False)
            self._l1_lit, self._l1_end_s = False, now_s + TRAIN_S
            self._l1_busy = False
            self._l1_busy = self._flash
        elif self._flash and now_s < self._l1_end_s:
            self._l1_busy = True
        elif self._flash:
            self._flash = False
            self._light(Lamp.L1, True)
            self._l1_lit, self._l1_end_s = True, now_s + (TRAIN_S if self._l1_busy else FLASH_S)
            self._l1_busy = True

    def _step_l2(self, now_s: float) -> None:
        """Steady, or lit and dark by turns."""
        condition = self._condition
        half_s = condition.value
        if condition is self._l2_shown and (half_s is None or now_s < self._l2_end_s):
            return
        lit = half_s is None or condition is not self._l2_shown or not self._l2_lit
        self._light(Lamp.L2, lit)
        self._l2_shown, self._l2_lit, self._l2_end_s = condition, lit, now_s + (half_s or 0.0)
