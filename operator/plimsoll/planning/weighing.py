"""What one answer is worth against another, deployment by deployment."""

import numpy as np

from plimsoll.allocation import Allocation, AllocationProblem
from plimsoll.allocation.problem import Bools, Floats, Ints
from plimsoll.planning.beside import short_deployments
from plimsoll.planning.search import TOLERANCE


def worthwhile(problem: AllocationProblem, running: Ints, stay: Allocation, other: Allocation, saving: float) -> Bools:
    """Deployments (D) that the other answer serves better, or fully and cheaper by this part of the cost."""
    better, as_well = served_better(problem, stay, other)
    costs = [costs_by_deployment(problem, allocation, running) for allocation in (stay, other)]
    cheaper = costs[1] < (1 - saving) * costs[0] - TOLERANCE
    worth: Bools = better | (as_well & cheaper & ~short_deployments(problem, other))
    return worth


def served_better(problem: AllocationProblem, one: Allocation, other: Allocation) -> tuple[Bools, Bools]:
    """Deployments (masks, D) of which the other answer serves more beyond the limits, priorities first; or as much."""
    size = len(problem.deployment_min_replicas)
    rate = problem.class_rate_per_hour
    tolerance = TOLERANCE * np.bincount(problem.class_deployment, rate, minlength=size)
    better, decided = np.zeros(size, dtype=bool), np.zeros(size, dtype=bool)
    for level in np.unique(problem.class_priority)[::-1]:
        excess = [
            np.bincount(
                problem.class_deployment,
                np.where(problem.class_priority == level, rate, 0.0)
                * np.maximum(answer.unserved - problem.class_unserved_limit, 0.0),
                minlength=size,
            )
            for answer in (one, other)
        ]
        less, more = excess[1] < excess[0] - tolerance, excess[1] > excess[0] + tolerance
        better |= ~decided & less
        decided |= less | more
    return better, ~decided


def costs_by_deployment(problem: AllocationProblem, allocation: Allocation, running: Ints) -> Floats:
    """Cost per hour by deployment (D): rent, storage, penalties, and what starts beyond the `running` replicas (N)."""
    size = len(problem.deployment_min_replicas)
    started = np.maximum(allocation.replicas - running, 0)
    rent = allocation.replicas * problem.option_price_per_hour + started * problem.option_start_cost_per_hour
    of_pair = problem.class_deployment[problem.pair_class]
    requests = problem.class_rate_per_hour[problem.pair_class] * allocation.share
    latency = (
        requests * problem.pair_delay_seconds * problem.class_latency_penalty_per_request_second[problem.pair_class]
    )
    unserved = problem.class_unserved_penalty_per_request * problem.class_rate_per_hour * allocation.unserved
    return np.asarray(
        np.bincount(problem.option_deployment, rent, minlength=size)
        + problem.storage_price_per_gigabyte_hour * stored_by_deployment(problem, allocation.replicas)
        + np.bincount(of_pair, latency, minlength=size)
        + np.bincount(problem.class_deployment, unserved, minlength=size),
        dtype=np.float64,
    )


def stored_by_deployment(problem: AllocationProblem, replicas: Ints) -> Floats:
    """Gigabytes of weights by deployment (D): one copy per model variant and pool in use."""
    used = np.flatnonzero(replicas > 0)
    _, first = np.unique(problem.option_pair[used], return_index=True)
    copies = used[first]
    return np.asarray(
        np.bincount(
            problem.option_deployment[copies],
            problem.option_storage_gigabytes[copies],
            minlength=len(problem.deployment_min_replicas),
        ),
        dtype=np.float64,
    )
