"""The guest that other tests run in: how it resembles a Pi, and that its failures reach the test."""

import itertools
import os
import time

import guest
import pytest

START_NS = 1_577_836_800_000_000_000  # 2020-01-01T00:00:00Z
FLASH_NS = 1_000_000


def test_chip(run):
    """The guest has one GPIO chip, with a Pi 4's label and 54 lines."""
    assert run("chips") == [["pinctrl-bcm2711", 54]]


def test_other_chips(run):
    """The chip can have another label, and a chip that is not a Pi's can come before it."""
    assert run("chips", chip="pinctrl-rp1", other_chip="gpio-mux") == [["gpio-mux", 8], ["pinctrl-rp1", 54]]


def test_no_chip(run):
    """The guest can have no chip at all."""
    assert run("chips", chip=None) == []


def spacings(times):
    return [later - earlier for earlier, later in itertools.pairwise(times)]


def test_edges(run):
    """100 flashes of 1 ms are 200 edges, timestamped within 1 ms of the change, with spacings right to 0.2 ms (p99)."""
    start_s = time.monotonic()
    seen = run("edges", {"starts_ns": [n * 100_000_000 for n in range(100)], "length_ns": FLASH_NS}, jumping=True)
    assert time.monotonic() - start_s < 9
    assert [level for _, level in seen["edges"]] == [level for _, level in seen["written"]] == [0, 1] * 100
    written, stamped = ([at_ns for at_ns, _ in seen[key]] for key in ("written", "edges"))
    late_ns = [stamp - write for write, stamp in zip(written, stamped, strict=True)]
    assert min(late_ns) >= 0
    assert max(late_ns) < 1_000_000
    off_ns = sorted(abs(a - b) for a, b in zip(spacings(written), spacings(stamped), strict=True))
    assert off_ns[len(off_ns) * 99 // 100] < 200_000


def test_edges_at_the_hosts_pace(run):
    """With a clock like the host's, no edge is lost either."""
    seen = run("edges", {"starts_ns": [n * 10_000_000 for n in range(100)], "length_ns": FLASH_NS})
    assert [level for _, level in seen["edges"]] == [0, 1] * 100


def test_lamp(run):
    """What a program drives on a line can be read from the simulated chip."""
    assert run("lamp") == [1, 0, 1]


def test_jumping_clock(run):
    """With a jumping clock an hour's sleep is an hour on both clocks, and takes seconds."""
    start_s = time.monotonic()
    before, after = run("clocks", {"sleep_s": 3600}, jumping=True)
    assert time.monotonic() - start_s < 60
    for then_ns, now_ns in zip(before, after, strict=True):
        assert now_ns - then_ns == pytest.approx(3600e9, abs=10e6)
    assert before[0] == pytest.approx(time.time_ns(), abs=60e9)


@pytest.mark.parametrize("jumping", [False, True])
def test_clock_starts_in_2020(run, jumping):
    """The guest's clock can start in another year, jumping or not."""
    (realtime_ns, _), _ = run("clocks", {"sleep_s": 0}, jumping=jumping, start_ns=START_NS)
    assert 0 <= realtime_ns - START_NS < 60_000_000_000


def test_ordinary_user(run):
    """An ordinary user of the guest runs the project's Python, and can open the chip only after owning it."""
    user = os.getuid() or 1000
    assert run("ordinary_user") == {"user": user, "at first": False, "then": True, "runs": True}


def test_writable(run):
    """Of the host's files a job can write only those in its own directory."""
    assert run("writable") == ["/run/job", "/run/host"]


def test_a_jobs_exception(run):
    """A job that raises fails its test with its traceback and what it printed."""
    with pytest.raises(pytest.fail.Exception) as caught:
        run("raise_one", {"text": "one of the job's own"})
    text = str(caught.value)
    assert "ValueError: one of the job's own" in text
    assert "in raise_one" in text
    assert "before it raises" in text


def test_a_hanging_job(run):
    """A job that hangs is ended by its timeout, and the failure has what it printed."""
    with pytest.raises(pytest.fail.Exception, match=r"(?s)not done in 5 s.*before it hangs"):
        run("hang", timeout=5)


def test_a_guest_that_ends(run):
    """A guest that ends without an answer fails its test."""
    with pytest.raises(pytest.fail.Exception, match=r"(?s)without an answer.*before it ends"):
        run("end")


def test_kill(kernel):
    """A guest that is killed is dead with all of its processes, and its directory is gone."""
    with guest.Guest(kernel, ["root=/dev/none"]) as one:
        one.kill()
        one.kill()
        assert one.wait(0) < 0
    assert not one.directory.exists()
