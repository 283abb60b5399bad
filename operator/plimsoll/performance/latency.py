"""Latencies of one traffic class on replicas: from step times and the queue to the statistics that targets name."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from plimsoll.performance.queue import BatchQueue, Occupancy
from plimsoll.performance.shapes import FloatArray, LatencyTarget, LatencyTargets, ReplicaShape, TokenLengths
from plimsoll.performance.steps import StepModel

_Z95 = NormalDist().inv_cdf(0.95)


@dataclass(frozen=True, slots=True)
class ClassTimes:
    """What J replicas need for one class, before any queue. Columns of (J, B) arrays are 1..B requests in company."""

    step: FloatArray
    """(J, B) seconds of a decode step."""
    prefill_mean: FloatArray
    """(J,) seconds of a prefill of mean length."""
    prefill_target: FloatArray
    """(J,) seconds of a prefill of the length that belongs to the TTFT statistic."""
    prefill_end_to_end: FloatArray
    """(J,) the same for the end-to-end statistic."""
    prefill_occupies: FloatArray
    """(J,) seconds for which a mean prefill keeps others from decoding: one stage's share of it."""
    decode_steps: float
    """Mean tokens after the first."""

    def take(self, rows: FloatArray | Sequence[int], batch: int) -> "ClassTimes":
        """Some of the replicas, with company up to `batch`."""
        index = np.asarray(rows, dtype=np.intp)
        return ClassTimes(
            step=self.step[index, :batch],
            prefill_mean=self.prefill_mean[index],
            prefill_target=self.prefill_target[index],
            prefill_end_to_end=self.prefill_end_to_end[index],
            prefill_occupies=self.prefill_occupies[index],
            decode_steps=self.decode_steps,
        )

    def request_seconds(self) -> FloatArray:
        """(J, B) T(n): own prefill, the decode steps, and one prefill of each companion in the same time."""
        others = np.arange(self.step.shape[1], dtype=np.float64)
        return self.prefill_mean[:, None] + self.decode_steps * self.step + others * self.prefill_occupies[:, None]

    def tpot_at(self, percentile: int | None) -> FloatArray:
        """(J, B) seconds per output token in the company of 1..B: step and the companions' prefills in between.

        The number of such prefills is about Poisson with mean n - 1; a percentile takes its normal approximation.
        """
        others = np.arange(self.step.shape[1], dtype=np.float64)
        interruptions = others + _z(percentile) * np.sqrt(others)
        return self.step + interruptions * self.prefill_occupies[:, None] / max(self.decode_steps, 1.0)


@dataclass(frozen=True, slots=True)
class Statistics:
    """(J,) seconds, each at the statistic of its target; the mean where there is no target."""

    ttft: FloatArray
    tpot: FloatArray
    end_to_end: FloatArray
    mean_end_to_end: FloatArray
    running_mean: FloatArray


def percentile_of(target: LatencyTarget | None) -> int | None:
    """The percentile that a target names; None for the mean, also where there is no target."""
    return None if target is None else target.percentile


def tokens_at(mean: float, p95: float, percentile: int | None) -> float:
    """Tokens at a percentile: mean up to the median, 95th percentile from 95 on, between them by normal quantile."""
    share = min(1.0, _z(percentile) / _Z95)
    return mean + share * max(0.0, p95 - mean)


def class_times(
    shapes: Sequence[ReplicaShape], lengths: TokenLengths, targets: LatencyTargets, steps: StepModel, batch: int
) -> ClassTimes:
    """Step times of a class on each shape, for company of 1..`batch`."""
    company = np.arange(1.0, batch + 1.0)
    context = np.full(batch, lengths.input_mean + lengths.output_mean / 2)
    inputs = [
        tokens_at(lengths.input_mean, lengths.input_p95, percentile)
        for percentile in (None, percentile_of(targets.ttft), percentile_of(targets.end_to_end))
    ]
    tokens, single = np.array(inputs), np.ones(len(inputs))
    step = np.empty((len(shapes), batch))
    prefill = np.empty((len(shapes), len(inputs)))
    for row, shape in enumerate(shapes):
        step[row] = steps.decode_step_seconds(shape, company, context)
        prefill[row] = steps.prefill_seconds(shape, tokens, single)
    stages = np.array([float(shape.parallelism.pipeline) for shape in shapes])
    return ClassTimes(
        step=step,
        prefill_mean=prefill[:, 0],
        prefill_target=prefill[:, 1],
        prefill_end_to_end=prefill[:, 2],
        prefill_occupies=prefill[:, 0] / stages,
        decode_steps=max(0.0, lengths.output_mean - 1.0),
    )


def unloaded(times: ClassTimes, lengths: TokenLengths, targets: LatencyTargets) -> Statistics:
    """Latencies of a request that is alone."""
    step = times.step[:, 0]
    mean = times.prefill_mean + times.decode_steps * step
    return Statistics(
        ttft=times.prefill_target,
        tpot=step,
        end_to_end=times.prefill_end_to_end + _decode_steps_at(lengths, targets) * step,
        mean_end_to_end=mean,
        running_mean=np.zeros_like(step),
    )


def loaded(
    times: ClassTimes, queue: BatchQueue, rate: FloatArray, lengths: TokenLengths, targets: LatencyTargets
) -> Statistics:
    """Latencies under `rate` (J,) requests per second, below saturation."""
    occupancy = queue.at(rate)
    tpot_mean = _mean_tpot(times, occupancy, rate)
    percentile = percentile_of(targets.tpot)
    tpot = tpot_mean
    if percentile is not None:
        company = occupancy.company_percentile(percentile).astype(np.intp)
        tpot = times.tpot_at(percentile)[np.arange(len(company)), company - 1]
    mean_first = first_token_seconds(times, occupancy, rate, None, times.prefill_mean)
    return Statistics(
        ttft=first_token_seconds(times, occupancy, rate, percentile_of(targets.ttft), times.prefill_target),
        tpot=tpot,
        end_to_end=end_to_end_seconds(times, occupancy, rate, lengths, targets),
        mean_end_to_end=mean_first + times.decode_steps * tpot_mean,
        running_mean=occupancy.running_mean,
    )


def first_token_seconds(
    times: ClassTimes, occupancy: Occupancy, rate: FloatArray, percentile: int | None, prefill: FloatArray
) -> FloatArray:
    """(J,) time to first token.

    Wait for a slot, for other prompts' prefills (M/M/1), for the end of the running step; then the own prefill.
    Percentiles of the parts are added up, which is on the safe side.
    """
    busy = rate * times.prefill_occupies
    backlog = times.prefill_occupies / (1.0 - busy)
    step = _step_in_progress(times, rate)
    if percentile is None:
        return occupancy.slot_wait_mean() + busy * backlog + 0.5 * step + prefill
    beyond = np.maximum(busy / (1.0 - percentile / 100.0), 1.0)
    return np.asarray(occupancy.slot_wait_percentile(percentile) + backlog * np.log(beyond) + step + prefill)


def end_to_end_seconds(
    times: ClassTimes, occupancy: Occupancy, rate: FloatArray, lengths: TokenLengths, targets: LatencyTargets
) -> FloatArray:
    """(J,) end-to-end time: first token and the rest of the answer, of the length that belongs to the statistic.

    A percentile, too, takes the mean time per token: an answer sees many batches.
    """
    first = first_token_seconds(times, occupancy, rate, percentile_of(targets.end_to_end), times.prefill_end_to_end)
    return first + _decode_steps_at(lengths, targets) * _mean_tpot(times, occupancy, rate)


def _mean_tpot(times: ClassTimes, occupancy: Occupancy, rate: FloatArray) -> FloatArray:
    """(J,) mean time per output token; the mean stay of a request is running requests / rate (Little)."""
    decode = occupancy.running_mean / rate - times.prefill_mean
    return np.maximum(decode / max(times.decode_steps, 1.0), times.step[:, 0])


def _step_in_progress(times: ClassTimes, rate: FloatArray) -> FloatArray:
    """(J,) seconds of the step that a new request finds running, by the chance that one runs."""
    step = times.step[:, 0]
    return step * np.minimum(1.0, rate * (times.prefill_mean + times.decode_steps * step))


def _decode_steps_at(lengths: TokenLengths, targets: LatencyTargets) -> float:
    """Tokens after the first, at the end-to-end target's statistic."""
    percentile = percentile_of(targets.end_to_end)
    return max(0.0, tokens_at(lengths.output_mean, lengths.output_p95, percentile) - 1.0)


def _z(percentile: int | None) -> float:
    """Normal quantile of a percentile, not below 0."""
    return 0.0 if percentile is None else max(0.0, NormalDist().inv_cdf(percentile / 100.0))
