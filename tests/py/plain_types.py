"""plain_types - the Erlang types in pure Python do what the built-in ones do."""

import pickle
import sys

import erlang
import tap
from erlang import _terms, types
from tap import equal, raises
from type_cases import TYPE_SAMPLES, type_cases, type_samples

CASES = []


def note(passed, name, text=""):
    def case():
        if not passed:
            raise AssertionError(text)

    CASES.append((name, case))


type_cases(note, erlang, _terms.decode, _terms.encode)


def case(name):
    return lambda function: CASES.append((name, function))


@case("the types of erlang and erlang.types are those in pure Python")
def _():
    assert "_erlang" not in sys.modules
    for name in ("Atom", "Bitstring", "Cancelled", "Fun", "Pid", "Port", "Ref"):
        kind = getattr(erlang, name)
        assert getattr(types, name) is kind
        equal((kind.__module__, kind.__qualname__), ("erlang", name))


@case("an Atom's name is no longer than one can be")
def _():
    equal(len(erlang.Atom("x" * 255)), 255)
    raises(ValueError, erlang.Atom, "x" * 256, text="atom is longer than 255 characters")
    raises(TypeError, lambda: erlang.Atom(name="a"), text="Atom() takes no keyword arguments")


@case("Cancelled is no Exception, and can be raised and pickled")
def _():
    assert not issubclass(erlang.Cancelled, Exception)
    raises(erlang.Cancelled, pickle.loads(pickle.dumps(fail)), erlang.Cancelled)


def fail(kind):
    raise kind


@case("what is no pid, reference, port or fun is not unpickled as one")
def _():
    for data in TYPE_SAMPLES.values():
        data = b"\x83" + bytes.fromhex(data)
        for n in range(len(data)):
            raises(ValueError, types.unpickle, data[:n])
        raises(ValueError, types.unpickle, data + b"a")
    names = ["pid", "reference", "port", "fun"]
    made = type_samples(_terms.decode)
    for name, x in zip(names, (made.PID, made.REF, made.PORT, made.CLOSURE)):
        raises(ValueError, types.unpickle, x.__reduce__()[1][0][:-2], text=f"malformed {name}")


@case("errors come through pickle as they were")
def _():
    for kind in (erlang.ErlangError, erlang.ProcessError, erlang.TimeoutError):
        error = pickle.loads(pickle.dumps(kind((erlang.Atom("badmatch"), 1), "exit", [1])))
        equal((type(error), error.reason), (kind, (erlang.Atom("badmatch"), 1)))
        equal((error.error_class, error.stacktrace), ("exit", [1]))


tap.run(CASES)
