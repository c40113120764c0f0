"""A broker that is not mosquitto: aedes, which does not know MQTT 5."""

import pytest
from aedes import AEDES, Aedes
from counting import Running
from observer import OURS, Observer, mqtt_settings, wait_for_state
from program import wait_until

from powermeter.views.mqtt.broker import Retained, read_retained


def test_a_broker_that_speaks_mqtt_3_alone(tmp_path):
    """A broker that does not know MQTT 5 is spoken to by MQTT 3.1.1, also after it was killed and has forgotten all."""
    if not AEDES.exists():
        pytest.fail("run: make test-home-assistant", pytrace=False)
    with (
        Aedes(tmp_path / "aedes") as server,
        Observer(server.port, mqtt5=False) as observer,
        Running(tmp_path, mqtt=mqtt_settings(server.port)) as running,
    ):
        running.board.flash(3)
        observer.wait_for(lambda state: state["energy_kwh"] == 0.003)
        assert read_retained(mqtt_settings(server.port), ["house"]) == Retained(
            mqtt5=False, version="", monitor=observer.last(OURS), energies={"house": 0.003}
        )
        topics = observer.topics()
        server.stop()
        wait_for_state(running, "failing")
        running.board.flash(2)
        server.start()
        wait_for_state(running, "ok")
        with Observer(server.port, mqtt5=False) as later:
            wait_until(lambda: later.topics() == topics)
            later.wait_for(lambda state: state["energy_kwh"] == 0.005)
