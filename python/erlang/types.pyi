"""Types of erlang.types."""

from typing import Any

from ._erlang import Atom as Atom
from ._erlang import Bitstring as Bitstring
from ._erlang import Cancelled as Cancelled
from ._erlang import Fun as Fun
from ._erlang import Pid as Pid
from ._erlang import Port as Port
from ._erlang import Ref as Ref

__all__ = ["Atom", "Bitstring", "Cancelled", "Fun", "Pid", "Port", "Ref", "unpickle"]

def unpickle(data: bytes) -> Any: ...
