"""The largest fleet that is promised: of the promised size, always the same, and nothing in it is wrong."""

from dataclasses import replace

from benchmarks import large_fleet
from plimsoll.planning import plan_fleet


def test_size():
    snapshot = large_fleet.snapshot()
    sizes = (snapshot.deployments, snapshot.pools, snapshot.nodes or (), snapshot.pods)
    assert tuple(map(len, sizes)) == (1000, 200, 5000, 20_000)


def test_every_node_is_in_one_pool_and_nothing_is_found_wrong():
    snapshot = replace(large_fleet.snapshot(large_fleet.deployments()[:1]), pods=())
    plan = plan_fleet(replace(snapshot, deployments=()))
    assert plan.all_findings() == ()
    assert sum(pool.nodes for pool in plan.pools) == 5000
