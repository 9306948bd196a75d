"""What drives a generator for Erlang: on the node's event loop, or in a worker."""

import asyncio


async def start(source, stream):
    """Sends what source yields, a generator or any other iterable, asynchronous or not."""
    stream.begin()
    if not hasattr(source, "__aiter__") and hasattr(source, "__await__"):
        source = await source
    try:
        if hasattr(source, "__aiter__"):
            async for item in source:
                if stream.put(item):
                    await _pause(stream)
        else:
            for item in source:
                if stream.put(item):
                    await _pause(stream)
    finally:
        await _close(source)
    stream.flush()


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
        for item in source:
            if stream.put(item):
                stream.flush()
                stream.wait()
    finally:
        if hasattr(source, "close"):
            source.close()
    stream.flush()
