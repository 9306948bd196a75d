"""The nodes of a pool as an executor: functions run there that are called here.

>>> import math
>>> with testing.node(), Executor() as nodes:
...     nodes.submit(math.sqrt, 16).result()
...     list(nodes.map(pow, [2, 3], [4, 5]))
4.0
[16, 243]

A function goes by its name, so the nodes must have its module; its arguments and its value go as Erlang terms
(docs/terms.md). With ``pickle=True`` they go pickled, and with ``ship=True`` the function does, too: a node
runs what is in a pickle, so only give it what you trust, as with any code.

Failures: what the function raises is raised here, if it is a builtin exception; any other is a RemoteError.
NodeDown, Overloaded, Poison and erlang.TimeoutError come of the cluster.
"""

import asyncio
import builtins
import concurrent.futures
import functools
import itertools
import sys
import threading
import time

from . import _cluster_engine as engine
from ._cluster_codec import Atom, Pickles, Shipped, Terms
from ._cluster_objects import Handle, new_key, noting, pieces
from ._cluster_wait import Event
from ._cluster_wait import wait as _wait
from .errors import ErlangError, TimeoutError

try:
    from _erlang import _home, node
except ModuleNotFoundError:
    from ._outside import home as _home
    from ._outside import node

__all__ = ["Executor", "Future", "Handle", "NodeDown", "Overloaded", "Poison", "RemoteError", "aput", "put"]

_DRAW = 256  # items that are drawn before the first of them are sent


class NodeDown(ErlangError):
    """The node has gone, or the VM: ``progress`` says whether the task was 'not_started', 'started' or 'unknown'.

    >>> error = NodeDown('py@host', 'started')
    >>> error.node, error.progress
    ('py@host', 'started')
    >>> print(error)
    py@host went down: started
    """

    def __init__(self, node, progress="unknown"):
        super().__init__((Atom("node_down"), node, progress))
        self.node, self.progress = str(node), str(progress)

    def __str__(self):
        return f"{self.node} went down: {self.progress}"

    def __reduce__(self):
        return type(self), (self.node, self.progress)


class Overloaded(ErlangError):
    """No node takes more at present, or none is left that takes any.

    >>> issubclass(Overloaded, ErlangError)
    True
    """


class Poison(ErlangError):
    """The task has been running in one node after another when these went down.

    >>> issubclass(Poison, ErlangError)
    True
    """


class RemoteError(RuntimeError):
    """An exception of a type that is not builtin: ``type`` is its name, ``message`` its text.

    ``traceback`` is what Python has printed of it there; the same is the cause of builtin exceptions.

    >>> print(RemoteError('shop.OutOfTea', 'none left', ''))
    shop.OutOfTea: none left
    """

    def __init__(self, type, message, traceback=""):
        super().__init__(type, message, traceback)
        self.type, self.message, self.traceback = type, message, traceback

    def __str__(self):
        return f"{self.type}: {self.message}" if self.message else self.type


class _RemoteTraceback(Exception):
    """The cause of an exception that was raised elsewhere: shows where."""

    def __init__(self, text):
        super().__init__(text)
        self.text = text

    def __str__(self):
        return f'\n"""\n{self.text}"""'


class Future(concurrent.futures.Future):
    """What submit() gives: a concurrent.futures.Future that can be cancelled until it has an outcome.

    cancel() takes a task back that waits, and raises erlang.Cancelled in one that runs; running() says
    whether it has been sent to a node.

    >>> import concurrent.futures
    >>> with testing.node(), Executor() as nodes:
    ...     isinstance(nodes.submit(len, 'abc'), concurrent.futures.Future)
    True
    """

    def __init__(self):
        super().__init__()
        self._sent = self._taken_back = False
        self._job = self._executor = None
        self._ended = Event()

    def cancel(self):
        """Whether it has no outcome, and will have none."""
        if not super().cancel():
            return False
        with self._condition:
            first, self._taken_back = not self._taken_back, True
        if first:
            self.set_running_or_notify_cancel()  # tells those who wait
            self._ended.set()
            engine.engine().post(self._job.cancel)
            self._executor._forget(self._job)
        return True

    def running(self):
        """Whether it has been sent to a node and has no outcome yet."""
        return self._sent and not self.done()

    def result(self, timeout=None):
        """The value, or what was raised; TimeoutError: there is none after timeout seconds."""
        _wait(self._ended, timeout)
        return super().result(0)

    def exception(self, timeout=None):
        """What was raised, or None."""
        _wait(self._ended, timeout)
        return super().exception(0)

    def _end(self, job, outcome):
        """The engine's."""
        self._executor._forget(job)
        try:
            value = _value(job.codec, outcome)
        except BaseException as e:
            self._settle(self.set_exception, e)
        else:
            self._settle(self.set_result, value)

    def _settle(self, settle, outcome):
        if not self._condition.acquire(timeout=1):
            return  # left locked by a thread that was cancelled: then nobody can wait for it
        try:
            settle(outcome)
        except concurrent.futures.InvalidStateError:  # it was cancelled meanwhile
            pass
        finally:
            self._condition.release()
            self._ended.set()


class Executor(concurrent.futures.Executor):
    """Runs functions on the nodes of a pool; without one on the nodes that the VM has.

    pool, labels, key, affinity, idempotent, retries, queue_timeout: as in ``py:call/5`` (docs/py.md). node: one node, or the name that
    several share. timeout: seconds that a task may take, of those in a chunk on average; no limit if it is
    None, nor for queue_timeout. pickle: arguments and values go pickled. ship: functions, too, by cloudpickle.

    Any thread, coroutine and task may use it, also one that runs in such a node itself.

    >>> with testing.node(), Executor() as nodes:
    ...     list(nodes.map(abs, [-1, -2]))
    [1, 2]
    """

    def __init__(
        self,
        pool=None,
        labels=None,
        *,
        node=None,
        key=None,
        affinity=None,
        idempotent=False,
        retries=None,
        timeout=None,
        queue_timeout=None,
        pickle=False,
        ship=False,
    ):
        given = {"pool": pool, "labels": labels, "node": node, "key": key, "affinity": affinity, "retries": retries}
        given["idempotent"] = bool(idempotent) or None
        given["queue_timeout"] = _milliseconds("queue_timeout", queue_timeout)
        options = {Atom(name): value for name, value in given.items() if value is not None}
        options[engine.TIMEOUT] = Atom("infinity") if timeout is None else _milliseconds("timeout", timeout)
        Terms.dump(options)  # what has no form is an error here
        self._codec = Shipped if ship else Pickles if pickle else Terms
        if ship:
            Shipped.check()
        self._queue = engine.Queue(_home(), options, _failed)
        self._jobs = set()
        self._lock = threading.Lock()
        self._idle = []  # Events of those who wait until there are no jobs
        self._closed = False

    def submit(self, fn, /, *args, **kwargs):
        """A Future of fn(*args, **kwargs).

        >>> with testing.node(), Executor() as nodes:
        ...     nodes.submit(int, 'ff', base=16).result()
        255
        """
        function, kept = self._function(fn)
        with noting() as handles:
            item = self._codec.dump_args(args, kwargs)
        future = Future()
        future._executor = self
        future._job = engine.Single(future, self._codec, function, item, handles + kept)
        self._begin(future._job)
        engine.engine().post(self._queue.add, future._job)
        return future

    def map(self, fn, *iterables, timeout=None, chunksize=None, progress=False):
        """The values of fn for the items of the iterables, in their order.

        The items are drawn at once, the values come as they are asked for; what a task raises is raised in its
        place, and the tasks behind it are cancelled. timeout: seconds from now on. chunksize: tasks in one
        request; None: as many as take 20 ms or so. progress: a bar of tqdm's, if that is installed, on a
        terminal.

        >>> with testing.node(), Executor() as nodes:
        ...     list(nodes.map(pow, range(4), [2] * 4))
        [0, 1, 4, 9]
        """
        end = None if timeout is None else time.monotonic() + timeout
        job = self._map(fn, chunksize)
        for batch in self._drawn(job, iterables):
            self._feed(job, batch)
        self._feed(job, (), drawn=True)
        return self._values(job, end, progress)

    async def asubmit(self, fn, /, *args, **kwargs):
        """The value of fn(*args, **kwargs); the event loop goes on meanwhile. Cancelling it cancels the task.

        >>> import asyncio
        >>> async def main():
        ...     async with Executor() as nodes:
        ...         return await nodes.asubmit(max, [1, 3, 2])
        >>> with testing.node():
        ...     asyncio.run(main())
        3
        """
        return await asyncio.wrap_future(self.submit(fn, *args, **kwargs))

    async def amap(self, fn, *iterables, timeout=None, chunksize=None, progress=False):
        """As map(), for ``async for``; the event loop goes on meanwhile.

        >>> import asyncio
        >>> async def main():
        ...     async with Executor() as nodes:
        ...         return [value async for value in nodes.amap(abs, [-1, -2])]
        >>> with testing.node():
        ...     asyncio.run(main())
        [1, 2]
        """
        end = None if timeout is None else time.monotonic() + timeout
        job = self._map(fn, chunksize)
        try:
            for batch in self._drawn(job, iterables):
                self._feed(job, batch)
                await asyncio.sleep(0)
            self._feed(job, (), drawn=True)
            with _bar(progress, job.count) as tick:
                for index in range(job.count):
                    yield _value(job.codec, await _outcome_async(job, index, end))
                    tick()
        finally:
            self._cancel(job)

    def shutdown(self, wait=True, *, cancel_futures=False):
        """Takes no more. wait: until all tasks have ended. cancel_futures: those that have not been sent yet.

        >>> with testing.node():
        ...     nodes = Executor()
        ...     nodes.shutdown()
        ...     nodes.submit(abs, -1)
        Traceback (most recent call last):
        RuntimeError: cannot schedule new futures after shutdown
        """
        self._cancel_unsent(self._close(cancel_futures))
        if wait:
            _wait(self._idle_event())

    async def ashutdown(self, wait=True, *, cancel_futures=False):
        """As shutdown(); the event loop goes on meanwhile.

        >>> import asyncio
        >>> async def main():
        ...     nodes = Executor()
        ...     await nodes.ashutdown()
        >>> with testing.node():
        ...     asyncio.run(main())
        """
        self._cancel_unsent(self._close(cancel_futures))
        idle = self._idle_event()
        while wait and not idle.wait(0):
            await asyncio.sleep(0.01)

    def __exit__(self, exc_type, exc_value, traceback):
        self._leave(exc_type)
        self.shutdown()
        return False

    async def __aenter__(self):
        return self

    async def __aexit__(self, exc_type, exc_value, traceback):
        self._leave(exc_type)
        await self.ashutdown()
        return False

    def _leave(self, exc_type):
        """Who is cancelled, or interrupted by Ctrl-C, does not wait for tasks: they are cancelled, too."""
        if exc_type is None or issubclass(exc_type, Exception):
            return
        for job in self._close(True):
            if isinstance(job, engine.Map):
                self._cancel(job)
            else:
                job.future.cancel()

    # Functions.

    def _function(self, fn):
        """What the nodes find it by, and the handles that are in it."""
        if self._codec is not Shipped:
            return _name(fn), []
        with noting() as handles:
            return Shipped.dump_function(fn), handles

    # Jobs.

    def _begin(self, job):
        with self._lock:
            if self._closed:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._jobs.add(job)

    def _forget(self, job):
        """It has ended."""
        told = ()
        with self._lock:
            self._jobs.discard(job)
            if not self._jobs:
                told, self._idle = self._idle, []
        for event in told:
            event.set()

    def _idle_event(self):
        """Set when there are no jobs any more."""
        event = Event()
        with self._lock:
            idle = not self._jobs
            if not idle:
                self._idle.append(event)
        if idle:
            event.set()
        return event

    def _close(self, cancel):
        """Takes no more; what is to be cancelled of what there is."""
        with self._lock:
            self._closed = True
            return list(self._jobs) if cancel else []

    def _cancel_unsent(self, jobs):
        for job in jobs:
            if isinstance(job, engine.Map):
                engine.engine().post(job.cancel_unsent)
            elif not job.future.running():
                job.future.cancel()

    def _map(self, fn, chunksize):
        if chunksize is not None and chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        function, kept = self._function(fn)
        job = engine.Map(self._codec, function, chunksize, self._forget)
        job.handles += kept
        self._begin(job)
        return job

    def _drawn(self, job, iterables):
        """The items in batches, ready to travel. What fails there ends the job."""
        try:
            drawn = zip(*iterables)
            while batch := list(itertools.islice(drawn, _DRAW)):
                with noting() as handles:
                    batch = [self._codec.dump_args(args, {}) for args in batch]
                job.handles += handles
                yield batch
        except BaseException:
            self._cancel(job)
            raise

    def _feed(self, job, items, drawn=False):
        job.add(items, drawn)
        engine.engine().post(self._queue.add, job)

    def _cancel(self, job):
        engine.engine().post(job.cancel)

    def _values(self, job, end, progress):
        try:
            with _bar(progress, job.count) as tick:
                for index in range(job.count):
                    yield _value(job.codec, _outcome(job, index, end))
                    tick()
        finally:
            self._cancel(job)


def put(obj):
    """A Handle of the object, which travels at most once to each node, pickled: for large arguments of many tasks.

    A task that is given the handle as an argument gets the object, which all tasks of its node share. The VM
    keeps it until the handle is released, or nobody has it any more, or this node goes; a node keeps 1 GiB
    of such objects.

    >>> with testing.node(), Executor() as nodes:
    ...     table = put(list(range(1000)))
    ...     list(nodes.map(sum, [table, table]))
    [499500, 499500]
    """
    handle, storing = _store(obj)
    box = engine.run(storing)
    try:
        _wait(box.ended)
    except BaseException:
        box.cancel()
        raise
    box.value()
    return handle


async def aput(obj):
    """As put(); the event loop goes on meanwhile.

    >>> import asyncio
    >>> async def main():
    ...     async with Executor() as nodes:
    ...         return await nodes.asubmit(sum, await aput([1, 2]))
    >>> with testing.node():
    ...     asyncio.run(main())
    3
    """
    handle, storing = _store(obj)
    box = engine.run(storing)
    while not box.ended.wait(0):
        await asyncio.sleep(0.001)
    box.value()
    return handle


def _store(obj):
    """A handle, and a coroutine for the engine that gives the VM the object."""
    home, key, parts = _home(), new_key(), pieces(Pickles.dump(obj))
    release = functools.partial(engine.engine().post, _release, home, key)
    return Handle(home, key, len(parts), release), _send(home, key, parts)


async def _send(home, key, parts):
    for index, part in enumerate(parts):
        try:
            answer = await engine.call("py_remote:put", node(), key, index, part, node=home)
        except Exception as e:
            raise _failed(e, home) from e
        if type(answer) is tuple:
            raise _refused(answer[1])


def _release(home, key):
    """The engine's."""
    engine.keep(engine.engine().loop.create_task(_release_at(home, key)))


async def _release_at(home, key):
    try:
        await engine.call("py_remote:release", key, node=home)
    except ErlangError:  # it is gone with the VM, or will go with this node
        pass


def _name(fn):
    """'module:qualified.name' of a function that can be imported; TypeError: it cannot."""
    owner = getattr(fn, "__objclass__", fn)  # of a method of a builtin type
    module, name = getattr(owner, "__module__", None), getattr(fn, "__qualname__", None)
    if not module or not name:
        raise TypeError(f"{fn!r} has no name that nodes could import it by: {_ADVICE}")
    what = _unnamed(module, name)
    if what:
        raise TypeError(f"{module}.{name} is {what}, which nodes cannot import: {_ADVICE}")
    try:
        found = functools.reduce(getattr, name.split("."), sys.modules[module])
    except (KeyError, AttributeError):
        found = None
    if found is not fn and found != fn:
        raise TypeError(f"{fn!r} is not what {module}.{name} is, so nodes cannot import it: {_ADVICE}")
    return f"{module}:{name}"


_ADVICE = "give a function of a module, or use ship=True"


def _unnamed(module, name):
    """What it is that no node can look up, or None."""
    if name.endswith("<lambda>"):
        return "a lambda"
    if "<" in name:
        return "a local function"
    return "a function of __main__" if module == "__main__" else None


def _milliseconds(name, seconds):
    if seconds is None:
        return None
    if not seconds >= 0:
        raise ValueError(f"{name} must not be negative")
    return min(int(seconds * 1000), 0xFFFFFFFF)


# Outcomes.


def _outcome(job, index, end):
    """The outcome of that task; waits for it."""
    outcome = job.outcome(index)
    while outcome is None:
        come = Event()
        outcome = job.outcome(index, come.set)
        if outcome is None and not _wait(come, _left(end)):
            raise builtins.TimeoutError()
    return outcome


async def _outcome_async(job, index, end):
    loop = asyncio.get_running_loop()
    outcome = job.outcome(index)
    while outcome is None:
        come = loop.create_future()
        outcome = job.outcome(index, functools.partial(_tell, loop, come))
        if outcome is None:
            async with asyncio.timeout(_left(end)):
                await come
    return outcome


def _left(end):
    """Seconds until then."""
    return None if end is None else max(0, end - time.monotonic())


def _tell(loop, come):
    try:
        loop.call_soon_threadsafe(lambda: come.done() or come.set_result(None))
    except RuntimeError:  # the loop has been closed
        pass


def _value(codec, outcome):
    """The value of an outcome, or raises it."""
    if type(outcome) is bytes:
        return codec.load(outcome)
    raise outcome if isinstance(outcome, BaseException) else _raised(*outcome)


def _raised(module, name, message, args, traceback):
    """An exception as it was raised elsewhere."""
    error = _builtin(module, name, message, args) or RemoteError(f"{module}.{name}", message, traceback)
    error.__cause__ = _RemoteTraceback(traceback) if traceback else None
    return error


def _builtin(module, name, message, args):
    """An exception of a builtin type, or None: there is no such type, or it cannot be raised anywhere."""
    kind = getattr(builtins, name, None) if module == "builtins" else None
    if not isinstance(kind, type) or not issubclass(kind, Exception):
        return None
    if issubclass(kind, (StopIteration, StopAsyncIteration)):  # they would end what raises them
        return None
    try:
        return kind(*Terms.load_args(args)[0]) if args is not None else kind(message)
    except Exception:
        return None


def _failed(e, home):
    """What a request has ended with that no task has given, as the user sees it."""
    if isinstance(e, engine.NoAnswer):
        return _refused(e.args[0])
    if type(e) is ErlangError and type(e.reason) is str:  # a connection that is lost, or cannot be made
        error = NodeDown(home, "unknown")
        error.__cause__ = e
        return error
    return e


def _refused(reason):
    """An exception for the Reason of py:call's {error, Reason}."""
    match reason:
        case "timeout" | "queue_timeout":
            return TimeoutError(f"{reason}: the time limit has passed")
        case "overloaded" | "draining":
            return Overloaded(reason)
        case "cancelled":
            return concurrent.futures.CancelledError()
        case "poison" | ("poison", *_):
            return Poison(reason)
        case ("node_down", node, progress):
            return NodeDown(node, progress)
        case ("bad_option", key):
            return ValueError(f"{key}: the VM does not take that option, or not with that value")
        case (Atom() as kind, str() as message):
            return _builtin("builtins", kind, message, None) or RemoteError(str(kind), message)
    return ErlangError(reason)


# The bar.


class _bar:
    """A bar of tqdm's, or nothing; gives what is to be called for each value."""

    def __init__(self, wanted, total):
        self._bar = _new_bar(total) if wanted else None

    def __enter__(self):
        return self._bar.update if self._bar is not None else int

    def __exit__(self, *exc_info):
        if self._bar is not None:
            self._bar.close()


def _new_bar(total):
    if not (sys.stderr and sys.stderr.isatty()):
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total)
