"""Plans that hold when things turn out worse: headroom before planning, stress and a second stage after it.

The first stage decides replicas from nominal figures (or from inflated ones: headroom). Then delays, errors and demand
turn out as they do (stress), replicas stay, and the second stage routes again or drops what no longer fits.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from plimsoll.allocation.evaluate import cost_of
from plimsoll.allocation.problem import Allocation, AllocationProblem, Floats, Ints
from plimsoll.allocation.routing import route


def with_headroom(
    problem: AllocationProblem,
    *,
    demand: float = 0.0,
    delay: float = 0.0,
    error: float = 0.0,
    delay_bound_resources: Sequence[int] = (),
) -> AllocationProblem:
    """The problem with loads, delays and errors larger by these parts (0.1 is 10 %); rates, prices and limits stay.

    An allocation that is feasible for it is feasible for `problem` too once it is `priced` there. Resources in
    `delay_bound_resources` are held for as long as a request takes, so their load also grows with the delay.

    Raises:
        ValueError: a part is negative.
    """
    if min(demand, delay, error) < 0:
        raise ValueError(f"headroom is at least 0, got demand {demand}, delay {delay}, error {error}")
    return replace(
        problem,
        pair_load=_grown(problem.pair_load * (1 + demand), 1 + delay, delay_bound_resources),
        pair_delay_seconds=problem.pair_delay_seconds * (1 + delay),
        pair_error=problem.pair_error * (1 + error),
    )


def stressed(
    problem: AllocationProblem,
    *,
    delay_factor: Floats | float = 1.0,
    error_factor: Floats | float = 1.0,
    demand_factor: Floats | float = 1.0,
    delay_bound_resources: Sequence[int] = (),
) -> AllocationProblem:
    """The problem as it turns out.

    Args:
        problem: as it was expected.
        delay_factor: one, or one for each pair (P,).
        error_factor: one, or one for each pair (P,).
        demand_factor: one, or one for each class (I,); the rates change, and with them loads and stored data.
        delay_bound_resources: resources that a request holds for as long as it takes: the load of these grows with
            the delay (Little's law), e.g. `paper.KV_MEMORY`.
    """
    by_pair = np.broadcast_to(demand_factor, problem.classes)[problem.pair_class]
    return replace(
        problem,
        class_rate_per_hour=problem.class_rate_per_hour * demand_factor,
        pair_load=_grown(problem.pair_load * by_pair[:, None], delay_factor, delay_bound_resources),
        pair_delay_seconds=problem.pair_delay_seconds * delay_factor,
        pair_error=problem.pair_error * error_factor,
        pair_storage_cost_per_hour=problem.pair_storage_cost_per_hour * by_pair,
    )


def _grown(load: Floats, delay_factor: Floats | float, delay_bound_resources: Sequence[int]) -> Floats:
    """Loads (P, R); the columns that are bound to the delay multiplied by its factor."""
    grown = load.copy()
    for resource in delay_bound_resources:
        grown[:, resource] *= delay_factor
    return grown


def priced(problem: AllocationProblem, allocation: Allocation) -> Allocation:
    """The same allocation at this problem's cost; for one that was found for a problem with headroom."""
    return replace(allocation, cost=cost_of(problem, allocation.replicas, allocation.share, allocation.unserved))


def restage(problem: AllocationProblem, allocation: Allocation) -> Allocation:
    """The second stage with routing: the replicas stay, the shares become the best ones for `problem`.

    Raises:
        ValueError: the replicas are not feasible for this problem, whatever is routed to them.
    """
    routed = route(problem, allocation.replicas)
    if routed is None:
        raise ValueError("the replicas of the allocation are not feasible for this problem")
    return routed


def shed(problem: AllocationProblem, allocation: Allocation) -> Allocation:
    """The second stage without routing: shares stay, and what violates a limit is dropped.

    An option that is too small drops the same part of all its traffic. Then each class drops, from the pair that is
    furthest above a mean limit, as little as brings its means within the limits.
    """
    share = allocation.share * _capacity_part(problem, allocation.replicas, allocation.share)[problem.pair_option]
    limits = np.stack((problem.class_mean_delay_limit_seconds, problem.class_mean_error_limit), axis=1)
    values = np.stack((problem.pair_delay_seconds, problem.pair_error), axis=1)
    limited = np.isfinite(limits)
    for number in range(problem.classes):
        pairs = np.flatnonzero((problem.pair_class == number) & (share > 0))
        kinds = limited[number]
        if len(pairs) and kinds.any():
            share[pairs] = _within_means(
                share[pairs], values[pairs][:, kinds], limits[number, kinds], over_all=problem.means_over_all
            )
    served = np.bincount(problem.pair_class, share, minlength=problem.classes)
    return priced(problem, replace(allocation, share=share, unserved=np.maximum(0.0, 1.0 - served)))


def _capacity_part(problem: AllocationProblem, replicas: Ints, share: Floats) -> Floats:
    """Part of each option's traffic (N,) that its replicas can take, 0..1."""
    part = np.ones(problem.options)
    for resource in range(problem.resources):
        load = np.bincount(problem.pair_option, problem.pair_load[:, resource] * share, minlength=problem.options)
        room = problem.option_capacity[:, resource] * replicas
        over = load > room
        part[over] = np.minimum(part[over], room[over] / load[over])
    return part


def _within_means(share: Floats, values: Floats, limits: Floats, *, over_all: bool) -> Floats:
    """Shares (Q,) of one class, lowered until the sums of values (Q, kinds) x share keep the limits (kinds,)."""
    left = share.copy()
    # What one unit of a pair's share adds to "sum - limit": over served traffic, each unit also raises the limit.
    weight = values if over_all else values - limits
    for pair in np.argsort(-(values / np.maximum(limits, np.finfo(float).tiny)).max(axis=1), kind="stable").tolist():
        over = weight.T @ left - (limits if over_all else 0.0)
        if (over <= 0).all():
            break
        helps = weight[pair] > 0
        least = (over[helps] / weight[pair, helps]).max(initial=0.0)
        after = over - least * weight[pair]
        enough = least <= left[pair] and (after[~helps] <= 0).all()
        left[pair] -= least if enough else left[pair]
    return left
