"""Uses of erlang.cluster.Executor, for live tests: what each gave. They run in a node of their own."""

import asyncio
import builtins
import concurrent.futures
import functools
import gc
import io
import os
import pickle
import sys
import threading
import time
import types

import asyncs
import box
import erlang
import pooled
from callers import at_once, outcome
from erlang import _cluster_engine
from erlang import cluster
from erlang.cluster import Executor


def nodes(**options):
    """An executor of the two workers."""
    return Executor(node="w", **options)


# Tasks and their values.


def basics():
    with nodes() as ex:
        first = ex.submit(pooled.square, 7)
        values = [first.result(10), ex.submit(pooled.same, 1, b=2).result(), ex.submit(len, "abc").result()]
        values += [ex.submit(str.upper, "abc").result(), first.done(), first.running(), first.cancel()]
        mapped = [list(ex.map(pooled.square, items)) for items in ([], range(500))]
        return values, list(ex.map(pow, [2, 3], [4, 5])), *mapped


def spread():
    """The nodes that have run tasks."""
    with nodes() as ex:
        return sorted(set(ex.map(pooled.where, range(200))))


def many(n, seconds):
    """Whether all came in order, and how long it took."""
    with nodes() as ex:
        list(ex.map(pooled.where, range(100)))
        begin = time.perf_counter()
        values = list(ex.map(pooled.work, range(n), [seconds] * n))
        return values == list(range(n)), time.perf_counter() - begin


def forms():
    """Arguments and values as they come: bytes are bytes, terms are terms, the rest is refused."""
    with nodes() as ex:
        given = [b"abc", "abc", [1, (2, None)], {"a": 1}, erlang.Atom("ok"), {1}, b"\xff", 2**70]
        came = [f.result() for f in [ex.submit(pooled.same, value) for value in given]]
        kinds = list(ex.map(pooled.described, given))
        refused = outcome(ex.submit, pooled.same, [1, object()]), outcome(ex.submit, pooled.same, a=object())
        in_map = outcome(lambda: list(ex.map(pooled.same, [1, object()])))
        back = outcome(ex.submit(pooled.no_form, 1).result)
        return [a == b and type(a) is type(b) for a, b in zip(came, given)], kinds, refused, in_map, back


def pickled():
    with nodes(pickle=True) as ex:
        given = [{1, 2}, 3 + 4j, pooled.Custom("x"), b"abc", range(3), float("inf")]
        came = list(ex.map(pooled.same, given))
        refused = outcome(ex.submit, pooled.same, threading.Lock())
        return [type(value).__name__ for value in came], came[0] == given[0], refused


def shipped():
    """Functions that nodes cannot import; None: there is no cloudpickle here."""
    try:
        import cloudpickle  # noqa: F401
    except ImportError:
        return outcome(nodes, ship=True)
    n = 10
    with nodes(ship=True) as ex:
        handle = cluster.put([1, 2, 3])
        return list(ex.map(lambda x: x + n, range(3))), ex.submit(lambda: sum(handle)).result()


def without_cloudpickle():
    before = sys.modules.get("cloudpickle")
    sys.modules["cloudpickle"] = None
    try:
        return outcome(nodes, ship=True)
    finally:
        del sys.modules["cloudpickle"]
        if before:
            sys.modules["cloudpickle"] = before


def names():
    """What cannot be imported is refused, with its name and what to do."""

    def local():
        pass

    main = types.FunctionType(local.__code__, {}, "f")
    main.__module__, main.__qualname__ = "__main__", "f"
    gone = types.FunctionType(local.__code__, {}, "square")
    gone.__module__, gone.__qualname__ = "pooled", "square"
    with nodes() as ex:
        functions = (lambda: 1, local, main, gone, functools.partial(len, ""), io.StringIO().read)
        return [*(outcome(ex.submit, f) for f in functions), outcome(ex.map, lambda x: x, [1])]


# Failures.


def raised():
    """Type, arguments and whether the cause shows the line, of each."""
    got = []
    with nodes() as ex:
        for kind in ("value", "lookup", "file", "unicode", "stop", "exit", "custom"):
            e = ex.submit(pooled.fail, kind).exception()
            cause = str(e.__cause__)
            shown = 'in fail\n' in cause and "_cluster_run" not in cause
            args = [str(a) for a in e.args[:2]] if isinstance(e, cluster.RemoteError) else [str(a) for a in e.args]
            got.append((type(e).__name__, args, shown))
        missing = ex.submit(pooled.square).exception()
        return got, type(missing).__name__


def in_place(bad, n):
    """Whether all before the one that fails came, and what is raised."""
    with nodes() as ex:
        got = []
        try:
            for value in ex.map(pooled.counted, range(n), [bad] * n):
                got.append(value)
        except ValueError as e:
            return got == list(range(bad)), str(e)


def begun(ex, key):
    """Waits until the task has begun, wherever that is."""
    while not ex.submit(box.get, "begun " + key).result():
        time.sleep(0.01)


def timed_out():
    with nodes(timeout=1.0) as ex, nodes() as other:
        late = ex.submit(pooled.never, "late")
        begun(other, "late")
        late = late.exception()
        results = other.map(pooled.never, ["map"], timeout=1.0)
        begun(other, "map")
        in_map = outcome(next, results)
        waiting = other.submit(pooled.never, "waiting")
        begun(other, "waiting")
        not_yet = outcome(waiting.result, 0.05)
        return (
            [type(late).__name__, isinstance(late, builtins.TimeoutError), isinstance(late, erlang.TimeoutError)],
            in_map[0],
            not_yet[0],
            waiting.done(),
            waiting.cancel(),
        )


def cancels(key):
    """A task that runs is cancelled: what the Future says; then one that others keep waiting is."""
    with nodes() as ex:
        future = ex.submit(pooled.never, key)
        box.put("submitted " + key, True)
        box.wait("go " + key, 30)
        said = [future.running(), future.cancel(), future.cancelled(), future.cancel(), outcome(future.result)[0]]
        done = concurrent.futures.wait([future], 10)
        return said, len(done.done), [f.cancelled() for f in concurrent.futures.as_completed([future])]


def cancels_at_once(n):
    """None of them runs for long, whenever it was cancelled."""
    with nodes() as ex:
        futures = [ex.submit(pooled.never, f"at once {i}") for i in range(n)]
        for future in futures:
            future.cancel()
        return [future.cancelled() for future in futures] == [True] * n, ex.submit(pooled.square, 3).result()


def cancels_unseen(n):
    """They are cancelled when they have been taken to be sent, and nothing of that has begun: there is room for others."""
    engine, gate = _cluster_engine.engine(), threading.Event()
    with nodes() as ex:
        ex.submit(pooled.square, 2).result()
        engine.post(gate.wait)
        futures = [ex.submit(pooled.never, f"unseen {i}") for i in range(n)]
        engine.post(lambda: [future.cancel() for future in futures])
        gate.set()
        return ex.submit(pooled.square, 3).result(20)


def bad_options():
    with Executor(node="erlang") as ex, Executor(node="no such name") as other:
        error = ex.submit(pooled.square, 1).exception()
        return (
            (type(error).__name__, getattr(error, "node", None), getattr(error, "progress", None)),
            type(other.submit(pooled.square, 1).exception()).__name__,
            outcome(Executor, timeout=-1)[0],
            outcome(Executor, labels=object())[0],
            outcome(nodes().map, pooled.square, [1], chunksize=0)[0],
        )


def pooled_tasks(pool):
    """The nodes that tasks have run on: of the pool, with a label, with a key, with what there is not."""
    got = []
    for options in ({}, {"labels": {"odd": True}}, {"key": "k", "affinity": "strict"}):
        with Executor(pool, **options) as ex:
            got.append(sorted(set(ex.map(pooled.where, range(100)))))
    for options in ({"labels": {"odd": 7}, "timeout": 0.2}, {"key": 1, "affinity": "no such"}, {"retries": -1}):
        with Executor(pool, **options) as ex:
            got.append(type(ex.submit(pooled.where).exception()).__name__)
    with Executor("no such pool") as ex:
        got.append(type(ex.submit(pooled.where).exception()).__name__)
    return got


def pool_loses_nodes(pool, n):
    """A map that may run its tasks again."""
    with Executor(pool, idempotent=True) as ex:
        return list(ex.map(pooled.work, range(n), [0.005] * n)) == list(range(n))


def pool_poison(pool):
    """A task that takes its node with it."""
    with Executor(pool, idempotent=True, retries=10) as ex:
        return type(ex.submit(pooled.kill_own_node).exception()).__name__


def pool_is_full(pool, n):
    """Tasks that wait for a place no longer than that, and a task that is cancelled while it waits for one."""
    with Executor(pool, queue_timeout=0.3) as ex, Executor(pool) as other:
        holds = [other.submit(pooled.never, f"held {i}") for i in range(n)]
        while len([f for f in holds if f.running()]) < 10:
            time.sleep(0.01)
        late = ex.submit(pooled.where).exception()
        said = [f.cancel() for f in holds]
        return type(late).__name__, said == [True] * n, other.submit(pooled.square, 4).result()


def overloads(n):
    """How many of n tasks at a node with next to no queue were refused, and what else there was."""
    with Executor(node="narrow") as ex:
        errors = [f.exception() for f in [ex.submit(time.sleep, 0.05) for _ in range(n)]]
        refused = [e for e in errors if isinstance(e, cluster.Overloaded)]
        return len(refused), {type(e).__name__ for e in errors} - {"Overloaded", "NoneType"}


def killed(n, victim):
    """A map that loses that one of its nodes: what was raised."""
    ex = nodes()
    try:
        for value in ex.map(pooled.stays_at, [victim] * n, range(n)):
            pass
        return "it went through"
    except cluster.NodeDown as e:
        return type(e).__name__, e.node, e.progress


def squares(n):
    with nodes() as ex:
        return list(ex.map(pooled.square, range(n))) == [x * x for x in range(n)]


def vm_goes():
    """Its VM is killed under a map: what is raised, of tasks that run, and of those that come then."""
    ex = Executor()
    results = ex.map(pooled.never, ["vm"])
    return outcome(next, results), outcome(ex.submit(pooled.square, 1).result)


def squares_here(n):
    """By whatever VM there is."""
    with Executor() as ex:
        return list(ex.map(pooled.square, range(n))) == [x * x for x in range(n)]


def forked():
    """What a fork sees of it while the node has tasks under way: that it cannot, and the tasks go on."""
    out, into = os.pipe()
    ex = nodes()
    ex.submit(pooled.square, 1).result()
    handle = cluster.put([1, 2])
    future = ex.submit(time.sleep, 0.2)
    child = os.fork()
    if child == 0:
        os.close(out)
        text = repr((outcome(Executor), outcome(ex.submit(pooled.square, 1).result), outcome(cluster.put, 1)))
        del handle
        gc.collect()
        os.write(into, text.encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return text, status, future.result(), ex.submit(sum, handle).result()


# Who uses it.


def threads(n, tasks):
    """Threads that share one: each has its own values."""
    with nodes() as ex:

        def use(i):
            mapped = list(ex.map(pooled.same, [(i, k) for k in range(tasks)]))
            single = [f.result() for f in [ex.submit(pooled.same, (i, k)) for k in range(20)]]
            return mapped == [(i, k) for k in range(tasks)] and single == [(i, k) for k in range(20)]

        return at_once(n, use)


def coroutines(kind, n):
    """On an event loop, asyncio's or uvloop's."""

    async def main():
        async with nodes() as ex:
            values = await asyncio.gather(*(ex.asubmit(pooled.square, i) for i in range(n)))
            mapped = [value async for value in ex.amap(pooled.square, range(n))]
            napped = [value async for value in ex.amap(pooled.nap, range(n))]
            plain = await ex.asubmit(pooled.coroutine, 5)
            handle = await cluster.aput([1, 2])
            right = values == mapped == [i * i for i in range(n)], napped == list(range(n))
            return *right, plain, await ex.asubmit(sum, handle)

    return asyncs.run(kind, main())


def coroutine_errors(kind):
    async def main():
        async with nodes() as ex:
            got = []
            try:
                async for value in ex.amap(pooled.counted, range(100), [3] * 100):
                    got.append(value)
            except ValueError as e:
                got.append(str(e))
            late = await asyncs.outcome(anext(ex.amap(pooled.never, ["amap"], timeout=0.1)))
            return got, late[0]

    return asyncs.run(kind, main())


def coroutine_cancelled(kind, key):
    """A coroutine that waits is cancelled: so is the task."""

    async def main():
        async with nodes() as ex:
            task = asyncio.ensure_future(ex.asubmit(pooled.never_async, key))
            while box.get("go " + key) is None:
                await asyncio.sleep(0.01)
            task.cancel()
            return (await asyncs.outcome(task))[0]

    return asyncs.run(kind, main())


def nested(n):
    with nodes() as ex:
        return list(ex.map(pooled.nested, [n] * 8, timeout=50, chunksize=1))


def waits_inside(key):
    """Is cancelled while it waits for a task, and has others."""
    with nodes() as ex:
        ex.map(pooled.never, [key + " of a map"])
        ex.submit(pooled.never, key).result()


def waits_inside_async(kind, key):
    """The same in a coroutine, which does not even wait for the task."""

    async def main():
        async with nodes() as ex:
            ex.submit(pooled.never, key)
            await asyncio.sleep(3600)

    async def cancelled():
        inner = asyncio.ensure_future(main())
        while box.get("go " + key) is None:
            await asyncio.sleep(0.01)
        inner.cancel()
        return (await asyncs.outcome(inner))[0]

    return asyncs.run(kind, cancelled())


def shut(port):
    """What shutdown lets through and what not."""
    ex = nodes()
    running = ex.submit(pooled.at_gate, port, "through")
    waiting = [ex.submit(pooled.never, "shut") for _ in range(200)]
    lazy = ex.map(pooled.never, ["shut"] * 50)
    unsent = [f for f in waiting if not f.running()]
    box.put("unsent", len(unsent))
    box.wait("go shut", 30)
    ex.shutdown(wait=False, cancel_futures=True)
    refused = outcome(ex.submit, pooled.square, 1), outcome(ex.map, pooled.square, [1])
    cancelled = [f.cancelled() for f in waiting if not f.running()]
    for f in waiting:
        f.cancel()
    for_map = outcome(next, lazy)
    lazy.close()
    value = running.result()
    ex.shutdown()
    return refused, len(cancelled) > 100, all(cancelled), for_map[0], value


def threads_of_it():
    """How many threads all this has cost."""
    return [t.name for t in threading.enumerate()].count("erlang-cluster")


def progress(n):
    """What a bar of tqdm's was told, on a terminal and not."""
    told = []

    class tqdm:
        def __init__(self, total):
            told.append(total)

        def update(self, n=1):
            told.append(n)

        def close(self):
            told.append("closed")

    before = sys.modules.get("tqdm"), sys.stderr
    sys.modules["tqdm"] = types.SimpleNamespace(tqdm=tqdm)
    try:
        with nodes() as ex:
            list(ex.map(pooled.square, range(n), progress=True))
            sys.stderr = types.SimpleNamespace(isatty=lambda: True)
            list(ex.map(pooled.square, range(n), progress=True))
            sys.modules["tqdm"] = None
            list(ex.map(pooled.square, range(n), progress=True))
    finally:
        sys.modules.pop("tqdm", None)
        if before[0]:
            sys.modules["tqdm"] = before[0]
        sys.stderr = before[1]
    return told


# Objects.

_kept = {}


def put(name, n):
    """An object of n integers, with a handle that is kept under that name."""
    _kept[name] = cluster.put(list(range(n)))
    return repr(_kept[name])


def use(name, n):
    """So many tasks that want it, from several threads of each node."""
    with nodes() as ex:
        values = set(ex.map(pooled.total, [_kept[name]] * n, chunksize=1))
        mixed = ex.submit(pooled.total, [1], _kept[name], _kept[name]).result()
        in_list = outcome(ex.submit, pooled.total, [_kept[name]])
    with nodes(pickle=True) as ex:
        deep = ex.submit(pooled.same, {"deep": [_kept[name]]}).result()
        return list(values), mixed, in_list[0], len(deep["deep"][0])


def release(name):
    """By hand, twice: the second time is nothing. Then no task gets it."""
    handle = _kept.pop(name)
    handle.release()
    handle.release()
    with nodes() as ex:
        return outcome(ex.submit, pooled.total, handle)


def release_under_way(port, name):
    """A handle that goes while a task that needs it waits: the task has it still."""
    with nodes() as ex:
        waits = [ex.submit(pooled.at_gate, port, None) for _ in range(2)]
        future = ex.submit(pooled.total, cluster.put([1, 2, 3]))
        gc.collect()
        return future.result(), [f.result() for f in waits]


def lost(name):
    """What a task gets whose object is not there any more."""
    with nodes() as ex:
        return outcome(ex.submit(pooled.total, _kept[name]).result)


def drop(name):
    """Nobody has it any more."""
    del _kept[name]
    gc.collect()


def handles_die(n):
    """Handles that the collector finds in the middle of everything."""
    with nodes() as ex:
        for i in range(n):
            ring = [cluster.put(i)]
            ring.append(ring)
            assert ex.submit(pooled.same, ring[0]).result() == i
    del ring
    gc.collect()


# Erlang nodes.


def erlang_nodes():
    return erlang.nodes()


def watches(node, undo):
    """Monitors it, perhaps once less than once; notes what comes."""
    erlang.monitor_node(node)
    if undo:
        erlang.monitor_node(node, False)
    box.put(node, "watching")
    return outcome(erlang.receive, 1 if undo else 20)


def watches_wrong():
    own = str(erlang.nodes()[0])
    return [outcome(erlang.monitor_node, name) for name in (own, "nobody", "@", "a@b@c")]


def not_for_python(function, *args):
    return outcome(erlang.call, f"py_remote:{function}", *args)


def errors_pickle():
    errors = [cluster.NodeDown("a@b", "started"), cluster.Overloaded(erlang.Atom("overloaded"))]
    errors.append(cluster.RemoteError("m.T", "x", "y"))
    copies = [pickle.loads(pickle.dumps(e)) for e in errors]
    return [type(a) is type(b) and str(a) == str(b) for a, b in zip(errors, copies)]
