"""Chains: placements that the search makes of stages, and what it moves afterwards."""

import numpy as np

from plimsoll.chains import ChainProblem, best_placement, check, replace_servers
from plimsoll.chains.search import few_moves, gains
from plimsoll.chains.stages import classes_of, divided, staged_options


def scattered_servers(count=60):
    """Like servers from near to far."""
    trips = np.linspace(0.1, 0.35, count)[None, :]
    return ChainProblem(
        blocks=70,
        block_bytes=1.3e9,
        cache_bytes=8.5e6,
        memory_bytes=np.full(count, 85e9),
        decode_trip_seconds=trips,
        decode_block_seconds=np.full(count, 0.0032),
        prefill_trip_seconds=trips,
        prefill_block_seconds=np.full(count, 0.035),
        output_tokens=128,
        setup_seconds=60.0,
    )


def test_where_two_stages_carry_too_little_only_the_near_servers_are_in_three():
    """The rate is between what two stages of all servers carry and what three do."""
    problem = scattered_servers()
    rate = 29.0
    found = best_placement(problem, rate)
    assert found.carries
    assert "the farthest" in found.name
    assert check(problem, found.placement) == []
    sizes = found.placement.count
    assert sizes[:10].max() < 30 < sizes[-10:].min()


def test_divided_groups_serve_in_both_numbers_of_stages():
    problem = scattered_servers(20)
    fewer, more = staged_options(problem, classes_of(problem), (0,))[:2]
    found = list(divided(problem, fewer, more))
    assert found
    for one in found:
        assert check(problem, one.placement) == []
        assert one.placement.covers(problem.blocks)
        assert fewer.sessions < one.sessions < more.sessions


def test_small_gains_are_no_reason_to_move():
    assert gains(90.0, 100.0)
    assert not gains(90.1, 100.0)
    assert gains(1e9, 1e9 + 1.0)
    assert not gains(1e9 + 0.95, 1e9 + 1.0)


def test_what_a_move_would_mend_is_not_placed():
    """Four servers of which the stages alone would leave one idle beside a scarce block."""
    trips = np.full((1, 4), 0.125)
    problem = ChainProblem(
        blocks=5,
        block_bytes=1.0,
        cache_bytes=0.5,
        memory_bytes=np.array([3.0, 4.0, 6.0, 7.0]),
        decode_trip_seconds=trips,
        decode_block_seconds=np.full(4, 0.015625),
        prefill_trip_seconds=trips + 0.05,
        prefill_block_seconds=np.full(4, 0.25),
        output_tokens=1,
    )
    best = best_placement(problem, 2.0)
    assert all(not gains(moved.score, best.score) for moved in few_moves(problem, best.placement, 2.0))
    assert replace_servers(problem, best.placement, 2.0).moved == 0
