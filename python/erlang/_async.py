"""erlang.async_call: an Erlang function runs, and the event loop goes on meanwhile."""

import asyncio
from functools import partial

from _erlang import _Sink, _sink, call

from .errors import TimeoutError


async def async_call(name, *args, timeout=None, node=None):
    """Calls an Erlang function, as call() does, for ``await`` in a coroutine of any asyncio loop.

    The loop goes on while Erlang works, and any number of calls can be under way at once. When nobody
    waits any more, since the task was cancelled or the time limit has passed, what runs is killed.

    >>> import asyncio
    >>> asyncio.run(async_call('no_such_function', 1))
    Traceback (most recent call last):
    erlang.errors.ErlangError: no Erlang node with the application pynode is attached
    """
    loop = asyncio.get_running_loop()
    sink = _sink(loop) or _new_sink(loop)
    future = loop.create_future()
    number = sink.call(future, name, args, timeout, node)
    if type(number) is str:
        return await _in_executor(loop, number, name, args, timeout)
    timer = None if timeout is None else loop.call_later(timeout, sink.late, number)
    try:
        return await future
    except BaseException:  # of Erlang's function, or nobody waits any more
        sink.drop(number)
        raise
    finally:
        if timer:
            timer.cancel()


def _new_sink(loop):
    """The loop holds it as the reader of its descriptor, and lets it go when it is closed."""
    sink = _Sink(loop, loop.call_soon)
    loop.add_reader(sink.fileno(), sink.drain)
    return sink


async def _in_executor(loop, node, name, args, timeout):
    """For a node that this one has no connection with over which such calls go: a thread waits."""
    work = loop.run_in_executor(None, partial(call, name, *args, timeout=timeout, node=node))
    try:
        done, _ = await asyncio.wait([work], timeout=timeout)
        if not done:
            raise TimeoutError(f"no answer from '{name}' in time")
        return work.result()
    finally:
        work.cancel()
