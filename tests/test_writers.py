"""What holds for every writer, each at a real place: a file, the server with Librato's rules, an InfluxDB."""

import pytest
from http_server import http_answer
from influxd import free_port

from powermeter.errors import DeliveryError, PowerError
from powermeter.writers import LIBRARIES, WRITERS


class FilePlace:
    """A file, and what stands in it."""

    kind = "file"

    def __init__(self, request):
        self.path = request.getfixturevalue("tmp_path") / "data" / "power.csv"
        self.options = {"path": str(self.path)}
        self.path.parent.parent.joinpath("file").touch()
        self.unreachable = {"path": str(self.path.parent.parent / "file" / "power.csv")}

    def stored(self):
        return self.path.read_bytes() if self.path.exists() else None


class LibratoPlace:
    """The server with Librato's rules, and its gauges."""

    kind = "librato"

    def __init__(self, request):
        self.server = request.getfixturevalue("librato_server")
        account = {"user": self.server.user, "token": self.server.token, "protocol": "http"}
        self.options = {**account, "hostname": self.server.hostname}
        self.unreachable = {**account, "hostname": f"127.0.0.1:{free_port()}"}

    def stored(self):
        return dict(self.server.gauges)


class InfluxdbPlace:
    """A database of an InfluxDB, and its points."""

    kind = "influxdb"

    def __init__(self, request):
        self.server, self.database = request.getfixturevalue("influxd"), request.getfixturevalue("influx_db")
        self.options = {"host": "127.0.0.1", "port": self.server.port, "database": self.database}
        self.unreachable = {**self.options, "port": free_port()}

    def stored(self):
        return self.server.query("SELECT * FROM /.*/", self.database)


@pytest.fixture(params=[FilePlace, LibratoPlace, InfluxdbPlace], ids=lambda place: place.kind)
def place(request):
    """Each place in turn."""
    return request.param(request)


def deliver(writer, pulses, note=""):
    """Deliver all *pulses* as the delivery does; return the last note of how far."""
    for _ in range(4):
        receipt = writer.deliver(pulses, note)
        assert 0 <= receipt.taken <= len(pulses)
        assert receipt.refused == 0
        note, pulses = receipt.place, pulses[receipt.taken :]
        if not pulses:
            return note
    raise AssertionError("the writer takes nothing")


def test_every_type_of_the_settings_is_tested_here():
    """No type of writer is without its place in these tests."""
    assert {FilePlace.kind, LibratoPlace.kind, InfluxdbPlace.kind} == set(WRITERS)
    assert set(LIBRARIES) <= set(WRITERS)


def test_pulses_arrive(place, writer_of, pulses):
    """Delivered pulses are stored: more pulses, more there."""
    writer = writer_of(place.kind, **place.options)
    before = place.stored()
    note = deliver(writer, pulses(50))
    first = place.stored()
    assert first != before
    deliver(writer, pulses(50, first=51, start_ns=pulses(50)[-1].time_ns + 10**11), note)
    assert len(str(place.stored())) > len(str(first))


def test_making_a_writer_touches_nothing(place, writer_of):
    """A writer is made without touching disk or network, so that a dead service can't hinder a start."""
    before = place.stored()
    writer_of(place.kind, **place.unreachable)
    writer_of(place.kind, **place.options)
    assert place.stored() == before


def test_delivering_again_changes_nothing(place, writer_of, pulses):
    """The same pulses from the same place, as after a crash before the cursor was noted, change nothing."""
    sent = pulses(100)
    first, second = writer_of(place.kind, **place.options), writer_of(place.kind, **place.options)
    note = deliver(first, sent[:1])
    deliver(first, sent, note)
    stored = place.stored()
    first.close()
    deliver(second, sent, note)
    assert place.stored() == stored


def test_close_twice(place, writer_of, pulses):
    """Closing twice is allowed, also where nothing was ever opened."""
    writer = writer_of(place.kind, **place.options)
    writer.close()
    writer.close()
    used = writer_of(place.kind, **place.options)
    deliver(used, pulses(3))
    used.close()
    used.close()


def test_check_leaves_no_trace(place, writer_of, pulses):
    """A check says what answered and changes nothing, before the first pulse and after it."""
    writer = writer_of(place.kind, **place.options)
    before = place.stored()
    assert writer.check()
    assert place.stored() == before
    deliver(writer, pulses(10))
    stored = place.stored()
    assert writer.check()
    assert place.stored() == stored


def test_unreachable(place, writer_of, pulses):
    """What can't be reached is an error of delivery on one line, for a check as for deliveries."""
    writer = writer_of(place.kind, **place.unreachable)
    for ask in (writer.check, lambda: writer.deliver(pulses(3), ""), lambda: writer.deliver(pulses(3), "")):
        with pytest.raises(DeliveryError) as caught:
            ask()
        assert isinstance(caught.value, PowerError)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["librato", "influxdb"])
def test_connections_are_closed(kind, writer_of, answering, pulses, until):
    """A closed writer holds no connection."""
    answering.script = http_answer(200 if kind == "librato" else 204)
    options = {
        "librato": {"user": "me", "token": "x", "hostname": f"127.0.0.1:{answering.port}", "protocol": "http"},
        "influxdb": {"host": "127.0.0.1", "port": answering.port},
    }
    writer = writer_of(kind, **options[kind])
    writer.deliver(pulses(3), "")
    assert answering.connections == 1
    writer.close()
    until(lambda: not answering.open)
