"""GH where a pair has one replica of one option: M1 to M3, exclusion, storage, budget, means over all traffic."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plimsoll.allocation import Allocation, AllocationProblem, check, solve_greedy
from plimsoll.allocation.covering import moved_to
from plimsoll.allocation.fleet import Fleet
from plimsoll.allocation.mechanisms import Mechanisms
from plimsoll.allocation.paper import from_paper_instance
from plimsoll.allocation.workload import LEAST_SHARE
from tests.unit.allocation.builder import Builder

REFERENCE = json.loads((Path(__file__).parents[2] / "oracles" / "R1.json").read_text(encoding="utf-8"))


def solved(problem: AllocationProblem) -> Allocation:
    allocation = solve_greedy(problem)
    assert check(problem, allocation) == ()
    return allocation


def exclusive(**others: float) -> Builder:
    return Builder(one_option_per_pair=True, means_over_all=True, **others)  # type: ignore[arg-type]


def _cheapest_by_hand(query: dict[str, Any], model: dict[str, Any], tier: dict[str, Any]) -> tuple[int, int] | None:
    """M1 by trying all configurations, from the formulas of the document alone."""
    constants = REFERENCE["constants"]
    best: tuple[float, int, int, int] | None = None
    for tensor, pipeline in REFERENCE["configs_tp_pp"]:
        gpus = tensor * pipeline
        weights = model["weight_GB_fp16"] * tier["weight_factor"]
        free = constants["usable_memory_fraction"] * tier["mem_GB"] * gpus - weights
        prefill = 2 * model["params_B"] * query["input_tokens"]
        prefill /= constants["prefill_efficiency"] * tier["peak_TFLOPs"] * 1e3 * tensor
        prefill *= 1 + constants["pp_prefill_bubble_per_hop"] * (pipeline - 1)
        step = weights / (constants["decode_bw_efficiency"] * tier["mem_bw_TBps"] * 1e3 * tensor)
        step += constants["tp_overhead_s_per_token_per_log2n"] * np.log2(tensor)
        step += constants["pp_overhead_s_per_token_per_hop"] * (pipeline - 1)
        delay = prefill + query["output_tokens"] * step
        per_second = query["arrivals_per_hour"] / 3600
        resident = query["input_tokens"] + query["output_tokens"] / 2
        kv = model["kv_KiB_per_token"] * 1024 / 1e9 * resident * per_second * delay
        compute = 2e-3 * model["params_B"] * (query["input_tokens"] + query["output_tokens"]) * per_second
        limit = constants["compute_capacity_fraction"] * tier["peak_TFLOPs"] * gpus
        error = query["base_error"] / model["capability"] * tier["error_factor"]
        if free <= 0 or kv * LEAST_SHARE > free or compute * LEAST_SHARE > limit:
            continue
        if delay > query["delay_slo_s"] or error > query["error_slo"]:
            continue
        penalty = query["delay_penalty_usd_per_s_per_query"] * query["arrivals_per_hour"] * delay
        key = (round(tier["price_usd_per_h"] * gpus + penalty, 9), gpus, pipeline, tensor)
        if best is None or key < best:
            best = key
    return None if best is None else (best[3], best[2])


def test_m1_equals_trying_all_configurations() -> None:
    instance = from_paper_instance(REFERENCE)
    (workload,) = Fleet(instance.problem).workloads
    chosen = {
        (row, *instance.option_names[option][:2]): instance.option_names[option][2:]
        for row, options in enumerate(workload.cheapest_configurations)
        for option in options.tolist()
    }
    for row, query in enumerate(REFERENCE["query_types"]):
        for model in REFERENCE["models"]:
            for tier in REFERENCE["tiers"]:
                expected = _cheapest_by_hand(query, model, tier)
                assert chosen.get((row, model["name"], tier["name"])) == expected


def test_a_large_class_is_pieced_together_by_cost_per_share() -> None:
    b = exclusive()
    pool = b.pool(None)
    dense = b.option(pool, price=3.0, most=1)
    thin = b.option(pool, price=2.0, most=1)
    whole = b.option(pool, price=20.0, most=1)
    b.traffic({dense: 1.25, thin: 2.0, whole: 0.5})
    answer = solved(b.build())
    assert answer.replicas.tolist() == [1, 1, 0]
    assert answer.share.tolist() == pytest.approx([0.8, 0.2, 0.0])


def test_without_m2_the_smallest_outlay_goes_first() -> None:
    b = exclusive()
    pool = b.pool(None)
    thin = b.option(pool, price=1.0, most=1)
    dense = b.option(pool, price=1.5, most=1)
    b.traffic({thin: 10.0, dense: 1.0})
    assert solved(b.build()).cost.rental == pytest.approx(1.5)
    blind = solve_greedy(b.build(), mechanisms=Mechanisms(effective_coverage=False))
    assert blind.cost.rental == pytest.approx(2.5)


def test_one_option_of_a_pair() -> None:
    """The second class needs the larger option: it replaces the smaller one instead of standing beside it."""
    b = exclusive()
    pool = b.pool(None)
    small = b.option(pool, price=1.0, pair=0, tensor=1, most=1)
    large = b.option(pool, price=2.0, gpus=2, pair=0, tensor=2, most=1)
    b.traffic({small: 0.5, large: 0.25}, rate=1000.0)
    b.traffic({small: 0.5, large: 0.4}, rate=10.0, delay_limit=1.0, delays={small: 2.0, large: 1.0})
    answer = solved(b.build())
    assert answer.replicas.tolist() == [0, 1]
    assert answer.unserved.tolist() == [0.0, 0.0]
    # The smaller one takes half of the second class: then its mean delay over all traffic is at the limit.
    without = solve_greedy(b.build(), mechanisms=Mechanisms(upgrades=False))
    assert without.unserved.tolist() == pytest.approx([0.0, 0.5])


def test_m3_never_breaks_another_class() -> None:
    """The larger option is slower for the first class, beyond its limit."""
    b = exclusive()
    pool = b.pool(None)
    small = b.option(pool, price=1.0, pair=0, tensor=1, most=1)
    large = b.option(pool, price=2.0, gpus=2, pair=0, tensor=2, most=1)
    delays = {small: 1.0, large: 2.0}
    b.traffic({small: 0.5, large: 0.25}, rate=1000.0, delay_limit=1.0, delays=delays)
    b.traffic({large: 0.4}, rate=10.0)
    problem = b.build()
    answer = solved(problem)
    assert answer.replicas.tolist() == [1, 0]
    assert answer.unserved.tolist() == [0.0, 1.0]
    (workload,) = (fleet := Fleet(problem)).workloads
    fleet.change(workload, small, 1)
    workload.assign(0, small, 1.0)
    assert moved_to(workload, small, large) is None


def test_storage_counts_as_cost_and_is_limited() -> None:
    def build(limit: float) -> AllocationProblem:
        b = exclusive(storage_price=1.0, storage_limit=limit)
        pool = b.pool(None)
        heavy = b.option(pool, price=1.0, storage=5.0, most=1)
        light = b.option(pool, price=3.0, storage=1.0, most=1)
        b.traffic({heavy: 0.5, light: 0.5})
        b.traffic({heavy: 0.9}, rate=1000.0)
        return b.build()

    assert solved(build(10.0)).replicas.tolist() == [1, 1]
    limited = solved(build(2.0))
    assert limited.replicas.tolist() == [0, 1]
    assert limited.cost.storage == pytest.approx(1.0)
    assert limited.unserved.tolist() == [0.0, 1.0]


def test_the_budget_pays_for_data_too() -> None:
    problem = from_paper_instance(REFERENCE).problem
    dear = replace(problem, pair_storage_cost_per_hour=np.full(problem.pairs, 2.0))
    answer = solved(dear)
    assert answer.cost.spending <= dear.budget_per_hour + 1e-6
    assert 0.0 < answer.unserved.max() <= 1.0


def test_means_over_all_count_unserved_traffic() -> None:
    """Two thirds on the inaccurate option keep the mean over all traffic, not that over served traffic."""
    b = exclusive()
    option = b.option(b.pool(None), most=1)
    b.traffic({option: 0.5}, error_limit=0.04, errors={option: 0.06})
    assert solved(b.build()).unserved[0] == pytest.approx(1 / 3)
    assert solved(replace(b.build(), means_over_all=False)).unserved[0] == pytest.approx(1.0)


def test_slack_that_others_took_is_not_counted_on_twice() -> None:
    """The wrong option takes error room beyond its share; the accurate one can take no more than what is left."""
    b = Builder(means_over_all=True)
    wrong, right = b.option(b.pool([1.0]), price=1.0), b.option(b.pool([0.0]), price=1.0)
    b.traffic({wrong: 0.0, right: 0.0}, limit=0.3, error_limit=1.5, errors={wrong: 2.0, right: 0.5})
    b.running = [(wrong, -1, 1)]
    solved(b.build())


def test_serving_must_pay_where_all_may_stay_unserved() -> None:
    b = exclusive()
    option = b.option(b.pool(None), price=3.0, most=1)
    b.traffic({option: 0.5}, limit=1.0, penalty=0.02)
    assert solved(b.build()).unserved.tolist() == [1.0]
    b.traffic({option: 0.4}, limit=1.0, penalty=0.04)
    assert solved(b.build()).unserved.tolist() == [0.0, 0.0]


def test_known_stock_and_gpu_limits_hold() -> None:
    b = exclusive()
    pool, limited = b.pool([1.0, 1.0]), b.pool(None, gpu_limit=3.0)
    options = [b.option(pool, price=1.0, most=1) for _ in range(3)]
    options += [b.option(limited, price=2.0, gpus=2, most=1) for _ in range(3)]
    b.traffic(dict.fromkeys(options, 2.5))
    answer = solved(b.build())
    assert answer.replicas.sum() == 3
    assert answer.unserved.tolist() == [0.0]


def test_switches_of_m1_and_m2_are_refused_where_replicas_add_up() -> None:
    b = Builder()
    b.traffic({b.option(b.pool([8.0])): 1.0})
    for mechanisms in (Mechanisms(feasible_configurations=False), Mechanisms(effective_coverage=False)):
        with pytest.raises(ValueError, match="one replica of one option"):
            solve_greedy(b.build(), mechanisms=mechanisms)


def test_order_of_the_classes() -> None:
    b = Builder()
    option = b.option(b.pool([1.0]))
    b.traffic({option: 1.0}, rate=1000.0)
    b.traffic({option: 1.0}, rate=1.0)
    problem = b.build()
    assert solve_greedy(problem).unserved.tolist() == [0.0, 1.0]
    assert solve_greedy(problem, np.array([1, 0])).unserved.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="every class once"):
        solve_greedy(problem, np.array([0, 0]))
