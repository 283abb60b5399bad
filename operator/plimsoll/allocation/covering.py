"""GH's steps where a pair of model variant and pool has one replica of one option: M1, M2, M3 (arXiv 2604.07472).

A large class is then served piece by piece, by several pairs. Candidates are the options in use, for every other pair
M1's choice, and for pairs in use options of larger tensor degree (M3); M2 ranks them by cost per share that they can
take within room, budget and mean limits.
"""

from dataclasses import dataclass

import numpy as np

from plimsoll.allocation.fleet import Fleet
from plimsoll.allocation.mechanisms import Mechanisms
from plimsoll.allocation.mixing import slack_shares
from plimsoll.allocation.problem import Bools, Floats, Ints
from plimsoll.allocation.workload import LEAST_SHARE, ROUNDING, Choices, Workload

STEPS_PER_CLASS = 64
TINY = 1e-300
"""Stands for a load of nothing where something is divided by it."""
LIMIT_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Piece:
    """An option's share of a class, after the option was opened or took the place of `source` where that is needed."""

    option: int
    source: int
    """The option that it replaces; -1 where it replaces none."""
    share: float
    rank: float
    """Cost per share, without M2 added cost; smaller is better."""


def cover(fleet: Fleet, workload: Workload, row: int, mechanisms: Mechanisms) -> None:
    """Phase 2 for one class: piece by piece, as far as it must be served or pays."""
    for _ in range(STEPS_PER_CLASS):
        rest = float(1.0 - workload.served[row])
        if rest <= ROUNDING:
            return
        must = rest - float(workload.unserved_limit[row])
        wanted, limit = (must, np.inf) if must > ROUNDING else (rest, float(workload.unserved_cost[row]))
        piece = _best_piece(fleet, workload, row, wanted, limit, mechanisms)
        if piece is None:
            return
        _open(fleet, workload, piece)
        workload.assign(row, piece.option, piece.share)


def prepare(fleet: Fleet, workload: Workload, row: int, mechanisms: Mechanisms) -> None:
    """Phase 1 for one class: open the option that costs least per share, unless one in use can take the class.

    What it finds is promised to it (`Workload.promises`): another class may replace it only by what suits both.
    """
    rest = float(1.0 - workload.served[row])
    if rest <= ROUNDING:
        return
    current = _current(workload, row, mechanisms)
    able = current[_share(workload, row, current, workload.room(current), rest) >= rest - ROUNDING]
    if len(able):
        workload.promises.append((row, int(able[0])))
        return
    must = workload.unserved_limit[row] < rest - ROUNDING
    limit = np.inf if must else float(workload.unserved_cost[row])
    piece = _best_piece(fleet, workload, row, rest, limit, mechanisms)
    if piece is not None:
        _open(fleet, workload, piece)
        moved = [(each, piece.option if option == piece.source else option) for each, option in workload.promises]
        workload.promises = [*moved, (row, piece.option)]


def _open(fleet: Fleet, workload: Workload, piece: Piece) -> None:
    if piece.source >= 0:
        replace(fleet, workload, piece.source, piece.option)
    elif workload.replicas[piece.option] == 0:
        fleet.change(workload, piece.option, 1)


def _current(workload: Workload, row: int, mechanisms: Mechanisms) -> Ints:
    """Options in use that may take the class."""
    active = workload.active()
    fits = workload.suitable(row, active) if mechanisms.feasible_configurations else workload.acceptable[row, active]
    chosen: Ints = active[fits & (workload.pair[active] != workload.barred_pair)]
    return chosen


def _share(workload: Workload, row: int, options: Ints, room: Floats, wanted: float) -> Floats:
    """What the options can take of the class within their room (R, options)."""
    share: Floats = np.minimum((room / np.maximum(workload.load[:, row, options], TINY)).min(axis=0), wanted)
    return share


def _best_piece(
    fleet: Fleet, workload: Workload, row: int, wanted: float, limit: float, mechanisms: Mechanisms
) -> Piece | None:
    """The best by M2 of the pieces that cost less than `limit` per share; mixed with others' slack if none is alone."""
    by_class = workload.first_choices if mechanisms.feasible_configurations else workload.smallest_choices
    best = _ranked(fleet, workload, row, _current(workload, row, mechanisms), by_class[row], wanted, limit, mechanisms)
    covered = best is not None and workload.replicas[best.option] > 0 and best.share >= wanted - ROUNDING
    if mechanisms.upgrades and not covered:
        below = best.rank if best else np.inf
        best = _best_upgrade(fleet, workload, row, wanted, limit, below, mechanisms) or best
    if best is None:
        best = _mixed(fleet, workload, row, wanted, limit, mechanisms)
    return best


def _ranked(
    fleet: Fleet,
    workload: Workload,
    row: int,
    current: Ints,
    choices: Choices,
    wanted: float,
    limit: float,
    mechanisms: Mechanisms,
    most: tuple[Floats, Floats] | None = None,
) -> Piece | None:
    """M2 over options in use and options to open; `most`: what each of both may take besides its room allows."""
    best: Piece | None = None
    least = max(min(LEAST_SHARE, wanted) - ROUNDING, ROUNDING)
    if len(current):
        share = _share(workload, row, current, workload.room(current), wanted)
        if workload.stores_data:
            data_cost = np.maximum(workload.storage_cost[row, current], TINY)
            share = np.minimum(share, max(fleet.data_room(), 0.0) / data_cost)
        if most is not None:
            share = np.minimum(share, most[0])
        cost = np.where(share >= least, workload.traffic_cost[row, current], np.inf)
        first = int(np.argmin(cost))
        if cost[first] < limit - ROUNDING:
            rank = float(cost[first]) if mechanisms.effective_coverage else 0.0
            best = Piece(int(current[first]), -1, float(share[first]), rank)
    if not len(choices.options):
        return best
    share = np.minimum(choices.reach, wanted)
    money = fleet.money_room()
    if workload.stores_data:
        share = np.minimum(share, np.maximum(money - choices.spent, 0.0) / np.maximum(choices.storage_cost, TINY))
    if most is not None:
        share = np.minimum(share, most[1])
    elif mechanisms.feasible_configurations and workload.mixed(row):
        share = np.where(workload.suitable(row, choices.options), share, 0.0)
    cost = choices.added / np.maximum(share, TINY) + choices.traffic_cost
    possible = (share >= least) & (cost < limit - ROUNDING) & _openable(fleet, workload, choices, money)
    ranks = np.where(possible, cost if mechanisms.effective_coverage else choices.added, np.inf)
    first = int(np.argmin(ranks))
    if possible[first] and (best is None or ranks[first] < best.rank):
        best = Piece(int(choices.options[first]), -1, float(share[first]), float(ranks[first]))
    return best


def _openable(fleet: Fleet, workload: Workload, choices: Choices, money: float) -> Bools:
    """Options that a first replica of may be added now."""
    free: Bools = (workload.pair_replicas[choices.pair] == 0) & (choices.pair != workload.barred_pair)
    if not fleet.simple or workload.runs or workload.max_replicas < len(workload.options):
        return free & (fleet.allowance(workload, choices.options).replicas > 0)
    return free & (choices.spent <= money + ROUNDING) & (choices.gigabytes <= fleet.storage_room() + ROUNDING)


def _best_upgrade(
    fleet: Fleet, workload: Workload, row: int, wanted: float, limit: float, below: float, mechanisms: Mechanisms
) -> Piece | None:
    """M3: an option in use that is too slow or too small, replaced by one of larger tensor degree.

    It must cost less than `limit` per share, as every piece, and rank before `below`.
    """
    candidates = _upgrades(workload, row, mechanisms)
    if not len(candidates):
        return None
    source, target = candidates.T
    used = workload.used[:, source]
    share = np.minimum(_share(workload, row, target, np.ones(used.shape), wanted), wanted)
    added = workload.price[target] - workload.price[source]
    optimistic = added.copy()
    if mechanisms.effective_coverage:
        optimistic = added / np.maximum(share, TINY) + workload.traffic_cost[row, target]
    best: Piece | None = None
    for number in np.argsort(optimistic, kind="stable").tolist():
        if optimistic[number] >= (best.rank if best else below) - ROUNDING:
            break
        old, new = int(source[number]), int(target[number])
        moved = moved_to(workload, old, new)
        if moved is None or not replaceable(fleet, workload, old, new):
            continue
        room, change = moved
        taken = _share(workload, row, target[number : number + 1], np.maximum(1.0 - room, 0.0)[:, None], wanted)
        extra = workload.price[new] - workload.price[old]
        possible = float(taken[0])
        if workload.stores_data:
            left = fleet.money_room() - max(float(extra), 0.0)
            possible = min(possible, max(left, 0.0) / max(float(workload.storage_cost[row, new]), TINY))
        if possible < min(LEAST_SHARE, wanted) - ROUNDING or possible <= ROUNDING:
            continue
        if mechanisms.feasible_configurations and not _keeps_means(workload, row, old, new, possible):
            continue
        cost = (float(extra) + change) / possible + float(workload.traffic_cost[row, new])
        rank = cost if mechanisms.effective_coverage else float(extra) + change
        if cost < limit - ROUNDING and rank < (best.rank if best else below) - ROUNDING:
            best = Piece(new, old, possible, rank)
    return best


def _keeps_means(workload: Workload, row: int, source: int, target: int, share: float) -> bool:
    """Whether the class keeps its mean limits with the target in the source's place and this share more on it."""
    own, terms = float(workload.share[row, source]), workload.mean_terms[:, row]
    after = workload.means[:, row] + (terms[:, target] - terms[:, source]) * own + terms[:, target] * share
    return bool((after <= workload.mean_bounds[:, row] + LIMIT_TOLERANCE).all())


def _upgrades(workload: Workload, row: int, mechanisms: Mechanisms) -> Ints:
    """(any, 2): options in use and the larger ones of their pairs that may take the class."""
    fits = workload.sufficient if mechanisms.feasible_configurations else workload.acceptable
    found = [
        (source, target)
        for source in workload.active().tolist()
        if workload.pair[source] != workload.barred_pair
        for target in workload.larger(source)
        if fits[row, target] and all(fits[each, target] for each, option in workload.promises if option == source)
    ]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def moved_to(workload: Workload, source: int, target: int) -> tuple[Floats, float] | None:
    """What one replica of the target has in use (R,) once it takes all traffic of the source, and how its cost changes.

    None where that breaks a mean limit or where it does not fit.
    """
    rows = np.flatnonzero(workload.share[:, source])
    share = workload.share[rows, source]
    used: Floats = workload.load[:, rows, target] @ share
    if (used > 1.0 + ROUNDING).any():
        return None
    after = workload.means[:, rows]
    after = after + (workload.mean_terms[:, rows, target] - workload.mean_terms[:, rows, source]) * share
    if (after > workload.mean_bounds[:, rows] + LIMIT_TOLERANCE).any():
        return None
    change = float((workload.traffic_cost[rows, target] - workload.traffic_cost[rows, source]) @ share)
    return used, change


def replaceable(fleet: Fleet, workload: Workload, source: int, target: int) -> bool:
    """A replica of the target fits in the place of all replicas of the source."""
    if workload.option_max[target] < 1 or workload.pair_replicas[workload.pair[source]] > workload.replicas[source]:
        return False
    if fleet.simple and not workload.runs:
        count = int(workload.replicas[source])
        more = float(workload.price[target] - workload.price[source] * count)
        return more <= 0 or more <= fleet.money_room() + ROUNDING
    before = fleet.checkpoint(workload)
    for row in np.flatnonzero(workload.share[:, source]).tolist():
        workload.withdraw(row, source)
    fleet.change(workload, source, -int(workload.replicas[source]))
    fits = bool(fleet.allowance(workload, np.array([target])).replicas[0] > 0)
    fleet.restore(workload, before)
    return fits


def replace(fleet: Fleet, workload: Workload, source: int, target: int) -> None:
    """One replica of the target instead of the source, with all its traffic; the caller has checked that it fits."""
    rows = np.flatnonzero(workload.share[:, source]).tolist()
    shares = [workload.withdraw(row, source) for row in rows]
    fleet.change(workload, source, -int(workload.replicas[source]))
    fleet.change(workload, target, 1)
    for row, share in zip(rows, shares, strict=True):
        workload.assign(row, target, share)


def _mixed(
    fleet: Fleet, workload: Workload, row: int, wanted: float, limit: float, mechanisms: Mechanisms
) -> Piece | None:
    """The dead end: options that miss a mean limit take what the limits leave, with a reserve for the rest."""
    eligible = np.isfinite(workload.load[0, row]) & (workload.pair != workload.barred_pair)
    active = workload.active()
    current = active[eligible[active]]
    new = np.flatnonzero(eligible & (workload.pair_replicas[workload.pair] == 0))
    new = new[fleet.allowance(workload, new).replicas > 0]
    most = slack_shares(workload, row, np.concatenate((current, new)), wanted)
    parts = most[: len(current)], most[len(current) :]
    return _ranked(fleet, workload, row, current, workload.choices(row, new), wanted, limit, mechanisms, parts)


def shrink(fleet: Fleet, workload: Workload, option: int) -> int:
    """Replace the option by the cheapest of its pair that can take its traffic for less; the option in use then."""
    best, most = option, -ROUNDING
    for target in workload.siblings(option).tolist():
        saving = float(workload.price[target] - workload.price[option])
        if saving >= most:
            continue
        moved = moved_to(workload, option, target)
        if moved is not None and saving + moved[1] < most and replaceable(fleet, workload, option, target):
            best, most = target, saving + moved[1]
    if best != option:
        replace(fleet, workload, option, best)
    return best
