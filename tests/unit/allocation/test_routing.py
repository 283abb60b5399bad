"""Shares for given replicas."""

from dataclasses import replace

import numpy as np
import pytest

from plimsoll.allocation import check
from plimsoll.allocation.routing import route
from tests.unit.allocation.builder import Builder


def two_pools() -> Builder:
    """A dear fast option and a cheap slow one, room for 4 and 8 replicas."""
    b = Builder()
    b.option(b.pool([4.0]), price=3.0)
    b.option(b.pool([8.0]), price=1.0)
    return b


def test_the_faster_option_is_filled_first_where_delay_costs() -> None:
    b = two_pools()
    b.traffic({0: 2.0, 1: 2.0}, latency_penalty=0.1, delays={0: 1.0, 1: 3.0})
    problem = b.build()
    allocation = route(problem, np.array([1, 2]))
    assert allocation is not None
    assert check(problem, allocation) == ()
    assert allocation.share == pytest.approx([0.5, 0.5])
    assert allocation.cost.latency_penalty == pytest.approx(0.1 * 100 * 2.0)
    assert allocation.packing.tolist() == [[0, 0, 1], [1, 1, 2]]


def test_a_mean_limit_over_served_traffic_and_over_all() -> None:
    b = two_pools()
    b.traffic({0: 1.0, 1: 1.0}, limit=0.5, penalty=0.0, delay_limit=2.0, delays={0: 1.0, 1: 5.0}, latency_penalty=0.0)
    served = b.build()
    allocation = route(replace(served, class_unserved_limit=np.zeros(1)), np.array([1, 1]))
    assert allocation is not None
    assert allocation.share[1] <= 0.25 + 1e-9
    only_slow = route(served, np.array([0, 1]))
    assert only_slow is not None
    assert only_slow.unserved.tolist() == [1.0]
    over_all = replace(served, means_over_all=True, class_unserved_penalty_per_request=np.ones(1))
    some_slow = route(over_all, np.array([0, 1]))
    assert some_slow is not None
    assert some_slow.share.tolist() == pytest.approx([0.0, 0.4])
    assert check(over_all, some_slow) == ()


def test_the_higher_priority_goes_first_whatever_it_costs() -> None:
    b = Builder()
    b.option(b.pool([1.0]))
    b.traffic({0: 1.0}, priority=0, penalty=100.0)
    b.traffic({0: 0.6}, priority=1, penalty=0.0)
    problem = b.build()
    allocation = route(problem, np.array([1]))
    assert allocation is not None
    assert allocation.share == pytest.approx([0.4, 1.0])
    assert check(problem, allocation) == ()


def test_within_the_limit_traffic_is_dropped_where_that_is_cheaper() -> None:
    b = Builder()
    b.option(b.pool([1.0]))
    b.traffic({0: 0.5}, limit=0.3, penalty=0.01, latency_penalty=0.1, delays={0: 1.0})
    allocation = route(b.build(), np.array([1]))
    assert allocation is not None
    assert allocation.unserved == pytest.approx([0.3])


def test_the_budget_limits_stored_data() -> None:
    b = Builder(budget=3.0)
    b.option(b.pool([1.0]), price=2.0)
    b.traffic({0: 0.5}, limit=1.0, penalty=1.0)
    problem = replace(b.build(), pair_storage_cost_per_hour=np.array([4.0]))
    allocation = route(problem, np.array([1]))
    assert allocation is not None
    assert allocation.share == pytest.approx([0.25])
    assert check(problem, allocation) == ()


def test_classes_without_traffic_are_answered_by_what_is_there() -> None:
    b = two_pools()
    b.traffic({0: 0.0, 1: 0.0}, rate=0.0, delays={0: 1.0, 1: 0.5}, error_limit=0.1, errors={0: 0.0, 1: 0.2})
    b.traffic({0: 0.0}, rate=0.0)
    problem = b.build()
    allocation = route(problem, np.array([1, 1]))
    assert allocation is not None
    assert allocation.share.tolist() == [1.0, 0.0, 1.0]
    assert allocation.cost.total == allocation.cost.rental
    nothing = route(problem, np.array([0, 1]))
    assert nothing is not None
    assert nothing.unserved.tolist() == [1.0, 1.0]


def test_nothing_to_route_or_nowhere_to() -> None:
    b = two_pools()
    none = route(b.build(), np.array([1, 0]))
    assert none is not None
    assert none.cost.total == 3.0
    b.traffic({0: 1.0}, penalty=0.5)
    dropped = route(b.build(), np.array([0, 1]))
    assert dropped is not None
    assert dropped.unserved.tolist() == [1.0]
    assert dropped.cost.unserved_penalty == pytest.approx(50.0)


@pytest.mark.parametrize(
    ("change", "replicas"),
    [
        ({}, [5, 0]),
        ({}, [-1, 0]),
        ({"option_max_replicas": np.array([1, 9])}, [2, 0]),
        ({"deployment_max_replicas": np.array([3])}, [2, 2]),
        ({"budget_per_hour": 5.0}, [2, 0]),
        ({"pool_gpu_limit": np.array([1.0, 9.0])}, [2, 0]),
        ({"one_option_per_pair": True, "option_pair": np.array([0, 0])}, [1, 1]),
        ({"storage_limit_gigabytes": 3.0, "option_storage_gigabytes": np.array([2.0, 2.0])}, [1, 1]),
    ],
)
def test_replicas_that_break_a_limit_of_their_own(change: dict[str, object], replicas: list[int]) -> None:
    b = two_pools()
    b.traffic({0: 1.0, 1: 1.0})
    assert route(replace(b.build(), **change), np.array(replicas)) is None


def test_what_runs_may_stay_above_the_limits() -> None:
    b = Builder(budget=1.0)
    pool = b.pool([4.0], gpu_limit=1.0)
    b.option(pool, price=3.0)
    b.traffic({0: 1.0})
    b.running.append((0, 0, 2))
    problem = b.build()
    stays = route(problem, np.array([2]))
    assert stays is not None
    assert check(problem, stays) == ()
    assert route(problem, np.array([3])) is None
