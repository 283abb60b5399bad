"""The allocation problem as a mixed-integer program.

The paper's program (arXiv 2604.07472: x, y, q, w and the products of x and w) with options instead of configurations:
a share of traffic on one option is the product already, so the linearisation is exact and needs no further columns.
Replicas, running state and nodes are the additions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from plimsoll.allocation.limits import counts_running, use_of
from plimsoll.allocation.milp import INFINITY, Model
from plimsoll.allocation.packing import need_no_place
from plimsoll.allocation.problem import Allocation, AllocationProblem, Bools, Floats, Ints
from plimsoll.allocation.stock_rows import add_stock_rows, room_alone
from plimsoll.allocation.useful import useful_replicas

LEAST_LOAD = 1e-6
"""Part of a replica below which a class's load no longer forces a replica by itself."""
LEVEL_TOLERANCE = 1e-8
"""By which a stage that is decided may get worse in a later one, as a part of the largest rate."""

Terms = dict[int, float]
"""Columns and their coefficients in a row."""


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """Columns of the traffic of the classes that have any."""

    pairs: Ints
    share: Ints
    """Column of each of `pairs`."""
    classes: Ints
    unserved: Ints
    """Column of each of `classes`: unserved within the limit."""
    excess: Ints
    """Column of each of `classes`: unserved beyond the limit."""


def add_traffic(model: Model, problem: AllocationProblem, pairs: Ints, *, excess: bool, costs: bool = True) -> Traffic:
    """Columns for shares on these pairs and for unserved traffic; rows for demand and for mean delays and errors.

    Without `excess` nothing may stay unserved beyond its limit; without `costs` all costs are 0. Pairs of classes
    without traffic are left out: whatever they do costs nothing.
    """
    rate = problem.class_rate_per_hour
    pairs = pairs[rate[problem.pair_class[pairs]] > 0]
    number = problem.pair_class[pairs]
    classes = np.flatnonzero(rate > 0)
    limit = problem.class_unserved_limit[classes]
    factor = 1.0 if costs else 0.0
    seconds_per_hour = rate[number] * problem.pair_delay_seconds[pairs]
    penalty = problem.class_latency_penalty_per_request_second[number] * seconds_per_hour
    unserved_cost = factor * (problem.class_unserved_penalty_per_request * rate)[classes]
    share = model.add_columns(factor * (penalty + problem.pair_storage_cost_per_hour[pairs]), 0.0, 1.0)
    unserved = model.add_columns(unserved_cost, 0.0, limit)
    beyond = model.add_columns(unserved_cost, 0.0, np.maximum(1.0 - limit, 0.0) if excess else 0.0)
    demand = model.add_rows(1.0, 1.0, count=len(classes))
    model.add_entries(demand[np.searchsorted(classes, number)], share, 1.0)
    model.add_entries(demand, unserved, 1.0)
    model.add_entries(demand, beyond, 1.0)
    for limits, values in (
        (problem.class_mean_delay_limit_seconds, problem.pair_delay_seconds),
        (problem.class_mean_error_limit, problem.pair_error),
    ):
        _add_means(model, problem.means_over_all, limits, number, values[pairs], share)
    return Traffic(pairs, share, classes, unserved, beyond)


def _add_means(model: Model, over_all: bool, limits: Floats, number: Ints, values: Floats, share: Ints) -> None:
    """One row for each class that some option would bring above its limit."""
    above = values > limits[number]
    concerned = np.zeros(len(limits), dtype=bool)
    concerned[number[above]] = True
    if not concerned.any():
        return
    classes = np.flatnonzero(concerned)
    scale = np.where(limits[classes] > 0, limits[classes], 1.0)
    rows = model.add_rows(-INFINITY, limits[classes] / scale if over_all else 0.0, count=len(classes))
    used = concerned[number]
    index = np.searchsorted(classes, number[used])
    weight = values[used] if over_all else values[used] - limits[number[used]]
    model.add_entries(rows[index], share[used], weight / scale[index])


@dataclass(frozen=True, slots=True, eq=False)
class Formulation:
    """A model and where its columns are."""

    model: Model
    problem: AllocationProblem
    replicas: Ints
    """Column of each option."""
    traffic: Traffic
    _serving: Mapping[int, int]
    """Per option with spare replicas the column that is 1 where it serves any traffic."""
    _grown: Ints
    """Column of each option's replicas above the running number: of options that do not run, that of the replicas."""
    _shrunk: Mapping[int, int]
    _placed: Ints
    """Column of each option's replicas that need a place."""
    _held: Ints
    """Replicas of each option that need none."""
    _active: Mapping[int, tuple[Ints, Ints]]
    """Per column that tells whether options of a pair are active: these options, and their replica columns."""
    _flags: Mapping[int, Ints]
    """Per column that tells whether options grow: these options."""
    _short: Mapping[int, int]
    """Per deployment the column of replicas missing from the least number."""
    _nodes: Mapping[tuple[int, int], int] = field(default_factory=dict)
    """Column of the pieces of an option's new replicas on a node, where nodes are told apart."""

    def replicas_of(self, values: Floats) -> Ints:
        """Replicas per option (N,) of a solution."""
        replicas: Ints = np.rint(values[self.replicas]).astype(np.int64)
        return replicas

    def places_of(self, values: Floats) -> dict[int, dict[int, int]]:
        """Where pieces of replicas that need a place lie, by option and node, of options whose nodes are told apart."""
        missing = np.maximum(self.replicas_of(values) - self._held, 0) * self.problem.option_nodes
        places: dict[int, dict[int, int]] = {}
        for (option, node), column in self._nodes.items():
            count = min(round(float(values[column])), int(missing[option]))
            if count > 0:
                places.setdefault(option, {})[node] = count
                missing[option] -= count
        return places

    def start(self, allocation: Allocation) -> Floats:
        """A solution to start from."""
        problem, values = self.problem, np.zeros(self.model.columns)
        replicas, running = allocation.replicas, problem.running_replicas()
        for option, column in self._shrunk.items():
            values[column] = max(0, int(running[option] - replicas[option]))
        values[self._grown] = np.maximum(replicas - running, 0)
        values[self._placed] = np.maximum(replicas - self._held, 0)
        values[self.replicas] = replicas
        for column, (options, _) in self._active.items():
            values[column] = float((replicas[options] > 0).any())
        for column, options in self._flags.items():
            values[column] = float((replicas[options] > running[options]).any())
        for deployment, column in self._short.items():
            total = int(replicas[problem.option_deployment == deployment].sum())
            values[column] = max(0, int(problem.deployment_min_replicas[deployment]) - total)
        new = np.maximum(replicas - self._held, 0) * problem.option_nodes
        for option, node, count in allocation.packing.tolist():
            if (option, node) in self._nodes:
                values[self._nodes[option, node]] = min(count, new[option])
        traffic = self.traffic
        served = np.bincount(problem.pair_option[traffic.pairs], allocation.share[traffic.pairs] > 0, problem.options)
        for option, column in self._serving.items():
            values[column] = float(served[option] > 0)
        values[traffic.share] = allocation.share[traffic.pairs]
        unserved = allocation.unserved[traffic.classes]
        within = np.minimum(unserved, problem.class_unserved_limit[traffic.classes])
        values[traffic.unserved] = within
        values[traffic.excess] = unserved - within
        return values


def stages(problem: AllocationProblem) -> int:
    """Levels that come before the cost: unserved beyond the limits per priority, then replicas below least numbers."""
    return len(priorities(problem)) + 1


def priorities(problem: AllocationProblem) -> list[int]:
    """Priorities of the classes with traffic, highest first."""
    return sorted({int(value) for value in problem.class_priority[problem.class_rate_per_hour > 0]}, reverse=True)


def levels_of(problem: AllocationProblem, allocation: Allocation) -> tuple[float, ...]:
    """What an allocation reaches in each stage before the cost."""
    rate = problem.class_rate_per_hour
    beyond = rate * np.maximum(allocation.unserved - problem.class_unserved_limit, 0.0)
    levels = [
        float(beyond[(problem.class_priority == priority) & (rate > 0)].sum()) for priority in priorities(problem)
    ]
    total = np.bincount(problem.option_deployment, allocation.replicas, minlength=len(problem.deployment_min_replicas))
    return (*levels, float(np.maximum(_floors(problem) - total, 0).sum()))


def _floors(problem: AllocationProblem) -> Ints:
    """Least number of replicas per deployment (D,), reachable or not."""
    floors: Ints = np.minimum(problem.deployment_min_replicas, problem.deployment_max_replicas)
    return floors


def _most_replicas(problem: AllocationProblem) -> Ints:
    """Upper bounds of the replicas (N,)."""
    most: Ints = useful_replicas(problem)
    running = problem.running_replicas()
    most = np.minimum(most, need_no_place(problem) + room_alone(problem))
    if problem.keep_running:
        # Running replicas alone are above the pool's limit: nothing may grow there until they are gone.
        demand = problem.replica_gpus()
        gpus = np.bincount(problem.option_pool, demand * running, minlength=len(problem.pool_gpu_limit))
        stuck = (gpus > problem.pool_gpu_limit)[problem.option_pool] & (demand > 0)
        most[stuck] = np.minimum(most, running)[stuck]
    full = counts_running(problem) & (use_of(problem, running) > problem.limit_capacity)
    held = problem.use_option[full[problem.use_limit]]
    most[held] = np.minimum(most, running)[held]
    return most


def formulate(
    problem: AllocationProblem,
    *,
    levels: Sequence[float] | None = None,
    strong: bool = False,
    told_apart: Sequence[int] = (),
    cuts: Sequence[tuple[Floats, float]] = (),
) -> Formulation:
    """The problem's program.

    Args:
        problem: what to formulate.
        levels: upper limits of the first stages. With all of them (see `stages`) the objective is the cost; with fewer,
            the next stage's level. None: all levels 0 and the cost.
        strong: also require that a share is at most the replicas of its option: a better relaxation, more rows.
        told_apart: pools whose nodes get columns of their own, so that the solution is sure to fit the nodes.
        cuts: weights (N,) per new replica and their largest sum.
    """
    costs = levels is None or len(levels) == stages(problem)
    model = Model()
    traffic = add_traffic(model, problem, np.arange(problem.pairs), excess=levels is not None, costs=costs)
    builder = _Builder(problem, model, traffic, 1.0 if costs else 0.0)
    builder.add_capacity(strong)
    builder.add_floors(soft=levels is not None)
    builder.add_exclusion_and_storage()
    builder.add_budget()
    builder.add_pool_limits()
    builder.add_group_limits()
    nodes = add_stock_rows(model, problem, builder.placed, told_apart)
    for weights, most in cuts:
        used = np.flatnonzero(weights)
        model.add_row(builder.placed[used], weights[used], upper=most)
    if levels is not None:
        builder.add_levels(levels)
    return builder.done(nodes)


class _Builder:
    """Adds one kind of row after the other."""

    def __init__(self, problem: AllocationProblem, model: Model, traffic: Traffic, factor: float) -> None:
        self.problem, self.model, self.traffic, self.factor = problem, model, traffic, factor
        self.running = problem.running_replicas()
        self.most = _most_replicas(problem)
        change = np.where(self.running > 0, 0.0, problem.option_start_cost_per_hour)
        price = problem.option_price_per_hour + change
        self.replicas = model.add_columns(factor * price, 0.0, self.most, integer=True)
        self.grown, self.shrunk = self.replicas.copy(), {}
        runs = np.flatnonzero(self.running > 0)
        more = model.add_columns(
            factor * problem.option_start_cost_per_hour[runs], 0.0, np.maximum(self.most - self.running, 0)[runs]
        )
        less = model.add_columns(factor * problem.option_stop_cost_per_hour[runs], 0.0, self.running[runs])
        balance = model.add_rows(self.running[runs], self.running[runs])
        model.add_entries(balance, self.replicas[runs], 1.0)
        model.add_entries(balance, more, -1.0)
        model.add_entries(balance, less, 1.0)
        self.grown[runs] = more
        self.shrunk = dict(zip(runs.tolist(), less.tolist(), strict=True))
        self.placed, self.held = self._add_placed()
        self.stored: Terms = {}
        """Gigabytes per active column."""
        self.active: dict[int, tuple[Ints, Ints]] = {}
        self.flags: dict[int, Ints] = {}
        self.short: dict[int, int] = {}
        self.serving: dict[int, int] = {}

    def _add_placed(self) -> tuple[Ints, Ints]:
        """Columns (N,) of the replicas that need a place, and the replicas (N,) that need none."""
        problem, held = self.problem, need_no_place(self.problem)
        if problem.keep_running:
            return self.grown, held
        placed = self.replicas.copy()
        some = np.flatnonzero(held > 0)
        columns = self.model.add_columns(0.0, 0.0, np.maximum(self.most - held, 0)[some])
        rows = self.model.add_rows(-INFINITY, held[some])
        self.model.add_entries(rows, self.replicas[some], 1.0)
        self.model.add_entries(rows, columns, -1.0)
        placed[some] = columns
        return placed, held

    def add_capacity(self, strong: bool) -> None:
        problem, model, pairs = self.problem, self.model, self.traffic.pairs
        option = problem.pair_option[pairs]
        part = problem.pair_load[pairs] / problem.option_capacity[option]
        used = np.unique(option)
        index = np.searchsorted(used, option)
        for resource in range(problem.resources):
            rows = model.add_rows(-INFINITY, 0.0, count=len(used))
            model.add_entries(rows[index], self.traffic.share, part[:, resource])
            model.add_entries(rows, self.replicas[used], -1.0)
            self._add_spare(rows, used)
        spared = np.isin(option, list(self.serving))
        serves = model.add_rows(-INFINITY, 0.0, count=int(spared.sum()))
        model.add_entries(serves, self.traffic.share[spared], 1.0)
        model.add_entries(serves, np.array([self.serving[n] for n in option[spared].tolist()], dtype=np.int64), -1.0)
        largest = part.max(axis=1, initial=0.0)
        explicit = np.flatnonzero(largest < 1.0 if strong else largest < LEAST_LOAD)
        rows = model.add_rows(-INFINITY, 0.0, count=len(explicit))
        model.add_entries(rows, self.traffic.share[explicit], 1.0)
        model.add_entries(rows, self.replicas[option[explicit]], -1.0)

    def _add_spare(self, rows: Ints, options: Ints) -> None:
        """In an option's capacity row, its spare replicas, which carry nothing; and there must be more than these."""
        spare = self.problem.option_spare
        for row, option in zip(rows.tolist(), options.tolist(), strict=True):
            if not spare[option]:
                continue
            if option not in self.serving:
                column = self.serving[option] = int(self.model.add_columns(0.0, 0.0, 1.0, integer=True)[0])
                least = self.model.add_row([column], [float(spare[option] + 1)], upper=0.0)
                self.model.add_entries(least, self.replicas[option : option + 1], -1.0)
            self.model.add_entries(row, [self.serving[option]], float(spare[option]))

    def add_floors(self, *, soft: bool) -> None:
        problem, model = self.problem, self.model
        most = problem.deployment_max_replicas
        possible = np.bincount(problem.option_deployment, self.most, minlength=len(most))
        floor = _floors(problem)
        limited = (floor > 0) | (possible > most)
        deployments = np.flatnonzero(limited)
        rows = model.add_rows(floor[deployments], INFINITY)
        mine = np.flatnonzero(limited[problem.option_deployment])
        index = np.searchsorted(deployments, problem.option_deployment[mine])
        model.add_entries(rows[index], self.replicas[mine], 1.0)
        upper = model.add_rows(-INFINITY, most[deployments].astype(np.float64))
        model.add_entries(upper[index], self.replicas[mine], 1.0)
        if soft:
            short = model.add_columns(0.0, 0.0, floor[deployments])
            model.add_entries(rows, short, 1.0)
            self.short = dict(zip(deployments.tolist(), short.tolist(), strict=True))

    def add_exclusion_and_storage(self) -> None:
        problem, model = self.problem, self.model
        stores = problem.storage_price_per_gigabyte_hour > 0 or problem.storage_limit_gigabytes < INFINITY
        gigabytes = problem.option_storage_gigabytes if stores else np.zeros(problem.options)
        price = self.factor * problem.storage_price_per_gigabyte_hour
        open_options = np.flatnonzero(self.most > 0)
        pair = problem.option_pair[open_options]
        order = open_options[np.argsort(pair, kind="stable")]
        for options in np.split(order, np.flatnonzero(np.diff(problem.option_pair[order])) + 1):
            if not len(options) or not (problem.one_option_per_pair or gigabytes[options[0]] > 0):
                continue
            if problem.one_option_per_pair:
                columns = [self._activity(np.array([option]), price * gigabytes[option]) for option in options.tolist()]
                if len(columns) > 1:
                    model.add_row(columns, 1.0, upper=1.0)
            else:
                columns = [self._activity(options, price * gigabytes[options[0]])]
            if gigabytes[options[0]] > 0:
                self.stored |= dict.fromkeys(columns, float(gigabytes[options[0]]))
        if self.stored:
            self._limit_storage()

    def _activity(self, options: Ints, cost: float) -> int:
        """A 0-1 column that is 1 where any of the options has a replica; that of the replicas where that is enough."""
        if len(options) == 1 and self.most[options[0]] == 1:
            column = int(self.replicas[options[0]])
            if cost:
                self.model.add_cost(column, cost)
            return column
        column = int(self.model.add_columns(cost, 0.0, 1.0, integer=True)[0])
        rows = self.model.add_rows(-INFINITY, 0.0, count=len(options))
        self.model.add_entries(rows, self.replicas[options], 1.0)
        self.model.add_entries(rows, column, -self.most[options].astype(np.float64))
        self.active[column] = (options, self.replicas[options])
        return column

    def _limit_storage(self) -> None:
        limit = self.problem.storage_limit_gigabytes
        if limit == INFINITY:
            return
        now = self._stored_by(self.running > 0)
        self._add_limit(self.stored, limit, now, np.flatnonzero(self.most > self.running))

    def _stored_by(self, options: Bools) -> float:
        """Gigabytes stored where exactly these options are active."""
        used = np.flatnonzero(options)
        _, first = np.unique(self.problem.option_pair[used], return_index=True)
        return float(self.problem.option_storage_gigabytes[used[first]].sum())

    def add_budget(self) -> None:
        """Rent and storage within the budget; only growth of options that cost something has to keep it."""
        problem = self.problem
        if problem.budget_per_hour == INFINITY:
            return
        terms: Terms = dict(zip(self.replicas.tolist(), problem.option_price_per_hour.tolist(), strict=True))
        for column, gigabytes in self.stored.items():
            terms[column] = terms.get(column, 0.0) + gigabytes * problem.storage_price_per_gigabyte_hour
        pairs = self.traffic.pairs
        data = problem.pair_storage_cost_per_hour[pairs]
        terms |= dict(zip(self.traffic.share.tolist(), data.tolist(), strict=True))
        still = (self.running > 0) | ((problem.option_price_per_hour <= 0) & (self.most > 0))
        stored = problem.storage_price_per_gigabyte_hour * self._stored_by(still)
        dearest = np.zeros(problem.classes)
        kept = still[problem.pair_option[pairs]]
        np.maximum.at(dearest, problem.pair_class[pairs[kept]], data[kept])
        unchanged = float(problem.option_price_per_hour @ self.running) + stored + float(dearest.sum())
        paid = np.flatnonzero((problem.option_price_per_hour > 0) & (self.most > self.running))
        self._add_limit(terms, problem.budget_per_hour, unchanged, paid)

    def add_pool_limits(self) -> None:
        problem, gpus = self.problem, self.problem.replica_gpus()
        for pool in np.flatnonzero(np.isfinite(problem.pool_gpu_limit)).tolist():
            options = np.flatnonzero((problem.option_pool == pool) & (gpus > 0))
            if not len(options):
                continue
            limit, now = float(problem.pool_gpu_limit[pool]), float(gpus[options] @ self.running[options])
            if not problem.keep_running:
                terms = dict(zip(self.replicas[options].tolist(), gpus[options].tolist(), strict=True))
                self._add_limit(terms, limit, now, options[self.most[options] > self.running[options]])
            elif now <= limit:
                self.model.add_row(self.grown[options], gpus[options], upper=limit - now)

    def add_group_limits(self) -> None:
        problem, counts, now = self.problem, counts_running(self.problem), use_of(self.problem, self.running)
        for number, limit in enumerate(problem.limit_capacity.tolist()):
            mine = problem.use_limit == number
            options, amount = problem.use_option[mine], problem.use_amount[mine]
            if not len(options):
                continue
            if not counts[number]:
                terms = dict(zip(self.replicas[options].tolist(), amount.tolist(), strict=True))
                growing = options[self.most[options] > self.running[options]]
                self._add_limit(terms, limit, float(now[number]), growing)
            elif now[number] <= limit:
                scale = float(amount.max())
                self.model.add_row(self.grown[options], amount / scale, upper=(limit - float(now[number])) / scale)

    def _add_limit(self, terms: Terms, limit: float, unchanged: float, options: Ints) -> None:
        """A limit on a sum that only the growth of some options has to keep; `unchanged` is the most without growth."""
        if not len(options):
            return
        columns, values = np.array(list(terms), dtype=np.int64), np.array(list(terms.values()))
        # A replica that alone breaks the limit may count as little more than the limit: else it would drown the others.
        most = 2.0 * max(limit, unchanged)
        if most > 0:
            values = np.where(np.isin(columns, self.replicas), np.minimum(values, most), values)
        scale = max(1.0, float(np.abs(values).max()))
        if unchanged <= limit:
            self.model.add_row(columns, values / scale, upper=limit / scale)
            return
        flag = int(self.model.add_columns(0.0, 0.0, 1.0, integer=True)[0])
        self.flags[flag] = options
        rows = self.model.add_rows(-INFINITY, 0.0, count=len(options))
        self.model.add_entries(rows, self.grown[options], 1.0)
        self.model.add_entries(rows, flag, -(self.most - self.running)[options].astype(np.float64))
        row = self.model.add_row(columns, values / scale, upper=unchanged / scale)
        self.model.add_entries(row, flag, (unchanged - limit) / scale)

    def add_levels(self, levels: Sequence[float]) -> None:
        """Limits for the stages that are decided, and the next one as the objective."""
        problem, traffic = self.problem, self.traffic
        rate = problem.class_rate_per_hour[traffic.classes]
        sums: list[tuple[Ints, Floats]] = []
        for priority in priorities(problem):
            chosen = problem.class_priority[traffic.classes] == priority
            sums.append((traffic.excess[chosen], rate[chosen]))
        short = np.array(list(self.short.values()), dtype=np.int64)
        sums.append((short, np.ones(len(short))))
        for level, (columns, weights) in zip(levels, sums, strict=False):
            scale = max(1.0, float(weights.max(initial=0.0)))
            self.model.add_row(columns, weights / scale, upper=level / scale + LEVEL_TOLERANCE)
        if len(levels) < len(sums):
            columns, weights = sums[len(levels)]
            scale = max(1.0, float(weights.max(initial=0.0)))
            self.model.add_cost(columns, weights / scale)

    def done(self, nodes: Mapping[tuple[int, int], int]) -> Formulation:
        return Formulation(
            model=self.model,
            problem=self.problem,
            replicas=self.replicas,
            traffic=self.traffic,
            _serving=self.serving,
            _grown=self.grown,
            _shrunk=self.shrunk,
            _placed=self.placed,
            _held=self.held,
            _active=self.active,
            _flags=self.flags,
            _short=self.short,
            _nodes=nodes,
        )
