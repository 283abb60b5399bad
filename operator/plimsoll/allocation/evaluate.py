"""What an answer costs per hour (DESIGN section 4, objective 2)."""

import numpy as np

from plimsoll.allocation.problem import AllocationProblem, Cost, Floats, Ints


def cost_of(problem: AllocationProblem, replicas: Ints, share: Floats, unserved: Floats) -> Cost:
    """Rent, penalties and the cost of leaving the running state, each per hour."""
    rate = problem.class_rate_per_hour
    growth = replicas - problem.running_replicas()
    delay_seconds_per_hour = rate[problem.pair_class] * problem.pair_delay_seconds * share
    return Cost(
        rental=float(problem.option_price_per_hour @ replicas),
        latency_penalty=float(
            problem.class_latency_penalty_per_request_second[problem.pair_class] @ delay_seconds_per_hour
        ),
        unserved_penalty=float((problem.class_unserved_penalty_per_request * rate) @ unserved),
        change=float(
            problem.option_start_cost_per_hour @ np.maximum(growth, 0)
            + problem.option_stop_cost_per_hour @ np.maximum(-growth, 0)
        ),
    )
