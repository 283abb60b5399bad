"""Deployments of one problem as padded arrays: those with equally many classes together, promising options only.

An option is left out of plans if another one of its pool can stand in for each of its replicas with floor(g / g')
replicas (g and g': GPUs of their pieces, which are equally many) that serve every class at least as well, fit, take no
more of any limit, and rent for no more. The costs of starting are not compared, so a bound has to look at all options.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import blake2b

import numpy as np

from plimsoll.allocation.limits import padded
from plimsoll.allocation.problem import ANY_NUMBER, CPU, GPU, MEMORY, AllocationProblem, Bools, Floats, Ints

_FEW = 32
"""Up to so many options deployments share a batch; then up to twice as many, and so on."""
_FIXED = 6
"""Columns of the criteria before those of the limits and the classes."""


@dataclass(slots=True)
class Memory:
    """What was found out about each deployment of the last call, by a digest of all that it depends on.

    Only results that are functions of a deployment's own data are here: an answer never depends on what was remembered.
    """

    promising: dict[bytes, Bools] = field(default_factory=dict)
    """Which of the deployment's options are worth looking at, in the order of the options."""
    covered: dict[bytes, float] = field(default_factory=dict)
    """What covering the deployment's demand costs at least, at given prices."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """G deployments of C classes with traffic and up to N options each; padded options have no eligible class."""

    deployment: Ints
    """(G,)"""
    classes: Ints
    """(G, C)"""
    option: Ints
    """(G, N): 0 where padded."""
    pair: Ints
    """(G, C, N): -1 where the option is not eligible."""
    need: Floats
    """(G, C, N): replicas (a fraction) that the whole class takes; inf where not eligible."""
    alone: Floats
    """`need`, inf also where the option alone misses a mean limit of the class."""
    excess: Floats
    """(2, G, C, N): mean delay and mean error above the class's limit, in parts of the limit; 0 without limit."""
    share_cost: Floats
    """(G, C, N): latency penalty and storage per hour when the whole class uses the option."""
    rate: Floats
    """(G, C)"""
    unserved_cost: Floats
    """(G, C): penalty per hour for the whole class."""
    limit: Floats
    """(G, C)"""
    priority: Ints
    price: Floats
    """(G, N), as are the next."""
    start: Floats
    stop: Floats
    running: Ints
    most: Ints
    spare: Ints
    storage: Floats
    """Per hour, once the option's pair is in use."""
    deployment_most: Ints
    """(G,)"""

    def __len__(self) -> int:
        return len(self.deployment)

    def taking(self, members: Ints) -> "Batch":
        """Some of the deployments."""
        arrays = {item.name: getattr(self, item.name) for item in fields(self)}
        excess = arrays.pop("excess")[:, members]
        return Batch(**{name: value[members] for name, value in arrays.items()}, excess=excess)


class Table:
    """All options ordered by deployment (rows), beside what each takes for each class of its deployment (columns)."""

    def __init__(self, problem: AllocationProblem) -> None:
        self.problem = problem
        count = len(problem.deployment_max_replicas)
        active = np.flatnonzero(problem.class_rate_per_hour > 0)
        self.classes = active[np.argsort(problem.class_deployment[active], kind="stable")]
        """Classes with traffic, by deployment."""
        self.class_ends = np.searchsorted(problem.class_deployment[self.classes], np.arange(count + 1))
        class_column = np.full(problem.classes, -1, dtype=np.int64)
        owner = problem.class_deployment[self.classes]
        class_column[self.classes] = np.arange(len(self.classes)) - self.class_ends[owner]
        self.options = np.argsort(problem.option_deployment, kind="stable")
        self.owner = problem.option_deployment[self.options]
        self.option_ends = np.searchsorted(self.owner, np.arange(count + 1))
        self.width = int(np.diff(self.class_ends).max(initial=0))
        position = np.empty(problem.options, dtype=np.int64)
        position[self.options] = np.arange(problem.options)
        column = class_column[problem.pair_class]
        used = column >= 0
        self.pair = np.full((problem.options, self.width), -1, dtype=np.int64)
        """(N, width): the pair of the option with the class in this column; -1 where not eligible."""
        self.pair[position[problem.pair_option[used]], column[used]] = np.flatnonzero(used)
        self.running = problem.running_replicas()
        capacity = problem.option_capacity[problem.pair_option, 0]
        self.pair_need = problem.pair_load[:, 0] / capacity
        """(P,): replicas that the whole class takes."""
        enough = np.ones(problem.pairs, dtype=bool)
        self.pair_excess = np.zeros((2, problem.pairs))
        """Mean delay and mean error above the class's limit, in parts of the limit; 0 without limit."""
        for number, (value, limits) in enumerate(
            (
                (problem.pair_delay_seconds, problem.class_mean_delay_limit_seconds),
                (problem.pair_error, problem.class_mean_error_limit),
            )
        ):
            if np.isfinite(limits).any():
                self.pair_excess[number] = _excess(value, limits[problem.pair_class])
                enough &= self.pair_excess[number] <= 0
        self.pair_sufficient = enough
        """(P,): the option alone keeps the class's mean limits."""
        latency = problem.class_latency_penalty_per_request_second * problem.class_rate_per_hour
        self.pair_share_cost = latency[problem.pair_class] * problem.pair_delay_seconds
        self.pair_share_cost = self.pair_share_cost + problem.pair_storage_cost_per_hour
        """(P,): latency penalty and storage per hour when the whole class uses the option."""

    def of_pairs(self, value: Floats, missing: float) -> Floats:
        """(N, width) of a value per pair."""
        if not len(value):
            return np.full(self.pair.shape, missing)
        return np.where(self.pair >= 0, value[self.pair], missing)

    @cached_property
    def need(self) -> Floats:
        """(N, width): replicas (a fraction) that the whole class takes; inf where not eligible."""
        return self.of_pairs(self.pair_need, np.inf)

    @cached_property
    def _limits(self) -> tuple[Ints, Floats]:
        return padded(self.problem)

    @property
    def _first_need(self) -> int:
        """Row of the criteria at which those of the classes begin."""
        return _FIXED + int(self._limits[1].shape[1])

    def promising(self, memory: Memory | None) -> Bools:
        """Rows worth looking at for plans; running options always are. A bound may not rely on it."""
        criteria = self._criteria()
        count = len(self.class_ends) - 1
        if memory is None:
            return self._compare(criteria, np.ones(count, dtype=bool))
        ends = self.option_ends.tolist()
        form = f"{self.width} {len(criteria)}".encode()
        rows = [criteria[:, ends[d] : ends[d + 1]] for d in range(count)]
        digests = [blake2b(part.tobytes(), digest_size=16, key=form).digest() for part in rows]
        known = [memory.promising.get(digest) for digest in digests]
        kept = self._compare(criteria, np.array([found is None for found in known], dtype=bool))
        for d, found in enumerate(known):
            if found is not None:
                kept[ends[d] : ends[d + 1]] = found
        memory.promising = {digest: kept[ends[d] : ends[d + 1]].copy() for d, digest in enumerate(digests)}
        return kept

    def _criteria(self) -> Floats:
        """(F, N): group, GPUs, price, whether it runs, cores, memory, use of limits; then per class replicas and cost
        of the share."""
        problem, options = self.problem, self.options
        # Replicas of different numbers of pieces or spare ones, or under different limits, are not compared.
        groups = problem.option_pool + len(problem.pool_unlimited) * (problem.option_nodes - 1)
        limits, use = self._limits
        capped = problem.option_per_node < ANY_NUMBER
        if limits.size or capped.any() or problem.option_spare.any():
            # Under a limit per node, nothing smaller can stand in, since more of it would be needed.
            size = np.where(capped, problem.option_demand[:, GPU], 0.0)
            keys = (groups, problem.option_spare, problem.option_per_node, size, limits)
            _, groups = np.unique(np.column_stack(keys), axis=0, return_inverse=True)
            groups = groups.reshape(-1)
        columns = [
            groups[options],
            problem.option_demand[options, GPU],
            problem.option_price_per_hour[options],
            self.running[options] > 0,
            problem.option_demand[options, CPU],
            problem.option_demand[options, MEMORY],
            *use[options].T,
            *self.need.T,
        ]
        columns += [column for excess in self.pair_excess if excess.any() for column in self.of_pairs(excess, np.inf).T]
        if self.pair_share_cost.any():
            columns += [*self.of_pairs(self.pair_share_cost, np.inf).T]
        return np.array(columns, dtype=np.float64)

    def _compare(self, criteria: Floats, wanted: Bools) -> Bools:
        pool, gpus, _, runs, *_ = criteria
        first = self._first_need
        usable = np.isfinite(criteria[first : first + self.width]).any(axis=0)
        kept = usable | (runs > 0)
        rows = np.flatnonzero(wanted[self.owner] & kept)
        # First among equal sizes, which leaves little to compare between sizes.
        for keys in ((gpus, pool), (pool,)):
            order = rows[np.lexsort((*(key[rows] for key in keys), self.owner[rows]))]
            new = np.ones(len(order), dtype=bool)
            new[1:] = self.owner[order[1:]] != self.owner[order[:-1]]
            for key in keys:
                new[1:] |= key[order[1:]] != key[order[:-1]]
            dominated = _dominated(criteria[:, order], np.flatnonzero(new), self.width, first)
            kept[order[dominated]] = False
            rows = order[~dominated]
        found: Bools = kept
        return found

    def batches(self, kept: Bools) -> Iterator[Batch]:
        sizes = np.diff(self.class_ends)
        counts = np.add.reduceat(np.append(kept, False), self.option_ends[:-1]) if len(sizes) else np.zeros(0)
        counts = np.where(np.diff(self.option_ends) > 0, counts, 0)
        places = np.flatnonzero(kept)
        first = np.concatenate(([0], np.cumsum(counts)))
        # Arrays are padded to the most options of a batch, so those with many are apart from those with few.
        rank = np.ceil(np.log2(np.maximum(counts, _FEW) / _FEW)).astype(np.int64)
        for size, of_rank in np.unique(np.stack((sizes, rank), axis=1)[sizes > 0], axis=0).tolist():
            members = np.flatnonzero((sizes == size) & (rank == of_rank))
            width = max(1, int(counts[members].max()))
            column = np.arange(width)
            there = column < counts[members][:, None]
            place = np.where(there, np.append(places, 0)[np.where(there, first[members][:, None] + column, 0)], 0)
            yield self._batch(members, size, place, there)

    def _batch(self, members: Ints, size: int, place: Ints, there: Bools) -> Batch:
        problem = self.problem
        classes = self.classes[self.class_ends[members][:, None] + np.arange(size)]
        if not problem.options:
            shape = (len(members), 1)
            option, pair = np.zeros(shape, dtype=np.int64), np.full((*shape, size), -1, dtype=np.int64)
        else:
            option = self.options[place]
            pair = np.where(there[:, :, None], self.pair[place][:, :, :size], -1)
        pair = np.ascontiguousarray(pair.transpose(0, 2, 1))
        eligible = pair >= 0

        def of_pairs(value: Floats) -> Floats:
            return np.where(eligible, value[pair], 0.0) if len(value) else np.zeros(pair.shape)

        def of_options(value: Floats) -> Floats:
            return np.where(there, value[option], 0) if len(value) else np.zeros(option.shape)

        need = np.where(eligible, of_pairs(self.pair_need), np.inf)
        sufficient = eligible & (of_pairs(self.pair_sufficient) > 0)
        rate = problem.class_rate_per_hour[classes]
        return Batch(
            deployment=members,
            classes=classes,
            option=option,
            pair=pair,
            need=need,
            alone=np.where(sufficient, need, np.inf),
            excess=np.stack([of_pairs(excess) for excess in self.pair_excess]),
            share_cost=of_pairs(self.pair_share_cost),
            rate=rate,
            unserved_cost=problem.class_unserved_penalty_per_request[classes] * rate,
            limit=np.clip(problem.class_unserved_limit[classes], 0.0, 1.0),
            priority=problem.class_priority[classes],
            price=of_options(problem.option_price_per_hour),
            start=of_options(problem.option_start_cost_per_hour),
            stop=of_options(problem.option_stop_cost_per_hour),
            running=of_options(self.running.astype(np.float64)).astype(np.int64),
            most=of_options(problem.option_max_replicas.astype(np.float64)).astype(np.int64),
            spare=of_options(problem.option_spare.astype(np.float64)).astype(np.int64),
            storage=of_options(problem.option_storage_gigabytes) * problem.storage_price_per_gigabyte_hour,
            deployment_most=problem.deployment_max_replicas[members],
        )


def _excess(value: Floats, limit: Floats) -> Floats:
    """Above the limit, in parts of it; 0 without limit, and rounding does not count."""
    limited = np.isfinite(limit)
    excess = np.where(limited, value / np.maximum(np.where(limited, limit, 1.0), 1e-12) - 1.0, 0.0)
    return np.where(np.abs(excess) <= 1e-12, 0.0, excess)


def _dominated(criteria: Floats, starts: Ints, classes: int, first_need: int) -> Bools:
    """Rows that another row of the same group dominates; `starts` says where each group begins."""
    asked = first_need - 4
    count = criteria.shape[1]
    dominated = np.zeros(count, dtype=bool)
    if not count:
        return dominated
    _, gpus, price, runs, *rest = criteria
    sizes = np.diff(np.append(starts, count))
    group = np.repeat(np.arange(len(starts)), sizes)
    slot = np.arange(count) - starts[group]
    # A group is compared with its members one after the other: the shortest loop over whole arrays.
    for other in range(int(sizes.max())):
        rows = np.flatnonzero((sizes > other)[group] & (slot != other) & ~dominated & (runs == 0))
        better = starts[group[rows]] + other
        times = np.floor(gpus[rows] / np.maximum(gpus[better], 1e-9) + 1e-9)
        times = np.where(gpus[rows] == gpus[better], 1.0, times)
        better_off = np.zeros(len(rows), dtype=bool)
        fine = (times >= 1) & (price[better] * times <= price[rows])
        for number, column in enumerate(rest):
            of_class = asked <= number < asked + classes
            ours, theirs = column[rows], column[better]
            if of_class:
                ours = ours * np.where(times >= 1, times, 1.0)
            elif number < asked:
                theirs = theirs * times
            fine &= theirs <= ours
            better_off |= theirs < ours
        better_off |= price[better] * times < price[rows]
        dominated[rows[fine & (better_off | (better < rows))]] = True
    return dominated
