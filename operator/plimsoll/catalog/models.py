"""Model architectures: the figures from which memory and speed are computed."""

from collections.abc import Mapping
from dataclasses import dataclass

_UNQUANTISED_BYTES = 2.0
"""Bytes per parameter of what quantised checkpoints leave alone (bf16)."""


@dataclass(frozen=True, slots=True)
class ModelArchitecture:
    """A decoder-only transformer as its `config.json` describes it."""

    name: str
    """Hugging Face name."""
    parameters: int
    """Parameters in memory: all experts and vision towers; tied embeddings counted once."""
    active_parameters: int
    """Parameters that one text token passes through, embeddings included; equals `parameters` for a dense model."""
    layers: int
    hidden_size: int
    attention_heads: int
    kv_heads: int
    head_size: int
    experts: int
    """Routed experts of a block; 0 for a dense model."""
    experts_per_token: int
    vocabulary_size: int
    context_length: int
    """Longest sequence in tokens (max_position_embeddings)."""
    tied_embeddings: bool
    kv_elements_per_token_per_layer: int
    """Elements of the KV cache: 2 x kv_heads x head_size. With latent attention the latent vector and the rotary key,
    which tensor parallelism replicates. Sliding windows are not deducted, so it is an upper bound for Gemma, gpt-oss
    and Llama 4."""
    latent_attention: bool
    """Multi-head latent attention (DeepSeek): the KV cache is not split by tensor parallelism."""
    native_precision: str
    """Precision of the published checkpoint. The MXFP4 of gpt-oss counts as int4."""
    license: str
    gated: bool
    """Whether the download needs a Hugging Face token and an accepted licence."""
    checkpoints: Mapping[str, str]
    """Precision -> a published checkpoint in it."""
    sources: Mapping[str, str]
    """Where each figure comes from, by field name."""
    intermediate_size: int = 0
    """Width of the feed-forward network, of one expert in a mixture of experts; 0 when not known."""
    unquantised_parameters: int | None = None
    """Parameters that stay bf16 when the others are quantised. When None: input embeddings and untied output head,
    which vLLM's fp8 and the usual int8 and int4 checkpoints leave alone."""

    def kv_bytes_per_token(self, kv_bytes_per_element: float = 2.0) -> float:
        """Bytes that one token occupies in the KV caches of all layers together, before any split over GPUs."""
        return self.layers * self.kv_elements_per_token_per_layer * kv_bytes_per_element

    def weights_bytes(self, bytes_per_parameter: float) -> float:
        """Bytes of all weights, before any split over GPUs.

        Below two bytes per parameter the unquantised ones keep two. Measured: Llama-3.1-8B with fp8 on load takes
        8.49 GiB, this formula gives 8.46 GiB, and parameters x 1 byte only 7.48 GiB (llm-d-planner, vLLM 0.19).
        """
        if bytes_per_parameter >= _UNQUANTISED_BYTES:
            return self.parameters * bytes_per_parameter
        kept = self._kept_parameters()
        return (self.parameters - kept) * bytes_per_parameter + kept * _UNQUANTISED_BYTES

    def checkpoint(self, precision: str) -> str | None:
        """The checkpoint to load for `precision`, or None when the catalog knows none.

        A bf16 model may be loaded as fp8 from its own checkpoint: vLLM quantises it while loading. A model that was
        published quantised cannot be had in bf16 that way.
        """
        if precision == self.native_precision:
            return self.name
        known = self.checkpoints.get(precision)
        if known is not None:
            return known
        return self.name if precision in ("fp8", "fp16") and self.native_precision == "bf16" else None

    def _kept_parameters(self) -> int:
        if self.unquantised_parameters is not None:
            return self.unquantised_parameters
        embeddings = self.vocabulary_size * self.hidden_size * (1 if self.tied_embeddings else 2)
        return min(self.parameters, embeddings)
