"""
Finds out which pulses a service refuses, by sending parts of what is waiting.

Pure: a delivery asks what to send next and reports what became of it. A pulse
is given up only if the service names it as too old, or if the service refuses
it, on its own or by name, and accepts another one. If the service accepts none,
the pulses are not at fault, and all of them stay.
"""

from collections.abc import Collection, Sequence

from powermeter.meter import Pulse

#: A search is over once parts of this many pulses are accepted again.
MAX_SEARCHED = 4096

#: How many pulses in a row are tried one by one, if each is refused, before the newest one is tried.
MAX_ALONE = 3

#: A pulse, by its meter and number.
Key = tuple[str, int]


class Search:
    """The state of a search, or that there is none."""

    def __init__(self) -> None:
        self._period_ns = 0
        #: The maximum number of pulses in a part; None if there is no search.
        self._most: int | None = None
        #: Pulses that were refused, on their own or by name: given up once another one is accepted.
        self._suspects: set[Key] = set()
        #: Pulses that are settled, although an earlier one is not: whether they were given up.
        self._done: dict[Key, bool] = {}
        #: Whether a pulse was accepted in this search since the last time that this decided to give one up.
        self._took = False
        #: How many units in a row were refused on their own.
        self._alone = 0
        #: If not 0, the newest among this number of candidates is tried next, otherwise the oldest ones. And whether
        #: the last try was of that kind.
        self._newest_of = 0
        self._out_of_turn = False

    def part(self, pulses: Sequence[Pulse], period_ns: int) -> Sequence[Pulse]:
        """
        The part of the waiting *pulses* to send now; never empty, unless :meth:`stuck`.

        *period_ns* as in :class:`~powermeter.writers.Pace`: only whole periods are sent.
        """
        self._period_ns = period_ns
        if self._most is None and not self._done:
            return pulses
        left = self._candidates(pulses)
        newest_of = len(left) if self._alone == MAX_ALONE else self._newest_of
        self._newest_of, self._out_of_turn = 0, newest_of > 0
        if newest_of:
            return self._newest(left[:newest_of])
        return left[: unit_end(left, self._most or len(left), self._period_ns)]

    def took(self, part: Sequence[Pulse]) -> None:
        """Note that the service accepted *part*."""
        if self._most is None and not self._done:
            return
        self._done |= dict.fromkeys(map(_key, part), False)
        self._done |= dict.fromkeys(self._suspects, True)
        self._suspects.clear()
        self._took, self._alone = True, 0
        if self._most is not None and not self._out_of_turn:
            self._most = self._most * 2 if self._most < MAX_SEARCHED else None

    def too_large(self, part: Sequence[Pulse]) -> bool:
        """Note that *part* was too large; false if it can't be made smaller."""
        half = self._half(part)
        if half < len(part):
            self._begin(part)
            self._most = half
        return half < len(part)

    def refused(self, part: Sequence[Pulse], named: Collection[int] = ()) -> None:
        """Note that the service refused *part*; *named*: the indices of the pulses that its answer names as bad."""
        self._begin(part)
        half = self._half(part)
        if named:
            self._suspects |= {_key(part[index]) for index in named}
        elif half < len(part):
            self._most = half
        elif self._took:
            self._took = False
            self._give_up(part)
        else:
            self._suspects |= set(map(_key, part))
            self._alone += 1

    def expired(self, pulses: Sequence[Pulse], part: Sequence[Pulse], named: Collection[int] = ()) -> None:
        """Note that *part* of *pulses*, or what is *named* in it, is too old for the service, like anything older."""
        self._begin(part)
        half = self._half(part)
        if named:
            self._give_up([part[index] for index in named])
        elif half == len(part):
            newest_ns = max(pulse.time_ns for pulse in part)
            self._give_up([pulse for pulse in self._candidates(pulses) if pulse.time_ns <= newest_ns])
        else:
            self._newest_of, self._most = len(part), half

    def stuck(self, pulses: Sequence[Pulse]) -> bool:
        """Whether the service refused all those of *pulses* that could show whether it accepts any."""
        return self._alone > MAX_ALONE or not self._candidates(pulses)

    def settled(self, pulses: Sequence[Pulse], taken: int) -> tuple[int, int]:
        """
        How many of the first *pulses* need not be sent again, and how many of these were given up.

        *taken*: how many the service accepted, if there is no search.
        """
        if self._most is None and not self._done:
            return taken, 0
        end = given_up = 0
        for pulse in pulses:
            if (key := _key(pulse)) not in self._done:
                break
            given_up += self._done.pop(key)
            end += 1
        if end == len(pulses):
            self._done.clear()
            self.end()
        return end, given_up

    def end(self) -> None:
        """End the search: everything that waits is sent again, except for what is settled."""
        self._most, self._took, self._alone, self._newest_of = None, False, 0, 0
        self._suspects.clear()

    def _begin(self, part: Sequence[Pulse]) -> None:
        if self._most is None:
            self.end()
            self._most = len(part)

    def _half(self, part: Sequence[Pulse]) -> int:
        return unit_end(part, len(part) // 2, self._period_ns)

    def _give_up(self, pulses: Sequence[Pulse]) -> None:
        self._done |= dict.fromkeys(map(_key, pulses), True)

    def _candidates(self, pulses: Sequence[Pulse]) -> Sequence[Pulse]:
        return [p for p in pulses if (key := _key(p)) not in self._done and key not in self._suspects]

    def _newest(self, left: Sequence[Pulse]) -> Sequence[Pulse]:
        """The last unit of *left* that can be delivered on its own: a pulse, or those of a period."""
        begin = len(left) - 1
        if self._period_ns:
            period = left[-1].time_ns // self._period_ns
            while begin and left[begin - 1].time_ns // self._period_ns == period:
                begin -= 1
        return left[begin:]


def _key(pulse: Pulse) -> Key:
    return pulse.meter, pulse.number


def unit_end(pulses: Sequence[Pulse], at: int, period_ns: int) -> int:
    """
    The end of a part of *pulses* that can be delivered on its own: *at*, or the end of the last whole period before it.

    A part is never empty: it has at least one pulse, or one period.
    """
    at = max(at, 1)
    if at >= len(pulses) or not period_ns:
        return min(at, len(pulses))
    ends = [i for i in range(1, len(pulses)) if pulses[i - 1].time_ns // period_ns != pulses[i].time_ns // period_ns]
    return max([end for end in ends if end <= at], default=[*ends, len(pulses)][0])
