"""The exact solver: known optima, stages, nodes, limits that only growth has to keep, degenerate problems."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plimsoll.allocation import AllocationProblem, Solution, check, solve_greedy
from plimsoll.allocation.exact import solve_exact
from plimsoll.allocation.milp import MilpResult, solve_milp
from plimsoll.allocation.paper import from_paper_instance
from tests.unit.allocation.builder import Builder

REFERENCE = json.loads((Path(__file__).parents[2] / "oracles" / "R1.json").read_text(encoding="utf-8"))


def solved(problem: AllocationProblem) -> Solution:
    solution = solve_exact(problem, relative_gap=1e-6)
    assert check(problem, solution.allocation) == ()
    assert solution.gap <= 2e-6
    assert not solution.interrupted
    return solution


@pytest.mark.parametrize(("arrival_scale", "optimum"), [(1.0, 61.767), (1.3, 74.183), (2.0, 103.04)])
def test_the_reference_instance(arrival_scale: float, optimum: float) -> None:
    instance = from_paper_instance(REFERENCE, arrival_scale=arrival_scale)
    solution = solve_exact(instance.problem)
    assert check(instance.problem, solution.allocation) == ()
    assert solution.allocation.cost.total * instance.period_hours == pytest.approx(optimum, rel=1e-3)
    assert solution.gap <= 1e-4


def test_two_cheap_options_that_only_mix() -> None:
    b = Builder()
    exact = b.option(b.pool([8.0]), price=5.0)
    cheap = b.option(b.pool([8.0]), price=1.0)
    b.traffic({exact: 2.0, cheap: 2.0}, error_limit=0.05, errors={exact: 0.0, cheap: 0.1})
    allocation = solved(b.build()).allocation
    assert allocation.replicas.tolist() == [1, 1]
    assert allocation.share == pytest.approx([0.5, 0.5])


def test_the_higher_priority_takes_what_is_scarce() -> None:
    b = Builder()
    only = b.option(b.pool([2.0]))
    b.traffic({only: 2.0}, priority=0, penalty=50.0)
    b.traffic({only: 1.5}, priority=5, penalty=0.0)
    allocation = solved(b.build()).allocation
    assert allocation.unserved == pytest.approx([0.75, 0.0])


def test_the_least_number_of_replicas_is_kept_where_it_can_be() -> None:
    b = Builder()
    b.deployment(least=3)
    b.deployment(least=2)
    dear, cheap = b.option(b.pool([8.0]), price=2.0), b.option(b.pool([2.0]), price=1.0)
    alone = b.option(b.pool([1.0]), deployment=1)
    b.traffic({dear: 0.5, cheap: 0.5})
    b.traffic({alone: 0.5}, deployment=1)
    allocation = solved(b.build()).allocation
    assert allocation.replicas.tolist() == [1, 2, 1]


def test_nodes_are_told_apart_where_sums_do_not_tell() -> None:
    """Three GPUs free on each of two nodes hold two replicas of two, not three; the dear option has to help."""
    b = Builder()
    large, dear = b.option(b.pool([3.0, 3.0]), gpus=2), b.option(b.pool([8.0]), price=9.0)
    b.traffic({large: 3.0, dear: 3.0})
    assert solved(b.build()).allocation.replicas.tolist() == [2, 1]


def test_cores_and_gpus_together_decide_what_fits() -> None:
    """The small ones would fit everywhere by GPUs; only one way leaves the cores to the others."""
    b = Builder()
    pool = b.pool()
    b.node(pool, 4.0, 4.0)
    b.node(pool, 5.0, 12.0)
    small, hungry = b.option(pool, gpus=1, cpus=1.0), b.option(pool, gpus=2, cpus=6.0, price=2.0)
    b.traffic({small: 4.0})
    b.traffic({hungry: 2.0})
    allocation = solved(b.build()).allocation
    assert allocation.replicas.tolist() == [4, 2]


def test_many_places_are_cut_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plimsoll.allocation.exact.MOST_PLACES", 0)
    b = Builder()
    pool = b.pool([5.0, 5.0])
    three, two = b.option(pool, gpus=3), b.option(pool, gpus=2)
    spare = b.option(b.pool([8.0]), price=9.0)
    b.traffic({three: 2.0, spare: 2.0})
    b.traffic({two: 3.0, spare: 3.0})
    problem = b.build()
    solution = solve_exact(problem)
    assert check(problem, solution.allocation) == ()
    assert solution.allocation.unserved.tolist() == [0.0, 0.0]
    assert solution.lower_bound_per_hour <= solution.allocation.cost.total


@pytest.mark.parametrize("keep_running", [True, False])
def test_limits_forbid_growth_and_never_demand_a_removal(keep_running: bool) -> None:
    b = Builder(budget=1.0, keep_running=keep_running, storage_limit=0.5)
    pool = b.pool([8.0], gpu_limit=1.0)
    used = b.option(pool, price=1.0, stop=9.0, storage=1.0)
    b.option(pool, price=0.5, storage=1.0)
    b.traffic({used: 3.0, 1: 3.0}, penalty=5.0)
    b.running.append((used, 0, 2))
    allocation = solved(b.build()).allocation
    assert allocation.replicas.tolist() == [2, 0]
    assert allocation.unserved == pytest.approx([1 / 3])


def test_change_costs_keep_what_runs() -> None:
    b = Builder()
    old, new = b.option(b.pool([4.0]), price=1.1, stop=0.2), b.option(b.pool([4.0]), price=1.0, start=0.3)
    b.traffic({old: 2.0, new: 2.0})
    b.running.append((old, 0, 2))
    assert solved(b.build()).allocation.replicas.tolist() == [2, 0]
    b.options[new]["start_cost_per_hour"] = 0.0
    b.options[old]["stop_cost_per_hour"] = 0.05
    assert solved(b.build()).allocation.replicas.tolist() == [0, 2]


def test_storage_is_paid_once_for_a_pair() -> None:
    b = Builder(storage_price=1.0)
    pool = b.pool([8.0])
    first, second = (b.option(pool, gpus=gpus, pair=0, storage=2.0) for gpus in (1, 2))
    b.traffic({first: 1.0})
    b.traffic({second: 1.0})
    cost = solved(b.build()).allocation.cost
    assert (cost.rental, cost.storage) == pytest.approx((2.0, 2.0))


def test_a_part_that_may_stay_unserved_is_dropped_where_that_is_cheaper() -> None:
    b = Builder()
    only = b.option(b.pool([8.0]), price=1.0)
    b.traffic({only: 1.2}, limit=0.5, penalty=0.01)
    allocation = solved(b.build()).allocation
    assert allocation.replicas.tolist() == [1]
    assert allocation.unserved == pytest.approx([1 / 6])


def degenerate() -> dict[str, Builder]:
    no_pool, no_options, no_traffic, idle, hopeless, no_budget = (Builder(budget=b) for b in [np.inf] * 5 + [0.0])
    no_pool.traffic()
    no_options.pool([8.0])
    no_options.traffic(penalty=2.0)
    no_traffic.option(no_traffic.pool([8.0]))
    idle.option(idle.pool([8.0]))
    idle.traffic({0: 0.0}, rate=0.0)
    hopeless.option(hopeless.pool([8.0]))
    hopeless.traffic({0: 0.5}, delay_limit=0.1, delays={0: 1.0})
    no_budget.option(no_budget.pool([8.0]))
    no_budget.traffic({0: 0.5})
    return {
        "no pool": no_pool,
        "no options": no_options,
        "no traffic": no_traffic,
        "idle class": idle,
        "no option meets the limits": hopeless,
        "no budget": no_budget,
    }


@pytest.mark.parametrize("name", degenerate())
def test_degenerate_problems(name: str) -> None:
    problem = degenerate()[name].build()
    solution = solved(problem)
    assert not solution.allocation.replicas.any()
    assert solution.allocation.unserved.tolist() == [1.0] * problem.classes
    expected = float(problem.class_unserved_penalty_per_request @ problem.class_rate_per_hour)
    assert solution.allocation.cost.total == pytest.approx(expected)


def test_without_time_the_start_comes_back() -> None:
    instance = from_paper_instance(REFERENCE)
    start = solve_greedy(instance.problem)
    solution = solve_exact(instance.problem, start=start, time_limit_seconds=0.0)
    assert solution.allocation.cost.total <= start.cost.total
    assert solution.interrupted
    assert 0.0 < solution.lower_bound_per_hour <= 61.767 / instance.period_hours + 1e-4


def test_an_unlimited_pool_has_no_nodes_to_prove() -> None:
    b = Builder()
    only = b.option(b.pool(None))
    b.traffic({only: 3.5})
    allocation = solved(b.build()).allocation
    assert allocation.replicas.tolist() == [4]
    assert allocation.packing.shape == (0, 3)


def test_more_budget_saves_money_on_the_reference_instance() -> None:
    instance = from_paper_instance(REFERENCE, arrival_scale=2.0)
    tight = replace(instance.problem, budget_per_hour=60.0 / instance.period_hours)
    assert solve_exact(tight).allocation.cost.total > 103.05 / instance.period_hours


def test_same_problem_same_answer() -> None:
    problem = from_paper_instance(REFERENCE).problem
    first, second = solve_exact(problem).allocation, solve_exact(problem).allocation
    for name in ("replicas", "share", "unserved"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


def test_an_absurd_price_does_not_drown_the_budget() -> None:
    b = Builder(budget=2.5)
    pool = b.pool([8.0])
    fair, absurd = b.option(pool, price=1.0), b.option(pool, price=1e12)
    b.traffic({fair: 4.0, absurd: 4.0})
    allocation = solved(b.build()).allocation
    assert allocation.replicas.tolist() == [2, 0]
    assert allocation.unserved == pytest.approx([0.5])


def test_a_stage_that_the_clock_cut_is_told_even_if_the_last_one_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    b = Builder()
    option = b.option(b.pool([4.0]))
    for load in (2.0, 3.0):
        b.traffic({option: load})
    called = []

    def cut_at_first(*args: Any, **keywords: Any) -> MilpResult:
        called.append(1)
        return replace(solve_milp(*args, **keywords), interrupted=len(called) == 1)

    monkeypatch.setattr("plimsoll.allocation.exact.solve_milp", cut_at_first)
    solution = solve_exact(b.build())
    assert len(called) > 1
    assert solution.interrupted
