"""The options of one LLMDeployment: which classes each may serve and how fast (the latency part of M1)."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.performance import Capacity, Question, ReplicaShape, checkpoint_bytes
from plimsoll.planning.dominance import Offering, OptionKey, option_key, undominated
from plimsoll.planning.evaluate import Evaluator
from plimsoll.planning.identity import PlacementNames
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.pause import holds
from plimsoll.planning.plan import Finding, Option, Rejected, Severity
from plimsoll.planning.pools import Offer
from plimsoll.planning.variants import Excluded, Variant, Variants, label_of


@dataclass(frozen=True, slots=True)
class Candidate:
    """An option that some class may use."""

    name: str
    """Of the placement that it would be."""
    option: Option
    pool: Offer
    shape: ReplicaShape
    price_per_hour: float
    stored_gigabytes: float
    """The model variant's weights as its checkpoint has them."""
    capacities: Mapping[str, Capacity]
    """Eligible classes only."""
    task_errors: Mapping[str, float]
    asked: str = ""
    """What it would be made for (`PlacementNames.asked`)."""
    made_by: str = ""
    """Release that made the running placement, which is kept as it is; empty where this release renders it."""
    anew: Option | None = None
    """As this release would render a placement that another one made; None where that is not known to differ."""

    @property
    def label(self) -> str:
        """For people."""
        return label_of(self.option)


@dataclass(frozen=True, slots=True)
class Choices:
    """What there is to choose from for one LLMDeployment."""

    classes: tuple[ResolvedClass, ...]
    candidates: tuple[Candidate, ...]
    excluded: tuple[Excluded, ...]
    findings: tuple[Finding, ...]
    beaten: frozenset[OptionKey] = frozenset()
    """Options that another one beats: they are candidates only while they run."""
    kept: frozenset[OptionKey] = frozenset()
    """Those of them that are candidates."""
    usual: frozenset[OptionKey] = frozenset()
    """Options that are looked at whatever runs."""
    beside: frozenset[OptionKey] = frozenset()
    """Running options that were looked at beside those."""

    def hold_for(self, running: Set[OptionKey]) -> bool:
        """Whether the choices are the same when these options run."""
        return running & self.beaten == self.kept and running - self.usual == self.beside

    @property
    def held(self) -> bool:
        """An input is wrong or a person has paused it, so nothing is decided."""
        return any(map(holds, self.findings))


def questions(classes: Sequence[ResolvedClass], variants: Variants) -> list[Question]:
    """What must be known first: each class alone on each variant, which gives the operating points."""
    return [
        Question(variant.shape, item.lengths, item.planned_targets, arrivals=item.arrivals)
        for variant in variants.fitting
        for item in classes
    ]


def further_questions(
    classes: Sequence[ResolvedClass], variants: Variants, running: Set[OptionKey], evaluator: Evaluator
) -> dict[tuple[int, int, int], Question]:
    """What must be known then: each class at the operating points of the others, since classes share replicas.

    And at those of running replicas, which no class may choose any more: what is learnt of a GPU, or a new release, may
    find another point best, and that alone is no reason to start everything anew. Keys are variant, operating point and
    class.
    """
    run_at: dict[tuple[object, ...], set[int]] = {}
    for *what, batch in running:
        run_at.setdefault(tuple(what), set()).add(int(batch))
    answers = iter(evaluator.answer(questions(classes, variants)))
    asked: dict[tuple[int, int, int], Question] = {}
    for number, variant in enumerate(variants.fitting):
        own = [next(answers) for _ in classes]
        chosen = {capacity.max_num_seqs for capacity in own if capacity.max_rate_per_second > 0}
        for point in sorted(chosen | run_at.get(option_key(variant.option)[:-1], set())):
            for index, (item, capacity) in enumerate(zip(classes, own, strict=True)):
                same = capacity.max_rate_per_second > 0 and capacity.max_num_seqs == point
                asked[number, point, index] = Question(
                    variant.shape, item.lengths, item.planned_targets, None if same else point, item.arrivals
                )
    return asked


def choose(
    deployment: LLMDeployment,
    classes: Sequence[ResolvedClass],
    variants: Variants,
    running: Set[OptionKey],
    evaluator: Evaluator,
) -> Choices:
    """Options that meet the objectives of at least one class and that no other beats; running ones always stay."""
    if any(finding.severity is Severity.ERROR for finding in variants.findings):
        return Choices(tuple(classes), (), variants.excluded, variants.findings)
    offerings, missed, usual = _eligible(classes, variants, running, evaluator)
    limited = deployment.spec.placement.replicas.max is not None
    kept, beaten = undominated(offerings, classes, running, whole_replicas=limited)
    names = PlacementNames(deployment)
    candidates = tuple(
        Candidate(
            name=names.of(offering.option, offering.variant.pool),
            option=offering.option,
            pool=offering.variant.pool,
            shape=offering.variant.shape,
            price_per_hour=float(offering.variant.pool.price_per_gpu_hour) * offering.option.parallelism.gpus,
            stored_gigabytes=checkpoint_bytes(offering.variant.shape.model, offering.variant.shape.precision) / 1e9,
            capacities=offering.capacities,
            task_errors=offering.task_errors,
            asked=names.asked(offering.option, offering.variant.pool),
        )
        for offering in kept
    )
    excluded = (*variants.excluded, *missed)
    return Choices(
        classes=tuple(classes),
        candidates=candidates,
        excluded=excluded,
        findings=variants.findings,
        beaten=beaten,
        kept=frozenset(running & beaten),
        usual=usual,
        beside=frozenset(running - usual),
    )


def _eligible(
    classes: Sequence[ResolvedClass], variants: Variants, running: Set[OptionKey], evaluator: Evaluator
) -> tuple[list[Offering], list[Excluded], frozenset[OptionKey]]:
    """Operating points that meet the targets of some class, why the rest is out, and those points that are looked at
    whatever runs."""
    excluded: list[Excluded] = []
    usual: set[OptionKey] = set()
    alone = iter(evaluator.answer(questions(classes, variants)))
    for variant in variants.fitting:
        model, precision, pool, tensor, pipeline, _ = option_key(variant.option)
        for item in classes:
            capacity = next(alone)
            usual.add((model, precision, pool, tensor, pipeline, capacity.max_num_seqs))
            if capacity.max_rate_per_second <= 0:
                reason = capacity.reason or "no rate meets the targets"
                excluded.append(Excluded(variant.label, reason, item.declared.name, _excess(item, capacity)))
    asked = further_questions(classes, variants, running, evaluator)
    usable: dict[tuple[int, int], dict[str, Capacity]] = {}
    for (number, point, index), capacity in zip(asked, evaluator.answer(asked.values()), strict=True):
        variant, item = variants.fitting[number], classes[index]
        if capacity.max_rate_per_second <= 0:
            continue
        if _task_error(item, variant) is None:
            reason = f"no taskError for {variant.option.model}, which {item.slo_field} needs"
            excluded.append(Excluded(variant.label, reason, item.declared.name, excess=1.0))
        else:
            usable.setdefault((number, point), {})[item.declared.name] = capacity
    offerings: list[Offering] = []
    for (number, point), capacities in usable.items():
        variant = variants.fitting[number]
        errors = {item.declared.name: _task_error(item, variant) for item in classes}
        option = replace(variant.option, max_num_seqs=point)
        known = {name: error for name, error in errors.items() if error is not None}
        offerings.append(Offering(variant, option, capacities, known))
    return offerings, excluded, frozenset(usual)


def rejections(choices: Choices, traffic: str, limit: int = 3) -> list[Rejected]:
    """The most telling exclusions of one class: nearest misses first."""
    relevant = sorted(
        (item for item in choices.excluded if item.traffic in ("", traffic)),
        key=lambda item: (item.excess, item.label),
    )
    return [Rejected(item.label, item.reason) for item in relevant[:limit]]


def _task_error(item: ResolvedClass, variant: Variant) -> float | None:
    """Expected task error of the class on a model; 0 where nobody limits it, None where it is limited but not known."""
    for given in item.declared.task_error:
        if given.model == variant.option.model:
            return min(1.0, float(given.value) * variant.task_error_factor)
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
