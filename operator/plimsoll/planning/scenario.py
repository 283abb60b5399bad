"""A plan as a fleet that can be simulated, and what the plan predicts for it."""

from collections.abc import Mapping
from dataclasses import dataclass

from plimsoll.performance import LatencyTarget, LatencyTargets, Question
from plimsoll.planning.company import companions
from plimsoll.planning.evaluate import Evaluator, Expected
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.options import Candidate
from plimsoll.planning.plan import ClassPlan, DeploymentPlan, FleetPlan, Placement
from plimsoll.planning.planner import assembled, decide_fleet
from plimsoll.planning.round import Round
from plimsoll.planning.search import Clock, stopped
from plimsoll.planning.snapshot import ObjectRef, Snapshot
from plimsoll.planning.variants import DEFAULT_MAX_MODEL_LENGTH
from plimsoll.simulation import EngineSpec, engine_of
from plimsoll.simulation import Placement as SimulatedPlacement

PERCENTILES = (50, 95, 99)
"""What is predicted beside the targets' own statistics."""


@dataclass(frozen=True, slots=True)
class LatencyPercentiles:
    """Seconds at 50, 95 and 99 %."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class PredictedLatency:
    """What the plan predicts for a class: at each percentile the worst of the placements that serve it."""

    ttft: LatencyPercentiles
    tpot: LatencyPercentiles
    end_to_end: LatencyPercentiles


@dataclass(frozen=True, slots=True)
class PlannedClass:
    """A traffic class as planned."""

    deployment: ObjectRef
    resolved: ResolvedClass
    plan: ClassPlan
    predicted: PredictedLatency | None
    """At the declared rate and lengths; None where no placement serves the class."""
    longest_sequence: int
    """Most tokens of prompt and answer together that every placement of the class accepts."""

    @property
    def key(self) -> str:
        """Its name in a simulation."""
        return class_key(self.deployment, self.plan.name)


@dataclass(frozen=True, slots=True, eq=False)
class PlannedFleet:
    """A plan, and the same as a simulator's input."""

    plan: FleetPlan
    classes: Mapping[str, PlannedClass]
    """By key, of the deployments that were decided about."""
    placements: Mapping[str, SimulatedPlacement]
    """By key."""

    @property
    def targets(self) -> dict[str, LatencyTargets]:
        """As promised, by class key."""
        return {key: item.resolved.targets for key, item in self.classes.items()}


def class_key(deployment: ObjectRef, traffic: str) -> str:
    """Name of a class in a simulation: `namespace/deployment/class`."""
    return f"{deployment.namespace}/{deployment.name}/{traffic}"


def placement_key(namespace: str, name: str) -> str:
    """Name of a placement in a simulation: `namespace/placement`."""
    return f"{namespace}/{name}"


def planned_fleet(
    snapshot: Snapshot, evaluator: Evaluator | None = None, clock: Clock = stopped, *, predictions: bool = True
) -> PlannedFleet:
    """Plan as `plan_fleet` does, and make the result a fleet to be simulated.

    Args:
        predictions: whether to compute the percentiles that the plan predicts.

    Raises:
        PlanRejectedError: when the independent checker finds the decision to break a limit.
    """
    evaluator = evaluator or Evaluator()
    turn = decide_fleet(snapshot, evaluator, clock)
    plan = assembled(turn)
    candidates = _candidates(turn)
    resolved = {
        class_key(_ref(deployment.namespace, deployment.name), item.declared.name): item
        for deployment, choice in zip(snapshot.deployments, turn.choices, strict=True)
        for item in choice.classes
    }
    kept = 1.0 / (1.0 + float(turn.policy.headroom.demand))
    classes: dict[str, PlannedClass] = {}
    placements: dict[str, SimulatedPlacement] = {}
    for deployment in plan.deployments:
        namespace = deployment.ref.namespace
        for placement in deployment.placements:
            key = placement_key(namespace, placement.name)
            placements[key] = _simulated(key, deployment, placement, candidates[key], evaluator)
        mine = {item.name: resolved[class_key(deployment.ref, item.name)] for item in deployment.classes}
        for item in deployment.classes:
            key = class_key(deployment.ref, item.name)
            predicted = _predicted(deployment, item.name, mine, candidates, evaluator, kept) if predictions else None
            longest = min(
                (part.engine.longest_sequence for part in placements.values() if key in part.shares),
                default=DEFAULT_MAX_MODEL_LENGTH,
            )
            classes[key] = PlannedClass(deployment.ref, resolved[key], item, predicted, longest)
    return PlannedFleet(plan, classes, placements)


def _ref(namespace: str, name: str) -> ObjectRef:
    return ObjectRef("LLMDeployment", namespace, name)


def _candidates(turn: Round) -> dict[str, Candidate]:
    fleet = turn.fleet
    return {
        placement_key(
            fleet.deployments[int(fleet.problem.option_deployment[number])].namespace, candidate.name
        ): candidate
        for number, candidate in enumerate(fleet.candidates)
    }


def _simulated(
    key: str, deployment: DeploymentPlan, placement: Placement, candidate: Candidate, evaluator: Evaluator
) -> SimulatedPlacement:
    return SimulatedPlacement(
        name=key,
        engine=_engine(candidate, placement.option.max_num_seqs),
        replicas=placement.replicas,
        shares={class_key(deployment.ref, share.traffic): min(1.0, share.value) for share in placement.shares},
        replica_cost_per_hour=candidate.price_per_hour,
        startup_seconds=evaluator.startup(candidate.shape).load_seconds,
        gpus_per_replica=placement.option.parallelism.gpus,
    )


def _engine(candidate: Candidate, max_num_seqs: int) -> EngineSpec:
    return engine_of(candidate.shape, max_num_seqs)


def _predicted(
    deployment: DeploymentPlan,
    name: str,
    classes: Mapping[str, ResolvedClass],
    candidates: Mapping[str, Candidate],
    evaluator: Evaluator,
    kept: float,
) -> PredictedLatency | None:
    """Percentiles of a class at the expected rates, which are the planned ones without their headroom."""
    item = classes[name]
    serving = [part for part in deployment.placements if any(share.traffic == name for share in part.shares)]
    if not serving:
        return None
    columns: list[tuple[float, float, float]] = []
    for percentile in PERCENTILES:
        # Only the statistic of a target enters a prediction, never its seconds.
        target = LatencyTarget(1.0, percentile)
        asked = []
        for placement in serving:
            candidate = candidates[placement_key(deployment.ref.namespace, placement.name)]
            expected = min(1.0, placement.utilization * kept)
            targets = LatencyTargets(target, target, target)
            batch = placement.option.max_num_seqs
            question = Question(candidate.shape, item.lengths, targets, batch, item.arrivals)
            rates = {
                share.traffic: share.value * classes[share.traffic].planned_rate_per_second
                for share in placement.shares
            }
            loads = {one: rate / candidate.capacities[one].max_rate_per_second for one, rate in rates.items()}
            load = sum(loads.values())
            rate = rates[name] / load * expected if load > 0 else 0.0
            others = companions(name, rates, classes)
            asked.append(Expected(question, rate, expected, others))
        found = evaluator.predict_each(asked)
        columns.append(
            (
                max(each.ttft_seconds for each in found),
                max(each.tpot_seconds for each in found),
                max(each.end_to_end_seconds for each in found),
            )
        )
    ttft, tpot, end_to_end = (LatencyPercentiles(*row) for row in zip(*columns, strict=True))
    return PredictedLatency(ttft, tpot, end_to_end)
