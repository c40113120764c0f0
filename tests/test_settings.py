"""The settings: the example, every kind of mistake with its message, and no secret in any message."""

import copy
import dataclasses
import json
import os
import pickle
import pprint
import pwd
import runpy
import shutil

import certifi
import pytest
from program import AS_ROOT, SOURCE, Program

from powermeter.errors import PowerError, SettingsError
from powermeter.settings import reading, schema, values
from powermeter.writers import writer_type

EXAMPLE = SOURCE.parent / "settings.py.example"

#: The defaults that are promised to users.
PROMISED = {
    "GPIO_LIBRARY": "auto",
    "GPIO_CHIP": None,
    "PIN_NUMBERING": "BOARD",
    "METERS": {
        "house": {
            "pin": 18,
            "impulses_per_kwh": 1000,
            "min_flash_ms": None,
            "silence_minutes": None,
            "max_watts": 24000,
            "pull": None,
            "lit": "low",
            "label": None,
            "direction": "import",
            "sensor": "led",
        },
    },
    "L1_PIN": 12,
    "L2_PIN": 16,
    "DATA_DIR": None,
    "COMMIT_INTERVAL": 5,
    "CLOCK_WAIT": 600,
    "KEEP_DAYS": 400,
    "LOG_FILE": None,
    "PAGE": None,
    "MQTT": None,
    "WRITERS": {
        "file": {"type": "file", "path": "power.csv"},
        "librato": {
            "type": "librato",
            "enabled": False,
            "user": "",
            "token": "",
            "metric": "power",
            "hostname": "metrics-api.librato.com",
            "protocol": "https",
            "base_path": "/v1/",
            "source": None,
            "tags": None,
            "period": 60,
        },
        "influxdb": {
            "type": "influxdb",
            "enabled": False,
            "host": "localhost",
            "port": 8086,
            "path": "",
            "username": None,
            "password": None,
            "token": None,
            "database": "power",
            "retention_policy": None,
            "ssl": False,
            "verify_ssl": True,
            "measurement": "electricity_power",
            "tags": {},
            "timeout": 10,
            "batch_size": 5000,
            "update_period": 10,
        },
    },
}

#: A Librato and an InfluxDB entry in which all that must be given is.
LIBRATO = '"type": "librato", "user": "me", "token": "hunter2secret", "hostname": "10.0.0.5:8080"'
INFLUXDB = '"type": "influxdb", "username": "me", "password": "hunter2secret"'
SECRET = "hunter2secret"
PORT_0 = f'WRITERS = {{"w": {{{INFLUXDB}, "port": 0}}}}'


@pytest.fixture
def read(tmp_path):
    """Writes a settings.py with *text*, readable only by its user, and reads it."""

    def read(text, *, mode=0o600, **options):
        path = tmp_path / "settings.py"
        path.write_text(text)
        path.chmod(mode)
        return reading.read(str(path), **options)

    return read


def mistakes_in(read, text, **options):
    with pytest.raises(SettingsError) as error:
        read(text, **options)
    return error.value.mistakes


def meter(entry="", pin="18", impulses="1000"):
    return f'METERS = {{"house": {{"pin": {pin}, "impulses_per_kwh": {impulses}, {entry}}}}}'


def writer(entry):
    return f'WRITERS = {{"w": {{{entry}}}}}'


def file_at(path):
    return f"WRITERS = {{'f': {{'type': 'file', 'path': {path!r}}}}}"


# --- The defaults


def test_the_example_has_the_promised_values():
    """settings.py.example has every promised setting with its promised default, and no other."""
    found = {name: value for name, value in runpy.run_path(str(EXAMPLE)).items() if not name.startswith("_")}
    assert found == PROMISED


def test_the_example_can_be_read():
    """A plain copy of the example has no mistakes and no warnings, and only its file is written."""
    found = reading.read(str(EXAMPLE))
    assert found.warnings == ()
    assert [(w.name, w.type) for w in found.writers] == [("file", "file")]
    assert found.meters == (
        values.MeterSettings(
            name="house", pin=18, impulses_per_kwh=1000, min_flash_ms=None, silence_minutes=None, max_watts=24000
        ),
    )


def test_what_is_left_out_keeps_the_value_of_the_example(read, tmp_path):
    """An empty settings.py means the same as the example."""
    empty, example = read(""), reading.read(str(EXAMPLE))
    for name in values.Settings.__slots__:
        if name != "path":
            assert getattr(empty, name) == getattr(example, name), name


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("file", {}),
        ("librato", {"user": "me", "token": "t", "hostname": "h"}),
        ("influxdb", {}),
    ],
)
def test_a_writer_s_keys_left_out_keep_the_values_of_the_example(read, name, given):
    """Keys that are left out of a writer's entry keep the example's values, too."""
    found = read(f"WRITERS = {{'mine': { ({'type': name} | given)!r}}}").writers[0]
    promised = {
        key: value for key, value in (PROMISED["WRITERS"][name] | given).items() if key not in ("type", "enabled")
    }
    if "token" in given:
        promised["token"] = values.Secret(given["token"])
    if name == "file":
        promised["path"] = os.path.join(reading.default_data_dir(as_root=os.geteuid() == 0), "power.csv")
    assert found == values.WriterSettings("mine", name, promised)


def test_a_file_with_everything_set(read, tmp_path):
    """Every setting is read as it was written."""
    shutil.copy(certifi.where(), tmp_path / "ca.pem")
    found = read(f"""
import os                                    # a module, and names of one's own in lower case, are no settings
host = "10.0.0.7"
_UNUSED = 1
GPIO_LIBRARY, GPIO_CHIP, PIN_NUMBERING, L1_PIN, L2_PIN = "gpiod", "/dev/gpiochip4", "BCM", None, 5
METERS = {{
    "house": {{"pin": 24, "impulses_per_kwh": 800.0, "min_flash_ms": 2.5, "silence_minutes": 90, "max_watts": 11e3}},
    "heat-pump_2": {{"pin": 25, "impulses_per_kwh": 3200}},
}}
DATA_DIR = "/srv/power"
COMMIT_INTERVAL, CLOCK_WAIT, KEEP_DAYS, LOG_FILE = 0.5, 0, 30, "log/power.log"
WRITERS = {{
    "one": {{"type": "influxdb", "host": host, "token": "t", "ssl": True, "verify_ssl": "{tmp_path}/ca.pem"}},
    "two": {{"type": "influxdb", "username": "u", "password": "p", "tags": {{"home": "yes"}}, "verify_ssl": False}},
    "off": {{"type": "file", "enabled": False, "path": 3}},
    "csv": {{"type": "file", "path": "~/a.csv"}},
    "lib": {{{LIBRATO}, "tags": {{"Home": "Yes"}}, "period": 300, "source": "attic"}},
}}
""")
    assert (found.gpio_library, found.gpio_chip, found.pin_numbering) == ("gpiod", "/dev/gpiochip4", "BCM")
    assert found.meters == (
        values.MeterSettings(
            name="house", pin=24, impulses_per_kwh=800.0, min_flash_ms=2.5, silence_minutes=90, max_watts=11e3
        ),
        values.MeterSettings(
            name="heat-pump_2", pin=25, impulses_per_kwh=3200, min_flash_ms=None, silence_minutes=None, max_watts=24000
        ),
    )
    assert (found.l1_pin, found.l2_pin) == (None, 5)
    assert (found.data_dir, found.log_file) == ("/srv/power", "/srv/power/log/power.log")
    assert (found.commit_interval_s, found.clock_wait_s, found.keep_days) == (0.5, 0, 30)
    assert [w.name for w in found.writers] == ["one", "two", "csv", "lib"]
    one, two, csv, lib = (w.options for w in found.writers)
    assert (one["host"], one["ssl"], one["verify_ssl"]) == ("10.0.0.7", True, f"{tmp_path}/ca.pem")
    assert (two["username"], two["tags"], two["verify_ssl"]) == ("u", {"home": "yes"}, False)
    secrets = (one["token"], two["password"], lib["token"])
    assert secrets == (values.Secret("t"), values.Secret("p"), values.Secret(SECRET))
    assert csv["path"] == os.path.expanduser("~/a.csv")
    assert (lib["tags"], lib["period"], lib["source"]) == ({"home": "yes"}, 300, "attic")
    assert found.warnings == ()


@pytest.mark.parametrize("library", ["auto", "gpiod", "RPi.GPIO"])
def test_every_library_of_pins_may_be_chosen(read, library):
    """GPIO_LIBRARY may be any of the three words."""
    assert read(f"GPIO_LIBRARY = {library!r}").gpio_library == library


@pytest.mark.parametrize("library", ["auto", "gpiod"])
def test_a_shortest_flash_may_be_asked_for(read, library):
    """min_flash_ms is allowed with gpiod, and with "auto", which chooses the board only later."""
    found = read(f"GPIO_LIBRARY = {library!r}; " + meter('"min_flash_ms": 2'))
    assert [m.min_flash_ms for m in found.meters] == [2]


# --- Mistakes

LIBRATO_NAME = "1 to 255 characters of A-Z a-z 0-9 . : - _"
HEADER = "3, 5, 7, 8, 10, 11, 12, 13, 15, 16, 18, 19, 21, 22, 23, 24, 26, 29, 31, 32, 33, 35, 36, 37, 38, 40"
PIN = "a whole number from 0 to 40"
NO_LENGTH = 'RPi.GPIO does not tell how long a flash is, GPIO_LIBRARY = "gpiod" does'
OWN = '("meter" has a meaning of its own)'
TAGS = '"meter" and "time" not among them, such as {"home": "yes"}'
NAME = "a name of 1 to 32 characters of a-z A-Z 0-9 _ -"
HOST = 'just a host name or address, such as "192.168.1.5"'
UNQUOTED = "(text needs quotes; True, False and None have a capital)"
CA_FILE = "True, False or the absolute path of a file of CA certificates (PEM)"
ENTRY = "a dict, as in settings.py.example"
KNOWN = (
    "CLOCK_WAIT, COMMIT_INTERVAL, DATA_DIR, GPIO_CHIP, GPIO_LIBRARY, KEEP_DAYS, L1_PIN, L2_PIN, LOG_FILE, METERS, "
    "MQTT, PAGE, PIN_NUMBERING, WRITERS"
)

#: The text of a settings.py, and each mistake that must be named.
WRONG = [
    # wrong types
    ("COMMIT_INTERVAL = '5'", ["COMMIT_INTERVAL: found '5', allowed: a number from 0.1 to 3,600"]),
    ("COMMIT_INTERVAL = True", ["COMMIT_INTERVAL: found True, allowed: a number from 0.1 to 3,600"]),
    ("COMMIT_INTERVAL = None", ["COMMIT_INTERVAL: found None, allowed: a number from 0.1 to 3,600"]),
    ("KEEP_DAYS = [400]", ["KEEP_DAYS: found a list of 1, allowed: a number from 1 to 36,500"]),
    ("CLOCK_WAIT = 1j", ["CLOCK_WAIT: found a complex, allowed: a number from 0 to 86,400"]),
    ("L1_PIN = '12'", ["L1_PIN: found '12', allowed: a whole number from 0 to 40, or None"]),
    ("L2_PIN = 16.0", ["L2_PIN: found 16.0, allowed: a whole number from 0 to 40, or None"]),
    ("L2_PIN = False", ["L2_PIN: found False, allowed: a whole number from 0 to 40, or None"]),
    ("DATA_DIR = 3", ["DATA_DIR: found 3, allowed: a path that begins with / or ~, or None"]),
    ("DATA_DIR = 'power'", ["DATA_DIR: found 'power', allowed: a path that begins with / or ~, or None"]),
    ("DATA_DIR = ''", ["DATA_DIR: found '', allowed: a path that begins with / or ~, or None"]),
    ("LOG_FILE = 'log/'", ["LOG_FILE: found 'log/', allowed: the path of a file, or None"]),
    ("GPIO_CHIP = 0", ["GPIO_CHIP: found 0, allowed: a path that begins with / or ~, or None"]),
    # out of range
    ("COMMIT_INTERVAL = 0", ["COMMIT_INTERVAL: found 0, allowed: a number from 0.1 to 3,600"]),
    ("KEEP_DAYS = 0.5", ["KEEP_DAYS: found 0.5, allowed: a number from 1 to 36,500"]),
    ("KEEP_DAYS = 10 ** 5000", ["KEEP_DAYS: found a very large number, allowed: a number from 1 to 36,500"]),
    ("CLOCK_WAIT = -1", ["CLOCK_WAIT: found -1, allowed: a number from 0 to 86,400"]),
    (meter(impulses="0"), ['METERS["house"]["impulses_per_kwh"]: found 0, allowed: a number from 0.001 to 1,000,000']),
    (meter('"max_watts": 0'), ['METERS["house"]["max_watts"]: found 0, allowed: a number from 1 to 100,000,000']),
    # neither NaN nor infinity is a number to count with
    ("COMMIT_INTERVAL = float('nan')", ["COMMIT_INTERVAL: found nan, allowed: a number from 0.1 to 3,600"]),
    ("KEEP_DAYS = float('inf')", ["KEEP_DAYS: found inf, allowed: a number from 1 to 36,500"]),
    (
        meter('"max_watts": float("nan")'),
        ['METERS["house"]["max_watts"]: found nan, allowed: a number from 1 to 100,000,000'],
    ),
    (
        meter(impulses="float('-inf')"),
        ['METERS["house"]["impulses_per_kwh"]: found -inf, allowed: a number from 0.001 to 1,000,000'],
    ),
    # words
    ("GPIO_LIBRARY = 'lgpio'", ['GPIO_LIBRARY: found \'lgpio\', allowed: "auto" or "gpiod" or "RPi.GPIO"']),
    ("PIN_NUMBERING = 'bcm'", ['PIN_NUMBERING: found \'bcm\', allowed: "BOARD" or "BCM"']),
    # what only gpiod can do
    (
        "GPIO_LIBRARY = 'RPi.GPIO'; " + meter('"min_flash_ms": 2'),
        [f'METERS["house"]["min_flash_ms"]: found 2, allowed: None: {NO_LENGTH}'],
    ),
    # names
    ("COMIT_INTERVAL = 5", ["COMIT_INTERVAL: unknown, did you mean COMMIT_INTERVAL?"]),
    ("commit_interval = 5", ["commit_interval: unknown, did you mean COMMIT_INTERVAL?"]),
    ("Meters = {}", ["Meters: unknown, did you mean METERS?"]),
    ("XYZ = 5", [f"XYZ: unknown, known are {KNOWN}"]),
    (meter('"imp_per_kwh": 1000'), ['METERS["house"]["imp_per_kwh"]: unknown, did you mean impulses_per_kwh?']),
    (meter('"Max_Watts": 9000'), ['METERS["house"]["Max_Watts"]: unknown, did you mean max_watts?']),
    (
        writer(f'{LIBRATO}, "PERIOD": 60, "user_name": "me"'),
        [
            'WRITERS["w"]["PERIOD"]: unknown, did you mean period?',
            'WRITERS["w"]["user_name"]: unknown, did you mean user?',
        ],
    ),
    (writer('"type": "file", 7: 8'), ['WRITERS["w"]["7"]: unknown, known are enabled, path, type']),
    # meters
    ("METERS = {}", ["METERS: found a dict of 0, allowed: at least one meter"]),
    ("METERS = None", ["METERS: found None, allowed: at least one meter"]),
    ("METERS = [18]", ["METERS: found a list of 1, allowed: a dict of names to dicts, as in settings.py.example"]),
    ("METERS = {'house': 18}", [f'METERS["house"]: found 18, allowed: {ENTRY}']),
    (
        "METERS = {'my house': {'pin': 18, 'impulses_per_kwh': 1}}",
        [f"METERS[\"my house\"]: found 'my house', allowed: {NAME}"],
    ),
    ("METERS = {'': {'pin': 18, 'impulses_per_kwh': 1}}", [f"METERS[\"\"]: found '', allowed: {NAME}"]),
    (
        "METERS = {'" + "a" * 33 + "': {'pin': 18, 'impulses_per_kwh': 1}}",
        [f"METERS[\"{'a' * 33}\"]: found '{'a' * 33}', allowed: {NAME}"],
    ),
    ("METERS = {1: {'pin': 18, 'impulses_per_kwh': 1}}", [f"METERS[1]: found 1, allowed: {NAME}"]),
    (
        "METERS = {'house': {}}",
        [
            f'METERS["house"]["pin"]: found nothing, allowed: {PIN}',
            'METERS["house"]["impulses_per_kwh"]: found nothing, allowed: a number from 0.001 to 1,000,000',
        ],
    ),
    # pins
    (meter(pin="True"), [f'METERS["house"]["pin"]: found True, allowed: {PIN}']),
    (meter(pin="41"), [f'METERS["house"]["pin"]: found 41, allowed: a GPIO by its number on the header: {HEADER}']),
    (meter(pin="1024"), [f'METERS["house"]["pin"]: found 1024, allowed: {PIN}']),
    (
        "GPIO_CHIP = '/dev/gpiochip0'; L2_PIN = 99",
        [f"L2_PIN: found 99, allowed: a GPIO by its number on the header: {HEADER}"],
    ),
    (
        "PIN_NUMBERING = 'BCM'; GPIO_CHIP = '/dev/gpiochip0'; GPIO_LIBRARY = 'RPi.GPIO'; L2_PIN = 28",
        ["L2_PIN: found 28, allowed: a GPIO by its BCM number: 0 to 27, others only with GPIO_CHIP"],
    ),
    (meter(pin="9"), [f'METERS["house"]["pin"]: found 9, allowed: a GPIO by its number on the header: {HEADER}']),
    ("L1_PIN = 27", [f"L1_PIN: found 27, allowed: a GPIO by its number on the header: {HEADER}"]),
    (
        "PIN_NUMBERING = 'BCM'; L2_PIN = 28",
        ["L2_PIN: found 28, allowed: a GPIO by its BCM number: 0 to 27, others only with GPIO_CHIP"],
    ),
    ("L1_PIN = 16", ["L2_PIN: found 16, allowed: a pin of its own, L1_PIN has this one"]),
    ("L2_PIN = 18", ['L2_PIN: found 18, allowed: a pin of its own, METERS["house"]["pin"] has this one']),
    (
        "METERS = {n: {'pin': 18, 'impulses_per_kwh': 1000} for n in ('a', 'b')}",
        ['METERS["b"]["pin"]: found 18, allowed: a pin of its own, METERS["a"]["pin"] has this one'],
    ),
    # writers
    ("WRITERS = 'file'", ["WRITERS: found 'file', allowed: a dict of names to dicts, as in settings.py.example"]),
    ("WRITERS = {'w': None}", [f'WRITERS["w"]: found None, allowed: {ENTRY}']),
    ("WRITERS = {'a b': {'type': 'file'}}", [f"WRITERS[\"a b\"]: found 'a b', allowed: {NAME}"]),
    (writer('"path": "a.csv"'), ['WRITERS["w"]["type"]: found nothing, allowed: "file" or "librato" or "influxdb"']),
    (
        writer('"type": "mqtt"'),
        ['WRITERS["w"]["type"]: found \'mqtt\', allowed: "file" or "librato" or "influxdb"'],
    ),
    (
        writer('"type": ["file"]'),
        ['WRITERS["w"]["type"]: found a list of 1, allowed: "file" or "librato" or "influxdb"'],
    ),
    (writer('"type": "file", "enabled": "no"'), ['WRITERS["w"]["enabled"]: found \'no\', allowed: True or False']),
    (writer('"type": "file", "path": ""'), ['WRITERS["w"]["path"]: found \'\', allowed: the path of a file']),
    (writer('"type": "file", "path": "logs/"'), ['WRITERS["w"]["path"]: found \'logs/\', allowed: the path of a file']),
    (writer('"type": "file", "path": None'), ['WRITERS["w"]["path"]: found None, allowed: the path of a file']),
    (
        "DATA_DIR = '/srv'; WRITERS = {'a': {'type': 'file'}, 'b': {'type': 'file', 'path': 'x/../power.csv'}}",
        ['WRITERS["b"]["path"]: found \'/srv/power.csv\', allowed: a file of its own, WRITERS["a"] has this one'],
    ),
    (
        writer('"type": "librato"'),
        [
            'WRITERS["w"]["user"]: found nothing, allowed: text of visible ASCII characters, not empty',
            'WRITERS["w"]["token"]: found nothing, allowed: text of visible ASCII characters, not empty',
        ],
    ),
    (
        writer('"type": "librato", "user": "", "token": ""'),
        [
            'WRITERS["w"]["user"]: found \'\', allowed: text of visible ASCII characters, not empty',
            'WRITERS["w"]["token"]: found a str of 0, allowed: text of visible ASCII characters, not empty',
        ],
    ),
    (
        writer(f'{LIBRATO}, "metric": "my power"'),
        [f'WRITERS["w"]["metric"]: found \'my power\', allowed: {LIBRATO_NAME}'],
    ),
    (writer(f'{LIBRATO}, "period": 0'), ['WRITERS["w"]["period"]: found 0, allowed: a whole number from 1 to 86,400']),
    (
        writer(f'{LIBRATO}, "period": 60.0'),
        ['WRITERS["w"]["period"]: found 60.0, allowed: a whole number from 1 to 86,400'],
    ),
    (writer(f'{LIBRATO}, "protocol": "ftp"'), ['WRITERS["w"]["protocol"]: found \'ftp\', allowed: "https" or "http"']),
    (
        writer(f'{LIBRATO}, "base_path": "v1"'),
        ['WRITERS["w"]["base_path"]: found \'v1\', allowed: a path that begins and ends with /, such as "/v1/"'],
    ),
    (
        writer(f'{LIBRATO}, "tags": {{"meter": "x"}}'),
        [f'WRITERS["w"]["tags"]: found a dict of 1, allowed: a dict of 0 to 49 names to texts, {TAGS} {OWN}, or None'],
    ),
    (
        writer('"type": "influxdb", "host": "http://localhost:8086"'),
        [f'WRITERS["w"]["host"]: found \'http://localhost:8086\', allowed: {HOST}'],
    ),
    (
        writer('"type": "influxdb", "port": "8086"'),
        ['WRITERS["w"]["port"]: found \'8086\', allowed: a whole number from 1 to 65,535'],
    ),
    (writer('"type": "influxdb", "ssl": 1'), ['WRITERS["w"]["ssl"]: found 1, allowed: True or False']),
    (
        writer('"type": "influxdb", "verify_ssl": "/etc/passwd"'),
        [f'WRITERS["w"]["verify_ssl"]: found \'/etc/passwd\', allowed: {CA_FILE}'],
    ),
    (
        writer('"type": "influxdb", "verify_ssl": None'),
        [f'WRITERS["w"]["verify_ssl"]: found None, allowed: {CA_FILE}'],
    ),
    (
        writer('"type": "influxdb", "tags": {"room": 1}'),
        [f'WRITERS["w"]["tags"]: found a dict of 1, allowed: a dict of 0 to 49 names to texts without \\, {TAGS}'],
    ),
    (
        writer('"type": "influxdb", "timeout": None'),
        ['WRITERS["w"]["timeout"]: found None, allowed: a number from 0.1 to 600'],
    ),
    (
        writer('"type": "influxdb", "batch_size": 0'),
        ['WRITERS["w"]["batch_size"]: found 0, allowed: a whole number from 1 to 50,000'],
    ),
    (
        writer('"type": "influxdb", "username": "me", "token": "t", "password": "p"'),
        ['WRITERS["w"]["token"]: found a token beside a username or password, allowed: one of the two'],
    ),
    (
        writer('"type": "influxdb", "password": "p"'),
        ['WRITERS["w"]["username"]: found None, allowed: text, as there is a password'],
    ),
    # all at once, each named
    (
        f"""
L1_PIN = 199
KEEP_DAY = 3
METERS = {{"a": {{"pin": 18, "impulses_per_kwh": 0}}, "b": {{"pin": 18}}}}
WRITERS = {{"x": {{"type": "files"}}, "y": {{{INFLUXDB}, "port": 0, "ssl": "yes", "hots": "h"}}}}
""",
        [
            "KEEP_DAY: unknown, did you mean KEEP_DAYS?",
            f"L1_PIN: found 199, allowed: a GPIO by its number on the header: {HEADER}",
            'METERS["a"]["impulses_per_kwh"]: found 0, allowed: a number from 0.001 to 1,000,000',
            'METERS["b"]["impulses_per_kwh"]: found nothing, allowed: a number from 0.001 to 1,000,000',
            'WRITERS["x"]["type"]: found \'files\', allowed: "file" or "librato" or "influxdb"',
            'WRITERS["y"]["hots"]: unknown, did you mean host?',
            'WRITERS["y"]["port"]: found 0, allowed: a whole number from 1 to 65,535',
            'WRITERS["y"]["ssl"]: found \'yes\', allowed: True or False',
            'METERS["b"]["pin"]: found 18, allowed: a pin of its own, METERS["a"]["pin"] has this one',
        ],
    ),
    (
        writer('"type": "influxdb", "enabled": "yes", "port": 0'),
        [
            'WRITERS["w"]["enabled"]: found \'yes\', allowed: True or False',
            'WRITERS["w"]["port"]: found 0, allowed: a whole number from 1 to 65,535',
        ],
    ),
    # what Python itself does not take, or what goes wrong in it
    ("KEEP_DAYS = 400 days", ["line 1: not Python: invalid syntax"]),
    ("L1_PIN = 12\n  L2_PIN = 16", ["line 2: not Python: unexpected indent"]),
    ("METERS = {", ["line 1: not Python: '{' was never closed"]),
    ("\n\nGPIO_LIBRARY = auto", [f"line 3: NameError while it was read {UNQUOTED}"]),
    (writer('"type": "file", "enabled": true'), [f"line 1: NameError while it was read {UNQUOTED}"]),
    ("import no_such_module", ["line 1: ModuleNotFoundError while it was read"]),
    ("KEEP_DAYS = 1 / 0", ["line 1: ZeroDivisionError while it was read"]),
    ("def days():\n    raise RuntimeError\n\nKEEP_DAYS = days()", ["line 2: RuntimeError while it was read"]),
    ("import sys\nsys.exit(0)", ["line 2: SystemExit while it was read"]),
    ("raise BaseException", ["line 1: BaseException while it was read"]),
]


@pytest.mark.parametrize(("text", "mistakes"), WRONG, ids=[text.strip()[:50] for text, _ in WRONG])
def test_a_mistake_is_named_with_what_is_allowed(read, text, mistakes):
    """Each mistake has one line: its key, what was found and what is allowed; there are no other complaints."""
    assert sorted(mistakes_in(read, text)) == sorted(mistakes)


@pytest.mark.parametrize("text", ["KEEP_DAYS = 400\n\0\0\0", "\0" * 4096])
def test_null_bytes(read, text):
    """A file with null bytes, as a power cut may leave it, is refused with what to do; there is no line to name."""
    assert mistakes_in(read, text) == ["contains bytes that are not text: copy the example again"]


def test_a_file_that_is_not_text(tmp_path):
    """A binary file is reported as one that is not text."""
    path = tmp_path / "settings.py"
    path.write_bytes(b"\xff\xfe\xfa KEEP_DAYS")
    with pytest.raises(SettingsError, match="not Python"):
        reading.read(str(path))


def test_a_long_value_is_cut(read):
    """A mistake stays a readable line, however long the value is."""
    (mistake,) = mistakes_in(read, f"DATA_DIR = {'x' * 5000!r}")
    assert len(mistake) < 200
    assert "\n" not in mistake


def test_a_value_with_a_newline_stays_on_its_line(read):
    """A value or key with a newline in it does not break the message into lines."""
    assert all("\n" not in mistake for mistake in mistakes_in(read, "GPIO_LIBRARY = 'a\\nb'"))
    assert all("\n" not in mistake for mistake in mistakes_in(read, writer('"type": "file", "a\\nb": 1')))


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "can't be read: No such file or directory"),
        ("directory", "can't be read: Is a directory"),
        ("link to itself", "can't be read: Too many levels of symbolic links"),
        ("below a file", "can't be read: Not a directory"),
        ("forbidden", "can't be read: Permission denied"),
    ],
)
def test_a_file_that_cant_be_read(tmp_path, kind, reason):
    """If there is no file to read, the mistake has the path and the system's reason."""
    path = tmp_path / "settings.py"
    if kind == "directory":
        path.mkdir()
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "below a file":
        path.touch()
        path = path / "settings.py"
    elif kind == "forbidden":
        path.touch(mode=0)
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(65534 if kind == "forbidden" else 0)  # root may read everything
    try:
        with pytest.raises(SettingsError) as error:
            reading.read(str(path))
    finally:
        if as_root:
            os.seteuid(0)
    assert str(error.value) == f"{path}: {reason}"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("FIFO", "can't be read: is not a file"),
        ("link to a device", "is larger than 1,000,000 bytes"),
        ("too large", "is larger than 1,000,000 bytes"),
    ],
)
def test_a_file_that_would_be_waited_for_or_has_no_end(tmp_path, kind, reason):
    """Anything that is not a file, or far too large for settings, is refused in one line, without waiting for it."""
    path = tmp_path / "settings.py"
    if kind == "FIFO":
        os.mkfifo(path, 0o600)
    elif kind == "too large":
        path.write_text("#" * 1_000_001)
        path.chmod(0o600)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(SettingsError) as error:
        reading._executed(str(path))
    assert error.value.mistakes == [reason]


def test_certificates_are_not_waited_for(read, tmp_path):
    """A FIFO is not a file of certificates: the program does not wait for what may come from it."""
    os.mkfifo(tmp_path / "ca.pem")
    text = writer(f'"type": "influxdb", "verify_ssl": "{tmp_path}/ca.pem"')
    (mistake,) = mistakes_in(read, text)
    assert mistake.endswith(f", allowed: {CA_FILE}")


def test_certificates_that_others_may_write(read, tmp_path):
    """Whoever may write the file of certificates decides who gets the password: it is refused, as code would be."""
    path = tmp_path / "ca.pem"
    shutil.copy(certifi.where(), path)
    path.chmod(0o666)
    (mistake,) = mistakes_in(read, writer(f'"type": "influxdb", "verify_ssl": "{path}"'))
    assert mistake.endswith(
        f", allowed: {CA_FILE} that nobody else may write: {path}: everyone may write it: chmod o-w {path}"
    )


LONG = "A" * 57 + "..."


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("A" * 100_000 + " = 1", f"{LONG}: unknown, known are {KNOWN}"),
        (
            writer(f'"type": "file", "{"A" * 100_000}": 1'),
            f'WRITERS["w"]["{LONG}"]: unknown, known are enabled, path, type',
        ),
        ("globals()['KEEP_DAYS\\n\\x1b[2J'] = 5", "'KEEP_DAYS\\n\\x1b[2J': unknown, did you mean KEEP_DAYS?"),
        ("raise type('E\\n\\x1b[2J', (Exception,), {})", "line 1: 'E\\n\\x1b[2J' while it was read"),
        (
            "METERS = {'house': {'pin': 18, 'impulses_per_kwh': 1000, 10**5000: 1}}",
            (
                'METERS["house"]["a very large number"]: unknown, '
                "known are direction, impulses_per_kwh, label, lit, max_watts, min_flash_ms, pin, pull, sensor, "
                "silence_minutes"
            ),
        ),
    ],
    ids=["long name", "long key", "control characters", "control characters in an error", "number of 5,000 digits"],
)
def test_a_mistake_is_a_plain_short_line(read, text, mistake):
    """Whatever the file contains, a mistake is a line of limited length that can't control a terminal."""
    assert mistakes_in(read, text) == [mistake]


def test_names_that_are_no_text(read):
    """A global whose name is not text is not a setting."""
    assert read("globals()[3] = globals()[None] = 4; KEEP_DAYS = 5").keep_days == 5


@pytest.mark.parametrize(
    "text",
    [
        "LOG_FILE = '\\ud800'",
        "DATA_DIR = '/\\ud800'",
        "DATA_DIR = '/a\\nb'",
        f"DATA_DIR = '{'/a' * 5000}'",
        file_at("\ud800"),
        file_at("a\nb"),
        writer('"type": "influxdb", "database": "\\ud800"'),
        writer('"type": "influxdb", "tags": {"home": "\\ud800"}'),
        writer(f'"type": "influxdb", "host": "{"a" * 300}"'),
    ],
)
def test_text_that_would_fail_later(read, text):
    """Half a character, a path of two lines or longer than Linux accepts, and an impossible host are mistakes."""
    assert len(mistakes_in(read, text)) == 1


def test_a_class_of_the_file_s_own(read):
    """If a value's own class raises an error, that is a mistake in the file, with its line; our errors stay bugs."""
    text = f"""class Odd(int):
    def __le__(self, other):
        raise RuntimeError("{SECRET}")
KEEP_DAYS = Odd(5)
"""
    assert mistakes_in(read, text) == ["line 3: RuntimeError while its values were checked"]
    with pytest.raises(RuntimeError, match="ours"), reading._blamed("settings.py"):
        raise RuntimeError("ours")


def test_a_settings_error_is_what_a_caller_would_expect(read):
    """A SettingsError is a PowerError and a ValueError, with one line per mistake that begins with the path."""
    with pytest.raises(ValueError, match="KEEP_DAYS") as error:
        read("KEEP_DAYS = 0; CLOCK_WAIT = 'x'")
    assert isinstance(error.value, PowerError)
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert all("settings.py: " in line for line in lines)


def test_a_disabled_writer_may_be_unfinished(read):
    """The values of a disabled writer's keys are not checked, but their names are."""
    assert read(writer('"type": "librato", "enabled": False, "user": 3, "period": -1')).writers == ()
    assert mistakes_in(read, writer('"type": "librato", "enabled": False, "usr": 3')) == [
        'WRITERS["w"]["usr"]: unknown, did you mean user?'
    ]


# --- Secrets

#: Files with a password or token in all sorts of places, right and wrong ones.
SECRETS = {
    "good": writer(f'{INFLUXDB}, "host": "127.0.0.1", "port": 1'),
    "good token": writer(f'"type": "influxdb", "token": "{SECRET}", "host": "127.0.0.1", "port": 1'),
    "good librato": writer(LIBRATO.replace("10.0.0.5:8080", "127.0.0.1:1")),
    "librato that ended": writer(LIBRATO.replace("10.0.0.5:8080", "metrics-api.librato.com") + ', "protocol": "htp"'),
    "beside a mistake": writer(f'{INFLUXDB}, "port": 0'),
    "token beside password": writer(f'{INFLUXDB}, "token": "{SECRET}"'),
    "misspelled key": writer(f'"type": "influxdb", "pasword": "{SECRET}"'),
    "wrong case": writer(f'"type": "influxdb", "PASSWORD": "{SECRET}"'),
    "other type's key": writer(f'"type": "file", "password": "{SECRET}"'),
    "top level": f'PASSWORD = "{SECRET}"\nINFLUXDB_TOKEN = "{SECRET}"\nWRITER = {{"password": "{SECRET}"}}',
    "unquoted": writer(f'"type": "influxdb", "username": "me", "password": {SECRET}'),
    "half quoted": writer(f'"type": "influxdb", "username": "me", "password": "{SECRET}'),
    "not quoted, not a name": writer(f'"type": "influxdb", "username": "me", "password": 1{SECRET}!?'),
    "typographic quotes": writer(f'"type": "influxdb", "password": “{SECRET}”'),
    "comma forgotten": writer(f'"type": "influxdb", "password": "{SECRET}" ("x")'),
    "in a list": writer(f'"type": "influxdb", "password": ["{SECRET}"]'),
    "in a tuple": writer(f'"type": "influxdb", "username": "me", "password": ("{SECRET}",)'),
    "bytes": writer(f'"type": "influxdb", "password": b"{SECRET}"'),
    "with a newline": writer(f'"type": "influxdb", "password": "{SECRET}\\n"'),
    "token with a space": writer(f'"type": "influxdb", "token": "Token {SECRET}"'),
    "token not ASCII": writer(f'"type": "librato", "user": "me", "token": "{SECRET}é"'),
    "list for a dict": f'WRITERS = {{"w": ["influxdb", "{SECRET}"]}}',
    "set for a dict": f'WRITERS = {{"w": {{"{SECRET}"}}}}',
    "list of writers": f'WRITERS = [{{"type": "influxdb", "password": "{SECRET}"}}]',
    "a writer without a name": f'WRITERS = {{"type": "influxdb", "username": "me", "password": "{SECRET}"}}',
    "no type": writer(f'"password": "{SECRET}"'),
    "unknown type": writer(f'"type": "influx", "password": "{SECRET}"'),
    "in the host's URL": writer(f'"type": "influxdb", "host": "http://me:{SECRET}@localhost"'),
    "in the host's query": writer(f'"type": "influxdb", "host": "http://localhost/?u=me&p={SECRET}"'),
    "in Librato's hostname": writer(f'"type": "librato", "user": "me", "token": "t", "hostname": "me:{SECRET}@h"'),
    "in the type": writer(f'"type": "influxdb://me:{SECRET}@localhost"'),
    "in the database": writer(f'"type": "influxdb", "database": {{"password": "{SECRET}"}}'),
    "in tags": writer(f'"type": "influxdb", "tags": {{"password": "{SECRET}", "meter": "x"}}'),
    "in an error of its own": f'raise ValueError("{SECRET}")',
    "in an assertion": f'password = "{SECRET}"\nassert password == "", password',
    "in a key that is missing": f'{{}}["{SECRET}"]',
    "in sys.exit": f'import sys; sys.exit("{SECRET}")',
    "with a backslash": writer(f'"type": "influxdb", "port": 0, "password": "{SECRET}\\w"'),
    "not enabled": writer(f'"type": "influxdb", "enabled": False, "password": ["{SECRET}"], "port": "{SECRET}"'),
}


@pytest.mark.parametrize("place", SECRETS)
@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_no_secret_in_a_mistake_or_a_warning(read, place):
    """Wherever a password was written, in its place or not, no mistake and no warning shows it."""
    assert SECRET in SECRETS[place]
    try:
        said = "\n".join(read(SECRETS[place], mode=0o644).warnings)
        assert "others may read it" in said
    except SettingsError as error:
        said = f"{error} {error!r} {error.mistakes}"
    assert said
    assert SECRET not in said


@pytest.mark.parametrize("place", SECRETS)
def test_no_secret_on_the_terminal(tmp_path, place):
    """Nor does the program show it, whatever Python itself has to say about the file."""
    program = Program(tmp_path, SECRETS[place])
    done = program.run("--check")
    assert SECRET not in done.stdout + done.stderr
    assert done.stdout + done.stderr


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        lambda found: f"{found} {found!r}",
        lambda found: f"{found.writers[0].options['password']:>20}",
        lambda found: json.dumps(dataclasses.asdict(found), default=str),
        lambda found: pickle.dumps(found, 0).decode(),
        lambda found: repr(pickle.loads(pickle.dumps(found))),
        lambda found: "".join(map(str, dataclasses.astuple(found))),
        lambda found: "%s %r" % (found.writers[0].options["password"], vars),  # noqa: UP031
        pprint.pformat,
    ],
)
def test_a_secret_that_was_read_is_shown_as_stars(read, show):
    """However settings are printed, the password is not shown; its text is available only on request."""
    found = read(writer(INFLUXDB))
    assert "***" in show(found)
    assert SECRET not in show(found)
    assert found.writers[0].options["password"].reveal() == SECRET


def test_secrets_are_compared(read):
    """Settings with a different password differ, those with an equal one do not; a copy is the same."""
    one, same, other = (read(writer(INFLUXDB.replace(SECRET, text))) for text in ("a", "a", "b"))
    assert one == same != other
    assert copy.deepcopy(one) == copy.copy(one) == one
    assert len({values.Secret("a"), values.Secret("a"), values.Secret("b")}) == 2
    assert values.Secret("a") != "a"
    assert not isinstance(values.Secret("a"), str)
    assert [bool(values.Secret(text)) for text in ("a", "")] == [True, False]


# --- Who may read and write the file


@pytest.mark.parametrize(
    ("text", "mode", "warned"),
    [
        (writer(INFLUXDB), 0o644, True),
        (writer(INFLUXDB), 0o600, False),
        (writer(INFLUXDB), 0o640, False),
        (writer(LIBRATO), 0o604, True),
        (writer('"type": "influxdb", "enabled": False, "token": "t"'), 0o644, True),
        (writer('"type": "influxdb"'), 0o644, False),
        ("", 0o644, False),
    ],
)
def test_a_password_that_others_may_read_is_warned_of(read, tmp_path, text, mode, warned):
    """A file that others may read is warned about while it contains a password or token, and only then."""
    path = tmp_path / "settings.py"
    line = f"{path}: others may read it, and it contains a password or token: chmod o-r {path}"
    assert read(text, mode=mode).warnings == ((line,) if warned else ())


UNENCRYPTED = "unencrypted, so anyone on the network can read it: set "
UNVERIFIED = 'because its certificate is not checked: set "verify_ssl" to True or to the file of its CA'
LOGIN = '"type": "influxdb", "username": "me", "password": "p"'


@pytest.mark.parametrize(
    ("entry", "warned"),
    [
        (f'{LOGIN}, "host": "nas.home"', f'the password is sent to nas.home {UNENCRYPTED}"ssl": True'),
        (
            f'{LOGIN}, "host": "nas.home", "verify_ssl": False',
            f'the password is sent to nas.home {UNENCRYPTED}"ssl": True',
        ),
        (f'{LOGIN}, "host": "192.168.1.5"', f'the password is sent to 192.168.1.5 {UNENCRYPTED}"ssl": True'),
        (f'{LOGIN}, "host": "[fe80::1%eth0]"', f'the password is sent to fe80::1%eth0 {UNENCRYPTED}"ssl": True'),
        (f'{LOGIN}, "host": "localhost.example.org"', f'localhost.example.org {UNENCRYPTED}"ssl": True'),
        (f'{LOGIN}, "host": "127.0.0.1.example.org"', f'127.0.0.1.example.org {UNENCRYPTED}"ssl": True'),
        ('"type": "influxdb", "host": "h", "token": "t"', f'the token is sent to h {UNENCRYPTED}"ssl": True'),
        (f'{LOGIN}, "host": "h", "ssl": True, "verify_ssl": False', f"is sent to whoever answers as h, {UNVERIFIED}"),
        (f'{LOGIN}, "host": "h", "ssl": True', None),
        (f'{LOGIN}, "host": "localhost"', None),
        (f'{LOGIN}, "host": "LocalHost."', None),
        (f'{LOGIN}, "host": "influx.localhost"', None),
        (f'{LOGIN}, "host": "127.1.2.3", "ssl": True, "verify_ssl": False', None),
        (f'{LOGIN}, "host": "[::1]"', None),
        (f'{LOGIN}, "host": "h", "enabled": False', None),
        ('"type": "influxdb", "host": "h", "username": "me"', None),
        ('"type": "influxdb", "host": "h", "ssl": True, "verify_ssl": False', None),
        (f'{LIBRATO}, "protocol": "http"', f'the token is sent to 10.0.0.5 {UNENCRYPTED}"protocol": "https"'),
        (LIBRATO, None),
        (f'{LIBRATO.replace("10.0.0.5", "127.0.0.1")}, "protocol": "http"', None),
        ('"type": "file"', None),
    ],
)
def test_a_secret_that_others_can_get_at_is_warned_of(read, tmp_path, entry, warned):
    """There is a warning about a password or token that others can read, or that is sent to whoever answers."""
    found = read(writer(entry)).warnings
    assert len(found) == (warned is not None), found
    if warned:
        assert found[0].startswith(f'{tmp_path}/settings.py: WRITERS["w"]: the ')
        assert found[0].endswith(warned)


def test_a_secret_of_a_type_of_one_s_own(read, monkeypatch):
    """How another type of writer sends its secret is not known, but it is a secret all the same."""
    key = schema.Key(None, schema.optional(schema.absolute_path), secret=True)
    monkeypatch.setitem(writer_type("file").keys, "token", key)
    found = read(writer(f'"type": "file", "token": "/{SECRET}"'))
    assert found.warnings == ()
    assert found.writers[0].options["token"] == values.Secret(f"/{SECRET}")


def test_a_check_warns_of_a_secret_that_others_can_get_at(tmp_path):
    """--check says it on stderr, and so does a start; both go on."""
    program = Program(tmp_path, writer(f'{LOGIN}, "host": "192.0.2.1", "timeout": 0.1'))
    program.settings.chmod(0o600)
    for options in (["--check"], ["--simulate", "1000"]):
        with program:
            done = program.run(*options)
            assert f'WRITERS["w"]: the password is sent to 192.0.2.1 {UNENCRYPTED}"ssl": True\n' in done.stderr
    assert done.returncode == 0


def test_the_host_that_librato_left_is_warned_of(read):
    """Librato's own host no longer answers: there is a warning, with its name, about an enabled writer to it."""
    (warning,) = read(writer('"type": "librato", "user": "me", "token": "t"')).warnings
    for words in ('WRITERS["w"]', "metrics-api.librato.com", "2026-01-31"):
        assert words in warning


@pytest.mark.parametrize("mode", [0o606, 0o666, 0o602])
def test_what_others_may_write_is_not_run(read, tmp_path, mode):
    """No part of a file that others may write is run, whoever asks; the line says which command to type."""
    ran, path = tmp_path / "ran", tmp_path / "settings.py"
    text = f"open({str(ran)!r}, 'w').close()"
    for ask in (lambda: read(text, mode=mode), lambda: reading.data_dir_of(str(path))):
        with pytest.raises(SettingsError, match=f"{path}: is not run: {path}: everyone may write it: chmod o-w {path}"):
            ask()
    assert not ran.exists()


# --- Paths


@pytest.mark.parametrize(
    ("path", "placed"),
    [
        ("power.csv", "/srv/power/power.csv"),
        ("out/a.csv", "/srv/power/out/a.csv"),
        ("./a.csv", "/srv/power/a.csv"),
        ("../a.csv", "/srv/a.csv"),
        ("/mnt/a.csv", "/mnt/a.csv"),
        ("~/a.csv", "/home/me/a.csv"),
    ],
)
def test_where_a_file_is(read, monkeypatch, path, placed):
    """A relative path starts at DATA_DIR, and ~ is the user's home; the same is true of the log file."""
    monkeypatch.setenv("HOME", "/home/me")
    log_file = path + ".log"
    found = read(f"DATA_DIR, LOG_FILE = '/srv/power', {log_file!r}; {file_at(path)}")
    assert found.writers[0].options["path"] == placed
    assert found.log_file == placed + ".log"


def test_where_the_data_are(read, monkeypatch):
    """DATA_DIR may begin with ~; left out it is /var/lib/power for root, else in the user's home."""
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    assert read("DATA_DIR = '~/power/'").data_dir == "/home/me/power"
    assert reading.default_data_dir(as_root=True) == "/var/lib/power"
    assert reading.default_data_dir(as_root=False) == "/home/me/.local/state/power"
    assert read("").data_dir == reading.default_data_dir(as_root=AS_ROOT)


def test_a_home_that_is_not_there(read, monkeypatch):
    """If the user has no home, paths in it are refused: nothing gets the name ~."""

    def unknown(_uid):
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    if AS_ROOT:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    no_home = (
        "DATA_DIR: None means a directory in the user's home, which is unknown: set HOME, or a path that begins with /"
    )
    with pytest.raises(SettingsError) as error:
        read("")
    assert str(error.value) == no_home
    with pytest.raises(SettingsError, match="which is unknown"):
        reading.data_dir_of("/dev/null")
    text = f"DATA_DIR, LOG_FILE = '~/data', '~/power.log'; {file_at('~nobody-of-this-name/a.csv')}"
    allowed = "allowed: a path without ~, as no such home is known"
    assert mistakes_in(read, text) == [
        f"DATA_DIR: found '~/data', {allowed}, or None",
        f"LOG_FILE: found '~/power.log', {allowed}, or None",
        f"""WRITERS["f"]["path"]: found '~nobody-of-this-name/a.csv', {allowed}""",
    ]


def test_the_data_dir_of_a_file_with_other_mistakes(read, tmp_path):
    """DATA_DIR can be read on its own, even if there are mistakes elsewhere; a mistake in it is named."""
    path = tmp_path / "settings.py"
    path.write_text("DATA_DIR = '/srv/power'; KEEP_DAYS = 0")
    path.chmod(0o600)
    assert reading.data_dir_of(str(path)) == "/srv/power"
    path.write_text("DATA_DIR = 'power'")
    with pytest.raises(SettingsError, match="DATA_DIR: found 'power'"):
        reading.data_dir_of(str(path))


def test_which_file_is_found(tmp_path, monkeypatch):
    """$POWER_SETTINGS comes first, then the directories in their order; None if no file exists."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.delenv("POWER_SETTINGS", raising=False)
    assert reading.find(str(first), str(second)) is None
    (second / "settings.py").touch()
    assert reading.find(str(first), str(second)) == str(second / "settings.py")
    (first / "settings.py").touch()
    assert reading.find(str(first), str(second)) == str(first / "settings.py")
    monkeypatch.setenv("POWER_SETTINGS", "mine.py")
    monkeypatch.chdir(tmp_path)
    assert reading.find(str(first), str(second)) == str(tmp_path / "mine.py")


# --- Invented watts

TWO = f"""
DATA_DIR, LOG_FILE = "/srv/power", "/var/log/power.log"
WRITERS = {{
    "file": {{"type": "file"}},
    "far": {{"type": "file", "path": "/mnt/far.csv"}},
    "db": {{{INFLUXDB}}},
}}
"""


def test_invented_watts_for_the_file_alone(read):
    """Invented watts go only to writers of files, and every file is inside DATA_DIR/simulated."""
    found = read(TWO, simulated="file")
    assert found.data_dir == "/srv/power/simulated"
    assert {w.name: w.options["path"] for w in found.writers} == {
        "file": "/srv/power/simulated/power.csv",
        "far": "/srv/power/simulated/mnt/far.csv",
    }
    assert found.log_file == "/srv/power/simulated/var/log/power.log"


@pytest.mark.parametrize("path", ["../power.csv", "../../a.csv", "x/../../power.csv", "~/../../a.csv"])
def test_invented_watts_never_reach_a_real_file(read, path):
    """No path leads invented watts out of DATA_DIR/simulated, to where the real ones are."""
    text = f"DATA_DIR, LOG_FILE = '/srv/power', {path!r}; {file_at(path + 'x')}"
    found = read(text, simulated="file")
    assert found.writers[0].options["path"].startswith("/srv/power/simulated/")
    assert found.log_file.startswith("/srv/power/simulated/")


def test_invented_watts_for_all(read):
    """If the user names settings, invented watts go to all writers, but their data is still kept apart."""
    found = read(TWO, simulated="all")
    assert found.data_dir == "/srv/power/simulated"
    assert [w.name for w in found.writers] == ["file", "far", "db"]
    assert found.writers[0].options["path"] == "/srv/power/simulated/power.csv"


def test_mistakes_of_a_writer_that_is_left_out_are_named(read):
    """Mistakes in other writers are reported even if only the file is written."""
    with pytest.raises(SettingsError, match="port"):
        read(writer(f'{INFLUXDB}, "port": 0'), simulated="file")


# --- By the command line


@pytest.mark.parametrize("args", [["--check"], ["--nodaemon"], ["--nodaemon", "--simulate"], [], ["--restart"]])
def test_every_mistake_has_its_line_on_the_terminal(tmp_path, args):
    """With wrong settings nothing starts: exit status 1, and one line on stderr per mistake, for every command."""
    program = Program(tmp_path, f"KEEP_DAYS = 0\nKEEP_DAY = 1\nL1_PIN = True\n{PORT_0}")
    done = program.run(*args)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"power: {program.settings}: {mistake}"
        for mistake in (
            "KEEP_DAY: unknown, did you mean KEEP_DAYS?",
            "L1_PIN: found True, allowed: a whole number from 0 to 40, or None",
            "KEEP_DAYS: found 0, allowed: a number from 1 to 36,500",
            'WRITERS["w"]["port"]: found 0, allowed: a whole number from 1 to 65,535',
        )
    ]
    assert done.stdout == ""
    assert not program.data_dir.exists()
    assert program.pid is None


def test_no_settings_at_the_path_that_was_named(tmp_path):
    """--settings with the path of a missing file: exit status 1, one line."""
    done = Program(tmp_path).run("--check", "--settings", str(tmp_path / "none.py"))
    assert done.returncode == 1
    assert done.stderr == f"power: {tmp_path}/none.py: can't be read: No such file or directory\n"


def test_a_relative_path_is_taken_from_the_caller_s_directory(tmp_path):
    """A relative path after --settings starts at the caller's directory, and mistakes show the full path."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.py").write_text("KEEP_DAYS = 0")
    (tmp_path / "here" / "mine.py").chmod(0o600)
    done = Program(tmp_path).run("--check", "--settings", "mine.py", cwd=tmp_path / "here")
    assert done.stderr.startswith(f"power: {tmp_path}/here/mine.py: KEEP_DAYS: ")


def test_warnings_are_said_on_the_terminal(tmp_path):
    """A warning is printed on stderr, prefixed like a mistake, and prevents nothing."""
    program = Program(tmp_path, writer(f'{INFLUXDB}, "host": "127.0.0.1", "port": 1'))
    program.settings.chmod(0o644)
    done = program.run("--check")
    assert done.stderr.startswith(f"power: {program.settings}: others may read it")
    assert done.stdout.startswith(f"settings: ok, {program.settings}\n")


@pytest.mark.parametrize("name", ["journal.db", "journal.db-wal", "lock", "power.pid", "power.log"])
def test_no_writer_has_a_file_of_the_program(tmp_path, name):
    """A writer's file never has the name of one of the program's own: lines in the journal would destroy it."""
    path = tmp_path / "settings.py"
    path.write_text(f'DATA_DIR = "{tmp_path}"\nWRITERS = {{"file": {{"type": "file", "path": "{name}"}}}}\n')
    with pytest.raises(SettingsError, match="another name, the program uses this one itself"):
        reading.read(str(path))


@pytest.mark.parametrize(
    ("name", "simulated"),
    [
        ("journal.db.new", None),
        ("/srv/power/journal.db.making", None),
        ("x/../journal.db.copy-wal", None),
        ("journal.db.damaged-2026-11-23T07-13-05", "file"),
        ("journal.db.new", "all"),
        ("../journal.db.new", "all"),
    ],
)
def test_no_file_begins_like_the_journal(read, name, simulated):
    """Names beside the journal that begin like it are reserved for it: neither a file nor the log may have one."""
    found = mistakes_in(read, f"DATA_DIR, LOG_FILE = '/srv/power', {name!r}; {file_at(name)}", simulated=simulated)
    assert len([line for line in found if "another name, the program uses this one itself" in line]) == 2


def test_a_file_that_begins_like_the_journal_elsewhere(read):
    """Where there is no journal, the user may choose such a name."""
    (writer,) = read(f"DATA_DIR = '/srv/power'; {file_at('/mnt/journal.db.csv')}").writers
    assert writer.options["path"] == "/mnt/journal.db.csv"


def test_certificates_that_are_not_there(read):
    """A file of certificates may be on a disk that is not mounted yet: the writer waits for it, as a warning says."""
    found = read(writer('"type": "influxdb", "ssl": True, "verify_ssl": "/nowhere/ca.pem"'))
    assert found.writers[0].options["verify_ssl"] == "/nowhere/ca.pem"
    (warning,) = found.warnings
    assert warning.endswith('WRITERS["w"]["verify_ssl"]: /nowhere/ca.pem is not there: the writer waits for it')


def test_certificates_by_a_relative_path(read, tmp_path, monkeypatch):
    """It would start at a different directory once the program is a daemon."""
    shutil.copy(certifi.where(), tmp_path / "ca.pem")
    monkeypatch.chdir(tmp_path)
    (mistake,) = mistakes_in(read, writer('"type": "influxdb", "verify_ssl": "ca.pem"'))
    assert mistake == f'WRITERS["w"]["verify_ssl"]: found \'ca.pem\', allowed: {CA_FILE}'


@pytest.mark.parametrize(
    ("found", "taken"),
    [
        ("[::1]", "::1"),
        ("fe80::1", "fe80::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("192.168.1.5", "192.168.1.5"),
        ("a-pi.lan.", "a-pi.lan."),
    ],
)
def test_hosts(read, found, taken):
    """A name or an address; with brackets, as in a URL, it is the address in them."""
    (only,) = read(writer(f'"type": "influxdb", "host": "{found}"')).writers
    assert only.options["host"] == taken


@pytest.mark.parametrize(
    "found", ["[::1", "::1]", "[192.168.1.5]", "a..b", "...", "a" * 64, "fe80::1%", "nas%eth0", ""]
)
def test_hosts_that_are_none(read, found):
    """Anything that can't be a name or an address is refused before it is looked up."""
    (mistake,) = mistakes_in(read, writer(f'"type": "influxdb", "host": "{found}"'))
    assert mistake.endswith(f", allowed: {HOST}")


def test_another_board_s_lines(read):
    """If a chip is named, lines beyond the Pi's 27 are allowed: they have that chip's own numbers."""
    text = "PIN_NUMBERING = 'BCM'; GPIO_CHIP = '/dev/gpiochip1'; L1_PIN = 271; " + meter(pin="45")
    found = read(text)
    assert (found.l1_pin, found.meters[0].pin) == (271, 45)


@pytest.mark.parametrize(
    "name",
    ["energy", "power", "register", "Power", "_field", "_measurement", "_time", "_value", "time", "meter", "__x"],
)
def test_tags_with_a_name_that_has_a_meaning(read, name):
    """A tag with the name of one of our fields, or of a server's column, breaks queries: the mistake names it."""
    (mistake,) = mistakes_in(read, writer(f'"type": "influxdb", "tags": {{"room": "hall", {name!r}: "x"}}'))
    assert "allowed: a dict of 0 to 49 names to texts" in mistake
    assert name.startswith("__") or f'("{name.lower()}" has a meaning of its own)' in mistake


@pytest.mark.parametrize(
    ("impulses", "warning"),
    [
        ("1000", None),
        ("10", None),
        (
            "0.5",
            "0.5 impulses per kWh is one flash in 2 kWh: if that number on the meter is Wh per impulse, set 2000",
        ),
        ("0.05", "0.05 impulses per kWh is one flash in 20 kWh"),
    ],
)
def test_few_impulses(read, impulses, warning):
    """Some meters show Wh per impulse: a number that looks like that gets a warning, and is used as it is."""
    found = read(meter(impulses=impulses))
    assert found.meters[0].impulses_per_kwh == float(impulses)
    assert len(found.warnings) == (warning is not None)
    assert all(warning in said for said in found.warnings)


@pytest.mark.parametrize(
    ("found", "taken"), [("", ""), ("/", ""), ("/influx", "/influx"), ("/insert/0/influx/", "/insert/0/influx")]
)
def test_path(read, found, taken):
    """A path before /write, with or without its last slash."""
    (only,) = read(writer(f'"type": "influxdb", "path": "{found}"')).writers
    assert only.options["path"] == taken


@pytest.mark.parametrize("found", ["influx", "/a b", "/a?b", "/a#b", "/\u00e9", None])
def test_paths_that_are_none(read, found):
    """These are not paths of a URL."""
    (mistake,) = mistakes_in(read, writer(f'"type": "influxdb", "path": {found!r}'))
    assert mistake.endswith('allowed: text that begins with /, such as "/influx", or ""')


# --- MQTT


TOPIC = 'a topic of up to 64 characters without + # and spaces, such as "power" or "home/power"'


def test_mqtt_by_its_defaults(read):
    """An empty MQTT is a broker on this machine, as SPEC has it; its password is a secret."""
    assert read("").mqtt is None
    assert read("MQTT = {}").mqtt == values.MqttSettings(
        "localhost", 1883, None, None, False, True, "power", "homeassistant", 10
    )
    assert str(read('MQTT = {"username": "u", "password": "hunter2"}').mqtt).count("***") == 1


@pytest.mark.parametrize(
    ("entry", "mistake"),
    [
        ('"topic": "power/#"', f"MQTT[\"topic\"]: found 'power/#', allowed: {TOPIC}"),
        ('"topic": "/power"', f"MQTT[\"topic\"]: found '/power', allowed: {TOPIC}"),
        ('"topic": "$SYS"', f"MQTT[\"topic\"]: found '$SYS', allowed: {TOPIC}"),
        (
            '"topic": "homeassistant"',
            'MQTT["topic"]: found "homeassistant", allowed: a topic of its own, this one is Home Assistant\'s',
        ),
        ('"discovery": "a b"', f"MQTT[\"discovery\"]: found 'a b', allowed: {TOPIC}, or None"),
        ('"password": "hunter2"', 'MQTT["username"]: found None, allowed: text, as there is a password'),
        ('"password": 7', 'MQTT["password"]: found a int, allowed: text on one line, not empty, or None'),
        ('"update_period": 0.5', 'MQTT["update_period"]: found 0.5, allowed: a number from 1 to 3,600'),
        ('"topci": "x"', 'MQTT["topci"]: unknown, did you mean topic?'),
    ],
)
def test_mistakes_of_mqtt(read, entry, mistake):
    """Each mistake is named, with what is allowed; a password never."""
    assert mistakes_in(read, f"MQTT = {{{entry}}}") == [mistake]


def test_mqtt_that_is_no_dict(read):
    """Text instead of a dict may be the password, and is not shown."""
    assert mistakes_in(read, 'MQTT = "hunter2"') == [
        "MQTT: found a str of 7, allowed: a dict, as in settings.py.example, or None"
    ]


def test_names_of_meters_that_mqtt_takes(read):
    """With MQTT, names of meters must differ for Home Assistant, too; without it they need not."""
    meters = (
        "METERS = {n: {'pin': p, 'impulses_per_kwh': 1} for n, p in (('status', 18), ('Heat-1', 22), ('heat_1', 11))}"
    )
    same = 'a name that is not the same as "Heat-1" in small letters, with _ for -'
    assert mistakes_in(read, f"{meters}\nMQTT = {{}}") == [
        'METERS["status"]: found "status", allowed: another name, MQTT has a topic of that name',
        f'METERS["heat_1"]: found "heat_1", allowed: {same}',
    ]
    assert mistakes_in(read, f"{meters}\nMQTT = {{'discovery': None}}") == [
        'METERS["status"]: found "status", allowed: another name, MQTT has a topic of that name'
    ]
    assert len(read(meters).meters) == 3


def test_mqtt_of_invented_watts(read):
    """Invented watts for all have a topic of their own; those only for the file go to no broker, which is reported."""
    for_all = read('MQTT = {"topic": "home/power"}', simulated="all")
    assert (for_all.mqtt.topic, for_all.left_out) == ("home/power_simulated", ())
    for_file = read("MQTT = {}", simulated="file")
    assert (for_file.mqtt, for_file.left_out) == (None, ("view mqtt",))


@pytest.mark.parametrize(
    ("entry", "warning"),
    [
        ('"host": "nas.home"', "the password is sent to nas.home unencrypted"),
        ('"host": "nas.home", "ssl": True, "verify_ssl": False', "the password is sent to whoever answers as nas.home"),
        ('"host": "localhost"', None),
        ('"host": "nas.home", "ssl": True', None),
    ],
)
def test_a_password_that_others_can_read(read, entry, warning):
    """Each start warns if others can get the broker's password."""
    said = read(f'MQTT = {{"username": "u", "password": "hunter2", {entry}}}').warnings
    assert (len(said) == 1 and f": MQTT: {warning}" in said[0]) if warning else said == ()


def test_a_file_with_the_brokers_password(read):
    """There is a warning if others may read settings that contain the broker's password."""
    said = read('MQTT = {"username": "u", "password": "hunter2"}', mode=0o644).warnings
    assert any("others may read it, and it contains a password or token" in line for line in said)
