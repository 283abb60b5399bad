"""The baselines answer feasibly, by their rules; none beats the exact answer."""

import json
from functools import cache

import numpy as np
import pytest

from benchmarks import scaling
from benchmarks.baselines import CHEAPEST_FIRST, DVR, HF, LPR, homogeneous, worth
from benchmarks.methods import EXACT, Method
from plimsoll.allocation import AllocationProblem, check, from_paper_instance
from tests.unit.allocation.builder import Builder

METHODS = pytest.mark.parametrize("method", [LPR, DVR, HF, CHEAPEST_FIRST], ids=lambda method: method.name)


@cache
def r1() -> AllocationProblem:
    return from_paper_instance(json.loads(scaling.REFERENCE.read_text(encoding="utf-8"))).problem


@cache
def optimum() -> float:
    return EXACT.solve(r1()).cost.total


@METHODS
def test_feasible_and_no_cheaper_than_exact_on_r1(method: Method) -> None:
    problem = r1()
    answer = method.solve(problem)
    assert check(problem, answer) == ()
    assert worth(problem, answer) >= (0.0, optimum() * (1 - 1e-3))


@METHODS
def test_feasible_with_nodes_and_a_budget(method: Method) -> None:
    b = Builder(budget=6.0)
    b.pool([2.0, 4.0])
    b.pool(None, gpu_limit=3.0)
    small, large, other = b.option(0, 1.0), b.option(0, 3.5, 4), b.option(1, 0.9)
    b.traffic({small: 2.0, large: 0.6, other: 2.5}, limit=0.0)
    b.traffic({small: 1.0, other: 0.7}, limit=0.1, priority=1)
    problem = b.build()
    answer = method.solve(problem)
    assert check(problem, answer) == ()
    assert answer.unserved[1] <= 0.1 + 1e-6


@METHODS
def test_without_any_option_nothing_is_served(method: Method) -> None:
    b = Builder()
    b.pool([8.0])
    b.option(0)
    b.traffic({})
    answer = method.solve(b.build())
    assert answer.unserved.tolist() == [1.0]
    assert not answer.replicas.any()


def test_cheapest_first_takes_the_cheapest_capacity_in_whole_replicas() -> None:
    b = Builder()
    b.pool(None)
    # Per capacity the first is cheaper; one of the second would be enough and cost less.
    cheap, fitting = b.option(0, price=5.0), b.option(0, price=6.0)
    b.traffic({cheap: 10 / 9, fitting: 1.0})
    answer = CHEAPEST_FIRST.solve(b.build())
    assert answer.replicas.tolist() == [2, 0]


def test_a_homogeneous_fleet_has_one_type() -> None:
    b = Builder()
    for _ in range(3):
        b.pool(None)
    options = [b.option(pool, price=price, most=1) for pool, price in enumerate((1.0, 1.0, 3.0))]
    b.traffic(dict.fromkeys(options, 1.5) | {options[2]: 1.0})
    problem = b.build()
    assert homogeneous(problem).replicas.tolist() == [0, 0, 1]
    assert homogeneous(problem, [0, 0, 1]).replicas.tolist() == [1, 1, 0]


def test_decoupled_sizes_a_pair_for_all_that_chose_it() -> None:
    b = Builder(one_option_per_pair=True)
    b.pool(None)
    small, large = b.option(0, price=1.0, pair=0, most=1), b.option(0, price=1.8, gpus=2, pair=0, most=1)
    for _ in range(2):
        b.traffic({small: 0.8, large: 0.4})
    answer = DVR.solve(b.build())
    assert answer.replicas.tolist() == [0, 1]
    assert answer.unserved == pytest.approx(np.zeros(2))
