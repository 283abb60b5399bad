"""Numeric precisions: how large, how loaded, and on which GPUs vLLM runs them."""

from dataclasses import dataclass

from plimsoll.catalog.gpus import GPU


@dataclass(frozen=True, slots=True)
class Precision:
    """How the weights of a model variant are stored and computed."""

    name: str
    bytes_per_parameter: float
    """Of the quantised parameters, scales included; pass it to `ModelArchitecture.weights_bytes`."""
    kv_bytes_per_element: float
    """The KV cache stays 16 bits wide unless asked otherwise."""
    compute: str
    """Key of `GPU.peak_flops_per_second` for matrix products; weight-only int4 computes in bf16."""
    needs_checkpoint: bool
    """Whether another checkpoint is needed: fp8 can be made on load, int8 and int4 cannot."""
    engine_args: tuple[str, ...]
    """vLLM flags when the model's own 16-bit checkpoint is loaded. vLLM finds the method of a quantised checkpoint in
    its configuration, and refuses a flag that contradicts it: give none then."""
    loads_at: str
    """Precision at which the weights are first loaded: fp8 made on load needs the memory of bf16 at first. A checkpoint
    that is already fp8 does not."""


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("bf16", 2.0, 2.0, "bf16", False, ("--dtype", "bfloat16"), "bf16"),
        Precision("fp16", 2.0, 2.0, "fp16", False, ("--dtype", "float16"), "fp16"),
        # One scale per output channel is below 0.1 % (RedHatAI/Qwen3-8B-FP8-dynamic: 8.790 GiB, computed 8.787 GiB).
        Precision("fp8", 1.0, 2.0, "fp8", False, ("--quantization", "fp8"), "bf16"),
        Precision("int8", 1.0, 2.0, "int8", True, (), "int8"),
        # 4.25 bits: MXFP4 has an 8-bit scale per 32 weights; AWQ and GPTQ with a 16-bit scale and a 4-bit zero per 128
        # weights take 4.16 (Qwen/Qwen3-8B-AWQ: 5.68 GiB, computed 5.75 GiB).
        Precision("int4", 0.53125, 2.0, "bf16", True, (), "int4"),
    )
}

_INT8_ARCHITECTURES = frozenset({"turing", "ampere", "ada", "hopper"})
_INT4_ARCHITECTURES = frozenset({"ampere", "ada", "hopper", "blackwell"})


def supported(precision: Precision, gpu: GPU) -> bool:
    """Whether vLLM runs `precision` on `gpu` at full speed."""
    return unsupported_reason(precision, gpu) is None


def unsupported_reason(precision: Precision, gpu: GPU) -> str | None:
    """Why vLLM does not run `precision` on `gpu`, or None when it does.

    After vLLM's tables of supported hardware (0.15 to 0.32): fp8 with fp8 activations needs Ada, Hopper, Blackwell or
    CDNA3 and later; int8 needs Turing to Hopper; int4 by the Marlin kernels needs NVIDIA Ampere or later. Weight-only
    fp8 on Ampere is left out, since it does not compute in fp8. A user's own GPU supports what it declares a peak for.
    """
    if gpu.architecture == "custom":
        missing = sorted({precision.name, precision.compute} - set(gpu.peak_flops_per_second))
        if not missing:
            return None
        declared = ", ".join(sorted(gpu.peak_flops_per_second))
        return f"{precision.name} needs a peak for {' and '.join(missing)}; {gpu.name} declares {declared}"
    if precision.name == "int8" and gpu.architecture not in _INT8_ARCHITECTURES:
        return f"int8 (w8a8) needs an NVIDIA GPU from Turing to Hopper; {gpu.name} is {gpu.architecture}" + (
            "; fp8 works" if "fp8" in gpu.peak_flops_per_second else ""
        )
    if precision.name == "int4" and gpu.architecture not in _INT4_ARCHITECTURES:
        return f"int4 (AWQ, GPTQ) needs NVIDIA Ampere or later; {gpu.name} is {gpu.architecture}"
    if precision.compute not in gpu.peak_flops_per_second:
        needed = {
            "fp8": "fp8 needs Ada, Hopper, Blackwell, CDNA3 or later",
            "bf16": "bf16 needs NVIDIA Ampere or later or AMD CDNA2 or later; fp16 works",
        }.get(precision.compute, f"{precision.name} is not computed by this GPU")
        return f"{needed}; {gpu.name} is {gpu.architecture}"
    return None
