"""`check` finds every kind of violation: a feasible allocation is broken in one place at a time."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.allocation import Allocation, AllocationProblem, Cost, check, cost_of, solve_greedy
from tests.unit.allocation.builder import Builder


def problem() -> AllocationProblem:
    b = Builder(budget=20.0)
    small, large = b.pool([4.0, 4.0], gpu_limit=8.0), b.pool([8.0])
    b.deployment(most=6)
    b.deployment()
    first = b.option(small, price=1.0, cpus=100.0, memory_bytes=1e14, most=4, start=0.2, stop=0.1, capacity=0.85)
    b.option(large, price=8.0, gpus=8)
    other = b.option(small, price=1.0, deployment=1)
    b.traffic({0: 2.4, 1: 0.5}, delay_limit=2.0, error_limit=0.05, delays={0: 1.5, 1: 3.0}, errors={0: 0.04, 1: 0.09})
    b.traffic({other: 0.5}, deployment=1, latency_penalty=0.01)
    b.running = [(first, 0, 1)]
    return b.build()


def with_cost(problem: AllocationProblem, allocation: Allocation) -> Allocation:
    cost = cost_of(problem, allocation.replicas, allocation.share, allocation.unserved)
    return replace(allocation, cost=cost)


def kinds(problem: AllocationProblem, allocation: Allocation) -> set[str]:
    return {violation.kind for violation in check(problem, allocation)}


def base() -> tuple[AllocationProblem, Allocation]:
    instance = problem()
    allocation = solve_greedy(instance)
    assert check(instance, allocation) == ()
    assert allocation.replicas.tolist() == [3, 0, 1]
    return instance, allocation


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"replicas": [3, 0]}, {"shape"}),
        ({"share": [1.0, float("nan"), 1.0]}, {"shape"}),
        ({"unserved": [0.0]}, {"shape"}),
        ({"packing": [[0, 1]]}, {"shape"}),
        ({"share": [1.1, -0.1, 1.0]}, {"sign", "capacity"}),
        ({"unserved": [-0.1, 0.0], "share": [1.0, 0.1, 1.0]}, {"sign", "service", "capacity"}),
        ({"unserved": [0.2, 0.0]}, {"demand"}),
        ({"share": [0.5, 0.0, 1.0]}, {"demand"}),
        ({"share": [0.5, 0.5, 1.0]}, {"service", "capacity", "delay", "error"}),
        ({"replicas": [2, 0, 1], "packing": [[0, 0, 2], [2, 0, 1]]}, {"capacity"}),
        ({"replicas": [5, 0, 1], "packing": [[0, 0, 3], [0, 1, 2], [2, 1, 1]]}, {"replicas"}),
        ({"replicas": [0, 7, 1]}, {"replicas", "packing", "service", "capacity", "budget"}),
        ({"packing": [[0, 0, 2], [2, 0, 1]]}, {"packing"}),
        ({"packing": [[0, 0, 4], [2, 1, 1]]}, {"packing"}),
        ({"packing": [[0, 0, 3], [2, 2, 1]]}, {"packing"}),
        ({"packing": [[0, 0, 3], [2, 9, 1]]}, {"packing"}),
        ({"packing": [[0, 0, 3], [2, 0, 1], [2, 1, 0]]}, {"packing"}),
    ],
)
def test_broken_answer(changes: dict[str, list[object]], expected: set[str]) -> None:
    instance, allocation = base()
    arrays = {name: np.array(value) for name, value in changes.items()}
    broken = replace(allocation, **arrays)
    if "shape" not in expected:
        broken = with_cost(instance, broken)
    assert kinds(instance, broken) == expected


def test_replicas_are_whole_numbers() -> None:
    instance, allocation = base()
    broken = replace(allocation, replicas=allocation.replicas.astype(np.float64))
    assert kinds(instance, broken) == {"integrality"}


def test_negative_replicas() -> None:
    instance, allocation = base()
    broken = with_cost(instance, replace(allocation, replicas=np.array([3, -1, 1])))
    assert "sign" in kinds(instance, broken)


@pytest.mark.parametrize("resource", [0, 1, 2])
def test_every_resource_of_a_node(resource: int) -> None:
    instance, allocation = base()
    free = instance.node_free.copy()
    free[:, resource] = instance.option_demand[0, resource] * 1.5
    assert "stock" in kinds(replace(instance, node_free=free), allocation)


def test_new_replicas_beside_all_running_ones() -> None:
    b = Builder()
    pool = b.pool([4.0])
    old, new = b.option(pool, gpus=2), b.option(pool, gpus=2)
    b.traffic({old: 1.0, new: 1.0})
    b.running = [(old, 0, 2)]
    instance = b.build()
    moved = with_cost(
        instance,
        Allocation(
            np.array([0, 1]),
            np.array([0.0, 1.0]),
            np.array([0.0]),
            np.array([[new, 0, 1]]),
            Cost(0.0, 0.0, 0.0, 0.0, 0.0),
        ),
    )
    assert kinds(instance, moved) == {"stock"}
    assert kinds(replace(instance, keep_running=False), moved) == set()


def test_budget_and_pool_limit_forbid_growth_only() -> None:
    instance, allocation = base()
    assert kinds(replace(instance, budget_per_hour=3.5), allocation) == {"budget"}
    assert kinds(replace(instance, pool_gpu_limit=np.array([3.0, 8.0])), allocation) == {"pool-limit"}
    grown = replace(instance, running=np.array([[0, 0, 3], [2, 0, 1]]))
    kept = with_cost(grown, replace(allocation, packing=np.array([[0, 0, 3], [2, 0, 1]])))
    assert kinds(replace(grown, budget_per_hour=3.5, pool_gpu_limit=np.array([3.0, 8.0])), kept) == set()


@pytest.mark.parametrize("item", ["rental", "latency_penalty", "unserved_penalty", "change"])
def test_every_item_of_the_reported_cost(item: str) -> None:
    instance, allocation = base()
    broken = replace(allocation, cost=replace(allocation.cost, **{item: getattr(allocation.cost, item) + 0.01}))
    assert kinds(instance, broken) == {"cost"}


def test_class_on_an_option_of_another_deployment() -> None:
    instance, allocation = base()
    assert kinds(replace(instance, class_deployment=np.array([0, 0])), allocation) == {"service"}


def test_unserved_beyond_its_limit_and_a_missed_floor_are_no_violations() -> None:
    b = Builder()
    b.deployment(least=5)
    b.traffic({b.option(b.pool([1.0])): 4.0})
    instance = b.build()
    allocation = solve_greedy(instance)
    assert allocation.unserved[0] == pytest.approx(0.75)
    assert check(instance, allocation) == ()
