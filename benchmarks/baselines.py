"""Simpler ways to allocate, for comparison: LP rounding, decoupled selection, one GPU type, cheapest variant first.

Each decides replicas by its own rule and then routes by the same linear program as ours. That flatters them: the
systems that work by these rules do not route optimally.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil, inf

import numpy as np

from benchmarks.methods import Method
from plimsoll.allocation import Allocation, AllocationProblem, solve_agh
from plimsoll.allocation.formulation import formulate, stages
from plimsoll.allocation.milp import solve_lp
from plimsoll.allocation.problem import Bools, Floats, Ints
from plimsoll.allocation.routing import route

SMALLEST = 1e-6
"""Parts of replicas and of traffic below this count as none."""


def lp_rounding(problem: AllocationProblem) -> Allocation:
    """LPR: the linear relaxation's replicas rounded up one option after the other, the largest first, if it helps."""
    program = formulate(problem, levels=[inf] * stages(problem), strong=True)
    relaxed = solve_lp(program.model).values[program.replicas]
    best = _nothing(problem)
    for option in np.argsort(-relaxed, kind="stable").tolist():
        if relaxed[option] <= SMALLEST:
            break
        replicas = best.replicas.copy()
        replicas[option] = min(ceil(relaxed[option] - SMALLEST), int(problem.option_max_replicas[option]))
        best = _better(problem, best, replicas)
    return best


def decoupled(problem: AllocationProblem) -> Allocation:
    """DVR: every class picks the pair of model and pool where it is cheapest alone; sizes follow; then routing."""
    part = _parts(problem)
    groups: dict[int, list[int]] = {}
    for number in _order(problem):
        pairs = _usable(problem, part, number)
        if not len(pairs):
            continue
        rent = problem.option_price_per_hour[problem.pair_option[pairs]] * np.ceil(part[pairs] - SMALLEST)
        chosen = pairs[np.argmin(rent)]
        groups.setdefault(int(problem.option_pair[problem.pair_option[chosen]]), []).append(number)
    best = _nothing(problem)
    for pair, numbers in groups.items():
        replicas = best.replicas.copy()
        option, count = _sized(problem, part, pair, numbers)
        replicas[option] += count
        best = _better(problem, best, replicas)
    return best


def _sized(problem: AllocationProblem, part: Floats, pair: int, numbers: Sequence[int]) -> tuple[int, int]:
    """The cheapest option of a pair for all these classes together, and its replicas; the largest one if none does."""
    load: dict[int, float] = {}
    users: dict[int, int] = {}
    for number in numbers:
        for index in _usable(problem, part, number).tolist():
            option = int(problem.pair_option[index])
            if problem.option_pair[option] == pair:
                load[option] = load.get(option, 0.0) + float(part[index])
                users[option] = users.get(option, 0) + 1
    shared = [option for option in load if users[option] == len(numbers)] or list(load)
    counts = {option: max(1, ceil(load[option] - SMALLEST)) for option in shared}
    price = problem.option_price_per_hour
    enough = [option for option in shared if counts[option] <= problem.option_max_replicas[option]]
    if enough:
        option = min(enough, key=lambda n: (price[n] * counts[n], n))
        return option, counts[option]
    option = min(shared, key=lambda n: (load[n] / float(problem.option_max_replicas[n]), n))
    return option, int(problem.option_max_replicas[option])


def homogeneous(problem: AllocationProblem, type_of_pool: Sequence[int] | None = None) -> Allocation:
    """HF: AGH with the options of one GPU type only, for the type where that is best; each pool is one by default."""
    pools = np.arange(len(problem.pool_gpu_limit)) if type_of_pool is None else np.array(type_of_pool, dtype=np.int64)
    answers = []
    for kind in np.unique(pools).tolist():
        here: Bools = pools[problem.option_pool] == kind
        answers.append(solve_agh(replace(problem, option_max_replicas=np.where(here, problem.option_max_replicas, 0))))
    return min(answers, key=lambda answer: worth(problem, answer))


def cheapest_first(problem: AllocationProblem) -> Allocation:
    """The rule of cost-aware autoscalers: what is missing goes to the variant of least cost per capacity, rounded up.

    Class by class; room that is left on replicas of earlier classes is used first, and a variant at its limit passes
    the rest on to the next cheapest.
    """
    part = _parts(problem)
    best = _nothing(problem)
    room = np.zeros((problem.options, problem.resources))
    for number in _order(problem):
        pairs = _usable(problem, part, number, whole=False)
        option = problem.pair_option[pairs]
        per_request = problem.option_price_per_hour[option] * part[pairs]
        ranked = pairs[np.lexsort((problem.option_price_per_hour[option], per_request))].tolist()
        left = 1.0
        for pair in ranked:
            left -= _fill(problem, room, pair, left)
        for pair in ranked:
            if left <= SMALLEST:
                break
            option = int(problem.pair_option[pair])
            replicas = best.replicas.copy()
            wanted = max(1, ceil(left * part[pair] - SMALLEST))
            replicas[option] = min(replicas[option] + wanted, int(problem.option_max_replicas[option]))
            grown = route(problem, replicas)
            if grown is not None and replicas[option] > best.replicas[option]:
                room[option] += problem.option_capacity[option] * (replicas[option] - best.replicas[option])
                best = grown
                left -= _fill(problem, room, pair, left)
    return best


def _fill(problem: AllocationProblem, room: Floats, pair: int, most: float) -> float:
    """Share of the class that finds room on the pair's option; takes it."""
    option, load = int(problem.pair_option[pair]), problem.pair_load[pair]
    taking = load > 0
    share = min(most, float((room[option, taking] / load[taking]).min(initial=inf)))
    if share <= SMALLEST:
        return 0.0
    room[option] = np.maximum(0.0, room[option] - share * load)
    return share


def worth(problem: AllocationProblem, allocation: Allocation) -> tuple[float, ...]:
    """For comparing: traffic unserved beyond its limits by priority, highest first, then the cost; less is better."""
    beyond = problem.class_rate_per_hour * np.maximum(0.0, allocation.unserved - problem.class_unserved_limit)
    levels = sorted(set(problem.class_priority.tolist()), reverse=True)
    lost = (float(beyond[problem.class_priority == level].sum()) for level in levels)
    return (*(value if value > SMALLEST else 0.0 for value in lost), allocation.cost.total)


def _order(problem: AllocationProblem) -> list[int]:
    """Classes with traffic by priority, then rate, both falling."""
    order = np.lexsort((-problem.class_rate_per_hour, -problem.class_priority))
    return [number for number in order.tolist() if problem.class_rate_per_hour[number] > 0]


def _parts(problem: AllocationProblem) -> Floats:
    """Replicas (P,) that a whole class takes, not rounded."""
    parts: Floats = (problem.pair_load / problem.option_capacity[problem.pair_option]).max(axis=1, initial=0.0)
    return parts


def _usable(problem: AllocationProblem, part: Floats, number: int, *, whole: bool = True) -> Ints:
    """Pairs of a class that keep its mean limits by themselves; with `whole` those that can also take all of it."""
    option = problem.pair_option
    usable = (
        (problem.pair_class == number)
        & (problem.pair_delay_seconds <= problem.class_mean_delay_limit_seconds[number])
        & (problem.pair_error <= problem.class_mean_error_limit[number])
        & (problem.option_max_replicas[option] > 0)
    )
    if whole:
        usable &= np.ceil(part - SMALLEST) <= problem.option_max_replicas[option]
    return np.flatnonzero(usable)


def _nothing(problem: AllocationProblem) -> Allocation:
    """The routed allocation of what runs now, or of no replica at all."""
    for replicas in (problem.running_replicas(), np.zeros(problem.options, dtype=np.int64)):
        allocation = route(problem, replicas)
        if allocation is not None:
            return allocation
    raise ValueError("not even an allocation without replicas is feasible")


def _better(problem: AllocationProblem, best: Allocation, replicas: Ints) -> Allocation:
    """The replicas routed where they keep their limits and are worth more than the best so far."""
    routed = route(problem, replicas)
    return routed if routed is not None and worth(problem, routed) < worth(problem, best) else best


LPR = Method("LP rounding", lp_rounding)
DVR = Method("decoupled", decoupled)
HF = Method("one GPU type", homogeneous)
CHEAPEST_FIRST = Method("cheapest first", cheapest_first)
