"""Reasons and worths in explanations that depend on what runs and on the policy."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.allocation import solve_greedy
from plimsoll.planning import Evaluator
from plimsoll.planning.explain import explain_limits
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.planner import decide_fleet
from tests.unit.planning.fleets import (
    applied,
    deployment,
    exchanged,
    nodes,
    objective,
    plan,
    plan_of,
    policy,
    pool,
    snapshot,
)

STOCK = [*nodes(2), *nodes(2, "H100-SXM-80GB", 8)]


def reason(fleet: FleetPlan, option: str) -> str:
    (only,) = plan_of(fleet).classes
    return next(item.reason for item in only.rejected if item.option.endswith(option))


@pytest.mark.parametrize("penalty", ["0.070", "0.075", "0.080"])
def test_the_least_saving_is_a_part_of_the_cost_with_storage_and_penalties(penalty):
    def impatient(value: str):
        return objective("impatient", latencyPenaltyPerThousandRequestSeconds=value)

    pools = pool("l40s", "L40S", "0.010"), pool("h100", "H100-SXM-80GB", "0.500")
    facts = snapshot(*pools, impatient("0.05"), deployment(slo="impatient"), policy(), nodes=STOCK)
    told = exchanged(applied(facts, plan(facts)), impatient(penalty))
    assert "below spec.rebalance.minimalSaving 0.05" in reason(plan(told), "on h100 TP1")


def test_the_least_saving_is_no_reason_where_nothing_runs_yet(monkeypatch):
    def without_h100(problem):
        closed = problem.option_pool == 0
        return solve_greedy(replace(problem, option_max_replicas=np.where(closed, 0, problem.option_max_replicas)))

    monkeypatch.setattr("plimsoll.planning.search.solve_greedy", without_h100)
    pools = pool("l40s", "L40S", "1.10"), pool("h100", "H100-SXM-80GB", "1.07")
    facts = snapshot(*pools, deployment(), policy(algorithm="Greedy"), nodes=STOCK)
    first = plan(facts)
    assert reason(first, "on h100 TP1") == "0.03 per hour cheaper, which the search did not find"
    assert "minimalSaving" in reason(plan(applied(facts, first)), "on h100 TP1")


def test_a_limit_is_worth_the_same_after_the_plan_s_time_has_passed():
    class Clock:
        seconds = 0.0

        def __call__(self) -> float:
            return self.seconds

    pools = (
        pool("l40s", nodes={"max": 1}, gpusPerNode=4),
        pool("h100", "H100-SXM-80GB", "6.00", nodes={"max": 4}, gpusPerNode=8),
    )
    facts = snapshot(*pools, *[deployment(f"d{number}", 300 + 170 * number) for number in range(4)], nodes=None)
    clock = Clock()
    turn = decide_fleet(facts, Evaluator(), clock)
    in_time = explain_limits(turn, None)
    clock.seconds = 1e9
    assert explain_limits(turn, None) == in_time
    assert in_time
