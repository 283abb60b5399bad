"""The rate that targets allow, against closed forms, other points of view, and what people should read."""

import math

import numpy as np
import pytest

from plimsoll.catalog import load_catalog
from plimsoll.performance import (
    FloatArray,
    LatencyTarget,
    LatencyTargets,
    Parallelism,
    ReplicaShape,
    TokenLengths,
    candidate_batches,
    capacities,
    capacity,
    memory_fit,
    parallelism_problem,
    predict,
)
from plimsoll.performance.terms import StepTerms

CATALOG = load_catalog()
LLAMA_8B, LLAMA_70B = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"
CHAT = TokenLengths(input_mean=512, output_mean=256, input_p95=1024, output_p95=512)
INTERACTIVE = LatencyTargets(ttft=LatencyTarget(0.5, 95), tpot=LatencyTarget(0.04, 95))


def shape(
    model: str, gpu: str, precision: str = "bf16", tensor: int = 1, pipeline: int = 1, length: int = 8192
) -> ReplicaShape:
    return ReplicaShape(
        CATALOG.model(model), CATALOG.precision(precision), CATALOG.gpu(gpu), Parallelism(tensor, pipeline), length
    )


H100_8B = shape(LLAMA_8B, "H100-SXM-80GB")


class ConstantSteps:
    """Steps that take the same time at every batch and prefill for free: with one slot, a queue with one server."""

    def __init__(self, step: float) -> None:
        self.step = step

    def prefill_seconds(self, shape: ReplicaShape, tokens: FloatArray, batch: FloatArray) -> FloatArray:
        return self.terms(shape).prefill_seconds(tokens, batch)

    def decode_step_seconds(self, shape: ReplicaShape, batch: FloatArray, context_tokens: FloatArray) -> FloatArray:
        return self.terms(shape).decode_step_seconds(batch, context_tokens)

    def terms(self, shape: ReplicaShape) -> StepTerms:  # noqa: ARG002
        return StepTerms(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, self.step, 0.0, 0.0, 1)


def test_one_slot_is_a_queue_with_one_server() -> None:
    """Pollaczek and Khinchine: the wait grows with the variation of the work, here of the answers' lengths."""
    steps = ConstantSteps(0.01)
    fixed = predict(H100_8B, TokenLengths(100, 100, 100, 100), LatencyTargets(), 0.75, 1, steps)
    assert fixed.utilization == pytest.approx(0.75)
    assert fixed.concurrency == pytest.approx(0.75, rel=0.01)
    assert fixed.tpot_seconds == pytest.approx(0.01)
    wait = 0.75 / (1 - 0.75)
    assert fixed.ttft_seconds == pytest.approx(wait / 2, abs=0.03)
    varied = predict(H100_8B, TokenLengths(100, 100, 100, 200), LatencyTargets(), 0.75, 1, steps)
    assert varied.ttft_seconds == pytest.approx(wait * (1 + 0.28) / 2, abs=0.03)
    assert varied.mean_end_to_end_seconds == pytest.approx(varied.ttft_seconds + 0.99, abs=0.01)


def test_the_rate_found_keeps_the_targets_and_a_higher_one_does_not() -> None:
    found = capacity(H100_8B, CHAT, INTERACTIVE)
    assert found.limit == "ttft"
    assert 5 < found.max_rate_per_second < 40
    at = predict(H100_8B, CHAT, INTERACTIVE, found.max_rate_per_second, found.max_num_seqs)
    above = predict(H100_8B, CHAT, INTERACTIVE, found.max_rate_per_second * 1.01, found.max_num_seqs)
    assert at.ttft_seconds <= 0.5 < above.ttft_seconds
    assert at.tpot_seconds <= 0.04


def test_the_operating_point_is_the_largest_batch_that_keeps_the_pace() -> None:
    fast, slow = (
        capacity(H100_8B, CHAT, LatencyTargets(tpot=LatencyTarget(seconds, None))) for seconds in (0.012, 0.03)
    )
    assert 1 < fast.max_num_seqs < slow.max_num_seqs
    assert fast.limit == "tpot"
    assert slow.max_rate_per_second > fast.max_rate_per_second
    best_effort = capacity(H100_8B, CHAT, LatencyTargets())
    assert (best_effort.max_num_seqs, best_effort.limit) == (256, "throughput")


def test_memory_limits_the_batch() -> None:
    tight = shape(LLAMA_70B, "H100-SXM-80GB", tensor=2, length=4096)
    batches = candidate_batches(tight, CHAT)
    assert batches[0] == 1
    assert batches[-1] * (CHAT.input_mean + CHAT.output_mean) <= memory_fit(tight).kv_tokens
    found = capacity(tight, CHAT, LatencyTargets())
    assert (found.max_num_seqs, found.limit) == (batches[-1], "memory")


def test_a_given_operating_point_is_kept() -> None:
    found = capacity(H100_8B, CHAT, INTERACTIVE, max_num_seqs=32)
    assert found.max_num_seqs == 32
    assert 0 < found.max_rate_per_second < capacity(H100_8B, CHAT, INTERACTIVE).max_rate_per_second
    too_full = capacity(H100_8B, CHAT, LatencyTargets(tpot=LatencyTarget(0.012, 95)), max_num_seqs=256)
    assert too_full.max_rate_per_second == 0
    assert too_full.reason is not None
    assert "at batch 256, the target is 12 ms (p95)" in too_full.reason


def test_reasons_are_sentences_with_figures() -> None:
    slow = capacity(shape(LLAMA_8B, "L4"), CHAT, INTERACTIVE)
    assert (slow.max_rate_per_second, slow.limit) == (0.0, "tpot")
    assert slow.reason == "time per output token is 63 ms at batch 1, the target is 40 ms (p95)"
    assert slow.unloaded.tpot_seconds == pytest.approx(0.063, abs=0.001)
    late = capacity(shape(LLAMA_8B, "L4"), CHAT, LatencyTargets(ttft=LatencyTarget(0.1, None)))
    assert late.limit == "ttft"
    assert late.reason is not None
    first = round(late.unloaded.ttft_seconds * 1000)
    assert late.reason.startswith(f"time to first token is {first} ms, the target is 100 ms (mean)")
    assert 120 < first < 180
    long = capacity(H100_8B, CHAT, LatencyTargets(end_to_end=LatencyTarget(1.0, 99)))
    assert long.limit == "endToEnd"
    assert long.reason is not None
    assert "(p99)" in long.reason
    large = capacity(shape(LLAMA_70B, "L4"), CHAT, INTERACTIVE)
    assert (large.limit, large.max_rate_per_second) == ("memory", 0.0)
    assert large.reason is not None
    assert math.isinf(large.unloaded.ttft_seconds)
    odd = capacity(shape(LLAMA_8B, "H100-SXM-80GB", tensor=3), CHAT, INTERACTIVE)
    assert odd.limit == "parallelism"


def test_an_end_to_end_target_may_choose_a_smaller_batch_but_never_a_lower_rate() -> None:
    targets = LatencyTargets(end_to_end=LatencyTarget(8.0, 95))
    found = capacity(H100_8B, CHAT, targets)
    for batch in candidate_batches(H100_8B, CHAT):
        other = capacity(H100_8B, CHAT, targets, max_num_seqs=batch)
        assert other.max_rate_per_second <= found.max_rate_per_second * 1.001


def test_overload_is_infinite_and_says_how_far() -> None:
    most = capacity(H100_8B, CHAT, LatencyTargets()).max_rate_per_second
    found = predict(H100_8B, CHAT, INTERACTIVE, 3 * most, 256)
    assert math.isinf(found.ttft_seconds)
    assert math.isinf(found.mean_end_to_end_seconds)
    assert found.utilization == pytest.approx(3 * 0.98, rel=0.01)


def test_answers_of_one_token() -> None:
    lengths = TokenLengths(2000, 1, 4000, 1)
    found = capacity(H100_8B, lengths, LatencyTargets(ttft=LatencyTarget(1.0, 95)))
    assert 0 < found.max_rate_per_second * found.unloaded.mean_end_to_end_seconds < 1
    assert np.isfinite(found.unloaded.end_to_end_seconds)


def test_pipelines_carry_more_but_are_no_faster() -> None:
    """Same GPU count: tensor parallelism answers sooner; the second stage of a pipeline adds throughput and memory."""
    targets = LatencyTargets()
    one, staged = (capacity(shape(LLAMA_8B, "L4", pipeline=stages), CHAT, targets) for stages in (1, 2))
    assert staged.unloaded.mean_end_to_end_seconds > one.unloaded.mean_end_to_end_seconds
    assert staged.max_rate_per_second > one.max_rate_per_second


def test_many_shapes_in_one_pass_agree_with_one_by_one() -> None:
    shapes = [
        shape(model, gpu, precision, tensor)
        for model in sorted(CATALOG.models)[:24]
        for gpu in sorted(CATALOG.gpus)[:16]
        for precision in ("bf16", "int4")
        for tensor in (1, 2, 4)
    ]
    shapes = [
        here
        for here in shapes
        if memory_fit(here).fits and parallelism_problem(here.model, here.gpu, here.parallelism) is None
    ][:1000]
    assert len(shapes) == 1000
    together = capacities(shapes, CHAT, INTERACTIVE)
    for index in range(0, 1000, 50):
        alone = capacity(shapes[index], CHAT, INTERACTIVE)
        assert together[index].max_num_seqs == alone.max_num_seqs
        assert together[index].max_rate_per_second == pytest.approx(alone.max_rate_per_second, rel=1e-9)


def test_no_shapes_no_answers() -> None:
    assert capacities([], CHAT, INTERACTIVE) == []


def test_unlimited_classes_report_means() -> None:
    found = predict(H100_8B, CHAT, LatencyTargets(), 5.0, 128)
    assert found.end_to_end_seconds == found.mean_end_to_end_seconds
    assert 5 * found.mean_end_to_end_seconds == pytest.approx(found.concurrency, rel=0.05)  # Little


def test_an_answer_does_not_depend_on_what_else_is_asked() -> None:
    """To the last bit: equal facts must give equal plans, whatever was asked before."""
    shapes = [
        ReplicaShape(CATALOG.model(model), CATALOG.precision("fp8"), CATALOG.gpu(gpu), Parallelism(tensor, 1), 8192)
        for model in sorted(CATALOG.models)[::12]
        for gpu in sorted(CATALOG.gpus)[::6]
        for tensor in (1, 4)
    ]
    targets = LatencyTargets(ttft=LatencyTarget(1.0, 95), tpot=LatencyTarget(0.05, 95))
    lengths = TokenLengths(1000, 250, 2000, 600)
    assert capacities(shapes, lengths, targets) == [capacity(shape, lengths, targets) for shape in shapes]
