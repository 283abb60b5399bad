"""Bad input and faults: each gives a finding that says what would work, and none touches what runs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import pytest

from plimsoll.planning import step_for
from plimsoll.planning.plan import DeploymentState, FleetPlan, Severity
from plimsoll.planning.snapshot import InvalidObject, Snapshot
from plimsoll.planning.transition import ObservedRouting
from tests.unit.planning.fleets import (
    LLAMA_8B,
    QWEN_7B,
    applied,
    broken,
    decision,
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
    traffic,
    without,
)

SELECTOR = {"matchLabels": {"pool": "l40s"}}


@cache
def running() -> Snapshot:
    """One LLMDeployment on one pool, planned and applied."""
    facts = snapshot(
        pool(nodeSelector=SELECTOR),
        objective(),
        deployment(rate=900, slo="interactive"),
        nodes=nodes(4, pool="l40s"),
    )
    return applied(facts, plan(facts))


@cache
def undisturbed() -> FleetPlan:
    return plan(running())


def edited(**fields) -> Callable[[Snapshot], Snapshot]:
    return lambda facts: exchanged(facts, deployment(**{"rate": 900, "slo": "interactive", **fields}))


def relabelled(facts: Snapshot) -> Snapshot:
    labels = {"pool": "l40s", "nvidia.com/gpu.product": "NVIDIA-L4"}
    return replace(facts, nodes=tuple(replace(item, labels=labels) for item in facts.nodes or ()))


def outside(facts: Snapshot) -> Snapshot:
    """The nodes that are in use carry another label than the pool's selector asks for; the others stay."""
    used = {pod.node for pod in facts.pods}
    return replace(
        facts,
        nodes=tuple(
            replace(item, labels={**item.labels, "pool": "moved"}) if item.name in used else item
            for item in facts.nodes or ()
        ),
    )


def with_invalid(facts: Snapshot, invalid: InvalidObject) -> Snapshot:
    return replace(without(facts, invalid.ref.kind, invalid.ref.name), invalid=(invalid,))


BROKEN_POOL = broken("GPUNodePool", "l40s", {"accelerator": "L40S"})
BROKEN_SLO = broken("InferenceSLO", "interactive", {"ttft": {"percentile": 95, "milliseconds": -1}}, "chat")
BROKEN_POLICY = broken("PlacementPolicy", "default", {"budget": {"perHour": "-1"}})


@dataclass(frozen=True)
class Fault:
    name: str
    happens: Callable[[Snapshot], Snapshot]
    reason: str
    about: str
    field: str
    says: tuple[str, ...]
    state: DeploymentState = DeploymentState.HELD


@cache
def after(fault: Fault) -> FleetPlan:
    """The plan of the running cluster once it has happened."""
    return plan(fault.happens(running()))


SHORT = DeploymentState.SHORT
FAULTS = (
    Fault(
        "unknown model",
        edited(model="meta-llama/Llama-3.1-8B-Instrct"),
        "UnknownModel",
        "LLMDeployment chat/assistant",
        "spec.models[0].name",
        ("spec.models[0].name", '"meta-llama/Llama-3.1-8B-Instrct"', f'nearest: "{LLAMA_8B}"', "ModelProfile"),
    ),
    Fault(
        "unknown GPU",
        lambda facts: exchanged(facts, pool(accelerator="L4OS", nodeSelector=SELECTOR)),
        "UnknownAccelerator",
        "GPUNodePool l40s",
        "spec.accelerator",
        ('"L4OS"', "nearest", '"L40S"'),
    ),
    Fault(
        "pool without nodes",
        lambda facts: exchanged(facts, pool(nodeSelector={"matchLabels": {"pool": "typo"}})),
        "NoNodes",
        "GPUNodePool l40s",
        "spec.nodeSelector",
        ("spec.nodeSelector", "nvidia.com/gpu", "pool=typo"),
    ),
    Fault(
        "product label that contradicts the pool",
        relabelled,
        "ProductMismatch",
        "GPUNodePool l40s",
        "spec.accelerator",
        ("spec.accelerator", "L40S", "NVIDIA-L40S", "l40s-0", "NVIDIA-L4"),
    ),
    Fault(
        "nodes that two pools claim",
        lambda facts: exchanged(facts, pool("other", nodeSelector=SELECTOR)),
        "NodesContested",
        "GPUNodePool l40s",
        "spec.nodeSelector",
        ("spec.nodeSelector", "l40s-0", "GPUNodePool other"),
    ),
    Fault(
        "node with pods that leaves its pool",
        outside,
        "NodeOutsidePool",
        "LLMDeployment chat/assistant",
        "",
        ("runs on node l40s-", "does not count to GPUNodePool l40s now", "kept as it is"),
    ),
    Fault(
        "deleted pool",
        lambda facts: without(facts, "GPUNodePool", "l40s"),
        "PoolMissing",
        "LLMDeployment chat/assistant",
        "",
        ("GPUNodePool l40s", "does not exist any more", "kept as it is"),
    ),
    Fault(
        "invalid pool",
        lambda facts: with_invalid(facts, BROKEN_POOL),
        "PoolMissing",
        "LLMDeployment chat/assistant",
        "",
        ("GPUNodePool l40s", "it is invalid"),
    ),
    Fault(
        "unknown pool asked for",
        edited(placement={"pools": ["l40"]}),
        "PoolNotFound",
        "LLMDeployment chat/assistant",
        "spec.placement.pools[0]",
        ("spec.placement.pools[0]", "no GPUNodePool l40", "there are: l40s"),
    ),
    Fault(
        "deleted SLO",
        lambda facts: exchanged(without(facts, "InferenceSLO", "interactive"), objective("relaxed")),
        "SLONotFound",
        "LLMDeployment chat/assistant",
        "spec.traffic[0].sloRef.name",
        ("no InferenceSLO interactive in namespace chat", "there are: relaxed"),
    ),
    Fault(
        "invalid SLO",
        lambda facts: with_invalid(facts, BROKEN_SLO),
        "SLOInvalid",
        "LLMDeployment chat/assistant",
        "spec.traffic[0].sloRef.name",
        ("InferenceSLO interactive is invalid",),
    ),
    Fault(
        "invalid policy",
        lambda facts: replace(facts, invalid=(BROKEN_POLICY,)),
        "PolicyInvalid",
        "LLMDeployment chat/assistant",
        "",
        ("PlacementPolicy default is invalid",),
    ),
    Fault(
        "maximal length above the model's context",
        edited(engine={"maxModelLength": 1_000_000}),
        "MaxModelLengthTooLong",
        "LLMDeployment chat/assistant",
        "spec.engine.maxModelLength",
        ("1000000", "at most 131072"),
    ),
    Fault(
        "maximal length below the requests",
        edited(engine={"maxModelLength": 2000}),
        "MaxModelLengthTooShort",
        "LLMDeployment chat/assistant",
        "spec.engine.maxModelLength",
        ("2000", "at least 2500"),
    ),
    Fault(
        "requests longer than the model's context",
        edited(
            traffic=[
                {"name": "default", "requestsPerMinute": 1, "tokens": {"input": 100_000, "output": 100}},
            ]
        ),
        "ContextTooShort",
        "LLMDeployment chat/assistant",
        "spec.traffic",
        ("200200 tokens", f"{LLAMA_8B} takes at most 131072"),
    ),
    Fault(
        "budget below anything feasible",
        lambda facts: exchanged(edited(rate=9000)(facts), policy(budget={"perHour": "0.01"})),
        "BudgetExceeded",
        "PlacementPolicy default",
        "spec.budget.perHour",
        ("spec.budget.perHour", "0.01", "would"),
        SHORT,
    ),
    Fault(
        "SLO that no option meets",
        lambda facts: exchanged(facts, objective(ttft=5)),
        "SLOUnattainable",
        "LLMDeployment chat/assistant",
        "spec.traffic[0]",
        ("InferenceSLO interactive", "nearest: Llama-3.1-8B-Instruct bf16 on l40s", " ms", "the target is"),
        SHORT,
    ),
    Fault(
        "model that fits nowhere",
        edited(model="meta-llama/Llama-3.1-405B-Instruct"),
        "FitsNowhere",
        "LLMDeployment chat/assistant",
        "spec.traffic[0]",
        ("no candidate model fits any pool", "nearest:", "GiB"),
        SHORT,
    ),
    Fault(
        "every node lost",
        lambda facts: replace(facts, nodes=(), pods=()),
        "InsufficientCapacity",
        "LLMDeployment chat/assistant",
        "spec.traffic[0]",
        ("more free GPUs in GPUNodePool l40s",),
        SHORT,
    ),
    Fault(
        "engine change without free GPUs, and never in place",
        lambda facts: edited(engine={"extraArgs": ["--enable-prefix-caching"]})(
            exchanged(
                replace(
                    facts, nodes=tuple(item for item in facts.nodes or () if item.name in {p.node for p in facts.pods})
                ),
                policy(rebalance={"maxDisruption": "0"}),
            )
        ),
        "InsufficientCapacity",
        "LLMDeployment chat/assistant",
        "spec.traffic[0]",
        ("more free GPUs in GPUNodePool l40s",),
        SHORT,
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_said_with_object_field_value_and_what_would_do(fault):
    said = finding(after(fault), fault.reason, fault.about)
    assert str(said.object) == fault.about
    assert (said.severity, said.field) == (Severity.ERROR, fault.field)
    for part in fault.says:
        assert part in said.message


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_touches_nothing_that_runs(fault):
    before = running()
    own = before.workloads
    assert own
    routing = step_for(plan_of(undisturbed()), own, None, 0.0).routing
    hit = plan_of(after(fault))
    assert hit.state is fault.state
    for observed in (None, ObservedRouting(routing, 1e9)):
        step = step_for(hit, own, observed, 0.0)
        assert step.prune == ()
        assert all(step.replicas.get(item.name, item.replicas) >= item.replicas for item in own)
        if observed is not None and step.routing is not None:
            assert {item.placement for item in step.routing.classes[0].backends} >= {item.name for item in own}
            assert step.routing.classes[0].admitted_requests_per_minute > 0


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_plan_from_before_a_fault_comes_back_with_its_end(fault):
    before = decision(undisturbed())
    after(fault)
    assert decision(plan(running())) == before


@pytest.mark.parametrize(
    "invalid",
    [
        broken("LLMDeployment", "other", {"models": []}, "chat"),
        broken("GPUNodePool", "other", {"accelerator": "L40S"}),
        broken("InferenceSLO", "other", {"priority": -1}, "chat"),
        broken("ModelProfile", "other", {"model": "a/b"}),
    ],
    ids=lambda invalid: invalid.ref.kind,
)
def test_an_invalid_object_among_valid_ones_is_reported_and_changes_nothing_else(invalid):
    before = running()
    fleet = plan(replace(before, invalid=(invalid,)))
    assert decision(fleet) == decision(undisturbed())
    said = finding(fleet, "Invalid", invalid.ref.name)
    assert said.object == invalid.ref
    assert said.field.startswith("spec")


def test_what_an_invalid_deployment_runs_keeps_its_gpus():
    before = running()
    used = sum(replicas(undisturbed()).values())
    invalid = broken("LLMDeployment", "assistant", {"models": []}, "chat")
    facts = exchanged(without(before, "LLMDeployment", "assistant"), deployment("newcomer", 9000))
    fleet = plan(replace(facts, invalid=(invalid,)))
    assert plan_of(fleet, "newcomer").gpus == 16 - used


def test_the_value_at_fault_may_be_anything_that_yaml_holds():
    import datetime

    strange = broken("GPUNodePool", "other", {"accelerator": datetime.date(2026, 1, 1), "price": {"perHour": {1, 2}}})
    before = running()
    assert decision(plan(replace(before, invalid=(strange,)))) == decision(undisturbed())


def test_a_pool_that_is_not_usable_is_named_where_it_is_asked_for():
    facts = snapshot(pool(accelerator="L4OS"), deployment(placement={"pools": ["l40s"]}), nodes=nodes(1))
    said = finding(plan(facts), "PoolUnusable")
    assert said.field == "spec.placement.pools[0]"
    assert "its accelerator is unknown" in said.message


def test_no_pool_at_all_is_said():
    fleet = plan(snapshot(deployment(), nodes=nodes(1)))
    assert plan_of(fleet).state is SHORT
    assert "create one" in finding(fleet, "NoPools").message


def test_one_length_for_all_models_is_said_once():
    models = [{"name": LLAMA_8B}, {"name": QWEN_7B}]
    fleet = plan(snapshot(pool(), deployment(models=models, engine={"maxModelLength": 2000}), nodes=nodes(1)))
    assert [item.reason for item in fleet.all_findings()] == ["MaxModelLengthTooShort"]


def test_an_unattainable_class_without_traffic_does_not_remove_what_runs():
    before = running()
    facts = exchanged(before, deployment(rate=0, slo="interactive"), objective(ttft=5))
    after = plan_of(plan(facts))
    assert after.state is SHORT
    assert step_for(after, before.workloads, None, 0.0).prune == ()


def test_other_deployments_are_planned_beside_a_held_one():
    before = running()
    facts = exchanged(before, deployment(model="no/such-model"), deployment("other"))
    fleet = plan(facts)
    assert plan_of(fleet).state is DeploymentState.HELD
    assert plan_of(fleet, "other").state is DeploymentState.PLANNED


def test_a_class_that_cannot_be_served_does_not_stop_the_other_class():
    classes = [
        traffic("default"),
        traffic("strict", sloRef={"name": "strict"}, match={"headers": [{"name": "x-class", "value": "strict"}]}),
    ]
    fleet = plan(snapshot(pool(), objective("strict", ttft=5), deployment(traffic=classes), nodes=nodes(2)))
    assert plan_of(fleet).state is SHORT
    assert [(item.name, item.unserved) for item in plan_of(fleet).classes] == [("default", 0.0), ("strict", 1.0)]
    assert finding(fleet, "SLOUnattainable").field == "spec.traffic[1]"
