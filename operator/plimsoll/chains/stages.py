"""Placement in stages: a class of like servers shares the model in K consecutive parts, with balanced capacity.

Fewest hops are fastest, but a server that is full of weights has no memory for sessions. Two A100 with 35 blocks of
BLOOM each carry four times the sessions of two with 53 and 17, at the same service time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.problem import ChainProblem, Floats, Ints, Placement, whole

MANY_CUTS = 400
"""Cuts that are tried for two stages at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Servers by speed: those of a class take part in the same stages."""

    members: tuple[Ints, ...]
    """Server numbers by class, fastest class first; within a class by the mean round trip of all clients."""


def classes_of(problem: ChainProblem, most: int = 4) -> Classes:
    """Classes of servers with the same time per block; the nearest are merged where there are more than `most`."""
    per_block = problem.session_block_seconds
    values = np.unique(per_block)
    groups: list[list[float]] = [[float(value)] for value in values]
    while len(groups) > most:
        ratios = [groups[number + 1][0] / groups[number][-1] for number in range(len(groups) - 1)]
        number = int(np.argmin(ratios))
        groups[number] += groups.pop(number + 1)
    trip = problem.session_trip_seconds.mean(axis=0)
    members = []
    for group in groups:
        servers = np.flatnonzero((per_block >= group[0]) & (per_block <= group[-1]))
        members.append(servers[np.argsort(trip[servers], kind="stable")])
    return Classes(tuple(members))


def fewest_stages(problem: ChainProblem, servers: Ints) -> int:
    """Stages that the servers need at least when each keeps memory for one session; 0 when they cannot host a block."""
    fitting = whole(problem.memory_bytes[servers] / (problem.block_bytes + problem.cache_bytes))
    most = int(np.minimum(fitting, problem.most_blocks[servers]).max(initial=0))
    return -(-problem.blocks // most) if most else 0


def place_in_stages(problem: ChainProblem, servers: Ints, stages: int) -> Placement | None:
    """The servers over equal stages, or for two stages over the best cut; None where a stage stays empty."""
    if stages == 2:
        return _best_cut(problem, servers)
    cuts = [round(number * problem.blocks / stages) for number in range(stages + 1)]
    return _at_cuts(problem, servers, cuts)[0]


def _best_cut(problem: ChainProblem, servers: Ints) -> Placement | None:
    step = max(1, problem.blocks // MANY_CUTS)
    best: tuple[int, Placement] | None = None
    for cut in range(1, problem.blocks, step):
        placement, capacity = _at_cuts(problem, servers, [0, cut, problem.blocks])
        if placement is not None and (best is None or capacity > best[0]):
            best = capacity, placement
    return None if best is None else best[1]


def _at_cuts(problem: ChainProblem, servers: Ints, cuts: Sequence[int]) -> tuple[Placement | None, int]:
    """Server by server to the stage of lowest capacity that it fits. Returns the least capacity of a stage, too."""
    sizes = np.diff(np.asarray(cuts))
    carried = _carried(problem, servers, sizes)
    capacity = [0] * len(sizes)
    first = np.zeros(problem.servers, dtype=np.int64)
    count = np.zeros(problem.servers, dtype=np.int64)
    stages = range(len(sizes))
    for server, row in zip(servers.tolist(), carried.tolist(), strict=True):
        fits = [stage for stage in stages if row[stage] > 0]
        if not fits:
            continue
        stage = min(fits, key=capacity.__getitem__)
        capacity[stage] += row[stage]
        first[server], count[server] = cuts[stage], sizes[stage]
    least = min(capacity)
    return (Placement(first, count), least) if least > 0 else (None, 0)


def _carried(problem: ChainProblem, servers: Ints, sizes: Ints) -> Ints:
    """(S', K): sessions that each server can carry in each stage; 0 where it does not fit."""
    left: Floats = problem.memory_bytes[servers, None] - problem.block_bytes * sizes[None, :]
    carried = whole(left / (problem.cache_bytes * sizes[None, :]))
    return np.where(problem.most_blocks[servers, None] >= sizes[None, :], carried, 0)


def together(placements: Sequence[Placement]) -> Placement:
    """Placements of different servers as one."""
    first = np.sum([placement.first for placement in placements], axis=0)
    count = np.sum([placement.count for placement in placements], axis=0)
    return Placement(first, count)
