"""How soon shares and placements follow load that a real Prometheus shows, and whether all is still at rest."""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.operator_fleet import BenchmarkError, accepted, namespace, time_of, writes_at_rest
from benchmarks.progress import say
from benchmarks.results import Figure
from devcluster.audit import Mark
from devcluster.binaries import binary
from devcluster.cluster import Cluster
from devcluster.exporter import Exporter
from devcluster.installation import Installation
from devcluster.nodes import gpu_node
from devcluster.prometheus import Prometheus
from plimsoll.rendering import labels

Manifest = dict[str, Any]

PREFIX = "reaction: "
NOTE = "Reaction: "
NAMESPACE = "reaction"
REPETITIONS = 8
SCRAPE_SECONDS = 5
LOOK_SECONDS = 5
WINDOW_SECONDS = 4 * LOOK_SECONDS
"""Over which the operator asks."""
USUAL, SURGE = 800, 1200
"""Requests per minute, to a H100 and two L40S at first."""
SHOWN = 1.1
"""A change shows when what arrives over the window is so many times what it was."""
SHARES_SECONDS, PLACEMENT_SECONDS = 15.0, 60.0
CALM_SECONDS = 30.0
REST_SECONDS = 120.0
NOISE = 0.1
LATEST_SECONDS = 180.0
_POLL_SECONDS = 0.2
_POOL_LABEL = "example.com/node-pool"


def run() -> tuple[list[Figure], list[str]]:
    """Measure."""
    binary("prometheus")
    with tempfile.TemporaryDirectory(prefix="plimsoll-reaction-") as folder, Cluster() as cluster:
        prometheus = Prometheus(Path(folder), SCRAPE_SECONDS)
        operator = Installation(cluster)
        try:
            with prometheus:
                return Benchmark(cluster, operator, prometheus).run(), [" ".join(_NOTE.split())]
        finally:
            operator.stop()


_NOTE = f"""{NOTE}{REPETITIONS} LLMDeployments, each on a H100 and L40S of its own, at {USUAL} requests per minute;
one after the other goes to {SURGE} at once, at a random moment between two looks. Prometheus scrapes every
{SCRAPE_SECONDS} s, the operator looks every {LOOK_SECONDS} s at the last {WINDOW_SECONDS} s. The time begins with the
first answer of Prometheus, asked all the time, that shows a tenth more over that window, and ends when the API server
had answered: for shares the routing document, for the placement the workload with more replicas. At rest half of the
LLMDeployments have noise of ±{NOISE:.0%}."""


@dataclass(frozen=True)
class Reaction:
    """Seconds since the change showed."""

    shares: float
    placement: float


class Benchmark:
    """The acts in order."""

    def __init__(self, cluster: Cluster, operator: Installation, prometheus: Prometheus) -> None:
        self._cluster, self._operator, self._prometheus = cluster, operator, prometheus
        self._exporters = {f"s{number}": Exporter(per_minute=USUAL) for number in range(REPETITIONS)}
        self._draw = random.Random(0)

    def run(self) -> list[Figure]:
        """All acts."""
        self._prepare()
        with ExitStack() as stack:
            for exporter in self._exporters.values():
                stack.enter_context(exporter)
            stack.enter_context(self._scraped())
            self._settle()
            say(f"all run; {CALM_SECONDS:g} s for the operator to get to know them")
            time.sleep(CALM_SECONDS)
            found = [self._surge(name) for name in self._exporters]
            self._settle()
            time.sleep(CALM_SECONDS)
            with self._noise():
                rest = writes_at_rest(self._cluster, REST_SECONDS)
        return [
            *_figures("shares were written", [item.shares for item in found], SHARES_SECONDS),
            *_figures("the placement was written", [item.placement for item in found], PLACEMENT_SECONDS),
            Figure(f"{PREFIX}{rest.name}, with noise of a tenth", rest.value, rest.unit, rest.target),
        ]

    def _prepare(self) -> None:
        say("control plane up; installing the chart")
        self._operator.install(
            prometheus={"url": self._prometheus.url}, settings={"demandIntervalSeconds": LOOK_SECONDS}
        )
        self._cluster.apply([namespace(NAMESPACE), *_nodes(self._exporters)])
        self._cluster.apply([*_pools(self._exporters), *(_llm_deployment(name) for name in self._exporters)])
        self._operator.start()
        self._operator.wait_ready()

    # --- Acts --------------------------------------------------------------------------------------------------------

    def _surge(self, name: str) -> Reaction:
        """Of one LLMDeployment.

        Raises:
            BenchmarkError: nothing follows.
        """
        time.sleep(self._draw.uniform(0, LOOK_SECONDS))
        replicas, mark = self._replicas(name), self._cluster.mark()
        self._exporters[name].set(SURGE)
        shown: datetime | None = None
        began = time.monotonic()
        while time.monotonic() < began + LATEST_SECONDS:
            if shown is None:
                time.sleep(_POLL_SECONDS)
                if self._arrivals_per_minute(name) > SHOWN * USUAL:
                    shown = datetime.now(UTC)
                continue
            time.sleep(1.0)
            if self._replicas(name) > replicas and (reaction := self._reaction(name, mark, shown)) is not None:
                say(f"{name}: shares after {reaction.shares:.1f} s, placement after {reaction.placement:.1f} s")
                return reaction
        process = self._operator.process
        raise BenchmarkError(f"nothing follows the load of {name}\n{process.tail(30) if process is not None else ''}")

    def _reaction(self, name: str, mark: Mark, shown: datetime) -> Reaction | None:
        writes = accepted(self._cluster.requests_since(mark))
        first: dict[str, float] = {}
        for event in writes:
            target = event["objectRef"]
            own = target.get("name", "").startswith(f"{name}-") and target.get("namespace") == NAMESPACE
            if own and target["resource"] in ("configmaps", "deployments"):
                first.setdefault(target["resource"], (time_of(event) - shown).total_seconds())
        if first.keys() < {"configmaps", "deployments"}:
            return None
        return Reaction(first["configmaps"], first["deployments"])

    def _arrivals_per_minute(self, name: str) -> float:
        """What the operator is told when it asks now: what ended, and what piled up."""
        series, window = f'{{namespace="{NAMESPACE}",pod=~"{name}-.*"}}', f"{WINDOW_SECONDS}s"
        running = f"vllm:num_requests_running{series}"
        ended = f"sum(rate(vllm:request_success_total{series}[{window}]))"
        query = f"60 * ({ended} + (sum({running}) - sum({running} offset {window})) / {WINDOW_SECONDS})"
        return self._prometheus.value(query)

    # --- Inside ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _scraped(self) -> Iterator[None]:
        """All Ready pods have engines that Prometheus scrapes."""
        over = threading.Event()

        def follow() -> None:
            while not over.wait(1.0):
                serving: dict[str, list[tuple[str, str]]] = {name: [] for name in self._exporters}
                for pod in self._objects("pods"):
                    states = {item["type"]: item["status"] for item in pod["status"].get("conditions", ())}
                    if states.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]:
                        own = pod["metadata"]["labels"][labels.LLM_DEPLOYMENT]
                        serving[own].append((NAMESPACE, pod["metadata"]["name"]))
                groups = [self._exporters[name].serve(pods) for name, pods in serving.items()]
                self._prometheus.scrape(target for group in groups for target in group)

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    @contextmanager
    def _noise(self) -> Iterator[None]:
        """Of half of them, anew every two seconds."""
        over = threading.Event()
        noisy = list(self._exporters.values())[::2]

        def run() -> None:
            while not over.wait(2.0):
                for exporter in noisy:
                    exporter.set(SURGE * self._draw.uniform(1 - NOISE, 1 + NOISE))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _settle(self) -> None:
        """Until all are Ready and none moves.

        Raises:
            BenchmarkError: it takes too long.
        """
        deadline = time.monotonic() + LATEST_SECONDS
        while time.monotonic() < deadline:
            found = [_states(item) for item in self._objects("llmdeployments")]
            if all(item.get("Ready") == "True" and item.get("Rebalancing") == "False" for item in found):
                return
            time.sleep(1.0)
        raise BenchmarkError("the fleet does not come to rest")

    def _replicas(self, name: str) -> int:
        status = next(item for item in self._objects("llmdeployments") if item["metadata"]["name"] == name)["status"]
        return sum(int(item["replicas"]["desired"]) for item in status["placements"])

    def _objects(self, kind: str) -> list[Manifest]:
        options = (f"--namespace={NAMESPACE}", "--output=json")
        items: list[Manifest] = json.loads(self._cluster.kubectl("get", kind, *options))["items"]
        return items


def _states(item: Manifest) -> dict[str, str]:
    return {each["type"]: each["status"] for each in item.get("status", {}).get("conditions", ())}


def _figures(what: str, seconds: Sequence[float], target: float) -> list[Figure]:
    until = f"{PREFIX}first answer that shows the change until {what}"
    return [
        Figure(f"{until}, p50", statistics.median(seconds), "s", target),
        Figure(f"{until}, worst", max(seconds), "s", target),
    ]


def _nodes(names: Iterable[str]) -> list[Manifest]:
    return [
        gpu_node(f"{kind}-{name}", product, 4, memory_mib, labels={_POOL_LABEL: f"{kind}-{name}"})
        for name in names
        for kind, product, memory_mib in (("l40s", "NVIDIA-L40S", 46068), ("h100", "NVIDIA-H100-80GB-HBM3", 81559))
    ]


def _pools(names: Iterable[str]) -> list[Manifest]:
    return [
        {
            "apiVersion": "plimsoll.dev/v1alpha1",
            "kind": "GPUNodePool",
            "metadata": {"name": f"{kind}-{name}"},
            "spec": {
                "accelerator": accelerator,
                "price": {"perHour": price},
                "nodeSelector": {"matchLabels": {_POOL_LABEL: f"{kind}-{name}"}},
            },
        }
        for name in names
        for kind, accelerator, price in (("l40s", "L40S", "1.10"), ("h100", "H100-SXM-80GB", "9.00"))
    ]


def _llm_deployment(name: str) -> Manifest:
    tokens = {"input": 1000, "output": 250}
    return {
        "apiVersion": "plimsoll.dev/v1alpha1",
        "kind": "LLMDeployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "models": [{"name": "meta-llama/Llama-3.1-8B-Instruct"}],
            "traffic": [{"name": "default", "requestsPerMinute": USUAL, "tokens": tokens}],
            "placement": {
                "pools": [f"l40s-{name}", f"h100-{name}"],
                "parallelism": {"tensor": [1], "pipeline": [1]},
            },
        },
    }
