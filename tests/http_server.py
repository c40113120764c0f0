"""
A server on loopback that answers as a script says: for what real servers, and what stands before them, do wrong.

It speaks over the bare socket, so that it can also be silent, or stop in the middle.
"""

import contextlib
import http.client
import socket
import ssl
import struct
import subprocess
import threading
from typing import NamedTuple

#: Never answered.
HANG = object()


class Request(NamedTuple):
    """What was asked; the names of the headers in lower case."""

    method: str
    path: str
    headers: dict
    body: bytes


class Reset(NamedTuple):
    """The beginning of an answer, and then a reset of the connection."""

    beginning: bytes


def http_answer(status, body=b"", *, content_type="application/json", **headers):
    """A whole answer; ``Retry_After="3"`` is a header."""
    lines = [f"HTTP/1.1 {status} {http.client.responses[status]}", f"Content-Type: {content_type}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if status != 204:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


#: What servers do, by name. "refused" is not among them: see :meth:`Answering.stop_listening`.
BEHAVIOURS = {
    "hung": HANG,
    "301": http_answer(301, Location="http://127.0.0.1:9/elsewhere"),
    "200 HTML": http_answer(200, b"<!DOCTYPE html><html>Welcome!</html>", content_type="text/html"),
    "reset": Reset(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"),
    "503 keep-alive": http_answer(503, b"{}", Connection="keep-alive"),
    "503 close": http_answer(503, b"{}", Connection="close"),
    "429": http_answer(429, b"{}", Retry_After="1"),
    **{str(status): http_answer(status, b"{}") for status in (400, 401, 403, 404, 413, 422, 500)},
}


def forward_to(port):
    """A script that passes each request on to the server at *port* of loopback, and its answer back."""

    def forward(request):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        headers = {name: value for name, value in request.headers.items() if name != "accept-encoding"}
        try:
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            return http_answer(answer.status, answer.read())
        finally:
            connection.close()

    return forward


class Answering:
    """
    Answers every request with :attr:`script`, which may be changed at any time; a context manager.

    The script is an answer's bytes, an iterable of its parts, HANG, a Reset, or a callable that makes one of these of
    the request.
    *context* is for TLS.
    """

    def __init__(self, script, context=None):
        self.script = script
        self.requests = []
        self.connections = 0
        self._context = context
        self.open = set()
        self._threads = []
        self._listener = None
        self.port = 0
        self.listen()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def listen(self):
        """Take connections, again on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept, self._listener)

    def stop_listening(self):
        """Refuse connections from now on; those there are end."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.hang_up()

    def hang_up(self):
        """End the connections there are, the hanging ones too."""
        for connection in list(self.open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self):
        """End all."""
        self.stop_listening()
        for thread in self._threads:
            thread.join()

    def _start(self, work, *arguments):
        thread = threading.Thread(target=work, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.connections += 1
            self.open.add(connection)
            self._start(self._serve, connection)

    def _serve(self, plain):
        connection = plain
        try:
            # A client that breaks off is no concern of the server.
            with contextlib.suppress(OSError):
                if self._context:
                    plain.settimeout(30)
                    connection = self._context.wrap_socket(plain, server_side=True)
                    self.open.add(connection)
                self._converse(connection)
        finally:
            self.open -= {plain, connection}
            connection.close()
            plain.close()

    def _converse(self, connection):
        with connection.makefile("rb") as reader:
            while (request := _read(reader)) is not None:
                self.requests.append(request)
                answer = self.script
                if callable(answer):
                    answer = answer(request)
                if answer is HANG:
                    reader.read(1)
                    return
                if isinstance(answer, Reset):
                    connection.sendall(answer.beginning)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if not isinstance(answer, bytes):
                    for part in answer:
                        connection.sendall(part)
                    continue
                connection.sendall(answer)
                if b"Connection: close" in answer:
                    return


def _read(reader):
    first = reader.readline().split()
    if len(first) != 3 or not first[2].startswith(b"HTTP/1."):  # the end, or no HTTP, as TLS is
        return None
    headers = http.client.parse_headers(reader)
    headers = {name.lower(): value for name, value in headers.items()}
    body = reader.read(int(headers.get("content-length", 0)))
    return Request(first[0].decode(), first[1].decode(), headers, body)


def self_signed(directory, name="cert"):
    """Make a certificate for 127.0.0.1 that only itself vouches for; the paths of it and of its key."""
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=power -keyout {key} -out {certificate}"
        " -addext subjectAltName=IP:127.0.0.1 -addext keyUsage=critical,digitalSignature,keyCertSign".split(),
        check=True,
        capture_output=True,
    )
    return str(certificate), str(key)


def tls_context(certificate, key):
    """For a server with the certificate in these files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
