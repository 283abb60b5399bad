"""The benchmarks' fleet: always the same, of the promised size, and nothing in it is wrong."""

from collections import Counter
from dataclasses import replace
from functools import cache

from benchmarks import fleet
from plimsoll.planning.plan import DeploymentState
from plimsoll.planning.snapshot import Snapshot
from tests.unit.planning.fleets import plan as plan_fleet


@cache
def whole() -> Snapshot:
    return fleet.snapshot()


def test_the_same_fleet_every_time():
    assert fleet.deployments() == fleet.deployments()
    assert fleet.snapshot() == whole()


def test_size():
    snapshot = whole()
    assert len(snapshot.deployments) == 300
    assert len(snapshot.pools) == 20
    assert len(snapshot.slos) == 20
    assert len(snapshot.nodes or ()) == 500
    assert {len(item.spec.traffic) for item in snapshot.deployments} == {1, 2, 3}
    assert len({model.name for item in snapshot.deployments for model in item.spec.models}) == 10
    rates = [traffic.requests_per_minute for item in snapshot.deployments for traffic in item.spec.traffic]
    assert min(rates) >= 6
    assert max(rates) == 600


def test_every_node_is_in_one_pool_and_nothing_is_found_wrong():
    snapshot = replace(whole(), deployments=())
    plan = plan_fleet(snapshot)
    assert plan.all_findings() == ()
    assert {pool.name: pool.nodes for pool in plan.pools} == {pool.name: pool.nodes for pool in fleet.POOLS}


def test_a_sample_of_every_model_can_be_served():
    snapshot = whole()
    sample = {item.spec.models[0].name: item for item in snapshot.deployments}
    plan = plan_fleet(replace(snapshot, deployments=tuple(sample.values())))
    assert Counter(item.state for item in plan.deployments) == {DeploymentState.PLANNED: len(fleet.MODELS)}


def test_doubled_traffic_of_the_first_class():
    before = next(item for item in fleet.deployments() if len(item["spec"]["traffic"]) > 1)
    after = fleet.doubled(before)
    first, *rest = after["spec"]["traffic"]
    assert first["requestsPerMinute"] == 2 * before["spec"]["traffic"][0]["requestsPerMinute"]
    assert rest == before["spec"]["traffic"][1:]
