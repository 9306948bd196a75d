"""Terms there and back, for live tests: echoes, and Python objects made to order."""

import array
import collections
import decimal
import enum
import pickle
import uuid

import erlang


def echo(x):
    """What comes in goes out."""
    return x


def pickled(x):
    """The same through pickle."""
    return pickle.loads(pickle.dumps(x))


def kind(x):
    """The name of the type that a term has become."""
    return type(x).__name__


def kinds(items):
    """The same of every item."""
    return [type(x).__name__ for x in items]


def keys(d):
    """The keys of a dict in its own order."""
    return list(d)


def size(x):
    """The length of a string, bytes or list."""
    return len(x)


def show(x):
    """repr() of what has come in."""
    return repr(x)


def same(x, y):
    """Whether both are equal and have the same hash."""
    return x == y and hash(x) == hash(y)


def as_key(x):
    """A dict with this key: it must be hashable."""
    return {x: "here"}[x]


def digits(n):
    """A big integer as decimal text, computed on this side."""
    text = ""
    n, sign = abs(n), "-" if n < 0 else ""
    while n >= 10**1000:
        n, rest = divmod(n, 10**1000)
        text = f"{rest:01000d}" + text
    return f"{sign}{n}{text}"


Point = collections.namedtuple("Point", "x y")


class Colour(enum.Enum):
    RED = 1


class Array:
    """Like an array of numpy: it knows how to become a list."""

    def tolist(self):
        return [[1, 2], [3, 4]]


class Unknown:
    def __str__(self):
        return "an unknown thing"


class Sub(str):
    pass


def make(what):
    """An object of a kind that has no literal in Erlang."""
    return MAKERS[what]()


def ordered():
    """A dict whose order is not that of its keys."""
    return {"z": 1, "a": 2, "m": 3}


MAKERS = {
    "set": lambda: {7},
    "frozenset": lambda: frozenset((7,)),
    "namedtuple": lambda: Point(1, 2),
    "bytearray": lambda: bytearray(b"\xff\x00"),
    "memoryview": lambda: memoryview(b"abcdef")[1:3],
    "array": lambda: array.array("B", [1, 2, 255]),
    "tolist": Array,
    "subclass": lambda: Sub("text"),
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "none": lambda: None,
    "str": lambda: "plain",
    "atom": lambda: erlang.Atom("made here"),
    "atom()": lambda: erlang.atom("made here"),
    "atom255": lambda: erlang.Atom("\u00ff" * 255),
    "atom256": lambda: erlang.Atom("a" * 256),
    "bits": lambda: erlang.Bitstring(b"\xff\xe0", 3),
    "enum": lambda: Colour.RED,
    "decimal": lambda: decimal.Decimal("1.5"),
    "uuid": lambda: uuid.UUID(int=1),
    "complex": lambda: 1j,
    "range": lambda: range(3),
    "generator": lambda: (x for x in ()),
    "module": lambda: erlang,
    "function": lambda: echo,
    "unknown": Unknown,
    "in a dict": lambda: {"k": [0, (Unknown(),)]},
    "equal keys": lambda: {"a": 1, b"a": 2},
    "big": lambda: 7**1000,
    "ordered": ordered,
    "atoms": lambda: [erlang.Atom(f"made {i}") for i in range(3000)],
}


def convert_decimals():
    """From now on a Decimal goes out as a tuple of its own."""
    erlang.register_converter(decimal.Decimal, lambda d: (erlang.Atom("decimal"), str(d)))
