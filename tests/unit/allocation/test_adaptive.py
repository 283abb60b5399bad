"""The production default on fleets of many deployments: no worse than GH and than staying, and the same each time."""

import numpy as np
import pytest

from benchmarks.production import changed, production, with_running
from plimsoll.allocation import AllocationProblem, Memory, check, solve_adaptive, solve_greedy
from plimsoll.allocation import adaptive as adaptive_module
from plimsoll.allocation.decomposition import objective
from plimsoll.allocation.routing import route
from tests.unit.allocation.builder import Builder


def _after_a_change(stock: float, seed: int, *, keep_running: bool, deployments: int = 20) -> AllocationProblem:
    problem = production(deployments, seed, stock=stock)
    return changed(with_running(problem, solve_greedy(problem), keep_running=keep_running), 0.1)


@pytest.mark.parametrize(("stock", "seed"), [(1.1, 5), (0.9, 0), (0.9, 5), (0.7, 0)])
def test_never_worse_than_gh_and_than_staying(stock: float, seed: int) -> None:
    problem = _after_a_change(stock, seed, keep_running=bool(seed))
    solution = solve_adaptive(problem)
    assert check(problem, solution.allocation) == ()
    reached = objective(problem, solution.allocation)
    assert reached <= objective(problem, solve_greedy(problem))
    staying = route(problem, problem.running_replicas())
    assert staying is not None
    assert reached <= objective(problem, staying)


def test_the_same_twice_and_with_memory() -> None:
    problem = _after_a_change(0.9, 1, keep_running=False, deployments=10)
    memory = Memory()
    first = solve_adaptive(problem)
    others = [solve_adaptive(problem, memory=kept) for kept in (None, memory, memory)]
    for other in others:
        assert np.array_equal(first.allocation.replicas, other.allocation.replicas)
        assert np.array_equal(first.allocation.share, other.allocation.share)
        assert first.lower_bound_per_hour == other.lower_bound_per_hour


@pytest.mark.parametrize(("wide", "asked"), [(0.0, True), (1.0, False)])
def test_gh_is_asked_for_a_large_fleet_only_where_the_gap_is_wide(
    wide: float, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def greedy(problem: AllocationProblem) -> object:
        calls.append(problem)
        return solve_greedy(problem)

    monkeypatch.setattr(adaptive_module, "solve_greedy", greedy)
    monkeypatch.setattr(adaptive_module, "GREEDY_PAIRS", 0)
    monkeypatch.setattr(adaptive_module, "WIDE_GAP", wide)
    problem = production(20, 5, stock=0.7)
    solution = solve_adaptive(problem)
    assert check(problem, solution.allocation) == ()
    assert bool(calls) is asked
    if asked:
        assert objective(problem, solution.allocation) <= objective(problem, solve_greedy(problem))


def test_out_of_time_still_answers() -> None:
    problem = _after_a_change(0.9, 0, keep_running=False, deployments=10)
    solution = solve_adaptive(problem, remaining_seconds=lambda: 0.0)
    assert solution.interrupted
    assert check(problem, solution.allocation) == ()


def test_what_would_be_best_if_nothing_ran_counts_against_the_pool_beside_what_runs() -> None:
    b = Builder(keep_running=True)
    pool = b.pool([4.0], gpu_limit=1.0)
    runs, other = b.option(pool, price=2.0), b.option(pool, price=1.0)
    b.traffic({runs: 2.0, other: 0.5})
    b.running.append((runs, 0, 1))
    problem = b.build()
    solution = solve_adaptive(problem)
    assert check(problem, solution.allocation) == ()
    assert solution.allocation.replicas.tolist() == [1, 0]
