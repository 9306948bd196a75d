"""Tasks for tests of a cluster: each writes its number down before all else, so that one can count what ran."""

import asyncio
import os
import time

_top = os.environ["LIVE_TMP"]
os.makedirs(os.path.join(_top, "tally"), exist_ok=True)
_file = os.open(os.path.join(_top, "tally", str(os.getpid())), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def run(number):
    """Runs at once."""
    os.write(_file, b"%d\n" % number)
    return number


def linger(number):
    """The same, and takes a while."""
    run(number)
    time.sleep(0.01)
    return number


async def run_task(number):
    """As run, on the event loop, in two turns."""
    run(number)
    await asyncio.sleep(0)
    return number


async def linger_task(number):
    """As linger, on the event loop."""
    run(number)
    await asyncio.sleep(0.01)
    return number


def _say_held(number):
    open(os.path.join(_top, f"held.{number}"), "w").close()


def hold(number):
    """Says that it has begun, and does not end."""
    _say_held(number)
    while True:
        time.sleep(0.02)


async def hold_task(number):
    """The same on the event loop."""
    _say_held(number)
    await asyncio.Event().wait()
