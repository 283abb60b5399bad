"""What a planning round keeps of what runs."""

from dataclasses import replace
from functools import cache

import pytest

from plimsoll.planning.plan import DeploymentState, FleetPlan
from plimsoll.planning.snapshot import Snapshot
from tests.unit.planning.fleets import (
    LLAMA_8B,
    QWEN_7B,
    applied,
    decision,
    deployment,
    exchanged,
    foreign_pod,
    nodes,
    objective,
    plan,
    plan_of,
    pool,
    replicas,
    snapshot,
    traffic,
)


def thirty(rate: int = 120) -> list:
    return [
        deployment(f"app-{number:02}", rate + 40 * number, model=LLAMA_8B if number % 2 else "Qwen/Qwen2.5-7B-Instruct")
        for number in range(30)
    ]


def big_stock() -> list:
    return [*nodes(20), *nodes(20, "L4", 1), *nodes(2, "H100-SXM-80GB", 8)]


POOLS = (pool(), pool("l4", "L4", "0.60"), pool("h100", "H100-SXM-80GB", "2.50"))


@cache
def running() -> tuple[FleetPlan, Snapshot]:
    """The plan of thirty deployments, and the cluster that has followed it."""
    facts = snapshot(*POOLS, *thirty(), nodes=big_stock())
    first = plan(facts)
    return first, applied(facts, first)


def test_a_plan_that_leaves_one_of_two_equal_classes_unserved_is_its_own_plan():
    # Serving a little of a large class or all of a small one is the same: the choice must not change once it runs.
    other = traffic("other", 2500, match={"headers": [{"name": "x-class", "value": "other"}]}, sloRef={"name": "loose"})
    facts = snapshot(
        pool(nodes={"max": 1}),
        objective("loose", ttft=8000, tpot=150),
        deployment(
            models=[{"name": LLAMA_8B}, {"name": QWEN_7B, "precisions": [{"name": "bf16"}, {"name": "fp8"}]}],
            traffic=[traffic(rate=5, sloRef={"name": "loose"}), other],
            engine={"maxModelLength": 8192},
            placement={"replicas": {"min": 0, "max": 3}},
        ),
        nodes=nodes(1),
    )
    first = plan(facts)
    assert plan_of(first).state is DeploymentState.SHORT
    assert decision(plan(applied(facts, first))) == decision(first)


def test_an_applied_plan_is_its_own_plan():
    first, after = running()
    second = plan(after)
    assert decision(second) == decision(first)


@pytest.mark.parametrize("bound", [0, 7, 25])
def test_a_plan_whose_pods_are_still_being_bound_is_its_own_plan(bound):
    first, after = running()
    assert decision(plan(replace(after, pods=after.pods[:bound]))) == decision(first)


def test_pods_that_fit_nowhere_do_not_count_as_starting():
    facts = snapshot(*POOLS, deployment(rate=2400), nodes=big_stock())
    first = plan(facts)
    after = applied(facts, first)
    full = [*big_stock()[:20], *big_stock()[-2:]]
    crowded = [foreign_pod(item.name, int(item.allocatable["nvidia.com/gpu"])) for item in full]
    stuck = [replace(pod, node="", unschedulable=True) for pod in after.pods]
    assert replicas(plan(replace(after, pods=(*crowded, *stuck)))) != replicas(first)


def test_one_edited_deployment_does_not_move_the_others():
    first, after = running()
    edited = exchanged(after, deployment("app-07", 900))
    second = plan(edited)
    assert plan_of(second, "app-07").cost_per_hour > plan_of(first, "app-07").cost_per_hour
    others = [[item for item in decision(fleet) if item[0].name != "app-07"] for fleet in (first, second)]
    assert others[0] == others[1]


def test_a_deleted_deployment_does_not_move_the_others():
    first, after = running()
    second = plan(replace(after, deployments=tuple(item for item in after.deployments if item.name != "app-07")))
    assert decision(second) == [item for item in decision(first) if item[0].name != "app-07"]


def test_the_loss_of_a_node_replans_only_what_ran_there():
    first, after = running()
    lost = next(pod.node for pod in after.pods if pod.placement)
    gone = {pod.placement for pod in after.pods if pod.node == lost}
    rest = replace(
        after,
        nodes=tuple(item for item in after.nodes or () if item.name != lost),
        pods=tuple(pod for pod in after.pods if pod.node != lost),
    )
    second = plan(rest)
    assert {item.state for item in second.deployments} == {DeploymentState.PLANNED}
    hit = {item.ref for item in first.deployments if any(part.name in gone for part in item.placements)}
    untouched = [[item for item in decision(fleet) if item[0] not in hit] for fleet in (first, second)]
    assert untouched[0] == untouched[1]
    assert 0 < len(hit) < 30


def test_a_small_saving_moves_nothing_and_a_large_one_does():
    facts = snapshot(pool(), deployment(rate=600), nodes=[*nodes(3), *nodes(3, "H100-SXM-80GB", 8)])
    first = plan(facts)
    running = applied(facts, first)
    cost = first.cost_per_hour
    for price, moved in ((cost * 0.97, False), (cost * 0.2, True)):
        offer = exchanged(running, pool("h100", "H100-SXM-80GB", f"{price:.2f}"))
        assert (decision(plan(offer)) != decision(first)) is moved


def test_more_traffic_grows_in_place():
    facts = snapshot(pool(), deployment(rate=600), nodes=nodes(6))
    first = plan(facts)
    second = plan(exchanged(applied(facts, first), deployment(rate=1500)))
    assert set(replicas(second)) == set(replicas(first))
    assert sum(replicas(second).values()) > sum(replicas(first).values())


def test_pods_that_are_still_pending_do_not_change_the_plan():
    facts = snapshot(pool(), deployment(rate=1500), nodes=nodes(6))
    first = plan(facts)
    running = applied(facts, first)
    pending = replace(running, pods=tuple(replace(pod, node="", ready=False) for pod in running.pods))
    assert decision(plan(pending)) == decision(first)
