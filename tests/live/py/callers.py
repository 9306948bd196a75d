"""Python threads that call Erlang, for live tests: what each got."""

import _thread
import asyncio
import gc
import os
import resource
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import box
import erlang


def outcome(function, *args, **kwargs):
    """("ok", value), or the exception's name and text."""
    try:
        return "ok", function(*args, **kwargs)
    except BaseException as e:
        return type(e).__name__, str(e)


def at_once(n, function):
    """Calls function(i) in n new threads that begin together: the outcomes in order."""
    start = threading.Barrier(n)
    outcomes = [None] * n

    def run(i):
        start.wait()
        outcomes[i] = outcome(function, i)

    threads = [threading.Thread(target=run, args=[i]) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return outcomes


def in_thread(function, *args, **kwargs):
    """The outcome of a call in a new thread."""
    return at_once(1, lambda i: function(*args, **kwargs))[0]


def call(name, *args, **kwargs):
    """The outcome of erlang.call in a new thread."""
    return in_thread(erlang.call, name, *args, **kwargs)


def call_here(name, *args, **kwargs):
    """The same in this one."""
    return outcome(erlang.call, name, *args, **kwargs)


# What users do.


def chain():
    """Three calls, each with what the one before gave, in one thread."""

    def worker():
        x = erlang.call("add_one", 0)
        x = erlang.call("add_one", x)
        return erlang.call("add_one", x)

    return in_thread(worker)


def executor_map(workers, n):
    """A pool of threads over n items."""
    with ThreadPoolExecutor(max_workers=workers) as executor:
        return list(executor.map(lambda x: erlang.call("double_it", x), range(n)))


def together(n):
    """A call from each of n threads."""
    return at_once(n, lambda i: erlang.call("add_one", i))


def errors(names):
    """What a thread sees of functions that fail."""

    def run(name):
        try:
            return erlang.call(name)
        except RuntimeError as e:
            return type(e).__name__, e.error_class, e.reason, list(e.stacktrace), str(e)

    return [in_thread(run, name)[1] for name in names]


def raw_thread(name, *args):
    """A call from a thread that threading knows nothing of."""
    done = _thread.allocate_lock()
    got = []
    done.acquire()

    def run():
        got.append(outcome(erlang.call, name, *args))
        done.release()

    _thread.start_new_thread(run, ())
    done.acquire()
    return got[0]


def from_asyncio(n):
    """Calls from the threads of asyncio's executor."""

    async def main():
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(None, erlang.call, "add_one", i) for i in range(n)]
        return await asyncio.gather(*calls, asyncio.to_thread(erlang.call, "add_one", n))

    return asyncio.run(main())


# Which connection and which handler serves.


def handlers_in_turn(n, ending):
    """The handlers of n threads, each of which begins when the one before has ended."""
    hook, threading.excepthook = threading.excepthook, lambda args: None
    got = []

    def run():
        got.append(erlang.call("handler"))
        if ending == "raise":
            raise ValueError("the thread's end")
        if ending == "exit":
            sys.exit(1)

    for _ in range(n):
        if ending == "executor":
            with ThreadPoolExecutor(max_workers=1) as executor:
                got.append(executor.submit(erlang.call, "handler").result())
        else:
            thread = threading.Thread(target=run)
            thread.start()
            thread.join()
    threading.excepthook = hook
    return got


def handlers_at_once(n):
    """The handlers of n threads that all are in their first call."""
    inside = threading.Barrier(n)

    def run(i):
        handler = erlang.call("handler")
        inside.wait()
        return handler

    return at_once(n, run)


def handlers_in_pool(n):
    """The handlers that the n threads of a pool have, each once."""
    inside = threading.Barrier(n)

    def run(i):
        handler = erlang.call("handler")
        inside.wait()
        return handler

    with ThreadPoolExecutor(max_workers=n) as executor:
        return list(executor.map(run, range(n)))


def resources():
    """What this process has: descriptors, threads, KiB of memory."""
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return len(os.listdir("/proc/self/fd")), int(fields["Threads"]), int(fields["VmRSS"].split()[0])


# Many.


def tagged(n, calls):
    """How many answers were another call's, of calls from each of n threads."""

    def run(t):
        tag = erlang.call
        return sum(tag("tag", (t << 32) + i) != (t << 32) + i for i in range(calls))

    return sum(wrong for ok, wrong in at_once(n, run))


def crowd(n):
    """n threads in erlang.call at once, which Erlang lets go when all are there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    before = threading.stack_size(512 * 1024)
    try:
        return [i for i, got in enumerate(at_once(n, lambda i: erlang.call("crowd", i))) if got != ("ok", i)]
    finally:
        threading.stack_size(before)


def down(n):
    """Python and Erlang call each other n times."""
    return 1 + erlang.call("down", n - 1) if n else 0


def echo_big(n, size):
    """Each of n threads sends its own bytes of that size, and says whether it got them back."""

    def run(i):
        data = os.urandom(1024) * (size // 1024)
        return erlang.call("tag", data) == data

    return at_once(n, run)


# What goes wrong.


def mixed(calls):
    """Calls that go well and calls whose arguments or answers have no form, in one thread."""

    def run():
        return [outcome(erlang.call, "tag", object() if i % 3 == 0 else i) if i % 3 != 1
                else outcome(erlang.call, "improper") for i in range(calls)]

    return in_thread(run)


class Late:
    """Calls Erlang when it is let go."""

    def __init__(self, key):
        self.key = key

    def __del__(self):
        box.add(self.key, outcome(erlang.call, "handler"))


def finalizers(key, n):
    """Threads that call, or do not, and then again when what is local to them is let go: the values."""
    local = threading.local()

    def run(i):
        local.late = Late(key)
        return erlang.call("handler") if i % 2 else None

    for i in range(n):
        in_thread(run, i)
    return box.wait_count(key, n)


class Asks:
    """Its form is made by Erlang."""

    def __init__(self, n):
        self.n = n


def converted(n):
    """Arguments whose converter calls Erlang itself, n deep."""

    def convert(asks):
        return Asks(asks.n - 1) if asks.n > 1 and erlang.call("tag", asks.n) else erlang.call("tag", 0)

    erlang.register_converter(Asks, convert)
    try:
        return call("tag", Asks(n))
    finally:
        erlang.register_converter(Asks, None)


class Cycle:
    """Calls Erlang when the collector finds it."""

    def __init__(self):
        self.me = self

    def __del__(self):
        box.add("collected", outcome(erlang.call, "tag", 1))


def collected():
    """The collector runs while an answer is made to objects, and what it finds calls Erlang."""

    def run():
        Cycle()
        before = gc.get_threshold()
        gc.set_threshold(1)
        try:
            return len(erlang.call("lists:seq", 1, 1000)), len(erlang.call("nested", 1000))
        finally:
            gc.set_threshold(*before)

    return in_thread(run), box.wait_count("collected", 1)


def forked():
    """What a fork of the node sees of erlang, and how it ends."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        text = repr([outcome(f, *args)[0] for f, *args in (
            (erlang.call, "add_one", 1), (erlang.cast, "add_one", 1), (erlang.self,), (erlang.receive, 0),
            (erlang.send, "nobody", 1), (erlang.register, "nobody"), (erlang.monitor, "nobody"), (erlang.whereis, "x"))])
        os.write(into, text.encode())
        os._exit(0)
    os.close(into)
    with os.fdopen(out) as pipe:
        text = pipe.read()
    return text, os.waitpid(child, 0)[1]


def fork_in_thread():
    """The same in a thread that has a connection of its own, and a call in it before and after."""
    return in_thread(lambda: (erlang.call("add_one", 1), forked(), erlang.call("add_one", 2)))


def evaluated(code):
    """The outcome of an expression in a new thread."""
    return in_thread(eval, code, {"erlang": erlang})


def call_timeout(name, *args):
    """A call whose last argument is its time limit."""
    return call(name, *args[:-1], timeout=args[-1])


def call_node(name, node):
    """A call to that node."""
    return call(name, node=node)


def nodes_in_turn(nodes):
    """Which nodes answer in one thread."""
    return in_thread(lambda: [erlang.call("node", node=node) for node in nodes])


def limited(name, timeout, n):
    """Calls that never end, in one thread, and one more that does."""
    return in_thread(
        lambda: [outcome(erlang.call, name, timeout=timeout)[0] for _ in range(n)] + [erlang.call("add_one", 1)]
    )


def in_one_thread(calls):
    """The values of calls one after another in one thread."""
    return in_thread(lambda: [erlang.call(*call) for call in calls])


def outcomes(calls):
    """The outcomes of calls one after another in one thread."""
    return in_thread(lambda: [outcome(erlang.call, *call) for call in calls])


def together_on(name, n):
    """A call without arguments from each of n threads, all in it at once or one after another."""
    return at_once(n, lambda i: erlang.call(name))
