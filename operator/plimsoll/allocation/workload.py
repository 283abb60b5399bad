"""One deployment during a solve: its classes by options as dense arrays, its replicas and its traffic shares."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from plimsoll.allocation.limits import dense
from plimsoll.allocation.packing import need_no_place
from plimsoll.allocation.problem import AllocationProblem, Bools, Floats, Ints

ROUNDING = 1e-9
"""Replicas and shares closer than this count as equal."""
LEAST_SHARE = 0.02
"""An option opened for a class must be able to take at least this much of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Where the classes go, restricted to the options with replicas; see `Workload.traffic`."""

    options: Ints
    share: Floats
    used: Floats
    served: Floats
    means: Floats
    cost: float
    storage: float


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """Options that a class could open, with what they cost and take: one row each."""

    options: Ints
    pair: Ints
    spent: Floats
    """Rent and storage of the first replica, which the budget limits."""
    added: Floats
    """The same with change cost."""
    gigabytes: Floats
    reach: Floats
    """Share of the class that one replica can take; above 1 where it has room to spare."""
    traffic_cost: Floats
    storage_cost: Floats


@dataclass(eq=False)
class Workload:
    """C classes and N options of one deployment, R resources. Arrays of shape (C, N) are by class and option.

    Resources are counted in replicas: a replica of an option has 1.0 of each.
    """

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
    start_cost: Floats
    stop_cost: Floats
    stored_gigabytes: Floats
    storage_price: float
    """Per gigabyte and hour."""
    exclusive: bool
    """At most one option of a pair may have replicas."""
    gpus: Floats
    """Of a whole replica."""
    nodes: Ints
    """Pieces of a replica."""
    spare: Ints
    """Replicas that carry nothing while the option serves any traffic."""
    pool: Ints
    pair: Ints
    """Pairs of model variant and pool, numbered from 0 within the workload."""
    tensor: Ints
    pipeline: Ints
    option_max: Ints
    running: Ints
    held: Ints
    """Replicas per option that need no new place."""
    pair_index: Ints
    """Position of (class, option) among the problem's pairs; -1 where the option is not eligible."""
    load: Floats
    """(R, C, N): replicas that a whole class takes; inf where not eligible."""
    work: Floats
    """`load` with 0 where not eligible."""
    traffic_cost: Floats
    """Latency penalty and data storage per hour when the whole class uses the option."""
    storage_cost: Floats
    """Data storage alone, which counts to the budget."""
    delay_seconds: Floats
    mean_terms: Floats
    """(2, C, N): what a whole class on the option adds to its mean delay and to its mean error."""
    mean_bounds: Floats
    """(2, C): shares times terms must not exceed this; 0 where the terms count from the limit."""
    sufficient: Bools
    """The option alone keeps the class's mean limits."""
    acceptable: Bools
    """The option alone keeps the class's mean error."""
    enough: Ints
    """Replicas of an option that could take all traffic."""
    limits: Ints
    """Those of the problem's limits of groups of options that count any of these."""
    limit_use: Floats
    """(limits, N): what one replica takes."""
    replicas: Ints = field(init=False)
    pair_replicas: Ints = field(init=False)
    share: Floats = field(init=False)
    used: Floats = field(init=False)
    """(R, N): replicas' worth of each resource in use."""
    served: Floats = field(init=False)
    means: Floats = field(init=False)
    """(2, C): present sums of shares times `mean_terms`."""
    share_cost: float = field(init=False, default=0.0)
    """Present sum of shares times `traffic_cost`."""
    share_storage_cost: float = field(init=False, default=0.0)
    blocked: bool = False
    """A limit that counts running replicas refused growth."""
    promises: list[tuple[int, int]] = field(default_factory=list)
    """During GH's phase 1: class (row) and the option that it counts on."""
    barred_pair: int = -1
    """Its options are not offered for the moment."""

    def __post_init__(self) -> None:
        self.replicas = np.zeros(len(self.options), dtype=np.int64)
        self.pair_replicas = np.zeros(int(self.pair.max(initial=-1)) + 1, dtype=np.int64)
        self.share = np.zeros(self.work.shape[1:])
        self.used = np.zeros((self.work.shape[0], len(self.options)))
        self.served = np.zeros(len(self.classes))
        self.means = np.zeros(self.mean_bounds.shape)

    @cached_property
    def unlimited_means(self) -> bool:
        """No class has a mean limit."""
        return not self.mean_terms.any()

    @cached_property
    def piecewise(self) -> bool:
        """A large class needs several pairs, since a pair has one replica of one option."""
        return self.exclusive and bool((self.option_max <= 1).all())

    @cached_property
    def stores(self) -> bool:
        """Opening a pair costs storage."""
        return bool(self.storage_price > 0 and self.stored_gigabytes.any())

    @cached_property
    def stores_data(self) -> bool:
        return bool(self.storage_cost.any())

    @cached_property
    def least_traffic_cost(self) -> Floats:
        """The least that a whole class costs beside replicas, shape (C,)."""
        cost: Floats = np.where(np.isfinite(self.load[0]), self.traffic_cost, np.inf).min(axis=1, initial=np.inf)
        return cost

    @cached_property
    def runs(self) -> bool:
        return bool(self.running.any())

    @cached_property
    def changes(self) -> bool:
        """Leaving the running state costs something."""
        return bool(self.start_cost.any() or (self.runs and self.stop_cost.any()))

    def assign(self, row: int, option: int, share: float) -> None:
        """Let the option take this much more of the class; below zero, less."""
        self.share[row, option] += share
        self.used[:, option] += self.work[:, row, option] * share
        self.means[:, row] += self.mean_terms[:, row, option] * share
        self.served[row] += share
        self.share_cost += float(self.traffic_cost[row, option]) * share
        self.share_storage_cost += float(self.storage_cost[row, option]) * share

    def withdraw(self, row: int, option: int) -> float:
        """Take the class off the option; the share that it had there."""
        share = float(self.share[row, option])
        self.assign(row, option, -share)
        self.share[row, option] = 0.0
        if not self.share[:, option].any():
            self.used[:, option] = 0.0
        return share

    def room(self, options: Ints | None = None) -> Floats:
        """(R, options): what present replicas have left of each resource, in replicas."""
        if options is None:
            return np.maximum(self.replicas - self.spare - self.used, 0.0)
        return np.maximum(self.replicas[options] - self.spare[options] - self.used[:, options], 0.0)

    def lacking(self, options: Ints) -> Ints:
        """Replicas to add to each option before one more carries anything."""
        lacking: Ints = np.maximum(self.spare[options] - self.replicas[options], 0)
        return lacking

    def closed(self, options: Ints) -> Bools:
        """Options of which no replica carries anything."""
        closed: Bools = self.replicas[options] <= self.spare[options]
        return closed

    def active(self) -> Ints:
        """Options with replicas."""
        return np.flatnonzero(self.replicas)

    def used_options(self) -> list[int]:
        active = self.active()
        used: list[int] = active[self.share[:, active].any(axis=0)].tolist()
        return used

    def unserved(self) -> Floats:
        rest: Floats = np.maximum(1.0 - self.served, 0.0)
        return rest

    def traffic(self) -> Traffic:
        """All traffic, to go back to with `set_traffic`."""
        active = self.active()
        return Traffic(
            active,
            self.share[:, active],
            self.used[:, active],
            self.served.copy(),
            self.means.copy(),
            self.share_cost,
            self.share_storage_cost,
        )

    def set_traffic(self, traffic: Traffic) -> None:
        """Call it before the replicas change: present traffic is looked for where replicas are."""
        active = self.active()
        self.share[:, active] = 0.0
        self.used[:, active] = 0.0
        self.share[:, traffic.options] = traffic.share
        self.used[:, traffic.options] = traffic.used
        self.served[:] = traffic.served
        self.means[:] = traffic.means
        self.share_cost = traffic.cost
        self.share_storage_cost = traffic.storage

    def replica_cost(self, replicas: Ints) -> Floats:
        """Rent and change cost per option at these numbers of replicas."""
        cost: Floats = self.price * replicas
        if self.changes:
            growth = replicas - self.running
            cost += self.start_cost * np.maximum(growth, 0) + self.stop_cost * np.maximum(-growth, 0)
        return cost

    def opening_cost(self, options: Ints) -> Floats:
        """Storage per hour that a first replica of each option brings."""
        closed = self.pair_replicas[self.pair[options]] == 0
        cost: Floats = self.storage_price * self.stored_gigabytes[options] * closed
        return cost

    def missing_replicas(self) -> int:
        """Replicas below the deployment's least number."""
        return max(0, self.min_replicas - int(self.replicas.sum()))

    def stored(self) -> float:
        """Gigabytes stored: one copy for each pair with replicas."""
        active = self.active()
        _, first = np.unique(self.pair[active], return_index=True)
        return float(self.stored_gigabytes[active[first]].sum())

    def cost(self) -> float:
        """All cost per hour."""
        if self.runs:
            cost = float(self.replica_cost(self.replicas).sum())
        else:
            active = self.active()
            cost = float((self.price[active] + self.start_cost[active]) @ self.replicas[active])
        if self.stores:
            cost += self.storage_price * self.stored()
        return cost + self.share_cost + float(self.unserved_cost @ self.unserved())

    def objective(self) -> tuple[float, ...]:
        """Unserved requests beyond the limits by priority, highest first; then cost. Smaller is better."""
        excess = self.rate_per_hour * np.maximum(self.unserved() - self.unserved_limit, 0.0)
        levels = [float(excess[self.priority == level].sum()) for level in self._levels]
        return (*(round(level, 6) for level in levels), round(self.cost(), 9))

    @cached_property
    def _levels(self) -> list[int]:
        levels: list[int] = np.unique(self.priority)[::-1].tolist()
        return levels

    @cached_property
    def _by_pair(self) -> tuple[Ints, Ints]:
        """Options sorted by pair, then GPUs, pipeline and tensor degree; and where each pair begins."""
        order = np.lexsort((np.arange(len(self.options)), self.tensor, self.pipeline, self.gpus, self.pair))
        begins = np.searchsorted(self.pair[order], np.arange(len(self.pair_replicas)))
        return order, begins

    def siblings(self, option: int) -> Ints:
        """All options of the option's pair, the smallest first."""
        order, begins = self._by_pair
        pair = int(self.pair[option])
        end = begins[pair + 1] if pair + 1 < len(begins) else len(order)
        return order[begins[pair] : end]

    def larger(self, option: int) -> list[int]:
        """Options of the same pair and pipeline degree with a larger tensor degree, the smallest first."""
        found = self._larger.get(option)
        if found is None:
            same = self.siblings(option)
            fits = (self.pipeline[same] == self.pipeline[option]) & (self.tensor[same] > self.tensor[option])
            found = self._larger[option] = same[fits].tolist()
        return found

    @cached_property
    def _larger(self) -> dict[int, list[int]]:
        return {}

    def mixed(self, row: int) -> bool:
        """Options that miss a mean limit took so much of the class that others cannot count on all of the limit."""
        allowed = self.mean_bounds[:, row] * self.served[row]
        return bool((self.means[:, row] > allowed + ROUNDING).any())

    def keeps_means(self) -> bool:
        """Every class's mean delay and mean error are within the limits."""
        return bool((self.means <= self.mean_bounds + ROUNDING).all())

    def suitable(self, row: int, options: Ints) -> Bools:
        """Options that may take all that is left of the class, or any part of it, whatever takes the rest."""
        fits: Bools = self.sufficient[row, options]
        if self.mixed(row):
            rest = max(0.0, 1.0 - float(self.served[row]))
            after = self.means[:, row, None] + rest * self.mean_terms[:, row, options]
            fits = fits & (after <= self.mean_bounds[:, row, None] + ROUNDING).all(axis=0)
        return fits

    def choices(self, row: int, options: Ints) -> Choices:
        """What the class finds at these options where their pairs are not in use yet."""
        spent = self.price[options] + self.storage_price * self.stored_gigabytes[options]
        change = np.where(self.running[options] > 0, -self.stop_cost[options], self.start_cost[options])
        return Choices(
            options,
            self.pair[options],
            spent,
            spent + change,
            self.stored_gigabytes[options],
            1.0 / np.maximum(self.load[:, row, options].max(axis=0), 1e-300),
            self.traffic_cost[row, options],
            self.storage_cost[row, options],
        )

    @cached_property
    def first_choices(self) -> list[Choices]:
        """M1's choices per class."""
        return [self.choices(row, options) for row, options in enumerate(self.cheapest_configurations)]

    @cached_property
    def smallest_choices(self) -> list[Choices]:
        """What there is without M1, per class."""
        return [self.choices(row, options) for row, options in enumerate(self.smallest_configurations)]

    @cached_property
    def cheapest_configurations(self) -> list[Ints]:
        """M1, per class: of every pair the cheapest option that can take a useful share and keeps the mean limits."""
        useful = self.sufficient & (self.option_max > 0)
        for load in self.load:
            useful &= load <= 1.0 / LEAST_SHARE
        return self._least_per_pair(np.where(useful, self.price + self.traffic_cost, np.inf))

    @cached_property
    def smallest_configurations(self) -> list[Ints]:
        """Per class: of every pair the smallest option, whatever its delay."""
        order, _ = self._by_pair
        position = np.zeros(len(order))
        position[order] = np.arange(len(order))
        return self._least_per_pair(np.where(self.acceptable & (self.option_max > 0), position, np.inf))

    def _least_per_pair(self, key: Floats) -> list[Ints]:
        order, begins = self._by_pair
        if not len(order):
            return [order for _ in self.classes]
        key = key[:, order]
        counts = np.diff(np.append(begins, len(order)))
        least = np.repeat(np.minimum.reduceat(key, begins, axis=1), counts, axis=1)
        # The first in the pair's order wins between equals; rounding must not decide.
        best = np.where(np.isfinite(key) & (key <= least + 1e-12 * np.abs(least)), np.arange(len(order)), len(order))
        first = np.minimum.reduceat(best, begins, axis=1)
        return [order[row[row < len(order)]] for row in first]


def replicas_for(needed: Floats) -> Ints:
    """Whole replicas where each resource (first axis) needs this many."""
    most = needed[0] if len(needed) == 1 else needed.max(axis=0)
    count: Ints = np.maximum(np.ceil(np.minimum(most, 1e9) - ROUNDING), 0).astype(np.int64)
    return count


def _terms(value: Floats, limit: Floats, eligible: Bools, over_all: bool) -> tuple[Floats, Floats]:
    """Terms (C, N) and bounds (C,) of one mean limit."""
    limited = np.isfinite(limit)
    finite = np.where(limited, limit, 0.0)
    if over_all:
        return (value if limited.all() else np.where(limited[:, None], value, 0.0)), finite
    excess = np.where(limited[:, None] & eligible, value - finite[:, None], 0.0)
    excess = np.where(np.abs(excess) <= 1e-12 * np.maximum(1.0, np.abs(value)), 0.0, excess)
    return excess, np.zeros(len(limit))


def workloads(problem: AllocationProblem) -> Iterator[Workload]:
    """Every deployment that has options or classes, in order."""
    count = len(problem.deployment_max_replicas)
    common = _Common.of(problem)
    all_options = _by_owner(problem.option_deployment, count)
    all_classes = _by_owner(problem.class_deployment, count)
    all_uses = _by_owner(problem.option_deployment[problem.use_option], count)
    position = np.zeros(problem.options, dtype=np.int64)
    pair_ends = np.searchsorted(problem.pair_class, np.arange(problem.classes + 1)).tolist()
    for deployment, (options, classes, uses) in enumerate(zip(all_options, all_classes, all_uses, strict=True)):
        if not len(options) and not len(classes):
            continue
        position[options] = np.arange(len(options))
        pair_index = np.full((len(classes), len(options)), -1, dtype=np.int64)
        for row, number in enumerate(classes.tolist()):
            first, last = pair_ends[number], pair_ends[number + 1]
            pair_index[row, position[problem.pair_option[first:last]]] = np.arange(first, last)
        yield _workload(problem, deployment, classes, options, pair_index, uses, common)


def _by_owner(owner: Ints, count: int) -> list[Ints]:
    """Rows of each owner, in order."""
    order = np.argsort(owner, kind="stable")
    return np.split(order, np.searchsorted(owner[order], np.arange(1, count)))


@dataclass(frozen=True, slots=True, eq=False)
class _Common:
    """What is the same for all deployments of a problem."""

    running: Ints
    held: Ints
    gpus: Floats
    stores_data: bool

    @classmethod
    def of(cls, problem: AllocationProblem) -> "_Common":
        stores_data = bool(problem.pair_storage_cost_per_hour.any())
        return cls(problem.running_replicas(), need_no_place(problem), problem.replica_gpus(), stores_data)


def _workload(
    problem: AllocationProblem,
    deployment: int,
    classes: Ints,
    options: Ints,
    pair_index: Ints,
    uses: Ints,
    common: _Common,
) -> Workload:
    eligible = pair_index >= 0
    all_eligible = bool(eligible.all())

    def by_class(values: Floats) -> Floats:
        if not problem.pairs:
            return np.zeros(eligible.shape)
        dense = values[pair_index]
        return dense if all_eligible else np.where(eligible, dense, 0.0)

    loads = np.stack([by_class(problem.pair_load[:, resource]) for resource in range(problem.resources)])
    work = loads / np.where(eligible.any(axis=0), problem.option_capacity[options].T, 1.0)[:, None, :]
    delay, error = by_class(problem.pair_delay_seconds), by_class(problem.pair_error)
    storage_cost = by_class(problem.pair_storage_cost_per_hour) if common.stores_data else np.zeros(eligible.shape)
    rate = problem.class_rate_per_hour[classes]
    delay_limit = problem.class_mean_delay_limit_seconds[classes]
    error_limit = problem.class_mean_error_limit[classes]
    delay_terms, delay_bounds = _terms(delay, delay_limit, eligible, problem.means_over_all)
    error_terms, error_bounds = _terms(error, error_limit, eligible, problem.means_over_all)
    acceptable = eligible & (error_terms <= error_bounds[:, None])
    traffic_cost = (problem.class_latency_penalty_per_request_second[classes] * rate)[:, None] * delay
    limits, limit_use = dense(problem, options, uses)
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
        start_cost=problem.option_start_cost_per_hour[options],
        stop_cost=problem.option_stop_cost_per_hour[options],
        stored_gigabytes=problem.option_storage_gigabytes[options],
        storage_price=problem.storage_price_per_gigabyte_hour,
        exclusive=problem.one_option_per_pair,
        gpus=common.gpus[options],
        nodes=problem.option_nodes[options],
        spare=problem.option_spare[options],
        pool=problem.option_pool[options],
        pair=np.unique(problem.option_pair[options], return_inverse=True)[1].reshape(-1),
        tensor=problem.option_tensor[options],
        pipeline=problem.option_pipeline[options],
        option_max=problem.option_max_replicas[options],
        running=common.running[options],
        held=common.held[options],
        pair_index=pair_index,
        load=work if all_eligible else np.where(eligible, work, np.inf),
        work=work,
        traffic_cost=traffic_cost + storage_cost if common.stores_data else traffic_cost,
        storage_cost=storage_cost,
        delay_seconds=delay,
        mean_terms=np.stack((delay_terms, error_terms)),
        mean_bounds=np.stack((delay_bounds, error_bounds)),
        sufficient=acceptable & (delay_terms <= delay_bounds[:, None]),
        acceptable=acceptable,
        enough=replicas_for(work.sum(axis=1)) + 1 + problem.option_spare[options],
        limits=limits,
        limit_use=limit_use,
    )
