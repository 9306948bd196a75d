"""plain_web - examples/fastapi under plain python3: Erlang is pretended, the client is the framework's own."""

import os
import sys

import tap
from erlang import testing
from tap import equal

CASES = []
FUNCTIONS = {
    "double_it": lambda x: 2 * x,
    "books": lambda page, size: {"page": page, "total": 3, "books": ["A", "B", "C"][(page - 1) * size :][:size]},
    "add_book": lambda title: 4,
}


def case(name):
    return lambda function: CASES.append((name, function))


def client():
    """A client of the example's application."""
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "examples", "fastapi"))
    try:
        from fastapi.testclient import TestClient

        from app import app
    except ImportError as e:
        raise tap.Skip(f"there is no FastAPI for this Python: {e}") from None
    finally:
        del sys.path[0]
    return TestClient(app)


@case("HTTP: a value, a page, and what fails has an answer that says so")
def _():
    http = client()
    with testing.node(FUNCTIONS) as n:
        equal(http.get("/double/21").json(), {"value": 42})
        equal(http.get("/books?page=2&size=2").json(), {"page": 2, "total": 3, "books": ["C"]})
        equal(http.get("/books?page=0").status_code, 422)
        del n.functions["double_it"]
        answer = http.get("/double/21")
        equal((answer.status_code, answer.json()), (503, {"error": "Function 'double_it' not registered"}))
        assert answer.headers["server-timing"].startswith("app;dur=")
        equal([c.name for c in n.calls], ["double_it", "books", "double_it"])
    answer = http.get("/double/21")
    equal(answer.status_code, 503)
    assert "works only inside a pynode node" in answer.json()["error"]


@case("WebSocket: a conversation")
def _():
    with testing.node(FUNCTIONS) as n, client().websocket_connect("/shelve") as socket:
        for title in ("D", "E"):
            socket.send_text(title)
            equal(socket.receive_json(), {"shelved": title, "total": 4})
        equal(n.calls, [("add_book", ["D"]), ("add_book", ["E"])])


tap.run(CASES)
