"""Precisions: which GPU runs which, and how they are loaded."""

from dataclasses import replace

import pytest

from plimsoll.catalog import UnknownName, load_catalog, supported, unsupported_reason

CATALOG = load_catalog()


@pytest.mark.parametrize(
    ("gpu", "precisions"),
    [
        ("V100-SXM-32GB", {"fp16"}),
        ("T4", {"fp16", "int8"}),
        ("A100-SXM-80GB", {"bf16", "fp16", "int8", "int4"}),
        ("L40S", {"bf16", "fp16", "fp8", "int8", "int4"}),
        ("RTX-4090", {"bf16", "fp16", "fp8", "int8", "int4"}),
        ("H100-SXM-80GB", {"bf16", "fp16", "fp8", "int8", "int4"}),
        ("B200", {"bf16", "fp16", "fp8", "int4"}),
        ("MI210", {"bf16", "fp16"}),
        ("MI300X", {"bf16", "fp16", "fp8"}),
    ],
)
def test_support_by_gpu(gpu: str, precisions: set[str]):
    """vLLM's tables of supported hardware."""
    assert {p.name for p in CATALOG.precisions.values() if supported(p, CATALOG.gpu(gpu))} == precisions


def test_whatever_is_supported_has_a_peak_to_compute_with():
    for gpu in CATALOG.gpus.values():
        for precision in CATALOG.precisions.values():
            if supported(precision, gpu):
                assert precision.compute in gpu.peak_flops_per_second


def test_the_reason_names_the_gpu_and_what_would_work():
    reason = unsupported_reason(CATALOG.precision("fp8"), CATALOG.gpu("A100-SXM-40GB"))
    assert reason == "fp8 needs Ada, Hopper, Blackwell, CDNA3 or later; A100-SXM-40GB is ampere"
    reason = unsupported_reason(CATALOG.precision("int8"), CATALOG.gpu("B200"))
    assert reason == "int8 (w8a8) needs an NVIDIA GPU from Turing to Hopper; B200 is blackwell; fp8 works"
    reason = unsupported_reason(CATALOG.precision("bf16"), CATALOG.gpu("T4"))
    assert reason == "bf16 needs NVIDIA Ampere or later or AMD CDNA2 or later; fp16 works; T4 is turing"


def test_a_users_own_gpu_supports_what_it_declares():
    gpu = replace(
        CATALOG.gpu("L4"), name="mine", architecture="custom", peak_flops_per_second={"bf16": 1e14, "int4": 4e14}
    )
    assert {p.name for p in CATALOG.precisions.values() if supported(p, gpu)} == {"bf16", "int4"}
    assert unsupported_reason(CATALOG.precision("fp8"), gpu) == "fp8 needs a peak for fp8; mine declares bf16, int4"
    without = replace(gpu, peak_flops_per_second={"int4": 4e14})
    assert unsupported_reason(CATALOG.precision("int4"), without) == "int4 needs a peak for bf16; mine declares int4"


def test_only_fp8_is_made_while_loading():
    fp8, int8, int4 = (CATALOG.precision(name) for name in ("fp8", "INT8", "int4"))
    assert not fp8.needs_checkpoint
    assert (fp8.engine_args, fp8.loads_at) == (("--quantization", "fp8"), "bf16")
    assert int8.needs_checkpoint
    assert int4.needs_checkpoint
    assert (int4.engine_args, int4.compute) == ((), "bf16")


def test_an_unknown_precision_names_the_nearest():
    with pytest.raises(UnknownName) as caught:
        CATALOG.precision("fp4")
    assert str(caught.value) == 'unknown precision "fp4"; nearest: "fp8"'
