"""test_blocking - erlang.blocking: its API, what it promises, and the faults of its model."""

import asyncio
import concurrent.futures
import contextvars
import copy
import ctypes
import doctest
import faulthandler
import gc
import inspect
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
import weakref

import tap
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

CASES = []
SHUT_DOWN = "BlockingExecutor is shut down"


def case(name):
    def add(function):
        CASES.append((name, function))
        return function

    return add


def identity(x):
    return x


def fail(kind=ValueError, *args):
    raise kind(*args)


class Gate:
    """Holds threads of a pool until it is opened."""

    def __init__(self, pool=None, threads=0):
        self.opened, self.entered = threading.Event(), threading.Semaphore(0)
        self.futures = [pool.submit(self.wait) for _ in range(threads)]
        for _ in range(threads):
            assert self.entered.acquire(timeout=tap.LIMIT)

    def wait(self, *_):
        self.entered.release()
        assert self.opened.wait(tap.LIMIT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.opened.set()


def in_thread(call, *args):
    """A thread that runs the call, and the list its result goes to."""
    results = []

    def work():
        try:
            results.append(call(*args))
        except BaseException as e:
            results.append(e)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, results


def interrupt_when(holds, heard=None):
    """Sends this process a SIGINT as soon as that is so; another one each second until it is heard.

    The interpreter's own locks can miss one that comes just before they sleep.
    """

    def work():
        wait_for(holds)
        os.kill(os.getpid(), signal.SIGINT)
        while heard and not heard.wait(1):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def sleeps(ident):
    """Whether a thread, by its native id, sleeps."""
    try:
        with open(f"/proc/self/task/{ident}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] == "S"
    except OSError:
        return False


def script(text, *options, env=None, input=None):
    """Runs a script in a node of its own: status, output."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", dir=os.environ["PY_TMP"]) as f:
        f.write("from erlang.blocking import *\nimport os, sys, time, threading, signal\n" + text)
        f.flush()
        done = subprocess.run(
            [os.environ["PYNODE"], "--name", f"child{os.urandom(4).hex()}@127.0.0.1", f.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=tap.LIMIT,
            env={**os.environ, **(env or {})},
        )
    sys.stdout.flush()
    log = [line for line in done.stderr.splitlines() if " info node" not in line]
    return done.returncode, done.stdout, "\n".join(log)


def clean(text, output, **options):
    """The script ends with status 0, that output and nothing in its log."""
    equal(script(text, **options), (0, output, ""))


# --- the API --------------------------------------------------------------------------------


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
    before = len(os.listdir("/proc/self/task"))
    with BlockingExecutor(5) as pool:
        equal(len(os.listdir("/proc/self/task")), before + 5)
        equal(pool.pool_size(), 5)
        equal(pool.active_threads(), 5)
        equal(pool.busy_threads(), 0)
        equal(pool.pending_tasks(), 0)
        assert pool.is_running()
    equal(len(os.listdir("/proc/self/task")), before)
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


# --- behaviour ------------------------------------------------------------------------------


def beats(work):
    """The worst gap, in seconds, of a thread that wakes every 5 ms while work() runs."""
    gaps, going = [], True

    def beat():
        last = time.perf_counter()
        while going:
            time.sleep(0.005)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        work()
    finally:
        going = False
        thread.join()
    return max(gaps)


@case("a heartbeat of 5 ms goes on while 8 callers wait and 8 threads sleep")
def _():
    def work(pool):
        threads = [in_thread(pool.map, time.sleep, [0.05] * 4, 4) for _ in range(8)]
        for thread, results in threads:
            thread.join()
            equal(results, [[None] * 4])

    with BlockingExecutor(8) as pool:
        # A machine that is busy with other things has bad moments: the best of a few.
        gaps = []
        while len(gaps) < 10 and not (gaps and gaps[-1] < 0.010):
            gaps.append(beats(lambda: work(pool)))
        assert min(gaps) < 0.010, gaps


@case("the GIL is free in each wait: result, room, all of a batch, start, shutdown")
def _():
    def others_run(wait, release):
        """Python code goes on in this thread while another waits, until it is released."""
        tid = []
        thread, results = in_thread(lambda: (tid.append(threading.get_native_id()), wait()))
        wait_for(lambda: tid and sleeps(tid[0]))
        release()
        thread.join(tap.LIMIT)
        assert not thread.is_alive() and not isinstance(results[0], BaseException), results

    for wait in (
        lambda pool, gate: pool.run_sync(gate.wait),
        lambda pool, gate: pool.map(gate.wait, [1, 2]),
        lambda pool, gate: pool.run_parallel([(gate.wait,)] * 3),
        lambda pool, gate: pool.submit(gate.wait).result(),
        lambda pool, gate: [pool.submit(gate.wait) for _ in range(5)],
        lambda pool, gate: [pool.submit(gate.wait), pool.shutdown()],
        lambda pool, gate: BlockingExecutor(1, initializer=gate.wait).shutdown(),
    ):
        with Gate() as gate, BlockingExecutor(1, 1) as pool:
            others_run(lambda: wait(pool, gate), gate.opened.set)


@case("known fault: a full bounded queue with the GIL held")
def _():
    with BlockingExecutor(1, 1) as pool:
        done = []
        for i in range(200):
            pool.submit(done.append, i)
        equal(pool.run_sync(len, done), 200)
        equal(done, list(range(200)))
        threads = [in_thread(pool.run_sync, identity, i) for i in range(20)]
        equal(sorted(results[0] for t, results in threads if t.join() is None), list(range(20)))
        equal(pool.map(identity, range(50), chunk_size=1), list(range(50)))
        equal(pool.run_parallel([(identity, (i,)) for i in range(50)]), list(range(50)))


@case("known fault: queued work that is lost at shutdown")
def _():
    done = []
    pool = BlockingExecutor(2)
    with Gate(pool, 2):
        futures = [pool.submit(done.append, i) for i in range(100)]
        assert not pool.shutdown(wait=False)
    assert pool.shutdown()
    equal(sorted(done), list(range(100)))
    assert all(f.done() for f in futures)


@case("known fault: a shutdown that does not wait for running tasks")
def _():
    pool = BlockingExecutor(1)
    gate = Gate(pool, 1)
    assert pool.shutdown(timeout_secs=0.01) is False
    assert pool.shutdown(timeout_secs=0) is False
    assert pool.shutdown(wait=False) is False
    equal(pool.active_threads(), 1)
    thread, results = in_thread(pool.shutdown, True, None)
    second, more = in_thread(pool.shutdown, True, float("inf"))
    gate.opened.set()
    thread.join()
    second.join()
    equal((results, more), ([True], [True]))
    equal(pool.active_threads(), 0)
    assert gate.futures[0].done()
    assert pool.shutdown() and pool.shutdown(wait=False)


@case("known fault: nested run_sync, map and run_parallel on a full pool")
def _():
    for threads, queue in (1, 0), (1, 1), (2, 1), (3, 2):
        with BlockingExecutor(threads, queue) as pool:

            def fibonacci(n):
                if n < 2:
                    return n
                return pool.run_sync(fibonacci, n - 1) + sum(pool.map(fibonacci, [n - 2]))

            def nest(depth):
                if depth == 0:
                    return 1
                return sum(pool.run_parallel([(nest, (depth - 1,))] * 3))

            equal(pool.run_sync(fibonacci, 10), 55)
            equal(pool.map(fibonacci, range(8), chunk_size=1), [0, 1, 1, 2, 3, 5, 8, 13])
            equal(pool.run_sync(nest, 4), 81)
            equal([t.join() or r for t, r in [in_thread(pool.run_sync, nest, 3) for _ in range(6)]], [[27]] * 6)
            # submit() into one's own full queue runs at once
            equal(pool.run_sync(lambda: len([pool.submit(identity, 1) for _ in range(50)])), 50)
            raises(ZeroDivisionError, pool.run_sync, lambda: pool.run_sync(lambda: 1 / 0))


def interrupted(call, *args, holds, after=None):
    """The call, of which the main thread hears Ctrl-C."""
    heard = threading.Event()
    thread = interrupt_when(holds, heard)
    begin = time.monotonic()
    raises(KeyboardInterrupt, call, *args)
    heard.set()
    taken = time.monotonic() - begin
    thread.join()
    assert taken < 20, taken


@case("known fault: Ctrl-C while the main thread waits")
def _():
    for wait in (
        lambda pool, gate: pool.run_sync(gate.wait),
        lambda pool, gate: pool.map(gate.wait, [1, 2]),
        lambda pool, gate: pool.run_parallel([(gate.wait,)] * 2),
        lambda pool, gate: pool.submit(gate.wait).result(),
        lambda pool, gate: [pool.submit(gate.wait) for _ in range(5)],
        lambda pool, gate: [pool.submit(gate.wait), pool.shutdown()],
        lambda pool, gate: [pool.submit(gate.wait), pool.shutdown(timeout_secs=None)],
        lambda pool, gate: asyncio.run(pool.arun(gate.wait)),
    ):
        with Gate() as gate, BlockingExecutor(1, 1) as pool:
            interrupted(wait, pool, gate, holds=lambda: gate.entered.acquire(timeout=0.01))
            gate.opened.set()


@case("Ctrl-C while an initializer takes long; the threads end by themselves")
def _():
    with Gate() as gate:
        interrupted(
            lambda: BlockingExecutor(2, initializer=gate.wait),
            holds=lambda: gate.entered.acquire(timeout=0.01),
        )
        gate.opened.set()
    with BlockingExecutor(1) as pool:
        equal(pool.run_sync(identity, 1), 1)


@case("Ctrl-C just before the wait begins is heard too; a handler that does not raise changes nothing")
def _():
    with BlockingExecutor(1) as pool:
        with Gate(pool, 1) as gate:
            heard = []
            before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
            try:
                thread = interrupt_when(lambda: pool.pending_tasks())
                thread2, _ = in_thread(lambda: (wait_for(lambda: heard), gate.opened.set()))
                equal(pool.run_sync(identity, 3), 3)
                thread.join()
                thread2.join()
            finally:
                signal.signal(signal.SIGINT, before)
        with Gate() as gate:  # one that came to another thread does not end the main thread's sleep
            thread, _ = in_thread(
                lambda: (
                    gate.entered.acquire(),
                    wait_for(lambda: sleeps(os.getpid())),
                    signal.pthread_kill(threading.get_ident(), signal.SIGINT),
                )
            )
            raises(KeyboardInterrupt, pool.run_sync, gate.wait)
            gate.opened.set()
            thread.join()
        for _ in range(20):
            with Gate() as gate:
                go = threading.Event()
                interrupted(lambda: (go.set(), pool.run_sync(gate.wait)), holds=go.is_set)
                gate.opened.set()


@case("what is waited for no more does not run if it has not begun")
def _():
    ran = []
    with BlockingExecutor(1) as pool:
        with Gate(pool, 1):
            interrupted(pool.run_sync, ran.append, 1, holds=lambda: pool.pending_tasks() == 1)
            equal(pool.pending_tasks(), 0)
            interrupted(pool.map, ran.append, range(8), holds=lambda: pool.pending_tasks() == 4)
            interrupted(pool.run_parallel, [(ran.append, (1,))] * 3, holds=lambda: pool.pending_tasks() == 3)
        equal(pool.run_sync(len, ran), 0)
        equal(pool.stats()["cancelled"], 8)
        # of a chunk that has begun the next item does not
        entered = threading.Event()

        def item(x):
            ran.append(x)
            entered.set()
            gate.wait()

        with Gate() as gate:
            interrupted(pool.map, item, range(100), 100, holds=entered.is_set)
        equal(pool.run_sync(len, ran), 1)


@case("known fault: the race for the default executor")
def _():
    before = set_default_executor(None)
    barrier = threading.Barrier(8)

    def ask():
        barrier.wait()
        return get_default_executor()

    try:
        for _ in range(20):
            threads = [in_thread(ask) for _ in range(8)]
            found = {id(results[0]) for t, results in threads if t.join() is None}
            equal(len(found), 1)
            assert set_default_executor(None).shutdown()
    finally:
        set_default_executor(before)


@case("a signal handler may ask for the default executor while it is made")
def _():
    clean(
        """
import erlang.blocking as b
found = []
signal.signal(signal.SIGUSR2, lambda *_: found.append(get_default_executor()))
make = b.BlockingExecutor.__init__
def slow(self, *args, **kwargs):
    make(self, *args, **kwargs)
    if not found:
        found.append(None)
        os.kill(os.getpid(), signal.SIGUSR2)
        time.sleep(0)
b.BlockingExecutor.__init__ = slow
print(get_default_executor() is get_default_executor() is found[1], found[1].is_running())
""",
        "True True\n",
    )


def switches(tids):
    total = 0
    for tid in tids:
        with open(f"/proc/self/task/{tid}/status") as f:
            total += sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
    return total


@case("known fault: idle threads wake up")
def _():
    tids = []
    with BlockingExecutor(8, initializer=lambda: tids.append(threading.get_native_id())) as pool:
        pool.map(time.sleep, [0.001] * 64)
        pool.run_sync(identity, 1)
        equal(len(tids), 8)
        wait_for(lambda: all(map(sleeps, tids)))
        time.sleep(0.01)
        before = switches(tids)
        time.sleep(1)
        equal(switches(tids) - before, 0)


@case("a result does not wait for the tasks behind it")
def _():
    with BlockingExecutor(1) as pool, Gate() as gate:
        with Gate(pool, 1):
            thread, results = in_thread(pool.run_sync, identity, 5)
            wait_for(lambda: pool.pending_tasks() == 1)
            pool.submit(gate.wait)
        thread.join(20)
        equal(results, [5])


@case("the task's own exception arrives, with its traceback, cause and notes")
def _():
    own = ValueError("own")
    cause = KeyError("cause")

    def inner():
        raise own from cause

    with BlockingExecutor(2) as pool:
        for call in (
            lambda: pool.run_sync(inner),
            lambda: pool.submit(inner).result(),
            lambda: pool.run_parallel([(list,), (inner,)]),
            lambda: pool.map(lambda _: inner(), [1]),
            lambda: asyncio.run(pool.arun(inner)),
            lambda: asyncio.run(pool.amap(lambda _: inner(), [1])),
            lambda: blocking(executor=pool)(inner)(),
        ):
            own.__traceback__ = None
            e = raises(ValueError, call)
            assert e is own and e.__cause__ is cause
            names, tb = [], e.__traceback__
            while tb:
                names.append(tb.tb_frame.f_code.co_name)
                tb = tb.tb_next
            equal(names[-1], "inner")
            assert "<lambda>" in names or "raises" in names, names
        assert not hasattr(own, "__notes__"), own.__notes__


@case("BaseExceptions of a task are its caller's")
def _():
    with BlockingExecutor(1) as pool:
        for kind in SystemExit, KeyboardInterrupt, GeneratorExit, BaseException:
            raises(kind, pool.run_sync, fail, kind)
            raises(kind, pool.submit(fail, kind).result)
            raises(kind, pool.map, fail, [kind])
            raises(kind, pool.run_parallel, [(fail, (kind,))])
        equal(pool.run_sync(identity, 1), 1)
        equal(pool.active_threads(), 1)


@case("run_parallel and map wait for all, then raise the first by index, with notes on the others")
def _():
    done = []

    def work(i):
        done.append(i)
        if i in (0, 9):
            time.sleep(0.02)  # the first to be raised is not the first to come
        if i % 3 == 0:
            raise ValueError(f"number {i}")
        return i

    with BlockingExecutor(4) as pool:
        for what, call in (
            ("item", lambda: pool.map(work, range(10), chunk_size=1)),
            ("item", lambda: pool.map(work, range(10), chunk_size=4)),
            ("item", lambda: asyncio.run(pool.amap(work, range(10), 3))),
            ("task", lambda: pool.run_parallel([(work, (i,)) for i in range(10)])),
        ):
            done.clear()
            e = raises(ValueError, call)
            equal(sorted(done), list(range(10)))
            equal(str(e), "number 0")
            equal(e.__notes__, [f"{what} {i} failed, too: ValueError: number {i}" for i in (3, 6, 9)])
        e = raises(ValueError, pool.map, work, [3] * 100)
        equal(len(e.__notes__), 17)
        equal(e.__notes__[-1], "and 83 more")
        e = raises(ValueError, asyncio.run, pool.amap(work, [3] * 100))
        equal(e.__notes__[-1], "and 83 more")

        class Bad(Exception):
            def __str__(self):
                raise RuntimeError("no text")

        raises(ValueError, pool.run_parallel, [(fail,), (fail, (Bad,)), (fail,)])


@case("context variables travel with the task")
def _():
    var = contextvars.ContextVar("var", default="none")

    def look(*_):
        value = var.get()
        var.set("changed in the pool")
        return value

    with BlockingExecutor(1) as pool:
        var.set("mine")
        equal(pool.run_sync(look), "mine")
        equal(pool.submit(look).result(), "mine")
        equal(pool.map(look, [1]), ["mine"])
        equal(pool.run_parallel([(look,), (look,)]), ["mine", "mine"])
        equal(pool.run_sync(lambda: pool.run_sync(look)), "mine")
        equal(asyncio.run(pool.arun(look)), "mine")
        equal(asyncio.run(pool.amap(look, [1])), ["mine"])
        equal(var.get(), "mine")
        equal(contextvars.Context().run(pool.run_sync, look), "none")


@case("arun and amap with a full queue neither fail nor stop the loop")
def _():
    with BlockingExecutor(1, 1) as pool:

        async def main():
            with Gate(pool, 1) as gate:
                pool.submit(identity, 1)
                work = asyncio.gather(
                    *(pool.arun(identity, i) for i in range(100)), pool.amap(identity, range(100), 1)
                )
                for _ in range(10):
                    await asyncio.sleep(0)
                raises(QueueFull, pool.try_submit, identity, 1)
                assert not work.done()
                gate.opened.set()
                return await work

        equal(asyncio.run(main()), [*range(100), list(range(100))])


@case("a coroutine that is cancelled cancels its call")
def _():
    ran = []
    with BlockingExecutor(1) as pool:

        async def main():
            with Gate(pool, 1):
                for work in pool.arun(ran.append, 1), pool.amap(ran.append, range(5), 1):
                    task = asyncio.ensure_future(work)
                    await asyncio.sleep(0)
                    task.cancel()
                    try:
                        await task
                    except asyncio.CancelledError:
                        continue
                    raise AssertionError("not cancelled")

        asyncio.run(main())
        equal(pool.run_sync(len, ran), 0)
        equal(pool.stats()["cancelled"], 6)


@case("shutdown with cancel_futures: what is queued is cancelled, once, and what runs goes on")
def _():
    pool = BlockingExecutor(1)
    called = []
    with Gate(pool, 1) as gate:
        futures = [pool.submit(identity, i) for i in range(10)]
        futures[3].cancel()
        for future in futures:
            future.add_done_callback(called.append)
        waiter, results = in_thread(concurrent.futures.wait, futures)
        caller, raised = in_thread(pool.run_sync, identity, 1)
        batch, raised_too = in_thread(pool.map, identity, range(10))
        wait_for(lambda: pool.pending_tasks() == 15)
        assert pool.shutdown(wait=False, cancel_futures=True) is False
        waiter.join(20)
        caller.join(20)
        batch.join(20)
        equal(len(results[0].done), 10)
        assert all(f.cancelled() for f in futures)
        equal(sorted(map(id, called)), sorted(map(id, futures)))
        equal(pool.pending_tasks(), 0)
        assert isinstance(raised[0], concurrent.futures.CancelledError), raised
        assert isinstance(raised_too[0], concurrent.futures.CancelledError), raised_too
        assert not gate.futures[0].done()
    assert pool.shutdown()
    assert gate.futures[0].done() and not gate.futures[0].cancelled()
    raises(concurrent.futures.CancelledError, futures[0].result)


@case("Ctrl-C while the futures are cancelled: all of them are, and it is heard")
def _():
    pool = BlockingExecutor(1)
    with Gate(pool, 1):
        futures = [pool.submit(identity, i) for i in range(5)]
        futures[1].add_done_callback(lambda _: signal.raise_signal(signal.SIGINT))
        raises(KeyboardInterrupt, pool.shutdown, cancel_futures=True)
        assert all(f.cancelled() for f in futures)
        equal(len(concurrent.futures.wait(futures, 10).done), 5)
    assert pool.shutdown()


@case("calls after the shutdown raise RuntimeError")
def _():
    pool = BlockingExecutor(1)
    assert pool.shutdown()
    for call in (
        lambda: pool.run_sync(identity, 1),
        lambda: pool.submit(identity, 1),
        lambda: pool.try_submit(identity, 1),
        lambda: pool.map(identity, []),
        lambda: list(pool.map(identity, [1], timeout=1)),
        lambda: pool.run_parallel([]),
        lambda: asyncio.run(pool.arun(identity, 1)),
        lambda: asyncio.run(pool.amap(identity, [])),
        lambda: blocking(executor=pool)(identity)(1),
    ):
        equal(str(raises(RuntimeError, call)), SHUT_DOWN)


@case("who waits for room learns of the shutdown")
def _():
    pool = BlockingExecutor(1, 1)
    with Gate(pool, 1):
        pool.submit(identity, 1)
        waiting = [in_thread(call, identity, [1]) for call in (pool.submit, pool.run_sync, pool.map)]
        time.sleep(0.01)
        pool.shutdown(wait=False)
        for thread, results in waiting:
            thread.join(20)
            equal(str(results[0]), SHUT_DOWN)


@case("a shutdown by a thread of the pool does not wait for itself")
def _():
    pool = BlockingExecutor(2)
    equal(pool.run_sync(pool.shutdown), False)
    assert pool.shutdown()
    pool = BlockingExecutor(1)

    def end():
        with pool:
            return 5

    equal(pool.run_sync(end), 5)
    assert pool.shutdown()


@case("what a callback queues during the shutdown is refused, and told")
def _():
    pool = BlockingExecutor(1)
    refused = []

    def again(_):
        try:
            pool.submit(identity, 2)
        except RuntimeError as e:
            refused.append(str(e))

    with Gate(pool, 1):
        future = pool.submit(identity, 1)
        future.add_done_callback(again)
        pool.shutdown(wait=False)
    assert pool.shutdown()
    equal(refused, [SHUT_DOWN])
    equal(future.result(), 1)


@case("a context manager waits for all, also when its body raises")
def _():
    done = []

    def body():
        with BlockingExecutor(1) as pool:
            pool.submit(time.sleep, 0.02)
            pool.submit(done.append, 1)
            raise KeyError("body")

    raises(KeyError, body)
    equal(done, [1])


@case("a pool that is dropped without a shutdown runs what is queued; its threads end")
def _():
    before = len(os.listdir("/proc/self/task"))
    done = []
    pool = BlockingExecutor(2)
    futures = [pool.submit(done.append, i) for i in range(100)]
    weak = weakref.ref(pool)
    del pool
    equal(weak(), None)
    equal(len(concurrent.futures.wait(futures, tap.LIMIT).done), 100)
    wait_for(lambda: len(os.listdir("/proc/self/task")) == before)
    pool = BlockingExecutor(1)  # by its own thread, as the last
    cell = [pool]
    del pool
    future = cell[0].submit(lambda: (time.sleep(0.01), gc.collect()))
    cell.clear()
    future.result()
    wait_for(lambda: len(os.listdir("/proc/self/task")) == before)
    pool = BlockingExecutor(1)  # in a cycle
    pool.me = pool
    pool.submit(identity, pool)
    del pool
    wait_for(lambda: gc.collect() >= 0 and len(os.listdir("/proc/self/task")) == before)


@case("interpreter exit with a live pool: what is queued is run")
def _():
    clean("pool = BlockingExecutor(2)\n[pool.submit(print, i) for i in range(1)]", "0\n")
    clean(
        """
pool = BlockingExecutor(1)
for i in range(3):
    pool.submit(lambda i=i: (time.sleep(0.05), print(i)))
""",
        "0\n1\n2\n",
    )
    clean("pool = BlockingExecutor(1)\npool.submit(print, 1)\nsys.exit(0)", "1\n")
    clean("print(blocking_run(pow, 2, 3))", "8\n")


@case("interpreter exit with a pool that was dropped: what is queued is run")
def _():
    clean("BlockingExecutor(1).submit(lambda: (time.sleep(0.1), print(1)))", "1\n")


@case("interpreter exit with threads that still submit, and a pool made too late")
def _():
    clean(
        """
import atexit
pool = BlockingExecutor(1)
def late():
    time.sleep(0.05)
    print(pool.run_sync(pow, 2, 3))
threading.Thread(target=late).start()
""",
        "8\n",
    )
    clean(
        """
import atexit, erlang.blocking
def late():
    try:
        BlockingExecutor(1)
    except RuntimeError as e:
        print(e)
atexit.unregister(erlang.blocking._shutdown_all)
atexit.register(late)
atexit.register(erlang.blocking._shutdown_all)
""",
        "cannot make a BlockingExecutor at interpreter shutdown\n",
    )


@case("a node without a script that is told to go runs what is queued in its pools")
def _():
    with tempfile.TemporaryDirectory(dir=os.environ["PY_TMP"]) as directory:
        with open(os.path.join(directory, "loaded.py"), "w") as f:
            f.write(
                "from erlang.blocking import *\nimport time\npool = BlockingExecutor(1)\n"
                "for i in range(3):\n    pool.submit(lambda i=i: (time.sleep(0.2), print(i, flush=True)))\n"
                "idle = BlockingExecutor(3)\n"
            )
        node = subprocess.Popen(
            [os.environ["PYNODE"], "--name", f"go{os.urandom(4).hex()}@127.0.0.1", "--path", directory]
            + ["--import", "loaded"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        for line in node.stderr:
            if "ready:" in line:
                break
        node.terminate()
        output, _ = node.communicate(timeout=tap.LIMIT)
        equal((node.returncode, output), (0, "0\n1\n2\n"))


@case("after a fork the pool says so; the default executor is another one; the child ends")
def _():
    clean(
        """
pool = BlockingExecutor(2)
default = get_default_executor()
pool.run_sync(pow, 2, 3)
def child():
    for call in (lambda: pool.run_sync(pow, 2, 3), lambda: pool.submit(pow, 2, 3), pool.stats,
                 pool.shutdown, pool.active_threads, lambda: pool.map(abs, [1])):
        try:
            print("got", call())
        except RuntimeError as e:
            assert "before fork()" in str(e), e
    assert not pool.is_running()
    assert repr(pool)
    assert get_default_executor() is not default
    print(blocking_run(pow, 2, 4), flush=True)
import warnings
warnings.simplefilter("ignore")
pid = os.fork()
if pid == 0:
    status = 1
    try:
        child()
        status = 0
    finally:
        import erlang.blocking
        erlang.blocking._shutdown_all()
        pool = default = None
        os._exit(status)
assert os.waitpid(pid, 0)[1] == 0
print(pool.run_sync(pow, 2, 5), blocking_run(pow, 2, 6))
""",
        "16\n32 64\n",
    )


@case("a task that forks: the child does not go on with the queue")
def _():
    clean(
        """
import warnings
warnings.simplefilter("ignore")
pool = BlockingExecutor(1)
begin = threading.Event()
def forks():
    begin.wait()
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return pid
first = pool.submit(forks)
rest = [pool.submit(print, i, flush=True) for i in range(3)]
begin.set()
assert first.result() > 0
""",
        "0\n1\n2\n",
    )


@case("a program that a task starts hears signals")
def _():
    with BlockingExecutor(1) as pool:
        equal(pool.run_sync(signal.pthread_sigmask, signal.SIG_BLOCK, []), set())
        process = pool.run_sync(subprocess.Popen, ["sleep", "60"])
        process.terminate()
        equal(process.wait(20), -signal.SIGTERM)


@case("a pool is not copied, not pickled, not begun twice; one that was never begun says so")
def _():
    with BlockingExecutor(1) as pool:
        raises(TypeError, copy.copy, pool)
        raises(TypeError, pickle.dumps, pool)
        raises(RuntimeError, pool.__init__, 1, text="once")
        equal(pool.run_sync(identity, 1), 1)

    class Unmade(BlockingExecutor):
        def __init__(self):
            pass

    unmade = Unmade()
    assert "shut down" in repr(unmade)
    for call in unmade.shutdown, unmade.stats, lambda: unmade.submit(identity):
        raises(RuntimeError, call, text="__init__")

    class Mine(BlockingExecutor):
        def run_twice(self, fn):
            return self.run_sync(fn), self.run_sync(fn)

    with Mine(max_threads=1) as pool:
        equal(pool.run_twice(list), ([], []))
        weak = weakref.ref(pool)
    del pool
    equal(weak(), None)


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


# --- no leaks -------------------------------------------------------------------------------


def resident_kib():
    if hasattr(ctypes.CDLL(None), "__asan_init"):
        raise tap.Skip("AddressSanitizer keeps memory")
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


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

        work(20000)
        pool.run_sync(gc.collect)
        counts, memory = [sys.getrefcount(x) for x in (thing, function, None.__class__)], resident_kib()
        work(80000)
        wait_for(lambda: pool.stats()["queued"] == pool.stats()["running"] == 0)
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


if __name__ == "__main__":
    faulthandler.dump_traceback_later(170, exit=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    words = sys.argv[1:]
    tap.run((n, c) for n, c in CASES if not words or any(w in n for w in words))
    faulthandler.cancel_dump_traceback_later()
