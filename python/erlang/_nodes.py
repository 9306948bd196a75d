"""The Erlang nodes that the VM sees to which this node is attached. Inside of a node."""

from _erlang import call, self


def nodes():
    """The Erlang node that a call from here goes to, and those that it sees, as Atoms.

    Each can be the ``node`` of call(). Python nodes are hidden ones, and not among them.

    >>> nodes()
    Traceback (most recent call last):
    erlang.errors.ErlangError: no Erlang node with the application pynode is attached
    """
    return call("py_remote:nodes")


def monitor_node(node, flag=True):
    """The message ('nodedown', node), once, when the Erlang node has gone; at once if it is not there.

    Without the flag one that was asked for before does not come any more. It is for the process that
    self() is; the VM that this one is attached to watches: monitor() tells of its own end.

    >>> monitor_node('erl@host')
    Traceback (most recent call last):
    erlang.errors.ErlangError: no Erlang node with the application pynode is attached
    """
    check(node, call("py_remote:monitor_node", node, self(), bool(flag)))


def check(node, answer):
    """Raises what is wrong with the node's name."""
    if type(answer) is tuple:
        raise ValueError(_WRONG[str(answer[1])].format(node))


_WRONG = {
    "own_node": "{!r} is the node that watches: use erlang.monitor((name, node))",
    "bad_name": "{!r} is not NAME@HOST",
}
