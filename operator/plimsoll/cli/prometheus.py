"""Latencies of running vLLM pods: from a file of /metrics text, or from Prometheus by range queries.

Means of an interval: sum / count of each histogram. How many requests run together: tokens generated / engine steps,
since a step gives each running request one token. Time to first token counts without the time in the queue.
"""

import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPMessage
from math import isfinite
from pathlib import Path
from typing import IO, Any

from prometheus_client.parser import text_string_to_metric_families

from plimsoll.cli.manifests import FileError
from plimsoll.cli.measurements import Measurement

TOKEN_VARIABLE = "PLIMSOLL_PROMETHEUS_TOKEN"  # noqa: S105  (the variable's name)
PREFIX = "vllm:"
_HISTOGRAMS = {
    "input": ("request_prompt_tokens",),
    "output": ("request_generation_tokens",),
    "ttft": ("time_to_first_token_seconds",),
    "tpot": (
        "inter_token_latency_seconds",
        "time_per_output_token_seconds",
        "request_time_per_output_token_seconds",
    ),
    "end_to_end": ("e2e_request_latency_seconds",),
    "queue": ("request_queue_time_seconds",),
}
"""Figure -> histograms that have it, the newest name first."""
_RATIOS = {
    "company": ("generation_tokens_total", "iteration_tokens_total_count"),
    "cached": ("prefix_cache_hits_total", "prefix_cache_queries_total"),
}
_REQUESTS = "e2e_request_latency_seconds_count"
_LEAST_REQUESTS = 20.0
_MOST_CACHED = 0.05
"""Of the prompts' tokens; with more, prefill is faster than its length says."""
_TIMEOUT_SECONDS = 30.0
_LARGEST = 64 * 2**20
_Labels = frozenset[tuple[str, str]]


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
    figures: dict[tuple[_Labels, float], dict[str, float]] = {}
    ask = _asker(query)
    window = f"[{query.step_seconds:.0f}s]"

    def series(metric: str) -> str:
        return f"{query.prefix}{metric}{{{query.selector}}}{window}"

    def mean(name: str) -> str:
        return f"rate({series(f'{name}_sum')}) / rate({series(f'{name}_count')})"

    asked: dict[str, Sequence[str]] = {figure: [mean(name) for name in names] for figure, names in _HISTOGRAMS.items()}
    asked |= {figure: [f"rate({series(above)}) / rate({series(below)})"] for figure, (above, below) in _RATIOS.items()}
    asked["requests"] = [f"increase({series(_REQUESTS)})"]
    for figure, expressions in asked.items():
        for expression in expressions:
            found = ask(expression)
            for labels, moment, value in found:
                figures.setdefault((labels, moment), {})[figure] = value
            if found:
                break
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


def _samples(path: Path, prefix: str) -> dict[tuple[str, _Labels], float]:
    """Values by name without the prefix, and labels without buckets and reasons; those of equal labels added up."""
    found: dict[tuple[str, _Labels], float] = {}
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
    for figure, names in _HISTOGRAMS.items():
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


def _row(source: str, given: Mapping[str, float], labels: _Labels) -> Measurement | None:
    """A row, or None where an interval had too few requests or lacks lengths, company or latencies."""
    figures = {name: value for name, value in given.items() if isfinite(value) and value >= 0}
    if figures.get("requests", 0.0) < _LEAST_REQUESTS or not {"input", "output", "company"} <= set(figures):
        return None
    ttft, queue = figures.get("ttft"), figures.get("queue")
    first = None
    if ttft is not None and queue is not None and ttft > queue and figures.get("cached", 0.0) <= _MOST_CACHED:
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


def _shown(labels: _Labels) -> str:
    known = dict(labels)
    return "{" + ", ".join(known[name] for name in ("pod", "instance", "engine") if name in known) + "}"


# --- HTTP -------------------------------------------------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect could take the token elsewhere."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Never."""


def _asker(query: Query) -> Callable[[str], list[tuple[_Labels, float, float]]]:
    """Asks one range query: labels, moment and value of each sample."""
    parts = urllib.parse.urlsplit(query.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise FileError(f"--prometheus {query.url}: an address that begins with https:// or http:// is needed")
    if parts.username or parts.password:
        raise FileError(f"--prometheus: no credentials in the address; give --token-file or {TOKEN_VARIABLE}")
    headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}
    token = _token(query.token_file)
    if token:
        if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise FileError("--prometheus: a token goes over https only (or to localhost)")
        headers["Authorization"] = f"Bearer {token}"
    handlers = (_NoRedirect(), urllib.request.HTTPSHandler(context=ssl.create_default_context()))
    opener = urllib.request.build_opener(*handlers)
    address = query.url.rstrip("/") + "/api/v1/query_range"

    def ask(expression: str) -> list[tuple[_Labels, float, float]]:
        fields = {"query": expression, "start": query.start, "end": query.end, "step": query.step_seconds}
        body = urllib.parse.urlencode(fields).encode()
        request = urllib.request.Request(address, data=body, headers=headers)  # noqa: S310  (scheme checked above)
        try:
            with opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                text = answer.read(_LARGEST + 1)
        except urllib.error.HTTPError as error:
            raise FileError(f"{query.url}: HTTP {error.code} to {expression}: {_said(error)}") from error
        except OSError as error:
            raise FileError(f"{query.url}: {getattr(error, 'reason', error)}") from error
        if len(text) > _LARGEST:
            raise FileError(
                f"{query.url}: an answer above {_LARGEST // 2**20} MiB; shorten --range or narrow --selector"
            )
        try:
            return list(_values(json.loads(text)))
        except (KeyError, TypeError, ValueError) as error:
            raise FileError(f"{query.url}: not an answer of Prometheus' query_range") from error

    return ask


def _values(answer: Mapping[str, Any]) -> list[tuple[_Labels, float, float]]:
    found = []
    for series in answer["data"]["result"]:
        labels = {str(name): str(value) for name, value in series["metric"].items() if name not in ("__name__", "le")}
        for moment, text in series["values"]:
            value = float(text)
            if isfinite(value):
                found.append((frozenset(labels.items()), float(moment), value))
    return found


def _token(path: Path | None) -> str:
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: the token cannot be read") from error


def _said(error: urllib.error.HTTPError) -> str:
    with error:
        return error.read(300).decode("utf-8", "replace").strip() or error.reason
