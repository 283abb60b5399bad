"""What the statuses of all kinds but LLMDeployment should say after a round. Pure."""

from collections.abc import Sequence
from datetime import datetime

from plimsoll.api import InferenceSLO, ModelProfile, PlacementPolicy
from plimsoll.api.common import PlanReference
from plimsoll.api.gpunodepool import GPUCounts, GPUNodePoolStatus
from plimsoll.api.inferenceslo import ClassAttainment, InferenceSLOStatus
from plimsoll.api.modelprofile import ModelProfileStatus
from plimsoll.api.placementpolicy import PlacementPolicyStatus
from plimsoll.controller.conditions import Aspect, accepted, build, errors, joined, stalled
from plimsoll.controller.figures import money
from plimsoll.planning.plan import (
    Finding,
    FleetPlan,
    PoolPlan,
)

_USED_BY, _CLASSES, _ACCELERATORS = 64, 256, 8


def pool_status(plan: PoolPlan, before: GPUNodePoolStatus, generation: int, now: datetime) -> GPUNodePoolStatus:
    """Status of a pool that is usable, as far as its nodes are."""
    found = errors(plan.findings)
    # Nodes may still join; nothing else comes right by itself.
    lasting = [item for item in found if item.reason != "NoNodes"]
    if found:
        ready = Aspect("Ready", "False", found[0].reason, joined(plan.findings))
    else:
        product = f" of product {plan.product}" if plan.product else ""
        text = f"{plan.nodes} nodes, {plan.gpus} GPUs{product}"
        warnings = joined(plan.findings)
        ready = Aspect("Ready", "True", "NodesFound", f"{text}; {warnings}" if warnings else text)
    return GPUNodePoolStatus(
        observed_generation=generation,
        conditions=build([accepted(()), ready, *stalled(lasting)], before.conditions, generation, now),
        nodes=plan.nodes,
        gpus=GPUCounts(
            total=plan.gpus,
            allocatable=plan.gpus_allocatable,
            used_by_plimsoll=plan.gpus_running,
            used_by_others=plan.gpus_used_by_others,
            free=max(0, plan.gpus_allocatable - plan.gpus_running - plan.gpus_used_by_others),
        ),
        product=plan.product or None,
    )


def slo_status(
    slo: InferenceSLO, fleet: FleetPlan, before: InferenceSLOStatus, findings: Sequence[Finding], now: datetime
) -> InferenceSLOStatus:
    """Status of an InferenceSLO: which traffic classes refer to it."""
    generation = slo.metadata.generation
    classes = [
        ClassAttainment(deployment=plan.resource.name, traffic=traffic.name)
        for plan in fleet.deployments
        if plan.resource.namespace == slo.namespace
        for traffic in plan.resource.spec.traffic
        if traffic.slo_ref is not None and traffic.slo_ref.name == slo.name
    ]
    users = f"{len(classes)} traffic classes refer to it" if classes else "no traffic class refers to it"
    return InferenceSLOStatus(
        observed_generation=generation,
        conditions=build(_accepted_and_ready(findings, users), before.conditions, generation, now),
        classes=tuple(classes[:_CLASSES]),
    )


def profile_status(
    profile: ModelProfile, fleet: FleetPlan, before: ModelProfileStatus, findings: Sequence[Finding], now: datetime
) -> ModelProfileStatus:
    """Status of a ModelProfile: who names the model."""
    model, generation = profile.spec.model, profile.metadata.generation
    users = [
        plan.resource.reference
        for plan in fleet.deployments
        if any(candidate.name == model for candidate in plan.resource.spec.models)
    ]
    text = f"{len(users)} LLMDeployments name the model" if users else "no LLMDeployment names the model"
    if measured := [given.accelerator for given in profile.spec.coefficients]:
        text += f"; speed measured on {', '.join(measured[:_ACCELERATORS])}"
    return ModelProfileStatus(
        observed_generation=generation,
        conditions=build(_accepted_and_ready(findings, text), before.conditions, generation, now),
        used_by=tuple(users[:_USED_BY]),
    )


def policy_status(
    policy: PlacementPolicy,
    fleet: FleetPlan,
    before: PlacementPolicyStatus,
    plan_name: str,
    findings: Sequence[Finding],
    now: datetime,
    *,
    message: str,
) -> PlacementPolicyStatus:
    """Status of the policy. It tells when the decision last changed, not when it was last looked at.

    `nextPlanningTime` stays empty, since nothing is written at rest.
    """
    generation = policy.metadata.generation
    same = before.last_plan_ref is not None and before.last_plan_ref.name == plan_name
    return PlacementPolicyStatus(
        observed_generation=generation,
        conditions=build(_policy_aspects(findings), before.conditions, generation, now),
        last_plan_ref=PlanReference(name=plan_name) if plan_name else before.last_plan_ref,
        last_plan_time=before.last_plan_time if same or not plan_name else now,
        cost_per_hour=money(fleet.cost_per_hour),
        message=message,
    )


def _policy_aspects(findings: Sequence[Finding]) -> list[Aspect]:
    """A hold of the guard leaves the policy in force; a person must look all the same."""
    held = [item for item in findings if item.reason == "BlastRadiusHeld"]
    others = [item for item in findings if item not in held]
    aspects = [item for item in _accepted_and_ready(others, "in force") if item.type != "Stalled"]
    return [*aspects, *stalled([*held, *errors(others)])]


def refused_aspects(findings: Sequence[Finding]) -> list[Aspect]:
    """Aspects of an object that does not parse or cannot be used."""
    found = errors(findings)
    reason, text = (found[0].reason, joined(found)) if found else ("Refused", "it cannot be used")
    return [
        Aspect("Accepted", "False", reason, text),
        Aspect("Ready", "False", reason, text),
        Aspect("Stalled", "True", reason, text),
    ]


def _accepted_and_ready(findings: Sequence[Finding], text: str) -> list[Aspect]:
    found = errors(findings)
    if found:
        return [accepted(()), Aspect("Ready", "False", found[0].reason, joined(findings)), *stalled(found)]
    warnings = joined(findings)
    return [accepted(()), Aspect("Ready", "True", "Accepted", f"{text}; {warnings}" if warnings else text)]
