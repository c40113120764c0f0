"""Node-RED, with the node that the recipe names."""

import pytest
from counting import Running
from mosquitto import Mosquitto
from node_red import NODE_RED, NodeRed
from observer import Observer, mqtt_settings
from program import wait_until

HERE = "node-red/power_w and energy_kwh"


def flow(port):
    """An "mqtt in" as the recipe has it; what a node behind it can take from the message goes to the broker again."""
    function = "msg.payload = [msg.payload.power_w, msg.payload.energy_kwh]; return msg"
    return [
        {"id": "tab", "type": "tab", "label": "power"},
        {"id": "broker", "type": "mqtt-broker", "broker": "127.0.0.1", "port": port, "cleansession": True},
        {
            "id": "in",
            "type": "mqtt in",
            "z": "tab",
            "x": 1,
            "y": 1,
            "topic": "power/house",
            "qos": "1",
            "datatype": "json",
            "broker": "broker",
            "wires": [["function"]],
        },
        {
            "id": "function",
            "type": "function",
            "z": "tab",
            "x": 1,
            "y": 1,
            "func": function,
            "outputs": 1,
            "wires": [["out"]],
        },
        {
            "id": "out",
            "type": "mqtt out",
            "z": "tab",
            "x": 1,
            "y": 1,
            "topic": HERE,
            "qos": "1",
            "retain": "",
            "broker": "broker",
        },
    ]


def test_a_flow_takes_power_and_energy(tmp_path):
    """A flow gets the state that is retained when it starts, and each one that comes, as an object."""
    if not NODE_RED.exists():
        pytest.fail("run: make test-home-assistant", pytrace=False)
    with (
        Mosquitto(tmp_path / "mosquitto") as broker,
        Observer(broker.port) as observer,
        Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running,
    ):
        observer.wait_for(lambda state: state["energy_kwh"] == 0)
        with NodeRed(tmp_path / "node-red", flow(broker.port)):
            wait_until(lambda: observer.messages(HERE) == ["[null,0]"])
            running.board.flash(3)
            observer.wait_for(lambda state: state["energy_kwh"] == 0.003)
            wait_until(lambda: observer.last(HERE).endswith(",0.003]"))
