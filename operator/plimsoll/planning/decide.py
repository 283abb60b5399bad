"""Which answer to follow: stay with what runs unless that fails the objectives or a change saves enough."""

from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation import Allocation, AllocationProblem, check, solve_greedy, subset
from plimsoll.allocation.problem import Bools, Floats
from plimsoll.planning.fleet import NO_LIMIT, only_running, only_used

MINIMAL_SAVING = 0.05
"""A deployment moves for its cost alone only if that saves this part of it."""
LOOKAHEAD_ROUNDS = 4
"""Further rounds that are played through before a plan is applied; each must save `MINIMAL_SAVING` again."""
TOLERANCE = 1e-6


class PlanRejectedError(Exception):
    """The independent checker found the solver's answer to break a limit. Nothing of it may be applied."""


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """The answer, and which deployments are short of what their limits allow (mask, D)."""

    allocation: Allocation
    short: Bools


def decide(problem: AllocationProblem) -> Decision:
    """Solve, prefer to stay per deployment, and check independently.

    A deployment keeps to its running replicas (or fewer of them) while they serve all its classes and no other answer
    is cheaper by `MINIMAL_SAVING`. So a plan that is applied is its own plan: at rest nothing moves.

    Raises:
        PlanRejectedError: when `allocation.check` finds a violation.
    """
    everyone = np.ones(len(problem.deployment_min_replicas), dtype=bool)
    stay = solve_greedy(only_running(problem, everyone))
    free = solve_greedy(problem)
    moves = _short(problem, stay) | _below_minimum(problem, stay, free)
    moves |= _costs(problem, free) < (1 - MINIMAL_SAVING) * _costs(problem, stay) - TOLERANCE
    if moves.all():
        allocation = free
    elif not moves.any():
        allocation = stay
    else:
        allocation = solve_greedy(only_running(problem, ~moves))
    allocation = _within_budget(problem, allocation, ~moves)
    if not np.array_equal(allocation.replicas, problem.running_replicas()):
        allocation = _look_ahead(problem, allocation, moves)
    violations = check(problem, allocation)
    if violations:
        raise PlanRejectedError("; ".join(violation.message for violation in violations[:5]))
    return Decision(allocation=allocation, short=_short(problem, allocation))


def _within_budget(problem: AllocationProblem, allocation: Allocation, stays: Bools) -> Allocation:
    """The same, or an answer that gives up less of what runs, where the money for that would be spent twice.

    A deployment that is short keeps all that it runs (planning/transition.py). So what it grows by must be paid beside
    what its plan gives up: else it may only add to the options that it uses, and if that is still too much, nothing.
    """
    confined = only_running(problem, stays)
    for limit in (only_used, only_running):
        spends_twice = _spends_twice(problem, allocation)
        if not spends_twice.any():
            break
        allocation = solve_greedy(limit(confined, spends_twice))
    return allocation


def _spends_twice(problem: AllocationProblem, allocation: Allocation) -> Bools:
    """Short deployments (D) that grow and give something up, if both together exceed the budget."""
    running, size = problem.running_replicas(), len(problem.deployment_min_replicas)
    short = _short(problem, allocation)
    given_up = np.where(short[problem.option_deployment], np.maximum(running - allocation.replicas, 0), 0)
    rent = (allocation.replicas + given_up) @ problem.option_price_per_hour
    if rent <= problem.budget_per_hour + TOLERANCE:
        return np.zeros(size, dtype=bool)
    grown = np.maximum(allocation.replicas - running, 0)
    sums = [np.bincount(problem.option_deployment, counts, minlength=size) for counts in (grown, given_up)]
    both: Bools = (sums[0] > 0) & (sums[1] > 0)
    return both


def _look_ahead(problem: AllocationProblem, allocation: Allocation, movable: Bools) -> Allocation:
    """The answer that the next rounds would come to, as far as it fits beside what runs now.

    The greedy search can find a better answer once its own replicas run; to move them a moment after they started would
    be waste. And shares are those that the next round finds for the same replicas: routing does not change again.
    """
    looked_at = np.ones_like(movable)
    movable = movable & ~_short(problem, allocation)
    for _ in range(LOOKAHEAD_ROUNDS):
        allocation, stuck = _rested(problem, allocation, looked_at)
        part = subset(problem, allocation, movable)
        better = part.merged(solve_greedy(part.problem))
        saves = _costs(problem, better) < (1 - MINIMAL_SAVING) * _costs(problem, allocation) - TOLERANCE
        saves = movable & (saves | stuck)
        if not saves.any():
            break
        part = subset(problem, allocation, saves)
        better = part.merged(solve_greedy(part.problem))
        if check(problem, better):
            break
        allocation, movable, looked_at = better, saves, saves
    return allocation


def _rested(problem: AllocationProblem, allocation: Allocation, chosen: Bools) -> tuple[Allocation, Bools]:
    """What the next round makes of the same replicas (or fewer) in the chosen deployments (mask, D): its shares.

    And the deployments where it does not find again how to serve with them, so that it would look for something else.
    """
    part = subset(problem, allocation, chosen)
    rested = part.merged(solve_greedy(only_running(part.problem, chosen)))
    worse = np.zeros_like(chosen)
    worse[problem.class_deployment[rested.unserved > allocation.unserved + TOLERANCE]] = True
    if worse.any():
        part = subset(problem, allocation, chosen & ~worse)
        rested = part.merged(solve_greedy(only_running(part.problem, chosen)))
    return (allocation if check(problem, rested) else rested), worse


def without_limits(
    problem: AllocationProblem, *, budget: bool, stock: bool, replicas: bool = False
) -> AllocationProblem:
    """The problem without its budget, its stock limits or its most replicas: tells which of them binds."""
    relaxed = problem
    if budget:
        relaxed = replace(relaxed, budget_per_hour=float("inf"))
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


def _costs(problem: AllocationProblem, allocation: Allocation) -> Floats:
    """Cost per hour by deployment (D): rent, penalties, and the cost of replicas that must start."""
    size = len(problem.deployment_min_replicas)
    started = np.maximum(allocation.replicas - problem.running_replicas(), 0)
    rent = allocation.replicas * problem.option_price_per_hour + started * problem.option_start_cost_per_hour
    of_pair = problem.class_deployment[problem.pair_class]
    requests = problem.class_rate_per_hour[problem.pair_class] * allocation.share
    latency = (
        requests * problem.pair_delay_seconds * problem.class_latency_penalty_per_request_second[problem.pair_class]
    )
    unserved = problem.class_unserved_penalty_per_request * problem.class_rate_per_hour * allocation.unserved
    return np.asarray(
        np.bincount(problem.option_deployment, rent, minlength=size)
        + np.bincount(of_pair, latency, minlength=size)
        + np.bincount(problem.class_deployment, unserved, minlength=size),
        dtype=np.float64,
    )
