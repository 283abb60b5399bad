"""The largest fleet that is promised: 1,000 LLMDeployments, 200 pools, 5,000 nodes and 20,000 pods of other people.

It is `fleet` in ten regions, with each region's own prices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from benchmarks import fleet
from benchmarks.fleet import Manifest, PoolKind
from plimsoll.planning.snapshot import Snapshot
from plimsoll.rendering.observe import pod_facts

DEPLOYMENTS = 1000
PODS_PER_NODE = 4
NAMESPACE = "platform"
"""Where other people's pods are."""

_REGIONS = {
    "us-east": "1.00",
    "us-west": "1.02",
    "us-south": "1.01",
    "ca-east": "1.05",
    "eu-west": "1.08",
    "eu-north": "1.04",
    "eu-central": "1.12",
    "ap-south": "1.06",
    "ap-east": "1.15",
    "sa-east": "1.21",
}
"""Prices as a multiple of the list's."""
_ADD_ONS = (("monitor", "100m", "200Mi"), ("logs", "200m", "300Mi"), ("storage", "100m", "128Mi"))
_TRAINING_EVERY = 12
"""One node in so many has a job of somebody else on one of its GPUs."""


def _kinds() -> tuple[PoolKind, ...]:
    return tuple(
        replace(
            kind,
            name=f"{kind.accelerator.lower()}-{region}-{number:02}",
            region=region,
            price=_times(kind.price, factor),
            spot=None if kind.spot is None else _times(kind.spot, factor),
        )
        for region, factor in _REGIONS.items()
        for number, kind in enumerate(fleet.POOLS)
    )


def _times(price: str, factor: str) -> str:
    return f"{float(price) * float(factor):.2f}"


POOLS = _kinds()


def deployments() -> list[Manifest]:
    """1,000 LLMDeployments."""
    return fleet.deployments(DEPLOYMENTS, POOLS)


def nodes() -> list[Manifest]:
    """5,000 nodes."""
    return fleet.nodes(POOLS)


def pools() -> list[Manifest]:
    """200 GPUNodePools."""
    return fleet.pools(POOLS)


def foreign_pods() -> list[Manifest]:
    """20,000 pods: three add-ons on every node, and one more that on some nodes holds a GPU."""
    return [pod for number, node in enumerate(nodes()) for pod in _pods_on(node["metadata"]["name"], number)]


def _pods_on(node: str, number: int) -> Iterable[Manifest]:
    for name, cpu, memory in _ADD_ONS:
        yield _pod(f"{name}-{node}", node, {"cpu": cpu, "memory": memory})
    if number % _TRAINING_EVERY == 0:
        yield _pod(f"training-{node}", node, {"cpu": "4", "memory": "16Gi"}, gpus=1)
    else:
        yield _pod(f"batch-{node}", node, {"cpu": "500m", "memory": "1Gi"})


def _pod(name: str, node: str, requests: dict[str, str], gpus: int = 0) -> Manifest:
    resources: Manifest = {"requests": requests}
    if gpus:
        resources["limits"] = {"nvidia.com/gpu": str(gpus)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"app": name.partition("-")[0]},
            "annotations": {"devcluster.test/not-played": "true"},
        },
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "main", "image": "registry.example/main:1", "resources": resources}],
        },
    }


def snapshot(llm_deployments: Iterable[Manifest] | None = None) -> Snapshot:
    """What the operator would see before it has written anything; by default with `deployments()`."""
    wanted = deployments() if llm_deployments is None else llm_deployments
    facts = (pod_facts(pod) for pod in foreign_pods())
    pods = sorted((pod for pod in facts if pod is not None), key=lambda pod: (pod.namespace, pod.name))
    return replace(fleet.snapshot(wanted, POOLS), pods=tuple(pods))
