"""A batch of requests that are all there at once, placed and routed without a solver: for instances that the joint
program cannot solve, and as good as it on those that it can."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.conservative import place_conservatively
from plimsoll.chains.local import improved
from plimsoll.chains.problem import ChainProblem, Floats, Ints, Placement
from plimsoll.chains.routes import Hops, Path, Route, decode_costs, hops_of, shortest
from plimsoll.chains.stages import place_in_stages, stage_numbers

FEW_CLIENTS = 3


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """A placement, a route per request, and the sum of their times as `solve_jointly` counts it."""

    placement: Placement
    routes: tuple[Route, ...]
    total_seconds: float


def place_batch(problem: ChainProblem, clients: Sequence[int]) -> Batch | None:
    """Place blocks for one request of each entry of `clients`, all of them at once; None where none is found.

    From CG-BP's placements for up to that many sessions and from placements in stages, each improved by local search.
    """
    best: Batch | None = None
    for start in _starts(problem, len(clients)):
        found = routed(
            problem, improved(problem, start, lambda placement: _total(problem, placement, clients)), clients
        )
        if found is not None and (best is None or found.total_seconds < best.total_seconds):
            best = found
    return best


def routed(problem: ChainProblem, placement: Placement, clients: Sequence[int]) -> Batch | None:
    """Each request in its turn by the shortest route that has room, the clients in every order (each first, where they
    are many), the best of these; None where a request finds no room in any."""
    hops = hops_of(placement, problem.blocks)
    slots = placement.cache_slots(problem)
    costs = {client: decode_costs(problem, hops, client) for client in sorted(set(clients))}
    best: tuple[float, list[Path]] = math.inf, []
    for order in _orders(list(costs)):
        turns = sorted(range(len(clients)), key=lambda number: order.index(clients[number]))
        paths = _in_turn(hops, slots.copy(), [costs[clients[number]] for number in turns], best[0])
        if paths is not None:
            by_request = [path for _, path in sorted(zip(turns, paths, strict=True), key=lambda pair: pair[0])]
            best = sum(path.cost for path in paths), by_request
    if math.isinf(best[0]):
        return None
    return Batch(placement, tuple(hops.route(path.hops) for path in best[1]), problem.output_tokens * best[0])


def _in_turn(hops: Hops, slots: Ints, costs: Sequence[Floats], below: float) -> list[Path] | None:
    """Paths for these costs one after the other; None where one has no room, or all together cost `below` or more."""
    need = hops.processed
    paths: list[Path] = []
    total = 0.0
    for cost in costs:
        path = shortest(hops, np.where(slots[hops.server] >= need, cost, np.inf))
        if path is None or (total := total + path.cost) >= below:
            return None
        chosen = list(path.hops)
        slots[hops.server[chosen]] -= need[chosen]
        paths.append(path)
    return paths


def _orders(clients: Sequence[int]) -> Iterator[Sequence[int]]:
    if len(clients) <= FEW_CLIENTS:
        yield from itertools.permutations(clients)
        return
    for number in range(len(clients)):
        yield [*clients[number:], *clients[:number]]


def _total(problem: ChainProblem, placement: Placement, clients: Sequence[int]) -> float:
    found = routed(problem, placement, clients)
    return math.inf if found is None else found.total_seconds


def _starts(problem: ChainProblem, requests: int) -> Iterator[Placement]:
    seen: set[bytes] = set()
    everybody = np.arange(problem.servers)
    conservative = (place_conservatively(problem, sessions) for sessions in range(1, requests + 1))
    placements = [found.placement for found in conservative if found.feasible]
    for stages in stage_numbers(problem, everybody):
        placement, _ = place_in_stages(problem, everybody, stages)
        if placement is not None:
            placements.append(placement)
    for placement in placements:
        name = placement.first.tobytes() + placement.count.tobytes()
        if name not in seen:
            seen.add(name)
            yield placement
