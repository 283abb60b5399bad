"""Whether a problem's numbers make sense, before a solver sees them."""

from collections.abc import Iterator

import numpy as np

from plimsoll.allocation.problem import AllocationProblem, Bools, Floats, Ints

_FINITE_FROM_ZERO = (
    "class_rate_per_hour",
    "class_unserved_penalty_per_request",
    "class_latency_penalty_per_request_second",
    "option_price_per_hour",
    "option_demand",
    "option_start_cost_per_hour",
    "option_stop_cost_per_hour",
    "option_storage_gigabytes",
    "pair_load",
    "pair_delay_seconds",
    "pair_error",
    "pair_storage_cost_per_hour",
    "node_free",
    "limit_capacity",
    "use_amount",
)
_FROM_ZERO = ("class_mean_delay_limit_seconds", "class_mean_error_limit", "pool_gpu_limit")
_FROM_ONE = ("option_nodes", "option_per_node")
_COUNTS = ("option_max_replicas", "option_spare", "deployment_min_replicas", "deployment_max_replicas")


def validate(problem: AllocationProblem) -> None:
    """Raises ValueError that names every array with an entry no solver can take, the entry and what is accepted."""
    found = list(_problems(problem))
    if found:
        raise ValueError("; ".join(found))


def _problems(problem: AllocationProblem) -> Iterator[str]:
    for name in _FINITE_FROM_ZERO:
        values: Floats = getattr(problem, name)
        yield from _first(name, values, ~(np.isfinite(values) & (values >= 0)), "a finite number from 0 on")
    for name in _FROM_ZERO:
        values = getattr(problem, name)
        yield from _first(name, values, ~(values >= 0), "a number from 0 on, or infinity")
    for name in _COUNTS:
        values = getattr(problem, name)
        yield from _first(name, values, values < 0, "a number from 0 on")
    for name in _FROM_ONE:
        values = getattr(problem, name)
        yield from _first(name, values, values < 1, "a number from 1 on")
    if problem.one_option_per_pair:
        spare = problem.option_spare
        yield from _first("option_spare", spare, spare > 0, "0 where a pair has one option only")
    limit = problem.class_unserved_limit
    yield from _first("class_unserved_limit", limit, ~((limit >= 0) & (limit <= 1)), "a number from 0 to 1")
    capacity = problem.option_capacity
    needed = np.zeros(problem.options, dtype=bool)
    needed[problem.pair_option[problem.pair_option < problem.options]] = True
    broken = ~(np.isfinite(capacity) & ((capacity > 0) | ~needed[:, None]))
    yield from _first("option_capacity", capacity, broken, "a finite number above 0")
    for name, end in (
        ("class_deployment", len(problem.deployment_max_replicas)),
        ("option_deployment", len(problem.deployment_max_replicas)),
        ("option_pool", len(problem.pool_unlimited)),
        ("pair_class", problem.classes),
        ("pair_option", problem.options),
        ("node_pool", len(problem.pool_unlimited)),
        ("use_limit", len(problem.limit_capacity)),
        ("use_option", problem.options),
    ):
        numbers = getattr(problem, name)
        yield from _first(name, numbers, (numbers < 0) | (numbers >= end), f"a number from 0 to {end - 1}")


def _first(name: str, values: Floats | Ints, broken: Bools, accepted: str) -> Iterator[str]:
    if broken.any():
        where = np.argwhere(broken)[0].tolist()
        yield f"{name}{where} is {values[tuple(where)]}: expected {accepted}"
