"""Conversion and the types as Python sees them; run by test_py_terms.c, after samples.py and type_cases.py."""

import doctest
import gc
import math
import pickle
import random
import resource
import struct
import sys

import _erlang
import erlang
from _erlang import decode, encode
from erlang import _terms


def ok(passed, name, text=""):
    _erlang.ok(bool(passed), name, str(text))


def same(got, want, name):
    ok(got == want and type(got) is type(want), name, f"got {got!r}, wanted {want!r}")


def error(function, *args):
    """What the call raises, as `Type: text`."""
    try:
        function(*args)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return "nothing"


made = type_samples(decode)
PID, OTHER_PID, REF, PORT = made.PID, made.OTHER_PID, made.REF, made.PORT
EXPORT, CLOSURE = made.EXPORT, made.CLOSURE


def types():
    type_cases(ok, erlang, decode, encode)


class Base:
    pass


class Derived(Base):
    pass


class Text(str):
    pass


def converters():
    register = erlang.register_converter
    register(Base, lambda x: {"base": [type(x).__name__]})
    same(decode(encode(Base())), {"base": ["Base"]}, "a converter")
    same(decode(encode([Derived()])), [{"base": ["Derived"]}], "also for a subclass")
    register(Derived, lambda x: Atom("derived"))
    same(decode(encode(Derived())), Atom("derived"), "the nearest one counts")
    register(Text, lambda x: Atom("text"))
    same(decode(encode(Text("a"))), Atom("text"), "it comes before what the base is converted to")
    register(Text, None)
    same(decode(encode(Text("a"))), "a", "None takes it away")
    register(Base, lambda x: x)
    same(
        error(encode, Base()),
        "ValueError: result: nested deeper than 512 levels",
        "a converter that gives back what it got",
    )
    register(Base, lambda x: 1 / 0)
    same(error(encode, Base()), "ZeroDivisionError: division by zero", "a converter that fails")
    register(Base, lambda x: 1j)
    same(
        error(encode, [Base()]),
        "TypeError: result[0]: cannot convert complex to an Erlang term",
        "a converter that gives what has no Erlang form",
    )
    register(Base, None)
    register(Derived, None)
    same(
        error(encode, Base()),
        "TypeError: result: cannot convert Base to an Erlang term",
        "no converter left",
    )


def changes():
    """What a converter does to the container that is being converted."""

    def attack(container, change):
        erlang.register_converter(Base, lambda x: change(container) and None)
        return error(encode, [container])

    b = Base
    text = "RuntimeError: result[0]: {} changed size during conversion".format
    same(attack([b(), b(), 1, 2], lambda c: c.clear()), text("list"), "a list cleared")
    same(attack([b(), b(), 1, 2], lambda c: c.append(1)), text("list"), "a list that grows")
    same(attack({1: b(), 2: b(), 3: 4}, lambda c: c.clear()), text("dict"), "a dict cleared")
    same(attack({1: b(), 2: 2}, lambda c: c.update(x=1)), text("dict"), "a dict that grows")
    ok("changed size" in attack({b(), 1, 2}, lambda c: c.clear()), "a set cleared")
    ok("changed size" in attack({b(), 1, 2}, lambda c: c.add(7)), "a set that grows")

    def replace(c):
        for i in range(len(c)):
            c[i] = str(i)

    same(attack([b(), b(), b(), b()], replace), "nothing", "a list whose items are replaced")

    def rekey(c):
        keys = list(c)
        c.clear()
        c.update((k + 100, 0) for k in keys)

    got = attack({k: b() for k in range(50)}, rekey)
    ok(got in ("nothing", text("dict")), "a dict with other keys of the same number", got)
    erlang.register_converter(Base, None)


def random_float():
    while True:
        x = struct.unpack("d", random.randbytes(8))[0]
        if math.isfinite(x):
            return x


def random_text():
    top = random.choice([0x7F, 0xFF, 0xD7FF, 0x10FFFF])
    text = "".join(chr(random.randint(0, top)) for _ in range(random.choice([0, 1, 3, 20, 300])))
    return "".join(c for c in text if not 0xD800 <= ord(c) <= 0xDFFF)


def random_bytes():
    """Never valid UTF-8, so that it comes back as bytes."""
    return random.randbytes(random.randint(0, 40)) + b"\xff"


SCALARS = [
    lambda: random.randint(-300, 300),
    lambda: random.randint(-(2**33), 2**33),
    lambda: random.choice([-1, 1]) * random.getrandbits(random.randint(1, 300)),
    lambda: random.choice([-1, 1]) * random.getrandbits(random.randint(1, 4000)),
    random_float,
    random_text,
    random_bytes,
    lambda: Atom(random.choice(["a", "b", "ok", "\u65e5\u672c", "x" * 255, "\xe5" * 200])),
    lambda: random.choice([None, True, False]),
    lambda: random.choice([PID, REF, PORT, EXPORT, CLOSURE]),
    lambda: Bitstring(random.randbytes(random.randint(1, 9)), random.randint(1, 7)),
]


def random_key(depth):
    if depth > 0 and random.random() < 0.1:
        return tuple(random_key(depth - 1) for _ in range(random.randint(0, 3)))
    return random.choice(SCALARS)()


def random_term(depth):
    if depth == 0 or random.random() < 0.4:
        return random.choice(SCALARS)()
    n = random.choice([0, 1, 2, 5, 10])
    kind = random.randrange(4)
    if kind == 0:
        return [random_term(depth - 1) for _ in range(n)]
    if kind == 1:
        return tuple(random_term(depth - 1) for _ in range(n))
    if kind == 2:
        return [random.randint(-5, 2**31 + 5) for _ in range(n)]
    return {random_key(2): random_term(depth - 1) for _ in range(n)}


def there_and_back():
    seed = random.randrange(2**32)
    random.seed(seed)
    wrong = equal = 0
    for _ in range(3000):
        x = random_term(5)
        try:
            y = decode(encode(x))
        except ValueError as e:
            # Of the keys drawn here only True and 'true' and the like can fall together.
            wrong += "equal in Erlang" not in str(e)
            continue
        equal += x == y and repr(x) == repr(y)
        if not (x == y and repr(x) == repr(y)):
            wrong += 1
            _erlang.ok(False, "random term", f"{x!r} came back as {y!r}")
    ok(wrong == 0 and equal > 2900, f"random terms come back as they went (seed {seed})", equal)


def pure():
    """What erlang.testing converts with does what the node does."""
    wrong = 0
    for _ in range(500):
        try:
            data = encode(random_term(4))
            term = decode(data)
        except ValueError:  # keys that are equal
            continue
        again = _terms.decode(data)
        wrong += repr(again) != repr(term) or _terms.encode(again) != data
    ok(wrong == 0, "random terms are the same in pure Python", wrong)
    for x in (
        [1.5, float("nan"), float("inf"), -float("inf"), -1, 255, 256, 2**31, -(2**31), 2**63, -(2**80)],
        [2**2040 - 1, 2**2040, 2**33554432],
        ["", "\xe5\u65e5\U0001f40d", b"abc", b"\xff", bytearray(b"a"), memoryview(b"ab")],
        [memoryview(b"abcd")[::2]],
        [array.array("i", [1]), Array([1, 2]), Level.HIGH, Point(1, 2), Name("n"), Float(1.5), Bytes(b"b"), List([1])],
        [{1}, frozenset({2}), set(), (), [], {}, tuple(range(300))],
        [{"a": [1, {"b": (None, object())}]}],
        [{"k": "a\ud800"}],
        [{"a": 1, b"a": 2}],
        [{None: 1, "x": 2}, {(1, "a"): {frozenset({3}): 4}}],
        [{2j: 1}],
        [{1, 2j}],
        [Colour.RED],
        [datetime.datetime(2000, 1, 1)],
        [int, Endless()],
        [Broken()],
        {"x" * 100: {Odd(): Odd()}},
        nest(40) + [0],
        [nest(20), {"a": nest(20)}, 1j],
        nest(511),
        nest(512),
        cycle(),
    ):
        same(_pure_result(_terms.encode, x), _pure_result(encode, x), f"encode({repr(type(x))}) in pure Python")
    for data in (
        "83 74 00000002 6101 6102 46 3ff0000000000000 6103",
        "83 74 00000002 7703 6e696c 6102 7704 6e6f6e65 6103",
        "83 74 00000001 6c 00000002 6101 6102 6a 74 00000000",
        "83 74 00000001 74 00000002 6101 6102 6d 00000001 61 6a 6103",
        "83 68 02 7705 6279746573 6d 00000001 61",
        "83 6c 00000001 6101 6102",
        "83 68 01 58 7701 61 0000",
        "83 68 02 6101 6d 00000009 61",
        "83 61 01 01",
        "82",
        "83",
    ):
        data = bytes.fromhex(data)
        same(_pure_result(_terms.decode, data), _pure_result(decode, data), f"decode({data}) in pure Python")


def _pure_result(function, x):
    try:
        result = function(x)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return result if type(result) is bytes else repr(result)


def all_tags():
    """Random bytes after each tag: an error or a term, never anything else."""
    for tag in range(256):
        for _ in range(300):
            data = b"\x83" + bytes([tag]) + random.choice([random.randbytes, bytes])(random.randint(0, 30))
            try:
                decode(data)
            except (ValueError, TypeError):
                pass
            try:
                _terms.decode(data)
            except (ValueError, TypeError):
                pass
    ok(True, "random bytes after each tag")


def no_leak():
    """References of shared objects, and memory, stand still over many conversions."""
    sample = [
        {"key": [1, 2**70, 1.5, (None, True)], Atom("ok"): b"\xff", (1, "x"): {b"a": 1}},
        PID,
        "\u65e5" * 50,
        {7, 8},
        Bitstring(b"a", 3),
        list(range(-10, 1000)),
    ]
    good = encode(sample)
    bad_terms = [good[:-n] for n in range(1, 400, 7)]
    bad_objects = [
        [sample, object()],
        {"k": [sample, "\ud800"]},
        {b"a": sample, "a": 1},
        cycle(),
        ({1, 2j},),
    ]
    odd_keys = bytes.fromhex(
        "83 7400000001 7400000003 6103 770178 770161 770179 6d00000001 7a 77017a 77016d"
    )

    def once():
        decode(good)
        decode(odd_keys)
        encode(sample)
        repr(PID), PID.node, REF.id, hash(PID), PID == OTHER_PID
        for data in bad_terms:
            try:
                decode(data)
            except ValueError:
                pass
        for x in bad_objects:
            try:
                encode(x)
            except (ValueError, TypeError):
                pass

    watched = [Atom("ok"), PID, object, "key", sample, sys.intern("k")]
    for _ in range(50):
        once()
    gc.collect()
    objects = len(gc.get_objects())
    counts = [sys.getrefcount(x) for x in watched]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(400):
        once()
    gc.collect()
    after = [sys.getrefcount(x) for x in watched]
    drift = [abs(a - b) for a, b in zip(after, counts)]
    ok(max(drift) < 50, "no reference is kept", drift)
    ok(abs(len(gc.get_objects()) - objects) < 50, "no object is kept")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    # A sanitizer keeps freed memory for a while.
    ok(grown < 8192 or _erlang.sanitized, "memory stands still", f"{grown} KiB more")


def package():
    missing = [name for name in erlang.__all__ if not hasattr(erlang, name)]
    same(missing, [], "every name of erlang.__all__ is there")
    undocumented = [
        name
        for name in erlang.__all__
        if getattr(erlang, name).__module__.startswith("erlang") and not getattr(erlang, name).__doc__
    ]
    same(undocumented, [], "and has a docstring")
    for name in ("Atom", "Pid", "Bitstring"):
        same(getattr(erlang, name).__module__, "erlang", f"{name} is found by pickle")
    e = erlang.ErlangError(Atom("badarith"))
    same((str(e), e.error_class, e.reason), ("error:badarith", "error", Atom("badarith")), "error")
    same(str(erlang.ErlangError((Atom("a"), 1), "exit")), "exit:(Atom('a'), 1)", "other reasons")
    e = pickle.loads(pickle.dumps(erlang.TimeoutError("late", "exit", [1])))
    same((e.reason, e.error_class, e.stacktrace), ("late", "exit", [1]), "pickled error")
    ok(isinstance(e, TimeoutError) and isinstance(e, RuntimeError), "two TimeoutErrors in one")


def docstrings():
    """Every example in a docstring is true, but for those that want a node (test_package.py has them)."""
    names = {name: getattr(erlang, name) for name in erlang.__all__}
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(verbose=False)
    tried = 0
    for name, x in [("erlang", erlang), *names.items()]:
        module = getattr(x, "__module__", "")
        if name != "erlang" and (not module.startswith("erlang") or module in ("erlang._async", "erlang._nodes", "erlang._tasks")):
            continue
        text = []
        for test in finder.find(x, name, module=False, globs=dict(names)):
            tried += runner.run(test, out=text.append).attempted
    ok(runner.failures == 0 and tried > 10, f"{tried} examples", runner.failures)


for run in (
    types,
    converters,
    changes,
    there_and_back,
    pure,
    all_tags,
    no_leak,
    package,
    docstrings,
):
    run()
