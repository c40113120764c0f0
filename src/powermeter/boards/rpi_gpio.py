"""
The pins by the module ``RPi.GPIO``, be it the one of that name or rpi-lgpio's.

Only the documented interface that both share is used. Its edges have no time
of their own: the callback reads the clock, so an edge is as late as the
library's thread.
"""

import functools
import importlib
import time
from types import ModuleType

from powermeter.boards import EdgeCallback
from powermeter.errors import BoardError
from powermeter.lamps import Lamp
from powermeter.settings import Settings

#: What to do where the library is missing. PyPI has wheels of its lgpio for Python 3.11 alone (lgpio 0.2.2.0).
INSTALL = (
    "on a Raspberry Pi: pip install rpi-lgpio; or, where pip finds no wheel: apt install python3-rpi-lgpio and a "
    "virtual environment made with --system-site-packages; elsewhere: --simulate"
)


class RPiGPIOBoard:
    """The header's pins as *settings* name them."""

    def __init__(self, settings: Settings) -> None:
        self._gpio = gpio = _imported()
        self._inputs = [meter.pin for meter in settings.meters]
        self._outputs = {
            lamp: pin for lamp, pin in ((Lamp.L1, settings.l1_pin), (Lamp.L2, settings.l2_pin)) if pin is not None
        }
        self._taken: list[int] = []
        self._watched: list[int] = []
        try:
            gpio.setwarnings(False)  # a program that was killed leaves its pins set up, that is no news
            gpio.setmode(gpio.BOARD if settings.pin_numbering == "BOARD" else gpio.BCM)
            for pin in self._inputs:
                # No pull: the circuit has its own, and a second one would shift its levels.
                gpio.setup(pin, gpio.IN, pull_up_down=gpio.PUD_OFF)
                self._taken.append(pin)
            for pin in self._outputs.values():
                gpio.setup(pin, gpio.OUT, initial=gpio.LOW)
                self._taken.append(pin)
        except Exception as error:
            self.close()
            raise BoardError(f"RPi.GPIO: the pins can't be set up: {_text(error)}; {INSTALL}") from error

    def watch(self, edge: EdgeCallback) -> None:
        """Call *edge* for each falling edge, on the library's thread."""
        for index, pin in enumerate(self._inputs):
            try:
                # Not the library's bouncetime: it drops a flash shorter than itself.
                self._gpio.add_event_detect(pin, self._gpio.FALLING, callback=functools.partial(_stamp, edge, index))
            except Exception as error:
                raise BoardError(
                    f"RPi.GPIO: pin {pin} can't be watched: {_text(error)}: RPi.GPIO itself does not work "
                    f"with Linux 6.6 and newer, rpi-lgpio does: pip uninstall RPi.GPIO; {INSTALL}"
                ) from error
            self._watched.append(pin)

    def unwatch(self) -> None:
        """End the edges."""
        while self._watched:
            self._gpio.remove_event_detect(self._watched.pop())

    def light(self, lamp: Lamp, lit: bool) -> None:
        """Set the lamp's pin."""
        pin = self._outputs.get(lamp)
        if pin in self._taken:
            self._gpio.output(pin, self._gpio.HIGH if lit else self._gpio.LOW)

    def close(self) -> None:
        """Give the pins back as inputs."""
        self.unwatch()
        # Never all of them: a cleanup() without pins takes those of others.
        if self._taken:
            self._gpio.cleanup(self._taken)
            self._taken = []


def _stamp(edge: EdgeCallback, index: int, _channel: int) -> None:
    """What the library calls for an edge: a clock reading and a queue, nothing that can fail or wait."""
    edge((index, time.monotonic_ns()))


def _imported() -> ModuleType:
    try:
        return importlib.import_module("RPi.GPIO")
    except ImportError as error:
        raise BoardError(f"the library RPi.GPIO is missing: {INSTALL}") from error
    except Exception as error:
        raise BoardError(f"RPi.GPIO does not work here: {_text(error)}; {INSTALL}") from error


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
