"""Transitions in stages, planned anew each turn: under a surge limit, and in place where no GPU is free."""

import random
from functools import cache

import pytest

from plimsoll.planning.changing import REFUSED
from plimsoll.planning.plan import DeploymentState
from tests.unit.planning.fleets import (
    deployment,
    exchanged,
    finding,
    nodes,
    objective,
    plan,
    plan_of,
    policy,
    pool,
    snapshot,
)
from tests.unit.planning.simulated import Cluster, converge

RATE = 450
"""Takes three replicas."""
REPLICAS = 3


@cache
def at_rest(gpus: int, unserved: str, **rebalance: str) -> Cluster:
    facts = snapshot(
        pool(),
        objective(unserved={"max": unserved}),
        deployment(rate=RATE, slo="interactive"),
        policy(rebalance={"maxShareShift": "1", **rebalance}),
        nodes=nodes(gpus, gpus=1),
    )
    cluster = Cluster(facts, lingers=True)
    converge(cluster, 0)
    assert sum(cluster.replicas().values()) == REPLICAS
    return cluster


def retuned(gpus: int, unserved: str = "0", **rebalance: str) -> Cluster:
    """A cluster that serves, and whose engine has just got another flag: everything is to be made anew."""
    cluster = at_rest(gpus, unserved, **rebalance).copy()
    change = deployment(rate=RATE, slo="interactive", engine={"extraArgs": ["--enable-prefix-caching"]})
    cluster.facts = exchanged(cluster.facts, change)
    cluster.most_gpus = 0
    return cluster


def test_with_a_surge_limit_old_replicas_go_as_new_ones_come():
    cluster = retuned(gpus=10, maxSurge="0.3")
    old = set(cluster.pods)
    converge(cluster, RATE)
    assert old.isdisjoint(cluster.pods)
    assert cluster.most_gpus == REPLICAS + 1


def test_without_free_gpus_replicas_are_exchanged_in_place_as_the_slo_allows():
    cluster = retuned(gpus=REPLICAS, unserved="0.4")
    old = set(cluster.pods)
    converge(cluster, 0.6 * RATE, turns=100)
    assert old.isdisjoint(cluster.pods)
    assert cluster.most_gpus == REPLICAS


def test_an_operator_that_dies_all_the_time_comes_to_the_same_end():
    cluster = retuned(gpus=REPLICAS, unserved="0.4")
    cluster.killed = random.Random(1)
    old = set(cluster.pods)
    for _ in range(60):
        cluster.learn(cluster.turn())
        assert cluster.capacity() >= 0.6 * RATE
    cluster.killed = None
    converge(cluster, 0.6 * RATE, turns=100)
    assert old.isdisjoint(cluster.pods)


def test_an_slo_that_allows_nothing_unserved_keeps_everything_where_it_is():
    cluster = retuned(gpus=REPLICAS)
    decided = plan(cluster.snapshot())
    assert plan_of(decided).state is DeploymentState.SHORT
    assert "unserved.max" in finding(decided, REFUSED).message
    before = cluster.replicas()
    cluster.turn()
    assert cluster.replicas() == before


@pytest.mark.parametrize("limit", ["0", "0.9"])
def test_no_disruption_means_never_in_place(limit):
    cluster = retuned(gpus=REPLICAS, unserved=limit, maxDisruption="0")
    decided = plan_of(plan(cluster.snapshot()))
    assert (decided.state, decided.in_place) == (DeploymentState.SHORT, None)
    assert "InsufficientCapacity" in {item.reason for item in decided.findings}


def test_what_can_be_unserved_as_a_whole_is_exchanged_even_if_it_is_one_replica():
    cluster = retuned(gpus=REPLICAS, unserved="1")
    old = set(cluster.pods)
    converge(cluster, 0, turns=100)
    assert old.isdisjoint(cluster.pods)
    assert cluster.most_gpus == REPLICAS


def test_new_pods_that_never_start_take_no_more_than_the_slo_allows():
    cluster = retuned(gpus=REPLICAS, unserved="0.4")
    new = next(item.name for item in plan_of(plan(cluster.snapshot())).placements)
    cluster.broken.add(new)
    for _ in range(20):
        cluster.turn()
        assert cluster.capacity() >= 0.6 * RATE
