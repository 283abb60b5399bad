"""Sums of times by their first three cumulants, and the shifted lognormal distribution that has them."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from plimsoll.performance.shapes import FloatArray

_LEAST_SKEW = 0.02
_STEPS, _HALVINGS = 8, 50
"""Of the search for a percentile of a mixture; the latter where the former do not get there."""
_ALL = slice(None)
_LEAST = 0.25
"""Of the mean: no percentile is taken for less. The widest lengths have their median there; a shifted lognormal with
the cumulants of a few very long prompts may put it below zero."""
_EXACT = 1e-9
"""Of the log odds."""


@dataclass(frozen=True, slots=True)
class Cumulants:
    """Mean, variance and third central moment; those of independent parts add up."""

    mean: FloatArray
    variance: FloatArray
    third: FloatArray

    @classmethod
    def fixed(cls, mean: float, variance: float, third: float) -> "Cumulants":
        """Of plain numbers, to be scaled."""
        return cls(np.array(mean), np.array(variance), np.array(third))

    def __add__(self, other: "Cumulants") -> "Cumulants":
        return Cumulants(self.mean + other.mean, self.variance + other.variance, self.third + other.third)

    def scaled(self, factor: FloatArray) -> "Cumulants":
        """Of as many times the sum."""
        return Cumulants(self.mean * factor, self.variance * factor**2, self.third * factor**3)

    def lognormal(self) -> tuple[FloatArray, FloatArray]:
        """Spread of the logarithm, and mean above the shift."""
        deviation = np.sqrt(np.maximum(self.variance, 1e-6 * np.square(self.mean) + 1e-300))
        skew = np.maximum(self.third / (deviation * deviation * deviation), _LEAST_SKEW)
        # (w + 2) sqrt(w - 1) = skew, solved for w = exp(sigma^2) by Cardano's formula.
        half = 1.0 + 0.5 * skew * skew
        root = np.cbrt(half + np.sqrt(half * half - 1.0))
        ratio = root + 1.0 / root - 1.0
        return np.sqrt(np.log(ratio)), deviation / np.sqrt(ratio - 1.0)

    def beyond(self, seconds: FloatArray) -> FloatArray:
        """Chance of more than `seconds`, of the shifted lognormal distribution with these cumulants."""
        sigma, scale = self.lognormal()
        part = 1.0 + (seconds - self.mean) / scale
        score = np.where(part > 1e-12, np.log(np.maximum(part, 1e-12)) / sigma + 0.5 * sigma, -40.0)
        return normal_beyond(score)


def cumulants_of(values: FloatArray, weights: FloatArray) -> Cumulants:
    """(J,) of (J, I) values with weights (I,)."""
    mean = values @ weights
    away = values - mean[:, None]
    square = np.square(away)
    return Cumulants(mean, square @ weights, (square * away) @ weights)


def normal_beyond(score: FloatArray) -> FloatArray:
    """Chance that a standard normal variable exceeds `score`; within 8e-8 (Abramowitz and Stegun 26.2.17)."""
    size = np.minimum(np.abs(score), 37.0)
    t = 1.0 / (1.0 + 0.2316419 * size)
    series = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    tail = 0.3989422804014327 * np.exp(-0.5 * size * size) * series
    return np.asarray(np.where(score >= 0.0, tail, 1.0 - tail))


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several cases with their chances, all (J,) or all (J, K): columns of the parts are cases."""

    weights: FloatArray
    """(J, K), rows add up to 1."""
    parts: Cumulants
    """(J, K) each."""
    most: FloatArray | float = np.inf
    """(J,), or for all: no time is longer."""

    def mean(self) -> FloatArray:
        """(J,) mean."""
        return np.asarray((self.weights * self.parts.mean).sum(axis=1))

    def take(self, rows: NDArray[np.intp]) -> "Mixture":
        """Some of the rows."""
        parts = self.parts
        some = Cumulants(parts.mean[rows], parts.variance[rows], parts.third[rows])
        return Mixture(self.weights[rows], some, self.bounds()[rows])

    def updated(self, rows: NDArray[np.bool_], other: "Mixture") -> "Mixture":
        """With some rows (J,) from another."""
        from_other, parts, others = rows[:, None], self.parts, other.parts
        return Mixture(
            np.where(from_other, other.weights, self.weights),
            Cumulants(
                np.where(from_other, others.mean, parts.mean),
                np.where(from_other, others.variance, parts.variance),
                np.where(from_other, others.third, parts.third),
            ),
            np.where(rows, other.bounds(), self.bounds()),
        )

    def bounds(self) -> FloatArray:
        """(J,) `most`, by row."""
        return np.broadcast_to(self.most, self.weights.shape[:1])

    def beyond(self, seconds: float | FloatArray) -> FloatArray:
        """(J,) chance of more than `seconds`."""
        at = np.broadcast_to(np.asarray(seconds, dtype=np.float64), self.weights.shape[:1])[:, None]
        chance = (self.weights * self.parts.beyond(at)).sum(axis=1)
        chance = np.where(at[:, 0] < _LEAST * self.mean(), 1.0, chance)
        return np.where(at[:, 0] < self.most, chance, 0.0)

    def percentile(self, percentile: float) -> FloatArray:
        """(J,) seconds that are exceeded with a chance of 1 - percentile / 100."""
        sigma, scale = self.parts.lognormal()
        score = NormalDist().inv_cdf(percentile / 100.0)
        parts = self.parts.mean + scale * np.expm1(sigma * score - 0.5 * np.square(sigma))
        if parts.shape[1] == 1:
            return self._within(parts[:, 0])
        wanted = _score(np.array(1.0 - percentile / 100.0))
        slope, start, inverse, half = 1.0 / scale, 1.0 - self.parts.mean / scale, 1.0 / sigma, 0.5 * sigma

        def excess(seconds: FloatArray, rows: NDArray[np.intp] | slice = _ALL) -> FloatArray:
            part = np.maximum(start[rows] + slope[rows] * seconds[:, None], 1e-12)
            beyond = normal_beyond(np.log(part) * inverse[rows] + half[rows])
            return _score(np.einsum("ij,ij->i", self.weights[rows], beyond)) - wanted

        low, high = parts.min(axis=1), parts.max(axis=1)
        bounds = low.copy(), high.copy()
        over, under = excess(low), excess(high)
        for _ in range(_STEPS):
            # Regula falsi; the end that stays counts for less (Anderson and Bjorck), so that both close in.
            gap = over - under
            answer = low + (high - low) * np.clip(over / np.where(gap > 0.0, gap, 1.0), 0.0, 1.0)
            found = excess(answer)
            above = found > 0.0
            less = np.where(above, over, under)
            kept = 1.0 - found / np.where(less == 0.0, 1.0, less)
            kept = np.where(kept > 0.0, kept, 0.5)
            low, high = np.where(above, answer, low), np.where(above, high, answer)
            over, under = np.where(above, found, over * kept), np.where(above, under * kept, found)
        rows = np.flatnonzero(np.abs(found) > _EXACT)
        low, high = bounds[0][rows], bounds[1][rows]
        for _ in range(_HALVINGS if rows.size else 0):
            middle = 0.5 * (low + high)
            above = excess(middle, rows) > 0.0
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        answer[rows] = high
        return self._within(answer)

    def _within(self, seconds: FloatArray) -> FloatArray:
        return np.asarray(np.minimum(np.maximum(seconds, _LEAST * self.mean()), self.most))


def _score(chance: FloatArray) -> FloatArray:
    """Log odds, which are nearly linear in the seconds."""
    within = np.clip(chance, 1e-15, 1.0 - 1e-15)
    return np.asarray(np.log(within / (1.0 - within)))
