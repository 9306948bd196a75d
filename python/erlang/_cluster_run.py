"""What runs the tasks of erlang.cluster: the VM calls it in a node of the pool.

Many tasks come in one request, each with an outcome of its own: bytes for a value, a tuple for an exception.
"""

import asyncio
import importlib
import inspect
import pickle
import sys
import time
import traceback

from . import Cancelled
from ._cluster_codec import CODECS
from ._cluster_objects import objects


def chunk(codec, function, items):
    """Runs the function with each item's arguments: what that took, and the outcomes.

    What an `async def` gives is awaited on the node's event loop, that of all items at once.
    """
    codec, function = CODECS[codec], find(function)
    if inspect.iscoroutinefunction(function):
        return _chunk_async(codec, function, [_try(codec.load_args, item) for item in items])
    begin = _clocks()
    outcomes = [_run(codec, function, item) for item in items]
    return _took(begin), outcomes


def forget(key):
    """The object of that handle has been released."""
    objects.forget(key)


def find(function):
    """The function of that name, 'module:qualified.name', or the one that is pickled in these bytes."""
    if type(function) is bytes:
        return pickle.loads(function)
    module, _, names = function.partition(":")
    found = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


def _clocks():
    return time.perf_counter(), time.process_time()


def _took(begin):
    """The seconds since then, and those of a processor in this node: when threads take turns all of them compute."""
    return tuple(now - then for now, then in zip(_clocks(), begin))


def _run(codec, function, item):
    try:
        args, kwargs = codec.load_args(item)
        value = function(*args, **kwargs)
        if inspect.isawaitable(value):
            from . import run

            value = run(_awaited(value))
        return codec.dump(value)
    except Cancelled:
        raise
    except BaseException as e:
        return failure(e)


async def _awaited(value):
    return await value


def _try(function, argument):
    """What it gives, or the exception that it raises."""
    try:
        return function(argument)
    except Exception as e:
        return e


async def _chunk_async(codec, function, loaded):
    begin = _clocks()
    outcomes = await asyncio.gather(*(_run_async(codec, function, item) for item in loaded))
    return _took(begin), outcomes


async def _run_async(codec, function, item):
    try:
        if isinstance(item, Exception):
            raise item
        args, kwargs = item
        return codec.dump(await function(*args, **kwargs))
    except asyncio.CancelledError:
        raise
    except BaseException as e:
        return failure(e)


def failure(exception):
    """(module, name, message, args or None, traceback) of an exception: args if they have a form in Erlang."""
    kind = type(exception)
    try:
        message = str(exception)
    except Exception:
        message = f"<{kind.__name__} whose str() fails>"
    return kind.__module__, kind.__qualname__, _text(message), _args(exception), _text(_traceback(exception))


def _args(exception):
    try:
        return CODECS["terms"].dump_args(exception.args, {})
    except Exception:
        return None


def _text(text):
    """Without what UTF-8 has no form for."""
    return text.encode(errors="backslashreplace").decode()


def _traceback(exception):
    """As Python prints it, without what is of this file."""
    frames = exception.__traceback__
    while frames and frames.tb_frame.f_code.co_filename == __file__ and frames.tb_next:
        frames = frames.tb_next
    try:
        return "".join(traceback.format_exception(type(exception), exception, frames))
    except Exception:
        return f"{type(exception).__name__}: its traceback cannot be printed: {sys.exc_info()[1]!r}"
