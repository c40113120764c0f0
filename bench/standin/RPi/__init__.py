# ruff: noqa: N999 - the name is that of the library
"""The package of the stand-in :mod:`RPi.GPIO`."""
