"""What changes while the operator runs: specs, nodes, and the API server's availability."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from devcluster.audit import Mark
from devcluster.installation import USER
from plimsoll.rendering import labels
from tests.control_plane.bench import (
    ANNOTATIONS,
    PROPAGATION_SECONDS,
    Bench,
    Manifest,
    deleting,
    document,
    key,
    llm_deployment,
    placement_of,
    placements,
    pool,
    ready,
    routed,
    settled,
)

NAMESPACE = "chat"
NAMES = ("grown", "retuned", "remodelled", "spread", "outlived")
"""One for each test, in order."""
NEVER_READY = f"{ANNOTATIONS}/never-ready"
DOWNTIME_SECONDS = 5.0


@pytest.fixture(scope="module", autouse=True)
def fleet(bench: Bench) -> None:
    """An LLMDeployment for each test, all running."""
    bench.apply(pool("l40s", "L40S", "1.10"), pool("l4", "L4", "0.60"), pool("h100", "H100-SXM-80GB", "2.50"))
    bench.apply(*(llm_deployment(name, NAMESPACE) for name in NAMES))
    bench.wait("all planned", lambda: len(bench.settle()) == len(NAMES))


@dataclass
class Look:
    """One LLMDeployment's objects at one moment."""

    deployment: Manifest
    config_map: Manifest
    pods: dict[str, list[Manifest]] = field(default_factory=dict)
    """By placement, without those that are being deleted."""
    bystanders: frozenset[str] = frozenset()
    """Uids of the other LLMDeployments' pods."""

    def ready(self, placement: str) -> int:
        return sum(map(ready, self.pods.get(placement, [])))

    @property
    def uids(self) -> frozenset[str]:
        return frozenset(pod["metadata"]["uid"] for pods in self.pods.values() for pod in pods)


def look(bench: Bench, name: str) -> Look:
    """Everything by one kubectl. The routing is read first: what it names must still be there afterwards."""
    objects = bench.all("configmaps", "pods", "llmdeployments")
    by_key = {key(item): item for item in objects}
    found = Look(by_key["LLMDeployment", NAMESPACE, name], by_key["ConfigMap", NAMESPACE, f"{name}-routing"])
    own = [item for item in objects if item["kind"] == "Pod" and labels.PLACEMENT in item["metadata"]["labels"]]
    for pod in own:
        if pod["metadata"]["labels"][labels.LLM_DEPLOYMENT] == name and not deleting(pod):
            found.pods.setdefault(placement_of(pod), []).append(pod)
    found.bystanders = frozenset(
        pod["metadata"]["uid"] for pod in own if pod["metadata"]["labels"][labels.LLM_DEPLOYMENT] != name
    )
    return found


def test_more_traffic_adds_replicas_and_moves_nothing(bench: Bench) -> None:
    name = "grown"
    before = look(bench, name)
    assert not bench.own("poddisruptionbudgets")
    bench.set(name, NAMESPACE, "/spec/traffic/0/requestsPerMinute", 300)
    bench.wait("more pods", lambda: len(look(bench, name).uids) > len(before.uids))
    bench.settle()
    after = look(bench, name)
    assert len(after.uids) > len(before.uids)
    assert after.uids >= before.uids
    assert after.bystanders == before.bystanders
    planned = placements(after.deployment)
    assert routed(after.config_map) == planned.keys() == after.pods.keys()
    assert all(after.ready(each) == item["replicas"]["desired"] for each, item in planned.items())
    several = {each for each, item in planned.items() if item["replicas"]["desired"] > 1}
    assert several
    assert {item["metadata"]["name"] for item in bench.own("poddisruptionbudgets")} == several
    epochs = [document(each.config_map)["epoch"] for each in (before, after)]
    assert epochs[1] > epochs[0]

    bench.set(name, NAMESPACE, "/spec/traffic/0/requestsPerMinute", 60)
    bench.wait("fewer pods", lambda: len(look(bench, name).uids) < len(after.uids))
    bench.settle()
    last = look(bench, name)
    assert last.uids < after.uids
    assert last.bystanders == before.bystanders


def test_an_edit_of_the_engine_makes_new_pods_before_the_old_ones_go(bench: Bench) -> None:
    name = "retuned"
    before = look(bench, name)
    (old,) = before.pods
    mark = bench.cluster.mark()
    bench.set(name, NAMESPACE, "/spec/engine/podTemplate", {"annotations": {NEVER_READY: "true"}})
    bench.wait("a new pod", lambda: len(look(bench, name).pods) > 1)

    # For as long as the new pods are not Ready, nothing is taken from the old ones, whatever else happens.
    deadline = time.monotonic() + PROPAGATION_SECONDS + 3
    while time.monotonic() < deadline:
        now = look(bench, name)
        assert now.uids > before.uids
        assert routed(now.config_map) == {old}
        assert document(now.config_map) == document(before.config_map)
        time.sleep(0.5)
    waiting = look(bench, name)
    (new,) = placements(waiting.deployment).keys() - {old}
    assert waiting.ready(new) == 0
    assert not settled(waiting.deployment)

    seen: list[tuple[bool, bool]] = []
    for pod in waiting.pods[new]:
        bench.cluster.kubectl("annotate", "pod", f"--namespace={NAMESPACE}", pod["metadata"]["name"], f"{NEVER_READY}-")

    def gone() -> bool:
        now = look(bench, name)
        names = routed(now.config_map)
        seen.append((names == {new}, old in now.pods))
        assert names
        assert all(now.ready(each) > 0 for each in names), "a router is told of a placement without Ready pods"
        return old not in now.pods

    bench.wait("the old pods gone", gone)
    bench.settle()
    assert (True, True) in seen, "the old pods did not outlive their routing"
    after = look(bench, name)
    assert routed(after.config_map) == after.pods.keys() == placements(after.deployment).keys() == {new}
    assert after.bystanders == before.bystanders
    assert not [item for item in bench.own("deployments,services") if item["metadata"]["name"] == old]
    assert _seconds_between_routing_and_deletion(bench, mark, name, old) >= PROPAGATION_SECONDS
    # A pod of it that is made anew would never be Ready.
    bench.cluster.kubectl("delete", "llmdeployment", name, f"--namespace={NAMESPACE}")
    bench.wait(
        "its pods gone",
        lambda: not [pod for pod in bench.own("pods") if pod["metadata"]["labels"][labels.LLM_DEPLOYMENT] == name],
    )


def _seconds_between_routing_and_deletion(bench: Bench, mark: Mark, name: str, old: str) -> float:
    """From the last change of routing to the deletion of the old Deployment, by the API server's clock."""
    writes = bench.cluster.writes_since(mark, USER)
    times: dict[str, list[datetime]] = {}
    for event in writes:
        target = event["objectRef"]
        moment = datetime.fromisoformat(event["requestReceivedTimestamp"])
        if target["resource"] == "configmaps" and target["name"] == f"{name}-routing":
            times.setdefault("routed", []).append(moment)
        if (target["resource"], event["verb"], target["name"]) == ("deployments", "delete", old):
            times.setdefault("deleted", []).append(moment)
    return (
        min(times["deleted"]) - max(item for item in times["routed"] if item < min(times["deleted"]))
    ).total_seconds()


def test_another_model_takes_over_only_when_it_is_ready(bench: Bench) -> None:
    name = "remodelled"
    before = look(bench, name)
    (old,) = before.pods
    operations = (
        {
            "op": "add",
            "path": "/spec/engine/podTemplate",
            "value": {"annotations": {f"{ANNOTATIONS}/ready-delay": "5s"}},
        },
        {"op": "replace", "path": "/spec/models", "value": [{"name": "Qwen/Qwen2.5-7B-Instruct"}]},
    )
    bench.patch("llmdeployment", name, NAMESPACE, *operations)
    history: list[tuple[frozenset[str], bool, int]] = []

    def step() -> bool:
        now = look(bench, name)
        names = routed(now.config_map)
        new = sum(now.ready(each) for each in now.pods if each != old)
        history.append((frozenset(names), old in now.pods, new))
        assert all(now.ready(each) > 0 for each in names)
        if new == 0:
            assert names == {old}
            assert now.uids >= before.uids
        return settled(now.deployment) and old not in now.pods

    bench.wait("the new model serves alone", step)
    assert any(new == 0 and len(names) == 1 for names, _, new in history)
    after = look(bench, name)
    (placement,) = placements(after.deployment).values()
    assert placement["model"] == "Qwen/Qwen2.5-7B-Instruct"
    assert "Qwen2.5-7B-Instruct" in after.deployment["status"]["modelsInUse"]
    backend = document(after.config_map)["classes"][0]["backends"][0]
    assert backend["servedModel"] == "Qwen/Qwen2.5-7B-Instruct"
    assert after.bystanders == before.bystanders


def test_pods_of_a_deleted_node_come_back_elsewhere_and_nothing_else_moves(bench: Bench) -> None:
    bench.set("spread", NAMESPACE, "/spec/placement", {"replicas": {"min": 6}})
    bench.wait("six replicas", lambda: len(look(bench, "spread").uids) == 6)
    bench.settle()
    before = bench.own("pods")
    node = look(bench, "spread").pods.popitem()[1][0]["spec"]["nodeName"]
    manifest = bench.get("node", node)
    lost = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in before if pod["spec"]["nodeName"] == node}
    bench.cluster.kubectl("delete", "node", node)
    # The pod garbage collector would do this after its quarantine of 40 s.
    options = ("--force", "--grace-period=0", f"--namespace={NAMESPACE}", "--wait=false")
    bench.cluster.kubectl("delete", "pod", *lost.values(), *options)
    bench.wait("the pods gone", lambda: not bench.pod_uids() & lost.keys())
    bench.wait("as many Ready pods again", lambda: sum(map(ready, bench.own("pods"))) == len(before))
    bench.settle()
    after = bench.own("pods")
    assert {pod["metadata"]["uid"] for pod in after} >= {pod["metadata"]["uid"] for pod in before} - lost.keys()
    assert _counts(after) == _counts(before)
    assert node not in {pod["spec"]["nodeName"] for pod in after}
    kept = {each: manifest["metadata"][each] for each in ("name", "labels")}
    status = {each: manifest["status"][each] for each in ("capacity", "allocatable")}
    bench.apply({"apiVersion": "v1", "kind": "Node", "metadata": kept, "spec": {}, "status": status})


def _counts(pods: list[Manifest]) -> dict[str, int]:
    """Pods per LLMDeployment."""
    names = [pod["metadata"]["labels"][labels.LLM_DEPLOYMENT] for pod in pods]
    return {name: names.count(name) for name in names}


def test_an_outage_of_the_api_server_moves_nothing_and_edits_work_afterwards(bench: Bench) -> None:
    name = "outlived"
    before = look(bench, name)
    process = bench.operator.process
    assert process is not None
    bench.cluster.restart_apiserver(DOWNTIME_SECONDS)
    time.sleep(2)
    if process.died:
        # Crash-only: it may end when its watches fail; the kubelet then starts it again.
        bench.start()
    bench.settle()
    after = look(bench, name)
    assert after.uids == before.uids
    assert after.bystanders == before.bystanders
    assert document(after.config_map) == document(before.config_map)

    bench.set(name, NAMESPACE, "/spec/traffic/0/requestsPerMinute", 300)

    def reacted() -> bool:
        if process.died and bench.operator.process is process:
            bench.start()
        return len(look(bench, name).uids) > len(before.uids)

    bench.wait("more pods", reacted)
    bench.settle()
    assert look(bench, name).uids > before.uids
