"""What a simulation found."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from plimsoll.performance import LatencyTarget, LatencyTargets
from plimsoll.simulation.latencies import IntervalLatency, LatencySummary


@dataclass(frozen=True, slots=True)
class TargetResult:
    """One latency target of a class."""

    name: str
    """`ttft`, `tpot` or `end_to_end`."""
    target: LatencyTarget
    observed_seconds: float
    """The target's statistic: that percentile, or the mean; nan without requests."""
    attainment: float
    """Part of the served requests within the target's seconds; nan without requests."""

    @property
    def met(self) -> bool:
        """Whether the statistic keeps the target; nothing served keeps it."""
        return math.isnan(self.observed_seconds) or self.observed_seconds <= self.target.seconds


@dataclass(frozen=True, slots=True)
class ClassReport:
    """One traffic class. Every arrived request is counted in exactly one of the fields `completed` to `in_flight`."""

    arrived: int
    completed: int
    refused: int
    """By the unserved share."""
    too_long: int
    """For the KV cache or the maximal model length of the replica that it was routed to."""
    unroutable: int
    """No placement of the class had a ready replica."""
    lost: int
    """With a failed replica, and not retried."""
    in_flight: int
    """At the end of the run."""
    retried: int
    """Times that a request started anew after its replica failed."""
    preemptions: int
    """Of completed requests."""
    input_tokens: int
    """Of completed requests."""
    output_tokens: int
    measured: int
    """Completed requests that arrived after the warm-up: the figures below are about these."""
    ttft: LatencySummary
    tpot: LatencySummary
    """Mean time per token after the first, of answers with more than one."""
    end_to_end: LatencySummary
    within_targets: int
    """Measured requests that kept the seconds of every target of the class."""
    targets: tuple[TargetResult, ...]

    @property
    def attainment(self) -> float:
        """Part of the measured requests that kept the seconds of every target; nan without requests."""
        return self.within_targets / self.measured if self.measured else math.nan


@dataclass(frozen=True, slots=True)
class ClassInterval:
    """A traffic class in one interval; requests count where they arrive or complete."""

    arrived: int
    completed: int
    not_served: int
    """Refused, too long, unroutable or lost."""
    within_targets: int
    """Of the completed ones."""
    input_tokens: int
    """Of those that arrived, served or not."""
    output_tokens: int
    ttft: IntervalLatency
    """Of the completed ones, without those that arrived in the warm-up; so the next two."""
    tpot: IntervalLatency
    end_to_end: IntervalLatency


@dataclass(frozen=True, slots=True)
class PlacementInterval:
    """A placement in one interval: means over time of all its replicas together unless stated."""

    ready_replicas: float
    """Mean number of replicas that take requests."""
    replicas: float
    """Mean number of replicas that exist: starting, ready or draining."""
    cost: float
    """For the interval."""
    running: float
    waiting: float
    utilisation: float
    """Part of the replicas' time in which their engines ran steps."""
    kv_usage: float
    """Mean part of the KV cache in use."""
    prompt_tokens: int
    generated_tokens: int
    preemptions: int


@dataclass(frozen=True, slots=True)
class Interval:
    """Part of the simulated time."""

    begin_seconds: float
    end_seconds: float
    classes: Mapping[str, ClassInterval]
    placements: Mapping[str, PlacementInterval]


@dataclass(frozen=True, slots=True)
class PlacementReport:
    """A placement over the whole run."""

    cost: float
    replica_hours: float
    gpu_hours: float
    requests: int
    """Routed to it, retries included."""
    utilisation: float
    kv_usage: float
    running: float
    """Mean requests that run, all replicas together."""
    waiting: float
    prompt_tokens: int
    generated_tokens: int
    preemptions: int


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """Everything that a run found."""

    simulated_seconds: float
    cost: float
    classes: Mapping[str, ClassReport]
    placements: Mapping[str, PlacementReport]
    """All that existed at some time."""
    intervals: tuple[Interval, ...]

    @property
    def cost_per_hour(self) -> float:
        """Mean over the run."""
        return self.cost / self.simulated_seconds * 3600.0 if self.simulated_seconds else 0.0


def target_results(
    targets: LatencyTargets, ttft: LatencySummary, tpot: LatencySummary, end_to_end: LatencySummary
) -> tuple[TargetResult, ...]:
    """Each target beside what was observed."""
    results = []
    for name, target, summary in (
        ("ttft", targets.ttft, ttft),
        ("tpot", targets.tpot, tpot),
        ("end_to_end", targets.end_to_end, end_to_end),
    ):
        if target is None:
            continue
        observed = summary.mean_seconds if target.percentile is None else summary.percentile_seconds(target.percentile)
        results.append(TargetResult(name, target, observed, summary.share_within(target.seconds)))
    return tuple(results)
