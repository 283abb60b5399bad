"""Readers of published request traces. Each yields requests one by one, with the first arrival at 0 s.

Formats: Azure LLM inference 2023 (CSV), Mooncake (JSON lines), BurstGPT (CSV), and ServeGen's rates over time with
token statistics (two CSV tables).
"""

import csv
import json
import math
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

from plimsoll.simulation.lengths import LognormalLength
from plimsoll.simulation.traffic import RateCurve, Request, stepwise, synthetic

_AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_AZURE_TIME = "a time like 2023-11-16 18:15:46.6805900"
_MOONCAKE = ("timestamp", "input_length", "output_length")
_BURSTGPT = ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type")
_SERVEGEN_RATES = ("category", "model", "t_seconds", "total_rate_req_per_s")
_SERVEGEN_STATISTICS = ("category", "model", "field", "mean", "p50")
_FORMATS = (
    "Azure 2023 (CSV: TIMESTAMP, ContextTokens, GeneratedTokens), BurstGPT (CSV: Timestamp, Model, Request tokens, "
    "Response tokens, …), Mooncake (JSON lines: timestamp, input_length, output_length)"
)


class TraceError(ValueError):
    """A trace file is not what it should be; the message names the file, the line and what is accepted."""


def read_trace(path: Path, traffic_class: str) -> Iterator[Request]:
    """A trace whose format is told from its first line: Azure, BurstGPT or Mooncake.

    Raises:
        TraceError: none of them, or a malformed line (while iterating).
    """
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    columns = {name.strip() for name in first.split(",")}
    if columns.issuperset(_AZURE):
        return read_azure(path, traffic_class)
    if columns.issuperset(_BURSTGPT[:4]):
        return read_burstgpt(path, traffic_class)
    if first.lstrip().startswith("{") and "input_length" in first:
        return read_mooncake(path, traffic_class)
    raise TraceError(f"{path}: line 1 is {first[:80]!r}; accepted are {_FORMATS}")


def read_azure(path: Path, traffic_class: str) -> Iterator[Request]:
    """Azure LLM inference trace 2023: wall-clock times to 100 ns. Zero tokens count as one."""
    return _csv_requests(path, traffic_class, _AZURE, _azure_seconds, _AZURE_TIME, skip_empty=False)


def read_burstgpt(path: Path, traffic_class: str) -> Iterator[Request]:
    """BurstGPT. Rows with an empty answer are failed calls and are left out, as its authors advise."""
    columns = (_BURSTGPT[0], _BURSTGPT[2], _BURSTGPT[3])
    return _csv_requests(path, traffic_class, columns, _plain_seconds, "seconds", skip_empty=True)


def read_mooncake(path: Path, traffic_class: str) -> Iterator[Request]:
    """Mooncake: times in milliseconds. Its prefix hashes are not used: no prefix cache is simulated."""
    start: float | None = None
    last = -math.inf
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            place = f"{path}: line {number}"
            try:
                row = json.loads(line)
                fields = [row[name] for name in _MOONCAKE]
            except (ValueError, KeyError, TypeError) as error:
                accepted = f"a JSON object with {', '.join(_MOONCAKE)}"
                raise TraceError(f"{place}: {line.strip()[:80]!r}; {accepted} is accepted") from error
            seconds = _number(fields[0], place, _MOONCAKE[0]) / 1000.0
            inputs, outputs = (_tokens(*pair) for pair in zip(fields[1:], (place, place), _MOONCAKE[1:], strict=True))
            _check_rising(seconds, last, place, _MOONCAKE[0])
            start, last = (seconds if start is None else start), seconds
            yield Request(seconds - start, traffic_class, max(1, inputs), max(1, outputs))


def read_servegen_rates(path: Path, category: str, model: str) -> RateCurve:
    """ServeGen's request rate of one model: a step for each window.

    Raises:
        TraceError: the table has no such model.
    """
    rows = _servegen_rows(path, _SERVEGEN_RATES, category, model)
    places = [f"{path}: {category}/{model}, row {number}" for number in range(1, len(rows) + 1)]
    seconds, rates = (
        [_number(row[column], place, column) for row, place in zip(rows, places, strict=True)]
        for column in _SERVEGEN_RATES[2:]
    )
    if len(seconds) < 2:
        raise TraceError(f"{path}: {category}/{model} has one window only; at least 2 are needed")
    if seconds[1] <= seconds[0]:
        raise TraceError(
            f"{places[1]}: column t_seconds is {seconds[1]:g}; times that rise by equal steps are accepted"
        )
    return stepwise(rates, seconds[1] - seconds[0])


def read_servegen_lengths(path: Path, category: str, model: str) -> tuple[LognormalLength, LognormalLength]:
    """Prompt and answer lengths of one model: lognormal by ServeGen's mean and median.

    Raises:
        TraceError: the table has no such model or lacks one of its two fields.
    """
    rows = {row["field"]: row for row in _servegen_rows(path, _SERVEGEN_STATISTICS, category, model)}
    found = []
    for field in ("input_tokens", "output_tokens"):
        if field not in rows:
            raise TraceError(f"{path}: {category}/{model} has no field {field}; it has {', '.join(sorted(rows))}")
        mean, median = float(rows[field]["mean"]), float(rows[field]["p50"])
        found.append(LognormalLength.of_median(mean, min(mean, median)))
    return found[0], found[1]


def read_servegen(
    rates: Path,
    statistics: Path,
    category: str,
    model: str,
    traffic_class: str,
    *,
    burstiness: float = 1.0,
    seed: int = 0,
) -> Iterator[Request]:
    """Arrivals drawn under ServeGen's rate of one model, with lengths by its token statistics."""
    inputs, outputs = read_servegen_lengths(statistics, category, model)
    curve = read_servegen_rates(rates, category, model)
    return synthetic(traffic_class, curve, inputs, outputs, burstiness=burstiness, seed=seed)


def _csv_requests(
    path: Path,
    traffic_class: str,
    columns: tuple[str, ...],
    to_seconds: Callable[[str], float],
    time_format: str,
    *,
    skip_empty: bool,
) -> Iterator[Request]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        if not set(header).issuperset(columns):
            raise TraceError(f"{path}: line 1 names {', '.join(header)}; {', '.join(columns)} are needed")
        at, inputs_at, outputs_at = (header.index(name) for name in columns)
        start: float | None = None
        last = -math.inf
        for row in rows:
            if not row:
                continue
            place = f"{path}: line {rows.line_num}"
            if len(row) < len(header):
                raise TraceError(f"{place}: {len(row)} columns; {len(header)} are needed: {', '.join(header)}")
            try:
                seconds = to_seconds(row[at])
            except ValueError as error:
                raise TraceError(f"{place}: column {columns[0]} is {row[at]!r}; {time_format} is accepted") from error
            inputs, outputs = _tokens(row[inputs_at], place, columns[1]), _tokens(row[outputs_at], place, columns[2])
            _check_rising(seconds, last, place, columns[0])
            last = seconds
            if skip_empty and outputs == 0:
                continue
            start = seconds if start is None else start
            yield Request(seconds - start, traffic_class, max(1, inputs), max(1, outputs))


def _tokens(value: object, place: str, column: str) -> int:
    try:
        tokens = int(str(value))
    except ValueError:
        tokens = -1
    if tokens < 0:
        raise TraceError(f"{place}: column {column} is {value!r}; whole numbers from 0 are accepted")
    return tokens


def _number(value: object, place: str, column: str) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not 0.0 <= number < math.inf:
        raise TraceError(f"{place}: column {column} is {value!r}; numbers from 0 are accepted")
    return number


def _check_rising(seconds: float, last: float, place: str, column: str) -> None:
    if seconds < last:
        before = f"{last - seconds:.3f} s before the line above"
        raise TraceError(f"{place}: column {column} is {before}; rising times are accepted")


def _azure_seconds(text: str) -> float:
    """Of a time like 2023-11-16 18:15:46.6805900, since some midnight."""
    day, _, clock = text.strip().partition(" ")
    hours, minutes, seconds = clock.split(":")
    return date.fromisoformat(day).toordinal() * 86400.0 + int(hours) * 3600 + int(minutes) * 60 + float(seconds[:9])


def _plain_seconds(text: str) -> float:
    seconds = float(text)
    if not math.isfinite(seconds):
        raise ValueError(text)
    return seconds


def _servegen_rows(path: Path, columns: tuple[str, ...], category: str, model: str) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        header = table.fieldnames or []
        if not set(header).issuperset(columns):
            raise TraceError(f"{path}: line 1 names {', '.join(header)}; {', '.join(columns)} are needed")
        rows = list(table)
    found = [row for row in rows if (row["category"], row["model"]) == (category, model)]
    if not found:
        known = sorted({f"{row['category']}/{row['model']}" for row in rows})
        raise TraceError(f"{path}: no {category}/{model}; it has {', '.join(known)}")
    return found
