"""Means and confidence intervals over seeds."""

import math

import numpy as np
import pytest

from plimsoll.simulation.montecarlo import estimate, monte_carlo


def test_the_interval_covers_the_mean_as_often_as_it_says():
    stream = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        found = estimate(stream.normal(10.0, 2.0, 5).tolist())
        hits += abs(found.mean - 10.0) <= found.half_width
    assert hits / 400 == pytest.approx(0.95, abs=0.03)


def test_one_run_has_no_interval_and_none_no_mean():
    assert estimate([3.0]).half_width == math.inf
    assert math.isnan(estimate([math.nan]).mean)
    assert estimate([1.0, math.inf]).mean == math.inf


def test_the_mapper_does_not_matter():
    def backwards(function, seeds):
        found = {seed: function(seed) for seed in reversed(seeds)}
        return [found[seed] for seed in seeds]

    def run(seed):
        return {"wait": float(np.random.default_rng(seed).random()), **({"rare": 1.0} if seed == 2 else {})}

    one, other = monte_carlo(run, range(5)), monte_carlo(run, range(5), backwards)
    assert one == other
    assert one["rare"].runs == 1
