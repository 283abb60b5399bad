"""The facts that a planning round starts from, as one frozen value.

Built from the API server by the controller and from files by the CLI; everything after it is a pure function of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from plimsoll.api.gpunodepool import GPUNodePool
from plimsoll.api.inferenceslo import InferenceSLO
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.modelprofile import ModelProfile
from plimsoll.api.parse import Problem
from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.performance import TokenLengths
from plimsoll.planning.namespaces import LimitRangeFacts, NamespaceFacts, QuotaFacts


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """Names one object; `namespace` is empty for cluster-scoped kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class InvalidObject:
    """A resource that does not parse: reported, and whatever it runs is left alone."""

    ref: ObjectRef
    uid: str
    generation: int
    problems: tuple[Problem, ...]
    source: str = ""
    """File that it was read from; empty when it came from the API server."""


@dataclass(frozen=True, slots=True)
class Taint:
    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What placement needs to know of a node. Kept small: every change of it dirties the store."""

    name: str
    labels: Mapping[str, str]
    allocatable: Mapping[str, float]
    """Extended resources by name, plus `cpu` in cores and `memory` in bytes."""
    taints: tuple[Taint, ...] = ()
    unschedulable_reason: str = ""
    """Why nothing new goes there: `cordoned`, `not ready`, `deleting`; empty when it is schedulable."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What placement needs to know of a pod that holds or asks for resources (finished pods are left out)."""

    uid: str
    namespace: str
    name: str
    node: str
    """Empty while it is not bound."""
    requests: Mapping[str, float]
    placement: str = ""
    """Value of the placement label on Plimsoll's own pods; empty for everybody else's."""
    ready: bool = False
    deleting: bool = False
    unschedulable: bool = False
    """The scheduler has looked for a node and found none."""
    deployment: str = ""
    """Name of the LLMDeployment that one of Plimsoll's own pods belongs to, in the same namespace."""
    starting_since: float = 0.0
    """When it got its node, in seconds since 1970, as long as it was never Ready since; 0 for all other pods."""


@dataclass(frozen=True, slots=True)
class Made:
    """How a running placement was rendered, by whichever release."""

    release: str
    """Of Plimsoll."""
    asked: str
    """What it was made for (`PlacementNames.asked`)."""
    image: str
    checkpoint: str
    cpu_cores: float
    """That a pod requests."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Workload:
    """One of Plimsoll's own running placements: a Deployment or a LeaderWorkerSet, as the cluster has it."""

    namespace: str
    name: str
    uid: str
    deployment: str
    """Name of the LLMDeployment that it belongs to, in the same namespace."""
    replicas: int
    ready_replicas: int
    option: Mapping[str, str] = field(default_factory=dict)
    """Its annotations that say what it runs: model, precision, pool, tensor, pipeline (rendering/labels.py).

    `nodes` only where a replica takes several.
    """
    made: Made | None = None
    """None where it does not say."""


@dataclass(frozen=True, slots=True)
class StartFailure:
    """A placement of which new replicas did not become Ready in their time, and which is not to be tried for now."""

    namespace: str
    deployment: str
    placement: str
    ready: int
    """Replicas that were Ready all the same; it may have as many."""
    text: str = ""
    """What happened, and when it is tried again."""
    counts: bool = True
    """It was made for the LLMDeployment as it is written now."""


@dataclass(frozen=True, slots=True)
class SpeedCorrection:
    """By how much replicas of one kind were observed to be slower than predicted: factors of step times."""

    model: str
    precision: str
    accelerator: str
    """As the catalog names it."""
    tensor: int
    pipeline: int
    prefill: float
    decode: float
    basis: str = ""
    """Fingerprint of the coefficients that were predicted with; for others it does not count. Empty: for all."""


@dataclass(frozen=True, slots=True, order=True)
class TrafficDemand:
    """What a traffic class is planned for in place of what is declared. Rates in requests per minute."""

    namespace: str
    deployment: str
    traffic: str
    requests_per_minute: float
    """Until a new replica can serve, held against noise (planning/following.py): what placements are for."""
    current_per_minute: float
    """What arrives now, held against noise: what shares may be split for."""
    fresh: bool = True
    """False: the metrics are stale or implausible. Growth only; shares stay."""
    lengths: TokenLengths | None = None
    """As observed; None: as declared."""


@dataclass(frozen=True, slots=True, order=True)
class MeasuredTrip:
    """A round trip between two regions that is in force in place of the policy's."""

    region: str
    peer: str
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that a plan depends on. Tuples are sorted by name, so equal facts give equal snapshots."""

    deployments: tuple[LLMDeployment, ...] = ()
    pools: tuple[GPUNodePool, ...] = ()
    slos: tuple[InferenceSLO, ...] = ()
    profiles: tuple[ModelProfile, ...] = ()
    policy: PlacementPolicy | None = None
    nodes: tuple[NodeFacts, ...] | None = ()
    """None when the stock is not known (the CLI without nodes)."""
    pods: tuple[PodFacts, ...] = ()
    workloads: tuple[Workload, ...] = ()
    invalid: tuple[InvalidObject, ...] = ()
    corrections: tuple[SpeedCorrection, ...] = ()
    """The factors in force (performance/correction.py); what is absent is not corrected."""
    gateway_api: bool = False
    """The cluster has HTTPRoute."""
    namespaces: tuple[NamespaceFacts, ...] = ()
    """Those that have LLMDeployments; of one that is missing only the name is known."""
    quotas: tuple[QuotaFacts, ...] = ()
    limit_ranges: tuple[LimitRangeFacts, ...] = ()
    """Both of namespaces that have LLMDeployments."""
    several_nodes: bool = False
    """The cluster has LeaderWorkerSet, so a replica may take several nodes."""
    resting: tuple[ObjectRef, ...] = ()
    """LLMDeployments whose placement grows where it must and gives nothing up: it moved just now (planning/pace.py)."""
    demand: tuple[TrafficDemand, ...] = ()
    """By what is observed; a class that is absent is planned for as declared."""
    failures: tuple[StartFailure, ...] = ()
    round_trips: tuple[MeasuredTrip, ...] = ()
    """Measured ones, for chains."""
