"""Calls into C that keep the interpreter lock, as no Python code can."""

import ctypes
import re
import socket

_library = ctypes.PyDLL(None)


def until(port):
    """Keeps the lock until the test opens the gate."""
    byte = ctypes.create_string_buffer(1)
    with socket.create_connection(("127.0.0.1", port)) as door:
        return _library.read(door.fileno(), byte, 1)


def matching(length):
    """A regular expression that tries two ways for each letter."""
    return re.match("(a|aa)+$", "a" * length + "b")
