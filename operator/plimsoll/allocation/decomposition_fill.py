"""What is left of the stock after every deployment has its answer goes to demand that is still short."""

import numpy as np

from plimsoll.allocation.decomposition_parts import Table
from plimsoll.allocation.decomposition_rows import Rows
from plimsoll.allocation.problem import Floats, Ints

_ROUNDING = 1e-9
_STEPS_PER_CLASS = 12


def fill(table: Table, rows: Rows, replicas: Ints, share: Floats, spending: float, budget: float) -> None:
    """Serve short classes by spare replicas and by new ones, in place: higher priority and more requests first.

    Args:
        table: the problem by deployment.
        rows: what couples the deployments.
        replicas: (N,), changed in place.
        share: (P,), changed in place.
        spending: per hour, of these replicas and shares.
        budget: per hour.
    """
    problem = table.problem
    served = np.bincount(problem.pair_class, share, minlength=problem.classes)
    missing = np.where(problem.class_rate_per_hour > 0, 1.0 - problem.class_unserved_limit - served, 0.0)
    short = np.flatnonzero(missing > _ROUNDING)
    if not len(short):
        return
    taken = np.flatnonzero(replicas)
    left = rows.limit - rows.use(taken, replicas[taken])
    money = budget - spending
    pair_ends = np.searchsorted(problem.pair_class, np.arange(problem.classes + 1)).tolist()
    busy = np.bincount(problem.pair_option, table.pair_need * share, minlength=problem.options)
    total = np.bincount(problem.option_deployment, replicas, minlength=len(problem.deployment_max_replicas))
    requests = problem.class_rate_per_hour * missing
    for number in short[np.lexsort((short, -requests[short], -problem.class_priority[short]))].tolist():
        pairs = np.arange(pair_ends[number], pair_ends[number + 1])
        pairs = pairs[table.pair_sufficient[pairs]]
        options = problem.pair_option[pairs]
        deployment = int(problem.class_deployment[number])
        if not len(pairs):
            continue
        need = table.pair_need[pairs]
        price = problem.option_price_per_hour[options]
        names, weight = rows.weights(options)
        for _ in range(_STEPS_PER_CLASS):
            if missing[number] <= _ROUNDING:
                break
            more = np.minimum(
                problem.option_max_replicas[options] - replicas[options],
                problem.deployment_max_replicas[deployment] - total[deployment],
            ).astype(np.float64)
            for column in range(names.shape[1]):
                more = np.minimum(more, _fitting(left[names[:, column]], weight[:, column]))
            limit_rows, use = rows.limits(options)
            for column in range(limit_rows.shape[1] if len(left) else 0):
                more = np.minimum(more, _fitting(left[limit_rows[:, column]], use[:, column]))
            if money < np.inf:
                more = np.minimum(more, _fitting(np.full(len(price), money), price))
            more = np.maximum(more, 0.0)
            kept_free = problem.option_spare[options]
            lacking = np.maximum(kept_free - replicas[options], 0)
            spare = np.maximum(replicas[options] - kept_free - busy[options], 0.0)
            some = np.where(replicas[options] + more > kept_free, 1.0, 0.0)
            reach = np.where(need > 0, (spare + np.maximum(more - lacking, 0)) / np.where(need > 0, need, 1.0), some)
            reach = np.minimum(reach, missing[number])
            wanted = np.maximum(np.ceil(reach * need - spare - _ROUNDING), 0.0)
            closed = (replicas[options] <= kept_free) & (reach > 0)
            wanted = np.where(closed, np.maximum(wanted, 1.0) + lacking, wanted)
            best = int(np.lexsort((wanted * price, -np.round(reach, 9)))[0])
            if reach[best] <= _ROUNDING or wanted[best] > more[best]:
                break
            option, count = int(options[best]), int(wanted[best])
            before = rows.use(np.array([option]), replicas[option : option + 1])
            replicas[option] += count
            left = left - (rows.use(np.array([option]), replicas[option : option + 1]) - before)
            total[deployment] += count
            money -= count * float(price[best])
            share[pairs[best]] += reach[best]
            busy[option] += reach[best] * need[best]
            missing[number] -= reach[best]


def _fitting(left: Floats, weight: Floats) -> Floats:
    """Whole replicas of this weight that fit into what is left; inf for those that weigh nothing."""
    count: Floats = np.floor(np.maximum(left, 0.0) / np.where(weight > 0, weight, 1.0) + _ROUNDING)
    return np.where(weight > 0, count, np.inf)


def attach_idle(table: Table, replicas: Ints, share: Floats) -> None:
    """A class without traffic is answered by replicas that are there; it never opens one. Changes `share` (P,)."""
    problem = table.problem
    idle = problem.class_rate_per_hour <= 0
    pairs = np.flatnonzero(idle[problem.pair_class] & (replicas[problem.pair_option] > 0) & table.pair_sufficient)
    busy = np.bincount(problem.pair_option, table.pair_need * share, minlength=problem.options)
    done = np.zeros(problem.classes, dtype=bool)
    carrying = np.maximum(replicas - problem.option_spare, 0)
    for pair in pairs[np.argsort(problem.pair_delay_seconds[pairs], kind="stable")].tolist():
        number, option = int(problem.pair_class[pair]), int(problem.pair_option[pair])
        if not done[number] and busy[option] + table.pair_need[pair] <= carrying[option] + _ROUNDING:
            share[pair] = 1.0
            busy[option] += table.pair_need[pair]
            done[number] = True
