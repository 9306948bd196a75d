"""The processes of a node that erlang.testing pretends: threads, servers and Erlang's own.

A thread's process ends with what keeps it in the thread's locals. All that is here is guarded by one
lock; no code of a user runs while it is held.
"""

import builtins
import logging
import os
import struct
import threading
import time
from collections import deque
from concurrent.futures import Future

from ._terms import decode, encode
from ._threads import watch
from ._types import Atom, Pid, Ref
from .errors import ErlangError, ProcessError, TimeoutError

_logger = logging.getLogger("erlang.testing")

ELSEWHERE = "erl@test"  # the node of spawn()
_RESERVED = ("", "rex", "net_kernel", "pynode")
_NORMAL, _NOPROC, _NOCONNECTION = Atom("normal"), Atom("noproc"), Atom("noconnection")


def convert(obj, root):
    """What the object is when it has gone to Erlang and come back."""
    return decode(encode(obj, root), root)


def _node_term(name):
    return encode(Atom(name))[1:]


class _Process:
    """A thread, or a process of spawn()."""

    def __init__(self, pid):
        self.pid = pid
        self.mailbox = deque()
        self.monitors = {}  # Ref: (the watching process, what its DOWN calls this one)
        self.links = set()  # processes
        self.reason = _NORMAL


class _Server(_Process):
    """A registered object; its mailbox has _Jobs, which one thread at a time takes care of."""

    def __init__(self, pid, obj):
        super().__init__(pid)
        self.object = obj
        self.busy = False


class _Alive:
    """In a thread's locals: gone when the thread is."""

    def __init__(self, processes, process):
        self.processes, self.process = processes, process

    def __del__(self):
        self.processes.thread_ended(self.process)


class Processes:
    """All processes of a node."""

    def __init__(self, name):
        self.node = Atom(name)
        self.sent = []
        self._changed = threading.Condition(threading.RLock())
        self._local = threading.local()
        self._pids = {}
        self._names = {}
        self._refs = {}  # Ref: the monitored process
        self._node_monitors = []  # (node, the watching process), one for each message
        self._due = deque()  # servers that have got something
        self._count = 0
        self._closed = False

    def close(self):
        """Ends all: threads that wait for a message get an error."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    # Making and ending.

    def _new_pid(self, node):
        self._count += 1
        return decode(b"\x83X" + _node_term(node) + struct.pack(">III", self._count, 0, 1))

    def _new_ref(self):
        self._count += 1
        return decode(b"\x83Z\0\3" + _node_term(self.node) + struct.pack(">IIII", 1, self._count, 0, 0))

    def own(self):
        """The calling thread's process, or the server whose method it runs."""
        server = getattr(self._local, "server", None)
        return server or self._thread()

    def _thread(self):
        alive = getattr(self._local, "alive", None)
        if alive:
            return alive.process
        with self._changed:
            process = self._add(_Process(self._new_pid(self.node)))
        self._local.alive = _Alive(self, process)
        watch(self._thread_failed)
        return process

    def spawn(self):
        """A process of another node."""
        with self._changed:
            return self._add(_Process(self._new_pid(ELSEWHERE)))

    def _add(self, process):
        self._pids[process.pid] = process
        return process

    def _thread_failed(self, exception):
        reason = (Atom("python_error"), Atom(type(exception).__name__), str(exception))
        self._thread().reason = (reason, _stack(exception.__traceback__))

    def thread_ended(self, process):
        """A thread is no more."""
        with self._changed:
            if self._closed:
                return
            self._end(process, process.reason)
        self._settle()

    def exit(self, pid, reason):
        """Ends a process of spawn()."""
        with self._changed:
            process = self._pids.get(pid)
            if process is None or pid.node == self.node:
                raise ValueError(f"{pid!r} is no process of spawn()")
            self._end(process, reason)
        self._settle()

    def _end(self, process, reason):
        del self._pids[process.pid]
        self._names = {n: p for n, p in self._names.items() if p is not process}
        self._node_monitors = [m for m in self._node_monitors if m[1] is not process]
        for ref, (watcher, shown) in process.monitors.items():
            self._refs.pop(ref, None)
            self._down(watcher, ref, shown, reason)
        for linked in process.links:
            linked.links.discard(process)
            self._exit(linked, process.pid, reason)
        for ref in [ref for ref, target in self._refs.items() if target.monitors[ref][0] is process]:
            del self._refs.pop(ref).monitors[ref]

    def _down(self, watcher, ref, shown, reason):
        self._deliver(watcher, (Atom("DOWN"), ref, Atom("process"), shown, reason))

    def _exit(self, process, pid, reason):
        self._deliver(process, (Atom("EXIT"), pid, reason))

    def _deliver(self, process, message):
        if isinstance(process, _Server):
            process.mailbox.append(_Job(process, "handle_info", message))
            self._due.append(process)
        else:
            process.mailbox.append(message)
            self._changed.notify_all()

    # Names.

    def register(self, name, obj):
        """Names a server, or the calling thread if there is no object."""
        _check_name(name)
        if name in _RESERVED:
            raise ValueError(f"the name '{name}' cannot be registered")
        own = self.own() if obj is ... else None
        if isinstance(own, _Server):
            raise ValueError("what runs here is a registered object, with its name")
        with self._changed:
            if own and (name in self._names or own in self._names.values()):
                text = "is registered already, or the process has another name"
                raise ValueError(f"the name '{name}' {text}")
            if name in self._names:
                raise ValueError(f"the name '{name}' is registered already")
            self._names[str(name)] = own or self._add(_Server(self._new_pid(self.node), obj))

    def unregister(self, name):
        """Takes a name away; a server ends with it."""
        _check_name(name)
        with self._changed:
            process = self._names.pop(name, None)
            if process is None:
                raise ValueError(f"the name '{name}' is not registered")
            if isinstance(process, _Server):
                self._end(process, _NORMAL)
        self._settle()

    def whereis(self, name):
        """The Pid of that name, or None."""
        _check_name(name)
        with self._changed:
            process = self._names.get(name)
        return process.pid if process else None

    # Messages.

    def send(self, dest, term):
        """To a process of this node; what leaves it is noted."""
        name = _name_of(dest, self.node)
        if name is None and type(dest) is not Pid and not _is_address(dest):
            kind = type(dest).__name__
            raise TypeError(f"cannot send to a {kind}: not a Pid, name or (name, node)")
        message = convert(term, "message")
        with self._changed:
            if name is not None:
                process = self._names.get(name)
                if process is None:
                    raise ValueError(f"no process is registered as '{name}'")
            elif type(dest) is Pid and dest.node == self.node:
                process = self._pids.get(dest)  # to nobody: as in Erlang
            else:
                self.sent.append((dest, message))
                process = None
            if process:
                self._deliver(process, message)
        self._settle()

    def receive(self, timeout):
        """The oldest message of the calling thread."""
        if timeout is not None and not timeout >= 0:
            raise ValueError("timeout must not be negative")
        process = self.own()
        if isinstance(process, _Server):
            raise RuntimeError("messages to a registered object reach its method handle_info")
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not process.mailbox:
                if self._closed:
                    raise ErlangError("the pretended node has ended")
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError("no message in time")
                self._changed.wait(left if left is None else min(left, threading.TIMEOUT_MAX))
            return process.mailbox.popleft()

    # Servers.

    def serve(self, name, method, request, timeout, *caller):
        """What the server's method gives; what it raises is raised."""
        _check_name(name)
        with self._changed:
            server = self._names.get(name)
        if server is None:
            raise ProcessError(_NOPROC, "exit")
        if not isinstance(server, _Server):
            raise ValueError(f"'{name}' is a thread: it gets messages by erlang.send")
        if caller == (None,):
            caller = (self.spawn().pid,)
        job = _Job(server, method, convert(request, "request"), *caller)
        job.awaited = True
        with self._changed:
            server.mailbox.append(job)
            self._due.append(server)
        self._settle()
        try:
            return job.result(timeout)
        except builtins.TimeoutError:
            if job.done():
                raise
            raise TimeoutError(f"no answer from '{name}' in time") from None

    def _settle(self):
        """Has done what waits in the mailboxes of servers, but for those that another thread runs."""
        while self._due:
            try:
                server = self._due.popleft()
            except IndexError:  # another thread was quicker
                return
            with self._changed:
                if server.busy:
                    continue
                server.busy = True
            try:
                while job := self._next(server):
                    self._run(server, job)
            except BaseException:
                server.busy = False
                raise

    def _next(self, server):
        with self._changed:
            if server.mailbox:
                return server.mailbox.popleft()
            server.busy = False
            return None

    def _run(self, server, job):
        before, self._local.server = getattr(self._local, "server", None), server
        try:
            job.run()
        finally:
            self._local.server = before

    # Monitors and links.

    def monitor(self, target):
        """The calling thread gets DOWN when the target ends."""
        own, name = self.own(), _name_of(target, self.node)
        with self._changed:
            ref = self._new_ref()
            if name is not None:
                process, shown = self._names.get(name), (Atom(name), self.node)
            elif type(target) is Pid:
                process, shown = self._pids.get(target), target
            elif _is_address(target):
                process, shown = None, (Atom(target[0]), Atom(target[1]))
            else:
                kind = type(target).__name__
                raise TypeError(f"cannot watch a {kind}: not a Pid, name or (name, node)")
            if process:
                process.monitors[ref] = (own, shown)
                self._refs[ref] = process
            else:
                here = name is not None or type(target) is Pid and target.node in (self.node, ELSEWHERE)
                self._down(own, ref, shown, _NOPROC if here else _NOCONNECTION)
        self._settle()
        return ref

    def monitor_node(self, node, flag):
        """The calling thread gets nodedown when the node goes; or one time less."""
        own, node = self.own(), check_node(node)
        with self._changed:
            if flag:
                self._node_monitors.append((node, own))
            elif (node, own) in self._node_monitors:
                self._node_monitors.remove((node, own))

    def nodedown(self, node):
        """Tells those who watch the node."""
        node = check_node(node)
        with self._changed:
            told = [own for name, own in self._node_monitors if name == node]
            self._node_monitors = [m for m in self._node_monitors if m[0] != node]
            for own in told:
                self._deliver(own, (Atom("nodedown"), node))
        self._settle()

    def demonitor(self, ref):
        """Ends a monitor."""
        if type(ref) is not Ref:
            raise TypeError(f"not a Ref but a {type(ref).__name__}")
        with self._changed:
            process = self._refs.pop(ref, None)
            if process:
                del process.monitors[ref]

    def link(self, pid):
        """Links the calling thread; to nobody: EXIT with noproc."""
        own = self.own()
        _check_pid(pid)
        with self._changed:
            process = self._pids.get(pid)
            if process is own:
                return
            if process:
                process.links.add(own)
                own.links.add(process)
            else:
                here = pid.node in (self.node, ELSEWHERE)
                self._exit(own, pid, _NOPROC if here else _NOCONNECTION)
        self._settle()

    def unlink(self, pid):
        """Ends a link."""
        own = self.own()
        _check_pid(pid)
        with self._changed:
            process = self._pids.get(pid)
            if process:
                process.links.discard(own)
                own.links.discard(process)


class _Job(Future):
    """A method of a server to be called: a Future of what it gives."""

    def __init__(self, server, method, *args):
        super().__init__()
        self.server, self.method, self.args = server, method, args
        self.awaited = False

    def run(self):
        """Calls it."""
        try:
            value = getattr(self.server.object, self.method)(*self.args)
            self.set_result(convert(value, "result") if self.method == "handle_call" else None)
        except Exception as e:
            if not self.awaited:
                _logger.warning("a %s failed", self.method, exc_info=True)
            self.set_exception(e)


def _check_name(name):
    if not isinstance(name, str):
        raise TypeError(f"the name must be str, not {type(name).__name__}")


def check_node(name):
    """The name of an Erlang node that can be watched, as an Atom."""
    if not isinstance(name, str):
        raise TypeError(f"node: not a str but a {type(name).__name__}")
    if name == ELSEWHERE:
        raise ValueError(f"{name!r} is the node that watches: use erlang.monitor((name, node))")
    if len(name.split("@")) != 2 or not all(name.split("@")):
        raise ValueError(f"{name!r} is not NAME@HOST")
    return Atom(name)


def _check_pid(pid):
    if type(pid) is not Pid:
        raise TypeError(f"not a Pid but a {type(pid).__name__}")


def _stack(traceback):
    """The frames as Erlang's, the innermost first."""
    frames = []
    while traceback:
        code = traceback.tb_frame.f_code
        where = [(Atom("file"), list(os.fsencode(code.co_filename))), (Atom("line"), traceback.tb_lineno)]
        module = Atom(str(traceback.tb_frame.f_globals.get("__name__", "?")))
        frames.insert(0, (module, Atom(code.co_qualname), code.co_argcount, where))
        traceback = traceback.tb_next
    return frames


def _is_address(dest):
    """Whether it is (name, node)."""
    return isinstance(dest, tuple) and len(dest) == 2 and all(isinstance(part, str) for part in dest)


def _name_of(dest, node):
    """The name if the destination is one of this node, else None."""
    if isinstance(dest, str):
        return str(dest)
    if _is_address(dest) and dest[1] == node:
        return str(dest[0])
    return None
