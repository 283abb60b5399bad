"""How well the step model predicts measured latencies that it was not fitted to.

`python -m benchmarks.validation` prints it. Splits are by model and by GPU, never by row: what is held out is held out
with all its rows. Every figure is given for all rows and without those that `Group.usual` leaves out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.data import data_folder
from benchmarks.fit_steps import (
    AMD_PRIORS,
    NVIDIA_PRIORS,
    Priors,
    fit,
    pooled,
)
from benchmarks.results import Figure, Table
from benchmarks.validation_rows import AMD, NEVER_FITTED, NVIDIA, Group, argonne, read
from plimsoll.catalog import load_catalog
from plimsoll.performance import Coefficients, FloatArray, Parallelism, ReplicaShape, RooflineSteps, coefficient_set

FACTS_ALONE = Coefficients(1.0, 1.0, 0.0, 1.0, 1.0, 1e-9, 0.0, 1.0, 1.0)
"""What the data sheets promise: no efficiencies, no overheads."""
_LEAST_FOR_SLOPE = 3


@dataclass(frozen=True)
class Predicted:
    """Groups of rows beside their predictions."""

    group: Group
    steps: RooflineSteps

    def rows(self, *, usual: bool) -> np.ndarray:
        """Which rows count."""
        return self.group.usual() if usual else np.ones(len(self.group.batch), dtype=bool)


@dataclass(frozen=True)
class Split:
    """What was predicted from what."""

    name: str
    predicted: Sequence[Predicted]

    def errors(self, *, usual: bool) -> FloatArray:
        """Absolute shares, of end-to-end latencies."""
        return np.concatenate(
            [
                np.abs(each.group.predicted(each.steps) / each.group.seconds - 1)[each.rows(usual=usual)]
                for each in self.predicted
            ]
        )

    def slope_errors(self, over: str, *, usual: bool) -> FloatArray:
        """Absolute shares, of how latency grows with the batch at one length, or with the length at one batch."""
        by, at = ("batch", "input_tokens") if over == "batch" else ("input_tokens", "batch")
        found = []
        for each in self.predicted:
            x, held = getattr(each.group, by), getattr(each.group, at)
            predicted, rows = each.group.predicted(each.steps), each.rows(usual=usual)
            for value in np.unique(held):
                line = rows & (held == value)
                if len(np.unique(x[line])) >= _LEAST_FOR_SLOPE:
                    slope, truth = (np.polyfit(x[line], y[line], 1)[0] for y in (predicted, each.group.seconds))
                    found.append(abs(slope / truth - 1))
        return np.array(found)

    def first_token_errors(self) -> FloatArray:
        """Absolute shares."""
        return np.array(
            [
                abs(each.group.predicted_first_token(each.steps) / each.group.first_token_seconds - 1)
                for each in self.predicted
                if each.group.first_token_seconds is not None
            ]
        )

    def speedup_errors(self, *, usual: bool) -> FloatArray:
        """Absolute shares, of latency on one GPU over latency on several, at equal batch and length."""
        alone = {(each.group.gpu, each.group.model): each for each in self.predicted if each.group.gpus == 1}
        found = []
        for each in self.predicted:
            one = alone.get((each.group.gpu, each.group.model))
            if one is None or each.group.gpus == 1:
                continue
            measured, predicted = _cells(one, usual=usual), _cells(each, usual=usual)
            for cell in sorted(set(measured) & set(predicted)):
                (slow, slow_model), (fast, fast_model) = measured[cell], predicted[cell]
                found.append(abs((slow_model / fast_model) / (slow / fast) - 1))
        return np.array(found)


def run() -> tuple[list[Figure], list[Table]]:
    """Fit on some, predict others."""
    vllm = argonne("vLLM")
    nvidia, amd = ([each for each in vllm if each.gpu in gpus] for gpus in (NVIDIA, AMD))
    tensorrt = argonne("TensorRT-LLM", set(NVIDIA).__contains__)
    models, gpus = held_out_models(nvidia, NVIDIA, NVIDIA_PRIORS), held_out_gpus(nvidia, NVIDIA, NVIDIA_PRIORS)
    amd_models = held_out_models(amd, AMD, AMD_PRIORS)
    to_nvidia, to_amd = _pool(nvidia, NVIDIA, NVIDIA_PRIORS), _pool(amd, AMD, AMD_PRIORS)
    unseen = Split("NVIDIA, DeciLM-7B, on which nothing was chosen", _committed(argonne("vLLM", models=NEVER_FITTED)))
    splits = [
        replace(models, name="NVIDIA, held-out model"),
        unseen,
        replace(gpus, name="NVIDIA, held-out GPU (A100 from H100 and back)"),
        replace(amd_models, name="AMD, held-out model"),
        replace(held_out_gpus(amd, AMD, AMD_PRIORS), name="AMD, held-out GPU (MI250 from MI300X and back)"),
        Split("AMD from NVIDIA's pooled coefficients", _all(amd, to_nvidia)),
        Split("NVIDIA from AMD's pooled coefficients", _all(nvidia, to_amd)),
        Split("NVIDIA, catalogue facts alone", _all(nvidia, FACTS_ALONE)),
        Split("AMD, catalogue facts alone", _all(amd, FACTS_ALONE)),
        replace(held_out_models(tensorrt, NVIDIA, NVIDIA_PRIORS), name="TensorRT-LLM on NVIDIA, held-out model"),
        replace(held_out_gpus(tensorrt, NVIDIA, NVIDIA_PRIORS), name="TensorRT-LLM on NVIDIA, held-out GPU"),
        Split("TensorRT-LLM from vLLM's coefficients", _committed(tensorrt)),
        Split("vLLM on NVIDIA, in the sample (as committed)", _committed(nvidia)),
        Split("vLLM on AMD, in the sample (as committed)", _committed(amd)),
    ]
    degrees = held_out_degrees(nvidia)
    figures = [
        *_figures("held-out models, NVIDIA", models, (4.0, 12.0)),
        *_both("held-out models, NVIDIA: slope over batch", models.slope_errors, "batch", target=(10.0, 30.0)),
        *_spread(
            "a model on which nothing was chosen (DeciLM-7B): end to end", unseen.errors(usual=False), (4.0, 12.0)
        ),
        *_figures("held-out GPU, NVIDIA", gpus, (8.0, 20.0)),
        *_figures("held-out models, AMD", amd_models, (10.0, 25.0)),
        *(
            Figure(
                f"{name}: time to first token, worst error", 100 * float(split.first_token_errors().max()), "%", 10.0
            )
            for name, split in (
                ("held-out models, NVIDIA", models),
                ("held-out models, AMD", amd_models),
                ("held-out GPU, NVIDIA", gpus),
            )
        ),
        *_both("held-out models, NVIDIA: TP speed-up", models.speedup_errors, target=(8.0, 15.0)),
        *_both("all TP rows of a GPU held out, NVIDIA: TP speed-up", degrees.speedup_errors, target=(8.0, 15.0)),
    ]
    tables = [_table(splits), _first_tokens(models, gpus, amd_models), _degrees(models, degrees, amd_models)]
    return figures, [*tables, _elsewhere()]


def notes() -> list[str]:
    """What the figures are about."""
    vllm = argonne("vLLM")
    waves = sum(int(each.in_waves().sum()) for each in vllm)
    peculiar = sum(int((each.peculiar() & ~each.in_waves()).sum()) for each in vllm)
    step_model = (
        "Step model: fitted to Argonne's vLLM rows without what is held out. Splits are by model (on all GPUs at once) "
        "and by GPU, never by row. The form of the model and the priors were chosen with knowledge of these data, "
        "except of DeciLM-7B's rows."
    )
    exclusions = (
        f"Exclusions: {waves} vLLM rows whose KV cache does not fit (predicted in waves), and {peculiar} that measured "
        "something else: Mistral on H100 beyond 512 query heads of a rank at once (another attention kernel than the "
        "other models), and MI300X at batch 1 with 128 tokens (includes warm-up)."
    )
    missing = (
        "Not measured anywhere in the data: GH200, mixtures of experts, int8 and int4 weights in vLLM, pipelines in "
        "vLLM, chunked prefill. The model covers them by reasoning."
    )
    return [step_model, exclusions, missing]


def held_out_models(groups: Sequence[Group], gpus: Sequence[str], priors: Priors) -> Split:
    """Each model from the others, on all GPUs at once."""
    predicted = []
    for model in sorted({each.model for each in groups}):
        found = fit([each for each in groups if each.model != model], gpus, priors)
        predicted += [Predicted(each, RooflineSteps(found[each.gpu])) for each in groups if each.model == model]
    return Split("held-out model", predicted)


def held_out_gpus(groups: Sequence[Group], gpus: Sequence[str], priors: Priors) -> Split:
    """Each GPU with the coefficients of the other one, the prefill efficiency included."""
    predicted: list[Predicted] = []
    for gpu, other in zip(gpus, reversed(gpus), strict=True):
        found = fit([each for each in groups if each.gpu == other], (other,), priors)[other]
        predicted += _all([each for each in groups if each.gpu == gpu], found)
    return Split("held-out GPU", predicted)


def held_out_degrees(groups: Sequence[Group]) -> Split:
    """Each NVIDIA GPU from its rows without TP and all rows of the other GPU; all-reduces from Vidur."""
    predicted: list[Predicted] = []
    for gpu in NVIDIA:
        found = fit([each for each in groups if each.gpu != gpu or each.gpus == 1], NVIDIA, NVIDIA_PRIORS)[gpu]
        predicted += _all([each for each in groups if each.gpu == gpu], found)
    return Split("held-out TP", predicted)


def _all(groups: Iterable[Group], coefficients: Coefficients) -> list[Predicted]:
    return [Predicted(each, RooflineSteps(coefficients)) for each in groups]


def _committed(groups: Iterable[Group]) -> list[Predicted]:
    return [Predicted(each, RooflineSteps(coefficient_set(each.shape.gpu).coefficients)) for each in groups]


def _pool(groups: Sequence[Group], gpus: Sequence[str], priors: Priors) -> Coefficients:
    return pooled(list(fit(groups, gpus, priors).values()))


def _cells(each: Predicted, *, usual: bool) -> dict[tuple[float, float], tuple[float, float]]:
    """(batch, length) -> measured and predicted seconds; repeated rows are averaged."""
    found: dict[tuple[float, float], list[tuple[float, float]]] = {}
    group, predicted = each.group, each.group.predicted(each.steps)
    for row in np.flatnonzero(each.rows(usual=usual)):
        key = (float(group.batch[row]), float(group.input_tokens[row]))
        found.setdefault(key, []).append((float(group.seconds[row]), float(predicted[row])))
    return {key: tuple(np.mean(values, axis=0)) for key, values in found.items()}


def _figures(name: str, split: Split, target: tuple[float, float]) -> list[Figure]:
    return _both(f"{name}: end to end", split.errors, target=target)


def _both(name: str, errors: Callable[..., FloatArray], *of: str, target: tuple[float, float]) -> list[Figure]:
    return [
        *_spread(f"{name}, all rows", errors(*of, usual=False), target),
        *_spread(f"{name}, with exclusions", errors(*of, usual=True), target),
    ]


def _spread(name: str, errors: FloatArray, target: tuple[float, float]) -> list[Figure]:
    median, p90 = 100 * np.median(errors), 100 * np.quantile(errors, 0.9)
    return [
        Figure(f"{name}: median error", float(median), "%", target[0]),
        Figure(f"{name}: p90 error", float(p90), "%", target[1]),
    ]


def _shares(errors: FloatArray) -> str:
    return f"{100 * np.median(errors):.1f} / {100 * np.quantile(errors, 0.9):.1f}" if len(errors) else "-"


def _table(splits: Sequence[Split]) -> Table:
    rows = []
    for split in splits:
        for usual, name in ((False, "all"), (True, "with exclusions")):
            errors = split.errors(usual=usual)
            slopes = [_shares(split.slope_errors(over, usual=usual)) for over in ("batch", "length")]
            rows.append((split.name, name, str(len(errors)), _shares(errors), *slopes))
    columns = ("split", "rows", "number", "end to end", "slope over batch", "slope over length")
    return Table("Step model against Argonne's measurements: median / p90 of the absolute error, %", columns, rows)


def _first_tokens(*splits: Split) -> Table:
    names = ("NVIDIA, held-out model", "NVIDIA, held-out GPU", "AMD, held-out model")
    rows = []
    for name, split in zip(names, splits, strict=True):
        for each in split.predicted:
            if each.group.first_token_seconds is not None:
                missed = each.group.predicted_first_token(each.steps) / each.group.first_token_seconds - 1
                cells = (name, each.group.gpu, each.group.model, f"{each.group.first_token_seconds:.3f}")
                rows.append((*cells, f"{100 * missed:+.1f} %"))
    return Table(
        "Time to first token of 16 prompts of 1,024 tokens", ("split", "GPU", "model", "seconds", "error"), rows
    )


def _degrees(models: Split, degrees: Split, amd_models: Split) -> Table:
    splits = (
        ("NVIDIA, held-out model", models),
        ("NVIDIA, all TP rows of a GPU held out", degrees),
        ("AMD, held-out model", amd_models),
    )
    rows = [(name, *(_shares(split.speedup_errors(usual=usual)) for usual in (False, True))) for name, split in splits]
    return Table(
        "Speed-up by tensor parallelism: median / p90 of the absolute error, %",
        ("split", "all rows", "with exclusions"),
        rows,
    )


def _elsewhere() -> Table:
    """Other stacks' measurements with the committed coefficients."""
    signed: list[tuple[str, FloatArray]] = []
    for hardware, gpu in (("a100-80gb", "A100-SXM-80GB"), ("h100-80gb", "H100-SXM-80GB")):
        prompts, steps = _splitwise(hardware, gpu)
        signed += [
            (f"Splitwise (llama2-70b, TP 2-8), {gpu}, prompts", prompts),
            (f"Splitwise (llama2-70b, TP 2-8), {gpu}, decode steps", steps),
        ]
    signed += [
        (f"Helix (llama2-70b, one layer), {gpu}, prompts", _helix(machine, gpu))
        for machine, gpu in (("a100", "A100-SXM-40GB"), ("l4", "L4"), ("t4", "T4"))
    ]
    rows = [
        (name, str(len(errors)), _shares(np.abs(errors)), f"{100 * np.median(errors):+.1f}") for name, errors in signed
    ]
    return Table(
        "What does not transfer: other stacks with vLLM's coefficients; median / p90 of the absolute error, %",
        ("measurements", "rows", "error", "median, signed"),
        rows,
    )


def _splitwise(hardware: str, gpu: str) -> tuple[FloatArray, FloatArray]:
    """Signed shares, of prompts and of decode steps; without rows that are impossibly fast (the data's README)."""
    prompt, token = [], []
    for row in read("perf_model.csv", "splitwise_perf"):
        tensor, batch, length = (int(row[name]) for name in ("tensor_parallel", "batch_size", "prompt_size"))
        if (row["model"], row["hardware"]) != ("llama2-70b", hardware) or (tensor, length, batch) == (2, 512, 64):
            continue
        terms = RooflineSteps().terms(_shape("meta-llama/Llama-2-70b-chat-hf", gpu, tensor))
        one = np.array([float(batch)])
        seconds = terms.prefill_seconds(np.array([float(length)]), one)[0]
        prompt.append(seconds / (1e-3 * float(row["prompt_time"])) - 1)
        context = np.array([length + int(row["token_size"]) / 2])
        token.append(terms.decode_step_seconds(one, context)[0] / (1e-3 * float(row["token_time"])) - 1)
    return np.array(prompt), np.array(token)


def _helix(machine: str, gpu: str) -> FloatArray:
    """Signed shares, of the matrix products of prompts (lengths, and so attention, are not recorded)."""
    terms = RooflineSteps().terms(_shape("meta-llama/Llama-2-70b-chat-hf", gpu, 1))
    layers = load_catalog().model("meta-llama/Llama-2-70b-chat-hf").layers
    path = data_folder() / "helix_profiles" / f"llama2_70b_{machine}_prompt_bs2time.csv"
    tokens, milliseconds = np.loadtxt(path, delimiter=",", skiprows=1).T
    return np.asarray(terms.compute_prompt_token * tokens / layers / (1e-3 * milliseconds) - 1)


def _shape(model: str, gpu: str, tensor: int) -> ReplicaShape:
    catalog = load_catalog()
    return ReplicaShape(catalog.model(model), catalog.precision("bf16"), catalog.gpu(gpu), Parallelism(tensor, 1), 4096)


def main() -> None:
    """Print."""
    figures, tables = run()
    for line in (*notes(), *figures):
        print(line)
    for table in tables:
        print(f"\n{table.text()}")


if __name__ == "__main__":
    main()
