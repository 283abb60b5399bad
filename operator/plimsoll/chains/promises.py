"""What a set of chains can promise: the highest rate at which latency targets hold.

A session's times on a chain are fixed, so a target of time per output token is met by a chain or not. What is left of
the other targets after the chain's own time may be spent in the central queue. Its wait follows the birth-death process
of `mean_response`, the slowest places first (fewest free, so the wait is not underestimated), with exponential service,
which waits longer than fixed lengths do.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from plimsoll.chains.composition import Chain, place_rates
from plimsoll.chains.problem import ChainProblem, Floats
from plimsoll.chains.routes import prefill_seconds
from plimsoll.performance import LatencyTargets

UTILISATION = 0.85
"""Of the places, at most: as for replicas."""
_HALVINGS = 40
_SUBSETS = 12
"""Chains are dropped by what they leave for waiting, in so many steps at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Promise:
    """A rate, and the chains that carry it within the targets."""

    rate_per_second: float
    chains: tuple[Chain, ...]


def promised(
    problem: ChainProblem,
    chains: Sequence[Chain],
    targets: LatencyTargets,
    *,
    client: int = 0,
    utilisation: float = UTILISATION,
) -> Promise:
    """The highest rate within the targets, by the best of the sets that leave out chains with little to spare."""
    spare = np.array([spare_seconds(problem, chain, targets, client) for chain in chains])
    limits = np.unique(spare[spare >= 0])
    if len(limits) > _SUBSETS:
        limits = limits[np.unique(np.linspace(0, len(limits) - 1, _SUBSETS).round().astype(int))]
    best = Promise(0.0, ())
    statistics = [target.percentile for target in (targets.ttft, targets.end_to_end) if target is not None]
    for limit in limits.tolist():
        kept = [chain for chain, own in zip(chains, spare.tolist(), strict=True) if own >= limit]
        rates = place_rates(kept, problem.setup_seconds)
        rate = _highest_rate(rates, limit, statistics, utilisation)
        if rate > best.rate_per_second:
            best = Promise(rate, tuple(kept))
    return best


def spare_seconds(problem: ChainProblem, chain: Chain, targets: LatencyTargets, client: int = 0) -> float:
    """What a chain leaves of the targets for waiting; negative where it misses one itself, infinite without targets."""
    prompt = prefill_seconds(problem, chain.route, client)
    spare = math.inf
    if targets.ttft is not None:
        spare = min(spare, targets.ttft.seconds - problem.setup_seconds - prompt)
    if targets.end_to_end is not None:
        spare = min(spare, targets.end_to_end.seconds - problem.setup_seconds - chain.service_seconds)
    if targets.tpot is not None and problem.output_tokens > 1:
        per_token = (chain.service_seconds - prompt) / (problem.output_tokens - 1)
        if per_token > targets.tpot.seconds:
            return -math.inf
    return spare


def wait_seconds(rates: Floats, arrivals_per_second: float, percentile: int | None) -> float:
    """Wait in the central queue, at a percentile or (None) in the mean; infinite when the places (N, per second) do not
    carry the load."""
    surplus = float(rates.sum()) - arrivals_per_second
    if surplus <= 0:
        return math.inf
    busy = _all_busy(rates, arrivals_per_second)
    if percentile is None:
        return busy / surplus
    allowed = 1.0 - percentile / 100
    if busy <= allowed:
        return 0.0
    return math.log(busy / allowed) / surplus if allowed > 0 else math.inf


def _all_busy(rates: Floats, arrivals_per_second: float) -> float:
    """Probability that all places are taken when a request comes."""
    deaths = np.cumsum(np.sort(rates))
    logarithms = np.concatenate(([0.0], np.cumsum(math.log(arrivals_per_second) - np.log(deaths))))
    weights = np.exp(logarithms - logarithms.max())
    load = arrivals_per_second / float(deaths[-1])
    tail = float(weights[-1]) / (1 - load)
    return tail / (float(weights[:-1].sum()) + tail)


def _highest_rate(rates: Floats, spare: float, percentiles: Sequence[int | None], utilisation: float) -> float:
    high = utilisation * float(rates.sum())

    def holds(rate: float) -> bool:
        return all(wait_seconds(rates, rate, percentile) <= spare for percentile in percentiles)

    if holds(high):
        return high
    low = 0.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
