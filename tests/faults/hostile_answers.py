"""
Answers to a writer's request that no service gives on purpose, and the server that gives them.

An answer is a function of the request that yields what is sent, piece by piece; a float among the pieces is a pause
in s. What has no end goes on until the writer hangs up.
"""

import base64
import gzip
import html
import itertools
import json
import random
import re
import threading
import urllib.parse

from http_server import Answering, _read

#: A piece of what has no end, and how much is "no end" of what has a length.
PIECE = b"x" * 65536
GIB = 2**30

#: A slow server sends a byte in this time, in s.
SLOW_S = 0.02

OK, WRONG = b"HTTP/1.1 204 No Content\r\n", b"HTTP/1.1 400 Bad Request\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"


class Hostile(Answering):
    """An :class:`Answering` whose script yields pieces of its answer; *sent* counts their bytes."""

    sent = 0

    def __init__(self, script, context=None):
        self._ended = threading.Event()
        super().__init__(script, context)

    def close(self):
        """End all."""
        self._ended.set()
        super().close()

    def _converse(self, connection):
        with connection.makefile("rb") as reader:
            while (request := _read(reader)) is not None:
                self.requests.append(request)
                for piece in self.script(request):
                    if isinstance(piece, float):
                        self._ended.wait(piece)
                    else:
                        connection.sendall(piece)
                        self.sent += len(piece)
                return


class Unread(Hostile):
    """Takes connections, and reads nothing of what is sent; as if its process were stopped."""

    def __init__(self):
        super().__init__(None)

    def _converse(self, connection):
        self._ended.wait()


def whole(answer):
    """*answer* as it is."""
    return lambda _request: iter([answer])


def endless(begin, piece=PIECE, count=GIB):
    """*begin*, and then *piece* again and again, up to *count* bytes."""
    return lambda _request: itertools.chain([begin], itertools.repeat(piece, count // len(piece)))


def slowly(begin, answer):
    """*begin*, and then *answer* byte by byte."""

    def pieces(_request):
        yield begin
        for byte in answer:
            yield SLOW_S
            yield bytes([byte])

    return pieces


#: How a service may write what it says back.
WRITTEN = {
    "in JSON": lambda text: json.dumps(text)[1:-1],
    "in JSON, escaped": lambda text: "".join(f"\\u{ord(c):04x}" for c in text),
    "in a URL": lambda text: urllib.parse.quote(text, safe=""),
    "in a form": lambda text: re.sub("%..", lambda match: match[0].lower(), urllib.parse.quote_plus(text)),
    "in HTML": html.escape,
    "in HTML, escaped": lambda text: "".join(f"&#x{ord(c):X};" for c in text),
    "in a string": lambda text: repr(text)[1:-1],
}


def said_back(status, *, in_headers=False, write=str):
    """What came with the request, its secrets too, said back in the status line, a header or the body."""

    def pieces(request):
        header = request.headers.get("authorization")
        said = write(f"{header} {base64.b64decode(header.split()[-1]).decode()} {request.path[:20]}").encode()
        if in_headers:
            yield b"HTTP/1.1 " + said + b"\r\nX: " + said + b"\r\n" + said + b"\r\n\r\n"
        else:
            yield b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, 2 * len(said)) + said * 2

    return pieces


def _with_length(status_line, body, *headers):
    return whole(b"".join([status_line, *headers, b"Content-Length: %d\r\n\r\n" % len(body), body]))


_BOMB = gzip.compress(bytes(10**7))

#: By name. What is "slow" takes as long as the writer lets it.
ANSWERS = {
    "a body of 1 GiB after an error": endless(WRONG + b"Content-Length: %d\r\n\r\n" % GIB),
    "a body of 1 GiB after a success": endless(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIB),
    "a body of 1 GiB after no content": endless(OK + b"Content-Length: %d\r\n\r\n" % GIB),
    "a body without a length": endless(WRONG + b"\r\n"),
    "a body without a length, HTTP/1.0": endless(b"HTTP/1.0 500 X\r\n\r\n"),
    "chunks without an end": endless(WRONG + CHUNKED, b"10000\r\n" + PIECE + b"\r\n"),
    "a chunk of 1 GiB": endless(WRONG + CHUNKED + b"40000000\r\n"),
    "a chunk of -1": endless(WRONG + CHUNKED + b"-1\r\n"),
    "a chunk of -5": endless(WRONG + CHUNKED + b"-5\r\n"),
    "a chunk of -1 after a success": endless(b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"-1\r\n"),
    "a chunk of a size of 60,000 digits": endless(WRONG + CHUNKED + b"F" * 60_000 + b"\r\n"),
    "a chunk of no size": endless(WRONG + CHUNKED + b"zz\r\n"),
    "chunks of 1 byte with long extensions": endless(WRONG + CHUNKED, b"1;" + b"e" * 60_000 + b"\r\nx\r\n"),
    "trailers without an end": endless(WRONG + CHUNKED + b"0\r\n", b"X: x\r\n" * 1000),
    "a trailer without an end": endless(WRONG + CHUNKED + b"0\r\nX: "),
    "headers without an end": endless(WRONG, b"X: x\r\n" * 1000),
    "a header without an end": endless(WRONG + b"X: "),
    "100 headers of 60,000 bytes": whole(OK + (b"X: " + b"x" * 60_000 + b"\r\n") * 99 + b"\r\n"),
    "a status line without an end": endless(b"HTTP/1.1 200 "),
    "no HTTP, without an end": endless(b""),
    "100 Continue without an end": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "100 Continue with headers without an end": endless(b"HTTP/1.1 100 Continue\r\n", b"X: x\r\n" * 1000),
    "switching protocols": endless(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
    "HTTP/2": whole(b"HTTP/2 200\r\n\r\n"),
    "HTTP/0.9": whole(b"<html>Welcome</html>"),
    "nothing": whole(b""),
    "a status of 99": whole(b"HTTP/1.1 99 X\r\n\r\n"),
    "a status of 999": whole(b"HTTP/1.1 999 X\r\nContent-Length: 0\r\n\r\n"),
    "a status of 5,000 digits": whole(b"HTTP/1.1 " + b"2" * 5000 + b" X\r\n\r\n"),
    "a status of other digits": whole("HTTP/1.1 \uff12\uff10\uff14 X\r\n\r\n".encode()),
    "two answers at once": whole(OK + b"Connection: keep-alive\r\n\r\n" + WRONG + b"Content-Length: 0\r\n\r\n"),
    "a body that is too short": whole(WRONG + b"Content-Length: 1000\r\n\r\n{"),
    "a chunk that is too short": whole(WRONG + CHUNKED + b"100\r\n{"),
    "a negative length": endless(WRONG + b"Content-Length: -1\r\n\r\n"),
    "a length of 5,000 digits": endless(WRONG + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"),
    "a length of no digits": endless(WRONG + b"Content-Length: much\r\n\r\n"),
    "two lengths": whole(WRONG + b"Content-Length: 5\r\nContent-Length: 1\r\n\r\n{}"),
    "chunks and a length": whole(WRONG + b"Content-Length: 5\r\n" + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n"),
    "an error of 10 MB of text": _with_length(WRONG, b'{"error":"' + b"much to say " * 10**6 + b'"}'),
    "an error of control characters": _with_length(WRONG, b'{"error":"\x1b[2J\x1b]0;x\x07\r\n\0\n\x9b2J\xe2\x80\xae"}'),
    "an error of bytes": _with_length(WRONG, random.Random(1).randbytes(5000)),
    "an error of JSON 50,000 deep": _with_length(WRONG, b"[" * 50_000),
    "a gzip bomb after an error": _with_length(WRONG, _BOMB, b"Content-Encoding: gzip\r\n"),
    "a gzip bomb after a success": _with_length(b"HTTP/1.1 200 OK\r\n", _BOMB, b"Content-Encoding: gzip\r\n"),
    "invalid msgpack": _with_length(WRONG, b"\xc1", b"Content-Type: application/x-msgpack\r\n"),
    "msgpack 5,000 deep": _with_length(WRONG, b"\x91" * 5000, b"Content-Type: application/x-msgpack\r\n"),
    "msgpack of a wrong time": _with_length(WRONG, b"\xd6\x05abcd", b"Content-Type: application/x-msgpack\r\n"),
    "msgpack of a far time": _with_length(
        WRONG, b"\xc7\x0c\x05" + b"\x7f" * 12, b"Content-Type: application/x-msgpack\r\n"
    ),
    "dropped=-1": _with_length(WRONG, b'{"error":"partial write: x dropped=-1"}'),
    "dropped=10**9": _with_length(WRONG, b'{"error":"partial write: x dropped=1000000000"}'),
    "dropped= 5,000 digits": _with_length(WRONG, b'{"error":"partial write: x dropped=' + b"9" * 5000 + b'"}'),
    "dropped= other digits": _with_length(WRONG, '{"error":"partial write: x dropped=٣²"}'.encode()),
    "a redirect to itself": whole(b"HTTP/1.1 307 X\r\nLocation: /write\r\nContent-Length: 0\r\n\r\n"),
    "a redirect to a file": whole(b"HTTP/1.1 302 X\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"),
    "a redirect to nowhere": whole(b"HTTP/1.1 301 X\r\nLocation: http://[\r\nContent-Length: 0\r\n\r\n"),
    "a redirect of 1 GiB": endless(b"HTTP/1.1 301 X\r\nLocation: /\r\n\r\n"),
    "what was sent, after an error": said_back(400),
    "what was sent, after a refusal": said_back(401),
    "what was sent, after a bug": said_back(500),
    "what was sent, after a success": said_back(200),
    "what was sent, as the status": said_back(0, in_headers=True),
    **{f"what was sent, {how}": said_back(400, write=write) for how, write in WRITTEN.items()},
    "slow: the status line": slowly(b"", b"HTTP/1.1 200 " + b"x" * 10**6),
    "slow: the headers": slowly(WRONG, b"X: x\r\n" * 10**6),
    "slow: the body": slowly(WRONG + b"\r\n", PIECE * 100),
    "slow: a body of a length": slowly(WRONG + b"Content-Length: 60000\r\n\r\n", PIECE),
    "slow: the chunks": slowly(WRONG + CHUNKED, b"1\r\nx\r\n" * 10**6),
    "slow: the trailers": slowly(WRONG + CHUNKED + b"0\r\n", b"X: x\r\n" * 10**6),
    "slow: 100 Continue": slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10**6),
    "slow: nothing after the headers": lambda _request: iter([WRONG + b"Content-Length: 5\r\n\r\n", 60.0]),
    "slow: nothing at all": lambda _request: iter([60.0, b""]),
}

_GOOD = [
    b"HTTP/1.1 204 No Content\r\nContent-Type: application/json\r\nX-Influxdb-Version: 1.8.10\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b'HTTP/1.1 400 Bad Request\r\nContent-Length: 39\r\n\r\n{"error":"partial write: x dropped=1"}\n ',
    b'HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n10\r\n{"error":"wrong"}\r\n0\r\n\r\n',
    b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 3\r\nConnection: close\r\n\r\nbusy",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
]


def changed(choose):
    """An answer that was right until some of its bytes were changed."""
    answer = bytearray(choose.choice(_GOOD))
    for _ in range(choose.choice([1, 1, 2, 3, 8])):
        at = choose.randrange(len(answer))
        kind = choose.randrange(4)
        if kind == 0:
            answer[at] = choose.randrange(256)
        elif kind == 1:
            del answer[at : at + choose.choice([1, 2, 5])]
        elif kind == 2:
            answer[at:at] = choose.choice([b"\r\n", b"\n", b"\0", b"-", b"9" * 30, b" ", b"\xff", b":", b"chunked"])
        else:
            answer[at:at] = answer[: choose.randrange(len(answer))]
        answer = answer or bytearray(b" ")
    return bytes(answer)
