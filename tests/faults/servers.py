"""
One program with 21 writers: nine InfluxDB and nine Librato servers, each with a different trouble, all at the same
time, and beside them a healthy file, InfluxDB and Librato. First all are healthy, then the troubles begin, then they
end.

Each trouble is reported as the state and reason of its writer, also where an answer arrives so slowly that it would
never end. Nothing is lost but the one point that a server refuses, which is counted. Once its trouble has ended, each
writer catches up: everything once, in order. Writers do not disturb each other: with the healthy ones, 99 of 100 pulses
arrive within twice the time that they take without the troubles.
"""

import contextlib
import functools
import itertools
import json
import math
import os
import signal
import threading
import time

from delivered import gauges, in_file
from guarded_influxd import ADMIN, GuardedInfluxd
from http_server import HANG, Answering, Reset, forward_to, http_answer, self_signed, tls_context
from librato_server import LibratoServer
from program import SOURCE, Program, wait_until
from records import as_ns, expected, journal_rows
from rig import HERE, Row, differences, fill

from powermeter.delivery import LONGEST_PAUSE_S
from powermeter.errors import PowerError
from powermeter.meter import NS_PER_S
from powermeter.process.control import ask

TITLE = "Services in trouble"
PROMISE = "Nothing is lost to servers in trouble"
MEASURED = "points and gauges missing, doubled, out of order or different from the journal's"

PER_S = 20
WATTS = PER_S * 3600
#: Pulses that wait at the start, among which the bad one is.
BACKLOG, BAD = 5000, 1234
PERIOD_S = 1
TIMEOUT_S = 2
#: How long all is well, before the troubles and again after them, and how long they last, in s; and from what length
#: on the file, which is written every 30 s, can be judged.
PHASE_S, LEAST_S, FILE_S = 100, 10, 65
MAX_DELAY = 2.0


def drip(_request):
    """The beginning of an answer that never ends, one byte per second."""
    for byte in itertools.chain(b"HTTP/1.1 204 No Content\r\n", itertools.cycle(b"X-Header: more\r\n")):
        yield bytes([byte])
        time.sleep(1)  # the rhythm, not a result


class Service:
    """One service behind a server that answers by a script; what it let through, in order, and when."""

    def __init__(self, port, context=None, period_s=PERIOD_S):
        self._period_s = period_s
        self._forward = forward_to(port)
        self.got = []
        self.delays_s = []
        self.front = Answering(self.well, context)

    def well(self, request):
        """Pass *request* on, and note what of it was taken."""
        at_ns = time.time_ns()
        answer = self._forward(request)
        if answer.split(b" ", 2)[1] in (b"200", b"204"):
            for what, time_ns in self.read(request.body):
                self.got.append(what)
                self.delays_s.append((at_ns - time_ns) / NS_PER_S)
        return answer

    def read(self, body):
        raise NotImplementedError


class Influxdb(Service):
    """Its points by their lines' times."""

    kind = "influxdb"

    def read(self, body):
        times_ns = [int(line.rsplit(b" ", 1)[1]) for line in body.splitlines()]
        return [(time_ns, time_ns) for time_ns in times_ns]


class Librato(Service):
    """Its gauges; one is late from the end of its period on."""

    kind = "librato"

    def read(self, body):
        return [
            ((one["measure_time"], one["count"]), (one["measure_time"] + self._period_s) * NS_PER_S)
            for one in json.loads(body)["gauges"]
        ]


class Tail:
    """Reads the CSV file as it grows, on a thread of its own; a context manager."""

    def __init__(self, path):
        self.delays_s = []
        self._path = path
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        with self._path.open("rb") as file:
            file.seek(0, os.SEEK_END)  # what had waited at the start says nothing
            rest = b""
            while not self._ending.wait(0.1):
                *lines, rest = (rest + file.read()).split(b"\n")
                now_ns = time.time_ns()
                times = [as_ns(line.split(b",")[0].decode()) for line in lines]
                self.delays_s += [(now_ns - time_ns) / NS_PER_S for time_ns in times]

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join()


def p99(delays_s):
    """What 99 of 100 stay within."""
    return sorted(delays_s)[math.ceil(0.99 * len(delays_s)) - 1]


#: By trouble: what a server with it answers (None: the trouble is not the answer), and words of the reason shown.
TROUBLES = {
    "hung": (HANG, "no answer within"),
    "slow": (drip, "no answer within"),
    "reset": (Reset(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"), "reset"),
    "unavailable": (http_answer(503, b"{}", Retry_After="3"), "503"),
    "password": (None, "401"),
    "missing": (None, "404"),
    "bad": (None, ""),
    "certificate": (None, "certificate"),
    "name": (None, "name resolution"),
}
WELL = "well"


def _refuse(word, well, request):
    return http_answer(400, b"{}") if word in request.body else well(request)


class Street:
    """All services, the program and its settings; a context manager."""

    def __init__(self, rig):
        self.directory = rig.directory / "street"
        self.directory.mkdir()
        self.influxd = rig.influxd
        self.guarded = GuardedInfluxd(self.directory / "guarded")
        self.libratos = {trouble: LibratoServer() for trouble in (*TROUBLES, WELL)}
        self.names = self.directory / "names"
        self.names.write_text("influxdb.test librato.test")
        self.right, self.wrong = (self_signed(self.directory, name) for name in ("right", "wrong"))
        self.services = {}

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            self._open(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind, error, trace):
        self._stack.close()

    def _open(self, stack):
        stack.enter_context(self.guarded)
        for trouble, librato in self.libratos.items():
            stack.enter_context(librato)
            if trouble != "password":
                self.influxd.query(f'CREATE DATABASE "{trouble}"')
            context = tls_context(*self.right) if trouble == "certificate" else None
            port = self.guarded.port if trouble == "password" else self.influxd.port
            for service in (Influxdb(port, context), Librato(librato.port, context)):
                stack.callback(service.front.close)
                self.services[f"{service.kind}_{trouble}"] = service
        env = {
            "PYTHONPATH": os.pathsep.join(map(str, (HERE / "bug", SOURCE))),
            "POWER_NAMES": str(self.names),
            "SSL_CERT_FILE": self.right[0],
        }
        self.program = Program(self.directory / "program", env=env)
        stack.callback(self.program.end)
        self.data = self.program.data_dir / "simulated"
        self.set()
        fill(self.data, ["file", *self.services], BACKLOG, PER_S)
        self._refuse_the_bad(journal_rows(self.data)[BAD - 1])

    def _refuse_the_bad(self, row):
        """From the start on, so that it is one among all that wait."""
        self.bad_ns, self.bad_s = row[2], row[2] // (PERIOD_S * NS_PER_S) * PERIOD_S
        for kind, word in (("influxdb", f" {self.bad_ns}"), ("librato", f'"measure_time": {self.bad_s},')):
            service = self.services[f"{kind}_bad"]
            service.front.script = functools.partial(_refuse, word.encode(), service.well)

    def set(self, *, right=True):
        """Write the settings, with the *right* password or another."""
        writers = {"file": {"type": "file"}}
        for name, service in self.services.items():
            kind, trouble = name.split("_")
            host = f"{kind}.test" if trouble == "name" else "127.0.0.1"
            tls = trouble == "certificate"
            if kind == "influxdb":
                writers[name] = {"type": kind, "host": host, "port": service.front.port, "username": ADMIN["username"]}
                writers[name] |= {"timeout": TIMEOUT_S, "update_period": 1, "ssl": tls}
                writers[name] |= {"database": "power" if trouble == "password" else trouble}
                writers[name] |= {"password": ADMIN["password"] if right or trouble != "password" else "wrong"}
            else:
                writers[name] = {"type": kind, "hostname": f"{host}:{service.front.port}", "source": "here"}
                writers[name] |= {"protocol": "https" if tls else "http", "period": PERIOD_S}
                token = LibratoServer.token if right or trouble != "password" else "wrong"
                writers[name] |= {"user": LibratoServer.user, "token": token}
        meters = {"house": {"pin": 18, "impulses_per_kwh": 1000, "max_watts": 2 * WATTS}}
        self.program.set(f"COMMIT_INTERVAL = 0.5\nMETERS = {meters!r}\nWRITERS = {writers!r}")

        if self.program.pid:
            os.kill(self.program.pid, signal.SIGHUP)

    def status(self):
        """The status of each writer, by name; asked for at most four times per second."""
        time.sleep(0.25)
        try:
            return json.loads(ask(str(self.program.pidfile), "json"))["writers"]
        except PowerError as error:
            raise AssertionError(f"{error}: {self.log()}") from error

    def log(self):
        return (self.data / "power.log").read_text()[-5000:]

    def trouble(self):
        """Let the troubles begin, but for the password, which is a setting."""
        for kind in ("influxdb", "librato"):
            for trouble, (script, _) in TROUBLES.items():
                if script is not None:
                    self.services[f"{kind}_{trouble}"].front.script = script
            front = self.services[f"{kind}_certificate"].front
            front._context = tls_context(*self.wrong)
            front.hang_up()
            # A name is looked up for a new connection.
            self.names.write_text("")
            self.services[f"{kind}_name"].front.hang_up()
        self.influxd.query("DROP DATABASE missing")
        self.services["librato_missing"].front.script = http_answer(404, b"{}")

    def mend(self):
        """Let them end, but for the password. What hangs then goes on hanging."""
        for name, service in self.services.items():
            if not name.endswith("_bad"):
                service.front.script = service.well
            if name.endswith("_certificate"):
                service.front._context = tls_context(*self.right)
        self.influxd.query("CREATE DATABASE missing")
        self.names.write_text("influxdb.test librato.test")

    # --- What is there in the end

    def judge(self, name):
        """Where what the service *name* took differs from what the journal has, but for what it refused."""
        service, trouble = self.services[name], name.split("_")[1]
        rows = journal_rows(self.data)
        if name.startswith("influxdb"):
            rows = [row for row in rows if not (trouble == "bad" and row[2] == self.bad_ns)]
            found = differences(service.got, [row[2] for row in rows])
            wanted = sorted(expected(rows), key=lambda row: row[:2])
            points = self._points(trouble)
            # Dropped, the database has forgotten what it had.
            return [*found, *differences(points, wanted[-len(points) :] if trouble == "missing" else wanted)]
        wanted = {
            at_s: one for (_, at_s), one in gauges(rows, PERIOD_S).items() if trouble != "bad" or at_s != self.bad_s
        }
        stored = self.libratos[trouble].gauges
        return [
            *differences(service.got, [(at_s, count) for at_s, (count, _, _) in sorted(wanted.items())]),
            *differences(
                sorted((at_s, (one["count"], one["min"], one["max"])) for (_, _, at_s), one in stored.items()),
                sorted(wanted.items()),
            ),
        ]

    def _points(self, trouble):
        query = "SELECT * FROM electricity_power"
        if trouble == "password":
            (series,) = self.guarded.query_as_admin(query)
        else:
            (series,) = self.influxd.query(query, trouble)
        points = [dict(zip(series["columns"], values, strict=True)) for values in series["values"]]
        return [
            (point["meter"], point["time"], point.get("power"), point["energy"], point["register"]) for point in points
        ]


def caught_up(writers, but=""):
    """Whether all of *writers* but those in a trouble deliver what comes now; 30 s of the file may wait."""
    return all(
        one["state"] != "failing" and (one["oldest_s"] or 0) < 40
        for name, one in writers.items()
        if name.partition("_")[2] != but
    )


class Phases:
    """The delays of the healthy writers, phase by phase."""

    def __init__(self, street, tail, seconds):
        self.sources = {name: street.services[name].delays_s for name in (f"influxdb_{WELL}", f"librato_{WELL}")}
        self.sources["file"] = tail.delays_s
        self._seconds = seconds

    def measure(self, shown=lambda: True):
        """By writer the delays while *shown* becomes true and the phase passes."""
        begun = {name: len(delays) for name, delays in self.sources.items()}
        end_s = time.monotonic() + self._seconds
        wait_until(shown)
        time.sleep(max(0, end_s - time.monotonic()))
        return {name: delays[begun[name] :] for name, delays in self.sources.items()}


def well(street, phases):
    """All is well, but for one point: the delays, and who refused how many."""
    delays = phases.measure()
    status = street.status()
    refused = {name: one["refused"] for name, one in status.items() if one["refused"]}
    bad = [row for row in journal_rows(street.data) if row[2] // NS_PER_S // PERIOD_S * PERIOD_S == street.bad_s]
    assert refused == {"influxdb_bad": 1, "librato_bad": len(bad)}, refused
    assert not [one for one in status.values() if one["state"] == "failing"], status
    return delays, refused


def in_trouble(street, phases):
    """The delays while all troubles last, and the reason that was shown for each."""
    street.set(right=False)
    wait_until(lambda: all("401" in street.status()[f"{kind}_password"]["reason"] for kind in ("influxdb", "librato")))
    street.trouble()
    said = {}
    words = {name: TROUBLES.get(name.partition("_")[2], (None, ""))[1] for name in street.services}
    wanted = {name for name, of_reason in words.items() if of_reason}

    def all_said():
        for name, one in street.status().items():
            if name in wanted and one["state"] == "failing" and words[name] in one["reason"]:
                said.setdefault(name, one["reason"])
        return set(said) == wanted

    try:
        delays = phases.measure(all_said)
    except AssertionError:
        status = street.status()
        silent = {name: (status[name]["state"], status[name]["reason"]) for name in wanted - set(said)}
        raise AssertionError(f"a trouble is not said: {silent}") from None
    others = {name: one["state"] for name, one in street.status().items() if name not in wanted}
    assert "failing" not in others.values(), others
    return delays, said


def mended(street):
    """All is well again, the password last; how long it took until all had caught up, in s."""
    street.mend()
    since_s = time.monotonic()
    wait_until(lambda: caught_up(street.status(), "password"), 2 * LONGEST_PAUSE_S)
    took_s = time.monotonic() - since_s
    street.set()
    wait_until(lambda: caught_up(street.status()))
    return took_s


def end(street):
    """Stop it, and start it again with no pulses, until what had to wait for the end of its period is delivered too."""
    for watts in (None, 1):
        if watts:
            street.program.start("--simulate", str(watts))
            wait_until(lambda: not any(one["waiting"] for one in street.status().values()))
        assert street.program.run("--kill").returncode == 0


def run(part, rig):
    phase_s = max(LEAST_S, PHASE_S * part)
    with Street(rig) as street:
        street.program.start("--simulate", str(WATTS))
        wait_until(lambda: caught_up(street.status()))
        with Tail(street.data / "power.csv") as tail:
            phases = Phases(street, tail, phase_s)
            before, refused = well(street, phases)
            during, said = in_trouble(street, phases)
            if any(
                during[name] and p99(during[name]) > MAX_DELAY * p99(before[name]) for name in before if before[name]
            ):
                # The machine may have been at other work just then: the troubles last, and it is looked at once more.
                during = phases.measure()
            took_s = mended(street)
            after = phases.measure()
            end(street)
        found = {name: street.judge(name) for name in street.services} | {"file": in_file(street.data)}
        wrong = {name: differ[:3] for name, differ in found.items() if differ}
        assert not wrong, wrong
        counted = len(journal_rows(street.data))
        assert "CRITICAL" not in street.log()
    return [
        Row("writers in one program", str(len(found))),
        Row("all healthy, then all in trouble, then all healthy, for", f"{phase_s:.0f} s each"),
        *(Row(name.replace("_", ", "), f"failing: ``{reason}``", "reported") for name, reason in sorted(said.items())),
        *(
            Row(f"{name.split('_')[0]}, one bad point among {BACKLOG:,}: pulses refused", str(count), str(count))
            for name, count in sorted(refused.items())
        ),
        Row("the troubles over, all had caught up after", f"{took_s:.0f} s"),
        Row("pulses", f"{counted:,}"),
        Row(
            "points and gauges missing, doubled, out of order or different from the journal's",
            str(sum(map(len, found.values()))),
            "0",
        ),
        *(
            judged(f"the healthy {name.split('_')[0]}", before[name] + after[name], during[name])
            for name in before
            if name != "file" or phase_s >= FILE_S
        ),
    ]


def judged(name, undisturbed, during, when="in the troubles"):
    """The row of a healthy writer, from its delays without the troubles and with them."""
    assert undisturbed, name
    assert during, f"{name}: got nothing {when}"
    least_s, during_s = p99(undisturbed), p99(during)
    ratio = during_s / least_s
    assert ratio <= MAX_DELAY, f"{name}: 99 of 100 within {during_s:.2f} s {when}, else {least_s:.2f} s"
    return Row(
        f"{name} {when}: 99 of 100 within",
        f"{during_s:.2f} s, {ratio:.2f} of the {least_s:.2f} s otherwise",
        f"<= {MAX_DELAY:g} of it",
    )
