"""Erlang for Python code that runs inside a pynode node.

>>> import erlang
>>> erlang.Atom('ok')
Atom('ok')
"""

try:
    import _erlang
except ModuleNotFoundError as e:
    raise ImportError(
        "the module erlang works only inside a pynode node; run this code with "
        "`pynode --name NAME@HOST script.py`"
    ) from e

from _erlang import (
    Atom,
    Bitstring,
    Fun,
    Pid,
    Port,
    Ref,
    node,
    register,
    register_converter,
    send,
    unregister,
)

from .errors import ErlangError, ProcessError, TimeoutError

__all__ = [
    "Atom",
    "Bitstring",
    "ErlangError",
    "Fun",
    "Pid",
    "Port",
    "ProcessError",
    "Ref",
    "TimeoutError",
    "atom",
    "node",
    "register",
    "register_converter",
    "send",
    "unregister",
]


def atom(name):
    """The Erlang atom of that name; the same as ``Atom(name)``.

    >>> atom('ok') is Atom('ok')
    True
    """
    return Atom(name)
