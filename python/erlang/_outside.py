"""What the built-in module _erlang has, for a Python outside of a node.

The types are in pure Python. The functions work while erlang.testing pretends a node, and say so
when there is none.
"""

from ._terms import register_converter as _register_converter
from ._types import Atom, Bitstring, Cancelled, Fun, Pid, Port, Ref
from .errors import ErlangError

__all__ = [
    "Atom",
    "Bitstring",
    "Cancelled",
    "Fun",
    "Pid",
    "Port",
    "Ref",
    "async_call",
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
    "schedule",
    "schedule_py",
    "self",
    "send",
    "unlink",
    "unregister",
    "whereis",
]

_pretended = []  # the nodes of erlang.testing, the innermost last


def advice(name, substitute="with erlang.testing"):
    """What to say of a name that works only in a node."""
    return (
        f"{name} works only inside a pynode node: run this with "
        f"`pynode --name NAME@HOST script.py`, or test it {substitute}"
    )


def _node(function):
    if not _pretended:
        raise ErlangError(advice(f"erlang.{function}"))
    return _pretended[-1]


def call(name, *args, timeout=None, node=None):
    """Calls the Erlang function that is registered under the name, and returns its value.

    ErlangError: the function failed, or there is none; TimeoutError: there is no answer after timeout
    seconds.

    >>> with testing.node(functions={'double_it': lambda x: 2 * x}):
    ...     call('double_it', 4)
    8
    """
    return _node("call").call(name, args, timeout, node)


async def async_call(name, *args, timeout=None, node=None):
    """Calls an Erlang function as call() does, for ``await`` in a coroutine: the event loop goes on.

    >>> import asyncio
    >>> with testing.node(functions={'double_it': lambda x: 2 * x}):
    ...     asyncio.run(async_call('double_it', 4))
    8
    """
    return await _node("async_call").async_call(name, args, timeout, node)


def cast(name, *args, node=None):
    """Has Erlang call the function, and waits for nothing: neither its value nor its errors.

    >>> with testing.node(functions={'note': print}):
    ...     cast('note', 'done')
    done
    """
    _node("cast").cast(name, args, node)


def self():
    """The Pid of the calling thread, which from now on has a mailbox and can be monitored.

    >>> with testing.node():
    ...     self() == self()
    True
    """
    return _node("self").processes.own().pid


def receive(timeout=None):
    """Takes the oldest message out of the calling thread's mailbox.

    TimeoutError: none has come after timeout seconds.

    >>> with testing.node():
    ...     send(self(), 'hello')
    ...     receive()
    'hello'
    """
    return _node("receive").processes.receive(timeout)


def send(dest, term):
    """Sends a message to a Pid, a registered name, or (name, node).

    >>> with testing.node() as n:
    ...     send(('logger', 'erl@host'), ['hello'])
    ...     n.sent
    [(('logger', 'erl@host'), ['hello'])]
    """
    _node("send").processes.send(dest, term)


def register(name, obj=...):
    """Makes obj a server under the name; without it, names the calling thread.

    >>> with testing.node():
    ...     register('reader')
    ...     whereis('reader') == self()
    True
    """
    _node("register").processes.register(name, obj)


def unregister(name):
    """Takes the name away again; who monitors a server gets 'DOWN' with reason normal.

    >>> with testing.node():
    ...     register('reader')
    ...     unregister('reader')
    ...     whereis('reader')
    """
    _node("unregister").processes.unregister(name)


def whereis(name):
    """The Pid that is registered under the name, or None.

    >>> with testing.node():
    ...     whereis('nobody')
    """
    return _node("whereis").processes.whereis(name)


def monitor(target):
    """A Ref; when the target, a Pid, name or (name, node), ends, the thread gets a message with it.

    >>> with testing.node():
    ...     ref = monitor('nobody')
    ...     receive() == ('DOWN', ref, 'process', ('nobody', node()), 'noproc')
    True
    """
    return _node("monitor").processes.monitor(target)


def demonitor(ref):
    """Ends a monitor; a message that it has sent already stays.

    >>> with testing.node() as n:
    ...     demonitor(monitor(n.spawn()))
    """
    _node("demonitor").processes.demonitor(ref)


def link(pid):
    """Links the calling thread: when one of the two ends, the other gets ('EXIT', pid, reason).

    >>> with testing.node() as n:
    ...     pid = n.spawn()
    ...     link(pid)
    ...     n.exit(pid, 'crash')
    ...     receive() == ('EXIT', pid, 'crash')
    True
    """
    _node("link").processes.link(pid)


def unlink(pid):
    """Ends a link.

    >>> with testing.node() as n:
    ...     pid = n.spawn()
    ...     link(pid)
    ...     unlink(pid)
    """
    _node("unlink").processes.unlink(pid)


def node():
    """The name of this node.

    >>> with testing.node(name='py@host'):
    ...     node()
    'py@host'
    """
    return _node("node").name


def nodes():
    """The Erlang node that a call goes to, and those that it sees.

    >>> with testing.node():
    ...     nodes()
    [Atom('erl@test')]
    """
    return _node("nodes").nodes()


def monitor_node(node, flag=True):
    """The message ('nodedown', node), once, when the Erlang node has gone.

    >>> with testing.node() as n:
    ...     monitor_node('erl@host')
    ...     n.nodedown('erl@host')
    ...     receive()
    (Atom('nodedown'), Atom('erl@host'))
    """
    _node("monitor_node").processes.monitor_node(node, bool(flag))


def home():
    """The node that a call of erlang.cluster goes to."""
    return _node("cluster").home


def register_converter(type, converter):
    """Sends objects of the type, and of its subclasses, as what converter(obj) returns.

    It needs no node, so that a module that begins with it can be imported by a test.

    >>> import datetime
    >>> register_converter(datetime.date, datetime.date.isoformat)
    >>> with testing.node(functions={'echo': lambda x: x}):
    ...     call('echo', datetime.date(2024, 2, 29))
    '2024-02-29'
    >>> register_converter(datetime.date, None)
    """
    _register_converter(type, converter)


def schedule(name, *args):
    """The marker that a called function returns so that its call goes on in Erlang.

    >>> with testing.node():
    ...     schedule('add_one', 1)
    <schedule of Erlang's add_one>
    """
    _node("schedule")
    return Schedule(f"Erlang's {name}")


def schedule_py(module, function, args=(), kwargs=None):
    """The marker that a called function returns so that its call goes on with another one.

    >>> with testing.node():
    ...     schedule_py('math', 'sqrt', [4])
    <schedule of math.sqrt>
    """
    _node("schedule_py")
    return Schedule(f"{module}.{function}")


class Schedule:
    def __init__(self, what):
        self.what = what

    def __repr__(self):
        return f"<schedule of {self.what}>"


def consume_time_slice(percent):
    """Whether the time slice is spent with that: never, in a pretended node.

    >>> with testing.node():
    ...     consume_time_slice(100)
    False
    """
    _node("consume_time_slice")
    return False


# What run() and spawn_task() use.


class loop:
    """Stands for the node's event loop: one for each run(), in the calling thread."""

    @staticmethod
    def run_coroutine(coro):
        import asyncio

        return asyncio.run(coro)

    @staticmethod
    def spawn_task(coro, name):
        import asyncio

        try:
            return asyncio.get_running_loop().create_task(coro, name=name)
        except RuntimeError:
            coro.close()  # else it complains that it was never awaited
            raise ErlangError(advice("erlang.spawn_task", "inside of erlang.run")) from None


# What erlang.LogHandler uses.


def _log(level, logger, text, meta):
    _node("LogHandler").logs.append((level, logger, text, meta))
    return True


def _log_wanted():
    return False
