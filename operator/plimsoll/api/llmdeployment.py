"""LLMDeployment: which models serve which traffic. The resource that users write."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from plimsoll.api.common import (
    AGE,
    READY,
    APIModel,
    Boolean,
    DNSLabel,
    DNSSubdomain,
    Integer,
    ModelName,
    PrinterColumn,
    Resource,
    ResourceNames,
    is_dns_1035_label,
)
from plimsoll.api.engine import Engine
from plimsoll.api.llmdeployment_status import LLMDeploymentStatus
from plimsoll.api.modelprofile import PrecisionName
from plimsoll.api.rules import ListMap, ListSet, Rule
from plimsoll.api.traffic import TrafficClass
from plimsoll.api.units import Factor

TensorDegree = Literal[1, 2, 4, 8, 16]
PipelineDegree = Literal[1, 2, 3, 4, 5, 6, 7, 8]


class Precision(APIModel):
    """A numeric precision in which a candidate model may be served."""

    name: Annotated[PrecisionName, Field(description="bf16, fp8, int8 or int4.")]
    checkpoint: Annotated[
        ModelName | None,
        Field(
            description="Hugging Face name of the quantised checkpoint. When absent, the catalog's; "
            "without either, int8 and int4 are not considered, and a condition says so."
        ),
    ] = None
    task_error_factor: Annotated[
        Factor,
        Field(description='By how much this precision multiplies the task error, such as "1.15". Default "1".'),
    ] = Decimal(1)


class CandidateModel(APIModel):
    """A model that may serve the traffic."""

    name: Annotated[
        ModelName,
        Field(
            description="Hugging Face name, such as meta-llama/Llama-3.1-8B-Instruct. Its figures come from Plimsoll's "
            "catalog or a ModelProfile."
        ),
    ]
    precisions: Annotated[
        tuple[Precision, ...],
        Field(
            min_length=1,
            max_length=4,
            description="Precisions to choose from. Default: bf16 only.",
        ),
        ListMap("name"),
    ] = (Precision(name="bf16"),)


class ReplicaLimits(APIModel):
    """How many replicas there may be, over all placements of the deployment."""

    rules = (
        Rule(
            cel="!has(self.max) || self.min <= self.max",
            message="min must not exceed max",
            holds=lambda r: r.max is None or r.min <= r.max,
            field="min",
        ),
    )

    min: Annotated[
        Integer, Field(ge=0, le=10_000, description="Replicas at least, over all placements. Default 1.")
    ] = 1
    max: Annotated[
        Integer | None,
        Field(ge=1, le=10_000, description="Replicas at most, over all placements. When absent, no limit."),
    ] = None


class ParallelismChoice(APIModel):
    """Which degrees of parallelism Plimsoll may choose."""

    tensor: Annotated[
        tuple[TensorDegree, ...],
        Field(
            min_length=1,
            max_length=5,
            description="Tensor-parallel degrees to choose from: 1, 2, 4, 8, 16. It never spans nodes. "
            "Default 1, 2, 4, 8.",
        ),
        ListSet(),
    ] = (1, 2, 4, 8)
    pipeline: Annotated[
        tuple[PipelineDegree, ...],
        Field(
            min_length=1,
            max_length=8,
            description="Pipeline-parallel degrees to choose from: 1 to 8. The stages may be on several nodes of a "
            "pool, where LeaderWorkerSet is installed. Default 1, 2, 4.",
        ),
        ListSet(),
    ] = (1, 2, 4)


class PlacementLimits(APIModel):
    """What the placement may look like."""

    mode: Annotated[
        Literal["Replicated", "Chained"] | None,
        Field(
            description="Replicated: each replica holds a whole model. Chained: nodes hold parts of the model's layers "
            "and serve requests in chains; of the limits here, pools and parallelism.tensor count. "
            "When absent, Replicated."
        ),
    ] = None
    pools: Annotated[
        Annotated[tuple[DNSLabel, ...], Field(min_length=1, max_length=64), ListSet()] | None,
        Field(description="GPUNodePools that may be used. When absent, all."),
    ] = None
    parallelism: Annotated[ParallelismChoice, Field(description="Which degrees of parallelism may be chosen.")] = (
        ParallelismChoice()
    )
    replicas: Annotated[ReplicaLimits, Field(description="How many replicas there may be, over all placements.")] = (
        ReplicaLimits()
    )


class ParentReference(APIModel):
    """The Gateway (or listener) that a route attaches to."""

    name: Annotated[DNSSubdomain, Field(description="Name of the Gateway.")]
    namespace: Annotated[
        DNSLabel | None, Field(description="Namespace of the Gateway. When absent, that of the LLMDeployment.")
    ] = None
    section_name: Annotated[
        DNSSubdomain | None, Field(description="Listener of the Gateway. When absent, all that admit the route.")
    ] = None


class HTTPRouteOutput(APIModel):
    """The HTTPRoute to write."""

    parent_refs: Annotated[
        tuple[ParentReference, ...],
        Field(min_length=1, max_length=8, description="Gateways that the route attaches to."),
    ]
    hostnames: Annotated[
        tuple[DNSSubdomain, ...],
        Field(max_length=16, description="Host names that the route serves. When absent, those of the listener."),
        ListSet(),
    ] = ()


class Routing(APIModel):
    """In which forms the traffic shares are published, besides the ConfigMap `<name>-routing`."""

    vllm_router: Annotated[
        Boolean, Field(description="Whether to write the configuration file of the vLLM router too. Default false.")
    ] = False
    http_route: Annotated[
        HTTPRouteOutput | None,
        Field(
            description="Write an HTTPRoute of the Gateway API with weighted backends. When absent, none is written."
        ),
    ] = None


def _model_is_known(spec: "LLMDeploymentSpec") -> bool:
    names = {model.name for model in spec.models}
    return all(error.model in names for traffic in spec.traffic for error in traffic.task_error)


def _tokens_fit(spec: "LLMDeploymentSpec") -> bool:
    longest = spec.engine.max_model_length
    return longest is None or all(t.tokens.input + t.tokens.output <= longest for t in spec.traffic)


def _petals_runs_precisions(spec: "LLMDeploymentSpec") -> bool:
    declared = [one for model in spec.models for one in model.precisions]
    return spec.engine.type != "petals" or all(
        one.name == "bf16" or (one.name in ("int8", "int4") and one.checkpoint is None) for one in declared
    )


class LLMDeploymentSpec(APIModel):
    """Which models may serve, what traffic is expected, and within which limits Plimsoll decides."""

    rules = (
        Rule(
            cel="self.traffic.filter(t, !has(t.match)).size() == 1",
            message="exactly one traffic class must have no match: it takes all requests that no other class matches",
            holds=lambda s: sum(t.match is None for t in s.traffic) == 1,
            field="traffic",
        ),
        Rule(
            cel="self.traffic.all(t, !has(t.taskError) || "
            "t.taskError.all(e, self.models.exists(m, m.name == e.model)))",
            message="taskError names a model that is not among spec.models",
            holds=_model_is_known,
            field="traffic",
        ),
        Rule(
            cel="!has(self.engine.maxModelLength) || "
            "self.traffic.all(t, t.tokens.input + t.tokens.output <= self.engine.maxModelLength)",
            message="maxModelLength is below the mean input and output of a traffic class",
            holds=_tokens_fit,
            field="engine.maxModelLength",
        ),
        Rule(
            cel="has(self.placement.mode) && self.placement.mode == 'Chained' || "
            "!self.traffic.exists(t, has(t.origins) && t.origins.size() > 0)",
            message="origins count with placement.mode Chained only",
            holds=lambda s: s.placement.mode == "Chained" or not any(t.origins for t in s.traffic),
            field="traffic",
        ),
        Rule(
            cel="!has(self.engine.type) || self.engine.type != 'petals' || "
            "has(self.placement.mode) && self.placement.mode == 'Chained'",
            message="engine.type petals needs placement.mode Chained; otherwise vllm is accepted",
            holds=lambda s: s.engine.type != "petals" or s.placement.mode == "Chained",
            field="engine.type",
        ),
        Rule(
            cel="!has(self.engine.type) || self.engine.type != 'petals' || "
            "self.models.all(m, m.precisions.all(p, p.name == 'bf16' || "
            "p.name in ['int8', 'int4'] && !has(p.checkpoint)))",
            message="engine.type petals quantises the model's own weights: it takes bf16, and int8 and int4 without "
            "checkpoint",
            holds=_petals_runs_precisions,
            field="models",
        ),
    )

    models: Annotated[
        tuple[CandidateModel, ...],
        Field(min_length=1, max_length=8, description="Candidate models. Plimsoll picks one or several."),
        ListMap("name"),
    ]
    traffic: Annotated[
        tuple[TrafficClass, ...],
        Field(
            min_length=1,
            max_length=15,
            description="Traffic classes: kinds of requests with their own rate, token lengths and objective.",
        ),
        ListMap("name"),
    ]
    placement: Annotated[
        PlacementLimits, Field(description="Limits for the placement: pools, parallelism, replicas. Default: none.")
    ] = PlacementLimits()
    engine: Annotated[Engine, Field(description="How the inference engine is run.")] = Engine()
    routing: Annotated[Routing, Field(description="In which forms the traffic shares are published.")] = Routing()


class LLMDeployment(Resource):
    """Large language models that serve the traffic of one application.

    The spec says what must be served; Plimsoll decides how: model, precision, GPUs, parallelism, replicas and shares.
    """

    names = ResourceNames(
        plural="llmdeployments",
        short_name="llmdep",
        scope="Namespaced",
        columns=(
            PrinterColumn("Models in use", ".status.modelsInUse", description="Models in use with their precisions."),
            PrinterColumn("GPUs", ".status.gpus", "integer", "GPUs that the placements use."),
            PrinterColumn("Replicas", ".status.replicas", description="Replicas ready and wanted."),
            PrinterColumn("Cost/h", ".status.costPerHour", description="Cost per hour."),
            PrinterColumn("SLO", ".status.slo", description="Whether the objectives are met."),
            READY,
            PrinterColumn("Plan age", ".status.planTime", "date", "Time since the plan was made."),
            PrinterColumn(
                "Reason",
                '.status.conditions[?(@.type=="Ready")].message',
                description="Why it is ready or not.",
                wide=True,
            ),
            PrinterColumn("Plan", ".status.planRef.name", description="PlacementPlan in force.", wide=True),
            PrinterColumn(AGE.name, AGE.json_path, "date", AGE.description, wide=True),
        ),
    )
    rules = (
        Rule(
            cel="self.metadata.name.size() <= 63 && self.metadata.name.matches(r'^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            message="metadata.name must begin with a letter and be at most 63 lower-case letters, digits and hyphens: "
            "Services are named after it",
            holds=lambda deployment: is_dns_1035_label(deployment.name),
            field="metadata.name",
        ),
    )

    kind: Literal["LLMDeployment"] = "LLMDeployment"
    spec: LLMDeploymentSpec
    status: LLMDeploymentStatus = LLMDeploymentStatus()
