"""Every state in which the controller leaves an object of each kind, made by the controller's own functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import yaml

from plimsoll.api import InferenceSLO, LLMDeployment, ModelProfile, PlacementPlan, PlacementPolicy, Resource
from plimsoll.api.common import Status, to_wire
from plimsoll.api.crd import custom_resource_definition
from plimsoll.api.gpunodepool import GPUNodePoolStatus
from plimsoll.api.inferenceslo import InferenceSLOStatus
from plimsoll.api.llmdeployment_status import LLMDeploymentStatus
from plimsoll.api.modelprofile import ModelProfileStatus
from plimsoll.api.placementpolicy import PlacementPolicyStatus
from plimsoll.api.schema import structural_schema
from plimsoll.controller.conditions import Aspect, build
from plimsoll.controller.fleet_statuses import policy_status, pool_status, profile_status, refused_aspects, slo_status
from plimsoll.controller.status import Progress, deployment_status
from plimsoll.planning import step_for
from plimsoll.planning.plan import Finding, FleetPlan
from plimsoll.planning.snapshot import ObjectRef, Snapshot
from plimsoll.planning.transition import ObservedRouting, RoutingTable
from tests.kstatus import KStatus
from tests.unit.planning.fleets import applied as followed
from tests.unit.planning.fleets import deployment, nodes, objective, plan, plan_of, policy, pool, snapshot
from tests.unit.planning.fleets import manifest as written

THEN = datetime(2026, 1, 1, tzinfo=UTC)
GENERATION = 3


@dataclass(frozen=True, slots=True)
class State:
    """An object as the API server has it, and what tools should make of it."""

    kind: str
    name: str
    """Of the state, lower case with hyphens."""
    manifest: Mapping[str, Any]
    expected: KStatus

    def __str__(self) -> str:
        return f"{self.kind}-{self.name}"


def states() -> list[State]:
    """All of them."""
    return [*_deployments(), *_pools(), *_slos(), *_profiles(), *_policies(), *_unseen(), *_refused(), *_plans()]


def _state(resource: Resource, name: str, status: Status, expected: KStatus, generation: int = GENERATION) -> State:
    metadata = {"name": resource.name, "generation": generation}
    if resource.names.scope == "Namespaced":
        metadata["namespace"] = resource.namespace
    whole = {
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": resource.kind,
        "metadata": metadata,
        "spec": to_wire(resource.spec, only_set=True),
        "status": to_wire(status),
    }
    return State(resource.kind, name, yaml.safe_load(yaml.safe_dump(whole)), expected)


# --- LLMDeployment ----------------------------------------------------------------------------------------------------


def _deployments() -> Iterator[State]:
    facts = snapshot(pool(), objective(), deployment(slo="interactive"), nodes=nodes(8))
    running = followed(facts, plan(facts))
    full = snapshot(pool(), objective(), deployment(slo="interactive", rate=100_000), nodes=nodes(1))
    held = snapshot(pool(), deployment(model="nobody/unknown"), nodes=nodes(1))
    ref = ObjectRef("LLMDeployment", "chat", "assistant")
    refused = Finding(ref, "ApplyRefused", "apply Deployment x: forbidden")
    late = Finding(ref, "ApplyFailed", "apply Deployment x: the server is busy")
    yield _deployment("waiting-for-pods", facts, KStatus.IN_PROGRESS)
    yield _deployment("serving", running, KStatus.CURRENT, routed=True)
    yield _deployment("serving-in-transition", _with_leftover(running), KStatus.CURRENT, routed=True)
    yield _deployment("recommended", facts, KStatus.IN_PROGRESS, applied=False)
    yield _deployment("short-of-gpus", full, KStatus.FAILED)
    yield _deployment("bad-input", held, KStatus.FAILED)
    yield _deployment("refused-by-the-server", facts, KStatus.FAILED, after=(refused,))
    yield _deployment("server-busy", facts, KStatus.IN_PROGRESS, after=(late,))
    yield _deployment("serving-server-busy", running, KStatus.CURRENT, routed=True, after=(late,))
    edited = _deployment("edited", running, KStatus.IN_PROGRESS, routed=True)
    metadata = {**edited.manifest["metadata"], "generation": GENERATION + 1}
    yield replace(edited, manifest={**edited.manifest, "metadata": metadata})
    yield _waiting_for_plan(facts.deployments[0])


def _deployment(
    name: str,
    facts: Snapshot,
    expected: KStatus,
    *,
    routed: bool = False,
    applied: bool = True,
    after: tuple[Finding, ...] = (),
) -> State:
    found = plan_of(plan(facts))
    table: RoutingTable | None = step_for(found, facts.workloads, None, 0.0).routing
    seen = ObservedRouting(table, 0.0) if routed and table is not None else None
    step = step_for(found, facts.workloads, seen, 150.0)
    status = deployment_status(
        Progress(found, step, facts.workloads, after),
        LLMDeploymentStatus(),
        GENERATION,
        "plan-000007",
        THEN,
        applied=applied,
        observed={},
    )
    return _state(facts.deployments[0], name, status, expected)


def _with_leftover(facts: Snapshot) -> Snapshot:
    (only,) = facts.workloads
    return replace(facts, workloads=(only, replace(only, name="assistant-before", uid="uid-before")))


def _waiting_for_plan(resource: LLMDeployment) -> State:
    """As when planning fails before the first plan."""
    aspects = [
        Aspect("Ready", "Unknown", "PlannerCrashed", "the planner process ended"),
        Aspect("Planned", "False", "PlannerCrashed", "the planner process ended"),
        Aspect("Reconciling", "True", "WaitingForPlan", "the present spec has not been planned yet"),
    ]
    status = LLMDeploymentStatus(conditions=build(aspects, (), None, THEN))
    return _state(resource, "planner-failed", status, KStatus.IN_PROGRESS)


# --- The other kinds --------------------------------------------------------------------------------------------------


def _pools() -> Iterator[State]:
    cases = {
        "nodes-found": (nodes(2), "L40S", KStatus.CURRENT),
        "no-nodes-yet": ([], "L40S", KStatus.IN_PROGRESS),
        "other-product": (nodes(2), "L4", KStatus.FAILED),
    }
    for name, (found, accelerator, expected) in cases.items():
        resource = pool(
            "l40s", accelerator, **({"nodeSelector": {"matchLabels": {"team": "a"}}} if name == "other-product" else {})
        )
        labelled = [replace(item, labels={**item.labels, "team": "a"}) for item in found]
        fleet = plan(snapshot(resource, nodes=labelled))
        (only,) = fleet.pools
        yield _state(resource, name, pool_status(only, GPUNodePoolStatus(), GENERATION, THEN), expected)


def _fleet() -> FleetPlan:
    return plan(snapshot(pool(), deployment(slo="interactive"), objective(), nodes=nodes(2)))


def _error(resource: Resource, reason: str) -> tuple[Finding, ...]:
    ref = ObjectRef(resource.kind, "" if resource.names.scope == "Cluster" else resource.namespace, resource.name)
    return (Finding(ref, reason, f"spec.x: {reason}"),)


def _slos() -> Iterator[State]:
    slo = objective()
    assert isinstance(slo, InferenceSLO)
    slo = slo.model_copy(update={"metadata": slo.metadata.model_copy(update={"generation": GENERATION})})
    yield _state(slo, "accepted", slo_status(slo, _fleet(), InferenceSLOStatus(), (), THEN), KStatus.CURRENT)


def _profile() -> ModelProfile:
    architecture = {
        "parameters": 7_000_000_000,
        "layers": 32,
        "hiddenSize": 4096,
        "attentionHeads": 32,
        "vocabularySize": 32000,
        "contextLength": 32768,
    }
    spec = {"model": "example/own-7b", "architecture": architecture}
    return ModelProfile.model_validate(written("ModelProfile", "own-7b", spec))


def _profiles() -> Iterator[State]:
    profile = _profile()
    profile = profile.model_copy(update={"metadata": profile.metadata.model_copy(update={"generation": GENERATION})})
    good = profile_status(profile, _fleet(), ModelProfileStatus(), (), THEN)
    bad = profile_status(profile, _fleet(), ModelProfileStatus(), _error(profile, "UnknownAccelerator"), THEN)
    yield _state(profile, "accepted", good, KStatus.CURRENT)
    yield _state(profile, "unusable", bad, KStatus.FAILED)


def _policies() -> Iterator[State]:
    resource = policy()
    assert isinstance(resource, PlacementPolicy)
    resource = resource.model_copy(update={"metadata": resource.metadata.model_copy(update={"generation": GENERATION})})
    cases = {
        "in-force": ((), KStatus.CURRENT),
        "budget-exceeded": (_error(resource, "BudgetExceeded"), KStatus.FAILED),
        "held-by-the-guard": (_error(resource, "BlastRadiusHeld"), KStatus.FAILED),
        "held-and-exceeded": (
            (*_error(resource, "BlastRadiusHeld"), *_error(resource, "BudgetExceeded")),
            KStatus.FAILED,
        ),
    }
    for name, (findings, expected) in cases.items():
        status = policy_status(
            resource, _fleet(), PlacementPolicyStatus(), "plan-000007", findings, THEN, message="as planned"
        )
        yield _state(resource, name, status, expected)


def _examples() -> list[Resource]:
    return [deployment(), pool(), objective(), policy(), _profile()]


def _unseen() -> Iterator[State]:
    """As the API server fills in the status of a new object."""
    for resource in _examples():
        version = custom_resource_definition(type(resource))["spec"]["versions"][0]
        default = version["schema"]["openAPIV3Schema"]["properties"]["status"]["default"]
        status = type(resource).status_model().model_validate(default)
        yield _state(resource, "new", status, KStatus.IN_PROGRESS, generation=1)


def _refused() -> Iterator[State]:
    """Objects that do not parse."""
    for resource in _examples():
        aspects = refused_aspects(_error(resource, "Invalid"))
        status = type(resource).status_model()(
            observed_generation=GENERATION, conditions=build(aspects, (), GENERATION, THEN)
        )
        yield _state(resource, "invalid", status, KStatus.FAILED)


def _plans() -> Iterator[State]:
    """Records: there is nothing to wait for."""
    spec = {"inputsDigest": f"sha256:{'0' * 64}", "costPerHour": "1.10"}
    for state in structural_schema(PlacementPlan.status_model())["properties"]["state"]["enum"]:
        manifest = written("PlacementPlan", "plan-000007", spec) | {"status": {"state": state}}
        record = PlacementPlan.model_validate(manifest)
        yield _state(record, state.lower(), record.status, KStatus.CURRENT, generation=1)
