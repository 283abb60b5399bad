"""Classes that two options serve together because one alone would miss a mean limit or cost more.

Such a class is taken for two: a part for options that keep the limit with room to spare, and the rest for cheaper ones
that miss it by no more than that room allows.
"""

from dataclasses import replace

import numpy as np

from plimsoll.allocation.decomposition_columns import Finder, Prices
from plimsoll.allocation.decomposition_rows import Rows
from plimsoll.allocation.problem import Floats, Ints

_CHEAPEST = 6
"""Options within the limits that a mix may begin with."""


def mixing(plain: Finder, rows: Rows, prices: Prices) -> Finder | None:
    """A finder for those deployments of a batch that gain by mixes at these prices; None where there is none.

    Which two kinds of options mix, and how much of each, is what costs least at the prices if replicas could be split.
    """
    batch = plain.batch
    missing = np.isfinite(batch.need) & ~np.isfinite(batch.alone)
    group, column = np.nonzero(missing.any(axis=2))
    if not len(group):
        return None
    stock, limit = plain.replica_prices(prices)
    unit = batch.price * (1.0 + prices.spending) + stock + limit
    eligible = np.isfinite(batch.need)
    need = np.where(eligible, batch.need, 0.0)[group, column]
    cost = np.where(eligible[group, column], unit[group] * need + batch.share_cost[group, column], np.inf)
    excess = batch.excess[:, group, column]
    good = np.where(np.isfinite(batch.alone[group, column]), cost, np.inf)
    first, second, part, least = _pairs(good, np.where(missing[group, column], cost, np.inf), excess)
    gains = np.flatnonzero(least < good.min(axis=1) * (1 - 1e-9))
    if not len(gains):
        return None
    members = np.unique(group[gains])
    kept = batch.taking(members)
    size = batch.classes.shape[1]
    own = np.searchsorted(members, group[gains])
    served = np.concatenate((np.ones((len(members), size)), np.zeros((len(members), size))), axis=1)
    served[own, column[gains]] = part[gains]
    served[own, size + column[gains]] = 1.0 - part[gains]
    alone = np.concatenate((kept.alone, np.full(kept.alone.shape, np.inf)), axis=1)
    for half, chosen in ((column[gains], first[gains]), (size + column[gains], second[gains])):
        threshold = np.take_along_axis(excess[:, gains], chosen[None, :, None], axis=2)
        within = (excess[:, gains] <= threshold + 1e-12).all(axis=0) & eligible[group, column][gains]
        alone[own, half] = np.where(within, batch.need[group[gains], column[gains]], np.inf)
    doubled = replace(
        kept,
        classes=np.tile(kept.classes, 2),
        pair=np.tile(kept.pair, (1, 2, 1)),
        need=np.tile(kept.need, (1, 2, 1)),
        alone=alone,
        share_cost=np.tile(kept.share_cost, (1, 2, 1)),
        rate=np.tile(kept.rate, 2),
        unserved_cost=np.tile(kept.unserved_cost, 2),
        limit=np.tile(kept.limit, 2),
        priority=np.tile(kept.priority, 2),
    )
    # Half a mix may miss its limit: all or nothing, and nothing is what plain answers are for.
    return Finder(doubled, rows, served, np.where(served > 0, np.inf, 0.0))


def _pairs(good: Floats, other: Floats, excess: Floats) -> tuple[Ints, Ints, Floats, Floats]:
    """For each class (L, N) the best pair of an option within the limits and one beyond: both, the part of the first,
    and the cost."""
    count = len(good)
    first, second = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
    part, least = np.ones(count), np.full(count, np.inf)
    rows = np.arange(count)
    beyond = excess > 0
    for option in np.argsort(good, axis=1, kind="stable")[:, :_CHEAPEST].T:
        base = good[rows, option][:, None]
        room = -excess[:, rows, option][:, :, None]
        tight = beyond & (room > 0)
        most = np.where(tight, room / np.where(tight, excess + room, 1.0), np.where(beyond, 0.0, 1.0)).min(axis=0)
        own = np.where(np.isfinite(base), base, 0.0)
        mixed = np.isfinite(other) & np.isfinite(base)
        total = np.where(mixed, own * (1 - most) + np.where(mixed, other, 0.0) * most, np.inf)
        at = total.argmin(axis=1)
        value = total[rows, at]
        better = value < least
        first[better], second[better] = option[better], at[better]
        part[better], least[better] = 1.0 - most[rows, at][better], value[better]
    return first, second, part, least
