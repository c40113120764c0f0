"""What the services have, beside what they are to have for the journal."""

from records import csv_rows, expected, journal_rows
from rig import differences

from powermeter.meter import NS_PER_S


def in_file(data_dir, rows=None):
    """Where the CSV file differs from the journal beside it, or from some *rows* of it."""
    return differences(csv_rows(data_dir / "power.csv"), expected(journal_rows(data_dir) if rows is None else rows))


def in_influxdb(data_dir, influxd, database):
    """Where a database that has had all pulses differs from the journal."""
    points = [
        (point["meter"], point["time"], point.get("power"), point["energy"], point["register"])
        for point in influxd.points(database=database)
    ]
    return differences(points, sorted(expected(journal_rows(data_dir)), key=lambda row: row[:2]))


def gauges(rows, period_s):
    """By meter and period's start what Librato is to have for the journal's *rows*: how many powers, least, most."""
    powers = {}
    for meter, time_ns, watts, _, _ in expected(rows):
        if watts is not None:
            powers.setdefault((meter, time_ns // (period_s * NS_PER_S) * period_s), []).append(watts)
    return {key: (len(watts), min(watts), max(watts)) for key, watts in powers.items()}


def in_librato(data_dir, server, source, period_s, *, last=True):
    """
    Where the gauges of *source* differ from the journal.

    Without *last* its last two periods need not be there: they were not over, or just so, when the program stopped.
    """
    wanted = sorted(gauges(journal_rows(data_dir), period_s).items())
    found = {
        (name.removeprefix(f"{source}."), at_s): (gauge["count"], gauge["min"], gauge["max"])
        for (_, name, at_s), gauge in list(server.gauges.items())
        if isinstance(name, str) and name.startswith(f"{source}.")
    }
    if not last:
        for key, _ in wanted[:-3:-1]:
            if key not in found:
                wanted.pop()
    return differences(sorted(found.items()), wanted)
