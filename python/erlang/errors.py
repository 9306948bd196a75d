"""What Erlang's failures look like in Python."""

import builtins

__all__ = ["ErlangError", "ProcessError", "TimeoutError"]


class ErlangError(RuntimeError):
    """An Erlang function or process failed.

    ``error_class`` is ``'error'``, ``'exit'`` or ``'throw'``, ``reason`` the Erlang term, converted,
    and ``stacktrace`` the Erlang stack, innermost call first.

    >>> e = ErlangError(Atom('badarith'))
    >>> e.error_class, e.reason
    ('error', Atom('badarith'))
    >>> print(e)
    error:badarith
    >>> print(ErlangError("Function 'x' not registered"))
    Function 'x' not registered
    """

    def __init__(self, reason="", error_class="error", stacktrace=()):
        super().__init__(reason, error_class, stacktrace)
        self.reason = reason
        self.error_class = error_class
        self.stacktrace = stacktrace

    def __str__(self):
        if type(self.reason) is str:
            return self.reason
        if isinstance(self.reason, str):  # an Atom
            return f"{self.error_class}:{str(self.reason)}"
        return f"{self.error_class}:{self.reason!r}"


class ProcessError(ErlangError):
    """An Erlang process is not there, or died while something was expected of it.

    >>> isinstance(ProcessError(Atom('noproc'), 'exit'), ErlangError)
    True
    """


class TimeoutError(ErlangError, builtins.TimeoutError):
    """A time limit passed; also a builtin ``TimeoutError``.

    >>> try:
    ...     raise TimeoutError('no answer within 5 s')
    ... except OSError as e:
    ...     print(e)
    no answer within 5 s
    """
