"""Histograms of every placement over a window: one query per metric for the whole fleet."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from plimsoll.planning.attainment import Histogram
from plimsoll.telemetry.prometheus import Sample
from plimsoll.telemetry.vllm import HISTOGRAMS, PREFIX, TPOT_BY_REQUEST

Ask = Callable[[str], Awaitable[Sequence[Sample]]]
_Place = tuple[str, str]
LATENCIES = {"ttft": HISTOGRAMS["ttft"], "tpot": TPOT_BY_REQUEST, "endToEnd": HISTOGRAMS["end_to_end"]}
LENGTHS = {"input": HISTOGRAMS["input"], "output": HISTOGRAMS["output"]}
_PLACEMENT = "(.+-t[0-9]+p[0-9]+-[0-9a-f]{6})-.+"
"""Placement in the name of a pod (planning/identity.py): added up there, answers stay small and pods that are gone
count."""


async def read_histograms(
    ask: Ask, window_seconds: float, metrics: Mapping[str, Sequence[str]]
) -> dict[_Place, dict[str, Histogram]]:
    """By namespace and placement, then metric. What is negative, not finite or no histogram is left out.

    Args:
        ask: an instant query.
        metrics: `LATENCIES` or `LENGTHS`: histograms that have each, the best one first.

    Raises:
        PrometheusError: a question is not answered.
    """
    found: dict[_Place, dict[str, Histogram]] = {}
    for metric, names in metrics.items():
        for name in names:
            buckets: dict[_Place, dict[float, float]] = {}
            for place, labels, value in _places(await ask(_growth(f"{name}_bucket", window_seconds, ", le"))):
                buckets.setdefault(place, {})[float(labels["bound"])] = value
            sums = {place: value for place, _, value in _places(await ask(_growth(f"{name}_sum", window_seconds)))}
            for place, counts in buckets.items():
                histogram = Histogram.of(counts, sums.get(place, 0.0))
                if histogram is not None:
                    found.setdefault(place, {}).setdefault(metric, histogram)
            if buckets:
                break
    return found


def _growth(metric: str, window_seconds: float, more: str = "") -> str:
    """Series that are scraped twice count once; the bound is copied, since the client drops `le`."""
    once = f'increase({PREFIX}{metric}{{pod=~"{_PLACEMENT}"}}[{window_seconds:.0f}s])'
    apart = f"max by (namespace, pod, model_name, engine{more}) ({once})"
    named = f'label_replace({apart}, "placement", "$1", "pod", "{_PLACEMENT}")'
    if not more:
        return f"sum by (namespace, placement) ({named})"
    return f'sum by (namespace, placement, bound) (label_replace({named}, "bound", "$1", "le", "(.+)"))'


def _places(samples: Sequence[Sample]) -> list[tuple[_Place, dict[str, str], float]]:
    found = []
    for sample in samples:
        labels = dict(sample.labels)
        if labels.get("namespace") and labels.get("placement") and sample.value >= 0:
            found.append(((labels["namespace"], labels["placement"]), labels, sample.value))
    return found
