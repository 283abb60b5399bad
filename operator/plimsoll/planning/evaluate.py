"""What is remembered between planning rounds: how fast every option serves every class, and parts of the search.

Rates do not enter the former, so a round after a change of traffic costs nothing there. Only pure results are kept.
"""

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import eq
from typing import TypeVar

from plimsoll.allocation.decomposition import Memory
from plimsoll.allocation.remembered import Remembered
from plimsoll.performance import (
    Arrivals,
    Capacity,
    Coefficients,
    Correction,
    LatencyTargets,
    Link,
    Operation,
    Prediction,
    Question,
    ReplicaShape,
    Stream,
    TokenLengths,
    load_seconds,
    memory_fit,
    parallelism_problem,
    predict_each,
    rated,
    settled,
)
from plimsoll.planning.blocks import Blocks
from plimsoll.planning.digest import Texts
from plimsoll.planning.plan import FleetPlan
from plimsoll.planning.search import Rested
from plimsoll.planning.snapshot import Snapshot

Result = TypeVar("Result")
Inputs = TypeVar("Inputs")
_ShapeKey = tuple[str, int, str, str, int, int, int, int, Coefficients | None, Correction, int, Link | None]
_Key = tuple[int, int, int | None]
"""Numbers of shape and objective, and the operating point."""


@dataclass(frozen=True, slots=True)
class Startup:
    """Whether a replica starts, and how long that takes."""

    problem: str | None
    """Why it does not."""
    load_seconds: float
    excess: float = float("inf")
    """1 + the weights as a multiple of the GPU's memory; inf when something else is wrong. Ranks near misses."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a replica is expected to serve of a class."""

    question: Question
    """With the operating point."""
    rate_per_second: float
    utilization: float
    beside: tuple[Stream, ...] = ()
    """Other classes at the same replica."""

    def operation(self) -> Operation:
        """At the whole per cent of utilization above."""
        # A class without traffic may be asked about at replicas that others use: its rate is 0 all the same.
        rate, question = 0.0, self.question
        if self.rate_per_second > 0:
            whole = math.ceil(self.utilization * 100 - 1e-9)
            rate = float(settled(self.rate_per_second * whole / (self.utilization * 100)))
        if self.beside:
            rate = float(f"{rate:.3g}")  # it drifts with the others' traffic
        assert question.max_num_seqs is not None  # noqa: S101  (whoever asks names the operating point)
        return Operation(
            question.shape,
            question.lengths,
            question.targets,
            rate,
            question.max_num_seqs,
            question.arrivals,
            self.beside,
        )


@dataclass(slots=True)
class Evaluator:
    """Answers questions in batches and remembers the answers."""

    memory: Memory = field(default_factory=Memory)
    """Of the search for placements."""
    rested: Remembered[bytes, Rested] = field(default_factory=Remembered)
    """Answers of deployments at rest."""
    texts: Texts = field(default_factory=Texts)
    """Of facts, for digests."""
    blocks: Blocks = field(default_factory=Remembered)
    """Of the allocation problem."""
    planned: tuple[Snapshot, FleetPlan] | None = None
    """The last facts that matter, and their plan."""
    _answers: dict[_Key, Capacity] = field(default_factory=dict)
    _predictions: dict[tuple[_Key, float, tuple[Stream, ...]], Prediction] = field(default_factory=dict)
    _shapes: dict[_ShapeKey, int] = field(default_factory=dict)
    _objectives: dict[tuple[TokenLengths, LatencyTargets, Arrivals], int] = field(default_factory=dict)
    _startups: dict[_ShapeKey, Startup] = field(default_factory=dict)
    _known: dict[str, list[object]] = field(default_factory=dict)
    _recalled: dict[Hashable, tuple[object, object]] = field(default_factory=dict)

    def aside(self) -> "Evaluator":
        """Knows as much; what is asked of it makes this one forget nothing."""
        return replace(self, memory=Memory(), rested=Remembered(), texts=Texts(), blocks=Remembered())

    def answer(self, questions: Iterable[Question]) -> list[Capacity]:
        """Capacities in the order of the questions."""
        asked = list(questions)
        keys = self._keys(asked)
        new = {key: question for key, question in zip(keys, asked, strict=True) if key not in self._answers}
        self._answers.update(zip(new, rated(list(new.values())), strict=True))
        return [self._answers[key] for key in keys]

    def answer_each(self, groups: Sequence[Collection[Question]]) -> list[list[Capacity]]:
        """Capacities of each group in the order of its questions, all computed together."""
        answers = iter(self.answer(question for group in groups for question in group))
        return [list(islice(answers, len(group))) for group in groups]

    def recall(
        self, name: Hashable, inputs: Inputs, kind: type[Result], same: Callable[[Inputs, Inputs], bool] = eq
    ) -> Result | None:
        """What was last remembered under a name, if it came from the same inputs."""
        known = self._recalled.get(name)
        if known is None or not isinstance(known[0], type(inputs)) or not isinstance(known[1], kind):
            return None
        return known[1] if same(known[0], inputs) else None

    def remember(self, results: Mapping[Hashable, tuple[object, object]]) -> None:
        """Replace everything remembered by name with these inputs and results."""
        self._recalled = dict(results)

    def startup(self, shape: ReplicaShape) -> Startup:
        """Whether and how fast a replica starts: parallelism that divides, memory that suffices."""
        key = self._shape_key(shape)
        if key not in self._startups:
            self._startups[key] = _startup(shape)
        return self._startups[key]

    def predict(self, asked: "Expected") -> Prediction:
        """Latencies of one; see `predict_each`."""
        return self.predict_each([asked])[0]

    def predict_each(self, asked: Sequence["Expected"]) -> list[Prediction]:
        """Latencies at rates, for the whole per cent of utilization above: a small drift of traffic costs nothing.

        Only figures that are remembered by enter a prediction, so that one made afresh is the same.
        """
        operations = [one.operation() for one in asked]
        keys = [
            (key, operation.rate_per_second, operation.beside)
            for key, operation in zip(self._keys([one.question for one in asked]), operations, strict=True)
        ]
        new = {key: one for key, one in zip(keys, operations, strict=True) if key not in self._predictions}
        self._predictions.update(zip(new, predict_each(list(new.values())), strict=True))
        return [self._predictions[key] for key in keys]

    def _keys(self, questions: Sequence[Question]) -> list[_Key]:
        """Small keys. Many questions share the very same shape or objective, whose contents are hashed only once."""
        shapes: dict[int, int] = {}
        objectives: dict[tuple[int, int, int], int] = {}
        keys: list[_Key] = []
        for question in questions:
            shape = shapes.get(id(question.shape))
            if shape is None:
                key = self._shape_key(question.shape)
                shape = shapes[id(question.shape)] = self._shapes.setdefault(key, len(self._shapes))
            parts = (id(question.lengths), id(question.targets), id(question.arrivals))
            objective = objectives.get(parts)
            if objective is None:
                whole = (question.lengths, question.targets, question.arrivals)
                objective = objectives[parts] = self._objectives.setdefault(whole, len(self._objectives))
            keys.append((shape, objective, question.max_num_seqs))
        return keys

    def _shape_key(self, shape: ReplicaShape) -> _ShapeKey:
        return (
            shape.model.name,
            self._number(shape.model.name, shape.model),
            shape.precision.name,
            shape.gpu.name,
            self._number(shape.gpu.name, shape.gpu),
            shape.parallelism.tensor,
            shape.parallelism.pipeline,
            shape.max_model_length,
            shape.coefficients,
            shape.correction,
            shape.nodes,
            shape.network,
        )

    def _number(self, name: str, value: object) -> int:
        """Small number of a catalog entry. Entries hold mappings and cannot be hashed; people may redefine a name."""
        versions = self._known.setdefault(name, [])
        for number, known in enumerate(versions):
            if known is value or known == value:
                return number
        versions.append(value)
        return len(versions) - 1


def _startup(shape: ReplicaShape) -> Startup:
    undivided = parallelism_problem(shape.model, shape.gpu, shape.parallelism)
    if undivided is not None:
        return Startup(undivided, 0.0)
    fit = memory_fit(shape)
    if fit.reason is not None:
        return Startup(fit.reason, 0.0, 1 + fit.weights_bytes_per_gpu / shape.gpu.memory_bytes)
    return Startup(None, load_seconds(shape))
