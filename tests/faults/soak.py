"""
A month of a household, with everything that goes wrong in one.

The program counts in a virtual machine whose clock skips the time in which nothing happens: 30 days with the load of
``--simulate``, on a real kernel's GPIO line, with the file and a server of InfluxDB's protocol on loopback (at most one
request per minute). Every day, at random, the server is away for between a minute and 12 hours (refuses, hangs, resets,
answers 500 or 503), and the clock is set by between 0.2 s and 3 days, and back some hours later. At the end the
counter, the journal, the file and the server must have every flash once, the two writers with the journal's time and
register; and the program's memory and open files must not have grown.
"""

import math

import guests
from rig import Row, times

TITLE = "A month"
PROMISE = "A month with everything that goes wrong in one costs no pulse"
MEASURED = "flashes made; counted, in the journal, in the file, on the server"

DAYS = 30

#: How much more memory (RSS) there may be at the end than at most on the first day, in KiB: what an outage of half a
#: day takes to be made up for may come later than that.
GROWN_KIB = 3072

#: Of the guest, for all that is kept to compare with.
MEMORY = "768M"

#: For a day, on a busy host, in s.
DAY_S = 240


def run(part, rig):
    days = times(DAYS, part)
    # In CI two shorter ones, side by side.
    spans = [days] if part == 1 else [math.ceil(days / 2), days // 2]

    def soak(numbered):
        number, span = numbered
        options = {"timeout": 120 + DAY_S * span, "memory": MEMORY}
        return guests.run(rig.kernel, "soak", days=span, seed=f"{rig.seed} {number}", **options)

    found = guests.each(soak, enumerate(span for span in spans if span))
    for one in found:
        _judge(one)
    made = sum(one["made"] for one in found)
    memory_kib, files, threads = zip(*found[0]["used"], strict=True)
    return [
        Row("simulated days", f"{days}"),
        Row("flashes made; counted, in the journal, in the file, on the server", f"{made:,}; each {made:,}", "equal"),
        Row(
            "memory (RSS) on the first day at most; at the end; at most",
            f"{max(memory_kib[:4]) / 1024:.1f}, {memory_kib[-1] / 1024:.1f}, {max(memory_kib) / 1024:.1f} MiB",
            f"at the end within {GROWN_KIB // 1024} MiB of the first day",
        ),
        Row("open files on the first day at most, at the end", f"{max(files[:4])}, {files[-1]}", "no more"),
        Row("threads on the first day at most, at the end", f"{max(threads[:4])}, {threads[-1]}", "no more"),
    ]


def _judge(found):
    made = found["made"]
    assert made > 0
    assert found["counted"] == found["kept"] == made, found
    assert found["holes"] == [], found
    assert not found["file"], found["file"]
    assert found["server"], found
    memory_kib, files, threads = zip(*found["used"], strict=True)
    assert memory_kib[-1] <= max(memory_kib[:4]) + GROWN_KIB, found["used"]
    assert files[-1] <= max(files[:4]), found["used"]
    assert threads[-1] <= max(threads[:4]), found["used"]
