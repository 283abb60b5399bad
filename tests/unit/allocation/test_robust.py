"""Headroom before planning, stress after it, and the second stage: routing again, or dropping what no longer fits."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.allocation import Allocation, AllocationProblem, check, solve_greedy
from plimsoll.allocation.robust import priced, restage, shed, stressed, with_headroom
from tests.unit.allocation.builder import Builder

FACTORS = st.floats(1.0, 2.0)


@st.composite
def mixed(draw: st.DrawFn) -> AllocationProblem:
    """One or two classes with mean limits over a few options; all of it may stay unserved, at a price."""
    b = Builder(means_over_all=draw(st.booleans()))
    b.pool(None)
    options = [b.option(0, price=draw(st.floats(0.5, 3.0)), most=4) for _ in range(draw(st.integers(1, 4)))]
    for _ in range(draw(st.integers(1, 2))):
        b.traffic(
            {option: draw(st.one_of(st.just(0.0), st.floats(0.01, 3.0))) for option in options},
            limit=1.0,
            penalty=1.0,
            delay_limit=draw(st.sampled_from([np.inf, 1.0, 1.5])),
            error_limit=draw(st.sampled_from([np.inf, 0.05])),
            delays={option: draw(st.floats(0.2, 2.0)) for option in options},
            errors={option: draw(st.one_of(st.just(0.0), st.floats(0.001, 0.1))) for option in options},
        )
    return b.build()


def served(problem: AllocationProblem, allocation: Allocation) -> float:
    return float(problem.class_rate_per_hour @ (1.0 - allocation.unserved))


def two_ways(**limits: float) -> AllocationProblem:
    """One class on a fast, clean option and on a slow, faulty one of the same price."""
    b = Builder(means_over_all=True)
    b.pool(None)
    fast, slow = b.option(0, most=1), b.option(0, most=1)
    b.traffic(
        {fast: 2.0, slow: 0.5},
        limit=1.0,
        delays={fast: 1.0, slow: 3.0},
        errors={fast: 0.01, slow: 0.05},
        **limits,
    )
    return b.build()


@given(mixed(), FACTORS, FACTORS, FACTORS)
@settings(max_examples=100, deadline=None)
def test_a_plan_with_headroom_is_feasible_without(
    problem: AllocationProblem, demand: float, delay: float, error: float
) -> None:
    tight = with_headroom(problem, demand=demand - 1, delay=delay - 1, error=error - 1)
    plan = solve_greedy(tight)
    assert check(tight, plan) == ()
    assert check(problem, priced(problem, plan)) == ()


@given(mixed(), FACTORS, FACTORS, FACTORS)
@settings(max_examples=100, deadline=None)
def test_the_second_stage_is_feasible_and_routing_serves_no_less_than_dropping(
    problem: AllocationProblem, demand: float, delay: float, error: float
) -> None:
    plan = solve_greedy(problem)
    worse = stressed(problem, demand_factor=demand, delay_factor=delay, error_factor=error, delay_bound_resources=[0])
    routed, kept = restage(worse, plan), shed(worse, plan)
    assert check(worse, routed) == ()
    assert check(worse, kept) == ()
    assert routed.replicas.tolist() == kept.replicas.tolist() == plan.replicas.tolist()
    assert routed.cost.total <= kept.cost.total + 1e-6
    assert (kept.share <= plan.share + 1e-9).all()


@given(mixed(), FACTORS)
@settings(max_examples=50, deadline=None)
def test_a_plan_with_headroom_stands_that_much_stress(problem: AllocationProblem, factor: float) -> None:
    part = dict.fromkeys(("demand", "delay", "error"), factor - 1)
    plan = solve_greedy(with_headroom(problem, **part, delay_bound_resources=[0]))
    worse = stressed(problem, demand_factor=factor, delay_factor=factor, error_factor=factor, delay_bound_resources=[0])
    assert served(worse, shed(worse, plan)) == pytest.approx(served(worse, plan), abs=1e-6)


@given(mixed())
@settings(max_examples=50, deadline=None)
def test_without_stress_nothing_is_dropped(problem: AllocationProblem) -> None:
    plan = solve_greedy(problem)
    assert shed(problem, plan).share.tolist() == pytest.approx(plan.share.tolist(), abs=1e-6)


def test_headroom_leaves_rates_prices_and_limits() -> None:
    problem = two_ways(delay_limit=2.0, error_limit=0.05)
    tight = with_headroom(problem, demand=0.5, delay=0.1, error=0.2, delay_bound_resources=[0])
    changed = {"pair_load", "pair_delay_seconds", "pair_error"}
    for name in set(problem.__slots__) - changed:
        assert getattr(tight, name) is getattr(problem, name), name
    assert tight.pair_load == pytest.approx(problem.pair_load * 1.5 * 1.1)
    assert tight.pair_delay_seconds == pytest.approx(problem.pair_delay_seconds * 1.1)
    assert tight.pair_error == pytest.approx(problem.pair_error * 1.2)


def test_negative_headroom_is_refused() -> None:
    with pytest.raises(ValueError, match="headroom is at least 0"):
        with_headroom(two_ways(), delay=-0.1)


def test_stress_of_single_entries() -> None:
    problem = replace(two_ways(), pair_storage_cost_per_hour=np.array([0.1, 0.1]))
    worse = stressed(
        problem, delay_factor=np.array([1.0, 2.0]), demand_factor=np.array([1.5]), delay_bound_resources=[0]
    )
    assert worse.class_rate_per_hour.tolist() == [150.0]
    assert worse.pair_delay_seconds.tolist() == [1.0, 6.0]
    assert worse.pair_load.tolist() == [[3.0], [1.5]]
    assert worse.pair_storage_cost_per_hour == pytest.approx([0.15, 0.15])


def test_the_slowest_traffic_is_dropped_first_and_no_more_than_needed() -> None:
    problem = two_ways(delay_limit=2.5)
    plan = Allocation(np.array([1, 1]), np.array([0.3, 0.7]), np.zeros(1), np.zeros((0, 3), np.int64), None)  # type: ignore[arg-type]
    kept = shed(problem, priced(problem, plan))
    assert kept.share == pytest.approx([0.3, 0.7])
    kept = shed(stressed(problem, delay_factor=1.25), priced(problem, plan))
    # 0.3 x 1.25 + 3.75 x share = 2.5
    assert kept.share == pytest.approx([0.3, (2.5 - 0.375) / 3.75])
    assert kept.unserved == pytest.approx([0.7 - (2.5 - 0.375) / 3.75])


def test_over_served_traffic_the_mean_of_what_is_left_counts() -> None:
    problem = replace(two_ways(delay_limit=2.0), means_over_all=False)
    plan = Allocation(np.array([1, 1]), np.array([0.4, 0.6]), np.zeros(1), np.zeros((0, 3), np.int64), None)  # type: ignore[arg-type]
    assert shed(problem, priced(problem, plan)).share == pytest.approx([0.4, 0.4])


def test_an_option_that_is_too_small_drops_the_same_part_of_all() -> None:
    problem = two_ways()
    plan = Allocation(np.array([1, 0]), np.array([0.5, 0.0]), np.array([0.5]), np.zeros((0, 3), np.int64), None)  # type: ignore[arg-type]
    kept = shed(stressed(problem, demand_factor=2.0), priced(problem, plan))
    assert kept.share == pytest.approx([0.25, 0.0])


def test_replicas_that_are_not_allowed_cannot_be_staged() -> None:
    problem = two_ways()
    plan = priced(
        problem,
        Allocation(np.array([2, 0]), np.zeros(2), np.ones(1), np.zeros((0, 3), np.int64), None),  # type: ignore[arg-type]
    )
    with pytest.raises(ValueError, match="not feasible"):
        restage(problem, plan)
