"""One answer for every deployment out of known ones, so that together they keep what couples them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from plimsoll.allocation.decomposition_columns import Found, Prices, joined
from plimsoll.allocation.decomposition_parts import Table
from plimsoll.allocation.decomposition_rows import Rows
from plimsoll.allocation.milp import LinearProgram, Model, solve_milp
from plimsoll.allocation.problem import Bools, Floats, Ints

_OUTWEIGHS = 20.0
"""How much dearer a request beyond its limit is made than the dearest way to serve one, per priority."""
_MOST_WEIGHT = 1e7
"""Largest weight of a whole class, so that the linear program's numbers stay apart by less than its precision."""
_MILP_WORK = 40
_MILP_GAP = 1e-3


def excess_weights(table: Table) -> Floats:
    """(I,): what a class costs per hour when all of it is unserved beyond its limit; outweighs cost, by priority."""
    problem = table.problem
    rate = problem.class_rate_per_hour
    unit = problem.option_price_per_hour + problem.option_start_cost_per_hour
    cost = unit[problem.pair_option] * np.ceil(np.minimum(table.pair_need, 1e9)) + table.pair_share_cost
    dearest = np.zeros(problem.classes)
    first = np.flatnonzero(np.diff(problem.pair_class, prepend=-1))
    dearest[problem.pair_class[first]] = np.maximum.reduceat(cost, first) if len(first) else 0.0
    per_request = np.where(rate > 0, dearest / np.where(rate > 0, rate, 1.0), 0.0)
    per_request += problem.class_unserved_penalty_per_request
    typical = float(np.median(per_request[rate > 0])) if (rate > 0).any() else 0.0
    _, level = np.unique(problem.class_priority, return_inverse=True)
    weight: Floats = _OUTWEIGHS * max(typical, 1e-9) * _OUTWEIGHS ** np.minimum(level, 3) * rate
    most = _MOST_WEIGHT * max(1.0, float(dearest.max(initial=0.0)))
    limited: Floats = np.minimum(np.maximum(weight, _OUTWEIGHS * dearest), most)
    return limited


@dataclass(eq=False)
class Store:
    """Columns of all deployments with cost and use, without duplicates and what breaks a deployment's own limits."""

    table: Table
    rows: Rows
    weight: Floats
    """(I,)"""

    def __post_init__(self) -> None:
        problem = self.table.problem
        self._parts: list[Found] = []
        self._seen = np.zeros(0, dtype=np.uint64)
        count = len(problem.deployment_max_replicas)
        running = self.table.running
        stop = problem.option_stop_cost_per_hour * running
        self.stop_all = np.bincount(problem.option_deployment, stop, minlength=count)
        """(D,): cost of stopping all that runs."""
        unserved = problem.class_unserved_penalty_per_request * problem.class_rate_per_hour
        self._unserved = unserved
        active = self.table.classes
        owner = problem.class_deployment[active]
        self._column_of = np.full(problem.classes, 0, dtype=np.int64)
        self._column_of[active] = np.arange(len(active)) - self.table.class_ends[owner]
        self.floor_weight = 10.0 * float(problem.option_price_per_hour.max(initial=1.0)) + 1.0
        self.deployment = np.zeros(0, dtype=np.int64)
        self.cost = np.zeros(0)
        """(J,): true cost per hour."""
        self.penalty = np.zeros(0)
        """(J,): weights for demand beyond its limit and for replicas below the floor."""
        self.spending = np.zeros(0)
        self.unserved = np.zeros((0, max(1, self.table.width)))
        """(J, C): unserved share by class of the deployment."""
        self.use: tuple[Ints, Ints, Floats] = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        """Entries (column, row, value)."""

    def __len__(self) -> int:
        return len(self.deployment)

    def found(self) -> Found:
        """All columns."""
        if len(self._parts) > 1:
            self._parts = [joined(self._parts)]
        return self._parts[0]

    def add(self, parts: list[Found]) -> int:
        """Take new columns; returns how many are new."""
        if not parts:
            return 0
        found = joined(parts)
        found = found.taking(np.flatnonzero(self._allowed(found)))
        found = found.taking(self._new(found))
        before, count = len(self), len(found.deployment)
        if not count:
            return 0
        self._price(found)
        column, row, value = self._use(found)
        self.use = tuple(np.concatenate(pair) for pair in zip(self.use, (column + before, row, value), strict=True))  # type: ignore[assignment]
        self._parts.append(found)
        return count

    def _allowed(self, found: Found) -> Bools:
        problem = self.table.problem
        total = np.bincount(found.replica_column, found.replica_count, minlength=len(found.deployment))
        allowed: Bools = total <= problem.deployment_max_replicas[found.deployment]
        allowed[found.replica_column[found.replica_count > problem.option_max_replicas[found.replica_option]]] = False
        return allowed

    def _new(self, found: Found) -> Ints:
        """The first of each that was not there before, by a digest of its entries."""
        digest = _mixed(found.deployment.astype(np.uint64) + np.uint64(1))
        replica = _mixed((found.replica_option * 100_003 + found.replica_count).astype(np.uint64))
        share = np.round(found.share * 1e7).astype(np.int64)
        share = _mixed((found.share_pair * 20_000_003 + share).astype(np.uint64) ^ np.uint64(1 << 62))
        np.add.at(digest, found.replica_column, replica)
        np.add.at(digest, found.share_column, share)
        _, first = np.unique(digest, return_index=True)
        first = np.sort(first[~np.isin(digest[first], self._seen)])
        self._seen = np.concatenate((self._seen, digest[first]))
        return first

    def _price(self, found: Found) -> None:
        problem, table = self.table.problem, self.table
        count = len(found.deployment)
        option, replicas, at = found.replica_option, found.replica_count, found.replica_column
        rent = problem.option_price_per_hour[option] * replicas
        running = table.running[option]
        change = problem.option_start_cost_per_hour[option] * np.maximum(replicas - running, 0)
        change -= problem.option_stop_cost_per_hour[option] * np.minimum(replicas, running)
        spending = np.bincount(at, rent, minlength=count)
        cost = np.bincount(at, change, minlength=count) + self.stop_all[found.deployment]
        if problem.storage_price_per_gigabyte_hour > 0:
            keys = np.stack((at, problem.option_pair[option]), axis=1)
            _, first = np.unique(keys, axis=0, return_index=True)
            stored = problem.option_storage_gigabytes[option[first]] * problem.storage_price_per_gigabyte_hour
            spending += np.bincount(at[first], stored, minlength=count)
        pair, share, at = found.share_pair, found.share, found.share_column
        data = problem.pair_storage_cost_per_hour[pair] * share
        spending += np.bincount(at, data, minlength=count)
        latency = (table.pair_share_cost[pair] - problem.pair_storage_cost_per_hour[pair]) * share
        cost += spending + np.bincount(at, latency, minlength=count)
        width = self.unserved.shape[1]
        place = at * width + self._column_of[problem.pair_class[pair]]
        served = np.bincount(place, share, minlength=count * width).reshape(count, width)
        owner = found.deployment
        number = table.class_ends[owner][:, None] + np.arange(width)
        there = number < table.class_ends[owner + 1][:, None]
        classes = table.classes[np.where(there, number, 0)] if len(table.classes) else np.zeros_like(number)
        unserved = np.where(there, np.maximum(1.0 - served, 0.0), 0.0)
        unserved[unserved < 1e-9] = 0.0
        if len(table.classes):
            cost += (unserved * self._unserved[classes]).sum(axis=1)
            limit = np.clip(problem.class_unserved_limit[classes], 0.0, 1.0)
            penalty = (np.maximum(unserved - limit, 0.0) * self.weight[classes]).sum(axis=1)
        else:
            penalty = np.zeros(count)
        total = np.bincount(found.replica_column, found.replica_count, minlength=count)
        penalty += self.floor_weight * np.maximum(problem.deployment_min_replicas[owner] - total, 0)
        self.deployment = np.concatenate((self.deployment, owner))
        self.cost = np.concatenate((self.cost, cost))
        self.penalty = np.concatenate((self.penalty, penalty))
        self.spending = np.concatenate((self.spending, spending))
        self.unserved = np.concatenate((self.unserved, unserved))

    def _use(self, found: Found) -> tuple[Ints, Ints, Floats]:
        if not len(self.rows.limit) or not len(found.replica_option):
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
        position, row, value = self.rows.entries(found.replica_option, found.replica_count)
        key = found.replica_column[position] * len(self.rows.limit) + row
        keys, inverse = np.unique(key, return_inverse=True)
        value = np.bincount(inverse, value, minlength=len(keys)).astype(np.float64)
        return keys // len(self.rows.limit), keys % len(self.rows.limit), value

    def use_of(self, chosen: Ints) -> Floats:
        """What these columns take of each row together, (Q,)."""
        wanted = np.zeros(len(self), dtype=bool)
        wanted[chosen] = True
        column, row, value = self.use
        use = np.bincount(row[wanted[column]], value[wanted[column]], minlength=len(self.rows.limit))
        return use.astype(np.float64)

    def unserved_at(self, cost: Floats) -> Floats:
        """(J,): what the columns leave unserved at a cost per whole class (I,)."""
        table = self.table
        if not len(table.classes) or not cost.any():
            return np.zeros(len(self))
        number = table.class_ends[self.deployment][:, None] + np.arange(self.unserved.shape[1])
        classes = table.classes[np.minimum(number, len(table.classes) - 1)]
        total: Floats = (self.unserved * cost[classes]).sum(axis=1)
        return total

    def at_prices(self, prices: Prices) -> Floats:
        """(J,): cost with what the columns pay for the rows and for spending, without penalties."""
        column, row, value = self.use
        paid = np.bincount(column, value * prices.row[row], minlength=len(self))
        return self.cost + paid + prices.spending * self.spending


def _mixed(value: np.ndarray) -> np.ndarray:
    """Splitmix64: spreads 64-bit numbers."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = value ^ (value >> np.uint64(31))
    return mixed


class Master:
    """The linear program over the store's columns; grows with it."""

    def __init__(
        self,
        store: Store,
        deployments: int,
        budget: float,
        *,
        cost: Callable[[], Floats],
        allowed: Callable[[], Bools] | None = None,
    ) -> None:
        """`cost` (J,) of the store's columns, and which of them may be used (all by default)."""
        self._store = store
        self._cost = cost
        self._count = deployments
        self._q = len(store.rows.limit)
        self._budget = budget
        model = Model()
        model.add_rows(1.0, 1.0, count=deployments)
        if self._q:
            model.add_rows(-np.inf, store.rows.limit)
        if np.isfinite(budget):
            model.add_rows(-np.inf, budget, count=1)
        self._model = model
        self._program: LinearProgram | None = None
        self.columns = np.zeros(0, dtype=np.int64)
        """The store's numbers of the program's columns."""
        self._next = 0
        self._allowed = allowed

    def solve(self) -> tuple[Floats, Floats, Prices]:
        """Values of the columns, duals of the deployments (D,), prices of rows and budget."""
        store = self._store
        new = np.arange(self._next, len(store))
        if self._allowed is not None:
            new = new[self._allowed()[new]]
        self._next = len(store)
        cost = self._cost()[new]
        local = np.full(len(store), -1, dtype=np.int64)
        local[new] = np.arange(len(new))
        column, row, value = store.use
        mine = local[column] >= 0
        rows = [store.deployment[new], self._count + row[mine]]
        columns = [np.arange(len(new)), local[column[mine]]]
        values = [np.ones(len(new)), value[mine]]
        if np.isfinite(self._budget):
            rows.append(np.full(len(new), self._count + self._q))
            columns.append(np.arange(len(new)))
            values.append(store.spending[new])
        if self._program is None:
            names = self._model.add_columns(cost)
            self._model.add_entries(np.concatenate(rows), names[np.concatenate(columns)], np.concatenate(values))
            self._program = LinearProgram(self._model)
        elif len(new):
            self._program.add_columns(
                cost, 0.0, np.inf, np.concatenate(rows), np.concatenate(columns), np.concatenate(values)
            )
        self.columns = np.concatenate((self.columns, new))
        result = self._program.solve()
        duals = result.row_duals
        spending = -float(duals[-1]) if np.isfinite(self._budget) else 0.0
        prices = Prices(np.maximum(-duals[self._count : self._count + self._q], 0.0), max(spending, 0.0))
        return result.values, duals[: self._count], prices


def round_columns(
    store: Store, chosen: Ints, free: Bools, candidates: Ints, limit: Floats, budget: float, seconds: float
) -> Ints:
    """The free deployments' best choice among their candidate columns beside what all others have.

    Among the candidates of each is one that takes nothing.

    Args:
        store: all columns.
        chosen: column of each deployment, (D,).
        free: deployments that may change, (D,).
        candidates: columns that may be chosen, of free deployments only.
        limit: of the rows, (Q,).
        budget: for all spending.
        seconds: guard of wall-clock time.
    """
    others = chosen[~free]
    left = np.maximum(limit - store.use_of(others), 0.0)
    model = Model()
    names = np.flatnonzero(free)
    number = np.full(len(free), -1, dtype=np.int64)
    number[names] = np.arange(len(names))
    column = model.add_columns(store.cost[candidates] + store.penalty[candidates], 0.0, 1.0, integer=True)
    model.add_rows(1.0, 1.0, count=len(names))
    model.add_entries(number[store.deployment[candidates]], column, 1.0)
    local = np.full(len(store), -1, dtype=np.int64)
    local[candidates] = column
    at, row, value = store.use
    mine = local[at] >= 0
    if len(limit):
        first = model.add_rows(-np.inf, left)[0]
        model.add_entries(first + row[mine], local[at[mine]], value[mine])
    if np.isfinite(budget):
        model.add_row(column, store.spending[candidates], upper=max(0.0, budget - float(store.spending[others].sum())))
    spendable = max(0.0, budget - float(store.spending[others].sum()))
    start = _one_after_the_other(store, candidates, left, spendable)
    taken = candidates[start]
    values = np.zeros(len(candidates))
    values[start] = 1.0
    result = solve_milp(model, start=values, work=_MILP_WORK, relative_gap=_MILP_GAP, seconds=seconds)
    if result.values is not None:
        taken = candidates[result.values[column] > 0.5]
    answer = chosen.copy()
    answer[store.deployment[taken]] = taken
    return answer


def _one_after_the_other(store: Store, candidates: Ints, left: Floats, spendable: float) -> Ints:
    """Positions of one candidate per deployment: who has most at stake chooses first, each the best that still fits."""
    value = store.cost[candidates] + store.penalty[candidates]
    owner = store.deployment[candidates]
    use = np.zeros((len(candidates), len(left)))
    local = np.full(len(store), -1, dtype=np.int64)
    local[candidates] = np.arange(len(candidates))
    at, row, amount = store.use
    mine = local[at] >= 0
    np.add.at(use, (local[at[mine]], row[mine]), amount[mine])
    left = left.copy()
    names, number = np.unique(owner, return_inverse=True)
    worst, best = np.full(len(names), -np.inf), np.full(len(names), np.inf)
    np.maximum.at(worst, number, value)
    np.minimum.at(best, number, value)
    chosen = []
    for name in np.argsort(best - worst, kind="stable").tolist():
        own = np.flatnonzero(number == name)
        for position in own[np.argsort(value[own], kind="stable")].tolist():
            fits = (use[position] <= left + 1e-9).all() and store.spending[candidates[position]] <= spendable + 1e-9
            if fits or not use[position].any():
                chosen.append(position)
                left = np.maximum(left - use[position], 0.0)
                spendable -= float(store.spending[candidates[position]])
                break
    return np.array(chosen, dtype=np.int64)
