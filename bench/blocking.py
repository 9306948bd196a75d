"""What erlang.blocking is worth against concurrent.futures.ThreadPoolExecutor, in one run.

    pynode --name bench@127.0.0.1 bench/blocking.py [ROUNDS] [JOB]...

Each line: the median of the rounds (least and greatest beside it), the same of the standard
library's pool, the ratio of the medians, and whether what is held to be so is reached. Both are
measured in turn in each round. Status 1 when a figure is not reached.
"""

import concurrent.futures
import gc
import hashlib
import os
import statistics
import sys
import threading
import time

from erlang.blocking import BlockingExecutor

TASKS = 100_000
CALLERS = 8


def nothing():
    pass


def add_one(x):
    return x + 1


def seconds(work, *args):
    gc.collect()
    begin = time.perf_counter()
    work(*args)
    return time.perf_counter() - begin


def each_call(call, times):
    """The median of single calls."""
    clock, taken = time.perf_counter, []
    for _ in range(times):
        begin = clock()
        call()
        taken.append(clock() - begin)
    return statistics.median(taken)


def drain(pool, tasks):
    for future in [pool.submit(nothing) for _ in range(tasks)]:
        future.result()


def callers(call, times):
    """So many threads at once, each of which calls so often."""

    def work():
        for _ in range(times):
            call()

    threads = [threading.Thread(target=work) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def resident_kib():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


class Row:
    """One job: rounds of (ours, theirs), and what is to be reached."""

    def __init__(self, name, unit, measure, reached, what):
        self.name, self.unit, self.measure = name, unit, measure
        self.reached, self.what = reached, what

    def run(self, rounds):
        pairs = [self.measure() for _ in range(rounds)]
        ours = [p[0] for p in pairs]
        theirs = [p[1] for p in pairs]
        middle = statistics.median(ours)
        other = statistics.median(theirs) if None not in theirs else None
        good = self.reached(middle, other)
        figures = f"{middle:9.2f} ({min(ours):.2f} to {max(ours):.2f}) {self.unit}"
        against = f"{other:9.2f} ({min(theirs):.2f} to {max(theirs):.2f})" if other else "-"
        ratio = f"{other / middle:6.2f}" if other else "     -"
        print(f"{self.name:24} {figures:36} {against:28} {ratio}  {self.what:22} {'yes' if good else 'NO'}")
        return good


def run_sync_latency():
    with BlockingExecutor(1) as ours, concurrent.futures.ThreadPoolExecutor(1) as theirs:
        return (
            each_call(lambda: ours.run_sync(nothing), 2000) * 1e6,
            each_call(lambda: theirs.submit(nothing).result(), 2000) * 1e6,
        )


def submit_throughput():
    with BlockingExecutor(4) as ours, concurrent.futures.ThreadPoolExecutor(4) as theirs:
        return seconds(drain, ours, TASKS) * 1e3, seconds(drain, theirs, TASKS) * 1e3


def map_throughput():
    items = range(TASKS)
    with BlockingExecutor(4) as ours, concurrent.futures.ThreadPoolExecutor(4) as theirs:
        return (
            seconds(ours.map, add_one, items) * 1e3,
            seconds(lambda: list(theirs.map(add_one, items))) * 1e3,
        )


def map_against_list():
    items = list(range(TASKS))
    with BlockingExecutor(4) as ours:
        ours.map(add_one, items)
        return (
            seconds(ours.map, add_one, items) * 1e3,
            seconds(lambda: [add_one(item) for item in items]) * 1e3,
        )


def many_callers():
    with BlockingExecutor(4) as ours, concurrent.futures.ThreadPoolExecutor(4) as theirs:
        return (
            seconds(callers, lambda: ours.run_sync(nothing), 1000) * 1e3,
            seconds(callers, lambda: theirs.submit(nothing).result(), 1000) * 1e3,
        )


def sleeping():
    naps = [0.05] * 64
    with BlockingExecutor(8) as ours, concurrent.futures.ThreadPoolExecutor(8) as theirs:
        return (
            seconds(ours.map, time.sleep, naps) * 1e3,
            seconds(lambda: list(theirs.map(time.sleep, naps))) * 1e3,
        )


def hashing():
    blocks = [bytes([i]) * (4 << 20) for i in range(64)]
    with BlockingExecutor(2) as two, BlockingExecutor(1) as one:
        return seconds(two.map, hashlib.sha256, blocks), seconds(one.map, hashlib.sha256, blocks)


def memory():
    with BlockingExecutor(1) as pool:
        pool.run_sync(nothing)
    before = resident_kib()
    with BlockingExecutor(200) as pool:
        pool.map(time.sleep, [0.01] * 200, chunk_size=1)
        return (resident_kib() - before) / 200, None


def heartbeat():
    """The worst gap of a thread that wakes every 5 ms."""
    gaps, going = [], True

    def beat():
        last = time.perf_counter()
        while going:
            time.sleep(0.005)
            now = time.perf_counter()
            gaps.append(now - last - 0.005)
            last = now

    thread = threading.Thread(target=beat)
    with BlockingExecutor(8) as pool:
        thread.start()
        callers(lambda: pool.run_sync(time.sleep, 0.05), 10)
    going = False
    thread.join()
    return max(gaps) * 1e3 + 5, None


ROWS = {
    "run_sync": Row("run_sync, one caller", "us", run_sync_latency, lambda a, b: b / a >= 1.5, ">= 1.5 times"),
    "submit": Row("submit and result", "ms", submit_throughput, lambda a, b: b / a >= 3, ">= 3 times"),
    "map": Row("map", "ms", map_throughput, lambda a, b: b / a >= 20, ">= 20 times"),
    "list": Row("map, list comprehension", "ms", map_against_list, lambda a, b: a / b <= 2, "<= 2 lists (>= 0.5)"),
    "callers": Row("run_sync, 8 callers", "ms", many_callers, lambda a, b: b / a >= 2, ">= 2 times"),
    "sleep": Row("64 sleeps, 8 threads", "ms", sleeping, lambda a, b: a <= 412, "<= 412 ms"),
    "hash": Row("sha256, 2 threads to 1", "s", hashing, lambda a, b: b / a >= 1.9, ">= 1.9 times one"),
    "memory": Row("a thread's memory", "KiB", memory, lambda a, b: a <= 64, "<= 64 KiB"),
    "heartbeat": Row("worst beat of 5 ms", "ms", heartbeat, lambda a, b: a < 10, "< 10 ms"),
}


def main(arguments):
    rounds = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else 5
    unknown = [name for name in arguments if name not in ROWS]
    if unknown:
        sys.exit(f"no such job: {unknown[0]}; there are {', '.join(ROWS)}")
    print(f"{'job':24} {'erlang.blocking':36} {'ThreadPoolExecutor, or 1':28} {'ratio':>6}  to reach")
    good = [ROWS[name].run(rounds) for name in arguments or ROWS]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
