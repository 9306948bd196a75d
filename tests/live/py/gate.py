"""A door for live tests: a call says that it has come in and waits until the test lets it go on."""

import socket


def wait(port, value=None):
    """Connects to the test's listener, waits for its line, and returns the value."""
    with socket.create_connection(("127.0.0.1", port)) as door:
        line = b""
        while not line.endswith(b"\n"):
            line = door.recv(100)
            if not line:
                raise ConnectionError("the test has gone")
    return value


def fail(port, message):
    """Waits as wait() does and then raises."""
    wait(port)
    raise ValueError(message)
