"""The optimum of tiny allocation problems by trying every number of replicas; shares no code with the solvers."""

from itertools import product

import highspy
import numpy as np

from plimsoll.allocation import AllocationProblem

INFINITY = float("inf")


def exhaustive(problem: AllocationProblem) -> tuple[float, ...]:
    """Unserved requests beyond the limits per priority, replicas below the least numbers, cost: the least, in order."""
    running = [0] * problem.options
    for option, _, count in problem.running.tolist():
        running[option] += count
    running = [pieces // int(problem.option_nodes[option]) for option, pieces in enumerate(running)]
    used = set(problem.pair_option.tolist())
    ranges = [
        range(int(min(most, 10)) + 1 if option in used else min(running[option], int(most)) + 1)
        for option, most in enumerate(problem.option_max_replicas.tolist())
    ]
    best: tuple[float, ...] | None = None
    for replicas in product(*ranges):
        if not _allowed(problem, replicas, running) or not _packs(problem, replicas, running):
            continue
        value = _value(problem, replicas, running, best)
        if value is not None and (best is None or _less(value, best)):
            best = value
    assert best is not None
    return best


def _less(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    for first, second in zip(one, other, strict=True):
        if abs(first - second) > 1e-6:
            return first < second
    return False


def _stored(problem: AllocationProblem, replicas: tuple[int, ...]) -> float:
    pairs = {
        int(problem.option_pair[n]): float(problem.option_storage_gigabytes[n]) for n, r in enumerate(replicas) if r
    }
    return sum(pairs.values())


def _fixed_spending(problem: AllocationProblem, replicas: tuple[int, ...]) -> float:
    rent = sum(count * price for count, price in zip(replicas, problem.option_price_per_hour.tolist(), strict=True))
    return rent + problem.storage_price_per_gigabyte_hour * _stored(problem, replicas)


def _pays_for_growth(problem: AllocationProblem, replicas: tuple[int, ...], running: list[int]) -> bool:
    prices = problem.option_price_per_hour.tolist()
    return any(count > now and price > 0 for count, now, price in zip(replicas, running, prices, strict=True))


def _allowed(problem: AllocationProblem, replicas: tuple[int, ...], running: list[int]) -> bool:
    grows = [count > now for count, now in zip(replicas, running, strict=True)]
    for deployment, most in enumerate(problem.deployment_max_replicas.tolist()):
        if sum(r for n, r in enumerate(replicas) if problem.option_deployment[n] == deployment) > most:
            return False
    if problem.one_option_per_pair:
        active = [int(problem.option_pair[n]) for n, r in enumerate(replicas) if r]
        if len(active) > len(set(active)):
            return False
    if any(grows) and _stored(problem, replicas) > problem.storage_limit_gigabytes + 1e-9:
        return False
    spending = _fixed_spending(problem, replicas)
    if _pays_for_growth(problem, replicas, running) and spending > problem.budget_per_hour + 1e-9:
        return False
    for number, most in enumerate(problem.limit_capacity.tolist()):
        mine = [entry for entry, limit in enumerate(problem.use_limit.tolist()) if limit == number]
        options = [int(problem.use_option[entry]) for entry in mine]
        at_once = problem.keep_running and problem.limit_at_once[number]
        counts = [max(replicas[n], running[n]) if at_once else replicas[n] for n in options]
        taken = sum(count * problem.use_amount[entry] for count, entry in zip(counts, mine, strict=True))
        if any(grows[n] for n in options) and taken > most + 1e-9:
            return False
    gpus = (problem.option_demand[:, 0] * problem.option_nodes).tolist()
    for pool, limit in enumerate(problem.pool_gpu_limit.tolist()):
        mine = [n for n in range(problem.options) if problem.option_pool[n] == pool]
        counted = sum(gpus[n] * (max(replicas[n], running[n]) if problem.keep_running else replicas[n]) for n in mine)
        if any(grows[n] and gpus[n] > 0 for n in mine) and counted > limit + 1e-9:
            return False
    return True


def _packs(problem: AllocationProblem, replicas: tuple[int, ...], running: list[int]) -> bool:
    """Tries every place of every piece that needs one."""
    free = problem.node_free.tolist()
    unknown = [0] * problem.options
    there: dict[tuple[int, int], int] = {}
    for option, node, count in problem.running.tolist():
        if node < 0:
            unknown[option] += count
        elif problem.keep_running:
            there[option, node] = there.get((option, node), 0) + count
            for resource in range(3):
                free[node][resource] -= count * problem.option_demand[option, resource]
    items = []
    for option, count in enumerate(replicas):
        pieces = int(problem.option_nodes[option])
        held = running[option] if problem.keep_running else unknown[option] // pieces
        if not problem.pool_unlimited[problem.option_pool[option]]:
            items += [option] * (max(0, count - held) * pieces)

    def fits(index: int) -> bool:
        if index == len(items):
            return True
        option = items[index]
        demand, most = problem.option_demand[option].tolist(), int(problem.option_per_node[option])
        tried = set()
        for node, has in enumerate(free):
            state = (*has, *(there.get((other, node), 0) for other in set(items)))
            if problem.node_pool[node] != problem.option_pool[option] or state in tried:
                continue
            tried.add(state)
            if there.get((option, node), 0) >= most:
                continue
            if any(need > 0 and need > left + 1e-9 for need, left in zip(demand, has, strict=True)):
                continue
            before = list(has)
            has[:] = [left - need for left, need in zip(has, demand, strict=True)]
            there[option, node] = there.get((option, node), 0) + 1
            if fits(index + 1):
                return True
            there[option, node] -= 1
            has[:] = before
        return False

    return fits(0)


def _value(
    problem: AllocationProblem, replicas: tuple[int, ...], running: list[int], best: tuple[float, ...] | None
) -> tuple[float, ...] | None:
    """The best value with these replicas; None where it cannot be better than `best`."""
    short = 0
    for deployment, least in enumerate(problem.deployment_min_replicas.tolist()):
        floor = min(least, int(problem.deployment_max_replicas[deployment]))
        short += max(0, floor - sum(r for n, r in enumerate(replicas) if problem.option_deployment[n] == deployment))
    fixed = _fixed_spending(problem, replicas)
    for option, (count, now) in enumerate(zip(replicas, running, strict=True)):
        fixed += max(0, count - now) * problem.option_start_cost_per_hour[option]
        fixed += max(0, now - count) * problem.option_stop_cost_per_hour[option]
    rates = problem.class_rate_per_hour.tolist()
    priorities = sorted({p for p, r in zip(problem.class_priority.tolist(), rates, strict=True) if r > 0}, reverse=True)
    if best is not None and max(best[:-1], default=0.0) <= 1e-9 and (short or fixed > best[-1]):
        return None
    budget = INFINITY
    if _pays_for_growth(problem, replicas, running):
        budget = problem.budget_per_hour - _fixed_spending(problem, replicas)
    levels = _shares(problem, replicas, priorities, budget)
    return (*levels[:-1], float(short), levels[-1] + fixed)


def _shares(
    problem: AllocationProblem, replicas: tuple[int, ...], priorities: list[int], budget: float
) -> tuple[float, ...]:
    """The routing program, one dense row after the other, once per level."""
    if not problem.classes:
        return (0.0,)
    carrying = [max(0, count - int(spare)) for count, spare in zip(replicas, problem.option_spare, strict=True)]
    pairs = [p for p in range(problem.pairs) if carrying[problem.pair_option[p]] > 0]
    classes, columns = problem.classes, len(pairs) + 2 * problem.classes
    rate, limit = problem.class_rate_per_hour, problem.class_unserved_limit
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    cost = np.zeros(columns)
    for index in range(columns):
        if index >= len(pairs):
            number = (index - len(pairs)) % classes
            cost[index] = rate[number] * problem.class_unserved_penalty_per_request[number]
            solver.addVar(0.0, limit[number] if index < len(pairs) + classes else 1.0)
        else:
            pair = pairs[index]
            number = problem.pair_class[pair]
            late = problem.class_latency_penalty_per_request_second[number] * problem.pair_delay_seconds[pair]
            cost[index] = late * rate[number] + problem.pair_storage_cost_per_hour[pair]
            solver.addVar(0.0, 1.0)

    def add(values: np.ndarray, lower: float, upper: float) -> None:
        used = np.flatnonzero(values)
        solver.addRow(lower, upper, len(used), used.astype(np.int32), values[used])

    of_class = np.array([problem.pair_class[p] for p in pairs], dtype=int)
    for number in range(classes):
        row = np.zeros(columns)
        mine = np.flatnonzero(of_class == number)
        row[mine] = 1.0
        served = row.copy()
        row[len(pairs) + number] = row[len(pairs) + classes + number] = 1.0
        add(row, 1.0, 1.0)
        if rate[number] <= 0:
            solver.changeColsBounds(len(mine), mine.astype(np.int32), np.zeros(len(mine)), np.zeros(len(mine)))
        for values, most in (
            (problem.pair_delay_seconds, problem.class_mean_delay_limit_seconds[number]),
            (problem.pair_error, problem.class_mean_error_limit[number]),
        ):
            if most < INFINITY:
                row = np.zeros(columns)
                row[mine] = values[np.array(pairs, dtype=int)[mine]]
                if problem.means_over_all:
                    add(row, -INFINITY, most)
                else:
                    add(row - most * served, -INFINITY, 0.0)
    for option, count in enumerate(carrying):
        for resource in range(problem.resources):
            row = np.zeros(columns)
            for index, pair in enumerate(pairs):
                if problem.pair_option[pair] == option:
                    row[index] = problem.pair_load[pair, resource]
            if row.any():
                add(row, -INFINITY, problem.option_capacity[option, resource] * count)
    row = np.zeros(columns)
    row[: len(pairs)] = problem.pair_storage_cost_per_hour[pairs]
    if row.any() and budget < INFINITY:
        add(row, -INFINITY, budget)
    levels = []
    every = np.arange(columns, dtype=np.int32)
    for priority in priorities:
        row = np.zeros(columns)
        row[len(pairs) + classes :] = np.where(problem.class_priority == priority, rate, 0.0)
        solver.changeColsCost(columns, every, row)
        solver.run()
        levels.append(solver.getInfo().objective_function_value)
        add(row, -INFINITY, levels[-1] + 1e-9)
    solver.changeColsCost(columns, every, cost)
    solver.run()
    assert solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    # Classes without traffic were given a column of excess that costs nothing.
    return (*levels, solver.getInfo().objective_function_value)
