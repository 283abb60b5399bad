"""What one replica delivers of one class at a given rate."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.performance.arrivals import POISSON, Arrivals
from plimsoll.performance.latency import (
    alone_end_to_end,
    alone_first_token,
    alone_first_token_percentile,
    alone_per_token,
    end_to_end,
    first_token,
    per_token,
)
from plimsoll.performance.memory import memory_fit
from plimsoll.performance.monotone import Path, load_of, settled
from plimsoll.performance.queue import Load
from plimsoll.performance.replicas import Engines, Replicas, StackedTraffic, Traffic
from plimsoll.performance.requests import Stream, cannot_run, held, mixture, traffic_of
from plimsoll.performance.shapes import FloatArray, LatencyTarget, LatencyTargets, ReplicaShape, TokenLengths
from plimsoll.performance.stacked import StackedTerms
from plimsoll.performance.statistics import asked_of, statistic, statistic_of
from plimsoll.performance.steps import ANALYTIC_STEPS, StepModel


@dataclass(frozen=True, slots=True)
class Prediction:
    """Latencies in seconds, each at its target's percentile or mean; the mean where there is no target.

    Infinite where the replica cannot keep up, or cannot run at all.
    """

    ttft_seconds: float
    tpot_seconds: float
    end_to_end_seconds: float
    mean_end_to_end_seconds: float
    utilization: float
    """Rate / saturation rate."""
    concurrency: float
    """Mean running requests."""


IMPOSSIBLE = Prediction(np.inf, np.inf, np.inf, np.inf, np.inf, 0.0)
"""Of a replica that cannot run."""


@dataclass(frozen=True, slots=True)
class Alone:
    """(J,) latencies of a request that is alone, each at the statistic of its target."""

    ttft: FloatArray
    tpot: FloatArray
    end_to_end: FloatArray
    mean_end_to_end: FloatArray

    @classmethod
    def of(cls, engines: Engines, targets: LatencyTargets) -> "Alone":
        """Of J engines; of the targets only the statistics count."""
        whole = alone_end_to_end(engines)
        return cls(
            ttft=settled(_alone_ttft(engines, targets.ttft)),
            tpot=settled(alone_per_token(engines)),
            end_to_end=settled(statistic(whole, targets.end_to_end)),
            mean_end_to_end=settled(whole.mean()),
        )

    def limited(self, targets: LatencyTargets) -> FloatArray:
        """(J, T) those that are limited."""
        of = {"ttft": self.ttft, "endToEnd": self.end_to_end, "tpot": self.tpot}
        columns = [of[name] for name, _, _ in asked_of(targets)]
        return np.stack(columns, axis=1) if columns else np.empty((len(self.ttft), 0))

    def prediction(self, row: int) -> Prediction:
        """Of one engine."""
        return Prediction(
            ttft_seconds=float(self.ttft[row]),
            tpot_seconds=float(self.tpot[row]),
            end_to_end_seconds=float(self.end_to_end[row]),
            mean_end_to_end_seconds=float(self.mean_end_to_end[row]),
            utilization=0.0,
            concurrency=0.0,
        )

    def missed(self, row: int, targets: LatencyTargets) -> str | None:
        """The target that even a request alone misses, by the largest factor."""
        ratios = {
            name: float(values[row]) / target.seconds
            for name, values, target in (
                ("ttft", self.ttft, targets.ttft),
                ("tpot", self.tpot, targets.tpot),
                ("endToEnd", self.end_to_end, targets.end_to_end),
            )
            if target is not None
        }
        worst = max(ratios, key=lambda name: ratios[name], default=None)
        return worst if worst is not None and ratios[worst] > 1 else None


@dataclass(frozen=True, slots=True)
class Operation:
    """One class at a rate of its own on one replica, alone or with others beside it."""

    shape: ReplicaShape
    lengths: TokenLengths
    targets: LatencyTargets
    rate_per_second: float
    max_num_seqs: int
    arrivals: Arrivals = POISSON
    beside: tuple[Stream, ...] = ()


def predict(
    shape: ReplicaShape,
    lengths: TokenLengths,
    targets: LatencyTargets,
    rate_per_second: float,
    max_num_seqs: int,
    steps: StepModel = ANALYTIC_STEPS,
    arrivals: Arrivals = POISSON,
    beside: Sequence[Stream] = (),
) -> Prediction:
    """Latencies of one class at a rate of its own on one replica; see `predict_each`."""
    one = Operation(shape, lengths, targets, rate_per_second, max_num_seqs, arrivals, tuple(beside))
    return predict_each([one], steps)[0]


def predict_each(asked: Sequence[Operation], steps: StepModel = ANALYTIC_STEPS) -> list[Prediction]:
    """Latencies of each class on its replica, in few passes; infinite when the queue would grow without end.

    With other classes beside it, lengths of all together stand for what its requests meet: lognormal with the first
    two moments of the mixture. Utilization and concurrency are those of all.
    """
    found = [IMPOSSIBLE] * len(asked)
    groups: dict[object, list[_Row]] = {}
    for number, one in enumerate(asked):
        fit = memory_fit(one.shape)
        if cannot_run(one.shape, fit) is not None:
            continue
        own = traffic_of(one.lengths, one.arrivals)
        met = mixture(own, one.beside) if one.beside else own
        row = _Row(number, one, own, met, float(min(one.max_num_seqs, held(fit, met))))
        groups.setdefault(row.kind, []).append(row)
    for rows in groups.values():
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            for row, prediction in zip(part, _predicted(part, steps), strict=True):
                found[row.number] = prediction
    return found


_BLOCK = 500
"""Predictions in one pass: each is looked at at up to eight loads."""


@dataclass(frozen=True, slots=True)
class _Row:
    """An operation of a replica that can run."""

    number: int
    asked: Operation
    own: Traffic
    met: Traffic
    """Of all classes together."""
    batch: float

    @property
    def kind(self) -> object:
        """Rows of one kind are computed together."""
        targets = self.asked.targets
        statistics = map(statistic_of, (targets.ttft, targets.tpot, targets.end_to_end))
        traffics = [(one.arrivals, one.decodes) for one in (self.own, self.met)]
        return bool(self.asked.beside), *traffics, *statistics

    @property
    def rate_per_second(self) -> float:
        """Of all classes together."""
        return self.asked.rate_per_second * (1.0 + sum(stream.per_request for stream in self.asked.beside))


def _predicted(rows: Sequence[_Row], steps: StepModel) -> list[Prediction]:
    """Of rows of one kind."""
    each = range(len(rows))
    targets, company = rows[0].asked.targets, bool(rows[0].asked.beside)
    terms = StackedTerms.of([steps.terms(row.asked.shape) for row in rows])
    own = Engines(StackedTraffic.of([row.own for row in rows], each), terms)
    alone = Alone.of(own, targets)
    found = [alone.prediction(row) for row in each]
    engines = Engines(StackedTraffic.of([row.met for row in rows], each), terms) if company else own
    batch = np.array([row.batch for row in rows])
    saturation = settled(Replicas.of(engines, batch).saturation_rate)
    paths: dict[int, Path] = {}
    for number, row in enumerate(rows):
        utilization = row.rate_per_second / float(saturation[number])
        if utilization >= 1:
            found[number] = Prediction(np.inf, np.inf, np.inf, np.inf, utilization, row.batch)
        elif utilization > 0:
            paths[number] = Path.to(utilization)
    if not paths:
        return found
    several = [number for number, path in paths.items() for _ in path.numbers]
    replicas = Replicas.of(engines.take(several), batch[several])
    load = Load.of(replicas, load_of(np.concatenate([path.numbers for path in paths.values()])) * saturation[several])
    traffic = own.traffic.take(several) if company else None
    whole = end_to_end(load, traffic)
    latencies = (
        (alone.ttft, settled(statistic(first_token(load, traffic), targets.ttft))),
        (alone.tpot, settled(statistic(per_token(load, traffic), targets.tpot))),
        (alone.end_to_end, settled(statistic(whole, targets.end_to_end))),
        (alone.mean_end_to_end, settled(whole.mean())),
        (np.zeros(len(rows)), settled(load.running)),
    )
    end = 0
    for number, path in paths.items():
        start, end = end, end + len(path.numbers)
        figures = (path.value(float(least[number]), values[start:end]) for least, values in latencies)
        ttft, tpot, whole_time, mean, running = figures
        found[number] = Prediction(ttft, tpot, whole_time, mean, path.load, min(running, rows[number].batch))
    return found


def _alone_ttft(engines: Engines, target: LatencyTarget | None) -> FloatArray:
    if target is None or target.percentile is None:
        return alone_first_token(engines).mean()
    return alone_first_token_percentile(engines, target.percentile)
