"""The port to whatever shows how the program is doing: a view takes a frozen :class:`~powermeter.status.Status`."""


def duration(seconds: float) -> str:
    """
    A time span as people say it.

    >>> duration(59.4), duration(3700), duration(200000)
    ('59 s', '1 h 1 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400:,} d {whole % 86400 // 3600} h"
