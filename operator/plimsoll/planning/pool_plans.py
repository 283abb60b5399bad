"""What a fleet plan says of each pool: what there is, who uses it, and what is planned."""

from collections.abc import Sequence
from decimal import Decimal

from plimsoll.planning.plan import DeploymentPlan, PoolPlan
from plimsoll.planning.pools import Pool, Pools
from plimsoll.planning.snapshot import PodFacts, Snapshot, Workload


class Uses:
    """Who uses how much of each pool."""

    def __init__(self, snapshot: Snapshot, plans: Sequence[DeploymentPlan], kept: Sequence[Workload]) -> None:
        self._pods: dict[str, list[PodFacts]] = {}
        for pod in snapshot.pods:
            self._pods.setdefault(pod.node, []).append(pod)
        self._planned: dict[str, int] = {}
        for placement in (placement for plan in plans for placement in plan.placements):
            self._plan(placement.option.pool, placement.replicas * placement.option.parallelism.gpus)
        for item in kept:
            self._plan(item.option.get("pool", ""), gpus_of(item))

    def _plan(self, pool: str, gpus: int) -> None:
        self._planned[pool] = self._planned.get(pool, 0) + gpus

    def planned(self, pool: Pool) -> int:
        """GPUs that the plan uses."""
        return self._planned.get(pool.name, 0)

    def running(self, pool: Pool) -> tuple[int, int]:
        """GPUs that Plimsoll's pods use, and those of others."""
        used = {True: 0.0, False: 0.0}
        for pod in (pod for node in pool.nodes for pod in self._pods.get(node.name, ())):
            used[bool(pod.placement)] += pod.requests.get(pool.resource_name, 0.0)
        return int(used[True]), int(used[False])


def pool_plan(name: str, pool: Pool, pools: Pools, uses: Uses) -> PoolPlan:
    """A usable pool."""
    nodes = {node.name: node for node in pool.nodes}
    gpus = int(sum(node.allocatable.get(pool.resource_name, 0) for node in pool.nodes))
    usable = [node for node in pool.nodes if not node.unschedulable_reason]
    running, others = uses.running(pool)
    declared = pool.max_nodes * pool.gpus_per_node if pool.declared_stock and pool.max_nodes is not None else 0
    return PoolPlan(
        name=name,
        accelerator=pool.gpu.name,
        price_per_gpu_hour=Decimal(pool.price_per_gpu_hour),
        node_selector=pool.node_selector,
        tolerations=pool.tolerations,
        nodes=len(nodes) or (pool.max_nodes or 0 if pool.declared_stock else 0),
        product=next((node.labels.get(pool.gpu.product_label_key, "") for node in pool.nodes), ""),
        gpus=gpus or declared,
        gpus_allocatable=int(sum(node.allocatable.get(pool.resource_name, 0) for node in usable)) or declared,
        gpus_used_by_others=others,
        gpus_planned=uses.planned(pool),
        gpus_running=running,
        unlimited=pool.unlimited,
        findings=tuple(finding for finding in pools.findings if finding.object.name == name),
    )


def gpus_of(workload: Workload) -> int:
    """GPUs of all its replicas, as its annotations say what they are."""
    return workload.replicas * int(workload.option.get("tensor", 1)) * int(workload.option.get("pipeline", 1))
