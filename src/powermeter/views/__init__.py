"""The port to whatever shows how the program is doing: a view takes a frozen :class:`~powermeter.status.Status`."""
