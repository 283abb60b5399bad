"""The options of one LLMDeployment: which classes each may serve and how fast (the latency part of M1)."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from heapq import nsmallest

from plimsoll import __version__
from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.performance import Capacity, Question, ReplicaShape, checkpoint_bytes
from plimsoll.planning.dominance import Offering, OptionKey, beaten, option_key
from plimsoll.planning.identity import PlacementNames
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.pause import holds
from plimsoll.planning.plan import Finding, Option, Rejected, Severity
from plimsoll.planning.pools import Offer
from plimsoll.planning.snapshot import Made, Workload
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
class Way:
    """One way to serve, wherever it is: a candidate on each of its pools, which are alike but for their prices."""

    option: Option
    """On the pool that stands for all like it."""
    shape: ReplicaShape
    stored_gigabytes: float
    capacities: Mapping[str, Capacity]
    task_errors: Mapping[str, float]
    pools: tuple[Offer, ...]
    """Where another way beats it, only those where it runs."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What there is to choose from for one LLMDeployment."""

    classes: tuple[ResolvedClass, ...]
    ways: tuple[Way, ...]
    excluded: tuple[Excluded, ...]
    findings: tuple[Finding, ...]
    names: PlacementNames | None = None
    """None where there are no ways."""
    alike: Mapping[str, tuple[Offer, ...]] = field(default_factory=dict)
    """The pools that may be used, by the name of the one that stands for them."""
    likeness: Mapping[str, str] = field(default_factory=dict)
    """Of all pools, whether they may be used or not."""
    beaten: frozenset[OptionKey] = frozenset()
    """Options that another one beats, on the first of the pools alike: they are candidates only where they run."""
    kept: frozenset[OptionKey] = frozenset()
    """Those of them that run."""
    usual: frozenset[OptionKey] = frozenset()
    """Options that are looked at whatever runs, on the first of the pools alike."""
    beside: frozenset[OptionKey] = frozenset()
    """Running options that were looked at beside those."""
    made: Mapping[str, Sequence[tuple[Workload, Made]]] = field(default_factory=dict)
    """What runs already, by what it was made for."""
    candidates: dict[tuple[int, str], tuple[Way, Candidate]] = field(default_factory=dict, compare=False, repr=False)
    """Candidates as this release makes them, by identity of the way and pool: names are dear to make."""

    def hold_for(self, running: Set[OptionKey]) -> bool:
        """Whether the choices are the same when these options run."""
        return (_among(running, self.beaten, self.likeness), _beside(running, self.usual, self.likeness)) == (
            self.kept,
            self.beside,
        )

    def candidate(self, way: Way, pool: Offer) -> Candidate:
        """The way on one of its pools."""
        key = (id(way), pool.name)
        known = self.candidates.get(key)
        if known is None or known[0] is not way:
            known = self.candidates[key] = (way, self._made_new(way, pool))
        new = known[1]
        return _as_it_runs(new, self.made.get(new.asked, ()))

    def _made_new(self, way: Way, pool: Offer) -> Candidate:
        assert self.names is not None  # noqa: S101  (there is a way)
        option = replace(way.option, pool=pool.name)
        return Candidate(
            name=self.names.of(option, pool),
            option=option,
            pool=pool,
            shape=way.shape,
            price_per_hour=float(pool.price_per_gpu_hour) * option.parallelism.gpus,
            stored_gigabytes=way.stored_gigabytes,
            capacities=way.capacities,
            task_errors=way.task_errors,
            asked=self.names.asked(option, pool),
        )

    @property
    def held(self) -> bool:
        """An input is wrong or a person has paused it, so nothing is decided."""
        return any(map(holds, self.findings))


Point = tuple[int, int, int]
"""Number of a variant, operating point, number of a class."""


def questions(classes: Sequence[ResolvedClass], variants: Variants) -> list[Question]:
    """What must be known first: each class alone on each variant, which gives the operating points."""
    return [
        Question(variant.shape, item.lengths, item.planned_targets, arrivals=item.arrivals)
        for variant in variants.fitting
        for item in classes
    ]


def further_questions(
    classes: Sequence[ResolvedClass],
    variants: Variants,
    running: Set[OptionKey],
    alone: Sequence[Capacity],
    likeness: Mapping[str, str],
) -> dict[Point, Question]:
    """What must be known then: each class at the operating points of the others, since classes share replicas.

    And at those of running replicas, which no class may choose any more: what is learnt of a GPU, or a new release, may
    find another point best, and that alone is no reason to start everything anew.

    Args:
        alone: answers to `questions`.
    """
    run_at: dict[tuple[object, ...], set[int]] = {}
    for *what, batch in (_on_first(key, likeness) for key in running):
        run_at.setdefault(tuple(what), set()).add(int(batch))
    answers = iter(alone)
    asked: dict[Point, Question] = {}
    for number, variant in enumerate(variants.fitting):
        own = [next(answers) for _ in classes]
        chosen = {capacity.max_num_seqs for capacity in own if capacity.max_rate_per_second > 0}
        for point in sorted(chosen | run_at.get(_on_first(option_key(variant.option), likeness)[:-1], set())):
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
    alone: Sequence[Capacity],
    together: Mapping[Point, Capacity],
    likeness: Mapping[str, str],
) -> Choices:
    """Options that meet the objectives of at least one class and that no other beats; running ones always stay.

    Args:
        alone: answers to `questions`.
        together: answers to `further_questions`.
    """
    if any(finding.severity is Severity.ERROR for finding in variants.findings):
        return Choices(tuple(classes), (), variants.excluded, variants.findings, alike=variants.alike)
    offerings, missed, usual = _eligible(classes, variants, alone, together, likeness)
    limited = deployment.spec.placement.replicas.max is not None
    always = [offering for offering in offerings if _on_first(option_key(offering.option), likeness) in usual]
    gone = frozenset(_on_first(key, likeness) for key in beaten(always, classes, whole_replicas=limited))
    kept, beside = _among(running, gone, likeness), _beside(running, usual, likeness)
    ways: list[Way] = []
    for offering in offerings:
        option, shape = offering.option, offering.variant.shape
        pools = variants.alike[option.pool]
        first = _on_first(option_key(option), likeness)
        if first in gone or first not in usual:
            # Made only of what runs: there are ten times as many beaten options as others.
            only = kept | beside
            pools = tuple(pool for pool in pools if only and option_key(replace(option, pool=pool.name)) in only)
        if pools:
            stored = checkpoint_bytes(shape.model, shape.precision) / 1e9
            ways.append(Way(option, shape, stored, offering.capacities, offering.task_errors, pools))
    return Choices(
        classes=tuple(classes),
        ways=tuple(ways),
        excluded=(*variants.excluded, *missed),
        findings=variants.findings,
        names=PlacementNames(deployment),
        alike=variants.alike,
        likeness=likeness,
        beaten=gone,
        kept=kept,
        usual=usual,
        beside=beside,
    )


def _on_first(key: OptionKey, likeness: Mapping[str, str]) -> OptionKey:
    """The same option on the first of the pools alike."""
    return (*key[:2], likeness.get(key[2], key[2]), *key[3:])


def _among(running: Set[OptionKey], gone: Set[OptionKey], likeness: Mapping[str, str]) -> frozenset[OptionKey]:
    return frozenset(key for key in running if _on_first(key, likeness) in gone)


def _beside(running: Set[OptionKey], usual: Set[OptionKey], likeness: Mapping[str, str]) -> frozenset[OptionKey]:
    return frozenset(key for key in running if _on_first(key, likeness) not in usual)


def _as_it_runs(candidate: Candidate, running: Sequence[tuple[Workload, Made]]) -> Candidate:
    """The candidate as the running placement that was made for the same."""
    if not running:
        return candidate
    # A renewal may be under way: then the new placement is the one to go on with.
    workload, made = min(running, key=lambda item: (item[0].name != candidate.name, -item[0].replicas, item[0].name))
    same_name, same_release = workload.name == candidate.name, made.release == __version__
    if same_name and same_release:
        return candidate
    host = replace(candidate.option.host, cpu_cores=made.cpu_cores, memory_bytes=made.memory_bytes)
    option = replace(candidate.option, image=made.image, checkpoint=made.checkpoint, host=host)
    # Under one name templates are meant to be equal; within a release only derived figures such as load times differ.
    anew = None if same_name or same_release else candidate.option
    return replace(candidate, name=workload.name, option=option, made_by=made.release, anew=anew)


def _eligible(
    classes: Sequence[ResolvedClass],
    variants: Variants,
    alone: Sequence[Capacity],
    together: Mapping[Point, Capacity],
    likeness: Mapping[str, str],
) -> tuple[list[Offering], list[Excluded], frozenset[OptionKey]]:
    """Operating points that meet the targets of some class, why the rest is out, and those points that are looked at
    whatever runs."""
    excluded: list[Excluded] = []
    usual: set[OptionKey] = set()
    answers = iter(alone)
    for variant in variants.fitting:
        model, precision, pool, tensor, pipeline, _ = _on_first(option_key(variant.option), likeness)
        for item in classes:
            capacity = next(answers)
            usual.add((model, precision, pool, tensor, pipeline, capacity.max_num_seqs))
            if capacity.max_rate_per_second <= 0:
                reason = capacity.reason or "no rate meets the targets"
                excess, where = _excess(item, capacity), variant.pool.name
                excluded.append(Excluded(variant.label, reason, item.declared.name, excess, where))
    usable: dict[tuple[int, int], dict[str, Capacity]] = {}
    for (number, point, index), capacity in together.items():
        variant, item = variants.fitting[number], classes[index]
        if capacity.max_rate_per_second <= 0:
            continue
        if _task_error(item, variant) is None:
            reason = f"no taskError for {variant.option.model}, which {item.slo_field} needs"
            excluded.append(Excluded(variant.label, reason, item.declared.name, 1.0, variant.pool.name))
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
    relevant = (item for item in choices.excluded if item.traffic in ("", traffic))
    nearest = nsmallest(limit, relevant, key=lambda item: (item.excess, item.label))
    return [Rejected(_with_twins(item, choices), item.reason) for item in nearest]


def _with_twins(item: Excluded, choices: Choices) -> str:
    more = len(choices.alike.get(item.pool, (None,))) - 1
    return item.label if more == 0 else f"{item.label} ({more} more pool{'s' * (more > 1)} alike)"


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
