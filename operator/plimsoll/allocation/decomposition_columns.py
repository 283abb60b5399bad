"""Answers for single deployments, found at given prices for what couples them.

A plain answer puts every class wholly on one option, or leaves it unserved; classes on one option share its replicas.
With few classes all ways of grouping them are compared.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from plimsoll.allocation.decomposition_parts import Batch
from plimsoll.allocation.decomposition_rows import Rows
from plimsoll.allocation.problem import Floats, Ints

ROUNDING = 1e-9
MOST_GROUPED = 4
"""Up to so many classes all groupings are compared."""
_PASSES = 2


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """What a unit of each row costs (Q,), and by how much a unit of spending counts more than its own cost."""

    row: Floats
    spending: float


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Columns: deployments' answers as entries. Replicas are named by option, shares by pair."""

    deployment: Ints
    """(J,)"""
    replica_column: Ints
    replica_option: Ints
    replica_count: Ints
    share_column: Ints
    share_pair: Ints
    share: Floats

    def taking(self, chosen: Ints) -> "Found":
        """The chosen columns (ascending)."""
        new = np.full(len(self.deployment), -1, dtype=np.int64)
        new[chosen] = np.arange(len(chosen))
        replica, share = new[self.replica_column] >= 0, new[self.share_column] >= 0
        return Found(
            self.deployment[chosen],
            new[self.replica_column[replica]],
            self.replica_option[replica],
            self.replica_count[replica],
            new[self.share_column[share]],
            self.share_pair[share],
            self.share[share],
        )


def joined(parts: list[Found]) -> Found:
    """All columns one after the other."""
    first = np.cumsum([0, *(len(part.deployment) for part in parts)]).tolist()
    return Found(
        np.concatenate([part.deployment for part in parts]),
        np.concatenate([part.replica_column + shift for part, shift in zip(parts, first, strict=False)]),
        np.concatenate([part.replica_option for part in parts]),
        np.concatenate([part.replica_count for part in parts]),
        np.concatenate([part.share_column + shift for part, shift in zip(parts, first, strict=False)]),
        np.concatenate([part.share_pair for part in parts]),
        np.concatenate([part.share for part in parts]),
    )


@cache
def groupings(classes: int) -> tuple[tuple[int, ...], ...]:
    """All partitions of the classes, each as the bit masks of its groups."""
    if classes == 0:
        return ((),)
    bit = 1 << (classes - 1)
    made: list[tuple[int, ...]] = []
    for rest in groupings(classes - 1):
        made.append((*rest, bit))
        made += [(*rest[:k], rest[k] | bit, *rest[k + 1 :]) for k in range(len(rest))]
    return tuple(made)


class Finder:
    """Finds answers for one batch; what does not depend on prices is computed once."""

    def __init__(self, batch: Batch, rows: Rows, served: Floats, drop_cost: Floats) -> None:
        """`served` (G, C): the share of a class that an answer serves; `drop_cost` (G, C): of leaving it unserved.

        Classes of which nothing is served are passed over.
        """
        self.batch = batch
        self._rows = rows
        self._shape = rows.shape[batch.option]
        self._served = served
        self.drop_cost = drop_cost
        self.may_drop = bool(np.isfinite(drop_cost).all())
        self._held = np.where(batch.pair.max(axis=1) >= 0, rows.held[batch.option], 0)
        self._counted = np.where(batch.pair.max(axis=1) >= 0, rows.counted_above[batch.option], 0)
        self.classes = batch.classes.shape[1]
        self.plain = self.classes <= MOST_GROUPED
        if self.plain:
            masks = range(1, 1 << self.classes)
            members = np.array([[mask >> c & 1 for c in range(self.classes)] for mask in masks], dtype=bool)
            scaled = _scaled(batch.alone, served[:, :, None])
            cost = batch.share_cost * served[:, :, None]
            self._need = np.stack([scaled[:, row].sum(axis=1) for row in members], axis=1)
            self._members = members
            self._share_cost = np.stack([cost[:, row].sum(axis=1) for row in members], axis=1)
            self._set_up(self._need)

    def _set_up(self, need: Floats) -> None:
        """(G, S, N) tables of the groups: replicas and what they cost at prices 0."""
        batch = self.batch
        count = np.ceil(np.minimum(need, 1e9) - ROUNDING)
        count = np.where(np.isfinite(need) & (need > 0), count, np.where(need > 0, 1e9, 1.0))
        count = count + batch.spare[:, None, :]
        usable = np.isfinite(need) & (count <= batch.most[:, None, :])
        self._runs = bool(batch.running.any())
        self._count = np.where(usable, count, 0.0)
        running = batch.running[:, None, :]
        spending = batch.price[:, None, :] * self._count + batch.storage[:, None, :] + 0.0
        change = batch.start[:, None, :] * np.maximum(self._count - running, 0)
        if self._runs:
            change = change - batch.stop[:, None, :] * np.minimum(self._count, running)
        self._spending = spending
        self._fixed = np.where(usable, spending + change + self._share_cost, np.inf)
        self._above_held = np.maximum(self._count - self._held[:, None, :], 0.0)
        self._above_counted = np.maximum(self._count - self._counted[:, None, :], 0.0)

    def replica_prices(self, prices: Prices) -> tuple[Floats, Floats]:
        """What a replica of each option pays for stock and for GPU limits, (G, N) each."""
        stock, limit = self._rows.prices(prices.row)
        return stock[self._shape], limit[self._shape]

    def best(self, prices: Prices, drop_cost: Floats | None = None) -> tuple[Ints, Floats]:
        """The best plain answer of each deployment: position of each class's option (G, C), -1 unserved; and its
        cost at the prices (G,), less what is the same for all its answers."""
        stock, limit = self.replica_prices(prices)
        drop_cost = self.drop_cost if drop_cost is None else drop_cost
        if not self.plain:
            return self._descend(stock, limit, prices.spending, drop_cost)
        position, cost = self._groups(stock, limit, prices.spending, drop_cost)
        ways = groupings(self.classes)
        total = np.stack([sum(cost[:, mask - 1] for mask in way) for way in ways], axis=1)
        chosen = total.argmin(axis=1)
        answer = np.full((len(self.batch), self.classes), -1, dtype=np.int64)
        for number, way in enumerate(ways):
            here = np.flatnonzero(chosen == number)
            for mask in way:
                for column in range(self.classes):
                    if mask >> column & 1:
                        answer[here, column] = position[here, mask - 1]
        return answer, total[np.arange(len(total)), chosen]

    def _groups(self, stock: Floats, limit: Floats, spending: float, drop_cost: Floats) -> tuple[Ints, Floats]:
        """Best option and cost for each group, (G, S)."""
        cost = self._fixed
        if spending:
            cost = cost + spending * self._spending
        if stock.any():
            cost = cost + stock[:, None, :] * self._above_held
        if limit.any():
            cost = cost + limit[:, None, :] * self._above_counted
        position = cost.argmin(axis=2)
        least = np.take_along_axis(cost, position[:, :, None], axis=2)[:, :, 0]
        left = np.where(self._members[None], drop_cost[:, None, :], 0.0).sum(axis=2)
        dropped = least > left
        return np.where(dropped, -1, position), np.where(dropped, left, least)

    def _descend(self, stock: Floats, limit: Floats, spending: float, drop_cost: Floats) -> tuple[Ints, Floats]:
        """Class after class moves to where it costs least beside the others, from two beginnings."""
        batch = self.batch
        unit = batch.price * (1 + spending) + stock + limit
        served = self._served[:, :, None]
        need = _scaled(batch.alone, served)
        finite = np.where(np.isfinite(need), need, 0.0)
        shares = batch.share_cost * self._served[:, :, None]
        rows = np.arange(len(batch))
        apart = np.where(np.isfinite(need), unit[:, None, :] * finite + shares, np.inf)
        fluid = apart.argmin(axis=2)
        fluid = np.where(np.isfinite(apart.min(axis=2)), fluid, -1)
        able = np.isfinite(need).all(axis=1)
        together = np.where(able, np.ceil(finite.sum(axis=1) - ROUNDING) * unit + shares.sum(axis=1), np.inf)
        best = np.where(np.isfinite(together.min(axis=1)), together.argmin(axis=1), -1)
        results = []
        for begin in (fluid, np.repeat(best[:, None], self.classes, axis=1)):
            answer = begin.copy()
            load = np.zeros(batch.option.shape)
            for column in range(self.classes):
                here = np.flatnonzero(answer[:, column] >= 0)
                load[here, answer[here, column]] += finite[here, column, answer[here, column]]
            for _ in range(_PASSES):
                for column in range(self.classes):
                    here = np.flatnonzero(answer[:, column] >= 0)
                    load[here, answer[here, column]] -= finite[here, column, answer[here, column]]
                    more = self._unit_cost(load + finite[:, column], unit, stock, limit)
                    now = self._unit_cost(load, unit, stock, limit)
                    more = more - np.where(np.isfinite(now), now, 0.0) + shares[:, column]
                    more = np.where(np.isfinite(need[:, column]), more, np.inf)
                    position = more.argmin(axis=1)
                    served = (more[rows, position] <= drop_cost[:, column]) & (self._served[:, column] > 0)
                    answer[:, column] = np.where(served, position, -1)
                    here = np.flatnonzero(served)
                    load[here, position[here]] += finite[here, column, position[here]]
            cost = self._unit_cost(load, unit, stock, limit).sum(axis=1)
            for column in range(self.classes):
                at = answer[:, column]
                placed = np.where(np.isfinite(need[rows, column, at]), shares[rows, column, at], np.inf)
                cost += np.where(at >= 0, placed, drop_cost[:, column])
            results.append((answer, cost))
        (first, cost), (second, other) = results
        return np.where((other < cost)[:, None], second, first), np.minimum(cost, other)

    def _unit_cost(self, load: Floats, unit: Floats, stock: Floats, limit: Floats) -> Floats:
        batch = self.batch
        count = np.ceil(load - ROUNDING)
        count = count + np.where(count > 0, batch.spare, 0)
        cost = unit * count + batch.start * np.maximum(count - batch.running, 0)
        if batch.running.any():
            cost -= batch.stop * np.minimum(count, batch.running)
            cost -= stock * np.minimum(count, self._held) + limit * np.minimum(count, self._counted)
        return np.where(count <= batch.most, cost, np.inf)

    def columns(self, answer: Ints, members: Ints) -> Found:
        """Plain answers (J, C) of these members (J,) of the batch as columns; options named twice share replicas."""
        batch = self.batch
        there = (answer >= 0) & (self._served[members] > 0)
        position = np.where(there, answer, 0)
        column = np.arange(self.classes)
        served = self._served[members]
        own = members[:, None]
        count = np.zeros(answer.shape)
        for c in column:
            same = there & (position == position[:, c : c + 1]) & there[:, c : c + 1]
            need = np.where(same, _scaled(batch.alone[own, column, position[:, c : c + 1]], served), 0.0).sum(axis=1)
            first = there[:, c] & ~same[:, :c].any(axis=1)
            spare = batch.spare[members, position[:, c]]
            count[:, c] = np.where(first, np.maximum(np.ceil(need - ROUNDING), 1) + spare, 0)
        row, at = np.nonzero(count)
        share_row, share_at = np.nonzero(there & (served > 0))
        return Found(
            deployment=batch.deployment[members],
            replica_column=row,
            replica_option=batch.option[members[row], position[row, at]],
            replica_count=count[row, at].astype(np.int64),
            share_column=share_row,
            share_pair=batch.pair[members[share_row], share_at, position[share_row, share_at]],
            share=served[share_row, share_at],
        )

    def whole_replicas(self, answer: Ints, members: Ints, fewer: int) -> Found:
        """Plain answers with fewer replicas of the option that has the most; what then lacks stays unserved.

        Classes of low priority lose first. For stock that does not suffice.
        """
        plain = self.columns(answer, members)
        total = np.zeros(len(members), dtype=np.int64)
        np.maximum.at(total, plain.replica_column, plain.replica_count)
        kept = np.flatnonzero(total > fewer)
        if not len(kept):
            return plain.taking(kept)
        plain, members, answer = plain.taking(kept), members[kept], answer[kept]
        order = np.lexsort((plain.replica_count, plain.replica_column))
        last = order[np.append(np.diff(plain.replica_column[order]) > 0, True)] if len(order) else order
        option = np.zeros(len(members), dtype=np.int64)
        option[plain.replica_column[last]] = plain.replica_option[last]
        count = plain.replica_count.copy()
        count[last] -= fewer
        room = np.zeros(len(members))
        room[plain.replica_column[last]] = count[last]
        share = plain.share.copy()
        batch = self.batch
        rows = np.arange(len(members))
        at = (batch.option[members] == option[:, None]).argmax(axis=1)
        room = np.maximum(room - batch.spare[members, at], 0.0)
        carries = room > 0
        share_at = np.full(answer.shape, -1, dtype=np.int64)
        there_row, there_at = np.nonzero((answer >= 0) & (self._served[members] > 0))
        share_at[there_row, there_at] = np.arange(len(share))
        importance = np.argsort(-batch.priority[members], axis=1, kind="stable")
        for rank in range(self.classes):
            c = importance[:, rank]
            position = np.maximum(answer[rows, c], 0)
            here = (answer[rows, c] >= 0) & (share_at[rows, c] >= 0) & (batch.option[members, position] == option)
            need = np.where(here, batch.alone[members, c, position], 0.0)
            wanted = np.where(here, self._served[members, c], 0.0)
            free_of_load = np.where(carries, wanted, 0.0)
            given = np.where(need > 0, np.minimum(wanted, room / np.where(need > 0, need, 1.0)), free_of_load)
            room = np.maximum(room - given * need, 0.0)
            share[share_at[rows, c][here]] = given[here]
        some = share > ROUNDING
        return Found(
            plain.deployment,
            plain.replica_column,
            plain.replica_option,
            count,
            plain.share_column[some],
            plain.share_pair[some],
            share[some],
        )


def _scaled(need: Floats, served: Floats) -> Floats:
    """Replicas for a part of the class; nothing needs nothing, even where the option is not eligible."""
    part = np.broadcast_to(served, need.shape)
    return np.where(part > 0, np.where(np.isfinite(need), need, 0.0) * part, 0.0) + np.where(
        (part > 0) & ~np.isfinite(need), np.inf, 0.0
    )
