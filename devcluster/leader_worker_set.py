"""The real LeaderWorkerSet controller beside a running cluster: its CRD, its webhooks, and its process."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import yaml

from devcluster.binaries import binary, leader_worker_set_manifests
from devcluster.cluster import Cluster, free_ports
from devcluster.process import Process

CRD = "leaderworkersets.leaderworkerset.x-k8s.io"
_START_SECONDS = 30.0


class LeaderWorkerSetController:
    """Use as a context manager, or `start`, `stop`. Afterwards the API is gone again, and all objects of it."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        (self._port,) = free_ports(1)
        directory = cluster.directory / "leader-worker-set"
        directory.mkdir(exist_ok=True)
        for source, name in zip(cluster.serving_certificate(), ("tls.crt", "tls.key"), strict=True):
            shutil.copyfile(source, directory / name)
        configuration = directory / "configuration.json"
        configuration.write_text(
            json.dumps(
                {
                    "apiVersion": "config.lws.x-k8s.io/v1alpha1",
                    "kind": "Configuration",
                    "leaderElection": {"leaderElect": False},
                    "internalCertManagement": {"enable": False},
                    "webhook": {"host": "127.0.0.1", "port": self._port, "certDir": str(directory)},
                    "metrics": {"bindAddress": "0"},
                    "health": {"healthProbeBindAddress": "0"},
                    "clientConnection": {"qps": 500, "burst": 500},
                }
            )
        )
        command = [
            binary("leader-worker-set"),
            f"--config={configuration}",
            f"--kubeconfig={cluster.kubeconfig}",
        ]
        self.process = Process(command, cluster.logs / "leader-worker-set.log")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Installs the API and starts the controller; waits until its webhooks answer.

        Raises:
            RuntimeError: with the end of its log.
        """
        folder = leader_worker_set_manifests()
        for path in sorted(folder.glob("leaderworkerset*.yaml")):
            self._cluster.kubectl("apply", "--server-side", "--filename", str(path))
        self._wait(self._established)
        self.process.start()
        self._cluster.apply(self._webhooks())
        self._wait(self._admits)
        return self

    def stop(self) -> None:
        """Takes the webhooks away first: without their server no pod of the cluster could be made."""
        for item in self._webhooks():
            self._cluster.kubectl("delete", item["kind"], item["metadata"]["name"], "--ignore-not-found")
        self._cluster.kubectl("delete", "crd", CRD, "--ignore-not-found")
        self._cluster.restart_controllers()
        self.process.stop()

    def _wait(self, ready: Callable[[], bool]) -> None:
        self.process.wait("the LeaderWorkerSet controller", ready, _START_SECONDS)

    def _established(self) -> bool:
        path = '{.status.conditions[?(@.type=="Established")].status}'
        return self._cluster.kubectl("get", "crd", CRD, f"--output=jsonpath={path}", check=False) == "True"

    def _admits(self) -> bool:
        """Whether the webhooks let an object in."""
        pod = {"spec": {"containers": [{"name": "engine", "image": "example.test/engine"}]}}
        example = {
            "apiVersion": "leaderworkerset.x-k8s.io/v1",
            "kind": "LeaderWorkerSet",
            "metadata": {"name": "example", "namespace": "default"},
            "spec": {"leaderWorkerTemplate": {"workerTemplate": pod}},
        }
        arguments = ("create", "--dry-run=server", "--filename=-")
        return "created" in self._cluster.kubectl(*arguments, input=json.dumps(example), check=False)

    def _webhooks(self) -> list[dict[str, Any]]:
        """As the release has them: pods only where they belong to a group; reached at the process' port."""
        authority = base64.b64encode(self._cluster.ca_file.read_bytes()).decode()
        text = (leader_worker_set_manifests() / "manifests.yaml").read_text()
        configurations = [item for item in yaml.safe_load_all(text) if item]
        for configuration in configurations:
            configuration["metadata"]["name"] = f"lws-{configuration['metadata']['name']}"
            for webhook in configuration["webhooks"]:
                path = webhook["clientConfig"]["service"]["path"]
                webhook["clientConfig"] = {"url": f"https://127.0.0.1:{self._port}{path}", "caBundle": authority}
                if webhook["name"].endswith("pod.kb.io"):
                    expression = {"key": "leaderworkerset.sigs.k8s.io/name", "operator": "Exists"}
                    webhook["objectSelector"] = {"matchExpressions": [expression]}
        return configurations
