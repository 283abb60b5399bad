"""Many deployments at once: small fleets whose best answer is known."""

import numpy as np
import pytest

from benchmarks.production import changed, production, with_running
from plimsoll.allocation import check, solve_greedy
from plimsoll.allocation.decomposition import Memory, objective, solve_decomposed
from plimsoll.allocation.decomposition_stay import pack_anew, stay
from plimsoll.allocation.routing import route
from tests.unit.allocation.builder import Builder


def _two_deployments(gpus: float, **settings: float) -> Builder:
    """Both like the cheap pool; the second loses less by going to the dear one."""
    b = Builder(**settings)
    cheap, dear = b.pool([gpus]), b.pool([8.0])
    for load in (6.0, 3.0):
        number = b.deployment()
        here = b.option(cheap, price=1.0, deployment=number)
        there = b.option(dear, price=1.5, deployment=number)
        b.traffic({here: load / 2, there: load / 2}, deployment=number)
    return b


def test_stock_goes_where_it_saves_most() -> None:
    problem = _two_deployments(3.0).build()
    solution = solve_decomposed(problem, [])
    assert check(problem, solution.allocation) == ()
    assert solution.allocation.replicas.tolist() == [3, 0, 0, 2]
    assert solution.allocation.cost.total == pytest.approx(6.0)
    assert 5.0 <= solution.lower_bound_per_hour <= 6.0 + 1e-9


def test_short_stock_serves_the_higher_priority() -> None:
    b = Builder()
    pool = b.pool([2.0])
    for priority in (0, 1):
        number = b.deployment()
        option = b.option(pool, deployment=number)
        b.traffic({option: 2.0}, deployment=number, priority=priority)
    problem = b.build()
    solution = solve_decomposed(problem, [])
    assert solution.allocation.unserved.tolist() == [1.0, 0.0]
    assert solution.gap_as_served == pytest.approx(0.0, abs=1e-6)


def test_part_of_a_class_is_served_where_not_all_can_be() -> None:
    b = Builder()
    option = b.option(b.pool([3.0]))
    b.traffic({option: 4.0})
    solution = solve_decomposed(b.build(), [])
    assert solution.allocation.unserved.tolist() == pytest.approx([0.25])


def test_budget_limits_growth() -> None:
    problem = _two_deployments(8.0, budget=3.0).build()
    solution = solve_decomposed(problem, [])
    assert check(problem, solution.allocation) == ()
    assert solution.allocation.cost.spending <= 3.0
    assert solution.allocation.unserved.sum() <= 2 / 3 + 1e-9


def test_mean_error_is_kept_by_a_mix() -> None:
    b = Builder()
    pool = b.pool([20.0])
    good, poor = b.option(pool, price=4.0), b.option(pool, price=1.0)
    b.traffic({good: 4.0, poor: 4.0}, error_limit=0.2, errors={good: 0.1, poor: 0.3})
    problem = b.build()
    solution = solve_decomposed(problem, [])
    assert check(problem, solution.allocation) == ()
    assert solution.allocation.replicas.tolist() == [2, 2]
    assert solution.lower_bound_per_hour == pytest.approx(10.0)


def test_what_runs_stays_where_moving_saves_too_little() -> None:
    b = Builder(keep_running=False)
    cheap, dear = b.pool([8.0]), b.pool([8.0])
    moving, staying = b.option(cheap, price=1.0, start=1.0), b.option(dear, price=1.5)
    b.traffic({moving: 3.0, staying: 3.0})
    b.running = [(staying, 1, 3)]
    solution = solve_decomposed(b.build(), [])
    assert solution.allocation.replicas.tolist() == [0, 3]
    assert solution.lower_bound_per_hour == pytest.approx(4.5)


def test_papers_form_is_refused() -> None:
    with pytest.raises(ValueError, match="production's form"):
        solve_decomposed(_two_deployments(8.0, one_option_per_pair=True).build(), [])


@pytest.mark.parametrize("stock", [1.1, 0.9])
def test_a_fleet_of_production_shape(stock: float) -> None:
    problem = production(60, stock=stock)
    start = solve_greedy(problem)
    solution = solve_decomposed(problem, [start])
    assert check(problem, solution.allocation) == ()
    assert objective(problem, solution.allocation) <= objective(problem, start)
    assert solution.gap_as_served < 0.08


def test_a_changed_fleet_is_answered_alike_with_and_without_memory() -> None:
    problem = production(40)
    memory = Memory()
    first = solve_decomposed(problem, [], memory=memory)
    later = changed(with_running(problem, first.allocation, keep_running=True), 0.05)
    cold, warm = solve_decomposed(later, []), solve_decomposed(later, [], memory=memory)
    assert check(later, warm.allocation) == ()
    assert np.array_equal(cold.allocation.replicas, warm.allocation.replicas)
    assert cold.lower_bound_per_hour == warm.lower_bound_per_hour


@pytest.mark.parametrize("keep_running", [False, True])
def test_out_of_time_still_answers(keep_running: bool) -> None:
    problem = production(40, stock=0.9)
    runs = with_running(problem, solve_decomposed(problem, []).allocation, keep_running=keep_running)
    now = changed(runs, 0.2)
    staying = stay(now)
    assert staying is not None
    solution = solve_decomposed(now, [staying], remaining_seconds=lambda: 0.0)
    assert solution.interrupted
    assert check(now, solution.allocation) == ()
    assert objective(now, solution.allocation) <= objective(now, staying)


@pytest.mark.parametrize("keep_running", [False, True])
def test_staying_is_what_the_running_replicas_serve_best_where_they_are(keep_running: bool) -> None:
    problem = production(20, stock=0.9)
    runs = with_running(problem, solve_decomposed(problem, []).allocation, keep_running=keep_running)
    now = changed(runs, 0.2)
    staying, routed = stay(now), route(now, now.running_replicas())
    assert staying is not None
    assert routed is not None
    assert check(now, staying) == ()
    assert objective(now, staying) == objective(now, routed)
    assert sorted(staying.packing.tolist()) == sorted(now.running.tolist())


def test_replicas_that_stay_keep_their_nodes() -> None:
    b = Builder(keep_running=False)
    pool = b.pool([4.0, 4.0])
    small, large = b.option(pool), b.option(pool, gpus=4.0)
    b.running = [(small, 0, 1), (small, 1, 2)]
    problem = b.build()
    packing = pack_anew(problem, np.array([1, 1]))
    assert packing is not None
    assert packing.tolist() == [[small, 0, 1], [large, 1, 1]]


def test_replicas_move_where_new_ones_find_no_place_else() -> None:
    b = Builder(keep_running=False)
    pool = b.pool([4.0, 4.0])
    small, large = b.option(pool), b.option(pool, gpus=4.0)
    b.running = [(small, 0, 1), (small, 1, 1)]
    packing = pack_anew(b.build(), np.array([2, 1]))
    assert packing is not None
    assert sorted(packing[:, 0].tolist()) == [small, large]
