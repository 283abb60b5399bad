"""Chained LLMDeployments of a snapshot: decided one after the other, each beside what those before it took.

The rest of the fleet sees what they leave: GPUs that chains take are taken from the stock, and their rent from budgets.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
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
from plimsoll.planning.objectives import deployment_finding, resolve_classes
from plimsoll.planning.pause import holds, pause_findings
from plimsoll.planning.permissions import permission_findings
from plimsoll.planning.places import Places
from plimsoll.planning.plan import DeploymentPlan, DeploymentState, Finding, FleetPlan
from plimsoll.planning.pools import Pools, resolve_pools
from plimsoll.planning.snapshot import PodFacts, Snapshot, Workload
from plimsoll.planning.tenants import clamped, resolve_tenants
from plimsoll.planning.worth import chains_cost


@dataclass(frozen=True, slots=True, eq=False)
class Taken:
    """What others would take beside all that runs."""

    pods: tuple[PodFacts, ...] = ()
    workloads: tuple[Workload, ...] = ()
    declared: Mapping[str, int] = field(default_factory=dict)
    """Nodes by pool, where nodes are only declared."""

    def added_to(self, snapshot: Snapshot) -> Snapshot:
        """The facts if it ran already."""
        pools = tuple(_fewer(pool, self.declared.get(pool.name, 0)) for pool in snapshot.pools)
        return replace(
            snapshot,
            pods=(*snapshot.pods, *self.pods),
            workloads=(*snapshot.workloads, *self.workloads),
            pools=snapshot.pools if snapshot.nodes is not None else pools,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """How one chained LLMDeployment is decided about."""

    deployment: LLMDeployment
    spared: Collection[str] = ()
    """Pools of which it takes nothing new."""
    beside: Taken | None = None
    """What it leaves to others, who are decided about after it."""


@dataclass(frozen=True, slots=True, eq=False)
class ChainedFleet:
    """What was decided about chained LLMDeployments, and what is left for the others."""

    plans: tuple[ChainedPlan, ...]
    unplanned: tuple[NotPlanned, ...]
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

    @property
    def failed(self) -> tuple[Finding, ...]:
        """Findings of those without a plan."""
        return tuple(finding for one in self.unplanned for finding in one.findings)


def plan_chained(snapshot: Snapshot, turns: Sequence[Turn] | None = None) -> ChainedFleet:
    """Decide about chained LLMDeployments of a snapshot, in the order of their turns.

    Args:
        turns: of some of them; None: of all, those of the highest priority first, then by name.

    Raises:
        PlanRejectedError: when the independent check finds that a decision breaks a rule.
    """
    others = tuple(one for one in snapshot.deployments if not is_chained(one))
    if len(others) == len(snapshot.deployments):
        return ChainedFleet((), (), (), snapshot)
    if turns is None:
        turns = [Turn(one) for one in by_priority(snapshot)]
    nothing = ChainedFleet((), (), (), replace(snapshot, deployments=others))
    return with_turns(nothing, snapshot, turns) if turns else nothing


def by_priority(snapshot: Snapshot) -> list[LLMDeployment]:
    """The chained LLMDeployments: those of the highest priority first, then by name."""
    chained = [one for one in snapshot.deployments if is_chained(one)]
    priority = priorities(chained, snapshot)
    return sorted(chained, key=lambda one: (-priority[one.reference], one.namespace, one.name))


def priorities(deployments: Sequence[LLMDeployment], snapshot: Snapshot) -> dict[str, int]:
    """The highest of all traffic classes, within what tenants may ask for, by LLMDeployment (namespace/name)."""
    policy = (snapshot.policy or PlacementPolicy.implied()).spec
    tenants = resolve_tenants(policy, snapshot.namespaces, (one.namespace for one in deployments))
    slos = {(slo.namespace, slo.name): slo.spec for slo in snapshot.slos}
    found = {}
    for one in deployments:
        classes, _ = clamped(one, resolve_classes(one, slos, policy)[0], tenants)
        found[one.reference] = max((item.slo.priority for item in classes), default=0)
    return found


def with_turns(before: ChainedFleet, snapshot: Snapshot, turns: Sequence[Turn]) -> ChainedFleet:
    """These chained LLMDeployments, beside those that were decided about before.

    Args:
        snapshot: all facts.

    Raises:
        PlanRejectedError: when the independent check finds that a decision breaks a rule.
    """
    policy = (snapshot.policy or PlacementPolicy.implied()).spec
    pools = resolve_pools(snapshot.pools, snapshot.nodes, load_catalog())
    tenants = resolve_tenants(policy, snapshot.namespaces, (item.namespace for item in snapshot.deployments))
    places = Places(snapshot, pools)
    prices = {pool.name: float(pool.spec.price_per_gpu_hour) for pool in snapshot.pools}
    rest = before.rest
    plans, unplanned, deployments = list(before.plans), list(before.unplanned), list(before.deployments)
    reserved, declared, held = dict(before.reserved), dict(before.declared), before.held_per_hour
    for turn in turns:
        deployment = turn.deployment
        noted = [
            *_policy_findings(deployment, snapshot),
            *pause_findings(deployment, snapshot),
            *permission_findings(deployment, policy, tenants),
            *places.stranded(deployment),
        ]
        facts = rest if turn.beside is None else turn.beside.added_to(rest)
        if snapshot.nodes is None:
            pools = resolve_pools(facts.pools, None, load_catalog())  # without what others took
        found: ChainedPlan | NotPlanned
        if any(map(holds, noted)):
            found = NotPlanned(deployment, tuple(noted), short=False)
        else:
            room = room_for(deployment, facts, policy, tenants, pools)
            found = decide_chained(
                deployment, facts, pools, room, tenants, noted, spared=turn.spared, yields=turn.beside is not None
            )
        plan = deployment_plan(found)
        deployments.append(plan)
        if isinstance(found, ChainedPlan):
            wrong = broken_rules(plan, found, facts)
            if wrong:
                raise PlanRejectedError("; ".join(wrong[:5]))
            plans.append(found)
            earlier, rest = rest, _without(rest, plan, pools, reserved)
            for pool, left in zip(earlier.pools, rest.pools, strict=True):
                nodes = (pool.spec.nodes.max or 0) - (left.spec.nodes.max or 0)
                known = declared.get(pool.name, (0, 0))
                declared[pool.name] = known[0] + nodes, known[1] + nodes * (pool.spec.gpus_per_node or 0)
        else:
            unplanned.append(found)
            own = (item for item in snapshot.workloads if _owner(item) == (deployment.namespace, deployment.name))
            held += sum(_gpus(item) * prices.get(item.option.get("pool", ""), 0.0) for item in own)
    return ChainedFleet(
        plans=tuple(sorted(plans, key=lambda plan: plan.ref)),
        unplanned=tuple(unplanned),
        deployments=tuple(sorted(deployments, key=lambda plan: plan.ref)),
        rest=rest,
        held_per_hour=held,
        reserved=reserved,
        declared=declared,
    )


def joined(fleet: FleetPlan, chained: ChainedFleet, snapshot: Snapshot) -> FleetPlan:
    """The plan of the rest, with the chained LLMDeployments of this snapshot."""
    if not chained.deployments:
        return fleet
    cost = sum(plan.cost_per_hour for plan in chained.deployments)
    objective = sum(chains_cost(one) for one in chained.plans)
    objective += sum(chains_cost(one) for one in chained.unplanned if one.short)
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
        objective_per_hour=fleet.objective_per_hour + objective,
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
        used = Counter(item.option.pool for item in plan.placements)
        return replace(rest, pools=tuple(_fewer(pool, used[pool.name]) for pool in rest.pools))
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


def _fewer(pool: GPUNodePool, used: int) -> GPUNodePool:
    """Where nodes are only declared: without those that are used."""
    most = pool.spec.nodes.max
    if not used or most is None:
        return pool
    nodes = pool.spec.nodes.model_copy(update={"max": max(0, most - used)})
    return pool.model_copy(update={"spec": pool.spec.model_copy(update={"nodes": nodes})})


def _owner(item: Workload) -> tuple[str, str]:
    return item.namespace, item.deployment


def _gpus(item: Workload) -> int:
    return item.replicas * int(item.option.get("tensor", 1)) * int(item.option.get("pipeline", 1))
