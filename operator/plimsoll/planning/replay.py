"""Planner and simulator together: what the operator would have done with a stream of requests, plan after plan.

Each plan knows the rates of the interval before it, and lengths when enough requests have shown that they moved
(planning/demand.py); the first plan has the rates of its own interval and the lengths of the whole stream, as if
somebody had watched before. Transitions are the operator's own (planning/transition.py): new replicas load first, then
the routing changes, then old ones drain.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from plimsoll.api.placementpolicy import PlacementPolicy
from plimsoll.performance import LatencyTargets
from plimsoll.planning.demand import ClassDemand, Meter, Observer, Survey, with_demand
from plimsoll.planning.evaluate import Evaluator
from plimsoll.planning.plan import DeploymentPlan, FleetPlan, Placement
from plimsoll.planning.scenario import PlannedFleet, class_key, placement_key, planned_fleet
from plimsoll.planning.search import Clock, stopped
from plimsoll.planning.snapshot import ObjectRef, Snapshot, Workload
from plimsoll.planning.stages import stage_for
from plimsoll.planning.transition import WEIGHTS, ObservedRouting, RoutingTable, step_for
from plimsoll.simulation import (
    FleetChange,
    ProgressCallback,
    Request,
    Scenario,
    Simulation,
    SimulationReport,
    simulate,
)
from plimsoll.simulation import Placement as SimulatedPlacement

_MOMENT = 1e-6
"""Seconds by which sums of times may be off."""


@dataclass(frozen=True, slots=True)
class ReplayRound:
    """One plan of a replay."""

    seconds: float
    plan: FleetPlan
    demand: Mapping[str, ClassDemand]
    """That it knew, by class key."""
    moves: tuple[str, ...]
    """What it changes of the plan before, in words: `+2 chat/assistant-…`."""


@dataclass(frozen=True, slots=True, eq=False)
class StaticFleet:
    """A fleet that never changes, for comparison."""

    fleet: PlannedFleet
    report: SimulationReport

    @property
    def cost(self) -> float:
        """Rent and storage for the simulated time."""
        return self.fleet.plan.cost_per_hour * self.report.simulated_seconds / 3600.0


@dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """A stream of requests under rolling plans."""

    rounds: tuple[ReplayRound, ...]
    report: SimulationReport
    survey: Survey
    targets: Mapping[str, LatencyTargets]
    owners: Mapping[str, ObjectRef]
    """LLMDeployment of each simulated placement, by key."""
    gpus_per_replica: Mapping[str, int]
    """By placement key."""
    storage_cost: Mapping[ObjectRef, float]
    """For weights over the whole time, by LLMDeployment."""

    @property
    def cost(self) -> float:
        """Rent and storage for the simulated time."""
        return self.report.cost + sum(self.storage_cost.values())


def replay(
    snapshot: Snapshot,
    requests: Callable[[], Iterator[Request]],
    seen: Survey,
    *,
    duration_seconds: float,
    replan_seconds: float,
    series_seconds: float = 60.0,
    seed: int = 0,
    evaluator: Evaluator | None = None,
    clock: Clock = stopped,
    on_progress: ProgressCallback | None = None,
) -> Replay:
    """Plan every `replan_seconds` and simulate what comes of it, until all requests are done.

    Args:
        snapshot: the declared resources; what it says to be running is left out.
        requests: makes the stream, in the order of arrival.
        seen: what `survey` says of it with windows of `replan_seconds`; only `first` is used, of what it knows.
        series_seconds: of the time series.

    Raises:
        ValueError: a time is not above 0.
        PlanRejectedError: as of `plan_fleet`.
    """
    if not (duration_seconds > 0 and replan_seconds > 0):
        raise ValueError(f"duration is {duration_seconds} s and replan {replan_seconds} s; above 0 is accepted")
    evaluator = evaluator or Evaluator()
    policy = (snapshot.policy or PlacementPolicy.implied()).spec
    facts = _unused(snapshot)
    cluster = _Cluster(float(policy.routing.propagation_seconds))
    meter, observer = Meter(replan_seconds), Observer()
    facts = with_demand(facts, seen.first)
    planned = planned_fleet(facts, evaluator, clock, predictions=False)
    cluster.start(planned)
    rounds = [ReplayRound(0.0, planned.plan, seen.first, _moves(None, planned.plan))]
    storage = {plan.ref: 0.0 for plan in planned.plan.deployments}
    simulation = Simulation(
        Scenario(cluster.placements()),
        meter.watch(requests()),
        targets=planned.targets,
        seed=seed,
        interval_seconds=series_seconds,
        on_progress=on_progress,
    )
    number = 1
    while number * replan_seconds < duration_seconds:
        _carry_on(simulation, cluster, number * replan_seconds)
        _charge(storage, planned.plan, replan_seconds)
        demand = observer.demand(meter.take(number - 1), replan_seconds)
        facts = replace(with_demand(facts, demand), workloads=cluster.workloads(simulation.seconds))
        before, planned = planned.plan, planned_fleet(facts, evaluator, clock, predictions=False)
        cluster.follow(planned)
        _turn(simulation, cluster)
        rounds.append(ReplayRound(simulation.seconds, planned.plan, demand, _moves(before, planned.plan)))
        number += 1
    _carry_on(simulation, cluster, duration_seconds)
    simulation.run_to_end()
    report = simulation.report()
    _charge(storage, planned.plan, report.simulated_seconds - (number - 1) * replan_seconds)
    return Replay(
        tuple(rounds),
        report,
        seen,
        planned.targets,
        cluster.owners,
        {key: spec.gpus_per_replica for key, spec in cluster.templates.items()},
        storage,
    )


def static_fleet(
    snapshot: Snapshot,
    demand: Mapping[str, ClassDemand],
    requests: Callable[[], Iterator[Request]],
    *,
    series_seconds: float = 60.0,
    seed: int = 0,
    evaluator: Evaluator | None = None,
    clock: Clock = stopped,
    on_progress: ProgressCallback | None = None,
) -> StaticFleet:
    """One plan for all the time, sized for `demand`, under the same requests."""
    planned = planned_fleet(with_demand(_unused(snapshot), demand), evaluator, clock, predictions=False)
    report = simulate(
        Scenario(tuple(planned.placements.values())),
        requests(),
        targets=planned.targets,
        seed=seed,
        interval_seconds=series_seconds,
        on_progress=on_progress,
    )
    return StaticFleet(planned, report)


def _unused(snapshot: Snapshot) -> Snapshot:
    """The same cluster without anything of Plimsoll's in it."""
    return replace(snapshot, workloads=(), pods=tuple(pod for pod in snapshot.pods if not pod.placement))


@dataclass(slots=True)
class _Running:
    """A placement in the cluster."""

    workload: Workload
    spec: SimulatedPlacement
    ready_at: list[float] = field(default_factory=list)
    """Seconds at which each replica is Ready, ascending."""


@dataclass(slots=True)
class _Routing:
    table: RoutingTable
    since_seconds: float


class _Cluster:
    """What the operator has made run and routed so far, seen the way that it sees it."""

    def __init__(self, propagation_seconds: float) -> None:
        self._propagation = propagation_seconds
        self._plans: tuple[DeploymentPlan, ...] = ()
        self._running: dict[str, _Running] = {}
        self._routing: dict[ObjectRef, _Routing] = {}
        self._waiting = False
        self.templates: dict[str, SimulatedPlacement] = {}
        self.owners: dict[str, ObjectRef] = {}

    def start(self, planned: PlannedFleet) -> None:
        """Everything runs and is routed at 0 s."""
        self.follow(planned)
        for plan in self._plans:
            for placement in plan.placements:
                self._create(plan, placement, placement.replicas, -math.inf)
        self.step(0.0)
        for routing in self._routing.values():
            routing.since_seconds = -math.inf

    def follow(self, planned: PlannedFleet) -> None:
        """From now on this is the plan."""
        self._plans = planned.plan.deployments
        for key, spec in planned.placements.items():
            self.templates.setdefault(key, spec)
        for plan in self._plans:
            for placement in plan.placements:
                self.owners[placement_key(plan.ref.namespace, placement.name)] = plan.ref

    def workloads(self, now: float) -> tuple[Workload, ...]:
        """As the planner reads them."""
        found = (
            replace(
                item.workload,
                replicas=len(item.ready_at),
                ready_replicas=sum(1 for seconds in item.ready_at if seconds <= now),
            )
            for item in self._running.values()
        )
        return tuple(sorted(found, key=lambda item: (item.namespace, item.name)))

    def step(self, now: float) -> bool:
        """Do what is safe now; whether that changed anything."""
        changed = self._waiting = False
        workloads = self.workloads(now)
        for plan in self._plans:
            own = [
                item for item in workloads if (item.namespace, item.deployment) == (plan.ref.namespace, plan.ref.name)
            ]
            routing = self._routing.get(plan.ref)
            observed = None if routing is None else ObservedRouting(routing.table, now - routing.since_seconds)
            stage = stage_for(plan, own)
            step = step_for(stage.plan, own, observed, self._propagation)
            self._waiting |= bool(step.waiting_for or stage.remaining)
            planned = {placement.name: placement for placement in stage.plan.placements}
            for name, replicas in step.replicas.items():
                changed |= self._create(plan, planned[name], replicas, now)
            for name in step.prune:
                changed = True
                del self._running[placement_key(plan.ref.namespace, name)]
            if step.routing is not None and (routing is None or step.routing != routing.table):
                self._routing[plan.ref] = _Routing(step.routing, now)
                changed = True
        return changed

    def next_event(self, now: float) -> float:
        """When something may have become safe; inf when nothing is waited for."""
        if not self._waiting:
            return math.inf
        times = [seconds for item in self._running.values() for seconds in item.ready_at]
        times += [routing.since_seconds + self._propagation + _MOMENT for routing in self._routing.values()]
        return min((seconds for seconds in times if seconds > now), default=math.inf)

    def placements(self) -> tuple[SimulatedPlacement, ...]:
        """As the simulator takes them."""
        shares: dict[str, dict[str, float]] = {key: {} for key in self._running}
        for ref, routing in self._routing.items():
            for item in routing.table.classes:
                served = 1.0 - float(item.unserved)
                for backend in item.backends:
                    key = placement_key(ref.namespace, backend.placement)
                    if key in shares:
                        shares[key][class_key(ref, item.name)] = backend.weight / WEIGHTS * served
        return tuple(
            replace(item.spec, replicas=len(item.ready_at), shares=shares[key])
            for key, item in sorted(self._running.items())
        )

    def _create(self, plan: DeploymentPlan, placement: Placement, replicas: int, now: float) -> bool:
        """Bring a placement to that many replicas; whether that was a change."""
        key = placement_key(plan.ref.namespace, placement.name)
        item = self._running.get(key)
        if item is None:
            item = self._running[key] = _Running(_workload(plan.ref, placement), self.templates[key])
        before = len(item.ready_at)
        # Those not ready yet go first, then the newest: as in the simulator.
        del item.ready_at[replicas:]
        item.ready_at.extend([now + item.spec.startup_seconds] * (replicas - len(item.ready_at)))
        return len(item.ready_at) != before


def _carry_on(simulation: Simulation, cluster: _Cluster, until_seconds: float) -> None:
    """Simulate until then, with the steps of the transition on the way."""
    while True:
        event = cluster.next_event(simulation.seconds)
        if event >= until_seconds:
            simulation.run_until(until_seconds)
            return
        simulation.run_until(event)
        _turn(simulation, cluster)


def _turn(simulation: Simulation, cluster: _Cluster) -> None:
    """All steps that are safe now."""
    changed = False
    while cluster.step(simulation.seconds):
        changed = True
    if changed:
        simulation.change(FleetChange(simulation.seconds, cluster.placements()))


def _charge(storage: dict[ObjectRef, float], plan: FleetPlan, seconds: float) -> None:
    for item in plan.deployments:
        storage[item.ref] = storage.get(item.ref, 0.0) + item.storage_cost_per_hour * seconds / 3600.0


def _moves(before: FleetPlan | None, after: FleetPlan) -> tuple[str, ...]:
    """Replicas that come and go."""
    counts = [
        {
            placement_key(item.ref.namespace, placement.name): placement.replicas
            for item in (plan.deployments if plan is not None else ())
            for placement in item.placements
        }
        for plan in (before, after)
    ]
    changes = {key: counts[1].get(key, 0) - counts[0].get(key, 0) for key in sorted({*counts[0], *counts[1]})}
    return tuple(f"{change:+d} {key}" for key, change in changes.items() if change)


def _workload(ref: ObjectRef, placement: Placement) -> Workload:
    option = placement.option
    said = {
        "model": option.model,
        "precision": option.precision,
        "pool": option.pool,
        "tensor": str(option.parallelism.tensor),
        "pipeline": str(option.parallelism.pipeline),
        "max-num-seqs": str(option.max_num_seqs),
        **({"nodes": str(option.nodes)} if option.nodes > 1 else {}),
    }
    return Workload(ref.namespace, placement.name, "", ref.name, 0, 0, said)
