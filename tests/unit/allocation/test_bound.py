"""The lower bound by hand-made problems, and on the reference instance."""

import json
from pathlib import Path

import numpy as np
import pytest

from plimsoll.allocation import AllocationProblem, solve_greedy
from plimsoll.allocation.bound import lower_bound, option_bounds
from plimsoll.allocation.neighbourhood import finish
from plimsoll.allocation.paper import from_paper_instance
from tests.unit.allocation.builder import Builder

REFERENCE = Path(__file__).parents[2] / "oracles" / "R1.json"


def _bound(problem: AllocationProblem) -> float:
    return lower_bound(problem, solve_greedy(problem))


def test_one_class_on_one_option_is_exact_in_whole_replicas_of_one_class() -> None:
    b = Builder()
    option = b.option(b.pool(None), price=3.0)
    b.traffic({option: 0.4})
    assert _bound(b.build()) == pytest.approx(3.0)  # 0.4 of a replica still needs one


def test_the_cheaper_of_two_options() -> None:
    b = Builder()
    pool = b.pool(None)
    dear, cheap = b.option(pool, price=5.0), b.option(pool, price=2.0)
    b.traffic({dear: 1.0, cheap: 1.0})
    problem = b.build()
    bounds = option_bounds(problem, solve_greedy(problem))
    assert bounds.value_per_hour == pytest.approx(2.0)
    assert bounds.with_option_per_hour == pytest.approx([5.0, 2.0])


def test_a_mean_limit_forces_a_mix() -> None:
    b = Builder()
    pool = b.pool(None)
    slow, fast = b.option(pool, price=1.0), b.option(pool, price=4.0)
    b.traffic({slow: 10.0, fast: 10.0}, delay_limit=1.5, delays={slow: 2.0, fast: 1.0})
    assert _bound(b.build()) == pytest.approx(0.5 * 10 * 1.0 + 0.5 * 10 * 4.0)


def test_stock_of_the_cheap_pool() -> None:
    b = Builder()
    small, large = b.pool([4.0]), b.pool(None)
    cheap, dear = b.option(small, price=1.0), b.option(large, price=3.0)
    b.traffic({cheap: 10.0, dear: 10.0})
    assert _bound(b.build()) == pytest.approx(4 * 1.0 + 6 * 3.0)


def test_leaving_what_runs_costs() -> None:
    b = Builder()
    pool = b.pool(None)
    option, other = b.option(pool, price=1.0, stop=0.3), b.option(pool, price=1.0, start=0.5)
    b.traffic({option: 2.0, other: 2.0})
    b.running.append((option, -1, 4))
    assert _bound(b.build()) == pytest.approx(2 * 1.0 + 2 * 0.3)


def test_running_state_above_the_budget_is_no_contradiction() -> None:
    b = Builder(budget=1.0)
    option = b.option(b.pool(None), price=1.0)
    b.traffic({option: 3.0})
    b.running.append((option, -1, 3))
    assert _bound(b.build()) == pytest.approx(3.0)


def test_one_option_of_a_pair() -> None:
    b = Builder(one_option_per_pair=True, means_over_all=True, storage_price=0.1)
    first = b.option(b.pool(None), price=1.0, pair=7, most=1, storage=10.0)
    second = b.option(0, price=1.5, gpus=2.0, pair=7, most=1, capacity=2.0, storage=10.0)
    b.traffic({first: 2.0, second: 2.0}, limit=1.0, penalty=1.0)
    assert _bound(b.build()) == pytest.approx(1.5 + 1.0)


def test_no_option_at_all() -> None:
    b = Builder()
    b.traffic({}, rate=50.0, penalty=2.0)
    assert _bound(b.build()) == pytest.approx(100.0)  # all of it stays unserved


def test_the_reference_instance() -> None:
    """The Lagrangian bound is far below the optimum of 61.767, as few replicas leave much to rounding."""
    instance = from_paper_instance(json.loads(REFERENCE.read_text()))
    optimum = finish(instance.problem, [solve_greedy(instance.problem)]).allocation
    assert 61.7 < lower_bound(instance.problem, optimum) * instance.period_hours < 61.768
    bounds = option_bounds(instance.problem, solve_greedy(instance.problem))
    assert 51.0 < bounds.value_per_hour * instance.period_hours < 61.767
    excluded = bounds.with_option_per_hour * instance.period_hours > 61.8
    assert excluded.sum() > 0.8 * instance.problem.options
    assert np.isfinite(bounds.with_option_per_hour[~excluded]).all()
