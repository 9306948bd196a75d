"""tap - what the tests in Python share: each function is a case, the result is TAP on stdout."""

import sys
import time
import traceback

LIMIT = 60  # seconds that anything may take that is waited for


class Skip(Exception):
    """A case that cannot be tried here: the reason."""


def wait_for(holds, what="what is waited for"):
    """Waits until holds() is true."""
    end = time.monotonic() + LIMIT
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come")
        time.sleep(0.001)


def raises(kind, call, *args, text=None, **kwargs):
    """The exception that the call raises, which has to be of that kind."""
    try:
        result = call(*args, **kwargs)
    except kind as e:
        if text is not None and text not in str(e):
            raise AssertionError(f"{e!r} is without {text!r}") from e
        return e
    raise AssertionError(f"{call} gave {result!r} instead of {kind}")


def equal(got, want):
    if got != want:
        raise AssertionError(f"{got!r}, not {want!r}")


def run(cases):
    """Runs (name, function)s and prints a line for each; the plan comes last."""
    cases = list(cases)
    for number, (name, case) in enumerate(cases, 1):
        try:
            case()
            print(f"ok {number} - {name}", flush=True)
        except Skip as e:
            print(f"ok {number} - {name} # SKIP {e}", flush=True)
        except BaseException:
            print(f"not ok {number} - {name}", flush=True)
            for line in traceback.format_exc().splitlines():
                print(f"# {line}", flush=True)
    print(f"1..{len(cases)}", flush=True)


def bail_out(reason):
    print(f"Bail out! {reason}", flush=True)
    sys.exit(99)
