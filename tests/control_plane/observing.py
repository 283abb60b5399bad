"""The operator with a Prometheus that scrapes made-up engines behind the pods of one LLMDeployment."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devcluster.exporter import Exporter
from devcluster.installation import Installation
from devcluster.prometheus import Prometheus
from plimsoll.rendering import labels
from tests.control_plane.bench import Bench, Manifest, deleting, llm_deployment, placements, ready

NAME, NAMESPACE = "assistant", "chat"
MODEL = "meta-llama/Llama-3.1-8B-Instruct"
INTERVAL_SECONDS = 2.0
DECLARED = 600
"""Requests per minute; some 150 are one replica on an L40S."""


@dataclass(frozen=True)
class Observed:
    """The LLMDeployment `assistant`, with the load of its engines in a test's hands."""

    bench: Bench
    prometheus: Prometheus
    exporter: Exporter

    def fresh(self, status: str, reason: str) -> None:
        """Waits until the condition MetricsFresh is so."""
        self.bench.wait_condition("llmdeployment", NAME, NAMESPACE, "MetricsFresh", status, reason, seconds=90)

    def placements(self) -> dict[str, Manifest]:
        """Those of its status, by name."""
        return placements(self.bench.get("llmdeployment", NAME, NAMESPACE))

    def desired(self) -> int:
        """Replicas that are planned."""
        return sum(item["replicas"]["desired"] for item in self.placements().values())

    def pools(self) -> set[str]:
        """Where it is."""
        return {str(item["pool"]) for item in self.placements().values()}

    def traffic(self) -> dict[str, Any]:
        """What status says of its only class."""
        (traffic,) = self.bench.get("llmdeployment", NAME, NAMESPACE)["status"]["traffic"]
        return dict(traffic)

    def rate(self) -> float:
        """Requests per minute that are planned for, as status says."""
        return float(self.traffic()["requestsPerMinute"])

    def metrics(self) -> str:
        """The operator's own."""
        return str(self.bench.operator.get("/metrics")[1])

    def gauge(self, kind: str) -> float:
        """Requests per minute, `observed`, `planned` or `declared`."""
        name = "plimsoll_traffic_requests_per_minute"
        found = re.search(
            rf'^{name}{{[^}}]*deployment="{NAME}"[^}}]*kind="{kind}"[^}}]*}} (\S+)$', self.metrics(), re.MULTILINE
        )
        return float(found[1]) if found else 0.0


@contextmanager
def observed(installed: Bench, directory: Path, *around: Manifest, rate: int = DECLARED) -> Iterator[Observed]:
    """The fleet at rest, its metrics scraped, at a rate that is as declared. `around` is applied first."""
    prometheus = Prometheus(directory / "prometheus")
    settings = {
        "PLIMSOLL_PROMETHEUS_URL": prometheus.url,
        "PLIMSOLL_DEMAND_INTERVAL_SECONDS": str(INTERVAL_SECONDS),
        "PLIMSOLL_SLO_INTERVAL_SECONDS": str(INTERVAL_SECONDS),
    }
    bench = Bench(installed.cluster, Installation(installed.cluster, settings))
    single = {"parallelism": {"tensor": [1], "pipeline": [1]}}
    bench.apply(*around, llm_deployment(NAME, NAMESPACE, MODEL, rate, placement=single))
    exporter = Exporter(per_minute=rate)
    over = threading.Event()

    def follow() -> None:
        while not over.wait(1.0):
            pods = bench.all("pods", selector=f"{labels.LLM_DEPLOYMENT}={NAME}")
            serving = [pod["metadata"] for pod in pods if ready(pod) and not deleting(pod)]
            prometheus.scrape(exporter.serve((item["namespace"], item["name"]) for item in serving))

    following = threading.Thread(target=follow)
    try:
        with prometheus, exporter:
            bench.start()
            bench.settle()
            following.start()
            try:
                yield Observed(bench, prometheus, exporter)
            finally:
                over.set()
                following.join()
    finally:
        bench.operator.stop()
        bench.clear()
