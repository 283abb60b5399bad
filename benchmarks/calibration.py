"""Fits from a few rows of measurements predict the others; llm-inferno's coefficients give back its own lines.

Priors never come from the GPU at hand: H100 starts from A100's published coefficients and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.data import data_folder
from benchmarks.results import Figure, Table
from benchmarks.validation_rows import NVIDIA, Group, argonne
from plimsoll.catalog import load_catalog
from plimsoll.cli.benchmark_files import Buckets, read_measurements
from plimsoll.cli.measurements import Defaults, observations
from plimsoll.performance import FloatArray, Latencies, Observation, Prior, RooflineSteps, calibrate, prior_for
from plimsoll.performance.calibration import Errors

MODEL = "meta-llama/Llama-3.1-8B-Instruct"
SEVEN = ((1, 128), (1, 1024), (1, 2048), (16, 512), (16, 1024), (32, 1024), (64, 512))
"""Batch and length of seven rows that differ in both, chosen once, before anything was fitted to them."""
OTHER = dict(zip(NVIDIA, reversed(NVIDIA), strict=True))
INFERNO = {"A100": "A100-SXM-80GB", "H100": "H100-SXM-80GB", "llama3_8b": MODEL}


def rows_of(group: Group, points: Sequence[tuple[int, int]] | None = None) -> Iterator[Observation]:
    """Rows of a group: all usual ones, or the first of each of some batches and lengths."""
    usual = group.usual()
    seen: set[tuple[int, int]] = set()
    for number, (batch, length) in enumerate(zip(group.batch, group.input_tokens, strict=True)):
        point = (int(batch), int(length))
        if usual[number] and (points is None or (point in points and point not in seen)):
            seen.add(point)
            measured = Latencies(end_to_end=float(group.seconds[number]))
            source = f"{group.gpu} TP{group.gpus} {point}"
            yield Observation(group.shape, float(length), float(length), float(batch), True, measured, source)
    if points is None and group.first_token_seconds is not None:
        measured = Latencies(ttft=group.first_token_seconds)
        yield Observation(group.shape, 1024.0, 1024.0, 16.0, True, measured, f"{group.gpu} first token")


def prior_of_the_other(gpu: str) -> Prior:
    """Of the GPU that the rows are not of, trusted as little as that of a GPU that was not measured."""
    catalog = load_catalog()
    wide = prior_for(catalog.gpu("L40S")).spread
    return Prior(prior_for(catalog.gpu(OTHER[gpu])).centre, wide, f"published for {OTHER[gpu]}")


def missed(groups: Sequence[Group], steps: RooflineSteps, *, without: Sequence[tuple[int, int]] = ()) -> FloatArray:
    """Absolute errors of end-to-end latency, as shares."""
    parts = []
    for group in groups:
        points = zip(group.batch, group.input_tokens, strict=True)
        keep = group.usual() & np.array([(int(batch), int(length)) not in without for batch, length in points])
        parts.append(np.abs(group.predicted(steps) / group.seconds - 1)[keep])
    return np.concatenate(parts)


def run() -> tuple[list[Figure], list[str], list[Table]]:
    """Fit and predict."""
    figures: list[Figure] = []
    few: list[tuple[str, ...]] = []
    whole: list[tuple[str, ...]] = []
    for gpu in NVIDIA:
        groups = argonne("vLLM", gpu.__eq__)
        mine = [group for group in groups if group.model == MODEL]
        single = [group for group in mine if group.gpus == 1]
        prior = prior_of_the_other(gpu)
        found = calibrate([row for group in single for row in rows_of(group, SEVEN)], prior)
        before, after = RooflineSteps(prior.centre), RooflineSteps(found.coefficients)
        parts = (
            ("other rows of the model at TP 1", single, SEVEN),
            ("the model at TP 2 and more", [group for group in mine if group.gpus > 1], ()),
            ("other models, all TP", [group for group in groups if group.model != MODEL], ()),
        )
        for what, where, without in parts:
            was, now = missed(where, before, without=without), missed(where, after, without=without)
            few.append((gpu, what, str(len(now)), _share(was), _share(now)))
            if where is single:
                name = f"calibration from seven rows, {gpu}, other rows"
                figures.append(Figure(f"{name}, median error", float(100 * np.median(now)), "%"))
                figures.append(Figure(f"{name}, p90 error", float(100 * np.quantile(now, 0.9)), "%"))
        fit = calibrate([row for group in mine for row in rows_of(group)])
        whole.append(
            (
                f"Argonne, Llama-3-8B on {gpu}, all TP",
                str(fit.rows),
                *(_text(each) for each in (fit.published_errors, fit.errors, fit.left_out_errors)),
            )
        )
    whole += list(_inferno(data_folder() / "llm_inferno_wva" / "model-data.json"))
    note = (
        "Calibration: Argonne's vLLM rows of 2024 whose KV cache fits. The published coefficients of A100 and H100 "
        "were fitted to these rows among others, so their errors on them are no prediction; the seven rows start from "
        "the other GPU's. llm-inferno's lines are illustrative by its own word: they test the import, not the model."
    )
    tables = [
        Table(
            "Seven rows of Llama-3-8B at TP 1 predict the others: median / 90th percentile of the error",
            ("GPU", "rows", "number", "the other GPU's coefficients", "after calibration"),
            few,
        ),
        Table(
            "Fits of whole tables: median / 90th percentile of the error",
            ("table", "rows", "published", "fitted, in the sample", "each point from the others"),
            whole,
        ),
    ]
    return figures, [note], tables


def _inferno(path: Path) -> Iterator[tuple[str, ...]]:
    """Of llama3_8b on A100 and H100, one, two and four of them."""
    found, _ = observations(read_measurements(path, Buckets()), Defaults(names=INFERNO), load_catalog())
    for gpu in (INFERNO["A100"], INFERNO["H100"]):
        fit = calibrate([row for row in found if (row.shape.model.name, row.shape.gpu.name) == (MODEL, gpu)])
        errors = (fit.published_errors, fit.errors, fit.left_out_errors)
        yield (f"llm-inferno, llama3_8b on {gpu}", str(fit.rows), *(_text(each) for each in errors))


def _share(values: FloatArray) -> str:
    return f"{100 * np.median(values):.1f} / {100 * np.quantile(values, 0.9):.1f} %"


def _text(errors: Errors | None) -> str:
    return "-" if errors is None else f"{100 * errors.median:.1f} / {100 * errors.p90:.1f} %"
