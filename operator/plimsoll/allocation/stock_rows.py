"""Rows of a program that keep new replicas within what the nodes have free.

The rows of sums are necessary conditions; where sizes divide each other and only GPUs are asked for they are also
sufficient. Columns per node are both, at the price of their number.
"""

from collections.abc import Sequence

import numpy as np

from plimsoll.allocation.milp import INFINITY, Model
from plimsoll.allocation.problem import CPU, GPU, MEMORY, AllocationProblem, Floats, Ints
from plimsoll.allocation.stock import distinct

PLENTY = 1_000_000_000
ROUNDING = 1e-9


def free_of_running(problem: AllocationProblem) -> Floats:
    """What new replicas may take of each node (M, 3)."""
    free = problem.node_free.astype(np.float64)
    if problem.keep_running:
        known = problem.running[problem.running[:, 1] >= 0]
        np.subtract.at(free, known[:, 1], problem.option_demand[known[:, 0]] * known[:, 2:3])
    return np.maximum(free, 0.0)


def room_alone(problem: AllocationProblem) -> Ints:
    """New replicas of each option (N,) that fit if nothing else does; very many in a pool without known nodes."""
    room = np.full(problem.options, PLENTY, dtype=np.int64)
    free = free_of_running(problem)
    for pool in np.flatnonzero(~problem.pool_unlimited).tolist():
        options = np.flatnonzero(problem.option_pool == pool)
        if not len(options):
            continue
        asked = np.column_stack((problem.option_demand[options], problem.option_per_node[options]))
        shapes, shape = np.unique(asked, axis=0, return_inverse=True)
        alike, count = distinct(free[problem.node_pool == pool])
        fitting = np.minimum(_fitting(alike, shapes[:, :3].astype(np.float64)), shapes[:, 3:].astype(np.int64))
        room[options] = np.minimum(fitting @ count, PLENTY)[shape.reshape(-1)]
        room[options] //= problem.option_nodes[options]
    return room


def _fitting(free: Floats, demand: Floats) -> Ints:
    """Pieces (shapes, nodes) that fit on nodes (nodes, 3) by demand (shapes, 3)."""
    need = demand[:, None, :]
    per_resource = np.where(need > 0, np.floor(free / np.where(need > 0, need, 1.0) + ROUNDING), float(PLENTY))
    fitting: Ints = np.minimum(per_resource.min(axis=2), PLENTY).astype(np.int64)
    return fitting


def add_stock_rows(
    model: Model, problem: AllocationProblem, placed: Ints, told_apart: Sequence[int]
) -> dict[tuple[int, int], int]:
    """Rows on the columns `placed` (N,) of new replicas, for every pool with nodes.

    Returns the columns of pieces by option and node for the pools in `told_apart`.
    """
    free = free_of_running(problem)
    columns: dict[tuple[int, int], int] = {}
    for pool in np.flatnonzero(~problem.pool_unlimited).tolist():
        options = np.flatnonzero(problem.option_pool == pool)
        nodes = np.flatnonzero(problem.node_pool == pool)
        if not len(options) or not len(nodes):
            continue  # without a node the columns' upper bounds are 0
        _add_sums(model, free[nodes], problem.option_demand[options], problem.option_nodes[options], placed[options])
        if pool in told_apart:
            columns |= _add_nodes(model, problem, free, options, nodes, placed)
    return columns


def _add_sums(model: Model, free: Floats, demand: Floats, pieces: Ints, placed: Ints) -> None:
    """No more in total than all nodes have, of CPU cores, memory and, for each size, blocks of so many GPUs."""
    for resource in (CPU, MEMORY):
        total = float(free[:, resource].sum())
        if demand[:, resource].any():
            scale = total or 1.0
            model.add_row(placed, demand[:, resource] * pieces / scale, upper=total / scale)
    for size in np.unique(demand[demand[:, GPU] > 0, GPU]).tolist():
        # A piece takes whole blocks of this size, and per block at least so many cores and bytes.
        blocks = np.floor(demand[:, GPU] / size + ROUNDING)
        large = blocks > 0
        per_block = (demand[large] / blocks[large, None]).min(axis=0)
        per_block[GPU] = size
        model.add_row(placed[large], blocks[large] * pieces[large], upper=float(_fitting(free, per_block[None]).sum()))


def _left_per_node(problem: AllocationProblem, options: Ints, nodes: Ints) -> Ints:
    """New pieces (options, nodes) that the options' limits per node allow beside those that keep their places."""
    there = np.zeros((problem.options, len(problem.node_pool)), dtype=np.int64)
    if problem.keep_running:
        known = problem.running[problem.running[:, 1] >= 0]
        np.add.at(there, (known[:, 0], known[:, 1]), known[:, 2])
    left: Ints = np.maximum(problem.option_per_node[options, None] - there[np.ix_(options, nodes)], 0)
    return left


def _add_nodes(
    model: Model, problem: AllocationProblem, free: Floats, options: Ints, nodes: Ints, placed: Ints
) -> dict[tuple[int, int], int]:
    """Columns for the pieces of new replicas of every option on every node that it fits on."""
    demand = problem.option_demand[options]
    fits = np.minimum(_fitting(free[nodes], demand), _left_per_node(problem, options, nodes))
    which, where = np.nonzero(fits)
    columns = model.add_columns(0.0, 0.0, fits[which, where], integer=True, count=len(which))
    balance = model.add_rows(0.0, 0.0, count=len(options))
    model.add_entries(balance[which], columns, 1.0)
    model.add_entries(balance, placed[options], -problem.option_nodes[options].astype(np.float64))
    for resource in (GPU, CPU, MEMORY):
        scale = np.maximum(free[nodes, resource], ROUNDING)
        rows = model.add_rows(-INFINITY, np.where(free[nodes, resource] > 0, 1.0, 0.0))
        model.add_entries(rows[where], columns, demand[which, resource] / scale[where])
    names = zip(options[which].tolist(), nodes[where].tolist(), strict=True)
    return dict(zip(names, columns.tolist(), strict=True))
