"""Chains that run, read back from the workloads of their servers, and what became of their nodes."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum

from plimsoll.planning.snapshot import NodeFacts, PodFacts, Workload

Place = tuple[str, str]
"""Namespace and name."""


class Health(Enum):
    """Whether a chain can serve."""

    WHOLE = "whole"
    BROKEN = "broken"
    """A node is not ready or lets a server not start, or a server's workload is missing."""
    GONE = "gone"
    """A node does not exist any more: these servers will never work together again."""


@dataclass(frozen=True, slots=True)
class RunningChain:
    """Workloads that say that they are one chain."""

    name: str
    servers: tuple[Workload, ...]
    """In order; some may be missing."""
    partition: tuple[int, ...]
    """Layers of all its servers."""
    health: Health

    @property
    def model(self) -> str:
        return self.servers[0].option.get("model", "")

    @property
    def precision(self) -> str:
        return self.servers[0].option.get("precision", "")

    @property
    def places(self) -> int:
        return int(self.servers[0].option["max-num-seqs"])

    @property
    def max_model_length(self) -> int:
        return int(self.servers[0].option["max-model-length"])

    @property
    def cache_tokens(self) -> int:
        return int(self.servers[0].option.get("cache-tokens", 0))


def running_chains(
    workloads: Iterable[Workload], nodes: Sequence[NodeFacts] | None, closed: Set[str] = frozenset()
) -> tuple[RunningChain, ...]:
    """The chains of one LLMDeployment, by name.

    Args:
        nodes: None where they are not known; they are taken to be well.
        closed: names of servers that are shut out of their nodes.
    """
    servers: dict[str, list[Workload]] = {}
    for item in workloads:
        if _readable(item):
            servers.setdefault(item.option["chain"], []).append(item)
    known = None if nodes is None else {node.name: node.unschedulable_reason for node in nodes}
    return tuple(_chain(name, servers[name], known, closed) for name in sorted(servers))


def shut_out(
    workloads: Iterable[Workload],
    pods: Sequence[PodFacts],
    nodes: Sequence[NodeFacts] | None,
    resources: Mapping[str, str],
    others: Set[Place],
) -> frozenset[str]:
    """Servers of one LLMDeployment that are not on their nodes and cannot come there: the node takes no pods, or
    somebody else has its GPUs.

    Args:
        resources: of GPUs, by pool.
        others: namespace and name of all workloads of other LLMDeployments. Pods of no workload are on their way out.
    """
    by_node: dict[str, list[PodFacts]] = {}
    for pod in pods:
        if pod.node and not pod.deleting:
            by_node.setdefault(pod.node, []).append(pod)
    known = {node.name: node for node in nodes or ()}
    found = set()
    for item in filter(_readable, workloads):
        node, here = known.get(item.option["node"]), by_node.get(item.option["node"], [])
        if node is None or any((pod.namespace, pod.placement) == (item.namespace, item.name) for pod in here):
            continue
        resource = resources.get(item.option.get("pool", ""), "")
        taken = sum(
            pod.requests.get(resource, 0.0)
            for pod in here
            if not pod.placement or (pod.namespace, pod.placement) in others
        )
        if node.unschedulable_reason or node.allocatable.get(resource, 0.0) - taken < int(item.option["tensor"]):
            found.add(item.name)
    return frozenset(found)


def answers(workload: Workload) -> bool:
    """Whether requests come to it, and metrics from it: not to the later servers of a chain."""
    return not chain_of(workload) or int(workload.option["stage"]) == 0


def chain_of(workload: Workload) -> str:
    """Name of the chain that a workload is a server of; empty for others."""
    return workload.option["chain"] if _readable(workload) else ""


def _chain(name: str, workloads: Sequence[Workload], nodes: dict[str, str] | None, closed: Set[str]) -> RunningChain:
    ordered = tuple(sorted(workloads, key=lambda item: (int(item.option["stage"]), item.name)))
    said = {(item.option["layers"], item.option["max-num-seqs"], item.option["tensor"]) for item in ordered}
    partition = tuple(int(part) for part in ordered[0].option["layers"].split(","))
    numbers = [int(item.option["stage"]) for item in ordered]
    health = Health.WHOLE
    if len(said) > 1 or numbers != list(range(len(partition))) or any(item.replicas != 1 for item in ordered):
        health = Health.BROKEN
    for item in ordered if nodes is not None else ():
        reason = (nodes or {}).get(item.option["node"], "gone")
        if reason == "gone":
            health = Health.GONE
        elif (reason not in ("", "cordoned") or item.name in closed) and health is Health.WHOLE:
            health = Health.BROKEN
    return RunningChain(name, ordered, partition, health)


def _readable(item: Workload) -> bool:
    """People can edit annotations: what cannot be read makes an ordinary workload that nobody plans."""
    said = item.option
    numbers = [said.get(name, "") for name in ("stage", "max-num-seqs", "tensor", "max-model-length")]
    numbers += [said.get("cache-tokens", "0"), *said.get("layers", "").split(",")]
    return bool(said.get("chain")) and bool(said.get("node")) and all(_number(text) for text in numbers)


def _number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 9
