"""The search that the policy asks for: algorithms, proof, time limit, storage, and the limits that bind."""

from dataclasses import replace

import pytest

from plimsoll.allocation import solve_greedy
from plimsoll.allocation.milp import LinearProgram, SolverError
from plimsoll.controller.records import manifest as record
from plimsoll.planning import Evaluator, plan_fleet
from plimsoll.planning.plan import DeploymentState, LimitKind, Severity
from plimsoll.planning.search import search_for
from tests.unit.planning.fleets import (
    LLAMA_8B,
    QWEN_7B,
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

ALGORITHMS = ("Adaptive", "Greedy", "Exact")
H100 = pool("h100", "H100-SXM-80GB", "2.50")
L4 = pool("l4", "L4", "0.60")
STOCK = (*nodes(3), *nodes(2, "H100-SXM-80GB", 8), *nodes(3, "L4", 2))


def mixed(**spec):
    """Two deployments, three pools."""
    loaded = (deployment("chat", 1800), deployment("batch", 500, model=QWEN_7B))
    return snapshot(pool(), H100, L4, *loaded, policy(**spec), nodes=STOCK)


class Late:
    """A clock by which everything takes very long."""

    seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1000.0
        return self.seconds


# --- Algorithms and proof ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_states_how_much_a_better_plan_could_save(algorithm):
    fleet = plan(mixed(algorithm=algorithm))
    assert all(item.state is DeploymentState.PLANNED for item in fleet.deployments)
    assert fleet.lower_bound_per_hour is not None
    assert fleet.lower_bound_per_hour <= fleet.objective_per_hour
    assert fleet.gap == pytest.approx(1 - fleet.lower_bound_per_hour / fleet.objective_per_hour)
    assert not fleet.interrupted


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_plan_of_every_algorithm_is_its_own_plan(algorithm):
    facts = mixed(algorithm=algorithm)
    first = plan(facts)
    assert decision(plan(applied(facts, first))) == decision(first)


def test_no_algorithm_is_dearer_than_the_greedy_one_and_none_cheaper_than_the_bounds():
    plans = {algorithm: plan(mixed(algorithm=algorithm)) for algorithm in ALGORITHMS}
    greedy = plans["Greedy"].objective_per_hour
    assert plans["Exact"].objective_per_hour <= plans["Adaptive"].objective_per_hour + 1e-6 <= greedy + 2e-6
    best = max(item.lower_bound_per_hour for item in plans.values())
    assert all(item.objective_per_hour >= best - 1e-3 for item in plans.values())


def test_the_objective_is_the_cost_and_what_the_change_costs():
    facts = mixed()
    first = plan(facts)
    assert first.objective_per_hour > first.cost_per_hour  # everything starts
    second = plan(applied(facts, first))
    assert second.objective_per_hour == pytest.approx(second.cost_per_hour)


def test_an_unserved_share_beyond_the_limit_is_compared_with_plans_that_serve_as_little():
    facts = snapshot(pool(), deployment(rate=5000), nodes=nodes(1))
    fleet = plan(facts)
    assert fleet.deployments[0].state is DeploymentState.SHORT
    assert fleet.lower_bound_per_hour is None or fleet.lower_bound_per_hour <= fleet.objective_per_hour + 1e-6


def test_nothing_to_decide_is_proven():
    fleet = plan(snapshot())
    assert (fleet.objective_per_hour, fleet.lower_bound_per_hour, fleet.gap, fleet.limits) == (0, 0, 0, ())


def test_the_search_runs_once_at_rest(monkeypatch):
    facts = mixed(algorithm="Greedy")
    running = applied(facts, plan(facts))
    calls = []

    def spy(*arguments):
        search = search_for(*arguments)
        return replace(search, solve=lambda problem: calls.append(problem) or search.solve(problem))

    monkeypatch.setattr("plimsoll.planning.planner.search_for", spy)
    plan(running)
    assert len(calls) == 1


def test_the_seed_does_not_depend_on_what_runs(monkeypatch):
    facts = mixed()
    seeds = []

    def spy(policy_, seed, *rest):
        seeds.append(seed)
        return search_for(policy_, seed, *rest)

    monkeypatch.setattr("plimsoll.planning.planner.search_for", spy)
    plan(applied(facts, plan(facts)))
    plan(exchanged(facts, deployment("chat", 1801)))
    assert seeds[0] == seeds[1] != seeds[2]


def test_a_large_least_saving_keeps_what_a_smaller_one_moves():
    facts = snapshot(pool(), deployment(rate=600), nodes=[*nodes(3), *nodes(3, "H100-SXM-80GB", 8)])
    first = plan(facts)
    offer = exchanged(applied(facts, first), pool("h100", "H100-SXM-80GB", f"{first.cost_per_hour * 0.2:.2f}"))
    for saving, moved in (("0.05", True), ("0.9", False)):
        told = exchanged(offer, policy(rebalance={"minimalSaving": saving}))
        assert (decision(plan(told)) != decision(first)) is moved


# --- The time limit ---------------------------------------------------------------------------------------------------


def test_a_search_that_is_stopped_still_plans_and_says_so():
    facts = mixed()
    fleet = plan_fleet(facts, Evaluator(), Late())
    assert fleet.interrupted
    assert all(item.state is DeploymentState.PLANNED for item in fleet.deployments)
    said = finding(fleet, "SearchInterrupted", "PlacementPolicy default")
    assert (said.severity, said.field) == (Severity.WARNING, "spec.timeLimitMilliseconds")
    assert "20000" in said.message


def test_a_greedy_plan_looks_no_further_ahead_once_the_time_is_up(monkeypatch):
    calls = []

    def spy(problem):
        calls.append(problem)
        return solve_greedy(problem)

    monkeypatch.setattr("plimsoll.planning.search.solve_greedy", spy)
    fleet = plan_fleet(mixed(algorithm="Greedy"), Evaluator(), Late())
    assert all(item.state is DeploymentState.PLANNED for item in fleet.deployments)
    assert (len(calls), fleet.interrupted) == (1, True)
    finding(fleet, "SearchInterrupted")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_nothing_is_proven_once_the_time_is_up(algorithm, monkeypatch):
    asked = []
    monkeypatch.setattr("plimsoll.planning.search.lower_bound", lambda *_: asked.append(1) or 0.0)
    fleet = plan_fleet(mixed(algorithm=algorithm), Evaluator(), Late())
    assert all(item.state is DeploymentState.PLANNED for item in fleet.deployments)
    assert (fleet.lower_bound_per_hour if algorithm == "Greedy" else None, asked) == (None, [])


def test_the_greedy_plan_of_many_deployments_is_proven_as_closely_as_the_default_one():
    many = [deployment(f"d{number:02d}", 100 + 60 * number) for number in range(14)]
    facts = snapshot(pool(), H100, *many, policy(algorithm="Greedy"), nodes=[*nodes(20), *nodes(4, "H100-SXM-80GB", 8)])
    bounds = [plan(exchanged(facts, policy(algorithm=name))).lower_bound_per_hour for name in ("Greedy", "Adaptive")]
    assert bounds[0] == pytest.approx(bounds[1], rel=0.02)


# --- A solver that breaks down ----------------------------------------------------------------------------------------


def absurd():
    """An objective and a rate that the schema allows and no solver bears."""
    slo = objective("absurd", latencyPenaltyPerThousandRequestSeconds="999999999999")
    return slo, deployment("absurd", 100_000_000, slo="absurd", placement={"pools": ["h100"]})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_absurd_penalty_of_one_deployment_does_not_stop_the_planning_of_others(algorithm):
    told = policy(algorithm=algorithm)
    running = snapshot(pool(), H100, deployment("fine"), told, nodes=[*nodes(3), *nodes(1, "H100-SXM-80GB", 8)])
    for facts in (running, applied(running, plan(running))):
        fleet = plan(exchanged(facts, *absurd()))
        assert plan_of(fleet, "fine").state is DeploymentState.PLANNED
        assert plan_of(fleet, "absurd").state is DeploymentState.SHORT
        finding(fleet, "SolverFailed", "PlacementPolicy default")


@pytest.mark.parametrize("number", range(1, 4))
def test_a_solver_that_breaks_down_costs_quality_and_nothing_else(number, monkeypatch):
    facts = mixed()
    running = applied(facts, plan(facts))
    calls, solve = [], LinearProgram.solve

    def breaks(program):
        calls.append(program)
        if len(calls) == number:
            raise SolverError("injected")
        return solve(program)

    monkeypatch.setattr(LinearProgram, "solve", breaks)
    fleet = plan_fleet(exchanged(running, deployment("chat", 4000)), Evaluator())
    assert len(calls) >= number
    assert all(item.state is DeploymentState.PLANNED for item in fleet.deployments)
    said = finding(fleet, "SolverFailed", "PlacementPolicy default")
    assert said.severity is Severity.WARNING
    assert "injected" in said.message


def test_running_replicas_are_kept_where_the_solver_finds_no_shares_for_them(monkeypatch):
    def broken(*_):
        raise SolverError("injected")

    facts = snapshot(pool(), deployment(rate=5000), nodes=nodes(1))
    running = applied(facts, plan(facts))
    monkeypatch.setattr("plimsoll.planning.search.route", broken)
    monkeypatch.setattr("plimsoll.planning.search.lower_bound", broken)
    fleet = plan_fleet(running, Evaluator())  # which has not found them before
    assert replicas(fleet) == replicas(plan(facts))
    finding(fleet, "SolverFailed")


# --- Storage ----------------------------------------------------------------------------------------------------------


def test_weights_are_paid_once_per_model_and_pool():
    facts = snapshot(pool(), deployment(rate=1500), nodes=nodes(3))
    free = plan(facts)
    priced = plan(exchanged(facts, policy(storage={"pricePerGiBHour": "0.01"})))
    assert replicas(priced) == replicas(free)
    assert sum(replicas(priced).values()) > 1
    gib = 8_030_261_248 * 2 / 2**30
    only = plan_of(priced)
    assert only.storage_cost_per_hour == pytest.approx(0.01 * gib * len(only.placements))
    assert priced.cost_per_hour == pytest.approx(free.cost_per_hour + only.storage_cost_per_hour)


def test_storage_counts_to_the_budget():
    rent = plan(snapshot(pool(), deployment(), nodes=nodes(1))).cost_per_hour
    facts = snapshot(pool(), deployment(), policy(budget={"perHour": f"{rent:.2f}"}), nodes=nodes(1))
    assert plan_of(plan(facts)).state is DeploymentState.PLANNED
    told = exchanged(facts, policy(budget={"perHour": f"{rent:.2f}"}, storage={"pricePerGiBHour": "0.01"}))
    assert plan_of(plan(told)).state is DeploymentState.SHORT
    finding(plan(told), "BudgetExceeded", "LLMDeployment")


def test_a_storage_limit_that_holds_too_little_is_said():
    facts = snapshot(pool(), deployment(), policy(storage={"limitGiB": 10}), nodes=nodes(1))
    fleet = plan(facts)
    assert plan_of(fleet).state is DeploymentState.SHORT
    assert "spec.storage.limitGiB 10 is used up" in finding(fleet, "StorageLimitReached", "LLMDeployment").message
    assert finding(fleet, "StorageLimitReached", "PlacementPolicy").field == "spec.storage.limitGiB"
    assert [item.kind for item in fleet.limits] == [LimitKind.STORAGE]


def test_a_storage_limit_makes_a_smaller_variant_win():
    small = {"name": LLAMA_8B, "precisions": [{"name": "bf16"}]}
    cheap = {"name": QWEN_7B, "precisions": [{"name": "bf16"}]}
    facts = snapshot(pool(), deployment(models=[small, cheap]), nodes=nodes(1))
    sizes = {LLAMA_8B: 14.96, QWEN_7B: 14.19}
    told = plan(exchanged(facts, policy(storage={"limitGiB": 14})))
    assert plan_of(told).state is DeploymentState.SHORT
    between = plan(exchanged(facts, policy(storage={"limitGiB": 15})))
    assert plan_of(between).state is DeploymentState.PLANNED
    assert sum(sizes[item.option.model] for item in plan_of(between).placements) <= 15


def test_what_a_held_deployment_stores_counts():
    facts = snapshot(pool(), deployment("held"), deployment("other"), nodes=nodes(2))
    running = applied(facts, plan(facts))
    priced = exchanged(running, policy(storage={"pricePerGiBHour": "0.01"}))
    both = plan(priced).cost_per_hour
    broken = exchanged(priced, deployment("held", model="meta-llama/Llama-3.1-8B-Instrukt"))
    assert plan_of(plan(broken), "held").state is DeploymentState.HELD
    assert plan(broken).cost_per_hour == pytest.approx(both)


# --- Limits that bind -------------------------------------------------------------------------------------------------


def test_a_full_pool_binds():
    facts = snapshot(pool(), deployment(rate=5000), nodes=nodes(1))
    fleet = plan(facts)
    assert [(item.kind, item.name) for item in fleet.limits] == [(LimitKind.POOL, "l40s")]
    assert plan(snapshot(pool(), deployment(), nodes=nodes(1))).limits == ()


def test_a_budget_that_pays_for_no_further_replica_binds():
    facts = snapshot(pool(), deployment(), policy(budget={"perHour": "2"}), nodes=nodes(1))
    assert [(item.kind, item.name) for item in plan(facts).limits] == [(LimitKind.BUDGET, "default")]
    assert plan(exchanged(facts, policy(budget={"perHour": "20"}))).limits == ()


def test_the_record_of_a_plan_holds_its_proof_and_what_binds():
    facts = snapshot(pool(), deployment(rate=5000), nodes=nodes(1))
    fleet = plan(facts)
    spec = record("plan-000001", fleet, ())["spec"]
    assert spec["bindingLimits"] == [{"kind": "Pool", "name": "l40s"}]
    assert float(spec["objectivePerHour"]) == pytest.approx(fleet.objective_per_hour, abs=0.005)
    if fleet.gap is not None:
        assert float(spec["gap"]) == pytest.approx(fleet.gap, abs=0.0005)
        assert float(spec["lowerBoundPerHour"]) == pytest.approx(fleet.lower_bound_per_hour, abs=0.005)


def test_alternatives_are_told_next_to_what_the_class_costs_now():
    fleet = plan(snapshot(pool(), H100, deployment(), nodes=STOCK))
    (only,) = plan_of(fleet).classes
    assert any(item.reason == "1 replica, 1.40 per hour dearer" for item in only.rejected)


def test_greedy_gives_what_the_library_s_greedy_gives(monkeypatch):
    problems = []

    def spy(*arguments):
        search = search_for(*arguments)
        return replace(search, solve=lambda problem: problems.append(problem) or search.solve(problem))

    monkeypatch.setattr("plimsoll.planning.planner.search_for", spy)
    fleet = plan(snapshot(pool(), deployment(), policy(algorithm="Greedy"), nodes=nodes(1)))
    assert fleet.cost_per_hour == pytest.approx(solve_greedy(problems[0]).cost.rental)
