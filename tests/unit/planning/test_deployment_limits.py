"""Limits that an LLMDeployment sets: headroom, replicas, pools, parallelism, precisions, task error."""

from plimsoll.planning import Evaluator, plan_fleet
from plimsoll.planning.plan import DeploymentState, Severity
from tests.unit.planning.fleets import (
    LLAMA_8B,
    LLAMA_70B,
    deployment,
    finding,
    foreign_pod,
    nodes,
    objective,
    plan,
    plan_of,
    policy,
    pool,
    replicas,
    snapshot,
    traffic,
)


def test_demand_headroom_is_planned_for():
    plain, roomy = (
        plan(snapshot(pool(), deployment(rate=1200), policy(headroom={"demand": part}), nodes=nodes(10)))
        for part in ("0", "1")
    )
    assert plan_of(roomy).gpus > plan_of(plain).gpus


def test_latency_headroom_tightens_the_targets():
    slo = objective(ttft=300, tpot=60)
    loads = [
        plan_of(
            plan(snapshot(pool(), slo, deployment(rate=600, slo="interactive"), policy(headroom=part), nodes=nodes(10)))
        )
        for part in ({"latency": "0", "demand": "0"}, {"latency": "0.4", "demand": "0"})
    ]
    assert loads[1].gpus > loads[0].gpus or loads[1].placements[0].utilization > loads[0].placements[0].utilization


def test_at_least_the_least_number_of_replicas_runs():
    fleet = plan(snapshot(pool(), deployment(rate=1, placement={"replicas": {"min": 3}}), nodes=nodes(2)))
    assert sum(replicas(fleet).values()) == 3


def test_fewer_replicas_than_asked_for_is_a_warning():
    fleet = plan(snapshot(pool(), deployment(rate=1, placement={"replicas": {"min": 9}}), nodes=nodes(1)))
    said = finding(fleet, "BelowMinimumReplicas")
    assert (said.severity, said.field) == (Severity.WARNING, "spec.placement.replicas.min")
    assert "9 asked for, 4 fit" in said.message
    assert plan_of(fleet).state is DeploymentState.PLANNED


def test_no_replica_at_all_where_some_are_asked_for_is_a_shortage():
    fleet = plan(snapshot(pool(), deployment(rate=0), nodes=nodes(1), pods=[foreign_pod("l40s-0", 4)]))
    assert plan_of(fleet).state is DeploymentState.SHORT
    assert finding(fleet, "BelowMinimumReplicas").severity is Severity.ERROR


def test_more_replicas_than_the_greatest_number_never_run_and_the_finding_says_how_many_would_do():
    fleet = plan(snapshot(pool(), deployment(rate=3000, placement={"replicas": {"max": 2}}), nodes=nodes(10)))
    assert sum(replicas(fleet).values()) == 2
    said = finding(fleet, "LimitReached")
    enough = plan(snapshot(pool(), deployment(rate=3000), nodes=nodes(10)))
    assert f"spec.placement.replicas.max 2 ({sum(replicas(enough).values())} would do)" in said.message
    assert "None" not in said.message


def test_no_traffic_and_no_least_number_means_no_replica():
    fleet = plan(snapshot(pool(), deployment(rate=0, placement={"replicas": {"min": 0}}), nodes=nodes(1)))
    assert (plan_of(fleet).state, plan_of(fleet).placements) == (DeploymentState.PLANNED, ())


def test_traffic_of_nobody_is_answered_by_the_replicas_that_are_kept():
    fleet = plan(snapshot(pool(), deployment(rate=0), nodes=nodes(1)))
    (only,) = plan_of(fleet).placements
    assert (only.replicas, only.shares[0].value) == (1, 1.0)


def test_what_is_known_of_a_class_without_traffic_is_not_taken_for_one_with_traffic():
    idle = traffic("idle", 0, match={"headers": [{"name": "x-class", "value": "idle"}]})
    both = snapshot(pool(), deployment(traffic=[idle, traffic(rate=120)]), nodes=nodes(1))
    one = snapshot(pool(), deployment(rate=120), nodes=nodes(1))
    remembers = Evaluator()
    plan_fleet(both, remembers)
    assert plan_fleet(one, remembers) == plan_fleet(one, Evaluator())


def test_only_pools_that_are_allowed_are_used():
    facts = snapshot(
        pool(),
        pool("h100", "H100-SXM-80GB", "2.50"),
        deployment(placement={"pools": ["h100"]}),
        nodes=[*nodes(2), *nodes(1, "H100-SXM-80GB", 8)],
    )
    assert {item.option.pool for item in plan_of(plan(facts)).placements} == {"h100"}


def test_only_parallelism_that_is_allowed_is_used():
    limits = {"parallelism": {"tensor": [2], "pipeline": [1]}}
    fleet = plan(snapshot(pool(), deployment(placement=limits), nodes=nodes(1)))
    assert [str(item.option.parallelism) for item in plan_of(fleet).placements] == ["t2p1"]


def test_int4_without_a_checkpoint_is_left_out_with_a_warning():
    models = [{"name": "meta-llama/Llama-3.2-3B-Instruct", "precisions": [{"name": "bf16"}, {"name": "int4"}]}]
    fleet = plan(snapshot(pool(), deployment(models=models), nodes=nodes(1)))
    said = finding(fleet, "CheckpointMissing")
    assert (said.severity, said.field) == (Severity.WARNING, "spec.models[0].precisions[1].checkpoint")
    assert [item.option.precision for item in plan_of(fleet).placements] == ["bf16"]


def test_int4_with_a_checkpoint_is_an_option_and_loads_that_checkpoint():
    checkpoint = "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4"
    models = [{"name": LLAMA_8B, "precisions": [{"name": "int4", "checkpoint": checkpoint}]}]
    fleet = plan(snapshot(pool(), deployment(models=models), nodes=nodes(1)))
    (only,) = plan_of(fleet).placements
    assert (only.option.model, only.option.checkpoint) == (LLAMA_8B, checkpoint)


# --- Task error -------------------------------------------------------------------------------------------------------


def task(errors: dict[str, str], limit: str, rate: int = 120):
    classes = [
        traffic(
            rate=rate,
            sloRef={"name": "interactive"},
            taskError=[{"model": model, "value": value} for model, value in errors.items()],
        )
    ]
    models = [{"name": LLAMA_8B}, {"name": LLAMA_70B, "precisions": [{"name": "fp8"}]}]
    return snapshot(
        pool(),
        pool("h100", "H100-SXM-80GB", "2.50"),
        objective(maxTaskError=limit),
        deployment(models=models, traffic=classes),
        nodes=[*nodes(4), *nodes(2, "H100-SXM-80GB", 8)],
    )


def models_used(fleet) -> set[str]:
    return {item.option.model for item in plan_of(fleet).placements}


def test_the_better_model_is_used_where_the_cheaper_one_errs_too_often():
    errors = {LLAMA_8B: "0.07", LLAMA_70B: "0.04"}
    assert models_used(plan(task(errors, "0.5"))) == {LLAMA_8B}
    assert LLAMA_70B in models_used(plan(task(errors, "0.05")))
    assert models_used(plan(task(errors, "0.04"))) == {LLAMA_70B}


def test_a_task_error_at_its_limit_is_within_it():
    fleet = plan(task({LLAMA_8B: "0.07", LLAMA_70B: "0.04"}, "0.07"))
    assert models_used(fleet) == {LLAMA_8B}


def test_a_model_without_a_task_error_is_not_considered():
    fleet = plan(task({LLAMA_70B: "0.04"}, "0.05"))
    assert models_used(fleet) == {LLAMA_70B}
    assert any(f"no taskError for {LLAMA_8B}" in rejected.reason for rejected in plan_of(fleet).classes[0].rejected), (
        plan_of(fleet).classes[0].rejected
    )


def test_no_task_errors_at_all_is_said_with_the_model_and_the_objective():
    fleet = plan(task({}, "0.05"))
    assert plan_of(fleet).state is DeploymentState.SHORT
    said = finding(fleet, "SLOUnattainable").message
    assert "InferenceSLO interactive" in said
    assert "no taskError for" in said


def test_a_task_error_limit_that_no_model_keeps_names_the_best():
    fleet = plan(task({LLAMA_8B: "0.07", LLAMA_70B: "0.04"}, "0.03"))
    assert plan_of(fleet).state is DeploymentState.SHORT
    assert (
        "maxTaskError 0.03 of InferenceSLO interactive (the best option has 0.04)"
        in finding(fleet, "LimitReached").message
    )
