"""Tenants of the PlacementPolicy: what groups of namespaces may have, and what objectives may ask for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from plimsoll.api.pods import LabelSelector
from plimsoll.planning.digest import inputs_digest
from plimsoll.planning.namespaces import NamespaceFacts
from plimsoll.planning.plan import DeploymentState, LimitKind, Severity
from plimsoll.planning.snapshot import Snapshot
from plimsoll.planning.tenants import selects
from tests.unit.planning.fleets import (
    applied,
    deployment,
    exchanged,
    finding,
    nodes,
    objective,
    plan,
    plan_of,
    policy,
    pool,
    replicas,
    snapshot,
)


def tenant(name: str = "talk", namespace: str = "chat", **limits: Any) -> dict[str, Any]:
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return {"name": name, "namespaceSelector": selector, **limits}


def fleet(*resources: Any, tenants: list[dict[str, Any]] | None = None, **rest: Any) -> Snapshot:
    return snapshot(pool(), policy(tenants=tenants or [], **rest), *resources, nodes=nodes(12))


def gpus(facts: Snapshot, namespace: str) -> int:
    return sum(item.gpus for item in plan(facts).deployments if item.ref.namespace == namespace)


BUSY = 2400
"""Requests per minute that need several GPUs."""


def test_the_gpus_of_a_tenant_end_at_its_limit_and_others_are_not_touched() -> None:
    both = (deployment(rate=BUSY), deployment("other", BUSY, namespace="documents"))
    free, bounded = fleet(*both), fleet(*both, tenants=[tenant(maxGPUs=2)])
    assert gpus(free, "chat") > 2
    assert gpus(bounded, "chat") == 2
    assert gpus(bounded, "documents") == gpus(free, "documents")


def test_who_is_short_for_the_tenant_reads_the_limit_and_what_would_do() -> None:
    facts = fleet(deployment(rate=BUSY), tenants=[tenant(maxGPUs=2)])
    needed = gpus(fleet(deployment(rate=BUSY)), "chat")
    decided = plan(facts)
    assert plan_of(decided).state is DeploymentState.SHORT
    message = finding(decided, "TenantLimitReached").message
    assert "tenant talk: PlacementPolicy default spec.tenants[0].maxGPUs 2 is used up" in message
    assert f"{needed} GPUs would do" in message
    assert (LimitKind.TENANT, "talk") in [(item.kind, item.name) for item in decided.limits]


def test_a_tenants_budget_limits_the_rent_of_all_its_llmdeployments_together() -> None:
    both = (deployment("one", BUSY), deployment("two", BUSY, namespace="documents"))
    named = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["chat", "documents"]}
    selector = {"matchExpressions": [named]}
    facts = fleet(*both, tenants=[{"name": "all", "namespaceSelector": selector, "budgetPerHour": "3.30"}])
    decided = plan(facts)
    assert decided.cost_per_hour == pytest.approx(3.30)
    assert "budgetPerHour 3.30" in finding(decided, "TenantLimitReached").message


def test_a_limit_below_what_runs_removes_nothing() -> None:
    facts = fleet(deployment(rate=BUSY))
    running = applied(facts, plan(facts))
    bounded = exchanged(running, policy(tenants=[tenant(maxGPUs=1)]))
    assert replicas(plan(bounded)) == replicas(plan(running))


def test_what_runs_of_a_held_llmdeployment_counts_for_its_tenant() -> None:
    facts = fleet(deployment(rate=600), tenants=[tenant(maxGPUs=2)])
    running = applied(facts, plan(facts))
    held = gpus(facts, "chat")
    assert held > 0
    broken = deployment(rate=600, models=[{"name": "unknown/model"}])
    decided = plan(exchanged(running, broken, deployment("newcomer", BUSY)))
    assert plan_of(decided).state is DeploymentState.HELD
    assert plan_of(decided, "newcomer").gpus == 2 - held


def test_namespaces_are_selected_by_their_labels() -> None:
    selector = {"matchLabels": {"team": "talk"}}
    bounded = [{"name": "talk", "namespaceSelector": selector, "maxGPUs": 1}]
    facts = fleet(deployment(rate=BUSY), tenants=bounded)
    assert gpus(facts, "chat") > 1
    labelled = replace(facts, namespaces=(NamespaceFacts("chat", {"team": "talk"}),))
    assert gpus(labelled, "chat") == 1
    assert inputs_digest(labelled) != inputs_digest(facts)


@pytest.mark.parametrize(
    ("requirement", "holds"),
    [
        ({"key": "team", "operator": "In", "values": ["chat"]}, True),
        ({"key": "team", "operator": "In", "values": ["search"]}, False),
        ({"key": "team", "operator": "NotIn", "values": ["search"]}, True),
        ({"key": "stage", "operator": "NotIn", "values": ["test"]}, True),
        ({"key": "team", "operator": "Exists"}, True),
        ({"key": "stage", "operator": "Exists"}, False),
        ({"key": "stage", "operator": "DoesNotExist"}, True),
        ({"key": "team", "operator": "DoesNotExist"}, False),
    ],
)
def test_selectors_mean_what_they_mean_to_kubernetes(requirement: dict[str, Any], holds: bool) -> None:
    selector = LabelSelector.model_validate({"matchExpressions": [requirement]})
    assert selects(selector, {"team": "chat"}) is holds


def test_an_empty_selector_selects_every_namespace() -> None:
    everyone = [{"name": "all", "namespaceSelector": {}, "maxGPUs": 1}]
    assert gpus(fleet(deployment(rate=BUSY), tenants=everyone), "chat") == 1


def test_of_several_tenants_all_limits_hold_and_the_policy_says_so() -> None:
    tenants = [tenant("wide", maxGPUs=4), tenant("narrow", maxGPUs=1)]
    decided = plan(fleet(deployment(rate=BUSY), tenants=tenants))
    assert plan_of(decided).gpus == 1
    said = finding(decided, "TenantsOverlap", "PlacementPolicy")
    assert said.severity is Severity.WARNING
    assert "namespace chat is selected by wide, narrow" in said.message


def test_a_priority_above_the_tenants_counts_as_the_tenants() -> None:
    rivals = (
        objective("loud", priority=900),
        objective("calm", namespace="documents", priority=200),
        deployment("pushy", BUSY, slo="loud"),
        deployment("modest", BUSY, slo="calm", namespace="documents"),
    )
    few = {"nodes": nodes(1)}
    free = plan(snapshot(pool(), policy(), *rivals, **few))
    bounded = plan(snapshot(pool(), policy(tenants=[tenant(maxPriority=100)]), *rivals, **few))
    assert plan_of(free, "pushy").gpus > plan_of(free, "modest").gpus
    assert plan_of(bounded, "pushy").gpus < plan_of(bounded, "modest").gpus
    message = finding(bounded, "Clamped").message
    assert "InferenceSLO loud" in message
    assert "spec.priority 900 is above maxPriority 100 of tenant talk" in message
    assert "planned with 100" in message


@pytest.mark.parametrize(
    ("slo", "limits", "says"),
    [
        (
            {"unserved": {"max": "0", "penaltyPerThousandRequests": "80"}},
            {"maxUnservedPenaltyPerThousandRequests": "50"},
            "spec.unserved.penaltyPerThousandRequests 80 is above maxUnservedPenaltyPerThousandRequests 50",
        ),
        (
            {"latencyPenaltyPerThousandRequestSeconds": "3"},
            {"maxLatencyPenaltyPerThousandRequestSeconds": "1.5"},
            "spec.latencyPenaltyPerThousandRequestSeconds 3 is above maxLatencyPenaltyPerThousandRequestSeconds 1.5",
        ),
    ],
)
def test_penalties_above_the_tenants_are_cut_with_a_warning(
    slo: dict[str, Any], limits: dict[str, Any], says: str
) -> None:
    facts = fleet(objective("dear", **slo), deployment(slo="dear"), tenants=[tenant(**limits)])
    decided = plan(facts)
    assert plan_of(decided).state is DeploymentState.PLANNED
    assert says in finding(decided, "Clamped").message


def test_what_is_within_the_limits_is_not_remarked_upon() -> None:
    slo = objective("fine", priority=100, unserved={"max": "0", "penaltyPerThousandRequests": "50"})
    limits = {"maxPriority": 100, "maxUnservedPenaltyPerThousandRequests": "50", "maxGPUs": 20}
    decided = plan(fleet(slo, deployment(slo="fine"), tenants=[tenant(**limits)]))
    assert decided.all_findings() == ()
