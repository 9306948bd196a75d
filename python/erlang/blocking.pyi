"""Types of erlang.blocking."""

import concurrent.futures
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, ParamSpec, TypeVar, overload

from ._erlang import QueueFull as QueueFull
from ._erlang import ThreadPool

__all__ = [
    "BlockingExecutor",
    "QueueFull",
    "blocking",
    "blocking_map",
    "blocking_parallel",
    "blocking_run",
    "get_default_executor",
    "set_default_executor",
]

_P = ParamSpec("_P")
_S = TypeVar("_S")
_T = TypeVar("_T")

class BlockingExecutor(ThreadPool, concurrent.futures.Executor):  # type: ignore[misc]
    @overload  # type: ignore[override]
    def map(self, fn: Callable[[_S], _T], items: Iterable[_S], /, chunk_size: int = 0) -> list[_T]: ...
    @overload
    def map(
        self, fn: Callable[..., _T], /, *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterable[_T]: ...
    async def arun(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
    async def amap(self, fn: Callable[[_S], _T], items: Iterable[_S], chunk_size: int = 0) -> list[_T]: ...

class _Blocking(Generic[_P, _T]):
    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
    def aio(self, *args: _P.args, **kwargs: _P.kwargs) -> Awaitable[_T]: ...
    def __get__(self, instance: Any, owner: Any = None) -> _Blocking[..., _T]: ...

def get_default_executor() -> BlockingExecutor: ...
def set_default_executor(executor: BlockingExecutor | None) -> BlockingExecutor | None: ...
def blocking_run(fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T: ...
def blocking_map(
    fn: Callable[[_S], _T], items: Iterable[_S], chunk_size: int = 0, executor: BlockingExecutor | None = None
) -> list[_T]: ...
def blocking_parallel(tasks: Iterable[tuple[Any, ...]], executor: BlockingExecutor | None = None) -> list[Any]: ...
@overload
def blocking(fn: Callable[_P, _T], /, *, executor: BlockingExecutor | None = None) -> _Blocking[_P, _T]: ...
@overload
def blocking(
    fn: None = None, /, *, executor: BlockingExecutor | None = None
) -> Callable[[Callable[_P, _T]], _Blocking[_P, _T]]: ...
