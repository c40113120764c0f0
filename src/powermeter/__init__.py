"""
A home electricity monitor: the flashes of a meter's LED, counted and kept.

Data flows one way: a board's edges to the recorder, whose pulses go to the
journal, from which each delivery feeds one writer.
"""

__version__ = "0.1.0"
