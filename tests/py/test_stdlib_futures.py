"""test_stdlib_futures - the standard library's own tests of thread pools, for a BlockingExecutor.

Those of test.test_concurrent_futures that are of any Executor or of a thread pool are run with
BlockingExecutor in the place of ThreadPoolExecutor; LEFT_OUT names the others and why. Debian keeps
the tests apart from Python: libpython3.11-testsuite, or the one of the Python in use.
"""

import concurrent.futures
import concurrent.futures.thread  # the class is loaded when it is asked for
import faulthandler
import importlib
import signal
import sys
import unittest

import tap

from erlang.blocking import BlockingExecutor

LOOKS_INTO = "looks into ThreadPoolExecutor's list of threads"
OTHER_PROCESS = "runs plain Python in a process of its own; test_blocking has the like for a node"

LEFT_OUT = {
    "test_default_workers": "ThreadPoolExecutor's own number of threads",
    "test_saturation": LOOKS_INTO,
    "test_idle_thread_reuse": LOOKS_INTO,
    "test_threads_terminate": LOOKS_INTO,
    "test_context_manager_shutdown": LOOKS_INTO,
    "test_del_shutdown": LOOKS_INTO,
    "test_shutdown_no_wait": LOOKS_INTO,
    "test_thread_names_assigned": LOOKS_INTO,
    "test_thread_names_default": LOOKS_INTO,
    "test_interpreter_shutdown": OTHER_PROCESS,
    "test_submit_after_interpreter_shutdown": OTHER_PROCESS,
    "test_cancel_futures_wait_false": OTHER_PROCESS,
    "test_hang_gh83386": OTHER_PROCESS,
    "test_hang_gh94440": OTHER_PROCESS,
    "ThreadPoolExecutorFailingInitializerTest.test_initializer": "waits for a logged error and looks"
    " into _broken; here the constructor has waited for the initializers, and the error is the cause",
    "ThreadPoolFailingInitializerTest.test_initializer": "the same",
}

MODULES = ("test_thread_pool", "test_wait", "test_as_completed", "test_init", "test_shutdown")


class Adapter(BlockingExecutor):
    """BlockingExecutor with the arguments of ThreadPoolExecutor."""

    def __init__(self, max_workers=0, thread_name_prefix="", **options):
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        super().__init__(max_workers or 0, thread_name_prefix=thread_name_prefix, **options)

    def map(self, fn, *iterables, timeout=None, chunksize=1, **options):
        """In the form of concurrent.futures, for one iterable, too; 3.14 has buffersize."""
        return super().map(fn, *iterables, timeout=timeout, chunksize=chunksize, **options)

    def shutdown(self, wait=True, *, timeout_secs=None, cancel_futures=False):
        """A test expects that some tasks have begun by now; here submit is quicker than that."""
        if cancel_futures:
            tap.wait_for(self.busy_threads)
        return super().shutdown(wait, timeout_secs, cancel_futures=cancel_futures)


def modules():
    """The modules with the tests; none when they are not installed."""
    try:
        package = importlib.import_module("test.test_concurrent_futures")
    except ImportError:
        return []
    if not hasattr(package, "__path__"):
        return [package]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in MODULES]


def cases(module):
    """The cases of a module that are of thread pools."""
    for value in vars(module).values():
        if (
            isinstance(value, type)
            and issubclass(value, unittest.TestCase)
            and getattr(value, "executor_type", None) is concurrent.futures.ThreadPoolExecutor
        ):
            yield from unittest.defaultTestLoader.loadTestsFromTestCase(value)


def run_case(case):
    result = unittest.TestResult()
    case.run(result)
    for _, text in result.errors + result.failures:
        raise AssertionError(text)
    if result.skipped:
        raise tap.Skip(result.skipped[0][1])


def name_of(case):
    return f"{type(case).__name__}.{case._testMethodName}"


def left_out(case):
    return LEFT_OUT.get(case._testMethodName) or LEFT_OUT.get(name_of(case))


def main():
    found = {name_of(case): case for module in modules() for case in cases(module)}
    if not found:
        version = ".".join(map(str, sys.version_info[:2]))
        tap.bail_out(
            f"no test.test_concurrent_futures in {sys.prefix}: install the tests of Python {version}"
            f" (Debian: libpython{version}-testsuite)"
        )
    importlib.import_module("test.support").verbose = 0
    words = sys.argv[1:]
    found = {n: c for n, c in found.items() if not words or any(w in n for w in words)}
    for case in found.values():
        type(case).executor_type = Adapter
        if left_out(case):
            print(f"# left out: {name_of(case)}: {left_out(case)}")
    concurrent.futures.ThreadPoolExecutor = Adapter
    tap.run((name, lambda c=case: run_case(c)) for name, case in found.items() if not left_out(case))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(170, exit=True)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
    faulthandler.cancel_dump_traceback_later()
