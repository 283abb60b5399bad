"""Where a rate is going: level, trend and uncertainty by exponential smoothing, for windows of any length. Pure.

Holt's linear method with a damped trend (Gardner and McKenzie 1985), with gains that follow from the time between
windows (Wright 1986), so that missing windows need no filling. `benchmarks/forecast.py` compares it with a library.
"""

from dataclasses import dataclass
from math import exp, sqrt


@dataclass(frozen=True, slots=True)
class ForecastRule:
    """Time constants. The defaults did best in the back-test."""

    level_seconds: float = 180.0
    """After so long a lasting change of the rate is 63 % in the level."""
    burst_seconds: float = 20.0
    """The same for a second, quicker level: what it surely shows already counts at once."""
    trend_seconds: float = 3600.0
    """The same for the trend."""
    damping_seconds: float = 1800.0
    """A trend is expected to have faded to 37 % after so long."""
    error_seconds: float = 3600.0
    """Over which errors are remembered."""
    deviations: float = 0.5
    """How many standard deviations of the forecast's error the upper estimate is above the forecast."""
    doubt: float = 2.0
    """How many standard deviations of requests that come at random the quicker level is not sure of."""


SMOOTHING = ForecastRule()


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is known of a rate after some windows. Rates in requests per minute."""

    seconds: float
    """When the last window ended."""
    level: float
    trend_per_second: float = 0.0
    variance_per_second: float = 0.0
    """Of the level's unforeseen moves: it is that of a random walk."""
    burst: float = 0.0
    """The quicker level."""

    @classmethod
    def beginning(cls, seconds: float, requests_per_minute: float) -> "Forecast":
        """After the first window."""
        return cls(seconds, requests_per_minute, burst=requests_per_minute)

    def after(self, seconds: float, requests_per_minute: float, rule: ForecastRule = SMOOTHING) -> "Forecast":
        """What is known after another window that ended at `seconds`; one that is not later changes nothing."""
        elapsed = seconds - self.seconds
        if elapsed <= 0:
            return self
        expected = max(0.0, self.level + self.trend_per_second * _faded(elapsed, rule))
        level = expected + _gain(elapsed, rule.level_seconds) * (requests_per_minute - expected)
        kept = self.trend_per_second * exp(-elapsed / rule.damping_seconds)
        trend = kept + _gain(elapsed, rule.trend_seconds) * ((level - self.level) / elapsed - kept)
        moved = (level - expected) ** 2 / elapsed
        variance = self.variance_per_second + _gain(elapsed, rule.error_seconds) * (moved - self.variance_per_second)
        burst = self.burst + _gain(elapsed, rule.burst_seconds) * (requests_per_minute - self.burst)
        return Forecast(seconds, level, trend, variance, burst)

    def at(self, ahead_seconds: float, rule: ForecastRule = SMOOTHING) -> float:
        """The rate to expect so much later."""
        return max(0.0, self.level + self.trend_per_second * _faded(ahead_seconds, rule))

    def upper(self, ahead_seconds: float, rule: ForecastRule = SMOOTHING) -> float:
        """A rate that is seldom passed from now until so much later."""
        spread = rule.deviations * sqrt(self.variance_per_second * (ahead_seconds + rule.level_seconds))
        sure = self.burst - rule.doubt * level_deviation(self.burst, rule.burst_seconds)
        return max(self.level + spread, self.at(ahead_seconds, rule) + spread, sure)


def level_deviation(requests_per_minute: float, level_seconds: float) -> float:
    """Standard deviation of an exponentially smoothed rate of requests that come at random (Poisson)."""
    return sqrt(max(0.0, requests_per_minute) * 30.0 / level_seconds)


def _gain(elapsed_seconds: float, constant_seconds: float) -> float:
    return 1.0 - exp(-elapsed_seconds / constant_seconds)


def _faded(seconds: float, rule: ForecastRule) -> float:
    """What a damped trend of 1 per second comes to."""
    return rule.damping_seconds * _gain(seconds, rule.damping_seconds)
