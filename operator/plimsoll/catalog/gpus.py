"""GPU products: what one GPU holds, moves and computes, and by which node labels it is recognised."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal


@dataclass(frozen=True, slots=True)
class Interconnect:
    """How the GPUs of one node talk to each other."""

    kind: str
    """NVLink, PCIe or InfinityFabric."""
    bytes_per_second: float
    """Per GPU, one direction: the peak of the link that collectives use."""
    max_tensor_parallel: int
    """Largest tensor-parallel degree that is sensible on this product."""


@dataclass(frozen=True, slots=True)
class GPU:
    """One GPU as Kubernetes counts it (each die of an MI250X is one)."""

    name: str
    """Name in the catalog, such as H100-SXM-80GB or L40S."""
    vendor: str
    """nvidia or amd."""
    architecture: str
    """volta, turing, ampere, ada, hopper, blackwell, cdna2, cdna3 or cdna4; `custom` for a user's own figures."""
    memory_bytes: int
    """Physical memory as the driver reports it: below the number in the product's name."""
    memory_bandwidth_bytes_per_second: float
    peak_flops_per_second: Mapping[str, float]
    """Dense peak (without sparsity) by compute precision: bf16, fp16, fp8, int8, int4. What is absent, it cannot do."""
    interconnect: Interconnect
    resource_name: str
    """Extended resource that the device plugin advertises: nvidia.com/gpu or amd.com/gpu."""
    product_labels: tuple[str, ...]
    """Values of `product_label_key` on nodes with this GPU, the most frequent first."""
    product_label_key: str
    """nvidia.com/gpu.product (GPU Feature Discovery) or amd.com/gpu.product-name (AMD node labeller)."""
    list_price_per_gpu_hour: Decimal
    """Plausible on-demand price, for comparisons when nobody declared one."""
    sources: Mapping[str, str]
    """Where each figure comes from, by field name (`peak_flops_per_second.bf16` for a peak)."""
    aliases: tuple[str, ...]
    """Other unambiguous names."""
