"""The largest fleet that is promised: of the promised size, always the same, and nothing in it is wrong."""

from dataclasses import replace
from functools import cache

from benchmarks import large_fleet
from plimsoll.planning import plan_fleet
from plimsoll.planning.snapshot import Snapshot


@cache
def whole() -> Snapshot:
    return large_fleet.snapshot()


def test_size():
    snapshot = whole()
    sizes = (snapshot.deployments, snapshot.pools, snapshot.nodes or (), snapshot.pods)
    assert tuple(map(len, sizes)) == (1000, 200, 5000, 20_000)


def test_every_node_is_in_one_pool_and_nothing_is_found_wrong():
    plan = plan_fleet(replace(whole(), deployments=(), pods=()))
    assert plan.all_findings() == ()
    assert sum(pool.nodes for pool in plan.pools) == 5000
