"""Terms to bytes and back in pure Python, as the node's own encode() and decode() do it.

erlang.testing sends all that would go to Erlang through here, so that what a node refuses is refused
in a test, too, with the same words. decode() reads what encode() writes, and all forms of a pid,
reference, port or fun.
"""

import math
import struct

from ._types import ATOM_CHARS, Atom, Bitstring, Fun, Parts, Pid, Port, Ref, make

_DEPTH = 512
_INTEGER_BYTES = 524280
_TUPLE = (1 << 24) - 1
_STEPS = 16  # shown at each end of a longer place
_KEY = 60  # characters shown of a key

_NONES = ("none", "nil", "undefined")
_OPAQUE = (Pid, Ref, Port, Fun)
_FIXED = (str, int, float, tuple, list, dict, bytes, set, frozenset, bool, type(None))

_converters = {}


class _Refused(Exception):
    """Becomes an exception of that kind when the place in the term is known."""

    def __init__(self, kind, text, *steps):
        self.kind, self.text, self.steps = kind, text, list(steps)

    def at(self, root):
        """The exception, with the place: the steps to it came from the inside to the outside."""
        steps = self.steps[::-1]
        if len(steps) > 2 * _STEPS:
            steps[_STEPS:-_STEPS] = ["..."]
        return self.kind(f"{root}{''.join(steps)}: {self.text}")


def _key_step(key):
    try:
        shown = repr(key)
    except Exception:
        return f"[<{type(key).__name__}>]"
    return f"[{shown}]" if len(shown) <= _KEY else f"[{shown[:_KEY]}...]"


def register_converter(type_, converter):
    """Sends objects of the type, and of its subclasses, as what converter(obj) returns."""
    if not isinstance(type_, type):
        raise TypeError(f"register_converter: {type(type_).__name__} is not a type")
    if converter is not None and not callable(converter):
        raise TypeError("register_converter: the converter is not callable")
    if type_ in _FIXED or type_ in (Atom, Bitstring, *_OPAQUE):
        raise ValueError(f"register_converter: {type_.__name__} has its own Erlang form")
    if converter is None:
        _converters.pop(type_, None)
    else:
        _converters[type_] = converter


# To bytes.


def encode(obj, root="result"):
    """The external term format of obj, as term_to_binary/1; root is what errors call obj.

    >>> encode([1, 'a'])
    b'\\x83l\\x00\\x00\\x00\\x02a\\x01m\\x00\\x00\\x00\\x01aj'
    """
    writer = _Writer()
    try:
        writer.term(obj, 0)
    except _Refused as e:
        raise e.at(root) from None
    return bytes(writer.out)


class _Writer:
    def __init__(self):
        self.out = bytearray(b"\x83")

    def term(self, obj, depth):
        """Writes a term. Whatever is inside it is one level, and one Python frame, deeper."""
        inside = self._exact(type(obj), obj)
        if inside is NotImplemented:
            inside = self._other(obj)
        if inside is None:
            return
        if depth >= _DEPTH:
            raise _Refused(ValueError, f"nested deeper than {_DEPTH} levels")
        for step, item in inside:
            try:
                self.term(item, depth + 1)
            except _Refused as e:
                e.steps.append(step)
                raise

    # These write an object, and answer None or, for a container, an iterator of (step, item).

    def _exact(self, kind, obj):
        if kind is str:
            return self._str(obj)
        if kind is int:
            return self._int(obj)
        if kind is float:
            return self._float(obj)
        if kind is tuple:
            return self._tuple(obj)
        if kind is list:
            return self._list(list.copy(obj), "[{}]")
        if kind is dict:
            return self._dict(obj)
        if kind is bytes:
            return self._binary(obj)
        if obj is None:
            return self._atom("none")
        if kind is bool:
            return self._atom("true" if obj else "false")
        if kind is Atom:
            return self._atom(obj)
        if kind is Bitstring:
            return self._bits(obj)
        if kind in _OPAQUE:
            self.out += obj._data
            return None
        if kind in (set, frozenset):
            return self._list(list(obj), " item")
        return NotImplemented

    def _other(self, obj):
        for base in type(obj).__mro__:
            if base in _converters:
                return self._made(_converters[base](obj))
        for base in (str, int, float, bytes, tuple, list, dict, set, frozenset):
            if isinstance(obj, base):
                return self._exact(base, obj)
        numpy_like = hasattr(obj, "__array_interface__")
        if not numpy_like and (data := _buffer(obj)) is not None:
            return self._binary(data)
        if isinstance(obj, memoryview):
            raise _Refused(TypeError, "cannot convert a memoryview that is not contiguous")
        tolist = None if isinstance(obj, type) else getattr(obj, "tolist", None)
        if callable(tolist):
            return self._made(tolist())
        if numpy_like and (data := _buffer(obj)) is not None:
            return self._binary(data)
        raise _Refused(TypeError, f"cannot convert {_type_name(type(obj))} to an Erlang term")

    def _made(self, obj):
        yield "", obj

    def _atom(self, name):
        data = str.encode(name)
        self.out += bytes([119, len(data)]) if len(data) <= 255 else struct.pack(">BH", 118, len(data))
        self.out += data

    def _str(self, text):
        try:
            self._binary(str.encode(text))
        except UnicodeEncodeError as e:
            text = f"the str has a lone surrogate at index {e.start} and no UTF-8 form"
            raise _Refused(ValueError, text) from None

    def _binary(self, data):
        self.out += struct.pack(">BI", 109, len(data)) + data

    def _bits(self, obj):
        if obj.bits == 8:
            self._binary(obj.data)
        else:
            self.out += struct.pack(">BIB", 77, len(obj.data), obj.bits) + obj.data

    def _int(self, n):
        n = int.__pos__(n)
        if 0 <= n <= 255:
            self.out += bytes([97, n])
        elif -(2**31) <= n < 2**31:
            self.out += struct.pack(">Bi", 98, n)
        else:
            data = abs(n).to_bytes((n.bit_length() + 7) // 8, "little")
            if len(data) > _INTEGER_BYTES:
                raise _Refused(ValueError, "the integer is too large for Erlang")
            head = bytes([110, len(data)]) if len(data) <= 255 else struct.pack(">BI", 111, len(data))
            self.out += head + bytes([n < 0]) + data

    def _float(self, x):
        if math.isnan(x):
            self._atom("nan")
        elif math.isinf(x):
            self._atom("infinity" if x > 0 else "neg_infinity")
        else:
            self.out += struct.pack(">Bd", 70, x)

    def _tuple(self, items):
        items = tuple.__getitem__(items, slice(None))
        if len(items) > _TUPLE:
            raise _Refused(ValueError, "too large for an Erlang tuple")
        self.out += bytes([104, len(items)]) if len(items) <= 255 else struct.pack(">BI", 105, len(items))
        return ((f"[{i}]", item) for i, item in enumerate(items))

    def _list(self, items, step):
        if items:
            self.out += struct.pack(">BI", 108, len(items))
        for i, item in enumerate(items):
            yield step.format(i), item
        self.out += b"j"

    def _dict(self, items):
        self.out += struct.pack(">BI", 116, len(items))
        seen = set()
        for key, value in list(dict.items(items)):
            start, step = len(self.out), _key_step(key)
            yield " key", key
            data = bytes(self.out[start:])
            if data in seen:
                raise _Refused(ValueError, "two keys of the dict are equal in Erlang", step)
            seen.add(data)
            yield step, value


def _buffer(obj):
    """The bytes of an object with a contiguous buffer, else None."""
    try:
        view = memoryview(obj)
    except (TypeError, BufferError):
        return None
    return view.tobytes() if view.c_contiguous else None


def _type_name(kind):
    """What Python calls a type in its own messages."""
    module = getattr(kind, "__module__", None)
    if not isinstance(module, str) or module in ("builtins", "__main__"):
        return kind.__qualname__
    return f"{module}.{kind.__qualname__}"


# From bytes.


def decode(data, root="term"):
    """The object of an external term, as binary_to_term/1.

    >>> decode(encode({'a', }))
    ['a']
    """
    reader = _Reader(bytes(data))
    try:
        if reader.take(1) != b"\x83":
            raise ValueError(f"{root}: does not begin with the version byte 131")
        term = reader.term()
        if reader.at != len(reader.data):
            raise ValueError(f"{root}: bytes after its end")
        return term
    except _Refused as e:
        raise e.at(root) from None


class _Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        taken = self.data[self.at : self.at + n]
        if len(taken) < n:
            raise _Refused(ValueError, "the term is truncated")
        self.at += n
        return taken

    def number(self, size):
        return int.from_bytes(self.take(size), "big")

    def term(self):
        """Reads a term. Whatever is inside it is one Python frame deeper."""
        begin, tag = self.at, self.number(1)
        if tag == 104 or tag == 105:
            n = self.number(1 if tag == 104 else 4)
            if n == 2 and (data := self._marked_bytes()) is not None:
                return data
        elif tag == 108 or tag == 116:
            n = self.number(4) * (2 if tag == 116 else 1)
        else:
            return self._scalar(tag, begin)
        items = []
        for i in range(n):
            try:
                items.append(self.term())
            except _Refused as e:
                e.steps.append(self._step(tag, items, i))
                raise
        if tag == 116:
            return _dict(items)
        if tag == 108 and self.take(1) != b"j":
            raise _Refused(TypeError, "an improper list has no Python form")
        return items if tag == 108 else tuple(items)

    def _step(self, tag, items, i):
        if tag != 116:
            return f"[{i}]"
        return _key_step(_frozen(items[-1])) if i % 2 else " key"

    def _marked_bytes(self):
        """The binary of {bytes, Binary}, if that is what comes; else None."""
        mark = b"w\x05bytesm"
        if not self.data.startswith(mark, self.at):
            return None
        self.at += len(mark)
        return self.take(self.number(4))

    def _scalar(self, tag, begin):
        if tag == 97:
            return self.number(1)
        if tag == 98:
            return int.from_bytes(self.take(4), "big", signed=True)
        if tag == 70:
            return struct.unpack(">d", self.take(8))[0]
        if tag == 110 or tag == 111:
            n, negative = self.number(1 if tag == 110 else 4), self.number(1)
            magnitude = int.from_bytes(self.take(n), "little")
            return -magnitude if negative else magnitude
        if tag == 109:
            return _text(self.take(self.number(4)))
        if tag == 77:
            n, bits = self.number(4), self.number(1)
            return Bitstring(self.take(n), bits)
        if tag == 106:
            return []
        if tag in _ATOMS:
            self.at = begin
            return _named(self._name())
        if tag in _READERS:
            return self._opaque(tag, begin)
        raise _Refused(ValueError, f"unknown tag {tag}")

    # A pid, reference, port or fun.

    def _opaque(self, tag, begin):
        kind, read = _READERS[tag]
        try:
            parts = read(self, tag)
        except (_Refused, ValueError):
            name = "reference" if kind is Ref else kind.__name__.lower()
            raise _Refused(ValueError, f"malformed {name}") from None
        return make(kind, self.data[begin : self.at], parts)

    def _name(self):
        """An atom, whatever its name."""
        tag = self.number(1)
        if tag not in _ATOMS:
            raise _Refused(ValueError, f"unknown tag {tag}")
        size, encoding = _ATOMS[tag]
        name = self.take(self.number(size)).decode(encoding)
        if len(name) > ATOM_CHARS:
            raise _Refused(ValueError, f"atom is longer than {ATOM_CHARS} characters")
        return Atom(name)

    def _pid(self, tag):
        node, numbers = self._name(), (self.number(4), self.number(4))
        return Parts(node, numbers=numbers, creation=self.number(4 if tag == 88 else 1))

    def _port(self, tag):
        node, numbers = self._name(), (self.number(8 if tag == 120 else 4),)
        return Parts(node, numbers=numbers, creation=self.number(1 if tag == 102 else 4))

    def _ref(self, tag):
        if tag == 101:
            return Parts(self._name(), numbers=(self.number(4),), creation=self.number(1))
        n, node = self.number(2), self._name()
        if not 1 <= n <= 5:
            raise _Refused(ValueError, "malformed reference")
        creation = self.number(4 if tag == 90 else 1)
        return Parts(node, creation=creation, numbers=tuple(self.number(4) for _ in range(n)))

    def _export(self, tag):
        module, function = self._name(), self._name()
        if self.number(1) != 97:
            raise _Refused(ValueError, "malformed fun")
        return Parts(None, module, function, numbers=(self.number(1),))

    def _closure(self, tag):
        """Its end is found by reading its parts: some releases of OTP send a size that is too large."""
        self.take(4)
        arity, _, index, n = self.number(1), self.take(16), self.number(4), self.number(4)
        module, *_ = self._name(), self.term(), self.term()
        creator = self.term()
        if type(creator) is not Pid:
            raise _Refused(ValueError, "malformed fun")
        for _ in range(n):
            self.term()
        return Parts(creator.node, module, numbers=(arity, index))


# tag: bytes of the length, encoding
_ATOMS = {119: (1, "utf-8"), 118: (2, "utf-8"), 115: (1, "latin-1"), 100: (2, "latin-1")}

_READERS = {
    **dict.fromkeys((88, 103), (Pid, _Reader._pid)),
    **dict.fromkeys((90, 101, 114), (Ref, _Reader._ref)),
    **dict.fromkeys((89, 102, 120), (Port, _Reader._port)),
    112: (Fun, _Reader._closure),
    113: (Fun, _Reader._export),
}


def _named(name):
    if name in _NONES:
        return None
    return name == "true" if name in ("true", "false") else name


def _text(data):
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _dict(items):
    """The dict of keys and values in turn; each key is made hashable."""
    result = {}
    for key, value in zip(items[::2], items[1::2]):
        key = _frozen(key)
        if key in result:
            raise _Refused(ValueError, "two keys of the map are equal in Python", _key_step(key))
        result[key] = value
    return result


def _frozen(key):
    """What stands for a list or map inside a key."""
    if type(key) in (list, tuple):
        return tuple(_frozen(item) for item in key)
    if type(key) is dict:
        pairs = [(k, _frozen(v)) for k, v in key.items()]
        try:
            return tuple(sorted(pairs))
        except TypeError:
            return tuple(sorted(pairs, key=lambda pair: repr(pair[0])))
    return key
