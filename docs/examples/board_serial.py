"""
Flashes that a microcontroller counts and tells over a serial line, and lamps that it lights.

It sends one byte per flash: "0" for the first meter, "1" for the second. It is
sent one byte when a lamp changes: "A" and "a" light L1 and make it dark, "B"
and "b" L2.
"""

import contextlib
import os
import termios
import time
import tty

from powermeter.boards import lamp_pins
from powermeter.errors import BoardError, NoBoardError
from powermeter.lamps import Lamp
from powermeter.meter import Edge
from powermeter.settings.values import Settings

BYTES = {(Lamp.L1, True): b"A", (Lamp.L1, False): b"a", (Lamp.L2, True): b"B", (Lamp.L2, False): b"b"}


class SerialBoard:
    """The serial line at GPIO_CHIP."""

    #: It reports only the beginning of a flash.
    sees_ends = False

    def __init__(self, settings: Settings) -> None:
        if settings.gpio_chip is None:
            raise NoBoardError("the serial line has no path: set GPIO_CHIP")
        self._path = settings.gpio_chip
        self._meters = len(settings.meters)
        self._lamps = lamp_pins(settings)
        self._watched = False
        self._last: list[Edge] = []
        try:
            self._line = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            raise BoardError(f"{self._path}: can't be opened: {error.strerror}") from error

    def watch(self) -> None:
        """Take bytes as they are sent from now on; what waits from before is old."""
        try:
            tty.setraw(self._line)
            termios.tcflush(self._line, termios.TCIFLUSH)
        except termios.error as error:
            raise BoardError(f"{self._path}: is no serial line: {error.args[-1]}") from error
        self._watched = True

    def fileno(self) -> int:
        """The line's own: it is readable while bytes wait."""
        return self._line

    def take(self) -> list[Edge]:
        """An edge a byte. It has the time at which it was read, some ms late, as one of RPi.GPIO's has."""
        edges, self._last = self._last, []
        if not self._watched:
            return edges
        try:
            came = os.read(self._line, 4096)
        except BlockingIOError:
            return edges
        except OSError as error:
            raise BoardError(f"{self._path}: no more edges come: {error.strerror}") from error
        if not came:
            raise BoardError(f"{self._path}: no more edges come: the line has gone")
        now_ns = time.monotonic_ns()
        meters = [byte - ord("0") for byte in came]
        return [*edges, *(Edge(meter, now_ns) for meter in meters if 0 <= meter < self._meters)]

    def sees_light(self, _meter: int, /) -> bool:
        """Never: the line does not tell."""
        return False

    def unwatch(self) -> None:
        """Keep what came up to now for one more take()."""
        if self._watched:
            try:
                self._last = self.take()
            finally:
                self._watched = False

    def light(self, lamp: Lamp, lit: bool) -> None:
        """Send the lamp's byte; a line that takes none is no reason to stop counting."""
        if lamp in self._lamps and self._line >= 0:
            with contextlib.suppress(OSError):
                os.write(self._line, BYTES[lamp, lit])

    def close(self) -> None:
        """Close the line; may be called twice."""
        self._watched = False
        if self._line >= 0:
            os.close(self._line)
            self._line = -1
