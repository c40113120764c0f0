"""
The port to the pins: :class:`Board`, and the boards there are.

A board knows one library of pins and, of ours, only the settings' values and
errors. All that follows an edge is the recorder's.
"""

import importlib
from collections.abc import Callable
from typing import Protocol

from powermeter.lamps import Lamp
from powermeter.settings import Settings

#: Takes an edge: the meter's place in the settings, and the monotonic time in ns.
EdgeCallback = Callable[[tuple[int, int]], None]


class Board(Protocol):
    """
    One way to the pins: edges in, lamps out.

    Made from the settings, with every pin set up; raises
    :exc:`~powermeter.errors.BoardError` where that fails.
    """

    def watch(self, edge: EdgeCallback) -> None:
        """
        Call *edge* for every falling edge, from now on and from any thread.

        Raises :exc:`~powermeter.errors.BoardError` where the pins can't be
        watched.
        """
        ...

    def unwatch(self) -> None:
        """End the edges: none comes after this returns; may be called twice."""
        ...

    def light(self, lamp: Lamp, lit: bool) -> None:
        """Light *lamp*, or make it dark; nothing where it is not fitted."""
        ...

    def close(self) -> None:
        """Let go of the pins; may be called twice."""
        ...


#: GPIO_LIBRARY in the settings, the module and the class. Imported when opened: each needs its library.
BOARDS = {
    "RPi.GPIO": ("powermeter.boards.rpi_gpio", "RPiGPIOBoard"),
}

#: What "auto" tries, in this order.
AUTO = ("RPi.GPIO",)


def open_board(settings: Settings) -> Board:
    """The board of *settings*. Raises :exc:`~powermeter.errors.BoardError`."""
    name = AUTO[0] if settings.gpio_library == "auto" else settings.gpio_library
    module, board_class = BOARDS[name]
    board: Board = getattr(importlib.import_module(module), board_class)(settings)
    return board
