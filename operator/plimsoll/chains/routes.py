"""Routes through a placement: which servers, in order, process all blocks of a session.

A server once entered processes everything from the next needed block to the end of its interval. So a route is a path
over block positions, and a server leads from any position inside its interval to the interval's end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.problem import SLACK, ChainProblem, Floats, Ints, Placement


@dataclass(frozen=True, slots=True)
class Route:
    """Servers in order with the blocks that each processes."""

    servers: tuple[int, ...]
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Hops:
    """Every useful hop of a placement: from a position that routes can reach, by a server, to its interval's end.

    Sorted by descending position, then server: the order in which `shortest` looks at them.
    """

    server: Ints
    """(H)"""
    start: Ints
    """(H): next needed block before the hop."""
    stop: Ints
    """(H): next needed block after it."""
    bounds: tuple[tuple[int, int, int], ...]
    """(position, first hop, hop after the last) by descending position."""
    blocks: int

    @property
    def processed(self) -> Ints:
        """(H): blocks that the server processes."""
        return self.stop - self.start

    def route(self, chosen: Sequence[int]) -> Route:
        """The route that these hops make, in their order."""
        index = list(chosen)
        return Route(tuple(self.server[index].tolist()), tuple(self.processed[index].tolist()))


def hops_of(placement: Placement, blocks: int) -> Hops:
    """All hops from positions that some route reaches."""
    first, end = placement.first, placement.end
    hosting = placement.count > 0
    reachable = np.zeros(blocks + 1, dtype=bool)
    reachable[0] = True
    by_position: dict[int, Ints] = {}
    for position in range(blocks):
        if reachable[position]:
            usable = np.flatnonzero(hosting & (first <= position) & (position < end))
            by_position[position] = usable
            reachable[end[usable]] = True
    servers: list[Ints] = []
    bounds: list[tuple[int, int, int]] = []
    count = 0
    for position in sorted(by_position, reverse=True):
        usable = by_position[position]
        servers.append(usable)
        bounds.append((position, count, count + len(usable)))
        count += len(usable)
    server = np.concatenate(servers) if servers else np.zeros(0, dtype=np.int64)
    start = np.zeros(len(server), dtype=np.int64)
    for position, low, high in bounds:
        start[low:high] = position
    return Hops(server=server, start=start, stop=end[server], bounds=tuple(bounds), blocks=blocks)


@dataclass(frozen=True, slots=True)
class Path:
    """Hops in order and what they cost together."""

    cost: float
    hops: tuple[int, ...]


def shortest(hops: Hops, cost: Floats) -> Path | None:
    """The cheapest path for a cost per hop (H; infinite closes it); None where there is none.

    Among equal costs (within 1e-9) the lexicographically smallest list of servers.
    """
    best = np.full(hops.blocks + 1, np.inf)
    best[hops.blocks] = 0.0
    choice = np.full(hops.blocks + 1, -1, dtype=np.int64)
    for position, low, high in hops.bounds:
        if low == high:
            continue
        totals = cost[low:high] + best[hops.stop[low:high]]
        least = float(totals.min())
        if np.isfinite(least):
            number = int(np.flatnonzero(totals <= least + SLACK * max(1.0, abs(least)))[0])
            best[position], choice[position] = totals[number], low + number
    if not np.isfinite(best[0]):
        return None
    chosen: list[int] = []
    position = 0
    while position < hops.blocks:
        chosen.append(int(choice[position]))
        position = int(hops.stop[chosen[-1]])
    return Path(float(cost[chosen].sum()), tuple(chosen))


def session_costs(problem: ChainProblem, hops: Hops, client: int) -> Floats:
    """(H): seconds of a whole session per hop, waits apart."""
    server = hops.server
    return np.asarray(
        problem.session_trip_seconds[client][server] + problem.session_block_seconds[server] * hops.processed
    )


def decode_costs(problem: ChainProblem, hops: Hops, client: int) -> Floats:
    """(H): seconds of one output token per hop."""
    server = hops.server
    return np.asarray(
        problem.decode_trip_seconds[client][server] + problem.decode_block_seconds[server] * hops.processed
    )


def prefill_seconds(problem: ChainProblem, route: Route, client: int) -> float:
    """The prompt's pass over a route."""
    return sum(
        float(problem.prefill_trip_seconds[client, server] + problem.prefill_block_seconds[server] * count)
        for server, count in zip(route.servers, route.blocks, strict=True)
    )


def session_seconds(problem: ChainProblem, route: Route, client: int) -> float:
    """A whole session on a route, without waiting and setup."""
    decode = sum(
        float(problem.decode_trip_seconds[client, server] + problem.decode_block_seconds[server] * count)
        for server, count in zip(route.servers, route.blocks, strict=True)
    )
    return prefill_seconds(problem, route, client) + (problem.output_tokens - 1) * decode
