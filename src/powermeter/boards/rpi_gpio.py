"""
The pins with the module ``RPi.GPIO``, either the original or that of rpi-lgpio.

Only the documented interface that both share is used. Its edges carry no time:
the callback reads the clock, so an edge is as late as the library's thread.
After the program was stalled, the waiting edges come all at once, and all but
one of them fall within the hold-off: :class:`_Witness` tells them apart from
bounce, so that the flashes lost in a stall are known.
"""

import functools
import importlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from types import ModuleType

from powermeter.boards import EdgeQueue, lamp_pins
from powermeter.errors import BoardError, NoBoardError
from powermeter.lamps import Lamp
from powermeter.meter import NS_PER_S, Edge
from powermeter.settings.values import Settings

#: What to do if the library is missing. PyPI has wheels of its lgpio only for Python 3.11 (lgpio 0.2.2.0).
INSTALL = (
    "on a Raspberry Pi: venv/bin/pip install rpi-lgpio, or where it finds no wheel apt install python3-rpi-lgpio and "
    "a virtual environment made with --system-site-packages; elsewhere: --simulate"
)

#: The time between setmode() and the request for edges, in s. Without it rpi-lgpio 0.6 reports no edges in 2 of 100
#: starts; with it, in none of 200.
SETTLE_S = 0.1

#: How often to check for a stall, in s, and how late the check must be to show one. A stall longer than both together
#: is always found; a shorter one only if a check was due during it.
WITNESS_S = 2.0
STALL_S = 0.2


class RPiGPIOBoard:
    """The header's pins that *settings* name."""

    sees_ends = False

    def __init__(self, settings: Settings) -> None:
        if judged := [meter.name for meter in settings.meters if meter.min_flash_ms is not None]:
            raise BoardError(f"min_flash_ms of {judged[0]}: RPi.GPIO does not tell how long a flash is, gpiod does")
        self._gpio = gpio = _imported()
        self._edges = EdgeQueue()
        self._witness = _Witness()
        self._inputs = [meter.pin for meter in settings.meters]
        self._lit_high = [meter.lit == "high" for meter in settings.meters]
        self._outputs = lamp_pins(settings)
        self._taken: list[int] = []
        self._watched: list[int] = []
        try:
            gpio.setwarnings(False)  # a killed program leaves its pins set up: no reason to warn
            gpio.setmode(gpio.BOARD if settings.pin_numbering == "BOARD" else gpio.BCM)
            self._settled_s = time.monotonic() + SETTLE_S
            for meter in settings.meters:
                # None by default: the circuit has its own pull resistor, and a second one would shift its levels.
                pull = {"up": gpio.PUD_UP, "down": gpio.PUD_DOWN}[meter.pull] if meter.pull else gpio.PUD_OFF
                gpio.setup(meter.pin, gpio.IN, pull_up_down=pull)
                self._taken.append(meter.pin)
            for pin in self._outputs.values():
                gpio.setup(pin, gpio.OUT, initial=gpio.LOW)
                self._taken.append(pin)
        except Exception as error:
            self.close()
            raise BoardError(f"RPi.GPIO: the pins can't be set up: {_text(error)}; {INSTALL}") from error

    def watch(self) -> None:
        """Have the library call back, on its thread, for each edge with which the LED lights up."""
        time.sleep(max(0.0, self._settled_s - time.monotonic()))
        self._witness.start()
        for index, pin in enumerate(self._inputs):
            try:
                # Not the library's bouncetime: it drops a flash shorter than itself.
                self._gpio.add_event_detect(
                    pin,
                    self._gpio.RISING if self._lit_high[index] else self._gpio.FALLING,
                    callback=functools.partial(_stamp, self._edges.put, self._witness, index),
                )
            except Exception as error:
                raise BoardError(
                    f"RPi.GPIO: pin {pin} can't be watched: {_text(error)}: RPi.GPIO itself does not work "
                    f"with Linux 6.6 and newer, rpi-lgpio does: venv/bin/pip uninstall RPi.GPIO; {INSTALL}"
                ) from error
            self._watched.append(pin)

    def fileno(self) -> int:
        """The queue's file descriptor."""
        return self._edges.fileno()

    def take(self) -> list[Edge]:
        """The edges that the callbacks have put on the queue."""
        return self._edges.take()

    def sees_light(self, meter: int) -> bool:
        """Whether the input is at the level that means a lit LED."""
        lit = self._gpio.HIGH if self._lit_high[meter] else self._gpio.LOW
        return bool(self._gpio.input(self._inputs[meter]) == lit)

    def unwatch(self) -> None:
        """Stop reporting edges."""
        while self._watched:
            self._gpio.remove_event_detect(self._watched.pop())
        self._witness.stop()

    def light(self, lamp: Lamp, lit: bool) -> None:
        """Set the lamp's pin."""
        pin = self._outputs.get(lamp)
        if pin in self._taken:
            self._gpio.output(pin, self._gpio.HIGH if lit else self._gpio.LOW)

    def close(self) -> None:
        """Release the pins, which become inputs."""
        self.unwatch()
        # Never without pins: cleanup() would then also reset those of others.
        if self._taken:
            self._gpio.cleanup(self._taken)
            self._taken = []
        self._edges.close()


class _Witness:
    """
    A thread that only sleeps: if it overslept, the program was stalled and edges came late.

    An edge that comes while the thread is overdue, or just after, was held up
    by a stall. The library's callbacks ask for this, as nothing else tells them.
    """

    def __init__(self) -> None:
        self._alive_ns = 0
        self._late_until_ns = 0
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._alive_ns = time.monotonic_ns()
        self._thread = threading.Thread(target=self._run, name="stalls", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.wait(WITNESS_S):
            self.is_late(time.monotonic_ns())
            self._alive_ns = time.monotonic_ns()

    def is_late(self, now_ns: int) -> bool:
        """Whether an edge whose callback runs now was held up."""
        if now_ns - self._alive_ns > (WITNESS_S + STALL_S) * NS_PER_S:
            self._late_until_ns = now_ns + round(STALL_S * NS_PER_S)
        return now_ns < self._late_until_ns

    def stop(self) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _stamp(put: Callable[[Edge], None], witness: _Witness, index: int, _channel: int) -> None:
    """The library's callback for an edge: reads the clock and fills the queue, which can neither fail nor wait."""
    now_ns = time.monotonic_ns()
    put(Edge(index, now_ns, late=witness.is_late(now_ns)))


def _imported() -> ModuleType:
    # lgpio, which rpi-lgpio uses, makes a FIFO in the working directory; or in $LG_WD, and then changes to that
    # directory. Once both ends of the FIFO are open, nobody needs its name.
    here = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with tempfile.TemporaryDirectory(prefix="power.") as directory:
            os.environ["LG_WD"] = directory
            try:
                return importlib.import_module("RPi.GPIO")
            finally:
                del os.environ["LG_WD"]
    except ImportError as error:
        raise NoBoardError(f"the library RPi.GPIO is missing: {INSTALL}") from error
    except Exception as error:
        raise BoardError(f"RPi.GPIO does not work here: {_text(error)}; {INSTALL}") from error
    finally:
        os.fchdir(here)
        os.close(here)


def _text(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
