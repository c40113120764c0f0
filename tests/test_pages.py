"""What the page shows: the numbers of --report and --status, and foreign text never as markup."""

import csv
import datetime as dt
import io
import json
import re
import sqlite3
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shown import Site, household
from statuses import status

from powermeter import periods, report
from powermeter.journal.history import History
from powermeter.journal.journal import Journal, Row
from powermeter.meter import NS_PER_S
from powermeter.settings.values import ShownAs
from powermeter.status import Status
from powermeter.views import report as words
from powermeter.views import text
from powermeter.views.page import charts, pages
from powermeter.views.page.metrics import text as metrics_of

SCRIPT = "<script>alert('x')</script>&\"'"


@pytest.fixture(scope="module")
def journal(tmp_path_factory):
    """The journal of a simulated household, with a second meter for its export."""
    return household(tmp_path_factory.mktemp("household") / "journal.db", "house", "roof")


@pytest.fixture
def site(journal):
    return Site(journal)


BOTH = {"house": ShownAs(None, "import"), "roof": ShownAs("Roof", "export")}


def built(journal, span, now_ns=None):
    now_ns = time.time_ns() if now_ns is None else now_ns
    with History(str(journal)) as history:
        return report.build(history, periods.parse(span, now_ns), BOTH, now_ns=now_ns, running=True)


# --- Numbers


def test_the_start_page_shows_power_and_energies(journal, site):
    """Power now and today are those of --status; yesterday is that of --report; last year's month has no record."""
    page = site.get("/")
    assert page.status == 200
    assert "321 W" in page.words
    assert "today 4.213 kWh" in page.words
    (house, _) = built(journal, "yesterday").meters
    assert f"yesterday {house.total.kwh:,.3f} kWh" in page.words
    before = dt.date.today().replace(day=1)
    assert f"{before:%B} {before.year - 1} no record" in page.words


@pytest.mark.parametrize("back", [1, 2, 20])
def test_a_day_has_the_numbers_of_the_report(journal, back):
    """The table of a day: its rows are the hours of --report, with the same cells, and so is the total."""
    day = (dt.date.today() - dt.timedelta(days=back)).isoformat()
    page = Site(journal, **BOTH).get("/bars", f"span={day}")
    for meter in built(journal, day).meters:
        assert words.title(meter) in page.words
        for name, row in zip(words.names(meter.rows), meter.rows, strict=True):
            assert " ".join([name, *filter(None, words.cells(row))]) in page.words
        assert " ".join(["total", *filter(None, words.cells(meter.total))]) in page.words


def test_csv_and_json_are_those_of_the_report(journal, site):
    """/history.csv and /api/history have what --report --csv and --json print; a meter can be chosen."""
    site = Site(journal, **BOTH)
    day = (dt.date.today() - dt.timedelta(days=3)).isoformat()
    expected = built(journal, day)
    answer = site.get("/history.csv", f"span={day}")
    assert answer.text == words.as_csv(expected)
    assert answer.headers["Content-Disposition"] == f'attachment; filename="power-{day}.csv"'
    assert json.loads(site.get("/api/history", f"span={day}").text) == words.as_dict(expected)
    only = json.loads(site.get("/api/history", f"span={day}&meter=roof").text)
    assert [meter["meter"] for meter in only["meters"]] == ["roof"]
    assert len(list(csv.reader(io.StringIO(site.get("/history.csv").text)))) > 2 * 14


def test_steps_of_power_have_the_energy_of_the_report(journal):
    """The line of the last hours is drawn from as much energy as a report has for the same hours."""
    now_ns = time.time_ns() // (3600 * NS_PER_S) * 3600 * NS_PER_S - 1
    found = periods.recent(now_ns, hours=12, minutes=5)
    assert len(found) == 144
    assert found[-1].to_ns - found[0].from_ns == 12 * 3600 * NS_PER_S
    with History(str(journal)) as history:
        rows, damage = report.without_peaks(history, found, now_ns=now_ns, running=True)
        energy = history.span("house", found[0].from_ns, found[-1].to_ns).kwh
    assert damage == ""
    assert sum(row.kwh for row in rows["house"]) == pytest.approx(energy)


def test_the_number_sinks_as_a_bound(site):
    """While no flash comes the power is "at most"; before two flashes it is unknown, and the page says why."""
    site.now = status(meters={"house": {"watts_is_bound": True}})
    assert "at most 321 W" in site.get("/").words
    site.now = status(meters={"house": {"watts": None, "kwh_today": None, "pulses_today": None}})
    page = site.get("/")
    assert text.watts(Status.of(site.now).meters["house"]) in page.words
    assert "None" not in page.words


def test_live_parts_are_those_of_the_start_page(site):
    """/live returns what the page itself contains, by the ids of its parts."""
    page, parts = site.get("/").text, json.loads(site.get("/live").text)
    assert parts.pop("title") == "321 W · power"
    for name, part in parts.items():
        assert f'id="{name}"' in page
        assert part.strip() in page
    site.now = status(meters={"house": {"watts": 4321.0}})
    assert "4,321" in json.loads(site.get("/live").text)["now"]


# --- Ways


def test_spans_lead_into_each_other(journal):
    """Years lead to months, these to days and these to hours, and back, and to the spans before and after."""
    site, today = Site(journal), dt.date.today()
    month, year = today.isoformat()[:7], str(today.year)
    chain = [("all", year), (year, month), (month, today.isoformat())]
    for span, below in chain:
        links = re.findall(r'href="(bars\?span=[^"]*)"', site.get("/bars", f"span={span}").text)
        assert links.count(f"bars?span={below}") >= 2  # the bar, and the table
    page = site.get("/bars", f"span={today}").text
    for above in ("all", year, month):
        assert f'href="bars?span={above}"' in page
    assert f'rel="prev" href="bars?span={today - dt.timedelta(days=1)}"' in page
    assert 'rel="next"' not in page


def test_every_link_is_relative(journal):
    """Below any path of a proxy links lead to the same place: none begins with a slash or names a host."""
    site = Site(journal, **BOTH)
    pages_read = [site.get("/"), site.get("/bars", "span=all"), site.get("/bars", "span=today"), site.get("/a/b/c")]
    links = {link for page in pages_read for link in re.findall(r'(?:href|src)="([^"]*)"', page.text)}
    assert len(links) > 10
    assert [link for link in links if re.match(r"/|[a-z]+:", link) and not link.startswith("data:image/svg+xml,")] == []
    assert 'href="../../style.css' in pages_read[-1].text


def test_one_bar_is_a_stop_for_the_tab_key(journal):
    """Of a month's bars one can be reached by Tab: the last that has a value. The others are links all the same."""
    today = dt.date.today().isoformat()
    page = Site(journal).get("/bars", f"span={today[:7]}").text
    (chart,) = re.findall(r'<svg class="plot".*?</svg>', page, re.DOTALL)
    stops = dict(re.findall(r'<a href="bars\?span=([^"]*)" tabindex="(-?\d)"', chart))
    assert [span for span, stop in stops.items() if stop == "0"] == [today]
    assert len(stops) >= 28


# --- What is wrong


def test_what_is_wrong_is_said_in_the_words_of_status(site):
    """Each part of --status is on the page; what fails is marked, leads there, and has advice."""
    site.now = status(
        writers={"influxdb": {"state": "failing", "reason": "localhost:8086: connection refused", "waiting": 12}},
        meters={"house": {"silent": True}},
        journal={"failing": "disk full", "uncommitted": 3, "dropped": 0},
    )
    page = site.get("/")
    for line in text.text(Status.of(site.now)).splitlines()[1:]:
        assert line.replace(": ", " ", 1) in page.words
    assert "Something is wrong : meter house, writer influxdb, journal" in page.words
    assert "Nothing is lost" in page.words
    site.now = status()
    assert "Something is wrong" not in site.get("/").words


def test_health_is_that_of_the_lamp(site):
    """/healthz: 200 while all is well, else 503 with what is wrong."""
    assert site.get("/healthz")[::2] == (200, "ok\n")
    for change, reason in (
        ({"meters": {"house": {"stuck": True}}}, "meter house: "),
        ({"writers": {"file": {"state": "failing", "reason": "disk full"}}}, "writer file: failing: disk full"),
        ({"log": {"failing": "disk full"}}, "log: failing: disk full"),
        ({"views": {"mqtt": {"state": "failing", "reason": "refused"}}}, "view mqtt: failing: refused"),
    ):
        site.now = status(**change)
        answer = site.get("/healthz")
        assert answer.status == 503
        assert answer.text.startswith(reason)


def test_a_daemon_that_is_gone(site):
    """If the program does not answer, pages show that with status 503, and programs get one line."""
    site.now = ConnectionError("gone")
    page = site.get("/")
    assert (page.status, "does not answer" in page.words) == (503, True)
    assert site.get("/api/now")[::2] == (
        503,
        "The program does not answer: it has ended, or has just been upgraded.\n",
    )


def test_a_journal_that_is_not_there(tmp_path):
    """Power now is shown without a history; the page says why that is missing, and pages of spans are 503."""
    site = Site(tmp_path / "journal.db")
    page = site.get("/")
    assert page.status == 200
    assert "321 W" in page.words
    assert "history can't be read:" in page.words
    assert site.get("/bars").status == 503


def test_damage_is_shown(journal, tmp_path):
    """If a page of the journal is damaged, the page shows what can be read, and that some is missing."""
    broken = tmp_path / "journal.db"
    with sqlite3.connect(journal) as source, sqlite3.connect(broken) as copy:
        source.backup(copy)
    source.close()
    copy.close()
    content = bytearray(broken.read_bytes())
    for page in range(len(content) // 4096 // 3, len(content) // 4096 // 2):
        content[page * 4096 : page * 4096 + 4096] = b"\xa5" * 4096
    broken.write_bytes(content)
    broken.with_name("journal.db-wal").unlink(missing_ok=True)
    page = Site(broken).get("/bars", "span=all")
    assert "can't be read" in page.words


def test_gaps_are_marked(tmp_path):
    """A day in which nothing was counted for hours is striped, in the chart, in words and in the note."""
    path = tmp_path / "journal.db"
    now_ns = time.time_ns()
    begin_ns = now_ns - 5 * 86400 * NS_PER_S
    with Journal(str(path)) as made:
        made.enter("house", 1000.0)
        made.begin_cover("house", 0, begin_ns)
        made.append([Row("house", 1, begin_ns + NS_PER_S, None)])
        made.end_cover("house", begin_ns + 3600 * NS_PER_S)
        made.begin_cover("house", 1, now_ns - 3600 * NS_PER_S)
        made.append([Row("house", 2, now_ns - 1800 * NS_PER_S, None)])
    page = Site(path).get("/")
    assert 'class="gap"' in page.text
    assert "not counted for some of it" in page.text
    assert "Striped: nothing could be counted in some of that time." in page.words


# --- What others write


def test_words_of_others_are_text(journal):
    """Scripts in a label, a reason and a parameter are shown as text, in pages, charts and the live part."""
    now = status(
        meters={"house": {"label": SCRIPT}, "roof": {"label": SCRIPT, "direction": "export"}},
        writers={"file": {"state": "failing", "reason": SCRIPT}},
    )
    site = Site(journal, now, house=ShownAs(SCRIPT, "import"), roof=ShownAs(SCRIPT, "export"))
    for path, query in (("/", ""), ("/bars", "span=today"), ("/bars", "span=%3Cscript%3E"), ("/<script>alert", "")):
        page = site.get(path, query)
        assert "<script>" not in page.text
        assert page.text.count("<script") == 1  # the page's own
    assert "<script" not in "".join(json.loads(site.get("/live").text).values())
    assert SCRIPT in site.get("/").words


#: What a path is made of in a WSGI environment: bytes, as characters (PEP 3333).
BYTES = st.text(st.characters(max_codepoint=255, exclude_characters="#"), max_size=40)


@given(
    path=st.sampled_from(["/", "/bars", "/history.csv", "/api/history", "/api/now", "/metrics", "/live"]) | BYTES,
    query=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
    | BYTES.map(lambda value: f"span={value}&meter={value}")
    | st.dates(dt.date(1, 1, 1)).map(lambda day: f"span={day}")
    | st.tuples(st.dates(dt.date(1960, 1, 1)), st.dates(dt.date(1960, 1, 1))).map(
        lambda two: f"span={two[0]}..{two[1]}"
    ),
)
def test_whatever_is_asked_is_answered(journal, path, query):
    """Whatever the path and the parameters, the answer has one of a few statuses, and is never a traceback."""
    answer = Site(journal).get("/" + path.lstrip("/"), query)
    assert answer.status in (200, 400, 404)
    assert "Traceback" not in answer.text


def test_parameters_out_of_range_are_refused(site):
    """Spans of no time, too long ones, parameters that come twice or are huge: 400 and why; unknown meters: 404."""
    for query in ("span=2026-13", "span=1969", "span=2262", "span=x", "span=2026&span=2027", f"span={'9' * 1_000_000}"):
        page = site.get("/bars", query)
        assert page.status == 400
        assert len(page.text) < 3000
    assert "400 are allowed here" in site.get("/bars", "span=1970-01-01..2200-12-31").words
    assert site.get("/history.csv", "span=1970-01-01..2200-12-31").status == 400
    assert site.get("/api/history", "meter=other").status == 404
    assert site.get("/nothing").status == 404
    assert site.get("/", method="POST").status == 405


# --- Metrics


def samples(answer):
    """The value of each sample of the metrics *answer*."""
    lines = [line.rpartition(" ") for line in answer.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_metrics_are_those_of_the_status(journal):
    """Each metric's value is the status's; energy is the journal's, whatever the register says."""
    site = Site(
        journal,
        status(writers={"file": {}, "db": {"state": "failing", "waiting": 12}}, meters={"house": {"too_short": 3}}),
    )
    found = samples(site.get("/metrics").text)
    with History(str(journal)) as history:
        energy = history.last("house") / 1000
    assert found == {
        'power_energy_kwh_total{meter="house"}': pytest.approx(energy),
        'power_pulses_total{meter="house"}': 54321,
        'power_rejected_edges_total{meter="house",reason="bounce"}': 7,
        'power_rejected_edges_total{meter="house",reason="stall"}': 0,
        'power_rejected_edges_total{meter="house",reason="too_short"}': 3,
        'power_watts{meter="house"}': 321.4,
        'power_register_kwh{meter="house"}': 98765.4321,
        'power_writer_waiting_pulses{writer="file"}': 0,
        'power_writer_waiting_pulses{writer="db"}': 12,
        'power_writer_up{writer="file"}': 1,
        'power_writer_up{writer="db"}': 0,
        'power_build_info{version="1.2.3"}': 1,
    }


def test_what_is_not_known_has_no_sample():
    """Power before two flashes, and counts while the journal can't be read, are left out, never 0."""
    unknown = status(meters={"house": {"watts": None, "pulses": None, "register_kwh": None}})
    found = metrics_of(Status.of(unknown), {})
    assert not {"power_watts", "power_pulses_total", "power_energy_kwh_total"} & set(
        re.findall(r"^\w+", found, re.MULTILINE)
    )


# --- Charts


@given(st.lists(st.none() | st.floats(0, 1e6), min_size=1, max_size=60))
def test_bars_stay_in_their_chart(values):
    """Whatever the values, each bar is between the floor and the top, and no energy is invisible."""
    rows = [charts.Bar(str(i), [value], "words", "", False, False) for i, value in enumerate(values)]
    chart = charts.bars("it", "summary", ["m1"], rows)
    drawn = [
        (float(y), float(high))
        for y, high in re.findall(r'class="bar m1"[^>]* y="([^"]*)"[^>]* height="([^"]*)"', chart)
    ]
    assert len(drawn) == sum(bool(value) for value in values)
    assert all(charts.TOP - 0.1 <= y <= charts.FLOOR and high >= 1.5 for y, high in drawn)


@given(st.floats(1e-3, 1e9))
def test_an_axis_has_a_few_round_marks(most):
    """An axis reaches the value, by less than two marks more, and has three to six of them, zero included."""
    axis = charts.Axis.up_to(most)
    assert most <= axis.end * (1 + 1e-9) < most + 2 * axis.step
    assert 3 <= len(axis.marks()) <= 6
    assert axis.marks()[0][1].strip("0.") == ""


def test_a_line_breaks_where_nothing_is_known():
    """The line of steps ends before unknown values, and begins again after them."""
    chart = charts.steps("it", "summary", [("m1", [1.0, None, 2.0])], [False, True, False], [])
    assert re.findall(r'class="line m1" d="([^"]*)"', chart) == [f"M0 {charts.Axis.up_to(2).y(1):.1f}H1M2 14.0H3"]
    assert chart.count('class="gap"') == 1


def test_colours_come_again():
    """More meters than colours: they begin again, and import never has one of export's."""
    found = pages.colours({str(i): "import" for i in range(6)} | {"roof": "export"})
    assert list(found.values()) == ["m1", "m2", "m3", "m4", "m1", "m2", "x1"]


# --- The status


def test_a_status_comes_back_from_json():
    """What as_dict() gives, and JSON keeps, is the same status again; what a newer program adds is ignored."""
    found = Status.of(json.loads(json.dumps(status())))
    assert json.loads(json.dumps(found.as_dict())) == status()
    newer = status() | {"moon": "full"}
    newer["meters"]["house"] |= {"colour": "red"}
    assert Status.of(newer) == found
    older = status()
    del older["meters"]["house"]["watts"]
    with pytest.raises(TypeError):
        Status.of(older)
