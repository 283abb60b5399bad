"""The loop's pace: what moved just now rests, also after a restart, and pods on a node that is gone are replaced."""

import copy
from importlib import util
from pathlib import Path

import pytest

from plimsoll.controller.kinds import DEPLOYMENT, NODE, POD
from plimsoll.controller.pacing import last_move
from plimsoll.planning.snapshot import TrafficDemand

_spec = util.spec_from_file_location("loop_world", Path(__file__).with_name("test_loop.py"))
_loop = util.module_from_spec(_spec)
_spec.loader.exec_module(_loop)
LLM, POLICY, World, settle = _loop.LLM, _loop.POLICY, _loop.World, _loop.settle
LESS = 2500.0
"""Requests per minute for which one replica less does than for 3,000: a plan that takes away many would be held."""


@pytest.fixture
def world():
    made = World()
    made.see(POLICY, {"metadata": {"name": "default", "generation": 2}, "spec": {"routing": {"propagationSeconds": 0}}})
    return made


def expect(world, per_minute, *, fresh=True):
    world.store.expect((TrafficDemand("chat", "assistant", "default", per_minute, per_minute, fresh),), {})


def replicas(world):
    return sum(item["spec"]["replicas"] for item in world.store.live(DEPLOYMENT))


def some_time_ago(world):
    """The last move was done long ago."""
    changed = copy.deepcopy(next(item for item in world.cluster.objects.values() if item["kind"] == LLM.name))
    for condition in changed["status"]["conditions"]:
        condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    world.see(LLM, changed)


async def busy(world):
    """Grown for observed demand, and settled."""
    expect(world, 3000.0)
    await settle(world)
    assert replicas(world) > 1
    return replicas(world)


async def test_what_grew_just_now_does_not_shrink_for_less_traffic_until_it_has_rested(world):
    grown = await busy(world)
    expect(world, LESS)
    await settle(world)
    world.restart()
    await settle(world)
    assert replicas(world) == grown
    some_time_ago(world)
    await settle(world)
    assert replicas(world) == grown - 1


async def test_doubtful_metrics_take_nothing_away(world):
    grown = await busy(world)
    some_time_ago(world)
    expect(world, LESS, fresh=False)
    await settle(world)
    assert replicas(world) == grown


async def test_who_rests_grows_at_once(world):
    grown = await busy(world)
    expect(world, 6000.0)
    await world.turn()
    assert replicas(world) > grown


async def test_what_people_declare_is_followed_at_once(world):
    grown = await busy(world)
    expect(world, LESS)
    traffic = [{"name": "default", "requestsPerMinute": 61, "tokens": {"input": 500, "output": 100}}]
    world.see(LLM, world.deployment("assistant", generation=2, traffic=traffic))
    await settle(world)
    assert replicas(world) == grown - 1


async def test_pods_on_a_node_that_is_gone_are_replaced_before_kubernetes_deletes_them(world):
    await settle(world)
    (workload,) = world.store.live(DEPLOYMENT)
    labels = workload["spec"]["template"]["metadata"]["labels"]
    world.see(
        POD,
        {
            "metadata": {"name": "one", "namespace": "chat", "labels": labels},
            "spec": {"nodeName": "n0", "containers": workload["spec"]["template"]["spec"]["containers"]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}]},
        },
    )
    await world.turn()
    assert replicas(world) == 1
    found = next(item for item in world.cluster.objects.values() if item["metadata"]["name"] == "n0")
    gone = copy.deepcopy({key: found[key] for key in ("metadata", "status")})
    gone["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    world.see(NODE, gone)
    await world.turn()
    assert replicas(world) == 2
    await world.turn()
    assert replicas(world) == 2, "not one more with every turn"
    world.store.drop(POD, "uid-Pod-one")
    world.pods_become_ready()
    await world.turn()
    await world.turn()
    assert replicas(world) == 1


def test_a_last_move_is_read_from_the_status():
    item = {"metadata": {"name": "a", "namespace": "b", "generation": 2}, "status": {}}
    now = _loop.datetime(2026, 11, 22, 3, 0, tzinfo=_loop.UTC)
    assert last_move(item, now).settled_seconds is None
    condition = {"type": "Rebalancing", "lastTransitionTime": "2026-11-22T02:50:00Z", "observedGeneration": 2}
    for status, reason, seconds in (("False", "Settled", 600.0), ("True", "InTransition", None)):
        item["status"] = {"conditions": [{**condition, "status": status, "reason": reason}]}
        found = last_move(item, now)
        assert (found.settled_seconds, found.answered) == (seconds, True)
    item["metadata"]["generation"] = 3
    assert not last_move(item, now).answered
