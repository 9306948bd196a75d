"""test_package - the package erlang in a node: names, examples, pickles to and from plain python3."""

import concurrent.futures
import inspect
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading

import erlang
import package
import tap
from erlang import Atom, Bitstring, _terms, _threads, testing, types
from tap import equal, raises
from type_cases import TYPE_SAMPLES, type_samples

CASES = []
_erlang = sys.modules.get("_erlang")  # None in the process that multiprocessing spawns


def case(name):
    return lambda function: CASES.append((name, function))


@case("every name is there, with a docstring, and the native ones are the node's")
def _():
    for m in (erlang, *map(package.module, package.PUBLIC)):
        package.all_have_docstrings(m)
    for name in ("Atom", "Bitstring", "Cancelled", "Fun", "Pid", "Port", "Ref"):
        assert getattr(types, name) is getattr(erlang, name) is getattr(_erlang, name)
    native = {name for name in erlang.__all__ if inspect.isbuiltin(getattr(erlang, name))}
    pretended = {name for name in erlang._outside.__all__ if inspect.isfunction(getattr(erlang._outside, name))}
    equal(native | {"async_call", "monitor_node", "nodes"}, pretended)
    assert inspect.iscoroutinefunction(erlang.async_call) and inspect.iscoroutinefunction(erlang._outside.async_call)
    equal(inspect.signature(erlang.async_call), inspect.signature(erlang._outside.async_call))


@case("a name with a NUL in it is refused by send, not cut off there")
def _():
    raises(ValueError, erlang.send, "a\0b", 1, text="NUL")
    raises(ValueError, erlang.send, ("a\0b", "b@127.0.0.1"), 1, text="NUL")
    raises(ValueError, erlang.send, ("a", "b\0c@127.0.0.1"), 1, text="NUL")


@case("the examples in the docstrings are true")
def _():
    tried = sum(map(package.run_examples, (erlang, types, erlang.errors)))
    assert tried > 20, tried


@case("any other name is an Erlang function")
def _():
    from erlang import double_it

    assert double_it is erlang.double_it
    equal(repr(double_it), "<Erlang function double_it>")
    assert pickle.loads(pickle.dumps(double_it)) is double_it
    raises(AttributeError, getattr, erlang, "_private")


@case("erlang.testing pretends no node inside a real one")
def _():
    raises(RuntimeError, testing.node, text="this is a real one")


def samples(decode):
    return [*vars(type_samples(decode)).values(), Atom("ok"), Bitstring(b"a\xff", 3)]


def plain(text, data=b""):
    """What a python3 without a node prints, given data as input."""
    path = os.pathsep.join([os.path.dirname(erlang.__path__[0]), os.path.dirname(__file__)])
    done = subprocess.run(
        [os.environ["PYTHON"], "-c", "import erlang, pickle, sys\n" + text],
        input=data,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        timeout=tap.LIMIT,
        check=True,
    )
    return done.stdout


@case("what is pickled in the node is loaded by python3, and what python3 has made of it by the node")
def _():
    made = samples(_erlang.decode)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = plain(
            "made = pickle.load(sys.stdin.buffer)\n"
            "assert '_erlang' not in sys.modules\n"
            f"sys.stdout.buffer.write(pickle.dumps((made, repr(made)), {protocol}))",
            pickle.dumps(made, protocol),
        )
        loaded, shown = pickle.loads(back)
        equal(loaded, made)
        equal(shown, repr(made))
        equal([type(x) for x in loaded], [type(x) for x in made])


@case("the bytes of a pickle name nothing of the node's own")
def _():
    for x in samples(_erlang.decode):
        assert b"_erlang" not in pickle.dumps(x, 0), x
    for data in TYPE_SAMPLES.values():
        data = b"\x83" + bytes.fromhex(data)
        equal(repr(types.unpickle(data)), repr(_terms.decode(data)))


def shown(x):
    """Run by a process that multiprocessing has spawned."""
    return x, repr(x), "_erlang" in sys.modules


@case("processes that multiprocessing spawns take and give the types")
def _():
    made = samples(_erlang.decode)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        equal(pool.submit(shown, made).result(tap.LIMIT), (made, repr(made), False))


@case("the exception that ends a thread is told to the node")
def _():
    told = []
    _erlang._thread_failed, before = told.append, getattr(_erlang, "_thread_failed", None)
    threading.excepthook, usual = lambda args: None, threading.excepthook

    def work():
        _threads.watch_current_thread()
        raise ValueError("why")

    try:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(tap.LIMIT)
    finally:
        threading.excepthook = usual
        _erlang._thread_failed = before
    equal([repr(e) for e in told], ["ValueError('why')"])


if __name__ == "__main__":
    tap.run(CASES)
