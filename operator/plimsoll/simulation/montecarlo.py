"""Many runs with different seeds: means with confidence intervals, on as many processes as the caller has."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from plimsoll.simulation.latencies import student


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over runs."""

    mean: float
    half_width: float
    """Of the mean's 95 % confidence interval; infinite for a single run."""
    deviation: float
    """Standard deviation between runs; 0 for a single run."""
    runs: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} ± {self.half_width:.2g}"


class Mapper(Protocol):
    """What applies a function to seeds, in their order: `map`, or that of a process pool."""

    def __call__(
        self, function: Callable[[int], Mapping[str, float]], seeds: Sequence[int], /
    ) -> Iterable[Mapping[str, float]]: ...


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean, spread and confidence interval of independent values; those that are no number are left out."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Estimate(math.nan, math.inf, 0.0, 0)
    mean = sum(known) / len(known)
    if len(known) < 2 or math.isinf(mean):
        return Estimate(mean, math.inf, 0.0, len(known))
    deviation = math.sqrt(sum((value - mean) ** 2 for value in known) / (len(known) - 1))
    half = student(confidence, len(known) - 1) * deviation / math.sqrt(len(known))
    return Estimate(mean, half, deviation, len(known))


def monte_carlo(
    run: Callable[[int], Mapping[str, float]], seeds: Sequence[int], mapper: Mapper = map
) -> dict[str, Estimate]:
    """Every figure of `run(seed)` over the seeds. Equal seeds give equal results, whatever the mapper.

    >>> found = monte_carlo(lambda seed: {"wait": float(seed % 3)}, range(6))
    >>> found["wait"].mean, found["wait"].runs
    (1.0, 6)
    """
    found = list(mapper(run, seeds))
    names = dict.fromkeys(name for figures in found for name in figures)
    return {name: estimate([figures.get(name, math.nan) for figures in found]) for name in names}
