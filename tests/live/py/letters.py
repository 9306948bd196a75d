"""Python threads and calls as processes, for live tests: what they are sent, and what they send."""

import sys
import threading

import box
import callers
import erlang
import gate


def who():
    """The process that this call is, and the one of a thread."""
    return erlang.self(), callers.in_thread(erlang.self)[1]


def thread(to, name=None):
    """Starts a thread, a process of that name, that tells `to` who it is, and takes messages until it
    gets "end", each of which it sends on; it ends as it is told. Returns its Pid."""
    pid = []
    known = threading.Event()

    def run():
        pid.append(erlang.self())
        if name:
            erlang.register(name)
        known.set()
        while True:
            message = erlang.receive()
            if message == "end":
                break
            if message == "raise":
                raise ValueError("as it was told")
            if message == "exit":
                sys.exit(3)
            if isinstance(message, tuple) and message[0] == "do":
                erlang.send(message[1], globals()[message[2]](*message[3:]))
                continue
            erlang.send(to, (erlang.Atom("got"), pid[0], message))

    threading.Thread(target=run, daemon=True).start()
    known.wait()
    return pid[0]


def monitor(target):
    """Watches: the reference."""
    return erlang.monitor(target)


def demonitor(ref):
    erlang.demonitor(ref)
    return erlang.Atom("ok")


def link(pid):
    erlang.link(pid)
    return erlang.Atom("ok")


def unlink(pid):
    erlang.unlink(pid)
    return erlang.Atom("ok")


def who_am_i():
    return erlang.self()


def name_me(name):
    """Registers this process; says what came of it."""
    return callers.outcome(erlang.register, name)


def unname(name):
    return callers.outcome(erlang.unregister, name)


def receive(timeout=None):
    """The next message to this call, or how it failed."""
    return callers.outcome(erlang.receive, timeout)


def tell_and_receive(to, count):
    """Says who it is, and returns that many messages."""
    erlang.send(to, (erlang.Atom("me"), erlang.self()))
    return [erlang.receive(10) for _ in range(count)]


def tell_and_wait(to, key):
    """Says who it is and waits for ever; what ends that goes into the box."""
    erlang.send(to, (erlang.Atom("me"), erlang.self()))
    try:
        while True:
            box.add(key, ("got", erlang.receive()))
    except BaseException as e:
        box.add(key, type(e).__name__)
        raise


def send_from(port, to):
    """Goes through the gate, then sends what came first."""
    gate.wait(port)
    erlang.send(to, (erlang.Atom("first"), erlang.self(), erlang.receive(10)))


def ring(size, rounds):
    """Threads that give a number round, each one more than it got: the number in the end."""
    pids = [None] * size
    ready = threading.Barrier(size)

    def run(i):
        pids[i] = erlang.self()
        ready.wait()
        following = pids[(i + 1) % size]
        if i == 0:
            erlang.send(following, 1)
        for left in range(rounds, 0, -1):
            number = erlang.receive(30)
            if i == 0 and left == 1:
                return number
            erlang.send(following, number + 1)

    return callers.at_once(size, run)[0]


def flood_own(count):
    """Sends to a thread's mailbox, which nobody reads meanwhile: how many it took, how many came."""

    def run():
        me, taken = erlang.self(), 0
        for i in range(count):
            try:
                erlang.send(me, i)
                taken += 1
            except BlockingIOError:
                pass
        dead = erlang.monitor("nobody_at_all")
        came = []
        while True:
            try:
                came.append(erlang.receive(0))
            except erlang.TimeoutError:
                break
        erlang.send(me, "room again")
        return taken, [m for m in came if isinstance(m, int)], came[-1][1] == dead, erlang.receive(0)

    return callers.in_thread(run)


def sizes(to, count):
    """Sends on what comes, unchanged."""
    erlang.send(to, (erlang.Atom("me"), erlang.self()))
    for _ in range(count):
        erlang.send(to, erlang.receive(30))


def receive_all(to, count):
    """What comes of each receive."""
    erlang.send(to, (erlang.Atom("me"), erlang.self()))
    return [callers.outcome(erlang.receive, 10) for _ in range(count)]


class Server:
    """A registered object that says who it is, tries to receive, and watches."""

    def handle_call(self, request, caller):
        if request == "self":
            return erlang.self()
        if request == "receive":
            return callers.outcome(erlang.receive, 0)
        if request == "register":
            return callers.outcome(erlang.register, "another_name")
        if request[0] == "monitor":
            return erlang.monitor(request[1])
        if request[0] == "link":
            return callers.outcome(erlang.link, request[1])
        return None

    def handle_info(self, message):
        box.add("server", message)


def serve(name):
    erlang.register(name, Server())


def bad_calls():
    """What each of these says, by its type."""
    me = erlang.self()
    return [callers.outcome(f, *args)[0] for f, *args in (
        (erlang.receive, "soon"), (erlang.receive, -1), (erlang.receive, float("nan")), (erlang.monitor, 1),
        (erlang.monitor, "x" * 256), (erlang.monitor, ("a", 1)), (erlang.monitor, ("a", "b" * 300)),
        (erlang.demonitor, me), (erlang.demonitor, 1), (erlang.link, "name"), (erlang.link, 1),
        (erlang.unlink, None), (erlang.register, ""), (erlang.register, "rex"), (erlang.unregister, "nobody"),
        (erlang.send, "nobody", 1), (erlang.send, 1, 1), (erlang.send, me, object()), (erlang.whereis, 1),
        (erlang.monitor, "a\0b"), (erlang.register, "a\0b"), (erlang.monitor, "\ud800"))]


def full_thread(port, to, victim):
    """A thread that watches the victim and goes through the gate; then it sends all that has come."""
    pid = []
    ready = threading.Event()

    def run():
        pid.append(erlang.self())
        erlang.monitor(victim)
        erlang.link(victim)
        ready.set()
        gate.wait(port)
        came = []
        try:
            while True:
                came.append(erlang.receive(0))
        except erlang.TimeoutError:
            erlang.send(to, (erlang.Atom("all"), came))

    threading.Thread(target=run, daemon=True).start()
    ready.wait()
    return pid[0]
