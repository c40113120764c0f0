"""MQTT over a real mosquitto, seen by another client: what is published, and what a broker's trouble leads to."""

import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from counting import SOON, Running, hung_disk
from http_server import self_signed
from mosquitto import Mosquitto, clients_environment, mosquitto_path
from observer import OURS, Observer, mqtt_settings, state_of, wait_for_state
from program import Program, wait_until

from powermeter.journal.journal import Journal
from powermeter.lamps import Condition
from powermeter.meter import NS_PER_S, Edge
from powermeter.settings.values import Secret
from powermeter.views.mqtt import view
from powermeter.views.text import text


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """A broker is tried again soon, and gets less time to answer."""
    monkeypatch.setattr(view, "PAUSE_S", (0.1, 0.2))
    monkeypatch.setattr(view, "ANSWER_S", 1.0)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """A mosquitto for tests that do not stop it; what they retain is removed after each."""
    if not mosquitto_path().exists():
        pytest.fail("run: make servers", pytrace=False)
    with Mosquitto(tmp_path_factory.mktemp("mosquitto")) as server:
        yield server


@pytest.fixture
def observer(broker):
    with Observer(broker.port) as seen:
        yield seen
        for topic in seen.topics():
            seen.publish(topic, "")


def flash(running, *ages_s):
    """Flashes that came so many seconds ago."""
    now_ns = time.monotonic_ns()
    for age_s in ages_s:
        running.board.put(Edge(0, now_ns - round(age_s * NS_PER_S)))


# --- What is published


def test_a_meter(tmp_path, broker, observer):
    """A meter's state has its power, energy, register and today's energy; it is retained, and offline in the end."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        first = observer.wait_for(lambda state: True)
        flash(running, 1800, 0)
        state = observer.wait_for(lambda state: state["energy_kwh"] == 0.002)
        assert observer.last("power/status") == "online"
        wait_for_state(running, "ok")
    # Before two flashes the power is not known, though it is bounded.
    assert (first["power_w"], first["power_is_bound"], first["energy_kwh"]) == (None, False, 0)
    assert (state["power_w"], state["power_is_bound"], state["register_kwh"]) == (2, False, 0.002)
    assert (state["problem"], state["reason"], state["rejected"]) == ("OFF", "", 0)
    wait_until(lambda: observer.last("power/status") == "offline")
    assert not running.monitor.crashed
    # A client that comes later finds all of it.
    with Observer(broker.port) as later:
        wait_until(lambda: later.last("power/status") == "offline" and later.states())
        assert later.states() == observer.states()[-1:]
        assert all(retained for *_, retained in later.seen)


def test_power_sinks(tmp_path, broker, observer):
    """After a load is switched off the power sinks within one update period, and with each update: it is a bound."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        observer.wait_for(lambda state: True)
        flash(running, 4, 2, 0)
        last_s = time.monotonic()
        observer.wait_for(lambda state: state["power_is_bound"])
        sunk_s = observer.seen[-1][0]
        wait_until(lambda: len(observer.states()) >= 5)
    watts = [state["power_w"] for state in observer.states() if state["power_is_bound"]]
    assert watts == sorted(watts, reverse=True)
    assert watts[0] < 1800
    # With the load, the next flash would have come after 2 s; an update period is 1 s, and a busy machine gets another.
    assert 2 <= sunk_s - last_s < 2 + 1 + 1


def test_power_that_was_known_before(tmp_path, broker, observer):
    """If MQTT is turned on while the power is known, it is not unknown again, and it sinks too."""
    with Running(tmp_path) as running:
        flash(running, 4, 0)
        wait_until(lambda: running.monitor.status().meters["house"].watts == pytest.approx(900, rel=0.01))
        running.monitor.change(dataclasses.replace(running.settings, mqtt=mqtt_settings(broker.port)))
        observer.wait_for(lambda state: state["power_is_bound"])
    assert observer.states()[0]["power_w"] == pytest.approx(900, rel=0.01)
    assert all(state["power_w"] for state in observer.states())


def test_only_what_changes_is_sent(tmp_path, broker, observer):
    """A state is sent only when it has changed, and once per period, however many pulses come."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        observer.wait_for(lambda state: True)
        begun_s = time.monotonic()
        for _ in range(40):
            running.board.flash(5)
            time.sleep(0.05)
        observer.wait_for(lambda state: state["energy_kwh"] == 0.2)
        sent, periods = len(observer.states()), time.monotonic() - begun_s + 1
        assert sent <= periods + 1
        configs = [topic for _, topic, _, _ in observer.seen if topic.startswith("homeassistant/")]
        assert len(configs) == len(set(configs))


def test_only_what_is_durable_is_published(tmp_path, broker, observer):
    """While the disk hangs, the energy lacks what was counted since; it has it once that is written."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        running.board.flash(3)
        observer.wait_for(lambda state: state["energy_kwh"] == 0.003)
        with hung_disk(running.data_dir / "journal.db"):
            running.board.flash(4)
            wait_until(lambda: running.monitor.status().meters["house"].register_kwh == 0.007)
            wait_until(lambda: observer.states()[-1]["register_kwh"] == 0.007)
            assert observer.states()[-1]["energy_kwh"] == 0.003
        observer.wait_for(lambda state: state["energy_kwh"] == 0.007)


def test_a_reading_is_no_energy(tmp_path, broker, observer):
    """A reading sets the register and does not change the energy."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        running.board.flash(3)
        observer.wait_for(lambda state: state["energy_kwh"] == 0.003)
        running.monitor.read_face("house", 12345.6, 1, force=False)
        state = observer.wait_for(lambda state: state["register_kwh"] == 12345.6)
        assert state["energy_kwh"] == 0.003
        running.board.flash(1)
        observer.wait_for(lambda state: (state["energy_kwh"], state["register_kwh"]) == (0.004, 12345.601))


def test_another_constant_leaves_the_energy(tmp_path, broker, observer):
    """What was counted keeps its energy when the constant changes."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        running.board.flash(3)
        observer.wait_for(lambda state: state["energy_kwh"] == 0.003)
        (meter,) = running.settings.meters
        changed = dataclasses.replace(meter, impulses_per_kwh=500)
        running.monitor.change(dataclasses.replace(running.monitor.settings, meters=(changed,)))
        running.board.flash(2)
        observer.wait_for(lambda state: state["energy_kwh"] == 0.007)


def test_a_problem_is_the_inputs_or_the_journals(tmp_path, broker, observer):
    """A silent input is a problem, with its reason; a failing writer is not."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port), silence_minutes=SOON) as running:
        observer.wait_for(lambda state: (state["problem"], state["reason"]) == ("ON", "no flashes"))
        running.csv.mkdir()
        running.board.flashed += 100_000
        running.board.flash()
        wait_until(lambda: running.monitor.status().writers["file"].state == "failing")
        observer.wait_for(lambda state: (state["problem"], state["waiting"]) == ("OFF", 1))


# --- Energy that never falls


def run_and_count(directory, broker, observer, flashes, until_kwh, **options):
    """Run a while, with *flashes*, until *until_kwh* are published; return the id of the journal."""
    with Running(directory, mqtt=mqtt_settings(broker.port, **options)) as running:
        # Else the flashes could be taken for part of what the broker has.
        wait_for_state(running, "ok")
        running.board.flash(flashes)
        observer.wait_for(lambda state: state["energy_kwh"] == until_kwh)
        return running.monitor._keeper.about["id"]


def test_a_journal_that_was_put_back(tmp_path, broker, observer, caplog):
    """If the broker has more of the same journal, the difference is added for good, and logged once."""
    caplog.set_level(logging.INFO)
    own_id = run_and_count(tmp_path, broker, observer, 5, 0.005)
    backup = (tmp_path / "data" / "journal.db").read_bytes()
    assert run_and_count(tmp_path, broker, observer, 7, 0.012) == own_id
    (tmp_path / "data" / "journal.db").write_bytes(backup)
    assert run_and_count(tmp_path, broker, observer, 1, 0.013) == own_id
    assert "house: 0.012 kWh were published, but the journal has 0.007 kWh less" in caplog.text
    caplog.clear()
    assert run_and_count(tmp_path, broker, observer, 2, 0.015) == own_id
    assert "were published" not in caplog.text
    energies = [state["energy_kwh"] for state in observer.states()]
    assert energies == sorted(energies)


@pytest.mark.parametrize(
    "text", ['{"energy_kwh": 1e300}', '{"energy_kwh": NaN}', '{"energy_kwh": true}', "[", "", "7" * 5000]
)
def test_what_is_retained_may_be_anything(tmp_path, broker, observer, text):
    """Anything in the place of a state that is not our energy changes nothing."""
    run_and_count(tmp_path, broker, observer, 2, 0.002)
    observer.publish("power/house", text)
    run_and_count(tmp_path, broker, observer, 1, 0.003)


def test_nothing_is_published_before_the_energy_is_known(tmp_path, broker, observer):
    """While the journal can't be read, nothing is published, not even the monitor's id."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        observer.wait_for(lambda state: True)
    seen = len(observer.seen)
    wait_until(lambda: observer.last("power/status") == "offline")
    seen = len(observer.seen)
    journal = running.data_dir / "journal.db"
    aside = running.data_dir / "aside"
    journal.rename(aside)
    journal.mkdir()  # no file can be opened there
    with pytest.raises(OSError, match="journal"), Running(tmp_path, mqtt=mqtt_settings(broker.port)):
        pass
    assert len(observer.seen) == seen


# --- A broker with troubles


@contextlib.contextmanager
def trouble(running, caplog, words):
    """
    The block ends the trouble of the broker that *words* are about.

    Before it, ``--status`` and L2 show the trouble. After it they no longer do,
    and the log has the trouble once, and that it is over.
    """
    caplog.set_level(logging.INFO)
    caplog.clear()
    wait_for_state(running, "failing", words)
    assert f"view mqtt: failing: {state_of(running)[1]}\n" in text(running.monitor.status())
    running.wait_for_condition(Condition.FAILING)
    yield
    wait_for_state(running, "ok")
    assert "view mqtt: ok\n" in text(running.monitor.status())
    running.wait_for_condition(Condition.WELL)
    logged = [line.getMessage() for line in caplog.records if line.getMessage().startswith("view mqtt: ")]
    assert len([line for line in logged if line.startswith("view mqtt: failing: ") and words in line]) == 1
    assert logged[-1].startswith("view mqtt: publishing to ")


def test_a_broker_that_is_away(tmp_path, caplog):
    """If nobody answers, status, lamp and log show it, and it mends itself; counting goes on meanwhile."""
    with Mosquitto(tmp_path / "mosquitto") as server:
        server.stop()
        with Running(tmp_path, mqtt=mqtt_settings(server.port)) as running:
            with trouble(running, caplog, f"127.0.0.1:{server.port}: Connection refused"):
                running.board.flash(3)
                wait_until(lambda: running.lines() == 3)
                server.start()
            assert f"view mqtt: publishing to 127.0.0.1:{server.port} below power" in caplog.messages


def test_a_broker_that_is_killed_and_forgets(tmp_path, caplog):
    """After a kill the broker knows nothing any more: everything is published again, and the energy goes on."""
    with (
        Mosquitto(tmp_path / "mosquitto") as server,
        Observer(server.port) as observer,
        Running(tmp_path, mqtt=mqtt_settings(server.port)) as running,
    ):
        running.board.flash(3)
        observer.wait_for(lambda state: state["energy_kwh"] == 0.003)
        topics = observer.topics()
        server.stop()
        with trouble(running, caplog, "Connection refused"):
            running.board.flash(2)
            server.start()
        with Observer(server.port) as later:
            wait_until(lambda: later.topics() == topics)
            later.wait_for(lambda state: state["energy_kwh"] == 0.005)


def test_the_last_will(tmp_path, broker, observer):
    """If the program is killed, the broker publishes that it is offline."""
    with Program(tmp_path, f"MQTT = {{'port': {broker.port}}}") as program:
        popen = program.foreground("--simulate", "3600", "--settings", str(program.settings))
        wait_until(lambda: observer.last("power_simulated/status") == "online")
        popen.send_signal(signal.SIGKILL)
        wait_until(lambda: observer.last("power_simulated/status") == "offline")


def test_a_bug_is_not_online(tmp_path, broker, observer, monkeypatch, caplog):
    """If a bug ends the view, it is failing and offline at the broker, and counting goes on."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        wait_for_state(running, "ok")
        monkeypatch.setattr(view, "state", None)
        wait_for_state(running, "failing", "ended by a bug")
        wait_until(lambda: observer.last("power/status") == "offline")
        running.board.flash(3)
        wait_until(lambda: running.lines() == 3)
    assert not running.monitor.crashed
    assert "view mqtt: ended by a bug: nothing is published until a restart" in caplog.text


ACL = """
user reader
topic read #
user meter
topic readwrite power/#
topic read homeassistant/status
topic write homeassistant/+/+/+/config
"""
USERS = {"meter": "hunter2-secret", "reader": "reader"}


def test_the_rights_of_the_handbook(tmp_path):
    """With a user and a password, and only the rights that the handbook names, everything works."""
    with (
        Mosquitto(tmp_path / "mosquitto", users=USERS, acl=ACL) as server,
        Observer(server.port, user=("reader", "reader")) as observer,
    ):
        options = {"username": "meter", "password": Secret("hunter2-secret")}
        with Running(tmp_path, mqtt=mqtt_settings(server.port, **options)) as running:
            observer.wait_for(lambda state: True)
            wait_for_state(running, "ok")
            assert len([topic for topic in observer.topics() if topic.startswith("homeassistant/")]) == 7


def test_a_wrong_password(tmp_path, caplog):
    """A wrong password is a failure whose reason says what to check, never the password; it ends once it is right."""
    with Mosquitto(tmp_path / "mosquitto", users=USERS, acl=ACL) as server:
        options = {"username": "meter", "password": Secret("wrong-and-secret")}
        with Running(tmp_path, mqtt=mqtt_settings(server.port, **options)) as running:
            refused = "refuses the connection: Not authorized: check username and password"
            with trouble(running, caplog, refused):
                assert "wrong-and-secret" not in caplog.text
                server.change(users=USERS | {"meter": "wrong-and-secret"})
    assert "wrong-and-secret" not in caplog.text


@pytest.mark.parametrize(
    ("right", "denied", "topic"),
    [
        ("readwrite power/#", "read power/#", "power/"),
        ("write homeassistant/+/+/+/config", "deny homeassistant/#", "homeassistant/"),
    ],
    ids=["states", "discovery"],
)
def test_a_publish_that_is_refused(tmp_path, caplog, right, denied, topic):
    """If the broker refuses topics, the failure names one, and is logged once; it ends when the rights are given."""
    options = {"username": "meter", "password": Secret("hunter2-secret")}
    with (
        Mosquitto(tmp_path / "mosquitto", users=USERS, acl=ACL.replace(right, denied)) as server,
        Running(tmp_path, mqtt=mqtt_settings(server.port, **options)) as running,
        trouble(running, caplog, f"refuses {topic}"),
    ):
        assert "check the rights of this user" in state_of(running)[1]
        time.sleep(2 * running.settings.mqtt.update_period)  # all are tried again
        server.change(acl=ACL)


def test_rights_that_forbid_to_read(tmp_path):
    """If retained messages may not be read, nothing is published: the energy could fall."""
    acl = ACL.replace("readwrite power/#", "write power/#")
    with (
        Mosquitto(tmp_path / "mosquitto", users=USERS, acl=acl) as server,
        Observer(server.port, user=("reader", "reader")) as observer,
    ):
        options = {"username": "meter", "password": Secret("hunter2-secret")}
        with Running(tmp_path, mqtt=mqtt_settings(server.port, **options)) as running:
            wait_for_state(running, "failing", "does not return what is published at power/monitor")
        assert observer.topics() == {OURS}


def test_tls_with_a_ca_of_ones_own(tmp_path):
    """TLS works with one's own CA; without its file the certificate is not trusted, which is reported."""
    certificate, key = self_signed(tmp_path)
    os.chmod(certificate, 0o644)
    with Mosquitto(tmp_path / "mosquitto", certificate=(certificate, key)) as server:
        with Running(tmp_path, mqtt=mqtt_settings(server.port, ssl=True, verify_ssl=str(certificate))) as running:
            wait_for_state(running, "ok")
        with Running(tmp_path, mqtt=mqtt_settings(server.port, ssl=True)) as running:
            wait_for_state(running, "failing", "its certificate is not trusted")
        with Running(tmp_path, mqtt=mqtt_settings(server.port, ssl=True, verify_ssl=False)) as running:
            wait_for_state(running, "ok")
        with Running(tmp_path, mqtt=mqtt_settings(server.port)) as running:
            wait_for_state(running, "failing", "check host, port and ssl")


class Speaking:
    """A server on loopback that sends *words* to whoever connects, and reads what it is sent; a context manager."""

    def __init__(self, *words):
        self._words = words
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)

    def _serve(self):
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                try:
                    for words in self._words:
                        connection.recv(4096)
                        connection.sendall(words)
                    while connection.recv(4096):
                        pass
                except OSError:
                    pass

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


@pytest.mark.parametrize(
    "words",
    [
        [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        [b"\x20\x02\x00\x00", b"\x30\xff\xff\xff\x7f" + bytes(200_000)],
        [b"\xff" * 100],
        [b"\x20\x03\x00\x00\x00", b"\x90\x01\x00"],
        [],
    ],
    ids=["http", "a packet of 256 MB", "all ones", "a short packet", "nothing"],
)
def test_what_is_no_broker(tmp_path, words):
    """Whatever answers in place of a broker, it is a failure of this view, and counting goes on."""
    with Speaking(*words) as server, Running(tmp_path, mqtt=mqtt_settings(server.port)) as running:
        wait_for_state(running, "failing", f"127.0.0.1:{server.port}")
        running.board.flash(3)
        wait_until(lambda: running.lines() == 3)
    assert not running.monitor.crashed


def test_a_silent_broker_delays_no_stop(tmp_path):
    """A stop does not wait for a broker that accepts the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        with Running(tmp_path, mqtt=mqtt_settings(server.getsockname()[1])) as running:
            wait_until(lambda: "view mqtt" in running.threads())
            connection, _ = server.accept()
        wait_until(lambda: "view mqtt" not in running.threads())
        connection.close()


# --- Two monitors


def test_another_monitor_below_the_same_topic(tmp_path, broker, observer):
    """The second monitor reports it and publishes nothing; it takes the topic once the first one's id is removed."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with Running(tmp_path / "one", mqtt=mqtt_settings(broker.port)) as one:
        wait_for_state(one, "ok")
        own_id = observer.last(OURS)
        with Running(tmp_path / "two", mqtt=mqtt_settings(broker.port)) as two:
            wait_for_state(two, "failing", f"another monitor publishes below power at 127.0.0.1:{broker.port}")
            assert own_id in state_of(two)[1]
            two.wait_for_condition(Condition.FAILING)
        assert observer.last("power/status") == "online"
        assert set(observer.messages(OURS)) == {own_id}
        assert state_of(one)[0] == "ok"
    observer.publish(OURS, "")
    with Running(tmp_path / "two", mqtt=mqtt_settings(broker.port)) as two:
        wait_for_state(two, "ok")
    assert observer.last(OURS) not in ("", own_id)


def test_another_monitor_that_comes_later(tmp_path, broker, observer):
    """If another one retains its id below our topic while we publish, we stop: the one that is retained goes on."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        wait_for_state(running, "ok")
        own_id = observer.last(OURS)
        observer.publish(OURS, "0123456789abcdef")
        wait_for_state(running, "failing", "0123456789abcdef")
        seen = len(observer.states())
        running.board.flash(3)
        wait_until(lambda: running.lines() == 3)
        assert len(observer.states()) == seen
        observer.publish(OURS, own_id)
        wait_for_state(running, "ok")
        observer.wait_for(lambda state: state["energy_kwh"] == 0.003)


# --- Home Assistant's discovery


def configs_of(observer):
    """Home Assistant's configurations now, by the topic's last level but one."""
    return {
        topic.split("/")[3]: json.loads(observer.last(topic))
        for topic in observer.topics()
        if topic.startswith("homeassistant/") and topic.endswith("/config")
    }


def test_what_home_assistant_reads(tmp_path, broker, observer):
    """There is one device per meter, named by its label; only its energy has a state class that counts."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port), label="Main meter") as running:
        wait_for_state(running, "ok")
        own_id = running.monitor._keeper.about["id"]
        configs = configs_of(observer)
    assert set(configs) == {
        f"house_{part}" for part in ("power", "energy", "register", "today", "problem", "rejected", "waiting")
    }
    assert {config["device"]["name"] for config in configs.values()} == {"Main meter"}
    assert {tuple(config["device"]["identifiers"]) for config in configs.values()} == {(f"power_{own_id}_house",)}
    assert len({config["unique_id"] for config in configs.values()}) == 7
    counts = [name for name, config in configs.items() if config.get("state_class", "").startswith("total")]
    assert counts == ["house_energy"]
    hidden = {name for name, config in configs.items() if config.get("enabled_by_default") is False}
    assert hidden == {"house_rejected", "house_waiting"}


def test_home_assistant_starts(tmp_path, broker, observer):
    """Whenever it comes online, everything is sent again, but once per period: one that flaps causes no flood."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        wait_for_state(running, "ok")
        topic = next(topic for topic in observer.topics() if topic.endswith("house_energy/config"))
        observer.publish("homeassistant/status", "online", retain=False)
        wait_until(lambda: len(observer.messages(topic)) == 2)
        begun_s = time.monotonic()
        for _ in range(500):
            observer.publish("homeassistant/status", "online", retain=False)
        wait_until(lambda: len(observer.messages(topic)) >= 3)
        periods = time.monotonic() - begun_s + 1
        assert len(observer.messages(topic)) - 2 <= periods + 1
        wait_for_state(running, "ok")


def test_a_label_and_a_meter_that_leave(tmp_path, broker, observer):
    """A new label is published; a meter that leaves the settings is removed, and what others retain is not."""
    observer.publish("homeassistant/sensor/another/thing/config", "{}")
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        wait_for_state(running, "ok")
        (meter,) = running.settings.meters
        renamed = dataclasses.replace(meter, label="Another label")
        running.monitor.change(dataclasses.replace(running.monitor.settings, meters=(renamed,)))
        wait_until(lambda: configs_of(observer)["house_power"]["device"]["name"] == "Another label")
        running.board.flash(2)
        observer.wait_for(lambda state: state["energy_kwh"] == 0.002)
        flat = dataclasses.replace(meter, name="flat")
        running.monitor.change(dataclasses.replace(running.monitor.settings, meters=(flat,)))
        wait_until(lambda: {name.partition("_")[0] for name in configs_of(observer)} == {"flat", "thing"})
        observer.wait_for(lambda state: state["energy_kwh"] == 0, "power/flat")
        wait_until(lambda: observer.last("power/house") == "")
        # It comes back with what it had.
        running.monitor.change(dataclasses.replace(running.monitor.settings, meters=(meter,)))
        observer.wait_for(lambda state: state["energy_kwh"] == 0.002)
    assert observer.last("homeassistant/sensor/another/thing/config") == "{}"


def test_what_left_while_it_did_not_run(tmp_path, broker, observer):
    """If the topic and the discovery change while it does not run, the next start removes what was retained."""
    run_and_count(tmp_path, broker, observer, 1, 0.001)
    with Running(tmp_path, mqtt=mqtt_settings(broker.port, topic="meters/cellar", discovery=None)) as running:
        wait_for_state(running, "ok")
        wanted = {"meters/cellar/house", "meters/cellar/monitor", "meters/cellar/status"}
        wait_until(lambda: observer.topics() == wanted)
        wait_until(lambda: json.loads(running.monitor._keeper.about[view.TOPICS]) == sorted(wanted))


def test_mqtt_leaves_the_settings(tmp_path, broker, observer):
    """A reload without MQTT removes everything that was retained, and one with MQTT brings it back."""
    with Running(tmp_path, mqtt=mqtt_settings(broker.port)) as running:
        wait_for_state(running, "ok")
        running.monitor.change(dataclasses.replace(running.monitor.settings, mqtt=None))
        assert running.monitor.status().views == {}
        assert "view mqtt" not in running.threads()
        wait_until(lambda: observer.topics() == set())
        running.monitor.change(dataclasses.replace(running.monitor.settings, mqtt=mqtt_settings(broker.port)))
        wait_for_state(running, "ok")
        wait_until(lambda: len(configs_of(observer)) == 7)


RECIPE = Path(__file__).resolve().parents[1] / "docs" / "howto" / "home-assistant.rst"


def by_hand(broker, *beginnings):
    """Have a shell run the recipe's lines that begin with *beginnings*, against *broker*; return what they print."""
    lines = [line.strip() for line in RECIPE.read_text().splitlines()]
    lines = [line for line in lines if line.startswith(beginnings)]
    assert len(lines) == len(beginnings)
    script = "\n".join(lines).replace("localhost", f"127.0.0.1 -p {broker.port}")
    environment = clients_environment()
    done = subprocess.run(
        ["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    # What is waited for ends with a message.
    assert done.stderr.strip() in ("", "Timed out"), done.stderr
    return done.stdout


def test_what_is_left_is_removed_by_hand(tmp_path, broker, observer):
    """The recipe's commands show what is published, and remove it, or only the id; what others retain stays there."""
    another = "homeassistant/sensor/another/thing/config"
    observer.publish(another, "{}")
    run_and_count(tmp_path, broker, observer, 3, 0.003)
    assert observer.last(OURS)
    by_hand(broker, "mosquitto_pub -h localhost -t power/monitor")
    wait_until(lambda: observer.last(OURS) == "")
    run_and_count(tmp_path, broker, observer, 1, 0.004)
    assert '"energy_kwh": 0.004' in by_hand(broker, "id=", "mosquitto_sub -h localhost -t 'power/#'")
    wait_until(lambda: observer.topics() == {another})


# --- The command line


def test_check(tmp_path, broker, observer):
    """--check names the broker and what is retained, and publishes nothing."""
    with Program(tmp_path, f"MQTT = {{'port': {broker.port}}}") as program:
        before = program.run("--check").stdout
        assert f"view mqtt: ok, mosquitto version 2.0.11 at localhost:{broker.port}, by MQTT 5; it lets us" in before
        assert "and has nothing retained there\n" in before
        assert observer.seen == []
        # A journal of the real watts, and what it has published.
        program.data_dir.mkdir()
        with Journal(str(program.data_dir / "journal.db")) as journal:
            own_id = journal.about()["id"]
        observer.publish(OURS, own_id)
        observer.publish("power/house", '{"power_w": 412, "energy_kwh": 1234.567}')
        again = program.run("--check").stdout
    assert f"and has the monitor {own_id}, ours, house with 1,234.567 kWh retained there\n" in again
    assert len(observer.seen) == 2


def test_check_meets_another_monitor(tmp_path, broker, observer):
    """If another monitor's id is retained, --check reports it and fails, and leaves it there."""
    with Program(tmp_path, f"MQTT = {{'port': {broker.port}, 'update_period': 1}}") as program:
        program.start("--simulate", "24000")
        wait_until(lambda: observer.states("power_simulated/house"))
        own_id = observer.last("power_simulated/monitor")
        program.run("--kill")
        observer.publish(OURS, own_id)
        with Journal(str(program.data_dir / "journal.db")):  # a journal of the real watts, with an id of its own
            pass
        done = program.run("--check")
    assert done.returncode == 1
    assert f"view mqtt: another monitor publishes below power at localhost:{broker.port}: its id is {own_id}, ours" in (
        done.stdout
    )
    assert observer.last(OURS) == own_id


def test_ten_meters_at_twenty_pulses_a_second(tmp_path, broker, observer):
    """However fast ten meters flash, there is at most one message per meter and period."""
    meters = {
        f"meter{n}": {"pin": pin, "impulses_per_kwh": 3000}
        for n, pin in enumerate((3, 5, 7, 8, 10, 11, 13, 15, 18, 19))
    }
    settings = f"METERS = {meters}\nMQTT = {{'port': {broker.port}, 'update_period': 2}}"
    with Program(tmp_path, settings) as program:
        program.start("--simulate", "24000")
        topics = [f"power_simulated/{name}" for name in meters]
        wait_until(lambda: all(observer.states(topic) for topic in topics))
        begun_s, before = time.monotonic(), {topic: len(observer.states(topic)) for topic in topics}
        wait_until(lambda: len(observer.states(topics[-1])) >= before[topics[-1]] + 4)
        periods = (time.monotonic() - begun_s) / 2
        program.run("--kill")
    for topic in topics:
        assert len(observer.states(topic)) - before[topic] <= periods + 2
        assert observer.states(topic)[-1]["energy_kwh"] > 0.03


def test_simulated_watts_have_a_topic_of_their_own(tmp_path, broker, observer):
    """With --simulate and settings another topic is used, and nothing is published at the real one."""
    with Program(tmp_path, f"MQTT = {{'port': {broker.port}, 'update_period': 1}}") as program:
        program.start("--simulate", "24000")
        wait_until(lambda: observer.states("power_simulated/house"))
        wait_until(lambda: program.status()["views"] == {"mqtt": {"state": "ok", "reason": ""}})
        assert "view mqtt: ok\n" in program.run("--status").stdout
        assert observer.states("power/house") == []
        program.run("--kill")
    wait_until(lambda: observer.last("power_simulated/status") == "offline")


def test_a_kill(tmp_path, broker, observer):
    """After a kill the energy goes on from what the journal has, and never falls."""
    with Program(tmp_path, f"COMMIT_INTERVAL = 0.1\nMQTT = {{'port': {broker.port}, 'update_period': 1}}") as program:
        for _ in range(3):
            popen = program.foreground("--simulate", "24000")
            reached = len(observer.states("power_simulated/house")) + 2
            wait_until(lambda reached=reached: len(observer.states("power_simulated/house")) >= reached)
            popen.send_signal(signal.SIGKILL)
            popen.wait()
            wait_until(lambda: observer.last("power_simulated/status") == "offline")
    energies = [state["energy_kwh"] for state in observer.states("power_simulated/house")]
    assert energies == sorted(energies)
    assert energies[-1] > energies[0]
