"""Efficiencies, overheads and all-reduce speeds of the analytic step model, with where each comes from."""

from dataclasses import dataclass

from plimsoll.catalog import GPU


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What turns peaks into reached speeds for one engine on one family of GPUs."""

    weights_efficiency: float
    """Share of the memory bandwidth reached when reading weights."""
    kv_efficiency: float
    """The same for the KV cache."""
    query_group_cost: float
    """Added share of the KV time per further query head that shares a KV head."""
    compute_efficiency: float
    """Share of the peak reached by decode matrix products at large batches."""
    prefill_efficiency: float
    """Share of the peak reached by prefill."""
    step_seconds: float
    """Per engine step."""
    sequence_seconds: float
    """Per sequence and step: scheduling, sampling, detokenising."""
    allreduce_factor: float
    """Share of the all-reduce time that is not hidden."""


@dataclass(frozen=True, slots=True)
class AllReduce:
    """Time of one all-reduce: latency + bytes / bytes_per_second."""

    latency_seconds: float
    bytes_per_second: float


PREFILL_EFFICIENCY = {"ampere": 0.68, "ada": 0.5, "hopper": 0.52, "blackwell": 0.45, "turing": 0.4, "volta": 0.4}
"""Ampere and Hopper: fitted to Argonne's vLLM rows; it does not transfer between generations. Ada and Blackwell:
assumed, below the measured neighbours. Turing and Volta: assumed (no FlashAttention 2)."""


def engine_coefficients(gpu: GPU) -> Coefficients:
    """vLLM's coefficients on a GPU.

    NVIDIA: the pooled fit on A100 and H100. AMD: more cautious round figures, assumed. They lie between
    fits to Argonne's rows for MI300X, which show the ROCm of 2024 (prefill at 0.07 of the peak, decode compute at
    0.05), and NVIDIA's, which do not transfer. Calibrate before relying on them.
    """
    if gpu.vendor == "amd":
        return Coefficients(
            weights_efficiency=0.55,
            kv_efficiency=0.65,
            query_group_cost=0.5,
            compute_efficiency=0.2,
            prefill_efficiency=0.2,
            step_seconds=0.005,
            sequence_seconds=80e-6,
            allreduce_factor=1.0,
        )
    return Coefficients(
        weights_efficiency=0.83,
        kv_efficiency=0.82,
        query_group_cost=0.18,
        compute_efficiency=0.7,
        prefill_efficiency=PREFILL_EFFICIENCY.get(gpu.architecture, 0.4),
        step_seconds=0.0022,
        sequence_seconds=65e-6,
        allreduce_factor=0.85,
    )


_DEGREES = (2, 4, 8)
_NVLINK_LATENCY = {"ampere": (45e-6, 40e-6, 38e-6), "hopper": (22e-6, 30e-6, 30e-6)}
_NVLINK_SHARE = {"ampere": (171 / 300, 124 / 300, 106 / 300), "hopper": (300 / 450, 230 / 450, 211 / 450)}
"""Vidur's all-reduce tables for A100 and H100 in DGX nodes, TP 2, 4, 8; the share is of the link's peak one way
(300 and 450 GB/s). Other NVLink generations are taken as Hopper, older ones as Ampere."""
_PCIE_LATENCY = (50e-6, 80e-6, 120e-6)
_PCIE_SHARE = (0.75, 0.5, 0.43)
"""Ring over PCIe: 2(n-1)/n of the bytes at 75 % of the link, so 24, 16, 14 GB/s with PCIe 4.0; 16-33 GB/s was measured
for 4 GPUs without NVSwitch (Vidur). Latencies are assumed, above NVLink's."""
_FABRIC_LATENCY = (35e-6, 45e-6, 55e-6)
_FABRIC_SHARE = (0.1, 0.2, 0.4)
"""Infinity Fabric, of the sum of a GPU's seven links to its seven peers: n GPUs use n-1 of them, so an all-reduce
reaches n/2 links' worth; 70 % of that is assumed, and the latencies are assumed a little above NVLink's."""


def allreduce(gpu: GPU, tensor: int) -> AllReduce:
    """All-reduce among `tensor` GPUs of one node; degrees between the measured ones take the next larger."""
    at = next((i for i, degree in enumerate(_DEGREES) if tensor <= degree), len(_DEGREES) - 1)
    kind = gpu.interconnect.kind.lower()
    if kind == "nvlink":
        generation = "ampere" if gpu.architecture in {"volta", "turing", "ampere"} else "hopper"
        latency, share = _NVLINK_LATENCY[generation][at], _NVLINK_SHARE[generation][at]
    elif kind == "infinityfabric":
        latency, share = _FABRIC_LATENCY[at], _FABRIC_SHARE[at]
    else:
        latency, share = _PCIE_LATENCY[at], _PCIE_SHARE[at]
    return AllReduce(latency, share * gpu.interconnect.bytes_per_second)
