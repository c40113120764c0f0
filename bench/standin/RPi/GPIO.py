# ruff: noqa: ARG001, ARG005, N999 - the names are those of the library
"""
A stand-in for ``RPi.GPIO``, put on PYTHONPATH: edges come from the FIFO that $GPIO_FIFO names.

The FIFO holds the kernel's events, two per flash: 96 bytes are one
falling edge, on the pin that was watched first. One thread reads with a
blocking read and calls the callback, as the library does. Levels put out stay
in :data:`levels`.
"""

import os
import threading

BOARD, BCM = 10, 11
OUT, IN = 0, 1
LOW, HIGH = 0, 1
PUD_OFF, PUD_DOWN, PUD_UP = 20, 21, 22
RISING, FALLING, BOTH = 31, 32, 33

#: The level last put out on each channel.
levels = {}

#: The watched channels and their callbacks.
_watched = []
_callbacks = []
_reading = None


def setmode(mode):
    if mode not in (BOARD, BCM):
        raise ValueError("An invalid mode was passed to setmode()")


def setwarnings(flag):
    pass


def setup(channels, direction, pull_up_down=PUD_OFF, initial=None):
    if initial is not None:
        output(channels, initial)


def output(channels, level):
    for channel in [channels] if isinstance(channels, int) else channels:
        levels[channel] = level


def add_event_detect(channel, edge, callback=None, bouncetime=None):
    global _reading  # noqa: PLW0603 - a module is what RPi.GPIO is
    if channel in _watched:
        raise RuntimeError("Conflicting edge detection already enabled for this GPIO channel")
    _watched.append(channel)
    _callbacks.append(callback or (lambda channel: None))
    if _reading is None:
        # For writing too: the FIFO then never ends, and opening it waits for nobody.
        fifo = os.open(os.environ["GPIO_FIFO"], os.O_RDWR)
        _reading = threading.Thread(target=_read_edges, args=(fifo,), name="edges", daemon=True)
        _reading.start()


def remove_event_detect(channel):
    if channel in _watched:
        _callbacks[_watched.index(channel)] = lambda channel: None


def cleanup(channels=None):
    for channel in _watched:
        remove_event_detect(channel)
    levels.clear()


def _read_edges(fifo):
    while True:
        for _ in range(len(os.read(fifo, 42 * 96)) // 96):
            _callbacks[0](_watched[0])
