"""Efficiencies, overheads and speeds between GPUs, with where each comes from. The figures are in coefficients.yaml."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from plimsoll.catalog import GPU


@dataclass(frozen=True, slots=True)
class Coefficients:
    """What turns peaks into reached speeds for one engine on one family of GPUs."""

    weights_efficiency: float
    """Share of the memory bandwidth reached when reading 16-bit weights."""
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
    """All-reduce time in the engine, as a share of what the collective takes when it is measured alone."""
    quantised_efficiency: float
    """Of the bandwidth share that 16-bit weights reach, the share that weights of 8 bits or less reach."""


@cache
def fingerprint(coefficients: Coefficients) -> str:
    """Names the figures: other figures, another name."""
    return hashlib.sha256(repr(coefficients).encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class CoefficientSet:
    """Coefficients, and how far they can be trusted."""

    name: str
    """Of the measured GPU, or the vendor's where nothing was measured."""
    coefficients: Coefficients
    source: str
    rows: int
    """Measurements that they were fitted to; 0 when they are pooled from other GPUs."""
    median_error: float | None
    """Of the end-to-end latency of these rows, as a share; None when pooled."""
    p90_error: float | None


NETWORK_GIGABITS_PER_SECOND = 10
"""Of a node, where nobody says: the slowest network that GPU nodes usually have."""
NETWORK_SHARE = 0.8
"""Of that speed, what one stream of messages reaches (assumed)."""
NETWORK_HOP_SECONDS = 0.0001
"""Beside a hop in a node: what a network with kernel sockets adds to a small message (assumed; RDMA takes a tenth)."""


@dataclass(frozen=True, slots=True)
class Link:
    """Time of one transfer: latency + bytes / bytes_per_second."""

    latency_seconds: float
    bytes_per_second: float


def coefficient_set(gpu: GPU) -> CoefficientSet:
    """vLLM's coefficients on a GPU: of its chip where that was measured, else pooled over the vendor's measured chips.

    Pooled sets take the prefill efficiency of the GPU's architecture where one is known: it does not transfer between
    generations.
    """
    return _set(gpu.name, gpu.vendor, gpu.architecture)


def engine_coefficients(gpu: GPU) -> Coefficients:
    """vLLM's coefficients on a GPU."""
    return coefficient_set(gpu).coefficients


def allreduce(gpu: GPU, tensor: int) -> Link:
    """All-reduce among `tensor` GPUs of one node; degrees between the measured ones take the next larger."""
    fabric = _fabric(gpu)
    degrees = sorted(fabric["allreduce"])
    degree = next((degree for degree in degrees if tensor <= degree), degrees[-1])
    latency_seconds, share = fabric["allreduce"][degree]
    return Link(latency_seconds, share * gpu.interconnect.bytes_per_second)


def stage_hop(gpu: GPU) -> Link:
    """From one pipeline stage to the next in the same node."""
    return Link(
        load_data()["stage_hop_seconds"]["value"], _fabric(gpu)["send_share"] * gpu.interconnect.bytes_per_second
    )


def node_hop(gpu: GPU, gigabits_per_second: int | None) -> Link:
    """From one pipeline stage to the next in another node, whose network has that speed (None: the usual least)."""
    speed = (gigabits_per_second or NETWORK_GIGABITS_PER_SECOND) * 1e9 / 8
    return Link(stage_hop(gpu).latency_seconds + NETWORK_HOP_SECONDS, NETWORK_SHARE * speed)


@cache
def _set(gpu: str, vendor: str, architecture: str) -> CoefficientSet:
    data = load_data()
    for name, entry in data["sets"].items():
        if gpu.startswith(tuple(entry["gpus"])):
            fit = entry["fit"]
            figures = Coefficients(**entry["coefficients"])
            return CoefficientSet(name, figures, entry["source"], fit["rows"], fit["median_error"], fit["p90_error"])
    pooled = data["pooled"]["amd" if vendor == "amd" else "nvidia"]
    figures = Coefficients(**pooled["coefficients"])
    prefill = data["prefill_efficiency"].get(vendor, {}).get(architecture)
    if prefill is not None:
        figures = replace(figures, prefill_efficiency=prefill["value"])
    return CoefficientSet(vendor, figures, pooled["source"], 0, None, None)


def _fabric(gpu: GPU) -> Mapping[str, Any]:
    fabrics = load_data()["fabrics"]
    kind = gpu.interconnect.kind.lower()
    if kind == "nvlink":
        generation = "ampere" if gpu.architecture in {"volta", "turing", "ampere"} else "hopper"
        kind = f"nvlink-{generation}"
    found: Mapping[str, Any] = fabrics.get(kind, fabrics["pcie"])
    return found


@cache
def load_data() -> Mapping[str, Any]:
    """The file. Read once per process."""
    text = files("plimsoll.performance").joinpath("coefficients.yaml").read_text(encoding="utf-8")
    data: Mapping[str, Any] = yaml.safe_load(text)
    return data
