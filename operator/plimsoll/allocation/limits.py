"""Limits of groups of options: GPUs or money of a tenant, a namespace's quota. Sums over whole replicas.

Each limit says what a replica of each of its options takes of it, and how much there is. As every limit it forbids
growth above the running state, and never demands a removal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from plimsoll.allocation.problem import AllocationProblem, Bools, Floats, Ints


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit: `capacity` for the sum of `amount` (by option, of one replica) over all replicas."""

    capacity: float
    amount: Mapping[int, float]
    at_once: bool = True
    """What runs counts until it is gone, as a quota has it; else the answer's replicas only, as the budget has it."""


def limited(problem: AllocationProblem, limits: Sequence[Limit]) -> AllocationProblem:
    """The problem with these limits and no others of the kind."""
    entries = [
        (number, option, amount)
        for number, limit in enumerate(limits)
        for option, amount in sorted(limit.amount.items())
        if amount > 0
    ]
    return replace(
        problem,
        limit_capacity=np.array([limit.capacity for limit in limits], dtype=np.float64),
        limit_at_once=np.array([limit.at_once for limit in limits], dtype=bool),
        use_limit=np.array([entry[0] for entry in entries], dtype=np.int64),
        use_option=np.array([entry[1] for entry in entries], dtype=np.int64),
        use_amount=np.array([entry[2] for entry in entries], dtype=np.float64),
    )


def use_of(problem: AllocationProblem, replicas: Ints | Floats) -> Floats:
    """What these replicas (N,) take of each limit, (L,)."""
    taken = problem.use_amount * replicas[problem.use_option]
    return np.bincount(problem.use_limit, taken, minlength=len(problem.limit_capacity)).astype(np.float64)


def counts_running(problem: AllocationProblem) -> Bools:
    """Limits (mask, L) that count running replicas until they are gone."""
    counts: Bools = problem.limit_at_once & problem.keep_running
    return counts


def exceeded(problem: AllocationProblem, replicas: Ints, tolerance: float) -> Ints:
    """Limits of which these replicas (N,) take too much while some option grows that takes any of it."""
    if not len(problem.limit_capacity):
        return np.zeros(0, dtype=np.int64)
    running = problem.running_replicas()
    together = use_of(problem, np.maximum(replicas, running))
    used = np.where(counts_running(problem), together, use_of(problem, replicas))
    grows = use_of(problem, (replicas > running).astype(np.float64)) > 0
    room = tolerance * np.maximum(1.0, problem.limit_capacity)
    return np.flatnonzero(grows & (used > problem.limit_capacity + room))


def of_options(problem: AllocationProblem, options: Ints) -> dict[str, Any]:
    """The arrays of the limits for a problem of some of the options, which must be in order."""
    chosen = np.isin(problem.use_option, options)
    return {
        "use_limit": problem.use_limit[chosen],
        "use_option": np.searchsorted(options, problem.use_option[chosen]),
        "use_amount": problem.use_amount[chosen],
    }


def padded(problem: AllocationProblem) -> tuple[Ints, Floats]:
    """Limits of each option in order (N, w), -1 where it has fewer than others, and what its replica takes of them."""
    order = np.lexsort((problem.use_limit, problem.use_option))
    option = problem.use_option[order]
    slot = np.arange(len(order)) - np.searchsorted(option, option)
    shape = (problem.options, int(slot.max(initial=-1)) + 1)
    limit, amount = np.full(shape, -1, dtype=np.int64), np.zeros(shape)
    limit[option, slot] = problem.use_limit[order]
    amount[option, slot] = problem.use_amount[order]
    return limit, amount


def dense(problem: AllocationProblem, options: Ints, chosen: Ints) -> tuple[Ints, Floats]:
    """Limits that any of these options takes of (l,), and what a replica of each takes (l, options).

    Args:
        options: in ascending order.
        chosen: all entries of `use_option` that name one of them.
    """
    if not len(chosen):
        return np.zeros(0, dtype=np.int64), np.zeros((0, len(options)))
    limits, row = np.unique(problem.use_limit[chosen], return_inverse=True)
    amount = np.zeros((len(limits), len(options)))
    amount[row.reshape(-1), np.searchsorted(options, problem.use_option[chosen])] = problem.use_amount[chosen]
    return limits, amount
