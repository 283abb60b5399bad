"""What a replica tells: the course of one request, and its counters."""

from dataclasses import dataclass

from plimsoll.simulation.traffic import Request

NEVER = -1
"""No step completes the request so far."""


class Generation:
    """A request on a replica, from submission to its last token. Times are absolute simulated seconds."""

    __slots__ = (
        "admitted_seconds",
        "attempts",
        "completed_seconds",
        "computed_tokens",
        "emitted_tokens",
        "finish_step",
        "first_token_seconds",
        "lag_seconds",
        "phase",
        "preemptions",
        "prompt_tokens",
        "request",
        "submitted_seconds",
    )

    def __init__(self, request: Request, submitted_seconds: float) -> None:
        self.request = request
        self.submitted_seconds = submitted_seconds
        self.admitted_seconds: float | None = None
        """First time that it left the queue."""
        self.first_token_seconds: float | None = None
        self.completed_seconds: float | None = None
        self.preemptions = 0
        self.attempts = 1
        """Replicas that it was submitted to, this one included."""
        # The engine's bookkeeping.
        self.prompt_tokens = request.input_tokens
        """What its prefill computes: after a preemption the answer so far, too."""
        self.computed_tokens = 0
        self.emitted_tokens = 0
        """Of the answer; while it decodes, as of the end of its prefill (see `Replica.generated_tokens`)."""
        self.finish_step = NEVER
        """The engine's step that completes it, while it decodes."""
        self.phase = 0
        self.lag_seconds = 0.0
        """By which its tokens come after the ends of the passes that they belong to."""

    @property
    def ttft_seconds(self) -> float:
        """From the request's arrival at the fleet to its first token.

        Raises:
            ValueError: there is none yet.
        """
        if self.first_token_seconds is None:
            raise ValueError("the request has no token yet")
        return self.first_token_seconds - self.request.arrival_seconds

    @property
    def end_to_end_seconds(self) -> float:
        """From the arrival to the last token.

        Raises:
            ValueError: it is not completed yet.
        """
        if self.completed_seconds is None:
            raise ValueError("the request is not completed yet")
        return self.completed_seconds - self.request.arrival_seconds

    @property
    def tpot_seconds(self) -> float | None:
        """Mean time per token after the first; None for an answer of one token."""
        if self.request.output_tokens == 1:
            return None
        return (self.end_to_end_seconds - self.ttft_seconds) / (self.request.output_tokens - 1)


@dataclass(frozen=True, slots=True)
class Counters:
    """A replica at one moment: gauges, and totals and time integrals since its start."""

    running: int
    waiting: int
    kv_usage: float
    """Part of the KV blocks in use, 0..1."""
    prompt_tokens: int
    """Prompt tokens computed, recomputed ones included."""
    generated_tokens: int
    preemptions: int
    busy_seconds: float
    """In which the engine ran steps."""
    running_seconds: float
    """Integral of `running` over time."""
    waiting_seconds: float
    kv_usage_seconds: float
    """The cache is taken to fill evenly during a run of steps."""
    steps: int
