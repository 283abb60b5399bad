"""Where a model's weights are: embedding, output head, what every token uses of the layers, and experts."""

from dataclasses import dataclass
from functools import lru_cache

from plimsoll.catalog import ModelArchitecture, Precision
from plimsoll.catalog.precisions import PRECISIONS
from plimsoll.performance.shapes import ReplicaShape

EMBEDDING_BYTES_PER_PARAMETER = 2.0
"""Quantised checkpoints keep embedding and output head at 16 bits (see ModelArchitecture.weights_bytes)."""


@dataclass(frozen=True, slots=True)
class WeightBytes:
    """Bytes of one copy of the weights, by which steps read them; and the parameters that a token computes with."""

    embedding: float
    """Input embedding: looked up, never read as a whole."""
    head: float
    """Output head, read in every step. The same bytes as the embedding when tied."""
    tied: bool
    shared: float
    """In the layers, used by every token."""
    experts: float
    """All routed experts of all layers; 0 for a dense model."""
    expert_share_per_token: float
    """Experts per token / experts; 1 for a dense model."""
    active_layer_parameters: float
    """Parameters of the layers that one token passes through."""
    head_parameters: float

    @property
    def layers(self) -> float:
        """All that is in the layers."""
        return self.shared + self.experts

    @property
    def total(self) -> float:
        """Bytes of the whole copy."""
        return self.layers + self.head + (0.0 if self.tied else self.embedding)


def weight_bytes(model: ModelArchitecture, bytes_per_parameter: float) -> WeightBytes:
    """Split the weights. With E experts, k of them per token: total = s + E·e and active = s + k·e give e and s."""
    return _split(
        model.parameters,
        model.active_parameters,
        model.vocabulary_size * model.hidden_size,
        model.tied_embeddings,
        model.experts,
        model.experts_per_token,
        bytes_per_parameter,
        model.weights_bytes(bytes_per_parameter),
    )


@lru_cache(maxsize=4096)
def _split(
    parameters: int,
    active_parameters: int,
    embedding_parameters: int,
    tied: bool,
    experts_in_all: int,
    experts_per_token: int,
    bytes_per_parameter: float,
    total_bytes: float,
) -> WeightBytes:
    copies = 1 if tied else 2
    embedding = embedding_parameters * max(bytes_per_parameter, EMBEDDING_BYTES_PER_PARAMETER)
    layers = max(0.0, total_bytes - copies * embedding)
    expert_parameters, share = 0.0, 1.0
    if experts_in_all > experts_per_token > 0:
        share = experts_per_token / experts_in_all
        expert_parameters = max(0.0, (parameters - active_parameters) / (1.0 - share))
    experts = min(layers, expert_parameters * bytes_per_parameter)
    return WeightBytes(
        embedding=embedding,
        head=embedding,
        tied=tied,
        shared=layers - experts,
        experts=experts,
        expert_share_per_token=share,
        active_layer_parameters=max(0.0, active_parameters - copies * embedding_parameters),
        head_parameters=float(embedding_parameters),
    )


def stage_weight_bytes(model: ModelArchitecture, bytes_per_parameter: float, tensor: int, pipeline: int) -> float:
    """Bytes of weights on each GPU of the heaviest stage.

    Layers go to stages in whole numbers; the first stage also carries the embedding and the last one the head. Tensor
    parallelism divides all of it, the vocabulary included (vLLM's VocabParallelEmbedding). Within 2 % of what vLLM 0.19
    reports for TP 1-4 and PP 1-4 (llmd_planner_memory.json).
    """
    weights = weight_bytes(model, bytes_per_parameter)
    if pipeline == 1:
        return weights.total / tensor
    layer_share = -(-model.layers // pipeline) / model.layers
    return (weights.layers * layer_share + max(weights.embedding, weights.head)) / tensor


def first_loaded_as(model: ModelArchitecture, precision: Precision) -> Precision:
    """The precision of the bytes that are read and first put into GPU memory: larger for quantisation on load.

    A model that is published in the precision, or has a checkpoint in it, loads as it is.
    """
    if precision.name == model.native_precision or precision.name in model.checkpoints:
        return precision
    return PRECISIONS.get(precision.loads_at, precision)


def checkpoint_bytes(model: ModelArchitecture, precision: Precision) -> float:
    """Bytes of the checkpoint that is stored, and read by a starting replica."""
    return model.weights_bytes(first_loaded_as(model, precision).bytes_per_parameter)


def loaded_weight_bytes(shape: ReplicaShape) -> float:
    """Bytes of the checkpoint that a starting replica reads."""
    return checkpoint_bytes(shape.model, shape.precision)
