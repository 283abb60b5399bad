"""What the status of an LLMDeployment tells."""

from typing import Annotated, Literal

from pydantic import Field

from plimsoll.api.common import (
    Count,
    DNSLabel,
    DNSSubdomain,
    ImageName,
    Integer,
    ModelName,
    PlanReference,
    ShortText,
    Status,
    StatusModel,
    Time,
)
from plimsoll.api.modelprofile import PrecisionName
from plimsoll.api.rules import ListMap
from plimsoll.api.traffic import TokenLengths
from plimsoll.api.units import BurnRate, Factor, Money, Ratio


class Parallelism(StatusModel):
    """Degrees of parallelism of a replica; it uses tensor times pipeline GPUs."""

    tensor: Annotated[Integer, Field(ge=1, le=16, description="Tensor-parallel degree.")] = 1
    pipeline: Annotated[Integer, Field(ge=1, le=8, description="Pipeline-parallel degree.")] = 1

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tensor * self.pipeline


class ReplicaCounts(StatusModel):
    """Replicas of a placement."""

    desired: Annotated[Count, Field(description="Replicas that the plan asks for.")] = 0
    ready: Annotated[Count, Field(description="Replicas whose pods are ready.")] = 0


class TrafficShare(StatusModel):
    """Which share of a traffic class a placement serves."""

    traffic: Annotated[DNSLabel, Field(description="Traffic class.")]
    value: Annotated[Ratio, Field(description="Share of the class's requests, from 0 to 1.")]


class SpeedFactors(StatusModel):
    """What step times are multiplied by, as observation has it."""

    prefill: Annotated[Factor, Field(description="Factor of the time that prompt tokens take.")]
    decode: Annotated[Factor, Field(description="Factor of the time that everything else in a step takes.")]


class ObservedLatency(StatusModel):
    """Means that the pods of a placement showed, rounded to two digits and renewed only when they move."""

    ttft_milliseconds: Annotated[
        Integer | None, Field(ge=0, le=86_400_000, description="Mean time to first token.")
    ] = None
    tpot_milliseconds: Annotated[
        Integer | None, Field(ge=0, le=86_400_000, description="Mean time per output token.")
    ] = None
    time: Annotated[Time | None, Field(description="When they were taken.")] = None


class ChainServer(StatusModel):
    """The part of a chain that a placement runs, in mode Chained."""

    name: Annotated[DNSLabel, Field(description="The chain: name of the placement that is its first server.")]
    server: Annotated[Count, Field(description="Place in the chain, from 0.")]
    servers: Annotated[Count, Field(description="Servers of the chain.")]
    node: Annotated[DNSSubdomain, Field(description="Node that it runs on.")]
    first_layer: Annotated[Count, Field(description="First layer of the model that it holds, from 0.")]
    layers: Annotated[Count, Field(description="Layers that it holds.")]


class PlacementStatus(StatusModel):
    """A placement: replicas of one model at one precision on one pool with one parallelism, or a server of a chain."""

    name: Annotated[DNSLabel, Field(description="Name of the placement and of its objects.")]
    model: Annotated[ModelName, Field(description="Model that it serves.")]
    precision: Annotated[PrecisionName, Field(description="Numeric precision.")]
    pool: Annotated[DNSLabel, Field(description="GPUNodePool that it runs on.")]
    parallelism: Annotated[Parallelism, Field(description="Degrees of parallelism of each replica.")] = Parallelism()
    pods_per_replica: Annotated[
        Integer | None,
        Field(ge=2, le=8, description="Pods of each replica, each on its node. Absent: one."),
    ] = None
    replicas: Annotated[ReplicaCounts, Field(description="Replicas that are wanted and ready.")] = ReplicaCounts()
    shares: Annotated[
        tuple[TrafficShare, ...],
        Field(max_length=15, description="Traffic that it serves, by class."),
        ListMap("traffic"),
    ] = ()
    chain: Annotated[
        ChainServer | None, Field(description="Its part in a chain. Absent: a replica holds the whole model.")
    ] = None
    image: Annotated[ImageName | None, Field(description="Container image that it runs.")] = None
    speed: Annotated[
        ShortText | None,
        Field(description="Where its predicted latencies come from: measured or published, and how corrected."),
    ] = None
    correction: Annotated[
        SpeedFactors | None, Field(description="Factors in force, by what Prometheus shows. Absent: none.")
    ] = None
    observed: Annotated[ObservedLatency | None, Field(description="Latencies that Prometheus shows.")] = None


class LatencyReport(StatusModel):
    """A latency against its target."""

    predicted_milliseconds: Annotated[
        Integer | None,
        Field(ge=0, le=86_400_000, description="What the plan expects, for the statistic of the target."),
    ] = None
    observed_milliseconds: Annotated[
        Integer | None,
        Field(ge=0, le=86_400_000, description="What was measured lately, rounded to two digits."),
    ] = None


class SLOWindow(StatusModel):
    """How a traffic class fared lately, rounded and renewed only when it moves."""

    window: Annotated[Literal["5m", "1h", "24h"], Field(description="How long: 5m, 1h or 24h.")]
    attainment: Annotated[
        Ratio,
        Field(description="Least share of requests within a target, over the targets that are percentiles."),
    ]
    burn_rate: Annotated[
        BurnRate,
        Field(
            description="Share of requests beyond a target by the share that its percentile allows, the highest over "
            "the targets. Above 1 the objective is missed."
        ),
    ]


class TrafficStatus(StatusModel):
    """How one traffic class fares."""

    name: Annotated[DNSLabel, Field(description="Traffic class.")]
    requests_per_minute: Annotated[
        Integer | None, Field(ge=0, le=100_000_000, description="Rate that the plan serves: measured or expected.")
    ] = None
    tokens: Annotated[
        TokenLengths | None,
        Field(description="Token lengths that the plan is for where they were measured. Absent: as declared."),
    ] = None
    ttft: Annotated[LatencyReport | None, Field(description="Time to first token.")] = None
    tpot: Annotated[LatencyReport | None, Field(description="Time per output token.")] = None
    end_to_end: Annotated[LatencyReport | None, Field(description="End-to-end latency.")] = None
    attainment: Annotated[
        Ratio | None, Field(description="Share of requests within their targets in the last hour; see windows.")
    ] = None
    windows: Annotated[
        tuple[SLOWindow, ...],
        Field(max_length=3, description="Attainment and burn rate as Prometheus shows them."),
        ListMap("window"),
    ] = ()
    unserved: Annotated[Ratio | None, Field(description="Share of the traffic that the plan leaves unserved.")] = None


class FailedStart(StatusModel):
    """A placement of which new replicas did not become Ready in their time."""

    placement: Annotated[DNSLabel, Field(description="Name of the placement.")]
    ready: Annotated[Count, Field(description="Replicas that were Ready all the same; it keeps as many.")] = 0
    attempts: Annotated[Count, Field(description="How often it was tried.")] = 1
    generation: Annotated[Count | None, Field(description="Of the LLMDeployment that it was tried for.")] = None
    time: Annotated[Time | None, Field(description="When it was given up.")] = None
    retry_time: Annotated[Time | None, Field(description="Until then it is not tried again.")] = None
    timeout_seconds: Annotated[
        Integer | None, Field(ge=1, le=1_000_000, description="Seconds that its replicas were waited for.")
    ] = None


class LLMDeploymentStatus(Status):
    """What was decided and how it fares."""

    models_in_use: Annotated[
        ShortText | None, Field(description="Models in use with their precisions, for people; details in placements.")
    ] = None
    gpus: Annotated[Count | None, Field(description="GPUs that the placements use.")] = None
    replicas: Annotated[ShortText | None, Field(description="Replicas that are ready and wanted, such as 5/6.")] = None
    cost_per_hour: Annotated[Money | None, Field(description="Cost of the placements per hour.")] = None
    slo: Annotated[
        ShortText | None,
        Field(description="Whether the objectives are met, for people: Met, Predicted, or what is not."),
    ] = None
    placements: Annotated[
        tuple[PlacementStatus, ...],
        Field(max_length=256, description="The placements that serve the traffic."),
        ListMap("name"),
    ] = ()
    traffic: Annotated[
        tuple[TrafficStatus, ...],
        Field(max_length=15, description="How the traffic classes fare."),
        ListMap("name"),
    ] = ()
    plan_ref: Annotated[PlanReference | None, Field(description="PlacementPlan that the placements follow.")] = None
    plan_time: Annotated[Time | None, Field(description="When that plan was made.")] = None
    failed_starts: Annotated[
        tuple[FailedStart, ...],
        Field(max_length=16, description="Placements that were rolled back, since they did not start in their time."),
        ListMap("placement"),
    ] = ()
