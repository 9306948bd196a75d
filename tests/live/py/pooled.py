"""Tasks that erlang.cluster has run at other nodes, for live tests. What they leave is in the box of their node."""

import asyncio
import os
import signal
import threading
import time

import box
import erlang
import gate
from erlang import _cluster_run

_lock = threading.Lock()
_calls = 0


class Custom(Exception):
    """An exception of no builtin type."""


def where(*unused):
    """The node that runs this."""
    return str(erlang.node())


def same(value=None, **options):
    """What it was given."""
    return (value, options) if options else value


def square(x):
    return x * x


def described(value):
    """The type that an argument has when it is here."""
    return type(value).__name__


def counted(x, bad=None):
    """Counts the tasks of this node; takes a while; one fails."""
    global _calls
    with _lock:
        _calls += 1
    time.sleep(0.005)
    if x == bad:
        raise ValueError(f"bad {x}")
    return x


def calls():
    return _calls


def work(x, seconds=0.001):
    """Computes for so long."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return x


def stays_at(victim, x):
    """Computes for a while, but at that node never ends."""
    return never("stays") if str(erlang.node()) == victim else work(x, 0.005)


def kill_own_node():
    os.kill(os.getpid(), signal.SIGKILL)


def fail(kind):
    """Raises that."""
    if kind == "custom":
        raise Custom("of mine")
    if kind == "lookup":
        return {}["no such key"]
    if kind == "file":
        open("/no/such/file")
    if kind == "unicode":
        b"\xc3\xa9".decode("ascii")
    if kind == "stop":
        raise StopIteration(7)
    if kind == "exit":
        raise SystemExit(3)
    raise ValueError("a", 1)


def no_form(x):
    return object()


def at_gate(port, value=None):
    """Waits at the door of the test."""
    return gate.wait(port, value)


def never(key):
    """Waits until it is cancelled, and notes that."""
    box.put("begun " + key, str(erlang.node()))
    try:
        while True:
            time.sleep(0.01)
    except erlang.Cancelled:
        box.put("cancelled " + key, str(erlang.node()))
        raise


async def nap(x, seconds=0.01):
    await asyncio.sleep(seconds)
    return x


def coroutine(x):
    """A plain function that gives something to await."""
    return nap(x)


async def never_async(key):
    box.put("begun " + key, str(erlang.node()))
    try:
        await asyncio.sleep(3600)
    finally:
        box.put("cancelled " + key, str(erlang.node()))


def nested(n):
    """Uses the same nodes from inside of one of them."""
    from erlang.cluster import Executor

    with Executor(node="w") as nodes:
        return sum(nodes.map(square, range(n)))


def total(values, *more):
    return sum(values) + sum(map(sum, more))


def objects(*unused):
    """What this node keeps: how many objects, bytes, and how many it has fetched."""
    return _cluster_run.objects.stats()


def limit_objects(limit):
    _cluster_run.objects.limit = limit


def os_pid():
    return os.getpid()
