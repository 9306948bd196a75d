"""Many VMs and many Python nodes on paper: what the placing of calls does, and what it costs.

    python3 bench/scale.py [--full] [--vms N] [--nodes N] [--hot] [--seed N] ...

A model, not a measurement: callers on V VMs, N nodes with so many workers each, and the placing as py_place,
py_backlog and home.c have it, beside what could be done instead. It prints how long calls wait, how evenly the
nodes are used, and what connections, reports and memory that takes, with the unit costs that bench/scale.erl has
measured. The same seed gives the same figures. docs/scale.md says what follows from them.

A call that runs takes a worker and nothing else: none is blocked, and no node or VM goes. Each call is made by a
process of its own.
"""

import argparse
import collections
import heapq
import itertools
import math
import random
import sys
import zlib
from dataclasses import dataclass, field

# As in the sources: py_node.erl, py_backlog.erl, py_place.erl, home.c.
SENT_AHEAD = 4
AHEAD_MAX = 256
AHEAD_TIME = 0.005
TICK = 0.020
FEW = 8
LOOK = 1.0

# Measured by bench/scale.erl; a report with TCP's and IP's headers.
VM_KIB = 480  # of a VM's memory for each node that it is connected to
NODE_KIB = 13  # of a node's for each VM
REPORT_BYTES = 232 + 52
REPORT_VM_US = 50  # of processor time in the VM
REPORT_NODE_US = 11  # and in the node

HOP = 0.00016  # seconds from one VM to another and back
GATEWAYS_A_NODE = 2
CUT = 100  # no call takes longer than so many times the mean
ALPHA = 1.5

UTILISATIONS = (0.50, 0.80, 0.95)
SERVICES = ("exponential", "heavy-tailed")


@dataclass(frozen=True)
class Setup:
    """What is simulated; times in seconds."""

    vms: int = 20
    nodes: int = 200
    slots: int = 2
    service: float = 0.05
    tail: str = "exponential"
    utilisation: float = 0.8
    hot: bool = False  # a tenth of the VMs makes half of the calls
    warm_up: float = 2.0
    measured: float = 4.0
    seed: int = 1


@dataclass(frozen=True)
class Policy:
    """How a caller chooses: among which nodes, and what it knows of their load."""

    name: str
    choices: int = 2
    knows: str = "reports"  # of others' calls: own (nothing), reports, fading, answers, all
    own_limit: bool = False  # what a node takes is a bound for each VM by itself
    subset: int = 0  # so many nodes for each VM; 0: all
    hashed: bool = False  # which ones: by a hash of both names
    gateways: int = 0  # calls go through so many VMs


@dataclass
class Result:
    """Waits in seconds, sorted; how much more than the mean the busiest node did; connections."""

    waits: list
    imbalance: float
    vm_connections: int  # of the VM that has the most
    node_connections: float  # of a node, on average
    connections: int

    def wait(self, share):
        return self.waits[min(len(self.waits) - 1, int(share * len(self.waits)))]


# Who is connected to whom.


def deterministic_subset(nodes, vm, size):
    """The nodes of one VM: in each round of VMs every node has one of them (the SRE book, chapter 20)."""
    count = max(1, len(nodes) // size)
    shuffled = list(nodes)
    random.Random(vm // count).shuffle(shuffled)
    at = vm % count
    return shuffled[at * len(nodes) // count : (at + 1) * len(nodes) // count]


def hashed_subset(nodes, vm, size):
    """Those that rendezvous hashing puts first: no VM needs to know how many others there are."""
    return sorted(nodes, key=lambda node: zlib.crc32(f"{vm} {node} {vm}".encode()))[:size]


def gateway_nodes(nodes, gateway, gateways):
    """The groups of nodes that the gateway speaks to; each group has more than one gateway."""
    groups = {(gateway + i) % gateways for i in range(min(GATEWAYS_A_NODE, gateways))}
    return [node for node in nodes if node % gateways in groups]


def connected(policy, setup):
    """For each VM that places calls the nodes that it is connected to."""
    nodes = range(setup.nodes)
    if policy.gateways:
        return [gateway_nodes(nodes, g, policy.gateways) for g in range(policy.gateways)]
    if not policy.subset:
        return [nodes] * setup.vms
    choose = hashed_subset if policy.hashed else deterministic_subset
    return [choose(nodes, vm, policy.subset) for vm in range(setup.vms)]


# The parts.


@dataclass
class Node:
    """Its workers and queue, and what it has last told the VMs."""

    busy: int = 0
    queue: collections.deque = field(default_factory=collections.deque)
    in_flight: int = 0
    by_vm: dict = field(default_factory=dict)
    ran: int = 0
    work: float = 0.0
    took: float = 0.0  # all that ran
    stay: float = 0.0  # how long a call is there, as of the last report
    limit: int = 0
    told: int = 0
    told_by_vm: dict = field(default_factory=dict)
    told_at: float = -1.0


@dataclass
class Vm:
    """Where calls are placed: the nodes, what answers said of others' calls there, and who waits."""

    nodes: list
    own: dict = field(default_factory=dict)
    heard: dict = field(default_factory=dict)
    backlog: collections.deque = field(default_factory=collections.deque)
    ticks: bool = False


class Cluster:
    """One run of one policy."""

    def __init__(self, policy, setup):
        self.policy, self.setup = policy, setup
        key = f"{policy.name} {setup.tail} {setup.utilisation} {setup.seed}"
        self.random = random.Random(zlib.crc32(key.encode())).random
        self.rng = random.Random(zlib.crc32(key.encode()) + 1)
        self.nodes = [Node(limit=setup.slots + SENT_AHEAD) for _ in range(setup.nodes)]
        self.vms = [Vm(nodes) for nodes in connected(policy, setup)]
        self.at_gateway = [[0] * policy.gateways for _ in range(setup.vms)]
        self.others = getattr(self, f"others_{policy.knows}")
        self.events, self.order, self.now = [], itertools.count(), 0.0
        self.waits = []
        self.end = setup.warm_up + setup.measured

    def at(self, time, act, *args):
        heapq.heappush(self.events, (time, next(self.order), act, args))

    def run(self):
        """Until the calls that come while it is measured have begun."""
        for node in self.nodes:
            self.at(self.random() * LOOK, self.report, node)
        rate = self.setup.utilisation * self.setup.nodes * self.setup.slots / self.setup.service
        next_call = self.rng.expovariate(rate)
        while next_call < self.end or self.events:
            if next_call < self.end and (not self.events or next_call < self.events[0][0]):
                self.now = next_call
                self.call()
                next_call += self.rng.expovariate(rate)
            else:
                self.now, _, act, args = heapq.heappop(self.events)
                act(*args)
        return self.result()

    def result(self):
        work = [node.work for node in self.nodes]
        sizes = [len(vm.nodes) for vm in self.vms]
        return Result(sorted(self.waits), max(work) * len(work) / sum(work), max(sizes),
                      sum(sizes) / len(self.nodes), sum(sizes))

    # Calls.

    def call(self):
        """One comes: from which VM, and how long it will take."""
        caller = self.caller()
        if self.policy.gateways:
            vm, begun = self.gateway(caller), self.now - HOP
        else:
            vm, begun = caller, self.now
        self.arrive(vm, (begun, self.service(), caller))

    def caller(self):
        hot = max(1, self.setup.vms // 10)
        if self.setup.hot and self.random() < 0.5:
            return int(self.random() * hot)
        return int(self.random() * self.setup.vms)

    def gateway(self, caller):
        """The one of two that this caller has less at."""
        counts = self.at_gateway[caller]
        a, b = (int(self.random() * len(counts)) for _ in range(2))
        chosen = b if counts[b] < counts[a] else a
        counts[chosen] += 1
        return chosen

    def service(self):
        mean = self.setup.service
        if self.setup.tail == "exponential":
            return self.rng.expovariate(1 / mean)
        return mean / CUT_MEAN * min(CUT * CUT_MEAN, self.rng.paretovariate(ALPHA))

    def arrive(self, v, call):
        """Who comes while others wait, waits behind them."""
        vm = self.vms[v]
        if vm.backlog or not self.place(v, call):
            vm.backlog.append(call)
            self.tick_soon(v)

    def tick_soon(self, v):
        if self.vms[v].backlog and not self.vms[v].ticks:
            self.vms[v].ticks = True
            self.at(self.now + TICK, self.tick, v)

    def tick(self, v):
        """As many as there is room for get their turn."""
        vm = self.vms[v]
        vm.ticks = False
        while vm.backlog and self.place(v, vm.backlog[0]):
            vm.backlog.popleft()
        self.tick_soon(v)

    # The place.

    def place(self, v, call):
        """Sends the call to a node that has room: false if none has."""
        nodes = self.vms[v].nodes
        n = self.choose(v, nodes)
        if not self.has_room(v, n):
            start = int(self.random() * len(nodes))
            rest = itertools.chain(range(start, len(nodes)), range(start))
            n = next((nodes[i] for i in rest if self.has_room(v, nodes[i])), None)
            if n is None:
                return False
        self.send(v, n, call)
        return True

    def choose(self, v, nodes):
        """At random, the less loaded of two, or the least loaded of a few."""
        count = len(nodes)
        a = nodes[int(self.random() * count)]
        if self.policy.choices == 1:
            return a
        if count <= FEW:
            start = int(self.random() * count)
            return min((nodes[(start + i) % count] for i in range(count)), key=lambda n: self.load(v, n))
        b = nodes[int(self.random() * count)]
        return b if self.load(v, b) < self.load(v, a) else a

    def load(self, v, n):
        return self.vms[v].own.get(n, 0) + self.others(v, n)

    def has_room(self, v, n):
        calls = self.vms[v].own.get(n, 0) if self.policy.own_limit else self.load(v, n)
        return calls < self.nodes[n].limit

    # What a VM knows of others' calls.

    def others_own(self, v, n):
        return 0

    def others_all(self, v, n):
        return self.nodes[n].in_flight - self.vms[v].own.get(n, 0)

    def others_reports(self, v, n):
        node = self.nodes[n]
        return node.told - node.told_by_vm.get(v, 0)

    def others_fading(self, v, n):
        """What was reported counts the less the more of it must have ended since."""
        node = self.nodes[n]
        return self.others_reports(v, n) * math.exp((node.told_at - self.now) / node.stay) if node.stay else 0.0

    def others_answers(self, v, n):
        """The last answer's word, if the last report is older."""
        time, others = self.vms[v].heard.get(n, (-1.0, 0))
        return others if time > self.nodes[n].told_at else self.others_reports(v, n)

    # A node.

    def send(self, v, n, call):
        node, own = self.nodes[n], self.vms[v].own
        own[n] = own.get(n, 0) + 1
        node.in_flight += 1
        node.by_vm[v] = node.by_vm.get(v, 0) + 1
        if node.busy < self.setup.slots:
            node.busy += 1
            self.start(node, v, n, call)
        else:
            node.queue.append((v, call))

    def start(self, node, v, n, call):
        begun, service, _ = call
        if self.setup.warm_up <= self.now < self.end:
            node.work += service
        if begun >= self.setup.warm_up:
            self.waits.append(self.now - begun)
        self.at(self.now + service, self.done, v, n, call)

    def done(self, v, n, call):
        node, vm = self.nodes[n], self.vms[v]
        node.in_flight -= 1
        node.ran += 1
        node.took += call[1]
        self.count_off(node.by_vm, v)
        self.count_off(vm.own, n)
        if self.policy.knows == "answers":
            vm.heard[n] = (self.now, node.in_flight - node.by_vm.get(v, 0))
        if self.policy.gateways:
            self.at_gateway[call[2]][v] -= 1
        if node.queue:
            self.start(node, node.queue[0][0], n, node.queue.popleft()[1])
        else:
            node.busy -= 1
        if vm.backlog and self.place(v, vm.backlog[0]):
            vm.backlog.popleft()

    @staticmethod
    def count_off(counts, key):
        if counts[key] == 1:
            del counts[key]
        else:
            counts[key] -= 1

    def report(self, node):
        """To all at once, each without its own; and how many the node takes from now on."""
        node.told, node.told_by_vm, node.told_at = node.in_flight, dict(node.by_vm), self.now
        if node.ran:
            slots, mean = self.setup.slots, node.took / node.ran
            node.limit = slots + max(SENT_AHEAD, min(AHEAD_MAX, int(slots * AHEAD_TIME / mean)))
            node.stay = mean * max(1.0, node.in_flight / slots)
        if self.now < self.end or node.in_flight:
            self.at(self.now + LOOK, self.report, node)


# The mean of what paretovariate gives when it is cut at CUT times its mean.
CUT_MEAN = ALPHA / (ALPHA - 1)
CUT_MEAN = CUT_MEAN - (CUT * CUT_MEAN) ** (1 - ALPHA) / (ALPHA - 1)


def simulate(policy, setup):
    """What comes of it."""
    return Cluster(policy, setup).run()


def policies(setup):
    """As it is, and what could be instead; subsets so large that a node has one VM, two, five, ten."""
    once = max(1, setup.nodes // setup.vms)
    gateways = max(2, setup.vms // 5)
    return [
        Policy("random", choices=1),
        Policy("all nodes, as it is"),
        Policy("all, own calls only", knows="own", own_limit=True),
        Policy("all, reports fade", knows="fading", own_limit=True),
        Policy("all, load in answers", knows="answers"),
        Policy("all, load is known", knows="all"),
        *(Policy(f"subset of {k * once}", subset=k * once) for k in (1, 2, 5)),
        *(Policy(f"subset of {k * once}, reports fade", subset=k * once, knows="fading", own_limit=True) for k in (2, 10)),
        Policy(f"subset of {2 * once}, hashed", subset=2 * once, hashed=True),
        Policy(f"{gateways} gateways", gateways=gateways),
    ]


# What is printed.


def print_waits(setup, results):
    """For one kind of calls: a row a policy, three columns a utilisation."""
    print(f"\n{setup.tail} service times, {setup.service * 1000:g} ms; wait in ms, and the busiest node against the mean")
    print(" " * 32 + "".join(f"{f'{u:.0%} busy: p50':>17} {'p99':>6} {'max':>5}" for u in UTILISATIONS))
    for policy, row in results:
        cells = "".join(f"{r.wait(0.5) * 1000:17.1f} {r.wait(0.99) * 1000:6.0f} {r.imbalance:5.2f}" for r in row)
        print(f"{policy.name:32}{cells}")


def print_costs(setup, results):
    """What does not depend on the calls: while nodes are busy each tells each VM once a second."""
    print("\n                                connections            reports/s           memory, MiB   processor, %"
          "\n                               a VM a node     all     all   MB/s    a VM all VMs a node   a VM a node")
    for policy, row in results:
        r = row[0]
        vms = policy.gateways or setup.vms
        vm_mib = r.vm_connections * VM_KIB / 1024
        print(f"{policy.name:30}{r.vm_connections:5}{r.node_connections:7.0f}{r.connections:8}{r.connections:8}"
              f"{r.connections * REPORT_BYTES / 1e6:7.1f}{vm_mib:8.0f}{vms * vm_mib:8.0f}"
              f"{r.node_connections * NODE_KIB / 1024:7.1f}{r.vm_connections * REPORT_VM_US / 1e4:7.1f}"
              f"{r.node_connections * REPORT_NODE_US / 1e4:7.2f}")


def parse(args):
    """The command line as a Setup."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="100 VMs and 1000 nodes: takes minutes")
    for name, kind, text in (("vms", int, "VMs that call"), ("nodes", int, "Python nodes"),
                             ("slots", int, "workers of each node"), ("service", float, "mean time of a call, seconds"),
                             ("measured", float, "seconds that are measured"), ("seed", int, "of all that is random")):
        parser.add_argument(f"--{name}", type=kind, help=text)
    parser.add_argument("--hot", action="store_true", help="a tenth of the VMs makes half of the calls")
    given = {key: value for key, value in vars(parser.parse_args(args)).items() if value is not None}
    size = {"vms": 100, "nodes": 1000} if given.pop("full") else {}
    service = given.get("service", Setup.service)
    times = {"warm_up": max(Setup.warm_up, 4 * service), "measured": max(Setup.measured, 20 * service)}
    return Setup(**(times | size | given))


def main(args):
    setup = parse(args)
    print(f"{setup.vms} VMs, {setup.nodes} nodes of {setup.slots} workers, seed {setup.seed}")
    for tail in SERVICES:
        results = []
        for policy in policies(setup):
            row = [simulate(policy, Setup(**(vars(setup) | {"tail": tail, "utilisation": u}))) for u in UTILISATIONS]
            results.append((policy, row))
        print_waits(Setup(**(vars(setup) | {"tail": tail})), results)
    print_costs(setup, results)


if __name__ == "__main__":
    main(sys.argv[1:])
