"""What each node has left for replicas of the options at hand, and where such replicas run already."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from plimsoll.allocation.problem import ANY_NUMBER
from plimsoll.planning.lost import going
from plimsoll.planning.pools import Pool
from plimsoll.planning.snapshot import NodeFacts, PodFacts, Workload

UNBOUNDED = 1e15
"""Stands for CPU and memory of nodes that nobody described."""
NO_NODE = ""


@dataclass(frozen=True, slots=True)
class NodeStock:
    """One node's free GPUs, CPU cores and memory bytes, the running replicas of known options taken as free."""

    pool: str
    name: str
    free: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Stock:
    """Stock of all limited pools, and where options run."""

    nodes: tuple[NodeStock, ...]
    running: tuple[tuple[str, str, str, int], ...]
    """(namespace, placement, node, pods); the node is `NO_NODE` in pools without end. Whole replicas only."""
    gpu_limit: Mapping[str, float]
    """GPUs of a pool that may be in use at once by the options at hand."""


Resources = tuple[float, float, float]
"""GPUs, CPU cores, bytes of memory."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What one pod of an option's replicas asks for, and where."""

    pool: str
    resources: Resources
    pods: int = 1
    """Of which one replica consists."""
    per_node: int = ANY_NUMBER
    """Pods that one node may hold."""


def measure_stock(
    pools: Iterable[Pool],
    pods: Sequence[PodFacts],
    workloads: Sequence[Workload],
    demands: Mapping[tuple[str, str], Demand],
) -> Stock:
    """Take everybody else's requests off the nodes.

    Args:
        demands: by (namespace, placement) of the known options. Their running pods are counted as running, and those
            that are about to be bound too, where there is room; all other pods, Plimsoll's own obsolete ones and those
            of replicas that lack a pod for good included, are in the way. On a node that is going none counts.
    """
    starting = _starting(pods, workloads, demands)
    by_node: dict[str, list[PodFacts]] = {}
    for pod in pods:
        if pod.node:
            by_node.setdefault(pod.node, []).append(pod)
    stock: list[NodeStock] = []
    running: dict[tuple[str, str, str], int] = {}
    limits: dict[str, float] = {}
    for pool in pools:
        if pool.unlimited:
            for (namespace, placement), count in starting.items():
                wanted = demands.get((namespace, placement))
                if wanted is not None and wanted.pool == pool.name and count >= wanted.pods:
                    running[namespace, placement, NO_NODE] = count // wanted.pods * wanted.pods
            continue
        measured = [
            _measure(pool, node, by_node.get(node.name, ()), demands, running) for node in _usable(pool, by_node)
        ]
        measured.extend(_declared_nodes(pool))
        placed = _place(pool, measured, starting, demands, running)
        measured = _without_halves(pool, measured, demands, running, placed)
        stock.extend(measured)
        if pool.reserved_gpus:
            names = {node.name for node in measured}
            others = sum(
                pod.requests.get(pool.resource_name, 0.0) for pod in pods if pod.node in names and not pod.placement
            )
            still_reserved = max(0.0, pool.reserved_gpus - others)
            limits[pool.name] = max(0.0, sum(node.free[0] for node in measured) - still_reserved)
    rows = tuple((*key, count) for key, count in sorted(running.items()))
    return Stock(nodes=tuple(stock), running=rows, gpu_limit=limits)


def _usable(pool: Pool, pods: Mapping[str, Sequence[PodFacts]]) -> list[NodeFacts]:
    """The pool's nodes up to its limit: first those that Plimsoll uses, then those that take pods, each by name."""

    def rank(node: NodeFacts) -> tuple[bool, bool, str]:
        unused = not any(pod.placement for pod in pods.get(node.name, ()))
        return unused, bool(node.unschedulable_reason), node.name

    ranked = sorted(pool.nodes, key=rank)
    return ranked if pool.max_nodes is None else ranked[: pool.max_nodes]


def _declared_nodes(pool: Pool) -> list[NodeStock]:
    """Nodes that are only declared (the CLI without nodes): their number and GPUs are known, nothing else."""
    if pool.nodes or not pool.declared_stock or pool.max_nodes is None:
        return []
    free = (float(pool.gpus_per_node), UNBOUNDED, UNBOUNDED)
    return [NodeStock(pool.name, f"{pool.name}-{number}", free) for number in range(pool.max_nodes)]


def _starting(
    pods: Sequence[PodFacts], workloads: Sequence[Workload], demands: Mapping[tuple[str, str], Demand]
) -> dict[tuple[str, str], int]:
    """Pods by (namespace, placement) that are asked for and not bound yet, without those that fit nowhere.

    Without them a round in the middle of a start would see half of its own plan and make another one.
    """
    settled: dict[tuple[str, str], int] = {}
    for pod in pods:
        if pod.placement and not pod.deleting and (pod.node or pod.unschedulable):
            key = (pod.namespace, pod.placement)
            settled[key] = settled.get(key, 0) + 1
    missing: dict[tuple[str, str], int] = {}
    for item in workloads:
        key = (item.namespace, item.name)
        asked = item.replicas * (demands[key].pods if key in demands else 1)
        missing[key] = asked - settled.get(key, 0)
    return {key: count for key, count in sorted(missing.items()) if count > 0}


def _place(
    pool: Pool,
    nodes: Sequence[NodeStock],
    starting: Mapping[tuple[str, str], int],
    demands: Mapping[tuple[str, str], Demand],
    running: dict[tuple[str, str, str], int],
) -> dict[tuple[str, str], list[str]]:
    """Count starting pods as running where they will fit: on the fullest node that has room. Returns these nodes."""
    placed: dict[tuple[str, str], list[str]] = {}
    closed = {node.name for node in pool.nodes if node.unschedulable_reason or going(node)}
    left = {node.name: list(node.free) for node in nodes if node.name not in closed}
    for (namespace, placement, node), count in running.items():
        if node in left:
            demand = demands[namespace, placement].resources
            left[node] = [value - count * asked for value, asked in zip(left[node], demand, strict=True)]
    for (namespace, placement), count in starting.items():
        wanted = demands.get((namespace, placement))
        if wanted is None or wanted.pool != pool.name:
            continue
        for _ in range(count):
            fitting = [
                (free[0], name)
                for name, free in left.items()
                if all(value >= asked for value, asked in zip(free, wanted.resources, strict=True))
                and running.get((namespace, placement, name), 0) < wanted.per_node
            ]
            if not fitting:
                break
            node = min(fitting)[1]
            left[node] = [value - asked for value, asked in zip(left[node], wanted.resources, strict=True)]
            running[namespace, placement, node] = running.get((namespace, placement, node), 0) + 1
            placed.setdefault((namespace, placement), []).append(node)
    return placed


def _without_halves(
    pool: Pool,
    nodes: Sequence[NodeStock],
    demands: Mapping[tuple[str, str], Demand],
    running: dict[tuple[str, str, str], int],
    starting: Mapping[tuple[str, str], Sequence[str]],
) -> list[NodeStock]:
    """Pods that make no whole replica do not count as running: what holds a node already is in the way there.

    Args:
        starting: nodes of the pods that are not bound yet; these go first, and leave their place.
    """
    names = {node.name for node in nodes}
    taken: dict[str, Resources] = {}
    for key, demand in demands.items():
        if demand.pool != pool.name or demand.pods == 1:
            continue
        mine = sorted(node for *owner, node in running if tuple(owner) == key and node in names)
        left_over = sum(running[(*key, node)] for node in mine) % demand.pods
        unbound = list(starting.get(key, ()))[-left_over:] if left_over else []
        bound = [node for node in mine for _ in range(running[(*key, node)])]
        for node in unbound:
            bound.remove(node)
        held = bound[-(left_over - len(unbound)) :] if left_over > len(unbound) else []
        for node in [*unbound, *held]:
            running[(*key, node)] -= 1
            if running[(*key, node)] == 0:
                del running[(*key, node)]
        for node in held:
            before = taken.get(node, (0.0, 0.0, 0.0))
            taken[node] = _sum(before, demand.resources)
    return [
        replace(node, free=_sum(node.free, taken[node.name], sign=-1.0)) if node.name in taken else node
        for node in nodes
    ]


def _sum(one: Resources, other: Resources, sign: float = 1.0) -> Resources:
    return (one[0] + sign * other[0], one[1] + sign * other[1], one[2] + sign * other[2])


def _measure(
    pool: Pool,
    node: NodeFacts,
    pods: Sequence[PodFacts],
    demands: Mapping[tuple[str, str], Demand],
    running: dict[tuple[str, str, str], int],
) -> NodeStock:
    free = [
        node.allocatable.get(pool.resource_name, 0.0),
        node.allocatable.get("cpu", 0.0),
        node.allocatable.get("memory", 0.0),
    ]
    held = [0.0, 0.0, 0.0]
    lost = bool(going(node))
    for pod in pods:
        counts = pod.placement and not pod.deleting and not lost
        demand = demands.get((pod.namespace, pod.placement)) if counts else None
        if demand is not None and demand.pool == pool.name:
            key = (pod.namespace, pod.placement, node.name)
            running[key] = running.get(key, 0) + 1
            held = [sum(pair) for pair in zip(held, demand.resources, strict=True)]
        else:
            free[0] -= pod.requests.get(pool.resource_name, 0.0)
            free[1] -= pod.requests.get("cpu", 0.0)
            free[2] -= pod.requests.get("memory", 0.0)
    if node.unschedulable_reason or lost:
        free = held
    # What runs there fits, whatever rounding of requests says.
    room = [max(value, least) for value, least in zip(free, held, strict=True)]
    return NodeStock(pool.name, node.name, (room[0], room[1], room[2]))
