"""What goes when something is deleted: pods only with their LLMDeployment, with or without the operator."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from plimsoll.api import KINDS
from tests.control_plane.bench import (
    PROPAGATION_SECONDS,
    Bench,
    Manifest,
    document,
    key,
    llm_deployment,
    policy,
    pool,
    read_crds,
    slo,
)

NAMESPACE = "chat"
NAMES = ("first", "second", "third")
QUIET_SECONDS = PROPAGATION_SECONDS + 2.0
"""Long enough for a whole transition, if there were one."""
OWNED = "pods,replicasets,deployments,services,configmaps,poddisruptionbudgets"


def objects() -> list[Manifest]:
    """Three LLMDeployments with two replicas each, and what they refer to."""
    traffic = {
        "name": "default",
        "sloRef": {"name": "chatty"},
        "requestsPerMinute": 60,
        "tokens": {"input": 1000, "output": 250},
    }
    return [
        policy(),
        pool("l40s", "L40S", "1.10"),
        slo("chatty", NAMESPACE, ttft={"percentile": 95, "milliseconds": 2000}),
        *(llm_deployment(name, NAMESPACE, traffic=[traffic], placement={"replicas": {"min": 2}}) for name in NAMES),
    ]


@pytest.fixture(scope="module", autouse=True)
def running(bench: Bench) -> None:
    bench.apply(*objects())
    bench.wait("all planned", lambda: len(bench.settle()) == len(NAMES))


@pytest.fixture
def kept(bench: Bench) -> Iterator[None]:
    """No pod goes, no routing changes, and afterwards everything is as at the beginning."""
    uids, routing, epochs = bench.pod_uids(), _routing(bench), _epochs(bench)
    assert len(uids) == 2 * len(NAMES)
    yield
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        assert bench.pod_uids() == uids
        time.sleep(1)
    assert _routing(bench) == routing
    assert all(_epochs(bench)[name] >= epoch for name, epoch in epochs.items())
    bench.apply(*objects())
    bench.settle()
    assert bench.pod_uids() == uids


def _routing(bench: Bench) -> dict[str, Manifest]:
    """The documents without their epochs: one that somebody deletes comes back with a later one."""
    documents = {item["metadata"]["name"]: document(item) for item in bench.own("configmaps")}
    return {name: {**content, "epoch": None} for name, content in documents.items()}


def _epochs(bench: Bench) -> dict[str, int]:
    return {item["metadata"]["name"]: document(item)["epoch"] for item in bench.own("configmaps")}


def _owned_by(bench: Bench, name: str) -> list[Manifest]:
    return [item for item in bench.own(OWNED) if item["metadata"]["labels"].get("plimsoll.dev/llmdeployment") == name]


def test_nothing_has_finalizers(bench: Bench) -> None:
    found = [*bench.all(*(kind.names.plural for kind in KINDS)), *bench.own(OWNED)]
    assert len({item["kind"] for item in found}) >= 10
    assert [key(item) for item in found if item["metadata"].get("finalizers")] == []


@pytest.mark.usefixtures("kept")
def test_plans_can_be_deleted(bench: Bench) -> None:
    assert bench.all("placementplans")
    bench.cluster.kubectl("delete", "placementplans", "--all", "--timeout=10s")


@pytest.mark.usefixtures("kept")
def test_the_policy_can_be_deleted(bench: Bench) -> None:
    bench.cluster.kubectl("delete", "placementpolicy", "default", "--timeout=10s")


@pytest.mark.usefixtures("kept")
def test_an_slo_can_be_deleted(bench: Bench) -> None:
    bench.cluster.kubectl("delete", "inferenceslo", "chatty", f"--namespace={NAMESPACE}", "--timeout=10s")
    bench.wait_condition("llmdeployment", "first", NAMESPACE, "Planned", "False", "SLONotFound")


@pytest.mark.usefixtures("kept")
def test_a_pool_with_pods_can_be_deleted(bench: Bench) -> None:
    bench.cluster.kubectl("delete", "gpunodepool", "l40s", "--timeout=10s")
    condition = bench.wait_condition("llmdeployment", "first", NAMESPACE, "Planned", "False", "PoolMissing")
    assert "GPUNodePool l40s" in condition["message"]


@pytest.mark.usefixtures("kept")
def test_objects_deleted_by_others_come_back(bench: Bench) -> None:
    for kind in ("service", "configmap", "poddisruptionbudget"):
        mine = {item["metadata"]["name"]: item["metadata"]["uid"] for item in bench.own(kind)}
        bench.cluster.kubectl("delete", kind, f"--namespace={NAMESPACE}", *mine)

        def back(kind: str = kind, mine: dict[str, str] = mine) -> bool:
            found = {item["metadata"]["name"]: item["metadata"]["uid"] for item in bench.own(kind)}
            return found.keys() == mine.keys() and not set(found.values()) & set(mine.values())

        bench.wait(f"every {kind} again", back, 20)


def test_an_llmdeployment_takes_its_own_objects_with_it(bench: Bench) -> None:
    before = bench.pod_uids()
    assert {item["kind"] for item in _owned_by(bench, "first")} >= {"Pod", "Deployment", "Service", "ConfigMap"}
    gone = {item["metadata"]["uid"] for item in _owned_by(bench, "first") if item["kind"] == "Pod"}
    bench.cluster.kubectl("delete", "llmdeployment", "first", f"--namespace={NAMESPACE}", "--timeout=10s")
    bench.wait("its objects gone", lambda: not _owned_by(bench, "first"), 30)
    time.sleep(QUIET_SECONDS)
    assert not _owned_by(bench, "first"), "the operator brought something back"
    assert bench.pod_uids() == before - gone


def test_without_the_operator_garbage_collection_does_the_same(bench: Bench) -> None:
    bench.operator.stop()
    before = bench.pod_uids()
    gone = {item["metadata"]["uid"] for item in _owned_by(bench, "second") if item["kind"] == "Pod"}
    bench.cluster.kubectl("delete", "llmdeployment", "second", f"--namespace={NAMESPACE}", "--timeout=10s")
    bench.wait("its objects gone", lambda: not _owned_by(bench, "second"), 30)
    assert bench.pod_uids() == before - gone
    assert len(before - gone) == 2


def test_helm_uninstall_leaves_pods_routing_and_definitions(bench: Bench) -> None:
    bench.operator.stop()
    uids, routing = bench.pod_uids(), _routing(bench)
    written = {key(item): item["metadata"]["uid"] for item in bench.all("llmdep,gnp,islo,placementpolicies,pplan")}
    assert uids
    bench.operator.uninstall()
    time.sleep(QUIET_SECONDS)
    assert bench.pod_uids() == uids
    assert _routing(bench) == routing
    names = {item["metadata"]["name"] for item in bench.all("customresourcedefinitions")}
    assert names >= {path.stem for path in read_crds()}
    assert {
        key(item): item["metadata"]["uid"] for item in bench.all("llmdep,gnp,islo,placementpolicies,pplan")
    } == written
    left = bench.cluster.kubectl("get", "clusterrole,clusterrolebinding", "--selector=app.kubernetes.io/name=plimsoll")
    assert not left.strip()

    bench.operator.install()
    bench.start()
    bench.settle()
    assert bench.pod_uids() == uids
