"""Token lengths as distributions: lognormal, from the mean and the 95th percentile that people state."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log, sqrt
from statistics import NormalDist

import numpy as np

from plimsoll.performance.shapes import FloatArray

_Z95 = 1.6448536269514722
MAX_SPREAD = exp(_Z95**2 / 2)
"""Largest ratio of 95th percentile to mean that a lognormal distribution can have: 3.87."""
_QUADRATURE = {count: np.polynomial.hermite_e.hermegauss(count) for count in (5, 7)}


@dataclass(frozen=True)
class LengthDistribution:
    """A lognormal distribution of tokens."""

    mean: float
    sigma: float
    """Standard deviation of the logarithm."""

    @classmethod
    def of(cls, mean: float, p95: float) -> "LengthDistribution":
        """From mean and 95th percentile.

        A percentile below the mean counts as no spread, one beyond `MAX_SPREAD` means as the widest that there is.
        """
        spread = min(max(p95 / mean, 1.0), MAX_SPREAD)
        return cls(mean, _Z95 - sqrt(max(0.0, _Z95**2 - 2.0 * log(spread))))

    @classmethod
    def mixture(cls, parts: Sequence[tuple[float, "LengthDistribution"]]) -> "LengthDistribution":
        """With the first two moments of a mixture: weights and distributions."""
        whole = sum(weight for weight, _ in parts)
        mean, second = (sum(weight * part.moment(order) for weight, part in parts) / whole for order in (1, 2))
        return cls(mean, sqrt(max(0.0, log(second / mean**2))))

    def moment(self, order: int) -> float:
        """Mean of the length to a power."""
        return self.mean**order * exp(0.5 * order * (order - 1) * self.sigma**2)

    @property
    def squared_variation(self) -> float:
        """Squared coefficient of variation."""
        return exp(self.sigma**2) - 1.0

    @property
    def variance(self) -> float:
        """Of the length, tokens squared."""
        return self.mean**2 * self.squared_variation

    @property
    def third_cumulant(self) -> float:
        """Third central moment, tokens cubed."""
        ratio = self.squared_variation
        return self.mean**3 * ratio * ratio * (ratio + 3.0)

    @property
    def mean_of_lesser(self) -> float:
        """Mean of the lesser of two lengths."""
        return self.mean * 2.0 * NormalDist().cdf(-self.sigma / sqrt(2.0))

    @cached_property
    def nodes(self) -> tuple[FloatArray, FloatArray]:
        """Lengths and weights that stand for the distribution: Gauss-Hermite quadrature of its logarithm."""
        return self._nodes(7)

    @cached_property
    def few_nodes(self) -> tuple[FloatArray, FloatArray]:
        """The same with fewer of them, where speed counts."""
        return self._nodes(5)

    def _nodes(self, count: int) -> tuple[FloatArray, FloatArray]:
        scores, weights = _QUADRATURE[count]
        return self.mean * np.exp(self.sigma * scores - 0.5 * self.sigma**2), weights / weights.sum()
