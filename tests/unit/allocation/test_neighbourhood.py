"""The finish on the reference instance, on hand-made problems and under its guard."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.scaling import instance as scaled
from plimsoll.allocation import check, solve_greedy
from plimsoll.allocation.neighbourhood import finish
from plimsoll.allocation.paper import from_paper_instance
from plimsoll.allocation.routing import route
from tests.unit.allocation.builder import Builder

REFERENCE = Path(__file__).parents[2] / "oracles" / "R1.json"


@pytest.mark.parametrize(("scale", "optimum"), [(1.0, 61.767), (1.3, 74.183), (2.0, 103.04)])
def test_the_reference_instance(scale: float, optimum: float) -> None:
    instance = from_paper_instance(json.loads(REFERENCE.read_text()), arrival_scale=scale)
    found = finish(instance.problem, [solve_greedy(instance.problem)]).allocation
    assert check(instance.problem, found) == ()
    assert found.cost.total * instance.period_hours <= optimum * 1.001


def test_a_large_instance() -> None:
    """The optimum is 60.973."""
    instance = from_paper_instance(scaled((20, 20, 20), 0, high=False))
    found = finish(instance.problem, [solve_greedy(instance.problem)]).allocation
    assert check(instance.problem, found) == ()
    assert found.cost.total * instance.period_hours <= 60.973 * 1.02


def test_the_guard_leaves_the_best_start() -> None:
    instance = from_paper_instance(json.loads(REFERENCE.read_text()))
    nothing = np.zeros(instance.problem.options, dtype=np.int64)
    start = solve_greedy(instance.problem)
    idle = route(instance.problem, nothing)
    assert idle is not None
    assert finish(instance.problem, [idle, start], remaining_seconds=lambda: 0.0).allocation.cost == start.cost


def test_no_start() -> None:
    b = Builder()
    b.traffic({b.option(b.pool(None)): 1.0})
    with pytest.raises(ValueError, match="at least one"):
        finish(b.build(), [])


def test_served_before_cheap() -> None:
    """A start that leaves demand unserved is left for one that serves it, at any price."""
    b = Builder()
    small, large = b.pool([2.0]), b.pool([8.0])
    cheap, dear = b.option(small, price=1.0), b.option(large, price=10.0)
    b.traffic({cheap: 3.0, dear: 3.0}, penalty=0.0)
    problem = b.build()
    start = route(problem, np.array([2, 0]))
    assert start is not None
    assert start.unserved[0] > 0.3
    found = finish(problem, [start]).allocation
    assert found.unserved[0] == pytest.approx(0.0)
    assert found.replicas.tolist() == [2, 1]
    assert check(problem, found) == ()


def test_replicas_that_fit_only_in_sum() -> None:
    """Two nodes with 3 free GPUs each take two replicas of 2 GPUs, not three."""
    b = Builder()
    pool, other = b.pool([3.0, 3.0]), b.pool(None)
    cheap, dear = b.option(pool, price=1.0, gpus=2.0), b.option(other, price=5.0)
    b.traffic({cheap: 3.0, dear: 3.0})
    problem = b.build()
    found = finish(problem, [solve_greedy(problem)]).allocation
    assert found.replicas.tolist() == [2, 1]
    assert check(problem, found) == ()
