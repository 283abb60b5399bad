"""The operator on a real control plane: with a fleet as teams have it, and at the promised size, and following load."""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks import operator_fleet, operator_reaction, operator_scale, ranges
from benchmarks.results import RESULTS, Figure, Table
from devcluster.binaries import all_binaries

PARTS: dict[str, Callable[[], tuple[list[Figure], list[str]]]] = {
    "fleet": operator_fleet.run,
    "scale": operator_scale.run,
    "reaction": operator_reaction.run,
}
_MARKS = {
    "scale": (operator_scale.PREFIX, operator_scale.NOTE),
    "reaction": (operator_reaction.PREFIX, operator_reaction.NOTE),
}
"""How the names of figures and the notes begin; those of the fleet begin otherwise."""


def run(part: str | None = None) -> tuple[list[Figure], list[str], list[Table]]:
    """Measure.

    Args:
        part: only this one; the figures of the others stay as they were measured last.
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
    figures = [
        Figure(item["name"], item["value"], item["unit"], item["target"])
        for item in document["figures"]
        if _part_of(item["name"]) == part
    ]
    return figures, [note for note in document["notes"] if _part_of(note) == part]


def _part_of(text: str) -> str:
    return next((part for part, marks in _MARKS.items() if text.startswith(marks)), "fleet")
