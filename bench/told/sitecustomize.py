"""
For PYTHONPATH of a program in a guest, controlled by its environment.

$HOLD: a FIFO; the interpreter is held for as many seconds as are written to it.
$BUSY: a FIFO; a thread computes for as many seconds, and never sleeps.
$NUMBERS: a file that the kernel's number of the last edge that was read goes to, at exit.
"""

import atexit
import os
import struct
import threading
import time
from pathlib import Path

#: From powermeter.boards.gpiod, which must not be imported before the program does: a read of all edges, and one.
READ, EVENT = 1024 * 48, struct.Struct("=QIIII24x")


def _compute():
    with open(os.environ["BUSY"]) as asked:
        for line in asked:
            end_s = time.monotonic() + float(line)
            while time.monotonic() < end_s:
                sum(range(1000))


def _note_numbers(read=os.read):
    last = [b""]

    def noting(fd, length):
        data = read(fd, length)
        if length == READ:
            last[0] = data[-EVENT.size :]
        return data

    def write():
        if last[0]:
            Path(os.environ["NUMBERS"]).write_text(str(EVENT.unpack(last[0])[4]))

    os.read = noting
    atexit.register(write)


if os.environ.get("HOLD"):
    import runpy

    runpy.run_path(str(Path(__file__).parents[2] / "tests" / "kernel" / "hold" / "sitecustomize.py"))
if os.environ.get("BUSY"):
    threading.Thread(target=_compute, daemon=True).start()
if os.environ.get("NUMBERS"):
    _note_numbers()
