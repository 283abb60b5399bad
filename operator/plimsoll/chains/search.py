"""The placement to use by default: the best of several candidates by a bound on the mean response.

Candidates are CG-BP's placements for a range of design numbers of sessions, disjoint chains (GBP-CR) for a range of
places, and placements in stages, for classes of servers alone and together. Each is turned into chains (GCA) and scored
by the birth-death bound with every delay that holds memory in the service time. CG-BP's own placement is always among
them and wins ties. Where servers are few, moves of some that gain much come after.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.composition import Chain, compose, disjoint_chains, mean_response, place_rates
from plimsoll.chains.conservative import block_counts, design_sessions, most_sessions, place_conservatively
from plimsoll.chains.problem import ChainProblem, Floats, Placement
from plimsoll.chains.repair import fill, move_some
from plimsoll.chains.routes import hops_of, session_costs, shortest
from plimsoll.chains.stages import FEW_SERVERS, Staged, classes_of, divided, groupings, staged_options, together

OVERLOADED = 1e9
"""Score of a placement that cannot carry the load, plus what is missing: fewer missing is better."""
SPARE_PLACES = 1.5
"""Chains are composed for so many times the sessions that run on average: more would serve nobody."""
GRID = 1.6
"""Ratio of neighbouring design numbers of sessions, and of neighbouring numbers of places."""
LEVELS = (0.0, 1 / 3, 2 / 3, 1.0)
"""How far each group of servers goes from its fewest stages (short routes) to those that carry most."""
STAGED_SCORED = 3
"""Placements in stages that are scored as a whole."""
QUALITY = 0.9
"""A few moves must bring a score to this part of it at most: the score is a bound, and small gains mislead."""
MOVED_SHARE = 0.1
"""Of the servers are a few; more where the load is not carried."""
MOST_TRIED = 18
LARGE = 900
"""Of the grids at most `MOST_TRIED` candidates are scored, and at most `LARGE` over the number of servers: they take
most of the time, and gain least where servers are many."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A placement with its score."""

    name: str
    placement: Placement
    score: float
    """Mean response in seconds, at least; from `OVERLOADED` on it cannot carry the load."""
    chains: tuple[Chain, ...]

    @property
    def carries(self) -> bool:
        """Whether its chains carry the load."""
        return self.score < OVERLOADED


def best_placement(problem: ChainProblem, arrivals_per_second: float, client: int = 0) -> Candidate | None:
    """The candidate with the least score; None where no placement hosts all blocks."""
    return _Search(problem, arrivals_per_second, client).run()


def scored(
    problem: ChainProblem,
    name: str,
    placement: Placement,
    arrivals_per_second: float,
    client: int = 0,
    *,
    below: float = math.inf,
) -> Candidate | None:
    """A placement with its chains and its score; None where it has no route, or where the fastest alone takes `below`
    seconds or more."""
    hops = hops_of(placement, problem.blocks)
    fastest = shortest(hops, session_costs(problem, hops, client))
    held = problem.setup_seconds
    if fastest is None or fastest.cost + held >= below:
        return None
    wanted = SPARE_PLACES * arrivals_per_second * (fastest.cost + held) + 1
    chains = compose(problem, placement, client, wanted)
    score = response_score(place_rates(chains, held), arrivals_per_second)
    if score >= OVERLOADED and sum(chain.places for chain in chains) >= wanted:
        chains = compose(problem, placement, client)
        score = response_score(place_rates(chains, held), arrivals_per_second)
    return Candidate(name, placement, score, tuple(chains))


def few_moves(
    problem: ChainProblem,
    placement: Placement,
    arrivals_per_second: float,
    client: int = 0,
    moved_share: float = MOVED_SHARE,
) -> Iterator[Candidate]:
    """The placement with a few servers moved to relieve the scarcest blocks; with more, where these do not suffice."""
    found: Candidate | None = None
    moves, moved = max(1, int(moved_share * problem.servers)), 0
    while moved == 0 or ((found is None or not found.carries) and moved < problem.servers):
        other = fill(problem, move_some(problem, placement, moves))
        if bool((other.first == placement.first).all() and (other.count == placement.count).all()):
            return
        placement, moved, moves = other, moved + moves, 2 * moves
        found = scored(problem, f"{moved} servers moved at most", placement, arrivals_per_second, client)
        if found is not None:
            yield found


def gains(score: float, present: float, quality: float = QUALITY) -> bool:
    """Whether a score is better by enough; of an overloaded placement that part of what it misses counts."""
    if present >= OVERLOADED:
        return score < present - (1.0 - quality) * (present - OVERLOADED)
    return score <= quality * present


def response_score(rates: Floats, arrivals_per_second: float) -> float:
    """The least mean response with these places (N, per second, fastest first), or from `OVERLOADED` on."""
    carried = float(rates.sum())
    if carried <= arrivals_per_second:
        return OVERLOADED + arrivals_per_second - carried
    return mean_response(rates, arrivals_per_second)


class _Search:
    def __init__(self, problem: ChainProblem, arrivals_per_second: float, client: int) -> None:
        self._problem, self._arrivals, self._client = problem, arrivals_per_second, client
        self._best: Candidate | None = None
        self._most = most_feasible(problem)
        self._known_rates: dict[str, Floats] = {}

    def run(self) -> Candidate | None:
        published = self._published()
        self._conservative(published)
        self._staged()
        for sessions in self._promising(published):
            self._conservative(sessions)
            self._disjoint(sessions)
        if self._problem.servers <= FEW_SERVERS:
            self._mend()
        return self._best

    def _mend(self) -> None:
        """What re-placement would move at once is never placed."""
        before = None
        while self._best is not None and self._best is not before:
            before = self._best
            placement = fill(self._problem, before.placement)
            for moved in few_moves(self._problem, placement, self._arrivals, self._client):
                if gains(moved.score, self._best.score):
                    self._best = moved

    def _conservative(self, sessions: int) -> None:
        found = place_conservatively(self._problem, sessions)
        if found.feasible:
            self._try(f"conservative, R={sessions}", found.placement)

    def _disjoint(self, places: int) -> None:
        found = disjoint_chains(self._problem, places, math.inf, 1.0, self._client)
        if found.chains:
            self._try(f"disjoint chains, c={places}", found.placement)

    def _try(self, name: str, placement: Placement) -> None:
        below = math.inf if self._best is None else self._best.score
        found = scored(self._problem, name, placement, self._arrivals, self._client, below=below)
        if found is not None and found.score < below:
            self._best = found

    def _published(self) -> int:
        """R as the paper chooses it, at least 1."""
        single = place_conservatively(self._problem, 1)
        hops = hops_of(single.placement, self._problem.blocks)
        path = shortest(hops, session_costs(self._problem, hops, self._client))
        if path is None:
            return 1
        most = max(1, min(self._most, max(1, most_sessions(self._problem))))
        return max(1, design_sessions(self._arrivals, path.cost, most))

    def _promising(self, published: int) -> list[int]:
        """Design numbers on a grid, each vector of block counts once, that may beat the best so far; the most
        promising first, and no more than there is time for."""
        problem = self._problem
        trip, block = problem.session_trip_seconds[self._client], problem.session_block_seconds
        seen = {block_counts(problem, published).tobytes()}
        ranked: list[tuple[float, int]] = []
        for sessions in _grid(self._most):
            counts = block_counts(problem, sessions)
            if counts.tobytes() in seen:
                continue
            seen.add(counts.tobytes())
            hosting = counts > 0
            per_block = block[hosting] + trip[hosting] / counts[hosting]
            slots = problem.slots(problem.memory_bytes[hosting], counts[hosting])
            seconds = problem.blocks * float(np.average(per_block, weights=slots + 1)) + problem.setup_seconds
            carried = float(slots.sum()) / problem.blocks / seconds
            ranked.append((seconds if carried > self._arrivals else OVERLOADED - carried, sessions))
        ranked.sort()
        most = min(MOST_TRIED, LARGE // problem.servers)
        return [sessions for _, sessions in ranked[:most]]

    def _staged(self) -> None:
        """Stages for every grouping of the classes of servers: all groups from short routes to most carried, then the
        best of these with the stages of each group changed one after the other, and at last groups divided between two
        numbers of stages.

        Groups are compared by the chains that each makes alone; only the best few placements are made into chains as a
        whole, where routes may change between groups.
        """
        found: dict[tuple[str, ...], tuple[float, list[Staged]]] = {}
        known: dict[tuple[int, ...], tuple[Staged, ...]] = {}
        classes = classes_of(self._problem)
        start: tuple[float, list[tuple[Staged, ...]], list[int]] = math.inf, [], []

        def value(groups: list[tuple[Staged, ...]], chosen: list[int]) -> float:
            picked = [options[number] for options, number in zip(groups, chosen, strict=True)]
            names = tuple(one.name for one in picked)
            if names not in found:
                found[names] = response_score(self._rates(picked), self._arrivals), picked
            return found[names][0]

        for grouping in groupings(len(classes.members)):
            for group in grouping:
                if group not in known:
                    known[group] = staged_options(self._problem, classes, group)
            groups = [known[group] for group in grouping if known[group]]
            for level in LEVELS if groups else ():
                chosen = [round(level * (len(options) - 1)) for options in groups]
                start = min(start, (value(groups, chosen), groups, chosen), key=lambda one: one[0])
        improved = start
        while improved[2]:
            score, groups, chosen = improved
            for number, options in enumerate(groups):
                for other in (chosen[number] - 1, chosen[number] + 1):
                    if 0 <= other < len(options):
                        changed = [*chosen[:number], other, *chosen[number + 1 :]]
                        improved = min(improved, (value(groups, changed), groups, changed), key=lambda one: one[0])
            if improved[0] >= score:
                break
        ranked = [*found.values(), *self._divided(*improved)]
        for _, picked in sorted(ranked, key=lambda one: one[0])[:STAGED_SCORED]:
            self._try(", ".join(one.name for one in picked), together([one.placement for one in picked]))

    def _divided(
        self, score: float, groups: list[tuple[Staged, ...]], chosen: list[int]
    ) -> Iterator[tuple[float, list[Staged]]]:
        """One group after the other divided between its number of stages and the next, with scores.

        The score lets sessions leave slow servers as soon as a fast one is free. That flatters placements whose fast
        servers are nearly full, so a division must be better with as many sessions more as Poisson arrivals vary by.
        """
        if score >= OVERLOADED:
            return
        busy = self._arrivals * (1 + 1 / math.sqrt(self._arrivals * score))
        picked = [options[number] for options, number in zip(groups, chosen, strict=True)]
        least = response_score(self._rates(picked), busy)
        for number, options in enumerate(groups):
            for fewer, more in itertools.pairwise(options[max(0, chosen[number] - 1) : chosen[number] + 2]):
                for one in divided(self._problem, fewer, more):
                    changed = [*picked[:number], one, *picked[number + 1 :]]
                    rates = self._rates(changed)
                    at_busy = response_score(rates, busy)
                    if at_busy < min(least, OVERLOADED):
                        least, picked = at_busy, changed
                        yield response_score(rates, self._arrivals), changed

    def _rates(self, picked: Sequence[Staged]) -> Floats:
        """(N): of the places that groups have, each alone, as many as the load needs at most."""
        problem = self._problem
        for staged in picked:
            if staged.name not in self._known_rates:
                wanted = SPARE_PLACES * self._arrivals * staged.session_seconds + 1
                chains = compose(problem, staged.placement, self._client, wanted)
                self._known_rates[staged.name] = place_rates(chains, problem.setup_seconds)
        return np.sort(np.concatenate([self._known_rates[staged.name] for staged in picked]))[::-1]


def most_feasible(problem: ChainProblem) -> int:
    """The largest number of sessions for which CG-BP is feasible, as far as sizes of intervals depend on it; 0 when
    none is."""
    low, high = 0, 1
    while int(block_counts(problem, high).sum()) >= problem.blocks:
        low, high = high, 2 * high
        if low >= problem.sessions_at_once > 0:
            return low
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
