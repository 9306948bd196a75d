"""Tests of functions that call Erlang, under plain python3: a pretended node.

>>> import erlang
>>> def total(order):
...     return sum(erlang.call('price', item) for item in order)
>>> with node(functions={'price': {'tea': 3, 'cup': 8}.get}) as n:
...     total(['tea', 'cup'])
...     n.calls == [('price', ['tea']), ('price', ['cup'])]
11
True

Arguments, values and messages are converted as they are on the way to Erlang and back, so a set
arrives as a list, and what Erlang has no term for is refused as in a node. Only the Erlang side is
pretended: it says nothing of what the functions there are really called, take and give.
"""

import contextlib
import logging
import sys
import threading
from collections import namedtuple

from . import _outside
from ._processes import ELSEWHERE, Processes, convert
from ._remote import Remote
from ._types import Atom
from .errors import ErlangError, TimeoutError

__all__ = ["Call", "Node", "node"]

_logger = logging.getLogger(__name__)

Call = namedtuple("Call", "name args")
Call.__doc__ = """What erlang.call, async_call and cast were called with: a name and the list of arguments.

    >>> with node(functions={'note': lambda text: None}) as n:
    ...     erlang.note('hello')
    ...     n.calls[0].name, n.calls[0].args
    ('note', ['hello'])
    """


def node(functions=None, *, name="py@test"):
    """Pretends a node with these Erlang functions, for a with statement or as a decorator.

    functions: name -> callable. ``'mod:fun'`` is the exported function of a module. An ErlangError that
    it raises is the caller's, any other exception is an ErlangError with the exception's type and text
    as reason. name: what erlang.node() gives.

    With a timeout, and for async_call, the function runs in a thread of its own, which is left alone when it
    is too late.

    >>> with node(functions={'double_it': lambda x: 2 * x, 'lists:reverse': lambda x: x[::-1]}) as n:
    ...     erlang.call('double_it', 4)
    ...     erlang.double_it(4)
    ...     erlang.call('lists', 'reverse', [[1, 2]])
    ...     erlang.call('halve_it', 4)
    Traceback (most recent call last):
    erlang.errors.ErlangError: Function 'halve_it' not registered
    >>> n.calls[0]
    Call(name='double_it', args=[4])
    """
    if "_erlang" in sys.modules:
        raise RuntimeError(
            "erlang.testing pretends a node for plain python3, but this is a real one: "
            "run the test with python3, or use the Erlang functions themselves"
        )
    return _running(functions, name)


@contextlib.contextmanager
def _running(functions, name):
    pretended = Node(functions or {}, name)
    _outside._pretended.append(pretended)
    try:
        yield pretended
    finally:
        _outside._pretended.remove(pretended)
        pretended.processes.close()


class Node:
    """A pretended node: what node() gives to the with statement.

    ``functions`` can be changed meanwhile. ``calls`` has a Call for each erlang.call, async_call and cast,
    ``logs`` the (level, logger, text, meta) of each record of an erlang.LogHandler.

    >>> with node() as n:
    ...     n.functions['answer'] = lambda: 42
    ...     erlang.answer()
    42
    """

    def __init__(self, functions, name):
        self.name = str(name)
        self.functions = dict(functions)
        self.calls = []
        self.logs = []
        self.home = Atom(ELSEWHERE)
        self.remote = Remote()
        self.processes = Processes(self.name)

    @property
    def sent(self):
        """The (dest, term) of each message to a process of another node.

        >>> with node() as n:
        ...     pid = n.spawn()
        ...     erlang.send(pid, 'hello')
        ...     n.sent == [(pid, 'hello')]
        True
        """
        return self.processes.sent

    def spawn(self):
        """The Pid of a pretended Erlang process, which lives until exit() ends it.

        >>> with node() as n:
        ...     n.spawn().node
        Atom('erl@test')
        """
        return self.processes.spawn().pid

    def exit(self, pid, reason="normal"):
        """Ends a process of spawn(): who monitors it or is linked to it gets the message.

        >>> with node() as n:
        ...     pid = n.spawn()
        ...     ref = erlang.monitor(pid)
        ...     n.exit(pid, 'killed')
        ...     erlang.receive() == ('DOWN', ref, 'process', pid, 'killed')
        True
        """
        self.processes.exit(pid, Atom(reason) if type(reason) is str else convert(reason, "reason"))

    def nodes(self):
        """What erlang.nodes() gives."""
        return [self.home]

    def nodedown(self, node):
        """Pretends that an Erlang node goes: who has asked by monitor_node gets the message.

        >>> with node() as n:
        ...     erlang.monitor_node('erl@other')
        ...     n.nodedown('erl@other')
        ...     erlang.receive()
        (Atom('nodedown'), Atom('erl@other'))
        """
        self.processes.nodedown(node)

    def call_server(self, name, request, caller=None, timeout=5):
        """What the registered object answers to gen_server:call; caller is the Pid that it is told.

        What its handle_call raises is raised here.

        >>> class Counter:
        ...     count = 0
        ...     def handle_call(self, request, caller):
        ...         return self.count
        ...     def handle_cast(self, request):
        ...         self.count += request
        >>> with node() as n:
        ...     erlang.register('counter', Counter())
        ...     n.cast_server('counter', 2)
        ...     n.call_server('counter', 'get')
        2
        """
        return self.processes.serve(name, "handle_call", request, timeout, caller)

    def cast_server(self, name, request, timeout=5):
        """Gives the registered object a gen_server:cast, and waits until it is done.

        What its handle_cast raises, which a node would log, is raised here. A plain message is sent
        with erlang.send.

        >>> class Printer:
        ...     def handle_cast(self, request):
        ...         print(request)
        >>> with node() as n:
        ...     erlang.register('printer', Printer())
        ...     n.cast_server('printer', 'hello')
        hello
        """
        self.processes.serve(name, "handle_cast", request, timeout)

    # What erlang.call, async_call and cast do.

    def call(self, name, args, timeout, node):
        """erlang.call."""
        _check_timeout(timeout)
        name, args = self._request("call", name, args, node)
        function, args = self._function(name, args)
        if timeout is None:
            return self._run(name, function, args)
        outcome = []
        thread = threading.Thread(target=self._run_apart, args=(outcome, name, function, args), daemon=True)
        thread.start()
        thread.join(min(timeout, threading.TIMEOUT_MAX))
        return _outcome(outcome, name)

    async def async_call(self, name, args, timeout, node):
        """erlang.async_call: the function runs in a thread of its own, so that the event loop goes on."""
        import asyncio

        _check_timeout(timeout)
        name, args = self._request("async_call", name, args, node)
        function, args = self._function(name, args)
        loop, outcome = asyncio.get_running_loop(), []
        ended = loop.create_future()

        def end():
            ended.done() or ended.set_result(None)

        def run():
            self._run_apart(outcome, name, function, args)
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                loop.call_soon_threadsafe(end)

        threading.Thread(target=run, daemon=True).start()
        await asyncio.wait([ended], timeout=timeout)
        return _outcome(outcome, name)

    def cast(self, name, args, node):
        """erlang.cast: done when it returns, so that a test need not wait."""
        name, args = self._request("cast", name, args, node)
        try:
            self._run(name, *self._function(name, args))
        except Exception:
            _logger.warning("the cast of '%s' failed", name, exc_info=True)

    def _request(self, what, name, args, node):
        if not isinstance(name, str):
            raise TypeError(f"{what}() wants the name of a function, a str, first")
        if node is not None and not isinstance(node, str):
            raise TypeError(f"node: not a str but a {type(node).__name__}")
        if node is not None and "@" not in node:
            raise ValueError(f"node: '{node}' is not NAME@HOST")
        name, args = str(name), convert(list(args), "args")
        if name not in self.remote.functions:
            self.calls.append(Call(name, args))
        return name, args

    def _function(self, name, args):
        """The function, and what it is called with: call('mod', 'fun', [args]) is 'mod:fun'."""
        if name in self.functions:
            return self.functions[name], args
        if name in self.remote.functions:
            return self.remote.functions[name], args
        if len(args) == 2 and isinstance(args[0], str) and isinstance(args[1], list):
            function = self.functions.get(f"{name}:{args[0]}")
            if function:
                return function, args[1]
        raise ErlangError(f"Function '{name}' not registered")

    def _run(self, name, function, args):
        try:
            value = function(*args)
        except ErlangError:
            raise
        except Exception as e:
            raise ErlangError((Atom(type(e).__name__), str(e)), stacktrace=[]) from e
        return convert(value, f"value of '{name}'")

    def _run_apart(self, outcome, *call):
        try:
            outcome.append((self._run(*call), None))
        except BaseException as e:
            outcome.append((None, e))


def _check_timeout(timeout):
    if timeout is not None and not timeout >= 0:
        raise ValueError("timeout must not be negative")


def _outcome(outcome, name):
    """What a function that ran in another thread gave, if it has ended."""
    if not outcome:
        raise TimeoutError(f"no answer from '{name}' in time")
    value, error = outcome[0]
    if error:
        raise error
    return value
