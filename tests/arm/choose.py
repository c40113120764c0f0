"""
For pytest in an emulated root: leaves out what is not available there, and counts it under its reason at the end.

A test that asks for a server says itself that there is none; it counts as
skipped. The rest is left out by name, below.
"""

import collections
import importlib

import pytest

#: What a fixture says where its server was not unpacked.
NO_SERVER = "run: make "

HANDBOOK = "of the handbook, which is the same everywhere"

#: Files that are left out, with the reason.
FILES = {
    "tests/test_figures.py": HANDBOOK,
    "tests/test_grafana.py": HANDBOOK,
    "tests/test_handbook.py": HANDBOOK,
    "tests/test_howto_servers.py": HANDBOOK,
    "tests/test_reference.py": HANDBOOK,
    "tests/test_install.py": "needs Debian's own tools; make test-boot shows the same",
}

#: Tests of gpiod 2 itself, which PyPI has no wheel of for 32 bit.
OF_GPIOD = {"tests/test_boards.py::TestGpiod::test_a_chip_that_is_none"}
GPIOD = hasattr(importlib.import_module("gpiod"), "LineSettings")

#: Files that start a program in nearly every test, which takes seconds there; of these, only the named tests.
SOME = {
    "tests/test_process.py": {
        "test_daemon_is_detached",
        "test_daemon_of_another_user",
        "test_data_dir_that_cannot_be_written",
        "test_default_pidfile_of_a_user",
        "test_default_pidfile_of_root",
        "test_foreign_pidfile",
        "test_from_any_directory_by_a_linked_source",
        "test_kill_waits_for_the_end",
        "test_lock_is_not_broken",
        "test_pidfile_taken_and_left_again_and_again",
        "test_signals_end_the_daemon",
        "test_start_after_sigkill",
        "test_start_returns_once_counting",
        "test_starting_twice",
        "test_status_codes",
        "test_status_of_the_running_one",
        "test_stop_keeps_every_pulse",
        "test_unreadable_pidfile",
    },
}
OTHERS = "start programs, of a file of which some were run"

left_out = collections.Counter()


def reason(item):
    """Why *item* is left out, None where it is run."""
    path = item.nodeid.partition("::")[0]
    if item.nodeid in OF_GPIOD and not GPIOD:
        return "need gpiod 2"
    return OTHERS if path in SOME and item.originalname not in SOME[path] else None


def pytest_ignore_collect(collection_path, config):
    """Files are not even imported."""
    return True if str(collection_path.relative_to(config.rootpath)) in FILES else None


def pytest_collection_modifyitems(config, items):
    """Take out those with a reason. A name in SOME that no test has is a mistake."""
    unknown = set().union(*SOME.values()) - {getattr(item, "originalname", None) for item in items}
    unknown |= OF_GPIOD - {item.nodeid for item in items}
    assert not unknown, f"no such tests: {unknown}"
    out = [item for item in items if reason(item)]
    left_out.update(map(reason, out))
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if not reason(item)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test without its server is skipped, not failed."""
    error = call.excinfo and call.excinfo.value
    if isinstance(error, pytest.fail.Exception) and str(error).startswith(NO_SERVER):
        left_out["need a server"] += 1
        skipped = pytest.skip.Exception("needs a server").with_traceback(call.excinfo.tb)
        call.excinfo = pytest.ExceptionInfo.from_exception(skipped)
    return (yield)


def pytest_terminal_summary(terminalreporter):
    """A line a reason."""
    for path, why in FILES.items():
        terminalreporter.write_line(f"left out: {path}, {why}")
    for why, count in left_out.most_common():
        terminalreporter.write_line(f"left out: {count} that {why}")
