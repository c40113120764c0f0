"""On PYTHONPATH of a program: a thread that holds the interpreter for as many seconds as are written to $HOLD."""

import ctypes
import os
import threading


def _hold():
    # PyDLL, unlike CDLL, keeps the interpreter's lock.
    sleep = ctypes.PyDLL(None).usleep
    with open(os.environ["HOLD"]) as asked:
        for line in asked:
            sleep(int(float(line) * 1e6))


if os.environ.get("HOLD"):
    threading.Thread(target=_hold, daemon=True).start()
