"""Pure-Python loops for live tests: they hold the interpreter lock as much as Python code can."""

import threading
import time

import gate


def until(port):
    """Computes until the test opens the gate; returns how many rounds it took."""
    stop = []

    def wait():
        gate.wait(port)
        stop.append(True)

    threading.Thread(target=wait, daemon=True).start()
    rounds = 1
    while not stop:
        rounds += 1
    return rounds


def seconds(limit):
    """Computes for that long without a pause."""
    end = time.monotonic() + limit
    rounds = 0
    while time.monotonic() < end:
        rounds += 1
    return rounds
