"""The finish: mixed-integer programs over few options at a time, led by the bounds of all options.

An option's bound (bound.py) says how cheap an answer that uses it can be at best. A first program chooses among the
options with the lowest bounds; then a large-neighbourhood search solves small programs of the options in use and some
others, drawn by their bounds or around options in use. Options whose bound is above the best cost are left out for
good, and what remains is solved as one program where it is small.
"""

from collections.abc import Sequence

import numpy as np

from plimsoll.allocation.bound import Bounds, lower_bound, option_bounds, raised
from plimsoll.allocation.formulation import formulate, levels_of, stages
from plimsoll.allocation.guard import RemainingSeconds, endless
from plimsoll.allocation.milp import Status, solve_milp
from plimsoll.allocation.packing import pack
from plimsoll.allocation.problem import Allocation, AllocationProblem, Bools, Ints, Solution
from plimsoll.allocation.reduce import Restricted, restrict, undominated
from plimsoll.allocation.routing import route

FIRST_OPTIONS = 20
LEAST_PER_DEPLOYMENT = 4
"""Options with the lowest bounds that the first program chooses among, in all and from each deployment."""
ITERATIONS = 20
DRAWN = 12
"""Options beside those in use in a neighbourhood's program."""
CENTRES = 3
"""Options in use that every second neighbourhood is drawn around."""
FIRST_PAIRS, DRAWN_PAIRS, SEARCHED_PAIRS, FEW_OPTIONS, LEAST_ITERATIONS = 2600, 1600, 6000, 8, 7
"""Pairs of class and option that limit options and iterations where classes are many, and what remains at least."""
RELAXED = 0.05
"""Replicas of the relaxed solution from which an option is among the first."""
SPREAD = 3.0
"""Options are drawn with weights that fall by a factor e over the list's length divided by this."""
SMALL = 800
"""Pairs of class and option up to which all options that are left are solved as one program."""
NODES, WORK = 200, 600
"""Limits of one small program."""
OUTRIGHT_NODES, OUTRIGHT_WORK = 2000, 6000
RELATIVE_GAP = 1e-3
FIRST_GAP, OUTRIGHT_GAP = 5e-3, 1e-4
LEVEL_DECIMALS = 6
MOST_PLACES = 2000
"""Columns for options on nodes that a pool may get where replicas did not fit."""


def finish(
    problem: AllocationProblem,
    starts: Sequence[Allocation],
    *,
    seed: int = 0,
    remaining_seconds: RemainingSeconds = endless,
    prove: bool = True,
) -> Solution:
    """The best allocation found from these feasible ones, never worse than the best of them, and a lower bound.

    Better means: less unserved beyond the limits, priority by priority; fewer replicas missing from the deployments'
    least numbers; then less cost. Same problem, starts and seed, same answer, unless the guard fired. The bound is that
    of `lower_bound`, with the work shared.

    Args:
        problem: what to decide; of few deployments.
        starts: at least one feasible allocation.
        seed: of the neighbourhoods.
        remaining_seconds: guard of wall-clock time, asked before each program, which gets what is left.
        prove: False leaves the bound at -inf where the search alone has not proven one.

    Raises:
        ValueError: no start.
        SolverError: the solver broke down.
    """
    best, part, search = _searched(problem, starts, seed, remaining_seconds)
    cost = best.cost.total
    allowed = np.maximum(problem.class_unserved_limit, search.start.unserved)
    if search.proven > -np.inf:
        known = -np.inf if search.bounds is None else search.bounds.value_per_hour
        bound = max(known, min(search.proven, cost))
    elif not prove:
        bound = -np.inf
    elif search.bounds is None or (search.best.unserved > allowed).any():
        bound = lower_bound(problem, best)
    else:
        bound = raised(part.problem, search.best, search.bounds)
    return Solution(best, bound, interrupted=remaining_seconds() <= 0)


def _searched(
    problem: AllocationProblem, starts: Sequence[Allocation], seed: int, remaining_seconds: RemainingSeconds
) -> tuple[Allocation, Restricted, "_Search"]:
    if not starts:
        raise ValueError("a search needs at least one allocation to start from")
    kept = undominated(problem) | (problem.running_replicas() > 0)
    for start in starts:
        kept |= start.replicas > 0
    part = restrict(problem, kept)
    lowered = [allocation for allocation in map(part.lower, starts) if allocation is not None]
    best = min(range(len(lowered)), key=lambda number: (*_rank(part.problem, lowered[number]), number))
    search = _Search(part.problem, lowered[best], seed, remaining_seconds)
    search.run(lowered)
    return (starts[best] if search.best is search.start else part.lift(search.best)), part, search


def _rank(problem: AllocationProblem, allocation: Allocation) -> tuple[float, ...]:
    """What is compared, in order."""
    levels = levels_of(problem, allocation)
    return (*(round(level, LEVEL_DECIMALS) for level in levels), allocation.cost.total)


class _Search:
    """The best allocation so far, and the ways to look for a better one."""

    def __init__(
        self, problem: AllocationProblem, start: Allocation, seed: int, remaining_seconds: RemainingSeconds
    ) -> None:
        self.problem = problem
        self.start = self.best = start
        self.rank = _rank(problem, start)
        self.running = problem.running_replicas() > 0
        self.random = np.random.default_rng(seed)
        self.remaining_seconds = remaining_seconds
        self.bounds: Bounds | None = None
        self.proven = -np.inf
        """By a program over all options that a better answer may use: no better answer costs less."""
        self.with_option = np.full(problem.options, -np.inf)
        """Bound on the cost of what uses an option."""
        classes = max(problem.classes, 1)
        self.first_options = min(FIRST_OPTIONS, max(FEW_OPTIONS, FIRST_PAIRS // classes))
        self.drawn = min(DRAWN, max(FEW_OPTIONS, DRAWN_PAIRS // classes))
        self.iterations = min(ITERATIONS, max(LEAST_ITERATIONS, SEARCHED_PAIRS // (self.drawn * classes)))

    def run(self, starts: Sequence[Allocation]) -> None:
        """The first program, then one of all that is left if that is small, or neighbourhood after neighbourhood."""
        if self.remaining_seconds() <= 0:
            return
        small = self.problem.pairs <= SMALL
        if small and self._solve(self._left(), outright=True, gap=OUTRIGHT_GAP):
            return
        self.bounds = option_bounds(self.problem, self.best)
        self.with_option = self.bounds.with_option_per_hour
        if not small:
            first = self._lowest()
            with_starts = first | np.logical_or.reduce([start.replicas > 0 for start in starts])
            self._solve(with_starts if self._pairs(with_starts) <= FIRST_PAIRS else first, gap=FIRST_GAP)
        solved_at = np.inf
        for iteration in range(self.iterations):
            if self.remaining_seconds() <= 0:
                return
            left = self._left()
            if self._pairs(left) <= SMALL and left.sum() < solved_at and not small:
                solved_at = left.sum()
                if self._solve(left, outright=True, gap=OUTRIGHT_GAP):
                    return
            chosen = self._drawn(left) if iteration % 2 == 0 else self._around(left)
            self._solve(chosen)

    def _left(self) -> Bools:
        """Options that a better answer may use, and what is in use or runs."""
        used = (self.best.replicas > 0) | self.running
        if max(self.rank[:-1]) > 0:
            return np.ones(self.problem.options, dtype=bool)  # the bounds are on cost alone
        left: Bools = used | (self.with_option < self.best.cost.total)
        return left

    def _pairs(self, options: Bools) -> int:
        return int(options[self.problem.pair_option].sum())

    def _lowest(self) -> Bools:
        """The options of the relaxed solution and those with the lowest bounds, over all and of each deployment."""
        relaxed = np.zeros(self.problem.options) if self.bounds is None else self.bounds.relaxed_replicas
        order = np.lexsort((self.with_option, relaxed <= RELAXED))
        chosen = self.running.copy()
        chosen[order[: self.first_options]] = True
        deployment = self.problem.option_deployment[order]
        grouped = np.argsort(deployment, kind="stable")
        ordered = deployment[grouped]
        rank = np.arange(len(order)) - np.searchsorted(ordered, ordered)
        chosen[order[grouped[rank < LEAST_PER_DEPLOYMENT]]] = True
        return chosen

    def _drawn(self, left: Bools) -> Bools:
        """What is in use and options drawn by their bounds."""
        chosen = (self.best.replicas > 0) | self.running
        self._draw(chosen, np.flatnonzero(left & ~chosen), self.drawn)
        return chosen

    def _around(self, left: Bools) -> Bools:
        """What is in use, all options of the pairs of some that are, and others of their deployments by bound."""
        problem = self.problem
        chosen = (self.best.replicas > 0) | self.running
        used = np.flatnonzero(chosen)
        if not len(used):
            return self._drawn(left)
        centres = self.random.choice(used, min(CENTRES, len(used)), replace=False)
        near = np.isin(problem.option_pair, problem.option_pair[centres]) & left & ~chosen
        beside = np.isin(problem.option_deployment, problem.option_deployment[centres]) & left & ~chosen & ~near
        chosen |= near
        self._draw(chosen, np.flatnonzero(beside), max(self.drawn - int(near.sum()), 0))
        return chosen

    def _draw(self, chosen: Bools, candidates: Ints, count: int) -> None:
        count = min(count, len(candidates))
        if not count:
            return
        order = candidates[np.argsort(self.with_option[candidates], kind="stable")]
        weight = np.exp(-SPREAD * np.arange(len(order)) / len(order))
        chosen[self.random.choice(order, count, replace=False, p=weight / weight.sum())] = True

    def _solve(self, options: Bools, *, outright: bool = False, gap: float = RELATIVE_GAP) -> bool:
        """Look for a better answer among these options; True where there is none (any more)."""
        part = restrict(self.problem, options)
        levels: list[float] | None = None
        stage_count = stages(self.problem)
        if max(self.rank[:-1]) > 0:
            levels = []
            for stage in range(stage_count):
                if self.rank[stage] > 0:
                    self._solve_stage(part, levels, outright=outright, gap=gap)
                levels.append(levels_of(self.problem, self.best)[stage])
        return self._solve_stage(part, levels, outright=outright, gap=gap)

    def _solve_stage(self, part: Restricted, levels: list[float] | None, *, outright: bool, gap: float) -> bool:
        problem = part.problem
        told_apart: list[int] = []
        for _ in range(2):
            formulation = formulate(problem, levels=levels, told_apart=told_apart)
            if not formulation.model.columns:
                return True
            start = part.lower(self.best)
            result = solve_milp(
                formulation.model,
                start=None if start is None else formulation.start(start),
                nodes=OUTRIGHT_NODES if outright else NODES,
                work=OUTRIGHT_WORK if outright else WORK,
                relative_gap=gap,
                seconds=self.remaining_seconds(),
                sub_programs=outright,
            )
            if outright and levels is None and not told_apart and not problem.deployment_min_replicas.any():
                self.proven = max(self.proven, result.bound)
            if result.values is None:
                return False
            replicas = formulation.replicas_of(result.values)
            answer = route(problem, replicas)
            if answer is not None:
                self._take(part.lift(answer))
                return result.status is Status.OPTIMAL
            told_apart = _unpacked(problem, replicas)
            if not told_apart:
                return False
        return False

    def _take(self, allocation: Allocation) -> None:
        """Keep the better one."""
        rank = _rank(self.problem, allocation)
        if rank < self.rank:
            self.best, self.rank = allocation, rank


def _unpacked(problem: AllocationProblem, replicas: Ints) -> list[int]:
    """Pools where these replicas (N,) found no place, if few enough columns tell their nodes apart."""
    pools = []
    for pool in np.flatnonzero(~problem.pool_unlimited).tolist():
        here = problem.option_pool == pool
        if pack(problem, np.where(here, replicas, 0)) is not None:
            continue
        if int(here.sum()) * int((problem.node_pool == pool).sum()) > MOST_PLACES:
            return []
        pools.append(pool)
    return pools
