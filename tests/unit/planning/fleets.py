"""Small fleets for the tests of planning: objects from short arguments, and a cluster that follows a plan."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from plimsoll import __version__
from plimsoll.api.common import Resource
from plimsoll.api.gpunodepool import GPUNodePool
from plimsoll.api.inferenceslo import InferenceSLO
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.modelprofile import ModelProfile
from plimsoll.api.parse import InvalidResource, parse
from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.catalog import load_catalog
from plimsoll.performance import checkpoint_bytes
from plimsoll.planning import Evaluator, plan_fleet
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, Finding, FleetPlan, Placement
from plimsoll.planning.snapshot import InvalidObject, Made, NodeFacts, ObjectRef, PodFacts, Snapshot, Workload
from plimsoll.rendering import labels

GIB = 2**30
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
LLAMA_70B = "meta-llama/Llama-3.3-70B-Instruct"
QWEN_7B = "Qwen/Qwen2.5-7B-Instruct"
PRODUCTS = {"L40S": "NVIDIA-L40S", "L4": "NVIDIA-L4", "H100-SXM-80GB": "NVIDIA-H100-80GB-HBM3"}
GPU = "nvidia.com/gpu"

EVALUATOR = Evaluator()
"""Shared: it holds pure results, and most tests ask about the same few options."""


def manifest(kind: str, name: str, spec: Mapping[str, Any], namespace: str = "") -> dict[str, Any]:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "plimsoll.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": dict(spec)}


def pool(name: str = "l40s", accelerator: str = "L40S", per_hour: str = "1.10", **spec: Any) -> Resource:
    return parse(manifest("GPUNodePool", name, {"accelerator": accelerator, "price": {"perHour": per_hour}, **spec}))


def traffic(name: str = "default", rate: int = 120, **fields: Any) -> dict[str, Any]:
    return {"name": name, "requestsPerMinute": rate, "tokens": {"input": 1000, "output": 250}, **fields}


def deployment(
    name: str = "assistant",
    rate: int = 120,
    *,
    model: str = LLAMA_8B,
    slo: str | None = None,
    namespace: str = "chat",
    **spec: Any,
) -> Resource:
    reference = {} if slo is None else {"sloRef": {"name": slo}}
    default = {"models": [{"name": model}], "traffic": [traffic(rate=rate, **reference)]}
    return parse(manifest("LLMDeployment", name, {**default, **spec}, namespace))


def objective(
    name: str = "interactive", namespace: str = "chat", ttft: int = 2000, tpot: int = 100, **spec: Any
) -> Resource:
    targets = {
        "ttft": {"percentile": 95, "milliseconds": ttft},
        "tpot": {"percentile": 95, "milliseconds": tpot},
    }
    return parse(manifest("InferenceSLO", name, {**targets, **spec}, namespace))


def policy(**spec: Any) -> Resource:
    return parse(manifest("PlacementPolicy", "default", spec))


def broken(kind: str, name: str, spec: Mapping[str, Any], namespace: str = "") -> InvalidObject:
    """An object that does not parse."""
    try:
        parse(manifest(kind, name, spec, namespace))
    except InvalidResource as error:
        return InvalidObject(ObjectRef(kind, namespace, name), f"uid-{name}", 1, error.problems)
    raise AssertionError(f"{kind} {name} is valid")


def node(name: str, accelerator: str = "L40S", gpus: int = 4, *, unavailable: str = "", **labels_: str) -> NodeFacts:
    return NodeFacts(
        name=name,
        labels={"nvidia.com/gpu.product": PRODUCTS[accelerator], **labels_},
        allocatable={GPU: float(gpus), "cpu": 96.0, "memory": 1024.0 * GIB},
        unschedulable_reason=unavailable,
    )


def nodes(count: int, accelerator: str = "L40S", gpus: int = 4, prefix: str = "", **labels_: str) -> list[NodeFacts]:
    prefix = prefix or accelerator.lower()
    return [node(f"{prefix}-{number}", accelerator, gpus, **labels_) for number in range(count)]


def foreign_pod(node_name: str, gpus: int, name: str = "trainer") -> PodFacts:
    return PodFacts(f"uid-{name}-{node_name}", "research", name, node_name, {GPU: float(gpus), "cpu": 4.0}, ready=True)


def snapshot(
    *resources: Resource,
    nodes: Iterable[NodeFacts] | None = (),
    pods: Iterable[PodFacts] = (),
    workloads: Iterable[Workload] = (),
    invalid: Iterable[InvalidObject] = (),
    **facts: Any,
) -> Snapshot:
    def of(kind: type[Resource]) -> tuple[Any, ...]:
        found = (resource for resource in resources if isinstance(resource, kind))
        return tuple(sorted(found, key=lambda item: (item.namespace, item.name)))

    policies = of(PlacementPolicy)
    return Snapshot(
        deployments=of(LLMDeployment),
        pools=of(GPUNodePool),
        slos=of(InferenceSLO),
        profiles=of(ModelProfile),
        policy=policies[0] if policies else None,
        nodes=None if nodes is None else tuple(sorted(nodes, key=lambda item: item.name)),
        pods=tuple(pods),
        workloads=tuple(workloads),
        invalid=tuple(invalid),
        **facts,
    )


def exchanged(before: Snapshot, *resources: Resource) -> Snapshot:
    """The snapshot with these objects added, or put in the place of those of the same name."""
    keep = (*before.deployments, *before.pools, *before.slos, *before.profiles)
    keep += (before.policy,) if before.policy is not None else ()
    new = {(item.kind, item.reference): item for item in (*keep, *resources)}
    return snapshot(
        *new.values(),
        nodes=before.nodes,
        pods=before.pods,
        workloads=before.workloads,
        invalid=before.invalid,
        several_nodes=before.several_nodes,
    )


def without(before: Snapshot, kind: str, name: str) -> Snapshot:
    """The snapshot after the deletion of one object."""
    fields = {"LLMDeployment": "deployments", "GPUNodePool": "pools", "InferenceSLO": "slos"}
    kept = tuple(item for item in getattr(before, fields[kind]) if item.name != name)
    return replace(before, **{fields[kind]: kept})


def plan(facts: Snapshot) -> FleetPlan:
    return plan_fleet(facts, EVALUATOR)


def plan_of(fleet: FleetPlan, name: str = "assistant") -> DeploymentPlan:
    return next(item for item in fleet.deployments if item.ref.name == name)


def replicas(fleet: FleetPlan) -> dict[str, int]:
    """Placement -> replicas."""
    return {item.name: item.replicas for plan_ in fleet.deployments for item in plan_.placements}


def decision(fleet: FleetPlan) -> list[Any]:
    """What counts for the cluster: states, placements, replicas and shares."""
    return [
        (item.ref, item.state, [(part.name, part.replicas, part.shares) for part in item.placements])
        for item in fleet.deployments
    ]


def finding(fleet: FleetPlan, reason: str, object_: str = "") -> Finding:
    found = [item for item in fleet.all_findings() if item.reason == reason and object_ in str(item.object)]
    assert found, f"no {reason} among {[(item.reason, item.message) for item in fleet.all_findings()]}"
    return found[0]


def workload(owner: DeploymentPlan, placement: Placement, count: int, ready: int) -> Workload:
    option = labels.option_from_annotations(labels.option_annotations(placement.option))
    host = placement.option.host
    made = Made(
        release=__version__,
        asked=placement.asked,
        image=placement.option.image,
        checkpoint=placement.option.checkpoint,
        cpu_cores=host.cpu_cores,
        memory_bytes=host.memory_bytes,
    )
    known = made if placement.asked else None
    uid = f"uid-{placement.name}"
    return Workload(owner.ref.namespace, placement.name, uid, owner.ref.name, count, ready, option, known)


def applied(facts: Snapshot, fleet: FleetPlan) -> Snapshot:
    """The cluster when it has followed the plan: planned replicas run, each on the fullest node that takes it."""
    workloads: list[Workload] = []
    wanted: list[tuple[str, Placement, int]] = []
    held = {item.ref.name for item in fleet.deployments if item.state is DeploymentState.HELD}
    before = {(item.namespace, item.name): item for item in facts.workloads}
    for owner in fleet.deployments:
        for placement in owner.placements:
            running = before.pop((owner.ref.namespace, placement.name), None)
            keep = running.replicas if running is not None and owner.state is DeploymentState.SHORT else 0
            count = max(placement.replicas, keep)
            workloads.append(workload(owner, placement, count, count))
            wanted.append((owner.ref.namespace, placement, count * placement.option.nodes))
    short = {item.ref.name for item in fleet.deployments if item.state is DeploymentState.SHORT}
    workloads += [item for item in before.values() if item.deployment in held | short]
    kept_names = {(item.namespace, item.name) for item in workloads}
    pods = [pod for pod in facts.pods if not pod.placement or (pod.namespace, pod.placement) in kept_names]
    for namespace, placement, count in sorted(
        wanted, key=lambda item: (-item[1].option.parallelism.gpus, item[1].name)
    ):
        own = [pod for pod in pods if (pod.namespace, pod.placement) == (namespace, placement.name)]
        pods = [pod for pod in pods if pod not in own[count:]]
        for number in range(len(own), count):
            pods.append(_pod(facts.nodes or (), pods, namespace, placement, number))
    return replace(facts, workloads=tuple(workloads), pods=tuple(pods))


def spending(facts: Snapshot) -> float:
    """Rent and storage per hour of what runs."""
    prices = {item.name: float(item.spec.price_per_gpu_hour) for item in facts.pools}
    rent = sum(
        item.replicas * int(item.option["tensor"]) * int(item.option["pipeline"]) * prices[item.option["pool"]]
        for item in facts.workloads
    )
    price = 0.0 if facts.policy is None else float(facts.policy.spec.storage.price_per_gib_hour)
    return rent + price * stored_gib(facts)


def stored_gib(facts: Snapshot) -> float:
    """Weights of what runs: once per LLMDeployment, model, precision and pool."""
    catalog = load_catalog()
    copies = {
        (item.namespace, item.deployment, item.option["model"], item.option["precision"], item.option["pool"])
        for item in facts.workloads
        if item.replicas
    }
    return sum(
        checkpoint_bytes(catalog.model(model), catalog.precision(precision)) / GIB
        for _, _, model, precision, _ in copies
    )


def requests(placement: Placement) -> dict[str, float]:
    host = placement.option.host
    return {
        placement.option.gpu_resource: float(placement.option.gpus_per_pod),
        "cpu": host.cpu_cores,
        "memory": float(host.memory_bytes),
    }


def _pod(
    stock: Sequence[NodeFacts], pods: Sequence[PodFacts], namespace: str, placement: Placement, number: int
) -> PodFacts:
    asked = requests(placement)
    pool_nodes = [
        item for item in stock if not item.unschedulable_reason and placement.name and _suits(item, placement)
    ]
    free = {
        item.name: {
            key: item.allocatable[key] - sum(pod.requests.get(key, 0.0) for pod in pods if pod.node == item.name)
            for key in asked
        }
        for item in pool_nodes
    }
    fitting = [name for name, left in free.items() if all(left[key] >= amount for key, amount in asked.items())]
    if most := placement.option.pods_per_node:
        mine = [pod.node for pod in pods if (pod.namespace, pod.placement) == (namespace, placement.name)]
        fitting = [name for name in fitting if mine.count(name) < most]
    chosen = min(fitting, key=lambda name: (free[name][placement.option.gpu_resource], name), default="")
    uid = f"{namespace}-{placement.name}-{number}"
    return PodFacts(uid, namespace, uid, chosen, asked, placement.name, ready=bool(chosen))


def _suits(item: NodeFacts, placement: Placement) -> bool:
    """Pools of these tests are named like their product in small letters, up to the first hyphen."""
    product = item.labels["nvidia.com/gpu.product"].lower()
    return placement.option.pool.split("-")[0] in product.split("-")
