"""plain_testing - erlang.testing: pretended functions, processes and servers."""

import asyncio
import concurrent.futures
import contextlib
import dataclasses
import logging
import operator
import pickle
import sys
import threading
import time

import erlang
import tap
from erlang import Atom, ErlangError, _cluster_engine, call, cluster, double_it, testing
from erlang._threads import watch
from erlang.cluster import Executor, put
from tap import equal, raises, wait_for

CASES = []
LIMIT = tap.LIMIT


def case(name):
    return lambda function: CASES.append((name, function))


def in_thread(function, *args):
    """Runs it in a thread, to its end; what it gave or raised."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(function, *args).result(LIMIT)


@contextlib.contextmanager
def warnings_of_testing():
    """What erlang.testing logs meanwhile."""
    handler, logger, texts = logging.Handler(), logging.getLogger("erlang.testing"), []
    handler.emit = lambda record: texts.append(record.getMessage())
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield texts
    finally:
        logger.removeHandler(handler)
        logger.propagate = True


def down(ref, target, reason):
    return (Atom("DOWN"), ref, Atom("process"), target, reason)


# Functions.


@case("a function is called in all forms, also by what was imported before")
def _():
    with testing.node({"double_it": lambda x: 2 * x, "lists:reverse": lambda x: x[::-1]}) as n:
        equal((call("double_it", 4), erlang.double_it(4), double_it(4)), (8, 8, 8))
        equal(call("lists:reverse", [1, 2]), [2, 1])
        equal(call("lists", "reverse", [[1, 2]]), [2, 1])
        equal(call(Atom("double_it"), "ab"), "abab")
        equal(n.calls[0], ("double_it", [4]))
        equal(n.calls[4].args, ["reverse", [[1, 2]]])
        equal(len(n.calls), 6)
    raises(ErlangError, call, "double_it", 4, text="works only inside a pynode node")


@case("a name that is not registered")
def _():
    with testing.node({"f": int}) as n:
        e = raises(ErlangError, call, "x", 1)
        text = "Function 'x' not registered"
        equal((str(e), e.error_class, e.reason), (text, "error", text))
        raises(ErlangError, call, "lists:nothing", text="Function 'lists:nothing' not registered")
        raises(ErlangError, call, "lists", "nothing", [], text="Function 'lists' not registered")
        n.functions["x"] = lambda: "now"
        equal(erlang.x(), "now")
        raises(TypeError, call, 1, text="call() wants the name of a function, a str, first")
        raises(TypeError, erlang.cast, 1, text="cast() wants the name of a function, a str, first")
        raises(TypeError, call, "f", node=1, text="node: not a str but a int")
        raises(ValueError, call, "f", node="erl", text="node: 'erl' is not NAME@HOST")


@case("an ErlangError passes unchanged, any other exception is one with its type and text")
def _():
    def fail(kind):
        raise errors[kind]

    errors = {
        "mine": ErlangError(Atom("badarith"), "exit", [(1,)]),
        "late": erlang.TimeoutError("late"),
        "key": KeyError("k"),
        "stop": KeyboardInterrupt(),
    }
    with testing.node({"fail": fail}):
        for timeout in (None, LIMIT):
            for kind in ("mine", "late"):
                assert raises(ErlangError, call, "fail", kind, timeout=timeout) is errors[kind]
            e = raises(ErlangError, call, "fail", "key", timeout=timeout)
            equal((e.error_class, e.reason), ("error", (Atom("KeyError"), "'k'")))
            assert e.__cause__ is errors["key"]
            raises(KeyboardInterrupt, call, "fail", "stop", timeout=timeout)
        assert isinstance(raises(ErlangError, call, "fail").reason, tuple)  # too few arguments


@case("a slow function is left alone when the time is over")
def _():
    gate, done = threading.Event(), threading.Event()

    def slow():
        gate.wait(LIMIT)
        done.set()

    with testing.node({"slow": slow, "quick": lambda: 1}):
        e = raises(erlang.TimeoutError, call, "slow", timeout=0.01)
        equal(str(e), "no answer from 'slow' in time")
        raises(TimeoutError, erlang.slow, timeout=0)
        equal(call("quick", timeout=LIMIT), 1)
        equal(call("quick", timeout=1e12), 1)
        for timeout in (-1, float("nan")):
            raises(ValueError, call, "quick", timeout=timeout, text="timeout must not be negative")
        gate.set()
        assert done.wait(LIMIT)


@case("async_call gives what call gives, each in a thread of its own: the loop goes on")
def _():
    async def at_once():
        return await asyncio.gather(*(erlang.async_call("meet", i) for i in range(10)))

    async def one(*args, **kwargs):
        return await erlang.async_call(*args, **kwargs)

    meeting = threading.Barrier(10)
    functions = {"meet": lambda i: (meeting.wait(LIMIT), i)[1], "lists:reverse": lambda x: x[::-1], "fail": {}.__getitem__}
    with testing.node(functions) as n:
        equal(asyncio.run(at_once()), list(range(10)))
        equal(asyncio.run(one("lists", "reverse", [(1, 2)])), (2, 1))
        equal(asyncio.run(one(Atom("lists:reverse"), [1], timeout=LIMIT, node="erl@host")), [1])
        equal(asyncio.run(one("lists:reverse", {7}, timeout=float("inf"))), [7])
        equal(len(n.calls), 13)
        e = raises(ErlangError, asyncio.run, one("fail", "key"))
        equal((e.error_class, e.reason), ("error", (Atom("KeyError"), "'key'")))
        raises(ErlangError, asyncio.run, one("nobody"), text="Function 'nobody' not registered")
        raises(TypeError, asyncio.run, one(1), text="async_call() wants the name of a function, a str, first")
        raises(TypeError, asyncio.run, one("fail", object()))
        raises(ValueError, asyncio.run, one("fail", timeout=-1), text="timeout must not be negative")
        raises(ValueError, asyncio.run, one("fail", node="erl"), text="node: 'erl' is not NAME@HOST")


@case("an async_call whose time is over, or that is cancelled, is left alone")
def _():
    gate, done = threading.Event(), threading.Semaphore(0)

    def slow():
        gate.wait(LIMIT)
        done.release()

    async def late():
        e = None
        try:
            await erlang.async_call("slow", timeout=0.01)
        except erlang.TimeoutError as caught:
            e = caught
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(erlang.async_call("slow"), 0.01)
        return str(e), len(asyncio.all_tasks())

    with testing.node({"slow": slow}):
        equal(asyncio.run(late()), ("no answer from 'slow' in time", 1))
        gate.set()
        assert done.acquire(timeout=LIMIT) and done.acquire(timeout=LIMIT)


@case("a cast calls the function; its errors are logged and not raised")
def _():
    seen = []
    with warnings_of_testing() as texts, testing.node({"note": seen.append, "fail": lambda: 1 / 0}) as n:
        equal(erlang.cast("note", 1, node="erl@host"), None)
        erlang.cast("fail")
        erlang.cast("nobody")
        equal([c.name for c in n.calls], ["note", "fail", "nobody"])
    equal(seen, [1])
    equal(texts, ["the cast of 'fail' failed", "the cast of 'nobody' failed"])


@dataclasses.dataclass
class Item:
    price: int = 1


@case("arguments and values are what they are after the way to Erlang and back")
def _():
    both = [
        (1.5, 1.5),
        ((1, "a"), (1, "a")),
        ({3}, [3]),
        (None, None),
        (True, True),
        ("\xe5", "\xe5"),
        (b"abc", "abc"),
        (b"\xff", b"\xff"),
        ({"a": {1: [None]}}, {"a": {1: [None]}}),
        (float("inf"), Atom("infinity")),
        (Atom("nil"), None),
        (2**100, 2**100),
        (erlang.Bitstring(b"a", 3), erlang.Bitstring(b"a", 3)),
    ]
    seen = []
    with testing.node({"echo": lambda x: x, "note": seen.append}) as n:
        for given, got in both:
            result = call("echo", given)
            equal((result, type(result)), (got, type(got)))
            equal((n.calls[-1].args, type(n.calls[-1].args[0])), ([got], type(got)))
        pid = erlang.self()
        equal(call("echo", [pid]), [pid])
        n.functions["raw"] = lambda: (Atom("bytes"), b"abc")
        equal(erlang.raw(), b"abc")
        words = ["a"]
        erlang.note(words)
        words.append("b")
        equal(seen, [["a"]])


@case("what cannot be converted is refused with its place, and does not reach the function")
def _():
    with testing.node({"f": lambda *_: Item()}) as n:
        name = f"{Item.__module__}." if Item.__module__ != "__main__" else ""
        text = f"args[1]['k'][0]: cannot convert {name}Item to an Erlang term"
        raises(TypeError, call, "f", 1, {"k": [Item()]}, text=text)
        raises(ValueError, erlang.cast, "f", {"a": 1, b"a": 2}, text="two keys of the dict are equal in Erlang")
        raises(TypeError, erlang.send, erlang.self(), [1j], text="message[0]: cannot convert complex")
        equal(n.calls, [])
        raises(TypeError, call, "f", text=f"value of 'f': cannot convert {name}Item")


@case("register_converter holds, with and without a node")
def _():
    erlang.register_converter(Item, lambda item: (Atom("item"), item.price))
    try:
        with testing.node({"echo": lambda x: x}):
            equal(call("echo", Item(3)), (Atom("item"), 3))
            raises(ValueError, erlang.register_converter, str, repr, text="str has its own Erlang form")
            raises(TypeError, erlang.register_converter, 1, repr, text="int is not a type")
            raises(TypeError, erlang.register_converter, Item, 1, text="the converter is not callable")
    finally:
        erlang.register_converter(Item, None)
        erlang.register_converter(Item, None)
    with testing.node({"echo": lambda x: x}):
        raises(TypeError, call, "echo", Item())


@case("it is a decorator, too; of nodes inside each other the inner one counts")
def _():
    @testing.node({"answer": lambda: 42}, name="a@host")
    def decorated():
        outer = erlang.node(), erlang.answer(), erlang.self().node
        with testing.node(name="b@host"):
            inner = erlang.node()
            raises(ErlangError, erlang.answer, text="not registered")
        return outer, inner, erlang.node()

    for _ in range(2):
        equal(decorated(), (("a@host", 42, Atom("a@host")), "b@host", "a@host"))
    raises(ErlangError, erlang.node)
    raises(ZeroDivisionError, testing.node({})(lambda: 1 / 0))
    raises(ErlangError, erlang.node)


@case("many threads call at the same time, each gets its own value")
def _():
    with testing.node({"double_it": lambda x: 2 * x}) as n:
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            equal(list(pool.map(double_it, range(1000))), list(range(0, 2000, 2)))
            equal(len(set(pool.map(lambda _: call("double_it", 1, timeout=LIMIT), range(100)))), 1)
        equal(len(n.calls), 1100)


@case("what a LogHandler is given is in logs")
def _():
    logger = logging.getLogger("testing")
    logger.propagate = False
    logger.addHandler(erlang.LogHandler())
    with testing.node() as n:
        logger.warning("hello %s", "you")
        level, name, text, meta = n.logs[0]
        equal((level, name, text, meta["funcName"]), ("warning", "testing", "hello you", "_"))


@case("inside a real node it is refused")
def _():
    sys.modules["_erlang"] = erlang
    try:
        raises(RuntimeError, testing.node, text="this is a real one")
    finally:
        del sys.modules["_erlang"]


# Processes.


@case("threads send to each other; messages come in order")
def _():
    with testing.node() as n:
        me = erlang.self()
        equal((me, me.node), (erlang.self(), Atom("py@test")))

        def other():
            for i in range(100):
                erlang.send(me, (i, erlang.self()))
            return erlang.receive(LIMIT)

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(other)
            got = [erlang.receive(LIMIT) for _ in range(100)]
            equal([i for i, _ in got], list(range(100)))
            assert got[0][1] != me and got[0][1] == got[99][1]
            erlang.send(got[0][1], {"you"})
            equal(future.result(LIMIT), ["you"])
        erlang.send(got[0][1], "nobody any more")
        equal(n.sent, [])
        assert pickle.loads(pickle.dumps(me)) == me


@case("receive waits no longer than it shall")
def _():
    with testing.node():
        equal(str(raises(erlang.TimeoutError, erlang.receive, timeout=0)), "no message in time")
        raises(erlang.TimeoutError, erlang.receive, 0.01)
        raises(ValueError, erlang.receive, -1, text="timeout must not be negative")
        erlang.send(erlang.self(), 1)
        equal(erlang.receive(0), 1)


@case("who still waits when the node ends gets an error")
def _():
    waiting, errors = threading.Event(), []

    def wait():
        waiting.set()
        errors.append(raises(ErlangError, erlang.receive))

    with testing.node():
        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(LIMIT)
        assert thread.is_alive()
    thread.join(LIMIT)
    assert "node" in str(errors[0]), errors


@case("a thread can have a name")
def _():
    with testing.node() as n:
        erlang.register("main")
        equal(erlang.whereis("main"), erlang.self())
        erlang.send("main", 1)
        erlang.send(("main", "py@test"), 2)
        equal((erlang.receive(0), erlang.receive(0)), (1, 2))
        raises(ValueError, erlang.register, "main", text="the name 'main' is registered already")
        raises(ValueError, erlang.register, "main", None, text="the name 'main' is registered already")
        raises(ValueError, erlang.register, "other", text="or the process has another name")
        for name in ("", "rex", "net_kernel", "pynode"):
            raises(ValueError, erlang.register, name, object(), text="cannot be registered")
        raises(ValueError, n.call_server, "main", 1, text="'main' is a thread")
        erlang.unregister("main")
        equal(erlang.whereis("main"), None)
        raises(ValueError, erlang.unregister, "main", text="the name 'main' is not registered")
        raises(ValueError, erlang.send, "main", 1, text="no process is registered as 'main'")
        in_thread(erlang.register, "gone")
        wait_for(lambda: erlang.whereis("gone") is None)
        for function in (erlang.register, erlang.unregister, erlang.whereis):
            raises(TypeError, function, 1, text="the name must be str, not int")


@case("messages to other nodes are noted")
def _():
    with testing.node() as n:
        pid = n.spawn()
        equal(pid.node, Atom("erl@test"))
        erlang.send(pid, {1})
        erlang.send(("logger", "erl@host"), "hello")
        equal(n.sent, [(pid, [1]), (("logger", "erl@host"), "hello")])
        for dest in (1, ("a",), ("a", 1), None):
            raises(TypeError, erlang.send, dest, 1, text="not a Pid, name or (name, node)")


@case("a monitor gets DOWN when a thread ends, with the reason")
def _():
    with testing.node():
        reported = []
        threading.excepthook, usual = reported.append, threading.excepthook
        try:
            for raised, reason in (
                (None, Atom("normal")),
                (ValueError("why"), (Atom("python_error"), Atom("ValueError"), "why")),  # and the stack
                (SystemExit(1), Atom("normal")),
            ):
                me = erlang.self()

                def work():
                    erlang.send(me, erlang.self())
                    erlang.receive(LIMIT)
                    if raised:
                        raise raised

                thread = threading.Thread(target=work)
                thread.start()
                pid = erlang.receive(LIMIT)
                ref, other = erlang.monitor(pid), erlang.monitor(pid)
                erlang.demonitor(other)
                erlang.send(pid, "end")
                message = erlang.receive(LIMIT)
                if raised and reason != "normal":
                    *_, (shown, [frame, *_]) = message
                    equal((shown, frame[0], frame[2]), (reason, Atom(__name__), 0))
                    equal(frame[3][1], (Atom("line"), raised.__traceback__.tb_next.tb_next.tb_lineno))
                else:
                    equal(message, down(ref, pid, reason))
                thread.join()
                ref = erlang.monitor(pid)
                equal(erlang.receive(0), down(ref, pid, Atom("noproc")))
                raises(erlang.TimeoutError, erlang.receive, 0)
        finally:
            threading.excepthook = usual
        equal([r.exc_type for r in reported if r.exc_type is not SystemExit], [ValueError])


@case("a monitor of a name, of another node and of a process that a test ends")
def _():
    with testing.node() as n:
        ref = erlang.monitor("nobody")
        equal(erlang.receive(0), down(ref, (Atom("nobody"), Atom("py@test")), Atom("noproc")))
        ref = erlang.monitor(("a", "erl@host"))
        equal(erlang.receive(0), down(ref, (Atom("a"), Atom("erl@host")), Atom("noconnection")))
        erlang.register("server", object())
        ref = erlang.monitor(("server", "py@test"))
        erlang.unregister("server")
        equal(erlang.receive(0), down(ref, (Atom("server"), Atom("py@test")), Atom("normal")))
        pid = n.spawn()
        ref = erlang.monitor(pid)
        n.exit(pid, (Atom("shutdown"), {1}))
        equal(erlang.receive(0), down(ref, pid, (Atom("shutdown"), [1])))
        raises(ValueError, n.exit, pid, text="is no process of spawn()")
        raises(ValueError, n.exit, erlang.self(), text="is no process of spawn()")
        raises(TypeError, erlang.monitor, 1, text="cannot watch a int")
        raises(TypeError, erlang.demonitor, pid, text="not a Ref but a Pid")


@case("a link tells both sides")
def _():
    with testing.node() as n:
        pid, other = n.spawn(), n.spawn()
        erlang.link(pid)
        erlang.link(other)
        erlang.link(erlang.self())
        erlang.unlink(other)
        n.exit(pid, "crash")
        n.exit(other)
        equal(erlang.receive(0), (Atom("EXIT"), pid, Atom("crash")))
        erlang.link(pid)
        equal(erlang.receive(0), (Atom("EXIT"), pid, Atom("noproc")))
        me = erlang.self()

        def work():
            erlang.link(me)
            return erlang.self()

        linked = in_thread(work)
        equal(erlang.receive(LIMIT), (Atom("EXIT"), linked, Atom("normal")))
        for function in (erlang.link, erlang.unlink):
            raises(TypeError, function, "a", text="not a Pid but a str")


# Servers.


class Server:
    """Notes what it gets."""

    def __init__(self):
        self.seen = []

    def handle_call(self, request, caller):
        if request == "fail":
            raise ValueError("failed")
        if request == "again":
            erlang.send("server", "later")
            self.seen.append("first")
        return [request, caller]

    def handle_cast(self, request):
        self.seen.append(request)
        if request == "fail":
            raise ValueError("failed")

    def handle_info(self, message):
        self.seen.append(message)
        if message == "fail":
            raise ValueError("failed")


@case("a registered object gets calls, casts and messages")
def _():
    with testing.node() as n:
        server, caller = Server(), n.spawn()
        erlang.register("server", server)
        equal(n.call_server("server", {1}, caller), [[1], caller])
        assert type(n.call_server("server", 1)[1]) is erlang.Pid
        n.cast_server("server", (2,))
        erlang.send("server", 3)
        erlang.send(erlang.whereis("server"), 4)
        equal(server.seen, [(2,), 3, 4])
        raises(erlang.ProcessError, n.call_server, "nobody", 1, text="exit:noproc")
        raises(ValueError, n.call_server, "server", "fail", text="failed")
        raises(ValueError, n.cast_server, "server", "fail", text="failed")
        with warnings_of_testing() as texts:
            erlang.send("server", "fail")
        equal(texts, ["a handle_info failed"])
        raises(TypeError, n.call_server, "server", object(), text="request: cannot convert object")
        equal(n.call_server("server", 5, caller), [5, caller])
        erlang.unregister("server")
        raises(erlang.ProcessError, n.cast_server, "server", 1)


@case("it handles one after another, also what it sends to itself")
def _():
    with testing.node() as n:
        server = Server()
        erlang.register("server", server)
        n.call_server("server", "again")
        equal(server.seen, ["first", "later"])


@case("a server can monitor, and is its own process")
def _():
    class Watcher(Server):
        def handle_cast(self, request):
            self.watched = erlang.monitor(request) if request != "receive" else erlang.receive()

        def handle_call(self, request, caller):
            return erlang.self()

    with testing.node() as n:
        server, pid = Watcher(), n.spawn()
        erlang.register("watcher", server)
        equal(n.call_server("watcher", 1), erlang.whereis("watcher"))
        assert erlang.self() != erlang.whereis("watcher")
        n.cast_server("watcher", pid)
        n.exit(pid, "killed")
        equal(server.seen, [down(server.watched, pid, Atom("killed"))])
        n.cast_server("watcher", "nobody")
        equal(server.seen[1][4], Atom("noproc"))
        raises(RuntimeError, n.cast_server, "watcher", "receive", text="reach its method handle_info")


@case("what it answers is converted, and a server that is busy is waited for as long as said")
def _():
    entered, gate = threading.Event(), threading.Event()

    class Busy:
        def handle_call(self, request, caller):
            if request == "object":
                return object()
            entered.set()
            gate.wait(LIMIT)
            return {"done"}

    with testing.node() as n, concurrent.futures.ThreadPoolExecutor(1) as pool:
        erlang.register("busy", Busy())
        raises(TypeError, n.call_server, "busy", "object", text="result: cannot convert object")
        future = pool.submit(n.call_server, "busy", 1)
        assert entered.wait(LIMIT)
        raises(erlang.TimeoutError, n.call_server, "busy", 2, timeout=0.01, text="no answer from 'busy' in time")
        gate.set()
        equal(future.result(LIMIT), ["done"])


# The cluster.


@case("an Executor runs tasks here, and says that there is no node when there is none")
def _():
    e = raises(erlang.ErlangError, Executor, text="erlang.cluster works only inside a pynode node")
    assert "erlang.testing" in str(e)
    with testing.node() as n, Executor(pool="any", labels={"gpu": True}, key=1) as nodes:
        equal(nodes.submit(operator.neg, 21).result(LIMIT), -21)
        equal(list(nodes.map(operator.neg, range(1000))), list(range(0, -1000, -1)))
        equal(nodes.submit(sorted, {2, 1}).result(LIMIT), [1, 2])
        raises(TypeError, nodes.submit(object).result, LIMIT, text="result: cannot convert object")
        raises(TypeError, nodes.submit, operator.neg, object(), text="args[0]: cannot convert object")
        raises(TypeError, nodes.submit, lambda: 1, text="a lambda, which nodes cannot import")
        raises(ZeroDivisionError, list, nodes.map(divmod, [1], [0]))
        equal(n.calls, [])


@case("an Executor's coroutines, pickles and handles are as in a node")
def _():
    async def main():
        async with Executor(pickle=True) as nodes:
            values = [value async for value in nodes.amap(operator.neg, [1, 2j])]
            return values, await nodes.asubmit(asyncio.sleep, 0.001, "slept")

    with testing.node(), Executor() as nodes:
        equal(asyncio.run(main()), ([-1, -2j], "slept"))
        handle = put([1, 2, 3])
        equal(nodes.submit(sum, handle).result(LIMIT), 6)
        handle.release()
        raises(LookupError, nodes.submit, sum, handle, text="has been released")


@case("a task that waits can be cancelled, and one that is under way is nobody's any more")
def _():
    with testing.node():
        nodes = Executor()
        futures = [nodes.submit(time.sleep, 0.05) for _ in range(50)]
        assert all(future.cancel() for future in futures)
        raises(concurrent.futures.CancelledError, futures[0].result)
        equal(len(concurrent.futures.wait(futures, LIMIT).done), 50)
        nodes.shutdown()


@case("a thread that is cancelled while it wakes the executor's thread does not keep others from it")
def _():
    class Interrupted(BaseException):
        pass

    def interrupted(function):
        loop.call_soon_threadsafe = usual
        raise Interrupted

    with testing.node():
        nodes = Executor()
        equal(nodes.submit(operator.neg, 1).result(LIMIT), -1)
        loop = _cluster_engine.engine().loop
        for _ in range(2):  # perhaps the first is not the one that wakes it
            usual, loop.call_soon_threadsafe = loop.call_soon_threadsafe, interrupted
            with contextlib.suppress(Interrupted):
                nodes.submit(operator.neg, 2)
            equal(nodes.submit(operator.neg, 3).result(LIMIT), -3)


@case("a lock that a cancelled thread has left taken stops no one else")
def _():
    with testing.node(), Executor() as nodes:
        future = nodes.submit(time.sleep, 0.05)
        thread = threading.Thread(target=future._condition.acquire)
        thread.start()
        thread.join(LIMIT)
        equal(nodes.submit(operator.neg, 3).result(LIMIT), -3)


@case("each end that a request can have in the VM has its exception")
def _():
    for reason, kind, text in (
        (Atom("timeout"), erlang.TimeoutError, "the time limit has passed"),
        (Atom("queue_timeout"), erlang.TimeoutError, "queue_timeout"),
        (Atom("overloaded"), cluster.Overloaded, "overloaded"),
        (Atom("draining"), cluster.Overloaded, "draining"),
        (Atom("cancelled"), concurrent.futures.CancelledError, ""),
        (Atom("poison"), cluster.Poison, "poison"),
        ((Atom("poison"), ["a@b"]), cluster.Poison, "a@b"),
        ((Atom("node_down"), Atom("a@b"), Atom("started")), cluster.NodeDown, "a@b went down: started"),
        ((Atom("bad_option"), Atom("labels")), ValueError, "labels: "),
        ((Atom("ModuleNotFoundError"), "No module named 'm'"), ModuleNotFoundError, "No module named 'm'"),
        ((Atom("PicklingError"), "no"), cluster.RemoteError, "PicklingError: no"),
        ((Atom("KeyboardInterrupt"), ""), cluster.RemoteError, "KeyboardInterrupt"),
        ((Atom("not_allowed"), (Atom("m"), Atom("f"))), ErlangError, "not_allowed"),
    ):
        with testing.node() as n, Executor() as nodes:
            n.remote.functions["py_remote:run"] = lambda args, options: (Atom("error"), reason)
            for raising in (nodes.submit(abs, -1).result, lambda: list(nodes.map(abs, [1, 2]))):
                e = raises(kind, raising, text=text)
                equal(type(e), kind)


@case("nodes and monitor_node: a message when the node goes, one for each time it was asked for")
def _():
    with testing.node() as n:
        equal(erlang.nodes(), ["erl@test"])
        for flag in (True, True, True, False):
            erlang.monitor_node("a@b", flag)
        n.nodedown("c@d")
        n.nodedown("a@b")
        equal([erlang.receive(timeout=0) for _ in range(2)], [("nodedown", "a@b")] * 2)
        raises(erlang.TimeoutError, erlang.receive, timeout=0)
        raises(ValueError, erlang.monitor_node, "nobody", text="is not NAME@HOST")
        raises(ValueError, erlang.monitor_node, "erl@test", text="erlang.monitor")
        raises(TypeError, erlang.monitor_node, 1)


# How a thread's exception is heard of.


@case("the exception of a thread is told once, SystemExit and the main thread's are not")
def _():
    told, reported = [], []
    threading.excepthook, usual = lambda args: reported.append(args.exc_type), threading.excepthook
    try:
        for raised in (ValueError("a"), SystemExit(2), None):

            def work():
                watch(told.append)
                if raised:
                    raise raised

            thread = threading.Thread(target=work)
            thread.start()
            thread.join(LIMIT)
    finally:
        threading.excepthook = usual
    equal([str(e) for e in told], ["a"])
    assert ValueError in reported
    main = threading.main_thread()
    hook = main._invoke_excepthook
    watch(told.append)
    assert main._invoke_excepthook is hook


@case("a thread that the module threading did not start is left as it is")
def _():
    import _thread

    done, before = threading.Event(), threading.active_count()

    def work():
        watch(None)
        done.set()

    _thread.start_new_thread(work, ())
    assert done.wait(LIMIT)
    equal(threading.active_count(), before)


@case("a Thread that works otherwise is left as it is, and a failing listener hides nothing")
def _():
    reported = []
    threading.excepthook, usual = lambda args: reported.append(args.exc_type), threading.excepthook

    def work(strange):
        if strange:
            del threading.current_thread()._invoke_excepthook
        watch(lambda e: 1 / 0)
        if strange:
            threading.current_thread()._invoke_excepthook = lambda thread: reported.append("own")
        raise ValueError

    try:
        for strange in (True, False):
            thread = threading.Thread(target=work, args=(strange,))
            thread.start()
            thread.join(LIMIT)
    finally:
        threading.excepthook = usual
    equal(reported, ["own", ValueError])


tap.run(CASES)
