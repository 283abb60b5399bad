"""The store: equal facts give equal snapshots, and only what matters wakes the planner."""

import copy
import itertools

import kopf

from plimsoll.controller.extract import facts_of
from plimsoll.controller.feed import operator_settings, register
from plimsoll.controller.kinds import ALL, DEPLOYMENT, LIMIT_RANGE, NAMESPACE, NODE, POD, RESOURCE_QUOTA, RESOURCES
from plimsoll.controller.metrics import Metrics
from plimsoll.controller.store import Store

LLM, PLAN = RESOURCES["LLMDeployment"], RESOURCES["PlacementPlan"]


def node(name, version="1", ready="True"):
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": version},
        "status": {"conditions": [{"type": "Ready", "status": ready}], "allocatable": {"cpu": "4"}},
    }


def pod(name, phase="Running", version="1"):
    return {
        "metadata": {"name": name, "namespace": "a", "uid": f"uid-{name}", "resourceVersion": version},
        "spec": {"nodeName": "n1", "containers": []},
        "status": {"phase": phase},
    }


def llm(name, version="1", **metadata):
    return {
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {
            "name": name,
            "namespace": "a",
            "uid": f"uid-{name}",
            "generation": 1,
            "resourceVersion": version,
            **metadata,
        },
        "spec": {
            "models": [{"name": "meta-llama/Llama-3.1-8B-Instruct"}],
            "traffic": [{"name": "default", "requestsPerMinute": 1, "tokens": {"input": 10, "output": 10}}],
        },
    }


def test_the_order_of_events_does_not_show_in_the_snapshot():
    events = [(NODE, node("n1")), (NODE, node("n2")), (POD, pod("p1")), (LLM, llm("x")), (LLM, llm("y"))]
    snapshots = []
    for order in itertools.permutations(events):
        store = Store()
        for kind, manifest in order:
            store.put(kind, manifest)
        snapshots.append(store.snapshot())
    assert all(snapshot == snapshots[0] for snapshot in snapshots)
    assert [item.name for item in snapshots[0].deployments] == ["x", "y"]


def test_a_heartbeat_does_not_wake():
    store = Store()
    assert store.put(NODE, node("n1"))
    store.clear_dirty()
    assert not store.put(NODE, node("n1", version="2"))
    assert not store.dirty
    assert store.put(NODE, node("n1", version="3", ready="False"))
    assert store.dirty


def test_our_own_status_does_not_wake_but_is_kept_for_comparing():
    store = Store()
    store.put(LLM, llm("x"))
    store.clear_dirty()
    assert not store.put(LLM, {**llm("x", version="2"), "status": {"costPerHour": "1.10"}})
    assert not store.dirty
    assert store.live(LLM)[0]["status"] == {"costPerHour": "1.10"}


def test_an_older_version_does_not_overwrite_a_newer_one():
    store = Store()
    store.put(NODE, node("n1", version="10", ready="False"))
    assert not store.put(NODE, node("n1", version="9"))
    assert store.snapshot().nodes[0].unschedulable_reason == "not ready"


def test_a_pod_that_finishes_leaves_the_snapshot_but_stays_known():
    store = Store()
    store.put(POD, pod("p1"))
    store.clear_dirty()
    assert store.put(POD, pod("p1", phase="Succeeded", version="2"))
    assert store.snapshot().pods == ()
    assert store.uids(POD) == {"uid-p1"}
    store.clear_dirty()
    assert not store.drop(POD, "uid-p1")
    assert not store.dirty


def test_a_deployment_being_deleted_is_no_longer_planned():
    store = Store()
    store.put(LLM, llm("x"))
    assert store.put(LLM, llm("x", version="2", deletionTimestamp="2026-01-01T00:00:00Z"))
    assert store.snapshot().deployments == ()
    assert store.live(LLM) == []


def test_a_namesake_with_another_uid_is_another_object():
    store = Store()
    store.put(LLM, llm("x"))
    second = copy.deepcopy(llm("x"))
    second["metadata"]["uid"] = "other"
    store.put(LLM, second)
    store.drop(LLM, "uid-x")
    assert [item.metadata.uid for item in store.snapshot().deployments] == ["other"]


def test_plan_records_never_wake():
    store = Store()
    record = {"metadata": {"name": "plan-000001", "uid": "p", "resourceVersion": "1"}}
    assert not store.put(PLAN, record)
    assert not store.dirty
    assert store.live(PLAN)[0]["metadata"]["name"] == "plan-000001"


def test_an_invalid_resource_stands_apart():
    store = Store()
    broken = llm("x")
    broken["spec"]["models"] = []
    store.put(LLM, broken)
    snapshot = store.snapshot()
    assert snapshot.deployments == ()
    assert [item.ref.name for item in snapshot.invalid] == ["x"]


def test_an_edit_of_one_of_our_objects_wakes():
    store = Store()
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "w", "namespace": "a", "uid": "d", "resourceVersion": "1"},
        "spec": {"replicas": 1, "paused": False},
    }
    store.put(DEPLOYMENT, deployment)
    store.clear_dirty()
    edited = copy.deepcopy(deployment)
    edited["metadata"]["resourceVersion"] = "2"
    edited["spec"]["paused"] = True
    assert store.put(DEPLOYMENT, edited)
    assert store.dirty


def test_a_heartbeat_counts_as_known_when_audits_compare_versions():
    store = Store()
    store.put(NODE, node("n1", "4"))
    assert store.stale(NODE, {"uid-n1": "7"}) == {"uid-n1"}
    store.put(NODE, node("n1", "7"))
    assert store.stale(NODE, {"uid-n1": "7", "uid-of-another": "9"}) == frozenset()


async def test_an_object_that_cannot_be_read_costs_no_other_and_looks_like_no_lost_event(monkeypatch):
    store, registry, settings = Store(), kopf.OperatorRegistry(), operator_settings()

    async def nothing():
        pass

    register(registry, settings, [LLM], store, Metrics(), on_cleanup=nothing)
    (handler,) = (item.fn for item in registry._watching.get_all_handlers() if item.id == "feed-llmdeployments")

    def poisoned(kind, manifest):
        if manifest["metadata"]["name"] == "x":
            raise ValueError("nobody has seen such an object before")
        return facts_of(kind, manifest)

    await handler(event={"type": None, "object": llm("x", "3")})
    before = store.snapshot()
    monkeypatch.setattr("plimsoll.controller.store.facts_of", poisoned)
    await handler(event={"type": "MODIFIED", "object": llm("x", "8", generation=2)})
    assert store.snapshot() == before
    assert store.stale(LLM, {"uid-x": "8"}) == frozenset()
    await handler(event={"type": "ADDED", "object": llm("y", "9")})
    assert [item.name for item in store.snapshot().deployments] == ["x", "y"]


def labelled(name, version="1", **labels):
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": version, "labels": labels}}


def quota(namespace, version="1", pods="4", used="0"):
    return {
        "metadata": {"name": "q", "namespace": namespace, "uid": f"uid-q-{namespace}", "resourceVersion": version},
        "spec": {"hard": {"pods": pods, "services": "9"}},
        "status": {"used": {"pods": used, "services": used}},
    }


def test_limits_of_namespaces_without_llmdeployments_are_left_out():
    store = Store()
    for namespace in ("a", "b"):
        store.put(NAMESPACE, labelled(namespace))
        store.put(RESOURCE_QUOTA, quota(namespace))
    store.put(LLM, llm("one"))
    snapshot = store.snapshot()
    assert [item.name for item in snapshot.namespaces] == ["a"]
    assert [item.namespace for item in snapshot.quotas] == ["a"]


def test_what_pods_use_of_a_quota_does_not_wake_and_its_limits_do():
    store = Store()
    store.put(RESOURCE_QUOTA, quota("a"))
    store.clear_dirty()
    assert not store.put(RESOURCE_QUOTA, quota("a", "2", used="3"))
    assert store.put(RESOURCE_QUOTA, quota("a", "3", used="9")), "no Service is left"
    assert store.put(RESOURCE_QUOTA, quota("a", "4", pods="5"))


def test_labels_of_a_namespace_wake_and_its_annotations_do_not():
    store = Store()
    store.put(NAMESPACE, labelled("a"))
    changed = labelled("a", "2")
    changed["metadata"]["annotations"] = {"note": "x"}
    assert not store.put(NAMESPACE, changed)
    assert store.put(NAMESPACE, labelled("a", "3", team="chat"))


def test_confined_to_namespaces_only_what_counts_everywhere_is_listed_everywhere():
    confined = {kind.name for kind in ALL if kind.scopes(("a", "b")) == ("a", "b")}
    everywhere = {kind.name for kind in ALL if kind.scopes(("a", "b")) == ("",)}
    assert {
        "LLMDeployment",
        "InferenceSLO",
        "Deployment",
        "ConfigMap",
        RESOURCE_QUOTA.name,
        LIMIT_RANGE.name,
    } <= confined
    assert everywhere == {"GPUNodePool", "ModelProfile", "PlacementPolicy", "PlacementPlan", "Node", "Pod", "Namespace"}
    assert all(kind.scopes(()) == ("",) for kind in ALL)


def test_a_snapshot_shows_every_change_although_what_has_not_changed_is_kept():
    store = Store()
    for kind, manifest in ((NODE, node("n1")), (POD, pod("p1")), (LLM, llm("x"))):
        store.put(kind, manifest)
    first = store.snapshot()
    store.put(NODE, node("n1", version="2", ready="False"))
    store.put(POD, pod("p2"))
    second = store.snapshot()
    assert [item.unschedulable_reason for item in second.nodes] == ["not ready"]
    assert [item.name for item in second.pods] == ["p1", "p2"]
    assert second.deployments is first.deployments
    store.drop(POD, "uid-p1")
    assert [item.name for item in store.snapshot().pods] == ["p2"]
