"""Reads benchmark results: CSV, vLLM's serving benchmark, llm-inferno's coefficients, AIBrix' and Mélange's tables.

Formats and columns: docs/calibration.md.
"""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from plimsoll.cli.manifests import FileError
from plimsoll.cli.measurements import Measurement

_TEXT = {
    "model": "model",
    "gpu": "gpu",
    "accelerator": "gpu",
    "tensor": "tensor",
    "tp": "tensor",
    "pipeline": "pipeline",
    "pp": "pipeline",
    "precision": "precision",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "batch": "batch",
    "batch_size": "batch",
    "concurrency": "concurrency",
    "output_tokens_per_second": "output_tokens_per_second",
    "total_tokens_per_second": "total_tokens_per_second",
    "request_rate_per_second": "requests_per_second",
    "requests_per_second": "requests_per_second",
    "request_rate_per_minute": "requests_per_minute",
    "requests_per_minute": "requests_per_minute",
}
"""Column -> field, of those that need no unit or have it in the name."""
_TIMES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "end_to_end": "end_to_end", "e2e": "end_to_end"}
_UNITS = {"seconds": 1.0, "s": 1.0, "milliseconds": 1e-3, "ms": 1e-3}
_INTEGERS = {"tensor", "pipeline"}
_NAMES = {"model", "gpu", "precision"}
_LARGEST = 256 * 2**20
_DIGITS = re.compile(r"(?:(?P<count>[0-9]+)x)?(?P<name>.+)")


@dataclass(frozen=True, slots=True)
class Buckets:
    """What Mélange's tables leave out: mean tokens of each bucket, and the target that the rates were found under."""

    input_tokens: Sequence[float] = ()
    output_tokens: Sequence[float] = ()
    seconds_per_output_token: float | None = None


def read_measurements(path: Path, buckets: Buckets) -> list[Measurement]:
    """The rows of a file, by its name's ending and its contents.

    Raises:
        FileError: it cannot be read, or is none of the formats; the message names file, line and column.
    """
    text = _read(path)
    if path.suffix.lower() == ".csv":
        return list(_csv(path, text))
    documents = list(_json(path, text))
    rows: list[Measurement] = []
    for number, document in enumerate(documents, start=1):
        place = f"{path}:{number}" if len(documents) > 1 else str(path)
        rows.extend(_of_document(place, document, buckets))
    if not rows:
        raise FileError(f"{path}: no row in there")
    return rows


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise FileError(f"{path}: larger than {_LARGEST // 2**20} MiB; save the benchmark without --save-detailed")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: not UTF-8 text") from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error


def _json(path: Path, text: str) -> Iterator[Mapping[str, Any]]:
    """One document, a list of them, or one per line (--append-result)."""
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        if text[at].isspace():
            at += 1
            continue
        try:
            document, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise FileError(
                f"{path}:{text.count(chr(10), 0, error.pos) + 1}: neither JSON nor a name that ends in .csv or .prom: "
                f"{error.msg}"
            ) from error
        for item in document if isinstance(document, list) else [document]:
            if not isinstance(item, Mapping):
                raise FileError(f"{path}: an object is needed, not {json.dumps(item)[:40]}")
            yield item


def _of_document(place: str, document: Mapping[str, Any], buckets: Buckets) -> Iterator[Measurement]:
    inputs = document.get("input")
    inner = inputs if isinstance(inputs, Mapping) else document
    models = inner.get("model")
    models = (models if isinstance(models, Mapping) else inner).get("models")
    try:
        if "model_id" in document and "total_output_tokens" in document:
            yield _vllm(place, document)
        elif isinstance(models, list):
            for number, item in enumerate(models):
                yield from _inferno(f"{place}: models[{number}]", item)
        elif "tputs" in document and "indexes" in document:
            yield from _aibrix(place, document)
        elif "gpu_info" in inner:
            yield from _melange(place, inner["gpu_info"], buckets)
        else:
            raise FileError(
                f"{place}: not known what this is; accepted are results of `vllm bench serve --save-result`, "
                "llm-inferno's model data, AIBrix' profiles and Mélange's tables"
            )
    except (KeyError, IndexError) as error:
        raise FileError(f"{place}: {error.args[0]!r} is missing") from error
    except (TypeError, ValueError) as error:
        raise FileError(f"{place}: {error}") from error


# --- CSV --------------------------------------------------------------------------------------------------------------


def _csv(path: Path, text: str) -> Iterator[Measurement]:
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip(", \t") and not line.lstrip().startswith("#")
    ]
    if len(lines) < 2:
        raise FileError(f"{path}: a header and at least one row are needed")
    columns = [_column(path, name) for name in next(csv.reader([lines[0][1]]))]
    for needed in ("input_tokens", "output_tokens"):
        if not any(field == needed for field, _ in columns):
            raise FileError(f"{path}: no column {needed}")
    for number, line in lines[1:]:
        cells = next(csv.reader([line]))
        if len(cells) > len(columns):
            raise FileError(f"{path}:{number}: {len(cells)} cells and {len(columns)} columns")
        found: dict[str, Any] = {}
        for (name, unit), cell in zip(columns, cells, strict=False):
            if name and cell.strip():
                found[name] = _cell(f"{path}:{number}: column {name}", name, unit, cell.strip())
        for needed in ("input_tokens", "output_tokens"):
            if needed not in found:
                raise FileError(f"{path}:{number}: column {needed} is empty")
        yield _of_cells(f"{path.name}:{number}", found)


def _column(path: Path, given: str) -> tuple[str, float]:
    """Field and unit; no field for a column that is not known."""
    name = re.sub(r"[^a-z0-9]+", "_", given.strip().lower()).strip("_")
    if name in _TEXT:
        return _TEXT[name], 1.0
    for start, field in _TIMES.items():
        if name == start or name.startswith(f"{start}_"):
            unit = name[len(start) + 1 :]
            if unit not in _UNITS:
                accepted = f"{start}_seconds or {start}_milliseconds"
                raise FileError(f'{path}: column "{given.strip()}": the unit must be in the name: {accepted}')
            return field, _UNITS[unit]
    if name in ("request_rate", "throughput"):
        accepted = {
            "request_rate": "request_rate_per_second or request_rate_per_minute",
            "throughput": "output_tokens_per_second, total_tokens_per_second or requests_per_second",
        }[name]
        raise FileError(f'{path}: column "{given.strip()}": the unit must be in the name: {accepted}')
    return "", 1.0


def _cell(place: str, name: str, unit: float, text: str) -> float | int | str:
    if name in _NAMES:
        return text
    try:
        value = float(text)
    except ValueError:
        raise FileError(f'{place}: "{text}" is no number') from None
    if not (isfinite(value) and value > 0) or (name in _INTEGERS and value != int(value)):
        kind = "a whole number" if name in _INTEGERS else "a number"
        raise FileError(f'{place}: "{text}": {kind} above 0 is needed')
    return int(value) if name in _INTEGERS else value * unit


def _of_cells(source: str, found: dict[str, Any]) -> Measurement:
    """Fields as they are measured; units and synonyms resolved."""
    per_minute = found.pop("requests_per_minute", None)
    if per_minute is not None:
        found.setdefault("requests_per_second", per_minute / 60.0)
    total = found.pop("total_tokens_per_second", None)
    if total is not None:
        share = found["output_tokens"] / (found["input_tokens"] + found["output_tokens"])
        found.setdefault("output_tokens_per_second", total * share)
    found.setdefault("tpot", found.pop("itl", None))
    if "requests_per_second" in found and ("batch" in found or "concurrency" in found):
        # Beside a fixed number of requests it is a result, not the load.
        served = found.pop("requests_per_second") * found["output_tokens"]
        found.setdefault("output_tokens_per_second", served)
    return Measurement(source=source, **found)


# --- vLLM -------------------------------------------------------------------------------------------------------------

_METADATA = {
    "gpu": ("gpu", "accelerator"),
    "tensor": ("tensor", "tensor_parallel_size", "tp"),
    "pipeline": ("pipeline", "pipeline_parallel_size", "pp"),
    "precision": ("precision",),
}
"""Keys of --metadata KEY=VALUE."""


def _vllm(place: str, document: Mapping[str, Any]) -> Measurement:
    completed = _positive(document, "completed")
    inputs = _positive(document, "total_input_tokens") / completed
    outputs = _positive(document, "total_output_tokens") / completed
    served = _positive(document, "request_throughput")
    first = _milliseconds(document, "median_ttft_ms") or _milliseconds(document, "mean_ttft_ms")
    tpot = _milliseconds(document, "mean_tpot_ms") or _milliseconds(document, "mean_itl_ms")
    end_to_end = _milliseconds(document, "mean_e2el_ms")
    if end_to_end is None and tpot is not None:
        mean_first = _milliseconds(document, "mean_ttft_ms") or first or 0.0
        end_to_end = mean_first + max(0.0, outputs - 1.0) * tpot
    given = {field: next((document[key] for key in keys if key in document), None) for field, keys in _METADATA.items()}
    most = document.get("max_concurrency")
    most = None if most is None else float(most)
    unpaced = document.get("request_rate") in (None, "inf") or float(document["request_rate"]) == float("inf")
    present = served * end_to_end if end_to_end is not None else None
    concurrency, running = None, None
    if unpaced and most is not None:
        # Fewer near the end of a short run.
        concurrency = most if present is None else min(most, max(1.0, present))
    elif unpaced and tpot is not None:
        # All requests were sent at once: first tokens waited, and so many were decoding (Little).
        running, first, end_to_end = max(1.0, served * max(1.0, outputs - 1.0) * tpot), None, None
    elif present is not None and most is not None:
        running = min(most, 1.0 + present)
    return Measurement(
        source=place,
        input_tokens=inputs,
        output_tokens=outputs,
        model=str(document["model_id"]),
        gpu=None if given["gpu"] is None else str(given["gpu"]),
        tensor=None if given["tensor"] is None else int(given["tensor"]),
        pipeline=None if given["pipeline"] is None else int(given["pipeline"]),
        precision=None if given["precision"] is None else str(given["precision"]),
        concurrency=concurrency,
        running=running,
        requests_per_second=served,
        ttft=first,
        tpot=tpot,
        end_to_end=end_to_end,
    )


def _positive(document: Mapping[str, Any], key: str) -> float:
    value = float(document[key])
    if not (isfinite(value) and value > 0):
        raise ValueError(f"{key} is {document[key]}: a number above 0 is needed")
    return value


def _milliseconds(document: Mapping[str, Any], key: str) -> float | None:
    """Seconds; None when it is absent, or 0 as for answers of one token."""
    value = document.get(key)
    return 1e-3 * float(value) if value is not None and isfinite(float(value)) and float(value) > 0 else None


# --- Rivals -----------------------------------------------------------------------------------------------------------


def _inferno(place: str, item: Mapping[str, Any]) -> Iterator[Measurement]:
    """ITL = alpha + beta * batch and, in the newer form, time to first token = gamma + delta * tokens * batch (ms).

    The lines are read off at powers of two up to maxBatchSize, as batches whose mean context is atTokens. Gamma alone
    (older form) is not used: no unit fits it.
    """
    form = item["perfParms"]
    decode = form.get("decodeParms", form)
    prefill = form.get("prefillParms", form)
    alpha, beta = float(decode["alpha"]), float(decode["beta"])
    matched = _DIGITS.fullmatch(str(item["acc"]))
    count = int(matched["count"] or 1) if matched else 1
    tokens, most = float(item.get("atTokens", 512)), float(item["maxBatchSize"])
    batches = [2.0**power for power in range(20) if 2.0**power <= most]
    for batch in sorted({*batches, most}):
        first = None
        if "delta" in prefill:
            first = 1e-3 * (float(prefill["gamma"]) + float(prefill["delta"]) * 0.5 * tokens * batch)
        yield Measurement(
            source=f"{place} batch {batch:.0f}",
            input_tokens=tokens / 2,
            output_tokens=tokens,
            model=str(item["name"]),
            gpu=matched["name"] if matched else str(item["acc"]),
            tensor=count * int(item.get("accCount", 1)),
            batch=batch,
            ttft=first,
            tpot=1e-3 * (alpha + beta * batch),
        )


def _aibrix(place: str, document: Mapping[str, Any]) -> Iterator[Measurement]:
    """`tputs` and `e2e` by output and input tokens; 0 where the target was missed."""
    outputs, inputs = document["indexes"]
    first = document.get("ttft")
    for row, output in enumerate(outputs):
        for column, prompt in enumerate(inputs):
            rate, seconds = float(document["tputs"][row][column]), float(document["e2e"][row][column])
            if rate > 0 and seconds > 0:
                yield Measurement(
                    source=f"{place}: tputs[{row}][{column}]",
                    input_tokens=float(prompt),
                    output_tokens=float(output),
                    gpu=str(document["gpu"]),
                    requests_per_second=rate,
                    ttft=float(first[row][column]) or None if first else None,
                    end_to_end=seconds,
                )


def _melange(place: str, gpus: Mapping[str, Any], buckets: Buckets) -> Iterator[Measurement]:
    """Highest rates at which a request takes the target per output token on average: so it takes just that."""
    target = buckets.seconds_per_output_token
    if target is None or not buckets.input_tokens or not buckets.output_tokens:
        raise FileError(
            f"{place}: Mélange's tables name neither lengths nor target: give --bucket-inputs, --bucket-outputs and "
            "--bucket-tpot-milliseconds"
        )
    for name, item in gpus.items():
        table = item["tputs"]
        if len(table) != len(buckets.input_tokens) or any(len(row) != len(buckets.output_tokens) for row in table):
            raise FileError(
                f"{place}: {name}: the table has {len(table)} × {len(table[0])} buckets of input and output, and "
                f"{len(buckets.input_tokens)} and {len(buckets.output_tokens)} lengths are given"
            )
        for row, prompt in zip(table, buckets.input_tokens, strict=True):
            for rate, output in zip(row, buckets.output_tokens, strict=True):
                if float(rate) > 0:
                    yield Measurement(
                        source=f"{place}: {name} {prompt:.0f}/{output:.0f}",
                        input_tokens=prompt,
                        output_tokens=output,
                        gpu=name,
                        requests_per_second=float(rate),
                        end_to_end=output * target,
                    )
