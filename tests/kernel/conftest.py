"""The kernel that tests run jobs in."""

import functools

import guest
import pytest


@pytest.fixture(scope="session")
def kernel():
    """The path of the kernel with gpio-sim."""
    path = guest.kernel_path()
    if not path.exists():
        pytest.fail("run: make test-kernel", pytrace=False)
    return path


@pytest.fixture(scope="session")
def run(kernel):
    """Runs a job in a guest: guest.run with the kernel."""
    return functools.partial(guest.run, kernel)
