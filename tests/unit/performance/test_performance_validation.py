"""The step model predicts measured latencies that it was not fitted to; the committed coefficients are the fit's."""

import os
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest

from benchmarks.data import data_folder
from plimsoll.catalog import load_catalog
from plimsoll.performance import coefficient_set
from plimsoll.performance.coefficients import load_data


def _absent() -> str | None:
    if not (data_folder() / "argonne_llm_inference_bench").exists():
        return f"measured data are not there: {data_folder()} (set PLIMSOLL_DATA)"
    return None


if (reason := _absent()) is not None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)

from benchmarks import fit_steps, validation  # noqa: E402  (needs scipy, and the data for anything to test)
from benchmarks.validation_rows import AMD, NVIDIA, Group, argonne  # noqa: E402


@pytest.fixture(scope="module")
def vllm() -> list[Group]:
    return argonne("vLLM")


def of(groups: Sequence[Group], gpus: Sequence[str]) -> list[Group]:
    return [group for group in groups if group.gpu in gpus]


def test_the_committed_coefficients_are_those_of_the_fit(vllm: list[Group]) -> None:
    for gpus, priors in fit_steps.PRIORS.items():
        for gpu, found in fit_steps.fit(of(vllm, gpus), gpus, priors).items():
            committed = asdict(coefficient_set(load_catalog().gpu(gpu)).coefficients)
            for name in fit_steps.FREE:
                assert asdict(found)[name] == pytest.approx(committed[name], rel=0.02), (gpu, name)


def test_the_committed_speeds_of_nvlink_are_vidurs() -> None:
    for name, measured in fit_steps.fabrics().items():
        assert load_data()["fabrics"][name] == measured


@pytest.mark.parametrize(
    ("gpus", "priors", "median", "p90"),
    [(NVIDIA, fit_steps.NVIDIA_PRIORS, 0.04, 0.12), (AMD, fit_steps.AMD_PRIORS, 0.1, 0.25)],
)
def test_a_model_that_was_held_out(
    vllm: list[Group], gpus: Sequence[str], priors: fit_steps.Priors, median: float, p90: float
) -> None:
    errors = validation.held_out_models(of(vllm, gpus), gpus, priors).errors(usual=False)
    assert len(errors) > 400
    assert np.median(errors) <= median
    assert np.quantile(errors, 0.9) <= p90


def test_an_nvidia_gpu_that_was_held_out(vllm: list[Group]) -> None:
    errors = validation.held_out_gpus(of(vllm, NVIDIA), NVIDIA, fit_steps.NVIDIA_PRIORS).errors(usual=False)
    assert np.median(errors) <= 0.08
    assert np.quantile(errors, 0.9) <= 0.2


def test_tensor_parallelism_of_a_gpu_on_which_it_was_held_out(vllm: list[Group]) -> None:
    errors = validation.held_out_degrees(of(vllm, NVIDIA)).speedup_errors(usual=False)
    assert np.median(errors) <= 0.08
    assert np.quantile(errors, 0.9) <= 0.15


def test_rows_that_measured_something_else_are_few(vllm: list[Group]) -> None:
    rows = sum(len(group.batch) for group in vllm)
    peculiar = sum(int(group.peculiar().sum()) for group in vllm)
    waves = sum(int(group.in_waves().sum()) for group in vllm)
    assert rows > 1100
    assert peculiar < 0.04 * rows
    assert waves < 0.05 * rows
