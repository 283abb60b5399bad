"""vLLM's own command line, so that the emulator can stand where `vllm serve` stands."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plimsoll.catalog import load_catalog
from plimsoll.catalog.catalog import UnknownName
from plimsoll.emulator.config import EmulatorError, EndpointConfig, endpoint_config

_SHORT = {"-tp": "tensor-parallel-size", "-pp": "pipeline-parallel-size"}
_NUMBERS = {
    "tensor-parallel-size": "tensor",
    "pipeline-parallel-size": "pipeline",
    "max-num-seqs": "max_num_seqs",
    "max-num-batched-tokens": "max_num_batched_tokens",
    "max-model-len": "max_model_length",
    "port": "port",
    "stream-interval": "stream_interval",
    "seed": "seed",
}
_FRACTIONS = {
    "gpu-memory-utilization": "gpu_memory_utilization",
    "shutdown-timeout": "shutdown_timeout_seconds",
}
_PRECISIONS = {
    "dtype": {"auto": None, "bfloat16": "bf16", "float16": "fp16", "half": "fp16"},
    # What a checkpoint is quantised to is known from its name; the flag only says by which method.
    "quantization": {"fp8": "fp8", "awq": None, "awq_marlin": None, "gptq": None, "gptq_marlin": None, "mxfp4": None},
}
_SWITCHES = """
aggregate-engine-logging allow-credentials allow-deprecated-quantization async-scheduling calculate-kv-scales
cudagraph-metrics data-parallel-external-lb data-parallel-hybrid-lb disable-cascade-attn disable-chunked-mm-input
disable-custom-all-reduce disable-fastapi-docs disable-frontend-multiprocessing disable-hybrid-kv-cache-manager
disable-log-requests disable-log-stats disable-nccl-for-dp-synchronization disable-sliding-window
disable-uvicorn-access-log enable-auto-tool-choice enable-chunked-prefill enable-dbo enable-eplb
enable-expert-parallel enable-force-include-usage enable-layerwise-nvtx-tracing enable-log-deltas
enable-log-outputs enable-log-requests enable-lora enable-lora-bias enable-mfu-metrics
enable-multimodal-encoder-data-parallel enable-prefix-caching enable-prompt-embeds enable-prompt-tokens-details
enable-reasoning enable-request-id-headers enable-return-routed-experts enable-server-load-tracking
enable-sleep-mode enable-ssl-refresh enable-tokenizer-info-endpoint enforce-eager
exclude-tools-when-tool-choice-none fully-sharded-loras headless interleave-mm-strings kv-cache-metrics
kv-sharing-fast-prefill language-model-only multi-step-stream-outputs ray-workers-use-nsight
return-tokens-as-token-ids skip-mm-profiling skip-tokenizer-init trust-remote-code use-tqdm-on-load
use-v2-block-manager
"""
"""Flags of vLLM without a value, as is every `--no-...`: the word after one is no part of it."""
_MULTIPLES = {"k": 10**3, "m": 10**6, "K": 2**10, "M": 2**20}
"""As vLLM reads them: small letters are decimal, capital ones binary."""


@dataclass(frozen=True, slots=True)
class VllmCommand:
    """What `vllm serve ...` asks for."""

    config: EndpointConfig
    ignored: tuple[str, ...]
    """Flags that change nothing here, with their values."""


def parse_vllm(arguments: Sequence[str], gpu: str, **defaults: Any) -> VllmCommand:  # noqa: ANN401  (fields)
    """`serve MODEL --flag value ...`, perhaps after `vllm`; `defaults` are fields that vLLM has no flag for.

    Flags that decide about speed, memory, names, port and shutdown are honoured; every other one is ignored and
    reported. Without a flag vLLM's own default holds for the host (all addresses), the port (8000), the longest
    sequence (the model's context) and the shutdown (at once).

    Raises:
        EmulatorError: it is not `serve` with a model, or a honoured flag has a value that vLLM would refuse.
    """
    words = list(arguments)
    if words[:1] == ["vllm"]:
        words = words[1:]
    if words[:1] != ["serve"]:
        raise EmulatorError(f"{' '.join(arguments)!r}: `serve MODEL [flags]` is accepted")
    fields: dict[str, Any] = {"host": "0.0.0.0", "port": 8000, "shutdown_timeout_seconds": 0.0}  # noqa: S104
    models: list[str] = []
    ignored: list[str] = []
    for flag, values in _flags(words[1:]):
        if not flag:
            models += values
        elif flag == "served-model-name":
            fields["served_model_names"] = tuple(values)
        elif flag in _NUMBERS or flag in _FRACTIONS or flag in _PRECISIONS or flag in ("host", "model"):
            value = _only(flag, values)
            if flag == "model":
                models.append(value)
            elif flag in _PRECISIONS:
                precision = _named(flag, value, _PRECISIONS[flag])
                fields["precision"] = precision or fields.get("precision")
            elif flag in _NUMBERS:
                fields[_NUMBERS[flag]] = _whole(flag, value)
            elif flag in _FRACTIONS:
                fields[_FRACTIONS[flag]] = _fraction(flag, value)
            else:
                fields[flag] = value
        else:
            ignored.append(" ".join((f"--{flag}", *values)))
    if len(models) != 1:
        hint = "" if models else ": write it right after `serve`, since a flag takes the words that follow it"
        named = f" ({', '.join(models)})" if models else ""
        raise EmulatorError(f"`vllm serve` names {len(models)} models{named}; one is accepted{hint}")
    config = endpoint_config(**{**defaults, **fields, "model": models[0], "gpu": gpu})
    if config.max_model_length is None:
        config = config.model_copy(update={"max_model_length": _context_length(config.model)})
    return VllmCommand(config, tuple(ignored))


def _flags(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag with the words up to the next one; words that belong to none come under an empty name."""
    flag, values = "", list[str]()
    for word in words:
        name = _SHORT.get(word)
        if name is None and word.startswith("--"):
            name = word[2:]
        if name is None:
            switch = flag in _SWITCHES.split() or flag.startswith("no-")
            # Older versions took `--enable-chunked-prefill False`.
            if switch and (values or word.lower() not in ("true", "false")):
                yield flag, values
                flag, values = "", []
            values.append(word)
            continue
        if flag or values:
            yield flag, values
        flag, _, value = name.partition("=")
        flag, values = flag.replace("_", "-"), [value] if value else []
    if flag or values:
        yield flag, values


def _only(flag: str, values: Sequence[str]) -> str:
    if len(values) != 1:
        raise EmulatorError(f"--{flag}: {' '.join(values) or 'no value'}; one value is accepted")
    return values[0]


def _whole(flag: str, value: str) -> int:
    number, factor = (value[:-1], _MULTIPLES[value[-1]]) if value[-1:] in _MULTIPLES else (value, 1)
    try:
        return round(float(number) * factor) if factor > 1 else int(number)
    except ValueError as error:
        raise EmulatorError(f"--{flag}: {value!r}; a whole number is accepted (32768, 32k or 32K)") from error


def _fraction(flag: str, value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise EmulatorError(f"--{flag}: {value!r}; a number is accepted") from error


def _named(flag: str, value: str, known: Mapping[str, str | None]) -> str | None:
    if value not in known:
        raise EmulatorError(f"--{flag}: {value!r}; accepted are {', '.join(known)}")
    return known[value]


def _context_length(model: str) -> int | None:
    catalog = load_catalog()
    try:
        return catalog.model(model).context_length
    except UnknownName:
        bases = (item for item in catalog.models.values() if model in item.checkpoints.values())
        return next((item.context_length for item in bases), None)
