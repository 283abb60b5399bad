"""The allocation problem and its answer as frozen numpy arrays: classes, options, the pairs between them, nodes.

Sizes: I traffic classes, N options, P pairs (class, option) that are eligible, R resources of a replica, M nodes, K
pools, D deployments. A class may use the options of its own deployment only; nodes, pool limits, storage and the budget
couple the deployments (DESIGN section 4).

One type carries production's problem (one resource: the replica's time; nodes, running state) and the paper's (two
resources: compute and KV memory; one replica of one configuration per model and tier; storage): see `paper.py`.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

GPU, CPU, MEMORY = 0, 1, 2
"""Columns of `option_demand` and `node_free`: GPUs, CPU cores, bytes of host memory."""
ANY_NUMBER = 1_000_000_000
"""Stands for "no limit" where pieces are counted."""


def _no_numbers() -> Ints:
    return np.zeros(0, dtype=np.int64)


def _no_floats() -> Floats:
    return np.zeros(0)


def _no_flags() -> Bools:
    return np.zeros(0, dtype=bool)


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
    """Number of the (model variant, pool) pair that the option is a configuration of; unique over deployments."""
    option_tensor: Ints
    option_pipeline: Ints
    option_price_per_hour: Floats
    """Rent of one replica."""
    option_max_replicas: Ints
    option_capacity: Floats
    """(N, R): what one replica has of each resource, above 0. Production: its usable time share, in (0, 1]."""
    option_demand: Floats
    """(N, 3): GPUs, CPU cores and bytes of host memory of one piece of a replica, all on one node."""
    option_nodes: Ints
    """Pieces that one replica consists of, from 1 on: as many nodes, or fewer where pieces share one."""
    option_per_node: Ints
    """Pieces that may lie on one node, from 1 on; `ANY_NUMBER` where only the node's stock limits it."""
    option_spare: Ints
    """Replicas that carry no traffic while the option serves any: what may be lost at once with a node."""
    option_start_cost_per_hour: Floats
    """Charged for each replica above the running number (load time at the option's price over the horizon)."""
    option_stop_cost_per_hour: Floats
    """Charged for each replica below the running number."""
    option_storage_gigabytes: Floats
    """Stored once per (model variant, pool) pair that is in use: equal for all options of a pair."""

    # Pairs (P), sorted by (class, option): the option meets every percentile target of the class.
    pair_class: Ints
    pair_option: Ints
    pair_load: Floats
    """(P, R): what the whole class takes of each resource on the option. Production: replicas' time, that is rate /
    highest rate at which its targets hold."""
    pair_delay_seconds: Floats
    pair_error: Floats
    pair_storage_cost_per_hour: Floats
    """For storing the class's data when all of it uses the option; counts to the budget."""

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
    """(T, 3): option, node, pieces of replicas that run there now; node -1 where it is not known."""
    keep_running: bool
    """True: new replicas must fit beside all running ones, so that every change can make before it breaks."""
    budget_per_hour: float
    """For rent and storage."""
    storage_price_per_gigabyte_hour: float
    storage_limit_gigabytes: float

    # The paper's form, all false in production.
    one_option_per_pair: bool
    """At most one option of a (model variant, pool) pair may have replicas."""
    means_over_all: bool
    """Mean limits count unserved traffic as zero delay and error: sum of D x <= limit, not <= limit (1 - u)."""

    # Limits (L) of groups of options, and their entries (E): see `limits.py`.
    limit_capacity: Floats = field(default_factory=_no_floats)
    limit_at_once: Bools = field(default_factory=_no_flags)
    """True: what runs counts until it is gone; False: only the answer's replicas do."""
    use_limit: Ints = field(default_factory=_no_numbers)
    use_option: Ints = field(default_factory=_no_numbers)
    use_amount: Floats = field(default_factory=_no_floats)
    """What one replica of the option takes of the limit, above 0."""

    @property
    def classes(self) -> int:
        return len(self.class_rate_per_hour)

    @property
    def options(self) -> int:
        return len(self.option_price_per_hour)

    @property
    def pairs(self) -> int:
        return len(self.pair_class)

    @property
    def resources(self) -> int:
        return int(self.option_capacity.shape[1])

    def running_replicas(self) -> Ints:
        """Replicas per option that run now with all their pieces, shape (N,)."""
        pieces = np.zeros(self.options, dtype=np.int64)
        np.add.at(pieces, self.running[:, 0], self.running[:, 2])
        return pieces // self.option_nodes

    def replica_demand(self) -> Floats:
        """GPUs, CPU cores and bytes of host memory of a whole replica, shape (N, 3)."""
        return self.option_demand * self.option_nodes[:, None]

    def replica_gpus(self) -> Floats:
        """GPUs of a whole replica, shape (N,)."""
        return self.option_demand[:, GPU] * self.option_nodes


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost per hour by item."""

    rental: float
    storage: float
    latency_penalty: float
    unserved_penalty: float
    change: float

    @property
    def spending(self) -> float:
        """What the budget limits."""
        return self.rental + self.storage

    @property
    def total(self) -> float:
        return self.spending + self.latency_penalty + self.unserved_penalty + self.change


@dataclass(frozen=True, slots=True, eq=False)
class Allocation:
    """An answer: replicas per option (N), share per pair (P), unserved share per class (I), and where it all fits."""

    replicas: Ints
    share: Floats
    unserved: Floats
    packing: Ints
    """(Q, 3): option, node, pieces; the proof that the replicas fit. Options of unlimited pools are left out."""
    cost: Cost


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """An allocation and how far it can be from the best."""

    allocation: Allocation
    lower_bound_per_hour: float
    """No feasible allocation costs less in total that leaves no class more unserved than its limit, or than this one
    does where that is more, and lacks no more replicas of the least numbers; -inf where nothing is proven."""
    interrupted: bool = False
    """The wall clock ended the search before its fixed amount of work was done."""

    @property
    def gap(self) -> float:
        """Part of the cost that a better allocation could save at most, 0..1."""
        total = self.allocation.cost.total
        if total <= self.lower_bound_per_hour or total <= 0:
            return 0.0
        return min(1.0, (total - self.lower_bound_per_hour) / total)
