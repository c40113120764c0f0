"""--report: what its numbers mean, over real journals; and the command as a user meets it, in real processes."""

import csv
import datetime as dt
import hashlib
import io
import itertools
import json
import os
import pty
import re
import sqlite3
import subprocess
import termios
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import AS_ROOT, PATIENCE_S, UNPRIVILEGED, Program, kill, readable_to_all, root_alone, wait_until
from records import journal_rows

from powermeter import periods
from powermeter.journal.history import History
from powermeter.journal.journal import Journal, Row
from powermeter.meter import NS_PER_S
from powermeter.report import build
from powermeter.settings.values import ShownAs
from powermeter.views import report as view

HEADER = "from,to,meter,kwh,cost,currency,mean_w,peak_w,peak_from,uncovered_s"

MINUTE_NS, HOUR_NS = 60 * NS_PER_S, 3600 * NS_PER_S


def at(text):
    """*text*, an ISO time with its offset, in UTC, ns."""
    return round(dt.datetime.fromisoformat(text).timestamp()) * NS_PER_S


def count(data_dir, times_ns, meter="house", impulses_per_kwh=1000):
    """Append pulses of *meter* at *times_ns* to the journal in *data_dir*, as a run of the program does."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data_dir / "journal.db"
    with Journal(str(path)) as journal:
        before = journal.enter(meter, impulses_per_kwh).count
        spacings = [None, *(after - first for first, after in itertools.pairwise(times_ns))]
        rows = [Row(meter, number, *of) for number, of in enumerate(zip(times_ns, spacings, strict=True), before + 1)]
        for chunk in range(0, len(rows), 10_000):
            journal.append(rows[chunk : chunk + 10_000])
    return path


def cover(path, since_ns, until_ns=None, gaps=(), meter="house"):
    """Note in the journal at *path* since when gaps are known, until when it was counted, and when it was not."""
    with sqlite3.connect(path) as connection:
        ((key,),) = connection.execute("SELECT meter FROM meters WHERE name = ?", (meter,)).fetchall()
        connection.execute("INSERT OR REPLACE INTO covered VALUES (?, ?, ?)", (key, since_ns, until_ns))
        connection.execute("DELETE FROM gaps")
        connection.executemany("INSERT INTO gaps VALUES (?, ?, ?, 'not running')", [(key, *gap) for gap in gaps])
    connection.close()


def read(path, span, now, shown_as=None, *, running=True):
    """The report of *span* from the journal at *path*, at the time *now*."""
    with History(str(path)) as history:
        asked = periods.parse(span, at(now)) if span else None
        return build(history, asked, shown_as, now_ns=at(now), running=running)


def rows(path, span, now, **options):
    (meter,) = read(path, span, now, **options).meters
    return meter.rows


def every(spacing_ns, begin, end):
    """Times from *begin* to *end*, both ISO, each *spacing_ns* after the one before."""
    return list(range(at(begin) + spacing_ns, at(end), spacing_ns))


# --- What the numbers mean


def test_an_hour_that_comes_twice_is_counted_twice(tmp_path, in_zone):
    """On the day that has 25 hours each pulse is in the hour, by its offset, in which it came."""
    in_zone("Europe/Berlin")
    times = ["2026-10-25T02:10:00+02:00", "2026-10-25T02:20:00+02:00", "2026-10-25T02:10:00+01:00"]
    path = count(tmp_path, [at(time) for time in times])
    found = rows(path, "2026-10-25", "2026-11-23T12:00:00+01:00")
    assert [(hour, row.kwh) for hour, row in enumerate(found) if row.kwh] == [(2, 0.002), (3, 0.001)]
    assert len(found) == 25


def test_mean_power_is_over_the_time_that_was_covered(tmp_path, in_zone):
    """Half an hour without counting leaves the mean of the hour what it was in the other half."""
    in_zone("UTC")
    path = count(tmp_path, every(3 * MINUTE_NS, "2026-11-23T00:00:00+00:00", "2026-11-23T01:30:01+00:00"))
    cover(
        path, at("2026-11-23T00:00:00+00:00"), gaps=[(at("2026-11-23T01:30:00+00:00"), at("2026-11-23T02:00:00+00:00"))]
    )
    _, second, third, *_ = rows(path, "today", "2026-11-23T02:30:00+00:00")
    assert (second.kwh, second.mean_w, second.uncovered_s, second.covered_s) == (0.011, 22, 1800, 1800)
    assert (third.kwh, third.mean_w, third.uncovered_s, third.covered_s) == (0, 0, 0, 1800)


def test_before_the_record_begins_nothing_is_covered(tmp_path, in_zone):
    """A meter that was new in the middle of a day was not counted before: its mean is over the rest."""
    in_zone("UTC")
    path = count(tmp_path, every(6 * MINUTE_NS, "2026-11-22T12:00:00+00:00", "2026-11-23T00:00:00+00:00"))
    cover(path, at("2026-11-22T12:00:00+00:00"))
    before, day = rows(path, "2026-11-21..2026-11-22", "2026-11-23T02:30:00+00:00")
    assert (before.kwh, before.mean_w, before.uncovered_s) == (0, None, 86_400)
    assert (round(day.kwh, 6), round(day.mean_w, 1), day.uncovered_s) == (0.119, 9.9, 43_200)


def test_what_was_not_recorded_is_not_known(tmp_path, in_zone):
    """For days before gaps were recorded nobody knows how long it was not counted; the mean is over all of them."""
    in_zone("UTC")
    path = count(tmp_path, every(6 * MINUTE_NS, "2026-11-20T00:00:00+00:00", "2026-11-22T23:59:00+00:00"))
    cover(path, at("2026-11-21T12:00:00+00:00"))
    days = rows(path, "2026-11-19..2026-11-22", "2026-11-23T02:30:00+00:00")
    assert [day.uncovered_s for day in days] == [86_400, None, None, 0]
    assert [day.mean_w and round(day.mean_w) for day in days] == [None, 10, 10, 10]


@pytest.mark.parametrize(("running", "uncovered_s"), [(True, 0), (False, 1800)])
def test_the_gap_that_is_still_open(tmp_path, in_zone, running, uncovered_s):
    """Where the journal says that it is being counted, and nobody runs, nothing was counted since the last pulse."""
    in_zone("UTC")
    path = count(tmp_path, every(MINUTE_NS, "2026-11-23T00:00:00+00:00", "2026-11-23T02:00:01+00:00"))
    cover(path, at("2026-11-23T00:00:00+00:00"))
    found = rows(path, "today", "2026-11-23T02:30:00+00:00", running=running)
    assert found[2].uncovered_s == uncovered_s
    assert {row.uncovered_s for row in found[3:]} == {0.0}


MORNING = at("2026-11-23T00:00:00+00:00")
MOMENTS = st.integers(0, 60 * 24).map(lambda minute: MORNING + minute * MINUTE_NS)


@given(
    pulses=st.lists(MOMENTS, unique=True, min_size=1).map(sorted),
    gaps=st.lists(MOMENTS, unique=True, max_size=8).map(sorted),
    since_ns=MOMENTS,
    until_ns=st.none() | MOMENTS,
    minutes=st.integers(0, 60 * 24),
    running=st.booleans(),
)
def test_every_moment_is_counted_once(tmp_path_factory, pulses, gaps, since_ns, until_ns, minutes, running):
    """Whatever the gaps: each elapsed second of a row is covered or not, the future neither; no pulse is lost."""
    path = count(tmp_path_factory.mktemp("law"), pulses)
    cover(path, since_ns, until_ns, list(zip(gaps[::2], gaps[1::2], strict=False)))
    now_ns = MORNING + minutes * MINUTE_NS
    with History(str(path)) as history:
        span = periods.Span("", "hour", dt.date(2026, 11, 23), dt.date(2026, 11, 25))
        found = build(history, span, None, now_ns=now_ns, running=running).meters[0]
    assert found.total.kwh == pytest.approx(len(pulses) / 1000)
    for row in found.rows:
        elapsed_s = max(0, min(row.period.to_ns, now_ns) - row.period.from_ns) / NS_PER_S
        assert 0 <= row.covered_s <= elapsed_s
        if row.uncovered_s is not None:
            assert row.covered_s + row.uncovered_s == pytest.approx(elapsed_s)
        assert (row.mean_w is None) == (row.covered_s == 0)
        if row.mean_w:
            assert row.mean_w * row.covered_s == pytest.approx(row.kwh * 3.6e6)


@pytest.mark.parametrize(
    ("span", "peaks"),
    [
        ("2026-11-22", True),
        ("2026-11", True),
        ("2026-10-01..2026-12-01", True),
        ("2026-10-01..2026-12-02", False),
        ("2026", False),
        ("all", False),
    ],
)
def test_peaks_of_up_to_62_days(tmp_path, in_zone, span, peaks):
    """The peak is the highest quarter of an hour, and when it began; a span of more than 62 days has none."""
    in_zone("Asia/Kathmandu")  # 5 h 45 min from UTC
    slow = every(5 * MINUTE_NS, "2026-11-22T06:00:00+05:45", "2026-11-22T20:00:00+05:45")
    fast = every(10 * NS_PER_S, "2026-11-22T18:30:00+05:45", "2026-11-22T18:45:01+05:45")
    path = count(tmp_path, sorted({*slow, *fast}))
    (meter,) = read(path, span, "2026-11-23T12:00:00+05:45").meters
    found = {(row.peak_w, row.peak_from_ns) for row in meter.rows if row.peak_w}
    most = max(found, default=None)
    assert (most is not None) == peaks
    if peaks:
        assert most == (pytest.approx(4 * 90, abs=5), at("2026-11-22T18:30:00+05:45"))
        assert (meter.total.peak_w, meter.total.peak_from_ns) == most


def test_the_total_is_all_rows_as_one(tmp_path, in_zone):
    """It has their energy, their mean, and, where that of one is not known, no uncovered time."""
    in_zone("UTC")
    path = count(tmp_path, every(6 * MINUTE_NS, "2026-11-20T00:00:00+00:00", "2026-11-23T00:00:00+00:00"))
    cover(
        path, at("2026-11-20T00:00:00+00:00"), gaps=[(at("2026-11-21T00:00:00+00:00"), at("2026-11-21T06:00:00+00:00"))]
    )
    (meter,) = read(path, "2026-11-20..2026-11-22", "2026-11-25T00:00:00+00:00").meters
    assert meter.total.kwh == pytest.approx(sum(row.kwh for row in meter.rows))
    assert meter.total.uncovered_s == 6 * 3600
    assert meter.total.mean_w == pytest.approx(meter.total.kwh * 1000 / 66)
    cover(path, at("2026-11-21T00:00:00+00:00"))
    (meter,) = read(path, "2026-11-20..2026-11-22", "2026-11-25T00:00:00+00:00").meters
    assert meter.total.uncovered_s is None


def test_meters_in_and_out_of_the_settings(tmp_path, in_zone):
    """Every meter that was ever counted has its own rows and years, with its label where the settings have one."""
    in_zone("UTC")
    count(tmp_path, every(HOUR_NS, "2024-11-20T00:00:00+00:00", "2024-11-23T00:00:00+00:00"))
    path = count(tmp_path, every(HOUR_NS, "2026-02-20T00:00:00+00:00", "2026-02-23T00:00:00+00:00"), "sun", 500)
    found = read(path, "all", "2026-11-23T00:00:00+00:00", {"sun": ShownAs("Roof", "export")})
    assert [(m.name, m.label, m.direction, m.in_settings) for m in found.meters] == [
        ("house", None, "import", False),
        ("sun", "Roof", "export", True),
    ]
    years = [[(row.period.from_ns, round(row.kwh, 6)) for row in meter.rows] for meter in found.meters]
    begins = {year: at(f"{year}-01-01T00:00:00+00:00") for year in (2024, 2025, 2026)}
    assert years == [[(begins[2024], 0.071), (begins[2025], 0), (begins[2026], 0)], [(begins[2026], 0.142)]]
    text = as_text(found)
    assert "\nhouse, no longer in the settings\n" in text
    assert "\nRoof (sun), export\n" in text


def test_the_overview(tmp_path, in_zone):
    """Without a span: today to last year, the last 14 days, and the last ten readings, the newest first."""
    in_zone("UTC")
    path = count(tmp_path, every(HOUR_NS, "2025-12-31T00:00:00+00:00", "2026-11-23T12:00:00+00:00"))
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO readings VALUES (1, ?, 5, ?, 1, 12.345, ?)",
            [(at("2026-11-01T00:00:00+00:00") + day * 24 * HOUR_NS, 100.5 + day, day == 0) for day in range(12)],
        )
    connection.close()
    found = read(path, "", "2026-11-23T12:00:00+00:00")
    (meter,) = found.meters
    names = ["today", "yesterday", "this month", "last month", "this year", "last year"]
    assert [(row.name, row.peak_w is None) for row in meter.rows] == [(n, n.endswith("year")) for n in names]
    assert [round(row.kwh, 6) for row in meter.rows] == [0.012, 0.024, 0.54, 0.744, 7.836, 0.023]
    assert len(meter.days) == 14
    assert [reading.face_kwh for reading in found.readings] == [111.5 - day for day in range(10)]
    text = as_text(found)
    assert re.search(r"^2026-11-12 00:00 +111\.5 +-99\.155 +12\.345$", text, re.MULTILINE)
    assert len(re.findall("\u2588+$", text, re.MULTILINE)) == 14


def test_pulses_of_the_future_do_no_harm(tmp_path, in_zone):
    """A span that is still to come is neither counted nor missing; and one before the record is missing whole."""
    in_zone("UTC")
    path = count(tmp_path, every(HOUR_NS, "2026-11-22T00:00:00+00:00", "2026-11-23T12:00:00+00:00"))
    assert {(r.kwh, r.covered_s, r.uncovered_s, r.mean_w) for r in rows(path, "2027", "2026-11-23T12:00:00+00:00")} == {
        (0, 0, 0, None)
    }
    assert {r.uncovered_s for r in rows(path, "2025-02", "2026-11-23T12:00:00+00:00")} == {86_400}


# --- How it looks


def as_text(report, columns=80, encoding="utf-8", bold=False):
    return view.as_text(report, columns=columns, encoding=encoding, bold=bold)


def cells(line):
    """How many columns of a terminal *line* takes (UAX 11)."""
    return sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in line)


@pytest.fixture(scope="module")
def half_a_year(tmp_path_factory):
    """The path of a journal with half a year of a household."""
    times = every(11 * MINUTE_NS, "2026-05-20T00:00:00+00:00", "2026-11-23T12:00:00+00:00")
    return count(tmp_path_factory.mktemp("half_a_year"), times, impulses_per_kwh=10)


@pytest.mark.parametrize("columns", [20, 30, 40, 55, 80, 200])
@pytest.mark.parametrize("span", ["today", "2026-11", "2026", "all"])
def test_a_table_fits_any_width(half_a_year, in_zone, span, columns):
    """Columns that have no room are left out, and named; energy is always there. No line is wider than the terminal."""
    in_zone("Europe/Berlin")
    found = read(half_a_year, span, "2026-11-23T12:00:00+00:00", {"house": ShownAs("Keller, 家の電気 links", "import")})
    text = as_text(found, columns)
    assert max(map(cells, text.splitlines())) <= columns
    header = re.search(r"^ +kWh.*$", text, re.MULTILINE)[0]
    missing = (re.findall(r"No room for: ([^;]*);", text.replace("\n", " ")) or [""])[0]
    of_span = ["mean W", *(["peak W", "peak from"] if span in ("today", "2026-11") else [])]
    assert all((head in header) != (head in missing) for head in of_span)
    assert columns < 80 or not missing


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "utf-16", "koi8-r"])
def test_bars_in_any_encoding(half_a_year, in_zone, encoding):
    """Where the encoding has no blocks, bars are made of #; the longest has the most energy."""
    in_zone("Europe/Berlin")
    text = as_text(read(half_a_year, "", "2026-11-23T12:00:00+00:00"), encoding=encoding)
    text.encode(encoding)
    bars = re.findall(r"^2026-11-\d\d +\d+\.\d{3}  ([#\u2588]+)$", text, re.MULTILINE)
    assert len(bars) == 14
    assert max(map(len, bars)) == view.MAX_BAR
    assert set("".join(bars)) == {"#" if encoding in ("ascii", "latin-1") else "\u2588"}


def test_csv_is_what_json_says(half_a_year, in_zone):
    """One line per meter and period, ended as RFC 4180 has it; plain dates, hours with their offset; empty costs."""
    in_zone("Europe/Berlin")
    for span, first in (("2026-10-25", "2026-10-25T00:00:00+02:00"), ("2026-11", "2026-11-01"), ("2026", "2026-01-01")):
        found = read(half_a_year, span, "2026-11-23T12:00:00+00:00")
        text = view.as_csv(found)
        assert text.startswith(HEADER + "\r\n")
        assert text.count("\r\n") == text.count("\n")
        lines = list(csv.DictReader(io.StringIO(text, newline="")))
        objects = json.loads(view.as_json(found))["meters"][0]["rows"]
        assert len(lines) == len(objects)
        assert lines[0]["from"] == first
        for line, row in zip(lines, objects, strict=True):
            assert line.pop("meter") == "house"
            for key, cell in line.items():
                assert cell == "" if row[key] is None else type(row[key])(cell) == row[key]
            assert (line["cost"], line["currency"]) == ("", "")


def test_csv_of_the_overview_has_each_period_once(half_a_year, in_zone):
    """Today is one of the last days too, and is listed once."""
    in_zone("Europe/Berlin")
    lines = list(csv.DictReader(io.StringIO(view.as_csv(read(half_a_year, "", "2026-11-23T12:00:00+00:00")))))
    ends = [(line["from"], line["to"]) for line in lines]
    assert len(set(ends)) == len(ends) == 14 + 4
    assert ("2026-11-23", "2026-11-24") in ends


def test_a_name_is_no_formula(tmp_path, in_zone):
    """A spreadsheet takes no meter's name for a formula: the alphabet of names has the hyphen."""
    in_zone("UTC")
    path = count(tmp_path, every(HOUR_NS, "2026-11-22T00:00:00+00:00", "2026-11-23T00:00:00+00:00"), "-1-1")
    found = read(path, "2026", "2026-11-23T12:00:00+00:00")
    assert {line["meter"] for line in csv.DictReader(io.StringIO(view.as_csv(found)))} == {"'-1-1"}
    assert json.loads(view.as_json(found))["meters"][0]["meter"] == "-1-1"


def test_json_names_what_the_numbers_are(half_a_year, in_zone):
    """One object on one line: the span, the zone, and by meter what the settings say of it and its rows."""
    in_zone("Europe/Berlin")
    text = view.as_json(
        read(half_a_year, "2026-11-22", "2026-11-23T12:00:00+00:00", {"house": ShownAs("Süd", "export")})
    )
    assert text.isascii()
    assert text.count("\n") == 1
    found = json.loads(text)
    (meter,) = found.pop("meters")
    assert found == {"span": "2026-11-22", "zone": "Europe/Berlin", "simulated": False, "damage": "", "readings": []}
    assert (meter["meter"], meter["label"], meter["direction"], meter["in_settings"]) == (
        "house",
        "Süd",
        "export",
        True,
    )
    assert set(meter["rows"][0]) == {*HEADER.split(","), "name", "approximate"} - {"meter"}


# --- Damage


def damage(path):
    """Overwrite a stretch of pages, all of which hold pulses: those of some two weeks, from the ninth day on."""
    with path.open("r+b") as file:
        file.seek(50 * 4096)
        file.write(b"\xff" * 80 * 4096)


def test_what_can_be_read_of_a_damaged_journal(tmp_path, in_zone):
    """Days on pages that are gone are unreadable, and all others are what they were."""
    in_zone("UTC")
    path = count(tmp_path, every(2 * MINUTE_NS, "2026-10-01T00:00:00+00:00", "2026-11-30T23:59:00+00:00"))
    before = read(path, "2026-10-01..2026-11-30", "2026-12-01T00:00:00+00:00")
    damage(path)
    after = read(path, "2026-10-01..2026-11-30", "2026-12-01T00:00:00+00:00")
    assert (before.damage, bool(after.damage)) == ("", True)
    pairs = list(zip(before.meters[0].rows, after.meters[0].rows, strict=True))
    assert 5 < sum(new.kwh is None for _, new in pairs) < 30
    assert all(new.kwh in (None, pytest.approx(old.kwh)) for old, new in pairs)
    assert after.meters[0].total.kwh is None
    assert "unreadable" in as_text(after)
    assert ",,,,,,," not in view.as_csv(before)


def test_a_damaged_journal_is_reported_in_one_line(program):
    """The table is on standard output, one line on standard error says what is wrong, and the status is 1."""
    path = count(program.data_dir, every(2 * MINUTE_NS, "2026-11-01T00:00:00+00:00", "2026-12-01T00:00:00+01:00"))
    damage(path)
    done = program.run("--report", "2026-11")
    assert done.returncode == 1
    assert re.fullmatch(
        rf"power: {path}: the journal is damaged, and what can't be read is left out: .+\n", done.stderr
    )
    assert len(re.findall(r"^2026-11-\d\d ", done.stdout, re.MULTILINE)) == 30


# --- The command


@pytest.fixture
def program(tmp_path):
    with Program(tmp_path, env={"TZ": "Europe/Berlin"}) as program:
        yield program


def recorded(data_dir):
    """What is in *data_dir*: by each name its time and content."""
    return {
        path.name: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in data_dir.iterdir()
        if path.is_file() and not path.name.endswith("-shm")
    }


def kwh_of(done):
    assert (done.returncode, done.stderr) == (0, "")
    return sum(row["kwh"] for meter in json.loads(done.stdout)["meters"] for row in meter["rows"])


def test_where_nothing_runs(program):
    """A report of a stopped program's journal has its pulses, and leaves the directory as it was."""
    count(program.data_dir, every(HOUR_NS, "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"))
    before = recorded(program.data_dir)
    assert kwh_of(program.run("--report", "2026-11", "--json")) == pytest.approx(0.023)
    done = program.run("--report", "2026-11-22")
    assert done.stdout.startswith("Energy of 2026-11-22, in local time (Europe/Berlin)\n\nhouse\n")
    assert "\x1b" not in done.stdout
    assert recorded(program.data_dir) == before
    assert {path.name for path in program.data_dir.iterdir()} == set(before)


def test_while_a_daemon_counts(program):
    """The journal is the running program's, wherever that counts; simulated pulses are reported, and marked as such."""
    program.start("--simulate", "20000")
    wait_until(lambda: program.status()["meters"]["house"]["pulses"] > 3)
    wait_until(lambda: len(journal_rows(program.data_dir / "simulated")) > 3)
    before = len(journal_rows(program.data_dir / "simulated"))
    done = program.run("--report", "--json")
    after = len(journal_rows(program.data_dir / "simulated"))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["simulated"]
    assert before <= round(found["meters"][0]["rows"][-2]["kwh"] * 1000) <= after
    assert "SIMULATED" in program.run("--report", "today").stdout


def test_after_a_crash(program):
    """What a killed program has left is reported, the log beside the journal too; nothing of it is touched."""
    program.start("--simulate", "20000")
    wait_until(lambda: len(journal_rows(program.data_dir / "simulated")) > 3)
    kill(program.pid)
    count_ = len(journal_rows(program.data_dir / "simulated"))
    program.start("--simulate", "20000")
    wait_until(lambda: len(journal_rows(program.data_dir / "simulated")) > count_)
    kill(program.pid)
    before = recorded(program.data_dir / "simulated")
    assert "journal.db-wal" in before
    done = program.run("--report", "2026", "--json")
    found = kwh_of(program.run("--report", "all", "--json"))
    assert done.returncode == 0
    assert recorded(program.data_dir / "simulated") == before
    assert round(found * 1000) == len(journal_rows(program.data_dir / "simulated"))


def on_terminal(program, *args, columns=80, **env):
    """What a terminal of so many *columns* gets of the command, and its status."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    with subprocess.Popen(
        program.line(*args), env=program.env | env, stdin=slave, stdout=slave, stderr=slave, close_fds=True
    ) as popen:
        os.close(slave)
        shown = b""
        try:
            while part := os.read(master, 65536):
                shown += part
        except OSError:  # the other end is closed
            pass
        os.close(master)
        status = popen.wait(PATIENCE_S)
    return shown.decode().replace("\r\n", "\n"), status


@pytest.mark.parametrize(("term", "is_bold"), [("xterm", True), ("dumb", False), ("", False)])
def test_on_a_terminal(program, term, is_bold):
    """It is as wide as the terminal, and its headings are bold where that can be shown."""
    count(program.data_dir, every(HOUR_NS, "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"))
    shown, status = on_terminal(program, "--report", "2026-11", columns=30, TERM=term)
    assert status == 0
    assert ("\x1b[1mhouse\x1b[0m\n" in shown) == is_bold
    assert ("\x1b" in shown) == is_bold
    assert max(map(len, re.sub(r"\x1b\[\d+m", "", shown).splitlines())) <= 30
    assert "No room for:" in shown
    wide, _ = on_terminal(program, "--report", "2026-11", columns=30, TERM=term, COLUMNS="100")
    assert "No room for:" not in wide


def test_where_letters_are_ascii(program):
    """In a C locale bars are made of #, and a label's letters that it lacks end nothing."""
    program.set('METERS = {"house": {"pin": 18, "impulses_per_kwh": 1000, "label": "S\\u00fcd"}}')
    count(program.data_dir, every(HOUR_NS, "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"))
    program.env |= {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    program.env.pop("PYTHONIOENCODING", None)
    done = program.run("--report")
    assert done.returncode == 0
    assert done.stdout.isascii()
    assert "\nS?d (house)\n" in done.stdout


@pytest.mark.parametrize("span", ["2026-13", "2026-11-15..2026-11-01", "1969", "2262", "tomorrow", "2026-11-31"])
def test_wrong_spans(program, span):
    """An unknown span is one line and status 2, whether there is a journal or not."""
    done = program.run("--report", span)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"power: --report: [^\n]+\n", done.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ["--csv"],
        ["--report", "--csv", "--json"],
        ["--status", "--csv"],
        ["--check", "--json"],
        ["--report", "--status"],
        ["--report", "today", "yesterday"],
        ["--report", "--simulate"],
    ],
)
def test_what_does_not_go_together(program, words):
    """--csv goes only with --report, --json also with --status; not both; and there is one command and one span."""
    done = program.run(*words)
    assert done.returncode == 2
    assert "usage: power.py" in done.stderr


def test_where_there_is_no_journal(program):
    """One line says where it was looked for."""
    done = program.run("--report")
    assert (done.returncode, done.stdout) == (1, "")
    assert (
        done.stderr
        == f"power: no journal in {program.data_dir}: nothing has been counted there yet: start power first\n"
    )


def test_an_output_that_breaks(program):
    """Where the reader goes away, or the disk is full, one line says so."""
    count(program.data_dir, every(HOUR_NS, "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"))
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            program.line("--report", "2000-01-01..2026-01-01", "--csv"),
            env=program.env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "power: standard output can't be written: No space left on device\n",
    )


def test_mistakes_elsewhere_in_the_settings_hinder_no_report(program):
    """Only DATA_DIR and the meters' labels are needed; a label that is wrong is left out."""
    count(program.data_dir, every(HOUR_NS, "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"))
    program.set('NONSENSE = 1; METERS = {"house": {"pin": "x", "label": 5, "direction": "export"}}; WRITERS = 7')
    done = program.run("--report", "2026")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nhouse, export\n" in done.stdout


# --- Whose journal it is


def bare(program, before, *args):
    """Run *args* with neither --settings nor --pidfile, after the lines *before*."""
    named = len(program.line())
    line = program.line_after(before, *args)
    own = [word for word in line if word not in program.line()[named - 4 : named]]
    return program._finished(own)


#: The modules that are imported while root's rights are still there.
LOADED = "import powermeter.report, powermeter.views.report, powermeter.journal.history, sqlite3, gc\n"


def test_another_user_is_told_what_to_type():
    """The journal is closed to others: one line says how root asks for it, and the status is 4."""
    with readable_to_all() as directory, Program(directory) as program:
        path = count(program.data_dir, every(HOUR_NS, "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"))
        program.settings.chmod(0o644)
        if not AS_ROOT:
            path.chmod(0)
        done = program.run_after(LOADED + UNPRIVILEGED, "--report", "2026-11")
        assert (done.returncode, done.stdout) == (4, "")
        assert re.fullmatch(
            r"power: \S+ can be read only by its owner and by root: sudo .*--report 2026-11\n", done.stderr
        )


@root_alone
def test_root_becomes_the_owner():
    """Root reads another user's journal as that user, without any group of its own; as its own it stays root."""
    with readable_to_all() as directory, Program(directory) as program:
        path = count(program.data_dir, every(HOUR_NS, "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"))
        watch = """
import os, powermeter.report as module
build = module.build
module.build = lambda *args, **more: (print(os.getresuid(), os.getresgid(), os.getgroups()), build(*args, **more))[1]
"""
        done = program.run_after(watch, "--report", "2026", "--csv")
        assert done.stdout.startswith("(0, 0, 0)")
        for file in (program.data_dir, path):
            os.chown(file, 54321, 54322)
        done = program.run_after(watch, "--report", "2026", "--csv")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"(54321, 54321, 54321) (54322, 54322, 54322) []\n{HEADER}\n")


@root_alone
def test_root_follows_no_link_of_another_user():
    """Whose directory it is could lead root to any file: that is refused."""
    with readable_to_all() as directory, Program(directory) as program:
        path = count(program.data_dir, every(HOUR_NS, "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"))
        path.rename(directory / "roots.db")
        path.symlink_to(directory / "roots.db")
        os.chown(program.data_dir, 54321, 54321)
        os.lchown(path, 54321, 54321)
        done = program.run("--report")
        assert (done.returncode, done.stdout) == (1, "")
        assert "is not followed" in done.stderr


@pytest.fixture
def service():
    """A program that stands for the installed service, and the lines by which another command takes it for that."""
    with readable_to_all() as directory, Program(directory / "service", env={"TZ": "UTC"}) as program:
        default = directory / "default"
        default.write_text(f'# the service\nPOWER_SETTINGS="{program.settings}"\nPOWER_OPTS="-v"\n')
        program.env |= {"HOME": str(directory), "XDG_RUNTIME_DIR": ""}
        program.as_service = f"""
from powermeter import subject
subject.TOP = subject.SOURCE = {str(directory)!r}
subject.SERVICE_PIDFILE = {str(program.pidfile)!r}
subject.SERVICE_STATE = {str(program.data_dir)!r}
subject.SERVICE_DEFAULT = subject.SERVICE_COMMAND = {str(default)!r}
subject.pidfile_for = lambda args: args.pidfile or {str(directory / "none.pid")!r}
"""
        yield program


LABELLED = 'METERS = {"house": {"pin": 18, "impulses_per_kwh": 1000, "label": "Cellar"}}'


def test_the_service_is_found(service):
    """Where nothing is named the report is about the installed service, whether that runs or not."""
    service.set(LABELLED)
    count(service.data_dir, every(HOUR_NS, "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"))
    done = bare(service, service.as_service, "--report", "2026")
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nCellar (house)\n" in done.stdout
    assert "SIMULATED" not in done.stdout
    service.start("--simulate", "20000")
    wait_until(lambda: len(journal_rows(service.data_dir / "simulated")) > 3)
    done = bare(service, service.as_service, "--report", "today")
    assert "SIMULATED" in done.stdout
    assert "\nCellar (house)\n" in done.stdout


def test_settings_that_can_not_be_used_leave_labels_out(service):
    """The service's journal is where it always is: it is reported without labels, and a line says why."""
    service.settings.write_text(LABELLED + "\nDATA_DIR =\n")
    count(service.data_dir, every(HOUR_NS, "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"))
    done = bare(service, service.as_service, "--report", "2026")
    assert done.returncode == 0
    assert "\nhouse\n" in done.stdout
    assert re.fullmatch(r"power: labels are left out: [^\n]+: line 2: not Python: [^\n]+\n", done.stderr)


@root_alone
def test_root_runs_no_settings_of_others(service):
    """What another user may write is not run by root, nor for root: labels are left out."""
    service.settings.write_text("raise SystemExit('run')\n")
    path = count(service.data_dir, every(HOUR_NS, "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00"))
    for file in (service.settings, service.data_dir, path):
        os.chown(file, 54321, 54321)
    done = bare(service, service.as_service, "--report", "2026")
    assert done.returncode == 0
    assert "\nhouse\n" in done.stdout
    assert re.fullmatch(r"power: labels are left out: [^\n]+ is not run: [^\n]+\n", done.stderr)
