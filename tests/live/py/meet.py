"""Python that connects by itself, for live tests."""

import threading

import erlang


def send_in(seconds, name, node, term):
    """Sends the term after a while, whether there is a connection then or not."""
    threading.Timer(seconds, erlang.send, [(name, node), term]).start()
