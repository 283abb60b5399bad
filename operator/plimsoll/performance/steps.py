"""How long the engine's steps take: the seam for measured models, and the analytic default (roofline and overheads)."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from plimsoll.performance.coefficients import Coefficients, allreduce, engine_coefficients
from plimsoll.performance.shapes import FloatArray, ReplicaShape
from plimsoll.performance.weights import WeightBytes, weight_bytes

STAGE_HOP_SECONDS = 0.0005
"""From one pipeline stage to the next, engine overhead included: 0.2-0.8 ms (assumed range)."""


class StepModel(Protocol):
    """Seconds of one engine step. Arrays are broadcast against each other; each result has their common shape.

    Implementations must not fall when tokens, batch or context grow, and the time per sequence must not rise with the
    batch: the queue's service rate rests on both.
    """

    def prefill_seconds(self, shape: ReplicaShape, tokens: FloatArray, batch: FloatArray) -> FloatArray:
        """From the start of the prefill of `batch` prompts of `tokens` tokens to their first token."""
        ...

    def decode_step_seconds(self, shape: ReplicaShape, batch: FloatArray, context_tokens: FloatArray) -> FloatArray:
        """Between two tokens of each of `batch` sequences that hold `context_tokens` tokens each."""
        ...


@dataclass(frozen=True, slots=True)
class RooflineSteps:
    """Steps computed from catalog facts, with efficiencies and overheads fitted to measurements.

    Form and coefficients: fits to Argonne's LLM-Inference-Bench (vLLM on A100 and H100), all-reduce from Vidur's
    profiles; held-out end-to-end error there 3.8-4.8 % median, 12-16 % at the 90th percentile. Beyond it, by reasoning
    and not by measurement: mixtures of experts, pipelines, quantised weights, a prefill that reads the weights at
    least once.
    """

    coefficients: Coefficients | None = None
    """None: by the GPU's vendor and architecture."""

    def prefill_seconds(self, shape: ReplicaShape, tokens: FloatArray, batch: FloatArray) -> FloatArray:
        """Compute of the layers and of causal attention, at least one read of the weights, and the all-reduces."""
        model, parallelism = shape.model, shape.parallelism
        use = self._coefficients(shape)
        weights = weight_bytes(model, shape.precision.bytes_per_parameter)
        count = tokens * batch
        attention = 2.0 * count * tokens * (model.attention_heads * model.head_size * model.layers)
        sixteen_bit = min(_peak(shape), _sixteen_bit_peak(shape))
        compute = (2.0 * weights.active_layer_parameters * count / _peak(shape) + attention / sixteen_bit) / (
            parallelism.tensor * use.prefill_efficiency
        )
        touched = _touched_bytes(weights, count)
        read = touched / (parallelism.tensor * shape.gpu.memory_bandwidth_bytes_per_second * use.weights_efficiency)
        hops = STAGE_HOP_SECONDS * (parallelism.pipeline - 1)
        return _smooth_maximum(compute, read) + use.step_seconds + _communication(shape, count, use) + hops

    def decode_step_seconds(self, shape: ReplicaShape, batch: FloatArray, context_tokens: FloatArray) -> FloatArray:
        """Weights or compute, whichever takes longer (smoothly), KV cache, overheads and all-reduces.

        A token passes all pipeline stages one after another, so stages do not divide its time; but they work on
        different sequences at once, so each handles the batch in as many parts as there are stages.
        """
        model, parallelism = shape.model, shape.parallelism
        use = self._coefficients(shape)
        weights = weight_bytes(model, shape.precision.bytes_per_parameter)
        part = np.maximum(1.0, batch / parallelism.pipeline)
        bandwidth = shape.gpu.memory_bandwidth_bytes_per_second
        touched = _touched_bytes(weights, part)
        read = touched / (parallelism.tensor * bandwidth * use.weights_efficiency)
        parameters = weights.active_layer_parameters + weights.head_parameters
        compute = 2.0 * parameters * part / (parallelism.tensor * _peak(shape) * use.compute_efficiency)
        divided_by = 1 if model.latent_attention else min(parallelism.tensor, model.kv_heads)
        groups = 0.0 if model.latent_attention else model.attention_heads / model.kv_heads - 1.0
        kv_bytes = model.kv_bytes_per_token(shape.precision.kv_bytes_per_element) * part * context_tokens / divided_by
        kv = kv_bytes * (1.0 + use.query_group_cost * groups) / (bandwidth * use.kv_efficiency)
        overhead = use.step_seconds + use.sequence_seconds * part + STAGE_HOP_SECONDS * (parallelism.pipeline - 1)
        return _smooth_maximum(read, compute) + kv + overhead + _communication(shape, part, use)

    def _coefficients(self, shape: ReplicaShape) -> Coefficients:
        return self.coefficients or engine_coefficients(shape.gpu)


ANALYTIC_STEPS: StepModel = RooflineSteps()


def _smooth_maximum(first: FloatArray, second: FloatArray) -> FloatArray:
    """Fourth-power mean: crossing from bandwidth to compute is gradual in measured matrix products (Vidur)."""
    a, b = np.square(first), np.square(second)
    return np.asarray(np.sqrt(np.sqrt(a * a + b * b)))


def _touched_bytes(weights: WeightBytes, tokens: FloatArray) -> FloatArray:
    """Bytes of weights that a step reads.

    Of the experts, those that at least one token is routed to: with even routing a share of 1 - (1 - k/E)^tokens.
    """
    always = weights.shared + weights.head
    if not weights.experts:
        return np.full_like(tokens, always)
    return np.asarray(always + weights.experts * (1.0 - np.power(1.0 - weights.expert_share_per_token, tokens)))


def _communication(shape: ReplicaShape, tokens: FloatArray, use: Coefficients) -> FloatArray:
    """Two all-reduces of 16-bit hidden states per layer."""
    tensor = shape.parallelism.tensor
    if tensor == 1:
        return np.zeros_like(tokens)
    fabric = allreduce(shape.gpu, tensor)
    each = fabric.latency_seconds + 2.0 * shape.model.hidden_size * tokens / fabric.bytes_per_second
    return np.asarray(use.allreduce_factor * 2.0 * shape.model.layers * each)


def _peak(shape: ReplicaShape) -> float:
    """Peak of the precision; where the GPU has none, kernels compute at 16 bits (weights only are small)."""
    return shape.gpu.peak_flops_per_second.get(shape.precision.compute) or _sixteen_bit_peak(shape)


def _sixteen_bit_peak(shape: ReplicaShape) -> float:
    peaks = shape.gpu.peak_flops_per_second
    return peaks.get("bf16") or peaks.get("fp16") or min(peaks.values())
