"""What plans are worth when things turn out worse, and what GH and AGH lose without one of their mechanisms.

`python -m benchmarks.robustness` prints three experiments of the paper (arXiv 2604.07472): ablation (M1, M2, M3 off one
by one), stress (delays and errors larger than planned, a second stage routes again or drops), and scenarios (tight
budget, dear unserved traffic).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from benchmarks import scaling
from benchmarks.baselines import CHEAPEST_FIRST, DVR, LPR, homogeneous
from benchmarks.methods import AGH, DEFAULT, EXACT, GH, Method
from benchmarks.progress import say
from benchmarks.results import Figure, Table, show
from plimsoll.allocation import Allocation, AllocationProblem, check, from_paper_instance, solve_agh, solve_greedy
from plimsoll.allocation.mechanisms import Mechanisms
from plimsoll.allocation.paper import KV_MEMORY, PaperInstance
from plimsoll.allocation.robust import priced, restage, shed, stressed, with_headroom

ABLATION_SIZES = ((6, 6, 10), (10, 10, 10), (20, 20, 20))
ABLATION_SEEDS = 5
LOST = 0.01
"""A class of which more than this part is unserved, while the full method serves it, counts as infeasible."""
FACTORS = (1.0, 1.1, 1.2, 1.3, 1.5)
JUDGED_FACTOR = 1.2
NOISE = 0.1
"""Every delay and error is also multiplied by a number of its own, uniform in 0.9..1.1."""
DRAWS = 100
FEWER_DRAWS = 20
HEADROOMS = (0.1, 0.2, 0.25, 0.3)
FIXED = 0.2
"""The headroom of claims that choose none with hindsight."""
CLAIM_SIZES = ((8, 8, 10), (10, 10, 10))
CLAIM_SEEDS = 2
CONFIDENCE = 1.96
"""Standard errors to either side of a mean that hold 95 % of a normal distribution."""
Stage = Callable[[AllocationProblem, Allocation], Allocation]


def reference(**changes: float) -> PaperInstance:
    """R1; `changes` are arguments of `from_paper_instance`."""
    return from_paper_instance(json.loads(scaling.REFERENCE.read_text(encoding="utf-8")), **changes)


# --- Ablation -------------------------------------------------------------------------------------------------------

VARIANTS = {
    "all, clean-up on": Mechanisms(),
    "all": Mechanisms(clean_up=False),
    "without M1": Mechanisms(clean_up=False, feasible_configurations=False),
    "without M2": Mechanisms(clean_up=False, effective_coverage=False),
    "without M3": Mechanisms(clean_up=False, upgrades=False),
}
FULL = "all"


@dataclass(frozen=True, slots=True)
class Ablated:
    """A variant on one instance. `broken` names the kinds of violated limits, or `unserved`."""

    family: str
    method: str
    variant: str
    cost: float
    broken: tuple[str, ...]
    above_full: float
    """Cost relative to the full method's without clean-up, less 1; only where nothing is broken."""


def ablation_instances() -> Iterator[tuple[str, PaperInstance]]:
    """R1 at three demands, and the scaling family."""
    for scale in (1.0, 1.3, 2.0):
        yield "R1", reference(arrival_scale=scale)
    for size in ABLATION_SIZES:
        # With R1's number of types both levels of demand are the same.
        for high in (False, True) if size[0] > 6 else (True,):
            for seed in range(ABLATION_SEEDS):
                family = f"{'×'.join(map(str, size))} {'high' if high else 'low'}"
                yield family, from_paper_instance(scaling.instance(size, seed, high))


def ablate(family: str, instance: PaperInstance) -> Iterator[Ablated]:
    """GH and AGH in all variants on one instance."""
    problem = instance.problem
    for name, solve in (("GH", solve_greedy), ("AGH", solve_agh)):
        full = solve(problem, mechanisms=VARIANTS[FULL])
        for variant, mechanisms in VARIANTS.items():
            answer = full if variant == FULL else solve(problem, mechanisms=mechanisms)
            broken = sorted({violation.kind for violation in check(problem, answer)})
            if (answer.unserved - np.maximum(full.unserved, 0.0) > LOST).any():
                broken.append("unserved")
            above = answer.cost.total / full.cost.total - 1
            yield Ablated(family, name, variant, answer.cost.total * instance.period_hours, tuple(broken), above)


def ablation() -> tuple[list[Figure], Table]:
    """How often each variant is infeasible, on what, and what it costs where it is not."""
    rows = [row for family, instance in ablation_instances() for row in ablate(family, instance)]
    figures, lines = [], []
    for family in dict.fromkeys(row.family for row in rows):
        for method in ("GH", "AGH"):
            for variant in VARIANTS:
                group = [row for row in rows if (row.family, row.method, row.variant) == (family, method, variant)]
                kinds = sorted({kind for row in group for kind in row.broken})
                good = [row.above_full for row in group if not row.broken]
                mean = f"{np.mean(good):+.1%} ({min(good):+.1%} to {max(good):+.1%})" if good else ""
                broken = sum(bool(row.broken) for row in group)
                costs = " / ".join(f"{row.cost:.1f}" for row in group) if family == "R1" else ""
                lines.append((family, method, variant, f"{broken} of {len(group)}", ", ".join(kinds), mean, costs))
    for method in ("GH", "AGH"):
        for variant in list(VARIANTS)[2:]:
            group = [row for row in rows if (row.method, row.variant) == (method, variant)]
            part = 100 * sum(bool(row.broken) for row in group) / len(group)
            figures.append(Figure(f"ablation: {method} {variant}, infeasible of {len(group)} instances", part, "%"))
            good = [100 * row.above_full for row in group if not row.broken]
            if good:
                name = f"ablation: {method} {variant}, cost above all mechanisms, mean of the feasible"
                figures.append(Figure(name, float(np.mean(good)), "%"))
    columns = (
        "family",
        "method",
        "variant",
        "infeasible",
        "why",
        "cost against `all`, feasible ones",
        "R1 ×1 / ×1.3 / ×2 $",
    )
    title = "Ablation: mechanisms switched off, clean-up off as well; infeasible is a broken limit or "
    title += "more than 1 % of a class unserved that the full method serves"
    return figures, Table(title, columns, lines)


# --- Stress ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over the draws, and how far the true one may be with 95 % confidence."""

    value: float
    half_width: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """From at least two values."""
        return cls(float(np.mean(values)), CONFIDENCE * float(np.std(values, ddof=1)) / sqrt(len(values)))

    def text(self, digits: int) -> str:
        """Mean ± half width."""
        return f"{self.value:,.{digits}f} ± {self.half_width:.{digits}f}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The second stage of one plan at one factor: cost of the whole period, share of all requests unserved."""

    cost: Mean
    unserved: Mean

    def text(self) -> str:
        """Both means with their confidence."""
        return f"{self.cost.text(1)} / {100 * self.unserved.value:.2f} ± {100 * self.unserved.half_width:.2f} %"


def planned_with(method: Method, headroom: float) -> Method:
    """The method on limits tightened by headroom on delays and errors."""
    if not headroom:
        return method

    def solve(problem: AllocationProblem) -> Allocation:
        tight = with_headroom(problem, delay=headroom, error=headroom, delay_bound_resources=[KV_MEMORY])
        return priced(problem, method.solve(tight))

    return Method(f"{method.name}, headroom {headroom:g}", solve)


def one_gpu_type(instance: PaperInstance) -> Method:
    """The homogeneous fleet with all tiers of a GPU counted as one type."""
    gpus = {}
    for (_, tier, _, _), pool in zip(instance.option_names, instance.problem.option_pool.tolist(), strict=True):
        gpus[pool] = tier.partition("-")[0]
    kinds = sorted(set(gpus.values()))
    types = [kinds.index(gpus[pool]) if pool in gpus else len(kinds) for pool in range(max(gpus) + 1)]
    types += [len(kinds)] * (len(instance.problem.pool_gpu_limit) - len(types))
    return Method("one GPU type", lambda problem: homogeneous(problem, types))


def disturbances(problem: AllocationProblem, factor: float, draws: int, seed: int = 0) -> Iterator[AllocationProblem]:
    """The problem with delays and errors times `factor` and a number of their own for each class, model and pool."""
    generator = np.random.default_rng(seed)
    group = problem.option_pair[problem.pair_option]
    shape = (problem.classes, int(group.max()) + 1)
    for _ in range(draws):
        noise = generator.uniform(1 - NOISE, 1 + NOISE, (2, *shape))[:, problem.pair_class, group]
        yield stressed(
            problem,
            delay_factor=factor * noise[0],
            error_factor=factor * noise[1],
            delay_bound_resources=[KV_MEMORY],
        )


def unserved_share(problem: AllocationProblem, allocation: Allocation) -> float:
    """Of all requests."""
    return float(problem.class_rate_per_hour @ allocation.unserved / problem.class_rate_per_hour.sum())


def second_stage(
    instance: PaperInstance, plans: Mapping[str, Allocation], factor: float, draws: int, stage: Stage
) -> dict[str, Outcome]:
    """Means over the draws, by plan; every plan meets the same draws."""
    costs: dict[str, list[float]] = {name: [] for name in plans}
    shares: dict[str, list[float]] = {name: [] for name in plans}
    for problem in disturbances(instance.problem, factor, draws):
        known: dict[bytes, Allocation] = {}
        for name, plan in plans.items():
            key = plan.replicas.tobytes() + (b"" if stage is restage else plan.share.tobytes())
            if key not in known:
                known[key] = stage(problem, plan)
            costs[name].append(known[key].cost.total * instance.period_hours)
            shares[name].append(unserved_share(problem, known[key]))
    return {name: Outcome(Mean.of(costs[name]), Mean.of(shares[name])) for name in plans}


def claim_instances() -> Iterator[tuple[str, PaperInstance]]:
    """R1 at two demands, and small members of the scaling family."""
    yield "R1", reference()
    yield "R1, demand ×1.3", reference(arrival_scale=1.3)
    for size in CLAIM_SIZES:
        for high in (False, True):
            for seed in range(CLAIM_SEEDS):
                name = f"{'×'.join(map(str, size))} {'high' if high else 'low'}, seed {seed}"
                yield name, from_paper_instance(scaling.instance(size, seed, high))


def stress_in_full() -> Table:
    """All methods on R1 at all factors, with both second stages."""
    instance = reference()
    methods = [GH, AGH, *(planned_with(method, part) for method in (EXACT, DEFAULT) for part in (0.0, 0.1, 0.2))]
    methods += [LPR, DVR, one_gpu_type(instance), CHEAPEST_FIRST]
    plans = {method.name: method.solve(instance.problem) for method in methods}
    stages = {"routes again": restage, "drops": shed}
    found = {
        (name, factor): second_stage(instance, plans, factor, DRAWS, stage)
        for name, stage in stages.items()
        for factor in FACTORS
    }
    lines = [
        (name, stage, _daily(instance, plan), *(found[stage, factor][name].text() for factor in FACTORS))
        for name, plan in plans.items()
        for stage in stages
    ]
    title = "Stress on R1: delays and errors × factor × U[0.9, 1.1]; $ a day / requests unserved, "
    title += f"means of {DRAWS} draws with 95 % confidence"
    return Table(title, ("plan", "second stage", "planned $", *(f"×{factor:g}" for factor in FACTORS)), lines)


def stress_claims() -> tuple[list[Figure], Table]:
    """AGH's unserved share beside the exact plan's, and what headroom costs beside both at no more unserved."""
    lines: list[tuple[str, ...]] = []
    ratios: dict[str, float] = {}
    above: dict[str, dict[str, float]] = {AGH.name: {}, EXACT.name: {}}
    dominated = 0
    tight = {part: planned_with(EXACT, part) for part in HEADROOMS}
    for name, instance in claim_instances():
        say(f"stress on {name}")
        methods = [GH, AGH, EXACT, *tight.values()]
        plans = {method.name: method.solve(instance.problem) for method in methods}
        draws = DRAWS if name == "R1" else FEWER_DRAWS
        found = second_stage(instance, plans, JUDGED_FACTOR, draws, restage)
        lines.append((name, *(f"{_daily(instance, plans[m.name])} → {found[m.name].text()}" for m in methods)))
        if found[EXACT.name].unserved.value > 0:
            ratios[name] = found[AGH.name].unserved.value / found[EXACT.name].unserved.value
        for rival, by_instance in above.items():
            most = found[rival].unserved.value + 1e-6
            costs = [found[m.name].cost.value for m in tight.values() if found[m.name].unserved.value <= most]
            by_instance[name] = min(costs, default=np.inf) / found[rival].cost.value - 1
        fixed, agh = found[tight[FIXED].name], found[AGH.name]
        dominated += fixed.unserved.value <= agh.unserved.value + 1e-6 and fixed.cost.value <= agh.cost.value + 1e-6
    prefix = f"stress ×{JUDGED_FACTOR:g}"
    figures = [
        Figure(f"{prefix}, R1: AGH's unserved share over the exact plan's", ratios["R1"], "", 0.25),
        Figure(
            f"{prefix}: instances of {len(ratios)} where AGH leaves more than a quarter of the exact plan's",
            sum(ratio > 0.25 for ratio in ratios.values()),
            "",
            0,
        ),
        Figure(
            f"{prefix}: instances of {len(lines)} where headroom {FIXED:g} serves no less than AGH for no more",
            dominated,
            "",
        ),
    ]
    for rival, by_instance in above.items():
        text = f"cheapest of {len(HEADROOMS)} exact plans with headroom (hindsight) against {rival}, no more unserved"
        figures.append(Figure(f"{prefix}, R1: {text}", 100 * by_instance["R1"], "%", 0))
        dearer = sum(value > 1e-6 for value in by_instance.values())
        figures.append(Figure(f"{prefix}: instances of {len(lines)} where the {text} is dearer", dearer, "", 0))
        figures.append(
            Figure(f"{prefix}: median of the {text}", 100 * float(np.median(list(by_instance.values()))), "%")
        )
    title = f"Stress ×{JUDGED_FACTOR:g}, routed again: planned $ → $ a day / requests unserved"
    return figures, Table(title, ("instance", GH.name, AGH.name, EXACT.name, *(m.name for m in tight.values())), lines)


def _daily(instance: PaperInstance, plan: Allocation) -> str:
    return f"{plan.cost.total * instance.period_hours:.2f}"


# --- Scenarios ------------------------------------------------------------------------------------------------------

SCENARIOS = {
    "S1 budget 100": (100.0, 1.0),
    "S2 budget 85": (85.0, 1.0),
    "S3 budget 72": (72.0, 1.0),
    "S4 budget 100, unserved twice as dear": (100.0, 2.0),
    "S5 budget 72, unserved twice as dear": (72.0, 2.0),
}


def scenario(budget: float, penalty_factor: float) -> PaperInstance:
    """R1 with another budget for the period and dearer unserved traffic."""
    instance = reference()
    problem = replace(
        instance.problem,
        budget_per_hour=budget / instance.period_hours,
        class_unserved_penalty_per_request=penalty_factor * instance.problem.class_unserved_penalty_per_request,
    )
    return replace(instance, problem=problem)


def scenarios() -> tuple[list[Figure], Table]:
    """S1-S5 on R1 at the judged factor."""
    figures, lines = [], []
    for name, (budget, penalty) in SCENARIOS.items():
        say(f"scenario {name}")
        instance = scenario(budget, penalty)
        methods = [GH, AGH, EXACT, *(planned_with(DEFAULT, part) for part in (0.0, 0.1, 0.2))]
        plans = {method.name: method.solve(instance.problem) for method in methods}
        found = second_stage(instance, plans, JUDGED_FACTOR, DRAWS, restage)
        lines += [(name, method, _daily(instance, plans[method]), found[method].text()) for method in plans]
        for rival in (GH, EXACT):
            change = 100 * (found[AGH.name].cost.value / found[rival.name].cost.value - 1)
            figures.append(Figure(f"{name}, stress ×{JUDGED_FACTOR:g}: AGH's cost against {rival.name}'s", change, "%"))
    title = f"Scenarios on R1 at ×{JUDGED_FACTOR:g}, routed again"
    return figures, Table(title, ("scenario", "plan", "planned $", "$ a day at stress / unserved"), lines)


def run() -> tuple[list[Figure], list[Table]]:
    """All three experiments."""
    say("ablation")
    figures, ablated = ablation()
    say("stress on R1, all methods")
    full = stress_in_full()
    more, claims = stress_claims()
    figures += more
    more, scenes = scenarios()
    return figures + more, [ablated, full, claims, scenes]


if __name__ == "__main__":
    show(*run())
