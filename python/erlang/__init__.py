"""Erlang for Python code that runs inside a pynode node, which is a hidden node of an Erlang cluster.

Every thread may use everything here at any time: one that Python has started, one of a pool, one that
serves a request of Erlang. A thread that waits, for the value of a call or for a message, blocks only
itself: the GIL is free, and other threads run and call Erlang meanwhile. A thread is a process for
Erlang as soon as it asks for it, by self(), receive(), monitor() and the like. It then has a Pid and a
mailbox until it ends.

Calling Erlang:

    call(name, *args)          the value of a registered Erlang function, or of 'mod:fun'
    async_call(name, *args)    the same in a coroutine: to be awaited
    cast(name, *args)          has it called, and waits for nothing
    NAME(*args)                the same as call('NAME', *args): erlang.NAME, from erlang import NAME

Being an Erlang process:

    self()                     the Pid of this thread
    send(dest, term)           a message to a Pid, a name or (name, node)
    receive(timeout)           the oldest message
    register(name)             a name for this thread; register(name, obj) makes obj a server
    unregister(name)           takes the name away
    whereis(name)              the Pid of a name
    monitor(target)            asks for a message when the target ends; demonitor(ref)
    link(pid)                  the same, both ways; unlink(pid)
    node()                     the name of this node
    nodes()                    the Erlang nodes that there are
    monitor_node(node)         asks for a message when one of them goes

The node's event loop, which runs the tasks of Erlang:

    run(coro)                  has it run a coroutine, and waits
    spawn_task(coro)           the same without waiting
    sleep(seconds)             in a coroutine awaited; elsewhere others have the worker meanwhile

What a called function may return so that its call goes on elsewhere, without a thread that waits:

    schedule(name, *args)      in a function of Erlang's
    schedule_py(module, function, args, kwargs)
                               in another function, at the end of the queue
    consume_time_slice(percent)  whether it is time for that

Terms: int, float, str, bytes, list, tuple, dict, bool and None are what they look like.

    Atom, atom(name)           an atom, which is a str
    Pid, Ref, Port, Fun        go back to Erlang as they came
    Bitstring                  a binary that does not end in a whole byte
    register_converter(t, f)   how objects of a type of yours are sent

Errors: ErlangError, with ProcessError and TimeoutError; Cancelled is raised in what was cancelled.

Besides: LogHandler, for loggers that do not propagate; erlang.blocking, a native thread pool;
erlang.cluster, the Python nodes of the cluster as an executor; erlang.testing, which pretends a node.

Under plain python3, outside of a node, the types are there and the functions say that there is no node.

>>> import erlang
>>> erlang.Atom('ok')
Atom('ok')
>>> from erlang import double_it
>>> double_it
<Erlang function double_it>
"""

from ._tasks import run, sleep, spawn_task
from .errors import ErlangError, ProcessError, TimeoutError

try:
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
        consume_time_slice,
        demonitor,
        link,
        monitor,
        node,
        receive,
        register,
        register_converter,
        schedule,
        schedule_py,
        self,
        send,
        unlink,
        unregister,
        whereis,
    )

    from ._nodes import monitor_node, nodes
except ModuleNotFoundError:
    from ._outside import *

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
    "async_call",
    "atom",
    "call",
    "cast",
    "consume_time_slice",
    "demonitor",
    "link",
    "monitor",
    "monitor_node",
    "node",
    "nodes",
    "receive",
    "register",
    "register_converter",
    "run",
    "schedule",
    "schedule_py",
    "self",
    "send",
    "sleep",
    "spawn_task",
    "unlink",
    "unregister",
    "whereis",
]

_MODULES = ("blocking", "cluster", "errors", "testing", "types")


def atom(name):
    """The Erlang atom of that name; the same as ``Atom(name)``.

    >>> atom('ok') is Atom('ok')
    True
    """
    return Atom(name)


class _Function:
    """What erlang.NAME is: the Erlang function that is registered under NAME when it is called."""

    __erlang_function__ = True

    def __init__(self, name):
        self.__name__ = self.__qualname__ = name
        self.__doc__ = f"Calls the Erlang function {name}: the same as call('{name}', ...)."

    def __call__(self, *args, timeout=None, node=None):
        return call(self.__name__, *args, timeout=timeout, node=node)

    def __repr__(self):
        return f"<Erlang function {self.__name__}>"

    def __reduce__(self):
        return self.__name__  # pickled by its name, as functions are


def __getattr__(name):
    """What is imported when it is asked for, and functions of Erlang, each made once."""
    if name == "LogHandler":  # importing logging takes longer than a node's whole start
        from ._logging import LogHandler as value
    elif name == "async_call":  # and importing asyncio even longer
        from ._async import async_call as value
    elif name in _MODULES:
        import importlib

        return importlib.import_module(f"{__name__}.{name}")
    elif name.startswith("_") or not name.isidentifier():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    else:
        value = _Function(name)
    return globals().setdefault(name, value)
