"""The step model compiled for one replica: plain floats, for the simulator's inner loop."""

from dataclasses import dataclass

from plimsoll.performance.shapes import ReplicaShape
from plimsoll.performance.steps import ANALYTIC_STEPS, StepModel
from plimsoll.performance.terms import StepTerms


@dataclass(frozen=True, slots=True)
class StepTimer:
    """Seconds of engine steps of one replica shape, as plain floats."""

    terms: StepTerms

    def decode(self, running: int) -> tuple[float, float]:
        """Of a step that gives `running` sequences a token each.

        Returns fixed seconds, and seconds per token of context that the sequences hold together. `running` is at
        least 1.
        """
        stages = self.terms.stages
        part = max(1.0, running / stages) if stages > 1 else float(running)
        return self.terms.mixed_step_seconds(running, 0.0, 0.0, 0.0), self.terms.kv_token * (part / running)

    def mixed(self, running: int, context_tokens: float, chunk_tokens: float, chunk_pairs: float) -> float:
        """Of a step that beside the `running` sequences prefills `chunk_tokens` prompt tokens.

        `context_tokens`: held by the running sequences together. `chunk_pairs`: sum over the chunks of
        tokens * (tokens of the prompt before the chunk + tokens / 2), the pairs of query and key that attention covers.
        """
        return self.terms.mixed_step_seconds(running, context_tokens, chunk_tokens, chunk_pairs)


def step_timer(shape: ReplicaShape, steps: StepModel = ANALYTIC_STEPS) -> StepTimer:
    """The timer of a replica: `decode(b)` at b * c tokens of context is `decode_step_seconds` of batch b and context c;
    `mixed(0, 0, L, L * L / 2)` is `prefill_seconds` of one prompt of L tokens."""
    return StepTimer(steps.terms(shape))
