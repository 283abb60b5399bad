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
from plimsoll.performance.replicas import Engines, Replicas
from plimsoll.performance.requests import Stream, cannot_run, held, mixture, traffic_of
from plimsoll.performance.shapes import FloatArray, LatencyTarget, LatencyTargets, ReplicaShape, TokenLengths
from plimsoll.performance.stacked import StackedTerms
from plimsoll.performance.statistics import asked_of, statistic
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
    """Latencies of one class at a rate of its own on one replica; infinite when the queue would grow without end.

    With other classes `beside` it, lengths of all together stand for what its requests meet: lognormal with the first
    two moments of the mixture. Utilization and concurrency are those of all.
    """
    fit = memory_fit(shape)
    if cannot_run(shape, fit) is not None:
        return IMPOSSIBLE
    traffic, terms = traffic_of(lengths, arrivals), StackedTerms.of([steps.terms(shape)])
    engines = Engines.alike(traffic, terms)
    alone = Alone.of(engines, targets).prediction(0)
    if rate_per_second <= 0:
        return alone
    own = engines.traffic if beside else None
    if beside:
        traffic = mixture(traffic, beside)
        engines = Engines.alike(traffic, terms)
        rate_per_second *= 1.0 + sum(stream.per_request for stream in beside)
    batch = min(max_num_seqs, held(fit, traffic))
    saturation = float(Replicas.of(engines, np.array([float(batch)])).saturation_rate[0])
    utilization = rate_per_second / saturation
    if utilization >= 1:
        return Prediction(np.inf, np.inf, np.inf, np.inf, utilization, float(batch))
    path = Path.to(utilization)
    several = engines.take([0] * len(path.numbers))
    replicas = Replicas.of(several, np.full(len(path.numbers), float(batch)))
    load = Load.of(replicas, load_of(path.numbers) * saturation)
    own = own and own.take([0] * len(path.numbers))
    whole = end_to_end(load, own)
    return Prediction(
        ttft_seconds=path.value(alone.ttft_seconds, settled(statistic(first_token(load, own), targets.ttft))),
        tpot_seconds=path.value(alone.tpot_seconds, settled(statistic(per_token(load, own), targets.tpot))),
        end_to_end_seconds=path.value(alone.end_to_end_seconds, settled(statistic(whole, targets.end_to_end))),
        mean_end_to_end_seconds=path.value(alone.mean_end_to_end_seconds, settled(whole.mean())),
        utilization=utilization,
        concurrency=min(path.value(0.0, load.running), float(batch)),
    )


def _alone_ttft(engines: Engines, target: LatencyTarget | None) -> FloatArray:
    if target is None or target.percentile is None:
        return alone_first_token(engines).mean()
    return alone_first_token_percentile(engines, target.percentile)
