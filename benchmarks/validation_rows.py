"""Measurements of Argonne's LLM-Inference-Bench, as groups of rows of one engine, GPU, model and parallelism."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.data import data_folder
from plimsoll.catalog import GPU, ModelArchitecture, load_catalog
from plimsoll.performance import FloatArray, Parallelism, ReplicaShape, StepModel
from plimsoll.performance.memory import kv_bytes_per_token_per_gpu
from plimsoll.performance.weights import stage_weight_bytes

FOLDER = "argonne_llm_inference_bench"
MODELS = {
    "meta-llama/Llama-2-7b-hf": "meta-llama/Llama-2-7b-chat-hf",
    "meta-llama/Llama-2-70b-hf": "meta-llama/Llama-2-70b-chat-hf",
    "mistralai/Mistral-7B-v0.1": "mistralai/Mistral-7B-Instruct-v0.3",
    "meta-llama/Meta-Llama-3-8B": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Meta-Llama-3-70B": "meta-llama/Llama-3.1-70B-Instruct",
}
"""The same architectures under the catalog's names. Left out: six models with one row each."""
NEVER_FITTED = {"Deci/DeciLM-7B": "Deci/DeciLM-7B"}
"""Not in the catalog, and used neither for the fit nor for the form of the model."""
GPUS = {
    "Nvidia A100 GPU": "A100-SXM-40GB",
    "Nvidia H100 GPU": "H100-SXM-80GB",
    "AMD MI250 GPU": "MI250X",
    "AMD MI300X GPU": "MI300X",
}
NVIDIA = ("A100-SXM-40GB", "H100-SXM-80GB")
AMD = ("MI250X", "MI300X")
TTFT_TOKENS, TTFT_BATCH = 1024.0, 16.0
"""Of the only rows that separate the time to first token."""

_DIES = 2
"""Dies of an MI250, which the rows count as one GPU: 128 GB are filled, and attention changes its kernel where two
ranks share the heads. Each die is a GPU in the catalog."""
_MI250_PEAK = 362.1 / 383.0
"""Of an MI250X, which the catalog has."""
_MEMORY_SHARE = 0.9
_RESERVE_BYTES = 1.5e9
"""What vLLM of 2024 left for weights and KV cache: 0.9 of the memory less 1.5 GB (research notes)."""
_WIDE = 512
"""Sequences times query heads of a rank from which vLLM's own attention kernel no longer splits a sequence (its
`use_v1`); from there on it does not profit from grouped queries."""


@dataclass(frozen=True)
class Group:
    """Rows of one engine, GPU, model and parallelism. Arrays are parallel; all tokens of a batch have one length."""

    gpu: str
    model: str
    gpus: int
    shape: ReplicaShape
    batch: FloatArray
    input_tokens: FloatArray
    output_tokens: FloatArray
    seconds: FloatArray
    """Of the whole batch: prefill and all decode steps."""
    first_token_seconds: float | None = None
    """Of `TTFT_BATCH` prompts of `TTFT_TOKENS` tokens, where measured."""
    kv_tokens: float = field(default=0.0)

    def at_once(self) -> FloatArray:
        """Sequences whose KV cache fits; the others wait for the next wave."""
        return np.minimum(
            self.batch, np.maximum(1.0, np.floor(self.kv_tokens / (self.input_tokens + self.output_tokens)))
        )

    def in_waves(self) -> np.ndarray:
        """Rows whose KV cache does not fit."""
        return np.asarray(self.at_once() < self.batch)

    def peculiar(self) -> np.ndarray:
        """Rows that measured something else.

        Mistral on H100 ran with vLLM's own attention kernel, the other models there with FlashAttention; batch 1 of
        128 tokens on MI300X includes warm-up.
        """
        if self.gpu == "H100-SXM-80GB" and "Mistral" in self.model:
            return np.asarray(self.batch * self.shape.model.attention_heads / self.gpus > _WIDE)
        if self.gpu == "MI300X":
            return np.asarray((self.batch == 1) & (self.input_tokens == 128))
        return np.zeros(len(self.batch), dtype=bool)

    def usual(self) -> np.ndarray:
        """Rows that are neither in waves nor peculiar."""
        return np.asarray(~self.in_waves() & ~self.peculiar())

    def predicted(self, steps: StepModel) -> FloatArray:
        """Seconds of each row. Decode steps are affine in the context, so the mean context stands for all."""
        terms, together = steps.terms(self.shape), self.at_once()
        prefill = terms.prefill_seconds(self.input_tokens, together)
        step = terms.decode_step_seconds(together, self.input_tokens + self.output_tokens / 2)
        return np.asarray(self.batch / together * (prefill + (self.output_tokens - 1) * step))

    def predicted_first_token(self, steps: StepModel) -> float:
        """Seconds that compare with `first_token_seconds`."""
        terms = steps.terms(self.shape)
        return float(terms.prefill_seconds(np.array([TTFT_TOKENS]), np.array([TTFT_BATCH]))[0])


def argonne(
    engine: str, keep: Callable[[str], bool] = lambda _: True, models: Mapping[str, str] = MODELS
) -> list[Group]:
    """All groups of an engine (`vLLM`, `TensorRT-LLM`) on catalog GPUs that `keep` accepts.

    Raises:
        FileNotFoundError: the data are not there.
    """
    found: dict[tuple[str, str, int], list[tuple[float, ...]]] = {}
    for row in read("All_results.csv"):
        if row["Framework"] == engine and row["Hardware"] in GPUS and row["Model"] in models:
            length = float(row["Input Output Length"])
            figures = (float(row["Batch Size"]), length, length, float(row["Latency"]))
            found.setdefault(_key(row, models), []).append(figures)
    first = {
        _key(row, models): float(row["TTFT Latency"])
        for row in read("all_results_TTFT_ITL.csv")
        if row["Framework"] == engine and row["Hardware"] in GPUS and row["Model"] in models
    }
    return [group(*key, rows, first.get(key)) for key, rows in found.items() if keep(key[0])]


def _key(row: Mapping[str, str], models: Mapping[str, str]) -> tuple[str, str, int]:
    return GPUS[row["Hardware"]], models[row["Model"]], int(row["Num of Hardware"])


def group(
    gpu: str, model: str, gpus: int, rows: list[tuple[float, ...]], first_token_seconds: float | None = None
) -> Group:
    """A group from rows of batch, input tokens, output tokens and seconds."""
    catalog = load_catalog()
    dies = _DIES if gpu == "MI250X" else 1
    shape = ReplicaShape(
        _architecture(model), catalog.precision("bf16"), _gpu(gpu), Parallelism(gpus * dies, 1), max_model_length=4096
    )
    weights = stage_weight_bytes(shape.model, 2.0, gpus * dies, 1)
    kv_bytes = _MEMORY_SHARE * shape.gpu.memory_bytes - weights - _RESERVE_BYTES / dies
    kv_tokens = kv_bytes / kv_bytes_per_token_per_gpu(shape)
    columns = np.array(rows).T
    return Group(gpu, model, gpus, shape, *columns, first_token_seconds=first_token_seconds, kv_tokens=kv_tokens)


def read(name: str, folder: str = FOLDER) -> Iterator[dict[str, str]]:
    """Rows of a CSV of the data folder, without blank lines and spaces around names."""
    with (data_folder() / folder / name).open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(line for line in file if line.strip(", \r\n")):
            yield {key.strip(): value for key, value in row.items() if key is not None}


def _architecture(name: str) -> ModelArchitecture:
    """The catalog's, or DeciLM's: Mistral's with four KV heads (vLLM copies those of layers that have fewer)."""
    catalog = load_catalog()
    if name != "Deci/DeciLM-7B":
        return catalog.model(name)
    alike = catalog.model("mistralai/Mistral-7B-Instruct-v0.3")
    fewer = 2 * alike.layers * alike.hidden_size * alike.head_size * (alike.kv_heads - 4)
    fewer += 2 * alike.hidden_size * (alike.vocabulary_size - 32000)
    return replace(
        alike,
        name=name,
        parameters=alike.parameters - fewer,
        active_parameters=alike.active_parameters - fewer,
        kv_heads=4,
        kv_elements_per_token_per_layer=2 * 4 * alike.head_size,
        vocabulary_size=32000,
    )


def _gpu(name: str) -> GPU:
    gpu = load_catalog().gpu(name)
    if name != "MI250X":
        return gpu
    peaks = {precision: _MI250_PEAK * peak for precision, peak in gpu.peak_flops_per_second.items()}
    return replace(gpu, peak_flops_per_second=peaks)
