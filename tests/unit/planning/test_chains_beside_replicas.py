"""Chains and replicas that want the same GPUs: who gets them, and that it stays so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plimsoll.planning import Evaluator, plan_fleet, planner
from plimsoll.planning.chained_fleet import joined, plan_chained
from plimsoll.planning.plan import DeploymentState
from plimsoll.planning.planner import assembled, decide_fleet
from plimsoll.planning.snapshot import Snapshot
from tests.unit.planning.chain_cluster import REGIONS, deployment, only, policy
from tests.unit.planning.mixed_fleet import applied, gpus, mixed, of_priority, small

EAST, WEST, EUROPE = REGIONS


def chains_first(facts: Snapshot):
    chained = plan_chained(facts)
    return joined(assembled(decide_fleet(chained.rest, Evaluator())), chained, facts)


def rounds(monkeypatch, facts: Snapshot) -> int:
    """How often the rest of the fleet is planned."""
    count = 0
    plain = planner.decide_fleet

    def counted(*arguments):
        nonlocal count
        count += 1
        return plain(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(planner, "decide_fleet", counted)
        plan_fleet(facts)
    return count


def test_replicas_of_a_higher_priority_get_their_gpus_before_a_chain() -> None:
    """One pool of three nodes: the chain alone takes all of them, the replicas one."""
    chain, replicas = of_priority(deployment(15), 0), of_priority(small(600, pools=[EAST]), 10)
    facts = replace(mixed(chain, replicas), nodes=mixed().nodes[:3])
    assert only(chains_first(facts), "small").state is DeploymentState.SHORT
    fleet = plan_fleet(facts)
    assert only(fleet, "small").state is DeploymentState.PLANNED
    assert only(fleet).state is DeploymentState.SHORT
    (finding,) = only(fleet).findings
    assert finding.reason == "InsufficientCapacity"
    assert "other LLMDeployments go first" in finding.message


def test_a_chain_of_a_higher_priority_gets_them_before_replicas() -> None:
    chain, replicas = of_priority(deployment(15), 10), of_priority(small(600, pools=[EAST]), 0)
    fleet = plan_fleet(replace(mixed(chain, replicas), nodes=mixed().nodes[:3]))
    assert only(fleet).state is DeploymentState.PLANNED
    assert only(fleet, "small").state is DeploymentState.SHORT


def test_a_chain_goes_to_a_dearer_pool_when_the_whole_is_cheaper_for_it() -> None:
    """Without the nodes in the east, replicas would pay 3.00 for each GPU in place of 0.50; the chain pays 0.60."""
    facts = mixed(deployment(15), small(2500, pools=[EAST, WEST]), prices=("0.50", "3.00", "0.60"))
    first, fleet = chains_first(facts), plan_fleet(facts)
    assert {name: dict(count) for name, count in gpus(first).items()} == {"assistant": {EAST: 3}, "small": {WEST: 3}}
    assert {name: dict(count) for name, count in gpus(fleet).items()} == {"assistant": {EUROPE: 3}, "small": {EAST: 3}}
    assert {plan.state for plan in (*first.deployments, *fleet.deployments)} == {DeploymentState.PLANNED}
    assert fleet.objective_per_hour < first.objective_per_hour


def test_a_chain_makes_room_where_replicas_would_go_unserved() -> None:
    facts = mixed(deployment(15), small(2500, pools=[EAST]))
    assert only(chains_first(facts), "small").state is DeploymentState.SHORT
    fleet = plan_fleet(facts)
    assert gpus(fleet)["small"] == {EAST: 3}
    assert EAST not in gpus(fleet)["assistant"]
    assert {plan.state for plan in fleet.deployments} == {DeploymentState.PLANNED}


def test_a_chain_leaves_no_more_than_is_needed() -> None:
    fleet = plan_fleet(mixed(deployment(15), small(600, pools=[EAST])))
    assert gpus(fleet)["small"] == {EAST: 1}
    assert gpus(fleet)["assistant"][EAST] == 2


def test_where_nothing_is_contested_chains_are_what_they_are_alone(monkeypatch) -> None:
    facts = mixed(deployment(15), small(600, pools=[WEST]))
    alone = plan_fleet(mixed(deployment(15)))
    assert only(plan_fleet(facts)).placements == only(alone).placements
    assert rounds(monkeypatch, facts) == 1


def test_the_answer_stays_once_it_runs(monkeypatch) -> None:
    facts = mixed(deployment(15), small(2500, pools=[EAST]))
    fleet = plan_fleet(facts)
    running = applied(facts, fleet)
    names = [
        [(item.name, item.replicas) for plan in one.deployments for item in plan.placements]
        for one in (fleet, plan_fleet(running))
    ]
    assert names[0] == names[1]
    assert rounds(monkeypatch, running) == 1, "what runs is not weighed again"


def test_a_running_chain_makes_no_room() -> None:
    chain = deployment(15)
    facts = mixed(chain)
    running = applied(facts, plan_fleet(facts))
    before = gpus(plan_fleet(running))["assistant"]
    assert before[EAST] == 3
    other = of_priority(small(600, pools=[EAST]), 10)
    fleet = plan_fleet(replace(running, deployments=(chain, other)))
    assert gpus(fleet)["assistant"] == before
    assert only(fleet, "small").state is DeploymentState.SHORT


def test_the_same_facts_give_the_same_plan() -> None:
    facts = mixed(deployment(15), deployment(15, "other"), small(600, pools=[EAST]))
    assert plan_fleet(facts) == plan_fleet(facts)


def test_a_budget_goes_to_the_higher_priority() -> None:
    chain, replicas = of_priority(deployment(15), 0), of_priority(small(600, pools=[WEST]), 10)
    facts = mixed(chain, replicas, budget={"perHour": "1.60"})
    assert only(chains_first(facts), "small").state is DeploymentState.SHORT
    fleet = plan_fleet(facts)
    assert only(fleet, "small").state is DeploymentState.PLANNED
    assert fleet.cost_per_hour <= 1.6
    assert {item.reason for item in only(fleet).findings} == {"BudgetExceeded"}


def test_of_two_chains_the_one_of_the_higher_priority_goes_first() -> None:
    low, high = of_priority(deployment(15, "a"), 0), of_priority(deployment(15, "b"), 10)
    facts = replace(mixed(low, high), nodes=mixed().nodes[:4])
    fleet = plan_fleet(facts)
    assert only(fleet, "b").state is DeploymentState.PLANNED
    assert only(fleet, "a").state is DeploymentState.SHORT


def test_a_tenant_limits_the_priority_of_chains_too() -> None:
    low, high = of_priority(deployment(15, "a"), 5), of_priority(deployment(15, "b"), 10)
    tenants = [{"name": "chat", "namespaceSelector": {}, "maxPriority": 5}]
    facts = replace(mixed(low, high, tenants=tenants), nodes=mixed().nodes[:4])
    fleet = plan_fleet(facts)
    assert only(fleet, "a").state is DeploymentState.PLANNED, "both count 5, and a comes before b"
    assert "Clamped" in {item.reason for item in only(fleet, "b").findings}


def test_priorities_count_however_little_time_there_is() -> None:
    chain, replicas = of_priority(deployment(15), 0), of_priority(small(2500, pools=[EAST]), 10)
    seconds = iter(range(0, 100_000, 1_000))
    fleet = plan_fleet(mixed(chain, replicas), clock=lambda: float(next(seconds)))
    assert fleet.interrupted
    assert only(fleet, "small").state is DeploymentState.PLANNED


def test_the_time_limit_ends_the_search_for_other_ways() -> None:
    facts = mixed(deployment(15), small(2500, pools=[EAST]))
    seconds = iter(range(0, 100_000, 1_000))
    fleet = plan_fleet(facts, clock=lambda: float(next(seconds)))
    assert fleet.interrupted
    assert "SearchInterrupted" in {item.reason for item in fleet.findings}
    assert gpus(fleet)["assistant"][EAST] == 3


@pytest.mark.parametrize("rate", [15, 60])
def test_declared_nodes_are_weighed_as_well(rate: int) -> None:
    pools = tuple(
        one.model_copy(
            update={
                "spec": type(one.spec).model_validate(
                    {
                        **one.spec.model_dump(by_alias=True, exclude_none=True, mode="json"),
                        "nodes": {"max": 6},
                        "gpusPerNode": 1,
                    }
                )
            }
        )
        for one in mixed().pools
    )
    facts = replace(mixed(deployment(rate), small(5500, pools=[EAST])), pools=pools, nodes=None, policy=policy())
    fleet = plan_fleet(facts)
    assert {plan.state for plan in fleet.deployments} == {DeploymentState.PLANNED}
    taken = sum(gpus(fleet).values(), start=type(gpus(fleet)["small"])())
    assert all(count <= 6 for count in taken.values())
    assert gpus(fleet)["small"] == {EAST: 6}
