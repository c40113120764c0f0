"""
The Grafana dashboards, one per kind of data source, and the files that provision them, made from what is below.

    python docs/grafana/make.py

The dashboards show the same: influxdb.json asks in InfluxQL, victoriametrics.json in MetricsQL, by a data source of the
type Prometheus. Each chooses its data source by a template variable, so that the file can be imported as it is; the
variable begins with the data source that the file in provisioning/ makes.

tests/test_grafana.py runs each query on the real servers.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Json = dict[str, Any]

HERE = Path(__file__).parent

#: The oldest Grafana whose transformations these were tried with (transformations.mjs), and its schema's version.
GRAFANA = "11.6.0"
SCHEMA = 41

WIDTH = 24

# Energy is counted, never integrated: each point is one flash. Mean power is energy over the time it took, which is the
# harmonic mean of the points' powers: their plain mean would weigh the fast flashes of a kettle like the slow ones of a
# night, and show far too much.
INFLUXQL = {
    "power now": """
        SELECT last("power") AS "W" FROM "electricity_power"
        WHERE $timeFilter AND "meter" =~ /^${influxdb_meter:regex}$/
    """,
    "last flash": """
        SELECT last("energy") AS "Wh" FROM "electricity_power"
        WHERE $timeFilter AND "meter" =~ /^${influxdb_meter:regex}$/
    """,
    "energy of a day": """
        SELECT sum("energy") / 1000 AS "kWh" FROM "electricity_power"
        WHERE $timeFilter AND "meter" =~ /^${influxdb_meter:regex}$/
    """,
    "peak of a day": """
        SELECT max("power") AS "W" FROM "electricity_power"
        WHERE $timeFilter AND "meter" =~ /^${influxdb_meter:regex}$/
    """,
    "register": """
        SELECT last("register") AS "kWh" FROM "electricity_power"
        WHERE $timeFilter AND "meter" =~ /^${influxdb_meter:regex}$/
    """,
    "power": """
        SELECT 1 / mean("s") AS "W"
        FROM (SELECT 1 / "power" AS "s" FROM "electricity_power"
            WHERE $timeFilter AND "meter" =~ /^${influxdb_meter:regex}$/)
        WHERE $timeFilter GROUP BY time($__interval) fill(none)
    """,
    "energy": """
        SELECT sum("energy") / 1000 AS "kWh" FROM "electricity_power"
        WHERE $timeFilter AND "meter" =~ /^${influxdb_meter:regex}$/ GROUP BY time(1h) fill(none)
    """,
    "peak": """
        SELECT max("power") AS "W" FROM "electricity_power"
        WHERE $timeFilter AND "meter" =~ /^${influxdb_meter:regex}$/ GROUP BY time(1h) fill(none)
    """,
}

# The energies of the points are summed here too: registers jump or fall when they are set to the meter's face. The
# server must show a point once that came twice, as after a crash: with -dedup.minScrapeInterval=1ms it does.
# Power is that sum over the time from the last flash before the interval to the last one in it. A flash that follows
# more than an hour of silence shows no power: the program may have been away.
# "[1h] offset -3599999ms" is the hour that begins at the point's time, its end not included; a plain [1h] would be the
# hour before, its end included. Times are whole ms here.
METRICSQL = {
    "power now": """
        min(last_over_time(electricity_power_power{meter=~"${victoriametrics_meter:regex}"}[24h]),
            3600 * last_over_time(electricity_power_energy{meter=~"${victoriametrics_meter:regex}"}[24h])
            / (time() - tlast_over_time(electricity_power_energy{meter=~"${victoriametrics_meter:regex}"}[24h])))
    """,
    "last flash": """
        1000 * tlast_over_time(electricity_power_energy{meter=~"${victoriametrics_meter:regex}"}[31d])
    """,
    "energy of a day": """
        sum_over_time(electricity_power_energy{meter=~"${victoriametrics_meter:regex}"}[24h]) / 1000
    """,
    "peak of a day": """
        max_over_time(electricity_power_power{meter=~"${victoriametrics_meter:regex}"}[24h])
    """,
    "register": """
        last_over_time(electricity_power_register{meter=~"${victoriametrics_meter:regex}"}[31d])
    """,
    "power": """
        3600 * sum_over_time(electricity_power_energy{meter=~"${victoriametrics_meter:regex}"}[$__interval])
        / (tlast_over_time(electricity_power_energy{meter=~"${victoriametrics_meter:regex}"}[$__interval])
            - tlast_over_time(electricity_power_energy{meter=~"${victoriametrics_meter:regex}"}[1h] offset $__interval))
    """,
    "energy": """
        sum_over_time(electricity_power_energy{meter=~"${victoriametrics_meter:regex}"}[1h] offset -3599999ms) / 1000
    """,
    "peak": """
        max_over_time(electricity_power_power{meter=~"${victoriametrics_meter:regex}"}[1h] offset -3599999ms)
    """,
}


def one_line(query: str) -> str:
    """*query* as the dashboard has it."""
    return " ".join(query.split()).replace("( ", "(").replace(" )", ")")


def ask_influxdb(query: str, _step: str | None) -> Json:
    """A panel's question in InfluxQL. What of time it is about, Grafana puts into it."""
    return {
        "query": one_line(INFLUXQL[query]),
        "rawQuery": True,
        "resultFormat": "table" if query == "last flash" else "time_series",
        "alias": "" if query == "last flash" else "$col",
    }


def ask_victoriametrics(query: str, step: str | None) -> Json:
    """A panel's question in MetricsQL: with a *step* of at least this, or without one only for the end of the time."""
    return {
        "editorMode": "code",
        "expr": one_line(METRICSQL[query]),
        "format": "time_series",
        "instant": step is None,
        "range": step is not None,
        "exemplar": False,
        "interval": step or "",
        "legendFormat": "kWh" if query in {"energy", "energy of a day", "register"} else "W",
    }


class Source(NamedTuple):
    """
    A kind of data source that has a dashboard.

    *variable* names the template variable by which one of Grafana's *type* is
    chosen, and begins the name of the one for its meters, which *meters* lists.
    *ask* makes a panel's question of a query's name and the least step.
    *provisioned* is what a data source's file holds beside what all of them do.
    """

    title: str
    variable: str
    type: str
    meters: str | Json
    ask: Callable[[str, str | None], Json]
    provisioned: Json

    @property
    def uid(self) -> str:
        """What identifies both the dashboard and the data source that is provisioned for it."""
        return f"power-{self.variable}"

    @property
    def reference(self) -> Json:
        """What names it in a panel."""
        return {"type": self.type, "uid": f"${{{self.variable}}}"}


INFLUXDB = Source(
    "InfluxDB",
    "influxdb",
    "influxdb",
    'SHOW TAG VALUES FROM "electricity_power" WITH KEY = "meter"',
    ask_influxdb,
    {
        "url": "http://localhost:8086",
        "user": "grafana",
        "jsonData": {"version": "InfluxQL", "dbName": "power", "httpMode": "GET"},
        "secureJsonData": {"password": "a third password"},
    },
)
VICTORIAMETRICS = Source(
    "VictoriaMetrics",
    "victoriametrics",
    "prometheus",
    {"qryType": 1, "query": "label_values(electricity_power_energy, meter)", "refId": "meters"},
    ask_victoriametrics,
    {"url": "http://localhost:8428", "jsonData": {"httpMethod": "POST"}},
)


def panel(kind: str, title: str, source: Source, target: Json, **rest: Any) -> Json:
    """A panel with one question; its id is given later."""
    return {
        "type": kind,
        "title": title,
        "datasource": source.reference,
        "targets": [{"refId": "A", "datasource": source.reference, **target}],
        **rest,
    }


def field_config(unit: str, **custom: Any) -> Json:
    """How a panel's numbers are shown."""
    color = {"mode": "palette-classic"} if custom else {"mode": "fixed", "fixedColor": "text"}
    return {"defaults": {"unit": unit, "color": color, "custom": custom}, "overrides": []}


class Stat(NamedTuple):
    """One number: the last that the *query* gives for the time *since* ago until now."""

    title: str
    description: str
    query: str
    unit: str
    since: str
    width: int


STATS = (
    Stat("Power now", "Mean power between the last two flashes.", "power now", "watt", "24h", 5),
    Stat("Last flash", "When the last flash came that is known here.", "last flash", "dateTimeFromNow", "31d", 5),
    Stat("Last 24 hours", "The energy of all flashes together.", "energy of a day", "kwatth", "24h", 5),
    Stat("Peak of 24 hours", "The highest power between two flashes.", "peak of a day", "watt", "24h", 5),
    Stat("Register", "The running energy with the last flash.", "register", "kwatth", "31d", 4),
)


def stats(source: Source) -> list[Json]:
    """The line of single numbers."""
    panels, x = [], 0
    for one in STATS:
        of_time = one.query == "last flash" and source is INFLUXDB
        panels.append(
            panel(
                "stat",
                one.title,
                source,
                source.ask(one.query, None),
                description=one.description,
                gridPos={"h": 4, "w": one.width, "x": x, "y": 0},
                timeFrom=one.since,
                hideTimeOverride=True,
                fieldConfig=field_config(one.unit),
                options={
                    "reduceOptions": {
                        "calcs": ["lastNotNull"],
                        "fields": "/^Time$/" if of_time else "",
                        "values": False,
                    },
                    "colorMode": "value",
                    "graphMode": "none",
                    "justifyMode": "auto",
                    "orientation": "auto",
                    "textMode": "value",
                },
            )
        )
        x += one.width
    return panels


def graph(source: Source) -> Json:
    """Power over the time that is chosen above."""
    return panel(
        "timeseries",
        "Power",
        source,
        source.ask("power", "1m"),
        description="Mean power of each interval: energy over time.",
        gridPos={"h": 9, "w": WIDTH, "x": 0, "y": 4},
        interval="1m",
        fieldConfig=field_config(
            "watt", drawStyle="line", lineWidth=1, fillOpacity=10, showPoints="never", spanNulls=3_600_000
        ),
        options={
            "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
            "tooltip": {"mode": "single", "sort": "none"},
        },
    )


class Bars(NamedTuple):
    """
    A bar for each *period*, since *since*.

    *form* is the period's format in moment.js. The server gives hours, and
    Grafana adds them up by the calendar of the viewer's time zone: neither
    language knows months, and only one knows zones.
    """

    period: str
    form: str
    since: str


BARS = (Bars("day", "YYYY-MM-DD", "30d/d"), Bars("month", "YYYY-MM", "12M/M"))


def bars(source: Source, one: Bars, y: int) -> list[Json]:
    """Energy and, beside it, peak of each period."""
    panels = []
    for x, (title, query, unit, description, column, calculation) in enumerate(
        (
            ("Energy", "energy", "kwatth", "The energy of all flashes together.", "kWh", "sum"),
            ("Peak", "peak", "watt", "The highest power between two flashes.", "W", "max"),
        )
    ):
        fields = {
            "Time": {"aggregations": [], "operation": "groupby"},
            column: {"aggregations": [calculation], "operation": "aggregate"},
        }
        panels.append(
            panel(
                "barchart",
                f"{title} per {one.period}",
                source,
                source.ask(query, "1h"),
                description=f"{description} A {one.period} is one of your time zone.",
                gridPos={"h": 8, "w": WIDTH // 2, "x": x * WIDTH // 2, "y": y},
                timeFrom=one.since,
                hideTimeOverride=True,
                interval="1h",
                # More than the hours of 13 months: with the usual number Grafana would ask for longer steps.
                maxDataPoints=11_000,
                transformations=[
                    {
                        "id": "formatTime",
                        "options": {"timeField": "Time", "outputFormat": one.form, "useTimezone": True},
                    },
                    {"id": "groupBy", "options": {"fields": fields}},
                ],
                fieldConfig=field_config(unit, fillOpacity=80, lineWidth=1),
                options={
                    "xField": "Time",
                    "orientation": "auto",
                    "showValue": "auto",
                    "stacking": "none",
                    "groupWidth": 0.7,
                    "barWidth": 0.9,
                    "xTickLabelRotation": -45,
                    "legend": {"showLegend": False, "displayMode": "list", "placement": "bottom", "calcs": []},
                    "tooltip": {"mode": "single", "sort": "none"},
                },
            )
        )
    return panels


def row(source: Source) -> list[Json]:
    """An open row, which is repeated for each meter, and the panels in it: in the dashboard they follow it."""
    panels = [*stats(source), graph(source)]
    for i, one in enumerate(BARS):
        panels += bars(source, one, 13 + 8 * i)
    for each in panels:
        each["gridPos"]["y"] += 1
    head: Json = {
        "type": "row",
        "title": f"${source.variable}_meter",
        "collapsed": False,
        "repeat": f"{source.variable}_meter",
        "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": 0},
        "panels": [],
    }
    return [head, *panels]


def variables(source: Source) -> list[Json]:
    """Which data source, and which of its meters."""
    return [
        {
            "name": source.variable,
            "label": "Data source",
            "type": "datasource",
            "query": source.type,
            "regex": "",
            "refresh": 1,
            "hide": 0,
            "multi": False,
            "includeAll": False,
            # The one that is provisioned; Grafana takes another of the type where it is not there.
            "current": {"text": f"power ({source.title})", "value": source.uid},
            "options": [],
        },
        {
            "name": f"{source.variable}_meter",
            "label": "Meter",
            "type": "query",
            "datasource": source.reference,
            "definition": source.meters if isinstance(source.meters, str) else source.meters["query"],
            "query": source.meters,
            "regex": "",
            "refresh": 1,
            "sort": 1,
            "hide": 0,
            "multi": True,
            "includeAll": True,
            "current": {"text": ["All"], "value": ["$__all"]},
            "options": [],
        },
    ]


def dashboard(source: Source) -> Json:
    """The whole dashboard."""
    panels = row(source)
    for number, each in enumerate(panels, start=1):
        each["id"] = number
    return {
        "__requires": [
            {"type": "grafana", "id": "grafana", "name": "Grafana", "version": GRAFANA},
            *({"type": "panel", "id": kind, "name": name, "version": ""} for kind, name in KINDS),
        ],
        "title": f"Electricity ({source.title})",
        "uid": source.uid,
        "description": "Power, energy and peaks of the meters that power counts.",
        "tags": ["power"],
        "schemaVersion": SCHEMA,
        "version": 1,
        "editable": True,
        "graphTooltip": 0,
        "fiscalYearStartMonth": 0,
        "timezone": "",
        "weekStart": "",
        "time": {"from": "now-24h", "to": "now"},
        "timepicker": {},
        "refresh": "1m",
        "annotations": {"list": []},
        "links": [],
        "templating": {"list": variables(source)},
        "panels": panels,
    }


KINDS = (("stat", "Stat"), ("timeseries", "Time series"), ("barchart", "Bar chart"))


def data_source(source: Source) -> Json:
    """The provisioning file of a data source: https://grafana.com/docs/grafana/latest/administration/provisioning/."""
    common = {"name": f"power ({source.title})", "uid": source.uid, "type": source.type, "access": "proxy"}
    return {"apiVersion": 1, "datasources": [{**common, **source.provisioned, "editable": True}]}


#: The provisioning file that has Grafana show the dashboards of a directory.
PROVIDER: Json = {
    "apiVersion": 1,
    "providers": [
        {
            "name": "power",
            "type": "file",
            "allowUiUpdates": True,
            "options": {"path": "/var/lib/grafana/dashboards/power"},
        }
    ],
}


def yaml(value: Json | list[Json], indent: str = "") -> str:
    """
    *value* as YAML, for people to edit: dicts, lists of dicts, and scalars, which YAML takes as JSON writes them.

    >>> print(yaml({"a": 1, "b": [{"c": "x: y", "d": {"e": True}}]}), end="")
    a: 1
    b:
      - c: "x: y"
        d:
          e: true
    """
    if isinstance(value, list):
        return "".join(f"{indent}- {yaml(one, indent + '  ').lstrip()}" for one in value)
    return "".join(
        f"{indent}{key}:\n{yaml(inner, indent + '  ')}"
        if isinstance(inner, (dict, list))
        else f"{indent}{key}: {json.dumps(inner)}\n"
        for key, inner in value.items()
    )


def files() -> dict[str, str]:
    """All that is made, by its path below this directory."""
    made = {"provisioning/dashboards/power.yaml": yaml(PROVIDER)}
    for source in (INFLUXDB, VICTORIAMETRICS):
        made[f"{source.variable}.json"] = json.dumps(dashboard(source), indent=1) + "\n"
        made[f"provisioning/datasources/power-{source.variable}.yaml"] = yaml(data_source(source))
    return made


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).parent.mkdir(parents=True, exist_ok=True)
        (HERE / name).write_text(text)
