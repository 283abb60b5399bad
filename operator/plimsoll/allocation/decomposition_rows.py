"""What couples deployments, as linear rows over replicas: stock by pool, GPU limits of pools, the budget.

A pool's stock is one row for its GPUs and one for each size of replica: a node with f free GPUs holds floor(f / s)
slots of s GPUs, and a replica with g GPUs fills at least floor(g / s) of them. Where the sizes divide each other the
rows are exact, that is, replicas that keep them can be packed. Rows that cannot bind are left out.
"""

from dataclasses import dataclass

import numpy as np

from plimsoll.allocation.packing import need_no_place
from plimsoll.allocation.problem import CPU, GPU, MEMORY, AllocationProblem, Floats, Ints

_WHOLE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Q rows over the replicas: sum of weight x counted replicas <= limit.

    Rows of the stock count replicas above `held`, rows of a pool's GPU limit those above `counted_above`.
    """

    limit: Floats
    """(Q,), at least 0."""
    pool: Ints
    """(Q,)"""
    kept: tuple[bool, ...]
    """(Q,): False where the running state alone exceeds the limit, which forbids growth only; no proof may use it."""
    pool_rows: Ints
    """(K, W): the stock rows of a pool; -1 for none."""
    resource: Ints
    """(Q,): GPU, CPU or MEMORY."""
    size: Floats
    """(Q,): a replica weighs floor(demand / size); 0 where it weighs its demand / `scale`."""
    scale: Floats
    limit_row: Ints
    """(K,): row of the pool's GPU limit; -1 for none."""
    held: Ints
    """(N,): replicas that need no place."""
    counted_above: Ints
    """(N,): replicas that a GPU limit has counted already."""
    demand: Floats
    option_pool: Ints

    def weights(self, options: Ints) -> tuple[Ints, Floats]:
        """Stock rows of these options and what one replica weighs there: shape of `options` with an axis W more."""
        rows = self.pool_rows[self.option_pool[options]]
        demand = self.demand[options[..., None], self.resource[rows]]
        size = self.size[rows]
        slots = np.floor(demand / np.where(size > 0, size, 1.0) + _WHOLE)
        weight = np.where(size > 0, slots, demand / self.scale[rows])
        return rows, np.where(rows >= 0, weight, 0.0)

    def of(self, options: Ints) -> "Weights":
        """The rows of these options, to be priced again and again."""
        rows, weight = self.weights(options)
        if not len(self.limit):
            return Weights(rows, weight, rows, weight)
        limit_row = self.limit_row[self.option_pool[options]]
        return Weights(rows, weight, limit_row, np.where(limit_row >= 0, self.demand[options, GPU], 0.0))

    def entries(self, options: Ints, replicas: Ints) -> tuple[Ints, Ints, Floats]:
        """Matrix entries (position in `options`, row, value) of these replicas."""
        rows, weight = self.weights(options)
        above = np.maximum(replicas - self.held[options], 0)
        value = weight * above[:, None]
        limit_row = self.limit_row[self.option_pool[options]][:, None]
        counted = np.maximum(replicas - self.counted_above[options], 0) * self.demand[options, GPU]
        rows = np.concatenate((rows, limit_row), axis=1)
        value = np.concatenate((value, np.where(limit_row >= 0, counted[:, None], 0.0)), axis=1)
        position, column = np.nonzero(value > 0)
        return position, rows[position, column], value[position, column]

    def use(self, options: Ints, replicas: Ints) -> Floats:
        """What these replicas take of each row, (Q,)."""
        _, row, value = self.entries(options, replicas)
        return np.bincount(row, value, minlength=len(self.limit)).astype(np.float64)


@dataclass(frozen=True, slots=True, eq=False)
class Weights:
    """Rows of some options and what a replica of each weighs there."""

    rows: Ints
    weight: Floats
    limit_row: Ints
    gpus: Floats

    def taking(self, members: Ints) -> "Weights":
        """Those of some rows of the options' array."""
        return Weights(self.rows[members], self.weight[members], self.limit_row[members], self.gpus[members])

    def prices(self, price: Floats) -> tuple[Floats, Floats]:
        """What a replica of each option pays at the rows' prices (Q,): by the stock rows, and by the GPU limit."""
        shape = self.rows.shape[:-1]
        if not price.any():
            return np.zeros(shape), np.zeros(shape)
        stock = np.zeros(shape)
        for number in range(self.rows.shape[-1]):
            stock += price[self.rows[..., number]] * self.weight[..., number]
        return stock, price[self.limit_row] * self.gpus


def coupling_rows(problem: AllocationProblem) -> Rows:
    """The rows of the problem."""
    free = problem.node_free.astype(np.float64)
    running = problem.running_replicas()
    if problem.keep_running:
        known = problem.running[problem.running[:, 1] >= 0]
        np.subtract.at(free, known[:, 1], problem.option_demand[known[:, 0]] * known[:, 2:3])
    free = np.maximum(free, 0.0)
    limits: list[tuple[float, int, int, float, float]] = []
    per_pool: list[list[int]] = []
    order = np.argsort(problem.option_pool, kind="stable")
    ends = np.searchsorted(problem.option_pool[order], np.arange(len(problem.pool_unlimited) + 1))
    for pool, unlimited in enumerate(problem.pool_unlimited.tolist()):
        first = len(limits)
        members = order[ends[pool] : ends[pool + 1]]
        if not unlimited and len(members):
            demand = problem.option_demand[members]
            rows = _stock_rows(free[problem.node_pool == pool], demand)
            limits += [(limit, pool, resource, size, scale) for limit, resource, size, scale in rows]
        per_pool.append(list(range(first, len(limits))))
    pool_rows = np.full((len(per_pool), max((len(rows) for rows in per_pool), default=0)), -1, dtype=np.int64)
    for pool, numbers in enumerate(per_pool):
        pool_rows[pool, : len(numbers)] = numbers
    kept = [True] * len(limits)
    limit_row = np.full(len(per_pool), -1, dtype=np.int64)
    gpus = np.bincount(
        problem.option_pool, problem.option_demand[:, GPU] * running, minlength=len(problem.pool_unlimited)
    )
    for pool in np.flatnonzero(np.isfinite(problem.pool_gpu_limit)).tolist():
        limit_row[pool] = len(limits)
        taken = gpus[pool] if problem.keep_running else 0.0
        limits.append((max(0.0, float(problem.pool_gpu_limit[pool] - taken)), pool, GPU, 0.0, 1.0))
        kept.append(problem.keep_running or gpus[pool] <= problem.pool_gpu_limit[pool])
    limit, pool_of, resource, size, scale = (
        (np.array(column) for column in zip(*limits, strict=True)) if limits else (np.zeros(0) for _ in range(5))
    )
    return Rows(
        limit=limit,
        pool=pool_of.astype(np.int64),
        kept=tuple(kept),
        pool_rows=pool_rows,
        resource=resource.astype(np.int64),
        size=size,
        scale=scale,
        limit_row=limit_row,
        held=need_no_place(problem),
        counted_above=running if problem.keep_running else np.zeros_like(running),
        demand=problem.option_demand,
        option_pool=problem.option_pool,
    )


def _stock_rows(free: Floats, demand: Floats) -> list[tuple[float, int, float, float]]:
    """Limit, resource, size and scale of each row of a pool with these nodes (M, 3) and shapes of replicas (S, 3)."""
    rows = []
    gpus = np.unique(demand[:, GPU][demand[:, GPU] > 0])
    whole = bool((gpus == np.round(gpus)).all())
    total = float(np.floor(free[:, GPU] + _WHOLE).sum() if whole else free[:, GPU].sum())
    if len(gpus):
        rows.append((total, GPU, 0.0, 1.0))
    for size in gpus.tolist():
        slots = float(np.floor(free[:, GPU] / size + _WHOLE).sum())
        if slots * size < total - 0.5:
            rows.append((slots, GPU, size, 1.0))
    for resource in (CPU, MEMORY):
        most = float(demand[:, resource].max())
        if most <= 0:
            continue
        enough = (demand[:, GPU] > 0) | (demand[:, resource] <= 0)
        ratio = np.where(demand[:, GPU] > 0, demand[:, resource] / np.where(demand[:, GPU] > 0, demand[:, GPU], 1), 0)
        available = float(free[:, resource].sum())
        if not enough.all() or float(ratio.max()) * total > available:
            rows.append((available / most, resource, 0.0, most))
    return rows
