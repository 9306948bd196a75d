"""What a node does that live_port watches: prints, ends in odd ways, keeps the interpreter lock for good."""

import ctypes
import os
import subprocess
import sys

import gate


def say(text, stream="stdout"):
    """Prints a line, as it is."""
    print(text, file=getattr(sys, stream), flush=True)


def say_bytes(data):
    """Writes what may be no text."""
    os.write(1, data)


def die(signal):
    """Ends the process by a signal."""
    os.kill(os.getpid(), signal)


def hold(port):
    """Keeps the interpreter lock for good, from when the gate is opened."""
    gate.wait(port)
    ctypes.PyDLL(None).sleep(3600)


def child(new_session=False):
    """Starts a process that holds the output open; its number."""
    return subprocess.Popen(["sleep", "3600"], start_new_session=new_session).pid


def compute():
    """Uses a processor for good."""
    while True:
        pass


def environment(name):
    """A variable of the environment, or None."""
    return os.environ.get(name)


def limit(name):
    """Both limits of a resource."""
    import resource

    return resource.getrlimit(getattr(resource, name))
