"""Which nodes belong to which pool, what GPU they really carry, and what is wrong with that."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from decimal import Decimal

from plimsoll.api.common import to_wire
from plimsoll.api.gpunodepool import GPUNodePool
from plimsoll.catalog import GPU, Catalog, UnknownName
from plimsoll.performance import Link
from plimsoll.planning.facts import pool_gpu, pool_network
from plimsoll.planning.plan import Finding, Severity
from plimsoll.planning.snapshot import NodeFacts, ObjectRef, Taint

ZONE_LABEL = "topology.kubernetes.io/zone"
REGION_LABEL = "topology.kubernetes.io/region"
_USUAL_GPUS_PER_NODE = 8
"""Of nodes that nobody described: what HGX and OAM baseboards carry."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a pool has to offer, whichever nodes are there: options depend on this alone."""

    name: str
    gpu: GPU
    resource_name: str
    price_per_gpu_hour: Decimal
    node_selector: Mapping[str, str]
    """Labels that nodes must carry; rendered as the pods' node selector."""
    tolerations: tuple[Mapping[str, str | int], ...]
    gpus_per_node: int
    """Largest replica that fits a node; what is declared when there are no nodes."""
    one_node: bool
    """Never more than one node may be used, so that no replica can take several."""
    network: Link
    """From one pipeline stage to the next in another node."""


@dataclass(frozen=True, slots=True)
class Pool(Offer):
    """A usable pool: its offer, and the nodes that are its alone."""

    nodes: tuple[NodeFacts, ...]
    unlimited: bool
    """The stock is not known (the CLI without nodes)."""
    declared_stock: bool
    """Nodes are not known, but their number is declared (the CLI without nodes)."""
    declared_gpus_per_node: int
    """0 where nothing is declared."""
    max_nodes: int | None
    reserved_gpus: int

    @property
    def offer(self) -> Offer:
        """Without the nodes."""
        return Offer(**{item.name: getattr(self, item.name) for item in fields(Offer)})


@dataclass(frozen=True, slots=True)
class Pools:
    """Usable pools by name, and the findings about all pools."""

    usable: Mapping[str, Pool]
    findings: tuple[Finding, ...]
    rejected: Mapping[str, str]
    """Pools that cannot be used, with the reason in few words."""


def likeness(pools: Mapping[str, Pool]) -> dict[str, str]:
    """For each pool the first whose nodes are the same to a replica: they differ in price, place and tolerations alone.

    What runs how fast is asked once for all of them.
    """
    first: list[tuple[Offer, str]] = []
    found: dict[str, str] = {}
    for name in sorted(pools):
        nodes = replace(pools[name].offer, name="", price_per_gpu_hour=Decimal(), node_selector={}, tolerations=())
        found[name] = next((known for other, known in first if other == nodes), name)
        if found[name] == name:
            first.append((nodes, name))
    return found


def resolve_pools(declared: Sequence[GPUNodePool], nodes: Sequence[NodeFacts] | None, catalog: Catalog) -> Pools:
    """Match nodes to pools. A node that two pools claim is used by neither, since its GPUs would be counted twice."""
    findings: list[Finding] = []
    rejected: dict[str, str] = {}
    resolved: dict[str, Pool] = {}
    index = None if nodes is None else _Nodes(nodes)
    for pool in declared:
        try:
            resolved[pool.metadata.name] = _resolve(pool, index, catalog)
        except UnknownName as error:
            rejected[pool.metadata.name] = "its accelerator is unknown"
            findings.append(
                _finding(pool.metadata.name, "UnknownAccelerator", f"spec.accelerator: {error}", "spec.accelerator")
            )
    claims: dict[str, list[str]] = {}
    for claimant in resolved.values():
        for node in claimant.nodes:
            claims.setdefault(node.name, []).append(claimant.name)
    contested = {name: tuple(sorted(claimants)) for name, claimants in claims.items() if len(claimants) > 1}
    usable: dict[str, Pool] = {}
    for found in resolved.values():
        usable[found.name], problems = _check_nodes(found, contested, catalog)
        findings.extend(problems)
    return Pools(usable=usable, findings=tuple(findings), rejected=rejected)


class _Nodes:
    """Nodes by their labels: hundreds of pools look for theirs among thousands."""

    def __init__(self, nodes: Sequence[NodeFacts]) -> None:
        self._nodes = nodes
        self._by_label: dict[str, dict[str, list[NodeFacts]]] = {}

    def carrying(self, labels: Mapping[str, str], resource: str) -> tuple[NodeFacts, ...]:
        """Nodes with all these labels and the resource, in their order."""
        groups = [self._with(key).get(value, []) for key, value in labels.items()]
        fewest: Sequence[NodeFacts] = min(groups, key=len, default=self._nodes)
        return tuple(node for node in fewest if node.allocatable.get(resource, 0) >= 1 and _carries(node, labels))

    def _with(self, key: str) -> Mapping[str, list[NodeFacts]]:
        if key not in self._by_label:
            found: dict[str, list[NodeFacts]] = {}
            for node in self._nodes:
                if key in node.labels:
                    found.setdefault(node.labels[key], []).append(node)
            self._by_label[key] = found
        return self._by_label[key]


def _resolve(pool: GPUNodePool, nodes: _Nodes | None, catalog: Catalog) -> Pool:
    spec = pool.spec
    gpu = pool_gpu(pool, catalog)
    resource = spec.resource_name or gpu.resource_name
    declared = dict(spec.node_selector.match_labels) if spec.node_selector is not None else {}
    location = spec.location
    if location is not None and location.region:
        declared.setdefault(REGION_LABEL, location.region)
    if location is not None and location.zone:
        declared.setdefault(ZONE_LABEL, location.zone)
    carrying = () if nodes is None else nodes.carrying(declared, resource)
    if spec.node_selector is None:
        matching, by_product = _by_product(gpu, carrying, catalog)
        selector = {**declared, **by_product}
    else:
        matching, selector = carrying, declared
    per_node = spec.gpus_per_node or 0
    found = max((int(node.allocatable[resource]) for node in matching), default=0)
    maximum = spec.nodes.max
    return Pool(
        name=pool.metadata.name,
        gpu=gpu,
        resource_name=resource,
        price_per_gpu_hour=spec.price_per_gpu_hour,
        node_selector=selector,
        tolerations=tuple(to_wire(item) for item in spec.tolerations) or _default_tolerations(resource),
        nodes=matching,
        unlimited=nodes is None and maximum is None,
        declared_stock=nodes is None and maximum is not None,
        gpus_per_node=found or per_node or _USUAL_GPUS_PER_NODE,
        one_node=len(matching) == 1 or maximum == 1,
        network=pool_network(pool, gpu),
        declared_gpus_per_node=per_node,
        max_nodes=maximum,
        reserved_gpus=spec.gpus.reserved,
    )


def _by_product(
    gpu: GPU, nodes: Sequence[NodeFacts], catalog: Catalog
) -> tuple[tuple[NodeFacts, ...], Mapping[str, str]]:
    """Nodes whose product label is the GPU's. The node selector needs one value: the first of the catalog's that is
    there, whatever the numbers of nodes, since it is part of the placements' names."""
    by_label: dict[str, list[NodeFacts]] = {}
    for node in nodes:
        label = node.labels.get(gpu.product_label_key, "")
        if _product(gpu, node, catalog) == gpu.name:
            by_label.setdefault(label, []).append(node)
    if not by_label:
        first = gpu.product_labels[0] if gpu.product_labels else ""
        return (), {gpu.product_label_key: first} if first else {}
    order = {product: number for number, product in enumerate(gpu.product_labels)}
    label = min(by_label, key=lambda value: (order.get(value, len(order)), value))
    return tuple(by_label[label]), {gpu.product_label_key: label}


def _check_nodes(pool: Pool, contested: Mapping[str, tuple[str, ...]], catalog: Catalog) -> tuple[Pool, list[Finding]]:
    """The pool with only the nodes that it may use, and what is to be said about the others."""
    findings: list[Finding] = []
    disputed = [node for node in pool.nodes if node.name in contested]
    if disputed:
        rivals = sorted({name for node in disputed for name in contested[node.name]} - {pool.name})
        findings.append(
            _finding(
                pool.name,
                "NodesContested",
                f"spec.nodeSelector: {_names(disputed)} also claimed by GPUNodePool {', '.join(rivals)}; "
                "used by neither for new replicas until only one selector matches",
                "spec.nodeSelector",
            )
        )
    drifted = [
        node
        for node in pool.nodes
        if pool.gpu.product_labels
        and node not in disputed
        and pool.gpu.product_label_key in node.labels
        and _product(pool.gpu, node, catalog) != pool.gpu.name
    ]
    if drifted:
        found = sorted({node.labels[pool.gpu.product_label_key] for node in drifted})
        expected = " or ".join(pool.gpu.product_labels)
        findings.append(
            _finding(
                pool.name,
                "ProductMismatch",
                f"spec.accelerator: {pool.gpu.name} expects {pool.gpu.product_label_key}={expected}, "
                f"but {_names(drifted)} carry {', '.join(found)}; not used until they agree",
                "spec.accelerator",
            )
        )
    kept = tuple(
        replace(node, unschedulable_reason=node.unschedulable_reason or _repelling_taint(node, pool.tolerations))
        for node in pool.nodes
        if node not in disputed and node not in drifted
    )
    if not pool.nodes and not pool.unlimited and not pool.declared_stock:
        wanted = ", ".join(f"{key}={value}" for key, value in sorted(pool.node_selector.items()))
        findings.append(
            _finding(
                pool.name,
                "NoNodes",
                f"spec.nodeSelector: no node with {pool.resource_name} carries {wanted or 'any label'}",
                "spec.nodeSelector",
            )
        )
    idle = [node for node in kept if node.unschedulable_reason]
    if idle:
        reasons = ", ".join(sorted({node.unschedulable_reason for node in idle}))
        findings.append(
            _finding(
                pool.name,
                "NodesUnavailable",
                f"{_names(idle)} take no new replicas ({reasons})",
                "",
                Severity.WARNING,
            )
        )
    fewer = [node for node in kept if node.allocatable[pool.resource_name] < pool.declared_gpus_per_node]
    if fewer:
        least = min(int(node.allocatable[pool.resource_name]) for node in fewer)
        findings.append(
            _finding(
                pool.name,
                "GPUsPerNodeMismatch",
                f"spec.gpusPerNode: {pool.declared_gpus_per_node} declared, but {_names(fewer)} report "
                f"{'only ' if len(fewer) == 1 else 'as few as '}{least} {pool.resource_name}; what they report counts",
                "spec.gpusPerNode",
                Severity.WARNING,
            )
        )
    return replace(pool, nodes=kept), findings


def _product(gpu: GPU, node: NodeFacts, catalog: Catalog) -> str:
    """Catalog name of the GPU that a node's product label names; empty when it is missing or names no whole GPU."""
    found = catalog.gpu_by_product_label(node.labels.get(gpu.product_label_key, ""))
    return "" if found is None else found.name


def _repelling_taint(node: NodeFacts, tolerations: Sequence[Mapping[str, str | int]]) -> str:
    """The first taint that keeps the pool's pods away, in words; empty when there is none."""
    for taint in node.taints:
        if taint.effect in ("NoSchedule", "NoExecute") and not any(_tolerates(item, taint) for item in tolerations):
            shown = f"{taint.key}={taint.value}" if taint.value else taint.key
            return f"taint {shown}:{taint.effect}, which spec.tolerations does not tolerate"
    return ""


def _tolerates(toleration: Mapping[str, str | int], taint: Taint) -> bool:
    if toleration.get("effect") not in (None, taint.effect) or toleration.get("key") not in (None, taint.key):
        return False
    return toleration.get("operator") == "Exists" or toleration.get("value", "") == taint.value


def _carries(node: NodeFacts, labels: Mapping[str, str]) -> bool:
    return all(node.labels.get(key) == value for key, value in labels.items())


def _default_tolerations(resource: str) -> tuple[Mapping[str, str | int], ...]:
    """GPU nodes usually carry a taint named like their resource; tolerating it is what device plugins' guides say."""
    return ({"key": resource, "operator": "Exists", "effect": "NoSchedule"},)


def _names(nodes: Sequence[NodeFacts]) -> str:
    shown = ", ".join(node.name for node in nodes[:3])
    more = f" and {len(nodes) - 3} more" if len(nodes) > 3 else ""
    return f"{'node' if len(nodes) == 1 else 'nodes'} {shown}{more}"


def _finding(name: str, reason: str, message: str, field: str, severity: Severity = Severity.ERROR) -> Finding:
    return Finding(ObjectRef("GPUNodePool", "", name), reason, message, severity, field)
