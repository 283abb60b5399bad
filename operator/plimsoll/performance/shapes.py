"""What the performance model is asked about: a replica's shape, its requests, and their latency targets."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plimsoll.catalog import GPU, ModelArchitecture, Precision
from plimsoll.performance.coefficients import Coefficients, Link
from plimsoll.performance.correction import UNCORRECTED, Correction

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, order=True)
class Parallelism:
    """Degrees by which one replica is split over GPUs."""

    tensor: int
    """GPUs that share each layer."""
    pipeline: int
    """Stages that the layers are divided into."""

    @property
    def gpus(self) -> int:
        """GPUs of one replica."""
        return self.tensor * self.pipeline

    def __str__(self) -> str:
        return f"t{self.tensor}p{self.pipeline}"


@dataclass(frozen=True, slots=True)
class TokenLengths:
    """Tokens per request of a traffic class: means and 95th percentiles of prompt and answer."""

    input_mean: float
    output_mean: float
    input_p95: float
    output_p95: float


@dataclass(frozen=True, slots=True)
class LatencyTarget:
    """An upper limit in seconds, for a percentile or, with `percentile` None, for the mean."""

    seconds: float
    percentile: int | None

    @property
    def statistic(self) -> str:
        """`p95`, or `mean`; for messages."""
        return "mean" if self.percentile is None else f"p{self.percentile}"


@dataclass(frozen=True, slots=True)
class LatencyTargets:
    """Limits of a traffic class. What is None is not limited."""

    ttft: LatencyTarget | None = None
    tpot: LatencyTarget | None = None
    end_to_end: LatencyTarget | None = None


@dataclass(frozen=True, slots=True)
class ReplicaShape:
    """One replica: a model variant on some GPUs of one product."""

    model: ModelArchitecture
    precision: Precision
    gpu: GPU
    parallelism: Parallelism
    max_model_length: int
    """Longest sequence in tokens that the engine accepts; it must fit the KV cache or the engine does not start."""
    coefficients: Coefficients | None = None
    """Measured for this model on this GPU (ModelProfile); None: published for the GPU (`coefficient_set`)."""
    correction: Correction = UNCORRECTED
    """By what is observed of such replicas."""
    nodes: int = 1
    """Nodes that the stages are spread over, whole stages on each; tensor parallelism never leaves a node."""
    network: Link | None = None
    """Between these nodes; None on one node."""


def parallelism_problem(model: ModelArchitecture, gpu: GPU, parallelism: Parallelism) -> str | None:
    """Why an engine would refuse to split the model this way, or None.

    vLLM divides attention heads evenly over tensor-parallel ranks; KV heads are divided evenly, or replicated when
    there are more ranks than KV heads. The vocabulary is padded, so it sets no limit. A latent cache is not divided.
    """
    tensor, pipeline = parallelism.tensor, parallelism.pipeline
    if tensor < 1 or pipeline < 1:
        return f"tensor and pipeline degrees are at least 1, got {tensor} and {pipeline}"
    if model.attention_heads % tensor:
        return f"tensor degree {tensor} does not divide the {model.attention_heads} attention heads of {model.name}"
    if not model.latent_attention and model.kv_heads % tensor and tensor % model.kv_heads:
        heads = f"the {model.kv_heads} KV heads of {model.name}"
        return f"tensor degree {tensor} neither divides nor is a multiple of {heads}"
    if pipeline > model.layers:
        return f"pipeline degree {pipeline} exceeds the {model.layers} layers of {model.name}"
    if tensor > gpu.interconnect.max_tensor_parallel:
        return (
            f"tensor degree {tensor} exceeds {gpu.interconnect.max_tensor_parallel}, "
            f"the most that {gpu.interconnect.kind} between {gpu.name} GPUs supports well"
        )
    return None
