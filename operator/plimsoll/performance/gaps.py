"""What measurements leave out, and what that leaves uncertain."""

from collections.abc import Sequence
from dataclasses import dataclass

from plimsoll.performance.observations import Observation

_FEW = 7
"""Rows of one model at one degree that published coefficients turn into usable ones (docs/calibration.md)."""
_ALONE = 1.5
_CROWDED = 16.0
_LONG = 2000.0
_SPAN = 4.0


@dataclass(frozen=True, slots=True)
class Gap:
    """Data that are missing."""

    missing: str
    uncertain: str
    """What therefore rests on published coefficients."""


def gaps(rows: Sequence[Observation]) -> tuple[Gap, ...]:
    """The gaps of some rows of one model and GPU, the most telling first."""
    found: list[Gap] = []
    company = [row.company for row in rows]
    contexts = [row.input_tokens + row.output_tokens / 2 for row in rows]
    if len(rows) < _FEW:
        found.append(
            Gap(f"{len(rows)} rows only", f"everything: {_FEW} rows that differ in batch and length are a start")
        )
    if min(company) > _ALONE:
        found.append(Gap("no row with batch 1", "what a step costs before it has many sequences: latency at low load"))
    if max(company) < _CROWDED:
        found.append(Gap(f"no row with batch {_CROWDED:.0f} or more", "time per sequence: throughput at high load"))
    if not any(row.measured.ttft is not None or row.output_tokens <= 1 for row in rows):
        found.append(Gap("no time to first token", "prefill: time to first token, and rates of long prompts"))
    if max(row.input_tokens for row in rows) < _LONG:
        found.append(
            Gap(
                "no rows with long prompts",
                f"prefill and attention beyond {max(row.input_tokens for row in rows):.0f} tokens",
            )
        )
    if max(contexts) < _SPAN * min(contexts):
        found.append(Gap("rows of about one length only", "the KV cache's share of a step: long conversations"))
    degrees = sorted({row.shape.parallelism.tensor for row in rows})
    if len(degrees) == 1:
        found.append(Gap(f"one tensor degree only ({degrees[0]})", "all-reduces: other tensor degrees"))
    precisions = sorted({row.shape.precision.name for row in rows})
    if all(row.shape.precision.bytes_per_parameter >= 2.0 for row in rows):
        found.append(Gap(f"no quantised weights ({', '.join(precisions)})", "fp8, int8 and int4"))
    elif len(precisions) == 1:
        found.append(Gap(f"one precision only ({precisions[0]})", "other precisions"))
    if all(row.batch for row in rows):
        found.append(Gap("no rows in which requests come and go", "prompts that ride in the steps of others"))
    return tuple(found)
