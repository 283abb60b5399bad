"""Demand over time, disturbances and sums that the robustness and rolling experiments stand on."""

import numpy as np
import pytest

from benchmarks.methods import EXACT, GH
from benchmarks.robustness import Mean, disturbances, one_gpu_type, planned_with, reference, scenario, second_stage
from benchmarks.rolling import MINUTES, Scene, Tally, rolling, start_costs, static, walk
from plimsoll.allocation import check, solve_greedy
from plimsoll.allocation.robust import restage


def test_walks_start_at_one_have_mean_one_and_are_repeatable() -> None:
    ends = np.array([walk(0.05, seed, 4)[-1] for seed in range(500)])
    assert walk(0.05, 0, 4)[0].tolist() == [1.0] * 4
    assert ends.mean() == pytest.approx(1.0, abs=0.1)
    assert walk(0.05, 3, 4).tolist() == walk(0.05, 3, 4).tolist()


def test_disturbances_keep_their_bounds_and_meet_every_plan_alike() -> None:
    problem = reference().problem
    first, second = (list(disturbances(problem, 1.2, 3)) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        ratio = one.pair_delay_seconds / problem.pair_delay_seconds
        assert ratio.min() >= 1.2 * 0.9 - 1e-12
        assert ratio.max() <= 1.2 * 1.1 + 1e-12
        assert one.pair_error.tolist() == other.pair_error.tolist()
        assert (one.pair_load[:, 0] == problem.pair_load[:, 0]).all()


def test_means_come_with_their_confidence() -> None:
    mean = Mean.of([1.0, 3.0])
    assert mean.value == 2.0
    assert mean.half_width == pytest.approx(1.96 * np.sqrt(2.0) / np.sqrt(2.0))


def test_the_second_stage_of_an_undisturbed_plan_costs_what_was_planned() -> None:
    instance = reference()
    plan = EXACT.solve(instance.problem)
    assert restage(instance.problem, plan).cost.total == pytest.approx(plan.cost.total, rel=1e-3)
    outcomes = second_stage(instance, {"exact": plan, "again": plan}, 1.0, 2, restage)
    assert outcomes["exact"] == outcomes["again"]


def test_headroom_plans_are_priced_without_it() -> None:
    problem = reference().problem
    assert check(problem, planned_with(GH, 0.2).solve(problem)) == ()
    assert planned_with(GH, 0.0) is GH


def test_scenarios_change_budget_and_penalty() -> None:
    instance = scenario(72.0, 2.0)
    assert instance.problem.budget_per_hour * instance.period_hours == pytest.approx(72.0)
    before = reference().problem.class_unserved_penalty_per_request
    assert instance.problem.class_unserved_penalty_per_request == pytest.approx(2 * before)


def test_one_gpu_type_counts_all_precisions_of_a_gpu() -> None:
    instance = reference()
    answer = one_gpu_type(instance).solve(instance.problem)
    used = {instance.option_names[option][1].partition("-")[0] for option in np.flatnonzero(answer.replicas)}
    assert len(used) == 1


def test_tallies_of_windows() -> None:
    instance = reference()
    demand = np.ones((4, instance.problem.classes))
    demand[2] = 1.5
    scene = Scene("four windows", MINUTES, (demand,), demand[0])
    plan = solve_greedy(instance.problem)
    kept = static(instance, plan, scene, demand)
    anew, sparing = rolling(instance, solve_greedy, scene, demand)
    assert kept.changes == 0
    assert kept.day() == kept.day(charged=True)
    assert anew.changes > 0
    assert anew.charges[0] == 0.0
    extra = sum(anew.charges) / 4 * 24 * 60 / MINUTES
    assert anew.day(charged=True) == pytest.approx(anew.day() + extra)
    assert anew.peak() >= anew.day()
    assert sparing.changes <= anew.changes
    assert start_costs(instance.problem).min() > 0


def test_tally_counts_short_windows() -> None:
    tally = Tally(MINUTES)
    tally.unserved += [0.0, 0.5, 0.0005, 0.0]
    assert tally.short == 0.25
