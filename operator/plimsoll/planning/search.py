"""The search that the policy asks for, as functions of a problem: which algorithm, which seed, how long at most."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from plimsoll.allocation import Allocation, AllocationProblem, Solution, solve_greedy
from plimsoll.allocation.adaptive import solve_adaptive
from plimsoll.allocation.bound import lower_bound
from plimsoll.allocation.decomposition import Memory
from plimsoll.allocation.exact import solve_exact
from plimsoll.allocation.guard import RemainingSeconds
from plimsoll.api.placementpolicy import PlacementPolicySpec

Clock = Callable[[], float]
"""Seconds that only grow, from any start."""

UNPROVEN = float("-inf")
TOLERANCE = 1e-6


def stopped() -> float:
    """The clock of a round that nobody hurries: its guard never fires."""
    return 0.0


@dataclass(frozen=True, slots=True)
class Search:
    """How one planning round searches."""

    solve: Callable[[AllocationProblem], Solution]
    bound: Callable[[AllocationProblem, Allocation], float]
    """Valid for any feasible answer: see `Solution.lower_bound_per_hour`."""
    minimal_saving: float
    """A deployment moves for its cost alone only if that saves this part of it."""


def search_for(policy: PlacementPolicySpec, seed: int, memory: Memory, clock: Clock = stopped) -> Search:
    """The policy's search. Its time starts now.

    Args:
        seed: must not depend on what runs: a plan that is applied is searched for again with the same seed.
        memory: results of earlier rounds; it saves time and never changes an answer.
    """
    seconds = policy.time_limit_milliseconds / 1000
    began = clock()

    def remaining() -> float:
        return seconds - (clock() - began)

    solve = {"Greedy": _greedy, "Adaptive": _adaptive, "Exact": _exact}[policy.algorithm]
    return Search(
        solve=lambda problem: solve(problem, seed, memory, remaining),
        bound=lower_bound,
        minimal_saving=float(policy.rebalance.minimal_saving),
    )


def _greedy(problem: AllocationProblem, _seed: int, _memory: Memory, _remaining: RemainingSeconds) -> Solution:
    return Solution(solve_greedy(problem), UNPROVEN)


def _adaptive(problem: AllocationProblem, seed: int, memory: Memory, remaining: RemainingSeconds) -> Solution:
    return solve_adaptive(problem, seed=seed, memory=memory, remaining_seconds=remaining)


def _exact(problem: AllocationProblem, seed: int, memory: Memory, remaining: RemainingSeconds) -> Solution:
    start = solve_adaptive(problem, seed=seed, memory=memory, remaining_seconds=remaining)
    found = solve_exact(problem, start=start.allocation, time_limit_seconds=max(0.0, remaining()))
    # Where time runs out the start's bound may be the better one.
    bound = max(proven(problem, start, found.allocation), found.lower_bound_per_hour)
    return Solution(found.allocation, bound, start.interrupted or found.interrupted)


def proven(problem: AllocationProblem, solution: Solution, allocation: Allocation) -> float:
    """The solution's bound, if it also says that nothing which serves as much as `allocation` costs less."""
    allowed = np.maximum(problem.class_unserved_limit, solution.allocation.unserved)
    return solution.lower_bound_per_hour if (allocation.unserved <= allowed + TOLERANCE).all() else UNPROVEN
