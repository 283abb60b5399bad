"""The snapshot after a plan was carried out: its pods bound to nodes and Ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from plimsoll.planning.plan import FleetPlan, Placement
from plimsoll.planning.snapshot import NodeFacts, ObjectRef, PodFacts, Snapshot, Workload


class NoRoomError(RuntimeError):
    """First fit found no node for a replica, although the planner did."""


def everything_running(snapshot: Snapshot, plan: FleetPlan) -> Snapshot:
    """All placements of the plan as Ready pods, the largest replicas first, each on the first node with room.

    Raises:
        NoRoomError: names the placement.
    """
    selectors = {pool.name: pool.node_selector for pool in plan.pools}
    free = {node.name: dict(node.allocatable) for node in snapshot.nodes or ()}
    placements = [(item.ref, part) for item in plan.deployments for part in item.placements]
    placements.sort(key=lambda entry: (-entry[1].option.parallelism.gpus, entry[0], entry[1].name))
    pods: list[PodFacts] = []
    for ref, placement in placements:
        nodes = [node for node in snapshot.nodes or () if _carries(node, selectors[placement.option.pool])]
        for index in range(placement.replicas):
            requests = _requests(placement)
            node = next((node for node in nodes if _fits(free[node.name], requests)), None)
            if node is None:
                raise NoRoomError(f"{ref}: no room for replica {index} of {placement.name}")
            for resource, amount in requests.items():
                free[node.name][resource] -= amount
            name = f"{placement.name}-{index}"
            pods.append(PodFacts(name, ref.namespace, name, node.name, requests, placement.name, ready=True))
    return replace(
        snapshot,
        pods=tuple(sorted(pods, key=lambda pod: (pod.namespace, pod.name))),
        workloads=tuple(
            sorted((_workload(ref, part) for ref, part in placements), key=lambda item: (item.namespace, item.name))
        ),
    )


def _workload(ref: ObjectRef, placement: Placement) -> Workload:
    option = placement.option
    facts = {
        "model": option.model,
        "precision": option.precision,
        "pool": option.pool,
        "tensor": str(option.parallelism.tensor),
        "pipeline": str(option.parallelism.pipeline),
        "max-num-seqs": str(option.max_num_seqs),
    }
    return Workload(
        ref.namespace, placement.name, placement.name, ref.name, placement.replicas, placement.replicas, facts
    )


def _requests(placement: Placement) -> dict[str, float]:
    option = placement.option
    return {
        option.gpu_resource: float(option.parallelism.gpus),
        "cpu": option.host.cpu_cores,
        "memory": float(option.host.memory_bytes),
    }


def _carries(node: NodeFacts, selector: Mapping[str, str]) -> bool:
    return all(node.labels.get(key) == value for key, value in selector.items())


def _fits(free: Mapping[str, float], requests: Mapping[str, float]) -> bool:
    return all(free.get(resource, 0.0) >= amount for resource, amount in requests.items())
