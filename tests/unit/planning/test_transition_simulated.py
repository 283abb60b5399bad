"""Whole transitions: plan, step, apply, wait, again; serving never breaks, and the end is the plan."""

from dataclasses import replace
from functools import cache

import pytest

from tests.unit.planning.fleets import QWEN_7B, deployment, exchanged, nodes, policy, pool, snapshot
from tests.unit.planning.simulated import START_TURNS, Cluster, converge


def started() -> Cluster:
    """A cluster that runs what was planned for 900 requests per minute."""
    return _started().copy()


@cache
def _started() -> Cluster:
    facts = snapshot(
        pool(),
        deployment(rate=900),
        policy(headroom={"demand": "0.1"}),
        nodes=[*nodes(6), *nodes(1, "H100-SXM-80GB", 8)],
    )
    cluster = Cluster(facts)
    converge(cluster, 0)
    return cluster


def test_a_first_plan_comes_to_rest_and_serves_the_demand():
    cluster = started()
    assert cluster.capacity() >= 900
    assert cluster.routing is not None


@pytest.mark.parametrize(
    "change",
    [
        deployment(rate=900, engine={"extraArgs": ["--enable-prefix-caching"]}),
        deployment(rate=900, model=QWEN_7B),
        deployment(rate=900, placement={"parallelism": {"tensor": [2], "pipeline": [1]}}),
        deployment(rate=900, placement={"replicas": {"min": 9}}),
    ],
    ids=["engine", "model", "parallelism", "floor"],
)
def test_serving_never_breaks_while_a_placement_is_replaced(change):
    cluster = started()
    old = set(cluster.pods)
    cluster.facts = exchanged(cluster.facts, change)
    converge(cluster, 900)
    kept = bool(change.spec.placement.replicas.min == 9)
    assert (set(cluster.pods) == old) is kept


def test_serving_never_breaks_while_traffic_moves_to_another_pool():
    cluster = started()
    cluster.facts = exchanged(cluster.facts, pool("h100", "H100-SXM-80GB", "0.50"))
    converge(cluster, 900)
    assert {cluster.known[name].option.pool for name in cluster.pods} == {"h100"}


def test_growth_and_shrink_follow_the_demand():
    cluster = started()
    before = sum(map(len, cluster.pods.values()))
    cluster.facts = exchanged(cluster.facts, deployment(rate=1800))
    converge(cluster, 900)
    assert cluster.capacity() >= 1800
    assert sum(map(len, cluster.pods.values())) > before
    cluster.facts = exchanged(cluster.facts, deployment(rate=900))
    converge(cluster, 900)
    assert sum(map(len, cluster.pods.values())) == before


def test_an_edit_that_is_taken_back_half_way_ends_where_it_began():
    cluster = started()
    before = {name: len(own) for name, own in cluster.pods.items()}
    original = cluster.facts
    cluster.facts = exchanged(cluster.facts, deployment(rate=900, engine={"extraArgs": ["--enable-prefix-caching"]}))
    for _ in range(2):
        cluster.turn()
    cluster.facts = original
    converge(cluster, 900)
    assert {name: len(own) for name, own in cluster.pods.items()} == before


def test_a_lost_node_is_made_good_elsewhere():
    cluster = started()
    lost = next(pod.node for own in cluster.pods.values() for pod in own)
    cluster.facts = replace(cluster.facts, nodes=tuple(item for item in cluster.facts.nodes or () if item.name != lost))
    for pod in (pod for own in cluster.pods.values() for pod in own if pod.node == lost):
        pod.node, pod.left = "", START_TURNS
    converge(cluster, 0)
    assert cluster.capacity() >= 900


def test_a_deployment_without_traffic_scales_to_zero_and_back():
    cluster = started()
    cluster.facts = exchanged(cluster.facts, deployment(rate=0, placement={"replicas": {"min": 0}}))
    for _ in range(20):
        cluster.turn()
    assert cluster.pods == {}
    cluster.facts = exchanged(cluster.facts, deployment(rate=900))
    converge(cluster, 0)
    assert cluster.capacity() >= 900
