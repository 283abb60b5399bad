"""Requests, and streams of them: synthetic arrivals under a rate that changes over time, merged and scaled.

Every stream is an iterator in the order of arrival, so memory does not grow with the number of requests.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plimsoll.simulation.lengths import LengthDistribution

_CHUNK = 4096


class Request(NamedTuple):
    """One request as it reaches the fleet."""

    arrival_seconds: float
    traffic_class: str
    input_tokens: int
    """At least 1."""
    output_tokens: int
    """At least 1: the answer's first token comes from the prefill."""


@dataclass(frozen=True, slots=True)
class RateCurve:
    """Arrivals per second over time: straight lines between points; two points at one time make a step.

    Raises:
        ValueError: fewer than two points, times that fall, or a negative rate.
    """

    seconds: tuple[float, ...]
    rates: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.seconds) != len(self.rates) or len(self.seconds) < 2:
            sizes = f"{len(self.seconds)} times and {len(self.rates)} rates"
            raise ValueError(f"RateCurve has {sizes}; equally many, at least 2, are accepted")
        if any(after < before for before, after in zip(self.seconds, self.seconds[1:], strict=False)):
            raise ValueError("RateCurve.seconds fall; rising times are accepted")
        if not all(rate >= 0.0 and math.isfinite(rate) for rate in self.rates):
            raise ValueError(f"RateCurve.rates include {min(self.rates)}; finite rates from 0 are accepted")

    @property
    def arrivals(self) -> float:
        """Expected number of arrivals."""
        return float(self._cumulative()[-1])

    def scaled(self, *, rate: float = 1.0, time: float = 1.0) -> "RateCurve":
        """Rates times `rate`; times times `time` (0.5: the same curve in half the time)."""
        return RateCurve(tuple(t * time for t in self.seconds), tuple(r * rate for r in self.rates))

    def _cumulative(self) -> NDArray[np.float64]:
        t, r = np.array(self.seconds), np.array(self.rates)
        return np.concatenate([[0.0], np.cumsum(np.diff(t) * (r[1:] + r[:-1]) / 2.0)])


def constant_rate(rate: float, duration_seconds: float) -> RateCurve:
    """The same rate throughout."""
    return RateCurve((0.0, duration_seconds), (rate, rate))


def ramp(from_rate: float, to_rate: float, duration_seconds: float) -> RateCurve:
    """A straight line from one rate to another."""
    return RateCurve((0.0, duration_seconds), (from_rate, to_rate))


def diurnal(
    mean_rate: float, peak_to_mean: float, days: float = 1.0, peak_hour: float = 15.0, day_seconds: float = 86400.0
) -> RateCurve:
    """A cosine over the day, from midnight, in straight pieces of 1/288 day (5 minutes).

    `peak_to_mean` is within 1..2. `day_seconds` below 86,400 plays the day faster at the same rates.
    """
    if not 1.0 <= peak_to_mean <= 2.0:
        raise ValueError(f"peak_to_mean is {peak_to_mean}; 1 to 2 is accepted")
    count = max(2, round(288 * days) + 1)
    hours = np.linspace(0.0, 24.0 * days, count)
    rates = mean_rate * (1.0 + (peak_to_mean - 1.0) * np.cos((hours - peak_hour) / 24.0 * 2.0 * np.pi))
    return RateCurve(tuple((hours / 24.0 * day_seconds).tolist()), tuple(np.maximum(rates, 0.0).tolist()))


def stepwise(rates: Sequence[float], step_seconds: float) -> RateCurve:
    """Each rate for `step_seconds`."""
    seconds = [t for i in range(len(rates)) for t in (i * step_seconds, (i + 1) * step_seconds)]
    return RateCurve(tuple(seconds), tuple(rate for rate in rates for _ in range(2)))


def synthetic(
    traffic_class: str,
    rate: RateCurve,
    input_tokens: LengthDistribution,
    output_tokens: LengthDistribution,
    *,
    burstiness: float = 1.0,
    seed: int = 0,
) -> Iterator[Request]:
    """Arrivals under `rate` with independent token lengths.

    `burstiness` is the coefficient of variation of the times between arrivals at a constant rate: 1 is Poisson, above
    it Gamma-distributed gaps come in bursts, 0 is a regular clock. Under a changing rate the gaps are stretched so
    that the expected number of arrivals up to any time follows the curve. Equal seeds give equal streams.
    """
    if burstiness < 0.0:
        raise ValueError(f"burstiness is {burstiness}; 0 or more is accepted")
    # Separate streams: the arrivals of a seed do not change with the length distributions.
    gaps, inputs, outputs = (np.random.default_rng([seed, stream]) for stream in range(3))
    t, r, cumulative = np.array(rate.seconds), np.array(rate.rates), rate._cumulative()  # noqa: SLF001
    reached = 0.0
    while reached < cumulative[-1]:
        unit = reached + np.cumsum(_gaps(gaps, burstiness, _CHUNK))
        reached = float(unit[-1])
        unit = unit[unit < cumulative[-1]]
        if unit.size == 0:
            continue
        # Inverse of the cumulative rate: a quadratic in each piece, in the form that stays exact for flat pieces.
        piece = np.searchsorted(cumulative, unit, side="right") - 1
        rest, width = unit - cumulative[piece], t[piece + 1] - t[piece]
        slope = (r[piece + 1] - r[piece]) / width
        root = np.sqrt(np.maximum(r[piece] ** 2 + 2.0 * slope * rest, 0.0))
        arrivals = (t[piece] + np.minimum(2.0 * rest / np.maximum(r[piece] + root, 1e-300), width)).tolist()
        prompts = input_tokens.sample(inputs, len(arrivals)).tolist()
        answers = output_tokens.sample(outputs, len(arrivals)).tolist()
        for arrival, prompt, answer in zip(arrivals, prompts, answers, strict=True):
            yield Request(arrival, traffic_class, prompt, answer)


def _gaps(rng: np.random.Generator, burstiness: float, count: int) -> NDArray[np.float64]:
    if burstiness == 0.0:
        return np.ones(count)
    if burstiness == 1.0:
        return rng.standard_exponential(count)
    shape = 1.0 / burstiness**2
    return rng.standard_gamma(shape, count) / shape


def merged(*streams: Iterable[Request]) -> Iterator[Request]:
    """Several streams as one, in the order of arrival."""
    return heapq.merge(*streams, key=attrgetter("arrival_seconds"))


def scaled(
    requests: Iterable[Request], *, rate: float = 1.0, time: float = 1.0, spread_seconds: float = 60.0, seed: int = 0
) -> Iterator[Request]:
    """A trace with more or fewer requests, or played faster or slower.

    `time` multiplies arrival times (0.5: twice as fast). `rate` keeps each request with that probability; above 1,
    requests are repeated, the copies later by up to `spread_seconds` at random, so that the trace's shape stays and
    copies do not arrive together.
    """
    if rate <= 0.0 or time <= 0.0:
        raise ValueError(f"rate is {rate} and time {time}; above 0 is accepted")
    rng = np.random.default_rng(seed)
    later: list[tuple[float, int, Request]] = []
    number, whole = 0, int(rate)
    for request in requests:
        arrival = request.arrival_seconds * time
        while later and later[0][0] <= arrival:
            yield heapq.heappop(later)[2]
        copies = whole + (rng.random() < rate - whole if rate != whole else 0)
        if copies:
            yield request._replace(arrival_seconds=arrival)
        for _ in range(copies - 1):
            at = arrival + rng.random() * spread_seconds
            number += 1
            heapq.heappush(later, (at, number, request._replace(arrival_seconds=at)))
    while later:
        yield heapq.heappop(later)[2]
