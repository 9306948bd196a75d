"""A web service whose data is Erlang's: FastAPI under uvicorn, in a node.

README.md beside this file says how it is started.
"""

import time

from fastapi import FastAPI, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse

import erlang

app = FastAPI(title="Library")


@app.middleware("http")
async def answer_always(request: Request, call_next):
    """Whatever goes wrong has an answer that says so, and every answer says how long it took."""
    begin = time.perf_counter()
    try:
        response = await call_next(request)
    except erlang.ErlangError as e:  # the function failed, or Erlang is not there
        response = JSONResponse({"error": str(e)}, status_code=503)
    except Exception as e:
        response = JSONResponse({"error": f"{type(e).__name__}: {e}"}, status_code=500)
    response.headers["Server-Timing"] = f"app;dur={(time.perf_counter() - begin) * 1000:.1f}"
    return response


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
