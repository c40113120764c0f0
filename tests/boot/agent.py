"""
In a booted machine: does what the host asks by its serial line, a line of JSON each way.

Started early in the boot, before the program: the input rests high from then on, as in the dark.
"""

import json
import os
import subprocess
import sys
import time
import tty
from pathlib import Path

INPUT = 24  # BCM; pin 18 of the header


def answers(line):
    """What the agent can be asked, by name, with the Line that flashes."""
    import inside

    def run(command, timeout):
        """Run *command* in a shell, as root at /; return its exit status and output."""
        try:
            done = subprocess.run(
                ["/bin/bash", "-c", command],
                check=False,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired as error:
            return None, (error.stdout or b"").decode(errors="replace")
        return done.returncode, done.stdout.decode(errors="replace")

    def flash(starts_ns, length_ns):
        """Flash at each of *starts_ns* from now; return the UTC of each, in ns."""
        written = inside.play(inside.flashes(INPUT, starts_ns, length_ns), {INPUT: line})
        return [write.realtime_ns for write in written if not write.level]

    return {"run": run, "flash": flash}


def main():
    """Say that the machine is there, then answer."""
    os.environ["SIM_DIR"] = Path("/run/sim_dir").read_text().strip()
    import inside

    with open("/dev/ttyS0", "r+b", buffering=0) as serial, inside.Line(INPUT, high=True) as line:
        tty.setraw(serial)
        ask = answers(line)

        def say(what):
            data = json.dumps(what).encode() + b"\n"
            while data:
                data = data[serial.write(data) :]

        say({"up": time.clock_gettime(time.CLOCK_BOOTTIME)})
        for request in iter(serial.readline, b""):
            name, arguments = json.loads(request)
            say({"returned": ask[name](**arguments)})


if __name__ == "__main__":
    sys.exit(main())
