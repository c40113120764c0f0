"""
MQTT: its keys in the settings, and whatever else is needed without its library.

``view.py`` says what is published and when, ``discovery.py`` how Home Assistant finds it, and ``broker.py`` hides the
library.
"""

import os
from collections.abc import Iterable, Iterator, Mapping

from powermeter.certificates import verify_ssl
from powermeter.settings.schema import Key, Mistake, Remark, exposed, flag, host, number, optional, text, whole, words
from powermeter.settings.values import MqttSettings, Values

#: One or more levels without wildcards. Topics that begin with $ are the broker's own (MQTT 5.0, 4.7.2).
_TOPIC = text(
    r"(?=.{1,64}\Z)(?!\$)[^\x00-\x1f\x7f+#/ ]+(/[^\x00-\x1f\x7f+#/ ]+)*",
    'a topic of up to 64 characters without + # and spaces, such as "power" or "home/power"',
)

#: Where Home Assistant says that it has started, unless its MQTT options say otherwise.
BIRTH_TOPIC = "homeassistant/status"

#: The keys of MQTT in the settings.
KEYS: Mapping[str, Key] = {
    "host": Key("localhost", host),
    "port": Key(1883, whole(1, 65535)),
    "username": Key(None, optional(words)),
    "password": Key(None, optional(words), secret=True),
    "ssl": Key(False, flag),
    "verify_ssl": Key(True, verify_ssl),
    "topic": Key("power", _TOPIC),
    "discovery": Key("homeassistant", optional(_TOPIC)),
    "update_period": Key(10, number(1, 3600)),
}

#: The libraries that it needs: each module and its name on PyPI.
LIBRARIES = {"paho": "paho-mqtt"}

#: What is added to the topic of simulated watts.
SIMULATED = "_simulated"

#: The names below the topic that do not belong to a meter.
STATUS, MONITOR = "status", "monitor"


def object_id(meter: str) -> str:
    """
    The name of a meter in a form that Home Assistant accepts everywhere: small letters, digits and underscores.

    >>> object_id("Heat-Pump")
    'heat_pump'
    """
    return meter.lower().replace("-", "_")


def mistakes(options: Values) -> Iterator[Mistake]:
    """Mistakes that no key shows by itself: a password without a user, and a topic that belongs to Home Assistant."""
    if options.get("password") and not options.get("username", True):
        yield Mistake("username", "None", "text, as there is a password")
    topic, discovery = options.get("topic"), options.get("discovery")
    if topic is not None and topic in (discovery, BIRTH_TOPIC.partition("/")[0]):
        yield Mistake("topic", f'"{topic}"', "a topic of its own, this one is Home Assistant's")


def mistakes_of_meters(options: Values, meters: Iterable[str]) -> Iterator[Mistake]:
    """Names of *meters* that can't be published; each mistake is named after its meter."""
    known: dict[str, str] = {}
    for name in meters:
        if name in (STATUS, MONITOR):
            yield Mistake(name, f'"{name}"', "another name, MQTT has a topic of that name")
        if options.get("discovery") is None:
            continue
        other = known.setdefault(object_id(name), name)
        if other != name:
            yield Mistake(name, f'"{name}"', f'a name that is not the same as "{other}" in small letters, with _ for -')


def warnings(options: Values) -> Iterator[Remark]:
    """Warn if the CA file does not exist, and if others can read the password."""
    file = options["verify_ssl"]
    if isinstance(file, str) and not os.path.exists(file):
        yield Remark(f"{file} is not there: MQTT waits for it", "verify_ssl")
    yield from exposed(
        KEYS, options, options["host"], encrypted=options["ssl"], encrypt='"ssl": True', verified=file is not False
    )


def place(settings: MqttSettings) -> str:
    """The address of the broker of *settings*."""
    return f"{f'[{settings.host}]' if ':' in settings.host else settings.host}:{settings.port}"
