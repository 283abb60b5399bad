"""The search that the policy asks for, as functions of a problem: which algorithm, which seed, how long at most."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from plimsoll.allocation import Allocation, AllocationProblem, Solution, solve_greedy
from plimsoll.allocation.adaptive import FEW_DEPLOYMENTS, solve_adaptive
from plimsoll.allocation.bound import lower_bound
from plimsoll.allocation.decomposition import Memory, solve_decomposed
from plimsoll.allocation.exact import solve_exact
from plimsoll.allocation.guard import RemainingSeconds
from plimsoll.allocation.milp import SolverError
from plimsoll.allocation.problem import Floats, Ints
from plimsoll.allocation.remembered import Remembered
from plimsoll.allocation.routing import route
from plimsoll.api.placementpolicy import PlacementPolicySpec

Rested = tuple[Ints, Floats, Floats]
"""Of one deployment at rest: replicas of its running options, shares of its pairs, unserved shares of its classes."""
Clock = Callable[[], float]
"""Seconds that only grow, from any start."""

UNPROVEN = float("-inf")
QUICK_PAIRS = 100_000
"""Up to so many pairs of class and option `lower_bound`, which cannot be stopped, takes about a second."""
TOLERANCE = 1e-6


def stopped() -> float:
    """The clock of a round that nobody hurries: its guard never fires."""
    return 0.0


@dataclass(frozen=True, slots=True)
class Search:
    """How one planning round searches. Where the solver breaks down something simpler answers, and `faults` grows."""

    solve: Callable[[AllocationProblem], Solution]
    """With a lower bound, if there is time to find one."""
    answer: Callable[[AllocationProblem], Solution]
    """The same allocation as `solve`, without the work that only raises the bound."""
    bound: Callable[[AllocationProblem, Allocation], float]
    """Valid for any feasible answer: see `Solution.lower_bound_per_hour`. UNPROVEN once the time is up."""
    route: Callable[[AllocationProblem, Ints], Allocation | None]
    """The best shares for given replicas; None where there are none."""
    time_is_up: Callable[[], bool]
    minimal_saving: float
    """A deployment moves for its cost alone only if that saves this part of it."""
    unhurried: Callable[[], "Search"]
    """The same search without its time limit."""
    rested: Remembered[bytes, Rested] = field(default_factory=Remembered)
    """Answers of deployments at rest, by all that they depend on."""
    faults: list[str] = field(default_factory=list)
    """What the solver broke down on so far."""


def search_for(
    policy: PlacementPolicySpec,
    seed: int,
    memory: Memory,
    clock: Clock = stopped,
    rested: Remembered[bytes, Rested] | None = None,
) -> Search:
    """The policy's search. Its time starts now.

    Args:
        seed: must not depend on what runs: a plan that is applied is searched for again with the same seed.
        memory: results of earlier rounds; it saves time and never changes an answer.
        rested: more such results.
    """
    seconds = policy.time_limit_milliseconds / 1000
    began = clock()
    faults: list[str] = []

    def remaining() -> float:
        return seconds - (clock() - began)

    def solve(problem: AllocationProblem, *, prove: bool = True) -> Solution:
        # GH needs no solver: one strange object must not end the planning of the whole fleet.
        for algorithm in _FROM[policy.algorithm]:
            try:
                return algorithm(problem, seed, memory, remaining, prove)
            except SolverError as error:
                faults.append(str(error))
        return _greedy(problem, seed, memory, remaining, prove)

    def bound(problem: AllocationProblem, allocation: Allocation) -> float:
        try:
            return _bound(problem, allocation, memory, remaining)
        except SolverError as error:
            faults.append(str(error))
            return UNPROVEN

    def routed(problem: AllocationProblem, replicas: Ints) -> Allocation | None:
        try:
            return route(problem, replicas)
        except SolverError as error:
            faults.append(str(error))
            return None

    return Search(
        solve=solve,
        answer=partial(solve, prove=False),
        bound=bound,
        route=routed,
        time_is_up=lambda: remaining() <= 0,
        minimal_saving=float(policy.rebalance.minimal_saving),
        unhurried=lambda: search_for(policy, seed, memory, rested=rested),
        rested=Remembered() if rested is None else rested,
        faults=faults,
    )


def _bound(problem: AllocationProblem, allocation: Allocation, memory: Memory, remaining: RemainingSeconds) -> float:
    many = len(np.unique(problem.option_deployment)) > FEW_DEPLOYMENTS
    if many and remaining() > 0:
        # Quicker than `lower_bound` there, much closer, and it can be stopped.
        solution = solve_decomposed(problem, [allocation], memory=memory, remaining_seconds=remaining)
        found = proven(problem, solution, allocation)
        if found != UNPROVEN:
            return found
    quick = not many or problem.pairs <= QUICK_PAIRS
    return lower_bound(problem, allocation) if quick and remaining() > 0 else UNPROVEN


def _greedy(
    problem: AllocationProblem, _seed: int, _memory: Memory, _remaining: RemainingSeconds, _prove: bool
) -> Solution:
    return Solution(solve_greedy(problem), UNPROVEN)


def _adaptive(
    problem: AllocationProblem, seed: int, memory: Memory, remaining: RemainingSeconds, prove: bool
) -> Solution:
    return solve_adaptive(problem, seed=seed, memory=memory, remaining_seconds=remaining, prove=prove)


def _exact(problem: AllocationProblem, seed: int, memory: Memory, remaining: RemainingSeconds, prove: bool) -> Solution:
    start = solve_adaptive(problem, seed=seed, memory=memory, remaining_seconds=remaining, prove=prove)
    found = solve_exact(problem, start=start.allocation, time_limit_seconds=max(0.0, remaining()))
    # Where time runs out the start's bound may be the better one.
    bound = max(proven(problem, start, found.allocation), found.lower_bound_per_hour)
    return Solution(found.allocation, bound, start.interrupted or found.interrupted)


_FROM = {"Greedy": (_greedy,), "Adaptive": (_adaptive,), "Exact": (_exact, _adaptive)}
"""Of the policy's algorithm and those that answer where the solver breaks down on it; GH comes last."""


def proven(problem: AllocationProblem, solution: Solution, allocation: Allocation) -> float:
    """The solution's bound, if it also says that nothing which serves as much as `allocation` costs less."""
    allowed = np.maximum(problem.class_unserved_limit, solution.allocation.unserved)
    return solution.lower_bound_per_hour if (allocation.unserved <= allowed + TOLERANCE).all() else UNPROVEN
