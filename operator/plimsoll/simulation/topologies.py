"""Networks that servers and clients are placed on: files of the Topology Zoo with link delays, and synthetic ones.

The files are those of the Repetita data set: `NODES n`, a line of titles, n lines `label x y`; `EDGES m`, a line of
titles, m lines `label from to weight bandwidth delay`, where nodes are numbered from 0, both directions are listed and
delays are one-way microseconds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
FIBRE_KM_PER_SECOND = 200_000.0
DETOUR = 1.4
"""How much longer cables are than the straight line."""
ACCESS_SECONDS = 0.0005
"""One way, from a node to the network between sites."""
_REGIONS = 8
_WORLD_KM = (8000.0, 4000.0)
_REGION_KM = 150.0
"""Standard deviation of the sites around their region's middle."""


class TopologyError(ValueError):
    """A topology file that cannot be read; the message names file, line and what would be accepted."""


@dataclass(frozen=True, slots=True, eq=False)
class Topology:
    """Nodes with the round trips between them."""

    name: str
    nodes: tuple[str, ...]
    round_trip_seconds: Floats
    """(N, N): along the shortest ways; infinite where there is none."""


def read_topology(path: Path) -> Topology:
    """A file of the Repetita data set.

    Raises:
        TopologyError: the file is not of that form, or an edge names a node that does not exist.
        OSError: it cannot be read.
    """
    with path.open(encoding="utf-8") as lines:
        return parse_topology(path.stem, lines)


def parse_topology(name: str, lines: Iterable[str]) -> Topology:
    """The same from its lines."""
    reader = _Lines(name, lines)
    nodes = tuple(fields[0] for fields in reader.section("NODES", 3))
    one_way = np.full((len(nodes), len(nodes)), np.inf)
    np.fill_diagonal(one_way, 0.0)
    for fields in reader.section("EDGES", 6):
        try:
            begin, end, delay = int(fields[1]), int(fields[2]), float(fields[5]) * 1e-6
        except ValueError as error:
            raise reader.error("numbers for nodes and delay are accepted") from error
        if not (0 <= begin < len(nodes) and 0 <= end < len(nodes) and delay >= 0):
            raise reader.error(f"nodes from 0 to {len(nodes) - 1} and a delay from 0 are accepted")
        one_way[begin, end] = min(one_way[begin, end], delay)
    for middle in range(len(nodes)):
        one_way = np.minimum(one_way, one_way[:, middle, None] + one_way[None, middle, :])
    return Topology(name, nodes, one_way + one_way.T)


class _Lines:
    def __init__(self, name: str, lines: Iterable[str]) -> None:
        self._name, self._number = name, 0
        self._lines = self._counted(lines)

    def _counted(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            self._number += 1
            if line.strip():
                yield line.strip()

    def error(self, accepted: str) -> TopologyError:
        return TopologyError(f"{self._name}, line {self._number}: {accepted}")

    def section(self, title: str, columns: int) -> Iterator[list[str]]:
        head = next(self._lines, "").split()
        if len(head) != 2 or head[0] != title or not head[1].isdecimal():
            raise self.error(f"`{title} number` is accepted, not {' '.join(head)!r}")
        next(self._lines, None)
        for _ in range(int(head[1])):
            fields = next(self._lines, "").split()
            if len(fields) != columns:
                raise self.error(f"{columns} columns are accepted in {title}, not {len(fields)}")
            yield fields


def synthetic_topology(nodes: int, seed: int, regions: int = _REGIONS) -> Topology:
    """Sites around the middles of regions in a plane of 8,000 by 4,000 km; delays by distance."""
    stream = np.random.default_rng([seed, 7001])
    middles = stream.uniform(0.0, 1.0, (regions, 2)) * _WORLD_KM
    sites = middles[stream.integers(regions, size=nodes)] + stream.normal(0.0, _REGION_KM, (nodes, 2))
    kilometres = np.linalg.norm(sites[:, None, :] - sites[None, :, :], axis=2)
    one_way = kilometres * DETOUR / FIBRE_KM_PER_SECOND + 2 * ACCESS_SECONDS
    np.fill_diagonal(one_way, 0.0)
    return Topology(f"synthetic {nodes}", tuple(f"site-{number}" for number in range(nodes)), 2 * one_way)


@dataclass(frozen=True, slots=True, eq=False)
class Sites:
    """Nodes of a topology at which a client and servers are."""

    client: int
    servers: Ints
    """(S)"""

    def client_round_trips(self, topology: Topology) -> Floats:
        """(S): seconds between the client and each server."""
        return np.asarray(topology.round_trip_seconds[self.client, self.servers])

    def server_round_trips(self, topology: Topology) -> Floats:
        """(S, S): seconds between servers."""
        return np.asarray(topology.round_trip_seconds[np.ix_(self.servers, self.servers)])


def scattered(topology: Topology, servers: int, stream: np.random.Generator) -> Sites:
    """A client at any node, and each server at another node of its own.

    Raises:
        ValueError: the topology has too few nodes.
    """
    nodes = len(topology.nodes)
    if servers >= nodes:
        raise ValueError(f"{topology.name} has {nodes} nodes; at most {nodes - 1} servers are accepted, not {servers}")
    drawn = stream.permutation(nodes)[: servers + 1]
    return Sites(int(drawn[0]), drawn[1:].astype(np.int64))
