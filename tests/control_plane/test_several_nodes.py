"""A model that no node holds: one replica over two nodes, run by the real LeaderWorkerSet controller."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from devcluster.leader_worker_set import LeaderWorkerSetController
from devcluster.nodes import demo_nodes
from plimsoll.rendering import labels
from tests.control_plane.bench import (
    Bench,
    Manifest,
    document,
    llm_deployment,
    placements,
    pool,
    ready,
    routed,
)

NAME = "giant"
NAMESPACE = "groups"
MODEL = "meta-llama/Llama-3.1-405B-Instruct"
"""810 GB in 16 bits; a node has 8 GPUs of 80 GB."""


@pytest.fixture
def namespace(bench: Bench) -> Iterator[None]:
    """A namespace that lets in only pods of the `restricted` profile."""
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    bench.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforced}})
    yield
    bench.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def group(bench: Bench, size: int = 2) -> list[Manifest] | None:
    """The pods once all are Ready and none is on its way out, leaders first."""
    pods = bench.own("pods")
    if len(pods) != size or not all(ready(pod) for pod in pods):
        return None
    return sorted(pods, key=lambda pod: (pod["metadata"]["labels"][labels.WORKER_INDEX], pod["metadata"]["name"]))


def addresses(bench: Bench, service: str) -> list[str]:
    """Addresses behind a Service."""
    slices = bench.all("endpointslices", selector=f"kubernetes.io/service-name={service}")
    return sorted(each for item in slices for point in item["endpoints"] or () for each in point["addresses"])


def test_a_model_too_large_for_a_node_runs_over_two(
    bench: Bench, namespace: None, leader_worker_set: LeaderWorkerSetController
) -> None:
    bench.apply(pool("h100", "H100-SXM-80GB", "2.50"), llm_deployment(NAME, NAMESPACE, MODEL, rate=30))
    said = bench.wait_condition("llmdeployment", NAME, NAMESPACE, "Planned", "False", "FitsNowhere")
    assert "needs 2 nodes per replica: install LeaderWorkerSet" in said["message"]
    assert bench.own("pods,deployments") == []

    leader_worker_set.start()
    bench.operator.stop()
    bench.start()
    leader, worker = bench.wait("a group of two", lambda: group(bench))
    assert leader["spec"]["nodeName"] != worker["spec"]["nodeName"]
    (deployment,) = bench.settle()
    ((name, placement),) = placements(deployment).items()
    assert placement["podsPerReplica"] == 2
    assert placement["parallelism"] == {"tensor": 8, "pipeline": 2}
    assert (placement["replicas"]["desired"], placement["replicas"]["ready"]) == (1, 1)
    assert deployment["status"]["gpus"] == 16
    assert routed(bench.get("configmap", f"{NAME}-routing", NAMESPACE)) == {name}
    assert addresses(bench, name) == [leader["status"]["podIP"]]
    assert bench.own("poddisruptionbudgets") == []
    (policy,) = bench.own("networkpolicies")
    assert policy["metadata"]["name"] == name
    for number, pod in enumerate((leader, worker)):
        environment = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}
        assert environment["LWS_LEADER_ADDRESS"] == f"{name}-0.{name}-0.{NAMESPACE}"
        assert environment["LWS_WORKER_INDEX"] == str(number)
    mark = bench.cluster.mark()
    time.sleep(4)
    assert bench.wrote(mark) == [], "written at rest"

    # A node dies. What is deleted by hand here takes Kubernetes minutes: first the pod's end is announced, and goes
    # unanswered since no kubelet is left, then the pod is removed by force. By force alone, the worker may be back
    # before the LeaderWorkerSet controller looked, and then that leaves its leader alone (docs/several-nodes.md).
    content = document(bench.get("configmap", f"{NAME}-routing", NAMESPACE))
    lost = worker["spec"]["nodeName"]
    before = {pod["metadata"]["uid"] for pod in (leader, worker)}

    def renewed() -> list[Manifest] | None:
        pods = group(bench)
        return pods if pods and not before & {pod["metadata"]["uid"] for pod in pods} else None

    def leader_goes() -> bool:
        pods = {pod["metadata"]["uid"]: pod["metadata"] for pod in bench.own("pods")}
        found = pods.get(leader["metadata"]["uid"])
        return found is None or "deletionTimestamp" in found

    bench.cluster.kubectl("delete", "node", lost)
    deletion = ("delete", "pod", worker["metadata"]["name"], f"--namespace={NAMESPACE}")
    bench.cluster.kubectl(*deletion, "--wait=false")
    bench.wait("the end of the leader", leader_goes)
    bench.cluster.kubectl(*deletion, "--grace-period=0", "--force", "--ignore-not-found")
    again = bench.wait("the whole group anew", renewed)
    assert lost not in {pod["spec"]["nodeName"] for pod in again}
    (deployment,) = bench.settle()
    assert placements(deployment).keys() == {name}
    assert document(bench.get("configmap", f"{NAME}-routing", NAMESPACE)) == content

    # Three nodes hold one replica and a half; four hold two.
    bench.set(NAME, NAMESPACE, "/spec/placement/replicas", {"min": 2})
    bench.wait_condition("llmdeployment", NAME, NAMESPACE, "Planned", "True", "Planned")
    assert len(bench.own("pods")) == 2
    bench.apply(*(node for node in demo_nodes() if node["metadata"]["name"] == lost))
    leaders = bench.wait("two groups", lambda: group(bench, 4))[:2]
    bench.settle()
    assert addresses(bench, name) == sorted(pod["status"]["podIP"] for pod in leaders)
    (budget,) = bench.own("poddisruptionbudgets")
    assert (budget["status"]["expectedPods"], budget["status"]["disruptionsAllowed"]) == (2, 1)

    bench.cluster.kubectl("delete", "llmdeployment", NAME, f"--namespace={NAMESPACE}")
    bench.wait("everything collected", lambda: not bench.own("pods,leaderworkersets,networkpolicies,services"))
    bench.operator.stop()
