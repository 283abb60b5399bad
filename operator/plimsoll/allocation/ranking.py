"""M1 and M2: the ways to serve more of a class, ranked by cost per effective coverage as GH does.

A way is an option, replicas to add and the share that it then takes. Each option offers two: as many replicas as the
whole rest needs, and one fewer, filled to the brim. Of every (model variant, pool) pair only the cheapest of each kind
is kept (M1), unless it falls short for want of stock or money. A way that leaves a rest is charged with the cheapest
single option that could take the rest, so that ways of different coverage compare (M2).
"""

from dataclasses import dataclass

import numpy as np

from plimsoll.allocation.fleet import Allowance
from plimsoll.allocation.problem import Bools, Floats, Ints
from plimsoll.allocation.workload import ROUNDING, Workload, replicas_for

LEAST_PARTIAL_SHARE = 0.01
"""A way that leaves room for a rest on purpose takes at least this much of the class."""
PARTIAL_WAYS = 12


@dataclass(frozen=True, slots=True)
class Way:
    option: int
    replicas: int
    share: float
    covers: bool
    """Alone, or with one more option, it serves all that was asked."""
    cost: float
    """Of the way and, if it covers, of the option that takes the rest."""


@dataclass(frozen=True, slots=True, eq=False)
class Ways:
    option: Ints
    replicas: Ints
    share: Floats
    cost: Floats

    def take(self, keep: Ints | Bools) -> "Ways":
        return Ways(self.option[keep], self.replicas[keep], self.share[keep], self.cost[keep])

    def join(self, other: "Ways") -> "Ways":
        return Ways(
            np.concatenate((self.option, other.option)),
            np.concatenate((self.replicas, other.replicas)),
            np.concatenate((self.share, other.share)),
            np.concatenate((self.cost, other.cost)),
        )


def _added_cost(workload: Workload, options: Ints, replicas: Ints) -> Floats:
    """Rent, storage and change cost of adding replicas; the last axis runs over `options`."""
    returning = np.minimum(replicas, np.maximum(workload.running - workload.replicas, 0)[options])
    cost: Floats = workload.price[options] * replicas
    cost += workload.start_cost[options] * (replicas - returning) - workload.stop_cost[options] * returning
    if workload.stores:
        cost += workload.opening_cost(options) * (replicas > 0)
    return cost


def _share_of(room: Floats, load: Floats, most: Floats) -> Floats:
    """The share, at most `most`, that fits the room of every resource (first axis)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        share: Floats = np.where(load * most <= room, most, room / load)
    least: Floats = share[0] if len(share) == 1 else share.min(axis=0)
    return least


def _first_per_pair(workload: Workload, ways: Ways, *keys: Floats) -> Ways:
    """M1: of every pair the way that is least by `keys`, the first key counting most."""
    pair = workload.pair[ways.option]
    order = np.lexsort((ways.option, *keys[::-1], pair))
    first = np.ones(len(order), dtype=bool)
    first[1:] = pair[order][1:] != pair[order][:-1]
    return ways.take(order[first])


def _ways(workload: Workload, row: int, options: Ints, wanted: Floats, allowance: Allowance) -> tuple[Ways, Ways]:
    """Full ways and partial ways of the options; `wanted` is the most that each may take."""
    load, room = workload.load[:, row, options], workload.room(options)
    closed, lacking = workload.closed(options), workload.lacking(options)
    needed = np.maximum(replicas_for(np.maximum(load * wanted - room, 0.0)), closed) + lacking
    count = np.minimum(needed, allowance.replicas[options])
    share = np.where(count == needed, wanted, _share_of(room + np.maximum(count - lacking, 0), load, wanted))
    latency = workload.traffic_cost[row, options]
    full = Ways(options, count, share, _added_cost(workload, options, count) + latency * share)
    fewer = np.maximum(needed - 1, 0)
    partial_share = _share_of(room + np.maximum(fewer - lacking, 0), load, wanted)
    useful = (fewer >= closed + lacking) & (fewer < count) & (partial_share >= LEAST_PARTIAL_SHARE)
    cost = _added_cost(workload, options, fewer) + latency * partial_share
    partial = Ways(options, fewer, partial_share, cost)
    return full.take(share > ROUNDING), partial.take(useful)


def _rest_cost(workload: Workload, row: int, columns: Ints, ways: Ways, rest: Floats, allowance: Allowance) -> Floats:
    """Cost of the cheapest single option that takes the rest of each way; inf where none can."""
    load, room = workload.load[:, row, columns], workload.room(columns)
    missing = np.maximum(rest[:, None] * load[:, None, :] - room[:, None, :], 0.0)
    count = np.maximum(replicas_for(missing), workload.closed(columns)) + workload.lacking(columns)
    cost = _added_cost(workload, columns, count) + rest[:, None] * workload.traffic_cost[row, columns]
    possible = (count <= allowance.replicas[columns]) & (ways.option[:, None] != columns)
    possible &= count + ways.replicas[:, None] <= allowance.total
    if np.isfinite(allowance.rent_room):
        new = np.maximum(ways.replicas - allowance.rent_free[ways.option], 0) * workload.price[ways.option]
        more = np.maximum(count - allowance.rent_free[columns], 0) * workload.price[columns]
        possible &= new[:, None] + more <= allowance.rent_room + ROUNDING
    least: Floats = np.where(possible, cost, np.inf).min(axis=1, initial=np.inf)
    return least


def best_way(
    workload: Workload, row: int, options: Ints, wanted: float, allowance: Allowance, *, most: Floats | None = None
) -> Way | None:
    """The way with the largest coverage, then the least cost. With `most` (per option) no rest is looked ahead to."""
    limit = np.full(len(options), wanted) if most is None else np.minimum(most, wanted)
    full, partial = _ways(workload, row, options, limit, allowance)
    if not len(full.option):
        return None
    covering = full.share >= wanted - ROUNDING
    ways = _first_per_pair(workload, full.take(covering), full.cost[covering]).join(full.take(~covering))
    if most is None and len(partial.option):
        density = partial.cost / partial.share
        partial = _first_per_pair(workload, partial, density)
        density = partial.cost / partial.share
        ways = ways.join(partial.take(np.argsort(density, kind="stable")[:PARTIAL_WAYS]))
    rest = wanted - ways.share
    uncovered = np.where(rest <= ROUNDING, 0.0, rest)
    cost = ways.cost.copy()
    open_rows = np.flatnonzero(uncovered > 0)
    if most is None and len(open_rows):
        finish = _rest_cost(workload, row, options, ways.take(open_rows), rest[open_rows], allowance)
        finished = open_rows[np.isfinite(finish)]
        cost[finished] += finish[np.isfinite(finish)]
        uncovered[finished] = 0.0
    new = workload.running[ways.option] <= workload.replicas[ways.option]
    best = int(np.lexsort((ways.option, new, np.round(cost, 9), np.round(uncovered, 9)))[0])
    return Way(
        int(ways.option[best]),
        int(ways.replicas[best]),
        float(ways.share[best]),
        bool(uncovered[best] == 0.0),
        float(cost[best]),
    )


def widest_way(workload: Workload, row: int, options: Ints, wanted: float, allowance: Allowance) -> Way | None:
    """The best way without looking ahead: never counts on a second option."""
    return best_way(workload, row, options, wanted, allowance, most=np.full(len(options), wanted))


def densest_way(workload: Workload, row: int, options: Ints, wanted: float, allowance: Allowance) -> Way | None:
    """One more replica that carries, of the option whose replica takes most of the class: where their number lacks."""
    load = workload.work[:, row, options]
    room = workload.room(options)
    idle = (room > ROUNDING * load).all(axis=0)
    first = 1 + workload.lacking(options)
    more = np.where(idle | (allowance.replicas[options] < first), 0, first)
    share = (np.where(idle, room, more > 0) / np.maximum(load, ROUNDING)).min(axis=0)
    share = np.where(workload.replicas[options] + more > 0, np.minimum(share, wanted), 0.0)
    if not len(options) or share.max() <= ROUNDING:
        return None
    best = int(np.lexsort((options, more, -np.round(share, 9)))[0])
    return Way(int(options[best]), int(more[best]), float(share[best]), False, 0.0)


def paying_way(workload: Workload, row: int, options: Ints, wanted: float, allowance: Allowance) -> Way | None:
    """The way that saves most, if any saves: the unserved penalty it avoids against what it costs."""
    full, partial = _ways(workload, row, options, np.full(len(options), wanted), allowance)
    ways = full.join(partial)
    if not len(ways.option):
        return None
    saving = workload.unserved_cost[row] * ways.share - ways.cost
    best = int(np.lexsort((ways.option, -np.round(saving, 9)))[0])
    if saving[best] <= ROUNDING:
        return None
    share, cost = float(ways.share[best]), float(ways.cost[best])
    return Way(int(ways.option[best]), int(ways.replicas[best]), share, False, cost)
