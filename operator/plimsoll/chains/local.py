"""Local search on a placement: one server after the other to another interval, or the cut between two neighbours moved,
as long as that is better."""

from collections.abc import Callable, Iterator

import numpy as np

from plimsoll.chains.problem import ChainProblem, Ints, Placement

ALL_INTERVALS = 120
"""Up to so many intervals all are tried; beyond, those between the cuts that the placement has, and near them."""
NEAR = (-2, -1, 0, 1, 2)
SHIFTS = (-4, -2, -1, 1, 2, 4)
"""Blocks by which a shared cut moves."""


def improved(
    problem: ChainProblem, placement: Placement, value: Callable[[Placement], float], most_rounds: int = 8
) -> Placement:
    """A placement of which no neighbour has a lower value, or what so many rounds over all servers have found."""
    best = value(placement)
    for _ in range(most_rounds):
        before = best
        for server in range(problem.servers):
            for neighbour in _moved(problem, placement, server):
                found = value(neighbour)
                if found < best:
                    best, placement = found, neighbour
        for neighbour in _cuts_moved(problem, placement):
            found = value(neighbour)
            if found < best:
                best, placement = found, neighbour
        if best >= before:
            break
    return placement


def _moved(problem: ChainProblem, placement: Placement, server: int) -> Iterator[Placement]:
    """One server with every other interval that it has memory for, and with none."""
    first, count = placement.first, placement.count
    for start, end in _intervals(problem, placement):
        if (start, end - start) != (first[server], count[server]) and _fits(problem, server, end - start):
            yield _changed(placement, [server], [start], [end - start])
    if count[server]:
        yield _changed(placement, [server], [0], [0])


def _cuts_moved(problem: ChainProblem, placement: Placement) -> Iterator[Placement]:
    """Every cut at which servers end and others begin, moved for all of them."""
    hosting = placement.count > 0
    cuts = np.intersect1d(placement.first[hosting], placement.end[hosting])
    for cut in cuts.tolist():
        ending, beginning = hosting & (placement.end == cut), hosting & (placement.first == cut)
        for shift in SHIFTS:
            first = np.where(beginning, placement.first + shift, placement.first)
            count = placement.count + np.where(ending, shift, 0) - np.where(beginning, shift, 0)
            changed = np.flatnonzero(ending | beginning).tolist()
            if all(_fits(problem, server, int(count[server])) for server in changed):
                yield Placement(first, count)


def _intervals(problem: ChainProblem, placement: Placement) -> list[tuple[int, int]]:
    blocks = problem.blocks
    if blocks * (blocks + 1) // 2 <= ALL_INTERVALS:
        points = list(range(blocks + 1))
    else:
        hosting = placement.count > 0
        ends = {0, blocks, *placement.first[hosting].tolist(), *placement.end[hosting].tolist()}
        points = sorted({point + near for point in ends for near in NEAR if 0 <= point + near <= blocks})
    return [(start, end) for start in points for end in points if start < end]


def _fits(problem: ChainProblem, server: int, count: int) -> bool:
    """Whether a server may host so many blocks and has memory for a session besides."""
    if not 0 < count <= problem.most_blocks[server]:
        return False
    return bool(problem.slots(problem.memory_bytes[server], np.array(count)) >= count)


def _changed(placement: Placement, servers: list[int], first: list[int], count: list[int]) -> Placement:
    firsts: Ints = placement.first.copy()
    counts: Ints = placement.count.copy()
    firsts[servers], counts[servers] = first, count
    return Placement(firsts, counts)
