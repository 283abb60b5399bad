"""Chains beside replicas that may want the same GPUs: objects, what is rendered running, and what a plan is worth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from plimsoll.api.inferenceslo import InferenceSLO
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.planning import step_for
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.snapshot import PodFacts, Snapshot
from plimsoll.rendering.observe import pod_requests, workload_facts
from tests.unit.planning.chain_cluster import API, REGIONS, cluster, deployment, pool, render


def slo(priority: int, **unserved: Any) -> InferenceSLO:
    spec = {
        "priority": priority,
        "ttft": {"statistic": "Percentile", "percentile": 95, "milliseconds": 8000},
        "tpot": {"statistic": "Mean", "milliseconds": 700},
        "unserved": unserved,
    }
    metadata = {"name": f"priority-{priority}", "namespace": "chat"}
    return InferenceSLO.model_validate({"apiVersion": API, "kind": "InferenceSLO", "metadata": metadata, "spec": spec})


def of_priority(resource: LLMDeployment, priority: int) -> LLMDeployment:
    """With its traffic under an SLO of this priority."""
    written = resource.model_dump(by_alias=True, exclude_none=True, mode="json")
    for traffic in written["spec"]["traffic"]:
        traffic["sloRef"] = {"name": f"priority-{priority}"}
    return LLMDeployment.model_validate(written)


def small(rate: int, name: str = "small", **placement: Any) -> LLMDeployment:
    """In replicas of one GPU, each of which carries some 1,000 requests per minute."""
    return deployment(rate, name, "Replicated", **placement)


def mixed(
    *deployments: LLMDeployment, prices: Sequence[str] = ("0.50", "0.70", "0.70"), per_region: int = 3, **rules: Any
) -> Snapshot:
    """A cluster with a price per region, and SLOs of priorities 0, 5 and 10."""
    pools = tuple(pool(region, price) for region, price in zip(REGIONS, prices, strict=True))
    facts = cluster(*sorted(deployments, key=lambda one: one.name), per_region=per_region, **rules)
    return replace(facts, pools=pools, slos=tuple(map(slo, (0, 5, 10))))


def applied(snapshot: Snapshot, fleet: FleetPlan) -> Snapshot:
    """The facts once everything that is rendered runs."""
    workloads, pods = [], []
    free = {node.name: node for node in snapshot.nodes or ()}
    for first in ("StatefulSet", "Deployment"):  # those bound to a node go first
        for plan in fleet.deployments:
            own = [item for item in snapshot.workloads if item.deployment == plan.ref.name]
            for manifest in render(fleet, plan, step_for(plan, own, None, 150.0)):
                facts = workload_facts(manifest) if manifest["kind"] == first else None
                if facts is None:
                    continue
                workloads.append(replace(facts, ready_replicas=facts.replicas))
                spec = manifest["spec"]["template"]["spec"]
                for number in range(facts.replicas):
                    here = facts.option.get("node") or min(
                        name for name, node in free.items() if node.labels["pool"] == facts.option["pool"]
                    )
                    del free[here]
                    name = f"{facts.name}-{number}"
                    pod = PodFacts(
                        f"uid-{name}", facts.namespace, name, here, pod_requests(spec), facts.name, ready=True
                    )
                    pods.append(pod)
    return replace(
        snapshot,
        workloads=tuple(sorted(workloads, key=lambda item: (item.namespace, item.name))),
        pods=tuple(sorted(pods, key=lambda item: (item.namespace, item.name))),
    )


def gpus(fleet: FleetPlan) -> dict[str, Counter[str]]:
    """By LLMDeployment, and by pool."""
    found: dict[str, Counter[str]] = {}
    for plan in fleet.deployments:
        own = found.setdefault(plan.ref.name, Counter())
        for placement in plan.placements:
            own[placement.option.pool] += placement.replicas * placement.option.parallelism.gpus
    return found


def excess(snapshot: Snapshot, fleet: FleetPlan) -> dict[int, float]:
    """Requests per minute beyond what may stay unserved, by priority."""
    priorities: Mapping[str, int] = {item.name: item.spec.priority for item in snapshot.slos}
    found: dict[int, float] = {}
    for plan in fleet.deployments:
        served = {item.name: 1.0 - item.unserved for item in plan.classes}
        for traffic in plan.resource.spec.traffic:
            priority = priorities[traffic.slo_ref.name] if traffic.slo_ref is not None else 0
            missing = float(traffic.requests_per_minute) * (1.0 - served.get(traffic.name, 0.0))
            found[priority] = found.get(priority, 0.0) + missing
    return found
