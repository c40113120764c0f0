"""What becomes of a batch that a service refuses: each pulse is stored, named by the service, or still there."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powermeter.meter import NS_PER_S, Pulse
from powermeter.search import MAX_ALONE, Search, unit_end


def made(count, spacing_s=20):
    """This number of pulses of one meter, *spacing_s* apart."""
    return [Pulse("house", n, n * spacing_s * NS_PER_S, 100.0, 1.0, n / 1000) for n in range(1, count + 1)]


class Service:
    """Refuses a batch that contains one of the numbers *bad*; *says* is how it does so."""

    def __init__(self, bad, says="nothing"):
        self.bad, self.says = set(bad), says
        self.stored, self.requests = [], 0
        self.healthy = True

    def answer(self, search, waiting, part):
        """Send *part* of what waits, and report to *search* what became of it."""
        self.requests += 1
        bad = [place for place, pulse in enumerate(part) if pulse.number in self.bad]
        if not self.healthy:
            search.refused(part)
        elif not bad:
            self.stored += [pulse.number for pulse in part]
            search.took(part)
            return len(part)
        elif self.says == "too old":
            search.expired(waiting, part)
        elif self.says == "too old, by line":
            search.expired(waiting, part, bad)
        else:
            search.refused(part, bad if self.says == "bad, by line" else ())
        return 0


def worked_off(waiting, service, *, period_ns=0, search=None):
    """Send what waits until it is settled, or the search keeps all; what still waits, and what was given up."""
    search = search or Search()
    given_up = 0
    for _ in range(10_000):
        if not waiting:
            break
        if search.stuck(waiting):
            search.end()
            break
        taken = service.answer(search, waiting, search.part(waiting, period_ns))
        settled, refused = search.settled(waiting, taken)
        given_up += refused
        waiting = waiting[settled:]
    return waiting, given_up


WAYS = ["nothing", "bad, by line"]


@pytest.mark.parametrize("says", WAYS)
@pytest.mark.parametrize("bad", [{1}, {20}, {7}, {7, 8}, {1, 2, 3}, {3, 17}, {1, 2, 3, 4, 5, 6, 7}, {2, 4, 6, 8}])
def test_only_what_is_bad_is_given_up(bad, says):
    """Whatever is bad among good pulses is found and given up, and nothing else; each good one arrives once."""
    service = Service(bad, says)
    waiting, given_up = worked_off(made(20), service)
    assert (waiting, given_up) == ([], len(bad))
    assert sorted(service.stored) == [n for n in range(1, 21) if n not in bad]


@pytest.mark.parametrize("says", WAYS)
@pytest.mark.parametrize("count", [1, 2, 3, 20, 5000])
def test_a_service_that_takes_nothing_loses_nothing(count, says):
    """If every pulse is refused, all are kept, and it takes only a few requests to find that out."""
    service = Service(range(1, count + 1), says)
    waiting, given_up = worked_off(made(count), service)
    assert (len(waiting), given_up) == (count, 0)
    assert service.requests <= 13 + MAX_ALONE + 1


def test_a_later_pulse_decides():
    """A pulse that was refused when it was the only one is given up once a later one is accepted, and not before."""
    service, search = Service({1}), Search()
    waiting, given_up = worked_off(made(1), service, search=search)
    assert (len(waiting), given_up) == (1, 0)
    waiting, given_up = worked_off(made(2), service, search=search)
    assert (waiting, given_up, service.stored) == ([], 1, [2])


def test_a_service_that_stops_taking_in_the_midst_costs_one_pulse():
    """A server whose answers mean something else from one moment on: at most the pulse that was being judged goes."""
    pulses = made(64)
    search, service = Search(), Service({10})
    waiting, lost = pulses, 0
    while waiting and not search.stuck(waiting):
        part = search.part(waiting, 0)
        service.healthy = not service.stored
        settled, refused = search.settled(waiting, service.answer(search, waiting, part))
        lost += refused
        waiting = waiting[settled:]
    assert lost <= 1
    assert len(waiting) + len(service.stored) + lost == 64


@pytest.mark.parametrize("says", ["too old", "too old, by line"])
@pytest.mark.parametrize("old", [1, 2, 7, 19, 20, 4000, 5000])
def test_what_is_too_old_goes_in_one_piece(old, says):
    """Pulses that are too old for a service are given up together, not one by one; the others arrive once."""
    count = max(old, 20)
    service = Service(range(1, old + 1), says)
    waiting, given_up = worked_off(made(count), service)
    assert (waiting, given_up) == ([], old)
    assert sorted(service.stored) == list(range(old + 1, count + 1))
    assert service.requests <= 30


def test_periods_stay_whole():
    """With periods, a part contains whole ones, and one with a bad pulse is given up as a whole."""
    pulses = made(60)  # three a minute
    period_ns = 60 * NS_PER_S
    parts = []

    class Whole(Service):
        def answer(self, search, waiting, part):
            parts.append(part)
            return super().answer(search, waiting, part)

    service = Whole({30})
    waiting, given_up = worked_off(pulses, service, period_ns=period_ns)
    period = [pulse.number for pulse in pulses if pulse.time_ns // period_ns == pulses[29].time_ns // period_ns]
    assert (waiting, given_up) == ([], len(period))
    assert sorted(service.stored) == [p.number for p in pulses if p.number not in period]
    for part in parts:
        inside = {pulse.time_ns // period_ns for pulse in part}
        assert [p for p in pulses if p.time_ns // period_ns in inside] == list(part)


def test_too_large():
    """A batch that is too large is halved, down to one pulse, which can't be made smaller."""
    search, pulses = Search(), made(5)
    assert search.part(pulses, 0) == pulses
    assert search.too_large(pulses)
    part = search.part(pulses, 0)
    assert part == pulses[:2]
    assert search.too_large(part)
    part = search.part(pulses, 0)
    assert part == pulses[:1]
    assert not search.too_large(part)


@given(
    count=st.integers(1, 40),
    bad=st.sets(st.integers(1, 40), max_size=12),
    says=st.sampled_from(WAYS),
    unhealthy=st.sets(st.integers(0, 60), max_size=20),
    period_ns=st.sampled_from([0, 60 * NS_PER_S]),
)
def test_each_pulse_is_stored_given_up_or_waits(count, bad, says, unhealthy, period_ns):
    """The law: after any answers each pulse is exactly one of these, and a good one that waits arrives in the end."""
    pulses = made(count)
    service, search = Service(bad, says), Search()
    waiting, given_up = pulses, 0
    for turn in range(60):
        if not waiting:
            break
        if search.stuck(waiting):
            search.end()
        part = search.part(waiting, period_ns)
        service.healthy = turn not in unhealthy
        settled, refused = search.settled(waiting, service.answer(search, waiting, part))
        given_up += refused
        waiting = waiting[settled:]
        # Taken ahead of those that wait, some may be stored and stand among these still.
        assert len(set(service.stored)) == len(service.stored), "stored twice"
        still = {pulse.number for pulse in waiting}
        assert len(still | set(service.stored)) + given_up == count
    if not period_ns and not unhealthy:
        # Later ones, which are good, tell that the service takes some.
        later = [*waiting, *made(count + 8)[count:]]
        waiting, refused = worked_off(later, Service(bad & set(range(1, count + 1)), says), search=search)
        assert waiting == []


def test_unit_end():
    """A part ends where asked, or with periods at the end of the last whole one before that; it is never empty."""
    pulses = made(12)  # three a minute, the first two in the first
    assert [unit_end(pulses, at, 0) for at in (0, 1, 5, 12, 99)] == [1, 1, 5, 12, 12]
    assert [unit_end(pulses, at, 60 * NS_PER_S) for at in (0, 1, 2, 3, 5, 12)] == [2, 2, 2, 2, 5, 12]
