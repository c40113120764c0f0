"""
How a process gives up, for good, what it does not need: rights, memory, files.

For a process that answers strangers: whoever takes it over should gain as little as possible. Linux only.
"""

import contextlib
import ctypes
import os
import resource
import signal

#: linux/prctl.h.
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 28, 38

#: linux/capability.h: the capability to read any file, and the version of the data for capset().
CAP_DAC_READ_SEARCH, CAP_VERSION = 2, 0x20080522

#: linux/securebits.h: a change of user leaves the capabilities, no program gives any to root, and both are locked.
SECUREBITS = 0b1111

#: The system calls that create a set of Landlock rules and enforce it: the same numbers on all processors but Alpha.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF = 444, 446

#: linux/landlock.h: what can be forbidden, by the version that knows it. To files: everything but reading them. To the
#: network: listening and connecting by TCP. To other processes: signals, and their abstract sockets.
LANDLOCK_FILES = {1: 0b1_1111_1111_0011, 2: 1 << 13, 3: 1 << 14}
LANDLOCK_NETWORK, LANDLOCK_OTHERS = {4: 0b11}, {6: 0b11}

#: More capabilities than Linux has; dropping one that does not exist fails harmlessly.
CAPABILITIES = 64

#: The user and group that own nothing (Linux, overflowuid).
NOBODY = 65534


def no_core_dump() -> None:
    """Allow no core dump, and no other process of its user to read its memory, which has a password."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A core that is piped to a program such as systemd-coredump ignores that limit (core(5)). A fork inherits this.
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def give_up_rights() -> None:
    """
    Keep only the user's rights, end with the parent, and be the first to be killed when memory is short.

    Root becomes nobody, who owns nothing and so can change nothing, and keeps only the capability to read all files, as
    nobody but root may read root's journal. Raises :exc:`OSError`.
    """
    # Before no_core_dump(): afterwards these files belong to root.
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    if os.geteuid() == 0:
        _become_nobody()
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    no_core_dump()
    # After the change of user, which clears it. If the parent has ended before, its end of the socket pair shows it.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def limit(memory: int, files: int) -> None:
    """Allow at most *memory* bytes of data and *files* file descriptors."""
    # Not RLIMIT_AS: each thread of glibc reserves 64 MiB of addresses, and uses hardly any of them.
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


def give_way(niceness: int) -> None:
    """Let other processes use the processors first, to the degree of *niceness*."""
    with contextlib.suppress(OSError):  # the unit's filter of system calls may refuse this, but not the next way
        os.nice(niceness)
    # If a session gets its processor time as one group, niceness counts only within that session (sched(7)).
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w", encoding="ascii") as file:
        file.write(str(niceness))


def change_nothing() -> bool:
    """
    Restrict this thread, and those that it starts from now on, to reading files and answering on open sockets.

    They can't change, create, remove or execute any file, whoever owns it, and, if the kernel supports it, can neither
    open a connection nor send a signal to another process. Returns whether the kernel has Landlock, which does this.
    """
    call = ctypes.CDLL(None, use_errno=True).syscall
    version = call(LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:  # not built in, or switched off
        return False
    # What is listed is forbidden without exception, as no rule is added.
    forbidden = (ctypes.c_uint64 * 3)(
        *(
            sum(rights for since, rights in known.items() if version >= since)
            for known in (LANDLOCK_FILES, LANDLOCK_NETWORK, LANDLOCK_OTHERS)
        )
    )
    # Fields that an older kernel does not know are zero, so it accepts the longer structure.
    ruleset = call(LANDLOCK_CREATE_RULESET, forbidden, ctypes.c_size_t(ctypes.sizeof(forbidden)), 0)
    _called(ruleset < 0)
    try:
        _called(call(LANDLOCK_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def start_and_write_nothing_more() -> None:
    """Allow no new process or thread, and no writing to files."""
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _become_nobody() -> None:
    # Not PR_SET_KEEPCAPS: access(2), with which SQLite looks for its files, would then ignore the capability.
    _prctl(PR_SET_SECUREBITS, SECUREBITS)
    for capability in range(CAPABILITIES):
        with contextlib.suppress(OSError):  # there is no such capability
            _prctl(PR_CAPBSET_DROP, capability)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    kept = 1 << CAP_DAC_READ_SEARCH
    # Effective, permitted and inheritable, for the first 32 capabilities and then for the others.
    sets = (ctypes.c_uint32 * 6)(kept, kept, 0, 0, 0, 0)
    _called(ctypes.CDLL(None, use_errno=True).capset((ctypes.c_uint32 * 2)(CAP_VERSION, 0), sets))


def _prctl(option: int, value: int) -> None:
    _called(ctypes.CDLL(None, use_errno=True).prctl(option, ctypes.c_ulong(value), 0, 0, 0))


def _called(returned: int) -> None:
    if returned:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
