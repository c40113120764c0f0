"""Clocks for tests, passed in where the program has the machine's own."""

from powermeter.clock import Clock
from powermeter.meter import NS_PER_S

#: 2026-11-23, in ns.
RIGHT_NS = 1_795_418_000 * NS_PER_S


class UnsynchronisedClock(Clock):
    """The machine's time, which nobody vouches for: neither the kernel, unless *is_synchronised* is set, nor a chip."""

    def __init__(self, hardware_clocks=""):
        super().__init__(hardware_clocks)
        self.is_synchronised = False

    def synchronised(self):
        return self.is_synchronised


class SetClock(UnsynchronisedClock):
    """A clock that stands still, in 2026 and a minute after the boot, until a test sets it."""

    def __init__(self, hardware_clocks=""):
        super().__init__(hardware_clocks)
        self.now_ns, self.up_s = RIGHT_NS, 60.0

    def wall_ns(self):
        return self.now_ns

    def monotonic_ns(self):
        return round(self.up_s * NS_PER_S)

    def boot_s(self):
        return self.up_s


class ScriptedClock(SetClock):
    """
    A clock whose waiting passes time, up to the next line of a script, which is acted out then.

    A line has a time, in s by :meth:`monotonic_s`, and what to call, in order.
    """

    def __init__(self, script=()):
        super().__init__()
        self.script = list(script)

    def wait(self, event, timeout_s):
        end_s = None if timeout_s is None else self.up_s + timeout_s
        while not event.is_set():
            if self.script and (end_s is None or self.script[0][0] <= end_s):
                self.up_s, act = self.script.pop(0)
                act()
            else:
                assert end_s is not None, "it waits for ever, and nothing will come"
                self.up_s = end_s
                return
