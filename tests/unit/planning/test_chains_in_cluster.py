"""Chained LLMDeployments from plan to rendered objects and back: at rest, after a lost node, beside replicas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning import plan_fleet
from plimsoll.planning.archive import archived, restored
from plimsoll.planning.plan import DeploymentState, Option, Severity
from plimsoll.planning.snapshot import SpeedCorrection
from plimsoll.planning.transition import backends_of
from tests.unit.planning.chain_cluster import MODEL, REGIONS, Running, cluster, deployment, node, only

RATE = 100
"""Takes three chains of three servers."""


def at_rest(rate: int = RATE, per_region: int = 4, **rules: object) -> Running:
    running = Running(cluster(deployment(rate), per_region=per_region, **rules))
    running.settle()
    return running


def nodes_of(running: Running) -> dict[str, list[str]]:
    """Nodes by routed chain, in order."""
    assert running.table is not None
    return {chain.name: [server.node for server in chain.servers] for chain in running.table.chains}


def stage_node(option: Option) -> str:
    assert option.stage is not None
    return option.stage.node


def test_an_applied_plan_is_its_own_plan() -> None:
    running = at_rest()
    before = only(plan_fleet(running.snapshot))
    assert before.state is DeploymentState.PLANNED
    assert len(before.chains) == 3
    epoch = running.table.epoch if running.table is not None else 0
    _, step = running.turn()
    assert only(plan_fleet(running.snapshot)) == before
    assert (step.prune, step.waiting_for) == ((), ())
    assert running.table is not None
    assert running.table.epoch == epoch == 1


def test_every_node_hosts_one_server_and_chains_hold_all_layers() -> None:
    running = at_rest()
    hosts = [name for names in nodes_of(running).values() for name in names]
    assert len(hosts) == len(set(hosts)) == 9
    assert running.table is not None
    for chain in running.table.chains:
        position = 0
        for server in chain.servers:
            assert server.first_layer == position
            position += server.layers
        assert position == 80
    assert sum(chain.weight for chain in running.table.chains) == 1000
    assert len(backends_of(running.table)) == 9


def test_a_chain_that_lost_a_node_leaves_the_routing_at_once_and_another_takes_its_place() -> None:
    running = at_rest()
    routed = nodes_of(running)
    broken = min(routed)
    running.lose(routed[broken][1])
    fleet, step = running.turn()
    assert only(fleet).broken == only(fleet).given_up == (broken,)
    assert nodes_of(running).keys() == routed.keys() - {broken}
    assert len(step.prune) == 3, "its other servers are free for new chains"
    running.settle()
    after = nodes_of(running)
    assert routed.keys() - {broken} < after.keys()
    assert len(after) == 3
    (new,) = after.keys() - routed.keys()
    assert set(after[new]) & set(routed[broken]), "no node stays idle"


def test_a_node_that_is_not_ready_is_waited_for() -> None:
    running = at_rest(per_region=3)
    routed = nodes_of(running)
    broken = min(routed)
    lost = routed[broken][1]
    running.lose(lost, deleted=False)
    _, step = running.turn()
    assert nodes_of(running).keys() == routed.keys() - {broken}
    assert step.prune == ()
    nodes = tuple(replace(item, unschedulable_reason="") for item in running.snapshot.nodes or ())
    running.snapshot = replace(running.snapshot, nodes=nodes)
    running.settle()
    assert nodes_of(running) == routed


def test_guarded_nothing_is_taken_away() -> None:
    running = at_rest()
    routed = nodes_of(running)
    running.lose(routed[min(routed)][1])
    _, step = running.turn(guarded=True)
    assert step.prune == ()
    assert min(routed) not in nodes_of(running)


def test_more_load_adds_chains_and_moves_none() -> None:
    running = at_rest(30)
    before = nodes_of(running)
    running.snapshot = replace(running.snapshot, deployments=(deployment(RATE),))
    running.settle()
    assert before.items() < nodes_of(running).items()


def test_less_load_gives_up_chains() -> None:
    running = at_rest()
    before = nodes_of(running)
    running.snapshot = replace(running.snapshot, deployments=(deployment(10),))
    running.settle()
    assert len(nodes_of(running)) == 1
    assert nodes_of(running).items() < before.items()


def test_another_engine_image_makes_new_chains_beside_the_old_ones_where_there_is_room() -> None:
    running = at_rest(15, per_region=6)
    before = nodes_of(running)
    resource = running.snapshot.deployments[0]
    engine = resource.spec.engine.model_copy(update={"extra_args": ("--enable-prefix-caching",)})
    changed = resource.model_copy(update={"spec": resource.spec.model_copy(update={"engine": engine})})
    running.snapshot = replace(running.snapshot, deployments=(changed,))
    _, step = running.turn()
    assert nodes_of(running) == before, "old chains serve until the new ones are Ready"
    assert step.prune == ()
    running.settle()
    after = nodes_of(running)
    assert not before.keys() & after.keys()
    assert {item.name for item in running.snapshot.workloads} == set(backends_of(running.table))


def test_replicas_take_what_chains_leave() -> None:
    other = deployment(600, "small", "Replicated")
    snapshot = replace(cluster(deployment(RATE), per_region=3), deployments=(deployment(RATE), other))
    fleet = plan_fleet(snapshot)
    chains, small = only(fleet), only(fleet, "small")
    taken: dict[str, int] = {}
    for placement in chains.placements:
        taken[placement.option.pool] = taken.get(placement.option.pool, 0) + 1
    for placement in small.placements:
        taken[placement.option.pool] = taken.get(placement.option.pool, 0) + placement.replicas
    assert len(chains.placements) + sum(item.replicas for item in small.placements) == sum(taken.values())
    assert all(count <= 3 for count in taken.values())
    assert {pool.name: pool.gpus_planned for pool in fleet.pools} == {
        region: taken.get(region, 0) for region in REGIONS
    }
    assert all(pool.gpus_running == 0 for pool in fleet.pools)
    assert fleet.cost_per_hour == pytest.approx(chains.cost_per_hour + small.cost_per_hour)


def test_chains_take_what_others_leave() -> None:
    snapshot = cluster(deployment(20), per_region=4)
    blocked = {f"us-east-{number}" for number in range(2)}
    nodes = tuple(
        replace(item, allocatable={**item.allocatable, "nvidia.com/gpu": 0.0}) if item.name in blocked else item
        for item in snapshot.nodes or ()
    )
    fleet = plan_fleet(replace(snapshot, nodes=nodes))
    assert not blocked & {stage_node(item.option) for item in only(fleet).placements}


def test_a_budget_stops_growth_and_says_so() -> None:
    plan = only(plan_fleet(cluster(deployment(RATE), budget={"perHour": "3.00"})))
    assert plan.cost_per_hour <= 3.0
    assert plan.state is DeploymentState.SHORT
    (finding,) = [item for item in plan.findings if item.severity is Severity.ERROR]
    assert finding.reason == "BudgetExceeded"
    assert "spec.budget.perHour 3.00" in finding.message


def test_a_paused_one_keeps_its_chains_and_its_gpus() -> None:
    running = at_rest()
    resource = running.snapshot.deployments[0]
    metadata = resource.metadata.model_copy(update={"annotations": {"plimsoll.dev/paused": "true"}})
    running.snapshot = replace(running.snapshot, deployments=(resource.model_copy(update={"metadata": metadata}),))
    fleet = plan_fleet(running.snapshot)
    assert only(fleet).state is DeploymentState.HELD
    assert fleet.cost_per_hour == pytest.approx(9 * 0.70)


def test_the_archive_keeps_chains() -> None:
    fleet = plan_fleet(cluster(deployment(RATE)))
    assert restored(archived(fleet)) == fleet


def test_a_new_server_is_used_only_where_it_is_needed() -> None:
    running = at_rest(15)
    before = nodes_of(running)
    more = tuple(node(region, 9) for region in REGIONS)
    running.snapshot = replace(running.snapshot, nodes=(*(running.snapshot.nodes or ()), *more))
    running.settle()
    assert nodes_of(running) == before


def test_back_to_replicas_chains_serve_until_these_are_there() -> None:
    running = at_rest(15)
    resource: LLMDeployment = deployment(60, mode="Replicated")
    running.snapshot = replace(running.snapshot, deployments=(resource,))
    before = running.table
    fleet, step = running.turn()
    assert only(fleet).chains == ()
    assert only(fleet).placements
    assert running.table == before
    assert step.prune == ()


def test_what_is_known_of_a_gpus_speed_counts() -> None:
    slower = SpeedCorrection(MODEL, "int4", "L4", 1, 1, prefill=1.5, decode=1.5)
    plain, slow = (
        only(plan_fleet(replace(cluster(deployment(15)), corrections=corrections))) for corrections in ((), (slower,))
    )
    assert slow.chains[0].tpot_milliseconds > 1.1 * plain.chains[0].tpot_milliseconds


def test_two_releases_share_chains() -> None:
    """What another release made is kept as it is, under its name."""
    running = at_rest(15)
    before = nodes_of(running)
    other = tuple(
        replace(item, made=replace(item.made, release="0.0.1", image="other:1"))
        for item in running.snapshot.workloads
        if item.made is not None
    )
    running.snapshot = replace(running.snapshot, workloads=other)
    plan = only(plan_fleet(running.snapshot))
    assert {chain.name for chain in plan.chains} == before.keys()
    assert {(item.made_by, item.option.image) for item in plan.placements} == {("0.0.1", "other:1")}
    assert [(item.reason, item.severity) for item in plan.findings] == [("MadeByOtherRelease", Severity.WARNING)]


def test_a_drained_node_is_replaced() -> None:
    running = at_rest(15)
    before = nodes_of(running)
    drained = next(iter(before.values()))[1]
    nodes = tuple(
        replace(item, unschedulable_reason="cordoned") if item.name == drained else item
        for item in running.snapshot.nodes or ()
    )
    running.snapshot = replace(running.snapshot, nodes=nodes)
    running.turn()
    assert nodes_of(running) == before, "cordoned, it serves on"
    pods = tuple(pod for pod in running.snapshot.pods if pod.node != drained)
    plan = only(plan_fleet(replace(running.snapshot, pods=pods)))
    assert plan.broken == tuple(before)
    assert drained not in {stage_node(item.option) for item in plan.placements}


def test_a_server_whose_gpu_somebody_else_took_is_replaced() -> None:
    running = at_rest(15)
    before = nodes_of(running)
    taken = next(iter(before.values()))[1]
    pods = tuple(
        replace(pod, placement="", name="other", uid="other") if pod.node == taken else pod
        for pod in running.snapshot.pods
    )
    plan = only(plan_fleet(replace(running.snapshot, pods=pods)))
    assert plan.broken == tuple(before)
    assert taken not in {stage_node(item.option) for item in plan.placements}


def test_a_gpu_that_fails_under_a_server_stops_no_plan() -> None:
    running = at_rest(15)
    before = nodes_of(running)
    failed = next(iter(before.values()))[0]
    nodes = tuple(
        replace(item, allocatable={**item.allocatable, "nvidia.com/gpu": 0.0}) if item.name == failed else item
        for item in running.snapshot.nodes or ()
    )
    running.snapshot = replace(running.snapshot, nodes=nodes)
    plan = only(plan_fleet(running.snapshot))
    assert plan.state is not DeploymentState.SHORT
