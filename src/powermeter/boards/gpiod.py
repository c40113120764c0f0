"""
The pins with libgpiod 2: the kernel timestamps every edge and buffers the latest ones.

One request holds all inputs, so that their edges arrive in one order. Both
rising and falling edges are requested. A stalled program loses no edge that
fits into the kernel's buffer. The kernel drops those that don't, oldest first,
and its sequence numbers tell how many.

The library makes the requests. The edges are read from the request's file
descriptor as the kernel writes them, struct gpio_v2_line_event in
include/uapi/linux/gpio.h: the library would make an object of each, only for
this module to take it apart again.
"""

import contextlib
import errno
import glob
import importlib
import os
import struct
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from powermeter.boards import lamp_pins
from powermeter.errors import BoardError, NoBoardError, TakenError
from powermeter.lamps import Lamp
from powermeter.meter import Edge
from powermeter.settings.values import BOARD_TO_BCM, Settings

#: The most edges that the kernel buffers for a request: 16 for each of 64 lines (drivers/gpio/gpiolib-cdev.c).
EDGES_KEPT = 1024

#: An edge: its time (ns), its direction, the line, and its sequence numbers within the request and within the line.
EVENT = struct.Struct("=QIIII24x")
RISING, FALLING = 1, 2
NUMBERS = 2**32

#: The labels of the chips that drive the header: on the Pi 1 to 4 (bcm2835, bcm2711), and on the Pi 5.
LABELS = ("pinctrl-bcm", "pinctrl-rp1")

CONSUMER = "power"

#: What to do if the library is missing. PyPI has no wheels of it for 32-bit Arm (2.5).
INSTALL = (
    "venv/bin/pip install gpiod, or on Debian 13 and newer apt install python3-libgpiod and a virtual environment made "
    "with --system-site-packages"
)


class GpiodBoard:
    """The header's pins that *settings* name."""

    sees_ends = True

    def __init__(self, settings: Settings) -> None:
        self._gpiod = _imported()
        #: The meters' lines, in the order of the meters; and by line the meter's position.
        self._lines = tuple(_line(meter.pin, settings) for meter in settings.meters)
        self._meters = {line: index for index, line in enumerate(self._lines)}
        #: By line, the edge with which the LED lights up; and each meter's pull resistor.
        self._falling = {
            line: FALLING if meter.lit == "low" else RISING
            for line, meter in zip(self._lines, settings.meters, strict=True)
        }
        self._pulls = [meter.pull for meter in settings.meters]
        self._lamps = {lamp: _line(pin, settings) for lamp, pin in lamp_pins(settings).items()}
        self._inputs: Any = None
        self._outputs: Any = None
        #: By line, the kernel's sequence number of its last edge.
        self._numbers = dict.fromkeys(self._lines, 0)
        self._last: list[Edge] = []
        self._fd = -1
        self._path, self._chip = _chip(self._gpiod, settings.gpio_chip)
        try:
            if self._lamps:
                dark = self._gpiod.LineSettings(
                    direction=self._gpiod.line.Direction.OUTPUT, output_value=self._gpiod.line.Value.INACTIVE
                )
                self._outputs = self._requested(dict.fromkeys(self._lamps.values(), dark))
        except BaseException:
            self.close()
            raise

    def _requested(self, config: Mapping[int, Any]) -> Any:
        """Request the lines of *config*, each with its settings; if they are in use, the error names the user."""
        lines = tuple(config)
        try:
            return self._chip.request_lines(config, consumer=CONSUMER, event_buffer_size=EDGES_KEPT)
        except OSError as error:
            if error.errno == errno.EBUSY:
                used = [info for info in map(self._chip.get_line_info, lines) if info.used]
                who = ", ".join(f"GPIO{info.offset} by {info.consumer or 'a driver'}" for info in used)
                raise TakenError(
                    f"{self._path}: in use: {who or lines}: stop that, or choose other pins",
                    by_power={info.consumer for info in used} == {CONSUMER},
                ) from error
            raise BoardError(f"{self._path}: the pins can't be requested: {error.strerror}") from error
        except ValueError as error:
            raise BoardError(f"{self._path}: has no GPIO{max(lines)}: check GPIO_CHIP and the pins") from error

    def watch(self) -> None:
        """Ask the kernel for the edges of all inputs."""
        line = self._gpiod.line
        # With no pull set, the Pi's own is disabled, not left alone: after a boot most pins of a Pi are pulled down.
        biases = {None: line.Bias.DISABLED, "up": line.Bias.PULL_UP, "down": line.Bias.PULL_DOWN}
        self._inputs = self._requested(
            {
                number: self._gpiod.LineSettings(
                    direction=line.Direction.INPUT,
                    edge_detection=line.Edge.BOTH,
                    bias=biases[pull],
                    # Not the kernel's debounce: it drops a flash shorter than itself.
                    event_clock=line.Clock.MONOTONIC,
                )
                for number, pull in zip(self._lines, self._pulls, strict=True)
            }
        )
        self._fd = self._inputs.fd
        os.set_blocking(self._fd, False)

    def fileno(self) -> int:
        """The kernel's file descriptor of the request."""
        return self._fd

    def take(self) -> list[Edge]:
        """The edges that the kernel has buffered."""
        edges, self._last = self._last, []
        if self._inputs is None:
            return edges
        try:
            events = os.read(self._fd, EDGES_KEPT * EVENT.size)
        except BlockingIOError:
            return edges
        except OSError as error:
            raise BoardError(f"{self._path}: no more edges come: {error.strerror}") from error
        numbers = self._numbers
        for at_ns, kind, line, _, number in EVENT.iter_unpack(events):
            lost = (number - numbers[line] - 1) % NUMBERS
            numbers[line] = number
            edges.append(Edge(self._meters[line], at_ns, kind == self._falling[line], lost))
        return edges

    def sees_light(self, meter: int) -> bool:
        """Whether the input is at the level that means a lit LED."""
        if self._inputs is None:
            return False
        line = self._lines[meter]
        is_high = self._inputs.get_value(line) is self._gpiod.line.Value.ACTIVE
        return bool(is_high == (self._falling[line] == RISING))

    def unwatch(self) -> None:
        """Release the inputs; edges that the kernel had buffered can still be taken."""
        if self._inputs is not None:
            try:
                self._last = self.take()
            finally:
                inputs, self._inputs = self._inputs, None
                inputs.release()

    def light(self, lamp: Lamp, lit: bool) -> None:
        """Set the lamp's line."""
        if self._outputs is not None and lamp in self._lamps:
            value = self._gpiod.line.Value
            self._outputs.set_value(self._lamps[lamp], value.ACTIVE if lit else value.INACTIVE)

    def close(self) -> None:
        """Release all lines."""
        with contextlib.ExitStack() as stack:
            # Up to libgpiod 2.2, a chip may be closed only once.
            if self._chip is not None:
                stack.callback(self._chip.close)
                self._chip = None
            if self._outputs is not None:
                stack.callback(self._outputs.release)
                self._outputs = None
            self.unwatch()


def _line(pin: int, settings: Settings) -> int:
    """The chip's line for a pin of the settings: lines have the numbers of BCM's GPIOs."""
    return BOARD_TO_BCM[pin] if settings.pin_numbering == "BOARD" else pin


def _chip(gpiod: ModuleType, path: str | None) -> tuple[str, Any]:
    """The chip at *path*, else the header's chip, found by its label because its number changes with the kernel."""
    if path is not None:
        return path, _opened(gpiod, path)[1]
    failed: BoardError | None = None
    for found in sorted(glob.glob("/dev/gpiochip*")):
        try:
            label, chip = _opened(gpiod, found)
        except BoardError as error:
            failed = error
            continue
        if label.startswith(LABELS):
            return found, chip
        chip.close()
    if failed:
        raise failed
    raise NoBoardError("gpiod: no GPIO chip is labelled pinctrl-bcm... or pinctrl-rp1")


def _opened(gpiod: ModuleType, path: str) -> tuple[str, Any]:
    """The label of the chip at *path*, and the chip."""
    try:
        chip = gpiod.Chip(path)
        try:
            return chip.get_info().label, chip
        except OSError:  # it was just removed, as a USB chip may be
            chip.close()
            raise
    except PermissionError as error:
        raise BoardError(
            f"{path}: no permission: add the user to its group (sudo adduser USER gpio) and log in again"
        ) from error
    except OSError as error:
        raise BoardError(f"{path}: no GPIO chip: {error.strerror}: check GPIO_CHIP") from error


def _imported() -> ModuleType:
    try:
        gpiod = importlib.import_module("gpiod")
    except ImportError as error:
        raise NoBoardError(f"the library gpiod is missing: {INSTALL}") from error
    # Debian 12's python3-libgpiod is version 1, which has a different interface.
    if not hasattr(gpiod, "LineSettings"):
        raise NoBoardError(f"the library gpiod is too old, 2.1 is needed: {INSTALL}")
    importlib.import_module("gpiod.line")
    return gpiod
