"""GH on instances small enough to know the optimum by hand."""

import doctest
from dataclasses import replace

import numpy as np
import pytest

import plimsoll.allocation
from plimsoll.allocation import Allocation, AllocationProblem, check, solve_greedy
from tests.unit.allocation.builder import Builder


def solved(problem: AllocationProblem) -> Allocation:
    allocation = solve_greedy(problem)
    assert check(problem, allocation) == ()
    return allocation


def test_example_of_the_library() -> None:
    result = doctest.testmod(plimsoll.allocation)
    assert result.attempted > 5
    assert result.failed == 0


def test_cheapest_option_for_the_whole_load() -> None:
    b = Builder()
    small, large = b.option(b.pool([8.0]), price=1.0), b.option(b.pool([8.0]), price=1.5, gpus=2)
    b.traffic({small: 1.9, large: 0.9})
    assert solved(b.build()).replicas.tolist() == [0, 1]


def test_a_full_option_and_a_small_one_for_the_rest() -> None:
    b = Builder()
    pool = b.pool([100.0])
    large, small = b.option(pool, price=8.0, gpus=8), b.option(pool, price=1.5, gpus=1)
    b.traffic({large: 2.1, small: 20.0})
    answer = solved(b.build())
    assert answer.replicas.tolist() == [2, 1]
    assert answer.cost.total == pytest.approx(17.5)


def test_looks_ahead_to_the_price_of_the_rest() -> None:
    b = Builder()
    pool = b.pool([100.0])
    cheap, middle = b.option(pool, price=1.0), b.option(pool, price=1.6)
    b.traffic({cheap: 1.1, middle: 0.95})
    assert solved(b.build()).replicas.tolist() == [0, 1]


def test_classes_share_replicas() -> None:
    b = Builder()
    option = b.option(b.pool([8.0]), capacity=0.85)
    b.traffic({option: 0.4})
    b.traffic({option: 0.4})
    assert solved(b.build()).replicas.tolist() == [1]


def test_a_latency_penalty_can_pay_for_a_faster_option() -> None:
    b = Builder()
    pool = b.pool([8.0])
    slow, fast = b.option(pool, price=1.0), b.option(pool, price=2.0)
    b.traffic({slow: 0.5, fast: 0.5}, rate=100.0, latency_penalty=0.1, delays={slow: 1.0, fast: 0.5})
    answer = solved(b.build())
    assert answer.replicas.tolist() == [0, 1]
    assert answer.cost.latency_penalty == pytest.approx(5.0)


def test_a_replica_never_spans_nodes() -> None:
    b = Builder()
    option = b.option(b.pool([3.0, 3.0, 3.0]), gpus=4)
    b.traffic({option: 1.0})
    answer = solved(b.build())
    assert answer.replicas.tolist() == [0]
    assert answer.unserved.tolist() == [1.0]


@pytest.mark.parametrize(("cpus", "memory_bytes"), [(4.0, 1e15), (1000.0, 40e9)])
def test_cpu_and_memory_bind_too(cpus: float, memory_bytes: float) -> None:
    b = Builder()
    pool = b.pool([])
    b.node(pool, 8.0, cpus, memory_bytes)
    b.traffic({b.option(pool, cpus=2.0, memory_bytes=20e9): 4.0})
    answer = solved(b.build())
    assert answer.replicas.tolist() == [2]
    assert answer.unserved[0] == pytest.approx(0.5)


def test_small_replicas_go_to_partly_used_nodes() -> None:
    b = Builder()
    b.traffic({b.option(b.pool([8.0, 1.0, 2.0])): 3.0})
    assert solved(b.build()).packing.tolist() == [[0, 1, 1], [0, 2, 2]]


def test_scarce_stock_is_completed_by_a_dearer_pool() -> None:
    b = Builder()
    cheap, dear = b.option(b.pool([2.0]), price=1.0), b.option(b.pool([8.0]), price=3.0)
    b.traffic({cheap: 3.0, dear: 3.0})
    answer = solved(b.build())
    assert answer.replicas.tolist() == [2, 1]
    assert answer.unserved.tolist() == [0.0]


def test_unknown_stock_is_not_packed_but_its_gpu_limit_holds() -> None:
    b = Builder()
    option = b.option(b.pool(None), gpus=4)
    b.traffic({option: 3.0})
    answer = solved(b.build())
    assert answer.replicas.tolist() == [3]
    assert answer.packing.shape == (0, 3)
    limited = replace(b.build(), pool_gpu_limit=np.array([9.0]))
    assert solved(limited).replicas.tolist() == [2]


def test_priority_goes_before_rate() -> None:
    b = Builder()
    option = b.option(b.pool([1.0]))
    b.traffic({option: 1.0}, rate=1000.0)
    b.traffic({option: 1.0}, rate=1.0, priority=5)
    assert solved(b.build()).unserved.tolist() == [1.0, 0.0]


def test_priority_holds_across_deployments() -> None:
    b = Builder()
    pool = b.pool([2.0])
    b.deployment()
    b.deployment()
    low, high = b.option(pool, deployment=0), b.option(pool, deployment=1)
    b.traffic({low: 2.0}, deployment=0, rate=1000.0)
    b.traffic({high: 2.0}, deployment=1, rate=1.0, priority=1)
    assert solved(b.build()).unserved.tolist() == [1.0, 0.0]


def test_coverage_comes_before_volume_within_a_priority() -> None:
    b = Builder()
    pool = b.pool([4.0])
    b.deployment()
    b.deployment()
    first, second = b.option(pool, deployment=0), b.option(pool, deployment=1)
    b.traffic({first: 4.0}, deployment=0, rate=1000.0)
    b.traffic({second: 1.0}, deployment=1, rate=10.0)
    assert solved(b.build()).replicas.tolist() == [3, 1]


def test_serving_within_the_limit_is_not_a_matter_of_price() -> None:
    b = Builder()
    b.traffic({b.option(b.pool([8.0]), price=1e6): 1.0}, penalty=1e-9)
    assert solved(b.build()).unserved.tolist() == [0.0]


@pytest.mark.parametrize(("penalty", "replicas", "unserved"), [(1.0, 10, 0.0), (0.001, 9, 0.1)])
def test_below_the_limit_the_penalty_decides(penalty: float, replicas: int, unserved: float) -> None:
    b = Builder()
    b.traffic({b.option(b.pool([16.0])): 10.0}, limit=0.1, penalty=penalty)
    answer = solved(b.build())
    assert answer.replicas.tolist() == [replicas]
    assert answer.unserved[0] == pytest.approx(unserved)


def test_room_that_is_there_serves_what_could_stay_unserved() -> None:
    b = Builder()
    b.traffic({b.option(b.pool([16.0])): 1.0}, limit=0.5, penalty=0.001)
    assert solved(b.build()).unserved.tolist() == [0.0]


def test_class_without_any_option_is_unserved() -> None:
    b = Builder()
    option = b.option(b.pool([8.0]))
    b.traffic({option: 1.0})
    b.traffic()
    assert solved(b.build()).unserved.tolist() == [0.0, 1.0]


def test_problem_without_options_and_problem_without_classes() -> None:
    b = Builder()
    b.pool([8.0])
    b.traffic()
    assert solved(b.build()).unserved.tolist() == [1.0]
    b = Builder()
    b.option(b.pool([8.0]))
    assert solved(b.build()).replicas.tolist() == [0]


def test_class_without_traffic_uses_what_is_there_and_opens_nothing() -> None:
    b = Builder()
    option = b.option(b.pool([8.0]))
    b.traffic({option: 0.0}, rate=0.0)
    assert solved(b.build()).replicas.tolist() == [0]
    b.traffic({option: 0.5})
    answer = solved(b.build())
    assert answer.replicas.tolist() == [1]
    assert answer.unserved.tolist() == [0.0, 0.0]


def test_load_of_almost_nothing_still_needs_a_replica() -> None:
    b = Builder()
    b.traffic({b.option(b.pool([8.0])): 1e-13})
    answer = solved(b.build())
    assert answer.replicas.tolist() == [1]
    assert answer.unserved.tolist() == [0.0]


def test_maximum_of_an_option() -> None:
    b = Builder()
    pool = b.pool([16.0])
    few, many = b.option(pool, price=1.0, most=1), b.option(pool, price=2.0)
    b.traffic({few: 5.0, many: 5.0})
    assert solved(b.build()).replicas.tolist() == [1, 4]


def test_maximum_of_a_deployment() -> None:
    b = Builder()
    b.deployment(most=3)
    b.traffic({b.option(b.pool([16.0])): 5.0})
    answer = solved(b.build())
    assert answer.replicas.tolist() == [3]
    assert answer.unserved[0] == pytest.approx(0.4)


def test_a_deployment_maximum_asks_for_larger_replicas() -> None:
    b = Builder()
    pool = b.pool([16.0])
    b.deployment(most=1)
    small, large = b.option(pool, price=1.0), b.option(pool, price=9.0, gpus=8)
    b.traffic({small: 2.0, large: 0.5})
    assert solved(b.build()).replicas.tolist() == [0, 1]


class TestFloor:
    def test_adds_the_cheapest_used_option(self) -> None:
        b = Builder()
        pool = b.pool([8.0])
        b.deployment(least=3)
        cheap, used = b.option(pool, price=1.0), b.option(pool, price=2.0)
        b.traffic({used: 0.5})
        b.traffic({cheap: 0.0}, rate=0.0)
        assert solved(b.build()).replicas.tolist() == [0, 3]

    def test_holds_without_traffic(self) -> None:
        b = Builder()
        pool = b.pool([8.0])
        b.deployment(least=2)
        dear, cheap = b.option(pool, price=2.0), b.option(pool, price=1.0)
        b.traffic({dear: 0.0, cheap: 0.0}, rate=0.0)
        answer = solved(b.build())
        assert answer.replicas.tolist() == [0, 2]
        assert answer.unserved.tolist() == [0.0]

    def test_gives_way_to_stock_and_budget(self) -> None:
        b = Builder(budget=2.0)
        b.deployment(least=5)
        b.traffic({b.option(b.pool([8.0])): 0.5})
        assert solved(b.build()).replicas.tolist() == [2]
        assert solved(replace(b.build(), node_free=np.array([[1.0, 1.0, 1.0]]))).replicas.tolist() == [1]


class TestBudget:
    def test_limits_growth(self) -> None:
        b = Builder(budget=2.5)
        b.traffic({b.option(b.pool([8.0])): 4.0})
        answer = solved(b.build())
        assert answer.replicas.tolist() == [2]
        assert answer.unserved[0] == pytest.approx(0.5)

    @pytest.mark.parametrize("keep_running", [True, False])
    def test_below_the_running_rent_removes_nothing(self, keep_running: bool) -> None:
        b = Builder(budget=1.0, keep_running=keep_running)
        option = b.option(b.pool([8.0]))
        b.traffic({option: 4.0})
        b.running = [(option, 0, 3)]
        assert solved(b.build()).replicas.tolist() == [3]

    def test_growth_of_a_high_priority_pushes_no_running_replica_out(self) -> None:
        b = Builder(budget=3.0)
        pool = b.pool([8.0])
        b.deployment()
        b.deployment()
        low, high = b.option(pool, deployment=0), b.option(pool, deployment=1)
        b.traffic({low: 2.0}, deployment=0)
        b.traffic({high: 2.0}, deployment=1, priority=1)
        b.running = [(low, 0, 2)]
        assert solved(b.build()).replicas.tolist() == [2, 1]

    def test_money_of_running_replicas_without_need_is_free_again(self) -> None:
        b = Builder(budget=3.0)
        pool = b.pool([16.0])
        b.deployment()
        b.deployment()
        low, high = b.option(pool, deployment=0), b.option(pool, deployment=1)
        b.traffic({low: 1.0}, deployment=0)
        b.traffic({high: 2.0}, deployment=1, priority=1)
        b.running = [(low, 0, 3)]
        assert solved(b.build()).replicas.tolist() == [1, 2]

    def test_a_cheaper_option_replaces_a_running_one_within_the_same_money(self) -> None:
        b = Builder(budget=4.0)
        pool = b.pool([16.0])
        dear, cheap = b.option(pool, price=4.0), b.option(pool, price=1.0)
        b.traffic({dear: 0.9, cheap: 1.9})
        b.running = [(dear, 0, 1)]
        assert solved(b.build()).replicas.tolist() == [0, 2]


class TestRunningState:
    def test_new_replicas_fit_beside_all_running_ones(self) -> None:
        b = Builder()
        pool = b.pool([4.0])
        dear, cheap = b.option(pool, price=4.0, gpus=2), b.option(pool, price=1.0, gpus=2)
        b.traffic({dear: 1.8, cheap: 1.8})
        b.running = [(dear, 0, 2)]
        assert solved(b.build()).replicas.tolist() == [2, 0]
        assert solved(replace(b.build(), keep_running=False)).replicas.tolist() == [0, 2]

    def test_running_replicas_need_no_new_place(self) -> None:
        b = Builder()
        option = b.option(b.pool([2.0, 2.0]))
        b.traffic({option: 3.0})
        b.running = [(option, 0, 2)]
        answer = solved(b.build())
        assert answer.replicas.tolist() == [3]
        assert answer.packing.tolist() == [[0, 0, 2], [0, 1, 1]]

    def test_without_keep_running_replicas_stay_on_their_nodes(self) -> None:
        b = Builder(keep_running=False)
        option = b.option(b.pool([1.0, 8.0]))
        b.traffic({option: 2.0})
        b.running = [(option, 1, 2)]
        assert solved(b.build()).packing.tolist() == [[0, 1, 2]]

    @pytest.mark.parametrize("keep_running", [True, False])
    def test_replicas_at_unknown_places_are_not_packed(self, keep_running: bool) -> None:
        b = Builder(keep_running=keep_running)
        option = b.option(b.pool([1.0]))
        b.traffic({option: 3.0})
        b.running = [(option, -1, 2)]
        answer = solved(b.build())
        assert answer.replicas.tolist() == [3]
        assert answer.packing.tolist() == [[0, 0, 1]]

    def test_stays_when_moving_costs_more_than_it_saves(self) -> None:
        b = Builder()
        pool = b.pool([8.0])
        now, other = b.option(pool, price=1.1, stop=0.05), b.option(pool, price=1.0, start=0.1)
        b.traffic({now: 0.5, other: 0.5})
        b.running = [(now, 0, 1)]
        answer = solved(b.build())
        assert answer.replicas.tolist() == [1, 0]
        assert answer.cost.change == 0.0

    def test_moves_when_that_pays(self) -> None:
        b = Builder()
        pool = b.pool([8.0])
        now, other = b.option(pool, price=2.0, stop=0.05), b.option(pool, price=1.0, start=0.1)
        b.traffic({now: 0.5, other: 0.5})
        b.running = [(now, 0, 1)]
        answer = solved(b.build())
        assert answer.replicas.tolist() == [0, 1]
        assert answer.cost.change == pytest.approx(0.15)

    def test_between_equals_the_running_one_wins(self) -> None:
        b = Builder()
        pool = b.pool([8.0])
        first, second = b.option(pool), b.option(pool)
        b.traffic({first: 0.5, second: 0.5})
        b.running = [(second, 0, 1)]
        assert solved(b.build()).replicas.tolist() == [0, 1]

    def test_a_gpu_limit_below_what_runs_removes_nothing(self) -> None:
        b = Builder()
        option = b.option(b.pool([8.0], gpu_limit=1.0))
        b.traffic({option: 4.0})
        b.running = [(option, 0, 3)]
        assert solved(b.build()).replicas.tolist() == [3]

    def test_an_overcommitted_node_takes_nothing_new(self) -> None:
        b = Builder()
        option = b.option(b.pool([2.0]))
        b.traffic({option: 9.0})
        b.running = [(option, 0, 3)]
        assert solved(b.build()).replicas.tolist() == [3]


class TestMeanLimits:
    def test_self_sufficient_options_come_first(self) -> None:
        """A dead end of M2: the cheap option would use up the error room at half of the traffic."""
        b = Builder()
        pool = b.pool([8.0])
        cheap, good = b.option(pool, price=1.0), b.option(pool, price=5.0)
        b.traffic({cheap: 1.0, good: 1.0}, error_limit=0.05, errors={cheap: 0.1, good: 0.05})
        answer = solved(b.build())
        assert answer.unserved.tolist() == [0.0]
        assert answer.replicas.tolist() == [0, 1]

    def test_slack_of_a_scarce_good_option_carries_a_bad_one(self) -> None:
        b = Builder()
        good, bad = b.option(b.pool([1.0])), b.option(b.pool([8.0]))
        b.traffic({good: 2.0, bad: 1.0}, error_limit=0.06, errors={good: 0.02, bad: 0.1})
        answer = solved(b.build())
        assert answer.unserved.tolist() == [0.0]
        assert answer.share.tolist() == pytest.approx([0.5, 0.5])

    def test_slack_goes_where_it_serves_most(self) -> None:
        b = Builder()
        good = b.option(b.pool([1.0]), price=1.0)
        worst, middle = b.option(b.pool([8.0]), price=0.5), b.option(b.pool([8.0]), price=3.0)
        b.traffic({good: 2.0, worst: 1.0, middle: 1.0}, error_limit=0.06, errors={good: 0.02, worst: 0.5, middle: 0.1})
        answer = solved(b.build())
        assert answer.unserved[0] == pytest.approx(0.0)

    def test_two_options_carry_each_other(self) -> None:
        b = Builder()
        pool = b.pool([8.0])
        slow, wrong = b.option(pool), b.option(pool)
        b.traffic(
            {slow: 1.0, wrong: 1.0},
            delay_limit=2.0,
            error_limit=0.05,
            delays={slow: 3.0, wrong: 1.0},
            errors={slow: 0.02, wrong: 0.08},
        )
        answer = solved(b.build())
        assert answer.unserved[0] == pytest.approx(0.0)
        assert answer.share.tolist() == pytest.approx([0.5, 0.5])

    def test_an_impossible_limit_leaves_the_class_unserved(self) -> None:
        b = Builder()
        option = b.option(b.pool([8.0]))
        b.traffic({option: 0.5}, delay_limit=0.5)
        assert solved(b.build()).unserved.tolist() == [1.0]


class TestUpgrade:
    def test_a_larger_tensor_degree_instead_of_a_second_option(self) -> None:
        b = Builder()
        pool = b.pool([8.0])
        tp1 = b.option(pool, price=1.0, pair=0, tensor=1)
        tp2 = b.option(pool, price=2.0, gpus=2, pair=0, tensor=2)
        b.traffic({tp1: 0.9, tp2: 0.5}, rate=1000.0)
        b.traffic({tp2: 0.4}, rate=10.0)
        answer = solved(b.build())
        assert answer.replicas.tolist() == [0, 1]

    def test_too_small_for_the_stock_of_places(self) -> None:
        b = Builder()
        b.deployment(most=1)
        pool = b.pool([8.0])
        tp1 = b.option(pool, price=1.0, pair=0, tensor=1)
        tp4 = b.option(pool, price=4.0, gpus=4, pair=0, tensor=4)
        b.traffic({tp1: 0.9, tp4: 0.3}, rate=1000.0)
        b.traffic({tp1: 0.9, tp4: 0.3}, rate=10.0)
        answer = solved(b.build())
        assert answer.unserved.tolist() == [0.0, 0.0]
        assert answer.replicas.tolist() == [0, 1]

    def test_not_where_the_larger_one_breaks_a_users_limit(self) -> None:
        b = Builder()
        pool = b.pool([8.0])
        tp1 = b.option(pool, price=1.0, pair=0, tensor=1)
        tp2 = b.option(pool, price=2.0, gpus=2, pair=0, tensor=2)
        b.traffic({tp1: 0.9, tp2: 0.5}, rate=1000.0, delay_limit=1.0, delays={tp1: 1.0, tp2: 2.0})
        b.traffic({tp2: 0.4}, rate=10.0)
        assert solved(b.build()).replicas.tolist() == [1, 1]


def test_clean_up_merges_two_options_into_a_cheaper_one() -> None:
    b = Builder()
    pool = b.pool([16.0])
    first, second = b.option(pool, price=3.0), b.option(pool, price=3.0)
    both = b.option(pool, price=4.0)
    b.traffic({first: 0.9, both: 0.5}, rate=10.0)
    b.traffic({second: 0.9, both: 0.4}, rate=5.0)
    assert solved(b.build()).replicas.tolist() == [0, 0, 1]


def test_same_problem_same_bytes() -> None:
    b = Builder(budget=30.0)
    pools = [b.pool([8.0, 3.0, 5.0]), b.pool([4.0] * 4)]
    rng = np.random.default_rng(7)
    for deployment in range(4):
        b.deployment()
        options = [
            b.option(pool, price=float(rng.uniform(1, 3)) * gpus, gpus=gpus, deployment=deployment)
            for pool in pools
            for gpus in (1, 2, 4)
        ]
        b.traffic({option: float(rng.uniform(0.5, 4)) for option in options}, deployment=deployment)
    first, second = solved(b.build()), solved(b.build())
    for name in ("replicas", "share", "unserved", "packing"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
    assert first.cost == second.cost
