"""The allocation problem and its answer as frozen numpy arrays: classes, options, the pairs between them, nodes.

Sizes: I traffic classes, N options, P pairs (class, option) that are eligible, M nodes, K pools, D deployments. A class
may use the options of its own deployment only; nodes, pool limits and the budget couple the deployments (DESIGN
section 4).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

GPU, CPU, MEMORY = 0, 1, 2
"""Columns of `option_demand` and `node_free`: GPUs, CPU cores, bytes of host memory."""


@dataclass(frozen=True, slots=True, eq=False)
class AllocationProblem:
    """One fleet at one moment. Money is per hour, rates are requests per hour, delays are seconds."""

    # Classes (I).
    class_deployment: Ints
    class_rate_per_hour: Floats
    class_priority: Ints
    """Higher goes first when capacity is short."""
    class_unserved_limit: Floats
    """Largest share of the class that may stay unserved, 0..1."""
    class_unserved_penalty_per_request: Floats
    class_latency_penalty_per_request_second: Floats
    class_mean_delay_limit_seconds: Floats
    """Mean end-to-end delay over the class's served traffic; inf where there is no limit."""
    class_mean_error_limit: Floats
    """Mean task error over the class's served traffic; inf where there is no limit."""

    # Options (N).
    option_deployment: Ints
    option_pool: Ints
    option_pair: Ints
    """Number of the (model variant, pool) pair that the option is a configuration of."""
    option_tensor: Ints
    option_pipeline: Ints
    option_price_per_hour: Floats
    """Rent of one replica."""
    option_max_replicas: Ints
    option_capacity: Floats
    """Usable time share of one replica, in (0, 1]."""
    option_demand: Floats
    """(N, 3): GPUs, CPU cores and bytes of host memory of one replica, all on one node."""
    option_start_cost_per_hour: Floats
    """Charged for each replica above the running number (load time at the option's price over the horizon)."""
    option_stop_cost_per_hour: Floats
    """Charged for each replica below the running number."""

    # Pairs (P), sorted by (class, option): the option meets every percentile target of the class.
    pair_class: Ints
    pair_option: Ints
    pair_load: Floats
    """Replicas' time that the whole class takes on the option: rate / highest rate at which its targets hold."""
    pair_delay_seconds: Floats
    pair_error: Floats

    # Nodes (M) and pools (K).
    node_pool: Ints
    node_free: Floats
    """(M, 3): free of everything but the running replicas of this problem's options."""
    pool_unlimited: Bools
    """Pools whose stock is not known: they have no nodes and nothing is packed there."""
    pool_gpu_limit: Floats
    """GPUs of a pool that may be in use at once; inf where only the nodes limit."""

    # Deployments (D).
    deployment_min_replicas: Ints
    deployment_max_replicas: Ints

    running: Ints
    """(T, 3): option, node, replicas that run there now; node -1 where it is not known."""
    keep_running: bool
    """True: new replicas must fit beside all running ones, so that every change can make before it breaks."""
    budget_per_hour: float

    @property
    def classes(self) -> int:
        return len(self.class_rate_per_hour)

    @property
    def options(self) -> int:
        return len(self.option_price_per_hour)

    @property
    def pairs(self) -> int:
        return len(self.pair_class)

    def running_replicas(self) -> Ints:
        """Replicas per option that run now, shape (N,)."""
        replicas = np.zeros(self.options, dtype=np.int64)
        np.add.at(replicas, self.running[:, 0], self.running[:, 2])
        return replicas


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost per hour by item."""

    rental: float
    latency_penalty: float
    unserved_penalty: float
    change: float

    @property
    def total(self) -> float:
        return self.rental + self.latency_penalty + self.unserved_penalty + self.change


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """An answer: replicas per option (N), share per pair (P), unserved share per class (I), and where it all fits."""

    replicas: Ints
    share: Floats
    unserved: Floats
    packing: Ints
    """(Q, 3): option, node, replicas; the proof that the replicas fit. Options of unlimited pools are left out."""
    cost: Cost
