"""
How a process gives up, for good, what it does not need: rights, privacy to others, memory, files.

For one that answers strangers: whoever takes it over is to find as little as can be. Linux only.
"""

import contextlib
import ctypes
import os
import resource
import signal

#: linux/prctl.h.
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 28, 38

#: linux/capability.h: reading any file, and the version of what capset() takes.
CAP_DAC_READ_SEARCH, CAP_VERSION = 2, 0x20080522

#: linux/securebits.h: no change of user changes capabilities, no program gives root any, and both stay so.
SECUREBITS = 0b1111

#: The system calls that make a set of Landlock's rules and enforce it: the same numbers on all processors but Alpha.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446

#: linux/landlock.h: what can be forbidden, by the version that knows it. To files: all but reading them. To the
#: network: listening and connecting by TCP. To other processes: signals, and their abstract sockets.
LANDLOCK_FILES = {1: 0b1_1111_1111_0011, 2: 1 << 13, 3: 1 << 14}
LANDLOCK_NETWORK, LANDLOCK_OTHERS = {4: 0b11}, {6: 0b11}

#: More capabilities than there are: what is not there is not dropped.
CAPABILITIES = 64

#: The user and group that own nothing (Linux, overflowuid).
NOBODY = 65534


def no_core_dump() -> None:
    """Let this process leave no core, and no other process of its user look into it: it holds a password."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core that goes to a program, as systemd-coredump, has no limit (core(5)). Inherited by a fork.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def give_up_rights() -> None:
    """
    Keep no rights but those of the user, end with the parent, and be the first to go when memory is short.

    Root becomes nobody, who owns nothing and so can change nothing, and keeps the one capability to read all files:
    only root may read root's journal. Raises :exc:`OSError`.
    """
    # Before the process is closed: then these files are root's.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    if os.geteuid() == 0:
        _become_nobody()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    no_core_dump()
    # After the change of user, which clears it. If the parent has ended before, its end of the socket pair shows it.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def limit(memory: int, files: int) -> None:
    """Have no more than *memory* bytes of data and *files* descriptors."""
    # Not RLIMIT_AS: a thread of glibc reserves 64 MiB of addresses, and uses next to none of them.
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def give_way(niceness: int) -> None:
    """Leave the processors to other processes first, as far as *niceness* says."""
    with contextlib.suppress(OSError):  # the unit's filter of system calls refuses this, and leaves the next way
        os.nice(niceness)
    # A session may get its processor time as one group; then niceness counts only within that session (sched(7)).
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as file:
        file.write(str(niceness))


def change_nothing() -> bool:
    """
    Let this thread, and those that it starts from now on, do no more than read files and answer on what is open.

    They can change, make, remove and execute no file, whoever owns it, and, as far as the kernel knows how, neither
    open a connection nor send a signal to another process. Returns whether the kernel has Landlock, which does this.
    """
    call = ctypes.CDLL(None, use_errno=True).syscall
    version = call(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:  # not built in, or switched off
        return False
    # What is named has no exception, as no rule is added.
    forbidden = (ctypes.c_uint64 * 3)(
        *(
            sum(rights for since, rights in known.items() if version >= since)
            for known in (LANDLOCK_FILES, LANDLOCK_NETWORK, LANDLOCK_OTHERS)
        )
    )
    # What an older kernel does not know is zero, and so it takes the longer structure.
    ruleset = call(LANDLOCK_CREATE_RULESET, forbidden, ctypes.c_size_t(ctypes.sizeof(forbidden)), 0)
    _called(ruleset < 0)
    try:
        _called(call(LANDLOCK_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def start_and_write_nothing_more() -> None:
    """Start no further process or thread, and write to no file."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _become_nobody() -> None:
    # Not PR_SET_KEEPCAPS: access(2), by which SQLite looks for its files, would count without the capability.
    _prctl(PR_SET_SECUREBITS, SECUREBITS)
    for capability in range(CAPABILITIES):
        with contextlib.suppress(OSError):  # there is no such capability
            _prctl(PR_CAPBSET_DROP, capability)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    kept = 1 << CAP_DAC_READ_SEARCH
    # Effective, permitted and inheritable, of the first 32 capabilities and then of the others.
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    _called(ctypes.CDLL(None, use_errno=True).capset((ctypes.c_uint32 * 2)(CAP_VERSION, 0), sets))


def _prctl(option: int, value: int) -> None:
    _called(ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _called(returned: int) -> None:
    if returned:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
