"""What may still grow beside all that goes on running, and whether the money for both is there.

A deployment that is short keeps all its replicas (transition.py), whatever its plan would give up. So a plan costs what
then runs and not what it names, and what one deployment grows by is never paid from the pods of another.
"""

from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation import Allocation, AllocationProblem, cost_of, subset
from plimsoll.allocation.evaluate import stored_gigabytes
from plimsoll.allocation.limits import counts_running, exceeded, use_of
from plimsoll.allocation.problem import Bools, Floats, Ints
from plimsoll.allocation.subset import Subset
from plimsoll.planning.search import TOLERANCE


def short_classes(problem: AllocationProblem, allocation: Allocation) -> Bools:
    """Classes (I) unserved beyond their limit. A class without traffic misses nothing, if it could be served."""
    matters = problem.class_rate_per_hour > 0
    matters |= ~np.isin(np.arange(problem.classes), problem.pair_class)
    short: Bools = matters & (allocation.unserved > problem.class_unserved_limit + TOLERANCE)
    return short


def short_deployments(problem: AllocationProblem, allocation: Allocation) -> Bools:
    """Deployments (D) with a short class, or with no replica at all although some are asked for."""
    replicas = by_deployment(problem, allocation.replicas)
    short: Bools = (problem.deployment_min_replicas > 0) & (replicas == 0)
    short[problem.class_deployment[short_classes(problem, allocation)]] = True
    return short


def by_deployment(problem: AllocationProblem, values: Ints | Floats) -> Floats:
    """Sums (D) of figures of options (N)."""
    sums = np.bincount(problem.option_deployment, values, minlength=len(problem.deployment_min_replicas))
    return sums.astype(np.float64)


def then_running(problem: AllocationProblem, allocation: Allocation) -> Ints:
    """Replicas (N) that run once the answer is applied."""
    short = short_deployments(problem, allocation)[problem.option_deployment]
    kept: Ints = np.where(short, np.maximum(allocation.replicas, problem.running_replicas()), allocation.replicas)
    return kept


def overspends(problem: AllocationProblem, allocation: Allocation) -> bool:
    """Whether the answer grows although budget, storage or a group's limit do not hold all that then runs."""
    grown, kept = allocation.replicas > problem.running_replicas(), then_running(problem, allocation)
    if (grown & (problem.option_price_per_hour > 0)).any():
        most = problem.budget_per_hour
        if _spending(problem, kept) > most + TOLERANCE * max(1.0, most):
            return True
    if len(exceeded(problem, kept, TOLERANCE)):
        return True
    most = problem.storage_limit_gigabytes
    return bool(grown.any() and stored_gigabytes(problem, kept) > most + TOLERANCE * max(1.0, most))


def gives_up(problem: AllocationProblem, allocation: Allocation) -> Bools:
    """Deployments (D) that keep replicas which the answer does not name."""
    return by_deployment(problem, then_running(problem, allocation) - allocation.replicas) > 0


def as_it_runs(problem: AllocationProblem) -> Allocation:
    """Everything that runs, serving nobody."""
    replicas, share, unserved = problem.running_replicas(), np.zeros(problem.pairs), np.ones(problem.classes)
    known = (problem.running[:, 1] >= 0) & ~problem.pool_unlimited[problem.option_pool[problem.running[:, 0]]]
    return Allocation(replicas, share, unserved, problem.running[known], cost_of(problem, replicas, share, unserved))


def exchanged(problem: AllocationProblem, base: Allocation, other: Allocation, chosen: Bools) -> Allocation:
    """`base` with the rows of the chosen deployments (mask, D) from `other`."""
    if not chosen.any():
        return base
    options, classes = chosen[problem.option_deployment], chosen[problem.class_deployment]
    replicas = np.where(options, other.replicas, base.replicas)
    share = np.where(classes[problem.pair_class], other.share, base.share)
    unserved = np.where(classes, other.unserved, base.unserved)
    packing = np.concatenate([base.packing[~options[base.packing[:, 0]]], other.packing[options[other.packing[:, 0]]]])
    packing = packing[np.lexsort((packing[:, 1], packing[:, 0]))]
    return Allocation(replicas, share, unserved, packing, cost_of(problem, replicas, share, unserved))


def following(problem: AllocationProblem, allocation: Allocation, chosen: Bools) -> Subset:
    """The problem of the chosen deployments (mask, D) once the answer is applied, beside all that the others run."""
    kept = np.where(chosen[problem.option_deployment], 0, then_running(problem, allocation))
    return _with_money_left(problem, subset(problem, allocation, chosen), kept, chosen)


@dataclass(frozen=True, slots=True, eq=False)
class Growth:
    """The problem of the deployments that may move, and the way back to the whole."""

    problem: AllocationProblem
    _whole: AllocationProblem
    _part: Subset
    _rest: Allocation
    """What everybody has without it."""
    _chosen: Bools
    _base: Allocation
    """What the answer is added to, in the part's numbers."""
    _missing: Floats
    """Of each class of the part, how much of it is to be served yet."""

    def merged(self, found: Allocation) -> Allocation:
        """The whole answer: what is found for the part, and what all others have without it."""
        base, missing = self._base, self._missing
        share = base.share + missing[self.problem.pair_class] * found.share
        packing = np.concatenate([base.packing, found.packing])
        places, which = np.unique(packing[:, :2], axis=0, return_inverse=True)
        counts = np.bincount(which.reshape(-1), packing[:, 2], minlength=len(places)).astype(np.int64)
        both = Allocation(
            base.replicas + found.replicas,
            share,
            missing * found.unserved,
            np.concatenate([places, counts[:, None]], axis=1),
            found.cost,  # not looked at: the whole answer is priced anew
        )
        return exchanged(self._whole, self._rest, self._part.merged(both), self._chosen)


def beside(problem: AllocationProblem, rest: Allocation, chosen: Bools, adding: Bools) -> Growth:
    """What the chosen deployments (mask, D) can have beside all that runs, with the money that the others leave.

    Args:
        rest: what everybody has without it.
        adding: those of the chosen (mask, D) that keep what they run and only serve more beside it.
    """
    fixed = adding | ~chosen
    # New replicas fit beside all running ones, also beside those that `rest` gives up.
    part = subset(problem, as_it_runs(problem), chosen)
    kept = np.where(fixed[problem.option_deployment], then_running(problem, rest), 0)
    part = _with_money_left(problem, part, kept, chosen)
    options = np.flatnonzero(chosen[problem.option_deployment])
    classes = np.flatnonzero(chosen[problem.class_deployment])
    pairs = np.flatnonzero(chosen[problem.class_deployment[problem.pair_class]])
    added, added_to = adding[problem.option_deployment[options]], adding[problem.class_deployment[classes]]
    missing = np.where(added_to, np.where(rest.unserved[classes] > TOLERANCE, rest.unserved[classes], 0.0), 1.0)
    packing = rest.packing[np.isin(rest.packing[:, 0], options[added])].copy()
    packing[:, 0] = np.searchsorted(options, packing[:, 0])
    base = Allocation(
        np.where(added, rest.replicas[options], 0),
        np.where(added_to[np.searchsorted(classes, problem.pair_class[pairs])], rest.share[pairs], 0.0),
        np.where(added_to, rest.unserved[classes], 1.0),
        packing,
        rest.cost,
    )
    there = np.isin(problem.option_pair[options], problem.option_pair[kept > 0])
    return Growth(_remaining(part.problem, base, added, missing, there), problem, part, rest, chosen, base, missing)


def _remaining(
    part: AllocationProblem, base: Allocation, added: Bools, missing: Floats, stored: Bools
) -> AllocationProblem:
    """The part's problem where some options (mask, N) keep what they run: of their classes, what is `missing` (I)."""
    if not added.any():
        return part
    keeps = added[part.running[:, 0]]
    free, gone = part.node_free.copy(), part.running[keeps & (part.running[:, 1] >= 0)]
    np.subtract.at(free, gone[:, 1], part.option_demand[gone[:, 0]] * gone[:, 2:3])
    taken = part.running_replicas() * added
    gpus = np.bincount(part.option_pool, taken * part.replica_gpus(), minlength=len(part.pool_gpu_limit))
    has = by_deployment(part, base.replicas).astype(np.int64)
    return replace(
        part,
        class_rate_per_hour=part.class_rate_per_hour * missing,
        class_unserved_limit=np.minimum(1.0, part.class_unserved_limit / np.where(missing > 0, missing, 1.0)),
        pair_load=part.pair_load * missing[part.pair_class][:, None],
        option_max_replicas=np.maximum(part.option_max_replicas - base.replicas, 0),
        option_storage_gigabytes=np.where(stored, 0.0, part.option_storage_gigabytes),
        deployment_min_replicas=np.maximum(part.deployment_min_replicas - has, 0),
        deployment_max_replicas=np.maximum(part.deployment_max_replicas - has, 0),
        running=part.running[~keeps],
        node_free=np.maximum(free, 0.0),
        pool_gpu_limit=np.maximum(part.pool_gpu_limit - gpus, 0.0),
        # Of other limits, what is kept is gone already.
        limit_capacity=np.where(
            counts_running(part), np.maximum(part.limit_capacity - use_of(part, taken), 0.0), part.limit_capacity
        ),
    )


def _with_money_left(problem: AllocationProblem, part: Subset, kept: Ints, chosen: Bools) -> Subset:
    """The part with what these replicas (N) of the others leave of budget, storage and limits of groups."""
    others = np.where(chosen[problem.option_deployment], 0, kept)
    at_once = np.minimum(part.problem.limit_capacity, problem.limit_capacity - use_of(problem, others))
    left_over = np.where(counts_running(problem), at_once, problem.limit_capacity - use_of(problem, kept))
    left = replace(
        part.problem,
        budget_per_hour=max(0.0, problem.budget_per_hour - _spending(problem, kept)),
        storage_limit_gigabytes=max(0.0, problem.storage_limit_gigabytes - stored_gigabytes(problem, kept)),
        limit_capacity=np.maximum(left_over, 0.0),
    )
    return replace(part, problem=left)


def _spending(problem: AllocationProblem, replicas: Ints) -> float:
    stored = stored_gigabytes(problem, replicas) * problem.storage_price_per_gigabyte_hour
    return float(replicas @ problem.option_price_per_hour) + stored
