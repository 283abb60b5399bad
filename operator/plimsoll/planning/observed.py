"""From what replicas were observed to take to what step times are multiplied by. Pure.

Per placement the model predicts the means for the rate and the lengths that were observed, with the factors in force;
the time to first token is evidence on prefill, the time per output token on decoding. Placements of one kind of
replica (model, precision, GPU, parallelism) are evidence together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, nan
from operator import itemgetter

from plimsoll.catalog import GPU, Catalog, UnknownName, load_catalog
from plimsoll.performance import (
    POISSON,
    Arrivals,
    Correction,
    CorrectionRule,
    Estimate,
    Evidence,
    LatencyTargets,
    Link,
    Prediction,
    ReplicaShape,
    TokenLengths,
    corrected,
    predict,
)
from plimsoll.performance.correction import CAUTIOUS, UNCORRECTED, doubt
from plimsoll.planning.facts import catalog_of, pool_gpu, pool_network
from plimsoll.planning.objectives import token_lengths
from plimsoll.planning.plan import DeploymentPlan, FleetPlan, Placement
from plimsoll.planning.snapshot import ObjectRef, Snapshot, SpeedCorrection
from plimsoll.planning.speeds import Speeds, basis_of, speeds

MOST_CACHED = 0.05
"""Of the prompts' tokens; with more, prefill is faster than its length says."""
_MOST_QUEUED = 0.5
"""Of the time to first token."""
_LEAST_ELASTICITY = 0.5
"""A latency that grows by less than this part of its factor mostly tells of the other one."""
_PROBE = 1.1


@dataclass(frozen=True, slots=True)
class Total:
    """By how much a sum and the count of what it is the sum of grew."""

    sum: float
    count: float


@dataclass(frozen=True, slots=True)
class PodFigures:
    """What one pod counted in a window. A figure that is missing, not finite or negative is not there."""

    namespace: str
    pod: str
    age_seconds: float
    """Since the last sample."""
    totals: Mapping[str, Total]
    """`input` and `output` tokens by request, `ttft`, `tpot` and `queue` seconds, `cached` of the prompts' tokens."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What all pods counted in a window."""

    window_seconds: float
    pods: tuple[PodFigures, ...]


@dataclass(frozen=True, slots=True, order=True)
class ReplicaKind:
    """Replicas that are equally fast."""

    model: str
    precision: str
    accelerator: str
    """As the catalog names it."""
    tensor: int
    pipeline: int

    def __str__(self) -> str:
        return f"{self.model} {self.precision} on {self.accelerator} t{self.tensor}p{self.pipeline}"


@dataclass(frozen=True, slots=True)
class Learnt:
    """What has been learnt of one kind of replica."""

    prefill: Estimate
    decode: Estimate
    basis: str
    """Of the predictions (`basis_of`): what was learnt of some coefficients says nothing of others."""

    @classmethod
    def beginning(cls, shape: ReplicaShape) -> "Learnt":
        """Nothing yet: predictions go on as they are."""
        now = shape.correction
        return cls(Estimate(now.prefill, now.prefill), Estimate(now.decode, now.decode), basis_of(shape))

    @property
    def in_force(self) -> Correction:
        """What predictions are made with."""
        return Correction(self.prefill.in_force, self.decode.in_force)

    @property
    def rests_on_requests(self) -> bool:
        """Whether anything counted so far."""
        return self.prefill.requests > 0 or self.decode.requests > 0


@dataclass(frozen=True, slots=True)
class ObservedPlacement:
    """Means that the pods of a placement showed, for people."""

    deployment: ObjectRef
    placement: str
    kind: ReplicaKind
    ttft_seconds: float | None
    tpot_seconds: float | None


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one window taught."""

    learnt: Mapping[ReplicaKind, Learnt]
    observed: tuple[ObservedPlacement, ...]
    """Placements with enough requests."""


def in_force(learnt: Mapping[ReplicaKind, Learnt]) -> tuple[SpeedCorrection, ...]:
    """The factors for the snapshot. None where none differs from 1, so that plans stay as they are."""
    known = {kind: item for kind, item in learnt.items() if item.rests_on_requests}
    if all(item.in_force == UNCORRECTED for item in known.values()):
        return ()
    return tuple(
        SpeedCorrection(
            kind.model,
            kind.precision,
            kind.accelerator,
            kind.tensor,
            kind.pipeline,
            item.prefill.in_force,
            item.decode.in_force,
            item.basis,
        )
        for kind, item in sorted(known.items(), key=itemgetter(0))
    )


def learn(
    fleet: FleetPlan,
    snapshot: Snapshot,
    figures: Figures,
    learnt: Mapping[ReplicaKind, Learnt],
    rule: CorrectionRule = CAUTIOUS,
) -> Lesson:
    """What a window teaches of the replicas that run as planned, beside what had been learnt before.

    Args:
        fleet: the plan that is followed, made from `snapshot`.
        figures: of any pods; those that are not Ready pods of a placement do not count.
    """
    pods: dict[tuple[str, str], list[PodFigures | None]] = {}
    by_name = {(item.namespace, item.pod): item for item in figures.pods}
    for pod in snapshot.pods:
        if pod.placement and pod.ready and not pod.deleting:
            pods.setdefault((pod.namespace, pod.placement), []).append(by_name.get((pod.namespace, pod.name)))
    shapes = _Shapes.of(snapshot, learnt)
    after = dict(learnt)
    observed: list[ObservedPlacement] = []
    evidence: dict[ReplicaKind, list[_Trial]] = {}
    for plan in fleet.deployments:
        for placement in plan.placements:
            if placement.option.stage is not None:
                continue  # what a chain shows is not one replica's doing
            mine = pods.get((plan.ref.namespace, placement.name), [])
            shape = shapes.of_placement(placement)
            if not mine or shape is None:
                continue
            kind = kind_of(shape)
            before = after.get(kind)
            if before is None or not before.rests_on_requests or before.basis != basis_of(shape):
                after[kind] = Learnt.beginning(shape)
            found = [item for item in mine if item is not None]
            if not found:
                missing = (
                    f"Prometheus has vLLM's metrics of none of {len(mine)} Ready pods, by their namespace and name"
                )
                evidence.setdefault(kind, []).append(_Trial(missing, missing))
                continue
            seen = _Seen.of(found, figures.window_seconds)
            evidence.setdefault(kind, []).append(_Trial.of(plan, placement, shape, seen, rule))
            if seen.requests >= rule.least_requests:
                observed.append(ObservedPlacement(plan.ref, placement.name, kind, seen.mean("ttft"), seen.mean("tpot")))
    for kind, trials in evidence.items():
        now = after[kind]
        after[kind] = replace(
            now,
            prefill=_corrected(now.prefill, [trial.prefill for trial in trials], rule),
            decode=_corrected(now.decode, [trial.decode for trial in trials], rule),
        )
    return Lesson(after, tuple(observed))


def kind_of(shape: ReplicaShape) -> ReplicaKind:
    """The kind that a replica is of."""
    degrees = shape.parallelism
    return ReplicaKind(shape.model.name, shape.precision.name, shape.gpu.name, degrees.tensor, degrees.pipeline)


@dataclass(frozen=True, slots=True)
class _Shapes:
    """How placements are predicted now."""

    gpus: Mapping[str, tuple[GPU, Link]]
    """Of each pool, with the network between its nodes."""
    known: Speeds
    catalog: Catalog

    @classmethod
    def of(cls, snapshot: Snapshot, learnt: Mapping[ReplicaKind, Learnt]) -> "_Shapes":
        gpus: dict[str, tuple[GPU, Link]] = {}
        for pool in snapshot.pools:
            try:
                gpu = pool_gpu(pool, load_catalog())
                gpus[pool.name] = gpu, pool_network(pool, gpu)
            except UnknownName:
                continue  # nothing is planned there
        catalog = catalog_of(snapshot)
        known, _ = speeds(snapshot.profiles, in_force(learnt), catalog)
        return cls(gpus, known, catalog)

    def of_placement(self, placement: Placement) -> ReplicaShape | None:
        """None for a model or pool that has gone since the plan was made."""
        option = placement.option
        found = self.gpus.get(option.pool)
        try:
            model, precision = self.catalog.model(option.model), self.catalog.precision(option.precision)
        except UnknownName:
            return None
        if found is None:
            return None
        gpu, network = found
        shape = ReplicaShape(model, precision, gpu, option.parallelism, option.max_model_length)
        return self.known.of(replace(shape, nodes=option.nodes, network=network) if option.nodes > 1 else shape)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the pods of one placement showed together."""

    totals: Mapping[str, Total]
    replicas: int
    window_seconds: float
    age_seconds: float

    @classmethod
    def of(cls, pods: Sequence[PodFigures], window_seconds: float) -> "_Seen":
        totals: dict[str, Total] = {}
        for pod in pods:
            for name, item in pod.totals.items():
                known = totals.get(name, Total(0.0, 0.0))
                totals[name] = Total(known.sum + item.sum, known.count + item.count)
        return cls(totals, len(pods), window_seconds, max(pod.age_seconds for pod in pods))

    @property
    def requests(self) -> float:
        """That got their first token."""
        return self.totals["ttft"].count if "ttft" in self.totals else 0.0

    @property
    def rate_per_second(self) -> float:
        """Of one replica."""
        return self.requests / self.window_seconds / self.replicas

    def mean(self, name: str) -> float | None:
        """None where nothing was counted."""
        item = self.totals.get(name)
        return item.sum / item.count if item is not None and item.count > 0 else None


@dataclass(frozen=True, slots=True)
class _Trial:
    """The evidence of one placement, or why there is none."""

    prefill: Evidence | str
    decode: Evidence | str

    @classmethod
    def of(
        cls, plan: DeploymentPlan, placement: Placement, shape: ReplicaShape, seen: _Seen, rule: CorrectionRule
    ) -> "_Trial":
        inputs, outputs = seen.mean("input"), seen.mean("output")
        if inputs is None or outputs is None or inputs < 1 or outputs < 1 or not seen.requests:
            none = "no requests with their token lengths were observed"
            return cls(none, none)
        lengths, arrivals = _requests(plan, placement, inputs, outputs)
        predicted = _predicted(shape, lengths, arrivals, seen, placement)
        if predicted.utilization >= 1:
            full = "more requests came than such replicas are predicted to serve, so queues hide the speed"
            return cls(full, full)
        ttft, tpot = seen.mean("ttft"), seen.mean("tpot")
        prefill = _evidence(ttft, predicted.ttft_seconds, predicted, seen)
        decode = _evidence(tpot, predicted.tpot_seconds, predicted, seen)
        alone = replace(rule, least_requests=0.0)
        for_prefill = doubt(prefill, alone) or _not_prefill(seen)
        for_decode = doubt(decode, alone)
        if for_prefill is None:
            other = _scaled(shape, prefill=_PROBE)
            slower = _predicted(other, lengths, arrivals, seen, placement).ttft_seconds
            for_prefill = _inelastic(predicted.ttft_seconds, slower, "time to first token", "prefill")
        if for_decode is None:
            other = _scaled(shape, decode=_PROBE)
            slower = _predicted(other, lengths, arrivals, seen, placement).tpot_seconds
            for_decode = _inelastic(predicted.tpot_seconds, slower, "time per output token", "decoding")
        return cls(for_prefill or prefill, for_decode or decode)


def _requests(
    plan: DeploymentPlan, placement: Placement, inputs: float, outputs: float
) -> tuple[TokenLengths, Arrivals]:
    """Observed means, with the spread and the burstiness that are declared for what the placement serves."""
    declared = {traffic.name: traffic for traffic in plan.resource.spec.traffic}
    shares = {item.traffic: item.value for item in placement.shares if item.traffic in declared}
    rates = {item.name: item.requests_per_minute for item in plan.classes}
    weights = {name: value * rates.get(name, 0.0) for name, value in shares.items()}
    whole = sum(weights.values())
    if whole <= 0:
        return TokenLengths(inputs, outputs, 2 * inputs, 2 * outputs), POISSON
    wide_input = wide_output = 0.0
    for name, weight in weights.items():
        lengths = token_lengths(declared[name].tokens)
        wide_input += weight / whole * lengths.input_p95 / lengths.input_mean
        wide_output += weight / whole * lengths.output_p95 / lengths.output_mean
    arrivals = declared[max(weights, key=lambda name: weights[name])].arrivals
    return (
        TokenLengths(inputs, outputs, inputs * wide_input, outputs * wide_output),
        POISSON if arrivals is None else Arrivals(float(arrivals.burstiness)),
    )


def _predicted(
    shape: ReplicaShape, lengths: TokenLengths, arrivals: Arrivals, seen: _Seen, placement: Placement
) -> Prediction:
    batch = placement.option.max_num_seqs
    return predict(shape, lengths, LatencyTargets(), seen.rate_per_second, batch, arrivals=arrivals)


def _scaled(shape: ReplicaShape, prefill: float = 1.0, decode: float = 1.0) -> ReplicaShape:
    now = shape.correction
    return replace(shape, correction=Correction(now.prefill * prefill, now.decode * decode))


def _evidence(observed: float | None, predicted: float, whole: Prediction, seen: _Seen) -> Evidence:
    return Evidence(
        observed_seconds=nan if observed is None else observed,
        predicted_seconds=predicted,
        requests=seen.requests,
        utilization=whole.utilization,
        age_seconds=seen.age_seconds,
    )


def _not_prefill(seen: _Seen) -> str | None:
    """Why the time to first token tells little of prefill."""
    ttft, queue, cached = seen.mean("ttft"), seen.mean("queue"), seen.mean("cached")
    if cached is not None and cached > MOST_CACHED:
        return f"the prefix cache serves {cached:.0%} of the prompts' tokens, at most {MOST_CACHED:.0%} count"
    if ttft is not None and queue is not None and queue > _MOST_QUEUED * ttft:
        return f"{queue / ttft:.0%} of the time to first token was spent in the queue, at most {_MOST_QUEUED:.0%} count"
    return None


def _inelastic(predicted: float, slower: float, latency: str, phase: str) -> str | None:
    """Why a latency tells more of the other factor."""
    part = log(slower / predicted) / log(_PROBE)
    return None if part >= _LEAST_ELASTICITY else f"the {latency} of these requests depends on {phase} by {part:.0%}"


def _corrected(estimate: Estimate, trials: Sequence[Evidence | str], rule: CorrectionRule) -> Estimate:
    """The estimate after one window of all placements of a kind: those without doubt count as one."""
    good = [item for item in trials if isinstance(item, Evidence)]
    if not good:
        return replace(estimate, ignored=next(str(item) for item in trials))
    requests = sum(item.requests for item in good)

    def mean(name: str) -> float:
        return float(sum(item.requests * getattr(item, name) for item in good) / requests)

    together = Evidence(
        observed_seconds=mean("observed_seconds"),
        predicted_seconds=mean("predicted_seconds"),
        requests=requests,
        utilization=max(item.utilization for item in good),
        age_seconds=max(item.age_seconds for item in good),
    )
    return corrected(estimate, together, rule)
