"""Which GPUs a planning round counts with: nodes, taints, reserves, what others use."""

from dataclasses import replace

import pytest

from plimsoll.api.parse import parse
from plimsoll.planning.plan import DeploymentState, Severity
from plimsoll.planning.snapshot import Taint
from tests.unit.planning.fleets import (
    GPU,
    LLAMA_70B,
    applied,
    decision,
    deployment,
    exchanged,
    finding,
    foreign_pod,
    manifest,
    node,
    nodes,
    plan,
    plan_of,
    pool,
    snapshot,
)


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
