"""Fits of coefficients: what is recovered, what is refused, what is said about gaps; and corrections by observation."""

import os
import sys
from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.data import data_folder
from plimsoll.catalog import load_catalog
from plimsoll.performance import (
    AnalysisMissing,
    Calibration,
    CalibrationError,
    Coefficients,
    Latencies,
    Observation,
    Parallelism,
    ReplicaShape,
    RooflineSteps,
    calibrate,
    coefficient_set,
    step_timer,
)
from plimsoll.performance.correction import CAUTIOUS, Correction, Estimate, Evidence, corrected, doubt
from plimsoll.performance.observations import predicted
from plimsoll.simulation import ConstantLength, Scenario, constant_rate, engine_of, simulate, synthetic
from tests.unit.simulation.times import placement

CATALOG = load_catalog()
LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
SHAPE = ReplicaShape(
    CATALOG.model(LLAMA_8B), CATALOG.precision("bf16"), CATALOG.gpu("H100-SXM-80GB"), Parallelism(1, 1), 16384
)
TRUE = replace(
    coefficient_set(SHAPE.gpu).coefficients,
    weights_efficiency=0.72,
    kv_efficiency=0.7,
    prefill_efficiency=0.41,
    step_seconds=4.1e-3,
    sequence_seconds=35e-6,
)
"""An engine that differs from the published one."""
POINTS = [(1, 128), (1, 2048), (8, 512), (16, 1024), (32, 512), (64, 256), (128, 256)]


def row(
    company: float, length: float, true: Coefficients = TRUE, *, batch: bool = True, noise: float = 1.0, tensor: int = 1
) -> Observation:
    shape = replace(SHAPE, parallelism=Parallelism(tensor, 1))
    empty = Observation(shape, length, length, company, batch, Latencies(), f"{company}x{length}")
    found = predicted(RooflineSteps(true).terms(shape), empty)
    assert found.ttft is not None
    assert found.tpot is not None
    return replace(empty, measured=Latencies(found.ttft * noise, found.tpot * noise))


def rows(points: Iterable[tuple[int, int]] = POINTS, *, spread: float = 0.0, seed: int = 1) -> list[Observation]:
    random = np.random.default_rng(seed)
    return [row(*point, noise=float(np.exp(random.normal(0.0, spread)))) for point in points]


def worst_tpot_error(found: Calibration) -> float:
    """At points that were not measured."""
    errors = []
    for point in [(1, 512), (4, 1024), (24, 768), (48, 1024), (100, 300)]:
        there = row(*point)
        expected = predicted(RooflineSteps(found.coefficients).terms(SHAPE), there).tpot
        assert expected is not None
        assert there.measured.tpot is not None
        errors.append(abs(expected / there.measured.tpot - 1))
    return max(errors)


def test_a_few_rows_reveal_an_engine_that_differs_from_the_published_one() -> None:
    found = calibrate(rows(spread=0.01))
    assert found.published_errors.median > 0.15
    assert found.errors.median < 0.02
    assert worst_tpot_error(found) < 0.04
    assert found.coefficients.prefill_efficiency == pytest.approx(0.41, rel=0.05)
    assert found.left_out_errors is not None
    assert found.left_out_errors.median < 0.04


def test_the_interval_of_a_coefficient_holds_the_true_one_most_of_the_time() -> None:
    held = 0
    for seed in range(8):
        fitted = {item.name: item for item in calibrate(rows(spread=0.04, seed=seed)).fitted}
        held += fitted["prefill_efficiency"].low <= 0.41 <= fitted["prefill_efficiency"].high
    assert held >= 6  # 90 % of 8, give or take


@pytest.mark.parametrize("factor", [0.05, 3.0, 1000.0])
def test_one_wrong_row_is_named_and_does_not_count(factor: float) -> None:
    honest = rows([*POINTS, (4, 256), (16, 256)], spread=0.01)
    lying = replace(row(32, 1024, noise=factor), source="runs.csv:12")
    found = calibrate([*honest, lying])
    assert [item.source for item in found.left_out] == ["runs.csv:12"]
    assert "what the other rows lead one to expect" in found.left_out[0].reason
    assert found.errors_of_all.figures == found.errors.figures + 2
    assert worst_tpot_error(found) < 0.05


def test_what_the_rows_say_nothing_about_stays_as_published() -> None:
    found = calibrate(rows())
    published = coefficient_set(SHAPE.gpu).coefficients
    assert found.coefficients.quantised_efficiency == published.quantised_efficiency
    assert found.coefficients.allreduce_factor == published.allreduce_factor
    assert not {"quantised_efficiency", "allreduce_factor"} & set(found.changed)


def test_gaps_say_what_is_missing_and_what_that_leaves_uncertain() -> None:
    narrow = [
        replace(item, measured=Latencies(tpot=item.measured.tpot)) for item in rows([(4, 256), (8, 256), (12, 256)])
    ]
    said = {gap.missing: gap.uncertain for gap in calibrate(narrow).gaps}
    assert {
        "3 rows only",
        "no row with batch 1",
        "no row with batch 16 or more",
        "no time to first token",
        "no rows with long prompts",
        "rows of about one length only",
        "one tensor degree only (1)",
        "no quantised weights (bf16)",
        "no rows in which requests come and go",
    } == set(said)
    assert "all-reduces" in said["one tensor degree only (1)"]
    wide = [*rows([*POINTS, (1, 4096)]), row(1, 512, tensor=2), row(8, 1024, batch=False)]
    assert [gap.missing for gap in calibrate(wide).gaps] == ["no quantised weights (bf16)"]


def test_rows_that_wait_for_memory_are_left_out() -> None:
    found = calibrate([*rows(), row(256, 2048)])
    assert len(found.left_out) == 1
    assert "KV cache does not fit" in found.left_out[0].reason
    with pytest.raises(CalibrationError, match=r"no row of .*Llama-3.1-8B-Instruct on H100-SXM-80GB can be used"):
        calibrate([row(256, 2048)])


def test_a_fit_that_is_far_from_the_published_one_is_marked() -> None:
    as_minutes = [row(*point, noise=60.0) for point in POINTS]
    assert any(item.far for item in calibrate(as_minutes).fitted)
    assert not any(item.far for item in calibrate(rows()).fitted)


def test_rows_of_two_models_are_not_fitted_together() -> None:
    other = replace(rows()[0], shape=replace(SHAPE, gpu=CATALOG.gpu("A100-SXM-80GB")))
    with pytest.raises(CalibrationError, match="several models or GPUs"):
        calibrate([*rows(), other])


def test_without_scipy_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(AnalysisMissing, match=r"plimsoll\[analysis\]"):
        calibrate(rows())


@pytest.mark.parametrize(("rate", "inputs", "outputs"), [(0.05, 1000, 200), (8.0, 1000, 200), (3.0, 4000, 100)])
def test_requests_that_come_and_go_are_understood_as_the_simulator_has_them(
    rate: float, inputs: int, outputs: int
) -> None:
    """Time per token within 2 %; time to first token, which also waits for others' prompts, within 20 %."""
    stream = synthetic(
        "c", constant_rate(rate, max(300.0, 30.0 / rate)), ConstantLength(inputs), ConstantLength(outputs), seed=3
    )
    seen = simulate(Scenario((placement(engine=engine_of(SHAPE, max_num_seqs=128)),)), stream).classes["c"]
    first, whole = seen.ttft.mean_seconds, seen.end_to_end.mean_seconds
    there = Observation(SHAPE, inputs, outputs, 1.0 + rate * whole, False, Latencies(), "simulated")
    found = predicted(RooflineSteps().terms(SHAPE), there)
    assert found.tpot == pytest.approx((whole - first) / (outputs - 1), rel=0.02)
    assert found.ttft == pytest.approx(first, rel=0.2)


# --- Measured data ----------------------------------------------------------------------------------------------------


def needs_data() -> None:
    if not (data_folder() / "argonne_llm_inference_bench").exists():
        reason = f"measured data are not there: {data_folder()} (set PLIMSOLL_DATA)"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)


@pytest.mark.parametrize(("gpu", "median", "p90"), [("A100-SXM-40GB", 0.06, 0.09), ("H100-SXM-80GB", 0.03, 0.12)])
def test_seven_measured_rows_predict_the_others_with_the_other_gpus_prior(gpu: str, median: float, p90: float) -> None:
    """Llama-3-8B at TP 1 in Argonne's measurements; coefficients start from those of the other GPU."""
    needs_data()
    from benchmarks.calibration import MODEL, SEVEN, missed, prior_of_the_other, rows_of
    from benchmarks.validation_rows import argonne

    groups = [each for each in argonne("vLLM", gpu.__eq__) if each.model == MODEL and each.gpus == 1]
    rows = [item for each in groups for item in rows_of(each, SEVEN)]
    found = calibrate(rows, prior_of_the_other(gpu))
    errors = missed(groups, RooflineSteps(found.coefficients), without=SEVEN)
    assert len(rows) == 7
    assert len(errors) > 10
    assert np.median(errors) < median
    assert np.quantile(errors, 0.9) < p90


# --- Corrections ------------------------------------------------------------------------------------------------------


def evidence(ratio: float, **changes: float) -> Evidence:
    usual = Evidence(0.02 * ratio, 0.02, requests=500.0, utilization=0.5, age_seconds=30.0)
    return replace(usual, **changes)


def test_a_lasting_difference_is_believed_slowly() -> None:
    estimate = Estimate()
    moved = []
    for _ in range(200):
        estimate = corrected(estimate, evidence(1.3 / estimate.in_force))
        moved.append(estimate.in_force)
    assert moved[0] == 1.0
    assert moved[9] < 1.25
    assert moved[-1] == pytest.approx(1.3, rel=0.04)


def test_a_small_difference_changes_no_plan() -> None:
    estimate = Estimate()
    for _ in range(300):
        estimate = corrected(estimate, evidence(1.02 / estimate.in_force))
    assert estimate.in_force == 1.0
    assert estimate.value == pytest.approx(1.02, rel=0.005)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"requests": 10.0}, "10 requests were observed, 50 are needed"),
        ({"age_seconds": 900.0}, "900 s old"),
        ({"age_seconds": -5.0}, "s old"),
        ({"utilization": 0.95}, "queues hide the speed"),
        ({"observed_seconds": 0.0}, "which is none"),
        ({"observed_seconds": float("nan")}, "which is none"),
        ({"observed_seconds": 4.0}, "implausible"),
        ({"predicted_seconds": float("inf")}, "nothing to compare with"),
        ({"requests": float("nan")}, "are needed"),
    ],
)
def test_doubtful_evidence_moves_nothing_and_is_told(changes: dict[str, float], said: str) -> None:
    before = Estimate(1.1, 1.08, 4000.0)
    doubtful = evidence(1.5, **changes)
    after = corrected(before, doubtful)
    assert replace(after, ignored=None) == before
    assert after.ignored == doubt(doubtful, CAUTIOUS)
    assert said in str(after.ignored)


def test_a_corrected_shape_takes_longer_in_every_step() -> None:
    slower = replace(SHAPE, correction=Correction(prefill=1.5, decode=1.2))
    plain, found = step_timer(SHAPE), step_timer(slower)
    assert found.decode(16)[0] == pytest.approx(1.2 * plain.decode(16)[0])
    assert found.decode(16)[1] == pytest.approx(1.2 * plain.decode(16)[1])
    prefill = found.mixed(0, 0.0, 8000, 32e6) / plain.mixed(0, 0.0, 8000, 32e6)
    assert 1.2 < prefill < 1.5


def test_a_shape_with_coefficients_uses_them() -> None:
    assert step_timer(replace(SHAPE, coefficients=TRUE)) == step_timer(SHAPE, RooflineSteps(TRUE))
