"""Streams of requests: what was asked for is what arrives, in order."""

import itertools

import numpy as np
import pytest

from plimsoll.simulation import (
    ConstantLength,
    EmpiricalLength,
    LognormalLength,
    RateCurve,
    Request,
    constant_rate,
    diurnal,
    merged,
    ramp,
    scaled,
    stepwise,
    synthetic,
)

ONE = ConstantLength(1)


def times(rate: RateCurve, burstiness: float = 1.0, seed: int = 1) -> np.ndarray:
    return np.array([r.arrival_seconds for r in synthetic("c", rate, ONE, ONE, burstiness=burstiness, seed=seed)])


@pytest.mark.parametrize("burstiness", [0.0, 0.5, 1.0, 2.0])
def test_gaps_have_the_rate_and_the_burstiness(burstiness: float) -> None:
    gaps = np.diff(times(constant_rate(50.0, 2000.0), burstiness))
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(burstiness, rel=0.03, abs=1e-6)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (ramp(0.0, 100.0, 400.0), [1250, 3750, 6250, 8750]),
        (stepwise([50.0, 0.0, 10.0, 90.0], 100.0), [5000, 0, 1000, 9000]),
        (diurnal(100.0, 2.0, peak_hour=12.0, day_seconds=400.0), [3634, 16366, 16366, 3634]),
    ],
)
def test_arrivals_follow_the_curve(rate: RateCurve, expected: list[int]) -> None:
    arrivals = times(rate)
    assert (np.diff(arrivals) >= 0).all()
    found, _ = np.histogram(arrivals, bins=4, range=(0.0, 400.0))
    assert found == pytest.approx(expected, rel=0.06, abs=0 if min(expected) else 1)
    assert rate.arrivals == pytest.approx(sum(expected), rel=0.001)


def test_a_curve_is_scaled_in_rate_and_time() -> None:
    curve = ramp(1.0, 3.0, 100.0).scaled(rate=2.0, time=0.5)
    assert curve == ramp(2.0, 6.0, 50.0)
    assert curve.arrivals == pytest.approx(200.0)


def test_equal_seeds_give_equal_streams() -> None:
    def stream(seed: int) -> list[Request]:
        lengths = LognormalLength.of_p95(100, 300)
        return list(synthetic("c", constant_rate(5.0, 50.0), lengths, lengths, seed=seed))

    assert stream(1) == stream(1) != stream(2)


@pytest.mark.parametrize(("mean", "p95"), [(1000, 3000), (150, 400), (800, 800)])
def test_lognormal_lengths_have_the_mean_and_the_95th_percentile(mean: float, p95: float) -> None:
    drawn = LognormalLength.of_p95(mean, p95).sample(np.random.default_rng(0), 200_000)
    assert drawn.mean() == pytest.approx(mean, rel=0.02)
    assert np.quantile(drawn, 0.95) == pytest.approx(p95, rel=0.03)
    assert drawn.min() >= 1


def test_other_lengths() -> None:
    rng = np.random.default_rng(0)
    drawn = LognormalLength.of_median(900, 600, longest=2000).sample(rng, 100_000)
    assert np.median(drawn) == pytest.approx(600, rel=0.02)
    assert drawn.max() == 2000
    assert set(EmpiricalLength.of([3, 5, 9]).sample(rng, 1000).tolist()) == {3, 5, 9}
    with pytest.raises(ValueError, match="length below 1"):
        EmpiricalLength.of([3, 0])
    with pytest.raises(ValueError, match="mean is 10 and p95 is 9"):
        LognormalLength.of_p95(10, 9)


def test_streams_merge_in_order_without_being_read_whole() -> None:
    endless = (Request(float(number), "a", 1, 1) for number in itertools.count())
    other = [Request(0.5, "b", 1, 1), Request(2.5, "b", 1, 1)]
    names = [request.traffic_class for request in itertools.islice(merged(endless, other), 6)]
    assert names == ["a", "b", "a", "a", "b", "a"]


@pytest.mark.parametrize("rate", [0.3, 1.0, 2.6])
def test_a_trace_is_thinned_or_repeated_in_order(rate: float) -> None:
    trace = [Request(number / 10, "c", 7, 9) for number in range(5000)]
    found = list(scaled(trace, rate=rate, time=0.5, seed=3))
    assert len(found) == pytest.approx(5000 * rate, rel=0.05)
    arrivals = [request.arrival_seconds for request in found]
    assert arrivals == sorted(arrivals)
    assert max(arrivals) <= 250.0 + 60.0
    assert {request[1:] for request in found} == {("c", 7, 9)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RateCurve((0.0,), (1.0,)), "at least 2"),
        (lambda: RateCurve((0.0, 2.0, 1.0), (1.0, 1.0, 1.0)), "times are accepted"),
        (lambda: RateCurve((0.0, 2.0), (1.0, -1.0)), "include -1.0"),
        (lambda: diurnal(1.0, 2.5), "peak_to_mean is 2.5"),
        (lambda: list(scaled([], rate=0.0)), "rate is 0.0"),
        (lambda: list(synthetic("c", constant_rate(1.0, 1.0), ONE, ONE, burstiness=-1.0)), "burstiness is -1.0"),
    ],
)
def test_impossible_traffic_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
