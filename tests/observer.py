"""What others see at an MQTT broker: a client that notes every message, and what is retained."""

import dataclasses
import json
import threading
import time

from paho.mqtt import client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from program import PATIENCE_S, wait_until

from powermeter.settings.values import MqttSettings

#: Where the id of the monitor is retained.
OURS = "power/monitor"


class Observer:
    """
    A client of the broker at *port* that reads everything; a context manager.

    It reconnects by itself. *user* is a name and a password; without *mqtt5*
    it speaks MQTT 3.1.1.
    """

    def __init__(self, port, *, user=None, mqtt5=True):
        #: All messages in their order: when they came (monotonic, s), topic, text, whether they were retained.
        self.seen = []
        self._lock = threading.Lock()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5 if mqtt5 else mqtt.MQTTv311)
        self._subscribed = threading.Event()
        if user:
            self._client.username_pw_set(*user)
        self._client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._note
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)

    def _note(self, _client, _data, message):
        with self._lock:
            self.seen.append((time.monotonic(), message.topic, message.payload.decode(), message.retain))

    def __enter__(self):
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE_S)
        return self

    def __exit__(self, kind, error, trace):
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic, payload, *, retain=True):
        """Publish something, as another client does, and wait until the broker has it."""
        self._client.publish(topic, payload, 1, retain).wait_for_publish(PATIENCE_S)

    def messages(self, topic):
        """The texts that came at *topic*, in their order."""
        with self._lock:
            return [text for _, where, text, _ in self.seen if where == topic]

    def last(self, topic):
        """The last text that came at *topic*; None without one."""
        return (self.messages(topic) or [None])[-1]

    def states(self, topic="power/house"):
        """The states that came at *topic*, in their order; anything else there is ignored."""
        return [json.loads(text) for text in self.messages(topic) if text.startswith('{"power_w"')]

    def wait_for(self, condition, topic="power/house"):
        """Wait until *condition* is true of the last state at *topic*; return that state."""
        return wait_until(lambda: next((state for state in self.states(topic)[-1:] if condition(state)), None))

    def topics(self):
        """The topics whose last text is not empty: those that have something retained."""
        with self._lock:
            last = {topic: text for _, topic, text, _ in self.seen}
        return {topic for topic, text in last.items() if text}


def mqtt_settings(port, **options):
    """Settings of a broker on loopback, with the shortest update period."""
    defaults = MqttSettings("127.0.0.1", port, None, None, False, True, "power", "homeassistant", 1)
    return dataclasses.replace(defaults, **options)


def state_of(running):
    """State and reason of MQTT."""
    found = running.monitor.status().views["mqtt"]
    return found.state, found.reason


def wait_for_state(running, state, words=""):
    """Wait until MQTT is in *state*, with *words* in its reason."""
    wait_until(lambda: state_of(running)[0] == state and words in state_of(running)[1])
