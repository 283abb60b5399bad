"""The state after a plan was carried out, as the benchmarks build it."""

from dataclasses import replace

import pytest

from benchmarks import fleet
from benchmarks.running import NoRoomError, everything_running
from tests.unit.planning.fleets import plan as plan_fleet


def test_every_replica_runs_on_a_node_of_its_pool():
    snapshot = fleet.snapshot(fleet.deployments()[:2])
    plan = plan_fleet(snapshot)
    running = everything_running(snapshot, plan)
    placements = {part.name: part for item in plan.deployments for part in item.placements}
    assert len(running.pods) == sum(part.replicas for part in placements.values())
    assert all(pod.node.startswith(placements[pod.placement].option.pool) for pod in running.pods)
    assert {item.name: item.ready_replicas for item in running.workloads} == {
        name: part.replicas for name, part in placements.items()
    }


def test_without_room_it_says_so():
    snapshot = fleet.snapshot(fleet.deployments()[:1])
    plan = plan_fleet(snapshot)
    with pytest.raises(NoRoomError, match="no room for replica 0"):
        everything_running(replace(snapshot, nodes=()), plan)
