"""GH and AGH on random problems of the paper's form and of production's: feasible, repeatable, never worse than GH."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from hypothesis import event, given, settings
from hypothesis import strategies as st

from plimsoll.allocation import Allocation, AllocationProblem, check, solve_greedy
from plimsoll.allocation.paper import from_paper_instance
from plimsoll.allocation.search import _orders, solve_agh
from tests.property.test_allocation_properties import fleets
from tests.property.test_exact_properties import tiny

REFERENCE = json.loads((Path(__file__).parents[1] / "oracles" / "R1.json").read_text(encoding="utf-8"))
INFINITY = float("inf")


@st.composite
def papers(draw: st.DrawFn) -> AllocationProblem:
    """A part of the reference instance with other demand, limits and money."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    document = dict(REFERENCE)
    for key, most in (("query_types", 6), ("models", 4), ("tiers", 5)):
        size = draw(st.integers(1, most))
        chosen = sorted(rng.choice(len(REFERENCE[key]), size=size, replace=False).tolist())
        document[key] = [REFERENCE[key][number] for number in chosen]
    shape = tuple(len(document[key]) for key in ("query_types", "models", "tiers"))
    problem = from_paper_instance(
        document,
        arrival_scale=draw(st.sampled_from([0.1, 1.0, 3.0, 10.0])),
        delay_factor=rng.uniform(0.5, 1.6, shape),
        error_factor=rng.uniform(0.5, 1.6, shape),
    ).problem
    return replace(
        problem,
        class_unserved_limit=rng.choice([0.0, 0.1, 1.0], problem.classes),
        class_priority=rng.integers(0, draw(st.integers(1, 2)), problem.classes),
        budget_per_hour=draw(st.sampled_from([INFINITY, 10.0, 4.0, 1.0, 0.0])),
        storage_limit_gigabytes=draw(st.sampled_from([INFINITY, 100.0, 20.0])),
        pair_storage_cost_per_hour=problem.pair_storage_cost_per_hour * draw(st.sampled_from([0.0, 1.0, 1e3])),
        means_over_all=draw(st.booleans()),
    )


def _value(problem: AllocationProblem, allocation: Allocation) -> tuple[float, ...]:
    """Unserved requests beyond the limits by priority, missing replicas, cost."""
    excess = problem.class_rate_per_hour * np.maximum(allocation.unserved - problem.class_unserved_limit, 0.0)
    levels = np.unique(problem.class_priority)[::-1]
    placed = np.bincount(problem.option_deployment, allocation.replicas, minlength=len(problem.deployment_min_replicas))
    missing = np.maximum(problem.deployment_min_replicas - placed, 0).sum()
    return (*(float(excess[problem.class_priority == level].sum()) for level in levels), missing, allocation.cost.total)


def _no_worse(problem: AllocationProblem, one: Allocation, other: Allocation) -> bool:
    for first, second in zip(_value(problem, one), _value(problem, other), strict=True):
        if abs(first - second) > 1e-5 * max(1.0, abs(second)):
            return first < second
    return True


@given(papers())
@settings(max_examples=40, deadline=None)
def test_paper_form_is_feasible_and_agh_is_no_worse_than_any_of_its_starts(problem: AllocationProblem) -> None:
    answer = solve_agh(problem)
    assert check(problem, answer) == ()
    best = None
    for order in _orders(problem, seed=0):
        start = solve_greedy(problem, order)
        assert check(problem, start) == ()
        assert _no_worse(problem, answer, start)
        best = start if best is None or not _no_worse(problem, best, start) else best
    assert best is not None
    event(f"better than GH: {not _no_worse(problem, best, answer)}")


@given(papers(), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_same_seed_same_answer(problem: AllocationProblem, seed: int) -> None:
    first, second = solve_agh(problem, seed=seed), solve_agh(problem, seed=seed)
    for name in ("replicas", "share", "unserved", "packing"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()


@given(st.one_of(fleets(), tiny()))
@settings(max_examples=80, deadline=None)
def test_agh_of_fleets_is_feasible_and_no_worse_than_gh(problem: AllocationProblem) -> None:
    start, answer = solve_greedy(problem), solve_agh(problem)
    assert check(problem, start) == ()
    assert check(problem, answer) == ()
    assert _no_worse(problem, answer, start)


@given(papers(), st.integers(0, 30))
@settings(max_examples=20, deadline=None)
def test_stopped_anywhere_it_is_feasible(problem: AllocationProblem, asked: int) -> None:
    left = iter([1.0] * asked)
    assert check(problem, solve_agh(problem, remaining_seconds=lambda: next(left, 0.0))) == ()
