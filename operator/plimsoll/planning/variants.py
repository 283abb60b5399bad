"""Every way to run the models of an LLMDeployment that fits: model, precision, pool, parallelism (M1: memory)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.catalog import Catalog, ModelArchitecture, Precision, UnknownName, unsupported_reason
from plimsoll.performance import Parallelism, ReplicaShape
from plimsoll.planning.evaluate import Evaluator
from plimsoll.planning.images import engine_image
from plimsoll.planning.objectives import ResolvedClass, deployment_finding
from plimsoll.planning.plan import Finding, HostDemand, Option, Severity
from plimsoll.planning.pools import Offer, Pools
from plimsoll.planning.speeds import Speeds

DEFAULT_MAX_MODEL_LENGTH = 32_768
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to run a model, before its operating point is chosen (`option.max_num_seqs` is 0).

    Its pool stands for all like it.
    """

    option: Option
    pool: Offer
    shape: ReplicaShape
    task_error_factor: float

    @property
    def label(self) -> str:
        """For people."""
        return label_of(self.option)


@dataclass(frozen=True, slots=True)
class Excluded:
    """An option that is out, for all classes or for one, and why."""

    label: str
    reason: str
    traffic: str = ""
    """Empty: for all classes."""
    excess: float = float("inf")
    """How far the worst latency is from its target, as a ratio; for finding the nearest miss."""
    pool: str = ""
    """The pool, which stands for all like it."""


@dataclass(frozen=True, slots=True)
class Variants:
    """What could run, what could not, and what is wrong with the inputs."""

    fitting: tuple[Variant, ...]
    excluded: tuple[Excluded, ...]
    findings: tuple[Finding, ...]
    alike: Mapping[str, tuple[Offer, ...]]
    """Pools that may be used, by the name of the one that stands for them."""


Fits = dict[tuple[str, str, str, str, int, str | None, float, tuple[Parallelism, ...]], "_Found"]
"""Of one round: by model, precision, checkpoint, pool, length, image, factor of task error and parallelisms.

That many LLMDeployments share the very same shapes also keeps memory small, and tells the shapes apart quickly.
"""
_Found = tuple[tuple[Variant, ...], tuple[Excluded, ...]]


def enumerate_variants(
    deployment: LLMDeployment,
    classes: Sequence[ResolvedClass],
    pools: Pools,
    catalog: Catalog,
    speeds: Speeds,
    evaluator: Evaluator,
    likeness: Mapping[str, str],
    *,
    several_nodes: bool,
    fits: Fits,
) -> Variants:
    """All ways to run a deployment's models that fit, why the others are out, and what is wrong with its inputs.

    Args:
        likeness: of `pools`, as `pools.likeness` tells it.
        fits: what was found for other deployments of the same round.
    """
    findings: list[Finding] = []
    alike = _alike(_allowed_pools(deployment, pools, findings), likeness)
    choice = deployment.spec.placement.parallelism
    splits = tuple(Parallelism(*degrees) for degrees in product(sorted(choice.tensor), sorted(choice.pipeline)))
    excluded: list[Excluded] = []
    variants: list[Variant] = []
    for model_index, declared in enumerate(deployment.spec.models):
        try:
            model = catalog.model(declared.name)
        except UnknownName as error:
            field = f"spec.models[{model_index}].name"
            findings.append(
                deployment_finding(
                    deployment, "UnknownModel", f"{field}: {error}; or describe it in a ModelProfile", field
                )
            )
            continue
        length = max_model_length(deployment, model, classes, findings)
        for precision_index, precision in enumerate(declared.precisions):
            checkpoint = precision.checkpoint or model.checkpoint(precision.name)
            if checkpoint is None:
                field = f"spec.models[{model_index}].precisions[{precision_index}].checkpoint"
                message = (
                    f"{field}: {precision.name} needs a quantised checkpoint and the catalog knows none for "
                    f"{model.name}; left out until one is named"
                )
                findings.append(deployment_finding(deployment, "CheckpointMissing", message, field, Severity.WARNING))
                continue
            if length is None:
                continue
            facts, factor = catalog.precision(precision.name), float(precision.task_error_factor)
            for pool in (group[0] for group in alike.values()):
                image = engine_image(deployment.spec.engine, pool.gpu.vendor)
                key = (model.name, facts.name, checkpoint, pool.name, length, image, factor, splits)
                if key not in fits:
                    split = sorted(((nodes_needed(one, pool.gpus_per_node), one) for one in splits), key=_on_one_first)
                    asked = _Asked(model, facts, checkpoint, pool, length, image, factor)
                    fits[key] = _fitting(asked, split, speeds, evaluator, several_nodes=several_nodes)
                fitting, out = fits[key]
                excluded.extend(out)
                variants.extend(fitting)
    return Variants(tuple(variants), tuple(excluded), tuple(findings), alike)


def option_label(model: str, precision: str, pool: str, parallelism: Parallelism, nodes: int = 1) -> str:
    """An option for people: `Llama-3.1-8B-Instruct bf16 on l40s TP2`."""
    stages = f" PP{parallelism.pipeline}" if parallelism.pipeline > 1 else ""
    spread = f" over {nodes} nodes" if nodes > 1 else ""
    return f"{model.rsplit('/', 1)[-1]} {precision} on {pool} TP{parallelism.tensor}{stages}{spread}"


def label_of(option: Option) -> str:
    """The label of an option; of a chain's server that of the whole chain."""
    if option.stage is not None:
        whole = Parallelism(option.parallelism.tensor, len(option.stage.partition))
        return f"chain of {option_label(option.model, option.precision, option.pool, whole)}"
    return option_label(option.model, option.precision, option.pool, option.parallelism, option.nodes)


def _on_one_first(split: tuple[int, Parallelism]) -> bool:
    """Whether any fits on one node decides how much must be known of the others."""
    return split[0] > 1


@dataclass(frozen=True, slots=True)
class _Asked:
    """A model variant on a pool, in any parallelism."""

    model: ModelArchitecture
    precision: Precision
    checkpoint: str
    pool: Offer
    length: int
    image: str | None
    task_error_factor: float


def _fitting(
    asked: _Asked,
    splits: Sequence[tuple[int, Parallelism]],
    speeds: Speeds,
    evaluator: Evaluator,
    *,
    several_nodes: bool,
) -> tuple[tuple[Variant, ...], tuple[Excluded, ...]]:
    """Parallelisms (with pods per replica) at which it can run at all; the rest with the reason."""
    fitting: list[Variant] = []
    excluded: list[Excluded] = []
    model, facts, pool, image = asked.model, asked.precision, asked.pool, asked.image
    unsupported = unsupported_reason(facts, pool.gpu)
    if image is None:
        unsupported = f"no engine image for {pool.gpu.vendor} GPUs: set spec.engine.images.{pool.gpu.vendor}"
    for nodes, parallelism in splits:
        label = option_label(model.name, facts.name, pool.name, parallelism, nodes)
        shape = speeds.of(
            ReplicaShape(
                model,
                facts,
                pool.gpu,
                parallelism,
                asked.length,
                nodes=max(1, nodes),
                network=pool.network if nodes > 1 else None,
            )
        )
        problem = unsupported or _span_problem(parallelism, nodes, pool, several_nodes=several_nodes)
        # What keeps a replica from taking several nodes is worth a look only where the memory of none is enough.
        looked_at = problem is None or (unsupported is None and nodes > 1 and not fitting)
        startup = evaluator.startup(shape) if looked_at else None
        if startup is None or startup.problem is not None or problem is not None or image is None:
            if startup is None and unsupported is None and nodes > 1:
                continue  # a node has room for it: nobody misses what the cluster cannot do there
            if startup is None or startup.problem is None:
                # The nearest thing to fitting, the fewest nodes first.
                excess = math.inf if startup is None else 1 + nodes / 1000
                excluded.append(Excluded(label, problem or "", excess=excess, pool=pool.name))
            else:
                excluded.append(Excluded(label, startup.problem, excess=startup.excess, pool=pool.name))
            continue
        checkpoint_args = (
            () if asked.checkpoint != model.name or facts.name == model.native_precision else facts.engine_args
        )
        option = Option(
            model=model.name,
            precision=facts.name,
            checkpoint=asked.checkpoint,
            pool=pool.name,
            parallelism=parallelism,
            max_num_seqs=0,
            max_model_length=asked.length,
            image=image,
            gpu_resource=pool.resource_name,
            engine_args=checkpoint_args,
            host=host_demand(parallelism.gpus // nodes, alone=parallelism.gpus == 1),
            load_seconds=load_bucket(startup.load_seconds),
            gated=model.gated,
            nodes=nodes,
        )
        fitting.append(Variant(option, pool, shape, asked.task_error_factor))
    return tuple(fitting), tuple(excluded)


def load_bucket(seconds: float) -> float:
    """Rounded up to 60 × 2^n: the figure shapes the startup probe, and a recalibration must not rename placements."""
    return 60.0 * 2.0 ** max(0, math.ceil(math.log2(seconds / 60)))


def nodes_needed(parallelism: Parallelism, gpus_per_node: int) -> int:
    """Pods of a replica, each on a node; 0 where the ranks of one stage do not fit a node.

    Tensor parallelism stays within a node, since every layer waits for it. All pods hold equally many whole stages, as
    the engine wants it, and as many as fit.
    """
    most = gpus_per_node // parallelism.tensor
    stages = next((count for count in range(most, 0, -1) if parallelism.pipeline % count == 0), 0)
    return parallelism.pipeline // stages if stages else 0


def _span_problem(parallelism: Parallelism, nodes: int, pool: Offer, *, several_nodes: bool) -> str | None:
    """Why a replica cannot be spread over as many nodes as it needs; None where it can, or needs one."""
    if nodes == 1:
        return None
    if nodes == 0:
        return (
            f"needs {parallelism.tensor} GPUs in one node and a node of the pool has {pool.gpus_per_node}; "
            "only pipeline stages may be on several nodes"
        )
    if pool.one_node:
        return f"needs {nodes} nodes per replica and GPUNodePool {pool.name} has one: add nodes, or raise nodes.max"
    if not several_nodes:
        return f"needs {nodes} nodes per replica: install LeaderWorkerSet in the cluster"
    return None


def host_demand(gpus: int, *, alone: bool) -> HostDemand:
    """CPU and memory of a pod: one core for the front end and one per GPU worker; 8 GiB of host memory per GPU
    beside /dev/shm, which NCCL needs large when several GPUs work together (1 GiB is KServe's value for one)."""
    shared = (1 if alone else 16) * GIB
    return HostDemand(
        cpu_cores=1 + gpus,
        memory_bytes=8 * GIB * gpus + shared,
        shared_memory_bytes=shared,
    )


def _allowed_pools(deployment: LLMDeployment, pools: Pools, findings: list[Finding]) -> list[Offer]:
    wanted = deployment.spec.placement.pools
    if wanted is None:
        return [pools.usable[name].offer for name in sorted(pools.usable)]
    allowed: list[Offer] = []
    for index, name in enumerate(wanted):
        field = f"spec.placement.pools[{index}]"
        if name in pools.usable:
            allowed.append(pools.usable[name].offer)
        elif name in pools.rejected:
            message = f"{field}: GPUNodePool {name} cannot be used: {pools.rejected[name]}"
            findings.append(deployment_finding(deployment, "PoolUnusable", message, field))
        else:
            there = ", ".join(sorted(pools.usable)) or "none"
            message = f"{field}: no GPUNodePool {name}; there are: {there}"
            findings.append(deployment_finding(deployment, "PoolNotFound", message, field))
    return allowed


def _alike(allowed: Sequence[Offer], likeness: Mapping[str, str]) -> dict[str, tuple[Offer, ...]]:
    """The allowed pools by the first of those like it."""
    groups: dict[str, list[Offer]] = {}
    for pool in allowed:
        groups.setdefault(likeness[pool.name], []).append(pool)
    return {group[0].name: tuple(group) for group in groups.values()}


def max_model_length(
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
            findings.append(
                deployment_finding(deployment, "MaxModelLengthTooLong", message, "spec.engine.maxModelLength")
            )
        if given < needed and not any(finding.reason == "MaxModelLengthTooShort" for finding in findings):
            message = (
                f"spec.engine.maxModelLength: {given} is below the 95th percentile of a class's prompt and answer: "
                f"at least {needed}"
            )
            findings.append(
                deployment_finding(deployment, "MaxModelLengthTooShort", message, "spec.engine.maxModelLength")
            )
        return given
    if needed > model.context_length:
        message = (
            f"spec.traffic: requests reach {needed} tokens (95th percentile of prompt and answer); "
            f"{model.name} takes at most {model.context_length}"
        )
        findings.append(deployment_finding(deployment, "ContextTooShort", message, "spec.traffic"))
        return None
    return max(min(model.context_length, DEFAULT_MAX_MODEL_LENGTH), needed)
