"""Which answer to follow: stay with what runs unless that fails the objectives or a change saves enough."""

from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation import Allocation, AllocationProblem, Solution, check, cost_of, solve_greedy, subset
from plimsoll.allocation.evaluate import stored_gigabytes
from plimsoll.allocation.problem import Bools, Floats, Ints
from plimsoll.allocation.reduce import restrict
from plimsoll.allocation.routing import route
from plimsoll.planning.fleet import NO_LIMIT, only_running, only_used
from plimsoll.planning.search import TOLERANCE, UNPROVEN, Search, proven

LOOKAHEAD_ROUNDS = 4
"""Further rounds that are played through before a plan is applied; each must save the least saving again."""


class PlanRejectedError(Exception):
    """The independent checker found the solver's answer to break a limit. Nothing of it may be applied."""


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """The answer with what is proven about it, and which deployments are short of what their limits allow (mask, D)."""

    solution: Solution
    short: Bools

    @property
    def allocation(self) -> Allocation:
        return self.solution.allocation


def decide(problem: AllocationProblem, search: Search) -> Decision:
    """Solve, prefer to stay per deployment, and check independently.

    A deployment keeps to its running replicas (or fewer of them) while they serve all its classes and no other answer
    is cheaper by the least saving. So a plan that is applied is its own plan: at rest nothing moves.

    Raises:
        PlanRejectedError: when `allocation.check` finds a violation.
    """
    if not problem.options:
        only = solve_greedy(problem)
        return Decision(Solution(only, only.cost.total), short=_short(problem, only))
    turn = _Round(problem, search)
    allocation = turn.answer()
    violations = check(problem, allocation)
    if violations:
        raise PlanRejectedError("; ".join(violation.message for violation in violations[:5]))
    bound = proven(problem, turn.free, allocation)
    if bound == UNPROVEN:
        bound = search.bound(problem, allocation)
    return Decision(Solution(allocation, bound, turn.interrupted), short=_short(problem, allocation))


class _Round:
    """One decision in the making. The policy's search, which is dear, runs for the free answer and to look ahead."""

    def __init__(self, problem: AllocationProblem, search: Search) -> None:
        self._problem = problem
        self._search = search
        self.interrupted = False
        self.free = self._solve(problem)

    def answer(self) -> Allocation:
        problem = self._problem
        stay, free = at_rest(problem), self.free.allocation
        running, saving = problem.running_replicas(), self._search.minimal_saving
        moves = _moves(problem, running, stay, free, saving) | _below_minimum(problem, stay, free)
        # New replicas fit beside all that runs, so those of some deployments fit beside what the others keep.
        allocation = exchanged(problem, stay, free, moves)
        if _overspends(problem, allocation):
            # What the others would have given up stays spent: the movers must do with what is left.
            allocation = self._solve(only_running(problem, ~moves)).allocation
        allocation = self._within_budget(allocation, ~moves)
        if np.array_equal(allocation.replicas, problem.running_replicas()):
            return allocation
        return self._look_ahead(allocation, moves)

    def _solve(self, problem: AllocationProblem) -> Solution:
        solution = self._search.solve(problem)
        self.interrupted |= solution.interrupted
        return solution

    def _within_budget(self, allocation: Allocation, stays: Bools) -> Allocation:
        """The same, or an answer that gives up less of what runs, where the money for that would be spent twice.

        A deployment that is short keeps all that it runs (planning/transition.py). So what it grows by must be paid
        beside what its plan gives up: else it may only add to the options that it uses, and if that is still too much,
        nothing.
        """
        confined = only_running(self._problem, stays)
        for limit in (only_used, only_running):
            spends_twice = _spends_twice(self._problem, allocation)
            if not spends_twice.any():
                break
            allocation = self._solve(limit(confined, spends_twice)).allocation
        return allocation

    def _look_ahead(self, allocation: Allocation, movable: Bools) -> Allocation:
        """The answer that the next rounds would come to, as far as it fits beside what runs now.

        The search can find a better answer once its own replicas run; to move them a moment after they started would be
        waste. And shares are those that the next round finds for the same replicas: routing does not change again.
        """
        problem = self._problem
        looked_at = np.ones_like(movable)
        movable = movable & ~_short(problem, allocation)
        for _ in range(LOOKAHEAD_ROUNDS):
            allocation, stuck = _rested(problem, allocation, looked_at)
            if not movable.any():
                break
            part = subset(problem, allocation, movable)
            following = part.merged(self._solve(part.problem).allocation)
            now, saving = allocation.replicas, self._search.minimal_saving
            if not (movable & (_moves(problem, now, allocation, following, saving) | stuck)).any():
                break
            # Nothing of it runs yet, so whatever is better is taken with it.
            moves = movable & (_moves(problem, now, allocation, following, 0.0) | stuck)
            following = exchanged(problem, allocation, following, moves)
            if _overspends(problem, following):
                part = subset(problem, allocation, moves)
                following = part.merged(self._solve(part.problem).allocation)
            if check(problem, following):
                break  # it fits only once what runs now is gone: the next round's business
            allocation, looked_at = following, moves
        else:
            allocation, _ = _rested(problem, allocation, looked_at)
        return allocation


def _moves(problem: AllocationProblem, running: Ints, stay: Allocation, other: Allocation, saving: float) -> Bools:
    """Deployments (D) that the other answer serves better, or fully and cheaper by this part of the cost."""
    better, as_well = _served_better(problem, stay, other)
    costs = [_costs(problem, allocation, running) for allocation in (stay, other)]
    cheaper = costs[1] < (1 - saving) * costs[0] - TOLERANCE
    moves: Bools = better | (as_well & cheaper & ~_short(problem, other))
    return moves


def at_rest(problem: AllocationProblem) -> Allocation:
    """The best answer with running replicas, or fewer of them. Of each deployment alone: no other changes it."""
    everyone = np.ones(len(problem.deployment_min_replicas), dtype=bool)
    used = restrict(only_running(problem, everyone), problem.running_replicas() > 0)
    return used.lift(_confined(used.problem))


def _confined(problem: AllocationProblem) -> Allocation:
    """`at_rest` where there are no other options than running ones."""
    stay, now, running = solve_greedy(problem), as_it_runs(problem), problem.running_replicas()
    for number in np.flatnonzero(_lacking(problem, stay)).tolist():
        # The greedy search can miss the shares by which these very replicas serve all.
        only = np.arange(len(problem.deployment_min_replicas)) == number
        part = subset(problem, now, only)
        routed = route(part.problem, part.problem.running_replicas())
        if routed is not None:
            whole = part.merged(routed)
            stay = exchanged(problem, stay, whole, only & _moves(problem, running, stay, whole, 0.0))
    return stay


def as_it_runs(problem: AllocationProblem) -> Allocation:
    """Everything that runs, serving nobody."""
    replicas, share, unserved = problem.running_replicas(), np.zeros(problem.pairs), np.ones(problem.classes)
    known = (problem.running[:, 1] >= 0) & ~problem.pool_unlimited[problem.option_pool[problem.running[:, 0]]]
    return Allocation(replicas, share, unserved, problem.running[known], cost_of(problem, replicas, share, unserved))


def _lacking(problem: AllocationProblem, allocation: Allocation) -> Bools:
    """Deployments (D) that run something and leave traffic unserved that has an option."""
    lacking = (problem.class_rate_per_hour > 0) & (allocation.unserved > TOLERANCE)
    lacking &= np.isin(np.arange(problem.classes), problem.pair_class)
    size = len(problem.deployment_min_replicas)
    runs = np.bincount(problem.option_deployment, problem.running_replicas(), minlength=size) > 0
    mask: Bools = np.bincount(problem.class_deployment[lacking], minlength=size) > 0
    return mask & runs


def exchanged(problem: AllocationProblem, base: Allocation, other: Allocation, chosen: Bools) -> Allocation:
    """`base` with the rows of the chosen deployments (mask, D) from `other`."""
    if not chosen.any():
        return base
    options, classes = chosen[problem.option_deployment], chosen[problem.class_deployment]
    replicas = np.where(options, other.replicas, base.replicas)
    share = np.where(classes[problem.pair_class], other.share, base.share)
    unserved = np.where(classes, other.unserved, base.unserved)
    packing = np.concatenate([base.packing[~options[base.packing[:, 0]]], other.packing[options[other.packing[:, 0]]]])
    packing = packing[np.lexsort((packing[:, 1], packing[:, 0]))]
    return Allocation(replicas, share, unserved, packing, cost_of(problem, replicas, share, unserved))


def _overspends(problem: AllocationProblem, allocation: Allocation) -> bool:
    """Grows although budget or storage do not allow that much."""
    grown = allocation.replicas > problem.running_replicas()
    dear = (grown & (problem.option_price_per_hour > 0)).any()
    if dear and allocation.cost.spending > problem.budget_per_hour + TOLERANCE:
        return True
    stored = stored_gigabytes(problem, allocation.replicas)
    return bool(grown.any() and stored > problem.storage_limit_gigabytes + TOLERANCE)


def _spends_twice(problem: AllocationProblem, allocation: Allocation) -> Bools:
    """Short deployments (D) that grow and give something up, if both together exceed budget or storage."""
    running, size = problem.running_replicas(), len(problem.deployment_min_replicas)
    short = _short(problem, allocation)
    given_up = np.where(short[problem.option_deployment], np.maximum(running - allocation.replicas, 0), 0)
    both_run = allocation.replicas + given_up
    stored = stored_gigabytes(problem, both_run)
    spending = both_run @ problem.option_price_per_hour + stored * problem.storage_price_per_gigabyte_hour
    if spending <= problem.budget_per_hour + TOLERANCE and stored <= problem.storage_limit_gigabytes + TOLERANCE:
        return np.zeros(size, dtype=bool)
    grown = np.maximum(allocation.replicas - running, 0)
    sums = [np.bincount(problem.option_deployment, counts, minlength=size) for counts in (grown, given_up)]
    both: Bools = (sums[0] > 0) & (sums[1] > 0)
    return both


def _rested(problem: AllocationProblem, allocation: Allocation, chosen: Bools) -> tuple[Allocation, Bools]:
    """What the next round makes of the same replicas (or fewer) in the chosen deployments (mask, D): its shares.

    And the deployments where it does not find again how to serve with them, so that it would look for something else.
    """
    part = subset(problem, allocation, chosen)
    rested = part.merged(at_rest(part.problem))
    worse = np.zeros_like(chosen)
    worse[problem.class_deployment[rested.unserved > allocation.unserved + TOLERANCE]] = True
    rested = exchanged(problem, rested, allocation, worse)
    return (allocation if check(problem, rested) else rested), worse


def without_limits(
    problem: AllocationProblem, *, budget: bool, storage: bool = False, stock: bool = False, replicas: bool = False
) -> AllocationProblem:
    """The problem without its budget, storage, stock or replica limits: tells which of them binds."""
    relaxed = problem
    if budget:
        relaxed = replace(relaxed, budget_per_hour=float("inf"))
    if storage:
        relaxed = replace(relaxed, storage_limit_gigabytes=float("inf"))
    if stock:
        relaxed = replace(
            relaxed,
            pool_unlimited=np.ones_like(problem.pool_unlimited),
            pool_gpu_limit=np.full_like(problem.pool_gpu_limit, np.inf),
        )
    if replicas:
        relaxed = replace(relaxed, deployment_max_replicas=np.full_like(problem.deployment_max_replicas, NO_LIMIT))
    return relaxed


def short_classes(problem: AllocationProblem, allocation: Allocation) -> Bools:
    """Classes (I) unserved beyond their limit. A class without traffic misses nothing, if it could be served."""
    matters = problem.class_rate_per_hour > 0
    matters |= ~np.isin(np.arange(problem.classes), problem.pair_class)
    short: Bools = matters & (allocation.unserved > problem.class_unserved_limit + TOLERANCE)
    return short


def _short(problem: AllocationProblem, allocation: Allocation) -> Bools:
    """Deployments (D) with a short class, or with no replica at all although some are asked for."""
    size = len(problem.deployment_min_replicas)
    replicas = np.bincount(problem.option_deployment, allocation.replicas, minlength=size)
    short: Bools = (problem.deployment_min_replicas > 0) & (replicas == 0)
    short[problem.class_deployment[short_classes(problem, allocation)]] = True
    return short


def _below_minimum(problem: AllocationProblem, stay: Allocation, free: Allocation) -> Bools:
    """Deployments (D) that have fewer replicas than their minimum and could have more."""
    sums = [
        np.bincount(problem.option_deployment, allocation.replicas, minlength=len(problem.deployment_min_replicas))
        for allocation in (stay, free)
    ]
    below: Bools = (sums[0] < problem.deployment_min_replicas) & (sums[1] > sums[0])
    return below


def _served_better(problem: AllocationProblem, one: Allocation, other: Allocation) -> tuple[Bools, Bools]:
    """Deployments (masks, D) of which the other answer serves more beyond the limits, priorities first; or as much."""
    size = len(problem.deployment_min_replicas)
    rate = problem.class_rate_per_hour
    tolerance = TOLERANCE * np.bincount(problem.class_deployment, rate, minlength=size)
    better, decided = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    for level in np.unique(problem.class_priority)[::-1]:
        excess = [
            np.bincount(
                problem.class_deployment,
                np.where(problem.class_priority == level, rate, 0.0)
                * np.maximum(answer.unserved - problem.class_unserved_limit, 0.0),
                minlength=size,
            )
            for answer in (one, other)
        ]
        less, more = excess[1] < excess[0] - tolerance, excess[1] > excess[0] + tolerance
        better |= ~decided & less
        decided |= less | more
    return better, ~decided


def _costs(problem: AllocationProblem, allocation: Allocation, running: Ints) -> Floats:
    """Cost per hour by deployment (D): rent, storage, penalties, and what starts beyond the `running` replicas (N)."""
    size = len(problem.deployment_min_replicas)
    started = np.maximum(allocation.replicas - running, 0)
    rent = allocation.replicas * problem.option_price_per_hour + started * problem.option_start_cost_per_hour
    of_pair = problem.class_deployment[problem.pair_class]
    requests = problem.class_rate_per_hour[problem.pair_class] * allocation.share
    latency = (
        requests * problem.pair_delay_seconds * problem.class_latency_penalty_per_request_second[problem.pair_class]
    )
    unserved = problem.class_unserved_penalty_per_request * problem.class_rate_per_hour * allocation.unserved
    return np.asarray(
        np.bincount(problem.option_deployment, rent, minlength=size)
        + problem.storage_price_per_gigabyte_hour * stored_by_deployment(problem, allocation.replicas)
        + np.bincount(of_pair, latency, minlength=size)
        + np.bincount(problem.class_deployment, unserved, minlength=size),
        dtype=np.float64,
    )


def stored_by_deployment(problem: AllocationProblem, replicas: Ints) -> Floats:
    """Gigabytes of weights by deployment (D): one copy per model variant and pool in use."""
    used = np.flatnonzero(replicas > 0)
    _, first = np.unique(problem.option_pair[used], return_index=True)
    copies = used[first]
    return np.asarray(
        np.bincount(
            problem.option_deployment[copies],
            problem.option_storage_gigabytes[copies],
            minlength=len(problem.deployment_min_replicas),
        ),
        dtype=np.float64,
    )
