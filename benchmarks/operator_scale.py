"""The operator on a real control plane at the promised size: 1,000 LLMDeployments, 200 pools, 5,000 nodes, 20,000 pods.

First plan, edits, a storm of changes, memory, rest.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from benchmarks import fleet, large_fleet, operator_fleet
from benchmarks.bulk import Bulk, Request
from benchmarks.progress import say
from benchmarks.results import Figure
from devcluster.cluster import Cluster
from devcluster.installation import Installation
from plimsoll.controller.kinds import NODE, POD, RESOURCES, Kind

NODE_LEASE_SECONDS = 4000
"""A hundred times as long as usual: 5,000 nodes would renew 500 leases a second."""
WRITES_PER_SECOND = 200
"""The operator's own limit."""
EDITS = 10
STORM_EDITS, STORM_NODES, STORM_PODS = 1000, 500, 500
REST_SECONDS = 600.0
PREFIX = "at scale: "
NOTE = "At scale:"
TIMEOUT_SECONDS = 900.0
_ACCOUNT = ("get", "serviceaccount", "default", f"--namespace={large_fleet.NAMESPACE}", "--ignore-not-found", "-oname")
"""Without it no pod is admitted."""


def run() -> tuple[list[Figure], list[str]]:
    """Measure."""
    with Cluster(node_lease_seconds=NODE_LEASE_SECONDS) as cluster:
        installed = Installation(cluster)
        try:
            figures = _Scale(cluster, installed).run()
        finally:
            installed.stop()
    note = (
        f"{NOTE} {large_fleet.DEPLOYMENTS} LLMDeployments, {len(large_fleet.POOLS)} GPUNodePools, "
        f"{sum(pool.nodes for pool in large_fleet.POOLS)} KWOK nodes with {large_fleet.PODS_PER_NODE} pods of others "
        f"each (benchmarks/large_fleet.py) stand before the operator starts. Writes at the rate limit are what the "
        f"plan's objects take at {WRITES_PER_SECOND} per second; the API server, which has the same cores as the "
        f"operator, takes longer for them, and that counts as the operator's time. A storm is {STORM_EDITS} edits of "
        f"LLMDeployments, {STORM_NODES} of nodes and {STORM_PODS} pods deleted; its time runs from the last change to "
        f"the last object that the first plan begun after it writes at once. "
        f"The percentiles of {EDITS} edits are the median and the longest."
    )
    return figures, [note]


class _Scale(operator_fleet.Benchmark):
    """The acts in order."""

    timeout_seconds = TIMEOUT_SECONDS

    def run(self) -> list[Figure]:
        """All acts."""
        self._bulk = Bulk(self._cluster.kubeconfig)
        self._prepare()
        figures = [*self._first_plan(), *self._edits(), *self._storm(), *self._at_rest(), *self._resident()]
        return [Figure(PREFIX + item.name, item.value, item.unit, item.target) for item in figures]

    def _prepare(self) -> None:
        say("control plane up; installing the chart")
        self._operator.install()
        self._cluster.apply([*fleet.namespaces(), operator_fleet.namespace(large_fleet.NAMESPACE)])
        ready = [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "benchmark"}]
        while not self._cluster.kubectl(*_ACCOUNT):
            time.sleep(0.2)
        nodes = [{**node, "status": {**node["status"], "conditions": ready}} for node in large_fleet.nodes()]
        say(f"{len(nodes)} nodes")
        self._create(NODE, nodes, "nodes")
        pods = large_fleet.foreign_pods()
        say(f"{len(pods)} pods of others")
        self._create(POD, pods, "pods")
        say(f"{large_fleet.DEPLOYMENTS} LLMDeployments")
        self._create(RESOURCES["GPUNodePool"], large_fleet.pools(), "pools")
        self._create(RESOURCES["InferenceSLO"], fleet.slos(), "objectives")
        self._create(RESOURCES["PlacementPolicy"], [fleet.policy(operator_fleet.PROPAGATION_SECONDS)], "policies")
        self._create(RESOURCES["LLMDeployment"], large_fleet.deployments(), "LLMDeployments")

    def _create(self, kind: Kind, manifests: list[dict[str, Any]], what: str) -> None:
        paths = (kind.path(item["metadata"].get("namespace", "")) for item in manifests)
        self._bulk.send([Request("POST", path, item) for path, item in zip(paths, manifests, strict=True)], what)

    # --- Acts --------------------------------------------------------------------------------------------------------

    def _first_plan(self) -> list[Figure]:
        say("operator starts")
        mark = self._cluster.mark()
        self._operator.start()
        began = datetime.now(UTC)
        self._settle()
        accepted = operator_fleet.accepted(self._cluster.requests_since(mark))
        planned = operator_fleet.first_round(accepted)
        whole = operator_fleet.since(began, planned)
        writing = len(planned) / WRITES_PER_SECOND
        rounds = self._metric("plimsoll_plan_seconds_count")
        say(f"settled; written: {operator_fleet.summary(accepted)}")
        return [
            Figure("operator start until the first plan was applied, less its writes", whole - writing, "s", 60.0),
            Figure("its writes at the rate limit", writing, "s"),
            Figure(
                "operator start until the first object of the first plan was accepted",
                operator_fleet.since(began, planned[:1]),
                "s",
            ),
            Figure("operator start until the last object of the first plan was accepted", whole, "s"),
            Figure("objects written for the first plan", len(planned), ""),
            Figure("planning rounds until rest", rounds, ""),
            Figure("mean planning round until rest", self._metric("plimsoll_plan_seconds_sum") / rounds, "s"),
            Figure("operator start until it had nothing more to write", operator_fleet.since(began, accepted), "s"),
        ]

    def _edits(self) -> list[Figure]:
        answer = self._cluster.kubectl("get", "llmdeployments", "--all-namespaces", "--output=json")
        items = [item for item in json.loads(answer)["items"] if len(item["spec"]["traffic"]) == 1]
        items.sort(key=lambda item: (-item["spec"]["traffic"][0]["requestsPerMinute"], item["metadata"]["name"]))
        seconds: list[float] = []
        for number, item in enumerate(items[:EDITS], 1):
            took = self._edit_of(item)
            say(f"edit {number} of {EDITS}: {took:.1f} s")
            seconds.append(took)
        return [
            Figure(
                "edit accepted until the last resulting object was accepted, p50", statistics.median(seconds), "s", 5.0
            ),
            Figure("edit accepted until the last resulting object was accepted, p99", max(seconds), "s", 10.0),
        ]

    def _edit_of(self, item: dict[str, Any]) -> float:
        """Seconds from an edit, which asks for three times the traffic, to the last object of its plan."""
        mark = self._cluster.mark()
        rate = item["spec"]["traffic"][0]["requestsPerMinute"]
        traffic = [{**item["spec"]["traffic"][0], "requestsPerMinute": 3 * rate}]
        self._bulk.send([_patch("LLMDeployment", item, {"spec": {"traffic": traffic}})], "edits")
        edited = datetime.now(UTC)
        # Quiet for longer than a debounce and a round.
        self._settle()
        planned = operator_fleet.first_round(operator_fleet.accepted(self._cluster.requests_since(mark)))
        return operator_fleet.since(edited, planned)

    def _storm(self) -> list[Figure]:
        say("a storm of changes")
        mark = self._cluster.mark()
        began = time.monotonic()
        labels = {"metadata": {"labels": {"example.com/storm": "true"}}}
        pods = large_fleet.foreign_pods()[:: large_fleet.PODS_PER_NODE][:STORM_PODS]
        gone = (POD.path(large_fleet.NAMESPACE, pod["metadata"]["name"]) for pod in pods)
        self._bulk.send(
            [
                *(_patch("LLMDeployment", item, _busier(item)) for item in large_fleet.deployments()[:STORM_EDITS]),
                *(Request("PATCH", NODE.path("", node["metadata"]["name"]), labels) for node in _few_nodes()),
                *(Request("DELETE", f"{path}?gracePeriodSeconds=0") for path in gone),
            ],
            "changes",
        )
        ended = datetime.now(UTC)
        say(f"{STORM_EDITS + STORM_NODES + STORM_PODS} changes in {time.monotonic() - began:.1f} s")
        carried_out = self._next_plan_carried_out()
        self._settle()
        written = operator_fleet.accepted(self._cluster.requests_since(mark))
        later = [event for event in written if operator_fleet.time_of(event) > ended]
        known = [event for event in later if operator_fleet.time_of(event) <= carried_out]
        return [
            Figure(
                "last change of a storm until the last object of the first plan that knows all of it was accepted",
                operator_fleet.since(ended, [event for event in known if operator_fleet.is_planned(event)]),
                "s",
                15.0,
            ),
            Figure("writes from the last change of a storm to that object's", len(known), ""),
            Figure("last change of a storm until nothing more was written", operator_fleet.since(ended, later), "s"),
        ]

    def _next_plan_carried_out(self) -> datetime:
        """When the next plan that is begun from now on has been carried out: the one after it begins, or none does.

        Raises:
            BenchmarkError: there is none.
        """
        plans, planning = self._metric("plimsoll_plan_seconds_count"), self._metric("plimsoll_planning")
        self._wait("the plan", lambda: self._metric("plimsoll_plan_seconds_count") > plans + planning)
        quiet = self._requests(), time.monotonic()

        def over() -> bool:
            nonlocal quiet
            requests = self._requests()
            quiet = quiet if requests == quiet[0] else (requests, time.monotonic())
            return bool(self._metric("plimsoll_planning")) or time.monotonic() - quiet[1] > operator_fleet.QUIET_SECONDS

        self._wait("its end", over)
        return datetime.now(UTC)

    def _wait(self, what: str, happened: Callable[[], bool]) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not happened():
            self._sample()
            if time.monotonic() > deadline:
                raise operator_fleet.BenchmarkError(f"{what}: not after {TIMEOUT_SECONDS:g} s\n{self._log()}")
            time.sleep(0.2)

    def _at_rest(self) -> list[Figure]:
        return [operator_fleet.writes_at_rest(self._cluster, REST_SECONDS)]

    def _resident(self) -> list[Figure]:
        self._sample()
        parent, child = (self._peak[name] / operator_fleet.MEGABYTE for name in ("parent", "child"))
        return [
            Figure("resident memory of the operator, highest seen", parent, "MB", 400.0),
            Figure("resident memory of its planner, highest seen", child, "MB", 1000.0),
        ]


def _patch(kind: str, item: dict[str, Any], body: dict[str, Any]) -> Request:
    metadata = item["metadata"]
    return Request("PATCH", RESOURCES[kind].path(metadata.get("namespace", ""), metadata["name"]), body)


def _busier(item: dict[str, Any]) -> dict[str, Any]:
    """A tenth more of every class."""
    traffic = [
        {**one, "requestsPerMinute": math.ceil(1.1 * one["requestsPerMinute"])} for one in item["spec"]["traffic"]
    ]
    return {"spec": {"traffic": traffic}}


def _few_nodes() -> list[dict[str, Any]]:
    nodes = large_fleet.nodes()
    return nodes[:: len(nodes) // STORM_NODES][:STORM_NODES]
