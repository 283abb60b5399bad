"""The best shares of traffic for given replicas: a linear program."""

import numpy as np

from plimsoll.allocation.evaluate import cost_of, stored_gigabytes
from plimsoll.allocation.formulation import LEAST_LOAD, Traffic, add_traffic, priorities
from plimsoll.allocation.limits import exceeded
from plimsoll.allocation.milp import INFINITY, LinearProgram, LinearResult, Model, SolverError, Status
from plimsoll.allocation.packing import pack
from plimsoll.allocation.problem import Allocation, AllocationProblem, Floats, Ints

ROUNDING = 1e-9
"""Relative tolerance of limits, and of stages that are decided (as a part of the largest rate)."""
LEAST_SHARE = 1e-9
"""Shares below this are rounding errors."""


def route(problem: AllocationProblem, replicas: Ints) -> Allocation | None:
    """The allocation with these replicas (N,) that leaves least unserved beyond the limits and then costs least.

    None where the replicas break a limit of their own or do not fit the nodes. Raises SolverError where the solver
    breaks down.
    """
    if not within_limits(problem, replicas):
        return None
    packing = pack(problem, replicas)
    if packing is None:
        return None
    share, unserved = best_shares(problem, replicas)
    return Allocation(replicas, share, unserved, packing, cost_of(problem, replicas, share, unserved))


def within_limits(problem: AllocationProblem, replicas: Ints) -> bool:
    """Whether replicas (N,) keep every limit that is not on traffic or nodes."""
    running, grown = problem.running_replicas(), replicas - problem.running_replicas()
    by_deployment = np.bincount(problem.option_deployment, replicas, minlength=len(problem.deployment_max_replicas))
    if (
        (replicas < 0).any()
        or (replicas > problem.option_max_replicas).any()
        or (by_deployment > problem.deployment_max_replicas).any()
    ):
        return False
    active = problem.option_pair[replicas > 0]
    if problem.one_option_per_pair and len(np.unique(active)) < len(active):
        return False
    if (grown > 0).any() and _over(stored_gigabytes(problem, replicas), problem.storage_limit_gigabytes):
        return False
    room = spending_left(problem, replicas)
    if room is not None and _over(-room, 0.0):
        return False
    if len(exceeded(problem, replicas, ROUNDING)):
        return False
    gpus = problem.replica_gpus()
    counted = np.maximum(replicas, running) if problem.keep_running else replicas
    pools = len(problem.pool_gpu_limit)
    used = np.bincount(problem.option_pool, gpus * counted, minlength=pools)
    growing = np.bincount(problem.option_pool, (grown > 0) & (gpus > 0), minlength=pools) > 0
    return not (growing & (used > problem.pool_gpu_limit * (1 + ROUNDING) + ROUNDING)).any()


def _over(value: float, limit: float) -> bool:
    return value > limit + ROUNDING * max(1.0, abs(limit))


def spending_left(problem: AllocationProblem, replicas: Ints) -> float | None:
    """What the budget leaves for data in storage; None where it sets no limit, since nothing with a price grows."""
    paid_growth = (replicas > problem.running_replicas()) & (problem.option_price_per_hour > 0)
    if problem.budget_per_hour == INFINITY or not paid_growth.any():
        return None
    stored = problem.storage_price_per_gigabyte_hour * stored_gigabytes(problem, replicas)
    return problem.budget_per_hour - float(problem.option_price_per_hour @ replicas) - stored


def best_shares(problem: AllocationProblem, replicas: Ints) -> tuple[Floats, Floats]:
    """Shares (P,) and unserved shares (I,) for replicas that keep their limits."""
    pairs = np.flatnonzero((replicas > problem.option_spare)[problem.pair_option])
    model = Model()
    traffic = add_traffic(model, problem, pairs, excess=False)
    share: Floats = np.zeros(problem.pairs)
    unserved: Floats = np.ones(problem.classes)
    if len(traffic.classes):
        _add_capacity(model, problem, traffic, replicas - problem.option_spare)
        room = spending_left(problem, replicas)
        data = problem.pair_storage_cost_per_hour[traffic.pairs]
        if room is not None and data.sum() > room:
            scale = max(1.0, float(data.max()))
            model.add_row(traffic.share, data / scale, upper=max(room, 0.0) / scale)
        values = _solve(problem, model, traffic)[traffic.share]
        values = np.where(values > LEAST_SHARE, np.minimum(values, 1.0), 0.0)
        share[traffic.pairs] = values
        unserved -= np.bincount(problem.pair_class[traffic.pairs], values, minlength=problem.classes)
    unserved[np.abs(unserved) <= LEAST_SHARE * 100] = 0.0
    _attach_idle_classes(problem, replicas, share, unserved)
    return share, unserved


def _add_capacity(model: Model, problem: AllocationProblem, traffic: Traffic, replicas: Ints) -> None:
    """One row per option and resource that all its classes together could fill; `replicas` (N,) carry."""
    option = problem.pair_option[traffic.pairs]
    part = problem.pair_load[traffic.pairs] / (problem.option_capacity[option] * replicas[option, None])
    for resource in range(problem.resources):
        full = np.bincount(option, part[:, resource], minlength=problem.options) > 1.0
        used = np.flatnonzero(full)
        if not len(used):
            continue
        rows = model.add_rows(-INFINITY, 1.0, count=len(used))
        mine = full[option]
        model.add_entries(rows[np.searchsorted(used, option[mine])], traffic.share[mine], part[mine, resource])


def _solve(problem: AllocationProblem, model: Model, traffic: Traffic) -> Floats:
    """Least cost with nothing beyond the limits; where that cannot be, stage by stage: priorities, then cost."""
    rates = problem.class_rate_per_hour[traffic.classes]
    weight = rates / rates.max()
    levels = [problem.class_priority[traffic.classes] == priority for priority in priorities(problem)]
    rows = model.add_rows(-INFINITY, INFINITY, count=len(levels))
    for row, chosen in zip(rows.tolist(), levels, strict=True):
        model.add_entries(row, traffic.excess[chosen], weight[chosen])
    program = LinearProgram(model)
    result = program.solve()
    if result.status is Status.OPTIMAL:
        return result.values
    limit = problem.class_unserved_limit[traffic.classes]
    program.set_column_bounds(traffic.excess, 0.0, np.maximum(1.0 - limit, 0.0))
    cost = model.column_arrays()[0]
    everything = np.arange(model.columns)
    for row, chosen in zip(rows.tolist(), levels, strict=True):
        stage = np.zeros(model.columns)
        stage[traffic.excess[chosen]] = weight[chosen]
        program.set_costs(everything, stage)
        level = _optimal(program).objective
        program.set_row_bounds(np.array([row]), -INFINITY, level + ROUNDING)
    program.set_costs(everything, cost)
    return _optimal(program).values


def _optimal(program: LinearProgram) -> LinearResult:
    result = program.solve()
    if result.status is not Status.OPTIMAL:
        raise SolverError(f"a routing program that has a solution ended as {result.status}")
    return result


def _attach_idle_classes(problem: AllocationProblem, replicas: Ints, share: Floats, unserved: Floats) -> None:
    """A class without traffic is answered by the fastest option that is there, keeps its means and has room for it."""
    idle = problem.class_rate_per_hour <= 0
    if not idle.any():
        return
    number, option = problem.pair_class, problem.pair_option
    part = problem.pair_load / problem.option_capacity[option]
    candidates = idle[number] & (replicas[option] > 0) & (problem.pair_storage_cost_per_hour <= 0)
    candidates &= problem.pair_delay_seconds <= problem.class_mean_delay_limit_seconds[number]
    candidates &= problem.pair_error <= problem.class_mean_error_limit[number]
    pairs = np.flatnonzero(candidates)
    for pair in pairs[np.lexsort((pairs, problem.pair_delay_seconds[pairs]))].tolist():
        if unserved[number[pair]] <= 0:
            continue
        mine = option == option[pair]
        taken = (part[mine] * share[mine, None]).sum(axis=0)
        carrying = max(0, int(replicas[option[pair]] - problem.option_spare[option[pair]]))
        if (taken + part[pair] <= carrying + LEAST_LOAD / 2).all():
            share[pair], unserved[number[pair]] = 1.0, 0.0
