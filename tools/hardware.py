"""The hardware on which something was measured."""

import os
import platform
import sqlite3
from pathlib import Path


def machine():
    """CPU, cores, kernel, Python and SQLite, in a line."""
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return (
        f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    )
