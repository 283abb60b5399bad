"""The highest arrival rate at which a replica keeps a class's targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plimsoll.performance.arrivals import POISSON, Arrivals
from plimsoll.performance.latency import full_per_token
from plimsoll.performance.memory import MemoryFit, memory_fit
from plimsoll.performance.monotone import MAX_UTILIZATION, Search, load_of, neighbours, settled
from plimsoll.performance.prediction import IMPOSSIBLE, Alone, Prediction
from plimsoll.performance.queue import Load
from plimsoll.performance.replicas import Engines, Replicas, StackedTraffic, Traffic
from plimsoll.performance.requests import cannot_run, held, held_requests, traffic_of
from plimsoll.performance.shapes import FloatArray, LatencyTarget, LatencyTargets, ReplicaShape, TokenLengths
from plimsoll.performance.stacked import StackedTerms
from plimsoll.performance.statistics import asked_of, meets, statistic, statistic_of
from plimsoll.performance.steps import ANALYTIC_STEPS, StepModel
from plimsoll.performance.tails import Mixture
from plimsoll.performance.terms import StepTerms

OPERATING_POINTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Batch limits to choose from: powers of two, from 16 on those half-way, too; vLLM captures CUDA graphs of all."""
LEAST_GAIN = 0.002
"""A smaller operating point is tried where its rate is higher by this share at least."""
LEAST_SHARE = 1e-4
"""Rates below this share of the saturation rate count as none."""
_BLOCK = 1000
"""Replicas at once: enough that calls cost little, few enough that their columns stay in the cache."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one replica can take of one class alone."""

    max_rate_per_second: float
    """Highest arrival rate at which all targets hold; 0 when there is none."""
    max_num_seqs: int
    """The operating point."""
    limit: str
    """What stops a higher rate: ttft, tpot, endToEnd, throughput, memory or parallelism."""
    unloaded: Prediction
    """At a rate near 0."""
    reason: str | None
    """Why the rate is 0: a sentence with figures."""


@dataclass(frozen=True, slots=True)
class Question:
    """One class on one replica shape; `max_num_seqs` None lets the model choose the operating point."""

    shape: ReplicaShape
    lengths: TokenLengths
    targets: LatencyTargets
    max_num_seqs: int | None = None
    arrivals: Arrivals = POISSON


def candidate_batches(shape: ReplicaShape, lengths: TokenLengths) -> tuple[int, ...]:
    """Operating points that the KV cache holds, ascending; empty when the replica does not start."""
    most = held_requests(shape, lengths)
    return tuple(batch for batch in OPERATING_POINTS if batch <= most)


def capacity(
    shape: ReplicaShape,
    lengths: TokenLengths,
    targets: LatencyTargets,
    steps: StepModel = ANALYTIC_STEPS,
    max_num_seqs: int | None = None,
    arrivals: Arrivals = POISSON,
) -> Capacity:
    """What one replica can take of one class; see `capacities`."""
    return capacities([shape], lengths, targets, steps, max_num_seqs, arrivals)[0]


def capacities(
    shapes: Sequence[ReplicaShape],
    lengths: TokenLengths,
    targets: LatencyTargets,
    steps: StepModel = ANALYTIC_STEPS,
    max_num_seqs: int | None = None,
    arrivals: Arrivals = POISSON,
) -> list[Capacity]:
    """What one replica of each shape can take of one class; see `rated`."""
    return rated([Question(shape, lengths, targets, max_num_seqs, arrivals) for shape in shapes], steps)


def rated(questions: Sequence[Question], steps: StepModel = ANALYTIC_STEPS) -> list[Capacity]:
    """What each replica can take of its class, all in as few passes as possible.

    With `max_num_seqs` None the operating point is the largest at which memory suffices and the time per output token
    meets its target with all slots taken, so that it holds however full the replica is and in company of other classes.
    Where an end-to-end target then limits the rate, it is the one of the highest rate among the smaller ones, too.
    A given `max_num_seqs` is kept; its time per output token is that of as many requests as the KV cache holds of it.
    """
    answers: list[Capacity | None] = []
    fits: dict[int, MemoryFit] = {}
    traffics: dict[tuple[TokenLengths, Arrivals], Traffic] = {}
    groups: dict[object, list[_Row]] = {}
    for number, question in enumerate(questions):
        shape, targets = question.shape, question.targets
        fit = fits.get(id(shape))
        if fit is None:
            fit = fits[id(shape)] = memory_fit(shape)
        stopped = cannot_run(shape, fit)
        if stopped is not None:
            answers.append(Capacity(0.0, question.max_num_seqs or 1, stopped[0], IMPOSSIBLE, stopped[1]))
            continue
        answers.append(None)
        kind = (question.lengths, question.arrivals)
        traffic = traffics.get(kind)
        if traffic is None:
            traffic = traffics[kind] = traffic_of(*kind)
        alike = (
            question.arrivals,
            traffic.decodes,
            *map(statistic_of, (targets.ttft, targets.tpot, targets.end_to_end)),
        )
        groups.setdefault(alike, []).append(_Row(number, question, traffic, held(fit, traffic)))
    terms: dict[int, StepTerms] = {}
    for rows in groups.values():
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            found = _Block(_engines(part, terms, steps), part).capacities()
            for row, answer in zip(part, found, strict=True):
                answers[row.number] = answer
    return [answer for answer in answers if answer is not None]


@dataclass(frozen=True, slots=True)
class _Row:
    """A question about a replica that can run."""

    number: int
    question: Question
    traffic: Traffic
    held: int
    """Requests that its KV cache holds."""

    @property
    def points(self) -> list[int]:
        """Operating points to choose from."""
        asked = self.question.max_num_seqs
        return [min(asked, self.held)] if asked is not None else [at for at in OPERATING_POINTS if at <= self.held]


def _engines(rows: Sequence[_Row], terms: dict[int, StepTerms], steps: StepModel) -> Engines:
    """Of the rows, whose traffic has the same arrivals. `terms` remembers what is known of shapes."""
    kinds = {id(row.traffic): row.traffic for row in rows}
    number = {kind: index for index, kind in enumerate(kinds)}
    for row in rows:
        shape = row.question.shape
        if id(shape) not in terms:
            terms[id(shape)] = steps.terms(shape)
    return Engines(
        StackedTraffic.of(list(kinds.values()), [number[id(row.traffic)] for row in rows]),
        StackedTerms.of([terms[id(row.question.shape)] for row in rows]),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The highest rate at one operating point."""

    batch: int
    rate: float
    limit: str


@dataclass(frozen=True, slots=True)
class _Block:
    """Some replicas and what is asked about them: the same statistics of the same latencies, each its own targets."""

    engines: Engines
    rows: Sequence[_Row]

    @property
    def statistics(self) -> LatencyTargets:
        """Targets of any row: their statistics are those of all."""
        return self.rows[0].question.targets

    def capacities(self) -> list[Capacity]:
        alone = Alone.of(self.engines, self.statistics)
        points = [row.points for row in self.rows]
        good = self._keep_pace(points)
        missed = [alone.missed(number, row.question.targets) for number, row in enumerate(self.rows)]
        best = self._best_points(
            {row: points[row][: good[row]] for row in range(len(points)) if missed[row] is None and good[row]}, alone
        )
        first = [
            some[0] if row.question.max_num_seqs is not None else 1 for row, some in zip(self.rows, points, strict=True)
        ]
        pace = self._full_pace([row for row in range(len(points)) if row not in best], first)
        answers: list[Capacity] = []
        for number, row in enumerate(self.rows):
            found, asked = best.get(number), row.question.max_num_seqs
            if found is None:
                answers.append(self._none(number, alone, missed[number], first[number], pace[number]))
                continue
            limit = found.limit
            if limit == "throughput" and asked is None:
                limit = self._what_keeps_the_batch_small(found.batch, row.held, points[number], good[number])
            elif limit == "throughput" and row.held < (asked or 0):
                limit = "memory"
            reason = None
            if found.rate <= 0:
                late = _reason(limit, alone, number, float(alone.tpot[number]), 1, row.question.targets)
                reason = f"{late}, which leaves no room for load"
            answers.append(
                Capacity(
                    max_rate_per_second=found.rate,
                    max_num_seqs=asked or found.batch,
                    limit=limit,
                    unloaded=alone.prediction(number),
                    reason=reason,
                )
            )
        return answers

    def _goals(self, rows: Sequence[int]) -> "_Goals":
        return _Goals.of([self.rows[row].question.targets for row in rows])

    def _keep_pace(self, points: Sequence[Sequence[int]]) -> list[int]:
        """How many of each replica's operating points meet the target of time per output token with all slots taken."""
        target = self.statistics.tpot
        if target is None:
            return [len(some) for some in points]
        paces = (row.question.targets.tpot for row in self.rows)
        seconds = np.array([np.inf if pace is None else pace.seconds for pace in paces])
        low, high = np.zeros(len(points), dtype=np.intp), np.array([len(some) for some in points])
        while (low < high).any():
            middle = (low + high) // 2
            batch = np.array([float(some[min(at, len(some) - 1)]) for some, at in zip(points, middle, strict=True)])
            met = meets(full_per_token(self.engines, batch), target, seconds)
            searching = low < high
            low = np.where(searching & met, middle + 1, low)
            high = np.where(searching & ~met, middle, high)
        return [int(count) for count in low]

    def _full_pace(self, rows: Sequence[int], batch: Sequence[int]) -> dict[int, float]:
        """Time per output token of some rows with all slots taken, at the statistic of its target."""
        if not rows:
            return {}
        full = full_per_token(self.engines.take(rows), np.array([float(batch[row]) for row in rows]))
        return dict(zip(rows, statistic(full, self.statistics.tpot).tolist(), strict=True))

    def _none(self, row: int, alone: Alone, missed: str | None, batch: int, pace: float) -> Capacity:
        """No rate meets the targets: one is missed alone, or the pace at the smallest operating point."""
        question = self.rows[row].question
        tpot, batch = (float(alone.tpot[row]), 1) if missed == "tpot" else (pace, batch)
        return Capacity(
            max_rate_per_second=0.0,
            max_num_seqs=question.max_num_seqs or 1,
            limit=missed or "tpot",
            unloaded=alone.prediction(row),
            reason=_reason(missed or "tpot", alone, row, tpot, batch, question.targets),
        )

    def _best_points(self, points: Mapping[int, Sequence[int]], alone: Alone) -> dict[int, _Found]:
        """The operating point of each row: its largest one, or a smaller one of a higher rate.

        Smaller ones are looked at only where the end-to-end target limits and the next smaller one does better: to
        every other limit the largest is best.
        """
        best = dict(zip(points, self._highest([(row, some[-1]) for row, some in points.items()], alone), strict=True))
        next_ones = [(row, some[-2]) for row, some in points.items() if best[row].limit == "endToEnd" and len(some) > 1]
        smaller = [(row, batch) for row, _ in self._promising(next_ones, best) for batch in points[row][-2::-1]]
        for (row, _), found in zip(smaller, self._highest(smaller, alone), strict=True):
            if found.rate > best[row].rate:
                best[row] = found
        return best

    def _promising(self, tried: Sequence[tuple[int, int]], best: Mapping[int, _Found]) -> list[tuple[int, int]]:
        """Those that keep the targets at a rate that is higher by what counts as better."""
        if not tried:
            return []
        replicas = self._replicas(tried)
        rate = (1.0 + LEAST_GAIN) * np.array([best[row].rate for row, _ in tried])
        able = np.flatnonzero(rate < MAX_UTILIZATION * replicas.saturation_rate)
        if not able.size:
            return []
        before, _ = neighbours(rate[able] / replicas.saturation_rate[able])
        goals = self._goals([tried[index][0] for index in able.tolist()])
        latencies, met = _latencies(replicas.take(able.tolist()), before * replicas.saturation_rate[able], goals)
        good = np.flatnonzero(met.all(axis=1))
        able = able[good]
        if not able.size:
            return []
        some, goals = replicas.take(able.tolist()), goals.take(good)
        load = rate[able] / some.saturation_rate
        before, after = neighbours(load)
        later, _ = _latencies(some, after * some.saturation_rate, goals)
        share, better = (load - before) / (after - before), np.ones(len(able), dtype=np.bool_)
        for (_, target, _), seconds, low, high in zip(goals.asked, goals.seconds.T, latencies, later, strict=True):
            under, over = statistic(low.take(good), target), statistic(high, target)
            better &= under + share * (over - under) <= seconds
        return [tried[index] for index in able[better].tolist()]

    def _highest(self, tried: Sequence[tuple[int, int]], alone: Alone) -> list[_Found]:
        """The highest rates of rows at batches."""
        found: list[_Found] = []
        for start in range(0, len(tried), _BLOCK):
            part = tried[start : start + _BLOCK]
            numbers = [row for row, _ in part]
            without_load = alone.limited(self.statistics)[numbers]
            rates, limits = _highest_rates(self._replicas(part), self._goals(numbers), without_load)
            found += [_Found(batch, rate, limit) for (_, batch), rate, limit in zip(part, rates, limits, strict=True)]
        return found

    def _replicas(self, tried: Sequence[tuple[int, int]]) -> Replicas:
        batch = np.array([float(batch) for _, batch in tried])
        return Replicas.of(self.engines.take([row for row, _ in tried]), batch)

    def _what_keeps_the_batch_small(self, batch: int, held: int, points: Sequence[int], good: int) -> str:
        """Why no larger operating point was taken: a larger batch would serve more."""
        larger = next((point for point in OPERATING_POINTS if point > batch), None)
        if larger is None:
            return "throughput"
        if larger > held:
            return "memory"
        return "throughput" if larger in points[:good] else "tpot"


@dataclass(frozen=True, slots=True)
class _Goals:
    """What is limited, and to how many seconds."""

    asked: tuple[tuple[str, LatencyTarget, Callable[[Load], Mixture]], ...]
    """T names, targets and latencies; of the targets the statistics count."""
    seconds: FloatArray
    """(J, T)"""

    @classmethod
    def of(cls, targets: Sequence[LatencyTargets]) -> "_Goals":
        """Of J rows with targets for the same statistics."""
        asked = tuple(asked_of(targets[0]))
        seconds = np.array([[target.seconds for _, target, _ in asked_of(one)] for one in targets])
        return cls(asked, seconds.reshape(len(targets), len(asked)))

    def take(self, rows: NDArray[np.intp]) -> "_Goals":
        """Some of the rows."""
        return _Goals(self.asked, self.seconds[rows])


def _highest_rates(replicas: Replicas, goals: _Goals, alone: FloatArray) -> tuple[list[float], list[str]]:
    """Highest rate of each row within its targets, and what is missed just above it.

    `alone` (J, T): latencies of requests that are alone, which meet the targets.
    """
    rates, limits = MAX_UTILIZATION * replicas.saturation_rate, ["throughput"] * len(replicas.batch)
    latencies, met = _latencies(replicas, rates, goals)
    rows = np.flatnonzero(~met.all(axis=1))
    if rows.size:
        some, aims = replicas.take(rows.tolist()), goals.take(rows)
        search = Search.of(met[rows])
        at_high = [latency.take(rows) for latency in latencies]
        at_low = at_high
        for _ in range(search.levels):
            latencies, met = _latencies(some, load_of(search.next) * some.saturation_rate, aims)
            good = search.turn(met)
            at_low = [known.updated(good, latency) for known, latency in zip(at_low, latencies, strict=True)]
            at_high = [known.updated(~good, latency) for known, latency in zip(at_high, latencies, strict=True)]
        low, high = (
            np.stack([statistic(one, target) for one, (_, target, _) in zip(end, goals.asked, strict=True)], axis=1)
            for end in (at_low, at_high)
        )
        low = np.where(search.low[:, None] > 0.0, low, alone[rows])
        loads, stops = search.found(aims.seconds, low, high)
        rates[rows] = np.where(loads < LEAST_SHARE, 0.0, loads * some.saturation_rate)
        for row, stop in zip(rows.tolist(), stops.tolist(), strict=True):
            limits[row] = goals.asked[stop][0]
    return settled(rates).tolist(), limits


def _latencies(replicas: Replicas, rate: FloatArray, goals: _Goals) -> tuple[list[Mixture], NDArray[np.bool_]]:
    """Those that are limited, and (J, T) whether their targets are met."""
    if not goals.asked:
        return [], np.ones((len(rate), 0), dtype=np.bool_)
    load = Load.of(replicas, rate)
    found = [latency(load) for _, _, latency in goals.asked]
    each = zip(found, goals.asked, goals.seconds.T, strict=True)
    return found, np.stack([meets(latency, target, seconds) for latency, (_, target, _), seconds in each], axis=1)


def _reason(limit: str, alone: Alone, row: int, tpot: float, batch: int, targets: LatencyTargets) -> str:
    """A sentence on the missed target."""
    if limit == "ttft" and targets.ttft is not None:
        return f"time to first token is {_milliseconds(float(alone.ttft[row]))}, {_target(targets.ttft)}"
    if limit == "endToEnd" and targets.end_to_end is not None:
        return f"end-to-end time is {_milliseconds(float(alone.end_to_end[row]))}, {_target(targets.end_to_end)}"
    found = f"time per output token is {_milliseconds(tpot)} at batch {batch}"
    return found if targets.tpot is None else f"{found}, {_target(targets.tpot)}"


def _target(target: LatencyTarget) -> str:
    return f"the target is {_milliseconds(target.seconds)} ({target.statistic})"


def _milliseconds(seconds: float) -> str:
    milliseconds = seconds * 1000
    return f"{milliseconds:.1f} ms" if milliseconds < 10 else f"{milliseconds:.0f} ms"
