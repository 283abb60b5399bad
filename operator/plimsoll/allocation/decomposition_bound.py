"""What one deployment must cost at least at given prices, for all deployments at once.

A weighted sum of a deployment's demands is covered by whole replicas: each replica covers at most what it would if it
served the one class alone that it covers best. This knapsack is solved by dynamic programming on a grid, rounded so
that replicas cover more than they do; the weights are the duals of the linear relaxation, for all classes together and
for subsets. Every weight gives a valid bound, the best of them counts.
"""

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from plimsoll.allocation.decomposition_columns import Prices
from plimsoll.allocation.decomposition_parts import Memory, Table
from plimsoll.allocation.decomposition_rows import Rows
from plimsoll.allocation.problem import Bools, Floats, Ints

_MOST_SUBSETS_OF = 3
"""Up to so many classes all subsets are tried, beyond it single classes and all together."""
_TOGETHER = 100
_BISECTIONS = 30
_NEAR = 0.1
"""Part of the cost."""
_ROUNDING = 1e-9


class Covering:
    """Bounds of one problem."""

    def __init__(self, table: Table, rows: Rows, memory: Memory | None = None) -> None:
        self._table = table
        self._rows = rows
        self._memory = memory
        problem = table.problem
        options = table.options
        self._need = table.need
        self._excess = [table.of_pairs(excess, 0.0) if excess.any() else None for excess in table.pair_excess]
        width = table.width
        number = table.class_ends[:-1][:, None] + np.arange(width)
        self._there = number < table.class_ends[1:][:, None]
        self._classes = table.classes[np.where(self._there, number, 0)] if len(table.classes) else np.zeros_like(number)
        self._running = table.running[options].astype(np.float64)
        self._price = problem.option_price_per_hour[options]
        self._start = problem.option_start_cost_per_hour[options]
        self._stop = problem.option_stop_cost_per_hour[options]
        count = len(problem.deployment_max_replicas)
        self._stop_all = np.bincount(table.owner, self._stop * self._running, minlength=count)
        costs = bool(table.pair_share_cost.any())
        least = self._least(table.of_pairs(table.pair_share_cost, np.inf)) if costs else np.zeros((count, width))
        self._least_share = np.where(np.isfinite(least), least, 0.0)

    def _least(self, value: Floats) -> Floats:
        """(D, width): smallest of a value (N, width) over the deployment's options; inf where there is none."""
        ends = self._table.option_ends
        count = len(ends) - 1
        result = np.full((count, value.shape[1]), np.inf)
        some = np.flatnonzero(np.diff(ends) > 0)
        if len(some):
            result[some] = np.minimum.reduceat(value, ends[some], axis=0)
        return result

    def segments(self, prices: Prices) -> tuple[Floats, list[tuple[Floats, Floats]]]:
        """Cost of a replica above the running ones (N,); and counts and costs of the cheaper first replicas."""
        shape = self._rows.shape[self._table.options]
        stock, limit = (price[shape] for price in self._rows.prices(prices.row))
        held = self._rows.held[self._table.options].astype(np.float64)
        counted = self._rows.counted_above[self._table.options].astype(np.float64)
        rent = self._price * (1.0 + prices.spending)
        above = rent + self._start + stock + limit
        if not self._running.any():
            return above, []
        running = self._running
        free_of_limit = np.where(counted > 0, 0.0, limit)
        first = rent - self._stop + free_of_limit
        return above, [(held, first), (running - held, first + stock)]

    def bound(self, prices: Prices, upper: Floats, ceiling: Floats, penalty: Floats) -> Floats:
        """(D,): no answer of the deployment costs less at the prices.

        Args:
            prices: of the rows and of spending.
            upper: (D,): cost of a known answer at the prices; nothing above it is looked for.
            ceiling: (I,): largest share of a class that may stay unserved.
            penalty: (I,): what a class costs that is not served at all.
        """
        table = self._table
        self._ceiling = np.where(self._there, ceiling[self._classes] if len(ceiling) else 0.0, 0.0)
        self._penalty = np.where(self._there, penalty[self._classes] if len(penalty) else 0.0, 0.0)
        share_cost = (self._least_share * (1.0 - self._ceiling)).sum(axis=1)
        owner = table.owner
        above, cheap = self.segments(prices)
        need = self._need
        weight, surplus = self._weights(above)
        # What a replica covers per class at these weights, (N, width).
        value = weight[owner] - surplus
        counts = np.isfinite(need) & (need > 0) & (weight[owner] > 0)
        covers = np.where(counts, np.maximum(value, 0.0) / np.where(counts, need, 1.0), 0.0)
        base = share_cost + self._stop_all + self._spare_cost(above, cheap)
        gain = covers.max(axis=1, initial=0.0)
        whole = weight.sum(axis=1)
        saved = np.zeros(len(owner))
        for number, cost in cheap:
            saved += number * np.minimum(cost - gain, 0.0)
        linear = base + whole - (self._ceiling * np.maximum(weight - self._penalty, 0.0)).sum(axis=1)
        linear = linear + np.bincount(owner, saved, minlength=len(base))
        # The weights are such that no new replica is worth more than it costs, but for rounding.
        reduced = above - gain
        broken = owner[reduced < -1e-9 * np.maximum(1.0, gain)]
        linear[broken] = -np.inf
        runs = self._running > 0
        slack = upper - linear
        useful = (gain > 0) & (runs | (reduced <= slack[owner] + 1e-9))
        least = linear.copy()
        self._knapsacks(least, upper, base, above, cheap, covers, weight, useful)
        bounded: Floats = np.minimum(least, upper)
        return bounded

    def _spare_cost(self, above: Floats, cheap: list[tuple[Floats, Floats]]) -> Floats:
        """(D,): what the spare replicas of one option cost at least, where some class must be served by one."""
        table = self._table
        spare = table.problem.option_spare[table.options].astype(np.float64)
        if not spare.any():
            return np.zeros(len(table.option_ends) - 1)
        each = np.minimum.reduce([above, *(np.where(number > 0, cost, above) for number, cost in cheap)])
        least = self._least(np.where(np.isfinite(self._need), (spare * each)[:, None], np.inf))
        must = self._there & (self._ceiling < 1.0) & np.isfinite(least)
        most: Floats = np.where(must, least, -np.inf).max(axis=1, initial=-np.inf)
        return np.where(np.isfinite(most), most, 0.0)

    def _weights(self, unit: Floats) -> tuple[Floats, Floats]:
        """Duals of the linear relaxation: of the demands (D, width), and what mean limits add by option (N, width)."""
        need = self._need
        cost = np.where(np.isfinite(need), unit[:, None] * np.where(np.isfinite(need), need, 0.0), np.inf)
        surplus = np.zeros(cost.shape)
        for excess in self._excess:
            if excess is None:
                continue
            surplus = surplus + self._priced_excess(cost + surplus, excess)
        weight = self._least(cost + surplus)
        weight = np.where(np.isfinite(weight), weight, np.where(self._ceiling >= 1.0, self._penalty, 0.0))
        weight = np.where(self._ceiling > 0.5, np.minimum(weight, self._penalty), weight)
        return np.where(self._there, np.maximum(weight, 0.0), 0.0), surplus

    def _priced_excess(self, cost: Floats, excess: Floats) -> Floats:
        """Excess above a mean limit times the price of it that raises the least cost most, by bisection."""
        owner = self._table.owner
        ends = self._table.option_ends
        finite = np.isfinite(cost)
        low = np.zeros((len(ends) - 1, cost.shape[1]))
        most = np.where(finite, cost, 0.0).max(axis=0, initial=0.0)
        smallest = np.where(excess > 1e-6, excess, np.inf).min(axis=0, initial=np.inf)
        high = np.zeros_like(low) + np.where(np.isfinite(smallest), most / np.minimum(smallest, 1e6), 0.0)
        columns = np.flatnonzero(high.any(axis=0))
        for column in columns.tolist():
            beyond = np.zeros(len(low), dtype=bool)
            beyond[owner[excess[:, column] > 0]] = True
            rows = np.flatnonzero(finite[:, column] & beyond[owner])
            if not len(rows):
                continue
            own, c, e = owner[rows], cost[rows, column], excess[rows, column]
            starts = np.flatnonzero(np.append(True, np.diff(own) > 0))
            names = own[starts]
            lo, hi = low[names, column], high[names, column]
            sizes = np.diff(np.append(starts, len(own)))
            for _ in range(_BISECTIONS):
                middle = np.sqrt(np.maximum(lo, hi * 1e-4) * hi)
                total = c + np.repeat(middle, sizes) * e
                least = np.minimum.reduceat(total, starts)
                at = total <= np.repeat(least + 1e-12 * np.abs(least), sizes)
                over = np.minimum.reduceat(np.where(at, e, np.inf), starts) > 0
                lo, hi = np.where(over, middle, lo), np.where(over, hi, middle)
            # Where the best option keeps the limit anyhow, excess has no price.
            least = np.minimum.reduceat(c, starts)
            kept = np.minimum.reduceat(np.where(c <= np.repeat(least, sizes), e, np.inf), starts) <= 0
            low[names, column] = np.where(kept, 0.0, hi)
        return np.where(finite, low[owner] * excess, 0.0)

    def _knapsacks(
        self,
        least: Floats,
        upper: Floats,
        base: Floats,
        above: Floats,
        cheap: list[tuple[Floats, Floats]],
        covers: Floats,
        weight: Floats,
        useful: Bools,
    ) -> None:
        """Raises `least` (D,) by the knapsacks."""
        table = self._table
        sizes = np.diff(table.class_ends)
        rows = np.flatnonzero(useful)
        counts = np.bincount(table.owner[rows], minlength=len(least))
        first = np.concatenate(([0], np.cumsum(counts)))
        # Where the linear bound is this near, counting whole replicas raises it by next to nothing.
        open_gap = upper - least > _NEAR * np.maximum(1.0, np.abs(upper))
        whole = weight.sum(axis=1)
        largest = np.zeros(len(least))
        np.maximum.at(largest, table.owner[rows], covers[rows].max(axis=1, initial=0.0))
        # The finer the replicas, the finer the grid; beyond it the linear bound is as good.
        fine = np.where(largest > 0, whole / np.where(largest > 0, largest, 1.0), 0.0)
        items = _Items(above, cheap, covers, weight, rows, first, counts)
        value = np.full(len(least), -np.inf)
        digests: dict[int, bytes] = {}
        known: dict[bytes, float] = {} if self._memory is None else self._memory.covered
        data = items.data()
        for steps, low, high in ((96, 0.0, 4.0), (288, 4.0, 12.0), (768, 12.0, 40.0)):
            for size in np.unique(sizes[sizes > 0]).tolist():
                members = np.flatnonzero(
                    (sizes == size) & (counts > 0) & open_gap & (fine > low) & (fine <= high) & (whole > 0)
                )
                if self._memory is not None:
                    for d in members.tolist():
                        own = (data[first[d] : first[d + 1]], weight[d], self._ceiling[d], self._penalty[d])
                        digest = blake2b(steps.to_bytes(2, "big"), digest_size=16)
                        for array in own:
                            digest.update(array.tobytes())
                        digests[d] = digest.digest()
                        value[d] = known.get(digests[d], np.nan)
                    members = members[np.isnan(value[members])]
                # Deployments with about equally many options together: the arrays are padded to the most.
                members = members[np.argsort(counts[members], kind="stable")]
                for part in np.split(members, np.arange(_TOGETHER, len(members), _TOGETHER)):
                    if len(part):
                        value[part] = self._knapsack(part, size, steps, items)
        if self._memory is not None:
            self._memory.covered = {digest: float(value[d]) for d, digest in digests.items()}
        np.maximum(least, value + base, out=least)

    def _knapsack(self, members: Ints, size: int, steps: int, items: "_Items") -> Floats:
        """What the members (G,) of so many classes must pay for covering their demand, (G,)."""
        counts = items.counts[members]
        width = int(counts.max())
        column = np.arange(width)
        there = column < counts[:, None]
        place = np.where(there, items.rows[np.where(there, items.first[members][:, None] + column, 0)], 0)
        cover = np.where(there[:, :, None], items.covers[place][:, :, :size], 0.0)
        cost = np.where(there, items.above[place], np.inf)
        masks = np.array([[m >> c & 1 for c in range(size)] for m in _subsets(size)], dtype=bool)
        weights = items.weight[members][:, None, :size] * masks
        total = weights.sum(axis=2)
        best = np.stack([np.where(mask, cover, 0.0).max(axis=2) for mask in masks], axis=1)
        part = best / np.where(total > 0, total, 1.0)[:, :, None]
        step = np.clip(np.ceil(part * steps - _ROUNDING), 0, steps).astype(np.int64)
        group, subset = len(members), len(masks)
        step = step.reshape(group * subset, width)
        cost_of = np.repeat(cost, subset, axis=0)
        usable = (step > 0) & np.isfinite(cost_of)
        table = _unbounded(np.where(usable, cost_of, np.inf), np.maximum(step, 1), steps)
        if items.cheap:
            chunks = [
                (
                    np.repeat(np.where(there, number[place], 0.0), subset, axis=0),
                    np.repeat(price[place], subset, axis=0),
                )
                for number, price in items.cheap
            ]
            table = _bounded(table, chunks, step, steps)
        rest = self._unserved(members, size, masks, weights, total, steps)
        value = (table + rest).min(axis=0) if rest is not None else table[steps]
        most: Floats = np.where(total.reshape(-1) > 0, value, -np.inf).reshape(group, subset).max(axis=1)
        return most

    def _unserved(
        self, members: Ints, size: int, masks: Bools, weights: Floats, total: Floats, steps: int
    ) -> Floats | None:
        """(steps + 1, G S): least penalty for what t steps leave uncovered; None where all must be covered."""
        ceiling = self._ceiling[members][:, :size]
        if not ceiling.any():
            return None
        ceiling = np.where(masks, ceiling[:, None, :], 0.0).reshape(-1, size)
        penalty = np.repeat(self._penalty[members][:, :size], len(masks), axis=0)
        flat = weights.reshape(-1, size)
        share = flat * ceiling / np.where(total > 0, total, 1.0).reshape(-1, 1)
        rate = np.where(flat > 0, penalty / np.where(flat > 0, flat, 1.0), np.inf)
        order = np.argsort(rate, axis=1, kind="stable")
        left = (steps - np.arange(steps + 1))[:, None] / steps
        paid = np.zeros((steps + 1, len(flat)))
        rows = np.arange(len(flat))
        for rank in range(size):
            c = order[:, rank]
            part, cost = share[rows, c], penalty[rows, c] * ceiling[rows, c]
            taken = np.clip(left, 0.0, part)
            paid += np.where(part > 0, taken / np.where(part > 0, part, 1.0) * cost, 0.0)
            left = left - taken
        return np.where(left > 1e-9, np.inf, paid)


@dataclass(frozen=True, slots=True, eq=False)
class _Items:
    """What covers demand, by row of the table, and the rows of each deployment that matter."""

    above: Floats
    cheap: list[tuple[Floats, Floats]]
    covers: Floats
    weight: Floats
    rows: Ints
    first: Ints
    counts: Ints

    def data(self) -> Floats:
        """All that the rows that matter say, one line each."""
        columns = [self.above, *self.covers.T, *(array for pair in self.cheap for array in pair)]
        return np.stack([column[self.rows] for column in columns], axis=1)


def _subsets(classes: int) -> list[int]:
    if classes <= _MOST_SUBSETS_OF:
        return list(range(1, 1 << classes))
    return [*(1 << c for c in range(classes)), (1 << classes) - 1]


def _unbounded(cost: Floats, step: Ints, steps: int) -> Floats:
    """(steps + 1, B): least cost of covering t steps by any number of items with cost and step (B, M)."""
    count, items = cost.shape
    cost, step = _efficient(cost, step)
    items = cost.shape[1]
    table = np.full((steps + 1, count), np.inf)
    table[0] = 0.0
    flat = table.reshape(-1)
    row = np.arange(count)[:, None]
    back = np.empty((count, items), dtype=np.int64)
    for t in range(1, steps + 1):
        np.subtract(t, step, out=back)
        np.maximum(back, 0, out=back)
        np.multiply(back, count, out=back)
        np.add(back, row, out=back)
        table[t] = (flat[back] + cost).min(axis=1)
    return table


def _efficient(cost: Floats, step: Ints) -> tuple[Floats, Ints]:
    """Without items that cover no more than a cheaper one; fewer columns."""
    order = np.lexsort((-step, cost))
    cost, step = np.take_along_axis(cost, order, axis=1), np.take_along_axis(step, order, axis=1)
    before = np.maximum.accumulate(step, axis=1)
    kept = np.isfinite(cost)
    kept[:, 1:] &= step[:, 1:] > before[:, :-1]
    width = max(1, int(kept.sum(axis=1).max(initial=1)))
    order = np.argsort(~kept, axis=1, kind="stable")[:, :width]
    cost = np.where(np.take_along_axis(kept, order, axis=1), np.take_along_axis(cost, order, axis=1), np.inf)
    return cost, np.take_along_axis(step, order, axis=1)


def _bounded(table: Floats, chunks: list[tuple[Floats, Floats]], step: Ints, steps: int) -> Floats:
    """The table once items of which there are few may be used too: numbers and costs (B, M), split in powers of two."""
    reach = np.arange(steps + 1)[:, None]
    for number, cost in chunks:
        for item in np.flatnonzero((number > 0).any(axis=0)).tolist():
            left = number[:, item].astype(np.int64)
            size = 1
            while (left > 0).any():
                rows = np.flatnonzero(left > 0)
                taken = np.minimum(size, left[rows])
                left[rows] -= taken
                part = table[:, rows]
                back = np.maximum(reach - taken * step[rows, item], 0)
                other = np.take_along_axis(part, back, axis=0) + taken * cost[rows, item]
                table[:, rows] = np.minimum(part, other)
                size *= 2
    return table
