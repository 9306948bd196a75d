"""The node's event loop: how it is made, how it runs, and how other threads reach it.

The program calls run() with the first task, on Python's main thread or in a thread of its own.
"""

import asyncio
import concurrent.futures
import importlib.util
import os
import selectors
import signal
import sys
import threading

import _erlang


class _Selector(selectors.DefaultSelector):
    """A selector whose thread also reads the node's sockets while it waits.

    So a task runs in the thread that has read it, and nobody has to be woken.
    """

    def select(self, timeout=None):
        _erlang._loop_wait(self.fileno(), timeout)
        return super().select(0)


_FD = _erlang._loop_fd()
_LOOK = 0.1  # seconds
_started = threading.Event()
_loop = None


def _new_loop(kind):
    if kind == "uvloop" or kind == "auto" and importlib.util.find_spec("uvloop"):
        import uvloop

        return uvloop.new_event_loop(), False
    return asyncio.SelectorEventLoop(_Selector()), True


def _backend(loop):
    """What is readable when something comes for a loop that is not ours, or -1."""
    return getattr(loop, "_get_backend_id", lambda: -1)()


def run(kind):
    """Runs the loop until the node leaves. Who stops it, or lets SystemExit out of a callback or anything
    out of a signal's handler, just makes it begin again.
    """
    global _loop
    try:
        loop, looks = _new_loop(kind)
    except BaseException:
        _started.set()
        raise
    asyncio.set_event_loop(loop)
    _erlang._loop_set(
        loop.create_task,
        loop.create_future,
        loop.call_soon,
        loop.stop,
        asyncio.CancelledError,
        looks,
        _backend(loop),
    )
    loop.add_reader(_FD, _erlang._loop_turn)
    if looks and threading.current_thread() is threading.main_thread():
        _hear_signals(loop)
    _loop = loop
    _started.set()
    while not _erlang._loop_stopping():
        _guard(loop, loop.run_forever)
    _end(loop)


def _hear_signals(loop):
    """Has a signal wake the loop also when it comes just before the loop sleeps, so that its handler runs.

    uvloop sees to that itself.
    """
    ears, voice = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    loop.add_reader(ears, os.read, ears, 4096)
    signal.set_wakeup_fd(voice, warn_on_full_buffer=False)


def _guard(loop, function, *args):
    """Calls it. An exception is logged, also if the loop's exception handler lets one out."""
    try:
        function(*args)
    except BaseException as exception:
        context = {"message": f"{exception!r} does not end the node's event loop", "exception": exception}
        try:
            loop.call_exception_handler(context)
        except BaseException:
            loop.default_exception_handler(context)


def _end(loop):
    """Cancels what still runs, and gives it a second to see that. No task of the node's begins any more."""
    loop.remove_reader(_FD)
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        _complete(loop, asyncio.wait(tasks, timeout=1))
    _complete(loop, asyncio.wait([loop.create_task(loop.shutdown_asyncgens())], timeout=1))


def _complete(loop, coro):
    """Runs it to its end, whoever stops the loop meanwhile, or has done so before: uvloop stops once for each."""
    task = loop.create_task(coro)
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        _guard(loop, loop.run_forever)


def get():
    """The node's event loop; it begins if it has not."""
    if _loop is None:
        _erlang._loop_begin()
        while not _started.wait(0.1):
            pass
        if _loop is None:
            raise RuntimeError("this node's event loop could not start")
    return _loop


def _running():
    """The event loop that runs in this thread, or None."""
    return asyncio._get_running_loop()


def run_coroutine(coro):
    """erlang.run(): has the node's loop run coro; this thread waits."""
    if _running() is not None:
        coro.close()
        raise RuntimeError("erlang.run() cannot be called from a running event loop: await instead")
    future = asyncio.run_coroutine_threadsafe(coro, get())
    _erlang._set_waiting(True)
    try:
        while not concurrent.futures.wait([future], _LOOK).done:
            pass  # a call that is cancelled hears of it here
    except BaseException:
        future.cancel()
        raise
    finally:
        _erlang._set_waiting(False)
    return future.result()


_kept = set()


def spawn_task(coro, name=None):
    """erlang.spawn_task(): has the node's loop run coro; nobody waits."""
    loop = get()
    if _running() is loop:
        task = loop.create_task(coro, name=name)
        _kept.add(task)
        task.add_done_callback(_kept.discard)
        return task
    return asyncio.run_coroutine_threadsafe(_named(coro, name), loop)


async def _named(coro, name):
    if name is not None:
        asyncio.current_task().set_name(name)
    try:
        return await coro
    except Exception as exception:
        _report(exception, name or getattr(coro, "__qualname__", repr(coro)))
        raise


def _report(exception, name):
    asyncio.get_running_loop().call_exception_handler(
        {"message": f"the task {name} has failed", "exception": exception}
    )
