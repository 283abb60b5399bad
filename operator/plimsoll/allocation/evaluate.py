"""What an answer costs per hour (DESIGN section 4, objective 2)."""

import numpy as np

from plimsoll.allocation.problem import AllocationProblem, Cost, Floats, Ints


def cost_of(problem: AllocationProblem, replicas: Ints, share: Floats, unserved: Floats) -> Cost:
    """Rent, storage, penalties and the cost of leaving the running state, each per hour."""
    rate = problem.class_rate_per_hour
    growth = replicas - problem.running_replicas()
    used = np.flatnonzero(share)  # few of the pairs
    number, share = problem.pair_class[used], share[used]
    delay_seconds_per_hour = rate[number] * problem.pair_delay_seconds[used] * share
    return Cost(
        rental=float(problem.option_price_per_hour @ replicas),
        storage=float(
            problem.storage_price_per_gigabyte_hour * stored_gigabytes(problem, replicas)
            + problem.pair_storage_cost_per_hour[used] @ share
        ),
        latency_penalty=float(problem.class_latency_penalty_per_request_second[number] @ delay_seconds_per_hour),
        unserved_penalty=float((problem.class_unserved_penalty_per_request * rate) @ unserved),
        change=float(
            problem.option_start_cost_per_hour @ np.maximum(growth, 0)
            + problem.option_stop_cost_per_hour @ np.maximum(-growth, 0)
        ),
    )


def stored_gigabytes(problem: AllocationProblem, replicas: Ints) -> float:
    """One copy per (model variant, pool) pair that has a replica."""
    used = np.flatnonzero(replicas > 0)
    _, first = np.unique(problem.option_pair[used], return_index=True)
    return float(problem.option_storage_gigabytes[used[first]].sum())
