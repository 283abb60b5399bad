"""The operator on a real control plane: with a fleet as teams have it, and at the promised size."""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks import operator_fleet, operator_scale, ranges
from benchmarks.results import RESULTS, Figure, Table
from devcluster.binaries import all_binaries

PARTS: dict[str, Callable[[], tuple[list[Figure], list[str]]]] = {
    "fleet": operator_fleet.run,
    "scale": operator_scale.run,
}


def run(part: str | None = None) -> tuple[list[Figure], list[str], list[Table]]:
    """Measure.

    Args:
        part: only this one; the figures of the other stay as they were measured last.
    """
    all_binaries()
    figures, notes = [], []
    for name, measure in PARTS.items():
        if part in (None, name):
            found, said = measure()
            for line in ranges.outside(found):
                print(f"  {line}", flush=True)
        else:
            found, said = _measured_last(name)
        figures += found
        notes += said
    return figures, notes, []


def _measured_last(part: str) -> tuple[list[Figure], list[str]]:
    path = RESULTS / "operator.json"
    document = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"figures": [], "notes": []}
    of_scale = part == "scale"
    figures = [
        Figure(item["name"], item["value"], item["unit"], item["target"])
        for item in document["figures"]
        if item["name"].startswith(operator_scale.PREFIX) == of_scale
    ]
    return figures, [note for note in document["notes"] if note.startswith(operator_scale.NOTE) == of_scale]
