"""The latencies that are limited, each at the statistic of its target."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from plimsoll.performance.latency import end_to_end, first_token, per_token
from plimsoll.performance.queue import Load
from plimsoll.performance.shapes import FloatArray, LatencyTarget, LatencyTargets
from plimsoll.performance.tails import Mixture


def asked_of(targets: LatencyTargets) -> list[tuple[str, LatencyTarget, Callable[[Load], Mixture]]]:
    """Names, targets and latencies of what is limited."""
    kinds: tuple[tuple[str, LatencyTarget | None, Callable[[Load], Mixture]], ...] = (
        ("ttft", targets.ttft, first_token),
        ("endToEnd", targets.end_to_end, end_to_end),
        ("tpot", targets.tpot, per_token),
    )
    return [(name, target, latency) for name, target, latency in kinds if target is not None]


def meets(latency: Mixture, target: LatencyTarget, seconds: FloatArray) -> NDArray[np.bool_]:
    """(J,) whether a target's statistic is at most `seconds` (J,)."""
    if target.percentile is None:
        return np.asarray(latency.mean() <= seconds)
    return np.asarray(latency.beyond(seconds) <= 1.0 - target.percentile / 100.0)


def statistic_of(target: LatencyTarget | None) -> tuple[int | None] | None:
    """What makes two targets ask for the same: their percentile, or the mean; None where there is no target."""
    return None if target is None else (target.percentile,)


def statistic(latency: Mixture, target: LatencyTarget | None) -> FloatArray:
    """(J,) seconds at a target's statistic; the mean where there is no target."""
    if target is None or target.percentile is None:
        return latency.mean()
    return latency.percentile(target.percentile)
