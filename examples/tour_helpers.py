"""What the tour calls in Python beside the standard library (see tour.steps)."""

import asyncio
import hashlib
import sqlite3
import threading
import time

import erlang

_busy = False


def sha256(data):
    """The SHA-256 of data in hex: hashlib's own object is no term, a str is."""
    return hashlib.sha256(data).hexdigest()


class Shelf:
    """Keeps rows about files in a database in memory; served as an Erlang process is."""

    def __init__(self):
        # Requests come one after another, but not always on the same thread.
        self._db = sqlite3.connect(":memory:", check_same_thread=False)
        self._db.execute("create table file (name text, kind text, size integer)")

    def handle_call(self, request, caller):
        """Answers {add, [#{name, kind, size}]} and {query, Sql}."""
        match request:
            case ("add", rows):
                cursor = self._db.executemany(
                    "insert into file values (:name, :kind, :size)", rows
                )
                return cursor.rowcount
            case ("query", sql):
                return self._db.execute(sql).fetchall()
        raise ValueError(f"unknown request: {request!r}")


def open_shelf():
    """Registers an empty shelf under the name 'shelf', in place of an older one."""
    try:
        erlang.unregister("shelf")
    except ValueError:
        pass
    erlang.register("shelf", Shelf())


def busy(seconds):
    """Computes in pure Python, so with the GIL, for this long; gives the rounds it made."""
    global _busy
    _busy = True
    try:
        rounds, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            rounds += 1
        return rounds
    finally:
        _busy = False


def is_busy():
    """Waits until busy() runs, so that what is measured next is measured meanwhile."""
    return _wait_for(True)


def is_idle():
    """Waits until busy() has ended, however it has."""
    return _wait_for(False)


def _wait_for(state):
    end = time.monotonic() + 5
    while _busy is not state and time.monotonic() < end:
        time.sleep(0.001)
    return _busy is state


def at_once(name, n):
    """Calls the Erlang function of that name from n threads; what each got, in order."""
    results = [None] * n

    def work(i):
        results[i] = erlang.call(name, i, timeout=10)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def echo(pid):
    """Sends the first message that its process gets to pid, and ends."""
    erlang.send(pid, (erlang.self(), erlang.receive(timeout=10)))


async def squared_later(x):
    """Waits a moment, as for somebody over the network, and asks Erlang."""
    await asyncio.sleep(0.1)
    return await erlang.async_call("square", x)


def fibonacci(n):
    """The first n Fibonacci numbers."""
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
        yield a
