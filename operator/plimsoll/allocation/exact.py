"""The optimum, or as near to it as a time limit allows, with a proof of how near: a mixed-integer program for HiGHS."""

from collections.abc import Sequence

import numpy as np

from plimsoll.allocation.bound import option_bounds
from plimsoll.allocation.evaluate import cost_of
from plimsoll.allocation.formulation import Formulation, formulate, levels_of, stages
from plimsoll.allocation.greedy import solve as solve_greedy
from plimsoll.allocation.milp import solve_milp
from plimsoll.allocation.packing import need_no_place, pack, proof
from plimsoll.allocation.problem import Allocation, AllocationProblem, Bools, Floats, Ints, Solution
from plimsoll.allocation.reduce import restrict, undominated
from plimsoll.allocation.routing import best_shares

MANY_OPTIONS = 200
"""From so many options on it pays to bound each one first and to leave out those that cannot be in the optimum."""
FIRST_POOL = 80
FIRST_PART = 0.2
"""Options and part of the time for a first search, whose result decides which options can be left out."""
FIRST_GAP = 0.01
PACKING_ROUNDS = 20
MOST_PLACES = 5000
"""Columns for options on nodes that one pool may get."""
ROUNDING = 1e-9
LEVEL_TOLERANCE = 1e-7
"""What counts as no difference in a level, as a part of the largest rate."""


def solve_exact(
    problem: AllocationProblem,
    *,
    start: Allocation | None = None,
    time_limit_seconds: float = 60.0,
    relative_gap: float = 1e-4,
) -> Solution:
    """The best allocation, with a lower bound on the cost of any that is as good in what comes before the cost.

    What comes before the cost: demand left unserved beyond its limits, priority by priority, then replicas missing
    from the deployments' least numbers. The answer is never worse than `start` (by default GH's).

    Args:
        problem: what to solve.
        start: a feasible allocation to begin with.
        time_limit_seconds: wall-clock time of the solver.
        relative_gap: part of the cost that the answer may lie above the bound.

    Raises:
        SolverError: HiGHS broke down.
    """
    incumbent = solve_greedy(problem) if start is None else start
    kept = undominated(problem) | (incumbent.replicas > 0)
    search = _Search(problem, incumbent, relative_gap, time_limit_seconds)
    if search.is_zero(search.levels):
        return search.by_cost(kept)
    return search.by_stages(kept)


class _Search:
    """One solve: the best allocation so far, and the time that is left."""

    def __init__(self, problem: AllocationProblem, incumbent: Allocation, relative_gap: float, seconds: float) -> None:
        self.problem = problem
        self.best = incumbent
        self.levels = levels_of(problem, incumbent)
        self.relative_gap = relative_gap
        self.seconds = seconds
        self.interrupted = False
        self._scale = max(1.0, float(problem.class_rate_per_hour.max(initial=0.0)))

    def is_zero(self, levels: Sequence[float]) -> bool:
        """Whether levels are rounding errors."""
        return max(levels) <= LEVEL_TOLERANCE * self._scale

    def by_cost(self, kept: Bools) -> Solution:
        """Nothing comes before the cost: all of that is 0."""
        bound = -np.inf
        if kept.sum() > MANY_OPTIONS:
            bounds = option_bounds(self.problem, self.best)
            first = self._first_pool(kept, bounds.with_option_per_hour)
            self._solve(first, None, seconds=FIRST_PART * self.seconds, gap=FIRST_GAP)
            improved = option_bounds(self.problem, self.best)
            with_option = np.maximum(bounds.with_option_per_hour, improved.with_option_per_hour)
            bound = max(bounds.value_per_hour, improved.value_per_hour)
            running = self.problem.running_replicas() > 0
            kept = kept & ((with_option <= self.best.cost.total) | running | (self.best.replicas > 0))
        bound = max(bound, self._solve(kept, None))
        return self._solution(bound)

    def by_stages(self, kept: Bools) -> Solution:
        """First one level after the other, each as low as it can be, then the cost."""
        decided: list[float] = []
        for stage in range(stages(self.problem)):
            if not self.is_zero(self.levels[stage : stage + 1]):
                self._solve(kept, decided, seconds=self.seconds / 2)
            decided.append(self.levels[stage])
        if self.is_zero(decided):
            return self.by_cost(kept)
        return self._solution(self._solve(kept, decided))

    def _solution(self, bound: float) -> Solution:
        return Solution(self.best, min(bound, self.best.cost.total), self.interrupted)

    def _first_pool(self, kept: Bools, with_option: Floats) -> Bools:
        """What runs, what the best answer uses, and the options with the lowest bounds."""
        pool = (self.best.replicas > 0) | (self.problem.running_replicas() > 0)
        order = np.flatnonzero(kept)
        pool[order[np.argsort(with_option[order], kind="stable")][:FIRST_POOL]] = True
        return pool

    def _take(self, allocation: Allocation) -> None:
        """Keep the better one."""
        levels = levels_of(self.problem, allocation)
        for ours, best in zip(levels, self.levels, strict=True):
            if abs(ours - best) > LEVEL_TOLERANCE * self._scale:
                if ours < best:
                    self.best, self.levels = allocation, levels
                return
        if allocation.cost.total < self.best.cost.total:
            self.best, self.levels = allocation, levels

    def _solve(
        self, options: Bools, levels: list[float] | None, *, seconds: float | None = None, gap: float | None = None
    ) -> float:
        """Look for a better answer among some options; the bound for them, -inf where nothing is proven."""
        part = restrict(self.problem, options)
        bound, told_apart = -np.inf, list[int]()
        cuts: list[tuple[Floats, float]] = []
        given = self.seconds if seconds is None else seconds
        for _ in range(PACKING_ROUNDS):
            formulation = formulate(part.problem, levels=levels, told_apart=told_apart, cuts=cuts)
            if not formulation.model.columns:
                return self.best.cost.total  # nothing to decide
            start = part.lower(self.best)
            result = solve_milp(
                formulation.model,
                start=None if start is None else formulation.start(start),
                relative_gap=self.relative_gap if gap is None else gap,
                seconds=given,
            )
            given, self.seconds = given - result.seconds, self.seconds - result.seconds
            self.interrupted |= result.interrupted
            if not cuts:
                bound = max(bound, result.bound)
            if result.values is None:
                return bound
            replicas = formulation.replicas_of(result.values)
            packing = _packing(part.problem, formulation, result.values, told_apart)
            if packing is not None:
                share, unserved = best_shares(part.problem, replicas)
                cost = cost_of(part.problem, replicas, share, unserved)
                self._take(part.lift(Allocation(replicas, share, unserved, packing, cost)))
                return bound
            _refine(part.problem, replicas, told_apart, cuts)
        return bound


def _packing(
    problem: AllocationProblem, formulation: Formulation, values: Floats, told_apart: list[int]
) -> Ints | None:
    """The proof that a solution's replicas fit; in pools whose nodes are told apart it is part of the solution."""
    replicas = formulation.replicas_of(values)
    apart = np.isin(problem.option_pool, told_apart)
    others = pack(problem, np.where(apart, 0, replicas))
    if others is None or not told_apart:
        return others
    rows = np.concatenate([others, proof(problem, np.where(apart, replicas, 0), formulation.places_of(values))])
    return rows[np.lexsort((rows[:, 1], rows[:, 0]))]


def _refine(
    problem: AllocationProblem, replicas: Ints, told_apart: list[int], cuts: list[tuple[Floats, float]]
) -> None:
    """Rule out replicas that were not packed: tell the pool's nodes apart, or allow no more than what was packed."""
    for pool in np.flatnonzero(~problem.pool_unlimited).tolist():
        here = problem.option_pool == pool
        if pool in told_apart or pack(problem, np.where(here, replicas, 0)) is not None:
            continue
        if int(here.sum()) * int((problem.node_pool == pool).sum()) <= MOST_PLACES:
            told_apart.append(pool)
        else:
            cuts.append(_cut(problem, np.where(here, replicas, 0)))


def _cut(problem: AllocationProblem, replicas: Ints) -> tuple[Floats, float]:
    """Weights (N,) of new replicas and their largest sum: what could be packed of these."""
    held = need_no_place(problem)
    here = problem.option_pool == problem.option_pool[np.flatnonzero(replicas)[0]]
    demand = problem.option_demand / np.maximum(problem.option_demand[here].max(axis=0), ROUNDING)
    weight = np.where(here, demand.sum(axis=1) * problem.option_nodes, 0.0)
    packed = replicas.copy()
    while pack(problem, packed) is None:  # without the largest ones
        new = np.flatnonzero(packed > held)
        packed[new[np.argmax(weight[new])]] -= 1
    return weight, float(weight @ np.maximum(packed - held, 0))
