"""The handbook's reference against the program: whatever it says is true, and nothing is left out."""

import ast
import dataclasses
import doctest
import importlib
import re
import sqlite3

import pytest
from page_client import page_settings
from program import SOURCE, Program
from server import free_port

from powermeter import commands
from powermeter.journal.tables import SCHEMAS
from powermeter.writers.file import HEADER

DOCS = SOURCE.parent / "docs"
REFERENCE = DOCS / "reference"

#: A part of a message that differs from case to case.
HOLE = "\0"

#: A term of a definition list: what stands at the margin before an indented line.
TERM = re.compile(r"^(?!\.\. )(\S.*)\n(?=    ?\S)", re.MULTILINE)


def page(name):
    return (REFERENCE / f"{name}.rst").read_text()


def literals_of(text):
    """The literals among the terms of the definition lists in *text*."""
    return {literal for term in TERM.findall(text) for literal in re.findall(r"``(.+?)``", term)}


# --- Messages


@dataclasses.dataclass(frozen=True)
class Message:
    """A message of the source: its text with holes, its place, and its levels, none where it is no log's."""

    text: str
    place: str = dataclasses.field(compare=False)
    levels: frozenset = frozenset()


def plain(text):
    """*text* with each run of holes, and the space beside it, as one hole."""
    return re.sub(rf"\s*{HOLE}[\s{HOLE}]*", HOLE, text)


def texts(node):
    """What the expression *node* can be as text, with holes; nothing where it is not known at all."""
    match node:
        case ast.Constant(value=str(text)):
            return [text]
        case ast.IfExp(body=body, orelse=orelse):
            return texts(body) + texts(orelse)
        case ast.List(elts=elements):
            return [text for element in elements for text in texts(element)]
        case ast.JoinedStr(values=[*_, ast.FormattedValue(value=ast.BoolOp(values=[_, ast.Constant(value=str(end))]))]):
            start = "".join(part.value if isinstance(part, ast.Constant) else HOLE for part in node.values[:-1])
            return [start + HOLE, start + end]
        case ast.JoinedStr(values=parts):
            return ["".join(part.value if isinstance(part, ast.Constant) else HOLE for part in parts)]
    return []


def levels_of(call, function):
    """The levels that the log's *call* may have, by name; for log.log() whatever *function* may set."""
    if call.func.attr != "log":
        return frozenset({call.func.attr.replace("exception", "error")})
    expression = call.args[0]
    if isinstance(expression, ast.Name):
        (expression,) = (
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == expression.id
        )
    named = {node.attr.lower() for node in ast.walk(expression) if isinstance(node, ast.Attribute)}
    return frozenset(named & {"debug", "info", "warning", "error", "critical"})


def power_errors():
    """The names of our errors, and of those that a module has made of them."""
    classes = [
        node
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    names = {"PowerError"}
    while found := {c.name for c in classes if {ast.unparse(base) for base in c.bases} & names} - names:
        names |= found
    return names


def said_by(node, function, errors, entry):
    """The messages that *node* in *function* says, of the setting *entry*: pairs of a text and its levels."""
    levels = frozenset()
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="log"), attr=method), args=args):
            found = [re.sub(r"%[sdg]", HOLE, text) for text in texts(args[1 if method == "log" else 0])]
            assert found, f"a message that can't be read: {ast.unparse(node)}"
            levels = levels_of(node, function)
        case ast.Call(func=ast.Name(id="SettingsError"), args=[_, mistakes]):
            found = [f"{HOLE}: {text}" for text in texts(mistakes)]
        case ast.Call(func=ast.Name(id=name), args=args) if name in errors or name == "print":
            found = [text.removeprefix("power: ") for arg in args for text in texts(arg)]
        case ast.Call(func=ast.Attribute(attr="mistake"), args=[_, _, allowed]):
            found = [f"{HOLE}: found {HOLE}, allowed: {text}" for text in texts(allowed)]
        case ast.Call(func=ast.Name(id="Mistake"), args=[_, _, allowed]):
            found = [f"{HOLE}: found {HOLE}, allowed: {text}" for text in texts(allowed)]
        case ast.Call(func=ast.Name(id="Remark"), args=[remark, *names]):
            place = f"{HOLE}: {entry}" + "".join(f'["{name}"]' for key in names for name in texts(key))
            found = [f"{place}: {text}" for text in texts(remark)]
        case ast.Call(func=ast.Attribute(attr="append", value=value), args=[arg]) if (
            ast.unparse(value) in ("said", "messages", "warned", "self.mistakes") and function.name != "_input"
        ):
            found = texts(arg)
        case ast.AugAssign(target=ast.Name(id="said"), value=ast.ListComp(elt=arg)):
            found = texts(arg)
        case ast.Call(func=ast.Name(id="_record") | ast.Attribute(attr="_report"), args=[level, text, *_]):
            # What the log says of itself.
            found, levels = texts(text), frozenset({ast.unparse(level).rpartition(".")[2].lower()})
        case ast.Call(func=ast.Name(id="OSError"), args=[_, reason]):
            # An error of the program that is raised beside the system's: the file's name comes first.
            found = [f"{HOLE}: {text}" for text in texts(reason)]
        case ast.Call(func=func, args=args) if ast.unparse(func) == "super().__init__" and function.name == "__init__":
            # An error's text may be made in its own class.
            found = [text for arg in args for text in texts(arg)]
        case _:
            found = []
    return [(text, levels) for text in found]


def messages():
    """Every message of the source: of its log, its errors and what its commands print."""
    errors = power_errors()
    found = set()
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        entry = "MQTT" if "mqtt" in path.parts else f'WRITERS["{HOLE}"]'
        for node in tree.body:
            match node:
                case ast.Assign(targets=[ast.Name(id="ADVICE")], value=ast.Dict(values=values)):
                    # What a writer's reasons may end with.
                    found |= {Message(text, f"{path.name}:{node.lineno}") for value in values for text in texts(value)}
        for function in ast.walk(tree):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                said = said_by(node, function, errors, entry)
                # An error's text may be made in its own class.
                if (
                    isinstance(node, ast.Call)
                    and ast.unparse(node.func) == "super().__init__"
                    and path.stem == "errors"
                ):
                    said = [(text, frozenset()) for arg in node.args for text in texts(arg)]
                for text, levels in said:
                    # One that says nothing by itself passes another's on; JSON is for programs.
                    if plain(text) != HOLE and not text.startswith("{"):
                        found.add(Message(plain(text), f"{path.name}:{node.lineno}", levels))
    return found


def documented():
    """The messages on the page, as those of the source."""
    found = []
    for term in TERM.findall(page("log-messages")):
        text, _, levels = term.partition(" : ")
        text = re.sub(r"(\\ )?\*[^*]+\*", HOLE, text)
        found.append(Message(plain(text), term, frozenset(levels.split(" or ")) - {""}))
    return found


def test_every_message_is_on_the_page():
    """No message can be met that the page does not have, nor with another level."""
    known = set(documented())
    assert [f"{m.place}: {m.text!r}: {sorted(m.levels)}" for m in messages() - known] == []


def test_every_message_on_the_page_is_one():
    """It has no message that the program never writes, and none twice."""
    known = messages()
    on_page = documented()
    assert [m.place for m in on_page if m not in known] == []
    assert len(on_page) == len({m.place for m in on_page})


def test_messages_are_read_from_the_source():
    """The messages are found at all: one of each way of saying one."""
    found = {m.text: m.levels for m in messages()}
    assert found[f"{HOLE}: failing, pulses are kept:{HOLE}"] == {"warning", "error"}
    assert found[f"reload: the settings from before stay in force:{HOLE}"] == {"error"}
    for text in ("already running, pid*", "answered*", "*: DATA_DIR can't be made:*", "*: found*, allowed:*"):
        assert text.replace("*", HOLE) in found


# --- Settings: that every key is there the build of the pages sees, see docs/extensions


def test_what_the_reference_says_of_a_key(monkeypatch):
    """Default and what is allowed are the schema's: the examples of the extension that makes the page."""
    monkeypatch.syspath_prepend(str(DOCS / "extensions"))
    tried = doctest.testmod(importlib.import_module("settings_reference"))
    assert (tried.failed, tried.attempted) == (0, 2)


# --- Status


def dotted(status, path=()):
    """The keys of *status*, those within joined by dots; names of meters, writers and views as NAME."""
    for key, value in status.items():
        here = (*path, key)
        if isinstance(value, dict) and path in (("meters",), ("writers",), ("views",)):
            yield from dotted(value, (*path, "NAME"))
        elif isinstance(value, dict):
            yield from dotted(value, here)
        else:
            yield ".".join(here)


def test_the_keys_of_the_status(tmp_path):
    """The keys of --status --json on the page are those of a running program."""
    with Program(tmp_path, page_settings(free_port())) as program:
        program.start("--simulate", "3600")
        running = set(dotted(program.status()))
    assert literals_of(page("status")) == running


# --- Files


def test_the_tables_of_the_journal():
    """Each table and column of the journal is described, and what each version adds is shown."""
    database = sqlite3.connect(":memory:")
    database.executescript("".join(SCHEMAS))
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    text = page("files")
    described = dict(re.findall(r"^(\w+)\n((?:    .*\n)+)", text, re.MULTILINE))
    for table in tables:
        columns = {name for (name,) in database.execute(f"SELECT name FROM pragma_table_info('{table}')")}
        # A meter's key is described once.
        missing = {name for name in columns if f"``{name}``" not in described[table]}
        assert missing <= ({"meter"} if table != "meters" else set()), table
    database.close()
    assert len(re.findall(r":start-after: SCHEMA\w* = ", text)) == len(SCHEMAS)


def test_the_columns_of_the_csv():
    """The columns of the file are described, in their order."""
    columns = HEADER.decode().strip().split(",")
    section = page("files").partition("\nCSV\n")[2].partition("\nLog\n")[0]
    assert re.findall(r"^(\w+)\n    \S", section, re.MULTILINE) == columns


# --- Exit statuses and environment


def test_the_environment():
    """Every variable that the program reads or sets is on the page, and no other."""
    read = set()
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case (
                    ast.Call(
                        func=ast.Attribute(attr="get", value=ast.Attribute(attr="environ")),
                        args=[ast.Constant(value), *_],
                    )
                    | ast.Subscript(value=ast.Attribute(attr="environ"), slice=ast.Constant(value))
                ):
                    read.add(value)
    section = page("exit-statuses").partition("\nEnvironment\n")[2]
    assert literals_of(section) == read


def test_the_exit_statuses():
    """The statuses of the program's constants are on the page."""
    power = importlib.import_module("power")
    ours = page("exit-statuses").partition("install_init_script.py\n---")[0]
    starting, _, asking = ours.partition("``--status`` ends")
    numbers = [{int(term) for term in TERM.findall(part) if term.isdigit()} for part in (starting, asking)]
    assert numbers[0] == {0, 2, commands.FAILED, commands.NOT_CONFIGURED, power.FORBIDDEN, power.INTERRUPTED}
    assert numbers[1] == {commands.RUNNING, commands.DEAD, commands.NOT_RUNNING, commands.UNKNOWN}


def test_the_init_scripts_statuses():
    """The statuses with which the init script gives up are on the page."""
    script = (SOURCE.parent / "init" / "power.init").read_text()
    given = {int(status) for status in re.findall(r"give_up (\d)", script)}
    section = page("exit-statuses").partition("/etc/init.d/power\n---")[2].partition("\nUnder systemd\n")[0]
    assert {int(term) for term in TERM.findall(section) if term.isdigit()} == given | {0, 1}


# --- The built pages


@pytest.fixture
def links(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "extensions"))
    return importlib.import_module("links")


def site(directory, **pages):
    for name, body in pages.items():
        (directory / f"{name}.html").write_text(f"<html><body>{body}</body></html>")
    return directory


def test_a_sound_site_has_no_faults(links, tmp_path):
    """Links to a page, to a place in it and to other sites are accepted, as is a picture with its text."""
    (tmp_path / "a picture.png").touch()
    site(
        tmp_path,
        index='<a href="other.html#there">x</a><a href="#">x</a><a href="https://example.org/">x</a>'
        '<img src="a%20picture.png" alt="what it shows">',
        other='<p id="there">x</p><a href="index.html">x</a>',
    )
    assert links.faults(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ('<a href="missing.html">x</a>', "no such file"),
        ('<a href="other.html#nowhere">x</a>', "no such place"),
        ('<a href="#nowhere">x</a>', "no such place"),
        ('<a href="../../outside.html">x</a>', "out of the site"),
        ('<img src="other.html">', "without a text"),
        ('<img src="other.html" alt=" ">', "without a text"),
    ],
)
def test_a_fault_of_a_page_is_found(links, tmp_path, capsys, body, fault):
    """A link that leads nowhere and a picture without a text are found, and fail the build."""
    assert fault in "\n".join(links.faults(site(tmp_path, index=body, other="<p>x</p>")))
    assert links.main([str(tmp_path)]) == 1
    assert fault in capsys.readouterr().err


def test_a_site_without_pages_is_a_fault(links, tmp_path):
    """Where nothing was built, the check fails."""
    assert links.main([str(tmp_path)]) == 1
