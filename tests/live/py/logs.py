"""What live_log.erl has logged: records of every kind, from here and from other threads."""

import logging
import threading

log = logging.getLogger("app.db")


class Opaque:
    def __str__(self):
        return "opaque"


class Faulty:
    def __str__(self):
        raise ValueError("no text")


class Interrupted:
    def __str__(self):
        raise KeyboardInterrupt("while it is converted")


class Chatty:
    """Logs when it is converted, as it might by a converter."""

    def __str__(self):
        logging.warning("chatty is converted")
        return "chatty"


def level(number):
    """Logs a record of that level."""
    logging.getLogger().setLevel(1)
    log.log(number, "level %d", number)


def text(message):
    log.warning(message)


def surrogate():
    log.warning("half \ud800 a pair", extra={"half": "\udfff"})


def extra():
    log.error(
        "extra",
        extra={"user": "ann", "opaque": Opaque(), "faulty": Faulty(), "n": 1, "d": {"k": [Opaque]}},
    )


def odd_keys():
    log.warning("odd", extra={1: "a", "1": "b", "\ud800": "c", "fine": "d"})


def chatty():
    log.warning("outer", extra={"chatty": Chatty()})


def interrupted():
    """Ctrl-C, or Cancelled, at this moment."""
    log.warning("never", extra={"x": Interrupted()})


def deep():
    """A list in itself and one that is too deep."""
    ring, nested = [], []
    ring.append(ring)
    for _ in range(100000):
        nested = [nested]
    log.warning("deep", extra={"ring": ring, "nested": nested})


def failure():
    """An exception with its traceback."""
    try:
        {}["missing"]
    except KeyError:
        log.exception("it failed")


def bad_format():
    log.warning("%d items", "no number")


def from_thread():
    thread = threading.Thread(target=log.warning, args=("from a thread",), name="T7")
    thread.start()
    thread.join()


def apart(handler=None):
    """A logger that does not reach the root logger, with a handler of this name."""
    logger = logging.getLogger("apart")
    logger.propagate = False
    if handler:
        import erlang

        logger.addHandler(getattr(erlang, handler)())
    logger.warning("apart")


def basic_config(level):
    """What a program does first."""
    logging.basicConfig(level=level, format="basic:%(message)s")
    logging.info("after basicConfig")


def handlers():
    """How many handlers the root logger has."""
    return len(logging.getLogger().handlers)


def own_handler():
    """A LogHandler of the user's on the root logger."""
    import erlang

    logging.getLogger().addHandler(erlang.LogHandler())
    logging.warning("once")


def flood(number, count, size):
    """That many records from each of the threads."""

    def records():
        for _ in range(count):
            log.warning(text)

    text = "x" * size
    running = [threading.Thread(target=records) for _ in range(number)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return number * count


def huge(size):
    log.warning("x" * size)
    log.warning("huge", extra={"huge": "x" * size})


def forked():
    """Logs in a child of the node, which is no node; the child's status."""
    import os

    pid = os.fork()
    if pid == 0:
        try:
            log.error("from the child")
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1]
