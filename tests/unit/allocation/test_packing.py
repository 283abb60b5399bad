"""Packing of given replicas: kept ones stay, new ones best fit, the largest first."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.allocation import AllocationProblem, check
from plimsoll.allocation.packing import answer, pack
from tests.unit.allocation.builder import Builder


def packed(problem: AllocationProblem, *replicas: int) -> list[list[int]] | None:
    rows = pack(problem, np.array(replicas))
    return None if rows is None else rows.tolist()


def test_the_largest_option_is_placed_first() -> None:
    b = Builder()
    pool = b.pool([4.0, 2.0])
    b.option(pool, gpus=1)
    b.option(pool, gpus=4)
    assert packed(b.build(), 2, 1) == [[0, 1, 2], [1, 0, 1]]


def test_the_fullest_node_is_filled_first() -> None:
    b = Builder()
    b.option(b.pool([8.0, 1.0, 2.0]))
    assert packed(b.build(), 3) == [[0, 1, 1], [0, 2, 2]]


def test_none_where_it_does_not_fit() -> None:
    b = Builder()
    b.option(b.pool([3.0, 3.0]), gpus=2)
    assert packed(b.build(), 2) == [[0, 0, 1], [0, 1, 1]]
    assert packed(b.build(), 3) is None


def test_unknown_stock_needs_no_proof() -> None:
    b = Builder()
    b.option(b.pool(None))
    b.option(b.pool([1.0]))
    assert packed(b.build(), 9, 1) == [[1, 0, 1]]


def test_kept_replicas_stay_and_new_ones_fit_beside_all_that_runs() -> None:
    b = Builder()
    pool = b.pool([2.0, 2.0])
    old, _ = b.option(pool), b.option(pool)
    b.running = [(old, 0, 2)]
    assert packed(b.build(), 1, 2) == [[0, 0, 1], [1, 1, 2]]
    assert packed(b.build(), 0, 3) is None
    assert packed(replace(b.build(), keep_running=False), 0, 3) == [[1, 0, 2], [1, 1, 1]]


def test_where_replicas_may_move_they_prefer_not_to() -> None:
    b = Builder(keep_running=False)
    pool = b.pool([2.0, 2.0])
    small, _ = b.option(pool), b.option(pool, gpus=2)
    b.running = [(small, 1, 1)]
    assert packed(b.build(), 1, 1) == [[0, 1, 1], [1, 0, 1]]
    assert packed(b.build(), 2, 1) == [[0, 1, 2], [1, 0, 1]]


def test_replicas_move_where_nothing_else_fits() -> None:
    b = Builder(keep_running=False)
    pool = b.pool([2.0, 1.0])
    small, _ = b.option(pool), b.option(pool, gpus=2)
    b.running = [(small, 0, 1)]
    assert packed(b.build(), 1, 1) == [[0, 1, 1], [1, 0, 1]]


@pytest.mark.parametrize("keep_running", [True, False])
def test_replicas_at_unknown_places_are_left_out(keep_running: bool) -> None:
    b = Builder(keep_running=keep_running)
    b.option(b.pool([1.0]))
    b.running = [(0, -1, 2)]
    assert packed(b.build(), 3) == [[0, 0, 1]]


def test_answer_is_priced_and_feasible() -> None:
    b = Builder()
    option = b.option(b.pool([4.0]), price=3.0)
    b.traffic({option: 1.5}, limit=1.0, penalty=0.1)
    problem = b.build()
    allocation = answer(problem, np.array([1]), np.array([0.5]), np.array([0.5]))
    assert allocation is not None
    assert check(problem, allocation) == ()
    assert allocation.cost.total == pytest.approx(3.0 + 0.1 * 100 * 0.5)
    assert answer(problem, np.array([5]), np.array([0.5]), np.array([0.5])) is None
