"""`python -m benchmarks.fit_steps` fits the step model to the measured data and prints what it finds.

With `--write` it replaces the fitted parts of operator/plimsoll/performance/coefficients.yaml. Needs scipy.

The fit: logarithms of coefficients, by least squares of log(predicted / measured) with a loss that grows linearly for
outliers, on the rows whose KV cache fits and that are not peculiar. The GPUs of one vendor are fitted together, and
each coefficient is drawn towards a prior and towards its mean over these GPUs: without this, leaving out the only
model without grouped queries would leave two coefficients undetermined.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.optimize import least_squares

from benchmarks.validation_rows import AMD, NVIDIA, Group, argonne, group, read
from plimsoll.catalog import load_catalog
from plimsoll.performance import Coefficients, FloatArray, RooflineSteps
from plimsoll.performance import coefficients as package

PATH = Path(package.__file__).with_suffix(".yaml")
FREE = (
    "weights_efficiency",
    "kv_efficiency",
    "query_group_cost",
    "compute_efficiency",
    "prefill_efficiency",
    "step_seconds",
    "sequence_seconds",
    "allreduce_factor",
)
SETS = {
    "A100-SXM-40GB": ("A100", ["A100-"]),
    "H100-SXM-80GB": ("H100", ["H100-", "H200-", "GH200-"]),
    "MI250X": ("MI250", ["MI250X", "MI210"]),
    "MI300X": ("MI300X", ["MI300X", "MI325X"]),
}
"""Measured GPU -> name of its set, and the catalog's GPUs with the same chip (by how their names begin)."""
_HEAD = """# How the engine (vLLM) turns peaks into reached speeds. Seconds and shares.
# `python -m benchmarks.fit_steps --write` writes `sets`, `pooled` and NVLink's `fabrics`; the rest is assumed or read
# off, as each `source` says. `gpus`: how catalog names begin. `allreduce`: degree -> [latency, share of the link].
"""
_LEAST_KV = 256
"""Longest prompts, and answers, of the rows that show what quantised weights gain: the KV cache hides it in others."""
ROW_ERROR, FIRST_TOKEN_ERROR = 0.05, 0.02
"""Expected, as shares. The few rows of first tokens are the only ones that separate prefill from decode."""


@dataclass(frozen=True, slots=True)
class Priors:
    """Where coefficients lie before anything is measured, and how alike the GPUs of a vendor are (standard deviations
    of logarithms)."""

    centre: Mapping[str, tuple[float, float]]
    alike: Mapping[str, float]
    kv_like_weights: float = 0.05
    """Both are streams from the same memory."""


NVIDIA_PRIORS = Priors(
    centre={
        "weights_efficiency": (0.8, 0.075),
        "query_group_cost": (0.25, 0.25),
        "compute_efficiency": (0.7, 0.05),
        "prefill_efficiency": (0.6, 0.5),
        "step_seconds": (2e-3, 0.5),
        "sequence_seconds": (60e-6, 0.5),
        "allreduce_factor": (0.8, 0.2),
    },
    alike={
        "weights_efficiency": 0.05,
        "kv_efficiency": 0.05,
        "query_group_cost": 0.1,
        "compute_efficiency": 0.05,
        "step_seconds": 0.25,
        "sequence_seconds": 0.15,
        "allreduce_factor": 0.05,
    },
)
"""Bandwidth and compute: Vidur's matrix products reach 0.78-0.87 and 0.70-0.76. The others are wide guesses."""
AMD_PRIORS = Priors(
    centre={
        "weights_efficiency": (0.5, 0.15),
        "query_group_cost": (0.5, 0.5),
        "compute_efficiency": (0.3, 0.5),
        "prefill_efficiency": (0.3, 0.5),
        "step_seconds": (5e-3, 0.5),
        "sequence_seconds": (60e-6, 0.5),
        "allreduce_factor": (1.0, 0.15),
    },
    alike={
        "weights_efficiency": 0.15,
        "kv_efficiency": 0.15,
        "query_group_cost": 0.25,
        "step_seconds": 0.25,
        "sequence_seconds": 0.25,
        "allreduce_factor": 0.1,
    },
)
"""Wide guesses; the two chips are less alike than NVIDIA's."""
PRIORS = {NVIDIA: NVIDIA_PRIORS, AMD: AMD_PRIORS}


def fit(groups: Sequence[Group], gpus: Sequence[str], priors: Priors) -> dict[str, Coefficients]:
    """Coefficients of each of `gpus`, from groups on them."""
    weights = priors.centre["weights_efficiency"][0]
    start = [np.log(priors.centre[name][0] if name in priors.centre else weights) for name in FREE]
    of_gpu = [[each for each in groups if each.gpu == gpu] for gpu in gpus]
    usual = {id(each): each.usual() for each in groups}

    def residuals(flat: FloatArray) -> FloatArray:
        table = flat.reshape(len(gpus), len(FREE))
        errors: list[float] = []
        for row, mine in zip(table, of_gpu, strict=True):
            steps = RooflineSteps(_coefficients(row))
            for each in mine:
                kept = usual[id(each)]
                errors += list(np.log(each.predicted(steps)[kept] / each.seconds[kept]) / ROW_ERROR)
                if each.first_token_seconds is not None:
                    ratio = each.predicted_first_token(steps) / each.first_token_seconds
                    errors.append(np.log(ratio) / FIRST_TOKEN_ERROR)
        return np.array([*_softened(np.array(errors)), *_from_priors(table, priors)])

    found = least_squares(residuals, np.tile(start, len(gpus))).x.reshape(len(gpus), len(FREE))
    return {gpu: _coefficients(row) for gpu, row in zip(gpus, found, strict=True)}


def pooled(sets: Sequence[Coefficients]) -> Coefficients:
    """Geometric means."""
    means = np.exp(np.mean([[np.log(value) for value in asdict(each).values()] for each in sets], axis=0))
    return Coefficients(**{name: float(mean) for name, mean in zip(asdict(sets[0]), means, strict=True)})


def errors(groups: Sequence[Group], coefficients: Coefficients, *, usual: bool = True) -> FloatArray:
    """Absolute shares by which end-to-end latencies are missed."""
    steps = RooflineSteps(coefficients)
    kept = [each.usual() if usual else np.ones(len(each.batch), dtype=bool) for each in groups]
    return np.concatenate(
        [np.abs(each.predicted(steps) / each.seconds - 1)[rows] for each, rows in zip(groups, kept, strict=True)]
    )


def quantised_efficiency(coefficients: Coefficients) -> tuple[float, FloatArray]:
    """Share of the 16-bit bandwidth efficiency that fp8 weights reach in vLLM on H100, and the errors with it.

    Rows with fp8 weights were measured with an fp8 KV cache only, which costs time of its own; rows with 16-bit weights
    and that cache exist too. So the predicted gain is taken off these, and the KV cache cancels out.
    """
    found: dict[str, dict[tuple[float, float], float]] = {}
    for row in read("A100_H100_quant_all_results.csv"):
        if (row["Hardware"], row["Framework"]) == ("Nvidia H100 GPU", "vLLM"):
            key = (float(row["Batch Size"]), float(row["Input Output Length"]))
            found.setdefault(row["kv_cache_dtype"], {})[key] = float(row["latency"])
    wide, narrow = found["Weight = fp16, KV Cache = fp8"], found["Weight = fp8, KV Cache = fp8"]
    keys = sorted(key for key in set(wide) & set(narrow) if key[1] <= _LEAST_KV)
    rows = [(batch, length, length, wide[batch, length]) for batch, length in keys]
    base = group("H100-SXM-80GB", "meta-llama/Llama-3.1-8B-Instruct", 1, rows)
    measured = np.array([narrow[key] for key in keys])

    in_fp8 = replace(base, shape=replace(base.shape, precision=load_catalog().precision("fp8")))

    def relative(share: float) -> FloatArray:
        steps_of_fp8 = RooflineSteps(replace(coefficients, quantised_efficiency=share))
        gain = base.predicted(RooflineSteps(coefficients)) - in_fp8.predicted(steps_of_fp8)
        return (base.seconds - gain) / measured - 1

    share = float(least_squares(lambda shares: relative(float(shares[0])), [0.9]).x[0])
    return share, np.abs(relative(share))


def fabrics() -> dict[str, dict[str, Any]]:
    """Latency and share of the link's peak of NVLink's all-reduce, and share of send and receive, from Vidur's tables.

    Speed: slope over the size above 1 MiB. Latency: median of what the slope leaves below 512 KiB, where decode is.
    """
    found = {}
    for name, gpu, peak in (("nvlink-ampere", "a100", 300e9), ("nvlink-hopper", "h100", 450e9)):
        reductions = {
            degree: list(_line(f"network_{gpu}_dgx_all_reduce.csv", "all_reduce", degree, peak)) for degree in (2, 4, 8)
        }
        send = _line(f"network_{gpu}_dgx_send_recv.csv", "send_recv", 2, peak)[1]
        source = f"Vidur's profiles of NCCL in a DGX {gpu.upper()}, as a share of {peak / 1e9:.0f} GB/s one way"
        found[name] = {"allreduce": reductions, "send_share": send, "source": source}
    return found


def _line(file: str, collective: str, degree: int, peak: float) -> tuple[float, float]:
    rows = [
        (float(row["size"]), 1e-3 * float(row[f"time_stats.{collective}.median"]))
        for row in read(file, "vidur_profiles")
        if int(row["num_workers"]) == int(row["devices_per_node"]) == degree
    ]
    size, seconds = np.array(rows).T
    large, small = size >= 2**20, (size >= 2**13) & (size <= 2**19)
    slope = np.polyfit(size[large], seconds[large], 1)[0]
    return float(f"{np.median((seconds - slope * size)[small]):.2g}"), float(f"{1 / slope / peak:.3g}")


def _coefficients(logarithms: FloatArray) -> Coefficients:
    return Coefficients(
        **{name: float(value) for name, value in zip(FREE, np.exp(logarithms), strict=True)}, quantised_efficiency=1.0
    )


def _softened(errors: FloatArray) -> FloatArray:
    """Squares of it are the soft absolute loss: quadratic within an expected error, linear beyond."""
    return np.asarray(np.sign(errors) * np.sqrt(2.0 * (np.sqrt(1.0 + np.square(errors)) - 1.0)))


def _from_priors(table: FloatArray, priors: Priors) -> list[float]:
    column = {name: table[:, index] for index, name in enumerate(FREE)}
    away = [(column[name] - np.log(centre)) / spread for name, (centre, spread) in priors.centre.items()]
    away.append((column["kv_efficiency"] - column["weights_efficiency"]) / priors.kv_like_weights)
    if len(table) > 1:
        away += [(column[name] - column[name].mean()) / spread for name, spread in priors.alike.items()]
    return [float(value) for values in away for value in values]


def main() -> None:
    """Fit, print, and write when asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fit_steps", description="Fit the step model.")
    parser.add_argument("--write", action="store_true", help=f"replace the fitted parts of {PATH.name}")
    write = parser.parse_args().write
    document = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    document["fabrics"] = {**document["fabrics"], **fabrics()}
    if write:  # the fit below reads them from there
        _write(document)
    document.update(fitted())
    print(yaml.safe_dump({name: document[name] for name in ("sets", "pooled")}, sort_keys=False, width=150))
    if write:
        _write(document)
        print(f"wrote {PATH.name}")


def fitted() -> dict[str, Any]:
    """The sets and the pooled sets, as they stand in the file."""
    sets, pools = {}, {}
    for gpus, priors in PRIORS.items():
        groups = argonne("vLLM", set(gpus).__contains__)
        found = fit(groups, gpus, priors)
        if gpus == NVIDIA:
            share, missed = quantised_efficiency(found["H100-SXM-80GB"])
            print(f"fp8 weights on H100: {share:.2f}, {len(missed)} rows, median error {np.median(missed):.3f}")
        found = {gpu: _rounded(replace(each, quantised_efficiency=share)) for gpu, each in found.items()}
        for gpu, each in found.items():
            mine = [group for group in groups if group.gpu == gpu]
            missed = errors(mine, each)
            name, alike = SETS[gpu]
            sets[name] = {
                "gpus": alike,
                "coefficients": asdict(each),
                "source": f"fit to Argonne's LLM-Inference-Bench, vLLM (2024) on {gpu}; quantised weights: H100, fp8",
                "fit": {
                    "rows": len(missed),
                    "median_error": float(f"{np.median(missed):.3f}"),
                    "p90_error": float(f"{np.quantile(missed, 0.9):.3f}"),
                },
            }
        names = " and ".join(SETS[gpu][0] for gpu in gpus)
        pools["amd" if gpus == AMD else "nvidia"] = {
            "coefficients": asdict(_rounded(pooled(list(found.values())))),
            "source": f"geometric means of {names}",
        }
    return {"sets": sets, "pooled": pools}


def _rounded(coefficients: Coefficients) -> Coefficients:
    return Coefficients(**{name: float(f"{value:.3g}") for name, value in asdict(coefficients).items()})


def _write(document: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(document, sort_keys=False, width=150, default_flow_style=None)
    PATH.write_text(_HEAD + text, encoding="utf-8")
    package.load_data.cache_clear()


if __name__ == "__main__":
    main()
