"""Work that is nothing but computing, for nodes and for plain Python processes."""

import os
import statistics
import subprocess
import sys
import time


def spin(n):
    """Computes for a while, with the GIL: the same work each time."""
    total = 0
    for i in range(n):
        total += i & 7
    return total


def spins(tasks, n):
    """So many in one call: when it began, and when each ended."""
    times = [time.monotonic()]
    for _ in range(tasks):
        spin(n)
        times.append(time.monotonic())
    return times


def spin_of(seconds):
    """How much spin() does in so long, when nothing else runs."""
    took = []
    for _ in range(50):
        began = time.perf_counter()
        spin(10_000)
        took.append(time.perf_counter() - began)
    return round(10_000 * seconds / statistics.median(took))


def spin_for(seconds, n):
    """How many spins a second this process makes."""
    spin_of(0.001)
    began = time.perf_counter()
    done = 0
    while time.perf_counter() - began < seconds:
        spin(n)
        done += 1
    return done / (time.perf_counter() - began)


def plain_rate(processes, seconds, n):
    """The same of so many processes at once that are no nodes."""
    code = f"import bench_spin; print(bench_spin.spin_for({seconds}, {n}))"
    command = [os.environ.get("PYTHON", sys.executable), "-c", code]
    children = [
        subprocess.Popen(command, cwd=os.path.dirname(__file__), stdout=subprocess.PIPE)
        for _ in range(processes)
    ]
    return sum(float(child.communicate()[0]) for child in children)
