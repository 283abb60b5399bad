"""The simulator's speed, memory, precision, and how far it is from a published vLLM replay.

`python -m benchmarks.simulator` prints it.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks import replay
from benchmarks.data import ROOT, data_folder
from benchmarks.results import Figure, Table
from plimsoll.catalog import load_catalog
from plimsoll.performance import LatencyTarget, LatencyTargets, Parallelism, ReplicaShape
from plimsoll.simulation import (
    ClassReport,
    EngineSpec,
    LognormalLength,
    Placement,
    Scenario,
    SimulationReport,
    constant_rate,
    engine_of,
    read_azure,
    simulate,
    synthetic,
)

REPLICAS = 20
SIZES = (10_000, 30_000, 100_000, 300_000, 1_000_000)
RATE = 140.0
"""Requests per second of the synthetic fleet: its batches are about half full."""
_MIB = 1024.0
"""Linux counts resident memory in KiB."""


def run() -> tuple[list[Figure], list[Table]]:
    """All figures and tables."""
    figures, tables = [], []
    for part in (_trace_hour, _growth, _burstgpt):
        found, shown = part()
        figures += found
        tables += shown
    return figures, tables


def _fleet(model: str, tensor: int, sequences: int) -> Scenario:
    catalog = load_catalog()
    shape = ReplicaShape(
        catalog.model(model), catalog.precision("bf16"), catalog.gpu("H100-SXM-80GB"), Parallelism(tensor, 1), 16384
    )
    return Scenario((Placement("h100", engine_of(shape, sequences), REPLICAS, {"chat": 1.0}),))


def _trace_hour() -> tuple[list[Figure], list[Table]]:
    """The Azure conversation trace through 20 replicas of a 70B model."""
    fleet = _fleet("meta-llama/Llama-3.1-70B-Instruct", 4, 128)
    began = time.perf_counter()
    trace = read_azure(data_folder() / "azure_llm_2023/AzureLLMInferenceTrace_conv.csv", "chat")
    report = simulate(fleet, trace, targets={"chat": LatencyTargets(ttft=LatencyTarget(1.0, 95))})
    seconds = time.perf_counter() - began
    served = report.classes["chat"].completed
    return [
        Figure(f"simulating {served:,} requests of the Azure conversation hour, 20 replicas", seconds, "s", 10.0)
    ], []


def _synthetic(count: int) -> SimulationReport:
    prompts = LognormalLength.of_p95(1155, 3000, longest=12_000)
    answers = LognormalLength.of_p95(211, 600, longest=4000)
    stream = synthetic("chat", constant_rate(RATE, count / RATE), prompts, answers, seed=11)
    return simulate(_fleet("meta-llama/Llama-3.1-8B-Instruct", 1, 64), stream, interval_seconds=20.0)


def _child(count: int) -> None:
    """In a process of its own, for the peak of its memory."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB
    began = time.perf_counter()
    report = _synthetic(count)
    seconds = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB
    found, placement = report.classes["chat"], report.placements["h100"]
    document = {
        "requests": found.completed,
        "seconds": seconds,
        "before": before,
        "peak": after,
        "running": placement.running / REPLICAS,
        "waiting": placement.waiting / REPLICAS,
        "precision": _precision(found),
    }
    print(json.dumps(document))


def _precision(found: ClassReport) -> dict[str, float]:
    """Half widths of the 95 % confidence intervals, relative."""
    precision = {}
    for name, summary in (("TTFT", found.ttft), ("TPOT", found.tpot), ("end to end", found.end_to_end)):
        precision[f"{name} mean"] = summary.mean_half_width() / summary.mean_seconds
        for percentile in (50, 95, 99):
            low, high = summary.percentile_interval(percentile)
            precision[f"{name} p{percentile}"] = (high - low) / 2.0 / summary.percentile_seconds(percentile)
    return precision


def _growth() -> tuple[list[Figure], list[Table]]:
    """Time and memory over the number of requests."""
    found = []
    for count in SIZES:
        command = [sys.executable, "-m", "benchmarks.simulator", str(count)]
        path = os.pathsep.join((str(ROOT), *sys.path))
        answer = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}
        )
        found.append(json.loads(answer.stdout))
    largest = found[-1]
    curve = Table(
        f"simulated requests, {REPLICAS} replicas of Llama-3.1-8B on H100, {RATE:.0f} requests/s "
        f"(running {largest['running']:.1f} of 64, waiting {largest['waiting']:.2f} per replica)",
        (
            "requests",
            "seconds",
            "requests per second",
            "peak memory MiB",
            "of it before the run",
            "widest CI of mean, p50, p95",
        ),
        [
            (
                f"{each['requests']:,}",
                f"{each['seconds']:.1f}",
                f"{each['requests'] / each['seconds']:,.0f}",
                f"{each['peak']:.1f}",
                f"{each['before']:.1f}",
                f"{_widest(each['precision']):.1%}",
            )
            for each in found
        ],
    )
    precision = Table(
        "half width of the 95 % confidence interval, relative, by requests",
        ("statistic", *(f"{each['requests']:,}" for each in found)),
        [(name, *(f"{each['precision'][name]:.2%}" for each in found)) for name in largest["precision"]],
    )
    figures = [
        Figure(f"simulating {largest['requests']:,} requests", largest["seconds"], "s", 300.0),
        Figure("peak memory: from the fewest to the most requests", largest["peak"] - found[0]["peak"], "MiB"),
        Figure("widest confidence interval of mean, p50, p95 (±)", 100 * _widest(largest["precision"]), "%", 3.0),
        Figure("the same at 100,000 requests (±)", 100 * _widest(found[2]["precision"]), "%", 3.0),
    ]
    return figures, [curve, precision]


def _widest(precision: dict[str, float]) -> float:
    return max(value for name, value in precision.items() if not name.endswith("p99"))


def _burstgpt() -> tuple[list[Figure], list[Table]]:
    """Predicted against logged, for each acceleration."""
    figures: list[Figure] = []
    over_time, waits = [], []
    engines: list[tuple[str, str, Callable[[str], EngineSpec]]] = [
        *((f"catalogue facts, {gpu}", gpu, replay.analytic_engine) for gpu in replay.GPUS),
        ("decode line fitted at 100x", replay.GPUS[0], replay.fitted_engine),
    ]
    for scale in replay.SCALES:
        logged = replay.log(scale)
        seconds = logged.seconds
        span = float(seconds[-1] - seconds[0])
        over_time.append(
            (
                f"{scale}x", "logged", f"{span:.0f} s", f"{_mean(logged.tokens_per_second, seconds):.0f}",
                f"{_mean(logged.running, seconds):.0f}", f"{_mean(logged.waiting, seconds):.1f}",
                f"{logged.waiting.max():.0f}", f"{logged.kv_usage.max():.0%}", "", "",
            )
        )  # fmt: skip
        stream = replay.requests(scale)
        for name, gpu, make in engines:
            predicted, seen = replay.predict(make(gpu), stream, seconds)
            ends = max(r.arrival_seconds + e for r, e in zip(stream, seen.end_to_end, strict=True))
            off = _mean(np.abs(predicted.running - logged.running), seconds) / _mean(logged.running, seconds)
            over_time.append(
                (
                    "", name, f"{ends:.0f} s ({ends / seconds[-1] - 1:+.0%})",
                    f"{_mean(predicted.tokens_per_second, seconds):.0f}", f"{_mean(predicted.running, seconds):.0f}",
                    f"{_mean(predicted.waiting, seconds):.1f}", f"{predicted.waiting.max():.0f}",
                    f"{predicted.kv_usage.max():.0%}", f"{off:.0%}",
                    f"{np.corrcoef(predicted.running, logged.running)[0, 1]:.3f}",
                )
            )  # fmt: skip
            if name == engines[-1][0] and scale != replay.FITTED_ON:
                figures.append(
                    Figure(
                        f"vLLM replay at {scale}x, steps fitted at 100x: running requests over time, mean error",
                        100 * off,
                        "% of the logged mean",
                    )
                )
            if scale in (100, 500):
                waits.append(_latency_row(f"{scale}x", name, seen, replay.latencies(scale)))
    columns = (
        "arrivals", "source", "last token", "tokens/s", "running", "waiting", "most waiting", "most KV",
        "running over time: mean error", "correlation",
    )  # fmt: skip
    title = (
        "vLLM replay of BurstGPT, Llama-3.2-1B, 24 GiB GPU: server log against the simulator "
        f"(answers: {replay.answer_lengths().sum():,} tokens reconstructed of {replay.logged_total():,.0f} logged)"
    )
    return figures, [
        Table(title, columns, over_time),
        Table(
            "the same replay, seconds of requests, logged / predicted",
            (
                "arrivals",
                "source",
                "TTFT p50",
                "TTFT p90",
                "end to end p50",
                "end to end p90",
                "end to end: median error",
            ),
            waits,
        ),
    ]


def _latency_row(scale: str, name: str, seen: replay.Latencies, logged: replay.Latencies) -> tuple[str, ...]:
    cells = [
        f"{np.quantile(theirs, share):.3g} / {np.quantile(ours, share):.3g}"
        for ours, theirs in ((seen.ttft, logged.ttft), (seen.end_to_end, logged.end_to_end))
        for share in (0.5, 0.9)
    ]
    error = np.median(np.abs(seen.end_to_end / logged.end_to_end - 1.0))
    return (scale, name, *cells, f"{error:.0%}")


def _mean(values: replay.Floats, seconds: replay.Floats) -> float:
    """Over time."""
    return float(np.sum(values[1:] * np.diff(seconds)) / (seconds[-1] - seconds[0]))


def main() -> None:
    """Print, or be the child that runs one size."""
    if len(sys.argv) > 1:
        _child(int(sys.argv[1]))
        return
    figures, tables = run()
    for figure in figures:
        print(figure)
    for table in tables:
        print()
        print(table.text())


if __name__ == "__main__":
    main()
