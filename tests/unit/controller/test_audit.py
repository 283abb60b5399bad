"""The gate before the first plan, and the broom."""

import asyncio
from importlib import util
from pathlib import Path

from plimsoll.controller.audit import audit, until_synced
from plimsoll.controller.kinds import NODE, POD
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.store import Store

_spec = util.spec_from_file_location("controller_fakes", Path(__file__).with_name("fakes.py"))
fakes = util.module_from_spec(_spec)
_spec.loader.exec_module(fakes)


def node(uid):
    return {"metadata": {"name": uid, "uid": uid, "resourceVersion": "1"}}


async def test_no_plan_before_every_listed_object_is_known():
    cluster, store = fakes.FakeCluster(), Store()
    cluster.listed = {"Node": ["n1", "n2"]}
    store.put(NODE, node("n1"))
    gate = asyncio.create_task(until_synced(cluster, store, [NODE, POD]))
    await asyncio.sleep(0.5)
    assert not gate.done(), "one node is still missing"
    store.put(NODE, node("n2"))
    await asyncio.wait_for(gate, 5)


async def test_an_empty_kind_does_not_hold_the_gate():
    await asyncio.wait_for(until_synced(fakes.FakeCluster(), Store(), [NODE, POD]), 1)


async def test_an_object_that_vanishes_meanwhile_does_not_hold_the_gate():
    cluster, store = fakes.FakeCluster(), Store()
    cluster.listed = {"Node": ["n1"]}
    gate = asyncio.create_task(until_synced(cluster, store, [NODE]))
    await asyncio.sleep(0.1)
    cluster.listed = {}
    await asyncio.wait_for(gate, 5)


async def test_a_ghost_is_dropped_and_counted():
    cluster, store, metrics = fakes.FakeCluster(), Store(), Metrics()
    cluster.listed = {"Node": ["n2", "n3"]}
    store.put(NODE, node("n1"))
    store.put(NODE, node("n2"))
    await audit(cluster, store, [NODE], metrics, grace_seconds=0)
    assert store.uids(NODE) == {"n2"}
    value = metrics.registry.get_sample_value
    assert value("plimsoll_audit_drift_total", {"kind": "Node", "type": "ghost"}) == 1
    assert value("plimsoll_audit_drift_total", {"kind": "Node", "type": "missing"}) == 1
