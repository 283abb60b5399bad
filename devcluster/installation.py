"""Plimsoll on a devcluster: the chart installed with no pod, and the operator as a process under the chart's own
service account, arguments and environment, so that a missing or superfluous RBAC rule shows up."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from devcluster.cluster import Cluster
from devcluster.process import Process

ROOT = Path(__file__).parents[1]
NAMESPACE = "plimsoll-system"
RELEASE = "plimsoll"
CHART = ROOT / "helm" / "plimsoll"
USER = f"system:serviceaccount:{NAMESPACE}:{RELEASE}"
"""Who the operator is in the audit log."""


class Installation:
    """The chart and one operator process. Use as a context manager, or `install`, `start`, `stop`."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Mapping[str, str] | None = None,
        name: str = "operator-0",
        *,
        module: str = "plimsoll.cli.main",
        server: str | None = None,
    ) -> None:
        """`name` is that of the pod whose place the process takes, also after a restart; `module` is what runs in place
        of the program, `server` what it takes for the API server."""
        self._cluster, self.name = cluster, name
        self._settings = dict(settings or {})
        self._module, self._server = module, server
        self._starts = 0
        self.port = 0
        self.process: Process | None = None

    def __enter__(self) -> Self:
        self.install()
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def install(self, chart: Path = CHART, **values: object) -> None:
        """`helm upgrade --install` of a chart with zero replicas; the process takes the pod's place.

        Args:
            values: top-level values of the chart, beside its defaults.
        """
        given = [f"--set-json={name}={json.dumps(value)}" for name, value in values.items()]
        self._cluster.helm(
            *("upgrade", "--install", RELEASE, str(chart)),
            *(f"--namespace={NAMESPACE}", "--create-namespace", "--set=replicas=0"),
            *given,
        )
        crds = [f"crd/{path.stem}" for path in sorted((ROOT / "crds").glob("*.yaml"))]
        self._cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", *crds)

    def uninstall(self) -> None:
        """`helm uninstall`."""
        self._cluster.helm("uninstall", RELEASE, f"--namespace={NAMESPACE}")

    def start(self) -> Self:
        """Starts the operator as its container would be, and returns at once."""
        container = self._container()
        self.port = _free_port()
        environment = {item["name"]: item.get("value", "") for item in container.get("env", [])}
        environment |= {"PLIMSOLL_IDENTITY": self.name, "PLIMSOLL_HEALTH_PORT": str(self.port)}
        environment |= {"PLIMSOLL_HEALTH_HOST": "127.0.0.1", **self._settings}
        environment["KUBECONFIG"] = str(
            self._cluster.kubeconfig_for_token(
                self._cluster.service_account_token(NAMESPACE, RELEASE),
                self._cluster.directory / f"{self.name}.kubeconfig",
                server=self._server,
            )
        )
        self._starts += 1
        assignments = [f"{name}={value}" for name, value in environment.items()]
        command = [sys.executable, "-m", self._module, *container["args"]]
        self.process = Process(["env", *assignments, *command], self._cluster.logs / f"{self.name}-{self._starts}.log")
        self.process.start()
        return self

    def stop(self, grace_seconds: float = 15.0) -> None:
        """SIGTERM, as the kubelet does."""
        if self.process is not None:
            self.process.stop(grace_seconds)

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of a GET to the operator's health port; status 0 when nothing answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def ends(self, within_seconds: float) -> bool:
        """Whether the process ends by itself within that time."""
        deadline = time.monotonic() + within_seconds
        while self.process is not None and not self.process.died:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def wait_ready(self, timeout_seconds: float = 60.0) -> None:
        """Until the operator is synced.

        Raises:
            RuntimeError: with the end of its log when it ended or is late.
        """
        deadline = time.monotonic() + timeout_seconds
        while self.get("/readyz")[0] != http.client.OK:
            process = self.process
            if process is None or process.died or time.monotonic() > deadline:
                raise RuntimeError(f"the operator did not become ready\n{process.tail(40) if process else ''}")
            time.sleep(0.1)

    def resident_bytes(self) -> dict[str, int]:
        """Resident memory of the operator's processes: `parent`, `child`."""
        parent = self.process.pid if self.process is not None else None
        if parent is None:
            return {}
        children = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        planner = max(children, key=_resident, default=None)
        return {"parent": _resident(parent)} | ({"child": _resident(planner)} if planner is not None else {})

    def _container(self) -> dict[str, Any]:
        text = self._cluster.kubectl("get", "deployment", RELEASE, f"--namespace={NAMESPACE}", "--output=json")
        container: dict[str, Any] = json.loads(text)["spec"]["template"]["spec"]["containers"][0]
        return container


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
