"""Node manifests with GPUs, labelled as NVIDIA's GPU feature discovery labels them; KWOK plays their kubelet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

KUBELET_LABEL = "devcluster.test/kubelet"
"""KWOK is the kubelet of the nodes that carry it with the value `kwok`."""

_ARCHITECTURES = {
    "B200": {"family": "blackwell", "compute.major": "10", "compute.minor": "0"},
    "H200": {"family": "hopper", "compute.major": "9", "compute.minor": "0"},
    "H100": {"family": "hopper", "compute.major": "9", "compute.minor": "0"},
    "A100": {"family": "ampere", "compute.major": "8", "compute.minor": "0"},
    "L40S": {"family": "ada-lovelace", "compute.major": "8", "compute.minor": "9"},
    "L4": {"family": "ada-lovelace", "compute.major": "8", "compute.minor": "9"},
}


def gpu_node(
    name: str,
    product: str,
    gpus: int,
    memory_mib: int,
    *,
    labels: Mapping[str, str] | None = None,
    cpu: str = "96",
    memory: str = "1Ti",
    resource: str = "nvidia.com/gpu",
    region: str = "region-1",
    zone: str = "region-1a",
    tainted: bool = False,
) -> dict[str, Any]:
    """A Node with GPUs of one product; `tainted` adds the usual `nvidia.com/gpu:NoSchedule`."""
    capacity = {"cpu": cpu, "memory": memory, "ephemeral-storage": "1Ti", "pods": "110", resource: str(gpus)}
    all_labels = {
        KUBELET_LABEL: "kwok",
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": "amd64",
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/region": region,
        "topology.kubernetes.io/zone": zone,
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.count": str(gpus),
        "nvidia.com/gpu.memory": str(memory_mib),
        "nvidia.com/gpu.replicas": "1",
        "nvidia.com/gpu.sharing-strategy": "none",
    }
    for model in _ARCHITECTURES.keys() & set(product.split("-")):
        all_labels |= {f"nvidia.com/gpu.{name}": value for name, value in _ARCHITECTURES[model].items()}
    taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}] if tainted else []
    all_labels |= labels or {}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": all_labels},
        "spec": {"taints": taints},
        "status": {"capacity": capacity, "allocatable": dict(capacity)},
    }


def demo_nodes() -> list[dict[str, Any]]:
    """The demo's three pools: 4 nodes of 8 H100, 6 of 4 L40S, 8 of 1 L4."""
    pools = (
        ("h100", "NVIDIA-H100-80GB-HBM3", 4, 8, 81559, "192", "2Ti"),
        ("l40s", "NVIDIA-L40S", 6, 4, 46068, "96", "768Gi"),
        ("l4", "NVIDIA-L4", 8, 1, 23034, "16", "64Gi"),
    )
    return [
        gpu_node(f"{pool}-{index}", product, gpus, memory_mib, cpu=cpu, memory=memory)
        for pool, product, count, gpus, memory_mib, cpu, memory in pools
        for index in range(count)
    ]
