"""Chains: server sets keep what they promise, and cost little more than need be."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plimsoll.chains import (
    ChainError,
    ChainProblem,
    Placement,
    check,
    compose,
    place_batch,
    promised,
    server_sets,
    session_seconds,
    solve_jointly,
)
from plimsoll.chains.promises import wait_seconds
from plimsoll.performance import LatencyTarget, LatencyTargets
from tests.property.test_chain_properties import problems

KINDS = {0: (3.0, 0.02, 1.0), 1: (6.0, 0.008, 2.5)}
"""Memory, seconds per block, price."""
TARGETS = LatencyTargets(ttft=LatencyTarget(1.0, 95), tpot=LatencyTarget(0.12, None))


@st.composite
def fleets(draw, most=4):
    kinds = draw(st.lists(st.integers(0, 1), min_size=2, max_size=most))
    memory, seconds, price = (np.array(column) for column in zip(*(KINDS[kind] for kind in kinds), strict=True))
    trips = draw(st.lists(st.floats(0.005, 0.03), min_size=len(kinds), max_size=len(kinds)))
    problem = ChainProblem(
        blocks=3,
        block_bytes=1.0,
        cache_bytes=0.2,
        memory_bytes=memory,
        decode_trip_seconds=np.array([trips]),
        decode_block_seconds=seconds,
        prefill_trip_seconds=np.array([trips]),
        prefill_block_seconds=3 * seconds,
        output_tokens=20,
    )
    return problem, np.array(kinds), price


def least_price(problem, price, rate):
    """By trying every placement of every set."""
    intervals = [(0, 0), *((a, m) for a in range(problem.blocks) for m in range(1, problem.blocks - a + 1))]
    best = math.inf
    for chosen in itertools.product(intervals, repeat=problem.servers):
        cost = sum(price[server] for server, (_, count) in enumerate(chosen) if count)
        placement = Placement(np.array([first for first, _ in chosen]), np.array([count for _, count in chosen]))
        if cost >= best or not placement.covers(problem.blocks):
            continue
        if promised(problem, compose(problem, placement), TARGETS).rate_per_second >= rate:
            best = cost
    return best


@settings(max_examples=8)
@given(fleets(most=3), st.sampled_from([1.0, 3.0, 6.0, 10.0]))
def test_no_set_is_cheaper_than_the_cheapest_and_few_are_dearer(fleet, rate):
    problem, pools, price = fleet
    found = server_sets(problem, pools, price, TARGETS, [rate])
    best = least_price(problem, price, rate)
    if not found:
        return  # near the most that the fleet carries a set may be missed
    assert best - 1e-9 <= found[0].price_per_hour <= 1.5 * best


@settings(max_examples=25)
@given(fleets(), st.lists(st.floats(0.5, 10), min_size=1, max_size=3))
def test_sets_keep_the_rules_and_the_targets(fleet, rates):
    problem, pools, price = fleet
    found = server_sets(problem, pools, price, TARGETS, rates)
    carried = [one.rate_per_second for one in found]
    assert carried == sorted(carried)
    assert [one.price_per_hour for one in found] == sorted(one.price_per_hour for one in found)
    for one in found:
        assert one.rate_per_second >= min(rates)
        assert one.price_per_hour == pytest.approx(price[list(one.servers)].sum())
        assert set(np.flatnonzero(one.placement.count).tolist()) == set(one.servers)
        assert check(problem, one.placement, [chain.route for chain in one.chains for _ in range(chain.places)]) == []
        for chain in one.chains:
            prompt = sum(
                problem.prefill_trip_seconds[0, server] + count * problem.prefill_block_seconds[server]
                for server, count in zip(chain.route.servers, chain.route.blocks, strict=True)
            )
            assert prompt <= 1.0
            assert (session_seconds(problem, chain.route, 0) - prompt) / 19 <= 0.12 * (1 + 1e-9)
        assert one.rate_per_second <= 0.85 * sum(chain.rate_per_second for chain in one.chains) * (1 + 1e-9)


@given(st.integers(1, 30), st.floats(0.05, 0.95))
def test_waits_in_the_queue_are_those_of_erlang_for_equal_places(places, load):
    rate = load * places
    series = [rate**number / math.factorial(number) for number in range(places)]
    last = rate**places / math.factorial(places) / (1 - load)
    erlang = last / (sum(series) + last)
    rates = np.ones(places)
    assert wait_seconds(rates, rate, None) == pytest.approx(erlang / (places - rate))
    expected = max(0.0, math.log(erlang / 0.05) / (places - rate))
    assert wait_seconds(rates, rate, 95) == pytest.approx(expected, abs=1e-12)


def test_a_slow_chain_is_left_out_where_its_sessions_could_not_wait():
    problem = ChainProblem(
        blocks=1,
        block_bytes=1.0,
        cache_bytes=1.0,
        memory_bytes=np.array([11.0, 11.0]),
        decode_trip_seconds=np.array([[0.0, 0.0]]),
        decode_block_seconds=np.array([0.1, 0.1]),
        prefill_trip_seconds=np.array([[0.1, 1.99]]),
        prefill_block_seconds=np.array([0.0, 0.0]),
        output_tokens=11,
    )
    chains = compose(problem, Placement(np.array([0, 0]), np.array([1, 1])))
    promise = promised(problem, chains, LatencyTargets(ttft=LatencyTarget(2.0, 95)))
    assert [chain.route.servers for chain in promise.chains] == [(0,)]
    easy = promised(problem, chains, LatencyTargets(ttft=LatencyTarget(20.0, 95)))
    assert len(easy.chains) == 2
    assert easy.rate_per_second > promise.rate_per_second
    assert promised(problem, chains, LatencyTargets(tpot=LatencyTarget(0.09, None))).chains == ()


def test_values_that_make_no_sense_are_refused():
    problem, pools, price = fleets_of_two()
    with pytest.raises(ChainError, match=r"pools has shape \(1,\); a value for each of 2 servers is needed"):
        server_sets(problem, pools[:1], price, TARGETS, [1.0])
    with pytest.raises(ChainError, match=r"price_per_hour is -1.0 for a server; it must be at least 0"):
        server_sets(problem, pools, -price, TARGETS, [1.0])
    with pytest.raises(ChainError, match=r"rates_per_second holds 0.0; rates must be above 0"):
        server_sets(problem, pools, price, TARGETS, [0.0])


def fleets_of_two():
    one = np.ones(2)
    problem = ChainProblem(
        blocks=2,
        block_bytes=1.0,
        cache_bytes=0.1,
        memory_bytes=3 * one,
        decode_trip_seconds=np.ones((1, 2)),
        decode_block_seconds=one,
        prefill_trip_seconds=np.ones((1, 2)),
        prefill_block_seconds=one,
        output_tokens=2,
    )
    return problem, np.array([0, 0]), one


@settings(max_examples=10)
@given(problems(most_servers=3, most_blocks=4), st.lists(st.integers(0, 1), min_size=1, max_size=3))
def test_batches_are_within_five_per_cent_of_the_optimum(problem, clients):
    found = place_batch(problem, clients)
    assume(found is not None and bool((found.placement.count > 0).all()))
    assert check(problem, found.placement, found.routes) == []
    assert found.total_seconds <= 1.05 * solve_jointly(problem, clients).total_seconds
