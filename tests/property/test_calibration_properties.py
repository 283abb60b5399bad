"""Corrections stay within bounds, converge, and no single observation moves them far; fits do not depend on order."""

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from plimsoll.performance import calibrate, capacity, step_timer
from plimsoll.performance.correction import CAUTIOUS, Correction, Estimate, Evidence, corrected
from plimsoll.performance.shapes import LatencyTarget, LatencyTargets, TokenLengths
from tests.unit.performance.test_performance_calibration import POINTS, SHAPE, row

anything = st.floats(allow_nan=True, allow_infinity=True)
seconds = st.floats(1e-4, 1e3)
estimates = st.builds(
    Estimate, st.floats(CAUTIOUS.lowest, CAUTIOUS.highest), st.floats(CAUTIOUS.lowest, CAUTIOUS.highest), st.just(0.0)
)
any_evidence = st.builds(Evidence, anything, anything, anything, anything, anything)
good_evidence = st.builds(
    Evidence, seconds, seconds, st.floats(50, 1e7), st.floats(0, 0.8), st.floats(0, CAUTIOUS.oldest_seconds)
)


@given(st.lists(any_evidence | good_evidence, max_size=60))
def test_factors_stay_within_their_bounds_whatever_is_observed(observed: list[Evidence]) -> None:
    estimate = Estimate()
    for item in observed:
        estimate = corrected(estimate, item)
        assert CAUTIOUS.lowest <= estimate.value <= CAUTIOUS.highest
        assert CAUTIOUS.lowest <= estimate.in_force <= CAUTIOUS.highest


@given(estimates, any_evidence | good_evidence)
def test_one_observation_moves_the_estimate_by_a_few_percent_at_most(estimate: Estimate, item: Evidence) -> None:
    after = corrected(estimate, item)
    assert abs(log(after.value / estimate.value)) <= CAUTIOUS.most_per_interval + 1e-9


@given(st.integers(1, 200), any_evidence | good_evidence)
def test_one_lie_among_many_true_observations_moves_predictions_by_a_few_percent_at_most(
    before: int, lie: Evidence
) -> None:
    estimate = Estimate()
    for _ in range(before):
        estimate = corrected(estimate, Evidence(0.02, 0.02 * estimate.in_force, 500.0, 0.5, 30.0))
    after = corrected(estimate, lie)
    assert abs(log(after.in_force / estimate.in_force)) <= CAUTIOUS.most_per_interval + CAUTIOUS.hysteresis + 1e-9


@given(estimates, st.floats(0, 49))
def test_without_evidence_nothing_moves(estimate: Estimate, requests: float) -> None:
    after = corrected(estimate, Evidence(0.05, 0.02, requests, 0.5, 30.0))
    assert (after.value, after.in_force) == (estimate.value, estimate.in_force)


@given(
    true=st.floats(0.55, 1.8),
    elasticity=st.floats(0.6, 3.0),
    noise=st.floats(0.0, 0.1),
    seed=st.integers(0, 1000),
)
@settings(deadline=None)
def test_predictions_converge_to_what_is_observed(true: float, elasticity: float, noise: float, seed: int) -> None:
    """Latencies may react less or more than in proportion to step times; observations scatter."""
    # Beyond the plausible, differences are reported and not believed.
    assume(abs(elasticity * log(true)) < log(CAUTIOUS.implausible) - 0.3)
    random = np.random.default_rng(seed)
    estimate = Estimate()
    for _ in range(600):
        observed = 0.02 * true**elasticity * exp(random.normal(0.0, noise))
        estimate = corrected(estimate, Evidence(observed, 0.02 * estimate.in_force**elasticity, 800.0, 0.5, 30.0))
    agreement = CAUTIOUS.hysteresis / min(1.0, elasticity) + 0.05
    assert abs(log(estimate.in_force / true)) <= agreement


@given(prefill=st.floats(0.5, 2.0), decode=st.floats(0.5, 2.0))
@settings(max_examples=25, deadline=None)
def test_slower_steps_never_serve_more(prefill: float, decode: float) -> None:
    lengths, targets = TokenLengths(1000, 200, 2500, 500), LatencyTargets(ttft=LatencyTarget(2.0, 95))
    usual = capacity(SHAPE, lengths, targets).max_rate_per_second
    slower = replace(SHAPE, correction=Correction(max(1.0, prefill), max(1.0, decode)))
    faster = replace(SHAPE, correction=Correction(min(1.0, prefill), min(1.0, decode)))
    assert capacity(slower, lengths, targets).max_rate_per_second <= usual * 1.001
    assert capacity(faster, lengths, targets).max_rate_per_second >= usual * 0.999


@given(factor=st.floats(0.5, 2.0), running=st.integers(1, 256))
def test_equal_factors_scale_every_step(factor: float, running: int) -> None:
    scaled = step_timer(replace(SHAPE, correction=Correction(factor, factor)))
    chunk = (running, running * 700.0, 1024, 1024.0 * 512)
    assert scaled.mixed(*chunk) == pytest.approx(factor * step_timer(SHAPE).mixed(*chunk), rel=1e-9)


@given(st.permutations(range(len(POINTS))))
@settings(max_examples=5, deadline=None)
def test_the_order_of_rows_does_not_matter(order: list[int]) -> None:
    rows = [row(*point) for point in POINTS]
    usual, shuffled = calibrate(rows), calibrate([rows[number] for number in order])
    assert shuffled.coefficients.weights_efficiency == pytest.approx(usual.coefficients.weights_efficiency, rel=1e-3)
    assert shuffled.changed.keys() == usual.changed.keys()
