"""Transitions in stages: under a surge limit, and in place where no GPU is free."""

import random

import pytest

from plimsoll.planning.changing import REFUSED
from plimsoll.planning.plan import DeploymentState
from tests.unit.planning.fleets import deployment, exchanged, nodes, objective, plan, plan_of, policy, pool, snapshot
from tests.unit.planning.simulated import Cluster, converge

RATE = 900
FREE = 12
"""GPUs of the cluster, unless a test says otherwise."""


def started(gpus: int = FREE, unserved: str = "0", rate: int = RATE, **rebalance) -> Cluster:
    """A cluster at rest that serves the rate."""
    facts = snapshot(
        pool(),
        objective(unserved={"max": unserved}),
        deployment(rate=rate, slo="interactive"),
        policy(rebalance={"maxShareShift": "1", **rebalance}),
        nodes=nodes(gpus, gpus=1),
    )
    cluster = Cluster(facts, lingers=True)
    converge(cluster, 0)
    cluster.most_gpus = 0
    return cluster


def retuned(cluster: Cluster, rate: int = RATE) -> None:
    """Another engine flag: everything is to be made anew."""
    change = deployment(rate=rate, slo="interactive", engine={"extraArgs": ["--enable-prefix-caching"]})
    cluster.facts = exchanged(cluster.facts, change)


def test_debug():
    cluster = started()
    print(cluster.replicas(), cluster.capacity())
    retuned(cluster)
    print(converge(cluster, 0))
    print(cluster.replicas(), cluster.most_gpus)
    cluster = started(gpus=5, unserved="0.3")
    print(cluster.replicas(), cluster.capacity())
    retuned(cluster)
    for _ in range(40):
        d = cluster.turn()
        print(
            d.state,
            d.in_place,
            cluster.replicas(),
            {n: cluster.ready(n) for n in cluster.pods},
            cluster.capacity(),
            [f.message for f in d.findings],
        )
    assert 0
