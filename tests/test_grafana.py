"""
The queries of Grafana's dashboards, run on a real InfluxDB and a real VictoriaMetrics.

The writer of the settings delivers the pulses; the queries are those of the dashboards, with Grafana's variables put
in as its data sources do; the figures are compared with those that the pulses themselves give. Grafana itself is not
here: what it does with the answers is done as it is documented, see :func:`bars`, and docs/grafana/transformations.mjs
tries that with its own library.
"""

import bisect
import datetime as dt
import doctest
import importlib.util
import itertools
import json
import math
import random
import re
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from victoriametrics import VictoriaMetrics, victoriametrics_path

from powermeter.meter import NS_PER_S, Constant, Pulse
from powermeter.settings.schema import REQUIRED
from powermeter.settings.values import WriterSettings
from powermeter.writers import Receipt, open_writer, writer_type

GRAFANA = Path(__file__).resolve().parents[1] / "docs" / "grafana"
#: The dashboards, by the name of the variable for their data source.
DASHBOARDS = {name: json.loads((GRAFANA / f"{name}.json").read_text()) for name in ("influxdb", "victoriametrics")}

ZONE = ZoneInfo("Europe/Berlin")
#: Summer time ends on the second day, and a month on the eighth.
FIRST_DAY, LAST_DAY = dt.date(2025, 10, 25), dt.date(2025, 11, 2)
#: The option with which VictoriaMetrics shows a point once that came twice.
DEDUP = "-dedup.minScrapeInterval=1ms"
#: What meter has how many impulses per kWh.
METERS = {"house": 1000, "flat-2": 75}
#: The name of the other meter in the pulses begins with that of one.
LOOKALIKE = "house2"
#: Readings of the meter's face, which set the register: when, and by how much it jumps or falls then, in kWh.
READINGS = {dt.datetime(2025, 10, 29, 19, 20): 12_000.0, dt.datetime(2025, 11, 2, 9, 10, 30): -2.5}
#: How many pulses a batch, and how many batches come twice.
BATCH, TWICE = 500, 20


def ns(date, hour=0, minute=0):
    """A time of day on *date* in the zone, in ns since 1970."""
    return round(dt.datetime(date.year, date.month, date.day, hour, minute, tzinfo=ZONE).timestamp()) * NS_PER_S


def local(time_ns):
    """The local time of *time_ns*, to the second below."""
    return dt.datetime.fromtimestamp(time_ns // NS_PER_S, ZONE)


NOW_NS = ns(LAST_DAY, 20, 30) + 123_456_789
MIDNIGHTS = [ns(FIRST_DAY + dt.timedelta(days)) for days in range(9)]


def pulses_of(meter, impulses_per_kwh):
    """
    Nine days of a household's flashes, until a minute before now.

    The power changes every quarter of an hour. One flash falls on each midnight
    to the ns, one a ms before it; once the program was away for three hours. At
    each of the :data:`READINGS` the register is set.
    """
    chance = random.Random(meter)
    constant = Constant(impulses_per_kwh, from_count=40_000_000, register_kwh=40_000.5)
    away = range(ns(dt.date(2025, 10, 28), 9), ns(dt.date(2025, 10, 28), 12))
    made, number, before_ns = [], 40_000_000, None
    times = [*MIDNIGHTS, *(time_ns - 1_000_000 for time_ns in MIDNIGHTS[1:])]
    for start_ns in range(MIDNIGHTS[0] - 3600 * NS_PER_S, NOW_NS - 60 * NS_PER_S, 900 * NS_PER_S):
        watts = chance.choice((90, 140, 400, 2300))
        spacing_ns = 3.6e6 / impulses_per_kwh / watts * NS_PER_S
        steps = itertools.accumulate(itertools.repeat(spacing_ns), initial=start_ns + chance.uniform(0, spacing_ns))
        times += map(int, itertools.takewhile(lambda at: at < min(start_ns + 900e9, NOW_NS - 60e9), steps))  # noqa: B023
    readings = {round(at.replace(tzinfo=ZONE).timestamp()) * NS_PER_S: kwh for at, kwh in READINGS.items()}
    for time_ns in sorted(times):
        # As a meter does: nothing that comes too soon for 24 kW, but those about midnight.
        sure = time_ns % NS_PER_S in (0, 999_000_000)
        if time_ns in away or (not sure and before_ns is not None and time_ns - before_ns < 50_000_000):
            continue
        number += 1
        known = before_ns is not None and not before_ns < away.start <= time_ns
        watts = constant.mean_watts(1, (time_ns - before_ns) / NS_PER_S) if known else None
        for at_ns in [at_ns for at_ns in readings if at_ns <= time_ns]:
            read_kwh = constant.register_at(number - 1) + readings.pop(at_ns)
            constant = Constant(impulses_per_kwh, from_count=number - 1, register_kwh=read_kwh)
        made.append(Pulse(meter, number, time_ns, watts, constant.watt_hours, constant.register_at(number)))
        before_ns = time_ns
    return made


@pytest.fixture(scope="module")
def pulses():
    """The pulses of all meters, by meter."""
    return {meter: pulses_of(meter, impulses) for meter, impulses in {**METERS, LOOKALIKE: 800}.items()}


def batches_of(pulses):
    """The *pulses* of all meters in order, as they are delivered."""
    in_order = sorted(itertools.chain(*pulses.values()), key=lambda pulse: pulse.time_ns)
    return [in_order[at : at + BATCH] for at in range(0, len(in_order), BATCH)]


def deliver(pulses, port, **options):
    """Take *pulses* there by the writer of the settings; the last batches twice, as after a crash."""
    defaults = {name: key.default for name, key in writer_type("influxdb").keys.items() if key.default is not REQUIRED}
    writer = open_writer(
        WriterSettings("influxdb", "influxdb", {**defaults, "host": "127.0.0.1", "port": port, **options})
    )
    batches = batches_of(pulses)
    try:
        for batch in [*batches, *batches[-TWICE:]]:
            assert writer.deliver(batch, "") == Receipt(len(batch))
    finally:
        writer.close()


@pytest.fixture(scope="module")
def influx(influxd, pulses):
    """The InfluxDB with the pulses in the database grafana."""
    influxd.query("CREATE DATABASE grafana")
    deliver(pulses, influxd.port, database="grafana")
    yield influxd
    influxd.query("DROP DATABASE grafana")


@pytest.fixture(scope="module")
def victoria(tmp_path_factory, pulses):
    """A VictoriaMetrics with the pulses, and with the option of its page that shows once what came twice."""
    if not victoriametrics_path().exists():
        pytest.fail("run: make servers", pytrace=False)
    assert f" {DEDUP}" in (GRAFANA.parent / "howto" / "victoriametrics.rst").read_text()
    with VictoriaMetrics(tmp_path_factory.mktemp("victoriametrics"), DEDUP) as server:
        deliver(pulses, server.port)
        server.flush()
        yield server


# --- As Grafana does


def begun(since, now_ns=NOW_NS):
    """The begin of a panel's own time: *since* is "24h" before now, "30d/d" at midnight, "12M/M" at the first."""
    amount, unit, rounded = re.fullmatch(r"(\d+)([hdM])(/[dM])?", since).groups()
    now = local(now_ns)
    if unit == "M":
        assert rounded == "/M"
        months = now.year * 12 + now.month - 1 - int(amount)
        return ns(dt.date(months // 12, months % 12 + 1, 1))
    if rounded:
        assert (unit, rounded) == ("d", "/d")
        return ns(now.date() - dt.timedelta(int(amount)))
    return now_ns - int(amount) * {"h": 3600, "d": 86400}[unit] * NS_PER_S


def step_s(panel, from_ns, to_ns):
    """The step that Grafana asks for: the panel's least one, or longer where there would be too many points."""
    least_s = {"1m": 60, "1h": 3600}[panel["interval"]]
    assert (to_ns - from_ns) / NS_PER_S / panel.get("maxDataPoints", 1440) <= least_s, "Grafana would ask for more"
    return least_s


def put_in(query, variable, meter, **values):
    """*query* with the meter of its row and Grafana's own *values*; nothing may be left to put in."""
    query = query.replace(f"${{{variable}_meter:regex}}", re.sub(r"[\\^$*+?.()|\[\]{}/]", r"\\\g<0>", meter))
    for name, value in sorted(values.items(), reverse=True):
        query = query.replace(f"${name}", str(value))
    assert "$" not in query.replace("$/", ""), query
    return query


def in_influxql(server, panel, meter, from_ns, to_ns):
    """What the panel's query gives: times in ns, and the column that is named in it."""
    (target,) = panel["targets"]
    # pkg/tsdb/influxdb/models/query.go of Grafana: whole milliseconds, both included.
    values = {"timeFilter": f"time >= {from_ns // 1_000_000}ms and time <= {to_ns // 1_000_000}ms"}
    if "$__interval" in target["query"]:
        values["__interval"] = f"{step_s(panel, from_ns, to_ns)}s"
    series = server.query(put_in(target["query"], "influxdb", meter, **values), "grafana")
    assert len(series) <= 1
    return [(time_ns, value) for one in series for time_ns, value in one["values"]]


def in_metricsql(server, panel, meter, from_ns, to_ns):
    """The same from VictoriaMetrics, by Prometheus's API; with a step, it begins and ends at multiples of it."""
    (target,) = panel["targets"]
    if target["instant"]:
        assert not target["range"]
        query = put_in(target["expr"], "victoriametrics", meter)
        found = server.ask("/api/v1/query", query=query, time=to_ns / NS_PER_S)["data"]["result"]
        points = [one["value"] for one in found]
    else:
        # pkg/promlib/models/query.go of Grafana, AlignTimeRange.
        step = step_s(panel, from_ns, to_ns)
        start, end = (at // (step * NS_PER_S) * step for at in (from_ns, to_ns))
        query = put_in(target["expr"], "victoriametrics", meter, __interval=f"{step}s")
        found = server.ask("/api/v1/query_range", query=query, start=start, end=end, step=step)["data"]["result"]
        points = [point for one in found for point in one["values"]]
    assert len(found) <= 1
    return [(round(time_s * 1000) * 1_000_000, float(value)) for time_s, value in points]


ASK = {"influxdb": in_influxql, "victoriametrics": in_metricsql}


def panel_of(source, title):
    """The panel of this title in the dashboard of *source*."""
    (panel,) = [panel for panel in DASHBOARDS[source]["panels"] if panel["title"] == title]
    return panel


def bars(panel, points):
    """
    The panel's transformations: "Format time" in the viewer's zone, then "Group by".

    By https://grafana.com/docs/grafana/latest/panels-visualizations/query-transform-data/transform-data/.
    """
    time, group = (one["options"] for one in panel["transformations"])
    assert [one["id"] for one in panel["transformations"]] == ["formatTime", "groupBy"]
    assert group["fields"]["Time"]["operation"] == "groupby"
    (column,) = set(group["fields"]) - {"Time"}
    (calculation,) = group["fields"][column]["aggregations"]
    form = {"YYYY-MM-DD": "%Y-%m-%d", "YYYY-MM": "%Y-%m"}[time["outputFormat"]]
    groups = {}
    for time_ns, value in points:
        groups.setdefault(local(time_ns).strftime(form), []).append(value)
    return {name: {"sum": math.fsum, "max": max}[calculation](values) for name, values in groups.items()}


@pytest.fixture(params=list(DASHBOARDS))
def source(request):
    """Which of the two dashboards."""
    return request.param


@pytest.fixture
def ask(source, request):
    """Asks the source's server what its panel of a title asks, of a meter."""
    server = request.getfixturevalue({"influxdb": "influx", "victoriametrics": "victoria"}[source])

    def asked(title, meter, from_ns=None, to_ns=NOW_NS):
        panel = panel_of(source, title)
        return ASK[source](server, panel, meter, begun(panel["timeFrom"]) if from_ns is None else from_ns, to_ns)

    return asked


# --- The figures


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize(("period", "form"), [("day", "%Y-%m-%d"), ("month", "%Y-%m")])
def test_energy(source, ask, pulses, meter, period, form):
    """Energy of each day and month is that of its pulses, to the pulse: local days, also the one with 25 hours."""
    expected = {}
    for pulse in pulses[meter]:
        expected.setdefault(local(pulse.time_ns).strftime(form), []).append(pulse.watt_hours / 1000)
    found = bars(panel_of(source, f"Energy per {period}"), ask(f"Energy per {period}", meter))
    assert found == pytest.approx({name: math.fsum(each) for name, each in expected.items()}, rel=1e-9)
    assert len(found) == {"day": 10, "month": 2}[period]


@pytest.mark.parametrize("meter", METERS)
@pytest.mark.parametrize(("period", "form"), [("day", "%Y-%m-%d"), ("month", "%Y-%m")])
def test_peak(source, ask, pulses, meter, period, form):
    """The peak of each day and month is the highest power of its pulses."""
    expected = {}
    for pulse in pulses[meter]:
        if pulse.watts is not None:
            expected.setdefault(local(pulse.time_ns).strftime(form), []).append(pulse.watts)
    found = bars(panel_of(source, f"Peak per {period}"), ask(f"Peak per {period}", meter))
    assert found == pytest.approx({name: max(each) for name, each in expected.items()}, rel=1e-9)


@pytest.mark.parametrize("meter", METERS)
def test_last_day(ask, pulses, meter):
    """Energy and peak of the last 24 hours are those of their pulses."""
    last = [pulse for pulse in pulses[meter] if NOW_NS - 86400 * NS_PER_S < pulse.time_ns <= NOW_NS]
    ((_, energy),) = ask("Last 24 hours", meter)
    assert energy == pytest.approx(math.fsum(pulse.watt_hours for pulse in last) / 1000, rel=1e-9)
    ((_, peak),) = ask("Peak of 24 hours", meter)
    assert peak == pytest.approx(max(pulse.watts for pulse in last), rel=1e-9)


@pytest.mark.parametrize("meter", METERS)
def test_register(ask, pulses, meter):
    """The register is that of the last pulse, after readings that let it jump and fall."""
    steps = [later.register_kwh - pulse.register_kwh for pulse, later in itertools.pairwise(pulses[meter])]
    assert (max(steps) > 11_999, min(steps) < -2) == (True, True)
    ((_, register),) = ask("Register", meter)
    assert register == pytest.approx(pulses[meter][-1].register_kwh, rel=1e-12)


@pytest.mark.parametrize("meter", METERS)
def test_last_flash(source, ask, pulses, meter):
    """The time of the last flash is that of the last pulse: InfluxDB gives it as the row's, to be shown as it is."""
    ((time_ns, value),) = ask("Last flash", meter)
    if source == "influxdb":
        assert time_ns == pulses[meter][-1].time_ns
        assert panel_of(source, "Last flash")["options"]["reduceOptions"]["fields"] == "/^Time$/"
    else:
        assert value == pulses[meter][-1].time_ns // 1_000_000
    assert panel_of(source, "Last flash")["fieldConfig"]["defaults"]["unit"] == "dateTimeFromNow"


@pytest.mark.parametrize("meter", METERS)
def test_power_now(ask, pulses, meter):
    """Power now is that of the last pulse, while it is no older than its own interval."""
    last = pulses[meter][-1]
    ((_, watts),) = ask("Power now", meter, last.time_ns - 86400 * NS_PER_S, last.time_ns + 1_000_000)
    assert watts == pytest.approx(last.watts, rel=1e-9)


def test_power_falls_where_the_language_knows_the_time(victoria, influx, pulses):
    """After an hour without a flash VictoriaMetrics shows what the silence allows; InfluxQL can't: the last power."""
    last = pulses["house"][-1]
    to_ns = last.time_ns + 3600 * NS_PER_S
    ((_, watts),) = in_metricsql(victoria, panel_of("victoriametrics", "Power now"), "house", 0, to_ns)
    assert watts == pytest.approx(last.watt_hours, rel=1e-6)
    panel = panel_of("influxdb", "Power now")
    ((_, watts),) = in_influxql(influx, panel, "house", to_ns - 86400 * NS_PER_S, to_ns)
    assert watts == pytest.approx(last.watts, rel=1e-9)


def test_curve_of_influxdb(influx, pulses):
    """Each minute's power is the energy of its pulses over the time that they took."""
    from_ns, to_ns = NOW_NS - 86400 * NS_PER_S, NOW_NS
    found = dict(in_influxql(influx, panel_of("influxdb", "Power"), "house", from_ns, to_ns))
    minutes = {}
    for pulse in pulses["house"]:
        if from_ns // 1_000_000 * 1_000_000 <= pulse.time_ns <= to_ns:
            minutes.setdefault(pulse.time_ns // (60 * NS_PER_S) * 60 * NS_PER_S, []).append(pulse)
    expected = {
        time_ns: sum(p.watt_hours for p in each) * 3600 / sum(p.watt_hours * 3600 / p.watts for p in each)
        for time_ns, each in minutes.items()
    }
    assert found == pytest.approx(expected, rel=1e-9)
    # A plain mean would be another curve: a kettle's flashes outnumber the others of its minute.
    plain = {time_ns: sum(p.watts for p in each) / len(each) for time_ns, each in minutes.items()}
    assert max(plain[time_ns] / watts for time_ns, watts in expected.items()) > 1.5


@pytest.mark.parametrize(
    "to_ns",
    [NOW_NS, ns(dt.date(2025, 10, 30)), ns(dt.date(2025, 10, 29))],
    ids=["the register falls", "it jumps", "the program is away"],
)
def test_curve_of_victoriametrics(victoria, pulses, to_ns):
    """Each minute's power is its flashes' energy over the time since the flash before, if that is an hour at most."""
    from_ns = to_ns - 86400 * NS_PER_S
    found = dict(in_metricsql(victoria, panel_of("victoriametrics", "Power"), "house", from_ns, to_ns))
    times = [pulse.time_ns // 1_000_000 for pulse in pulses["house"]]
    expected = {}
    for minute in range(from_ns // NS_PER_S // 60, to_ns // NS_PER_S // 60 + 1):
        first, end = (bisect.bisect_right(times, at * 60_000) for at in (minute - 1, minute))
        if first < end and times[first - 1] > (minute - 61) * 60_000:
            joules = sum(pulse.watt_hours * 3600 for pulse in pulses["house"][first:end])
            expected[minute * 60 * NS_PER_S] = joules * 1000 / (times[end - 1] - times[first - 1])
    assert len(expected) > 1000
    assert found == pytest.approx(expected, rel=1e-6)


def test_energy_of_the_curve(ask, source, pulses):
    """The area under the curve of a day is the energy that was counted, to a few percent: gaps are not filled."""
    from_ns, to_ns = NOW_NS - 86400 * NS_PER_S, NOW_NS
    found = ask("Power", "house", from_ns, to_ns)
    counted_wh = sum(pulse.watt_hours for pulse in pulses["house"] if from_ns < pulse.time_ns <= to_ns)
    mean_w = sum(watts for _, watts in found) / len(found)
    assert mean_w * 24 == pytest.approx(counted_wh, rel=0.05)


def test_what_came_twice_counts_once(victoria, influx, pulses):
    """The energy of all pulses is right on both servers, though the last batches were delivered twice."""
    whole_kwh = math.fsum(pulse.watt_hours for pulse in pulses["house"]) / 1000
    twice = [pulse for batch in batches_of(pulses)[-TWICE:] for pulse in batch if pulse.meter == "house"]
    assert math.fsum(pulse.watt_hours for pulse in twice) > 5000
    query = 'sum_over_time(electricity_power_energy{meter="house"}[31d]) / 1000'
    (one,) = victoria.ask("/api/v1/query", query=query, time=NOW_NS / NS_PER_S)["data"]["result"]
    assert float(one["value"][1]) == pytest.approx(whole_kwh, rel=1e-9)
    ((_, kwh),) = in_influxql(influx, panel_of("influxdb", "Last 24 hours"), "house", MIDNIGHTS[0] - 10**13, NOW_NS)
    assert kwh == pytest.approx(whole_kwh, rel=1e-9)


def questions(source):
    """The panels of the dashboard of *source* that ask something: all but the row."""
    return [panel for panel in DASHBOARDS[source]["panels"] if panel["type"] != "row"]


def variables(source):
    """The variables of the dashboard of *source*, by their names."""
    return {one["name"]: one for one in DASHBOARDS[source]["templating"]["list"]}


def test_no_figure_but_the_register_asks_for_registers(source):
    """A reading sets the register, which jumps or falls then: energy and power are asked of the other fields."""
    asking = [panel["title"] for panel in questions(source) if "register" in json.dumps(panel["targets"])]
    assert asking == ["Register"]


def test_meters(victoria, influx):
    """The variables list the meters that there are."""
    (series,) = influx.query(variables("influxdb")["influxdb_meter"]["query"], "grafana")
    assert sorted(value for _, value in series["values"]) == sorted([*METERS, LOOKALIKE])
    label, metric = re.fullmatch(
        r"label_values\((?P<metric>\w+), (?P<label>\w+)\)",
        variables("victoriametrics")["victoriametrics_meter"]["query"]["query"],
    ).group("label", "metric")
    # As Grafana does for a metric and a label: by the label's values of the series that match.
    found = victoria.ask(f"/api/v1/label/{label}/values", **{"match[]": metric}, start=0, end=NOW_NS / NS_PER_S)
    assert sorted(found["data"]) == sorted([*METERS, LOOKALIKE])


def test_no_pulses_no_figures(ask):
    """Of a meter that is not there, nothing is shown."""
    for title in ("Energy per day", "Peak per month", "Last 24 hours", "Register", "Power now", "Last flash"):
        assert ask(title, "garage") == []


# --- The files


@pytest.fixture(scope="module")
def make():
    """The script that makes the files."""
    spec = importlib.util.spec_from_file_location("make_dashboard", GRAFANA / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_files_are_made_by_their_script(make):
    """The dashboards and what provisions them are what make.py makes, and there are no others."""
    found = {
        str(path.relative_to(GRAFANA)): path.read_text()
        for path in GRAFANA.rglob("*")
        if path.suffix in (".json", ".yaml")
    }
    assert found == make.files(), "run: python docs/grafana/make.py"


def test_what_is_written_as_yaml(make):
    """Dicts and lists are indented, and a text that YAML would take for something else is in quotes."""
    finder, runner = doctest.DocTestFinder(), doctest.DocTestRunner()
    (example,) = finder.find(make.yaml, globs={"yaml": make.yaml})
    assert runner.run(example) == (0, 1)


def test_provisioning_leads_to_the_dashboard(make, source):
    """The data source that is provisioned is of the type and has the uid with which the dashboard begins."""
    (made,) = make.data_source(next(one for one in (make.INFLUXDB, make.VICTORIAMETRICS) if one.variable == source))[
        "datasources"
    ]
    variable = variables(source)[source]
    assert variable["current"] == {"text": made["name"], "value": made["uid"]}
    assert variable["query"] == made["type"]
    page = (GRAFANA.parent / "howto" / "grafana.rst").read_text()
    (provider,) = make.PROVIDER["providers"]
    assert f"{provider['options']['path']}/" in page
    for path in (
        f"provisioning/datasources/power-{source}.yaml",
        "provisioning/dashboards/power.yaml",
        f"{source}.json",
    ):
        assert f"docs/grafana/{path}" in page


def test_the_data_source_reads_what_the_page_about_the_server_makes(make):
    """User, password and database are those that the page of InfluxDB makes for Grafana."""
    (made,) = make.data_source(make.INFLUXDB)["datasources"]
    page = (GRAFANA.parent / "howto" / "influxdb.rst").read_text()
    assert f"CREATE USER \"{made['user']}\" WITH PASSWORD '{made['secureJsonData']['password']}'" in page
    assert f'GRANT READ ON "{made["jsonData"]["dbName"]}" TO "{made["user"]}"' in page


def test_both_dashboards_show_the_same():
    """Titles, units, times and places of the two dashboards' panels are equal."""

    def face(panel):
        return panel["title"], panel["type"], panel["fieldConfig"], panel.get("timeFrom"), panel["gridPos"]

    assert list(map(face, questions("influxdb"))) == list(map(face, questions("victoriametrics")))


def test_every_panel_can_be_shown(source):
    """The row is open; ids are unique, no two panels overlap, and each asks the data source of the variable."""
    row, *panels = DASHBOARDS[source]["panels"]
    assert (row["type"], row["collapsed"], row["panels"]) == ("row", False, [])
    assert row["repeat"] == f"{source}_meter"
    assert variables(source)[row["repeat"]]["datasource"]["uid"] == f"${{{source}}}"
    assert len({panel["id"] for panel in (row, *panels)}) == len(panels) + 1 == 11
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = set(
            itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
        )
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        assert place["y"] > row["gridPos"]["y"]
        taken |= cells
        refs = [target["refId"] for target in panel["targets"]]
        assert refs
        assert len(set(refs)) == len(refs)
        for asks in (panel, *panel["targets"]):
            assert asks["datasource"] == {"type": variables(source)[source]["query"], "uid": f"${{{source}}}"}


def test_each_panel_is_explained(source):
    """The page of the dashboard's figures has each panel by its title."""
    page = (GRAFANA.parent / "reference" / "dashboard.rst").read_text()
    assert [panel["title"] for panel in questions(source) if f"\n{panel['title']}\n" not in page] == []


def test_every_transformation_finds_its_column(source):
    """The column that the bars add up is the one that the query names."""
    adding = [panel for panel in questions(source) if "transformations" in panel]
    assert len(adding) == 4
    for panel in adding:
        (column,) = set(panel["transformations"][1]["options"]["fields"]) - {"Time"}
        (target,) = panel["targets"]
        if "query" in target:
            assert f'AS "{column}"' in target["query"]
            assert target["alias"] == "$col"
        else:
            assert target["legendFormat"] == column
        assert panel["options"]["xField"] == "Time"
