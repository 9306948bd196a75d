"""How a thread's own process learns of the exception that ends the thread."""

import sys


def watch_current_thread():
    """Tells the node of the exception that nobody catches in this thread; the node calls it once."""
    from _erlang import _thread_failed

    watch(_thread_failed)


def watch(failed):
    """Calls failed(exception) when the current thread, a threading.Thread, ends by an exception.

    SystemExit is a normal end. It never raises; a thread that is not of the module threading, or whose
    Thread does not work as expected, just has a normal end.
    """
    try:
        _wrap(_current_thread(), failed)
    except Exception:
        pass


def _current_thread():
    """The Thread of this thread, None if it has none or is the main thread.

    threading.current_thread() would make one that stays, and an import would take this thread for the
    main one.
    """
    threading = sys.modules.get("threading")
    if threading is None:
        return None
    thread = threading._active.get(threading.get_ident())
    if thread is threading.main_thread() or isinstance(thread, threading._DummyThread):
        return None
    return thread


def _wrap(thread, failed):
    """Has what the Thread does with an uncaught exception call failed() first."""
    usual = getattr(thread, "_invoke_excepthook", None)
    if usual is None:
        return

    def invoke_excepthook(thread):
        exception = sys.exc_info()[1]
        if exception is not None and not isinstance(exception, SystemExit):
            try:
                failed(exception)
            except BaseException:  # the usual report is not lost by this
                pass
        usual(thread)

    thread._invoke_excepthook = invoke_excepthook
