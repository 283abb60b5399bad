"""PlacementPlan: the record of one decision for the whole fleet. People write `spec.approval`, Plimsoll the rest."""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.alias_generators import to_camel

from plimsoll.api.common import (
    AGE,
    APIModel,
    Boolean,
    Count,
    Digest,
    DNSLabel,
    DNSSubdomain,
    PrinterColumn,
    Resource,
    ResourceNames,
    ShortText,
    Status,
    StatusModel,
    Text,
    Time,
)
from plimsoll.api.rules import ListMap, Rule
from plimsoll.api.units import Money, Ratio


class PlanSummary(APIModel):
    """Totals of the plan."""

    deployments: Annotated[Count, Field(description="LLMDeployments that the plan serves.")] = 0
    placements: Annotated[Count, Field(description="Placements of all LLMDeployments.")] = 0
    replicas: Annotated[Count, Field(description="Replicas of all placements.")] = 0
    gpus: Annotated[Count, Field(description="GPUs that the placements use.")] = 0
    changed_deployments: Annotated[
        Count,
        Field(description="LLMDeployments that the plan changes; more than `changes` lists when that is cut off."),
    ] = 0


class PlacementChange(APIModel):
    """How the plan changes one placement."""

    placement: Annotated[DNSLabel, Field(description="Name of the placement.")]
    replicas_before: Annotated[Count, Field(description="Replicas before; 0 for a new placement.")]
    replicas_after: Annotated[Count, Field(description="Replicas after; 0 for one that is given up.")]


class DeploymentChange(APIModel):
    """How the plan changes one LLMDeployment."""

    namespace: Annotated[DNSLabel, Field(description="Namespace of the LLMDeployment.")]
    name: Annotated[DNSLabel, Field(description="Name of the LLMDeployment.")]
    cost_per_hour_before: Annotated[Money, Field(description="Cost per hour before.")]
    cost_per_hour_after: Annotated[Money, Field(description="Cost per hour after.")]
    placements: Annotated[
        tuple[PlacementChange, ...],
        Field(max_length=32, description="Placements whose number of replicas changes. Empty: only shares change."),
        ListMap("placement"),
    ] = ()
    reason: Annotated[
        Literal["New", "StartFailed", "Respecified", "ScaledToZero", "Short", "Growth", "Shrink", "Saving", "Moved"]
        | None,
        Field(
            description="Why: nothing ran (New), what was tried before did not start (StartFailed), the spec changed "
            "what pods are like (Respecified), no replicas are wanted (ScaledToZero), not all demand can be served "
            "(Short), more or fewer replicas are needed (Growth, Shrink), others cost less (Saving), or other "
            "placements serve better at a higher cost (Moved)."
        ),
    ] = None
    in_place: Annotated[
        Boolean | None,
        Field(description="Running replicas go before new ones come, since no GPU is free. Absent: the other way."),
    ] = None


class Refusal(APIModel):
    """Something that was wanted and is not in the plan."""

    namespace: Annotated[DNSLabel, Field(description="Namespace of the LLMDeployment.")]
    name: Annotated[DNSLabel, Field(description="Name of the LLMDeployment.")]
    reason: Annotated[ShortText, Field(description="Why, in one word, as in conditions.")]
    message: Annotated[Text, Field(description="The same for people.")]


class BindingLimit(APIModel):
    """A limit that leaves no room for more."""

    kind: Annotated[
        Literal["Pool", "Budget", "Storage", "Tenant", "Quota"],
        Field(
            description="Pool: no further replica of any option fits the pool's GPUs. Budget: no further replica "
            "can be paid. Storage: no further model's weights can be stored. Tenant: a limit of a tenant of the "
            "PlacementPolicy is reached. Quota: a ResourceQuota or LimitRange admits no further replica."
        ),
    ]
    name: Annotated[
        DNSSubdomain, Field(description="Name of the GPUNodePool, tenant, ResourceQuota or LimitRange; or default.")
    ]


class DetailsReference(APIModel):
    """A ConfigMap that holds a part of the whole decision."""

    namespace: Annotated[DNSLabel, Field(description="Namespace of the ConfigMap.")]
    name: Annotated[DNSSubdomain, Field(description="Name of the ConfigMap.")]


class Approval(APIModel):
    """What a person said to the plan."""

    decision: Annotated[
        Literal["Approved", "Rejected"],
        Field(
            description="Approved: carry the plan out, provided that it is still what would be decided. It stands: it "
            "cannot be taken back. Rejected: do not, and do not propose the same again; may still become Approved."
        ),
    ]
    digest: Annotated[Digest, Field(description="The plan's decisionDigest: what was looked at.")]


class PlacementPlanSpec(APIModel):
    """The decision. Immutable, but for `approval`."""

    inputs_digest: Annotated[
        Digest, Field(description="Digest of everything that the decision depends on. Equal inputs give equal plans.")
    ]
    decision_digest: Annotated[
        Digest | None,
        Field(description="Digest of the placements and replicas that were decided. Equal digests mean equal pods."),
    ] = None
    details_digest: Annotated[
        Digest | None, Field(description="Digest of the whole decision, before it was compressed into detailsRefs.")
    ] = None
    cost_per_hour: Annotated[Money, Field(description="Cost of all placements per hour.")]
    objective_per_hour: Annotated[
        Money | None,
        Field(
            description="What the search minimises, per hour: the cost of all placements that are decided about, "
            "penalties for latency and unserved traffic, and the cost of changes spread over rebalance.horizonHours."
        ),
    ] = None
    lower_bound_per_hour: Annotated[
        Money | None,
        Field(description="No plan that serves as much has an objective below this. Absent when nothing is proven."),
    ] = None
    gap: Annotated[
        Ratio | None,
        Field(
            description="Part of the objective that a better plan could save at most: (objectivePerHour - "
            "lowerBoundPerHour) / objectivePerHour. Absent when nothing is proven."
        ),
    ] = None
    binding_limits: Annotated[
        tuple[BindingLimit, ...],
        Field(max_length=64, description="Limits that leave no room for more, 64 at most."),
        ListMap("kind", "name"),
    ] = ()
    summary: Annotated[PlanSummary, Field(description="Totals of the plan.")] = PlanSummary()
    changes: Annotated[
        tuple[DeploymentChange, ...],
        Field(max_length=200, description="LLMDeployments that the plan changes, 200 at most."),
        ListMap("namespace", "name"),
    ] = ()
    cost_per_hour_before: Annotated[
        Money | None, Field(description="Cost per hour of what ran when the plan was made, at its prices.")
    ] = None
    refused: Annotated[
        tuple[Refusal, ...],
        Field(max_length=64, description="What is not served, not started or not changed, and why; 64 at most."),
        ListMap("namespace", "name", "reason"),
    ] = ()
    details_refs: Annotated[
        tuple[DetailsReference, ...],
        Field(max_length=16, description="ConfigMaps that hold the whole decision, compressed, in this order."),
        ListMap("namespace", "name"),
    ] = ()
    approval: Annotated[
        Approval | None,
        Field(description="What a person says to the plan, where the policy's approval is Manual. Never Plimsoll's."),
    ] = None


def _unchanged(name: str) -> str:
    """CEL: an optional or required field of the spec is as it was."""
    return f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"


PlacementPlanSpec.rules = (
    Rule(
        cel=" && ".join(_unchanged(to_camel(name)) for name in PlacementPlanSpec.model_fields if name != "approval"),
        message="a plan records one decision: only approval may be changed",
        holds=None,
    ),
    Rule(
        cel="!has(self.approval) || (has(self.decisionDigest) && self.approval.digest == self.decisionDigest)",
        message="approval.digest must be the plan's decisionDigest",
        holds=lambda spec: spec.approval is None or spec.approval.digest == spec.decision_digest,
        field="approval.digest",
    ),
    Rule(
        cel="!has(oldSelf.approval) || oldSelf.approval.decision != 'Approved' || "
        "(has(self.approval) && self.approval.decision == 'Approved')",
        message="an approval stands: it cannot be changed or taken back",
        holds=None,
        field="approval",
    ),
)


class PlanProgress(StatusModel):
    """How far the transition is: steps are starting and waiting for replicas, moving requests, draining, removing."""

    steps_done: Annotated[Count, Field(description="Steps that are done.")] = 0
    steps_total: Annotated[Count, Field(description="Steps in all.")] = 0
    current: Annotated[Text | None, Field(description="The step that is waited for. Absent: all are done.")] = None
    since: Annotated[Time | None, Field(description="Since when it is the current one.")] = None


class PlacementPlanStatus(Status):
    """What became of the plan."""

    state: Annotated[
        Literal["Recommended", "AwaitingApproval", "Rejected", "Refused", "Applying", "Applied", "Superseded"] | None,
        Field(
            description="Recommended (not applied), AwaitingApproval, Rejected by a person, Refused by Plimsoll "
            "although it was approved, Applying, Applied, or Superseded by a later plan."
        ),
    ] = None
    reason: Annotated[
        ShortText | None,
        Field(
            description="Why it is in this state, in one word: Approved by a person; Stale, DigestMismatch or "
            "DetailsMissing where it was refused; Replaced or Outdated where it was superseded after or before it was "
            "in force; RolledBack where that was because what it wanted did not start."
        ),
    ] = None
    message: Annotated[Text | None, Field(description="The same for people.")] = None
    applied_time: Annotated[Time | None, Field(description="When the last step was done.")] = None
    progress: Annotated[PlanProgress | None, Field(description="How far the transition is.")] = None


class PlacementPlan(Resource):
    """The record of one decision for the whole fleet: what it costs and what it changes. Written by Plimsoll, but for
    `spec.approval`."""

    names = ResourceNames(
        plural="placementplans",
        short_name="pplan",
        scope="Cluster",
        columns=(
            PrinterColumn("State", ".status.state", description="What became of it, such as Applied."),
            PrinterColumn("Cost/h", ".spec.costPerHour", description="Cost per hour."),
            PrinterColumn("Gap", ".spec.gap", description="Part of the objective that could be saved at most."),
            PrinterColumn("Changes", ".spec.summary.changedDeployments", "integer", "LLMDeployments that it changes."),
            PrinterColumn("Reason", ".status.reason", description="Why it is in this state.", wide=True),
            AGE,
        ),
    )

    kind: Literal["PlacementPlan"] = "PlacementPlan"
    spec: PlacementPlanSpec
    status: PlacementPlanStatus = PlacementPlanStatus()
