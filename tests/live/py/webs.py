"""ASGI applications for live tests, on Starlette alone: what Erlang says, and what a middleware sees of it."""

import asyncio

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute

import erlang

seen = []


class Watch:
    """Catches all that passes, at the outermost place and at the innermost; it goes on."""

    def __init__(self, app, where):
        self.app, self.where = app, where

    async def __call__(self, scope, receive, send):
        try:
            await self.app(scope, receive, send)
        except BaseException as e:
            seen.append(f"{self.where}: {type(e).__name__}")
            raise


async def tag(request):
    """What the query says, by way of Erlang, in one of three ways."""
    i = int(request.query_params["i"])
    if i % 3 == 0:
        return JSONResponse(await erlang.async_call("tag", i))
    if i % 3 == 1:
        return JSONResponse((await asyncio.gather(*(erlang.async_call("tag", i) for _ in range(10))))[9])
    async with asyncio.TaskGroup() as tasks:
        made = tasks.create_task(erlang.async_call("tag", i, timeout=60))
    return JSONResponse(made.result())


async def fail(request):
    """A function that fails."""
    return JSONResponse(await erlang.async_call("badarith"))


async def never(request):
    """A function that never ends."""
    return JSONResponse(await erlang.async_call("never", timeout=float(request.query_params["timeout"])))


async def watched(request):
    """What the middleware has caught."""
    return JSONResponse(seen)


async def talk(websocket):
    """Says what it is told, by way of Erlang."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(await erlang.async_call("tag", text))


_inner = Starlette(
    routes=[
        Route("/tag", tag),
        Route("/fail", fail),
        Route("/never", never),
        Route("/seen", watched),
        WebSocketRoute("/talk", talk),
    ],
    middleware=[Middleware(Watch, where="inner")],
)
app = Watch(_inner, "outer")
