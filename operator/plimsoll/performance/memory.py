"""Whether a replica fits: weights, what the engine reserves, and how many tokens the KV cache then holds."""

from dataclasses import dataclass

from plimsoll.catalog import GPU, ModelArchitecture
from plimsoll.performance.shapes import Parallelism, ReplicaShape
from plimsoll.performance.weights import first_loaded_as, stage_weight_bytes

GIB = 2**30
DEFAULT_GPU_MEMORY_UTILIZATION = 0.9
"""vLLM's own default for the share of the GPU's memory that it takes."""

# vLLM 0.19 on H100, measured (data/peer_cases/llmd_planner_memory.json).
ACTIVATION_BYTES_PER_VOCABULARY_ENTRY = 15_900.0
"""Peak activation memory follows the vocabulary (logits): 1.89 GiB for Llama (128 k), 2.2 for Qwen (152 k), 3.65-3.94
for Gemma (256 k); all within 8 %. The measured engines kept vLLM's default batch, so smaller batches need less."""
LEAST_ACTIVATION_BYTES = 0.85 * GIB
"""Granite (49 k entries): the smallest measured."""
EXPERT_ACTIVATION_BYTES = 12_300.0
"""Per routed expert of a token and element of its hidden state and of its gate and up projections: 16 bits for each of
the 8,192 tokens of vLLM's default batch on H100, of which three quarters are there at the peak. Makes the activations
of Mixtral, Qwen2 MoE, Qwen3 MoE and DeepSeek-V2-Lite within 4 %."""
RUNTIME_BYTES_ONE_RANK = 0.27 * GIB
RUNTIME_BYTES_TENSOR_PARALLEL = 2.13 * GIB
"""Outside of PyTorch: CUDA context, and NCCL buffers when ranks share layers. With pipelines 0.07 GiB were measured,
and 1.0-1.1 GiB of activations, but on a stage without logits: the last stage, which has them, decides."""
CUDA_GRAPH_BYTES = 1.04 * GIB
"""Mean of 0.51-1.85 GiB. Taken after the KV cache is sized, from the memory that the engine leaves alone."""

KV_BLOCK_TOKENS = 16
"""vLLM's KV cache block."""


@dataclass(frozen=True, slots=True)
class MemoryFit:
    """Memory of each GPU of the heaviest stage, and what the KV cache of the whole replica holds."""

    weights_bytes_per_gpu: float
    reserve_bytes_per_gpu: float
    """Activations, runtime, and the part of the CUDA graphs that finds no room elsewhere."""
    kv_bytes_per_gpu: float
    kv_tokens: int
    """Per replica."""
    fits: bool
    reason: str | None
    """Why it does not fit: a sentence with figures."""


def reserve_bytes(model: ModelArchitecture, gpu: GPU, parallelism: Parallelism, gpu_memory_utilization: float) -> float:
    """Bytes per GPU that are neither weights nor KV cache."""
    activation = max(LEAST_ACTIVATION_BYTES, _activation_bytes(model))
    runtime = RUNTIME_BYTES_TENSOR_PARALLEL if parallelism.tensor > 1 else RUNTIME_BYTES_ONE_RANK
    left_alone = gpu.memory_bytes * (1.0 - gpu_memory_utilization)
    return activation + runtime + max(0.0, CUDA_GRAPH_BYTES - left_alone)


def _activation_bytes(model: ModelArchitecture) -> float:
    logits = ACTIVATION_BYTES_PER_VOCABULARY_ENTRY * model.vocabulary_size
    return logits + EXPERT_ACTIVATION_BYTES * model.experts_per_token * (
        model.hidden_size + 2 * model.intermediate_size
    )


def kv_bytes_per_token_per_gpu(shape: ReplicaShape) -> float:
    """Bytes that one token takes in the KV cache of each GPU of the heaviest stage.

    Ranks beyond the number of KV heads hold copies; a latent cache is copied to every rank.
    """
    model, parallelism = shape.model, shape.parallelism
    layer_share = -(-model.layers // parallelism.pipeline) / model.layers
    divided_by = 1 if model.latent_attention else min(parallelism.tensor, model.kv_heads)
    return model.kv_bytes_per_token(shape.precision.kv_bytes_per_element) * layer_share / divided_by


def memory_fit(shape: ReplicaShape, gpu_memory_utilization: float = DEFAULT_GPU_MEMORY_UTILIZATION) -> MemoryFit:
    """Memory of a replica. It fits if the engine would start: one sequence of `max_model_length` fits its KV cache."""
    model, precision, gpu, parallelism = shape.model, shape.precision, shape.gpu, shape.parallelism
    budget = gpu.memory_bytes * gpu_memory_utilization
    weights = stage_weight_bytes(model, precision.bytes_per_parameter, parallelism.tensor, parallelism.pipeline)
    reserve = reserve_bytes(model, gpu, parallelism, gpu_memory_utilization)
    kv_bytes = max(0.0, budget - weights - reserve)
    kv_tokens = int(kv_bytes / kv_bytes_per_token_per_gpu(shape)) // KV_BLOCK_TOKENS * KV_BLOCK_TOKENS
    first = first_loaded_as(model, precision)
    loaded = weights
    if first.bytes_per_parameter > precision.bytes_per_parameter:
        loaded = stage_weight_bytes(model, first.bytes_per_parameter, parallelism.tensor, parallelism.pipeline)
    reason = None
    if weights > budget:
        reason = f"needs {_gib(weights)} of weights per GPU, {_article(gpu.name)} gives {_gib(budget)}"
    elif loaded > budget:
        reason = (
            f"{precision.name} is made from {first.name} on load, which at first needs {_gib(loaded)} of weights "
            f"per GPU, {_article(gpu.name)} gives {_gib(budget)}; a checkpoint in {precision.name} avoids this"
        )
    elif weights + reserve > budget:
        reason = (
            f"needs {_gib(weights)} of weights and {_gib(reserve)} for the engine per GPU, "
            f"{_article(gpu.name)} gives {_gib(budget)}"
        )
    elif kv_tokens < shape.max_model_length:
        reason = (
            f"{_gib(kv_bytes)} per GPU are left for the KV cache, which hold {kv_tokens} tokens; "
            f"the maximal model length is {shape.max_model_length}"
        )
    return MemoryFit(weights, reserve, kv_bytes, kv_tokens, reason is None, reason)


def _gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"


def _article(name: str) -> str:
    """The name with its article, by how the first letter is spoken."""
    return f"an {name}" if name[:1].upper() in "AEFHILMNORSX" else f"a {name}"
