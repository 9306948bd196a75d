"""What of the node's event loop every thread may use: sleep(), run() and spawn_task()."""

import sys


def _in_loop():
    """Whether an event loop runs in this thread. Who has none need not load asyncio."""
    asyncio = sys.modules.get("asyncio.events")
    return asyncio is not None and asyncio._get_running_loop() is not None


def sleep(seconds):
    """Sleeps: in a coroutine what it returns is to be awaited; elsewhere this thread sleeps.

    A call that sleeps leaves its worker to others, and hears at once that it is cancelled.

    >>> sleep(0.01)
    >>> async def nap():
    ...     await sleep(0.01)
    ...     return 'rested'
    >>> import asyncio
    >>> asyncio.run(nap())
    'rested'
    """
    if _in_loop():
        import asyncio

        return asyncio.sleep(seconds)
    try:
        from _erlang import _sleep
    except ModuleNotFoundError:
        from time import sleep as _sleep
    _sleep(seconds)


def _loop():
    """The module that has the node's loop; outside of a node a stand-in, which needs none."""
    try:
        from . import _loop
    except ModuleNotFoundError:
        from ._outside import loop as _loop
    return _loop


def run(coro):
    """Has the node's event loop run the coroutine, waits for it, and returns its value.

    From a thread that runs an event loop itself it is a RuntimeError: await there.

    >>> import asyncio
    >>> run(asyncio.sleep(0.01, 'done'))
    'done'
    """
    return _loop().run_coroutine(coro)


def spawn_task(coro, name=None):
    """Has the node's event loop run the coroutine, and waits for nothing; an exception of its is logged.

    On that loop it returns the Task, elsewhere a concurrent.futures.Future.

    >>> import asyncio
    >>> async def main():
    ...     return await spawn_task(asyncio.sleep(0.01, 'done'), name='nap')
    >>> run(main())
    'done'
    """
    return _loop().spawn_task(coro, name)
