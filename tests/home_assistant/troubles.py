"""
Six hours of Home Assistant's clock with everything that can go wrong, once or again and again.

test_home_assistant.py has one such round, the fault campaign two days of them.
"""

import contextlib
import datetime as dt
import itertools
import json
import re
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass

import pytest
from frontend import energy_dashboard
from home_assistant import BEGIN, HomeAssistant
from mosquitto import Mosquitto
from observer import Observer
from program import Program, wait_until

from powermeter.views.mqtt.view import OFFSET

ROUND_HOURS = 6

#: Many flashes at first, so that what gets lost would show; hardly any at the end, so that all is still while it is
#: compared.
LOAD_W, STILL_W = "24000", "1"

SETTINGS = """
METERS = {{"house": {{"pin": 18, "impulses_per_kwh": 1000, "label": {label!r}}}}}
WRITERS = {{"file": {{"type": "file"}}}}
COMMIT_INTERVAL = 0.2
MQTT = {{"port": {port}, "update_period": 1}}
"""

STATE = "power_simulated/house"


@dataclass(frozen=True)
class Found:
    """What was seen in so many *hours* of Home Assistant's clock."""

    hours: int
    #: Published states of the meter, and how often the energy in them fell.
    states: int
    falls: int
    #: kWh: in --report, what was added to it after cards were put back, what the broker and Home Assistant have.
    reported: float
    added: float
    published: float
    shown: float
    #: Home Assistant's warnings and errors that are about the meter.
    complaints: list[str]
    #: What energy/validate has against the meter.
    issues: list


def live_through(directory, rounds, rate):
    """
    Live through *rounds* of trouble with a real Home Assistant, *rate* times as fast as the world.

    The program, the broker and Home Assistant have their files in *directory*.
    """
    with (
        Mosquitto(directory / "mosquitto") as broker,
        Observer(broker.port) as observer,
        HomeAssistant(directory / "home-assistant", broker.port, rate) as home_assistant,
        Program(directory / "power", SETTINGS.format(label="Main meter", port=broker.port)) as program,
    ):
        program.start("--simulate", LOAD_W)
        energy = wait_until(lambda: energy_id(home_assistant))
        _look_at_entities(home_assistant)
        take_into_the_dashboard(home_assistant, energy)
        for number in range(rounds):
            _make_trouble(home_assistant, broker, observer, program, number)

        program.run("--kill")
        program.start("--simulate", STILL_W)
        report = json.loads(program.run("--report", "all", "--json").stdout)
        (counted,) = (meter["total"]["kwh"] for meter in report["meters"])
        offset = _offset(_journal(program))
        total = round(counted + offset / 1e6, 6)
        wait_until(lambda: observer.states(STATE)[-1]["energy_kwh"] == total)
        wait_until(lambda: home_assistant.states()[energy][0] == str(total))
        wait_hours(home_assistant, rounds * ROUND_HOURS + 0.1)

        hours = _statistics(home_assistant, energy)
        sums = [hour["sum"] for hour in hours]
        assert sums == sorted(sums)
        assert hours[-1]["state"] == total
        # What was counted before it knew the meter is not in its sum.
        assert sums[-1] == pytest.approx(total - (hours[0]["state"] - hours[0]["sum"]), abs=1e-6)
        (validated,) = home_assistant.ask({"type": "energy/validate"})
        energies = [state["energy_kwh"] for state in observer.states(STATE)]
        _look_at_dashboard(home_assistant, hours)
        found = Found(
            hours=len(hours),
            states=len(energies),
            falls=sum(later < before for before, later in itertools.pairwise(energies)),
            reported=counted,
            added=offset / 1e6,
            published=energies[-1],
            shown=float(home_assistant.states()[energy][0]),
            complaints=home_assistant.complaints(),
            issues=[issue for source in validated["energy_sources"] for issue in source],
        )

        # What leaves the settings is taken away.
        program.set("")
        subprocess.run(["kill", "-HUP", str(program.pid)], check=True)
        wait_until(lambda: not [name for name in home_assistant.states() if "main_meter" in name])
        wait_until(lambda: observer.topics() <= {"homeassistant/status"})
    return found


def wait_hours(home_assistant, hours):
    """Wait until its clock shows so many hours after the beginning."""
    missing_s = hours * 3600 - (home_assistant.now() - BEGIN).total_seconds()
    wait_until(
        lambda: (home_assistant.now() - BEGIN).total_seconds() >= hours * 3600, missing_s / home_assistant.rate + 10
    )


def energy_id(home_assistant):
    """The entity that the energy dashboard takes; None before it has been found."""
    for entity_id, (_, attributes) in home_assistant.states().items():
        if attributes.get("state_class") == "total_increasing":
            return entity_id
    return None


def take_into_the_dashboard(home_assistant, energy):
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


def _look_at_entities(home_assistant):
    """It has found a device, named by the label, and the dashboard can take only its energy."""
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


def _classes(attributes):
    return tuple(attributes.get(name) for name in ("device_class", "unit_of_measurement", "state_class"))


def _make_trouble(home_assistant, broker, observer, program, number):
    """All that can happen, over five hours of its clock, for the time that is *number*, counted from 0."""
    begin = number * ROUND_HOURS

    # An outage of the broker, which forgets everything.
    wait_hours(home_assistant, begin + 1.0)
    broker.stop()
    wait_hours(home_assistant, begin + 1.2)
    broker.start()
    wait_hours(home_assistant, begin + 1.7)
    home_assistant.restart()
    wait_hours(home_assistant, begin + 2.4)
    assert program.run("--restart").returncode == 0
    wait_hours(home_assistant, begin + 2.8)
    subprocess.run(["kill", "-KILL", str(program.pid)], check=True)
    wait_until(lambda: program.pid is None)
    program.start("--simulate", LOAD_W)
    wait_hours(home_assistant, begin + 3.2)
    # More than the load can have brought since the last reading: another meter.
    face = ("--force",) if number else ()
    assert program.run("--reading", f"{12345.6 + 100 * number:.1f}", *face).returncode == 0
    label = f"Renamed meter {number + 1}"
    program.set(SETTINGS.format(label=label, port=broker.port))
    subprocess.run(["kill", "-HUP", str(program.pid)], check=True)
    wait_until(lambda: label in str(observer.last(_config(observer))))

    # A card put back from a backup: what was counted since is gone from the journal, not from the broker.
    wait_hours(home_assistant, begin + 3.6)
    before = _offset(_journal(program))
    program.run("--kill")
    journal = _journal(program)
    backup = journal.with_name("backup")
    shutil.copy(journal, backup)
    kept = observer.states(STATE)[-1]["energy_kwh"]
    program.start("--simulate", LOAD_W)
    wait_hours(home_assistant, begin + 4.2)
    wait_until(lambda: observer.states(STATE)[-1]["energy_kwh"] > kept)
    program.run("--kill")
    shutil.copy(backup, journal)
    program.start("--simulate", LOAD_W)
    wait_until(lambda: _offset(journal) > before)
    wait_hours(home_assistant, begin + 4.8)
    broker.stop()
    broker.start()
    wait_hours(home_assistant, begin + 5.2)


def _look_at_dashboard(home_assistant, hours):
    """The energy dashboard of its frontend shows, in a real browser, what was used on the day of the last hour."""
    last = hours[-1]
    midnight = [hour["sum"] for hour in hours if _begin(hour).date() < _begin(last).date()]
    used = last["sum"] - (midnight[-1] if midnight else 0)
    with energy_dashboard(home_assistant, at=_begin(last)) as page:
        cell = page.locator("hui-energy-sources-table-card").get_by_text(re.compile(r"^\s*[\d.]+ kWh\s*$")).first
        shown = float(cell.inner_text().split()[0])
        # It rounds to two places.
        assert shown == pytest.approx(used, abs=0.0051)


def _begin(hour):
    return dt.datetime.fromtimestamp(hour["start"] / 1000, dt.UTC)


def _config(observer):
    return next(topic for topic in observer.topics() if topic.endswith("house_energy/config"))


def _journal(program):
    """The journal of the invented watts."""
    return program.data_dir / "simulated" / "journal.db"


def _offset(journal):
    """What is added to the energy since a card was put back, in millionths of a kWh."""
    with contextlib.closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT value FROM about WHERE key = ?", (f"{OFFSET}house",)).fetchone()
    return int(found[0]) if found else 0


def _statistics(home_assistant, entity_id):
    """The hours that it has of *entity_id*."""
    (found,) = home_assistant.ask(
        {
            "type": "recorder/statistics_during_period",
            "start_time": BEGIN.isoformat(),
            "statistic_ids": [entity_id],
            "period": "hour",
            "types": ["sum", "state"],
        }
    )
    return found[entity_id]
