"""Demand followed from window to window: covers what comes, shrinks only on good evidence, and is still under noise."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from plimsoll.planning.following import FOLLOWING, Followed, Window, beginning, followed, unseen
from plimsoll.planning.forecast import level_deviation

STEP = 15.0
HORIZON = 300.0
COOL_DOWN = FOLLOWING.cool_down_seconds
RATES = st.floats(min_value=50.0, max_value=50_000.0)


def run(state: Followed, rates: list[float], plausible: bool = True) -> list[Followed]:
    states = []
    for rate in rates:
        state = followed(state, Window(state.seconds + STEP, rate, plausible), HORIZON)
        states.append(state)
    return states


def settled(rate: float, planned: float | None = None) -> Followed:
    """After half an hour of one rate; `planned` replaces what is planned for."""
    state = run(beginning(rate, 0.0), [rate] * 120)[-1]
    return state if planned is None else replace(state, planned_per_minute=planned)


@settings(deadline=None, max_examples=25)
@given(RATES, st.integers(0, 2**32))
def test_noise_of_a_tenth_moves_nothing(rate: float, seed: int) -> None:
    draw = random.Random(seed)
    states = run(beginning(rate, 0.0), [rate * draw.uniform(0.9, 1.1) for _ in range(960)])
    later = states[480:]
    planned = [state.planned_per_minute for state in later]
    # A window may still be the highest of all; what has grown once does not come back.
    assert planned == sorted(planned)
    assert len(set(planned)) <= 2
    # The first window of all may have been at the edge, and is corrected once.
    assert len({state.current_per_minute for state in later}) <= 2
    assert rate * 0.97 <= later[0].planned_per_minute <= rate * 1.2


@settings(deadline=None, max_examples=25)
@given(RATES, st.floats(min_value=1.3, max_value=20.0))
def test_growth_is_planned_for_within_minutes(rate: float, factor: float) -> None:
    states = run(settled(rate), [rate * factor] * 40)
    planned = [state.planned_per_minute for state in states]
    assert planned[0] == settled(rate).planned_per_minute, "a single window may hold the beginning of a lie"
    assert planned[1] > planned[0], "the second one that shows it counts"
    # Of a few hundred requests per minute chance can explain more than a tenth.
    sure = rate * factor - FOLLOWING.forecast.doubt * level_deviation(rate * factor, FOLLOWING.forecast.burst_seconds)
    assert planned[16] >= min(0.9 * rate * factor, sure), "four minutes later nearly all of it is planned for"
    assert planned[-1] >= rate * factor, "ten minutes later all of it"
    assert planned == sorted(planned)


@settings(deadline=None, max_examples=25)
@given(RATES, st.one_of(st.floats(min_value=0.1, max_value=0.5), st.floats(min_value=2.0, max_value=20.0)))
def test_what_arrives_now_is_known_from_the_first_window_that_surely_shows_it(rate: float, factor: float) -> None:
    """Shares follow it, and cost nothing; the level that replicas follow takes minutes."""
    first, *later = run(settled(rate), [rate * factor] * 40)
    assert abs(first.current_per_minute - rate) > 0.5 * abs(rate * factor - rate)
    between = sorted((rate, rate * factor))
    assert all(between[0] <= round(state.current_per_minute, 6) <= between[1] for state in later)
    steps = [state.current_per_minute for state in (first, *later)]
    assert steps in (sorted(steps), sorted(steps, reverse=True)), "never back and forth"


@settings(deadline=None, max_examples=50)
@given(
    RATES,
    st.floats(min_value=1.0, max_value=2.0),
    st.integers(0, 20),
    st.floats(min_value=1.0, max_value=2.0),
    st.integers(1, 20),
)
def test_a_lie_at_the_edge_of_a_window_moves_nothing(
    rate: float, beginning_: float, contradicted: int, end: float, quiet: int
) -> None:
    """The windows in which it begins and ends look plausible; those between do not."""
    before = settled(rate)
    state = run(before, [rate * beginning_])[-1]
    state = run(state, [10 * rate] * contradicted, plausible=False)[-1] if contradicted else run(state, [rate])[-1]
    state = run(state, [rate * end])[-1]
    assert run(state, [rate] * quiet)[-1].planned_per_minute == before.planned_per_minute


@given(RATES, st.floats(min_value=1.5, max_value=20.0), st.floats(min_value=46.0, max_value=120.0))
def test_where_looks_are_far_apart_one_is_enough(rate: float, factor: float, apart: float) -> None:
    state = settled(rate)
    after = followed(state, Window(state.seconds + apart, rate * factor), HORIZON)
    assert after.planned_per_minute > state.planned_per_minute


@given(RATES, st.floats(min_value=1.5, max_value=20.0))
def test_a_window_that_is_told_twice_does_not_agree_with_itself(rate: float, factor: float) -> None:
    for state in (settled(rate), beginning(rate, 0.0)):
        window = Window(state.seconds + STEP, rate * factor)
        once = followed(state, window, HORIZON)
        assert followed(once, window, HORIZON) == once


@settings(deadline=None, max_examples=25)
@given(RATES, st.floats(min_value=0.0, max_value=0.8))
def test_a_shrink_takes_a_whole_cool_down_and_little_at_a_time(rate: float, factor: float) -> None:
    before = settled(rate)
    states = run(before, [rate * factor] * 400)
    moments = [(state.seconds, state.planned_per_minute) for state in states]
    shrinks = [(then, old, new) for (_, old), (then, new) in itertools.pairwise(moments) if new < old]
    assert shrinks
    assert shrinks[0][0] - before.seconds >= COOL_DOWN
    for (first, _, _), (second, _, _) in itertools.pairwise(shrinks):
        assert second - first >= COOL_DOWN
    assert all(new >= old * (1 - FOLLOWING.most_shrink) for _, old, new in shrinks)
    assert all(state.planned_per_minute >= rate * factor for state in states)


@settings(deadline=None, max_examples=25)
@given(
    RATES,
    st.lists(st.sampled_from(["good", "restless", "partly", "disagrees", "missing"]), min_size=1, max_size=400),
    RATES,
)
def test_without_good_windows_nothing_shrinks(rate: float, story: list[str], declared: float) -> None:
    """Whatever is told in between: every shrink has a whole cool-down of good windows before it."""
    state = settled(rate, planned=4 * rate)
    for what in story:
        before, now = state, state.seconds + STEP
        if what == "missing":
            state = unseen(state, now, declared)
        else:
            seen = rate if what in ("good", "restless") else 0.0
            window = Window(now, seen, what != "disagrees", what != "restless", what != "partly")
            state = followed(state, window, HORIZON)
        if what != "good":
            assert state.planned_per_minute >= before.planned_per_minute
        if what in ("missing", "disagrees", "partly"):
            assert state.current_per_minute == before.current_per_minute
            assert state.planned_per_minute in (before.planned_per_minute, max(before.planned_per_minute, declared))


@settings(deadline=None, max_examples=25)
@given(RATES, st.lists(st.floats(min_value=0.0, max_value=1.0), max_size=8))
def test_new_replicas_of_which_little_was_seen_yet_teach_no_lower_demand(rate: float, parts: list[float]) -> None:
    quick = replace(FOLLOWING, cool_down_seconds=20.0)
    state = beginning(rate, 0.0)
    for number, part in enumerate([*parts, *[None] * 60]):
        window = Window(2.0 * number + 2.0, rate * (1.0 if part is None else part), whole=part is None)
        state = followed(state, window, HORIZON, quick)
        assert state.planned_per_minute >= rate
    assert state.planned_per_minute <= 1.1 * rate


@settings(deadline=None, max_examples=25)
@given(RATES, st.floats(min_value=3.0, max_value=100.0))
def test_a_rate_that_running_requests_contradict_moves_nothing(rate: float, factor: float) -> None:
    before = settled(rate)
    after = run(before, [rate * factor] * 40, plausible=False)[-1]
    assert (after.planned_per_minute, after.current_per_minute) == (
        before.planned_per_minute,
        before.current_per_minute,
    )


@settings(deadline=None, max_examples=25)
@given(RATES, RATES)
def test_lost_metrics_leave_the_larger_of_declared_and_last_known(rate: float, declared: float) -> None:
    before = settled(rate)
    soon = unseen(before, before.seconds + STEP, declared)
    assert soon.planned_per_minute == before.planned_per_minute, "a scrape that fails is no reason to start pods"
    later = unseen(soon, before.seconds + 600.0, declared)
    assert later.planned_per_minute == max(before.planned_per_minute, declared)


def test_silence_is_not_believed_for_an_hour() -> None:
    """Clients behind a broken gateway come back all at once; and a broken exporter shows zeros."""
    before = settled(3000.0)
    silent = run(before, [0.0] * 230)
    assert {state.planned_per_minute for state in silent} == {before.planned_per_minute}
    assert {state.current_per_minute for state in silent} == {before.current_per_minute}
    assert run(silent[-1], [0.0] * 120)[-1].planned_per_minute < before.planned_per_minute


def test_a_gap_begins_the_cool_down_anew() -> None:
    state = settled(1000.0, planned=4000.0)
    state = replace(state, good_since=state.seconds)
    state = run(state, [1000.0] * 30)[-1]
    state = followed(state, Window(state.seconds + 200.0, 1000.0), HORIZON)
    after = run(state, [1000.0] * 38)
    assert all(item.planned_per_minute == 4000.0 for item in after)
    assert run(after[-1], [1000.0] * 4)[-1].planned_per_minute == 3400.0


def test_what_is_never_asked_for_keeps_something_to_measure_with() -> None:
    state = run(beginning(600.0, 0.0), [0.0] * 4000)[-1]
    assert FOLLOWING.least_per_minute <= state.planned_per_minute <= 3.0
