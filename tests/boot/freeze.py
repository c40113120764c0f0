"""freeze.py TID: stops this one thread of a process, as a debugger does, until it is killed or the thread is gone."""

import ctypes
import os
import sys

PTRACE_SEIZE = 0x4206
PTRACE_INTERRUPT = 0x4207
WALL = 0x40000000


def main():
    """Stop it and say so."""
    libc = ctypes.CDLL(None, use_errno=True)
    tid = int(sys.argv[1])
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, tid, None, None) != 0:
            sys.exit(f"ptrace: {os.strerror(ctypes.get_errno())}")
    os.waitpid(tid, WALL)
    print("stopped", flush=True)
    os.waitpid(tid, WALL)


if __name__ == "__main__":
    main()
