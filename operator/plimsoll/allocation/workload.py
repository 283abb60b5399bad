"""One deployment during a solve: its classes by options as dense arrays, its replicas and its traffic shares."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from plimsoll.allocation.problem import AllocationProblem, Bools, Floats, Ints

ROUNDING = 1e-9
"""Replicas and shares closer than this count as equal."""


@dataclass(slots=True, eq=False)
class Workload:
    """C classes and N options of one deployment. Arrays of shape (C, N) are by class and option."""

    classes: Ints
    options: Ints
    rate_per_hour: Floats
    priority: Ints
    unserved_limit: Floats
    unserved_cost: Floats
    """Cost per hour of leaving a whole class unserved, shape (C,)."""
    max_replicas: int
    min_replicas: int
    price: Floats
    capacity: Floats
    start_cost: Floats
    stop_cost: Floats
    gpus: Floats
    pool: Ints
    pair: Ints
    tensor: Ints
    pipeline: Ints
    option_max: Ints
    running: Ints
    held: Ints
    """Replicas per option that need no new place."""
    pair_index: Ints
    """Position of (class, option) among the problem's pairs; -1 where the option is not eligible."""
    load: Floats
    """Replicas' time that a whole class takes; inf where not eligible."""
    work: Floats
    """`load` with 0 where not eligible."""
    latency_cost: Floats
    """Penalty per hour when the whole class uses the option."""
    delay_seconds: Floats
    delay_excess: Floats
    """Delay above the class's mean limit; 0 where there is no limit."""
    error_excess: Floats
    sufficient: Bools
    """The option alone keeps the class's mean limits."""
    enough: Ints
    """Replicas of an option that could take all traffic."""
    replicas: Ints = field(init=False)
    share: Floats = field(init=False)
    blocked: bool = False
    """A limit that counts running replicas refused growth."""

    def __post_init__(self) -> None:
        self.replicas = np.zeros(len(self.options), dtype=np.int64)
        self.share = np.zeros(self.load.shape)

    def used_time(self) -> Floats:
        """Replicas' time in use per option, shape (N,)."""
        used: Floats = (self.share * self.work).sum(axis=0)
        return used

    def room(self) -> Floats:
        """Replicas' time that present replicas have left, shape (N,)."""
        return np.maximum(self.capacity * self.replicas - self.used_time(), 0.0)

    def used_options(self) -> list[int]:
        return np.flatnonzero(self.share.any(axis=0)).tolist()

    def unserved(self) -> Floats:
        rest: Floats = np.maximum(1.0 - self.share.sum(axis=1), 0.0)
        return rest

    def replica_cost(self, replicas: Ints) -> Floats:
        """Rent and change cost per option at these numbers of replicas."""
        growth = replicas - self.running
        cost: Floats = self.price * replicas
        cost += self.start_cost * np.maximum(growth, 0) + self.stop_cost * np.maximum(-growth, 0)
        return cost

    def objective(self) -> tuple[float, ...]:
        """Unserved requests beyond the limits by priority, highest first; then cost. Smaller is better."""
        unserved = self.unserved()
        excess = self.rate_per_hour * np.maximum(unserved - self.unserved_limit, 0.0)
        levels = [float(excess[self.priority == level].sum()) for level in np.unique(self.priority)[::-1]]
        cost = self.replica_cost(self.replicas).sum() + (self.share * self.latency_cost).sum()
        cost += self.unserved_cost @ unserved
        return (*(round(level, 6) for level in levels), round(float(cost), 9))


def replicas_for(time: Floats, capacity: Floats) -> Ints:
    """Whole replicas for this much replicas' time."""
    count = np.ceil(np.minimum(time / capacity, 1e9) - ROUNDING)
    return np.maximum(count, 0).astype(np.int64)


def _excess(value: Floats, limit: Floats, eligible: Bools) -> Floats:
    limited = np.isfinite(limit)[:, None] & eligible
    excess = np.where(limited, value - np.where(np.isfinite(limit), limit, 0.0)[:, None], 0.0)
    return np.where(np.abs(excess) <= 1e-12 * np.maximum(1.0, np.abs(value)), 0.0, excess)


def workloads(problem: AllocationProblem) -> Iterator[Workload]:
    """Every deployment that has options or classes, in order."""
    count = len(problem.deployment_max_replicas)
    running = problem.running_replicas()
    held = running
    if not problem.keep_running:
        unknown = problem.running[problem.running[:, 1] < 0]
        held = np.zeros(problem.options, dtype=np.int64)
        np.add.at(held, unknown[:, 0], unknown[:, 2])
    option_order = np.argsort(problem.option_deployment, kind="stable")
    option_ends = np.searchsorted(problem.option_deployment[option_order], np.arange(count + 1)).tolist()
    class_order = np.argsort(problem.class_deployment, kind="stable")
    class_ends = np.searchsorted(problem.class_deployment[class_order], np.arange(count + 1)).tolist()
    position = np.zeros(problem.options, dtype=np.int64)
    pair_ends = np.searchsorted(problem.pair_class, np.arange(problem.classes + 1)).tolist()
    for deployment in range(count):
        options = option_order[option_ends[deployment] : option_ends[deployment + 1]]
        classes = class_order[class_ends[deployment] : class_ends[deployment + 1]]
        position[options] = np.arange(len(options))
        pair_index = np.full((len(classes), len(options)), -1, dtype=np.int64)
        for row, number in enumerate(classes.tolist()):
            first, last = pair_ends[number], pair_ends[number + 1]
            pair_index[row, position[problem.pair_option[first:last]]] = np.arange(first, last)
        yield _workload(problem, deployment, classes, options, pair_index, running, held)


def _workload(
    problem: AllocationProblem,
    deployment: int,
    classes: Ints,
    options: Ints,
    pair_index: Ints,
    running: Ints,
    held: Ints,
) -> Workload:
    eligible = pair_index >= 0
    if problem.pairs:
        work = np.where(eligible, problem.pair_load[pair_index], 0.0)
        delay = np.where(eligible, problem.pair_delay_seconds[pair_index], 0.0)
        error = np.where(eligible, problem.pair_error[pair_index], 0.0)
    else:
        work, delay, error = (np.zeros(eligible.shape) for _ in range(3))
    rate = problem.class_rate_per_hour[classes]
    delay_excess = _excess(delay, problem.class_mean_delay_limit_seconds[classes], eligible)
    error_excess = _excess(error, problem.class_mean_error_limit[classes], eligible)
    capacity = problem.option_capacity[options]
    return Workload(
        classes=classes,
        options=options,
        rate_per_hour=rate,
        priority=problem.class_priority[classes],
        unserved_limit=problem.class_unserved_limit[classes],
        unserved_cost=problem.class_unserved_penalty_per_request[classes] * rate,
        max_replicas=int(problem.deployment_max_replicas[deployment]),
        min_replicas=int(problem.deployment_min_replicas[deployment]),
        price=problem.option_price_per_hour[options],
        capacity=capacity,
        start_cost=problem.option_start_cost_per_hour[options],
        stop_cost=problem.option_stop_cost_per_hour[options],
        gpus=problem.option_demand[options, 0],
        pool=problem.option_pool[options],
        pair=problem.option_pair[options],
        tensor=problem.option_tensor[options],
        pipeline=problem.option_pipeline[options],
        option_max=problem.option_max_replicas[options],
        running=running[options],
        held=held[options],
        pair_index=pair_index,
        load=np.where(eligible, work, np.inf),
        work=work,
        latency_cost=(problem.class_latency_penalty_per_request_second[classes] * rate)[:, None] * delay,
        delay_seconds=delay,
        delay_excess=delay_excess,
        error_excess=error_excess,
        sufficient=eligible & (delay_excess <= 0) & (error_excess <= 0),
        enough=replicas_for(work.sum(axis=0), capacity) + 1,
    )
