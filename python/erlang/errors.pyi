"""Types of erlang.errors."""

import builtins
from collections.abc import Sequence
from typing import Any

__all__ = ["ErlangError", "ProcessError", "TimeoutError"]

class ErlangError(RuntimeError):
    reason: Any
    error_class: str
    stacktrace: Sequence[Any]
    def __init__(self, reason: Any = "", error_class: str = "error", stacktrace: Sequence[Any] = ()) -> None: ...

class ProcessError(ErlangError): ...
class TimeoutError(ErlangError, builtins.TimeoutError): ...
