"""Plans for the tests of rendering: one deployment with two placements on two pools, and variations of it."""

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.parse import parse
from plimsoll.performance import Parallelism
from plimsoll.planning.plan import (
    ClassPlan,
    DeploymentPlan,
    DeploymentState,
    FleetPlan,
    HostDemand,
    Option,
    Placement,
    PoolPlan,
    Share,
)
from plimsoll.planning.transition import Backend, RoutedClass, RoutingTable, Step

GIB = 2**30
ROUTED_AT = "2026-11-20T14:00:00Z"
SMALL = "assistant-llama-3-1-8b-fp8-l40s-t1p1-9c41d2"
LARGE = "assistant-llama-3-3-70b-fp8-h100-t4p2-0a1b2c"


def llm_deployment(engine: dict[str, Any] | None = None, routing: dict[str, Any] | None = None) -> LLMDeployment:
    """LLMDeployment chat/assistant with the classes `chat` (matched by a header) and `batch` (the default)."""
    manifest = {
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "assistant", "namespace": "chat", "uid": "5e1f9c1e-9a55-4d7c-8a2e-0c6f1d7c5a11"},
        "spec": {
            "models": [
                {"name": "meta-llama/Llama-3.1-8B-Instruct", "precisions": [{"name": "fp8"}]},
                {"name": "meta-llama/Llama-3.3-70B-Instruct", "precisions": [{"name": "fp8"}]},
            ],
            "traffic": [
                {
                    "name": "chat",
                    "requestsPerMinute": 1200,
                    "tokens": {"input": 1000, "output": 250},
                    "match": {"headers": [{"name": "x-traffic-class", "value": "chat"}]},
                },
                {"name": "batch", "requestsPerMinute": 60, "tokens": {"input": 4000, "output": 500}},
            ],
            "engine": engine or {},
            "routing": routing or {},
        },
    }
    resource = parse(manifest)
    assert isinstance(resource, LLMDeployment)
    return resource


def small_option() -> Option:
    return Option(
        model="meta-llama/Llama-3.1-8B-Instruct",
        precision="fp8",
        checkpoint="meta-llama/Llama-3.1-8B-Instruct",
        pool="l40s",
        parallelism=Parallelism(1, 1),
        max_num_seqs=64,
        max_model_length=16384,
        image="vllm/vllm-openai:v0.18.0",
        gpu_resource="nvidia.com/gpu",
        engine_args=("--quantization", "fp8"),
        host=HostDemand(cpu_cores=2, memory_bytes=9 * GIB, shared_memory_bytes=GIB),
        load_seconds=90.0,
        gated=True,
    )


def large_option() -> Option:
    return replace(
        small_option(),
        model="meta-llama/Llama-3.3-70B-Instruct",
        checkpoint="neuralmagic/Llama-3.3-70B-Instruct-FP8",
        pool="h100",
        parallelism=Parallelism(4, 2),
        max_num_seqs=128,
        engine_args=(),
        host=HostDemand(cpu_cores=9, memory_bytes=80 * GIB, shared_memory_bytes=16 * GIB),
        load_seconds=900.0,
    )


def placement(name: str, option: Option, replicas: int, *shares: Share) -> Placement:
    return Placement(name, option, replicas, shares, price_per_hour=1.0, utilization=0.8, reason="")


def pool(name: str, product: str) -> PoolPlan:
    return PoolPlan(
        name=name,
        accelerator=product,
        price_per_gpu_hour=Decimal("1.10"),
        node_selector={"nvidia.com/gpu.product": product},
        tolerations=({"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},),
        nodes=4,
        product=product,
        gpus=32,
        gpus_allocatable=32,
        gpus_used_by_others=0,
        gpus_planned=11,
        gpus_running=0,
        unlimited=False,
        findings=(),
    )


def deployment_plan(resource: LLMDeployment | None = None) -> DeploymentPlan:
    return DeploymentPlan(
        resource=resource or llm_deployment(),
        state=DeploymentState.PLANNED,
        placements=(
            placement(SMALL, small_option(), 3, Share("chat", 0.62), Share("batch", 1.0)),
            placement(LARGE, large_option(), 1, Share("chat", 0.38)),
        ),
        classes=(
            ClassPlan("chat", 1200.0, 0.0, (), ()),
            ClassPlan("batch", 60.0, 0.05, (), ()),
        ),
        findings=(),
    )


def fleet_plan(deployment: DeploymentPlan) -> FleetPlan:
    pools = (pool("h100", "NVIDIA-H100-80GB-HBM3"), pool("l40s", "NVIDIA-L40S"))
    return FleetPlan(digest="d" * 64, deployments=(deployment,), pools=pools, findings=(), cost_per_hour=4.0)


def routing_table() -> RoutingTable:
    small = Backend(SMALL, "meta-llama/Llama-3.1-8B-Instruct", 620, 192)
    large = Backend(LARGE, "meta-llama/Llama-3.3-70B-Instruct", 380, 128)
    return RoutingTable(
        epoch=412,
        classes=(
            RoutedClass("batch", (), 57, "0.05", (replace(small, weight=1000),)),
            RoutedClass("chat", (("x-traffic-class", "chat"),), 1200, "0", (small, large)),
        ),
    )


def step(routing: RoutingTable | None = None, replicas: Mapping[str, int] | None = None) -> Step:
    wanted = {SMALL: 3, LARGE: 1} if replicas is None else replicas
    return Step(replicas=wanted, routing=routing, prune=(), waiting_for=())
