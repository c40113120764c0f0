"""/metrics, read by the servers that scrape it: Prometheus, with its own checker, and VictoriaMetrics."""

import json
import subprocess
import sys

import pytest
from program import SOURCE, wait_until
from prometheus import Prometheus, prometheus_path, promtool_path, scrape_config, series
from shown import Site, household, serving
from statuses import status
from victoriametrics import VictoriaMetrics, victoriametrics_path

#: A name with everything that must be escaped. The settings allow no such name, but a reader has to cope with it.
ODD = 'a "writer"\\ with\na name'


@pytest.fixture
def site(tmp_path):
    if not (prometheus_path().exists() and victoriametrics_path().exists()):
        pytest.fail("run: make servers", pytrace=False)
    path = household(tmp_path / "journal.db", "house")
    return Site(path, status(writers={"file": {}, ODD: {"state": "failing", "waiting": 12}}))


def test_promtool_has_nothing_to_say(site):
    """Prometheus' own checker reads all of it, and finds no mistake and no unusual name."""
    answer = site.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    done = subprocess.run(
        [promtool_path(), "check", "metrics"], input=answer.text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wrong = answer.text.replace("power_watts gauge", "power_watts counter")
    done = subprocess.run(
        [promtool_path(), "check", "metrics"], input=wrong, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0


def test_a_text_file_has_the_same_metrics(site):
    """The handbook's way without the page's process: --status --json in, the metrics but the energy's out."""
    script = SOURCE.parent / "docs" / "examples" / "textfile.py"
    done = subprocess.run(
        [sys.executable, script], input=json.dumps(site.now), capture_output=True, text=True, check=True
    )
    lines = site.get("/metrics").text.splitlines(keepends=True)
    assert done.stdout == "".join(line for line in lines if "power_energy_kwh_total" not in line)


def scraped(port, site):
    """Compare what a server at *port* knows with what *site* shows."""
    wait_until(lambda: series(port, "power_watts"))
    assert series(port, "up") == {(("__name__", "up"),): 1.0}
    assert series(port, "power_watts") == {(("__name__", "power_watts"), ("meter", "house")): 321.4}
    waiting = series(port, "power_writer_waiting_pulses")
    assert {dict(labels)["writer"]: value for labels, value in waiting.items()} == {"file": 0.0, ODD: 12.0}
    site.now = status(meters={"house": {"watts": 4321.0}})
    wait_until(lambda: 4321.0 in series(port, "power_watts").values())


def test_prometheus_scrapes_it(site, tmp_path):
    """A real Prometheus scrapes it: the target is up, and the values are those of the page; it sees the next ones."""
    with serving(site) as port, Prometheus(tmp_path / "prometheus", f"127.0.0.1:{port}") as server:
        scraped(server.port, site)


def test_victoriametrics_scrapes_it(site, tmp_path):
    """So does a real VictoriaMetrics."""
    with serving(site) as port:
        config = scrape_config(tmp_path, f"127.0.0.1:{port}")
        with VictoriaMetrics(tmp_path / "vm", f"-promscrape.config={config}") as server:
            scraped(server.port, site)
