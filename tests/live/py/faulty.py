"""Functions that go wrong, each in its own way, for live tests. Their lines are found by the marks."""

import sys


class Refusal(Exception):
    """An exception type of the user's own."""


class Mute(Exception):
    """One that cannot be shown."""

    def __str__(self):
        raise RuntimeError("no words")


def outer(text, times):
    return middle(text) * times  # mark: outer


def middle(text):
    return inner(text, 1, two=2)  # mark: middle


def inner(text, one, two):
    raise ValueError(text)  # mark: inner


class Class:
    def method(self, text):
        raise KeyError(text)

    @classmethod
    def build(cls, text):
        return cls().method(text)


def group():
    raise ExceptionGroup("many", [ValueError("one"), KeyError("two")])


def chained():
    try:
        raise KeyError("the first cause")
    except KeyError as e:
        raise ValueError("what came of it") from e


def noted():
    e = ValueError("the message itself")
    if hasattr(e, "add_note"):
        e.add_note("a note on it")
    raise e


def refuse():
    raise Refusal("not today")


def mute():
    raise Mute


def unicode():
    raise ValueError("\u017elu\u0165ou\u010dk\u00fd \U0001f40d")


def surrogate():
    raise ValueError("lone \udc80")


def empty():
    raise ValueError


def bottomless(n=0):
    return bottomless(n + 1)


def leave(status):
    sys.exit(status)


def interrupt():
    raise KeyboardInterrupt


def base():
    raise BaseException("of the base")


def hand_over(exception):
    raise {"memory": MemoryError, "stop": StopIteration, "generator": GeneratorExit}[exception]


def thing():
    return object()


def nested_thing():
    return [1, {"a": (2, object())}]


def loop():
    x = []
    x.append(x)
    return x


def deep(n):
    x = []
    for _ in range(n):
        x = [x]
    return x


def lone():
    return "lone \udc80"
