"""What couples deployments, as linear rows over replicas: stock by pool, GPU limits of pools, limits of groups.

A pool's stock is one row for its GPUs and one for each size of replica: a node with f free GPUs holds floor(f / s)
slots of s GPUs, and a piece with g GPUs fills at least floor(g / s) of them. Where the sizes divide each other the
rows are exact, that is, replicas that keep them can be packed. Rows that cannot bind are left out.

A group's limit that does not count what is about to go is kept as if it did: plans may lose by it, proofs do without.
"""

from dataclasses import dataclass

import numpy as np

from plimsoll.allocation.limits import padded, use_of
from plimsoll.allocation.packing import need_no_place
from plimsoll.allocation.problem import CPU, GPU, MEMORY, AllocationProblem, Floats, Ints

_WHOLE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Q rows over the replicas: sum of weight x counted replicas <= limit.

    Rows of the stock count replicas above `held`, rows of limits those above `counted_above`.
    """

    limit: Floats
    """(Q,), at least 0."""
    kept: tuple[bool, ...]
    """(Q,): False where the running state alone exceeds the limit, which forbids growth only; no proof may use it."""
    shape: Ints
    """(N,): options of one pool that ask the same of a node have one shape."""
    shape_rows: Ints
    """(S, W): the stock rows of a shape; -1 for none."""
    shape_weight: Floats
    """(S, W): what one replica weighs there."""
    shape_limit_rows: Ints
    """(S, L): rows of the pool's GPU limit and of the limits of groups; -1 for none."""
    shape_use: Floats
    """(S, L): what one replica weighs there."""
    held: Ints
    """(N,): replicas that need no place."""
    counted_above: Ints
    """(N,): replicas that a limit has counted already."""

    def weights(self, options: Ints) -> tuple[Ints, Floats]:
        """Stock rows of these options and what one replica weighs there: shape of `options` with an axis W more."""
        shape = self.shape[options]
        return self.shape_rows[shape], self.shape_weight[shape]

    def limits(self, options: Ints) -> tuple[Ints, Floats]:
        """Rows of the limits of these options, -1 for none, and what one replica weighs there: as `weights`."""
        shape = self.shape[options]
        row = self.shape_limit_rows[shape]
        return row, np.where(row >= 0, self.shape_use[shape], 0.0)

    def prices(self, price: Floats) -> tuple[Floats, Floats]:
        """(S,) each: what a replica of a shape pays at the rows' prices (Q,): by stock rows, and by limits."""
        if not len(price):
            return np.zeros(len(self.shape_use)), np.zeros(len(self.shape_use))
        stock = np.where(self.shape_rows >= 0, price[self.shape_rows] * self.shape_weight, 0.0).sum(axis=1)
        limit = np.where(self.shape_limit_rows >= 0, price[self.shape_limit_rows] * self.shape_use, 0.0).sum(axis=1)
        return stock, limit

    def entries(self, options: Ints, replicas: Ints) -> tuple[Ints, Ints, Floats]:
        """Matrix entries (position in `options`, row, value) of these replicas."""
        rows, weight = self.weights(options)
        above = np.maximum(replicas - self.held[options], 0)
        value = weight * above[:, None]
        limit_rows, use = self.limits(options)
        counted = np.maximum(replicas - self.counted_above[options], 0)[:, None] * use
        rows = np.concatenate((rows, limit_rows), axis=1)
        value = np.concatenate((value, counted), axis=1)
        position, column = np.nonzero(value > 0)
        return position, rows[position, column], value[position, column]

    def use(self, options: Ints, replicas: Ints) -> Floats:
        """What these replicas take of each row, (Q,)."""
        _, row, value = self.entries(options, replicas)
        return np.bincount(row, value, minlength=len(self.limit)).astype(np.float64)


def coupling_rows(problem: AllocationProblem) -> Rows:
    """The rows of the problem."""
    free = problem.node_free.astype(np.float64)
    running = problem.running_replicas()
    if problem.keep_running:
        known = problem.running[problem.running[:, 1] >= 0]
        np.subtract.at(free, known[:, 1], problem.option_demand[known[:, 0]] * known[:, 2:3])
    free = np.maximum(free, 0.0)
    limits: list[tuple[float, int, float, float]] = []
    per_pool: list[list[int]] = []
    order = np.argsort(problem.option_pool, kind="stable")
    ends = np.searchsorted(problem.option_pool[order], np.arange(len(problem.pool_unlimited) + 1))
    for pool, unlimited in enumerate(problem.pool_unlimited.tolist()):
        first = len(limits)
        members = order[ends[pool] : ends[pool + 1]]
        if not unlimited and len(members):
            demand = problem.option_demand[members]
            limits += _stock_rows(free[problem.node_pool == pool], demand)
        per_pool.append(list(range(first, len(limits))))
    pool_rows = np.full((len(per_pool), max((len(rows) for rows in per_pool), default=0)), -1, dtype=np.int64)
    for pool, numbers in enumerate(per_pool):
        pool_rows[pool, : len(numbers)] = numbers
    kept = [True] * len(limits)
    limit_row = np.full(len(per_pool), -1, dtype=np.int64)
    gpus = np.bincount(problem.option_pool, problem.replica_gpus() * running, minlength=len(problem.pool_unlimited))
    for pool in np.flatnonzero(np.isfinite(problem.pool_gpu_limit)).tolist():
        limit_row[pool] = len(limits)
        taken = gpus[pool] if problem.keep_running else 0.0
        limits.append((max(0.0, float(problem.pool_gpu_limit[pool] - taken)), GPU, 0.0, 1.0))
        kept.append(problem.keep_running or gpus[pool] <= problem.pool_gpu_limit[pool])
    first_group = len(limits)
    group_limits, group_kept, group_scale = _group_rows(problem, running)
    limits += [(limit, GPU, 0.0, 1.0) for limit in group_limits]
    kept += group_kept
    limit, resource, size, scale = (
        (np.array(column) for column in zip(*limits, strict=True)) if limits else (np.zeros(0) for _ in range(4))
    )
    groups, use = padded(problem)
    shape, example = _shapes(problem, groups, use)
    demand = problem.option_demand[example]
    rows_of = pool_rows[problem.option_pool[example]]
    asked = demand[np.arange(len(example))[:, None], resource.astype(np.int64)[rows_of]]
    # A piece weighs the slots of the row's size that it fills; where the row has no size, its part of the scale.
    slots = np.floor(asked / np.where(size > 0, size, 1.0)[rows_of] + _WHOLE)
    weight = np.where(size[rows_of] > 0, slots, asked / scale[rows_of]) * problem.option_nodes[example, None]
    of_groups = groups[example]
    limit_rows = np.where(of_groups >= 0, first_group + of_groups, -1)
    group_use = use[example] / np.where(of_groups >= 0, group_scale[of_groups], 1.0) if use.size else use[example]
    return Rows(
        limit=limit,
        kept=tuple(kept),
        shape=shape,
        shape_rows=rows_of,
        shape_weight=np.where(rows_of >= 0, weight, 0.0),
        shape_limit_rows=np.concatenate((limit_row[problem.option_pool[example], None], limit_rows), axis=1),
        shape_use=np.concatenate((problem.replica_gpus()[example, None], group_use), axis=1),
        held=need_no_place(problem),
        counted_above=running if problem.keep_running else np.zeros_like(running),
    )


def _group_rows(problem: AllocationProblem, running: Ints) -> tuple[list[float], list[bool], Floats]:
    """Limit, use in proofs, and scale (L,) of the rows of the limits of groups, in parts of the largest replica."""
    scale = np.zeros(len(problem.limit_capacity))
    np.maximum.at(scale, problem.use_limit, problem.use_amount)
    scale = np.where(scale > 0, scale, 1.0)
    now = use_of(problem, running)
    taken = now if problem.keep_running else 0.0
    limits: list[float] = (np.maximum(problem.limit_capacity - taken, 0.0) / scale).tolist()
    within = now <= problem.limit_capacity
    kept: list[bool] = np.where(problem.keep_running, problem.limit_at_once, within).astype(bool).tolist()
    return limits, kept, scale


def _shapes(problem: AllocationProblem, groups: Ints, use: Floats) -> tuple[Ints, Ints]:
    """Number of each option's shape (N,), and one option of each shape (S,)."""
    keys = (*use.T, *groups.T, *problem.option_demand.T, problem.option_nodes, problem.option_pool)
    order = np.lexsort(keys)
    new = np.ones(len(order), dtype=bool)
    new[1:] = np.logical_or.reduce([key[order[1:]] != key[order[:-1]] for key in keys])
    shape = np.empty(len(order), dtype=np.int64)
    shape[order] = np.cumsum(new) - 1
    return shape, order[new]


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
