"""A box for live tests: what casts and spawned functions leave behind can be looked at, or waited for."""

import threading

_changed = threading.Condition()
_items = {}


def put(key, value):
    """Leaves a value under the key."""
    with _changed:
        _items[key] = value
        _changed.notify_all()


def get(key):
    """The value under the key or None."""
    with _changed:
        return _items.get(key)


def wait(key, seconds=10):
    """Waits until something is under the key and returns it."""
    with _changed:
        if not _changed.wait_for(lambda: key in _items, seconds):
            raise TimeoutError(f"nothing under {key!r}")
        return _items[key]


def add(key, value):
    """Appends to the list under the key."""
    with _changed:
        _items.setdefault(key, []).append(value)
        _changed.notify_all()


def wait_count(key, count, seconds=10):
    """Waits until that many were added under the key and returns the list."""
    with _changed:
        if not _changed.wait_for(lambda: len(_items.get(key, [])) >= count, seconds):
            raise TimeoutError(f"{len(_items.get(key, []))} of {count} under {key!r}")
        return list(_items.get(key, []))
