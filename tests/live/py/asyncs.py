"""Coroutines that call Erlang, for live tests: what each got. `kind` says which event loop runs them."""

import asyncio
import gc
import importlib.util
import os
import select
import sys
import threading

import _erlang
import box
import erlang
from callers import at_once, in_thread


def loops():
    """The kinds of event loop that there are."""
    return ["asyncio"] + ["uvloop"] * bool(importlib.util.find_spec("uvloop"))


def _new_loop(kind):
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def run(kind, coro):
    """As asyncio.run()."""
    with asyncio.Runner(loop_factory=lambda: _new_loop(kind)) as runner:
        return runner.run(coro)


async def outcome(awaitable):
    """("ok", value), or the exception's name and text."""
    try:
        return "ok", await awaitable
    except BaseException as e:
        return type(e).__name__, str(e)


def waiting():
    """How many calls of the running loop have not ended."""
    return _erlang._sink(asyncio.get_running_loop()).waiting()


# What users do.


def call(kind, name, *args, **kwargs):
    """The outcome of one call."""
    return run(kind, outcome(erlang.async_call(name, *args, **kwargs)))


def call_timeout(kind, name, *args):
    """A call whose last argument is its time limit."""
    return call(kind, name, *args[:-1], timeout=args[-1])


def call_node(kind, name, node):
    """A call to that node."""
    return call(kind, name, node=node)


def evaluated(kind, code):
    """The outcome of an awaitable expression."""

    async def main():
        return await eval(code, {"erlang": erlang, "call": erlang.async_call})

    return run(kind, outcome(main()))


def three(kind):
    """Three at once, each of another function."""

    async def main():
        call = erlang.async_call
        return await asyncio.gather(call("add_one", 1), call("double_it", 4), call("lists:reverse", [1, 2, 3]))

    return run(kind, main())


def group(kind, n):
    """Tasks of a TaskGroup, and others that wait for theirs with asyncio.wait and as_completed."""

    async def main():
        async with asyncio.TaskGroup() as tasks:
            made = [tasks.create_task(erlang.async_call("tag", i)) for i in range(n)]
        done, _ = await asyncio.wait([asyncio.ensure_future(erlang.async_call("tag", i)) for i in range(n)])
        first = [await c for c in asyncio.as_completed([erlang.async_call("tag", i) for i in range(n)])]
        return [t.result() for t in made], sorted(t.result() for t in done), sorted(first)

    return run(kind, main())


def chain(kind, n):
    """One after another, each with what the one before gave."""

    async def main():
        value = 0
        for _ in range(n):
            value = await erlang.async_call("add_one", value)
        return value

    return run(kind, main())


def gathered(kind, n, rounds=1):
    """How many answers were another call's, of n calls at once, and what is left."""

    async def main():
        wrong = 0
        for r in range(rounds):
            values = await asyncio.gather(*(erlang.async_call("tag", (r, i)) for i in range(n)))
            wrong += sum(value != (r, i) for i, value in enumerate(values))
        return wrong, waiting()

    return run(kind, main())


def in_threads(n, calls, rounds):
    """The same in n threads at once, each with a loop of its own."""
    kinds = loops()
    return at_once(n, lambda i: gathered(kinds[i % len(kinds)], calls, rounds))


def on_node_loop(calls):
    """The same on the node's own loop, together with calls of other loops."""

    async def main():
        return await asyncio.gather(*(erlang.async_call("tag", i) for i in range(calls)))

    values = erlang.run(main())
    return sum(value != i for i, value in enumerate(values)), gathered("asyncio", calls), erlang.run(main()) == values


async def task_nodes():
    """Of a task of Erlang's: which VM answers it, and what it has made."""

    async def in_group():
        async with asyncio.TaskGroup() as tasks:
            made = tasks.create_task(erlang.async_call("node"))
        return made.result()

    here = await erlang.async_call("node")
    return [here, *await asyncio.gather(erlang.async_call("node"), in_group()), await asyncio.to_thread(erlang.call, "node")]


async def task_waits(name):
    """A task of Erlang's that waits for a call, and calls once more when it is cancelled."""
    try:
        await asyncio.gather(erlang.async_call(name), erlang.async_call(name))
    finally:
        box.put("task_waits", await erlang.async_call("add_one", 1))


def down(kind, n):
    """Python and Erlang call each other n times."""

    async def main():
        return 1 + await erlang.async_call("down", kind, n - 1)

    return run(kind, main()) if n else 0


def errors(kind, names):
    """What a coroutine sees of functions that fail."""

    async def one(name):
        try:
            return await erlang.async_call(name)
        except RuntimeError as e:
            return type(e).__name__, e.error_class, e.reason, list(e.stacktrace), str(e)

    async def main():
        return await asyncio.gather(*map(one, names))

    return run(kind, main())


def caught(kind, n):
    """What code that catches everything sees of n calls that go well: it passes on all that it catches."""
    seen = []

    async def middleware(call, *args):
        try:
            return await call(*args)
        except BaseException as e:
            seen.append(repr(e))
            raise

    async def endpoint(i):
        return await middleware(erlang.async_call, "tag", i)

    async def main():
        return await asyncio.gather(*(middleware(endpoint, i) for i in range(n)))

    return run(kind, main()) == list(range(n)), seen


def echo_big(kind, n, size):
    """n calls at once with bytes of that size: whether each got its own back."""

    async def one(i):
        data = os.urandom(1024) * (size // 1024)
        return await erlang.async_call("tag", data) == data

    async def main():
        return await asyncio.gather(*map(one, range(n)))

    return run(kind, main())


def mixed(kind, n):
    """Calls that go well and calls whose arguments or answers have no form, all at once."""

    async def one(i):
        if i % 3 == 1:
            return await outcome(erlang.async_call("improper"))
        return await outcome(erlang.async_call("tag", i if i % 3 else object()))

    async def main():
        return await asyncio.gather(*map(one, range(n)))

    return run(kind, main())


def interrupted(n):
    """A signal's handler raises while answers are handed out: the loop ends, and no other answer is lost."""

    class Future(asyncio.Future):
        def set_result(self, value):
            if value == n // 2:
                raise KeyboardInterrupt
            if value == n // 3:
                raise ValueError("which is nobody's")
            super().set_result(value)

    class Loop(asyncio.SelectorEventLoop):
        def create_future(self):
            return Future(loop=self)

    async def main():
        for i in range(n):
            made.append(asyncio.create_task(erlang.async_call("tag", i)))
        await asyncio.wait(made)

    made, unraisable = [], []
    hook, sys.unraisablehook = sys.unraisablehook, lambda args: unraisable.append(repr(args.exc_value))
    loop, ended = Loop(), None
    try:
        loop.run_until_complete(main())
    except KeyboardInterrupt:
        ended = "KeyboardInterrupt"
    try:
        loop.run_until_complete(asyncio.wait(made, timeout=0.5))
    finally:
        sys.unraisablehook = hook
    done = sum(task.done() and task.result() == i for i, task in enumerate(made))
    for task in made:
        task.cancel()
    loop.run_until_complete(asyncio.wait(made))
    loop.close()
    return ended, n - done, unraisable


# Who gives up.


async def _begun(n):
    """So many calls that never end have begun."""
    while await erlang.async_call("begun") < n:
        await asyncio.sleep(0.001)


def timed_out(kind, name):
    """wait_for, the time limit, a task that is cancelled, a coroutine that is closed: of calls that never end."""

    async def main():
        tasks = [asyncio.create_task(erlang.async_call(name, timeout=limit)) for limit in (None, 1.0, None)]
        await _begun(3)
        got = [(await outcome(awaitable))[0] for awaitable in (asyncio.wait_for(tasks[0], 0.05), tasks[1])]
        tasks[2].cancel()
        got.append((await outcome(tasks[2]))[0])
        coro = erlang.async_call(name)
        coro.send(None)
        coro.close()
        got.append(waiting())
        return got, await erlang.async_call("add_one", 1)

    return run(kind, main())


def cancelled_early(kind, n):
    """Calls that are cancelled before, while and after they are sent and answered: those that were not are right."""

    async def one(i):
        task = asyncio.create_task(erlang.async_call("tag", i))
        for _ in range(i % 7):
            await asyncio.sleep(0)
        if i % 2:
            task.cancel()
        return (await outcome(task)) in (("ok", i), ("CancelledError", "") if i % 2 else ("ok", i))

    async def main():
        right = await asyncio.gather(*map(one, range(n)))
        return sum(not r for r in right), waiting()

    return run(kind, main())


def abandoned(kind, name, n, close):
    """A loop with n calls that never end is closed, or just let go."""
    loop = _new_loop(kind)

    async def main():
        tasks = [asyncio.create_task(erlang.async_call(name)) for _ in range(n)]
        await _begun(n)
        return await erlang.async_call("add_one", 1), tasks

    loop.set_exception_handler(lambda *_: None)  # that tasks are destroyed is what is wanted here
    value = loop.run_until_complete(main())[0]
    if close:
        loop.close()
    del loop
    gc.collect()
    return value


def waits_for(kind, name):
    """A call that does not end, of a task that cleans up."""

    async def main():
        try:
            await erlang.async_call(name)
        finally:
            box.put("waits_for", "cleaned up")

    run(kind, main())


def descriptors(kind, n):
    """How many descriptors there are after one loop that has called, and after n more."""

    async def main():
        await erlang.async_call("tag", 1)

    def count(times):
        for _ in range(times):
            run(kind, main())
        return len(os.listdir("/proc/self/fd"))

    return [in_thread(count, i)[1] for i in (1, n)]


def modules():
    """Whether asyncio is loaded, in a node that has done nothing."""
    return "asyncio" in sys.modules


# What goes away.


def storm(key, kind, n):
    """In a thread: n calls that never end; when all have ended calls go on until there is an answer."""

    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1
                box.put(key + "_ticks", ticks)

        ticking = asyncio.create_task(tick())
        got = await asyncio.gather(*(outcome(erlang.async_call("never", i)) for i in range(n)))
        box.put(key + "_ended", sorted({kind for kind, _ in got} | {text for _, text in got}))
        while (back := await outcome(erlang.async_call("tag", "back")))[0] != "ok":
            if back[0] != "ErlangError":
                break
            await asyncio.sleep(0.05)
        box.put(key + "_back", (*back, waiting()))
        ticking.cancel()

    threading.Thread(target=run, args=(kind, main()), daemon=True).start()


def forked(kind):
    """A fork while a call is under way: what the child sees of erlang, and that the call goes on."""
    out, into = os.pipe()
    loop = _new_loop(kind)
    task = loop.create_task(erlang.async_call("slow", 1))
    loop.run_until_complete(asyncio.sleep(0.01))
    child = os.fork()
    if child == 0:
        os.close(out)
        text = repr((await_now(task), call("asyncio", "add_one", 1)))
        del task
        _part(kind, loop)
        loop.close()
        del loop
        gc.collect()
        os.write(into, text.encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    erlang.call("go_on")
    value = loop.run_until_complete(task)
    loop.close()
    return text, status, value


def _part(kind, loop):
    """In a fork: gives uvloop an epoll of its own. In the one that it has inherited, and that the parent
    goes on with, its close() would end the watching of descriptors for both."""
    if kind == "uvloop":
        with select.epoll() as own:
            os.dup2(own.fileno(), loop._get_backend_id())


def await_now(task):
    """Cancels a task of a loop that does not run."""
    return task.cancel()
