"""Pulses to power and energy, and the hold-off: laws that hold for every meter and load."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powermeter.meter import HOLD_OFF, JOULES_PER_KWH, NS_PER_S, Constant, Meter, hold_off_ns

#: What the settings allow for impulses_per_kwh and max_watts.
IMPULSES = st.floats(0.1, 1_000_000) | st.sampled_from([75, 500, 800, 1000, 3200, 10_000])
MAX_WATTS = st.floats(1, 100_000_000) | st.sampled_from([2300, 11_000, 24_000])
SECONDS = st.floats(1e-6, 1e8)
TIMES_NS = st.integers(0, 2**62)


def made(impulses_per_kwh=1000.0, max_watts=24_000.0):
    return Meter("house", Constant(impulses_per_kwh), hold_off_ns(impulses_per_kwh, max_watts))


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
    meter.edge(0)
    joules = 0.0
    for at_ns in itertools.accumulate(gaps_ns):
        if meter.edge(at_ns) and meter.interval_ns:
            seconds = meter.interval_ns / NS_PER_S
            joules += meter.constant.mean_watts(1, seconds) * seconds
    assert joules == pytest.approx((meter.count - 1) * meter.constant.watt_hours * 3600, rel=1e-9)


@given(IMPULSES, MAX_WATTS, TIMES_NS, st.lists(st.floats(0, 1, exclude_max=True), max_size=50))
def test_bounce_is_rejected_and_counted_as_such(impulses_per_kwh, max_watts, at_ns, bounces):
    """Whatever edges follow a pulse within the hold-off, the count stays, and each of them is in rejected."""
    meter = made(impulses_per_kwh, max_watts)
    assert meter.edge(at_ns)
    inside = [at_ns + int(part * meter.hold_off_ns) for part in sorted(bounces) if meter.hold_off_ns]
    assert [meter.edge(bounce_ns) for bounce_ns in inside] == [False] * len(inside)
    assert (meter.count, meter.rejected, meter.last_ns) == (1, len(inside), at_ns)


@given(st.lists(st.floats(0, 0.999), max_size=200))
def test_bounce_does_not_prolong_the_hold_off(bounces):
    """The hold-off runs from the pulse, not from the last edge: a noisy line can't hold up the next pulse."""
    meter = made()
    meter.edge(0)
    for part in sorted(bounces):
        meter.edge(int(part * meter.hold_off_ns))
    assert meter.edge(meter.hold_off_ns)
    assert (meter.count, meter.interval_ns) == (2, meter.hold_off_ns)


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
    assert all(meter.edge(at_ns) for at_ns in times_ns)
    assert (meter.count, meter.rejected) == (len(times_ns), 0)


def test_hold_off_of_the_example():
    """1,000 impulses a kWh at 24 kW come 150 ms apart at the least; 0.7 of that is the hold-off."""
    meter = made(impulses_per_kwh=1000, max_watts=24_000)
    assert meter.hold_off_ns == 105_000_000
    assert [meter.edge(at_ns) for at_ns in (0, 104_999_999, 105_000_000)] == [True, False, True]


def test_a_late_burst_with_its_own_stamps_is_counted_whole():
    """Edges that are handed over late, all at once, count by their stamps: 3 s of stall at 20/s lose none of 60."""
    meter = made(impulses_per_kwh=1000, max_watts=72_000)
    assert meter.edge(0)
    late_ns = [round(3 * NS_PER_S * turn / 60) for turn in range(1, 61)]
    assert all(meter.edge(at_ns) for at_ns in late_ns)
    assert (meter.count, meter.rejected) == (61, 0)
    assert meter.watts_at(late_ns[-1]) == pytest.approx(72_000, rel=1e-6)


def test_a_late_burst_stamped_on_arrival_is_one_pulse_and_says_so():
    """Edges that all got the time of their arrival can't be told from bounce: one counts, the rest are rejected."""
    meter = made()
    meter.edge(0)
    assert [meter.edge(3 * NS_PER_S + turn) for turn in range(60)].count(True) == 1
    assert (meter.count, meter.rejected) == (2, 59)


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
    meter.hold_off_ns = 0
    meter.edge(0)
    meter.edge(interval_ns)
    watts = meter.watts_at(interval_ns + silence_ns)
    mean = meter.constant.mean_watts(1, interval_ns / NS_PER_S)
    joules_in_silence = watts * silence_ns / NS_PER_S
    assert 0 < watts <= mean
    assert joules_in_silence <= meter.constant.watt_hours * 3600 * (1 + 1e-12)
    if silence_ns <= interval_ns:
        assert watts == pytest.approx(mean)


@given(st.integers(1, 10**12), st.lists(st.integers(0, 10**13), min_size=2, max_size=20))
def test_power_shown_falls_in_silence(interval_ns, silences_ns):
    """While no pulse comes, the power shown never rises."""
    meter = made(max_watts=100_000_000)
    meter.hold_off_ns = 0
    meter.edge(0)
    meter.edge(interval_ns)
    shown = [meter.watts_at(interval_ns + silence_ns) for silence_ns in sorted(silences_ns)]
    assert shown == sorted(shown, reverse=True)


def test_no_power_before_the_second_pulse():
    """Power is known from the second pulse on: the first has no known predecessor."""
    meter = made()
    assert meter.watts_at(5) is None
    meter.edge(0)
    assert meter.watts_at(5) is None
    assert meter.interval_ns is None
    meter.edge(3_600_000_000)
    assert meter.watts_at(3_600_000_000) == 1000.0


def test_count_goes_on_where_it_was():
    """A meter made with a count goes on from it, on the register of its constant."""
    meter = Meter("house", Constant(800, from_count=1000, register_kwh=12345.6), hold_off_ns(800, 24_000), count=1080)
    assert meter.register_kwh == pytest.approx(12345.7)
    meter.edge(0)
    assert meter.count == 1081
    assert meter.register_kwh == pytest.approx(12345.7 + 1 / 800)


def test_a_constant_does_not_change():
    """A constant is a value: a new one is made where the meter is changed."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Constant(1000).impulses_per_kwh = 800
