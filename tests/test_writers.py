"""What holds for every writer, each at a real place: a file, the server with Librato's rules, an InfluxDB."""

import re

import pytest
from contracts import WriterContract
from http_server import http_answer
from influxd import free_port
from program import SOURCE

from powermeter.writers import WRITERS, writer_type


class FilePlace:
    """A file, and its contents."""

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


PLACES = [FilePlace, LibratoPlace, InfluxdbPlace]


@pytest.fixture(params=PLACES, ids=lambda place: place.kind)
def place(request):
    """Each place in turn."""
    return request.param(request)


def test_every_type_of_the_settings_is_tested_here():
    """No type of writer is without its place in these tests."""
    assert {place.kind for place in PLACES} == set(WRITERS)


def test_every_library_is_installed_with_the_program():
    """What a type of writer says that it needs is what requirements.txt installs."""
    libraries = [writer_type(kind).library for kind in WRITERS]
    assert None in libraries
    required = re.findall(r"^([\w-]+)", (SOURCE.parent / "requirements.txt").read_text(), re.MULTILINE)
    assert {library[1] for library in libraries if library} <= set(required)


class TestContract(WriterContract):
    """What every writer must do, of those of the program."""


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
