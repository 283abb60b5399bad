"""Chained LLMDeployments under measured demand: what is planned for, who rests, and what a chain is to telemetry."""

from __future__ import annotations

from dataclasses import replace

from plimsoll.performance import TokenLengths
from plimsoll.planning import plan_fleet, step_for
from plimsoll.planning.arrivals import Load, PodLoad, readings
from plimsoll.planning.lost import lost_pods, with_replacements
from plimsoll.planning.plan import DeploymentState
from plimsoll.planning.running_chains import answers
from plimsoll.planning.snapshot import ObjectRef, Snapshot, TrafficDemand
from plimsoll.planning.stages import Stage, stage_for
from plimsoll.planning.transition import ObservedRouting
from tests.unit.planning.chain_cluster import Running, cluster, deployment, only

REF = ObjectRef("LLMDeployment", "chat", "assistant")


def measured(snapshot: Snapshot, rate: float, lengths: TokenLengths | None = None) -> Snapshot:
    return replace(snapshot, demand=(TrafficDemand("chat", "assistant", "chat", rate, rate, lengths=lengths),))


def at_rest(declared: int, rate: float) -> Running:
    running = Running(measured(cluster(deployment(declared)), rate))
    running.settle()
    return running


def test_chains_are_for_the_measured_rate() -> None:
    declared = only(plan_fleet(cluster(deployment(100))))
    plan = only(plan_fleet(measured(cluster(deployment(10)), 100.0)))
    assert plan.chains == declared.chains
    assert len(plan.chains) > len(only(plan_fleet(cluster(deployment(10)))).chains)
    assert plan.classes[0].requests_per_minute == 100.0


def test_a_shortage_forgets_no_measured_rate() -> None:
    plan = only(plan_fleet(measured(cluster(deployment(10), budget={"perHour": "0.10"}), 100.0)))
    assert (plan.state, plan.placements) == (DeploymentState.SHORT, ())
    assert plan.classes[0].requests_per_minute == 100.0


def test_measured_lengths_count() -> None:
    snapshot = cluster(deployment(15))
    plan = only(plan_fleet(measured(snapshot, 15.0, TokenLengths(800.0, 150.0, 800.0, 150.0))))
    assert plan.chains[0].ttft_milliseconds > 1.2 * only(plan_fleet(snapshot)).chains[0].ttft_milliseconds


def test_who_rests_gives_no_chain_up_and_still_grows() -> None:
    running = at_rest(100, 100.0)
    quiet = measured(running.snapshot, 10.0)
    before = {chain.name for chain in only(plan_fleet(running.snapshot)).chains}
    assert len(only(plan_fleet(quiet)).chains) == 1
    assert {chain.name for chain in only(plan_fleet(replace(quiet, resting=(REF,)))).chains} == before
    few = at_rest(30, 30.0)
    busy = replace(measured(few.snapshot, 100.0), resting=(REF,))
    assert len(only(plan_fleet(busy)).chains) > len(only(plan_fleet(few.snapshot)).chains)


def test_chains_come_whole() -> None:
    running = at_rest(30, 30.0)
    plan = only(plan_fleet(measured(running.snapshot, 100.0)))
    assert stage_for(plan, running.snapshot.workloads, 0.1) == Stage(plan)


def test_requests_move_over_to_new_chains_in_increments() -> None:
    running = Running(cluster(deployment(15), per_region=6))
    running.settle()
    resource = running.snapshot.deployments[0]
    engine = resource.spec.engine.model_copy(update={"extra_args": ("--enable-prefix-caching",)})
    changed = resource.model_copy(update={"spec": resource.spec.model_copy(update={"engine": engine})})
    running.snapshot = replace(running.snapshot, deployments=(changed,))
    before = running.table
    assert before is not None
    running.turn()
    plan = only(plan_fleet(running.snapshot))
    step = step_for(plan, running.snapshot.workloads, ObservedRouting(before, 1e6), 150.0, max_shift=0.25)
    assert step.routing is not None
    old, new = {chain.name for chain in before.chains}, {chain.name for chain in plan.chains}
    weights = {chain.name: chain.weight for chain in step.routing.chains}
    assert sum(weights[name] for name in old) == 750
    assert sum(weights[name] for name in new) == 250
    assert step.prune == ()
    assert step.complete
    assert not step.settled


def test_a_server_on_a_lost_node_is_not_asked_for_twice() -> None:
    running = at_rest(30, 30.0)
    running.lose(running.snapshot.pods[0].node, deleted=False)
    plan = only(plan_fleet(running.snapshot))
    asked = dict.fromkeys((item.name for item in plan.placements), 1)
    lost = lost_pods(running.snapshot)
    assert lost
    assert with_replacements(asked, plan, lost) == asked


def test_only_first_servers_are_asked_for_metrics() -> None:
    running = at_rest(30, 30.0)
    fleet, snapshot = plan_fleet(running.snapshot), running.snapshot
    first = {item.name for item in snapshot.workloads if answers(item)}
    assert first == {chain.name for chain in only(fleet).chains} < {item.name for item in snapshot.workloads}
    loads = tuple(
        PodLoad("chat", pod.name, 3.0, running=5.0, waiting=0.0, before=5.0, ended=0.5, stays=5.0, stayed=0.5)
        for pod in snapshot.pods
        if pod.placement in first
    )
    (found,) = readings(fleet, snapshot, Load(1000.0, 60.0, loads))
    assert (found.trouble, found.windows["chat"].whole) == ("", True)
    assert found.windows["chat"].requests_per_minute == 30.0 * len(first)
