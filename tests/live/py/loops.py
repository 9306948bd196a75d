"""Coroutines, handlers and the like that the node's event loop runs, for live tests."""

import asyncio
import contextvars
import os
import signal
import sys
import threading
import time

import erlang
import gate

notes = []
var = contextvars.ContextVar("var", default="unset")


def take_notes():
    """What has been noted, which is forgotten."""
    taken, notes[:] = list(notes), []
    return taken


async def double(x):
    await asyncio.sleep(0)
    return 2 * x


async def nap(seconds, value=None):
    await asyncio.sleep(seconds)
    return value


async def fails(message):
    await asyncio.sleep(0)
    raise ValueError(message)


async def held(port, note):
    """Says that it has begun, waits for ever, and notes how it ended."""
    try:
        await asyncio.to_thread(gate.wait, port)
        return note
    finally:
        notes.append(note)


async def stubborn(port):
    """Does not end when it is cancelled, but a little later."""
    try:
        await asyncio.to_thread(gate.wait, port)
    except asyncio.CancelledError:
        await asyncio.sleep(0.05)
        notes.append("stubborn")
        return "went on"


class Later:
    """Awaitable, and no coroutine."""

    def __init__(self, value):
        self.value = value

    def __await__(self):
        yield from asyncio.sleep(0.001).__await__()
        return self.value


def later(value):
    return Later(value)


def future(value):
    made = asyncio.get_running_loop().create_future()
    made.set_result(value)
    return made


def task(value):
    return asyncio.get_running_loop().create_task(nap(0.01, value))


def plain():
    """What a plain function sees on the loop."""
    return [type(asyncio.get_running_loop()).__module__, threading.current_thread() is threading.main_thread()]


async def current():
    me = asyncio.current_task()
    return [isinstance(me, asyncio.Task), me in asyncio.all_tasks(), "current" in repr(me)]


async def limited(seconds):
    try:
        await asyncio.wait_for(asyncio.sleep(10), seconds)
    except asyncio.TimeoutError:
        return "too long"


async def in_timeout(seconds):
    try:
        async with asyncio.timeout(seconds):
            await asyncio.sleep(10)
    except TimeoutError:
        return "too long"


async def group(n):
    async with asyncio.TaskGroup() as tasks:
        made = [tasks.create_task(double(i)) for i in range(n)]
    return [t.result() for t in made]


async def context(value):
    before = var.get()
    var.set(value)
    await asyncio.sleep(0.01)
    return [before, var.get()]


async def command(*args):
    """What a child process says."""
    child = await asyncio.create_subprocess_exec(*args, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    return [out.decode().strip(), child.returncode]


async def signalled():
    """A signal's handler on the loop."""
    loop, came = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR2, came.set)
    os.kill(os.getpid(), signal.SIGUSR2)
    await asyncio.wait_for(came.wait(), 5)
    return loop.remove_signal_handler(signal.SIGUSR2)


async def sockets(n):
    """n conversations over TCP, at once."""

    async def serve(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def ask(i):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"%d\n" % i)
        answer = await reader.readline()
        writer.close()
        return int(answer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        return await asyncio.gather(*map(ask, range(n)))


async def steps_itself(method, *args):
    """Does to the coroutine that its Task runs what only the Task may."""
    await asyncio.sleep(0)
    try:
        getattr(asyncio.current_task().get_coro(), method)(*args)
    except ValueError as e:
        await asyncio.sleep(0)
        return str(e)


def set_eager(eager):
    """Tasks begin when they are made, as those of asyncio.eager_task_factory."""

    def make(loop, coro, **kwargs):
        try:
            coro.send(None)
        except StopIteration:
            made = loop.create_future()
            made.set_result(None)
            return made
        return asyncio.Task(coro, loop=loop, **kwargs)

    asyncio.get_running_loop().set_task_factory(make if eager else None)


def self_or_later(later):
    """The process that it is to Erlang, at once or as a coroutine that ends at once."""

    async def me():
        return erlang.self()

    return me() if later else erlang.self()


async def cancels_itself():
    asyncio.current_task().cancel()
    await asyncio.sleep(1)


def stop_loop():
    asyncio.get_running_loop().stop()


def exit_in_callback():
    def leave():
        raise SystemExit(3)

    asyncio.get_running_loop().call_soon(leave)


def plain_handler():
    """A signal handler that the loop knows nothing of."""
    signal.signal(signal.SIGUSR2, lambda signo, frame: print("handled", file=sys.stderr, flush=True))


def raising_handler():
    """A signal handler that raises, wherever it interrupts the loop."""

    def raises(signo, frame):
        raise OSError("from a handler")

    signal.signal(signal.SIGUSR2, raises)


def raising_exception_handler():
    def raises(loop, context):
        raise SystemExit(5)

    asyncio.get_running_loop().set_exception_handler(raises)


async def async_generator_stays():
    """Leaves an asynchronous generator that does not end when it is closed."""

    async def stays():
        try:
            yield 1
        finally:
            await asyncio.sleep(3600)

    notes.append(stays())
    await notes[-1].__anext__()


def tidy_up(path):
    """Tasks of Python's own: one exits when it is cancelled, the other one has to end all the same."""

    async def exits():
        try:
            await asyncio.sleep(3600)
        finally:
            sys.exit(7)

    async def tidies():
        try:
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.1)
            open(path, "w").close()

    erlang.spawn_task(exits())
    erlang.spawn_task(tidies())


def stops_at_the_end(path):
    """A task that stops the loop, again and again, when it is cancelled, and then has something to do."""

    async def stops():
        try:
            await asyncio.sleep(3600)
        finally:
            for _ in range(3):
                asyncio.get_running_loop().stop()
                await asyncio.sleep(0.01)
            open(path, "w").close()

    erlang.spawn_task(stops())


async def exits():
    raise SystemExit(4)


def block(seconds):
    time.sleep(seconds)
    return "blocked"


# What a worker's call may do.


async def resists(path):
    """Does not end when it is cancelled, but notes the seconds that the process computes in the next half of a second."""
    try:
        await asyncio.sleep(3600)
    finally:
        with open(path, "w") as f:
            begin = time.process_time()
            await asyncio.sleep(0.5)
            f.write(str(time.process_time() - begin))


def nested_run(x):
    return erlang.run(double(x))


def run_failing(message):
    erlang.run(fails(message))


async def run_inside():
    try:
        erlang.run(double(1))
    except RuntimeError as e:
        return str(e)


def run_held(port, note):
    return erlang.run(held(port, note))


def spawned(x):
    return erlang.spawn_task(double(x)).result(10)


async def spawned_inside(x):
    made = erlang.spawn_task(double(x), name="inside")
    return [isinstance(made, asyncio.Task), made.get_name(), await made]


def spawn_failing(message):
    erlang.spawn_task(fails(message), name="failing")


def sleep(seconds, value=None):
    erlang.sleep(seconds)
    return value


async def async_sleep(seconds, value=None):
    await erlang.sleep(seconds)
    return value


def where():
    """Which event loop the node has, if any, and whether it is the main thread's."""
    module = sys.modules.get("erlang._loop")
    return ["asyncio" in sys.modules, module is not None]


# What goes on elsewhere.


def in_erlang(name, *args):
    notes.append("in_erlang")
    return erlang.schedule(name, *args)


async def async_in_erlang(name, *args):
    return erlang.schedule(name, *args)


def countdown(n, step=1):
    notes.append(n)
    return erlang.schedule_py("loops", "countdown", [n - step], {"step": step}) if n > 0 else "done"


async def async_countdown(n):
    await asyncio.sleep(0)
    return erlang.schedule_py("loops", "async_countdown", [n - 1]) if n > 0 else "done"


def for_ever(port):
    """Says that it has begun, and goes on and on."""
    if port:
        gate.wait(port)
    return erlang.schedule_py("loops", "for_ever", [None])


def fork(how):
    """Comes back twice."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return how


async def async_fork(how):
    await asyncio.sleep(0)
    return fork(how)


async def fork_in_callback():
    """A callback comes back twice: how the child ends."""
    loop = asyncio.get_running_loop()
    forked = loop.create_future()

    def fork_now():
        pid = os.fork()
        if pid:
            forked.set_result(pid)

    loop.call_soon(fork_now)
    pid = await forked
    return (await asyncio.wait_for(asyncio.to_thread(os.waitpid, pid, 0), 5))[1]


def self_and_later():
    """A plain function that is a process to Erlang before it goes on as a coroutine."""
    me = erlang.self()

    async def same():
        await asyncio.sleep(0.01)
        return [me, erlang.self() == me]

    return same()


def to_nowhere():
    return erlang.schedule_py("no_such_module", "f")


def slices(percent, n):
    return [erlang.consume_time_slice(percent) for _ in range(n)]


def ping_pong(port):
    """Waits, and then goes to the end of the queue."""
    gate.wait(port)
    return erlang.schedule_py("loops", "note", ["scheduled"])


def note(what):
    notes.append(what)
    return what


class Bank:
    """A registered object whose handlers are coroutines."""

    def __init__(self):
        self.balance = 0
        self.busy = 0
        self.most = 0

    async def handle_call(self, request, caller):
        self.busy += 1
        self.most = max(self.most, self.busy)
        try:
            await asyncio.sleep(0.001)
            if request == "balance":
                return self.balance
            if request == "most":
                return self.most
            if request == "fail":
                raise ValueError("no money")
            if request == "leave":
                erlang.unregister("bank")
                return "gone"
            self.balance += request
            return self.balance
        finally:
            self.busy -= 1

    async def handle_cast(self, request):
        await asyncio.sleep(0.001)
        self.balance += request

    async def handle_info(self, message):
        if message == "fail":
            raise ValueError("odd message")
        await asyncio.sleep(0)
        self.balance *= 10


def open_bank():
    erlang.register("bank", Bank())


async def whoami():
    """The process that a task is to Erlang."""
    me = erlang.self()
    await asyncio.sleep(0)
    return [me, erlang.self() == me]


# Streams.


def yields_and_fails(n):
    yield from range(n)
    raise ValueError("too far")


async def async_yields_and_fails(n):
    for i in range(n):
        yield i
    raise ValueError("too far")


def yields_object(n):
    yield from range(n)
    yield [1, object()]


async def yields_and_waits(port):
    """Yields, and says that it waits before the next one."""
    yield "first"
    await asyncio.to_thread(gate.wait, port)
    yield "second"


def yields_and_blocks(port):
    yield "first"
    gate.wait(port)
    yield "second"
