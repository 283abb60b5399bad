"""Chains without common servers: they keep the rules, promise no more than they hold, and cost little more than need
be."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.chains import ChainError, ChainProblem, check
from plimsoll.chains.pipelines import MOST_SERVERS, chain_rate, pipeline, pipeline_set
from plimsoll.chains.promises import wait_seconds
from tests.property.test_chain_set_properties import TARGETS, fleets


def groupings(pools):
    return [pools, np.zeros_like(pools)]


def disjoint_sets(servers):
    """All ways to make chains of some of these servers."""
    if not servers:
        yield []
        return
    first, rest = servers[0], servers[1:]
    yield from disjoint_sets(rest)
    for size in range(len(rest) + 1):
        for others in itertools.combinations(rest, size):
            left = [server for server in rest if server not in others]
            for more in disjoint_sets(left):
                yield [(first, *others), *more]


def least_price(problem, price, rate):
    """By trying every way to make chains."""
    rates = {}

    def promise(servers):
        if servers not in rates:
            chain = pipeline(problem, servers)
            rates[servers] = 0.0 if chain is None else chain_rate(problem, chain, TARGETS)
        return rates[servers]

    return min(
        (
            sum(price[server] for servers in chains for server in servers)
            for chains in disjoint_sets(list(range(problem.servers)))
            if sum(map(promise, chains)) >= rate
        ),
        default=math.inf,
    )


@settings(max_examples=30)
@given(fleets(most=6), st.floats(0.5, 10))
def test_chains_keep_the_rules_and_the_targets(fleet, rate):
    problem, pools, price = fleet
    found = pipeline_set(problem, groupings(pools), price, TARGETS, rate)
    if found is None:
        return
    used = [server for chain in found.chains for server in chain.route.servers]
    assert len(used) == len(set(used))
    assert set(used) == set(found.servers)
    assert found.price_per_hour == pytest.approx(price[list(found.servers)].sum())
    sessions = [chain.route for chain in found.chains for _ in range(chain.places)]
    assert check(problem, found.placement, sessions) == []
    promises = [chain_rate(problem, chain, TARGETS) for chain in found.chains]
    assert found.rate_per_second == pytest.approx(sum(promises))
    for chain, promise in zip(found.chains, promises, strict=True):
        assert len(chain.route.servers) <= MOST_SERVERS
        places = np.full(chain.places, 1 / chain.service_seconds)
        prompt = sum(
            problem.prefill_trip_seconds[0, server] + problem.prefill_block_seconds[server] * blocks
            for server, blocks in zip(chain.route.servers, chain.route.blocks, strict=True)
        )
        assert prompt + wait_seconds(places, promise * (1 - 1e-9), 95) <= TARGETS.ttft.seconds + 1e-6
    if found.rate_per_second >= rate:
        fewer = sum(promises) - np.array(promises)
        assert len(promises) == 1 or (fewer < rate).all(), "none of them can be spared"


@settings(max_examples=25)
@given(fleets(most=5), st.sampled_from([1.0, 3.0, 6.0, 10.0]))
def test_no_chains_are_cheaper_than_the_cheapest_and_few_are_dearer(fleet, rate):
    problem, pools, price = fleet
    found = pipeline_set(problem, groupings(pools), price, TARGETS, rate)
    best = least_price(problem, price, rate)
    if found is None or found.rate_per_second < rate:
        return  # near the most that the fleet carries a set may be missed
    assert best - 1e-9 <= found.price_per_hour <= 1.5 * best


@settings(max_examples=25)
@given(fleets(most=6), st.floats(0.5, 5), st.floats(0.5, 5))
def test_what_is_kept_stays_and_new_servers_are_others(fleet, first, more):
    problem, pools, price = fleet
    before = pipeline_set(problem, groupings(pools), price, TARGETS, first)
    if before is None:
        return
    after = pipeline_set(problem, groupings(pools), price, TARGETS, first + more, kept=before.chains)
    assert after is not None
    assert after.chains[: len(before.chains)] == before.chains
    used = [server for chain in after.chains for server in chain.route.servers]
    assert len(used) == len(set(used))
    assert after.rate_per_second >= before.rate_per_second - 1e-9


def test_shapes_and_rates_are_checked():
    problem, pools, price = two_servers()
    with pytest.raises(ChainError, match="price_per_hour has shape"):
        pipeline_set(problem, [pools], price[:1], TARGETS, 1.0)
    with pytest.raises(ChainError, match="rate_per_second is 0"):
        pipeline_set(problem, [pools], price, TARGETS, 0.0)


def two_servers():
    ones = np.ones(2)
    problem = ChainProblem(
        blocks=2,
        block_bytes=1.0,
        cache_bytes=0.1,
        memory_bytes=3 * ones,
        decode_trip_seconds=0.01 * np.ones((1, 2)),
        decode_block_seconds=0.01 * ones,
        prefill_trip_seconds=0.01 * np.ones((1, 2)),
        prefill_block_seconds=0.01 * ones,
        output_tokens=10,
    )
    return problem, np.zeros(2, dtype=np.int64), ones
