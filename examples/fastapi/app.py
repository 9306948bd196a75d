"""A web service whose data is Erlang's: FastAPI under uvicorn, in a node.

README.md beside this file says how it is started.
"""

import time

from fastapi import FastAPI, Query, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from starlette.datastructures import MutableHeaders

import erlang

app = FastAPI(title="Library")


class AnswerAlways:
    """Whatever goes wrong has an answer that says so, and every answer says how long it took."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        begin, begun = time.perf_counter(), False

        async def timed(message):
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                took = (time.perf_counter() - begin) * 1000
                MutableHeaders(scope=message)["Server-Timing"] = f"app;dur={took:.1f}"
            await send(message)

        try:
            await self.app(scope, receive, timed)
        except Exception as e:
            if begun:
                raise  # half an answer cannot be taken back
            await failure(e)(scope, receive, timed)


def failure(e):
    """The answer that says what went wrong."""
    if isinstance(e, erlang.ErlangError):  # the function failed, or Erlang is not there
        return JSONResponse({"error": str(e)}, status_code=503)
    return JSONResponse({"error": f"{type(e).__name__}: {e}"}, status_code=500)


app.add_middleware(AnswerAlways)


@app.get("/double/{x}")
async def double(x: int):
    """One call."""
    return {"value": await erlang.async_call("double_it", x)}


@app.get("/books")
async def books(page: int = Query(1, ge=1), size: int = Query(10, ge=1, le=100)):
    """A page of what a gen_server has."""
    return await erlang.async_call("books", page, size, timeout=5)


@app.websocket("/shelve")
async def shelve(websocket: WebSocket):
    """Each title that is sent goes to the gen_server; the answer is how many books there are."""
    await websocket.accept()
    try:
        while True:
            title = await websocket.receive_text()
            await websocket.send_json({"shelved": title, "total": await erlang.async_call("add_book", title)})
    except WebSocketDisconnect:
        pass
