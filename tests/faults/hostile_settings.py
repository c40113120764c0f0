"""
Settings files that no one would write on purpose, and a process that reads them.

``hostile_settings.py SEED COUNT DIRECTORY`` reads each with reading.read and prints what was found as a line of JSON.
"faults" are the files that brought anything but settings or a SettingsError of plain, short lines without a password;
they are left in DIRECTORY. A reading that takes longer than PATIENCE_S ends it by SIGALRM, and its file is the
settings.py that is left there.
"""

import contextlib
import dataclasses
import io
import json
import os
import random
import re
import signal
import sys
import time
import unicodedata
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "src"))

from powermeter.errors import SettingsError  # noqa: E402
from powermeter.settings import reading  # noqa: E402 - found by the line before
from powermeter.writers import WRITERS, writer_type  # noqa: E402

EXAMPLE = (TOP / "settings.py.example").read_text()

#: No reading may take longer, in s; and no line of an error be longer, in characters.
PATIENCE_S = 10
LONGEST_LINE = 1000

#: Stands where a password or token does, and must stand nowhere else.
SECRET = "hunter2-Secr3t"

#: Objects of a class of the file's own: each is odd in another way.
ODD = f"""
class Odd:
    def __init__(self, *names): self.names = names
def odd(name, base=(), result=None):
    def raising(self, *_): raise RuntimeError({SECRET!r})
    return type("Odd", base or (), {{name: raising if result is None else (lambda self, *_: result)}})
"""

#: Expressions that stand for a value, right ones and others.
VALUES = (
    r"""
None | True | False | 0 | 1 | -1 | 5 | 12 | 16 | 18 | 40 | 41 | 1000 | 24000 | 0.5 | 1e308 | 1e-308 | -0.0 | 10**30
-10**30 | 10**5000 | -10**5000 | 1j | float("nan") | float("inf") | float("-inf") | object() | object | int | len
Ellipsis | NotImplemented | range(10**18) | lambda: 0 | print | exit
"" | " " | "0" | "18" | "None" | "a" | "power.csv" | "/" | "/tmp" | "//" | "." | ".." | "~" | "~nobody/x" | "~\0"
"\0" | "\n" | "\x1b[2J" | "\ud800" | "/\ud800" | "\udcff" | "/\udcff" | "\U0010ffff" | "e\u0301" | "\u202e" | "#" | "\\"
"a,b" | "a=b" | "{}" | "%s%n" | "a" * 10**6 | "/" * 10**6 | "/a" * 10**5 | "a" * 33 | "9" * 5000 | "a" * 64 + ".b"
"https://u:p@h/?p=1" | "::1" | "[::1]:8086" | "a..b" | "auto" | "gpiod" | "BCM" | "BOARD" | "file" | "influxdb"
"librato" | "http" | "https" | "localhost" | "127.0.0.1" | "lock" | "journal.db" | "power.pid.sock" | "../../x"
"/dev/zero" | "/dev/null" | "/dev/stdin" | "/dev/tty" | "/proc/self/mem" | "/etc/shadow" | "/etc"
b"" | b"power.csv" | b"\xff" * 9 | bytearray(3) | memoryview(b"x") | () | (1,) | [] | [[]] | [None] * 1000 | set()
{1} | {"a"} | {} | {"a": "b"} | {"meter": "x"} | {"a": 1} | {1: "a"} | {"": ""} | {None: None} | {"a": {"a": {}}}
{"x" * 10**5: "y"} | {"\ud800": "\ud800"} | dict.fromkeys(map(str, range(60)), "x") | dict.fromkeys(range(10**4))
{10**5000: 1} | {("a",): 1} | deep | deep_dict | itself
odd("__eq__", (str,)) | odd("__len__", (dict,))() | odd("__repr__", (int,))() | odd("__repr__")() | odd("__bool__")()
odd("__eq__")() | odd("__hash__")() | odd("__len__", (str,))() | odd("__le__", (float,))() | odd("__str__", (str,))("a")
odd("__class__", (), int)() | odd("__iter__", (dict,))({"a": 1}) | odd("__getattribute__")()
""".strip()
    .replace("\n", " | ")
    .split(" | ")
)

NESTED = """
deep, deep_dict, itself = [], {}, {}
for _ in range(3000): deep, deep_dict = [deep], {"a": deep_dict}
itself["house"] = itself["type"] = itself
"""

#: Whole files, each for itself.
FILES = [
    b"",
    b"\0",
    b"KEEP_DAYS = 5\0",
    b"\xff\xfe" + "KEEP_DAYS = 5".encode("utf-16-le"),
    b"\xef\xbb\xbfKEEP_DAYS = 5",
    b"# coding: latin-1\nx = '\xe9'",
    b"# coding: utf-7\nx = '+AOk-'",
    b"# coding: no-such\n",
    b"# coding: hex\n00",
    b"# coding: rot13\nvzcbeg bf",
    b"x = '\xe9'",
    b"\r\r\rKEEP_DAYS = 5\r",
    b"\x0c  KEEP_DAYS = 5",
    b"KEEP_DAYS = " + b"(" * 500 + b"5" + b")" * 500,
    b"KEEP_DAYS = " + b"[" * 90 + b"5" + b"]" * 90,
    b"KEEP_DAYS = " + b"-" * 5000 + b"5",
    b"KEEP_DAYS = " + b"not " * 5000 + b"5",
    b"KEEP_DAYS = " + b"1+" * 5000 + b"1",
    b"KEEP_DAYS = " + b"5" * 10000,
    b"KEEP_DAYS = a" + b".a" * 5000,
    b"KEEP_DAYS = f" + b"(" * 90,
    b"METERS = " + b'{"a": ' * 5000,
    b"x = " + b"lambda: " * 3000 + b"0",
    b"".join(b" " * n + b"if 1:\n" for n in range(120)),
    b"x = '''" + b"a" * 900_000 + b"'''",
    b"\n".join(b"S%d = %d" % (n, n) for n in range(2000)),
    b"A" * 100_000 + b" = 1",
    b"METERS_" + b"S" * 900_000 + b" = 1",
    "\u00c4\u0130\u00df = 1\n\uff2d\uff25\uff34\uff25\uff32\uff33 = {}\n\u039cETERS = {}".encode(),
    b"exit()",
    b"exit('" + SECRET.encode() + b"')",
    b"raise SystemExit",
    b"raise SystemExit(5)",
    b"raise BaseException('" + SECRET.encode() + b"')",
    b"raise GeneratorExit",
    b"raise MemoryError",
    b"raise type('E\\n\x1b[2J', (Exception,), {})('" + SECRET.encode() + b"')",
    b"raise ExceptionGroup('" + SECRET.encode() + b"', [ValueError(1)])",
    b"class E(Exception):\n    def __str__(self): raise self\nraise E",
    b"class E(Exception):\n    __traceback__ = None\nraise E",
    b"def f(): f()\nf()",
    b"class C:\n    def __getattr__(self, name): return getattr(self, name + 'a')\nC().a",
    b"import no_such_module",
    b"from settings import *",
    b"import settings",
    b"assert False, '" + SECRET.encode() + b"'",
    b"print('" + b"x" * 1000 + b"')\nKEEP_DAYS = 5",
    b"import sys\nprint('x', file=sys.stderr)\nKEEP_DAYS = 5",
    b"import warnings\nwarnings.warn('" + SECRET.encode() + b"')",
    b"import sys\nsys.exit = None\nKEEP_DAYS = 0",
    b"globals()[3] = 4",
    b"globals()[None] = globals()",
    b"globals().clear()",
    b"del __name__, __file__",
    b"__file__ = 3\nKEEP_DAYS = 0",
    b"__builtins__ = {}\nKEEP_DAYS = 0",
    b"globals()['KEEP_DAYS\\n\x1b[2J'] = 5",
    b"globals()['\\ud800KEEP_DAYS'] = 5",
    b"WRITERS = {'f': dict.fromkeys(['type\\n', '\x1b[2J', '\\ud800', '\\0'], 1)}",
    b"WRITERS = {'f\\n\x1b[2J': {}, '\\ud800': {}, '\\0': {}}",
    b"METERS = {'house\\n\x1b[2J': {}, 10 ** 5000: {}, None: {}, (): {}}",
    b"METERS = {'house': {10 ** 5000: 1, 'pin': 18, 'impulses_per_kwh': 1}}",
    b"METERS = {str(n): {} for n in range(5000)}",
    b"WRITERS = {str(n): {'type': 'file', 'path': str(n)} for n in range(5000)}",
    b"METERS = WRITERS = type('M', (), {'items': lambda self: 1 / 0})()",
    b"def METERS(): pass",
    b"class WRITERS: pass",
    b"METERS = {'house': {'pin': 18, 'impulses_per_kwh': 1}}; METERS['x'] = METERS",
    b"WRITERS = {'i': {'type': 'influxdb', 'ssl': True, 'verify_ssl': '/dev/zero'}}",
    b"WRITERS = {'i': {'type': 'influxdb', 'ssl': True, 'verify_ssl': '/dev/tty'}}",
    (
        b"import os\np = __file__ + '.fifo'\nos.path.exists(p) or os.mkfifo(p)\n"
        b"WRITERS = {'i': {'type': 'influxdb', 'verify_ssl': p}}"
    ),
]

_LITERAL = re.compile(r'"[^"\n]*"|\bNone\b|\bTrue\b|\bFalse\b|\b\d[\d.]*\b')
_SCHEMAS = (reading.METER, *(writer_type(kind).keys for kind in WRITERS))
_KEYS = sorted({key for schema in _SCHEMAS for key in schema} | {"enabled"})
_NAMES = [*reading.TOP, *reading.DICTS, "KEEP_DAY", "meters", "X"]
#: The example with every writer on, and a password and a token in it.
_FULL = (
    EXAMPLE.replace('"enabled": False', '"enabled": True')
    .replace('"user": "", "token": ""', f'"user": "me", "token": "{SECRET}"')
    .replace('"username": None,\n                 "password": None', f'"username": "me",\n "password": "{SECRET}"')
)


def _bytes_changed(choose):
    source = bytearray((_FULL if choose.random() < 0.5 else EXAMPLE).encode())
    for _ in range(choose.choice([1, 1, 2, 5, 30])):
        at = choose.randrange(len(source))
        kind = choose.randrange(5)
        if kind == 0:
            source[at] = choose.randrange(256)
        elif kind == 1:
            source[at:at] = choose.choice([b"1e999", *(bytes([one]) for one in b"'\"(},\n\0#0\\\xff")])
        elif kind == 2:
            del source[at : at + choose.choice([1, 2, 10, 100])]
        elif kind == 3:
            source[at:at] = source[choose.randrange(len(source)) :][: choose.choice([1, 10, 100])]
        else:
            source = source[:at]
        source = source or bytearray(b" ")
    return bytes(source)


def _values_changed(choose):
    source = _FULL if choose.random() < 0.7 else EXAMPLE
    changed = choose.sample(list(_LITERAL.finditer(source)), choose.choice([1, 1, 1, 2, 4]))
    # From the end on, and none within another: 10 ** 10 ** 5000 would be reckoned for ever, by the file itself.
    for found in sorted(changed, key=re.Match.start, reverse=True):
        source = source[: found.start()] + choose.choice(VALUES) + source[found.end() :]
    return (ODD + NESTED + source).encode()


def _made(choose):
    """Settings and keys that there are, each with any value at all."""

    def entry(kind):
        keys = choose.sample(_KEYS, choose.randrange(len(_KEYS))) if choose.random() < 0.8 else []
        pairs = [f'"{key}": {choose.choice(VALUES)}' for key in keys]
        return "{" + ", ".join(([f'"type": "{kind}"'] if kind else []) + pairs) + "}"

    lines = []
    for name in choose.sample(_NAMES, choose.randrange(1, 6)):
        value = choose.choice(VALUES)
        if name in ("METERS", "WRITERS") and choose.random() < 0.8:
            kinds = ["file", "influxdb", "librato"] if name == "WRITERS" else [""]
            value = f'{{"{choose.choice(["a", "house", "x y", ""])}": {entry(choose.choice(kinds))}}}'
        lines.append(f"{name} = {value}")
    return (ODD + NESTED + "\n".join(lines)).encode()


def generated(seed, count):
    """*count* files: the odd ones, then the example with bytes or values changed, and settings with any value."""
    choose = random.Random(seed)
    yield from FILES[:count]
    for _ in range(count - len(FILES)):
        yield choose.choice([_bytes_changed, _values_changed, _values_changed, _made])(choose)


def faults_in(said):
    """What is wrong with the lines *said* to the user, "" if nothing is."""
    for line in said:
        if SECRET in line:
            return f"shows a password: {line}"
        if len(line) > LONGEST_LINE:
            return f"a line of {len(line)}: {line[:200]}"
        if not line.isprintable():
            return f"not plain text: {line!r}"
    return ""


def texts_in(found):
    """Every text of settings that were taken: with none of them may a file or a request fail later."""
    if isinstance(found, dict):
        shown = [value for key, value in found.items() if key not in ("token", "password")]
        yield from (text for value in shown for text in texts_in(value))
    elif isinstance(found, list | tuple):
        yield from (text for value in found for text in texts_in(value))
    elif isinstance(found, str):
        # Letters of a script that Python can't show, spaces of other widths are text all the same.
        plain = (c for c in found if unicodedata.category(c) not in ("Cn", "Co", "Cf", "Zs", "Zl", "Zp"))
        yield "".join(plain)[:LONGEST_LINE]


def _rss_kib():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def main(seed, count, directory):
    """Read *count* files in *directory* and print what was found."""
    taken = refused = 0
    slowest_s, started_kib = 0.0, 0
    faults, local = {}, []
    path = Path(directory) / "settings.py"
    for number, source in enumerate(generated(seed, count)):
        path.write_bytes(source)
        path.chmod(0o600)
        begun_s = time.monotonic()
        # Nothing hears it: a reading takes every exception for the file's, and a library that hangs hears none.
        signal.alarm(PATIENCE_S)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found = reading.read(str(path))
            taken += 1
            hosts = {writer.options.get("host", "127.0.0.1") for writer in found.writers}
            if hosts <= {"127.0.0.1", "localhost"} and "librato" not in {writer.type for writer in found.writers}:
                local.append(number)
            said = [*found.warnings, *texts_in(dataclasses.asdict(found))]
        except SettingsError as error:
            refused += 1
            local.append(number)
            said = error.mistakes or ["\n"]
        except BaseException as error:  # noqa: BLE001 - that there is none is what is tried
            said = []
            faults[number] = f"{type(error).__name__}: {str(error)[:300]}"
        signal.alarm(0)
        slowest_s = max(slowest_s, time.monotonic() - begun_s)
        if fault := faults_in(said):
            faults[number] = fault[:300]
        if number in faults:
            (Path(directory) / f"settings-{number}.py").write_bytes(source)
        if number == min(len(FILES) + count // 10, count - 1):  # by then all that is loaded once is
            started_kib = _rss_kib()
    figures = {"taken": taken, "refused": refused, "slowest_s": slowest_s, "grown_kib": _rss_kib() - started_kib}
    # *local*: those that can be tried without asking another machine.
    print(json.dumps(figures | {"faults": faults, "local": local}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
