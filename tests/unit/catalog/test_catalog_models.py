"""Model architectures: complete, sourced, and consistent with their own parameter counts."""

import json
import os
import pickle
from dataclasses import fields, replace
from pathlib import Path

import pytest

from plimsoll.catalog import ModelArchitecture, UnknownName, load_catalog

CATALOG = load_catalog()
MODELS = CATALOG.models
EVERY_MODEL = pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.name)
DENSE = pytest.mark.parametrize("model", [m for m in MODELS.values() if m.experts == 0], ids=lambda model: model.name)
MIXTURES = pytest.mark.parametrize("model", [m for m in MODELS.values() if m.experts], ids=lambda model: model.name)
KIBIBYTE = 1024
GIBIBYTE = 2**30

SIGLIP = 416_866_032  # SigLIP So400m/14 at 896 pixels, without its head
VISION_PARAMETERS = {
    "google/gemma-3-4b-it": SIGLIP + 1152 * 2560 + 1152,
    "google/gemma-3-12b-it": SIGLIP + 1152 * 3840 + 1152,
    "google/gemma-3-27b-it": SIGLIP + 1152 * 5376 + 1152,
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": 438_958_080,
}
PEERS = Path(os.environ.get("PLIMSOLL_DATA", Path(__file__).parents[4] / "shared" / "data")) / "peer_cases"


def text_parameters(model: ModelArchitecture) -> int:
    """Embeddings, attention with its biases and norms left out, and gated feed-forward of a dense Llama-like model."""
    query, key_value = model.attention_heads * model.head_size, model.kv_heads * model.head_size
    attention = model.hidden_size * (2 * query + 2 * key_value)
    feed_forward = 3 * model.hidden_size * model.intermediate_size
    embeddings = model.vocabulary_size * model.hidden_size * (1 if model.tied_embeddings else 2)
    return embeddings + model.layers * (attention + feed_forward)


def test_there_are_many_models():
    assert len(MODELS) >= 44


@EVERY_MODEL
def test_every_figure_has_a_source(model: ModelArchitecture):
    optional = {
        "checkpoints": bool(model.checkpoints),
        "unquantised_parameters": model.unquantised_parameters is not None,
    }
    figures = {field.name for field in fields(model)} - {"name", "sources"}
    figures -= {name for name, given in optional.items() if not given}
    assert set(model.sources) == figures
    assert all(model.sources.values())


@EVERY_MODEL
def test_figures_are_consistent(model: ModelArchitecture):
    assert model.attention_heads % model.kv_heads == 0
    assert model.active_parameters <= model.parameters
    assert (model.active_parameters == model.parameters) == (model.experts == 0)
    assert model.experts_per_token <= model.experts
    assert model.latent_attention == (model.kv_elements_per_token_per_layer != 2 * model.kv_heads * model.head_size)
    assert model.native_precision in CATALOG.precisions
    assert set(model.checkpoints) <= set(CATALOG.precisions)
    assert model.license


@DENSE
def test_parameters_of_dense_models_follow_from_their_shape(model: ModelArchitecture):
    recomputed = text_parameters(model) + VISION_PARAMETERS.get(model.name, 0)
    assert recomputed == pytest.approx(model.parameters, rel=0.001)


@MIXTURES
def test_active_parameters_are_those_without_idle_experts(model: ModelArchitecture):
    expert = 3 * model.hidden_size * model.intermediate_size
    sparse_layers = (model.parameters - model.active_parameters) / ((model.experts - model.experts_per_token) * expert)
    assert 0.49 * model.layers < sparse_layers < 1.05 * model.layers


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", 12.9),
        ("mistralai/Mixtral-8x22B-Instruct-v0.1", 39),
        ("Qwen/Qwen3-30B-A3B", 3.3),
        ("Qwen/Qwen3-235B-A22B", 22),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", 17),
        ("meta-llama/Llama-4-Maverick-17B-128E-Instruct", 17),
        ("deepseek-ai/DeepSeek-V3", 37),
    ],
)
def test_active_parameters_are_those_of_the_model_card(name: str, billions: float):
    assert CATALOG.model(name).active_parameters / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize(
    ("name", "kibibytes"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", 32),
        ("meta-llama/Llama-3.2-3B-Instruct", 112),
        ("meta-llama/Llama-3.1-8B-Instruct", 128),
        ("meta-llama/Llama-3.3-70B-Instruct", 320),
        ("meta-llama/Llama-3.1-405B-Instruct", 504),
    ],
)
def test_kv_bytes_per_token(name: str, kibibytes: int):
    """vendors' data sheets."""
    model = CATALOG.model(name)
    assert model.kv_bytes_per_token() == kibibytes * KIBIBYTE
    assert model.kv_bytes_per_token(1.0) == kibibytes * KIBIBYTE / 2


def test_latent_attention_caches_little():
    """0.65446 GiB per 10,000 tokens (llm-d-planner)."""
    model = CATALOG.model("deepseek-ai/DeepSeek-R1-0528")
    assert model.latent_attention
    assert 10_000 * model.kv_bytes_per_token() / GIBIBYTE == pytest.approx(0.65446, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "precision", "gibibytes", "tolerance"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "bf16", 14.99, 0.003),
        ("meta-llama/Llama-3.1-8B-Instruct", "fp8", 8.49, 0.005),  # quantised on load by vLLM 0.19
        ("Qwen/Qwen3-8B", "fp8", 8.79029, 0.001),
        ("Qwen/Qwen2.5-0.5B-Instruct", "bf16", 0.92021, 0.001),
        ("openai/gpt-oss-20b", "int4", 12.81618, 0.001),
        ("Qwen/Qwen3-8B", "int4", 5.68, 0.02),  # AWQ, groups of 128
    ],
)
def test_weights_agree_with_measured_checkpoints(name: str, precision: str, gibibytes: float, tolerance: float):
    """Measured by llm-d-planner; the last one is KAITO's catalogue."""
    weights = CATALOG.model(name).weights_bytes(CATALOG.precision(precision).bytes_per_parameter)
    assert weights / GIBIBYTE == pytest.approx(gibibytes, rel=tolerance)


def test_shapes_and_sizes_agree_with_kaito():
    file = PEERS / "kaito_node_fit.json"
    if not file.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{file} is missing")
        pytest.skip(f"{file} is missing")
    compared = 0
    for theirs in json.loads(file.read_text())["models"]:
        ours = MODELS.get(theirs["name"])
        if ours is None or ours.latent_attention or ours.native_precision != "bf16":
            continue
        compared += 1
        assert ours.kv_bytes_per_token() == theirs["kv_bytes_per_token_fp16"]
        assert (ours.layers, ours.kv_heads) == (theirs["layers"], theirs["kv_heads"])
        assert ours.weights_bytes(2.0) / GIBIBYTE == pytest.approx(theirs["weights_GiB"], rel=0.01)
    assert compared >= 8


def test_checkpoints():
    dense = CATALOG.model("meta-llama/Llama-3.1-8B-Instruct")
    assert dense.checkpoint("bf16") == dense.name
    assert dense.checkpoint("int8") == "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w8a8"
    nemo = CATALOG.model("mistralai/Mistral-Nemo-Instruct-2407")
    assert nemo.checkpoint("fp8") == nemo.name  # quantised while loading
    assert nemo.checkpoint("int8") is None
    quantised = CATALOG.model("openai/gpt-oss-120b")
    assert quantised.checkpoint("int4") == quantised.name
    assert quantised.checkpoint("bf16") is None
    assert quantised.checkpoint("fp8") is None


def test_a_misspelt_model_names_the_nearest():
    with pytest.raises(UnknownName) as caught:
        CATALOG.model("meta-llama/Llama-3.1-8B-Instuct")
    assert (caught.value.kind, caught.value.name) == ("model", "meta-llama/Llama-3.1-8B-Instuct")
    assert str(caught.value).startswith(
        'unknown model "meta-llama/Llama-3.1-8B-Instuct"; nearest: "meta-llama/Llama-3.1-8B-Instruct"'
    )


@pytest.mark.parametrize("name", ["Llama-3.1-8B-Instruct", "unsloth/llama-3.1-8b-instruct"])
def test_a_model_without_or_of_another_organisation_names_the_nearest(name: str):
    with pytest.raises(UnknownName) as caught:
        CATALOG.model(name)
    assert caught.value.nearest == ("meta-llama/Llama-3.1-8B-Instruct",)


def test_unknown_names_without_anything_alike():
    with pytest.raises(UnknownName) as caught:
        CATALOG.model("zzz")
    assert str(caught.value) == 'unknown model "zzz"'


def test_unknown_names_survive_the_way_back_from_a_child_process():
    error = pickle.loads(pickle.dumps(UnknownName("model", "a", ("b",))))
    assert str(error) == 'unknown model "a"; nearest: "b"'


def test_models_are_found_in_any_case():
    assert CATALOG.model("QWEN/qwen3-8b").name == "Qwen/Qwen3-8B"


def test_additions_win_and_leave_the_original_alone():
    own = replace(CATALOG.model("Qwen/Qwen3-8B"), name="qwen/QWEN3-8B", context_length=1)
    extended = CATALOG.with_model(own)
    assert extended.model("Qwen/Qwen3-8B") is own
    assert len(extended.models) == len(MODELS)
    assert CATALOG.model("Qwen/Qwen3-8B").context_length == 40960
    faster = replace(CATALOG.gpu("L4"), memory_bandwidth_bytes_per_second=1e12)
    assert CATALOG.with_gpu(faster).gpu("L4") is faster
    assert CATALOG.gpu("L4") is not faster


def test_the_catalog_is_read_once_and_can_be_pickled():
    assert load_catalog() is CATALOG
    assert pickle.loads(pickle.dumps(CATALOG)) == CATALOG
