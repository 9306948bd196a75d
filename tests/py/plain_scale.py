"""plain_scale - the model of many VMs and nodes (bench/scale.py): what it says is so in small, too."""

import dataclasses
import os
import sys

import tap
from tap import equal

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
import scale  # noqa: E402
from scale import Policy, Setup, simulate  # noqa: E402

CASES = []
SMALL = Setup(vms=8, nodes=40, warm_up=1.0, measured=3.0)
RANDOM = Policy("random", choices=1, knows="own", own_limit=True)
OWN = Policy("own calls", knows="own", own_limit=True)
KNOWN = Policy("all is known", knows="all")
AS_IT_IS = Policy("as it is")
FADING = Policy("reports fade", knows="fading", own_limit=True)
LONG = {"service": 5.0, "warm_up": 20.0, "measured": 400.0}


def case(name):
    return lambda function: CASES.append((name, function))


def less(a, b, what):
    if not a < b:
        raise AssertionError(f"{what}: {a!r} is not less than {b!r}")


def run(policy, **changes):
    return simulate(policy, dataclasses.replace(SMALL, **changes))


def p99(policy, **changes):
    return run(policy, **changes).wait(0.99)


def p90(policy, **changes):
    return run(policy, **changes).wait(0.90)


@case("the same seed gives the same waits, another one gives others")
def _():
    equal(run(AS_IT_IS).waits, run(AS_IT_IS).waits)
    if run(AS_IT_IS).waits == run(AS_IT_IS, seed=2).waits:
        raise AssertionError("the seed makes no difference")


@case("all calls begin, and the nodes are as busy as they should be")
def _():
    for utilisation in (0.5, 0.8):
        setup = dataclasses.replace(SMALL, utilisation=utilisation, measured=10.0)
        cluster = scale.Cluster(KNOWN, setup)
        cluster.run()
        equal((sum(node.in_flight for node in cluster.nodes), sum(len(vm.backlog) for vm in cluster.vms)), (0, 0))
        busy = sum(node.work for node in cluster.nodes) / (setup.nodes * setup.slots * setup.measured)
        less(abs(busy - utilisation), 0.05, "the difference")


@case("one VM and one node: the wait is that of the textbook's queue")
def _():
    one = simulate(KNOWN, Setup(vms=1, nodes=1, slots=1, utilisation=0.5, service=0.01, measured=100.0))
    less(abs(sum(one.waits) / len(one.waits) - 0.01), 0.002, "the difference")


@case("service times have the mean that they should have, also with a heavy tail")
def _():
    for tail in scale.SERVICES:
        cluster = scale.Cluster(KNOWN, dataclasses.replace(SMALL, tail=tail))
        mean = sum(cluster.service() for _ in range(100_000)) / 100_000
        less(abs(mean / SMALL.service - 1), 0.1, tail)


@case("the less loaded of two beats one at random, by much if all is known")
def _():
    for tail in scale.SERVICES:
        less(p99(OWN, tail=tail), p99(RANDOM, tail=tail), "own calls, p99")
        less(2 * p99(KNOWN, tail=tail), p99(RANDOM, tail=tail), "known, p99")


@case("reports that are old mislead when calls are short, and help when they are long")
def _():
    less(3 * p99(OWN, service=0.02), p99(AS_IT_IS, service=0.02), "short calls, p99")
    less(1.3 * p90(AS_IT_IS, **LONG), p90(OWN, **LONG), "long calls, p90")


@case("reports that fade do neither")
def _():
    less(2 * p99(FADING, service=0.02), p99(AS_IT_IS, service=0.02), "short calls, p99")
    less(1.3 * p90(FADING, **LONG), p90(OWN, **LONG), "long calls, p90")


@case("in a subset, where few VMs share a node, little is lost against all nodes")
def _():
    subset = Policy("subset", subset=10)  # two VMs a node
    less(p99(subset), 1.5 * p99(OWN), "p99")
    less(p99(subset), p99(AS_IT_IS), "p99")


@case("if few VMs make most of the calls, subsets must not be small")
def _():
    small, large = (Policy(f"subset of {size}", subset=size, knows="fading", own_limit=True) for size in (5, 30))
    less(5 * p99(large, hot=True), p99(small, hot=True), "p99")


@case("gateways wait no longer than callers that know their own calls, with less connections")
def _():
    gateways = Policy("gateways", gateways=4)
    less(p99(gateways), 1.1 * p99(OWN), "p99")
    equal((run(gateways).connections, run(OWN).connections), (2 * SMALL.nodes, SMALL.vms * SMALL.nodes))


@case("subsets: as large as they should be, and all nodes have as many VMs, give or take one")
def _():
    for vms, nodes, size in ((20, 200, 20), (100, 1000, 50), (7, 40, 10), (30, 45, 10)):
        subsets = [scale.deterministic_subset(range(nodes), vm, size) for vm in range(vms)]
        for subset in subsets:
            equal(len(set(subset)), len(subset))
            less(abs(len(subset) - size), size // 4 + 1, "the difference")
        counts = [sum(node in subset for subset in subsets) for node in range(nodes)]
        less(max(counts) - min(counts), 2, "the difference")


@case("hashed subsets have the size, and change by one node when one goes")
def _():
    before = scale.hashed_subset(range(40), 3, 10)
    equal(len(set(before)), 10)
    after = scale.hashed_subset([node for node in range(40) if node != before[0]], 3, 10)
    equal(len(set(before) & set(after)), 9)


@case("the program prints a row for each policy")
def _():
    setup = dataclasses.replace(SMALL, measured=0.2, warm_up=0.1)
    for policy in scale.policies(setup):
        less(0, len(simulate(policy, setup).waits), policy.name)
    equal(scale.parse(["--full", "--nodes", "10", "--seed", "3"]), Setup(vms=100, nodes=10, seed=3))


tap.run(CASES)
