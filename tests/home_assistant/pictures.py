"""
Takes the handbook's pictures of Home Assistant, of a simulated meter, as small PNGs: pictures.py DIRECTORY.

Its two days take about ten minutes.
"""

import io
import sys
import tempfile
from pathlib import Path

from frontend import address, energy_dashboard, frontend
from home_assistant import HomeAssistant
from mosquitto import Mosquitto
from observer import Observer
from PIL import Image
from program import Program, wait_until
from troubles import STATE, energy_id, take_into_the_dashboard, wait_hours

RATE = 240

SETTINGS = """
METERS = {{"house": {{"pin": 18, "impulses_per_kwh": 1000, "label": "House", "max_watts": 1_000_000}}}}
WRITERS = {{"file": {{"type": "file"}}}}
MQTT = {{"port": {port}, "update_period": 1}}
"""

#: From which hour of the day on how much is used, in W.
LOADS = {0: 140, 6: 480, 8: 230, 12: 620, 13: 260, 17: 540, 19: 900, 22: 310}
#: When a day is looked at, when the broker is away on the second day, and the load while all is looked at.
LOOK_H, AWAY_H, BACK_H, LOOK_W = 20, 9, 11.6, 412

#: How wide the pictures are, in pixels: as narrow as it shows no menu beside them.
WIDTH = 820


def run_day(home_assistant, broker, program, day, *, outage):
    """Run until it is time to look at the day that is number *day*, counted from 0."""
    events = [(hour, lambda watts=watts: use(program, watts * RATE)) for hour, watts in LOADS.items()]
    if outage:
        events += [(AWAY_H, broker.stop), (BACK_H, broker.start)]
    for hour, happen in sorted(events, key=lambda event: event[0]):
        if hour < LOOK_H:
            wait_hours(home_assistant, day * 24 + hour)
            happen()
    wait_hours(home_assistant, day * 24 + LOOK_H)


def use(program, watts):
    """Have the simulated meter see another load."""
    program.run("--kill")
    program.start("--simulate", str(watts))


def save(page, path):
    """Save what *page* shows: few colours are enough for it, in a fraction of the size."""
    picture = Image.open(io.BytesIO(page.screenshot()))
    picture.convert("RGB").quantize(64).save(path, optimize=True)


def settle(page):
    """Wait until the bars have grown and the picture stands still."""
    before, now = b"", page.screenshot()
    while before != now:
        page.wait_for_timeout(1000)
        before, now = now, page.screenshot()


def take(directory, own):
    """Write the pictures into *directory*; *own* is for the files of all that runs."""
    with (
        Mosquitto(own / "mosquitto") as broker,
        Observer(broker.port) as observer,
        HomeAssistant(own / "home-assistant", broker.port, RATE) as home_assistant,
        Program(own / "power", SETTINGS.format(port=broker.port)) as program,
    ):
        use(program, LOADS[0] * RATE)
        energy = wait_until(lambda: energy_id(home_assistant))
        take_into_the_dashboard(home_assistant, energy)
        run_day(home_assistant, broker, program, 0, outage=False)

        assert program.run("--reading", "45678.9").returncode == 0
        use(program, LOOK_W)
        with energy_dashboard(home_assistant, width=WIDTH, height=640) as page:
            settle(page)
            save(page, directory / "home_assistant_energy.png")
        wait_until(lambda: observer.states(STATE)[-1]["power_w"] == LOOK_W)
        (devices,) = home_assistant.ask({"type": "config/device_registry/list"})
        (device,) = (device["id"] for device in devices if device["name"] == "House")
        with frontend(home_assistant, width=WIDTH, height=760) as page:
            page.goto(address(home_assistant, f"/config/devices/device/{device}"))
            page.get_by_text(f"{LOOK_W} W").first.wait_for()
            settle(page)
            save(page, directory / "home_assistant_device.png")

        home_assistant.restart(rate=RATE)
        run_day(home_assistant, broker, program, 1, outage=True)
        with energy_dashboard(home_assistant, width=WIDTH, height=420) as page:
            settle(page)
            save(page, directory / "home_assistant_outage.png")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        take(Path(sys.argv[1]), Path(name))
