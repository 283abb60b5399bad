"""Random small fleets: the finish never gets worse, keeps every limit and repeats itself; bounds are below the best."""

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from plimsoll.allocation import Allocation, AllocationProblem, check, solve_greedy
from plimsoll.allocation.bound import lower_bound, option_bounds
from plimsoll.allocation.exact import solve_exact
from plimsoll.allocation.formulation import levels_of
from plimsoll.allocation.neighbourhood import finish
from tests.property.test_allocation_properties import fleets
from tests.unit.allocation.builder import Builder

TOLERANCE = 1e-6


@st.composite
def papers(draw: st.DrawFn) -> AllocationProblem:
    """The paper's form: one replica of one option per pair, storage, a budget, means over all traffic."""
    b = Builder(
        budget=draw(st.sampled_from([float("inf"), 6.0])),
        storage_price=draw(st.sampled_from([0.0, 0.01])),
        storage_limit=draw(st.sampled_from([float("inf"), 25.0])),
        one_option_per_pair=True,
        means_over_all=True,
    )
    gigabytes = [draw(st.sampled_from([5.0, 10.0, 20.0])) for _ in range(3)]
    options = []
    for _ in range(draw(st.integers(1, 6))):
        gpus, pair = draw(st.sampled_from([1, 2, 4])), draw(st.integers(0, 2))
        options.append(b.option(b.pool(None), 0.7 * gpus, gpus, pair=pair, most=1, storage=gigabytes[pair]))
    for _ in range(draw(st.integers(1, 3))):
        values = st.sampled_from([0.5, 1.0, 2.0])
        b.traffic(
            {option: draw(st.floats(0.05, 1.5)) for option in options},
            limit=draw(st.sampled_from([0.0, 1.0])),
            penalty=draw(st.sampled_from([0.01, 1.0])),
            latency_penalty=draw(st.sampled_from([0.0, 0.001])),
            delay_limit=draw(st.sampled_from([float("inf"), 1.0, 1.5])),
            error_limit=draw(st.sampled_from([float("inf"), 1.2])),
            delays={option: draw(values) for option in options},
            errors={option: draw(values) for option in options},
        )
    return b.build()


def _rank(problem: AllocationProblem, allocation: Allocation) -> tuple[float, ...]:
    return (*(round(level, 6) for level in levels_of(problem, allocation)), allocation.cost.total)


@given(st.one_of(fleets(), papers()))
@settings(max_examples=40, deadline=None)
def test_never_worse_and_feasible(problem: AllocationProblem) -> None:
    start = solve_greedy(problem)
    improved = finish(problem, [start]).allocation
    assert check(problem, improved) == ()
    assert _rank(problem, improved) <= _rank(problem, start)
    solution = finish(problem, [start])
    assert solution.allocation.cost == improved.cost
    assert solution.lower_bound_per_hour <= improved.cost.total + TOLERANCE * max(1.0, improved.cost.total)
    event(f"better: {_rank(problem, improved) < _rank(problem, start)}")


@given(st.one_of(fleets(), papers()))
@settings(max_examples=25, deadline=None)
def test_same_problem_same_answer(problem: AllocationProblem) -> None:
    start = solve_greedy(problem)
    first, second = finish(problem, [start], seed=3).allocation, finish(problem, [start], seed=3).allocation
    for name in ("replicas", "share", "unserved", "packing"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


@given(st.one_of(fleets(), papers()))
@settings(max_examples=60, deadline=None)
def test_bound_is_below_the_optimum(problem: AllocationProblem) -> None:
    best = solve_exact(problem, relative_gap=0.0).allocation
    bound = lower_bound(problem, best)
    assert bound <= best.cost.total + TOLERANCE * max(1.0, best.cost.total)
    greedy = solve_greedy(problem)
    if (best.unserved <= np.maximum(problem.class_unserved_limit, greedy.unserved) + TOLERANCE).all():
        assert lower_bound(problem, greedy) <= best.cost.total + TOLERANCE * max(1.0, best.cost.total)
    event(f"gap: {round(10 * (1 - bound / best.cost.total)) * 10 if best.cost.total > 0 else 0} %")


@given(st.one_of(fleets(), papers()))
@settings(max_examples=40, deadline=None)
def test_bound_with_an_option_holds_for_answers_that_use_it(problem: AllocationProblem) -> None:
    best = solve_exact(problem, relative_gap=0.0).allocation
    bounds = option_bounds(problem, solve_greedy(problem))
    if not (
        best.unserved <= np.maximum(problem.class_unserved_limit, solve_greedy(problem).unserved) + TOLERANCE
    ).all():
        return
    used = best.replicas > 0
    assert (bounds.with_option_per_hour[used] <= best.cost.total + TOLERANCE * max(1.0, best.cost.total)).all()
    assert (bounds.with_option_per_hour >= bounds.value_per_hour).all()
