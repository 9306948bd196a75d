"""How arguments and results travel: as Erlang terms (docs/terms.md), or pickled. Both ends use it.

Either way they are bytes for the VM in between. A codec has dump_args and load_args, dump and load.
"""

import pickle
import re

from ._cluster_objects import Handle, fetched

try:
    from _erlang import Atom, decode, encode
except ModuleNotFoundError:
    from ._terms import decode, encode
    from ._types import Atom

_HANDLE, _BYTES = Atom("$erlang_handle"), Atom("bytes")


class Terms:
    """As Erlang terms. An argument or a result that is bytes stays bytes, whatever is in it."""

    name = "terms"

    @staticmethod
    def dump_args(args, kwargs):
        """TypeError or ValueError: one has no form in Erlang; which one is said."""
        args = tuple([_sent(arg) if type(arg) in _OWN else arg for arg in args])
        kwargs = {key: _sent(value) if type(value) in _OWN else value for key, value in kwargs.items()}
        return _encoded((args, kwargs) if kwargs else (args,), r"^\w+\[([01])\]", _given)

    @staticmethod
    def load_args(data):
        args, *kwargs = decode(data)
        kwargs = kwargs[0] if kwargs else {}
        return [_got(arg) for arg in args], {key: _got(value) for key, value in kwargs.items()}

    @staticmethod
    def dump(value):
        return _encoded((_BYTES, value) if type(value) in _BYTES_TYPES else value, r"^\w+", "result")

    load = staticmethod(decode)


def _encoded(value, place, name):
    """What has no form is an error that says where it is; the place has a name of its own here."""
    try:
        return encode(value)
    except (TypeError, ValueError) as e:
        raise type(e)(re.sub(place, name, str(e), count=1)) from None


def _given(place):
    return ("args", "kwargs")[int(place[1])]


def _sent(value):
    return (_HANDLE, *value._where()) if type(value) is Handle else (_BYTES, value)


_BYTES_TYPES = frozenset((bytes, bytearray, memoryview))
_OWN = _BYTES_TYPES | {Handle}


def _got(value):
    if type(value) is tuple and len(value) == 4 and value[0] is _HANDLE:
        return fetched(*value[1:])
    return value


class Pickles:
    """Pickled. Who loads them runs what is in them."""

    name = "pickle"

    @staticmethod
    def dump_args(args, kwargs):
        """TypeError: one cannot be pickled."""
        return _pickled(pickle.dumps, (args, kwargs), "the arguments")

    @staticmethod
    def dump(value):
        return _pickled(pickle.dumps, value, "the result")

    load = load_args = staticmethod(pickle.loads)


class Shipped(Pickles):
    """Pickled by cloudpickle, which takes functions and classes with all that they are made of."""

    @staticmethod
    def dump_args(args, kwargs):
        """TypeError: one cannot be pickled."""
        return _pickled(_cloudpickle().dumps, (args, kwargs), "the arguments")

    @staticmethod
    def check():
        """ImportError: there is no cloudpickle."""
        _cloudpickle()

    @staticmethod
    def dump_function(function):
        """The function itself, with what it refers to."""
        return _pickled(_cloudpickle().dumps, function, repr(function))


def _cloudpickle():
    try:
        import cloudpickle
    except ImportError:
        what = "ship=True needs the package cloudpickle (Debian: python3-cloudpickle) on all nodes"
        raise ImportError(what) from None
    return cloudpickle


def _pickled(dumps, value, what):
    try:
        return dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    except (pickle.PicklingError, AttributeError, TypeError) as e:
        raise TypeError(f"{what} cannot be pickled: {e}") from e


CODECS = {codec.name: codec for codec in (Terms, Pickles)}
