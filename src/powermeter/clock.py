"""
The machine's clocks: how far the wall clock is ahead of the monotonic one, and whether it can be trusted yet.

A Pi without a clock chip boots with the time of its last shutdown, or a time
years ago, and gets the right time over the network some minutes later. Until
then, only the monotonic clock tells when a pulse came.
"""

import glob
import os
import struct
import threading
import time

#: Readings of two clocks within this time, in ns, count as simultaneous.
NEAR_NS = 100_000

#: 2026-01-01 in ns: a clock that shows an earlier time is wrong, as this program is younger.
EARLIEST_NS = 1_767_225_600 * 10**9

#: The kernel's upper limit for the clock's error, in us. At boot and after each step the error is at this limit, until
#: an NTP client reports how large it can be (Linux, include/linux/timex.h, NTP_PHASE_LIMIT). A client that leaves the
#: flag STA_UNSYNC set, so that the kernel does not write to a hardware clock, reports it too, as chrony without rtcsync
#: does. timedatectl follows the same rule.
WORST_ERROR_US = 16_000_000
#: The beginning of struct timex, adjtimex(2): modes, offset, freq, maxerror; and enough bytes for all of it.
TIMEX_TO_MAXERROR = "@Illl"
TIMEX_BYTES = 512

#: A file that holds "1" if the kernel set the time from that hardware clock at boot; and beside it a file with that
#: clock's own current time, in whole s since 1970, UTC (Linux, Documentation/ABI/testing/sysfs-class-rtc).
HARDWARE_CLOCKS = "/sys/class/rtc/*/hctosys"
OWN_TIME = "since_epoch"

#: How far a hardware clock may be from the wall clock that was set from it, in s; and how much further per second since
#: the boot, as both run freely without a network: Linux allows a crystal no larger error (include/linux/timex.h,
#: MAXFREQ).
APART_S, DRIFT = 5.0, 500e-6


class Clock:
    """
    The machine's clocks, and whether the wall clock is right.

    The keeper and the monitor are given one, so that a test can pass in another
    that it sets itself and whose waits take no time. *hardware_clocks* is a glob
    pattern for the kernel's files that say whether a hardware clock set the time.
    """

    def __init__(self, hardware_clocks: str = HARDWARE_CLOCKS) -> None:
        self._hardware_clocks = hardware_clocks

    def wall_ns(self) -> int:
        """The wall clock's time, in ns since 1970 (UTC)."""
        return time.time_ns()

    def monotonic_ns(self) -> int:
        """The monotonic clock's time, in ns: nobody can set it, and only its differences have a meaning."""
        return time.monotonic_ns()

    def monotonic_s(self) -> float:
        """The monotonic clock's time, in s."""
        return self.monotonic_ns() / 1e9

    def boot_s(self) -> float:
        """The time since the machine booted, in s, including the time that it was suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wait(self, event: threading.Event, timeout_s: float | None) -> None:
        """Wait until *event* is set, but no longer than *timeout_s*; None sets no limit."""
        event.wait(timeout_s)

    def ahead_ns(self) -> int:
        """How far the wall clock (UTC since 1970) is ahead of the monotonic one, in ns."""
        for _ in range(5):
            before_ns = self.monotonic_ns()
            wall_ns = self.wall_ns()
            # If the thread was interrupted between the two readings, they are not simultaneous.
            if self.monotonic_ns() - before_ns < NEAR_NS:
                break
        return wall_ns - before_ns

    def wait_left_s(self, wait_s: float) -> float:
        """
        How much longer to wait for the wall clock to be right, in s; 0.0 if it is right or the wait is over.

        *wait_s* is how long to wait from the machine's boot on (CLOCK_WAIT); 0 means not at all.
        """
        left_s = wait_s - self.boot_s()
        return left_s if left_s > 0 and not self.right else 0.0

    @property
    def right(self) -> bool:
        """Whether the wall clock is known to be right now."""
        return self.wall_ns() >= EARLIEST_NS and (bool(self.synchronised()) or self.set_by_hardware())

    def synchronised(self) -> bool | None:
        """Whether the kernel knows a bound for the clock's error, adjtimex(2); None if the kernel can't be asked."""
        import ctypes  # not needed once the clock is right

        timex = ctypes.create_string_buffer(TIMEX_BYTES)
        if ctypes.CDLL(None).adjtimex(timex) < 0:
            return None
        error_us = struct.unpack_from(TIMEX_TO_MAXERROR, timex)[-1]
        return bool(error_us < WORST_ERROR_US)

    def set_by_hardware(self) -> bool:
        """
        Whether the time was set from a hardware clock at boot, and that clock still agrees with it.

        A clock without a battery begins at 1970, and the kernel still reports that it set the time. systemd-timesyncd
        then moves the time forward to when it last ran, which looks right but lags by as long as the power was off.
        """
        for path in glob.glob(self._hardware_clocks):
            try:
                if _line(path) != "1":
                    continue
                own_s = int(_line(os.path.join(os.path.dirname(path), OWN_TIME)))
            except (OSError, ValueError):  # its module was just removed, or it can't tell its time
                continue
            if abs(own_s - self.wall_ns() / 1e9) <= APART_S + DRIFT * self.boot_s():
                return True
        return False


#: The clock that the program uses, outside of tests.
REAL_CLOCK = Clock()


def _line(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read().strip()


def boot_id() -> str:
    """The kernel's id of this boot; times of the monotonic clock can be compared only within one boot."""
    return _line("/proc/sys/kernel/random/boot_id")
