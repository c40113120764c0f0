"""
A server is hostile, or the way to it is: it holds a request up, says a secret back, or reads what another should.

And the secrets on the machine itself: no core that has them is left, whenever the program is ended.
"""

import base64
import contextlib
import ctypes
import hashlib
import hmac
import html
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.parse

import pytest
from http_server import HANG, Answering, http_answer, self_signed, tls_context
from machine import PROGRAM, VENV, VICTIM, WATTS
from program import wait_until

SETTINGS = "/home/victim/settings.py"
DATA = "/home/victim/data"
PIDFILE = "/home/victim/power.pid"
NAMED = ["--settings", SETTINGS, "--pidfile", PIDFILE]

#: A password with all that is written in another way somewhere.
PASSWORD = 'p"4<s>&\\w/0 r+d=é%?'


def settings(m, writers, *more):
    """Settings of the victim's with *writers*, and *more* lines."""
    lines = [
        f"DATA_DIR = {DATA!r}",
        "CLOCK_WAIT = 0",
        "COMMIT_INTERVAL = 0.1",
        "L1_PIN = None",
        f"WRITERS = {writers!r}",
    ]
    m.write(SETTINGS, "\n".join([*lines, *more, ""]), owner=VICTIM)


def influxdb(**options):
    """A writer of that type, with the password."""
    return {"type": "influxdb", "host": "127.0.0.1", "username": "me", "password": PASSWORD, **options}


def power(m, *args, before=()):
    """The victim's program."""
    return m.run(*before, VENV, PROGRAM, *NAMED, *args, user="victim")


# --- A server that holds a request up

#: The timeout of a request, in s; by how much a busy machine may be late; and how long the server goes on.
TIMEOUT_S, LATE_S, FLOOD_S = 2.0, 4.0, 12.0

#: Tickets in one record of TLS, with one byte each (RFC 8446, 4.6.1): a client keeps each, which is much more work than
#: to send it.
TICKET = b"\x04\x00\x00\x0f" + struct.pack(">IIB", 7200, 1, 1) + b"n" + struct.pack(">H", 1) + b"t" + b"\x00\x00"
TICKETS = TICKET * (16_000 // len(TICKET))


class Cipher:
    """AES-256-GCM of TLS 1.3 by OpenSSL's library, under the *secret* of what the server sends (RFC 8446, 5 and 7)."""

    def __init__(self, secret):
        self._key, self._iv = (self._expanded(secret, label, size) for label, size in ((b"key", 32), (b"iv", 12)))
        self._number = 0
        self._library = ctypes.CDLL("libcrypto.so.3")
        self._library.EVP_aes_256_gcm.restype = self._library.EVP_CIPHER_CTX_new.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.EVP_CIPHER_CTX_new())

    @staticmethod
    def _expanded(secret, label, size):
        info = struct.pack(">H", size) + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
        return hmac.new(secret, info + b"\x01", hashlib.sha384).digest()[:size]

    def record(self, content, kind):
        """The next record that the server sends."""
        plain = content + bytes([kind])
        header = struct.pack(">BHH", 23, 0x0303, len(plain) + 16)
        nonce = (int.from_bytes(self._iv) ^ self._number).to_bytes(12)
        self._number += 1
        library, context, length = self._library, self._context, ctypes.c_int()
        sealed, tag = ctypes.create_string_buffer(len(plain)), ctypes.create_string_buffer(16)
        cipher = ctypes.c_void_p(library.EVP_aes_256_gcm())
        assert library.EVP_EncryptInit_ex(context, cipher, None, self._key, nonce) == 1
        assert library.EVP_EncryptUpdate(context, None, ctypes.byref(length), header, len(header)) == 1
        assert library.EVP_EncryptUpdate(context, sealed, ctypes.byref(length), plain, len(plain)) == 1
        assert library.EVP_EncryptFinal_ex(context, tag, ctypes.byref(length)) == 1
        assert library.EVP_CIPHER_CTX_ctrl(context, 16, 16, tag) == 1  # EVP_CTRL_AEAD_GET_TAG
        return header + sealed.raw + tag.raw


class Ticketing:
    """A TLS server that answers a request with session tickets, for FLOOD_S; a context manager."""

    def __init__(self, directory, certificate, key):
        self._context = tls_context(certificate, key)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._context.num_tickets = 0
        self._secrets = directory / "secrets"
        self._context.keylog_filename = str(self._secrets)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.sent = 0
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                with plain, contextlib.suppress(OSError):
                    self._flood(plain)

    def _flood(self, plain):
        with self._context.wrap_socket(plain, server_side=True) as connection:
            connection.recv(65536)
            assert connection.cipher()[0] == "TLS_AES_256_GCM_SHA384"
            said = re.findall(r"^SERVER_TRAFFIC_SECRET_0 \w+ (\w+)$", self._secrets.read_text(), re.MULTILINE)
            cipher, end_s = Cipher(bytes.fromhex(said[-1])), time.monotonic() + FLOOD_S
            while time.monotonic() < end_s:
                self.sent += os.write(connection.fileno(), cipher.record(TICKETS, 22))


def test_tickets_without_an_end_hold_no_request_up(machine):
    """What TLS reads for itself counts against the deadline too: a request takes no longer than its timeout."""
    m = machine
    with Ticketing(m.directory / "opt", *self_signed(m.made("/opt/tls"))) as server:
        options = {"ssl": True, "verify_ssl": "/opt/tls/cert.pem", "timeout": TIMEOUT_S, "port": server.port}
        settings(m, {"i": influxdb(**options)})
        begun_s = time.monotonic()
        done = power(m, "--check")
        took_s = time.monotonic() - begun_s
        assert server.sent, done
    assert took_s < TIMEOUT_S + LATE_S, done
    assert re.search(r"^writer i: (?!ok)", done.stdout, re.MULTILINE), done


# --- A server that says secrets back


def forms(secret, user="me"):
    """*secret* in the ways that a server may write it."""
    in_json = json.dumps(secret)[1:-1]
    quoted = urllib.parse.quote(secret, safe="")
    return {
        "as it is": secret,
        "JSON": in_json,
        "JSON with slashes escaped": in_json.replace("/", "\\/"),
        "JSON without escapes of letters": json.dumps(secret, ensure_ascii=False)[1:-1],
        "JSON in JSON": json.dumps(in_json)[1:-1],
        "HTML": html.escape(secret),
        "HTML by Go": html.escape(secret).replace("&quot;", "&#34;").replace("&#x27;", "&#39;"),
        "a path": urllib.parse.quote(secret),
        "a query": urllib.parse.quote_plus(secret),
        "a URL": quoted,
        "a URL in small letters": re.sub("%..", lambda found: found[0].lower(), quoted),
        "base64": base64.b64encode(secret.encode()).decode(),
        "base64 for URLs": base64.urlsafe_b64encode(secret.encode()).decode(),
        "Basic": base64.b64encode(f"{user}:{secret}".encode()).decode(),
    }


def test_secrets_that_a_server_says_back_are_not_shown(machine):
    """In whatever way a server writes the password back: neither log, status nor --check has it."""
    m = machine
    found = forms(PASSWORD)
    written = dict(enumerate(found.values()))

    def answer(request):
        number = int(re.search(r"db=form(\d+)", request.path)[1])
        return http_answer(400, f"wrong: {written[number]} is wrong".encode(), content_type="text/plain")

    with Answering(answer) as server:
        options = {"port": server.port, "update_period": 0.1, "timeout": 5}
        settings(m, {f"f{number}": influxdb(database=f"form{number}", **options) for number in written})
        checked = power(m, "--check")
        started = power(m, "--simulate", WATTS, "-v")
        assert started.returncode == 0, started

        def all_failed():
            writers = json.loads(power(m, "--status", "--json").stdout)["writers"]
            return all(writer["state"] != "ok" for writer in writers.values())

        wait_until(all_failed)
        shown = [power(m, "--status").stdout, power(m, "--status", "--json").stdout]
    log = m.on_host(f"{DATA}/simulated/power.log").read_text()
    shown += [checked.stdout, checked.stderr, started.stderr, log]
    # What is looked through has the answers.
    assert all(text.count("is wrong") >= len(written) for text in (checked.stdout, log)), shown
    said = {name for name, form in found.items() for text in shown if form in text}
    said |= {name for name, form in found.items() if json.dumps(form)[1:-1] in shown[1]}
    assert said == set()


# --- Secrets on the way


def test_a_secret_in_the_clear_is_warned_of(machine):
    """A start and --check warn of a password that goes to another machine without TLS, or without verifying it."""
    m = machine
    settings(
        m,
        {
            "inclear": influxdb(host="192.0.2.1", timeout=0.5),
            "unverified": influxdb(host="192.0.2.1", ssl=True, verify_ssl=False, timeout=0.5),
            "bytoken": {"type": "influxdb", "host": "192.0.2.1", "token": "t0ken-hunter3", "timeout": 0.5},
            "oldone": {
                "type": "librato",
                "user": "me",
                "token": "t0ken-hunter3",
                "hostname": "192.0.2.1",
                "protocol": "http",
            },
            "verified": influxdb(host="192.0.2.1", ssl=True, timeout=0.5),
            "loopback": influxdb(timeout=0.5),
            "nosecret": {"type": "influxdb", "host": "192.0.2.1", "timeout": 0.5},
        },
    )
    # In a network of its own, where nothing answers.
    for args in (["--check"], ["--simulate", WATTS]):
        done = m.run("unshare", "--net", "setpriv", f"--reuid={VICTIM}", "--clear-groups", VENV, PROGRAM, *NAMED, *args)
        warned = set(re.findall(r'WRITERS\["(\w+)"\]', done.stderr))
        assert warned == {"inclear", "unverified", "bytoken", "oldone"}, done
        assert PASSWORD not in done.stderr + done.stdout
        assert "hunter3" not in done.stderr + done.stdout


# --- Secrets in a core

#: Runs what its arguments say with cores allowed, aborts it at a line from outside, and tells whether it left one.
ABORTED = """
import os, resource, signal, subprocess, sys
resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
os.chdir("/tmp/cores")
child = os.fork()
if child == 0:
    os.execv(sys.argv[1], sys.argv[1:])
sys.stdin.readline()
os.kill(child, signal.SIGABRT)
print("core" if os.WCOREDUMP(os.waitpid(child, 0)[1]) else "none", flush=True)
"""


def aborted(m, line, until):
    """Whether *line*, aborted once *until* is true of what it printed, left a core."""
    m.made("/tmp/cores", owner=VICTIM)
    popen = m.begin("/usr/bin/python3", "-c", ABORTED, *line, user="victim", stdin=subprocess.PIPE)
    until(popen)
    popen.stdin.write("now\n")
    popen.stdin.flush()
    said = popen.stdout.read().splitlines()[-1]
    assert said in ("core", "none"), said
    return said == "core"


def reads(popen):
    """Wait until it says that it is being read."""
    assert popen.stdout.readline() == "reading\n"


READING = f"PASSWORD = {PASSWORD!r}\nimport time\nprint('reading', flush=True)\ntime.sleep(600)"


@pytest.fixture
def cores(machine):
    """A machine whose kernel leaves cores."""
    if not aborted(machine, ["/usr/bin/python3", "-c", READING], reads):
        pytest.skip("this kernel leaves a core of no program")
    return machine


@pytest.mark.parametrize("args", [["--check"], ["--nodaemon"], ["--restart"], []], ids=str)
def test_no_core_is_left_while_settings_are_read(cores, args):
    """From before the first secret is read on, no core is left: whenever the program is aborted."""
    settings(cores, {}, READING)
    assert not aborted(cores, [VENV, PROGRAM, *NAMED, *args], reads)


@pytest.mark.parametrize("args", [["--check"], ["--nodaemon", "--simulate", WATTS]], ids=str)
def test_no_core_is_left_while_a_server_is_asked(cores, args):
    """Nor while a password is on its way."""
    with Answering(HANG) as server:
        settings(cores, {"i": influxdb(port=server.port, timeout=60, update_period=0.1)})
        assert not aborted(cores, [VENV, PROGRAM, *NAMED, *args], lambda _: wait_until(lambda: server.requests))
