"""The Erlang types: in a node the built-in ones, elsewhere those in pure Python.

Pickles go both ways: what was pickled inside a node can be loaded outside, as by the processes that
multiprocessing spawns, and the other way round.
"""

try:
    from _erlang import Atom, Bitstring, Cancelled, Fun, Pid, Port, Ref
    from _erlang import decode as _decode
except ModuleNotFoundError:
    from ._terms import decode as _decode
    from ._types import Atom, Bitstring, Cancelled, Fun, Pid, Port, Ref

__all__ = ["Atom", "Bitstring", "Cancelled", "Fun", "Pid", "Port", "Ref", "unpickle"]


def unpickle(data):
    """The Pid, Ref, Port or Fun that pickle kept as these bytes, an external term.

    >>> unpickle(bytes.fromhex('83 71 7705 6c69737473 7703 6d6170 6102'))
    Fun<lists:map/2>
    """
    return _decode(data)
