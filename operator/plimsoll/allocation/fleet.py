"""What couples the deployments during a solve: stock, GPU limits of pools, limits of groups, budget and storage."""

from dataclasses import dataclass

import numpy as np

from plimsoll.allocation.evaluate import stored_gigabytes
from plimsoll.allocation.limits import use_of
from plimsoll.allocation.problem import AllocationProblem, Bools, Floats, Ints
from plimsoll.allocation.stock import PLENTY, Places, Stock
from plimsoll.allocation.workload import Traffic, Workload, workloads

TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """State of one workload, to go back to."""

    options: Ints
    """Those with replicas."""
    replicas: Ints
    traffic: Traffic
    places: dict[int, Places]


@dataclass(frozen=True, slots=True, eq=False)
class Allowance:
    """What a workload may still add of some options."""

    replicas: Ints
    """Per option, each taken alone."""
    total: int
    """Of the deployment."""
    rent_room: float
    rent_free: Ints
    """Replicas per option whose rent is counted already."""


def _affordable(room: Floats | float, unit: Floats) -> Ints:
    """How many units fit into the room; free units have no limit."""
    room_array = np.maximum(np.asarray(room, dtype=np.float64), 0.0)
    count = np.where(unit > 0, room_array / np.where(unit > 0, unit, 1.0) + TOLERANCE, PLENTY)
    return np.floor(np.minimum(count, PLENTY)).astype(np.int64)


class Fleet:
    """Replicas are added and removed here only, so that stock and limits always hold.

    While `reserving`, the rent, storage and GPUs of running replicas that are not yet in the answer count as spent:
    growth elsewhere cannot push out a running replica, however low its class's priority.
    """

    def __init__(self, problem: AllocationProblem) -> None:
        self.problem = problem
        self.stock = Stock(problem)
        self.workloads = list(workloads(problem))
        self.reserving = True
        self._stocked = not problem.pool_unlimited.all()
        self._gpus_limited = bool(np.isfinite(problem.pool_gpu_limit).any())
        self._storage_limited = bool(np.isfinite(problem.storage_limit_gigabytes))
        self._budgeted = bool(np.isfinite(problem.budget_per_hour))
        self.simple = not (self._stocked or self._gpus_limited or len(problem.limit_capacity))
        """Nothing but money and storage limits growth."""
        running = problem.running_replicas()
        self._grown = 0
        """Replicas above the running number whose rent the budget limits."""
        self._rent = 0.0
        self._reserved_rent = float(problem.option_price_per_hour @ running)
        self._stored = 0.0
        """Gigabytes of the pairs with replicas."""
        self._reserved_stored = stored_gigabytes(problem, running)
        self._gpus = np.zeros(len(problem.pool_unlimited))
        self._reserved_gpus = np.zeros(len(problem.pool_unlimited))
        np.add.at(self._reserved_gpus, problem.option_pool, problem.replica_gpus() * running)
        self._use = np.zeros(len(problem.limit_capacity))
        """Of the limits of groups of options."""
        self._reserved_use = use_of(problem, running)

    def money_room(self) -> float:
        """What rent and storage may grow by, below zero where running replicas exceed the budget."""
        if not self._budgeted:
            return float("inf")
        rent, stored = (self._reserved_rent, self._reserved_stored) if self.reserving else (self._rent, self._stored)
        spent = rent + stored * self.problem.storage_price_per_gigabyte_hour
        spent += sum(workload.share_storage_cost for workload in self.workloads if workload.stores_data)
        return self.problem.budget_per_hour - spent

    def data_room(self) -> float:
        """What traffic may add in storage cost: no limit as long as nothing has grown."""
        return self.money_room() if self._grown else float("inf")

    def storage_room(self) -> float:
        """Gigabytes that new pairs may take."""
        stored = self._reserved_stored if self.reserving else self._stored
        return self.problem.storage_limit_gigabytes - stored

    def overspent(self) -> bool:
        """Traffic that moved has brought the cost of its data above the budget."""
        return self._budgeted and self._grown > 0 and self.money_room() < -TOLERANCE

    def allowance(self, workload: Workload, options: Ints | None = None) -> Allowance:
        """What fits beside all that is placed now, within every limit; `options`: of these only."""
        chosen: Ints | slice = slice(None) if options is None else options
        replicas = workload.replicas[chosen]
        total = max(0, workload.max_replicas - int(workload.replicas.sum()))
        count = np.minimum(workload.option_max[chosen] - replicas, total)
        if self._stocked:
            places = np.maximum(workload.held[chosen] - replicas, 0) + self.stock.room(workload.options[chosen])
            count = np.minimum(count, places)
        if workload.exclusive:
            count = np.where(workload.pair_replicas[workload.pair[chosen]] > replicas, 0, count)
        unused = np.maximum(workload.running[chosen] - replicas, 0)
        nothing = np.zeros_like(unused)
        rent_free = unused if self.reserving else nothing
        rent_room = self.money_room()
        limit = nothing + PLENTY
        if self._budgeted:
            room: Floats | float = rent_room
            if workload.stores:
                room = rent_room - workload.opening_cost(np.arange(len(workload.options))[chosen])
            limit = rent_free + _affordable(room, workload.price[chosen])
        if self._gpus_limited:
            counted = self.reserving or self.problem.keep_running
            gpu_room = self.problem.pool_gpu_limit - (self._reserved_gpus if counted else self._gpus)
            gpus = _affordable(gpu_room[workload.pool[chosen]], workload.gpus[chosen])
            limit = np.minimum(limit, gpus + (unused if counted else nothing))
        if len(workload.limits):
            limit = np.minimum(limit, self._within_limits(workload, chosen, unused))
        if self._storage_limited:
            limit = np.where(self._storable(workload, chosen), limit, rent_free)
        if self.reserving and not workload.blocked:
            workload.blocked = bool((limit < np.minimum(count, workload.enough[chosen])).any())
        return Allowance(np.maximum(np.minimum(count, limit), 0), total, max(rent_room, 0.0), rent_free)

    def _within_limits(self, workload: Workload, chosen: Ints | slice, unused: Ints) -> Ints:
        """Replicas per option that the limits of groups allow."""
        problem, limits = self.problem, workload.limits
        counted = problem.limit_at_once[limits] & problem.keep_running | self.reserving
        room = problem.limit_capacity[limits] - np.where(counted, self._reserved_use[limits], self._use[limits])
        more = _affordable(room[:, None], workload.limit_use[:, chosen]) + np.where(counted[:, None], unused, 0)
        least: Ints = more.min(axis=0)
        return least

    def _storable(self, workload: Workload, chosen: Ints | slice) -> Bools:
        """Whether a first replica of the option's pair fits the storage."""
        pair = workload.pair[chosen]
        closed = workload.pair_replicas[pair] == 0
        if self.reserving and workload.runs:
            closed &= np.bincount(workload.pair, workload.running, minlength=len(workload.pair_replicas))[pair] == 0
        fits: Bools = workload.stored_gigabytes[chosen] * closed <= self.storage_room() + TOLERANCE
        return fits

    def change(self, workload: Workload, option: int, count: int) -> None:
        """Add (or remove, below zero) replicas of the workload's option."""
        old = int(workload.replicas[option])
        held = int(workload.held[option])
        placed = max(old + count - held, 0) - max(old - held, 0)
        if placed > 0:
            self.stock.place(int(workload.options[option]), placed)
        elif placed < 0:
            self.stock.release(int(workload.options[option]), -placed)
        self._book(workload, option, old + count)

    def checkpoint(self, workload: Workload) -> Checkpoint:
        active = workload.active()
        places = {}
        if self._stocked:
            places = {
                number: dict(self.stock.places[number])
                for number in workload.options[active].tolist()
                if number in self.stock.places
            }
        return Checkpoint(active, workload.replicas[active], workload.traffic(), places)

    def restore(self, workload: Workload, checkpoint: Checkpoint) -> None:
        workload.set_traffic(checkpoint.traffic)
        before = dict(zip(checkpoint.options.tolist(), checkpoint.replicas.tolist(), strict=True))
        for option in [*before, *(option for option in workload.active().tolist() if option not in before)]:
            number = int(workload.options[option])
            if self._stocked:
                self.stock.restore(number, checkpoint.places.get(number, {}))
            self._book(workload, option, before.get(option, 0))

    def objective(self) -> tuple[float, ...]:
        """Unserved requests beyond the limits by priority, highest first; missing replicas; cost. Smaller is better."""
        levels = np.unique(self.problem.class_priority)[::-1]
        excess = np.zeros(len(levels))
        for workload in self.workloads:
            over = workload.rate_per_hour * np.maximum(workload.unserved() - workload.unserved_limit, 0.0)
            excess += (over * (workload.priority == levels[:, None])).sum(axis=1)
        cost = sum(workload.cost() for workload in self.workloads)
        missing = sum(workload.missing_replicas() for workload in self.workloads)
        return (*(round(level, 6) for level in excess.tolist()), float(missing), round(cost, 9))

    def empty(self, workload: Workload) -> None:
        """No replicas, no traffic."""
        for option in workload.active().tolist():
            for row in np.flatnonzero(workload.share[:, option]).tolist():
                workload.withdraw(row, option)
            self.change(workload, option, -int(workload.replicas[option]))

    def clear(self) -> None:
        """Back to the start."""
        self.reserving = True
        for workload in self.workloads:
            workload.blocked = False
            self.empty(workload)

    def _book(self, workload: Workload, option: int, replicas: int) -> None:
        old, running = int(workload.replicas[option]), int(workload.running[option])
        if old == replicas:
            return
        price, gpus = float(workload.price[option]), float(workload.gpus[option])
        above = max(replicas, running) - max(old, running)
        pool, pair = int(workload.pool[option]), int(workload.pair[option])
        self._rent += price * (replicas - old)
        self._reserved_rent += price * above
        if price > 0:
            self._grown += above
        if self._gpus_limited:
            self._gpus[pool] += gpus * (replicas - old)
            self._reserved_gpus[pool] += gpus * above
        if len(workload.limits):
            self._use[workload.limits] += workload.limit_use[:, option] * (replicas - old)
            self._reserved_use[workload.limits] += workload.limit_use[:, option] * above
        stood = int(workload.pair_replicas[pair])
        workload.replicas[option] = replicas
        workload.pair_replicas[pair] = stood + replicas - old
        opened = int(stood + replicas > old) - int(stood > 0)
        if opened:
            gigabytes = float(workload.stored_gigabytes[option]) * opened
            self._stored += gigabytes
            if not (workload.runs and workload.running[workload.pair == pair].any()):
                self._reserved_stored += gigabytes
