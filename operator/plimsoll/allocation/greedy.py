"""GH, the greedy heuristic of AGH (arXiv 2604.07472), with replicas, nodes, running state.

Per priority, highest first: phase 1 gives every class one replica of its best option if none can take it yet; phase 2
serves the classes by falling arrival rate with M1, M2 and M3. Then a clean-up, another try for what was left, floors of
replicas, and traffic that may stay unserved but is cheaper to serve.
"""

from collections.abc import Callable

import numpy as np

from plimsoll.allocation.covering import cover, prepare, shrink
from plimsoll.allocation.evaluate import cost_of
from plimsoll.allocation.fleet import Allowance, Fleet
from plimsoll.allocation.mechanisms import ALL, Mechanisms
from plimsoll.allocation.mixing import best_mix, slack_shares
from plimsoll.allocation.moves import clean_up, trim, upgrade
from plimsoll.allocation.packing import proof
from plimsoll.allocation.problem import Allocation, AllocationProblem, Bools, Ints
from plimsoll.allocation.ranking import Way, best_way, densest_way, paying_way, widest_way
from plimsoll.allocation.workload import ROUNDING, Workload, replicas_for

STEPS_PER_CLASS = 64

Ranking = Callable[..., Way | None]
Place = tuple[Workload, int]
"""A class: its workload and its row there."""


def solve(problem: AllocationProblem, order: Ints | None = None, *, mechanisms: Mechanisms = ALL) -> Allocation:
    """A feasible allocation; demand that does not fit is reported as unserved. Same problem, same answer.

    Args:
        problem: the fleet at one moment.
        order: all class numbers in the order in which classes of one priority are served; default by falling rate.
        mechanisms: for experiments only.

    Raises:
        ValueError: `order` is no permutation of the classes, or the problem has no use for a mechanism's switch.
    """
    fleet = Fleet(problem)
    run(fleet, order, mechanisms)
    return answer_of(fleet)


def run(fleet: Fleet, order: Ints | None = None, mechanisms: Mechanisms = ALL) -> None:
    """Fill an empty fleet."""
    told_apart = all(workload.piecewise for workload in fleet.workloads)
    if not (mechanisms.feasible_configurations and mechanisms.effective_coverage) and not told_apart:
        raise ValueError("M1 and M2 can be switched off only where a pair has one replica of one option")
    ordered = _order(fleet, order)
    for priority in sorted({int(workload.priority[row]) for workload, row in ordered}, reverse=True):
        level = [(workload, row) for workload, row in ordered if workload.priority[row] == priority]
        for workload, row in level:
            _open_one(fleet, workload, row, mechanisms)
        for workload in fleet.workloads:
            workload.promises.clear()
        for workload, row in level:
            serve(fleet, workload, row, mechanisms)
    for workload in fleet.workloads:
        _clean_up(fleet, workload, mechanisms)
    fleet.reserving = False
    for workload in fleet.workloads:
        if workload.blocked and workload.runs:
            _solve_again(fleet, workload, mechanisms)
    for workload, row in ordered:
        serve(fleet, workload, row, mechanisms)
    for workload in fleet.workloads:
        trim(fleet, workload)
        _raise_to_floor(fleet, workload)
    for workload, row in ordered:
        _serve_what_pays(fleet, workload, row)
    for workload in fleet.workloads:
        attach_idle_classes(workload)


def complete(fleet: Fleet, workload: Workload, rows: list[int], mechanisms: Mechanisms = ALL) -> None:
    """Serve these classes of a deployment beside what is there."""
    for row in rows:
        serve(fleet, workload, row, mechanisms)
    trim(fleet, workload)
    _raise_to_floor(fleet, workload)
    for row in rows:
        _serve_what_pays(fleet, workload, row)


def _order(fleet: Fleet, order: Ints | None) -> list[Place]:
    """Classes with traffic by falling priority, then in the given order or by falling rate."""
    problem = fleet.problem
    if order is None:
        order = np.argsort(-problem.class_rate_per_hour, kind="stable")
    if not np.array_equal(np.sort(order), np.arange(problem.classes)):
        raise ValueError("the order must name every class once")
    position = np.argsort(order)
    keyed = [
        (-int(workload.priority[row]), int(position[number]), workload, row)
        for workload in fleet.workloads
        for row, number in enumerate(workload.classes.tolist())
        if workload.rate_per_hour[row] > 0
    ]
    keyed.sort(key=lambda entry: entry[:2])
    return [(workload, row) for *_, workload, row in keyed]


def _missing(workload: Workload, row: int) -> float:
    """Share of the class that must still be served."""
    return float(1.0 - workload.unserved_limit[row] - workload.served[row])


def _fitting(workload: Workload, row: int, allowance: Allowance) -> Ints:
    """Eligible options that could take any more of the class."""
    load = workload.load[:, row]
    lacking = workload.lacking(np.arange(len(workload.options)))
    reach = workload.room() + np.maximum(allowance.replicas - lacking, 0) > ROUNDING * load
    fits: Bools = np.isfinite(load[0]) & reach.all(axis=0)
    if workload.barred_pair >= 0:
        fits &= workload.pair != workload.barred_pair
    return np.flatnonzero(fits)


def _apply(fleet: Fleet, workload: Workload, row: int, option: int, replicas: int, share: float) -> None:
    if replicas:
        fleet.change(workload, option, replicas)
    _assign(fleet, workload, row, option, share)


def _assign(fleet: Fleet, workload: Workload, row: int, option: int, share: float) -> None:
    """As much of the share as the budget has left for its data."""
    unit = float(workload.storage_cost[row, option])
    if unit > 0:
        share = min(share, max(0.0, fleet.data_room()) / unit)
    workload.assign(row, option, share)


def _open_one(fleet: Fleet, workload: Workload, row: int, mechanisms: Mechanisms) -> None:
    """Phase 1: a first replica for the class, unless an open option is its best way anyhow."""
    if workload.piecewise:
        prepare(fleet, workload, row, mechanisms)
        return
    wanted = _missing(workload, row)
    if wanted <= ROUNDING:
        return
    allowance = fleet.allowance(workload)
    options = _fitting(workload, row, allowance)
    way = best_way(workload, row, options[workload.suitable(row, options)], wanted, allowance)
    if way and workload.replicas[way.option] == 0 and way.replicas > 0:
        fleet.change(workload, way.option, 1)


def serve(fleet: Fleet, workload: Workload, row: int, mechanisms: Mechanisms = ALL) -> None:
    """Phase 2: looking ahead first; if that leaves a rest, in other ways, and the one with the least rest stays."""
    if workload.piecewise:
        cover(fleet, workload, row, mechanisms)
    else:
        _serve_with_replicas(fleet, workload, row, mechanisms)


def _serve_with_replicas(fleet: Fleet, workload: Workload, row: int, mechanisms: Mechanisms) -> None:
    if _missing(workload, row) <= ROUNDING:
        return
    before = fleet.checkpoint(workload)
    idle = bool(_idle(workload))
    counted_on_second = _serve_by(fleet, workload, row, best_way, mechanisms)
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
        _serve_by(fleet, workload, row, rank, mechanisms)
        if _missing(workload, row) >= left - ROUNDING:
            fleet.restore(workload, best)


def _idle(workload: Workload) -> list[int]:
    """Options with new replicas that no class uses."""
    active = workload.active()
    unused = (workload.replicas[active] > workload.running[active]) & ~workload.share[:, active].any(axis=0)
    idle: list[int] = active[unused].tolist()
    return idle


def _close_idle(fleet: Fleet, workload: Workload) -> None:
    """Give back replicas that phase 1 opened and nothing uses yet: another way may need their place."""
    for option in _idle(workload):
        fleet.change(workload, option, int(workload.running[option] - workload.replicas[option]))


def _serve_by(fleet: Fleet, workload: Workload, row: int, rank: Ranking, mechanisms: Mechanisms) -> bool:
    """True when a way was taken because a second option seemed able to take the rest."""
    counted_on_second = False
    for _ in range(STEPS_PER_CLASS):
        wanted = _missing(workload, row)
        if wanted <= ROUNDING:
            break
        allowance = fleet.allowance(workload)
        options = _fitting(workload, row, allowance)
        way = rank(workload, row, options[workload.suitable(row, options)], wanted, allowance)
        below = way.cost if way and way.covers else np.inf
        if below > ROUNDING and mechanisms.upgrades and upgrade(fleet, workload, row, wanted, below, allowance):
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
    wanted = min(wanted, mix.share)
    for option, part in parts:
        missing = workload.work[:, row, option] * wanted * part - workload.room()[:, option]
        needed = max(int(replicas_for(missing)), int(workload.closed(np.array([option]))[0]))
        needed += int(workload.lacking(np.array([option]))[0])
        needed = min(needed, int(fleet.allowance(workload).replicas[option]))
        if needed:
            fleet.change(workload, option, needed)
    room = workload.room()
    share = wanted
    for option, part in parts:
        load = workload.work[:, row, option] * part
        if workload.replicas[option] <= workload.spare[option] and part > 0:
            share = 0.0
        for left, each in zip(room[:, option].tolist(), load.tolist(), strict=True):
            if each > 0:
                share = min(share, left / each)
    if share <= ROUNDING:
        return False
    for option, part in parts:
        if part > 0:
            _assign(fleet, workload, row, option, share * part)
    return True


def _clean_up(fleet: Fleet, workload: Workload, mechanisms: Mechanisms) -> None:
    if not mechanisms.clean_up:
        trim(fleet, workload)
    elif workload.piecewise:
        trim(fleet, workload)
        for option in workload.active().tolist():
            shrink(fleet, workload, option)
    else:
        clean_up(fleet, workload)


def _solve_again(fleet: Fleet, workload: Workload, mechanisms: Mechanisms) -> None:
    """Plan one deployment afresh with the money of its own running replicas, and keep the better answer."""
    before, value = fleet.checkpoint(workload), workload.objective()
    fleet.empty(workload)
    rows = [row for row in range(len(workload.classes)) if workload.rate_per_hour[row] > 0]
    for row in sorted(rows, key=lambda row: (-workload.priority[row], -workload.rate_per_hour[row], row)):
        serve(fleet, workload, row, mechanisms)
    _clean_up(fleet, workload, mechanisms)
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
        wanted = float(1.0 - workload.served[row])
        if workload.piecewise or workload.unserved_limit[row] <= 0 or wanted <= ROUNDING:
            return
        allowance = fleet.allowance(workload)
        options = _fitting(workload, row, allowance)
        way = paying_way(workload, row, options[workload.suitable(row, options)], wanted, allowance)
        if way is None:
            return
        _apply(fleet, workload, row, way.option, way.replicas, way.share)


def attach_idle_classes(workload: Workload) -> None:
    """A class without traffic is answered by replicas that are there; it never opens one."""
    for row in np.flatnonzero(workload.rate_per_hour <= 0).tolist():
        active = workload.active()
        fits = (workload.work[:, row, active] <= workload.room(active) + ROUNDING).all(axis=0)
        options = active[fits & workload.sufficient[row, active]]
        if len(options):
            workload.assign(row, int(options[np.argmin(workload.delay_seconds[row, options])]), 1.0)


def answer_of(fleet: Fleet) -> Allocation:
    """What the fleet holds now."""
    problem = fleet.problem
    replicas = np.zeros(problem.options, dtype=np.int64)
    share = np.zeros(problem.pairs)
    for workload in fleet.workloads:
        replicas[workload.options] = workload.replicas
        active = workload.active()
        present = workload.share[:, active]
        rows, columns = np.nonzero(present > 1e-12)
        share[workload.pair_index[rows, active[columns]]] = present[rows, columns]
    unserved = np.ones(problem.classes)
    np.subtract.at(unserved, problem.pair_class, share)
    unserved[unserved < ROUNDING] = 0.0
    return Allocation(
        replicas=replicas,
        share=share,
        unserved=unserved,
        packing=proof(problem, replicas, fleet.stock.places),
        cost=cost_of(problem, replicas, share, unserved),
    )
