"""Many replicas, each under its own traffic, as columns: how long steps take in any company, where they saturate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from statistics import NormalDist

import numpy as np

from plimsoll.performance.arrivals import POISSON, Arrivals
from plimsoll.performance.lengths import LengthDistribution
from plimsoll.performance.shapes import FloatArray
from plimsoll.performance.stacked import StackedTerms

CHUNK_BUDGET_TOKENS = 2048
"""vLLM's --max-num-batched-tokens: tokens of one step, decoded and prefilled together."""
LEAST_CHUNK_TOKENS = 16.0
"""Where a batch would leave less of the budget than this."""
_NONE = np.zeros((1, 1))


@dataclass(frozen=True, slots=True)
class Traffic:
    """What arrives at each replica: lengths, and how arrivals cluster."""

    inputs: LengthDistribution
    outputs: LengthDistribution
    arrivals: Arrivals = POISSON
    decode_steps: float = field(init=False)
    """Mean tokens after the first."""
    rounds: float = field(init=False)
    """Mean steps for which a request holds a slot: chunks of its prompt, and tokens after the first."""
    context_tokens: float = field(init=False)
    """Mean context of a running request over time: long answers run for longer, half-way on average."""
    context_variance: float = field(init=False)
    """Variance of that context."""

    def __post_init__(self) -> None:
        lengths, weights = self.inputs.few_nodes
        decode_steps = max(0.0, self.outputs.mean - 1.0)
        half_way = 0.5 * self.outputs.moment(2) / self.outputs.mean
        scatter = max(0.0, self.outputs.moment(3) / (3.0 * self.outputs.mean) - half_way**2)
        rounds = decode_steps + float(steps_of(lengths, float(CHUNK_BUDGET_TOKENS)) @ weights)
        object.__setattr__(self, "decode_steps", decode_steps)
        object.__setattr__(self, "rounds", rounds)
        object.__setattr__(self, "context_tokens", self.inputs.mean + half_way)
        object.__setattr__(self, "context_variance", self.inputs.variance + scatter)

    @property
    def decodes(self) -> bool:
        """Whether answers have tokens after the first."""
        return self.decode_steps > 0.0


@dataclass(frozen=True, slots=True)
class StackedTraffic:
    """One row per replica: (J, 1) unless stated. Arrivals cluster alike in all rows, and all or none decode."""

    arrivals: Arrivals
    decodes: bool
    """Whether answers have tokens after the first."""
    input_weights: FloatArray
    """(5,) of the nodes of the prompts' lengths."""
    output_weights: FloatArray
    """(7,) of the nodes of the answers' lengths."""
    input_nodes: FloatArray
    """(J, 5) prompt lengths."""
    output_nodes: FloatArray
    """(J, 7) answer lengths."""
    input_mean: FloatArray
    input_sigma: FloatArray
    """Standard deviation of the logarithm."""
    input_second: FloatArray
    """Mean of the square."""
    input_variance: FloatArray
    pairs_per_token: FloatArray
    """Attention of a prompt token, on average over the tokens of all prompts."""
    output_variance: FloatArray
    output_third: FloatArray
    """Third cumulant."""
    output_varied: FloatArray
    """Squared coefficient of variation."""
    output_lesser: FloatArray
    """Mean of the lesser of two answers, over the mean."""
    decode_steps: FloatArray
    rounds: FloatArray
    context_tokens: FloatArray

    @classmethod
    def of(cls, kinds: Sequence[Traffic], numbers: Sequence[int]) -> "StackedTraffic":
        """Rows of the numbered kinds, whose arrivals are the same."""
        first = kinds[0]

        def column(value: Callable[[Traffic], float]) -> FloatArray:
            return np.array([value(one) for one in kinds])[rows, None]

        rows = np.asarray(numbers, dtype=np.intp)
        return cls(
            arrivals=first.arrivals,
            decodes=first.decodes,
            input_weights=first.inputs.few_nodes[1],
            output_weights=first.outputs.nodes[1],
            input_nodes=np.stack([one.inputs.few_nodes[0] for one in kinds])[rows],
            output_nodes=np.stack([one.outputs.nodes[0] for one in kinds])[rows],
            input_mean=column(lambda one: one.inputs.mean),
            input_sigma=column(lambda one: one.inputs.sigma),
            input_second=column(lambda one: one.inputs.moment(2)),
            input_variance=column(lambda one: one.inputs.variance),
            pairs_per_token=column(lambda one: 0.5 * one.inputs.moment(2) / one.inputs.mean),
            output_variance=column(lambda one: one.outputs.variance),
            output_third=column(lambda one: one.outputs.third_cumulant),
            output_varied=column(lambda one: one.outputs.squared_variation),
            output_lesser=column(lambda one: one.outputs.mean_of_lesser / one.outputs.mean),
            decode_steps=column(lambda one: one.decode_steps),
            rounds=column(lambda one: one.rounds),
            context_tokens=column(lambda one: one.context_tokens),
        )

    def take(self, rows: Sequence[int]) -> "StackedTraffic":
        """Some of the rows."""
        index = np.asarray(rows, dtype=np.intp)
        return replace(self, **{name: getattr(self, name)[index] for name in _BY_ROW})

    def input_percentile(self, percentile: float) -> FloatArray:
        """(J, 1) prompt length that a share of 1 - percentile / 100 exceeds."""
        score = NormalDist().inv_cdf(percentile / 100.0)
        return self.input_mean * np.exp(self.input_sigma * score - 0.5 * np.square(self.input_sigma))


_BY_ROW = tuple(
    field.name
    for field in fields(StackedTraffic)
    if field.name not in {"arrivals", "decodes", "input_weights", "output_weights"}
)


@dataclass(frozen=True, slots=True)
class Engines:
    """J replicas without their batch limits. Arguments (J, N) or (J, 1); `company` counts requests in slots."""

    traffic: StackedTraffic
    terms: StackedTerms

    @classmethod
    def alike(cls, traffic: Traffic, terms: StackedTerms) -> "Engines":
        """Replicas under the same traffic."""
        return cls(StackedTraffic.of([traffic], [0] * len(terms.read)), terms)

    def take(self, rows: Sequence[int]) -> "Engines":
        """Some of the replicas."""
        return Engines(self.traffic.take(rows), self.terms.take(rows))

    def step_seconds(self, company: FloatArray) -> FloatArray:
        """(J, N) seconds of a step in which all decode."""
        return self.terms.seconds(self._decoding(company), self.traffic.context_tokens, _NONE, _NONE)

    def chunk_tokens(self, company: FloatArray) -> FloatArray:
        """Prompt tokens for which a round has room: a step of each stage of the pipeline."""
        return np.maximum(CHUNK_BUDGET_TOKENS * self.terms.stages - company, LEAST_CHUNK_TOKENS)

    def extra_seconds(self, company: FloatArray, tokens: FloatArray, pairs: FloatArray) -> FloatArray:
        """(J, N) by which prompts of `tokens`, with `pairs` of attention, lengthen the steps that they ride in.

        Stages of a pipeline work on different sequences at once, so others suffer one stage's share of it.
        """
        times = self._steps_with(company, tokens)
        decoding, context = self._decoding(company), self.traffic.context_tokens
        mixed = self.terms.seconds(decoding, context, tokens / times, pairs / times)
        return np.asarray(times * (mixed - self.terms.seconds(decoding, context, _NONE, _NONE)) / self.terms.stages)

    def steps_of(self, company: FloatArray, tokens: FloatArray) -> FloatArray:
        """(J, N) rounds until the last chunk of a prompt enters the first stage, and one."""
        stages = self.terms.stages
        return np.asarray(1.0 + (steps_of(tokens, self.chunk_tokens(company) / stages) - 1.0) / stages)

    def late_factor(self, company: FloatArray, tokens: FloatArray) -> FloatArray:
        """(J, N) what a prompt costs itself over what it costs others: it passes all stages, chunk behind chunk."""
        times = self._steps_with(company, tokens)
        return np.asarray((self.terms.stages + times - 1.0) / times)

    def own_prompt_seconds(self, company: FloatArray, tokens: FloatArray) -> FloatArray:
        """(J, N) from the step in which a prompt's prefill begins to its first token."""
        extra = self.extra_seconds(company, tokens, 0.5 * np.square(tokens)) * self.late_factor(company, tokens)
        return np.asarray(extra + self.step_seconds(company) * self.steps_of(company, tokens))

    def fullest_extra_seconds(self, company: FloatArray) -> FloatArray:
        """(J, N) by which as many prompt tokens as there is room for lengthen a step."""
        room = self.chunk_tokens(company)
        return self.extra_seconds(company, room, room * self.traffic.pairs_per_token)

    def slowest_step_seconds(self, batch: FloatArray) -> FloatArray:
        """(J,) seconds of a step with `batch` (J,) slots taken that is full of prompts."""
        company = batch[:, None]
        return np.asarray((self.step_seconds(company) + self.fullest_extra_seconds(company))[:, 0])

    def extra_per_prompt(self, company: FloatArray, prompts: FloatArray) -> FloatArray:
        """(J, N) seconds by which a prompt lengthens rounds in which `prompts` begin on average.

        The first tokens of a round are nearly free while weights are being read, so prompts that share one cost more
        than the same prompts apart. Two points stand for the tokens of a round with any.
        """
        traffic = self.traffic
        prompts = np.maximum(prompts, 1e-9)
        certain = prompts / -np.expm1(-prompts)
        together = certain + 0.5 * traffic.arrivals.companions(prompts)
        mean = traffic.input_mean * together
        second = (traffic.input_second + np.square(traffic.input_mean) * prompts) * certain
        variance = np.maximum(second - np.square(mean), traffic.input_variance)
        below = np.minimum(np.sqrt(variance), 0.9 * mean)
        above = variance / np.maximum(below, 1e-9)
        weight = np.square(below) / np.maximum(np.square(below) + variance, 1e-9)
        pairs = traffic.pairs_per_token
        low = self.extra_seconds(company, mean - below, (mean - below) * pairs)
        high = self.extra_seconds(company, mean + above, (mean + above) * pairs)
        return np.asarray(((1.0 - weight) * low + weight * high) / together)

    def saturated(self, batch: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(J, 1) requests per second and seconds of a round, with `batch` slots taken or every step full of prompts."""
        rounds = self.traffic.rounds
        prompts = np.minimum(batch / rounds, self.chunk_tokens(batch) / self.traffic.input_mean)
        company = prompts * rounds
        seconds = self.step_seconds(company) + prompts * self.extra_per_prompt(company, prompts)
        return prompts / seconds, seconds

    def _steps_with(self, company: FloatArray, tokens: FloatArray) -> FloatArray:
        return np.maximum(1.0, tokens * self.terms.stages / self.chunk_tokens(company))

    def _decoding(self, company: FloatArray) -> FloatArray:
        return company * (self.traffic.decode_steps / self.traffic.rounds)


@dataclass(frozen=True, slots=True)
class Replicas:
    """J replicas with their batch limits. Columns (J, N) are numbers of requests that run together."""

    engines: Engines
    batch: FloatArray
    """(J,) most requests that run together."""
    saturation_rate: FloatArray
    """(J,) requests per second beyond which queues grow without end."""
    saturated_extra: FloatArray
    """(J,) extra seconds of a prompt at that rate: the most that one costs."""
    company: FloatArray
    """(J, N) numbers of requests in ascending order up to the batch limit; spaced where there are many."""
    counts: FloatArray
    """(J, N) how many numbers each stands for."""
    gaps: FloatArray
    """(J, N - 1) from one to the next."""
    step: FloatArray
    """(J, N) seconds of a decode step in that company."""
    slowest: FloatArray
    """(J,) seconds of a step with all slots taken that is full of prompts."""

    @classmethod
    def of(cls, engines: Engines, batch: FloatArray) -> "Replicas":
        """Replicas with batch limits (J,), whole numbers."""
        company = np.minimum(_numbers(int(batch.max()))[None, :], batch[:, None])
        gaps = np.diff(company, axis=1)
        counts = np.zeros_like(company)
        counts[:, :-1] += 0.5 * gaps
        counts[:, 1:] += 0.5 * gaps
        # The trapezoidal rule for sums: both ends count half a number more. A row's last columns may all be its limit.
        counts[:, 0] += 0.5
        counts[:, -1] += 0.5
        rate, seconds = engines.saturated(batch[:, None])
        prompts = rate * seconds
        extra = (seconds - engines.step_seconds(prompts * engines.traffic.rounds)) / prompts
        step = engines.step_seconds(company)
        slowest = engines.slowest_step_seconds(batch)
        return cls(engines, batch, rate[:, 0], np.maximum(extra[:, 0], 0.0), company, counts, gaps, step, slowest)

    def take(self, rows: Sequence[int]) -> "Replicas":
        """Some of the replicas."""
        index = np.asarray(rows, dtype=np.intp)
        return Replicas(
            self.engines.take(rows),
            self.batch[index],
            self.saturation_rate[index],
            self.saturated_extra[index],
            self.company[index],
            self.counts[index],
            self.gaps[index],
            self.step[index],
            self.slowest[index],
        )

    def sums(self, values: FloatArray) -> FloatArray:
        """(J, N) sum of `values` over all whole numbers up to each, by the trapezoidal rule between the numbers."""
        later, earlier = values[:, 1:], values[:, :-1]
        parts = np.empty_like(values)
        parts[:, 0] = values[:, 0]
        parts[:, 1:] = 0.5 * (self.gaps * (later + earlier) + (later - earlier) * (self.gaps > 0))
        return np.asarray(np.cumsum(parts, axis=1))


def steps_of(tokens: FloatArray, room: FloatArray | float) -> FloatArray:
    """Steps that prompt tokens take; beyond one, the last is half full on average."""
    return np.where(tokens <= room, 1.0, tokens / room + 0.5)


def _numbers(most: int) -> FloatArray:
    """1 to `most`: all up to 16, from there on 8 to each doubling."""
    numbers = list(range(1, min(most, 16) + 1))
    while numbers[-1] < most:
        numbers.append(min(most, numbers[-1] + max(1, 1 << (numbers[-1].bit_length() - 4))))
    return np.array(numbers, dtype=np.float64)
