"""Placement in stages: a group of servers shares the model in K consecutive parts, with balanced capacity.

Fewest hops are fastest, but a server that is full of weights has no memory for sessions. Two A100 with 35 blocks of
BLOOM each carry four times the sessions of two with 53 and 17, at the same service time.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.problem import ChainProblem, Ints, Placement, whole

STAGE_GRID = 1.12
"""Ratio of neighbouring numbers of stages, at least one apart."""
MOST_STAGES = 3.0
"""Times the fewest: more stages only add round trips."""
CUTS_TRIED = 8
"""Cuts for two stages that are tried, the most promising of all."""
FEW_SERVERS, FEW_STAGES = 48, 8
"""Up to here equal stages of unlike numbers of servers waste much, and other cuts are looked for."""
SHIFTS = (-8, -4, -2, -1, 1, 2, 4, 8)
"""Blocks by which a cut is moved."""
SHARES = (0.25, 0.4, 0.5, 0.6, 0.75)
"""Of a group's servers that go into fewer stages than the others."""


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """Servers by speed."""

    members: tuple[Ints, ...]
    """Server numbers by class, fastest class first; within a class by the mean round trip of all clients."""


@dataclass(frozen=True, slots=True, eq=False)
class Staged:
    """A group of servers in stages."""

    whose: str
    stages: int
    servers: Ints
    placement: Placement
    session_seconds: float
    """That an average route takes, setup included."""
    sessions: int
    """That its narrowest stage carries at once."""

    @property
    def name(self) -> str:
        return f"{self.stages} stages of {self.whose}"

    @property
    def rate_per_second(self) -> float:
        return self.sessions / self.session_seconds


def classes_of(problem: ChainProblem, most: int = 4) -> Classes:
    """Classes of servers with the same time per block; the nearest are merged where there are more than `most`."""
    per_block = problem.session_block_seconds
    values = np.unique(per_block)
    while len(values) > most:
        # The mean of the two nearest stands for both until `most` are left.
        number = int(np.argmin(values[1:] / values[:-1]))
        values = np.concatenate((values[:number], [np.sqrt(values[number] * values[number + 1])], values[number + 2 :]))
    nearest = np.argmin(np.abs(np.log(per_block[:, None] / values[None, :])), axis=1)
    trip = problem.session_trip_seconds.mean(axis=0)
    members = [np.flatnonzero(nearest == number) for number in range(len(values))]
    return Classes(tuple(own[np.argsort(trip[own], kind="stable")] for own in members if len(own)))


def groupings(classes: int) -> Iterator[tuple[tuple[int, ...], ...]]:
    """All ways to cut the classes, in their order, into groups that share stages; each class alone first."""
    for parts in range(classes, 0, -1):
        for cuts in itertools.combinations(range(1, classes), parts - 1):
            edges = (0, *cuts, classes)
            yield tuple(tuple(range(low, high)) for low, high in itertools.pairwise(edges))


def staged_options(problem: ChainProblem, classes: Classes, group: Sequence[int]) -> tuple[Staged, ...]:
    """Numbers of stages for a group of classes, from the fewest on, each of which carries more than all before it."""
    servers = np.concatenate([classes.members[number] for number in group])
    name = f"class {'+'.join(map(str, group))}"
    found: list[Staged] = []
    for stages in stage_numbers(problem, servers):
        one = _staged(problem, servers, stages, name)
        if one is not None and (not found or one.rate_per_second > found[-1].rate_per_second):
            found.append(one)
    return tuple(found)


def divided(problem: ChainProblem, fewer: Staged, more: Staged) -> Iterator[Staged]:
    """Two numbers of stages for the same servers in one, in several shares: the farthest take the fewer stages, since
    each of their hops costs most."""
    servers = fewer.servers[np.argsort(-problem.session_trip_seconds.mean(axis=0)[fewer.servers], kind="stable")]
    for share in SHARES:
        cut = round(share * len(servers))
        far = _staged(problem, servers[:cut], fewer.stages, f"the farthest {cut} of {fewer.whose}")
        near = _staged(problem, servers[cut:], more.stages, f"the others of {more.whose}")
        if far is not None and near is not None:
            yield Staged(
                f"{far.whose} in {far.stages} stages and the others",
                more.stages,
                servers,
                together([far.placement, near.placement]),
                max(far.session_seconds, near.session_seconds),
                far.sessions + near.sessions,
            )


def _staged(problem: ChainProblem, servers: Ints, stages: int, whose: str) -> Staged | None:
    placement, sessions = place_in_stages(problem, servers, stages)
    if placement is None:
        return None
    trip = float(problem.session_trip_seconds.mean(axis=0)[servers].mean())
    blocks = problem.blocks * float(problem.session_block_seconds[servers].mean())
    seconds = problem.setup_seconds + stages * trip + blocks
    return Staged(whose, stages, servers, placement, seconds, sessions)


def stage_numbers(problem: ChainProblem, servers: Ints) -> list[int]:
    """Numbers of stages worth a try, from the fewest on; none where the servers are too few or too small."""
    fewest = stages = fewest_stages(problem, servers)
    found: list[int] = []
    while 0 < stages <= min(fewest * MOST_STAGES, problem.blocks, len(servers)):
        found.append(stages)
        stages = max(stages + 1, round(stages * STAGE_GRID))
    return found


def fewest_stages(problem: ChainProblem, servers: Ints) -> int:
    """Stages that the servers need at least when each keeps memory for one session; 0 when they cannot host a block."""
    fitting = whole(problem.memory_bytes[servers] / (problem.block_bytes + problem.cache_bytes))
    most = int(np.minimum(fitting, problem.most_blocks[servers]).max(initial=0))
    return -(-problem.blocks // most) if most else 0


def place_in_stages(problem: ChainProblem, servers: Ints, stages: int) -> tuple[Placement | None, int]:
    """The servers over equal stages, or for two stages over the best cut; and how many sessions the narrowest stage
    carries. No placement where a stage stays empty."""
    if stages == 2:
        return _best_cut(problem, servers)
    cuts = [round(number * problem.blocks / stages) for number in range(stages + 1)]
    if len(servers) <= FEW_SERVERS and stages <= FEW_STAGES:
        return _shifted(problem, servers, cuts)
    return _at_cuts(problem, servers, cuts)


def _shifted(problem: ChainProblem, servers: Ints, cuts: list[int]) -> tuple[Placement | None, int]:
    """From these cuts on, one cut after the other moved as long as the narrowest stage carries more."""
    best = _at_cuts(problem, servers, cuts)
    improved = True
    while improved:
        improved = False
        for number in range(1, len(cuts) - 1):
            for shift in SHIFTS:
                moved = cuts[number] + shift
                if not cuts[number - 1] < moved < cuts[number + 1]:
                    continue
                other = [*cuts[:number], moved, *cuts[number + 1 :]]
                found = _at_cuts(problem, servers, other)
                if found[1] > best[1]:
                    best, cuts, improved = found, other, True
    return best


def _best_cut(problem: ChainProblem, servers: Ints) -> tuple[Placement | None, int]:
    """Unequal parts carry about a fifth more where servers are few and their number is odd."""
    cuts = np.arange(1, problem.blocks)
    first = _carried(problem, servers, cuts).astype(np.float64)
    second = first[:, ::-1]
    # What both parts carry when each server could be divided between them.
    balanced = (first * second / np.maximum(first + second, 1.0)).sum(axis=0)
    upper = np.minimum(first.sum(axis=0), second.sum(axis=0))
    promising = np.argsort(-np.where(balanced > 0, balanced, upper * 1e-9), kind="stable")[:CUTS_TRIED]
    best: tuple[Placement | None, int] = None, 0
    for cut in sorted(cuts[promising].tolist()) if len(servers) > CUTS_TRIED else cuts.tolist():
        placement, capacity = _at_cuts(problem, servers, [0, cut, problem.blocks])
        if capacity > best[1]:
            best = placement, capacity
    return best


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
    carried = problem.slots(problem.memory_bytes[servers, None], sizes[None, :]) // sizes[None, :]
    return np.where(problem.most_blocks[servers, None] >= sizes[None, :], carried, 0)


def together(placements: Sequence[Placement]) -> Placement:
    """Placements of different servers as one."""
    first = np.sum([placement.first for placement in placements], axis=0)
    count = np.sum([placement.count for placement in placements], axis=0)
    return Placement(first, count)
