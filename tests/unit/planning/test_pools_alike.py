"""Pools that differ in price and place alone are asked about once, and told apart where it counts."""

import pytest

from plimsoll.planning import Evaluator, plan_fleet, shortlist
from plimsoll.planning.plan import DeploymentState
from plimsoll.planning.planner import decide_fleet
from tests.unit.planning.fleets import applied, deployment, nodes, policy, pool, replicas, snapshot

REGIONS = ("east", "north", "south", "west")
PRICES = dict(zip(REGIONS, ("1.00", "1.05", "1.10", "1.20"), strict=True))


def regional_pools(regions=REGIONS):
    return [
        pool(f"l40s-{region}", per_hour=PRICES[region], nodeSelector={"matchLabels": {"region": region}})
        for region in regions
    ]


def regional_nodes(each=1, gpus=1, regions=REGIONS):
    return [node for region in regions for node in nodes(each, "L40S", gpus, prefix=f"l40s-{region}", region=region)]


def deployments(count, **spec):
    return [deployment(f"assistant-{number}", rate=60, **spec) for number in range(count)]


@pytest.fixture(params=[False, True], ids=["all pools", "short list"])
def searched(request, monkeypatch):
    """Plans with all pools, and with the short list that a large fleet gets."""
    if request.param:
        monkeypatch.setattr(shortlist, "MANY_OPTIONS", 0)
    return lambda facts: plan_fleet(facts, Evaluator())


def pools_used(fleet):
    return sorted(part.option.pool for item in fleet.deployments for part in item.placements)


def test_the_cheapest_of_pools_alike_is_used_first(searched):
    fleet = searched(snapshot(*regional_pools(), *deployments(1), nodes=regional_nodes()))
    assert pools_used(fleet) == ["l40s-east"]


def test_dearer_pools_are_used_when_the_cheaper_ones_are_full(searched):
    fleet = searched(snapshot(*regional_pools(), *deployments(3), nodes=regional_nodes()))
    assert pools_used(fleet) == ["l40s-east", "l40s-north", "l40s-south"]
    assert all(item.state is DeploymentState.PLANNED for item in fleet.deployments)


def test_what_cannot_be_served_anywhere_is_short_after_all_pools_were_looked_at(searched):
    fleet = searched(snapshot(*regional_pools(), *deployments(5), nodes=regional_nodes()))
    assert pools_used(fleet) == [f"l40s-{region}" for region in REGIONS]
    assert [item.state for item in fleet.deployments].count(DeploymentState.SHORT) == 1


def test_a_deployment_gets_only_the_pools_that_it_may_use(searched):
    chosen = deployments(2, placement={"pools": ["l40s-west", "l40s-south"]})
    fleet = searched(snapshot(*regional_pools(), *chosen, nodes=regional_nodes()))
    assert pools_used(fleet) == ["l40s-south", "l40s-west"]


def test_what_runs_in_a_dear_pool_stays_where_moving_does_not_pay(searched):
    dear = snapshot(*regional_pools(("west",)), *deployments(1), nodes=regional_nodes(regions=("west",)))
    before = searched(dear)
    settled = applied(dear, before)
    wider = snapshot(
        *regional_pools(("south", "west")),
        *deployments(1),
        policy(rebalance={"minimalSaving": "0.2"}),
        nodes=regional_nodes(regions=("south", "west")),
        pods=settled.pods,
        workloads=settled.workloads,
    )
    assert replicas(searched(wider)) == replicas(before)


def test_a_beaten_option_stays_a_choice_only_where_it_runs(searched):
    """Two GPUs as one replica of tensor degree 2 serve less than two replicas; whoever runs the former keeps it."""
    facts = snapshot(
        *regional_pools(), *deployments(1, placement={"parallelism": {"tensor": [2]}}), nodes=regional_nodes(gpus=4)
    )
    before = applied(facts, searched(facts))
    freed = snapshot(
        *regional_pools(),
        *deployments(1),
        policy(rebalance={"minimalSaving": "0.9"}),
        nodes=before.nodes,
        pods=before.pods,
        workloads=before.workloads,
    )
    placements = searched(freed).deployments[0].placements
    assert {part.option.parallelism.tensor for part in placements} == {2}
    assert {part.option.pool for part in placements} == {"l40s-east"}


def test_an_option_that_misses_its_target_is_named_once_for_all_pools_alike():
    facts = snapshot(
        *regional_pools(), *deployments(1), policy(defaultSLO={"ttft": {"percentile": 95, "milliseconds": 1}})
    )
    found = searched_rejections(facts)
    assert len(found) == len(set(found))
    assert all("(3 more pools alike)" in option for option in found)


def searched_rejections(facts):
    plan = plan_fleet(facts, Evaluator())
    return [item.option for one in plan.deployments for traffic in one.classes for item in traffic.rejected]


def test_the_short_list_changes_no_cost_and_no_bound(monkeypatch):
    facts = snapshot(*regional_pools(), *deployments(6), nodes=regional_nodes(each=2))
    whole = plan_fleet(facts, Evaluator())
    monkeypatch.setattr(shortlist, "MANY_OPTIONS", 0)
    short = plan_fleet(facts, Evaluator())
    assert short.cost_per_hour == pytest.approx(whole.cost_per_hour)
    assert short.lower_bound_per_hour == pytest.approx(whole.lower_bound_per_hour, rel=1e-3)


def test_where_one_runs_is_offered_to_no_other(monkeypatch):
    """What runs must not change what is searched, or a plan that is applied would not be its own."""
    monkeypatch.setattr(shortlist, "MANY_OPTIONS", 0)
    one, other = deployments(2)
    stock = regional_nodes(each=2)
    bound = deployment(one.name, rate=60, placement={"pools": ["l40s-west"]})
    before = snapshot(*regional_pools(), bound, nodes=stock)
    workloads = applied(before, plan_fleet(before, Evaluator())).workloads
    found = decide_fleet(snapshot(*regional_pools(), one, other, nodes=stock, workloads=workloads), Evaluator()).fleet
    offered = [
        {found.candidates[option].pool.name for option in range(*found.options_of(number).indices(10_000))}
        for number in range(2)
    ]
    assert offered == [{"l40s-east", "l40s-north", "l40s-west"}, {"l40s-east", "l40s-north"}]
