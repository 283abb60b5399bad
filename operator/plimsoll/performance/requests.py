"""The requests that a replica meets: their distribution, how many of them it holds, whether it starts at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from plimsoll.performance.arrivals import POISSON, Arrivals
from plimsoll.performance.lengths import LengthDistribution
from plimsoll.performance.memory import MemoryFit, memory_fit
from plimsoll.performance.replicas import Traffic
from plimsoll.performance.shapes import ReplicaShape, TokenLengths, parallelism_problem


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests of another class at the same replica."""

    lengths: TokenLengths
    per_request: float
    """How many come for each one of the class that is asked about."""
    arrivals: Arrivals = POISSON


def held_requests(shape: ReplicaShape, lengths: TokenLengths) -> int:
    """How many requests the KV cache holds; 0 when the replica does not start.

    Each is counted with its mean prompt and its whole mean answer, although on average half of it is there; and where
    lengths spread widely, with their mean context and twice the scatter of the sum: preemptions stay rare.
    """
    fit = memory_fit(shape)
    return held(fit, traffic_of(lengths, POISSON)) if fit.fits else 0


def traffic_of(lengths: TokenLengths, arrivals: Arrivals) -> Traffic:
    """Lengths and arrivals as distributions."""
    return Traffic(
        LengthDistribution.of(lengths.input_mean, lengths.input_p95),
        LengthDistribution.of(lengths.output_mean, lengths.output_p95),
        arrivals,
    )


def mixture(own: Traffic, beside: Sequence[Stream]) -> Traffic:
    """All requests as one class, with the burstiness that the classes have on average."""
    parts = [(1.0, own), *((stream.per_request, traffic_of(stream.lengths, stream.arrivals)) for stream in beside)]
    whole = sum(weight for weight, _ in parts)
    squared = sum(weight / whole * part.arrivals.burstiness**2 for weight, part in parts)
    return Traffic(
        LengthDistribution.mixture([(weight, part.inputs) for weight, part in parts]),
        LengthDistribution.mixture([(weight, part.outputs) for weight, part in parts]),
        Arrivals(sqrt(squared)),
    )


def held(fit: MemoryFit, traffic: Traffic) -> int:
    """Requests that the KV cache of a replica that starts holds, at least 1; see `held_requests`."""
    whole = fit.kv_tokens / max(1.0, traffic.inputs.mean + traffic.outputs.mean)
    # n * context + 2 * sqrt(n * variance) = tokens, solved for sqrt(n).
    mean, scatter = traffic.context_tokens, sqrt(traffic.context_variance)
    root = (sqrt(scatter**2 + mean * fit.kv_tokens) - scatter) / mean
    return max(1, int(min(whole, root * root)))


def cannot_run(shape: ReplicaShape, fit: MemoryFit) -> tuple[str, str] | None:
    """What stops a replica from starting, parallelism or memory, and a sentence on it; None where it starts."""
    problem = parallelism_problem(shape.model, shape.gpu, shape.parallelism)
    if problem is not None:
        return "parallelism", problem
    return None if fit.reason is None else ("memory", fit.reason)
