"""Python's logging to Erlang's logger: what is behind ``erlang.LogHandler``.

While the application ``pynode`` of a BEAM node is connected, each record that reaches the root
logger goes there, too: with no handler to add and no change to the program. ``install`` does it by
replacing ``logging.Logger.callHandlers``, and not by a handler of the root logger, because then
``logging.basicConfig`` would do nothing any more, and ``logging.config.dictConfig`` would throw the
handler out. So the handlers that a program sets up work as always. If it has none, records go to
Erlang alone, and are not written to standard error besides; for that ``logging.warning`` and the like
do not set one up by themselves, as they do elsewhere.
"""

import functools
import logging
import sys
import threading

try:
    from _erlang import _log, _log_wanted
except ModuleNotFoundError:
    from ._outside import _log, _log_wanted

_TEXT_MAX = 1 << 16  # characters

# What every record has: the rest is `extra`.
_USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"asctime", "message", "taskName"}


class _Thread(threading.local):
    busy = False  # in a handler: what is logged meanwhile would have no end


_thread = _Thread()


class LogHandler(logging.Handler):
    """A handler of ``logging`` that gives records to the logger of the connected Erlang node.

    Only loggers that do not propagate to the root logger need it; what reaches the root logger
    goes to Erlang by itself. It never waits: what there is no room for is dropped and counted.

    >>> import logging
    >>> audit = logging.getLogger('audit')
    >>> audit.propagate = False
    >>> audit.addHandler(LogHandler())
    >>> audit.warning('%s has left', 'Ann', extra={'user': 'ann'})
    """

    def createLock(self):
        """None: threads need not wait for each other here."""
        self.lock = None

    def handle(self, record):
        chosen = self.filter(record)
        if isinstance(chosen, logging.LogRecord):
            record = chosen
        if chosen:
            self.emit(record)
        return chosen

    def emit(self, record):
        if _thread.busy:
            return
        _thread.busy = True
        try:
            text = _short(self.format(record))
            _log(_level(record.levelno), str(record.name), text, _meta(record))
        except RecursionError:  # as logging's own handlers
            raise
        except Exception:
            self.handleError(record)
        finally:
            _thread.busy = False


def _level(number):
    if number >= logging.CRITICAL:
        return "critical"
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    if number >= logging.INFO:
        return "info"
    return "debug"


def _short(text):
    if len(text) <= _TEXT_MAX:
        return text
    return f"{text[:_TEXT_MAX]}... and {len(text) - _TEXT_MAX} characters more"


def _meta(record):
    """What is known of the record besides level, logger and text."""
    meta = {str(k): v for k, v in vars(record).items() if k not in _USUAL}
    for name in ("created", "pathname", "lineno", "funcName", "threadName"):
        meta[name] = getattr(record, name, None)
    return meta


def _has_handlers(logger):
    """Whether the logger's records reach any handler; None if they do not reach the root logger,
    or a LogHandler besides."""
    found = False
    while logger:
        for handler in logger.handlers:
            if isinstance(handler, LogHandler):
                return None
            found = True
        if not logger.propagate and logger.parent:
            return None
        logger = logger.parent
    return found


def install():
    """Has the records that reach the root logger given to Erlang; again: does nothing."""
    if not hasattr(logging.Logger.callHandlers, "erlang"):
        logging.Logger.callHandlers = _with_erlang(logging.Logger.callHandlers)
        logging.basicConfig = _by_users_only(logging.basicConfig)


def _with_erlang(usual):
    """The method callHandlers with Erlang as one more handler of the root logger."""
    automatic = LogHandler()

    @functools.wraps(usual)
    def callHandlers(self, record):
        if not _log_wanted() or (found := _has_handlers(self)) is None:
            usual(self, record)
            return
        automatic.handle(record)
        if found:
            usual(self, record)

    callHandlers.erlang = True
    return callHandlers


def _by_users_only(usual):
    """The function basicConfig, which does nothing when logging calls it by itself."""

    @functools.wraps(usual)
    def basicConfig(**kwargs):
        caller = sys._getframe().f_back  # None: it was called by the node
        if not _log_wanted() or not caller or caller.f_globals is not vars(logging):
            usual(**kwargs)

    return basicConfig
