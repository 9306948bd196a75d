"""Tasks and streams for live tests: they note how they end, and wait at doors that the test opens."""

import asyncio
import itertools
import threading

import gate

notes = []
made = {}


def take_notes():
    """What has been noted, which is forgotten."""
    taken, notes[:] = list(notes), []
    return taken


def how_many(note):
    """How many items the generator of this note has made."""
    return made.get(note, 0)


async def door(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.readline()
    finally:
        writer.close()


async def held(port, note):
    """Says that it has begun, waits, and notes how it ended."""
    how = "cancelled"
    try:
        await door(port)
        how = "went on"
        return note
    finally:
        notes.append([note, how])


async def nap(seconds, value=None):
    await asyncio.sleep(seconds)
    return value


async def fails(message):
    await asyncio.sleep(0)
    raise ValueError(message)


def given(*args, **kwargs):
    return [list(args), kwargs]


async def given_later(*args, **kwargs):
    await asyncio.sleep(0)
    return given(*args, **kwargs)


def on_loop():
    """Whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
        return True
    except RuntimeError:
        return False


def note(what):
    notes.append(what)
    return what


def count(n, note=None, fail_at=None):
    """The integers below n, or all of them."""
    try:
        for i in range(n) if n is not None else itertools.count():
            if i == fail_at:
                raise ValueError(f"no {i}")
            made[note] = i + 1
            yield i
    finally:
        notes.append([note, "closed"])


async def async_count(n, note=None, fail_at=None):
    try:
        for i in range(n) if n is not None else itertools.count():
            if i == fail_at:
                raise ValueError(f"no {i}")
            made[note] = i + 1
            yield i
            if i % 3 == 0:
                await asyncio.sleep(0)
    finally:
        await asyncio.sleep(0)
        notes.append([note, "closed"])


class Countdown:
    """An asynchronous iterator that is no generator."""

    def __init__(self, n):
        self.n = n

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.n == 0:
            raise StopAsyncIteration
        self.n -= 1
        return self.n


async def later(n):
    """A coroutine whose value is a generator."""
    await asyncio.sleep(0)
    return count(n)


def where(n):
    """Where each item is made."""
    for _ in range(n):
        yield [on_loop(), threading.current_thread() is threading.main_thread()]


def behind(port, bursts, size):
    """Some items, and then a door, again and again; in a worker."""
    for i in range(bursts):
        yield from range(i * size, (i + 1) * size)
        gate.wait(port)


async def async_behind(port, bursts, size):
    for i in range(bursts):
        for j in range(i * size, (i + 1) * size):
            yield j
        await door(port)
