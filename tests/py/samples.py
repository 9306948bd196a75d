"""What the expressions of test_py_terms.c use: classes, and objects that are made by a call."""

import array
import collections
import ctypes
import datetime
import decimal
import enum

from _erlang import Atom, Bitstring, Fun, Pid, Port, Ref

Point = collections.namedtuple("Point", "x y")


class Level(enum.IntEnum):
    HIGH = 3


class Colour(enum.Enum):
    __module__ = "__main__"
    RED = 1


class Name(str):
    pass


class Float(float):
    pass


class Bytes(bytes):
    pass


class List(list):
    pass


class Array:
    """Like an array of numpy."""

    def __init__(self, items):
        self.items = items

    def tolist(self):
        return self.items


class Endless:
    """Never becomes a list."""

    def tolist(self):
        return Endless()


class Broken:
    def tolist(self):
        return 1 / 0


class Broken2:
    def __str__(self):
        return str(1 / 0)


class Odd:
    """Has no repr()."""

    __module__ = "__main__"

    def __repr__(self):
        return 1 / 0


class OddName(str):
    """Has a place in Erlang, but no repr()."""

    def __repr__(self):
        return 1 / 0


def nest(depth):
    """A list inside a list, as deep as that."""
    items = []
    for _ in range(depth):
        items = [items]
    return items


def cycle():
    """A dict that holds itself."""
    d = {}
    d["self"] = d
    return d
