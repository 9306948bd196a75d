"""Objects that travel once to each node: their handles, and what a node keeps of those it has fetched."""

import os
import pickle
import threading
from collections import OrderedDict
from contextlib import contextmanager

from ._cluster_wait import Event, wait

try:
    from _erlang import call, node
except ModuleNotFoundError:
    from ._outside import call, node

PIECE = 4 << 20  # bytes that travel in one message

_noted = threading.local()


@contextmanager
def noting():
    """Gives the list of the handles that are met while arguments are made ready to travel."""
    before, _noted.handles = getattr(_noted, "handles", None), []
    try:
        yield _noted.handles
    finally:
        _noted.handles = before


class Handle:
    """What put() gives: it stands for an object among the arguments of a task, which gets the object itself.

    When nobody has the handle any more, or after release(), the VM and the nodes forget the object.
    """

    __slots__ = ("_home", "_key", "_pieces", "_release", "__weakref__")

    def __init__(self, home, key, pieces, release):
        self._home, self._key, self._pieces, self._release = home, key, pieces, release

    def release(self):
        """Lets the VM and the nodes forget the object. Tasks that still need it fail with a LookupError."""
        release, self._release = self._release, None
        if release:
            release()

    def __del__(self):
        self.release()

    def __repr__(self):
        return f"<erlang.cluster.Handle {self._key[:8]} at {self._home}>"

    def _where(self):
        """What a node needs to fetch it. Whoever has asked for that keeps the handle until the task has ended."""
        if self._release is None:
            raise LookupError(f"{self!r} has been released")
        handles = getattr(_noted, "handles", None)
        if handles is not None:
            handles.append(self)
        return self._home, self._key, self._pieces

    def __reduce__(self):
        return fetched, self._where()


def new_key():
    """A name that no other object has, on whatever node."""
    return os.urandom(16).hex()


def pieces(data):
    """The bytes in pieces, at least one."""
    view = memoryview(data)
    return [view[at : at + PIECE] for at in range(0, len(view), PIECE)] or [view]


class Objects:
    """The objects that this node has fetched, the one that was used last at the end: so many bytes of them."""

    def __init__(self, limit=1 << 30):
        self.limit = limit
        self.fetches = 0
        self._lock = threading.Lock()
        self._kept = OrderedDict()  # key: (object, size)
        self._size = 0
        self._fetching = {}  # key: who waits until another thread has it
        self._forgotten = set()  # of those that are being fetched

    def get(self, home, key, count):
        """The object; of threads that want it at the same time one fetches it."""
        ready = None
        try:
            while True:
                with self._lock:
                    if key in self._kept:
                        self._kept.move_to_end(key)
                        return self._kept[key][0]
                    others = self._fetching.get(key)
                    if others is None:
                        self._fetching[key] = ready = Event()
                        break
                wait(others)
            data = _fetch(home, key, count)
            value = pickle.loads(data)
            self._keep(key, value, len(data))
            return value
        finally:
            if ready:
                self._fetched(key, ready)

    def _fetched(self, key, ready):
        """It is here, or has failed: then another thread tries."""
        with self._lock:
            del self._fetching[key]
            self._forgotten.discard(key)
        ready.set()

    def _keep(self, key, value, size):
        with self._lock:
            self.fetches += 1
            if key in self._forgotten:
                return
            self._kept[key] = value, size
            self._size += size
            while self._size > self.limit and len(self._kept) > 1:
                _, (_, gone) = self._kept.popitem(last=False)
                self._size -= gone

    def forget(self, key):
        """It has been released."""
        with self._lock:
            _, size = self._kept.pop(key, (None, 0))
            self._size -= size
            if key in self._fetching:
                self._forgotten.add(key)

    def stats(self):
        """How many are kept, their bytes, and how many have been fetched so far."""
        with self._lock:
            return len(self._kept), self._size, self.fetches


def _fetch(home, key, count):
    data = bytearray()
    for index in range(count):
        piece = call("py_remote:fetch", key, index, node(), node=home)
        if type(piece) is not bytes:
            why = "its handle was released, or the node that has put it has left"
            raise LookupError(f"the object {key[:8]} is gone: {why}")
        data += piece
    return data


objects = Objects()


def fetched(home, key, count):
    """What a handle is in the task."""
    return objects.get(home, key, count)
