"""The simulator's step times are the planner's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.catalog import load_catalog
from plimsoll.performance import ANALYTIC_STEPS, Parallelism, ReplicaShape, step_timer

CATALOG = load_catalog()
SHAPES = [
    ReplicaShape(CATALOG.model(model), CATALOG.precision(precision), CATALOG.gpu(gpu), Parallelism(*degrees), 4096)
    for model, precision, gpu, degrees in (
        ("meta-llama/Llama-3.1-8B-Instruct", "bf16", "A100-SXM-80GB", (1, 1)),
        ("meta-llama/Llama-3.1-70B-Instruct", "fp8", "H100-SXM-80GB", (4, 1)),
        ("meta-llama/Llama-2-7b-chat-hf", "bf16", "L40S", (2, 2)),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "bf16", "MI300X", (1, 4)),
    )
]
shapes = st.sampled_from(SHAPES)
batches = st.integers(1, 300)
lengths = st.integers(1, 8000)


@given(shapes, batches, st.floats(0, 10_000))
def test_decode_steps_are_the_models(shape: ReplicaShape, batch: int, context: float) -> None:
    fixed, slope = step_timer(shape).decode(batch)
    there = ANALYTIC_STEPS.decode_step_seconds(shape, np.array([float(batch)]), np.array([context]))[0]
    assert fixed + slope * batch * context == pytest.approx(there)


@given(shapes, lengths)
def test_a_prompt_alone_is_the_models_prefill(shape: ReplicaShape, length: int) -> None:
    there = ANALYTIC_STEPS.prefill_seconds(shape, np.array([float(length)]), np.array([1.0]))[0]
    assert step_timer(shape).mixed(0, 0.0, length, length * length / 2) == pytest.approx(there)


@given(shapes, batches, st.floats(0, 1e6), lengths)
def test_riding_along_is_cheaper_than_two_steps_and_dearer_than_either(
    shape: ReplicaShape, running: int, context: float, chunk: int
) -> None:
    timer = step_timer(shape)
    fixed, slope = timer.decode(running)
    decode, prefill = fixed + slope * context, timer.mixed(0, 0.0, chunk, chunk * chunk / 2)
    together = timer.mixed(running, context, chunk, chunk * chunk / 2)
    assert max(decode, prefill) <= together <= (decode + prefill) * (1 + 1e-9)


@given(shapes, st.integers(2, 6000), st.floats(0.1, 0.9))
def test_chunks_cost_what_the_prompt_costs_and_a_step_more(shape: ReplicaShape, length: int, cut: float) -> None:
    timer = step_timer(shape)
    first = max(1, int(cut * length))
    rest = length - first
    whole = timer.mixed(0, 0.0, length, length * length / 2)
    chunked = timer.mixed(0, 0.0, first, first * first / 2) + timer.mixed(0, 0.0, rest, rest * (first + rest / 2))
    assert whole < chunked <= 2.2 * whole + 2 * sum(timer.decode(1))
