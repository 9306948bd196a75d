"""Python objects that serve under a name, for live tests."""

import threading
import time

import box
import erlang
import gate


class Counter:
    """Counts, remembers, fails and waits as it is told."""

    def __init__(self):
        self.count = 0
        self.seen = []

    def handle_call(self, request, caller):
        if request == "get":
            return self.count
        if request == "seen":
            return self.seen
        if request == "caller":
            return caller
        verb, *args = request
        return getattr(self, "call_" + verb)(*args)

    def call_add(self, n):
        self.count += n
        return self.count

    def call_echo(self, term):
        return term

    def call_send_as_call(self, name, caller):
        erlang.send(name, (erlang.Atom("$gen_call"), (caller, 1), 7))

    def call_fail(self, text):
        raise ValueError(text)  # mark: call_fail

    def call_stop(self, name):
        erlang.unregister(name)
        return "stopped"

    def call_thing(self):
        return object()

    def call_leave(self):
        raise SystemExit(1)

    def call_gate(self, port, value):
        return gate.wait(port, value)

    def handle_cast(self, request):
        if request[0] == "fail":
            raise ValueError(request[1])
        if request[0] == "gate":
            gate.wait(request[1])
        self.seen.append((erlang.Atom("cast"), request))

    def handle_info(self, message):
        if message[0] == "fail":
            raise ValueError(message[1])
        self.seen.append((erlang.Atom("info"), message))


class Bulletin:
    """Puts every plain message into the box, under its own name."""

    def handle_info(self, message):
        box.add("bulletin", message)


class Alone:
    """Notices when two requests are served at the same time."""

    def __init__(self):
        self.inside = 0
        self.most = 0
        self.threads = set()

    def handle_call(self, request, caller):
        if request == "most":
            return self.most
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.002)
        self.inside -= 1
        return threading.current_thread().name


class Nothing:
    """Has no handler at all."""


def start(name, cls):
    """Registers a new object of that class."""
    erlang.register(name, globals()[cls]())


def stop(name):
    """Takes the name away."""
    erlang.unregister(name)
