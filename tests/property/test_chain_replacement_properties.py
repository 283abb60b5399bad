"""Chains: what is done when servers join, leave or slow down."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plimsoll.chains import (
    ChainError,
    ChainProblem,
    MovePolicy,
    Placement,
    Replacement,
    best_placement,
    check,
    replace_servers,
    surviving,
    with_servers,
)
from tests.property.test_chain_properties import problems


@settings(max_examples=15)
@given(problems(), st.floats(0.05, 3), st.data())
def test_servers_lost_leave_a_placement_that_keeps_the_rules_and_is_no_worse(problem, rate, data):
    before = best_placement(problem, rate)
    assume(before is not None)
    kept = np.flatnonzero(data.draw(st.lists(st.booleans(), min_size=problem.servers, max_size=problem.servers)))
    assume(len(kept))
    left, running = with_servers(problem, kept), surviving(before.placement, kept)
    found = replace_servers(left, running, rate)
    assert (found is None) == (best_placement(left, rate) is None and not running.covers(left.blocks))
    if found is None:
        return
    assert check(left, found.placement) == []
    assert found.placement.covers(left.blocks)
    assert found.score <= found.present_score
    changed = (running.count != found.placement.count) | (running.first != found.placement.first)
    moving = set(np.flatnonzero(changed & (running.count > 0) & (found.placement.count > 0)).tolist())
    assert {server for wave in found.waves for server in wave} == moving
    assert set(found.started) == set(np.flatnonzero((running.count == 0) & (found.placement.count > 0)).tolist())


@settings(max_examples=15)
@given(problems(), st.floats(0.05, 3))
def test_what_is_best_stays_as_it_is(problem, rate):
    best = best_placement(problem, rate)
    assume(best is not None)
    found = replace_servers(problem, best.placement, rate)
    assert found.moved == 0
    hosting = best.placement.count > 0
    assert found.placement.count[hosting].tolist() == best.placement.count[hosting].tolist()


def test_running_servers_move_only_where_it_pays():
    """Two fast servers would do better with half of the model each; moving them must be worth the threshold, and the
    time in which one of them is missing."""
    problem = two_fast_one_slow()
    running = Placement(np.array([0, 8, 0]), np.array([8, 2, 10]))
    policy = MovePolicy(quality=1.0, load_bytes_per_second=1e9)
    found = replace_servers(problem, running, 1.5, policy)
    assert found.moved == 2
    assert found.score < found.present_score
    hesitant = replace(policy, quality=found.score / found.present_score * 0.99)
    assert replace_servers(problem, running, 1.5, hesitant).moved == 0
    assert replace_servers(problem, running, 1.5, replace(policy, horizon_seconds=1.0)).moved == 0


def two_fast_one_slow():
    trip = np.full((1, 3), 0.01)
    return ChainProblem(
        blocks=10,
        block_bytes=1e9,
        cache_bytes=0.1e9,
        memory_bytes=np.array([10e9, 10e9, 30e9]),
        decode_trip_seconds=trip,
        decode_block_seconds=np.array([0.01, 0.01, 0.1]),
        prefill_trip_seconds=trip,
        prefill_block_seconds=np.array([0.01, 0.01, 0.1]),
        output_tokens=10,
    )


def test_a_hole_is_closed_even_where_nothing_pays():
    problem = two_fast_one_slow()
    running = Placement(np.array([0, 0, 0]), np.array([5, 5, 0]))
    found = replace_servers(problem, running, 0.1, MovePolicy(quality=0.01, horizon_seconds=1.0))
    assert math.isinf(found.present_score)
    assert found.started == (2,)
    assert found.placement.covers(10)


def test_whoever_comes_back_hosts_what_others_host_even_where_nobody_waits():
    """The next loss then costs less."""
    problem = with_servers(two_fast_one_slow(), np.array([0, 1, 0, 1]))
    whole = Placement(np.array([0, 5, 0, 5]), np.array([5, 5, 5, 5]))
    left = Placement(whole.first, np.array([5, 5, 5, 0]))
    found = replace_servers(problem, left, 1e-6)
    assert found.score == found.present_score
    assert found.started == (3,)
    assert (found.placement.first[3], found.placement.count[3]) in {(0, 5), (5, 5)}


def test_waves_lead_to_the_placement_one_after_the_other():
    running = Placement(np.array([0, 0, 0, 5]), np.array([5, 5, 0, 5]))
    target = Placement(np.array([5, 0, 5, 5]), np.array([5, 3, 5, 0]))
    plan = Replacement(target, "", 1.0, 2.0, started=(2,), waves=((0,), (1,)), load_seconds=2.0)
    first, last = plan.stages(running)
    assert (first.first.tolist(), first.count.tolist()) == ([5, 0, 5, 5], [5, 5, 5, 5])
    assert last is target
    assert replace(plan, started=(), waves=()).stages(running) == [target]


@pytest.mark.parametrize("field", ["quality", "horizon_seconds", "load_bytes_per_second"])
def test_a_policy_that_makes_no_sense_is_refused(field):
    with pytest.raises(ChainError, match=f"{field} is 0; it must be above 0"):
        MovePolicy(**{field: 0})
