"""Several pieces per replica, limits of groups and per node, spare replicas: feasible, and exact where that is said."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.allocation import AllocationProblem, check, lower_bound, solve_agh, solve_greedy
from plimsoll.allocation.adaptive import solve_adaptive
from plimsoll.allocation.decomposition import objective, solve_decomposed
from plimsoll.allocation.exact import solve_exact
from plimsoll.allocation.reduce import restrict, undominated
from tests.property.exhaustive import exhaustive
from tests.property.test_allocation_properties import fleets
from tests.property.test_exact_properties import beyond, missing, solve, tiny
from tests.property.variations import in_groups, in_pieces, with_spare

RICH_FLEETS = with_spare(in_groups(in_pieces(fleets())))
RICH_TINY = with_spare(in_groups(in_pieces(tiny())))


@given(st.one_of(RICH_FLEETS, RICH_TINY))
@settings(max_examples=60, deadline=None)
def test_heuristic_answers_are_feasible(problem: AllocationProblem) -> None:
    start = solve_greedy(problem)
    assert check(problem, start) == ()
    improved = solve_agh(problem)
    assert check(problem, improved) == ()


@given(RICH_TINY)
@settings(max_examples=25, deadline=None)
def test_the_optimum_is_the_one_of_trying_everything(problem: AllocationProblem) -> None:
    allocation = solve(problem)
    assert [*beyond(problem, allocation), missing(problem, allocation), allocation.cost.total] == pytest.approx(
        exhaustive(problem), rel=1e-5, abs=1e-5
    )


@given(RICH_TINY)
@settings(max_examples=15, deadline=None)
def test_dominated_options_are_not_missed(problem: AllocationProblem) -> None:
    part = restrict(problem, undominated(problem))
    lifted = part.lift(solve(part.problem))
    assert check(problem, lifted) == ()
    assert [*beyond(problem, lifted), missing(problem, lifted), lifted.cost.total] == pytest.approx(
        exhaustive(problem), rel=1e-5, abs=1e-5
    )


@given(RICH_FLEETS)
@settings(max_examples=25, deadline=None)
def test_answers_for_many_deployments_at_once_are_feasible_and_their_bound_holds(problem: AllocationProblem) -> None:
    start = solve_greedy(problem)
    solution = solve_decomposed(problem, [start])
    assert check(problem, solution.allocation) == ()
    assert objective(problem, solution.allocation)[:-1] <= objective(problem, start)[:-1]
    ceiling = np.maximum(problem.class_unserved_limit, solution.allocation.unserved)
    within = replace(problem, class_unserved_limit=ceiling)
    optimum = solve_exact(within, start=solution.allocation, relative_gap=1e-7).allocation.cost.total
    assert solution.lower_bound_per_hour <= optimum + 1e-5 * max(1.0, abs(optimum))
    assert lower_bound(within, solution.allocation) <= optimum + 1e-5 * max(1.0, abs(optimum))


@given(RICH_FLEETS)
@settings(max_examples=12, deadline=None)
def test_the_production_default_is_feasible_and_its_bound_is_below_its_cost(problem: AllocationProblem) -> None:
    solution = solve_adaptive(problem)
    assert check(problem, solution.allocation) == ()
    assert solution.lower_bound_per_hour <= solution.allocation.cost.total + 1e-6
