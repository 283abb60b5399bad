"""The chart on the real control plane: admitted, permitted, upgraded, uninstalled."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from devcluster.binaries import all_binaries
from devcluster.cluster import Cluster
from tests.chart.manifests import CHART, RELEASE

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(1800)]

NAMESPACE = RELEASE["namespace"]
LLM_DEPLOYMENT = {
    "apiVersion": "plimsoll.dev/v1alpha1",
    "kind": "LLMDeployment",
    "metadata": {"name": "assistant", "namespace": "default"},
    "spec": {
        "models": [{"name": "meta-llama/Llama-3.1-8B-Instruct"}],
        "traffic": [{"name": "default", "requestsPerMinute": 120, "tokens": {"input": 1000, "output": 250}}],
    },
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A control plane with the chart in a namespace that enforces the `restricted` Pod Security Standard."""
    all_binaries()
    with Cluster() as running:
        running.apply(
            [
                {
                    "apiVersion": "v1",
                    "kind": "Namespace",
                    "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
                }
            ]
        )
        running.helm("install", RELEASE["name"], str(CHART), "--namespace", NAMESPACE)
        yield running


def _get(cluster: Cluster, *arguments: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(cluster.kubectl("get", *arguments, "-o", "json"))["items"]
    return items


def _may(cluster: Cluster, verb: str, resource: str) -> bool:
    account = f"system:serviceaccount:{NAMESPACE}:plimsoll"
    name, _, subresource = resource.partition("/")
    question = [verb, name, f"--subresource={subresource}"] if subresource else [verb, name]
    answer = cluster.kubectl("auth", "can-i", *question, "--as", account, "--all-namespaces", check=False)
    return answer.strip().endswith("yes")


def test_restricted_namespace_admits_the_pod(cluster: Cluster) -> None:
    deadline = time.monotonic() + 30
    while not (pods := _get(cluster, "pods", "-n", NAMESPACE)):
        assert time.monotonic() < deadline, cluster.kubectl("get", "events", "-n", NAMESPACE)
        time.sleep(0.2)
    assert {pod["spec"]["serviceAccountName"] for pod in pods} == {"plimsoll"}


@pytest.mark.parametrize(
    ("verb", "resource"),
    [("patch", "llmdeployments.plimsoll.dev/status"), ("create", "placementplans.plimsoll.dev"), ("watch", "pods")],
)
def test_account_may_do_its_work(cluster: Cluster, verb: str, resource: str) -> None:
    assert _may(cluster, verb, resource)


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("patch", "llmdeployments.plimsoll.dev"),
        ("create", "pods"),
        ("delete", "pods"),
        ("patch", "nodes"),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
    ],
)
def test_account_may_do_nothing_else(cluster: Cluster, verb: str, resource: str) -> None:
    assert not _may(cluster, verb, resource)


def test_account_may_keep_its_own_lease_and_no_other(cluster: Cluster) -> None:
    def may(verb: str, lease: str, namespace: str) -> bool:
        account = f"system:serviceaccount:{NAMESPACE}:plimsoll"
        question = ("auth", "can-i", verb, lease, f"--namespace={namespace}", "--as", account)
        return cluster.kubectl(*question, check=False).strip().endswith("yes")

    assert may("get", "leases/plimsoll", NAMESPACE)
    assert may("update", "leases/plimsoll", NAMESPACE)
    assert not may("update", "leases/another", NAMESPACE)
    assert not may("delete", "leases/plimsoll", NAMESPACE)
    assert not may("update", "leases/plimsoll", "kube-system")


def test_upgrade_to_the_same_chart_changes_nothing(cluster: Cluster) -> None:
    before = _get(cluster, "deployments", "-n", NAMESPACE)[0]["metadata"]["generation"]
    cluster.helm("upgrade", RELEASE["name"], str(CHART), "--namespace", NAMESPACE)
    assert _get(cluster, "deployments", "-n", NAMESPACE)[0]["metadata"]["generation"] == before


def test_uninstall_keeps_what_people_wrote(cluster: Cluster) -> None:
    """Last, and installed again over what was kept."""
    cluster.apply([LLM_DEPLOYMENT])
    cluster.helm("uninstall", RELEASE["name"], "--namespace", NAMESPACE, "--wait")
    assert _get(cluster, "deployments", "-n", NAMESPACE) == []
    assert [item["metadata"]["name"] for item in _get(cluster, "llmdeployments", "-A")] == ["assistant"]
    cluster.helm("install", RELEASE["name"], str(CHART), "--namespace", NAMESPACE, "--set", "replicas=0")
    assert [item["metadata"]["name"] for item in _get(cluster, "llmdeployments", "-A")] == ["assistant"]
