"""ResourceQuotas and LimitRanges: a plan asks for nothing that the API server would refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from plimsoll.planning.digest import inputs_digest
from plimsoll.planning.namespaces import LimitRangeFacts, QuotaFacts
from plimsoll.planning.plan import DeploymentState, FleetPlan, LimitKind
from plimsoll.planning.snapshot import PodFacts, Snapshot
from plimsoll.rendering.observe_namespaces import limit_range_facts, quota_facts
from tests.unit.planning.fleets import (
    GIB,
    GPU,
    applied,
    deployment,
    exchanged,
    finding,
    nodes,
    plan,
    plan_of,
    policy,
    pool,
    replicas,
    requests,
    snapshot,
)

SINGLE = {"parallelism": {"tensor": [1], "pipeline": [1]}}
BUSY = 2400
"""Requests per minute that need several GPUs."""


def quota(name: str = "gpu", namespace: str = "chat", status: dict[str, Any] | None = None, **spec: Any) -> QuotaFacts:
    metadata = {"name": name, "namespace": namespace}
    return quota_facts({"metadata": metadata, "spec": spec, "status": status or {}})


def limit_range(*limits: dict[str, Any], name: str = "sizes", namespace: str = "chat") -> LimitRangeFacts:
    return limit_range_facts({"metadata": {"name": name, "namespace": namespace}, "spec": {"limits": list(limits)}})


def fleet(*found: QuotaFacts | LimitRangeFacts, engine: dict[str, Any] | None = None, rate: int = BUSY) -> Snapshot:
    rules = policy(security={"priorityClassNames": ["serving"]})
    return snapshot(
        pool(),
        rules,
        deployment(rate=rate, engine=engine or {}, placement=SINGLE),
        nodes=nodes(6),
        quotas=tuple(item for item in found if isinstance(item, QuotaFacts)),
        limit_ranges=tuple(item for item in found if isinstance(item, LimitRangeFacts)),
    )


def pod(name: str, namespace: str = "chat", **asked: float) -> PodFacts:
    return PodFacts(f"uid-{name}", namespace, name, "", {GPU: 0.0, **asked})


def gpus(decided: FleetPlan) -> int:
    return plan_of(decided).gpus


def replica() -> dict[str, float]:
    """What one replica asks for."""
    (placement, *_) = plan_of(plan(fleet())).placements
    return requests(placement)


def test_a_quota_of_gpus_ends_growth_and_names_what_would_do() -> None:
    needed = gpus(plan(fleet()))
    decided = plan(fleet(quota(hard={"requests.nvidia.com/gpu": "3"})))
    assert gpus(decided) == 3 < needed
    assert plan_of(decided).state is DeploymentState.SHORT
    message = finding(decided, "QuotaExceeded").message
    assert "ResourceQuota gpu: spec.hard requests.nvidia.com/gpu 3 is used up" in message
    assert f"{needed} GPUs would do" in message
    assert (LimitKind.QUOTA, "gpu") in [(item.kind, item.name) for item in decided.limits]


def test_what_others_use_of_a_quota_is_not_there() -> None:
    facts = replace(fleet(quota(hard={"requests.nvidia.com/gpu": "5"})), pods=(pod("trainer", **{GPU: 2.0}),))
    decided = plan(facts)
    assert gpus(decided) == 3
    assert "of which others take 2 GPUs" in finding(decided, "QuotaExceeded").message


def test_pods_of_other_namespaces_use_nothing_of_a_quota() -> None:
    others = (pod("trainer", "research", **{GPU: 2.0}),)
    assert gpus(plan(replace(fleet(quota(hard={"requests.nvidia.com/gpu": "5"})), pods=others))) == 5


def test_a_quota_of_another_namespace_limits_nothing() -> None:
    assert gpus(plan(fleet(quota(namespace="documents", hard={"pods": "1"})))) == gpus(plan(fleet()))


@pytest.mark.parametrize("name", ["cpu", "requests.cpu", "memory", "requests.memory", "pods", "count/pods"])
def test_cpu_memory_and_pods_are_limits_too(name: str) -> None:
    one = {"cpu": replica()["cpu"], "memory": replica()["memory"], "pods": 1.0}
    enough_for_two = 2.5 * one[name.rpartition(".")[2].removeprefix("count/")]
    decided = plan(fleet(quota(hard={name: str(int(enough_for_two))})))
    assert sum(replicas(decided).values()) == 2
    assert f"spec.hard {name}" in finding(decided, "QuotaExceeded").message


def test_a_plan_under_a_quota_is_its_own_plan_and_keeps_what_runs_when_the_quota_shrinks() -> None:
    facts = fleet(quota(hard={"requests.nvidia.com/gpu": "4"}))
    running = applied(facts, plan(facts))
    assert replicas(plan(running)) == replicas(plan(facts))
    smaller = replace(running, quotas=(quota(hard={"requests.nvidia.com/gpu": "1"}),))
    assert replicas(plan(smaller)) == replicas(plan(facts))


def test_new_replicas_fit_a_quota_beside_those_that_they_replace() -> None:
    facts = fleet(quota(hard={"requests.nvidia.com/gpu": "6"}), rate=600)
    first = plan(facts)
    running = applied(facts, first)
    edited = deployment(rate=600, engine={"extraArgs": ["--enable-prefix-caching"]}, placement=SINGLE)
    decided = plan(exchanged_keeping(running, edited))
    assert replicas(decided).keys() != replicas(first).keys()
    assert 0 < gpus(decided) <= 6 - gpus(first)


@pytest.mark.parametrize(
    ("scopes", "counted"),
    [
        ({}, True),
        ({"scopes": ["NotTerminating"]}, True),
        ({"scopes": ["NotBestEffort"]}, True),
        ({"scopes": ["BestEffort"]}, False),
        ({"scopes": ["Terminating"]}, False),
        ({"scopes": ["NotTerminating", "BestEffort"]}, False),
        ({"scopes": ["CrossNamespacePodAffinity"]}, True),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "Exists"}]}}, True),
        ({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "DoesNotExist"}]}}, False),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["serving"]}]
                }
            },
            True,
        ),
        (
            {
                "scopeSelector": {
                    "matchExpressions": [{"scopeName": "PriorityClass", "operator": "NotIn", "values": ["serving"]}]
                }
            },
            False,
        ),
    ],
)
def test_a_quota_counts_only_the_pods_in_its_scope(scopes: dict[str, Any], counted: bool) -> None:
    engine = {"podTemplate": {"priorityClassName": "serving"}}
    decided = plan(fleet(quota(hard={"pods": "1"}, **scopes), engine=engine))
    assert (sum(replicas(decided).values()) == 1) is counted


def test_a_quota_of_limits_needs_a_default_since_replicas_have_none() -> None:
    bare = plan(fleet(quota(hard={"limits.memory": "4Ti"})))
    assert replicas(bare) == {}
    message = finding(bare, "QuotaExceeded").message
    assert "LimitRange with a default" in message
    assert "requests.memory" in message
    default = limit_range({"type": "Container", "default": {"memory": "1Ti"}})
    assert sum(replicas(plan(fleet(quota(hard={"limits.memory": "2Ti"}), default))).values()) == 2


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ({"type": "Container", "max": {"memory": "8Gi"}}, "default limit of memory"),
        ({"type": "Container", "default": {"cpu": "500m"}}, "default limit of cpu"),
        ({"type": "Pod", "max": {"cpu": "64"}}, "replicas have no limit of cpu"),
        ({"type": "Container", "min": {"memory": "4Ti"}}, "must ask for"),
        ({"type": "Container", "maxLimitRequestRatio": {"memory": "2"}}, "2 times the request"),
        ({"type": "Container", "max": {"nvidia.com/gpu": "0"}}, "may have 0 of nvidia.com/gpu"),
    ],
)
def test_a_limit_range_that_refuses_every_replica_is_named(limit: dict[str, Any], says: str) -> None:
    decided = plan(fleet(limit_range(limit)))
    assert replicas(decided) == {}
    message = finding(decided, "LimitRangeExceeded").message
    assert "LimitRange sizes" in message
    assert says in message


def test_a_limit_range_that_refuses_some_options_leaves_the_others() -> None:
    both = snapshot(
        pool(),
        policy(),
        deployment(rate=120, placement={"parallelism": {"tensor": [1, 2, 4]}}),
        nodes=nodes(2),
        limit_ranges=(limit_range({"type": "Container", "max": {"nvidia.com/gpu": "1"}}),),
    )
    decided = plan(both)
    assert plan_of(decided).state is DeploymentState.PLANNED
    assert {item.option.parallelism.gpus for item in plan_of(decided).placements} == {1}


@pytest.mark.parametrize("entry", ["count/deployments.apps", "count/replicasets.apps", "services", "count/services"])
def test_where_no_further_object_is_admitted_only_what_runs_grows(entry: str) -> None:
    facts = fleet(rate=120)
    running = applied(facts, plan(facts))
    full = replace(running, quotas=(quota(hard={entry: "1"}, status={"used": {entry: "1"}}),))
    assert plan(replace(facts, quotas=full.quotas)).deployments[0].placements == ()
    grown = plan(exchanged_keeping(full, deployment(rate=BUSY, placement=SINGLE)))
    assert replicas(grown).keys() == replicas(plan(running)).keys()
    assert sum(replicas(grown).values()) > sum(replicas(plan(running)).values())


def exchanged_keeping(facts: Snapshot, *resources: Any) -> Snapshot:
    return replace(exchanged(facts, *resources), quotas=facts.quotas, limit_ranges=facts.limit_ranges)


def test_quotas_count_for_the_digest_and_what_pods_use_of_them_does_not() -> None:
    plain, limited = fleet(), fleet(quota(hard={"pods": "9"}))
    assert inputs_digest(plain) != inputs_digest(limited)
    used = fleet(quota(hard={"pods": "9"}, status={"used": {"pods": "3"}}))
    assert inputs_digest(limited) == inputs_digest(used)


def test_memory_is_read_in_bytes() -> None:
    assert quota(hard={"requests.memory": "2Gi"}).hard == {"requests.memory": 2.0 * GIB}
