"""Step times against measured latencies and published anchors."""

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plimsoll.catalog import load_catalog
from plimsoll.performance import Parallelism, ReplicaShape, RooflineSteps, coefficient_set, memory_fit

CATALOG = load_catalog()
STEPS = RooflineSteps()
ROOT = Path(__file__).parents[3]
LLAMA_8B, LLAMA_70B = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"
ARGONNE_MODELS = {
    "meta-llama/Llama-2-7b-hf": "meta-llama/Llama-2-7b-chat-hf",
    "meta-llama/Llama-2-70b-hf": "meta-llama/Llama-2-70b-chat-hf",
    "mistralai/Mistral-7B-v0.1": "mistralai/Mistral-7B-Instruct-v0.3",
    "meta-llama/Meta-Llama-3-8B": LLAMA_8B,
    "meta-llama/Meta-Llama-3-70B": LLAMA_70B,
}
"""The same architectures under the names of the catalog."""


def data_path(name: str) -> Path:
    """A file of the shared data; elsewhere the test is skipped, but never in CI."""
    path = Path(os.environ.get("PLIMSOLL_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.exists():
        message = f"measured data are not there: {path} (set PLIMSOLL_DATA)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return path


def shape(model: str, gpu: str, precision: str = "bf16", tensor: int = 1, pipeline: int = 1) -> ReplicaShape:
    return ReplicaShape(
        CATALOG.model(model), CATALOG.precision(precision), CATALOG.gpu(gpu), Parallelism(tensor, pipeline), 4096
    )


def decode(shape: ReplicaShape, batch: float, context: float = 1024) -> float:
    return float(STEPS.decode_step_seconds(shape, np.array([batch]), np.array([context]))[0])


def prefill(shape: ReplicaShape, tokens: float, batch: float = 1) -> float:
    return float(STEPS.prefill_seconds(shape, np.array([tokens]), np.array([batch]))[0])


@pytest.mark.parametrize(
    ("hardware", "gpu", "rows", "median", "p90"),
    [("Nvidia A100 GPU", "A100-SXM-40GB", 150, 0.05, 0.12), ("Nvidia H100 GPU", "H100-SXM-80GB", 200, 0.05, 0.15)],
)
def test_batch_latencies_agree_with_argonnes_measurements(
    hardware: str, gpu: str, rows: int, median: float, p90: float
) -> None:
    """All vLLM rows whose KV cache fits. The coefficients come from these rows: this guards the code, not the fit."""
    errors = []
    with data_path("argonne_llm_inference_bench/All_results.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["Hardware"], row["Framework"]) != (hardware, "vLLM") or row["Model"] not in ARGONNE_MODELS:
                continue
            tensor, batch = int(row["Num of Hardware"]), int(row["Batch Size"])
            length = int(row["Input Output Length"])
            here = shape(ARGONNE_MODELS[row["Model"]], gpu, tensor=tensor)
            if memory_fit(replace(here, max_model_length=16)).kv_tokens < 2 * batch * length:
                continue
            seconds = prefill(here, length, batch) + (length - 1) * decode(here, batch, 1.5 * length)
            errors.append(abs(seconds / float(row["Latency"]) - 1))
    assert len(errors) >= rows
    assert np.median(errors) < median
    assert np.quantile(errors, 0.9) < p90


@pytest.mark.parametrize(("gpu", "at_most"), [("A100-SXM-40GB", 0.1), ("H100-SXM-80GB", 0.1)])
def test_time_to_first_token_agrees_with_argonnes_measurements(gpu: str, at_most: float) -> None:
    name = f"Nvidia {gpu[:4]} GPU"
    found = 0
    with data_path("argonne_llm_inference_bench/all_results_TTFT_ITL.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(line for line in file if line.strip()):
            if (row["Hardware"], row["Framework"]) == (name, "vLLM"):
                seconds = prefill(shape(ARGONNE_MODELS[row["Model"]], gpu), 1024, 16)
                assert seconds == pytest.approx(float(row["TTFT Latency"]), rel=at_most)
                found += 1
    assert found == 3


def test_anchors() -> None:
    assert 0.007 < decode(shape(LLAMA_8B, "H100-SXM-80GB"), 1) < 0.0085
    assert 0.012 < decode(shape(LLAMA_8B, "A100-SXM-40GB"), 1) < 0.016
    assert 0.017 < decode(shape(LLAMA_70B, "H100-SXM-80GB", tensor=4), 1) < 0.022


def test_pipeline_stages_do_not_shorten_the_way_of_a_token() -> None:
    one, two = shape(LLAMA_8B, "A100-SXM-80GB"), shape(LLAMA_8B, "A100-SXM-80GB", pipeline=2)
    assert decode(one, 1) < decode(two, 1) < 1.1 * decode(one, 1)
    assert prefill(one, 2048) < prefill(two, 2048)


def test_tensor_parallelism_pays_less_over_pcie() -> None:
    nvlink, pcie = (
        decode(shape(LLAMA_8B, gpu), 1) / decode(shape(LLAMA_8B, gpu, tensor=4), 1)
        for gpu in ("A100-SXM-80GB", "A100-PCIe-80GB")
    )
    assert 1 < pcie < nvlink < 4
    nvlink, pcie = (
        prefill(shape(LLAMA_70B, gpu), 4096) / prefill(shape(LLAMA_70B, gpu, tensor=4), 4096)
        for gpu in ("A100-SXM-80GB", "A100-PCIe-80GB")
    )
    assert 1 < pcie < 0.75 * nvlink < 3


def test_small_batches_touch_few_experts() -> None:
    mixtral = next(name for name in sorted(CATALOG.models) if "Mixtral-8x7B" in name)
    here = shape(mixtral, "H100-SXM-80GB", tensor=2)
    dense = replace(
        here, model=replace(here.model, active_parameters=here.model.parameters, experts=0, experts_per_token=0)
    )
    assert decode(here, 1) < 0.5 * decode(dense, 1)
    assert decode(here, 32) == pytest.approx(decode(dense, 32), rel=0.05)
    assert prefill(here, 4096) < 0.5 * prefill(dense, 4096)


def test_fewer_bytes_decode_faster() -> None:
    bf16, fp8, int4 = (decode(shape(LLAMA_8B, "H100-SXM-80GB", name), 1) for name in ("bf16", "fp8", "int4"))
    assert int4 < fp8 < bf16


def test_a_gpu_without_the_compute_precision_computes_at_sixteen_bits() -> None:
    bf16, fp8 = (prefill(shape(LLAMA_8B, "A100-SXM-80GB", name), 4096) for name in ("bf16", "fp8"))
    assert fp8 == pytest.approx(bf16, rel=0.01)


def test_quantised_weights_gain_less_than_their_bytes_promise() -> None:
    bf16, fp8 = (shape(LLAMA_8B, "H100-SXM-80GB", name) for name in ("bf16", "fp8"))
    read = STEPS.terms(bf16).read / STEPS.terms(fp8).read
    assert 1.5 < read < bf16.model.weights_bytes(2.0) / fp8.model.weights_bytes(1.0)


def test_a_hop_between_stages_takes_longer_over_a_slower_link() -> None:
    """Per token; the latency of a hop is the engine's."""
    alone, nvlink, pcie = (
        STEPS.terms(shape(LLAMA_70B, gpu, pipeline=stages)).token
        for gpu, stages in (("A100-SXM-80GB", 1), ("A100-SXM-80GB", 4), ("A100-PCIe-80GB", 4))
    )
    assert alone == 0 < nvlink < pcie


def test_measured_gpus_have_their_own_coefficients_and_others_pooled_ones() -> None:
    assert coefficient_set(CATALOG.gpu("A100-PCIe-80GB")).name == "A100"
    assert coefficient_set(CATALOG.gpu("MI300X")).rows > 400
    a10 = coefficient_set(CATALOG.gpu("A10"))
    assert (a10.name, a10.rows, a10.median_error) == ("nvidia", 0, None)
    assert coefficient_set(CATALOG.gpu("MI355X")).name == "amd"


@pytest.mark.parametrize("name", sorted(CATALOG.gpus))
def test_every_gpu_of_the_catalog_has_coefficients_that_can_be(name: str) -> None:
    found = coefficient_set(CATALOG.gpu(name))
    use = found.coefficients
    for share in (use.weights_efficiency, use.kv_efficiency, use.compute_efficiency, use.prefill_efficiency):
        assert 0.03 < share < 1
    assert 0 <= use.query_group_cost < 2
    assert 0.0005 < use.step_seconds < 0.01
    assert 0 < use.sequence_seconds < 0.001
    assert use.quantised_efficiency <= 1
    assert found.source


@given(
    st.sampled_from(sorted(CATALOG.gpus)),
    st.sampled_from([LLAMA_8B, "mistralai/Mixtral-8x7B-Instruct-v0.1", "deepseek-ai/DeepSeek-V2-Lite-Chat"]),
    st.sampled_from([(1, 1), (2, 1), (4, 1), (1, 2), (2, 4)]),
    st.integers(1, 10_000),
)
def test_steps_keep_what_the_queue_rests_on(gpu: str, model: str, degrees: tuple[int, int], context: int) -> None:
    """More work takes no less time; company never makes a sequence dearer."""
    here = shape(model, gpu, tensor=degrees[0], pipeline=degrees[1])
    batches = np.arange(1.0, 300.0)
    steps = STEPS.decode_step_seconds(here, batches, np.full_like(batches, float(context)))
    assert np.all(np.diff(steps) >= -1e-12)
    assert np.all(np.diff(steps / batches) <= 1e-12)
    longer = STEPS.decode_step_seconds(here, batches, np.full_like(batches, context + 1.0))
    assert np.all(longer >= steps)
    prompts = STEPS.prefill_seconds(here, np.arange(1.0, 10_000.0, 13), np.ones(1))
    assert np.all(np.diff(prompts) >= 0)


def test_arrays_are_answered_elementwise() -> None:
    here = shape(LLAMA_8B, "H100-SXM-80GB", tensor=2)
    batches, contexts = np.array([1.0, 7.0, 64.0]), np.array([100.0, 2000.0, 30.0])
    together = STEPS.decode_step_seconds(here, batches, contexts)
    assert together == pytest.approx([decode(here, b, c) for b, c in zip(batches, contexts, strict=True)])
    together = STEPS.prefill_seconds(here, contexts, batches)
    assert together == pytest.approx([prefill(here, c, b) for b, c in zip(batches, contexts, strict=True)])
