"""PlacementPlan: the record of one decision for the whole fleet. Written by Plimsoll, never by people."""

from typing import Annotated, Literal

from pydantic import Field

from plimsoll.api.common import (
    AGE,
    APIModel,
    Count,
    Digest,
    DNSLabel,
    DNSSubdomain,
    PrinterColumn,
    Resource,
    ResourceNames,
    Status,
    StatusModel,
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


class BindingLimit(APIModel):
    """A limit that leaves no room for more."""

    kind: Annotated[
        Literal["Pool", "Budget", "Storage"],
        Field(
            description="Pool: no further replica of any option fits the pool's GPUs. Budget: no further replica "
            "can be paid. Storage: no further model's weights can be stored."
        ),
    ]
    name: Annotated[DNSSubdomain, Field(description="Name of the GPUNodePool, or default: the PlacementPolicy.")]


class DetailsReference(APIModel):
    """A ConfigMap that holds a part of the whole decision."""

    namespace: Annotated[DNSLabel, Field(description="Namespace of the ConfigMap.")]
    name: Annotated[DNSSubdomain, Field(description="Name of the ConfigMap.")]


class PlacementPlanSpec(APIModel):
    """The decision. Immutable."""

    rules = (
        Rule(
            cel="self == oldSelf",
            message="spec is immutable: a plan records one decision",
            holds=None,
        ),
    )

    inputs_digest: Annotated[
        Digest, Field(description="Digest of everything that the decision depends on. Equal inputs give equal plans.")
    ]
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
    details_refs: Annotated[
        tuple[DetailsReference, ...],
        Field(max_length=16, description="ConfigMaps that hold the whole decision, compressed, in this order."),
        ListMap("namespace", "name"),
    ] = ()


class PlanProgress(StatusModel):
    """How far the transition is."""

    steps_done: Annotated[Count, Field(description="Steps that are done.")] = 0
    steps_total: Annotated[Count, Field(description="Steps in all.")] = 0


class PlacementPlanStatus(Status):
    """What became of the plan."""

    state: Annotated[
        Literal["Recommended", "Applying", "Applied", "Superseded"] | None,
        Field(description="Recommended (not applied), Applying, Applied, or Superseded by a later plan."),
    ] = None
    applied_time: Annotated[Time | None, Field(description="When the last step was done.")] = None
    progress: Annotated[PlanProgress | None, Field(description="How far the transition is.")] = None


class PlacementPlan(Resource):
    """The record of one decision for the whole fleet: what it costs and what it changes. Written by Plimsoll."""

    names = ResourceNames(
        plural="placementplans",
        short_name="pplan",
        scope="Cluster",
        columns=(
            PrinterColumn("State", ".status.state", description="Recommended, Applying, Applied or Superseded."),
            PrinterColumn("Cost/h", ".spec.costPerHour", description="Cost per hour."),
            PrinterColumn("Gap", ".spec.gap", description="Part of the objective that could be saved at most."),
            PrinterColumn("Changes", ".spec.summary.changedDeployments", "integer", "LLMDeployments that it changes."),
            AGE,
        ),
    )

    kind: Literal["PlacementPlan"] = "PlacementPlan"
    spec: PlacementPlanSpec
    status: PlacementPlanStatus = PlacementPlanStatus()
