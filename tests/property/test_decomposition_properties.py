"""Answers for many deployments at once: feasible, never worse than the starts, and above a bound that holds."""

from dataclasses import replace

import numpy as np
from hypothesis import given, settings

from plimsoll.allocation import AllocationProblem, check, solve_greedy
from plimsoll.allocation.decomposition import Memory, objective, solve_decomposed
from plimsoll.allocation.exact import solve_exact
from tests.property.test_allocation_properties import fleets


def _no_worse(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    for mine, theirs in zip(first, second, strict=True):
        if abs(mine - theirs) > 1e-5 * max(1.0, abs(theirs)):
            return mine < theirs
    return True


@given(fleets())
@settings(max_examples=60, deadline=None)
def test_feasible_and_no_worse_than_the_start(problem: AllocationProblem) -> None:
    start = solve_greedy(problem)
    solution = solve_decomposed(problem, [start])
    assert check(problem, solution.allocation) == ()
    assert _no_worse(objective(problem, solution.allocation), objective(problem, start))
    assert solution.lower_bound_per_hour <= solution.allocation.cost.total + 1e-6


@given(fleets())
@settings(max_examples=60, deadline=None)
def test_the_bound_holds(problem: AllocationProblem) -> None:
    """Against the optimum of the plans that it speaks of: no class more unserved than in the answer."""
    solution = solve_decomposed(problem, [solve_greedy(problem)])
    ceiling = np.maximum(problem.class_unserved_limit, solution.allocation.unserved)
    optimum = solve_exact(replace(problem, class_unserved_limit=ceiling), start=solution.allocation, relative_gap=1e-7)
    cost = optimum.allocation.cost.total
    assert solution.lower_bound_per_hour <= cost + 1e-5 * max(1.0, abs(cost))


@given(fleets())
@settings(max_examples=30, deadline=None)
def test_what_is_remembered_changes_nothing(problem: AllocationProblem) -> None:
    start = solve_greedy(problem)
    memory = Memory()
    other = replace(problem, pair_load=problem.pair_load * 1.5)
    solve_decomposed(other, [solve_greedy(other)], memory=memory)
    cold, warm = solve_decomposed(problem, [start]), solve_decomposed(problem, [start], memory=memory)
    again = solve_decomposed(problem, [start], memory=memory)
    for one in (warm, again):
        assert one.allocation.replicas.tobytes() == cold.allocation.replicas.tobytes()
        assert one.allocation.share.tobytes() == cold.allocation.share.tobytes()
        assert one.lower_bound_per_hour == cold.lower_bound_per_hour
