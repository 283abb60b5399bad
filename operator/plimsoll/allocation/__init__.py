"""Which options serve which traffic, in how many replicas: the allocation problem, its solvers and its checker.

A public library that needs numpy only; nothing in it knows Kubernetes. One class, one option, one pool of two nodes:

>>> import numpy as np
>>> from plimsoll.allocation import AllocationProblem, check, solve_greedy
>>> problem = AllocationProblem(
...     class_deployment=np.array([0]),
...     class_rate_per_hour=np.array([36_000.0]),
...     class_priority=np.array([0]),
...     class_unserved_limit=np.array([0.0]),
...     class_unserved_penalty_per_request=np.array([0.01]),
...     class_latency_penalty_per_request_second=np.array([0.0]),
...     class_mean_delay_limit_seconds=np.array([np.inf]),
...     class_mean_error_limit=np.array([np.inf]),
...     option_deployment=np.array([0]),
...     option_pool=np.array([0]),
...     option_pair=np.array([0]),
...     option_tensor=np.array([2]),
...     option_pipeline=np.array([1]),
...     option_price_per_hour=np.array([5.0]),
...     option_max_replicas=np.array([8]),
...     option_capacity=np.array([0.85]),
...     option_demand=np.array([[2.0, 16.0, 64e9]]),
...     option_start_cost_per_hour=np.array([0.0]),
...     option_stop_cost_per_hour=np.array([0.0]),
...     pair_class=np.array([0]),
...     pair_option=np.array([0]),
...     pair_load=np.array([2.5]),
...     pair_delay_seconds=np.array([1.2]),
...     pair_error=np.array([0.0]),
...     node_pool=np.array([0, 0]),
...     node_free=np.array([[8.0, 96.0, 512e9], [2.0, 96.0, 512e9]]),
...     pool_unlimited=np.array([False]),
...     pool_gpu_limit=np.array([np.inf]),
...     deployment_min_replicas=np.array([0]),
...     deployment_max_replicas=np.array([100]),
...     running=np.zeros((0, 3), dtype=np.int64),
...     keep_running=True,
...     budget_per_hour=np.inf,
... )
>>> allocation = solve_greedy(problem)
>>> allocation.replicas.tolist(), allocation.share.tolist(), allocation.cost.rental
([3], [1.0], 15.0)
>>> allocation.packing.tolist()  # option, node, replicas: the partly used node is filled first
[[0, 0, 2], [0, 1, 1]]
>>> check(problem, allocation)
()
"""

from plimsoll.allocation.check import Violation, check
from plimsoll.allocation.evaluate import cost_of
from plimsoll.allocation.greedy import solve as solve_greedy
from plimsoll.allocation.problem import Allocation, AllocationProblem, Cost
from plimsoll.allocation.subset import Subset, subset

__all__ = [
    "Allocation",
    "AllocationProblem",
    "Cost",
    "Subset",
    "Violation",
    "check",
    "cost_of",
    "solve_greedy",
    "subset",
]
