"""What arrives and what waits: one query per metric for all pods, and what a gateway counts, as one value."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from plimsoll.planning.arrivals import Load, PodLoad
from plimsoll.telemetry.prometheus import Sample
from plimsoll.telemetry.vllm import CACHE_USAGE, ENDED, HISTOGRAMS, PREEMPTIONS, PREFIX, RUNNING, WAITING

Ask = Callable[[str], Awaitable[Sequence[Sample]]]
_Pod = tuple[str, str]
_TELL_APART = "namespace, pod, model_name, engine"
"""Series that agree in these are one series that is scraped twice."""


async def read_load(ask: Ask, seconds: float, window_seconds: float, arrivals_query: str = "") -> Load:
    """The last window. Values that are negative or not finite are left out.

    Args:
        ask: an instant query.
        seconds: now, by the caller's clock.
        arrivals_query: requests per second at a gateway, with labels `namespace`, `deployment` and `traffic`.

    Raises:
        PrometheusError: a question is not answered.
    """
    window = f"{window_seconds:.0f}s"
    end_to_end = HISTOGRAMS["end_to_end"][0]
    clock = f"max by (namespace, pod) (timestamp({_series(RUNNING)}))"
    questions = {
        "clock": clock,
        "running": _gauge(RUNNING),
        "waiting": _gauge(WAITING),
        "running_before": _gauge(RUNNING, f" offset {window}"),
        "waiting_before": _gauge(WAITING, f" offset {window}"),
        "ended": _rate(ENDED, window, ", finished_reason"),
        "stays": _rate(f"{end_to_end}_sum", window),
        "stayed": _rate(f"{end_to_end}_count", window),
        "cache": " or ".join(f"max by (namespace, pod) ({_series(name)})" for name in CACHE_USAGE),
        "preemptions": _rate(PREEMPTIONS, window),
    }
    if arrivals_query:
        questions["routed"] = f"sum by (namespace, deployment, traffic) ({arrivals_query})"
    # Together, so that they are of the same scrapes as nearly as can be.
    answers = dict(zip(questions, await asyncio.gather(*map(ask, questions.values())), strict=True))
    clocks = _by_pod(answers["clock"])
    figures = {
        name: {pod: sample.value for pod, sample in _by_pod(answer).items() if sample.value >= 0}
        for name, answer in answers.items()
        if name not in ("clock", "routed")
    }
    pods = [
        _load(pod, max(0.0, clocks[pod].moment - clocks[pod].value), figures)
        for pod in sorted(clocks)
        if pod in figures["running"]
    ]
    return Load(seconds, window_seconds, tuple(pods), _routed(answers.get("routed", ())))


def _load(pod: _Pod, age_seconds: float, figures: Mapping[str, Mapping[_Pod, float]]) -> PodLoad:
    def figure(name: str) -> float | None:
        return figures[name].get(pod)

    began = figure("running_before")
    return PodLoad(
        *pod,
        age_seconds=age_seconds,
        running=figures["running"][pod],
        waiting=figure("waiting") or 0.0,
        before=None if began is None else began + (figure("waiting_before") or 0.0),
        ended=figure("ended"),
        stays=figure("stays"),
        stayed=figure("stayed"),
        cache_usage=figure("cache"),
        preemptions=figure("preemptions"),
    )


def _routed(samples: Sequence[Sample]) -> dict[tuple[str, str, str], float]:
    found: dict[tuple[str, str, str], float] = {}
    for sample in samples:
        labels = dict(sample.labels)
        key = tuple(labels.get(name, "") for name in ("namespace", "deployment", "traffic"))
        if all(key) and sample.value >= 0:
            found[key[0], key[1], key[2]] = sample.value
    return found


def _gauge(metric: str, modifier: str = "") -> str:
    return f"sum by (namespace, pod) (max by ({_TELL_APART}) ({_series(metric)}{modifier}))"


def _rate(metric: str, window: str, more: str = "") -> str:
    return f"sum by (namespace, pod) (max by ({_TELL_APART}{more}) (rate({_series(metric)}[{window}])))"


def _series(metric: str) -> str:
    return f'{PREFIX}{metric}{{pod!=""}}'


def _by_pod(samples: Sequence[Sample]) -> dict[_Pod, Sample]:
    found: dict[_Pod, Sample] = {}
    for sample in samples:
        labels = dict(sample.labels)
        if labels.get("namespace") and labels.get("pod"):
            found[labels["namespace"], labels["pod"]] = sample
    return found
