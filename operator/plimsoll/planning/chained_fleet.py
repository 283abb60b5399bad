"""Chained LLMDeployments of a snapshot: decided one after the other, before the rest of the fleet.

The others see what they leave: GPUs that chains take are taken from the stock, and their rent from budgets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from plimsoll.api.gpunodepool import GPUNodePool
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.catalog import load_catalog
from plimsoll.planning.chain_check import broken_rules
from plimsoll.planning.chain_limits import room_for
from plimsoll.planning.chain_plans import deployment_plan
from plimsoll.planning.chained import ChainedPlan, NotPlanned, decide_chained, is_chained
from plimsoll.planning.decide import PlanRejectedError
from plimsoll.planning.digest import inputs_digest
from plimsoll.planning.objectives import deployment_finding
from plimsoll.planning.pause import holds, pause_findings
from plimsoll.planning.permissions import permission_findings
from plimsoll.planning.places import Places
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, Finding, FleetPlan, Placement
from plimsoll.planning.pools import Pools, resolve_pools
from plimsoll.planning.snapshot import PodFacts, Snapshot, Workload
from plimsoll.planning.tenants import resolve_tenants


@dataclass(frozen=True, slots=True, eq=False)
class ChainedFleet:
    """What was decided about all chained LLMDeployments, and what is left for the others."""

    plans: tuple[ChainedPlan, ...]
    failed: tuple[Finding, ...]
    """Of those without a plan."""
    deployments: tuple[DeploymentPlan, ...]
    """Of all of them."""
    rest: Snapshot
    """Without chained LLMDeployments, and with their servers as if they ran."""
    held_per_hour: float = 0.0
    """Rent of what runs of those that nothing was decided about."""
    reserved: Mapping[str, int] = field(default_factory=dict)
    """GPUs by pool that only count as running in `rest`."""
    declared: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Nodes and their GPUs by pool that `rest` lacks, where nodes are only declared."""


def plan_chained(snapshot: Snapshot) -> ChainedFleet:
    """Decide about the chained LLMDeployments of a snapshot, by name.

    Raises:
        PlanRejectedError: when the independent check finds that a decision breaks a rule.
    """
    chained = [one for one in snapshot.deployments if is_chained(one)]
    if not chained:
        return ChainedFleet((), (), (), snapshot)
    policy = (snapshot.policy or PlacementPolicy.implied()).spec
    pools = resolve_pools(snapshot.pools, snapshot.nodes, load_catalog())
    tenants = resolve_tenants(policy, snapshot.namespaces, (item.namespace for item in snapshot.deployments))
    places = Places(snapshot, pools)
    rest = replace(snapshot, deployments=tuple(one for one in snapshot.deployments if not is_chained(one)))
    prices = {pool.name: float(pool.spec.price_per_gpu_hour) for pool in snapshot.pools}
    plans: list[ChainedPlan] = []
    failed: list[Finding] = []
    deployments: list[DeploymentPlan] = []
    reserved: dict[str, int] = {}
    declared: dict[str, tuple[int, int]] = {}
    held = 0.0
    for deployment in chained:
        noted = [
            *_policy_findings(deployment, snapshot),
            *pause_findings(deployment, snapshot),
            *permission_findings(deployment, policy, tenants),
            *places.stranded(deployment),
        ]
        if snapshot.nodes is None:
            pools = resolve_pools(rest.pools, None, load_catalog())  # without what the ones before took
        found: ChainedPlan | NotPlanned
        if any(map(holds, noted)):
            found = NotPlanned(deployment, tuple(noted), short=False)
        else:
            room = room_for(deployment, rest, policy, tenants, pools)
            found = decide_chained(deployment, rest, pools, room, noted)
        plan = deployment_plan(found)
        deployments.append(plan)
        if isinstance(found, ChainedPlan):
            wrong = broken_rules(plan, found, rest)
            if wrong:
                raise PlanRejectedError("; ".join(wrong[:5]))
            plans.append(found)
            before, rest = rest, _without(rest, plan, pools, reserved)
            for pool, left in zip(before.pools, rest.pools, strict=True):
                nodes = (pool.spec.nodes.max or 0) - (left.spec.nodes.max or 0)
                known = declared.get(pool.name, (0, 0))
                declared[pool.name] = known[0] + nodes, known[1] + nodes * (pool.spec.gpus_per_node or 0)
        else:
            failed.extend(found.findings)
            own = (item for item in snapshot.workloads if _owner(item) == (deployment.namespace, deployment.name))
            held += sum(_gpus(item) * prices.get(item.option.get("pool", ""), 0.0) for item in own)
    return ChainedFleet(tuple(plans), tuple(failed), tuple(deployments), rest, held, reserved, declared)


def joined(fleet: FleetPlan, chained: ChainedFleet, snapshot: Snapshot) -> FleetPlan:
    """The plan of the rest, with the chained LLMDeployments of this snapshot."""
    if not chained.deployments:
        return fleet
    cost = sum(plan.cost_per_hour for plan in chained.deployments)
    planned: dict[str, int] = {}
    for placement in (item for plan in chained.deployments for item in plan.placements):
        option = placement.option
        planned[option.pool] = planned.get(option.pool, 0) + option.parallelism.gpus
    pools = []
    for pool in fleet.pools:
        nodes, gpus = chained.declared.get(pool.name, (0, 0))
        pools.append(
            replace(
                pool,
                nodes=pool.nodes + nodes,
                gpus=pool.gpus + gpus,
                gpus_allocatable=pool.gpus_allocatable + gpus,
                gpus_planned=pool.gpus_planned + planned.get(pool.name, 0),
                gpus_running=pool.gpus_running - chained.reserved.get(pool.name, 0),
            )
        )
    return replace(
        fleet,
        digest=inputs_digest(snapshot),
        deployments=tuple(sorted((*fleet.deployments, *chained.deployments), key=lambda plan: plan.ref)),
        pools=tuple(pools),
        cost_per_hour=fleet.cost_per_hour + cost + chained.held_per_hour,
        objective_per_hour=fleet.objective_per_hour + cost,
        # What better chains would cost is not known.
        lower_bound_per_hour=None,
    )


def _policy_findings(deployment: LLMDeployment, snapshot: Snapshot) -> list[Finding]:
    """An invalid policy holds everything: limits that people wrote are unknown."""
    if not any(item.ref.kind == "PlacementPolicy" for item in snapshot.invalid):
        return []
    message = "PlacementPolicy default is invalid; nothing changes until it is mended"
    return [deployment_finding(deployment, "PolicyInvalid", message, "")]


def _without(rest: Snapshot, plan: DeploymentPlan, pools: Pools, reserved: dict[str, int]) -> Snapshot:
    """The snapshot with the servers of a plan as if they ran."""
    if plan.state is DeploymentState.HELD or not plan.placements:
        return rest
    if rest.nodes is None:
        return replace(rest, pools=tuple(_fewer(pool, plan.placements) for pool in rest.pools))
    namespace = plan.ref.namespace
    bound = {pod.placement for pod in rest.pods if pod.namespace == namespace and pod.node}
    known = {item.name for item in rest.workloads if item.namespace == namespace}
    pods: list[PodFacts] = []
    workloads: list[Workload] = []
    for placement in plan.placements:
        option, stage = placement.option, placement.option.stage
        resource = pools.usable[option.pool].resource_name
        if placement.name not in known:
            said = {"pool": option.pool, "tensor": str(option.parallelism.tensor), "pipeline": "1"}
            workloads.append(Workload(namespace, placement.name, "", plan.ref.name, 1, 0, said))
        if placement.name not in bound and stage is not None:
            gpus = option.parallelism.tensor
            requests = {
                "cpu": option.host.cpu_cores,
                "memory": float(option.host.memory_bytes),
                resource: float(gpus),
            }
            pods.append(PodFacts("", namespace, f"{placement.name}-0", stage.node, requests, placement.name))
            reserved[option.pool] = reserved.get(option.pool, 0) + gpus
    return replace(rest, pods=(*rest.pods, *pods), workloads=(*rest.workloads, *workloads))


def _fewer(pool: GPUNodePool, placements: Sequence[Placement]) -> GPUNodePool:
    """Where nodes are only declared: without those that chains use."""
    used = sum(item.option.pool == pool.name for item in placements)
    most = pool.spec.nodes.max
    if not used or most is None:
        return pool
    nodes = pool.spec.nodes.model_copy(update={"max": max(0, most - used)})
    return pool.model_copy(update={"spec": pool.spec.model_copy(update={"nodes": nodes})})


def _owner(item: Workload) -> tuple[str, str]:
    return item.namespace, item.deployment


def _gpus(item: Workload) -> int:
    return item.replicas * int(item.option.get("tensor", 1)) * int(item.option.get("pipeline", 1))
