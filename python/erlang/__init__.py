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
    Cancelled,
    Fun,
    Pid,
    Port,
    Ref,
    call,
    cast,
    demonitor,
    link,
    monitor,
    node,
    receive,
    self,
    unlink,
    whereis,
    register,
    register_converter,
    send,
    unregister,
)

from .errors import ErlangError, ProcessError, TimeoutError

__all__ = [
    "Atom",
    "Bitstring",
    "Cancelled",
    "ErlangError",
    "Fun",
    "LogHandler",
    "Pid",
    "Port",
    "ProcessError",
    "Ref",
    "TimeoutError",
    "atom",
    "call",
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


def __getattr__(name):
    # Not before it is asked for: importing logging takes longer than a node's whole start.
    if name == "LogHandler":
        from ._logging import LogHandler

        return LogHandler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
