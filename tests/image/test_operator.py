"""The operator out of the image, with what a pod gets: its account, and the chart's arguments and environment."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from devcluster.binaries import all_binaries
from devcluster.cluster import Cluster
from devcluster.nodes import gpu_node
from tests.image.build import ROOT, Buildah

CHART = ROOT / "helm" / "plimsoll"
NAMESPACE = "plimsoll-system"
ACCOUNT_FOLDER = "/run/secrets/kubernetes.io/serviceaccount"
"""Not by way of /var/run: buildah's chroot isolation would follow that link on this machine, outside the image."""
FLEET: list[dict[str, Any]] = [
    gpu_node("l40s-0", "NVIDIA-L40S", 1, 46068),
    {
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "GPUNodePool",
        "metadata": {"name": "l40s"},
        "spec": {"accelerator": "L40S", "price": {"perHour": "1.10"}},
    },
    {
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": "assistant", "namespace": "default"},
        "spec": {
            "models": [{"name": "meta-llama/Llama-3.1-8B-Instruct"}],
            "traffic": [{"name": "default", "requestsPerMinute": 6, "tokens": {"input": 500, "output": 100}}],
        },
    },
]


@dataclass(frozen=True)
class Operator:
    """A running operator: buildah's process, and the address of its health port."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def get(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"{self.address}{path}", timeout=5) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def wait(self, what: str, ready: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert self.process.poll() is None, f"the operator ended:\n{self.log.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"{what} took over {seconds} s:\n{self.log.read_text()[-4000:]}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    all_binaries()
    with Cluster() as running:
        yield running


@pytest.fixture(scope="module")
def operator(
    cluster: Cluster, buildah: Buildah, image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    port = _free_port()
    options = ["--namespace", NAMESPACE, "--create-namespace", "--set", f"replicas=0,healthPort={port}"]
    cluster.helm("install", "plimsoll", str(CHART), *options)
    cluster.apply(FLEET)
    work = tmp_path_factory.mktemp("operator")
    work.chmod(0o755)
    log = work / "log"
    container = buildah("from", image)
    command = _command(cluster, buildah, image, container, work)
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Operator(process, f"http://127.0.0.1:{port}", log)
    finally:
        # the container's process dies with buildah
        process.terminate()
        process.wait(30)
        buildah("rm", container)


def _command(cluster: Cluster, buildah: Buildah, image: str, container: str, work: Path) -> list[str]:
    """What a kubelet would start: the image's entry point with the arguments, environment and account of the pod."""
    manifest = json.loads(cluster.kubectl("get", "deployment", "plimsoll", "-n", NAMESPACE, "-o", "json"))
    pod = manifest["spec"]["template"]["spec"]
    account = work / "account"
    account.mkdir()
    (account / "token").write_text(cluster.service_account_token(NAMESPACE, pod["serviceAccountName"]))
    (account / "namespace").write_text(NAMESPACE)
    (account / "ca.crt").write_bytes(cluster.ca_file.read_bytes())
    server = urlsplit(cluster.server)
    environment = {entry["name"]: entry.get("value", "plimsoll-0") for entry in pod["containers"][0]["env"]}
    environment |= {"KUBERNETES_SERVICE_HOST": str(server.hostname), "KUBERNETES_SERVICE_PORT": str(server.port)}
    options = [option for name, value in environment.items() for option in ("--env", f"{name}={value}")]
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    return buildah.command(
        *("run", "--isolation", "chroot", "--user", user, "--volume", f"{account}:{ACCOUNT_FOLDER}:ro", *options),
        *(container, "--", *buildah.configuration(image)["OCIv1"]["config"]["Entrypoint"]),
        *pod["containers"][0]["args"],
    )


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _python_below(pid: int) -> int:
    """The eldest process below another one that runs the image's Python; 0 when there is none."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    for child in [int(word) for children in threads for word in children.read_text().split()]:
        if Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"/opt/plimsoll/bin/python"):
            return child
        found = _python_below(child)
        if found:
            return found
    return 0


def test_operator_is_healthy_ready_and_measured(operator: Operator) -> None:
    operator.wait("healthy", lambda: operator.get("/healthz") == 200)
    operator.wait("ready", lambda: operator.get("/readyz") == 200)
    assert operator.get("/metrics") == 200


def test_operator_plans_a_small_fleet(operator: Operator, cluster: Cluster) -> None:
    def planned() -> bool:
        return bool(json.loads(cluster.kubectl("get", "placementplans", "-o", "json"))["items"])

    def rendered() -> bool:
        return "assistant" in cluster.kubectl("get", "deployments", "-n", "default", "-o", "name")

    operator.wait("the first plan", planned)
    operator.wait("the first Deployment", rendered)


def test_operator_ends_well_when_asked(operator: Operator) -> None:
    """Last: the operator is gone after it."""
    assert operator.process.poll() is None, f"the operator ended:\n{operator.log.read_text()[-4000:]}"
    inside = _python_below(operator.process.pid)
    assert inside
    assert Path(f"/proc/{inside}").stat().st_uid == 65532
    os.kill(inside, signal.SIGTERM)
    assert operator.process.wait(30) == 0, operator.log.read_text()[-4000:]
