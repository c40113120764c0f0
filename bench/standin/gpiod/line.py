"""The enumerations of the library's module of this name that are used here."""

from enum import Enum


class Value(Enum):
    INACTIVE = 0
    ACTIVE = 1


class Direction(Enum):
    AS_IS = 1
    INPUT = 2
    OUTPUT = 3


class Bias(Enum):
    AS_IS = 1
    DISABLED = 3
    PULL_UP = 4
    PULL_DOWN = 5


class Edge(Enum):
    NONE = 1
    BOTH = 4


class Clock(Enum):
    MONOTONIC = 1
