"""test_blocking_waits - erlang.blocking: who waits, for what, and what comes of it."""

import asyncio
import contextvars
import os
import signal
import threading
import time

import pools
import tap
from pools import (
    Gate,
    beats,
    case,
    clean,
    fail,
    identity,
    in_thread,
    interrupt_when,
    interrupted,
    sleeps,
    switches,
)
from tap import equal, raises, wait_for

from erlang.blocking import (
    BlockingExecutor,
    QueueFull,
    blocking,
    get_default_executor,
    set_default_executor,
)


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


pools.main()
