"""Percentiles and confidence intervals in bounded memory."""

import math

import numpy as np
import pytest

from plimsoll.simulation import LatencyRecorder


def recorded(values: np.ndarray, batches: int) -> LatencyRecorder:
    recorder = LatencyRecorder()
    for batch in np.array_split(values, batches):
        for value in batch:
            recorder.add(float(value))
        recorder.close_interval()
    return recorder


@pytest.mark.parametrize("scale", [1e-3, 1.0, 500.0])
def test_percentiles_are_within_half_a_percent(scale: float) -> None:
    values = scale * np.exp(1.3 * np.random.default_rng(1).standard_normal(40_000))
    summary = recorded(values, 30).summary()
    assert summary.count == 40_000
    assert summary.mean_seconds == pytest.approx(values.mean())
    for percentile in (1, 25, 50, 90, 95, 99, 99.9):
        expected = np.quantile(values, percentile / 100, method="inverted_cdf")
        assert summary.percentile_seconds(percentile) == pytest.approx(expected, rel=0.005)
    assert summary.percentile_seconds(100) == values.max()
    assert summary.share_within(float(np.quantile(values, 0.9))) == pytest.approx(0.9, abs=0.005)


@pytest.mark.parametrize("batches", [20, 39, 40, 200])
def test_95_percent_intervals_hold_the_truth_95_percent_of_the_time(batches: int) -> None:
    rng = np.random.default_rng(7)
    mean_hits = p90_hits = 0
    for _ in range(60):
        summary = recorded(rng.standard_exponential(2000), batches).summary()
        assert 20 <= summary.batches < 40
        mean_hits += abs(summary.mean_seconds - 1.0) <= summary.mean_half_width()
        low, high = summary.percentile_interval(90)
        p90_hits += low <= -math.log(0.1) <= high
    assert 51 <= mean_hits <= 60
    assert 51 <= p90_hits <= 60


def test_correlated_values_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    drift = np.repeat(1.0 + rng.random(30), 500)
    still = recorded(1.5 + 0 * drift + 0.01 * rng.standard_normal(15_000), 30).summary()
    moving = recorded(drift + 0.01 * rng.standard_normal(15_000), 30).summary()
    assert moving.mean_half_width() > 20 * still.mean_half_width()


def test_memory_does_not_grow_with_the_number_of_intervals() -> None:
    recorder = LatencyRecorder()
    for _ in range(5000):
        recorder.add(1.0)
        recorder.close_interval()
    summary = recorder.summary()
    assert summary.count == 5000
    assert summary.counts.shape[0] <= 40


def test_an_empty_summary_has_no_figures() -> None:
    summary = LatencyRecorder().summary()
    assert summary.count == 0
    assert math.isnan(summary.mean_seconds)
    assert math.isnan(summary.percentile_seconds(50))
    assert summary.mean_half_width() == math.inf
