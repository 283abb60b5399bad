"""What people declare beyond the catalog, as catalog entries: custom accelerators of pools and models of profiles."""

from dataclasses import replace
from decimal import Decimal

from plimsoll.api.gpunodepool import CustomAccelerator, GPUNodePool
from plimsoll.api.modelprofile import Architecture
from plimsoll.catalog import GPU, Catalog, ModelArchitecture, load_catalog
from plimsoll.catalog import Interconnect as GPUInterconnect
from plimsoll.performance import Link, node_hop
from plimsoll.planning.snapshot import Snapshot

_USUAL_BYTES_PER_SECOND = {"NVLink": 450e9, "InfinityFabric": 448e9, "PCIe": 32e9}
"""Per GPU, one direction: fourth-generation NVLink, all seven Infinity Fabric links of an MI300X, PCIe 4.0 x16
(vendors' data sheets)."""
_USUAL_MAX_TENSOR_PARALLEL = {"NVLink": 8, "InfinityFabric": 8, "PCIe": 4}


def catalog_of(snapshot: Snapshot) -> Catalog:
    """The catalog, with the models that ModelProfiles describe."""
    catalog = load_catalog()
    for profile in snapshot.profiles:
        if profile.spec.architecture is not None:
            catalog = catalog.with_model(profiled_model(profile.spec.model, profile.spec.architecture))
    return catalog


def pool_gpu(pool: GPUNodePool, catalog: Catalog) -> GPU:
    """The GPU of a pool: a catalog entry or the pool's own figures, with the pool's interconnect.

    Raises:
        UnknownName: the catalog has no such accelerator.
    """
    spec = pool.spec
    declared = spec.interconnect.intra_node if spec.interconnect is not None else None
    if spec.custom is not None:
        return _custom_gpu(pool.name, spec.custom, declared or "PCIe")
    gpu = catalog.gpu(spec.accelerator or "")
    if declared is None or declared == gpu.interconnect.kind:
        return gpu
    return replace(gpu, interconnect=_usual_interconnect(declared, None))


def pool_network(pool: GPUNodePool, gpu: GPU) -> Link:
    """From one pipeline stage to the next in another node of the pool."""
    interconnect = pool.spec.interconnect
    return node_hop(gpu, interconnect.inter_node_gigabits_per_second if interconnect is not None else None)


def _custom_gpu(pool: str, custom: CustomAccelerator, interconnect: str) -> GPU:
    vendor = custom.vendor.lower()
    per_second = custom.intra_node_gigabytes_per_second
    return GPU(
        name=f"custom accelerator of pool {pool}",
        vendor=vendor,
        architecture="custom",
        memory_bytes=custom.memory_bytes,
        memory_bandwidth_bytes_per_second=custom.memory_bandwidth_gigabytes_per_second * 1e9,
        peak_flops_per_second={peak.precision: peak.teraflops * 1e12 for peak in custom.peaks},
        interconnect=_usual_interconnect(interconnect, None if per_second is None else per_second * 1e9),
        resource_name="amd.com/gpu" if vendor == "amd" else "nvidia.com/gpu",
        product_labels=(),
        product_label_key="amd.com/gpu.product-name" if vendor == "amd" else "nvidia.com/gpu.product",
        list_price_per_gpu_hour=Decimal(0),
        sources={},
        aliases=(),
    )


def _usual_interconnect(kind: str, bytes_per_second: float | None) -> GPUInterconnect:
    return GPUInterconnect(
        kind=kind,
        bytes_per_second=bytes_per_second or _USUAL_BYTES_PER_SECOND[kind],
        max_tensor_parallel=_USUAL_MAX_TENSOR_PARALLEL[kind],
    )


def profiled_model(name: str, given: Architecture) -> ModelArchitecture:
    """The model that a ModelProfile describes, as a catalog entry."""
    kv_heads = given.kv_heads or given.attention_heads
    head_size = given.head_size or given.hidden_size // given.attention_heads
    return ModelArchitecture(
        name=name,
        parameters=given.parameters,
        active_parameters=given.active_parameters or given.parameters,
        layers=given.layers,
        hidden_size=given.hidden_size,
        attention_heads=given.attention_heads,
        kv_heads=kv_heads,
        head_size=head_size,
        experts=given.experts or 0,
        experts_per_token=given.experts_per_token or 0,
        vocabulary_size=given.vocabulary_size,
        context_length=given.context_length,
        tied_embeddings=given.tied_embeddings,
        kv_elements_per_token_per_layer=2 * kv_heads * head_size,
        latent_attention=False,
        native_precision="bf16",
        license="",
        gated=given.gated,
        checkpoints={},
        sources={},
    )
