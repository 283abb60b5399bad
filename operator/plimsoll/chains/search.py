"""The placement to use by default: the best of several candidates by a bound on the mean response.

Candidates are CG-BP's placements for a range of design numbers of sessions and placements in stages per class of
servers. Each is turned into chains (GCA) and scored by the birth-death bound with every delay that holds memory in the
service time. CG-BP's own placement is always among them and wins ties.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.composition import Chain, compose, mean_response_bounds
from plimsoll.chains.conservative import block_counts, design_sessions, most_sessions, place_conservatively
from plimsoll.chains.problem import ChainProblem, Placement
from plimsoll.chains.routes import hops_of, session_costs, shortest
from plimsoll.chains.stages import classes_of, fewest_stages, place_in_stages, together

OVERLOADED = 1e9
"""Score of a placement that cannot carry the load, plus what is missing: fewer missing is better."""
SPARE_PLACES = 1.5
"""Chains are composed for so many times the sessions that run on average: more would serve nobody."""
MORE_STAGES = 3
"""Numbers of stages that are tried per class, from the fewest on."""
GRID = 1.6
"""Ratio of neighbouring design numbers of sessions."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A placement with its score."""

    name: str
    placement: Placement
    score: float
    """Mean response in seconds, at least; from `OVERLOADED` on it cannot carry the load."""
    chains: tuple[Chain, ...]


def best_placement(problem: ChainProblem, arrivals_per_second: float, client: int = 0) -> Candidate | None:
    """The candidate with the least score; None where no placement hosts all blocks."""
    found: Candidate | None = None
    for name, placement in _candidates(problem, arrivals_per_second, client):
        candidate = scored(problem, name, placement, arrivals_per_second, client)
        if candidate is not None and (found is None or candidate.score < found.score):
            found = candidate
    return found


def scored(
    problem: ChainProblem, name: str, placement: Placement, arrivals_per_second: float, client: int = 0
) -> Candidate | None:
    """A placement with its chains and its score; None where it has no route."""
    hops = hops_of(placement, problem.blocks)
    fastest = shortest(hops, session_costs(problem, hops, client))
    if fastest is None:
        return None
    held = problem.setup_seconds
    wanted = SPARE_PLACES * arrivals_per_second * (fastest.cost + held) + 1
    chains = compose(problem, placement, client, wanted)
    holding = [Chain(chain.route, chain.places, chain.service_seconds + held) for chain in chains]
    least, _ = mean_response_bounds(holding, arrivals_per_second)
    if math.isinf(least):
        chains = compose(problem, placement, client)
        holding = [Chain(chain.route, chain.places, chain.service_seconds + held) for chain in chains]
        least, _ = mean_response_bounds(holding, arrivals_per_second)
    if math.isinf(least):
        least = OVERLOADED + arrivals_per_second - sum(chain.rate_per_second for chain in holding)
    return Candidate(name, placement, least, tuple(chains))


def _candidates(problem: ChainProblem, arrivals_per_second: float, client: int) -> Iterator[tuple[str, Placement]]:
    yield from _conservative(problem, arrivals_per_second, client)
    yield from _staged(problem, arrivals_per_second, client)


def _conservative(problem: ChainProblem, arrivals_per_second: float, client: int) -> Iterator[tuple[str, Placement]]:
    """CG-BP for the published design number, then for a grid: each vector of block counts once, with the most sessions
    that it allows."""
    single = place_conservatively(problem, 1)
    hops = hops_of(single.placement, problem.blocks)
    path = shortest(hops, session_costs(problem, hops, client))
    if path is None:
        return
    most = _most_feasible(problem)
    published = design_sessions(arrivals_per_second, path.cost, max(1, min(most, max(1, most_sessions(problem)))))
    seen = set()
    for sessions in (max(1, published), *_grid(most)):
        counts = block_counts(problem, sessions)
        if counts.tobytes() in seen:
            continue
        seen.add(counts.tobytes())
        found = place_conservatively(problem, sessions)
        if found.feasible:
            yield f"conservative, R={sessions}", found.placement


def _most_feasible(problem: ChainProblem) -> int:
    """The largest number of sessions for which CG-BP is feasible; 0 when none is."""
    low, high = 0, 1
    while int(block_counts(problem, high).sum()) >= problem.blocks:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if int(block_counts(problem, middle).sum()) >= problem.blocks:
            low = middle
        else:
            high = middle
    return low


def _grid(most: int) -> Iterator[int]:
    value = float(most)
    while value >= 1:
        yield round(value)
        value /= GRID


def _staged(problem: ChainProblem, arrivals_per_second: float, client: int) -> Iterator[tuple[str, Placement]]:
    """Stages per class: the best number of stages of each class alone, then the classes together, fastest first."""
    best: list[Placement] = []
    for number, servers in enumerate(classes_of(problem).members):
        fewest = fewest_stages(problem, servers)
        own: Candidate | None = None
        for stages in range(fewest, fewest + MORE_STAGES) if 0 < fewest <= len(servers) else ():
            placement = place_in_stages(problem, servers, stages)
            if placement is None:
                continue
            name = f"{stages} stages of class {number}"
            yield name, placement
            candidate = scored(problem, name, placement, arrivals_per_second, client)
            if candidate is not None and (own is None or candidate.score < own.score):
                own = candidate
        if own is not None:
            best.append(own.placement)
            if len(best) > 1:
                yield f"stages of {len(best)} classes", together(best)
    everybody = np.concatenate(classes_of(problem).members)
    fewest = fewest_stages(problem, everybody)
    for stages in range(fewest, fewest + MORE_STAGES) if fewest else ():
        placement = place_in_stages(problem, everybody, stages)
        if placement is not None:
            yield f"{stages} stages of all", placement
