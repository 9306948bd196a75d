"""The VM that a pretended node asks for what erlang.cluster does: one node, which is this process."""

import importlib

from ._types import Atom

_SLOTS = 2


class Remote:
    """Its functions, by the names that Erlang has for them (py_remote.erl)."""

    def __init__(self):
        self._pieces = {}
        self.functions = {
            "py_remote:run": self.run,
            "py_remote:slots": lambda options: _SLOTS,
            "py_remote:put": self.put,
            "py_remote:fetch": self.fetch,
            "py_remote:release": self.release,
        }

    @staticmethod
    def run(args, options):
        """Runs the tasks here; a node would have them run by another one."""
        codec, function, items = args
        # Looked up as a node would look it up: most tests do not need what it imports.
        chunk = importlib.import_module("erlang._cluster_run").chunk
        try:
            value = chunk(codec, function, items)
            if hasattr(value, "__await__"):
                import asyncio

                value = asyncio.run(value)
        except Exception as e:
            return Atom("error"), (Atom(type(e).__name__), str(e))
        return Atom("ok"), value

    def put(self, node, key, index, data):
        """Keeps a piece of an object."""
        self._pieces[key, index] = bytes(data, "utf-8") if type(data) is str else data
        return Atom("ok")

    def fetch(self, key, index, node):
        """Gives it."""
        data = self._pieces.get((key, index))
        return Atom("gone") if data is None else (Atom("bytes"), data)

    def release(self, key):
        """Forgets the object."""
        from ._cluster_objects import objects

        self._pieces = {at: data for at, data in self._pieces.items() if at[0] != key}
        objects.forget(key)
        return Atom("ok")
