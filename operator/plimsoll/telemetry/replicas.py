"""What every pod's engine counted lately: one query per metric for all pods, joined by namespace and pod."""

from collections.abc import Awaitable, Callable, Sequence

from plimsoll.planning.observed import Figures, PodFigures, Total
from plimsoll.telemetry.prometheus import Sample
from plimsoll.telemetry.vllm import CACHED, HISTOGRAMS, PREFIX

Ask = Callable[[str], Awaitable[Sequence[Sample]]]
_Pod = tuple[str, str]
_FIGURES = ("input", "output", "ttft", "tpot", "queue")


async def read_figures(ask: Ask, window_seconds: float) -> Figures:
    """Growth over the window. Prometheus adds up the engines of a pod and sees through resets of counters.

    Pods without a fresh sample, and values that are negative or not finite, are left out.

    Args:
        ask: an instant query.

    Raises:
        PrometheusError: a question is not answered.
    """
    clock = f"max by (namespace, pod) (timestamp({_series(HISTOGRAMS['ttft'][0] + '_count')}))"
    ages = {pod: max(0.0, sample.moment - sample.value) for pod, sample in _by_pod(await ask(clock)).items()}
    totals: dict[_Pod, dict[str, Total]] = {pod: {} for pod in ages}

    async def take(figure: str, above: str, below: str) -> None:
        sums, counts = await _growth(ask, above, window_seconds), await _growth(ask, below, window_seconds)
        for pod, found in totals.items():
            if figure not in found and pod in sums and pod in counts:
                found[figure] = Total(sums[pod], counts[pod])

    for figure in _FIGURES:
        for name in HISTOGRAMS[figure]:
            await take(figure, f"{name}_sum", f"{name}_count")
            if all(figure in found for found in totals.values()):
                break
    await take("cached", *CACHED)
    pods = (PodFigures(*pod, ages[pod], found) for pod, found in sorted(totals.items()))
    return Figures(window_seconds, tuple(pods))


async def _growth(ask: Ask, metric: str, window_seconds: float) -> dict[_Pod, float]:
    answer = await ask(f"sum by (namespace, pod) (increase({_series(metric)}[{window_seconds:.0f}s]))")
    return {pod: sample.value for pod, sample in _by_pod(answer).items() if sample.value >= 0}


def _series(metric: str) -> str:
    return f'{PREFIX}{metric}{{pod!=""}}'


def _by_pod(samples: Sequence[Sample]) -> dict[_Pod, Sample]:
    found: dict[_Pod, Sample] = {}
    for sample in samples:
        labels = dict(sample.labels)
        if labels.get("namespace") and labels.get("pod"):
            found[labels["namespace"], labels["pod"]] = sample
    return found
