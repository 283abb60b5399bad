"""The best answer with what runs, or less of it: of each deployment alone, so what one found is found but once.

Budget, storage and other limits never demand a removal, and a running replica needs no other place. So nothing that
another deployment does or that pools have left changes the answer, and it is remembered by all that it depends on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b

import numpy as np

from plimsoll.allocation import Allocation, AllocationProblem, cost_of, limited, solve_greedy, subset
from plimsoll.allocation.packing import proof
from plimsoll.allocation.problem import Bools, Floats, Ints
from plimsoll.allocation.reduce import restrict
from plimsoll.planning.beside import as_it_runs, exchanged
from plimsoll.planning.fleet import only_running
from plimsoll.planning.search import TOLERANCE, Rested, Search
from plimsoll.planning.weighing import worthwhile


def at_rest(problem: AllocationProblem, search: Search) -> Allocation:
    """The best answer with running replicas, or fewer of them. Of each deployment alone: no other changes it."""
    everyone = np.ones(len(problem.deployment_min_replicas), dtype=bool)
    confined = restrict(only_running(problem, everyone), problem.running_replicas() > 0)
    own = _unbounded(confined.problem)
    parts = list(_parts(own))
    digests = [part.digest for part in parts]
    new = np.array([digest not in search.rested for digest in digests], dtype=bool)
    known = {number: search.rested[digests[number]] for number in np.flatnonzero(~new).tolist()}
    if new.any():
        faults = len(search.faults)
        part = subset(own, as_it_runs(own), new)
        found = part.merged(_best(part.problem, search))
        for number in np.flatnonzero(new).tolist():
            known[number] = parts[number].taken(found)
            if len(search.faults) == faults:
                search.rested[digests[number]] = known[number]
    replicas, share, unserved = np.zeros(own.options, np.int64), np.zeros(own.pairs), np.ones(own.classes)
    for number, one in enumerate(parts):
        replicas[one.options], share[one.pairs], unserved[one.classes] = known[number]
    packing = proof(own, replicas, {})
    return confined.lift(Allocation(replicas, share, unserved, packing, cost_of(own, replicas, share, unserved)))


def _unbounded(problem: AllocationProblem) -> AllocationProblem:
    """Without the limits that couple deployments: each has room for what runs."""
    return replace(
        limited(problem, ()),
        budget_per_hour=float("inf"),
        storage_limit_gigabytes=float("inf"),
        pool_gpu_limit=np.full_like(problem.pool_gpu_limit, np.inf),
    )


def _best(problem: AllocationProblem, search: Search) -> Allocation:
    """`at_rest` where there are no other options than running ones, and no common limits."""
    stay, now, running = solve_greedy(problem), as_it_runs(problem), problem.running_replicas()
    for number in np.flatnonzero(_lacking(problem, stay)).tolist():
        # The greedy search can miss the shares by which these very replicas serve all.
        only = np.arange(len(problem.deployment_min_replicas)) == number
        part = subset(problem, now, only)
        routed = search.route(part.problem, part.problem.running_replicas())
        if routed is not None:
            whole = part.merged(routed)
            stay = exchanged(problem, stay, whole, only & worthwhile(problem, running, stay, whole, 0.0))
    return stay


def _lacking(problem: AllocationProblem, allocation: Allocation) -> Bools:
    """Deployments (D) that run something and leave traffic unserved that has an option."""
    lacking = (problem.class_rate_per_hour > 0) & (allocation.unserved > TOLERANCE)
    lacking &= np.isin(np.arange(problem.classes), problem.pair_class)
    size = len(problem.deployment_min_replicas)
    runs = np.bincount(problem.option_deployment, problem.running_replicas(), minlength=size) > 0
    mask: Bools = np.bincount(problem.class_deployment[lacking], minlength=size) > 0
    return mask & runs


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The rows of one deployment."""

    classes: Ints
    options: Ints
    pairs: Ints
    digest: bytes
    """Of all that its answer depends on, in numbers of its own."""

    def taken(self, found: Allocation) -> Rested:
        return found.replicas[self.options], found.share[self.pairs], found.unserved[self.classes]


_NUMBERS = frozenset({"class_deployment", "option_deployment", "option_pair", "pair_class", "pair_option"})
"""They change with other deployments."""


def _parts(problem: AllocationProblem) -> Iterator[_Part]:
    size = len(problem.deployment_min_replicas)
    owners = (problem.class_deployment, problem.option_deployment, problem.class_deployment[problem.pair_class])
    (classes, first_class), (options, first_option), (pairs, _) = (_by_owner(owner, size) for owner in owners)
    numbers = (
        problem.option_pair - _least(problem.option_pair, problem.option_deployment, size)[problem.option_deployment],
        first_class[problem.pair_class],
        first_option[problem.pair_option],
    )
    tables = (
        _table(problem, "class_"),
        _table(problem, "option_", numbers[0], problem.running_replicas()),
        _table(problem, "pair_", numbers[1], numbers[2]),
    )
    limits = np.stack((problem.deployment_min_replicas, problem.deployment_max_replicas), axis=1)
    common = np.array([problem.storage_price_per_gigabyte_hour, problem.keep_running]).tobytes()
    for number, rows in enumerate(zip(classes, options, pairs, strict=True)):
        found = blake2b(common, digest_size=16)
        found.update(limits[number].tobytes())
        for table, own in zip(tables, rows, strict=True):
            found.update(len(own).to_bytes(4, "big"))
            found.update(table[own].tobytes())
        yield _Part(*rows, found.digest())


def _table(problem: AllocationProblem, kind: str, *more: Ints) -> Floats:
    """(rows, columns) of the arrays of this kind, but for numbers."""
    names = [name for name in problem.__slots__ if name.startswith(kind) and name not in _NUMBERS]
    return np.column_stack([*(getattr(problem, name) for name in names), *more]).astype(np.float64, copy=False)


def _least(values: Ints, owner: Ints, size: int) -> Ints:
    least = np.full(size, np.iinfo(np.int64).max)
    np.minimum.at(least, owner, values)
    return least


def _by_owner(owner: Ints, size: int) -> tuple[list[Ints], Ints]:
    """Rows of each owner, in order; and each row's number among those of its owner."""
    order = np.argsort(owner, kind="stable")
    ends = np.searchsorted(owner[order], np.arange(size + 1))
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - ends[owner[order]]
    return np.split(order, ends[1:-1]), place
