"""The machines that the tests boot."""

import contextlib

import counting
import machine
import pytest


@pytest.fixture(scope="session")
def kernel():
    """The path of the kernel."""
    path = machine.guest.kernel_path()
    if not path.exists():
        pytest.fail("run: make test-boot", pytrace=False)
    return path


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """The project, packed."""
    path = tmp_path_factory.mktemp("project") / "power.tar"
    machine.pack_project(path)
    return path


@pytest.fixture(scope="session", params=machine.FLAVOURS)
def flavour(request):
    """What starts the machine."""
    if not machine.image_path(request.param).exists():
        pytest.fail("run: make test-boot", pytrace=False)
    return request.param


@pytest.fixture(scope="session")
def installed(kernel, flavour, project, tmp_path_factory):
    """The changes of a machine where the program was installed, never started; and the machine's files before that."""
    path = tmp_path_factory.mktemp(flavour) / "changes"
    return path, counting.install(kernel, flavour, project, path)


@pytest.fixture
def off(kernel, flavour, installed):
    """A machine with the program installed, off."""
    with counting.Counting(kernel, flavour, changes=installed[0]) as on:
        yield on


@pytest.fixture(scope="session")
def shared(flavour):
    """Holds the machine that one test leaves to the next."""
    machines = []
    yield machines
    for on in machines:
        on.__exit__(None, None, None)


@pytest.fixture
def on(kernel, flavour, installed, shared):
    """A machine that counts from nothing: that of the test before, or one that has booted for this."""
    if shared:
        with contextlib.suppress(machine.MachineError):
            shared[-1].begin_again()
            return shared[-1]
        shared.pop().__exit__(None, None, None)
    on = counting.Counting(kernel, flavour, changes=installed[0])
    shared.append(on)
    on.boot()
    on.wait_counting()
    return on
