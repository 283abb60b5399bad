"""How many tokens prompts and answers have."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
_P95 = 1.6448536269514722
"""Of the standard normal distribution."""


class LengthDistribution(Protocol):
    """Tokens per request."""

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """(count,) tokens, each at least 1."""
        ...


@dataclass(frozen=True, slots=True)
class ConstantLength:
    """Every request has the same number of tokens."""

    tokens: int

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """(count,) times the constant."""
        del rng
        return np.full(count, self.tokens, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class LognormalLength:
    """Lognormal tokens, rounded; `sigma` is the standard deviation of the logarithm."""

    mean: float
    sigma: float
    longest: int = 1_000_000
    """Longer draws are cut to it."""

    @classmethod
    def of_p95(cls, mean: float, p95: float, longest: int = 1_000_000) -> "LognormalLength":
        """With that mean and 95th percentile.

        A lognormal's 95th percentile is at most 3.87 means; a larger one gets the sigma of that most skewed case, with
        the mean kept.

        Raises:
            ValueError: the 95th percentile is below the mean.
        """
        if not 0.0 < mean <= p95:
            raise ValueError(f"mean is {mean} and p95 is {p95}; 0 < mean <= p95 is accepted")
        return cls(mean, _P95 - math.sqrt(max(0.0, _P95**2 - 2.0 * math.log(p95 / mean))), longest)

    @classmethod
    def of_median(cls, mean: float, median: float, longest: int = 1_000_000) -> "LognormalLength":
        """With that mean and median.

        Raises:
            ValueError: the median is above the mean.
        """
        if not 0.0 < median <= mean:
            raise ValueError(f"mean is {mean} and median is {median}; 0 < median <= mean is accepted")
        return cls(mean, math.sqrt(2.0 * math.log(mean / median)), longest)

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """(count,) draws."""
        draws = self.mean * np.exp(self.sigma * rng.standard_normal(count) - self.sigma**2 / 2.0)
        return np.clip(np.rint(draws), 1, self.longest).astype(np.int64)


@dataclass(frozen=True, slots=True)
class EmpiricalLength:
    """Drawn from observed lengths, with replacement."""

    observed: tuple[int, ...]

    @classmethod
    def of(cls, tokens: Sequence[int]) -> "EmpiricalLength":
        """From any sequence of lengths; none may be below 1.

        Raises:
            ValueError: there is none, or one is below 1.
        """
        if not tokens or min(tokens) < 1:
            raise ValueError("EmpiricalLength.observed is empty or holds a length below 1; lengths from 1 are accepted")
        return cls(tuple(int(count) for count in tokens))

    def sample(self, rng: np.random.Generator, count: int) -> IntArray:
        """(count,) draws."""
        values = np.asarray(self.observed, dtype=np.int64)
        return np.asarray(values[rng.integers(0, len(values), count)])
