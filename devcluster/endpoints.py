"""Emulated engines behind the pods that KWOK only pretends to run, and a Prometheus that is told of them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

from devcluster.cluster import Cluster
from devcluster.process import Process
from devcluster.prometheus import Prometheus

_READY = re.compile(r"^ready http://(\S+) ", re.MULTILINE)
_START_SECONDS = 30.0
_OWN_PODS = "app.kubernetes.io/managed-by=plimsoll"


class Endpoints:
    """`count` equal endpoints in one process, for as many pods. Use as a context manager; `follow` when pods change.

    `selector` tells which pods, by default all of Plimsoll's.
    """

    def __init__(self, cluster: Cluster, directory: Path, count: int, *options: str, selector: str = _OWN_PODS) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "plimsoll.cli.main", "emulate", "--port=0", f"--count={count}", *options]
        self._cluster, self._count, self._selector = cluster, count, selector
        self._process = Process(command, directory / "emulate.log")
        self._addresses: list[str] = []
        self.pods: dict[tuple[str, str], str] = {}
        """Address by namespace and name of the pod."""

    def __enter__(self) -> Self:
        self._process.start()
        self._process.wait("the endpoints", self._all_there, _START_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()

    def _all_there(self) -> bool:
        self._addresses = _READY.findall(self._process.log.read_text())
        return len(self._addresses) >= self._count

    def follow(self, prometheus: Prometheus) -> None:
        """Give each Ready pod of Plimsoll's an endpoint, keep those of the others, and let them be scraped.

        Raises:
            RuntimeError: there are more pods than endpoints.
        """
        text = self._cluster.kubectl("get", "pods", "--all-namespaces", f"--selector={self._selector}", "--output=json")
        ready = {
            (pod["metadata"]["namespace"], pod["metadata"]["name"])
            for pod in json.loads(text)["items"]
            if any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"].get("conditions", ()))
        }
        kept = {pod: address for pod, address in self.pods.items() if pod in ready}
        free = [address for address in self._addresses if address not in kept.values()]
        new = sorted(ready - kept.keys())
        if len(new) > len(free):
            raise RuntimeError(f"{len(ready)} pods are Ready, and there are {self._count} endpoints")
        self.pods = kept | dict(zip(new, free, strict=False))
        prometheus.scrape(
            (address, {"namespace": namespace, "pod": name}) for (namespace, name), address in self.pods.items()
        )
