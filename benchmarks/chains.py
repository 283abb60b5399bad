"""Models split over distant servers: the published comparison again, a fair one, losses, and the time of decisions.

Each part keeps what it found in results/chains/, so that one can be made anew alone; the comparison goes on where it
ended (results/chains/comparison.csv).
"""

from __future__ import annotations

import json
from collections.abc import Callable

from benchmarks import chains_comparison, chains_failures, chains_reproduction, chains_speed
from benchmarks.results import RESULTS, Figure, Table

Found = tuple[list[Figure], list[str], list[Table]]
COMPARISON_SECONDS = 900.0
"""Wall clock for the comparison in one go; what is missing then is run the next time."""
PARTS: dict[str, Callable[[], Found]] = {
    "reproduction": chains_reproduction.run,
    "comparison": lambda: chains_comparison.run(COMPARISON_SECONDS),
    "losses": chains_failures.run,
    "decisions": chains_speed.decisions,
    "optimum": chains_speed.optimum,
}


def run(part: str | None = None) -> Found:
    """Measure.

    Args:
        part: only this one; what the others found stays as it was measured last.
    """
    figures, notes, tables = list[Figure](), list[str](), list[Table]()
    for name, measure in PARTS.items():
        if part in (None, name):
            found = measure()
            _keep(name, found)
        else:
            found = _kept(name)
        figures += found[0]
        notes += found[1]
        tables += found[2]
    return figures, notes, tables


def _keep(part: str, found: Found) -> None:
    figures, notes, tables = found
    document = {
        "figures": [[each.name, each.value, each.unit, each.target] for each in figures],
        "notes": notes,
        "tables": [each.document() for each in tables],
    }
    path = RESULTS / "chains" / f"{part}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _kept(part: str) -> Found:
    path = RESULTS / "chains" / f"{part}.json"
    if not path.exists():
        return [], [f"The part {part} has not been measured yet."], []
    document = json.loads(path.read_text(encoding="utf-8"))
    return (
        [Figure(*each) for each in document["figures"]],
        document["notes"],
        [
            Table(each["title"], tuple(each["columns"]), [tuple(row) for row in each["rows"]])
            for each in document["tables"]
        ],
    )
