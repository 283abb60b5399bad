"""Decides whether an allocation is feasible. Shares no code with the solvers; it recomputes everything, cost included.

Rules beyond DESIGN section 4:

- A replica consists of pieces, each wholly on one node. Their places are proven by `packing`; pieces that run on a node
  that is not known need no proof, nor do pools whose stock is not known. With `keep_running` a node that takes new
  replicas must hold them beside everything running there (in the resources that they ask for, as Kubernetes' scheduler
  does), and GPUs under a pool's limit count running replicas until they are gone.
- Budget, storage, GPU and group limits forbid growth above the running state, and never demand a removal.
- Unserved demand beyond its limit, and fewer replicas than the least number, are findings for the plan, not violations.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from plimsoll.allocation.problem import Allocation, AllocationProblem

RESOURCES = ("GPUs", "CPU cores", "bytes of memory")


@dataclass(frozen=True, slots=True)
class Violation:
    """`kind` is one of shape, integrality, sign, demand, service, capacity, delay, error, replicas, exclusion, spare,
    packing, per-node, stock, pool-limit, limit, budget, storage, cost."""

    kind: str
    message: str


def check(problem: AllocationProblem, allocation: Allocation, tolerance: float = 1e-6) -> tuple[Violation, ...]:
    """All violations; empty when the allocation is feasible. `tolerance` is relative above 1, absolute below."""
    return tuple(_shape(problem, allocation)) or tuple(_all(problem, allocation, tolerance))


def _over(value: float, limit: float, tolerance: float) -> bool:
    """Also true when the value is not a number."""
    return not value <= limit + tolerance * max(1.0, abs(limit))


def _shape(problem: AllocationProblem, allocation: Allocation) -> Iterator[Violation]:
    for name, array, length in (
        ("replicas", allocation.replicas, problem.options),
        ("share", allocation.share, problem.pairs),
        ("unserved", allocation.unserved, problem.classes),
    ):
        if array.shape != (length,):
            yield Violation("shape", f"{name} has shape {array.shape}, expected {(length,)}")
        elif not np.isfinite(array).all():
            yield Violation("shape", f"{name} has values that are not finite numbers")
    if allocation.packing.ndim != 2 or allocation.packing.shape[1] != 3:
        yield Violation("shape", f"packing has shape {allocation.packing.shape}, expected (any, 3)")
    for name, array in (("replicas", allocation.replicas), ("packing", allocation.packing)):
        if not np.issubdtype(array.dtype, np.integer):
            yield Violation("integrality", f"{name} holds {array.dtype}, expected integers")


def _all(problem: AllocationProblem, allocation: Allocation, tolerance: float) -> Iterator[Violation]:
    yield from _signs(problem, allocation, tolerance)
    yield from _classes(problem, allocation, tolerance)
    yield from _options(problem, allocation, tolerance)
    yield from _deployments(problem, allocation)
    yield from _packing(problem, allocation, tolerance)
    yield from _limits(problem, allocation, tolerance)
    yield from _cost(problem, allocation, tolerance)


def _running(problem: AllocationProblem) -> dict[int, int]:
    pieces: dict[int, int] = defaultdict(int)
    for option, _, count in problem.running.tolist():
        pieces[option] += count
    total: dict[int, int] = defaultdict(int)
    for option, count in pieces.items():
        total[option] = count // int(problem.option_nodes[option])
    return total


def _used(allocation: Allocation, running: dict[int, int]) -> list[int]:
    """Options that have replicas, or run now."""
    return sorted({*np.flatnonzero(allocation.replicas).tolist(), *running})


def _signs(problem: AllocationProblem, allocation: Allocation, tolerance: float) -> Iterator[Violation]:
    for option in np.flatnonzero(allocation.replicas < 0).tolist():
        yield Violation("sign", f"option {option} has {allocation.replicas[option]} replicas")
    for pair in np.flatnonzero(allocation.share < -tolerance).tolist():
        where = f"class {problem.pair_class[pair]} on option {problem.pair_option[pair]}"
        yield Violation("sign", f"{where} has share {allocation.share[pair]}")
    for number in np.flatnonzero(allocation.unserved < -tolerance).tolist():
        yield Violation("sign", f"class {number} has unserved share {allocation.unserved[number]}")


def _classes(problem: AllocationProblem, allocation: Allocation, tolerance: float) -> Iterator[Violation]:
    served = [0.0] * problem.classes
    delay = [0.0] * problem.classes
    error = [0.0] * problem.classes
    for pair in np.flatnonzero(allocation.share).tolist():
        number, share = int(problem.pair_class[pair]), float(allocation.share[pair])
        served[number] += share
        delay[number] += share * float(problem.pair_delay_seconds[pair])
        error[number] += share * float(problem.pair_error[pair])
    for number in range(problem.classes):
        total = served[number] + float(allocation.unserved[number])
        if abs(total - 1.0) > tolerance:
            yield Violation("demand", f"class {number}: served and unserved shares sum to {total}, expected 1")
        for kind, value, limit in (
            ("delay", delay[number], float(problem.class_mean_delay_limit_seconds[number])),
            ("error", error[number], float(problem.class_mean_error_limit[number])),
        ):
            weight = 1.0 if problem.means_over_all else served[number]
            if limit != float("inf") and value - limit * weight > tolerance * max(1.0, limit):
                mean = value / weight if weight else value
                yield Violation(kind, f"class {number}: mean {kind} is {mean}, limit {limit}")


def _options(problem: AllocationProblem, allocation: Allocation, tolerance: float) -> Iterator[Violation]:
    taken: dict[tuple[int, int], float] = defaultdict(float)
    users: dict[int, list[int]] = defaultdict(list)
    for pair in np.flatnonzero(allocation.share > tolerance).tolist():
        option, number = int(problem.pair_option[pair]), int(problem.pair_class[pair])
        for resource, load in enumerate(problem.pair_load[pair].tolist()):
            taken[option, resource] += load * float(allocation.share[pair])
        users[option].append(number)
    for option, numbers in users.items():
        if allocation.replicas[option] < 1:
            yield Violation("service", f"option {option} has no replica but serves classes {numbers}")
        spare = int(problem.option_spare[option])
        carrying = max(0, int(allocation.replicas[option]) - spare)
        if not carrying and spare and any(problem.class_rate_per_hour[number] > 0 for number in numbers):
            message = f"option {option} has {allocation.replicas[option]} replicas, of which {spare} must be spare"
            yield Violation("spare", message)
        for number in numbers:
            if problem.class_deployment[number] != problem.option_deployment[option]:
                yield Violation("service", f"class {number} uses option {option} of another deployment")
        for resource, each in enumerate(problem.option_capacity[option].tolist()):
            capacity, needed = each * carrying, taken[option, resource]
            if _over(needed, capacity, tolerance):
                message = f"option {option} needs {needed} of resource {resource}, has {capacity}"
                yield Violation("capacity", message)
    for option in np.flatnonzero(allocation.replicas > problem.option_max_replicas).tolist():
        limit = problem.option_max_replicas[option]
        yield Violation("replicas", f"option {option} has {allocation.replicas[option]} replicas, at most {limit}")
    if problem.one_option_per_pair:
        active: dict[int, list[int]] = defaultdict(list)
        for option in np.flatnonzero(allocation.replicas > 0).tolist():
            active[int(problem.option_pair[option])].append(option)
        for pair, together in active.items():
            if len(together) > 1:
                yield Violation("exclusion", f"options {together} of pair {pair} have replicas, at most one may")


def _deployments(problem: AllocationProblem, allocation: Allocation) -> Iterator[Violation]:
    total: dict[int, int] = defaultdict(int)
    for option in np.flatnonzero(allocation.replicas).tolist():
        total[int(problem.option_deployment[option])] += int(allocation.replicas[option])
    for deployment, count in total.items():
        limit = int(problem.deployment_max_replicas[deployment])
        if count > limit:
            yield Violation("replicas", f"deployment {deployment} has {count} replicas, at most {limit}")


def _packing(problem: AllocationProblem, allocation: Allocation, tolerance: float) -> Iterator[Violation]:
    placed: dict[tuple[int, int], int] = defaultdict(int)
    for option, node, count in allocation.packing.tolist():
        if not (0 <= option < problem.options and 0 <= node < len(problem.node_pool)):
            yield Violation("packing", f"row names option {option} and node {node}, which are not there")
        elif count < 1:
            yield Violation("packing", f"row puts {count} pieces of option {option} on node {node}")
        elif problem.option_pool[option] != problem.node_pool[node]:
            yield Violation("packing", f"option {option} is put on node {node} of another pool")
        else:
            placed[option, node] += count
    unknown: dict[int, int] = defaultdict(int)
    known: dict[tuple[int, int], int] = defaultdict(int)
    for option, node, count in problem.running.tolist():
        if node < 0:
            unknown[option] += count
        else:
            known[option, node] += count
    proven: dict[int, int] = defaultdict(int)
    for (option, _), count in placed.items():
        proven[option] += count
    for option in sorted({*np.flatnonzero(allocation.replicas).tolist(), *proven}):
        pieces = int(allocation.replicas[option]) * int(problem.option_nodes[option])
        expected = pieces - min(pieces, unknown[option])
        if problem.pool_unlimited[problem.option_pool[option]]:
            expected = 0
        if proven[option] != expected:
            yield Violation("packing", f"option {option}: {proven[option]} pieces are packed, expected {expected}")
    for (option, node), count in sorted(placed.items()):
        most = max(int(problem.option_per_node[option]), known[option, node] if problem.keep_running else 0)
        if count > most:
            yield Violation("per-node", f"node {node} has {count} pieces of option {option}, at most {most}")
    yield from _stock(problem, placed, known, tolerance)


def _stock(
    problem: AllocationProblem,
    placed: dict[tuple[int, int], int],
    known: dict[tuple[int, int], int],
    tolerance: float,
) -> Iterator[Violation]:
    used: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])

    def put(option: int, node: int, count: int) -> None:
        for resource in range(3):
            used[node][resource] += count * float(problem.option_demand[option, resource])

    taking: set[tuple[int, int]] = set()
    for (option, node), count in placed.items():
        new = max(0, count - known[option, node]) if problem.keep_running else count
        if new:
            asked = np.flatnonzero(problem.option_demand[option] > 0).tolist()
            taking.update((node, resource) for resource in asked)
            put(option, node, new)
    if problem.keep_running:
        for (option, node), count in known.items():
            put(option, node, count)
    for node, resource in sorted(taking):
        free = float(problem.node_free[node, resource])
        if _over(used[node][resource], free, tolerance):
            name = RESOURCES[resource]
            yield Violation("stock", f"node {node} needs {used[node][resource]} {name}, has {free} free")


def _limits(problem: AllocationProblem, allocation: Allocation, tolerance: float) -> Iterator[Violation]:
    running = _running(problem)
    rent = 0.0
    grown = []
    gpus: dict[int, float] = defaultdict(float)
    for option in _used(allocation, running):
        replicas, pool = int(allocation.replicas[option]), int(problem.option_pool[option])
        rent += float(problem.option_price_per_hour[option]) * replicas
        counted = max(replicas, running[option]) if problem.keep_running else replicas
        gpus[pool] += float(problem.option_demand[option, 0]) * int(problem.option_nodes[option]) * counted
        if replicas > running[option]:
            grown.append(option)
    stored = _stored(problem, allocation)
    storage_cost = stored * problem.storage_price_per_gigabyte_hour
    storage_cost += sum(
        float(problem.pair_storage_cost_per_hour[pair]) * float(allocation.share[pair])
        for pair in np.flatnonzero(allocation.share).tolist()
    )
    paid = [option for option in grown if problem.option_price_per_hour[option] > 0]
    if paid and _over(rent + storage_cost, problem.budget_per_hour, tolerance):
        message = f"rent {rent} and storage {storage_cost} exceed {problem.budget_per_hour} per hour"
        yield Violation("budget", f"{message} while options {paid} grow")
    if grown and _over(stored, problem.storage_limit_gigabytes, tolerance):
        message = f"{stored} GB stored exceed {problem.storage_limit_gigabytes} while options {grown} grow"
        yield Violation("storage", message)
    for pool, count in gpus.items():
        limit = float(problem.pool_gpu_limit[pool])
        growing = [n for n in grown if problem.option_pool[n] == pool and problem.option_demand[n, 0] > 0]
        if growing and _over(count, limit, tolerance):
            yield Violation("pool-limit", f"pool {pool}: {count} GPUs exceed {limit} while options {growing} grow")
    yield from _group_limits(problem, allocation, running, grown, tolerance)


def _group_limits(
    problem: AllocationProblem, allocation: Allocation, running: dict[int, int], grown: list[int], tolerance: float
) -> Iterator[Violation]:
    used: dict[int, float] = defaultdict(float)
    growing: dict[int, list[int]] = defaultdict(list)
    entries = zip(problem.use_limit.tolist(), problem.use_option.tolist(), problem.use_amount.tolist(), strict=True)
    for number, option, amount in entries:
        counted = int(allocation.replicas[option])
        if problem.keep_running and problem.limit_at_once[number]:
            counted = max(counted, running[option])
        used[number] += amount * counted
        if option in grown and amount > 0:
            growing[number].append(option)
    for number, options in growing.items():
        capacity = float(problem.limit_capacity[number])
        if _over(used[number], capacity, tolerance):
            yield Violation("limit", f"limit {number}: {used[number]} exceed {capacity} while options {options} grow")


def _stored(problem: AllocationProblem, allocation: Allocation) -> float:
    """Gigabytes: one copy for each pair of model variant and pool that has a replica."""
    by_pair: dict[int, float] = {}
    for option in np.flatnonzero(allocation.replicas > 0).tolist():
        by_pair[int(problem.option_pair[option])] = float(problem.option_storage_gigabytes[option])
    return sum(by_pair.values())


def _cost(problem: AllocationProblem, allocation: Allocation, tolerance: float) -> Iterator[Violation]:
    running = _running(problem)
    rental = change = latency = unserved = 0.0
    storage = _stored(problem, allocation) * problem.storage_price_per_gigabyte_hour
    for option in _used(allocation, running):
        replicas = int(allocation.replicas[option])
        rental += replicas * float(problem.option_price_per_hour[option])
        change += max(0, replicas - running[option]) * float(problem.option_start_cost_per_hour[option])
        change += max(0, running[option] - replicas) * float(problem.option_stop_cost_per_hour[option])
    for pair in np.flatnonzero(allocation.share).tolist():
        number = int(problem.pair_class[pair])
        requests_per_hour = float(problem.class_rate_per_hour[number]) * float(allocation.share[pair])
        seconds = float(problem.pair_delay_seconds[pair])
        latency += float(problem.class_latency_penalty_per_request_second[number]) * requests_per_hour * seconds
        storage += float(problem.pair_storage_cost_per_hour[pair]) * float(allocation.share[pair])
    for number, share in enumerate(allocation.unserved.tolist()):
        requests_per_hour = float(problem.class_rate_per_hour[number]) * share
        unserved += float(problem.class_unserved_penalty_per_request[number]) * requests_per_hour
    for name, reported, value in (
        ("rental", allocation.cost.rental, rental),
        ("storage", allocation.cost.storage, storage),
        ("latency penalty", allocation.cost.latency_penalty, latency),
        ("unserved penalty", allocation.cost.unserved_penalty, unserved),
        ("change cost", allocation.cost.change, change),
        ("total", allocation.cost.total, rental + storage + latency + unserved + change),
    ):
        if not abs(reported - value) <= tolerance * max(1.0, abs(value)):
            yield Violation("cost", f"{name} is reported as {reported}, is {value} per hour")
