"""What a planning round does where GPUs or money do not suffice."""

import pytest

from plimsoll.planning.plan import DeploymentState, Severity
from tests.unit.planning.fleets import (
    applied,
    decision,
    deployment,
    exchanged,
    finding,
    nodes,
    objective,
    plan,
    plan_of,
    policy,
    pool,
    replicas,
    snapshot,
)


def test_higher_priority_is_served_when_gpus_are_short():
    urgent, normal = objective("urgent", priority=100), objective("normal")
    both = deployment("a", 900, slo="normal"), deployment("z", 600, slo="urgent")
    facts = snapshot(pool(), urgent, normal, *both, nodes=nodes(1))
    alone = plan(snapshot(pool(), urgent, deployment("z", 600, slo="urgent"), nodes=nodes(1)))
    assert plan_of(alone, "z").state is DeploymentState.PLANNED
    fleet = plan(facts)
    assert plan_of(fleet, "z").state is DeploymentState.PLANNED
    assert plan_of(fleet, "a").state is DeploymentState.SHORT


def test_a_shortage_says_how_many_gpus_of_which_pool_are_missing():
    fleet = plan(snapshot(pool(), deployment(rate=3000), nodes=nodes(1, gpus=2)))
    missing = finding(fleet, "InsufficientCapacity")
    assert missing.field == "spec.traffic[0]"
    assert missing.severity is Severity.ERROR
    assert "more free GPUs in GPUNodePool l40s" in missing.message
    assert 0 < plan_of(fleet).classes[0].unserved < 1


def test_a_budget_below_the_running_cost_removes_nothing_and_stops_growth():
    facts = snapshot(pool(), deployment(rate=900), nodes=nodes(6))
    first = plan(facts)
    tight = exchanged(applied(facts, first), policy(budget={"perHour": "0.01"}))
    assert decision(plan(tight)) == decision(first)
    more = plan(exchanged(tight, deployment(rate=5000)))
    assert replicas(more) == replicas(first)
    assert plan_of(more).state is DeploymentState.SHORT
    assert "0.01" in finding(more, "BudgetExceeded", "LLMDeployment").message


def test_the_budget_finding_names_a_budget_that_would_do():
    fleet = plan(snapshot(pool(), deployment(rate=3000), policy(budget={"perHour": "2"}), nodes=nodes(10)))
    said = finding(fleet, "BudgetExceeded", "PlacementPolicy")
    assert said.field == "spec.budget.perHour"
    enough = next(word for word in said.message.split() if word.replace(".", "").isdigit() and word != "2")
    served = plan(snapshot(pool(), deployment(rate=3000), policy(budget={"perHour": enough}), nodes=nodes(10)))
    assert plan_of(served).state is DeploymentState.PLANNED


@pytest.mark.parametrize(("budget", "more"), [("6.60", 0), ("8", 1), ("9.95", 2)])
def test_a_short_deployment_grows_beside_what_it_keeps_by_what_the_money_left_pays(budget, more):
    stock = [*nodes(6), *nodes(3, "H100-SXM-80GB", 8)]
    facts = snapshot(pool(), policy(budget={"perHour": budget}), deployment(rate=900), nodes=stock)
    first = plan(facts)
    assert first.cost_per_hour == pytest.approx(6.60)
    cheaper = pool("h100", "H100-SXM-80GB", "1.20")
    asked = exchanged(applied(facts, first), cheaper, deployment(rate=20_000))
    second = plan(asked)
    assert plan_of(second).state is DeploymentState.SHORT
    # Nothing that runs is given up, though seven H100s for the same money would serve far more.
    added = {name: count for name, count in replicas(second).items() if name not in replicas(first)}
    assert replicas(second) == {**replicas(first), **added}
    assert (sum(added.values()), all("h100" in name for name in added)) == (more, True)
    assert decision(plan(applied(asked, second))) == decision(second)


def test_what_a_held_deployment_runs_spends_the_budget():
    facts = snapshot(pool(), deployment("a", 900), deployment("b", 120), nodes=nodes(10))
    first = plan(facts)
    budget = policy(budget={"perHour": f"{first.cost_per_hour:.2f}"})
    grown = exchanged(applied(facts, first), budget, deployment("a", 900, model="no/such-model"), deployment("b", 1500))
    second = plan(grown)
    assert plan_of(second, "a").state is DeploymentState.HELD
    assert plan_of(second, "b").state is DeploymentState.SHORT
    assert plan_of(second, "b").cost_per_hour == pytest.approx(plan_of(first, "b").cost_per_hour)
