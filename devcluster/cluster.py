"""A whole control plane on loopback ports: etcd, the three Kubernetes servers, and KWOK as every node's kubelet."""

from __future__ import annotations

import http.client
import json
import os
import random
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from devcluster import arguments
from devcluster.audit import POLICY, AuditLog, Mark
from devcluster.binaries import binary
from devcluster.certificates import Certificates
from devcluster.nodes import KUBELET_LABEL
from devcluster.process import Process

START_SECONDS = 120.0
_CLIENTS = ("kube-controller-manager", "kube-scheduler", "kwok")


class CommandError(RuntimeError):
    """kubectl or helm failed."""

    def __init__(self, command: str, returncode: int, stderr: str) -> None:
        super().__init__(f"{command} exited with {returncode}: {stderr.strip()}")
        self.returncode = returncode
        self.stderr = stderr


class Cluster:
    """One control plane, up between `start` and `stop` or inside a `with` block.

    `stages` are further KWOK Stage documents beside devcluster/stages.yaml, whose head names the annotations
    that make pods and nodes misbehave. Thousands of nodes need longer leases than kubelets have, or renewing them
    keeps the machine busy. The API server listens on `address`; nodes that are none of KWOK's must reach it.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        stages: Iterable[Mapping[str, Any]] = (),
        node_lease_seconds: int = arguments.NODE_LEASE_SECONDS,
        address: str = "127.0.0.1",
    ) -> None:
        self._temporary = None
        if directory is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="plimsoll-devcluster-")
            directory = Path(self._temporary.name)
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory.absolute()
        self.logs = self.directory / "logs"
        self.kubeconfig = self.directory / "admin.kubeconfig"
        self.audit_log = self.logs / "audit.log"
        self._audit = AuditLog(self.audit_log)
        self._stages = list(stages)
        self._node_lease_seconds = node_lease_seconds
        self._address = address
        self._processes: dict[str, Process] = {}
        self._starts: list[tuple[datetime, datetime]] = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Brings everything up and waits until it serves."""
        try:
            self._configure()
            self._processes["etcd"].start()
            self.start_apiserver()
            self._start_clients()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Ends everything in reverse order, and removes the work directory unless it was given."""
        for process in reversed(self._processes.values()):
            process.stop()
        if self._temporary is not None:
            self._temporary.cleanup()

    def stop_apiserver(self) -> None:
        """Ends the API server, open watches or not; everything else goes on and finds it gone."""
        self._processes["kube-apiserver"].stop(grace_seconds=1)

    def start_apiserver(self) -> None:
        """Starts the API server on its old port with its old data, and waits until it is ready."""
        begun = datetime.now(UTC)
        self._processes["kube-apiserver"].start()
        self._wait("kube-apiserver", self._apiserver_ready)
        self._starts.append((begun, datetime.now(UTC)))

    def restart_apiserver(self, downtime_seconds: float = 0.0) -> None:
        """An outage of the API server, after which its own clients begin anew.

        Their watches would come back with pauses that double with each failure, up to a minute; in a real cluster the
        lost leader lease restarts them, too.
        """
        self.stop_apiserver()
        time.sleep(downtime_seconds)
        self.start_apiserver()
        for name in _CLIENTS:
            self._processes[name].stop(grace_seconds=1)
        self._forget_leases()
        self._start_clients()

    @property
    def pids(self) -> dict[str, int]:
        """The process ids of what runs."""
        return {name: process.pid for name, process in self._processes.items() if process.pid is not None}

    def restart_controllers(self) -> None:
        """After an API has vanished: the garbage collector would wait for its watch of it, for a minute or two."""
        process = self._processes["kube-controller-manager"]
        process.stop(grace_seconds=1)
        process.start()

    def restart_kubelets(self) -> None:
        """Before nodes come back under their names: KWOK may have queued a lease twice, and then renews none."""
        self._processes["kwok"].stop(grace_seconds=1)
        self._forget_leases()
        self._start_kubelets()

    def restart_etcd(self, downtime_seconds: float = 0.0) -> None:
        """An outage of etcd: the API server stays, and can neither read nor write. Its data survive."""
        self._processes["etcd"].stop(grace_seconds=1)
        time.sleep(downtime_seconds)
        self._processes["etcd"].start()
        self._wait("kube-apiserver", self._apiserver_ready)

    # --- use --------------------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002
        """Runs kubectl as cluster admin; returns stdout, with stderr appended when failure is not checked for."""
        return self._run("kubectl", arguments, input, check)

    def helm(self, *arguments: str, input: str | None = None, check: bool = True) -> str:  # noqa: A002
        """Runs helm as cluster admin, with its caches in the work directory."""
        return self._run("helm", arguments, input, check)

    def apply(self, manifest: str | list[dict[str, Any]]) -> None:
        """Applies YAML text or objects, server-side."""
        if not isinstance(manifest, str):
            manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifest})
        self.kubectl("apply", "--server-side", "--field-manager=devcluster", "-f", "-", input=manifest)

    def service_account_token(self, namespace: str, name: str) -> str:
        """A token of a service account, good for a day."""
        return self.kubectl("create", "token", name, f"--namespace={namespace}", "--duration=24h").strip()

    def kubeconfig_for_token(self, token: str, path: Path, *, server: str | None = None) -> Path:
        """Writes a kubeconfig that authenticates with the token; `server` is a proxy to go through."""
        return self._write_kubeconfig(path, {"token": token}, server)

    def client_certificate(self, user: str, group: str | None = None) -> tuple[Path, Path]:
        """A client certificate and key for a user."""
        return self._certificates.client(user, group)

    def kubeconfig_for_certificate(self, certificate: Path, key: Path, path: Path) -> Path:
        """Writes a kubeconfig that authenticates with a client certificate."""
        return self._write_kubeconfig(path, {"client-certificate": str(certificate), "client-key": str(key)})

    def set_node_ready(self, name: str, ready: bool) -> None:
        """Makes the kubelet of a node report that it is not Ready, or that it is again; its pods run on."""
        value = "-" if ready else "=true"
        self.kubectl("annotate", "--overwrite", "node", name, f"devcluster.test/not-ready{value}")
        self.kubectl("wait", "node", name, f"--for=condition=Ready={str(ready).lower()}", "--timeout=30s")

    def cut_off_node(self, name: str) -> None:
        """Silences a node's kubelet: no leases, no pod starts or ends. Unknown after the usual 50 s."""
        self.kubectl("label", "node", name, f"{KUBELET_LABEL}-")

    def rejoin_node(self, name: str) -> None:
        """Brings a silenced kubelet back, and with it the readiness of the pods that still run there."""
        self.restart_kubelets()
        self.kubectl("label", "node", name, f"{KUBELET_LABEL}=kwok")
        self.kubectl("wait", "node", name, "--for=condition=Ready", "--timeout=30s")
        self._restore_pods(name)

    def serving_certificate(self) -> tuple[Path, Path]:
        """Certificate and key of the API server, good for any server on the loopback address."""
        return self._certificates.server, self._certificates.server_key

    def mark(self) -> Mark:
        """The present moment, for `writes_since` and `requests_since`."""
        return self._audit.mark()

    def requests_since(self, mark: Mark) -> list[dict[str, Any]]:
        """The audit events of all requests since the mark."""
        return self._audit.requests_since(mark)

    def writes_since(
        self, mark: Mark, user_prefix: str | None = None, *, include_leases: bool = False
    ) -> list[dict[str, Any]]:
        """The audit events of writes since the mark, by users whose name starts with the prefix."""
        return self._audit.writes_since(mark, user_prefix, include_leases=include_leases)

    def was_starting(self, event: Mapping[str, Any]) -> bool:
        """Whether the API server was not ready when the request arrived: it refuses what it has no role for yet."""
        arrived = datetime.fromisoformat(event["requestReceivedTimestamp"])
        return any(begin <= arrived <= end for begin, end in self._starts)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _configure(self) -> None:
        """Writes certificates, kubeconfigs and configuration files, and lays out the processes."""
        self.logs.mkdir(exist_ok=True)
        certificates = self._certificates = Certificates(self.directory / "pki", self._address)
        self.ca_file = certificates.ca
        etcd_port, etcd_peer_port, self._port, self._kwok_port = free_ports(4)
        self.server = f"https://{self._address}:{self._port}"
        kubeconfigs = {
            user: self._write_kubeconfig(path, _client_certificate(certificates, user, group))
            for user, group, path in (
                ("admin", "system:masters", self.kubeconfig),
                ("kwok", "system:masters", self.directory / "kwok.kubeconfig"),
                ("system:kube-controller-manager", None, self.directory / "kube-controller-manager.kubeconfig"),
                ("system:kube-scheduler", None, self.directory / "kube-scheduler.kubeconfig"),
            )
        }
        stages = Path(__file__).with_name("stages.yaml").read_text()
        commands = {
            "etcd": arguments.etcd(self.directory / "etcd", etcd_port, etcd_peer_port),
            "kube-apiserver": arguments.apiserver(
                self._address,
                self._port,
                etcd_port,
                certificates,
                self._write("audit-policy.json", json.dumps(POLICY)),
                self.audit_log,
            ),
            "kube-controller-manager": arguments.controller_manager(
                kubeconfigs["system:kube-controller-manager"], certificates, self._node_lease_seconds
            ),
            "kube-scheduler": arguments.scheduler(
                self._write(
                    "scheduler.json",
                    json.dumps(arguments.scheduler_configuration(kubeconfigs["system:kube-scheduler"])),
                )
            ),
            "kwok": arguments.kwok(
                kubeconfigs["kwok"],
                self._kwok_port,
                self._write("kwok.yaml", "\n---\n".join([stages, *map(json.dumps, self._stages)])),
                self._node_lease_seconds,
            ),
        }
        self._processes = {
            name: Process([binary(name), *command], self.logs / f"{name}.log") for name, command in commands.items()
        }

    def _write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(text)
        return path

    def _write_kubeconfig(self, path: Path, credentials: Mapping[str, str], server: str | None = None) -> Path:
        address = {"server": server} if server else {"server": self.server, "certificate-authority": str(self.ca_file)}
        path.touch(mode=0o600)
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "devcluster", "cluster": address}],
                    "users": [{"name": "devcluster", "user": dict(credentials)}],
                    "contexts": [{"name": "devcluster", "context": {"cluster": "devcluster", "user": "devcluster"}}],
                    "current-context": "devcluster",
                },
                indent=2,
            )
        )
        return path

    def _run(self, name: str, arguments: Iterable[str], text: str | None, check: bool) -> str:
        home = self.directory / "home"
        environment = os.environ | {
            "KUBECONFIG": str(self.kubeconfig),
            "KUBECACHEDIR": str(home / "kube"),
            "HELM_CACHE_HOME": str(home / "helm-cache"),
            "HELM_CONFIG_HOME": str(home / "helm-config"),
            "HELM_DATA_HOME": str(home / "helm-data"),
        }
        answer = subprocess.run(
            [binary(name), *arguments], input=text or "", capture_output=True, text=True, env=environment, check=False
        )
        if not check:
            return answer.stdout + answer.stderr
        if answer.returncode != 0:
            raise CommandError(" ".join([name, *arguments]), answer.returncode, answer.stderr)
        return answer.stdout

    def _apiserver_ready(self) -> bool:
        context = ssl.create_default_context(cafile=self.ca_file)
        return _answers(http.client.HTTPSConnection(self._address, self._port, timeout=5, context=context), "/readyz")

    def _start_clients(self) -> None:
        for name in _CLIENTS:
            self._processes[name].start()
        self._wait("the controllers", self._controllers_work)
        self._start_kubelets()

    def _start_kubelets(self) -> None:
        self._processes["kwok"].start()
        self._wait("kwok", lambda: _answers(http.client.HTTPConnection("127.0.0.1", self._kwok_port), "/healthz"))

    def _forget_leases(self) -> None:
        """A new KWOK waits 40 s for leases that the old one held."""
        self.kubectl("delete", "leases", "--namespace=kube-node-lease", "--all")

    def _controllers_work(self) -> bool:
        """The service account controller made its first object, so pods can be admitted."""
        return bool(self.kubectl("get", "serviceaccount", "default", "--ignore-not-found", "--output=name"))

    def _restore_pods(self, node: str) -> None:
        """Undoes what the node controller did to the pods of an unreachable node, as a kubelet does."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        condition = {"type": "Ready", "status": "True", "lastTransitionTime": now}
        pods = json.loads(
            self.kubectl("get", "pods", "--all-namespaces", f"--field-selector=spec.nodeName={node}", "--output=json")
        )
        for pod in pods["items"]:
            conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
            if conditions.get("ContainersReady") == "True" and conditions.get("Ready") == "False":
                self.kubectl(
                    *("patch", "pod", pod["metadata"]["name"], f"--namespace={pod['metadata']['namespace']}"),
                    *("--subresource=status", "--patch", json.dumps({"status": {"conditions": [condition]}})),
                )

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        """Polls until ready, and fails at once, with the log's end, when a started process has died."""
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            dead = [process for process in self._processes.values() if process.died]
            if dead or time.monotonic() > deadline:
                shown = dead or list(self._processes.values())
                logs = "\n".join(f"--- {process.name}\n{process.tail()}" for process in shown)
                raise RuntimeError(f"{what} did not come up\n{logs}")
            time.sleep(0.1)


def _answers(connection: http.client.HTTPConnection, path: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _client_certificate(certificates: Certificates, user: str, group: str | None) -> dict[str, str]:
    certificate, key = certificates.client(user, group)
    return {"client-certificate": str(certificate), "client-key": str(key)}


def free_ports(count: int) -> list[int]:
    """Unused ports below the ephemeral range, so that no outgoing connection takes one while a server restarts."""
    ports: list[int] = []
    for port in random.sample(range(20000, 32000), 1000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free loopback ports")
