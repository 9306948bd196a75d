"""What bench.erl calls in Python; bench.erl has functions of the same names for the peer."""

import asyncio
import statistics
import threading
import time

import erlang

_busy = False


def identity(x):
    """Gives back what it is given: the way there and back is what costs."""
    return x


async def yielding(x):
    """A task that lets others have a turn."""
    await asyncio.sleep(0)
    return x


def executor_map(pool, tasks, n):
    """Seconds of so many spins by an executor of the pool."""
    from bench_spin import spin
    from erlang.cluster import Executor

    with Executor(pool=pool) as nodes:
        list(nodes.map(spin, [n] * 100))  # the connections are there
        began = time.perf_counter()
        done = sum(1 for _ in nodes.map(spin, [n] * tasks))
        took = time.perf_counter() - began
    assert done == tasks, done
    return took


def busy(seconds):
    """Holds the GIL as pure Python does, for this long."""
    global _busy
    _busy = True
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    _busy = False


def is_busy():
    """Whether busy() runs."""
    return _busy


def _run(n, work):
    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def call_rate(threads, seconds):
    """Calls a second of so many threads, all warm and inside one span of time."""
    done = [0] * threads
    begin = threading.Barrier(threads)

    def work(i):
        call = erlang.call
        for x in range(20):
            call("bench_identity", x)
        begin.wait()
        end = time.monotonic() + seconds
        n = 0
        while time.monotonic() < end:
            if call("bench_identity", i) != i:
                raise RuntimeError("another thread's answer")
            n += 1
        done[i] = n

    _run(threads, work)
    return sum(done) / seconds


def gather_rate(calls, seconds):
    """Calls a second of coroutines, so many at once, again and again for this long."""

    async def main():
        begin = time.monotonic()
        n = 0
        while n == 0 or time.monotonic() < begin + seconds:
            values = await asyncio.gather(*(erlang.async_call("bench_identity", i) for i in range(calls)))
            if values != list(range(calls)):
                raise RuntimeError("another call's answer")
            n += calls
        return n / (time.monotonic() - begin)

    return asyncio.run(main())


def new_threads(n, name, arg):
    """Seconds until the last of n new threads has its answer."""
    begin = time.monotonic()
    _run(n, lambda i: erlang.call(name, arg))
    return time.monotonic() - begin


def first_call(n):
    """The median of n first calls, each in a new thread, one after another; in microseconds."""
    took = []

    def work(i):
        begin = time.perf_counter_ns()
        erlang.call("bench_identity", i)
        took.append((time.perf_counter_ns() - begin) / 1000)

    for _ in range(n):
        _run(1, work)
    return statistics.median(took)


class Server:
    """The smallest server: answers what it is asked."""

    def handle_call(self, request, caller):
        return request


erlang.register("bench_server", Server())
