"""The parts of an engine step of one replica shape, and how they add up: one formula for planner and simulator."""

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from plimsoll.performance.shapes import FloatArray


@dataclass(frozen=True, slots=True)
class StepTerms:
    """Seconds of what a step does. A step takes

        max4(read, compute) + kv + step + sequence * sequences + token * tokens

    where max4 is the fourth-power mean: crossing from bandwidth to compute is gradual in measured matrix products
    (Vidur's profiles). Sequences that decode and prompt tokens that are prefilled ride in the same step: the weights
    are read once.
    """

    read: float
    """Reading the weights that every step needs, once."""
    read_experts: float
    """Reading all routed experts; a step reads those that a token of it is routed to."""
    idle_share: float
    """Share of the experts that one token leaves alone: 1 - experts per token / experts."""
    compute_decode_token: float
    """Matrix products of one token that is decoded."""
    compute_prompt_token: float
    """Matrix products of one token of a prompt."""
    compute_pair: float
    """Attention of one query with one key, in a prefill."""
    kv_token: float
    """Reading the keys and values of one token, in a decode."""
    step: float
    """What every step costs: launches, scheduling, latencies of all-reduces and of hops between stages."""
    sequence: float
    """What each sequence costs that gets a token: sampling, detokenising, bookkeeping."""
    token: float
    """Passing one token's hidden states between the GPUs."""
    stages: int
    """Pipeline stages: they work on different sequences at once, so each handles the batch in as many parts."""

    def prefill_seconds(self, tokens: FloatArray, batch: FloatArray) -> FloatArray:
        """Of `batch` prompts of `tokens` tokens."""
        count = tokens * batch
        compute = self.compute_prompt_token * count + self.compute_pair * (0.5 * count * tokens)
        return np.asarray(_smooth_maximum(self._read_seconds(count), compute) + self.step + self.token * count)

    def decode_step_seconds(self, batch: FloatArray, context_tokens: FloatArray) -> FloatArray:
        """Of a token for each of `batch` sequences that hold `context_tokens` tokens each."""
        part = np.maximum(1.0, batch / self.stages) if self.stages > 1 else batch
        products = _smooth_maximum(self._read_seconds(part), self.compute_decode_token * part)
        per_sequence = self.kv_token * context_tokens + (self.sequence + self.token)
        return np.asarray(products + part * per_sequence + self.step)

    def scaled(self, prefill: float, decode: float) -> "StepTerms":
        """With the compute of prompts, and everything else, taking so many times as long."""
        return replace(
            self,
            read=self.read * decode,
            read_experts=self.read_experts * decode,
            compute_decode_token=self.compute_decode_token * decode,
            compute_prompt_token=self.compute_prompt_token * prefill,
            compute_pair=self.compute_pair * prefill,
            kv_token=self.kv_token * decode,
            step=self.step * decode,
            sequence=self.sequence * decode,
            token=self.token * decode,
        )

    def _read_seconds(self, tokens: FloatArray) -> FloatArray:
        if not self.read_experts:
            return np.asarray(self.read)
        return np.asarray(self.read + self.read_experts * (1.0 - np.power(self.idle_share, tokens)))

    def mixed_step_seconds(
        self, running: float, context_tokens: float, chunk_tokens: float, chunk_pairs: float
    ) -> float:
        """Of a token for each of `running` sequences, `context_tokens` long together, beside chunks of prompts.

        The same formula for plain numbers. `chunk_pairs`: query and key pairs of the chunks' attention.
        """
        part = max(1.0, running / self.stages) if running else 0.0
        tokens = part + chunk_tokens
        compute = self.compute_decode_token * part + self.compute_prompt_token * chunk_tokens
        compute += self.compute_pair * chunk_pairs
        read = self.read
        if self.read_experts:
            read += self.read_experts * (1.0 - self.idle_share**tokens)
        read *= read
        compute *= compute
        seconds = sqrt(sqrt(read * read + compute * compute)) + self.step + self.sequence * part + self.token * tokens
        return seconds + self.kv_token * context_tokens * (part / running) if running else seconds


def _smooth_maximum(first: FloatArray, second: FloatArray) -> FloatArray:
    a, b = np.square(first), np.square(second)
    return np.asarray(np.sqrt(np.sqrt(a * a + b * b)))
