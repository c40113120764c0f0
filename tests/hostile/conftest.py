"""The throwaway machines that the attacks are made on."""

import os
import tempfile
from pathlib import Path

import machine as machines
import pytest


@pytest.fixture(scope="session")
def template():
    """What each machine begins with. Without namespaces of its own nothing is tried: in CI that is a failure."""
    if reason := machines.why_not():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with tempfile.TemporaryDirectory(prefix="power-attacked-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        made = Path(directory) / "template"
        machines.make_template(made)
        yield made


@pytest.fixture
def machine(template):
    """A machine."""
    # Not in /tmp, which is another on the machine.
    with tempfile.TemporaryDirectory(prefix="power-attacked-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        with machines.Machine(Path(directory), template) as made:
            yield made
