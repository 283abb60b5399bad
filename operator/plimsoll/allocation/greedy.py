"""GH, the greedy heuristic of AGH (arXiv 2604.07472), with replicas, nodes, running state.

Per priority, highest first: phase 1 gives every class one replica of its best option if none can take it yet; phase 2
serves the classes by falling arrival rate with M1, M2 and M3. Then a clean-up, another try for what was left, floors of
replicas, and traffic that may stay unserved but is cheaper to serve.
"""

from collections.abc import Callable

import numpy as np

from plimsoll.allocation.evaluate import cost_of
from plimsoll.allocation.fleet import Fleet
from plimsoll.allocation.mixing import best_mix, slack_shares
from plimsoll.allocation.moves import clean_up, trim, upgrade
from plimsoll.allocation.problem import Allocation, AllocationProblem, Bools, Floats, Ints
from plimsoll.allocation.ranking import Way, best_way, densest_way, paying_way, widest_way
from plimsoll.allocation.workload import ROUNDING, Workload, replicas_for

STEPS_PER_CLASS = 64

Ranking = Callable[..., Way | None]
Place = tuple[Workload, int]
"""A class: its workload and its row there."""


def solve(problem: AllocationProblem) -> Allocation:
    """A feasible allocation; demand that does not fit is reported as unserved. Same problem, same answer."""
    fleet = Fleet(problem)
    order = _order(fleet)
    for priority in sorted({int(workload.priority[row]) for workload, row in order}, reverse=True):
        level = [(workload, row) for workload, row in order if workload.priority[row] == priority]
        for workload, row in level:
            _open_one(fleet, workload, row)
        for workload, row in level:
            _serve(fleet, workload, row)
    for workload in fleet.workloads:
        clean_up(fleet, workload)
    fleet.reserving = False
    for workload in fleet.workloads:
        if workload.blocked and workload.running.any():
            _solve_again(fleet, workload)
    for workload, row in order:
        _serve(fleet, workload, row)
    for workload in fleet.workloads:
        trim(fleet, workload)
        _raise_to_floor(fleet, workload)
    for workload, row in order:
        _serve_what_pays(fleet, workload, row)
    for workload in fleet.workloads:
        _attach_idle_classes(workload)
    return _answer(fleet)


def _order(fleet: Fleet) -> list[Place]:
    """Classes with traffic by priority, then rate, both falling."""
    keyed = [
        (-int(workload.priority[row]), -float(workload.rate_per_hour[row]), int(number), workload, row)
        for workload in fleet.workloads
        for row, number in enumerate(workload.classes.tolist())
        if workload.rate_per_hour[row] > 0
    ]
    keyed.sort(key=lambda entry: entry[:3])
    return [(workload, row) for *_, workload, row in keyed]


def _missing(workload: Workload, row: int) -> float:
    """Share of the class that must still be served."""
    return float(1.0 - workload.unserved_limit[row] - workload.share[row].sum())


def _fitting(workload: Workload, row: int, reach: Floats) -> Ints:
    """Eligible options that could take any more of the class."""
    load = workload.load[row]
    return np.flatnonzero(np.isfinite(load) & (reach > ROUNDING * load))


def _apply(fleet: Fleet, workload: Workload, row: int, option: int, replicas: int, share: float) -> None:
    if replicas:
        fleet.change(workload, option, replicas)
    workload.share[row, option] += share


def _open_one(fleet: Fleet, workload: Workload, row: int) -> None:
    """Phase 1: a first replica for the class, unless an open option is its best way anyhow."""
    wanted = _missing(workload, row)
    if wanted <= ROUNDING:
        return
    allowance = fleet.allowance(workload)
    options = _fitting(workload, row, workload.room() + allowance.replicas * workload.capacity)
    way = best_way(workload, row, options[workload.sufficient[row, options]], wanted, allowance)
    if way and workload.replicas[way.option] == 0 and way.replicas > 0:
        fleet.change(workload, way.option, 1)


def _serve(fleet: Fleet, workload: Workload, row: int) -> None:
    """Phase 2: looking ahead first; if that leaves a rest, in other ways, and the one with the least rest stays."""
    if _missing(workload, row) <= ROUNDING:
        return
    before = fleet.checkpoint(workload)
    idle = _idle(workload).any()
    counted_on_second = _serve_by(fleet, workload, row, best_way)
    others: list[Ranking] = [widest_way] if counted_on_second or idle else []
    if workload.replicas.sum() >= workload.max_replicas:
        others.append(densest_way)
    for rank in others:
        left = _missing(workload, row)
        if left <= ROUNDING:
            return
        best = fleet.checkpoint(workload)
        fleet.restore(workload, before)
        _close_idle(fleet, workload)
        _serve_by(fleet, workload, row, rank)
        if _missing(workload, row) >= left - ROUNDING:
            fleet.restore(workload, best)


def _idle(workload: Workload) -> Bools:
    """Options with new replicas that no class uses."""
    idle: Bools = (workload.replicas > workload.running) & (workload.share.sum(axis=0) <= 0)
    return idle


def _close_idle(fleet: Fleet, workload: Workload) -> None:
    """Give back replicas that phase 1 opened and nothing uses yet: another way may need their place."""
    for option in np.flatnonzero(_idle(workload)).tolist():
        fleet.change(workload, option, int(workload.running[option] - workload.replicas[option]))


def _serve_by(fleet: Fleet, workload: Workload, row: int, rank: Ranking) -> bool:
    """True when a way was taken because a second option seemed able to take the rest."""
    counted_on_second = False
    for _ in range(STEPS_PER_CLASS):
        wanted = _missing(workload, row)
        if wanted <= ROUNDING:
            break
        allowance = fleet.allowance(workload)
        options = _fitting(workload, row, workload.room() + allowance.replicas * workload.capacity)
        way = rank(workload, row, options[workload.sufficient[row, options]], wanted, allowance)
        below = way.cost if way and way.covers else np.inf
        if below > ROUNDING and upgrade(fleet, workload, row, wanted, below, allowance):
            break
        if way is None:
            most = slack_shares(workload, row, options, wanted)
            way = best_way(workload, row, options, wanted, allowance, most=most)
        if way is not None:
            counted_on_second |= way.covers and way.share < wanted - ROUNDING
            _apply(fleet, workload, row, way.option, way.replicas, way.share)
        elif not _mix(fleet, workload, row, options, wanted):
            break
    return counted_on_second


def _mix(fleet: Fleet, workload: Workload, row: int, options: Ints, wanted: float) -> bool:
    """Serve by two options that carry each other; False when there is no such pair."""
    mix = best_mix(workload, row, options, fleet.allowance(workload))
    if mix is None:
        return False
    parts = ((mix.first, mix.ratio), (mix.second, 1.0 - mix.ratio))
    for option, part in parts:
        missing = workload.work[row, option] * wanted * part - workload.room()[option]
        needed = int(replicas_for(np.array([missing]), workload.capacity[option : option + 1])[0])
        needed = max(needed, int(workload.replicas[option] == 0))
        needed = min(needed, int(fleet.allowance(workload).replicas[option]))
        if needed:
            fleet.change(workload, option, needed)
    room = workload.room()
    share = wanted
    for option, part in parts:
        load = workload.work[row, option] * part
        if workload.replicas[option] == 0 and part > 0:
            share = 0.0
        elif load > 0:
            share = min(share, float(room[option] / load))
    if share <= ROUNDING:
        return False
    for option, part in parts:
        workload.share[row, option] += share * part
    return True


def _solve_again(fleet: Fleet, workload: Workload) -> None:
    """Plan one deployment afresh with the money of its own running replicas, and keep the better answer."""
    before, value = fleet.checkpoint(workload), workload.objective()
    for option in np.flatnonzero(workload.replicas).tolist():
        fleet.change(workload, option, -int(workload.replicas[option]))
    workload.share[:] = 0.0
    rows = [row for row in range(len(workload.classes)) if workload.rate_per_hour[row] > 0]
    for row in sorted(rows, key=lambda row: (-workload.priority[row], -workload.rate_per_hour[row], row)):
        _serve(fleet, workload, row)
    clean_up(fleet, workload)
    if workload.objective() >= value:
        fleet.restore(workload, before)


def _raise_to_floor(fleet: Fleet, workload: Workload) -> None:
    """Add replicas up to the deployment's least number: used options first, the cheapest of them first."""
    if workload.replicas.sum() >= workload.min_replicas:
        return
    eligible = np.flatnonzero((workload.pair_index >= 0).any(axis=0))
    used = workload.replicas[eligible] > 0
    added = (workload.replica_cost(workload.replicas + 1) - workload.replica_cost(workload.replicas))[eligible]
    for option in eligible[np.lexsort((eligible, np.round(added, 9), ~used))].tolist():
        missing = workload.min_replicas - int(workload.replicas.sum())
        if missing <= 0:
            return
        count = min(missing, int(fleet.allowance(workload).replicas[option]))
        if count > 0:
            fleet.change(workload, option, count)


def _serve_what_pays(fleet: Fleet, workload: Workload, row: int) -> None:
    """Serve what may stay unserved, as far as that costs less than the penalty."""
    for _ in range(STEPS_PER_CLASS):
        wanted = float(1.0 - workload.share[row].sum())
        if workload.unserved_limit[row] <= 0 or wanted <= ROUNDING:
            return
        allowance = fleet.allowance(workload)
        options = _fitting(workload, row, workload.room() + allowance.replicas * workload.capacity)
        way = paying_way(workload, row, options[workload.sufficient[row, options]], wanted, allowance)
        if way is None:
            return
        _apply(fleet, workload, row, way.option, way.replicas, way.share)


def _attach_idle_classes(workload: Workload) -> None:
    """A class without traffic is answered by replicas that are there; it never opens one."""
    for row in np.flatnonzero(workload.rate_per_hour <= 0).tolist():
        fits = workload.sufficient[row] & (workload.replicas > 0) & (workload.work[row] <= workload.room() + ROUNDING)
        options = np.flatnonzero(fits)
        if len(options):
            workload.share[row, options[np.argmin(workload.delay_seconds[row, options])]] = 1.0


def _answer(fleet: Fleet) -> Allocation:
    problem = fleet.problem
    replicas = np.zeros(problem.options, dtype=np.int64)
    share = np.zeros(problem.pairs)
    for workload in fleet.workloads:
        replicas[workload.options] = workload.replicas
        rows, columns = np.nonzero(workload.share > 1e-12)
        share[workload.pair_index[rows, columns]] = workload.share[rows, columns]
    unserved = np.ones(problem.classes)
    np.subtract.at(unserved, problem.pair_class, share)
    unserved[unserved < ROUNDING] = 0.0
    return Allocation(
        replicas=replicas,
        share=share,
        unserved=unserved,
        packing=_packing(fleet, replicas),
        cost=cost_of(problem, replicas, share, unserved),
    )


def _packing(fleet: Fleet, replicas: Ints) -> Ints:
    """Where the replicas lie: kept ones where they run (those at unknown places are left out), new ones as placed."""
    problem = fleet.problem
    counts: dict[tuple[int, int], int] = {}
    if problem.keep_running:
        kept = np.minimum(replicas, problem.running_replicas())
        unknown = problem.running[:, 1] < 0
        np.subtract.at(kept, problem.running[unknown, 0], problem.running[unknown, 2])
        for option, node, count in problem.running[~unknown].tolist():
            take = min(count, int(kept[option]))
            if take > 0 and not problem.pool_unlimited[problem.option_pool[option]]:
                counts[option, node] = counts.get((option, node), 0) + take
                kept[option] -= take
    for option, places in fleet.stock.places.items():
        for node, count in places.items():
            counts[option, node] = counts.get((option, node), 0) + count
    rows = [(option, node, count) for (option, node), count in sorted(counts.items())]
    return np.array(rows, dtype=np.int64).reshape(-1, 3)
