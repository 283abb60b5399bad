"""The production default on random problems, with and without a running state: feasible, bounded, repeatable."""

from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.allocation import AllocationProblem, check, solve_adaptive
from tests.property.test_allocation_properties import fleets
from tests.property.test_exact_properties import tiny


@given(st.one_of(fleets(), tiny()))
@settings(max_examples=40, deadline=None)
def test_the_default_keeps_every_limit_and_its_bound_lies_below(problem: AllocationProblem) -> None:
    solution = solve_adaptive(problem)
    assert check(problem, solution.allocation) == ()
    cost = solution.allocation.cost.total
    assert solution.lower_bound_per_hour <= cost + 1e-6 * max(1.0, abs(cost))
    again = solve_adaptive(problem)
    assert again.allocation.replicas.tobytes() == solution.allocation.replicas.tobytes()
    assert again.allocation.share.tobytes() == solution.allocation.share.tobytes()
