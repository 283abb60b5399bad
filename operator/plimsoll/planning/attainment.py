"""How far objectives are kept: shares of requests within targets, and how fast error budgets burn. Pure.

Engines count each latency in a histogram of its own, so how many requests met every target at once is not known: the
attainment is the least share over the targets, which is an upper bound of it. A burn rate is the share of requests
beyond a target by the share that the objective allows: at 1 the budget is just used up.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

from plimsoll.planning.plan import DeploymentPlan, FleetPlan, LatencyFigure
from plimsoll.planning.snapshot import Snapshot

WindowName = Literal["5m", "1h", "24h"]
WINDOWS: Mapping[WindowName, float] = {"5m": 300.0, "1h": 3600.0, "24h": 86400.0}
"""Seconds by name."""
LEAST_REQUESTS = 20.0
"""Of a class in a window; fewer say nothing."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Requests by latency, as one window has them."""

    bounds: tuple[float, ...]
    """Upper bounds in seconds, rising, the last one infinite."""
    counts: tuple[float, ...]
    """Requests up to each bound."""
    sum_seconds: float = 0.0

    @classmethod
    def of(cls, buckets: Mapping[float, float], sum_seconds: float = 0.0) -> "Histogram | None":
        """From bound -> requests up to it; None where nothing was counted or the buckets make no histogram.

        Windows are extrapolated bucket by bucket, so counts may fall by a little: they are levelled.
        """
        bounds = tuple(sorted(buckets))
        highest, counts = 0.0, []
        for bound in bounds:
            highest = max(highest, buckets[bound])
            counts.append(highest)
        if len(bounds) < 2 or bounds[-1] != inf or not 0 < counts[-1] < inf:
            return None
        return cls(bounds, tuple(counts), sum_seconds)

    @property
    def requests(self) -> float:
        """In all."""
        return self.counts[-1]

    def share_within(self, seconds: float) -> float:
        """Part of the requests, 0 to 1, by straight lines within buckets; beyond the last finite bound none is."""
        place = bisect_left(self.bounds, seconds)
        if not isfinite(self.bounds[place]):
            return self.counts[place - 1] / self.requests if place else 0.0
        low, before = (self.bounds[place - 1], self.counts[place - 1]) if place else (0.0, 0.0)
        part = (seconds - low) / (self.bounds[place] - low)
        return (before + part * (self.counts[place] - before)) / self.requests

    def percentile(self, percent: float) -> float:
        """Seconds, by straight lines within buckets; the last finite bound where it is beyond that."""
        wanted = percent / 100 * self.requests
        place = bisect_left(self.counts, wanted)
        if not isfinite(self.bounds[place]):
            return self.bounds[place - 1]
        low, before = (self.bounds[place - 1], self.counts[place - 1]) if place else (0.0, 0.0)
        inside = self.counts[place] - before
        return low + (self.bounds[place] - low) * ((wanted - before) / inside if inside > 0 else 1.0)

    @property
    def mean(self) -> float:
        """Seconds."""
        return self.sum_seconds / self.requests

    def weighted(self, weight: float) -> "Histogram":
        """A part of the requests, all latencies alike."""
        return Histogram(self.bounds, tuple(weight * count for count in self.counts), weight * self.sum_seconds)

    def plus(self, other: "Histogram") -> "Histogram":
        """Both together. Of bounds that one of them lacks, its straight lines say how many are below."""
        bounds = tuple(sorted({*self.bounds, *other.bounds}))
        counts = tuple(self._up_to(bound) + other._up_to(bound) for bound in bounds)  # noqa: SLF001
        return Histogram(bounds, counts, self.sum_seconds + other.sum_seconds)

    def _up_to(self, seconds: float) -> float:
        return self.requests if not isfinite(seconds) else self.share_within(seconds) * self.requests


Latencies = Mapping[tuple[str, str], Mapping[str, Histogram]]
"""By namespace and placement, then by `ttft`, `tpot` and `endToEnd`."""


@dataclass(frozen=True, slots=True)
class Attainment:
    """How one traffic class fared in one window."""

    requests: float
    share: float | None
    """Least share within a target, 0 to 1; None where no target is a percentile."""
    burn_rate: float | None
    """Highest over the targets."""
    observed_seconds: Mapping[str, float]
    """For each metric the statistic of its target: the percentile or the mean."""


def attainments(fleet: FleetPlan, snapshot: Snapshot, latencies: Latencies) -> dict[tuple[str, str, str], Attainment]:
    """By namespace, LLMDeployment and traffic class; without those that had too few requests.

    Placements that run although the plan lacks them count for all classes. Where a placement serves several classes,
    its requests are theirs by the planned rates, and their latencies are alike.
    """
    owners: dict[tuple[str, str], list[str]] = {}
    for workload in snapshot.workloads:
        owners.setdefault((workload.namespace, workload.deployment), []).append(workload.name)
    found = {}
    for plan in fleet.deployments:
        names = {*owners.get((plan.ref.namespace, plan.ref.name), ()), *(item.name for item in plan.placements)}
        for item in plan.classes:
            merged = _merged(plan, item.name, sorted(names), latencies)
            figure = _attainment(merged, item.latency)
            if figure is not None:
                found[plan.ref.namespace, plan.ref.name, item.name] = figure
    return found


def _merged(plan: DeploymentPlan, traffic: str, names: Iterable[str], latencies: Latencies) -> dict[str, Histogram]:
    shares = {item.name: {share.traffic: share.value for share in item.shares} for item in plan.placements}
    rates = {item.name: max(item.requests_per_minute, 1e-9) for item in plan.classes}
    merged: dict[str, Histogram] = {}
    for name in names:
        parts = {key: shares.get(name, dict.fromkeys(rates, 1.0)).get(key, 0.0) * rate for key, rate in rates.items()}
        weight = parts[traffic] / sum(parts.values()) if sum(parts.values()) > 0 else 0.0
        if weight <= 0:
            continue
        for metric, histogram in latencies.get((plan.ref.namespace, name), {}).items():
            part = histogram.weighted(weight)
            merged[metric] = merged[metric].plus(part) if metric in merged else part
    return merged


def _attainment(merged: Mapping[str, Histogram], figures: Iterable[LatencyFigure]) -> Attainment | None:
    requests = max((histogram.requests for histogram in merged.values()), default=0.0)
    if requests < LEAST_REQUESTS:
        return None
    shares: list[float] = []
    burns: list[float] = []
    observed: dict[str, float] = {}
    for figure in figures:
        histogram = merged.get(figure.metric)
        if histogram is None:
            continue
        observed[figure.metric] = (
            histogram.mean if figure.percentile is None else histogram.percentile(figure.percentile)
        )
        if figure.target_milliseconds is not None and figure.percentile is not None:
            share = histogram.share_within(figure.target_milliseconds / 1000)
            shares.append(share)
            burns.append((1 - share) / (1 - figure.percentile / 100))
    return Attainment(requests, min(shares, default=None), max(burns, default=None), observed)
