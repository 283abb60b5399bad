"""Continuous batching as a queue whose service rate depends on how many requests run together.

A birth-death chain: arrivals are Poisson with rate λ; with n requests in the replica, min(n, B) of them run and leave
at rate μ(n) = n / T(n), where T(n) is the time that one request takes when n run. Beyond the batch limit B the rate
stays μ(B), so the states above B form a geometric tail that is summed in closed form: nothing is truncated. After the
queue model of llm-d's workload-variant autoscaler.
"""

from dataclasses import dataclass

import numpy as np

from plimsoll.performance.shapes import FloatArray


@dataclass(frozen=True, slots=True)
class Occupancy:
    """The chain at rest, for each of J queues."""

    running_mean: FloatArray
    """(J,) mean running requests."""
    waiting_probability: FloatArray
    """(J,) share of the arrivals that find all B slots taken."""
    drain_rate: FloatArray
    """(J,) μ(B) - λ: the wait of those who wait is exponential with this rate, per second."""
    running_weights: FloatArray
    """(J, B) share of the running requests, over time, that run in the company of 1..B."""

    def slot_wait_mean(self) -> FloatArray:
        """(J,) mean seconds until a slot is free."""
        return self.waiting_probability / self.drain_rate

    def slot_wait_percentile(self, percentile: float) -> FloatArray:
        """(J,) that percentile of the seconds until a slot is free."""
        beyond = self.waiting_probability / (1.0 - percentile / 100.0)
        return np.log(np.maximum(beyond, 1.0)) / self.drain_rate

    def company_percentile(self, percentile: float) -> FloatArray:
        """(J,) that percentile, over running requests, of how many run together."""
        reached = np.cumsum(self.running_weights, axis=1) >= percentile / 100.0 - 1e-12
        return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, float(self.running_weights.shape[1]))


@dataclass(frozen=True, slots=True)
class BatchQueue:
    """J queues with the same batch limit B."""

    service_rates: FloatArray
    """(J, B) μ(1)..μ(B), per second, not falling in n."""
    log_weights: FloatArray
    """(J, B + 1) log of Π 1/μ(k) for k = 1..n."""

    @classmethod
    def of(cls, request_seconds: FloatArray) -> "BatchQueue":
        """Queues from T(1)..T(B), (J, B) seconds."""
        count, batch = request_seconds.shape
        rates = np.arange(1.0, batch + 1.0) / request_seconds
        log_weights = np.zeros((count, batch + 1))
        np.cumsum(-np.log(rates), axis=1, out=log_weights[:, 1:])
        return cls(rates, log_weights)

    @property
    def saturation_rate(self) -> FloatArray:
        """(J,) μ(B): arrivals per second at which the queue stops being stable."""
        return self.service_rates[:, -1]

    def at(self, rate: FloatArray) -> Occupancy:
        """The chain at rest under `rate` arrivals per second, (J,), each above 0 and below saturation."""
        batch = self.service_rates.shape[1]
        states = np.arange(batch + 1.0)
        weights = self.log_weights + np.log(rate)[:, None] * states
        weights -= weights.max(axis=1, keepdims=True)
        np.exp(weights, out=weights)
        load = rate / self.saturation_rate
        full = weights[:, -1] / (1.0 - load)
        weights[:, -1] = full  # all states from B on: B requests run
        total = weights.sum(axis=1)
        company = weights[:, 1:] * states[1:]
        running = company.sum(axis=1)
        return Occupancy(
            running_mean=running / total,
            waiting_probability=full / total,
            drain_rate=self.saturation_rate - rate,
            running_weights=company / np.maximum(running, 1e-300)[:, None],
        )
