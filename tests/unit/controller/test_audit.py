"""The gate before the first plan, and the broom."""

import asyncio

import pytest

from plimsoll.controller.audit import Drift, Drifted, audit, refuse_repetition, until_current, until_synced
from plimsoll.controller.kinds import CONFIG_MAP, NODE, POD
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.store import Store
from tests.unit.controller import fakes


def node(uid, version="1"):
    return {"metadata": {"name": uid, "uid": uid, "resourceVersion": version}}


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


async def test_what_the_watch_brings_within_the_grace_is_no_drift():
    cluster, store, metrics = fakes.FakeCluster(), Store(), Metrics()
    cluster.listed = {"Node": ["n1"]}
    auditing = asyncio.create_task(audit(cluster, store, [NODE], metrics, grace_seconds=0.2))
    await asyncio.sleep(0.05)
    store.put(NODE, node("n1"))
    assert await auditing == ()
    assert metrics.registry.get_sample_value("plimsoll_audit_drift_total", {"kind": "Node", "type": "missing"}) is None


async def test_an_object_whose_changes_do_not_come_is_drift():
    cluster, store, metrics = fakes.FakeCluster(), Store(), Metrics()
    cluster.listed = {"Node": {"n1": "7", "n2": "9"}}
    store.put(NODE, node("n1", "7"))
    store.put(NODE, node("n2", "10"))
    assert await audit(cluster, store, [NODE], metrics, grace_seconds=0) == ()
    cluster.listed = {"Node": {"n1": "8", "n2": "9"}}
    (drift,) = await audit(cluster, store, [NODE], metrics, grace_seconds=0)
    assert drift.stale == {"n1"}
    assert metrics.registry.get_sample_value("plimsoll_audit_drift_total", {"kind": "Node", "type": "stale"}) == 1


def drift(kind=NODE, missing=(), ghosts=(), stale=()):
    return Drift(kind, frozenset(missing), frozenset(ghosts), frozenset(stale))


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (drift(missing=["n1"]), drift(missing=["n1", "n2"])),
        (drift(stale=["n1"]), drift(stale=["n1"])),
        (drift(ghosts=["n1"]), drift(ghosts=["n2"])),
    ],
)
def test_the_same_drift_in_two_audits_in_a_row_is_the_end(earlier, later):
    with pytest.raises(Drifted, match="kind Node"):
        refuse_repetition([earlier], [later])


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (None, drift(missing=["n1"])),
        (drift(missing=["n1"]), None),
        (drift(missing=["n1"]), drift(missing=["n2"])),
        (drift(stale=["n1"]), drift(missing=["n1"])),
        (drift(ghosts=["n1"]), drift(POD, ghosts=["p1"])),
        (drift(ghosts=["n1"]), drift(missing=["n1"])),
    ],
)
def test_drift_that_goes_or_differs_is_none(earlier, later):
    refuse_repetition([earlier] if earlier else [], [later] if later else [])


async def test_who_takes_over_waits_for_the_newest_version_of_what_operators_write():
    cluster, store = fakes.FakeCluster(), Store()
    document = {"metadata": {"name": "r", "namespace": "chat", "uid": "c1", "resourceVersion": "5"}}
    cluster.listed = {"ConfigMap": {"c1": "6"}, "Node": {"n1": "9"}}
    store.put(CONFIG_MAP, document)
    store.put(NODE, node("n1"))
    await asyncio.wait_for(until_synced(cluster, store, [CONFIG_MAP, NODE]), 1)
    gate = asyncio.create_task(until_current(cluster, store, [CONFIG_MAP, NODE]))
    await asyncio.sleep(0.5)
    assert not gate.done(), "the former leader's last write is not known yet"
    store.put(CONFIG_MAP, {"metadata": {**document["metadata"], "resourceVersion": "6"}})
    await asyncio.wait_for(gate, 5)
