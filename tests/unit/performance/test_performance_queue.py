"""The queue of continuous batching against closed forms, and the arrivals and lengths that go in."""

import math

import numpy as np
import pytest

from plimsoll.performance.arrivals import Arrivals
from plimsoll.performance.lengths import MAX_SPREAD, LengthDistribution
from plimsoll.performance.queue import Load
from plimsoll.performance.replicas import Engines, Replicas, Traffic
from plimsoll.performance.stacked import StackedTerms
from plimsoll.performance.terms import StepTerms

FIXED = LengthDistribution.of(100, 100)


def terms(step: float, sequence: float = 0.0, prompt: float = 0.0) -> StepTerms:
    return StepTerms(0.0, 0.0, 0.0, 0.0, prompt, 0.0, 0.0, step, sequence, 0.0, 1)


def load(one: StepTerms, batch: int, share: float, traffic: Traffic) -> Load:
    replicas = Replicas.of(Engines.alike(traffic, StackedTerms.of([one])), np.array([float(batch)]))
    return Load.of(replicas, share * replicas.saturation_rate)


@pytest.mark.parametrize("share", [0.3, 0.75, 0.95])
def test_constant_steps_make_an_erlang_c_queue(share: float) -> None:
    servers, traffic = 8, Traffic(FIXED, FIXED)
    found = load(terms(0.01), servers, share, traffic)
    offered = share * servers
    last = offered**servers / math.factorial(servers)
    fewer = sum(offered**n / math.factorial(n) for n in range(servers))
    assert found.full_chance[0] == pytest.approx(last / (1 - share) / (fewer + last / (1 - share)), rel=1e-6)
    assert found.running[0] == pytest.approx(offered, rel=1e-6)
    assert found.idle[0] == pytest.approx(1 / (fewer + last / (1 - share)), rel=1e-6)


def test_without_a_limit_in_reach_the_number_in_service_is_poisson() -> None:
    """Beyond 16, sums run over every 8th part of a doubling: that is the 0.3 %."""
    found = load(terms(0.01), 256, 0.2, Traffic(FIXED, LengthDistribution.of(100, 200)))
    assert found.running[0] == pytest.approx(0.2 * 256, rel=0.003)
    assert found.full_chance[0] < 1e-12


def test_as_many_leave_as_arrive() -> None:
    """Little's law in a batch whose steps grow with it: requests running = rate x time in the replica."""
    traffic = Traffic(FIXED, LengthDistribution.of(200, 400))
    for share in (0.2, 0.6, 0.9):
        found = load(terms(0.005, sequence=1e-4), 64, share, traffic)
        stay = traffic.rounds * found.pace.mean[0]
        assert found.running[0] == pytest.approx(found.rate[0] * stay, rel=0.01)


def test_bursts_and_prefills_widen_the_queue() -> None:
    outputs = LengthDistribution.of(200, 400)
    plain = load(terms(0.005, sequence=1e-4), 32, 0.7, Traffic(FIXED, outputs))
    bursty = load(terms(0.005, sequence=1e-4), 32, 0.7, Traffic(FIXED, outputs, Arrivals(2.0)))
    assert bursty.full_chance[0] > 2 * plain.full_chance[0]
    assert bursty.full_wait[0] > 2 * plain.full_wait[0]
    assert bursty.running[0] == pytest.approx(plain.running[0], rel=0.1)


def test_saturation_is_a_full_batch_or_full_steps() -> None:
    decode = Engines.alike(Traffic(FIXED, LengthDistribution.of(101, 101)), StackedTerms.of([terms(0.01)]))
    assert decode.saturated(np.array([[10.0]]))[0][0, 0] == pytest.approx(10 / (101 * 0.01))
    prompts = Engines.alike(
        Traffic(LengthDistribution.of(4096, 4096), FIXED), StackedTerms.of([terms(0.01, prompt=1e-5)])
    )
    most = prompts.saturated(np.array([[200.0]]))[0][0, 0]
    assert most == pytest.approx((2048 - 200) / 4096 / (0.01 + (2048 - 200) * 1e-5), rel=1e-6)


def test_stacked_terms_agree_with_the_step_model() -> None:
    dense = StepTerms(0.005, 0.0, 0.0, 2e-5, 3e-5, 1e-9, 7e-8, 0.002, 6e-5, 1e-6, 1)
    sparse = StepTerms(0.003, 0.02, 0.75, 2e-5, 3e-5, 1e-9, 7e-8, 0.002, 6e-5, 1e-6, 2)
    stacked = StackedTerms.of([dense, sparse])
    for running, context, tokens in ((1, 500.0, 0.0), (64, 900.0, 0.0), (64, 900.0, 1500.0), (0, 0.0, 300.0)):
        pairs = tokens * tokens / 2
        columns = (np.full((1, 1), float(running)), context, np.full((1, 1), tokens), np.full((1, 1), pairs))
        for row, one in enumerate((dense, sparse)):
            expected = one.mixed_step_seconds(running, running * context, tokens, pairs)
            assert stacked.seconds(*columns)[row, 0] == pytest.approx(expected, rel=1e-12)


def test_companions_of_bursty_arrivals_agree_with_a_drawn_stream() -> None:
    arrivals = Arrivals(2.0)
    times = np.cumsum(np.random.default_rng(3).gamma(0.25, 4.0, 400_000))
    for window in (0.1, 1.0, 10.0):
        after = np.searchsorted(times, times[:-2000] + window, side="right") - np.arange(len(times) - 2000) - 1
        counts = np.diff(np.searchsorted(times, np.arange(0.0, times[-1], window)))
        expected = np.array([window])
        scatter = 0.002 + 0.02 * math.sqrt(
            window
        )  # of a stream of this length; one ten times as long is 0.02 off at most
        assert arrivals.companions(expected)[0] == pytest.approx(after.mean() - window, abs=scatter)
        assert arrivals.dispersion(expected)[0] == pytest.approx(counts.var() / counts.mean(), rel=0.05)
    poisson = Arrivals(1.0)
    assert poisson.companions(np.ones(1))[0] == 0.0
    assert poisson.dispersion(np.ones(1))[0] == 1.0


@pytest.mark.parametrize("spread", [1.0, 1.5, 2.0, 3.0])
def test_lengths_have_their_mean_and_percentile(spread: float) -> None:
    found = LengthDistribution.of(500, 500 * spread)
    drawn = 500 * np.exp(found.sigma * np.random.default_rng(1).standard_normal(400_000) - found.sigma**2 / 2)
    assert drawn.mean() == pytest.approx(500, rel=0.02)
    assert np.percentile(drawn, 95) == pytest.approx(500 * spread, rel=0.02)
    nodes, weights = found.nodes
    assert (nodes * weights).sum() == pytest.approx(500, rel=1e-3)
    if spread <= 2.0:
        assert drawn.var() == pytest.approx(found.variance, rel=0.1, abs=1e-6)


def test_percentiles_that_no_lognormal_has_take_the_nearest() -> None:
    assert LengthDistribution.of(100, 50).sigma == 0.0
    assert LengthDistribution.of(100, 1000).sigma == LengthDistribution.of(100, 100 * MAX_SPREAD).sigma
