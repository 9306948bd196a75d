"""What drives a generator for Erlang: on the node's event loop, or in a worker.

Items are sent many at once, but none waits for the next one if that takes long.
"""

import asyncio

_SOON = 0.001  # seconds that an item waits for others


async def start(source, stream):
    """Sends what source yields, a generator or any other iterable, asynchronous or not."""
    stream.begin()
    try:
        if not hasattr(source, "__aiter__") and hasattr(source, "__await__"):
            source = await source
        try:
            if hasattr(source, "__aiter__"):
                later = asyncio.get_running_loop().call_later
                async for item in source:
                    if how := stream.put(item):
                        if how is True:
                            await _pause(stream)
                        else:
                            later(_SOON, stream.due)
            else:
                for item in source:
                    if stream.put(item) is True:
                        await _pause(stream)
        except Exception:
            stream.flush()  # what came before
            raise
        finally:
            await _close(source)
        stream.flush()
    finally:
        stream.close()


async def _pause(stream):
    """Lets others have their turn, and goes on when there is credit."""
    stream.flush()
    room = stream.room()
    if room is None:
        await asyncio.sleep(0)
        stream.begin()
    while room is not None:
        await room
        room = stream.room()


async def _close(source):
    if hasattr(source, "aclose"):
        await source.aclose()
    elif hasattr(source, "close"):
        source.close()


def run(source, stream):
    """The same in a worker; source is a plain iterable."""
    try:
        try:
            for item in source:
                if how := stream.put(item):
                    if how is True:
                        stream.flush()
                        stream.wait()
                    else:
                        _soon(stream)
        except Exception:
            stream.flush()
            raise
        finally:
            if hasattr(source, "close"):
                source.close()
        stream.flush()
    finally:
        stream.close()


def _soon(stream):
    """Has the event loop send what there is, while the worker may be busy with the next item."""
    from erlang import _loop

    loop = _loop.get()
    try:
        loop.call_soon_threadsafe(loop.call_later, _SOON, stream.due)
    except RuntimeError:
        pass  # the node leaves
