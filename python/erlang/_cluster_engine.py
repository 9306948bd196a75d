"""The thread that has the tasks of erlang.cluster run elsewhere: one in the process, with an event loop of its own.

Any thread gives it jobs; no thread waits for a single task. Of a queue, which is an Executor's, only so many
requests are in the VM at once; the rest waits here, so that it can still be cancelled, and put into chunks of the
right size.
"""

import asyncio
import os
import threading
from collections import deque
from concurrent.futures import CancelledError

from ._cluster_codec import Atom
from ._cluster_wait import Event

TARGET = 0.2  # seconds of work in a chunk
_BRIEF = 0.01  # seconds of work in a chunk that is a brief one
_COMPUTES = 0.5  # from this share of its time in a processor on a job is one that computes
_MORE = 8  # requests that are in the VM at once beyond two for each slot, where that is of use
_PARTS = 4  # of what is left, for each slot: so a node that has become slow has little when the others have nothing
_MAX_ITEMS = 4096  # of a chunk
_MAX_BYTES = 4 << 20  # of its arguments, and of its results
_REFRESH = 1.0  # seconds after which the number of slots is asked for again


class Engine:
    """The thread and its loop."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self._inbox = deque()
        self._woken = False
        threading.Thread(target=self._run, name="erlang-cluster", daemon=True).start()

    def _run(self):
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def post(self, function, *args):
        """Has the thread call it, after all that was posted before. It takes no lock: a finalizer may do it."""
        self._inbox.append((function, args))
        if self._woken:
            return
        try:
            self._woken = True
            self.loop.call_soon_threadsafe(self._drain)
        except BaseException:  # the poster was cancelled: the next one wakes it
            self._woken = False
            raise

    def _drain(self):
        self._woken = False
        while self._inbox:
            function, args = self._inbox.popleft()
            try:
                function(*args)
            except Exception as e:
                self.loop.call_exception_handler({"message": f"{function!r} has failed", "exception": e})


_engine = None
_making = threading.Lock()


def engine():
    """The process's engine; it starts with the first that asks."""
    global _engine
    if _engine is None:
        with _making:
            if _engine is None:
                _engine = Engine()
    return _engine


def _forget():
    """A fork has none of the threads."""
    global _engine, _making
    _engine, _making = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def call(name, *args, node):
    """erlang.async_call; looked up when it is needed, since it differs in a pretended node."""
    from . import async_call

    return async_call(name, *args, node=node)


def run(coro):
    """Has the engine run the coroutine: what one can wait for, and get its value from."""
    box = Box()
    engine().post(_begin, coro, box)
    return box


def _begin(coro, box):
    box.task = keep(engine().loop.create_task(coro))
    box.task.add_done_callback(box.end)


class Box:
    """What comes of a coroutine that the engine runs."""

    def __init__(self):
        self.ended = Event()
        self.task = None

    def end(self, task):
        """The engine's."""
        self.ended.set()

    def value(self):
        """What it has returned, or raises what it has raised."""
        return self.task.result()

    def cancel(self):
        """Nobody wants it any more."""
        engine().post(lambda: self.task.cancel())


class Chunk:
    """One request: so many tasks of a job."""

    __slots__ = ("job", "index", "items", "task")

    def __init__(self, job, index, items):
        self.job, self.index, self.items = job, index, items
        self.task = None

    def cancel(self):
        """Ends it in the VM and in the node; its job has no use for it any more."""
        self.task.cancel()


class Queue:
    """What an Executor has to do. All but the constructor is the engine's."""

    def __init__(self, home, options, failed):
        self.home, self.options = home, options
        self._failed = failed  # (exception, home): what it is for the user that a request had no answer
        self._jobs = deque()
        self._outstanding = 0
        self._slots = None
        self._asked = None

    def add(self, job):
        """There is something to do."""
        if not job.queued:
            job.queued = True
            self._jobs.append(job)
        self._fill()

    def _fill(self):
        self._ask()
        if self._slots is None:
            return
        while job := self._next_job():
            self._jobs.remove(job)
            chunk = job.take(self._slots)
            if chunk:
                self._send(chunk)
            if job.waiting():
                self._jobs.append(job)  # others have their turn first
            else:
                job.queued = False

    def _next_job(self):
        """The first job that may send a request now: one runs in each slot, and one waits behind it."""
        room = 2 * self._slots - self._outstanding
        if room + _MORE > 0:
            for job in self._jobs:
                if room > 0 or job.profits():
                    return job
        return None

    def _ask(self):
        """Asks how many tasks the nodes take at once, now and then, as nodes come and go."""
        loop = engine().loop
        if self._jobs and (self._asked is None or loop.time() - self._asked > _REFRESH):
            self._asked = loop.time()
            keep(loop.create_task(self._take_slots()))

    async def _take_slots(self):
        try:
            self._slots = await call("py_remote:slots", self.options, node=self.home)
        except Exception as e:
            self._give_up(self._failed(e, self.home))
        self._fill()

    def _give_up(self, error):
        """There is no VM: all that waits ends with that."""
        self._slots = self._asked = None
        jobs, self._jobs = self._jobs, deque()
        for job in jobs:
            job.queued = False
            job.fail(error)

    def _send(self, chunk):
        self._outstanding += 1
        chunk.task = keep(engine().loop.create_task(self._answer(chunk)))
        chunk.task.add_done_callback(lambda task: self._ended(chunk, task))

    def _ended(self, chunk, task):
        """Also of a task that was cancelled before its first step: none of its code has run."""
        if task.cancelled():
            took, outcomes = None, [CancelledError()] * len(chunk.items)
        elif task.exception():
            took, outcomes = None, [self._failed(task.exception(), self.home)] * len(chunk.items)
        else:
            took, outcomes = task.result()
        self._outstanding -= 1
        chunk.job.ended(chunk, took, outcomes)
        self._fill()

    async def _answer(self, chunk):
        job = chunk.job
        limit = self.options.get(TIMEOUT)
        options = self.options if type(limit) is not int else {**self.options, TIMEOUT: limit * len(chunk.items)}
        how, value = await call("py_remote:run", [job.codec.name, job.function, chunk.items], options, node=self.home)
        if how != "ok":
            raise NoAnswer(value)
        return value


class NoAnswer(Exception):
    """What py:call has given as {error, Reason}."""


TIMEOUT = Atom("timeout")

_kept = set()


def keep(task):
    """A loop holds its tasks only weakly."""
    _kept.add(task)
    task.add_done_callback(_kept.discard)
    return task


class Single:
    """A job of one task, which has a Future."""

    def __init__(self, future, codec, function, item, handles):
        self.future, self.codec, self.function = future, codec, function
        self.queued = False
        self._item = item
        self._handles = handles  # they live as long as the task needs them
        self._chunk = None

    def waiting(self):
        """Whether it has not been taken."""
        return self._item is not None

    def profits(self):
        """Whether it gains by more requests than run and are next: nobody knows yet."""
        return True

    def take(self, slots):
        """The engine's, as what follows."""
        item, self._item = self._item, None
        if item is None or self.future._taken_back:
            return None
        self._chunk = Chunk(self, 0, [item])
        self.future._sent = True
        return self._chunk

    def ended(self, chunk, took, outcomes):
        """With the outcome: bytes, a tuple or an exception."""
        self._chunk, self._handles = None, ()
        self.future._end(self, outcomes[0])

    def fail(self, error):
        """It has not been taken, and will not be."""
        self._item, self._handles = None, ()
        self.future._end(self, error)

    def cancel(self):
        """The Future has been cancelled."""
        self._item = None
        if self._chunk:
            self._chunk.cancel()
        else:
            self._handles = ()


class Map:
    """A job of many tasks: their outcomes in order. The items come from one thread, and their takers are another.

    Without a chunksize chunks are as long as TARGET says, by what the tasks have taken so far, and shorter at the end.
    """

    def __init__(self, codec, function, chunksize, forget):
        self.codec, self.function = codec, function
        self._forget = forget  # called when each task has its outcome
        self.queued = False
        self.handles = []
        self.count = 0  # of the items so far
        self._drawn = False  # whether there will be no more
        self._chunksize = chunksize
        self._items = deque()
        self._next = 0  # the index of the first of them
        self._sent = set()
        self._seconds = None  # a task takes; which share of them its node computes; how many bytes its result has
        self._computes = 1
        self._bytes = 0
        self._lock = threading.Lock()
        self._outcomes = {}  # index: what has not been taken by the consumer
        self._ended = 0
        self._error = None  # of those from the first on
        self._first = 0
        self._waiter = None  # (index, function)

    # The items.

    def add(self, items, drawn):
        """The caller's, before it says so to the queue."""
        with self._lock:
            self.count += len(items)
            self._drawn = drawn
            if not self._error:
                self._items.extend(items)

    def waiting(self):
        """Whether any have not been taken."""
        return bool(self._items)

    def profits(self):
        """Whether it gains by more requests than run and are next: they are on their way for as long as they run,
        or wait for something while others run."""
        return self._seconds is None or self._computes < _COMPUTES or self._seconds * self._most() < _BRIEF

    def take(self, slots):
        """The engine's: the next chunk, or None when there is none."""
        if not self._items:
            self._check()
            return None
        size, items, room = self._size(slots), [], _MAX_BYTES
        while self._items and (not items or len(items) < size and len(self._items[0]) <= room):
            room -= len(self._items[0])
            items.append(self._items.popleft())
        chunk = Chunk(self, self._next, items)
        self._next += len(items)
        self._sent.add(chunk)
        return chunk

    def _size(self, slots):
        most = self._most()
        return most if self._chunksize else int(min(most, len(self._items) / (_PARTS * slots)))

    def _most(self):
        """Tasks in a request, while many wait."""
        if self._chunksize:
            return self._chunksize
        if self._seconds is None:
            return 1
        return max(1, min(TARGET / max(self._seconds, 1e-9), _MAX_ITEMS, _MAX_BYTES / max(self._bytes, 1)))

    # The outcomes.

    def ended(self, chunk, took, outcomes):
        """The engine's."""
        self._sent.discard(chunk)
        if took is not None:
            seconds, computing = took
            size = sum(len(o) for o in outcomes)
            self._measure(seconds / len(outcomes), computing / max(seconds, 1e-9), size / len(outcomes))
        with self._lock:
            self._outcomes.update(enumerate(outcomes, chunk.index))
            self._ended += len(outcomes)
            told = self._told()
        told()
        self._check()

    def _measure(self, seconds, computes, size):
        if self._seconds is None:
            self._seconds, self._computes, self._bytes = seconds, computes, size
        else:
            self._seconds += 0.3 * (seconds - self._seconds)
            self._computes += 0.3 * (computes - self._computes)
            self._bytes += 0.3 * (size - self._bytes)

    def fail(self, error, first=None):
        """The engine's: that is the outcome of the tasks from the first on; of those that have not been taken."""
        with self._lock:
            self._items.clear()
            self._error, self._first = error, self._next if first is None else first
            told = self._told()
        told()
        self._check()

    def _failed(self, index):
        return self._error is not None and index >= self._first

    def _told(self):
        """What the one who waits has asked to be called, if there is something for him now."""
        if self._waiter and (self._waiter[0] in self._outcomes or self._failed(self._waiter[0])):
            (_, told), self._waiter = self._waiter, None
            return told
        return int

    def outcome(self, index, told=None):
        """The consumer's: what has come of the task; or None, and told is called when there is something."""
        with self._lock:
            if index in self._outcomes:
                return self._outcomes.pop(index)
            if self._failed(index):
                return self._error
            self._waiter = told and (index, told)
            return None

    def _check(self):
        """When each of them has an outcome nobody waits for the job any more."""
        with self._lock:
            awaited = self._first if self._error else self.count
            ended = (self._drawn or self._error) and self._ended >= awaited
        if ended:
            self.handles = ()
            self._forget(self)

    def cancel(self):
        """The engine's: nobody wants the rest."""
        self.fail(CancelledError(), 0)
        for chunk in self._sent:
            chunk.cancel()

    def cancel_unsent(self):
        """The engine's: what has not been sent will not be."""
        if self._items or not self._drawn:
            self.fail(CancelledError())
