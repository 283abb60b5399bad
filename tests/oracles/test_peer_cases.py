"""Other tools' own allocation cases: our exact answers equal theirs, the default is within 1 %, and rules are met."""

import os
from collections.abc import Iterator
from functools import cache

import pytest

from benchmarks import peers
from benchmarks.baselines import CHEAPEST_FIRST
from benchmarks.data import data_folder, load_json
from benchmarks.methods import AGH, DEFAULT, EXACT, GH, Method

NAMES = (
    "inferno_small, limited stock",
    "inferno_small, unlimited",
    "melange_example, free splitting",
    "wva up_most_efficient",
    "wva up_pending_not_skipped",
    "wva up_zero_capacity_skipped",
    "wva up_large_requirement",
    "wva down_expensive_does_not_fit",
    "wva down_keep_cheapest",
    "wva down_cheap_removed_when_expensive_too_big",
    "wva down_cascade",
    "wva steady",
    "wva own_up_ratio_trap",
    "wva own_up_big_small",
    "wva own_down_expensive_first_trap",
)


@pytest.fixture(autouse=True)
def _data_are_there() -> None:
    """Skipped without the data folder; but a folder that somebody names must be there in CI."""
    folder = data_folder() / "peer_cases"
    if not folder.exists():
        message = f"{folder} is not there (set PLIMSOLL_DATA)"
        if os.environ.get("CI") == "true" and "PLIMSOLL_DATA" in os.environ:
            pytest.fail(message)
        pytest.skip(message)


@cache
def cases() -> dict[str, peers.Case]:
    return {case.name: case for case in peers.cases()}


def test_every_case_is_tested() -> None:
    assert tuple(cases()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_exact_costs_what_was_published(name: str) -> None:
    case = cases()[name]
    assert case.cost(EXACT) == pytest.approx(case.exact, rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_default_is_within_one_percent_and_no_dearer_than_the_other_tool(name: str) -> None:
    case = cases()[name]
    cost = case.cost(DEFAULT)
    assert case.exact * (1 - 1e-6) <= cost <= case.exact * 1.01
    assert cost <= case.peer * (1 + 1e-6)


@pytest.mark.parametrize("name", [name for name in NAMES if "up_" in name])
def test_our_restatement_of_the_autoscalers_rule_costs_what_the_rule_costs(name: str) -> None:
    case = cases()[name]
    assert case.cost(CHEAPEST_FIRST) == pytest.approx(case.peer)


@pytest.mark.parametrize("method", [GH, AGH], ids=lambda method: method.name)
def test_our_greedy_on_limited_stock_is_no_dearer_than_infernos(method: Method) -> None:
    case = cases()["inferno_small, limited stock"]
    assert case.cost(method) <= case.peer


def test_types_mixed_within_a_server_cost_no_more() -> None:
    limited = cases()["inferno_small, limited stock"]
    mixing = peers.Case("mixing", peers.inferno_mixing(), limited.peer, limited.exact)
    assert mixing.cost(DEFAULT) <= limited.exact * (1 + 1e-6)


@pytest.mark.parametrize("slices", [1, 2])
def test_unsplit_slices_cost_what_melange_says(slices: int) -> None:
    expected = load_json("peer_cases/melange_example.json")["expected"]
    cost = peers.melange_sliced(EXACT, slices)
    assert cost == pytest.approx(expected["ilp_by_slice_factor"][str(slices)]["cost_per_hour"])
    assert cost >= expected["lp_lower_bound"]


def memory_rows() -> Iterator[peers.Measured]:
    rows, _ = peers.vllm_memory()
    yield from rows


def test_memory_agrees_with_vllm_as_measured() -> None:
    rows = list(memory_rows())
    assert len(rows) >= 20
    for row in rows:
        assert abs(row.error) <= (0.02 if row.what == "weights" else 0.1), row
    for row in peers.formulas():
        assert abs(row.error) <= 0.001, row


def test_no_replica_is_accepted_on_less_memory_than_its_weights() -> None:
    fits, _ = peers.node_fits()
    assert len(fits) > 200
    assert not any(row.below_weights for row in fits)
