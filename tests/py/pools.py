"""pools - what the tests of erlang.blocking share."""

import ctypes
import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time

import tap
from tap import equal, raises, wait_for

CASES = []
SHUT_DOWN = "BlockingExecutor is shut down"


def case(name):
    def add(function):
        CASES.append((name, function))
        return function

    return add


def identity(x):
    return x


def fail(kind=ValueError, *args):
    raise kind(*args)


class Gate:
    """Holds threads of a pool until it is opened."""

    def __init__(self, pool=None, threads=0):
        self.opened, self.entered = threading.Event(), threading.Semaphore(0)
        self.futures = [pool.submit(self.wait) for _ in range(threads)]
        for _ in range(threads):
            assert self.entered.acquire(timeout=tap.LIMIT)

    def wait(self, *_):
        self.entered.release()
        assert self.opened.wait(tap.LIMIT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.opened.set()


def in_thread(call, *args):
    """A thread that runs the call, and the list its result goes to."""
    results = []

    def work():
        try:
            results.append(call(*args))
        except BaseException as e:
            results.append(e)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, results


def interrupt_when(holds, heard=None):
    """Sends this process a SIGINT as soon as that is so; another one each second until it is heard.

    The interpreter's own locks can miss one that comes just before they sleep.
    """

    def work():
        wait_for(holds)
        os.kill(os.getpid(), signal.SIGINT)
        while heard and not heard.wait(1):
            os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def sleeps(ident):
    """Whether a thread, by its native id, sleeps."""
    try:
        with open(f"/proc/self/task/{ident}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] == "S"
    except OSError:
        return False


def script(text, *options, env=None, input=None):
    """Runs a script in a node of its own: status, output."""
    with tempfile.NamedTemporaryFile("w", suffix=".py", dir=os.environ["PY_TMP"]) as f:
        f.write("from erlang.blocking import *\nimport os, sys, time, threading, signal\n" + text)
        f.flush()
        done = subprocess.run(
            [os.environ["PYNODE"], "--name", f"child{os.urandom(4).hex()}@127.0.0.1", f.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=tap.LIMIT,
            env={**os.environ, **(env or {})},
        )
    sys.stdout.flush()
    log = [line for line in done.stderr.splitlines() if " info node" not in line]
    return done.returncode, done.stdout, "\n".join(log)


def clean(text, output, **options):
    """The script ends with status 0, that output and nothing in its log."""
    equal(script(text, **options), (0, output, ""))


def beats(work):
    """The worst gap, in seconds, of a thread that wakes every 5 ms while work() runs."""
    gaps, going = [], True

    def beat():
        last = time.perf_counter()
        while going:
            time.sleep(0.005)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        work()
    finally:
        going = False
        thread.join()
    return max(gaps)


def interrupted(call, *args, holds, after=None):
    """The call, of which the main thread hears Ctrl-C."""
    heard = threading.Event()
    thread = interrupt_when(holds, heard)
    begin = time.monotonic()
    raises(KeyboardInterrupt, call, *args)
    heard.set()
    taken = time.monotonic() - begin
    thread.join()
    assert taken < 20, taken


def switches(tids):
    total = 0
    for tid in tids:
        with open(f"/proc/self/task/{tid}/status") as f:
            total += sum(int(line.split()[1]) for line in f if "ctxt_switches" in line)
    return total


def resident_kib():
    if hasattr(ctypes.CDLL(None), "__asan_init"):
        raise tap.Skip("AddressSanitizer keeps memory")
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def main():
    """Runs the cases of the module; words on the command line choose among them."""
    faulthandler.dump_traceback_later(170, exit=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    words = sys.argv[1:]
    tap.run((n, c) for n, c in CASES if not words or any(w in n for w in words))
    faulthandler.cancel_dump_traceback_later()
