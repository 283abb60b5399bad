"""How long the engine's steps take: the seam for measured models, and the analytic default (roofline and overheads)."""

from dataclasses import dataclass
from typing import Protocol

from plimsoll.performance.coefficients import Coefficients, allreduce, engine_coefficients, stage_hop
from plimsoll.performance.correction import UNCORRECTED
from plimsoll.performance.shapes import FloatArray, ReplicaShape
from plimsoll.performance.terms import StepTerms
from plimsoll.performance.weights import weight_bytes

SIXTEEN_BITS = 2.0
"""Bytes of what engines neither quantise nor split: hidden states; and of weights that are not quantised."""


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

    def terms(self, shape: ReplicaShape) -> StepTerms:
        """The parts that both are made of, for steps that decode and prefill at once."""
        ...


@dataclass(frozen=True, slots=True)
class RooflineSteps:
    """Steps computed from catalog facts, with efficiencies and overheads fitted to measurements.

    Form, coefficients and errors: docs/performance.md. Measured: vLLM on A100, H100, MI250 and MI300X, tensor
    parallelism, fp8 weights on H100. By reasoning and not by measurement: mixtures of experts, pipelines, int8 and int4
    weights, chunked prefill, a prefill that reads the weights at least once.
    """

    coefficients: Coefficients | None = None
    """None: those of the replica's shape, else by the GPU (`coefficient_set`)."""

    def prefill_seconds(self, shape: ReplicaShape, tokens: FloatArray, batch: FloatArray) -> FloatArray:
        """Compute of the layers and of causal attention, at least one read of the weights, and the all-reduces."""
        return self.terms(shape).prefill_seconds(tokens, batch)

    def decode_step_seconds(self, shape: ReplicaShape, batch: FloatArray, context_tokens: FloatArray) -> FloatArray:
        """Weights or compute, whichever takes longer (smoothly), KV cache, overheads and all-reduces.

        A token passes all pipeline stages one after another, so stages do not divide its time; but they work on
        different sequences at once, so each handles the batch in as many parts as there are stages.
        """
        return self.terms(shape).decode_step_seconds(batch, context_tokens)

    def terms(self, shape: ReplicaShape) -> StepTerms:
        """Seconds of each part of a step."""
        model, parallelism, gpu = shape.model, shape.parallelism, shape.gpu
        use = self._coefficients(shape)
        weights = weight_bytes(model, shape.precision.bytes_per_parameter)
        bandwidth = gpu.memory_bandwidth_bytes_per_second
        weights_speed = parallelism.tensor * bandwidth * use.weights_efficiency
        if shape.precision.bytes_per_parameter < SIXTEEN_BITS:
            weights_speed *= use.quantised_efficiency
        peak = _peak(shape)
        prefill_speed = parallelism.tensor * use.prefill_efficiency
        decode_speed = parallelism.tensor * peak * use.compute_efficiency
        divided_by = 1 if model.latent_attention else min(parallelism.tensor, model.kv_heads)
        groups = 0.0 if model.latent_attention else model.attention_heads / model.kv_heads - 1.0
        kv_bytes = model.kv_bytes_per_token(shape.precision.kv_bytes_per_element) / divided_by
        pair_operations = 4.0 * model.attention_heads * model.head_size * model.layers
        latency, token = _communication(shape, use)
        terms = StepTerms(
            read=(weights.shared + weights.head) / weights_speed,
            read_experts=weights.experts / weights_speed,
            idle_share=1.0 - weights.expert_share_per_token,
            compute_decode_token=2.0 * (weights.active_layer_parameters + weights.head_parameters) / decode_speed,
            compute_prompt_token=2.0 * weights.active_layer_parameters / (peak * prefill_speed),
            compute_pair=pair_operations / (min(peak, _sixteen_bit_peak(shape)) * prefill_speed),
            kv_token=kv_bytes * (1.0 + use.query_group_cost * groups) / (bandwidth * use.kv_efficiency),
            step=use.step_seconds + latency,
            sequence=use.sequence_seconds,
            token=token,
            stages=parallelism.pipeline,
        )
        if shape.correction == UNCORRECTED:
            return terms
        return terms.scaled(shape.correction.prefill, shape.correction.decode)

    def _coefficients(self, shape: ReplicaShape) -> Coefficients:
        return self.coefficients or shape.coefficients or engine_coefficients(shape.gpu)


ANALYTIC_STEPS: StepModel = RooflineSteps()


def _communication(shape: ReplicaShape, use: Coefficients) -> tuple[float, float]:
    """Seconds per step and per token: two all-reduces of the hidden states per layer; hops of them and the residual.

    Between nodes the ranks of a stage send a share each, so that the hidden states cross the network once.
    """
    tensor, crossings = shape.parallelism.tensor, shape.nodes - 1
    hops = shape.parallelism.pipeline - 1 - crossings
    latency, token = 0.0, 0.0
    hidden_bytes = SIXTEEN_BITS * shape.model.hidden_size
    if tensor > 1:
        reduction, count = allreduce(shape.gpu, tensor), use.allreduce_factor * 2.0 * shape.model.layers
        latency += count * reduction.latency_seconds
        token += count * hidden_bytes / reduction.bytes_per_second
    if hops:
        hop = stage_hop(shape.gpu)
        latency += hops * hop.latency_seconds
        token += hops * 2.0 * hidden_bytes / hop.bytes_per_second
    if shape.network is not None:
        latency += crossings * shape.network.latency_seconds
        token += crossings * 2.0 * hidden_bytes / shape.network.bytes_per_second
    return latency, token


def _peak(shape: ReplicaShape) -> float:
    """Peak of the precision; where the GPU has none, kernels compute at 16 bits (weights only are small)."""
    return shape.gpu.peak_flops_per_second.get(shape.precision.compute) or _sixteen_bit_peak(shape)


def _sixteen_bit_peak(shape: ReplicaShape) -> float:
    peaks = shape.gpu.peak_flops_per_second
    return peaks.get("bf16") or peaks.get("fp16") or min(peaks.values())
