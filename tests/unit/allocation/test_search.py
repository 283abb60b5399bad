"""AGH: the reference instance, never worse than its starts, stays feasible wherever it is stopped."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from plimsoll.allocation import Allocation, AllocationProblem, check, solve_greedy
from plimsoll.allocation.mechanisms import Mechanisms
from plimsoll.allocation.paper import from_paper_instance
from plimsoll.allocation.search import solve_agh
from tests.unit.allocation.builder import Builder

REFERENCE = json.loads((Path(__file__).parents[2] / "oracles" / "R1.json").read_text(encoding="utf-8"))


def solved(problem: AllocationProblem, seed: int = 0) -> Allocation:
    allocation = solve_agh(problem, seed=seed)
    assert check(problem, allocation) == ()
    return allocation


@pytest.mark.parametrize(("scale", "greedy", "most"), [(1.0, 89.29, 87.0), (1.3, 123.51, 94.7), (2.0, None, 112.0)])
def test_reference_instance(scale: float, greedy: float | None, most: float) -> None:
    instance = from_paper_instance(REFERENCE, arrival_scale=scale)
    start = solve_greedy(instance.problem)
    assert check(instance.problem, start) == ()
    if greedy is not None:
        assert start.cost.total * instance.period_hours == pytest.approx(greedy, abs=0.01)
        assert start.unserved.max() == 0.0
    answer = solved(instance.problem)
    assert answer.unserved.max() == 0.0
    assert answer.cost.total * instance.period_hours <= most
    assert answer.cost.total <= start.cost.total


def test_same_seed_same_bytes() -> None:
    problem = from_paper_instance(REFERENCE).problem
    first, second = solved(problem, seed=3), solved(problem, seed=3)
    for name in ("replicas", "share", "unserved", "packing"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_without_time_it_is_gh_and_more_time_never_hurts() -> None:
    problem = from_paper_instance(REFERENCE, arrival_scale=2.0).problem
    costs = []
    for asked in (0, 5, 20, 80, 10_000):
        left = iter([1.0] * asked)
        answer = solve_agh(problem, remaining_seconds=lambda left=left: next(left, 0.0))
        assert check(problem, answer) == ()
        costs.append(answer.cost.total)
    assert costs[0] == pytest.approx(solve_greedy(problem).cost.total)
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


@pytest.mark.parametrize("off", ["feasible_configurations", "effective_coverage", "upgrades", "clean_up"])
def test_every_mechanism_can_be_switched_off(off: str) -> None:
    problem = from_paper_instance(REFERENCE).problem
    mechanisms = Mechanisms(**{off: False})
    for answer in (solve_greedy(problem, mechanisms=mechanisms), solve_agh(problem, mechanisms=mechanisms)):
        kinds = {violation.kind for violation in check(problem, answer)}
        assert kinds <= ({"delay"} if off == "feasible_configurations" else set())


def test_relocation_closes_an_option_that_gh_opened_for_one_class() -> None:
    """GH gives the large class the cheap small option; one larger option carries both classes for less."""
    b = Builder()
    pool = b.pool([16.0])
    small, middle, large = b.option(pool, price=2.0), b.option(pool, price=2.0), b.option(pool, price=3.2)
    b.traffic({small: 0.6, large: 0.5}, rate=1000.0)
    b.traffic({middle: 0.6, large: 0.45}, rate=10.0)
    assert solved(b.build()).replicas.tolist() == [0, 0, 1]


def test_floor_survives_the_search() -> None:
    b = Builder()
    pool = b.pool([16.0])
    b.deployment(least=3)
    first, second = b.option(pool, price=2.0), b.option(pool, price=1.0)
    b.traffic({first: 0.6, second: 0.9})
    b.traffic({first: 0.3, second: 0.9})
    assert solved(b.build()).replicas.sum() >= 3


def test_class_without_traffic_opens_nothing_and_keeps_nothing_open() -> None:
    b = Builder()
    pool = b.pool([16.0])
    first, second = b.option(pool, price=2.0), b.option(pool, price=1.0)
    b.traffic({first: 0.5, second: 0.4}, rate=10.0)
    b.traffic({second: 0.4}, rate=5.0)
    b.traffic({first: 0.0, second: 0.0}, rate=0.0)
    answer = solved(b.build())
    assert answer.replicas.tolist() == [0, 1]
    assert answer.unserved.tolist() == [0.0, 0.0, 0.0]


def test_problem_without_classes_and_without_options() -> None:
    b = Builder()
    b.option(b.pool([8.0]))
    assert solved(b.build()).replicas.tolist() == [0]
    b = Builder()
    b.pool([8.0])
    b.traffic()
    assert solved(b.build()).unserved.tolist() == [1.0]


def test_no_budget_leaves_everything_unserved() -> None:
    problem = replace(from_paper_instance(REFERENCE).problem, budget_per_hour=0.0)
    assert solved(problem).unserved.tolist() == [1.0] * problem.classes


def test_running_state_counts() -> None:
    """Where moving costs more than it saves, nothing moves."""
    b = Builder()
    pool = b.pool([16.0])
    now, other = b.option(pool, price=1.1, stop=0.2), b.option(pool, price=1.0, start=0.2)
    for _ in range(2):
        b.traffic({now: 0.4, other: 0.4})
    b.running = [(now, 0, 1)]
    answer = solved(b.build())
    assert answer.replicas.tolist() == [1, 0]
    assert np.isclose(answer.cost.change, 0.0)
