"""Latencies as distributions: sums by their cumulants, and a replica against the request-level simulator."""

import math
from dataclasses import replace

import numpy as np
import pytest

from plimsoll.catalog import load_catalog
from plimsoll.performance import (
    Arrivals,
    LatencyTarget,
    LatencyTargets,
    Parallelism,
    ReplicaShape,
    TokenLengths,
    capacity,
    predict,
)
from plimsoll.performance.monotone import MAX_UTILIZATION, Path, Search, load_of
from plimsoll.performance.tails import Cumulants, Mixture, normal_beyond
from plimsoll.simulation import (
    ClassReport,
    LognormalLength,
    Placement,
    Scenario,
    constant_rate,
    engine_of,
    simulate,
    synthetic,
)

CATALOG = load_catalog()
H100_8B = ReplicaShape(
    CATALOG.model("meta-llama/Llama-3.1-8B-Instruct"),
    CATALOG.precision("bf16"),
    CATALOG.gpu("H100-SXM-80GB"),
    Parallelism(1, 1),
    8192,
)
PIPELINE_70B = ReplicaShape(
    CATALOG.model("meta-llama/Llama-3.1-70B-Instruct"),
    CATALOG.precision("bf16"),
    CATALOG.gpu("A100-SXM-80GB"),
    Parallelism(1, 4),
    32768,
)
CHAT = TokenLengths(512, 128, 1024, 256)
SUMMARIES = TokenLengths(3000, 150, 6000, 300)
MOSTLY_PROMPTS = TokenLengths(3800, 30, 9000, 80)
LABELS = TokenLengths(3000, 5, 9000, 10)


def cumulants(mean: float, variance: float, third: float) -> Cumulants:
    return Cumulants(*(np.array([[value]]) for value in (mean, variance, third)))


def test_a_lognormal_time_has_its_own_percentiles() -> None:
    sigma = 0.8
    mean, ratio = math.exp(sigma**2 / 2), math.exp(sigma**2) - 1
    found = Mixture(np.ones((1, 1)), cumulants(mean, mean**2 * ratio, mean**3 * ratio**2 * (ratio + 3)))
    for percentile, score in ((50, 0.0), (95, 1.6448536), (99, 2.3263479)):
        assert found.percentile(percentile)[0] == pytest.approx(math.exp(sigma * score), rel=1e-4)


def test_an_exponential_time_is_nearly_met() -> None:
    found = Mixture(np.ones((1, 1)), cumulants(1.0, 1.0, 2.0))
    for percentile in (90, 95, 99):
        assert found.percentile(percentile)[0] == pytest.approx(-math.log(1 - percentile / 100), rel=0.05)


def test_percentiles_of_a_mixture_lie_where_the_chances_add_up() -> None:
    parts = Cumulants(np.array([[1.0, 10.0]]), np.array([[0.01, 1.0]]), np.zeros((1, 2)))
    found = Mixture(np.array([[0.9, 0.1]]), parts)
    assert found.mean()[0] == pytest.approx(1.9)
    assert found.percentile(50)[0] == pytest.approx(1.0, abs=0.05)
    assert found.percentile(95)[0] == pytest.approx(10.0, abs=0.05)
    for percentile in (50, 80, 95, 99):
        assert found.beyond(found.percentile(percentile))[0] == pytest.approx(1 - percentile / 100, abs=1e-6)


def test_the_normal_tail() -> None:
    scores = np.array([-6.0, -1.0, 0.0, 0.5, 3.0])
    expected = [0.5 * math.erfc(score / math.sqrt(2)) for score in scores]
    assert normal_beyond(scores) == pytest.approx(expected, abs=1e-7)


def simulated(
    shape: ReplicaShape, lengths: TokenLengths, slots: int, rate: float, count: int, burstiness: float = 1.0
) -> ClassReport:
    requests = synthetic(
        "chat",
        constant_rate(rate, count / rate),
        LognormalLength.of_p95(lengths.input_mean, lengths.input_p95),
        LognormalLength.of_p95(lengths.output_mean, lengths.output_p95),
        burstiness=burstiness,
        seed=5,
    )
    fleet = Scenario((Placement("one", engine_of(shape, slots), 1, {"chat": 1.0}),))
    return simulate(fleet, requests, warm_up_seconds=300 / rate).classes["chat"]


@pytest.mark.parametrize(
    ("shape", "lengths", "slots", "load", "burstiness", "count", "within"),
    [
        (H100_8B, CHAT, 64, 0.5, 1.0, 6_000, 0.08),
        (H100_8B, CHAT, 64, 0.75, 1.0, 6_000, 0.1),
        (H100_8B, CHAT, 8, 0.7, 1.0, 60_000, 0.15),
        (H100_8B, CHAT, 64, 0.5, 2.0, 6_000, 0.2),
        (PIPELINE_70B, SUMMARIES, 64, 0.6, 1.0, 6_000, 0.1),
        (replace(H100_8B, max_model_length=32768), MOSTLY_PROMPTS, 64, 0.8, 1.0, 10_000, 0.25),
    ],
)
def test_predictions_agree_with_the_simulator(
    shape: ReplicaShape,
    lengths: TokenLengths,
    slots: int,
    load: float,
    burstiness: float,
    count: int,
    within: float,
) -> None:
    """benchmarks/queueing.py has the whole grid; here a short run shows that the two speak of the same thing.

    Waits for a slot scatter, so the case that has them takes a longer run.
    """
    arrivals = Arrivals(burstiness)
    rate = load * capacity(shape, lengths, LatencyTargets(), max_num_seqs=slots, arrivals=arrivals).max_rate_per_second
    found = simulated(shape, lengths, slots, rate, count, burstiness)
    for percentile in (None, 50, 95):
        target = LatencyTarget(1.0, percentile)
        expected = predict(shape, lengths, LatencyTargets(target, target, target), rate, slots, arrivals=arrivals)
        for name, seconds in (
            ("ttft", expected.ttft_seconds),
            ("tpot", expected.tpot_seconds),
            ("end_to_end", expected.end_to_end_seconds),
        ):
            summary = getattr(found, name)
            truth = summary.mean_seconds if percentile is None else summary.percentile_seconds(percentile)
            assert seconds == pytest.approx(truth, rel=within), (name, percentile)


@pytest.mark.parametrize(("lengths", "load"), [(LABELS, 0.3), (LABELS, 0.7), (TokenLengths(1000, 1, 2000, 1), 0.6)])
def test_prompts_queue_for_the_engine_where_answers_are_short(lengths: TokenLengths, load: float) -> None:
    """Hardly anybody decodes, and yet the engine is busy."""
    shape = replace(H100_8B, max_model_length=32768)
    rate = load * capacity(shape, lengths, LatencyTargets(), max_num_seqs=64).max_rate_per_second
    found = simulated(shape, lengths, 64, rate, 10_000).ttft
    for percentile in (None, 50, 95):
        targets = LatencyTargets(ttft=LatencyTarget(1.0, percentile))
        truth = found.mean_seconds if percentile is None else found.percentile_seconds(percentile)
        assert predict(shape, lengths, targets, rate, 64).ttft_seconds == pytest.approx(truth, rel=0.2), percentile


def test_the_search_for_a_load_is_the_inverse_of_the_latency_at_a_load() -> None:
    """Even of values that dip; and the latency never falls as the load grows."""
    without_load, dips = 0.9, np.array([1.0, 2.0, 1.5, 1.2, 4.0, 3.0, 3.5, 9.0])

    def value(number: np.ndarray) -> np.ndarray:
        return np.interp(number, np.linspace(1, Search.top, 8), dips)

    def latency(load: float) -> float:
        path = Path.to(load)
        return path.value(without_load, value(path.numbers))

    loads = np.linspace(0.001, 0.999, 700)
    found = np.array([latency(load) for load in loads])
    assert (np.diff(found) >= 0).all()
    assert found[0] == pytest.approx(0.9, rel=0.01)
    for target in (0.95, 1.3, 1.8, 3.2, 5.0):
        search = Search.of(value(np.array([[float(Search.top)]])) <= target)
        for _ in range(search.levels):
            search.turn(value(search.next)[:, None] <= target)
        low = np.where(search.low > 0, value(search.low), without_load)[:, None]
        crossing = search.found(np.array([target]), low, value(search.high)[:, None])[0][0]
        assert latency(crossing) <= target < latency(crossing + 1e-6)
    assert load_of(Search.top) == pytest.approx(MAX_UTILIZATION)


def test_wider_lengths_and_bursts_make_late_requests_later() -> None:
    late = LatencyTargets(LatencyTarget(1.0, 95), LatencyTarget(1.0, 95), LatencyTarget(1.0, 95))
    plain = predict(H100_8B, TokenLengths(512, 128, 512, 128), late, 15.0, 64)
    wide = predict(H100_8B, CHAT, late, 15.0, 64)
    bursty = predict(H100_8B, CHAT, late, 15.0, 64, arrivals=Arrivals(2.0))
    for calm, worse in ((plain, wide), (wide, bursty)):
        assert worse.ttft_seconds > calm.ttft_seconds
        assert worse.tpot_seconds > calm.tpot_seconds
        assert worse.end_to_end_seconds > calm.end_to_end_seconds
    assert bursty.ttft_seconds > 1.3 * wide.ttft_seconds


@pytest.mark.parametrize(
    ("shape", "slots", "lengths"),
    [
        (H100_8B, 8, CHAT),
        (H100_8B, 64, CHAT),
        (H100_8B, 64, TokenLengths(2000, 20, 4000, 40)),
        (PIPELINE_70B, 64, SUMMARIES),
    ],
)
def test_a_saturated_replica_delivers_what_the_planner_counts_on(
    shape: ReplicaShape, slots: int, lengths: TokenLengths
) -> None:
    """Twice as many requests as it can take: the simulator's throughput is the planner's saturation rate."""
    most = capacity(shape, lengths, LatencyTargets(), max_num_seqs=slots).max_rate_per_second / MAX_UTILIZATION
    seconds = 2500 / most
    requests = synthetic(
        "chat",
        constant_rate(2 * most, seconds),
        LognormalLength.of_p95(lengths.input_mean, lengths.input_p95),
        LognormalLength.of_p95(lengths.output_mean, lengths.output_p95),
        seed=7,
    )
    fleet = Scenario((Placement("one", engine_of(shape, slots), 1, {"chat": 1.0}),))
    report = simulate(fleet, requests, interval_seconds=seconds / 10)
    full = report.intervals[2:10]
    throughput = sum(each.classes["chat"].completed for each in full) / (len(full) * seconds / 10)
    assert throughput == pytest.approx(most, rel=0.05)


def test_no_latency_is_negative_however_long_some_prompts_are() -> None:
    shape = replace(H100_8B, max_model_length=200_000)
    for percentile in (50, 95):
        targets = LatencyTargets(*(LatencyTarget(1.0, percentile),) * 3)
        found = predict(shape, TokenLengths(16_592, 7, 165_924, 20), targets, 0.05, 16)
        assert min(found.ttft_seconds, found.tpot_seconds, found.end_to_end_seconds) > 0
