"""Python that connects by itself, for live tests."""

import threading

import erlang


def send_in(seconds, name, node, term):
    """Sends the term after a while, whether there is a connection then or not."""
    threading.Timer(seconds, erlang.send, [(name, node), term]).start()


def crowd_in(seconds, size, name, node):
    """Lets many threads, after a while, send their number at once."""
    start = threading.Barrier(size)

    def member(number):
        start.wait()
        erlang.send((name, node), number)

    def gather():
        for number in range(size):
            threading.Thread(target=member, args=[number]).start()

    threading.Timer(seconds, gather).start()
