"""What the Erlang module py asks the node for that Python alone knows."""

import gc
import os

from _erlang import Atom


def memory_stats():
    """The counts of Python's collector, and the memory of the process in bytes."""
    page = os.sysconf("SC_PAGE_SIZE")
    with open("/proc/self/statm", encoding="ascii") as statm:
        size, rss = (int(pages) * page for pages in statm.read().split()[:2])
    stats = {
        "gc_count": list(gc.get_count()),
        "gc_threshold": list(gc.get_threshold()),
        "gc_stats": gc.get_stats(),
        "gc_frozen": gc.get_freeze_count(),
        "size": size,
        "rss": rss,
    }
    return {Atom(key): value for key, value in stats.items()}
