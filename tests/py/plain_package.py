"""plain_package - import erlang under plain python3: the names, their errors, examples and stubs."""

import inspect
import io
import logging
import pickle
import pkgutil
import pydoc
import subprocess
import sys

import erlang
import package
import tap
from erlang import _outside, call, testing
from tap import equal, raises

CASES = []
CALLS = {
    "call": ("f",),
    "cast": ("f",),
    "demonitor": (None,),
    "link": (None,),
    "monitor": ("a",),
    "node": (),
    "receive": (),
    "register": ("a",),
    "self": (),
    "send": ("a", 1),
    "unlink": (None,),
    "unregister": ("a",),
    "whereis": ("a",),
}


def case(name):
    return lambda function: CASES.append((name, function))


@case("what needs a node says so when it is called, and what to do")
def _():
    for name, args in CALLS.items():
        e = raises(erlang.ErlangError, getattr(erlang, name), *args, text=f"erlang.{name} works only inside")
        for advice in ("`pynode --name NAME@HOST script.py`", "erlang.testing"):
            assert advice in str(e)
        assert isinstance(e, RuntimeError)
    raises(erlang.ErlangError, erlang.no_such_function, 1, text="erlang.call works only inside")
    functions = {n for n in erlang.__all__ if inspect.isfunction(getattr(erlang, n))}
    equal(functions, {*CALLS, "atom", "register_converter"})


@case("a LogHandler can be made, and says that there is no node when it is given a record")
def _():
    logger = logging.getLogger("plain")
    logger.propagate = False
    logger.addHandler(erlang.LogHandler())
    stderr, sys.stderr = sys.stderr, io.StringIO()
    try:
        logger.warning("hello")
        text = sys.stderr.getvalue()
    finally:
        sys.stderr = stderr
    assert "erlang.LogHandler works only inside a pynode node" in text, text


@case("erlang.blocking cannot be imported, and says what to do")
def _():
    for statement in ("import erlang.blocking", "from erlang import blocking", "import erlang; erlang.blocking"):
        e = raises(ImportError, exec, statement, text="erlang.blocking works only inside a pynode node")
        assert "concurrent.futures" in str(e)


@case("any other name is an Erlang function")
def _():
    from erlang import double_it

    assert double_it is erlang.double_it and callable(double_it)
    equal(repr(double_it), "<Erlang function double_it>")
    equal((double_it.__name__, double_it.__qualname__, double_it.__module__), ("double_it", "double_it", "erlang"))
    assert "call('double_it', ...)" in double_it.__doc__
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(double_it, protocol)) is double_it
    with testing.node({"double_it": lambda x: 2 * x}):
        equal((double_it(4), erlang.double_it(5), call("double_it", 6)), (8, 10, 12))
        equal(double_it(4, timeout=tap.LIMIT, node="erl@host"), 8)


@case("but not one that is private or that there is")
def _():
    for name in ("_private", "__wrapped__", "__path", "a b", "lists:reverse", "_NoHandler"):
        raises(AttributeError, getattr, erlang, name, text=f"module 'erlang' has no attribute '{name}'")
    public = {m.name for m in pkgutil.iter_modules(erlang.__path__) if not m.name.startswith("_")}
    equal(public, set(erlang._MODULES))
    for name in package.PUBLIC:
        assert getattr(erlang, name) is package.module(name)


@case("from erlang import * gives what __all__ has, and each has a docstring")
def _():
    scope = {}
    exec("from erlang import *", scope)
    equal(sorted(set(scope) - {"__builtins__"}), sorted(erlang.__all__))
    equal(sorted(erlang.__all__), erlang.__all__)
    for m in (erlang, *map(package.module, package.PUBLIC)):
        package.all_have_docstrings(m)


@case("help(erlang) shows the functions")
def _():
    text = pydoc.render_doc(erlang, renderer=pydoc.plaintext)
    for name in erlang.__all__:
        assert name in text, name


@case("the examples in the docstrings are true")
def _():
    tried = package.run_examples(erlang, "LogHandler")
    for name in package.PUBLIC:
        tried += package.run_examples(package.module(name))
    assert tried > 50, tried


@case("nothing is loaded that is not needed")
def _():
    text = "import sys, erlang; print([m for m in ('logging', 'asyncio', 'threading', 'typing') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-S", "-c", text], stdout=subprocess.PIPE, text=True, check=True)
    equal(done.stdout, "[]\n")


tap.run(CASES)
