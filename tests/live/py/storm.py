"""Threads that call Erlang without a pause while a live test breaks something, and what they got."""

import collections
import re
import threading
import time

import callers
import erlang

_changed = threading.Condition()
_threads = []
_stop = False
_values = []  # of each thread, how many calls gave their value
_errors = collections.Counter()
_seen = 0  # how many of them failed() has waited for
_wrong = []
_waiting = []
_go = threading.Event()


def _run(i, name, size, fresh):
    pad = bytes([255]) * size
    number = 0
    while not _stop:
        number += 1
        term = (i, number, pad)
        kind, value = callers.call(name, term) if fresh else callers.outcome(erlang.call, name, term)
        with _changed:
            if kind != "ok":
                _errors[kind, re.sub(r"\d+", "N", value)] += 1
            elif value != term:
                _wrong.append((i, number, repr(value)[:100]))
            else:
                _values[i] += 1
            _changed.notify_all()
        if kind != "ok":
            time.sleep(0.002)


def begin(n, name="tag", size=1, fresh=False):
    """n threads call until end(); with fresh each call is from a new thread."""
    global _seen, _stop, _values
    _seen = 0
    _stop = False
    _values = [0] * n
    _errors.clear()
    _wrong.clear()
    _threads[:] = [threading.Thread(target=_run, args=[i, name, size, fresh], daemon=True) for i in range(n)]
    for t in _threads:
        t.start()


def settled(seconds=30, times=1):
    """Waits until each thread has got so many more values."""
    with _changed:
        aim = [n + times for n in _values]
        if not _changed.wait_for(lambda: all(n >= a for n, a in zip(_values, aim)), seconds):
            raise TimeoutError(f"{[a - n for n, a in zip(_values, aim)]} to go, {dict(_errors)}")


def failed(seconds=30):
    """Waits until some call has failed since the last time, or since begin()."""
    global _seen
    with _changed:
        if not _changed.wait_for(lambda: _errors.total() > _seen, seconds):
            raise TimeoutError("no call has failed")
        _seen = _errors.total()


def end(seconds=30):
    """How many threads do not end, how many values there were, the kinds of errors, what was wrong."""
    global _stop
    _stop = True
    until = time.monotonic() + seconds
    for t in _threads:
        t.join(max(0, until - time.monotonic()))
    return sum(t.is_alive() for t in _threads), sum(_values), list(_errors.items()), list(_wrong)


def idle_threads(n):
    """n threads that have each called once, and call again when they are let go: resume()."""
    global _waiting, _go
    _go = threading.Event()
    ready = threading.Barrier(n + 1)
    _waiting = [None] * n

    def run(i):
        first = erlang.call("handler")
        ready.wait()
        _go.wait()
        _waiting[i] = first, callers.outcome(erlang.call, "handler")

    _threads[:] = [threading.Thread(target=run, args=[i], daemon=True) for i in range(n)]
    for t in _threads:
        t.start()
    ready.wait()


def resume():
    """What each of them got the first time and the second."""
    _go.set()
    for t in _threads:
        t.join()
    return _waiting


def compute(n, seconds):
    """n threads that have called, hold the interpreter lock for so long, and call again."""

    def run(i):
        first = erlang.call("handler")
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass
        return first, callers.outcome(erlang.call, "handler")

    return [value for ok, value in callers.at_once(n, run)]


def flood(n, seconds):
    """n threads that get a megabyte again and again for so long: the handler that each got at first."""

    def run(i):
        pad, until = bytes([255]) * 1000000, time.monotonic() + seconds
        handler = erlang.call("handler")
        while time.monotonic() < until:
            if erlang.call("tag", pad) != pad:
                raise ValueError("another answer")
        return handler

    return callers.at_once(n, run)
