"""PlacementPolicy: the one object that says how Plimsoll decides for the whole cluster."""

from decimal import Decimal
from typing import Annotated, Literal, Self

from pydantic import Field

from plimsoll.api.common import (
    AGE,
    READY,
    REASON,
    APIModel,
    Integer,
    Metadata,
    PlanReference,
    PrinterColumn,
    Resource,
    ResourceNames,
    Status,
    Text,
    Time,
)
from plimsoll.api.inferenceslo import LatencyTarget
from plimsoll.api.rules import ListMap, Rule
from plimsoll.api.tenants import Security, Tenant
from plimsoll.api.units import Money, ProperFraction, Surplus

POLICY_NAME = "default"


class Budget(APIModel):
    """How much the placements may cost."""

    per_hour: Annotated[
        Money | None,
        Field(
            description="Cost of all placements per hour, at most. A budget below the running cost stops growth and "
            "removes nothing. When absent, no limit."
        ),
    ] = None


class Headroom(APIModel):
    """How much more than needed is planned for."""

    demand: Annotated[
        Surplus,
        Field(
            description='Extra traffic that is planned for, relative to the expected rate. Default "0.1": 10 % more.'
        ),
    ] = Decimal("0.1")
    latency: Annotated[
        ProperFraction,
        Field(
            description='Part of each latency target that is kept free. Default "0.1": plans meet 90 % of the target.'
        ),
    ] = Decimal("0.1")


class Demand(APIModel):
    """Which demand is planned for."""

    source: Annotated[
        Literal["Observed", "Declared"],
        Field(
            description="Observed plans for what Prometheus shows of each traffic class, and as declared until there "
            "is something; without a Prometheus (prometheus.url of the chart) it is Declared. Declared plans for "
            "requestsPerMinute and tokens as they are written. Default Observed."
        ),
    ] = "Observed"


class Availability(APIModel):
    """What may fail without traffic being lost."""

    tolerate_node_loss: Annotated[
        Integer,
        Field(
            ge=0,
            le=1,
            description="Nodes that may be lost at once. 1: after the loss of any one node the other replicas still "
            "serve every traffic class within its limits; placements spread over nodes and keep spare replicas. An "
            "LLMDeployment for which there is no room is planned without, with the warning NodeLossNotTolerated. A "
            "change makes new pods. Default 0.",
        ),
    ] = 0


class Planning(APIModel):
    """When plans are made."""

    interval_seconds: Annotated[
        Integer,
        Field(
            ge=10,
            le=86_400,
            description="Seconds after which a new plan is made although nothing has changed. "
            "Changes are planned at once. Default 300.",
        ),
    ] = 300


class Rebalance(APIModel):
    """When a cheaper placement is worth a move."""

    minimal_saving: Annotated[
        ProperFraction,
        Field(
            description="Part of an LLMDeployment's cost that another placement must save, the cost of the move "
            'included, before anything moves for cost alone. Default "0.05".'
        ),
    ] = Decimal("0.05")
    cool_down_seconds: Annotated[
        Integer,
        Field(
            ge=10,
            le=86_400,
            description="Seconds of fresh metrics without a break, all of which must ask for less, before observed "
            "demand that falls is followed, a step at a time. Demand that rises is followed at once. Default 600.",
        ),
    ] = 600
    horizon_hours: Annotated[
        Integer,
        Field(
            ge=1,
            le=8760,
            description="Hours over which the cost of a move (GPUs that load weights) must pay off. "
            "Greater values move more readily. Default 24.",
        ),
    ] = 24


class Storage(APIModel):
    """What it costs to keep model weights where they run."""

    price_per_gib_hour: Annotated[
        Money,
        Field(
            alias="pricePerGiBHour",
            description="Cost of one GiB of weights for an hour. The weights of a model at one precision count once "
            "per LLMDeployment and pool in use, whatever the number of replicas. Counts to the cost and to the "
            'budget. Default "0".',
        ),
    ] = Decimal(0)
    limit_gib: Annotated[
        Integer | None,
        Field(
            alias="limitGiB",
            ge=0,
            le=1_000_000_000,
            description="GiB of weights that may be stored in all, at most. A limit below what runs stops growth and "
            "removes nothing. When absent, no limit.",
        ),
    ] = None


class RoutingPropagation(APIModel):
    """How fast routers follow."""

    propagation_seconds: Annotated[
        Integer,
        Field(
            ge=0,
            le=3600,
            description="Seconds that routers may take to see a new routing. Pods that are no longer routed to stay "
            "that long. Default 150: a mounted ConfigMap; 15 suffices where only HTTPRoutes are used.",
        ),
    ] = 150


class DefaultSLO(APIModel):
    """Latency targets of traffic classes that refer to no InferenceSLO."""

    ttft: Annotated[
        LatencyTarget, Field(description="Time to first token. Default: 95th percentile of at most 2000 milliseconds.")
    ] = LatencyTarget(statistic="Percentile", percentile=95, milliseconds=2000)
    tpot: Annotated[
        LatencyTarget,
        Field(
            description="Time per output token after the first. Default: 95th percentile of at most 100 milliseconds."
        ),
    ] = LatencyTarget(statistic="Percentile", percentile=95, milliseconds=100)


class PlacementPolicySpec(APIModel):
    """How Plimsoll decides."""

    budget: Annotated[Budget, Field(description="How much the placements may cost.")] = Budget()
    algorithm: Annotated[
        Literal["Adaptive", "Greedy", "Exact"],
        Field(
            description="How placements are searched. Adaptive, the default, improves several starts and bounds how "
            "much could still be saved. Greedy adds the cheapest useful replica at a time: often dearer, and quicker "
            "for fleets of a few LLMDeployments only. Exact proves the optimum where that takes less than "
            "timeLimitMilliseconds: for fleets of a few LLMDeployments, too."
        ),
    ] = "Adaptive"
    time_limit_milliseconds: Annotated[
        Integer,
        Field(
            ge=100,
            le=60_000,
            description="Milliseconds after which a search is stopped; the best answer so far is used and the policy's "
            "conditions say so. A guard: Adaptive normally ends by itself, long before. Greedy cannot be stopped while "
            "it makes its first plan, which takes seconds from some dozens of LLMDeployments on. Default 20000.",
        ),
    ] = 20_000
    headroom: Annotated[Headroom, Field(description="How much more than needed is planned for.")] = Headroom()
    demand: Annotated[Demand, Field(description="Which demand is planned for.")] = Demand()
    availability: Annotated[Availability, Field(description="What may fail without traffic being lost.")] = (
        Availability()
    )
    planning: Annotated[Planning, Field(description="When plans are made.")] = Planning()
    rebalance: Annotated[Rebalance, Field(description="When a cheaper placement is worth a move.")] = Rebalance()
    storage: Annotated[Storage, Field(description="What it costs to keep model weights where they run.")] = Storage()
    approval: Annotated[
        Literal["Automatic", "Manual", "Recommend"],
        Field(
            description="Automatic applies plans. Manual applies those that start, stop or replace pods only after a "
            "person has approved their PlacementPlan; until then the plan that was in force stays. Recommend makes and "
            "reports plans and changes nothing. Default Automatic."
        ),
    ] = "Automatic"
    routing: Annotated[RoutingPropagation, Field(description="How fast routers follow.")] = RoutingPropagation()
    tenants: Annotated[
        tuple[Tenant, ...],
        Field(max_length=64, description="What groups of namespaces may have at most. Default: no limits."),
        ListMap("name"),
    ] = ()
    security: Annotated[
        Security, Field(description="What people who write LLMDeployments may do with the pods. Default: little.")
    ] = Security()
    default_slo: Annotated[
        DefaultSLO,
        Field(alias="defaultSLO", description="Latency targets of traffic classes that refer to no InferenceSLO."),
    ] = DefaultSLO()


class PlacementPolicyStatus(Status):
    """What was decided last."""

    last_plan_ref: Annotated[PlanReference | None, Field(description="The latest PlacementPlan.")] = None
    last_plan_time: Annotated[Time | None, Field(description="When the latest plan was made.")] = None
    next_planning_time: Annotated[
        Time | None, Field(description="When the next plan is made unless something changes.")
    ] = None
    cost_per_hour: Annotated[Money | None, Field(description="Cost of all placements per hour.")] = None
    message: Annotated[Text | None, Field(description="Why the latest planning changed something, or nothing.")] = None


class PlacementPolicy(Resource):
    """How Plimsoll decides for the whole cluster. There is one, named default; without it the defaults are in force."""

    names = ResourceNames(
        plural="placementpolicies",
        short_name="ppol",
        scope="Cluster",
        columns=(
            PrinterColumn("Algorithm", ".spec.algorithm", description="How placements are searched."),
            PrinterColumn("Approval", ".spec.approval", description="Whether plans are applied."),
            PrinterColumn("Budget/h", ".spec.budget.perHour", description="Cost per hour at most."),
            PrinterColumn("Cost/h", ".status.costPerHour", description="Cost of all placements per hour."),
            PrinterColumn("Last plan", ".status.lastPlanTime", "date", "Time since the latest plan."),
            READY,
            REASON,
            AGE,
        ),
    )
    rules = (
        Rule(
            cel=f"self.metadata.name == '{POLICY_NAME}'",
            message=f"metadata.name must be {POLICY_NAME}: there is one policy for the whole cluster",
            holds=lambda policy: policy.name == POLICY_NAME,
            field="metadata.name",
        ),
    )

    kind: Literal["PlacementPolicy"] = "PlacementPolicy"
    spec: PlacementPolicySpec = PlacementPolicySpec()
    status: PlacementPolicyStatus = PlacementPolicyStatus()

    @classmethod
    def implied(cls) -> Self:
        """The policy that is in force when there is none."""
        return cls(metadata=Metadata(name=POLICY_NAME))
