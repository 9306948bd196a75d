"""package - what the tests of the package erlang share: its modules and their examples."""

import doctest
import importlib

import erlang
from tap import equal

PUBLIC = ("cluster", "errors", "testing", "types")


def module(name):
    return importlib.import_module(f"erlang.{name}")


def run_examples(m, *without):
    """Runs the examples of a module and of what is in its __all__; how many there were."""
    finder, runner, text = doctest.DocTestFinder(), doctest.DocTestRunner(verbose=False), []
    globs = {name: getattr(erlang, name) for name in erlang.__all__}
    globs.update({name: getattr(m, name) for name in m.__all__}, erlang=erlang, testing=module("testing"))
    tests = doctest.DocTestFinder(recurse=False).find(m, m.__name__, globs=globs)
    for name in m.__all__:
        if name not in without:
            tests += finder.find(getattr(m, name), f"{m.__name__}.{name}", module=False, globs=globs)
    for test in tests:
        runner.run(test, out=text.append)
    if runner.failures:
        raise AssertionError("".join(text))
    return runner.tries


def all_have_docstrings(m):
    equal([name for name in m.__all__ if not getattr(m, name).__doc__], [])
