"""What holds the shape of program and tests: who may import whom, and what the light commands leave alone."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from _pytest.assertion.rewrite import AssertionRewritingHook
from program import SOURCE, Program

#: Each module, from the top down, and which modules of the program it may import. The package itself may be
#: imported by all. Adapters are not named by anyone: they are reached through their port's table.
MAY_IMPORT = {
    "power": {"arguments", "commands", "errors", "process.confined"},
    "arguments": {"commands"},
    "commands": {
        "check",
        "clock",
        "errors",
        "journal.history",
        "journal.journal",
        "journal.readings",
        "log",
        "periods",
        "process.control",
        "process.daemon",
        "process.holder",
        "process.pidfile",
        "process.systemd",
        "report",
        "run",
        "safe_path",
        "settings.reading",
        "settings.values",
        "subject",
        "views.mqtt",
        "views.page",
        "views.report",
        "views.text",
        "writers",
    },
    "subject": {
        "errors",
        "process.control",
        "process.holder",
        "safe_path",
        "settings.reading",
        "settings.values",
    },
    "check": {
        "boards",
        "errors",
        "journal.history",
        "journal.journal",
        "log",
        "mounts",
        "periods",
        "safe_path",
        "settings.values",
        "views.mqtt",
        "views.mqtt.broker",
        "views.page",
        "views.page.server",
        "writers",
    },
    "run": {
        "boards",
        "boards.simulated",
        "errors",
        "journal.journal",
        "journal.readings",
        "log",
        "meter",
        "monitor",
        "mounts",
        "past",
        "process.control",
        "process.pidfile",
        "process.systemd",
        "recorder",
        "settings.values",
        "views.live",
        "views.text",
    },
    "views.page.child": {"process.confined", "settings.values", "views.page.access", "views.page.app"},
    "views.page.access": set(),
    "views.page.app": {
        "errors",
        "journal.history",
        "periods",
        "report",
        "settings.values",
        "status",
        "views.page.metrics",
        "views.page.pages",
        "views.report",
        "views.text",
    },
    "views.page.metrics": {"status"},
    "views.page.pages": {
        "errors",
        "journal.history",
        "meter",
        "periods",
        "report",
        "settings.values",
        "status",
        "views.page.charts",
        "views.report",
        "views.text",
    },
    "views.page.charts": set(),
    "views.live": set(),
    "views.report": {"errors", "journal.readings", "meter", "periods", "report", "views"},
    "report": {"journal.history", "journal.readings", "journal.tables", "meter", "periods", "settings.values"},
    "periods": {"errors", "meter"},
    "monitor": {
        "boards",
        "clock",
        "delivery",
        "errors",
        "inputs",
        "journal.cursor",
        "journal.journal",
        "journal.salvage",
        "keeper",
        "lamps",
        "log",
        "lookup",
        "meter",
        "recorder",
        "settings.values",
        "status",
        "views.mqtt.view",
        "views.page.server",
        "writers",
    },
    "views.mqtt.view": {
        "errors",
        "settings.values",
        "status",
        "views.mqtt",
        "views.mqtt.broker",
        "views.mqtt.discovery",
        "views.text",
    },
    "views.mqtt.discovery": {"status", "views.mqtt"},
    "views.mqtt.broker": {"certificates", "errors", "settings.values", "views.mqtt"},
    "views.text": {"journal.readings", "meter", "status", "views"},
    "views": set(),
    "views.page.server": {"errors", "settings.schema", "settings.values", "status", "views.page"},
    "past": {"boards.simulated", "errors", "journal.journal", "journal.salvage", "journal.tables", "meter"},
    "lookup": {"journal.cursor", "journal.history", "journal.tables", "meter"},
    "settings.reading": {
        "errors",
        "safe_path",
        "settings.schema",
        "settings.values",
        "views.mqtt",
        "views.page",
        "writers",
    },
    "views.mqtt": {"certificates", "settings.schema", "settings.values"},
    "views.page": {"settings.schema", "settings.values"},
    "log": {"errors", "mounts", "safe_path"},
    "process.daemon": {"errors", "process.pidfile"},
    "process.control": {"errors", "process.holder", "safe_path"},
    "process.pidfile": {"errors", "process.holder", "safe_path"},
    "process.holder": {"errors", "safe_path"},
    "process.systemd": {"safe_path"},
    "process.confined": set(),
    "process": set(),
    "delivery": {"errors", "journal.cursor", "journal.tables", "meter", "search", "writers", "writers.answers"},
    "search": {"meter"},
    "recorder": {"boards", "inputs", "journal.journal", "keeper", "lamps", "meter"},
    "inputs": {"meter"},
    "keeper": {
        "clock",
        "errors",
        "journal.cursor",
        "journal.journal",
        "journal.salvage",
        "journal.tables",
        "meter",
    },
    "journal.salvage": {"errors", "journal.journal", "journal.tables", "meter"},
    "journal.journal": {
        "clock",
        "errors",
        "journal.cursor",
        "journal.readings",
        "journal.tables",
        "meter",
        "mounts",
        "safe_path",
    },
    "journal.history": {"errors", "journal.cursor", "journal.readings", "journal.tables", "meter"},
    "journal.cursor": {"journal.tables", "meter"},
    "journal.readings": {"meter"},
    "journal.tables": {"errors", "meter"},
    "journal": set(),
    "clock": set(),
    "boards.gpiod": {"boards", "errors", "lamps", "meter", "settings.values"},
    "boards.rpi_gpio": {"boards", "errors", "lamps", "meter", "settings.values"},
    "boards.simulated": {"boards", "lamps", "meter", "settings.values"},
    "boards": {"errors", "lamps", "meter", "settings.values"},
    "writers.file": {"errors", "meter", "mounts", "safe_path", "settings.schema", "settings.values", "writers"},
    "writers.influxdb": {
        "certificates",
        "errors",
        "meter",
        "settings.schema",
        "settings.values",
        "writers",
        "writers.answers",
        "writers.blotter",
        "writers.http",
    },
    "writers.librato": {
        "errors",
        "meter",
        "settings.schema",
        "settings.values",
        "writers",
        "writers.answers",
        "writers.blotter",
        "writers.http",
    },
    "writers.http": {"settings.values"},
    "writers": {"meter", "settings.schema", "settings.values"},
    "writers.blotter": {"settings.values"},
    "status": set(),
    "lamps": set(),
    "meter": set(),
    "settings.schema": {"settings.values"},
    "settings.values": set(),
    "settings": set(),
    "certificates": {"errors", "safe_path"},
    "safe_path": {"errors", "mounts"},
    "mounts": set(),
    "errors": {"writers.answers"},  # only for a type
    "writers.answers": set(),
    "": set(),
}

#: The libraries that are not Python's own, and the one module that knows each. Those of pins are imported by name.
LIBRARIES = {
    "process.daemon": {"daemon"},
    "process.pidfile": {"lockfile"},
    "views.live": {"rich"},
    "views.mqtt.broker": {"paho"},
    "views.page.app": {"bottle"},
    "views.page.child": {"waitress"},
    "writers.influxdb": {"influxdb"},
    "writers.librato": {"librato"},
}

#: What a service is reached by; and what the light commands must not load: that, the libraries of pins, and the
#: database.
SERVICES = {"influxdb", "librato", "requests", "http", "ssl", "msgpack"}
HEAVY = SERVICES | {"RPi", "lgpio", "gpiod", "rich", "sqlite3", "bottle", "waitress", "paho"}

PACKAGE = "powermeter"


def name_of(path):
    """The module's name in the table: without the package's."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(part for part in parts if part not in (PACKAGE, "__init__"))


MODULES = {name_of(path): path for path in [SOURCE / "power.py", *(SOURCE / PACKAGE).rglob("*.py")]}


def imported_by(path):
    """The full names of all that the file *path* imports, at its top or inside its functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            # from powermeter import status: a module; from powermeter import __version__: none.
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in below if name.removeprefix(f"{PACKAGE}.") in MODULES]
            yield from modules or [node.module]


def ours_in(path):
    names = [name for name in imported_by(path) if name.split(".")[0] == PACKAGE]
    return {name.removeprefix(PACKAGE).removeprefix(".") for name in names} - {""}


def test_the_table_knows_every_module():
    """Every module is in the table, and every line of the table is a module's."""
    assert set(MODULES) == set(MAY_IMPORT)


def test_the_table_runs_downwards():
    """No module may import one that stands above it: there is no circle, and each can be read without those above."""
    order = list(MAY_IMPORT)
    upwards = [
        (who, whom) for who, whoms in MAY_IMPORT.items() for whom in whoms if order.index(whom) <= order.index(who)
    ]
    assert upwards == []


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards(module):
    """A module imports no more of the program than the table allows, and the table allows no more than is imported."""
    assert ours_in(MODULES[module]) == MAY_IMPORT[module]


@pytest.mark.parametrize("module", MODULES)
def test_a_library_is_known_to_one_module(module):
    """Every library that is not Python's own is imported by the one module that hides it."""
    roots = {name.split(".")[0] for name in imported_by(MODULES[module])}
    assert roots - set(sys.stdlib_module_names) - {PACKAGE} == LIBRARIES.get(module, set())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_what_it_is(module):
    """Every module begins with a docstring."""
    assert ast.get_docstring(ast.parse(MODULES[module].read_text()))


def test_the_composition_root_stays_small():
    """power.py puts together and decides nothing: it stays under 150 lines."""
    assert len((SOURCE / "power.py").read_text().splitlines()) < 150


TESTS = Path(__file__).parent


def names_in_imports(path):
    """Every name in an import of the file *path*: of packages, modules and what is in them."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (getattr(node, "module", None) or "").split(".")
            yield from (part for alias in node.names for part in alias.name.split("."))


def test_no_test_module_is_imported():
    """What tests share is in helper modules, so that each test module can be read, changed and moved by itself."""
    importing = {str(path.relative_to(TESTS)): set(names_in_imports(path)) for path in TESTS.rglob("*.py")}
    assert {"ast", "program", "Program"} <= importing["test_architecture.py"], "no import was seen"
    assert {path: name for path, names in importing.items() for name in names if name.startswith("test_")} == {}


@pytest.mark.parametrize(
    "path", sorted(set(TESTS.glob("*.py")) - set(TESTS.glob("test_*.py"))), ids=lambda path: path.stem
)
def test_the_asserts_of_a_helper_show_their_values(path):
    """A failing assert of a helper module says what it compared, as one of a test does."""
    if any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text()))):
        assert isinstance(importlib.util.find_spec(path.stem).loader, AssertionRewritingHook)


def loaded_by(program, *args):
    """The exit status of power.py with *args*, and the modules that were imported on the way."""
    python, script, *rest = program.line(*args)
    # Not -X importtime: it does not see what importlib.import_module loads.
    done = subprocess.run(
        [python, "-v", script, *rest], env=program.env, capture_output=True, text=True, errors="replace", check=False
    )
    return done.returncode, set(re.findall(r"^import '?([\w.]+)'? #", done.stderr, re.MULTILINE))


def assert_light(modules):
    assert "powermeter.errors" in modules, "no import of the program's own modules was seen"
    assert {name for name in modules if name.split(".")[0] in HEAVY} == set()
    assert {name for name in modules if name.startswith(("powermeter.boards.", "powermeter.writers."))} == set()


@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--version", 0), ("--status", 3), ("--kill", 0)])
def test_asking_and_stopping_are_light(tmp_path, option, status):
    """Where nothing runs, these import no writer's library, none of pins, and no database."""
    returned, modules = loaded_by(Program(tmp_path), option)
    assert returned == status
    assert_light(modules)


def test_asking_and_stopping_a_running_one_are_light(tmp_path):
    """Nor do they where a program runs and answers."""
    with Program(tmp_path) as program:
        program.start("--simulate", "1000")
        for option in (["--status"], ["--status", "--json"], ["--kill"]):
            returned, modules = loaded_by(program, *option)
            assert returned == 0
            assert "powermeter.process" in modules
            assert_light(modules)
        assert program.pid is None


def test_who_has_a_file_alone_loads_no_service(tmp_path):
    """Where no writer to a service is enabled, nothing of one's is imported but what says its keys."""
    off = ", ".join(f'"{kind}": {{"type": "{kind}", "enabled": False}}' for kind in ("librato", "influxdb"))
    text = f'GPIO_LIBRARY, GPIO_CHIP = "gpiod", "/dev/null"; WRITERS = {{"file": {{"type": "file"}}, {off}}}'
    returned, modules = loaded_by(Program(tmp_path, text), "--check")
    assert returned == 1  # of the chip
    assert {f"powermeter.writers.{kind}" for kind in ("file", "librato", "influxdb")} <= modules
    assert {name for name in modules if name.split(".")[0] in SERVICES} == set()


@pytest.mark.parametrize(("library", "board"), [("gpiod", "gpiod"), ("RPi.GPIO", "rpi_gpio")])
def test_a_heavy_import_would_be_seen(tmp_path, library, board):
    """--check does load them, from their ports' tables too: what the tests above look for can be found this way."""
    # No chip at all, so that no pin is touched where there are some.
    text = f'GPIO_LIBRARY, GPIO_CHIP = "{library}", "/dev/null"; WRITERS = {{"db": {{"type": "influxdb", "port": 1}}}}'
    returned, modules = loaded_by(Program(tmp_path, text), "--check")
    assert returned == 1
    assert {f"powermeter.boards.{board}", "powermeter.writers.influxdb", "influxdb", "requests"} <= modules
