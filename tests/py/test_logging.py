"""test_logging - erlang.LogHandler and how records get to it, with a home that is only feigned.

What a real home gets is in tests/live/live_log.erl.
"""

import contextlib
import doctest
import io
import logging
import logging.config
import os
import subprocess
import sys
import threading
import warnings

import pools
import tap
from pools import case
from tap import equal, raises

import _erlang
import erlang
from erlang import _logging


class Home:
    """Takes what is logged, in place of the node's own function."""

    def __init__(self, fails=None):
        self.items, self.fails = [], fails

    def log(self, level, logger, text, meta):
        if self.fails:
            raise self.fails
        self.items.append((level, logger, text, meta))
        return True

    def texts(self):
        return [text for _, _, text, _ in self.items]


@contextlib.contextmanager
def home(fails=None, wanted=True):
    """Feigns a home, and gives stderr back with it; root logger and all others are new."""
    feigned, manager = Home(fails), logging.Logger.manager
    saved = _logging._log, _logging._log_wanted, manager.loggerDict, sys.stderr
    root = logging.getLogger()
    handlers, level, root.handlers = root.handlers, root.level, []
    _logging._log, _logging._log_wanted, manager.loggerDict = feigned.log, lambda: wanted, {}
    sys.stderr = feigned.stderr = io.StringIO()
    root.setLevel(logging.WARNING)
    try:
        yield feigned
    finally:
        _logging._log, _logging._log_wanted, manager.loggerDict, sys.stderr = saved
        root.handlers = handlers
        root.setLevel(level)


def node(code):
    """Runs code in a node of its own: status, stdout, and what it wrote to stderr besides its log."""
    done = subprocess.run(
        [os.environ["PYNODE"], "--name", f"child{os.urandom(4).hex()}@127.0.0.1", "-c", code],
        capture_output=True,
        text=True,
        timeout=tap.LIMIT,
    )
    lines = [line for line in done.stderr.splitlines() if " info node" not in line]
    return done.returncode, done.stdout, "\n".join(lines)


@case("the documentation's examples; LogHandler is among the public names")
def _():
    with home() as h:
        results = doctest.testmod(_logging)
        equal(results, (0, 5))
        equal([(level, text, meta["user"]) for level, _, text, meta in h.items], [("warning", "Ann has left", "ann")])
    assert erlang.LogHandler is _logging.LogHandler and "LogHandler" in erlang.__all__
    raises(AttributeError, getattr, erlang, "_NoHandler", text="_NoHandler")


@case("a node does not import logging by itself; a program that does finds it prepared")
def _():
    equal(
        node(
            "import sys, importlib.util, erlang\n"
            "print('logging' in sys.modules, importlib.util.find_spec('logging').name)\n"
            "import logging\n"
            "from logging import Logger\n"
            "print(logging.Logger is Logger, hasattr(Logger.callHandlers, 'erlang'))\n"
            "print([f for f in sys.meta_path if 'Finder' == type(f).__name__])\n"
            "logging.getLogger('a').warning('as ever')"
        ),
        (0, "False logging\nTrue True\n[]\n", "as ever"),
    )


@case("a logging of the program's own that is quite another: it is imported all the same")
def _():
    status, output, errors = node(
        "import os, sys, tempfile\n"
        "with tempfile.TemporaryDirectory() as d:\n"
        "    with open(os.path.join(d, 'logging.py'), 'w') as f:\n"
        "        f.write('mine = 1')\n"
        "    sys.path.insert(0, d)\n"
        "    import logging\n"
        "    print(logging.mine)"
    )
    equal((status, output), (0, "1\n"))
    lines = errors.splitlines()  # a stranger who takes the node for another leaves a line, too
    assert any(line.startswith("logging does not go to Erlang: AttributeError") for line in lines), errors


@case("records at the interpreter's end are harmless: exit handlers, finalizers, late threads")
def _():
    status, output, errors = node(
        "import atexit, logging, sys, threading, time\n"
        "import erlang._logging\n"
        "erlang._logging._log_wanted = lambda: True\n"
        "erlang._logging._log = lambda *item: item[1] == 'thread' or print(item[2], flush=True)\n"
        "class Late:\n"
        "    def __del__(self, warning=logging.getLogger('late').warning):\n"
        "        warning('finalizer')\n"
        "late = sys.late = Late()\n"
        "atexit.register(logging.getLogger('a').warning, 'exit handler')\n"
        "def log():\n"
        "    while True:\n"
        "        logging.getLogger('thread').warning('x')\n"
        "threading.Thread(target=log, daemon=True).start()\n"
    )
    equal((status, output.splitlines()[0]), (0, "exit handler"))
    assert "Traceback" not in errors, errors


@case("levels: the nearest below")
def _():
    pairs = {0: "debug", 5: "debug", 10: "debug", 19: "debug", 20: "info", 29: "info", 30: "warning"}
    for number, level in {**pairs, 40: "error", 50: "critical", 99: "critical"}.items():
        equal(_logging._level(number), level)


@case("metadata: place, thread and time, and the record's attributes that are not usual")
def _():
    with home() as h:
        logging.getLogger("a.b").error("%s!", "x", extra={"user": "ann"}, stack_info=True)
        ((level, logger, text, meta),) = h.items
        equal((level, logger, text.splitlines()[0]), ("error", "a.b", "x!"))
        assert "Stack (most recent call last):" in text
        equal(sorted(meta), ["created", "funcName", "lineno", "pathname", "threadName", "user"])
        equal((meta["pathname"], meta["threadName"]), (__file__, threading.current_thread().name))


@case("what asyncio and concurrent.futures add to each record is not taken for the program's")
def _():
    with home() as h:
        logging.getLogger("a").handle(logging.makeLogRecord({"levelno": 30, "msg": "m", "taskName": "T"}))
        equal(sorted(h.items[0][3]), ["created", "funcName", "lineno", "pathname", "threadName"])


@case("without a home all is as ever")
def _():
    with home(wanted=False) as h:
        logging.getLogger("a").warning("last resort")
        logging.warning("basic")
        equal(h.stderr.getvalue(), "last resort\nWARNING:root:basic\n")
        equal((h.items, len(logging.getLogger().handlers)), ([], 1))


@case("with a home: no handler is made, none is wanted, and basicConfig still does its work")
def _():
    with home() as h:
        logging.warning("1")
        equal((logging.getLogger().handlers, h.stderr.getvalue()), ([], ""))
        logging.basicConfig(level=logging.INFO, format="mine %(message)s")
        logging.info("2")
        logging.debug("3")
        equal((h.texts(), h.stderr.getvalue()), (["1", "2"], "mine 2\n"))


@case("dictConfig, which throws handlers out, does not end it")
def _():
    with home() as h:
        logging.config.dictConfig({"version": 1, "disable_existing_loggers": True})
        logging.getLogger("a").warning("still")
        equal(h.texts(), ["still"])


@case("a logger's level, a disabled logger and logging.disable hold")
def _():
    with home() as h:
        a = logging.getLogger("a")
        a.setLevel(logging.ERROR)
        a.warning("level")
        logging.getLogger("b").disabled = True
        logging.getLogger("b").critical("disabled")
        logging.disable(logging.CRITICAL)
        try:
            a.critical("all disabled")
        finally:
            logging.disable(logging.NOTSET)
        equal(h.texts(), [])


@case("a logger that does not propagate keeps its records; a LogHandler gives them, once")
def _():
    with home() as h:
        inner = logging.getLogger("a.b")
        inner.propagate = False
        inner.warning("1")
        equal((h.texts(), h.stderr.getvalue()), ([], "1\n"))
        inner.addHandler(erlang.LogHandler())
        inner.warning("2")
        logging.getLogger("a").addHandler(erlang.LogHandler())
        logging.getLogger("a").warning("3")
        inner.propagate = True
        logging.getLogger().addHandler(erlang.LogHandler(level=logging.ERROR))
        logging.getLogger("c").warning("the handler's level")
        equal(h.texts(), ["2", "3"])


@case("a LogHandler's formatter and filters are used; one may replace the record")
def _():
    with home() as h:
        handler = erlang.LogHandler()
        handler.setFormatter(logging.Formatter("<%(message)s>"))
        handler.addFilter(lambda record: record.getMessage() != "no")
        logging.getLogger().addHandler(handler)
        logging.warning("yes")
        logging.warning("no")
        equal(h.texts(), ["<yes>"])
        if sys.version_info >= (3, 12):
            handler.addFilter(lambda _: logging.makeLogRecord({"msg": "other", "levelno": 40}))
            logging.warning("yes")
            equal(h.items[-1][:3], ("error", "None", "<other>"))


@case("a failure to give a record is told on standard error, once, and does no harm")
def _():
    with home(fails=ValueError("no room")) as h:
        logging.getLogger("a").warning("x")
        equal(h.stderr.getvalue().count("no room"), 1)
        equal(_logging._thread.busy, False)


@case("a record that is logged while one is given does not go round for ever")
def _():
    class Loud:
        def __str__(self):
            logging.getLogger("loud").warning("%s", Loud())
            return "loud"

    with home() as h:
        logging.getLogger("a").warning("%s", Loud())
        equal(h.texts(), ["loud"])
        logging.getLogger("a").warning("next")
        equal(h.texts(), ["loud", "next"])


@case("Cancelled in a handler goes on, and the thread's next record is given")
def _():
    with home(fails=erlang.Cancelled()) as h:
        raises(erlang.Cancelled, logging.getLogger("a").warning, "x")
        h.fails = None
        logging.getLogger("a").warning("next")
        equal(h.texts(), ["next"])


@case("long text is cut")
def _():
    with home() as h:
        logging.getLogger("a").warning("x" * 65536)
        logging.getLogger("a").warning("x" * 65537)
        equal([len(text) for text in h.texts()], [65536, 65536 + len("... and 1 characters more")])


@case("many threads at once: every record is given")
def _():
    with home() as h:
        threads = [
            threading.Thread(target=lambda: [logging.getLogger("a").warning("x") for _ in range(200)])
            for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        equal(len(h.items), 2000)


@case("what is captured by logging.captureWarnings is given")
def _():
    with home() as h:
        logging.captureWarnings(True)
        try:
            warnings.warn("old", DeprecationWarning, stacklevel=1)
            warnings.warn("mind", UserWarning, stacklevel=1)
        finally:
            logging.captureWarnings(False)
        equal([logger for _, logger, text, _ in h.items if "mind" in text], ["py.warnings"])


@case("installed once, however often it is asked for")
def _():
    before = logging.Logger.callHandlers, logging.basicConfig
    _logging.install()
    equal((logging.Logger.callHandlers, logging.basicConfig), before)


@case("the native function: without a home it gives nothing; what it is not for is an error")
def _():
    equal((_erlang._log_wanted(), _erlang._log("info", "a", "b", {})), (False, False))
    raises(ValueError, _erlang._log, "loud", "a", "b", {})
    raises(TypeError, _erlang._log, "info", "a", b"b", {})
    raises(TypeError, _erlang._log, "info", "a", "b", [])


pools.main()
