"""What a planning round decides, by behaviour."""

from dataclasses import replace

import pytest
import yaml

from plimsoll.api.parse import parse
from plimsoll.planning import Evaluator, plan_fleet
from plimsoll.planning.plan import DeploymentState, Severity
from plimsoll.planning.snapshot import Taint
from tests.unit.planning.fleets import (
    GPU,
    LLAMA_8B,
    LLAMA_70B,
    QWEN_7B,
    applied,
    decision,
    deployment,
    exchanged,
    finding,
    foreign_pod,
    manifest,
    node,
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

SMALLEST = """
apiVersion: plimsoll.dev/v1alpha1
kind: GPUNodePool
metadata: {name: l40s}
spec:
  accelerator: L40S
  price: {perHour: "1.10"}
---
apiVersion: plimsoll.dev/v1alpha1
kind: LLMDeployment
metadata: {name: assistant, namespace: chat}
spec:
  models: [{name: meta-llama/Llama-3.1-8B-Instruct}]
  traffic: [{name: default, requestsPerMinute: 120, tokens: {input: 1000, output: 250}}]
"""


def test_the_smallest_useful_input_is_planned():
    fleet = plan(snapshot(*map(parse, yaml.safe_load_all(SMALLEST)), nodes=nodes(1)))
    (only,) = fleet.deployments
    assert only.state is DeploymentState.PLANNED
    assert [(item.option.pool, item.option.precision) for item in only.placements] == [("l40s", "bf16")]
    assert only.classes[0].unserved == 0
    assert {figure.metric for figure in only.classes[0].latency} == {"ttft", "tpot", "endToEnd"}
    assert all(
        figure.predicted_milliseconds <= figure.target_milliseconds
        for figure in only.classes[0].latency
        if figure.target_milliseconds is not None
    )
    assert fleet.all_findings() == ()
    assert fleet.cost_per_hour == pytest.approx(1.10 * only.gpus)


def test_bursty_traffic_gets_more_replicas_and_is_part_of_the_digest():
    def planned(arrivals: str):
        text = SMALLEST.replace("requestsPerMinute: 120", f"requestsPerMinute: 6000{arrivals}")
        return plan(snapshot(*map(parse, yaml.safe_load_all(text)), nodes=nodes(30)))

    plain, poisson, bursty = map(planned, ("", ', arrivals: {burstiness: "1"}', ', arrivals: {burstiness: "4"}'))
    counts = [sum(item.replicas for item in fleet.deployments[0].placements) for fleet in (plain, poisson, bursty)]
    assert counts[0] == counts[1] < counts[2]
    assert bursty.digest != poisson.digest
    for fleet in (poisson, bursty):
        for figure in fleet.deployments[0].classes[0].latency:
            assert figure.target_milliseconds is None or figure.predicted_milliseconds <= figure.target_milliseconds


def test_a_plan_does_not_depend_on_what_the_evaluator_remembers():
    facts = snapshot(pool(), deployment(), nodes=nodes(2))
    assert plan_fleet(facts) == plan_fleet(facts, Evaluator()) == plan(facts)


def test_an_empty_fleet_is_an_empty_plan():
    fleet = plan(snapshot())
    assert (fleet.deployments, fleet.pools, fleet.cost_per_hour) == ((), (), 0)


def test_the_cheapest_pool_that_meets_the_objectives_is_used():
    facts = snapshot(
        pool(), pool("h100", "H100-SXM-80GB", "2.50"), deployment(), nodes=[*nodes(2), *nodes(1, "H100-SXM-80GB", 8)]
    )
    assert [item.option.pool for item in plan_of(plan(facts)).placements] == ["l40s"]


def test_capacity_at_spot_prices_is_charged_at_spot_prices():
    spot = pool(capacityType="Spot", price={"perHour": "1.10", "spotPerHour": "0.40"})
    fleet = plan(snapshot(spot, deployment(), nodes=nodes(1)))
    assert fleet.cost_per_hour == pytest.approx(0.40 * plan_of(fleet).gpus)


# --- Staying where one is ---------------------------------------------------------------------------------------------


def thirty(rate: int = 120) -> list:
    return [
        deployment(f"app-{number:02}", rate + 40 * number, model=LLAMA_8B if number % 2 else "Qwen/Qwen2.5-7B-Instruct")
        for number in range(30)
    ]


def big_stock() -> list:
    return [*nodes(20), *nodes(20, "L4", 1), *nodes(2, "H100-SXM-80GB", 8)]


POOLS = (pool(), pool("l4", "L4", "0.60"), pool("h100", "H100-SXM-80GB", "2.50"))


def test_a_plan_that_leaves_one_of_two_equal_classes_unserved_is_its_own_plan():
    # Serving a little of a large class or all of a small one is the same: the choice must not change once it runs.
    other = traffic("other", 2500, match={"headers": [{"name": "x-class", "value": "other"}]}, sloRef={"name": "loose"})
    facts = snapshot(
        pool(nodes={"max": 1}),
        objective("loose", ttft=8000, tpot=150),
        deployment(
            models=[{"name": LLAMA_8B}, {"name": QWEN_7B, "precisions": [{"name": "bf16"}, {"name": "fp8"}]}],
            traffic=[traffic(rate=5, sloRef={"name": "loose"}), other],
            engine={"maxModelLength": 8192},
            placement={"replicas": {"min": 0, "max": 3}},
        ),
        nodes=nodes(1),
    )
    first = plan(facts)
    assert plan_of(first).state is DeploymentState.SHORT
    assert decision(plan(applied(facts, first))) == decision(first)


def test_an_applied_plan_is_its_own_plan():
    facts = snapshot(*POOLS, *thirty(), nodes=big_stock())
    first = plan(facts)
    second = plan(applied(facts, first))
    assert decision(second) == decision(first)


@pytest.mark.parametrize("bound", [0, 7, 25])
def test_a_plan_whose_pods_are_still_being_bound_is_its_own_plan(bound):
    facts = snapshot(*POOLS, *thirty(), nodes=big_stock())
    first = plan(facts)
    after = applied(facts, first)
    assert decision(plan(replace(after, pods=after.pods[:bound]))) == decision(first)


def test_pods_that_fit_nowhere_do_not_count_as_starting():
    facts = snapshot(*POOLS, deployment(rate=2400), nodes=big_stock())
    first = plan(facts)
    after = applied(facts, first)
    full = [*big_stock()[:20], *big_stock()[-2:]]
    crowded = [foreign_pod(item.name, int(item.allocatable["nvidia.com/gpu"])) for item in full]
    stuck = [replace(pod, node="", unschedulable=True) for pod in after.pods]
    assert replicas(plan(replace(after, pods=(*crowded, *stuck)))) != replicas(first)


def test_one_edited_deployment_does_not_move_the_others():
    facts = snapshot(*POOLS, *thirty(), nodes=big_stock())
    first = plan(facts)
    edited = exchanged(applied(facts, first), deployment("app-07", 900))
    second = plan(edited)
    assert plan_of(second, "app-07").cost_per_hour > plan_of(first, "app-07").cost_per_hour
    others = [[item for item in decision(fleet) if item[0].name != "app-07"] for fleet in (first, second)]
    assert others[0] == others[1]


def test_a_deleted_deployment_does_not_move_the_others():
    facts = snapshot(*POOLS, *thirty(), nodes=big_stock())
    first = plan(facts)
    after = applied(facts, first)
    second = plan(replace(after, deployments=tuple(item for item in after.deployments if item.name != "app-07")))
    assert decision(second) == [item for item in decision(first) if item[0].name != "app-07"]


def test_the_loss_of_a_node_replans_only_what_ran_there():
    facts = snapshot(*POOLS, *thirty(), nodes=big_stock())
    first = plan(facts)
    after = applied(facts, first)
    lost = next(pod.node for pod in after.pods if pod.placement)
    gone = {pod.placement for pod in after.pods if pod.node == lost}
    rest = replace(
        after,
        nodes=tuple(item for item in after.nodes or () if item.name != lost),
        pods=tuple(pod for pod in after.pods if pod.node != lost),
    )
    second = plan(rest)
    assert {item.state for item in second.deployments} == {DeploymentState.PLANNED}
    hit = {item.ref for item in first.deployments if any(part.name in gone for part in item.placements)}
    untouched = [[item for item in decision(fleet) if item[0] not in hit] for fleet in (first, second)]
    assert untouched[0] == untouched[1]
    assert 0 < len(hit) < 30


def test_a_small_saving_moves_nothing_and_a_large_one_does():
    facts = snapshot(pool(), deployment(rate=600), nodes=[*nodes(3), *nodes(3, "H100-SXM-80GB", 8)])
    first = plan(facts)
    running = applied(facts, first)
    cost = first.cost_per_hour
    for price, moved in ((cost * 0.97, False), (cost * 0.2, True)):
        offer = exchanged(running, pool("h100", "H100-SXM-80GB", f"{price:.2f}"))
        assert (decision(plan(offer)) != decision(first)) is moved


def test_more_traffic_grows_in_place():
    facts = snapshot(pool(), deployment(rate=600), nodes=nodes(6))
    first = plan(facts)
    second = plan(exchanged(applied(facts, first), deployment(rate=1500)))
    assert set(replicas(second)) == set(replicas(first))
    assert sum(replicas(second).values()) > sum(replicas(first).values())


def test_pods_that_are_still_pending_do_not_change_the_plan():
    facts = snapshot(pool(), deployment(rate=1500), nodes=nodes(6))
    first = plan(facts)
    running = applied(facts, first)
    pending = replace(running, pods=tuple(replace(pod, node="", ready=False) for pod in running.pods))
    assert decision(plan(pending)) == decision(first)


# --- Shortage ---------------------------------------------------------------------------------------------------------


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


# --- Pools and nodes --------------------------------------------------------------------------------------------------


def test_reserved_gpus_are_left():
    fleet = plan(snapshot(pool(gpus={"reserved": 6}), deployment(rate=9000), nodes=nodes(2)))
    assert plan_of(fleet).gpus == 2


def test_gpus_that_others_use_count_to_the_reserve():
    facts = snapshot(pool(gpus={"reserved": 6}), deployment(rate=9000), nodes=nodes(2), pods=[foreign_pod("l40s-0", 4)])
    assert plan_of(plan(facts)).gpus == 2


def test_no_more_than_the_greatest_number_of_nodes_is_used():
    fleet = plan(snapshot(pool(nodes={"max": 1}), deployment(rate=9000), nodes=nodes(3)))
    assert plan_of(fleet).gpus == 4


def test_a_cordoned_node_does_not_count_to_the_greatest_number_of_nodes():
    stock = [node("l40s-0", unavailable="cordoned"), node("l40s-1")]
    fleet = plan(snapshot(pool(nodes={"max": 1}), deployment(), nodes=stock))
    assert plan_of(fleet).state is DeploymentState.PLANNED


def test_gpus_of_others_are_not_planned_with():
    fleet = plan(snapshot(pool(), deployment(rate=9000), nodes=nodes(2), pods=[foreign_pod("l40s-0", 3)]))
    assert plan_of(fleet).gpus == 5
    assert (fleet.pools[0].gpus_used_by_others, fleet.pools[0].gpus_planned) == (3, 5)


@pytest.mark.parametrize("reason", ["cordoned", "not ready", "deleting"])
def test_nothing_new_goes_to_a_node_that_takes_nothing(reason):
    fleet = plan(snapshot(pool(), deployment(), nodes=[node("l40s-0", unavailable=reason)]))
    assert plan_of(fleet).state is DeploymentState.SHORT
    said = finding(fleet, "NodesUnavailable")
    assert said.severity is Severity.WARNING
    assert reason in said.message
    assert "l40s-0" in said.message


def test_what_runs_on_a_cordoned_node_stays_there():
    facts = snapshot(pool(), deployment(), nodes=nodes(2))
    first = plan(facts)
    running = applied(facts, first)
    cordoned = replace(
        running, nodes=tuple(replace(item, unschedulable_reason="cordoned") for item in running.nodes or ())
    )
    assert decision(plan(cordoned)) == decision(first)


@pytest.mark.parametrize(
    ("taint", "tolerations", "taken"),
    [
        (Taint("nvidia.com/gpu", "present", "NoSchedule"), [], True),
        (Taint("team", "research", "NoSchedule"), [], False),
        (Taint("team", "research", "NoExecute"), [], False),
        (Taint("team", "research", "PreferNoSchedule"), [], True),
        (Taint("team", "research", "NoSchedule"), [{"key": "team", "value": "research"}], True),
        (Taint("team", "research", "NoSchedule"), [{"key": "team", "value": "sales"}], False),
        (Taint("team", "research", "NoSchedule"), [{"operator": "Exists"}], True),
        (
            Taint("team", "research", "NoExecute"),
            [{"key": "team", "operator": "Exists", "effect": "NoSchedule"}],
            False,
        ),
    ],
)
def test_only_nodes_whose_taints_are_tolerated_take_replicas(taint, tolerations, taken):
    stock = [replace(item, taints=(taint,)) for item in nodes(1)]
    fleet = plan(snapshot(pool(tolerations=tolerations), deployment(), nodes=stock))
    assert (plan_of(fleet).state is DeploymentState.PLANNED) is taken
    if not taken:
        assert f"team=research:{taint.effect}" in finding(fleet, "NodesUnavailable").message


def test_a_replica_never_spans_two_nodes():
    fleet = plan(snapshot(pool(), deployment(model=LLAMA_70B), nodes=nodes(4, gpus=2)))
    assert plan_of(fleet).placements == ()
    assert finding(fleet, "FitsNowhere").object.name == "assistant"


def test_cpu_and_memory_of_nodes_limit_replicas():
    small = [replace(item, allocatable={GPU: 4.0, "cpu": 4.0, "memory": 1e12}) for item in nodes(1)]
    fleet = plan(snapshot(pool(), deployment(rate=9000), nodes=small))
    assert plan_of(fleet).gpus == 2  # each one-GPU replica asks for two cores


def test_a_custom_accelerator_is_planned_with_its_own_figures():
    custom = parse(
        manifest(
            "GPUNodePool",
            "special",
            {
                "custom": {
                    "vendor": "NVIDIA",
                    "memory": "48Gi",
                    "memoryBandwidthGigabytesPerSecond": 900,
                    "peaks": [{"precision": "bf16", "teraflops": 350}],
                },
                "nodeSelector": {"matchLabels": {"kind": "special"}},
                "price": {"perHour": "1"},
            },
        )
    )
    stock = [replace(item, labels={"kind": "special"}) for item in nodes(2)]
    fleet = plan(snapshot(custom, deployment(), nodes=stock))
    assert plan_of(fleet).state is DeploymentState.PLANNED
    assert fleet.pools[0].node_selector == {"kind": "special"}


def test_a_model_profile_makes_a_model_known():
    architecture = {
        "parameters": 8_000_000_000,
        "layers": 32,
        "hiddenSize": 4096,
        "attentionHeads": 32,
        "kvHeads": 8,
        "vocabularySize": 128_000,
        "contextLength": 32_768,
    }
    facts = snapshot(pool(), deployment(model="acme/secret-8b"), nodes=nodes(1))
    assert plan_of(plan(facts)).state is DeploymentState.HELD
    profile = parse(manifest("ModelProfile", "secret", {"model": "acme/secret-8b", "architecture": architecture}))
    assert plan_of(plan(exchanged(facts, profile))).state is DeploymentState.PLANNED


# --- Stock without nodes (the CLI) ------------------------------------------------------------------------------------


def test_without_nodes_the_declared_number_is_the_stock():
    fleet = plan(snapshot(pool(gpusPerNode=2, nodes={"max": 3}), deployment(rate=9000), nodes=None))
    assert plan_of(fleet).gpus == 6
    assert (fleet.pools[0].nodes, fleet.pools[0].gpus, fleet.pools[0].unlimited) == (3, 6, False)


def test_without_nodes_and_numbers_the_stock_is_unlimited():
    fleet = plan(snapshot(pool(), deployment(rate=9000), nodes=None))
    assert plan_of(fleet).state is DeploymentState.PLANNED
    assert fleet.pools[0].unlimited


# --- Limits of the deployment -----------------------------------------------------------------------------------------


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
