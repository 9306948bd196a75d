"""Types of the package erlang."""

import logging
from asyncio import Task
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from ._erlang import Atom as Atom
from ._erlang import Bitstring as Bitstring
from ._erlang import Cancelled as Cancelled
from ._erlang import Fun as Fun
from ._erlang import Pid as Pid
from ._erlang import Port as Port
from ._erlang import Ref as Ref
from ._erlang import call as call
from ._erlang import cast as cast
from ._erlang import consume_time_slice as consume_time_slice
from ._erlang import demonitor as demonitor
from ._erlang import link as link
from ._erlang import monitor as monitor
from ._erlang import node as node
from ._erlang import receive as receive
from ._erlang import register as register
from ._erlang import register_converter as register_converter
from ._erlang import schedule as schedule
from ._erlang import schedule_py as schedule_py
from ._erlang import self as self
from ._erlang import send as send
from ._erlang import unlink as unlink
from ._erlang import unregister as unregister
from ._erlang import whereis as whereis
from .errors import ErlangError as ErlangError
from .errors import ProcessError as ProcessError
from .errors import TimeoutError as TimeoutError

__all__ = [
    "Atom",
    "Bitstring",
    "Cancelled",
    "ErlangError",
    "Fun",
    "LogHandler",
    "Pid",
    "Port",
    "ProcessError",
    "Ref",
    "TimeoutError",
    "async_call",
    "atom",
    "call",
    "cast",
    "consume_time_slice",
    "demonitor",
    "link",
    "monitor",
    "monitor_node",
    "node",
    "nodes",
    "receive",
    "register",
    "register_converter",
    "run",
    "schedule",
    "schedule_py",
    "self",
    "send",
    "sleep",
    "spawn_task",
    "unlink",
    "unregister",
    "whereis",
]

_T = TypeVar("_T")

def atom(name: str) -> Atom: ...
async def async_call(name: str, *args: Any, timeout: float | None = None, node: str | None = None) -> Any: ...
def monitor_node(node: str, flag: bool = True) -> None: ...
def nodes() -> list[Atom]: ...
def run(coro: Coroutine[Any, Any, _T]) -> _T: ...
def sleep(seconds: float) -> Awaitable[None] | None: ...
def spawn_task(coro: Coroutine[Any, Any, _T], name: str | None = None) -> Task[_T] | Future[_T]: ...

class LogHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None: ...

# A registered Erlang function.
def __getattr__(name: str) -> Callable[..., Any]: ...
