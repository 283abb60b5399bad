"""The highest arrival rate at which a replica keeps a class's targets, and what it delivers at a given rate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plimsoll.performance.latency import (
    ClassTimes,
    Statistics,
    class_times,
    end_to_end_seconds,
    first_token_seconds,
    loaded,
    percentile_of,
    unloaded,
)
from plimsoll.performance.memory import memory_fit
from plimsoll.performance.queue import BatchQueue
from plimsoll.performance.shapes import (
    FloatArray,
    LatencyTarget,
    LatencyTargets,
    ReplicaShape,
    TokenLengths,
    parallelism_problem,
)
from plimsoll.performance.steps import ANALYTIC_STEPS, StepModel

OPERATING_POINTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Batch limits to choose from: powers of two, from 16 on those half-way, too; vLLM captures CUDA graphs of all."""
MAX_UTILIZATION = 0.98
"""Of the saturation rate: where no latency target binds, a queue still needs some room to be stable."""
LEAST_SHARE = 1e-4
"""Rates below this share of the saturation rate count as none."""
BISECTIONS = 14
"""On a logarithmic scale: the rate is found within 0.06 %, from below."""


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


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica can take of one class alone."""

    max_rate_per_second: float
    """Highest arrival rate at which all targets hold; 0 when there is none."""
    max_num_seqs: int
    """The operating point."""
    limit: str
    """What stops a higher rate: ttft, tpot, endToEnd, throughput, memory or parallelism."""
    unloaded: Prediction
    """At a rate near 0."""
    reason: str | None
    """Why the rate is 0: a sentence with figures."""


_IMPOSSIBLE = Prediction(np.inf, np.inf, np.inf, np.inf, np.inf, 0.0)


def held_requests(shape: ReplicaShape, lengths: TokenLengths) -> int:
    """How many requests of mean length the KV cache holds; 0 when the replica does not start.

    Each is counted with its whole answer, although on average half of it is there: room that keeps preemptions rare.
    """
    fit = memory_fit(shape)
    if not fit.fits:
        return 0
    return max(1, int(fit.kv_tokens / max(1.0, lengths.input_mean + lengths.output_mean)))


def candidate_batches(shape: ReplicaShape, lengths: TokenLengths) -> tuple[int, ...]:
    """Operating points that the KV cache holds, ascending; empty when the replica does not start."""
    held = held_requests(shape, lengths)
    return tuple(batch for batch in OPERATING_POINTS if batch <= held)


def capacity(
    shape: ReplicaShape,
    lengths: TokenLengths,
    targets: LatencyTargets,
    steps: StepModel = ANALYTIC_STEPS,
    max_num_seqs: int | None = None,
) -> Capacity:
    """What one replica can take of one class; see `capacities`."""
    return capacities([shape], lengths, targets, steps, max_num_seqs)[0]


def capacities(
    shapes: Sequence[ReplicaShape],
    lengths: TokenLengths,
    targets: LatencyTargets,
    steps: StepModel = ANALYTIC_STEPS,
    max_num_seqs: int | None = None,
) -> list[Capacity]:
    """What one replica of each shape can take of one class, all in one pass.

    With `max_num_seqs` None the operating point is the largest at which memory suffices and the time per output token
    meets its target with all slots taken, so that it holds however full the replica is and in company of other classes.
    Where an end-to-end target then limits the rate, it is the one of the highest rate among the smaller ones, too.
    A given `max_num_seqs` is kept; its time per output token is that of as many requests as the KV cache holds of it.
    """
    answers: list[Capacity | None] = [_cannot_run(shape, max_num_seqs) for shape in shapes]
    rows = [row for row, answer in enumerate(answers) if answer is None]
    if rows:
        able = [shapes[row] for row in rows]
        for row, found in zip(rows, _capacities(able, lengths, targets, steps, max_num_seqs), strict=True):
            answers[row] = found
    return [answer for answer in answers if answer is not None]


def predict(
    shape: ReplicaShape,
    lengths: TokenLengths,
    targets: LatencyTargets,
    rate_per_second: float,
    max_num_seqs: int,
    steps: StepModel = ANALYTIC_STEPS,
) -> Prediction:
    """Latencies of one class at a rate of its own on one replica; infinite when the queue would grow without end."""
    if _cannot_run(shape, max_num_seqs) is not None:
        return _IMPOSSIBLE
    batch = min(max_num_seqs, held_requests(shape, lengths))
    times = class_times([shape], lengths, targets, steps, batch)
    if rate_per_second <= 0:
        return _prediction(unloaded(times, lengths, targets), 0, 0.0)
    queue = BatchQueue.of(times.request_seconds())
    utilization = rate_per_second / float(queue.saturation_rate[0])
    if utilization >= 1:
        return Prediction(np.inf, np.inf, np.inf, np.inf, utilization, float(batch))
    return _prediction(loaded(times, queue, np.array([rate_per_second]), lengths, targets), 0, utilization)


@dataclass(frozen=True, slots=True)
class _Found:
    """The highest rate at one operating point."""

    batch: int
    rate: float
    limit: str


def _capacities(
    shapes: Sequence[ReplicaShape],
    lengths: TokenLengths,
    targets: LatencyTargets,
    steps: StepModel,
    max_num_seqs: int | None,
) -> list[Capacity]:
    held = [held_requests(shape, lengths) for shape in shapes]
    widest = min(max(held), OPERATING_POINTS[-1] if max_num_seqs is None else max_num_seqs)
    times = class_times(shapes, lengths, targets, steps, widest)
    alone = unloaded(times, lengths, targets)
    full_tpot = times.tpot_at(percentile_of(targets.tpot))
    answers: dict[int, Capacity] = {}
    tried: dict[int, list[int]] = {}
    """Row -> operating points to try, ascending."""
    for row in range(len(shapes)):
        points = [min(max_num_seqs, held[row])] if max_num_seqs is not None else _points(held[row])
        good = [batch for batch in points if _meets(full_tpot[row, batch - 1], targets.tpot)]
        missed = _missed_alone(alone, row, targets)
        if missed is not None or not good:
            at = 1 if max_num_seqs is None else points[0]
            tpot = float(alone.tpot[row] if missed == "tpot" else full_tpot[row, at - 1])
            answers[row] = Capacity(
                max_rate_per_second=0.0,
                max_num_seqs=max_num_seqs or 1,
                limit=missed or "tpot",
                unloaded=_prediction(alone, row, 0.0),
                reason=_reason(missed or "tpot", alone, row, tpot, 1 if missed == "tpot" else at, targets),
            )
            continue
        tried[row] = good
    best = _best_points(times, tried, lengths, targets)
    for row, found in best.items():
        limit = found.limit
        if limit == "throughput" and max_num_seqs is None:
            limit = _what_keeps_the_batch_small(found.batch, held[row], full_tpot[row], targets)
        elif limit == "throughput" and held[row] < (max_num_seqs or 0):
            limit = "memory"
        reason = None
        if found.rate <= 0:
            missed = _reason(limit, alone, row, float(alone.tpot[row]), 1, targets)
            reason = f"{missed}, which leaves no room for load"
        answers[row] = Capacity(
            max_rate_per_second=found.rate,
            max_num_seqs=max_num_seqs or found.batch,
            limit=limit,
            unloaded=_prediction(alone, row, 0.0),
            reason=reason,
        )
    return [answers[row] for row in range(len(shapes))]


def _best_points(
    times: ClassTimes, points: Mapping[int, Sequence[int]], lengths: TokenLengths, targets: LatencyTargets
) -> dict[int, _Found]:
    """The operating point of each row: its largest one, or a smaller one of a higher rate.

    Smaller ones are tried only where the end-to-end target limits: to every other limit the largest is best.
    """
    best: dict[int, _Found] = {}
    for smaller in (False, True):
        rows_at: dict[int, list[int]] = {}
        for row, batches in points.items():
            if not smaller:
                rows_at.setdefault(batches[-1], []).append(row)
            elif best[row].limit == "endToEnd":
                for batch in batches[:-1]:
                    rows_at.setdefault(batch, []).append(row)
        for batch in sorted(rows_at, reverse=True):
            rows = rows_at[batch]
            rates, limits = _highest_rates(times.take(rows, batch), lengths, targets)
            for row, rate, limit in zip(rows, rates, limits, strict=True):
                if row not in best or rate > best[row].rate:
                    best[row] = _Found(batch, rate, limit)
    return best


def _highest_rates(times: ClassTimes, lengths: TokenLengths, targets: LatencyTargets) -> tuple[list[float], list[str]]:
    """Highest rate of each row within its targets, by bisection; and what is missed just above it."""
    queue = BatchQueue.of(times.request_seconds())
    top = MAX_UTILIZATION * queue.saturation_rate
    within_at_top, limits_at_top = _within(times, queue, top, lengths, targets)
    rates = top.copy()
    limits = np.where(within_at_top, "throughput", limits_at_top)
    rows = np.flatnonzero(~within_at_top)
    if rows.size:
        part = times.take(rows.tolist(), times.step.shape[1])
        part_queue = BatchQueue.of(part.request_seconds())
        low, high = part_queue.saturation_rate * LEAST_SHARE, part_queue.saturation_rate * MAX_UTILIZATION
        lowest, missed = _within(part, part_queue, low, lengths, targets)
        for _ in range(BISECTIONS):
            middle = np.sqrt(low * high)
            within, missed_here = _within(part, part_queue, middle, lengths, targets)
            low, high = np.where(within, middle, low), np.where(within, high, middle)
            missed = np.where(within, missed, missed_here)
        rates[rows] = np.where(lowest, low, 0.0)
        limits[rows] = missed
    return [float(rate) for rate in rates], [str(limit) for limit in limits]


def _within(
    times: ClassTimes, queue: BatchQueue, rate: FloatArray, lengths: TokenLengths, targets: LatencyTargets
) -> tuple[NDArray[np.bool_], NDArray[np.str_]]:
    """Which rows keep time to first token and end-to-end time, and which of the two is the tighter."""
    occupancy = queue.at(rate)
    ttft, end_to_end = np.zeros_like(rate), np.zeros_like(rate)
    if targets.ttft is not None:
        percentile = targets.ttft.percentile
        ttft = first_token_seconds(times, occupancy, rate, percentile, times.prefill_target) / targets.ttft.seconds
    if targets.end_to_end is not None:
        end_to_end = end_to_end_seconds(times, occupancy, rate, lengths, targets) / targets.end_to_end.seconds
    return np.maximum(ttft, end_to_end) <= 1.0, np.where(ttft >= end_to_end, "ttft", "endToEnd")


def _points(held: int) -> list[int]:
    return [batch for batch in OPERATING_POINTS if batch <= held]


def _meets(seconds: float, target: LatencyTarget | None) -> bool:
    return target is None or float(seconds) <= target.seconds


def _missed_alone(alone: Statistics, row: int, targets: LatencyTargets) -> str | None:
    """The target that even a request alone misses, by the largest factor."""
    ratios = {
        name: float(values[row]) / target.seconds
        for name, values, target in (
            ("ttft", alone.ttft, targets.ttft),
            ("tpot", alone.tpot, targets.tpot),
            ("endToEnd", alone.end_to_end, targets.end_to_end),
        )
        if target is not None
    }
    worst = max(ratios, key=lambda name: ratios[name], default=None)
    return worst if worst is not None and ratios[worst] > 1 else None


def _what_keeps_the_batch_small(batch: int, held: int, full_tpot: FloatArray, targets: LatencyTargets) -> str:
    """Why no larger operating point was taken: a larger batch would serve more."""
    larger = next((point for point in OPERATING_POINTS if point > batch), None)
    if larger is None:
        return "throughput"
    if larger > held:
        return "memory"
    return "throughput" if _meets(full_tpot[larger - 1], targets.tpot) else "tpot"


def _reason(limit: str, alone: Statistics, row: int, tpot: float, batch: int, targets: LatencyTargets) -> str:
    """A sentence on the missed target."""
    if limit == "ttft" and targets.ttft is not None:
        return f"time to first token is {_milliseconds(float(alone.ttft[row]))}, {_target(targets.ttft)}"
    if limit == "endToEnd" and targets.end_to_end is not None:
        return f"end-to-end time is {_milliseconds(float(alone.end_to_end[row]))}, {_target(targets.end_to_end)}"
    found = f"time per output token is {_milliseconds(tpot)} at batch {batch}"
    return found if targets.tpot is None else f"{found}, {_target(targets.tpot)}"


def _target(target: LatencyTarget) -> str:
    return f"the target is {_milliseconds(target.seconds)} ({target.statistic})"


def _milliseconds(seconds: float) -> str:
    milliseconds = seconds * 1000
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"


def _prediction(found: Statistics, row: int, utilization: float) -> Prediction:
    return Prediction(
        ttft_seconds=float(found.ttft[row]),
        tpot_seconds=float(found.tpot[row]),
        end_to_end_seconds=float(found.end_to_end[row]),
        mean_end_to_end_seconds=float(found.mean_end_to_end[row]),
        utilization=utilization,
        concurrency=float(found.running_mean[row]),
    )


def _cannot_run(shape: ReplicaShape, max_num_seqs: int | None) -> Capacity | None:
    """The answer for a replica that cannot start, or None."""
    problem = parallelism_problem(shape.model, shape.gpu, shape.parallelism)
    limit = "parallelism"
    if problem is None:
        problem, limit = memory_fit(shape).reason, "memory"
    if problem is None:
        return None
    return Capacity(0.0, max_num_seqs or 1, limit, _IMPOSSIBLE, problem)
