"""A client of the web services of live_web, in a Python of its own: python3 web_client.py WHAT PORT ..."""

import asyncio
import sys

import httpx
import websockets

LIMIT = 60  # seconds for an answer


def client(port):
    """One that has as many connections as it wants."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=LIMIT, trust_env=False)


async def get(port, *paths):
    """Prints the status and the text of each answer, one after another over one connection."""
    async with client(port) as http:
        for path in paths:
            answer = await http.get(path)
            print(answer.status_code, answer.text, flush=True)


async def parallel(port, path, n):
    """n requests at once, each with its own number at the end: how many answers are right."""
    async with client(port) as http:
        answers = await asyncio.gather(*(http.get(f"{path}{i}") for i in range(int(n))))
    right = sum(a.status_code == 200 and a.json() in (i, {"value": 2 * i}) for i, a in enumerate(answers))
    print(f"{right} of {n}", flush=True)


async def converse(port, path, n):
    """n conversations at once, each of ten sentences: in how many all answers are right."""

    async def one(i):
        async with websockets.connect(f"ws://127.0.0.1:{port}{path}") as socket:
            for k in range(10):
                text = f"{i} says {k}"
                await socket.send(text)
                answer = await asyncio.wait_for(socket.recv(), LIMIT)
                if text not in answer:
                    return None
            return answer

    answers = await asyncio.gather(*(one(i) for i in range(int(n))))
    print(f"{sum(a is not None for a in answers)} of {n}", flush=True)


async def storm(port, path):
    """Asks without a pause, from 20 at once, and prints each status that is not the one before; to be killed."""
    last = None

    async def one(http):
        nonlocal last
        while True:
            try:
                status = (await http.get(path)).status_code
            except httpx.HTTPError as e:
                status = type(e).__name__
            if status != last:
                last = status
                print("status", status, flush=True)
            await asyncio.sleep(0.01)

    async with client(port) as http:
        await asyncio.gather(*(one(http) for _ in range(20)))


asyncio.run(globals()[sys.argv[1]](*sys.argv[2:]))
