"""`tolerateNodeLoss: 1`: plans keep spare replicas that spread over nodes, and say where there is no room for them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from plimsoll.api.common import Resource
from plimsoll.planning.plan import DeploymentState, FleetPlan, Severity
from plimsoll.planning.snapshot import Snapshot
from tests.unit.planning.fleets import (
    applied,
    decision,
    deployment,
    finding,
    foreign_pod,
    node,
    nodes,
    objective,
    plan,
    plan_of,
    policy,
    pool,
    replicas,
    snapshot,
    traffic,
)

TOLERANT = policy(availability={"tolerateNodeLoss": 1})
DOCUMENTS = {"headers": [{"name": "x-kind", "value": "doc"}]}
TWO_CLASSES: Mapping[str, Any] = {"traffic": [traffic("default", 60), traffic("documents", 30, match=DOCUMENTS)]}


def survivors(facts: Snapshot, name: str) -> Snapshot:
    """The cluster without a node and the pods that were there."""
    return replace(
        facts,
        nodes=tuple(item for item in facts.nodes or () if item.name != name),
        pods=tuple(pod for pod in facts.pods if pod.node != name),
    )


def carried(facts: Snapshot, fleet: FleetPlan) -> float:
    """Replicas' worth of traffic of the first deployment, as its plan has it, per replica that runs."""
    placements = plan_of(fleet).placements
    load = sum(placement.utilization * placement.replicas for placement in placements)
    running = sum(1 for pod in facts.pods if pod.placement in {item.name for item in placements})
    return load / running


@pytest.mark.parametrize("rate", [30, 400, 1200])
def test_whatever_node_is_lost_the_replicas_left_carry_the_traffic(rate: int) -> None:
    facts = snapshot(deployment(rate=rate), pool(), TOLERANT, nodes=nodes(5, gpus=8))
    fleet = plan(facts)
    after = applied(facts, fleet)
    assert plan_of(fleet).state is DeploymentState.PLANNED
    assert [item for item in fleet.all_findings() if item.reason == "NodeLossNotTolerated"] == []
    for item in after.nodes or ():
        assert carried(survivors(after, item.name), fleet) <= 0.85 + 1e-6


def test_small_traffic_needs_two_replicas_on_two_nodes() -> None:
    facts = snapshot(deployment(rate=30), pool(), TOLERANT, nodes=nodes(2))
    fleet = plan(facts)
    after = applied(facts, fleet)
    assert sorted(pod.node for pod in after.pods) == ["l40s-0", "l40s-1"]
    assert "can lose 1 replica" in plan_of(fleet).placements[0].reason


def test_without_the_policy_one_replica_does() -> None:
    fleet = plan(snapshot(deployment(rate=30), pool(), nodes=nodes(2)))
    (placement,) = plan_of(fleet).placements
    assert (placement.replicas, placement.option.pods_per_node) == (1, 0)


def test_a_limit_per_node_is_another_placement_and_none_leaves_the_name_as_it_was() -> None:
    def names(gpus: int, *resources: Resource) -> set[str]:
        return set(replicas(plan(snapshot(deployment(rate=30), pool(), *resources, nodes=nodes(3, gpus=gpus)))))

    assert names(4).isdisjoint(names(4, TOLERANT))
    assert names(1) == names(1, TOLERANT)


def test_a_plan_that_is_applied_is_its_own_plan() -> None:
    facts = snapshot(
        deployment(rate=900), deployment("other", rate=30, **TWO_CLASSES), pool(), TOLERANT, nodes=nodes(3, gpus=8)
    )
    fleet = plan(facts)
    assert decision(plan(applied(facts, fleet))) == decision(fleet)


def test_after_the_loss_new_replicas_make_up_for_the_lost_ones() -> None:
    facts = snapshot(deployment(rate=30), pool(), TOLERANT, nodes=nodes(3))
    after = applied(facts, plan(facts))
    lost = survivors(after, next(pod.node for pod in after.pods))
    again = plan(lost)
    assert plan_of(again).placements[0].replicas == 2
    assert len({pod.node for pod in applied(lost, again).pods}) == 2


def test_a_node_that_is_full_of_others_does_not_keep_replicas_from_the_rest() -> None:
    facts = snapshot(deployment(rate=400), pool(), TOLERANT, nodes=nodes(4), pods=[foreign_pod("l40s-0", 4)])
    after = applied(facts, plan(facts))
    own = [pod.node for pod in after.pods if pod.placement]
    assert len(own) > 3
    assert "" not in own


def test_on_one_node_the_plan_is_made_without_and_says_what_would_do() -> None:
    fleet = plan(snapshot(deployment(rate=30), pool(), TOLERANT, nodes=nodes(1)))
    assert plan_of(fleet).state is DeploymentState.PLANNED
    assert sum(placement.replicas for placement in plan_of(fleet).placements) == 1
    found = finding(fleet, "NodeLossNotTolerated")
    assert found.severity is Severity.WARNING
    assert "tolerateNodeLoss: 1 is not kept" in found.message
    assert "1 more node with 4 free GPUs in GPUNodePool l40s would do" in found.message


def test_where_money_lacks_the_finding_says_so() -> None:
    tight = policy(availability={"tolerateNodeLoss": 1}, budget={"perHour": "1.50"})
    fleet = plan(snapshot(deployment(rate=30), pool(), tight, nodes=nodes(3)))
    assert plan_of(fleet).state is DeploymentState.PLANNED
    assert "more than budget, storage or a limit of its group allow" in finding(fleet, "NodeLossNotTolerated").message


def test_where_the_owner_allows_too_few_replicas_the_finding_says_so() -> None:
    owner = deployment(rate=30, placement={"replicas": {"max": 1}})
    fleet = plan(snapshot(owner, pool(), TOLERANT, nodes=nodes(3)))
    assert plan_of(fleet).state is DeploymentState.PLANNED
    assert "spec.placement.replicas.max is 1" in finding(fleet, "NodeLossNotTolerated").message


def test_nobody_goes_short_for_the_spare_replicas_of_another() -> None:
    apps = [deployment(name, rate=30) for name in ("one", "three", "two")]
    fleet = plan(snapshot(*apps, pool(), TOLERANT, nodes=[node("l40s-0", gpus=2), node("l40s-1", gpus=1)]))
    assert [item.state for item in fleet.deployments] == [DeploymentState.PLANNED] * 3
    assert {item.reason for item in fleet.all_findings()} == {"NodeLossNotTolerated"}


def test_who_is_short_for_other_reasons_keeps_what_it_can() -> None:
    """A class that no option can serve must not cost the others of the deployment their spare replicas."""
    unattainable = objective("impossible", ttft=1, tpot=1)
    classes = [traffic("default", 30), traffic("fast", 30, sloRef={"name": "impossible"}, match=DOCUMENTS)]
    fleet = plan(snapshot(deployment(traffic=classes), unattainable, pool(), TOLERANT, nodes=nodes(3)))
    assert plan_of(fleet).state is DeploymentState.SHORT
    assert plan_of(fleet).placements[0].replicas == 2


def test_an_own_spread_over_nodes_is_left_alone() -> None:
    """A pod may have one required spread by host name only, so as many may share a node as fit it."""
    own = {"maxSkew": 5, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    engine = {"podTemplate": {"topologySpreadConstraints": [own]}}
    fleet = plan(snapshot(deployment(rate=30, engine=engine), pool(), TOLERANT, nodes=nodes(3)))
    assert {item.option.pods_per_node for item in plan_of(fleet).placements} == {0}
    assert sum(item.replicas for item in plan_of(fleet).placements) == 5  # a node holds 4
