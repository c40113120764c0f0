"""
The page: its keys in the settings, and what else can be known about it without its libraries.

It runs as a separate process, so that nothing it is sent can disturb the counting: ``server.py`` is the daemon's side,
``child.py`` runs in the process, ``app.py`` answers requests, and ``pages.py`` makes the texts of its pages.
"""

from collections.abc import Mapping

from powermeter.settings.schema import Key, ip_address, optional, whole, words
from powermeter.settings.values import PageSettings

#: The keys of PAGE in the settings.
KEYS: Mapping[str, Key] = {
    "address": Key("127.0.0.1", ip_address),
    "port": Key(8080, whole(1, 65535)),
    "password": Key(None, optional(words), secret=True),
}

#: The page of a simulated meter for which there are no settings.
DEFAULT = PageSettings(**{name: key.default for name, key in KEYS.items()})

#: The libraries that it needs: each module and its name on PyPI.
LIBRARIES = {"bottle": "bottle", "waitress": "waitress"}


def url(settings: PageSettings) -> str:
    """
    Where the page of *settings* is.

    >>> url(PageSettings("::1", 8080, None))
    'http://[::1]:8080/'
    """
    address = f"[{settings.address}]" if ":" in settings.address else settings.address
    return f"http://{address}:{settings.port}/"
