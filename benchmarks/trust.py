"""Trust: killed at every await of the loop, one at a time, and how soon a standby takes over.

On a real control plane with KWOK as the kubelets. A witness of its own watches pods, workloads and routing all the
time; whatever was taken away or routed wrongly while the operator died and came back counts as a violation.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.progress import say
from benchmarks.results import Figure, Table
from devcluster.binaries import all_binaries
from devcluster.cluster import Cluster
from devcluster.faulty_operator import kill_points
from devcluster.installation import NAMESPACE, Installation
from devcluster.nodes import demo_nodes
from devcluster.witness import Witness

FAULTY = "devcluster.faulty_operator"
PROPAGATION_SECONDS = 2
LATE_SIGHT_SECONDS = 0.5
SETTLE_SECONDS = 120.0
DIES_SECONDS = 30.0
FAILOVERS = 5
LEASE = "plimsoll"
Manifest = dict[str, Any]


class BenchmarkError(RuntimeError):
    """The fleet did not do what is measured."""


def run() -> tuple[list[Figure], list[str], list[Table]]:
    """Measure."""
    all_binaries()
    with Cluster() as cluster, tempfile.TemporaryDirectory() as folder:
        experiment = _Experiment(cluster, Path(folder))
        experiment.prepare()
        figures = [*experiment.kills(), *experiment.failovers()]
    stage = (
        "Two LLMDeployments on the demo's nodes. Before each kill one of them gets another pod template, which means "
        "a new placement beside the old one, and the other a little more traffic; then the operator is started that "
        "dies (SIGKILL to itself) right after the await in question, and then one that does not die, until all is at "
        "rest."
    )
    meaning = (
        "A violation is a Ready pod deleted that the plan wants, a routing document that is empty or names a "
        "placement that is gone, and a workload deleted before routers had their time. Awaits that no change of the "
        "fleet passes (approval by hand, an API server that does not answer) are counted and not killed at. Failover: "
        "the leader is killed by SIGKILL; seconds until the standby holds the Lease."
    )
    return figures, [stage, meaning], []


class _Experiment:
    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster, self._folder = cluster, folder
        self._changes = 0

    def prepare(self) -> None:
        say("control plane up; installing the chart and a small fleet")
        Installation(self._cluster).install()
        self._cluster.kubectl("create", "namespace", "chat")
        self._cluster.apply(demo_nodes())
        pools = (("l40s", "L40S", "1.10"), ("l4", "L4", "0.60"), ("h100", "H100-SXM-80GB", "2.50"))
        self._cluster.apply(
            [
                _resource("PlacementPolicy", "default", "", {"routing": {"propagationSeconds": PROPAGATION_SECONDS}}),
                *(
                    _resource("GPUNodePool", name, "", {"accelerator": accelerator, "price": {"perHour": price}})
                    for name, accelerator, price in pools
                ),
            ]
        )
        self._change()
        with _running(Installation(self._cluster)):
            self._settle()

    # --- Acts --------------------------------------------------------------------------------------------------------

    def kills(self) -> list[Figure]:
        """One kill after the other, and each time back to rest."""
        passed = self._passed()
        points = kill_points()
        violations: list[str] = []
        seconds: list[float] = []
        with Witness(self._cluster) as witness:
            for number, point in enumerate(points, start=1):
                if point not in passed:
                    continue
                self._change()
                with _running(Installation(self._cluster, {"KILL_POINT": point}, module=FAULTY)) as operator:
                    if not operator.ends(DIES_SECONDS):
                        say(f"{number}/{len(points)} {point}: not passed this time")
                        continue
                began = time.monotonic()
                with _running(Installation(self._cluster)):
                    self._settle()
                seconds.append(time.monotonic() - began)
                found = [
                    *witness.pods_taken_away(),
                    *witness.misrouted(),
                    *witness.pruned_early(PROPAGATION_SECONDS - LATE_SIGHT_SECONDS),
                    *witness.stray_routes(),
                ]
                violations.extend(f"{point}: {sentence}" for sentence in found)
                witness.forget()
                say(f"{number}/{len(points)} {point}: at rest after {seconds[-1]:.1f} s; {found or 'nothing wrong'}")
        return [
            Figure("awaits of the loop and of its requests", len(points), ""),
            Figure("awaits at which the operator was killed", len(seconds), ""),
            Figure("violations after these kills", len(violations), "", 0),
            Figure("restart after a kill until all was at rest, median", statistics.median(seconds), "s"),
            Figure("restart after a kill until all was at rest, longest", max(seconds), "s"),
        ]

    def failovers(self) -> list[Figure]:
        """The leader dies; the other one takes the Lease."""
        found: list[float] = []
        operators = [Installation(self._cluster, name=f"operator-{number}") for number in range(2)]
        try:
            for operator in operators:
                operator.start().wait_ready()
            for _ in range(FAILOVERS):
                leader = next(item for item in operators if item.name == self._holder(operators))
                assert leader.process is not None
                assert leader.process.pid is not None
                os.killpg(leader.process.pid, signal.SIGKILL)
                began = time.monotonic()
                others = [item for item in operators if item is not leader]
                self._holder(others)
                found.append(time.monotonic() - began)
                say(f"failover after {found[-1]:.1f} s")
                leader.stop()
                leader.start().wait_ready()
        finally:
            for operator in operators:
                operator.stop()
        return [
            Figure(f"failover after SIGKILL, median of {FAILOVERS}", statistics.median(found), "s", 20.0),
            Figure(f"failover after SIGKILL, longest of {FAILOVERS}", max(found), "s", 20.0),
        ]

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _passed(self) -> set[str]:
        trace = self._folder / "trace"
        self._change()
        with _running(Installation(self._cluster, {"TRACE_FILE": str(trace)}, module=FAULTY)):
            self._settle()
        return set(trace.read_text().split())

    def _change(self) -> None:
        self._changes += 1
        traffic = {"name": "default", "tokens": {"input": 1000, "output": 250}}
        models = [{"name": "meta-llama/Llama-3.1-8B-Instruct"}]
        template = {"annotations": {"example.com/change": str(self._changes)}}
        specs = {
            "moving": {"traffic": [traffic | {"requestsPerMinute": 60}], "engine": {"podTemplate": template}},
            "growing": {"traffic": [traffic | {"requestsPerMinute": 60 + 10 * self._changes}]},
        }
        self._cluster.apply(
            [_resource("LLMDeployment", name, "chat", {"models": models, **spec}) for name, spec in specs.items()]
        )

    def _settle(self) -> None:
        """Until every LLMDeployment is Ready as it is written and nothing moves."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            items = json.loads(self._cluster.kubectl("get", "llmdeployments", "--namespace=chat", "--output=json"))
            if all(_at_rest(item) for item in items["items"]):
                return
            time.sleep(0.3)
        raise BenchmarkError(f"not at rest within {SETTLE_SECONDS:.0f} s")

    def _holder(self, among: list[Installation]) -> str:
        """Who holds the Lease; waits until it is one of these."""
        names = {item.name for item in among}
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            holder = self._cluster.kubectl(
                *("get", "lease", LEASE, f"--namespace={NAMESPACE}", "--output=jsonpath={.spec.holderIdentity}")
            )
            if holder in names:
                return holder
            time.sleep(0.1)
        raise BenchmarkError("nobody takes the Lease")


@contextlib.contextmanager
def _running(operator: Installation) -> Iterator[Installation]:
    """The operator is up within the block."""
    operator.start()
    try:
        yield operator
    finally:
        operator.stop()


def _at_rest(item: Manifest) -> bool:
    status = item.get("status", {})
    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
    current = status.get("observedGeneration") == item["metadata"]["generation"]
    return current and conditions.get("Ready") == "True" and conditions.get("Rebalancing") != "True"


def _resource(kind: str, name: str, namespace: str, spec: Manifest) -> Manifest:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "plimsoll.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
