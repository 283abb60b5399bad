"""How many replicas of an option can be of use."""

import numpy as np

from plimsoll.allocation.problem import AllocationProblem, Ints


def useful_replicas(problem: AllocationProblem, *, capped: bool = True) -> Ints:
    """Replicas per option (N,) beyond which more of it improve no answer.

    They would carry all classes for which it is an option, or make up the deployment's least number. With `capped`,
    also no more than its own and its deployment's limit, but for what runs: keeping that may be cheaper than stopping.
    """
    load = np.stack(
        [
            np.bincount(problem.pair_option, problem.pair_load[:, resource], minlength=problem.options)
            for resource in range(problem.resources)
        ],
        axis=1,
    )
    needed = np.ceil((load / problem.option_capacity).max(axis=1) * (1 + 1e-9)).astype(np.int64)
    eligible = np.bincount(problem.pair_option, minlength=problem.options) > 0
    least = np.maximum(problem.deployment_min_replicas[problem.option_deployment], 1)
    useful = np.where(eligible, np.maximum(np.maximum(needed, 1) + problem.option_spare, least), 0)
    most = problem.deployment_max_replicas[problem.option_deployment]
    if not capped:
        return np.minimum(useful, most)
    useful = np.maximum(useful, problem.running_replicas())
    capped_useful: Ints = np.maximum(np.minimum(np.minimum(useful, problem.option_max_replicas), most), 0)
    return capped_useful
