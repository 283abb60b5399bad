"""The decision of one planning round as frozen values: what runs where, who serves what traffic, why, what is wrong."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.performance import Correction, Parallelism
from plimsoll.performance.correction import UNCORRECTED
from plimsoll.planning.snapshot import ObjectRef


class Severity(StrEnum):
    """How much a finding matters: an error keeps the object from being planned, a warning does not."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Something that a person should know about one object; the same text in conditions, events and the CLI."""

    object: ObjectRef
    reason: str
    """CamelCase, for conditions and events, e.g. `UnknownModel`."""
    message: str
    """A sentence that names field, value and the nearest thing that would work."""
    severity: Severity = Severity.ERROR
    field: str = ""
    """Path of the field at fault, e.g. `spec.models[0].name`."""


@dataclass(frozen=True, slots=True)
class Share:
    """The part of a traffic class that a placement serves, 0..1 of the class's whole rate."""

    traffic: str
    value: float


@dataclass(frozen=True, slots=True)
class HostDemand:
    """What one pod of a replica asks of its node beside GPUs."""

    cpu_cores: float
    memory_bytes: int
    shared_memory_bytes: int
    """Size of /dev/shm, part of `memory_bytes`."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The part of a chain that one server runs. Layers count from 0."""

    chain: str
    """Name of the chain: of the placement that is its first server."""
    number: int
    """Place in the chain, from 0."""
    node: str
    region: str
    partition: tuple[int, ...]
    """Layers of all servers of the chain, in order."""

    @property
    def first_layer(self) -> int:
        return sum(self.partition[: self.number])

    @property
    def layers(self) -> int:
        return self.partition[self.number]


@dataclass(frozen=True, slots=True)
class Option:
    """One way to serve: model variant, pool, parallelism and operating point, with what an engine needs to start it."""

    model: str
    precision: str
    checkpoint: str
    """Repository that the engine loads; the model's own name unless the precision has another checkpoint."""
    pool: str
    parallelism: Parallelism
    max_num_seqs: int
    max_model_length: int
    pods_per_node: int = field(default=0, kw_only=True, repr=False)
    """Pods of the placement that one node may hold; 0 where as many as fit may. Names know it: see `identity.py`."""
    cache_tokens: int = field(default=0, kw_only=True, repr=False)
    """Of all sessions of a PETALS server together; 0 for engines that find it out. Names know it."""
    image: str
    """Container image of the engine for the pool's GPU vendor."""
    gpu_resource: str
    engine_args: tuple[str, ...]
    """Flags that the precision needs, from the catalog."""
    host: HostDemand
    load_seconds: float
    """Expected time until a new replica is ready; sizes the startup probe."""
    gated: bool
    """The model's licence gate needs a Hugging Face token."""
    nodes: int = field(default=1, repr=False)
    """Pods that one replica consists of, whole pipeline stages in each. Every pod takes a node; several may share one.

    Not in the representation: names are made of it, and those of replicas on one node stay as they were.
    """
    stage: Stage | None = field(default=None, repr=False)
    """For a server of a chain, which has the one replica; the parallelism is that of its own GPUs."""

    @property
    def gpus_per_pod(self) -> int:
        return self.parallelism.gpus // self.nodes


@dataclass(frozen=True, slots=True)
class ReplicaRate:
    """What one replica of a placement takes of one class alone, with the policy's headroom on latency."""

    traffic: str
    requests_per_minute: float


@dataclass(frozen=True, slots=True)
class Placement:
    """An option in use: replicas and traffic shares."""

    name: str
    """Name of its Kubernetes objects; equal names mean equal pod templates (planning/identity.py)."""
    option: Option
    replicas: int
    shares: tuple[Share, ...]
    price_per_hour: float
    """Rent of all replicas."""
    utilization: float
    """Used part of the replicas' time, 0..1, at the planned shares."""
    reason: str
    speed: str = ""
    """Where the predicted latencies come from: measured, published or pooled coefficients, and corrections."""
    correction: Correction = UNCORRECTED
    """By what is observed of such replicas."""
    asked: str = ""
    """What it is made for (`PlacementNames.asked`)."""
    made_by: str = ""
    """Release that made the running placement, which is kept as it is; empty where this release renders it."""
    rates: tuple[ReplicaRate, ...] = ()
    """Of the classes whose traffic may move to it without breaking an objective: what shares are split by between
    plans (planning/shares.py)."""
    leaving: bool = False
    """It runs and is given up: part of a stage of a transition, never of a plan."""


@dataclass(frozen=True, slots=True)
class PlannedChain:
    """Servers that hold a model together, and what they carry."""

    name: str
    """That of its first server."""
    servers: tuple[str, ...]
    """Names of their placements, in order."""
    places: int
    """Requests that run at once."""
    requests_per_minute: float
    """The most within the targets."""
    ttft_milliseconds: float
    """From the farthest region, without waiting."""
    tpot_milliseconds: float


@dataclass(frozen=True, slots=True)
class LatencyFigure:
    """Target and prediction of one latency metric; `percentile` is None for a mean; no target, no `target`."""

    metric: str
    """`ttft`, `tpot` or `endToEnd`."""
    percentile: int | None
    target_milliseconds: float | None
    predicted_milliseconds: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """An option that was not chosen, and why."""

    option: str
    reason: str


@dataclass(frozen=True, slots=True)
class ClassPlan:
    """What one traffic class gets."""

    name: str
    requests_per_minute: float
    unserved: float
    latency: tuple[LatencyFigure, ...]
    """Worst over the placements that serve the class."""
    rejected: tuple[Rejected, ...]
    headroom: float = 0.0
    """Extra traffic that is planned for, relative to `requests_per_minute`."""
    unserved_limit: float = 0.0
    """Part of the class that may stay unserved, 0..1, by its SLO."""

    @property
    def admitted_requests_per_minute(self) -> float:
        return self.requests_per_minute * (1.0 - self.unserved)


@dataclass(frozen=True, slots=True)
class ClassRate:
    """What one replica can take of a class alone, within its objectives."""

    traffic: str
    requests_per_minute: float


@dataclass(frozen=True, slots=True)
class RunningRates:
    """What a replica of a running placement can take."""

    placement: str
    rates: tuple[ClassRate, ...]


@dataclass(frozen=True, slots=True)
class Room:
    """How many further replicas of a placement fit beside all that runs now."""

    placement: str
    replicas: int


@dataclass(frozen=True, slots=True)
class InPlace:
    """A plan that fits only where running replicas of the same deployment go first."""

    max_disruption: float
    """Part of a class's planned traffic that may be without a replica at once; one replica always may."""
    room: tuple[Room, ...] = ()
    replicas_going: int = 0
    """Replicas that were asked to go and hold their GPUs still."""


class DeploymentState(StrEnum):
    """What the round decided for one LLMDeployment."""

    PLANNED = "Planned"
    SHORT = "Short"
    """Some demand stays unserved beyond its limit. Grown as far as possible; nothing that runs is taken away."""
    HELD = "Held"
    """Not planned; whatever runs is left exactly as it is."""


@dataclass(frozen=True, slots=True)
class DeploymentPlan:
    """The decision for one LLMDeployment."""

    resource: LLMDeployment
    state: DeploymentState
    placements: tuple[Placement, ...]
    classes: tuple[ClassPlan, ...]
    findings: tuple[Finding, ...]
    storage_cost_per_hour: float = 0.0
    """For the weights of its model variants in the pools that it uses."""
    in_place: InPlace | None = None
    """None where everything new fits beside everything that runs."""
    running_rates: tuple[RunningRates, ...] = ()
    """Of what runs now; only where the change goes in stages."""
    chains: tuple[PlannedChain, ...] = ()
    """In mode Chained: what its placements, a server each, make together."""
    broken: tuple[str, ...] = ()
    """Running chains that cannot serve: a server's node is gone or not ready."""
    given_up: tuple[str, ...] = ()
    """Those of them that never will again: a node is gone for good."""

    @property
    def ref(self) -> ObjectRef:
        return ObjectRef("LLMDeployment", self.resource.metadata.namespace or "default", self.resource.metadata.name)

    @property
    def cost_per_hour(self) -> float:
        """Rent and storage."""
        return sum(placement.price_per_hour for placement in self.placements) + self.storage_cost_per_hour

    @property
    def gpus(self) -> int:
        return sum(placement.replicas * placement.option.parallelism.gpus for placement in self.placements)


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """Stock and use of one pool under the plan."""

    name: str
    accelerator: str
    price_per_gpu_hour: Decimal
    node_selector: Mapping[str, str]
    tolerations: tuple[Mapping[str, str | int], ...]
    nodes: int
    product: str
    """Product label found on its nodes; empty without nodes."""
    gpus: int
    gpus_allocatable: int
    """On nodes that take new pods."""
    gpus_used_by_others: int
    gpus_planned: int
    gpus_running: int
    """Held by Plimsoll's pods now."""
    unlimited: bool
    findings: tuple[Finding, ...]


class LimitKind(StrEnum):
    """What can leave no room for more."""

    POOL = "Pool"
    BUDGET = "Budget"
    STORAGE = "Storage"
    TENANT = "Tenant"
    QUOTA = "Quota"


@dataclass(frozen=True, slots=True, order=True)
class BindingLimit:
    """A limit that leaves no room for more: no further replica of any option fits the pool or can be paid, no further
    model's weights can be stored."""

    kind: LimitKind
    name: str
    """Of the GPUNodePool, the PlacementPolicy, the tenant, or the ResourceQuota or LimitRange."""


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """The placement plan of the whole fleet."""

    digest: str
    """SHA-256 of the inputs, hexadecimal."""
    deployments: tuple[DeploymentPlan, ...]
    pools: tuple[PoolPlan, ...]
    findings: tuple[Finding, ...]
    """About objects that are neither a deployment nor a known pool: SLOs, the policy, objects that do not parse."""
    cost_per_hour: float
    """Rent and storage of all placements, those of held deployments included."""
    objective_per_hour: float = 0.0
    """What the search minimises: the cost of what is decided about, penalties, and the cost of changes."""
    lower_bound_per_hour: float | None = None
    """No plan that serves as much has a smaller objective; None where nothing is proven."""
    interrupted: bool = False
    """The policy's time limit stopped the search."""
    limits: tuple[BindingLimit, ...] = ()

    @property
    def gap(self) -> float | None:
        """Part of the objective that a better plan could save at most, 0..1; None where nothing is proven."""
        if self.lower_bound_per_hour is None:
            return None
        saved = self.objective_per_hour - self.lower_bound_per_hour
        return max(0.0, saved / self.objective_per_hour) if self.objective_per_hour > 0 else 0.0

    def all_findings(self) -> tuple[Finding, ...]:
        """Every finding of the round, sorted by object."""
        collected = list(self.findings)
        collected.extend(finding for plan in self.deployments for finding in plan.findings)
        collected.extend(finding for pool in self.pools for finding in pool.findings)
        return tuple(sorted(collected))
