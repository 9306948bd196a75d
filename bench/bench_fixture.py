"""What bench.erl calls in Python; bench.erl has functions of the same names for the peer."""

import time

import erlang

_busy = False


def identity(x):
    """Gives back what it is given: the way there and back is what costs."""
    return x


def busy(seconds):
    """Holds the GIL as pure Python does, for this long."""
    global _busy
    _busy = True
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    _busy = False


def is_busy():
    """Whether busy() runs."""
    return _busy


class Server:
    """The smallest server: answers what it is asked."""

    def handle_call(self, request, caller):
        return request


erlang.register("bench_server", Server())
