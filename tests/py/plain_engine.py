"""plain_engine - which requests erlang.cluster sends, and when: its queue and a VM that the test plays."""

import asyncio
import types

import tap
from erlang import _cluster_engine as engine
from erlang._cluster_codec import CODECS
from tap import equal

CASES = []
SLOTS = 4
COMPUTES, WAITS = (1.0, 1.0), (1.0, 0.001)  # how long a task takes, and how long it computes


def case(name):
    def add(function):
        CASES.append((name, lambda: asyncio.run(function(VM()))))

    return add


class VM:
    """Where the requests go; each is answered when the test says so."""

    def __init__(self):
        self.slots = SLOTS
        self.requests = []
        self.queue = engine.Queue(None, {}, lambda error, home: error)

    async def call(self, name, *args, node):
        if name == "py_remote:slots":
            return self.slots
        answer = asyncio.get_running_loop().create_future()
        self.requests.append((args[0][2], answer))
        return "ok", await answer

    async def turn(self):
        """What can be done is done."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def begin(self, job):
        engine._engine = types.SimpleNamespace(loop=asyncio.get_running_loop())
        engine.call = self.call
        self.queue.add(job)
        await self.turn()

    async def answer(self, seconds, took):
        """The first request ends, whose tasks have taken so long each."""
        items, answer = self.requests.pop(0)
        answer.set_result((tuple(len(items) * seconds * part for part in took), [b"x"] * len(items)))
        await self.turn()
        return len(items)

    async def learn(self, seconds, took):
        """The requests end of which nobody knew how long they would take."""
        for _ in range(len(self.requests)):
            await self.answer(seconds, took)


def a_map(n, chunksize=None):
    job = engine.Map(CODECS["terms"], "m:f", chunksize, lambda job: None)
    job.add([b"item"] * n, True)
    return job


class Future:
    """The least that a task of its own needs."""

    _taken_back = _sent = False

    def _end(self, job, outcome):
        pass


@case("of tasks that compute each slot has one that runs, and one that is next")
async def _(vm):
    await vm.begin(a_map(10_000))
    equal(len(vm.requests), 2 * SLOTS + 8)  # nobody knows yet
    await vm.learn(0.02, COMPUTES)
    equal([len(items) for items, _ in vm.requests], [10] * 2 * SLOTS)


@case("of tasks that wait for something there are more")
async def _(vm):
    await vm.begin(a_map(10_000))
    await vm.learn(0.02, WAITS)
    equal(len(vm.requests), 2 * SLOTS + 8)


@case("and of requests that are on their way for as long as they run")
async def _(vm):
    await vm.begin(a_map(1_000_000))
    await vm.learn(1e-6, COMPUTES)
    equal([len(items) for items, _ in vm.requests], [4096] * (2 * SLOTS + 8))


@case("a chunksize is kept to")
async def _(vm):
    await vm.begin(a_map(1000, 7))
    await vm.learn(1.0, COMPUTES)
    equal([len(items) for items, _ in vm.requests], [7] * 2 * SLOTS)


@case("at the end there is little in each, and every task is sent once")
async def _(vm):
    await vm.begin(a_map(1000))
    sizes = []
    while vm.requests:
        sizes.append(await vm.answer(0.02, COMPUTES))
    equal(sum(sizes), 1000)
    equal(sizes[-2 * SLOTS :], [1] * 2 * SLOTS)
    equal(max(sizes), 10)


@case("a node that has become slow is hardly waited for at the end")
async def _(vm):
    vm.slots = 2
    await vm.begin(a_map(10_000))
    nodes, seconds, ends, now = [[], []], [0.001, 0.001], [0.0, 0.0], 0.0
    while vm.requests or any(nodes):
        for request in vm.requests:
            n = min((0, 1), key=lambda n: len(nodes[n]))
            if not nodes[n]:
                ends[n] = now + len(request[0]) * seconds[n]
            nodes[n].append(request)
        vm.requests.clear()
        n = min((n for n in (0, 1) if nodes[n]), key=lambda n: ends[n])
        now = ends[n]
        if now > 3:
            seconds[1] = 0.003
        vm.requests.append(nodes[n].pop(0))
        if nodes[n]:
            ends[n] = now + len(nodes[n][0][0]) * seconds[n]
        await vm.answer(seconds[n], COMPUTES)
    if abs(ends[0] - ends[1]) > 0.1:
        raise AssertionError(f"one node has ended after {ends[0]:.3f} s, the other after {ends[1]:.3f} s")


@case("a task of its own need not wait for a map of long ones")
async def _(vm):
    await vm.begin(a_map(10_000))
    await vm.learn(0.02, COMPUTES)
    await vm.begin(engine.Single(Future(), CODECS["terms"], "m:f", b"single", ()))
    equal(vm.requests[-1][0], [b"single"])
    equal(len(vm.requests), 2 * SLOTS + 1)


@case("two maps take turns")
async def _(vm):
    one, other = a_map(1000, 5), a_map(1000, 6)
    await vm.begin(one)
    await vm.begin(other)
    await vm.learn(0.02, COMPUTES)
    for _ in range(20):
        await vm.answer(0.02, COMPUTES)
    equal(sorted(len(items) for items, _ in vm.requests), [5] * SLOTS + [6] * SLOTS)


tap.run(CASES)
