"""Latencies of running vLLM pods: from a file of /metrics text, or from Prometheus by range queries.

Means of an interval: sum / count of each histogram. How many requests run together: tokens generated / engine steps,
since a step gives each running request one token. Time to first token counts without the time in the queue.
"""

import asyncio
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from prometheus_client.parser import text_string_to_metric_families

from plimsoll.cli.manifests import FileError
from plimsoll.cli.measurements import Measurement
from plimsoll.planning.observed import MOST_CACHED
from plimsoll.telemetry.prometheus import Access, Labels, Prometheus, PrometheusError
from plimsoll.telemetry.vllm import CACHED, HISTOGRAMS, PREFIX

TOKEN_VARIABLE = "PLIMSOLL_PROMETHEUS_TOKEN"  # noqa: S105  (the variable's name)
_RATIOS = {
    "company": ("generation_tokens_total", "iteration_tokens_total_count"),
    "cached": CACHED,
}
_REQUESTS = "e2e_request_latency_seconds_count"
_LEAST_REQUESTS = 20.0


@dataclass(frozen=True, slots=True)
class Query:
    """What to ask a Prometheus for."""

    url: str
    selector: str = ""
    """Label matchers, such as `namespace="chat",model_name="assistant"`."""
    prefix: str = PREFIX
    start: float = 0.0
    end: float = 0.0
    step_seconds: float = 300.0
    token_file: Path | None = None


def read_metrics(path: Path, prefix: str = PREFIX, before: Path | None = None) -> list[Measurement]:
    """One row per engine of a /metrics text: since its start, or since an earlier text of the same pod.

    Raises:
        FileError: it is no such text, or has none of vLLM's metrics.
    """
    samples = _samples(path, prefix)
    if before is not None:
        earlier = _samples(before, prefix)
        samples = {key: value - earlier.get(key, 0.0) for key, value in samples.items()}
        if any(value < 0 for value in samples.values()):
            raise FileError(f"{path}: counters are below those of {before}: the pod has restarted, or they are swapped")
    engines = sorted({labels for _, labels in samples}, key=sorted)
    rows = []
    for labels in engines:
        mine = {name: value for (name, of), value in samples.items() if of == labels}
        row = _row(f"{path}{_shown(labels)}", _means(mine), labels)
        if row is not None:
            rows.append(row)
    if not rows:
        raise FileError(
            f"{path}: no {prefix}request_prompt_tokens and latencies with at least {_LEAST_REQUESTS:.0f} requests"
        )
    return rows


def read_prometheus(query: Query) -> list[Measurement]:
    """One row per pod and interval, by one range query per metric.

    Raises:
        FileError: Prometheus cannot be asked, or has no such series.
    """
    try:
        figures = asyncio.run(_figures(query))
    except PrometheusError as error:
        raise FileError(f"--prometheus: {error}") from error
    rows = []
    for (labels, moment), values in sorted(figures.items(), key=lambda item: (sorted(item[0][0]), item[0][1])):
        row = _row(f"{_shown(labels)} at {moment:.0f}", values, labels)
        if row is not None:
            rows.append(row)
    if not rows:
        raise FileError(
            f"{query.url}: no interval with at least {_LEAST_REQUESTS:.0f} requests of "
            f"{query.prefix}request_prompt_tokens{{{query.selector}}}: see --selector, --metrics-prefix and --range"
        )
    return rows


async def _figures(query: Query) -> dict[tuple[Labels, float], dict[str, float]]:
    """Figures by series and moment."""
    figures: dict[tuple[Labels, float], dict[str, float]] = {}
    window = f"[{query.step_seconds:.0f}s]"

    def series(metric: str) -> str:
        return f"{query.prefix}{metric}{{{query.selector}}}{window}"

    def mean(name: str) -> str:
        return f"rate({series(f'{name}_sum')}) / rate({series(f'{name}_count')})"

    asked: dict[str, Sequence[str]] = {figure: [mean(name) for name in names] for figure, names in HISTOGRAMS.items()}
    asked |= {figure: [f"rate({series(above)}) / rate({series(below)})"] for figure, (above, below) in _RATIOS.items()}
    asked["requests"] = [f"increase({series(_REQUESTS)})"]
    async with Prometheus(_access(query)) as prometheus:
        for figure, expressions in asked.items():
            for expression in expressions:
                found = await prometheus.range(expression, query.start, query.end, query.step_seconds)
                for sample in found:
                    figures.setdefault((sample.labels, sample.moment), {})[figure] = sample.value
                if found:
                    break
    return figures


def _samples(path: Path, prefix: str) -> dict[tuple[str, Labels], float]:
    """Values by name without the prefix, and labels without buckets and reasons; those of equal labels added up."""
    found: dict[tuple[str, Labels], float] = {}
    try:
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            for sample in family.samples:
                if sample.name.startswith(prefix) and "le" not in sample.labels:
                    kept = {
                        name: value for name, value in sample.labels.items() if name in ("model_name", "engine", "pod")
                    }
                    key = (sample.name.removeprefix(prefix), frozenset(kept.items()))
                    found[key] = found.get(key, 0.0) + float(sample.value)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise FileError(f"{path}: not Prometheus' text format: {error}") from error
    if not found:
        raise FileError(f"{path}: no metric begins with {prefix}; see --metrics-prefix")
    return found


def _means(samples: Mapping[str, float]) -> dict[str, float]:
    means: dict[str, float] = {}
    for figure, names in HISTOGRAMS.items():
        for name in names:
            count = samples.get(f"{name}_count", 0.0)
            if count > 0:
                means[figure] = samples.get(f"{name}_sum", 0.0) / count
                break
    for figure, (above, below) in _RATIOS.items():
        if samples.get(below, 0.0) > 0:
            means[figure] = samples.get(above, 0.0) / samples[below]
    means["requests"] = samples.get(_REQUESTS, 0.0)
    return means


def _row(source: str, given: Mapping[str, float], labels: Labels) -> Measurement | None:
    """A row, or None where an interval had too few requests or lacks lengths, company or latencies."""
    figures = {name: value for name, value in given.items() if isfinite(value) and value >= 0}
    if figures.get("requests", 0.0) < _LEAST_REQUESTS or not {"input", "output", "company"} <= set(figures):
        return None
    ttft, queue = figures.get("ttft"), figures.get("queue")
    first = None
    if ttft is not None and queue is not None and ttft > queue and figures.get("cached", 0.0) <= MOST_CACHED:
        first = ttft - queue
    tpot = figures.get("tpot") or None
    if first is None and tpot is None:
        return None
    return Measurement(
        source=source,
        input_tokens=max(1.0, figures["input"]),
        output_tokens=max(1.0, figures["output"]),
        model=dict(labels).get("model_name"),
        running=max(1.0, figures["company"]),
        ttft=first,
        tpot=tpot,
    )


def _shown(labels: Labels) -> str:
    known = dict(labels)
    return "{" + ", ".join(known[name] for name in ("pod", "instance", "engine") if name in known) + "}"


# --- Prometheus -------------------------------------------------------------------------------------------------------


def _access(query: Query) -> Access:
    Access(query.url).check()
    parts = urlsplit(query.url)
    # What the environment says of proxies counts here, as for other commands.
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    token = "" if query.token_file else os.environ.get(TOKEN_VARIABLE, "").strip()
    return Access(query.url, query.token_file, token, proxy=proxy)
