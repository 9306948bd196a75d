"""plain_package - import erlang under plain python3: the names, their errors, examples and stubs."""

import ast
import asyncio
import inspect
import io
import logging
import os
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
    "async_call": ("f",),
    "call": ("f",),
    "cast": ("f",),
    "consume_time_slice": (50,),
    "demonitor": (None,),
    "link": (None,),
    "monitor": ("a",),
    "monitor_node": ("a@b",),
    "node": (),
    "nodes": (),
    "receive": (),
    "register": ("a",),
    "schedule": ("f",),
    "schedule_py": ("m", "f"),
    "self": (),
    "send": ("a", 1),
    "unlink": (None,),
    "unregister": ("a",),
    "whereis": ("a",),
}


def case(name):
    return lambda function: CASES.append((name, function))


def ended(function, *args):
    """What it gives; what a coroutine function gives when it is awaited."""
    given = function(*args)
    return asyncio.run(given) if inspect.iscoroutine(given) else given


@case("what needs a node says so when it is called, and what to do")
def _():
    for name, args in CALLS.items():
        e = raises(erlang.ErlangError, ended, getattr(erlang, name), *args, text=f"erlang.{name} works only inside")
        for advice in ("`pynode --name NAME@HOST script.py`", "erlang.testing"):
            assert advice in str(e)
        assert isinstance(e, RuntimeError)
    raises(erlang.ErlangError, erlang.no_such_function, 1, text="erlang.call works only inside")
    functions = {n for n in erlang.__all__ if inspect.isfunction(getattr(erlang, n))}
    equal(functions, {*CALLS, "atom", "register_converter", "run", "sleep", "spawn_task"})


@case("erlang.run and erlang.sleep need no node, erlang.spawn_task only an event loop")
def _():
    async def nap(value):
        await erlang.sleep(0)
        return value

    async def main():
        task = erlang.spawn_task(nap(2), name="nap")
        return task.get_name(), await task

    equal(erlang.run(nap(1)), 1)
    equal(erlang.run(main()), ("nap", 2))
    equal(erlang.sleep(0), None)
    e = raises(erlang.ErlangError, erlang.spawn_task, nap(3), text="erlang.spawn_task works only inside")
    assert "erlang.run" in str(e)


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


def stub(name):
    """The tree of a stub file."""
    with open(os.path.join(erlang.__path__[0], f"{name}.pyi"), encoding="utf-8") as file:
        return ast.parse(file.read())


def defined(tree):
    """name -> node of what a stub defines or imports under the same name."""
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            found.update({a.asname: node for a in node.names if a.asname == a.name})
        elif isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            found["__all__"] = ast.literal_eval(node.value)
    return found


def parameters(function):
    args = function.args
    return [a.arg for a in args.posonlyargs + args.args], args.vararg and args.vararg.arg, [a.arg for a in args.kwonlyargs]


def runtime_parameters(function):
    of = lambda *kinds: [p.name for p in inspect.signature(function).parameters.values() if p.kind in kinds]
    kinds = inspect.Parameter
    vararg = of(kinds.VAR_POSITIONAL)
    return of(kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD), vararg[0] if vararg else None, of(kinds.KEYWORD_ONLY)


@case("the stubs have every public name")
def _():
    for name, m in [("__init__", erlang), *((n, package.module(n)) for n in package.PUBLIC)]:
        found = defined(stub(name))
        equal(found.pop("__all__"), m.__all__)
        equal(sorted(set(m.__all__) - set(found)), [])
    with open(os.path.join(erlang.__path__[0], "blocking.py"), encoding="utf-8") as file:
        blocking = defined(ast.parse(file.read()))["__all__"]
    found = defined(stub("blocking"))
    equal(found.pop("__all__"), blocking)
    equal(sorted(set(blocking) - set(found)), [])


@case("the stubs have the parameters that the functions have")
def _():
    native = {**defined(stub("__init__")), **defined(stub("_erlang"))}
    for name in _outside.__all__:
        assert name in native, name
        if name in CALLS or name == "register_converter":
            equal((name, parameters(native[name])), (name, runtime_parameters(getattr(_outside, name))))
    tree = defined(stub("testing"))
    equal(parameters(tree["node"]), runtime_parameters(testing.node))
    for method in tree["Node"].body:
        if isinstance(method, ast.FunctionDef) and not method.decorator_list:
            equal(parameters(method), runtime_parameters(getattr(testing.Node, method.name)))
    tree, cluster = defined(stub("cluster")), package.module("cluster")
    for name in ("put", "aput"):
        equal(parameters(tree[name]), runtime_parameters(getattr(cluster, name)))
    for method in tree["Executor"].body:
        equal((method.name, parameters(method)), (method.name, runtime_parameters(getattr(cluster.Executor, method.name))))


@case("nothing is loaded that is not needed")
def _():
    text = "import sys, erlang; print([m for m in ('logging', 'asyncio', 'threading', 'typing') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-S", "-c", text], stdout=subprocess.PIPE, text=True, check=True)
    equal(done.stdout, "[]\n")


tap.run(CASES)
