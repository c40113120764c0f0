# ruff: noqa: ARG002 - the names are those of the library
"""
A stand-in for libgpiod 2's ``gpiod``, put on PYTHONPATH: flashes come from the FIFO that $GPIO_FIFO names.

The FIFO holds the kernel's own events, as the program reads them.
"""

import os
from dataclasses import dataclass

from . import line


@dataclass(frozen=True)
class LineSettings:
    direction: line.Direction = line.Direction.AS_IS
    edge_detection: line.Edge = line.Edge.NONE
    bias: line.Bias = line.Bias.AS_IS
    event_clock: line.Clock = line.Clock.MONOTONIC
    output_value: line.Value = line.Value.INACTIVE


@dataclass(frozen=True)
class ChipInfo:
    label: str


class _Request:
    def __init__(self, lines, watched):
        self._lines = lines
        self._levels = dict.fromkeys(lines, line.Value.INACTIVE)
        # For writing too: the FIFO then never ends, and opening it waits for nobody.
        self.fd = os.open(os.environ["GPIO_FIFO"], os.O_RDWR) if watched else -1

    def set_value(self, offset, value):
        self._levels[offset] = value

    def get_value(self, offset):
        return line.Value.ACTIVE

    def release(self):
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class Chip:
    def __init__(self, path):
        os.stat(path)

    def get_info(self):
        return ChipInfo("a stand-in")

    def request_lines(self, config, consumer=None, event_buffer_size=None):
        return _Request(config, any(settings.edge_detection is not line.Edge.NONE for settings in config.values()))

    def close(self):
        pass
