"""What runs stays where it is, so that in a large fleet only what changes has to be packed."""

from dataclasses import replace

import numpy as np

from plimsoll.allocation.evaluate import cost_of
from plimsoll.allocation.packing import pack
from plimsoll.allocation.problem import Allocation, AllocationProblem, Ints
from plimsoll.allocation.routing import best_shares, route, within_limits

_ROUNDING = 1e-9


def stay(problem: AllocationProblem) -> Allocation | None:
    """What runs now with its best shares; None where that is not allowed."""
    running = problem.running_replicas()
    replicas = np.minimum(running, problem.option_max_replicas)
    rows = _kept(problem, replicas)
    if rows is None or (replicas < running).any():
        return route(problem, replicas)
    if not within_limits(problem, replicas):
        return None
    share, unserved = best_shares(problem, replicas)
    return Allocation(replicas, share, unserved, _proof(problem, rows), cost_of(problem, replicas, share, unserved))


def pack_anew(problem: AllocationProblem, replicas: Ints) -> Ints | None:
    """As `pack`, but only new replicas look for a place, and all of them only where the new ones find none."""
    rows = None if problem.keep_running else _kept(problem, replicas)
    if rows is None or not len(rows):
        return pack(problem, replicas)
    beside = pack(replace(problem, running=rows, keep_running=True), replicas)
    if beside is not None:
        return beside
    # Where they run now is no help any more: `pack` would try it first.
    return pack(replace(problem, running=problem.running[problem.running[:, 1] < 0]), replicas)


def _kept(problem: AllocationProblem, replicas: Ints) -> Ints | None:
    """Running rows cut down to the pieces of these replicas (N,); None where they do not fit the nodes all together."""
    running = problem.running
    known = running[:, 1] >= 0
    option, node, count = running[known].T
    left = replicas * problem.option_nodes
    np.subtract.at(left, running[~known, 0], running[~known, 2])
    # What earlier rows of the option take is gone.
    order = np.argsort(option, kind="stable")
    total = np.cumsum(count[order])
    first = np.searchsorted(option[order], option[order])
    before = total - count[order] - (total - count[order])[first]
    taken = np.empty(len(order), dtype=np.int64)
    taken[order] = np.clip(left[option[order]] - before, 0, count[order])
    if not problem.keep_running:
        used = np.zeros(problem.node_free.shape)
        np.add.at(used, node, problem.option_demand[option] * taken[:, None])
        if (used > problem.node_free * (1 + _ROUNDING) + _ROUNDING).any():
            return None
    rows = np.stack((option, node, taken), axis=1)[taken > 0]
    return np.concatenate((rows, running[~known]))


def _proof(problem: AllocationProblem, rows: Ints) -> Ints:
    placed = rows[(rows[:, 1] >= 0) & ~problem.pool_unlimited[problem.option_pool[rows[:, 0]]]]
    proof: Ints = placed[np.lexsort((placed[:, 1], placed[:, 0]))]
    return proof
