"""What a call sees of its process, and children of that process, for live tests."""

import os
import subprocess
import threading
import time

NULL = subprocess.DEVNULL


def is_main():
    """Whether the call runs in Python's main thread."""
    return threading.current_thread() is threading.main_thread()


def spawn_sleeper():
    """A program that outlives the node: its process number."""
    return subprocess.Popen(["sleep", "60"], stdin=NULL, stdout=NULL, stderr=NULL).pid


def fork_sleeper():
    """A fork that outlives the node: its process number."""
    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in 0, 1, 2:
            os.dup2(null, fd)
        time.sleep(60)
        os._exit(0)
    return pid
