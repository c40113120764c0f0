"""The package of the stand-in for RPi.GPIO: put the directory above this one on PYTHONPATH."""
# ruff: noqa: N999 - the name is the library's
