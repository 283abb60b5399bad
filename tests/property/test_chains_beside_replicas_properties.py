"""Chains beside replicas: limits hold, and the fleet is never the worse for having weighed them against each other."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.planning import Evaluator, plan_fleet
from plimsoll.planning.chained_fleet import Turn, joined, plan_chained
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.planner import assembled, decide_fleet
from plimsoll.planning.snapshot import Snapshot
from tests.unit.planning.chain_cluster import REGIONS, deployment
from tests.unit.planning.mixed_fleet import applied, excess, gpus, mixed, of_priority, small

PRIORITIES = st.sampled_from([0, 5, 10])
PRICES = st.sampled_from(["0.50", "0.60", "0.70", "2.50"])


@st.composite
def fleets(draw: st.DrawFn) -> Snapshot:
    """One or two chains that take three nodes or more, and replicas that may use some of the pools."""
    chains = [
        of_priority(deployment(draw(st.sampled_from([15, 40])), name), draw(PRIORITIES))
        for name in ("assistant", "other")[: draw(st.integers(1, 2))]
    ]
    others = [
        of_priority(
            small(
                draw(st.sampled_from([300, 1500, 2500])),
                name,
                pools=draw(st.lists(st.sampled_from(REGIONS), min_size=1, max_size=3, unique=True)),
            ),
            draw(PRIORITIES),
        )
        for name in ("small", "tiny")[: draw(st.integers(1, 2))]
    ]
    rules = draw(st.sampled_from([{}, {"budget": {"perHour": "4.00"}}]))
    facts = mixed(
        *chains,
        *others,
        prices=draw(st.lists(PRICES, min_size=3, max_size=3)),
        per_region=draw(st.integers(1, 4)),
        **rules,
    )
    running = draw(st.sets(st.sampled_from([one.name for one in facts.deployments]), max_size=2))
    part = replace(facts, deployments=tuple(one for one in facts.deployments if one.name in running))
    return replace(applied(part, plan_fleet(part)), deployments=facts.deployments) if running else facts


def by_name(facts: Snapshot) -> FleetPlan:
    """All chains before all others, one after the other."""
    chained = [one for one in facts.deployments if one.spec.placement.mode == "Chained"]
    found = plan_chained(facts, [Turn(one) for one in chained])
    return joined(assembled(decide_fleet(found.rest, Evaluator())), found, facts)


def assert_kept(facts: Snapshot, fleet: FleetPlan) -> None:
    """Decided from the plan and the nodes alone: GPUs, budget, layers, and that what runs stays beside what is new."""
    held = Counter(pod.node.rsplit("-", 1)[0] for pod in facts.pods)
    running = {item.name: item.replicas for item in facts.workloads}
    new: Counter[str] = Counter()
    for plan in fleet.deployments:
        for item in plan.placements:
            new[item.option.pool] += max(0, item.replicas - running.get(item.name, 0)) * item.option.parallelism.gpus
        for chain in plan.chains:
            own = {item.name: item.option.stage for item in plan.placements}
            layers = [layer for name in chain.servers if (stage := own[name]) for layer in _layers(stage)]
            assert layers == list(range(80))
    nodes = Counter(node.name.rsplit("-", 1)[0] for node in facts.nodes or ())
    assert all(new[name] + held[name] <= nodes[name] for name in new)
    servers = [item.option.stage.node for plan in fleet.deployments for item in plan.placements if item.option.stage]
    assert len(servers) == len(set(servers))
    assert facts.policy is not None
    budget = facts.policy.spec.budget.per_hour
    prices = {pool.name: float(pool.spec.price_per_gpu_hour) for pool in facts.pools}
    runs = sum(prices[item.option["pool"]] * item.replicas for item in facts.workloads)
    if budget is not None:
        assert fleet.cost_per_hour <= max(float(budget), runs) + 1e-6


def _layers(stage: object) -> range:
    first, count = getattr(stage, "first_layer"), getattr(stage, "layers")  # noqa: B009
    return range(first, first + count)


@settings(max_examples=12)
@given(fleets())
def test_limits_hold_and_nothing_is_lost_against_chains_first(facts: Snapshot) -> None:
    fleet, before = plan_fleet(facts), by_name(facts)
    assert_kept(facts, fleet)
    assert plan_fleet(facts) == fleet
    short, was_short = excess(facts, fleet), excess(facts, before)
    for priority in (10, 5, 0):
        less = was_short.get(priority, 0.0) - short.get(priority, 0.0)
        if abs(less) > 1e-2:
            assert less > 0, f"priority {priority} gets less than with all chains first: {gpus(fleet)}, {gpus(before)}"
            return
    if not any(value > 1e-6 for value in was_short.values()):
        assert fleet.objective_per_hour <= before.objective_per_hour * (1 + 1e-5) + 1e-6
