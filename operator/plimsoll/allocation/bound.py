"""A lower bound on an allocation's cost: Lagrangian, with multipliers from a linear program over few options.

The relaxation keeps, per option, "a share of a class needs a replica" (share <= replicas), one combined capacity row
and whole replicas; demand, mean limits, stock per pool, budget, storage and deployments' replicas are priced. For fixed
prices each option's best use is a fractional knapsack, found for all options at once by sorting. The prices are the
duals of a linear program over a pool of options, which takes in the options that pay at those prices, round by round.
Every round gives a valid bound, whatever the solver's tolerances; the best one counts. Where the bounds leave few
options that can improve on a known answer, a mixed-integer program over these proves more.
"""

from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation.formulation import formulate, levels_of
from plimsoll.allocation.milp import Model, SolverError, Status, solve_lp, solve_milp
from plimsoll.allocation.problem import GPU, Allocation, AllocationProblem, Bools, Floats, Ints
from plimsoll.allocation.reduce import restrict, undominated

ROUNDS = 60
ADDED_PER_ROUND = 24
"""At most so many pairs of model variant and pool give the linear program an option in one round."""
FIRST_CHOICES = ((1.0, 3, 2), (2.0, 2, 2))
"""Per class: factor on its mean limits, options by cost of work, options by cost of one class alone."""
VIOLATED = 1e-6
SMALL_PROGRAM = 3000
"""Shares up to which the program has all its rows at once."""
MOST_EFFORT = 50_000
"""Shares in all linear programs together, after which rounds end: some seconds."""
PATIENCE, LEAST_PROGRESS = 4, 1e-3
"""Rounds also end when the bound rose by less than this part over so many rounds."""
CLOSE_ENOUGH = 1e-4
"""Rounds end when the bound is within this part of the linear program's value, which no later round can pass."""
SMALL_REST = 800
"""Pairs of class and option up to which a mixed-integer program follows."""
REST_NODES, REST_WORK = 1000, 3000
FINE_GAP = 1e-3
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """What is proven of all feasible allocations that leave no class more unserved than its limit or the incumbent."""

    value_per_hour: float
    """None of them costs less."""
    with_option_per_hour: Floats
    """(N,): none of them that has a replica of the option costs less; inf where none can have one."""
    relaxed_replicas: Floats
    """(N,): replicas in the last linear program's solution, a hint at good options."""


def lower_bound(problem: AllocationProblem, incumbent: Allocation) -> float:
    """Cost per hour that no feasible allocation is below that leaves each class at most as much unserved as its limit.

    Where the incumbent leaves more of a class unserved than its limit, so may the others. Where few enough options can
    improve on the incumbent, a mixed-integer program over these raises the bound.
    """
    kept = undominated(problem) | (incumbent.replicas > 0)
    part = restrict(problem, kept)
    lowered = part.lower(incumbent)
    if lowered is None:
        raise ValueError("the incumbent uses an option that was left out")
    return raised(part.problem, lowered, option_bounds(part.problem, lowered))


def raised(problem: AllocationProblem, incumbent: Allocation, bounds: Bounds) -> float:
    """The bound, by a mixed-integer program over the options that can improve on the incumbent if these are few.

    `bounds` must be proven for all that may stay as unserved as the incumbent leaves it.
    """
    cost = incumbent.cost.total
    if bounds.value_per_hour >= cost * (1 - FINE_GAP):
        return bounds.value_per_hour
    left = (bounds.with_option_per_hour < cost) | (problem.running_replicas() > 0)
    if int(left[problem.pair_option].sum()) > SMALL_REST:
        return bounds.value_per_hour
    return max(bounds.value_per_hour, min(cost, _bound_of_rest(problem, incumbent, left)))


def _bound_of_rest(problem: AllocationProblem, incumbent: Allocation, options: Bools) -> float:
    """Of allocations that use these options only; -inf where nothing is proven."""
    without_floors = replace(problem, deployment_min_replicas=np.zeros_like(problem.deployment_min_replicas))
    levels = levels_of(without_floors, incumbent)
    part = restrict(without_floors, options)
    formulation = formulate(part.problem, levels=None if max(levels) <= 0 else [level + ROUNDING for level in levels])
    if not formulation.model.columns:
        return -np.inf
    start = part.lower(incumbent)
    result = solve_milp(
        formulation.model,
        start=None if start is None else formulation.start(start),
        nodes=REST_NODES,
        work=REST_WORK,
        relative_gap=FINE_GAP,
    )
    return result.bound


def option_bounds(problem: AllocationProblem, incumbent: Allocation) -> Bounds:
    """The bound, and one for each option's use: options whose own bound exceeds a known cost cannot improve on it.

    Args:
        problem: what to bound.
        incumbent: a feasible allocation; the first options to look at, and what may stay unserved.
    """
    relaxation = _Relaxation(problem, incumbent)
    best, forced = -np.inf, np.full(problem.options, -np.inf)
    history: list[float] = []
    pool = _first_pool(problem, incumbent, relaxation.most_replicas)
    for _ in range(ROUNDS):
        prices = relaxation.prices(np.flatnonzero(pool))
        if prices is None:
            prices = _Prices.zero(problem)
        value, using, worth = relaxation.evaluate(prices)
        best, forced = max(best, value), np.maximum(forced, using)
        new = _paying(problem, worth, pool)
        if prices.complete and (not len(new) or best >= prices.value - CLOSE_ENOUGH * max(1.0, abs(prices.value))):
            break
        history.append(best)
        if relaxation.effort > MOST_EFFORT:
            break
        if len(history) > PATIENCE and best - history[-PATIENCE - 1] < LEAST_PROGRESS * max(1.0, abs(best)):
            break
        pool[new] = True
    return Bounds(best, np.maximum(forced, best), relaxation.replicas)


def _first_pool(problem: AllocationProblem, incumbent: Allocation, most_replicas: Ints) -> Bools:
    """The incumbent's options, what runs, and each class's cheapest ones by unit of work and alone.

    Once among those that keep its mean limits by themselves, once up to twice as slow and as faulty, for mixing.
    """
    pool = (incumbent.replicas > 0) | (problem.running_replicas() > 0)
    usable = np.flatnonzero(most_replicas[problem.pair_option] > 0)
    option, number = problem.pair_option[usable], problem.pair_class[usable]
    fill = (problem.pair_load[usable] / problem.option_capacity[option]).max(axis=1, initial=0.0)
    dense = problem.option_price_per_hour[option] * fill
    alone = problem.option_price_per_hour[option] * np.maximum(fill, 1.0)
    for factor, few_dense, few_alone in FIRST_CHOICES:
        fits = problem.pair_error[usable] <= factor * problem.class_mean_error_limit[number]
        fits &= problem.pair_delay_seconds[usable] <= factor * problem.class_mean_delay_limit_seconds[number]
        for key, few in ((dense, few_dense), (alone, few_alone)):
            chosen = np.flatnonzero(fits)
            chosen = chosen[np.lexsort((option[chosen], key[chosen], number[chosen]))]
            rank = np.arange(len(chosen)) - np.searchsorted(number[chosen], number[chosen])
            pool[option[chosen[rank < few]]] = True
    return pool


def _paying(problem: AllocationProblem, worth: Floats, pool: Bools) -> Ints:
    """Options outside the pool that use their pair best, where that gains more than the pool's options do."""
    pairs, number = np.unique(problem.option_pair, return_inverse=True)
    inside = np.zeros(len(pairs))
    np.minimum.at(inside, number[pool], worth[pool])
    gain = worth - inside[number] if problem.one_option_per_pair else worth
    outside = np.flatnonzero(~pool & (gain < -ROUNDING))
    order = outside[np.argsort(gain[outside], kind="stable")]
    _, first = np.unique(number[order], return_index=True)
    chosen: Ints = order[np.sort(first)][:ADDED_PER_ROUND]
    return chosen


@dataclass(frozen=True, slots=True, eq=False)
class _Prices:
    """Multipliers of the priced rows, none above 0 but the demand's; `value` is the linear program's objective."""

    value: float
    complete: bool
    """Whether the solution kept all rows, so that no prices give a bound above `value`."""
    demand: Floats
    delay: Floats
    error: Floats
    stock: Floats
    """(K, 3), per unit of what a pool's nodes have."""
    gpus: Floats
    """(K,), per GPU under a pool's limit."""
    replicas: Floats
    """(D,)"""
    budget: float
    storage: float

    @classmethod
    def zero(cls, problem: AllocationProblem) -> "_Prices":
        pools, deployments = len(problem.pool_unlimited), len(problem.deployment_max_replicas)
        nothing = np.zeros(problem.classes)
        stock, gpus, replicas = np.zeros((pools, 3)), np.zeros(pools), np.zeros(deployments)
        return cls(-np.inf, True, nothing, nothing, nothing, stock, gpus, replicas, 0.0, 0.0)


class _Relaxation:
    """The problem's rows as the bound sees them, and the two things done with them: price them, and evaluate prices."""

    def __init__(self, problem: AllocationProblem, incumbent: Allocation) -> None:
        self.problem = problem
        self.running = problem.running_replicas()
        limit = np.maximum(problem.class_unserved_limit, incumbent.unserved)
        self.most_unserved = np.minimum(limit, 1.0)
        self.stock, fitting = _stock(problem)
        self.most_replicas = np.minimum(
            np.minimum(problem.option_max_replicas, problem.deployment_max_replicas[problem.option_deployment]), fitting
        )
        self.gpu_limit = np.maximum(problem.pool_gpu_limit, _gpus(problem, self.running))
        self.budget, self.storage = _spending_limits(problem, self.running)
        rate = problem.class_rate_per_hour
        self.unserved_cost = problem.class_unserved_penalty_per_request * rate
        penalty = problem.class_latency_penalty_per_request_second * rate
        self.share_cost = penalty[problem.pair_class] * problem.pair_delay_seconds + problem.pair_storage_cost_per_hour
        # Mean limits: coefficient of a share, and the right-hand side.
        self.delay, self.delay_limit = _mean(
            problem, problem.pair_delay_seconds, problem.class_mean_delay_limit_seconds
        )
        self.error, self.error_limit = _mean(problem, problem.pair_error, problem.class_mean_error_limit)
        self.slots = _slots(problem)
        # Part of one replica that the whole class takes, per resource; how an option combines the resources.
        self.fill = problem.pair_load / problem.option_capacity[problem.pair_option]
        # A large program takes in a row "share <= replicas" once a solution breaks it: few ever do.
        self.explicit = np.zeros(problem.pairs, dtype=bool)
        self.replicas = np.zeros(problem.options)
        """Of the last program's solution."""
        self.effort = 0
        """Shares in all linear programs so far."""
        self.spare = _spare(problem)
        self.weights = np.zeros((problem.options, problem.resources))
        self.weights[:, 0] = 1.0

    def prices(self, options: Ints) -> _Prices | None:
        """Duals of the linear program over these options; None where it has no solution.

        Also remembers how the program weighs the options' resources against each other.
        """
        problem, model = self.problem, Model()
        inside = np.zeros(problem.options, dtype=np.int64) - 1
        inside[options] = np.arange(len(options))
        pairs = np.flatnonzero(inside[problem.pair_option] >= 0)
        everything = len(pairs) <= SMALL_PROGRAM
        self.effort += len(pairs)
        number, place = problem.pair_class[pairs], inside[problem.pair_option[pairs]]
        share = model.add_columns(self.share_cost[pairs])
        unserved = model.add_columns(self.unserved_cost, 0.0, self.most_unserved)
        price, most = problem.option_price_per_hour[options], self.most_replicas[options]
        running = self.running[options]
        replicas = model.add_columns(price, 0.0, np.maximum(most, 0))
        growth = model.add_columns(problem.option_start_cost_per_hour[options])
        shrinking = np.flatnonzero(running > 0)
        shrink = model.add_columns(problem.option_stop_cost_per_hour[options[shrinking]])
        change = model.add_rows(running, running, count=len(options))
        model.add_entries(change, replicas, 1.0)
        model.add_entries(change, growth, -1.0)
        model.add_entries(change[shrinking], shrink, 1.0)
        demand = model.add_rows(1.0, 1.0, count=problem.classes)
        model.add_entries(demand[number], share, 1.0)
        model.add_entries(demand, unserved, 1.0)
        means = []
        for coefficient, limit in ((self.delay, self.delay_limit), (self.error, self.error_limit)):
            rows = model.add_rows(upper=limit)
            limited = np.isfinite(limit[number])
            model.add_entries(rows[number[limited]], share[limited], coefficient[pairs[limited]])
            means.append(rows)
        capacity = model.add_rows(upper=0.0, count=len(options) * problem.resources).reshape(
            len(options), problem.resources
        )
        for resource in range(problem.resources):
            model.add_entries(capacity[place, resource], share, self.fill[pairs, resource])
            model.add_entries(capacity[:, resource], replicas, -1.0)
        explicit = np.arange(len(pairs)) if everything else np.flatnonzero(self.explicit[pairs])
        needs = model.add_rows(upper=0.0, count=len(explicit))
        model.add_entries(needs, share[explicit], 1.0)
        model.add_entries(needs, replicas[place[explicit]], -1.0)
        pool, wanted = problem.option_pool[options], problem.replica_demand()[options]
        taking = growth if problem.keep_running else replicas
        scale = np.where(np.isfinite(self.stock) & (self.stock > 0), self.stock, 1.0)
        stock = model.add_rows(upper=(self.stock / scale).ravel()).reshape(-1, 3)
        for resource in range(3):
            model.add_entries(stock[pool, resource], taking, wanted[:, resource] / scale[pool, resource])
        gpus = model.add_rows(upper=self.gpu_limit)
        model.add_entries(gpus[pool], taking, wanted[:, GPU])
        deployment = model.add_rows(upper=problem.deployment_max_replicas.astype(np.float64))
        model.add_entries(deployment[problem.option_deployment[options]], replicas, 1.0)
        scale_money = self.budget if np.isfinite(self.budget) and self.budget > 0 else 1.0
        budget = model.add_row(replicas, price / scale_money, upper=self.budget / scale_money)
        model.add_entries(budget, share, problem.pair_storage_cost_per_hour[pairs] / scale_money)
        scale_disk = self.storage if np.isfinite(self.storage) and self.storage > 0 else 1.0
        storage = int(model.add_rows(upper=self.storage / scale_disk, count=1)[0])
        self._add_stored(model, options, pairs, share, replicas, (budget, scale_money), (storage, scale_disk))
        if not model.columns:
            return None
        try:
            result = solve_lp(model)
        except SolverError:
            return None
        if result.status is not Status.OPTIMAL:
            return None
        self.replicas = np.zeros(problem.options)
        self.replicas[options] = result.values[replicas]
        excess = result.values[share] - result.values[replicas[place]]
        violated = pairs[excess > VIOLATED]
        self.explicit[violated] = True
        dual = result.row_duals
        at_most = np.minimum(dual, 0.0)
        weights = -at_most[capacity]
        total = weights.sum(axis=1)
        known = total > ROUNDING
        self.weights[options[known]] = weights[known] / total[known, None]
        return _Prices(
            value=result.objective,
            complete=not len(violated),
            demand=dual[demand],
            delay=at_most[means[0]],
            error=at_most[means[1]],
            stock=at_most[stock] / scale,
            gpus=at_most[gpus],
            replicas=at_most[deployment],
            budget=float(at_most[budget]) / scale_money,
            storage=float(at_most[storage]) / scale_disk,
        )

    def _add_stored(
        self,
        model: Model,
        options: Ints,
        pairs: Ints,
        share: Ints,
        replicas: Ints,
        budget: tuple[int, float],
        storage: tuple[int, float],
    ) -> None:
        """Columns for the pairs (model variant, pool) that are stored, and the rows that tie them to the options."""
        problem = self.problem
        names, first, place = np.unique(problem.option_pair[options], return_index=True, return_inverse=True)
        gigabytes = problem.option_storage_gigabytes[options[first]]
        if not problem.one_option_per_pair and not gigabytes.any():
            return
        cost = problem.storage_price_per_gigabyte_hour * gigabytes
        stored = model.add_columns(cost, 0.0, 1.0)
        model.add_entries(budget[0], stored, cost / budget[1])
        model.add_entries(storage[0], stored, gigabytes / storage[1])
        if problem.one_option_per_pair:
            rows = model.add_rows(upper=0.0, count=len(names))
            model.add_entries(rows[place], replicas, 1.0 / np.maximum(self.most_replicas[options], 1))
            model.add_entries(rows, stored, -1.0)
            return
        inside = np.full(problem.options, -1)
        inside[options] = place
        keys = problem.pair_class[pairs] * len(names) + inside[problem.pair_option[pairs]]
        unique, row_of = np.unique(keys, return_inverse=True)
        rows = model.add_rows(upper=0.0, count=len(unique))
        model.add_entries(rows[row_of], share, 1.0)
        model.add_entries(rows, stored[unique % len(names)], -1.0)

    def evaluate(self, prices: _Prices) -> tuple[float, Floats, Floats]:
        """The Lagrangian's value, its value when an option must be used (N,), and what the option's use adds (N,)."""
        problem = self.problem
        number = problem.pair_class
        reduced = self.share_cost - prices.demand[number] - prices.budget * problem.pair_storage_cost_per_hour
        reduced -= prices.delay[number] * self.delay + prices.error[number] * self.error
        deployment, pool = problem.option_deployment, problem.option_pool
        rent = problem.option_price_per_hour * (1.0 - prices.budget) - prices.replicas[deployment]
        wanted = problem.replica_demand()
        taken = -(prices.stock[pool] * wanted).sum(axis=1)
        taken -= prices.gpus[pool] * wanted[:, GPU]
        start = problem.option_start_cost_per_hour.copy()
        if problem.keep_running:
            start += taken
        else:
            rent += taken
        unused, used = self._uses(-reduced, rent, start)
        stored = problem.storage_price_per_gigabyte_hour * (1.0 - prices.budget) - prices.storage
        disk = stored * problem.option_storage_gigabytes
        total, using, worth = self._by_pair(used - unused, disk)
        constant = (
            prices.demand.sum() + (self.most_unserved * np.minimum(0.0, self.unserved_cost - prices.demand)).sum()
        )
        for price, limit in (
            (prices.delay, self.delay_limit),
            (prices.error, self.error_limit),
            (prices.stock, self.stock),
            (prices.gpus, self.gpu_limit),
            (prices.replicas, problem.deployment_max_replicas),
            (np.array([prices.budget, prices.storage]), np.array([self.budget, self.storage])),
        ):
            priced = price < 0
            constant += float((price[priced] * limit[priced]).sum())
        value = float(constant + unused.sum() + total)
        return value, value + using, worth

    def _uses(self, gain: Floats, rent: Floats, start: Floats) -> tuple[Floats, Floats]:
        """Per option what it adds with no replica, and at least with one or more (inf where it can have none)."""
        problem = self.problem
        gain = np.append(gain, 0.0)[self.slots]
        size = np.append((self.fill * self.weights[problem.pair_option]).sum(axis=1), 0.0)[self.slots]
        gain = np.maximum(gain, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            density = np.where(gain > 0, gain / size, -1.0)
        order = np.argsort(-density, axis=1, kind="stable")
        gain, size = np.take_along_axis(gain, order, axis=1), np.take_along_axis(size, order, axis=1)
        density = np.take_along_axis(density, order, axis=1)
        before = np.cumsum(size, axis=1) - size
        most = self.most_replicas.astype(np.float64)
        price = rent + np.where(self.running > 0, 0.0, start)
        # Whole replicas: what pays by density, rounded either way.
        paying = np.where(density > price[:, None], size, 0.0).sum(axis=1)
        # With a replica that serves nobody, which spare ones may be, or with some that serve beside the spare ones.
        used = np.where(self.spare > 0, price * np.where(price > 0, 1.0, np.maximum(most, 1.0)), np.inf)
        for count in np.unique([np.floor(paying), np.ceil(paying)], axis=0):
            replicas = np.clip(count, 1.0, np.maximum(most - self.spare, 1.0))
            used = np.minimum(used, price * (replicas + self.spare) - _served(gain, size, before, replicas))
        unused = np.zeros(problem.options)
        for option in np.flatnonzero(self.running > 0).tolist():
            runs = int(self.running[option])
            spare = int(self.spare[option])
            top = max(1, int(min(most[option], max(runs, spare + np.ceil(size[option].sum() + ROUNDING)))))
            replicas = np.arange(1.0, top + 1.0)
            cost = rent[option] * replicas + start[option] * np.maximum(replicas - runs, 0.0)
            cost += problem.option_stop_cost_per_hour[option] * np.maximum(runs - replicas, 0.0)
            served = _served(gain[option], size[option], before[option], np.maximum(replicas - spare, 0.0))
            served = np.where(replicas > spare, served, 0.0)
            unused[option] = problem.option_stop_cost_per_hour[option] * runs
            used[option] = (cost - served).min()
        used[most < 1] = np.inf
        return unused, used

    def _by_pair(self, added: Floats, disk: Floats) -> tuple[float, Floats, Floats]:
        """Sum over (model variant, pool) pairs of the best use; per option what it loses if forced, and its worth."""
        problem = self.problem
        names, number = np.unique(problem.option_pair, return_inverse=True)
        if problem.one_option_per_pair:
            worth = added + disk
            best = np.zeros(len(names))
            np.minimum.at(best, number, worth)
            return float(best.sum()), worth - best[number], worth
        together = np.zeros(len(names))
        np.maximum.at(together, number, disk)
        np.add.at(together, number, np.minimum(added, 0.0))
        best = np.minimum(together, 0.0)
        using = together[number] + np.maximum(added, 0.0) - best[number]
        return float(best.sum()), using, added


def _spare(problem: AllocationProblem) -> Ints:
    """Spare replicas (N,) as far as no class without traffic may use the option: such a one may use spare ones."""
    idle = problem.class_rate_per_hour[problem.pair_class] <= 0
    spare = problem.option_spare.copy()
    spare[problem.pair_option[idle]] = 0
    return spare


def _served(gain: Floats, size: Floats, before: Floats, replicas: Floats) -> Floats:
    """Gain of a fractional knapsack of this many replicas; items (..., W) by falling density."""
    room = replicas[:, None] - before
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(size > 0, np.clip(room / size, 0.0, 1.0), 1.0)
    total: Floats = (gain * part).sum(axis=1)
    return total


def _slots(problem: AllocationProblem) -> Ints:
    """(N, W): numbers of each option's pairs, filled up with P."""
    order = np.argsort(problem.pair_option, kind="stable")
    counts = np.bincount(problem.pair_option, minlength=problem.options)
    place = np.arange(problem.pairs) - np.repeat(np.cumsum(counts) - counts, counts)
    slots = np.full((problem.options, int(counts.max(initial=0))), problem.pairs)
    slots[problem.pair_option[order], place] = order
    return slots


def _mean(problem: AllocationProblem, values: Floats, limit: Floats) -> tuple[Floats, Floats]:
    """A mean limit as a row over shares: coefficients (P,), right-hand sides (I,), inf where there is no limit."""
    if problem.means_over_all:
        return values, limit
    finite = np.where(np.isfinite(limit), limit, 0.0)
    return values - finite[problem.pair_class], np.where(np.isfinite(limit), 0.0, np.inf)


def _stock(problem: AllocationProblem) -> tuple[Floats, Ints]:
    """What new replicas can take in each pool (K, 3), inf where not known; and most replicas per option by nodes (N,).

    With `keep_running` beside what runs at known nodes, else from all that is free; replicas that run at unknown nodes
    need no place.
    """
    pools = len(problem.pool_unlimited)
    free = problem.node_free.copy()
    known = problem.running[problem.running[:, 1] >= 0]
    unknown = np.zeros(problem.options, dtype=np.int64)
    rows = problem.running[problem.running[:, 1] < 0]
    np.add.at(unknown, rows[:, 0], rows[:, 2])
    unknown //= problem.option_nodes
    if problem.keep_running:
        np.subtract.at(free, known[:, 1], problem.option_demand[known[:, 0]] * known[:, 2:3])
    free = np.maximum(free, 0.0)
    stock = np.zeros((pools, 3))
    np.add.at(stock, problem.node_pool, free)
    kept = problem.running_replicas() if problem.keep_running else unknown
    if not problem.keep_running:
        np.add.at(stock, problem.option_pool, problem.replica_demand() * unknown[:, None])
    fitting = kept.astype(np.float64)
    for pool in range(pools):
        options = np.flatnonzero(problem.option_pool == pool)
        nodes = free[problem.node_pool == pool]
        demand = problem.option_demand[options]
        with np.errstate(divide="ignore", invalid="ignore"):
            each = np.where(demand[:, None] > 0, nodes / demand[:, None] * (1 + 1e-6) + 1e-6, np.inf).min(axis=2)
        each = np.minimum(each, problem.option_per_node[options, None])
        fitting[options] += np.floor(np.floor(each).sum(axis=1) / problem.option_nodes[options])
    stock[problem.pool_unlimited] = np.inf
    fitting[problem.pool_unlimited[problem.option_pool]] = np.inf
    return stock, np.minimum(fitting, np.iinfo(np.int32).max).astype(np.int64)


def _gpus(problem: AllocationProblem, replicas: Ints) -> Floats:
    weights = replicas * problem.replica_gpus()
    gpus: Floats = np.bincount(problem.option_pool, weights, minlength=len(problem.pool_gpu_limit)).astype(np.float64)
    return gpus


def _spending_limits(problem: AllocationProblem, running: Ints) -> tuple[float, float]:
    """Budget and storage limit as all feasible allocations keep them: neither demands that running replicas go."""
    runs = running > 0
    free = problem.option_price_per_hour <= 0

    def stored(options: Bools) -> float:
        _, first = np.unique(problem.option_pair[options], return_index=True)
        return float(problem.option_storage_gigabytes[options][first].sum())

    data = np.zeros(problem.classes)
    np.maximum.at(data, problem.pair_class, problem.pair_storage_cost_per_hour)
    without_growth = float(problem.option_price_per_hour @ running) + float(data.sum())
    without_growth += problem.storage_price_per_gigabyte_hour * stored(runs | free)
    return max(problem.budget_per_hour, without_growth), max(problem.storage_limit_gigabytes, stored(runs))
