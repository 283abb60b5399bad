"""The dev cluster itself: what other tests rely on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devcluster.cluster import Cluster, CommandError
from devcluster.nodes import demo_nodes, gpu_node
from devcluster.process import Process

NAMESPACE = "harness"
ANNOTATIONS = "devcluster.test"


@pytest.fixture(scope="module", autouse=True)
def gpu_nodes(cluster: Cluster) -> Iterator[None]:
    cluster.kubectl("create", "namespace", NAMESPACE)
    cluster.apply([gpu_node(f"harness-{index}", "NVIDIA-L4", 4, 23034) for index in range(2)])
    cluster.kubectl("wait", "nodes", "--all", "--for=condition=Ready", "--timeout=30s")
    yield
    cluster.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    eventually(lambda: not cluster.kubectl("get", "pods", "-n", NAMESPACE, "-o", "name"))
    cluster.kubectl("delete", "nodes", "harness-0", "harness-1")


def deployment(name: str, annotations: dict[str, str] | None = None, replicas: int = 1) -> dict[str, Any]:
    container = {"name": "engine", "image": "example.test/engine:1", "resources": {"limits": {"nvidia.com/gpu": "1"}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}, "annotations": annotations or {}},
                "spec": {"containers": [container]},
            },
        },
    }


def pods(cluster: Cluster, app: str) -> list[dict[str, Any]]:
    found = json.loads(cluster.kubectl("get", "pods", "-n", NAMESPACE, "-l", f"app={app}", "-o", "json"))
    items: list[dict[str, Any]] = found["items"]
    return items


def ready(pod: dict[str, Any]) -> bool:
    return any(each["type"] == "Ready" and each["status"] == "True" for each in pod["status"].get("conditions", []))


def eventually(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.2)


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_deployment_with_a_gpu_gets_a_ready_pod(cluster: Cluster) -> None:
    cluster.apply([deployment("one-gpu")])
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, "deployment/one-gpu", "--timeout=30s")
    (pod,) = pods(cluster, "one-gpu")
    assert pod["status"]["phase"] == "Running"
    assert ready(pod)
    assert pod["status"]["podIP"]
    assert pod["spec"]["nodeName"].startswith("harness-")


def test_gpus_are_counted_and_freed(cluster: Cluster) -> None:
    cluster.apply([deployment("too-many", replicas=9)])
    eventually(lambda: sum(map(ready, pods(cluster, "too-many"))) >= 7)
    assert not all(map(ready, pods(cluster, "too-many")))
    cluster.kubectl("delete", "deployment", "-n", NAMESPACE, "too-many")
    eventually(lambda: not pods(cluster, "too-many"))


def test_kwok_leaves_capacity_alone(cluster: Cluster) -> None:
    node = json.loads(cluster.kubectl("get", "node", "harness-0", "-o", "json"))
    expected = gpu_node("harness-0", "NVIDIA-L4", 4, 23034)["status"]
    assert {key: node["status"][key] for key in ("capacity", "allocatable")} == expected
    assert node["metadata"]["labels"]["nvidia.com/gpu.product"] == "NVIDIA-L4"


def test_annotations_delay_or_prevent_readiness(cluster: Cluster) -> None:
    cluster.apply(
        [
            deployment("slow", {f"{ANNOTATIONS}/ready-delay": "3s"}),
            deployment("never", {f"{ANNOTATIONS}/never-ready": "true"}),
            deployment("crashing", {f"{ANNOTATIONS}/crash-delay": "1s"}),
        ]
    )
    started = time.monotonic()
    eventually(lambda: all(map(ready, pods(cluster, "slow"))) and pods(cluster, "slow"))
    assert time.monotonic() - started > 2
    (crashing,) = pods(cluster, "crashing")
    assert crashing["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    (never,) = pods(cluster, "never")
    assert never["status"]["phase"] == "Running"
    assert not ready(never)
    cluster.kubectl("annotate", "pod", "-n", NAMESPACE, never["metadata"]["name"], f"{ANNOTATIONS}/never-ready-")
    eventually(lambda: all(map(ready, pods(cluster, "never"))))
    cluster.kubectl("delete", "deployment", "-n", NAMESPACE, "slow", "never", "crashing")


def test_a_node_that_is_not_ready_takes_no_pods(cluster: Cluster) -> None:
    cluster.set_node_ready("harness-0", ready=False)
    eventually(lambda: "not-ready" in cluster.kubectl("get", "node", "harness-0", "-o", "jsonpath={.spec.taints}"))
    cluster.apply([deployment("elsewhere", replicas=2)])
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, "deployment/elsewhere", "--timeout=30s")
    assert {pod["spec"]["nodeName"] for pod in pods(cluster, "elsewhere")} == {"harness-1"}
    cluster.set_node_ready("harness-0", ready=True)
    cluster.kubectl("delete", "deployment", "-n", NAMESPACE, "elsewhere")


def test_a_node_that_is_cut_off_does_not_end_its_pods(cluster: Cluster) -> None:
    cluster.apply([deployment("stranded")])
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, "deployment/stranded", "--timeout=30s")
    node = pods(cluster, "stranded")[0]["spec"]["nodeName"]
    cluster.cut_off_node(node)
    cluster.kubectl("delete", "deployment", "-n", NAMESPACE, "stranded")
    eventually(lambda: "deletionTimestamp" in pods(cluster, "stranded")[0]["metadata"])
    time.sleep(1)
    assert pods(cluster, "stranded")
    cluster.rejoin_node(node)
    eventually(lambda: not pods(cluster, "stranded"))


def test_rbac_restricts_a_service_account(cluster: Cluster, tmp_path: Path) -> None:
    cluster.kubectl("create", "serviceaccount", "-n", NAMESPACE, "nobody")
    token = cluster.service_account_token(NAMESPACE, "nobody")
    kubeconfig = cluster.kubeconfig_for_token(token, tmp_path / "nobody.kubeconfig")
    as_nobody = ("--kubeconfig", str(kubeconfig))
    with pytest.raises(CommandError, match="Forbidden"):
        cluster.kubectl(*as_nobody, "get", "pods", "-n", NAMESPACE)
    cluster.kubectl(
        "create", "rolebinding", "-n", NAMESPACE, "nobody", "--clusterrole=view", f"--serviceaccount={NAMESPACE}:nobody"
    )
    eventually(lambda: "Error" not in cluster.kubectl(*as_nobody, "get", "pods", "-n", NAMESPACE, check=False))


def test_the_audit_log_counts_writes(cluster: Cluster) -> None:
    before = cluster.mark()
    cluster.kubectl("create", "configmap", "-n", NAMESPACE, "written")
    cluster.kubectl("create", "configmap", "-n", NAMESPACE, "asked", "--dry-run=server")
    after = cluster.mark()
    (write,) = cluster.writes_since(before, "admin")
    assert (write["verb"], write["objectRef"]["name"]) == ("create", "written")
    assert write["userAgent"].startswith("kubectl")
    assert cluster.writes_since(after, "admin") == []


def test_objects_survive_a_restart_of_the_api_server(cluster: Cluster) -> None:
    cluster.kubectl("create", "configmap", "-n", NAMESPACE, "kept")
    cluster.restart_apiserver(downtime_seconds=1)
    assert "kept" in cluster.kubectl("get", "configmap", "-n", NAMESPACE, "kept", "-o", "name")
    cluster.apply([deployment("after-restart")])
    cluster.kubectl("rollout", "status", "-n", NAMESPACE, "deployment/after-restart", "--timeout=60s")


def test_helm_installs_a_release(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text("apiVersion: v2\nname: tiny\nversion: 0.1.0\n")
    (tmp_path / "templates" / "map.yaml").write_text("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-helm}\n")
    cluster.helm("install", "tiny", str(tmp_path), "-n", NAMESPACE, "--wait")
    assert "from-helm" in cluster.kubectl("get", "configmap", "-n", NAMESPACE, "-o", "name")


def test_stop_leaves_no_process(tmp_path: Path) -> None:
    with Cluster(tmp_path) as second:
        second.apply(demo_nodes())
        pids = second.pids
        assert set(pids) == {"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kwok"}
    assert not any(map(alive, pids.values()))
    assert second.pids == {}


def test_a_killed_parent_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, signal; from devcluster.process import Process\n"
        "process = Process(['sleep', '1000'], pathlib.Path(sys.argv[1])); process.start()\n"
        "print(process.pid, flush=True); signal.pause()"
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / "log"], cwd=root, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert alive(pid)
        parent.kill()
    eventually(lambda: not alive(pid), seconds=5)


def test_a_process_that_ignores_the_polite_signal_is_killed(tmp_path: Path) -> None:
    process = Process(["sh", "-c", "trap '' TERM; echo ready; sleep 1000 & wait; wait"], tmp_path / "log")
    process.start()
    pid = process.pid
    assert pid is not None
    eventually(lambda: process.tail() == "ready")
    os.kill(pid, signal.SIGTERM)
    process.stop(grace_seconds=0.2)
    assert not alive(pid)
