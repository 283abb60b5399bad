"""What arrived, as the planner takes it: rates and lengths by class and window of time, put into the resources."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from plimsoll.api.llmdeployment import LLMDeployment
from plimsoll.performance import TokenLengths
from plimsoll.planning.scenario import class_key
from plimsoll.planning.snapshot import ObjectRef, Snapshot
from plimsoll.simulation import Request

LEAST_REQUESTS = 1000
"""With fewer, lengths stay what they were: the 95th percentile of a thousand is off by 5 % (lognormal, 1 sigma)."""
LENGTH_DRIFT = 0.15
"""Lengths that moved by less stay what they were: sampling noise must not look like another kind of traffic."""


@dataclass(frozen=True, slots=True)
class ClassDemand:
    """What is planned for."""

    requests_per_minute: float
    lengths: TokenLengths | None
    """None: as before."""


class Tally:
    """Requests of one class in one window. Memory grows with the number of different lengths only."""

    __slots__ = ("inputs", "outputs", "requests")

    def __init__(self) -> None:
        self.requests = 0
        self.inputs: Counter[int] = Counter()
        self.outputs: Counter[int] = Counter()

    def add(self, request: Request) -> None:
        """One more."""
        self.requests += 1
        self.inputs[request.input_tokens] += 1
        self.outputs[request.output_tokens] += 1

    def include(self, other: "Tally") -> None:
        """All of another window."""
        self.requests += other.requests
        self.inputs.update(other.inputs)
        self.outputs.update(other.outputs)

    def rate_per_minute(self, seconds: float) -> float:
        """Over a window of that length."""
        return self.requests / seconds * 60.0

    def lengths(self) -> TokenLengths:
        """Means and 95th percentiles; there is at least one request."""
        return TokenLengths(
            input_mean=_mean(self.inputs),
            output_mean=_mean(self.outputs),
            input_p95=_p95(self.inputs, self.requests),
            output_p95=_p95(self.outputs, self.requests),
        )


class Meter:
    """Requests by window and class, as they pass."""

    def __init__(self, window_seconds: float) -> None:
        self.window_seconds = window_seconds
        self._windows: dict[int, dict[str, Tally]] = {}

    def watch(self, requests: Iterable[Request]) -> Iterator[Request]:
        """The same requests."""
        length = self.window_seconds
        for request in requests:
            window = self._windows.setdefault(int(request.arrival_seconds // length), {})
            tally = window.get(request.traffic_class)
            if tally is None:
                tally = window[request.traffic_class] = Tally()
            tally.add(request)
            yield request

    def take(self, number: int) -> dict[str, Tally]:
        """What arrived in a window, which is forgotten."""
        return self._windows.pop(number, {})


class Observer:
    """Makes demand of windows: the rate of the last one, and lengths of as many as it takes to know them."""

    def __init__(self) -> None:
        self._since: dict[str, Tally] = {}

    def demand(self, window: Mapping[str, Tally], seconds: float) -> dict[str, ClassDemand]:
        """After a window of that length."""
        found: dict[str, ClassDemand] = {}
        for key, tally in window.items():
            since = self._since.setdefault(key, Tally())
            since.include(tally)
            lengths = None
            if since.requests >= LEAST_REQUESTS:
                lengths = self._since.pop(key).lengths()
            found[key] = ClassDemand(tally.rate_per_minute(seconds), lengths)
        return found


@dataclass(frozen=True, slots=True)
class Survey:
    """What a whole stream asks for; lengths are those of the whole stream."""

    first: Mapping[str, ClassDemand]
    """Rates of the first window."""
    peak: Mapping[str, ClassDemand]
    """Rate of each class in its own busiest window."""
    mean: Mapping[str, ClassDemand]
    requests: int


def survey(requests: Iterable[Request], duration_seconds: float, window_seconds: float) -> Survey:
    """Look through a stream once."""
    meter = Meter(window_seconds)
    number = 0
    first: dict[str, float] = {}
    peaks: dict[str, float] = {}
    totals: dict[str, Tally] = {}

    def close() -> None:
        seconds = max(1e-9, min(window_seconds, duration_seconds - number * window_seconds))
        for key, tally in meter.take(number).items():
            rate = tally.rate_per_minute(seconds)
            if number == 0:
                first[key] = rate
            # What is left over at the end says little about a rate.
            if seconds > window_seconds / 2 or key not in peaks:
                peaks[key] = max(peaks.get(key, 0.0), rate)
            totals.setdefault(key, Tally()).include(tally)

    for request in meter.watch(requests):
        while request.arrival_seconds >= (number + 1) * window_seconds:
            close()
            number += 1
    close()
    lengths = {key: tally.lengths() for key, tally in totals.items()}

    def demand(rates: Mapping[str, float]) -> dict[str, ClassDemand]:
        return {key: ClassDemand(rate, lengths[key]) for key, rate in rates.items()}

    means = {key: tally.rate_per_minute(duration_seconds) for key, tally in totals.items()}
    return Survey(demand(first), demand(peaks), demand(means), sum(tally.requests for tally in totals.values()))


def with_demand(snapshot: Snapshot, demand: Mapping[str, ClassDemand]) -> Snapshot:
    """The snapshot with these rates and lengths declared; a class that is not named gets no requests."""
    return replace(
        snapshot, deployments=tuple(_deployment_with(deployment, demand) for deployment in snapshot.deployments)
    )


def _deployment_with(deployment: LLMDeployment, demand: Mapping[str, ClassDemand]) -> LLMDeployment:
    ref = ObjectRef("LLMDeployment", deployment.namespace, deployment.name)
    traffic = []
    for declared in deployment.spec.traffic:
        found = demand.get(class_key(ref, declared.name), ClassDemand(0.0, None))
        rate = 0 if found.requests_per_minute <= 0 else max(1, round(found.requests_per_minute))
        update: dict[str, object] = {"requests_per_minute": rate}
        if found.lengths is not None:
            before, now = declared.tokens, found.lengths
            known = (
                before.input,
                before.output,
                before.input_p95 or 2 * before.input,
                before.output_p95 or 2 * before.output,
            )
            seen = (now.input_mean, now.output_mean, now.input_p95, now.output_p95)
            if any(abs(new - old) > LENGTH_DRIFT * old for new, old in zip(seen, known, strict=True)):
                names = ("input", "output", "input_p95", "output_p95")
                figures = {name: max(1, round(value)) for name, value in zip(names, seen, strict=True)}
                update["tokens"] = before.model_copy(update=figures)
        traffic.append(declared.model_copy(update=update))
    spec = deployment.spec.model_copy(update={"traffic": tuple(traffic)})
    return deployment.model_copy(update={"spec": spec})


def _mean(lengths: Counter[int]) -> float:
    return sum(length * count for length, count in lengths.items()) / sum(lengths.values())


def _p95(lengths: Counter[int], requests: int) -> float:
    left = 0.05 * requests
    for length in sorted(lengths, reverse=True):
        left -= lengths[length]
        if left < 0:
            return float(length)
    return float(min(lengths))
