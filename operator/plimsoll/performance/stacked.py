"""The step terms of many replicas as columns, so that one numpy expression covers them all."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from operator import attrgetter

import numpy as np

from plimsoll.performance.shapes import FloatArray
from plimsoll.performance.terms import StepTerms


@dataclass(frozen=True, slots=True)
class StackedTerms:
    """`StepTerms` of J replicas: every field is a column (J, 1). Seconds."""

    read: FloatArray
    read_experts: FloatArray
    idle_share: FloatArray
    compute_decode_token: FloatArray
    compute_prompt_token: FloatArray
    compute_pair: FloatArray
    kv_token: FloatArray
    step: FloatArray
    sequence: FloatArray
    token: FloatArray
    stages: FloatArray

    @classmethod
    def of(cls, terms: Sequence[StepTerms]) -> "StackedTerms":
        """One row per replica."""
        values = np.array([_VALUES(one) for one in terms], dtype=np.float64).reshape(len(terms), -1)
        return cls(*(column[:, None] for column in values.T))

    def take(self, rows: Sequence[int]) -> "StackedTerms":
        """Some of the replicas."""
        index = np.asarray(rows, dtype=np.intp)
        return StackedTerms(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def seconds(
        self, running: FloatArray, context_tokens: FloatArray, chunk_tokens: FloatArray, chunk_pairs: FloatArray
    ) -> FloatArray:
        """(J, N) seconds of steps, as `StepTerms.mixed_step_seconds`, with `context_tokens` per sequence.

        `running` need not be whole; below 1 it counts with its share.
        """
        part = np.where(self.stages > 1, np.maximum(np.minimum(running, 1.0), running / self.stages), running)
        tokens = part + chunk_tokens
        compute = (
            self.compute_decode_token * part
            + self.compute_prompt_token * chunk_tokens
            + self.compute_pair * chunk_pairs
        )
        read = self.read
        if self.read_experts.any():
            # A power, by its logarithm: far faster.
            idle = np.exp(np.log(np.maximum(self.idle_share, 1e-300)) * tokens)
            read = read + self.read_experts * (1.0 - idle)
        read, compute = np.square(read), np.square(compute)
        products = np.sqrt(np.sqrt(read * read + compute * compute))
        rest = self.step + part * (self.sequence + self.kv_token * context_tokens) + self.token * tokens
        return np.asarray(products + rest)


_VALUES = attrgetter(*(field.name for field in fields(StackedTerms)))
