"""A status, for tests: as JSON has it, of a healthy program or of one with something wrong."""

import copy

METER = {
    "label": None,
    "direction": "import",
    "watts": 321.4,
    "watts_is_bound": False,
    "pulses_today": 4213,
    "kwh_today": 4.213,
    "pulses": 54321,
    "register_kwh": 98765.4321,
    "energy_kwh": 54.321,
    "rejected": 7,
    "rejected_after_stall": 0,
    "too_short": 0,
    "counted_without_being_seen": 0,
    "flash_ms": None,
    "silent": False,
    "stuck": False,
    "flickers": False,
    "noisy": False,
}
WRITER = {"state": "ok", "reason": "", "waiting": 0, "oldest_s": None, "batch_s": 35.0, "refused": 0, "skipped": 0}
HEALTHY = {
    "version": "1.2.3",
    "pid": 4242,
    "uptime_s": 93784.0,
    "running": True,
    "simulate": None,
    "left_out": [],
    "settings": "/etc/power/settings.py",
    "data_dir": "/var/lib/power",
    "clock": {"waiting": False, "waits_s": 0},
    "journal": {"failing": "", "uncommitted": 2, "dropped": 0},
    "log": {"failing": ""},
    "meters": {"house": METER},
    "writers": {"file": WRITER},
    "views": {"page": {"state": "ok", "reason": ""}},
}


def status(*, meters=None, writers=None, **changes):
    """A status as in JSON: healthy but for *changes*; *meters* and *writers*: changes of each by name."""
    made = copy.deepcopy(HEALTHY) | changes
    if meters is not None:
        made["meters"] = {name: METER | change for name, change in meters.items()}
    if writers is not None:
        made["writers"] = {name: WRITER | change for name, change in writers.items()}
    return made
