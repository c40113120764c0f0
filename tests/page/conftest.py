"""A program whose page is looked at, and the browser that looks."""

import pytest
from browser import Browser, needs
from program import Program, wait_until
from records import journal_rows
from server import free_port

SETTINGS = """
METERS = {{
    "house": {{"pin": 18, "impulses_per_kwh": 1000}},
    "roof": {{"pin": 22, "impulses_per_kwh": 1000, "label": "Solar <b>roof</b>", "direction": "export"}},
}}
WRITERS = {{"file": {{"type": "file"}}, "influxdb": {{"type": "influxdb", "port": 1}}}}
PAGE = {{"port": {port}}}
"""


@pytest.fixture(scope="session")
def browser():
    if missing := needs():
        pytest.fail(missing, pytrace=False)
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="session")
def household(tmp_path_factory):
    """A program that counts a simulated household, with its 35 days; one of its writers can't be reached."""
    port = free_port()
    with Program(tmp_path_factory.mktemp("household"), SETTINGS.format(port=port)) as program:
        program.address = f"http://127.0.0.1:{port}/"
        program.start("--simulate")
        # Its past is made, and what it has counted since then is on the disk too.
        wait_until((program.data_dir / "simulated" / "journal.db").exists)
        wait_until(lambda: {meter for meter, *_ in journal_rows(program.data_dir / "simulated")} == {"house", "roof"})
        wait_until(lambda: program.status()["writers"]["influxdb"]["state"] == "failing")
        yield program
