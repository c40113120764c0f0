"""
The port to the pins: :class:`Board`, and the boards that exist.

A board knows one GPIO library and, from this program, only the settings'
values, edges and errors. What an edge means is the meter's business.
"""

import collections
import contextlib
import importlib
import os
from typing import Protocol

from powermeter.errors import BoardError, NoBoardError
from powermeter.lamps import Lamp
from powermeter.meter import Edge
from powermeter.settings.values import Settings


class Board(Protocol):
    """
    One way to reach the pins: edges in, lamps out.

    Made from the settings, with the lamps' pins set up; raises
    :exc:`~powermeter.errors.BoardError` if that fails. One thread takes the
    edges, and sleeps on :meth:`fileno` in between.
    """

    #: Whether it also reports the end of a flash, so that the length of the flash can be judged.
    sees_ends: bool

    def watch(self) -> None:
        """
        Report edges from now on.

        Raises :exc:`~powermeter.errors.BoardError` if the pins can't be
        watched.
        """
        ...

    def fileno(self) -> int:
        """A file descriptor that is readable while edges wait; valid once watched."""
        ...

    def take(self) -> list[Edge]:
        """The edges that came since the last call, in order; never waits."""
        ...

    def sees_light(self, meter: int) -> bool:
        """Whether the LED of the meter at this position in the settings is lit now; only while watched."""
        ...

    def unwatch(self) -> None:
        """Stop reporting edges: one more :meth:`take` returns the last of them; may be called twice."""
        ...

    def light(self, lamp: Lamp, lit: bool) -> None:
        """Light *lamp*, or make it dark; does nothing if it is not fitted."""
        ...

    def close(self) -> None:
        """Release the pins; may be called twice."""
        ...


def lamp_pins(settings: Settings) -> dict[Lamp, int]:
    """The pins of the lamps that are fitted, numbered as in *settings*."""
    return {lamp: pin for lamp, pin in ((Lamp.L1, settings.l1_pin), (Lamp.L2, settings.l2_pin)) if pin is not None}


class EdgeQueue:
    """Passes edges from a library's thread to the recorder's, with a file descriptor to sleep on."""

    def __init__(self) -> None:
        self._edges: collections.deque[Edge] = collections.deque()
        # Not the standard library's queue: it has no descriptor, and one thread sleeps on both edges and lamps.
        self._waiting = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def put(self, edge: Edge) -> None:
        """Add *edge*; from any thread, which is never held up."""
        self._edges.append(edge)
        os.eventfd_write(self._waiting, 1)

    def fileno(self) -> int:
        """A file descriptor that is readable while edges wait."""
        return self._waiting

    def take(self) -> list[Edge]:
        """The edges that came since the last call."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._waiting)
        return [self._edges.popleft() for _ in range(len(self._edges))]

    def close(self) -> None:
        """Close the file descriptor, once no more edges come; may be called twice."""
        if self._waiting >= 0:
            os.close(self._waiting)
            self._waiting = -1


#: By GPIO_LIBRARY in the settings, the module and the class. Imported only when opened, as each needs its library.
BOARDS = {
    "gpiod": ("powermeter.boards.gpiod", "GpiodBoard"),
    "RPi.GPIO": ("powermeter.boards.rpi_gpio", "RPiGPIOBoard"),
}

#: What "auto" tries, in this order.
AUTO = ("gpiod", "RPi.GPIO")


def open_board(settings: Settings) -> Board:
    """The board of *settings*. Raises :exc:`~powermeter.errors.BoardError`."""
    names = AUTO if settings.gpio_library == "auto" else (settings.gpio_library,)
    missing: list[str] = []
    for name in names:
        module, board_class = BOARDS[name]
        try:
            board: Board = getattr(importlib.import_module(module), board_class)(settings)
        except NoBoardError as error:
            missing.append(str(error))
        except BoardError as error:
            if not missing:
                raise
            raise BoardError("; ".join([*missing, str(error)])) from error
        else:
            return board
    way_out = "" if "--simulate" in missing[-1] else "; without a Raspberry Pi: --simulate"
    raise BoardError("; ".join(missing) + way_out)
