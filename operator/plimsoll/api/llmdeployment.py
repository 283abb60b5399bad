"""LLMDeployment: which models serve which traffic. The resource that users write."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, Strict

from plimsoll.api.arguments import ExtraArgument
from plimsoll.api.common import (
    AGE,
    READY,
    APIModel,
    Boolean,
    Count,
    DNSLabel,
    DNSSubdomain,
    ImageName,
    Integer,
    LocalReference,
    ModelName,
    PlanReference,
    PrinterColumn,
    Resource,
    ResourceNames,
    SecretKeyReference,
    ShortText,
    Status,
    StatusModel,
    Time,
    is_dns_1035_label,
)
from plimsoll.api.modelprofile import PrecisionName
from plimsoll.api.pods import Environment, PodTemplate
from plimsoll.api.rules import ListMap, ListSet, Rule
from plimsoll.api.units import BurnRate, Burstiness, Factor, Money, Ratio

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


class TokenLengths(APIModel):
    """How long requests and answers are, in tokens."""

    input: Annotated[Integer, Field(ge=1, le=10_000_000, description="Mean length of the prompt in tokens.")]
    output: Annotated[Integer, Field(ge=1, le=10_000_000, description="Mean length of the answer in tokens.")]
    input_p95: Annotated[
        Integer | None,
        Field(ge=1, le=10_000_000, description="95th percentile of the prompt's length. When absent, twice the mean."),
    ] = None
    output_p95: Annotated[
        Integer | None,
        Field(ge=1, le=10_000_000, description="95th percentile of the answer's length. When absent, twice the mean."),
    ] = None


class TrafficArrivals(APIModel):
    """How requests follow one another."""

    burstiness: Annotated[
        Burstiness,
        Field(
            description="Coefficient of variation of the times between requests: standard deviation by mean. "
            'Default "1": requests come at random (Poisson). Above 1 they come in bursts, and a replica gets fewer.'
        ),
    ] = Decimal(1)


class TaskError(APIModel):
    """How often a candidate model gets this kind of request wrong."""

    model: Annotated[ModelName, Field(description="Name of a candidate model of this LLMDeployment.")]
    value: Annotated[
        Ratio,
        Field(description='Share of wrong answers at full precision, measured by you, such as "0.07".'),
    ]


class HeaderMatch(APIModel):
    """An HTTP header that a request carries."""

    name: Annotated[
        str,
        Strict(),
        Field(
            min_length=1,
            max_length=64,
            pattern=r"^[A-Za-z0-9!#$%&'*+.^_|~-]+$",
            description="Name of the header; upper and lower case are the same.",
            json_schema_extra={"accepted": "the name of an HTTP header such as x-traffic-class"},
        ),
    ]
    value: Annotated[
        str, Strict(), Field(min_length=1, max_length=256, description="Value that the header has exactly.")
    ]


class TrafficMatch(APIModel):
    """Which requests belong to the class."""

    headers: Annotated[
        tuple[HeaderMatch, ...],
        Field(min_length=1, max_length=8, description="Headers that a request carries. All must match."),
        ListMap("name"),
    ]


class TrafficClass(APIModel):
    """A kind of request with its own rate, token lengths and objective."""

    name: Annotated[
        DNSLabel,
        Field(description="Name of the class. Clients can select it as model `<deployment>/<class>`."),
    ]
    slo_ref: Annotated[
        LocalReference | None,
        Field(description="InferenceSLO in the same namespace. When absent, the defaultSLO of the PlacementPolicy."),
    ] = None
    requests_per_minute: Annotated[
        Integer,
        Field(
            ge=0,
            le=100_000_000,
            description="Expected rate. Used until a rate is measured (spec.demand.source of the PlacementPolicy), and "
            "as the floor when metrics are missing.",
        ),
    ]
    tokens: Annotated[TokenLengths, Field(description="How long requests and answers are, in tokens.")]
    arrivals: Annotated[
        TrafficArrivals | None,
        Field(description="How requests follow one another. When absent, at random."),
    ] = None
    task_error: Annotated[
        tuple[TaskError, ...],
        Field(
            max_length=8,
            description="Task error of the candidate models for this class. Needed where the SLO has maxTaskError; "
            "a model without a value is then not considered.",
        ),
        ListMap("model"),
    ] = ()
    match: Annotated[
        TrafficMatch | None,
        Field(
            description="Which requests belong to the class. Exactly one class has none: all other requests are its."
        ),
    ] = None


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


class EngineImages(APIModel):
    """Container images of the engine, by GPU vendor."""

    nvidia: Annotated[
        ImageName | None, Field(description="Image for NVIDIA GPUs. When absent, the one this release pins.")
    ] = None
    amd: Annotated[
        ImageName | None,
        Field(
            description="Image for AMD GPUs. When absent, the one this release pins, if any; "
            "else such pools are left out."
        ),
    ] = None


class PersistentVolumeClaim(APIModel):
    """A claim in the same namespace."""

    claim_name: Annotated[DNSSubdomain, Field(description="Name of the PersistentVolumeClaim, in the same namespace.")]


class EmptyDir(APIModel):
    """A volume that lives as long as the pod."""

    size_limit: Annotated[
        str | None,
        Strict(),
        Field(
            max_length=16,
            pattern=r"^[1-9][0-9]{0,6}(\.[0-9]{1,3})?(Mi|Gi|Ti|M|G|T)$",
            description="Largest size as a quantity, such as 200Gi. When absent, what the node has.",
            json_schema_extra={"accepted": "a quantity of storage such as 200Gi"},
        ),
    ] = None


class HostPath(APIModel):
    """A folder of the node."""

    path: Annotated[
        str,
        Strict(),
        Field(
            min_length=2,
            max_length=255,
            pattern=r"^(/[A-Za-z0-9_][A-Za-z0-9._-]*)+$",
            description="Absolute path of a folder that every node of the pools has and that user 2000 may write.",
            json_schema_extra={"accepted": "an absolute path such as /var/lib/models, without hidden folders"},
        ),
    ]


class ModelCache(APIModel):
    """Where weights are kept."""

    rules = (
        Rule(
            cel="[has(self.persistentVolumeClaim), has(self.emptyDir), has(self.hostPath)].filter(x, x).size() == 1",
            message="modelCache must hold exactly one of persistentVolumeClaim, emptyDir and hostPath",
            holds=lambda c: [c.persistent_volume_claim, c.empty_dir, c.host_path].count(None) == 2,
        ),
    )

    persistent_volume_claim: Annotated[
        PersistentVolumeClaim | None,
        Field(description="A claim that all pods mount. With several nodes it must allow ReadWriteMany."),
    ] = None
    empty_dir: Annotated[
        EmptyDir | None, Field(description="A volume of each pod: every start downloads the weights anew.")
    ] = None
    host_path: Annotated[
        HostPath | None,
        Field(
            description="A folder of the node, shared by all pods there. Needs spec.security.allowHostPath of the "
            "PlacementPolicy, and a namespace without the restricted or baseline Pod Security Standard."
        ),
    ] = None


class Engine(APIModel):
    """How the inference engine is run."""

    type: Annotated[Literal["vllm"], Field(description="The inference engine. Default vllm.")] = "vllm"
    images: Annotated[
        EngineImages, Field(description="Container images by GPU vendor. When absent, those this release pins.")
    ] = EngineImages()
    max_model_length: Annotated[
        Integer | None,
        Field(
            ge=16,
            le=10_000_000,
            description="Longest sequence (prompt and answer) in tokens that a replica accepts; memory is kept for it. "
            "When absent, the model's context length, 32768 at most.",
        ),
    ] = None
    extra_args: Annotated[
        tuple[ExtraArgument, ...],
        Field(
            max_length=64,
            description="Further command-line arguments of the engine, such as --enable-prefix-caching. "
            "Flags that Plimsoll sets or that load code by name are refused; --trust-remote-code needs "
            "spec.security.allowTrustRemoteCode of the PlacementPolicy.",
        ),
    ] = ()
    env: Annotated[Environment, Field(description="Further environment variables of the engine's container.")] = ()
    hugging_face_token_secret_ref: Annotated[
        SecretKeyReference | None,
        Field(
            description="Key of a Secret with a Hugging Face token, for gated models. When absent, no token is used."
        ),
    ] = None
    model_cache: Annotated[
        ModelCache, Field(description="Where weights are kept: a claim or a volume of each pod. Default: emptyDir.")
    ] = ModelCache(empty_dir=EmptyDir())
    pod_template: Annotated[
        PodTemplate, Field(description="What is added to the pods. Only what is listed here may be set.")
    ] = PodTemplate()


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


class PlacementStatus(StatusModel):
    """A placement: replicas of one model at one precision on one pool with one parallelism."""

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
