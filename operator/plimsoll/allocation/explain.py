"""Why an answer is as it is: per class what else could serve it and why it does not, and what a limit is worth.

The alternatives of a class are exact for one move: the class goes wholly to the option, everybody else stays as
planned, and replicas open and close in whole numbers. The worth of a limit is the difference to an answer with more of
it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property

import numpy as np

from plimsoll.allocation.evaluate import stored_gigabytes
from plimsoll.allocation.limits import exceeded
from plimsoll.allocation.problem import ANY_NUMBER, GPU, Allocation, AllocationProblem, Bools, Floats, Ints

TOLERANCE = 1e-6
ENDLESS = 2**31
"""Room without a limit, in replicas."""


class Reason(StrEnum):
    """Why a class does not use an option."""

    DELAY = "delay"
    """Alone it misses the class's mean delay."""
    ERROR = "error"
    """Alone it misses the class's mean task error."""
    DEARER = "dearer"
    REPLICAS = "replicas"
    """It would pay, but needs more replicas than the option or its deployment may have."""
    STOCK = "stock"
    """It would pay, but its replicas find no place."""
    LIMIT = "limit"
    """It would pay, but a limit of a group of options that it belongs to is reached."""
    STORAGE = "storage"
    """It would pay, but there is no storage left for its weights."""
    BUDGET = "budget"
    """It would pay or serve more, but there is no money for it."""
    MOVE = "move"
    """Cheaper to run, but the move there costs as much."""
    UNUSED = "unused"
    """It would pay: the saving was too small to act on, or the search missed it."""


@dataclass(frozen=True, slots=True)
class Alternative:
    """One class wholly on one option; now it uses another, or others beside it."""

    option: int
    reason: Reason
    replicas: int
    """Of the option, for the class and whoever uses it already."""
    opened: int
    """Of them beyond the plan."""
    extra_cost_per_hour: float
    """To run: rent, storage and penalties beyond the plan's; negative where it is cheaper."""
    move_cost_per_hour: float
    """Cost of changes beyond the plan's."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What more of a limit gives."""

    served_requests_per_hour: float
    """More, of what exceeds the classes' unserved limits."""
    saving_per_hour: float
    """Of the total cost."""


def alternatives(problem: AllocationProblem, allocation: Allocation) -> list[list[Alternative]]:
    """Per class (I) its eligible options that do not serve all of it, the cheapest first; ties by option number."""
    ranked = Alternatives(problem, allocation)
    return [list(ranked.of_class(number)) for number in range(problem.classes)]


def room(problem: AllocationProblem, allocation: Allocation) -> Ints:
    """How many more replicas of each option (N,), alone, find a place beside the plan; `ENDLESS` without a limit."""
    return _Places(problem, allocation).room(np.arange(problem.options))


def full_pools(problem: AllocationProblem, allocation: Allocation) -> Bools:
    """Pools (mask, K) with nodes and options where no further replica of any option finds a place."""
    size = len(problem.pool_unlimited)
    stocked = np.bincount(problem.node_pool, minlength=size) > 0
    offered = np.bincount(problem.option_pool, minlength=size) > 0
    has_room = np.bincount(problem.option_pool[room(problem, allocation) > 0], minlength=size) > 0
    full: Bools = stocked & offered & ~has_room & ~problem.pool_unlimited
    return full


def with_node(problem: AllocationProblem, pool: int, free: Floats) -> AllocationProblem:
    """The problem with one more node in the pool; `free` (3,) is what it has of GPUs, CPU cores and bytes of memory."""
    limit = problem.pool_gpu_limit.copy()
    limit[pool] += free[GPU]
    return replace(
        problem,
        node_pool=np.append(problem.node_pool, pool),
        node_free=np.concatenate([problem.node_free, np.asarray(free, dtype=float).reshape(1, 3)]),
        pool_gpu_limit=limit,
    )


def worth(problem: AllocationProblem, now: Allocation, richer: Allocation) -> Worth:
    """What an answer with more of some limit has over the present one; never negative: the present one remains."""
    rate, beyond = problem.class_rate_per_hour, problem.class_unserved_limit
    for level in np.unique(problem.class_priority)[::-1]:
        own = problem.class_priority == level
        missing, left = (
            float((rate * np.maximum(answer.unserved - beyond, 0.0))[own].sum()) for answer in (now, richer)
        )
        if abs(missing - left) > TOLERANCE * max(1.0, missing):
            better = left < missing
            return Worth(missing - left if better else 0.0, max(0.0, now.cost.total - richer.cost.total) * better)
    return Worth(0.0, max(0.0, now.cost.total - richer.cost.total))


class Alternatives:
    """The same, class by class and one by one: who wants to know a few of them does not pay for all."""

    def __init__(self, problem: AllocationProblem, allocation: Allocation) -> None:
        self._what_if = _WhatIf(problem, allocation)
        self._ends = np.searchsorted(problem.pair_class, np.arange(problem.classes + 1)).tolist()

    def of_class(self, number: int) -> Iterator[Alternative]:
        """Of the class with this number."""
        return self._what_if.alternatives(number, slice(self._ends[number], self._ends[number + 1]))


@dataclass(frozen=True, slots=True, eq=False)
class _Moved:
    """One class moved to each of some options (n): what that needs and costs."""

    options: Ints
    pairs: Ints
    needed: Ints
    opened: Ints
    extra: Floats
    """Per hour."""
    move: Floats
    stored: Floats
    """Gigabytes more."""
    spending: Floats
    total: Ints
    """Replicas of the deployment."""
    gone: Mapping[int, int]
    """Replicas that are freed, by option."""


class _WhatIf:
    """The plan with one class moved."""

    def __init__(self, problem: AllocationProblem, allocation: Allocation) -> None:
        self._problem = problem
        self._plan = allocation
        self._places = _Places(problem, allocation)
        self._running = problem.running_replicas()
        self._pair_used = problem.pair_load * allocation.share[:, None]
        self._used = np.zeros((problem.options, problem.resources))
        np.add.at(self._used, problem.pair_option, self._pair_used)
        self._stored = stored_gigabytes(problem, allocation.replicas)
        pairs = int(problem.option_pair.max()) + 1 if problem.options else 0
        self._of_variant = np.zeros(pairs, dtype=np.int64)
        np.add.at(self._of_variant, problem.option_pair, allocation.replicas)
        self._size = np.zeros(pairs)
        self._size[problem.option_pair] = problem.option_storage_gigabytes
        self._of_deployment = np.zeros(len(problem.deployment_min_replicas), dtype=np.int64)
        np.add.at(self._of_deployment, problem.option_deployment, allocation.replicas)
        self._sole = self._sole_pairs()

    def _sole_pairs(self) -> Ints:
        """The pair (per class, I) that serves the class wholly; -1 where several or none do."""
        used = np.flatnonzero(self._plan.share > TOLERANCE)
        count = np.bincount(self._problem.pair_class[used], minlength=self._problem.classes)
        sole = np.full(self._problem.classes, -1, dtype=np.int64)
        if not len(used):
            return sole
        sole[self._problem.pair_class[used]] = used
        sole[(count != 1) | (self._plan.share[sole] < 1 - TOLERANCE)] = -1
        return sole

    def alternatives(self, number: int, pairs: slice) -> Iterator[Alternative]:
        """Of the class with this number, whose pairs these are."""
        everything = np.arange(pairs.start, pairs.stop)
        share = self._plan.share[pairs]
        used = everything[share > TOLERANCE]
        shared = everything[(share > TOLERANCE) & (share < 1 - TOLERANCE)].tolist()
        if self._sole[number] >= 0:
            found = [self._moved_from_sole(number, everything[share <= TOLERANCE])]
        else:
            found = [
                self._moved(number, pairs, everything[share <= TOLERANCE], used),
                *(self._moved(number, pairs, np.array([partly]), used[used != partly]) for partly in shared),
            ]
        ranks = [np.round(moved.extra + moved.move, 9) for moved in found]
        where = [(which, index) for which, moved in enumerate(found) for index in range(len(moved.options))]
        order = np.lexsort((np.concatenate([moved.options for moved in found]), np.concatenate(ranks)))
        return (self._alternative(number, found[which], index) for which, index in map(where.__getitem__, order))

    def _moved(self, number: int, pairs: slice, targets: Ints, left: Ints) -> _Moved:
        """The class wholly on the option of each pair in `targets`, and gone from those of the pairs in `left`."""
        problem, plan = self._problem, self._plan
        options, leaving = problem.pair_option[targets], problem.pair_option[left]
        freed = np.maximum(
            plan.replicas[leaving] - self._with_spare(self._used[leaving] - self._pair_used[left], leaving), 0
        )
        load = self._used[options] - self._pair_used[targets] + problem.pair_load[targets]
        needed = np.maximum(self._whole(load, options), 1) + problem.option_spare[options]
        opened = np.maximum(needed - plan.replicas[options], 0)
        deployment = int(problem.class_deployment[number])
        total = self._of_deployment[deployment] - freed.sum() + opened
        stored = self._stored_change(options, leaving, freed)
        rent = problem.option_price_per_hour[options] * opened - problem.option_price_per_hour[leaving] @ freed
        rent = rent + self._kept_for_minimum(deployment, total, leaving, freed)
        spending = rent + stored * problem.storage_price_per_gigabyte_hour
        spending = spending + self._exchange(problem.pair_storage_cost_per_hour, pairs, targets)
        rate = problem.class_rate_per_hour[number]
        delay = self._exchange(problem.pair_delay_seconds, pairs, targets)
        extra = spending + problem.class_latency_penalty_per_request_second[number] * rate * delay
        extra = extra - problem.class_unserved_penalty_per_request[number] * rate * plan.unserved[number]
        move = self._change(options, opened) + self._change(leaving, -freed).sum()
        gone = dict(zip(leaving.tolist(), freed.tolist(), strict=True))
        return _Moved(options, targets, needed, opened, extra, move, stored, spending, total, gone)

    def _moved_from_sole(self, number: int, targets: Ints) -> _Moved:
        """As `_moved`, for a class that one option serves wholly."""
        every, leaving = self._every_move, int(self._problem.pair_option[self._sole[number]])
        return _Moved(
            every.options[targets],
            targets,
            every.needed[targets],
            every.opened[targets],
            every.extra[targets],
            every.move[targets],
            every.stored[targets],
            every.spending[targets],
            every.total[targets],
            {leaving: int(self._freed_from_sole[number])},
        )

    @cached_property
    def _freed_from_sole(self) -> Ints:
        """Replicas (I) of the one option of each class that go with the class."""
        left = self._problem.pair_option[self._sole]
        kept = self._with_spare(self._used[left] - self._pair_used[self._sole], left)
        freed: Ints = np.maximum(self._plan.replicas[left] - kept, 0)
        return freed

    @cached_property
    def _every_move(self) -> _Moved:
        """Every pair (P) as if its class moved there from the one option that serves it; `_moved` for all at once."""
        problem, plan = self._problem, self._plan
        number, options = problem.pair_class, problem.pair_option
        left, freed = options[self._sole][number], self._freed_from_sole[number]
        deployment = problem.class_deployment[number]
        needed = np.maximum(self._whole(self._used[options] - self._pair_used + problem.pair_load, options), 1)
        needed = needed + problem.option_spare[options]
        opened = np.maximum(needed - plan.replicas[options], 0)
        total = self._of_deployment[deployment] - freed + opened
        variant, left_variant = problem.option_pair[options], problem.option_pair[left]
        closed = self._of_variant[left_variant] <= freed
        absent = (self._of_variant[variant] <= 0) | (closed & (variant == left_variant))
        stored = np.where(absent, self._size[variant], 0.0) - np.where(closed, self._size[left_variant], 0.0)
        price = problem.option_price_per_hour
        # What must stay for the deployment's least number has the price of what goes.
        gone = freed - np.clip(problem.deployment_min_replicas[deployment] - total, 0, freed)
        spending = price[options] * opened - price[left] * gone + stored * problem.storage_price_per_gigabyte_hour
        spending = spending + self._exchanges(problem.pair_storage_cost_per_hour)
        rate = problem.class_rate_per_hour[number]
        delay = self._exchanges(problem.pair_delay_seconds)
        extra = spending + problem.class_latency_penalty_per_request_second[number] * rate * delay
        extra = extra - problem.class_unserved_penalty_per_request[number] * rate * plan.unserved[number]
        move = self._change(options, opened) + self._change(left, -freed)
        return _Moved(options, np.arange(len(options)), needed, opened, extra, move, stored, spending, total, {})

    def _exchanges(self, figure: Floats) -> Floats:
        """`_exchange` for every pair (P)."""
        now = np.bincount(self._problem.pair_class, figure * self._plan.share, minlength=self._problem.classes)
        exchanged: Floats = figure - now[self._problem.pair_class]
        return exchanged

    def _alternative(self, number: int, moved: _Moved, index: int) -> Alternative:
        problem, plan = self._problem, self._plan
        option, pair, grown = int(moved.options[index]), int(moved.pairs[index]), int(moved.opened[index])
        deployment = int(problem.class_deployment[number])
        extra, move = float(moved.extra[index]), float(moved.move[index])
        short = plan.unserved[number] > problem.class_unserved_limit[number] + TOLERANCE
        if problem.pair_delay_seconds[pair] > _limit(problem.class_mean_delay_limit_seconds[number]):
            reason = Reason.DELAY
        elif problem.pair_error[pair] > _limit(problem.class_mean_error_limit[number]):
            reason = Reason.ERROR
        elif extra >= -TOLERANCE and not short:
            reason = Reason.DEARER
        elif self._too_many(option, int(moved.needed[index]), deployment, int(moved.total[index])):
            reason = Reason.REPLICAS
        elif grown > self._places.room_without(option, grown, moved.gone):
            reason = Reason.STOCK
        elif grown and self._beyond_limit(option, grown, moved.gone):
            reason = Reason.LIMIT
        elif grown and self._stored + moved.stored[index] > _limit(problem.storage_limit_gigabytes):
            reason = Reason.STORAGE
        elif grown and plan.cost.spending + moved.spending[index] > _limit(problem.budget_per_hour):
            reason = Reason.BUDGET
        else:
            reason = Reason.MOVE if extra + move >= -TOLERANCE else Reason.UNUSED
        return Alternative(option, reason, int(moved.needed[index]), grown, extra, move)

    def _whole(self, load: Floats, options: Ints) -> Ints:
        """Replicas of each option for these loads (n, R)."""
        parts = load / self._problem.option_capacity[options]
        whole: Ints = np.ceil(parts.max(axis=1) - TOLERANCE).astype(np.int64)
        return np.maximum(whole, 0)

    def _with_spare(self, load: Floats, options: Ints) -> Ints:
        """Replicas of each option for these loads (n, R) and what must be spare beside them."""
        whole = self._whole(load, options)
        return whole + np.where(whole > 0, self._problem.option_spare[options], 0)

    def _exchange(self, figure: Floats, pairs: slice, target_pairs: Ints) -> Floats:
        """A pair's figure for the whole class instead of its mix now."""
        exchanged: Floats = figure[target_pairs] - figure[pairs] @ self._plan.share[pairs]
        return exchanged

    def _stored_change(self, targets: Ints, leaving: Ints, freed: Ints) -> Floats:
        """Gigabytes stored more with each target."""
        left: dict[int, int] = {}
        for variant, count in zip(self._problem.option_pair[leaving].tolist(), freed.tolist(), strict=True):
            left[variant] = left.get(variant, int(self._of_variant[variant])) - count
        closed = [variant for variant, count in left.items() if count <= 0]
        variants = self._problem.option_pair[targets]
        absent = (self._of_variant[variants] <= 0) | np.isin(variants, closed)
        change: Floats = np.where(absent, self._size[variants], 0.0) - self._size[closed].sum()
        return change

    def _kept_for_minimum(self, deployment: int, total: Ints, leaving: Ints, freed: Ints) -> Floats:
        """Rent of replicas that must stay for the deployment's least number: the cheapest of those left."""
        missing = np.clip(self._problem.deployment_min_replicas[deployment] - total, 0, int(freed.sum()))
        prices = np.sort(np.repeat(self._problem.option_price_per_hour[leaving], freed))
        kept: Floats = np.concatenate([[0.0], np.cumsum(prices)])[missing]
        return kept

    def _change(self, options: Ints, growth: Ints) -> Floats:
        """Cost of changes beyond the plan's, per option."""
        problem = self._problem
        before = self._plan.replicas[options] - self._running[options]
        after = before + growth
        started = np.maximum(after, 0) - np.maximum(before, 0)
        stopped = np.maximum(-after, 0) - np.maximum(-before, 0)
        change: Floats = (
            problem.option_start_cost_per_hour[options] * started + problem.option_stop_cost_per_hour[options] * stopped
        )
        return change

    def _beyond_limit(self, option: int, grown: int, gone: Mapping[int, int]) -> bool:
        if not len(self._problem.limit_capacity):
            return False
        replicas = self._plan.replicas.copy()
        for other, count in gone.items():
            replicas[other] -= count
        replicas[option] += grown
        return len(exceeded(self._problem, replicas, TOLERANCE)) > 0

    def _too_many(self, option: int, replicas: int, deployment: int, total: int) -> bool:
        problem = self._problem
        return bool(
            replicas > problem.option_max_replicas[option] or total > problem.deployment_max_replicas[deployment]
        )


class _Places:
    """What is free beside the plan and, where running replicas keep their places, beside all that runs."""

    def __init__(self, problem: AllocationProblem, allocation: Allocation) -> None:
        self._problem = problem
        self._running = _counts(problem.running) if problem.keep_running else {}
        taken = _counts(allocation.packing)
        for key, count in self._running.items():
            taken[key] = max(taken.get(key, 0), count)
        self._by_option: dict[int, list[tuple[int, int]]] = {}
        for (option, node), count in taken.items():
            self._by_option.setdefault(option, []).append((node, count))
        rows = np.array([(*key, count) for key, count in taken.items() if key[1] >= 0], dtype=np.int64)
        rows = rows.reshape(-1, 3)
        self._free = problem.node_free.copy()
        np.subtract.at(self._free, rows[:, 1], problem.option_demand[rows[:, 0]] * rows[:, 2:])
        held = np.zeros_like(allocation.replicas)
        if problem.keep_running:
            held = problem.running_replicas()
        self._planned = allocation.replicas
        self._held = np.maximum(allocation.replicas, held)
        size = len(problem.pool_unlimited)
        gpus = self._held * problem.replica_gpus()
        self._gpus = problem.pool_gpu_limit - np.bincount(problem.option_pool, gpus, minlength=size)
        order = np.argsort(problem.node_pool, kind="stable")
        self._nodes = np.split(order, np.searchsorted(problem.node_pool[order], np.arange(1, size)))

    def room(self, options: Ints) -> Ints:
        """More replicas of each of these options, each alone."""
        found = np.full(len(options), ENDLESS, dtype=np.int64)
        pools = self._problem.option_pool[options]
        for pool in np.unique(pools).tolist():
            own = pools == pool
            if not self._problem.pool_unlimited[pool]:
                found[own] = self._fitting(
                    options[own], self._nodes[pool], self._free[self._nodes[pool]], self._gpus[pool]
                )
        return found

    def room_without(self, option: int, wanted: int, left: Mapping[int, int]) -> int:
        """More replicas of the option once these numbers of others leave the plan; what runs keeps its place."""
        pool = int(self._problem.option_pool[option])
        idle = int(self._held[option] - self._planned[option])
        if self._problem.pool_unlimited[pool] or wanted <= idle:
            return ENDLESS
        nodes = self._nodes[pool]
        free, gpus = self._free[nodes], float(self._gpus[pool])
        for other, leaving in left.items():
            if self._problem.option_pool[other] != pool:
                continue
            remaining = leaving * int(self._problem.option_nodes[other])
            for node, count in self._by_option.get(other, ()):
                given = min(max(count - self._running.get((other, node), 0), 0), remaining)
                free[nodes == node] += given * self._problem.option_demand[other]
                gpus += given * float(self._problem.option_demand[other, GPU])
                remaining -= given
        return idle + int(self._fitting(np.array([option]), nodes, free, gpus)[0])

    def _left_per_node(self, options: Ints, nodes: Ints) -> Ints:
        """Pieces (options, nodes) that the options' limits per node allow beside those that are there."""
        limits = self._problem.option_per_node[options]
        left = np.repeat(limits[:, None], len(nodes), axis=1)
        for row in np.flatnonzero(limits < ANY_NUMBER).tolist():
            for node, count in self._by_option.get(int(options[row]), ()):
                left[row, nodes == node] -= count
        return np.maximum(left, 0)

    def _fitting(self, options: Ints, nodes: Ints, free: Floats, pool_gpus: float) -> Ints:
        """Replicas of one kind that fit these nodes (m, 3): kinds are counted each alone, so no packing is needed."""
        demand, pieces = self._problem.option_demand[options], self._problem.option_nodes[options]
        asks, most = demand > 0, self._left_per_node(options, nodes)
        each = np.full((len(options), len(free)), float(ENDLESS))
        for resource in range(demand.shape[1]):
            ratio = free[None, :, resource] / np.where(asks[:, resource], demand[:, resource], 1.0)[:, None]
            each = np.minimum(each, np.where(asks[:, [resource]], ratio, ENDLESS))
        whole = np.floor(np.minimum(np.floor(np.maximum(each, 0.0) + TOLERANCE), most).sum(axis=1) / pieces)
        by_limit = np.where(asks[:, GPU], pool_gpus / np.where(asks[:, GPU], demand[:, GPU] * pieces, 1.0), ENDLESS)
        fitting: Ints = np.floor(np.clip(np.minimum(whole, by_limit + TOLERANCE), 0, ENDLESS)).astype(np.int64)
        return fitting


def _counts(rows: Ints) -> dict[tuple[int, int], int]:
    counts: dict[tuple[int, int], int] = {}
    for option, node, count in rows.tolist():
        counts[option, node] = counts.get((option, node), 0) + count
    return counts


def _limit(value: float) -> float:
    """A limit with room for rounding."""
    return float(value) + TOLERANCE * max(1.0, abs(float(value))) if np.isfinite(value) else float(value)
