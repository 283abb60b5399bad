"""Step times in round figures, and a fleet of one kind of replica."""

from collections.abc import Iterable
from dataclasses import dataclass

from plimsoll.simulation import EngineSpec, Placement, Request


@dataclass(frozen=True)
class Times:
    """A step takes `fixed`, and beside it seconds per sequence, per token of context and per prompt token."""

    fixed: float = 0.01
    per_sequence: float = 0.0
    per_context_token: float = 0.0
    per_prompt_token: float = 1e-4

    def decode(self, running: int) -> tuple[float, float]:
        return self.fixed + self.per_sequence * running, self.per_context_token

    def mixed(self, running: int, context_tokens: float, chunk_tokens: int, chunk_pairs: float) -> float:
        del chunk_pairs  # prompts cost what their tokens cost
        fixed, slope = self.decode(running)
        return fixed + slope * context_tokens + self.per_prompt_token * chunk_tokens


def engine(times: Times = Times(), kv_tokens: int = 160_000, seqs: int = 64, tokens: int = 2048) -> EngineSpec:
    return EngineSpec(times, kv_tokens, seqs, tokens)


def placement(name: str = "p", replicas: int = 1, shares: dict[str, float] | None = None, **more) -> Placement:
    spec = more.pop("engine", None) or engine()
    return Placement(name, spec, replicas, {"c": 1.0} if shares is None else shares, **more)


def requests(arrivals: Iterable[float], inputs: int = 100, outputs: int = 10, name: str = "c") -> list[Request]:
    return [Request(arrival, name, inputs, outputs) for arrival in arrivals]
