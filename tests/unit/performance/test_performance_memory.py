"""What fits: weights, reserve and KV cache against measurements of vLLM and against other tools' rules."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from plimsoll.catalog import load_catalog
from plimsoll.performance import MemoryFit, Parallelism, ReplicaShape, load_seconds, memory_fit, parallelism_problem
from plimsoll.performance.memory import KV_BLOCK_TOKENS, kv_bytes_per_token_per_gpu, reserve_bytes

CATALOG = load_catalog()
GIB = 2**30
ROOT = Path(__file__).parents[3]
LLAMA_8B, LLAMA_70B = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"


def data_path(name: str) -> Path:
    """A file of the shared data; elsewhere the test is skipped, but never in CI."""
    path = Path(os.environ.get("PLIMSOLL_DATA", ROOT.parent / "shared" / "data")) / name
    if not path.exists():
        message = f"measured data are not there: {path} (set PLIMSOLL_DATA)"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    return path


def shape(
    model: str, gpu: str, precision: str = "bf16", tensor: int = 1, pipeline: int = 1, length: int = 8192
) -> ReplicaShape:
    return ReplicaShape(
        CATALOG.model(model), CATALOG.precision(precision), CATALOG.gpu(gpu), Parallelism(tensor, pipeline), length
    )


def test_memory_agrees_with_vllm_as_measured() -> None:
    cases = json.loads(data_path("peer_cases/llmd_planner_memory.json").read_text(encoding="utf-8"))["measured"]
    measured_gpu = replace(CATALOG.gpu("H100-SXM-80GB"), memory_bytes=int(79.19 * GIB))
    compared = 0
    for case in cases:
        if case["model"] not in CATALOG.models:
            continue
        note = case.get("note", "")
        precision = CATALOG.precision("fp8" if "quantization fp8" in note else "bf16")
        if "kv-cache-dtype fp8" in note:
            precision = replace(precision, kv_bytes_per_element=1.0)
        if "float32" in note:
            precision = replace(precision, bytes_per_parameter=4.0, kv_bytes_per_element=4.0)
        parallelism = Parallelism(case["tp"], case["pp"])
        fit = memory_fit(ReplicaShape(CATALOG.model(case["model"]), precision, measured_gpu, parallelism, 8192), 0.95)
        assert fit.weights_bytes_per_gpu / GIB == pytest.approx(case["weight_GiB_per_gpu"], rel=0.02), case
        if case["activation_GiB"] is not None and case["pp"] == 1:
            reserve = case["activation_GiB"] + case["non_torch_GiB"]
            assert fit.reserve_bytes_per_gpu / GIB == pytest.approx(reserve, rel=0.1), case
        if "kv_pool_GiB_per_gpu" in case:
            assert fit.kv_bytes_per_gpu / GIB == pytest.approx(case["kv_pool_GiB_per_gpu"], rel=0.02), case
        if "kv_tokens" in case:
            assert fit.kv_tokens == pytest.approx(case["kv_tokens"], rel=0.01), case
        compared += 1
    assert compared >= 10


@pytest.mark.parametrize(
    ("architecture", "model", "off_by"),
    [
        ("LlamaForCausalLM", LLAMA_8B, 0.02),
        ("Qwen2ForCausalLM", "Qwen/Qwen2.5-7B-Instruct", 0.02),
        ("GraniteForCausalLM", "ibm-granite/granite-3.1-8b-instruct", 0.02),
        ("Phi3ForCausalLM", "microsoft/phi-4", 0.05),
        ("Gemma2ForCausalLM", "google/gemma-2-9b-it", 0.05),
        ("Gemma3ForCausalLM", "google/gemma-3-12b-it", 0.05),
        ("Mistral3ForConditionalGeneration", "mistralai/Mistral-Small-3.2-24B-Instruct-2506", 0.1),
        ("MixtralForCausalLM", "mistralai/Mixtral-8x7B-Instruct-v0.1", 0.05),
        ("Qwen3MoeForCausalLM", "Qwen/Qwen3-30B-A3B", 0.05),
        ("DeepseekV2ForCausalLM", "deepseek-ai/DeepSeek-V2-Lite-Chat", 0.05),
    ],
)
def test_activations_agree_with_vllm_as_measured(architecture: str, model: str, off_by: float) -> None:
    measured = json.loads(data_path("peer_cases/llmd_planner_memory.json").read_text(encoding="utf-8"))
    gpu, one = CATALOG.gpu("H100-SXM-80GB"), Parallelism(1, 1)
    reserve = reserve_bytes(CATALOG.model(model), gpu, one, 0.9) / GIB - measured["non_torch_GiB"]["tp1_pp1"]
    assert reserve == pytest.approx(measured["activation_GiB_by_architecture"][architecture], rel=off_by)


@pytest.mark.parametrize(("tensor", "pool_gib", "blocks"), [(1, 68.89, 376_231), (2, 68.09, 743_724)])
def test_kv_blocks_are_counted_as_vllm_counts_them(tensor: int, pool_gib: float, blocks: int) -> None:
    """Qwen2.5-0.5B has two KV heads, which two ranks share (data/peer_cases/llmd_planner_memory.json)."""
    here = shape("Qwen/Qwen2.5-0.5B-Instruct", "H100-SXM-80GB", tensor=tensor)
    assert pool_gib * GIB / kv_bytes_per_token_per_gpu(here) / KV_BLOCK_TOKENS == pytest.approx(blocks, rel=1e-3)


def test_never_fewer_gpus_than_the_weights_alone_need() -> None:
    """KAITO's cases: wherever ours says that a node's GPUs suffice, the weights really fit its memory."""
    case = json.loads(data_path("peer_cases/kaito_node_fit.json").read_text(encoding="utf-8"))
    known = [model for model in case["models"] if model["name"] in CATALOG.models]
    assert known
    for model in known:
        for instance in case["instances"]:
            per_gpu = instance["total_GPU_GiB"] * GIB / instance["gpus"]
            gpu = replace(CATALOG.gpu("A100-SXM-80GB"), memory_bytes=int(per_gpu))
            for tensor in (1, 2, 4, 8):
                here = Parallelism(tensor, 1)
                architecture = CATALOG.model(model["name"])
                if tensor > instance["gpus"] or parallelism_problem(architecture, gpu, here) is not None:
                    continue
                native = CATALOG.precision(architecture.native_precision)
                if memory_fit(ReplicaShape(architecture, native, gpu, here, 8192)).fits:
                    assert architecture.weights_bytes(native.bytes_per_parameter) < tensor * per_gpu


@pytest.mark.parametrize(
    ("model", "gpu", "precision", "tensor", "length", "fits"),
    [
        (LLAMA_8B, "H100-SXM-80GB", "bf16", 1, 131072, True),
        (LLAMA_8B, "L4", "bf16", 1, 8192, True),
        (LLAMA_8B, "L4", "bf16", 1, 131072, False),
        (LLAMA_70B, "H100-SXM-80GB", "bf16", 1, 512, False),
        (LLAMA_70B, "H100-SXM-80GB", "bf16", 2, 8192, True),
        (LLAMA_70B, "H100-SXM-80GB", "bf16", 2, 32768, False),
        (LLAMA_70B, "H100-SXM-80GB", "int4", 1, 32768, True),
        (LLAMA_70B, "A100-SXM-80GB", "int4", 1, 32768, True),
        (LLAMA_70B, "H200-SXM-141GB", "bf16", 1, 512, False),
    ],
)
def test_what_fits(model: str, gpu: str, precision: str, tensor: int, length: int, fits: bool) -> None:
    fit = memory_fit(shape(model, gpu, precision, tensor, length=length))
    assert fit.fits is fits
    assert (fit.reason is None) is fits


def test_reasons_give_figures() -> None:
    assert memory_fit(shape(LLAMA_70B, "L4", tensor=2)).reason == (
        "needs 65.7 GiB of weights per GPU, an L4 gives 20.2 GiB"
    )
    too_long = memory_fit(shape(LLAMA_8B, "L4", length=131072))
    assert too_long.reason is not None
    assert str(too_long.kv_tokens) in too_long.reason
    assert "131072" in too_long.reason


def test_fp8_on_load_needs_room_for_the_bf16_weights_first() -> None:
    # 32 billion parameters: 31 GiB in fp8 fit an L40S with 43 GiB, 61 GiB in bf16 do not.
    model = replace(CATALOG.model("Qwen/Qwen2.5-32B-Instruct"), checkpoints={})
    on_load = memory_fit(replace(shape("Qwen/Qwen2.5-32B-Instruct", "L40S", "fp8"), model=model))
    published = replace(model, checkpoints={"fp8": "someone/Qwen2.5-32B-FP8"})
    from_checkpoint = memory_fit(replace(shape("Qwen/Qwen2.5-32B-Instruct", "L40S", "fp8"), model=published))
    assert not on_load.fits
    assert on_load.reason is not None
    assert "made from bf16 on load" in on_load.reason
    assert from_checkpoint.fits


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    """Qwen2.5-7B has 4 KV heads: tensor degree 4 divides its cache, more would only copy it."""
    model = replace(CATALOG.model("Qwen/Qwen2.5-7B-Instruct"), attention_heads=32, kv_heads=4)
    per_token = []
    for tensor in (2, 4, 8):
        fit = memory_fit(replace(shape("Qwen/Qwen2.5-7B-Instruct", "H100-SXM-80GB", tensor=tensor), model=model))
        per_token.append(fit.kv_bytes_per_gpu / fit.kv_tokens)
    assert per_token[0] == pytest.approx(2 * per_token[1], rel=1e-3)
    assert per_token[2] == pytest.approx(per_token[1], rel=1e-3)


def test_a_latent_cache_is_not_divided() -> None:
    names = [name for name in CATALOG.models if CATALOG.model(name).latent_attention]
    assert names
    model = replace(CATALOG.model(names[0]), parameters=10**10, active_parameters=10**10, experts=0)
    two, four = (memory_fit(replace(shape(names[0], "B200", tensor=tensor), model=model)) for tensor in (2, 4))
    assert two.kv_bytes_per_gpu / two.kv_tokens == pytest.approx(four.kv_bytes_per_gpu / four.kv_tokens, rel=1e-3)


def test_the_first_and_last_stage_carry_more_than_their_share() -> None:
    whole: MemoryFit = memory_fit(shape(LLAMA_8B, "H100-SXM-80GB"))
    quarter = memory_fit(shape(LLAMA_8B, "H100-SXM-80GB", pipeline=4))
    assert whole.weights_bytes_per_gpu / 4 < quarter.weights_bytes_per_gpu < whole.weights_bytes_per_gpu / 3


@pytest.mark.parametrize(
    ("gpu", "tensor", "pipeline", "problem"),
    [
        ("H100-SXM-80GB", 1, 1, None),
        ("H100-SXM-80GB", 8, 4, None),
        ("H100-SXM-80GB", 3, 1, "does not divide the 32 attention heads"),
        ("H100-SXM-80GB", 1, 33, "exceeds the 32 layers"),
        ("RTX-4090", 4, 1, "exceeds 2"),
        ("H100-SXM-80GB", 0, 1, "at least 1"),
    ],
)
def test_parallelisms_that_an_engine_refuses(gpu: str, tensor: int, pipeline: int, problem: str | None) -> None:
    found = parallelism_problem(CATALOG.model(LLAMA_8B), CATALOG.gpu(gpu), Parallelism(tensor, pipeline))
    if problem is None:
        assert found is None
    else:
        assert found is not None
        assert problem in found


def test_kv_heads_that_cannot_be_shared_out() -> None:
    model = replace(CATALOG.model(LLAMA_8B), attention_heads=24, kv_heads=8)
    found = parallelism_problem(model, CATALOG.gpu("H100-SXM-80GB"), Parallelism(3, 1))
    assert found is not None
    assert "KV heads" in found


def test_loading_takes_the_start_of_the_engine_and_the_reading_of_the_checkpoint() -> None:
    assert load_seconds(shape(LLAMA_8B, "L4")) == pytest.approx(60 + 16.06, rel=0.01)
    assert load_seconds(shape(LLAMA_8B, "L4"), 2e9) == pytest.approx(60 + 8.03, rel=0.01)
    small = replace(CATALOG.model(LLAMA_8B), checkpoints={})
    assert math.isclose(
        load_seconds(replace(shape(LLAMA_8B, "L4", "fp8"), model=small)), load_seconds(shape(LLAMA_8B, "L4"))
    )
