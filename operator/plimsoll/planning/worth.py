"""What a whole fleet's answer is worth, chained LLMDeployments and replicas together (DESIGN section 4)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from plimsoll.planning.chained import ChainedPlan, NotPlanned
from plimsoll.planning.objectives import ResolvedClass
from plimsoll.planning.round import Round
from plimsoll.planning.rows import DEFAULT_PENALTY_FACTOR
from plimsoll.planning.search import TOLERANCE

NOTHING_KNOWN: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Worth:
    """What is minimised, in order."""

    excess: Mapping[int, float]
    """Requests per hour beyond what may stay unserved, by priority."""
    missing: int
    """Replicas below the least numbers."""
    cost_per_hour: float
    """Rent, storage, penalties, and what changes cost."""
    rate_per_hour: float
    """Planned requests, of all."""

    def better_than(self, other: "Worth") -> bool:
        """Whether it serves more, the highest priority first; or as much, and costs less."""
        tolerance = TOLERANCE * max(self.rate_per_hour, other.rate_per_hour)
        for priority in sorted({*self.excess, *other.excess}, reverse=True):
            more = self.excess.get(priority, 0.0) - other.excess.get(priority, 0.0)
            if abs(more) > tolerance:
                return more < 0
        if self.missing != other.missing:
            return self.missing < other.missing
        return self.cost_per_hour < other.cost_per_hour - TOLERANCE * max(1.0, other.cost_per_hour)


def worth_of(
    replicas: Round, chains: Iterable[ChainedPlan | NotPlanned], dearest: Mapping[str, float] = NOTHING_KNOWN
) -> Worth:
    """Of the answers for both.

    Args:
        dearest: what a request costs at most, by chained LLMDeployment (namespace/name): prices what is not served
            where people did not.
    """
    problem, allocation = replicas.fleet.problem, replicas.decision.allocation
    beyond = problem.class_rate_per_hour * np.maximum(allocation.unserved - problem.class_unserved_limit, 0.0)
    excess = {
        int(level): float(beyond[problem.class_priority == level].sum()) for level in np.unique(problem.class_priority)
    }
    placed = np.bincount(problem.option_deployment, allocation.replicas, minlength=len(problem.deployment_min_replicas))
    cost, rate = allocation.cost.total, float(problem.class_rate_per_hour.sum())
    for one in chains:
        known = dearest.get(one.resource.reference)
        cost += chains_cost(one, known)
        served = one.served if isinstance(one, ChainedPlan) else 0.0
        for item in one.classes:
            requests = item.planned_rate_per_second * 3600
            rate += requests
            over = requests * max(0.0, 1.0 - served - float(item.slo.unserved.max))
            excess[item.slo.priority] = excess.get(item.slo.priority, 0.0) + over
    missing = int(np.maximum(problem.deployment_min_replicas - placed, 0).sum())
    return Worth(excess, missing, cost, rate)


def chains_cost(found: ChainedPlan | NotPlanned, dearest: float | None = None) -> float:
    """Rent, starts and penalties per hour of chains, as the search for replicas counts them.

    Args:
        dearest: what a request costs at most; None: with the dearest of what was looked at.
    """
    if isinstance(found, NotPlanned):
        return sum(_unserved_penalty(item, dearest or 0.0) for item in found.classes)
    unserved = 1.0 - found.served
    cost = found.chosen.price_per_hour + found.start_cost_per_hour
    for item in found.classes:
        late = float(item.slo.latency_penalty_per_thousand_request_seconds) / 1000
        requests = item.planned_rate_per_second * 3600 * found.served
        cost += requests * late * found.chosen.mean_response_seconds
        cost += unserved * _unserved_penalty(item, found.dearest_per_request if dearest is None else dearest)
    return cost


def _unserved_penalty(item: ResolvedClass, dearest: float) -> float:
    """Per hour, if nothing is served."""
    declared = item.slo.unserved.penalty_per_thousand_requests
    per_request = DEFAULT_PENALTY_FACTOR * dearest if declared is None else float(declared) / 1000
    return item.planned_rate_per_second * 3600 * per_request
