"""GPUNodePool: interchangeable nodes with one GPU product, and what they cost."""

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, Strict

from plimsoll.api.common import (
    AGE,
    READY,
    REASON,
    APIModel,
    Count,
    DNSLabel,
    Integer,
    LabelValue,
    PrinterColumn,
    QualifiedName,
    Resource,
    ResourceNames,
    Status,
    StatusModel,
    is_dns_label,
)
from plimsoll.api.modelprofile import PrecisionName
from plimsoll.api.pods import MatchLabels, Tolerations
from plimsoll.api.rules import ListMap, Rule
from plimsoll.api.units import Money, parse_quantity

Vendor = Literal["NVIDIA", "AMD"]
IntraNode = Literal["NVLink", "InfinityFabric", "PCIe"]
CapacityType = Literal["OnDemand", "Spot"]

AcceleratorName = Annotated[
    str,
    Strict(),
    Field(
        min_length=1,
        max_length=63,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$",
        json_schema_extra={"accepted": "a name of Plimsoll's catalog such as L40S or H100-SXM-80GB"},
    ),
]


class PeakPerformance(APIModel):
    """How fast a GPU multiplies matrices at one precision."""

    precision: Annotated[PrecisionName, Field(description="Numeric precision: bf16, fp8, int8 or int4.")]
    teraflops: Annotated[
        Integer,
        Field(
            ge=1,
            le=1_000_000,
            description="Dense peak in 10^12 operations per second, without sparsity, from the data sheet.",
        ),
    ]


class CustomAccelerator(APIModel):
    """Figures of a GPU that the catalog lacks, per GPU (or per MIG slice)."""

    vendor: Annotated[Vendor, Field(description="NVIDIA or AMD. Decides image and resource name.")]
    memory: Annotated[
        str,
        Strict(),
        Field(
            max_length=16,
            pattern=r"^[1-9][0-9]{0,6}(\.[0-9]{1,3})?(Mi|Gi|Ti|M|G|T)$",
            description="Memory of one GPU as a quantity, such as 80Gi.",
            json_schema_extra={"accepted": "a quantity of memory such as 80Gi"},
        ),
    ]
    memory_bandwidth_gigabytes_per_second: Annotated[
        Integer, Field(ge=1, le=1_000_000, description="Memory bandwidth of one GPU in 10^9 bytes per second.")
    ]
    peaks: Annotated[
        tuple[PeakPerformance, ...],
        Field(
            min_length=1,
            max_length=8,
            description="Peak per precision that the GPU computes in. An absent precision counts as not supported.",
        ),
        ListMap("precision"),
    ]
    intra_node_gigabytes_per_second: Annotated[
        Integer | None,
        Field(
            ge=1,
            le=100_000,
            description="Bandwidth between two GPUs of a node, one direction, in 10^9 bytes per second. "
            "When absent, a usual figure for interconnect.intraNode.",
        ),
    ] = None

    @property
    def memory_bytes(self) -> int:
        """Memory of one GPU in bytes."""
        return int(parse_quantity(self.memory))


class NodeSelector(APIModel):
    """Which nodes belong to the pool."""

    match_labels: MatchLabels = Field(default_factory=dict)


class NodeLimits(APIModel):
    """How many nodes may be used."""

    max: Annotated[
        Integer | None,
        Field(
            ge=0,
            le=100_000,
            description="Nodes that may be used at most. When absent, those present. "
            "Without a cluster, `plimsoll plan` takes it as the stock.",
        ),
    ] = None


class GPULimits(APIModel):
    """Which GPUs of the pool are left alone."""

    reserved: Annotated[Count, Field(description="GPUs of the pool that are left for others, in total. Default 0.")] = 0


class Price(APIModel):
    """What one GPU costs while it is in use."""

    per_hour: Annotated[
        Money, Field(description='Price per GPU and hour as a decimal string, such as "2.50", in any one currency.')
    ]
    spot_per_hour: Annotated[
        Money | None,
        Field(description="Price per GPU and hour of spot capacity. Needed when capacityType is Spot."),
    ] = None


class Location(APIModel):
    """Where the nodes stand."""

    region: Annotated[DNSLabel | None, Field(description="Region, such as us-east. When absent, unknown.")] = None
    zone: Annotated[DNSLabel | None, Field(description="Zone, such as us-east-1a. When absent, unknown.")] = None


class Interconnect(APIModel):
    """How GPUs and nodes are connected."""

    intra_node: Annotated[
        IntraNode | None,
        Field(description="Between the GPUs of a node: NVLink, InfinityFabric or PCIe. When absent, the catalog's."),
    ] = None
    inter_node_gigabits_per_second: Annotated[
        Integer | None,
        Field(
            ge=1,
            le=100_000,
            description="Network bandwidth of a node in 10^9 bits per second, for replicas over several nodes. "
            "When absent, 10 is reckoned with.",
        ),
    ] = None


class GPUNodePoolSpec(APIModel):
    """What the pool consists of and what it costs."""

    rules = (
        Rule(
            cel="has(self.accelerator) != has(self.custom)",
            message="exactly one of accelerator (a name of the catalog) and custom (own figures) must be given",
            holds=lambda s: (s.accelerator is None) != (s.custom is None),
        ),
        Rule(
            cel="!has(self.custom) || (has(self.nodeSelector) && has(self.nodeSelector.matchLabels) "
            "&& self.nodeSelector.matchLabels.size() > 0)",
            message="custom needs nodeSelector.matchLabels: no product label is known by which to find the nodes",
            holds=lambda s: s.custom is None or bool(s.node_selector and s.node_selector.match_labels),
        ),
        Rule(
            cel="self.capacityType != 'Spot' || has(self.price.spotPerHour)",
            message="capacityType Spot needs price.spotPerHour",
            holds=lambda s: s.capacity_type != "Spot" or s.price.spot_per_hour is not None,
            field="price",
        ),
    )

    accelerator: Annotated[
        AcceleratorName | None,
        Field(
            description="GPU product by its name in Plimsoll's catalog, such as L40S or H100-SXM-80GB. Memory, "
            "bandwidth, peaks and the node label come from there. Exactly one of accelerator and custom is given."
        ),
    ] = None
    custom: Annotated[
        CustomAccelerator | None,
        Field(description="Figures of a GPU that the catalog lacks. Needs nodeSelector."),
    ] = None
    resource_name: Annotated[
        QualifiedName | None,
        Field(
            description="Extended resource that pods request, such as nvidia.com/gpu or nvidia.com/mig-3g.40gb. "
            "When absent, the vendor's: nvidia.com/gpu or amd.com/gpu."
        ),
    ] = None
    node_selector: Annotated[
        NodeSelector | None,
        Field(
            description="Which nodes belong to the pool. When absent, all with the product label of the accelerator."
        ),
    ] = None
    tolerations: Annotated[
        Tolerations, Field(description="Taints of the nodes, which the pods placed here tolerate.")
    ] = ()
    gpus_per_node: Annotated[
        Integer | None,
        Field(
            ge=1,
            le=128,
            description="GPUs of each node. When absent, what the nodes report as allocatable. "
            "When given, nodes that report less are reported as drift.",
        ),
    ] = None
    nodes: Annotated[NodeLimits, Field(description="How many nodes may be used.")] = NodeLimits()
    gpus: Annotated[GPULimits, Field(description="Which GPUs are left for others.")] = GPULimits()
    price: Annotated[Price, Field(description="What one GPU costs while Plimsoll uses it.")]
    capacity_type: Annotated[
        CapacityType, Field(description="OnDemand, or Spot: charged at price.spotPerHour. Default OnDemand.")
    ] = "OnDemand"
    location: Annotated[Location | None, Field(description="Where the nodes stand. When absent, unknown.")] = None
    interconnect: Annotated[
        Interconnect | None, Field(description="How GPUs and nodes are connected. When absent, as the catalog says.")
    ] = None

    @property
    def price_per_gpu_hour(self) -> Decimal:
        """What is charged: the spot price for spot capacity, otherwise the on-demand price."""
        spot = self.price.spot_per_hour if self.capacity_type == "Spot" else None
        return self.price.per_hour if spot is None else spot


class GPUCounts(StatusModel):
    """GPUs of the pool by use."""

    total: Annotated[Count, Field(description="GPUs of all nodes found.")] = 0
    allocatable: Annotated[Count, Field(description="GPUs of the nodes that can be scheduled to.")] = 0
    used_by_plimsoll: Annotated[Count, Field(description="GPUs requested by pods of Plimsoll.")] = 0
    used_by_others: Annotated[Count, Field(description="GPUs requested by other pods.")] = 0
    free: Annotated[Count, Field(description="Allocatable GPUs that no pod requests.")] = 0


class GPUNodePoolStatus(Status):
    """What was found."""

    nodes: Annotated[Count | None, Field(description="Nodes found.")] = None
    gpus: Annotated[GPUCounts | None, Field(description="GPUs found, by use.")] = None
    product: Annotated[LabelValue | None, Field(description="GPU product that the nodes report in their labels.")] = (
        None
    )


class GPUNodePool(Resource):
    """A pool of interchangeable nodes with one GPU product.

    Only the accelerator and the price are needed; the nodes are found by the product label that the vendor's feature
    discovery sets.
    """

    names = ResourceNames(
        plural="gpunodepools",
        short_name="gnp",
        scope="Cluster",
        columns=(
            PrinterColumn("Accelerator", ".spec.accelerator", description="GPU product; empty for own figures."),
            PrinterColumn("Nodes", ".status.nodes", "integer", "Nodes found."),
            PrinterColumn("GPUs", ".status.gpus.total", "integer", "GPUs found."),
            PrinterColumn("Used", ".status.gpus.usedByPlimsoll", "integer", "GPUs used by Plimsoll."),
            PrinterColumn("Free", ".status.gpus.free", "integer", "GPUs that nobody uses."),
            PrinterColumn("Price", ".spec.price.perHour", description="Price per GPU and hour."),
            READY,
            PrinterColumn("Capacity", ".spec.capacityType", description="OnDemand or Spot.", wide=True),
            REASON,
            AGE,
        ),
    )
    rules = (
        Rule(
            cel="self.metadata.name.size() <= 63 && self.metadata.name.matches(r'^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
            message="metadata.name must be at most 63 lower-case letters, digits and hyphens: it becomes a label value",
            holds=lambda pool: is_dns_label(pool.name),
            field="metadata.name",
        ),
    )

    kind: Literal["GPUNodePool"] = "GPUNodePool"
    spec: GPUNodePoolSpec
    status: GPUNodePoolStatus = GPUNodePoolStatus()
