"""The types, built in or in pure Python: run by test_py_terms.c for terms.py, imported by plain_types.py."""

import copy
import pickle
from types import SimpleNamespace

NODE = "7707 6e406c6f63616c"
TYPE_SAMPLES = {
    "PID": f"58 {NODE} 0000000c 00000001 00000003",
    "OLD_PID": f"67 640007 6e406c6f63616c 0000000c 00000001 03",
    "OTHER_PID": f"58 {NODE} 0000000c 00000001 00000004",
    "REF": f"5a 0002 {NODE} 00000003 00000007 00000008",
    "PORT": f"78 {NODE} 0000000000000007 00000003",
    "EXPORT": "71 7705 6c69737473 7703 6d6170 6102",
    "OLD_EXPORT": "71 640005 6c69737473 7303 6d6170 6102",
    "CLOSURE": "70 00000000 01 00112233445566778899aabbccddeeff 00000005 00000001 7701 6d 6101 6102"
    f"58 {NODE} 0000000c 00000001 00000003 6101",
    "UMLAUT": "58 7703 6ec3bc 00000001 00000002 00000003",
    "OLD_UMLAUT": "58 640002 6efc 00000001 00000002 00000003",
    "ODD": "58 7703 610a62 00000001 00000002 00000003",
}


def type_samples(decode):
    """One of each kind, and the same in old forms."""
    return SimpleNamespace(**{name: decode(b"\x83" + bytes.fromhex(data)) for name, data in TYPE_SAMPLES.items()})


def type_error(function, *args):
    """What the call raises, as `Type: text`."""
    try:
        function(*args)
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    return "nothing"


def type_cases(ok, erlang, decode, encode):
    """Tells ok(passed, name, text) of each case."""

    def same(got, want, name):
        ok(got == want and type(got) is type(want), name, f"got {got!r}, wanted {want!r}")

    samples = type_samples(decode)
    _atoms(ok, same, type_error, erlang)
    _identities(ok, same, type_error, erlang, samples, encode, decode)
    _bitstrings(ok, same, type_error, erlang)


def _atoms(ok, same, error, erlang):
    Atom = erlang.Atom
    a = Atom("ok")
    same(repr(a), "Atom('ok')", "repr of an Atom")
    same(str(a), "ok", "str of an Atom is a plain str")
    ok(isinstance(a, str) and a == "ok" and hash(a) == hash("ok"), "an Atom is its str")
    ok(Atom("ok") is a and Atom(a) is a and erlang.atom("ok") is a, "one object a name")
    ok(type(a.upper()) is str and type(a + "x") is str, "what is made from it is a plain str")
    ok(copy.copy(a) is a and copy.deepcopy([a])[0] is a, "a copy is the same object")
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        ok(pickle.loads(pickle.dumps(a, protocol)) is a, f"pickle protocol {protocol}")
    same(error(Atom, 1), "TypeError: Atom() argument 1 must be str, not int", "Atom of an int")
    same(error(Atom), "TypeError: Atom() takes exactly 1 argument (0 given)", "Atom of nothing")
    ok(error(Atom, "\ud800").startswith("UnicodeEncodeError"), "Atom of a surrogate")
    ok(error(setattr, a, "x", 1).startswith("AttributeError"), "an Atom has no attributes to set")
    ok(error(setattr, Atom, "x", 1).startswith("TypeError"), "nor has its type")
    ok(error(type, "Sub", (Atom,), {}).startswith("TypeError"), "it has no subclass")
    same({Atom("k"): 1}["k"], 1, "it is found in a dict by its str")


def _identities(ok, same, error, erlang, s, encode, decode):
    Atom = erlang.Atom
    PID, OLD_PID, OTHER_PID, REF, PORT = s.PID, s.OLD_PID, s.OTHER_PID, s.REF, s.PORT
    EXPORT, OLD_EXPORT, CLOSURE = s.EXPORT, s.OLD_EXPORT, s.CLOSURE
    same(PID.node, Atom("n@local"), "Pid.node")
    same((PID.id, PID.serial, PID.creation), (12, 1, 3), "Pid.id, .serial, .creation")
    same((REF.node, REF.id, REF.creation), (Atom("n@local"), (7, 8), 3), "Ref's attributes")
    same((PORT.node, PORT.id, PORT.creation), (Atom("n@local"), 7, 3), "Port's attributes")
    same(
        (EXPORT.node, EXPORT.module, EXPORT.function, EXPORT.arity),
        (None, Atom("lists"), Atom("map"), 2),
        "attributes of fun M:F/A",
    )
    same(
        (CLOSURE.node, CLOSURE.module, CLOSURE.function, CLOSURE.arity),
        (Atom("n@local"), Atom("m"), None, 1),
        "attributes of a closure",
    )
    ok(PID == OLD_PID and hash(PID) == hash(OLD_PID), "old and new form of a Pid are equal")
    ok(EXPORT == OLD_EXPORT and hash(EXPORT) == hash(OLD_EXPORT), "and of an export")
    ok(s.UMLAUT == s.OLD_UMLAUT and hash(s.UMLAUT) == hash(s.OLD_UMLAUT), "also with a name in Latin-1")
    ok(PID != OTHER_PID and not PID == OTHER_PID, "another creation is another Pid")
    everything = [PID, OTHER_PID, REF, PORT, EXPORT, CLOSURE, s.UMLAUT]
    same(len(set(everything)), 7, "all are different, and hashable")
    for x in everything:
        ok(copy.copy(x) is x and copy.deepcopy({"x": [x]})["x"][0] is x, f"copy of {x!r}")
        ok(error(type(x)).startswith("TypeError"), f"no constructor of {type(x).__name__}")
        same(x.__reduce__(), (erlang.types.unpickle, (encode(x),)), f"how {type(x).__name__} pickles")
        ok(pickle.loads(pickle.dumps(x)) == x, f"pickle of {x!r}")
        ok(error(setattr, x, "node", 1).startswith("AttributeError"), f"{x!r} cannot be changed")
        ok(error(setattr, type(x), "a", 1).startswith("TypeError"), f"nor can {type(x).__name__}")
        ok(error(type, "Sub", (type(x),), {}).startswith("TypeError"), "and it has no subclass")
        ok(error(lambda: x < x).startswith("TypeError"), f"no order of {type(x).__name__}")
        ok(x == decode(encode(x)) and x != 1 and x != None, f"{x!r} compares")
    shown = [repr(x) for x in (PID, REF, PORT, EXPORT, CLOSURE, s.ODD)]
    same(
        shown,
        ["Pid<n@local.12.1>", "Ref<n@local.8.7>", "Port<n@local.7>", "Fun<lists:map/2>", "Fun<m.5/1>", r"Pid<'a\nb'.1.2>"],
        "what they look like",
    )
    same(
        error(encode, {PID: 1, "p": 2, b"p": 3}),
        "ValueError: result[b'p']: two keys of the dict are equal in Erlang",
        "dict with a Pid as key, and equal ones",
    )


def _bitstrings(ok, same, error, erlang):
    Bitstring = erlang.Bitstring
    b = Bitstring(b"\xff\xff", 3)
    same(repr(b), "Bitstring(b'\\xff\\xe0', 3)", "repr of a Bitstring")
    same((b.data, b.bits, b.bit_size), (b"\xff\xe0", 3, 11), "its attributes")
    ok(b == Bitstring(b"\xff\xe1", bits=3) and b != Bitstring(b"\xff\xe0", 4), "it compares")
    ok(hash(b) == hash(Bitstring(b"\xff\xe0", 3)) and len({b, Bitstring(b"")}) == 2, "and hashes")
    ok(pickle.loads(pickle.dumps(b)) == b and copy.deepcopy(b) == b, "pickle and copy")
    same(Bitstring(b"").bit_size, 0, "the empty one")
    same(Bitstring(bytearray(b"a")).bits, 8, "from a bytearray, all bits")
    for bits in (0, 9, -1):
        same(
            error(Bitstring, b"a", bits),
            "ValueError: Bitstring: bits of the last byte must be 1 to 8",
            f"{bits} bits",
        )
    same(error(Bitstring, b"", 1), "ValueError: Bitstring: there is no last byte", "no last byte")
    ok(error(setattr, b, "bits", 1).startswith("AttributeError"), "it cannot be changed")
    ok(error(Bitstring, "a").startswith("TypeError"), "nor be made of a str")
