"""A realistic fleet that is the same on every machine: 300 LLMDeployments of ten teams on 500 nodes in 20 pools."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from devcluster.nodes import gpu_node
from plimsoll.api.common import API_VERSION
from plimsoll.api.gpunodepool import GPUNodePool
from plimsoll.api.inferenceslo import InferenceSLO
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.parse import parse
from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.planning.snapshot import Snapshot
from plimsoll.rendering.observe import node_facts

Manifest = dict[str, Any]
Kind = TypeVar("Kind", LLMDeployment, GPUNodePool, InferenceSLO)

SEED = 20260701
DEPLOYMENTS = 300
POOL_LABEL = "example.com/node-pool"
"""What a cloud's node groups carry; the pools select by it."""


# --- Hardware ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PoolKind:
    """A node group: what its nodes carry and cost."""

    name: str
    accelerator: str
    product: str
    memory_mib: int
    nodes: int
    gpus: int
    price: str
    region: str
    spot: str | None = None


POOLS = (
    PoolKind("b200-us-west", "B200", "NVIDIA-B200", 183359, 6, 8, "5.50", "us-west"),
    PoolKind("h200-us-east", "H200-SXM-141GB", "NVIDIA-H200", 143771, 12, 8, "3.50", "us-east"),
    PoolKind("h100-us-east", "H100-SXM-80GB", "NVIDIA-H100-80GB-HBM3", 81559, 40, 8, "2.50", "us-east"),
    PoolKind("h100-eu-west", "H100-SXM-80GB", "NVIDIA-H100-80GB-HBM3", 81559, 24, 8, "2.70", "eu-west"),
    PoolKind("h100-us-west", "H100-SXM-80GB", "NVIDIA-H100-80GB-HBM3", 81559, 16, 8, "2.55", "us-west", spot="1.60"),
    PoolKind("h100-pcie-eu-north", "H100-PCIe-80GB", "NVIDIA-H100-PCIe", 81559, 12, 4, "2.10", "eu-north"),
    PoolKind("gh200-us-west", "GH200-96GB", "NVIDIA-GH200-480GB", 97871, 20, 1, "2.00", "us-west"),
    PoolKind("a100-us-east", "A100-SXM-80GB", "NVIDIA-A100-SXM4-80GB", 81920, 40, 8, "1.60", "us-east"),
    PoolKind("a100-eu-west", "A100-SXM-80GB", "NVIDIA-A100-SXM4-80GB", 81920, 24, 8, "1.75", "eu-west"),
    PoolKind("a100-40-us-west", "A100-SXM-40GB", "NVIDIA-A100-SXM4-40GB", 40960, 30, 8, "1.20", "us-west"),
    PoolKind("a100-pcie-ap-south", "A100-PCIe-80GB", "NVIDIA-A100-80GB-PCIe", 81920, 20, 4, "1.40", "ap-south"),
    PoolKind("l40s-us-east", "L40S", "NVIDIA-L40S", 46068, 50, 4, "1.10", "us-east"),
    PoolKind("l40s-eu-west", "L40S", "NVIDIA-L40S", 46068, 40, 4, "1.20", "eu-west"),
    PoolKind("l40s-ap-south", "L40S", "NVIDIA-L40S", 46068, 20, 4, "1.15", "ap-south", spot="0.65"),
    PoolKind("l40-us-west", "L40", "NVIDIA-L40", 46068, 16, 4, "0.90", "us-west"),
    PoolKind("l4-us-east", "L4", "NVIDIA-L4", 23034, 40, 1, "0.60", "us-east"),
    PoolKind("l4-eu-west", "L4", "NVIDIA-L4", 23034, 30, 1, "0.65", "eu-west"),
    PoolKind("a10g-us-east", "A10G", "NVIDIA-A10G", 23028, 30, 4, "0.80", "us-east"),
    PoolKind("a40-eu-north", "A40", "NVIDIA-A40", 46068, 20, 4, "0.50", "eu-north"),
    PoolKind("rtx-a6000-us-west", "RTX-A6000", "NVIDIA-RTX-A6000", 49140, 10, 8, "0.65", "us-west"),
)


# --- Demand -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Model:
    """A candidate model, and how often it is asked for."""

    name: str
    precisions: tuple[str, ...]
    weight: int
    gated: bool = False


MODELS = (
    Model("meta-llama/Llama-3.2-1B-Instruct", ("bf16",), 8, gated=True),
    Model("meta-llama/Llama-3.2-3B-Instruct", ("bf16", "fp8"), 10, gated=True),
    Model("Qwen/Qwen2.5-7B-Instruct", ("bf16", "int4"), 18),
    Model("meta-llama/Llama-3.1-8B-Instruct", ("bf16", "fp8"), 22, gated=True),
    Model("Qwen/Qwen2.5-14B-Instruct", ("bf16", "int8"), 10),
    Model("microsoft/phi-4", ("bf16", "fp8"), 8),
    Model("mistralai/Mistral-Small-24B-Instruct-2501", ("bf16", "fp8"), 8),
    Model("Qwen/Qwen2.5-32B-Instruct", ("int4",), 6),
    Model("Qwen/Qwen3-30B-A3B", ("bf16", "fp8"), 5),
    Model("meta-llama/Llama-3.3-70B-Instruct", ("fp8",), 5, gated=True),
)


@dataclass(frozen=True, slots=True)
class Workload:
    """A kind of request: token lengths as means and 95th percentiles."""

    name: str
    slo: str
    input: int
    output: int
    input_p95: int
    output_p95: int


WORKLOADS = (
    Workload("chat", "interactive", 1155, 211, 3200, 600),
    Workload("completion", "interactive", 2048, 28, 5000, 80),
    Workload("assist", "interactive", 600, 350, 1800, 900),
    Workload("search", "interactive", 3200, 280, 5600, 600),
    Workload("support", "interactive", 900, 160, 2200, 400),
    Workload("voice", "interactive", 400, 60, 900, 120),
    Workload("agent", "interactive", 5000, 220, 9000, 500),
    Workload("summary", "batch", 3000, 150, 7000, 300),
    Workload("extraction", "batch", 1500, 120, 3500, 250),
    Workload("translation", "batch", 600, 650, 1500, 1600),
    Workload("labelling", "batch", 450, 8, 1100, 16),
    Workload("report", "batch", 7000, 900, 12000, 1800),
)
RATE_MEDIAN, RATE_SIGMA, RATE_LEAST, RATE_MOST = 60.0, 1.0, 6, 600
"""Requests per minute of one traffic class: log-normal, cut off at both ends."""

NAMESPACES = (
    *("assistants", "claims", "code", "documents", "helpdesk"),
    *("insight", "mobile", "research", "shop", "translate"),
)


# --- Manifests --------------------------------------------------------------------------------------------------------


def namespaces() -> list[Manifest]:
    """The teams' namespaces."""
    return [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in NAMESPACES]


def nodes(kinds: Sequence[PoolKind] = POOLS) -> list[Manifest]:
    """Nodes as feature discovery labels them: 500 by default."""
    return [
        gpu_node(
            f"{pool.name}-{index:02}",
            pool.product,
            pool.gpus,
            pool.memory_mib,
            labels={POOL_LABEL: pool.name},
            cpu=str(16 + 16 * pool.gpus),
            memory=f"{64 + 128 * pool.gpus}Gi",
            region=pool.region,
            zone=f"{pool.region}-{'abc'[index % 3]}",
            tainted=pool.gpus == 8,
        )
        for pool in kinds
        for index in range(pool.nodes)
    ]


def pools(kinds: Sequence[PoolKind] = POOLS) -> list[Manifest]:
    """GPUNodePools: 20 by default."""
    return [_resource("GPUNodePool", pool.name, _pool_spec(pool)) for pool in kinds]


def slos() -> list[Manifest]:
    """Two InferenceSLOs for each namespace: some teams are more patient than others."""
    made: list[Manifest] = []
    for number, namespace in enumerate(NAMESPACES):
        patience = 1 + 0.25 * (number % 4)
        interactive = {"ttft": _p95(1200 * patience), "tpot": _p95(50 * patience), "priority": 100}
        batch = {"tpot": _p95(150 * patience), "endToEnd": _p95(180_000 * patience), "priority": 10}
        made.append(_resource("InferenceSLO", "interactive", interactive, namespace))
        made.append(_resource("InferenceSLO", "batch", batch, namespace))
    return made


def policy(propagation_seconds: int | None = None) -> Manifest:
    """The policy; without a value routers may take as long as by default."""
    spec = {} if propagation_seconds is None else {"routing": {"propagationSeconds": propagation_seconds}}
    return _resource("PlacementPolicy", "default", spec)


def deployments(count: int = DEPLOYMENTS, kinds: Sequence[PoolKind] = POOLS) -> list[Manifest]:
    """LLMDeployments, drawn with a fixed seed: 300 by default."""
    draw = random.Random(SEED)
    european = [pool.name for pool in kinds if pool.region.startswith("eu-")]
    return [_deployment(draw, number, european) for number in range(count)]


def doubled(manifest: Manifest) -> Manifest:
    """The LLMDeployment with twice the traffic in its first class."""
    first, *rest = manifest["spec"]["traffic"]
    twice = {**first, "requestsPerMinute": 2 * first["requestsPerMinute"]}
    return {**manifest, "spec": {**manifest["spec"], "traffic": [twice, *rest]}}


def _pool_spec(pool: PoolKind) -> Manifest:
    price = {"perHour": pool.price} | ({"spotPerHour": pool.spot} if pool.spot else {})
    return {
        "accelerator": pool.accelerator,
        "nodeSelector": {"matchLabels": {POOL_LABEL: pool.name}},
        "location": {"region": pool.region},
        "capacityType": "Spot" if pool.spot else "OnDemand",
        "gpusPerNode": pool.gpus,
        "price": price,
    }


def _deployment(draw: random.Random, number: int, european: Sequence[str]) -> Manifest:
    model = draw.choices(MODELS, [model.weight for model in MODELS])[0]
    classes = draw.sample(WORKLOADS, draw.choices((1, 2, 3), (55, 30, 15))[0])
    longest = max(item.input_p95 + item.output_p95 for item in classes)
    engine: Manifest = {"maxModelLength": 8192 if longest <= 8192 else 16384}
    if model.gated:
        engine["huggingFaceTokenSecretRef"] = {"name": "hugging-face", "key": "token"}
    placement: Manifest = {"replicas": {"min": draw.choices((1, 2), (80, 20))[0]}}
    if draw.random() < 0.2:
        placement["pools"] = list(european)  # data that must not leave Europe
    spec = {
        "models": [{"name": model.name, "precisions": [{"name": name} for name in model.precisions]}],
        "traffic": [_traffic(draw, item, first=index == 0) for index, item in enumerate(classes)],
        "placement": placement,
        "engine": engine,
    }
    if draw.random() < 0.2:
        spec["routing"] = {"vllmRouter": True}
    namespace = NAMESPACES[number % len(NAMESPACES)]
    return _resource("LLMDeployment", f"{classes[0].name}-{number:03}", spec, namespace)


def _traffic(draw: random.Random, item: Workload, *, first: bool) -> Manifest:
    rate = min(max(draw.lognormvariate(0.0, RATE_SIGMA) * RATE_MEDIAN, RATE_LEAST), RATE_MOST)
    traffic: Manifest = {
        "name": item.name,
        "sloRef": {"name": item.slo},
        "requestsPerMinute": round(rate),
        "tokens": {
            "input": item.input,
            "output": item.output,
            "inputP95": item.input_p95,
            "outputP95": item.output_p95,
        },
    }
    if not first:
        traffic["match"] = {"headers": [{"name": "x-traffic-class", "value": item.name}]}
    return traffic


def _p95(milliseconds: float) -> Manifest:
    return {"percentile": 95, "milliseconds": round(milliseconds)}


def _resource(kind: str, name: str, spec: Manifest, namespace: str | None = None) -> Manifest:
    metadata = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


# --- Snapshot ---------------------------------------------------------------------------------------------------------


def snapshot(llm_deployments: Iterable[Manifest] | None = None, kinds: Sequence[PoolKind] = POOLS) -> Snapshot:
    """What the operator would see on the idle cluster; by default with `deployments()`."""
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    facts = [node_facts({**node, "status": {**node["status"], **ready}}) for node in nodes(kinds)]
    wanted = deployments() if llm_deployments is None else llm_deployments
    return Snapshot(
        deployments=_sorted(cast("LLMDeployment", parse(item)) for item in wanted),
        pools=_sorted(cast("GPUNodePool", parse(item)) for item in pools(kinds)),
        slos=_sorted(cast("InferenceSLO", parse(item)) for item in slos()),
        policy=cast("PlacementPolicy", parse(policy())),
        nodes=tuple(sorted(facts, key=lambda node: node.name)),
    )


def _sorted(items: Iterable[Kind]) -> tuple[Kind, ...]:
    return tuple(sorted(items, key=lambda item: (item.namespace, item.name)))
