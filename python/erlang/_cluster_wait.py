"""How threads wait for what the thread of erlang.cluster does, so that one that is cancelled leaves no lock taken.

erlang.Cancelled is raised between any two bytecodes. A Condition of the module threading, whose methods are Python
code, can be left locked by that; a plain lock in a with statement, or one that is only waited for, cannot.
"""

import time
from threading import Lock

_LOOK = 0.1  # seconds after which one who waits hears that his call is cancelled


class Event:
    """As threading.Event, for once."""

    __slots__ = ("_is_set", "_locks")

    def __init__(self):
        self._is_set = False
        self._locks = []  # of those who wait: taken, until they may go on

    def set(self):
        """Lets all go on."""
        self._is_set = True
        while self._locks:
            self._locks.pop().release()

    def wait(self, seconds):
        """Whether it is set, at the latest after so many seconds."""
        if self._is_set or seconds <= 0:
            return self._is_set
        lock = Lock()
        lock.acquire()
        self._locks.append(lock)
        if not self._is_set:
            lock.acquire(timeout=seconds)
        if not self._is_set:
            try:
                self._locks.remove(lock)
            except ValueError:  # it has just been set
                pass
        return self._is_set


def set_waiting(waits):
    """Whether this thread waits for others: a worker that does leaves its place to another one."""
    try:
        from _erlang import _set_waiting
    except ModuleNotFoundError:
        return
    _set_waiting(waits)


def wait(event, timeout=None):
    """Waits for the event: whether it was set before the time is up. A call that is cancelled hears of it meanwhile."""
    end = None if timeout is None else time.monotonic() + timeout
    if event.wait(0):
        return True
    set_waiting(True)
    try:
        while True:
            left = _LOOK if end is None else min(_LOOK, end - time.monotonic())
            if event.wait(left):
                return True
            if left <= 0:
                return False
    finally:
        set_waiting(False)
