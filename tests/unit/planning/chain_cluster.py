"""A cluster of nodes in three regions, in values: what is rendered runs at once on the nodes that are there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from plimsoll.api.gpunodepool import GPUNodePool
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.planning import plan_fleet, step_for
from plimsoll.planning.plan import DeploymentPlan, FleetPlan
from plimsoll.planning.snapshot import NodeFacts, PodFacts, Snapshot
from plimsoll.planning.transition import ObservedRouting, RoutingTable, Step
from plimsoll.rendering import Manifest, render_deployment, verify
from plimsoll.rendering.observe import pod_requests, workload_facts

API = "plimsoll.dev/v1alpha1"
GIB = 2**30
REGIONS = ("us-east", "us-west", "eu-west")
MODEL = "meta-llama/Llama-3.3-70B-Instruct"
TRIPS = (("us-east", "us-west", 62), ("us-east", "eu-west", 80), ("us-west", "eu-west", 130))


def pool(region: str, price: str = "0.70", **more: Any) -> GPUNodePool:
    spec = {
        "accelerator": "L4",
        "price": {"perHour": price},
        "location": {"region": region},
        "nodeSelector": {"matchLabels": {"pool": region}},
        **more,
    }
    manifest = {"apiVersion": API, "kind": "GPUNodePool", "metadata": {"name": region}, "spec": spec}
    return GPUNodePool.model_validate(manifest)


def node(region: str, number: int, gpus: int = 1) -> NodeFacts:
    labels = {
        "pool": region,
        "topology.kubernetes.io/region": region,
        "nvidia.com/gpu.product": "NVIDIA-L4",
        "kubernetes.io/hostname": f"{region}-{number}",
    }
    allocatable = {"nvidia.com/gpu": float(gpus), "cpu": 32.0, "memory": 256.0 * GIB}
    return NodeFacts(f"{region}-{number}", labels, allocatable)


def policy(**more: Any) -> PlacementPolicy:
    trips = [{"region": one, "peer": other, "milliseconds": value} for one, other, value in TRIPS]
    spec = {
        "network": {"roundTripMilliseconds": trips},
        "defaultSLO": {
            "ttft": {"statistic": "Percentile", "percentile": 95, "milliseconds": 8000},
            "tpot": {"statistic": "Mean", "milliseconds": 700},
        },
        **more,
    }
    manifest = {"apiVersion": API, "kind": "PlacementPolicy", "metadata": {"name": "default"}, "spec": spec}
    return PlacementPolicy.model_validate(manifest)


def deployment(rate: int = 60, name: str = "assistant", mode: str = "Chained", **placement: Any) -> LLMDeployment:
    traffic: dict[str, Any] = {"name": "chat", "requestsPerMinute": rate, "tokens": {"input": 400, "output": 150}}
    if mode == "Chained":
        traffic["origins"] = [{"region": "us-east", "share": "0.6"}, {"region": "eu-west", "share": "0.4"}]
    models = [{"name": MODEL, "precisions": [{"name": "int4", "checkpoint": "example/Llama-3.3-70B-AWQ"}]}]
    if mode != "Chained":
        models = [{"name": "meta-llama/Llama-3.2-1B-Instruct"}]
    return LLMDeployment.model_validate(
        {
            "apiVersion": API,
            "kind": "LLMDeployment",
            "metadata": {"name": name, "namespace": "chat", "uid": f"uid-{name}", "generation": 1},
            "spec": {"models": models, "traffic": [traffic], "placement": {"mode": mode, **placement}},
        }
    )


def cluster(*deployments: LLMDeployment, per_region: int = 4, **rules: Any) -> Snapshot:
    return Snapshot(
        deployments=deployments or (deployment(),),
        pools=tuple(pool(region) for region in REGIONS),
        policy=policy(**rules),
        nodes=tuple(node(region, number) for region in REGIONS for number in range(per_region)),
    )


def only(fleet: FleetPlan, name: str = "assistant") -> DeploymentPlan:
    return next(plan for plan in fleet.deployments if plan.resource.name == name)


def render(fleet: FleetPlan, plan: DeploymentPlan, step: Step) -> tuple[Manifest, ...]:
    manifests = render_deployment(fleet, plan, step, "2026-01-01T00:00:00Z", gateway_api=False)
    verify(plan, step, manifests)
    return manifests


class Running:
    """What runs, and the routing so far."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.table: RoutingTable | None = None

    def turn(self, *, guarded: bool = False) -> tuple[FleetPlan, Step]:
        """One turn of the operator, for the deployment `assistant`; then pods start where their nodes are."""
        fleet = plan_fleet(self.snapshot)
        plan = only(fleet)
        observed = None if self.table is None else ObservedRouting(self.table, 1e6)
        own = [item for item in self.snapshot.workloads if item.deployment == plan.ref.name]
        step = step_for(plan, own, observed, 150.0, guarded=guarded)
        self._apply(render(fleet, plan, step), step)
        self.table = step.routing
        return fleet, step

    def settle(self) -> FleetPlan:
        """Turns until nothing changes."""
        for _ in range(8):
            before = self.snapshot.workloads, self.table
            fleet, _ = self.turn()
            if (self.snapshot.workloads, self.table) == before:
                return fleet
        raise AssertionError("it does not come to rest")

    def lose(self, name: str, *, deleted: bool = True) -> None:
        """A node goes, or is not ready any more. Its pod is still said to be Ready for a while."""
        nodes = self.snapshot.nodes or ()
        if deleted:
            left = tuple(item for item in nodes if item.name != name)
        else:
            left = tuple(
                replace(item, unschedulable_reason="not ready") if item.name == name else item for item in nodes
            )
        self.snapshot = replace(self.snapshot, nodes=left)

    def _apply(self, manifests: tuple[Mapping[str, Any], ...], step: Step) -> None:
        workloads = {item.name: item for item in self.snapshot.workloads if item.name not in step.prune}
        pods = {item.placement: item for item in self.snapshot.pods if item.placement not in step.prune}
        known = {item.name for item in self.snapshot.nodes or ()}
        for manifest in manifests:
            if manifest["kind"] != "StatefulSet":
                continue
            facts = workload_facts(manifest)
            assert facts is not None
            spec = manifest["spec"]["template"]["spec"]
            terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
            where = terms["nodeSelectorTerms"][0]["matchFields"][0]["values"][0]
            fits = where in known and not any(pod.node == where for name, pod in pods.items() if name != facts.name)
            workloads[facts.name] = replace(facts, ready_replicas=int(fits))
            if fits:
                pods[facts.name] = PodFacts(
                    f"uid-{facts.name}",
                    facts.namespace,
                    f"{facts.name}-0",
                    where,
                    pod_requests(spec),
                    facts.name,
                    ready=True,
                )
        self.snapshot = replace(
            self.snapshot,
            workloads=tuple(sorted(workloads.values(), key=lambda item: item.name)),
            pods=tuple(sorted(pods.values(), key=lambda item: item.name)),
        )
