"""How fast every option serves every class, remembered between planning rounds.

Rates do not enter, so a round after a change of traffic costs nothing here. The cache holds pure results only.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from plimsoll.performance import Capacity, LatencyTargets, Prediction, ReplicaShape, TokenLengths, capacities, predict

_Key = tuple[str, int, str, str, int, int, int, int, int | None, TokenLengths, LatencyTargets]


@dataclass(frozen=True, slots=True)
class Question:
    """One class on one replica shape; `max_num_seqs` None lets the model choose the operating point."""

    shape: ReplicaShape
    lengths: TokenLengths
    targets: LatencyTargets
    max_num_seqs: int | None = None


@dataclass(slots=True)
class Evaluator:
    """Answers questions in batches and remembers the answers."""

    _answers: dict[_Key, Capacity] = field(default_factory=dict)
    _predictions: dict[tuple[_Key, int], Prediction] = field(default_factory=dict)
    _known: dict[str, list[object]] = field(default_factory=dict)

    def answer(self, questions: Iterable[Question]) -> list[Capacity]:
        """Capacities in the order of the questions."""
        keyed = [(self._key(question), question) for question in questions]
        missing = {key: question for key, question in keyed if key not in self._answers}
        groups: dict[tuple[TokenLengths, LatencyTargets, int | None], list[tuple[_Key, ReplicaShape]]] = {}
        for key, question in missing.items():
            group = (question.lengths, question.targets, question.max_num_seqs)
            groups.setdefault(group, []).append((key, question.shape))
        for (lengths, targets, batch), members in groups.items():
            shapes: Sequence[ReplicaShape] = [shape for _, shape in members]
            found = capacities(shapes, lengths, targets, max_num_seqs=batch)
            self._answers.update((key, capacity) for (key, _), capacity in zip(members, found, strict=True))
        return [self._answers[key] for key, _ in keyed]

    def predict(self, question: Question, max_num_seqs: int, rate_per_second: float, utilization: float) -> Prediction:
        """Latencies at a rate. Remembered by utilization in percent, rounded up: a small drift costs nothing."""
        percent = math.ceil(utilization * 100 - 1e-9)
        key = (self._key(replace(question, max_num_seqs=max_num_seqs)), percent)
        if key not in self._predictions:
            rate = rate_per_second * percent / (utilization * 100) if utilization > 0 else 0.0
            self._predictions[key] = predict(question.shape, question.lengths, question.targets, rate, max_num_seqs)
        return self._predictions[key]

    def _key(self, question: Question) -> _Key:
        shape = question.shape
        return (
            shape.model.name,
            self._number(shape.model.name, shape.model),
            shape.precision.name,
            shape.gpu.name,
            self._number(shape.gpu.name, shape.gpu),
            shape.parallelism.tensor,
            shape.parallelism.pipeline,
            shape.max_model_length,
            question.max_num_seqs,
            question.lengths,
            question.targets,
        )

    def _number(self, name: str, value: object) -> int:
        """Small number of a catalog entry. Entries hold mappings and cannot be hashed; people may redefine a name."""
        versions = self._known.setdefault(name, [])
        for number, known in enumerate(versions):
            if known is value or known == value:
                return number
        versions.append(value)
        return len(versions) - 1
