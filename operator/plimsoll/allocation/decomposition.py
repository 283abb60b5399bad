"""Many deployments at once: what couples them gets prices, and each deployment answers for itself.

Answers of single deployments (columns) at changing prices go into a linear program over stock, GPU limits and budget;
its prices call for more answers. A small integer program settles the few deployments that the linear program leaves
torn. The bound is Lagrangian: what each deployment must pay at the prices (`decomposition_bound`), less what the limits
are worth.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from plimsoll.allocation.decomposition_bound import Covering
from plimsoll.allocation.decomposition_columns import Finder, Found, Prices
from plimsoll.allocation.decomposition_fill import attach_idle, fill
from plimsoll.allocation.decomposition_master import Master, Store, excess_weights, round_columns
from plimsoll.allocation.decomposition_mixes import mixing
from plimsoll.allocation.decomposition_parts import Batch, Memory, Table
from plimsoll.allocation.decomposition_rows import coupling_rows
from plimsoll.allocation.decomposition_stay import pack_anew
from plimsoll.allocation.evaluate import cost_of, stored_gigabytes
from plimsoll.allocation.guard import RemainingSeconds, endless
from plimsoll.allocation.packing import answer as packed
from plimsoll.allocation.problem import Allocation, AllocationProblem, Bools, Floats, Ints, Solution

__all__ = ["DecomposedSolution", "Memory", "solve_decomposed"]

_PRICE_STEPS = 14
_ROUNDS = 4
_PART_ROUNDS = 2
_PARTS_OF_STOCK = (1.0, 0.97, 0.9)
"""Of every row's limit; the smaller ones where an answer that keeps the rows does not fit the nodes."""
_FEWER = (1, 2, 3, 5, 8, 13, 21)
"""Replicas that a partly served deployment may lack."""
_MOVABLE = 8
"""Deployments beside the torn ones that may change in the integer program."""
_ALTERNATIVES = 10
"""Columns per deployment that the integer program may choose from, beside those of the linear program."""


@dataclass(frozen=True, slots=True, eq=False)
class DecomposedSolution(Solution):
    """A solution with a second bound, which matters where demand stays unserved beyond its limit."""

    lower_bound_as_served_per_hour: float = float("-inf")
    """No feasible allocation that leaves of every class, which is short here, the same share unserved costs less."""

    @property
    def gap_as_served(self) -> float:
        """Part of the cost that an allocation could save at most that serves the same."""
        return replace(self, lower_bound_per_hour=self.lower_bound_as_served_per_hour).gap


def solve_decomposed(
    problem: AllocationProblem,
    starts: Sequence[Allocation],
    *,
    memory: Memory | None = None,
    remaining_seconds: RemainingSeconds = endless,
) -> DecomposedSolution:
    """A feasible answer with its bound; never worse than the best start. Same problem and starts, same answer.

    Args:
        problem: production's form: one resource, not `one_option_per_pair`, not `means_over_all`.
        starts: feasible answers to improve on; may be empty.
        memory: speeds up a later call for a problem of which few deployments changed.
        remaining_seconds: a guard; the search ends early when it falls to 0.

    Raises:
        ValueError: the problem is of the paper's form.
    """
    if problem.resources != 1 or problem.one_option_per_pair or problem.means_over_all:
        raise ValueError("solve_decomposed takes problems of production's form; use solve_adaptive or solve_exact")
    if not (problem.class_rate_per_hour[problem.pair_class] > 0).any():
        return _without_traffic(problem, starts)
    return _Search(problem, starts, memory, remaining_seconds).run()


def _without_traffic(problem: AllocationProblem, starts: Sequence[Allocation]) -> DecomposedSolution:
    """No option can serve any request: the best start, or nothing at all; costs are never below 0."""
    nothing = packed(problem, np.zeros(problem.options, np.int64), np.zeros(problem.pairs), np.ones(problem.classes))
    answers = [*starts, *([nothing] if nothing else [])]
    best = min(answers, key=lambda allocation: objective(problem, allocation))
    return DecomposedSolution(best, 0.0, lower_bound_as_served_per_hour=0.0)


def objective(problem: AllocationProblem, allocation: Allocation) -> tuple[float, ...]:
    """What is minimised, in order: requests unserved beyond the limits by priority, replicas below floors, cost."""
    excess = problem.class_rate_per_hour * np.maximum(allocation.unserved - problem.class_unserved_limit, 0.0)
    excess[allocation.unserved - problem.class_unserved_limit < 1e-7] = 0.0
    levels = [float(excess[problem.class_priority == level].sum()) for level in np.unique(problem.class_priority)[::-1]]
    total = np.bincount(problem.option_deployment, allocation.replicas, minlength=len(problem.deployment_min_replicas))
    missing = float(np.maximum(problem.deployment_min_replicas - total, 0).sum())
    return (*(round(level, 6) for level in levels), missing, allocation.cost.total)


class _Search:
    def __init__(
        self,
        problem: AllocationProblem,
        starts: Sequence[Allocation],
        memory: Memory | None,
        remaining_seconds: RemainingSeconds,
    ) -> None:
        self._problem = problem
        self._starts = starts
        self._memory = memory
        self._remaining = remaining_seconds
        self._table = Table(problem)
        self._rows = coupling_rows(problem)
        self._weight = excess_weights(self._table)
        self._store = Store(self._table, self._rows, self._weight)
        self._finders: list[Finder] = []
        self._plain: list[Finder] = []
        """One per batch."""
        self._batches = list(self._table.batches(self._table.promising(memory)))
        for batch in self._batches:
            made = [Finder(batch, self._rows, served, self._drop(batch)) for served in _served(batch)]
            self._finders += made
            self._plain.append(made[0])
        self.prices = Prices(np.zeros(len(self._rows.limit)), 0.0)
        self._count = len(problem.deployment_max_replicas)
        self._budget = problem.budget_per_hour
        self._interrupted = False

    def _drop(self, batch: Batch) -> Floats:
        return batch.unserved_cost + self._weight[batch.classes] * (1.0 - batch.limit)

    def _provable(self, prices: Prices) -> Prices:
        """Without the prices of limits that what runs exceeds already: a plan that only shrinks may exceed them too."""
        problem = self._problem
        running = problem.running_replicas()
        runs = running > 0
        stored = problem.storage_price_per_gigabyte_hour * problem.option_storage_gigabytes[runs].sum()
        data = np.zeros(problem.classes)
        paid = np.flatnonzero(problem.pair_storage_cost_per_hour)
        np.maximum.at(data, problem.pair_class[paid], problem.pair_storage_cost_per_hour[paid])
        most = float(problem.option_price_per_hour @ running + stored + data.sum())
        spending = prices.spending if most <= self._budget else 0.0
        return Prices(np.where(self._rows.kept, prices.row, 0.0) if len(prices.row) else prices.row, spending)

    def run(self) -> DecomposedSolution:
        self._begin()
        none = Prices(np.zeros(len(self._rows.limit)), 0.0)
        self._look(none)
        best = min((*self._starts, self._packed()), key=lambda allocation: objective(self._problem, allocation))
        bound, as_served = self._bound(best)
        return DecomposedSolution(best, bound, self._interrupted, as_served)

    def _packed(self) -> Allocation:
        """An answer that fits the nodes: where one does not, the next leaves a part of the stock free."""
        rows = self._rows
        for part in _PARTS_OF_STOCK:
            self._rows = self._store.rows = replace(rows, limit=rows.limit * part)
            allocation = self._answer(self._choose())
            if allocation is not None:
                break
        self._rows = self._store.rows = rows
        return allocation or self._nothing()

    def _nothing(self) -> Allocation:
        problem = self._problem
        replicas, share = np.zeros(problem.options, np.int64), np.zeros(problem.pairs)
        return Allocation(
            replicas,
            share,
            np.ones(problem.classes),
            np.zeros((0, 3), dtype=np.int64),
            cost_of(problem, replicas, share, np.ones(problem.classes)),
        )

    def _out_of_time(self) -> bool:
        self._interrupted = self._interrupted or self._remaining() <= 0
        return self._interrupted

    def _begin(self) -> None:
        everyone = np.arange(self._count)
        nothing = np.zeros(0, dtype=np.int64)
        self._store.add([Found(everyone, nothing, nothing, nothing, nothing, nothing, np.zeros(0))])
        for start in self._starts:
            self._store.add([_columns_of(self._problem, start)])

    def _look(self, prices: Prices, *, mixes: bool = True, drop_cost: Floats | None = None) -> int:
        """New columns at these prices; `drop_cost` (I,) is what a class costs that is not served, if not the usual."""
        parts = []
        finders = self._finders
        if mixes:
            mixing_finders = (mixing(finder, self._rows, prices) for finder in self._plain)
            finders = [*finders, *(finder for finder in mixing_finders if finder)]
        for finder in finders:
            drop = None if drop_cost is None or not finder.may_drop else drop_cost[finder.batch.classes]
            answer, cost = finder.best(prices, drop)
            members = np.flatnonzero(np.isfinite(cost))
            parts.append(finder.columns(answer[members], members))
        return self._store.add(parts)

    def _look_for_part(self, prices: Prices, torn: Bools) -> int:
        """Columns of these deployments that serve as much as fewer replicas can."""
        parts = []
        for finder in self._finders:
            members = np.flatnonzero(torn[finder.batch.deployment])
            if not len(members):
                continue
            for drop in (finder.drop_cost, np.full(finder.drop_cost.shape, np.inf)):
                answer, cost = finder.best(prices, drop)
                able = members[np.isfinite(cost[members])]
                parts += [finder.whole_replicas(answer[able], able, fewer) for fewer in _FEWER]
        return self._store.add(parts)

    def _best_columns(self, prices: Prices) -> Ints:
        cost = self._store.at_prices(prices) + self._store.penalty
        order = np.lexsort((cost, self._store.deployment))
        owner = self._store.deployment[order]
        best: Ints = order[np.append(True, np.diff(owner) > 0)]
        return best

    def _choose(self) -> Ints:
        store, rows = self._store, self._rows
        none = Prices(np.zeros(len(rows.limit)), 0.0)
        self.prices = none
        chosen = self._best_columns(none)
        if self._fits(chosen):
            return chosen
        prices = self._find_prices(chosen)
        master = Master(store, self._count, self._budget, cost=lambda: store.cost + store.penalty)
        for number in range(_ROUNDS):
            values, duals, prices = master.solve()
            # Mixes change little with the prices.
            if self._out_of_time() or not self._look(prices, mixes=number == 0):
                break
        values, duals, prices = master.solve()
        if store.penalty[master.columns] @ values > 1e-6:
            for _ in range(_PART_ROUNDS):
                if self._out_of_time() or not self._look_for_part(prices, self._torn(master, values)):
                    break
                values, duals, prices = master.solve()
        self.prices = prices
        return self._round(master, values, duals, prices)

    def _torn(self, master: Master, values: Floats) -> Bools:
        torn = np.zeros(self._count, dtype=bool)
        torn[self._store.deployment[master.columns[(values > 1e-6) & (values < 1 - 1e-6)]]] = True
        return torn

    def _fits(self, chosen: Ints) -> bool:
        store = self._store
        fits = bool((store.use_of(chosen) <= self._rows.limit * (1 + 1e-9) + 1e-9).all())
        return fits and float(store.spending[chosen].sum()) <= self._budget * (1 + 1e-12)

    def _find_prices(self, chosen: Ints) -> Prices:
        """Raise prices where more is taken than there is, lower them elsewhere; each step adds columns."""
        store, limit = self._store, self._rows.limit
        problem = self._problem
        unit = float(np.median(problem.option_price_per_hour / np.maximum(problem.replica_gpus(), 1.0)))
        price = np.zeros(len(limit))
        spending = 0.0
        prices = Prices(price, spending)
        for step in range(_PRICE_STEPS):
            if self._out_of_time():
                break
            over = store.use_of(chosen) / np.maximum(limit, 0.5) - 1.0
            size = 1.5 / (1.0 + 0.15 * step)
            price = np.maximum(price + unit * size * np.clip(over, -0.5, 1.0), 0.0)
            if np.isfinite(self._budget):
                over_budget = float(store.spending[chosen].sum()) / max(self._budget, 1e-9) - 1.0
                spending = max(0.0, spending + size * float(np.clip(over_budget, -0.5, 1.0)))
            prices = Prices(price, spending)
            self._look(prices, mixes=False)
            chosen = self._best_columns(prices)
        return prices

    def _round(self, master: Master, values: Floats, duals: Floats, prices: Prices) -> Ints:
        store = self._store
        columns = master.columns
        order = np.lexsort((-values, store.deployment[columns]))
        owner = store.deployment[columns[order]]
        first = order[np.append(True, np.diff(owner) > 0)]
        chosen = columns[first]
        torn = values[first] < 1 - 1e-6
        reduced = store.at_prices(prices) + store.penalty - duals[store.deployment]
        ranked = np.lexsort((reduced, store.deployment))
        place = np.arange(len(store)) - np.searchsorted(store.deployment[ranked], store.deployment[ranked])
        second = np.full(self._count, np.inf)
        np.minimum.at(second, store.deployment[ranked[place == 1]], reduced[ranked[place == 1]])
        near = np.zeros(len(store), dtype=bool)
        free = torn.copy()
        free[np.argsort(np.where(torn, np.inf, second), kind="stable")[:_MOVABLE]] = True
        near[ranked[place < _ALTERNATIVES]] = True
        near[: self._count] = True
        near[columns[values > 1e-6]] = True
        candidates = np.flatnonzero(free[store.deployment] & near)
        return round_columns(store, chosen, free, candidates, self._rows.limit, self._budget, self._remaining())

    def _answer(self, chosen: Ints) -> Allocation | None:
        problem = self._problem
        found = self._store.found().taking(np.sort(chosen))
        replicas = np.zeros(problem.options, dtype=np.int64)
        np.add.at(replicas, found.replica_option, found.replica_count)
        share = np.zeros(problem.pairs)
        np.add.at(share, found.share_pair, found.share)
        fill(self._table, self._rows, replicas, share, float(self._store.spending[chosen].sum()), self._budget)
        attach_idle(self._table, replicas, share)
        unserved = np.ones(problem.classes)
        np.subtract.at(unserved, problem.pair_class, share)
        unserved[unserved < 1e-9] = 0.0
        grows = bool((replicas > self._table.running).any())
        if grows and stored_gigabytes(problem, replicas) > problem.storage_limit_gigabytes:
            return None
        packing = pack_anew(problem, replicas)
        if packing is None:
            return None
        return Allocation(replicas, share, unserved, packing, cost_of(problem, replicas, share, unserved))

    def _bound(self, best: Allocation) -> tuple[float, float]:
        """For plans that leave no class more unserved than `best` does, and for those that leave the same."""
        problem = self._problem
        ceiling = np.maximum(np.clip(problem.class_unserved_limit, 0.0, 1.0), best.unserved)
        penalty = problem.class_unserved_penalty_per_request * problem.class_rate_per_hour
        short = best.unserved > problem.class_unserved_limit + 1e-9
        self._covering = Covering(self._table, self._rows, self._memory)
        if not short.any():
            bound = self._lagrangian(self.prices, ceiling, penalty)
            if problem.option_spare.any():
                # Prices pay for what spare replicas take, which the bound sees in part only.
                bound = max(bound, self._lagrangian(Prices(np.zeros_like(self.prices.row), 0.0), ceiling, penalty))
            return bound, bound
        # What is given up is taken as given: prices that would have to prove it are many times the rent, and so would
        # every error of the bound be. Without its penalty the bound holds for plans that give up less, too.
        free = np.where(short, 0.0, penalty)
        bound = self._lagrangian(self._true_prices(best, ceiling, free), ceiling, free)
        return bound, bound + float((penalty * best.unserved)[short].sum())

    def _lagrangian(self, prices: Prices, ceiling: Floats, penalty: Floats) -> float:
        """What all deployments must cost at the prices, less what the limits are worth."""
        store, problem = self._store, self._problem
        prices = self._provable(prices)
        unpaid = store.unserved_at(problem.class_unserved_penalty_per_request * problem.class_rate_per_hour - penalty)
        cost = np.where(self._within(ceiling), store.at_prices(prices) - unpaid, np.inf)
        upper = np.full(self._count, np.inf)
        np.minimum.at(upper, store.deployment, cost)
        least = self._covering.bound(prices, upper, ceiling, penalty)
        worth = float(prices.row @ self._rows.limit)
        if prices.spending:
            worth += prices.spending * self._budget
        return float(least.sum()) - worth

    def _within(self, ceiling: Floats) -> Bools:
        """Columns that leave no class more unserved than the ceiling (I,)."""
        table, store = self._table, self._store
        number = table.class_ends[store.deployment][:, None] + np.arange(store.unserved.shape[1])
        there = number < table.class_ends[store.deployment + 1][:, None]
        most = np.where(there, ceiling[table.classes[np.where(there, number, 0)]], 0.0)
        return np.asarray((store.unserved <= most + 1e-9).all(axis=1))

    def _true_prices(self, best: Allocation, ceiling: Floats, penalty: Floats) -> Prices:
        """Prices of the limits when demand is given up only where `best` does, at this penalty (I,)."""
        problem, store = self._problem, self._store
        store.add([_columns_of(problem, best)])
        rebate = problem.class_unserved_penalty_per_request * problem.class_rate_per_hour - penalty
        drop_cost = np.where(ceiling >= 1 - 1e-9, penalty, np.inf)
        master = Master(
            store,
            self._count,
            self._budget,
            cost=lambda: store.cost - store.unserved_at(rebate),
            allowed=lambda: self._within(ceiling),
        )
        _, _, prices = master.solve()
        self._look(prices, mixes=False, drop_cost=drop_cost)
        return prices


def _served(batch: Batch) -> list[Floats]:
    whole = np.ones(batch.limit.shape)
    partial = (batch.limit > 0) & (batch.limit < 1)
    return [whole, np.where(partial, 1.0 - batch.limit, 1.0)] if partial.any() else [whole]


def _columns_of(problem: AllocationProblem, allocation: Allocation) -> Found:
    option = np.flatnonzero(allocation.replicas)
    pair = np.flatnonzero(allocation.share > 0)
    return Found(
        deployment=np.arange(len(problem.deployment_max_replicas)),
        replica_column=problem.option_deployment[option],
        replica_option=option,
        replica_count=allocation.replicas[option],
        share_column=problem.class_deployment[problem.pair_class[pair]],
        share_pair=pair,
        share=allocation.share[pair],
    )
