"""What a replica can do: its step times, its KV cache and the engine's limits."""

from dataclasses import dataclass
from typing import Protocol

from plimsoll.performance import ReplicaShape, memory_fit
from plimsoll.performance.memory import KV_BLOCK_TOKENS
from plimsoll.performance.steps import ANALYTIC_STEPS, StepModel
from plimsoll.performance.timer import step_timer

DEFAULT_MAX_NUM_BATCHED_TOKENS = 2048


class StepTimes(Protocol):
    """Seconds of engine steps; `plimsoll.performance.timer.StepTimer` is one."""

    def decode(self, running: int) -> tuple[float, float]:
        """Of a step that gives `running` sequences a token each: fixed seconds, and seconds per token of context that
        they hold together."""
        ...

    def mixed(self, running: int, context_tokens: float, chunk_tokens: float, chunk_pairs: float) -> float:
        """Of a step that beside the `running` sequences prefills `chunk_tokens` prompt tokens; `chunk_pairs` is the
        sum over chunks of tokens * (tokens before + tokens / 2)."""
        ...


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """One replica's engine.

    Raises:
        ValueError: a limit is out of range.
    """

    times: StepTimes
    kv_tokens: int
    """Tokens that the KV cache holds, over all GPUs of the replica; rounded down to whole blocks."""
    max_num_seqs: int
    """Most sequences that run together."""
    max_num_batched_tokens: int = DEFAULT_MAX_NUM_BATCHED_TOKENS
    """Most tokens of one step: one for each decoding sequence, the rest for chunks of prompts."""
    max_model_length: int | None = None
    """Longest prompt and answer together; None: whatever the KV cache holds."""
    stages: int = 1
    """Of the pipeline. Each works on a batch of its own, so that many steps are under way at once."""

    def __post_init__(self) -> None:
        if self.kv_tokens < KV_BLOCK_TOKENS:
            raise ValueError(
                f"EngineSpec.kv_tokens is {self.kv_tokens}; at least one block of {KV_BLOCK_TOKENS} is needed"
            )
        if self.max_num_seqs < 1:
            raise ValueError(f"EngineSpec.max_num_seqs is {self.max_num_seqs}; at least 1 is accepted")
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"EngineSpec.max_num_batched_tokens is {self.max_num_batched_tokens}; "
                f"at least max_num_seqs = {self.max_num_seqs} is accepted"
            )
        if self.max_model_length is not None and self.max_model_length < 1:
            raise ValueError(f"EngineSpec.max_model_length is {self.max_model_length}; at least 1 is accepted")

    @property
    def tokens_per_pass(self) -> int:
        """Most tokens until every running sequence has got one: those of as many steps as there are stages."""
        return self.stages * self.max_num_batched_tokens

    @property
    def kv_blocks(self) -> int:
        """Whole blocks of the KV cache."""
        return self.kv_tokens // KV_BLOCK_TOKENS

    @property
    def longest_sequence(self) -> int:
        """Most tokens of prompt and answer together that the engine accepts."""
        holds = self.kv_blocks * KV_BLOCK_TOKENS
        return holds if self.max_model_length is None else min(holds, self.max_model_length)


def engine_of(
    shape: ReplicaShape,
    max_num_seqs: int,
    max_num_batched_tokens: int = DEFAULT_MAX_NUM_BATCHED_TOKENS,
    steps: StepModel = ANALYTIC_STEPS,
) -> EngineSpec:
    """The engine of a replica shape at an operating point, with the planner's own step times and KV capacity.

    Raises:
        ValueError: the shape does not fit its GPUs, or a limit is out of range.
    """
    fit = memory_fit(shape)
    if not fit.fits:
        raise ValueError(f"{shape.model.name} on {shape.gpu.name} {shape.parallelism}: {fit.reason}")
    return EngineSpec(
        times=step_timer(shape, steps),
        kv_tokens=fit.kv_tokens,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        max_model_length=shape.max_model_length,
        stages=shape.parallelism.pipeline,
    )
