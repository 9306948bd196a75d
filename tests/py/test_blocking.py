"""test_blocking - the API of erlang.blocking: arguments, results, Futures, helpers."""

import asyncio
import concurrent.futures
import ctypes
import doctest
import gc
import inspect
import os
import pickle
import resource
import sys
import threading
import time
import weakref

import pools
import tap
from pools import SHUT_DOWN, Gate, case, clean, fail, identity, in_thread, script
from tap import equal, raises, wait_for

import erlang.blocking
from erlang.blocking import (
    BlockingExecutor,
    QueueFull,
    blocking,
    blocking_map,
    blocking_parallel,
    blocking_run,
    get_default_executor,
    set_default_executor,
)


@case("the examples in the documentation of erlang.blocking")
def _():
    results = doctest.testmod(erlang.blocking)
    equal(results.failed, 0)
    assert results.attempted >= 10


@case("the native methods have documentation and examples that are true")
def _():
    tests = [
        t
        for t in doctest.DocTestFinder().find(
            BlockingExecutor.__mro__[1], "ThreadPool", module=False, globs=vars(erlang.blocking)
        )
        if t.examples
    ]
    assert len(tests) >= 3, tests
    for test in tests:
        equal(doctest.DocTestRunner().run(test).failed, 0)
    for name in dir(BlockingExecutor):
        assert name.startswith("__") or getattr(BlockingExecutor, name).__doc__, name
    for name in erlang.blocking.__all__:
        assert getattr(erlang.blocking, name).__doc__, name


@case("0 threads are as many as processors; they exist when the constructor returns")
def _():
    with BlockingExecutor() as pool:
        equal(pool.pool_size(), len(os.sched_getaffinity(0)))
    before = set(os.listdir("/proc/self/task"))  # others of the node may come and go
    with BlockingExecutor(5) as pool:
        mine = set(os.listdir("/proc/self/task")) - before
        assert len(mine) >= 5, mine
        equal(pool.pool_size(), 5)
        equal(pool.active_threads(), 5)
        equal(pool.busy_threads(), 0)
        equal(pool.pending_tasks(), 0)
        assert pool.is_running()
    assert len(mine & set(os.listdir("/proc/self/task"))) <= len(mine) - 5
    equal(pool.active_threads(), 0)
    equal(pool.pool_size(), 5)
    assert not pool.is_running()
    assert "shut down" in repr(pool)


@case("a BlockingExecutor is a concurrent.futures.Executor, its futures are Futures")
def _():
    with BlockingExecutor(1) as pool:
        assert isinstance(pool, concurrent.futures.Executor)
        future = pool.submit(pow, 2, 3)
        assert isinstance(future, concurrent.futures.Future)
        equal(future.result(), 8)


@case("threads are named in threading and in the system")
def _():
    with BlockingExecutor(1, thread_name_prefix="name") as pool:
        equal(pool.run_sync(lambda: threading.current_thread().name), "name_0")
        tid = pool.run_sync(threading.get_native_id)
        with open(f"/proc/self/task/{tid}/comm") as f:
            equal(f.read(), "name_0\n")
    equal([t for t in threading.enumerate() if t.name.startswith("name_")], [])


@case("an initializer runs first in each thread, with its arguments")
def _():
    seen = []
    local = threading.local()

    def begin(*args):
        local.begun = True
        seen.append((args, threading.get_ident()))

    with BlockingExecutor(3, initializer=begin, initargs=(1, 2)) as pool:
        equal([a for a, _ in seen], [(1, 2)] * 3)
        equal(len({t for _, t in seen}), 3)
        assert pool.run_sync(lambda: local.begun)
    seen.clear()
    weak = weakref.ref(begin)
    del begin
    gc.collect()
    equal(weak(), None)


@case("an initializer that raises: the pool is broken, with the exception as the cause")
def _():
    for kind in ValueError, SystemExit:
        pool = BlockingExecutor(2, initializer=fail, initargs=[kind, "begin"])
        for call in pool.submit, pool.try_submit, pool.run_sync:
            e = raises(concurrent.futures.BrokenExecutor, call, identity, 1)
            assert isinstance(e.__cause__, kind), e.__cause__
        for call in (
            lambda: pool.map(identity, [1]),
            lambda: pool.run_parallel([]),
            lambda: asyncio.run(pool.arun(identity, 1)),
            lambda: asyncio.run(pool.amap(identity, [])),
        ):
            raises(concurrent.futures.thread.BrokenThreadPool, call)
        assert pool.shutdown()


@case("a stack of the least size will do for a small call")
def _():
    with BlockingExecutor(1, stack_size=256 << 10) as pool:
        equal(pool.run_sync(sum, range(10)), 45)
    raises(ValueError, BlockingExecutor, 1, stack_size=1000, text="stack_size")


@case("counts that make no sense: ValueError or TypeError, and nothing is made")
def _():
    before = threading.active_count(), len(os.listdir("/proc/self/task"))
    for name in "max_threads", "queue_size", "stack_size":
        for bad in -1, -(10**30), 10**30, -(1 << 63):
            raises(ValueError, BlockingExecutor, **{name: bad}, text=name)
        for bad in 1.0, float("nan"), float("inf"), "1", None, True, False, [], b"1":
            raises(TypeError, BlockingExecutor, **{name: bad}, text=name)
    raises(ValueError, BlockingExecutor, 40000, text="max_threads")
    raises(TypeError, BlockingExecutor, 1, thread_name_prefix=1)
    raises(TypeError, BlockingExecutor, 1, thread_name_prefix=None)
    raises(TypeError, BlockingExecutor, 1, initializer=1, text="initializer")
    raises(TypeError, BlockingExecutor, 1, initargs=1)
    raises(TypeError, BlockingExecutor, 1, 2, 3)
    raises(TypeError, BlockingExecutor, threads=1)
    equal((threading.active_count(), len(os.listdir("/proc/self/task"))), before)
    with BlockingExecutor(1) as pool:
        for bad in -1, 10**30:
            raises(ValueError, pool.map, identity, [1], chunk_size=bad, text="chunk_size")
            raises(ValueError, asyncio.run, pool.amap(identity, [1], chunk_size=bad))
            raises(ValueError, blocking_map, identity, [1], bad)
        for bad in 1.0, float("nan"), "1", None, True:
            raises(TypeError, pool.map, identity, [1], chunk_size=bad, text="chunk_size")
            raises(TypeError, asyncio.run, pool.amap(identity, [1], chunk_size=bad))
        for bad in -1, -0.1, float("nan"), float("-inf"):
            raises(ValueError, pool.shutdown, timeout_secs=bad, text="timeout_secs")
        for bad in "1", True, []:
            raises(TypeError, pool.shutdown, timeout_secs=bad)
        assert pool.is_running()


@case("an index that is no int will do for a count")
def _():
    class Two:
        def __index__(self):
            return 2

    with BlockingExecutor(Two()) as pool:
        equal(pool.pool_size(), 2)
        equal(pool.map(identity, [1, 2, 3], chunk_size=Two()), [1, 2, 3])


@case("a pool whose threads cannot all be started")
def _():
    if hasattr(ctypes.CDLL(None), "__asan_init"):
        raise tap.Skip("AddressSanitizer needs all of the address space")
    clean(
        """
import resource
with open("/proc/self/statm") as f:
    used = int(f.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
threads = len(os.listdir("/proc/self/task"))
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), before[1]))
for _ in range(5):
    try:
        BlockingExecutor(50, stack_size=32 << 20)
    except RuntimeError as e:
        print(str(e).split(":")[0])
while len(os.listdir("/proc/self/task")) > threads:
    time.sleep(0.01)
resource.setrlimit(resource.RLIMIT_AS, before)
with BlockingExecutor(1) as pool:
    print(pool.run_sync(pow, 2, 3))
""",
        "cannot start 50 threads\n" * 5 + "8\n",
    )


@case("run_sync: positions, keywords, results and what is not callable")
def _():
    with BlockingExecutor(2) as pool:
        equal(pool.run_sync(int, "ff", base=16), 255)
        equal(pool.run_sync(dict, fn=1, self=2), {"fn": 1, "self": 2})
        equal(pool.run_sync(lambda *a, **k: (a, k), *range(40), x=1), (tuple(range(40)), {"x": 1}))
        assert pool.run_sync(threading.get_ident) != threading.get_ident()
        raises(TypeError, pool.run_sync, 1, text="callable")
        raises(TypeError, pool.run_sync)
        raises(TypeError, pool.submit, 1, text="callable")
        raises(TypeError, pool.submit)
        raises(TypeError, pool.try_submit, None)
        raises(TypeError, pool.map, 1, [1])
        raises(TypeError, asyncio.run, pool.arun(1))
        raises(TypeError, asyncio.run, pool.amap(1, []))
        raises(TypeError, blocking, 1)


@case("map: a list in order, for any size of its chunks")
def _():
    with BlockingExecutor(3) as pool:
        for n in 0, 1, 2, 7, 100, 1000:
            want = [x * 2 for x in range(n)]
            for chunk in 0, 1, 2, 3, 99, n + 5, sys.maxsize // 2:
                equal(pool.map(lambda x: x * 2, range(n), chunk_size=chunk), want)
            equal(pool.map(lambda x: x * 2, range(n), 3), want)
            equal(asyncio.run(pool.amap(lambda x: x * 2, range(n))), want)
            equal(asyncio.run(pool.amap(lambda x: x * 2, range(n), 3)), want)
        equal(pool.map(identity, iter("abc")), ["a", "b", "c"])
        equal(pool.map(identity, {1: 2}), [1])


@case("map without a chunk size makes ceil(n / (4 * threads))")
def _():
    with BlockingExecutor(3) as pool:
        for n, chunks in (1, 1), (12, 12), (13, 7), (24, 12), (25, 9), (1000, 12):
            before = pool.stats()["done"]
            pool.map(identity, range(n))
            equal(pool.stats()["done"] - before, chunks)


@case("map in the form of concurrent.futures")
def _():
    with BlockingExecutor(2) as pool:
        result = pool.map(pow, [2, 3], [4, 5])
        assert iter(result) is result
        equal(list(result), [16, 243])
        equal(list(pool.map(identity, [1, 2], timeout=10)), [1, 2])
        equal(list(pool.map(identity, [1, 2], timeout=None)), [1, 2])
        equal(list(pool.map(identity, [1, 2], chunksize=2)), [1, 2])
        equal(list(pool.map(identity)), [])
        raises(TypeError, pool.map, identity, [1], chunk_size=1, timeout=1)
        raises(TypeError, pool.map, pow, [1], [2], chunk_size=3)
        raises(TypeError, pool.map, identity, 5)
        raises(TypeError, pool.map, identity, [1], no_such=1)
        with Gate() as gate:
            raises(concurrent.futures.TimeoutError, list, pool.map(gate.wait, [1], timeout=0.01))


@case("an iterable of map that raises: nothing runs")
def _():
    ran = []

    def items():
        yield 1
        yield 2
        raise KeyError("end")

    with BlockingExecutor(2) as pool:
        raises(KeyError, pool.map, ran.append, items())
        raises(KeyError, asyncio.run, pool.amap(ran.append, items()))
        raises(KeyError, pool.run_parallel, ((ran.append, (x,)) for x in items()))
        equal(pool.stats()["done"], 0)
    equal(ran, [])


@case("run_parallel: the three forms of a task, in order")
def _():
    with BlockingExecutor(2) as pool:
        equal(pool.run_parallel([]), [])
        equal(pool.run_parallel(iter([(list,), (pow, (2, 3)), (int, ["ff"], {"base": 16})])), [[], 8, 255])
        equal(pool.run_parallel([(identity, (i,)) for i in range(500)]), list(range(500)))
        raises(TypeError, pool.run_parallel, 5)


@case("known fault: a bad item after good ones; nothing runs")
def _():
    ran = []
    good = (ran.append, (1,))
    with BlockingExecutor(2) as pool:
        for bad in (
            5, None, "ab", (), [identity, (1,)], (1,), (identity, 5), (identity, "ab"),
            (identity, (1,), 5), (identity, (1,), {1: 2}), (identity, (1,), {}, 4), ("x", (1,)),
        ):  # fmt: skip
            raises(TypeError, pool.run_parallel, [good, good, bad, good], text="task 2")
            raises(TypeError, blocking_parallel, [good, bad], pool)
        equal(pool.stats()["queued"], 0)
        equal(pool.run_sync(len, ran), 0)


@case("submit: result, exception, done, cancel, callbacks and repr")
def _():
    with BlockingExecutor(1) as pool:
        called = []
        with Gate(pool, 1):
            pending = pool.submit(pow, 2, 3)
            doomed = pool.submit(called.append, "ran")
            assert not pending.done() and not pending.running() and not pending.cancelled()
            raises(concurrent.futures.TimeoutError, pending.result, 0.001)
            raises(concurrent.futures.TimeoutError, pending.exception, timeout=0)
            pending.add_done_callback(called.append)
            assert "pending" in repr(pending)
            assert doomed.cancel() and doomed.cancel() and doomed.cancelled() and doomed.done()
            raises(concurrent.futures.CancelledError, doomed.result)
            raises(concurrent.futures.CancelledError, doomed.exception)
        equal(pending.result(), 8)
        equal(pending.result(timeout=5), 8)
        equal(pending.exception(), None)
        assert pending.done() and not pending.cancel() and "finished" in repr(pending)
        wait_for(lambda: called)
        equal(called, [pending])
        wait_for(lambda: pool.stats()["cancelled"] == 1)
        pending.add_done_callback(called.append)
        equal(called, [pending, pending])
        failed = pool.submit(fail, KeyError, 1)
        assert isinstance(failed.exception(), KeyError)
        raises(KeyError, failed.result)
        raises(KeyError, failed.result)
        raises(TypeError, failed.result, 1, 2)
        raises(TypeError, pending.result, no_such=2)


@case("a Future that nobody waits for never makes a lock; attributes and weak references are had")
def _():
    with BlockingExecutor(1) as pool:
        future = pool.submit(pow, 2, 3)
        wait_for(future.done)
        equal(future.result(), 8)
        assert not hasattr(future, "_lock") and not hasattr(future, "_callbacks")
        assert future._condition is future._condition
        assert future._waiters is future._waiters
        future.mine = 5
        equal(future.mine, 5)
        weak = weakref.ref(future)
        del future
        gc.collect()
        equal(weak(), None)


@case("a Future is made by an executor only; its native methods refuse what is none")
def _():
    raises(TypeError, erlang.blocking.Future, text="made by")
    native = erlang.blocking.FutureMethods
    for call in "result", "done":
        raises(TypeError, getattr(native(), call), text="not a Future")
    for name in "_condition", "_waiters", "_done_callbacks":
        raises(TypeError, getattr, native(), name, text="not a Future")
    empty = erlang.blocking.Future.__new__(erlang.blocking.Future)
    raises(AttributeError, empty.done)


@case("wait, as_completed, wrap_future and run_in_executor work")
def _():
    with BlockingExecutor(4) as pool:
        futures = [pool.submit(identity, i) for i in range(100)]
        equal(sorted(f.result() for f in concurrent.futures.as_completed(futures, 20)), list(range(100)))
        done, not_done = concurrent.futures.wait(futures)
        equal((len(done), len(not_done)), (100, 0))
        with Gate(pool, 1) as gate:
            done, not_done = concurrent.futures.wait(
                [gate.futures[0], pool.submit(pow, 1, 1)], return_when=concurrent.futures.FIRST_COMPLETED
            )
            equal((len(done), len(not_done)), (1, 1))

        async def main():
            loop = asyncio.get_running_loop()
            equal(await loop.run_in_executor(pool, pow, 2, 5), 32)
            equal(await asyncio.wrap_future(pool.submit(pow, 2, 6)), 64)
            equal(await asyncio.gather(*(pool.arun(identity, i) for i in range(500))), list(range(500)))

        asyncio.run(main())


@case("each Future ends once, whoever cancels, waits and calls back at the same time")
def _():
    counts = {"ran": 0, "cancelled": 0, "called": 0}
    lock = threading.Lock()

    def count(what):
        with lock:
            counts[what] += 1

    def cancel(futures):
        for future in futures:
            if future.cancel():
                count("cancelled")

    with BlockingExecutor(4) as pool:
        for _ in range(30):
            futures = []
            for i in range(100):
                future = pool.submit(count, "ran")
                if i % 3 == 0:
                    future.add_done_callback(lambda _: count("called"))
                futures.append(future)
            cancellers = [in_thread(cancel, part)[0] for part in (futures[::2], futures[1::2])]
            equal(len(concurrent.futures.wait(futures, tap.LIMIT).done), 100)
            for thread in cancellers:
                thread.join()
            assert all(f.cancelled() or f.result() is None for f in futures)
    equal(counts["ran"] + counts["cancelled"], 3000)
    equal(counts["called"], 30 * 34)
    stats = pool.stats()
    equal((stats["done"], stats["cancelled"]), (counts["ran"], counts["cancelled"]))


@case("try_submit: a Future, or QueueFull")
def _():
    with BlockingExecutor(1, 1) as pool:
        with Gate(pool, 1):
            future = pool.try_submit(identity, 1)
            equal(pool.pending_tasks(), 1)
            raises(QueueFull, pool.try_submit, identity, 2)
            raises(QueueFull, pool.try_submit, identity, 2)
        equal(future.result(), 1)
        equal(pool.stats()["done"], 2)


@case("stats: queued, running, done, failed, cancelled, wait and run time")
def _():
    with BlockingExecutor(1) as pool:
        with Gate(pool, 1):
            one = pool.submit(time.sleep, 0.02)
            two = pool.submit(fail)
            three = pool.submit(identity)
            three.cancel()
            time.sleep(0.02)
            stats = pool.stats()
            equal((stats["queued"], stats["running"]), (3, 1))
            equal((pool.pending_tasks(), pool.busy_threads()), (3, 1))
        concurrent.futures.wait([one, two, three])
        raises(ValueError, pool.map, lambda x: fail() if x == 1 else x, range(3), 3)
        wait_for(lambda: pool.busy_threads() == 0)
        stats = pool.stats()
        equal([stats[k] for k in ("queued", "running", "done", "failed", "cancelled")], [0, 0, 2, 2, 1])
        assert stats["wait_seconds"] >= 0.04, stats
        assert 0.04 <= stats["run_seconds"] < 10, stats


@case("the functions of the default executor")
def _():
    equal(blocking_run(pow, 2, 10), 1024)
    equal(blocking_run(int, "ff", base=16), 255)
    equal(blocking_map(abs, [-1, 2, -3], chunk_size=2), [1, 2, 3])
    equal(blocking_parallel([(pow, (2, 3))]), [8])
    with BlockingExecutor(1, thread_name_prefix="mine") as pool:
        name = lambda _: threading.current_thread().name  # noqa: E731
        equal(blocking_map(name, [1], executor=pool), ["mine_0"])
        equal(blocking_parallel([(name, (1,))], executor=pool), ["mine_0"])
        before = set_default_executor(pool)
        equal(blocking_run(name, 1), "mine_0")
        assert get_default_executor() is pool
        assert set_default_executor(before) is pool
    for bad in 5, 0, concurrent.futures.Executor():
        raises(TypeError, set_default_executor, bad)
        raises(TypeError, blocking_map, abs, [], executor=bad)
        raises(TypeError, blocking_parallel, [], executor=bad)
        raises(TypeError, blocking, executor=bad)
    set_default_executor(None)
    assert get_default_executor() is get_default_executor()


@case("the default executor is sized by the environment")
def _():
    ask = "print(get_default_executor().pool_size())"
    for env, output in (
        ({"PYNODE_BLOCKING_THREADS": "3"}, "3\n"),
        ({"HYPERN_BLOCKING_THREADS": "4"}, "4\n"),
        ({"PYNODE_BLOCKING_THREADS": "5", "HYPERN_BLOCKING_THREADS": "6"}, "5\n"),
        ({"PYNODE_BLOCKING_THREADS": "", "HYPERN_BLOCKING_THREADS": "7"}, "7\n"),
        ({"PYNODE_BLOCKING_THREADS": "0"}, f"{len(os.sched_getaffinity(0))}\n"),
    ):
        clean(ask, output, env=env)
    for bad in "x", "-1", "1.5":
        status, _, log = script(ask, env={"PYNODE_BLOCKING_THREADS": bad})
        assert status == 1 and f"PYNODE_BLOCKING_THREADS must be a number of threads, not '{bad}'" in log


@blocking
def module_level(x):
    """Its text."""
    return x, threading.get_ident()


@case("@blocking keeps the function's face; .aio, methods, an executor of one's own, pickle")
def _():
    equal(module_level.__name__, "module_level")
    equal(module_level.__doc__, "Its text.")
    equal(str(inspect.signature(module_level)), "(x)")
    assert module_level(1)[1] != threading.get_ident()
    equal(asyncio.run(module_level.aio(1))[0], 1)
    assert inspect.iscoroutinefunction(module_level.aio)
    assert pickle.loads(pickle.dumps(module_level)) is module_level
    with BlockingExecutor(1, thread_name_prefix="mine") as pool:

        class Thing:
            def __init__(self):
                self.value = 5

            @blocking(executor=pool)
            def get(self, add=0):
                return self.value + add, threading.current_thread().name

            @staticmethod
            @blocking(executor=pool)
            def static(x):
                return x

            @classmethod
            @blocking(executor=pool)
            def of_class(cls, x):
                return cls, x

        thing = Thing()
        equal(thing.get(add=1), (6, "mine_0"))
        equal(Thing.get(thing), (5, "mine_0"))
        equal(asyncio.run(thing.get.aio(2)), (7, "mine_0"))
        equal(Thing.static(1), 1)
        equal(Thing.of_class(1), (Thing, 1))
    raises(RuntimeError, thing.get, text=SHUT_DOWN)
    raises(RuntimeError, asyncio.run, thing.get.aio(), text=SHUT_DOWN)

    async def coroutine():
        pass

    raises(TypeError, blocking, coroutine, text="coroutine")
    assert blocking()(identity)(3) == 3


pools.main()
