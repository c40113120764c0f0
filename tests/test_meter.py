"""Edges to pulses, pulses to power and energy: laws that hold for every meter and load."""

import dataclasses
import itertools
import math
import random

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from powermeter.boards.simulated import constant, flashes, household
from powermeter.meter import (
    HOLD_OFF,
    JOULES_PER_KWH,
    LONGEST_SETTLE_NS,
    NS_PER_S,
    SETTLE,
    Constant,
    Counted,
    Edge,
    Flash,
    Meter,
    hold_off_ns,
)

#: What the settings allow for impulses_per_kwh and max_watts.
IMPULSES = st.floats(0.1, 1_000_000) | st.sampled_from([75, 500, 800, 1000, 3200, 10_000])
MAX_WATTS = st.floats(1, 100_000_000) | st.sampled_from([2300, 11_000, 24_000])
SECONDS = st.floats(1e-6, 1e8)
TIMES_NS = st.integers(0, 2**62)


MS = NS_PER_S // 1000


def made(impulses_per_kwh=1000.0, max_watts=24_000.0, **more):
    flash = Flash(hold_off_ns(impulses_per_kwh, max_watts), more.pop("min_flash_ns", None))
    return Meter("house", Constant(impulses_per_kwh), flash, **more)


def pulse(meter, at_ns):
    """Whether *meter* takes a falling edge at *at_ns* as a pulse; if so, also checks its number, time and interval."""
    counted = meter.take(Edge(0, at_ns))
    assert list(counted) in ([], [Counted(meter.count, at_ns, meter.interval_ns)])
    return bool(counted)


def fall(at_ns, **more):
    return Edge(0, at_ns, **more)


def rise(at_ns, **more):
    return Edge(0, at_ns, falling=False, **more)


def pulses_of(meter, edges):
    """All that *meter* counts of *edges*."""
    return [counted for edge in edges for counted in meter.take(edge)]


@given(IMPULSES, SECONDS)
def test_energy_is_power_times_time(impulses_per_kwh, seconds):
    """The mean power of a pulse, held for its interval, is that pulse's energy, whatever constant and interval."""
    constant = Constant(impulses_per_kwh)
    assert constant.mean_watts(1, seconds) * seconds / 3600 == pytest.approx(constant.watt_hours, rel=1e-12)


@given(IMPULSES, st.integers(0, 10**9), st.integers(0, 10**9))
def test_register_grows_by_the_energy_of_the_pulses(impulses_per_kwh, first, pulses):
    """Between two counts the register gains the pulses' energy, and never by an error that grows with them."""
    constant = Constant(impulses_per_kwh)
    gained_kwh = constant.register_at(first + pulses) - constant.register_at(first)
    rounding_kwh = constant.register_at(first + pulses) * 1e-15
    assert gained_kwh == pytest.approx(pulses * constant.watt_hours / 1000, rel=1e-12, abs=rounding_kwh)


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_no_power_without_time(seconds):
    """Power over no time is an error, not infinite."""
    with pytest.raises(ValueError, match="more than 0"):
        Constant(1000).mean_watts(1, seconds)


@given(IMPULSES, MAX_WATTS, st.lists(st.integers(0, 10**15), min_size=1, max_size=20))
def test_energy_of_counted_edges_is_power_times_time(impulses_per_kwh, max_watts, gaps_ns):
    """For edges at any times, power x interval over the counted ones is their energy: nothing falls between them."""
    meter = made(impulses_per_kwh, max_watts)
    pulse(meter, 0)
    joules = 0.0
    for at_ns in itertools.accumulate(gaps_ns):
        if pulse(meter, at_ns) and meter.interval_ns:
            seconds = meter.interval_ns / NS_PER_S
            joules += meter.constant.mean_watts(1, seconds) * seconds
    assert joules == pytest.approx((meter.count - 1) * meter.constant.watt_hours * 3600, rel=1e-9)


@given(IMPULSES, MAX_WATTS, TIMES_NS, st.lists(st.floats(0, 1, exclude_max=True), max_size=50))
def test_bounce_is_rejected_and_counted_as_such(impulses_per_kwh, max_watts, at_ns, bounces):
    """Whatever edges follow a pulse within the hold-off, the count stays, and each of them is in rejected."""
    meter = made(impulses_per_kwh, max_watts)
    assert pulse(meter, at_ns)
    inside = [at_ns + int(part * meter.flash.hold_off_ns) for part in sorted(bounces) if meter.flash.hold_off_ns]
    assert [pulse(meter, bounce_ns) for bounce_ns in inside] == [False] * len(inside)
    assert (meter.count, meter.flash.rejected, meter.last_ns) == (1, len(inside), at_ns)


@given(st.lists(st.floats(0, 0.999), max_size=200))
def test_bounce_does_not_prolong_the_hold_off(bounces):
    """The hold-off runs from the pulse, not from the last edge: a noisy line can't hold up the next pulse."""
    meter = made()
    pulse(meter, 0)
    for part in sorted(bounces):
        pulse(meter, int(part * meter.flash.hold_off_ns))
    assert pulse(meter, meter.flash.hold_off_ns)
    assert (meter.count, meter.interval_ns) == (2, meter.flash.hold_off_ns)


@given(
    st.sampled_from([75, 800, 1000, 3200, 10_000]),
    st.floats(500, 200_000),
    st.lists(st.floats(HOLD_OFF + 1e-6, 3), min_size=1, max_size=100),
)
def test_a_load_at_the_fuse_with_jitter_loses_no_pulse(impulses_per_kwh, max_watts, parts):
    """Edges at the spacing of max_watts are all counted, also where each comes up to 30 % early."""
    meter = made(impulses_per_kwh, max_watts)
    spacing_ns = JOULES_PER_KWH / (impulses_per_kwh * max_watts) * NS_PER_S
    times_ns = list(itertools.accumulate([0, *(round(part * spacing_ns) for part in parts)]))
    assert all(pulse(meter, at_ns) for at_ns in times_ns)
    assert (meter.count, meter.flash.rejected) == (len(times_ns), 0)


def test_hold_off_of_the_example():
    """1,000 impulses a kWh at 24 kW come 150 ms apart at the least; 0.7 of that is the hold-off."""
    meter = made(impulses_per_kwh=1000, max_watts=24_000)
    assert meter.flash.hold_off_ns == 105_000_000
    assert [pulse(meter, at_ns) for at_ns in (0, 104_999_999, 105_000_000)] == [True, False, True]


def test_a_late_burst_with_its_own_stamps_is_counted_whole():
    """Edges that arrive late and all at once count by their timestamps: a stall of 3 s at 20/s loses none of 60."""
    meter = made(impulses_per_kwh=1000, max_watts=72_000)
    assert pulse(meter, 0)
    late_ns = [round(3 * NS_PER_S * turn / 60) for turn in range(1, 61)]
    assert all(pulse(meter, at_ns) for at_ns in late_ns)
    assert (meter.count, meter.flash.rejected) == (61, 0)
    assert meter.watts_at(late_ns[-1]) == (pytest.approx(72_000, rel=1e-6), False)


def test_a_late_burst_stamped_on_arrival_is_one_pulse_and_says_so():
    """Edges that all have the time of their arrival look like bounce: one counts, the rest are rejected."""
    meter = made()
    pulse(meter, 0)
    assert [pulse(meter, 3 * NS_PER_S + turn) for turn in range(60)].count(True) == 1
    assert (meter.count, meter.flash.rejected) == (2, 59)


@given(st.lists(st.tuples(IMPULSES, st.integers(0, 100_000)), min_size=1, max_size=10))
def test_register_never_goes_back(stretches):
    """The register never goes back, pulse by pulse, nor where the meter's constant is changed."""
    count, register_kwh = 0, 0.0
    for impulses_per_kwh, pulses in stretches:
        constant = Constant(impulses_per_kwh, count, register_kwh)
        assert constant.register_at(count) == register_kwh
        steps = [constant.register_at(count + pulse) for pulse in range(0, pulses + 1, max(1, pulses // 10))]
        assert steps == sorted(steps)
        count, register_kwh = count + pulses, constant.register_at(count + pulses)
        assert register_kwh >= steps[-1]


@given(IMPULSES, st.integers(1, 10**14), st.integers(0, 10**15))
def test_power_shown_is_bounded_by_the_silence(impulses_per_kwh, interval_ns, silence_ns):
    """The power shown is never above the last mean, nor above what the silence since the last pulse allows."""
    meter = made(impulses_per_kwh, max_watts=100_000_000)
    meter.flash.hold_off_ns = 0
    pulse(meter, 0)
    pulse(meter, interval_ns)
    watts, is_bound = meter.watts_at(interval_ns + silence_ns)
    mean = meter.constant.mean_watts(1, interval_ns / NS_PER_S)
    joules_in_silence = watts * silence_ns / NS_PER_S
    assert 0 < watts <= mean
    assert joules_in_silence <= meter.constant.watt_hours * 3600 * (1 + 1e-12)
    assert is_bound == (silence_ns > interval_ns)
    if not is_bound:
        assert watts == pytest.approx(mean)


@given(st.integers(1, 10**12), st.lists(st.integers(0, 10**13), min_size=2, max_size=20))
def test_power_shown_falls_in_silence(interval_ns, silences_ns):
    """While no pulse comes, the power shown never rises."""
    meter = made(max_watts=100_000_000)
    meter.flash.hold_off_ns = 0
    pulse(meter, 0)
    pulse(meter, interval_ns)
    shown = [meter.watts_at(interval_ns + silence_ns)[0] for silence_ns in sorted(silences_ns)]
    assert shown == sorted(shown, reverse=True)


def test_no_power_before_the_second_pulse():
    """Power is known from the second pulse on: the first has no known predecessor."""
    meter = made()
    assert meter.watts_at(5) == (None, False)
    pulse(meter, 0)
    assert meter.watts_at(5) == (None, False)
    assert meter.interval_ns is None
    pulse(meter, 3_600_000_000)
    assert meter.watts_at(3_600_000_000) == (1000.0, False)


@given(IMPULSES, MAX_WATTS, st.none() | st.integers(1, 10**14), st.lists(st.integers(0, 10**15), min_size=1))
def test_a_bound_is_never_kept(impulses_per_kwh, max_watts, interval_ns, silences_ns):
    """Asking for the power changes nothing: a bound is no measurement, and the next interval is the time it took."""
    meter = made(impulses_per_kwh, max_watts)
    pulse(meter, 0)
    if interval_ns is not None:
        interval_ns += meter.flash.hold_off_ns
        pulse(meter, interval_ns)
    before = dataclasses.replace(meter)
    for silence_ns in silences_ns:
        meter.watts_at(meter.last_ns + silence_ns)
    assert meter == before
    assert meter.interval_ns == interval_ns
    last_ns, gap_ns = meter.last_ns, meter.flash.hold_off_ns + max(silences_ns)
    assert pulses_of(meter, [fall(last_ns + gap_ns)]) == [Counted(meter.count, last_ns + gap_ns, gap_ns)]


def test_power_before_the_first_pulse_is_bounded_by_the_watch():
    """Where it is known since when no flash was missed, the silence before the first pulse is a bound of the power."""
    meter = made(watched_ns=10 * NS_PER_S)
    # Less than the shortest spacing at the limit of the main fuse, 150 ms, tells nothing.
    assert meter.watts_at(10 * NS_PER_S) == (None, False)
    assert meter.watts_at(10 * NS_PER_S + 149 * MS) == (None, False)
    assert meter.watts_at(10 * NS_PER_S + 151 * MS) == (pytest.approx(24_000, rel=0.01), True)
    assert meter.watts_at(13_600_000_000) == (1000.0, True)
    pulse(meter, 17_200_000_000)
    # From the first pulse on the silence after it is what counts.
    assert meter.watts_at(17_200_000_000) == (None, False)
    assert meter.watts_at(20_800_000_000) == (1000.0, True)
    assert meter.interval_ns is None


@given(IMPULSES, MAX_WATTS, st.booleans(), st.integers(0, 10**15))
def test_no_bound_is_above_the_limit_of_the_main_fuse(impulses_per_kwh, max_watts, flashed, silence_ns):
    """While the last interval is not known, a bound is shown as soon as it is lower than max_watts, and not before."""
    meter = made(impulses_per_kwh, max_watts, watched_ns=0)
    if flashed:
        pulse(meter, 0)
    watts, is_bound = meter.watts_at(silence_ns)
    assert (watts is not None) == is_bound
    if is_bound:
        # The hold-off is a whole number of ns, 25 at the least.
        assert watts <= max_watts * (1 + 1 / meter.flash.hold_off_ns)
    else:
        assert silence_ns <= (meter.flash.hold_off_ns + 1) / HOLD_OFF


# --- Both edges: bounce, and what a flash is


def settle_ns(meter):
    """How long it must be dark before an edge can be a new flash's, in whole ns."""
    return math.ceil(min(SETTLE * meter.flash.hold_off_ns, LONGEST_SETTLE_NS))


def test_bounce_at_the_end_of_a_long_flash_is_rejected():
    """A falling edge just after a rising one is bounce, though the hold-off has ended long ago."""
    meter = made()
    edges = [fall(0), rise(900 * MS), fall(900 * MS + 200_000), rise(901 * MS), fall(905 * MS), rise(906 * MS)]
    assert pulses_of(meter, edges) == [Counted(1, 0, None)]
    assert meter.flash.rejected == 2
    assert pulses_of(meter, [fall(3600 * MS)]) == [Counted(2, 3600 * MS, 3600 * MS)]


@pytest.mark.parametrize(
    ("impulses_per_kwh", "max_watts", "settled_ns"),
    [(1000, 24_000, 5_000_000), (1000, 60_000, 4_200_000), (10_000, 24_000, 1_050_000)],
)
def test_an_edge_after_the_settle_time_is_a_flash(impulses_per_kwh, max_watts, settled_ns):
    """After a tenth of the hold-off in the dark, at most 5 ms, a falling edge begins a flash; 1 ns earlier, none."""
    for dark_ns, pulses in ((settled_ns - 1, 1), (settled_ns, 2)):
        meter = made(impulses_per_kwh, max_watts)
        edges = [fall(0), rise(meter.flash.hold_off_ns), fall(meter.flash.hold_off_ns + dark_ns)]
        assert len(pulses_of(meter, edges)) == pulses
        assert meter.flash.rejected == 2 - pulses


@pytest.mark.parametrize("lit_ns", [1, 1000, MS])
def test_a_short_flash_counts(lit_ns):
    """A flash of a millisecond, and shorter, is a pulse where no length is asked for."""
    meter = made()
    edges = [edge for turn in range(50) for edge in (fall(turn * NS_PER_S), rise(turn * NS_PER_S + lit_ns))]
    assert [counted.number for counted in pulses_of(meter, edges)] == list(range(1, 51))
    assert (meter.flash.rejected, meter.flash.length_ns) == (0, lit_ns)


@st.composite
def bouncing_flashes(draw, meter):
    """
    The edges of flashes with bounce at both ends of each, and when each flash begins.

    At the beginning it bounces within the hold-off; at the end as long as it
    likes, but never is dark for the settle time before it is over.
    """
    settle, edges, starts_ns, earliest_ns = settle_ns(meter), [], [], 0
    part = st.floats(0, 1, exclude_max=True)
    for _ in range(draw(st.integers(1, 6))):
        start_ns = earliest_ns + draw(st.integers(0, 3) | st.integers(0, 5 * meter.flash.hold_off_ns))
        starts_ns.append(start_ns)
        edges.append(fall(start_ns))
        begin = sorted(draw(st.lists(st.tuples(part, part).map(sorted), max_size=6)))
        at_ns = start_ns
        for dark, lit in begin:
            for make, offset in ((rise, dark), (fall, lit)):
                at_ns = max(at_ns, start_ns + int(offset * meter.flash.hold_off_ns))
                edges.append(make(at_ns))
        at_ns += draw(st.integers(0, 3 * meter.flash.hold_off_ns))
        edges.append(rise(at_ns))
        for _ in range(draw(st.integers(0, 6))):
            at_ns += draw(st.integers(0, settle - 1))
            edges.append(fall(at_ns))
            at_ns += draw(st.integers(0, 3) | st.integers(0, 2 * meter.flash.hold_off_ns))
            edges.append(rise(at_ns))
        earliest_ns = max(start_ns + meter.flash.hold_off_ns, at_ns + settle)
    return edges, starts_ns


#: Meters of several hold-offs: settle times of 5 ms, of a tenth of the hold-off, and of a few ns.
SEVERAL_METERS = [(1000, 24_000), (800, 11_000), (10_000, 24_000), (1_000_000, 100_000_000)]


@given(st.data(), st.sampled_from(SEVERAL_METERS))
def test_a_flash_never_counts_twice(data, constants):
    """However flashes of any length bounce at both ends, each is one pulse, at its first edge, and spaced as those."""
    meter = made(*constants)
    edges, starts_ns = data.draw(bouncing_flashes(meter))
    spacings_ns = [None, *(after - before for before, after in itertools.pairwise(starts_ns))]
    assert pulses_of(meter, edges) == [
        Counted(number, at_ns, spacing_ns)
        for number, (at_ns, spacing_ns) in enumerate(zip(starts_ns, spacings_ns, strict=True), 1)
    ]
    falling = sum(edge.falling for edge in edges)
    assert (meter.flash.rejected, meter.flash.rejected_late, meter.made_up) == (falling - len(starts_ns), 0, 0)
    assert meter.flash.edge_ns == edges[-1].at_ns


@given(st.lists(st.integers(105 * MS, 110 * MS) | st.integers(105 * MS, 10**10), max_size=50))
def test_falling_edges_alone_do(spacings_ns):
    """A board that tells no rising edge loses nothing: there is no dark to be settled in, and no length is known."""
    meter = made()
    times_ns = list(itertools.accumulate([0, *spacings_ns]))
    assert pulses_of(meter, map(fall, times_ns)) == [
        Counted(number, at_ns, spacing_ns)
        for number, (at_ns, spacing_ns) in enumerate(zip(times_ns, [None, *spacings_ns], strict=True), 1)
    ]
    assert (meter.flash.rejected, meter.flash.length_ns) == (0, None)


def test_the_length_of_a_flash_is_what_shone():
    """flash_ns is the longest time it was lit at a stretch in the last flash; not known while it is lit."""
    meter = made()
    assert meter.flash.length_ns is None
    pulses_of(meter, [fall(0)])
    assert meter.flash.length_ns is None
    pulses_of(meter, [rise(2 * MS)])
    assert meter.flash.length_ns == 2 * MS
    pulses_of(meter, [fall(3 * MS), rise(33 * MS), fall(34 * MS), rise(35 * MS)])
    assert meter.flash.length_ns == 30 * MS
    pulses_of(meter, [fall(NS_PER_S)])
    assert meter.flash.length_ns is None
    pulses_of(meter, [rise(NS_PER_S + 7)])
    assert meter.flash.length_ns == 7


def test_a_flash_that_began_before_the_watch():
    """A first rising edge ends a flash that began before: neither it nor its bounce gives a pulse or a length."""
    meter = made(watched_ns=0)
    assert pulses_of(meter, [rise(MS), fall(MS + 1000), rise(MS + 2000)]) == []
    assert (meter.count, meter.flash.rejected) == (0, 1)
    assert pulses_of(meter, [fall(NS_PER_S)]) == [Counted(1, NS_PER_S, None)]


def test_late_bounce_is_told_apart():
    """Edges within the hold-off that a stall held up are not called bounce; one after it is a pulse as any other."""
    meter = made()
    edges = [fall(0), fall(1), *(fall(at_ns, late=True) for at_ns in (2, 3, 4)), fall(NS_PER_S, late=True)]
    assert pulses_of(meter, edges) == [Counted(1, 0, None), Counted(2, NS_PER_S, NS_PER_S)]
    assert (meter.flash.rejected, meter.flash.rejected_late) == (1, 3)


# --- The shortest flash


def test_a_flash_shorter_than_the_shortest_is_none():
    """A flash that shone less than min_flash_ns makes no pulse and is counted as too short; one that long is one."""
    meter = made(min_flash_ns=2 * MS)
    assert pulses_of(meter, [fall(0), rise(2 * MS - 1)]) == []
    assert (meter.count, meter.flash.too_short, meter.flash.rejected) == (0, 1, 0)
    # In what would have been its hold-off: a flash that was too short holds off nothing.
    assert pulses_of(meter, [fall(50 * MS), rise(52 * MS)]) == [Counted(1, 50 * MS, None)]
    assert (meter.flash.too_short, meter.flash.length_ns) == (1, 2 * MS)


def test_a_pulse_is_at_the_flashs_first_edge():
    """Where the end of a flash is waited for, the pulse's time and interval are those of its first edge nonetheless."""
    meter = made(min_flash_ns=2 * MS)
    assert pulses_of(meter, [fall(0)]) == []
    assert pulses_of(meter, [rise(30 * MS)]) == [Counted(1, 0, None)]
    assert pulses_of(meter, [fall(NS_PER_S)]) == []
    assert pulses_of(meter, [rise(NS_PER_S + 90 * MS)]) == [Counted(2, NS_PER_S, NS_PER_S)]


def test_bounce_at_the_beginning_does_not_lose_a_flash():
    """A flash that begins with bounce shorter than the shortest flash counts, once, and is not too short in the end."""
    meter = made(min_flash_ns=2 * MS)
    bounce = [fall(0), rise(MS // 10), fall(MS // 5), rise(MS // 2), fall(MS)]
    assert pulses_of(meter, bounce) == []
    assert pulses_of(meter, [rise(40 * MS)]) == [Counted(1, 0, None)]
    assert (meter.flash.too_short, meter.flash.rejected) == (0, 2)
    assert pulses_of(meter, [fall(41 * MS), rise(80 * MS)]) == []
    assert (meter.count, meter.flash.too_short) == (1, 0)


def test_a_burst_of_glitches_is_no_flash():
    """Glitches shorter than the shortest flash are not pulses, however many there are and however long they go on."""
    meter = made(min_flash_ns=2 * MS)
    glitches = [edge for turn in range(1000) for edge in (fall(turn * MS), rise(turn * MS + MS // 10))]
    assert pulses_of(meter, glitches) == []
    assert (meter.count, meter.flash.too_short, meter.flash.length_ns) == (0, 1, MS // 10)


def test_a_flash_in_the_hold_off_is_bounce_not_too_short():
    """A flash within the hold-off is rejected, whatever its length: it is counted once, in one place."""
    meter = made(min_flash_ns=2 * MS)
    edges = [fall(0), rise(10 * MS), fall(30 * MS), rise(31 * MS), fall(50 * MS), rise(90 * MS)]
    assert pulses_of(meter, edges) == [Counted(1, 0, None)]
    assert (meter.flash.rejected, meter.flash.too_short) == (2, 0)


@given(st.data(), st.sampled_from(SEVERAL_METERS), st.integers(1, 10**8))
def test_a_flash_counts_by_how_long_it_shone(data, constants, min_flash_ns):
    """However it is cut up by bounce, a flash is a pulse just if it shone so long at a stretch, else too short."""
    meter = made(*constants, min_flash_ns=min_flash_ns)
    settle, edges, long_ns, short, earliest_ns = settle_ns(meter), [], [], 0, 0
    lit = st.integers(0, 3) | st.integers(0, min_flash_ns) | st.integers(0, 2 * min_flash_ns)
    for _ in range(data.draw(st.integers(1, 6))):
        start_ns = at_ns = earliest_ns + data.draw(st.integers(0, 3) | st.integers(0, 10**9))
        shone_ns = 0
        for lit_ns in data.draw(st.lists(lit, min_size=1, max_size=6)):
            edges += [fall(at_ns), rise(at_ns + lit_ns)]
            shone_ns = max(shone_ns, lit_ns)
            dark_ns = data.draw(st.integers(0, settle - 1))
            at_ns += lit_ns + dark_ns
        at_ns -= dark_ns
        if shone_ns >= min_flash_ns:
            long_ns.append(start_ns)
        else:
            short += 1
        earliest_ns = max(start_ns + meter.flash.hold_off_ns, at_ns + settle)
    spacings_ns = [None, *(after - before for before, after in itertools.pairwise(long_ns))]
    assert pulses_of(meter, edges) == [
        Counted(number, at_ns, spacing_ns)
        for number, (at_ns, spacing_ns) in enumerate(zip(long_ns, spacings_ns, strict=False), 1)
    ]
    assert meter.flash.too_short == short
    assert meter.flash.length_ns == shone_ns


# --- Edges that merged before the kernel looked


def test_a_flash_too_short_for_the_kernel():
    """A rising edge in the dark is a flash that was over when the kernel looked: a pulse, or one too short."""
    meter = made()
    assert pulses_of(meter, [fall(0), rise(MS), rise(NS_PER_S)]) == [
        Counted(1, 0, None),
        Counted(2, NS_PER_S, NS_PER_S),
    ]
    assert pulses_of(meter, [rise(NS_PER_S + MS)]) == []
    assert pulses_of(meter, [fall(3 * NS_PER_S)]) == [Counted(3, 3 * NS_PER_S, 2 * NS_PER_S)]
    assert meter.flash.rejected == 1
    judged = made(min_flash_ns=MS)
    assert pulses_of(judged, [fall(0), rise(MS), rise(NS_PER_S)]) == [Counted(1, 0, None)]
    assert (judged.flash.too_short, judged.flash.rejected) == (1, 0)


def test_a_dark_too_short_for_the_kernel():
    """A falling edge while it is lit is bounce, also later than the hold-off: no dark was seen in between."""
    meter = made()
    edges = [fall(0), rise(120 * MS), fall(NS_PER_S), fall(NS_PER_S + 120 * MS), rise(NS_PER_S + 121 * MS)]
    assert pulses_of(meter, edges) == [Counted(1, 0, None), Counted(2, NS_PER_S, NS_PER_S)]
    assert (meter.flash.rejected, meter.flash.length_ns) == (1, 121 * MS)


def test_a_dark_that_the_kernel_did_not_see_for_its_own_delay():
    """Lit for far longer than the flash before, a falling edge is the next flash: a busy kernel merged the dark."""
    fast = made(1000, 9_000_000)
    flashes = [edge for turn in range(5) for edge in (fall(turn * MS), rise(turn * MS + MS // 5))]
    del flashes[3]
    assert [counted.number for counted in pulses_of(fast, flashes)] == [1, 2, 3, 4, 5]
    assert fast.flash.rejected == 0


# --- Flashes of any shape


def test_an_end_that_the_kernel_did_not_see():
    """A LED lit half of the time, with one end lost: the next flash counts, and no interval is doubled."""
    meter = made()
    edges = [fall(0), rise(1800 * MS), fall(3600 * MS), fall(7200 * MS), rise(9000 * MS), fall(10_800 * MS)]
    counted = pulses_of(meter, edges)
    assert [pulse.at_ns for pulse in counted] == [0, 3600 * MS, 7200 * MS, 10_800 * MS]
    assert [pulse.interval_ns for pulse in counted] == [None] + [3600 * MS] * 3
    assert meter.flash.rejected == 0


def test_two_ends_in_a_row_that_the_kernel_did_not_see():
    """The same with two ends lost one after the other: each flash counts once the next edge comes."""
    meter = made()
    edges = [fall(0), rise(1800 * MS), fall(3600 * MS), fall(7200 * MS), fall(10_800 * MS), rise(12_600 * MS)]
    assert [pulse.at_ns for pulse in pulses_of(meter, edges)] == [0, 3600 * MS, 7200 * MS, 10_800 * MS]


def test_a_beginning_that_the_kernel_did_not_see():
    """A flash of which only the end was seen counts, and does not hold off the next one at a high load."""
    meter = made()  # the hold-off is 105 ms
    spacing = 180 * MS
    edges = [edge for n in range(4) for edge in (fall(n * spacing), rise(n * spacing + 90 * MS))]
    del edges[4]
    assert [pulse.at_ns for pulse in pulses_of(meter, edges)] == [n * spacing for n in range(4)]
    assert meter.flash.rejected == 0


def test_bounce_inside_a_flash():
    """A gap in a flash is bounce, and it is one flash."""
    meter = made()
    edges = [fall(0), rise(MS), fall(MS + 20_000), rise(40 * MS), fall(NS_PER_S)]
    assert [pulse.at_ns for pulse in pulses_of(meter, edges)] == [0, NS_PER_S]


def test_a_flash_whose_end_was_not_seen_waits():
    """waits_since_ns is also the beginning of what may be the next flash, or bounce of the one before."""
    meter = made()
    pulses_of(meter, [fall(0), rise(1800 * MS), fall(3600 * MS), fall(7200 * MS)])
    assert (meter.count, meter.flash.waits_since_ns) == (2, 7200 * MS)
    pulses_of(meter, [rise(9000 * MS)])
    assert (meter.count, meter.flash.waits_since_ns) == (3, None)


@pytest.mark.parametrize("shape", ["half", 0.9, 0.1, 30 * MS, 2 * MS])
@pytest.mark.parametrize("watts", [60.0, 500.0, 2300.0, 20_000.0, None])
def test_lost_ends_cost_no_pulse(shape, watts):
    """
    2 % of the ends of flashes lost, at any load, a household's too: 5,000 of 5,000 flashes count.

    *shape*: lit from one half of a flash's energy to the other, as a LED that is toggled; a part of the time; or a
    length.
    """
    load = household(0, "a house") if watts is None else constant(watts)
    halves = list(itertools.islice(flashes(load, 2000, 0), 10_001))
    chance = random.Random(f"{shape} {watts}")
    meter, times_ns = made(), []
    for begin_ns, half_ns, next_ns in zip(halves[::2], halves[1::2], halves[2::2], strict=False):
        if shape == "half":
            end_ns = half_ns
        else:
            end_ns = begin_ns + (int((next_ns - begin_ns) * shape) if isinstance(shape, float) else shape)
        times_ns += [counted.at_ns for counted in meter.take(fall(begin_ns))]
        if chance.random() >= 0.02 or next_ns == halves[-1]:
            times_ns += [counted.at_ns for counted in meter.take(rise(end_ns))]
    assert meter.count == 5000
    assert times_ns[:4900] == halves[: 2 * 4900 : 2]


# --- Light that flickers


def test_flicker():
    """Light that does not settle in the dark for a minute flickers, and makes one pulse; the next flash ends that."""
    meter = made()
    at_100_hz = [edge for turn in range(6002) for edge in (fall(turn * 10 * MS), rise(turn * 10 * MS + 6 * MS))]
    assert len(pulses_of(meter, at_100_hz[:12_000])) == 1
    assert not meter.flash.flickers
    assert pulses_of(meter, at_100_hz[12_000:]) == []
    assert meter.flash.flickers
    assert pulses_of(meter, [fall(70 * NS_PER_S)]) == [Counted(2, 70 * NS_PER_S, 70 * NS_PER_S)]
    assert not meter.flash.flickers


def test_a_flash_that_was_judged_is_not_made_up():
    """A flash found too short is not counted for edges that are lost later; one still lit then is."""
    blip = [fall(0), rise(MS)]
    meter = made(min_flash_ns=10 * MS, watched_ns=0)
    assert pulses_of(meter, blip) == []
    assert len(pulses_of(meter, [rise(3600 * NS_PER_S, lost=1)])) == 1
    assert (meter.flash.too_short, meter.made_up) == (1, 1)


def test_a_flash_that_waits():
    """waits_since_ns is the beginning of a flash that may yet become a pulse of that time."""
    meter = made(min_flash_ns=10 * MS)
    assert meter.flash.waits_since_ns is None
    pulses_of(meter, [fall(5)])
    assert meter.flash.waits_since_ns == 5
    pulses_of(meter, [rise(5 + 10 * MS)])
    assert meter.flash.waits_since_ns is None


# --- Lost edges


@pytest.mark.parametrize(
    ("seen", "lost", "then", "times_s"),
    [
        # dark: fall rise fall rise are lost, the next is a flash of its own
        ([fall(0), rise(MS)], 4, fall(9 * NS_PER_S), [3, 6, 9]),
        # dark: fall rise fall are lost, then the end of the second
        ([fall(0), rise(MS)], 3, rise(9 * NS_PER_S), [3, 6]),
        # lit: its end and a flash are lost
        ([fall(0)], 3, fall(9 * NS_PER_S), [4.5, 9]),
        # lit: its end and two beginnings are lost
        ([fall(0)], 4, rise(9 * NS_PER_S), [3, 6]),
        # of only one flash, the end or the beginning
        ([fall(0)], 1, fall(9 * NS_PER_S), [9]),
        ([fall(0), rise(MS)], 1, rise(9 * NS_PER_S), [4.5]),
    ],
)
def test_lost_edges_are_counted_as_the_flashes_they_were(seen, lost, then, times_s):
    """As edges fall and rise by turns it is known how many flashes were lost; they are spread evenly over the gap."""
    meter = made()
    assert pulses_of(meter, seen) == [Counted(1, 0, None)]
    found = pulses_of(meter, [then._replace(lost=lost)])
    assert [counted.number for counted in found] == list(range(2, 2 + len(times_s)))
    assert [counted.at_ns for counted in found] == [round(at_s * NS_PER_S) for at_s in times_s]
    assert meter.made_up == len(times_s) - then.falling
    assert meter.count == 1 + len(times_s)


def test_no_interval_is_made_up():
    """Neither a flash in place of lost edges nor the pulse after it has an interval; the one after that has its own."""
    meter = made()
    edges = [fall(0), rise(MS), fall(8 * NS_PER_S, lost=2), rise(8 * NS_PER_S + MS)]
    assert [counted.interval_ns for counted in pulses_of(meter, edges)] == [None, None, None]
    assert meter.interval_ns is None
    assert meter.watts_at(8 * NS_PER_S + MS) == (None, False)
    assert pulses_of(meter, [fall(10 * NS_PER_S), rise(10 * NS_PER_S + MS)]) == [
        Counted(4, 10 * NS_PER_S, 2 * NS_PER_S)
    ]
    # The same where the edge that tells of the loss is no pulse itself.
    assert [counted.interval_ns for counted in pulses_of(meter, [rise(14 * NS_PER_S, lost=1)])] == [None]
    assert pulses_of(meter, [fall(15 * NS_PER_S), rise(15 * NS_PER_S + MS)]) == [Counted(6, 15 * NS_PER_S, None)]
    assert pulses_of(meter, [fall(18 * NS_PER_S)]) == [Counted(7, 18 * NS_PER_S, 3 * NS_PER_S)]


def test_an_interval_stays_where_no_flash_was_lost():
    """If only the end of the last flash was lost, the next pulse has its interval, which is exact."""
    meter = made()
    assert pulses_of(meter, [fall(0), fall(3 * NS_PER_S, lost=1)])[1] == Counted(2, 3 * NS_PER_S, 3 * NS_PER_S)
    assert meter.made_up == 0


def test_a_burst_of_noise_makes_no_energy():
    """However many edges were lost, no more flashes are counted for them than fit in at the limit of the main fuse."""
    meter = made()  # 150 ms apart at the least
    assert len(pulses_of(meter, [fall(0), rise(MS), fall(1510 * MS, lost=10_000)])) == 1 + 9 + 1
    assert meter.made_up == 9
    assert pulses_of(meter, [rise(1511 * MS), fall(1659 * MS, lost=10_000)]) == [Counted(12, 1659 * MS, 149 * MS)]


def test_lost_before_the_first_pulse():
    """Before the first pulse the gap begins when the watch did; where that is not known, nothing is made up."""
    meter = made(watched_ns=10 * NS_PER_S)
    found = pulses_of(meter, [fall(13 * NS_PER_S, lost=4)])
    assert found == [
        Counted(1, 11 * NS_PER_S, None),
        Counted(2, 12 * NS_PER_S, None),
        Counted(3, 13 * NS_PER_S, None),
    ]
    meter = made()
    assert pulses_of(meter, [fall(13 * NS_PER_S, lost=4)]) == [Counted(1, 13 * NS_PER_S, None)]
    assert meter.made_up == 0
    assert pulses_of(meter, [fall(15 * NS_PER_S)]) == [Counted(2, 15 * NS_PER_S, 2 * NS_PER_S)]


def test_a_flash_is_not_as_long_as_a_gap():
    """Two edges with others lost between them are no flash that shone all the while: no length, and no pulse for it."""
    meter = made()
    pulses_of(meter, [fall(0), rise(9 * NS_PER_S, lost=2)])
    assert meter.flash.length_ns is None
    meter = made(min_flash_ns=NS_PER_S)
    assert pulses_of(meter, [fall(0), rise(9 * NS_PER_S, lost=2)]) == []


def test_bounce_after_lost_edges_is_bounce():
    """An edge just after the rising one that tells of a loss is bounce of that flash's end, as after any other."""
    meter = made()
    edges = [fall(0), rise(MS), rise(9 * NS_PER_S, lost=1), fall(9 * NS_PER_S + MS // 2), rise(9 * NS_PER_S + MS)]
    assert len(pulses_of(meter, edges)) == 2
    assert meter.flash.rejected == 1


@st.composite
def flashes_with_a_gap(draw, least):
    """
    The edges of flashes, as many as there are, and the run of them that is lost.

    *least*: the least spacing, in those that the limit of the main fuse allows.
    The first flash is seen, whole or its beginning, and something after the run.
    """
    shortest = 150 * MS
    spacings_ns = draw(st.lists(st.integers(int(least * shortest), 10 * shortest), min_size=2, max_size=30))
    edges = []
    for at_ns in itertools.accumulate([0, *spacings_ns]):
        edges += [fall(at_ns), rise(at_ns + draw(st.integers(1, shortest - 10 * MS)))]
    begin = draw(st.integers(1, len(edges) - 2))
    end = draw(st.integers(begin + 1, len(edges) - 1))
    return edges, begin, end


def assert_all_flashes_count(gap):
    edges, begin, end = gap
    meter = made()
    after = edges[end]._replace(lost=end - begin)
    found = pulses_of(meter, [*edges[:begin], after, *edges[end + 1 :]])
    flashes = sum(edge.falling for edge in edges)
    assert [counted.number for counted in found] == list(range(1, flashes + 1))
    assert meter.made_up == sum(edge.falling for edge in edges[begin:end])
    times_ns = [counted.at_ns for counted in found]
    assert times_ns == sorted(times_ns)
    # The intervals that are reported are the true ones.
    true_ns = [edge.at_ns for edge in edges if edge.falling]
    for counted, (before_ns, at_ns) in zip(found[1:], itertools.pairwise(true_ns), strict=True):
        assert counted.interval_ns in (None, at_ns - before_ns)


@given(flashes_with_a_gap(least=2))
def test_no_flash_is_lost_with_its_edges(gap):
    """Whatever run of edges is lost, there are as many pulses as flashes, in order, and no interval is a wrong one."""
    assert_all_flashes_count(gap)


@given(flashes_with_a_gap(least=1.001))
def test_no_flash_is_lost_with_its_edges_at_the_fuse(gap):
    """The same at the limit of the main fuse, where a flash's beginning is the first edge seen again."""
    edges, _, end = gap
    hypothesis.assume(edges[end].falling)
    assert_all_flashes_count(gap)


@given(flashes_with_a_gap(least=1.001))
def test_no_flash_is_lost_with_its_edges_at_the_fuse_before_an_end(gap):
    """The same at the limit of the main fuse, where a flash's end is the first edge seen again."""
    edges, _, end = gap
    hypothesis.assume(not edges[end].falling)
    assert_all_flashes_count(gap)


def test_a_flash_that_waits_for_its_end_is_not_lost_with_it():
    """With min_flash_ns too, a flash whose end was lost is among those that are made up for the lost edges."""
    for lost, then, pulses in ((1, fall(9 * NS_PER_S), 1), (2, rise(9 * NS_PER_S), 2), (3, fall(9 * NS_PER_S), 2)):
        meter = made(min_flash_ns=2 * MS, watched_ns=0)
        pulses_of(meter, [fall(3 * NS_PER_S), then._replace(lost=lost)])
        assert meter.count == pulses, (lost, then)


def test_lost_edges_end_the_flash_that_waited():
    """With min_flash_ns, what comes after a loss is not added to a flash before it: no pulse goes back in time."""
    meter = made(min_flash_ns=2 * MS, watched_ns=0)
    edges = [fall(3 * NS_PER_S), rise(9 * NS_PER_S, lost=2), fall(9 * NS_PER_S + MS), rise(9 * NS_PER_S + 5 * MS)]
    times_ns = [counted.at_ns for counted in pulses_of(meter, edges)]
    assert times_ns == sorted(times_ns)


def test_the_length_of_a_flash_whose_beginning_was_lost_is_not_known():
    """The length of an earlier flash is not that of the last one, where the last one's beginning was lost."""
    meter = made()
    pulses_of(meter, [fall(0), rise(7 * MS), rise(9 * NS_PER_S, lost=1)])
    assert meter.flash.length_ns is None


def test_power_is_not_bounded_by_a_time_that_was_made_up():
    """How long it was silent after a flash that was made up is not known: no bound may come out too low by it."""
    meter = made()
    pulses_of(meter, [fall(0), rise(MS), rise(10 * NS_PER_S, lost=1)])
    # The flash may have begun just before 10 s, and the load may have been switched on just then.
    assert meter.watts_at(10 * NS_PER_S + 100 * MS) == (None, False)


def test_count_goes_on_where_it_was():
    """A meter made with a count goes on from it, on the register of its constant."""
    meter = Meter("house", Constant(800, 1000, 12345.6), Flash(hold_off_ns(800, 24_000)), count=1080)
    assert meter.register_kwh == pytest.approx(12345.7)
    pulse(meter, 0)
    assert meter.count == 1081
    assert meter.register_kwh == pytest.approx(12345.7 + 1 / 800)


def test_a_constant_does_not_change():
    """A constant is a value: a new one is made where the meter is changed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Constant(1000).impulses_per_kwh = 800
