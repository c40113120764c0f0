"""
The machine's clock is wrong, or is set while the program counts.

A Pi has no clock chip: it boots with some past time, which the network corrects minutes later. The program counts in a
virtual machine with its own clock, one flash every 3.6 s (1,000 W), with the file and a server of InfluxDB's protocol.
The kernel learns of the synchronisation (adjtimex) in the way an NTP client reports it.

Whatever the clock does, every power that is shown, written or derived must be that of the load. Until the clock is
known to be right, or CLOCK_WAIT seconds after the boot, nothing may be delivered, and the status must say that it is
waiting for the clock. After that, every pulse must be there with the time at which it came by the right clock. A time
that was delivered must not change; every writer must get every pulse once, in the order of the count.

Not tried: a real hardware clock. The kernel of the virtual machine has no driver for one, so the file in which a kernel
reports that such a clock has set it (``/sys/class/rtc/*/hctosys``) is made up.
"""

import guests
from rig import Row

TITLE = "Wrong clock"
PROMISE = "Power and times are right, whatever the clock does"
MEASURED = "starts in 2020, set after 5 minutes"

YEAR_2020_NS = 1_577_836_800_000_000_000

HOUR_S, DAY_S = 3600, 86_400

#: What is done, the job with its arguments, and the time it begins at, None for now.
CASES = {
    "starts in 2020, set after 5 minutes": ("starts_in_2020", {}, YEAR_2020_NS),
    "the same, set by chrony without rtcsync": ("starts_in_2020", {"by": "chrony"}, YEAR_2020_NS),
    "the same, the program restarted before it is set": ("starts_in_2020", {"restarts": True}, YEAR_2020_NS),
    "never synchronised: CLOCK_WAIT passes, set later": ("never_synchronised", {}, None),
    "set back an hour": ("is_set_while_running", {"steps_s": [-HOUR_S, HOUR_S]}, None),
    "set by hand, again and again": (
        "is_set_while_running",
        {"steps_s": [2, -2, 3 * DAY_S, -3 * DAY_S, -400 * DAY_S, 400 * DAY_S]},
        None,
    ),
    "a hardware clock has set it": ("is_set_by_hardware", {}, None),
}

#: How far a time may be from that of the flash as it was made, in ms, and a power from theirs, as a share. What makes
#: the flashes shares the guest's one processor: it may have to wait between the look at its clock and the flash.
OFF_MS, POWER_OFF = 200, 0.03


def run(part, rig):
    def one(case):
        job, arguments, start_ns = case
        return guests.run(rig.kernel, job, start_ns=start_ns, **arguments)

    *found, simulated = guests.each(one, [*CASES.values(), ("simulated", {}, None)])
    rows = []
    for what, result in zip(CASES, found, strict=True):
        assert result["off_ms"] <= OFF_MS, f"{what}: {result}"
        assert result["filed_off"] <= POWER_OFF, f"{what}: {result}"
        assert result["shown_off"] <= POWER_OFF, f"{what}: {result}"
        # The first, and the first after a restart, have none.
        assert result["powers"] >= result["pulses"] - 2, f"{what}: {result}"
        rows.append(
            Row(
                what,
                f"{result['pulses']} pulses, each once and in order, times within {result['off_ms']:.1f} ms; powers "
                f"within {result['filed_off']:.2%}, those shown within {result['shown_off']:.2%}",
                f"{OFF_MS} ms; {POWER_OFF:.0%}",
            )
        )
    assert simulated["lines"] > 0, simulated
    lines = f"{simulated['lines']} pulses"
    return [*rows, Row("--simulate, unsynchronised: written in the first minute", lines, "some")]
