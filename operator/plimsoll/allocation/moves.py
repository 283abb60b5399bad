"""Move all traffic of some options to one other option: M3's upgrade and the clean-up of GH."""

import numpy as np

from plimsoll.allocation.fleet import Allowance, Fleet
from plimsoll.allocation.problem import Bools, Floats, Ints
from plimsoll.allocation.workload import ROUNDING, Workload, replicas_for

LIMIT_TOLERANCE = 1e-9
CLEAN_UP_ROUNDS = 16


def _estimate(workload: Workload, sources: list[int], traffic: Floats) -> tuple[Ints, Floats, Bools]:
    """Per target: replicas to add, change of cost, and whether all traffic may use it. Stock is not looked at."""
    users = np.flatnonzero(traffic > 0)
    amount = traffic[users]
    moved = workload.share[:, sources].sum(axis=1)
    rest = workload.replicas.copy()
    rest[sources] = 0
    needed = workload.used.copy()
    needed[:, sources] = 0.0
    allowed: Bools = np.logical_and.reduce(np.isfinite(workload.load[0, users]), axis=0)
    if not workload.unlimited_means:
        for kind, terms in enumerate(workload.mean_terms):
            stays = workload.means[kind] - (terms[:, sources] * workload.share[:, sources]).sum(axis=1)
            after = stays[users, None] + amount[:, None] * terms[users]
            allowed = allowed & (after <= workload.mean_bounds[kind, users, None] + LIMIT_TOLERANCE).all(axis=0)
    carrying = np.maximum(replicas_for(needed + amount @ workload.work[:, users]), 1)
    target = np.maximum(carrying + workload.spare, rest)
    rest_cost = workload.replica_cost(rest)
    freed = float((workload.replica_cost(workload.replicas) - rest_cost)[sources].sum())
    cost: Floats = workload.replica_cost(target) - rest_cost - freed
    cost += amount @ workload.traffic_cost[users]
    if moved.any():
        cost -= (workload.share[:, sources] * workload.traffic_cost[:, sources]).sum()
    if workload.stores:
        cost += _storage_change(workload, sources, rest)
    return target - rest, cost, allowed


def _storage_change(workload: Workload, sources: list[int], rest: Ints) -> Floats:
    """Storage cost per target once the sources are closed and the target is open."""
    remaining = np.bincount(workload.pair, rest, minlength=len(workload.pair_replicas)) > 0
    pairs, first = np.unique(workload.pair[sources], return_index=True)
    closed = ~remaining[pairs]
    freed = workload.stored_gigabytes[np.array(sources)[first][closed]].sum()
    change: Floats = workload.stored_gigabytes * ~remaining[workload.pair] - freed
    return workload.storage_price * change


def _reach(workload: Workload, sources: list[int], allowance: Allowance) -> Floats:
    """At most this many replicas fit once the sources are gone: each source frees a node, GPUs and money."""
    reach = allowance.replicas.astype(np.float64)
    for source in sources:
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.fmax(workload.gpus[source] / workload.gpus, workload.price[source] / workload.price)
            for use in workload.limit_use:
                gain = np.fmax(gain, use[source] / use)
        reach += workload.replicas[source] * (gain + workload.nodes[source])
    return reach + ROUNDING


def move(
    fleet: Fleet,
    workload: Workload,
    sources: list[int],
    added: Floats,
    targets: Bools,
    below: float,
    allowance: Allowance | None = None,
) -> bool:
    """Move the sources' traffic and `added` (share per class) to the cheapest target, if that changes cost by less."""
    traffic = workload.share[:, sources].sum(axis=1) + added
    count, cost, allowed = _estimate(workload, sources, traffic)
    possible = targets & allowed & (cost < below - ROUNDING)
    if possible.any():
        possible &= count <= _reach(workload, sources, allowance or fleet.allowance(workload))
    if not possible.any():
        return False
    before = fleet.checkpoint(workload)
    for source in sources:
        for row in np.flatnonzero(workload.share[:, source]).tolist():
            workload.withdraw(row, source)
        fleet.change(workload, source, -int(workload.replicas[source]))
    possible &= count <= fleet.allowance(workload).replicas
    if not possible.any():
        fleet.restore(workload, before)
        return False
    candidates = np.flatnonzero(possible)
    new = workload.running[candidates] == 0
    best = int(candidates[np.lexsort((candidates, new, np.round(cost[candidates], 9)))[0]])
    fleet.change(workload, best, int(count[best]))
    for row in np.flatnonzero(traffic).tolist():
        workload.assign(row, best, float(traffic[row]))
    if fleet.overspent():
        fleet.restore(workload, before)
        return False
    return True


def upgrade(fleet: Fleet, workload: Workload, row: int, wanted: float, below: float, allowance: Allowance) -> bool:
    """M3: serve the rest of a class by giving an active option that is too slow or too small a larger tensor degree."""
    used = np.array(workload.used_options(), dtype=np.int64)
    used = used[workload.pair[used] != workload.barred_pair]
    if not len(used):
        return False
    added = np.zeros(len(workload.classes))
    added[row] = wanted
    reach = workload.room(used) + allowance.replicas[used]
    fits = workload.sufficient[row, used] & (workload.load[:, row, used] * wanted <= reach + ROUNDING).all(axis=0)
    for source in used[~fits].tolist():
        larger = (workload.pair == workload.pair[source]) & (workload.pipeline == workload.pipeline[source])
        larger &= (workload.tensor > workload.tensor[source]) & np.isfinite(workload.load[0, row])
        if larger.any() and move(fleet, workload, [source], added, larger, below, allowance):
            return True
    return False


def trim(fleet: Fleet, workload: Workload) -> None:
    """Drop replicas without need."""
    active = workload.active()
    needed = np.maximum(replicas_for(workload.used[:, active]), workload.share[:, active].any(axis=0))
    excess = workload.replicas[active] - needed - np.where(needed > 0, workload.spare[active], 0)
    for option, count in zip(active.tolist(), excess.tolist(), strict=True):
        if count > 0:
            fleet.change(workload, option, -count)


def clean_up(fleet: Fleet, workload: Workload) -> None:
    """Drop what is not needed, then move an option's traffic, or all traffic, to a cheaper option while that helps."""
    trim(fleet, workload)
    nothing = np.zeros(len(workload.classes))
    everywhere = np.ones(len(workload.options), dtype=bool)
    for _ in range(CLEAN_UP_ROUNDS):
        used = workload.used_options()
        groups = [[option] for option in used] + ([used] if len(used) > 1 else [])
        if not any(move(fleet, workload, group, nothing, everywhere, 0.0) for group in groups):
            return
        trim(fleet, workload)
