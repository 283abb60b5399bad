"""Fewer options for the same optimum: exact dominance between options, and the problem of some options only."""

from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation.evaluate import cost_of
from plimsoll.allocation.limits import of_options, padded
from plimsoll.allocation.problem import Allocation, AllocationProblem, Bools, Floats, Ints
from plimsoll.allocation.useful import useful_replicas


def undominated(problem: AllocationProblem) -> Bools:
    """Options (N,) that are worth looking at: without the others the optimum is the same.

    An option is dropped where another of the same deployment and pool asks for no more money, for no more pieces and
    for no more GPUs, CPU cores or memory in each, takes no more of any limit, and does no worse by any class in any
    resource, delay, error or stored data; of equals the first stays. Replica for replica, the other can then take its
    place. Where storage or the exclusion of configurations tells pairs of model variant and pool apart, only options of
    one pair are compared. Running options are never dropped and drop none.
    """
    first, second = _neighbours(problem)
    least = problem.option_max_replicas[first] >= problem.option_max_replicas[second]
    if not problem.one_option_per_pair:
        # The replicas of both may come together on the one that stays.
        least = problem.option_max_replicas[first] >= useful_replicas(problem, capped=False)[first]
    first, second = first[least], second[least]
    equal = np.ones(len(first), dtype=bool)
    for measure in _measures(problem):
        ours, theirs = measure[first], measure[second]
        kept = ours <= theirs
        equal = (equal & (ours == theirs))[kept]
        first, second = first[kept], second[kept]
    same_most = problem.option_max_replicas[first] == problem.option_max_replicas[second]
    dominated = second[~(equal & same_most & (second < first))]
    options: Bools = np.ones(problem.options, dtype=bool)
    options[dominated] = False
    return options


def _neighbours(problem: AllocationProblem) -> tuple[Ints, Ints]:
    """All ordered pairs of different options that may be compared."""
    comparable = np.flatnonzero(problem.running_replicas() == 0)
    keys = [problem.option_pool[comparable], problem.option_deployment[comparable]]
    if problem.one_option_per_pair or problem.option_storage_gigabytes.any():
        keys.insert(0, problem.option_pair[comparable])
    order = comparable[np.lexsort(keys)]
    new = np.zeros(len(order), dtype=bool)
    new[:1] = True
    for key in (problem.option_pool, problem.option_deployment, problem.option_pair)[: len(keys)]:
        new[1:] |= key[order][1:] != key[order][:-1]
    start = np.flatnonzero(new)
    size = np.diff(np.append(start, len(order)))
    group = np.cumsum(new) - 1
    own = np.repeat(np.arange(len(order)), size[group])
    end = np.cumsum(size[group])
    other = np.arange(len(own)) - np.repeat(end - size[group], size[group]) + np.repeat(start[group], size[group])
    different = own != other
    return order[own[different]], order[other[different]]


def _measures(problem: AllocationProblem) -> list[Floats]:
    """What an option (N,) should have little of, the most telling first; inf for a class that it is no option for."""
    order = np.argsort(problem.class_deployment, kind="stable")
    deployment = problem.class_deployment[order]
    position = np.zeros(problem.classes, dtype=np.int64)
    position[order] = np.arange(problem.classes) - np.searchsorted(deployment, deployment)
    rows = position[problem.pair_class]
    shape = (int(position.max(initial=-1)) + 1, problem.options)

    def by_class(values: Floats) -> Floats:
        dense = np.full(shape, np.inf)
        dense[rows, problem.pair_option] = values
        return dense

    utilisation = problem.pair_load / problem.option_capacity[problem.pair_option]
    dense = [by_class(utilisation[:, resource]) for resource in range(problem.resources)]
    dense += [by_class(problem.pair_delay_seconds), by_class(problem.pair_error)]
    if problem.pair_storage_cost_per_hour.any():
        dense.append(by_class(problem.pair_storage_cost_per_hour))
    of_option = [
        problem.option_price_per_hour,
        *problem.option_demand.T,
        problem.option_nodes,
        problem.option_spare,
        -problem.option_per_node,
        problem.option_start_cost_per_hour,
        problem.option_storage_gigabytes,
    ]
    limit, amount = padded(problem)
    of_option += [*limit.T, *-limit.T, *amount.T]  # of the same limits no more
    return [*of_option, *(measure[row] for row in range(shape[0]) for measure in dense)]


@dataclass(frozen=True, slots=True, eq=False)
class Restricted:
    """The problem of some of the options."""

    problem: AllocationProblem
    _whole: AllocationProblem
    _options: Ints
    _pairs: Ints

    def lift(self, allocation: Allocation) -> Allocation:
        """The same answer, for the whole problem."""
        replicas = np.zeros(self._whole.options, dtype=np.int64)
        replicas[self._options] = allocation.replicas
        share = np.zeros(self._whole.pairs)
        share[self._pairs] = allocation.share
        packing = allocation.packing.copy()
        packing[:, 0] = self._options[packing[:, 0]]
        cost = cost_of(self._whole, replicas, share, allocation.unserved)
        return Allocation(replicas, share, allocation.unserved, packing, cost)

    def lower(self, allocation: Allocation) -> Allocation | None:
        """An answer of the whole problem as one of this; None where it uses an option that is not here."""
        if np.delete(allocation.replicas, self._options).any():
            return None
        packing = allocation.packing.copy()
        packing[:, 0] = np.searchsorted(self._options, packing[:, 0])
        replicas, share = allocation.replicas[self._options], allocation.share[self._pairs]
        cost = cost_of(self.problem, replicas, share, allocation.unserved)
        return Allocation(replicas, share, allocation.unserved, packing, cost)


def restrict(problem: AllocationProblem, options: Bools) -> Restricted:
    """The problem with the options of the mask (N,) only.

    Raises:
        ValueError: an option that runs is left out.
    """
    if (problem.running_replicas()[~options] > 0).any():
        raise ValueError("an option that runs cannot be left out")
    chosen = np.flatnonzero(options)
    pairs = np.flatnonzero(options[problem.pair_option])
    number = np.cumsum(options) - 1
    running = problem.running[options[problem.running[:, 0]]].copy()
    running[:, 0] = number[running[:, 0]]
    part = replace(
        problem,
        **{name: getattr(problem, name)[chosen] for name in problem.__slots__ if name.startswith("option_")},
        **{name: getattr(problem, name)[pairs] for name in problem.__slots__ if name.startswith("pair_")}
        | {"pair_option": number[problem.pair_option[pairs]]},
        running=running,
        **of_options(problem, chosen),
    )
    return Restricted(part, problem, chosen, pairs)
