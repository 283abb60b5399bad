"""Replicas that no node holds: when they may take several, what they cost, and what is said when they may not."""

from dataclasses import replace
from itertools import product

import pytest

from plimsoll.catalog import load_catalog
from plimsoll.performance import ANALYTIC_STEPS, Parallelism, ReplicaShape, node_hop
from plimsoll.planning.digest import inputs_digest
from plimsoll.planning.dominance import option_key
from plimsoll.planning.plan import DeploymentState, FleetPlan, Placement
from plimsoll.planning.snapshot import Snapshot
from plimsoll.planning.variants import nodes_needed
from tests.unit.planning.fleets import applied, deployment, finding, nodes, plan, plan_of, pool, replicas, snapshot

LLAMA_405B = "meta-llama/Llama-3.1-405B-Instruct"


def facts(count: int = 4, *, several: bool = True, rate: int = 30, network: int | None = None, **spec) -> Snapshot:
    """405 billion parameters in 16 bits: more than 8 GPUs of 80 GB hold."""
    interconnect = {} if network is None else {"interconnect": {"interNodeGigabitsPerSecond": network}}
    return snapshot(
        pool("h100", "H100-SXM-80GB", "2.50", **interconnect),
        deployment(rate=rate, model=LLAMA_405B, **spec),
        nodes=nodes(count, "H100-SXM-80GB", 8, prefix="h100"),
        several_nodes=several,
    )


def only(fleet: FleetPlan) -> Placement:
    (placement,) = plan_of(fleet).placements
    return placement


def test_a_model_that_no_node_holds_takes_two() -> None:
    fleet = plan(facts())
    placement = only(fleet)
    assert plan_of(fleet).state is DeploymentState.PLANNED
    assert (placement.option.parallelism, placement.option.nodes) == (Parallelism(8, 2), 2)
    assert placement.option.gpus_per_pod == 8
    assert placement.price_per_hour == pytest.approx(16 * 2.5)
    assert fleet.pools[0].gpus_planned == 16


def test_without_leader_worker_set_the_reason_says_what_to_install() -> None:
    fleet = plan(facts(several=False))
    assert plan_of(fleet).placements == ()
    message = finding(fleet, "FitsNowhere").message
    assert "needs 2 nodes per replica: install LeaderWorkerSet" in message


@pytest.mark.parametrize("limited", [False, True])
def test_a_pool_of_one_node_cannot_hold_it_and_the_reason_says_so(limited: bool) -> None:
    stock = nodes(3 if limited else 1, "H100-SXM-80GB", 8, prefix="h100")
    given = snapshot(
        pool("h100", "H100-SXM-80GB", "2.50", **({"nodes": {"max": 1}} if limited else {})),
        deployment(rate=30, model=LLAMA_405B),
        nodes=stock,
        several_nodes=True,
    )
    assert "needs 2 nodes per replica and GPUNodePool h100 has one" in finding(plan(given), "FitsNowhere").message


def test_two_nodes_with_half_of_their_gpus_free_do_not_hold_it() -> None:
    given = facts(2)
    halves = tuple(replace(item, allocatable={**item.allocatable, "cpu": 4.0}) for item in given.nodes or ())
    fleet = plan(replace(given, nodes=halves))
    assert plan_of(fleet).placements == ()
    assert "16 more free GPUs in GPUNodePool h100" in finding(fleet, "InsufficientCapacity").message


def test_a_running_group_is_kept_and_counts_on_both_of_its_nodes() -> None:
    given = facts(3)
    first = plan(given)
    running = applied(given, first)
    assert sorted(pod.node for pod in running.pods) == ["h100-0", "h100-1"]
    again = plan(running)
    assert replicas(again) == replicas(first)
    assert again.pools[0].gpus_running == 16


def test_a_group_that_starts_is_not_planned_a_second_time() -> None:
    given = facts(4)
    first = plan(given)
    started = applied(given, first)
    half = replace(
        started, pods=started.pods[:1], workloads=tuple(replace(w, ready_replicas=0) for w in started.workloads)
    )
    assert replicas(plan(half)) == replicas(first)


def test_after_the_loss_of_a_node_the_group_moves_to_those_that_are_left() -> None:
    given = facts(3)
    running = applied(given, plan(given))
    lost = tuple(item for item in running.nodes or () if item.name != "h100-1")
    gone = replace(
        running, nodes=lost, pods=(), workloads=tuple(replace(w, ready_replicas=0) for w in running.workloads)
    )
    fleet = plan(gone)
    assert plan_of(fleet).state is DeploymentState.PLANNED
    assert replicas(fleet) == replicas(plan(given))


def test_tensor_parallelism_never_leaves_a_node() -> None:
    given = facts(placement={"parallelism": {"tensor": [16], "pipeline": [1, 2]}})
    message = finding(plan(given), "FitsNowhere").message
    assert "needs 16 GPUs in one node and a node of the pool has 8" in message


@pytest.mark.parametrize(("gpus", "tensor", "pipeline"), list(product((1, 2, 3, 4, 6, 8), (1, 2, 4, 8), range(1, 9))))
def test_pods_hold_equally_many_whole_stages_and_as_many_as_fit(gpus: int, tensor: int, pipeline: int) -> None:
    count = nodes_needed(Parallelism(tensor, pipeline), gpus)
    possible = [n for n in range(1, pipeline + 1) if pipeline % n == 0 and pipeline // n * tensor <= gpus]
    assert count == min(possible, default=0)


def test_a_replica_on_one_node_is_named_as_before_and_one_on_two_otherwise() -> None:
    option = only(plan(facts())).option
    assert "nodes" not in repr(option)
    assert option_key(option) == option_key(replace(option, nodes=1))
    names = {only(plan(facts(count))).name for count in (2, 4)}
    assert len(names) == 1, "the number of nodes that there are does not count"
    (name,) = names
    assert len(name) <= 47, "a StatefulSet of workers adds its number and a hash within 63 characters"


def test_whether_groups_are_possible_is_part_of_the_digest() -> None:
    assert inputs_digest(facts(several=True)) != inputs_digest(facts(several=False))


def test_a_fleet_of_single_node_replicas_does_not_change_with_leader_worker_set() -> None:
    def small(several: bool) -> Snapshot:
        return snapshot(pool(), deployment(rate=600), nodes=nodes(4), several_nodes=several)

    without, with_ = plan(small(several=False)), plan(small(several=True))
    assert replicas(without) == replicas(with_)


def test_a_slower_network_makes_tokens_later() -> None:
    def predicted(network: int | None) -> dict[str, float]:
        (item,) = plan_of(plan(facts(network=network))).classes
        return {figure.metric: figure.predicted_milliseconds for figure in item.latency}

    slow, usual, fast = predicted(10), predicted(None), predicted(400)
    assert slow == usual, "10 Gbit/s where nobody says"
    assert fast["ttft"] < slow["ttft"]
    assert fast["tpot"] < slow["tpot"]


def test_each_crossing_of_the_network_costs_a_hop() -> None:
    catalog = load_catalog()
    gpu = catalog.gpu("H100-SXM-80GB")
    link = node_hop(gpu, 100)
    shape = ReplicaShape(catalog.model(LLAMA_405B), catalog.precision("bf16"), gpu, Parallelism(4, 4), 8192)
    inside = ANALYTIC_STEPS.terms(shape)
    across = ANALYTIC_STEPS.terms(replace(shape, nodes=2, network=link))
    everywhere = ANALYTIC_STEPS.terms(replace(shape, nodes=4, network=link))
    assert inside.step < across.step < everywhere.step
    assert everywhere.step - inside.step == pytest.approx(3 * (across.step - inside.step))
    assert across.token > inside.token
