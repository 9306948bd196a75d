"""The Erlang types in pure Python: what stands for the node's built-in ones outside of a node.

They do what the built-in ones do. A Pid, Ref, Port or Fun keeps its bytes in the external term
format, which say what it is; erlang._terms reads them.
"""

import operator
from collections import namedtuple

ATOM_CHARS = 255

# What the bytes of a Pid, Ref, Port or Fun say. A closure has no function, fun M:F/A no node.
Parts = namedtuple("Parts", "node module function creation numbers", defaults=(None, None, 0, ()))


class _Fixed(type):
    """The type of the types: they cannot be changed, nor have subclasses outside of this module."""

    def __new__(cls, name, bases, namespace):
        for base in bases:
            if isinstance(base, _Fixed) and base is not _Opaque:
                raise TypeError(f"type 'erlang.{base.__name__}' is not an acceptable base type")
        return super().__new__(cls, name, bases, namespace)

    def __setattr__(cls, name, value):
        raise TypeError(f"cannot set {name!r} attribute of immutable type 'erlang.{cls.__name__}'")

    def __delattr__(cls, name):
        raise TypeError(f"cannot delete {name!r} attribute of immutable type 'erlang.{cls.__name__}'")


_atoms = {}


class Atom(str, metaclass=_Fixed):
    """An Erlang atom. It is a str, and goes to Erlang as an atom where a plain str goes as a binary.

    There is one object for each name.

    >>> Atom('ok')
    Atom('ok')
    >>> Atom('ok') == 'ok', Atom('ok') is Atom('ok')
    (True, True)
    """

    __slots__ = ()
    __module__ = "erlang"

    def __new__(cls, *args, **kwargs):
        if kwargs:
            raise TypeError("Atom() takes no keyword arguments")
        if len(args) != 1:
            raise TypeError(f"Atom() takes exactly 1 argument ({len(args)} given)")
        name = args[0]
        if type(name) is Atom:
            return name
        if not isinstance(name, str):
            raise TypeError(f"Atom() argument 1 must be str, not {type(name).__name__}")
        name = str.__str__(name)
        atom = _atoms.get(name)
        if atom is None:
            name.encode()  # has to have a UTF-8 form
            if len(name) > ATOM_CHARS:
                raise ValueError(f"atom is longer than {ATOM_CHARS} characters")
            atom = _atoms.setdefault(name, super().__new__(cls, name))
        return atom

    def __repr__(self):
        return f"Atom({str.__repr__(self)})"

    def __reduce__(self):
        return Atom, (str(self),)


class _Opaque(metaclass=_Fixed):
    """What Pid, Ref, Port and Fun have in common."""

    __slots__ = ("_data", "_parts")
    __module__ = "erlang"

    def __new__(cls, *args, **kwargs):
        raise TypeError(f"cannot create 'erlang.{cls.__name__}' instances")

    def __setattr__(self, name, value):
        raise AttributeError(f"attribute {name!r} of 'erlang.{type(self).__name__}' objects is not writable")

    def __delattr__(self, name):
        self.__setattr__(name, None)

    def _same(self):
        """What equal objects have in common: the same pid can come in an old and a new form."""
        parts = self._parts
        return self._data if parts.module is not None and parts.function is None else parts

    def __eq__(self, other):
        if type(other) is not type(self):
            return NotImplemented
        return self._data == other._data or self._same() == other._same()

    def __hash__(self):
        return hash((type(self).__name__, self._same()))

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self

    def __reduce__(self):
        from .types import unpickle

        return unpickle, (b"\x83" + self._data,)

    def __repr__(self):
        numbers = "".join(f".{n}" for n in self._shown())
        return f"{type(self).__name__}<{_shown(self._parts.node)}{numbers}>"

    def _shown(self):
        return self._parts.numbers


def make(cls, data, parts):
    """The Pid, Ref, Port or Fun of these bytes, which say that."""
    self = object.__new__(cls)
    object.__setattr__(self, "_data", data)
    object.__setattr__(self, "_parts", parts)
    return self


def _shown(name):
    """An atom's name in a repr(): quoted if it has characters that would spoil a line."""
    return str(name) if name.isprintable() else str.__repr__(name)


class Pid(_Opaque):
    """An Erlang process identifier; it goes back to Erlang unchanged."""

    __slots__ = ()
    __module__ = "erlang"
    node = property(lambda self: self._parts.node, doc="Name of its node, an Atom.")
    id = property(lambda self: self._parts.numbers[0], doc="Its first number, as <node.id.serial>.")
    serial = property(lambda self: self._parts.numbers[1], doc="Its second number.")
    creation = property(lambda self: self._parts.creation, doc="Which incarnation of the node made it.")


class Ref(_Opaque):
    """An Erlang reference; it goes back to Erlang unchanged."""

    __slots__ = ()
    __module__ = "erlang"
    node = property(lambda self: self._parts.node, doc="Name of its node, an Atom.")
    id = property(lambda self: self._parts.numbers, doc="Its numbers, a tuple.")
    creation = property(lambda self: self._parts.creation, doc="Which incarnation of the node made it.")

    def _shown(self):
        return reversed(self._parts.numbers)  # as Erlang does


class Port(_Opaque):
    """An Erlang port identifier; it goes back to Erlang unchanged."""

    __slots__ = ()
    __module__ = "erlang"
    node = property(lambda self: self._parts.node, doc="Name of its node, an Atom.")
    id = property(lambda self: self._parts.numbers[0], doc="Its number.")
    creation = property(lambda self: self._parts.creation, doc="Which incarnation of the node made it.")


class Fun(_Opaque):
    """An Erlang fun; it goes back to Erlang unchanged."""

    __slots__ = ()
    __module__ = "erlang"
    node = property(lambda self: self._parts.node, doc="Where a closure was made; None for fun M:F/A.")
    module = property(lambda self: self._parts.module, doc="Its module, an Atom.")
    function = property(lambda self: self._parts.function, doc="F of fun M:F/A; None for a closure.")
    arity = property(lambda self: self._parts.numbers[0], doc="How many arguments it takes.")

    def __repr__(self):
        _, module, function, _, numbers = self._parts
        if function is None:
            return f"Fun<{_shown(module)}.{numbers[1]}/{numbers[0]}>"
        return f"Fun<{_shown(module)}:{_shown(function)}/{numbers[0]}>"


class Bitstring(metaclass=_Fixed):
    """An Erlang bitstring: bytes, of the last of which only the upper bits count.

    >>> Bitstring(b'\\xff', 3)
    Bitstring(b'\\xe0', 3)
    >>> Bitstring(b'ab', 4).bit_size
    12
    """

    __slots__ = ("_data", "_bits")
    __module__ = "erlang"

    def __new__(cls, data, bits=8):
        data, bits = bytes(memoryview(data)), operator.index(bits)
        if not 1 <= bits <= 8:
            raise ValueError("Bitstring: bits of the last byte must be 1 to 8")
        if not data and bits != 8:
            raise ValueError("Bitstring: there is no last byte")
        if data:
            data = data[:-1] + bytes([data[-1] & 0xFF << 8 - bits & 0xFF])
        self = super().__new__(cls)
        object.__setattr__(self, "_data", data)
        object.__setattr__(self, "_bits", bits)
        return self

    __setattr__ = _Opaque.__setattr__
    __delattr__ = _Opaque.__delattr__
    data = property(lambda self: self._data, doc="Its bytes; what is not used of the last is zero.")
    bits = property(lambda self: self._bits, doc="How many bits of the last byte count, from the top.")

    @property
    def bit_size(self):
        """How many bits it has."""
        return len(self._data) * 8 - 8 + self._bits if self._data else 0

    def __eq__(self, other):
        if type(other) is not Bitstring:
            return NotImplemented
        return (self._data, self._bits) == (other._data, other._bits)

    def __hash__(self):
        return hash((self._data, self._bits))

    def __repr__(self):
        return f"Bitstring({self._data!r}, {self._bits})"

    def __reduce__(self):
        return Bitstring, (self._data, self._bits)


class Cancelled(BaseException):
    """The call that this thread runs was cancelled, or its time limit has passed.

    Raised at the next bytecode. Clean up and let it go on: nobody waits for the result.
    A BaseException, so that `except Exception` does not stop it.

    >>> issubclass(Cancelled, Exception)
    False
    """

    __module__ = "erlang"
