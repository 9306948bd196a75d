"""Types of erlang.testing."""

from collections.abc import Callable, Mapping
from contextlib import ContextDecorator
from typing import Any, NamedTuple

from ._erlang import Pid

__all__ = ["Call", "Node", "node"]

class Call(NamedTuple):
    name: str
    args: list[Any]

class Node:
    name: str
    functions: dict[str, Callable[..., Any]]
    calls: list[Call]
    logs: list[tuple[str, str, str, dict[str, Any]]]
    @property
    def sent(self) -> list[tuple[Pid | tuple[str, str], Any]]: ...
    def spawn(self) -> Pid: ...
    def exit(self, pid: Pid, reason: Any = "normal") -> None: ...
    def call_server(self, name: str, request: Any, caller: Pid | None = None, timeout: float = 5) -> Any: ...
    def cast_server(self, name: str, request: Any, timeout: float = 5) -> None: ...

class _Running(ContextDecorator):
    def __enter__(self) -> Node: ...
    def __exit__(self, *exc_info: object) -> None: ...

def node(functions: Mapping[str, Callable[..., Any]] | None = None, *, name: str = "py@test") -> _Running: ...
