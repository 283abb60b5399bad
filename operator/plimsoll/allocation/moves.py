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
    time = workload.used_time()
    time[sources] = 0.0
    allowed: Bools = np.logical_and.reduce(np.isfinite(workload.load[users]), axis=0)
    for excess in (workload.delay_excess, workload.error_excess):
        stays = (excess * workload.share).sum(axis=1) - (excess[:, sources] * workload.share[:, sources]).sum(axis=1)
        allowed = allowed & (stays[users, None] + amount[:, None] * excess[users] <= LIMIT_TOLERANCE).all(axis=0)
    target = np.maximum(replicas_for(time + amount @ workload.work[users], workload.capacity), rest)
    target = np.maximum(target, 1)
    freed = workload.replica_cost(workload.replicas)[sources].sum() - workload.replica_cost(rest)[sources].sum()
    cost: Floats = workload.replica_cost(target) - workload.replica_cost(rest) - freed
    cost += amount @ workload.latency_cost[users]
    if moved.any():
        cost -= (workload.share[:, sources] * workload.latency_cost[:, sources]).sum()
    return target - rest, cost, allowed


def _reach(workload: Workload, sources: list[int], allowance: Allowance) -> Floats:
    """At most this many replicas fit once the sources are gone: each source frees a node, GPUs and money."""
    reach = allowance.replicas.astype(np.float64)
    for source in sources:
        with np.errstate(divide="ignore", invalid="ignore"):
            gain = np.fmax(workload.gpus[source] / workload.gpus, workload.price[source] / workload.price)
        reach += workload.replicas[source] * (gain + 1)
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
        fleet.change(workload, source, -int(workload.replicas[source]))
        workload.share[:, source] = 0.0
    possible &= count <= fleet.allowance(workload).replicas
    if not possible.any():
        fleet.restore(workload, before)
        return False
    candidates = np.flatnonzero(possible)
    new = workload.running[candidates] == 0
    best = int(candidates[np.lexsort((candidates, new, np.round(cost[candidates], 9)))[0]])
    fleet.change(workload, best, int(count[best]))
    workload.share[:, best] += traffic
    return True


def upgrade(fleet: Fleet, workload: Workload, row: int, wanted: float, below: float, allowance: Allowance) -> bool:
    """M3: serve the rest of a class by giving an active option that is too slow or too small a larger tensor degree."""
    used = workload.used_options()
    if not used:
        return False
    added = np.zeros(len(workload.classes))
    added[row] = wanted
    reach = workload.room() + allowance.replicas * workload.capacity
    for source in used:
        if workload.sufficient[row, source] and workload.load[row, source] * wanted <= reach[source] + ROUNDING:
            continue
        larger = (workload.pair == workload.pair[source]) & (workload.pipeline == workload.pipeline[source])
        larger &= (workload.tensor > workload.tensor[source]) & np.isfinite(workload.load[row])
        if larger.any() and move(fleet, workload, [source], added, larger, below, allowance):
            return True
    return False


def trim(fleet: Fleet, workload: Workload) -> None:
    """Drop replicas without need."""
    needed = np.maximum(replicas_for(workload.used_time(), workload.capacity), workload.share.any(axis=0))
    for option in np.flatnonzero(workload.replicas > needed).tolist():
        fleet.change(workload, option, int(needed[option] - workload.replicas[option]))


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
