"""Every way to serve one LLMDeployment, how fast each class is on it, and why the other ways are out (M1)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from plimsoll.api.inferenceslo import InferenceSLOSpec
from plimsoll.api.inferenceslo import LatencyTarget as DeclaredTarget
from plimsoll.api.llmdeployment import LLMDeployment, Precision, TrafficClass
from plimsoll.api.placementpolicy import PlacementPolicySpec
from plimsoll.catalog import Catalog, ModelArchitecture, UnknownName, unsupported_reason
from plimsoll.performance import (
    Capacity,
    LatencyTarget,
    LatencyTargets,
    Parallelism,
    ReplicaShape,
    TokenLengths,
    load_seconds,
    memory_fit,
    parallelism_problem,
)
from plimsoll.planning.evaluate import Evaluator, Question
from plimsoll.planning.identity import placement_name
from plimsoll.planning.images import engine_image
from plimsoll.planning.plan import Finding, HostDemand, Option, Rejected, Severity
from plimsoll.planning.pools import Pool, Pools
from plimsoll.planning.snapshot import ObjectRef

DEFAULT_MAX_MODEL_LENGTH = 32_768
GIB = 2**30


@dataclass(frozen=True, slots=True)
class ResolvedClass:
    """A traffic class with its objective and what is planned for it."""

    declared: TrafficClass
    slo: InferenceSLOSpec
    slo_field: str
    """Where the objective comes from, for messages: `InferenceSLO interactive` or `the default SLO`."""
    lengths: TokenLengths
    targets: LatencyTargets
    """As promised."""
    planned_targets: LatencyTargets
    """Tightened by the policy's headroom."""
    planned_rate_per_second: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """An option that some class may use."""

    name: str
    """Of the placement that it would be."""
    option: Option
    pool: Pool
    shape: ReplicaShape
    price_per_hour: float
    capacities: Mapping[str, Capacity]
    """Eligible classes only."""
    task_errors: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Excluded:
    """An option that is out, for all classes or for one, and why."""

    label: str
    reason: str
    traffic: str = ""
    """Empty: for all classes."""
    excess: float = float("inf")
    """How far the worst latency is from its target, as a ratio; for finding the nearest miss."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What there is to choose from for one LLMDeployment."""

    classes: tuple[ResolvedClass, ...]
    candidates: tuple[Candidate, ...]
    excluded: tuple[Excluded, ...]
    findings: tuple[Finding, ...]

    @property
    def held(self) -> bool:
        """An input is wrong, so nothing is decided."""
        return any(finding.severity is Severity.ERROR for finding in self.findings)


def resolve_classes(
    deployment: LLMDeployment, slos: Mapping[tuple[str, str], InferenceSLOSpec | None], policy: PlacementPolicySpec
) -> tuple[tuple[ResolvedClass, ...], tuple[Finding, ...]]:
    """Attach objectives. An SLO that is missing or does not parse (None) is a finding, never a default."""
    resolved: list[ResolvedClass] = []
    findings: list[Finding] = []
    for index, traffic in enumerate(deployment.spec.traffic):
        slo = InferenceSLOSpec(ttft=policy.default_slo.ttft, tpot=policy.default_slo.tpot)
        source = "the default SLO"
        if traffic.slo_ref is not None:
            field = f"spec.traffic[{index}].sloRef.name"
            key = (deployment.namespace, traffic.slo_ref.name)
            if key not in slos:
                known = sorted(name for namespace, name in slos if namespace == deployment.namespace)
                there = f"there are: {', '.join(known)}" if known else "there is none"
                message = f"{field}: no InferenceSLO {traffic.slo_ref.name} in namespace {key[0]}; {there}"
                findings.append(_finding(deployment, "SLONotFound", message, field))
                continue
            found = slos[key]
            if found is None:
                message = f"{field}: InferenceSLO {traffic.slo_ref.name} is invalid; see its own condition"
                findings.append(_finding(deployment, "SLOInvalid", message, field))
                continue
            slo, source = found, f"InferenceSLO {traffic.slo_ref.name}"
        tokens = traffic.tokens
        targets = LatencyTargets(ttft=_target(slo.ttft), tpot=_target(slo.tpot), end_to_end=_target(slo.end_to_end))
        kept = 1.0 - float(policy.headroom.latency)
        resolved.append(
            ResolvedClass(
                declared=traffic,
                slo=slo,
                slo_field=source,
                lengths=TokenLengths(
                    input_mean=tokens.input,
                    output_mean=tokens.output,
                    input_p95=tokens.input_p95 or 2 * tokens.input,
                    output_p95=tokens.output_p95 or 2 * tokens.output,
                ),
                targets=targets,
                planned_targets=LatencyTargets(
                    ttft=_tightened(targets.ttft, kept),
                    tpot=_tightened(targets.tpot, kept),
                    end_to_end=_tightened(targets.end_to_end, kept),
                ),
                planned_rate_per_second=traffic.requests_per_minute / 60 * (1 + float(policy.headroom.demand)),
            )
        )
    return tuple(resolved), tuple(findings)


def enumerate_choices(
    deployment: LLMDeployment,
    classes: Sequence[ResolvedClass],
    pools: Pools,
    catalog: Catalog,
    evaluator: Evaluator,
) -> Choices:
    """All options of a deployment, filtered by what fits and what meets the objectives of at least one class."""
    findings: list[Finding] = []
    allowed = _allowed_pools(deployment, pools, findings)
    excluded: list[Excluded] = []
    shapes: list[tuple[Option, Pool, ReplicaShape, float]] = []
    for model_index, declared in enumerate(deployment.spec.models):
        try:
            model = catalog.model(declared.name)
        except UnknownName as error:
            field = f"spec.models[{model_index}].name"
            findings.append(
                _finding(deployment, "UnknownModel", f"{field}: {error}; or describe it in a ModelProfile", field)
            )
            continue
        length = _max_model_length(deployment, model, classes, findings)
        for precision_index, precision in enumerate(declared.precisions):
            checkpoint = precision.checkpoint or model.checkpoint(precision.name)
            if checkpoint is None:
                field = f"spec.models[{model_index}].precisions[{precision_index}].checkpoint"
                message = (
                    f"{field}: {precision.name} needs a quantised checkpoint and the catalog knows none for "
                    f"{model.name}; left out until one is named"
                )
                findings.append(_finding(deployment, "CheckpointMissing", message, field, Severity.WARNING))
                continue
            if length is None:
                continue
            for pool in allowed:
                fitting, out = _fitting(deployment, model, precision, checkpoint, pool, length, catalog)
                excluded.extend(out)
                shapes.extend((option, pool, shape, float(precision.task_error_factor)) for option, shape in fitting)
    if any(finding.severity is Severity.ERROR for finding in findings):
        return Choices(tuple(classes), (), tuple(excluded), tuple(findings))
    candidates, missed = _eligible(deployment, classes, shapes, evaluator)
    excluded.extend(missed)
    return Choices(tuple(classes), tuple(candidates), tuple(excluded), tuple(findings))


def option_label(model: str, precision: str, pool: str, parallelism: Parallelism) -> str:
    """An option for people: `Llama-3.1-8B-Instruct bf16 on l40s TP2`."""
    stages = f" PP{parallelism.pipeline}" if parallelism.pipeline > 1 else ""
    return f"{model.rsplit('/', 1)[-1]} {precision} on {pool} TP{parallelism.tensor}{stages}"


def candidate_label(candidate: Candidate) -> str:
    """The label of a candidate's option."""
    option = candidate.option
    return option_label(option.model, option.precision, option.pool, option.parallelism)


def _fitting(
    deployment: LLMDeployment,
    model: ModelArchitecture,
    precision: Precision,
    checkpoint: str,
    pool: Pool,
    length: int,
    catalog: Catalog,
) -> tuple[list[tuple[Option, ReplicaShape]], list[Excluded]]:
    """Parallelisms of one variant on one pool at which it can run at all; the rest with the reason."""
    fitting: list[tuple[Option, ReplicaShape]] = []
    excluded: list[Excluded] = []
    facts = catalog.precision(precision.name)
    unsupported = unsupported_reason(facts, pool.gpu)
    image = engine_image(deployment.spec.engine.images, pool.gpu.vendor)
    if image is None:
        unsupported = f"no engine image for {pool.gpu.vendor} GPUs: set spec.engine.images.{pool.gpu.vendor}"
    degrees = deployment.spec.placement.parallelism
    for tensor, pipeline in product(sorted(degrees.tensor), sorted(degrees.pipeline)):
        parallelism = Parallelism(tensor, pipeline)
        label = option_label(model.name, precision.name, pool.name, parallelism)
        shape = ReplicaShape(model, facts, pool.gpu, parallelism, length)
        problem = unsupported or parallelism_problem(model, pool.gpu, parallelism)
        if problem is None and parallelism.gpus > pool.gpus_per_node:
            problem = (
                f"needs {parallelism.gpus} GPUs and a node of the pool has {pool.gpus_per_node}; "
                "replicas over several nodes are not supported yet"
            )
        if problem is None:
            problem = memory_fit(shape).reason
        if problem is not None or image is None:
            excluded.append(Excluded(label, problem or ""))
            continue
        checkpoint_args = (
            () if checkpoint != model.name or precision.name == model.native_precision else facts.engine_args
        )
        option = Option(
            model=model.name,
            precision=precision.name,
            checkpoint=checkpoint,
            pool=pool.name,
            parallelism=parallelism,
            max_num_seqs=0,
            max_model_length=length,
            image=image,
            gpu_resource=pool.resource_name,
            engine_args=checkpoint_args,
            host=host_demand(parallelism),
            load_seconds=_bucket(load_seconds(shape)),
            gated=model.gated,
        )
        fitting.append((option, shape))
    return fitting, excluded


def _eligible(
    deployment: LLMDeployment,
    classes: Sequence[ResolvedClass],
    shapes: Sequence[tuple[Option, Pool, ReplicaShape, float]],
    evaluator: Evaluator,
) -> tuple[list[Candidate], list[Excluded]]:
    """Operating points that meet each class's targets. Classes share replicas: each is tried at the others' points."""
    first = evaluator.answer(
        Question(shape, item.lengths, item.planned_targets) for _, _, shape, _ in shapes for item in classes
    )
    excluded: list[Excluded] = []
    asked: list[tuple[int, int, Question]] = []
    for number, (option, _, shape, _) in enumerate(shapes):
        own = first[number * len(classes) : (number + 1) * len(classes)]
        label = option_label(option.model, option.precision, option.pool, option.parallelism)
        for item, capacity in zip(classes, own, strict=True):
            if capacity.max_rate_per_second <= 0:
                reason = capacity.reason or "no rate meets the targets"
                excluded.append(Excluded(label, reason, item.declared.name, _excess(item, capacity)))
        points = sorted({capacity.max_num_seqs for capacity in own if capacity.max_rate_per_second > 0})
        asked.extend(
            (number, point, Question(shape, item.lengths, item.planned_targets, point))
            for point in points
            for item in classes
        )
    answers = evaluator.answer(question for _, _, question in asked)
    grouped: dict[tuple[int, int], list[Capacity]] = {}
    for (number, point, _), capacity in zip(asked, answers, strict=True):
        grouped.setdefault((number, point), []).append(capacity)
    candidates: list[Candidate] = []
    for (number, point), capacities in grouped.items():
        option, pool, shape, error_factor = shapes[number]
        chosen = replace(option, max_num_seqs=point)
        label = option_label(option.model, option.precision, option.pool, option.parallelism)
        usable: dict[str, Capacity] = {}
        errors: dict[str, float] = {}
        for item, capacity in zip(classes, capacities, strict=True):
            if capacity.max_rate_per_second <= 0:
                continue
            error = _task_error(item, option.model, error_factor)
            if error is None:
                reason = f"no taskError for {option.model}, which {item.slo_field} needs"
                excluded.append(Excluded(label, reason, item.declared.name, excess=1.0))
            else:
                usable[item.declared.name] = capacity
                errors[item.declared.name] = error
        if usable:
            candidates.append(
                Candidate(
                    name=placement_name(deployment, chosen, pool),
                    option=chosen,
                    pool=pool,
                    shape=shape,
                    price_per_hour=float(pool.price_per_gpu_hour) * option.parallelism.gpus,
                    capacities=usable,
                    task_errors=errors,
                )
            )
    return candidates, excluded


def _bucket(seconds: float) -> float:
    """Rounded up to 60 × 2^n: the figure shapes the startup probe, and a recalibration must not rename placements."""
    return 60.0 * 2.0 ** max(0, math.ceil(math.log2(seconds / 60)))


def host_demand(parallelism: Parallelism) -> HostDemand:
    """CPU and memory of a replica: one core for the front end and one per GPU worker; 8 GiB of host memory per GPU
    beside /dev/shm, which NCCL needs large when several GPUs work together (1 GiB is KServe's value for one)."""
    shared = (1 if parallelism.gpus == 1 else 16) * GIB
    return HostDemand(
        cpu_cores=1 + parallelism.gpus,
        memory_bytes=8 * GIB * parallelism.gpus + shared,
        shared_memory_bytes=shared,
    )


def rejections(choices: Choices, traffic: str, limit: int = 3) -> list[Rejected]:
    """The most telling exclusions of one class: nearest misses first."""
    relevant = sorted(
        (item for item in choices.excluded if item.traffic in ("", traffic)),
        key=lambda item: (item.excess, item.label),
    )
    return [Rejected(item.label, item.reason) for item in relevant[:limit]]


def _allowed_pools(deployment: LLMDeployment, pools: Pools, findings: list[Finding]) -> list[Pool]:
    wanted = deployment.spec.placement.pools
    if wanted is None:
        return [pools.usable[name] for name in sorted(pools.usable)]
    allowed: list[Pool] = []
    for index, name in enumerate(wanted):
        field = f"spec.placement.pools[{index}]"
        if name in pools.usable:
            allowed.append(pools.usable[name])
        elif name in pools.rejected:
            message = f"{field}: GPUNodePool {name} cannot be used: {pools.rejected[name]}"
            findings.append(_finding(deployment, "PoolUnusable", message, field))
        else:
            there = ", ".join(sorted(pools.usable)) or "none"
            message = f"{field}: no GPUNodePool {name}; there are: {there}"
            findings.append(_finding(deployment, "PoolNotFound", message, field))
    return allowed


def _max_model_length(
    deployment: LLMDeployment, model: ModelArchitecture, classes: Sequence[ResolvedClass], findings: list[Finding]
) -> int | None:
    """Longest sequence that replicas accept; None when the model cannot take the class's requests."""
    needed = int(max((item.lengths.input_p95 + item.lengths.output_p95 for item in classes), default=0))
    given = deployment.spec.engine.max_model_length
    if given is not None:
        if given > model.context_length:
            message = (
                f"spec.engine.maxModelLength: {given} exceeds the context length of {model.name}: "
                f"at most {model.context_length}"
            )
            findings.append(_finding(deployment, "MaxModelLengthTooLong", message, "spec.engine.maxModelLength"))
        if given < needed and not any(finding.reason == "MaxModelLengthTooShort" for finding in findings):
            message = (
                f"spec.engine.maxModelLength: {given} is below the 95th percentile of a class's prompt and answer: "
                f"at least {needed}"
            )
            findings.append(_finding(deployment, "MaxModelLengthTooShort", message, "spec.engine.maxModelLength"))
        return given
    if needed > model.context_length:
        message = (
            f"spec.traffic: requests reach {needed} tokens (95th percentile of prompt and answer); "
            f"{model.name} takes at most {model.context_length}"
        )
        findings.append(_finding(deployment, "ContextTooShort", message, "spec.traffic"))
        return None
    return max(min(model.context_length, DEFAULT_MAX_MODEL_LENGTH), needed)


def _task_error(item: ResolvedClass, model: str, factor: float) -> float | None:
    """Expected task error of the class on a model; 0 where nobody limits it, None where it is limited but not known."""
    for given in item.declared.task_error:
        if given.model == model:
            return min(1.0, float(given.value) * factor)
    return None if item.slo.max_task_error is not None else 0.0


def _excess(item: ResolvedClass, capacity: Capacity) -> float:
    """Worst ratio of an unloaded latency to its planned target."""
    unloaded, targets = capacity.unloaded, item.planned_targets
    pairs = (
        (unloaded.ttft_seconds, targets.ttft),
        (unloaded.tpot_seconds, targets.tpot),
        (unloaded.end_to_end_seconds, targets.end_to_end),
    )
    return max((value / target.seconds for value, target in pairs if target is not None), default=float("inf"))


def _target(declared: DeclaredTarget | None) -> LatencyTarget | None:
    if declared is None:
        return None
    return LatencyTarget(seconds=declared.milliseconds / 1000, percentile=declared.percentile)


def _tightened(target: LatencyTarget | None, kept: float) -> LatencyTarget | None:
    return None if target is None else LatencyTarget(target.seconds * kept, target.percentile)


def _finding(
    deployment: LLMDeployment, reason: str, message: str, field: str, severity: Severity = Severity.ERROR
) -> Finding:
    ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
    return Finding(ref, reason, message, severity, field)
