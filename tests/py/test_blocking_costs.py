"""test_blocking_costs - erlang.blocking: its share of the GIL, memory, references."""

import gc
import os
import sys
import threading
import time

import pools
import tap
from pools import case, identity, in_thread, resident_kib
from tap import equal, wait_for

from erlang.blocking import BlockingExecutor


@case("C code that releases the GIL runs in parallel")
def _():
    with BlockingExecutor(4) as pool:
        barrier = threading.Barrier(4)
        assert sorted(pool.map(lambda _: barrier.wait(tap.LIMIT), range(4), chunk_size=1)) == [0, 1, 2, 3]
        begin = time.monotonic()
        pool.map(time.sleep, [0.05] * 16)
        assert time.monotonic() - begin < 16 * 0.05 * 0.75


@case("a thread that runs C calls only lets others have the GIL")
def _():
    with BlockingExecutor(1) as pool:
        numbers = list(range(1000))
        thread, _ = in_thread(pool.map, sum, [numbers] * 40000, 40000)
        ticks = 0
        while thread.is_alive():
            time.sleep(0.001)
            ticks += 1
        assert ticks >= 10, ticks


@case("threads that want the GIL get it from one that always has a next task")
def _():
    with BlockingExecutor(1) as pool:

        def task():
            pool.submit(task)

        def longest():
            waits = []
            for _ in range(300):
                begin = time.monotonic()
                time.sleep(0.002)
                waits.append(time.monotonic() - begin)
            return max(waits)

        pool.submit(task)
        tries = []
        while len(tries) < 5 and min(tries, default=1) > 0.05:
            tries.append(longest())
        pool.shutdown(wait=False)
        assert min(tries) <= 0.05, tries


@case("10^6 tasks leave no references and no memory behind")
def _():
    thing, function = object(), lambda x: x  # noqa: E731
    error = ValueError("kept")

    def bad(_):
        raise error

    with BlockingExecutor(2) as pool:

        def work(n):
            for _ in range(n):
                pool.run_sync(function, thing)
            for future in [pool.submit(function, x=thing) for _ in range(n)]:
                future.result()
            pool.map(function, [thing] * (n * 7))
            pool.run_parallel([(function, (thing,))] * n)
            pool.run_parallel([(function, (), {"x": thing})] * (n // 10))
            for _ in range(n // 100):
                for call in (
                    lambda: pool.run_sync(bad, thing),
                    lambda: pool.submit(bad, thing).result(),
                    lambda: pool.map(bad, [thing] * 3),
                    lambda: pool.run_parallel([(bad, (thing,)), (5,)]),
                ):
                    try:
                        call()
                    except (ValueError, TypeError):
                        error.__traceback__ = None
                        error.__dict__.clear()
                        if hasattr(error, "__notes__"):
                            del error.__notes__
                pool.submit(function, thing).cancel()

        def settled():
            return pool.stats()["queued"] == pool.stats()["running"] == 0

        work(80000)  # as many at once as later: the allocator keeps what it has had
        wait_for(settled)
        pool.run_sync(gc.collect)
        wait_for(settled)
        counts, memory = [sys.getrefcount(x) for x in (thing, function, None.__class__)], resident_kib()
        work(80000)
        wait_for(settled)
        gc.collect()
        after = [sys.getrefcount(x) for x in (thing, function, None.__class__)]
        equal(after, counts)
        assert resident_kib() - memory < 4096, resident_kib() - memory
    assert pool.stats()["done"] > 200000


@case("pools that come and go leave nothing behind")
def _():
    def work(n):
        for _ in range(n):
            with BlockingExecutor(3, initializer=list) as pool:
                pool.submit(identity, 1)
            BlockingExecutor(1).submit(identity, 1)

    threads = len(os.listdir("/proc/self/task"))
    work(100)
    wait_for(lambda: len(os.listdir("/proc/self/task")) == threads)
    gc.collect()
    objects, memory = len(gc.get_objects()), resident_kib()
    work(200)
    wait_for(lambda: len(os.listdir("/proc/self/task")) == threads)
    gc.collect()
    assert len(gc.get_objects()) - objects < 50, len(gc.get_objects()) - objects
    assert resident_kib() - memory < 1024, resident_kib() - memory
    assert len(threading._active) < 20, threading._active


@case("a thread of a pool has 64 KiB of memory at most")
def _():
    with BlockingExecutor(1) as pool:
        pool.run_sync(identity, 1)
    before = resident_kib()
    with BlockingExecutor(200) as pool:
        pool.map(time.sleep, [0.01] * 200, chunk_size=1)
        used = (resident_kib() - before) / 200
    assert used <= 64, used


pools.main()
