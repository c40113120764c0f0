"""Servers and helpers that several tests share."""

import itertools
import signal
import time

import hypothesis
import pytest
from http_server import Answering, http_answer, self_signed
from influxd import Influxd, influxd_path
from librato_server import LibratoServer

from powermeter.meter import NS_PER_S, Constant, Pulse
from powermeter.settings.schema import REQUIRED
from powermeter.settings.values import Secret, WriterSettings
from powermeter.writers import open_writer, writer_type

# Helpers whose failing asserts are shown with their values, as those of tests are.
pytest.register_assert_rewrite(
    "clocks", "console", "contracts", "counting", "deliveries", "hand_board", "observer", "page_client", "program"
)

# No deadline: a busy machine is no defect. No database: the tree may belong to another user.
hypothesis.settings.register_profile("power", deadline=None, database=None)
hypothesis.settings.load_profile("power")

# All that is begun under nohup ignores SIGHUP, and all in a shell's background SIGINT. A handler that does nothing is
# the same for the tests themselves, while the programs that they begin heed the signal, as from a terminal.
for _number in (signal.SIGHUP, signal.SIGINT):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, lambda *_: None)

#: 2026-11-23T07:13:20.123456789Z, as ns.
START_NS = 1_795_418_000_123_456_789


@pytest.fixture(scope="session")
def influxd(tmp_path_factory):
    """A real InfluxDB, one for all tests; each has a database of its own, see influx_db."""
    if not influxd_path().exists():
        pytest.fail("run: make servers", pytrace=False)
    with Influxd(tmp_path_factory.mktemp("influxd")) as server:
        yield server


_numbers = itertools.count(1)


@pytest.fixture
def influx_db(influxd):
    """The name of a database that is new, on influxd."""
    name = f"power{next(_numbers)}"
    influxd.query(f"CREATE DATABASE {name}")
    yield name
    influxd.query(f"DROP DATABASE {name}")


@pytest.fixture
def librato_server():
    """A server with the documented rules of the Librato API."""
    with LibratoServer() as server:
        yield server


@pytest.fixture
def answering():
    """A server that answers as its script says; at first 204, InfluxDB's success."""
    with Answering(http_answer(204)) as server:
        yield server


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """The paths of a certificate for 127.0.0.1 that nobody signed but itself, and of its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def in_zone(monkeypatch):
    """Sets the machine's zone for as long as the test lasts."""

    def enter(zone):
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield enter
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def until():
    """Waits until a condition holds, and fails the test if that takes unreasonably long."""

    def wait(condition, seconds=30):
        end_s = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end_s, "what was waited for did not come"
            time.sleep(0.002)

    return wait


@pytest.fixture
def pulses():
    """Makes pulses as the journal gives them: spacings, and so powers, differ; number 1 has no power."""

    def make(count, meter="house", *, first=1, start_ns=START_NS, spacing_ns=3 * NS_PER_S + 456_789_012):
        constant = Constant(impulses_per_kwh=800)
        made = []
        time_ns = start_ns
        for number in range(first, first + count):
            interval_ns = spacing_ns + number * 7_919_017 % (spacing_ns // 7 + 1)
            time_ns += interval_ns
            watts = None if number == 1 else constant.mean_watts(1, interval_ns / NS_PER_S)
            made.append(Pulse(meter, number, time_ns, watts, constant.watt_hours, constant.register_at(number)))
        return made

    return make


def with_secrets(kind, options):
    """The *options* of a writer as the settings give them: passwords and tokens can't be seen."""
    secret = {name for name, key in writer_type(kind).keys.items() if key.secret}
    return {name: Secret(value) if name in secret and value is not None else value for name, value in options.items()}


@pytest.fixture
def writer_of():
    """Opens a writer of a type, with the defaults of the settings for what is not given; closes it after the test."""
    opened = []

    def open_one(kind, **options):
        defaults = {name: key.default for name, key in writer_type(kind).keys.items() if key.default is not REQUIRED}
        opened.append(open_writer(WriterSettings(kind, kind, {**defaults, **with_secrets(kind, options)})))
        return opened[-1]

    yield open_one
    for writer in opened:
        writer.close()
