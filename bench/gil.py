"""What the switch interval and gc.freeze() are worth: the figures behind pynode's settings.

    python3 bench/gil.py [SECONDS]

For each switch interval: how long a thread waits for the GIL behind one that computes (median
and p99), and how much less two computing threads get done together than one alone. Then: what a
full garbage collection costs with and without the start-up's objects frozen. Plain Python, no node.
"""

import gc
import importlib
import statistics
import sys
import threading
import time

INTERVALS_MS = (5.0, 1.0, 0.5, 0.2, 0.1)
IMPORTS = ("asyncio", "decimal", "email.message", "http.client", "json", "logging", "sqlite3")


class Spinner(threading.Thread):
    """Computes until told to stop; counts its rounds."""

    def __init__(self):
        super().__init__(daemon=True)
        self.rounds = 0
        self.going = True

    def run(self):
        while self.going:
            self.rounds += 1

    def stop(self):
        self.going = False
        self.join()


def waits_us(seconds):
    """How long this thread waits for the GIL each time it has given it up."""
    spinner, waits, end = Spinner(), [], time.perf_counter() + seconds
    spinner.start()
    while (begin := time.perf_counter()) < end:
        time.sleep(0)
        waits.append((time.perf_counter() - begin) * 1e6)
    spinner.stop()
    return sorted(waits)


def rounds_per_second(threads, seconds):
    """What so many computing threads get done together."""
    spinners = [Spinner() for _ in range(threads)]
    begin = time.perf_counter()
    for spinner in spinners:
        spinner.start()
    time.sleep(seconds)
    for spinner in spinners:
        spinner.going = False
    for spinner in spinners:
        spinner.join()
    return sum(s.rounds for s in spinners) / (time.perf_counter() - begin)


def collect_us():
    """The median of full collections."""
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        gc.collect()
        times.append((time.perf_counter() - begin) * 1e6)
    return statistics.median(times)


def main(seconds=1.0):
    usual = sys.getswitchinterval()
    print("switch interval   wait for the GIL, us       two threads")
    print("                     median        p99   against one alone")
    for ms in INTERVALS_MS:
        sys.setswitchinterval(ms / 1000)
        waits = waits_us(seconds)
        ratios = []
        for _ in range(5):
            alone = rounds_per_second(1, seconds / 4)
            ratios.append(rounds_per_second(2, seconds / 4) / alone)
        p99 = waits[len(waits) * 99 // 100]
        middle = statistics.median(waits)
        print(f"{ms:12.1f} ms {middle:12.0f} {p99:10.0f} {statistics.median(ratios):17.2f}")
    sys.setswitchinterval(usual)

    for name in IMPORTS:
        importlib.import_module(name)
    gc.collect()
    before, objects = collect_us(), len(gc.get_objects())
    gc.freeze()
    print(f"\nfull collection after {len(IMPORTS)} imports: {before:.0f} us for {objects} objects;")
    print(f"after gc.freeze(): {collect_us():.1f} us")


if __name__ == "__main__":
    main(*map(float, sys.argv[1:2]))
