"""Measured latencies of one replica at one operating point, and what the step model predicts for it."""

from dataclasses import dataclass

import numpy as np

from plimsoll.performance.memory import memory_fit
from plimsoll.performance.shapes import ReplicaShape
from plimsoll.performance.terms import StepTerms

CHUNK_BUDGET_TOKENS = 2048.0
"""Prompt tokens of one step (vLLM's --max-num-batched-tokens) unless a measurement says otherwise."""
_LEAST_CHUNK_TOKENS = 16.0


@dataclass(frozen=True, slots=True)
class Latencies:
    """Mean seconds; None where not known."""

    ttft: float | None = None
    tpot: float | None = None
    end_to_end: float | None = None

    def figures(self) -> list[tuple[str, float]]:
        """Those that are known, by name."""
        named = (("ttft", self.ttft), ("tpot", self.tpot), ("endToEnd", self.end_to_end))
        return [(name, value) for name, value in named if value is not None]


@dataclass(frozen=True, slots=True)
class Observation:
    """One row of a benchmark, or one interval of a running replica."""

    shape: ReplicaShape
    input_tokens: float
    output_tokens: float
    company: float
    """Requests that run together, as one of them sees it: at least 1; a mean need not be whole."""
    batch: bool
    """All begin at the same moment, as an offline benchmark has it; otherwise they begin and end one by one."""
    measured: Latencies
    source: str
    """Where it comes from, for messages, such as `runs.csv:12`."""

    @property
    def kv_tokens(self) -> float:
        """That the requests hold together when the KV cache is fullest."""
        return self.company * (self.input_tokens + self.output_tokens * (1.0 if self.batch else 0.5))

    @property
    def fits(self) -> bool:
        """Whether all of them run at once; otherwise latencies tell of waits, not of speed."""
        return self.kv_tokens <= memory_fit(self.shape).kv_tokens


def predicted(terms: StepTerms, row: Observation) -> Latencies:
    """Mean latencies of an observation, when steps take what `terms` say."""
    return _of_batch(terms, row) if row.batch else _one_by_one(terms, row)


def _of_batch(terms: StepTerms, row: Observation) -> Latencies:
    tokens, batch = np.array([row.input_tokens]), np.array([row.company])
    context = tokens + row.output_tokens / 2
    first = float(terms.prefill_seconds(tokens, batch)[0])
    step = float(terms.decode_step_seconds(batch, context)[0])
    return Latencies(first, step, first + max(0.0, row.output_tokens - 1.0) * step)


def _one_by_one(terms: StepTerms, row: Observation) -> Latencies:
    """During a stay each companion is replaced once, on average: so many prompts ride in the steps of the stay.

    The first token takes the end of the running step, and the steps with the own prompt.
    """
    others = row.company - 1.0
    context = row.input_tokens + row.output_tokens / 2
    chunks = max(1.0, row.input_tokens / max(CHUNK_BUDGET_TOKENS - row.company, _LEAST_CHUNK_TOKENS))
    tokens, pairs = row.input_tokens / chunks, 0.5 * row.input_tokens**2 / chunks

    def seconds(running: float, *, prompt: bool) -> float:
        chunk = (tokens, pairs) if prompt else (0.0, 0.0)
        return terms.mixed_step_seconds(running, running * context, *chunk)

    step = seconds(row.company, prompt=False)
    extra = chunks * (seconds(row.company, prompt=True) - step) / terms.stages
    steps = max(1.0, row.output_tokens - 1.0)
    tpot = step + others * extra / steps
    alone = max(0.0, 1.0 - others)
    own = alone * seconds(0.0, prompt=True) + (1.0 - alone) * seconds(max(1.0, others), prompt=True)
    first = 0.5 * (1.0 - alone) * tpot + chunks * own
    return Latencies(first, tpot, first + max(0.0, row.output_tokens - 1.0) * tpot)
