"""The periods of a report: spans as they are typed, cut by the local clock of any zone."""

import datetime as dt
import itertools
import time
import zoneinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powermeter import periods
from powermeter.meter import NS_PER_S

#: Zones whose clocks change by half an hour, at midnight, to the day before, not at all; and one that skipped a day.
ZONES = [
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Asia/Beirut",
    "America/Santiago",
    "America/Havana",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Pacific/Apia",
    "UTC",
]

#: 2026-11-23T12:00:00Z.
NOW_NS = 1_795_435_200 * NS_PER_S


def cut(text, now_ns=NOW_NS):
    return periods.parse(text, now_ns).periods()


def hours_by_zoneinfo(zone, day):
    """Where a new hour or offset begins on the local *day*, minute by minute (UTC, ns), by another implementation."""
    minutes = [
        (int(at.timestamp()), at)
        for at in (
            dt.datetime.fromtimestamp(second, zoneinfo.ZoneInfo(zone))
            for noon in [dt.datetime(day.year, day.month, day.day, 12, tzinfo=dt.UTC)]
            for second in range(int(noon.timestamp()) - 40 * 3600, int(noon.timestamp()) + 40 * 3600, 60)
        )
        if at.date() == day
    ]
    runs = itertools.groupby(minutes, key=lambda minute: (minute[1].hour, minute[1].utcoffset()))
    return [next(run)[0] * NS_PER_S for _, run in runs]


@pytest.mark.parametrize(
    ("text", "unit", "first", "end"),
    [
        ("today", "hour", "2026-11-23", "2026-11-24"),
        ("yesterday", "hour", "2026-11-22", "2026-11-23"),
        ("2024-02-29", "hour", "2024-02-29", "2024-03-01"),
        ("2026-12", "day", "2026-12-01", "2027-01-01"),
        ("2026", "month", "2026-01-01", "2027-01-01"),
        ("all", "year", "1970-01-01", "2027-01-01"),
        ("2026-10-15..2026-11-14", "day", "2026-10-15", "2026-11-15"),
        ("2026-10-15..2026-10-15", "day", "2026-10-15", "2026-10-16"),
        ("1970", "month", "1970-01-01", "1971-01-01"),
        ("2261", "month", "2261-01-01", "2262-01-01"),
    ],
)
def test_spans_as_they_are_typed(in_zone, text, unit, first, end):
    """Each way to write a span gives its days, both ends of a range included, and what its rows are."""
    in_zone("Europe/Berlin")
    span = periods.parse(text, NOW_NS)
    assert (span.text, span.unit, str(span.first), str(span.end)) == (text, unit, first, end)
    found = span.periods()
    assert {period.unit for period in found} == {unit}
    assert (periods.local_date(found[0].from_ns), periods.local_date(found[-1].to_ns)) == (first, end)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tomorrow",
        "Today",
        "2026-13",
        "2026-00",
        "2026-02-29",
        "2026-2-1",
        "26",
        "1969",
        "2262",
        "2262-01-01",
        "0000",
        "2026-11-15..2026-11-01",
        "2026-11..2026-12",
        "2026-11-01..",
        "..2026-11-01",
        "2026-11-01..2026-11-31",
        "2026-11-01..2262-01-01",
        "2026-11-01\n",
        "\u0662\u0660\u0662\u0666",  # 2026 in Arabic digits
        "x" * 5000,
    ],
)
def test_what_is_no_span(text):
    """Anything else is refused, by one short line."""
    with pytest.raises(periods.SpanError) as refused:
        periods.parse(text, NOW_NS)
    assert 0 < len(str(refused.value)) < 300
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("zone", "day", "rows", "seconds"),
    [
        ("Europe/Berlin", "2026-11-23", 24, 24 * 3600),
        ("Europe/Berlin", "2026-10-25", 25, 25 * 3600),
        ("Europe/Berlin", "2026-03-29", 23, 23 * 3600),
        ("Australia/Lord_Howe", "2026-04-05", 25, 24 * 3600 + 1800),
        ("Australia/Lord_Howe", "2026-10-04", 24, 23 * 3600 + 1800),
        ("America/Havana", "2026-03-08", 23, 23 * 3600),
        ("America/Havana", "2026-11-01", 25, 25 * 3600),
        ("Pacific/Apia", "2011-12-30", 0, 0),
    ],
)
def test_days_on_which_the_clocks_change(in_zone, zone, day, rows, seconds):
    """A local day has as many rows as hours are shown on a clock, each as long as it is shown."""
    in_zone(zone)
    hours = cut(day)
    assert len(hours) == rows
    assert sum(hour.to_ns - hour.from_ns for hour in hours) == seconds * NS_PER_S
    assert [hour.from_ns for hour in hours] == hours_by_zoneinfo(zone, dt.date.fromisoformat(day))


def test_the_hour_that_comes_twice_is_two_rows(in_zone):
    """In autumn 02:00 is there with either offset, and times say which it is."""
    in_zone("Europe/Berlin")
    shown = [periods.local_time(hour.from_ns) for hour in cut("2026-10-25")]
    assert shown[2:4] == ["2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("year", [1987, 2011, 2026])
def test_a_year_of_days(in_zone, zone, year):
    """Every local day begins with its first second, whether that is midnight or not, and ends with the next day's."""
    in_zone(zone)
    days = cut(f"{year}-01-01..{year}-12-31")
    assert all(before.to_ns == after.from_ns for before, after in itertools.pairwise(days))
    for day in days:
        date = periods.local_date(day.from_ns)
        assert periods.local_date(day.from_ns - NS_PER_S) < date or zone == "America/St_Johns"
        assert periods.local_date(day.from_ns + 12 * 3600 * NS_PER_S) == date
    assert len(days) == 365 - (zone == "Pacific/Apia" and year == 2011)


@given(
    zone=st.sampled_from(ZONES),
    first=st.dates(dt.date(1970, 1, 1), dt.date(2261, 12, 31)),
    length=st.integers(0, 40),
)
def test_periods_leave_no_gap(zone, first, length):
    """Whatever the zone and the days: each period begins where the one before ends, and hours make up their days."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TZ", zone)
        time.tzset()
        last = min(first + dt.timedelta(days=length), dt.date(2261, 12, 31))
        days = cut(f"{first}..{last}")
        assert all(before.to_ns == after.from_ns for before, after in itertools.pairwise(days))
        hours = cut(str(first))
        assert all(before.to_ns == after.from_ns for before, after in itertools.pairwise(hours))
        if hours:
            assert (hours[0].from_ns, hours[-1].to_ns) == (days[0].from_ns, days[0].to_ns)
    time.tzset()


def test_all_begins_with_the_first_year_that_has_data(in_zone):
    """ "all" has a row for each year from that of the first pulse on; any other span stays as it is."""
    in_zone("Europe/Berlin")
    silvester_ns = int(dt.datetime(2023, 12, 31, 23, 30, tzinfo=dt.UTC).timestamp()) * NS_PER_S
    years = periods.parse("all", NOW_NS).beginning(silvester_ns).periods()
    assert [periods.local_date(year.from_ns) for year in years] == ["2024-01-01", "2025-01-01", "2026-01-01"]
    span = periods.parse("2026", NOW_NS)
    assert span.beginning(silvester_ns) == span


@pytest.mark.parametrize(
    ("now", "pairs", "first_day"),
    [
        ("2026-11-23", [("2026-11-22", 2), ("2026-10-01", 2), ("2025-01-01", 2)], "2026-11-10"),
        ("2024-03-01", [("2024-02-29", 2), ("2024-02-01", 2), ("2023-01-01", 2)], "2024-02-17"),
        ("2027-01-01", [("2026-12-31", 2), ("2026-12-01", 2), ("2026-01-01", 2)], "2026-12-19"),
    ],
)
def test_the_overview(in_zone, now, pairs, first_day):
    """It has the day, month and year before and that of now, and the last days up to today."""
    in_zone("America/Havana")
    now_ns = int(dt.datetime.fromisoformat(f"{now}T18:00:00+00:00").timestamp()) * NS_PER_S
    spans, days = periods.overview(now_ns, 14)
    assert [(str(span.first), len(span.periods())) for span in spans] == pairs
    assert (str(days.first), len(days.periods())) == (first_day, 14)


@pytest.mark.parametrize("zone", ["Europe/Berlin", ":Europe/Berlin"])
def test_the_zone_is_named(in_zone, zone):
    """By $TZ, where it is set."""
    in_zone(zone)
    assert periods.zone() == "Europe/Berlin"


@pytest.mark.parametrize("zone", ["Europe/Berln", ":Berlin", "XYZ", "/nowhere"])
def test_an_unknown_zone_is_not_taken_for_one(in_zone, zone):
    """Of what TZ may hold by mistake the C library takes UTC: so that is what is named, with the mistake."""
    in_zone(zone)
    assert time.localtime(0).tm_gmtoff == 0
    assert periods.zone() == f"UTC, as {zone.removeprefix(':')!r} is no time zone"


@pytest.mark.parametrize(
    ("zone", "name", "offset_s"),
    [("CET-1CEST", "CET-1CEST", 3600), ("<+03>-3", "<+03>-3", 10800), ("", "UTC", 0), ("UTC", "UTC", 0)],
)
def test_a_zone_without_a_file(in_zone, zone, name, offset_s):
    """An offset is a zone, and so is nothing: the C library takes that for UTC, whatever the machine's zone is."""
    in_zone(zone)
    assert time.localtime(0).tm_gmtoff == offset_s
    assert periods.zone() == name


def test_the_zone_of_the_machine_is_named(monkeypatch):
    """Else by what the machine has been set to, or its abbreviation."""
    monkeypatch.delenv("TZ", raising=False)
    time.tzset()
    assert periods.zone() in {*zoneinfo.available_timezones(), time.tzname[0]}
