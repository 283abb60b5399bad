"""The queue model against the request-level simulator over loads, shapes and lengths; and its speed.

`python -m benchmarks.queueing` prints it. Both sides take their step times from the same model, so the figures are
about queueing alone. No constant was fitted to these runs, but the cases are not unseen either: the approximations were
chosen with a throw-away step-by-step simulator on partly the same cases, and corrected where earlier runs of this table
(with other seeds) pointed at a cause. Read the table as how well they hold here, not as held-out accuracy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.progress import say
from benchmarks.results import Figure, Table
from plimsoll.catalog import Catalog, load_catalog
from plimsoll.performance import (
    Arrivals,
    LatencyTarget,
    LatencyTargets,
    Parallelism,
    Prediction,
    ReplicaShape,
    TokenLengths,
    capacities,
    capacity,
    memory_fit,
    parallelism_problem,
    predict,
)
from plimsoll.performance.monotone import MAX_UTILIZATION
from plimsoll.simulation import (
    ClassReport,
    LatencySummary,
    LognormalLength,
    Placement,
    Scenario,
    constant_rate,
    engine_of,
    simulate,
    synthetic,
)

LLAMA_8B, LLAMA_70B = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"
QWEN_30B_A3B = "Qwen/Qwen3-30B-A3B"
PERCENTILES = (50, 95, 99)
OPTIONS = 10_000
SMOOTH, BURSTY = 1.0, 2.0
REQUESTS = {0.3: 100_000, 0.6: 100_000, 0.8: 200_000, 0.9: 500_000}
"""Of a run with Poisson arrivals, by load; twice as many where they are bursty. Not enough for an interval of 3 % where
rare waits for a slot make up most of the mean time to first token."""
BURSTY_LOADS = (0.3, 0.6, 0.8)


@dataclass(frozen=True, slots=True)
class Case:
    """A replica and what it serves."""

    name: str
    model: str
    gpu: str
    tensor: int
    lengths: TokenLengths
    max_num_seqs: int
    pipeline: int = 1

    def shape(self, catalog: Catalog) -> ReplicaShape:
        """The replica."""
        return ReplicaShape(
            catalog.model(self.model),
            catalog.precision("bf16"),
            catalog.gpu(self.gpu),
            Parallelism(self.tensor, self.pipeline),
            32768,
        )


CHAT = TokenLengths(512, 256, 1024, 512)
CASES = (
    Case("chat, 8B, H100, 128", LLAMA_8B, "H100-SXM-80GB", 1, CHAT, 128),
    Case("chat, 8B, H100, 16", LLAMA_8B, "H100-SXM-80GB", 1, CHAT, 16),
    Case("short, 8B, H100, 256", LLAMA_8B, "H100-SXM-80GB", 1, TokenLengths(128, 64, 256, 128), 256),
    Case("equal lengths, 8B, H100, 64", LLAMA_8B, "H100-SXM-80GB", 1, TokenLengths(512, 256, 512, 256), 64),
    Case("long prompts, 8B, H100, 64", LLAMA_8B, "H100-SXM-80GB", 1, TokenLengths(4000, 150, 6400, 300), 64),
    Case("wide lengths, 70B, 4 x H100, 128", LLAMA_70B, "H100-SXM-80GB", 4, TokenLengths(1024, 256, 2560, 768), 128),
    Case("mostly prompts, 8B, H100, 64", LLAMA_8B, "H100-SXM-80GB", 1, TokenLengths(3800, 30, 9000, 80), 64),
    Case("labels, 8B, H100, 64", LLAMA_8B, "H100-SXM-80GB", 1, TokenLengths(3000, 5, 9000, 10), 64),
    Case("chat, 30B with experts, 2 x H100, 64", QWEN_30B_A3B, "H100-SXM-80GB", 2, CHAT, 64),
    Case("chat, 70B, L40S, TP 2, PP 4, 64", LLAMA_70B, "L40S", 2, CHAT, 64, pipeline=4),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One run against its prediction."""

    case: str
    load: float
    burstiness: float
    latency: str
    errors: tuple[float, ...]
    """Of mean and percentiles, as parts: predicted / simulated - 1."""
    interval: float
    """Half of the simulated mean's 95 % confidence interval, as a part of it."""

    @property
    def allowed(self) -> float:
        """Largest error that the target grants."""
        return 0.10 if self.load <= 0.8 and self.burstiness == SMOOTH else 0.20


def cells() -> Iterator[Cell]:
    """All runs of the grid."""
    catalog = load_catalog()
    for number, case in enumerate(CASES):
        for burstiness in (SMOOTH, BURSTY):
            for load in REQUESTS if burstiness == SMOOTH else BURSTY_LOADS:
                say(f"{case.name}: {load:.0%}, burstiness {burstiness:.0f}")
                yield from _compare(catalog, case, load, burstiness, seed=number)


def _compare(catalog: Catalog, case: Case, load: float, burstiness: float, seed: int) -> Iterator[Cell]:
    shape, lengths = case.shape(catalog), case.lengths
    arrivals = Arrivals(burstiness)
    most = capacity(shape, lengths, LatencyTargets(), max_num_seqs=case.max_num_seqs, arrivals=arrivals)
    rate = load * most.max_rate_per_second / MAX_UTILIZATION
    seconds = REQUESTS[load] * (1 if burstiness == SMOOTH else 2) / rate
    fleet = Scenario((Placement("one", engine_of(shape, case.max_num_seqs), 1, {"all": 1.0}),))
    requests = synthetic(
        "all",
        constant_rate(rate, seconds),
        LognormalLength.of_p95(lengths.input_mean, lengths.input_p95),
        LognormalLength.of_p95(lengths.output_mean, lengths.output_p95),
        burstiness=burstiness,
        seed=seed,
    )
    report = simulate(fleet, requests, warm_up_seconds=0.05 * seconds, interval_seconds=seconds / 40.0)
    found = report.classes["all"]

    def predicted(percentile: int | None) -> Prediction:
        target = LatencyTarget(1.0, percentile)
        return predict(
            shape, lengths, LatencyTargets(target, target, target), rate, case.max_num_seqs, arrivals=arrivals
        )

    predictions = [predicted(percentile) for percentile in (None, *PERCENTILES)]
    parts: tuple[tuple[str, Callable[[ClassReport], LatencySummary], Callable[[Prediction], float]], ...] = (
        ("TTFT", lambda one: one.ttft, lambda one: one.ttft_seconds),
        ("TPOT", lambda one: one.tpot, lambda one: one.tpot_seconds),
        ("end to end", lambda one: one.end_to_end, lambda one: one.end_to_end_seconds),
    )
    for name, measured, forecast in parts:
        summary = measured(found)
        truth = (summary.mean_seconds, *(summary.percentile_seconds(percentile) for percentile in PERCENTILES))
        errors = tuple(forecast(guess) / real - 1.0 for guess, real in zip(predictions, truth, strict=True))
        yield Cell(case.name, load, burstiness, name, errors, summary.mean_half_width() / summary.mean_seconds)


def speed() -> list[tuple[str, float]]:
    """CPU seconds of the highest rates of 10,000 different options, by kind of target."""
    catalog = load_catalog()
    shapes: list[ReplicaShape] = []
    for model in sorted(catalog.models):
        for gpu in sorted(catalog.gpus):
            for precision in ("bf16", "fp8", "int8", "int4"):
                for tensor in (1, 2, 4, 8):
                    for pipeline in (1, 2):
                        shape = ReplicaShape(
                            catalog.model(model),
                            catalog.precision(precision),
                            catalog.gpu(gpu),
                            Parallelism(tensor, pipeline),
                            8192,
                        )
                        if len(shapes) < OPTIONS and _starts(shape):
                            shapes.append(shape)
    kinds = {
        "no target": LatencyTargets(),
        "TTFT and TPOT": LatencyTargets(ttft=LatencyTarget(0.5, 95), tpot=LatencyTarget(0.04, 95)),
        "end to end": LatencyTargets(end_to_end=LatencyTarget(10.0, 95)),
    }
    capacities(shapes[:100], CHAT, kinds["TTFT and TPOT"])
    found = []
    for name, targets in kinds.items():
        began = time.process_time()
        capacities(shapes, CHAT, targets)
        found.append((name, time.process_time() - began))
    return found


def _starts(shape: ReplicaShape) -> bool:
    return parallelism_problem(shape.model, shape.gpu, shape.parallelism) is None and memory_fit(shape).fits


def run() -> tuple[list[Figure], list[Table]]:
    """All figures and tables."""
    found = list(cells())
    figures: list[Figure] = []
    groups = (
        ("Poisson, up to 80 % load", 10.0, [cell for cell in found if cell.allowed == 0.10]),
        ("Poisson, 90 % load", 20.0, [cell for cell in found if cell.load > 0.8]),
        ("Gamma with CV 2, up to 80 % load", 20.0, [cell for cell in found if cell.burstiness == BURSTY]),
    )
    for name, target, members in groups:
        errors = np.abs([cell.errors[:3] for cell in members]) * 100.0
        figures.append(
            Figure(f"queue model, {name}: largest error of mean, p50, p95", float(errors.max()), "%", target)
        )
        figures.append(Figure(f"queue model, {name}: median error", float(np.median(errors)), "%"))
        figures.append(Figure(f"queue model, {name}: part that misses", float((errors > target).mean()) * 100.0, "%"))
        tails = np.abs([cell.errors[3] for cell in members]) * 100.0
        figures.append(Figure(f"queue model, {name}: median error of p99", float(np.median(tails)), "%"))
    for name in ("TTFT", "TPOT", "end to end"):
        intervals = np.array([cell.interval for cell in found if cell.latency == name]) * 100.0
        simulated = f"simulator's confidence interval of the mean, {name}"
        figures.append(Figure(f"queue model, {simulated}: widest", float(intervals.max()), "%", 3.0))
        figures.append(
            Figure(f"queue model, {simulated}: part within 3 %", float((intervals <= 3.0).mean()) * 100.0, "%")
        )
    figures += [
        Figure(f"queue model: {OPTIONS} options, {name}", seconds, "CPU seconds", 1.0) for name, seconds in speed()
    ]
    columns = ("case", "load", "burstiness", "latency", "mean", "p50", "p95", "p99", "interval", "misses")
    table = Table("The queue model against the simulator: errors in %", columns, [_row(cell) for cell in found])
    return figures, [table]


def _row(cell: Cell) -> tuple[str, ...]:
    names = ("mean", *(f"p{percentile}" for percentile in PERCENTILES[:2]))
    missed = [name for name, error in zip(names, cell.errors, strict=False) if abs(error) > cell.allowed]
    return (
        cell.case,
        f"{cell.load:.0%}",
        f"{cell.burstiness:.0f}",
        cell.latency,
        *(f"{error * 100:+.1f}" for error in cell.errors),
        f"± {cell.interval * 100:.1f}",
        ", ".join(missed),
    )


if __name__ == "__main__":
    for shown in run():
        for one in shown:
            print(one.text() if isinstance(one, Table) else one)
