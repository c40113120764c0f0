"""
What the program has recorded, read back without it: the journal's pulses, a CSV file's lines.

And what the journal's pulses make due elsewhere, by the definitions of power,
energy and register, so that what a writer stored can be compared with it.
"""

import csv
import datetime as dt
import sqlite3

from powermeter.meter import NS_PER_S


def journal_rows(data_dir):
    """(meter, number, time, interval) of every pulse, in the order of the count."""
    with sqlite3.connect(data_dir / "journal.db") as connection:
        rows = connection.execute(
            "SELECT name, count, time_ns, interval_ns FROM pulses JOIN meters USING (meter) ORDER BY meter, count"
        ).fetchall()
    connection.close()
    return rows


def csv_rows(path):
    """(meter, time, power, energy, register) of every line, in the order of the file."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        (
            row["meter"],
            as_ns(row["time"]),
            float(row["power_w"]) if row["power_w"] else None,
            float(row["energy_wh"]),
            float(row["register_kwh"]),
        )
        for row in rows
    ]


def as_ns(text):
    """*text*, such as 2026-11-23T07:13:05.123456789Z, as ns since 1970."""
    seconds, ns = text.removesuffix("Z").split(".")
    whole = dt.datetime.fromisoformat(seconds).replace(tzinfo=dt.UTC)
    return round(whole.timestamp()) * NS_PER_S + int(ns)


def expected(rows):
    """What every writer must have for the journal's *rows*, by the definitions of power, energy and register."""
    impulses = {"house": 1000, "heating": 800}
    return [
        (
            meter,
            time_ns,
            None if interval_ns is None else 3.6e6 / (impulses[meter] * (interval_ns / 1e9)),
            1000 / impulses[meter],
            number / impulses[meter],
        )
        for meter, number, time_ns, interval_ns in rows
    ]
