"""The header's pins on a machine without any: RPi.GPIO's stand-in, and a program's flashes and lamps through it."""

import os
from pathlib import Path

#: To be put on PYTHONPATH: there ``import RPi.GPIO`` finds the stand-in, whose docstring says what it obeys.
STANDIN = Path(__file__).with_name("standin")


class Pins:
    """The header's pins, for a program with the stand-in: flashes in, lamps out."""

    def __init__(self, directory):
        self.fifo = directory / "gpio.fifo"
        self.log = directory / "gpio.log"
        os.mkfifo(self.fifo)
        # Open for reading too, so that neither side waits for the other.
        self._fd = os.open(self.fifo, os.O_RDWR)
        self.env = {
            "PYTHONPATH": str(STANDIN),
            "STANDIN_GPIO_FIFO": str(self.fifo),
            "STANDIN_GPIO_LOG": str(self.log),
        }

    def flash(self, pin, bounces=0):
        """A falling edge, and some more at once."""
        os.write(self._fd, f"{pin}\n".encode() * (1 + bounces))

    def lines(self):
        """What was done with the outputs, in order."""
        return self.log.read_text().splitlines()

    def close(self):
        os.close(self._fd)
