"""
How Home Assistant finds the meters: a message for each entity, in the form of single components. Pure.

All programs that read Home Assistant's discovery know that form; only Home Assistant itself reads the newer one, which
describes a whole device. Only the energy has a state class that counts, so the energy dashboard offers nothing else.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from powermeter import __version__
from powermeter.status import MeterStatus
from powermeter.views.mqtt import STATUS, object_id


class _Entity(NamedTuple):
    """An entity of a meter: its kind, its name, the key of the state that it shows, and its other options."""

    component: str
    name: str
    key: str
    options: Mapping[str, Any]


#: Each entity, by the last part of its id. Names, classes and units are Home Assistant's (its documentation, "MQTT
#: Sensor").
ENTITIES: Mapping[str, _Entity] = {
    "power": _Entity(
        "sensor",
        "Power",
        "power_w",
        {
            "device_class": "power",
            "unit_of_measurement": "W",
            "state_class": "measurement",
            "suggested_display_precision": 0,
        },
    ),
    "energy": _Entity(
        "sensor",
        "Energy",
        "energy_kwh",
        {
            "device_class": "energy",
            "unit_of_measurement": "kWh",
            "state_class": "total_increasing",
            "suggested_display_precision": 3,
        },
    ),
    "register": _Entity(
        "sensor",
        "Register",
        "register_kwh",
        {"device_class": "energy", "unit_of_measurement": "kWh", "suggested_display_precision": 1},
    ),
    "today": _Entity(
        "sensor",
        "Today",
        "kwh_today",
        {"device_class": "energy", "unit_of_measurement": "kWh", "suggested_display_precision": 3},
    ),
    "problem": _Entity("binary_sensor", "Problem", "problem", {"device_class": "problem"}),
    "rejected": _Entity(
        "sensor",
        "Rejected edges",
        "rejected",
        {"entity_category": "diagnostic", "enabled_by_default": False},
    ),
    "waiting": _Entity(
        "sensor",
        "Waiting pulses",
        "waiting",
        {"entity_category": "diagnostic", "enabled_by_default": False},
    ),
}


def configs(prefix: str, topic: str, monitor_id: str, name: str, meter: MeterStatus) -> dict[str, str]:
    """
    The messages by which Home Assistant finds the meter *name*, by topic; its state is published below *topic*.

    *monitor_id* is the journal's. It is part of the id that Home Assistant knows
    an entity by, which therefore survives a restart, another label and another card.
    """
    device_id = f"power_{monitor_id}_{object_id(name)}"
    found = {}
    for part, entity in ENTITIES.items():
        config = {
            "name": entity.name,
            "unique_id": f"{device_id}_{part}",
            "state_topic": f"{topic}/{name}",
            "value_template": f"{{{{ value_json.{entity.key} }}}}",
            "availability_topic": f"{topic}/{STATUS}",
            "qos": 1,
            **entity.options,
            "device": {
                "identifiers": [device_id],
                "name": meter.label or name,
                "manufacturer": "power",
                "model": "Pulse counter",
                "sw_version": __version__,
            },
            "origin": {"name": "power", "sw_version": __version__},
        }
        if part == "problem":
            config["json_attributes_topic"] = f"{topic}/{name}"
            config["json_attributes_template"] = "{{ {'reason': value_json.reason} | tojson }}"
        config_topic = f"{prefix}/{entity.component}/power_{monitor_id}/{object_id(name)}_{part}/config"
        found[config_topic] = json.dumps(config)
    return found
