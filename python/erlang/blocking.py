"""A thread pool for Python code that must not block its caller or an event loop.

The threads and the queue are native: whoever waits, for a result, for room in the queue or for the
end, has given the GIL back, and a thread of the pool holds it only while it runs a callable.

>>> from erlang.blocking import BlockingExecutor
>>> with BlockingExecutor(max_threads=2) as pool:
...     pool.run_sync(pow, 2, 10)
...     pool.map(abs, [-1, 2, -3])
1024
[1, 2, 3]

With the GIL, pure Python code of several threads still takes turns: what runs at the same time is
C code that releases the GIL (hashlib, zlib, numpy, sockets, sleeping). For pure Python on several
cores start several nodes.
"""

import asyncio
import atexit
import concurrent.futures
import functools
import inspect
import os
import threading
import weakref

try:
    from _erlang import Atom, FutureMethods, QueueFull, ThreadPool
except ModuleNotFoundError:
    from ._outside import advice

    raise ImportError(advice("erlang.blocking", "with concurrent.futures in its place")) from None

__all__ = [
    "BlockingExecutor",
    "QueueFull",
    "blocking",
    "blocking_map",
    "blocking_parallel",
    "blocking_run",
    "get_default_executor",
    "set_default_executor",
]

_live = weakref.WeakSet()
_exiting = False


class Future(FutureMethods, concurrent.futures.Future):
    """A concurrent.futures.Future that makes its lock when it is first asked for one.

    Most are never waited for: they have ended when their result is taken. What is not here is
    native.
    """

    __slots__ = ("_state", "_result", "_exception", "_lock", "_waiting", "_callbacks")

    def __init__(self):
        raise TypeError("Futures are made by a BlockingExecutor")


class BlockingExecutor(ThreadPool, concurrent.futures.Executor):
    """A pool of threads that exist when the constructor returns.

    max_threads: 0 is the number of processors. queue_size: tasks that may wait beyond those that
    idle threads take at once, 0 is any number; when it is full submit() and run_sync() wait.
    initializer(*initargs) runs first in each thread; if one raises, the pool is broken. stack_size:
    bytes of each thread's stack, 0 is the system's choice.

    ValueError or TypeError: an argument that makes no sense. RuntimeError: no more threads.
    """

    def __init__(
        self,
        max_threads=0,
        queue_size=0,
        *,
        thread_name_prefix="",
        initializer=None,
        initargs=(),
        stack_size=0,
    ):
        if _exiting:
            raise RuntimeError("cannot make a BlockingExecutor at interpreter shutdown")
        super().__init__(
            max_threads,
            queue_size,
            thread_name_prefix=thread_name_prefix,
            initializer=initializer,
            initargs=tuple(initargs),
            stack_size=stack_size,
        )
        _live.add(self)

    def __enter__(self):
        return self

    def __exit__(self, exc_type, exc_value, traceback):
        self.shutdown(wait=True, timeout_secs=None)
        return False

    def __repr__(self):
        state = "running" if self.is_running() else "shut down"
        return f"<{type(self).__name__} {state} at {id(self):#x}>"

    def map(self, fn, *iterables, chunk_size=0, **options):
        """fn applied to each item, in order.

        map(fn, items, chunk_size=0) gives a list; the threads take chunk_size items at a time, 0
        makes four parts a thread. All items are tried; then the first exception is raised, with
        notes about the others.

        With several iterables, timeout= or chunksize= it is that of concurrent.futures.Executor:
        an iterator of results.

        >>> with BlockingExecutor(2) as pool:
        ...     pool.map(str, range(3))
        ...     list(pool.map(pow, [2, 3], [4, 5]))
        ['0', '1', '2']
        [16, 243]
        """
        if len(iterables) == 1 and not options:
            return self._map(fn, iterables[0], chunk_size)
        if len(iterables) == 2 and not options and chunk_size == 0 and isinstance(iterables[1], int):
            return self._map(fn, *iterables)  # map(fn, items, chunk_size)
        if chunk_size:
            raise TypeError("map(): chunk_size goes with one iterable and no other option")
        return concurrent.futures.Executor.map(self, fn, *iterables, **options)

    async def arun(self, fn, /, *args, **kwargs):
        """The result of fn(*args, **kwargs); the event loop runs on meanwhile.

        A full queue takes the call all the same: it costs no more there than in a coroutine that
        waits. Cancelling the coroutine cancels the call if it has not begun.

        >>> async def main(pool):
        ...     return await pool.arun(pow, 2, 10)
        >>> with BlockingExecutor(1) as pool:
        ...     asyncio.run(main(pool))
        1024
        """
        return await asyncio.wrap_future(self._submit_over(fn, *args, **kwargs))

    async def amap(self, fn, items, chunk_size=0):
        """As map(fn, items, chunk_size); the event loop runs on meanwhile, as in arun().

        >>> async def main(pool):
        ...     return await pool.amap(abs, [-1, -2])
        >>> with BlockingExecutor(1) as pool:
        ...     asyncio.run(main(pool))
        [1, 2]
        """
        items = list(items)
        size = self._chunk_size(fn, chunk_size, len(items))
        chunks = []
        results, errors = [], []
        try:
            for i in range(0, len(items), size):
                future = self._submit_over(_run_chunk, fn, items[i : i + size], i)
                chunks.append(asyncio.wrap_future(future))
            for part, failed in await asyncio.gather(*chunks):
                results += part
                errors += failed
        finally:
            for chunk in chunks:
                chunk.cancel()
        if errors:
            raise _first_error(errors)
        return results


def _give_way():
    """Called between C functions: the interpreter looks here whether a thread wants the GIL."""


def _run_chunk(fn, items, start):
    """The results of a run of items, and the (index, exception)s."""
    results, errors = [], []
    for index, item in enumerate(items, start):
        try:
            results.append(fn(item))
        except BaseException as e:
            results.append(None)
            errors.append((index, e))
    return results, errors


def _first_error(errors):
    (_, first), *others = errors
    for index, error in others[:16]:
        first.add_note(f"item {index} failed, too: {type(error).__name__}: {error}")
    if len(others) > 16:
        first.add_note(f"and {len(others) - 16} more")
    return first


@atexit.register
def _shutdown_all():
    """Lets what is queued finish before the interpreter goes, for half a minute at most."""
    global _exiting
    _exiting = True
    pools = [pool for pool in _live if pool.is_running()]
    for pool in pools:
        pool.shutdown(wait=False)
    if not ThreadPool._join_all(30.0):
        for pool in pools:
            pool.shutdown(wait=False, cancel_futures=True)


# The default executor.

_default = None
_default_lock = threading.RLock()  # a signal handler may ask, too


def _default_threads():
    for name in ("PYNODE_BLOCKING_THREADS", "HYPERN_BLOCKING_THREADS"):
        text = os.environ.get(name, "")
        if text:
            try:
                threads = int(text)
            except ValueError:
                threads = -1
            if threads < 0:
                raise ValueError(f"{name} must be a number of threads, not {text!r}")
            return threads
    return 0


def get_default_executor():
    """The executor that the functions here use when none is given; made by the first call.

    It has PYNODE_BLOCKING_THREADS threads, or HYPERN_BLOCKING_THREADS, or one a processor.

    >>> get_default_executor() is get_default_executor()
    True
    """
    global _default
    executor = _default
    if executor is not None and not executor._forked():
        return executor
    with _default_lock:
        if _default is None or _default._forked():
            made = BlockingExecutor(_default_threads(), thread_name_prefix="blocking")
            if _default is None or _default._forked():
                _default = made
        return _default


def set_default_executor(executor):
    """Makes executor the default; the one before, if any, is returned, and goes on.

    >>> mine = BlockingExecutor(1)
    >>> before = set_default_executor(mine)
    >>> get_default_executor() is mine
    True
    >>> set_default_executor(before) is mine
    True
    """
    global _default
    if executor is not None:
        _chosen(executor)
    with _default_lock:
        before, _default = _default, executor
    return before


def _default_stats():
    """What the default executor's stats() and sizes are, or None if nobody has used it."""
    executor = _default
    if executor is None or executor._forked():
        return None
    stats = {
        **executor.stats(),
        "threads": executor.pool_size(),
        "busy": executor.busy_threads(),
        "pending": executor.pending_tasks(),
    }
    return {Atom(key): value for key, value in stats.items()}


def _renew_lock():
    global _default_lock
    _default_lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def _chosen(executor):
    """The executor, or the default one for None."""
    if executor is None:
        return get_default_executor()
    if not isinstance(executor, BlockingExecutor):
        raise TypeError(f"executor must be a BlockingExecutor, not {type(executor).__name__}")
    return executor


def blocking_run(fn, /, *args, **kwargs):
    """fn(*args, **kwargs) on a thread of the default executor.

    >>> blocking_run(pow, 2, 10)
    1024
    """
    return get_default_executor().run_sync(fn, *args, **kwargs)


def blocking_map(fn, items, chunk_size=0, executor=None):
    """fn applied to each item on the executor's threads, or the default one's: a list in order.

    >>> blocking_map(abs, [-1, 2])
    [1, 2]
    """
    return _chosen(executor).map(fn, items, chunk_size=chunk_size)


def blocking_parallel(tasks, executor=None):
    """Many calls at once, each (fn,), (fn, args) or (fn, args, kwargs): their results in order.

    >>> blocking_parallel([(pow, (2, 3)), (len, ('abc',))])
    [8, 3]
    """
    return _chosen(executor).run_parallel(tasks)


def blocking(fn=None, /, *, executor=None):
    """Makes each call of a function run on the executor's threads, or the default one's.

    In a coroutine ``await f.aio(...)`` lets the event loop run on. Methods can be decorated, too.

    >>> @blocking
    ... def double(x):
    ...     return 2 * x
    >>> double(21)
    42
    >>> asyncio.run(double.aio(21))
    42
    """
    if executor is not None:
        _chosen(executor)
    if fn is None:
        return functools.partial(blocking, executor=executor)
    if not callable(fn):
        raise TypeError(f"blocking(): {type(fn).__name__} object is not callable")
    if inspect.iscoroutinefunction(fn):
        raise TypeError(f"blocking(): {fn.__qualname__} is a coroutine function")
    return _Blocking(fn, executor)


class _Blocking:
    """A function whose calls run on an executor's threads."""

    def __init__(self, fn, executor):
        functools.update_wrapper(self, fn)
        self._fn = fn
        self._executor = executor

    def __call__(self, /, *args, **kwargs):
        return _chosen(self._executor).run_sync(self._fn, *args, **kwargs)

    async def aio(self, /, *args, **kwargs):
        """As calling it, from a coroutine."""
        return await _chosen(self._executor).arun(self._fn, *args, **kwargs)

    def __get__(self, instance, owner=None):
        if not hasattr(self._fn, "__get__"):
            return self
        return _Blocking(self._fn.__get__(instance, owner), self._executor)

    def __repr__(self):
        return f"<blocking {self._fn!r}>"

    def __reduce__(self):
        return self.__qualname__  # pickled by its name, as functions are
