"""Types of erlang.cluster."""

import concurrent.futures
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, TypeVar

from ._cluster_objects import Handle as Handle
from .errors import ErlangError

__all__ = ["Executor", "Future", "Handle", "NodeDown", "Overloaded", "Poison", "RemoteError", "aput", "put"]

_T = TypeVar("_T")

class NodeDown(ErlangError):
    node: str
    progress: str
    def __init__(self, node: str, progress: str = "unknown") -> None: ...

class Overloaded(ErlangError): ...
class Poison(ErlangError): ...

class RemoteError(RuntimeError):
    type: str
    message: str
    traceback: str
    def __init__(self, type: str, message: str, traceback: str = "") -> None: ...

class Future(concurrent.futures.Future[_T]): ...

class Executor(concurrent.futures.Executor):
    def __init__(
        self,
        pool: str | None = None,
        labels: Mapping[Any, Any] | None = None,
        *,
        node: str | None = None,
        key: Any = None,
        affinity: str | None = None,
        idempotent: bool = False,
        retries: int | None = None,
        timeout: float | None = None,
        queue_timeout: float | None = None,
        pickle: bool = False,
        ship: bool = False,
    ) -> None: ...
    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> Future[_T]: ...
    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        progress: bool = False,
    ) -> Iterator[_T]: ...
    async def asubmit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> _T: ...
    def amap(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        progress: bool = False,
    ) -> AsyncIterator[_T]: ...
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...
    async def ashutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> bool: ...
    async def __aenter__(self) -> Executor: ...
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_value: BaseException | None, traceback: TracebackType | None
    ) -> bool: ...

def put(obj: Any) -> Handle: ...
async def aput(obj: Any) -> Handle: ...
