"""What couples the deployments during a solve: stock, GPU limits of pools and the budget."""

from dataclasses import dataclass

import numpy as np

from plimsoll.allocation.problem import AllocationProblem, Floats, Ints
from plimsoll.allocation.stock import PLENTY, Places, Stock
from plimsoll.allocation.workload import Workload, workloads


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """State of one workload, to go back to."""

    replicas: Ints
    share: Floats
    places: dict[int, Places]


@dataclass(frozen=True, slots=True, eq=False)
class Allowance:
    """What a workload may still add."""

    replicas: Ints
    """Per option, each taken alone, shape (N,)."""
    total: int
    """Of the deployment."""
    rent_room: float
    rent_free: Ints
    """Replicas per option whose rent is counted already."""


def _affordable(room: Floats | float, unit: Floats) -> Ints:
    """How many units fit into the room; free units have no limit."""
    room_array = np.maximum(np.asarray(room, dtype=np.float64), 0.0)
    count = np.where(unit > 0, room_array / np.where(unit > 0, unit, 1.0) + 1e-9, PLENTY)
    return np.floor(np.minimum(count, PLENTY)).astype(np.int64)


class Fleet:
    """Replicas are added and removed here only, so that stock and limits always hold.

    While `reserving`, the rent and GPUs of running replicas that are not yet in the answer count as spent: growth
    elsewhere cannot push out a running replica, however low its class's priority.
    """

    def __init__(self, problem: AllocationProblem) -> None:
        self.problem = problem
        self.stock = Stock(problem)
        self.workloads = list(workloads(problem))
        self.reserving = True
        self._gpus_limited = bool(np.isfinite(problem.pool_gpu_limit).any())
        running = problem.running_replicas()
        self._rent = 0.0
        self._reserved_rent = float(problem.option_price_per_hour @ running)
        self._gpus = np.zeros(len(problem.pool_unlimited))
        self._reserved_gpus = np.zeros(len(problem.pool_unlimited))
        np.add.at(self._reserved_gpus, problem.option_pool, problem.option_demand[:, 0] * running)

    def allowance(self, workload: Workload) -> Allowance:
        """What fits beside all that is placed now, within every limit."""
        replicas = workload.replicas
        total = max(0, workload.max_replicas - int(replicas.sum()))
        places = np.maximum(workload.held - replicas, 0) + self.stock.room(workload.options)
        count = np.minimum(np.minimum(workload.option_max - replicas, total), places)
        unused = np.maximum(workload.running - replicas, 0)
        nothing = np.zeros_like(unused)
        rent_free = unused if self.reserving else nothing
        rent_room = self.problem.budget_per_hour - (self._reserved_rent if self.reserving else self._rent)
        counted = self.reserving or self.problem.keep_running
        gpu_room = self.problem.pool_gpu_limit - (self._reserved_gpus if counted else self._gpus)
        limit = rent_free + _affordable(rent_room, workload.price) if np.isfinite(rent_room) else nothing + PLENTY
        if self._gpus_limited:
            gpus = _affordable(gpu_room[workload.pool], workload.gpus)
            limit = np.minimum(limit, gpus + (unused if counted else nothing))
        if self.reserving and not workload.blocked:
            workload.blocked = bool((limit < np.minimum(count, workload.enough)).any())
        return Allowance(np.maximum(np.minimum(count, limit), 0), total, max(rent_room, 0.0), rent_free)

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
        places = {
            number: dict(self.stock.places[number])
            for number in workload.options[workload.replicas > 0].tolist()
            if number in self.stock.places
        }
        return Checkpoint(workload.replicas.copy(), workload.share.copy(), places)

    def restore(self, workload: Workload, checkpoint: Checkpoint) -> None:
        changed = np.flatnonzero((workload.replicas > 0) | (checkpoint.replicas > 0)).tolist()
        for option in changed:
            number = int(workload.options[option])
            self.stock.restore(number, checkpoint.places.get(number, {}))
            self._book(workload, option, int(checkpoint.replicas[option]))
        workload.share[:] = checkpoint.share

    def _book(self, workload: Workload, option: int, replicas: int) -> None:
        old, running = int(workload.replicas[option]), int(workload.running[option])
        pool, price, gpus = workload.pool[option], float(workload.price[option]), workload.gpus[option]
        above = max(replicas, running) - max(old, running)
        self._rent += price * (replicas - old)
        self._reserved_rent += price * above
        self._gpus[pool] += gpus * (replicas - old)
        self._reserved_gpus[pool] += gpus * above
        workload.replicas[option] = replicas
