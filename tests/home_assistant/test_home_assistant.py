"""
The real Home Assistant: it finds the meter, and its energy is ours after six hours of its clock with every trouble.

Its clock runs 120 times as fast as the world, so that its statistics of hours can be seen.
"""

import json
import shutil
import subprocess
import time

import pytest
from home_assistant import BEGIN, PYTHON, HomeAssistant
from mosquitto import Mosquitto
from observer import Observer
from program import Program, wait_until

from powermeter.views.mqtt.view import OFFSET

RATE = 120

#: 20 W to 24 kW: at first many flashes; in the end hardly any, so that all is still while it is compared.
LOAD_W, STILL_W = "24000", "1"

SETTINGS = """
METERS = {{"house": {{"pin": 18, "impulses_per_kwh": 1000, "label": {label!r}}}}}
WRITERS = {{"file": {{"type": "file"}}}}
COMMIT_INTERVAL = 0.2
MQTT = {{"port": {port}, "update_period": 1}}
"""

STATE = "power_simulated/house"


@pytest.fixture(scope="module", autouse=True)
def built():
    if not PYTHON.exists():
        pytest.fail("run: make test-home-assistant", pytrace=False)


def wait_hours(home_assistant, hours):
    """Wait until its clock shows so many hours after the beginning."""
    wait_until(lambda: (home_assistant.now() - BEGIN).total_seconds() >= hours * 3600, 3600 / RATE * 10)


def energy_id(home_assistant):
    """The entity that the energy dashboard takes; None while there is none."""
    for entity_id, (_, attributes) in home_assistant.states().items():
        if attributes.get("state_class") == "total_increasing":
            return entity_id
    return None


def _journal(program):
    """The journal of the invented watts."""
    return program.data_dir / "simulated" / "journal.db"


def _look_at_entities(home_assistant):
    """It has found a device, named by the label, whose energy alone the dashboard can take."""
    states = wait_until(
        lambda: {entity_id: state for entity_id, state in home_assistant.states().items() if "main_meter" in entity_id}
    )
    assert {entity_id: _classes(attributes) for entity_id, (_, attributes) in states.items()} == {
        "sensor.main_meter_power": ("power", "W", "measurement"),
        "sensor.main_meter_energy": ("energy", "kWh", "total_increasing"),
        "sensor.main_meter_register": ("energy", "kWh", None),
        "sensor.main_meter_today": ("energy", "kWh", None),
        "binary_sensor.main_meter_problem": ("problem", None, None),
    }
    wait_until(lambda: home_assistant.states()["binary_sensor.main_meter_problem"][0] == "off")
    assert home_assistant.states()["binary_sensor.main_meter_problem"][1]["reason"] == ""
    (entities,) = home_assistant.ask({"type": "config/entity_registry/list"})
    disabled = {one["entity_id"] for one in entities if one["disabled_by"] == "integration"}
    assert disabled == {"sensor.main_meter_rejected_edges", "sensor.main_meter_waiting_pulses"}


def _take_into_the_dashboard(home_assistant, energy):
    """As a person chooses it under 'Add consumption'."""
    home_assistant.ask(
        {
            "type": "energy/save_prefs",
            "energy_sources": [
                {
                    "type": "grid",
                    "flow_from": [
                        {
                            "stat_energy_from": energy,
                            "stat_cost": None,
                            "entity_energy_price": None,
                            "number_energy_price": None,
                        }
                    ],
                    "flow_to": [],
                    "cost_adjustment_day": 0,
                }
            ],
            "device_consumption": [],
        }
    )


def _make_trouble(home_assistant, broker, observer, program):
    """Whatever can happen, over five hours of its clock."""
    wait_hours(home_assistant, 1.0)
    broker.stop()
    time.sleep(5)
    broker.start()
    wait_hours(home_assistant, 1.7)
    home_assistant.restart()
    wait_hours(home_assistant, 2.4)
    assert program.run("--restart").returncode == 0
    wait_hours(home_assistant, 2.8)
    pid = program.pid
    subprocess.run(["kill", "-KILL", str(pid)], check=True)
    wait_until(lambda: program.pid is None)
    program.start("--simulate", LOAD_W)
    wait_hours(home_assistant, 3.2)
    assert program.run("--reading", "12345.6").returncode == 0
    program.set(SETTINGS.format(label="Renamed meter", port=broker.port))
    subprocess.run(["kill", "-HUP", str(program.pid)], check=True)
    wait_until(lambda: "Renamed meter" in str(observer.last(_config(observer))))

    # A card put back from a backup: what was counted since is gone from the journal, not from the broker.
    wait_hours(home_assistant, 3.6)
    program.run("--kill")
    journal = _journal(program)
    backup = journal.with_name("backup")
    shutil.copy(journal, backup)
    program.start("--simulate", LOAD_W)
    wait_hours(home_assistant, 4.2)
    program.run("--kill")
    shutil.copy(backup, journal)
    program.start("--simulate", LOAD_W)
    wait_hours(home_assistant, 4.8)
    broker.stop()
    broker.start()
    wait_hours(home_assistant, 5.2)


def test_six_hours(tmp_path):
    """
    Found by itself, with the right units and classes; and after all the troubles there are the total is the report's.

    An outage of the broker, a restart of Home Assistant, of the broker and of ours, a SIGKILL, a reading, another
    label, and a card put back from a backup: the energy never falls, and Home Assistant's log has no word about us.
    """
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Observer(broker.port) as observer,
        HomeAssistant(tmp_path / "home-assistant", broker.port, RATE) as home_assistant,
        Program(tmp_path / "power", SETTINGS.format(label="Main meter", port=broker.port)) as program,
    ):
        program.start("--simulate", LOAD_W)
        energy = wait_until(lambda: energy_id(home_assistant))

        _look_at_entities(home_assistant)
        _take_into_the_dashboard(home_assistant, energy)
        _make_trouble(home_assistant, broker, observer, program)

        # All is still now: the last flash is everywhere.
        program.run("--kill")
        program.start("--simulate", STILL_W)
        report = json.loads(program.run("--report", "all", "--json").stdout)
        (counted,) = (meter["total"]["kwh"] for meter in report["meters"])
        offset = _offset(_journal(program))
        assert offset > 0
        total = round(counted + offset / 1e6, 6)
        wait_until(lambda: observer.states(STATE)[-1]["energy_kwh"] == total)
        wait_until(lambda: home_assistant.states()[energy][0] == str(total))
        wait_hours(home_assistant, 6.1)

        energies = [state["energy_kwh"] for state in observer.states(STATE)]
        assert energies == sorted(energies)
        (hours,), (validated,) = _statistics(home_assistant, energy), home_assistant.ask({"type": "energy/validate"})
        sums = [hour["sum"] for hour in hours]
        assert len(hours) == 6
        assert sums == sorted(sums)
        assert hours[-1]["state"] == total
        # What was counted before it knew the meter is not in its sum.
        assert sums[-1] == pytest.approx(total - (hours[0]["state"] - hours[0]["sum"]), abs=1e-6)
        assert not [issue for source in validated["energy_sources"] for issue in source]
        assert home_assistant.complaints() == []

        # What leaves the settings is taken away.
        program.set("")
        subprocess.run(["kill", "-HUP", str(program.pid)], check=True)
        wait_until(lambda: not [name for name in home_assistant.states() if "main_meter" in name])
        wait_until(lambda: observer.topics() <= {"homeassistant/status"})


def _classes(attributes):
    return tuple(attributes.get(name) for name in ("device_class", "unit_of_measurement", "state_class"))


def _config(observer):
    return next(topic for topic in observer.topics() if topic.endswith("house_energy/config"))


def _offset(journal):
    """What is added to the energy since a card was put back, in millionths of a kWh."""
    import contextlib
    import sqlite3

    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        (value,) = connection.execute("SELECT value FROM about WHERE key = ?", (f"{OFFSET}house",)).fetchone()
    return int(value)


def _statistics(home_assistant, entity_id):
    (found,) = home_assistant.ask(
        {
            "type": "recorder/statistics_during_period",
            "start_time": BEGIN.isoformat(),
            "statistic_ids": [entity_id],
            "period": "hour",
            "types": ["sum", "state"],
        }
    )
    return [found[entity_id]]
