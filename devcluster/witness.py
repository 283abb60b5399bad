"""Someone who watches pods, workloads and routing all the time and remembers everything, to be asked afterwards."""

from __future__ import annotations

import http.client
import json
import math
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from devcluster.cluster import Cluster
from plimsoll.rendering import labels

Manifest = dict[str, Any]
_PATHS = {
    "Pod": "/api/v1/pods",
    "Deployment": "/apis/apps/v1/deployments",
    "ConfigMap": "/api/v1/configmaps",
}
_SELECTOR = f"{labels.MANAGED_BY.replace('/', '%2F')}%3D{labels.MANAGER}"


@dataclass(frozen=True)
class Sighting:
    """One watch event."""

    time: float
    type: str
    kind: str
    object: Manifest

    @property
    def key(self) -> tuple[str, str, str]:
        return self.kind, self.object["metadata"]["namespace"], self.object["metadata"]["name"]

    @property
    def version(self) -> int:
        """Order of all changes in the cluster: etcd counts them together."""
        return int(self.object["metadata"]["resourceVersion"])


@dataclass(frozen=True)
class _Deleted:
    """A workload that is gone."""

    name: str
    routed: bool
    """The routing document still named it."""
    unrouted_seconds: float
    """Since a document had last named it; infinite when none was seen that did."""


class Witness:
    """Watches of its own as cluster admin, which outlive the API server. Use as a context manager."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._seen: list[Sighting] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._watch, args=(kind,), daemon=True) for kind in _PATHS]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(5)

    def seen(self) -> list[Sighting]:
        """Everything so far, in the order in which it happened."""
        with self._lock:
            return sorted(self._seen, key=lambda item: item.version)

    def forget(self) -> None:
        """Leaves out what is past; what exists stays known."""
        with self._lock:
            last: dict[tuple[str, str, str], Sighting] = {}
            for item in sorted(self._seen, key=lambda item: item.version):
                last[item.key] = item
            self._seen = [item for item in last.values() if item.type != "DELETED"]

    # --- Judging ----------------------------------------------------------------------------------------------------

    def pods_taken_away(self) -> list[str]:
        """Ready pods that were deleted although the cluster wants more of their placement now than were left.

        Sentences; empty when nothing was taken away by mistake.
        """
        wanted = {
            (item["metadata"]["namespace"], item["metadata"]["name"]): int(item["spec"]["replicas"])
            for item in self._now("Deployment")
        }
        ready: dict[tuple[str, str], set[str]] = {}
        found = []
        for item in self.seen():
            if item.kind != "Pod":
                continue
            metadata = item.object["metadata"]
            placement = (metadata["namespace"], metadata["labels"].get(labels.PLACEMENT, ""))
            group = ready.setdefault(placement, set())
            if item.type != "DELETED" and "deletionTimestamp" not in metadata:
                (group.add if _ready(item.object) else group.discard)(metadata["uid"])
                continue
            if metadata["uid"] not in group:
                continue
            group.discard(metadata["uid"])
            if len(group) < wanted.get(placement, 0):
                found.append(
                    f"pod {metadata['name']} was Ready and was deleted; {len(group)} of {wanted[placement]} were left"
                )
        return found

    def misrouted(self) -> list[str]:
        """Workloads that were deleted while the routing document of their LLMDeployment named them, and documents
        without a backend. Sentences; empty when routing was right at every moment.
        """
        empty = [
            f"the routing document {'/'.join(item.key[1:])} was published empty"
            for item in self.seen()
            if item.kind == "ConfigMap" and item.type != "DELETED" and not _backends(item.object)
        ]
        return [*empty, *(f"{gone.name} was deleted while it was routed to" for gone in self._deleted() if gone.routed)]

    def pruned_early(self, propagation_seconds: float) -> list[str]:
        """Workloads that were deleted before routers had that long to read a document without them. Sentences."""
        return [
            f"{gone.name} was deleted {gone.unrouted_seconds:.1f} s after routing had left it"
            for gone in self._deleted()
            if gone.unrouted_seconds < propagation_seconds
        ]

    def stray_routes(self) -> list[str]:
        """Backends of the routing documents as they are now whose placement has no Ready pod."""
        serving = {
            (pod["metadata"]["namespace"], pod["metadata"]["labels"].get(labels.PLACEMENT, ""))
            for pod in self._now("Pod")
            if _ready(pod)
        }
        return [
            f"{item['metadata']['name']} names {backend}, which has no Ready pod"
            for item in self._now("ConfigMap")
            if "routing.json" in item.get("data", {})
            for backend in sorted(_backends(item))
            if (item["metadata"]["namespace"], backend) not in serving
        ]

    # --- inside -----------------------------------------------------------------------------------------------------

    def _deleted(self) -> Iterator[_Deleted]:
        """Every workload that was deleted, with what routing said of it then."""
        left: dict[tuple[str, str], float] = {}
        routed: dict[tuple[str, str], set[str]] = {}
        for item in self.seen():
            metadata = item.object["metadata"]
            namespace = metadata["namespace"]
            owner = (namespace, metadata["labels"].get(labels.LLM_DEPLOYMENT, ""))
            if item.kind == "ConfigMap":
                now = set() if item.type == "DELETED" else _backends(item.object)
                left |= {(namespace, name): item.time for name in routed.get(owner, set()) - now}
                routed[owner] = now
            elif item.kind == "Deployment" and item.type == "DELETED":
                name = metadata["name"]
                unrouted_seconds = item.time - left.get((namespace, name), -math.inf)
                yield _Deleted(name, name in routed.get(owner, ()), unrouted_seconds)

    def _now(self, kind: str) -> list[Manifest]:
        text = self._cluster.kubectl("get", "--raw", f"{_PATHS[kind]}?labelSelector={_SELECTOR}")
        items: list[Manifest] = json.loads(text)["items"]
        return items

    def _watch(self, kind: str) -> None:
        version = ""
        while not self._ended.is_set():
            try:
                for type_, manifest in self._events(kind, version):
                    if type_ == "ERROR":
                        version = ""
                        break
                    version = manifest["metadata"]["resourceVersion"]
                    if type_ != "BOOKMARK":
                        with self._lock:
                            self._seen.append(Sighting(time.monotonic(), type_, kind, manifest))
            except (OSError, http.client.HTTPException, ValueError):
                self._ended.wait(0.3)

    def _events(self, kind: str, version: str) -> Iterator[tuple[str, Manifest]]:
        credentials = json.loads(self._cluster.kubeconfig.read_text())["users"][0]["user"]
        context = ssl.create_default_context(cafile=self._cluster.ca_file)
        context.load_cert_chain(credentials["client-certificate"], credentials["client-key"])
        host = self._cluster.server.removeprefix("https://")
        connection = http.client.HTTPSConnection(host, timeout=2, context=context)
        path = f"{_PATHS[kind]}?labelSelector={_SELECTOR}&watch=true&allowWatchBookmarks=true"
        try:
            connection.request("GET", f"{path}&resourceVersion={version}" if version else path)
            with connection.getresponse() as answer:
                while not self._ended.is_set():
                    try:
                        line = answer.readline()
                    except TimeoutError:
                        return  # nothing happened; the next watch goes on from the same version
                    if not line:
                        return
                    event = json.loads(line)
                    yield event["type"], event["object"]
        finally:
            connection.close()


def _ready(pod: Manifest) -> bool:
    conditions = {item["type"]: item["status"] for item in pod.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def _backends(config_map: Manifest) -> set[str]:
    document = json.loads(config_map.get("data", {}).get("routing.json", '{"classes": []}'))
    return {backend["placement"] for item in document["classes"] for backend in item["backends"]}
