"""What a namespace may have: its ResourceQuota, its Pod Security Standard, and the tenant that its labels make it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.control_plane.bench import Bench, Manifest, conditions, llm_deployment, policy, pool, ready, settled

NAMESPACE = "bounded"
NAME = "assistant"
SINGLE = {"parallelism": {"tensor": [1], "pipeline": [1]}, "replicas": {"min": 2}}


def quota(gpus: int) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "gpus", "namespace": NAMESPACE},
        "spec": {"hard": {"requests.nvidia.com/gpu": str(gpus)}},
    }


def namespace(**labels: str) -> Manifest:
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": {**enforced, **labels}}}


@pytest.fixture(scope="module", autouse=True)
def bounded(bench: Bench) -> Iterator[None]:
    """A namespace that admits restricted pods only, with a quota of one GPU."""
    bench.apply(namespace())
    bench.apply(quota(1), pool("l40s", "L40S", "1.10"), policy())
    bench.wait(
        "the quota is known", lambda: bench.get("resourcequota", "gpus", NAMESPACE).get("status", {}).get("used")
    )
    bench.apply(llm_deployment(NAME, NAMESPACE, rate=400, placement=SINGLE))
    yield
    bench.cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def deployment(bench: Bench) -> dict[str, Any]:
    return bench.get("llmdeployment", NAME, NAMESPACE)


def pods(bench: Bench) -> list[Manifest]:
    return [pod for pod in bench.own("pods") if pod["metadata"]["namespace"] == NAMESPACE]


def test_a_plan_keeps_to_the_quota_and_grows_with_it(bench: Bench) -> None:
    condition = bench.wait_condition("llmdeployment", NAME, NAMESPACE, "Planned", "False", "QuotaExceeded", 40)
    assert "ResourceQuota gpus: spec.hard requests.nvidia.com/gpu 1 is used up" in condition["message"]
    bench.wait("one pod", lambda: [ready(pod) for pod in pods(bench)] == [True])
    refused = [
        event["note"] for event in bench.all("events.events.k8s.io") if "exceeded quota" in str(event.get("note"))
    ]
    assert refused == []

    bench.apply(quota(8))
    bench.wait("served", lambda: settled(deployment(bench)) and len(pods(bench)) > 1)


def test_pods_pass_the_restricted_standard(bench: Bench) -> None:
    labels = bench.get("namespace", NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert all(ready(pod) for pod in pods(bench))
    assert not [item for item in bench.all("events.events.k8s.io") if "violates PodSecurity" in str(item.get("note"))]


def test_a_label_makes_the_namespace_a_tenants_and_its_limit_holds(bench: Bench) -> None:
    running = {pod["metadata"]["uid"] for pod in pods(bench)}
    tenant = {"name": "talk", "namespaceSelector": {"matchLabels": {"team": "talk"}}, "maxGPUs": len(running)}
    bench.apply(policy(tenants=[tenant]))
    bench.apply(namespace(team="talk"))
    bench.set(NAME, NAMESPACE, "/spec/traffic/0/requestsPerMinute", 900)
    condition = bench.wait_condition("llmdeployment", NAME, NAMESPACE, "Planned", "False", "TenantLimitReached")
    assert (
        f"tenant talk: PlacementPolicy default spec.tenants[0].maxGPUs {len(running)} is used up"
        in condition["message"]
    )
    assert {pod["metadata"]["uid"] for pod in pods(bench)} == running

    bench.apply(namespace())
    bench.wait("served again", lambda: settled(deployment(bench)) and len(pods(bench)) > len(running))


def test_what_the_policy_does_not_allow_is_told_and_takes_nothing_away(bench: Bench) -> None:
    running = {pod["metadata"]["uid"] for pod in pods(bench)}
    bench.set(NAME, NAMESPACE, "/spec/engine/extraArgs", ["--trust-remote"])
    condition = bench.wait_condition("llmdeployment", NAME, NAMESPACE, "Planned", "False", "RemoteCodeNotAllowed")
    assert "spec.security.allowTrustRemoteCode of PlacementPolicy default is not true" in condition["message"]
    assert conditions(deployment(bench))["Stalled"]["status"] == "True"
    assert {pod["metadata"]["uid"] for pod in pods(bench)} == running
