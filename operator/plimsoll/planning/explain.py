"""Why a plan is as it is: per class what serves it and the best that does not; what one more of a limit is worth."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation import AllocationProblem, subset
from plimsoll.allocation.explain import Alternative, Reason, Worth, alternatives, full_pools, with_node, worth
from plimsoll.allocation.problem import Bools, Floats
from plimsoll.planning.beside import as_it_runs, exchanged
from plimsoll.planning.options import rejections
from plimsoll.planning.plan import Rejected
from plimsoll.planning.pools import Pool
from plimsoll.planning.round import Round
from plimsoll.planning.search import TOLERANCE
from plimsoll.planning.snapshot import ObjectRef
from plimsoll.planning.stock import UNBOUNDED
from plimsoll.planning.wording import Wording

MORE_ERROR = 1.1
"""A task error limit is tried so many times as large."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """An option that serves a class."""

    option: str
    placement: str
    share: float
    replicas: int
    price_per_hour: float
    """Of all replicas, whoever else they serve."""


@dataclass(frozen=True, slots=True)
class ClassExplanation:
    """One traffic class."""

    name: str
    unserved: float
    chosen: tuple[Chosen, ...]
    eligible: tuple[Rejected, ...]
    """Options that could serve the class, the cheapest first."""
    excluded: tuple[Rejected, ...]
    """Options that cannot serve the class, the nearest misses first."""


@dataclass(frozen=True, slots=True)
class DeploymentExplanation:
    """One LLMDeployment; no classes where it was not decided about."""

    ref: ObjectRef
    classes: tuple[ClassExplanation, ...]


@dataclass(frozen=True, slots=True)
class LimitExplanation:
    """A limit that keeps something from being better, and what a step beyond it gives."""

    limit: str
    """E.g. `GPUNodePool h100`."""
    step: str
    """E.g. `one more node with 8 GPUs`."""
    worth: Worth

    def __str__(self) -> str:
        served, saving = self.worth.served_requests_per_hour / 60, self.worth.saving_per_hour
        gain = "saves nothing" if saving < 0.005 else f"saves {saving:.2f} per hour"
        if served > 0:
            gain = f"serves {served:.0f} more requests per minute"
            gain += f"; with their penalties it {'costs no more' if saving < 0.005 else f'saves {saving:.2f} per hour'}"
        return f"{self.limit}: {self.step} {gain}"


def explain_classes(turn: Round, chosen: Sequence[ObjectRef] | None, limit: int) -> list[DeploymentExplanation]:
    """The decision on these LLMDeployments (None: all), with up to `limit` rejected options of each kind per class."""
    fleet = turn.fleet
    words = Wording(fleet, turn.decision.allocation, turn.policy)
    found = alternatives(fleet.problem, turn.decision.allocation)
    by_ref: dict[ObjectRef, list[ClassExplanation]] = {}
    for number, (owner, position) in enumerate(fleet.class_keys):
        deployment = fleet.deployments[owner]
        ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
        if chosen is not None and ref not in chosen:
            continue
        name = fleet.choices[owner].classes[position].declared.name
        explanation = ClassExplanation(
            name=name,
            unserved=float(turn.decision.allocation.unserved[number]),
            chosen=tuple(_chosen(turn, number)),
            eligible=tuple(words.rejected(number, found[number], limit)),
            excluded=tuple(rejections(fleet.choices[owner], name, limit)),
        )
        by_ref.setdefault(ref, []).append(explanation)
    named = [ObjectRef("LLMDeployment", item.namespace, item.name) for item in turn.snapshot.deployments]
    wanted = named if chosen is None else [ref for ref in named if ref in chosen]
    return [DeploymentExplanation(ref, tuple(by_ref.get(ref, ()))) for ref in wanted]


def explain_limits(turn: Round, chosen: Sequence[ObjectRef] | None) -> list[LimitExplanation]:
    """What a step beyond each limit that matters is worth, by searching again with it; the most worth first.

    Limits of the fleet, and those of the chosen LLMDeployments (None: all). Dear: one search per limit. The policy's
    time limit is for the plan and not for these questions: a search that was stopped would seem to gain less.
    """
    turn = replace(turn, search=turn.search.unhurried())
    problem, base = turn.fleet.problem, turn.decision.allocation
    if not problem.options:
        return []
    again = turn.search.answer(problem).allocation
    if _positive(worth(problem, base, again)):
        base = again  # what could be had as things are is not the limit's doing
    everyone = alternatives(problem, turn.decision.allocation)
    found = [
        LimitExplanation(limit, step, worth(more, base, turn.search.answer(more).allocation))
        for limit, step, more in _fleet_limits(turn, everyone)
    ]
    found.extend(_own_limits(turn, chosen, everyone))
    # People declare rates without the headroom that is planned for.
    planned = 1 + float(turn.policy.headroom.demand)
    found = [
        replace(one, worth=Worth(one.worth.served_requests_per_hour / planned, one.worth.saving_per_hour))
        for one in found
    ]
    return sorted(found, key=lambda one: (-one.worth.served_requests_per_hour, -one.worth.saving_per_hour, one.limit))


def _chosen(turn: Round, number: int) -> Iterator[Chosen]:
    problem, allocation = turn.fleet.problem, turn.decision.allocation
    first, last = np.searchsorted(problem.pair_class, [number, number + 1])
    for pair in (np.flatnonzero(allocation.share[first:last] > TOLERANCE) + first).tolist():
        candidate = turn.fleet.candidates[int(problem.pair_option[pair])]
        replicas = int(allocation.replicas[problem.pair_option[pair]])
        yield Chosen(
            option=candidate.label,
            placement=candidate.name,
            share=float(allocation.share[pair]),
            replicas=replicas,
            price_per_hour=replicas * candidate.price_per_hour,
        )


def _fleet_limits(turn: Round, found: Sequence[Sequence[Alternative]]) -> Iterator[tuple[str, str, AllocationProblem]]:
    """Pools, budget and storage that are used up or keep a class from a better option, each with a step beyond it."""
    problem, allocation = turn.fleet.problem, turn.decision.allocation
    blocked = {reason: {one.option for each in found for one in each if one.reason is reason} for reason in Reason}
    binds = full_pools(problem, allocation)
    binds[problem.option_pool[sorted(blocked[Reason.STOCK])]] = True
    names = sorted(turn.pools.usable)
    for number in np.flatnonzero(binds & ~problem.pool_unlimited).tolist():
        node = _node(turn.pools.usable[names[number]])
        step = f"one more node with {node[0]:.0f} GPU{'' if node[0] == 1 else 's'}"
        yield f"GPUNodePool {names[number]}", step, with_node(problem, number, node)
    wanted = turn.decision.short[problem.option_deployment]
    wanted[sorted(blocked[Reason.BUDGET])] = True
    left = problem.budget_per_hour - allocation.cost.spending
    prices = problem.option_price_per_hour
    if np.isfinite(left) and (wanted.any() or left < prices.min()):
        money = max(1.0, float(prices[wanted].min() if wanted.any() else prices.min()))
        more = replace(problem, budget_per_hour=problem.budget_per_hour + money)
        yield "PlacementPolicy default, budget.perHour", f"{money:.2f} more per hour", more
    stored = turn.decision.allocation.replicas > 0
    unstored = ~np.isin(problem.option_pair, problem.option_pair[stored])
    if np.isfinite(problem.storage_limit_gigabytes) and (blocked[Reason.STORAGE] or wanted.any()) and unstored.any():
        size = float(problem.option_storage_gigabytes[unstored & (wanted | ~wanted.any())].min(initial=np.inf))
        if np.isfinite(size):
            more = replace(problem, storage_limit_gigabytes=problem.storage_limit_gigabytes + size)
            yield "PlacementPolicy default, storage.limitGiB", f"{size * 1e9 / 2**30:.0f} GiB more", more


def _own_limits(
    turn: Round, chosen: Sequence[ObjectRef] | None, found: Sequence[Sequence[Alternative]]
) -> Iterator[LimitExplanation]:
    """Limits on replicas and task errors that bind for single LLMDeployments, beside the plan for all others."""
    problem, allocation, fleet = turn.fleet.problem, turn.decision.allocation, turn.fleet
    size = len(fleet.deployments)
    totals = np.bincount(problem.option_deployment, allocation.replicas, minlength=size)
    for number, deployment in enumerate(fleet.deployments):
        ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
        if chosen is not None and ref not in chosen:
            continue
        only = np.arange(size) == number
        if totals[number] == problem.deployment_max_replicas[number]:
            most = problem.deployment_max_replicas + only
            more = replace(problem, deployment_max_replicas=most)
            limit = f"{ref}, placement.replicas.max {totals[number]:.0f}"
            yield LimitExplanation(limit, "one more replica", _own_worth(turn, more, only))
        for index in np.flatnonzero(problem.class_deployment == number).tolist():
            value = problem.class_mean_error_limit[index]
            if not any(one.reason is Reason.ERROR and one.extra_cost_per_hour < -TOLERANCE for one in found[index]):
                continue
            errors = problem.class_mean_error_limit.copy()
            errors[index] = value * MORE_ERROR
            item = fleet.choices[number].classes[fleet.class_keys[index][1]]
            more = replace(problem, class_mean_error_limit=errors)
            limit = f"{ref}, class {item.declared.name}, maxTaskError {value:g} of {item.slo_field}"
            yield LimitExplanation(limit, f"{value * MORE_ERROR:g} instead", _own_worth(turn, more, only))


def _own_worth(turn: Round, more: AllocationProblem, only: Bools) -> Worth:
    """Of a limit of one deployment: it is decided afresh from what it runs, beside what is planned for all others."""
    problem, planned = turn.fleet.problem, turn.decision.allocation
    undecided = exchanged(problem, planned, as_it_runs(problem), only)
    part, richer = subset(problem, undecided, only), subset(more, undecided, only)
    now = part.merged(turn.search.answer(part.problem).allocation)
    base = now if _positive(worth(problem, planned, now)) else planned
    return worth(more, base, richer.merged(turn.search.answer(richer.problem).allocation))


def _positive(found: Worth) -> bool:
    return found.served_requests_per_hour > 0 or found.saving_per_hour > TOLERANCE


def _node(pool: Pool) -> Floats:
    """What a further node of the pool would have: as much as its largest one, or what the pool declares."""
    allocatable = [node.allocatable for node in pool.nodes]
    if not allocatable:
        return np.array([pool.gpus_per_node, UNBOUNDED, UNBOUNDED], dtype=float)
    resources = (pool.resource_name, "cpu", "memory")
    return np.array([max(node.get(name, 0.0) for node in allocatable) for name in resources], dtype=float)
