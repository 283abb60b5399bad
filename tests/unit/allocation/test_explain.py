"""Why a class does not use an option, and what a limit is worth: hand-made problems with known answers."""

import numpy as np
import pytest

from plimsoll.allocation import Allocation, AllocationProblem, check, cost_of, solve_greedy
from plimsoll.allocation.explain import ENDLESS, Alternative, Reason, alternatives, full_pools, room, with_node, worth
from plimsoll.allocation.packing import answer
from tests.unit.allocation.builder import Builder


def planned(problem: AllocationProblem, replicas: list[int], share: list[float]) -> Allocation:
    """The feasible allocation with these replicas and shares."""
    shares = np.array(share, dtype=float)
    unserved = 1.0 - np.bincount(problem.pair_class, shares, minlength=problem.classes)
    unserved[np.abs(unserved) < 1e-12] = 0.0
    found = answer(problem, np.array(replicas, dtype=np.int64), shares, unserved)
    assert found is not None
    assert check(problem, found) == ()
    return found


def only(problem: AllocationProblem, allocation: Allocation) -> Alternative:
    ((one,),) = alternatives(problem, allocation)
    return one


def two_options(
    prices: tuple[float, float] = (1.0, 1.5), nodes: tuple[float, ...] = (8.0,), **fields: float
) -> tuple[Builder, int, int]:
    """One class that takes 1.6 replicas of the first option or 0.9 of the second, one pool."""
    b = Builder(**fields)
    pool = b.pool(nodes)
    return b, b.option(pool, prices[0]), b.option(pool, prices[1], gpus=2.0)


def test_dearer_is_measured_in_whole_replicas():
    b, first, second = two_options(prices=(1.0, 2.25))
    b.traffic({first: 1.6, second: 0.9})
    problem = b.build()
    one = only(problem, planned(problem, [2, 0], [1.0, 0.0]))
    assert (one.option, one.reason, one.replicas, one.opened) == (second, Reason.DEARER, 1, 1)
    assert one.extra_cost_per_hour == pytest.approx(0.25)


def test_a_class_that_leaves_shared_replicas_frees_only_what_the_others_do_not_need():
    b, first, second = two_options(prices=(1.0, 1.5))
    b.traffic({first: 0.6})
    b.traffic({first: 0.9, second: 0.5})
    problem = b.build()
    found = alternatives(problem, planned(problem, [2, 0], [1.0, 1.0, 0.0]))
    assert found[0] == []
    (one,) = found[1]
    assert one.extra_cost_per_hour == pytest.approx(1.5 - 1.0)


def test_free_room_in_a_replica_that_runs_for_others_costs_nothing():
    b, first, second = two_options(prices=(1.0, 1.5))
    b.traffic({first: 0.9, second: 0.4})
    b.traffic({second: 0.5})
    problem = b.build()
    one = alternatives(problem, planned(problem, [1, 1], [1.0, 0.0, 1.0]))[0][0]
    assert (one.reason, one.opened) == (Reason.UNUSED, 0)
    assert one.extra_cost_per_hour == pytest.approx(-1.0)


def test_an_option_that_serves_a_part_is_an_alternative_for_the_whole():
    b, first, second = two_options(prices=(1.0, 1.5))
    b.traffic({first: 2.0, second: 2.0})
    problem = b.build()
    found = alternatives(problem, planned(problem, [1, 1], [0.5, 0.5]))[0]
    assert {(one.option, one.replicas, round(one.extra_cost_per_hour, 6)) for one in found} == {
        (first, 2, -0.5),
        (second, 2, 0.5),
    }


@pytest.mark.parametrize(
    ("prices", "fields", "traffic", "reason"),
    [
        ((1.0, 1.0), {}, {"errors": {0: 0.0, 1: 0.2}, "error_limit": 0.1}, Reason.ERROR),
        ((1.0, 1.0), {}, {"delays": {0: 1.0, 1: 9.0}, "delay_limit": 5.0}, Reason.DELAY),
        ((2.0, 1.0), {}, {}, Reason.UNUSED),
    ],
)
def test_reasons_of_a_single_alternative(prices, fields, traffic, reason):
    b, first, second = two_options(prices=prices, **fields)
    b.traffic({first: 1.6, second: 0.9}, **traffic)
    problem = b.build()
    assert only(problem, planned(problem, [2, 0], [1.0, 0.0])).reason is reason


def test_a_cheaper_option_without_a_place_is_short_of_stock():
    b, first, second = two_options(prices=(2.0, 1.0), nodes=(1.0, 1.0))
    b.traffic({first: 1.6, second: 0.9})
    problem = b.build()
    allocation = planned(problem, [2, 0], [1.0, 0.0])
    assert only(problem, allocation).reason is Reason.STOCK
    assert only(problem, allocation).extra_cost_per_hour == pytest.approx(-3.0)
    assert full_pools(problem, allocation).tolist() == [True]


def test_new_replicas_give_their_place_back_and_running_ones_do_not():
    for running, reason in ((0, Reason.UNUSED), (2, Reason.STOCK)):
        b, first, second = two_options(prices=(2.0, 1.0), nodes=(2.0,))
        b.traffic({first: 1.6, second: 0.9})
        if running:
            b.running.append((first, 0, running))
        problem = b.build()
        assert only(problem, planned(problem, [2, 0], [1.0, 0.0])).reason is reason


def test_too_many_replicas_no_money_no_storage_and_a_move_that_does_not_pay():
    b = Builder()
    deployment = b.deployment(most=2)
    pool = b.pool((9.0,))
    dear, cheap = b.option(pool, 5.0, deployment=deployment), b.option(pool, 1.0, deployment=deployment)
    b.traffic({dear: 1.0, cheap: 3.0}, deployment=deployment)
    problem = b.build()
    assert only(problem, planned(problem, [1, 0], [1.0, 0.0])).reason is Reason.REPLICAS

    b, first, second = two_options(prices=(1.0, 3.0), budget=2.0)
    b.traffic({first: 4.0, second: 0.9}, penalty=100.0)
    problem = b.build()
    found = alternatives(problem, planned(problem, [2, 0], [0.5, 0.0]))[0]
    assert {one.option: one.reason for one in found} == {first: Reason.BUDGET, second: Reason.BUDGET}

    b = Builder(storage_limit=10.0)
    pool = b.pool((9.0,))
    small, large = b.option(pool, 2.0, storage=10.0), b.option(pool, 1.0, storage=11.0)
    b.traffic({small: 1.0, large: 1.0})
    problem = b.build()
    assert only(problem, planned(problem, [1, 0], [1.0, 0.0])).reason is Reason.STORAGE

    b = Builder()
    pool = b.pool((9.0,))
    runs, cheaper = b.option(pool, 1.1), b.option(pool, 1.0, start=0.2)
    b.traffic({runs: 1.0, cheaper: 1.0})
    b.running.append((runs, 0, 1))
    problem = b.build()
    one = only(problem, planned(problem, [1, 0], [1.0, 0.0]))
    assert one.reason is Reason.MOVE
    assert (one.extra_cost_per_hour, one.move_cost_per_hour) == pytest.approx((-0.1, 0.2))


def test_penalties_and_storage_count():
    b = Builder(storage_price=0.1)
    pool = b.pool((9.0,))
    one_, other = b.option(pool, 1.0, storage=10.0), b.option(pool, 1.0, storage=30.0)
    b.traffic({one_: 1.0, other: 1.0}, rate=100.0, latency_penalty=0.01, delays={0: 1.0, 1: 1.5})
    problem = b.build()
    found = only(problem, planned(problem, [1, 0], [1.0, 0.0]))
    assert found.extra_cost_per_hour == pytest.approx(0.1 * 20 + 0.01 * 100 * 0.5)


def test_what_an_alternative_costs_is_what_the_move_would_cost():
    """Against `cost_of` on the moved allocation, for random problems of one class."""
    rng = np.random.default_rng(7)
    for _ in range(40):
        b = Builder(storage_price=0.05)
        pool = b.pool((50.0,))
        loads = {}
        for _ in range(4):
            option = b.option(
                pool, float(rng.uniform(1, 4)), storage=float(rng.uniform(0, 9)), start=float(rng.uniform(0, 0.3))
            )
            loads[option] = float(rng.uniform(0.2, 5))
        delays = {option: float(rng.uniform(0.1, 2)) for option in loads}
        b.traffic(loads, latency_penalty=0.003, delays=delays)
        problem = b.build()
        now = solve_greedy(problem)
        for one in alternatives(problem, now)[0]:
            replicas, share = np.zeros(4, dtype=np.int64), np.zeros(4)
            replicas[one.option], share[one.option] = one.replicas, 1.0
            cost = cost_of(problem, replicas, share, np.zeros(1)).total
            assert cost - now.cost.total == pytest.approx(one.extra_cost_per_hour + one.move_cost_per_hour)


def test_room_counts_what_fits_beside_plan_and_running():
    b = Builder()
    pool, endless = b.pool((4.0, 3.0)), b.pool(None)
    single, double, unknown = b.option(pool), b.option(pool, gpus=2.0), b.option(endless)
    b.traffic({single: 1.0, double: 1.0, unknown: 1.0})
    b.running.append((double, 0, 1))
    problem = b.build()
    allocation = planned(problem, [1, 0, 0], [1.0, 0.0, 0.0])
    left = room(problem, allocation)
    assert (left[single], left[double], left[unknown]) == (4, 1, ENDLESS)
    assert full_pools(problem, allocation).tolist() == [False, False]


def test_a_node_more_is_worth_what_it_serves_or_saves():
    b, first, second = two_options(prices=(2.0, 1.0), nodes=(1.0, 1.0))
    b.traffic({first: 1.6, second: 0.9}, rate=3600.0)
    problem = b.build()
    now = planned(problem, [2, 0], [1.0, 0.0])
    richer = with_node(problem, 0, np.array([2.0, 1000.0, 1e15]))
    better = solve_greedy(richer)
    found = worth(richer, now, better)
    assert found.served_requests_per_hour == 0
    assert found.saving_per_hour == pytest.approx(3.0)
    less = planned(problem, [1, 0], [0.5, 0.0])
    assert worth(richer, less, better).served_requests_per_hour == pytest.approx(1800.0)
    assert worth(richer, better, less) == worth(richer, better, better)
    assert worth(richer, better, less).saving_per_hour == 0
