"""Nodes as servers of chains: what they have free, in which regions they and the requests are, and how far that is."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.planning.plan import HostDemand
from plimsoll.planning.pools import REGION_LABEL, Pool, Pools
from plimsoll.planning.snapshot import MeasuredTrip, PodFacts, Snapshot
from plimsoll.planning.stock import NodeStock, measure_stock

WITHIN_REGION_SECONDS = 0.001
"""Round trip."""
_OUT_OF_REACH_SECONDS = 1e4
HERE = "here"
"""Stands for a region that nobody named."""
Complain = Callable[[str, str, str], None]
"""Takes the reason, message and field of an error."""


@dataclass(frozen=True, slots=True)
class ChainServer:
    """A node's GPUs in a pool."""

    node: str
    pool: str
    accelerator: str
    region: str
    tensor: int
    """GPUs."""
    price_per_hour: float


class Sites:
    """The nodes that one LLMDeployment may use, beside what `pods` hold. Of the `spared` pools nothing is free."""

    def __init__(
        self,
        deployment: LLMDeployment,
        snapshot: Snapshot,
        pools: Pools,
        pods: Sequence[PodFacts],
        complain: Complain,
        spared: Collection[str] = (),
    ) -> None:
        wanted = deployment.spec.placement.pools
        for index, name in enumerate(wanted or ()):
            if name not in pools.usable:
                there = ", ".join(sorted(pools.usable)) or "none"
                field = f"spec.placement.pools[{index}]"
                complain("PoolNotFound", f"{field}: no usable GPUNodePool {name}; there are: {there}", field)
        self.pools = {name: pools.usable[name] for name in sorted(pools.usable) if wanted is None or name in wanted}
        for pool in self.pools.values():
            if pool.unlimited:
                message = (
                    f"the nodes of GPUNodePool {pool.name} are not known: give --nodes or Node manifests, or declare "
                    "spec.nodes.max and spec.gpusPerNode"
                )
                complain("NodesUnknown", message, "spec.placement.pools")
        self._regions = _regions(snapshot, self.pools.values())
        self._tensor = sorted(deployment.spec.placement.parallelism.tensor)
        stock = measure_stock(list(self.pools.values()), pods, snapshot.workloads, {})
        self._free: list[tuple[NodeStock, Pool, int]] = []
        left = dict(stock.gpu_limit)
        for node in stock.nodes:
            pool = self.pools[node.pool]
            gpus = int(min(node.free[0], left.get(pool.name, node.free[0])))
            if gpus:
                self._free.append((node, pool, gpus))
                if pool.name in left:
                    left[pool.name] -= gpus
        # What is spared is as near as before.
        self._nearest = next((self.server(node.name, pool, 1).region for node, pool, _ in self._free), HERE)
        self._free = [one for one in self._free if one[1].name not in spared]

    @property
    def gpus(self) -> int:
        """Free, of all nodes."""
        return sum(gpus for *_, gpus in self._free)

    @property
    def nodes(self) -> int:
        """With a free GPU."""
        return len(self._free)

    def degrees(self) -> list[int]:
        """GPUs that a server may have, where some node has as many free."""
        most = max((gpus for *_, gpus in self._free), default=0)
        return [one for one in self._tensor if one <= most]

    def free(self, tensor: int, host: HostDemand) -> list[ChainServer]:
        """A server for each node with so many free GPUs and room for the pod."""
        return [
            self.server(node.name, pool, tensor)
            for node, pool, gpus in self._free
            if gpus >= tensor
            and tensor <= pool.gpu.interconnect.max_tensor_parallel
            and node.free[1] >= host.cpu_cores
            and node.free[2] >= host.memory_bytes
        ]

    def server(self, node: str, pool: Pool, tensor: int) -> ChainServer:
        """A node as a server."""
        region = self._regions.get(node) or self._regions.get(pool.name) or HERE
        return ChainServer(node, pool.name, pool.gpu.name, region, tensor, float(pool.price_per_gpu_hour) * tensor)

    def nearest(self) -> str:
        """Region of the first free node: requests come from there where nobody says from where."""
        return self._nearest


def origins(deployment: LLMDeployment, nearest: str) -> tuple[tuple[str, ...], dict[str, tuple[float, ...]]]:
    """Regions of all classes, and the parts of each class that come from them."""
    weights: dict[str, dict[str, float]] = {}
    for traffic in deployment.spec.traffic:
        own = {origin.region: float(origin.share) for origin in traffic.origins if origin.share > 0}
        weights[traffic.name] = own or {nearest: 1.0}
    regions = tuple(sorted({region for own in weights.values() for region in own}))
    return regions, {
        name: tuple(own.get(region, 0.0) / sum(own.values()) for region in regions) for name, own in weights.items()
    }


def known_distances(policy: PlacementPolicySpec, measured: Sequence[MeasuredTrip]) -> dict[frozenset[str], float]:
    """Round trips in seconds by the two regions. What is measured takes the place of what the policy says."""
    declared = {
        frozenset((entry.region, entry.peer)): entry.milliseconds / 1000
        for entry in policy.network.round_trip_milliseconds
    }
    return declared | {frozenset((trip.region, trip.peer)): trip.milliseconds / 1000 for trip in measured}


def round_trips(
    known: Mapping[frozenset[str], float],
    regions: Sequence[str],
    servers: Sequence[ChainServer],
    complain: Complain | None = None,
) -> NDArray[np.float64]:
    """(C, S) seconds, from distances by region. Where one is not known, it is complained of, or out of reach."""
    trips = np.full((len(regions), len(servers)), WITHIN_REGION_SECONDS)
    missing: set[tuple[str, str]] = set()
    for row, origin in enumerate(regions):
        for column, server in enumerate(servers):
            if server.region == origin:
                continue
            trip = known.get(frozenset((origin, server.region)))
            if trip is None:
                missing.add((origin, server.region))
                trips[row, column] = _OUT_OF_REACH_SECONDS
            else:
                trips[row, column] = trip
    if complain is None:
        return trips
    for origin, region in sorted(missing):
        message = (
            f"the round trip between the regions {origin} and {region} is not known: "
            "spec.network.roundTripMilliseconds of PlacementPolicy default"
        )
        complain("RoundTripUnknown", message, "spec.traffic")
    return trips


def _regions(snapshot: Snapshot, usable: Iterable[Pool]) -> dict[str, str]:
    """Of pools and nodes, by name: what a pool declares, else the label of the node."""
    found: dict[str, str] = {
        pool.name: pool.spec.location.region
        for pool in snapshot.pools
        if pool.spec.location is not None and pool.spec.location.region
    }
    declared = dict(found)
    for pool in usable:
        for node in pool.nodes:
            region = declared.get(pool.name) or node.labels.get(REGION_LABEL)
            if region:
                found[node.name] = region
    return found
