"""The requests that a simulation is driven by: traces from files, synthetic arrivals where no trace reaches a class."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from plimsoll.cli.manifests import FileError
from plimsoll.planning.scenario import PlannedClass
from plimsoll.simulation import (
    LognormalLength,
    RateCurve,
    Request,
    TraceError,
    constant_rate,
    diurnal,
    merged,
    ramp,
    read_azure,
    read_burstgpt,
    read_mooncake,
    read_servegen_rates,
    read_trace,
    scaled,
    synthetic,
)

FORMATS = ("azure", "burstgpt", "mooncake", "servegen")
MOST_TRACE_SECONDS = 86_400.0
"""Of a trace, or of a daily rate, unless a duration is asked for."""
SYNTHETIC_SECONDS = 3600.0
"""Without a trace and a duration."""
_READERS: Mapping[str, Callable[[Path, str], Iterator[Request]]] = {
    "azure": read_azure,
    "burstgpt": read_burstgpt,
    "mooncake": read_mooncake,
}
_NAME = r"[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?"
_TARGET = re.compile(rf"(?P<file>.+):(?P<target>{_NAME}/{_NAME}(?:/{_NAME})?)")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd]?)")
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SERVEGEN = {"category", "model", "t_seconds", "total_rate_req_per_s"}


@dataclass(frozen=True, slots=True)
class TraceChoice:
    """One `--trace`."""

    path: Path
    series: str
    """`category/model` of a ServeGen table; else empty."""
    target: str
    """`namespace/name` or `namespace/name/class`; empty for all classes that no other trace names."""

    @classmethod
    def parse(cls, text: str) -> "TraceChoice":
        """From `FILE[#SERIES][:NAMESPACE/NAME[/CLASS]]`."""
        target = ""
        if not Path(text).exists() and (match := _TARGET.fullmatch(text)):
            text, target = match["file"], match["target"]
        series = ""
        if not Path(text).exists() and "#" in text:
            text, _, series = text.rpartition("#")
        path = Path(text)
        if not path.is_file():
            why = "is a folder" if path.is_dir() else "no such file"
            raise FileError(f"--trace {text}: {why}; FILE[#CATEGORY/MODEL][:NAMESPACE/NAME[/CLASS]] is accepted")
        return cls(path, series, target)

    def __str__(self) -> str:
        return f"{self.path.name}{f'#{self.series}' if self.series else ''}"


@dataclass(frozen=True, slots=True)
class ArrivalChoice:
    """`--arrivals`: of classes that no trace reaches. The rate is a multiple of the declared one."""

    kind: Literal["declared", "poisson", "gamma", "diurnal", "ramp"]
    first: float = 1.0
    """gamma: coefficient of variation; diurnal: peak by mean; ramp: the rate that it begins with."""
    last: float = 1.0
    """ramp: the rate that it ends with."""

    @classmethod
    def parse(cls, text: str) -> "ArrivalChoice":
        """From `declared`, `poisson`, `gamma:CV`, `diurnal[:PEAK]` or `ramp:FROM-TO`."""
        kind, _, rest = text.partition(":")
        try:
            if kind == "declared" and not rest:
                return cls("declared")
            if kind == "poisson" and not rest:
                return cls("poisson")
            if kind == "gamma":
                return cls("gamma", _within(float(rest), 0.0, 100.0))
            if kind == "diurnal":
                return cls("diurnal", _within(float(rest), 1.0, 2.0) if rest else 1.6)
            if kind == "ramp":
                first, _, last = rest.partition("-")
                return cls("ramp", _within(float(first), 0.0, 1e6), _within(float(last), 0.0, 1e6))
        except ValueError:
            pass
        accepted = (
            "declared, poisson, gamma:CV (coefficient of variation 0 to 100 of the gaps), diurnal[:PEAK] (peak rate 1 "
            "to 2 times the mean, default 1.6) and ramp:FROM-TO (multiples of the declared rate)"
        )
        raise FileError(f"--arrivals {text}: accepted are {accepted}")

    def burstiness(self, item: PlannedClass) -> float:
        """Coefficient of variation of a class's gaps; the declared one unless this says otherwise."""
        if self.kind == "gamma":
            return self.first
        return 1.0 if self.kind == "poisson" else item.resolved.arrivals.burstiness

    def curve(self, rate_per_second: float, seconds: float) -> RateCurve:
        """Rates over time."""
        if self.kind == "ramp":
            return ramp(rate_per_second * self.first, rate_per_second * self.last, seconds)
        if self.kind == "diurnal":
            return cut(diurnal(rate_per_second, self.first, days=max(1.0, np.ceil(seconds / 86_400.0))), seconds)
        return constant_rate(rate_per_second, seconds)


@dataclass(frozen=True, slots=True)
class Source:
    """What drives some classes."""

    name: str
    """For people: the kind of arrivals or a trace's file name."""
    classes: tuple[str, ...]
    expected_requests: float
    stream: Callable[[], Iterator[Request]]
    """A new one each time, and always the same."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """All requests of a run."""

    sources: tuple[Source, ...]
    duration_seconds: float

    @property
    def expected_requests(self) -> float:
        """About how many there are."""
        return sum(source.expected_requests for source in self.sources)

    def requests(self) -> Iterator[Request]:
        """In the order of arrival; a new stream each time, and always the same."""
        return merged(*(source.stream() for source in self.sources))

    def source_of(self, key: str) -> str:
        """What drives a class."""
        return ", ".join(source.name for source in self.sources if key in source.classes) or "nothing"


def parse_duration(text: str, option: str) -> float:
    """Seconds of `90`, `90s`, `30m`, `2h` or `1d`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise FileError(f"{option} {text}: a time above 0 like 90s, 30m, 2h or 1d is accepted")
    return float(match[1]) * _UNITS[match[2]]


def parse_rate_scale(text: str) -> float | None:
    """A factor; None for `declared`."""
    if text == "declared":
        return None
    try:
        return _within(float(text), 1e-9, 1e9)
    except ValueError:
        raise FileError(f"--rate-scale {text}: a factor above 0 or `declared` is accepted") from None


def traffic_for(
    classes: Mapping[str, PlannedClass],
    traces: Sequence[TraceChoice],
    arrivals: ArrivalChoice,
    *,
    trace_format: str | None = None,
    duration_seconds: float | None = None,
    rate_scale: float | None = 1.0,
    seed: int = 0,
) -> Traffic:
    """The requests of all classes.

    A trace drives the classes that it names, or those that no trace names. Several classes of one trace get its
    requests in proportion to their declared rates, drawn by the seed. ServeGen's tables hold rates only: lengths are
    the declared ones. What is left arrives as `arrivals` says, at the declared rates.

    Args:
        rate_scale: multiplies all rates; None: each trace gets the mean rate that its classes declare.

    Raises:
        FileError: a trace cannot be read, or names what is not there.
    """
    reached = _reached(classes, traces)
    limit = duration_seconds or MOST_TRACE_SECONDS
    loaded = [_load(trace, trace_format, limit) for trace in traces]
    synthetic_seconds = MOST_TRACE_SECONDS if arrivals.kind == "diurnal" else SYNTHETIC_SECONDS
    lasting = max((trace.seconds for trace in loaded), default=synthetic_seconds)
    duration = duration_seconds or lasting
    sources = []
    for number, (trace, keys) in enumerate(zip(loaded, reached, strict=True)):
        if not keys:
            raise FileError(f"--trace {trace.choice.path}: every class is named by another trace; name one for it")
        declared = sum(_rate(classes[key]) for key in keys)
        mean = trace.requests / trace.seconds if trace.seconds > 0 else 0.0
        if rate_scale is None and (mean <= 0 or declared <= 0):
            raise FileError(
                f"--rate-scale declared: {trace.choice.path} or its classes have no rate; a factor is accepted"
            )
        factor = declared / mean if rate_scale is None else rate_scale
        sources.append(trace.source({key: classes[key] for key in keys}, factor, duration, arrivals, (seed, number)))
    driven = {key for source in sources for key in source.classes}
    for number, key in enumerate(sorted(set(classes) - driven)):
        rate = _rate(classes[key]) * (1.0 if rate_scale is None else rate_scale)
        if rate > 0:
            sources.append(_synthetic(classes[key], arrivals, rate, duration, _seed(seed, 1000 + number)))
    return Traffic(tuple(sources), duration)


def cut(curve: RateCurve, seconds: float) -> RateCurve:
    """The beginning of a curve."""
    if seconds >= curve.seconds[-1]:
        return curve
    inside = sum(1 for second in curve.seconds if second < seconds)
    last = float(np.interp(seconds, curve.seconds[inside - 1 : inside + 1], curve.rates[inside - 1 : inside + 1]))
    return RateCurve((*curve.seconds[:inside], seconds), (*curve.rates[:inside], last))


@dataclass(frozen=True, slots=True)
class _Trace:
    """A trace file that was looked through."""

    choice: TraceChoice
    seconds: float
    requests: float
    curve: RateCurve | None
    """Rates; None where the file has requests."""
    read: Callable[[], Iterator[Request]]

    def source(
        self,
        classes: Mapping[str, PlannedClass],
        factor: float,
        duration: float,
        arrivals: ArrivalChoice,
        seeds: tuple[int, int],
    ) -> Source:
        seed = _seed(*seeds)
        weights = np.array([_rate(item) for item in classes.values()])
        shares = weights / weights.sum() if weights.sum() > 0 else np.full(len(weights), 1.0 / len(weights))
        expected = self.requests * factor
        if self.curve is None:
            keys = tuple(classes)

            def requests() -> Iterator[Request]:
                stream = self.read()
                if factor != 1.0:
                    spread = min(60.0, duration / 60.0)
                    stream = scaled(stream, rate=factor, spread_seconds=spread, seed=seed)
                return _dealt(_before(stream, duration), keys, shares.tolist(), seed)

            return Source(str(self.choice), keys, expected, requests)
        curve = cut(self.curve, duration)

        def drawn() -> Iterator[Request]:
            return merged(
                *(
                    synthetic(
                        key,
                        curve.scaled(rate=factor * float(share)),
                        *_lengths(item),
                        burstiness=arrivals.burstiness(item),
                        seed=_seed(seed, number),
                    )
                    for number, ((key, item), share) in enumerate(zip(classes.items(), shares, strict=True))
                    if share > 0
                )
            )

        return Source(str(self.choice), tuple(classes), expected, drawn)


def _reached(classes: Mapping[str, PlannedClass], traces: Sequence[TraceChoice]) -> list[list[str]]:
    """Class keys of each trace."""
    named: list[list[str]] = []
    for trace in traces:
        own = [key for key in classes if trace.target and f"{key}/".startswith(f"{trace.target}/")]
        if trace.target and not own:
            known = ", ".join(sorted(classes)) or "none"
            raise FileError(f"--trace {trace.path}: no planned traffic class {trace.target}; there are: {known}")
        named.append(own)
    taken = {key for own in named for key in own}
    rest = [key for key in classes if key not in taken]
    return [own if trace.target else rest for trace, own in zip(traces, named, strict=True)]


def _load(choice: TraceChoice, trace_format: str | None, limit: float) -> _Trace:
    try:
        if (trace_format or _told(choice.path)) == "servegen":
            category, model = _series(choice)
            curve = cut(read_servegen_rates(choice.path, category, model), limit)
            return _Trace(choice, curve.seconds[-1], curve.arrivals, curve, lambda: iter(()))
        if choice.series:
            raise FileError(f"{choice.path}: #{choice.series} is for ServeGen's tables only; this file has requests")
        reader = _any_reader if trace_format is None else _READERS[trace_format]

        def read() -> Iterator[Request]:
            return reader(choice.path, "")

        count, last, complete = 0, 0.0, True
        for request in read():
            if request.arrival_seconds >= limit:
                complete = False
                break
            count, last = count + 1, request.arrival_seconds
    except TraceError as error:
        raise FileError(str(error)) from error
    except UnicodeDecodeError as error:
        raise FileError(f"{choice.path}: not UTF-8 text") from error
    except OSError as error:
        raise FileError(f"{choice.path}: cannot be read: {error.strerror}") from error
    if not count:
        raise FileError(f"{choice.path}: no request in there")
    # The last request has its share of the time, too.
    covered = min(limit, last * count / (count - 1)) if count > 1 and last > 0 else 1.0
    return _Trace(choice, covered if complete else limit, float(count), None, read)


def _any_reader(path: Path, traffic_class: str) -> Iterator[Request]:
    try:
        return read_trace(path, traffic_class)
    except TraceError as error:
        raise FileError(f"{error}, ServeGen (CSV: {', '.join(sorted(_SERVEGEN))})") from error


def _told(path: Path) -> str | None:
    """`servegen` where the first line is its header; else the readers of requests say what they accept."""
    with path.open(encoding="utf-8") as file:
        header = {name.strip() for name in file.readline().split(",")}
    return "servegen" if header >= _SERVEGEN else None


def _series(choice: TraceChoice) -> tuple[str, str]:
    with choice.path.open(encoding="utf-8") as file:
        header = [name.strip() for name in file.readline().split(",")]
        if not {"category", "model"} <= set(header):
            raise FileError(
                f"{choice.path}: line 1 names {', '.join(header)}; {', '.join(sorted(_SERVEGEN))} are needed"
            )
        columns = header.index("category"), header.index("model")
        rows = (line.rstrip("\n").split(",") for line in file if line.strip())
        known = sorted({"/".join(row[column] for column in columns) for row in rows if len(row) > max(columns)})
    if not choice.series and len(known) == 1:
        return tuple(known[0].split("/", 1))  # type: ignore[return-value]
    if choice.series not in known:
        said = f"no {choice.series}" if choice.series else "several series"
        raise FileError(f"{choice.path}: {said}; name one as {choice.path.name}#CATEGORY/MODEL: {', '.join(known)}")
    category, _, model = choice.series.partition("/")
    return category, model


def _before(requests: Iterable[Request], seconds: float) -> Iterator[Request]:
    for request in requests:
        if request.arrival_seconds >= seconds:
            return
        yield request


def _dealt(requests: Iterable[Request], keys: Sequence[str], shares: Sequence[float], seed: int) -> Iterator[Request]:
    """Each request to one of the classes, at random by their shares."""
    if len(keys) == 1:
        for request in requests:
            yield request._replace(traffic_class=keys[0])
        return
    edges = np.cumsum(shares)
    edges[-1] = 2.0
    draws = np.random.default_rng(seed)
    for request in requests:
        yield request._replace(traffic_class=keys[int(np.searchsorted(edges, draws.random(), side="right"))])


def _synthetic(item: PlannedClass, arrivals: ArrivalChoice, rate: float, duration: float, seed: int) -> Source:
    curve, burstiness = arrivals.curve(rate, duration), arrivals.burstiness(item)
    name: str = arrivals.kind
    if name == "declared":
        name = "poisson" if burstiness == 1.0 else f"gamma:{burstiness:g}"

    def drawn() -> Iterator[Request]:
        return synthetic(item.key, curve, *_lengths(item), burstiness=burstiness, seed=seed)

    return Source(name, (item.key,), curve.arrivals, drawn)


def _lengths(item: PlannedClass) -> tuple[LognormalLength, LognormalLength]:
    """Lognormal, as declared; cut so that prompt and answer always fit the engine together."""
    lengths = item.resolved.lengths
    most = min(item.longest_sequence // 2, round(4 * max(lengths.output_mean, lengths.output_p95)))
    answer = LognormalLength.of_p95(lengths.output_mean, max(lengths.output_mean, lengths.output_p95), most)
    rest = item.longest_sequence - most
    return LognormalLength.of_p95(lengths.input_mean, max(lengths.input_mean, lengths.input_p95), rest), answer


def _rate(item: PlannedClass) -> float:
    return item.resolved.declared.requests_per_minute / 60.0


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


def _within(value: float, least: float, most: float) -> float:
    if not least <= value <= most:
        raise ValueError
    return value
