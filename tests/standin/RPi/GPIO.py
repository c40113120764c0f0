"""
A stand-in for the documented RPi.GPIO: as strict as the library, edges from a FIFO, outputs to a file.

It raises what RPi.GPIO 0.7.1 raises (``py_gpio.c``, ``common.c``) where it is misused. Of the environment:

- ``STANDIN_GPIO_FIFO``: a FIFO; the line ``18`` is a falling edge on pin 18, now, in the numbering that is set, and
  ``18 rising`` a rising one. Edges on pins that nobody watches are dropped, as on the header.
- ``STANDIN_GPIO_LOG``: a file, to which ``setup 18 IN``, ``setup 12 OUT``, ``output 12 1`` and ``cleanup 18 12 16``
  are appended; a pull that is not off stands behind ``IN``.
- ``STANDIN_GPIO_FAIL``: ``import``: as off a Pi; ``edges``: as with Linux 6.6 and newer.
"""
# ruff: noqa: A001, N999, PLW0603 - the names are the library's, and so is the state in the module

import os
import select
import threading
import time
import warnings

if os.environ.get("STANDIN_GPIO_FAIL") == "import":
    raise RuntimeError("This module can only be run on a Raspberry Pi!")

VERSION = "0.7.1"
BOARD, BCM = 10, 11
OUT, IN = 0, 1
LOW, HIGH = 0, 1
PUD_OFF, PUD_DOWN, PUD_UP = 20, 21, 22
RISING, FALLING, BOTH = 31, 32, 33

_GPIOS = {
    BOARD: {3, 5, 7, 8, 10, 11, 12, 13, 15, 16, 18, 19, 21, 22, 23, 24, 26, 29, 31, 32, 33, 35, 36, 37, 38, 40},
    BCM: set(range(54)),
}
_PULLS = {PUD_OFF: "", PUD_DOWN: " PUD_DOWN", PUD_UP: " PUD_UP"}

_mode = None
_warnings = True
_directions = {}  # channel: IN or OUT
_levels = {}  # of outputs
_watched = {}  # channel: its _Detection
_reader = None


class _Detection:
    """What add_event_detect has set for a channel."""

    def __init__(self, edge, bouncetime):
        self.edge, self.bouncetime = edge, bouncetime
        self.callbacks = []
        self.occurred = False
        self.last_s = 0.0

    def take(self, channel, edge):
        """Take an edge. The bouncetime is a hold-off after the last one taken, on the wall clock."""
        now_s = time.time()
        if self.edge not in (edge, BOTH):
            return
        if self.bouncetime and 0 <= now_s - self.last_s <= self.bouncetime / 1000:
            return
        self.last_s, self.occurred = now_s, True
        for callback in list(self.callbacks):
            callback(channel)


class _Reader(threading.Thread):
    """The one thread that calls all callbacks, while anything is watched. What a callback raises ends it."""

    def __init__(self, fifo):
        super().__init__(name="GPIO edges", daemon=True)
        # For writing too: a writer that comes and goes is no end of the file.
        self._fifo = os.open(fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopped, self._stop = os.pipe2(os.O_CLOEXEC)

    def stop(self):
        os.close(self._stop)

    def run(self):
        rest = b""
        while self._stopped not in (ready := select.select([self._fifo, self._stopped], [], [])[0]):
            if ready:
                *lines, rest = (rest + os.read(self._fifo, 65536)).split(b"\n")
                for line in lines:
                    channel, *edge = line.split()
                    if detection := _watched.get(int(channel)):
                        detection.take(int(channel), RISING if edge else FALLING)
        os.close(self._fifo)
        os.close(self._stopped)


def _log(*words):
    if path := os.environ.get("STANDIN_GPIO_LOG"):
        with open(path, "a", encoding="ascii") as file:
            file.write(" ".join(str(word) for word in words) + "\n")


def _checked(channel):
    if _mode is None:
        raise RuntimeError("Please set pin numbering mode using GPIO.setmode(GPIO.BOARD) or GPIO.setmode(GPIO.BCM)")
    if channel not in _GPIOS[_mode]:
        raise ValueError("The channel sent is invalid on a Raspberry Pi")
    return channel


def _listed(channels):
    if isinstance(channels, int):
        return [channels]
    if not isinstance(channels, list | tuple):
        raise ValueError("Channel must be an integer or list/tuple of integers")
    if not all(isinstance(channel, int) for channel in channels):
        raise ValueError("Channel must be an integer")
    return list(channels)


def _checked_input(channel):
    if _directions.get(_checked(channel)) != IN:
        raise RuntimeError("You must setup() the GPIO channel as an input first")
    return channel


def setmode(mode):
    global _mode
    if _mode is not None and mode != _mode:
        raise ValueError("A different mode has already been set!")
    if mode not in _GPIOS:
        raise ValueError("An invalid mode was passed to setmode()")
    _mode = mode


def getmode():
    return _mode


def setwarnings(on):
    global _warnings
    _warnings = bool(on)


def setup(channel, direction, pull_up_down=PUD_OFF, initial=-1):
    channels = _listed(channel)
    if direction not in (IN, OUT):
        raise ValueError("An invalid direction was passed to setup()")
    if direction == OUT and pull_up_down != PUD_OFF:
        raise ValueError("pull_up_down parameter is not valid for outputs")
    if direction == IN and initial != -1:
        raise ValueError("initial parameter is not valid for inputs")
    if pull_up_down not in _PULLS:
        raise ValueError("Invalid value for pull_up_down - should be either PUD_OFF, PUD_UP or PUD_DOWN")
    for one in channels:
        _directions[_checked(one)] = direction
        _log("setup", one, "OUT" if direction == OUT else f"IN{_PULLS[pull_up_down]}")
        if initial in (LOW, HIGH):
            _set(one, initial)


def _set(channel, value):
    _levels[channel] = HIGH if value else LOW
    _log("output", channel, _levels[channel])


def output(channel, value):
    channels = _listed(channel)
    several = isinstance(value, list | tuple)
    if several and (isinstance(channel, int) or len(value) != len(channels)):
        raise RuntimeError("Number of channels != number of values")
    if not all(isinstance(one, int) for one in (value if several else [value])):
        raise ValueError("Value must be an integer/boolean or a list/tuple of integers/booleans")
    for one, level in zip(channels, value if several else [value] * len(channels), strict=True):
        if _directions.get(_checked(one)) != OUT:
            raise RuntimeError("The GPIO channel has not been set up as an OUTPUT")
        _set(one, level)


def input(channel):
    if _checked(channel) not in _directions:
        raise RuntimeError("You must setup() the GPIO channel first")
    return _levels.get(channel, HIGH)  # at rest the circuit pulls an input high


def add_event_detect(channel, edge, callback=None, bouncetime=None):
    global _reader
    if callback is not None and not callable(callback):
        raise TypeError("Parameter must be callable")
    _checked_input(channel)
    if edge not in (RISING, FALLING, BOTH):
        raise ValueError("The edge must be set to RISING, FALLING or BOTH")
    if bouncetime is not None and bouncetime <= 0:
        raise ValueError("Bouncetime must be greater than 0")
    if channel in _watched:
        raise RuntimeError("Conflicting edge detection already enabled for this GPIO channel")
    if os.environ.get("STANDIN_GPIO_FAIL") == "edges":
        raise RuntimeError("Failed to add edge detection")
    _watched[channel] = _Detection(edge, bouncetime)
    if callback is not None:
        add_event_callback(channel, callback)
    fifo = os.environ.get("STANDIN_GPIO_FIFO")
    if _reader is None and fifo:
        _reader = _Reader(fifo)
        _reader.start()


def add_event_callback(channel, callback):
    if not callable(callback):
        raise TypeError("Parameter must be callable")
    if _checked_input(channel) not in _watched:
        raise RuntimeError("Add event detection using add_event_detect first before adding a callback")
    _watched[channel].callbacks.append(callback)


def event_detected(channel):
    detection = _watched.get(_checked(channel))
    occurred = detection is not None and detection.occurred
    if occurred:
        detection.occurred = False
    return occurred


def remove_event_detect(channel):
    global _reader
    _watched.pop(_checked(channel), None)
    if _reader is not None and not _watched:
        _reader.stop()
        _reader = None


def cleanup(channel=None):
    global _mode
    channels = list(_directions) if channel is None else _listed(channel)
    found = []
    if _directions:  # before any setup the library checks nothing
        for one in channels:
            remove_event_detect(one)
            _levels.pop(one, None)
            if _directions.pop(one, None) is not None:
                found.append(one)
    if found:
        _log("cleanup", *found)
    elif _warnings:
        warnings.warn(
            "No channels have been set up yet - nothing to clean up!  "
            "Try cleaning up at the end of your program instead!",
            RuntimeWarning,
            stacklevel=2,
        )
    if channel is None:
        _mode = None
