"""Python that connects by itself, for live tests."""

import threading

import erlang
import gate


def later(port, function, *args):
    """Calls the function in a thread when the test opens the door, whether its node is connected or not."""

    def run():
        gate.wait(port)
        function(*args)

    threading.Thread(target=run).start()


def send_later(port, name, node, term):
    """Sends the term."""
    later(port, erlang.send, (name, node), term)


def crowd_later(port, size, name, node):
    """Lets many threads send their numbers at once."""
    start = threading.Barrier(size)

    def member(number):
        start.wait()
        erlang.send((name, node), number)

    def gather():
        for number in range(size):
            threading.Thread(target=member, args=[number]).start()

    later(port, gather)


def flood(name, node, count, size):
    """Sends, in a thread, that many numbered terms of that size in bytes."""

    def run():
        for number in range(1, count + 1):
            erlang.send((name, node), (number, bytes(size)))

    threading.Thread(target=run).start()
