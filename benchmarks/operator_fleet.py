"""The operator on a real control plane with the whole fleet: first plan, one edit, rest, memory, restart.

Times come from the API server's audit log. KWOK plays the kubelets, so pods are Running as soon as they are bound.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from benchmarks import fleet
from benchmarks.progress import say
from benchmarks.results import Figure
from devcluster.cluster import Cluster
from devcluster.installation import NAMESPACE, USER, Installation

Event = dict[str, Any]

PROPAGATION_SECONDS = 3
QUIET_SECONDS = 20.0
"""Without a request for so long the operator is at rest: longer than any of its retries and waits."""
REST_SECONDS = 60.0
TIMEOUT_SECONDS = 600.0
TELL_SECONDS = 15.0
MEGABYTE = 1e6

PLANNED = frozenset({"deployments", "services", "poddisruptionbudgets", "configmaps", "httproutes"})
"""Resources of the objects that carry out a plan."""


class BenchmarkError(RuntimeError):
    """The operator did not do what is measured; the message says what, with the end of its log."""


def run() -> tuple[list[Figure], list[str]]:
    """Measure."""
    with Cluster() as cluster:
        operator = Installation(cluster)
        try:
            figures = Benchmark(cluster, operator).run()
        finally:
            operator.stop()
    nodes = sum(pool.nodes for pool in fleet.POOLS)
    stage = (
        f"{fleet.DEPLOYMENTS} LLMDeployments, {len(fleet.POOLS)} GPUNodePools and {nodes} KWOK nodes stand before "
        "the operator starts (benchmarks/fleet.py); etcd, API server, controllers, scheduler and KWOK share "
        f"the machine with it. The policy has routing.propagationSeconds {PROPAGATION_SECONDS}."
    )
    meaning = (
        "Times end when the API server had answered (audit log). The objects of a plan are its Deployments, Services, "
        "PodDisruptionBudgets and routing documents; a routing document follows once the pods are Ready."
    )
    return figures, [stage, meaning]


class Benchmark:
    """The acts in order."""

    timeout_seconds = TIMEOUT_SECONDS

    def __init__(self, cluster: Cluster, operator: Installation) -> None:
        self._cluster, self._operator = cluster, operator
        self._peak: Counter[str] = Counter()

    def run(self) -> list[Figure]:
        """All acts."""
        self._prepare()
        figures = [*self._first_plan(), *self._edit(), *self._rest(), *self._memory()]
        return [*figures, *self._restart()]

    def _prepare(self) -> None:
        say("control plane up; installing the chart")
        self._operator.install()
        self._cluster.apply(fleet.namespaces())
        nodes = fleet.nodes()
        say(f"{len(nodes)} nodes")
        self._cluster.apply(nodes)
        while self._cluster.kubectl("get", "nodes", "--no-headers").count(" Ready ") < len(nodes):
            time.sleep(1.0)
        say(f"{fleet.DEPLOYMENTS} LLMDeployments")
        self._cluster.apply([*fleet.pools(), *fleet.slos(), fleet.policy(PROPAGATION_SECONDS)])
        self._cluster.apply(fleet.deployments())

    # --- Acts --------------------------------------------------------------------------------------------------------

    def _first_plan(self) -> list[Figure]:
        say("operator starts")
        mark = self._cluster.mark()
        self._operator.start()
        began = datetime.now(UTC)
        self._settle()
        events = self._cluster.requests_since(mark)
        planned = first_round(accepted(events))
        routing = _first_writes(event for event in accepted(events) if _is_routing(event))
        rounds = self._metric("plimsoll_plan_seconds_count")
        say(f"settled; written: {summary(accepted(events))}")
        return [
            Figure(
                "operator start until the last object of the first plan was accepted", since(began, planned), "s", 20.0
            ),
            Figure("operator start until all its pods were Running", since(began, _running(events, planned)), "s"),
            Figure("operator start until every routing document was published", since(began, routing), "s"),
            Figure("operator start until it had nothing more to write", since(began, accepted(events)), "s"),
            Figure("planning rounds until rest", rounds, ""),
            Figure("mean planning round until rest", self._metric("plimsoll_plan_seconds_sum") / rounds, "s"),
            Figure("objects written for the first plan", len(planned), ""),
            Figure("all writes until rest", len(accepted(events)), ""),
            Figure("writes that were refused until rest", len(_refused(events)), "", 0),
        ]

    def _edit(self) -> list[Figure]:
        namespace, name, rate = self._busiest()
        say(f"traffic of {namespace}/{name} goes from {rate} to {2 * rate} requests per minute")
        mark = self._cluster.mark()
        patch = [{"op": "replace", "path": "/spec/traffic/0/requestsPerMinute", "value": 2 * rate}]
        target = ("llmdeployment", name, f"--namespace={namespace}")
        self._cluster.kubectl("patch", *target, "--type=json", f"--patch={json.dumps(patch)}")
        time.sleep(QUIET_SECONDS / 2)
        self._settle()
        events = self._cluster.requests_since(mark)
        edit = next(item for item in events if _resource(item) == "llmdeployments" and item["verb"] == "patch")
        edited = time_of(edit)
        planned = first_round(accepted(events))
        if not any(_resource(event) == "deployments" for event in planned):
            raise BenchmarkError(f"the edit of {namespace}/{name} changed no replicas\n{self._log()}")
        say(f"settled; written: {summary(accepted(events))}")
        running = _running(events, planned)
        return [
            Figure("edit accepted until the last resulting object was accepted", since(edited, planned), "s", 5.0),
            Figure("edit accepted until all pods were Running", since(edited, running or planned), "s"),
            Figure("edit accepted until nothing more was written", since(edited, accepted(events)), "s"),
            Figure("objects written for the edit", len(planned), ""),
        ]

    def _rest(self) -> list[Figure]:
        return [writes_at_rest(self._cluster, REST_SECONDS)]

    def _memory(self) -> list[Figure]:
        self._sample()
        return [
            Figure("resident memory of the operator, highest seen", self._peak["parent"] / MEGABYTE, "MB", 300.0),
            Figure("resident memory of its planner, highest seen", self._peak["child"] / MEGABYTE, "MB", 700.0),
        ]

    def _restart(self) -> list[Figure]:
        say("operator restarts")
        self._operator.stop()
        mark = self._cluster.mark()
        began = time.monotonic()
        self._operator.start()
        self._operator.wait_ready(TIMEOUT_SECONDS)
        ready = time.monotonic() - began
        self._settle()
        # Like the Lease itself, its Event that somebody leads now says nothing of the fleet.
        written = self._cluster.writes_since(mark, USER)
        own = ("events", NAMESPACE)
        writes = [event for event in written if (_resource(event), event["objectRef"].get("namespace")) != own]
        if writes:
            say(f"written after the restart: {summary(writes)}")
        return [
            Figure("operator restart until it was ready", ready, "s"),
            Figure("writes of the restarted operator", len(writes), "", 0),
        ]

    # --- Inside ------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Until a plan was carried out, no pod is pending and the operator has been silent for a while.

        Raises:
            BenchmarkError: it takes too long, or the operator ended.
        """
        began = time.monotonic()
        seen, since, told = math.nan, began, began
        while True:
            time.sleep(1.0)
            now = time.monotonic()
            self._sample()
            requests = self._requests()
            if requests != seen or self._metric("plimsoll_planning"):
                seen, since = requests, now
            elif now - since >= QUIET_SECONDS and self._metric("plimsoll_plan_seconds_count") and not self._pending():
                return
            if now - told >= TELL_SECONDS:
                told = now
                rounds = self._metric("plimsoll_plan_seconds_count")
                say(f"{rounds:g} planning rounds, {requests:g} requests, {self._pending()} pods not Running")
            process = self._operator.process
            if process is None or process.died:
                raise BenchmarkError(f"the operator ended\n{self._log()}")
            if now - began > self.timeout_seconds:
                raise BenchmarkError(
                    f"not settled after {self.timeout_seconds:g} s; {self._pending()} pods not Running\n{self._log()}"
                )

    def _busiest(self) -> tuple[str, str, int]:
        """Namespace, name and rate of the LLMDeployment with one traffic class and the most replicas."""
        answer = self._cluster.kubectl("get", "llmdeployments", "--all-namespaces", "--output=json")
        simple = [item for item in json.loads(answer)["items"] if len(item["spec"]["traffic"]) == 1]
        chosen = max(simple, key=lambda item: (_replicas(item), item["spec"]["traffic"][0]["requestsPerMinute"]))
        metadata = chosen["metadata"]
        return metadata["namespace"], metadata["name"], chosen["spec"]["traffic"][0]["requestsPerMinute"]

    def _pending(self) -> int:
        """Plimsoll's pods that do not run."""
        selection = ("--selector=app.kubernetes.io/managed-by=plimsoll", "--field-selector=status.phase!=Running")
        return len(self._cluster.kubectl("get", "pods", "-A", "-o", "name", *selection).splitlines())

    def _requests(self) -> float:
        """All requests so far but renewals of the Lease; NaN while it does not answer."""
        return self._metric("plimsoll_api_requests_total", without='verb="replace"')

    def _metric(self, name: str, without: str = "") -> float:
        """Sum over all labels of one of the operator's metrics, but one; NaN while it does not answer."""
        status, text = self._operator.get("/metrics")
        lines = [line for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        values = [line.rsplit(" ", 1)[1] for line in lines if not without or without not in line]
        return sum(map(float, values)) if status == 200 else math.nan

    def _sample(self) -> None:
        for name, resident in self._operator.resident_bytes().items():
            self._peak[name] = max(self._peak[name], resident)

    def _log(self) -> str:
        process = self._operator.process
        return process.tail(30) if process is not None else ""


def _replicas(llm_deployment: dict[str, Any]) -> int:
    placements = llm_deployment.get("status", {}).get("placements", [])
    return sum(int(item["replicas"]["desired"]) for item in placements)


# --- The audit log ----------------------------------------------------------------------------------------------------


def accepted(events: Iterable[Event]) -> list[Event]:
    """The operator's writes that the API server took, but for Leases."""
    return [event for event in _writes(events) if 200 <= event["responseStatus"]["code"] < 300]


def _refused(events: Iterable[Event]) -> list[Event]:
    return [event for event in _writes(events) if event["responseStatus"]["code"] >= 300]


def _writes(events: Iterable[Event]) -> list[Event]:
    verbs = {"create", "update", "patch", "delete", "deletecollection"}
    return [
        event
        for event in events
        if event["user"]["username"] == USER and event["verb"] in verbs and _resource(event) != "leases"
    ]


def _is_routing(event: Event) -> bool:
    """Whether it is about a routing document; details of plans are ConfigMaps, too."""
    return _resource(event) == "configmaps" and str(event["objectRef"].get("name", "")).endswith("-routing")


def first_round(writes: list[Event]) -> list[Event]:
    """What carries out the first of the plans: it is written before that plan's record."""
    record = next((number for number, event in enumerate(writes) if _resource(event) == "placementplans"), len(writes))
    return [event for event in writes[:record] if is_planned(event)]


def is_planned(event: Event) -> bool:
    """Whether it is about an object that carries out a plan."""
    return _resource(event) in PLANNED


def namespace(name: str) -> dict[str, Any]:
    """A Namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _first_writes(writes: Iterable[Event]) -> list[Event]:
    """The first write of each object."""
    first: dict[tuple[str, str], Event] = {}
    for event in writes:
        first.setdefault((event["objectRef"].get("namespace", ""), event["objectRef"].get("name", "")), event)
    return list(first.values())


def _running(events: Iterable[Event], planned: Iterable[Event]) -> list[Event]:
    """How KWOK reported the pods of the planned Deployments as Running."""
    names = {
        (event["objectRef"]["namespace"], event["objectRef"]["name"])
        for event in planned
        if _resource(event) == "deployments"
    }
    reports = (
        event
        for event in events
        if event["user"]["username"] == "kwok" and _resource(event) == "pods/status" and event["verb"] == "patch"
    )
    return [event for event in _first_writes(reports) if _workload_names(event["objectRef"]) & names]


def _workload_names(pod: Event) -> set[tuple[str, str]]:
    """Which Deployment a pod may belong to. Kubernetes cuts the hash of the ReplicaSet, and a dash, off long names."""
    return {(pod["namespace"], pod["name"].rsplit("-", cut)[0]) for cut in (1, 2)}


def _resource(event: Event) -> str:
    target = event.get("objectRef", {})
    parts = (target.get("resource", ""), target.get("subresource", ""))
    return "/".join(part for part in parts if part)


def time_of(event: Event) -> datetime:
    """When the API server had answered."""
    return datetime.fromisoformat(event["stageTimestamp"])


def since(began: datetime, events: Iterable[Event]) -> float:
    """Seconds until the last of the events.

    Raises:
        BenchmarkError: there is none.
    """
    seconds = max(((time_of(event) - began).total_seconds() for event in events), default=None)
    if seconds is None:
        raise BenchmarkError("the audit log has none of the writes that are measured")
    return seconds


def writes_at_rest(cluster: Cluster, seconds: float) -> Figure:
    """What the operator writes although nothing changes, Lease renewals apart."""
    say(f"at rest for {seconds:g} s")
    mark = cluster.mark()
    time.sleep(seconds)
    writes = cluster.writes_since(mark, USER)
    if writes:
        say(f"written at rest: {summary(writes)}")
    return Figure(f"writes at rest in {seconds:g} s", len(writes), "", 0)


def summary(writes: Iterable[Event]) -> str:
    counts = Counter(f"{event['verb']} {_resource(event)}" for event in writes)
    return ", ".join(f"{count} {what}" for what, count in counts.most_common())
