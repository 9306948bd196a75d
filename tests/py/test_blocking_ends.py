"""test_blocking_ends - erlang.blocking: shutdown, exit, fork, and pools that are dropped."""

import asyncio
import concurrent.futures
import copy
import gc
import os
import pickle
import signal
import subprocess
import tempfile
import threading
import time
import weakref

import pools
import tap
from pools import SHUT_DOWN, Gate, case, clean, identity, in_thread, script
from tap import equal, raises, wait_for

import erlang.blocking
from erlang.blocking import BlockingExecutor, blocking, blocking_run, get_default_executor


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


pools.main()
